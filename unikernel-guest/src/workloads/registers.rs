//! Control registers and debug registers.
#![expect(unsafe_code, reason = "writes control registers")]

use tollgate_abi::x86::control::{DR6_AT_RESET, DR7_FIXED};
use x86_64::registers::control::{Cr0Flags, Cr4Flags};

use super::expect::{ensure, fault, vector};
use super::{Outcome, Run};
use crate::books::recovery::Trap;
use crate::ops::control_registers::{
    read_cr0, read_cr3, read_cr4, read_cr8, set_and_clear_ts, toggle_mp_times, try_write_cr0, try_write_cr3,
    try_write_cr4, try_write_cr8, write_cr3, write_cr4, write_cr8,
};
use crate::ops::debug_registers::{read_dr0, read_dr3, read_dr6, read_dr7, write_dr0, write_dr3};

pub(super) fn cr0(run: &Run) -> Outcome {
    const MP: u64 = Cr0Flags::MONITOR_COPROCESSOR.bits();
    let before = read_cr0();
    toggle_mp_times(run.iterations);
    let expected = before ^ if run.iterations % 2 == 1 { MP } else { 0 };
    ensure!(read_cr0() == expected, "CR0 is {:#x}, not {expected:#x}", read_cr0());
    Ok(())
}

pub(super) fn control_registers(run: &Run) -> Outcome {
    const DE: u64 = Cr4Flags::DEBUGGING_EXTENSIONS.bits();
    for iteration in 0..run.iterations {
        let (cr0, cr4) = (read_cr0(), read_cr4());
        let cr3 = read_cr3();
        // SAFETY: CR3 has this value already.
        unsafe { write_cr3(cr3) };

        // SAFETY: DE only decides the meaning of DR4 and DR5, and nothing here uses those.
        unsafe { write_cr4(cr4 ^ DE) };
        ensure!(read_cr4() == cr4 ^ DE, "CR4 is {:#x} after a write of {:#x}", read_cr4(), cr4 ^ DE);
        // SAFETY: CR4 had this value before.
        unsafe { write_cr4(cr4) };

        let priority = iteration % 15 + 1;
        // SAFETY: interrupts are disabled; the priority only holds them back.
        unsafe { write_cr8(priority) };
        let read = read_cr8();
        ensure!(read == priority, "CR8 is {read:#x} after a write of {priority:#x}");
        // SAFETY: CR8 had this value before.
        unsafe { write_cr8(0) };
        let read = read_cr8();
        ensure!(read == 0, "CR8 is {read:#x} after a write of 0");

        set_and_clear_ts();
        ensure!(read_cr0() == cr0, "CR0 is {:#x} after LMSW and CLTS, and was {cr0:#x}", read_cr0());
    }
    Ok(())
}

pub(super) fn wild_control_registers(run: &Run) -> Outcome {
    type Try = unsafe fn(u64) -> Result<(), Trap>;
    for _ in 0..run.iterations {
        let (cr0, cr4) = (read_cr0(), read_cr4());
        // NW without CD, a bit above 31; bits above the physical-address width; a reserved bit, no PAE in long mode;
        // a priority above 15, a bit far above.
        let tries: [(&str, Try, u64); 8] = [
            ("MOV to CR0 of NW without CD", try_write_cr0, cr0 | Cr0Flags::NOT_WRITE_THROUGH.bits()),
            ("MOV to CR0 of bit 32", try_write_cr0, cr0 | 1 << 32),
            ("MOV to CR3 of bit 52", try_write_cr3, 1 << 52),
            ("MOV to CR3 of bit 60", try_write_cr3, 1 << 60),
            ("MOV to CR4 of bit 63", try_write_cr4, cr4 | 1 << 63),
            ("MOV to CR4 without PAE", try_write_cr4, cr4 & !Cr4Flags::PHYSICAL_ADDRESS_EXTENSION.bits()),
            ("MOV to CR8 of 16", try_write_cr8, 16),
            ("MOV to CR8 of bit 63", try_write_cr8, 1 << 63),
        ];
        for (what, try_write, value) in tries {
            // SAFETY: no processor accepts any of these values, so nothing changes.
            fault(what, unsafe { try_write(value) }, vector::GP, 0)?;
        }
        ensure!(
            (read_cr0(), read_cr4()) == (cr0, cr4),
            "CR0, CR4 are {:#x}, {:#x}, and were {cr0:#x}, {cr4:#x}",
            read_cr0(),
            read_cr4()
        );
    }
    Ok(())
}

pub(super) fn debug_registers(run: &Run) -> Outcome {
    for iteration in 0..run.iterations {
        let (first, fourth) = (0x1000 + iteration, 0x7fff_ffff_f000 - iteration);
        write_dr0(first);
        write_dr3(fourth);
        let read = (read_dr0(), read_dr3());
        ensure!(read == (first, fourth), "DR0, DR3 are {read:x?} after writes of {first:#x}, {fourth:#x}");
        let (dr6, dr7) = (read_dr6(), read_dr7());
        ensure!(dr6 & DR6_AT_RESET == DR6_AT_RESET && dr6 >> 32 == 0, "DR6 is {dr6:#x}");
        ensure!(dr7 == DR7_FIXED, "DR7 is {dr7:#x}, and nobody wrote it");
    }
    Ok(())
}
