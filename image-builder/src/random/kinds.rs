//! The kinds of snippets: one table, by the exits that each provokes.

use tollgate_abi::apic;
use tollgate_abi::hypercall::{Hypercall, PROFILE_ONLY};
use tollgate_abi::leaves;
use tollgate_abi::machine::{LOOPBACK_PORT, POST_PORT};
use tollgate_abi::workload::TABLE as WORKLOADS;
use tollgate_abi::x86::msr::*;

use super::dice::Dice;
use super::layout::{NEXT, WINDOW};
use super::snippet::{A, B, C, D, DI, SI, Snippet};

/// One kind of snippet.
pub(super) struct Kind {
    weight: u64,
    write: fn(&mut Snippet<'_>, &mut Dice),
}

/// A snippet of some kind.
pub(super) fn write(snippet: &mut Snippet<'_>, dice: &mut Dice) {
    if dice.chance(300) {
        for register in [A, C, D, B, 5, SI, DI] {
            if dice.chance(500) {
                snippet.set_any(register, dice);
            }
        }
    }
    (dice.weighted(KINDS, |kind| kind.weight).write)(snippet, dice);
}

macro_rules! kinds {
    ($($weight:literal $write:path;)*) => { const KINDS: &[Kind] = &[$(Kind { weight: $weight, write: $write }),*]; };
}

kinds! {
    80 cpuid;
    60 hypercall;
    40 profile;
    70 rdmsr;
    80 wrmsr;
    60 control_register;
    15 control_register_value;
    20 machine_status;
    25 debug_register;
    15 xsetbv;
    60 port;
    60 string_port;
    40 descriptor_table;
    25 local_or_task;
    35 translation;
    20 caches;
    25 halt;
    25 wait;
    45 clocks;
    50 vmx;
    40 svm;
    45 exception;
    30 flags;
    60 apic_register;
    40 self_interrupt;
    40 timer;
    60 other_vcpu;
    60 memory;
    30 page_table;
    40 random_bytes;
    30 system_bytes;
    15 self_modifying;
    25 selectors;
    15 far;
    20 system_call;
    20 vector_state;
    8 jump;
    8 descriptor;
}

fn cpuid(s: &mut Snippet<'_>, dice: &mut Dice) {
    for _ in 0..dice.between(1, 12) {
        let leaf = match dice.below(8) {
            0 => dice.value(s.block),
            1 => 0x4000_0000 + dice.below(0x10),
            2 | 3 => u64::from(leaves::CONTRACT) + dice.below(16),
            4 => 0x8000_0000 + dice.below(0x20),
            _ => dice.below(0x22),
        };
        s.set(A, leaf);
        if dice.chance(700) {
            let sub = if dice.chance(700) { dice.below(0x60) | dice.below(5) << 16 } else { dice.value(s.block) };
            s.set(C, sub);
        }
        s.op(dice, &[0x0f, 0xa2]);
    }
}

/// VMCALL or VMMCALL: one of them is the hypercall, the other raises #UD.
fn call(s: &mut Snippet<'_>, dice: &mut Dice) {
    let bytes = dice.pick(&[[0x0f, 0x01, 0xc1], [0x0f, 0x01, 0xd9]]);
    s.op(dice, &bytes);
}

fn hypercall(s: &mut Snippet<'_>, dice: &mut Dice) {
    let number = match dice.below(40) {
        0 => Hypercall::Begin as u64,
        1 | 2 => Hypercall::End as u64,
        3..12 => Hypercall::Console as u64,
        12..22 => Hypercall::WakeAfter as u64,
        22 => dice.value(s.block) | 8,
        23 if dice.chance(100) => Hypercall::Exit as u64,
        _ => Hypercall::Nothing as u64,
    };
    let (first, second) = match number {
        _ if dice.chance(150) => (dice.value(s.block), dice.value(s.block)),
        n if n == Hypercall::Begin as u64 => (dice.below(WORKLOADS.len() as u64 + 2), dice.between(1, 40)),
        n if n == Hypercall::WakeAfter as u64 => (dice.below(20_000), dice.between(28, 255)),
        n if n == Hypercall::Console as u64 => (s.block.data() + dice.below(0x1000), dice.below(40)),
        _ => (dice.address(s.block), dice.address(s.block)),
    };
    for _ in 0..if number == 0 { dice.between(1, 10) } else { 1 } {
        s.set(A, number);
        s.set(DI, first);
        s.set(SI, second);
        call(s, dice);
    }
}

fn profile(s: &mut Snippet<'_>, dice: &mut Dice) {
    s.set(A, Hypercall::Begin as u64);
    s.set(DI, PROFILE_ONLY);
    let number = if dice.chance(500) { 1 } else { dice.below(5) };
    s.set(SI, number);
    call(s, dice);
}

/// MSRs of the guest's, MSRs that a monitor must not hand out, and neighbours of both. Those without a name are nobody else's here.
const MSRS: &[u32] = &[
    IA32_TIME_STAMP_COUNTER,
    IA32_APIC_BASE,
    IA32_FEATURE_CONTROL,
    IA32_TSC_ADJUST,
    IA32_SPEC_CTRL,
    0x79,
    IA32_BIOS_SIGN_ID,
    0xc1,
    0xe7,
    0xfe,
    IA32_ARCH_CAPABILITIES,
    0x11e,
    0x122,
    0x140,
    IA32_SYSENTER_CS,
    IA32_SYSENTER_ESP,
    IA32_SYSENTER_EIP,
    IA32_MCG_CAP,
    0x186,
    IA32_MISC_ENABLE,
    IA32_DEBUGCTL,
    0x1db,
    0x200,
    0x250,
    IA32_PAT,
    0x2ff,
    0x309,
    0x38f,
    0x3f1,
    0x400,
    IA32_VMX_BASIC,
    IA32_VMX_PROCBASED_CTLS2,
    0x491,
    0x4c1,
    0x570,
    0x600,
    0x6a0,
    IA32_S_CET,
    0x6a4,
    IA32_TSC_DEADLINE,
    0x6e1,
    0x7ff,
    0x800,
    0x8ff,
    0x900,
    0xc80,
    0xd90,
    IA32_XSS,
    0x1000,
    0x1fff,
    0x2000,
    IA32_PAT,
    IA32_EFER,
    IA32_STAR,
    IA32_LSTAR,
    IA32_CSTAR,
    IA32_FMASK,
    IA32_FS_BASE,
    IA32_GS_BASE,
    IA32_KERNEL_GS_BASE,
    IA32_TSC_AUX,
    0xc000_0104,
    0xc001_0015,
    VM_CR,
    VM_HSAVE_PA,
    0xc001_011f,
    0xc001_1004,
    0xc001_1fff,
];

fn msr(dice: &mut Dice) -> u64 {
    match dice.below(10) {
        0 => dice.word() & 0xffff_ffff,
        1 => dice.between(u64::from(apic::MSR_BASE), u64::from(apic::MSR_BASE) + 0x3f),
        2 => 0xc000_0000 + dice.below(0x2000),
        _ => dice.pick(MSRS).into(),
    }
}

fn rdmsr(s: &mut Snippet<'_>, dice: &mut Dice) {
    for _ in 0..dice.between(1, 4) {
        let msr = msr(dice);
        s.set(C, msr);
        for _ in 0..dice.pick(&[1, 1, 8]) {
            s.op(dice, &[0x0f, 0x32]);
        }
    }
}

fn write_msr(s: &mut Snippet<'_>, dice: &mut Dice, msr: u32, value: u64) {
    s.set(C, msr.into());
    s.set_wide(value);
    s.op(dice, &[0x0f, 0x30]);
}

fn wrmsr(s: &mut Snippet<'_>, dice: &mut Dice) {
    let mut msr = msr(dice) as u32;
    if s.mode.is_real && msr == IA32_EFER {
        // QEMU 7.2 loses the host's CR0 at an exit of a guest that has LME and neither PAE nor PG.
        msr = apic::TPR;
    }
    // The APIC's commands and timers have kinds of their own.
    let value = match msr {
        IA32_EFER => 0x501 ^ if dice.chance(500) { 1 << dice.below(20) } else { 0 },
        apic::IA32_TSC_DEADLINE => dice.below(1 << 20),
        apic::ICR => return self_interrupt(s, dice),
        _ => dice.value(s.block),
    };
    if dice.chance(300) {
        // The present value, with one bit changed.
        s.set(C, msr.into());
        s.op(dice, &[0x0f, 0x32]);
        let bit = dice.below(32) as u8;
        s.raw(&[0x0f, 0xba, 0xf8 | dice.pick(&[A, D]), bit]);
        s.op(dice, &[0x0f, 0x30]);
    } else {
        write_msr(s, dice, msr, value);
    }
}

/// MOV from CR, one bit changed, MOV to CR.
fn control_register(s: &mut Snippet<'_>, dice: &mut Dice) {
    let register = dice.pick(&[0, 0, 0, 4, 4, 4, 3, 2, 8, 8]);
    let rex: &[u8] = if register == 8 && s.mode.bits == 64 { &[0x44] } else { &[] };
    let digit = 0xc0 | (register & 7) << 3;
    let read = [rex, &[0x0f, 0x20, digit]].concat();
    let write = [rex, &[0x0f, 0x22, digit]].concat();
    s.op(dice, &read);
    let bit = match register {
        // Seldom PE, PG; WP, TS, EM, MP, NE, AM, CD, NW and reserved ones
        0 if dice.chance(60) => dice.pick(&[0, 31]),
        0 => dice.pick(&[16, 16, 3, 2, 1, 5, 18, 30, 29, 4, 6, 40]),
        3 => dice.pick(&[3, 4, 3, 4, 63, 62]),
        4 => dice.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 20, 21, 22, 23, 24, 25, 40]),
        8 => dice.pick(&[0, 1, 2, 3, 4]),
        _ => dice.below(64) as u8,
    };
    if register == 4 && bit == 20 && dice.chance(300) {
        // SMEP twice, so that most do not end at the next instruction of the frame: it is not the user's.
        s.op(dice, &write);
    }
    let wide: &[u8] = if s.mode.bits == 64 { &[0x48] } else { &[] };
    s.raw(&[wide, &[0x0f, 0xba, 0xf8, bit & if s.mode.bits == 64 { 63 } else { 31 }]].concat());
    s.op(dice, &write);
    if dice.chance(700) {
        s.raw(&[wide, &[0x0f, 0xba, 0xf8, bit & if s.mode.bits == 64 { 63 } else { 31 }]].concat());
        s.op(dice, &write);
    }
}

