//! A net step by step in memory of its own: machine code of the C file, in this program.
#![allow(unsafe_code)]

use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::default_libcall_names;
use snn_c::{Argument, Arguments, Source};
use snn_ir::DType;

use crate::{ObjectError, flags, generate, parse};

/// A machine function that takes a table of pointers.
type ByTable = unsafe extern "C" fn(*const *mut u8);

/// What a step reads.
#[derive(Clone, Copy, Debug)]
pub enum Slice<'a> {
    /// Floats.
    F32(&'a [f32]),
    /// Integers.
    I64(&'a [i64]),
    /// Bytes, or booleans as 0 and 1.
    U8(&'a [u8]),
}

/// What a step writes.
#[derive(Debug)]
pub enum SliceMut<'a> {
    /// Floats.
    F32(&'a mut [f32]),
    /// Integers.
    I64(&'a mut [i64]),
    /// Bytes, or booleans as 0 and 1.
    U8(&'a mut [u8]),
}

impl<'a> From<&'a [f32]> for Slice<'a> {
    fn from(x: &'a [f32]) -> Slice<'a> {
        Slice::F32(x)
    }
}

impl<'a> From<&'a mut [f32]> for SliceMut<'a> {
    fn from(x: &'a mut [f32]) -> SliceMut<'a> {
        SliceMut::F32(x)
    }
}

impl Slice<'_> {
    fn parts(&self) -> (*mut u8, usize, &'static str) {
        match self {
            Slice::F32(x) => (x.as_ptr() as *mut u8, x.len(), "f32"),
            Slice::I64(x) => (x.as_ptr() as *mut u8, x.len(), "i64"),
            Slice::U8(x) => (x.as_ptr() as *mut u8, x.len(), "bytes"),
        }
    }
}

impl SliceMut<'_> {
    fn parts(&mut self) -> (*mut u8, usize, &'static str) {
        match self {
            SliceMut::F32(x) => (x.as_mut_ptr().cast(), x.len(), "f32"),
            SliceMut::I64(x) => (x.as_mut_ptr().cast(), x.len(), "i64"),
            SliceMut::U8(x) => (x.as_mut_ptr(), x.len(), "bytes"),
        }
    }
}

/// A net as one function for a step, with its state: nothing is allocated in a step, and no thread is woken.
pub struct Resident {
    module: Option<JITModule>,
    init: ByTable,
    step: ByTable,
    arguments: Arguments,
    /// The state with the buffers of a step; words, so that its elements are aligned.
    state: Box<[u64]>,
    /// Pointers to the state, the inputs and the outputs.
    table: Box<[*mut u8]>,
}

// SAFETY: the code is never changed, and keeps nothing but what the table points to: the state, which is here, and slices of the call.
unsafe impl Send for Resident {}

impl Drop for Resident {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: the functions are reachable through this value alone, which is going away.
            unsafe { module.free_memory() };
        }
    }
}

impl Resident {
    /// Compiles the functions for single steps, and begins before the first.
    ///
    /// # Errors
    /// If the net has none.
    pub fn new(source: &Source) -> Result<Resident, ObjectError> {
        let arguments = source.step.clone().ok_or(ObjectError::NoStep)?;
        let defect = |e: &dyn std::fmt::Display| ObjectError::Generated(e.to_string());
        let isa = cranelift_native::builder().map_err(|e| defect(&e))?.finish(flags("false")?).map_err(|e| defect(&e))?;
        let unit = parse::parse(&source.code).map_err(ObjectError::Generated)?;
        let module = JITModule::new(JITBuilder::with_isa(isa, default_libcall_names()));
        let mut functions = generate::define(module, source, &unit).map_err(ObjectError::Generated)?;
        let name = &source.name;
        let bytes = functions.bytes_of(&format!("{name}_state")).ok_or(ObjectError::NoStep)?;
        let both = [format!("{name}_init"), format!("{name}_step")].map(|f| functions.by_table(&f));
        let mut module = functions.into_module();
        module.finalize_definitions().map_err(|e| defect(&e))?;
        let [init, step] = both.map(|id| {
            let address = module.get_finalized_function(id.map_err(ObjectError::Generated)?);
            // SAFETY: `by_table` makes functions of this signature.
            Ok::<_, ObjectError>(unsafe { std::mem::transmute::<*const u8, ByTable>(address) })
        });
        let pointers = 1 + arguments.inputs.len() + arguments.outputs.len();
        let mut resident = Resident {
            module: Some(module),
            init: init?,
            step: step?,
            arguments,
            state: vec![0; (bytes as usize).div_ceil(8)].into(),
            table: vec![std::ptr::null_mut(); pointers].into(),
        };
        resident.reset();
        Ok(resident)
    }

