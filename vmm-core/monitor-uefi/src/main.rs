//! Tollgate's UEFI application: from boot services to the verdict, and back.
//!
//! ```text
//! look at machine and stick ► begin the log ► stop firmware's timer ► lend the processors ─► monitor_run::run
//!                                        key ◄ account on the screen ◄ log on the stick ◄ take them back ┘
//! ```
//!
//! While the monitor has the processors, firmware is not called: descriptor tables are the monitor's, and interrupts are off.
#![cfg_attr(bare, no_std, no_main)]
#![cfg_attr(not(bare), allow(dead_code, reason = "a host build only checks the image"))]
#![expect(unsafe_code, reason = "the entry point, and memory from firmware")]

extern crate alloc;

mod found;
mod loan;
mod log;
mod machine;
mod others;
mod screen;
mod state;
mod stick;

use alloc::format;
use alloc::string::String;

use bare_rt as _;
use monitor_run::firmware::{self, Firmware};
use monitor_run::{LIMIT_SECONDS, ports, processors};
use tollgate_abi::command_line::Options;
use tollgate_abi::ending::Ending;
use tollgate_abi::virtualization::{KVM, TCG};
use uefi::{Status, boot};
use vmm_core::host::keyboard;

use crate::found::{Found, found};
use crate::machine::StoppedTimer;
use crate::others::Others;
use crate::screen::say;
use crate::stick::Stick;

const HEAP_BYTES: usize = 16 << 20;
const STACK_BYTES: usize = 512 << 10;

static UEFI: Firmware = Firmware {
    name: "uefi",
    memory_bytes: || found().memory_bytes,
    directory: || found().directory.clone(),
    guest_file: || Some(found().image),
    guest_memory: |_| found().guest_memory.clone(),
    spare_memory: |_| found().spare_memory(),
    tsc_khz: || found().tsc_khz,
    start_others: |_| others::come(),
    takes_back: true,
    keep: log::keep,
    keep_end: log::keep_end,
    remarks: || found().remarks.clone(),
    postscript: || found().trouble.clone(),
    end,
    leave,
};

/// The entry point at which firmware starts the application.
#[cfg(bare)]
#[unsafe(no_mangle)]
extern "efiapi" fn efi_main(image: uefi::Handle, table: *const core::ffi::c_void) -> Status {
    // SAFETY: the arguments of the entry point, before anything that uses them.
    unsafe {
        boot::set_image_handle(image);
        uefi::table::set_system_table(table.cast());
    }
    main_of_application()
}

/// The application's work.
fn main_of_application() -> Status {
    say(format_args!("\nTollgate {}: a monitor that counts every VM exit", env!("CARGO_PKG_VERSION")));
    // Firmware resets a machine whose boot option takes more than five minutes.
    let _ = boot::set_watchdog_timer(0, 0x1_0000, None);
    let (Some(heap), Some(stack), Some(buffer)) =
        (machine::pages(HEAP_BYTES), machine::pages(STACK_BYTES), machine::pages(log::BYTES))
    else {
        let needs = (HEAP_BYTES + STACK_BYTES + log::BYTES) >> 20;
        say(format_args!(
            "The firmware has no {needs} MiB of memory for the monitor, in pieces of up to {} MiB.",
            HEAP_BYTES >> 20
        ));
        return Status::OUT_OF_RESOURCES;
    };
    // SAFETY: the first and only call; the pieces are this application's, and firmware maps memory to itself. The heap is
    // never given back: the task register may point there.
    unsafe {
        firmware::start(&UEFI, heap, HEAP_BYTES);
        log::give(buffer, log::BYTES);
    }
    run(stack);
    // SAFETY: the run is over, and the account has been shown.
    unsafe {
        machine::free(stack, STACK_BYTES);
        machine::free(buffer, log::BYTES);
    }
    Status::SUCCESS
}

/// The run and its log. `stack` has [`STACK_BYTES`].
fn run(stack: *mut u8) {
    let mut stick = Stick::open();
    let mut found = Found::look(&mut stick);
    let mut log_file = stick
        .as_mut()
        .map_err(|trouble| format!("{trouble}"))
        .and_then(|stick| stick.begin_log().map_err(|trouble| format!("{trouble}")));
    found.remarks.extend(machine::secure_boot().then(|| "Secure Boot is on, and let this image pass".into()));
    found.remarks.extend(machine::nested());
    let address = main_of_application as *const () as u64;
    found.remarks.extend(
        (address >> 32 != 0).then(|| format!("the firmware has loaded the monitor at {address:#x}, above 4 GiB")),
    );
    found.trouble = log_file.as_ref().err().map(|trouble| format!("the log can't be saved: {trouble}"));
    let wanted = found.directory.as_ref().ok().and_then(|directory| Options::parse(directory.options).ok());
    // A trace needs a larger buffer.
    let traced = found.trace_bytes().and_then(|bytes| {
        let bytes = log::BYTES + bytes;
        machine::pages(bytes).map(|buffer| (buffer, bytes))
    });
    if let Some((buffer, bytes)) = traced {
        // SAFETY: nothing has been kept; the memory is this application's until it is freed below.
        unsafe { log::give(buffer, bytes) };
    }
    let ends_within = wanted.map_or(Some(LIMIT_SECONDS), |options: Options<'_>| {
        seconds_at_most(options.limit_ticks, monitor_run::tsc_hz())
    });
    found::keep(found);
    let others = wanted.filter(|options| options.processors() > 1).and_then(|_| Others::ask());
    announce(ends_within);
    let result = lend_to_monitor(stack);
    let all_back = others.is_none_or(Others::wait);
    if all_back {
        // SAFETY: no processor has a guest any more: firmware has them all.
        unsafe { found::found().free_guest_memory() };
    }

    let (contents, lost) = log::contents();
    let saved = log_file
        .as_mut()
        .map_err(|trouble| trouble.clone())
        .and_then(|file| file.write(contents).map(|()| file.name.clone()).map_err(|trouble| format!("{trouble}")));
    let shows_console = wanted.is_some_and(|options| options.shows_console);
    screen::show(contents, if shows_console { screen::CONSOLE_LINES } else { 0 });
    tell_log(saved.as_deref(), lost);
    if let Some((buffer, bytes)) = traced {
        // SAFETY: the log has been written and shown.
        unsafe { machine::free(buffer, bytes) };
    }
    if !all_back {
        say(format_args!(" Some processors did not come back to the firmware: switch the machine off and on."));
    }
    drop((log_file, stick));
    let in_qemu = machine::hypervisor().is_some_and(|name| EMULATORS.contains(&name.as_str()));
    if in_qemu || ports::has_debug_port() {
        ports::tell_emulator(ending(result));
    }
    screen::wait_for_key();
}

