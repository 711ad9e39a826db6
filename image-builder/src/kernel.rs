//! A kernel that others built, as the command line names it: recognized, lowered, and ready to be placed in its machine.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tollgate_abi::machine::pc::MOST_MEMORY_MIB;
use tollgate_books::failure::Failure;
use tollgate_guests::layout::COMMAND_LINE_GPA;
use tollgate_guests::{Format, Lowered, Module, Packing, Request, Segment, is_unmarked_elf, lower, recognise};

use crate::debian::debian;
use crate::image::{MOST_GUEST_FILE_BYTES, Placed, guest_file};
use crate::user_space::BEFORE_COMMANDS;

/// The memory of a kernel's machine, in MiB, unless asked otherwise.
const USUAL_MEMORY_MIB: u16 = 256;
/// Bytes of a file that tell its format, unless it is an ELF file or packed: as far as boot headers are looked for.
const HEAD_BYTES: u64 = 32 << 10;
/// The beginning of an ELF file.
const ELF_MARK: &[u8] = b"\x7fELF";

/// The words of every Linux' command line. The serial port is the console. A panic ends the machine, by the register of ACPI:
/// where hardware is reduced, Linux would ask EFI. The kernel does not test its own algorithms, which takes longer than the rest
/// of its start. A tick of the time-stamp counter counts as a nanosecond: the emulators' counters have no frequency of their own,
/// and not every model tells one. The vCPUs' counters agree, which Linux believes of AMD's processors only if it is told.
const COMMAND_LINE: &str =
    "console=ttyS0,115200 panic=-1 reboot=acpi cryptomgr.notests tsc_early_khz=1000000 tsc=reliable";
/// The word in front of the TSC's rate, which the monitor corrects on silicon.
const RATE: &str = "tsc_early_khz=";

/// A look at the file of `--guest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A guest that is made for Tollgate, or nothing that can be looked at: whoever reads all of it says why.
    Own,
    /// Linux, by its own boot protocol.
    Linux,
    /// Another kernel by the same protocol, which takes such words as Linux.
    LikeLinux,
    /// Another kernel, or a file that is none, as the one who lowers it says.
    Other,
}

/// A kernel and its machine.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The kernel's file; none for Debian's.
    pub file: Option<PathBuf>,
    /// The result of a look at it.
    pub look: Look,
    /// The initial RAM disk's.
    pub initrd: Option<PathBuf>,
    /// The files that it is given besides, each with `=` and a text behind it, or not.
    pub modules: Vec<String>,
    /// The commands for the user space that is made of Debian's packages, where there is to be one.
    pub commands: Option<String>,
    /// Whether that user space leaves a mark in the emulator's log where it begins.
    pub is_marked: bool,
    /// Words for its command line, behind [`COMMAND_LINE`] if it is Linux.
    pub append: String,
    /// The machine's memory in MiB.
    pub memory_mib: Option<u16>,
}

/// The marks of every Linux' console, by name and text: its first line, its memory, and its last line. Linux writes the first lines
/// when it has found its console.
const MARKS: [(&str, &str); 4] = [
    ("kernel", "Linux version "),
    ("memory", "Memory: "),
    ("init", "as init process"),
    ("power-off", "reboot: Power down"),
];

/// The guest of `--guest` that is no file: Debian's kernel.
const DEBIAN: &str = "debian";

impl Kernel {
    /// Whether `--guest` asks for Debian's kernel.
    pub fn is_debian(guest: &Path) -> bool {
        guest.as_os_str() == DEBIAN
    }

    /// The memory of its machine, in MiB.
    pub fn memory_mib(&self) -> u64 {
        self.memory_mib.unwrap_or(USUAL_MEMORY_MIB).into()
    }

    /// The marks of its console, in the order in which a boot reaches them. Only Linux' are known.
    pub fn marks(&self) -> Vec<(&'static str, &'static str)> {
        if self.look != Look::Linux {
            return Vec::new();
        }
        let (before, behind) = MARKS.split_at(MARKS.len() - 1);
        let commands = self.commands.as_ref().map(|_| ("commands", BEFORE_COMMANDS));
        before.iter().copied().chain(commands).chain(behind.iter().copied()).collect()
    }

