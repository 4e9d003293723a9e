//! Arguments, and what each sub-command does.

mod bench;
mod build;
mod cost;
mod diff;
mod editing;
mod emit;
mod events;
mod filetest;
mod nir;
mod plot;
mod quantise;
mod repl;
mod run;
mod say;
mod stream;
mod terminal;
mod test;
mod train;
mod waiting;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use say::{remark, remark_part, say, say_part};

use clap::{Args, Parser, Subcommand, ValueEnum};
use snnc::{Backends, CompileOptions, Dims, Error, Mode, Optimise, Precision, ProductKernel, Products, Program, Severity, Tensor};

/// A compiler for spiking neural networks.
#[derive(Parser)]
#[command(
    version,
    about = "A compiler for spiking neural networks: a net described in a page of text, run as machine code.",
    after_help = "Examples:\n  snnc check examples/digits/digits.snn\n  snnc run model.snn --data x.safetensors --weights model.safetensors --out y.safetensors\n  snnc emit model.snn --stage ir\n\nExit codes: 0 fine, 1 an error in the program or its data, 2 wrong use of the command, 130 ended by Ctrl-C."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Parse and type-check a program; all errors and warnings with their source lines.
    #[command(after_help = "Example:\n  snnc check model.snn")]
    Check {
        /// The program.
        file: PathBuf,
        /// What it is checked for.
        #[arg(long, value_enum, default_value_t = ModeName::Eval)]
        mode: ModeName,
        #[command(flatten)]
        nir: nir::NirArguments,
    },
    /// Compile a net and run it on data.
    #[command(
        after_help = "Examples:\n  snnc run model.snn --data x=x.npy --weights model.safetensors\n  snnc run digits.snn --net accuracy --data test.npz --weights digits.safetensors\n  snnc run model.snn --data x.safetensors --seed 7 --save-weights initial.safetensors --out y.npz"
    )]
    Run(run::RunArguments),
    /// Run a net step by step on standard input: one step of JSON a line in, one line out.
    #[command(
        after_help = "Examples:\n  snnc stream model.snn --weights model.safetensors < steps.jsonl\n  echo '{\"x\": [0.5, 1.0]}' | snnc stream model.snn --dims B=1 --seed 7\n\nA line is an object of the inputs of a step, or the value of the only one. The answer is an object of the outputs, such as {\"out\": [[0.0, 1.0]]}."
    )]
    Stream(stream::StreamArguments),
    /// The value of a scalar net and its gradients.
    #[command(
        after_help = "Examples:\n  snnc grad model.snn --data batch.safetensors --weights model.safetensors --out gradients.safetensors\n  snnc grad model.snn --net loss --data batch.npz --wrt x,fc1.weight"
    )]
    Grad(run::GradArguments),
    /// Train a net whose value is the loss.
    #[command(
        after_help = "Examples:\n  snnc train model.snn --data train.npz --epochs 10 --batch 64 --lr 1e-3 --weights-out model.safetensors\n  snnc train model.snn --data train.npz --validate test.npz --predict main --checkpoint-dir checkpoints --weights-out model.safetensors\n  snnc train model.snn --data train.npz --checkpoint-dir checkpoints --resume --weights-out model.safetensors"
    )]
    Train(train::TrainArguments),
    /// Tensor expressions and definitions, line by line.
    #[command(
        after_help = "Examples:\n  snnc repl\n  snnc repl model.snn\n  snnc repl < script.txt\n\n`:help` at the prompt lists the commands."
    )]
    Repl(repl::ReplArguments),
    /// Evaluate entries as at the prompt of `repl`, and print the last value.
    #[command(
        after_help = "Examples:\n  snnc eval 'first_spike_index([[0, 1, 1]])'\n  snnc eval 'let x = [0.0, 3.0, 0.0]' 'lif(x)' --json"
    )]
    Eval(repl::EvalArguments),
    /// Print what the compiler makes of a net.
    #[command(
        after_help = "Examples:\n  snnc emit model.snn --stage ir\n  snnc emit model.snn --stage opt --explain\n  snnc emit model.snn --stage clif --dims T=16,B=64\n  snnc emit model.snn --stage dot | dot -Tsvg > model.svg"
    )]
    Emit(emit::EmitArguments),
    /// Run file tests: programs with what is expected of them in comments.
    #[command(
        after_help = "Examples:\n  snnc test tests/\n  snnc test model.snn --bless\n\nA line `// test: COMMAND` begins a test; the comment lines right below it are what the command says. Commands:\n  check                              errors and warnings\n  run --input x=[[2.5],[0.0]]        outputs; --show raster or rates, --tolerance X\n  eval 'main([2.5, 0.0])'            entries as at the prompt\n  emit --stage opt                   any stage of the compiler\n  verify                             of a graph in an `.ir` file: the rules that it breaks"
    )]
    Test(test::TestArguments),
    /// Write a program in its canonical layout, in place.
    #[command(after_help = "Examples:\n  snnc fmt model.snn\n  snnc fmt --check model.snn\n  snnc fmt - < model.snn")]
    Fmt {
        /// The programs; `-` reads standard input and writes standard output.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Change nothing, and fail if something would change.
        #[arg(long)]
        check: bool,
    },
    /// Make a program and its parameters of a NIR file.
    #[command(
        after_help = "Examples:\n  snnc import model.nir --preset snntorch -o model.snn --weights-out model.safetensors\n  snnc import model.nir --dt 1e-4 --integrator euler --reset zero -o model.snn --weights-out model.safetensors"
    )]
    Import(nir::ImportArguments),
    /// Write a net and its parameters as a NIR file.
    #[command(
        after_help = "Examples:\n  snnc export model.snn --weights model.safetensors --dt 1e-4 -o model.nir\n  snnc export imported.snn --weights imported.safetensors -o again.nir"
    )]
    Export(nir::ExportArguments),
    /// Describe a NIR file: its nodes, their parameters, and what it leaves open.
    #[command(after_help = "Example:\n  snnc nir model.nir")]
    Nir {
        /// The NIR file.
        file: PathBuf,
    },
    /// Draw spikes, membranes or a graph, as SVG or PNG.
    #[command(
        after_help = "Examples:\n  snnc plot raster out.safetensors -o raster.svg\n  snnc plot trace out.safetensors --v v --spikes s --threshold 1 -o trace.png\n  snnc plot graph model.snn -o graph.svg"
    )]
    Plot(plot::PlotArguments),
    /// Serve an editor over standard input and output, by the Language Server Protocol.
    Lsp,
    /// List the devices that candle can use, and why others cannot be.
    Devices,
    /// Count a net's operations on data, dense and effective, with the energy that they take.
    #[command(
        after_help = "Examples:\n  snnc cost model.snn --data test.npz --weights model.safetensors\n  snnc cost model.snn --data test.npz --weights model.safetensors --json"
    )]
    Cost(cost::CostArguments),
    /// Round weights to integers of 8 or 16 bits times a power of two for each output.
    #[command(
        after_help = "Example:\n  snnc quantise model.snn --weights model.safetensors --data test.npz -o q.safetensors\n\n`--weights-dtype i8` of run, stream, cost and build rounds in the same way, and build stores integers."
    )]
    Quantise(quantise::QuantiseArguments),
    /// Say where two versions of a net part: layer, step and neuron. Exit code 1 where they do.
    #[command(
        after_help = "Examples:\n  snnc diff model.snn model.snn --data x.npz --weights-a float.safetensors --weights-b other.safetensors\n  snnc diff old.snn new.snn --data x.npz --weights model.safetensors"
    )]
    Diff(diff::DiffArguments),
    /// Describe recordings of event cameras, or bin them into frames.
    #[command(
        after_help = "Examples:\n  snnc events recording.raw\n  snnc events recording.aedat4 --json\n  snnc events N-MNIST/Train --bin 5ms --size 34x34 --steps 60 -o train.npz\n  snnc events shd_train.h5 --bin 10ms --steps 100 -o shd.npz"
    )]
    Events(events::EventsArguments),
    /// Write a net as C99 or as an object file: without allocation, with its weights.
    #[command(
        after_help = "Examples:\n  snnc build model.snn --weights model.safetensors --dims B=1 -o c\n  snnc build model.snn --weights model.safetensors --dims B=1,T=16 --flash 256K --ram 64K -o c\n  gcc -std=c99 -O2 -c c/model.c\n  snnc build model.snn --weights model.safetensors --dims B=1 --target object -o lib\n  snnc build model.snn --dims B=1 --target object --triple aarch64-apple-darwin -o lib"
    )]
    Build(build::BuildArguments),
    /// Time compilation and runs of a net on data.
    #[command(after_help = "Example:\n  snnc bench lif.snn --data lif.safetensors --repeats 7 --json")]
    Bench(bench::BenchArguments),
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeName {
    Eval,
    Train,
}

