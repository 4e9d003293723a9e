//! Events counted in bins of time.

use crate::{Event, EventError, Reader};

/// What a frame holds of polarities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polarity {
    /// Two channels: off, on.
    Split,
    /// One channel: all events.
    Sum,
    /// One channel: on less off.
    Sign,
}

impl Polarity {
    /// How many channels that makes.
    pub fn channels(self) -> usize {
        match self {
            Polarity::Split => 2,
            Polarity::Sum | Polarity::Sign => 1,
        }
    }
}

impl std::str::FromStr for Polarity {
    type Err = String;
    fn from_str(text: &str) -> Result<Polarity, String> {
        match text {
            "split" => Ok(Polarity::Split),
            "sum" => Ok(Polarity::Sum),
            "sign" => Ok(Polarity::Sign),
            other => Err(format!("`{other}` is none of split, sum, sign")),
        }
    }
}

/// How far an event may lie before the one in front of it: sensors give pixels of a row out of order, and times in packets.
const DISORDER: i64 = 100_000;
/// More frames than this are no recording.
const MOST: i64 = 10_000_000;

/// Frames of a recording, one after the other: `[channels, height, width]`.
///
/// Bins begin at the first event. An event that comes late counts in the frame that is being filled.
pub struct Frames {
    reader: Reader,
    bin: i64,
    size: (usize, usize),
    polarity: Polarity,
    buffer: Vec<Event>,
    at: usize,
    start: Option<i64>,
    last: i64,
    given: i64,
    seen: u64,
    frame: Vec<f32>,
    ended: bool,
}

impl Frames {
    /// Frames of `bin` microseconds and `size` (width, height).
    pub fn new(reader: Reader, bin: i64, size: (usize, usize), polarity: Polarity) -> Frames {
        let n = polarity.channels() * size.0 * size.1;
        Frames {
            reader,
            bin: bin.max(1),
            size,
            polarity,
            buffer: vec![],
            at: 0,
            start: None,
            last: i64::MIN,
            given: 0,
            seen: 0,
            frame: vec![0.0; n],
            ended: false,
        }
    }

    /// The recording.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    fn count(&mut self, e: Event) -> Result<(), EventError> {
        let (width, height) = self.size;
        let (x, y) = (usize::from(e.x), usize::from(e.y));
        if x >= width || y >= height {
            let path = self.reader.path().to_string();
            return Err(EventError::Outside { path, index: self.seen, x: e.x, y: e.y, width, height });
        }
        let place = y * width + x;
        match self.polarity {
            Polarity::Split => self.frame[usize::from(e.on) * width * height + place] += 1.0,
            Polarity::Sum => self.frame[place] += 1.0,
            Polarity::Sign => self.frame[place] += if e.on { 1.0 } else { -1.0 },
        }
        Ok(())
    }

    /// The next frame; none after the last event.
    ///
    /// # Errors
    /// Events outside of the sensor or out of order, and those of [`Reader::next`].
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Vec<f32>>, EventError> {
        while !self.ended {
            if self.at == self.buffer.len() {
                self.at = 0;
                if !self.reader.next(&mut self.buffer)? {
                    self.ended = true;
                    return Ok((self.start.is_some()).then(|| std::mem::take(&mut self.frame)));
                }
            }
            let e = self.buffer[self.at];
            let start = *self.start.get_or_insert(e.t);
            let back = self.last.saturating_sub(e.t);
            let bin = e.t.saturating_sub(start) / self.bin;
            if self.last != i64::MIN && back > DISORDER || bin > MOST {
                return Err(EventError::Disorder { path: self.reader.path().into(), index: self.seen, t: e.t, back });
            }
            if bin > self.given {
                // The event waits for its frame.
                self.given += 1;
                let empty = vec![0.0; self.frame.len()];
                return Ok(Some(std::mem::replace(&mut self.frame, empty)));
            }
            self.count(e)?;
            self.last = self.last.max(e.t);
            self.at += 1;
            self.seen += 1;
        }
        Ok(None)
    }
}
