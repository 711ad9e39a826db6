//! The GDT and the TSS (SDM 3A 3.4.5, 8.7): flat 64-bit segments, a 32-bit code segment for the workload that leaves
//! long mode, and stacks for exceptions.
#![expect(unsafe_code, reason = "loads segment registers")]

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;
use x86_64::{PrivilegeLevel, VirtAddr};

use super::one_cpu::OneCpu;
use crate::ops::descriptor_tables::{lgdt, ltr};

const fn selector(index: u16) -> SegmentSelector {
    SegmentSelector::new(index, PrivilegeLevel::Ring0)
}

/// 64-bit code.
pub(crate) const CODE: SegmentSelector = selector(1);
const DATA: SegmentSelector = selector(2);
/// 32-bit code, that is, compatibility mode.
pub(crate) const CODE32: SegmentSelector = selector(3);
/// The TSS, whose descriptor takes two entries.
pub(crate) const TASK: SegmentSelector = selector(4);

const ENTRIES: usize = 6;
const TASK_INDEX: usize = 4;

/// Bit 41 of a TSS descriptor: busy. LTR sets it, and refuses a TSS that has it.
const BUSY: u64 = 1 << 41;

static GDT: [AtomicU64; ENTRIES] = [
    AtomicU64::new(0),
    AtomicU64::new(0x00af_9b00_0000_ffff),
    AtomicU64::new(0x00cf_9300_0000_ffff),
    AtomicU64::new(0x00cf_9b00_0000_ffff),
    AtomicU64::new(0),
    AtomicU64::new(0),
];

static TSS: OneCpu<TaskStateSegment> = OneCpu::new(TaskStateSegment::new());

/// IST of every vector but #DF.
pub(crate) const TRAP_IST: u8 = 1;
/// IST of #DF, which may come because the other stack is unusable.
pub(crate) const DOUBLE_FAULT_IST: u8 = 2;

const TRAP_STACK_BYTES: usize = 16 << 10;

#[repr(align(16))]
struct TrapStack(UnsafeCell<[u8; TRAP_STACK_BYTES]>);

// SAFETY: only the processor refers to it, when it delivers an exception.
unsafe impl Sync for TrapStack {}

static TRAP_STACKS: [TrapStack; 2] = [const { TrapStack(UnsafeCell::new([0; TRAP_STACK_BYTES])) }; 2];

/// What LGDT takes.
pub(crate) fn gdt_pointer() -> DescriptorTablePointer {
    DescriptorTablePointer { limit: size_of_val(&GDT) as u16 - 1, base: VirtAddr::from_ptr(&GDT) }
}

/// Makes the TSS loadable again.
pub(crate) fn release_task() {
    GDT[TASK_INDEX].store(GDT[TASK_INDEX].load(Relaxed) & !BUSY, Relaxed);
}

/// Fills the tables and loads every segment register.
pub(crate) fn load() {
    for (ist, stack) in [TRAP_IST, DOUBLE_FAULT_IST].into_iter().zip(&TRAP_STACKS) {
        let top = VirtAddr::from_ptr(stack.0.get()) + TRAP_STACK_BYTES as u64;
        TSS.borrow().interrupt_stack_table[usize::from(ist) - 1] = top;
    }
    // SAFETY: TSS is a static, so the descriptor stays true.
    if let Descriptor::SystemSegment(low, high) = unsafe { Descriptor::tss_segment_unchecked(TSS.as_ptr()) } {
        GDT[TASK_INDEX].store(low, Relaxed);
        GDT[TASK_INDEX + 1].store(high, Relaxed);
    }
    // SAFETY: the GDT is a static with flat code and data segments at these selectors and an available TSS, and the
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
