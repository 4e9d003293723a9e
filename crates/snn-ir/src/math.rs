//! Elementary functions, defined once.
//!
//! Each function is written over [`Lanes`], a handful of exact floating-point and integer operations. The interpreter
//! instantiates it with [`Scalar`], a code generator with the instructions that it emits; so both agree to the bit. No
//! operation here contracts a product and a sum into one.
//!
//! Reductions and polynomials are those of the Cephes library (S. L. Moshier, "Methods and Programs for Mathematical
//! Functions", 1989); the error function's are Chebyshev fits. Errors, tested against f64 over the whole range of f32: at most
//! 4 ulp for `exp`, `log`, `tanh`, `erf`, `sin` and `cos` (which reduce large angles with 96 bits of `2 / pi`, after M. Payne and
//! R. Hanek, "Radian reduction for trigonometric functions", 1983). `rem` is exact. `pow` has a relative error of `2^-23` times
//! one plus `|y ln x|`.

// Coefficients are written as they were fitted.
#![allow(clippy::excessive_precision)]

use std::f32::consts::LOG2_E;

/// Exact operations on lanes of floats, integers and masks.
#[allow(missing_docs)]
pub trait Lanes {
    type F: Copy;
    type I: Copy;
    type M: Copy;
    fn float(&mut self, x: f32) -> Self::F;
    fn int(&mut self, x: i32) -> Self::I;
    fn add(&mut self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(&mut self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(&mut self, a: Self::F, b: Self::F) -> Self::F;
    fn div(&mut self, a: Self::F, b: Self::F) -> Self::F;
    fn neg(&mut self, a: Self::F) -> Self::F;
    fn abs(&mut self, a: Self::F) -> Self::F;
    fn sqrt(&mut self, a: Self::F) -> Self::F;
    fn floor(&mut self, a: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    fn round(&mut self, a: Self::F) -> Self::F;
    /// NaN where either is NaN.
    fn max(&mut self, a: Self::F, b: Self::F) -> Self::F;
    /// NaN where either is NaN.
    fn min(&mut self, a: Self::F, b: Self::F) -> Self::F;
    fn lt(&mut self, a: Self::F, b: Self::F) -> Self::M;
    fn le(&mut self, a: Self::F, b: Self::F) -> Self::M;
    fn eq(&mut self, a: Self::F, b: Self::F) -> Self::M;
    fn int_eq(&mut self, a: Self::I, b: Self::I) -> Self::M;
    fn and(&mut self, a: Self::M, b: Self::M) -> Self::M;
    fn or(&mut self, a: Self::M, b: Self::M) -> Self::M;
    fn not(&mut self, a: Self::M) -> Self::M;
    fn select(&mut self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// [`exp`]. A code generator that writes loops may take it out of them.
    fn exponential(&mut self, x: Self::F) -> Self::F
    where
        Self: Sized,
    {
        exp(self, x)
    }
    /// Of a float that is an integer; saturates, NaN becomes 0.
    fn to_int(&mut self, a: Self::F) -> Self::I;
    fn to_float(&mut self, a: Self::I) -> Self::F;
    fn bits(&mut self, a: Self::F) -> Self::I;
    fn bits_to_float(&mut self, a: Self::I) -> Self::F;
    fn int_add(&mut self, a: Self::I, b: Self::I) -> Self::I;
    fn int_sub(&mut self, a: Self::I, b: Self::I) -> Self::I;
    fn int_and(&mut self, a: Self::I, b: Self::I) -> Self::I;
    fn shift_left(&mut self, a: Self::I, n: u8) -> Self::I;
    /// Keeps the sign.
    fn shift_right(&mut self, a: Self::I, n: u8) -> Self::I;
    /// The exact remainder of `a / b` with the sign of `a`, as C's `fmodf`.
    fn fmod(&mut self, a: Self::F, b: Self::F) -> Self::F;
    /// The angle `r` and the right angles `k` that [`far_angle`] gives, in lanes where `|x| > FAR`; in others `r` and `k` as they are.
    fn far_angles(&mut self, x: Self::F, r: Self::F, k: Self::I) -> (Self::F, Self::I);
}

/// From where on sine and cosine reduce their angle with more digits.
pub const FAR: f32 = 100_000.0;

/// `x` as right angles, of which the lowest two bits are right, and the rest in `-pi / 4 ... pi / 4`; for `|x| >= 1`.
///
/// The mantissa times those bits of `2 / pi` that do not give multiples of four right angles, in 96 bits.
pub fn far_angle(x: f32) -> (f32, i32) {
    // A quarter of 2 / pi, so that what is left of the product are two bits of right angles and a fraction.
    const HALF_OVER_PI: [u32; 6] = [0x28be_60db, 0x9391_054a, 0x7f09_d5f4, 0x7d4d_3770, 0x36d8_a566, 0x4f10_e410];
    let bits = x.to_bits();
    let exponent = (bits >> 23 & 0xff) as i32 - 126;
    if exponent > 128 {
        return (f32::NAN, 0);
    }
    let mantissa = bits << 8 | 0x8000_0000;
    let (word, shift) = ((exponent >> 5) as usize, (exponent & 31) as u32);
    // 32 bits from `shift` on, of two words.
    let at = |i: usize| {
        let of = |i: usize| i.checked_sub(1).and_then(|i| HALF_OVER_PI.get(i)).copied().unwrap_or(0);
        if shift == 0 { of(i) } else { of(i) << shift | of(i + 1) >> (32 - shift) }
    };
    let (high, middle, low) = (at(word), at(word + 1), at(word + 2));
    let p = u64::from(mantissa) * u64::from(low);
    let p = u64::from(mantissa) * u64::from(middle) + (p >> 32);
    let p = (u64::from(mantissa.wrapping_mul(high)) << 32).wrapping_add(p);
    // Two bits of right angles, 62 bits of a fraction, rounded to the nearest right angle.
    let quarters = (p >> 62) + (p >> 61 & 1);
    let fraction = (p << 2) as i64;
    let r = fraction as f32 * (std::f32::consts::FRAC_PI_2 / 18_446_744_073_709_551_616.0);
    let k = quarters as i32;
    if x < 0.0 { (-r, -k) } else { (r, k) }
}

fn polynomial<L: Lanes>(l: &mut L, x: L::F, coefficients: &[f32]) -> L::F {
    let mut sum = l.float(coefficients[0]);
    for c in &coefficients[1..] {
        let product = l.mul(sum, x);
        let c = l.float(*c);
        sum = l.add(product, c);
    }
    sum
}

/// `a - k * part` for each part, one after the other.
fn reduce<L: Lanes>(l: &mut L, mut a: L::F, k: L::F, parts: &[f32]) -> L::F {
    for part in parts {
        let p = l.float(*part);
        let p = l.mul(k, p);
        a = l.sub(a, p);
    }
    a
}

/// `x`, or `low` where it is lower; NaN stays. For a `low` that is not zero.
fn at_least<L: Lanes>(l: &mut L, x: L::F, low: f32) -> L::F {
    let low = l.float(low);
    let lower = l.lt(x, low);
    l.select(lower, low, x)
}

/// `x`, or `high` where it is higher; NaN stays. For a `high` that is not zero.
fn at_most<L: Lanes>(l: &mut L, x: L::F, high: f32) -> L::F {
    let high = l.float(high);
    let higher = l.lt(high, x);
    l.select(higher, high, x)
}

/// A number whose neighbours are 1 away, as are those of its sums with small integers: 1.5 times 2^23, plus twice the bias of an exponent.
const WHOLE: f32 = 12_582_912.0 + 254.0;

/// `e^x`.
#[inline]
pub fn exp<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let x = at_least(l, x, -104.0);
    let x = at_most(l, x, 89.0);
    let scale = l.float(LOG2_E);
    let scaled = l.mul(x, scale);
    // The sum has no bits for a fraction: it is rounded to an integer, and its lowest bits are `k` plus twice the bias of an exponent.
    let whole = l.float(WHOLE);
    let shifted = l.add(scaled, whole);
    let k = l.sub(shifted, whole);
    let r = reduce(l, x, k, &[0.693_359_4, -2.121_944_4e-4]);
    let p = polynomial(l, r, &[1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]);
    let rr = l.mul(r, r);
    let y = l.mul(p, rr);
    let y = l.add(y, r);
    let one = l.float(1.0);
    let y = l.add(y, one);
    // Two steps, so that results below the normal range are reached: 2^k is the product of two numbers with the exponents `half` and `rest`.
    let (bits, mask) = (l.bits(shifted), l.int(0x1ff));
    let biased = l.int_and(bits, mask);
    let half = l.shift_right(biased, 1);
    let rest = l.int_sub(biased, half);
    let (half, rest) = (l.shift_left(half, 23), l.shift_left(rest, 23));
    let (a, b) = (l.bits_to_float(half), l.bits_to_float(rest));
    let y = l.mul(y, a);
    l.mul(y, b)
}

/// The natural logarithm: `-inf` at 0, NaN below.
pub fn log<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let zero = l.float(0.0);
    let smallest = l.float(f32::MIN_POSITIVE);
    let subnormal = l.lt(x, smallest);
    let two_23 = l.float(8_388_608.0);
    let scaled = l.mul(x, two_23);
    let normal = l.select(subnormal, scaled, x);
    let bits = l.bits(normal);
    let exponent = l.shift_right(bits, 23);
    let bias = l.int(126);
    let exponent = l.int_sub(exponent, bias);
    let e = l.to_float(exponent);
    let by = l.float(23.0);
    let lower = l.sub(e, by);
    let e = l.select(subnormal, lower, e);
    let mask = l.int(0x007f_ffff);
    let mantissa = l.int_and(bits, mask);
    let half_bits = l.int(0x3f00_0000);
    let m = l.int_add(mantissa, half_bits);
    let m = l.bits_to_float(m);
    let root = l.float(std::f32::consts::FRAC_1_SQRT_2);
    let small = l.lt(m, root);
    let one = l.float(1.0);
    let doubled = l.add(m, m);
    let m = l.select(small, doubled, m);
    let m = l.sub(m, one);
    let lower = l.sub(e, one);
    let e = l.select(small, lower, e);
    let p = polynomial(
        l,
        m,
        &[
            7.037_683_6e-2,
            -1.151_461e-1,
            1.167_699_9e-1,
            -1.242_014_1e-1,
            1.424_932_3e-1,
            -1.666_805_8e-1,
            2.000_071_5e-1,
            -2.499_999_4e-1,
            3.333_333_1e-1,
        ],
    );
    let z = l.mul(m, m);
    let y = l.mul(p, m);
    let y = l.mul(y, z);
    let c = l.float(-2.121_944_4e-4);
    let c = l.mul(e, c);
    let y = l.add(y, c);
    let half = l.float(0.5);
    let c = l.mul(half, z);
    let y = l.sub(y, c);
    let y = l.add(m, y);
    let c = l.float(0.693_359_4);
    let c = l.mul(e, c);
    let y = l.add(y, c);
    // inf and NaN give themselves, 0 gives -inf, what is below gives NaN.
    let infinity = l.float(f32::INFINITY);
    let finite = l.lt(x, infinity);
    let y = l.select(finite, y, x);
    let is_zero = l.eq(x, zero);
    let minus = l.float(f32::NEG_INFINITY);
    let y = l.select(is_zero, minus, y);
    let negative = l.lt(x, zero);
    let nan = l.float(f32::NAN);
    l.select(negative, nan, y)
}

/// Sine of `x` plus `quarter` right angles.
fn sine<L: Lanes>(l: &mut L, x: L::F, quarter: i32) -> L::F {
    let scale = l.float(std::f32::consts::FRAC_2_PI);
    let k = l.mul(x, scale);
    let k = l.round(k);
    // Parts of pi / 2 with 8 bits each, so that their products with k are exact.
    let r = reduce(l, x, k, &[1.570_312_5, 4.825_592e-4, 1.266_598_7e-6, 9.920_936e-10]);
    let k = l.to_int(k);
    let (r, k) = l.far_angles(x, r, k);
    let z = l.mul(r, r);
    let s = polynomial(l, z, &[-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1]);
    let s = l.mul(s, z);
    let s = l.mul(s, r);
    let s = l.add(s, r);
    let c = polynomial(l, z, &[2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2]);
    let c = l.mul(c, z);
    let c = l.mul(c, z);
    let half = l.float(0.5);
    let h = l.mul(half, z);
    let c = l.sub(c, h);
    let one = l.float(1.0);
    let c = l.add(c, one);
    let by = l.int(quarter);
    let q = l.int_add(k, by);
    let (i1, i2, i0) = (l.int(1), l.int(2), l.int(0));
    let odd = l.int_and(q, i1);
    let even = l.int_eq(odd, i0);
    let y = l.select(even, s, c);
    let flip = l.int_and(q, i2);
    let keep = l.int_eq(flip, i0);
    let negative = l.neg(y);
    l.select(keep, y, negative)
}

/// Sine of radians.
pub fn sin<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    sine(l, x, 0)
}

/// Cosine of radians.
pub fn cos<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    sine(l, x, 1)
}