fn control_register_value(s: &mut Snippet<'_>, dice: &mut Dice) {
    let register = dice.pick(&[0, 2, 3, 4, 8, 1, 5]);
    let value = if register == 3 && dice.chance(850) {
        s.block.page_tables() | dice.below(32) | if dice.chance(300) { 1 << 63 } else { 0 }
    } else {
        dice.value(s.block)
    };
    s.set(A, value);
    let rex: &[u8] = if register == 8 && s.mode.bits == 64 { &[0x44] } else { &[] };
    s.op(dice, &[rex, &[0x0f, 0x22, 0xc0 | (register & 7) << 3]].concat());
}

/// CLTS, SMSW, LMSW.
fn machine_status(s: &mut Snippet<'_>, dice: &mut Dice) {
    match dice.below(4) {
        0 => s.op(dice, &[0x0f, 0x06]),
        1 => {
            s.op(dice, &[0x0f, 0x01, 0xe0]);
            let flips = dice.below(16) as u8;
            s.raw(&[0x34, flips]);
            s.op(dice, &[0x0f, 0x01, 0xf0]);
        }
        2 => {
            s.set_any(A, dice);
            s.op(dice, &[0x0f, 0x01, 0xf0]);
        }
        _ => {
            let address = s.address(dice);
            s.set(B, address);
            let digit = dice.pick(&[4, 6]);
            s.at_b(dice, &[0x0f, 0x01], digit);
        }
    }
    if dice.chance(700) {
        s.op(dice, &[0x0f, 0x06]);
    }
}

