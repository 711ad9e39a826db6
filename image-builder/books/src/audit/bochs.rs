//! Lines of Bochs' log, each with the CPU that it is about. An exit from VT-x has its basic exit reason, an exit from SVM its
//! exit code, in decimal; that is -1 for a VM entry with invalid state.
//!
//! ```text
//! 00000172434d[CPU0  ] VMEXIT reason = 18 (VMCALL) qualification=0x0
//! 00000172434d[CPU0  ] SVM VMEXIT reason=114 exitinfo1=0000000000000000 exitinfo2=0000000000000000
//! ```
//!
//! Some exits are announced by a line of their own (`SVM VMEXIT: I/O port 0x0080`), which is not another exit.

use tollgate_abi::{ExitReason, svm_exit};

use super::LoggedExit;

/// The exit that a line is about.
pub(super) fn exit(line: &[u8]) -> Option<LoggedExit> {
    let device_start = line.iter().position(|&byte| byte == b'[')? + 1;
    let (device, message) = std::str::from_utf8(&line[device_start..]).ok()?.split_once("] ")?;
    // Bochs numbers its processors in hexadecimal.
    let cpu = u8::from_str_radix(device.strip_prefix("CPU")?.trim_end(), 16).ok()?.into();
    let reason = from_vtx(message).or_else(|| from_svm(message))?;
    Some(LoggedExit { cpu: Some(cpu), reason })
}

fn from_vtx(message: &str) -> Option<ExitReason> {
    let (reason, _name) = message.strip_prefix("VMEXIT reason = ")?.split_once(' ')?;
    Some(ExitReason(reason.parse().ok()?))
}

fn from_svm(message: &str) -> Option<ExitReason> {
    let (code, rest) = message.strip_prefix("SVM VMEXIT reason=")?.split_once(" exitinfo1=")?;
    let (exitinfo1, _exitinfo2) = rest.split_once(" exitinfo2=")?;
    let (code, exitinfo1) = (code.parse::<i32>().ok()?, u64::from_str_radix(exitinfo1, 16).ok()?);
    Some(svm_exit::reason(code.cast_unsigned(), exitinfo1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<(u64, ExitReason)>) {
        let expected = expected.map(|(cpu, reason)| LoggedExit { cpu: Some(cpu), reason });
        assert_eq!(exit(line.as_bytes()), expected, "{line}");
    }

    #[test]
    fn golden_lines() {
        let svm = |code: &str, exitinfo1: &str| {
            format!("00000172434d[CPU0  ] SVM VMEXIT reason={code} exitinfo1={exitinfo1} exitinfo2=000000007fa05000")
        };
        check("00000172434d[CPU0  ] VMEXIT reason = 18 (VMCALL) qualification=0x0", Some((0, ExitReason::VMCALL)));
        check(&svm("114", "0000000000000000"), Some((0, ExitReason::CPUID)));
        check(&svm("124", "0000000000000000"), Some((0, ExitReason::RDMSR)));
        check(&svm("124", "0000000000000001"), Some((0, ExitReason::WRMSR)));
        check(&svm("127", "0000000000000000"), Some((0, ExitReason::SVM_SHUTDOWN)));
        check(&svm("1024", "000000010000000c"), Some((0, ExitReason::EPT_MISCONFIGURATION)));
        check(&svm("-1", "0000000000000000"), Some((0, ExitReason::ENTRY_FAILURE_GUEST_STATE)));
    }

    #[test]
    fn lines_that_are_no_exits() {
        for message in [
            "SVM VMEXIT: I/O port 0x0080",
            "SVM VMEXIT: event vector 0x0e type 3 error code=0x0002",
            "SVM VMEXIT: task switch",
            "SVM VMEXIT reason=114 exitinfo1=0000",
            "SVM VMEXIT reason= exitinfo1=0000000000000000 exitinfo2=0000000000000000",
            "SVM VMEXIT reason=99999999999 exitinfo1=0000000000000000 exitinfo2=0000000000000000",
            "VMEXIT: EPT violation for guest paddr 0x000000800000 laddr 0x0000000000800000",
            "VMEXIT reason = 18",
            "VMEXIT reason =  (VMCALL) q",
            "VMENTER to x86-64 guest",
        ] {
            check(&format!("00000172434d[CPU0  ] {message}"), None);
        }
        check("00000172434d[APIC0 ] SVM VMEXIT reason=114 exitinfo1=00 exitinfo2=00", None);
        check("SVM VMEXIT reason=114 exitinfo1=00 exitinfo2=00", None);
        check("[", None);
        check("", None);
    }
}
