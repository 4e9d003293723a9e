//! An assembler for the few instructions with vectors of sixteen that [`crate::wide`] needs: Intel's manual, volume 2, chapter 2 (the prefixes VEX and
//! EVEX) and the pages of the instructions.

use std::fmt::{self, Display, Write as _};

/// A vector register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Zmm(pub u8);

/// A mask register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct K(pub u8);

/// A general register, by its number in instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpr(pub u8);

/// The registers of the arguments of a function, in the convention of System V.
pub const TABLE: Gpr = Gpr(7);
/// The second argument.
pub const INDEX: Gpr = Gpr(6);
const STACK: Gpr = Gpr(4);
/// The other registers that need not be kept for the caller.
pub const FREE: [Gpr; 6] = [Gpr(0), Gpr(1), Gpr(8), Gpr(9), Gpr(10), Gpr(11)];
/// Those that do.
pub const KEPT: [Gpr; 6] = [Gpr(3), Gpr(5), Gpr(12), Gpr(13), Gpr(14), Gpr(15)];

/// Where an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// In a register.
    Register(Zmm),
    /// The elements from [`INDEX`] on, which are so many bytes each: 1 or 4.
    Elements(Gpr, u8),
    /// One element, for all lanes.
    Repeated(Gpr),
    /// A constant of the function, for all lanes.
    Constant(u32),
    /// A vector on the stack.
    Slot(u32),
}

impl Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Register(r) => write!(f, "zmm{}", r.0),
            Operand::Elements(r, bytes) => write!(f, "[{} + {bytes}*rsi]", name(*r)),
            Operand::Repeated(r) => write!(f, "[{}]{{1to16}}", name(*r)),
            Operand::Constant(bits) => write!(f, "{bits:#010x}{{1to16}}"),
            Operand::Slot(i) => write!(f, "[rsp + {}]", 64 * i),
        }
    }
}

fn name(r: Gpr) -> &'static str {
    let names = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
    names[r.0 as usize]
}

/// An instruction with the prefix EVEX for vectors of 512 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instruction {
    name: &'static str,
    /// 1, 2 or 3: opcodes that begin with 0F, 0F 38 and 0F 3A.
    map: u8,
    /// 0 to 3: no other prefix, 66, F3 and F2.
    prefix: u8,
    opcode: u8,
    /// Bytes of an operand in memory that is not repeated.
    bytes: u8,
}

const fn of(name: &'static str, map: u8, prefix: u8, opcode: u8) -> Instruction {
    Instruction { name, map, prefix, opcode, bytes: 64 }
}

pub const ADD: Instruction = of("vaddps", 1, 0, 0x58);
pub const MUL: Instruction = of("vmulps", 1, 0, 0x59);
pub const SUB: Instruction = of("vsubps", 1, 0, 0x5c);
pub const MIN: Instruction = of("vminps", 1, 0, 0x5d);
pub const DIV: Instruction = of("vdivps", 1, 0, 0x5e);
pub const MAX: Instruction = of("vmaxps", 1, 0, 0x5f);
pub const AND: Instruction = of("vpandd", 1, 1, 0xdb);
pub const OR: Instruction = of("vpord", 1, 1, 0xeb);
pub const XOR: Instruction = of("vpxord", 1, 1, 0xef);
pub const ADD_INTEGERS: Instruction = of("vpaddd", 1, 1, 0xfe);
pub const SUB_INTEGERS: Instruction = of("vpsubd", 1, 1, 0xfa);
/// Of one operand.
pub const SQRT: Instruction = of("vsqrtps", 1, 0, 0x51);
/// Of one operand; beyond the range 0x80000000.
pub const TO_INTEGERS: Instruction = of("vcvttps2dq", 1, 2, 0x5b);
/// Of one operand.
pub const TO_FLOATS: Instruction = of("vcvtdq2ps", 1, 0, 0x5b);
/// Of one operand and how: see [`TO_NEAREST`] and [`DOWN`].
pub const ROUND: Instruction = of("vrndscaleps", 3, 1, 0x08);
/// To a mask, by a predicate.
pub const COMPARE: Instruction = of("vcmpps", 1, 0, 0xc2);
/// To a mask.
pub const EQUAL_INTEGERS: Instruction = of("vpcmpeqd", 1, 1, 0x76);
/// To a mask: which lanes have a bit in both.
pub const TEST: Instruction = of("vptestmd", 2, 1, 0x27);
/// By a mask, the second operand where it is set.
pub const BLEND: Instruction = of("vblendmps", 2, 1, 0x65);
const SHIFT: Instruction = of("vpslld/vpsrad", 1, 1, 0x72);
const LOAD: Instruction = of("vmovups", 1, 0, 0x10);
const STORE: Instruction = of("vmovups", 1, 0, 0x11);
const BROADCAST: Instruction = Instruction { bytes: 4, ..of("vbroadcastss", 2, 1, 0x18) };
const LOAD_BYTES: Instruction = Instruction { bytes: 16, ..of("vpmovzxbd", 2, 1, 0x31) };
const STORE_BYTES: Instruction = Instruction { bytes: 16, ..of("vpmovdb", 2, 2, 0x31) };

