//! The registers by which a kernel ends the machine, of the hardware-reduced ACPI: sleep control, sleep status, reset (ACPI 4.8.3.6,
//! 4.8.3.7).

use tollgate_abi::machine::pc::{RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT, SLEEP_TYPE_OFF};

use super::Effect;

/// In the sleep control register: go to the state whose type is in bits 4:2.
const SLEEP_ENABLE: u8 = 1 << 5;

/// A byte to the port at this offset.
pub fn write(at: u16, value: u8) -> Effect {
    const RESET: u16 = RESET_PORT - SLEEP_CONTROL_PORT;
    match at {
        0 if value & SLEEP_ENABLE != 0 && value >> 2 & 7 == SLEEP_TYPE_OFF => Effect::PowerOff,
        RESET if value == RESET_VALUE => Effect::Reset,
        _ => Effect::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_values_of_the_tables_end_the_machine() {
        let off = SLEEP_ENABLE | SLEEP_TYPE_OFF << 2;
        assert_eq!((write(0, off), write(0, off & !SLEEP_ENABLE)), (Effect::PowerOff, Effect::None));
        assert_eq!((write(0, SLEEP_ENABLE), write(1, off), write(2, off)), (Effect::None, Effect::None, Effect::None));
        assert_eq!((write(2, RESET_VALUE), write(2, 0)), (Effect::Reset, Effect::None));
    }
}
