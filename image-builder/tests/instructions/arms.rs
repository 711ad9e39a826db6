//! The instructions that an exit takes, counted in the image by walking from the stub to the next entry.
//!
//! The walk knows constants, and the reason field or the exit code of the exit. At a branch that these decide, it goes one way;
//! at any other it goes both. A way that leaves the arm which the exit's number leads to ends there: the exit is not quick.

use std::collections::{BTreeSet, HashMap};

use iced_x86::{
    ConditionCode, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

/// VMCS encoding of the exit reason (SDM 3D appendix B).
const EXIT_REASON: u64 = 0x4402;
/// The offset of the exit code in the VMCB (APM 2 appendix B).
const EXITCODE: u64 = 0x70;
/// The offset of EXITINFO1 in the VMCB.
const EXITINFO1: u64 = 0x78;
/// More instructions than any quick exit has.
const LONGEST: usize = 600;

/// Code and constants by address.
pub(crate) struct Image<'a> {
    /// Executable bytes, and their address.
    pub(crate) code: (u64, &'a [u8]),
    /// All loaded bytes, by their addresses.
    pub(crate) data: Vec<(u64, &'a [u8])>,
    /// The addresses of functions, in order.
    pub(crate) starts: Vec<u64>,
    /// Those of the functions that a quick exit goes through besides the one that the stub calls.
    pub(crate) quick: BTreeSet<u64>,
}

impl Image<'_> {
    fn decode(&self, ip: u64) -> Option<Instruction> {
        let bytes = self.code.1.get(usize::try_from(ip.checked_sub(self.code.0)?).ok()?..)?;
        let instruction = Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    fn function(&self, ip: u64) -> usize {
        self.starts.partition_point(|&start| start <= ip)
    }

    fn load(&self, address: u64, bytes: usize) -> Option<u64> {
        self.data.iter().find_map(|&(start, data)| {
            let at = usize::try_from(address.checked_sub(start)?).ok()?;
            let data = data.get(at..at.checked_add(bytes)?)?;
            let mut value = [0; 8];
            value.get_mut(..bytes)?.copy_from_slice(data);
            Some(u64::from_le_bytes(value))
        })
    }
}

/// The exit whose way is walked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Exit {
    /// Under VT-x, by its reason.
    Reason(u64),
    /// Under SVM, by its exit code, and by EXITINFO1, where that decides the reason.
    Code(u64, Option<u64>),
}

/// The instructions of the shortest and the longest way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lengths {
    pub(crate) shortest: usize,
    pub(crate) longest: usize,
}

/// A value, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Known(u64),
    /// An address in the frame with the guest's registers.
    Frame,
    Unknown,
}

#[derive(Clone, Debug)]
struct Way {
    ip: u64,
    steps: usize,
    registers: HashMap<Register, Value>,
    /// The operands of the comparison that set the flags last, and their bits.
    compared: Option<(u64, u64, u32)>,
    returns: Vec<u64>,
    /// The number of time stamps that were read.
    stamps: usize,
    /// The function that the stub called.
    home: Option<usize>,
}

