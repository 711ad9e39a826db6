//! GDT, TSS and IDT of the monitor. Any exception in it is a defect: reported, and the end. It takes interrupts only where it
//! asks for the one that made an exit, as under SVM, where an exit does not acknowledge it.
#![expect(unsafe_code, reason = "loads descriptor tables and handles traps")]

use alloc::boxed::Box;
use core::arch::naked_asm;

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

use tollgate_abi::virtualization::Extension;
use vmm_core::svm::gates;
use vmm_core::vmx::host_state::HostState;

use crate::fault::fault;
use crate::processor::virtualization;

/// Bytes of a stack on which traps are handled, whatever state the other stacks are in.
const TRAP_STACK_BYTES: usize = 16 * 1024;
/// An NMI has a stack of its own, so that one during a fault's report does not overwrite it.
const FAULT_STACK: u16 = 0;
const NMI_STACK: u16 = 1;

/// The words that the processor pushes, without an error code.
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
    // Under SVM, TR is a guest's after an exit, and no stack of its TSS may be taken.
    fill(idt, virtualization() != Some(Extension::Svm));
    let idt: &'static InterruptDescriptorTable = idt;
    idt.load();
    HostState { tss_selector: tss_selector.0, tss_base: core::ptr::from_ref(tss) as u64 }
}

macro_rules! handlers {
    ($idt:ident, $stacks:ident, $($vector:literal $field:ident),*) => {
        $(
            // SAFETY: the stub takes the trap on its own stack, or on any, and never returns; its frame is this vector's.
            let options = unsafe { $idt.$field.set_handler_addr(VirtAddr::new(trap::<$vector> as *const () as u64)) };
            if $stacks {
                // SAFETY: the TSS has that stack.
                unsafe { options.set_stack_index(FAULT_STACK) };
            }
        )*
    };
}

fn fill(idt: &mut InterruptDescriptorTable, stacks: bool) {
    handlers!(
        idt, stacks, 0 divide_error, 1 debug, 3 breakpoint, 4 overflow, 5 bound_range_exceeded, 6 invalid_opcode,
        7 device_not_available, 8 double_fault, 10 invalid_tss, 11 segment_not_present, 12 stack_segment_fault,
        14 page_fault, 16 x87_floating_point, 17 alignment_check, 18 machine_check,
        19 simd_floating_point
    );
    // SAFETY: as for the others, but that it goes on where that is foreseen.
    let options =
        unsafe { idt.general_protection_fault.set_handler_addr(VirtAddr::new(general_protection as *const () as u64)) };
    if stacks {
        // SAFETY: the TSS has that stack.
        unsafe { options.set_stack_index(FAULT_STACK) };
    }
    // SAFETY: the stub returns with everything as it was.
    let nmi = unsafe { idt.non_maskable_interrupt.set_handler_addr(VirtAddr::new(ignore as *const () as u64)) };
    if stacks {
        // SAFETY: the TSS has that stack.
        unsafe { nmi.set_stack_index(NMI_STACK) };
    }
    if !stacks {
        // Under SVM, Bochs leaves the trap of a guest's single step over an instruction that exits pending: it arrives right behind
        // VMRUN. The guest has its own #DB by `Backend::advance`, and the monitor sets neither TF nor a breakpoint.
        // SAFETY: the stub returns with everything as it was.
        unsafe { idt.debug.set_handler_addr(VirtAddr::new(ignore as *const () as u64)) };
    }
    for vector in gates::FIRST..=u8::MAX {
        // SAFETY: the gate is what `SvmOperation::take_interrupt` expects; nobody else lets interrupts in.
        unsafe { idt[vector].set_handler_addr(VirtAddr::new(gates::address(vector))) };
    }
}

/// An NMI while the monitor runs is the platform's business, and a #DB a guest's.
#[unsafe(naked)]
unsafe extern "C" fn ignore() {
    naked_asm!("iretq")
}

/// RDMSR of a register that may not exist, which raises #GP then: `None`.
pub(crate) fn try_read_msr(msr: u32) -> Option<u64> {
    let (value, exists): (u64, u64);
    // SAFETY: reading an MSR changes nothing, and the handler of #GP goes on behind this one RDMSR. It is called rather than
    // written here, since its address has to be known.
    unsafe {
        core::arch::asm!("call {read}", read = sym read_msr, in("ecx") msr, out("rax") value, out("rdx") exists, options(nomem));
    }
    (exists != 0).then_some(value)
}

/// WRMSR of a value that the register may not take, or that may not exist, which raises #GP then: false.
///
/// # Safety
/// If the register takes the value, nothing of the monitor depends on it.
pub(crate) unsafe fn try_write_msr(msr: u32, value: u64) -> bool {
    let taken: u64;
    // SAFETY: the caller's contract, and as in `try_read_msr`.
    unsafe {
        core::arch::asm!("call tollgate_write_msr", in("ecx") msr, in("rax") value, inout("rdx") value >> 32 => taken);
    }
    taken != 0
}

/// Reads the MSR in ECX into RAX, with 1 in RDX; or leaves 0 in RDX. At `tollgate_write_msr` it writes EDX:EAX instead.
#[unsafe(naked)]
unsafe extern "C" fn read_msr() {
    naked_asm!(
        ".globl tollgate_may_fault",
        "tollgate_may_fault:",
        "rdmsr",
        "shl rdx, 32",
        "or rax, rdx",
        "mov edx, 1",
        "ret",
        ".globl tollgate_write_msr",
        "tollgate_write_msr:",
        "wrmsr",
        "mov edx, 1",
        "ret",
        ".globl tollgate_has_faulted",
        "tollgate_has_faulted:",
        "xor edx, edx",
        "ret",
    )
}

/// #GP: goes on at the end of [`read_msr`] if it came up in there, or is fatal. The frame is below an error code.
#[unsafe(naked)]
unsafe extern "C" fn general_protection() {
    naked_asm!(
        "push rax",
        "lea rax, [rip + tollgate_may_fault]",
        "cmp [rsp + 16], rax",
        "jb 2f",
        "lea rax, [rip + tollgate_has_faulted]",
        "cmp [rsp + 16], rax",
        "jae 2f",
        "mov [rsp + 16], rax",
        "pop rax",
        "add rsp, 8",
        "iretq",
        "2:",
        "pop rax",
        "jmp {fatal}",
        fatal = sym trap::<13>,
    )
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
    fault(format_args!(
        "the monitor took exception {vector} (error code {error_code:#x}) at {cs:#x}:{rip:#x}, RSP {rsp:#x}, RFLAGS {rflags:#x}, CR2 {cr2:#x}"
    ))
}
