//! `snnc events`: recordings of event cameras, described and binned.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use snn_events::{Broken, Event, Format, Frames, Polarity, Reader, Summary, spoken, summary};
use snnc::Tensor;

use super::Failure;
use crate::command::say::{remark, remark_part, say};

#[derive(Args)]
pub struct EventsArguments {
    /// Recordings; `-` is standard input. With `--bin` also folders, whose folders are classes.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Print one JSON object a file.
    #[arg(long, conflicts_with = "bin")]
    json: bool,
    /// The format, where first bytes and name do not say it: nmnist, aedat2, aedat3.1, aedat4, dat, evt2, evt3, csv, npy, shd.
    #[arg(long, value_parser = parse::<Format>)]
    format: Option<Format>,
    /// Count events in bins of this length, such as `5ms`, `500us`, `0.1s`.
    #[arg(long, value_name = "TIME", value_parser = parse_time, requires = "out")]
    bin: Option<i64>,
    /// Width and height of the sensor, where the file does not say them.
    #[arg(long, value_name = "34x34", value_parser = parse_size, requires = "bin")]
    size: Option<(usize, usize)>,
    /// How many frames each recording has: longer ones are cut, shorter ones end in empty frames. As many as the longest has, where it is not given.
    #[arg(long, value_name = "N", requires = "bin")]
    steps: Option<usize>,
    /// `split`: two channels, off and on; `sum`: one of all events; `sign`: one of on less off.
    #[arg(long, default_value = "split", value_parser = parse::<Polarity>)]
    polarity: Polarity,
    /// Where the frames go: `.npz` or `.safetensors`, with `x` of f32[T, B, C, H, W] or u8 and, of classes, `label` of i64[B].
    #[arg(short, long, value_name = "FILE", requires = "bin")]
    out: Option<PathBuf>,
}

fn parse<T: std::str::FromStr<Err = String>>(text: &str) -> Result<T, String> {
    text.parse()
}

/// A time in microseconds.
pub fn parse_time(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is no time such as `5ms`, `500us` or `0.1s`");
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?);
    let scale = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return Err(wrong()),
    };
    let us = number.trim().parse::<f64>().map_err(|_| wrong())? * scale;
    if (1.0..=1e15).contains(&us) { Ok(us.round() as i64) } else { Err(format!("a bin is at least a microsecond, not {text}")) }
}

/// A width and a height.
pub fn parse_size(text: &str) -> Result<(usize, usize), String> {
    let size = text.split_once('x').and_then(|(w, h)| Some((w.trim().parse().ok()?, h.trim().parse().ok()?)));
    match size {
        Some((w, h)) if (1..=65536).contains(&w) && (1..=65536).contains(&h) => Ok((w, h)),
        _ => Err(format!("`{text}` is no size such as `34x34`")),
    }
}

fn failed(e: snn_events::EventError) -> Failure {
    Failure::Text(e.to_string())
}

/// Says where a recording breaks off.
pub fn warn_broken(path: &str, broken: Option<&Broken>) {
    if let Some(b) = broken {
        remark!("Warning: `{path}` breaks off at byte {}: {}; the {} events before it are kept", b.byte, b.why, b.kept);
    }
}

/// Long work on a terminal.
struct Progress {
    started: Instant,
    said: Option<Instant>,
    shows: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { started: Instant::now(), said: None, shows: std::io::stderr().is_terminal() }
    }

    fn say(&mut self, text: impl FnOnce() -> String) {
        let now = Instant::now();
        let due = self.said.map_or(now - self.started > Duration::from_secs(2), |s| now - s > Duration::from_millis(200));
        if self.shows && due {
            remark_part!("\r\x1b[K{}", text());
            self.said = Some(now);
        }
    }

    fn end(&self) {
        if self.said.is_some() {
            remark_part!("\r\x1b[K");
        }
    }
}

pub fn events(a: &EventsArguments) -> Result<(), Failure> {
    match (a.bin, &a.out) {
        (Some(bin), Some(out)) => binned(a, bin, out),
        _ => a.files.iter().try_for_each(|f| describe(f, a)),
    }
}

