//! QEMU. With KVM it runs the image on silicon, on a host that offers nested virtualization. Its own emulation (TCG) has SVM with
//! nested paging on every host, repeats to the byte and keeps a log of exits.
//!
//! The settings by which it repeats were found by trial on QEMU 7.2. Time counts instructions (`-icount shift=0`, one TSC tick
//! each) and jumps ahead when the processor halts (`sleep=off`; without it runs differ). There is one thread for all processors,
//! a clock of day that starts at a fixed time, and no RDRAND and RDSEED.
//!
//! Another shift only makes a tick worth fewer instructions. A spinning processor gives up its turn by PAUSE; without PAUSE, the
//! next one waits for 100 ms of the machine's time. With OVMF it repeats as well.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tollgate_abi::guest_image::PLACED_HPA;
use tollgate_abi::virtualization::Extension;
use tollgate_books::audit::ExitLogFormat;
use tollgate_books::failure::Failure;

use super::process::Invocation;
use super::{
    Boot, Engine, Installed, Launch, Machine, PLACED, SERIAL, STICK, Target, and_cpus, find as find_named, in_directory,
};

/// The variable that names another QEMU than the one in PATH.
pub const PROGRAM_VARIABLE: &str = "TOLLGATE_QEMU";

const PROGRAM: &str = "qemu-system-x86_64";
const REMEDY: &str = "run ci/setup, or: apt-get install --no-install-recommends qemu-system-x86";
const EXIT_LOG: &str = "exits.log";
/// Addresses at which no code runs: `-d in_asm` asks for a disassembly, which is left out by these, and the exits remain.
const NO_CODE: &str = "0xffffffffff000000..0xffffffffffffffff";

/// The QEMU to use.
///
/// # Errors
/// There is none; the failure says how to get it.
pub fn find() -> Result<PathBuf, Failure> {
    find_named(PROGRAM_VARIABLE, &[PROGRAM])?.ok_or_else(|| {
        Failure::platform(format_args!("QEMU is not installed: {PROGRAM} is not in PATH")).remedy(REMEDY)
    })
}

/// Writes the files that QEMU needs to start from `boot` into `directory`, and returns the way to start it there.
///
/// # Errors
/// The platform does not work here, there is no firmware, or the directory can't be written.
pub fn prepare(directory: &Path, boot: Boot<'_>, machine: Machine, audit: bool) -> Result<Launch, Failure> {
    let Machine { target: Target { platform, .. }, cpus, .. } = machine;
    let program = find()?;
    platform.works()?;
    let emulator = Installed::of(platform.engine, &program);
    let placed = boot.place(directory, &emulator)?;
    let audited = audit && platform.logs_exits;
    Ok(Launch {
        name: format!("{platform}{} ({}{})", boot.with_firmware(), platform.extension, and_cpus(cpus)),
        platform,
        emulator,
        notes: placed.notes,
        by_firmware: boot.by_firmware(),
        invocation: Invocation {
            program,
            arguments: arguments(boot, placed.file, machine, audited),
            directory: directory.to_owned(),
            tells_when_interrupted: false,
        },
        serial: directory.join(SERIAL),
        exit_log: audited.then(|| in_directory(directory, EXIT_LOG, ExitLogFormat::Qemu, cpus)),
        explain,
    })
}

fn arguments(boot: Boot<'_>, image: &str, machine: Machine, audit: bool) -> Vec<OsString> {
    let execution = match (machine.target.engine(), machine.target.extension()) {
        (Engine::Tcg, _) => {
            "-accel tcg,thread=single -icount shift=0,sleep=off -rtc base=2000-01-01,clock=vm \
             -cpu max,+svm,-rdrand,-rdseed"
        }
        (Engine::Kvm | Engine::Bochs, Extension::VtX) => "-accel kvm -cpu host,+vmx",
        (Engine::Kvm | Engine::Bochs, Extension::Svm) => "-accel kvm -cpu host,+svm",
    };
    let fixed = "-no-user-config -nodefaults -machine pc -display none -no-reboot";
    let devices = format!("-bios {image} -serial file:{SERIAL} -device isa-debug-exit,iobase=0xf4,iosize=4");
    let drive = match boot {
        Boot::Rom(_) => String::new(),
        Boot::RomAndGuest(..) => format!("-device loader,file={PLACED},addr={PLACED_HPA:#x},force-raw=on"),
        // By the PC's own controller firmware would read each word by an access to a port, a MiB a second.
        Boot::Stick(_) => format!("-vga std -drive if=virtio,format=raw,file={STICK}"),
    };
    let size = format!("-m {} -smp {}", machine.memory_mib, machine.cpus);
    let log = if audit { format!("-d in_asm -dfilter {NO_CODE} -D {EXIT_LOG}") } else { String::new() };
    [execution, fixed, &devices, &drive, &size, &log]
        .iter()
        .flat_map(|words| words.split_whitespace())
        .map(Into::into)
        .collect()
}

