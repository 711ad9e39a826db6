//! I/O instructions: single and string, on the few ports that have a device and on those that have none.
//!
//! A port without a device reads all ones and ignores writes, as on a bus where nobody answers.

use tollgate_abi::machine::{LOOPBACK_BYTES, LOOPBACK_PORT, POST_PORT};

use crate::exit::{Action, Backend, Event, GuestRegisters, IoAccess, State};
use crate::machine::Machine;
use crate::paging;

const RFLAGS_DF: u64 = 1 << 10;

/// The most bytes that one exit moves; a longer REP goes on at the same instruction.
const STRING_BYTES: u64 = 4096;

/// The devices behind ports.
#[derive(Clone, Debug)]
pub struct Ports {
    post: u8,
    queue: [u8; LOOPBACK_BYTES],
    first: usize,
    queued: usize,
}

impl Default for Ports {
    fn default() -> Self {
        Self { post: 0xff, queue: [0; LOOPBACK_BYTES], first: 0, queued: 0 }
    }
}

impl Ports {
    /// IN from a port without a queue.
    #[inline(always)]
    fn read_plain(&self, port: u16) -> Option<u32> {
        match port {
            LOOPBACK_PORT => None,
            POST_PORT => Some(u32::from(self.post) | !0xff),
            _ => Some(!0),
        }
    }

    /// OUT to a port without a queue; false if it has one.
    #[inline(always)]
    fn write_plain(&mut self, port: u16, value: u32) -> bool {
        match port {
            LOOPBACK_PORT => return false,
            POST_PORT => self.post = value as u8,
            _ => {}
        }
        true
    }

    /// IN of `bytes` bytes.
    pub fn read(&mut self, port: u16, bytes: u8) -> u32 {
        let from_queue = |ports: &mut Self| (0..bytes).fold(!0, |value, i| value & !(0xff << (8 * i)) | u32::from(ports.pop()) << (8 * i));
        self.read_plain(port).unwrap_or_else(|| from_queue(self))
    }

    /// OUT of the low `bytes` bytes of `value`.
    pub fn write(&mut self, port: u16, bytes: u8, value: u32) {
        if !self.write_plain(port, value) {
            value.to_le_bytes().iter().take(usize::from(bytes)).for_each(|&byte| self.push(byte));
        }
    }

    fn push(&mut self, byte: u8) {
        if self.queued < LOOPBACK_BYTES {
            self.queue[(self.first + self.queued) % LOOPBACK_BYTES] = byte;
            self.queued += 1;
        }
    }

    fn pop(&mut self) -> u8 {
        if self.queued == 0 {
            return 0xff;
        }
        let byte = self.queue[self.first];
        self.first = (self.first + 1) % LOOPBACK_BYTES;
        self.queued -= 1;
        byte
    }
}

/// IN and OUT on ports without a queue.
#[inline(always)]
pub fn quick(access: IoAccess, registers: &mut GuestRegisters, machine: &mut Machine) -> bool {
    if access.is_string {
        return false;
    }
    if access.is_in {
        let Some(value) = machine.ports.read_plain(access.port) else { return false };
        registers.rax = merge(registers.rax, value, access.bytes);
        true
    } else {
        machine.ports.write_plain(access.port, registers.rax as u32)
    }
}

/// Performs the access.
#[inline(never)]
pub fn handle<B: Backend>(access: IoAccess, registers: &mut GuestRegisters, backend: &mut B, machine: &mut Machine) -> Action {
    if access.is_string {
        return string(access, registers, backend, machine);
    }
    if access.is_in {
        registers.rax = merge(registers.rax, machine.ports.read(access.port, access.bytes), access.bytes);
    } else {
        machine.ports.write(access.port, access.bytes, registers.rax as u32);
    }
    Action::Advance
}

