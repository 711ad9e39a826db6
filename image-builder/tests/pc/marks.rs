//! Marks in the console: the phases of a guest, and the text that ends its run.

use iced_x86::code_asm::*;
use tollgate::image::Placed;
use tollgate_abi::ExitReason;
use tollgate_books::failure::Status;

use crate::guest::{guest, power_off, run_with, send};

/// Sends a text.
fn say(code: &mut CodeAssembler, text: &str) {
    for byte in text.bytes() {
        code.mov(eax, u32::from(byte)).unwrap();
        send(code);
    }
}

/// A guest that says that it boots, asks CPUID thrice, says in the midst of a line that it is ready, asks once more, and switches off.
fn talkative() -> Placed {
    guest(|code| {
        say(code, "boots\n");
        for text in ["", "", "it is ready: ", "and off\n"] {
            code.xor(eax, eax).unwrap();
            code.cpuid().unwrap();
            say(code, text);
        }
        power_off(code);
    })
}

#[test]
fn marks_cut_the_account_behind_the_exits_that_complete_their_texts() {
    for (name, account, text, outcome) in run_with(&talkative(), "marks=boot=oot,ready=ready:,never=x%21") {
        assert_eq!((text.as_str(), outcome.as_str()), ("boots\nit is ready: and off", "powered-off"), "{name}");
        assert_eq!(
            (account.status, account.totals.audit_count),
            (Status::Balanced, Some(account.totals.exits)),
            "{name}"
        );
        let phases: Vec<_> = account
            .phases
            .iter()
            .map(|phase| {
                let count = |reason: ExitReason| {
                    phase.reasons.iter().find(|row| row.number == reason.0).map_or(0, |row| row.count)
                };
                let name = format!("{} to {}", phase.from, phase.to);
                (name, phase.exits, count(ExitReason::CPUID), count(ExitReason::IO_INSTRUCTION))
            })
            .collect();
        let phase = |name: &str, cpuids, outs| (name.to_owned(), cpuids + outs, cpuids, outs);
        let expected = [phase("start to boot", 0, 4), phase("boot to ready", 3, 14), phase("ready to end", 1, 10)];
        assert_eq!(phases, expected, "{name}");
        let missing: Vec<_> = account.marks.iter().filter(|mark| mark.until.is_none()).map(|mark| &mark.name).collect();
        assert_eq!(missing, ["never"], "{name}");
        let own = account.phases.iter().map(|phase| phase.guest_ticks.unwrap() + phase.cycles + phase.paused);
        assert_eq!(own.sum::<u64>(), account.totals.elapsed, "{name}");
    }
}

#[test]
fn a_run_ends_at_the_text_that_it_is_to_end_at_or_has_failed() {
    for (name, account, text, outcome) in run_with(&talkative(), "marks=ready=ready: until=ready:%20") {
        assert_eq!((text.as_str(), outcome.as_str()), ("boots\nit is ready: ", "text-shown"), "{name}");
        assert_eq!((account.status, account.totals.exits), (Status::Balanced, 3 + 19), "{name}: {}", account.verdict);
        assert_eq!(account.totals.audit_count, Some(3 + 19), "{name}");
    }
    for (name, account, _, outcome) in run_with(&talkative(), "until=login:") {
        assert_eq!((account.status, outcome.as_str()), (Status::Differs, "powered-off"), "{name}");
        let verdict = account.verdict.to_string();
        assert!(
            verdict.ends_with(", before its console showed `login:`; its last line: it is ready: and off"),
            "{verdict}"
        );
    }
}
