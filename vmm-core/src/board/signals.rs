//! Signals that scenarios ask for, and the processors that send them.

use core::sync::atomic::Ordering;

use super::Board;

/// The signals that a processor without a guest can send to vCPU 0's processor. That can't send them itself (SDM 3A 12.6.1), or
/// would get them before it is in its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Signal {
    /// INIT.
    Init = 1,
    /// A start-up IPI, with a vector that no guest looks at.
    StartUp = 2,
    /// An NMI.
    Nmi = 3,
}

/// A signal that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The signal.
    pub signal: Signal,
    word: u32,
}

/// Bits of the signal in a request; above them the requests are counted.
const SIGNAL_BITS: u32 = 2;
const SIGNALS: u32 = (1 << SIGNAL_BITS) - 1;

impl Board {
    /// This processor serves from now on, by asking [`Board::asked`] again and again.
    pub fn serve(&self) {
        self.servants.fetch_add(1, Ordering::Release);
    }

    /// Whether any processor serves.
    pub fn is_served(&self) -> bool {
        self.servants.load(Ordering::Acquire) > 0
    }

    /// Asks for a signal to vCPU 0's processor, a while from now.
    pub fn ask(&self, signal: Signal) {
        let number = (self.asked.load(Ordering::Relaxed) >> SIGNAL_BITS).wrapping_add(1);
        self.asked.store(number << SIGNAL_BITS | signal as u32, Ordering::Release);
    }

    /// Takes back whatever was asked for. True if it had not been answered: then no signal comes.
    pub fn ask_nothing(&self) -> bool {
        self.asked.fetch_and(!SIGNALS, Ordering::AcqRel) & SIGNALS != 0
    }

    /// The request for a signal, if there is one.
    pub fn asked(&self) -> Option<Request> {
        let word = self.asked.load(Ordering::Acquire);
        let signal =
            [Signal::Init, Signal::StartUp, Signal::Nmi].into_iter().find(|&signal| signal as u32 == word & SIGNALS)?;
        Some(Request { signal, word })
    }

    /// Whether this request still stands.
    pub fn wants(&self, request: Request) -> bool {
        self.asked.load(Ordering::Acquire) == request.word
    }

    /// Whether this request still stands; if so, this call answers it. But a request for a start-up IPI stands until
    /// [`Board::ask_nothing`], and the IPI is to be sent again and again: one that comes before the guest waits for it is
    /// dropped, and only another one ends that wait.
    pub fn answers(&self, request: Request) -> bool {
        let answered = if request.signal == Signal::StartUp { request.word } else { request.word & !SIGNALS };
        self.asked.compare_exchange(request.word, answered, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::board;

    #[test]
    fn a_start_up_ipi_is_asked_for_until_it_has_come() {
        let board = board(1);
        board.ask(Signal::Nmi);
        let once = board.asked().unwrap();
        assert_eq!((once.signal, board.answers(once), board.answers(once)), (Signal::Nmi, true, false));
        assert_eq!(board.asked(), None);
        board.ask(Signal::StartUp);
        let again = board.asked().unwrap();
        assert_eq!([board.answers(again), board.answers(again)], [true; 2]);
        assert!(board.ask_nothing() && !board.ask_nothing());
        assert_eq!((board.asked(), board.answers(again)), (None, false));
        board.ask(Signal::StartUp);
        assert!(!board.answers(again), "it was asked for by another scenario");
    }

    #[test]
    fn a_signal_is_on_its_way_from_its_answer_on() {
        let board = board(1);
        board.ask(Signal::Init);
        let request = board.asked().unwrap();
        assert!(board.wants(request) && board.ask_nothing(), "it was not sent");
        assert!(!board.answers(request), "and will not be");
        board.ask(Signal::Init);
        assert!(board.answers(board.asked().unwrap()) && !board.ask_nothing());
    }
}