/// Walks from `start` to the next entry.
pub(crate) fn lengths(image: &Image<'_>, start: u64, exit: Exit) -> Option<Lengths> {
    let mut found: Option<Lengths> = None;
    let way = Way {
        ip: start,
        steps: 0,
        registers: HashMap::new(),
        compared: None,
        returns: Vec::new(),
        stamps: 0,
        home: None,
    };
    let mut ways = vec![way];
    let mut factory = InstructionInfoFactory::new();
    while let Some(mut way) = ways.pop() {
        while let Some(instruction) = image.decode(way.ip).filter(|_| way.steps < LONGEST) {
            way.steps += 1;
            way.stamps += usize::from(instruction.mnemonic() == Mnemonic::Rdtsc);
            let next = instruction.next_ip();
            match instruction.mnemonic() {
                // This entry follows no exit.
                Mnemonic::Vmresume | Mnemonic::Vmrun if way.home.is_none() => break,
                Mnemonic::Vmresume | Mnemonic::Vmrun => {
                    let lengths = found.unwrap_or(Lengths { shortest: way.steps, longest: way.steps });
                    found = Some(Lengths {
                        shortest: lengths.shortest.min(way.steps),
                        longest: lengths.longest.max(way.steps),
                    });
                    break;
                }
                Mnemonic::Call if way.home.is_none() && instruction.is_call_near() => {
                    let target = instruction.near_branch_target();
                    (way.home, way.ip) = (Some(image.function(target)), target);
                    way.returns.push(next);
                    continue;
                }
                Mnemonic::Ret => match way.returns.pop() {
                    Some(to) => {
                        way.ip = to;
                        continue;
                    }
                    None => break,
                },
                Mnemonic::Jmp if instruction.is_jmp_short_or_near() => {
                    match stays(image, &way, instruction.near_branch_target()) {
                        Some(to) => {
                            way.ip = to;
                            continue;
                        }
                        None => break,
                    }
                }
                Mnemonic::Jmp => match way.operand(image, &instruction, 0, exit) {
                    Value::Known(to) => match stays(image, &way, to) {
                        Some(to) => {
                            way.ip = to;
                            continue;
                        }
                        None => break,
                    },
                    _ => panic!("{instruction} at {:#x} jumps nobody knows where", instruction.ip()),
                },
                _ if instruction.is_jcc_short_or_near() => {
                    let target = instruction.near_branch_target();
                    let known = way.compared.and_then(|compared| is_taken(&instruction, compared));
                    // This is behind the closing time stamp. The walk assumes that the exit is neither the shortest nor the
                    // longest of its reason, and took a tick.
                    let taken =
                        if way.stamps >= 2 { Some(instruction.condition_code() != ConditionCode::e) } else { known };
                    if taken != Some(false)
                        && let Some(to) = stays(image, &way, target)
                    {
                        ways.push(Way { ip: to, ..way.clone() });
                    }
                    if taken == Some(true) {
                        break;
                    }
                }
                Mnemonic::Call | Mnemonic::Ud2 => break,
                _ => way.execute(image, &instruction, exit, &mut factory),
            }
            way.ip = next;
        }
    }
    found
}

/// The target of a jump; `None` if it leads to a function that no quick exit goes through, or out of the stub.
fn stays(image: &Image<'_>, way: &Way, to: u64) -> Option<u64> {
    let is_quick = image.function(way.ip) == image.function(to) || image.quick.contains(&to);
    (is_quick || way.returns.is_empty()).then_some(to)
}

/// Whether a conditional jump is taken; `None` if that is not known.
fn is_taken(instruction: &Instruction, (left, right, bits): (u64, u64, u32)) -> Option<bool> {
    let sign = |value: u64| ((value << (64 - bits)) as i64) >> (64 - bits);
    let (signed_left, signed_right) = (sign(left), sign(right));
    Some(match instruction.condition_code() {
        ConditionCode::e => left == right,
        ConditionCode::ne => left != right,
        ConditionCode::b => left < right,
        ConditionCode::be => left <= right,
        ConditionCode::a => left > right,
        ConditionCode::ae => left >= right,
        ConditionCode::l => signed_left < signed_right,
        ConditionCode::le => signed_left <= signed_right,
        ConditionCode::g => signed_left > signed_right,
        ConditionCode::ge => signed_left >= signed_right,
        _ => return None,
    })
}

fn is_stack_pointer(instruction: &Instruction) -> bool {
    instruction.op1_kind() == OpKind::Register && instruction.op1_register() == Register::RSP
}

impl Way {
    fn register(&self, register: Register) -> Value {
        let value = self.registers.get(&register.full_register()).copied().unwrap_or(Value::Unknown);
        match (value, register.size()) {
            (Value::Known(value), 4) => Value::Known(value & 0xffff_ffff),
            (Value::Known(value), 2) => Value::Known(value & 0xffff),
            (Value::Known(value), 1) => Value::Known(value & 0xff),
            (value, 8) => value,
            _ => Value::Unknown,
        }
    }

    fn operand(&self, image: &Image<'_>, instruction: &Instruction, at: u32, exit: Exit) -> Value {
        match instruction.op_kind(at) {
            OpKind::Register => self.register(instruction.op_register(at)),
            OpKind::Memory => self.memory(image, instruction, exit),
            _ => instruction.try_immediate(at).map_or(Value::Unknown, Value::Known),
        }
    }

