//! From the reset vector to Rust: real mode, protected mode, long mode (SDM 3A 10.1.4, 10.8.5).
//!
//! The boot block is executed in place at the top of the ROM. It maps the first 4 GiB to themselves, unpacks the image to RAM at
//! 1 MiB and the guest to its memory ([`crate::unpack`]), clears `.bss`, and calls [`monitor_run::rom::run`] on a stack in `.bss`.
//! The other processors come the same way when they are started, and go on in [`monitor_run::processors`].
#![expect(unsafe_code, reason = "boots the processor")]

use core::arch::global_asm;

use tollgate_abi::guest_image::{PLACED_BYTES_AT, PLACED_HPA};
use tollgate_abi::machine::MOST_VCPUS;
use tollgate_abi::x86::control::{CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR0_WP, CR4_PAE, EFER_LME};
use tollgate_abi::x86::msr::{APIC_BASE_BSP, IA32_APIC_BASE, IA32_EFER};

use monitor_run::firmware::Firmware;
use monitor_run::processors::{ARRIVALS, STACKS, other_main};
use monitor_run::rom;

/// Bytes of the stack on which everything but exits runs.
const STACK_BYTES: usize = 512 * 1024;

/// The boot stack. Only the boot block takes its address.
#[repr(C, align(16))]
struct BootStack(core::cell::UnsafeCell<[u8; STACK_BYTES]>);

// SAFETY: used as a stack by one processor, never as a value.
unsafe impl Sync for BootStack {}

static BOOT_STACK: BootStack = BootStack(core::cell::UnsafeCell::new([0; STACK_BYTES]));

/// The SIPI vector of `sipi16`: physical 0xFF000.
const SIPI_VECTOR: u8 = 0xff;

static ROM: Firmware = rom::firmware(|local_apic| local_apic.start_others(SIPI_VECTOR));

unsafe extern "C" {
    /// The end of the image in RAM, by link.ld.
    static mut __bss_end: u8;
}

extern "C" fn rust_main() -> ! {
    // SAFETY: called once, by the boot block. link.ld has nothing behind `__bss_end`, and checks that it leaves room for the heap.
    unsafe { rom::run(&ROM, &raw mut __bss_end) }
}

/// Bytes of the smallest block in which Bochs gives memory, or less.
const LEAST_BLOCK_BYTES: u32 = 32 << 10;

/// The end of the memory below 1 MiB that every machine has.
pub(crate) const LOW_MEMORY_END: u32 = 640 << 10;

/// PML4, PDPT and four page directories there, above a page for the stack on which the ROM is unpacked.
const PML4: u32 = 0x1000;
const PDPT: u32 = PML4 + 0x1000;
const DIRECTORIES: u32 = PDPT + 0x1000;
/// The end of these six pages.
pub(crate) const TABLES_END: u32 = DIRECTORIES + 4 * 0x1000;

