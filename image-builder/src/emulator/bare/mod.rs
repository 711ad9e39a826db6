//! Bochs with a kernel that runs on it without any monitor: a ROM that enters the kernel, the kernel's bytes in memory, and as much
//! of a PC as a kernel wants. Its log goes through a pipe, since that of a whole boot would fill a disk.

mod loader;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tollgate_books::failure::Failure;
use tollgate_books::output_file;

use super::bochs::{self, Chipset};
use super::models::Model;
use super::pipe::Pipe;
use super::process::Invocation;
use super::versions::Behaviour;
use super::watch::{Watched, Watcher, watch};
use super::{Boot, Engine, Installed, Machine, ROM, SERIAL, Target, vga_rom};
use crate::image::Placed;

/// The kernel's bytes, the MSRs that Bochs lacks, and the pipe, in a run's directory.
const IMAGE: &str = "kernel.bin";
const MSRS: &str = "msrs";
const LOG: &str = "bochs.log";

/// MSRs that Linux reads without care and Bochs 2.7 has not: address, type, the value after reset, reserved and ignored bits, in
/// words of 32 bits (Bochs' documentation, `cpu: msrs`). IA32_MISC_ENABLE has fast strings on; IA32_BIOS_SIGN_ID tells a version of
/// the microcode, in the high half, with which Linux uses the TSC deadline of corei7_skylake_x.
const MSR_ROWS: &str = "0x1a0 0 00000000 00001801 00000000 00000000 00000000 00000000
0x08b 0 02000014 00000000 00000000 00000000 ffffffff ffffffff
";

/// The legacy video memory and firmware's place, which are no memory: Bochs 2.7 reads an image into its blocks of memory one behind
/// the other, and this hole has no blocks.
const HOLE: std::ops::Range<u64> = 0xa_0000..0x10_0000;

/// A machine that is ready to start.
#[derive(Debug)]
pub struct Bare {
    invocation: Invocation,
    serial: PathBuf,
    pipe: Option<Pipe>,
    /// Its name for people.
    pub name: String,
}

impl Bare {
    /// Writes the files of a machine into a directory: with the kernel that is placed in its memory, and a log of the first
    /// processor if that is wanted.
    ///
    /// # Errors
    /// There is no Bochs that can place a kernel, or the directory can't be written.
    pub fn new(directory: &Path, placed: &Placed, model: &'static Model, logs: bool) -> Result<Self, Failure> {
        let program = bochs::find()?;
        let emulator = Installed::of(Engine::Bochs, &program);
        bochs::check_parts(&emulator, model)?;
        if emulator.has(Behaviour::RamImagesAtZero) || emulator.has(Behaviour::DebuggerOnRequest) {
            let sentence = format!("{} has not been tried with a kernel and no monitor", emulator.title);
            let remedy = format!("name a Bochs 2.7 with {}", bochs::PROGRAM_VARIABLE);
            return Err(Failure::platform(sentence).remedy(remedy));
        }
        let unwritable = |error: io::Error| {
            Failure::usage(format_args!("{} can't be written: {error}", directory.display()))
                .remedy("choose another directory with --out, or make room there")
        };
        let memory_mib = placed.memory_mib();
        let rom = loader::rom(&placed.entry(), u64::from(memory_mib) << 20);
        output_file::write(&directory.join(ROM), &rom)?;
        output_file::write(&directory.join(vga_rom::FILE), &vga_rom::build())?;
        output_file::write(&directory.join(MSRS), MSR_ROWS.as_bytes())?;
        write_image(placed, &directory.join(IMAGE)).map_err(unwritable)?;
        let pipe = logs.then(|| Pipe::new(directory.join(LOG))).transpose().map_err(unwritable)?;
        let target = Target::bochs(model);
        let machine = Machine { memory_mib, ..Machine::new(target, Boot::Rom(&[])) };
        let text = bochs::configuration(ROM, &chipset(), model, machine, &format!(", msrs={MSRS}"), logs);
        let invocation = bochs::invocation(directory, program, &emulator, &text)?;
        let name = format!("Bochs ({})", model.name);
        Ok(Self { invocation, serial: directory.join(SERIAL), pipe, name })
    }

    /// Runs the machine until a watcher has seen enough.
    ///
    /// # Errors
    /// It can't be started, or an output can't be read.
    pub fn run(self, within: Duration, watcher: &mut impl Watcher) -> Result<Watched, Failure> {
        watch(&self.invocation, self.serial, self.pipe, within, watcher)
    }
}

/// The devices of a machine whose kernel looks for no more than Tollgate's machine has.
fn chipset() -> Chipset {
    Chipset {
        without: "biosdev=0, speaker=0, parallel=0, gameport=0, iodebug=0",
        threads: 1,
        ips: 1_000_000,
        ignore_bad_msrs: 1,
        devices: format!("pci: enabled=0\nvga: extension=none, realtime=0\noptramimage1: file={IMAGE}, address=0x0"),
    }
}

/// The offset in the image of an address that is memory.
fn offset(gpa: u64) -> u64 {
    if gpa < HOLE.start { gpa } else { gpa - (HOLE.end - HOLE.start) }
}

/// Writes the kernel's bytes without [`HOLE`]. No piece reaches across it.
fn write_image(placed: &Placed, path: &Path) -> io::Result<()> {
    let file = File::create(path)?;
    for (gpa, bytes) in placed.pieces() {
        let end = gpa + bytes.len() as u64;
        if gpa < HOLE.end && end > HOLE.start {
            return Err(io::Error::other(format!("a piece of the kernel at {gpa:#x} lies where no memory is")));
        }
        file.write_all_at(bytes, offset(gpa))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_abi::guest_image::Entry;
    use tollgate_abi::machine::Kind;

    #[test]
    fn the_image_has_no_bytes_for_the_hole_below_one_mib() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(IMAGE);
        let pieces = vec![(0x1_1000, b"low".to_vec()), (0x10_0000, b"high".to_vec())];
        write_image(&Placed::new(pieces, 0x10_0004, Entry::default(), Kind::Pc, 4 << 20), &path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((&bytes[0x1_1000..0x1_1003], &bytes[0xa_0000..0xa_0004]), (&b"low"[..], &b"high"[..]));
        let across = vec![(0x9_ffff, b"12".to_vec())];
        let error =
            write_image(&Placed::new(across, 0xa_0001, Entry::default(), Kind::Pc, 4 << 20), &path).unwrap_err();
        assert!(error.to_string().contains("0x9ffff"), "{error}");
    }
}