    /// Its name for people.
    pub fn name(&self) -> String {
        self.file.as_ref().map_or_else(|| "Debian's kernel".to_owned(), |file| file.display().to_string())
    }

    /// Looks at a file. Boot headers are at its beginning; an ELF file may have its notes anywhere, and one that is packed is unpacked.
    pub fn look(path: &Path) -> Look {
        let mut bytes = Vec::new();
        let mut read = || -> io::Result<()> {
            let mut file = File::open(path)?;
            file.by_ref().take(HEAD_BYTES).read_to_end(&mut bytes)?;
            if bytes.starts_with(ELF_MARK) || Packing::of(&bytes).is_some() {
                file.take(MOST_GUEST_FILE_BYTES).read_to_end(&mut bytes)?;
            }
            Ok(())
        };
        if !path.is_file() || read().is_err() || is_unmarked_elf(&bytes) {
            return Look::Own;
        }
        match recognise(&bytes) {
            Ok(format) if format.is_linux() => Look::Linux,
            Ok(format) if format.is_like_linux() => Look::LikeLinux,
            _ => Look::Other,
        }
    }

    /// Whether it is told of its machine by the words of Linux' command line.
    fn takes_words(&self) -> bool {
        matches!(self.look, Look::Linux | Look::LikeLinux)
    }

    /// The command line. Some kernels find their own name in front.
    fn command_line(&self, format: Option<Format>) -> String {
        let first = match (self.takes_words(), &self.file) {
            (true, _) => COMMAND_LINE.into(),
            (false, Some(file)) if format.is_some_and(Format::has_name_in_command_line) => {
                file.file_name().unwrap_or_default().to_string_lossy()
            }
            (false, _) => "".into(),
        };
        format!("{first} {}", self.append).trim().to_owned()
    }

    /// Lowers it, for a machine with as many vCPUs.
    ///
    /// # Errors
    /// A file can't be read, or the kernel can't be the guest.
    pub fn place(&self, vcpus: u32) -> Result<Placed, Failure> {
        let memory_mib = self.memory_mib();
        if memory_mib > MOST_MEMORY_MIB || !memory_mib.is_multiple_of(2) {
            let sentence = format!("a kernel's machine can't have {memory_mib} MiB of memory");
            return Err(Failure::usage(sentence).remedy(format_args!("choose an even number up to {MOST_MEMORY_MIB}")));
        }
        if let (Some(_), false) = (&self.commands, self.look == Look::Linux) {
            let sentence = format!("--exec runs commands under Linux, and {} is something else", self.name());
            return Err(Failure::usage(sentence).remedy("leave --exec out"));
        }
        let own = self.file.as_deref().map(guest_file).transpose()?;
        let is_from_debian = self.file.is_none() || self.commands.is_some();
        let debian = is_from_debian.then(debian).transpose()?;
        let kernel = own.as_deref().or(debian.as_ref().map(|debian| &debian.kernel[..])).unwrap_or_default();
        let initrd = match (&self.initrd, &debian, &self.commands) {
            (Some(file), _, _) => Some(guest_file(file)?),
            (None, Some(debian), Some(commands)) => {
                let made = debian.user_space.initramfs(commands, self.is_marked);
                Some(made.map_err(|error| Failure::usage(format_args!("no initramfs can be made: {error}")))?)
            }
            _ => None,
        };
        let files = self.modules.iter().map(|module| named_module(module)).collect::<Result<Vec<_>, _>>()?;
        let modules: Vec<_> = files.iter().map(|(bytes, text)| Module { bytes, text }).collect();
        let command_line = self.command_line(recognise(kernel).ok());
        let request = Request {
            kernel,
            initrd: initrd.as_deref(),
            modules: &modules,
            command_line: &command_line,
            memory_bytes: memory_mib << 20,
            vcpus,
        };
        let lowered = lower(&request).map_err(|error| {
            Failure::usage(format_args!("{} can't be the guest: {error}", self.name())).remedy(error.remedy())
        })?;
        let placed = placed(lowered, memory_mib << 20);
        let rate_at = COMMAND_LINE.find(RATE).filter(|_| self.takes_words());
        let rate_at = rate_at.map_or(0, |at| COMMAND_LINE_GPA + (at + RATE.len()) as u64);
        Ok(placed.told_tsc_khz_at(rate_at))
    }
}