/// What IN leaves in RAX: a 32-bit result clears the upper half, smaller ones keep what is above them.
#[inline(always)]
fn merge(rax: u64, value: u32, bytes: u8) -> u64 {
    match bytes {
        1 => rax & !0xff | u64::from(value & 0xff),
        2 => rax & !0xffff | u64::from(value & 0xffff),
        _ => u64::from(value),
    }
}

/// Replaces the low `bytes` bytes of a register as an instruction of that address size does.
fn step(register: &mut u64, bytes: u8, value: u64) {
    *register = match bytes {
        2 => *register & !0xffff | value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    };
}

fn string<B: Backend>(access: IoAccess, registers: &mut GuestRegisters, backend: &mut B, machine: &mut Machine) -> Action {
    let address_bytes = backend.string_io_address_bytes();
    let address_mask = u64::MAX >> (64 - 8 * u32::from(address_bytes));
    let size = u64::from(access.bytes);
    let wanted = if access.is_repeated { registers.rcx & address_mask } else { 1 };
    let elements = wanted.min(STRING_BYTES / size);
    let backwards = backend.get(State::Rflags) & RFLAGS_DF != 0;
    let mut linear = backend.string_io_address();
    let mut outcome = Ok(());
    for _ in 0..elements {
        outcome = element(access, linear, backend, machine);
        if outcome.is_err() {
            break;
        }
        let delta = if backwards { size.wrapping_neg() } else { size };
        linear = linear.wrapping_add(delta);
        let pointer = if access.is_in { &mut registers.rdi } else { &mut registers.rsi };
        let next = pointer.wrapping_add(delta);
        step(pointer, address_bytes, next);
        if access.is_repeated {
            let left = registers.rcx.wrapping_sub(1);
            step(&mut registers.rcx, address_bytes, left);
        }
    }
    match outcome {
        Err(event) => Action::Inject(event),
        Ok(()) if elements < wanted => Action::Resume,
        Ok(()) => Action::Advance,
    }
}

fn element<B: Backend>(access: IoAccess, linear: u64, backend: &mut B, machine: &mut Machine) -> Result<(), Event> {
    let Machine { ports, memory, .. } = machine;
    let bytes = usize::from(access.bytes);
    let mut value = [0; 4];
    if access.is_in {
        // Room first: a fault must not swallow what the port delivered.
        paging::read(backend, memory, linear, &mut value[..bytes])?;
        let value = ports.read(access.port, access.bytes).to_le_bytes();
        paging::write(backend, memory, linear, &value[..bytes])
    } else {
        paging::read(backend, memory, linear, &mut value[..bytes])?;
        ports.write(access.port, access.bytes, u32::from_le_bytes(value));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_port_is_a_bounded_queue() {
        let mut ports = Ports::default();
        ports.write(LOOPBACK_PORT, 4, 0x4433_2211);
        assert_eq!(ports.read(LOOPBACK_PORT, 2) & 0xffff, 0x2211);
        assert_eq!(ports.read(LOOPBACK_PORT, 4), 0xffff_4433);
        for byte in 0..100 {
            ports.write(LOOPBACK_PORT, 1, byte);
        }
        let read: Vec<_> = (0..65).map(|_| ports.read(LOOPBACK_PORT, 1) & 0xff).collect();
        assert!(read[..64].iter().copied().eq(0..64));
        assert_eq!(read[64], 0xff);
    }

    #[test]
    fn in_keeps_what_is_above_a_small_result() {
        assert_eq!(merge(!0, 0x12, 1), !0xff | 0x12);
        assert_eq!(merge(!0, 0x1234, 2), !0xffff | 0x1234);
        assert_eq!(merge(!0, 0x1234_5678, 4), 0x1234_5678);
    }

    #[test]
    fn ports_without_a_device_read_all_ones() {
        let mut ports = Ports::default();
        ports.write(0x1234, 4, 0);
        assert_eq!(ports.read(0x1234, 4), !0);
        ports.write(POST_PORT, 1, 0x42);
        assert_eq!(ports.read(POST_PORT, 1) & 0xff, 0x42);
    }
}
