//! Guests that would run for ever: each ends at the run's limit, on every platform, with a full account.

mod common;

use std::fs;
use std::path::Path;

use common::{text, tollgate_in};

const CODE_OFFSET: usize = 0x200;
const LOAD_GPA: u64 = 0x10_0000;
const LIMIT: u64 = 3_000_000;

/// A guest of a few instructions: an ELF file with one segment, which is the file.
fn guest(code: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (bytes[16], bytes[18], bytes[20]) = (2, 62, 1);
    bytes[24..32].copy_from_slice(&(LOAD_GPA + CODE_OFFSET as u64).to_le_bytes());
    (bytes[32], bytes[52], bytes[54], bytes[56]) = (64, 64, 56, 1);
    bytes[64..72].copy_from_slice(&[1, 0, 0, 0, 7, 0, 0, 0]);
    for (at, word) in [0, LOAD_GPA, LOAD_GPA, 4096, 4096, 4096].into_iter().enumerate() {
        let at = 72 + 8 * at;
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    bytes[CODE_OFFSET..CODE_OFFSET + code.len()].copy_from_slice(code);
    bytes
}

/// `mov ecx, MSR; mov eax, VALUE; mov edx, HIGH; wrmsr`.
fn wrmsr(msr: u32, low: u32, high: u32) -> Vec<u8> {
    let moves = [(0xb9, msr), (0xb8, low), (0xba, high)];
    let mut code: Vec<u8> =
        moves.iter().flat_map(|&(opcode, word)| [vec![opcode], word.to_le_bytes().to_vec()].concat()).collect();
    code.extend([0x0f, 0x30]);
    code
}

const CLI: u8 = 0xfa;
const STI: u8 = 0xfb;
const HLT: u8 = 0xf4;
/// `xor eax, eax; cpuid; jmp` back to the first.
const CPUID_LOOP: [u8; 6] = [0x31, 0xc0, 0x0f, 0xa2, 0xeb, 0xfa];
/// `in al, 0x80; jmp` back.
const IN_LOOP: [u8; 4] = [0xe4, 0x80, 0xeb, 0xfc];
/// `wbinvd; jmp` back, which no quick form knows.
const WBINVD_LOOP: [u8; 4] = [0x0f, 0x09, 0xeb, 0xfc];
const JUMP_TO_SELF: [u8; 2] = [0xeb, 0xfe];
/// `mov eax, [0x40000000]`, which is outside the guest's memory.
const LEAVE_MEMORY: [u8; 7] = [0x8b, 0x04, 0x25, 0, 0, 0, 0x40];

const LVT_TIMER: u32 = 0x832;
const INITIAL_COUNT: u32 = 0x838;
const DIVIDE: u32 = 0x83e;
const TSC_DEADLINE: u32 = 0x6e0;

/// The platforms, by the options that choose them.
const VTX_ON_BOCHS: &[&str] = &["--on", "bochs"];
const SVM_ON_BOCHS: &[&str] = &["--on", "bochs", "--cpu", "zambezi"];
const SVM_ON_QEMU: &[&str] = &["--on", "qemu-tcg"];
const ALL: [&[&str]; 3] = [VTX_ON_BOCHS, SVM_ON_BOCHS, SVM_ON_QEMU];
/// The platforms for guests with interrupts off. Bochs 2.7 makes no exit from SVM for an interrupt or by a timer while RFLAGS.IF
/// has been 0 since the entry.
const WITH_INTERRUPTS_OFF: [&[&str]; 2] = [VTX_ON_BOCHS, SVM_ON_QEMU];

/// The verdict of such a guest on a platform; the run's log has an account.
fn verdict(code: &[u8], platform: &[&str]) -> String {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("guest.elf"), guest(code)).unwrap();
    let limit = LIMIT.to_string();
    let arguments =
        ["run", "--guest", "guest.elf", "--limit", &limit, "--watchdog", "0", "--timeout", "100", "--out", "out"];
    let output = tollgate_in(place.path(), &[&arguments[..], platform].concat(), &[]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{platform:?}: {said}{}", text(&output.stderr));
    assert!(serial(place.path()).lines().any(|line| line.starts_with("total ")), "{platform:?} has no account");
    let line = said.lines().find(|line| line.starts_with("verdict: ")).unwrap_or_default();
    line.to_owned()
}

fn serial(place: &Path) -> String {
    text(&fs::read(place.join("out/serial.log")).unwrap())
}

fn reaches_its_limit(code: &[&[u8]], platforms: &[&[&str]]) {
    for platform in platforms {
        let verdict = verdict(&code.concat(), platform);
        assert!(verdict.contains("the guest ended as limit-reached"), "{platform:?}: {verdict}");
    }
}

#[test]
fn a_guest_that_waits_for_a_time_that_does_not_come() {
    let timer = wrmsr(LVT_TIMER, 0x4_0040, 0);
    let deadline = wrmsr(TSC_DEADLINE, 0, 0x4000_0000);
    reaches_its_limit(&[&timer, &deadline, &[STI, HLT]], &ALL);
}

#[test]
fn a_guest_that_does_nothing_but_exit() {
    for loops in [&CPUID_LOOP[..], &IN_LOOP, &WBINVD_LOOP] {
        reaches_its_limit(&[&[STI], loops], &ALL);
        reaches_its_limit(&[&[CLI], loops], &WITH_INTERRUPTS_OFF);
    }
}

#[test]
fn a_guest_that_does_nothing_at_all() {
    reaches_its_limit(&[&[STI], &JUMP_TO_SELF], &ALL);
    reaches_its_limit(&[&[CLI], &JUMP_TO_SELF], &WITH_INTERRUPTS_OFF);
}

#[test]
fn a_timer_with_a_period_of_one_count_lets_its_guest_go_on() {
    // The timer is masked, so that no handler is needed: each period ends with an exit all the same.
    let timer = [wrmsr(DIVIDE, 0b1011, 0), wrmsr(LVT_TIMER, 0x3_0040, 0), wrmsr(INITIAL_COUNT, 1, 0)].concat();
    for (flag, platforms) in [(STI, &ALL[..]), (CLI, &ALL[..])] {
        for platform in platforms {
            let code = [&timer[..], &[flag], &[0x90; 40], &LEAVE_MEMORY].concat();
            let verdict = verdict(&code, platform);
            assert!(verdict.contains("the guest ended as outside-memory"), "{platform:?}: {verdict}");
        }
    }
}
