//! C runtime symbols that `core` and `alloc`, as they are built for the host, want from their environment.
//!
//! They have these names in bare-metal binaries alone. The memory functions use string instructions: no SSE, no red zone, and no
//! way for the compiler to turn them into calls of themselves.
#![no_std]
#![expect(unsafe_code, reason = "defines symbols by name, in assembly")]

use core::arch::naked_asm;

/// Copies `bytes` bytes between regions that do not overlap; returns `to`.
///
/// # Safety
/// Both regions are valid for that many bytes and disjoint.
#[unsafe(naked)]
#[cfg_attr(bare, unsafe(no_mangle))]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep movsq",
        "mov ecx, edx",
        "and ecx, 7",
        "rep movsb",
        "ret"
    )
}

/// Copies `bytes` bytes between regions that may overlap; returns `to`.
///
/// # Safety
/// Both regions are valid for that many bytes.
#[unsafe(naked)]
#[cfg_attr(bare, unsafe(no_mangle))]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "mov rcx, rdx",
        "sub rdi, rsi", // modulo 2^64, below `bytes` only where `to` lies inside `from..from + bytes`
        "cmp rdi, rdx",
        "mov rdi, rax",
        "jb 2f",
        "rep movsb",
        "ret",
        "2:",
        "lea rdi, [rdi + rcx - 1]",
        "lea rsi, [rsi + rcx - 1]",
        "std",
        "rep movsb",
        "cld",
        "ret",
    )
}

/// Fills `bytes` bytes; returns `to`.
///
/// # Safety
/// The region is valid for that many bytes.
#[unsafe(naked)]
#[cfg_attr(bare, unsafe(no_mangle))]
pub unsafe extern "C" fn memset(to: *mut u8, byte: i32, bytes: usize) -> *mut u8 {
    naked_asm!(
        "mov r8, rdi",
        "movzx eax, sil",
        "mov r9, 0x0101010101010101",
        "imul rax, r9",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep stosq",
        "mov ecx, edx",
        "and ecx, 7",
        "rep stosb",
        "mov rax, r8",
        "ret",
    )
}

/// Compares as unsigned bytes: negative, zero or positive.
///
/// # Safety
/// Both regions are valid for that many bytes.
#[unsafe(naked)]
#[cfg_attr(bare, unsafe(no_mangle))]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, bytes: usize) -> i32 {
    naked_asm!(
        "xor eax, eax",
        "mov rcx, rdx",
        "test rcx, rcx",
        "jz 2f",
        "repe cmpsb",
        "je 2f",
        "movzx eax, byte ptr [rdi - 1]",
        "movzx ecx, byte ptr [rsi - 1]",
        "sub eax, ecx",
        "2:",
        "ret",
    )
}

/// Compares: zero if equal.
///
/// # Safety
/// Both regions are valid for that many bytes.
#[unsafe(naked)]
#[cfg_attr(bare, unsafe(no_mangle))]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, bytes: usize) -> i32 {
    naked_asm!("jmp {}", sym memcmp)
}

/// Length of a string that ends in a zero byte.
///
/// # Safety
/// The string is valid up to that byte.
#[unsafe(naked)]
#[cfg_attr(bare, unsafe(no_mangle))]
pub unsafe extern "C" fn strlen(string: *const u8) -> usize {
    naked_asm!("xor eax, eax", "2:", "cmp byte ptr [rdi + rax], 0", "je 3f", "inc rax", "jmp 2b", "3:", "ret")
}

/// The prebuilt `alloc`, which was compiled to unwind, refers to it; never called in an image that aborts on panic.
#[cfg(bare)]
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() -> ! {
    halt()
}

/// The prebuilt `alloc` refers to it, as to [`rust_eh_personality`].
#[cfg(bare)]
#[unsafe(no_mangle)]
pub extern "C" fn _Unwind_Resume() -> ! {
    halt()
}

#[cfg(bare)]
fn halt() -> ! {
    loop {
        // SAFETY: stops this processor; nothing else is expected of an impossible path.
        unsafe { core::arch::asm!("hlt", options(nomem, nostack)) };
    }
}