/// To the nearest integer, ties to even, without an exception.
pub const TO_NEAREST: u8 = 0x08;
/// To the next lower integer.
pub const DOWN: u8 = 0x09;
/// Predicates of [`COMPARE`]: they are false where an operand is NaN, but for the last.
pub const EQUAL: u8 = 0x00;
pub const LESS: u8 = 0x11;
pub const LESS_OR_EQUAL: u8 = 0x12;
pub const GREATER_OR_EQUAL: u8 = 0x1d;
pub const ORDERED: u8 = 0x07;
pub const UNORDERED: u8 = 0x03;

/// Code that is being written, with its text.
#[derive(Debug, Default)]
pub struct Assembler {
    code: Vec<u8>,
    /// Where distances to constants belong, which constant, and how many bytes of the instruction follow.
    constants: Vec<(usize, u32, usize)>,
    text: String,
}

impl Assembler {
    /// `to = instruction(a, b)`; `a` is not read by those of one operand.
    pub fn vector(&mut self, i: Instruction, to: Zmm, a: Option<Zmm>, b: Operand, immediate: Option<u8>) {
        self.line(i.name, &format!("zmm{}", to.0), a, b, immediate);
        self.evex(i, to.0, a.map(|r| r.0), K(0), b, immediate);
    }

    /// A mask from two vectors.
    pub fn mask(&mut self, i: Instruction, to: K, a: Zmm, b: Operand, immediate: Option<u8>) {
        self.line(i.name, &format!("k{}", to.0), Some(a), b, immediate);
        self.evex(i, to.0, Some(a.0), K(0), b, immediate);
    }

    /// `to`: lanes of `b` where the mask is set, and of `a` elsewhere.
    pub fn blend(&mut self, to: Zmm, mask: K, a: Zmm, b: Operand) {
        self.line(BLEND.name, &format!("zmm{} {{k{}}}", to.0, mask.0), Some(a), b, None);
        self.evex(BLEND, to.0, Some(a.0), mask, b, None);
    }

    /// Moves the bits of each lane to the left, or to the right with their sign.
    pub fn shift(&mut self, left: bool, to: Zmm, a: Zmm, by: u8) {
        let (name, extension) = if left { ("vpslld", 6) } else { ("vpsrad", 4) };
        self.line(name, &format!("zmm{}", to.0), None, Operand::Register(a), Some(by));
        self.evex(SHIFT, extension, Some(to.0), K(0), Operand::Register(a), Some(by));
    }

