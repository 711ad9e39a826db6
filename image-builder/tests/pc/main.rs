//! The machine `pc`, and that with an ISA bus, with guests of a few instructions, which the emulators place in memory: its devices as a kernel meets them, and
//! the verdicts on its ends. The same from a stick.

mod apic;
#[path = "../common/mod.rs"]
mod common;
mod guest;
mod idle;
mod legacy;
mod marks;
mod pages;
mod stick;

use iced_x86::code_asm::*;
use tollgate_abi::ExitReason;
use tollgate_abi::machine::KVM_LEAF;
use tollgate_abi::machine::pc::{CLOCK_PORT, RESET_PORT, RESET_VALUE};
use tollgate_abi::x86::msr::INTERRUPT_PENDING_MESSAGE;
use tollgate_books::failure::Status;

use crate::guest::{FAR_TEXT, MEMORY_BYTES, guest, out, power_off, run, send};

/// The port of an 8254's counter 2.
const COUNTER_PORT: u32 = 0x42;

#[test]
fn a_guest_that_is_placed_finds_its_bytes_and_the_devices_and_switches_off() {
    let guest = guest(|code| {
        // The text at RSI, a digit of RDI, and the year of the clock.
        for at in 0..FAR_TEXT.len() {
            code.mov(al, byte_ptr(rsi + at)).unwrap();
            send(code);
        }
        code.lea(rax, ptr(rdi + i32::from(b'0'))).unwrap();
        send(code);
        out(code, CLOCK_PORT, 9);
        code.mov(edx, u32::from(CLOCK_PORT + 1)).unwrap();
        code.in_(al, dx).unwrap();
        code.shr(al, 4).unwrap();
        code.add(al, i32::from(b'0')).unwrap();
        send(code);
        // The last byte of memory can be written, and KVM's signature is there.
        code.mov(rbx, MEMORY_BYTES - 1).unwrap();
        code.mov(byte_ptr(rbx), 1).unwrap();
        code.mov(eax, KVM_LEAF.leaf).unwrap();
        code.cpuid().unwrap();
        code.mov(eax, ebx).unwrap();
        send(code);
        // The counter of an interval timer and an MSR of AMD's, which read 0.
        code.mov(edx, COUNTER_PORT).unwrap();
        code.in_(al, dx).unwrap();
        code.add(al, i32::from(b'0')).unwrap();
        send(code);
        code.mov(ecx, INTERRUPT_PENDING_MESSAGE).unwrap();
        code.rdmsr().unwrap();
        code.add(eax, i32::from(b'0')).unwrap();
        send(code);
        power_off(code);
    });
    for (name, account, text, outcome) in run(&guest) {
        assert_eq!(text, "far\n72K00", "{name}");
        assert_eq!(account.status, Status::Balanced, "{name}: {}", account.verdict);
        assert_eq!(outcome, "powered-off", "{name}");
        let count =
            |reason: ExitReason| account.reasons.iter().find(|row| row.number == reason.0).unwrap().exits.figures.count;
        assert_eq!((count(ExitReason::CPUID), count(ExitReason::IO_INSTRUCTION)), (1, 13), "{name}");
    }
}

#[test]
fn the_ends_of_a_kernel_are_told_apart() {
    type Code = fn(&mut CodeAssembler);
    let ends: [(&str, Status, Code); 4] = [
        ("reset", Status::Balanced, |code| out(code, RESET_PORT, RESET_VALUE)),
        ("limit-reached", Status::Differs, |code| {
            let mut forever = code.create_label();
            code.sti().unwrap();
            code.set_label(&mut forever).unwrap();
            code.jmp(forever).unwrap();
        }),
        ("halted-for-ever", Status::Differs, |code| {
            code.cli().unwrap();
            code.hlt().unwrap();
        }),
        ("outside-memory", Status::Differs, |code| {
            code.mov(rax, MEMORY_BYTES).unwrap();
            code.mov(byte_ptr(rax), 1).unwrap();
        }),
    ];
    for (end, status, write) in ends {
        for (name, account, _, outcome) in run(&guest(write)) {
            assert_eq!(account.status, status, "{name}: {}", account.verdict);
            assert_eq!(outcome, end, "{name}");
        }
    }
}
