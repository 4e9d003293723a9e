//! Step functions to machine code, through Cranelift.
//!
//! A kernel has the signature `fn(pointers: *const *mut u8, n: i64)`: one time step over `n` elements. The pointers are
//! those of loads, then states, then stores. Each iteration handles [`WIDTH`] elements in vectors of four; a scalar loop
//! follows for the rest. Arithmetic is exactly that of [`snn_ir::math`]: nothing is contracted or re-associated.
#![allow(unsafe_code)]

use std::collections::HashMap;

use cranelift_codegen::Context;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::function::FunctionStencil;
use cranelift_codegen::ir::{AbiParam, BlockArg, InstBuilder, MemFlagsData, Signature, Type as ClifType, Value as ClifValue, types};
use cranelift_codegen::isa::CallConv;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, Linkage, Module, default_libcall_names};
use snn_ir::math::{self, Lanes};
use snn_ir::{CompileError, DType};

use snn_plan::step::Shape;

use crate::Listing;
use crate::panels::Kept;

/// Vectors of four that an iteration handles.
const VECTORS: usize = 2;
/// Elements that an iteration handles.
const WIDTH: i64 = 4 * VECTORS as i64;

/// The type of a generated kernel.
pub type KernelFunction = unsafe extern "C" fn(*const *mut u8, i64);

/// A value in a kernel.
pub type Lane = snn_ir::lanes::Lane<ClifValue, ClifValue, ClifValue>;

/// Emits the body of a step: loads and states to next states and stores.
pub type StepBody<'a> = dyn Fn(&mut Emitter<'_, '_>, &[Lane], &[Lane]) -> (Vec<Lane>, Vec<Lane>) + 'a;

/// What a function does, without its name. Its floats are compared by their bits.
#[derive(PartialEq, Hash)]
struct Stencil(FunctionStencil);

impl Eq for Stencil {}

