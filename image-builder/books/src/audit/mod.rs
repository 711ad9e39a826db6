//! The third book: the emulator's own log of VM exits, which neither the monitor nor the guest wrote.
//!
//! Each file here reads the lines of one emulator's log. vCPU n runs on the emulator's CPU n, so that if the lines name the CPU,
//! each vCPU's ledger has a book of its own to agree with. If they don't, only sums can be compared.

mod bochs;
mod qemu;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use tollgate_abi::ExitReason;
use tollgate_abi::exit_reason::{ROWS, UNKNOWN_ROW};

use crate::lines::{Line, Lines};

/// The emulator that wrote the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitLogFormat {
    /// Bochs': exits from VT-x and from SVM, each with its CPU.
    Bochs,
    /// QEMU's own emulation's: exits from SVM, without their CPU.
    Qemu,
}

/// The content of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LoggedExit {
    /// `None` where the line names none.
    cpu: Option<u64>,
    reason: ExitReason,
}

impl ExitLogFormat {
    /// The exit that a line is about, if it is about one.
    fn exit(self, line: &[u8]) -> Option<LoggedExit> {
        match self {
            ExitLogFormat::Bochs => bochs::exit(line),
            ExitLogFormat::Qemu => qemu::exit(line),
        }
    }

    fn names_cpus(self) -> bool {
        match self {
            ExitLogFormat::Bochs => true,
            ExitLogFormat::Qemu => false,
        }
    }
}

/// The emulator's exits for each reason, by CPU where its log names CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    counts: BTreeMap<(u64, u16), u64>,
    tells_cpus: bool,
}

impl Audit {
    /// Whether it is known on which CPU each exit was.
    pub fn tells_cpus(&self) -> bool {
        self.tells_cpus
    }

    /// Exits in the ledger row `number`, on all CPUs.
    pub fn count(&self, number: u16) -> u64 {
        self.counts.iter().filter(|((_, row), _)| *row == number).map(|(_, count)| count).sum()
    }

    /// Exits in the ledger row `number` on one CPU; `None` where CPUs are not told apart.
    pub fn count_on(&self, cpu: u64, number: u16) -> Option<u64> {
        self.tells_cpus.then(|| self.counts.get(&(cpu, number)).copied().unwrap_or(0))
    }

    /// Exits in all.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Exits on one CPU; `None` where CPUs are not told apart.
    pub fn total_on(&self, cpu: u64) -> Option<u64> {
        self.tells_cpus.then(|| self.counts.range((cpu, 0)..=(cpu, u16::MAX)).map(|(_, count)| count).sum())
    }

    /// The rows that are not empty on some CPU.
    pub fn rows(&self) -> BTreeSet<u16> {
        self.counts.keys().map(|&(_, row)| row).collect()
    }

    /// Each CPU and row with exits, in ascending order; none where CPUs are not told apart.
    pub fn places(&self) -> impl Iterator<Item = (u64, u16)> + '_ {
        self.counts.keys().copied().filter(|_| self.tells_cpus)
    }

    /// The exits without those of the monitor's own probes, which are on the first CPU and in no other book. Also the reasons for
    /// which the log has fewer exits than there were probes.
    pub fn without(&self, probes: &BTreeMap<u16, u64>) -> (Self, Vec<u16>) {
        let (mut rest, mut too_few) = (self.clone(), Vec::new());
        for (&row, &probed) in probes {
            let logged = rest.counts.remove(&(0, row)).unwrap_or(0);
            match logged.checked_sub(probed) {
                Some(0) => {}
                Some(others) => drop(rest.counts.insert((0, row), others)),
                None => too_few.push(row),
            }
        }
        (rest, too_few)
    }

    fn add(&mut self, exit: LoggedExit) {
        const { assert!(ROWS <= u16::MAX as usize && UNKNOWN_ROW < ROWS) };
        *self.counts.entry((exit.cpu.unwrap_or(0), exit.reason.ledger_row() as u16)).or_default() += 1;
    }
}

/// Reads the log as it grows.
#[derive(Debug)]
pub struct ExitLogReader {
    format: ExitLogFormat,
    lines: Lines,
    audit: Audit,
}

/// The bytes that are kept of a line. Exit lines are far shorter, and of a longer one the beginning tells enough.
const MOST_LINE_BYTES: usize = 512;