#[derive(Clone, Copy, ValueEnum)]
enum BackendName {
    /// Machine code for this processor.
    Cranelift,
    /// The plain meaning of every operation, slow.
    Interpreter,
    /// candle, on `--device`.
    Candle,
}

#[derive(Clone, Copy, ValueEnum)]
enum PrecisionName {
    F32,
    F16,
    Bf16,
}

/// What runs a net.
#[derive(Args)]
struct BackendArguments {
    /// What runs the net.
    #[arg(long, value_enum, default_value_t = BackendName::Cranelift)]
    backend: BackendName,
    /// Where candle runs it: cpu, cuda, cuda:1, metal. `snnc devices` lists what is usable.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: snnc::DeviceName,
    /// The type of the operands of dense products; sums and states are always f32. Machine code knows f32, and bf16 where the processor does; candle all.
    #[arg(long, value_enum, default_value_t = PrecisionName::F32)]
    dtype: PrecisionName,
    /// One kernel for all products and convolutions, instead of the fastest at the density of their operands.
    #[arg(long, value_enum, value_name = "KERNEL")]
    kernel: Option<KernelName>,
    /// Add in the interpreter's order: its results, to the bit, and slower.
    #[arg(long, conflicts_with_all = ["kernel", "fast_math"])]
    exact: bool,
}