const NEWER: &str = "install QEMU 7.2 or newer (7.2, 10.0 and 11.1 were tried), or use --on bochs";
const DEBIANS: &str = "install Debian's qemu-system-x86, or use --on bochs";
const NOT_KVM: &str = "use --on qemu-tcg or --on bochs";

/// The words of a QEMU that can't start, their meaning, and the remedy.
const COMPLAINTS: [(&str, &str, &str); 9] = [
    (".svm' not found", "this QEMU emulates no SVM", NEWER),
    ("TCG doesn't support requested feature: CPUID.80000001H:ECX.svm", "this QEMU emulates no SVM", NEWER),
    ("unable to find CPU model", "this QEMU is too old: it has no CPU model `max`", NEWER),
    ("invalid accelerator tcg", "this QEMU was built without its own emulation", DEBIANS),
    ("invalid accelerator kvm", "this QEMU was built without KVM", DEBIANS),
    ("Could not access KVM kernel module", "QEMU may not use /dev/kvm", "join the group kvm, or use --on qemu-tcg"),
    ("failed to initialize kvm", "KVM does not work here", NOT_KVM),
    ("could not load PC BIOS", "QEMU can't load the UEFI firmware", "unset TOLLGATE_OVMF"),
    ("failed to set MSR", "this KVM can't give a guest the host's processor", NOT_KVM),
];

/// The failure that the last words of a QEMU without a verdict stand for, if its remedy is known.
fn explain(said: &str) -> Option<Failure> {
    let (_, sentence, remedy) = COMPLAINTS.iter().find(|(complaint, ..)| said.contains(complaint))?;
    Some(Failure::platform(sentence).remedy(remedy))
}

/// Whether QEMU's log of exits ends in a guest.
pub fn was_in_guest(launch: &Launch) -> bool {
    launch.exit_log.as_ref().is_some_and(|log| log.ends_behind(&[b"vmrun!"], b"vmexit("))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::PLATFORMS;

    fn words(engine: Engine, extension: Extension, cpus: u32, audit: bool) -> String {
        let platform = PLATFORMS.iter().find(|row| (row.engine, row.extension) == (engine, extension)).unwrap();
        let boot = Boot::Rom(&[]);
        let arguments = arguments(boot, "rom.bin", Machine { cpus, ..Machine::new(Target::of(platform), boot) }, audit);
        arguments.into_iter().map(|word| word.into_string().unwrap() + " ").collect()
    }

    #[test]
    fn its_own_emulation_counts_instructions_and_logs_exits_for_an_audit() {
        let plain = words(Engine::Tcg, Extension::Svm, 1, false);
        assert!(plain.contains("-accel tcg,thread=single -icount shift=0,sleep=off "), "{plain}");
        assert!(plain.contains("-m 32 -smp 1 ") && !plain.contains("-d "), "{plain}");
        let audited = words(Engine::Tcg, Extension::Svm, 4, true);
        assert!(audited.contains("-smp 4 -d in_asm -dfilter 0xffffffffff000000..0xffffffffffffffff -D exits.log "));
    }

    #[test]
    fn kvm_passes_the_hosts_extension_on() {
        let check = |extension, part: &str| {
            let words = words(Engine::Kvm, extension, 1, false);
            assert!(words.contains(part) && !words.contains("icount"), "{words}");
        };
        check(Extension::VtX, "-accel kvm -cpu host,+vmx ");
        check(Extension::Svm, "-accel kvm -cpu host,+svm ");
    }

    #[test]
    fn no_machine_has_a_network_or_a_monitor() {
        for row in PLATFORMS.iter().filter(|row| row.engine != Engine::Bochs) {
            let words = words(row.engine, row.extension, 1, true);
            assert!(words.contains("-nodefaults ") && words.contains("-display none "), "{words}");
        }
    }

    #[test]
    fn what_it_complains_about_has_a_remedy() {
        let check = |said: &str, expected: &str| {
            let failure = explain(said).unwrap().to_string();
            assert!(failure.contains(expected) && failure.contains("remedy: "), "{failure}");
        };
        check("qemu-system-x86_64: Property 'max-x86_64-cpu.svm' not found", "emulates no SVM");
        check("qemu-system-x86_64: unable to find CPU model 'max'", "too old");
        check("qemu-system-x86_64: invalid accelerator tcg", "without its own emulation");
        check("Could not access KVM kernel module: Permission denied", "/dev/kvm");
        assert_eq!(explain("something else"), None);
    }
}
