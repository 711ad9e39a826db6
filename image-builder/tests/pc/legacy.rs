//! The PC with the devices of an ISA bus, as a kernel meets it: interrupts of its timer through its interrupt controllers, its clocks,
//! and the ways in which it ends.

use iced_x86::code_asm::*;
use tollgate_abi::machine::Kind;
use tollgate_abi::machine::legacy_pc::{
    DEBUG_EXIT_PORT, KEYBOARD_COMMAND_PORT, KEYBOARD_PORT, PIC_PORTS, PM_TIMER_PORT, SHUTDOWN, SHUTDOWN_PORT,
    SPEAKER_PORT, TIMER_PORT,
};
use tollgate_books::failure::Status;

use crate::guest::{guest, interruptible_by, out, run, run_with, send};

/// The vector of the interrupt controllers' input 0.
const FIRST_VECTOR: u8 = 0x40;
/// Ticks of the interval timer between two interrupts: some 1.7 ms.
const PERIOD: u16 = 2000;
/// Interrupts that the guest waits for by HLT, and those for which it runs on.
const BY_HALTS: i32 = 4;
const ALL: i32 = 8;

fn in_al(code: &mut CodeAssembler, port: u16) {
    code.mov(edx, u32::from(port)).unwrap();
    code.in_(al, dx).unwrap();
}

/// Sets the interrupt controllers and the interval timer up, with interrupts on.
fn set_up(code: &mut CodeAssembler) {
    for (port, vector, cascade) in [(PIC_PORTS[0], FIRST_VECTOR, 4), (PIC_PORTS[1], FIRST_VECTOR + 8, 2)] {
        out(code, port, 0x11);
        [vector, cascade, 1].iter().for_each(|&word| out(code, port + 1, word));
        out(code, port + 1, 0xff);
    }
    out(code, PIC_PORTS[0] + 1, 0xfe);
    // Mode 2, two halves of the count.
    out(code, TIMER_PORT + 3, 0x34);
    PERIOD.to_le_bytes().iter().for_each(|&half| out(code, TIMER_PORT, half));
    code.xor(ebx, ebx).unwrap();
    code.sti().unwrap();
}

/// Sends a letter, counts in EBX, and ends the interrupt.
fn handle(code: &mut CodeAssembler) {
    code.push(rax).unwrap();
    code.push(rdx).unwrap();
    code.mov(al, i32::from(b't')).unwrap();
    send(code);
    code.inc(ebx).unwrap();
    out(code, PIC_PORTS[0], 0x20);
    code.pop(rdx).unwrap();
    code.pop(rax).unwrap();
    code.iretq().unwrap();
}

/// Waits until EBX is `until`.
fn wait(code: &mut CodeAssembler, until: i32, halts: bool) {
    let mut again = code.create_label();
    code.set_label(&mut again).unwrap();
    if halts {
        code.hlt().unwrap();
    }
    code.cmp(ebx, until).unwrap();
    code.jb(again).unwrap();
}

/// Ends with EBX as the code.
fn end(code: &mut CodeAssembler) {
    code.mov(eax, ebx).unwrap();
    code.mov(edx, u32::from(DEBUG_EXIT_PORT)).unwrap();
    code.out(dx, eax).unwrap();
}

#[test]
fn the_interval_timer_interrupts_a_guest_that_halts_and_one_that_runs() {
    let guest = interruptible_by(
        FIRST_VECTOR,
        |code| {
            set_up(code);
            wait(code, BY_HALTS, true);
            wait(code, ALL, false);
            code.cli().unwrap();
            code.mov(al, i32::from(b'\n')).unwrap();
            send(code);
            end(code);
        },
        handle,
    )
    .on(Kind::LegacyPc);
    for options in ["", "idle=skipped"] {
        for (name, account, text, outcome) in run_with(&guest, options) {
            assert_eq!(account.status, Status::Balanced, "{name}: {}", account.verdict);
            assert_eq!((&text[..], &outcome[..]), ("tttttttt", "debug-exit"), "{name} {options}");
            assert_eq!(account.stop.unwrap().code, Some(ALL as u64), "{name} {options}");
        }
    }
}

/// Counter 2 of the interval timer, ACPI's timer and the TSC tell the same time.
#[test]
fn the_clocks_agree() {
    const WAITED: u16 = 5966;
    let guest = guest(|code| {
        let timer = |code: &mut CodeAssembler| {
            code.mov(edx, u32::from(PM_TIMER_PORT)).unwrap();
            code.in_(eax, dx).unwrap();
        };
        out(code, SPEAKER_PORT, 1);
        out(code, TIMER_PORT + 3, 0xb0);
        WAITED.to_le_bytes().iter().for_each(|&half| out(code, TIMER_PORT + 2, half));
        timer(code);
        code.mov(ebx, eax).unwrap();
        let mut again = code.create_label();
        code.set_label(&mut again).unwrap();
        in_al(code, SPEAKER_PORT);
        code.test(al, 0x20).unwrap();
        code.jz(again).unwrap();
        timer(code);
        code.sub(eax, ebx).unwrap();
        code.mov(ebx, eax).unwrap();
        end(code);
    })
    .on(Kind::LegacyPc);
    for (name, account, _, outcome) in run(&guest) {
        assert_eq!((account.status, &outcome[..]), (Status::Balanced, "debug-exit"), "{name}: {}", account.verdict);
        let (ticks, expected) = (account.stop.unwrap().code.unwrap(), 3 * u64::from(WAITED));
        assert!((expected - 10..expected + 100).contains(&ticks), "{name}: {ticks} ticks, not {expected}");
    }
}

#[test]
fn a_kernel_ends_in_each_of_the_usual_ways() {
    type Code = fn(&mut CodeAssembler);
    let ends: [(&str, Option<u64>, Code); 4] = [
        ("debug-exit", Some(0), |code| {
            code.xor(ebx, ebx).unwrap();
            end(code);
        }),
        ("powered-off", None, |code| SHUTDOWN.iter().for_each(|&letter| out(code, SHUTDOWN_PORT, letter))),
        ("reset", None, |code| out(code, KEYBOARD_COMMAND_PORT, 0xfe)),
        ("reset", None, |code| {
            // The self-test's answer plus A9h is FEh.
            out(code, KEYBOARD_COMMAND_PORT, 0xaa);
            in_al(code, KEYBOARD_PORT);
            code.add(al, 0xa9 - 0x100).unwrap();
            code.mov(edx, u32::from(KEYBOARD_COMMAND_PORT)).unwrap();
            code.out(dx, al).unwrap();
        }),
    ];
    for (end, code, write) in ends {
        for (name, account, _, outcome) in run(&guest(write).on(Kind::LegacyPc)) {
            assert_eq!((account.status, &outcome[..]), (Status::Balanced, end), "{name}: {}", account.verdict);
            assert_eq!(account.stop.unwrap().code, code, "{name}");
        }
    }
}
