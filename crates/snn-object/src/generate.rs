//! Syntax tree to machine code.
//!
//! A value of fewer than 32 bits is held as 32, extended as its type says: that is C's integer promotion, done when it is loaded.

use std::collections::HashMap;

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{
    AbiParam, Block, BlockArg, FuncRef, Function as Code, InstBuilder, MemFlagsData, Signature, StackSlot, StackSlotData, StackSlotKind,
    Type as ClifType, UserFuncName, Value, types,
};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use cranelift_module::{DataDescription, DataId, FuncId, Linkage, Module};
use snn_c::Source;

use crate::parse::{Binary, Expression, Function, INT, SIZE, Scalar, Statement, Type, Unit};
use crate::vectors::Counted;

type Result<T> = std::result::Result<T, String>;

/// Functions of the C library that are called.
const LIBRARY: &[(&str, &[Scalar])] = &[("memcpy", &[SIZE, SIZE, SIZE]), ("memset", &[SIZE, INT, SIZE])];

/// A field: its place, its elements, whether it is an array.
type Field = (u32, Scalar, bool);

/// A structure.
struct Layout {
    fields: HashMap<String, Field>,
    bytes: u32,
}

/// What functions share.
pub struct Globals<M> {
    module: M,
    layouts: HashMap<String, Layout>,
    arrays: HashMap<String, (DataId, Scalar, usize)>,
    functions: HashMap<String, Known>,
}

/// A function by its name.
#[derive(Clone)]
struct Known {
    linkage: Linkage,
    result: Type,
    parameters: Vec<Type>,
    /// Its number, where it is called or exported.
    id: Option<FuncId>,
}

/// All functions of a file in a module.
pub fn define<M: Module>(module: M, source: &Source, unit: &Unit) -> Result<Globals<M>> {
    let mut globals = Globals {
        module,
        layouts: unit.structures.iter().map(|s| (s.name.clone(), layout(&s.fields))).collect(),
        arrays: HashMap::new(),
        functions: HashMap::new(),
    };
    for array in &source.arrays {
        let scalar = Scalar::named(array.element_type()).ok_or_else(|| format!("`{}` is no type", array.element_type()))?;
        let mut data = DataDescription::new();
        let contents = array.contents();
        let length = contents.len();
        data.define(if contents.is_empty() { vec![0] } else { contents }.into());
        data.set_align(16);
        let id = globals.data(&array.name, false, &data)?;
        globals.arrays.insert(array.name.clone(), (id, scalar, length));
    }
    for (name, parameters) in LIBRARY {
        let parameters = parameters.iter().map(|s| Type::Scalar(*s)).collect();
        globals.functions.insert(name.to_string(), Known { linkage: Linkage::Import, result: Type::Scalar(SIZE), parameters, id: None });
    }
    for f in &unit.functions {
        let linkage = if f.is_local { Linkage::Local } else { Linkage::Export };
        let parameters = f.parameters.iter().map(|(_, t)| t.clone()).collect();
        globals.functions.insert(f.name.clone(), Known { linkage, result: f.result.clone(), parameters, id: None });
    }
    // Callers stand behind what they call: so it is known of each whether it is called.
    let mut builder = FunctionBuilderContext::new();
    for f in unit.functions.iter().rev() {
        if !f.is_local || globals.functions[&f.name].id.is_some() {
            globals.function(f, &mut builder).map_err(|e| format!("{}: {e}", f.name))?;
        }
    }
    Ok(globals)
}

/// Fields behind each other, each at a multiple of the size of its elements.
fn layout(fields: &[(String, Scalar, Option<u32>)]) -> Layout {
    let (mut places, mut at, mut widest) = (HashMap::new(), 0u32, 1);
    for (name, scalar, length) in fields {
        let bytes = scalar.bytes();
        at = at.next_multiple_of(bytes);
        places.insert(name.clone(), (at, *scalar, length.is_some()));
        at += bytes * length.unwrap_or(1);
        widest = widest.max(bytes);
    }
    Layout { fields: places, bytes: at.next_multiple_of(widest) }
}

/// How a scalar is held.
fn held(scalar: Scalar) -> ClifType {
    match scalar {
        Scalar::Bool => types::I32,
        Scalar::Integer { bits, .. } => {
            if bits > 32 {
                types::I64
            } else {
                types::I32
            }
        }
        Scalar::Float => types::F32,
        Scalar::Double => types::F64,
    }
}

fn held_type(ty: &Type) -> Result<ClifType> {
    match ty {
        Type::Void => Err("a value of no type".into()),
        Type::Scalar(s) => Ok(held(*s)),
        Type::Pointer(_) | Type::Structure(_) => Ok(types::I64),
    }
}

/// C's integer promotion.
fn promoted(scalar: Scalar) -> Scalar {
    match scalar {
        Scalar::Bool => INT,
        Scalar::Integer { bits, .. } if bits < 32 => INT,
        other => other,
    }
}

/// The type that two operands are converted to.
fn common(a: Scalar, b: Scalar) -> Scalar {
    let rank = |s: Scalar| match promoted(s) {
        Scalar::Bool => 0,
        Scalar::Integer { bits, signed } => u32::from(bits) + u32::from(!signed),
        Scalar::Float => 100,
        Scalar::Double => 101,
    };
    promoted(if rank(a) >= rank(b) { a } else { b })
}

