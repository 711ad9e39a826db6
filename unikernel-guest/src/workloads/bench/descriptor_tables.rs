//! Descriptor-table registers.
#![expect(unsafe_code, reason = "executes what it times")]

use tollgate_abi::exit_reason::ExitReason as R;

use super::timed::timed;
use crate::books::intercepts::book_if_enabled;
use crate::runtime::segments::{TASK, gdt_pointer, release_task};
use crate::runtime::traps::idt_pointer;

pub(super) fn sgdt() -> u32 {
    let mut table = [0u16; 5];
    book_if_enabled(R::GDTR_IDTR_ACCESS, 1);
    timed!("sgdt [{table}]", table = in(reg) table.as_mut_ptr())
}

pub(super) fn sidt() -> u32 {
    let mut table = [0u16; 5];
    book_if_enabled(R::GDTR_IDTR_ACCESS, 1);
    timed!("sidt [{table}]", table = in(reg) table.as_mut_ptr())
}

// Loads the table that is loaded already.
pub(super) fn lgdt() -> u32 {
    let table = gdt_pointer();
    book_if_enabled(R::GDTR_IDTR_ACCESS, 1);
    timed!("lgdt [{table}]", table = in(reg) &raw const table)
}

// Loads the table that is loaded already.
pub(super) fn lidt() -> u32 {
    let table = idt_pointer();
    book_if_enabled(R::GDTR_IDTR_ACCESS, 1);
    timed!("lidt [{table}]", table = in(reg) &raw const table)
}

pub(super) fn sldt() -> u32 {
    book_if_enabled(R::LDTR_TR_ACCESS, 1);
    timed!("sldt rax")
}

pub(super) fn str() -> u32 {
    book_if_enabled(R::LDTR_TR_ACCESS, 1);
    timed!("str rax")
}

// No selector in use refers to the LDT.
pub(super) fn lldt() -> u32 {
    book_if_enabled(R::LDTR_TR_ACCESS, 1);
    timed!("lldt {null:x}", null = in(reg) 0u64)
}

// Loads the task-state segment that is loaded already, marked available before.
pub(super) fn ltr() -> u32 {
    release_task();
    book_if_enabled(R::LDTR_TR_ACCESS, 1);
    timed!("ltr {task:x}", task = in(reg) u64::from(TASK.0))
}