global_asm!(
    r#"
    .section .reset, "ax"
    .code16
    .globl reset_vector
reset_vector:
    jmp start16                     # a near jump stays in the last 64 KiB
    .balign 16, 0xf4

    .section .boot, "ax"
    .code16
sipi16:                             # another CPU arrives here: the ROM's last page, at its alias below 1 MiB
    .byte 0xEA                      # ljmp $0xF000, $start16
    .word start16 - 0xFFFF0000
    .word 0xF000
start16:
    cli
    cld
    mov ebx, offset gdt_pointer     # CS base is 0xFFFF0000 until the first far jump
    sub ebx, 0xFFFF0000
    lgdtd cs:[bx]
    mov eax, cr0
    or eax, {pe}
    and eax, {caches_on}
    mov cr0, eax
    .byte 0x66, 0xEA                # ljmpl $0x08, $start32
    .long start32
    .word 0x08

    .code32
start32:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax

    mov ecx, {apic_base}            # IA32_APIC_BASE: what the boot processor has done, the others find done
    rdmsr
    test eax, {boot_processor}
    jz paging32

    mov edi, {placed}               # a guest that Bochs has placed: 2.7 gives its blocks of memory, which the bytes lie in
    mov edx, [{placed_bytes}]       # one behind the other, to addresses in the order in which these are touched first
    add edx, edi
4:  cmp edi, edx
    jae 5f
    or byte ptr [edi], 0
    add edi, {block}
    jmp 4b

5:  mov edi, {pml4}                 # six pages of tables
    mov ecx, ({tables_end} - {pml4}) / 4
    xor eax, eax
    rep stosd
    mov dword ptr [{pml4}], {pdpt} + 3
    mov dword ptr [{pdpt}], {directories} + 3
    mov dword ptr [{pdpt} + 8], {directories} + 0x1003
    mov dword ptr [{pdpt} + 16], {directories} + 0x2003
    mov dword ptr [{pdpt} + 24], {directories} + 0x3003
    mov edi, {directories}
    mov eax, 0x83                   # present, writable, 2 MiB
    mov ecx, 4 * 512
2:  mov [edi], eax
    mov dword ptr [edi + 4], 0
    add eax, 0x200000
    add edi, 8
    dec ecx
    jnz 2b

paging32:
    mov eax, {pae}
    mov cr4, eax
    mov eax, {pml4}
    mov cr3, eax
    mov ecx, {efer}
    rdmsr
    or eax, {lme}
    wrmsr
    mov eax, cr0
    or eax, {pages}
    mov cr0, eax
    .byte 0xEA                      # ljmp $0x18, $start64
    .long start64
    .word 0x18

    .code64
start64:
    xor eax, eax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov fs, ax
    mov gs, ax
    mov ecx, {apic_base}
    rdmsr
    test eax, {boot_processor}
    jz other64
    mov esp, {pml4}
    call unpack64                   # image and guest go to their places
    mov edi, offset __bss_start     # whole pages
    mov ecx, offset __bss_end
    sub ecx, edi
    shr ecx, 3
    xor eax, eax
    rep stosq
    mov rsp, offset {stack} + {stack_bytes}
    mov rax, offset {rust_main}
    call rax

other64:                            # a number for each, and a stack for those that are wanted
    mov eax, 1
    lock xadd dword ptr [{arrivals}], eax
    cmp eax, {most}
    jae 3f
    mov rsp, [{stacks} + rax * 8]
    test rsp, rsp
    jz 3f
    mov edi, eax
    mov rax, offset {other_main}
    call rax
3:  hlt
    jmp 3b

    # Data stands apart from code, so that disassembling the code sections sees instructions only.
    .section .boot.rodata, "a"
    .balign 8
gdt:
    .quad 0
    .quad 0x00CF9B000000FFFF        # 08: 32-bit code
    .quad 0x00CF93000000FFFF        # 10: data
    .quad 0x00AF9B000000FFFF        # 18: 64-bit code
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt
    .text
"#,
    pe = const CR0_PE,
    caches_on = const !(CR0_CD | CR0_NW) as u32,
    apic_base = const IA32_APIC_BASE,
    boot_processor = const APIC_BASE_BSP,
    pae = const CR4_PAE,
    efer = const IA32_EFER,
    lme = const EFER_LME,
    pages = const CR0_PG | CR0_WP,
    placed = const PLACED_HPA,
    placed_bytes = const PLACED_BYTES_AT,
    block = const LEAST_BLOCK_BYTES,
    pml4 = const PML4,
    pdpt = const PDPT,
    directories = const DIRECTORIES,
    tables_end = const TABLES_END,
    stack = sym BOOT_STACK,
    stack_bytes = const STACK_BYTES,
    rust_main = sym rust_main,
    arrivals = sym ARRIVALS,
    stacks = sym STACKS,
    most = const MOST_VCPUS,
    other_main = sym other_main,
);