/// Puts the sign of `x` on `y`, which is not negative.
fn with_sign<L: Lanes>(l: &mut L, y: L::F, x: L::F) -> L::F {
    let zero = l.float(0.0);
    let negative = l.lt(x, zero);
    let minus = l.neg(y);
    l.select(negative, minus, y)
}

/// Hyperbolic tangent.
pub fn tanh<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let a = l.abs(x);
    let twice = l.add(a, a);
    let e = l.exponential(twice);
    let one = l.float(1.0);
    let two = l.float(2.0);
    let d = l.add(e, one);
    let d = l.div(two, d);
    let large = l.sub(one, d);
    let large = with_sign(l, large, x);
    let z = l.mul(x, x);
    let p = polynomial(l, z, &[-5.704_988_7e-3, 2.063_908_8e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1]);
    let p = l.mul(p, z);
    let p = l.mul(p, x);
    let small = l.add(p, x);
    let limit = l.float(0.625);
    let is_small = l.lt(a, limit);
    l.select(is_small, small, large)
}

/// The error function.
pub fn erf<L: Lanes>(l: &mut L, x: L::F) -> L::F {
    let a = l.abs(x);
    let z = l.mul(x, x);
    let p =
        polynomial(l, z, &[8.304_784e-5, -8.127_657e-4, 5.199_752_7e-3, -2.685_890_7e-2, 1.128_368_75e-1, -3.761_263_2e-1, 1.283_791_7e-1]);
    let p = l.mul(p, x);
    let small = l.add(p, x);
    let b = at_most(l, a, 4.0);
    let q = polynomial(
        l,
        b,
        &[
            1.610_240_5e-6,
            -4.551_277_4e-5,
            5.920_927_5e-4,
            -4.736_950_6e-3,
            2.635_512_1e-2,
            -1.099_608e-1,
            -6.319_562e-1,
            -1.130_155_1,
            3.002_688_2e-4,
        ],
    );
    let e = l.exponential(q);
    let one = l.float(1.0);
    let large = l.sub(one, e);
    let large = with_sign(l, large, x);
    let limit = l.float(0.935);
    let is_small = l.lt(a, limit);
    l.select(is_small, small, large)
}

