//! Step functions to machine code, through Cranelift.
//!
//! A kernel has the signature `fn(pointers: *const *mut u8, first: i64, end: i64)`: one time step over the elements from `first` to `end`. The
//! pointers are those of loads, then states, then stores. Each iteration handles [`WIDTH`] elements in vectors of four; a scalar loop
//! follows for the rest. Arithmetic is exactly that of [`snn_ir::math`]: nothing is contracted or re-associated.
//!
//! Where the processor has vectors of sixteen there is a second function for elements that fill them: see [`crate::wide`].
#![allow(unsafe_code)]

use std::collections::HashMap;

use cranelift_codegen::Context;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::function::FunctionStencil;
use cranelift_codegen::ir::{
    AbiParam, BlockArg, InstBuilder, MemFlagsData, Signature, StackSlot, StackSlotData, StackSlotKind, Type as ClifType,
    Value as ClifValue, types,
};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, Linkage, Module, default_libcall_names};
use snn_ir::lanes::LaneOf;
use snn_ir::math::{self, Lanes};
use snn_ir::{CompileError, DType};

use snn_plan::step::Shape;

use crate::Listing;
use crate::calls::{self, Callee, Callees};
use crate::panels::Kept;
use crate::wide;

/// Vectors of four that an iteration handles.
const VECTORS: usize = 2;
/// Elements that an iteration handles.
const WIDTH: i64 = 4 * VECTORS as i64;

/// The type of a generated function.
type Generated = unsafe extern "C" fn(*const *mut u8, i64, i64);

/// The code of a kernel.
#[derive(Clone, Copy)]
pub struct KernelFunction {
    any: Generated,
    /// For whole vectors of [`wide::LANES`] elements.
    whole: Option<Generated>,
}

impl KernelFunction {
    /// One time step over `n` elements.
    ///
    /// # Safety
    /// The pointers are those of the kernel's loads, states and stores, and reach `n` elements of their types.
    #[inline]
    pub unsafe fn run(self, pointers: *const *mut u8, n: i64) {
        let mut first = 0;
        if let Some(whole) = self.whole {
            first = n / wide::LANES * wide::LANES;
            // SAFETY: the caller's promise.
            unsafe { whole(pointers, 0, first) };
        }
        if first < n {
            // SAFETY: as above.
            unsafe { (self.any)(pointers, first, n) };
        }
    }
}

/// A value in a kernel.
pub type Lane = snn_ir::lanes::Lane<ClifValue, ClifValue, ClifValue>;

/// What a kernel computes: loads and states to next states and stores.
pub trait StepBody {
    /// One step.
    fn step<L: Lanes>(&self, l: &mut L, loads: &[LaneOf<L>], states: &[LaneOf<L>]) -> (Vec<LaneOf<L>>, Vec<LaneOf<L>>);
}

/// What a function does, without its name. Its floats are compared by their bits.
#[derive(PartialEq, Hash)]
struct Stencil(FunctionStencil);

impl Eq for Stencil {}

/// A module that is being filled with kernels.
pub struct Code {
    module: JITModule,
    callees: Callees,
    context: Context,
    builder: FunctionBuilderContext,
    /// Of each kernel the function for any elements, and that for whole vectors of [`wide::LANES`].
    functions: Vec<(FuncId, Option<FuncId>)>,
    known: HashMap<Stencil, (FuncId, Option<FuncId>)>,
    listing: Option<Listing>,
    text: String,
}

/// Generated code; it lives as long as this.
pub struct Machine {
    module: Option<JITModule>,
    /// The kernels, in order of definition.
    pub(crate) kernels: Vec<KernelFunction>,
    packed: Vec<Kept>,
}

impl Machine {
    /// The packed weights that products and convolutions keep from run to run, by the numbers of their plans.
    pub fn packed(&self) -> &[Kept] {
        &self.packed
    }
}

// SAFETY: after `finish` the module is never changed; its code is read-only memory that any thread may run.
unsafe impl Send for Machine {}
// SAFETY: as above; kernels keep no state beside what they are given pointers to.
unsafe impl Sync for Machine {}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            self.kernels.clear();
            // SAFETY: the kernels are only reachable through this value, which is going away.
            unsafe { module.free_memory() };
        }
    }
}

fn failed(e: impl std::fmt::Display) -> CompileError {
    CompileError::CodeGeneration(e.to_string())
}

