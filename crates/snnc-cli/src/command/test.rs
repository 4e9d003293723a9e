//! `snnc test`: programs with what is expected of them in comments; [`super::filetest`] is the text form.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use snnc::session::{Reply, Session, show};
use snnc::{CompileOptions, Dims, Error, Mode, Program, Severity, Tensor};

use super::emit::EmitOptions;
use super::filetest::{Case, agrees, blessed, cases, difference, words};
use super::{Failure, ModeName, load_wanted, machine_memory, parse_dims, parse_setting, read_text};
use crate::command::say::{remark, remark_part, say};

#[derive(Args)]
pub struct TestArguments {
    /// Programs (`.snn`) and graphs (`.ir`) with tests, and folders of such files.
    #[arg(required = true, value_name = "DIR|FILE")]
    paths: Vec<PathBuf>,
    /// Write what the commands say as what is expected.
    #[arg(long)]
    bless: bool,
}

/// A line `// test: ...`.
#[derive(Parser)]
#[command(name = "// test:", no_binary_name = true, disable_help_subcommand = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// All errors and warnings of the program.
    Check {
        /// What it is checked for.
        #[arg(long, value_enum, default_value_t = ModeName::Eval)]
        mode: ModeName,
    },
    /// What the compiler makes of a net, or of the graph of an `.ir` file.
    Emit(Box<EmitOptions>),
    /// The rules of the IR that the graph of an `.ir` file breaks.
    Verify,
    /// The outputs of a net.
    Run(RunOptions),
    /// Entries as at the prompt, with what the program defines: the last value.
    Eval {
        /// The entries.
        #[arg(required = true)]
        entries: Vec<String>,
        /// The seed of parameters and random operations.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// By how much numbers may differ.
        #[arg(long, default_value_t = 0.0)]
        tolerance: f64,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Show {
    /// All values.
    Values,
    /// A line for each neuron and a character for each step.
    Raster,
    /// How often a spike is 1, over all, and of the quietest and the busiest neuron.
    Rates,
}

#[derive(Args)]
struct RunOptions {
    /// Which net.
    #[arg(long)]
    net: Option<String>,
    /// An input as an expression of the language: `x=[[2.5], [0.0]]`. May be given several times.
    #[arg(long, value_name = "NAME=EXPRESSION")]
    input: Vec<String>,
    /// Files of inputs, beside the program.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    data: Vec<String>,
    /// Files of parameters, beside the program.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    weights: Vec<String>,
    /// Evaluation or training.
    #[arg(long, value_enum, default_value_t = ModeName::Eval)]
    mode: ModeName,
    /// The seed of parameters that are not given, and of random operations.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A setting of the net. May be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    set: Vec<(String, snnc::Setting)>,
    /// Sizes of dimensions that no input gives.
    #[arg(long, value_name = "T=16,B=64", value_parser = parse_dims)]
    dims: Option<Dims>,
    /// How outputs are shown.
    #[arg(long, value_enum, default_value_t = Show::Values)]
    show: Show,
    /// By how much numbers may differ.
    #[arg(long, default_value_t = 0.0)]
    tolerance: f64,
}

pub fn test(a: &TestArguments) -> Result<(), Failure> {
    let mut files = Vec::new();
    for path in &a.paths {
        if path.is_dir() {
            find(path, &mut files)?;
        } else {
            files.push(path.clone());
        }
    }
    let (mut count, mut failed, mut tested, mut changed) = (0, 0, 0, 0);
    for path in files.iter().take_while(|_| !snn_ir::interrupt::is_wanted()) {
        let text = read_text(path)?;
        let cases = cases(&text);
        if cases.is_empty() {
            if a.paths.contains(path) {
                let help =
                    format!("write `// test: check` or `// test: run --input x=...` below, then `snnc test --bless {}`", path.display());
                return Err(Failure::Text(format!("`{}` has no test: {help}", path.display())));
            }
            continue;
        }
        tested += 1;
        count += cases.len();
        let mut said = Vec::new();
        for case in &cases {
            let at = format!("{}:{}", path.display(), case.line + 1);
            let (found, tolerance) = says(path, &text, case).map_err(|e| Failure::Text(format!("{at}: {e}")))?;
            match &case.expected {
                // What agrees is kept as it is, or noise within the tolerance would change the file.
                Some(expected) if agrees(expected, &found, tolerance) => said.push(expected.clone()),
                _ if a.bless => said.push(found),
                Some(expected) => {
                    failed += 1;
                    remark!("{at}: `{}`", case.command);
                    remark_part!("{}", difference(expected, &found));
                }
                None => {
                    failed += 1;
                    remark!("{at}: `{}` has no expected text below it; `snnc test --bless {}` writes it", case.command, path.display());
                }
            }
        }
        if a.bless {
            let new = blessed(&text, &cases, &said);
            if new != text {
                super::replace(path, &new)?;
                changed += 1;
            }
        }
    }
    if tested == 0 {
        return Err(Failure::Text("there is no file with a line `// test: ...`".into()));
    }
    let plural = |n: usize, what: &str| if n == 1 { format!("{n} {what}") } else { format!("{n} {what}s") };
    let all = format!("{} in {}", plural(count, "test"), plural(tested, "file"));
    if snn_ir::interrupt::is_wanted() {
        return Err(Failure::Text(format!("interrupted after {all}, of which {failed} failed; there are {} files", files.len())));
    }
    match (failed, a.bless) {
        (0, false) => say!("{all}: all as expected"),
        (0, true) => say!("{all}: {} changed", plural(changed, "file")),
        _ => return Err(Failure::Text(format!("{failed} of {all} failed; `--bless` takes what was found as what is expected"))),
    }
    Ok(())
}

/// All programs and graphs of a folder, in order of their names.
fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let cannot = |e: std::io::Error| Failure::Text(format!("cannot read the folder `{}`: {e}", folder.display()));
    let entries = std::fs::read_dir(folder).map_err(cannot)?;
    let mut paths = entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(cannot)?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "snn" || e == "ir") {
            files.push(path);
        }
    }
    Ok(())
}

