//! Every choice of a random guest: a stream of numbers that depends on the seed alone, with interesting numbers and addresses
//! more often than chance would have them.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tollgate_abi::machine::{PAGE_BYTES, Region, UNIKERNEL};

use super::layout::{Block, OUTSIDE, USER_ALIAS, WINDOW};

/// The memory that the guest gets on first touch.
const FRESH: Region = UNIKERNEL.fresh();

/// ChaCha with eight rounds, whose stream is the same in every version of the crate.
#[derive(Clone, Debug)]
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    /// The stream of a seed. Streams with different `stream` are independent of each other.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&stream.to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Any 64 bits.
    pub(super) fn word(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.word()) * u128::from(end)) >> 64) as u64
    }

    /// A number from `least` to `most`.
    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// True with a chance of `per_mille` in a thousand.
    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One element of `from`; each has the same chance.
    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// One element of `from`; the chance of each is by its weight.
    pub(super) fn weighted<'a, T>(&mut self, from: &'a [T], weight: impl Fn(&T) -> u64) -> &'a T {
        let mut at = self.below(from.iter().map(&weight).sum());
        for one in from {
            match at.checked_sub(weight(one)) {
                Some(rest) => at = rest,
                None => return one,
            }
        }
        &from[0]
    }

    /// A random byte.
    pub(super) fn byte(&mut self) -> u8 {
        self.word() as u8
    }

    /// A value for a register, a field or a limit.
    pub(super) fn value(&mut self, block: &Block) -> u64 {
        match self.below(12) {
            0 => self.below(64),
            1 => 1 << self.below(64),
            2 => (1 << self.below(64)) - 1,
            3 => u64::MAX - self.below(16),
            4 => self.word(),
            5 => self.word() as u32 as u64,
            6 => (self.word() as i32) as u64,
            7 => self.pick(&[
                0,
                0x8000_0000_0000,
                0x7fff_ffff_ffff,
                0xffff_8000_0000_0000,
                0xffff_7fff_ffff_ffff,
                0xffff_ffff,
            ]),
            8 => self.below(0x1_0000),
            _ => self.address(block),
        }
    }

    /// An address for an access: near the ends of pages, in memory of each kind, seldom beyond all memory.
    pub(super) fn address(&mut self, block: &Block) -> u64 {
        let near_end = self.chance(400);
        let in_page =
            if near_end { PAGE_BYTES - self.below(40) } else { self.below(PAGE_BYTES) & !self.pick(&[0, 3, 7, 15]) };
        match self.below(100) {
            0..30 => block.data() + in_page,
            30..45 => USER_ALIAS + block.data() + in_page,
            45..65 => WINDOW + self.below(32) * PAGE_BYTES + in_page,
            65..72 => FRESH.gpa + self.below(FRESH.bytes / PAGE_BYTES - 1) * PAGE_BYTES + in_page,
            72..75 => USER_ALIAS + FRESH.gpa + self.below(64) * PAGE_BYTES + in_page,
            75..79 => 0xffff_ff80_0000_0000 + block.data() + in_page,
            79..83 => block.code() + self.below(PAGE_BYTES),
            83..85 => block.tables() + self.below(PAGE_BYTES),
            85..87 => block.page_tables() + self.below(2 * PAGE_BYTES),
            87..91 => 0x3000_0000 + self.below(1 << 24),
            91..95 => {
                self.pick(&[0, 0xfff, 0xfee0_0000, 0xffff_fff8, 0x8000_0000_0000, 0x7fff_ffff_fffc, u64::MAX - 3])
            }
            95..97 => self.word(),
            97 if self.chance(120) => OUTSIDE + in_page,
            _ => self.below(0x1_0000),
        }
    }
}
