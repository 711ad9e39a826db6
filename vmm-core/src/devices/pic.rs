//! The pair of 8259A interrupt controllers of a PC (Intel order number 231468): eight inputs each, and the second one's output is
//! an input of the first. Which inputs are level-triggered, a register of the bus says (EISA's ELCR).
//!
//! A device with a line hands its level in. The first one's output is the processor's interrupt, which takes its vector by
//! [`Pair::acknowledge`].
//!
//! All vCPUs share it, and vCPU 0 alone takes its interrupts. An access of another vCPU at that very moment may be lost: kernels that
//! use several leave the pair masked, as it is after reset.
//!
//! Left out: polling (OCW3), and the special fully nested mode and the modes of other buses (ICW4).

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The place of the interrupt mask and of the second to fourth word of an initialization; the other port is 0.
const MASK: u16 = 1;
/// The input of the first one that is the output of the second.
const CASCADE: u8 = 2;
/// The inputs that can be level-triggered: not those of timer, keyboard and cascade, clock of day and coprocessor.
const MAY_BE_LEVELS: [u8; 2] = [0xf8, 0xde];

/// In a word to port 0: it begins an initialization (ICW1), or it has an operation's third word (OCW3).
const IS_ICW1: u8 = 1 << 4;
const IS_OCW3: u8 = 1 << 3;
/// In ICW1: ICW4 follows, and there is no other controller.
const HAS_ICW4: u8 = 1 << 0;
const IS_SINGLE: u8 = 1 << 1;
/// In ICW4: an interrupt ends when it is acknowledged.
const AUTO_END: u8 = 1 << 1;
/// In OCW2: the input in bits 2:0 is meant, an interrupt ends, and priorities rotate.
const SPECIFIC: u8 = 1 << 6;
const END: u8 = 1 << 5;
const ROTATE: u8 = 1 << 7;
/// In OCW3: sets the special mask mode to that bit, and the register that is read to that bit.
const SET_SPECIAL: u8 = 1 << 6;
const SPECIAL: u8 = 1 << 5;
const SET_READ: u8 = 1 << 1;
const READ_SERVICE: u8 = 1 << 0;

/// The words of an initialization that are still to come, in a controller's `step`.
mod step {
    pub(super) const NONE: u8 = 0;
    pub(super) const ICW2: u8 = 1;
    pub(super) const ICW3: u8 = 2;
    pub(super) const ICW4: u8 = 3;
    /// Bits of these; above them is a part of ICW1.
    pub(super) const MASK: u8 = 3;
    pub(super) const HAS_ICW4: u8 = super::HAS_ICW4 << 2;
    pub(super) const IS_SINGLE: u8 = super::IS_SINGLE << 2;
}

/// In a controller's `mode`.
mod mode {
    /// The first bits are the input with the highest priority.
    pub(super) const FIRST: u8 = 7;
    pub(super) const AUTO_END: u8 = 1 << 3;
    pub(super) const ROTATES: u8 = 1 << 4;
    pub(super) const SPECIAL: u8 = 1 << 5;
    pub(super) const READS_SERVICE: u8 = 1 << 6;
}

/// One controller's state, each bit of the first five for an input.
#[derive(Clone, Copy, Debug, Default)]
struct Chip {
    /// An edge has come.
    requested: u8,
    in_service: u8,
    /// The inverse of the mask.
    enabled: u8,
    /// The lines that are up.
    up: u8,
    is_level: u8,
    /// The vector of input 0.
    vector: u8,
    step: u8,
    mode: u8,
}

/// The pair.
#[derive(Debug, Default)]
pub struct Pair([AtomicU64; 2]);

impl Chip {
    fn of(word: u64) -> Self {
        let [requested, in_service, enabled, up, is_level, vector, step, mode] = word.to_le_bytes();
        Self { requested, in_service, enabled, up, is_level, vector, step, mode }
    }

