//! What is known when the program is compiled: shapes, lists, numbers.

use snn_ir::{Dim, Type};
use snn_syntax::Span;

use crate::builtins::Arguments;
use crate::context::{Lowerer, Result, Stop};
use crate::value::Val;

impl Lowerer<'_> {
    /// `shape(x)`: the sizes as a list.
    pub(super) fn shape_of(&mut self, a: &Arguments) -> Result<Val> {
        Ok(Val::List(self.type_of(a, 0)?.shape.into_iter().map(Val::Int).collect()))
    }

    /// `rank(x)`: how many axes there are.
    pub(super) fn rank_of(&mut self, a: &Arguments) -> Result<Val> {
        Ok(Val::int(self.type_of(a, 0)?.rank() as i64))
    }

    /// `axis_of(x, axis)`: the axis, counted from the front.
    pub(super) fn axis_of(&mut self, a: &Arguments) -> Result<Val> {
        let ty = self.type_of(a, 0)?;
        Ok(Val::int(self.axis(a.get(1), 0, &ty, a.span(1))? as i64))
    }

    /// `count(x; axis)`: how many elements there are along axes.
    pub(super) fn count_of(&mut self, a: &Arguments) -> Result<Val> {
        let ty = self.type_of(a, 0)?;
        let axes = self.axes(a.get(1), &ty, a.span(1))?;
        Ok(Val::Int(Dim::product(axes.iter().map(|i| &ty.shape[*i]))))
    }

    /// `range(from, to)`: a list of integers.
    pub(super) fn range_of(&mut self, a: &Arguments) -> Result<Val> {
        let (from, to) = (self.known(a, 0, "from")?, self.known(a, 1, "to")?);
        let n = to.saturating_sub(from).max(0);
        self.check_length(n, a.span)?;
        Ok(Val::List((from..to).map(Val::int).collect()))
    }

    /// `fill(n, value)`: a list of one value.
    pub(super) fn filled_list(&mut self, a: &Arguments) -> Result<Val> {
        let n = self.known(a, 0, "n")?;
        self.check_length(n, a.span(0))?;
        Ok(Val::List(vec![a.get(1); n as usize]))
    }

    /// `pair(x; n)`: a list of n numbers from one, or from n.
    pub(super) fn paired(&mut self, a: &Arguments) -> Result<Val> {
        let n = if matches!(a.get(1), Val::Nothing) { 2 } else { self.known(a, 1, "n")? };
        self.check_length(n, a.span(1))?;
        let mut items = self.integers(a.get(0), a.span(0))?;
        if items.len() == 1 {
            items = vec![items[0].clone(); n as usize];
        }
        if items.len() != n as usize {
            return self.fail(a.span(0), format!("one number or {n} are needed, not {}", items.len()), "here");
        }
        Ok(Val::List(items.into_iter().map(Val::Int).collect()))
    }

    /// `product(items)`.
    pub(super) fn product_of(&mut self, a: &Arguments) -> Result<Val> {
        Ok(Val::Int(Dim::product(&self.integers(a.get(0), a.span(0))?)))
    }

    /// `exact_div(a, b)`: integers whose ratio is one.
    pub(super) fn exactly_divided(&mut self, a: &Arguments) -> Result<Val> {
        let (x, y) = (self.integers(a.get(0), a.span(0))?, self.integers(a.get(1), a.span(1))?);
        let (Some(x), Some(y)) = (x.first(), y.first()) else { return Err(Stop::Said) };
        Ok(match x.divided_exactly(y) {
            Some(d) => Val::Int(d),
            None if x.as_constant().is_none() => Val::Int(x.floor_div(y)),
            None => return self.fail(a.span, format!("{x} is not a multiple of {y}"), "here"),
        })
    }

    /// `len(list)`: of a list, or of the first axis.
    pub(super) fn length_of(&mut self, a: &Arguments) -> Result<Val> {
        match a.get(0) {
            Val::List(items) | Val::Tuple(items) => Ok(Val::int(items.len() as i64)),
            v => {
                let v = self.lift(v, None, a.span(0))?;
                match self.ty(v).shape.first() {
                    Some(d) => Ok(Val::Int(d.clone())),
                    None => self.fail(a.span(0), "a scalar has no length", "here"),
                }
            }
        }
    }

    /// `same_shape(a, b)`: are they known to be the same?
    pub(super) fn are_of_one_shape(&mut self, a: &Arguments) -> Result<Val> {
        let [x, y] = [0, 1].map(|i| match a.get(i) {
            Val::List(_) | Val::Tuple(_) | Val::Int(_) => self.integers(a.get(i), a.span(i)),
            v => self.lift(v, None, a.span(i)).map(|v| self.ty(v).shape),
        });
        Ok(Val::Bool(x? == y?))
    }

    fn type_of(&mut self, a: &Arguments, i: usize) -> Result<Type> {
        let v = self.lift(a.get(i), None, a.span(i))?;
        Ok(self.ty(v))
    }

    /// A list of that many elements can be made.
    fn check_length(&self, n: i64, span: Span) -> Result<()> {
        let most = crate::lower::MAX_LIST as i64;
        match n {
            _ if n < 0 => self.fail(span, format!("a list of {n} elements"), "this is negative"),
            _ if n > most => self.fail_help(
                span,
                format!("a list of {n} elements: at most {most} are made"),
                "here",
                "a tensor can be longer: `arange(n)`",
            ),
            _ => Ok(()),
        }
    }
}