fn debug_register(s: &mut Snippet<'_>, dice: &mut Dice) {
    let register = dice.below(8) as u8;
    let digit = 0xc0 | register << 3;
    if dice.chance(300) {
        s.op(dice, &[0x0f, 0x21, digit]);
        return;
    }
    let value = match register {
        0..4 => match dice.below(4) {
            0 => s.block.data() + dice.below(16) * 8,
            1 => s.block.code() + dice.below(0x2000),
            2 => s.block.stack() - 16,
            _ => POST_PORT.into(),
        },
        7 => 0x400 | dice.word() & 0xff | if dice.chance(150) { 1 << 13 } else { 0 } | dice.below(1 << 16) << 16,
        _ => dice.value(s.block),
    };
    s.set(A, value);
    s.op(dice, &[0x0f, 0x23, digit]);
    if dice.chance(500) {
        memory(s, dice);
    }
}

fn xsetbv(s: &mut Snippet<'_>, dice: &mut Dice) {
    let register = if dice.chance(850) { 0 } else { dice.value(s.block) };
    s.set(C, register);
    if dice.chance(300) {
        s.op(dice, &[0x0f, 0x01, 0xd0]);
    }
    let value = dice.pick(&[1, 3, 7, 2, 0, 5, 0x1f, 0xe7, 1 << 9, 1 << 63]);
    s.set_wide(value);
    s.op(dice, &[0x0f, 0x01, 0xd1]);
}

fn port_number(dice: &mut Dice) -> u64 {
    match dice.below(8) {
        0 => dice.below(0x1_0000),
        1..4 => POST_PORT.into(),
        4 | 5 => LOOPBACK_PORT.into(),
        _ => dice.pick(&[
            0x20, 0x21, 0x40, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x92, 0xb2, 0xcf8, 0xcf9, 0xcfc, 0xe9, 0xf4, 0x3f8,
            0x3fd, 0x604, 0x8900, 0xfffe, 0xffff, 0x7f, 0x5ef,
        ]),
    }
}

fn port(s: &mut Snippet<'_>, dice: &mut Dice) {
    let port = port_number(dice);
    s.set(D, port);
    for _ in 0..dice.between(1, 8) {
        match dice.below(8) {
            0..3 => s.op(dice, &[0xec]),
            3..5 => s.op(dice, &[0xee]),
            5 => {
                let opcode = dice.pick(&[0xed, 0xef]);
                s.op(dice, &[opcode]);
            }
            6 => {
                let opcode = dice.pick(&[0xed, 0xef]);
                s.op(dice, &[0x66, opcode]);
            }
            _ => {
                let (opcode, port) = (dice.pick(&[0xe4, 0xe5, 0xe6, 0xe7]), dice.byte());
                s.op(dice, &[opcode, port]);
            }
        }
    }
}

