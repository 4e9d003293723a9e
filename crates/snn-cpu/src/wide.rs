//! Step functions for vectors of sixteen, where the processor has AVX-512: Cranelift's vectors are of four.
//!
//! What a kernel computes is written down as a list of operations without branches, equal ones once, each of which is one instruction. Loads and constants
//! are read where they are first wanted, operations that nobody wants are left out, and the results are written last, since they may lie where loads do.
//! Where registers do not suffice, what is wanted last goes to the stack. Elements that do not fill a vector are left to the function that Cranelift makes.

use std::collections::HashMap;

use cranelift_codegen::isa::CallConv;
use snn_ir::DType;
use snn_ir::lanes::{Lane, LaneOf};
use snn_ir::math::Lanes;
use snn_plan::step::Shape;

use crate::avx512::{self, Assembler, FREE, Gpr, Instruction, K, KEPT, Operand, Zmm};

/// Elements of a vector.
pub const LANES: i64 = 16;
/// Registers of vectors, and those of masks: the first stands for no mask.
const VECTORS: u8 = 32;
const MASKS: std::ops::Range<u8> = 1..8;

/// The number of an operation, and of the vector or mask that it gives.
type Id = usize;

/// A vector of floats or integers.
#[derive(Clone, Copy, Debug)]
pub struct Vector(Id);

/// A mask.
#[derive(Clone, Copy, Debug)]
pub struct Mask(Id);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Operation {
    /// The same bits in all lanes.
    Constant(u32),
    /// One float of a load for all lanes.
    Repeated(usize),
    /// The floats, or the integers that were bytes, of a pointer.
    Elements(usize, u8),
    /// A vector from one.
    Unary(Instruction, Id, Option<u8>),
    /// A vector from two.
    Binary(Instruction, Id, Id),
    /// To the left or to the right.
    Shift(bool, Id, u8),
    /// A mask from two vectors.
    Compare(Instruction, Id, Id, Option<u8>),
    /// `a & b` of masks, or `a | b`.
    Masks(bool, Id, Id),
    Not(Id),
    /// The second vector where the mask is set, and the first elsewhere.
    Blend(Id, Id, Id),
}

use Operation::{Binary, Blend, Compare, Constant, Elements, Masks, Not, Repeated, Shift, Unary};

impl Operation {
    fn operands(self) -> impl Iterator<Item = Id> {
        let three = match self {
            Constant(_) | Repeated(_) | Elements(..) => [None; 3],
            Unary(_, a, _) | Shift(_, a, _) | Not(a) => [Some(a), None, None],
            Binary(_, a, b) | Compare(_, a, b, _) | Masks(_, a, b) => [Some(a), Some(b), None],
            Blend(m, a, b) => [Some(m), Some(a), Some(b)],
        };
        three.into_iter().flatten()
    }

    /// Is it read from memory wherever it is wanted, for all lanes?
    fn is_repeated(self) -> bool {
        matches!(self, Constant(_) | Repeated(_))
    }
}

/// Operations that are written down.
#[derive(Debug, Default)]
pub struct Program {
    operations: Vec<Operation>,
    known: HashMap<Operation, Id>,
    /// Was there one that no instruction computes?
    incomplete: bool,
}

impl Program {
    fn add(&mut self, operation: Operation) -> Id {
        *self.known.entry(operation).or_insert_with(|| {
            self.operations.push(operation);
            self.operations.len() - 1
        })
    }

    fn unary(&mut self, i: Instruction, a: Vector, immediate: Option<u8>) -> Vector {
        Vector(self.add(Unary(i, a.0, immediate)))
    }

    fn binary(&mut self, i: Instruction, a: Vector, b: Vector) -> Vector {
        Vector(self.add(Binary(i, a.0, b.0)))
    }

    fn compare(&mut self, a: Vector, b: Vector, predicate: u8) -> Mask {
        Mask(self.add(Compare(avx512::COMPARE, a.0, b.0, Some(predicate))))
    }

    fn constant(&mut self, bits: u32) -> Vector {
        Vector(self.add(Constant(bits)))
    }

