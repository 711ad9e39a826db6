//! Bochs: a VT-x machine, and by other processor models an SVM machine, that every build machine can have. It repeats to the byte
//! and keeps its own log of VM exits.
//!
//! The recipe was found by trial on Debian's Bochs 2.7. Without the dummy sound drivers it aborts if there is no sound card;
//! without a debugger script it waits for ever; with another `clock: sync` than `none` runs differ.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use tollgate_abi::guest_image::PLACED_HPA;
use tollgate_abi::quick::QUICK;
use tollgate_abi::svm_exit;
use tollgate_books::audit::ExitLogFormat;
use tollgate_books::failure::{Failure, Status};
use tollgate_books::output_file;

use super::models::Model;
use super::process::{Invocation, STDOUT};
use super::versions::Behaviour;
use super::{
    Boot, Engine, Installed, Launch, Machine, PLACED, SERIAL, STICK, and_cpus, find as find_named, in_directory,
    vga_rom,
};

/// The variable that names another Bochs than the one in PATH.
pub const PROGRAM_VARIABLE: &str = "TOLLGATE_BOCHS";

const REMEDY: &str = "run ci/setup, or: apt-get install --no-install-recommends bochs bochs-term";
const LOG: &str = "bochs.log";
const CONFIGURATION: &str = "bochsrc";
const SCRIPT: &str = "debugger.rc";
const SCRIPT_OPTION: &str = "-rc";
const DEBUGGER: &str = "-debugger";
/// `c` starts the machine; `q` leaves it when the image breaks into the debugger to say that all is well.
const SCRIPT_TEXT: &str = "c\nq\n";

/// The Bochs to use.
///
/// # Errors
/// There is none; the failure says how to get it.
pub fn find() -> Result<PathBuf, Failure> {
    find_named(PROGRAM_VARIABLE, &["bochs-bin", "bochs"])?.ok_or_else(|| {
        Failure::platform("Bochs is not installed: neither bochs-bin nor bochs is in PATH").remedy(REMEDY)
    })
}

/// Writes the files that Bochs needs to start from `boot` into `directory`, and returns the way to start it there.
///
/// # Errors
/// There is no Bochs or no firmware, or the directory can't be written.
pub fn prepare(directory: &Path, boot: Boot<'_>, machine: Machine, audit: bool) -> Result<Launch, Failure> {
    let program = find()?;
    let emulator = Installed::of(Engine::Bochs, &program);
    let model = machine.target.model.unwrap_or_else(Model::usual);
    check_parts(&emulator, model)?;
    if matches!(boot, Boot::RomAndGuest(..)) && emulator.has(Behaviour::RamImagesAtZero) {
        let sentence = format!("{} can't place a guest in memory: it puts every page at address 0", emulator.title);
        return Err(Failure::platform(sentence)
            .remedy(format_args!("use --on qemu-tcg, or name a Bochs 2.7 or 3.0 with {PROGRAM_VARIABLE}")));
    }
    let mut placed = boot.place(directory, &emulator)?;
    output_file::write(&directory.join(vga_rom::FILE), &vga_rom::build())?;
    let chipset = Chipset::new(boot);
    let machine = Machine { cpus: machine.cpus.next_multiple_of(chipset.threads), ..machine };
    let without_cet = matches!(boot, Boot::Stick(_)) && model.has_cet() && emulator.has(Behaviour::CetEndsOvmf);
    if without_cet {
        placed
            .notes
            .push(format!("the processor is without CET, with which {} ends itself under OVMF", emulator.title));
    }
    let features = if without_cet { ", exclude_features=cet" } else { "" };
    let configuration = configuration(placed.file, &chipset, model, machine, features, audit);
    let invocation = invocation(directory, program, &emulator, &configuration)?;
    Ok(Launch {
        name: format!("Bochs{} ({}{})", boot.with_firmware(), model.name, and_cpus(machine.cpus)),
        platform: machine.target.platform,
        emulator,
        notes: placed.notes,
        by_firmware: boot.by_firmware(),
        invocation,
        serial: directory.join(SERIAL),
        exit_log: audit.then(|| in_directory(directory, LOG, ExitLogFormat::Bochs, machine.cpus)),
        explain,
    })
}

