//! The monitor around the exit path: finds out the machine's features, puts the guest in place, runs it on one vCPU or several,
//! and writes the account. The verdict, which is the last record of every log, says what the monitor can't do.
//!
//! Compiled for size, unlike what it runs: the image has to fit its ROM.
#![cfg_attr(bare, no_std)]
#![cfg_attr(not(bare), allow(dead_code, reason = "a host build only checks the image"))]
#![expect(unsafe_code, reason = "puts the guest where the firmware says")]

extern crate alloc;

mod board;
mod extension;
mod fault;
pub mod firmware;
mod found;
mod guest;
mod introduce;
mod patience;
pub mod ports;
mod processor;
pub mod processors;
pub mod rom;
mod run;
mod scenarios;
mod serial;
mod stopping;
mod svm;
mod traps;
mod vtx;
mod waiting;

use alloc::string::String;
use core::fmt;

use bare_rt as _;
use linked_list_allocator::LockedHeap;
use tollgate_abi::command_line::Options;
use tollgate_abi::ending::Ending;
use tollgate_abi::judgement::Judgement;
use tollgate_abi::machine::{Kind, Mapping};
use tollgate_abi::record::records;
use tollgate_abi::virtualization::Facts;
use vmm_core::host::keyboard;
use vmm_core::session::Session;
use vmm_core::svm::Svm;
use vmm_core::vmx::Vmx;
use vmm_core::vmx::host_state::HostState;

use crate::board::BOARD;
use crate::firmware::firmware;
use crate::found::Found;
use crate::introduce::{all_there, can_begin, introduce};
use crate::processors::Seated;
use crate::run::run_with;
use crate::serial::Serial;

#[cfg_attr(bare, global_allocator)]
static HEAP: LockedHeap = LockedHeap::empty();

/// Seconds that a run may last whose options don't say.
pub const LIMIT_SECONDS: u64 = 600;

/// TSC ticks in a second, as far as the processor tells.
pub fn tsc_hz() -> u64 {
    processor::tsc_hz()
}

/// Why nothing can be run: what is wrong, and what helps.
#[derive(Clone, Debug)]
pub struct Refused {
    detail: String,
    remedy: &'static str,
}

impl Refused {
    /// A sentence, and one on what to do.
    pub fn new(detail: impl fmt::Display, remedy: &'static str) -> Self {
        Self { detail: alloc::format!("{detail}"), remedy }
    }
}

/// The image's work once it has a heap: up to the verdict. On the processor that the firmware began with, with a stack of
/// half a MiB, all memory mapped to itself, and interrupts off; the processor's tables are the monitor's afterwards.
pub fn run() -> Ending {
    let host = traps::install();
    ports::mask_interrupts();
    let mut session = Session::new(Serial::new());
    let ending = match run_image(&mut session, host) {
        Ok(ending) => ending,
        Err(refused) => {
            session.write_verdict(Judgement::Refused, format_args!("{}", refused.detail), Some(refused.remedy));
            Ending::Refused
        }
    };
    session.sink().drain();
    ending
}

fn run_image(session: &mut Session<Serial>, host: HostState) -> Result<Ending, Refused> {
    let firmware = firmware();
    let directory = (firmware.directory)().inspect_err(|_| {
        // A log has a beginning, whatever is wrong with the image.
        introduce(session, "", &Options::default(), Facts::default(), 1);
    })?;
    let options = Options::parse(directory.options).map_err(|error| {
        introduce(session, directory.options, &Options::default(), Facts::default(), 1);
        Refused::new(error, "write the image again with options that exist")
    })?;
    BOARD.set_patience(processor::patience_ticks());
    if firmware.takes_back && keyboard::exists() {
        BOARD.listen();
    }
    let found = found::find();
    // Without an extension there is nothing for the others to do.
    let local_apic = found.is_ok().then(processors::local_apic);
    let processors = local_apic.as_ref().map_or(1, |local_apic| {
        BOARD.sit(0, local_apic.id());
        processors::start(local_apic, options.processors() as usize)
    });
    let vcpus = processors.min(options.cpus as usize);
    if !options.guest_keeps_book {
        session.leave_out_guest_book(directory.placing.machine != Kind::Unikernel);
    }
    let facts = found.as_ref().map_or(Facts::default(), Found::facts);
    introduce(session, directory.options, &options, facts, vcpus);
    let mapping = if options.counts_touches { Mapping::OnFirstTouch } else { Mapping::Always };
    let model = guest::model(&directory.placing, mapping);
    let (guest, fresh) = (model.ram_bytes(), model.fresh().bytes);
    let record = records::Memory { total: (firmware.memory_bytes)(), guest, fresh };
    let _ = record.write(session.out());
    introduce::silicon(session);
    let found = found?;
    for (instruction, reason) in found.probed() {
        let record = records::Probe { instruction: &instruction, reason: reason.ledger_row() as u16 };
        let _ = record.write(session.out());
    }
    let guest_hpa = (firmware.guest_memory)(model.memory_bytes())?;
    can_begin(&directory.placing.entry, &found)?;
    all_there(session, &options, vcpus, &found)?;
    BOARD.settle(vcpus);
    // SAFETY: the firmware's word for it; this is the one call.
    let mut guest = unsafe { guest::load(&directory, model, (firmware.guest_file)(), guest_hpa, vcpus, facts) }?;
    guest.any_mode &= found.has_real_mode();
    if let Some(khz) = (firmware.tsc_khz)() {
        guest.tell_tsc_khz(khz);
    }
    let local_apic = local_apic.expect("an extension was found");
    let seated = Seated { vcpu: 0, host, local_apic };
    Ok(match found {
        Found::VtX(capabilities) => run_with::<Vmx>(capabilities, guest, options, session, &seated),
        Found::Svm(capabilities) => run_with::<Svm>(capabilities, guest, options, session, &seated),
    })
}

#[cfg(bare)]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    fault::fault(format_args!("the monitor panicked: {info}"))
}