    /// Reads a vector; bytes become integers of 32 bits.
    pub fn load(&mut self, to: Zmm, from: Operand) {
        let i = match from {
            Operand::Elements(_, 1) => LOAD_BYTES,
            Operand::Repeated(_) | Operand::Constant(_) => BROADCAST,
            Operand::Register(_) | Operand::Elements(..) | Operand::Slot(_) => LOAD,
        };
        self.line(i.name, &format!("zmm{}", to.0), None, from, None);
        self.evex(i, to.0, None, K(0), from, None);
    }

    /// Writes a vector; integers become bytes.
    pub fn store(&mut self, from: Zmm, to: Operand) {
        let i = if let Operand::Elements(_, 1) = to { STORE_BYTES } else { STORE };
        self.line(i.name, &to.to_string(), None, Operand::Register(from), None);
        self.evex(i, from.0, None, K(0), to, None);
    }

    /// `to = a & b` of masks, or `a | b`.
    pub fn masks(&mut self, and: bool, to: K, a: K, b: K) {
        let (name, opcode) = if and { ("kandw", 0x41) } else { ("korw", 0x45) };
        let _ = writeln!(self.text, "  {name} k{}, k{}, k{}", to.0, a.0, b.0);
        self.code.extend([0xc5, 0x84 | (!a.0 & 15) << 3, opcode, 0xc0 | to.0 << 3 | b.0]);
    }

    /// `to = !a` of masks.
    pub fn not(&mut self, to: K, a: K) {
        let _ = writeln!(self.text, "  knotw k{}, k{}", to.0, a.0);
        self.code.extend([0xc5, 0xf8, 0x44, 0xc0 | to.0 << 3 | a.0]);
    }

    /// Reads pointer number `i` of the table.
    pub fn load_pointer(&mut self, to: Gpr, i: usize) {
        let _ = writeln!(self.text, "  mov {}, [rdi + {}]", name(to), 8 * i);
        self.code.extend([0x48 | (to.0 >> 3) << 2, 0x8b, 0x80 | (to.0 & 7) << 3 | TABLE.0]);
        self.code.extend((8 * i as u32).to_le_bytes());
    }

    /// Keeps registers for the caller, and makes room for so many vectors.
    pub fn enter(&mut self, kept: &[Gpr], slots: u32) {
        for r in kept {
            let _ = writeln!(self.text, "  push {}", name(*r));
            self.code.extend([0x40 | r.0 >> 3, 0x50 | r.0 & 7]);
        }
        self.move_stack("sub", 0xec, slots);
    }

    /// Undoes [`Assembler::enter`] and returns.
    pub fn leave(&mut self, kept: &[Gpr], slots: u32) {
        self.move_stack("add", 0xc4, slots);
        for r in kept.iter().rev() {
            let _ = writeln!(self.text, "  pop {}", name(*r));
            self.code.extend([0x40 | r.0 >> 3, 0x58 | r.0 & 7]);
        }
        self.text.push_str("  vzeroupper\n  ret\n");
        self.code.extend([0xc5, 0xf8, 0x77, 0xc3]);
    }

    fn move_stack(&mut self, operation: &str, operand: u8, slots: u32) {
        if slots > 0 {
            let _ = writeln!(self.text, "  {operation} rsp, {}", 64 * slots);
            self.code.extend([0x48, 0x81, operand]);
            self.code.extend((64 * slots).to_le_bytes());
        }
    }

    /// `while INDEX < END { body; INDEX += 16 }`.
    pub fn each_vector(&mut self, body: impl FnOnce(&mut Assembler)) {
        self.text.push_str("loop:\n  cmp rsi, rdx\n  jge end\n");
        let head = self.code.len();
        self.code.extend([0x48, 0x39, 0xd6, 0x0f, 0x8d, 0, 0, 0, 0]);
        let after_jump = self.code.len();
        body(self);
        self.text.push_str("  add rsi, 16\n  jmp loop\nend:\n");
        self.code.extend([0x48, 0x83, 0xc6, 16, 0xe9]);
        let back = head as i32 - (self.code.len() as i32 + 4);
        self.code.extend(back.to_le_bytes());
        let out = (self.code.len() - after_jump) as i32;
        self.code[after_jump - 4..after_jump].copy_from_slice(&out.to_le_bytes());
    }

