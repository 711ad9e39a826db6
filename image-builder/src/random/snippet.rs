//! A snippet under construction: a few instructions for one mode, byte by byte where their encoding is the same in every mode.

use super::dice::Dice;
use super::layout::{Block, USER_ALIAS};

/// Registers by their numbers in an encoding.
pub(super) const A: u8 = 0;
pub(super) const C: u8 = 1;
pub(super) const D: u8 = 2;
pub(super) const B: u8 = 3;
pub(super) const SI: u8 = 6;
pub(super) const DI: u8 = 7;

/// The mode that a snippet runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    /// The bits of the mode: 16, 32 or 64.
    pub(super) bits: u8,
    /// It runs in ring 3.
    pub(super) is_user: bool,
    /// It runs in real mode.
    pub(super) is_real: bool,
}

/// A snippet's bytes so far.
#[derive(Debug)]
pub(super) struct Snippet<'a> {
    pub(super) mode: Mode,
    pub(super) block: &'a Block,
    pub(super) bytes: Vec<u8>,
}

impl<'a> Snippet<'a> {
    pub(super) fn new(mode: Mode, block: &'a Block) -> Self {
        Self { mode, block, bytes: Vec::new() }
    }

    /// An address that this mode can reach.
    pub(super) fn address(&self, dice: &mut Dice) -> u64 {
        let address = dice.address(self.block);
        // Ring 3 can't reach most of the kernel's addresses.
        if self.mode.is_user && address < super::layout::OUTSIDE && dice.chance(800) {
            address + USER_ALIAS
        } else {
            address
        }
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// MOV of a constant to one of the first eight registers, as wide as the mode allows.
    pub(super) fn set(&mut self, register: u8, value: u64) {
        if self.mode.bits == 64 && value >> 32 != 0 {
            self.raw(&[0x48, 0xb8 + register]);
            self.raw(&value.to_le_bytes());
        } else {
            if self.mode.bits == 16 {
                self.raw(&[0x66]);
            }
            self.raw(&[0xb8 + register]);
            self.raw(&(value as u32).to_le_bytes());
        }
    }

    pub(super) fn set_any(&mut self, register: u8, dice: &mut Dice) {
        let value = dice.value(self.block);
        self.set(register, value);
    }

    /// The registers from which WRMSR, XSETBV and their like take a value.
    pub(super) fn set_wide(&mut self, value: u64) {
        self.set(A, value & 0xffff_ffff);
        self.set(D, value >> 32);
    }

    /// The provocation: seldom behind STI, MOV to SS or POPF with TF, or with prefixes that make no sense.
    pub(super) fn op(&mut self, dice: &mut Dice, bytes: &[u8]) {
        match dice.below(100) {
            0..4 => self.raw(&[0xfb]),
            4..7 => self.raw(&[0x8c, 0xd0, 0x8e, 0xd0]),
            // PUSHF, change of IF, POPF; and the same that sets TF
            7..9 if self.mode.bits == 64 => self.raw(&[0x9c, 0x80, 0x74, 0x24, 0x01, 0x02, 0x9d]),
            9..12 if self.mode.bits == 64 => self.raw(&[0x9c, 0x80, 0x4c, 0x24, 0x01, 0x01, 0x9d]),
            12..14 => {
                let prefix = dice.pick(&[0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x64, 0x65]);
                self.raw(&[prefix]);
            }
            _ => {}
        }
        self.raw(bytes);
    }

    /// The provocation with an operand in memory at (E/R)BX; `digit` is the other operand.
    pub(super) fn at_b(&mut self, dice: &mut Dice, opcode: &[u8], digit: u8) {
        let mut bytes = Vec::new();
        if self.mode.bits == 16 {
            bytes.push(0x67);
        }
        bytes.extend_from_slice(opcode);
        bytes.push(digit << 3 | B);
        self.op(dice, &bytes);
    }
}
