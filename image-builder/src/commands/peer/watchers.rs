//! Watchers of the boots: one that waits for a text on the console, and one that reads KVM's exits besides.

use tollgate_books::beside::BootReader;
use tollgate_books::failure::Failure;
use tollgate_books::log::printable;
use tollgate_books::terminal::Terminal;

use crate::emulator::watch::{Left, Watcher};
use crate::peer::OVER;

/// Exits under KVM between two lines for the person.
const EXITS_A_LINE: u64 = 10_000;

/// Watches a serial port until a text comes.
pub(super) struct Until {
    text: &'static str,
    seen: Vec<u8>,
}

impl Until {
    pub(super) fn new(text: &'static str) -> Self {
        Self { text, seen: Vec::new() }
    }

    /// The rest of each line behind these words.
    pub(super) fn behind(&self, words: &str) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.seen);
        text.lines().filter_map(|line| Some(printable(line.split_once(words)?.1.trim_end()))).collect()
    }

    /// The failure of a machine that was left before the text came.
    pub(super) fn has_come(&self, left: Left, whose: &str) -> Result<(), Failure> {
        let how = match left {
            Left::Enough => return Ok(()),
            Left::Ended => "ended Bochs",
            Left::TimedOut => "did not come so far in time",
            Left::Interrupted => "was interrupted",
        };
        let text = String::from_utf8_lossy(&self.seen);
        let last = text.lines().rfind(|line| !line.trim().is_empty()).map(printable);
        let last = last.map_or_else(|| "nothing".to_owned(), |line| format!("`{}`", line.trim()));
        Err(Failure::no_verdict(format_args!("{whose} {how}; its console said last {last}"))
            .remedy("allow it more with --timeout"))
    }
}

impl Watcher for Until {
    fn serial(&mut self, bytes: &[u8]) -> bool {
        let from = self.seen.len().saturating_sub(self.text.len() - 1);
        self.seen.extend(bytes);
        self.seen[from..].windows(self.text.len()).any(|part| part == self.text.as_bytes())
    }

    fn log(&mut self, _: &[u8]) {}
}

/// Watches Linux' KVM until its client has ended, and reads Bochs' log.
pub(super) struct Kvm {
    /// The console, up to the line that says that all is done.
    pub(super) console: Until,
    /// The exits.
    pub(super) reader: BootReader,
    told: u64,
}

impl Default for Kvm {
    fn default() -> Self {
        Self { console: Until::new(OVER), reader: BootReader::default(), told: 0 }
    }
}

impl Watcher for Kvm {
    fn serial(&mut self, bytes: &[u8]) -> bool {
        self.console.serial(bytes)
    }

    fn log(&mut self, bytes: &[u8]) {
        self.reader.feed(bytes);
        let exits = self.reader.exits();
        if exits / EXITS_A_LINE > self.told / EXITS_A_LINE {
            Terminal::of_stderr().tell(&format!("{exits} exits under KVM"));
            self.told = exits;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_comes_however_it_is_cut_and_a_machine_without_it_has_failed() {
        let text: &[u8] = b"booting\r\nRun /init as init process\r\n";
        for piece_bytes in [1, 5, text.len()] {
            let mut until = Until::new("Run /init");
            let came: Vec<bool> = text.chunks(piece_bytes).map(|piece| until.serial(piece)).collect();
            assert_eq!(came.iter().filter(|came| **came).count(), 1, "{piece_bytes}");
            assert!(until.has_come(Left::Enough, "Linux").is_ok());
        }
        let mut until = Until::new("Run /init");
        assert!(!until.serial(b"peer: ended: badly\nKernel panic\r\n\r\n"));
        assert_eq!(until.behind("ended: "), ["badly"]);
        let failure = until.has_come(Left::TimedOut, "Linux").unwrap_err().to_string();
        assert!(
            failure.starts_with("Linux did not come so far in time; its console said last `Kernel panic`"),
            "{failure}"
        );
    }
}
