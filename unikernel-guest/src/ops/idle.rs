//! PAUSE and HLT.
#![expect(unsafe_code, reason = "executes PAUSE and HLT, switches interrupts on and off")]

use core::arch::asm;

use tollgate_abi::exit_reason::ExitReason;

use crate::books::intercepts::{book_if_enabled, enabled, facts};

/// PAUSE.
pub(crate) fn pause() {
    pause_times(1);
}

/// PAUSE, `times` times. If the first behind an entry makes no exit, each is two PAUSEs, of which the second exits.
pub(crate) fn pause_times(times: u64) {
    book_if_enabled(ExitReason::PAUSE, times);
    let times = if facts().first_pause_runs { 2 * times } else { times };
    // SAFETY: PAUSE changes nothing.
    unsafe {
        asm!("2:", "pause", "dec {times}", "jnz 2b", times = inout(reg) times => _, options(nomem, nostack));
    }
}

/// HLT with interrupts enabled, until one comes. STI takes effect behind HLT, so an interrupt that is already pending
/// does not come before it.
pub(crate) fn hlt_until_interrupt() {
    book_if_enabled(ExitReason::HLT, 1);
    hlt_until_booked_interrupt();
}

/// HLT with interrupts enabled, until one comes, where the exit has been booked already.
pub(crate) fn hlt_until_booked_interrupt() {
    // SAFETY: the IDT has an entry for every interrupt that the guest arms. Not `nomem`: the handler counts in memory.
    unsafe { asm!("sti", "hlt", "cli") };
}

/// HLT with interrupts disabled. The caller has booked the exit, after which this vCPU does not run again.
pub(crate) fn hlt_for_ever() -> ! {
    loop {
        // SAFETY: nothing wakes the vCPU, as intended.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Enables interrupts for as many instructions as a pending one needs to come, and disables them again.
pub(crate) fn let_interrupts_in() {
    // SAFETY: the IDT has an entry for every interrupt. Not `nomem`: handlers count in memory.
    unsafe { asm!("sti", "nop", "nop", "cli") };
}

/// Enables interrupts.
pub(crate) fn enable_interrupts() {
    // SAFETY: the IDT has an entry for every interrupt. Not `nomem`: handlers count in memory.
    unsafe { asm!("sti", "nop") };
}

/// Disables interrupts.
pub(crate) fn disable_interrupts() {
    // SAFETY: they stay pending.
    unsafe { asm!("cli") };
}

/// Lets another processor go first, by PAUSE unless that exits now. Where QEMU counts instructions, a processor's turn ends only
/// by PAUSE, by HLT, or after 100 million ticks.
pub(crate) fn give_way() {
    if !enabled(ExitReason::PAUSE) {
        core::hint::spin_loop();
    }
}

/// True if the condition came true within so many looks.
pub(crate) fn looked_for(looks: u32, is_true: impl Fn() -> bool) -> bool {
    (0..looks).any(|_| {
        give_way();
        is_true()
    })
}