/// What the command of a test says, and by how much its numbers may differ. An error of the program is a text like any other.
///
/// # Errors
/// A command that is none.
fn says(path: &Path, text: &str, case: &Case) -> Result<(String, f64), String> {
    let line = Line::try_parse_from(words(&case.command)?).map_err(|e| e.render().to_string().trim_end().to_string())?;
    let tolerance = match &line.command {
        Command::Run(options) => options.tolerance,
        Command::Eval { tolerance, .. } => *tolerance,
        Command::Check { .. } | Command::Emit(_) | Command::Verify => 0.0,
    };
    if !(tolerance >= 0.0 && tolerance.is_finite()) {
        return Err(format!("`--tolerance` is {tolerance}: it is at least 0"));
    }
    let said = match said(path, text, &line.command) {
        Ok(said) => said,
        Err(Failure::Error(Error::Source { sources, diagnostics })) => sources.render(&diagnostics, false),
        Err(Failure::Error(e)) => format!("Error: {e}"),
        Err(Failure::Text(e)) => format!("Error: {e}"),
        Err(Failure::Said) => String::new(),
    };
    Ok((said, tolerance))
}

fn said(path: &Path, text: &str, command: &Command) -> Result<String, Failure> {
    // Messages call the file by its name, wherever it is.
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_string();
    let is_graph = path.extension().is_some_and(|e| e == "ir");
    let graph = || snn_ir::text::parse(text).map_err(|e| Failure::Text(format!("{name}: {e}")));
    match command {
        Command::Emit(options) if is_graph => options.text_of_graph(text, &graph()?),
        Command::Verify if is_graph => Ok(match snn_ir::verify(&graph()?) {
            Ok(()) => "no errors".into(),
            Err(errors) => errors.located(text),
        }),
        Command::Verify => Err(Failure::Text("`verify` is for `.ir` files; `emit --verify` looks at a program's graph".into())),
        Command::Check { .. } | Command::Run(_) | Command::Eval { .. } if is_graph => {
            Err(Failure::Text("an `.ir` file has `verify` and `emit` tests".into()))
        }
        Command::Emit(options) => options.text(&Program::parse(&name, text)?),
        Command::Check { mode } => {
            let program = Program::parse(&name, text)?;
            let diagnostics = program.check((*mode).into());
            let errors = diagnostics.iter().any(|d| d.severity == Severity::Error);
            Ok(program.render(&diagnostics, false) + if errors { "" } else { "no errors" })
        }
        Command::Run(options) => run(path, &Program::parse(&name, text)?, options),
        Command::Eval { entries, seed, .. } => {
            let mut session = Session::new(CompileOptions::default().seed(*seed));
            session.define(&name, text)?;
            let mut last = String::new();
            for entry in entries {
                last = match session.enter(entry)? {
                    Reply::Values(values) => super::repl::values_text(&values),
                    Reply::Said(text) => text,
                };
            }
            Ok(last)
        }
    }
}

