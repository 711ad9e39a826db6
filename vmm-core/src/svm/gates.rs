//! Gates for every vector that an interrupt may have. Under SVM an exit does not acknowledge its interrupt: the monitor takes it by
//! letting it in, whatever its vector is, and it may be one that nobody here has sent.
#![expect(unsafe_code, reason = "handlers of interrupts")]

use core::arch::naked_asm;

/// The first vector of interrupts; those before are exceptions.
pub const FIRST: u8 = 32;
const GATES: usize = 256 - FIRST as usize;
/// Gates that share an end, which is within reach of their short jumps.
const GROUP: usize = 32;
const GATE_BYTES: usize = 4;
const GROUP_BYTES: usize = GROUP * GATE_BYTES + 16;

/// Where the handler of a vector from [`FIRST`] on is.
pub fn address(vector: u8) -> u64 {
    let at = usize::from(vector - FIRST);
    let within = at / GROUP * GROUP_BYTES + at % GROUP * GATE_BYTES;
    gates as *const () as u64 + within as u64
}

/// The handlers, one behind the other. Each leaves its vector in AL, and RFLAGS.IF clear, so that no other comes right behind.
#[unsafe(naked)]
unsafe extern "C" fn gates() {
    naked_asm!(
        ".set tollgate_vector, {first}",
        ".rept {groups}",
        ".rept {group}",
        // MOV AL and a short jump.
        ".byte 0xb0, tollgate_vector, 0xeb, 2f - . - 1",
        ".set tollgate_vector, tollgate_vector + 1",
        ".endr",
        "2:",
        "and dword ptr [rsp + 16], {without_if}",
        "iretq",
        ".skip 16 - (. - 2b), 0xcc",
        ".endr",
        first = const FIRST,
        groups = const GATES / GROUP,
        group = const GROUP,
        without_if = const !(1i32 << 9),
    )
}

#[cfg(test)]
mod tests {
    use core::arch::asm;

    use super::*;

    /// Goes through the gate of a vector as an interrupt does, but with the frame of this very program.
    fn take(vector: u8) -> u64 {
        let taken: u64;
        // SAFETY: the frame returns to the label, to this stack, with these flags and segments. The red zone is kept.
        unsafe {
            asm!(
                "mov {stack}, rsp",
                "sub rsp, 128",
                "xor {other:e}, {other:e}",
                "mov {other:x}, ss",
                "push {other}",
                "push {stack}",
                "pushfq",
                "xor {other:e}, {other:e}",
                "mov {other:x}, cs",
                "push {other}",
                "lea {other}, [rip + 2f]",
                "push {other}",
                "xor eax, eax",
                "jmp {gate}",
                "2:",
                gate = in(reg) address(vector),
                stack = out(reg) _,
                other = out(reg) _,
                out("rax") taken,
            );
        }
        taken
    }

    #[test]
    fn each_vector_has_a_gate_that_tells_it() {
        for vector in FIRST..=u8::MAX {
            assert_eq!(take(vector), vector.into());
        }
    }
}
