//! Gates for every vector that an interrupt may have, 10h to FFh (APM 2 16.6.3). Under SVM an exit does not acknowledge its
//! interrupt: the monitor takes it by letting it in, whatever its vector is, and it may be one that no vCPU has sent.
//!
//! Vectors below 20h are shared with exceptions. An interrupt comes only in the window, one place where no exception comes up;
//! and it pushes no error code, whatever its vector is.
#![expect(unsafe_code, reason = "handlers of interrupts, and of exceptions with the same vectors")]

use core::arch::naked_asm;

use tollgate_abi::x86::control::RFLAGS_IF;
use x86_64::structures::idt::{Entry, HandlerFunc, InterruptDescriptorTable};

/// The first vector that only interrupts have. The vectors before it are exceptions', and interrupts', too, from
/// [`LOWEST_VECTOR`](tollgate_abi::apic::LOWEST_VECTOR) on.
pub const FIRST: u8 = 32;
const GATES: usize = 256 - FIRST as usize;
/// The number of gates that share an end, which has to be within reach of their short jumps.
const GROUP: usize = 32;
const GATE_BYTES: usize = 4;
const GROUP_BYTES: usize = GROUP * GATE_BYTES + 16;
/// The mask of all bits but RFLAGS.IF.
const WITHOUT_IF: i32 = !(RFLAGS_IF as i32);

/// The table's entries, all alike: the type has no names for reserved vectors, which an interrupt may have all the same.
pub fn entries(table: &mut InterruptDescriptorTable) -> &mut [Entry<HandlerFunc>; 256] {
    const _: () = assert!(size_of::<InterruptDescriptorTable>() == size_of::<[Entry<HandlerFunc>; 256]>());
    // SAFETY: the table is 256 entries one behind the other, as the processor wants it (SDM 3A 7.10), and `repr(C)`. The entries
    // differ in the type of their handler, which is a marker.
    unsafe { &mut *core::ptr::from_mut(table).cast() }
}

/// The address of the handler of a vector from [`FIRST`] on.
pub fn address(vector: u8) -> u64 {
    let at = usize::from(vector - FIRST);
    let within = at / GROUP * GROUP_BYTES + at % GROUP * GATE_BYTES;
    gates as *const () as u64 + within as u64
}

/// The handlers, one behind the other. Each leaves its vector in AL, and RFLAGS.IF clear, so that no other interrupt comes right
/// behind.
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
        without_if = const WITHOUT_IF,
    )
}

/// An exception whose vector an interrupt may have.
pub trait Exception {
    /// The vector.
    const VECTOR: u8;

    /// The exception's handler, which finds registers and stack as the processor has left them.
    ///
    /// # Safety
    /// The processor calls it.
    unsafe extern "C" fn handle();
}

/// The gate of a vector that an exception and interrupts share. In the window it is an interrupt's, as at [`gates`]; anywhere
/// else it is the exception's. The word that is compared is RIP, or an error code, which is never an address in the monitor.
///
/// # Safety
/// The processor calls it.
#[unsafe(naked)]
pub unsafe extern "C" fn shared<E: Exception>() {
    naked_asm!(
        "push rax",
        "lea rax, [rip + tollgate_window]",
        "cmp [rsp + 8], rax",
        "je 2f",
        // Behind the window's NOP.
        "inc rax",
        "cmp [rsp + 8], rax",
        "je 2f",
        "pop rax",
        "jmp {handle}",
        "2:",
        "pop rax",
        "mov al, {vector}",
        "and dword ptr [rsp + 16], {without_if}",
        "iretq",
        handle = sym E::handle,
        vector = const E::VECTOR,
        without_if = const WITHOUT_IF,
    )
}

/// Closes the window, with the global interrupt flag clear and RFLAGS.IF set.
#[cfg(not(test))]
macro_rules! close {
    () => {
        "clgi\nsti"
    };
}
/// A test goes through the gates as a user program, which has no such instructions.
#[cfg(test)]
macro_rules! close {
    () => {
        "nop"
    };
}

/// Lets in the interrupt that waits: sets the global interrupt flag, which is clear, and clears it again. STI takes effect with
/// STGI. Returns the vector, or 0 if none waits.
///
/// # Safety
/// EFER.SVME is set, and the IDT has these gates.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn let_in() -> u64 {
    naked_asm!("xor eax, eax", "sti", "stgi", ".globl tollgate_window", "tollgate_window:", "nop", close!(), "ret",)
}

#[cfg(test)]
mod tests {
    use core::arch::asm;

