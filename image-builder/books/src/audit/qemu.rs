//! Lines of QEMU's log under `-d in_asm`, where a filter keeps the disassembly out: the exit code, EXITINFO1, EXITINFO2 and RIP
//! of each exit from SVM, in hexadecimal. None names its CPU.
//!
//! ```text
//! vmrun! 0000000000010000
//! vmexit(00000072, 0000000000000000, 0000000000000000, 00000000000f0148)!
//! ```
//!
//! The line of an exit begins with the exception that the VM entry before it injected: `Injecting(0): EXEPTvmexit(...)!`.
//! A VM entry with invalid state is an exit with all bits of its code set: of 32 in QEMU 7.2, of 64 in newer ones.

use tollgate_abi::svm_exit;

use super::LoggedExit;

/// The exit that a line is about.
pub(super) fn exit(line: &[u8]) -> Option<LoggedExit> {
    let (before, arguments) = std::str::from_utf8(line).ok()?.strip_suffix(")!")?.split_once("vmexit(")?;
    if !(before.is_empty() || before.starts_with("Injecting(")) {
        return None;
    }
    let mut numbers = arguments.split(", ").map(|digits| u64::from_str_radix(digits, 16).ok());
    let (code, exitinfo1, _exitinfo2, _rip) = (numbers.next()??, numbers.next()??, numbers.next()??, numbers.next()??);
    // The code's low half is the whole code, however wide it was written.
    let reason = svm_exit::reason(code as u32, exitinfo1);
    numbers.next().is_none().then_some(LoggedExit { cpu: None, reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_abi::ExitReason;

    fn check(line: &str, expected: Option<ExitReason>) {
        assert_eq!(exit(line.as_bytes()).map(|exit| exit.reason), expected, "{line}");
    }

    #[test]
    fn golden_lines() {
        let line =
            |code: &str, exitinfo1: &str| format!("vmexit({code}, {exitinfo1}, 000000007fa05000, 00000000000f0148)!");
        check(&line("00000072", "0000000000000000"), Some(ExitReason::CPUID));
        check(&line("0000007c", "0000000000000000"), Some(ExitReason::RDMSR));
        check(&line("0000007c", "0000000000000001"), Some(ExitReason::WRMSR));
        check(&line("00000400", "0000000100000004"), Some(ExitReason::EPT_VIOLATION));
        check(&line("00000400", "000000010000000c"), Some(ExitReason::EPT_MISCONFIGURATION));
        check(&line("00000080", "0000000000000000"), Some(ExitReason::SVM_VMRUN));
        check(&line("ffffffff", "0000000000000000"), Some(ExitReason::ENTRY_FAILURE_GUEST_STATE));
        check(&line("ffffffffffffffff", "0000000000000000"), Some(ExitReason::ENTRY_FAILURE_GUEST_STATE));
        let behind_an_injection = format!("Injecting(0x800): EXEPT{}", line("0000007c", "0000000000000001"));
        check(&behind_an_injection, Some(ExitReason::WRMSR));
        assert_eq!(exit(line("00000072", "0").as_bytes()).unwrap().cpu, None);
    }

    #[test]
    fn lines_that_are_no_exits() {
        check("vmrun! 0000000000010000", None);
        check("Injecting(0): INTR 0x20 0", None);
        check("Injecting(0): EXEPT", None);
        check("vmexit(00000072, 0000000000000000, 0000000000000000, 00000000000f0148)", None);
        check("vmexit(00000072, 0000000000000000, 0000000000000000)!", None);
        check("vmexit(00000072, 0000000000000000, 0000000000000000, 00, 00)!", None);
        check("vmexit(code, 0000000000000000, 0000000000000000, 00000000000f0148)!", None);
        check(" vmexit(00000072, 0000000000000000, 0000000000000000, 00000000000f0148)!", None);
        check("vmexit(", None);
        check("", None);
    }
}
