//! Formats of fixed words. Each decoder takes what is whole and gives how many bytes it took.

use crate::Event;

/// A decoder of words, with what it has to remember between them.
#[derive(Clone, Debug)]
pub enum Words {
    /// Five bytes, big-endian: x, y, polarity and 23 bits of time; `y = 240` adds 2^13 us to the time.
    NMnist { overflow: i64 },
    /// Eight bytes, big-endian: address and time, of a DVS128.
    Aedat2,
    /// Eight bytes, little-endian: data and time, in packets of so many events.
    Aedat31 { left: u32, skipped: bool, size: u32, overflow: i64 },
    /// Eight bytes, little-endian: time, and x, y, polarity.
    Dat,
    /// Four bytes, little-endian.
    Evt2 { high: i64, wraps: i64 },
    /// Two bytes, little-endian.
    Evt3 { y: u16, base: u16, on: bool, low: i64, high: i64, wraps: i64 },
}

fn u32_le(b: &[u8]) -> u32 {
    u32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

fn u32_be(b: &[u8]) -> u32 {
    u32::from_be_bytes([b[0], b[1], b[2], b[3]])
}

impl Words {
    /// How long a word is.
    pub fn size(&self) -> usize {
        match self {
            Words::NMnist { .. } => 5,
            Words::Aedat2 | Words::Aedat31 { .. } | Words::Dat => 8,
            Words::Evt2 { .. } => 4,
            Words::Evt3 { .. } => 2,
        }
    }

    /// What must be there to go on: a word, or the header of a packet.
    pub fn least(&self) -> usize {
        match self {
            Words::Aedat31 { left: 0, .. } => 28,
            Words::Aedat31 { size, .. } => *size as usize,
            _ => self.size(),
        }
    }

    /// Decodes all whole words of `bytes`; gives how many bytes they were.
    ///
    /// # Errors
    /// A word that cannot be one.
    pub fn decode(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<usize, String> {
        let whole = bytes.len() / self.size() * self.size();
        match self {
            Words::NMnist { overflow } => {
                for w in bytes[..whole].chunks_exact(5) {
                    if w[1] == 240 {
                        *overflow += 1 << 13;
                        continue;
                    }
                    let t = i64::from(u32_be(&[0, w[2] & 0x7f, w[3], w[4]]));
                    out.push(Event { t: t + *overflow, x: w[0].into(), y: w[1].into(), on: w[2] & 0x80 != 0 });
                }
            }
            Words::Aedat2 => {
                for w in bytes[..whole].chunks_exact(8) {
                    let (a, t) = (u32_be(w), u32_be(&w[4..]));
                    out.push(Event { t: t.into(), x: (a >> 8 & 127) as u16, y: (a >> 1 & 127) as u16, on: a & 1 != 0 });
                }
            }
            Words::Aedat31 { left, skipped, size, overflow } => {
                let mut at = 0;
                loop {
                    if *left == 0 {
                        let Some(h) = bytes.get(at..at + 28) else { break };
                        let kind = u16::from_le_bytes([h[0], h[1]]);
                        (*size, *left) = (u32_le(&h[4..]), u32_le(&h[16..]));
                        *overflow = i64::from(u32_le(&h[12..])) << 31;
                        *skipped = kind != 1;
                        if *size == 0 || *size > 1 << 24 || (!*skipped && *size != 8) {
                            return Err(format!("a packet has events of {size} bytes"));
                        }
                        at += 28;
                        continue;
                    }
                    let step = *size as usize;
                    let n = ((bytes.len() - at) / step).min(*left as usize);
                    if n == 0 {
                        break;
                    }
                    if !*skipped {
                        for w in bytes[at..at + n * step].chunks_exact(8) {
                            let (d, t) = (u32_le(w), u32_le(&w[4..]));
                            let (x, y) = ((d >> 17 & 0x1fff) as u16, (d >> 2 & 0x1fff) as u16);
                            out.push(Event { t: i64::from(t) + *overflow, x, y, on: d >> 1 & 1 != 0 });
                        }
                    }
                    at += n * step;
                    *left -= n as u32;
                }
                return Ok(at);
            }
            Words::Dat => {
                for w in bytes[..whole].chunks_exact(8) {
                    let (t, d) = (u32_le(w), u32_le(&w[4..]));
                    out.push(Event { t: t.into(), x: (d & 0x3fff) as u16, y: (d >> 14 & 0x3fff) as u16, on: d >> 28 & 1 != 0 });
                }
            }
            Words::Evt2 { high, wraps } => {
                for w in bytes[..whole].chunks_exact(4) {
                    let w = u32_le(w);
                    match w >> 28 {
                        kind @ (0 | 1) => out.push(Event {
                            t: (*wraps + *high) << 6 | i64::from(w >> 22 & 0x3f),
                            x: (w >> 11 & 0x7ff) as u16,
                            y: (w & 0x7ff) as u16,
                            on: kind == 1,
                        }),
                        8 => {
                            let new = i64::from(w & 0x0fff_ffff);
                            if new < *high && *high - new > 1 << 27 {
                                *wraps += 1 << 28;
                            }
                            *high = new;
                        }
                        _ => {}
                    }
                }
            }
            Words::Evt3 { y, base, on, low, high, wraps } => {
                for w in bytes[..whole].chunks_exact(2) {
                    let w = u16::from_le_bytes([w[0], w[1]]);
                    match w >> 12 {
                        0 => *y = w & 0x7ff,
                        2 => out.push(Event { t: *wraps + *high + *low, x: w & 0x7ff, y: *y, on: w & 0x800 != 0 }),
                        3 => (*base, *on) = (w & 0x7ff, w & 0x800 != 0),
                        kind @ (4 | 5) => {
                            let n = if kind == 4 { 12 } else { 8 };
                            let mut mask = w & ((1 << n) - 1);
                            let t = *wraps + *high + *low;
                            while mask != 0 {
                                out.push(Event { t, x: base.wrapping_add(mask.trailing_zeros() as u16), y: *y, on: *on });
                                mask &= mask - 1;
                            }
                            *base = base.wrapping_add(n);
                        }
                        6 => *low = i64::from(w & 0xfff),
                        8 => {
                            let new = i64::from(w & 0xfff) << 12;
                            // A small step back is disorder, and a large one the end of 24 bits.
                            if new < *high && *high - new > 1 << 23 {
                                *wraps += 1 << 24;
                            }
                            *high = new;
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(whole)
    }
}
