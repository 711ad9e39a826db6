//! Idle time that is skipped: a guest that sleeps for longer than its run may last.

use iced_x86::code_asm::*;
use tollgate_abi::ExitReason;
use tollgate_abi::apic::{IA32_TSC_DEADLINE, LVT_TIMER, LVT_TSC_DEADLINE};
use tollgate_books::failure::Status;

use crate::guest::{LIMIT_TICKS, VECTOR, interruptible, power_off, run_with};

/// The ticks for which it sleeps.
const TICKS: u64 = 40 * LIMIT_TICKS;

fn wrmsr(code: &mut CodeAssembler, msr: u32) {
    code.mov(ecx, msr).unwrap();
    code.wrmsr().unwrap();
}

#[test]
fn a_sleep_costs_no_time_and_its_ticks_are_in_the_account() {
    // R8 is the guest's TSC as it falls asleep; the handler powers off if the sleep lasted as long as it was to, and otherwise waits
    // for the run's limit.
    let sleeper = interruptible(
        |code| {
            code.mov(eax, LVT_TSC_DEADLINE | u32::from(VECTOR)).unwrap();
            code.xor(edx, edx).unwrap();
            wrmsr(code, LVT_TIMER);
            code.rdtsc().unwrap();
            code.shl(rdx, 32).unwrap();
            code.or(rax, rdx).unwrap();
            code.mov(r8, rax).unwrap();
            code.mov(rdx, TICKS).unwrap();
            code.add(rdx, rax).unwrap();
            code.mov(eax, edx).unwrap();
            code.shr(rdx, 32).unwrap();
            wrmsr(code, IA32_TSC_DEADLINE);
            code.sti().unwrap();
            code.hlt().unwrap();
        },
        |code| {
            code.rdtsc().unwrap();
            code.shl(rdx, 32).unwrap();
            code.or(rax, rdx).unwrap();
            code.sub(rax, r8).unwrap();
            code.mov(rdx, TICKS).unwrap();
            code.sub(rax, rdx).unwrap();
            code.cmp(rax, 100_000).unwrap();
            let mut wrong = code.create_label();
            code.ja(wrong).unwrap();
            power_off(code);
            code.set_label(&mut wrong).unwrap();
            code.jmp(wrong).unwrap();
        },
    );
    for (name, account, _, outcome) in run_with(&sleeper, "idle=skipped") {
        assert_eq!(
            (account.status, outcome.as_str()),
            (Status::Balanced, "powered-off"),
            "{name}: {}",
            account.verdict
        );
        let vcpu = &account.per_vcpu[0];
        assert!(vcpu.elapsed < LIMIT_TICKS && (TICKS - 10_000..=TICKS).contains(&vcpu.skipped), "{name}: {vcpu:?}");
        for reason in [ExitReason::HLT, ExitReason::EXTERNAL_INTERRUPT] {
            let row = account.reasons.iter().find(|row| row.number == reason.0).unwrap();
            assert_eq!((row.exits.figures.count, row.looks), (1, 0), "{name}: {reason:?}");
        }
    }
    for (name, account, _, outcome) in run_with(&sleeper, "") {
        assert_eq!((outcome.as_str(), account.per_vcpu[0].skipped), ("limit-reached", 0), "{name}");
    }
}