/// A module that is being filled with kernels.
pub struct Code {
    module: JITModule,
    context: Context,
    builder: FunctionBuilderContext,
    functions: Vec<FuncId>,
    known: HashMap<Stencil, FuncId>,
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
        let module = JITModule::new(JITBuilder::with_isa(isa, default_libcall_names()));
        let context = module.make_context();
        Ok(Code {
            module,
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

    /// Adds a kernel; they are numbered in order. `body` computes the next states and the stores from loads and states.
    pub fn kernel(&mut self, name: &str, shape: &Shape, body: &StepBody<'_>) -> Result<(), CompileError> {
        let pointer = self.module.target_config().pointer_type();
        self.context.func.signature.params = vec![AbiParam::new(pointer), AbiParam::new(types::I64)];
        let config = self.module.target_config();
        let mut b = FunctionBuilder::new(&mut self.context.func, &mut self.builder);
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        let (table, n) = (b.block_params(entry)[0], b.block_params(entry)[1]);
        let count = shape.loads.len() + shape.states + shape.stores.len();
        let flags = MemFlagsData::trusted();
        let pointers: Vec<ClifValue> = (0..count).map(|i| b.ins().load(pointer, flags, table, (i * 8) as i32)).collect();
        let zero = b.ins().iconst(types::I64, 0);
        let whole = b.ins().iconst(types::I64, -WIDTH);
        let vector_end = b.ins().band(n, whole);
        let start = run_loop(&mut b, shape, &pointers, zero, vector_end, true, body);
        run_loop(&mut b, shape, &pointers, start, n, false, body);
        b.ins().return_(&[]);
        b.seal_all_blocks();
        b.finalize(config);
        if self.listing == Some(Listing::Clif) {
            // The calling convention is the machine's, and nothing else is.
            let convention = format!(" {} {{", config.default_call_conv);
            let listing = self.context.func.display().to_string().replacen(&convention, " {", 1);
            self.text.push_str(&format!("\n; {name}\n{listing}"));
        }
        // Equal kernels, as those of equal layers are, are one function.
        let stencil = Stencil(self.context.func.stencil.clone());
        if let Some(id) = self.known.get(&stencil) {
            self.functions.push(*id);
            self.module.clear_context(&mut self.context);
            return Ok(());
        }
        let id = self
            .module
            .declare_function(&format!("kernel{}", self.known.len()), Linkage::Export, &self.context.func.signature)
            .map_err(failed)?;
        self.context.set_disasm(self.listing == Some(Listing::Assembly));
        self.module.define_function(id, &mut self.context).map_err(|e| CompileError::CodeGeneration(format!("{e:?}")))?;
        if let (Some(Listing::Assembly), Some(code)) = (self.listing, self.context.compiled_code()) {
            self.text.push_str(&format!("\n; {name}\n{}", code.vcode.as_deref().unwrap_or("")));
        }
        self.module.clear_context(&mut self.context);
        self.functions.push(id);
        self.known.insert(stencil, id);
        Ok(())
    }

    /// Makes the code runnable.
    pub fn finish(mut self, packed: usize) -> Result<Machine, CompileError> {
        self.module.finalize_definitions().map_err(failed)?;
        let kernels = self
            .functions
            .iter()
            .map(|id| {
                let address = self.module.get_finalized_function(*id);
                // SAFETY: every function of this module was defined by `kernel` with this signature.
                unsafe { std::mem::transmute::<*const u8, KernelFunction>(address) }
            })
            .collect();
        let packed = (0..packed).map(|_| Kept::default()).collect();
        Ok(Machine { module: Some(self.module), kernels, packed })
    }
}

/// `for i in start .. end`, by [`WIDTH`] or by one; returns the first index that was not handled.
fn run_loop(
    b: &mut FunctionBuilder<'_>,
    shape: &Shape,
    pointers: &[ClifValue],
    start: ClifValue,
    end: ClifValue,
    vectors: bool,
    body: &StepBody<'_>,
) -> ClifValue {
    // What is the same for all elements is loaded before the loop.
    let uniform: Vec<Option<Lane>> = shape
        .loads
        .iter()
        .zip(pointers)
        .map(|((dtype, uniform), p)| {
            uniform.then(|| {
                let mut e = Emitter { vectors: false, call_conv: b.func.signature.call_conv, b: &mut *b };
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
        let mut e = Emitter { vectors, call_conv: b.func.signature.call_conv, b: &mut *b };
        let address = |e: &mut Emitter<'_, '_>, p: ClifValue, dtype: DType| {
            let at = if k == 0 { i } else { e.b.ins().iadd_imm_s(i, 4 * k as i64) };
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
        results.push(body(&mut e, &loads, &states));
    }
    let types: Vec<DType> = std::iter::repeat_n(DType::F32, shape.states).chain(shape.stores.iter().copied()).collect();
    let results: Vec<Vec<Lane>> = results.into_iter().map(|(states, stores)| states.into_iter().chain(stores).collect()).collect();
    let mut e = Emitter { vectors, call_conv: b.func.signature.call_conv, b: &mut *b };
    for (o, (dtype, p)) in types.iter().zip(&pointers[shape.loads.len()..]).enumerate() {
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
    call_conv: CallConv,
}

impl Emitter<'_, '_> {
    fn float_type(&self) -> ClifType {
        if self.vectors { types::F32X4 } else { types::F32 }
    }

    fn int_type(&self) -> ClifType {
        if self.vectors { types::I32X4 } else { types::I32 }
    }

    /// Calls a function of this program, which takes and gives scalars.
    fn call_library(&mut self, address: usize, arguments: &[ClifValue], result: ClifType) -> ClifValue {
        let mut signature = Signature::new(self.call_conv);
        signature.params = arguments.iter().map(|v| AbiParam::new(self.b.func.dfg.value_type(*v))).collect();
        signature.returns = vec![AbiParam::new(result)];
        let signature = self.b.import_signature(signature);
        let address = self.b.ins().iconst(types::I64, address as i64);
        let call = self.b.ins().call_indirect(signature, address, arguments);
        self.b.inst_results(call)[0]
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

/// For generated code: [`Lanes::fmod`] of one lane.
extern "C" fn fmod(a: f32, b: f32) -> f32 {
    a % b
}

/// For generated code: [`Lanes::far_angles`] of one lane, the right angles in the upper half.
extern "C" fn far_angles(x: f32, r: f32, k: i32) -> u64 {
    let (r, k) = math::Scalar.far_angles(x, r, k);
    u64::from(r.to_bits()) | u64::from(k as u32) << 32
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
            return self.call_library(fmod as *const () as usize, &[a, b], types::F32);
        }
        let mut result = a;
        for lane in 0..4 {
            let pair = [self.b.ins().extractlane(a, lane), self.b.ins().extractlane(b, lane)];
            let one = self.call_library(fmod as *const () as usize, &pair, types::F32);
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
            let both = self.call_library(far_angles as *const () as usize, &arguments, types::I64);
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