fn run(path: &Path, program: &Program, o: &RunOptions) -> Result<String, Failure> {
    let options = CompileOptions::default()
        .mode(Mode::from(o.mode))
        .dims(o.dims.clone().unwrap_or_default())
        .seed(o.seed)
        .settings(o.set.iter().cloned().collect())
        .memory_limit(machine_memory());
    let net = program.compile(o.net.as_deref(), &options)?;
    let mut session = Session::new(CompileOptions::default().seed(o.seed));
    let mut inputs = Vec::new();
    for input in &o.input {
        let Some((name, expression)) = input.split_once('=') else {
            return Err(Failure::Text(format!("`{input}` is not `NAME=EXPRESSION`")));
        };
        match session.enter(expression)? {
            Reply::Values(mut values) if values.len() == 1 => inputs.push((name.trim().to_string(), values.remove(0).1)),
            _ => return Err(Failure::Text(format!("`{expression}` is not one value"))),
        }
    }
    let beside = |files: &[String]| -> Vec<String> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let joined = |f: &str| folder.join(f).display().to_string();
        files.iter().map(|f| f.split_once('=').map_or_else(|| joined(f), |(n, f)| format!("{n}={}", joined(f)))).collect()
    };
    let names = net.names()?;
    inputs.extend(load_wanted(&beside(&o.data), &|n| names.iter().any(|k| k == n), machine_memory())?.tensors);
    let weights = load_wanted(&beside(&o.weights), &|_| true, machine_memory())?.tensors;
    let outputs = net.run(&inputs, &weights)?.outputs;
    let many = outputs.len() > 1;
    let mut lines = Vec::new();
    for (name, tensor) in &outputs {
        let text = match o.show {
            Show::Values => show(tensor),
            Show::Raster => raster(name, tensor)?,
            Show::Rates => rates(name, tensor)?,
        };
        lines.push(if many { format!("{name} = {text}") } else { text });
    }
    Ok(lines.join("\n"))
}

/// Spikes `[T, ...]` as steps of all neurons.
fn spikes(name: &str, t: &Tensor) -> Result<(usize, usize, Vec<f32>), Failure> {
    let values = t.to_f32();
    if t.shape().is_empty() || values.iter().any(|x| *x != 0.0 && *x != 1.0) {
        return Err(Failure::Text(format!("`{name}` is not spikes (0 and 1) over time; `--show values` shows any numbers")));
    }
    let steps = t.shape()[0];
    Ok((steps, t.shape()[1..].iter().product(), values))
}

fn raster(name: &str, t: &Tensor) -> Result<String, Failure> {
    let (steps, neurons, values) = spikes(name, t)?;
    let mut text = t.ty().to_string();
    for neuron in 0..neurons {
        let marks: String = (0..steps).map(|s| if values[s * neurons + neuron] == 0.0 { '.' } else { '|' }).collect();
        text.push_str(&format!("\n{neuron:>4} {marks}"));
    }
    Ok(text)
}

fn rates(name: &str, t: &Tensor) -> Result<String, Failure> {
    let (steps, neurons, values) = spikes(name, t)?;
    if steps == 0 || neurons == 0 {
        return Ok("no steps or no neurons".into());
    }
    let rate = |neuron: usize| (0..steps).map(|s| f64::from(values[s * neurons + neuron])).sum::<f64>() / steps as f64;
    let all: Vec<f64> = (0..neurons).map(rate).collect();
    let (least, most) = all.iter().fold((f64::INFINITY, 0.0f64), |(l, m), x| (l.min(*x), m.max(*x)));
    let mean = all.iter().sum::<f64>() / neurons as f64;
    Ok(format!("{neurons} neurons, spikes a step: mean {mean:.4}, least {least:.4}, most {most:.4}"))
}