/// Writes a configuration and the debugger's script into a directory, and returns the way to start Bochs there.
pub(super) fn invocation(
    directory: &Path,
    program: PathBuf,
    emulator: &Installed,
    configuration: &str,
) -> Result<Invocation, Failure> {
    output_file::write(&directory.join(CONFIGURATION), configuration.as_bytes())?;
    output_file::write(&directory.join(SCRIPT), SCRIPT_TEXT.as_bytes())?;
    // Bochs 3 runs without its debugger unless it is asked for it. The image then can't end it, and a tick is no instruction.
    let debugger = emulator.help_lists(DEBUGGER).then_some(DEBUGGER);
    let arguments =
        ["-q", "-f", CONFIGURATION, SCRIPT_OPTION, SCRIPT].into_iter().chain(debugger).map(Into::into).collect();
    // Its debugger takes the interrupt for a break, says the tick and each processor's place, and goes on to the script's end.
    Ok(Invocation { program, arguments, directory: directory.to_owned(), tells_when_interrupted: true })
}

/// The line that places a guest in memory.
fn placed(boot: Boot<'_>) -> String {
    match boot {
        Boot::RomAndGuest(..) => format!("\noptramimage1: file={PLACED}, address={PLACED_HPA:#x}"),
        Boot::Rom(_) | Boot::Stick(_) => String::new(),
    }
}

/// The devices around the processors.
pub(super) struct Chipset {
    /// The plugins that are left out.
    pub(super) without: &'static str,
    /// Threads of each core.
    pub(super) threads: u32,
    /// Instructions in a second of its clocks.
    pub(super) ips: u32,
    /// Whether an MSR that Bochs has not reads 0, and raises no #GP.
    pub(super) ignore_bad_msrs: u32,
    /// Lines of the configuration.
    pub(super) devices: String,
}

impl Chipset {
    fn new(boot: Boot<'_>) -> Self {
        match boot {
            // As little as possible: a serial port.
            Boot::Rom(_) | Boot::RomAndGuest(..) => Self {
                without: "biosdev=0, speaker=0, parallel=0, gameport=0, iodebug=0",
                threads: 1,
                ips: 1_000_000,
                ignore_bad_msrs: 0,
                devices: format!("pci: enabled=0\nvga: extension=none, realtime=0{}", placed(boot)),
            },
            // The devices that OVMF needs besides. It takes a processor for broken if CPUID leaf 0xb has no level for threads,
            // and Bochs has that level if a core has several. The debug port tells the application that it may end the machine.
            Boot::Stick(_) => Self {
                without: "speaker=0, parallel=0, gameport=0",
                threads: 2,
                ips: 10_000_000,
                ignore_bad_msrs: 1,
                devices: format!(
                    "pci: enabled=1, chipset=i440fx
vga: extension=vbe, realtime=0
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path={STICK}, mode=flat
boot: disk
port_e9_hack: enabled=1"
                ),
            },
        }
    }
}

/// Refuses a Bochs that lacks the debugger or the processor model.
pub(super) fn check_parts(emulator: &Installed, model: &Model) -> Result<(), Failure> {
    if emulator.has_help() && !emulator.help_lists(SCRIPT_OPTION) {
        let sentence = format_args!("{} was built without its debugger, by which the image ends it", emulator.title);
        return Err(Failure::platform(sentence).remedy(REMEDY));
    }
    if emulator.has_model(model.parts().0) == Some(false) {
        let sentence = format_args!("{} has no processor model `{}`", emulator.title, model.name);
        return Err(Failure::platform(sentence).remedy("choose one that `tollgate platforms` lists"));
    }
    Ok(())
}

/// Cores of a package, as Bochs' option `count` takes them.
const MOST_CORES: u32 = 8;

