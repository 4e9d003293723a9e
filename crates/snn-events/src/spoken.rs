//! Spoken digits as spikes: the HDF5 files of SHD and SSC (Cramer et al., IEEE TNNLS 2020).
//!
//! `spikes/times` and `spikes/units` hold a list for each recording, of seconds and of channels, and `labels` what was said.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::{Event, EventError};

/// Channels of both data sets.
pub const UNITS: usize = 700;

/// One recording, with its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// Its spikes: `x` is the channel.
    pub events: Vec<Event>,
    /// What was said, as the file numbers it.
    pub label: i64,
}

/// A reference of a variable-length list: its length, and where it is.
struct Reference {
    length: usize,
    heap: u64,
    index: u16,
}

fn references(raw: &[u8]) -> Vec<Reference> {
    let reference = |r: &[u8]| Reference {
        length: u32::from_le_bytes([r[0], r[1], r[2], r[3]]) as usize,
        heap: u64::from_le_bytes([r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11]]),
        index: u16::from_le_bytes([r[12], r[13]]),
    };
    raw.chunks_exact(16).map(reference).collect()
}

/// The bytes of an object of a global heap (HDF5 File Format Specification 3.0, III.E).
fn object(file: &mut (impl Read + Seek), length: u64, r: &Reference) -> Result<Vec<u8>, String> {
    if r.length == 0 {
        return Ok(vec![]);
    }
    let broken = |e: std::io::Error| format!("a list of spikes is cut off: {e}");
    file.seek(SeekFrom::Start(r.heap)).map_err(broken)?;
    let mut head = [0u8; 16];
    file.read_exact(&mut head).map_err(broken)?;
    let size = u64::from_le_bytes([head[8], head[9], head[10], head[11], head[12], head[13], head[14], head[15]]);
    if &head[..4] != b"GCOL" || size < 16 || r.heap.saturating_add(size) > length {
        return Err("a list of spikes is not where the file says".into());
    }
    let mut at = 16;
    while at + 16 <= size {
        let mut object = [0u8; 16];
        file.read_exact(&mut object).map_err(broken)?;
        let index = u16::from_le_bytes([object[0], object[1]]);
        let n = u64::from_le_bytes([object[8], object[9], object[10], object[11], object[12], object[13], object[14], object[15]]);
        at += 16;
        if index == 0 {
            break;
        }
        if n > size - at {
            return Err("a list of spikes is longer than where it lies".into());
        }
        if index == r.index {
            let mut bytes = vec![0; n as usize];
            file.read_exact(&mut bytes).map_err(broken)?;
            return Ok(bytes);
        }
        let step = n.next_multiple_of(8);
        file.seek(SeekFrom::Current(step as i64)).map_err(broken)?;
        at += step;
    }
    Err("a list of spikes is not there".into())
}

fn half(bits: u16) -> f64 {
    let (sign, exponent, mantissa) = (bits >> 15, bits >> 10 & 31, f64::from(bits & 1023));
    let x = match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 => f64::NAN,
        e => (1.0 + mantissa / 1024.0) * 2f64.powi(i32::from(e) - 15),
    };
    if sign == 1 { -x } else { x }
}

/// Reads all recordings of a file, one after the other.
///
/// # Errors
/// If it is no file of this kind; what `each` gives stops it.
pub fn read(path: &Path, mut each: impl FnMut(Spoken) -> Result<(), EventError>) -> Result<(), EventError> {
    let name = path.display().to_string();
    let wrong = |reason: String| EventError::Format { path: name.clone(), reason };
    let file = hdf5_pure::File::open(path).map_err(|e| wrong(format!("it is no HDF5 file that can be read: {e}")))?;
    let raw = |set: &str| file.dataset(set).and_then(|d| d.read_raw()).map_err(|e| wrong(format!("it has no `{set}` as SHD has: {e}")));
    let (times, units) = (references(&raw("spikes/times")?), references(&raw("spikes/units")?));
    let labels = file.dataset("labels").and_then(|d| d.read_i64()).map_err(|e| wrong(format!("it has no `labels`: {e}")))?;
    if times.len() != units.len() || labels.len() != times.len() {
        return Err(wrong(format!("it has {} times, {} units and {} labels", times.len(), units.len(), labels.len())));
    }
    let mut source = std::fs::File::open(path).map_err(|source| EventError::Read { path: name.clone(), source })?;
    let length = source.metadata().map_err(|source| EventError::Read { path: name.clone(), source })?.len();
    for (i, ((t, u), label)) in times.iter().zip(&units).zip(labels).enumerate() {
        let at = |reason: String| wrong(format!("recording {i}: {reason}"));
        let (tb, ub) = (object(&mut source, length, t).map_err(at)?, object(&mut source, length, u).map_err(at)?);
        if t.length != u.length {
            return Err(at(format!("{} times and {} units", t.length, u.length)));
        }
        let n = t.length;
        let (ts, us) = (tb.len().checked_div(n).unwrap_or(0), ub.len().checked_div(n).unwrap_or(0));
        let mut events = Vec::with_capacity(n);
        for k in 0..n {
            let (b, c) = (&tb[k * ts..(k + 1) * ts], &ub[k * us..(k + 1) * us]);
            let seconds = match b {
                [a, b] => half(u16::from_le_bytes([*a, *b])),
                [a, b, c, d] => f64::from(f32::from_le_bytes([*a, *b, *c, *d])),
                [a, b, c, d, e, f, g, h] => f64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
                _ => return Err(at(format!("times of {ts} bytes"))),
            };
            let mut unit = [0u8; 8];
            if c.len() > 8 {
                return Err(at(format!("units of {us} bytes")));
            }
            unit[..c.len()].copy_from_slice(c);
            let unit = u64::from_le_bytes(unit);
            if !seconds.is_finite() || unit >= UNITS as u64 {
                return Err(at(format!("a spike of the channel {unit} at {seconds} s")));
            }
            events.push(Event { t: (seconds * 1e6).round() as i64, x: unit as u16, y: 0, on: true });
        }
        each(Spoken { events, label })?;
    }
    Ok(())
}
