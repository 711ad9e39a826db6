//! QEMU: with KVM on an Intel host that offers nested VT-x it runs the image on silicon. Its own emulation has no VT-x.

use std::fs;
use std::path::Path;

use super::process::{Invocation, find_program};
use super::{Launch, Platform};
use crate::failure::Failure;
use crate::output_file;

const PROGRAM: &str = "qemu-system-x86_64";
const ROM: &str = "rom.bin";
const SERIAL: &str = "serial.log";
const BOCHS_INSTEAD: &str = "use --on bochs, which has VT-x everywhere";

/// How QEMU executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// On the processor, by KVM.
    Kvm,
    /// By its own emulation, which has no VT-x: there the image says so and ends.
    Tcg,
}

/// Whether KVM can give a guest VT-x here.
///
/// # Errors
/// Why not, and what would change it.
pub fn nested_vtx() -> Result<(), Failure> {
    if find_program(PROGRAM).is_none() {
        let sentence = format_args!("{PROGRAM} is not in PATH").to_string();
        return Err(Failure::platform(sentence).remedy("apt-get install --no-install-recommends qemu-system-x86"));
    }
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !cpuinfo.lines().any(|line| line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "vmx")) {
        return Err(Failure::platform("this machine's processor offers no VT-x (no vmx in /proc/cpuinfo)")
            .remedy(BOCHS_INSTEAD));
    }
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/kvm") {
        return Err(Failure::platform(format_args!("/dev/kvm can't be opened: {error}"))
            .remedy("load the module kvm_intel and join the group kvm, or use --on bochs"));
    }
    match fs::read_to_string("/sys/module/kvm_intel/parameters/nested") {
        Ok(nested) if matches!(nested.trim(), "Y" | "1") => Ok(()),
        Ok(_) => Err(Failure::platform("KVM does not offer nested VT-x here (kvm_intel.nested is off)")
            .remedy("modprobe -r kvm_intel && modprobe kvm_intel nested=1, or use --on bochs")),
        Err(_) => {
            Err(Failure::platform("KVM's Intel module is not loaded (no /sys/module/kvm_intel)").remedy(BOCHS_INSTEAD))
        }
    }
}

/// Writes what a QEMU of `cpus` processors needs into `directory` and says how to start it there.
///
/// # Errors
/// There is no QEMU, or the directory can't be written.
pub fn prepare(directory: &Path, rom: &[u8], cpus: u32, accelerator: Accelerator) -> Result<Launch, Failure> {
    if accelerator == Accelerator::Kvm {
        nested_vtx()?;
    }
    let program = find_program(PROGRAM).ok_or_else(|| {
        Failure::platform(format_args!("{PROGRAM} is not in PATH"))
            .remedy("apt-get install --no-install-recommends qemu-system-x86")
    })?;
    output_file::write(&directory.join(ROM), rom)?;
    let (accelerated, cpu, name, kind) = match accelerator {
        Accelerator::Kvm => ("kvm", "host,+vmx", "QEMU with KVM", "qemu-kvm"),
        Accelerator::Tcg => ("tcg", "max", "QEMU without KVM", "qemu-tcg"),
    };
    let (serial, cpus) = (format!("file:{SERIAL}"), cpus.to_string());
    let arguments = [
        ["-accel", accelerated],
        ["-cpu", cpu],
        ["-bios", ROM],
        ["-m", "32"],
        ["-smp", &cpus],
        ["-serial", &serial],
        ["-display", "none"],
        ["-monitor", "none"],
        ["-nic", "none"],
        ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"],
    ];
    let arguments = arguments.into_iter().flatten().chain(["-no-reboot"]).map(Into::into).collect();
    Ok(Launch {
        platform: Platform::Qemu,
        name: name.to_owned(),
        kind,
        invocation: Invocation { program, arguments, directory: directory.to_owned() },
        serial: directory.join(SERIAL),
        exit_log: None,
        explain: |_| None,
    })
}
