//! Inflates a stream of DEFLATE (RFC 1951), for the boot block, in 64-bit mode.
//!
//! A stream is a row of blocks. A block is stored as it is, or it is a row of symbols: bytes, and matches, which repeat bytes that
//! were unpacked before. Symbols have codes of 1 to 15 bits, which are fixed, or which the block begins with, as the length of each
//! code. Codes of a length are numbered in the order of their symbols, so that the lengths are enough.
//!
//! A symbol is found by one look into a table of all numbers of as many bits as the longest code has, which is built for each block.
//! Building them takes a tenth of the time.
//!
//! Nothing is written outside of the place that the caller gives, and of the tables. Each block takes bits of the stream and each
//! byte takes room, so that the end comes on a damaged stream, too. A code that is none, a match of nothing, a stream that is too
//! short or too long for its place are found; damage that makes another well-formed stream of the same lengths is not.
#![expect(unsafe_code, reason = "code and data of the boot block")]

mod values;

use core::arch::global_asm;

use self::values::{BITS_SHIFT, DISTANCE_COUNT, DISTANCES, FIRST_LENGTH, LENGTHS, ORDER};

/// Bytes behind a stream that are read, and count for nothing.
pub(crate) const BEHIND_BYTES: u32 = 16;

/// The longest code.
const MOST_BITS: u32 = 15;
/// Symbols whose codes' lengths a block can give: of bytes, lengths and distances.
const MOST_SYMBOLS: u32 = 320;

// The places in the tables: the lengths of all codes by symbol, one more word, the next code of each length, then the two tables.
const LAST: u32 = MOST_SYMBOLS;
const NEXT: u32 = LAST + 8;
const SYMBOLS: u32 = NEXT + 4 * (MOST_BITS + 1);
const BACK: u32 = SYMBOLS + (2 << MOST_BITS);
/// Bytes of the tables.
pub(crate) const TABLES_BYTES: u32 = BACK + (2 << MOST_BITS);

