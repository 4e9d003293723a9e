//! Dimensions: integer expressions over names that data binds at run time.
//!
//! A [`Dim`] is kept as a polynomial in normal form, so that two dimensions are equal exactly when they are written the
//! same way: `3 * C + C` and `4 * C` are one value. Division rounds down and stays symbolic where it is not exact.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The sizes that names of dimensions stand for.
pub type Dims = BTreeMap<String, i64>;

/// A factor of a monomial: a name, or a quotient that is not exact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Atom {
    Name(String),
    FloorDiv(Box<Dim>, Box<Dim>),
}

/// A dimension: a polynomial with integer coefficients over names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Dim {
    /// The monomial without names. Most dimensions are nothing else, and cost no memory.
    constant: i64,
    /// Sorted factors, at least one, of each other monomial, with its coefficient (never zero).
    terms: BTreeMap<Vec<Atom>, i64>,
}

/// Why a dimension has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DimError {
    /// A name has no size.
    #[error("the dimension `{0}` has no size")]
    Unbound(String),
    /// The value does not fit 64 bits.
    #[error("the dimension `{0}` is too large")]
    Overflow(String),
    /// A divisor is zero.
    #[error("the dimension `{0}` divides by zero")]
    DivideByZero(String),
}

/// A product of more terms than this is not written out.
const MOST_TERMS: usize = 1 << 16;

