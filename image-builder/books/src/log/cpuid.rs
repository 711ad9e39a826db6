//! The lines that Debian's `cpuid` prints in a guest about the account's leaves: a book that no one here wrote.

use std::fmt;

use tollgate_abi::leaves::{Answer, CONTRACT};

/// The most lines that are kept; those behind them are counted.
pub(super) const MOST_LINES: usize = 100_000;
/// The highest of the account's leaves.
const HIGHEST: u32 = 0x4fff_ffff;

/// One question to the processor, and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidLine {
    /// EAX of the question.
    pub leaf: u32,
    /// ECX of the question.
    pub subleaf: u32,
    /// The answer.
    pub answer: Answer,
}

/// The lines of a log, in the order in which they were printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuidLines {
    /// The first of them.
    pub kept: Vec<CpuidLine>,
    /// The number of those behind.
    pub beyond: u64,
}

impl CpuidLines {
    /// Takes a line of the guest's console, if it is one of these.
    pub(super) fn take(&mut self, text: &str) {
        let Some(line) = CpuidLine::parse(text) else { return };
        if self.kept.len() < MOST_LINES {
            self.kept.push(line);
        } else {
            self.beyond += 1;
        }
    }
}

impl CpuidLine {
    /// Reads the line as `cpuid` prints it, whole: `   0x4ffffffd 0x1e: eax=0x00000000 ebx=... ecx=... edx=...`. The kernel may write
    /// between its characters; such a line is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (leaf, rest) = text.strip_prefix("   ")?.split_once(' ')?;
        let (subleaf, rest) = rest.split_once(": ")?;
        let mut registers = rest.split(' ');
        let mut register = |name: &str| eight(registers.next()?.strip_prefix(name)?.strip_prefix('=')?);
        let answer =
            Answer { eax: register("eax")?, ebx: register("ebx")?, ecx: register("ecx")?, edx: register("edx")? };
        let leaf = eight(leaf).filter(|leaf| (CONTRACT..=HIGHEST).contains(leaf))?;
        let digits = subleaf.strip_prefix("0x").filter(|digits| (2..=8).contains(&digits.len()))?;
        let subleaf = hexadecimal(digits)?;
        registers.next().is_none().then_some(Self { leaf, subleaf, answer })
    }
}

/// As `cpuid` prints it.
impl fmt::Display for CpuidLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leaf, subleaf, answer: Answer { eax, ebx, ecx, edx } } = self;
        write!(f, "   {leaf:#010x} {subleaf:#04x}: eax={eax:#010x} ebx={ebx:#010x} ecx={ecx:#010x} edx={edx:#010x}")
    }
}

/// Eight digits behind `0x`.
fn eight(text: &str) -> Option<u32> {
    text.strip_prefix("0x").filter(|digits| digits.len() == 8).and_then(hexadecimal)
}

fn hexadecimal(digits: &str) -> Option<u32> {
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_of_the_accounts_leaves_are_taken() {
        let line = "   0x4ffffffd 0x1e: eax=0x000086c1 ebx=0x00000000 ecx=0x0000000a edx=0xffffffff";
        let answer = Answer { eax: 0x86c1, ebx: 0, ecx: 10, edx: u32::MAX };
        let parsed = CpuidLine { leaf: 0x4fff_fffd, subleaf: 0x1e, answer };
        assert_eq!((CpuidLine::parse(line), parsed.to_string().as_str()), (Some(parsed), line));
        for broken in [
            "CPU:",
            &line[1..],
            &line[..line.len() - 1],
            &format!("{line} "),
            &format!("{line}0"),
            &line.replace("0x4fff", "0x4000"),
            &line.replace("0x1e", "1e"),
            &line.replace("86c1", "+6c1"),
            &line.replace("ecx", "[    0.405] x"),
        ] {
            assert_eq!(CpuidLine::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn lines_beyond_the_most_are_counted() {
        let mut lines = CpuidLines::default();
        let line = "   0x4fffffff 0x00: eax=0x00000001 ebx=0x00000000 ecx=0x00000000 edx=0x00000000";
        (0..MOST_LINES + 2).for_each(|_| lines.take(line));
        assert_eq!((lines.kept.len(), lines.beyond), (MOST_LINES, 2));
    }
}
