//! Tollgate's bare-metal image: from the reset vector to the verdict.
//!
//! [`boot`] brings the processor to Rust; [`rust_main`] finds out what there is, puts the guest in place, runs it, and writes the
//! account. What it can't do it says in the verdict, which is the last record of every log.
#![cfg_attr(bare, no_std, no_main)]
#![cfg_attr(not(bare), allow(dead_code, reason = "a host build only checks the image"))]
#![expect(unsafe_code, reason = "sets up the heap")]

extern crate alloc;

#[cfg(bare)]
mod boot;
mod guest;
mod ports;
mod processor;
mod scenarios;
mod serial;
mod traps;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use core::fmt;

use bare_rt as _;
use linked_list_allocator::LockedHeap;
use tollgate_abi::command_line::Options;
use tollgate_abi::ending::Ending;
use tollgate_abi::exit_reason::SDM_EDITION;
use tollgate_abi::guest_image::Directory;
use tollgate_abi::machine::{BOOT_INFO_GPA, FRESH_BYTES, PAGE_TABLES_GPA, RAM_BYTES};
use tollgate_abi::profile::Profile;
use tollgate_abi::record::{Kind, PROTOCOL};
use tollgate_abi::workload::Outcome;
use vmm_core::exit::GuestRegisters;
use vmm_core::handlers::cpuid::CpuidTable;
use vmm_core::handlers::io::Ports;
use vmm_core::keys::Keyed;
use vmm_core::ledger::{Account, Ledger, Unaccounted};
use vmm_core::machine::{Console, Machine};
use vmm_core::session::Session;
use vmm_core::vcpu::{End, Vcpu};
use vmm_core::vmx::capability::Capabilities;
use vmm_core::vmx::entry::Stack;
use vmm_core::vmx::ept::{Ept, Table};
use vmm_core::vmx::host_state::HostState;
use vmm_core::vmx::instructions::VmFail;
use vmm_core::vmx::{Parts, SharedPages, Vmx};

use crate::serial::Serial;

/// The heap: from the end of what link.ld places to where the guest's memory starts.
const HEAP_START: usize = 2 << 20;
const HEAP_BYTES: usize = 2 << 20;

#[cfg_attr(bare, global_allocator)]
static HEAP: LockedHeap = LockedHeap::empty();

/// Tables of the EPT arena: three levels, and one per 2 MiB of the guest's memory where large pages are missing.
const EPT_TABLES: usize = 16;

/// Why nothing can be run: what is wrong, and what helps.
struct Refused {
    detail: String,
    remedy: &'static str,
}

impl Refused {
    fn new(detail: impl fmt::Display, remedy: &'static str) -> Self {
        Self { detail: alloc::format!("{detail}"), remedy }
    }
}

/// Where the boot block calls, on the boot stack, with the first 4 GiB mapped and interrupts off.
extern "C" fn rust_main() -> ! {
    // SAFETY: RAM that nothing else uses (link.ld asserts that the image ends below), initialised once.
    unsafe { HEAP.lock().init(HEAP_START as *mut u8, HEAP_BYTES) };
    let host = traps::install();
    ports::mask_interrupts();
    let mut session = Session::new(Serial::new());
    let ending = match run(&mut session, host) {
        Ok(ending) => ending,
        Err(refused) => {
            let record = session.record(Kind::Verdict).word("result", "refused").text("detail", refused.detail);
            let _ = record.text("remedy", refused.remedy).finish();
            Ending::Refused
        }
    };
    session.sink().drain();
    ports::end(ending)
}

fn run(session: &mut Session<Serial>, host: HostState) -> Result<Ending, Refused> {
    let directory =
        guest::directory().map_err(|error| Refused::new(error, "write the image again with `tollgate image`"))?;
    let options = Options::parse(directory.options)
        .map_err(|error| Refused::new(error, "write the image again with options that exist"))?;
    let capabilities = processor::capabilities();
    introduce(session, &directory, &options, capabilities.is_ok());
    let memory_bytes = ports::memory_bytes();
    let record = session.record(Kind::Memory).number("total", memory_bytes).number("guest", RAM_BYTES);
    let _ = record.number("fresh", FRESH_BYTES).finish();
    let capabilities = capabilities.map_err(|refusal| Refused::new(refusal, refusal.remedy()))?;
    if memory_bytes < guest::NEEDED_BYTES {
        let (has, needs) = (memory_bytes >> 20, guest::NEEDED_BYTES >> 20);
        let detail = format_args!("the machine has {has} MiB of memory; the monitor and its guest need {needs} MiB");
        return Err(Refused::new(detail, "give the machine more memory"));
    }
    let guest = set_up(session, host, capabilities, &directory, &options);
    Ok(match (options.accounting, options.keys) {
        (false, _) => run_guest(session, &options, guest, Unaccounted::default()),
        (true, false) => run_guest(session, &options, guest, Ledger::new()),
        (true, true) => run_guest(session, &options, guest, Keyed::default()),
    })
}