    /// Puts NaN where one of two is NaN.
    fn with_nan(&mut self, a: Vector, b: Vector, x: Vector) -> Vector {
        let (unordered, nan) = (self.compare(a, b, avx512::UNORDERED), self.float(f32::NAN));
        self.select(unordered, nan, x)
    }
}

impl Lanes for Program {
    type F = Vector;
    type I = Vector;
    type M = Mask;

    fn float(&mut self, x: f32) -> Vector {
        self.constant(x.to_bits())
    }
    fn int(&mut self, x: i32) -> Vector {
        self.constant(x as u32)
    }
    fn add(&mut self, a: Vector, b: Vector) -> Vector {
        self.binary(avx512::ADD, a, b)
    }
    fn sub(&mut self, a: Vector, b: Vector) -> Vector {
        self.binary(avx512::SUB, a, b)
    }
    fn mul(&mut self, a: Vector, b: Vector) -> Vector {
        self.binary(avx512::MUL, a, b)
    }
    fn div(&mut self, a: Vector, b: Vector) -> Vector {
        self.binary(avx512::DIV, a, b)
    }
    fn neg(&mut self, a: Vector) -> Vector {
        let sign = self.constant(1 << 31);
        self.binary(avx512::XOR, a, sign)
    }
    fn abs(&mut self, a: Vector) -> Vector {
        let rest = self.constant(!(1 << 31));
        self.binary(avx512::AND, a, rest)
    }
    fn sqrt(&mut self, a: Vector) -> Vector {
        self.unary(avx512::SQRT, a, None)
    }
    fn floor(&mut self, a: Vector) -> Vector {
        self.unary(avx512::ROUND, a, Some(avx512::DOWN))
    }
    fn round(&mut self, a: Vector) -> Vector {
        self.unary(avx512::ROUND, a, Some(avx512::TO_NEAREST))
    }
    // The instructions give the second operand where one is NaN or both are zero.
    fn max(&mut self, a: Vector, b: Vector) -> Vector {
        let both = [self.binary(avx512::MAX, a, b), self.binary(avx512::MAX, b, a)];
        let larger = self.binary(avx512::AND, both[0], both[1]);
        self.with_nan(a, b, larger)
    }
    fn min(&mut self, a: Vector, b: Vector) -> Vector {
        let both = [self.binary(avx512::MIN, a, b), self.binary(avx512::MIN, b, a)];
        let smaller = self.binary(avx512::OR, both[0], both[1]);
        self.with_nan(a, b, smaller)
    }
    fn lt(&mut self, a: Vector, b: Vector) -> Mask {
        self.compare(a, b, avx512::LESS)
    }
    fn le(&mut self, a: Vector, b: Vector) -> Mask {
        self.compare(a, b, avx512::LESS_OR_EQUAL)
    }
    fn eq(&mut self, a: Vector, b: Vector) -> Mask {
        self.compare(a, b, avx512::EQUAL)
    }
    fn int_eq(&mut self, a: Vector, b: Vector) -> Mask {
        Mask(self.add(Compare(avx512::EQUAL_INTEGERS, a.0, b.0, None)))
    }
    fn and(&mut self, a: Mask, b: Mask) -> Mask {
        Mask(self.add(Masks(true, a.0, b.0)))
    }
    fn or(&mut self, a: Mask, b: Mask) -> Mask {
        Mask(self.add(Masks(false, a.0, b.0)))
    }
    fn not(&mut self, a: Mask) -> Mask {
        Mask(self.add(Not(a.0)))
    }
    fn select(&mut self, m: Mask, a: Vector, b: Vector) -> Vector {
        Vector(self.add(Blend(m.0, b.0, a.0)))
    }
    fn to_int(&mut self, a: Vector) -> Vector {
        let (whole, limit) = (self.unary(avx512::TO_INTEGERS, a, None), self.float(2_147_483_648.0));
        let (beyond, most) = (self.compare(a, limit, avx512::GREATER_OR_EQUAL), self.int(i32::MAX));
        let whole = self.select(beyond, most, whole);
        let (ordered, zero) = (self.compare(a, a, avx512::ORDERED), self.int(0));
        self.select(ordered, whole, zero)
    }
    fn to_float(&mut self, a: Vector) -> Vector {
        self.unary(avx512::TO_FLOATS, a, None)
    }
    fn bits(&mut self, a: Vector) -> Vector {
        a
    }
    fn bits_to_float(&mut self, a: Vector) -> Vector {
        a
    }
    fn int_add(&mut self, a: Vector, b: Vector) -> Vector {
        self.binary(avx512::ADD_INTEGERS, a, b)
    }
    fn int_sub(&mut self, a: Vector, b: Vector) -> Vector {
        self.binary(avx512::SUB_INTEGERS, a, b)
    }
    fn int_and(&mut self, a: Vector, b: Vector) -> Vector {
        self.binary(avx512::AND, a, b)
    }
    fn shift_left(&mut self, a: Vector, n: u8) -> Vector {
        Vector(self.add(Shift(true, a.0, n)))
    }
    fn shift_right(&mut self, a: Vector, n: u8) -> Vector {
        Vector(self.add(Shift(false, a.0, n)))
    }
    fn fmod(&mut self, a: Vector, _: Vector) -> Vector {
        self.incomplete = true;
        a
    }
    fn far_angles(&mut self, _: Vector, r: Vector, k: Vector) -> (Vector, Vector) {
        self.incomplete = true;
        (r, k)
    }
}

