//! Translates the calls of a part of the ROM back, once it is unpacked ([`tollgate_abi::packed`]), for the boot block, in 64-bit mode.
#![expect(unsafe_code, reason = "code of the boot block")]

use core::arch::global_asm;

use tollgate_abi::packed::CALL;

// extern "sysv64" fn calls64(part: *mut u8, stream: (), part_end: *mut u8);
//
// There is a byte at least, and DF is clear. RDI goes from call to call, ECX has the bytes from there on.
global_asm!(
    r#"
    .section .boot.unpack, "ax"
    .code64
    .globl calls64
calls64:
    mov r8, rdi
    mov rcx, rdx
    sub rcx, rdi
    mov r9d, ecx                    # the part's bytes
    mov eax, {call}
2:  repne scasb
    jne 6f
    cmp ecx, 4
    jb 6f
    mov esi, [rdi]                  # the operand as it was translated
    lea rdx, [rdi - 1]
    sub rdx, r8                     # the call's place in the part
    cmp esi, r9d
    jae 3f
    sub esi, edx                    # a target in the part becomes a distance
    jmp 4f
3:  add edx, esi
    jnc 5f                          # no target
    add esi, r9d                    # a distance that would have been taken for one
4:  mov [rdi], esi
5:  add rdi, 4
    sub ecx, 4
    jnz 2b
6:  ret
    .text
"#,
    call = const CALL,
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tollgate_abi::packed::{restore_calls, translate_calls};

    unsafe extern "sysv64" {
        fn calls64(part: *mut u8, stream: usize, part_end: *mut u8);
    }

    proptest! {
        #[test]
        fn calls_are_translated_back_whatever_the_bytes_are(
            part in proptest::collection::vec(prop_oneof![Just(CALL), Just(0), Just(0xff), any::<u8>()], 1..200),
            is_translated in any::<bool>(),
        ) {
            let mut packed = part.clone();
            if is_translated {
                translate_calls(&mut packed);
            }
            let mut here = packed.clone();
            let bytes = here.as_mut_ptr_range();
            // SAFETY: the bytes of a vector, of which there is one at least.
            unsafe { calls64(bytes.start, 0, bytes.end) };
            restore_calls(&mut packed);
            prop_assert_eq!(&here, &packed);
            prop_assert!(!is_translated || here == part);
        }
    }
}
