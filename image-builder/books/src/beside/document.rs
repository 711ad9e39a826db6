//! The comparison as a document: two tables of exits, the differences of their counts with the reason for each, the goals, and the
//! wall times.

use std::fmt::Write as _;

use tollgate_abi::ExitReason;

use super::goals::goals;
use super::reasons;
use super::{Boot, Comparison, Stretch, Wall};
use crate::report::{Sheet, SheetFormat};

/// The document, and a sentence for each difference that has no explanation.
pub fn document(comparison: &Comparison) -> (String, Vec<String>) {
    let Comparison { kernel, emulator, processor, extension, wall, tollgate, kvm } = comparison;
    let (differences, unexplained) = differences(&tollgate.until_init, &kvm.until_init);
    let mut text = format!(
        "# Linux under Tollgate, and under KVM\n\n\
         `tollgate peer --out LINUX.md` writes this document. The same kernel and the same initramfs boot on the same emulated\n\
         processor, once under Tollgate, once under the KVM of Debian's kernel with a small client in user space:\n\n\
         - kernel: {kernel}, and KVM from the same package\n\
         - emulator: {emulator}, processor {processor}, {extension}\n\n\
         An exit counts where the emulator logs it, and its ticks are those from there to the emulator's line about the next\n\
         entry, whatever the hypervisor does in between. A tick is one instruction. Neither hypervisor's own account is used.\n\
         Tollgate's figures are the same in every run; KVM's move with the timer of the Linux around it.\n\n\
         ## Until user space begins\n\n\
         From the first instruction of the kernel to the first of its user space.\n\n"
    );
    text += &table(&tollgate.until_init, &kvm.until_init);
    let share = |boot: &Boot| {
        let (guest, own) = (grouped(boot.guest_ticks), grouped(boot.until_init.ticks()));
        format!("the guest itself takes {guest} ticks, the hypervisor {own}")
    };
    let _ = write!(
        text,
        "\nUnder KVM {}; under Tollgate {}.\n\n### Differences in the counts\n\n{differences}\n",
        share(kvm),
        share(tollgate),
    );
    text += "## From there to the power-off\n\n\
             A script mounts what a user space needs, prints two lines, waits for its console, and powers off. While the guest\n\
             has nothing to do, KVM waits outside of it, which is in the ticks of HLT. Tollgate moves the guest's clock on to its\n\
             next timer, and enters the guest in HLT: the interrupt that wakes it is an exit then.\n\n";
    text += &table(&tollgate.from_init, &kvm.from_init);
    let _ = write!(text, "\n## Goals\n\n{}\n", goals(wall, tollgate, kvm));
    text += &times(wall);
    text += reasons::MACHINES;
    (text, unexplained)
}

/// The reasons of both, the costliest under KVM first.
fn rows(tollgate: &Stretch, kvm: &Stretch) -> Vec<u16> {
    let mut rows: Vec<u16> = tollgate.reasons.keys().chain(kvm.reasons.keys()).copied().collect();
    rows.sort_unstable();
    rows.dedup();
    rows.sort_by_key(|&row| std::cmp::Reverse((kvm.of(row).ticks, tollgate.of(row).ticks)));
    rows
}

fn table(tollgate: &Stretch, kvm: &Stretch) -> String {
    let mut sheet = Sheet::new(&[
        "no#",
        "exit reason",
        "KVM: exits#",
        "Tollgate: exits#",
        "KVM: average#",
        "Tollgate: average#",
        "times#",
        "KVM: ticks#",
        "Tollgate: ticks#",
    ]);
    let averages = |kvm: Option<f64>, tollgate: Option<f64>| {
        let shown = |average: Option<f64>| average.map_or_else(|| "-".to_owned(), |average| format!("{average:.1}"));
        let times =
            kvm.zip(tollgate).map_or_else(|| "-".to_owned(), |(kvm, tollgate)| format!("{:.1}", kvm / tollgate));
        [shown(kvm), shown(tollgate), times]
    };
    for row in rows(tollgate, kvm) {
        let (reason, kvm, tollgate) = (ExitReason(row), kvm.of(row), tollgate.of(row));
        let [of_kvm, of_tollgate, times] = averages(kvm.average(), tollgate.average());
        sheet.row(vec![
            row.to_string(),
            reason.name().to_owned(),
            grouped(kvm.exits),
            grouped(tollgate.exits),
            of_kvm,
            of_tollgate,
            times,
            grouped(kvm.ticks),
            grouped(tollgate.ticks),
        ]);
    }
    let average = |stretch: &Stretch| (stretch.exits() > 0).then(|| stretch.ticks() as f64 / stretch.exits() as f64);
    let [of_kvm, of_tollgate, times] = averages(average(kvm), average(tollgate));
    let exits = [kvm.exits(), tollgate.exits()].map(grouped);
    let ticks = [kvm.ticks(), tollgate.ticks()].map(grouped);
    let ([kvm_exits, exits], [kvm_ticks, ticks]) = (exits, ticks);
    sheet.row(vec![String::new(), "all".to_owned(), kvm_exits, exits, of_kvm, of_tollgate, times, kvm_ticks, ticks]);
    sheet.render(SheetFormat::Markdown)
}

/// The reasons whose counts differ, a line each, and a sentence for each that has no explanation.
fn differences(tollgate: &Stretch, kvm: &Stretch) -> (String, Vec<String>) {
    let (mut text, mut unexplained) = (String::new(), Vec::new());
    for row in rows(tollgate, kvm) {
        let (ours, theirs) = (tollgate.of(row).exits, kvm.of(row).exits);
        if ours == theirs {
            continue;
        }
        let (reason, counts) =
            (ExitReason(row), format!("{} under KVM, {} under Tollgate", grouped(theirs), grouped(ours)));
        let why = reasons::why(reason, ours > theirs).unwrap_or_else(|| {
            unexplained.push(format!("the exits of reason {row}, {}, differ without an explanation", reason.name()));
            "Not explained."
        });
        let _ = writeln!(text, "- **{}**: {counts}. {why}", reason.name());
    }
    (text, unexplained)
}

fn times(wall: &Wall) -> String {
    let Wall { date, machine, runs, bare, .. } = wall;
    let mut sheet = Sheet::new(&["boot", "wall time, s#", "times bare#", "processor's time, s#", "times bare#"]);
    let rows = [
        ("bare Bochs, no hypervisor", bare),
        ("Tollgate", &wall.tollgate),
        ("Tollgate, every exit logged (`--audit`)", &wall.audited),
    ];
    for (name, seconds) in rows {
        let pair = |seconds: f64, of: f64| [format!("{seconds:.1}"), format!("{:.2}", seconds / of)];
        let cells = [pair(seconds.wall, bare.wall), pair(seconds.processor, bare.processor)].concat();
        sheet.row([vec![name.to_owned()], cells].concat());
    }
    let table = sheet.render(SheetFormat::Markdown);
    let boots = if *runs == 1 { "one boot each".to_owned() } else { format!("the shortest of {runs} boots each") };
    format!(
        "## Wall time\n\nFrom the start of the emulator to user space, {boots}, on {date}. The machine: {machine}.\n\
         Other work on the machine makes the wall time longer, and the processor's time less so.\n\n{table}"
    )
}

/// A number with a comma between groups of three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_have_commas() {
        let texts = [0, 7, 999, 1000, 26_054, 480_146_935].map(grouped);
        assert_eq!(texts, ["0", "7", "999", "1,000", "26,054", "480,146,935"]);
    }
}
