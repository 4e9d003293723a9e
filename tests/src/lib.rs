//! What the tests share.

pub mod workloads;

/// A small generator of numbers, so that a failure can be repeated from its seed.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next number of 31 bits.
    pub fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// A number below `n`.
    pub fn roll(&mut self, n: usize) -> usize {
        self.next_number() as usize % n
    }

    /// One of several words.
    pub fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.roll(list.len())]
    }

    /// A float that is not harmless: now and then a zero, an infinity, a NaN, a very small or a very large one.
    pub fn wild(&mut self) -> f32 {
        let special = [0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40, f32::MIN_POSITIVE, 3e38];
        match self.roll(12) {
            0 => special[self.roll(special.len())],
            _ => (self.roll(4001) as f32 - 2000.0) / 500.0,
        }
    }

    /// A float between -1 and 1.
    pub fn tame(&mut self) -> f32 {
        self.roll(2001) as f32 / 1000.0 - 1.0
    }
}