fn string_port(s: &mut Snippet<'_>, dice: &mut Dice) {
    let port = if dice.chance(600) { LOOPBACK_PORT.into() } else { port_number(dice) };
    s.set(D, port);
    let address = s.address(dice);
    s.set(SI, address);
    s.set(DI, address);
    let count = if dice.chance(950) { dice.below(40) } else { dice.value(s.block) };
    s.set(C, count);
    if dice.chance(150) {
        s.raw(&[0xfd]);
    }
    let mut bytes = Vec::new();
    if dice.chance(100) {
        bytes.push(0x67);
    }
    if dice.chance(150) {
        bytes.push(dice.pick(&[0x2e, 0x36, 0x26, 0x64, 0x65]));
    }
    if dice.chance(250) {
        bytes.push(0x66);
    }
    if dice.chance(700) {
        bytes.push(dice.pick(&[0xf3, 0xf3, 0xf2]));
    }
    bytes.push(dice.pick(&[0x6c, 0x6d, 0x6e, 0x6f]));
    s.op(dice, &bytes);
}

/// SGDT, SIDT, LGDT, LIDT. The table that is loaded is mostly one that was stored; any other is put back at once.
fn descriptor_table(s: &mut Snippet<'_>, dice: &mut Dice) {
    let is_idt = u8::from(dice.chance(500));
    let pointer = if is_idt == 1 { s.block.idt_pointer() } else { s.block.gdt_pointer() };
    match dice.below(10) {
        0..4 => {
            let address = s.address(dice);
            s.set(B, address);
            s.at_b(dice, &[0x0f, 0x01], is_idt);
        }
        4..8 => {
            s.set(B, pointer);
            s.at_b(dice, &[0x0f, 0x01], 2 + is_idt);
        }
        8 => {
            // The operand is at an address at which it may cross a page.
            let address = s.address(dice);
            s.set(B, address);
            s.at_b(dice, &[0x0f, 0x01], is_idt);
            s.at_b(dice, &[0x0f, 0x01], 2 + is_idt);
        }
        _ => {
            let address = s.address(dice);
            s.set(B, address);
            s.at_b(dice, &[0x0f, 0x01], 2 + is_idt);
            s.op(dice, &[0x0f, 0xa2]);
            if dice.chance(800) {
                s.set(B, pointer);
                s.raw(&[0x0f, 0x01, (2 + is_idt) << 3 | B]);
            }
        }
    }
}

/// SLDT, STR, LLDT, LTR, VERR, VERW.
fn local_or_task(s: &mut Snippet<'_>, dice: &mut Dice) {
    let digit = dice.below(6) as u8;
    if dice.chance(400) {
        let address = s.address(dice);
        s.set(B, address);
        s.at_b(dice, &[0x0f, 0x00], digit);
    } else {
        // A null selector is for the other instructions: LTR refuses it, but QEMU 7.2 takes it and ends itself at the next change
        // to ring 0.
        let null = if digit == 3 { 0x48 } else { 0 };
        let selector = dice.pick(&[null, 0x48, 0x58, 0x58, 8, 0x78, 0x80, 0xfff8, 0x4c]);
        s.set(A, selector);
        s.op(dice, &[0x0f, 0x00, 0xc0 | digit << 3]);
    }
}

/// INVLPG, INVPCID, INVLPGA, CLFLUSH.
fn translation(s: &mut Snippet<'_>, dice: &mut Dice) {
    let address = s.address(dice);
    s.set(B, address);
    match dice.below(6) {
        0 => {
            let kind = dice.below(6);
            s.set(A, kind);
            s.at_b(dice, &[0x66, 0x0f, 0x38, 0x82], A);
        }
        1 => s.at_b(dice, &[0x0f, 0xae], 7),
        _ => {
            for _ in 0..dice.between(1, 5) {
                s.at_b(dice, &[0x0f, 0x01], 7);
            }
        }
    }
}

fn caches(s: &mut Snippet<'_>, dice: &mut Dice) {
    let bytes: &[u8] = dice.pick(&[&[0x0f, 0x08], &[0x0f, 0x09], &[0xf3, 0x0f, 0x09]]);
    s.op(dice, bytes);
}

/// HLT, mostly with an event to wake from it.
fn halt(s: &mut Snippet<'_>, dice: &mut Dice) {
    if dice.chance(960) {
        for register in [apic::EOI, apic::TPR] {
            if dice.chance(850) {
                s.set(C, register.into());
                s.set_wide(0);
                s.raw(&[0x0f, 0x30]);
            }
        }
        timer_soon(s, dice);
        let bytes: &[u8] = dice.pick(&[&[0xfb, 0xf4], &[0xfb, 0x90, 0xf4], &[0xfb, 0xf4]]);
        s.raw(bytes);
    } else {
        s.op(dice, &[0xf4]);
    }
}

