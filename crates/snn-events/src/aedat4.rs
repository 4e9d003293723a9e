//! AEDAT 4: packets of flatbuffers, whole or compressed.
//!
//! The layout is that of dv-processing: a size-prefixed flatbuffer `IOHE` (compression, place of a table, XML), then packets of a stream's number, a size,
//! and a size-prefixed flatbuffer; that of events is `EVTS`, a vector of `{ t i64, x i16, y i16, on bool }`, 16 bytes each.

use std::io::Read;

use crate::Event;

/// How packets are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// What the header says.
#[derive(Clone, Debug)]
pub struct Header {
    /// Of packets.
    pub compression: Compression,
    /// Where the table begins that follows the packets, if it is known.
    pub table: Option<u64>,
    /// Width and height.
    pub size: Option<(usize, usize)>,
}

/// The largest packet that is believed.
pub const LARGEST: usize = 1 << 28;

fn number<const N: usize>(b: &[u8], at: usize) -> Option<[u8; N]> {
    b.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(b: &[u8], at: usize) -> Option<usize> {
    number::<2>(b, at).map(|n| usize::from(u16::from_le_bytes(n)))
}

fn u32_at(b: &[u8], at: usize) -> Option<usize> {
    number::<4>(b, at).map(|n| u32::from_le_bytes(n) as usize)
}

/// Where field `i` of the root table of a flatbuffer is; none where it has its default.
fn field(b: &[u8], i: usize) -> Option<usize> {
    let table = u32_at(b, 0)?;
    let back = i32::from_le_bytes(number(b, table)?);
    let vtable = usize::try_from(table as i64 - i64::from(back)).ok()?;
    let length = u16_at(b, vtable)?;
    let entry = 4 + 2 * i;
    if entry + 2 > length {
        return None;
    }
    match u16_at(b, vtable + entry)? {
        0 => None,
        offset => table.checked_add(offset),
    }
}

/// The header's flatbuffer, without its size.
pub fn header(b: &[u8]) -> Result<Header, String> {
    let compression = match field(b, 0).and_then(|at| u32_at(b, at)).unwrap_or(0) {
        0 => Compression::None,
        1 | 2 => Compression::Lz4,
        3 | 4 => Compression::Zstd,
        other => return Err(format!("its packets are compressed in a way with the number {other}, which is not known")),
    };
    let table = field(b, 1).and_then(|at| number::<8>(b, at)).map(i64::from_le_bytes).and_then(|t| u64::try_from(t).ok());
    let text = field(b, 2).and_then(|at| {
        let start = at.checked_add(u32_at(b, at)?)?;
        let n = u32_at(b, start)?;
        b.get(start + 4..(start + 4).checked_add(n)?)
    });
    let text = text.map(String::from_utf8_lossy).unwrap_or_default();
    let attribute = |key: &str| -> Option<usize> {
        let at = text.find(&format!("key=\"{key}\""))?;
        let rest = &text[at..];
        let value = &rest[rest.find('>')? + 1..];
        value[..value.find('<')?].trim().parse().ok()
    };
    Ok(Header { compression, table, size: attribute("sizeX").zip(attribute("sizeY")) })
}

/// The events of a packet, if it is one of events.
pub fn packet(body: &[u8], compression: Compression, out: &mut Vec<Event>) -> Result<(), String> {
    let limit = LARGEST as u64;
    let mut buffer = Vec::new();
    let whole = match compression {
        Compression::None => body,
        Compression::Lz4 => {
            let read = lz4_flex::frame::FrameDecoder::new(body).take(limit).read_to_end(&mut buffer);
            read.map_err(|e| format!("a packet does not decompress: {e}"))?;
            &buffer
        }
        Compression::Zstd => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(body).map_err(|e| format!("a packet does not decompress: {e}"))?;
            decoder.take(limit).read_to_end(&mut buffer).map_err(|e| format!("a packet does not decompress: {e}"))?;
            &buffer
        }
    };
    // A size, and the flatbuffer, whose identifier follows its root.
    let Some(b) = whole.get(4..) else { return Err("a packet is too short".into()) };
    if b.get(4..8) != Some(b"EVTS") {
        return Ok(());
    }
    let Some(at) = field(b, 0) else { return Ok(()) };
    let elements = u32_at(b, at).and_then(|offset| at.checked_add(offset)).and_then(|start| {
        let n = u32_at(b, start)?;
        b.get(start + 4..(start + 4).checked_add(n.checked_mul(16)?)?)
    });
    let Some(elements) = elements else { return Err("a packet of events says that it is longer than it is".into()) };
    for e in elements.chunks_exact(16) {
        out.push(Event {
            t: i64::from_le_bytes([e[0], e[1], e[2], e[3], e[4], e[5], e[6], e[7]]),
            x: u16::from_le_bytes([e[8], e[9]]),
            y: u16::from_le_bytes([e[10], e[11]]),
            on: e[12] != 0,
        });
    }
    Ok(())
}
