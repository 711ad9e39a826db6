//! Messages between vCPUs: a lane for each pair of them, with one writer and one reader, so that neither locks anything.

use core::sync::atomic::{AtomicU32, Ordering};

use super::{Board, Condition};

/// A message from one vCPU's APIC to another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// An interrupt with this vector.
    Interrupt(u8),
    /// A level-triggered interrupt with this vector, of a device.
    Level(u8),
    /// An NMI.
    Nmi,
    /// INIT.
    Init,
    /// A start-up IPI with this vector.
    StartUp(u8),
    /// Something has changed at the ISA bus, whose interrupts are vCPU 0's.
    IsaBus,
}

impl Message {
    const fn encode(self) -> u32 {
        match self {
            Message::Interrupt(vector) => 0x100 | vector as u32,
            Message::Nmi => 0x200,
            Message::Init => 0x300,
            Message::StartUp(vector) => 0x400 | vector as u32,
            Message::Level(vector) => 0x500 | vector as u32,
            Message::IsaBus => 0x600,
        }
    }

    const fn decode(word: u32) -> Self {
        match word >> 8 {
            1 => Message::Interrupt(word as u8),
            2 => Message::Nmi,
            3 => Message::Init,
            5 => Message::Level(word as u8),
            6 => Message::IsaBus,
            _ => Message::StartUp(word as u8),
        }
    }
}

/// Messages that a lane holds.
const LANE_SLOTS: u32 = 32;

/// A queue with one writer and one reader. Each counts without end; the messages between the two counts are waiting.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Lane {
    written: AtomicU32,
    read: AtomicU32,
    slots: [AtomicU32; LANE_SLOTS as usize],
}

impl Lane {
    pub(super) const fn empty() -> Self {
        Self {
            written: AtomicU32::new(0),
            read: AtomicU32::new(0),
            slots: [const { AtomicU32::new(0) }; LANE_SLOTS as usize],
        }
    }

    /// Puts a message in; false if the lane is full. Called by its writer only.
    #[inline(always)]
    fn put(&self, message: Message) -> bool {
        let written = self.written.load(Ordering::Relaxed);
        if written.wrapping_sub(self.read.load(Ordering::Acquire)) >= LANE_SLOTS {
            return false;
        }
        self.slots[(written % LANE_SLOTS) as usize].store(message.encode(), Ordering::Relaxed);
        self.written.store(written.wrapping_add(1), Ordering::Release);
        true
    }

    /// Takes a message out. Called by its reader only.
    #[inline(always)]
    fn take(&self) -> Option<Message> {
        let read = self.read.load(Ordering::Relaxed);
        if read == self.written.load(Ordering::Acquire) {
            return None;
        }
        let word = self.slots[(read % LANE_SLOTS) as usize].load(Ordering::Relaxed);
        self.read.store(read.wrapping_add(1), Ordering::Release);
        Some(Message::decode(word))
    }

    fn is_empty(&self) -> bool {
        self.read.load(Ordering::Acquire) == self.written.load(Ordering::Acquire)
    }
}

impl Board {
    /// Hands over a message; false if the lane is full. The caller then interrupts the processor of `to`.
    #[inline(always)]
    pub fn send(&self, from: usize, to: usize, message: Message) -> bool {
        self.seats[to].inbox[from].put(message)
    }

    /// The next message for a vCPU, from the sender with the lowest number first.
    pub fn receive(&self, at: usize) -> Option<Message> {
        (0..self.vcpus()).find_map(|from| self.receive_from(from, at))
    }

    /// The next message for a vCPU from one sender.
    #[inline(always)]
    pub fn receive_from(&self, from: usize, at: usize) -> Option<Message> {
        debug_assert_eq!(self.condition(at), Condition::Running, "whoever looks takes vCPU {at} for quiet");
        self.seats[at].inbox.get(from)?.take()
    }

    /// Whether a message for a vCPU is under way.
    pub fn is_under_way(&self, at: usize) -> bool {
        !self.seats[at].inbox.iter().all(Lane::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::board;

    #[test]
    fn messages_arrive_in_their_order_and_a_full_lane_says_so() {
        let board = board(3);
        let sent = [Message::Interrupt(0x30), Message::Nmi, Message::Init, Message::StartUp(8), Message::Level(0x31)];
        for message in sent {
            assert!(board.send(0, 2, message));
        }
        assert!(board.send(1, 2, Message::Interrupt(0xff)));
        let received: Vec<_> = std::iter::from_fn(|| board.receive(2)).collect();
        assert_eq!(received, [&sent[..], &[Message::Interrupt(0xff)]].concat());
        assert!((0..LANE_SLOTS).all(|_| board.send(0, 1, Message::Nmi)));
        assert!(!board.send(0, 1, Message::Nmi));
        assert_eq!(board.receive(1), Some(Message::Nmi));
        assert!(board.send(0, 1, Message::Nmi) && !board.send(0, 1, Message::Nmi));
    }

    #[test]
    fn lanes_carry_everything_between_two_threads() {
        let board = board(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..20_000u32 {
                    while !board.send(0, 1, Message::Interrupt(n as u8)) {
                        std::thread::yield_now();
                    }
                }
            });
            for n in 0..20_000u32 {
                let message = loop {
                    match board.receive(1) {
                        Some(message) => break message,
                        None => std::thread::yield_now(),
                    }
                };
                assert_eq!(message, Message::Interrupt(n as u8));
            }
        });
    }
}
