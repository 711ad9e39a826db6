//! Bochs: the VT-x machine that every build machine can have. It repeats to the byte and keeps its own log of VM exits.
//!
//! The recipe was found by trial on Debian's Bochs 2.7: without the dummy sound drivers it aborts where there is no
//! sound card, without a debugger script it waits for ever, with `clock: sync` other than `none` runs differ.

use std::path::{Path, PathBuf};

use super::models::Model;
use super::process::{Invocation, find_program};
use super::{Launch, Platform, REPORTED_KIND_BOCHS};
use crate::failure::Failure;
use crate::output_file;

/// Names another Bochs than the one in PATH.
pub const PROGRAM_VARIABLE: &str = "TOLLGATE_BOCHS";

const REMEDY: &str = "run ci/setup, or: apt-get install --no-install-recommends bochs bochs-term";
const ROM: &str = "rom.bin";
pub(super) const SERIAL: &str = "serial.log";
pub(super) const LOG: &str = "bochs.log";
pub(super) const CONFIGURATION: &str = "bochsrc";
pub(super) const SCRIPT: &str = "debugger.rc";
/// `c` starts the machine; `q` leaves it when the image breaks into the debugger to say that all is well.
pub(super) const SCRIPT_TEXT: &str = "c\nq\n";

/// What Bochs emulates.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// The processor.
    pub model: &'static Model,
    /// Memory in MiB. Bochs' start takes longer with more: half a second from 512 MiB on.
    pub memory_mib: u16,
    /// Processors. vCPU n runs on processor n; one beyond the vCPUs can send INIT and SIPI.
    pub cpus: u32,
}

/// Memory in MiB unless asked otherwise: what the monitor and its guest need, and some.
pub const MEMORY_MIB: u16 = 32;

impl Machine {
    /// A processor with the usual memory.
    pub fn new(model: &'static Model) -> Self {
        Self { model, memory_mib: MEMORY_MIB, cpus: 1 }
    }
}

/// The Bochs to use.
///
/// # Errors
/// There is none; says how to get it.
pub fn find() -> Result<PathBuf, Failure> {
    if let Some(named) = std::env::var_os(PROGRAM_VARIABLE) {
        let named = named.to_string_lossy();
        return find_program(&named).ok_or_else(|| {
            Failure::platform(format_args!("{PROGRAM_VARIABLE} names `{named}`, which is no program"))
                .remedy(format_args!("correct or unset {PROGRAM_VARIABLE}"))
        });
    }
    let found = find_program("bochs-bin").or_else(|| find_program("bochs"));
    found.ok_or_else(|| {
        Failure::platform("Bochs is not installed: neither bochs-bin nor bochs is in PATH").remedy(REMEDY)
    })
}

/// Writes what Bochs needs into `directory` and says how to start it there.
///
/// # Errors
/// There is no Bochs, or the directory can't be written.
pub fn prepare(directory: &Path, rom: &[u8], machine: Machine, audit: bool) -> Result<Launch, Failure> {
    let program = find()?;
    output_file::write(&directory.join(ROM), rom)?;
    output_file::write(&directory.join(CONFIGURATION), configuration(machine, audit).as_bytes())?;
    output_file::write(&directory.join(SCRIPT), SCRIPT_TEXT.as_bytes())?;
    let arguments = ["-q", "-f", CONFIGURATION, "-rc", SCRIPT].map(Into::into).to_vec();
    let several = if machine.cpus > 1 { format!(", {} CPUs", machine.cpus) } else { String::new() };
    Ok(Launch {
        platform: Platform::Bochs,
        name: format!("Bochs ({}{several})", machine.model.name),
        kind: REPORTED_KIND_BOCHS,
        invocation: Invocation { program, arguments, directory: directory.to_owned() },
        serial: directory.join(SERIAL),
        exit_log: audit.then(|| directory.join(LOG)),
        explain,
    })
}

fn configuration(Machine { model, memory_mib, cpus }: Machine, audit: bool) -> String {
    let debug = reports(cpus, audit);
    format!(
        "plugin_ctrl: biosdev=0, speaker=0, extfpuirq=0, parallel=0, gameport=0, iodebug=0
display_library: term
romimage: file={ROM}
cpu: model={}, count={cpus}, ips=1000000, reset_on_triple_fault=0, ignore_bad_msrs=0, cpuid_limit_winnt=0
memory: guest={memory_mib}, host={memory_mib}
clock: sync=none, time0=1000000000
pci: enabled=0
vga: extension=none, realtime=0
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
com1: enabled=1, mode=file, dev={SERIAL}
log: {LOG}
logprefix: %t%e%d
panic: action=fatal
error: action=report
info: action=ignore
debug: action=ignore{debug}
",
        model.name
    )
}

/// What makes each processor log its own exits for an audit. It numbers itself in hexadecimal.
pub(super) fn reports(cpus: u32, audit: bool) -> String {
    let reporting = if audit { 0..cpus } else { 0..0 };
    reporting.map(|cpu| format!(", cpu{cpu:x}=report")).collect()
}

/// What Bochs said when it ended without a verdict, as far as there is a known remedy.
pub(super) fn explain(said: &str) -> Option<Failure> {
    if said.contains("display library 'term' not available") || said.contains("libbx_term") {
        return Some(Failure::platform("Bochs has no text display: its plugin `term` is missing").remedy(REMEDY));
    }
    if said.contains("CPU model") && said.contains("not") || said.contains("unknown parameter value 'model") {
        return Some(
            Failure::platform("this Bochs does not know the CPU model").remedy("choose one of `tollgate platforms`"),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::models;

    #[test]
    fn every_processor_reports_its_exits_to_an_audit() {
        let model = Model::by_name(models::DEFAULT).unwrap();
        let text = |cpus, audit| configuration(Machine { cpus, ..Machine::new(model) }, audit);
        assert!(text(1, false).contains("\ndebug: action=ignore\n") && text(1, false).contains(", count=1,"));
        assert!(text(1, true).contains("\ndebug: action=ignore, cpu0=report\n"));
        let most = text(16, true);
        assert!(most.contains(", count=16,") && most.contains(" cpu9=report, cpua=report,"), "{most}");
        assert!(most.contains(", cpuf=report\n"), "{most}");
    }
}