    use tollgate_abi::apic::LOWEST_VECTOR;
    use tollgate_abi::x86::exception::has_error_code;
    use x86_64::VirtAddr;

    use super::*;

    unsafe extern "C" {
        fn tollgate_window();
    }

    /// Added to the vector of an exception by the test's own handler; no vector has this bit.
    const SEEN: u64 = 0x100;

    /// An exception of the test's, whose handler goes on where it came up.
    struct Seen<const VECTOR: u8>;

    impl<const VECTOR: u8> Exception for Seen<VECTOR> {
        const VECTOR: u8 = VECTOR;

        #[unsafe(naked)]
        unsafe extern "C" fn handle() {
            naked_asm!(
                "mov eax, {seen}",
                ".if {has_error_code}",
                "add rsp, 8",
                ".endif",
                "iretq",
                seen = const SEEN + VECTOR as u64,
                has_error_code = const has_error_code(VECTOR) as u64,
            )
        }
    }

    macro_rules! shared_gates {
        ($($vector:literal),*) => {
            [$(($vector, shared::<Seen<$vector>> as *const () as u64)),*]
        };
    }

    const SHARED: usize = (FIRST - LOWEST_VECTOR) as usize;

    fn shared_gates() -> [(u8, u64); SHARED] {
        shared_gates!(16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31)
    }

    /// Goes through a gate as the processor does that has come to `rip`, with or without an error code; but with the frame of
    /// this very program. There is a RET at `rip`.
    fn take(gate: u64, rip: u64, error_code: Option<u64>) -> u64 {
        let taken: u64;
        // SAFETY: the frame goes on at `rip`, which returns to the label, with this stack, these flags and segments. The red zone
        // is kept.
        unsafe {
            asm!(
                "sub rsp, 128",
                "lea {other}, [rip + 2f]",
                "push {other}",
                "mov {stack}, rsp",
                "xor {other:e}, {other:e}",
                "mov {other:x}, ss",
                "push {other}",
                "push {stack}",
                "pushfq",
                "xor {other:e}, {other:e}",
                "mov {other:x}, cs",
                "push {other}",
                "push {rip}",
                "test {has_error_code:l}, {has_error_code:l}",
                "jz 3f",
                "push {error_code}",
                "3:",
                "xor eax, eax",
                "jmp {gate}",
                "2:",
                "lea rsp, [rsp + 128]",
                gate = in(reg) gate,
                rip = in(reg) rip,
                has_error_code = in(reg) u64::from(error_code.is_some()),
                error_code = in(reg) error_code.unwrap_or(0),
                stack = out(reg) _,
                other = out(reg) _,
                out("rax") taken,
            );
        }
        taken
    }

    fn window() -> u64 {
        tollgate_window as *const () as u64
    }

    /// A place in the monitor where an exception may come up.
    #[unsafe(naked)]
    extern "C" fn elsewhere() {
        naked_asm!("ret")
    }

    #[test]
    fn each_vector_has_a_gate_that_tells_it() {
        let alone = (FIRST..=u8::MAX).map(|vector| (vector, address(vector)));
        let gates: Vec<_> = shared_gates().into_iter().chain(alone).collect();
        assert!(gates.iter().map(|&(vector, _)| vector).eq(LOWEST_VECTOR..=u8::MAX));
        for (vector, gate) in gates {
            for rip in [window(), window() + 1] {
                assert_eq!(take(gate, rip, None), vector.into(), "{rip:#x}");
            }
        }
    }

    #[test]
    fn an_exception_elsewhere_goes_on_to_its_own_handler() {
        for (vector, gate) in shared_gates() {
            let error_code = has_error_code(vector).then_some(0x8000_0001);
            for rip in [elsewhere as *const () as u64, window() + 2] {
                assert_eq!(take(gate, rip, error_code), SEEN + u64::from(vector), "{rip:#x}");
            }
        }
    }

    #[test]
    fn every_entry_is_within_reach() {
        let mut table = InterruptDescriptorTable::new();
        for (vector, entry) in entries(&mut table).iter_mut().enumerate() {
            // SAFETY: nobody loads this table.
            unsafe { entry.set_handler_addr(VirtAddr::new(vector as u64)) };
        }
        let found = [table.breakpoint.handler_addr(), table[32].handler_addr(), table[255].handler_addr()];
        assert_eq!(found.map(VirtAddr::as_u64), [3, 32, 255]);
        assert_eq!(table.security_exception.handler_addr().as_u64(), 30);
    }
}