impl<M: Module> Globals<M> {
    /// The module with what was defined.
    pub fn into_module(self) -> M {
        self.module
    }

    /// The bytes of a structure.
    pub fn bytes_of(&self, structure: &str) -> Option<u32> {
        self.layouts.get(structure).map(|l| l.bytes)
    }

    /// The elements of a constant array.
    pub fn array(&self, name: &str) -> Option<Scalar> {
        self.arrays.get(name).map(|(_, s, _)| *s)
    }

    /// The elements of an array that is a field.
    pub fn field(&self, structure: &str, name: &str) -> Option<Scalar> {
        self.layouts.get(structure).and_then(|l| l.fields.get(name)).filter(|(_, _, is_array)| *is_array).map(|(_, s, _)| *s)
    }

    /// An exported function that takes a table of the arguments of another.
    pub fn by_table(&mut self, name: &str) -> Result<FuncId> {
        let callee = self.wanted(name)?;
        let count = self.known(name)?.parameters.len();
        let mut clif = self.module.make_context();
        clif.func.signature = self.module.make_signature();
        clif.func.signature.params.push(AbiParam::new(types::I64));
        let id =
            self.module.declare_function(&format!("{name}_by_table"), Linkage::Export, &clif.func.signature).map_err(|e| e.to_string())?;
        let config = self.module.target_config();
        let mut context = FunctionBuilderContext::new();
        let mut b = FunctionBuilder::new(&mut clif.func, &mut context);
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        let table = b.block_params(entry)[0];
        let place = |i: usize| (i * 8) as i32;
        let arguments: Vec<Value> = (0..count).map(|i| b.ins().load(types::I64, MemFlagsData::trusted(), table, place(i))).collect();
        let function = self.module.declare_func_in_func(callee, b.func);
        b.ins().call(function, &arguments);
        b.ins().return_(&[]);
        b.seal_all_blocks();
        b.finalize(config);
        self.module.define_function(id, &mut clif).map_err(|e| format!("{e:?}"))?;
        Ok(id)
    }

    fn data(&mut self, name: &str, writable: bool, data: &DataDescription) -> Result<DataId> {
        let id = self.module.declare_data(name, Linkage::Local, writable, false).map_err(|e| e.to_string())?;
        self.module.define_data(id, data).map_err(|e| e.to_string())?;
        Ok(id)
    }

    fn signature(&self, of: &Known) -> Result<Signature> {
        let mut signature = self.module.make_signature();
        for ty in &of.parameters {
            signature.params.push(AbiParam::new(held_type(ty)?));
        }
        if of.result != Type::Void {
            signature.returns.push(AbiParam::new(held_type(&of.result)?));
        }
        Ok(signature)
    }

    fn known(&self, name: &str) -> Result<&Known> {
        self.functions.get(name).ok_or_else(|| format!("`{name}` is not known"))
    }

    /// The number of a function that is called or made.
    fn wanted(&mut self, name: &str) -> Result<FuncId> {
        let known = self.known(name)?;
        if let Some(id) = known.id {
            return Ok(id);
        }
        let (linkage, signature) = (known.linkage, self.signature(known)?);
        let id = self.module.declare_function(name, linkage, &signature).map_err(|e| e.to_string())?;
        self.functions.entry(name.to_string()).and_modify(|k| k.id = Some(id));
        Ok(id)
    }

    fn function(&mut self, f: &Function, context: &mut FunctionBuilderContext) -> Result<()> {
        let id = self.wanted(&f.name)?;
        let signature = self.signature(self.known(&f.name)?)?;
        let mut clif = self.module.make_context();
        clif.func = Code::with_name_signature(UserFuncName::user(0, id.as_u32()), signature);
        let config = self.module.target_config();
        let mut b = FunctionBuilder::new(&mut clif.func, context);
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        let mut body = Body { globals: self, b, result: &f.result, scopes: vec![HashMap::new()], turns: vec![], called: HashMap::new() };
        for (i, (name, ty)) in f.parameters.iter().enumerate() {
            let value = body.b.block_params(entry)[i];
            body.declare(name, ty, Some(value))?;
        }
        for s in &f.body {
            body.statement(s)?;
        }
        body.finish()?;
        body.b.seal_all_blocks();
        body.b.finalize(config);
        self.module.define_function(id, &mut clif).map_err(|e| format!("{e:?}"))
    }
}

/// What a name in a function stands for.
#[derive(Clone)]
pub(crate) enum Local {
    /// A scalar or a pointer.
    Variable(Variable, Type),
    /// An array on the stack.
    Slot(StackSlot, Scalar),
    /// A structure that lives as long as the program.
    Static(DataId, String),
}

/// A value with its type.
pub(crate) struct Typed {
    pub value: Value,
    pub ty: Type,
}

/// Where a value is written.
enum Place {
    Variable(Variable, Type),
    Memory(Value, Scalar),
}

/// A function that is being made.
pub(crate) struct Body<'a, 'b, M> {
    pub globals: &'a mut Globals<M>,
    pub b: FunctionBuilder<'b>,
    result: &'a Type,
    pub scopes: Vec<HashMap<String, Local>>,
    /// Where `continue` goes, for each loop.
    turns: Vec<Block>,
    called: HashMap<String, FuncRef>,
}

