//! A guest of random instructions, made from a seed: the same seed makes the same bytes. It is there to find behaviour of the
//! monitor that nobody thought of.
//!
//! Each vCPU has a well-formed frame, and in it snippets of a few random instructions, each of a kind that provokes an exit or an
//! exception. They run in rings 0 and 3, in 64-bit and compatibility mode, with 16-bit segments, and in real mode, in which a
//! vCPU starts.

mod dice;
mod frame;
mod kinds;
mod layout;
mod real;
mod snippet;
mod tables;

use iced_x86::IcedError;
use tollgate_abi::apic;
use tollgate_abi::guest_image::Placing;

use self::dice::Dice;
use self::frame::{FRAME_BYTES, REPAIR};
use self::layout::{Block, ENTRY, REAL_PAGES, USER_ALIAS};
use self::snippet::{A, C, D, Mode, Snippet};
use self::tables::{CODE16, CODE32, CODE64, DATA, END, USER_CODE16, USER_CODE32, USER_CODE64, USER_DATA};
use crate::image::{Guest, Piece};

/// The name by which a random guest is asked for.
pub const NAME: &str = "random";

/// The most snippets of all vCPUs together; a vCPU alone has no fewer than a quarter of that.
const MOST_SNIPPETS: u64 = 400;
const LEAST_OF_A_VCPU: u64 = 16;

/// A random guest's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RandomGuest {
    real_pages: Vec<u8>,
    blocks: Vec<u8>,
    blocks_gpa: u64,
}

impl RandomGuest {
    /// The guest of a seed, for `vcpus`.
    pub fn new(seed: u64, vcpus: u32) -> Self {
        let vcpus = u64::from(vcpus);
        let first = Block::new(0, vcpus);
        let mut guest = Self {
            real_pages: vec![0; if vcpus > 1 { 0x1000 * vcpus as usize } else { 0 }],
            blocks: vec![0; (first.bytes() * vcpus) as usize],
            blocks_gpa: first.base,
        };
        for vcpu in 0..vcpus {
            let mut dice = Dice::new(seed, vcpu);
            let block = Block::new(vcpu, vcpus);
            guest.write(&block, &mut dice).expect("every instruction of the frame can be encoded");
        }
        guest
    }

    /// The guest as the image takes it.
    pub fn guest(&self) -> Guest<'_> {
        fn piece(gpa: u64, bytes: &[u8]) -> Piece<'_> {
            Piece { gpa, memory_bytes: bytes.len() as u64, bytes: bytes.into() }
        }
        let mut pieces = vec![piece(self.blocks_gpa, &self.blocks[..])];
        if !self.real_pages.is_empty() {
            pieces.push(piece(REAL_PAGES, &self.real_pages[..]));
        }
        Guest { placing: Placing::unikernel(self.blocks_gpa + ENTRY), pieces }
    }

    /// The guest's bytes, one after the other.
    pub fn bytes(&self) -> Vec<u8> {
        [&self.blocks[..], &self.real_pages].concat()
    }

    fn write(&mut self, block: &Block, dice: &mut Dice) -> Result<(), IcedError> {
        let Self { real_pages, blocks, blocks_gpa } = self;
        let mut put = |at: u64, bytes: &[u8]| {
            let (part, start) =
                if at >= *blocks_gpa { (&mut *blocks, *blocks_gpa) } else { (&mut *real_pages, REAL_PAGES) };
            part[(at - start) as usize..][..bytes.len()].copy_from_slice(bytes);
        };
        tables::write(block, dice, &mut put);
        if block.vcpu > 0 {
            real::write(block, dice, &mut put)?;
        }
        let snippets = snippets(block, dice, &mut put);
        frame::write(block, dice, snippets, &mut put)
    }
}

/// Writes snippets and the frames by which they are entered; returns their number.
fn snippets(block: &Block, dice: &mut Dice, put: &mut tables::Put<'_>) -> u64 {
    let most = (MOST_SNIPPETS / block.vcpus).max(LEAST_OF_A_VCPU);
    let asked = dice.between(most / 4, most);
    let mut at = block.code() + asked * FRAME_BYTES;
    for number in 0..asked {
        let mut mode = mode(dice);
        // A segment of 16 bits begins at the code's first address.
        if mode.bits == 16 && at - block.code() > 0xf000 {
            mode.bits = 32;
        }
        let bytes = snippet(block, mode, number, dice);
        if at + bytes.len() as u64 > block.end() {
            return number;
        }
        put(at, &bytes);
        for (word, value) in entry(block, mode, at, dice).into_iter().enumerate() {
            put(block.code() + number * FRAME_BYTES + 8 * word as u64, &value.to_le_bytes());
        }
        at += bytes.len() as u64;
    }
    asked
}

fn mode(dice: &mut Dice) -> Mode {
    let (bits, is_user) = match dice.below(100) {
        0..58 => (64, false),
        58..73 => (64, true),
        73..81 => (32, false),
        81..90 => (32, true),
        90..95 => (16, false),
        _ => (16, true),
    };
    Mode { bits, is_user, is_real: false }
}

/// The bytes of snippet `number`. The first snippets of vCPU 0 start the others.
fn snippet(block: &Block, mode: Mode, number: u64, dice: &mut Dice) -> Vec<u8> {
    let mut snippet = Snippet::new(mode, block);
    if block.vcpu == 0 && (1..block.vcpus).contains(&(number + 1)) {
        let vcpu = number + 1;
        let page = (Block::new(vcpu, block.vcpus).real_page() >> 12) as u8;
        for (delivery, vector) in [(apic::DELIVERY_INIT, 0), (apic::DELIVERY_START_UP, page)] {
            snippet.set(C, apic::ICR.into());
            let command = apic::command(vcpu as u32, delivery, vector);
            snippet.set(A, command & 0xffff_ffff);
            snippet.set(D, command >> 32);
            snippet.raw(&[0x0f, 0x30]);
        }
    } else {
        for _ in 0..dice.pick(&[1, 1, 1, 2, 3]) {
            kinds::write(&mut snippet, dice);
        }
    }
    snippet.raw(&[0xcd, END]);
    snippet.bytes
}

/// The frame of a snippet at `at`: flags, then RIP, CS, RFLAGS, RSP, SS.
fn entry(block: &Block, mode: Mode, at: u64, dice: &mut Dice) -> [u64; 6] {
    const ALIAS: [u64; 2] = [0, USER_ALIAS];
    let selector = match (mode.bits, mode.is_user) {
        (64, false) => CODE64,
        (64, true) => USER_CODE64,
        (32, false) => CODE32,
        (32, true) => USER_CODE32,
        (_, false) => CODE16,
        (_, true) => USER_CODE16,
    };
    let rip = if mode.bits == 16 { at - (block.code() & !0xf) } else { at + ALIAS[usize::from(mode.is_user)] };
    let mut flags = 2 | dice.word() & 0x8d5;
    // IF, TF, DF, IOPL, NT, RF, AC, VIF, VIP, ID
    for (bits, per_mille) in [
        (1 << 9, 600),
        (1 << 8, 40),
        (1 << 10, 40),
        (3 << 12, 250),
        (1 << 14, 20),
        (1 << 16, 30),
        (1 << 18, 80),
        (3 << 19, 10),
    ] {
        if dice.chance(per_mille) {
            flags |= bits;
        }
    }
    let (stack, data) = if mode.is_user { (block.user_stack(), USER_DATA) } else { (block.stack(), DATA) };
    let repair = if dice.chance(250) { REPAIR } else { 0 };
    [repair, rip, selector.into(), flags, stack, data.into()]
}
