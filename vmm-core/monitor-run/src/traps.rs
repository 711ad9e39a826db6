//! GDT, TSS and IDT of the monitor. It takes no interrupts, and any exception in it is a defect: reported, and the end.
#![expect(unsafe_code, reason = "loads descriptor tables and handles traps")]

use alloc::boxed::Box;
use core::arch::naked_asm;

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

use vmm_core::vmx::host_state::HostState;

/// Bytes of a stack on which traps are handled, whatever state the other stacks are in.
const TRAP_STACK_BYTES: usize = 16 * 1024;
/// An NMI has a stack of its own, so that one during a fault's report does not overwrite it.
const FAULT_STACK: u16 = 0;
const NMI_STACK: u16 = 1;

/// What the processor pushes, without an error code.
#[repr(C)]
struct TrapFrame {
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
}

/// Loads the tables; they stay for ever.
pub(crate) fn install() -> HostState {
    let tss = Box::leak(Box::new(TaskStateSegment::new()));
    for index in [FAULT_STACK, NMI_STACK] {
        let end = Box::leak(Box::new([0u8; TRAP_STACK_BYTES])).as_ptr_range().end;
        tss.interrupt_stack_table[usize::from(index)] = VirtAddr::from_ptr(end).align_down(16u64);
    }
    let tss: &'static TaskStateSegment = tss;
    let gdt = Box::leak(Box::new(GlobalDescriptorTable::new()));
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    let tss_selector = gdt.append(Descriptor::tss_segment(tss));
    let gdt: &'static GlobalDescriptorTable = gdt;
    gdt.load();
    // SAFETY: the selectors are those that the table just loaded gave out.
    unsafe {
        CS::set_reg(code);
        SS::set_reg(data);
        DS::set_reg(data);
        ES::set_reg(data);
        load_tss(tss_selector);
    }
    let idt = Box::leak(Box::new(InterruptDescriptorTable::new()));
    fill(idt);
    let idt: &'static InterruptDescriptorTable = idt;
    idt.load();
    HostState { tss_selector: tss_selector.0, tss_base: core::ptr::from_ref(tss) as u64 }
}

macro_rules! handlers {
    ($idt:ident, $($vector:literal $field:ident),*) => {
        $(
            // SAFETY: the stub takes the trap on its own stack and never returns; its frame is this vector's.
            unsafe { $idt.$field.set_handler_addr(VirtAddr::new(trap::<$vector> as *const () as u64)).set_stack_index(FAULT_STACK) };
        )*
    };
}

fn fill(idt: &mut InterruptDescriptorTable) {
    handlers!(
        idt, 0 divide_error, 1 debug, 3 breakpoint, 4 overflow, 5 bound_range_exceeded, 6 invalid_opcode,
        7 device_not_available, 8 double_fault, 10 invalid_tss, 11 segment_not_present, 12 stack_segment_fault,
        13 general_protection_fault, 14 page_fault, 16 x87_floating_point, 17 alignment_check, 18 machine_check,
        19 simd_floating_point
    );
    // SAFETY: the stub returns with everything as it was.
    unsafe {
        idt.non_maskable_interrupt
            .set_handler_addr(VirtAddr::new(ignore as *const () as u64))
            .set_stack_index(NMI_STACK)
    };
}

/// An NMI while the monitor runs is the platform's business.
#[unsafe(naked)]
unsafe extern "C" fn ignore() {
    naked_asm!("iretq")
}

/// Hands vector, frame and CR2 to [`fatal`]. The exceptions 8, 10 to 14 and 17 push an error code below the frame.
#[unsafe(naked)]
unsafe extern "C" fn trap<const VECTOR: u64>() {
    naked_asm!(
        "mov edi, {vector}",
        ".if {has_error_code}",
        "pop rdx",
        ".else",
        "xor edx, edx",
        ".endif",
        "mov rsi, rsp",
        "mov rcx, cr2",
        "and rsp, -16",
        "call {fatal}",
        "ud2",
        vector = const VECTOR,
        has_error_code = const has_error_code(VECTOR) as u64,
        fatal = sym fatal,
    )
}

const fn has_error_code(vector: u64) -> bool {
    matches!(vector, 8 | 10..=14 | 17)
}

extern "C" fn fatal(vector: u64, frame: &TrapFrame, error_code: u64, cr2: u64) -> ! {
    let TrapFrame { rip, cs, rflags, rsp } = *frame;
    crate::fault(format_args!(
        "the monitor took exception {vector} (error code {error_code:#x}) at {cs:#x}:{rip:#x}, RSP {rsp:#x}, RFLAGS {rflags:#x}, CR2 {cr2:#x}"
    ))
}
