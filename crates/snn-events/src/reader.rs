//! Recordings, in pieces.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::aedat4::{self, Header};
use crate::formats::Words;
use crate::input::Input;
use crate::table::{Columns, LONGEST_LINE, Rows};
use crate::{Event, EventError};

/// How a recording is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// N-MNIST and N-Caltech101.
    NMnist,
    /// AEDAT 2 of a DVS128, such as CIFAR10-DVS.
    Aedat2,
    /// AEDAT 3.1, such as DVS128 Gesture.
    Aedat31,
    /// AEDAT 4.
    Aedat4,
    /// Prophesee's `.dat`.
    Dat,
    /// Prophesee's EVT 2.
    Evt2,
    /// Prophesee's EVT 3.
    Evt3,
    /// Rows of text.
    Csv,
    /// A NumPy array.
    Npy,
    /// Spikes of SHD and SSC, which [`crate::spoken`] reads.
    Spoken,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 10] = [
        Format::NMnist,
        Format::Aedat2,
        Format::Aedat31,
        Format::Aedat4,
        Format::Dat,
        Format::Evt2,
        Format::Evt3,
        Format::Csv,
        Format::Npy,
        Format::Spoken,
    ];

    /// What it is called in options and answers.
    pub fn name(self) -> &'static str {
        match self {
            Format::NMnist => "nmnist",
            Format::Aedat2 => "aedat2",
            Format::Aedat31 => "aedat3.1",
            Format::Aedat4 => "aedat4",
            Format::Dat => "dat",
            Format::Evt2 => "evt2",
            Format::Evt3 => "evt3",
            Format::Csv => "csv",
            Format::Npy => "npy",
            Format::Spoken => "shd",
        }
    }
}

impl std::str::FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> Result<Format, String> {
        let names: Vec<&str> = Format::ALL.iter().map(|f| f.name()).collect();
        Format::ALL.into_iter().find(|f| f.name() == text).ok_or_else(|| format!("`{text}` is none of {}", names.join(", ")))
    }
}

/// Where a recording breaks off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The first byte that is not whole.
    pub byte: u64,
    /// Why.
    pub why: String,
    /// How many events stand before it.
    pub kept: u64,
}

enum Kind {
    Words(Words),
    Aedat4(Header),
    Csv { columns: Columns, line: u64 },
    Npy(Rows),
}

/// A recording that is read in pieces.
pub struct Reader {
    path: String,
    format: Format,
    size: Option<(usize, usize)>,
    input: Input,
    kind: Kind,
    events: u64,
    broken: Option<Broken>,
    done: bool,
}

/// The longest line of a header.
const LONGEST: usize = 1 << 16;

impl Reader {
    /// Opens a file; `-` is standard input. The format is that of its first bytes and its name, where it is not given.
    ///
    /// # Errors
    /// If it cannot be read, or is none of the known formats.
    pub fn open(path: &Path, format: Option<Format>) -> Result<Reader, EventError> {
        let name = path.display().to_string();
        if path == Path::new("-") {
            return Reader::new(Box::new(std::io::stdin()), "standard input", "", format);
        }
        let read = |source| EventError::Read { path: name.clone(), source };
        let about = std::fs::metadata(path).map_err(read)?;
        if about.is_dir() {
            return Err(EventError::Format { path: name, reason: "it is a folder".into() });
        }
        let file = File::open(path).map_err(read)?;
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        Reader::new(Box::new(file), &name, &ending, format)
    }