/// Has this processor such vectors, and functions this convention?
pub fn fits(convention: CallConv) -> bool {
    #[cfg(target_arch = "x86_64")]
    return crate::simd::Width::of_this_processor() == crate::simd::Width::Avx512 && convention == CallConv::SystemV;
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// A lane of a kernel that is written down.
pub type WideLane = LaneOf<Program>;

/// The code of a kernel of this shape for whole vectors, and its text: `fn(pointers: *const *mut u8, first: i64, end: i64)`, where `end - first` is a
/// multiple of [`LANES`]. `None` where it needs what there is no instruction for, or more masks than there are.
pub fn assemble(
    shape: &Shape,
    body: impl FnOnce(&mut Program, &[WideLane], &[WideLane]) -> (Vec<WideLane>, Vec<WideLane>),
) -> Option<(Vec<u8>, String)> {
    let mut program = Program::default();
    let load = |program: &mut Program, (i, (dtype, uniform)): (usize, &(DType, bool))| {
        Some(match (dtype, uniform) {
            (DType::F32, true) => Lane::Float(Vector(program.add(Repeated(i)))),
            (DType::F32, false) => Lane::Float(Vector(program.add(Elements(i, 4)))),
            (DType::U8, false) => Lane::Int(Vector(program.add(Elements(i, 1)))),
            (DType::Bool, false) => {
                let bytes = program.add(Elements(i, 1));
                Lane::Mask(Mask(program.add(Compare(avx512::TEST, bytes, bytes, None))))
            }
            (DType::U8 | DType::Bool, true) | (DType::I64, _) => return None,
        })
    };
    let loads = shape.loads.iter().enumerate().map(|l| load(&mut program, l)).collect::<Option<Vec<_>>>()?;
    let first = shape.loads.len();
    let states: Vec<WideLane> = (first..first + shape.states).map(|i| Lane::Float(Vector(program.add(Elements(i, 4))))).collect();
    let (next, stores) = body(&mut program, &loads, &states);
    let results: Vec<(Id, u8)> = next.into_iter().chain(stores).map(|lane| stored(&mut program, lane)).collect();
    if program.incomplete || results.len() != shape.states + shape.stores.len() {
        return None;
    }
    let schedule = Schedule::new(&program.operations, &results);
    // As many constants as there is room for stay in registers.
    let mut kept = schedule.repeated.len().min(usize::from(VECTORS) - 4);
    loop {
        let function = Function::write(&program.operations, &schedule, kept, first, &results)?;
        if function.slots == 0 || kept == 0 {
            return Some(function.finish(&schedule.repeated[..kept], first + results.len()));
        }
        kept /= 2;
    }
}

/// What is written for a lane, and the bytes of an element.
fn stored(program: &mut Program, lane: WideLane) -> (Id, u8) {
    match lane {
        Lane::Float(v) => (v.0, 4),
        Lane::Int(v) => (v.0, 1),
        Lane::Mask(m) => {
            let (one, zero) = (program.int(1), program.int(0));
            (program.select(m, one, zero).0, 1)
        }
    }
}

/// When operations are done, and when what they give is wanted.
struct Schedule {
    /// What is done, in order: neither constants nor elements, unless these are written as they are.
    order: Vec<Id>,
    /// For each operation the places in `order`, and behind it those of results, where it is wanted, the last first.
    wanted: Vec<Vec<usize>>,
    /// Constants and what is repeated, those that are wanted most first.
    repeated: Vec<Id>,
}

impl Schedule {
    fn new(operations: &[Operation], results: &[(Id, u8)]) -> Schedule {
        let mut live = vec![false; operations.len()];
        results.iter().for_each(|(id, _)| live[*id] = true);
        for (id, operation) in operations.iter().enumerate().rev() {
            if live[id] {
                operation.operands().for_each(|a| live[a] = true);
            }
        }
        let is_result = |id: usize| results.iter().any(|(r, _)| *r == id);
        let is_done = |id: &usize| live[*id] && !operations[*id].is_repeated() && !matches!(operations[*id], Elements(..));
        let mut order: Vec<Id> = (0..operations.len()).filter(is_done).collect();
        order.extend((0..operations.len()).filter(|id| matches!(operations[*id], Elements(..)) && is_result(*id)));
        let mut wanted = vec![vec![]; operations.len()];
        for (place, id) in order.iter().enumerate() {
            operations[*id].operands().for_each(|a| wanted[a].push(place));
        }
        results.iter().enumerate().for_each(|(i, (id, _))| wanted[*id].push(order.len() + i));
        let mut repeated: Vec<Id> = (0..operations.len()).filter(|id| live[*id] && operations[*id].is_repeated()).collect();
        repeated.sort_by_key(|id| std::cmp::Reverse(wanted[*id].len()));
        wanted.iter_mut().for_each(|places| places.reverse());
        Schedule { order, wanted, repeated }
    }
}

/// A function that is being written.
struct Function<'a> {
    operations: &'a [Operation],
    /// The inside of its loop.
    body: Assembler,
    /// Where each value is wanted, as of now.
    wanted: Vec<Vec<usize>>,
    /// What each register holds.
    vectors: [Option<Id>; VECTORS as usize],
    masks: [Option<Id>; MASKS.end as usize],
    /// Registers whose values the instruction that is written reads.
    pinned: [bool; VECTORS as usize],
    /// Where values are on the stack.
    spilled: HashMap<Id, u32>,
    slots: u32,
}

