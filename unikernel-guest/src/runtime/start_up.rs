//! Starting the other vCPUs as an operating system does: INIT, start-up IPI, and the way from real mode to 64-bit mode.
#![expect(unsafe_code, reason = "starts processors")]

use core::arch::global_asm;
use core::sync::atomic::Ordering::{Acquire, Release};

use tollgate_abi::apic::{DELIVERY_INIT, DELIVERY_START_UP};
use tollgate_abi::exit_reason::ExitReason;
use tollgate_abi::machine::START_UP_GPA;
use tollgate_abi::x86::control::{CR0_CD, CR0_ET, CR0_NW, DR6_AT_RESET, DR7_FIXED};
use tollgate_abi::x86::msr::IA32_EFER;
use x86_64::registers::control::{Cr0Flags, Cr2, Cr3, Cr4Flags};
use x86_64::registers::model_specific::EferFlags;

use super::segments::{self, Tables, TrapStacks};
use super::threads::{self, PATIENCE, STACK_BYTES};
use super::{process, processor, traps};
use crate::books::book::{book, book_times};
use crate::books::interrupts::TIMER_VECTOR;
use crate::books::{cpu, vcpus};
use crate::ops::apic;
use crate::ops::debug_registers::{read_dr0, read_dr3, read_dr6, read_dr7};
use crate::ops::idle::looked_for;
use crate::ops::ports::post;

/// The code that each vCPU writes to its POST port when it has come up; vCPU 0 writes another before the first workload.
const UP: u8 = 0xc0;

// Real mode at START_UP_GPA; straight to IA-32e mode (SDM 3A 10.8.5). The monitor's vCPU starts here with CS base at the page.
global_asm!(
    r#"
    .pushsection .rodata.start_up, "a"
    .code16
    .balign 16
tollgate_start_up:
    cli
    cld
    xor eax, eax
    mov ds, ax
    mov bx, offset tollgate_at_found
    mov [bx], edx
    mov eax, cr0
    mov [bx + 4], eax
    mov bx, offset tollgate_at_gdt_pointer
    lgdtd [bx]
    mov eax, {cr4}
    mov cr4, eax
    mov bx, offset tollgate_at_cr3
    mov eax, [bx]
    mov cr3, eax
    mov ecx, {efer_msr}
    rdmsr
    or eax, {efer}
    wrmsr
    mov eax, {cr0}
    mov cr0, eax
    .byte 0x66, 0xEA                # ljmpl $8, $long
    .long {page} + tollgate_long - tollgate_start_up
    .word 8
    .code64
tollgate_long:
    xor eax, eax
    mov ds, ax
    mov es, ax
    mov ss, ax
    lea rbx, [rip + tollgate_words]
    mov rsp, [rbx + 8]
    mov rdi, [rbx + 16]
    mov rsi, [rbx + 32]
    xor ebp, ebp
    call [rbx + 24]
    ud2
    .balign 8
tollgate_gdt:
    .quad 0
    .quad 0x00AF9B000000FFFF        # 08: 64-bit code
tollgate_gdt_pointer:
    .word tollgate_gdt_pointer - tollgate_gdt - 1
    .long {page} + tollgate_gdt - tollgate_start_up
    .balign 8
tollgate_words:                     # CR3, stack, number, entry: filled in for each vCPU
    .quad 0, 0, 0, 0
tollgate_found:                     # EDX and CR0 as it found them
    .quad 0
tollgate_start_up_end:
    .set tollgate_at_gdt_pointer, {page} + tollgate_gdt_pointer - tollgate_start_up
    .set tollgate_at_found, {page} + tollgate_found - tollgate_start_up
    .set tollgate_at_cr3, {page} + tollgate_words - tollgate_start_up
    .popsection
"#,
    page = const START_UP_GPA,
    cr4 = const (Cr4Flags::PHYSICAL_ADDRESS_EXTENSION.bits() | Cr4Flags::OSFXSR.bits() | Cr4Flags::OSXMMEXCPT_ENABLE.bits()
        | Cr4Flags::DEBUGGING_EXTENSIONS.bits()) as u32,
    efer_msr = const IA32_EFER,
    efer = const (EferFlags::SYSTEM_CALL_EXTENSIONS.bits() | EferFlags::LONG_MODE_ENABLE.bits()
        | EferFlags::NO_EXECUTE_ENABLE.bits()) as u32,
    cr0 = const (Cr0Flags::PROTECTED_MODE_ENABLE.bits() | Cr0Flags::MONITOR_COPROCESSOR.bits()
        | Cr0Flags::EXTENSION_TYPE.bits() | Cr0Flags::NUMERIC_ERROR.bits() | Cr0Flags::WRITE_PROTECT.bits()
        | Cr0Flags::PAGING.bits()) as u32,
);

