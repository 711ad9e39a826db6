//! The local APIC's registers in memory: a guest that knows no x2APIC mode sets its timer up, sleeps, and ends the interrupt.

use iced_x86::code_asm::*;
use tollgate_abi::ExitReason;
use tollgate_abi::apic::{BOOT_PROCESSOR, IA32_APIC_BASE};
use tollgate_abi::x86::msr::{APIC_AT_RESET, APIC_BASE_ENABLED};
use tollgate_books::failure::Status;

use crate::guest::{VECTOR, interruptible, power_off, run_with, send};

/// The offsets of the registers.
const ID: u64 = 0x20;
const EOI: u64 = 0xb0;
const SVR: u64 = 0xf0;
const IN_SERVICE: u64 = 0x100 + 0x10 * (VECTOR as u64 / 32);
const LVT_TIMER: u64 = 0x320;
const INITIAL_COUNT: u64 = 0x380;
const DIVIDE: u64 = 0x3e0;

/// The page where the guest maps the APIC, which lies beyond its first GiB: the second GiB begins with it.
const MAPPED: u64 = 1 << 30;

fn write(code: &mut CodeAssembler, offset: u64, value: u32) {
    code.mov(dword_ptr(r12 + offset as i32), value).unwrap();
}

fn read(code: &mut CodeAssembler, offset: u64) {
    code.mov(r13d, dword_ptr(r12 + offset as i32)).unwrap();
}

#[test]
fn a_guest_without_x2apic_mode_finds_its_apic_in_memory() {
    let guest = interruptible(
        |code| {
            // The second entry of the page-directory-pointer table: a GiB from C0000000H on.
            code.mov(rax, 0xc000_0083u64).unwrap();
            code.mov(rbx, crate::guest::TABLES + 0x1008).unwrap();
            code.mov(qword_ptr(rbx), rax).unwrap();
            code.mov(r12, MAPPED + APIC_AT_RESET - 0xc000_0000).unwrap();
            // From x2APIC mode to none, and to xAPIC mode, in which software enables it.
            for mode in [0, APIC_BASE_ENABLED] {
                code.mov(ecx, IA32_APIC_BASE as i32).unwrap();
                code.mov(eax, (APIC_AT_RESET | BOOT_PROCESSOR | mode) as i32).unwrap();
                code.xor(edx, edx).unwrap();
                code.wrmsr().unwrap();
            }
            write(code, SVR, 0x1ff);
            read(code, ID);
            code.mov(eax, r13d).unwrap();
            code.add(eax, i32::from(b'0')).unwrap();
            send(code);
            write(code, DIVIDE, 0b1011);
            write(code, LVT_TIMER, VECTOR.into());
            write(code, INITIAL_COUNT, 2_000_000_000);
            code.sti().unwrap();
            code.hlt().unwrap();
            // Behind the handler: nothing is in service.
            read(code, IN_SERVICE);
            code.mov(eax, r13d).unwrap();
            code.add(eax, i32::from(b'0')).unwrap();
            send(code);
            power_off(code);
        },
        |code| {
            read(code, IN_SERVICE);
            code.mov(eax, r13d).unwrap();
            code.shr(eax, u32::from(VECTOR % 32)).unwrap();
            code.add(eax, i32::from(b'0')).unwrap();
            send(code);
            write(code, EOI, 0);
            code.iretq().unwrap();
        },
    );
    for (name, account, text, outcome) in run_with(&guest, "idle=skipped keys=on") {
        assert_eq!(
            (account.status, outcome.as_str()),
            (Status::Balanced, "powered-off"),
            "{name}: {}",
            account.verdict
        );
        assert_eq!(text, "010", "{name}: ID, in service, no longer in service");
        let row = account.reasons.iter().find(|row| row.number == ExitReason::EPT_VIOLATION.0).unwrap();
        assert_eq!(row.exits.figures.count, 8, "{name}");
        let keys: u64 =
            row.keys.iter().filter(|key| key.name.contains("0xfee00000")).map(|key| key.figures.count).sum();
        assert_eq!(keys, 8, "{name}: {:?}", row.keys);
    }
}
