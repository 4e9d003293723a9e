//! Loops whose turns do not depend on each other, four turns at a time.
//!
//! Such are the loops over elements that `snn-c` writes: every element of an array that a turn writes is read by that turn alone, because values that
//! live at the same time have memory of their own. A loop is taken where its count is known and its body is a row of declarations and assignments of
//! what [`Kind`] tells apart; all others, and the turns that are left over, are done one by one. Each lane computes what a turn computes.

use std::collections::HashMap;

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};
use cranelift_module::Module;

use crate::generate::{Body, Local, comparison, is_pure};
use crate::parse::{Binary, Expression, INT, Scalar, Statement, Type};

/// Turns of an instruction.
const LANES: i64 = 4;
/// Instructions of each kind in a turn of the loop of vectors.
const REPEATS: i64 = 2;

/// What an expression is in four turns.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// The same in all.
    Same,
    /// An index that is one more in each.
    Next,
    /// Four floats.
    Floats,
    /// Four integers of 32 bits.
    Integers,
    /// Four truths, as integers of all bits or none.
    Truths,
}

/// What the names that a loop declares are.
type Kinds = HashMap<String, Kind>;

/// A loop `for (int i = 0; i < count; ++i)`.
pub struct Counted<'a> {
    name: &'a str,
    count: i64,
    body: &'a [Statement],
}

impl<'a> Counted<'a> {
    /// Takes a loop apart; `None` where it is none of this form, or short.
    pub fn of(first: Option<&'a Statement>, condition: &'a Expression, last: Option<&'a Expression>, body: &'a Statement) -> Option<Self> {
        let Some(Statement::Declare(name, Type::Scalar(INT), Some(Expression::Integer(0, _)))) = first else { return None };
        let is_index = |e: &Expression| matches!(e, Expression::Name(n) if n == name);
        let Expression::Binary(Binary::Less, index, count) = condition else { return None };
        let (Expression::Integer(count, _), Some(Expression::Step(stepped, 1, _))) = (&**count, last) else { return None };
        let Statement::Block(body) = body else { return None };
        (is_index(index) && is_index(stepped) && *count >= LANES * REPEATS).then_some(Counted { name, count: *count, body })
    }
}

impl<M: Module> Body<'_, '_, M> {
    /// Does as many turns of a loop as fill vectors, where it can be done so; the index is then that of the first turn that is left.
    pub(crate) fn by_vectors(&mut self, of: &Counted<'_>) -> Result<(), String> {
        let mut kinds = Kinds::from([(of.name.to_string(), Kind::Next)]);
        if !of.body.iter().all(|s| self.fits(s, &mut kinds).is_some()) {
            return Ok(());
        }
        let Some(Local::Variable(index, _)) = self.local(of.name) else { return Ok(()) };
        let end = of.count - of.count % (LANES * REPEATS);
        let (inside, after) = (self.b.create_block(), self.b.create_block());
        self.b.ins().jump(inside, &[]);
        self.b.switch_to_block(inside);
        for _ in 0..REPEATS {
            let mut lanes = Lanes { kinds: Kinds::from([(of.name.to_string(), Kind::Next)]), values: HashMap::new() };
            self.scopes.push(HashMap::new());
            of.body.iter().try_for_each(|s| self.lanes_of_statement(s, &mut lanes))?;
            self.scopes.pop();
            let i = self.b.use_var(index);
            let next = self.b.ins().iadd_imm_s(i, LANES);
            self.b.def_var(index, next);
        }
        let i = self.b.use_var(index);
        let more = self.b.ins().icmp_imm_s(IntCC::SignedLessThan, i, end);
        self.b.ins().brif(more, inside, &[], after, &[]);
        self.b.switch_to_block(after);
        Ok(())
    }