/// The configuration of a machine. `features` are further words about its processors; with `audit` each of them logs.
pub(super) fn configuration(
    image: &str,
    chipset: &Chipset,
    model: &Model,
    machine: Machine,
    features: &str,
    audit: bool,
) -> String {
    let Machine { memory_mib, cpus, .. } = machine;
    let Chipset { without, threads, ips, ignore_bad_msrs, devices } = chipset;
    // Each processor logs its own exits for an audit, with its number in hexadecimal.
    let (base, added) = model.parts();
    let added = if added.is_empty() { String::new() } else { format!(", add_features=\"{added}\"") };
    // A package of Bochs has eight cores at most: more processors are packages of their own.
    let cores = cpus / threads;
    let (sockets, cores) = if cores > MOST_CORES { (cores, 1) } else { (1, cores) };
    let reporting = if audit { 0..cpus } else { 0..0 };
    let reports: String = reporting.map(|cpu| format!(", cpu{cpu:x}=report")).collect();
    format!(
        "plugin_ctrl: {without}
display_library: term
romimage: file={image}
vgaromimage: file={}
cpu: model={base}{added}{features}, count={sockets}:{cores}:{threads}, ips={ips}, reset_on_triple_fault=0, ignore_bad_msrs={ignore_bad_msrs}, cpuid_limit_winnt=0
memory: guest={memory_mib}, host={memory_mib}
clock: sync=none, time0=1000000000
{devices}
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
com1: enabled=1, mode=file, dev={SERIAL}
log: {LOG}
logprefix: %t%e%d
panic: action=fatal
error: action=report
info: action=ignore
debug: action=ignore{reports}
",
        vga_rom::FILE,
    )
}

/// The failure that the last words of a Bochs without a verdict stand for, if its remedy is known.
fn explain(said: &str) -> Option<Failure> {
    let row = COMPLAINTS.iter().find(|row| row.0.iter().any(|part| said.contains(part)))?;
    let (_, status, sentence, remedy) = *row;
    Some(Failure::new(status, sentence).remedy(remedy))
}

/// Bochs' message at a triple fault.
const UNRESOLVED: &str = "exception with no resolution";
const OTHER_MODEL: &str = "choose one of `tollgate platforms`";
const SMALLER: &str = "unset TOLLGATE_OVMF, or name a firmware of 2 MiB or a Bochs of 3.0 or newer with TOLLGATE_BOCHS";
const REINSTALL: &str = "install Debian's bochs and bochs-term again, or name another Bochs with TOLLGATE_BOCHS";

/// Messages with which Bochs gives up, their meaning, and the remedy.
const COMPLAINTS: [(&[&str], Status, &str, &str); 10] = [
    (
        &["display library 'term' not available", "libbx_term", "no gui library"],
        Status::Platform,
        "Bochs has no text display: its plugin `term` is missing",
        REMEDY,
    ),
    (&["unknown parameter value 'model"], Status::Platform, "this Bochs does not know the CPU model", OTHER_MODEL),
    (&["CPU model is not", "CPU model not"], Status::Platform, "this Bochs does not know the CPU model", OTHER_MODEL),
    (&["ROM image too large"], Status::Platform, "the firmware is too large for this Bochs", SMALLER),
    (&["couldn't open ROM image"], Status::Platform, "Bochs finds no ROM image where it looks for it", REINSTALL),
    (
        &["checksum error in VGABIOS", "ROM: checksum error"],
        Status::Platform,
        "Bochs takes the ROM image for damaged: its checksum is wrong",
        REINSTALL,
    ),
    (
        &["Plugin '", "plugin_ctrl"],
        Status::Platform,
        "this Bochs lacks a plugin that the run needs or leaves out",
        REINSTALL,
    ),
    (
        &["PAE: asked to set dirty on paging leaf"],
        Status::Platform,
        "Bochs ended itself over CET, which the firmware uses",
        "use --cpu corei7_icelake_u, which has no CET",
    ),
    (
        &["image locked", "could not open hard drive image"],
        Status::Platform,
        "Bochs can't open the stick's image: another one has it, or left a lock",
        "end the other run, or remove stick.img.lock in the directory of --out",
    ),
    (
        &[UNRESOLVED],
        Status::NoVerdict,
        "the guest ended in a triple fault, for which this Bochs has no exit from SVM: it ends itself",
        "use --on qemu-tcg, which has it, or a model with VT-x",
    ),
];