// extern "sysv64" fn inflate64(to: *mut u8, stream: *const u8, to_end: *mut u8, stream_end: *const u8, tables: *mut u8) -> u32;
//
// 1 if the stream unpacks to all of its place, else 0. DF is clear. In it, RDI, RDX and R15 point at the rest of the place, its end and
// its beginning, RSI at the rest of the stream, R11 seven bytes behind its end, R8 at the tables. RBX has the stream's next bits, of
// which R9D count. R12D and R13D have as many ones as the longest codes of the two tables have bits.
global_asm!(
    r#"
    .section .boot.unpack, "ax"
    .code64
    .macro symbol table, ones       # EAX: the next symbol
    mov eax, \ones
    and eax, ebx
    movzx eax, word ptr [r8 + \table + rax * 2]
    mov ecx, eax
    and ecx, 15
    jz damaged64
    shr rbx, cl
    sub r9d, ecx
    shr eax, 4
    .endm

    .globl inflate64
inflate64:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov rbp, rsp
    mov r15, rdi
    lea r11, [rcx + 7]
    xor ebx, ebx
    xor r9d, r9d

block64:
    call refill64
    mov ecx, 1
    call bits64
    mov [r8 + {last}], eax
    mov ecx, 2
    call bits64
    cmp eax, 1
    jb stored64
    je fixed64
    cmp eax, 2
    je dynamic64

damaged64:
    xor eax, eax
    jmp 2f
ended64:
    cmp dword ptr [r8 + {last}], 0
    je block64
    cmp rdi, rdx
    jne damaged64
    mov eax, r9d                    # bytes that were read ahead
    shr eax, 3
    sub rsi, rax
    add rsi, 7
    cmp rsi, r11
    jne damaged64
    mov eax, 1
2:  mov rsp, rbp
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

stored64:                           # from the next byte on: the length, its complement, the bytes
    mov ecx, r9d
    and ecx, 7
    shr rbx, cl
    sub r9d, ecx
    mov ecx, 16
    call bits64
    mov r14d, eax
    mov ecx, 16
    call bits64
    xor eax, r14d
    cmp eax, 0xffff
    jne damaged64
    mov eax, r9d
    shr eax, 3
    sub rsi, rax
    xor ebx, ebx
    xor r9d, r9d
    lea rax, [rsi + r14 + 7]
    cmp rax, r11
    ja damaged64
    lea rax, [rdi + r14]
    cmp rax, rdx
    ja damaged64
    mov ecx, r14d
    rep movsb
    jmp ended64

fixed64:                            # RFC 1951 3.2.6
    mov r10, rdi
    mov rdi, r8
    mov al, 8
    mov ecx, 144
    rep stosb
    inc eax
    mov ecx, 112
    rep stosb
    mov al, 7
    mov ecx, 24
    rep stosb
    inc eax
    mov ecx, 8
    rep stosb
    mov al, 5
    mov ecx, {distance_count}
    rep stosb
    mov rdi, r10
    mov r14d, 288
    mov r13d, {distance_count}
    jmp tables64

dynamic64:                          # RFC 1951 3.2.7
    mov ecx, 5
    call bits64
    lea r14d, [rax + 257]           # symbols of bytes and lengths
    mov ecx, 5
    call bits64
    lea r13d, [rax + 1]             # symbols of distances
    mov ecx, 4
    call bits64
    lea r12d, [rax + 4]             # lengths of codes for lengths of codes
    push rdi
    mov rdi, r8
    xor eax, eax
    mov ecx, {order_bytes}
    rep stosb
    xor edi, edi
2:  call refill64
    mov ecx, 3
    call bits64
    lea rcx, [rip + {order}]
    movzx ecx, byte ptr [rcx + rdi]
    mov [r8 + rcx], al
    inc edi
    cmp edi, r12d
    jb 2b
    mov r10, r8
    mov ecx, {order_bytes}
    lea rax, [r8 + {symbols}]
    call table64
    mov r12d, eax

    add r13d, r14d
    xor edi, edi
2:  call refill64
    symbol {symbols}, r12d
    cmp eax, 16
    jae 3f
    mov [r8 + rdi], al              # a length
    inc edi
    jmp 6f
3:  je 4f
    xor r10d, r10d                  # 17: 3 to 10 times no code; 18: 11 to 138 times
    mov ecx, 3
    cmp eax, 17
    je 5f
    mov ecx, 7
    call bits64
    add eax, 8
    jmp 7f
4:  test edi, edi                   # 16: 3 to 6 times the length before
    jz damaged64
    movzx r10d, byte ptr [r8 + rdi - 1]
    mov ecx, 2
5:  call bits64
7:  add eax, 3
    mov ecx, eax
    add eax, edi
    cmp eax, r13d
    ja damaged64
    add rdi, r8
    mov eax, r10d
    rep stosb
    sub rdi, r8
6:  cmp edi, r13d
    jb 2b
    sub r13d, r14d
    pop rdi

tables64:                           # of so many symbols as R14D and R13D have
    mov r10, r8
    mov ecx, r14d
    lea rax, [r8 + {symbols}]
    call table64
    mov r12d, eax
    lea r10, [r8 + r14]
    mov ecx, r13d
    lea rax, [r8 + {back}]
    call table64
    mov r13d, eax

next64:
    cmp r9d, 48                     # the bits of a match, at the most
    jae 2f
    call refill64
2:  symbol {symbols}, r12d
    cmp eax, 256
    jae 3f
    cmp rdi, rdx
    jae damaged64
    stosb
    jmp next64
3:  je ended64

    sub eax, {first_length}
    lea rcx, [rip + {lengths}]
    call value64
    mov r14d, eax
    symbol {back}, r13d
    lea rcx, [rip + {distances}]
    call value64
    mov rcx, rdi
    sub rcx, r15
    dec rax                         # a distance that is none wraps here, a length below
    cmp rax, rcx
    jae damaged64
    mov rcx, rdx
    sub rcx, rdi
    lea r10, [r14 - 1]
    cmp r10, rcx
    jae damaged64
    mov r10, rsi
    not rax
    lea rsi, [rdi + rax]
    mov ecx, r14d
    rep movsb                       # byte by byte, so that a match can repeat what it has just written
    mov rsi, r10
    jmp next64

refill64:                           # 56 bits or more
    cmp rsi, r11
    ja damaged64
    mov rax, [rsi]
    mov ecx, r9d
    shl rax, cl
    or rbx, rax
    mov eax, 63
    sub eax, ecx
    shr eax, 3
    add rsi, rax
    or r9d, 56
    ret

bits64:                             # EAX: as many bits as ECX says
    mov eax, -1
    shl eax, cl
    not eax
    and eax, ebx
    shr rbx, cl
    sub r9d, ecx
    ret

value64:                            # EAX: a value by its row in a table, which RCX points at
    mov r10d, [rcx + rax * 4]
    mov ecx, r10d
    shr ecx, {bits_shift}
    movzx r10d, r10w
    call bits64
    add eax, r10d
    ret

table64:                            # RAX: the table; R10: the lengths of codes, ECX of them; EAX: ones, as many as the longest has bits
    push rsi
    push rdi
    push rdx
    push r13
    push r14
    mov r13, rax
    mov r14d, ecx
    lea rsi, [r8 + {next}]
    mov rdi, rsi
    xor eax, eax
    mov ecx, {most_bits} + 1
    rep stosd
2:  movzx eax, byte ptr [r10 + rcx] # codes of each length
    inc dword ptr [rsi + rax * 4]
    inc ecx
    cmp ecx, r14d
    jb 2b
    xor eax, eax
    xor edi, edi
    mov ecx, 1
2:  mov edx, [rsi + rcx * 4]        # the first code of each length, and the longest length
    mov [rsi + rcx * 4], eax
    test edx, edx
    cmovnz edi, ecx
    add eax, edx
    add eax, eax
    inc ecx
    cmp ecx, {most_bits}
    jbe 2b

    mov ecx, edi
    mov eax, 1
    shl eax, cl
    mov edx, eax                    # entries of the table
    lea ecx, [rax + 3]
    shr ecx, 2
    mov rdi, r13
    xor eax, eax                    # no symbol
    rep stosq

    xor edi, edi
3:  movzx ecx, byte ptr [r10 + rdi]
    test ecx, ecx
    jz 6f
    push rdx
    mov edx, [rsi + rcx * 4]        # the symbol's code, first bit first
    inc dword ptr [rsi + rcx * 4]
    push rcx
    xor eax, eax
4:  shr edx, 1
    adc eax, eax
    loop 4b
    pop rcx
    test edx, edx                   # more codes than there are
    pop rdx
    jnz damaged64
    push rsi
    mov esi, edi
    shl esi, 4
    or esi, ecx
    push rdi
    mov edi, 1
    shl edi, cl
5:  mov [r13 + rax * 2], si         # whatever bits follow the code
    add eax, edi
    cmp eax, edx
    jb 5b
    pop rdi
    pop rsi
6:  inc edi
    cmp edi, r14d
    jb 3b

    lea eax, [rdx - 1]
    pop r14
    pop r13
    pop rdx
    pop rdi
    pop rsi
    ret
    .purgem symbol
    .text
"#,
    last = const LAST,
    next = const NEXT,
    symbols = const SYMBOLS,
    back = const BACK,
    most_bits = const MOST_BITS,
    first_length = const FIRST_LENGTH,
    distance_count = const DISTANCE_COUNT,
    lengths = sym LENGTHS,
    distances = sym DISTANCES,
    bits_shift = const BITS_SHIFT,
    order = sym ORDER,
    order_bytes = const ORDER.len(),
);

#[cfg(test)]
mod tests;