    /// What a step reads, in order.
    pub fn inputs(&self) -> &[Argument] {
        &self.arguments.inputs
    }

    /// What a step writes, in order.
    pub fn outputs(&self) -> &[Argument] {
        &self.arguments.outputs
    }

    /// Goes back before the first step.
    pub fn reset(&mut self) {
        // SAFETY: it takes the state alone.
        unsafe { self.call(self.init) };
    }

    /// Calls a function on the state.
    ///
    /// # Safety
    /// Behind the state the table has what the function takes.
    unsafe fn call(&mut self, function: ByTable) {
        self.table[0] = self.state.as_mut_ptr().cast();
        // SAFETY: functions are made with the layout that the state has; the rest is the caller's promise.
        unsafe { function(self.table.as_ptr()) };
    }

    /// The state, to come back to.
    pub fn state(&self) -> &[u64] {
        &self.state
    }

    /// Goes to a state of this net.
    ///
    /// # Errors
    /// Another length.
    pub fn restore(&mut self, state: &[u64]) -> Result<(), ObjectError> {
        if state.len() != self.state.len() {
            return Err(ObjectError::State { wanted: self.state.len() * 8, found: state.len() * 8 });
        }
        self.state.copy_from_slice(state);
        Ok(())
    }

    /// Takes a step: reads inputs and writes outputs, in the order of [`Resident::inputs`] and [`Resident::outputs`]. Nothing is allocated.
    ///
    /// # Errors
    /// Other numbers, types or lengths than the step's; the state is then as it was.
    pub fn step(&mut self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) -> Result<(), ObjectError> {
        let (reads, writes) = (&self.arguments.inputs, &self.arguments.outputs);
        for (what, wanted, found) in [("inputs", reads.len(), inputs.len()), ("outputs", writes.len(), outputs.len())] {
            if wanted != found {
                return Err(ObjectError::Count { what, wanted, found });
            }
        }
        let (read, written) = self.table[1..].split_at_mut(reads.len());
        for ((place, argument), slice) in read.iter_mut().zip(reads).zip(inputs) {
            *place = checked("input", argument, slice.parts())?;
        }
        for ((place, argument), slice) in written.iter_mut().zip(writes).zip(outputs) {
            *place = checked("output", argument, slice.parts())?;
        }
        // SAFETY: the table has slices of the lengths and types that were just checked, of which those that are written are borrowed mutably.
        unsafe { self.call(self.step) };
        Ok(())
    }
}

fn checked(what: &'static str, argument: &Argument, (pointer, length, ty): (*mut u8, usize, &'static str)) -> Result<*mut u8, ObjectError> {
    let wanted = match argument.dtype {
        DType::F32 => "f32",
        DType::I64 => "i64",
        DType::Bool | DType::U8 => "bytes",
    };
    if wanted == ty && length == argument.shape.iter().product::<usize>() {
        return Ok(pointer);
    }
    let found = format!("{length} {ty}");
    Err(ObjectError::Argument { what, name: argument.name.clone(), wanted: format!("{}{:?}", argument.dtype, argument.shape), found })
}