impl Code {
    /// An empty module for the machine that this runs on.
    pub fn for_this_machine() -> Result<Code, CompileError> {
        let mut flags = settings::builder();
        let verifier = if cfg!(debug_assertions) { "true" } else { "false" };
        for (name, value) in [("opt_level", "speed"), ("enable_verifier", verifier), ("is_pic", "false")] {
            flags.set(name, value).map_err(failed)?;
        }
        let isa = cranelift_native::builder().map_err(failed)?.finish(settings::Flags::new(flags)).map_err(failed)?;
        let mut builder = JITBuilder::with_isa(isa, default_libcall_names());
        calls::name_all(&mut builder);
        let mut module = JITModule::new(builder);
        let callees = Callees::declare(&mut module)?;
        let context = module.make_context();
        Ok(Code {
            module,
            callees,
            context,
            builder: FunctionBuilderContext::new(),
            functions: vec![],
            known: HashMap::new(),
            listing: None,
            text: String::new(),
        })
    }

    /// Keeps the text of what is generated.
    pub fn keep_text(&mut self, listing: Listing) {
        self.listing = Some(listing);
    }

    /// The kept text.
    pub fn text(&self) -> String {
        self.text.clone()
    }

    /// Adds a kernel; they are numbered in order.
    pub fn kernel(&mut self, name: &str, shape: &Shape, body: &impl StepBody) -> Result<(), CompileError> {
        self.build(name, shape, body);
        // Equal kernels, as those of equal layers are, are one function.
        let stencil = Stencil(self.context.func.stencil.clone());
        let functions = match self.known.get(&stencil) {
            Some(functions) => *functions,
            None => {
                let functions = (self.any(name)?, self.whole(name, shape, body)?);
                self.known.insert(stencil, functions);
                functions
            }
        };
        self.module.clear_context(&mut self.context);
        self.functions.push(functions);
        Ok(())
    }

    /// The function of a kernel for whole vectors of [`wide::LANES`], where the processor has them.
    fn whole(&mut self, name: &str, shape: &Shape, body: &impl StepBody) -> Result<Option<FuncId>, CompileError> {
        if !wide::fits(self.module.target_config().default_call_conv) {
            return Ok(None);
        }
        let Some((code, text)) = wide::assemble(shape, |l, loads, states| body.step(l, loads, states)) else { return Ok(None) };
        if self.listing == Some(Listing::Assembly) {
            self.text.push_str(&format!("\n; {name}, sixteen elements at a time\n{text}"));
        }
        let declared = self.module.declare_function(&format!("kernel{}wide", self.known.len()), Linkage::Export, &self.signature());
        let id = declared.map_err(failed)?;
        self.module.define_function_bytes(id, 64, &code, &[]).map_err(failed)?;
        Ok(Some(id))
    }

    /// The function of a kernel for any elements, which has been built.
    fn any(&mut self, name: &str) -> Result<FuncId, CompileError> {
        let declared = self.module.declare_function(&format!("kernel{}", self.known.len()), Linkage::Export, &self.signature());
        let id = declared.map_err(failed)?;
        self.context.set_disasm(self.listing == Some(Listing::Assembly));
        self.module.define_function(id, &mut self.context).map_err(|e| CompileError::CodeGeneration(format!("{e:?}")))?;
        if let (Some(Listing::Assembly), Some(code)) = (self.listing, self.context.compiled_code()) {
            self.text.push_str(&format!("\n; {name}\n{}", code.vcode.as_deref().unwrap_or("")));
        }
        Ok(id)
    }

    fn signature(&self) -> Signature {
        let config = self.module.target_config();
        let params = vec![AbiParam::new(config.pointer_type()), AbiParam::new(types::I64), AbiParam::new(types::I64)];
        Signature { params, returns: vec![], call_conv: config.default_call_conv }
    }