    /// The kind of a statement's value, where the statement can be done four times at once.
    fn fits(&self, s: &Statement, kinds: &mut Kinds) -> Option<Kind> {
        match s {
            Statement::Declare(name, Type::Scalar(scalar), Some(value)) => {
                let kind = self.kind(value, kinds)?;
                let is_kept = match kind {
                    Kind::Same => true,
                    Kind::Next => *scalar == INT,
                    Kind::Floats => *scalar == Scalar::Float,
                    Kind::Integers => *scalar == INT,
                    Kind::Truths => *scalar == Scalar::Bool,
                };
                // A float that changes later must be one from the beginning.
                let kind = if kind == Kind::Same && *scalar == Scalar::Float { Kind::Floats } else { kind };
                is_kept.then(|| kinds.insert(name.clone(), kind));
                is_kept.then_some(kind)
            }
            Statement::Evaluate(Expression::Assign(place, operator, value)) => match &**place {
                Expression::Name(name) if operator.is_none() => {
                    let old = *kinds.get(name)?;
                    (old == Kind::Floats && self.floats(value, kinds)).then_some(old)
                }
                Expression::Index(base, index) if self.kind(index, kinds)? == Kind::Next => {
                    let written = self.elements(base, kinds)?;
                    match (written, operator) {
                        (Scalar::Float, None | Some(Binary::Add | Binary::Multiply)) => self.floats(value, kinds).then_some(Kind::Floats),
                        (Scalar::Integer { bits: 8 | 16, signed: true }, None) => match &**value {
                            Expression::Cast(Type::Scalar(to), of) if *to == written => {
                                self.kind(of, kinds).filter(|k| *k == Kind::Integers)
                            }
                            _ => None,
                        },
                        _ => None,
                    }
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// The elements that a pointer points to, where it is the same in all turns.
    fn elements(&self, base: &Expression, kinds: &Kinds) -> Option<Scalar> {
        match base {
            Expression::Name(name) if kinds.contains_key(name) => None,
            Expression::Name(name) => match self.local(name) {
                Some(Local::Variable(_, Type::Pointer(s)) | Local::Slot(_, s)) => Some(s),
                Some(_) => None,
                None => self.globals.array(name),
            },
            Expression::Field(of, name) => {
                let Expression::Name(of) = &**of else { return None };
                let Some(Local::Variable(_, Type::Structure(of))) = self.local(of) else { return None };
                self.globals.field(&of, name)
            }
            Expression::Binary(Binary::Add, base, by) => self.elements(base, kinds).filter(|_| self.kind(by, kinds) == Some(Kind::Same)),
            _ => None,
        }
    }

    /// Is it four floats, or one for all?
    fn floats(&self, e: &Expression, kinds: &Kinds) -> bool {
        match self.kind(e, kinds) {
            Some(Kind::Floats) => true,
            Some(Kind::Same) => self.scalar(e, kinds) == Some(Scalar::Float),
            _ => false,
        }
    }

    fn integers(&self, e: &Expression, kinds: &Kinds) -> bool {
        match self.kind(e, kinds) {
            Some(Kind::Integers) => true,
            Some(Kind::Same) => self.scalar(e, kinds) == Some(INT),
            _ => false,
        }
    }

    /// The type of an expression that is the same in all turns.
    fn scalar(&self, e: &Expression, kinds: &Kinds) -> Option<Scalar> {
        match e {
            Expression::Integer(_, s) | Expression::Float(_, s) => Some(*s),
            Expression::Name(name) => match self.local(name) {
                Some(Local::Variable(_, Type::Scalar(s))) => Some(s),
                None if matches!(&name[..], "NAN" | "INFINITY") => Some(Scalar::Float),
                _ => None,
            },
            Expression::Index(base, _) => self.elements(base, kinds),
            Expression::Negate(of) => self.scalar(of, kinds),
            Expression::Cast(Type::Scalar(s), _) => Some(*s),
            Expression::Binary(o, a, b) if comparison(*o).is_none() => {
                let (a, b) = (self.scalar(a, kinds)?, self.scalar(b, kinds)?);
                (a == b).then_some(a)
            }
            Expression::Call(name, _) => match &name[..] {
                "FLOAT" | "fabsf" | "sqrtf" | "floorf" | "rintf" | "largest" | "smallest" => Some(Scalar::Float),
                "BITS" | "whole" => Some(INT),
                _ => None,
            },
            _ => None,
        }
    }

    fn kind(&self, e: &Expression, kinds: &Kinds) -> Option<Kind> {
        let both = |a: &Expression, b: &Expression| {
            if self.floats(a, kinds) && self.floats(b, kinds) {
                Some(Kind::Floats)
            } else {
                (self.integers(a, kinds) && self.integers(b, kinds)).then_some(Kind::Integers)
            }
        };
        match e {
            Expression::Integer(..) | Expression::Float(..) | Expression::SizeOfType(_) | Expression::SizeOfArray(_) => Some(Kind::Same),
            Expression::Name(name) => Some(kinds.get(name).copied().unwrap_or(Kind::Same)),
            Expression::Index(base, index) => {
                let elements = self.elements(base, kinds)?;
                match (self.kind(index, kinds)?, elements) {
                    (Kind::Same, _) => Some(Kind::Same),
                    (Kind::Next, Scalar::Float) => Some(Kind::Floats),
                    (Kind::Next, Scalar::Integer { bits: 8 | 16, signed: true }) => Some(Kind::Integers),
                    _ => None,
                }
            }
            Expression::Negate(of) => self.kind(of, kinds).filter(|k| matches!(k, Kind::Same | Kind::Floats)),
            Expression::Not(of) => self.kind(of, kinds).filter(|k| *k == Kind::Truths),
            Expression::Cast(Type::Scalar(to), of) => match (self.kind(of, kinds)?, to) {
                (Kind::Same, _) => Some(Kind::Same),
                (Kind::Integers, Scalar::Float) => Some(Kind::Floats),
                _ => None,
            },
            Expression::Binary(Binary::And | Binary::Or, a, b) => {
                let kinds = (self.kind(a, kinds)?, self.kind(b, kinds)?);
                (kinds == (Kind::Truths, Kind::Truths)).then_some(Kind::Truths)
            }
            Expression::Binary(o, a, b) => {
                let (left, right) = (self.kind(a, kinds)?, self.kind(b, kinds)?);
                match (o, left, right) {
                    (_, Kind::Same, Kind::Same) => Some(Kind::Same),
                    (Binary::Add, Kind::Next, Kind::Same) | (Binary::Add, Kind::Same, Kind::Next) => Some(Kind::Next),
                    (Binary::Subtract, Kind::Next, Kind::Same) => Some(Kind::Next),
                    (_, Kind::Next, _) | (_, _, Kind::Next) => None,
                    (Binary::Add | Binary::Subtract, ..) => both(a, b),
                    (Binary::Multiply | Binary::Divide, ..) => both(a, b).filter(|k| *k == Kind::Floats),
                    (Binary::BitAnd | Binary::BitOr, ..) => both(a, b).filter(|k| *k == Kind::Integers),
                    (Binary::ShiftLeft | Binary::ShiftRight, Kind::Integers, Kind::Same) => Some(Kind::Integers),
                    (o, ..) if comparison(*o).is_some() => both(a, b).map(|_| Kind::Truths),
                    _ => None,
                }
            }
            Expression::Choose(c, a, b) if is_pure(a) && is_pure(b) => {
                self.kind(c, kinds).filter(|k| *k == Kind::Truths)?;
                both(a, b)
            }
            Expression::Call(name, arguments) => {
                let all = |is: fn(&Self, &Expression, &Kinds) -> bool| arguments.iter().all(|e| is(self, e, kinds));
                match &name[..] {
                    "FLOAT" if all(Self::integers) => Some(Kind::Floats),
                    "BITS" | "whole" if all(Self::floats) => Some(Kind::Integers),
                    "floorf" | "rintf" if !self.rounds_natively() => None,
                    "fabsf" | "sqrtf" | "floorf" | "rintf" | "largest" | "smallest" if all(Self::floats) => Some(Kind::Floats),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// What is known while four turns are written.
struct Lanes {
    kinds: Kinds,
    values: HashMap<String, Value>,
}

impl<M: Module> Body<'_, '_, M> {
    fn lanes_of_statement(&mut self, s: &Statement, lanes: &mut Lanes) -> Result<(), String> {
        let Some(kind) = self.fits(s, &mut lanes.kinds) else { return Err("a statement is not what it was".into()) };
        match s {
            Statement::Declare(..) if matches!(kind, Kind::Same | Kind::Next) => self.statement(s),
            Statement::Declare(name, _, Some(value)) => {
                let value = self.lanes(value, kind, lanes)?;
                lanes.values.insert(name.clone(), value);
                Ok(())
            }
            Statement::Evaluate(Expression::Assign(place, operator, value)) => {
                if let Expression::Name(name) = &**place {
                    let value = self.lanes(value, kind, lanes)?;
                    lanes.values.insert(name.clone(), value);
                    return Ok(());
                }
                let Expression::Index(base, index) = &**place else { return Err("a place is not what it was".into()) };
                // What is written is computed before its place is, as in a turn.
                if kind == Kind::Integers {
                    let Expression::Cast(_, of) = &**value else { return Err("a value is not what it was".into()) };
                    let value = self.lanes(of, kind, lanes)?;
                    let (at, scalar) = self.element(base, index)?;
                    for lane in 0..LANES as u8 {
                        let one = self.b.ins().extractlane(value, lane);
                        let at = self.b.ins().iadd_imm_s(at, i64::from(lane) * i64::from(scalar.bytes()));
                        self.store(scalar, one, at);
                    }
                    return Ok(());
                }
                let mut value = self.lanes(value, kind, lanes)?;
                let (at, _) = self.element(base, index)?;
                let flags = MemFlagsData::new().with_notrap();
                if let Some(operator) = operator {
                    let old = self.b.ins().load(types::F32X4, flags, at, 0);
                    value = match operator {
                        Binary::Add => self.b.ins().fadd(old, value),
                        _ => self.b.ins().fmul(old, value),
                    };
                }
                self.b.ins().store(flags, value, at, 0);
                Ok(())
            }
            _ => Err("a statement is not what it was".into()),
        }
    }

    /// Four values of a kind that [`Body::kind`] has found, or that are the same.
    fn lanes(&mut self, e: &Expression, wanted: Kind, lanes: &Lanes) -> Result<Value, String> {
        if self.kind(e, &lanes.kinds) == Some(Kind::Same) {
            let (scalar, ty) = if wanted == Kind::Floats { (Scalar::Float, types::F32X4) } else { (INT, types::I32X4) };
            let one = self.converted(e, &Type::Scalar(scalar))?;
            return Ok(self.b.ins().splat(ty, one));
        }
        let lost = || "an expression is not what it was".to_string();
        let flags = MemFlagsData::new().with_notrap();
        Ok(match e {
            Expression::Name(name) => *lanes.values.get(name).ok_or_else(lost)?,
            Expression::Index(base, index) => {
                let (at, scalar) = self.element(base, index)?;
                match scalar.bytes() {
                    4 => self.b.ins().load(types::F32X4, flags, at, 0),
                    bytes => {
                        let mut four = None;
                        for lane in 0..LANES as u8 {
                            let at = self.b.ins().iadd_imm_s(at, i64::from(lane) * i64::from(bytes));
                            let one = self.load(scalar, at).value;
                            four = Some(match four {
                                None => self.b.ins().scalar_to_vector(types::I32X4, one),
                                Some(four) => self.b.ins().insertlane(four, one, lane),
                            });
                        }
                        four.ok_or_else(lost)?
                    }
                }
            }
            Expression::Negate(of) => {
                let of = self.lanes(of, Kind::Floats, lanes)?;
                self.b.ins().fneg(of)
            }
            Expression::Not(of) => {
                let of = self.lanes(of, Kind::Truths, lanes)?;
                self.b.ins().bnot(of)
            }
            Expression::Cast(_, of) => {
                let of = self.lanes(of, Kind::Integers, lanes)?;
                self.b.ins().fcvt_from_sint(types::F32X4, of)
            }
            Expression::Binary(o @ (Binary::And | Binary::Or), a, b) => {
                let (a, b) = (self.lanes(a, Kind::Truths, lanes)?, self.lanes(b, Kind::Truths, lanes)?);
                if *o == Binary::And { self.b.ins().band(a, b) } else { self.b.ins().bor(a, b) }
            }
            Expression::Binary(o @ (Binary::ShiftLeft | Binary::ShiftRight), a, b) => {
                let a = self.lanes(a, Kind::Integers, lanes)?;
                let by = self.converted(b, &Type::Scalar(INT))?;
                if *o == Binary::ShiftLeft { self.b.ins().ishl(a, by) } else { self.b.ins().sshr(a, by) }
            }
            Expression::Binary(o, a, b) => {
                let of = if self.floats(a, &lanes.kinds) { Kind::Floats } else { Kind::Integers };
                let (a, b) = (self.lanes(a, of, lanes)?, self.lanes(b, of, lanes)?);
                let ty = if of == Kind::Floats { Scalar::Float } else { INT };
                match comparison(*o) {
                    Some(comparison) => self.compare(comparison, ty, a, b),
                    None => self.arithmetic(*o, ty, a, b)?,
                }
            }
            Expression::Choose(c, a, b) => {
                let c = self.lanes(c, Kind::Truths, lanes)?;
                let of = if self.floats(a, &lanes.kinds) { Kind::Floats } else { Kind::Integers };
                let (a, b) = (self.lanes(a, of, lanes)?, self.lanes(b, of, lanes)?);
                self.choose_lanes(c, a, b)
            }
            Expression::Call(name, arguments) => {
                let of = if name == "FLOAT" { Kind::Integers } else { Kind::Floats };
                let values = arguments.iter().map(|e| self.lanes(e, of, lanes)).collect::<Result<Vec<_>, _>>()?;
                self.call_lanes(name, &values).ok_or_else(lost)?
            }
            _ => return Err(lost()),
        })
    }

    /// Floats or integers by truths.
    fn choose_lanes(&mut self, c: Value, a: Value, b: Value) -> Value {
        let ty = self.b.func.dfg.value_type(a);
        let mask = self.bits_as(ty, c);
        self.b.ins().bitselect(mask, a, b)
    }

    fn bits_as(&mut self, ty: cranelift_codegen::ir::Type, v: Value) -> Value {
        // The order of lanes is that of memory.
        let flags = MemFlagsData::new().with_endianness(cranelift_codegen::ir::Endianness::Little);
        if self.b.func.dfg.value_type(v) == ty { v } else { self.b.ins().bitcast(ty, flags, v) }
    }

    /// A function of the file, or of the library, in each lane; those of the file as its text defines them.
    fn call_lanes(&mut self, name: &str, values: &[Value]) -> Option<Value> {
        let (floats, integers) = (types::F32X4, types::I32X4);
        Some(match (name, values) {
            ("FLOAT", [x]) => self.bits_as(floats, *x),
            ("BITS", [x]) => self.bits_as(integers, *x),
            ("whole", [x]) => self.b.ins().fcvt_to_sint_sat(integers, *x),
            ("largest" | "smallest", [a, b]) => {
                let is_largest = name == "largest";
                let order = if is_largest { FloatCC::GreaterThan } else { FloatCC::LessThan };
                let is_first = self.b.ins().fcmp(order, *a, *b);
                let chosen = self.choose_lanes(is_first, *a, *b);
                let (x, y) = (self.bits_as(integers, *a), self.bits_as(integers, *b));
                let zero = if is_largest { self.b.ins().band(x, y) } else { self.b.ins().bor(x, y) };
                let zero = self.bits_as(floats, zero);
                let same = self.b.ins().fcmp(FloatCC::Equal, *a, *b);
                let chosen = self.choose_lanes(same, zero, chosen);
                let nan = self.b.ins().f32const(f32::from_bits(0x7fc0_0000));
                let nan = self.b.ins().splat(floats, nan);
                let unordered = self.b.ins().fcmp(FloatCC::Unordered, *a, *b);
                self.choose_lanes(unordered, nan, chosen)
            }
            (name, [x]) => return self.library(name, *x),
            _ => return None,
        })
    }
}