/// The contents of a module's file, and its text: the one behind `=`, or the file's name.
fn named_module(module: &str) -> Result<(Vec<u8>, String), Failure> {
    let (path, text) = module.split_once('=').map_or((module, None), |(path, text)| (path, Some(text.to_owned())));
    let path = Path::new(path);
    let name = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((guest_file(path)?, text.unwrap_or_else(name)))
}

/// A lowered kernel as it is placed in a machine with so much memory.
pub fn placed(lowered: Lowered, memory_bytes: u64) -> Placed {
    let end = lowered.segments.iter().map(Segment::end).max().unwrap_or(0);
    let pieces = lowered.segments.into_iter().map(|segment| (segment.gpa, segment.bytes)).collect();
    Placed::new(pieces, end, lowered.entry, lowered.about.format.machine(), memory_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_abi::guest_image::TSC_KHZ_DIGITS;

    #[test]
    fn the_rate_that_the_monitor_corrects_has_as_many_digits_as_that_writes() {
        let at = COMMAND_LINE.find(RATE).unwrap() + RATE.len();
        let (rate, rest) = COMMAND_LINE[at..].split_at(TSC_KHZ_DIGITS);
        assert!(rate.bytes().all(|byte| byte.is_ascii_digit()) && rest.starts_with(' '), "{COMMAND_LINE}");
    }

    #[test]
    fn a_kernel_is_told_the_words_of_its_kind() {
        let kernel = |look| Kernel {
            file: Some("place/kernel.elf".into()),
            look,
            initrd: None,
            modules: Vec::new(),
            commands: None,
            is_marked: false,
            append: "one two".to_owned(),
            memory_mib: None,
        };
        let other = kernel(Look::Other);
        assert_eq!(other.command_line(Some(Format::Multiboot)), "kernel.elf one two");
        assert_eq!(other.command_line(Some(Format::Pvh)), "one two");
        for look in [Look::Linux, Look::LikeLinux] {
            assert_eq!(kernel(look).command_line(Some(Format::BzImage)), format!("{COMMAND_LINE} one two"));
        }
        let marks = [Look::Linux, Look::LikeLinux, Look::Other].map(|look| kernel(look).marks().len());
        assert_eq!(marks, [MARKS.len(), 0, 0]);
    }

    #[test]
    fn a_module_has_the_text_that_it_is_given_or_its_files_name() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        std::fs::write(&path, b"contents").unwrap();
        let module = |text: &str| named_module(&format!("{}{text}", path.display())).unwrap();
        assert_eq!(module(""), (b"contents".to_vec(), "file".to_owned()));
        assert_eq!(module("=a=b c"), (b"contents".to_vec(), "a=b c".to_owned()));
        assert_eq!(module("="), (b"contents".to_vec(), String::new()));
    }

    #[test]
    fn a_file_is_looked_at_as_far_as_its_format_demands() {
        let place = tempfile::tempdir().unwrap();
        let look = |bytes: &[u8]| {
            let path = place.path().join("file");
            std::fs::write(&path, bytes).unwrap();
            Kernel::look(&path)
        };
        assert_eq!(Kernel::look(&place.path().join("absent")), Look::Own);
        assert_eq!(Kernel::look(place.path()), Look::Own);
        assert_eq!((look(b"\x7fELF"), look(b"#!/bin/sh"), look(b"\x1f\x8b")), (Look::Own, Look::Other, Look::Other));
        let mut image = vec![0; 0x300];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        assert_eq!(look(&image), Look::LikeLinux);
        image[0x24c] = 1;
        assert_eq!(look(&image), Look::Linux);
        // Linux' banner is far behind the beginning.
        let mut kernel = vec![0; 1 << 20];
        kernel[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert_eq!(look(&kernel), Look::Own);
        kernel.extend(b"Linux version 6.1.0 ");
        assert_eq!(look(&kernel), Look::Linux);
    }
}
