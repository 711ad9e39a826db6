//! The machine of guests that are built for Tollgate: 16 MiB of memory, half of it mapped on first touch, and two ports.

use super::{Behind, ConstantMsr, Device, Mapping, Model, POST_PORT, Region, Writes};
use crate::x86::msr::{IA32_BIOS_SIGN_ID, IA32_MISC_ENABLE};

/// Memory that is mapped from the start, in bytes from guest-physical 0.
const RAM_BYTES: u64 = 8 << 20;
/// Memory that is mapped page by page on first touch, in bytes above that.
const FRESH_BYTES: u64 = 8 << 20;

/// A port that gives back what was written to it, in order: a queue of [`LOOPBACK_BYTES`](super::LOOPBACK_BYTES). Empty, it reads
/// `0xff`.
pub const LOOPBACK_PORT: u16 = 0x5f0;

/// IA32_MISC_ENABLE: fast strings, and nothing else.
const FAST_STRINGS: u64 = 1;

/// The MSRs that always read the same value.
pub(super) const CONSTANT_MSRS: &[ConstantMsr] = &[
    ConstantMsr { msr: IA32_MISC_ENABLE, value: FAST_STRINGS, writes: Writes::Refused },
    // The version of the microcode, of which there is none. Software writes 0 before it asks for the version.
    ConstantMsr { msr: IA32_BIOS_SIGN_ID, value: 0, writes: Writes::Ignored },
];

/// The unikernel's machine.
pub const UNIKERNEL: Model = Model {
    memory: &[
        Region { gpa: 0, bytes: RAM_BYTES, mapping: Mapping::Always },
        Region { gpa: RAM_BYTES, bytes: FRESH_BYTES, mapping: Mapping::OnFirstTouch },
    ],
    devices: &[
        Device { behind: Behind::Byte, first_port: POST_PORT, ports: 1 },
        Device { behind: Behind::Loopback, first_port: LOOPBACK_PORT, ports: 1 },
    ],
    pages: &[],
    io_apic: None,
    has_isa_bus: false,
    msrs: CONSTANT_MSRS,
    paravirtual_leaf: None,
};
