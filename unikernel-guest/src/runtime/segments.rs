//! The GDT and the TSS (SDM 3A 3.4.5, 8.7): flat 64-bit segments, a 32-bit code segment for the workload that leaves
//! long mode, a segment that is not present, segments of ring 3, and stacks for exceptions. Each vCPU has its own.
#![expect(unsafe_code, reason = "loads segment registers")]

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, DescriptorFlags, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;
use x86_64::{PrivilegeLevel, VirtAddr};

use crate::books::cpu;
use crate::ops::descriptor_tables::{lgdt, ltr};

const fn selector(index: u16) -> SegmentSelector {
    SegmentSelector::new(index, PrivilegeLevel::Ring0)
}

/// 64-bit code.
pub(crate) const CODE: SegmentSelector = selector(1);
/// Data.
pub(crate) const DATA: SegmentSelector = selector(2);
/// 32-bit code, that is, compatibility mode.
pub(crate) const CODE32: SegmentSelector = selector(3);
/// The TSS, whose descriptor takes two entries.
pub(crate) const TASK: SegmentSelector = selector(4);
/// Data that is not present, for #NP.
pub(crate) const ABSENT: SegmentSelector = selector(6);
/// Data of ring 3.
pub(crate) const USER_DATA: SegmentSelector = SegmentSelector::new(7, PrivilegeLevel::Ring3);
/// 64-bit code of ring 3.
pub(crate) const USER_CODE: SegmentSelector = SegmentSelector::new(8, PrivilegeLevel::Ring3);

const ENTRIES: usize = 9;
const TASK_INDEX: usize = 4;

/// Bit 41 of a TSS descriptor: busy. LTR sets it, and refuses a TSS that has it.
const BUSY: u64 = 1 << 41;

/// IST of every vector but #DF.
pub(crate) const TRAP_IST: u8 = 1;
/// IST of #DF, which may come because the other stack is unusable.
pub(crate) const DOUBLE_FAULT_IST: u8 = 2;

const TRAP_STACK_BYTES: usize = 16 << 10;

/// Stacks for the two ISTs.
#[repr(align(16))]
pub(crate) struct TrapStacks(UnsafeCell<[[u8; TRAP_STACK_BYTES]; 2]>);

// SAFETY: only the processor refers to them, when it delivers an exception.
unsafe impl Sync for TrapStacks {}

/// The tables of one vCPU, all zero until [`load`] fills them, so that the image does not hold them.
pub(crate) struct Tables {
    gdt: [AtomicU64; ENTRIES],
    tss: UnsafeCell<MaybeUninit<TaskStateSegment>>,
}

// SAFETY: the TSS is written once, by `load`, on the vCPU that it belongs to, and then read by the processor alone.
unsafe impl Sync for Tables {}

/// The tables of vCPU 0; the others have theirs from the heap.
pub(super) static FIRST: (Tables, TrapStacks) = (
    Tables { gdt: [const { AtomicU64::new(0) }; ENTRIES], tss: UnsafeCell::new(MaybeUninit::zeroed()) },
    TrapStacks(UnsafeCell::new([[0; TRAP_STACK_BYTES]; 2])),
);

/// The first state of every GDT: nothing, 64-bit code, data, 32-bit code, room for the TSS, data that is not present, and data and
/// 64-bit code of ring 3.
const DESCRIPTORS: [u64; ENTRIES] = [
    0,
    DescriptorFlags::KERNEL_CODE64.bits(),
    DescriptorFlags::KERNEL_DATA.bits(),
    DescriptorFlags::KERNEL_CODE32.bits(),
    0,
    0,
    DescriptorFlags::KERNEL_DATA.difference(DescriptorFlags::PRESENT).bits(),
    DescriptorFlags::USER_DATA.bits(),
    DescriptorFlags::USER_CODE64.bits(),
];

/// The tables of this vCPU.
fn tables() -> &'static Tables {
    // SAFETY: `load` set it, to a reference that lives for ever.
    unsafe { &*cpu::this().tables.load(Relaxed).cast::<Tables>() }
}

/// The operand of LGDT.
pub(crate) fn gdt_pointer() -> DescriptorTablePointer {
    let gdt = &tables().gdt;
    DescriptorTablePointer { limit: size_of_val(gdt) as u16 - 1, base: VirtAddr::from_ptr(gdt) }
}

/// Makes the TSS loadable again.
pub(crate) fn release_task() {
    let descriptor = &tables().gdt[TASK_INDEX];
    descriptor.store(descriptor.load(Relaxed) & !BUSY, Relaxed);
}

/// Fills this vCPU's tables and loads every segment register but GS, whose base is the vCPU's place.
pub(crate) fn load((tables, stacks): &'static (Tables, TrapStacks)) {
    cpu::this().tables.store(core::ptr::from_ref(tables).cast_mut().cast(), Relaxed);
    for (entry, descriptor) in tables.gdt.iter().zip(DESCRIPTORS) {
        entry.store(descriptor, Relaxed);
    }
    let mut tss = TaskStateSegment::new();
    let bottom = VirtAddr::from_ptr(stacks.0.get());
    for ist in [TRAP_IST, DOUBLE_FAULT_IST] {
        tss.interrupt_stack_table[usize::from(ist) - 1] = bottom + u64::from(ist) * TRAP_STACK_BYTES as u64;
    }
    let task = tables.tss.get().cast::<TaskStateSegment>();
    // SAFETY: nobody else refers to the TSS before it is loaded.
    unsafe { task.write(tss) };
    // SAFETY: the tables live for ever, so the descriptor stays true.
    if let Descriptor::SystemSegment(low, high) = unsafe { Descriptor::tss_segment_unchecked(task) } {
        tables.gdt[TASK_INDEX].store(low, Relaxed);
        tables.gdt[TASK_INDEX + 1].store(high, Relaxed);
    }
    // SAFETY: the GDT lives for ever, with flat code and data segments at these selectors and an available TSS, and the
    // code that runs is 64-bit code wherever it is.
    unsafe {
        lgdt(&gdt_pointer());
        CS::set_reg(CODE);
        SS::set_reg(DATA);
        DS::set_reg(DATA);
        ES::set_reg(DATA);
        ltr(TASK.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_selector_names_its_segment() {
        /// Code, as the type field says; 64-bit code; not 32 bits wide.
        const CODE_TYPE: u64 = 1 << 43;
        const LONG: u64 = 1 << 53;
        const PRESENT: u64 = 1 << 47;
        let of = |selector: SegmentSelector| DESCRIPTORS[usize::from(selector.index())];
        let all = [CODE, DATA, CODE32, ABSENT, USER_DATA, USER_CODE].map(of);
        assert_eq!(all.map(|descriptor| descriptor & CODE_TYPE != 0), [true, false, true, false, false, true]);
        assert_eq!(all.map(|descriptor| descriptor & LONG != 0), [true, false, false, false, false, true]);
        assert_eq!(all.map(|descriptor| descriptor & PRESENT != 0), [true, true, true, false, true, true]);
        // DPL is what the selector asks for.
        for selector in [CODE, DATA, CODE32, ABSENT, USER_DATA, USER_CODE] {
            assert_eq!(of(selector) >> 45 & 3, selector.rpl() as u64, "{selector:?}");
        }
        assert_eq!((DESCRIPTORS[0], usize::from(TASK.index()), of(TASK)), (0, TASK_INDEX, 0), "the TSS comes later");
    }
}