impl<M: Module> Body<'_, '_, M> {
    fn declare(&mut self, name: &str, ty: &Type, value: Option<Value>) -> Result<()> {
        let variable = self.b.declare_var(held_type(ty)?);
        if let Some(value) = value {
            self.b.def_var(variable, value);
        }
        self.name(name, Local::Variable(variable, ty.clone()));
        Ok(())
    }

    fn name(&mut self, name: &str, local: Local) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_string(), local);
        }
    }

    pub(crate) fn local(&self, name: &str) -> Option<Local> {
        self.scopes.iter().rev().find_map(|s| s.get(name)).cloned()
    }

    /// Has the machine instructions that round vectors? On x86-64 they came with SSE4.1.
    pub(crate) fn rounds_natively(&self) -> bool {
        let mut flags = self.globals.module.isa().isa_flags().into_iter();
        flags.find(|f| f.name == "has_sse41").is_none_or(|f| f.as_bool() == Some(true))
    }

    /// What comes after a `return` or `continue` is never reached.
    fn leave(&mut self) {
        let after = self.b.create_block();
        self.b.switch_to_block(after);
    }

    /// The end of the function, which only functions without a result reach.
    fn finish(&mut self) -> Result<()> {
        let zero = match self.result {
            Type::Void => None,
            ty => Some(self.zero(held_type(ty)?)),
        };
        self.b.ins().return_(zero.as_slice());
        Ok(())
    }

    fn zero(&mut self, ty: ClifType) -> Value {
        match ty {
            types::F32 => self.b.ins().f32const(0.0),
            types::F64 => self.b.ins().f64const(0.0),
            _ => self.b.ins().iconst(ty, 0),
        }
    }

    pub(crate) fn statement(&mut self, s: &Statement) -> Result<()> {
        match s {
            Statement::Block(all) => {
                self.scopes.push(HashMap::new());
                all.iter().try_for_each(|s| self.statement(s))?;
                self.scopes.pop();
            }
            Statement::Several(all) => all.iter().try_for_each(|s| self.statement(s))?,
            Statement::Empty => {}
            Statement::Evaluate(e) => {
                self.evaluate(e)?;
            }
            Statement::Declare(name, ty, value) => {
                let value = value.as_ref().map(|e| self.converted(e, ty)).transpose()?;
                self.declare(name, ty, value)?;
            }
            Statement::Array(name, scalar, values) => {
                let bytes = scalar.bytes() * values.len() as u32;
                let slot = self.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 3));
                for (i, e) in values.iter().enumerate() {
                    let value = self.converted(e, &Type::Scalar(*scalar))?;
                    let at = self.b.ins().stack_addr(types::I64, slot, (i as u32 * scalar.bytes()) as i32);
                    self.store(*scalar, value, at);
                }
                self.name(name, Local::Slot(slot, *scalar));
            }
            Statement::Static(name, of) => {
                let bytes = self.globals.layouts.get(of).ok_or_else(|| format!("`{of}` is no structure"))?.bytes;
                let mut data = DataDescription::new();
                data.define_zeroinit(bytes.max(1) as usize);
                data.set_align(16);
                let id = self.globals.data(&format!("static_{of}"), true, &data)?;
                self.name(name, Local::Static(id, of.clone()));
            }
            Statement::Return(value) => {
                let value = value.as_ref().map(|e| self.converted(e, self.result)).transpose()?;
                self.b.ins().return_(value.as_slice());
                self.leave();
            }
            Statement::Continue => {
                let turn = *self.turns.last().ok_or("`continue` outside of a loop")?;
                self.b.ins().jump(turn, &[]);
                self.leave();
            }
            Statement::If(condition, then, otherwise) => {
                let condition = self.condition(condition)?;
                let (yes, no, after) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
                self.b.ins().brif(condition, yes, &[], no, &[]);
                self.b.switch_to_block(yes);
                self.statement(then)?;
                self.b.ins().jump(after, &[]);
                self.b.switch_to_block(no);
                if let Some(s) = otherwise {
                    self.statement(s)?;
                }
                self.b.ins().jump(after, &[]);
                self.b.switch_to_block(after);
            }
            Statement::For { first, condition, last, body } => {
                self.scopes.push(HashMap::new());
                if let Some(s) = first {
                    self.statement(s)?;
                }
                let (head, inside) = (self.b.create_block(), self.b.create_block());
                let (next, after) = (self.b.create_block(), self.b.create_block());
                if let Some(counted) = Counted::of(first.as_deref(), condition, last.as_ref(), body) {
                    self.by_vectors(&counted)?;
                }
                self.b.ins().jump(head, &[]);
                self.b.switch_to_block(head);
                let condition = self.condition(condition)?;
                self.b.ins().brif(condition, inside, &[], after, &[]);
                self.b.switch_to_block(inside);
                self.turns.push(next);
                self.statement(body)?;
                self.turns.pop();
                self.b.ins().jump(next, &[]);
                self.b.switch_to_block(next);
                if let Some(e) = last {
                    self.evaluate(e)?;
                }
                self.b.ins().jump(head, &[]);
                self.b.switch_to_block(after);
                self.scopes.pop();
            }
            Statement::Switch { value, cases, otherwise } => {
                let value = self.converted(value, &Type::Scalar(INT))?;
                for (number, statement) in cases {
                    let (yes, no) = (self.b.create_block(), self.b.create_block());
                    let same = self.b.ins().icmp_imm_s(IntCC::Equal, value, *number);
                    self.b.ins().brif(same, yes, &[], no, &[]);
                    self.b.switch_to_block(yes);
                    self.statement(statement)?;
                    self.b.ins().jump(no, &[]);
                    self.b.switch_to_block(no);
                }
                self.statement(otherwise)?;
            }
        }
        Ok(())
    }

    /// A value converted to a type.
    pub(crate) fn converted(&mut self, e: &Expression, ty: &Type) -> Result<Value> {
        let of = self.value(e)?;
        self.convert(of, ty)
    }

    fn convert(&mut self, of: Typed, ty: &Type) -> Result<Value> {
        match (&of.ty, ty) {
            (Type::Scalar(from), Type::Scalar(to)) => Ok(self.convert_scalar(of.value, *from, *to)),
            // Pointers and sizes of the library have 64 bits.
            (Type::Pointer(_) | Type::Structure(_), Type::Pointer(_) | Type::Structure(_) | Type::Scalar(SIZE)) => Ok(of.value),
            (from, to) => Err(format!("a value of type {from:?} as {to:?}")),
        }
    }

    fn convert_scalar(&mut self, value: Value, from: Scalar, to: Scalar) -> Value {
        let from = promoted(from);
        if from == to {
            return value;
        }
        let ins = self.b.ins();
        match (from, to) {
            (Scalar::Float, Scalar::Double) => ins.fpromote(types::F64, value),
            (Scalar::Double, Scalar::Float) => ins.fdemote(types::F32, value),
            (Scalar::Float | Scalar::Double, Scalar::Integer { bits, signed }) => {
                let whole = match (bits > 32, bits == 32 && !signed) {
                    (true, _) if !signed => ins.fcvt_to_uint_sat(types::I64, value),
                    (true, _) => ins.fcvt_to_sint_sat(types::I64, value),
                    (false, true) => ins.fcvt_to_uint_sat(types::I32, value),
                    (false, false) => ins.fcvt_to_sint_sat(types::I32, value),
                };
                self.shortened(whole, bits, signed)
            }
            (Scalar::Float | Scalar::Double, Scalar::Bool) => {
                let zero = self.zero(held(from));
                let holds = self.b.ins().fcmp(FloatCC::NotEqual, value, zero);
                self.b.ins().uextend(types::I32, holds)
            }
            (Scalar::Integer { .. } | Scalar::Bool, Scalar::Bool) => {
                let holds = ins.icmp_imm_s(IntCC::NotEqual, value, 0);
                self.b.ins().uextend(types::I32, holds)
            }
            (Scalar::Integer { signed: true, .. } | Scalar::Bool, Scalar::Float | Scalar::Double) => ins.fcvt_from_sint(held(to), value),
            (Scalar::Integer { signed: false, .. }, Scalar::Float | Scalar::Double) => ins.fcvt_from_uint(held(to), value),
            (Scalar::Integer { bits: 64, .. }, Scalar::Integer { bits: 64, .. }) => value,
            (Scalar::Integer { signed, .. }, Scalar::Integer { bits: 64, .. }) => {
                if signed {
                    ins.sextend(types::I64, value)
                } else {
                    ins.uextend(types::I64, value)
                }
            }
            (Scalar::Bool, Scalar::Integer { bits: 64, .. }) => ins.uextend(types::I64, value),
            (Scalar::Integer { bits: 64, .. }, Scalar::Integer { bits, signed }) => {
                let low = ins.ireduce(types::I32, value);
                self.shortened(low, bits, signed)
            }
            (Scalar::Integer { .. } | Scalar::Bool, Scalar::Integer { bits, signed }) => self.shortened(value, bits, signed),
            (Scalar::Float, Scalar::Float) | (Scalar::Double, Scalar::Double) => value,
        }
    }

    /// The lowest bits of 32, extended.
    fn shortened(&mut self, value: Value, bits: u16, signed: bool) -> Value {
        let ty = match bits {
            8 => types::I8,
            16 => types::I16,
            _ => return value,
        };
        let low = self.b.ins().ireduce(ty, value);
        if signed { self.b.ins().sextend(types::I32, low) } else { self.b.ins().uextend(types::I32, low) }
    }

    pub(crate) fn load(&mut self, scalar: Scalar, at: Value) -> Typed {
        let flags = MemFlagsData::trusted();
        let value = match scalar {
            Scalar::Bool | Scalar::Integer { bits: 8, signed: false } => self.b.ins().uload8(types::I32, flags, at, 0),
            Scalar::Integer { bits: 8, signed: true } => self.b.ins().sload8(types::I32, flags, at, 0),
            Scalar::Integer { bits: 16, signed: true } => self.b.ins().sload16(types::I32, flags, at, 0),
            Scalar::Integer { bits: 16, signed: false } => self.b.ins().uload16(types::I32, flags, at, 0),
            other => self.b.ins().load(held(other), flags, at, 0),
        };
        Typed { value, ty: Type::Scalar(promoted(scalar)) }
    }

    pub(crate) fn store(&mut self, scalar: Scalar, value: Value, at: Value) {
        let flags = MemFlagsData::trusted();
        match scalar {
            Scalar::Bool | Scalar::Integer { bits: 8, .. } => self.b.ins().istore8(flags, value, at, 0),
            Scalar::Integer { bits: 16, .. } => self.b.ins().istore16(flags, value, at, 0),
            Scalar::Integer { .. } | Scalar::Float | Scalar::Double => self.b.ins().store(flags, value, at, 0),
        };
    }

    fn address(&mut self, data: DataId) -> Value {
        let global = self.globals.module.declare_data_in_func(data, self.b.func);
        self.b.ins().symbol_value(types::I64, global)
    }

    pub(crate) fn value(&mut self, e: &Expression) -> Result<Typed> {
        self.evaluate(e)?.ok_or_else(|| "a value is wanted of what has none".to_string())
    }

    /// A value that a branch can be made on: not zero where the expression holds.
    fn condition(&mut self, e: &Expression) -> Result<Value> {
        match e {
            Expression::Not(of) => {
                let holds = self.condition(of)?;
                Ok(self.b.ins().icmp_imm_s(IntCC::Equal, holds, 0))
            }
            Expression::Binary(o @ (Binary::Or | Binary::And), a, b) => {
                let left = self.condition(a)?;
                if is_pure(b) {
                    let right = self.condition(b)?;
                    let [left, right] = [left, right].map(|v| self.b.ins().icmp_imm_s(IntCC::NotEqual, v, 0));
                    return Ok(if *o == Binary::Or { self.b.ins().bor(left, right) } else { self.b.ins().band(left, right) });
                }
                let left = self.b.ins().icmp_imm_s(IntCC::NotEqual, left, 0);
                let (more, after) = (self.b.create_block(), self.b.create_block());
                self.b.append_block_param(after, types::I8);
                let end = [BlockArg::Value(left)];
                match o {
                    Binary::Or => self.b.ins().brif(left, after, &end, more, &[]),
                    _ => self.b.ins().brif(left, more, &[], after, &end),
                };
                self.b.switch_to_block(more);
                let right = self.condition(b)?;
                let right = self.b.ins().icmp_imm_s(IntCC::NotEqual, right, 0);
                self.b.ins().jump(after, &[BlockArg::Value(right)]);
                self.b.switch_to_block(after);
                Ok(self.b.block_params(after)[0])
            }
            Expression::Binary(o, a, b) if let Some(comparison) = comparison(*o) => {
                let (a, b) = (self.value(a)?, self.value(b)?);
                let (Type::Scalar(x), Type::Scalar(y)) = (&a.ty, &b.ty) else { return Err("pointers are compared".into()) };
                let ty = common(*x, *y);
                let (a, b) = (self.convert_scalar(a.value, *x, ty), self.convert_scalar(b.value, *y, ty));
                Ok(self.compare(comparison, ty, a, b))
            }
            _ => self.converted(e, &Type::Scalar(Scalar::Bool)),
        }
    }

    fn evaluate(&mut self, e: &Expression) -> Result<Option<Typed>> {
        let scalar = |value, scalar| Ok(Some(Typed { value, ty: Type::Scalar(scalar) }));
        match e {
            Expression::Integer(x, s) => {
                // The upper half of a constant of 32 bits is none of its bits.
                let value = if held(*s) == types::I64 { *x } else { i64::from(*x as u32) };
                let value = self.b.ins().iconst(held(*s), value);
                scalar(value, *s)
            }
            Expression::Float(x, Scalar::Float) => scalar(self.b.ins().f32const(*x as f32), Scalar::Float),
            Expression::Float(x, s) => scalar(self.b.ins().f64const(*x), *s),
            Expression::SizeOfType(s) => scalar(self.b.ins().iconst(types::I64, i64::from(s.bytes())), SIZE),
            Expression::SizeOfArray(name) => {
                let bytes = self.globals.arrays.get(name).ok_or_else(|| format!("`{name}` is no array"))?.2;
                scalar(self.b.ins().iconst(types::I64, bytes as i64), SIZE)
            }
            Expression::Name(name) => self.named(name).map(Some),
            Expression::Call(name, arguments) => self.call(name, arguments),
            Expression::Index(base, index) => {
                let (at, s) = self.element(base, index)?;
                Ok(Some(self.load(s, at)))
            }
            Expression::Field(of, name) => {
                let (at, s, is_array) = self.field(of, name)?;
                Ok(Some(if is_array { Typed { value: at, ty: Type::Pointer(s) } } else { self.load(s, at) }))
            }
            Expression::Address(of) => match &**of {
                Expression::Name(name) => match self.local(name) {
                    Some(Local::Static(data, of)) => Ok(Some(Typed { value: self.address(data), ty: Type::Structure(of) })),
                    _ => Err(format!("the address of `{name}`")),
                },
                _ => Err("an address of no structure".into()),
            },
            Expression::Negate(of) => {
                let of = self.value(of)?;
                let Type::Scalar(s) = of.ty else { return Err("a negated pointer".into()) };
                let value = match s {
                    Scalar::Float | Scalar::Double => self.b.ins().fneg(of.value),
                    Scalar::Integer { .. } | Scalar::Bool => self.b.ins().ineg(of.value),
                };
                scalar(value, s)
            }
            Expression::Cast(Type::Pointer(s), of) => {
                let of = self.value(of)?;
                Ok(Some(Typed { value: of.value, ty: Type::Pointer(*s) }))
            }
            Expression::Cast(ty, of) => {
                let value = self.converted(of, ty)?;
                let Type::Scalar(s) = ty else { return Err("a conversion to no type".into()) };
                scalar(value, promoted(*s))
            }
            Expression::Step(of, by, gives_old) => {
                let place = self.place(of)?;
                let Typed { value: old, ty } = self.read(&place);
                let Type::Scalar(s) = ty else { return Err("a pointer is counted".into()) };
                let new = self.b.ins().iadd_imm_s(old, *by);
                self.write(&place, Typed { value: new, ty: Type::Scalar(s) })?;
                scalar(if *gives_old { old } else { new }, s)
            }
            Expression::Not(_) | Expression::Binary(Binary::Or | Binary::And, ..) => {
                let holds = self.condition(e)?;
                scalar(self.b.ins().uextend(types::I32, holds), INT)
            }
            Expression::Binary(o, ..) if comparison(*o).is_some() => {
                let holds = self.condition(e)?;
                scalar(self.b.ins().uextend(types::I32, holds), INT)
            }
            Expression::Binary(o, a, b) => {
                let (a, b) = (self.value(a)?, self.value(b)?);
                self.binary(*o, a, b).map(Some)
            }
            Expression::Choose(condition, a, b) => self.choose(condition, a, b).map(Some),
            Expression::Assign(to, operator, e) => {
                let place = self.place(to)?;
                let mut value = self.value(e)?;
                if let Some(o) = operator {
                    let old = self.read(&place);
                    value = self.binary(*o, old, value)?;
                }
                self.write(&place, value)?;
                Ok(None)
            }
        }
    }

    fn named(&mut self, name: &str) -> Result<Typed> {
        let local = self.local(name);
        Ok(match local {
            Some(Local::Variable(v, ty)) => self.read(&Place::Variable(v, ty)),
            Some(Local::Slot(slot, s)) => Typed { value: self.b.ins().stack_addr(types::I64, slot, 0), ty: Type::Pointer(s) },
            Some(Local::Static(..)) => return Err(format!("`{name}` as a value")),
            None => match name {
                "NAN" => Typed { value: self.b.ins().f32const(f32::NAN), ty: Type::Scalar(Scalar::Float) },
                "INFINITY" => Typed { value: self.b.ins().f32const(f32::INFINITY), ty: Type::Scalar(Scalar::Float) },
                "INT64_MAX" | "INT64_MIN" => {
                    let x = if name == "INT64_MAX" { i64::MAX } else { i64::MIN };
                    Typed { value: self.b.ins().iconst(types::I64, x), ty: Type::Scalar(Scalar::Integer { bits: 64, signed: true }) }
                }
                _ => {
                    let (data, s, _) = *self.globals.arrays.get(name).ok_or_else(|| format!("`{name}` is not known"))?;
                    Typed { value: self.address(data), ty: Type::Pointer(s) }
                }
            },
        })
    }

    fn field(&mut self, of: &Expression, name: &str) -> Result<(Value, Scalar, bool)> {
        let Typed { value, ty: Type::Structure(structure) } = self.value(of)? else { return Err(format!("`{name}` of no structure")) };
        let field = self.globals.layouts.get(&structure).and_then(|l| l.fields.get(name));
        let (at, s, is_array) = *field.ok_or_else(|| format!("`{structure}` has no field `{name}`"))?;
        Ok((self.b.ins().iadd_imm_s(value, i64::from(at)), s, is_array))
    }

    fn place(&mut self, e: &Expression) -> Result<Place> {
        match e {
            Expression::Name(name) => match self.local(name) {
                Some(Local::Variable(v, ty)) => Ok(Place::Variable(v, ty)),
                _ => Err(format!("`{name}` is written")),
            },
            Expression::Index(of, i) => self.element(of, i).map(|(at, s)| Place::Memory(at, s)),
            Expression::Field(of, name) => match self.field(of, name)? {
                (at, s, false) => Ok(Place::Memory(at, s)),
                _ => Err(format!("the array `{name}` is written")),
            },
            _ => Err("what is written has no place".into()),
        }
    }

    fn read(&mut self, place: &Place) -> Typed {
        match place {
            Place::Memory(at, s) => self.load(*s, *at),
            Place::Variable(v, ty) => {
                let ty = if let Type::Scalar(s) = ty { Type::Scalar(promoted(*s)) } else { ty.clone() };
                Typed { value: self.b.use_var(*v), ty }
            }
        }
    }

    fn write(&mut self, place: &Place, value: Typed) -> Result<()> {
        match place {
            Place::Memory(at, s) => {
                let value = self.convert(value, &Type::Scalar(*s))?;
                self.store(*s, value, *at);
            }
            Place::Variable(v, ty) => {
                let value = self.convert(value, ty)?;
                self.b.def_var(*v, value);
            }
        }
        Ok(())
    }

    pub(crate) fn binary(&mut self, o: Binary, a: Typed, b: Typed) -> Result<Typed> {
        let (x, y) = match (&a.ty, &b.ty) {
            (Type::Pointer(s), Type::Scalar(by)) if o == Binary::Add => {
                let by = self.convert_scalar(b.value, *by, Scalar::Integer { bits: 64, signed: true });
                let bytes = self.b.ins().imul_imm_s(by, i64::from(s.bytes()));
                return Ok(Typed { value: self.b.ins().iadd(a.value, bytes), ty: a.ty });
            }
            (Type::Scalar(x), Type::Scalar(y)) => (*x, *y),
            (x, y) => return Err(format!("{o:?} of {x:?} and {y:?}")),
        };
        if let Binary::ShiftLeft | Binary::ShiftRight = o {
            let ty = promoted(x);
            let ins = self.b.ins();
            let value = match (o, ty) {
                (Binary::ShiftLeft, _) => ins.ishl(a.value, b.value),
                (_, Scalar::Integer { signed: false, .. }) => ins.ushr(a.value, b.value),
                _ => ins.sshr(a.value, b.value),
            };
            return Ok(Typed { value, ty: Type::Scalar(ty) });
        }
        let ty = common(x, y);
        let (a, b) = (self.convert_scalar(a.value, x, ty), self.convert_scalar(b.value, y, ty));
        Ok(Typed { value: self.arithmetic(o, ty, a, b)?, ty: Type::Scalar(ty) })
    }

    /// An operator on two values of a type, or on vectors of them.
    pub(crate) fn arithmetic(&mut self, o: Binary, ty: Scalar, a: Value, b: Value) -> Result<Value> {
        let is_float = matches!(ty, Scalar::Float | Scalar::Double);
        let is_signed = matches!(ty, Scalar::Integer { signed: true, .. });
        let ins = self.b.ins();
        Ok(match (o, is_float) {
            (Binary::Add, true) => ins.fadd(a, b),
            (Binary::Subtract, true) => ins.fsub(a, b),
            (Binary::Multiply, true) => ins.fmul(a, b),
            (Binary::Divide, true) => ins.fdiv(a, b),
            (Binary::Add, false) => ins.iadd(a, b),
            (Binary::Subtract, false) => ins.isub(a, b),
            (Binary::Multiply, false) => ins.imul(a, b),
            (Binary::Divide, false) if is_signed => ins.sdiv(a, b),
            (Binary::Divide, false) => ins.udiv(a, b),
            (Binary::Remainder, false) if is_signed => ins.srem(a, b),
            (Binary::Remainder, false) => ins.urem(a, b),
            (Binary::BitAnd, false) => ins.band(a, b),
            (Binary::BitOr, false) => ins.bor(a, b),
            (Binary::BitXor, false) => ins.bxor(a, b),
            (o, _) => return Err(format!("{o:?} of {ty:?}")),
        })
    }

    /// How an operator compares two values of a type, or vectors of them.
    pub(crate) fn compare(&mut self, (signed, unsigned, float): Comparison, ty: Scalar, a: Value, b: Value) -> Value {
        match ty {
            Scalar::Float | Scalar::Double => self.b.ins().fcmp(float, a, b),
            Scalar::Integer { signed: false, .. } => self.b.ins().icmp(unsigned, a, b),
            Scalar::Integer { signed: true, .. } | Scalar::Bool => self.b.ins().icmp(signed, a, b),
        }
    }

    /// A function of one float that is an instruction, also for vectors.
    pub(crate) fn library(&mut self, name: &str, x: Value) -> Option<Value> {
        let ins = self.b.ins();
        Some(match name {
            "fabsf" => ins.fabs(x),
            "sqrtf" => ins.sqrt(x),
            "floorf" => ins.floor(x),
            "rintf" => ins.nearest(x),
            _ => return None,
        })
    }

    /// Where an element of an array is.
    pub(crate) fn element(&mut self, base: &Expression, index: &Expression) -> Result<(Value, Scalar)> {
        let sum = (self.value(base)?, self.value(index)?);
        let at = self.binary(Binary::Add, sum.0, sum.1)?;
        match at.ty {
            Type::Pointer(s) => Ok((at.value, s)),
            _ => Err("an index of no pointer".into()),
        }
    }

    /// `c ? a : b`, where what is not chosen is not computed if it could have an effect.
    fn choose(&mut self, condition: &Expression, a: &Expression, b: &Expression) -> Result<Typed> {
        let condition = self.condition(condition)?;
        if is_pure(a) && is_pure(b) {
            let (a, b) = (self.value(a)?, self.value(b)?);
            let (Type::Scalar(x), Type::Scalar(y)) = (a.ty, b.ty) else { return Err("a choice of pointers".into()) };
            let ty = common(x, y);
            let (a, b) = (self.convert_scalar(a.value, x, ty), self.convert_scalar(b.value, y, ty));
            return Ok(Typed { value: self.b.ins().select(condition, a, b), ty: Type::Scalar(ty) });
        }
        let (yes, no, after) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().brif(condition, yes, &[], no, &[]);
        self.b.switch_to_block(yes);
        let left = self.value(a)?;
        let left_end = self.b.current_block().ok_or("no block")?;
        self.b.switch_to_block(no);
        let right = self.value(b)?;
        let (Type::Scalar(x), Type::Scalar(y)) = (left.ty, right.ty) else { return Err("a choice of pointers".into()) };
        // Both ends are known only now.
        let ty = common(x, y);
        let right = self.convert_scalar(right.value, y, ty);
        self.b.append_block_param(after, held(ty));
        self.b.ins().jump(after, &[BlockArg::Value(right)]);
        self.b.switch_to_block(left_end);
        let left = self.convert_scalar(left.value, x, ty);
        self.b.ins().jump(after, &[BlockArg::Value(left)]);
        self.b.switch_to_block(after);
        Ok(Typed { value: self.b.block_params(after)[0], ty: Type::Scalar(ty) })
    }

    fn call(&mut self, name: &str, arguments: &[Expression]) -> Result<Option<Typed>> {
        if let Some((from, to)) = inline(name) {
            let [argument] = arguments else { return Err(format!("`{name}` takes one argument")) };
            let of = self.converted(argument, &Type::Scalar(from))?;
            let value = match name {
                "BITS" | "FLOAT" => self.b.ins().bitcast(held(to), MemFlagsData::new(), of),
                _ => self.library(name, of).unwrap_or(of),
            };
            return Ok(Some(Typed { value, ty: Type::Scalar(to) }));
        }
        let id = self.globals.wanted(name)?;
        let Known { result, parameters, .. } = self.globals.known(name)?.clone();
        if parameters.len() != arguments.len() {
            return Err(format!("`{name}` takes {} arguments", parameters.len()));
        }
        let values = arguments.iter().zip(&parameters).map(|(e, ty)| self.converted(e, ty)).collect::<Result<Vec<_>>>()?;
        let function = match self.called.get(name) {
            Some(f) => *f,
            None => {
                let f = self.globals.module.declare_func_in_func(id, self.b.func);
                self.called.insert(name.to_string(), f);
                f
            }
        };
        let call = self.b.ins().call(function, &values);
        let value = self.b.inst_results(call).first().copied();
        Ok(match (value, result) {
            (Some(value), Type::Scalar(s)) => Some(Typed { value, ty: Type::Scalar(promoted(s)) }),
            _ => None,
        })
    }
}