    /// Builds the function of a kernel for any elements.
    fn build(&mut self, name: &str, shape: &Shape, body: &impl StepBody) {
        let pointer = self.module.target_config().pointer_type();
        self.context.func.signature = self.signature();
        let config = self.module.target_config();
        let mut b = FunctionBuilder::new(&mut self.context.func, &mut self.builder);
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        let (table, first, end) = (b.block_params(entry)[0], b.block_params(entry)[1], b.block_params(entry)[2]);
        let count = shape.loads.len() + shape.states + shape.stores.len();
        let flags = MemFlagsData::trusted();
        let pointers: Vec<ClifValue> = (0..count).map(|i| b.ins().load(pointer, flags, table, (i * 8) as i32)).collect();
        let all = Range { start: first, end };
        let mut outside = Outside { callees: self.callees.clone(), rows: vec![], pass: Pass::Whole, first, at: first, next: 0 };
        if shape.exponentials {
            run_chunks(&mut b, all, |b, chunk| {
                (outside.pass, outside.first) = (Pass::Arguments, chunk.start);
                run_loops(b, shape, &pointers, chunk, &mut outside, body);
                outside.compute(b, chunk);
                outside.pass = Pass::Results;
                run_loops(b, shape, &pointers, chunk, &mut outside, body);
            });
        } else {
            run_loops(&mut b, shape, &pointers, all, &mut outside, body);
        }
        b.ins().return_(&[]);
        b.seal_all_blocks();
        b.finalize(config);
        if self.listing == Some(Listing::Clif) {
            // The calling convention is the machine's, and nothing else is.
            let convention = format!(" {} {{", config.default_call_conv);
            let listing = self.context.func.display().to_string().replacen(&convention, " {", 1);
            self.text.push_str(&format!("\n; {name}\n{listing}"));
        }
    }

    /// Makes the code runnable.
    pub fn finish(mut self, packed: usize) -> Result<Machine, CompileError> {
        self.module.finalize_definitions().map_err(failed)?;
        let generated = |id: FuncId| {
            let address = self.module.get_finalized_function(id);
            // SAFETY: every function of this module was defined by `kernel` with this signature.
            unsafe { std::mem::transmute::<*const u8, Generated>(address) }
        };
        let kernels =
            self.functions.iter().map(|(any, whole)| KernelFunction { any: generated(*any), whole: whole.map(generated) }).collect();
        let packed = (0..packed).map(|_| Kept::default()).collect();
        Ok(Machine { module: Some(self.module), kernels, packed })
    }
}

/// Elements whose exponentials are computed together: arguments and results stay in the L1 cache.
const CHUNK: i64 = 256;

/// What a loop does about exponentials.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// They are computed where they are.
    Whole,
    /// Their arguments are written, and nothing else is.
    Arguments,
    /// Their results are read.
    Results,
}

/// What a kernel leaves to functions of this program. Those of exponentials have a row for each exponential of a step, of its arguments and then of its
/// results, since they are computed with the widest vectors of the processor, and Cranelift has vectors of four elements.
struct Outside {
    callees: Callees,
    rows: Vec<StackSlot>,
    pass: Pass,
    /// The first element of the chunk, and that of the vector that is emitted.
    first: ClifValue,
    at: ClifValue,
    /// How many exponentials the vector has had.
    next: usize,
}

impl Outside {
    /// Computes the exponentials of a chunk.
    fn compute(&mut self, b: &mut FunctionBuilder<'_>, chunk: Range) {
        let count = b.ins().isub(chunk.end, chunk.start);
        for slot in &self.rows {
            let row = b.ins().stack_addr(types::I64, *slot, 0);
            self.callees.call(b, Callee::Exponentials, &[row, count]);
        }
    }
}

/// The elements of a loop.
#[derive(Clone, Copy)]
struct Range {
    start: ClifValue,
    end: ClifValue,
}

/// `for start in (all.start..all.end).step_by(CHUNK)`, with where the chunk ends.
fn run_chunks(b: &mut FunctionBuilder<'_>, all: Range, chunk: impl FnOnce(&mut FunctionBuilder<'_>, Range)) {
    let (head, inside, after) = (b.create_block(), b.create_block(), b.create_block());
    b.append_block_param(head, types::I64);
    b.ins().jump(head, &[BlockArg::Value(all.start)]);
    b.switch_to_block(head);
    let start = b.block_params(head)[0];
    let more = b.ins().icmp(IntCC::SignedLessThan, start, all.end);
    b.ins().brif(more, inside, &[], after, &[]);
    b.switch_to_block(inside);
    let next = b.ins().iadd_imm_s(start, CHUNK);
    let end = b.ins().smin(next, all.end);
    chunk(b, Range { start, end });
    b.ins().jump(head, &[BlockArg::Value(next)]);
    b.switch_to_block(after);
}

