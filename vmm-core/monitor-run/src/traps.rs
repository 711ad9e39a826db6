//! GDT, TSS and IDT of the monitor. Any exception in the monitor is a defect, which is reported and ends the run. The monitor
//! takes interrupts only where it asks for the one that made an exit, as under SVM, where an exit does not acknowledge it.
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
use tollgate_abi::x86::exception as vector;
use tollgate_abi::x86::msr::{IA32_BIOS_SIGN_ID, IA32_MCG_STATUS, MCG_IN_PROGRESS};
use vmm_core::svm::gates::{self, Exception};
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

/// Sets the entries of exceptions, each to a function that is generic over its vector.
macro_rules! handlers {
    ($set:ident, $handler:ident: $($vector:literal)*) => {
        $($set($vector, $handler!($vector), FAULT_STACK);)*
    };
}

/// The handler of an exception that ends the monitor.
macro_rules! fatal_handler {
    ($vector:literal) => {
        <Trap<$vector> as Exception>::handle as *const ()
    };
}

/// The handler of an exception whose vector an interrupt may have.
macro_rules! shared_handler {
    ($vector:literal) => {
        gates::shared::<Trap<$vector>> as *const ()
    };
}

/// Fills the table; where there are `stacks`, exceptions and NMIs have their own.
fn fill(idt: &mut InterruptDescriptorTable, stacks: bool) {
    let entries = gates::entries(idt);
    let mut set = |vector: u8, handler: *const (), stack: u16| {
        // SAFETY: each is a handler of this very vector, which takes the trap on its own stack, or on any. The handlers of
        // exceptions never return, or go on as is foreseen; the others return with everything as it was.
        let options = unsafe { entries[usize::from(vector)].set_handler_addr(VirtAddr::from_ptr(handler)) };
        if stacks {
            // SAFETY: the TSS has that stack.
            unsafe { options.set_stack_index(stack) };
        }
    };
    handlers!(set, fatal_handler: 0 1 3 4 5 6 7 8 10 11 12 14);
    handlers!(set, shared_handler: 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
    set(vector::MC, machine_check as *const (), FAULT_STACK);
    set(vector::GP, general_protection as *const (), FAULT_STACK);
    set(vector::NMI, ignore as *const (), NMI_STACK);
    if !stacks {
        // Under SVM, Bochs leaves the trap of a guest's single step over an instruction that exits pending: it arrives right behind
        // VMRUN. The guest has its own #DB by `Backend::advance`, and the monitor sets neither TF nor a breakpoint.
        set(vector::DB, ignore as *const (), FAULT_STACK);
    }
    for vector in gates::FIRST..=u8::MAX {
        // The gate is as `SvmOperation::take_interrupt` expects it; nobody else lets interrupts in.
        set(vector, gates::address(vector) as *const (), FAULT_STACK);
    }
}

/// An NMI while the monitor runs is the platform's business, and a #DB a guest's.
#[unsafe(naked)]
unsafe extern "C" fn ignore() {
    naked_asm!("iretq")
}

/// RDMSR of a register that may not exist, which then raises #GP: `None`.
pub(crate) fn try_read_msr(msr: u32) -> Option<u64> {
    let (value, exists): (u64, u64);
    // SAFETY: reading an MSR changes nothing, and the handler of #GP goes on behind this one RDMSR. The RDMSR is called rather
    // than written here, since its address has to be known.
    unsafe {
        core::arch::asm!("call {read}", read = sym read_msr, in("ecx") msr, out("rax") value, out("rdx") exists, options(nomem));
    }
    (exists != 0).then_some(value)
}

/// WRMSR of a register that may not exist, or may not take the value, which then raises #GP: false.
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

/// Has CPUID leaf 1 put the microcode's revision into IA32_BIOS_SIGN_ID, as it does where that is 0 (SDM 3A 10.11.7).
pub(crate) fn clear_microcode_revision() {
    // SAFETY: the MSR holds nothing but that revision, and a processor without it refuses.
    let _taken = unsafe { try_write_msr(IA32_BIOS_SIGN_ID, 0) };
}

/// Reads the MSR in ECX into RAX, with 1 in RDX; or leaves 0 in RDX. At `tollgate_write_msr` it writes EDX:EAX instead.
#[unsafe(naked)]
unsafe extern "C" fn read_msr() {
    naked_asm!(
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
        "lea rax, [rip + {may_fault}]",
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
        may_fault = sym read_msr,
        fatal = sym <Trap<13> as Exception>::handle,
    )
}

/// #MC, or an interrupt with its vector. A machine check that came while the global interrupt flag was clear comes in the window,
/// too (APM 2 15.17); MCG_STATUS tells the two apart.
#[unsafe(naked)]
unsafe extern "C" fn machine_check() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "mov ecx, {mcg_status}",
        "rdmsr",
        "test al, {in_progress}",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "jz {shared}",
        "jmp {fatal}",
        mcg_status = const IA32_MCG_STATUS,
        in_progress = const MCG_IN_PROGRESS,
        shared = sym gates::shared::<Trap<18>>,
        fatal = sym <Trap<18> as Exception>::handle,
    )
}

/// An exception that ends the monitor.
struct Trap<const VECTOR: u8>;

impl<const VECTOR: u8> Exception for Trap<VECTOR> {
    const VECTOR: u8 = VECTOR;

    /// Hands vector, frame and CR2 to [`fatal`]. Some exceptions push an error code below the frame.
    #[unsafe(naked)]
    unsafe extern "C" fn handle() {
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
            has_error_code = const vector::has_error_code(VECTOR) as u64,
            fatal = sym fatal,
        )
    }
}

extern "C" fn fatal(vector: u64, frame: &TrapFrame, error_code: u64, cr2: u64) -> ! {
    let TrapFrame { rip, cs, rflags, rsp } = *frame;
    fault(format_args!(
        "the monitor took exception {vector} (error code {error_code:#x}) at {cs:#x}:{rip:#x}, RSP {rsp:#x}, RFLAGS {rflags:#x}, CR2 {cr2:#x}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vector_that_a_local_apic_delivers_has_its_gate() {
        let gate = |idt: &mut InterruptDescriptorTable, vector: u8| {
            gates::entries(idt)[usize::from(vector)].handler_addr().as_u64()
        };
        for stacks in [false, true] {
            let mut idt = InterruptDescriptorTable::new();
            fill(&mut idt, stacks);
            let mut is_shared = |vector: u8, handler: *const (), _: u16| {
                let machine_check = machine_check as *const () as u64;
                let handler = if vector == vector::MC { machine_check } else { handler as u64 };
                assert_eq!(gate(&mut idt, vector), handler, "{vector}");
            };
            handlers!(is_shared, shared_handler: 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
            for vector in gates::FIRST..=u8::MAX {
                assert_eq!(gate(&mut idt, vector), gates::address(vector), "{vector}");
            }
        }
    }
}
