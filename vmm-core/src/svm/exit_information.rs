//! EXITINFO1, EXITINFO2 and EXITINTINFO, decoded (APM 2 15.7 to 15.13, appendix C).

use tollgate_abi::svm_exit::{code, exception};
use tollgate_abi::x86::control::{EVENT_HAS_ERROR_CODE, EVENT_TYPE, EVENT_TYPE_SHIFT, EVENT_VALID};

use crate::exit::{Event, EventKind, IoAccess, PhysicalFault, vector};

/// EXITCODE of #DB.
pub const DB: u32 = exception(vector::DB);
/// EXITCODE of #PF.
pub const PF: u32 = exception(vector::PF);

/// The access of IOIO, from EXITINFO1 (APM 2 15.10.2).
#[inline(always)]
pub const fn io_access(exitinfo1: u64) -> IoAccess {
    IoAccess {
        port: (exitinfo1 >> 16) as u16,
        // Bits 6:4: one bit each for 32, 16 and 8 bits.
        bytes: (exitinfo1 >> 4 & 7) as u8,
        is_in: exitinfo1 & 1 != 0,
        is_string: exitinfo1 & 1 << 2 != 0,
        is_repeated: exitinfo1 & 1 << 3 != 0,
    }
}

/// The address size of string I/O in bytes: bits 9:7 have one bit each for 64, 32 and 16 bits. QEMU sets none (seen on 7.2).
pub const fn string_io_address_bytes(exitinfo1: u64) -> Option<u8> {
    match exitinfo1 >> 7 & 7 {
        0 => None,
        1 => Some(2),
        2 => Some(4),
        _ => Some(8),
    }
}

/// The access that nested paging refused: EXITINFO1 is like a page fault's error code, EXITINFO2 the address (APM 2 15.25.6).
#[inline(always)]
pub const fn physical_fault(exitinfo1: u64, exitinfo2: u64) -> PhysicalFault {
    let (write, fetch) = (exitinfo1 >> 1 & 1 != 0, exitinfo1 >> 4 & 1 != 0);
    PhysicalFault { gpa: exitinfo2, read: !write && !fetch, write, fetch }
}

/// The exception or NMI of an exit, if it is for one. `instruction_bytes` is wanted for INT3 and INTO only.
pub fn event(code: u32, exitinfo1: u64, instruction_bytes: impl FnOnce() -> u8) -> Option<Event> {
    let is_one = code == code::NMI || (code::EXCP0..=code::EXCP31).contains(&code);
    is_one.then(|| exception_or_nmi(code, exitinfo1, instruction_bytes))
}

/// The exception or NMI of an exit that is known to be for one.
#[inline(always)]
pub fn exception_or_nmi(code: u32, exitinfo1: u64, instruction_bytes: impl FnOnce() -> u8) -> Event {
    if code == code::NMI {
        return Event::NMI;
    }
    let vector = code.wrapping_sub(code::EXCP0) as u8;
    match vector {
        vector::BP | vector::OF => Event {
            kind: EventKind::SoftwareException,
            instruction_bytes: instruction_bytes(),
            ..Event::exception(vector)
        },
        _ if vector::has_error_code(vector) => Event::fault(vector, exitinfo1 as u32),
        _ => Event::exception(vector),
    }
}

/// Types of events (APM 2 15.20).
const INTR: u64 = 0;
const NMI_TYPE: u64 = 2;
const EXCEPTION: u64 = 3;
const SOFTWARE_INTERRUPT: u64 = 4;

/// Whether the exit interrupted the delivery of an event.
#[inline(always)]
pub const fn is_valid(exitintinfo: u64) -> bool {
    exitintinfo & EVENT_VALID != 0
}

/// Whether the event is #BP or #OF, the guest's own or injected.
pub const fn is_software_exception(exitintinfo: u64) -> bool {
    is_valid(exitintinfo)
        && (exitintinfo & EVENT_TYPE) >> EVENT_TYPE_SHIFT == EXCEPTION
        && matches!(exitintinfo as u8, vector::BP | vector::OF)
}

