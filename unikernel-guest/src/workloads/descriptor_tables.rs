//! SGDT, SIDT, LGDT, LIDT, SLDT, STR, LLDT, LTR.
#![expect(unsafe_code, reason = "loads descriptor-table registers")]

use x86_64::structures::DescriptorTablePointer;

use super::expect::ensure;
use super::{Outcome, Run};
use crate::ops::descriptor_tables::{lgdt, lidt, lldt_null, ltr, sgdt, sidt, sldt, str};
use crate::runtime::segments::{TASK, gdt_pointer, release_task};
use crate::runtime::traps::idt_pointer;

fn parts(pointer: &DescriptorTablePointer) -> (u16, u64) {
    (pointer.limit, pointer.base.as_u64())
}

pub(super) fn descriptor_tables(run: &Run) -> Outcome {
    let (gdt, idt) = (gdt_pointer(), idt_pointer());
    for _ in 0..run.iterations {
        let (stored_gdt, stored_idt) = (parts(&sgdt()), parts(&sidt()));
        ensure!(stored_gdt == parts(&gdt), "SGDT stored {stored_gdt:x?}, and {:x?} was loaded", parts(&gdt));
        ensure!(stored_idt == parts(&idt), "SIDT stored {stored_idt:x?}, and {:x?} was loaded", parts(&idt));
        // SAFETY: these are the tables in use.
        unsafe {
            lgdt(&gdt);
            lidt(&idt);
        }
        let (ldt, task) = (sldt(), str());
        ensure!(ldt == 0, "SLDT stored {ldt:#x}, and no LDT was loaded");
        ensure!(task == TASK.0.into(), "STR stored {task:#x}, and {:#x} was loaded", TASK.0);
        lldt_null();
        release_task();
        // SAFETY: the TSS in use, just marked available.
        unsafe { ltr(TASK.0) };
    }
    Ok(())
}