fn introduce(session: &mut Session<Serial>, directory: &Directory<'_>, options: &Options<'_>, has_vt_x: bool) {
    let mut brand = [0; 48];
    for (leaf, part) in (0x8000_0002..).zip(brand.chunks_exact_mut(16)) {
        let answer = processor::cpuid(leaf, 0);
        for (register, bytes) in [answer.eax, answer.ebx, answer.ecx, answer.edx].iter().zip(part.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&register.to_le_bytes());
        }
    }
    let brand = String::from_utf8_lossy(&brand);
    // A line of its own, whatever firmware or terminal left on the current one.
    let _ = fmt::Write::write_str(session.sink(), "\n");
    let record = session.record(Kind::Tollgate).number("protocol", PROTOCOL).word("build", env!("CARGO_PKG_VERSION"));
    let record = record.word("platform", "rom").word("virtualization", if has_vt_x { "VT-x" } else { "none" });
    let record = record.text("cpu", brand.trim_matches(['\0', ' '])).word("sdm", SDM_EDITION);
    let record = record.word("leaf_map", options.leaf_map.name()).number("vcpus", 1);
    let _ = record.text("options", directory.options).finish();
}

/// Lays out the guest and the VMCS. Apart from the account, of which there are several kinds.
#[inline(never)]
fn set_up(
    session: &mut Session<Serial>,
    host: HostState,
    capabilities: Capabilities,
    directory: &Directory<'_>,
    options: &Options<'_>,
) -> (Vmx, GuestRegisters, Machine) {
    let memory = guest::load(directory).expect("the directory was checked against the guest's memory");
    let vmcs =
        processor::enter_vmx_operation(&capabilities).unwrap_or_else(|error| panic!("VMX operation failed: {error}"));
    let cpuid = CpuidTable::new(processor::cpuid, 0, capabilities.proc2.may >> 3 & 1 != 0);
    let tables = vec![Table::EMPTY; EPT_TABLES].leak();
    let base_hpa = tables.as_ptr() as u64;
    let mut ept = Ept::new(tables, base_hpa);
    ept.map(0, memory.host_base(), RAM_BYTES, capabilities.has_large_pages())
        .expect("the arena holds the guest's memory");
    ept.prepare(RAM_BYTES, FRESH_BYTES).expect("the arena holds the fresh memory");
    let (msr_bitmaps, io_bitmap_a, io_bitmap_b) = (processor::page(), processor::page(), processor::page());
    io_bitmap_a.0.fill(u64::MAX);
    io_bitmap_b.0.fill(u64::MAX);
    let pages = SharedPages {
        io_bitmap_a: processor::physical(io_bitmap_a),
        io_bitmap_b: processor::physical(io_bitmap_b),
        msr_bitmaps: processor::physical(msr_bitmaps),
    };
    let parts = Parts {
        vmcs,
        capabilities,
        ept,
        memory_hpa: memory.host_base(),
        msr_bitmaps,
        watchdog_ticks: options.watchdog_ticks,
        has_xsave: cpuid.has_xsave(),
        physical_bits: cpuid.physical_address_bits(),
    };
    let (vmx, registers) = Vmx::new(parts, pages, &host, directory.entry_gpa, BOOT_INFO_GPA, PAGE_TABLES_GPA);
    for profile in Profile::ALL {
        let fields = vmx.control_fields(profile);
        let record = session.record(Kind::Controls).word("profile", profile.name()).hex("pin", fields.pin.into());
        let record =
            record.hex("proc", fields.proc.into()).hex("proc2", fields.proc2.into()).hex("exit", fields.exit.into());
        let _ = record.hex("entry", fields.entry.into()).hex("exceptions", fields.exception_bitmap.into()).finish();
    }
    let machine = Machine {
        cpuid,
        ports: Ports::default(),
        memory,
        wake: None,
        leaf_map: options.leaf_map,
        controls: vmx.controls(Profile::Minimal),
        enabled_in_any_profile: vmx.controls(Profile::Full),
        cr4_allowed: capabilities.cr4_fixed1,
        cr8: 0,
        vcpus: 1,
        console: Console::new(),
        window_open: false,
        in_scenario: false,
        exit: None,
    };
    (vmx, registers, machine)
}

#[inline(never)]
fn run_guest<A: Account>(
    session: &mut Session<Serial>,
    options: &Options<'_>,
    (vmx, registers, machine): (Vmx, GuestRegisters, Machine),
    account: A,
) -> Ending {
    let mut vcpu = Box::new(Vcpu::new(vmx, account, machine));
    let mut stack = Some(Box::leak(Box::new(Stack::new(registers))));
    let mut end: End<VmFail> = vcpu.run(
        |vcpu| {
            let entered = stack.take().expect("a failed entry ends the run").run(vcpu)?;
            stack = Some(entered);
            Ok(())
        },
        |vcpu, pause| session.pause(vcpu, pause),
    );
    if let (Outcome::Exited, Some(stack)) = (end.outcome, stack) {
        end.elapsed_tsc += scenarios::run(&mut vcpu, stack, session, options.scenarios());
    }
    session.finish(&mut vcpu, &end)
}

/// The end of a monitor that can't go on: a verdict that says why.
fn fault(detail: fmt::Arguments<'_>) -> ! {
    let mut session = Session::new(Serial::new());
    let _ = fmt::Write::write_str(session.sink(), "\n");
    let _ = session.record(Kind::Verdict).word("result", "fault").text("detail", detail).finish();
    session.sink().drain();
    ports::end(Ending::Fail)
}

#[cfg(bare)]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    fault(format_args!("the monitor panicked: {info}"))
}

/// The images are built by the host tool's build script; a plain build of this package makes a program that says so.
#[cfg(not(bare))]
fn main() {
    std::eprintln!("This is Tollgate's monitor, which runs on bare metal: `cargo run --release -- run` boots it.");
}
