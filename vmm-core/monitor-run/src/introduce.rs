//! The first records of a log: the monitor and its options, the machine, the controls; and the processors that are missing.

use alloc::string::String;
use core::fmt;

use tollgate_abi::ExitReason;
use tollgate_abi::command_line::Options;
use tollgate_abi::exit_reason::SDM_EDITION;
use tollgate_abi::guest_image::{Entry, Mode};
use tollgate_abi::leaves::Answer;
use tollgate_abi::profile::Profile;
use tollgate_abi::record::{PROTOCOL, records};
use tollgate_abi::virtualization::{Extension as Kind, Facts};
use tollgate_abi::x86::msr::MSR_SMI_COUNT;
use vmm_core::session::Session;
use vmm_core::silicon::Silicon;

use crate::extension::Extension;
use crate::firmware::firmware;
use crate::found::Found;
use crate::serial::Serial;
use crate::{Refused, processor, traps};

/// Begins the log, whatever comes of the run.
pub(crate) fn introduce(session: &mut Session<Serial>, line: &str, options: &Options<'_>, facts: Facts, vcpus: usize) {
    let brand = brand(processor::cpuid);
    // The log begins on a line of its own, whatever firmware or terminal left on the current one.
    let _ = fmt::Write::write_str(session.sink(), "\n");
    let record = records::Tollgate {
        protocol: PROTOCOL,
        build: Some(env!("CARGO_PKG_VERSION")),
        platform: Some(firmware().name),
        virtualization: Some(processor::virtualization().map_or("none", |kind| kind.name())),
        cpu: Some(&brand.trim_matches(['\0', ' '])),
        sdm: Some(SDM_EDITION),
        leaf_map: Some(options.leaf_map.name()),
        vcpus: Some(vcpus as u64),
        facts: (facts != Facts::default()).then(|| facts.to_word()),
        options: Some(&line),
    };
    let _ = record.write(session.out());
    remark(session);
}

/// The processor's name in its 48 bytes, as three leaves of CPUID tell it (SDM 2A, CPUID, figure 3-9).
fn brand(cpuid: impl Fn(u32, u32) -> Answer) -> String {
    let mut brand = [0; 48];
    for (leaf, part) in (0x8000_0002..).zip(brand.chunks_exact_mut(16)) {
        let answer = cpuid(leaf, 0);
        for (register, bytes) in [answer.eax, answer.ebx, answer.ecx, answer.edx].iter().zip(part.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&register.to_le_bytes());
        }
    }
    String::from_utf8_lossy(&brand).into_owned()
}

/// Records what decides the cost of exits on this processor, besides its model, and has the session count its system-management interrupts.
pub(crate) fn silicon(session: &mut Session<Serial>) {
    if processor::virtualization() == Some(Kind::VtX) {
        traps::clear_microcode_revision();
        processor::cpuid(1, 0);
    }
    let silicon = Silicon::read(processor::cpuid, traps::try_read_msr, processor::is_in_real_time());
    let _ = silicon.record().write(session.out());
    if silicon.smis.is_some() {
        session.count_smis(|| traps::try_read_msr(MSR_SMI_COUNT).unwrap_or(0));
    }
}

/// Notes on the machine for people, as far as the firmware tells.
fn remark(session: &mut Session<Serial>) {
    session.set_postscript((firmware().postscript)());
    let no_port =
        (!session.sink().exists()).then(|| String::from("there is no serial port at I/O address 0x3f8 (COM1)"));
    for remark in (firmware().remarks)().into_iter().chain(no_port) {
        session.remark(format_args!("(monitor) {remark}"));
    }
}