/// PAUSE, MONITOR, MWAIT, MONITORX, MWAITX, UMONITOR, UMWAIT, TPAUSE.
fn wait(s: &mut Snippet<'_>, dice: &mut Dice) {
    let address = s.address(dice);
    s.set(A, address);
    let (c, d) = (dice.below(3), dice.below(3));
    s.set(C, c);
    s.set(D, d);
    let bytes: &[u8] = dice.pick(&[
        &[0xf3, 0x90],
        &[0xf3, 0x90],
        &[0x0f, 0x01, 0xc8],
        &[0x0f, 0x01, 0xc9],
        &[0x0f, 0x01, 0xfa],
        &[0x0f, 0x01, 0xfb],
        &[0xf3, 0x0f, 0xae, 0xf0],
        &[0xf2, 0x0f, 0xae, 0xf1],
        &[0x66, 0x0f, 0xae, 0xf1],
    ]);
    for _ in 0..dice.pick(&[1, 1, 10]) {
        s.op(dice, bytes);
    }
}

/// RDTSC, RDTSCP, RDPMC, RDRAND, RDSEED, RDPID.
fn clocks(s: &mut Snippet<'_>, dice: &mut Dice) {
    let counter = dice.pick(&[0, 1, 2, 3, 0x4000_0000, 0x4000_0002, 0x2000_0000]);
    s.set(C, counter);
    let bytes: &[u8] = dice.pick(&[
        &[0x0f, 0x31],
        &[0x0f, 0x31],
        &[0x0f, 0x01, 0xf9],
        &[0x0f, 0x33],
        &[0x0f, 0xc7, 0xf0],
        &[0x66, 0x0f, 0xc7, 0xf1],
        &[0x0f, 0xc7, 0xf8],
        &[0xf3, 0x0f, 0xc7, 0xf8],
    ]);
    for _ in 0..dice.pick(&[1, 2, 10]) {
        s.op(dice, bytes);
    }
}

/// VMX instructions, and GETSEC, VMFUNC, ENCLS, ENCLV, PCONFIG.
fn vmx(s: &mut Snippet<'_>, dice: &mut Dice) {
    let address = s.address(dice);
    s.set(B, address);
    s.set_any(A, dice);
    match dice.below(16) {
        0 => s.op(dice, &[0x0f, 0x01, 0xc2]),
        1 => s.op(dice, &[0x0f, 0x01, 0xc3]),
        2 => s.op(dice, &[0x0f, 0x01, 0xc4]),
        3 => s.at_b(dice, &[0xf3, 0x0f, 0xc7], 6),
        4 => s.at_b(dice, &[0x66, 0x0f, 0xc7], 6),
        5 => s.at_b(dice, &[0x0f, 0xc7], 6),
        6 => s.at_b(dice, &[0x0f, 0xc7], 7),
        7 => s.op(dice, &[0x0f, 0x78, 0xc3]),
        8 => s.at_b(dice, &[0x0f, 0x78], A),
        9 => s.op(dice, &[0x0f, 0x79, 0xc3]),
        10 => s.at_b(dice, &[0x66, 0x0f, 0x38, 0x80], A),
        11 => s.at_b(dice, &[0x66, 0x0f, 0x38, 0x81], A),
        12 => s.op(dice, &[0x0f, 0x01, 0xd4]),
        13 => s.op(dice, &[0x0f, 0x37]),
        _ => {
            let bytes = dice.pick(&[[0x0f, 0x01, 0xcf], [0x0f, 0x01, 0xc0], [0x0f, 0x01, 0xc5], [0x0f, 0x01, 0xd7]]);
            s.op(dice, &bytes);
        }
    }
}

/// VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, INVLPGA; RDPRU, INVLPGB, TLBSYNC, PSMASH and their like.
fn svm(s: &mut Snippet<'_>, dice: &mut Dice) {
    let address = s.address(dice);
    s.set(A, address);
    s.set_any(C, dice);
    let bytes =
        [0x0f, 0x01, if dice.chance(850) { 0xd8 + dice.below(8) as u8 } else { dice.between(0xfc, 0xff) as u8 }];
    s.op(dice, &bytes);
}

fn exception(s: &mut Snippet<'_>, dice: &mut Dice) {
    match dice.below(12) {
        0 => {
            let vector = dice.byte();
            s.op(dice, &[0xcd, vector]);
        }
        1 => {
            let vector = dice.below(32) as u8;
            s.op(dice, &[0xcd, vector]);
        }
        2 => s.op(dice, &[0xcc]),
        3 => s.op(dice, &[0xf1]),
        4 => s.op(dice, &[0x0f, 0x0b]),
        5 => {
            s.set(C, 0);
            s.op(dice, &[0xf7, 0xf1]);
        }
        6 => s.op(dice, &[0xce]),
        7 => {
            let address = s.address(dice);
            s.set(B, address);
            s.at_b(dice, &[0x62], A);
        }
        8 => s.op(dice, &[0x0f, 0xb9, 0xc0]),
        9 => {
            // An unmasked x87 exception, and one of SSE.
            s.raw(&[0xdb, 0xe3, 0x6a, 0x00, 0xd9, 0x2c, 0x24, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9]);
            s.op(dice, &[0x9b]);
        }
        10 => {
            let selector = dice.value(s.block);
            s.set(A, selector);
            let register = dice.pick(&[0xd0, 0xd8, 0xc0, 0xe0, 0xe8, 0xc8]);
            s.op(dice, &[0x8e, register]);
        }
        _ => {
            let address = 0x8000_0000_0000 | dice.below(1 << 20);
            s.set(B, address);
            s.at_b(dice, &[0x8b], A);
        }
    }
}