/// Bochs' log line of an entry under SVM.
const ENTRY: &[u8] = b"VMRUN VMCB ptr";
/// The line of an exit.
const EXIT: &[u8] = b"VMEXIT reason=";

/// Whether the guest ended Bochs, by a triple fault under SVM, for which Bochs makes no exit. A triple fault of the monitor would
/// be another matter.
pub fn guest_ended_it(launch: &Launch, said: &str) -> bool {
    Stays::of(launch).is_some_and(|stays| stays.unresolved_in_guest(said))
}

/// Whether a processor ran its guest, under SVM, for more than so many ticks up to the end of Bochs' log, with no exits but such
/// as are decided quickly: no interrupt came.
pub fn stayed_in_guest(launch: &Launch, ticks: u64) -> bool {
    Stays::of(launch).is_some_and(|stays| stays.any_longer_than(ticks))
}

/// The guests of the processors at the end of Bochs' log.
#[derive(Default)]
struct Stays {
    /// By processor, the tick of the last entry, if no exit follows.
    entered: BTreeMap<u32, u64>,
    /// By processor, the tick of the last exit.
    left: BTreeMap<u32, u64>,
    /// By processor, the tick of the first entry that only quick exits follow.
    uninterrupted: BTreeMap<u32, u64>,
    /// The tick of the last line, or of the debugger's break behind it.
    end: u64,
    /// The processor whose exception had no resolution.
    unresolved: Option<u32>,
}

impl Stays {
    fn of(launch: &Launch) -> Option<Self> {
        let log = File::open(&launch.exit_log.as_ref()?.path).ok()?;
        let printed = std::fs::read(launch.invocation.directory.join(STDOUT)).unwrap_or_default();
        Some(Self::read(BufReader::new(log), &String::from_utf8_lossy(&printed)))
    }

    fn read(mut log: impl BufRead, printed: &str) -> Self {
        let contains = |line: &[u8], text: &[u8]| line.windows(text.len()).any(|part| part == text);
        let mut stays = Self::default();
        let mut line = Vec::new();
        while log.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            if let Some((tick, processor)) = tick_and_processor(&line) {
                stays.end = tick;
                if contains(&line, UNRESOLVED.as_bytes()) {
                    stays.unresolved = stays.unresolved.or(Some(processor));
                } else if contains(&line, EXIT) {
                    stays.entered.remove(&processor);
                    stays.left.insert(processor, tick);
                    if !is_quick(&line) {
                        stays.uninterrupted.remove(&processor);
                    }
                } else if contains(&line, ENTRY) {
                    stays.entered.insert(processor, tick);
                    stays.uninterrupted.entry(processor).or_insert(tick);
                }
            }
            line.clear();
        }
        stays.end = stays.end.max(last_stop(printed));
        stays
    }

    /// Whether the processor whose exception had no resolution was in its guest then, whatever the others did meanwhile. Bochs
    /// may have said so on its standard error alone.
    fn unresolved_in_guest(&self, said: &str) -> bool {
        let on_standard_error = || said.lines().find(|line| line.contains(UNRESOLVED));
        let processor = || tick_and_processor(on_standard_error()?.as_bytes()).map(|(_, processor)| processor);
        processor().or(self.unresolved).is_some_and(|processor| self.entered.contains_key(&processor))
    }

    /// Whether a guest has run for more than so many ticks without an interrupt, and runs still. A monitor that has not entered
    /// its guest for as long is another matter.
    fn any_longer_than(&self, ticks: u64) -> bool {
        let longer = |since: u64| self.end.saturating_sub(since) > ticks;
        let runs = |processor| {
            self.entered.contains_key(processor) || self.left.get(processor).is_some_and(|&left| !longer(left))
        };
        self.uninterrupted.iter().any(|(processor, &since)| longer(since) && runs(processor))
    }
}

/// The tick of the debugger's last stop, as in `Next at t=289600924`; 0 if it has said none.
fn last_stop(printed: &str) -> u64 {
    let stops = printed.lines().filter_map(|line| line.trim().strip_prefix("Next at t=")?.parse().ok());
    stops.max().unwrap_or(0)
}