/// `x^y`: `exp(y ln x)`, with `x^0 = 1^y = 1`, a negative `x` to a whole power, and infinities as in C's `pow`.
pub fn pow<L: Lanes>(l: &mut L, x: L::F, y: L::F) -> L::F {
    let (zero, one, half) = (l.float(0.0), l.float(1.0), l.float(0.5));
    let a = l.abs(x);
    let e = log(l, a);
    let e = l.mul(e, y);
    // Not 0 times infinity: 1 and -1 to an infinite power are 1.
    let of_one = l.eq(a, one);
    let e = l.select(of_one, zero, e);
    let power = exp(l, e);
    let whole = l.floor(y);
    let is_whole = l.eq(whole, y);
    let half_y = l.mul(y, half);
    let half_floor = l.floor(half_y);
    let is_even = l.eq(half_floor, half_y);
    let minus = l.neg(power);
    let signed = l.select(is_even, power, minus);
    let (nan, infinity) = (l.float(f32::NAN), l.float(f32::INFINITY));
    let is_infinite = l.eq(a, infinity);
    let fraction = l.select(is_infinite, power, nan);
    let below = l.select(is_whole, signed, fraction);
    let negative = l.lt(x, zero);
    let result = l.select(negative, below, power);
    let (y_zero, x_one) = (l.eq(y, zero), l.eq(x, one));
    let is_one = l.or(y_zero, x_one);
    l.select(is_one, one, result)
}