    /// Reads from a source; `ending` is that of its name, which tells apart what begins alike.
    ///
    /// # Errors
    /// If it cannot be read, or is none of the known formats.
    pub fn new(source: Box<dyn Read + Send>, path: &str, ending: &str, format: Option<Format>) -> Result<Reader, EventError> {
        let mut input = Input::new(source);
        let read = |source| EventError::Read { path: path.into(), source };
        let unknown = |reason: &str| EventError::Unknown { path: path.into(), reason: reason.into() };
        let wrong = |reason: String| EventError::Format { path: path.into(), reason };
        let start = input.fill(16).map_err(read)?.to_vec();
        let text = |n: usize| start.iter().take(n).all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace());
        let mut format = match format {
            Some(f) => f,
            None if start.starts_with(b"#!AER-DAT4") => Format::Aedat4,
            None if start.starts_with(b"#!AER-DAT3") => Format::Aedat31,
            None if start.starts_with(b"#!AER-DAT2") || (start.starts_with(b"#") && ending == "aedat") => Format::Aedat2,
            None if start.starts_with(b"\x93NUMPY") => Format::Npy,
            None if start.starts_with(b"\x89HDF") => Format::Spoken,
            None if start.starts_with(b"%") && ending == "dat" => Format::Dat,
            // Which of both it is, its header says.
            None if start.starts_with(b"%") => Format::Evt3,
            None if matches!(ending, "csv" | "txt") => Format::Csv,
            None if start.is_empty() => return Err(unknown("it is empty")),
            None if ending == "bin" => Format::NMnist,
            None if ending.is_empty() && text(16) => Format::Csv,
            None if ending == "raw" => return Err(unknown("it has no header; say `--format evt2` or `--format evt3`")),
            None => return Err(unknown("neither its first bytes nor its name say what it is; `--format` says it")),
        };
        let said = start.starts_with(b"%") && ending != "dat" && format == Format::Evt3;
        let mut size = None;
        let kind = match format {
            Format::NMnist => Kind::Words(Words::NMnist { overflow: 0 }),
            Format::Aedat2 | Format::Aedat31 => {
                while input.fill(1).map_err(read)?.first() == Some(&b'#') {
                    let line = input.line(LONGEST).map_err(read)?.ok_or_else(|| wrong("its header is cut off".into()))?;
                    if line.starts_with(b"#!END-HEADER") {
                        break;
                    }
                }
                size = Some((128, 128));
                Kind::Words(match format {
                    Format::Aedat2 => Words::Aedat2,
                    _ => Words::Aedat31 { left: 0, skipped: false, size: 8, overflow: 0 },
                })
            }
            Format::Aedat4 => {
                input.line(64).map_err(read)?;
                let prefix = input.fill(4).map_err(read)?;
                let length = prefix.get(..4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
                let length = length.filter(|n| *n <= 1 << 24).ok_or_else(|| wrong("its header is cut off".into()))?;
                input.advance(4);
                let bytes = input.fill(length).map_err(read)?;
                let header =
                    bytes.get(..length).ok_or_else(|| "its header is cut off".to_string()).and_then(aedat4::header).map_err(wrong)?;
                size = header.size;
                input.advance(length);
                Kind::Aedat4(header)
            }
            Format::Dat | Format::Evt2 | Format::Evt3 => {
                let (mut width, mut height, mut version) = (None, None, None);
                while input.fill(1).map_err(read)?.first() == Some(&b'%') {
                    let line = input.line(LONGEST).map_err(read)?.ok_or_else(|| wrong("its header is cut off".into()))?;
                    let line = String::from_utf8_lossy(&line).to_lowercase();
                    let words: Vec<&str> = line[1..].split([' ', ';', '\r', '\n', '\t']).filter(|w| !w.is_empty()).collect();
                    for (i, word) in words.iter().enumerate() {
                        let next = words.get(i + 1).copied().unwrap_or_default();
                        match *word {
                            "width" => width = next.parse().ok(),
                            "height" => height = next.parse().ok(),
                            "evt" => version = next.chars().next(),
                            "format" => version = next.strip_prefix("evt").and_then(|v| v.chars().next()).or(version),
                            "geometry" => {
                                if let Some((w, h)) = next.split_once('x') {
                                    (width, height) = (w.parse().ok(), h.parse().ok());
                                }
                            }
                            w => {
                                width = w.strip_prefix("width=").and_then(|n| n.parse().ok()).or(width);
                                height = w.strip_prefix("height=").and_then(|n| n.parse().ok()).or(height);
                            }
                        }
                    }
                    if words.first() == Some(&"end") {
                        break;
                    }
                }
                size = width.zip(height);
                match (said, version) {
                    (true, Some('2')) => format = Format::Evt2,
                    (true, Some('3')) | (false, _) => {}
                    (true, Some(v)) => return Err(unknown(&format!("its header says EVT {v}, and EVT 2 and 3 are read"))),
                    (true, None) => {
                        return Err(unknown("its header does not say which EVT it is; `--format evt2` or `--format evt3` says it"));
                    }
                }
                Kind::Words(match format {
                    Format::Dat => {
                        let about = input.fill(2).map_err(read)?;
                        let (kind, bytes) = (about.first().copied(), about.get(1).copied());
                        if bytes != Some(8) {
                            return Err(wrong(format!("its events are of the type {kind:?} with {bytes:?} bytes, where 8 are read")));
                        }
                        input.advance(2);
                        Words::Dat
                    }
                    Format::Evt2 => Words::Evt2 { high: 0, wraps: 0 },
                    _ => Words::Evt3 { y: 0, base: 0, on: false, low: 0, high: 0, wraps: 0 },
                })
            }
            Format::Csv => {
                let line = loop {
                    let bytes = input.fill(LONGEST_LINE).map_err(read)?;
                    let n = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
                    let line = String::from_utf8_lossy(&bytes[..n]).trim().trim_start_matches('\u{feff}').to_string();
                    let n = (n + 1).min(bytes.len());
                    if !line.is_empty() && !line.starts_with('#') {
                        break line;
                    }
                    if n == 0 {
                        break line;
                    }
                    input.advance(n);
                };
                match Columns::of(&line) {
                    Some(columns) => {
                        input.line(LONGEST_LINE).map_err(read)?;
                        Kind::Csv { columns, line: 1 }
                    }
                    None if line.chars().any(|c| c.is_ascii_alphabetic()) && Columns::usual().event(&line).is_err() => {
                        return Err(wrong(format!("its first line `{line}` names no columns `t`, `x`, `y`, `p`")));
                    }
                    None => Kind::Csv { columns: Columns::usual(), line: 0 },
                }
            }
            Format::Npy => Kind::Npy(Rows::header(&mut input).map_err(wrong)?),
            Format::Spoken => {
                return Err(wrong("it holds many recordings of SHD or SSC, which are described and binned, and not streamed".into()));
            }
        };
        Ok(Reader { path: path.into(), format, size, input, kind, events: 0, broken: None, done: false })
    }