/// The event whose delivery the exit interrupted, from EXITINTINFO. `None` for software interrupts and exceptions of the guest's
/// own: RIP is still at their instruction, which the guest executes again.
#[inline(always)]
pub const fn vectoring_event(exitintinfo: u64) -> Option<Event> {
    if exitintinfo & EVENT_VALID == 0 { None } else { interrupted_event(exitintinfo) }
}

const fn interrupted_event(exitintinfo: u64) -> Option<Event> {
    let vector = exitintinfo as u8;
    match (exitintinfo & EVENT_TYPE) >> EVENT_TYPE_SHIFT {
        INTR => Some(Event::interrupt(vector)),
        NMI_TYPE => Some(Event::NMI),
        EXCEPTION if matches!(vector, vector::BP | vector::OF) => None,
        EXCEPTION if exitintinfo & EVENT_HAS_ERROR_CODE != 0 => Some(Event::fault(vector, (exitintinfo >> 32) as u32)),
        EXCEPTION => Some(Event::exception(vector)),
        _ => None,
    }
}

/// EVENTINJ for an event.
pub const fn injection(event: Event) -> u64 {
    let kind = match event.kind {
        EventKind::ExternalInterrupt => INTR,
        EventKind::Nmi => NMI_TYPE,
        EventKind::SoftwareInterrupt => SOFTWARE_INTERRUPT,
        EventKind::HardwareException | EventKind::PrivilegedSoftwareException | EventKind::SoftwareException => {
            EXCEPTION
        }
    };
    let error_code = match event.error_code {
        Some(code) => EVENT_HAS_ERROR_CODE | (code as u64) << 32,
        None => 0,
    };
    EVENT_VALID | event.vector as u64 | kind << EVENT_TYPE_SHIFT | error_code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::vector;

    #[test]
    fn port_accesses() {
        let access = io_access(0x3f8_0000 | 1 << 4);
        assert_eq!((access.port, access.bytes, access.is_in, access.is_string), (0x3f8, 1, false, false));
        let access = io_access(0x5f0_0000 | 1 << 9 | 1 << 6 | 1 << 3 | 1 << 2 | 1);
        assert_eq!((access.bytes, access.is_in, access.is_string, access.is_repeated), (4, true, true, true));
        let sizes = [0u64, 1 << 7, 1 << 8, 1 << 9].map(string_io_address_bytes);
        assert_eq!(sizes, [None, Some(2), Some(4), Some(8)]);
    }

    #[test]
    fn nested_faults() {
        let fault = |error, read, write, fetch| {
            assert_eq!(physical_fault(error, 0x80_1000), PhysicalFault { gpa: 0x80_1000, read, write, fetch });
        };
        fault(1 << 32 | 1 << 2, true, false, false);
        fault(1 << 32 | 1 << 2 | 1 << 1, false, true, false);
        fault(1 << 32 | 1 << 4, false, false, true);
    }

    #[test]
    fn events_of_exits() {
        let check = |code, expected| assert_eq!(event(code, 0x18, || 1), expected, "{code:#x}");
        check(exception(vector::GP), Some(Event::fault(vector::GP, 0x18)));
        check(exception(vector::UD), Some(Event::UNDEFINED_OPCODE));
        check(code::NMI, Some(Event::NMI));
        check(code::INTR, None);
        check(code::CPUID, None);
        let breakpoint = event(exception(vector::BP), 0, || 1).unwrap();
        assert_eq!((breakpoint.kind, breakpoint.instruction_bytes), (EventKind::SoftwareException, 1));
    }

    #[test]
    fn what_is_injected_comes_back_if_it_is_interrupted() {
        for event in [Event::interrupt(0x41), Event::NMI, Event::UNDEFINED_OPCODE, Event::fault(vector::PF, 2)] {
            assert_eq!(vectoring_event(injection(event)), Some(event));
        }
        assert_eq!(injection(Event::fault(vector::GP, 8)), 8 << 32 | 0x8000_0b0d);
        assert_eq!(vectoring_event(0x0000_0b0d), None);
        for executed_again in [0x8000_0430, 0x8000_0303] {
            assert_eq!(vectoring_event(executed_again), None);
        }
    }
}