/// Records the controls of each profile that is used, and what they can produce.
pub(crate) fn controls<B: Extension>(session: &mut Session<Serial>, backend: &B, benches: bool) {
    for profile in Profile::ALL.into_iter().filter(|&profile| benches || profile != Profile::Timing) {
        let controls = backend.controls(profile);
        let [enabled, enabled_high] = [0, 64].map(|first| enabled_from(first, |reason| controls.enable(reason)));
        let record =
            records::Controls { enabled: Some(enabled), enabled_high: Some(enabled_high), ..backend.describe(profile) };
        let _ = record.write(session.out());
    }
}

/// The reasons that are enabled, of the 64 from `first` on, as bits.
fn enabled_from(first: u16, is_enabled: impl Fn(ExitReason) -> bool) -> u64 {
    (0..64).filter(|&bit| is_enabled(ExitReason(first + bit))).fold(0, |word, bit| word | 1u64 << bit)
}

/// Refuses to run if this processor has no guest in the mode in which the guest begins.
pub(crate) fn can_begin(entry: &Entry, found: &Found) -> Result<(), Refused> {
    if entry.mode == Mode::Long || found.has_real_mode() {
        return Ok(());
    }
    let detail = "the guest begins in protected mode without paging, and this CPU's VT-x has no unrestricted guest";
    Err(Refused::new(detail, "run it on a CPU from Westmere on (Bochs: model=tigerlake)"))
}

/// Refuses to run if fewer processors came up than are asked for; or, if the options allow it, says which vCPUs are missing.
pub(crate) fn all_there(
    session: &mut Session<Serial>,
    options: &Options<'_>,
    vcpus: usize,
    found: &Found,
) -> Result<(), Refused> {
    let asked = options.cpus as usize;
    if asked > 1 && !found.has_real_mode() {
        let detail = "several vCPUs start in real mode, and this CPU's VT-x has no unrestricted guest";
        return Err(Refused::new(detail, "run one vCPU, or a CPU from Westmere on (Bochs: model=tigerlake)"));
    }
    if vcpus == asked {
        return Ok(());
    }
    let missing = missing(asked, vcpus);
    if !options.without_missing_cpus {
        return Err(Refused::new(
            missing,
            "ask for as many vCPUs as the machine has processors, or go on without them (--missing-cpus go-on)",
        ));
    }
    session.remark(format_args!("(monitor) {missing}; going on"));
    Ok(())
}

/// The vCPUs that there are not, as a sentence.
fn missing(asked: usize, vcpus: usize) -> String {
    let missing = format_args!("{asked} vCPUs are asked for and {vcpus} processors came up: no vCPU {vcpus}");
    if asked - vcpus > 1 { alloc::format!("{missing} to {}", asked - 1) } else { alloc::format!("{missing}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brand_is_read_from_three_leaves_in_their_order() {
        let text = b"  11th Gen Intel(R) Core(TM) i5-1135G7 @ 2.40GHz";
        let name = brand(|leaf, _| {
            let part = &text[(leaf - 0x8000_0002) as usize * 16..][..16];
            let register = |at: usize| u32::from_le_bytes([part[at], part[at + 1], part[at + 2], part[at + 3]]);
            Answer { eax: register(0), ebx: register(4), ecx: register(8), edx: register(12) }
        });
        assert_eq!(name.as_bytes(), text);
        assert_eq!(brand(|_, _| Answer::ZERO), "\0".repeat(48));
    }

    #[test]
    fn enabled_reasons_are_bits_of_two_words() {
        let is_enabled = |reason: ExitReason| matches!(reason.0, 0 | 10 | 63 | 64 | 76);
        let words = [0, 64].map(|first| enabled_from(first, is_enabled));
        assert_eq!(words, [1 | 1 << 10 | 1 << 63, 1 | 1 << 12]);
    }

    #[test]
    fn vcpus_that_are_missing_are_named() {
        assert!(missing(2, 1).ends_with("1 processors came up: no vCPU 1"), "{}", missing(2, 1));
        assert!(missing(8, 3).ends_with("3 processors came up: no vCPU 3 to 7"), "{}", missing(8, 3));
    }
}