/// A kernel for products.
#[derive(Clone, Copy, ValueEnum)]
enum KernelName {
    /// Add the weights of active inputs, at any density.
    Rows,
    /// All products, by `gemm`.
    Dense,
}

impl BackendArguments {
    fn backend(&self) -> Result<Backends, Failure> {
        let precision = match self.dtype {
            PrecisionName::F32 => Precision::F32,
            PrecisionName::F16 => Precision::F16,
            PrecisionName::Bf16 => Precision::BF16,
        };
        let backend = match self.backend {
            BackendName::Cranelift => Backends::Cranelift,
            BackendName::Interpreter => Backends::Interpreter,
            BackendName::Candle => return Ok(Backends::Candle(self.device, precision)),
        };
        if self.device != snnc::DeviceName::Cpu {
            return Err(Failure::Text("`--device` is for `--backend candle`".into()));
        }
        let known = precision == Precision::F32 || precision == Precision::BF16 && backend == Backends::Cranelift;
        if !known {
            return Err(Failure::Text("`--dtype f16` is for `--backend candle`, and `bf16` for that and for `cranelift`".into()));
        }
        Ok(backend)
    }

    /// How machine code computes products.
    fn products(&self) -> Result<Products, Failure> {
        let is_machine_code = matches!(self.backend, BackendName::Cranelift);
        let bf16 = is_machine_code && matches!(self.dtype, PrecisionName::Bf16);
        if !is_machine_code && (self.kernel.is_some() || self.exact && matches!(self.backend, BackendName::Candle)) {
            return Err(Failure::Text("`--kernel` and `--exact` are for `--backend cranelift`".into()));
        }
        if self.exact && bf16 {
            return Err(Failure::Text("`--exact` computes in f32: leave out `--dtype bf16`".into()));
        }
        let kernel = match self.kernel {
            _ if self.exact => ProductKernel::Exact,
            None => ProductKernel::Fastest,
            Some(KernelName::Rows) => ProductKernel::Rows,
            Some(KernelName::Dense) => ProductKernel::Dense,
        };
        Ok(Products { kernel, bf16 })
    }
}

