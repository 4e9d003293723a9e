//! Random numbers: PyTorch's CPU generator for parameters, and a counter-based one for everything at run time.

use crate::math::{self, Scalar};
use crate::op::Distribution;

/// A generator equal to PyTorch's on the CPU: MT19937 (Matsumoto and Nishimura, 1998), seeded with the low 32 bits of a seed.
#[derive(Clone)]
pub struct TorchGenerator {
    state: [u32; 624],
    next: usize,
    spare: Option<f64>,
}

impl TorchGenerator {
    /// As `torch.manual_seed(seed)`.
    pub fn new(seed: u64) -> TorchGenerator {
        let mut state = [0u32; 624];
        state[0] = seed as u32;
        for i in 1..624 {
            let previous = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(i as u32);
        }
        TorchGenerator { state, next: 624, spare: None }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == 624 {
            for i in 0..624 {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % 624] & 0x7fff_ffff);
                let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + 397) % 624] ^ (y >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// A float in `[0, 1)` from 24 bits.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() & 0x00ff_ffff) as f32 / 16_777_216.0
    }

    fn uniform_f64(&mut self) -> f64 {
        let (high, low) = (u64::from(self.next_u32()), u64::from(self.next_u32()));
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    /// `n` numbers, drawn as `torch.rand` and `torch.randn` draw a tensor of `n` elements.
    pub fn fill(&mut self, distribution: Distribution, n: usize) -> Vec<f32> {
        match distribution {
            Distribution::Uniform => (0..n).map(|_| self.uniform()).collect(),
            Distribution::Normal if n >= 16 => {
                let mut data: Vec<f32> = (0..n).map(|_| self.uniform()).collect();
                for block in data.chunks_exact_mut(16) {
                    box_muller(block);
                }
                if !n.is_multiple_of(16) {
                    let last = &mut data[n - 16..];
                    for x in last.iter_mut() {
                        *x = self.uniform();
                    }
                    box_muller(last);
                }
                data
            }
            Distribution::Normal => (0..n).map(|_| self.normal_f64() as f32).collect(),
        }
    }

    fn normal_f64(&mut self) -> f64 {
        if let Some(z) = self.spare.take() {
            return z;
        }
        let (u1, u2) = (self.uniform_f64(), self.uniform_f64());
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * u1).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }
}

/// Box and Muller's transform of 16 uniforms in place, in PyTorch's arrangement.
fn box_muller(block: &mut [f32]) {
    let (first, second) = block.split_at_mut(8);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * (1.0 - *a).ln()).sqrt();
        let (sin, cos) = (std::f32::consts::TAU * *b).sin_cos();
        *a = radius * cos;
        *b = radius * sin;
    }
}

/// Ten rounds of Philox4x32 (Salmon et al., 2011): four random words for a key and a counter.
fn philox(key: [u32; 2], mut counter: [u32; 4]) -> [u32; 4] {
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = u64::from(counter[0]) * 0xd251_1f53;
        let p1 = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [(p1 >> 32) as u32 ^ counter[1] ^ k0, p1 as u32, (p0 >> 32) as u32 ^ counter[3] ^ k1, p0 as u32];
        k0 = k0.wrapping_add(0x9e37_79b9);
        k1 = k1.wrapping_add(0xbb67_ae85);
    }
    counter
}

/// `n` numbers that depend on the seed, the stream and their place only, so that threads do not change them.
pub fn fill_counter_based(distribution: Distribution, seed: u64, stream: u32, n: usize) -> Vec<f32> {
    fill_range(distribution, seed, stream, 0..n as u64)
}

/// The numbers of some places of [`fill_counter_based`].
pub fn fill_range(distribution: Distribution, seed: u64, stream: u32, places: std::ops::Range<u64>) -> Vec<f32> {
    let key = [seed as u32, (seed >> 32) as u32];
    let unit = |x: u32| (x >> 8) as f32 / 16_777_216.0;
    let n = (places.end - places.start) as usize;
    let first = places.start / 4;
    let mut data = Vec::with_capacity(n + 6);
    for block in first..places.end.div_ceil(4) {
        let words = philox(key, [block as u32, (block >> 32) as u32, stream, 0]);
        match distribution {
            Distribution::Uniform => data.extend(words.map(unit)),
            Distribution::Normal => {
                for pair in words.chunks_exact(2) {
                    let l = &mut Scalar;
                    let radius = (-2.0 * math::log(l, 1.0 - unit(pair[0]))).sqrt();
                    let angle = std::f32::consts::TAU * unit(pair[1]);
                    data.push(radius * math::cos(l, angle));
                    data.push(radius * math::sin(l, angle));
                }
            }
        }
    }
    data.drain(..(places.start - first * 4) as usize);
    data.truncate(n);
    data
}

/// Random numbers for the indices `part` of an axis of a tensor of that shape: those that the whole tensor has there.
pub fn fill_part(
    distribution: Distribution,
    seed: u64,
    stream: u32,
    shape: &[usize],
    axis: usize,
    part: std::ops::Range<usize>,
) -> Vec<f32> {
    let inner: usize = shape[axis + 1..].iter().product();
    let outer: usize = shape[..axis].iter().product();
    let place = |o: usize, i: usize| ((o * shape[axis] + i) * inner) as u64;
    (0..outer).flat_map(|o| fill_range(distribution, seed, stream, place(o, part.start)..place(o, part.end))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mersenne_twister_gives_its_published_numbers() {
        // The ten thousandth output of MT19937 with the default seed, as the C++ standard states it.
        let mut g = TorchGenerator::new(5489);
        let last = (0..10_000).map(|_| g.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn philox_gives_its_published_numbers() {
        // The known-answer test of Random123 for ten rounds with all bits zero.
        assert_eq!(philox([0, 0], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    }

    #[test]
    fn a_part_has_the_numbers_of_the_whole() {
        for distribution in [Distribution::Uniform, Distribution::Normal] {
            let whole = fill_counter_based(distribution, 7, 3, 3 * 5 * 2);
            let part = fill_part(distribution, 7, 3, &[3, 5, 2], 1, 1..4);
            let wanted: Vec<f32> = (0..3).flat_map(|o| whole[o * 10 + 2..o * 10 + 8].to_vec()).collect();
            assert_eq!(part, wanted);
        }
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let data = fill_counter_based(Distribution::Normal, 1, 2, 100_000);
        let mean = data.iter().map(|x| f64::from(*x)).sum::<f64>() / 1e5;
        let variance = data.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
