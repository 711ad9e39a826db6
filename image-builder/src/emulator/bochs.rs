//! Bochs: the VT-x machine, and by other processor models an SVM machine, that every build machine can have. It repeats to the
//! byte and keeps its own log of VM exits.
//!
//! The recipe was found by trial on Debian's Bochs 2.7: without the dummy sound drivers it aborts where there is no
//! sound card, without a debugger script it waits for ever, with `clock: sync` other than `none` runs differ.

use std::path::{Path, PathBuf};

use super::models::Model;
use super::platforms::BOCHS;
use super::process::Invocation;
use super::{Launch, MEMORY_MIB, ROM, SERIAL, and_cpus, find as find_named, in_directory};
use crate::audit::ExitLogFormat;
use crate::failure::Failure;
use crate::output_file;

/// Names another Bochs than the one in PATH.
pub const PROGRAM_VARIABLE: &str = "TOLLGATE_BOCHS";

const REMEDY: &str = "run ci/setup, or: apt-get install --no-install-recommends bochs bochs-term";
const LOG: &str = "bochs.log";
const CONFIGURATION: &str = "bochsrc";
const SCRIPT: &str = "debugger.rc";
/// `c` starts the machine; `q` leaves it when the image breaks into the debugger to say that all is well.
const SCRIPT_TEXT: &str = "c\nq\n";

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
    find_named(PROGRAM_VARIABLE, &["bochs-bin", "bochs"])?.ok_or_else(|| {
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
    Ok(Launch {
        name: format!("Bochs ({}{})", machine.model.name, and_cpus(machine.cpus)),
        kind: BOCHS.name,
        invocation: Invocation { program, arguments, directory: directory.to_owned() },
        serial: directory.join(SERIAL),
        exit_log: audit.then(|| in_directory(directory, LOG, ExitLogFormat::Bochs, machine.cpus)),
        explain,
    })
}

fn configuration(Machine { model, memory_mib, cpus }: Machine, audit: bool) -> String {
    // Each processor logs its own exits, and numbers itself in hexadecimal.
    let reporting = if audit { 0..cpus } else { 0..0 };
    let debug: String = reporting.map(|cpu| format!(", cpu{cpu:x}=report")).collect();
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

/// What Bochs said when it ended without a verdict, as far as there is a known remedy.
fn explain(said: &str) -> Option<Failure> {
    if said.contains("display library 'term' not available") || said.contains("libbx_term") {
        return Some(Failure::platform("Bochs has no text display: its plugin `term` is missing").remedy(REMEDY));
    }
    if said.contains("CPU model") && said.contains("not") || said.contains("unknown parameter value 'model") {
        return Some(
            Failure::platform("this Bochs does not know the CPU model").remedy("choose one of `tollgate platforms`"),
        );
    }
    if said.contains("exception with no resolution") {
        let sentence = "the guest ended in a triple fault, for which Bochs has no exit from SVM: it ends itself";
        return Some(Failure::no_verdict(sentence).remedy("use --on qemu-tcg, which has it, or a model with VT-x"));
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