fn describe(path: &Path, a: &EventsArguments) -> Result<(), Failure> {
    let mut progress = Progress::new();
    let s = match is_spoken(path, a.format) {
        true => spoken_summary(path)?,
        false => {
            let mut reader = Reader::open(path, a.format).map_err(failed)?;
            summary(&mut reader, |bytes, n| progress.say(|| format!("{n} events, {} MB", bytes >> 20))).map_err(failed)?
        }
    };
    progress.end();
    let name = path.display().to_string();
    warn_broken(&name, s.broken.as_ref());
    if a.json {
        let text = serde_json::json!({
            "format": s.format.name(), "width": s.width, "height": s.height, "events": s.events, "on": s.on,
            "first_us": s.first_us, "last_us": s.last_us,
        });
        say!("{text}");
        return Ok(());
    }
    let seconds = (s.last_us - s.first_us) as f64 / 1e6;
    let share = if s.events == 0 { 0.0 } else { 100.0 * s.on as f64 / s.events as f64 };
    say!("{name}: {}, {} x {}", s.format.name(), s.width, s.height);
    say!("  {} events, {} on ({share:.1}%)", s.events, s.on);
    say!(
        "  from {} to {} us: {seconds:.6} s, {:.0} events/s",
        s.first_us,
        s.last_us,
        if seconds > 0.0 { s.events as f64 / seconds } else { 0.0 }
    );
    Ok(())
}

fn is_spoken(path: &Path, format: Option<Format>) -> bool {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    format == Some(Format::Spoken) || format.is_none() && matches!(ending.as_deref(), Some("h5" | "hdf5"))
}

fn spoken_summary(path: &Path) -> Result<Summary, Failure> {
    let mut s = Summary {
        format: Format::Spoken,
        width: spoken::UNITS,
        height: 1,
        events: 0,
        on: 0,
        first_us: i64::MAX,
        last_us: i64::MIN,
        broken: None,
    };
    spoken::read(path, |r| {
        s.events += r.events.len() as u64;
        for e in &r.events {
            (s.first_us, s.last_us) = (s.first_us.min(e.t), s.last_us.max(e.t));
        }
        Ok(())
    })
    .map_err(failed)?;
    s.on = s.events;
    if s.events == 0 {
        (s.first_us, s.last_us) = (0, 0);
    }
    Ok(s)
}

/// The frames of a recording, one after the other.
struct Sample {
    frames: Vec<Vec<f32>>,
    label: Option<i64>,
}

fn binned(a: &EventsArguments, bin: i64, out: &Path) -> Result<(), Failure> {
    let (mut samples, mut classes, mut size, mut progress) = (vec![], vec![], a.size, Progress::new());
    let mut flat = false;
    let mut files: Vec<(PathBuf, Option<i64>)> = vec![];
    for path in &a.files {
        if !path.is_dir() {
            files.push((path.clone(), None));
            continue;
        }
        for class in sorted(path)?.into_iter().filter(|p| p.is_dir()) {
            let name = class.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let label = classes.iter().position(|c| *c == name).unwrap_or_else(|| {
                classes.push(name);
                classes.len() - 1
            });
            files.extend(sorted(&class)?.into_iter().filter(|p| p.is_file()).map(|p| (p, Some(label as i64))));
        }
        if classes.is_empty() {
            return Err(Failure::Text(format!("the folder `{}` has no folders, which are the classes", path.display())));
        }
    }
    let count = files.len();
    for (i, (path, label)) in files.into_iter().enumerate() {
        progress.say(|| format!("{i} of {count} recordings"));
        if is_spoken(&path, a.format) {
            flat = true;
            spoken::read(&path, |r| {
                samples.push(Sample { frames: spoken_frames(&r.events, bin, a.steps), label: Some(r.label) });
                Ok(())
            })
            .map_err(failed)?;
            continue;
        }
        let reader = Reader::open(&path, a.format).map_err(failed)?;
        let Some(own) = size.or(reader.size()) else {
            return Err(Failure::Text(format!("`{}` does not say how large its sensor is; give `--size 34x34`", path.display())));
        };
        size = Some(own);
        let mut frames = Frames::new(reader, bin, own, a.polarity);
        let mut all = vec![];
        while a.steps.is_none_or(|n| all.len() < n) {
            match frames.next().map_err(failed)? {
                Some(frame) => all.push(frame),
                None => break,
            }
            progress.say(|| format!("{i} of {count} recordings, {} frames", all.len()));
        }
        warn_broken(frames.reader().path(), frames.reader().broken());
        samples.push(Sample { frames: all, label });
    }
    progress.end();
    if flat && samples.iter().any(|s| s.frames.first().is_some_and(|f| f.len() != spoken::UNITS)) {
        return Err(Failure::Text("recordings of SHD and of cameras do not go into one data set".into()));
    }
    write(a, out, &samples, &classes, size, flat)
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let read = |e: std::io::Error| Failure::Text(format!("cannot read the folder `{}`: {e}", folder.display()));
    let mut all = std::fs::read_dir(folder).map_err(read)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(read)?;
    all.retain(|p| p.file_name().is_some_and(|n| !n.to_string_lossy().starts_with('.')));
    all.sort();
    Ok(all)
}