/// The register of a pointer, if it has one; the others are read anew into the first of [`FREE`].
fn pointer_register(i: usize) -> Option<Gpr> {
    FREE[1..].iter().chain(&KEPT).nth(i).copied()
}

/// The register of a pointer, which is read first if it has none of its own.
fn pointer(i: usize, code: &mut Assembler) -> Gpr {
    pointer_register(i).unwrap_or_else(|| {
        code.load_pointer(FREE[0], i);
        FREE[0]
    })
}

/// Where a value is that is read and not computed.
fn in_memory(operation: Operation, code: &mut Assembler) -> Operand {
    match operation {
        Constant(bits) => Operand::Constant(bits),
        Repeated(i) => Operand::Repeated(pointer(i, code)),
        Elements(i, bytes) => Operand::Elements(pointer(i, code), bytes),
        Unary(..) | Binary(..) | Shift(..) | Compare(..) | Masks(..) | Not(_) | Blend(..) => {
            unreachable!("{operation:?} is done before it is wanted")
        }
    }
}

impl<'a> Function<'a> {
    /// The body of the loop, with so many constants in registers from the last on; `None` without enough masks.
    fn write(operations: &'a [Operation], schedule: &Schedule, kept: usize, first: usize, results: &[(Id, u8)]) -> Option<Function<'a>> {
        let mut f = Function {
            operations,
            body: Assembler::default(),
            wanted: schedule.wanted.clone(),
            vectors: [None; VECTORS as usize],
            masks: [None; MASKS.end as usize],
            pinned: [false; VECTORS as usize],
            spilled: HashMap::new(),
            slots: 0,
        };
        for (i, id) in schedule.repeated[..kept].iter().enumerate() {
            f.vectors[kept_register(i)] = Some(*id);
            // It stays, whatever else is wanted.
            f.wanted[*id].insert(0, usize::MAX);
        }
        for (place, id) in schedule.order.iter().enumerate() {
            f.operation(*id, place)?;
        }
        for (i, (id, bytes)) in results.iter().enumerate() {
            let from = f.vector(*id);
            let to = Operand::Elements(pointer(first + i, &mut f.body), *bytes);
            f.body.store(from, to);
            f.done(schedule.order.len() + i, std::iter::once(*id));
            f.pinned = [false; VECTORS as usize];
        }
        Some(f)
    }

    /// The whole function.
    fn finish(self, kept: &[Id], pointers: usize) -> (Vec<u8>, String) {
        let registers = (0..pointers).map_while(pointer_register).enumerate();
        let saved: Vec<Gpr> = registers.clone().map(|(_, r)| r).filter(|r| KEPT.contains(r)).collect();
        let mut code = Assembler::default();
        code.enter(&saved, self.slots);
        registers.for_each(|(i, r)| code.load_pointer(r, i));
        for (i, id) in kept.iter().enumerate() {
            let to = Zmm(kept_register(i) as u8);
            let from = in_memory(self.operations[*id], &mut code);
            code.load(to, from);
        }
        code.each_vector(|code| code.append(self.body));
        code.leave(&saved, self.slots);
        code.finish()
    }

    /// Writes the operation at a place of the order.
    fn operation(&mut self, id: Id, place: usize) -> Option<()> {
        let operation = self.operations[id];
        match operation {
            Constant(_) | Repeated(_) => {}
            Elements(..) => {
                self.vector(id);
            }
            Unary(i, a, immediate) => {
                let a = self.operand(a);
                let to = self.result(id, place);
                self.body.vector(i, to, None, a, immediate);
            }
            Binary(i, a, b) => {
                let a = self.vector(a);
                let b = self.operand(b);
                let to = self.result(id, place);
                self.body.vector(i, to, Some(a), b, None);
            }
            Shift(left, a, by) => {
                let a = self.vector(a);
                let to = self.result(id, place);
                self.body.shift(left, to, a, by);
            }
            Blend(m, a, b) => {
                let m = self.mask(m)?;
                let a = self.vector(a);
                let b = self.operand(b);
                let to = self.result(id, place);
                self.body.blend(to, m, a, b);
            }
            Compare(i, a, b, predicate) => {
                let a = self.vector(a);
                let b = self.operand(b);
                self.done(place, operation.operands());
                let to = self.free_mask(id)?;
                self.body.mask(i, to, a, b, predicate);
            }
            Masks(and, a, b) => {
                let (a, b) = (self.mask(a)?, self.mask(b)?);
                self.done(place, operation.operands());
                let to = self.free_mask(id)?;
                self.body.masks(and, to, a, b);
            }
            Not(a) => {
                let a = self.mask(a)?;
                self.done(place, operation.operands());
                let to = self.free_mask(id)?;
                self.body.not(to, a);
            }
        }
        self.pinned = [false; VECTORS as usize];
        Some(())
    }

    /// Takes a place away from those where operands are wanted, and frees registers of what is wanted no more.
    fn done(&mut self, place: usize, operands: impl Iterator<Item = Id>) {
        for a in operands {
            while self.wanted[a].last() == Some(&place) {
                self.wanted[a].pop();
            }
        }
        let wanted = &self.wanted;
        let gone = |held: &&mut Option<Id>| held.is_some_and(|id| wanted[id].is_empty());
        self.vectors.iter_mut().chain(&mut self.masks).filter(gone).for_each(|held| *held = None);
    }

    /// A register for the result of the operation at a place, which may be that of an operand.
    fn result(&mut self, id: Id, place: usize) -> Zmm {
        self.done(place, self.operations[id].operands());
        self.free_vector(id)
    }

    /// A register that nobody wants, for a value.
    fn free_vector(&mut self, id: Id) -> Zmm {
        let free = self.vectors.iter().position(Option::is_none).unwrap_or_else(|| self.spill());
        self.vectors[free] = Some(id);
        Zmm(free as u8)
    }

    /// Frees the register whose value is wanted last; it goes to the stack, unless it can be read again.
    fn spill(&mut self) -> usize {
        let next = |r: &usize| self.vectors[*r].and_then(|id| self.wanted[id].last().copied()).unwrap_or(0);
        let is_movable = |r: &usize| !self.pinned[*r] && next(r) < usize::MAX && !self.is_kept(*r);
        let register = (0..usize::from(VECTORS)).filter(is_movable).max_by_key(next).unwrap_or_default();
        if let Some(id) = self.vectors[register].take()
            && !self.operations[id].is_repeated()
            && !self.spilled.contains_key(&id)
        {
            self.spilled.insert(id, self.slots);
            self.body.store(Zmm(register as u8), Operand::Slot(self.slots));
            self.slots += 1;
        }
        register
    }

    /// Does a register hold a constant for all of the loop?
    fn is_kept(&self, register: usize) -> bool {
        self.vectors[register].is_some_and(|id| self.wanted[id].first() == Some(&usize::MAX))
    }

    /// The register that holds a value, which is read if it is in none.
    fn vector(&mut self, id: Id) -> Zmm {
        let found = self.vectors.iter().position(|held| *held == Some(id));
        let register = found.map_or_else(
            || {
                let to = self.free_vector(id);
                let from = self.in_memory(id);
                self.body.load(to, from);
                to
            },
            |r| Zmm(r as u8),
        );
        self.pinned[usize::from(register.0)] = true;
        register
    }

    /// A value as the last operand of an instruction: constants are read there, if they are in no register.
    fn operand(&mut self, id: Id) -> Operand {
        if self.operations[id].is_repeated() && !self.vectors.contains(&Some(id)) {
            return self.in_memory(id);
        }
        Operand::Register(self.vector(id))
    }

    /// Where a value is that is in no register.
    fn in_memory(&mut self, id: Id) -> Operand {
        if let Some(slot) = self.spilled.get(&id) {
            return Operand::Slot(*slot);
        }
        in_memory(self.operations[id], &mut self.body)
    }

    /// The register of a mask.
    fn mask(&self, id: Id) -> Option<K> {
        self.masks.iter().position(|held| *held == Some(id)).map(|r| K(r as u8))
    }

    /// A register for a mask, if there is one.
    fn free_mask(&mut self, id: Id) -> Option<K> {
        let free = MASKS.into_iter().find(|r| self.masks[usize::from(*r)].is_none())?;
        self.masks[usize::from(free)] = Some(id);
        Some(K(free))
    }
}

/// The register of a constant that is kept in one.
fn kept_register(i: usize) -> usize {
    usize::from(VECTORS) - 1 - i
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use snn_ir::math::Scalar;

    use super::*;
    use crate::emit::{Code, StepBody};
    use crate::testing::numbers;

    /// Random operations: what is done, and to which of the values so far.
    struct Random {
        operations: Vec<(u32, [usize; 3])>,
        stores: Vec<DType>,
    }

    impl Random {
        fn new(seed: u64, count: usize, stores: Vec<DType>) -> Random {
            let mut next = numbers(seed);
            let mut some = |n: usize| (next() * n as f32) as usize;
            Random { operations: (0..count).map(|_| (some(26) as u32, [some(1 << 20), some(1 << 20), some(1 << 20)])).collect(), stores }
        }
    }

    impl StepBody for Random {
        fn step<L: Lanes>(&self, l: &mut L, loads: &[LaneOf<L>], states: &[LaneOf<L>]) -> (Vec<LaneOf<L>>, Vec<LaneOf<L>>) {
            let (mut floats, mut integers, mut masks) = (vec![l.float(-0.5)], vec![l.int(7)], vec![]);
            masks.push(l.eq(floats[0], floats[0]));
            for lane in loads.iter().chain(states) {
                match lane {
                    Lane::Float(x) => floats.push(*x),
                    Lane::Int(x) => integers.push(*x),
                    Lane::Mask(x) => masks.push(*x),
                }
            }
            for (what, [i, j, k]) in &self.operations {
                let (a, b) = (floats[i % floats.len()], floats[j % floats.len()]);
                let (m, n) = (integers[i % integers.len()], integers[j % integers.len()]);
                // Only late masks: there are few registers for them.
                let [p, q] = [i, j].map(|i| masks[masks.len() - 1 - i % masks.len().min(2)]);
                match what {
                    0 => floats.push(l.add(a, b)),
                    1 => floats.push(l.sub(a, b)),
                    2 => floats.push(l.mul(a, b)),
                    3 => floats.push(l.div(a, b)),
                    4 => floats.push(l.neg(a)),
                    5 => floats.push(l.abs(a)),
                    6 => floats.push(l.sqrt(a)),
                    7 => floats.push(l.floor(a)),
                    8 => floats.push(l.round(a)),
                    9 => floats.push(l.max(a, b)),
                    10 => floats.push(l.min(a, b)),
                    11 => masks.push(l.lt(a, b)),
                    12 => masks.push(l.le(a, b)),
                    13 => masks.push(l.eq(a, b)),
                    14 => masks.push(l.int_eq(m, n)),
                    15 => masks.push(l.and(p, q)),
                    16 => masks.push(l.or(p, q)),
                    17 => masks.push(l.not(p)),
                    18 => floats.push(l.select(p, a, b)),
                    19 => integers.push(l.to_int(a)),
                    20 => floats.push(l.to_float(m)),
                    21 => integers.push(l.int_add(m, n)),
                    22 => integers.push(l.int_sub(m, n)),
                    23 => integers.push(l.int_and(m, n)),
                    24 => integers.push(if k % 2 == 0 { l.shift_left(m, (k % 31) as u8) } else { l.shift_right(m, (k % 31) as u8) }),
                    _ => {
                        let small = l.float((*k as f32 / 1e5).sin());
                        floats.push(l.mul(a, small));
                    }
                }
            }
            // All values are wanted at the end, so that many are alive at once; byte results are 0 or 1.
            let mut total = floats[0];
            for x in &floats {
                total = l.add(total, *x);
            }
            let one = l.int(1);
            let mut bits = one;
            for x in &integers {
                bits = l.int_add(bits, *x);
            }
            let low = l.int_and(bits, one);
            let last = *floats.last().unwrap_or(&total);
            let lane = |dtype: &DType| if *dtype == DType::F32 { Lane::Float(total) } else { Lane::Int(low) };
            let mask = Lane::Mask(masks[masks.len() - 1]);
            let stores = self.stores.iter().enumerate().map(|(i, dtype)| if i == 0 && *dtype == DType::Bool { mask } else { lane(dtype) });
            (states.iter().map(|_| Lane::Float(last)).collect(), stores.collect())
        }
    }

    /// Floats of all kinds.
    fn floats(n: usize, next: &mut impl FnMut() -> f32) -> Vec<f32> {
        let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-42, -3e9, 2_147_483_648.0, 0.5, -1.5, 3e38];
        (0..n).map(|_| if next() < 0.2 { special[(next() * 11.0) as usize] } else { (next() - 0.5) * 8.0 }).collect()
    }

