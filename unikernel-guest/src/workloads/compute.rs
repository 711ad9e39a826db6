//! Real work on the heap: sorting, hashing and floating point, in a region that is shown to cause no exit.

use alloc::vec;
use alloc::vec::Vec;

use super::expect::ensure;
use super::{Outcome, Run};

const SORTED_VALUES: usize = 2048;
const HASHED_WORDS: u64 = 2048;
const HASH_SLOTS: usize = 4096;
const MATRIX_ORDER: usize = 32;

/// The result of the work, computed elsewhere by another program.
const EXPECTED: Results = Results { sorted: 0x40d6_ada5_049f_a2e0, hashed: 4_230_652, product: 247_735_850 };

#[derive(Debug, PartialEq, Eq)]
struct Results {
    /// FNV-1a over the sorted values.
    sorted: u64,
    /// Sum over the table of slot number times count.
    hashed: u64,
    /// Trace of the product of two matrices, in 64ths.
    product: u64,
}

pub(super) fn compute(run: &Run) -> Outcome {
    let (outcome, exits) = run.account.exits_during(|| {
        for _ in 0..run.iterations {
            let results = Results { sorted: sort(), hashed: hash(), product: multiply() };
            ensure!(results == EXPECTED, "{results:?}, expected {EXPECTED:?}");
        }
        Ok(())
    });
    ensure!(exits == 0, "{exits} exits in a region that has no reason to exit");
    outcome
}

/// xorshift64* (Vigna 2014).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3)
}

fn sort() -> u64 {
    let mut random = Random(1);
    let mut values: Vec<u64> = (0..SORTED_VALUES).map(|_| random.next()).collect();
    values.sort_unstable();
    values.iter().fold(FNV_OFFSET, |hash, &value| fnv(hash, value))
}

/// Counts words in a table with linear probing; a slot is a word, which is never 0, and its count.
fn hash() -> u64 {
    let mut random = Random(2);
    let mut table = vec![(0u64, 0u64); HASH_SLOTS];
    for _ in 0..HASHED_WORDS {
        let word = random.next() % 1501 + 1;
        let mut slot = (fnv(FNV_OFFSET, word) >> 32) as usize % HASH_SLOTS;
        while table[slot].0 != 0 && table[slot].0 != word {
            slot = (slot + 1) % HASH_SLOTS;
        }
        table[slot] = (word, table[slot].1 + 1);
    }
    table.iter().zip(0u64..).fold(0, |sum, (&(_, count), slot)| sum + slot * count)
}

/// Eighths of small integers in `f64`, so that the result is exact whatever the order of the additions.
fn multiply() -> u64 {
    let mut random = Random(3);
    let mut matrix =
        || -> Vec<f64> { (0..MATRIX_ORDER * MATRIX_ORDER).map(|_| (random.next() % 1000) as f64 / 8.0).collect() };
    let (a, b) = (matrix(), matrix());
    let mut product = vec![0.0; MATRIX_ORDER * MATRIX_ORDER];
    for (a_row, out_row) in a.chunks_exact(MATRIX_ORDER).zip(product.chunks_exact_mut(MATRIX_ORDER)) {
        for (&factor, b_row) in a_row.iter().zip(b.chunks_exact(MATRIX_ORDER)) {
            for (out, &b_value) in out_row.iter_mut().zip(b_row) {
                *out += factor * b_value;
            }
        }
    }
    let trace: f64 = product.iter().step_by(MATRIX_ORDER + 1).sum();
    (trace * 64.0) as u64
}