/// What `run` and `bench` share.
#[derive(Args)]
struct NetArguments {
    /// The program, or a `.nir` file.
    file: PathBuf,
    /// Which net; the only one, else `main`, where it is not given.
    #[arg(long)]
    net: Option<String>,
    /// Inputs by name: `.safetensors`, `.npz`, or `name=file.npy`. May be given several times.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    data: Vec<String>,
    /// Parameters by name, in the same formats.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    weights: Vec<String>,
    /// Parameters that the weights lack are drawn, instead of being an error.
    #[arg(long, requires = "weights")]
    partial: bool,
    /// Tensors of the weights by other names: `OLD=NEW`, where `*` stands for anything. May be given several times.
    #[arg(long, requires = "weights", value_name = "OLD=NEW", value_parser = parse_rename)]
    rename: Vec<(String, String)>,
    /// Tensors of the weights that are not looked at; `*` stands for anything. May be given several times.
    #[arg(long, requires = "weights", value_name = "PATTERN")]
    ignore: Vec<String>,
    /// Weights of products and convolutions as integers times a power of two for each output: `i8` or `i16`.
    #[arg(long, value_name = "TYPE", value_parser = |t: &str| t.parse::<snnc::quantise::WeightBits>())]
    weights_dtype: Option<snnc::quantise::WeightBits>,
    /// States of neurons in fixed point: `Q7.8` has a sign, 7 bits before the point and 8 after it.
    #[arg(long, value_name = "FORMAT")]
    states: Option<snnc::FixedPoint>,
    /// A setting of the net. May be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    set: Vec<(String, snnc::Setting)>,
    /// Evaluation or training.
    #[arg(long, value_enum, default_value_t = ModeName::Eval)]
    mode: ModeName,
    /// The seed of parameters that are not given, and of random operations.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Threads, at most 1,024; 0 for one on each processor.
    #[arg(long, default_value_t = 0, value_parser = parse_threads)]
    threads: usize,
    #[command(flatten)]
    optimise: OptimiseArguments,
    /// Check the rules of the IR after each pass of the compiler.
    #[arg(long, hide_short_help = true)]
    verify: bool,
    /// Run the dimension `B` in pieces of this size.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Sizes of dimensions that no input gives.
    #[arg(long, value_name = "T=16,B=64", value_parser = parse_dims)]
    dims: Option<Dims>,
    #[command(flatten)]
    backend: BackendArguments,
    /// How much memory a run may use: `512M`, `4G`. The machine's memory where it is not given.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memory_limit: Option<u64>,
    #[command(flatten)]
    nir: nir::NirArguments,
}

/// What the optimiser may do.
#[derive(Args)]
struct OptimiseArguments {
    /// Run the graph as it was written.
    #[arg(long, conflicts_with = "fast_math")]
    no_opt: bool,
    /// Let the optimiser change roundings: a batch norm moves into weights, sums are taken in another order.
    #[arg(long)]
    fast_math: bool,
}

impl OptimiseArguments {
    fn level(&self) -> Optimise {
        match (self.no_opt, self.fast_math) {
            (true, _) => Optimise::Off,
            (false, true) => Optimise::Fast,
            (false, false) => Optimise::Exact,
        }
    }
}

