//! `snnc build`: a net as C, or as an object file.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use snnc::CompileOptions;

use super::{Failure, load_program, parse_bytes, parse_dims, parse_setting, replace};
use crate::command::say::{remark, say};

/// What is made.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Target {
    /// One C99 file and its header: `NAME.c` and `NAME.h`.
    C,
    /// An object file of it and the same header: `NAME.o` and `NAME.h`. It needs a C library with `libm`, and no C compiler.
    Object,
}

#[derive(Args)]
pub struct BuildArguments {
    /// The program, or a `.nir` file.
    file: PathBuf,
    /// Which net; the only one, else `main`, where it is not given.
    #[arg(long)]
    net: Option<String>,
    /// Its parameters: `.safetensors`, `.npz`, or `name=file.npy`. Drawn where they are not given.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    weights: Vec<String>,
    /// Weights of products and convolutions as integers times a power of two for each output, and stored as such: `i8` or `i16`.
    #[arg(long, value_name = "TYPE", value_parser = |t: &str| t.parse::<snnc::quantise::WeightBits>())]
    weights_dtype: Option<snnc::quantise::WeightBits>,
    /// States of neurons in fixed point: `Q7.8` has a sign, 7 bits before the point and 8 after it.
    #[arg(long, value_name = "FORMAT")]
    states: Option<snnc::FixedPoint>,
    /// A setting of the net. May be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    set: Vec<(String, snnc::Setting)>,
    /// Sizes of dimensions; with `T` there is a function for whole sequences beside that for steps.
    #[arg(long, value_name = "B=1,T=16", value_parser = parse_dims)]
    dims: Option<snnc::Dims>,
    /// The seed of parameters that are not given.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What to make.
    #[arg(long, value_enum, default_value_t = Target::C)]
    target: Target,
    /// The machine of an object file, such as `aarch64-unknown-linux-gnu`; this one where it is not given.
    #[arg(long, value_name = "TRIPLE")]
    triple: Option<String>,
    /// Fail where constants take more: `256K`.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    flash: Option<u64>,
    /// Fail where the state and its buffers take more: `64K`.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    ram: Option<u64>,
    /// The folder to write the files into, NAME being the stem of the program's.
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,
    #[command(flatten)]
    nir: super::nir::NirArguments,
}

pub fn build(a: &BuildArguments) -> Result<(), Failure> {
    if a.target == Target::C && a.triple.is_some() {
        return Err(Failure::Text("`--triple` is for `--target object`; a C file is for every machine".into()));
    }
    let (program, own) = load_program(&a.file, &a.nir)?;
    let options = CompileOptions::default()
        .dims(a.dims.clone().unwrap_or_default())
        .seed(a.seed)
        .settings(a.set.iter().cloned().collect())
        .weights_dtype(a.weights_dtype)
        .states(a.states);
    let net = program.compile(a.net.as_deref(), &options)?;
    let mut weights = own;
    if !a.weights.is_empty() {
        weights = super::load_wanted(&a.weights, &|_| true, super::machine_memory())?.tensors;
        if weights.is_empty() {
            return Err(Failure::Text(format!("there are no weights in `{}`", a.weights.join("`, `"))));
        }
    }
    let stem = a.file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let name: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let name = if name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() { format!("net_{name}") } else { name };
    let origin = a.file.file_name().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let built = net.build_c(&name, &origin, &weights)?;
    let source = &built.source;
    for (limit, needed, what) in [(a.flash, source.constants, "constants take"), (a.ram, source.memory, "the state and its buffers take")] {
        if let Some(limit) = limit.filter(|l| *l < needed as u64) {
            return Err(Failure::Text(format!("{what} {needed} bytes, and may take {limit}")));
        }
    }
    let object = match a.target {
        Target::C => None,
        Target::Object => Some(built.object(a.triple.as_deref())?),
    };
    std::fs::create_dir_all(&a.out).map_err(|e| Failure::Text(format!("cannot make the folder `{}`: {e}", a.out.display())))?;
    replace(&a.out.join(format!("{name}.h")), &source.header)?;
    match &object {
        None => replace(&a.out.join(format!("{name}.c")), &source.source)?,
        Some(object) => replace(&a.out.join(format!("{name}.o")), object)?,
    }
    if let Some(why) = built.no_steps {
        remark!("`{name}_step` is not there: {}", why.lines().next().unwrap_or_default().trim_start_matches("Error: "));
    }
    say!("{:>10} {:>10} {:>12}", "weights", "buffer", "operations");
    for row in &source.rows {
        say!("{:>10} {:>10} {:>12}  {}", row.weights, row.gives, row.operations, row.what);
    }
    say!("{} bytes of constants, {} bytes of memory", source.constants, source.memory);
    Ok(())
}
