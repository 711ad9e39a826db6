//! Unpacks the monitor's image from the ROM: a decoder of LZ4 blocks for the boot block, in 32-bit protected mode.
//!
//! A block is a row of sequences: a token, literals, then a match, which repeats bytes that were unpacked before. The token has
//! the length of both, four bits each; a length of 15 goes on in the bytes that follow. The last sequence ends behind its
//! literals.
//!
//! Before it was packed, the image's calls were translated: see [`tollgate_abi::monitor_image`]. They are translated back behind the
//! decoder, in place.
//!
//! Nothing is written outside of the image's place in the link script. Each sequence takes at least a byte of the block, so that
//! the decoder ends on a damaged one, too. If a block can't be right, the serial port says so. There is no checksum: damage that
//! makes another well-formed block of the same length goes unnoticed.
#![expect(unsafe_code, reason = "code and data of the boot block")]

use core::arch::global_asm;
use core::mem::offset_of;

use tollgate_abi::ending::{BOCHS_PORT, Ending, QEMU_PORT};
use tollgate_abi::guest_image::ROM_BASE;
use tollgate_abi::monitor_image::{CALL, CANNOT_UNPACK, PACKED_MONITOR_AT, PackedMonitor};

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

// `unpack32` wants DF clear, flat segments and a stack; it clobbers every register. In it, ESI and EBP point at the rest of the
// block and at its end, EDI and EDX at the rest of the image and at its end.
global_asm!(
    r#"
    .section .boot.unpack, "ax"
    .code32
    .globl unpack32
unpack32:
    mov ebx, {packed_monitor}
    mov esi, [ebx + {image_offset}]
    add esi, {rom_base}
    mov ebp, [ebx + {packed_bytes}]
    add ebp, esi
    mov edi, offset __image_start
    mov edx, offset __image_end
    mov eax, edx
    sub eax, edi
    cmp eax, [ebx + {unpacked_bytes}]
    jne damaged32

sequence32:
    cmp esi, ebp
    jae damaged32
    movzx ebx, byte ptr [esi]       # the token
    inc esi
    mov ecx, ebx
    shr ecx, 4
    call length32
    mov eax, ebp
    sub eax, esi
    cmp ecx, eax
    ja damaged32
    call copy32
    cmp esi, ebp
    je complete32

    movzx eax, word ptr [esi]       # how far back the match is; it may reach into itself
    add esi, 2
    mov ecx, edi
    sub ecx, eax
    cmp ecx, offset __image_start
    jb damaged32
    cmp ecx, edi
    jae damaged32
    push ecx
    mov ecx, ebx
    and ecx, 15
    call length32
    add ecx, 4
    pop eax
    push esi
    mov esi, eax
    call copy32
    pop esi
    jmp sequence32

complete32:
    cmp edi, edx
    jne damaged32

    mov edi, offset __image_start   # the calls, from the first
    mov ecx, edx
    sub ecx, edi
    mov ebx, ecx                    # the image's bytes
    mov eax, {call}
call32:
    repne scasb
    jne 3f
    cmp ecx, 4
    jb 3f
    mov esi, [edi]                  # the operand as it was translated
    lea edx, [edi - 1]
    sub edx, offset __image_start   # the call's place in the image
    cmp esi, ebx
    jae 7f
    sub esi, edx                    # a target in the image becomes a distance
    jmp 2f
7:  add edx, esi
    jnc 4f                          # no target
    add esi, ebx                    # a distance that would have been taken for one
2:  mov [edi], esi
4:  add edi, 4
    sub ecx, 4
    jnz call32
3:  ret

length32:                           # ECX: a length, whose first four bits it has
    cmp ecx, 15
    jne 3f
2:  cmp esi, ebp
    jae damaged32
    movzx eax, byte ptr [esi]
    inc esi
    add ecx, eax
    cmp eax, 255
    je 2b
3:  ret

copy32:                             # ECX bytes, one after the other, so that a match can repeat what it has just written
    mov eax, edx
    sub eax, edi
    cmp ecx, eax
    ja damaged32
    rep movsb
    ret

damaged32:                          # the port: 115200 baud, 8N1, no interrupts
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
    .code64
    .text
"#,
    packed_monitor = const PACKED_MONITOR_AT,
    image_offset = const offset_of!(PackedMonitor, image_offset),
    packed_bytes = const offset_of!(PackedMonitor, packed_bytes),
    unpacked_bytes = const offset_of!(PackedMonitor, unpacked_bytes),
    rom_base = const ROM_BASE,
    call = const CALL,
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