impl NetArguments {
    fn options(&self) -> Result<CompileOptions, Failure> {
        Ok(CompileOptions::default()
            .mode(self.mode)
            .dims(self.dims.clone().unwrap_or_default())
            .optimise(self.optimise.level())
            .verify(self.verify)
            .backend(self.backend.backend()?)
            .products(self.backend.products()?)
            .threads(self.threads)
            .seed(self.seed)
            .memory_limit(self.memory())
            .batch(self.batch)
            .settings(self.set.iter().cloned().collect())
            .partial(self.partial)
            .weights_dtype(self.weights_dtype)
            .states(self.states))
    }

    fn memory(&self) -> u64 {
        self.memory_limit.unwrap_or_else(machine_memory)
    }

    /// The data that a net asks for, and parameters of it.
    fn load_data(&self, net: &snnc::Compiled) -> Result<Files, Failure> {
        let names = net.names()?;
        let known = net.dimensions()?;
        for name in self.dims.iter().flatten().map(|(n, _)| n).filter(|n| !known.contains(*n)) {
            let all: Vec<&str> = known.iter().map(String::as_str).collect();
            let near = snn_syntax::nearest(name, all.iter().copied()).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            remark!("Warning: no input of `{}` has a dimension `{name}` (`--dims`); they have {}{near}", net.net(), all.join(", "));
        }
        load_wanted(&self.data, &|n| names.iter().any(|k| k == n), self.memory())
    }
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Mode {
        match name {
            ModeName::Eval => Mode::Eval,
            ModeName::Train => Mode::Train,
        }
    }
}

fn machine_memory() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    // A system that does not say has no limit of ours.
    if system.total_memory() == 0 { u64::MAX } else { system.total_memory() }
}

fn parse_rename(text: &str) -> Result<(String, String), String> {
    let (old, new) = text.split_once('=').ok_or_else(|| format!("`{text}` is not `OLD=NEW`"))?;
    match new.matches('*').count() <= old.matches('*').count() {
        true => Ok((old.to_string(), new.to_string())),
        false => Err(format!("`{new}` has more `*` than `{old}`")),
    }
}

fn parse_setting(text: &str) -> Result<(String, snnc::Setting), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not `NAME=VALUE`"))?;
    Ok((name.trim().to_string(), value.parse()?))
}

fn parse_threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n <= 1024 => Ok(n),
        _ => Err("the number of threads is between 0 and 1024".to_string()),
    }
}

fn parse_dims(text: &str) -> Result<Dims, String> {
    let mut dims = Dims::new();
    for part in text.split(',').filter(|p| !p.trim().is_empty()) {
        let (name, size) = part.split_once('=').ok_or_else(|| format!("`{part}` is not `name=size`"))?;
        let size: i64 = size.trim().parse().map_err(|_| format!("`{size}` is not a size"))?;
        if size < 0 {
            return Err(format!("the size {size} of `{name}` is negative"));
        }
        dims.insert(name.trim().to_string(), size);
    }
    Ok(dims)
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim().trim_end_matches(['B', 'b']).trim_end_matches('i');
    let unit = text.chars().last().map_or(1, |c| match c.to_ascii_uppercase() {
        'K' => 1 << 10,
        'M' => 1 << 20,
        'G' => 1 << 30,
        'T' => 1u64 << 40,
        _ => 1,
    });
    let number = if unit > 1 { &text[..text.len() - 1] } else { text };
    let number: u64 = number.trim().parse().map_err(|_| format!("`{text}` is not a number of bytes such as `512M`"))?;
    number.checked_mul(unit).ok_or_else(|| format!("`{text}` is too large"))
}

/// Why a command fails.
enum Failure {
    Error(Error),
    Text(String),
    /// It was said already.
    Said,
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Error(e)
    }
}

impl From<snn_plot::PlotError> for Failure {
    fn from(e: snn_plot::PlotError) -> Failure {
        Failure::Text(e.to_string())
    }
}

impl From<snn_data::FileError> for Failure {
    fn from(e: snn_data::FileError) -> Failure {
        Failure::Error(e.into())
    }
}