    /// How it is written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Its name.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Width and height of the sensor, where the file says them.
    pub fn size(&self) -> Option<(usize, usize)> {
        self.size
    }

    /// Where it breaks off, if it does; known at its end.
    pub fn broken(&self) -> Option<&Broken> {
        self.broken.as_ref()
    }

    /// How many bytes were read.
    pub fn place(&self) -> u64 {
        self.input.place()
    }

    /// How many events came so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    fn end(&mut self, why: &str) -> bool {
        self.done = true;
        if !why.is_empty() {
            self.broken = Some(Broken { byte: self.input.place(), why: why.into(), kept: self.events });
        }
        false
    }

    /// The next events in place of those in `out`; false at the end. What is broken ends it.
    ///
    /// # Errors
    /// If it cannot be read, or a row of text is no event.
    pub fn next(&mut self, out: &mut Vec<Event>) -> Result<bool, EventError> {
        out.clear();
        while out.is_empty() {
            if self.done || !self.piece(out)? {
                self.events += out.len() as u64;
                if let Some(b) = &mut self.broken {
                    b.kept = self.events;
                }
                return Ok(!out.is_empty());
            }
        }
        self.events += out.len() as u64;
        Ok(true)
    }

    fn piece(&mut self, out: &mut Vec<Event>) -> Result<bool, EventError> {
        let path = &self.path;
        let read = |source| EventError::Read { path: path.clone(), source };
        match &mut self.kind {
            Kind::Words(words) => {
                let least = words.least();
                let bytes = self.input.fill(least).map_err(read)?;
                if bytes.len() < least {
                    let inside = matches!(words, Words::Aedat31 { left, .. } if *left > 0);
                    let why = if !bytes.is_empty() {
                        "the last word is cut off"
                    } else if inside {
                        "the last packet is cut off"
                    } else {
                        ""
                    };
                    return Ok(self.end(why));
                }
                match words.decode(bytes, out) {
                    Ok(n) => self.input.advance(n),
                    Err(why) => return Ok(self.end(&why)),
                }
            }
            Kind::Aedat4(header) => {
                if header.table.is_some_and(|t| self.input.place() >= t) {
                    return Ok(self.end(""));
                }
                let head = self.input.fill(8).map_err(read)?;
                if head.len() < 8 {
                    let why = if head.is_empty() { "" } else { "the last packet's header is cut off" };
                    return Ok(self.end(why));
                }
                let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
                if size > aedat4::LARGEST {
                    return Ok(self.end(&format!("a packet says that it has {size} bytes")));
                }
                let whole = self.input.fill(8 + size).map_err(read)?;
                let Some(body) = whole.get(8..8 + size) else { return Ok(self.end("the last packet is cut off")) };
                match aedat4::packet(body, header.compression, out) {
                    Ok(()) => self.input.advance(8 + size),
                    Err(why) => return Ok(self.end(&why)),
                }
            }
            Kind::Csv { columns, line } => {
                let bytes = self.input.fill(LONGEST_LINE).map_err(read)?;
                if bytes.is_empty() {
                    return Ok(self.end(""));
                }
                let last = bytes.len() < LONGEST_LINE;
                let mut at = 0;
                let mut cut = None;
                while at < bytes.len() {
                    let n = bytes[at..].iter().position(|b| *b == b'\n');
                    let end = match n {
                        Some(n) => at + n,
                        None if last => bytes.len(),
                        None => break,
                    };
                    let text = String::from_utf8_lossy(&bytes[at..end]);
                    let text = text.trim();
                    *line += 1;
                    if !text.is_empty() && !text.starts_with('#') {
                        match columns.event(text) {
                            Ok(e) => out.push(e),
                            Err(why) if n.is_none() => {
                                cut = Some(format!("its last line `{text}` is cut off: {why}"));
                                break;
                            }
                            Err(why) => {
                                let reason = format!("line {line}, `{}`, is no event: {why}", text.chars().take(80).collect::<String>());
                                return Err(EventError::Format { path: self.path.clone(), reason });
                            }
                        }
                    }
                    at = (end + 1).min(bytes.len());
                }
                if at == 0 && cut.is_none() {
                    return Ok(self.end(&format!("a line is longer than {LONGEST_LINE} bytes")));
                }
                self.input.advance(at);
                if let Some(why) = cut {
                    return Ok(self.end(&why));
                }
            }
            Kind::Npy(rows) => {
                if rows.left == 0 {
                    return Ok(self.end(""));
                }
                let least = rows.size.max(1);
                let bytes = self.input.fill(least).map_err(read)?;
                if bytes.len() < least {
                    return Ok(self.end("it has fewer rows than its header says"));
                }
                let n = rows.decode(bytes, out).map_err(|reason| EventError::Format { path: self.path.clone(), reason })?;
                self.input.advance(n);
            }
        }
        Ok(true)
    }
}

