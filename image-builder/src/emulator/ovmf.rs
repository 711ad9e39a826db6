//! Emulators with UEFI firmware: OVMF, which starts the application on a stick as a machine's own firmware does.
//!
//! QEMU is what OVMF is made for. Bochs, which has VT-x in full, runs it with a PC's chipset of 1996 and two threads a core.

use std::fs;
use std::path::Path;

use super::process::{Invocation, find_program};
use super::qemu::Accelerator;
use super::{Launch, Platform, REPORTED_KIND_BOCHS, bochs};
use crate::failure::Failure;
use crate::output_file;

/// Names another firmware than the one that the tool has in itself.
pub const FIRMWARE_VARIABLE: &str = "TOLLGATE_OVMF";
/// The stick's image in the run's directory. What the application writes to it stays there.
pub const STICK: &str = "stick.img";

/// OVMF, as this tool was built with it.
const FIRMWARE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/OVMF.fd"));
const PROGRAM: &str = "qemu-system-x86_64";
const FIRMWARE_FILE: &str = "ovmf.fd";
const SERIAL: &str = "serial.log";
/// What firmware, monitor and guest need, and some.
pub const MEMORY_MIB: u16 = 256;
/// Files of firmware for QEMU are a whole number of these, and not more than 16 MiB.
const FIRMWARE_UNIT_BYTES: usize = 64 << 10;
const MOST_FIRMWARE_BYTES: usize = 16 << 20;

/// The firmware to use.
///
/// # Errors
/// What [`FIRMWARE_VARIABLE`] names is none.
fn firmware() -> Result<Vec<u8>, Failure> {
    let Some(named) = std::env::var_os(FIRMWARE_VARIABLE) else { return Ok(FIRMWARE.to_vec()) };
    let path = Path::new(&named);
    let refuse = |cause: &dyn std::fmt::Display| {
        Failure::platform(format_args!("{FIRMWARE_VARIABLE} names {}, which can't be used: {cause}", path.display()))
            .remedy(format_args!(
                "unset {FIRMWARE_VARIABLE}, or name a firmware with code and variables in one file (Debian's package \
                 `ovmf` has OVMF.fd)"
            ))
    };
    if path.metadata().is_ok_and(|metadata| metadata.len() > MOST_FIRMWARE_BYTES as u64) {
        return Err(refuse(&"it is longer than 16 MiB"));
    }
    let bytes = fs::read(path).map_err(|error| refuse(&error))?;
    // The reset vector lies in its last 16 bytes.
    if bytes.is_empty() || !bytes.len().is_multiple_of(FIRMWARE_UNIT_BYTES) {
        return Err(refuse(&"it is no firmware: its length is not a whole number of 64 KiB"));
    }
    Ok(bytes)
}

/// Writes what Bochs needs to start from `stick` into `directory` and says how to start it there. Every exit is VT-x in full.
///
/// # Errors
/// There is no Bochs or no firmware, or the directory can't be written.
pub fn in_bochs(directory: &Path, stick: &[u8], machine: bochs::Machine, audit: bool) -> Result<Launch, Failure> {
    let program = bochs::find()?;
    place(directory, stick)?;
    let machine = bochs::Machine { cpus: machine.cpus.next_multiple_of(THREADS), ..machine };
    output_file::write(&directory.join(bochs::CONFIGURATION), configuration(machine, audit).as_bytes())?;
    output_file::write(&directory.join(bochs::SCRIPT), bochs::SCRIPT_TEXT.as_bytes())?;
    let arguments = ["-q", "-f", bochs::CONFIGURATION, "-rc", bochs::SCRIPT].map(Into::into).to_vec();
    Ok(Launch {
        platform: Platform::Bochs,
        name: format!("Bochs ({}) with OVMF", machine.model.name),
        kind: REPORTED_KIND_BOCHS,
        invocation: Invocation { program, arguments, directory: directory.to_owned() },
        serial: directory.join(bochs::SERIAL),
        exit_log: audit.then(|| directory.join(bochs::LOG)),
        explain: bochs::explain,
    })
}

/// Threads of each core: OVMF takes a processor for broken whose CPUID leaf 0xb has no level for threads, and Bochs has that
/// level where there are several.
const THREADS: u32 = 2;

/// As [`bochs`] has it, with what OVMF wants besides: PCI and its chipset, a disk, a VGA. The debug port tells the application
/// that it may end the machine.
fn configuration(bochs::Machine { model, memory_mib, cpus }: bochs::Machine, audit: bool) -> String {
    format!(
        "plugin_ctrl: speaker=0, extfpuirq=0, parallel=0, gameport=0
display_library: term
romimage: file={FIRMWARE_FILE}
vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest
cpu: model={}, count=1:{}:{THREADS}, ips=10000000, reset_on_triple_fault=0, ignore_bad_msrs=1, cpuid_limit_winnt=0
memory: guest={memory_mib}, host={memory_mib}
clock: sync=none, time0=1000000000
pci: enabled=1, chipset=i440fx
vga: extension=vbe, realtime=0
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path={STICK}, mode=flat
boot: disk
com1: enabled=1, mode=file, dev={}
port_e9_hack: enabled=1
log: {}
logprefix: %t%e%d
panic: action=fatal
error: action=report
info: action=ignore
debug: action=ignore{}
",
        model.name,
        cpus / THREADS,
        bochs::SERIAL,
        bochs::LOG,
        bochs::reports(cpus, audit),
    )
}

/// Writes firmware and stick.
fn place(directory: &Path, stick: &[u8]) -> Result<(), Failure> {
    output_file::write(&directory.join(FIRMWARE_FILE), &firmware()?)?;
    output_file::write(&directory.join(STICK), stick)
}

/// Writes what a QEMU of `cpus` processors needs to start from `stick` into `directory` and says how to start it there.
///
/// # Errors
/// There is no QEMU or no firmware, or the directory can't be written.
pub fn in_qemu(directory: &Path, stick: &[u8], cpus: u32, accelerator: Accelerator) -> Result<Launch, Failure> {
    let program = find_program(PROGRAM).ok_or_else(|| {
        Failure::platform(format_args!("{PROGRAM} is not in PATH"))
            .remedy("apt-get install --no-install-recommends qemu-system-x86")
    })?;
    place(directory, stick)?;
    let (accelerated, cpu, name, kind) = match accelerator {
        Accelerator::Kvm => ("kvm", "host,+vmx", "QEMU with KVM and OVMF", "qemu-kvm"),
        Accelerator::Tcg => ("tcg", "max", "QEMU without KVM, with OVMF", "qemu-tcg"),
    };
    let (serial, drive) = (format!("file:{SERIAL}"), format!("format=raw,file={STICK}"));
    let (cpus, memory) = (cpus.to_string(), MEMORY_MIB.to_string());
    let arguments = [
        ["-accel", accelerated],
        ["-cpu", cpu],
        ["-bios", FIRMWARE_FILE],
        ["-m", &memory],
        ["-smp", &cpus],
        ["-drive", &drive],
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
        explain,
    })
}

/// What QEMU said when it ended without a verdict, as far as there is a known remedy.
fn explain(said: &str) -> Option<Failure> {
    (said.contains("could not load PC BIOS") || said.contains("bios image")).then(|| {
        Failure::platform("QEMU can't load the UEFI firmware").remedy(format_args!("unset {FIRMWARE_VARIABLE}"))
    })
}
