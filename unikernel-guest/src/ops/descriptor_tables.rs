//! SGDT, SIDT, LGDT, LIDT, SLDT, STR, LLDT, LTR.
//!
//! The memory operands use different addressing forms, because the monitor has to decode them.
#![expect(unsafe_code, reason = "reads and writes descriptor-table registers")]

use core::arch::asm;

use tollgate_abi::exit_reason::ExitReason;
use x86_64::VirtAddr;
use x86_64::structures::DescriptorTablePointer;

use crate::books::intercepts::book_if_enabled;

const NOTHING: DescriptorTablePointer = DescriptorTablePointer { limit: 0, base: VirtAddr::zero() };

fn book_table() {
    book_if_enabled(ExitReason::GDTR_IDTR_ACCESS, 1);
}

fn book_selector() {
    book_if_enabled(ExitReason::LDTR_TR_ACCESS, 1);
}

/// SGDT, to a base with a displacement.
pub(crate) fn sgdt() -> DescriptorTablePointer {
    let mut pointer = NOTHING;
    book_table();
    // SAFETY: the operand is the ten bytes of `pointer`.
    unsafe {
        asm!("sgdt [{0} + 16]", in(reg) (&raw mut pointer).wrapping_byte_sub(16), options(nostack, preserves_flags))
    };
    pointer
}

/// SIDT, to a base with a scaled index.
pub(crate) fn sidt() -> DescriptorTablePointer {
    let mut pointer = NOTHING;
    book_table();
    // SAFETY: the operand is the ten bytes of `pointer`.
    unsafe {
        asm!(
            "sidt [{0} + {1} * 4 - 0x1000]",
            in(reg) (&raw mut pointer).wrapping_byte_add(0xf80),
            in(reg) 0x20u64,
            options(nostack, preserves_flags)
        );
    }
    pointer
}

/// LGDT.
///
/// # Safety
/// The table stays, and suits the selectors in use.
pub(crate) unsafe fn lgdt(table: &DescriptorTablePointer) {
    book_table();
    // SAFETY: by the caller, the table stays, and suits the selectors in use.
    unsafe { asm!("lgdt [{}]", in(reg) table, options(readonly, nostack, preserves_flags)) };
}

/// LIDT.
///
/// # Safety
/// The table stays, and its gates lead to handlers.
pub(crate) unsafe fn lidt(table: &DescriptorTablePointer) {
    book_table();
    // SAFETY: by the caller, the table stays, and its gates lead to handlers.
    unsafe { asm!("lidt [{}]", in(reg) table, options(readonly, nostack, preserves_flags)) };
}

/// SLDT, to memory.
pub(crate) fn sldt() -> u16 {
    let mut selector = u16::MAX;
    book_selector();
    // SAFETY: the operand is the two bytes of `selector`.
    unsafe { asm!("sldt word ptr [{}]", in(reg) &raw mut selector, options(nostack, preserves_flags)) };
    selector
}

/// STR, to a register, all 64 bits of it.
pub(crate) fn str() -> u64 {
    let mut selector = u64::MAX;
    book_selector();
    // SAFETY: only the operand is written.
    unsafe { asm!("str {}", inout(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector
}

/// LLDT of the null selector, which makes the LDT unusable.
pub(crate) fn lldt_null() {
    book_selector();
    // SAFETY: no selector in use refers to the LDT.
    unsafe { asm!("lldt {0:x}", in(reg) 0u16, options(nomem, nostack, preserves_flags)) };
}

/// LTR, from memory.
///
/// # Safety
/// The selector's descriptor is an available TSS that stays.
pub(crate) unsafe fn ltr(selector: u16) {
    book_selector();
    // SAFETY: by the caller, it is an available TSS that stays. Not `readonly`: the descriptor becomes busy.
    unsafe { asm!("ltr word ptr [{}]", in(reg) &raw const selector, options(nostack, preserves_flags)) };
}
