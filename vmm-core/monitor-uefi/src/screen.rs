//! The screen: it tells a person that the run begins, and at its end shows the account in a form that fits 80 columns.
//!
//! No line starts with a record's word, because some firmware copies its screen to the serial port.

use core::fmt::{self, Write};
use core::time::Duration;

use tollgate_abi::record::records::read;
use tollgate_abi::record::{Kind, MONITOR, Record, Text, parse};
use uefi::{boot, system};

/// Writes lines. Without a screen they are lost.
pub(crate) fn say(text: fmt::Arguments<'_>) {
    system::with_stdout(|screen| {
        let _ = screen.write_fmt(text);
        let _ = screen.write_str("\n");
    });
}

/// The lines of the guest's console that are shown, where some are: most of a screen.
pub(crate) const CONSOLE_LINES: usize = 20;

/// Shows the account that a log holds: the header, every reason with exits, remarks, the verdict. And so many of the last lines of the
/// guest's console.
pub(crate) fn show(log: &[u8], console_lines: usize) {
    for_each_line(log, console_lines, &mut say);
}

/// The text of a line of the guest's console, and not the monitor's own.
fn of_guest<'a>(record: &Record<'a>) -> Option<Text<'a>> {
    let console = Some(record).filter(|record| record.kind == Kind::Console).map(read::Console::of);
    let read::Console { by, text } = console?.ok()?;
    (by.as_ref().and_then(Text::as_plain) != Some(MONITOR)).then_some(text)
}

/// The lines that show a log's account.
fn for_each_line(log: &[u8], console_lines: usize, say: &mut dyn FnMut(fmt::Arguments<'_>)) {
    let records = || log.split(|&byte| byte == b'\n').filter_map(|line| parse(line).ok());
    let of_console = if console_lines > 0 { records().filter_map(|record| of_guest(&record)).count() } else { 0 };
    let mut too_many = of_console.saturating_sub(console_lines);
    let mut in_table = false;
    for record in records() {
        if record.kind == Kind::Exit && !core::mem::replace(&mut in_table, true) {
            let (number, exits, average) = ("no", "exits", "avg cycles");
            say(format_args!("\n {:>4} {number:>3}  {:<34} {exits:>10} {average:>12}", "vCPU", "exit reason"));
        }
        match record.kind {
            Kind::Tollgate => {
                let Ok(read::Tollgate { cpu, options, .. }) = read::Tollgate::of(&record) else { continue };
                say(format_args!("\n {}, {}", shown(cpu), shown(options)));
            }
            Kind::Processor => {
                let Ok(read::Processor { microcode, threads, .. }) = read::Processor::of(&record) else { continue };
                let (microcode, threads) = (microcode.unwrap_or(0), threads.unwrap_or(1));
                say(format_args!(" Microcode {microcode:#x}, threads on a core: {threads}"));
            }
            Kind::Console => match of_guest(&record) {
                Some(_) if too_many > 0 => too_many -= 1,
                Some(text) if console_lines > 0 => say(format_args!(" {}", shown(Some(text)))),
                Some(_) => {}
                None => {
                    let Ok(read::Console { text, .. }) = read::Console::of(&record) else { continue };
                    say(format_args!(" {}", shown(Some(text))));
                }
            },
            Kind::Exit => show_row(&record, say),
            Kind::Verdict => {
                let Ok(read::Verdict { result, detail, remedy, .. }) = read::Verdict::of(&record) else { continue };
                say(format_args!("\n Verdict: {result}: {}", shown(detail)));
                if remedy.is_some() {
                    say(format_args!(" Remedy: {}", shown(remedy)));
                }
            }
            _ => {}
        }
    }
}

fn show_row(record: &Record<'_>, say: &mut dyn FnMut(fmt::Arguments<'_>)) {
    let Ok(read::Exit { vcpu, reason, name, count, cycles, .. }) = read::Exit::of(record) else { return };
    if let Some(average) = cycles.checked_div(count) {
        let name = shown(Some(name));
        say(format_args!(" {vcpu:>4} {reason:>3}  {name:<34} {count:>10} {average:>12}"));
    }
}