    fn word(self) -> u64 {
        let Self { requested, in_service, enabled, up, is_level, vector, step, mode } = self;
        u64::from_le_bytes([requested, in_service, enabled, up, is_level, vector, step, mode])
    }

    fn is(self, flag: u8) -> bool {
        self.mode & flag != 0
    }

    fn set(&mut self, flag: u8, value: bool) {
        self.mode = self.mode & !flag | if value { flag } else { 0 };
    }

    fn all_requested(self) -> u8 {
        self.requested | self.up & self.is_level
    }

    /// The first of these inputs by priority; 8 places behind the first one if there is none.
    fn first_of(self, inputs: u8) -> u32 {
        inputs.rotate_right((self.mode & mode::FIRST).into()).trailing_zeros()
    }

    /// The input at such a place by priority.
    fn input(self, place: u32) -> u8 {
        self.mode.wrapping_add(place as u8) & 7
    }

    /// The inputs in service that hold lower ones back.
    fn holding(self) -> u8 {
        // In the special mask mode those that are masked hold nothing back.
        self.in_service & if self.is(mode::SPECIAL) { self.enabled } else { u8::MAX }
    }

    /// The input that interrupts.
    fn interrupts(self) -> Option<u8> {
        let place = self.first_of(self.all_requested() & self.enabled);
        (self.step & step::MASK == step::NONE && place < self.first_of(self.holding())).then(|| self.input(place))
    }

    /// Takes the interrupt of an input, and returns its vector.
    fn accept(&mut self, input: u8) -> u8 {
        self.requested &= !(1 << input);
        if !self.is(mode::AUTO_END) {
            self.in_service |= 1 << input;
        } else if self.is(mode::ROTATES) {
            self.make_last(input);
        }
        self.vector | input
    }

    /// Gives an input the lowest priority.
    fn make_last(&mut self, input: u8) {
        self.mode = self.mode & !mode::FIRST | input.wrapping_add(1) & 7;
    }

    fn set_line(&mut self, input: u8, is_up: bool) {
        let bit = 1 << input;
        let was_up = self.up & bit != 0;
        self.up = self.up & !bit | if is_up { bit } else { 0 };
        if is_up && !was_up && self.is_level & bit == 0 {
            self.requested |= bit;
        }
    }

    fn read(self, at: u16) -> u8 {
        match at {
            MASK => !self.enabled,
            _ if self.is(mode::READS_SERVICE) => self.in_service,
            _ => self.all_requested(),
        }
    }

    fn write(&mut self, at: u16, value: u8) {
        match (at, self.step & step::MASK) {
            (MASK, step::NONE) => self.enabled = !value,
            (MASK, now) => self.initialize(now, value),
            _ if value & IS_ICW1 != 0 => {
                let Self { up, is_level, vector, .. } = *self;
                let step = step::ICW2 | (value & (HAS_ICW4 | IS_SINGLE)) << 2;
                *self = Self { enabled: u8::MAX, up, is_level, vector, step, ..Self::default() };
            }
            _ if value & IS_OCW3 != 0 => {
                if value & SET_SPECIAL != 0 {
                    self.set(mode::SPECIAL, value & SPECIAL != 0);
                }
                if value & SET_READ != 0 {
                    self.set(mode::READS_SERVICE, value & READ_SERVICE != 0);
                }
            }
            _ => self.operate(value),
        }
    }

    /// Takes the second to fourth word of an initialization.
    fn initialize(&mut self, now: u8, value: u8) {
        let last = if self.step & step::HAS_ICW4 != 0 { step::ICW4 } else { step::NONE };
        let next = match now {
            step::ICW2 => {
                self.vector = value & 0xf8;
                if self.step & step::IS_SINGLE != 0 { last } else { step::ICW3 }
            }
            step::ICW3 => last,
            _ => {
                self.set(mode::AUTO_END, value & AUTO_END != 0);
                step::NONE
            }
        };
        self.step = self.step & !step::MASK | next;
    }

