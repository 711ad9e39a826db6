//! The VM-execution, VM-exit and VM-entry controls (SDM 3C 25.6 to 25.8) that the monitor needs, and those that it can live with.

use tollgate_abi::profile::CR8_EXITING;
use tollgate_abi::x86::controls::{bits, entry, exit, pin, proc, proc2};

/// Pin-based controls without which the monitor refuses to run.
pub const PIN_REQUIRED: &[u8] = &[pin::EXTERNAL_INTERRUPT_EXITING, pin::NMI_EXITING];
/// Primary processor-based controls without which the monitor refuses to run.
pub const PROC_REQUIRED: &[u8] = &[
    proc::USE_TSC_OFFSETTING,
    proc::HLT_EXITING,
    proc::USE_IO_BITMAPS,
    proc::USE_MSR_BITMAPS,
    proc::ACTIVATE_SECONDARY_CONTROLS,
];
/// Secondary processor-based controls without which the monitor refuses to run.
pub const PROC2_REQUIRED: &[u8] = &[proc2::ENABLE_EPT];
/// VM-exit controls without which the monitor refuses to run.
pub const EXIT_REQUIRED: &[u8] = &[
    exit::SAVE_DEBUG_CONTROLS,
    exit::HOST_ADDRESS_SPACE_SIZE,
    exit::ACKNOWLEDGE_INTERRUPT,
    exit::SAVE_IA32_EFER,
    exit::LOAD_IA32_EFER,
];
/// VM-entry controls without which the monitor refuses to run.
pub const ENTRY_REQUIRED: &[u8] = &[entry::LOAD_DEBUG_CONTROLS, entry::IA_32E_MODE_GUEST, entry::LOAD_IA32_EFER];

/// Pin-based controls that the monitor can live with if a processor imposes them. In this list and the next ones are: controls
/// that the monitor wants, controls that are 1 on processors which know no better (SDM 3D A.3 to A.5), and intercepts that it has
/// handlers for.
pub const PIN_KNOWN: u32 = PIN_DEFAULT1 | bits(PIN_REQUIRED) | VIRTUAL_NMIS | PREEMPTION_TIMER;
/// Primary processor-based controls that the monitor can live with.
pub const PROC_KNOWN: u32 = PROC_DEFAULT1
    | bits(PROC_REQUIRED)
    | CR8_EXITING
    | bits(&[
        proc::INVLPG_EXITING,
        proc::MWAIT_EXITING,
        proc::RDPMC_EXITING,
        proc::RDTSC_EXITING,
        proc::MOV_DR_EXITING,
        proc::UNCONDITIONAL_IO_EXITING,
        proc::MONITOR_EXITING,
        proc::PAUSE_EXITING,
    ]);
/// Secondary processor-based controls that the monitor can live with.
pub const PROC2_KNOWN: u32 = bits(PROC2_REQUIRED)
    | RDTSCP
    | VPID
    | UNRESTRICTED_GUEST
    | bits(&[proc2::DESCRIPTOR_TABLE_EXITING, proc2::WBINVD_EXITING, proc2::RDRAND_EXITING, proc2::RDSEED_EXITING]);
/// VM-exit controls that the monitor can live with.
pub const EXIT_KNOWN: u32 = EXIT_DEFAULT1 | bits(EXIT_REQUIRED) | SAVE_PREEMPTION_TIMER;
/// VM-entry controls that the monitor can live with.
pub const ENTRY_KNOWN: u32 = ENTRY_DEFAULT1 | bits(ENTRY_REQUIRED);

/// Controls of the default1 class, most of which have no name (SDM 3D A.2).
const PIN_DEFAULT1: u32 = 0x16;
const PROC_DEFAULT1: u32 = 0x0401_e172;
const EXIT_DEFAULT1: u32 = 0x0003_6dff;
const ENTRY_DEFAULT1: u32 = 0x11ff;

/// The timer by which guests that run long are looked at.
pub const PREEMPTION_TIMER: u32 = bits(&[pin::PREEMPTION_TIMER]);
/// The preemption timer counts on across exits. Allowed only with [`PREEMPTION_TIMER`] (SDM 3C 27.2.1.2).
pub const SAVE_PREEMPTION_TIMER: u32 = bits(&[exit::SAVE_PREEMPTION_TIMER]);
/// Translations are kept across exits, under a VPID.
pub const VPID: u32 = bits(&[proc2::ENABLE_VPID]);
/// The guest has RDTSCP and RDPID.
pub const RDTSCP: u32 = bits(&[proc2::ENABLE_RDTSCP]);
/// A guest may run in real mode, and in protected mode without paging.
pub const UNRESTRICTED_GUEST: u32 = bits(&[proc2::UNRESTRICTED_GUEST]);
/// Blocking by NMI is the guest's alone, and ends with its IRET.
pub const VIRTUAL_NMIS: u32 = bits(&[pin::VIRTUAL_NMIS]);
/// NMI-window exiting, set while an NMI waits; allowed only with [`VIRTUAL_NMIS`].
pub const NMI_WINDOW: u32 = bits(&[proc::NMI_WINDOW_EXITING]);
/// Interrupt-window exiting, set while an interrupt waits.
pub const INTERRUPT_WINDOW: u32 = bits(&[proc::INTERRUPT_WINDOW_EXITING]);
/// The secondary controls are in use.
pub const SECONDARY: u32 = bits(&[proc::ACTIVATE_SECONDARY_CONTROLS]);
/// The tertiary controls are in use.
pub const TERTIARY: u32 = bits(&[proc::ACTIVATE_TERTIARY_CONTROLS]);