    /// The code with its constants behind it, and its text.
    pub fn finish(mut self) -> (Vec<u8>, String) {
        let mut places: Vec<u32> = self.constants.iter().map(|(_, bits, _)| *bits).collect();
        places.sort_unstable();
        places.dedup();
        self.code.resize(self.code.len().next_multiple_of(4), 0xcc);
        let first = self.code.len();
        for (at, bits, behind) in self.constants {
            let place = first + 4 * places.binary_search(&bits).unwrap_or_default();
            let distance = (place - (at + 4 + behind)) as u32;
            self.code[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        }
        self.code.extend(places.into_iter().flat_map(u32::to_le_bytes));
        (self.code, self.text)
    }

    /// Goes on with other code.
    pub fn append(&mut self, other: Assembler) {
        let before = self.code.len();
        self.code.extend(other.code);
        self.constants.extend(other.constants.into_iter().map(|(at, bits, behind)| (before + at, bits, behind)));
        self.text.push_str(&other.text);
    }

    fn line(&mut self, name: &str, to: &str, a: Option<Zmm>, b: Operand, immediate: Option<u8>) {
        let _ = write!(self.text, "  {name} {to}");
        if let Some(a) = a {
            let _ = write!(self.text, ", zmm{}", a.0);
        }
        let _ = write!(self.text, ", {b}");
        if let Some(i) = immediate {
            let _ = write!(self.text, ", {i:#04x}");
        }
        self.text.push('\n');
    }

    /// An instruction with its prefix. `field` is the register, or what belongs there, that stands beside the operand `b`.
    fn evex(&mut self, i: Instruction, field: u8, a: Option<u8>, mask: K, b: Operand, immediate: Option<u8>) {
        // Of the registers of the operand the fourth and fifth bit, and whether one element is for all lanes.
        let (third, fourth, repeated) = match b {
            Operand::Register(r) => (r.0 >> 3 & 1, r.0 >> 4, false),
            Operand::Elements(r, _) => (r.0 >> 3, 0, false),
            Operand::Repeated(r) => (r.0 >> 3, 0, i.bytes == 64),
            Operand::Constant(_) => (0, 0, i.bytes == 64),
            Operand::Slot(_) => (0, 0, false),
        };
        let a = a.unwrap_or(0);
        self.code.extend([
            0x62,
            (!field >> 3 & 1) << 7 | (!fourth & 1) << 6 | (!third & 1) << 5 | (!field >> 4 & 1) << 4 | i.map,
            (!a & 15) << 3 | 1 << 2 | i.prefix,
            2 << 5 | u8::from(repeated) << 4 | (!a >> 4 & 1) << 3 | mask.0,
            i.opcode,
        ]);
        let field = (field & 7) << 3;
        match b {
            Operand::Register(r) => self.code.push(0xc0 | field | r.0 & 7),
            // A base, an index, and no distance.
            Operand::Elements(r, bytes) => {
                let scale = if bytes == 4 { 2 << 6 } else { 0 };
                self.code.extend([0x44 | field, scale | INDEX.0 << 3 | r.0 & 7, 0]);
            }
            Operand::Repeated(r) => self.code.extend([0x44 | field, STACK.0 << 3 | r.0 & 7, 0]),
            Operand::Constant(bits) => {
                self.code.push(0x05 | field);
                self.constants.push((self.code.len(), bits, usize::from(immediate.is_some())));
                self.code.extend([0; 4]);
            }
            Operand::Slot(slot) => {
                self.code.extend([0x84 | field, STACK.0 << 3 | STACK.0]);
                self.code.extend((64 * slot).to_le_bytes());
            }
        }
        self.code.extend(immediate);
    }
}