    /// Ends an interrupt, or changes priorities (OCW2).
    fn operate(&mut self, value: u8) {
        let rotates = value & ROTATE != 0;
        if value & (SPECIFIC | END) == 0 {
            return self.set(mode::ROTATES, rotates);
        }
        let place = self.first_of(self.holding());
        let input = if value & SPECIFIC != 0 { value & 7 } else { self.input(place) };
        if value & SPECIFIC == 0 && place > 7 {
            return;
        }
        if value & END != 0 {
            self.in_service &= !(1 << input);
        }
        if rotates {
            self.make_last(input);
        }
    }
}

impl Pair {
    /// The pair after reset: every input is masked.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 2])
    }

    fn chip(&self, which: usize) -> Chip {
        Chip::of(self.0[which].load(Relaxed))
    }

    fn change<R>(&self, which: usize, change: impl FnOnce(&mut Chip) -> R) -> R {
        let mut chip = self.chip(which);
        let result = change(&mut chip);
        self.0[which].store(chip.word(), Relaxed);
        result
    }

    /// The first controller, with its input from the second as that is now.
    fn first(&self) -> Chip {
        let mut first = self.chip(0);
        if self.chip(1).interrupts().is_some() {
            first.requested |= 1 << CASCADE;
        }
        first
    }

    /// A byte from the port at this offset of one of the two.
    pub fn read(&self, which: usize, at: u16) -> u8 {
        let chip = if which == 0 { self.first() } else { self.chip(which) };
        chip.read(at)
    }

    /// A byte to the port at this offset of one of the two.
    pub fn write(&self, which: usize, at: u16, value: u8) {
        self.change(which, |chip| chip.write(at, value));
    }

    /// The level-triggered inputs of one of the two.
    pub fn levels(&self, which: usize) -> u8 {
        self.chip(which).is_level
    }

    /// Sets the level-triggered inputs of one of the two.
    pub fn set_levels(&self, which: usize, value: u8) {
        self.change(which, |chip| chip.is_level = value & MAY_BE_LEVELS[which]);
    }

    /// Sets the line at one of the 16 inputs.
    pub fn set_line(&self, input: u8, is_up: bool) {
        self.change(usize::from(input >> 3 & 1), |chip| chip.set_line(input & 7, is_up));
    }

    /// Has an edge come to one of the 16 inputs.
    pub fn pulse(&self, input: u8) {
        self.set_line(input, false);
        self.set_line(input, true);
    }

    /// Whether an edge at this input would be an interrupt that is not requested yet.
    pub fn awaits(&self, input: u8) -> bool {
        let chip = self.chip(usize::from(input >> 3 & 1));
        (chip.enabled & !chip.requested) >> (input & 7) & 1 != 0
    }

    /// Whether the pair's output is up.
    pub fn is_up(&self) -> bool {
        self.first().interrupts().is_some()
    }

    /// Takes the interrupt with the highest priority, and returns its vector.
    pub fn acknowledge(&self) -> Option<u8> {
        let input = self.first().interrupts()?;
        let vector = self.change(0, |first| first.accept(input));
        if input != CASCADE {
            return Some(vector);
        }
        // Without a request the second gives its last vector, which is spurious.
        Some(self.change(1, |second| second.interrupts().map_or(second.vector | 7, |input| second.accept(input))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pair as a kernel sets it up, with vectors from 0x20 and 0x28 on, and these inputs enabled.
    fn pair(enabled: u16) -> Pair {
        let pair = Pair::new();
        for (which, vector, cascade) in [(0, 0x20, 4), (1, 0x28, 2)] {
            pair.write(which, 0, 0x11);
            for word in [vector, cascade, 1] {
                pair.write(which, MASK, word);
            }
            pair.write(which, MASK, !(enabled >> (8 * which)) as u8);
        }
        pair
    }

    /// The register of requests, or of interrupts in service, of one of the two.
    fn register(pair: &Pair, which: usize, word: u8) -> u8 {
        pair.write(which, 0, word);
        pair.read(which, 0)
    }

    const REQUESTED: u8 = 0x0a;
    const IN_SERVICE: u8 = 0x0b;
    const END_OF_INTERRUPT: u8 = 0x20;

    #[test]
    fn after_reset_nothing_comes() {
        let pair = Pair::new();
        (0..16).for_each(|input| pair.pulse(input));
        assert_eq!(
            (pair.is_up(), pair.acknowledge(), pair.read(0, MASK), pair.read(1, MASK)),
            (false, None, 0xff, 0xff)
        );
    }

    #[test]
    fn a_kernel_sets_it_up_takes_an_interrupt_and_ends_it() {
        let pair = pair(0b1_0001);
        assert_eq!((pair.read(0, MASK), pair.read(1, MASK)), (0xee, 0xff));
        assert!(!pair.is_up());
        pair.pulse(4);
        assert_eq!((pair.is_up(), register(&pair, 0, REQUESTED)), (true, 0x10));
        assert_eq!((pair.acknowledge(), pair.is_up(), pair.acknowledge()), (Some(0x24), false, None));
        assert_eq!((register(&pair, 0, REQUESTED), register(&pair, 0, IN_SERVICE)), (0, 0x10));
        pair.pulse(4);
        assert!(!pair.is_up(), "it is in service");
        pair.pulse(0);
        assert_eq!(pair.acknowledge(), Some(0x20), "that is higher");
        pair.write(0, 0, END_OF_INTERRUPT);
        assert_eq!(register(&pair, 0, IN_SERVICE), 0x10, "the highest ends");
        assert!(!pair.is_up());
        pair.write(0, 0, END_OF_INTERRUPT);
        assert_eq!((pair.acknowledge(), register(&pair, 0, IN_SERVICE)), (Some(0x24), 0x10));
        pair.write(0, 0, 0x64);
        assert_eq!(register(&pair, 0, IN_SERVICE), 0, "a specific end");
        pair.write(0, 0, END_OF_INTERRUPT);
        assert_eq!(pair.acknowledge(), None, "an end of nothing");
    }

    #[test]
    fn a_request_waits_behind_a_mask_and_a_controller_that_is_being_set_up() {
        let pair = pair(0);
        pair.pulse(3);
        assert!(!pair.is_up());
        pair.write(0, MASK, 0xf7);
        assert!(pair.is_up());
        pair.write(0, 0, 0x11);
        assert!(!pair.is_up(), "it is not set up yet");
        pair.write(0, MASK, 0x30);
        pair.write(0, MASK, 4);
        pair.pulse(3);
        assert!(!pair.is_up(), "nor now");
        pair.write(0, MASK, 1);
        assert_eq!(pair.acknowledge(), Some(0x33));
        // Without a second controller, and without the fourth word.
        pair.write(0, 0, 0x12);
        pair.write(0, MASK, 0x40);
        assert_eq!(pair.read(0, MASK), 0, "the first word clears the mask");
        pair.write(0, MASK, 0xfe);
        pair.pulse(0);
        assert_eq!((pair.read(0, MASK), pair.acknowledge()), (0xfe, Some(0x40)));
    }

    #[test]
    fn the_second_interrupts_through_the_first() {
        let pair = pair(0b10_0001 << 8 | 0b1100);
        pair.pulse(13);
        pair.pulse(3);
        assert_eq!(register(&pair, 0, REQUESTED), 0b1100);
        assert_eq!((pair.acknowledge(), pair.acknowledge()), (Some(0x2d), None));
        assert_eq!((register(&pair, 0, IN_SERVICE), register(&pair, 1, IN_SERVICE)), (4, 0x20));
        pair.write(1, 0, END_OF_INTERRUPT);
        assert_eq!(pair.acknowledge(), None, "the first still serves the second");
        pair.write(0, 0, END_OF_INTERRUPT);
        assert_eq!(pair.acknowledge(), Some(0x23));
    }

    #[test]
    fn priorities_rotate() {
        let pair = pair(0xff);
        let take = |inputs: &[u8], operation: u8| {
            inputs.iter().for_each(|&input| pair.pulse(input));
            let vector = pair.acknowledge().unwrap();
            pair.write(0, 0, operation);
            vector
        };
        const ROTATE_AND_END: u8 = 0xa0;
        assert_eq!(take(&[1, 3], ROTATE_AND_END), 0x21);
        assert_eq!(take(&[1], ROTATE_AND_END), 0x23, "1 is the last now");
        assert_eq!(take(&[], END_OF_INTERRUPT), 0x21);
        pair.write(0, 0, 0xc0 | 5);
        assert_eq!(take(&[5, 6], 0xe0 | 6), 0x26, "5 is the last by command");
        assert_eq!(take(&[6, 7], END_OF_INTERRUPT), 0x27, "and now 6");
        assert_eq!(take(&[], END_OF_INTERRUPT), 0x25);
    }

    #[test]
    fn an_interrupt_may_end_by_itself_and_rotate() {
        let pair = pair(0xff);
        pair.write(0, 0, 0x11);
        for word in [0x20, 4, 3] {
            pair.write(0, MASK, word);
        }
        [1, 2].iter().for_each(|&input| pair.pulse(input));
        assert_eq!((pair.acknowledge(), register(&pair, 0, IN_SERVICE)), (Some(0x21), 0));
        pair.write(0, 0, 0x80);
        [1, 3].iter().for_each(|&input| pair.pulse(input));
        // Input 2 is the second controller's, which has nothing: that is spurious.
        assert_eq!([(); 4].map(|()| pair.acknowledge()), [Some(0x21), Some(0x2f), Some(0x23), None]);
        [3, 4].iter().for_each(|&input| pair.pulse(input));
        assert_eq!([(); 3].map(|()| pair.acknowledge()), [Some(0x24), Some(0x23), None], "3 is the last");
    }

    #[test]
    fn in_the_special_mask_mode_a_masked_interrupt_holds_nothing_back() {
        let pair = pair(0xff);
        pair.pulse(1);
        assert_eq!(pair.acknowledge(), Some(0x21));
        pair.write(0, MASK, 2);
        pair.pulse(5);
        assert_eq!(pair.acknowledge(), None);
        pair.write(0, 0, 0x68);
        assert_eq!(pair.acknowledge(), Some(0x25));
        pair.write(0, 0, 0x48);
        pair.pulse(6);
        assert_eq!(pair.acknowledge(), None);
    }

    #[test]
    fn a_level_interrupts_until_it_falls() {
        let pair = pair(0x1010);
        pair.set_levels(0, 0xff);
        pair.set_levels(1, 0xff);
        assert_eq!((pair.levels(0), pair.levels(1)), (0xf8, 0xde));
        pair.set_line(4, true);
        for _ in 0..2 {
            assert_eq!((pair.acknowledge(), pair.acknowledge()), (Some(0x24), None));
            pair.write(0, 0, END_OF_INTERRUPT);
        }
        pair.set_line(4, false);
        assert_eq!((pair.is_up(), register(&pair, 0, REQUESTED)), (false, 0));
        pair.set_levels(0, 0);
        pair.set_line(4, true);
        pair.set_line(4, true);
        pair.set_line(4, false);
        assert_eq!((pair.acknowledge(), pair.acknowledge()), (Some(0x24), None), "an edge");
    }

    #[test]
    fn an_edge_is_awaited_where_it_would_be_news() {
        let pair = pair(0b1);
        assert!(pair.awaits(0) && !pair.awaits(4));
        pair.pulse(0);
        assert!(!pair.awaits(0));
        assert_eq!((pair.acknowledge(), pair.awaits(0)), (Some(0x20), true));
    }
}