/// POPF of anything, CLI, STI, IRET to the next instruction.
fn flags(s: &mut Snippet<'_>, dice: &mut Dice) {
    match dice.below(6) {
        0 => s.op(dice, &[0xfa]),
        1 => s.op(dice, &[0xfb]),
        _ => {
            let flags = 2 | dice.below(1 << 22) & dice.word() & !(dice.pick(&[0, 1 << 14]));
            s.set(A, flags);
            if s.mode.bits == 16 {
                s.raw(&[0x66, 0x50, 0x66]);
            } else {
                s.raw(&[0x50]);
            }
            s.op(dice, &[0x9d]);
        }
    }
    (dice.pick(&[cpuid, clocks, rdmsr, port, memory]))(s, dice);
}

fn apic_register(s: &mut Snippet<'_>, dice: &mut Dice) {
    let register = dice.pick(&[
        apic::ID,
        apic::VERSION,
        apic::TPR,
        apic::PPR,
        apic::EOI,
        apic::LDR,
        apic::SVR,
        apic::ISR,
        apic::ISR + 1,
        apic::TMR,
        apic::IRR,
        apic::IRR + 7,
        apic::ESR,
        apic::ICR,
        apic::LVT_TIMER,
        apic::LVT_THERMAL,
        apic::LVT_PERFORMANCE,
        apic::LVT_LINT0,
        apic::LVT_LINT1,
        apic::LVT_ERROR,
        apic::CURRENT_COUNT,
        apic::DIVIDE,
        apic::SELF_IPI,
    ]);
    if dice.chance(400) {
        s.set(C, register.into());
        s.op(dice, &[0x0f, 0x32]);
        return;
    }
    let value = match register {
        apic::TPR => dice.below(0x100) & dice.pick(&[0, 0xff, 0x3f]),
        apic::EOI | apic::ESR => 0,
        apic::SVR => 0x1ff ^ if dice.chance(300) { dice.below(0x400) } else { 0 },
        apic::ICR => return self_interrupt(s, dice),
        apic::SELF_IPI => dice.below(0x100),
        _ if dice.chance(700) => dice.below(0x100) | dice.below(2) << 16 | dice.below(8) << 8,
        _ => dice.value(s.block),
    };
    for _ in 0..dice.pick(&[1, 1, 4]) {
        write_msr(s, dice, register, value);
    }
}

fn vector(dice: &mut Dice) -> u64 {
    match dice.below(20) {
        0 => dice.below(32),
        1 => 0x80,
        _ => dice.between(0x20, 0xff),
    }
}

fn self_interrupt(s: &mut Snippet<'_>, dice: &mut Dice) {
    for _ in 0..dice.pick(&[1, 1, 3]) {
        let vector = vector(dice);
        match dice.below(4) {
            0 | 1 => write_msr(s, dice, apic::SELF_IPI, vector),
            2 => write_msr(s, dice, apic::ICR, apic::TO_SELF | apic::ASSERT | vector),
            _ => {
                let to = apic::command(
                    s.block.vcpu as u32,
                    dice.pick(&[apic::DELIVERY_FIXED, apic::DELIVERY_NMI]),
                    vector as u8,
                );
                write_msr(s, dice, apic::ICR, to);
            }
        }
    }
    if dice.chance(500) {
        s.op(dice, &[0xfb, 0x90]);
    }
}

/// Arms the timer so that it fires before long.
fn timer_soon(s: &mut Snippet<'_>, dice: &mut Dice) {
    let vector = dice.between(0x20, 0xff);
    if dice.chance(500) {
        write_msr(s, dice, apic::LVT_TIMER, vector);
        let count = if dice.chance(800) { dice.between(500, 8000) } else { dice.between(1, 500) };
        write_msr(s, dice, apic::INITIAL_COUNT, count);
    } else {
        write_msr(s, dice, apic::LVT_TIMER, vector | u64::from(apic::LVT_TSC_DEADLINE));
        let ticks = if dice.chance(800) { dice.between(1000, 20_000) } else { dice.between(0, 1000) } as u32;
        deadline_in(s, dice, ticks);
    }
}

fn deadline_in(s: &mut Snippet<'_>, dice: &mut Dice, ticks: u32) {
    s.set(C, apic::IA32_TSC_DEADLINE.into());
    s.op(dice, &[0x0f, 0x31]);
    s.raw(if s.mode.bits == 16 { &[0x66, 0x05] } else { &[0x05] });
    s.raw(&ticks.to_le_bytes());
    // ADC EDX, 0
    s.raw(if s.mode.bits == 16 { &[0x66, 0x83, 0xd2, 0x00] } else { &[0x83, 0xd2, 0x00] });
    s.op(dice, &[0x0f, 0x30]);
}

