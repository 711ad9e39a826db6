//! The marks of a run: each is reached when the guest's console shows its text for the first time. The account at that moment is kept
//! until it can be written.
//!
//! Everything here happens in pauses, while the vCPU that sent the text has no exit open. Others may: what they have booked so far
//! is what a mark has of them.

use alloc::vec::Vec;

use tollgate_abi::ExitReason;
use tollgate_abi::command_line::Options;
use tollgate_abi::marks::{MOST_TEXT_BYTES, Mark, Text};

/// The marks of a run, and the last bytes of the console.
#[derive(Debug)]
pub struct Marks {
    marks: Vec<Waited>,
    until: Option<Text<'static>>,
    is_shown: bool,
    recent: Recent,
}

/// A mark that is waited for.
#[derive(Debug)]
struct Waited {
    mark: Mark<'static>,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Its text has not come yet.
    Waits,
    /// Its text is among the bytes that are being taken.
    Comes,
    /// It was reached, and is not written yet.
    Reached(Reached),
    Written,
}

/// The account of all vCPUs at a mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The vCPU that sent the text.
    pub vcpu: usize,
    /// TSC ticks from the first entry.
    pub at_tsc: u64,
    /// TSC ticks of pauses before this one.
    pub paused_tsc: u64,
    /// TSC ticks of idle time that were skipped before it.
    pub skipped_ticks: u64,
    /// Exits of each reason that has any, and their ticks.
    pub rows: Vec<(ExitReason, u64, u64)>,
}

/// The bytes that came last, of which a text may be the end.
#[derive(Debug)]
struct Recent {
    bytes: [u8; MOST_TEXT_BYTES],
    used: usize,
}

impl Recent {
    fn push(&mut self, byte: u8) {
        if self.used == self.bytes.len() {
            self.bytes.copy_within(1.., 0);
            self.used -= 1;
        }
        self.bytes[self.used] = byte;
        self.used += 1;
    }

    fn ends_with(&self, text: Text<'_>) -> bool {
        let length = text.bytes().count();
        self.used >= length && text.bytes().eq(self.bytes[self.used - length..self.used].iter().copied())
    }
}

impl Marks {
    /// The marks that the options ask for; `None` if they ask for none and no text ends the run.
    pub fn of(options: &Options<'static>) -> Option<Self> {
        let marks: Vec<_> = options.marks().map(|mark| Waited { mark, state: State::Waits }).collect();
        let recent = Recent { bytes: [0; MOST_TEXT_BYTES], used: 0 };
        let is_any = !marks.is_empty() || options.until.is_some();
        is_any.then_some(Self { marks, until: options.until, is_shown: false, recent })
    }

    /// The texts that are waited for.
    pub fn texts(&self) -> impl Iterator<Item = Text<'static>> {
        self.marks.iter().map(|waited| waited.mark.text).chain(self.until)
    }

    /// The text that ends the run.
    pub fn until(&self) -> Option<Text<'static>> {
        self.until
    }

    /// Takes a byte of the console's.
    pub(crate) fn see(&mut self, byte: u8) {
        self.recent.push(byte);
        let recent = &self.recent;
        for waited in self.marks.iter_mut().filter(|waited| waited.state == State::Waits) {
            if recent.ends_with(waited.mark.text) {
                waited.state = State::Comes;
            }
        }
        self.is_shown |= self.until.is_some_and(|text| recent.ends_with(text));
    }

    /// Keeps the account of this moment, which `now` finds out, for the marks whose texts have come. True if the text has come that
    /// ends the run.
    pub(crate) fn keep(&mut self, now: impl Fn() -> Reached) -> bool {
        for waited in self.marks.iter_mut().filter(|waited| waited.state == State::Comes) {
            waited.state = State::Reached(now());
        }
        self.is_shown
    }

    /// Gives the marks that were reached since to `each`.
    pub(crate) fn take_reached(&mut self, mut each: impl FnMut(Mark<'static>, &Reached)) {
        for waited in &mut self.marks {
            if let State::Reached(reached) = &waited.state {
                each(waited.mark, reached);
                waited.state = State::Written;
            }
        }
    }

    /// The marks that have not been reached.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = Mark<'static>> {
        self.marks.iter().filter(|waited| waited.state == State::Waits).map(|waited| waited.mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec;

    fn marks(options: &'static str) -> Option<Marks> {
        Marks::of(&Options::parse(options).unwrap())
    }

    fn reached(marks: &mut Marks, text: &[u8]) -> Vec<&'static str> {
        text.iter().for_each(|&byte| marks.see(byte));
        marks.keep(Reached::default);
        let mut names = vec![];
        marks.take_reached(|mark, _| names.push(mark.name));
        names
    }

    #[test]
    fn a_mark_is_reached_once_wherever_its_text_is_cut() {
        let mut marks = marks("marks=one=ab%20c,two=c,three=zzz").unwrap();
        assert_eq!(reached(&mut marks, b"xaab"), [""; 0]);
        assert_eq!(reached(&mut marks, b" cd"), ["one", "two"]);
        assert_eq!(reached(&mut marks, b"ab c"), [""; 0]);
        assert_eq!(marks.waiting().map(|mark| mark.text.to_string()).collect::<Vec<_>>(), ["zzz"]);
        assert_eq!(reached(&mut marks, &[b'z'; 200]), ["three"]);
    }

    #[test]
    fn a_text_of_the_most_bytes_is_found() {
        let text = std::format!("until={}", "y".repeat(MOST_TEXT_BYTES)).leak();
        let mut marks = marks(text).unwrap();
        assert_eq!(marks.texts().count(), 1);
        let mut shown = |byte| {
            marks.see(byte);
            marks.keep(Reached::default)
        };
        assert!(!(0..MOST_TEXT_BYTES - 1).any(|_| shown(b'y')));
        assert!(!shown(b'n') && !(0..MOST_TEXT_BYTES - 1).any(|_| shown(b'y')));
        assert!(shown(b'y') && shown(b'n'), "it has been shown");
    }

    #[test]
    fn a_run_without_marks_waits_for_none() {
        assert!(marks("").is_none() && marks("until=x").is_some());
    }
}