/// Spikes of a spoken digit begin at 0 s.
fn spoken_frames(events: &[Event], bin: i64, steps: Option<usize>) -> Vec<Vec<f32>> {
    let last = events.iter().map(|e| (e.t.max(0) / bin) as usize).max().map_or(0, |l| l + 1);
    let n = steps.unwrap_or(last).min(last.max(1));
    let mut frames = vec![vec![0.0; spoken::UNITS]; n];
    for e in events {
        if let Some(frame) = frames.get_mut((e.t.max(0) / bin) as usize) {
            frame[usize::from(e.x)] += 1.0;
        }
    }
    frames
}

fn write(
    a: &EventsArguments,
    out: &Path,
    samples: &[Sample],
    classes: &[String],
    size: Option<(usize, usize)>,
    flat: bool,
) -> Result<(), Failure> {
    let steps = a.steps.unwrap_or_else(|| samples.iter().map(|s| s.frames.len()).max().unwrap_or(0));
    let (width, height) = size.unwrap_or((spoken::UNITS, 1));
    let channels = a.polarity.channels();
    let frame = if flat { spoken::UNITS } else { channels * width * height };
    let b = samples.len();
    let mut shape = vec![steps, b];
    shape.extend(if flat { vec![spoken::UNITS] } else { vec![channels, height, width] });
    let n = steps.checked_mul(b).and_then(|n| n.checked_mul(frame)).filter(|n| *n <= isize::MAX as usize / 4);
    let n =
        n.ok_or_else(|| Failure::Text(format!("frames of the shape {shape:?} do not fit any memory; take longer bins or `--steps`")))?;
    let needed = if a.polarity == Polarity::Sign { 4 * n } else { n } as u64;
    let limit = super::machine_memory();
    if needed > limit {
        return Err(Failure::Text(format!(
            "frames of the shape {shape:?} take {needed} bytes, and this machine has {limit}; take longer bins or `--steps`"
        )));
    }
    let place = |t: usize, s: usize| (t * b + s) * frame;
    let mut most = 0f32;
    let mut cut = 0;
    let tensor = if a.polarity == Polarity::Sign {
        let mut data = vec![0f32; n];
        for (s, sample) in samples.iter().enumerate() {
            for (t, f) in sample.frames.iter().take(steps).enumerate() {
                data[place(t, s)..place(t, s) + frame].copy_from_slice(f);
            }
        }
        Tensor::f32(shape.clone(), data)
    } else {
        // Counts of a bin are small.
        let mut data = vec![0u8; n];
        for (s, sample) in samples.iter().enumerate() {
            for (t, f) in sample.frames.iter().take(steps).enumerate() {
                for (to, x) in data[place(t, s)..place(t, s) + frame].iter_mut().zip(f) {
                    most = most.max(*x);
                    cut += usize::from(*x > 255.0);
                    *to = x.min(255.0) as u8;
                }
            }
        }
        Tensor::u8(shape.clone(), data)
    };
    if cut > 0 {
        remark!("Warning: {cut} counts above 255, up to {most}, are written as 255; take shorter bins");
    }
    let mut tensors = vec![("x".to_string(), tensor)];
    if samples.iter().any(|s| s.label.is_some()) {
        tensors.push(("label".into(), Tensor::i64([b], samples.iter().map(|s| s.label.unwrap_or(-1)).collect())));
    }
    snnc::save(out, &tensors)?;
    for (i, class) in classes.iter().enumerate() {
        say!("label {i}: {class}, {} recordings", samples.iter().filter(|s| s.label == Some(i as i64)).count());
    }
    say!("{}: x {}{shape:?}, {b} recordings of {steps} steps", out.display(), tensors[0].1.dtype());
    Ok(())
}