fn timer(s: &mut Snippet<'_>, dice: &mut Dice) {
    match dice.below(8) {
        0..4 => timer_soon(s, dice),
        4 => {
            let divide = dice.below(16);
            write_msr(s, dice, apic::DIVIDE, divide);
        }
        5 => {
            let (vector, mode) = (vector(dice), dice.below(4) << 17 | dice.below(2) << 16);
            write_msr(s, dice, apic::LVT_TIMER, vector | mode);
        }
        6 => {
            let vector = dice.between(0x20, 0xff);
            write_msr(s, dice, apic::LVT_TIMER, vector | u64::from(apic::LVT_PERIODIC));
            let count = dice.pick(&[0, 100, 1000, 5000, 50_000]);
            write_msr(s, dice, apic::INITIAL_COUNT, count);
        }
        _ => {
            let ticks = dice.pick(&[0, 1, 100, 1 << 20, u32::MAX]);
            deadline_in(s, dice, ticks);
        }
    }
    if dice.chance(400) {
        s.op(dice, &[0xfb, 0x90]);
        clocks(s, dice);
    }
}

/// Interrupts for other vCPUs, also for some that do not exist.
fn other_vcpu(s: &mut Snippet<'_>, dice: &mut Dice) {
    let other = if dice.chance(900) { dice.below(s.block.vcpus) } else { dice.below(20) } as u32;
    let vector = vector(dice);
    let value = match dice.below(20) {
        0..10 => apic::command(other, apic::DELIVERY_FIXED, vector as u8),
        10..14 => apic::command(other, apic::DELIVERY_NMI, vector as u8),
        14 if other != 0 => apic::command(other, apic::DELIVERY_INIT, 0),
        15 => apic::command(other, apic::DELIVERY_START_UP, 0x10 + other as u8),
        16 => apic::TO_OTHERS | apic::ASSERT | vector,
        17 => apic::TO_ALL | apic::ASSERT | vector,
        18 => apic::command(other, apic::LOGICAL | dice.below(8) << 8, vector as u8),
        _ => apic::command(other, dice.below(8) << 8 & !apic::DELIVERY_INIT, vector as u8),
    };
    for _ in 0..dice.pick(&[1, 1, 2, 6]) {
        write_msr(s, dice, apic::ICR, value);
    }
}

fn memory(s: &mut Snippet<'_>, dice: &mut Dice) {
    let address = s.address(dice);
    s.set(B, address);
    match dice.below(10) {
        0..3 => s.at_b(dice, &[0x8b], A),
        3..5 => s.at_b(dice, &[0x89], A),
        5 => s.at_b(dice, &[0x8a], A),
        6 => s.at_b(dice, &[0xf0, 0x0f, 0xb1], A),
        7 => s.at_b(dice, &[0x48, 0x0f, 0xc7], 1),
        8 => s.at_b(dice, &[0x0f, 0x10], 0),
        _ => {
            s.set(DI, address);
            s.set(SI, address ^ 0x800);
            let count = dice.below(200);
            s.set(C, count);
            let opcode = dice.pick(&[0xa4, 0xaa, 0xab, 0xac, 0xa6]);
            s.op(dice, &[0xf3, opcode]);
        }
    }
}

/// Changes an entry of the window's page table, and touches its page.
fn page_table(s: &mut Snippet<'_>, dice: &mut Dice) {
    let entry = dice.below(32);
    let value = super::tables::random_entry(dice, s.block);
    s.set(B, s.block.page_tables() + 0x5000 + entry * 8);
    if s.mode.bits == 64 {
        s.set(A, value);
        s.at_b(dice, &[0x48, 0x89], A);
    } else {
        s.set(A, value & 0xffff_ffff);
        s.at_b(dice, &[0x89], A);
    }
    s.set(B, WINDOW + entry * 0x1000 + dice.below(0x1000));
    if dice.chance(700) {
        s.at_b(dice, &[0x0f, 0x01], 7);
    }
    let opcode = dice.pick(&[0x8b, 0x89, 0x8a]);
    s.at_b(dice, &[opcode], A);
    if dice.chance(200) {
        s.op(dice, &[0xff, 0xe3]);
    }
}

fn random_bytes(s: &mut Snippet<'_>, dice: &mut Dice) {
    for _ in 0..dice.between(2, 40) {
        let byte = dice.byte();
        s.raw(&[byte]);
    }
}

/// Random bytes that are mostly system instructions.
fn system_bytes(s: &mut Snippet<'_>, dice: &mut Dice) {
    for _ in 0..dice.between(1, 8) {
        let second = dice.pick(&[
            0x00, 0x01, 0x01, 0x01, 0x05, 0x06, 0x07, 0x08, 0x09, 0x20, 0x21, 0x22, 0x23, 0x30, 0x31, 0x32, 0x33, 0x34,
            0x35, 0x37, 0x38, 0x78, 0x79, 0xa2, 0xaa, 0xae, 0xc7, 0xb2, 0xb4, 0xb5, 0xa0, 0xa1,
        ]);
        let third = dice.byte();
        s.op(dice, &[0x0f, second, third]);
    }
}

