//! Memory that the guest gets by pages of 4 KiB: each page that it touches is one exit, and no other is.

use iced_x86::code_asm::*;
use tollgate_abi::ExitReason;
use tollgate_books::failure::Status;

use crate::guest::{guest, power_off, run_with};

/// The pages that the guest writes, from the second MiB on, every other one; and those that its processor reads: three tables, and one
/// page of code.
const WRITTEN: u64 = 100;
const READ: u64 = 4;
const FIRST: u64 = 2 << 20;

#[test]
fn with_small_pages_there_are_as_many_exits_as_pages_that_are_touched() {
    let toucher = guest(|code| {
        let mut again = code.create_label();
        code.mov(rdi, FIRST).unwrap();
        code.mov(ecx, WRITTEN as u32).unwrap();
        code.set_label(&mut again).unwrap();
        // Twice, of which the second is no exit.
        code.mov(qword_ptr(rdi), 1).unwrap();
        code.mov(qword_ptr(rdi + 8), 1).unwrap();
        code.add(rdi, 8192).unwrap();
        code.dec(ecx).unwrap();
        code.jnz(again).unwrap();
        power_off(code);
    });
    for (options, expected) in [("pages=4k keys=on", WRITTEN + READ), ("", 0)] {
        for (name, account, _, outcome) in run_with(&toucher, options) {
            assert_eq!(
                (account.status, outcome.as_str()),
                (Status::Balanced, "powered-off"),
                "{name}: {}",
                account.verdict
            );
            let row = account.reasons.iter().find(|row| row.number == ExitReason::EPT_VIOLATION.0).unwrap();
            assert_eq!((row.exits.figures.count, row.audit_count), (expected, Some(expected)), "{name} {options}");
        }
    }
}
