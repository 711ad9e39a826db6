//! Vectors of the processor's own exceptions and interrupts (SDM 3A 6.15).

macro_rules! vectors {
    ($($name:ident $vector:literal $about:literal;)*) => {
        $(#[doc = $about] pub const $name: u8 = $vector;)*
    };
}

vectors! {
    DE   0 "Divide error.";
    DB   1 "Debug exception.";
    NMI  2 "Non-maskable interrupt.";
    BP   3 "Breakpoint.";
    OF   4 "Overflow.";
    BR   5 "BOUND range exceeded.";
    UD   6 "Undefined opcode.";
    NM   7 "No x87.";
    DF   8 "Double fault.";
    TS  10 "Invalid TSS.";
    NP  11 "Segment not present.";
    SS  12 "Stack-segment fault.";
    GP  13 "General protection.";
    PF  14 "Page fault.";
    MF  16 "x87 error.";
    AC  17 "Alignment check.";
    MC  18 "Machine check.";
    XM  19 "SIMD error.";
    VE  20 "Virtualization exception.";
    CP  21 "Control protection.";
    VC  29 "VMM communication exception (APM 2 8.2.19).";
    SX  30 "Security exception (APM 2 8.2.20).";
}

/// Whether an exception pushes an error code (SDM 3A 6.13, APM 2 8.2).
pub const fn has_error_code(vector: u8) -> bool {
    matches!(vector, DF | TS..=PF | AC | CP | VC | SX)
}