/// Writes an instruction over the next one.
fn self_modifying(s: &mut Snippet<'_>, dice: &mut Dice) {
    let bytes = dice.pick(&[
        [0x0f, 0xa2],
        [0x0f, 0x32],
        [0xec, 0x90],
        [0x0f, 0x08],
        [0xf3, 0x90],
        [0x0f, 0x0b],
        [0xcd, 0x21],
        [0x0f, 0x31],
    ]);
    if s.mode.bits == 64 {
        // MOV WORD [RIP + 2], bytes
        s.raw(&[0x66, 0xc7, 0x05, 0x02, 0x00, 0x00, 0x00, bytes[0], bytes[1], 0x90, 0x90]);
        s.op(dice, &[0x90, 0x90]);
    } else {
        s.raw(&bytes);
    }
}

/// MOV to and from segment registers, POP of FS and GS, base instructions.
fn selectors(s: &mut Snippet<'_>, dice: &mut Dice) {
    let selector = dice.pick(&[
        0, 8, 0x10, 0x23, 0x2b, 0x1b, 0x30, 0x38, 0x43, 0x48, 0x58, 0x68, 0x78, 0x80, 0x88, 0x90, 0x98, 0xa0, 4, 0xc,
        0xfff8,
    ]);
    s.set(A, selector);
    let digit = dice.pick(&[0xd8, 0xc0, 0xe0, 0xe8, 0xd0]);
    s.op(dice, &[0x8e, digit]);
    if s.mode.bits == 64 && dice.chance(300) {
        s.set_any(A, dice);
        let digit = 0xc0 | (dice.below(4) as u8) << 3;
        s.op(dice, &[0xf3, 0x48, 0x0f, 0xae, digit]);
        s.op(dice, &[0x0f, 0x01, 0xf8]);
        s.op(dice, &[0x0f, 0x01, 0xf8]);
    }
    if dice.chance(500) {
        let bytes: &[u8] = dice.pick(&[&[0x64, 0x8b, 0x03], &[0x65, 0x8b, 0x03], &[0x8b, 0x03]]);
        s.op(dice, bytes);
    }
}

/// Far returns and IRET to selectors and addresses of any kind.
fn far(s: &mut Snippet<'_>, dice: &mut Dice) {
    let selector = dice.pick(&[8, 0x1b, 0x2b, 0x30, 0x38, 0x43, 0x48, 0x68, 0x78, 0x80, 0x90, 0xa0, 0]);
    let address = if dice.chance(700) { s.block.code() + dice.below(0x2000) } else { dice.value(s.block) };
    if dice.chance(500) {
        s.set(A, 0x23);
        s.raw(&[0x50]);
        s.set(A, s.block.user_stack());
        s.raw(&[0x50]);
        let flags = 2 | dice.below(1 << 18);
        s.set(A, flags);
        s.raw(&[0x50]);
    }
    s.set(A, selector);
    s.raw(&[0x50]);
    s.set(A, address);
    s.raw(&[0x50]);
    let bytes: &[u8] =
        dice.pick(&[&[0xcb], &[0x48, 0xcb], &[0xcf], &[0x48, 0xcf], &[0xff, 0x2c, 0x24], &[0xff, 0x1c, 0x24]]);
    s.op(dice, bytes);
}

/// SYSCALL, SYSENTER, SYSRET, SYSEXIT.
fn system_call(s: &mut Snippet<'_>, dice: &mut Dice) {
    let address = s.block.frame(NEXT);
    s.set(C, address);
    s.set(D, address);
    let bytes: &[u8] =
        dice.pick(&[&[0x0f, 0x05], &[0x0f, 0x05], &[0x0f, 0x34], &[0x0f, 0x07], &[0x48, 0x0f, 0x07], &[0x0f, 0x35]]);
    s.op(dice, bytes);
}

/// FXSAVE, FXRSTOR, XSAVE, XRSTOR, LDMXCSR, EMMS and their like, at any address.
fn vector_state(s: &mut Snippet<'_>, dice: &mut Dice) {
    let address = s.address(dice);
    s.set(B, address);
    s.set_wide(7);
    if dice.chance(300) {
        let digit = dice.pick(&[3, 4, 5]);
        s.at_b(dice, &[0x0f, 0xc7], digit);
    } else {
        let digit = dice.below(8) as u8;
        s.at_b(dice, &[0x0f, 0xae], digit);
    }
}

/// A jump to anywhere.
fn jump(s: &mut Snippet<'_>, dice: &mut Dice) {
    let address = if dice.chance(600) { s.block.code() + dice.below(0x3000) } else { s.address(dice) };
    s.set(A, address);
    s.op(dice, &[0xff, 0xe0]);
}

/// Writes into the descriptor tables or the task-state segment.
fn descriptor(s: &mut Snippet<'_>, dice: &mut Dice) {
    let at = dice.pick(&[s.block.tables() + 0x78, s.block.tss() + 0x24, s.block.ldt(), s.block.idt() + 0x20 * 16]);
    s.set(B, at + dice.below(16) * 8);
    s.set_any(A, dice);
    s.at_b(dice, &[0x89], A);
}