/// What is in a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How it is written.
    pub format: Format,
    /// Of the sensor: as the file says it, else as far as events reach.
    pub width: usize,
    /// Of the sensor.
    pub height: usize,
    /// How many there are.
    pub events: u64,
    /// How many of them are brighter.
    pub on: u64,
    /// The time of the earliest.
    pub first_us: i64,
    /// The time of the latest.
    pub last_us: i64,
    /// Where it breaks off.
    pub broken: Option<Broken>,
}

/// Reads a recording and sums it up; `progress` sees bytes and events now and then.
///
/// # Errors
/// As [`Reader::next`].
pub fn summary(reader: &mut Reader, mut progress: impl FnMut(u64, u64)) -> Result<Summary, EventError> {
    let mut s =
        Summary { format: reader.format(), width: 0, height: 0, events: 0, on: 0, first_us: i64::MAX, last_us: i64::MIN, broken: None };
    let (mut x, mut y) = (0u16, 0u16);
    let mut events = Vec::new();
    while reader.next(&mut events)? {
        for e in &events {
            s.on += u64::from(e.on);
            s.first_us = s.first_us.min(e.t);
            s.last_us = s.last_us.max(e.t);
            x = x.max(e.x);
            y = y.max(e.y);
        }
        s.events += events.len() as u64;
        progress(reader.place(), s.events);
    }
    if s.events == 0 {
        (s.first_us, s.last_us) = (0, 0);
    }
    let reach = if s.events == 0 { (0, 0) } else { (usize::from(x) + 1, usize::from(y) + 1) };
    (s.width, s.height) = reader.size().unwrap_or(reach);
    s.broken = reader.broken().cloned();
    Ok(s)
}