impl ExitLogReader {
    /// A reader of the log of a machine with `cpus` processors; with one processor, every exit is that processor's.
    pub fn new(format: ExitLogFormat, cpus: u32) -> Self {
        let audit = Audit { counts: BTreeMap::new(), tells_cpus: format.names_cpus() || cpus == 1 };
        Self { format, lines: Lines::new(MOST_LINE_BYTES), audit }
    }

    /// Takes the next bytes of the log.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Self { format, lines, audit } = self;
        let Ok(()) = lines.feed::<Infallible>(bytes, |line| {
            let (Line::Whole(line) | Line::Overlong(line)) = line;
            if let Some(exit) = format.exit(line) {
                audit.add(exit);
            }
            Ok(())
        });
    }

    /// The counts. A torn last line does not count: the emulator was killed while it wrote it.
    pub fn finish(self) -> Audit {
        self.audit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: ExitLogFormat, cpus: u32, log: &[u8], piece_bytes: usize) -> Audit {
        let mut reader = ExitLogReader::new(format, cpus);
        log.chunks(piece_bytes).for_each(|piece| reader.feed(piece));
        reader.finish()
    }

    const BOCHS_VTX: &[u8] = b"00000172434d[CPU0  ] VMEXIT reason = 18 (VMCALL) qualification=0x0\n\
        00000472480d[CPU1  ] VMEXIT reason = 3 (INIT) qualification=0x0\n\
        00001320903e[CPU0  ] VMEXIT: EPT violation for guest paddr 0x000000800000 laddr 0x0000000000800000\n\
        00000894847d[CPU0  ] VMENTER to x86-64 guest\n\
        00000172435d[CPU0  ] VMEXIT reason = 18 (VMCALL) qualification=0x0\n\
        00000172436d[CPU0  ] VMEXIT reason = 1";

    const BOCHS_SVM: &[u8] =
        b"00000172434d[CPU0  ] SVM VMEXIT reason=114 exitinfo1=0000000000000000 exitinfo2=0000000000000000\n\
        00000172440e[CPU0  ] SVM VMEXIT: I/O port 0x0080\n\
        00000172440d[CPU0  ] SVM VMEXIT reason=123 exitinfo1=0000000000800210 exitinfo2=0000000000406275\n\
        00000172450d[CPU1  ] SVM VMEXIT reason=124 exitinfo1=0000000000000001 exitinfo2=0000000000000000\n\
        00000172460d[CPU1  ] SVM VMEXIT reason=-1 exitinfo1=0000000000000000 exitinfo2=0000000000000000\n\
        00000172470d[CPU0  ] SVM VMEXIT reason=1024 exitinfo1=0000000100000004 exitinfo2=000000007fa05000\n\
        00000172470d[CPU0  ] SVM VMEXIT reason=11";

    const QEMU: &[u8] = b"vmrun! 0000000000010000\n\
        vmexit(00000072, 0000000000000000, 0000000000000000, 00000000000f0148)!\n\
        vmrun! 0000000000010000\n\
        vmexit(0000007b, 0000000000000011, 0000000000406275, 0000000000406273)!\n\
        vmexit(0000007c, 0000000000000001, 0000000000000000, 0000000000406273)!\n\
        vmexit(ffffffff, 0000000000000000, 0000000000000000, 0000000000000000)!\n\
        vmexit(00000400, 0000000100000004, 000000007fa05000, 00000000004001d8)!\n\
        vmexit(00000072, 00000000000000";

    #[test]
    fn exits_are_counted_and_other_lines_are_not_however_the_log_is_cut() {
        use ExitReason as R;
        for piece_bytes in [1, 7, 64, 4096] {
            let audit = read(ExitLogFormat::Bochs, 2, BOCHS_VTX, piece_bytes);
            assert_eq!((audit.count(R::VMCALL.0), audit.count(R::INIT.0), audit.total()), (2, 1, 3));
            for (format, log) in [(ExitLogFormat::Bochs, BOCHS_SVM), (ExitLogFormat::Qemu, QEMU)] {
                let audit = read(format, 2, log, piece_bytes);
                let expected = [R::CPUID, R::IO_INSTRUCTION, R::WRMSR, R::ENTRY_FAILURE_GUEST_STATE, R::EPT_VIOLATION];
                assert_eq!(expected.map(|reason| audit.count(reason.0)), [1; 5], "{format:?}");
                assert_eq!(audit.total(), 5, "{format:?}");
            }
        }
    }

    #[test]
    fn each_cpu_has_its_own_counts() {
        let log = ["0", "1", "1", "F"].map(|cpu| format!("0d[CPU{cpu}  ] VMEXIT reason = 10 (CPUID) q\n")).concat()
            + "0d[CPU1  ] VMEXIT reason = 18 (VMCALL) q\n0d[APIC1 ] VMEXIT reason = 18 (VMCALL) q\n";
        let audit = read(ExitLogFormat::Bochs, 16, log.as_bytes(), 100);
        let (cpuid, vmcall) = (ExitReason::CPUID.0, ExitReason::VMCALL.0);
        assert_eq!([0, 1, 2, 15].map(|cpu| audit.count_on(cpu, cpuid)), [1, 2, 0, 1].map(Some));
        assert_eq!((audit.count(cpuid), audit.count(vmcall), audit.total_on(1), audit.total()), (4, 1, Some(3), 5));
        let places: Vec<_> = audit.places().collect();
        assert_eq!(places, [(0, cpuid), (1, cpuid), (1, vmcall), (15, cpuid)]);
    }

    #[test]
    fn qemu_tells_cpus_apart_only_where_there_is_one() {
        let cpuid = ExitReason::CPUID.0;
        let several = read(ExitLogFormat::Qemu, 2, QEMU, 64);
        assert_eq!((several.tells_cpus(), several.count_on(0, cpuid), several.total_on(0)), (false, None, None));
        assert_eq!((several.places().count(), several.rows().len(), several.total()), (0, 5, 5));
        let one = read(ExitLogFormat::Qemu, 1, QEMU, 64);
        assert_eq!((one.tells_cpus(), one.count_on(0, cpuid), one.total_on(0)), (true, Some(1), Some(5)));
        assert!(one.places().all(|(cpu, _)| cpu == 0));
    }

    #[test]
    fn the_monitors_probes_are_no_exits_of_the_guests() {
        let (cpuid, vmcall) = (ExitReason::CPUID.0, ExitReason::VMCALL.0);
        for (format, log) in [(ExitLogFormat::Bochs, BOCHS_VTX), (ExitLogFormat::Qemu, QEMU)] {
            let audit = read(format, 2, log, 64);
            let (rest, too_few) = audit.without(&BTreeMap::from([(vmcall, 1), (cpuid, 1)]));
            let left = [audit.count(vmcall), audit.count(cpuid)].map(|count| count.saturating_sub(1));
            assert_eq!([rest.count(vmcall), rest.count(cpuid)], left, "{format:?}");
            let missing = if format == ExitLogFormat::Bochs { cpuid } else { vmcall };
            assert_eq!((too_few, rest.rows().contains(&missing)), (vec![missing], false), "{format:?}");
        }
    }

    #[test]
    fn numbers_beyond_the_tables_share_a_row() {
        let unknown = |format, log: &str| read(format, 1, log.as_bytes(), 50).count(UNKNOWN_ROW as u16);
        let vtx = "0d[CPU0  ] VMEXIT reason = 9999 (?) q\n0d[CPU0  ] VMEXIT reason = 99999999 (?) q\n";
        assert_eq!(unknown(ExitLogFormat::Bochs, vtx), 1);
        let svm = "0d[CPU0  ] SVM VMEXIT reason=9999 exitinfo1=0000000000000000 exitinfo2=0000000000000000\n";
        assert_eq!(unknown(ExitLogFormat::Bochs, svm), 1);
        let qemu = "vmexit(12345678, 0000000000000000, 0000000000000000, 0000000000000000)!\n";
        assert_eq!(unknown(ExitLogFormat::Qemu, qemu), 1);
    }

    #[test]
    fn one_emulators_lines_are_nothing_in_anothers_log() {
        assert_eq!(read(ExitLogFormat::Qemu, 1, &[BOCHS_VTX, b"\n", BOCHS_SVM].concat(), 64).total(), 0);
        assert_eq!(read(ExitLogFormat::Bochs, 1, QEMU, 64).total(), 0);
    }
}