/// All elements of a range: those that fill vectors, and then the rest. A range starts at a whole number of vectors.
fn run_loops(
    b: &mut FunctionBuilder<'_>,
    shape: &Shape,
    pointers: &[ClifValue],
    range: Range,
    outside: &mut Outside,
    body: &impl StepBody,
) {
    let whole = b.ins().iconst(types::I64, -WIDTH);
    let vector_end = b.ins().band(range.end, whole);
    let start = run_loop(b, shape, pointers, Range { end: vector_end, ..range }, true, outside, body);
    run_loop(b, shape, pointers, Range { start, ..range }, false, outside, body);
}

/// `for i in start .. end`, by [`WIDTH`] or by one; returns the first index that was not handled.
fn run_loop(
    b: &mut FunctionBuilder<'_>,
    shape: &Shape,
    pointers: &[ClifValue],
    Range { start, end }: Range,
    vectors: bool,
    outside: &mut Outside,
    body: &impl StepBody,
) -> ClifValue {
    // What is the same for all elements is loaded before the loop.
    let uniform: Vec<Option<Lane>> = shape
        .loads
        .iter()
        .zip(pointers)
        .map(|((dtype, uniform), p)| {
            uniform.then(|| {
                let mut e = Emitter { vectors: false, outside: &mut *outside, b: &mut *b };
                let lane = e.load(*dtype, *p);
                if !vectors {
                    return lane;
                }
                e.splat(lane)
            })
        })
        .collect();
    let (head, inside, after) = (b.create_block(), b.create_block(), b.create_block());
    b.append_block_param(head, types::I64);
    b.ins().jump(head, &[BlockArg::Value(start)]);
    b.switch_to_block(head);
    let i = b.block_params(head)[0];
    let more = b.ins().icmp(IntCC::SignedLessThan, i, end);
    b.ins().brif(more, inside, &[], after, &[]);
    b.switch_to_block(inside);
    let repeats = if vectors { VECTORS } else { 1 };
    // All loads of an iteration come before its stores, so that states may be written where they were read.
    let mut results = Vec::new();
    for k in 0..repeats {
        let mut e = Emitter { vectors, outside: &mut *outside, b: &mut *b };
        let at = if k == 0 { i } else { e.b.ins().iadd_imm_s(i, 4 * k as i64) };
        (e.outside.at, e.outside.next) = (at, 0);
        let address = |e: &mut Emitter<'_, '_>, p: ClifValue, dtype: DType| {
            let bytes = e.b.ins().imul_imm_s(at, dtype.bytes() as i64);
            e.b.ins().iadd(p, bytes)
        };
        let mut loads = Vec::new();
        for (((dtype, _), p), kept) in shape.loads.iter().zip(pointers).zip(&uniform) {
            loads.push(match kept {
                Some(lane) => *lane,
                None => {
                    let a = address(&mut e, *p, *dtype);
                    e.load(*dtype, a)
                }
            });
        }
        let mut states = Vec::new();
        for p in &pointers[shape.loads.len()..shape.loads.len() + shape.states] {
            let a = address(&mut e, *p, DType::F32);
            states.push(e.load(DType::F32, a));
        }
        results.push(body.step(&mut e, &loads, &states));
    }
    // Arguments of exponentials are all that the loop is for.
    let written = if outside.pass == Pass::Arguments { 0 } else { shape.states + shape.stores.len() };
    let types: Vec<DType> = std::iter::repeat_n(DType::F32, shape.states).chain(shape.stores.iter().copied()).collect();
    let results: Vec<Vec<Lane>> = results.into_iter().map(|(states, stores)| states.into_iter().chain(stores).collect()).collect();
    let mut e = Emitter { vectors, outside: &mut *outside, b: &mut *b };
    for (o, (dtype, p)) in types.iter().zip(&pointers[shape.loads.len()..]).enumerate().take(written) {
        let lanes: Vec<Lane> = results.iter().map(|results| results[o]).collect();
        if vectors && *dtype != DType::F32 {
            let a = e.b.ins().iadd(*p, i);
            e.store_bytes(&lanes, a);
            continue;
        }
        for (k, lane) in lanes.into_iter().enumerate() {
            let at = if k == 0 { i } else { e.b.ins().iadd_imm_s(i, 4 * k as i64) };
            let bytes = e.b.ins().imul_imm_s(at, dtype.bytes() as i64);
            let a = e.b.ins().iadd(*p, bytes);
            e.store(lane, a);
        }
    }
    let next = b.ins().iadd_imm_s(i, if vectors { WIDTH } else { 1 });
    b.ins().jump(head, &[BlockArg::Value(next)]);
    b.switch_to_block(after);
    i
}