thread_local! {
    static OVERFLOW: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Has arithmetic on dimensions left 64 bits, or become too long to write out, since this was asked last? Its results are then
/// meaningless; whoever evaluates what a user wrote asks after each step.
pub fn take_overflow() -> bool {
    OVERFLOW.replace(false)
}

fn noted<T>(result: Option<T>, otherwise: T) -> T {
    result.unwrap_or_else(|| {
        OVERFLOW.set(true);
        otherwise
    })
}

/// `floor(a / b)`, if it fits.
pub fn floor_div(a: i64, b: i64) -> Option<i64> {
    let (quotient, rest) = (a.checked_div(b)?, a.checked_rem(b)?);
    Some(if rest != 0 && (rest < 0) != (b < 0) { quotient - 1 } else { quotient })
}

/// `a - b floor(a / b)`, the remainder with the sign of `b`.
pub fn floor_rem(a: i64, b: i64) -> Option<i64> {
    let rest = a.checked_rem(b)?;
    Some(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
}

impl Dim {
    /// The number `n`.
    pub fn constant(n: i64) -> Dim {
        Dim { constant: n, terms: BTreeMap::new() }
    }

    /// The dimension called `name`.
    pub fn name(name: impl Into<String>) -> Dim {
        Dim::atom(Atom::Name(name.into()))
    }

    fn atom(atom: Atom) -> Dim {
        Dim { constant: 0, terms: BTreeMap::from([(vec![atom], 1)]) }
    }

    /// The factors and the coefficient of each monomial that is not zero.
    fn monomials(&self) -> impl Iterator<Item = (&[Atom], i64)> {
        let constant = (self.constant != 0).then_some((&[][..], self.constant));
        constant.into_iter().chain(self.terms.iter().map(|(factors, c)| (factors.as_slice(), *c)))
    }

    /// The number that this is, if it has no names.
    pub fn as_constant(&self) -> Option<i64> {
        self.terms.is_empty().then_some(self.constant)
    }

    /// The name that this is, if it is nothing but one name.
    pub fn as_name(&self) -> Option<&str> {
        match self.terms.iter().next() {
            Some((factors, 1)) if self.terms.len() == 1 && self.constant == 0 => match factors.as_slice() {
                [Atom::Name(name)] => Some(name),
                _ => None,
            },
            _ => None,
        }
    }

    /// Is this the number 1?
    pub fn is_one(&self) -> bool {
        self.as_constant() == Some(1)
    }

    fn insert(&mut self, factors: Vec<Atom>, coefficient: i64) {
        use std::collections::btree_map::Entry;
        if factors.is_empty() {
            self.constant = noted(self.constant.checked_add(coefficient), self.constant);
            return;
        }
        match self.terms.entry(factors) {
            Entry::Vacant(e) if coefficient != 0 => {
                e.insert(coefficient);
            }
            Entry::Vacant(_) => {}
            Entry::Occupied(mut e) => {
                *e.get_mut() = noted(e.get().checked_add(coefficient), *e.get());
                if *e.get() == 0 {
                    e.remove();
                }
            }
        }
    }

    /// `self + other`. What does not fit 64 bits is noted, see [`take_overflow`].
    pub fn plus(&self, other: &Dim) -> Dim {
        let mut sum = self.clone();
        for (factors, c) in other.monomials() {
            sum.insert(factors.to_vec(), c);
        }
        sum
    }

    /// `self - other`.
    pub fn minus(&self, other: &Dim) -> Dim {
        self.plus(&other.times(&Dim::constant(-1)))
    }

    /// `self * other`. What does not fit is noted, see [`take_overflow`].
    pub fn times(&self, other: &Dim) -> Dim {
        let mut product = Dim::default();
        if self.terms.len().saturating_mul(other.terms.len()) > MOST_TERMS {
            return noted(None, product);
        }
        for (a, c) in self.monomials() {
            for (b, d) in other.monomials() {
                let mut factors: Vec<Atom> = a.iter().chain(b).cloned().collect();
                factors.sort();
                product.insert(factors, noted(c.checked_mul(d), c));
            }
        }
        product
    }

    /// `self / other` where that is exact for every value of the names.
    pub fn divided_exactly(&self, other: &Dim) -> Option<Dim> {
        let mut monomials = other.monomials();
        let (Some((divisor, d)), None) = (monomials.next(), monomials.next()) else {
            return (self == other).then(|| Dim::constant(1));
        };
        let mut quotient = Dim::default();
        for (factors, c) in self.monomials() {
            let mut rest = factors.to_vec();
            for factor in divisor {
                let at = rest.iter().position(|f| f == factor)?;
                rest.remove(at);
            }
            if c.checked_rem(d).is_some_and(|r| r != 0) {
                return None;
            }
            quotient.insert(rest, noted(c.checked_div(d), c));
        }
        Some(quotient)
    }

    /// `floor(self / other)`.
    pub fn floor_div(&self, other: &Dim) -> Dim {
        match (self.as_constant(), other.as_constant()) {
            (Some(a), Some(b)) if b != 0 => return Dim::constant(noted(floor_div(a, b), a)),
            _ => {}
        }
        if let Some(exact) = self.divided_exactly(other) {
            return exact;
        }
        // floor((a + d * b) / d) = floor(a / d) + b: take out what divides, so that equal quotients have one form.
        let mut whole = Dim::default();
        let mut rest = self.clone();
        if let Some(d) = other.as_constant().filter(|d| *d > 0) {
            rest = Dim::default();
            for (factors, c) in self.monomials() {
                whole.insert(factors.to_vec(), c.div_euclid(d));
                rest.insert(factors.to_vec(), c.rem_euclid(d));
            }
            if rest.as_constant().is_some() {
                return whole;
            }
        }
        let atom = Atom::FloorDiv(Box::new(rest), Box::new(other.clone()));
        whole.plus(&Dim::atom(atom))
    }

    /// The product of several dimensions.
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
        dims.into_iter().fold(Dim::constant(1), |a, b| a.times(b))
    }

    /// The names in this dimension, with repetition.
    pub fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for atom in self.terms.keys().flatten() {
            match atom {
                Atom::Name(n) => names.push(n.as_str()),
                Atom::FloorDiv(a, b) => {
                    names.extend(a.names());
                    names.extend(b.names());
                }
            }
        }
        names
    }

    /// This dimension with sizes put in for the names that `dims` has.
    pub fn bind(&self, dims: &Dims) -> Dim {
        if self.as_constant().is_some() {
            return self.clone();
        }
        let mut sum = Dim::default();
        for (factors, c) in self.monomials() {
            let mut product = Dim::constant(c);
            for factor in factors {
                product = product.times(&match factor {
                    Atom::Name(n) => dims.get(n).map_or_else(|| Dim::name(n), |v| Dim::constant(*v)),
                    Atom::FloorDiv(a, b) => a.bind(dims).floor_div(&b.bind(dims)),
                });
            }
            sum = sum.plus(&product);
        }
        sum
    }

    /// The value of this dimension, exactly.
    pub fn evaluate(&self, dims: &Dims) -> Result<i64, DimError> {
        let overflow = || DimError::Overflow(self.to_string());
        let mut sum = 0i64;
        for (factors, c) in self.monomials() {
            let mut product = c;
            for factor in factors {
                let value = match factor {
                    Atom::Name(n) => *dims.get(n).ok_or_else(|| DimError::Unbound(n.clone()))?,
                    Atom::FloorDiv(a, b) => {
                        let (a, b) = (a.evaluate(dims)?, b.evaluate(dims)?);
                        if b == 0 {
                            return Err(DimError::DivideByZero(self.to_string()));
                        }
                        floor_div(a, b).ok_or_else(overflow)?
                    }
                };
                product = product.checked_mul(value).ok_or_else(overflow)?;
            }
            sum = sum.checked_add(product).ok_or_else(overflow)?;
        }
        Ok(sum)
    }
}

