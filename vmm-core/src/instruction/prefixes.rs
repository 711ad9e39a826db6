//! The bytes before an instruction's opcode, and the sizes that they and the code segment give it (APM 3 1.2; SDM 2A 2.1.1).

/// The attributes of the code segment for the instructions in it (APM 2 4.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the default operand size, but for 64-bit mode")]
pub enum CodeMode {
    Bits64,
    Bits32,
    Bits16,
}

/// The prefixes of the opcode (APM 3 1.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Prefixes {
    pub(super) operand_size: bool,
    pub(super) address_size: bool,
    /// A LOCK prefix, F0H.
    pub(super) lock: bool,
    /// The last of the prefixes F2H and F3H; 0 for neither.
    pub(super) repeat: u8,
    /// The segment that a prefix names; ES, CS, SS, DS, FS, GS are 0 to 5.
    pub(super) segment: Option<u8>,
    /// The REX prefix; 0 without one.
    pub(super) rex: u8,
}

impl Prefixes {
    pub(super) const REPNE: u8 = 0xf2;
    pub(super) const REP: u8 = 0xf3;
    const REX_W: u8 = 8;

    /// Reads up to the first byte of the opcode, and returns that byte, too.
    pub(super) fn read(bytes: &mut impl Iterator<Item = u8>, mode: CodeMode) -> Option<(Self, u8)> {
        let mut prefixes = Self::default();
        let is_64_bit = mode == CodeMode::Bits64;
        loop {
            let byte = bytes.next()?;
            match byte {
                // ES, CS, SS and DS have no effect in 64-bit mode (APM 3 1.2.4).
                0x26 | 0x2e | 0x36 | 0x3e if is_64_bit => {}
                0x26 | 0x2e | 0x36 | 0x3e => prefixes.segment = Some(byte >> 3 & 3),
                0x64 | 0x65 => prefixes.segment = Some(byte & 7),
                0x66 => prefixes.operand_size = true,
                0x67 => prefixes.address_size = true,
                0xf0 => prefixes.lock = true,
                Self::REPNE | Self::REP => prefixes.repeat = byte,
                0x40..=0x4f if is_64_bit => {
                    prefixes.rex = byte;
                    continue;
                }
                _ => return Some((prefixes, byte)),
            }
            // A REX prefix counts only right before the opcode (APM 3 1.2.7).
            prefixes.rex = 0;
        }
    }

    pub(super) fn operand_bytes(&self, mode: CodeMode) -> u8 {
        if self.rex & Self::REX_W != 0 {
            8
        } else if (mode == CodeMode::Bits16) != self.operand_size {
            2
        } else {
            4
        }
    }

    pub(super) fn address_bytes(&self, mode: CodeMode) -> u8 {
        match (mode, self.address_size) {
            (CodeMode::Bits64, false) => 8,
            (CodeMode::Bits64, true) | (CodeMode::Bits32, false) | (CodeMode::Bits16, true) => 4,
            (CodeMode::Bits32, true) | (CodeMode::Bits16, false) => 2,
        }
    }
}
