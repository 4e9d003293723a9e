//! Recordings of event cameras.
//!
//! A [`Reader`] gives the events of a file or a pipe in pieces, whatever its length: N-MNIST and N-Caltech101, AEDAT 2, 3.1 and 4, Prophesee's `.dat`,
//! EVT2 and EVT3, CSV and `.npy`. [`spoken`] reads the spoken digits of SHD and SSC. [`Frames`] counts events in bins of time. A file whose end is broken
//! gives what stands before, and says where it breaks ([`Reader::broken`]).

mod aedat4;
mod formats;
mod frames;
mod input;
mod reader;
pub mod spoken;
mod table;

pub use frames::{Frames, Polarity};
pub use reader::{Broken, Format, Reader, Summary, summary};

/// A change of brightness at a pixel, or a spike of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Event {
    /// When, in microseconds.
    pub t: i64,
    /// The column.
    pub x: u16,
    /// The row.
    pub y: u16,
    /// Brighter?
    pub on: bool,
}

/// What is wrong with a recording.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum EventError {
    #[error("cannot read `{path}`: {source}")]
    Read { path: String, source: std::io::Error },
    #[error(
        "`{path}` is none of the known formats: {reason}\n  known are N-MNIST (.bin), AEDAT 2, 3.1 and 4, Prophesee .dat, EVT2 and EVT3 (.raw), SHD (.h5), .csv and .npy"
    )]
    Unknown { path: String, reason: String },
    #[error("`{path}`: {reason}")]
    Format { path: String, reason: String },
    #[error("event {index} of `{path}` is at x = {x}, y = {y}, outside of {width} x {height}")]
    Outside { path: String, index: u64, x: u16, y: u16, width: usize, height: usize },
    #[error("event {index} of `{path}` is at {t} us, {back} us before the one in front of it: the recording is out of order")]
    Disorder { path: String, index: u64, t: i64, back: i64 },
}