/// What a command that says nothing while it works is doing; others show their own progress, or talk.
fn waits_for(command: &Command) -> Option<&'static str> {
    match command {
        Command::Run(_) => Some("running"),
        Command::Grad(_) => Some("differentiating"),
        Command::Bench(_) => Some("measuring"),
        Command::Emit(_) => Some("compiling"),
        Command::Check { .. } => Some("checking"),
        Command::Test(_) => Some("testing"),
        Command::Plot(_) => Some("drawing"),
        Command::Eval(_) => Some("evaluating"),
        Command::Build(_) => Some("building"),
        Command::Cost(_) => Some("counting"),
        Command::Diff(_) => Some("comparing"),
        Command::Quantise(_) => Some("quantising"),
        Command::Import(_) | Command::Export(_) => Some("converting"),
        Command::Nir { .. }
        | Command::Stream(_)
        | Command::Train(_)
        | Command::Repl(_)
        | Command::Fmt { .. }
        | Command::Lsp
        | Command::Devices
        | Command::Events(_) => None,
    }
}

/// What Ctrl-C ends with, as in shells.
const INTERRUPTED: u8 = 130;

/// Ctrl-C asks what runs to stop, so that a command ends with what it has. What does not hear it within a second, or gets another, ends there.
fn stop_on_interrupt() {
    // Where signals cannot be caught, Ctrl-C ends the process at once.
    let _ = ctrlc::set_handler(|| {
        let end = || std::process::exit(INTERRUPTED.into());
        if snn_ir::interrupt::is_wanted() {
            end();
        }
        snn_ir::interrupt::request();
        std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_secs(1));
            end();
        });
    });
}

/// Runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let waiting = waits_for(&cli.command).map(waiting::Waiting::new);
    if waiting.is_some() {
        stop_on_interrupt();
    }
    let result = match cli.command {
        Command::Check { file, mode, nir } => check(&file, mode.into(), &nir),
        Command::Import(arguments) => nir::import(&arguments),
        Command::Export(arguments) => nir::export(&arguments),
        Command::Nir { file } => nir::describe(&file),
        Command::Run(arguments) => run::run(&arguments),
        Command::Stream(arguments) => stream::stream(&arguments),
        Command::Grad(arguments) => run::grad(&arguments),
        Command::Train(arguments) => train::train(&arguments),
        Command::Repl(arguments) => repl::repl(&arguments),
        Command::Eval(arguments) => repl::eval(&arguments),
        Command::Emit(arguments) => emit::emit(&arguments),
        Command::Test(arguments) => test::test(&arguments),
        Command::Fmt { files, check } => format(&files, check),
        Command::Plot(arguments) => plot::plot(&arguments),
        Command::Lsp => snn_lsp::serve().map_err(|e| Failure::Text(format!("the language server cannot run: {e}"))),
        Command::Devices => {
            for (name, about) in snnc::devices() {
                match about {
                    Ok(what) => say!("{name}: {what}"),
                    Err(why) => say!("{name}: not usable: {why}"),
                }
            }
            Ok(())
        }
        Command::Events(arguments) => events::events(&arguments),
        Command::Diff(arguments) => diff::diff(&arguments),
        Command::Quantise(arguments) => quantise::quantise(&arguments),
        Command::Cost(arguments) => cost::cost(&arguments),
        Command::Build(arguments) => build::build(&arguments),
        Command::Bench(arguments) => bench::bench(&arguments),
    };
    drop(waiting);
    match result {
        Ok(()) if say::is_lost() => {
            remark!("Error: standard output could not be written");
            ExitCode::from(1)
        }
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            match failure {
                Failure::Error(Error::Source { sources, diagnostics }) => remark_part!("{}", sources.render(&diagnostics, colour())),
                Failure::Error(e) => remark!("Error: {e}"),
                Failure::Text(text) => remark!("Error: {text}"),
                Failure::Said => {}
            }
            ExitCode::from(if snn_ir::interrupt::is_wanted() { INTERRUPTED } else { 1 })
        }
    }
}

