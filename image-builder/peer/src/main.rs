//! A client of /dev/kvm, as small as one can be, which boots the kernel that Tollgate's host tool has lowered. It runs in the user
//! space of a Linux whose KVM is to be measured beside Tollgate.
//!
//! ```text
//! tollgate-peer FOLDER memory-mib=256 rip=0x1000000 rsp=.. rsi=.. cr3=..
//! ```
//!
//! The folder has the pieces of the guest's memory; each file's name is its guest-physical address in hexadecimal. Ports, clock,
//! serial port and the table of CPUID are those of Tollgate's own machine, so that the guest finds the same. The local APIC, its
//! timer and the MSRs are KVM's.
//!
//! Unsafe: `machine`.

mod cpuid;
mod entry;
mod machine;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use tollgate_abi::peer::{BEGINS, ENDED, SAID};

use crate::entry::Entry;
use crate::machine::Machine;

/// The last lines of the guest's console, which are told.
const LAST_LINES: usize = 4;
/// The kernel's log, whose console does not wait for a timer as a terminal does, and the level of a message that is always shown.
const KERNEL_LOG: &str = "/dev/kmsg";
const SHOWN: &str = "<1>";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            tell(&format!("{ENDED}{sentence}"));
            ExitCode::FAILURE
        }
    }
}

/// Boots, and tells the end of the guest's console behind it: nothing is told while KVM is measured.
fn run(arguments: &[String]) -> Result<(), String> {
    let (folder, words) = arguments.split_first().ok_or("no folder is named")?;
    let entry = Entry::parse(words)?;
    let mut machine = Machine::new(&entry, Path::new(folder))?;
    tell(BEGINS);
    let ended = machine.run();
    let console = machine.console();
    let console = String::from_utf8_lossy(&console);
    let lines: Vec<&str> = console.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].iter().for_each(|line| tell(&format!("{SAID}{line}")));
    tell(&format!("{ENDED}{}", ended?));
    Ok(())
}

/// Writes a line into the kernel's log, or to standard output where there is none.
fn tell(line: &str) {
    let log = OpenOptions::new().write(true).open(KERNEL_LOG);
    let told = log.and_then(|mut log| log.write_all(format!("{SHOWN}{line}\n").as_bytes()));
    if told.is_err() {
        println!("{line}");
    }
}