/// A text without its escapes, as a string that can be padded; empty if there is none.
fn shown(text: Option<Text<'_>>) -> alloc::string::String {
    text.map(|text| alloc::format!("{text}")).unwrap_or_default()
}

/// The time that the account stays on the screen unless a key is pressed.
const READING: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// Waits for a key, or for the time of reading.
pub(crate) fn wait_for_key() {
    say(format_args!("\n Press a key to return to the firmware ({} s).", READING.as_secs()));
    let mut left = READING;
    while let Some(rest) = left.checked_sub(LOOK) {
        let pressed = system::with_stdin(|keyboard| keyboard.read_key().is_ok_and(|key| key.is_some()));
        if pressed {
            return;
        }
        boot::stall(LOOK);
        left = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString};
    use std::vec::Vec;
    use tollgate_abi::record::{PROTOCOL, records};

    fn lines(console_lines: usize, write: impl Fn(&mut String)) -> Vec<String> {
        let mut log = String::from("firmware's own words\n");
        write(&mut log);
        let mut lines = Vec::new();
        for_each_line(log.as_bytes(), console_lines, &mut |line| {
            lines.extend(line.to_string().split('\n').map(str::to_owned))
        });
        lines
    }

    fn exit(log: &mut String, vcpu: u64, name: &str, count: u64, cycles: u64) {
        let (status, min, max) = ("enabled", 0, 0);
        let reason = 10;
        let record =
            records::Exit { vcpu, reason, name: &name, status, count, cycles, min, max, histogram: None, looks: None };
        record.write(log).unwrap();
    }

    #[test]
    fn the_account_fits_the_screen_and_has_the_reasons_that_had_exits() {
        let name = "x".repeat(34);
        let lines = lines(0, |log| {
            let record = records::Tollgate {
                protocol: PROTOCOL,
                build: None,
                platform: None,
                virtualization: None,
                cpu: Some(&"a CPU"),
                sdm: None,
                leaf_map: None,
                vcpus: None,
                facts: None,
                options: Some(&"cpus=2"),
            };
            record.write(log).unwrap();
            records::Console { by: Some(MONITOR), text: &"(monitor) no vCPU 1; going on" }.write(log).unwrap();
            records::Console { by: None, text: &"a guest's \"line\"" }.write(log).unwrap();
            records::Console { by: None, text: &"(monitor) says the guest" }.write(log).unwrap();
            exit(log, 0, &name, 3, 301);
            exit(log, 0, "none", 0, 0);
            exit(log, 15, "CPUID", u64::from(u32::MAX), 1 << 40);
            records::Verdict { result: "refused", detail: Some(&"why"), remedy: Some(&"how"), records: None }
                .write(log)
                .unwrap();
        });
        let expected = [
            "",
            " a CPU, cpus=2",
            " (monitor) no vCPU 1; going on",
            "",
            " vCPU  no  exit reason                             exits   avg cycles",
        ];
        assert_eq!(lines[..5], expected, "{lines:#?}");
        assert_eq!(lines[5], std::format!("    0  10  {name}          3          100"));
        assert_eq!(lines[6].split_whitespace().collect::<Vec<_>>(), ["15", "10", "CPUID", "4294967295", "256"]);
        assert_eq!(lines[7..], ["", " Verdict: refused: why", " Remedy: how"]);
        assert!(lines.iter().all(|line| line.len() <= 80), "{lines:#?}");
        assert!(lines.iter().all(|line| line.is_empty() || line.starts_with(' ')), "none begins as a record does");
    }

    #[test]
    fn the_last_lines_of_the_guests_console_are_shown_if_they_are_asked_for() {
        let write = |log: &mut String| {
            for line in ["first", "second"] {
                records::Console { by: None, text: &line }.write(log).unwrap();
            }
            records::Console { by: Some(MONITOR), text: &"(monitor) a remark" }.write(log).unwrap();
            records::Console { by: None, text: &"exit is the last" }.write(log).unwrap();
        };
        assert_eq!(lines(0, write), [" (monitor) a remark"]);
        assert_eq!(lines(2, write), [" second", " (monitor) a remark", " exit is the last"]);
        assert_eq!(lines(CONSOLE_LINES, write)[0], " first");
    }
}