/// What each kernel took, the longest first.
fn profile_text(mut kernels: Vec<snn_ir::KernelTime>) -> String {
    kernels.sort_by_key(|k| std::cmp::Reverse(k.time));
    let mut text = format!("{:>10} {:>8} {:>8} {:>6} {:>8}  kernel\n", "ms", "GB/s", "Gop/s", "runs", "firing");
    for k in &kernels {
        let per_second = |n: usize| n as f64 / k.time.as_secs_f64().max(1e-9) / 1e9;
        let (rate, operations) = (per_second(k.bytes), per_second(k.operations));
        let firing = k.firing_rate.map_or_else(String::new, |f| format!("{f:.4}"));
        text.push_str(&format!(
            "{:>10.4} {rate:>8.2} {operations:>8.2} {:>6} {firing:>8}  {}\n",
            k.time.as_secs_f64() * 1e3,
            k.runs.len(),
            k.name
        ));
    }
    text
}

/// What each kernel took, for a viewer of Chrome traces.
fn trace_text(kernels: &[snn_ir::KernelTime]) -> String {
    let microseconds = |d: std::time::Duration| d.as_secs_f64() * 1e6;
    let events = kernels.iter().flat_map(|k| {
        let arguments = serde_json::json!({
            "bytes": k.bytes / k.runs.len().max(1),
            "operations": k.operations / k.runs.len().max(1),
            "firing rate": k.firing_rate,
        });
        k.runs.iter().map(move |(start, time)| {
            serde_json::json!({
                "name": k.name, "cat": "kernel", "ph": "X", "pid": 1, "tid": 1,
                "ts": microseconds(*start), "dur": microseconds(*time), "args": arguments,
            })
        })
    });
    serde_json::json!({ "traceEvents": events.collect::<Vec<_>>(), "displayTimeUnit": "ms" }).to_string()
}

fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

fn read_text(path: &Path) -> Result<String, Failure> {
    let name = path.display();
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    let bytes = bytes.map_err(|e| Failure::Text(format!("cannot read `{name}`: {e}")))?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Failure::Text(format!("`{name}` is not text in UTF-8: byte {at} is not part of a character"))
    })
}

/// A program, or that of a NIR file with its weights.
fn load_program(path: &Path, nir: &nir::NirArguments) -> Result<(Program, Vec<(String, Tensor)>), Failure> {
    if nir::is_nir(path) {
        return nir.load(path);
    }
    nir.refuse()?;
    if path.extension().is_some_and(|e| e == "ir") {
        return Err(Failure::Text(format!("`{}` is a graph of the IR, which `snnc emit` and `snnc test` take", path.display())));
    }
    let text = read_text(path)?;
    Ok((Program::parse(&path.display().to_string(), &text)?, vec![]))
}

/// Prints warnings; errors are told again by what fails because of them.
fn warn(program: &Program, mode: Mode) {
    let mut diagnostics = program.check(mode);
    diagnostics.retain(|d| d.severity == Severity::Warning);
    if !diagnostics.is_empty() {
        remark_part!("{}", program.render(&diagnostics, colour()));
    }
}

/// Tensors of files, with the names of those that nobody asked for.
#[derive(Default)]
struct Files {
    tensors: Vec<(String, Tensor)>,
    others: Vec<String>,
}

/// Reads of some files what is wanted.
/// The index of the first NaN of a tensor.
fn first_nan(t: &Tensor) -> Option<Vec<usize>> {
    if t.dtype() != snnc::DType::F32 {
        return None;
    }
    t.as_f32().iter().position(|x| x.is_nan()).map(|at| t.indices(at))
}

