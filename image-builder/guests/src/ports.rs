//! The ports that the ACPI tables tell a guest of, and the values that it writes there.

/// The first of the UART's eight ports.
pub const UART: u16 = 0x3f8;

/// The sleep control register: a guest that powers off writes [`POWER_OFF`] (ACPI 6.5, 4.8.3.7).
pub const SLEEP_CONTROL: u16 = 0x600;
/// The sleep status register: a guest clears its wake status before it powers off.
pub const SLEEP_STATUS: u16 = 0x601;
/// The reset register: a guest that resets the machine writes [`RESET_VALUE`].
pub const RESET: u16 = 0x602;

/// The value for the reset register.
pub const RESET_VALUE: u8 = 0x55;

/// SLP_TYP of the state S5, soft off, as `\_S5` has it.
pub const SLEEP_TYPE_OFF: u8 = 5;
/// The value for the sleep control register that powers the machine off: SLP_TYP in bits 4:2, SLP_EN in bit 5.
pub const POWER_OFF: u8 = SLEEP_TYPE_OFF << 2 | 1 << 5;
