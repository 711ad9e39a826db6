//! Control and debug registers.
#![expect(unsafe_code, reason = "executes what it times")]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tollgate_abi::exit_reason::ExitReason as R;
use tollgate_abi::x86::control::{CR0_MP, CR0_TS, CR0_WP, CR4_DE, CR4_PGE, DR7_FIXED};

use super::timed::timed;
use crate::books::book::{book, book_times};
use crate::books::intercepts::book_if_enabled;
use crate::ops::control_registers::{read_cr0, read_cr3, read_cr4, reads_exit};

/// The value of CR3, read in a profile in which that does not exit.
static CR3: AtomicU64 = AtomicU64::new(0);

/// Notes the values that can't be read without an exit under the profile of the rows.
pub(super) fn set_up() {
    CR3.store(read_cr3(), Relaxed);
}

pub(super) fn mov_from_cr8() -> u32 {
    book_times(R::CR_ACCESS, reads_exit().into());
    timed!("mov rax, cr8")
}

// A priority of 0 holds nothing back.
pub(super) fn mov_to_cr8() -> u32 {
    book(R::CR_ACCESS);
    timed!("mov cr8, {zero}", zero = in(reg) 0u64)
}

// DR7 enables no breakpoint, as before.
pub(super) fn mov_to_dr() -> u32 {
    book_if_enabled(R::MOV_DR, 1);
    timed!("mov dr7, {quiet}", quiet = in(reg) DR7_FIXED)
}

pub(super) fn mov_from_dr() -> u32 {
    book_if_enabled(R::MOV_DR, 1);
    timed!("mov rax, dr7")
}

// Every page is writable, and WP is put back.
pub(super) fn toggle_cr0_wp() -> u32 {
    let cr0 = read_cr0();
    book_times(R::CR_ACCESS, 2);
    timed!("mov cr0, r9\n mov cr0, r10", in("r9") cr0 ^ CR0_WP, in("r10") cr0)
}

// Global pages are not used.
pub(super) fn toggle_cr4_pge() -> u32 {
    let cr4 = read_cr4();
    book_times(R::CR_ACCESS, 2);
    timed!("mov cr4, {other}\n mov cr4, {cr4}", other = in(reg) cr4 ^ CR4_PGE, cr4 = in(reg) cr4)
}

// MP matters only to WAIT while TS is set.
pub(super) fn mov_to_cr0() -> u32 {
    book(R::CR_ACCESS);
    timed!("mov cr0, r9", in("r9") read_cr0() ^ CR0_MP)
}

// DE matters only to MOVs of DR4 and DR5, of which there are none.
pub(super) fn mov_to_cr4() -> u32 {
    book(R::CR_ACCESS);
    timed!("mov cr4, {other}", other = in(reg) read_cr4() ^ CR4_DE)
}

pub(super) fn mov_from_cr3() -> u32 {
    book_times(R::CR_ACCESS, reads_exit().into());
    timed!("mov rax, cr3")
}

// CR3 has this value already.
pub(super) fn mov_to_cr3() -> u32 {
    book(R::CR_ACCESS);
    timed!("mov cr3, {cr3}", cr3 = in(reg) CR3.load(Relaxed))
}

// TS is clear again before anything could need SSE.
pub(super) fn lmsw_clts() -> u32 {
    book_times(R::CR_ACCESS, 2);
    timed!("lmsw {ts:x}\n clts", ts = in(reg) read_cr0() | CR0_TS)
}
