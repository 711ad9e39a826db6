//! The machine `pc` with guests of a few instructions, which the emulators place in memory: its devices as a kernel meets them, and
//! the verdicts on its ends.

use std::io::Write;
use std::time::Duration;

use iced_x86::code_asm::*;
use tollgate::emulator::models::Model;
use tollgate::emulator::versions::Behaviour;
use tollgate::emulator::{Boot, Engine, Limits, Machine, PLATFORMS, Session, Target, installed};
use tollgate::image::{MONITOR_ELF, Placed, Rom};
use tollgate_abi::ExitReason;
use tollgate_abi::guest_image::Entry;
use tollgate_abi::machine::KVM_LEAF;
use tollgate_abi::machine::pc::{CLOCK_PORT, RESET_PORT, RESET_VALUE, SERIAL_PORT, SLEEP_CONTROL_PORT, SLEEP_TYPE_OFF};
use tollgate_abi::x86::msr::INTERRUPT_PENDING_MESSAGE;
use tollgate_books::account::Account;
use tollgate_books::failure::Status;

/// The guest's code, its first page table, and its memory.
const CODE: u64 = 0x10_0000;
const TABLES: u64 = 0x1000;
const MEMORY_BYTES: u64 = 64 << 20;
/// The port of an 8254's counter 2.
const COUNTER_PORT: u32 = 0x42;
/// A place far behind the code: more than one block of the emulator's memory away.
const FAR: u64 = 40 << 20;
const FAR_TEXT: &[u8] = b"far\n";

/// A guest of this code. Three tables map its first GiB to itself.
fn guest(write: impl FnOnce(&mut CodeAssembler)) -> Placed {
    let mut code = CodeAssembler::new(64).unwrap();
    write(&mut code);
    let table = |entry: u64| entry.to_le_bytes().to_vec();
    let directory = (0..512u64).flat_map(|page| (page << 21 | 0x83).to_le_bytes()).collect();
    let pieces = vec![
        (TABLES, table(TABLES + 0x1003)),
        (TABLES + 0x1000, table(TABLES + 0x2003)),
        (TABLES + 0x2000, directory),
        (CODE, code.assemble(CODE).unwrap()),
        (FAR, FAR_TEXT.to_vec()),
    ];
    Placed::new(
        pieces,
        FAR + FAR_TEXT.len() as u64,
        Entry { rip: CODE, rsp: CODE, rsi: FAR, rdi: 7, cr3: TABLES },
        MEMORY_BYTES,
    )
}

/// Sends AL.
fn send(code: &mut CodeAssembler) {
    code.mov(edx, u32::from(SERIAL_PORT)).unwrap();
    code.out(dx, al).unwrap();
}

fn out(code: &mut CodeAssembler, port: u16, value: u8) {
    code.mov(edx, u32::from(port)).unwrap();
    code.mov(eax, u32::from(value)).unwrap();
    code.out(dx, al).unwrap();
}

fn power_off(code: &mut CodeAssembler) {
    out(code, SLEEP_CONTROL_PORT, 1 << 5 | SLEEP_TYPE_OFF << 2);
}

/// Whether the Bochs that is here can't place a guest.
fn bochs_refuses() -> bool {
    installed(Engine::Bochs).is_ok_and(|bochs| bochs.has(Behaviour::RamImagesAtZero))
}

