//! Unpacks the ROM, in 64-bit mode: the monitor's image to where it was linked, each of the guest's segments to its place in the
//! guest's memory. The decoder is [`crate::inflate`]; the calls of each part are translated back behind it ([`crate::calls`]).
//!
//! Before anything is unpacked the ROM's bytes are held against their sums ([`tollgate_abi::packed::sums`]), all but those of the
//! boot block. Damage in one or two doublewords is always found, and of more of them unless it cancels out in both sums. Then, nothing
//! is written outside of the image's place in the link script and of the memory that the directory says the guest has. If the sums or
//! a part can't be right, the serial port says so.
#![expect(unsafe_code, reason = "code and data of the boot block")]

use core::arch::global_asm;
use core::mem::offset_of;

use tollgate_abi::ending::{BOCHS_PORT, Ending, QEMU_PORT};
use tollgate_abi::guest_image::{
    DIRECTORY_OFFSET, MAX_SEGMENTS, MEMORY_IN_DIRECTORY, PLACED_HPA, ROM_BASE, SEGMENT_COUNT_IN_DIRECTORY,
    SEGMENTS_IN_DIRECTORY, Segment,
};
use tollgate_abi::packed::{CANNOT_UNPACK, PLACE_IN_DIRECTORY, PackedMonitor, SUMS_OFFSET};

use crate::boot::{LOW_MEMORY_END, TABLES_END};
use crate::inflate::{BEHIND_BYTES, TABLES_BYTES};

const _: () =
    assert!(TABLES_END + TABLES_BYTES <= LOW_MEMORY_END && BEHIND_BYTES as usize <= SUMS_OFFSET - DIRECTORY_OFFSET);

/// I/O base of the first serial port.
const COM1: u16 = 0x3f8;

/// Polls after which a character counts as sent, so that a dead port stops nothing.
const PATIENCE: u32 = 1_000_000;

const SAYS: &[u8] = CANNOT_UNPACK.as_bytes();
const ENDS: &[u8] = Ending::Refused.bochs_bytes();

// SAFETY: the boot block's data section holds data; the image's own section is not in place when this text is needed.
#[unsafe(link_section = ".boot.rodata")]
static SAID: [u8; SAYS.len()] = *SAYS.first_chunk().expect("it is as long as it is");

// SAFETY: as for `SAID`.
#[unsafe(link_section = ".boot.rodata")]
static ENDED: [u8; ENDS.len()] = *ENDS.first_chunk().expect("it is as long as it is");

// `unpack64` wants DF clear and a stack; it clobbers every register but RSP. In it, RBX points at the directory page.
global_asm!(
    r#"
    .section .boot.unpack, "ax"
    .code64
    .globl unpack64
unpack64:
    mov esi, {rom_base}
    mov ecx, {sums_offset} / 4
    xor edx, edx
    xor ebx, ebx
2:  lodsd
    add rdx, rax                    # the sum
    add rbx, rdx                    # and the sum of that
    loop 2b
    cmp rdx, [rsi]
    jne refused64
    cmp rbx, [rsi + 8]
    jne refused64

    mov ebx, {rom_base} + {directory_offset}
    mov edi, offset __image_start
    mov edx, offset __image_end
    mov eax, edx
    sub eax, edi
    cmp eax, [rbx + {unpacked_bytes}]
    jne refused64
    mov esi, [rbx + {image_offset}]
    mov ecx, [rbx + {packed_bytes}]
    call part64

    mov r13d, [rbx + {segment_count}]
    cmp r13d, {max_segments}
    ja refused64
    lea r12, [rbx + {segments}]
2:  dec r13d
    js 4f
    mov rdi, [r12 + {gpa}]
    mov rdx, [r12 + {file_bytes}]
    mov rsi, [r12 + {segment_offset}]
    mov rcx, [r12 + {segment_bytes}]
    add r12, {bytes_of_segment}
    test rdx, rdx
    jz 2b
    mov rax, [rbx + {memory}]
    cmp rdi, rax
    ja refused64
    sub rax, rdi
    cmp rdx, rax
    ja refused64
    add rdi, {placed}
    add rdx, rdi
    call part64
    jmp 2b
4:  ret

part64:                             # RDI and RDX: the place of a part; RSI and RCX: the offset of its stream in the ROM, and its bytes
    mov eax, {directory_offset}
    cmp rcx, rax
    ja refused64
    sub rax, rcx
    cmp rsi, rax
    ja refused64
    mov eax, {rom_base}
    add rsi, rax
    add rcx, rsi
    mov r8d, {tables}
    push rdi
    push rdx
    call inflate64
    pop rdx
    pop rdi
    test eax, eax
    jnz calls64

refused64:                          # the port: 115200 baud, 8N1, no interrupts
    mov esi, offset {said}
    mov edi, {said_bytes}
    mov edx, {com1} + 3
    mov al, 0x80
    out dx, al
    mov edx, {com1}
    mov al, 1
    out dx, al
    inc edx
    xor eax, eax
    out dx, al
    mov edx, {com1} + 3
    mov al, 3
    out dx, al
    mov edx, {com1} + 1
    xor eax, eax
    out dx, al
4:  mov edx, {com1}
    outsb
    mov edx, {com1} + 5
    mov ecx, {patience}
5:  in al, dx                       # until the transmitter is empty
    test al, 0x40
    loopz 5b
    dec edi
    jnz 4b

    mov esi, offset {ended}         # ends Bochs, or QEMU; on a real machine nothing listens
    mov ecx, {ended_bytes}
    mov edx, {bochs_port}
    rep outsb
    mov edx, {qemu_port}
    mov eax, {qemu_value}
    out dx, eax
6:  cli
    hlt
    jmp 6b
    .text
"#,
    rom_base = const ROM_BASE,
    sums_offset = const SUMS_OFFSET,
    directory_offset = const DIRECTORY_OFFSET,
    image_offset = const PLACE_IN_DIRECTORY + offset_of!(PackedMonitor, image_offset),
    packed_bytes = const PLACE_IN_DIRECTORY + offset_of!(PackedMonitor, packed_bytes),
    unpacked_bytes = const PLACE_IN_DIRECTORY + offset_of!(PackedMonitor, unpacked_bytes),
    segment_count = const SEGMENT_COUNT_IN_DIRECTORY,
    max_segments = const MAX_SEGMENTS,
    segments = const SEGMENTS_IN_DIRECTORY,
    gpa = const offset_of!(Segment, gpa),
    file_bytes = const offset_of!(Segment, file_bytes),
    segment_offset = const offset_of!(Segment, image_offset),
    segment_bytes = const offset_of!(Segment, packed_bytes),
    bytes_of_segment = const size_of::<Segment>(),
    memory = const MEMORY_IN_DIRECTORY,
    placed = const PLACED_HPA,
    tables = const TABLES_END,
    said = sym SAID,
    said_bytes = const SAYS.len(),
    com1 = const COM1,
    patience = const PATIENCE,
    ended = sym ENDED,
    ended_bytes = const ENDS.len(),
    bochs_port = const BOCHS_PORT,
    qemu_port = const QEMU_PORT,
    qemu_value = const Ending::Refused.qemu_value(),
);