/// What becomes instructions instead of a call: what it takes and gives.
fn inline(name: &str) -> Option<(Scalar, Scalar)> {
    let wide = Scalar::Integer { bits: 64, signed: true };
    match name {
        "BITS" => Some((Scalar::Float, INT)),
        "FLOAT" => Some((INT, Scalar::Float)),
        "fabsf" | "sqrtf" | "floorf" | "rintf" => Some((Scalar::Float, Scalar::Float)),
        "INT64_C" => Some((wide, wide)),
        "UINT64_C" => Some((SIZE, SIZE)),
        _ => None,
    }
}

/// How integers with and without a sign are compared, and floats.
pub(crate) type Comparison = (IntCC, IntCC, FloatCC);

/// How an operator compares, if it does.
pub(crate) fn comparison(o: Binary) -> Option<Comparison> {
    Some(match o {
        Binary::Equal => (IntCC::Equal, IntCC::Equal, FloatCC::Equal),
        Binary::NotEqual => (IntCC::NotEqual, IntCC::NotEqual, FloatCC::NotEqual),
        Binary::Less => (IntCC::SignedLessThan, IntCC::UnsignedLessThan, FloatCC::LessThan),
        Binary::LessEqual => (IntCC::SignedLessThanOrEqual, IntCC::UnsignedLessThanOrEqual, FloatCC::LessThanOrEqual),
        Binary::Greater => (IntCC::SignedGreaterThan, IntCC::UnsignedGreaterThan, FloatCC::GreaterThan),
        Binary::GreaterEqual => (IntCC::SignedGreaterThanOrEqual, IntCC::UnsignedGreaterThanOrEqual, FloatCC::GreaterThanOrEqual),
        Binary::Or
        | Binary::And
        | Binary::BitOr
        | Binary::BitXor
        | Binary::BitAnd
        | Binary::ShiftLeft
        | Binary::ShiftRight
        | Binary::Add
        | Binary::Subtract
        | Binary::Multiply
        | Binary::Divide
        | Binary::Remainder => return None,
    })
}

/// May an expression be computed where its value is not wanted? Loads may be outside of their array, and a division by zero ends the program.
pub(crate) fn is_pure(e: &Expression) -> bool {
    match e {
        Expression::Integer(..) | Expression::Float(..) | Expression::Name(_) | Expression::SizeOfType(_) | Expression::SizeOfArray(_) => {
            true
        }
        Expression::Negate(of) | Expression::Not(of) | Expression::Cast(_, of) => is_pure(of),
        Expression::Binary(Binary::Divide | Binary::Remainder, ..) => false,
        Expression::Binary(_, a, b) => is_pure(a) && is_pure(b),
        Expression::Choose(c, a, b) => is_pure(c) && is_pure(a) && is_pure(b),
        Expression::Call(name, arguments) => inline(name).is_some() && arguments.iter().all(is_pure),
        Expression::Index(..) | Expression::Field(..) | Expression::Address(_) | Expression::Step(..) | Expression::Assign(..) => false,
    }
}