fn load_wanted(files: &[String], wanted: &dyn Fn(&str) -> bool, limit: u64) -> Result<Files, Failure> {
    let mut all = Files::default();
    let request = snn_data::Request::new(wanted, limit);
    for file in files {
        let loaded = snn_data::load_wanted(file, &request)?;
        loaded.warnings.iter().for_each(|w| remark!("Warning: {w}"));
        for (name, tensor) in loaded.tensors {
            if all.tensors.iter().any(|(n, _)| *n == name) {
                return Err(Failure::Text(format!("the tensor `{name}` is in more than one file; `{file}` has it again")));
            }
            if let Some(at) = first_nan(&tensor) {
                remark!("Warning: `{name}` in `{file}` holds NaN, first at {at:?}: it spreads to everything that is computed from it");
            }
            all.tensors.push((name, tensor));
        }
        all.others.extend(loaded.others);
    }
    Ok(all)
}

impl NetArguments {
    /// The weights: everything that the files hold, by the names that were asked for.
    /// Those of the command line, else `own`, those of a NIR file.
    fn load_weights(&self, own: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>, Failure> {
        if self.weights.is_empty() {
            return Ok(own);
        }
        let ignored = |n: &str| self.ignore.iter().any(|p| snn_ir::pattern::matched(p, n).is_some());
        let loaded = load_wanted(&self.weights, &|n| !ignored(n), self.memory())?.tensors;
        if loaded.is_empty() && !self.weights.is_empty() {
            return Err(Failure::Text(format!("there are no weights in `{}`", self.weights.join("`, `"))));
        }
        let mut used = vec![false; self.rename.len()];
        let mut weights: Vec<(String, Tensor)> = Vec::new();
        for (name, tensor) in loaded {
            let renamed = self.rename.iter().enumerate().find_map(|(i, (old, new))| {
                let stars = snn_ir::pattern::matched(old, &name)?;
                used[i] = true;
                let mut parts = new.split('*');
                let first = parts.next().unwrap_or_default().to_string();
                Some(parts.zip(stars).fold(first, |text, (part, star)| text + star + part))
            });
            let name = renamed.unwrap_or(name);
            if weights.iter().any(|(n, _)| *n == name) {
                return Err(Failure::Text(format!("two tensors of the weights are called `{name}` after `--rename`")));
            }
            weights.push((name, tensor));
        }
        if let Some(i) = used.iter().position(|u| !u) {
            return Err(Failure::Text(format!("`--rename {}={}` fits no tensor of the weights", self.rename[i].0, self.rename[i].1)));
        }
        Ok(weights)
    }
}

fn check(path: &Path, mode: Mode, nir: &nir::NirArguments) -> Result<(), Failure> {
    let (program, _) = load_program(path, nir)?;
    let diagnostics = program.check(mode);
    remark_part!("{}", program.render(&diagnostics, colour()));
    let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
    if errors > 0 {
        remark!("{errors} error{} in `{}`", if errors == 1 { "" } else { "s" }, path.display());
        return Err(Failure::Said);
    }
    let nets = program.module().nets();
    say!("{}: {} net{}, no errors", path.display(), nets.len(), if nets.len() == 1 { "" } else { "s" });
    Ok(())
}

fn format(files: &[PathBuf], check: bool) -> Result<(), Failure> {
    let mut changed = Vec::new();
    for path in files {
        let text = read_text(path)?;
        let program = Program::parse(&path.display().to_string(), &text)?;
        let formatted = snn_syntax::print(&program.module().ast, &text);
        if path == Path::new("-") {
            say_part!("{formatted}");
        } else if formatted != text {
            changed.push(path.display().to_string());
            if !check {
                replace(path, &formatted)?;
            }
        }
    }
    if check && !changed.is_empty() {
        return Err(Failure::Text(format!("not in canonical layout: {}", changed.join(", "))));
    }
    Ok(())
}

/// Writes a file whole or not at all.
fn replace(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), Failure> {
    snn_data::replace(path, contents.as_ref()).map_err(|e| Failure::Text(format!("cannot write `{}`: {e}", path.display())))
}