unsafe extern "C" {
    #[link_name = "tollgate_start_up"]
    static START_UP: [u8; 0];
    #[link_name = "tollgate_words"]
    static START_UP_WORDS: [u8; 0];
    #[link_name = "tollgate_start_up_end"]
    static START_UP_END: [u8; 0];
}

/// Zeroed memory for a vCPU, which it keeps for ever.
fn allocate<T>() -> *mut T {
    // SAFETY: any size and alignment may be asked for.
    let block = unsafe { hermit_abi::alloc_zeroed(size_of::<T>(), align_of::<T>()) }.cast::<T>();
    assert!(!block.is_null(), "there is no memory for another vCPU");
    block
}

#[repr(align(16))]
struct Stack(#[expect(dead_code, reason = "only the stack pointer refers to it")] [u8; STACK_BYTES]);

/// Starts the other vCPUs, one after the other, and waits for each.
pub(crate) fn start_others() {
    if vcpus() < 2 {
        return;
    }
    // SAFETY: the linker placed the two one behind the other.
    let bytes = unsafe { (&raw const START_UP_END).byte_offset_from(&raw const START_UP) } as usize;
    // SAFETY: by the contract of the machine the page is for this code, mapped to itself, and large enough.
    unsafe { core::ptr::copy_nonoverlapping((&raw const START_UP).cast::<u8>(), START_UP_GPA as *mut u8, bytes) };
    // SAFETY: the linker placed the symbols one behind the other.
    let words = unsafe { (&raw const START_UP_WORDS).byte_offset_from(&raw const START_UP) } as u64 + START_UP_GPA;
    for (number, cpu) in threads::others() {
        let stack = allocate::<Stack>();
        let (page_tables, _) = Cr3::read_raw();
        let values = [
            page_tables.start_address().as_u64(),
            stack as u64 + STACK_BYTES as u64,
            number as u64,
            other_vcpu as *const () as u64,
        ];
        // SAFETY: the words lie within the copy made above, and the vCPU before has already read its own.
        unsafe { (words as *mut [u64; 4]).write_volatile(values) };
        // SAFETY: the vCPU waits for the start-up IPI, and the page holds code for it.
        unsafe {
            apic::start(number, DELIVERY_INIT, 0);
            apic::start(number, DELIVERY_START_UP, (START_UP_GPA >> 12) as u8);
        }
        if !looked_for(PATIENCE, || cpu.is_up.load(Acquire)) {
            process::end(1, format_args!("vCPU {number} did not come up"));
        }
    }
}

/// CR0 after power-up. DR6 and DR7 have their values after power-up, too; the signature of CPUID leaf 1 is in EDX; the rest is 0
/// (SDM 3A table 10-1).
const CR0_AT_POWER_UP: u64 = CR0_CD | CR0_NW | CR0_ET;

fn check_power_up(number: usize, found: u64) {
    let expected = CR0_AT_POWER_UP << 32 | u64::from(processor::signature());
    if found != expected {
        process::end(1, format_args!("vCPU {number} found CR0:EDX = {found:#x} at its start, not {expected:#x}"));
    }
    let registers = [Cr2::read_raw(), read_dr0(), read_dr3(), read_dr6(), read_dr7()];
    if registers != [0, 0, 0, DR6_AT_RESET, DR7_FIXED] {
        process::end(1, format_args!("vCPU {number} found CR2, DR0, DR3, DR6, DR7 = {registers:x?} at its start"));
    }
}

/// The point to which another vCPU comes from real mode. `found` has the CR0 and, below, the EDX that it started with.
extern "C" fn other_vcpu(number: usize, found: u64) -> ! {
    cpu::take_place(number);
    check_power_up(number, found);
    // On the way here it wrote CR4 and CR0, and read and wrote EFER; its MOV to CR3 did not exit.
    book_times(ExitReason::CR_ACCESS, 2);
    book(ExitReason::RDMSR);
    book(ExitReason::WRMSR);
    // SAFETY: zero is a valid value of both, as for those of vCPU 0, and they are never freed.
    segments::load(unsafe { &*allocate::<(Tables, TrapStacks)>() });
    traps::load();
    processor::set_up_other();
    apic::enable(true);
    apic::set_up_timer(TIMER_VECTOR);
    post(UP | number as u8);
    let this = cpu::this();
    // The exit of the HLT at which it waits for work.
    book(ExitReason::HLT);
    this.is_up.store(true, Release);
    threads::serve(this)
}
