//! A vCPU that does not run: its wait for a start-up IPI, and the message to the first that nothing can happen any more.

use vmm_core::board::{Board, Condition, Message};
use vmm_core::host::local_apic::LocalApic;
use vmm_core::host::vectors::KICK_VECTOR;

use crate::board::BOARD;

/// The result of a look at the board by a vCPU that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nobody has sent the vCPU a start-up IPI.
    Wait,
    /// The vCPU runs, from the page of this vector on.
    Start(u8),
    /// The guest is over.
    Over,
}

/// One look. `rests` says that the vCPU waits on, if the message that had it look up was for nothing.
pub(crate) fn look(board: &Board, vcpu: usize, rests: impl FnOnce()) -> Look {
    if board.is_to_stop(vcpu) {
        return Look::Over;
    }
    if !board.is_under_way(vcpu) {
        return Look::Wait;
    }
    if !board.run(vcpu) {
        return Look::Over;
    }
    while let Some(message) = board.receive(vcpu) {
        if let Message::StartUp(vector) = message {
            return Look::Start(vector);
        }
        // A message that was sent before INIT was taken is lost with it.
    }
    rests();
    Look::Wait
}

/// Waits for a start-up IPI, and then runs; `None` if the guest is over.
pub(crate) fn start_up_vector(vcpu: usize, local_apic: &LocalApic) -> Option<u8> {
    loop {
        match look(&BOARD, vcpu, || rest(vcpu, local_apic, Condition::Waiting)) {
            Look::Start(vector) => return Some(vector),
            Look::Over => return None,
            Look::Wait => core::hint::spin_loop(),
        }
    }
}

/// Says that a vCPU waits or is over; vCPU 0 hears of it if nothing can ever happen again.
pub(crate) fn rest(vcpu: usize, local_apic: &LocalApic, condition: Condition) {
    if BOARD.rest(vcpu, condition) {
        local_apic.interrupt(BOARD.apic_id(0), KICK_VECTOR + vcpu as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::vec::Vec;
    use tollgate_abi::machine::MOST_VCPUS;

    /// vCPU 0 runs, and the others wait.
    fn board(vcpus: usize) -> Box<Board> {
        let board = Box::new(Board::new());
        (0..vcpus).for_each(|at| board.sit(at, at as u32));
        board.settle(vcpus);
        board.set_condition(0, Condition::Running);
        board
    }

    #[test]
    fn only_a_start_up_ipi_starts_a_vcpu_and_the_messages_before_it_are_lost() {
        let (board, rests) = (board(2), Cell::new(0));
        let look = || {
            look(&board, 1, || {
                rests.set(rests.get() + 1);
                board.rest(1, Condition::Waiting);
            })
        };
        assert_eq!((look(), rests.get()), (Look::Wait, 0));
        assert!(board.send(0, 1, Message::Init) && board.send(0, 1, Message::Nmi));
        assert_eq!((look(), rests.get(), board.condition(1)), (Look::Wait, 1, Condition::Waiting));
        assert!(board.send(0, 1, Message::Interrupt(0x30)) && board.send(0, 1, Message::StartUp(8)));
        assert!(board.send(0, 1, Message::Nmi));
        assert_eq!((look(), rests.get(), board.condition(1)), (Look::Start(8), 1, Condition::Running));
        assert!(board.is_under_way(1), "what came behind it is the running vCPU's");
    }

    #[test]
    fn a_vcpu_that_is_asked_to_stop_does_not_start() {
        for is_sent_for in [false, true] {
            let board = board(2);
            assert!(!is_sent_for || board.send(0, 1, Message::StartUp(8)));
            assert!(!board.ask_to_stop(1), "it is in no guest");
            assert_eq!(look(&board, 1, || ()), Look::Over);
        }
    }

    /// A vCPU starts while another asks it to stop. Either the first sees the request, or the second sees that it has to send a
    /// signal.
    #[test]
    fn a_vcpu_that_starts_and_whoever_stops_it_do_not_miss_each_other() {
        const BOARDS: usize = 1000;
        let boards: Vec<_> = (0..BOARDS).map(|_| board(MOST_VCPUS)).collect();
        let all = || boards.iter().flat_map(|board| (1..MOST_VCPUS).map(move |at| (board, at)));
        all().for_each(|(board, at)| assert!(board.send(0, at, Message::StartUp(8))));
        // Both threads begin each round at once, as far as there are processors for both.
        let arrived = AtomicUsize::new(0);
        let abreast = |round: usize| {
            arrived.fetch_add(1, Ordering::AcqRel);
            let both = || arrived.load(Ordering::Acquire) >= 2 * (round + 1);
            while !(0..10_000).any(|_| both()) {
                thread::yield_now();
            }
        };
        thread::scope(|scope| {
            let starts = scope.spawn(|| {
                let looks = all().enumerate().map(|(round, (board, at))| {
                    abreast(round);
                    look(board, at, || ())
                });
                looks.collect::<Vec<_>>()
            });
            let asks = all().enumerate().map(|(round, (board, at))| {
                abreast(round);
                board.ask_to_stop(at)
            });
            let asked: Vec<_> = asks.collect();
            for (look, is_signalled) in starts.join().unwrap().into_iter().zip(asked) {
                assert!(look == Look::Over || is_signalled, "it is in its guest, and nobody tells it");
            }
        });
    }
}