/// Emits instructions for one vector of four elements, or for one element.
pub struct Emitter<'a, 'b> {
    b: &'a mut FunctionBuilder<'b>,
    vectors: bool,
    outside: &'a mut Outside,
}

impl Emitter<'_, '_> {
    fn float_type(&self) -> ClifType {
        if self.vectors { types::F32X4 } else { types::F32 }
    }

    fn int_type(&self) -> ClifType {
        if self.vectors { types::I32X4 } else { types::I32 }
    }

    /// Calls a function that gives a scalar.
    fn call(&mut self, callee: Callee, arguments: &[ClifValue]) -> ClifValue {
        self.outside.callees.call(self.b, callee, arguments).expect("the function gives something")
    }

    fn splat(&mut self, lane: Lane) -> Lane {
        match lane {
            Lane::Float(v) => Lane::Float(self.b.ins().splat(types::F32X4, v)),
            Lane::Int(v) => Lane::Int(self.b.ins().splat(types::I32X4, v)),
            Lane::Mask(v) => {
                let wide = self.b.ins().uextend(types::I32, v);
                let wide = self.b.ins().ineg(wide);
                Lane::Mask(self.b.ins().splat(types::I32X4, wide))
            }
        }
    }

    fn load(&mut self, dtype: DType, address: ClifValue) -> Lane {
        let flags = MemFlagsData::trusted();
        if dtype == DType::F32 {
            let flags = if self.vectors { MemFlagsData::new().with_notrap() } else { flags };
            let ty = self.float_type();
            return Lane::Float(self.b.ins().load(ty, flags, address, 0));
        }
        // Bytes become integers of 32 bits.
        let wide = if self.vectors {
            let four = self.b.ins().load(types::I32, MemFlagsData::new().with_notrap(), address, 0);
            let vector = self.b.ins().scalar_to_vector(types::I32X4, four);
            let bytes = self.b.ins().bitcast(types::I8X16, little_endian(), vector);
            let half = self.b.ins().uwiden_low(bytes);
            self.b.ins().uwiden_low(half)
        } else {
            self.b.ins().uload8(types::I32, flags, address, 0)
        };
        if dtype == DType::U8 {
            return Lane::Int(wide);
        }
        let zero = self.int(0);
        Lane::Mask(self.b.ins().icmp(IntCC::NotEqual, wide, zero))
    }

    fn store(&mut self, lane: Lane, address: ClifValue) {
        let flags = MemFlagsData::new().with_notrap();
        let value = match lane {
            Lane::Float(v) => v,
            Lane::Mask(v) | Lane::Int(v) if self.b.func.dfg.value_type(v) == types::I8 => v,
            Lane::Mask(v) | Lane::Int(v) => self.b.ins().ireduce(types::I8, v),
        };
        self.b.ins().store(flags, value, address, 0);
    }

    /// Stores the bytes of all vectors of an iteration side by side: booleans, or integers below 128.
    fn store_bytes(&mut self, lanes: &[Lane], address: ClifValue) {
        let one = self.int(1);
        let integers: Vec<ClifValue> = lanes
            .iter()
            .map(|lane| match lane {
                Lane::Mask(m) => self.b.ins().band(*m, one),
                Lane::Int(v) => *v,
                Lane::Float(_) => unreachable!("floats are stored as such"),
            })
            .collect();
        let [low, high] = integers[..] else { unreachable!("an iteration handles two vectors") };
        let half = self.b.ins().snarrow(low, high);
        let bytes = self.b.ins().snarrow(half, half);
        let words = self.b.ins().bitcast(types::I64X2, little_endian(), bytes);
        let eight = self.b.ins().extractlane(words, 0);
        self.b.ins().store(MemFlagsData::new().with_notrap(), eight, address, 0);
    }
}

fn little_endian() -> MemFlagsData {
    MemFlagsData::new().with_endianness(cranelift_codegen::ir::Endianness::Little)
}

