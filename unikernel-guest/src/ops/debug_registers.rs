//! MOV to and from debug registers.
#![expect(unsafe_code, reason = "reads and writes debug registers")]

use core::arch::asm;

use tollgate_abi::exit_reason::ExitReason;

use crate::books::intercepts::book_if_enabled;

macro_rules! debug_register {
    ($name:literal, $read:ident $(, $write:ident)?) => {
        #[doc = concat!("MOV from ", $name, ".")]
        pub(crate) fn $read() -> u64 {
            let value;
            book_if_enabled(ExitReason::MOV_DR, 1);
            // SAFETY: reading a debug register changes nothing.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
            value
        }

        $(
            #[doc = concat!("MOV to ", $name, ", an address that takes effect only when DR7 enables it.")]
            pub(crate) fn $write(value: u64) {
                book_if_enabled(ExitReason::MOV_DR, 1);
                // SAFETY: DR7 enables no breakpoint.
                unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nomem, nostack, preserves_flags)) };
            }
        )?
    };
}

debug_register!("dr0", read_dr0, write_dr0);
debug_register!("dr3", read_dr3, write_dr3);
debug_register!("dr6", read_dr6);
debug_register!("dr7", read_dr7);