/// Lends the monitor this processor, with firmware's timer and interrupts off; the result is [`first`]'s. `stack` has
/// [`STACK_BYTES`].
fn lend_to_monitor(stack: *mut u8) -> u64 {
    let timer = StoppedTimer::stop();
    let masks = ports::interrupt_masks();
    // SAFETY: this is the processor that firmware started the application on; the stack is for this.
    let result = unsafe { loan::lend(stack as u64 + STACK_BYTES as u64, first, 0) };
    ports::set_interrupt_masks(masks);
    if let Some(timer) = timer {
        timer.go_on();
    }
    result
}

/// Says that the run begins, and how it ends.
fn announce(ends_within: Option<u64>) {
    match ends_within {
        Some(seconds) => {
            let (minutes, seconds) = (seconds / 60, seconds % 60);
            say(format_args!(
                "It runs, for {minutes} min {seconds} s at the most. The screen stands still until the account is there."
            ));
        }
        None => say(format_args!(
            "It runs, for as long as the guest takes. The screen stands still until the account is there."
        )),
    }
    if keyboard::exists() {
        say(format_args!("Esc ends it earlier, on a keyboard that is not on USB, and not while the guest sleeps."));
    }
}

/// Says under which name the log was saved, or why it was not, and the bytes that it lost.
fn tell_log(saved: Result<&str, &String>, lost: usize) {
    match saved {
        Ok(name) => say(format_args!(" The log is on the stick: {name}")),
        Err(trouble) => say(format_args!(" The log could not be saved: {trouble}.")),
    }
    if lost > 0 {
        say(format_args!(" {lost} bytes of the log did not fit the memory for it, and are not in it."));
    }
}

/// Seconds that a run lasts at the most; `None` if it has no such limit.
fn seconds_at_most(limit_ticks: Option<u64>, tsc_hz: u64) -> Option<u64> {
    match limit_ticks {
        None => Some(LIMIT_SECONDS),
        Some(0) => None,
        Some(ticks) => Some(ticks.div_ceil(tsc_hz)),
    }
}

/// The hypervisor signatures of QEMU, whose port ends the machine if `tollgate run` started it. Bochs is known by its debug port.
const EMULATORS: [&str; 2] = [TCG, KVM];

/// The first processor's part.
extern "sysv64" fn first(_: u64) -> u64 {
    let ending = monitor_run::run();
    processors::dismiss();
    ending.qemu_value().into()
}

/// The ending that [`first`] returned; a failure if it was given up.
fn ending(result: u64) -> Ending {
    let endings = [Ending::Pass, Ending::Refused];
    endings.into_iter().find(|ending| u64::from(ending.qemu_value()) == result).unwrap_or(Ending::Fail)
}

/// Ends a run in which this processor can't go on; the verdict has been written.
fn end(_: Ending) -> ! {
    processors::dismiss();
    leave()
}

/// Gives back this processor, which can't go on.
fn leave() -> ! {
    // SAFETY: the monitor runs on a processor only while that is lent, and the caller has nothing left to do.
    unsafe { loan::give_up() }
}

/// The images are built by the host tool's build script; a plain build of this package makes a program that says so.
#[cfg(not(bare))]
fn main() {
    std::eprintln!(
        "This is Tollgate's UEFI application: `cargo run --release -- image --uefi FILE` makes a stick of it."
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_lasts_as_long_as_its_limit_says() {
        let hz = 3_000_000_000;
        assert_eq!([None, Some(0)].map(|limit| seconds_at_most(limit, hz)), [Some(LIMIT_SECONDS), None]);
        assert_eq!([1, hz, hz + 1].map(|ticks| seconds_at_most(Some(ticks), hz)), [Some(1), Some(1), Some(2)]);
    }

    #[test]
    fn a_run_that_was_given_up_has_failed() {
        for result in [Ending::Pass, Ending::Refused, Ending::Fail] {
            assert_eq!(ending(result.qemu_value().into()), result);
        }
        assert_eq!([loan::GIVEN_UP, 0].map(ending), [Ending::Fail; 2]);
    }
}