impl Lanes for Emitter<'_, '_> {
    type F = ClifValue;
    type I = ClifValue;
    type M = ClifValue;

    fn float(&mut self, x: f32) -> ClifValue {
        let c = self.b.ins().f32const(x);
        if self.vectors { self.b.ins().splat(types::F32X4, c) } else { c }
    }
    fn int(&mut self, x: i32) -> ClifValue {
        let c = self.b.ins().iconst(types::I32, i64::from(x as u32));
        if self.vectors { self.b.ins().splat(types::I32X4, c) } else { c }
    }
    fn add(&mut self, a: ClifValue, b: ClifValue) -> ClifValue {
        self.b.ins().fadd(a, b)
    }
    fn sub(&mut self, a: ClifValue, b: ClifValue) -> ClifValue {
        self.b.ins().fsub(a, b)
    }
    fn mul(&mut self, a: ClifValue, b: ClifValue) -> ClifValue {
        self.b.ins().fmul(a, b)
    }
    fn div(&mut self, a: ClifValue, b: ClifValue) -> ClifValue {
        self.b.ins().fdiv(a, b)
    }
    fn neg(&mut self, a: ClifValue) -> ClifValue {
        self.b.ins().fneg(a)
    }
    fn abs(&mut self, a: ClifValue) -> ClifValue {
        self.b.ins().fabs(a)
    }
    fn sqrt(&mut self, a: ClifValue) -> ClifValue {
        self.b.ins().sqrt(a)
    }
    fn floor(&mut self, a: ClifValue) -> ClifValue {
        self.b.ins().floor(a)
    }
    fn round(&mut self, a: ClifValue) -> ClifValue {
        self.b.ins().nearest(a)
    }
    fn max(&mut self, a: ClifValue, b: ClifValue) -> ClifValue {
        self.b.ins().fmax(a, b)
    }
    fn min(&mut self, a: ClifValue, b: ClifValue) -> ClifValue {
        self.b.ins().fmin(a, b)
    }
    fn lt(&mut self, a: ClifValue, b: ClifValue) -> ClifValue {
        self.b.ins().fcmp(FloatCC::LessThan, a, b)
    }
    fn le(&mut self, a: ClifValue, b: ClifValue) -> ClifValue {
        self.b.ins().fcmp(FloatCC::LessThanOrEqual, a, b)
    }
    fn eq(&mut self, a: ClifValue, b: ClifValue) -> ClifValue {
        self.b.ins().fcmp(FloatCC::Equal, a, b)
    }
    fn int_eq(&mut self, a: ClifValue, b: ClifValue) -> ClifValue {
        self.b.ins().icmp(IntCC::Equal, a, b)
    }
    fn and(&mut self, a: ClifValue, b: ClifValue) -> ClifValue {
        self.b.ins().band(a, b)
    }
    fn or(&mut self, a: ClifValue, b: ClifValue) -> ClifValue {
        self.b.ins().bor(a, b)
    }
    fn not(&mut self, a: ClifValue) -> ClifValue {
        if self.vectors { self.b.ins().bnot(a) } else { self.b.ins().bxor_imm_u(a, 1) }
    }
    fn select(&mut self, m: ClifValue, a: ClifValue, b: ClifValue) -> ClifValue {
        if !self.vectors {
            return self.b.ins().select(m, a, b);
        }
        let x = self.b.ins().bitcast(types::I32X4, little_endian(), a);
        let y = self.b.ins().bitcast(types::I32X4, little_endian(), b);
        let picked = self.b.ins().bitselect(m, x, y);
        self.b.ins().bitcast(types::F32X4, little_endian(), picked)
    }
    fn exponential(&mut self, x: ClifValue) -> ClifValue {
        let Outside { pass, first, at, next, .. } = *self.outside;
        if pass == Pass::Whole {
            return math::exp(self, x);
        }
        self.outside.next += 1;
        let rows = &mut self.outside.rows;
        if next == rows.len() {
            rows.push(self.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, 4 * CHUNK as u32, 4)));
        }
        let row = self.b.ins().stack_addr(types::I64, rows[next], 0);
        let place = self.b.ins().isub(at, first);
        let bytes = self.b.ins().imul_imm_s(place, 4);
        let address = self.b.ins().iadd(row, bytes);
        let (flags, ty) = (MemFlagsData::new().with_notrap(), self.float_type());
        if pass == Pass::Results {
            return self.b.ins().load(ty, flags, address, 0);
        }
        self.b.ins().store(flags, x, address, 0);
        // Only what it is an argument of keeps this alive.
        math::exp(self, x)
    }
    fn to_int(&mut self, a: ClifValue) -> ClifValue {
        let ty = self.int_type();
        self.b.ins().fcvt_to_sint_sat(ty, a)
    }
    fn to_float(&mut self, a: ClifValue) -> ClifValue {
        let ty = self.float_type();
        self.b.ins().fcvt_from_sint(ty, a)
    }
    fn bits(&mut self, a: ClifValue) -> ClifValue {
        let ty = self.int_type();
        let flags = if self.vectors { little_endian() } else { MemFlagsData::new() };
        self.b.ins().bitcast(ty, flags, a)
    }
    fn bits_to_float(&mut self, a: ClifValue) -> ClifValue {
        let ty = self.float_type();
        let flags = if self.vectors { little_endian() } else { MemFlagsData::new() };
        self.b.ins().bitcast(ty, flags, a)
    }
    fn int_add(&mut self, a: ClifValue, b: ClifValue) -> ClifValue {
        self.b.ins().iadd(a, b)
    }
    fn int_sub(&mut self, a: ClifValue, b: ClifValue) -> ClifValue {
        self.b.ins().isub(a, b)
    }
    fn int_and(&mut self, a: ClifValue, b: ClifValue) -> ClifValue {
        self.b.ins().band(a, b)
    }
    fn shift_left(&mut self, a: ClifValue, n: u8) -> ClifValue {
        let by = self.b.ins().iconst(types::I32, i64::from(n));
        self.b.ins().ishl(a, by)
    }
    fn shift_right(&mut self, a: ClifValue, n: u8) -> ClifValue {
        let by = self.b.ins().iconst(types::I32, i64::from(n));
        self.b.ins().sshr(a, by)
    }
    fn fmod(&mut self, a: ClifValue, b: ClifValue) -> ClifValue {
        if !self.vectors {
            return self.call(Callee::Fmod, &[a, b]);
        }
        let mut result = a;
        for lane in 0..4 {
            let pair = [self.b.ins().extractlane(a, lane), self.b.ins().extractlane(b, lane)];
            let one = self.call(Callee::Fmod, &pair);
            result = self.b.ins().insertlane(result, one, lane);
        }
        result
    }
    fn far_angles(&mut self, x: ClifValue, r: ClifValue, k: ClifValue) -> (ClifValue, ClifValue) {
        let (size, limit) = (self.abs(x), self.float(math::FAR));
        let far = self.lt(limit, size);
        let any = if self.vectors { self.b.ins().vany_true(far) } else { far };
        // Nearly always no lane is far, and all of this is jumped over.
        let (called, after) = (self.b.create_block(), self.b.create_block());
        let (float, int) = (self.float_type(), self.int_type());
        let (to_r, to_k) = (self.b.append_block_param(after, float), self.b.append_block_param(after, int));
        self.b.ins().brif(any, called, &[], after, &[BlockArg::Value(r), BlockArg::Value(k)]);
        self.b.switch_to_block(called);
        let (mut new_r, mut new_k) = (r, k);
        for lane in 0..if self.vectors { 4 } else { 1 } {
            let pick = |e: &mut Self, v| if e.vectors { e.b.ins().extractlane(v, lane) } else { v };
            let arguments = [pick(self, x), pick(self, r), pick(self, k)];
            let both = self.call(Callee::FarAngles, &arguments);
            let angle = self.b.ins().ireduce(types::I32, both);
            let angle = self.b.ins().bitcast(types::F32, MemFlagsData::new(), angle);
            let quarters = self.b.ins().ushr_imm_u(both, 32);
            let quarters = self.b.ins().ireduce(types::I32, quarters);
            if self.vectors {
                new_r = self.b.ins().insertlane(new_r, angle, lane);
                new_k = self.b.ins().insertlane(new_k, quarters, lane);
            } else {
                (new_r, new_k) = (angle, quarters);
            }
        }
        self.b.ins().jump(after, &[BlockArg::Value(new_r), BlockArg::Value(new_k)]);
        self.b.switch_to_block(after);
        (to_r, to_k)
    }
}
