//! Bytes of a file or a pipe, with a place and a look ahead.

use std::io::{self, Read};

/// Buffered bytes.
pub struct Input {
    source: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The place of `start` in the source.
    at: u64,
    done: bool,
}

const PIECE: usize = 1 << 20;

impl Input {
    pub fn new(source: Box<dyn Read + Send>) -> Input {
        Input { source, buffer: vec![0; PIECE], start: 0, end: 0, at: 0, done: false }
    }

    /// The byte that comes next.
    pub fn place(&self) -> u64 {
        self.at
    }

    /// What is there.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Moves on over `n` bytes that are there.
    pub fn advance(&mut self, n: usize) {
        let n = n.min(self.end - self.start);
        self.start += n;
        self.at += n as u64;
    }

    /// Reads until at least `n` bytes are there; fewer only at the end.
    pub fn fill(&mut self, n: usize) -> io::Result<&[u8]> {
        if self.end - self.start < n {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.buffer.len() < n {
                self.buffer.resize(n.next_multiple_of(PIECE), 0);
            }
            while self.end < n && !self.done {
                match self.source.read(&mut self.buffer[self.end..]) {
                    Ok(0) => self.done = true,
                    Ok(k) => self.end += k,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(self.bytes())
    }

    /// A line with its end, if there is one within `longest` bytes.
    pub fn line(&mut self, longest: usize) -> io::Result<Option<Vec<u8>>> {
        let mut n = 256.min(longest);
        loop {
            let bytes = self.fill(n)?;
            if let Some(i) = bytes.iter().take(longest).position(|b| *b == b'\n') {
                let line = bytes[..=i].to_vec();
                self.advance(i + 1);
                return Ok(Some(line));
            }
            if bytes.len() < n || n >= longest {
                return Ok(None);
            }
            n = (n * 2).min(longest);
        }
    }
}