impl From<i64> for Dim {
    fn from(n: i64) -> Dim {
        Dim::constant(n)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Dim::default() {
            return f.write_str("0");
        }
        // Monomials with names come first, the constant last.
        let (named, constant): (Vec<_>, Vec<_>) = self.monomials().partition(|(k, _)| !k.is_empty());
        for (i, (factors, c)) in named.into_iter().chain(constant).enumerate() {
            let sign = if c < 0 { "-" } else { "+" };
            match (i, c < 0) {
                (0, false) => {}
                (0, true) => f.write_str("-")?,
                _ => write!(f, " {sign} ")?,
            }
            let magnitude = c.unsigned_abs();
            if factors.is_empty() {
                write!(f, "{magnitude}")?;
                continue;
            }
            if magnitude != 1 {
                write!(f, "{magnitude} * ")?;
            }
            for (j, factor) in factors.iter().enumerate() {
                if j > 0 {
                    f.write_str(" * ")?;
                }
                match factor {
                    Atom::Name(n) => f.write_str(n)?,
                    Atom::FloorDiv(a, b) => write!(f, "(({a}) / ({b}))")?,
                }
            }
        }
        Ok(())
    }
}

impl FromStr for Dim {
    type Err = String;

    fn from_str(text: &str) -> Result<Dim, String> {
        let mut parser = Parser { text, at: 0, depth: 0 };
        let dim = parser.sum()?;
        parser.space();
        if parser.at < text.len() {
            return Err(format!("`{text}` is not a dimension: `{}` is left over", &text[parser.at..]));
        }
        Ok(dim)
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn space(&mut self) {
        while self.text[self.at..].starts_with(' ') {
            self.at += 1;
        }
    }

    fn eat(&mut self, token: char) -> bool {
        self.space();
        let found = self.text[self.at..].starts_with(token);
        if found {
            self.at += token.len_utf8();
        }
        found
    }

    fn sum(&mut self) -> Result<Dim, String> {
        let mut sum = if self.eat('-') { Dim::default().minus(&self.product()?) } else { self.product()? };
        loop {
            if self.eat('+') {
                sum = sum.plus(&self.product()?);
            } else if self.eat('-') {
                sum = sum.minus(&self.product()?);
            } else {
                return Ok(sum);
            }
        }
    }

    fn product(&mut self) -> Result<Dim, String> {
        let mut product = self.atom()?;
        loop {
            if self.eat('*') {
                product = product.times(&self.atom()?);
            } else if self.eat('/') {
                product = product.floor_div(&self.atom()?);
            } else {
                return Ok(product);
            }
        }
    }

    fn atom(&mut self) -> Result<Dim, String> {
        if self.eat('(') {
            self.depth += 1;
            if self.depth > 64 {
                return Err("a dimension is nested too deeply".into());
            }
            let inner = self.sum()?;
            self.depth -= 1;
            return if self.eat(')') { Ok(inner) } else { Err(format!("`{}` lacks a `)`", self.text)) };
        }
        self.space();
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).unwrap_or(rest.len());
        let word = &rest[..end];
        self.at += end;
        if word.is_empty() {
            Err(format!("`{}` is not a dimension", self.text))
        } else if word.starts_with(|c: char| c.is_ascii_digit()) {
            word.parse().map(Dim::constant).map_err(|_| format!("`{word}` is not a size"))
        } else {
            Ok(Dim::name(word))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dim(text: &str) -> Dim {
        text.parse().unwrap()
    }

    #[test]
    fn equal_expressions_have_one_form() {
        assert_eq!(dim("3 * C + C"), dim("4*C"));
        assert_eq!(dim("(T + 1) * (T - 1)"), dim("T * T - 1"));
        assert_eq!(dim("(4 * H + 2) / 2"), dim("2 * H + 1"));
        assert_ne!(dim("H / 2 * 2"), dim("H"));
        assert_eq!(dim("(H - 2) / 2 + 1"), dim("H / 2"));
    }

    #[test]
    fn text_reads_back() {
        for text in ["0", "-3", "T", "2 * B * T - 1", "(H + 1) / 2 + 1", "-T + 4"] {
            let d = dim(text);
            assert_eq!(dim(&d.to_string()), d, "{text}");
        }
    }

    #[test]
    fn binding_evaluates_what_it_can() {
        let dims = Dims::from([("H".to_string(), 7)]);
        assert_eq!(dim("(H + 2) / 2 * C").bind(&dims), dim("4 * C"));
        assert_eq!(dim("(H + 3) / 2").evaluate(&dims), Ok(5));
        assert_eq!(dim("H * H").evaluate(&dims), Ok(49));
        assert_eq!(dim("C").evaluate(&dims), Err(DimError::Unbound("C".into())));
        let huge = Dims::from([("H".to_string(), i64::MAX)]);
        assert!(matches!(dim("2 * H").evaluate(&huge), Err(DimError::Overflow(_))));
    }
}
