//! The functions of this program that generated code calls.
#![allow(unsafe_code)]

use cranelift_codegen::ir::{
    AbiParam, ExtFuncData, ExternalName, FuncRef, Function, InstBuilder, Signature, Type, UserExternalName, Value, types,
};
use cranelift_codegen::isa::CallConv;
use cranelift_frontend::FunctionBuilder;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, Linkage, Module};
use snn_ir::CompileError;
use snn_ir::math::{self, Lanes, Scalar};

use crate::simd::simd_dispatch;

/// A function that generated code calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Callee {
    /// Replaces `n` floats from a pointer on by their exponentials.
    Exponentials,
    /// [`Lanes::fmod`] of one lane.
    Fmod,
    /// [`Lanes::far_angles`] of one lane, the right angles in the upper half.
    FarAngles,
}

use Callee::{Exponentials, FarAngles, Fmod};

impl Callee {
    const ALL: [Callee; 3] = [Exponentials, Fmod, FarAngles];

    fn name(self) -> &'static str {
        match self {
            Exponentials => "exponentials",
            Fmod => "fmod",
            FarAngles => "far_angles",
        }
    }

    fn address(self) -> *const u8 {
        match self {
            Exponentials => exponentials as *const u8,
            Fmod => fmod as *const u8,
            FarAngles => far_angles as *const u8,
        }
    }

    fn signature(self, convention: CallConv) -> Signature {
        let (parameters, results): (&[Type], &[Type]) = match self {
            Exponentials => (&[types::I64, types::I64], &[]),
            Fmod => (&[types::F32, types::F32], &[types::F32]),
            FarAngles => (&[types::F32, types::F32, types::I32], &[types::I64]),
        };
        let all = |types: &[Type]| types.iter().map(|t| AbiParam::new(*t)).collect();
        Signature { params: all(parameters), returns: all(results), call_conv: convention }
    }
}

/// Lets a module that is built find them by name.
pub(crate) fn name_all(builder: &mut JITBuilder) {
    for callee in Callee::ALL {
        builder.symbol(callee.name(), callee.address());
    }
}

/// The functions in a module, and those that the function which is written has called.
#[derive(Clone)]
pub(crate) struct Callees {
    ids: [FuncId; 3],
    called: [Option<FuncRef>; 3],
}

impl Callees {
    /// Declares them in a module.
    pub(crate) fn declare(module: &mut JITModule) -> Result<Callees, CompileError> {
        let convention = module.target_config().default_call_conv;
        let mut declare = |callee: Callee| {
            let id = module.declare_function(callee.name(), Linkage::Import, &callee.signature(convention));
            id.map_err(|e| CompileError::CodeGeneration(e.to_string()))
        };
        Ok(Callees { ids: [declare(Exponentials)?, declare(Fmod)?, declare(FarAngles)?], called: [None; 3] })
    }

    /// Calls one; the result, if it has one.
    pub(crate) fn call(&mut self, b: &mut FunctionBuilder<'_>, callee: Callee, arguments: &[Value]) -> Option<Value> {
        let (id, called) = (self.ids[callee as usize], &mut self.called[callee as usize]);
        let function = *called.get_or_insert_with(|| import(b.func, callee, id));
        let call = b.ins().call(function, arguments);
        b.inst_results(call).first().copied()
    }
}

fn import(function: &mut Function, callee: Callee, id: FuncId) -> FuncRef {
    let signature = callee.signature(function.signature.call_conv);
    let signature = function.import_signature(signature);
    let name = function.declare_imported_user_function(UserExternalName { namespace: 0, index: id.as_u32() });
    function.import_function(ExtFuncData { name: ExternalName::user(name), signature, colocated: false, patchable: false })
}

/// [`Exponentials`].
///
/// # Safety
/// The floats must be there, and nobody else may read or write them meanwhile.
unsafe extern "C" fn exponentials(values: *mut f32, n: i64) {
    // SAFETY: the caller promises it; generated code has written them.
    replace_by_exponentials(unsafe { std::slice::from_raw_parts_mut(values, n as usize) });
}

simd_dispatch! {
    fn replace_by_exponentials(values: &mut [f32]) {
        values.iter_mut().for_each(|x| *x = math::exp(&mut Scalar, *x));
    }
}

/// [`Fmod`].
extern "C" fn fmod(a: f32, b: f32) -> f32 {
    a % b
}

/// [`FarAngles`].
extern "C" fn far_angles(x: f32, r: f32, k: i32) -> u64 {
    let (r, k) = Scalar.far_angles(x, r, k);
    u64::from(r.to_bits()) | u64::from(k as u32) << 32
}