    /// The value at a memory operand: a constant of the image, or the exit code.
    fn memory(&self, image: &Image<'_>, instruction: &Instruction, exit: Exit) -> Value {
        let bytes = instruction.memory_size().size();
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        let part =
            |register: Register| if register == Register::None { Value::Known(0) } else { self.register(register) };
        let displacement = instruction.memory_displacement64();
        if instruction.is_ip_rel_memory_operand() {
            return image.load(displacement, bytes).map_or(Value::Unknown, Value::Known);
        }
        match (part(base), part(index), exit) {
            (Value::Known(base), Value::Known(index), _) => {
                let scaled = index.wrapping_mul(instruction.memory_index_scale().into());
                let address = base.wrapping_add(scaled).wrapping_add(displacement);
                image.load(address, bytes).map_or(Value::Unknown, Value::Known)
            }
            (Value::Unknown, _, Exit::Code(code, information))
                if index == Register::None && base != Register::RSP && bytes >= 4 =>
            {
                match displacement {
                    EXITCODE => Value::Known(code),
                    EXITINFO1 => information.map_or(Value::Unknown, Value::Known),
                    _ => Value::Unknown,
                }
            }
            _ => Value::Unknown,
        }
    }

    fn execute(
        &mut self,
        image: &Image<'_>,
        instruction: &Instruction,
        exit: Exit,
        factory: &mut InstructionInfoFactory,
    ) {
        let operand = |at| self.operand(image, instruction, at, exit);
        let (first, second) = (operand(0), if instruction.op_count() > 1 { operand(1) } else { Value::Unknown });
        let bits = |register: Register| 8 * register.size() as u32;
        let mask = |value: u64, bits: u32| if bits >= 64 { value } else { value & ((1 << bits) - 1) };
        let written = (instruction.op0_kind() == OpKind::Register).then(|| instruction.op0_register());
        let result = match (instruction.mnemonic(), first, second) {
            (Mnemonic::Mov, ..) if is_stack_pointer(instruction) => Value::Frame,
            (Mnemonic::Mov | Mnemonic::Movzx, _, value) => value,
            (Mnemonic::Movsxd, _, Value::Known(value)) => Value::Known(value as u32 as i32 as i64 as u64),
            (Mnemonic::Lea, ..) if instruction.is_ip_rel_memory_operand() => {
                Value::Known(instruction.memory_displacement64())
            }
            (Mnemonic::Lea, ..) if self.register(instruction.memory_base()) == Value::Frame => Value::Frame,
            (Mnemonic::Add, Value::Known(left), Value::Known(right)) => Value::Known(left.wrapping_add(right)),
            (Mnemonic::Sub, Value::Known(left), Value::Known(right)) => Value::Known(left.wrapping_sub(right)),
            (Mnemonic::And, Value::Known(left), Value::Known(right)) => Value::Known(left & right),
            (Mnemonic::Or, Value::Known(left), Value::Known(right)) => Value::Known(left | right),
            (Mnemonic::Vmread, _, Value::Known(EXIT_REASON)) => match exit {
                Exit::Reason(reason) => Value::Known(reason),
                Exit::Code(..) => Value::Unknown,
            },
            _ => Value::Unknown,
        };
        if instruction.rflags_modified() != 0 {
            let size = match instruction.op0_kind() {
                OpKind::Register => bits(instruction.op0_register()),
                _ => 8 * instruction.memory_size().size() as u32,
            };
            self.compared = match (instruction.mnemonic(), first, second) {
                (Mnemonic::Cmp, Value::Known(left), Value::Known(right)) => {
                    Some((mask(left, size), mask(right, size), size))
                }
                _ => None,
            };
        }
        let info = factory.info(instruction);
        for used in info.used_registers() {
            if matches!(
                used.access(),
                OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
            ) {
                self.registers.insert(used.register().full_register(), Value::Unknown);
            }
        }
        if let Some(register) = written
            && !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Bt | Mnemonic::Push)
        {
            let result = match (result, register.size()) {
                (Value::Known(value), 4) => Value::Known(value & 0xffff_ffff),
                (value, 8) => value,
                _ => Value::Unknown,
            };
            self.registers.insert(register.full_register(), result);
        }
    }
}