/// Whether a line of an exit is about one that the monitor may decide quickly, without a look at the run's limit.
fn is_quick(line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(line);
    let word = |key: &str| text.split(key).nth(1)?.split_whitespace().next();
    let code = word("reason=").and_then(|code| code.parse().ok());
    let information = word("exitinfo1=").and_then(|value| u64::from_str_radix(value, 16).ok());
    let reason = code.zip(information).map(|(code, information)| svm_exit::reason(code, information));
    reason.is_some_and(|reason| QUICK.iter().any(|row| row.reason == reason))
}

/// The tick of a line of Bochs', and the processor that it is about, as in `00000012345d[CPU0  ] `.
fn tick_and_processor(line: &[u8]) -> Option<(u64, u32)> {
    let head = line.split_inclusive(|&byte| byte == b']').next()?;
    let (tick, processor) = std::str::from_utf8(head).ok()?.split_once("[CPU")?;
    let processor = u32::from_str_radix(processor.strip_suffix(']')?.trim(), 16).ok()?;
    Some((tick.trim_end_matches(char::is_alphabetic).parse().ok()?, processor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::Target;

    #[test]
    fn every_processor_reports_its_exits_to_an_audit() {
        let model = Model::usual();
        let machine = |cpus| Machine { cpus, ..Machine::new(Target::bochs(model), Boot::Rom(&[])) };
        let text =
            |cpus, audit| configuration("rom.bin", &Chipset::new(Boot::Rom(&[])), model, machine(cpus), "", audit);
        assert!(text(1, false).contains("\ndebug: action=ignore\n") && text(1, false).contains(", count=1:1:1,"));
        assert!(text(1, true).contains("\ndebug: action=ignore, cpu0=report\n"));
        let most = text(16, true);
        assert!(most.contains(", count=16:1:1,") && most.contains(" cpu9=report, cpua=report,"), "{most}");
        assert!(most.contains(", cpuf=report\n"), "{most}");
    }

    fn line(tick: u64, cpu: u32, text: &str) -> String {
        format!("{tick:011}d[CPU{cpu:X}  ] {text}\n")
    }

    const VMRUN: &str = "VMRUN VMCB ptr: 0x0000000000237000";
    const VMEXIT: &str = "SVM VMEXIT reason=120 exitinfo1=00 exitinfo2=00";

    #[test]
    fn a_guest_without_exits_is_told_from_a_monitor_that_does_not_enter_it() {
        let check = |lines: &[String], expected: bool| {
            let stays = Stays::read(lines.concat().as_bytes(), "Next at t=0\n(0) [0x0000fffffff0] f000:fff0\n");
            assert_eq!(stays.any_longer_than(1000), expected, "{:.300}", lines.concat());
        };
        // However many lines follow.
        let fault = (0..5000).map(|n| line(20 + n, 1, "exception(0x0d): error_code=b800")).collect::<String>();
        check(&[line(10, 1, VMRUN), fault.clone()], true);
        check(&[line(10, 1, VMRUN), line(15, 1, VMEXIT), fault.clone()], false);
        check(&[line(10, 1, VMRUN), line(15, 0, VMEXIT), fault.clone()], true);
        let waits = line(9, 0, VMEXIT);
        check(&[waits.clone(), line(10, 1, VMRUN), line(11, 1, VMEXIT), line(4500, 1, VMRUN), fault.clone()], false);
        check(&[waits.clone(), line(10, 1, VMRUN), line(1010, 1, "exception(0x0d)")], false);
        check(&[waits.clone(), line(10, 1, VMRUN), line(1011, 0, "RDTSC: ticks")], true);
        // Nothing is logged of a jump to itself: the end is the debugger's.
        let guest = [line(10, 0, VMRUN), line(11, 0, VMEXIT), line(12, 0, VMRUN)];
        let other_is_over = [line(11, 1, VMRUN), line(12, 0, VMRUN), line(12, 1, VMEXIT)];
        let monitor = [line(10, 0, VMRUN), line(12, 0, VMEXIT)];
        for (lines, expected) in [(&guest[..], true), (&other_is_over, true), (&monitor, false)] {
            check(lines, false);
            for (tick, expected) in [(1012, false), (1013, expected)] {
                let printed = format!("Next at t=0\n(0) [0x0000fffffff0]\nNext at t={tick}\r\n(0).[{tick}] ??? \n");
                let stays = Stays::read(lines.concat().as_bytes(), &printed);
                assert_eq!(stays.any_longer_than(1000), expected, "{lines:?} up to {tick}");
            }
        }
        check(&[fault], false);
        // A loop of IN is decided quickly, and meets no limit; any other exit would.
        let exit = |tick, code: u32| {
            line(tick, 0, &format!("SVM VMEXIT reason={code} exitinfo1=0000000000800211 exitinfo2=000000000040f5ce"))
        };
        let turn = |tick, code| [exit(tick, code), line(tick + 1, 0, VMRUN)].concat();
        let turns = |code: u32| (0..300).map(|n| turn(20 + 10 * n, code)).collect::<String>();
        check(&[line(10, 0, VMRUN), turns(svm_exit::code::IOIO), exit(3020, svm_exit::code::IOIO)], true);
        check(&[line(10, 0, VMRUN), turns(svm_exit::code::INTR), exit(3020, svm_exit::code::INTR)], false);
        check(
            &[
                line(10, 0, VMRUN),
                turns(svm_exit::code::IOIO),
                exit(3020, svm_exit::code::IOIO),
                line(4100, 0, "RDTSC"),
            ],
            false,
        );
    }

    #[test]
    fn the_processor_that_ended_bochs_is_the_one_that_has_to_be_in_its_guest() {
        let (exit, entry) = (|cpu| line(7, cpu, VMEXIT), |cpu| line(7, cpu, VMRUN));
        let end = |cpu: u32| {
            format!("00000000009p[CPU{cpu:X}  ] >>PANIC<< exception(): 3rd (12) exception with no resolution\n")
        };
        let far = line(8, 0, "RDTSC: ticks 0x00000000:013c3a65").repeat(3000);
        let check = |lines: &[String], said: &str, expected: bool| {
            let stays = Stays::read(lines.concat().as_bytes(), "");
            assert_eq!(stays.unresolved_in_guest(said), expected, "{lines:?}");
        };
        check(&[entry(0), entry(1), exit(0), far.clone(), end(1)], "", true);
        check(&[entry(0), entry(1), exit(0), far.clone()], &end(1), true);
        check(&[entry(0), entry(1), exit(1), far.clone(), end(1)], "", false);
        check(&[entry(10), exit(0), end(10)], "", true);
        check(&[entry(0), entry(1), exit(1), far], "", false);
        check(&[end(0)], "", false);
    }

    #[test]
    fn what_it_complains_about_has_a_remedy() {
        let check = |said: &str, status: Status, expected: &str| {
            let failure = explain(said).unwrap();
            assert!(failure.status == status && failure.to_string().contains(expected), "{failure}");
            assert!(failure.to_string().contains("remedy: "), "{failure}");
        };
        check("[MEM0  ] ROM: couldn't open ROM image file 'x'.", Status::Platform, "no ROM image");
        check("[MEM0  ] ROM: checksum error in VGABIOS image", Status::Platform, "checksum");
        check("[PLUGIN] Plugin 'extfpuirq' not found", Status::Platform, "plugin");
        check("ROM: ROM image too large", Status::Platform, "too large");
        check("[IMG   ] image locked: 'stick.img'", Status::Platform, "stick.img.lock");
        check("bochsrc:2: display library 'term' not available", Status::Platform, "bochs-term");
        check("3rd (13) exception with no resolution", Status::NoVerdict, "triple fault");
        assert_eq!(explain("something else"), None);
    }

    #[test]
    fn a_processor_without_cet_is_asked_for_so() {
        let machine = Machine::new(Target::bochs(Model::usual()), Boot::Stick(&[]));
        let chipset = Chipset::new(Boot::Stick(&[]));
        let text = configuration("ovmf.fd", &chipset, Model::usual(), machine, ", exclude_features=cet", false);
        assert!(text.contains("\ncpu: model=tigerlake, exclude_features=cet, count=1:"), "{text}");
    }
}