/// Runs a guest on Bochs, with VT-x and with SVM, and on QEMU, audited; returns each account, the guest's text, and the word for its
/// end. A Bochs that can't place a guest has to refuse, and is left out.
fn run(placed: &Placed) -> Vec<(String, Account, String, String)> {
    let rom = Rom::build(MONITOR_ELF, &placed.guest(), "workloads=none book=none limit=50000000").unwrap();
    let bochs = ["tigerlake", "zambezi"].map(|model| Target::bochs(Model::by_name(model).unwrap()));
    let tcg = PLATFORMS.iter().find(|row| row.name == "qemu-tcg").unwrap();
    let boot = Boot::RomAndGuest(&rom.bytes, placed);
    let one = |target: Target| {
        let place = tempfile::tempdir().unwrap();
        let launch = match Machine::new(target, boot).prepare(place.path(), boot, true) {
            Ok(launch) => launch,
            Err(refused) if target.engine() == Engine::Bochs && bochs_refuses() => {
                assert!(refused.sentence().contains("can't place a guest in memory"), "{refused}");
                // Past the test runner, which shows no output of a test that passes.
                let _ = writeln!(std::io::stderr(), "left out, {}: {refused}", target.name());
                return None;
            }
            Err(missing) => panic!("{missing}"),
        };
        let session = Session::run(&launch, Limits::within(Duration::from_secs(120)), |_| {}).unwrap();
        let log = session.log.unwrap_or_else(|error| panic!("{error}\n{}", session.said));
        let account = Account::new(&log, session.audit.as_ref(), Some(launch.platform.name));
        let serial = std::fs::read_to_string(&launch.serial).unwrap();
        let text = serial.lines().filter_map(|line| line.strip_prefix("console   text=\"")?.rsplit_once('"'));
        let text = text.map(|(text, _)| text).collect::<Vec<_>>().join("\n");
        let outcome =
            serial.split(" outcome=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
        Some((target.name().to_owned(), account, text, outcome.to_owned()))
    };
    bochs.into_iter().chain([Target::of(tcg)]).filter_map(one).collect()
}

#[test]
fn a_guest_that_is_placed_finds_its_bytes_and_the_devices_and_switches_off() {
    let guest = guest(|code| {
        // The text at RSI, a digit of RDI, and the year of the clock.
        for at in 0..FAR_TEXT.len() {
            code.mov(al, byte_ptr(rsi + at)).unwrap();
            send(code);
        }
        code.lea(rax, ptr(rdi + i32::from(b'0'))).unwrap();
        send(code);
        out(code, CLOCK_PORT, 9);
        code.mov(edx, u32::from(CLOCK_PORT + 1)).unwrap();
        code.in_(al, dx).unwrap();
        code.shr(al, 4).unwrap();
        code.add(al, i32::from(b'0')).unwrap();
        send(code);
        // The last byte of memory can be written, and KVM's signature is there.
        code.mov(rbx, MEMORY_BYTES - 1).unwrap();
        code.mov(byte_ptr(rbx), 1).unwrap();
        code.mov(eax, KVM_LEAF.leaf).unwrap();
        code.cpuid().unwrap();
        code.mov(eax, ebx).unwrap();
        send(code);
        // The counter of an interval timer and an MSR of AMD's, which read 0.
        code.mov(edx, COUNTER_PORT).unwrap();
        code.in_(al, dx).unwrap();
        code.add(al, i32::from(b'0')).unwrap();
        send(code);
        code.mov(ecx, INTERRUPT_PENDING_MESSAGE).unwrap();
        code.rdmsr().unwrap();
        code.add(eax, i32::from(b'0')).unwrap();
        send(code);
        power_off(code);
    });
    for (name, account, text, outcome) in run(&guest) {
        assert_eq!(text, "far\n72K00", "{name}");
        assert_eq!(account.status, Status::Balanced, "{name}: {}", account.verdict);
        assert_eq!(outcome, "powered-off", "{name}");
        let count =
            |reason: ExitReason| account.reasons.iter().find(|row| row.number == reason.0).unwrap().exits.figures.count;
        assert_eq!((count(ExitReason::CPUID), count(ExitReason::IO_INSTRUCTION)), (1, 13), "{name}");
    }
}

#[test]
fn the_ends_of_a_kernel_are_told_apart() {
    type Code = fn(&mut CodeAssembler);
    let ends: [(&str, Status, Code); 3] = [
        ("reset", Status::Balanced, |code| out(code, RESET_PORT, RESET_VALUE)),
        ("halted-for-ever", Status::Differs, |code| {
            code.cli().unwrap();
            code.hlt().unwrap();
        }),
        ("outside-memory", Status::Differs, |code| {
            code.mov(rax, MEMORY_BYTES).unwrap();
            code.mov(byte_ptr(rax), 1).unwrap();
        }),
    ];
    for (end, status, write) in ends {
        for (name, account, _, outcome) in run(&guest(write)) {
            assert_eq!(account.status, status, "{name}: {}", account.verdict);
            assert_eq!(outcome, end, "{name}");
        }
    }
}