/// The remainder of `x / y` with the sign of `y`, exact: `fmod`, and `y` more where the signs differ, as PyTorch's `remainder`.
pub fn rem<L: Lanes>(l: &mut L, x: L::F, y: L::F) -> L::F {
    let r = l.fmod(x, y);
    let zero = l.float(0.0);
    let (r_below, y_below) = (l.lt(r, zero), l.lt(y, zero));
    let (r_above, y_above) = (l.lt(zero, r), l.lt(zero, y));
    let (below, above) = (l.and(r_below, y_above), l.and(r_above, y_below));
    let differ = l.or(below, above);
    let moved = l.add(r, y);
    l.select(differ, moved, r)
}

/// One lane, on this machine: what the interpreter computes with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scalar;

impl Lanes for Scalar {
    type F = f32;
    type I = i32;
    type M = bool;
    #[inline]
    fn float(&mut self, x: f32) -> f32 {
        x
    }
    #[inline]
    fn int(&mut self, x: i32) -> i32 {
        x
    }
    #[inline]
    fn add(&mut self, a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline]
    fn sub(&mut self, a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline]
    fn mul(&mut self, a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline]
    fn div(&mut self, a: f32, b: f32) -> f32 {
        a / b
    }
    #[inline]
    fn neg(&mut self, a: f32) -> f32 {
        -a
    }
    #[inline]
    fn abs(&mut self, a: f32) -> f32 {
        a.abs()
    }
    #[inline]
    fn sqrt(&mut self, a: f32) -> f32 {
        a.sqrt()
    }
    #[inline]
    fn floor(&mut self, a: f32) -> f32 {
        a.floor()
    }
    #[inline]
    fn round(&mut self, a: f32) -> f32 {
        a.round_ties_even()
    }
    // Selections, and no branches: loops over them become vectors.
    #[inline]
    fn max(&mut self, a: f32, b: f32) -> f32 {
        let larger = if a > b { a } else { b };
        // Both zeros: +0 is the larger.
        let best = if a == b { f32::from_bits(a.to_bits() & b.to_bits()) } else { larger };
        if a.is_nan() | b.is_nan() { f32::NAN } else { best }
    }
    #[inline]
    fn min(&mut self, a: f32, b: f32) -> f32 {
        let smaller = if a < b { a } else { b };
        let best = if a == b { f32::from_bits(a.to_bits() | b.to_bits()) } else { smaller };
        if a.is_nan() | b.is_nan() { f32::NAN } else { best }
    }
    #[inline]
    fn lt(&mut self, a: f32, b: f32) -> bool {
        a < b
    }
    #[inline]
    fn le(&mut self, a: f32, b: f32) -> bool {
        a <= b
    }
    #[inline]
    fn eq(&mut self, a: f32, b: f32) -> bool {
        a == b
    }
    #[inline]
    fn int_eq(&mut self, a: i32, b: i32) -> bool {
        a == b
    }
    #[inline]
    fn and(&mut self, a: bool, b: bool) -> bool {
        a && b
    }
    #[inline]
    fn or(&mut self, a: bool, b: bool) -> bool {
        a || b
    }
    #[inline]
    fn not(&mut self, a: bool) -> bool {
        !a
    }
    #[inline]
    fn select(&mut self, m: bool, a: f32, b: f32) -> f32 {
        if m { a } else { b }
    }
    #[inline]
    fn to_int(&mut self, a: f32) -> i32 {
        a as i32
    }
    #[inline]
    fn to_float(&mut self, a: i32) -> f32 {
        a as f32
    }
    #[inline]
    fn bits(&mut self, a: f32) -> i32 {
        a.to_bits() as i32
    }
    #[inline]
    fn bits_to_float(&mut self, a: i32) -> f32 {
        f32::from_bits(a as u32)
    }
    #[inline]
    fn int_add(&mut self, a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }
    #[inline]
    fn int_sub(&mut self, a: i32, b: i32) -> i32 {
        a.wrapping_sub(b)
    }
    #[inline]
    fn int_and(&mut self, a: i32, b: i32) -> i32 {
        a & b
    }
    #[inline]
    fn shift_left(&mut self, a: i32, n: u8) -> i32 {
        a << n
    }
    #[inline]
    fn shift_right(&mut self, a: i32, n: u8) -> i32 {
        a >> n
    }
    #[inline]
    fn fmod(&mut self, a: f32, b: f32) -> f32 {
        a % b
    }
    #[inline]
    fn far_angles(&mut self, x: f32, r: f32, k: i32) -> (f32, i32) {
        if x.abs() > FAR { far_angle(x) } else { (r, k) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The distance of `got` and the true value in units of the last place of the latter.
    fn ulps(got: f32, truth: f64) -> f64 {
        if truth.is_nan() && got.is_nan() || truth as f32 == got {
            return 0.0;
        }
        let t = truth as f32;
        let unit = if t.is_infinite() { 1.0 } else { f64::from(f32::from_bits(t.abs().to_bits() + 1)) - f64::from(t.abs()) };
        (f64::from(got) - truth).abs() / unit
    }

    fn check(name: &str, ours: impl Fn(f32) -> f32, truth: impl Fn(f64) -> f64, low: f32, high: f32) {
        let mut worst = (0.0, 0.0);
        for i in 0..400_000 {
            let x = low + (high - low) * (i as f32 / 400_000.0);
            let error = ulps(ours(x), truth(f64::from(x)));
            if error > worst.0 {
                worst = (error, x);
            }
        }
        assert!(worst.0 <= 4.0, "{name}({}) is off by {} ulp", worst.1, worst.0);
    }

    /// The error function by its series and, above 3, its continued fraction, in f64.
    fn erf_f64(x: f64) -> f64 {
        let a = x.abs();
        let y = if a < 3.0 {
            let (mut term, mut sum) = (a, a);
            for n in 1..200 {
                let n = f64::from(n);
                term *= -a * a / n;
                sum += term / (2.0 * n + 1.0);
            }
            sum * 2.0 / std::f64::consts::PI.sqrt()
        } else {
            let fraction = (1..60).rev().fold(0.0, |f, n| f64::from(n) / 2.0 / (a + f));
            1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / (a + fraction)
        };
        y.copysign(x)
    }

    #[test]
    fn functions_are_within_four_ulp() {
        let l = || Scalar;
        check("exp", |x| exp(&mut l(), x), f64::exp, -110.0, 95.0);
        check("log", |x| log(&mut l(), x), f64::ln, 1e-6, 10.0);
        check("log", |x| log(&mut l(), x), f64::ln, 1.0, 1e30);
        check("tanh", |x| tanh(&mut l(), x), f64::tanh, -12.0, 12.0);
        check("sin", |x| sin(&mut l(), x), f64::sin, -30.0, 30.0);
        check("cos", |x| cos(&mut l(), x), f64::cos, -30.0, 30.0);
        check("sin", |x| sin(&mut l(), x), f64::sin, -100_000.0, 100_000.0);
        check("cos", |x| cos(&mut l(), x), f64::cos, -100_000.0, 100_000.0);
        check("erf", |x| erf(&mut l(), x), erf_f64, -5.0, 5.0);
    }

    #[test]
    fn special_values_are_those_of_ieee() {
        let l = &mut Scalar;
        assert!(exp(l, f32::NAN).is_nan() && log(l, f32::NAN).is_nan() && tanh(l, f32::NAN).is_nan());
        assert_eq!((exp(l, f32::INFINITY), exp(l, f32::NEG_INFINITY)), (f32::INFINITY, 0.0));
        assert_eq!((log(l, 0.0), log(l, f32::INFINITY)), (f32::NEG_INFINITY, f32::INFINITY));
        assert!(log(l, -1.0).is_nan() && sin(l, f32::INFINITY).is_nan());
        assert_eq!(ulps(log(l, 1e-42), f64::from(1e-42f32).ln()), 0.0);
        assert_eq!((tanh(l, f32::INFINITY), erf(l, f32::NEG_INFINITY)), (1.0, -1.0));
        assert_eq!((pow(l, 0.0, 0.0), pow(l, 0.0, -1.0), pow(l, -2.0, 3.0)), (1.0, f32::INFINITY, -pow(l, 2.0, 3.0)));
        assert!(pow(l, -2.0, 0.5).is_nan() && erf(l, f32::NAN).is_nan());
        assert_eq!((rem(l, -1.0, 3.0), rem(l, 1.0, -3.0)), (2.0, -2.0));
        assert_eq!((rem(l, 123_456_792.0, 7.0), rem(l, 2.0, f32::INFINITY), rem(l, -2.0, f32::INFINITY)), (4.0, 2.0, f32::INFINITY));
        assert!(rem(l, f32::INFINITY, 2.0).is_nan() && rem(l, 1.0, 0.0).is_nan());
    }

    /// Floats of all magnitudes, both signs.
    fn all_magnitudes() -> impl Iterator<Item = f32> {
        (0..0x7f80_0000u32).step_by(20_011).flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)])
    }

    #[test]
    fn functions_are_right_over_the_whole_range() {
        let l = &mut Scalar;
        for x in all_magnitudes() {
            let t = f64::from(x);
            for (name, ours, truth) in [
                ("exp", exp(l, x), t.exp()),
                ("log", log(l, x.abs()), t.abs().ln()),
                ("sin", sin(l, x), t.sin()),
                ("cos", cos(l, x), t.cos()),
                ("tanh", tanh(l, x), t.tanh()),
                ("erf", erf(l, x), erf_f64(t)),
            ] {
                assert!(ulps(ours, truth) <= 4.0, "{name}({x:e}) is {ours:e}, not {truth:e}");
            }
        }
    }

    #[test]
    fn remainders_are_exact_and_have_the_sign_of_the_divisor() {
        let l = &mut Scalar;
        for x in all_magnitudes().step_by(37) {
            for y in [7.0f32, -0.3, 1e-20, 3e30] {
                let r = rem(l, x, y);
                let exact = x % y;
                let wanted = if exact != 0.0 && (exact < 0.0) != (y < 0.0) { exact + y } else { exact };
                assert!(r == wanted && (r == 0.0 || (r < 0.0) == (y < 0.0)), "{x:e} % {y:e} is {r:e}");
            }
        }
    }
}