    #[test]
    fn code_gives_what_one_lane_gives() {
        let (mut assembled, mut spilled) = (0, 0);
        for seed in 0..120u64 {
            let mut next = numbers(seed);
            let n = 16 * (1 + seed as usize % 3) + seed as usize % 16;
            let loads: Vec<(DType, bool)> = (0..2 + seed as usize % 12)
                .map(|i| match i % 5 {
                    0 | 1 => (DType::F32, false),
                    2 => (DType::F32, true),
                    3 => (DType::U8, false),
                    _ => (DType::Bool, false),
                })
                .collect();
            let stores: Vec<DType> = (0..1 + seed as usize % 4).map(|i| [DType::Bool, DType::F32, DType::U8][i % 3]).collect();
            let shape = Shape { loads, states: seed as usize % 3, stores: stores.clone(), exponentials: false };
            let body = Random::new(seed, 5 + 4 * seed as usize, stores);
            let code = assemble(&shape, |l, loads, states| body.step(l, loads, states));
            assembled += usize::from(code.is_some());
            spilled += usize::from(code.is_some_and(|(_, text)| text.contains("[rsp")));

            // Each operand as bytes: floats, or zeros and ones.
            let bytes = |dtype: DType, n: usize, next: &mut dyn FnMut() -> f32| -> Vec<u8> {
                if dtype == DType::F32 {
                    let mut next = || next();
                    return floats(n, &mut next).into_iter().flat_map(f32::to_ne_bytes).collect();
                }
                (0..n).map(|_| u8::from(next() < 0.5)).collect()
            };
            let all = shape.loads.iter().copied().chain((0..shape.states).map(|_| (DType::F32, false)));
            let all: Vec<(DType, bool)> = all.chain(shape.stores.iter().map(|dtype| (*dtype, false))).collect();
            let memory: Vec<Vec<u8>> = all.iter().map(|(dtype, uniform)| bytes(*dtype, if *uniform { 1 } else { n }, &mut next)).collect();
            let float = |bytes: &[u8], i: usize| f32::from_ne_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap());
            let mut want = memory.clone();
            let first = shape.loads.len();
            for i in 0..n {
                let lane = |k: usize| {
                    let ((dtype, uniform), bytes) = (all[k], &memory[k]);
                    let i = if uniform { 0 } else { i };
                    match dtype {
                        DType::F32 => Lane::Float(float(bytes, i)),
                        DType::U8 => Lane::Int(i32::from(bytes[i])),
                        DType::Bool | DType::I64 => Lane::Mask(bytes[i] != 0),
                    }
                };
                let loads: Vec<_> = (0..first).map(lane).collect();
                let states: Vec<_> = (first..first + shape.states).map(lane).collect();
                let (states, stores) = body.step(&mut Scalar, &loads, &states);
                for (lane, to) in states.into_iter().chain(stores).zip(&mut want[first..]) {
                    match lane {
                        Lane::Float(x) => to[4 * i..4 * i + 4].copy_from_slice(&x.to_ne_bytes()),
                        Lane::Int(x) => to[i] = x as u8,
                        Lane::Mask(x) => to[i] = u8::from(x),
                    }
                }
            }
            // With narrower vectors all is Cranelift's.
            let runs = crate::simd::of_every_width(|| {
                let mut machine = Code::for_this_machine().unwrap();
                machine.kernel("random", &shape, &body).unwrap();
                let machine = machine.finish(0).unwrap();
                let mut memory = memory.clone();
                let pointers: Vec<*mut u8> = memory.iter_mut().map(Vec::as_mut_ptr).collect();
                // SAFETY: the pointers are those of the shape, and reach `n` elements.
                unsafe { machine.kernels[0].run(pointers.as_ptr(), n as i64) };
                memory
            });
            for (k, ((found, want), (dtype, _))) in
                runs.iter().flat_map(|memory| memory.iter().zip(&want).zip(&all).enumerate().skip(first))
            {
                for i in 0..n {
                    let same = match dtype {
                        DType::F32 => {
                            let (found, want) = (float(found, i), float(want, i));
                            found.to_bits() == want.to_bits() || found.is_nan() && want.is_nan()
                        }
                        DType::U8 | DType::Bool | DType::I64 => found[i] == want[i],
                    };
                    assert!(same, "seed {seed}, operand {k}, element {i} of {n}: {:?} {:?}", &found[..], &want[..]);
                }
            }
        }
        assert!(assembled > 60 && spilled > 10, "{assembled} were assembled, {spilled} with values on the stack");
    }
}
