//! The ports by which guests of emulators end: with a code, as QEMU's `isa-debug-exit`, and by a word, as under Bochs.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU8, AtomicU32};

use tollgate_abi::machine::legacy_pc::SHUTDOWN;

use super::Effect;

/// The ports.
#[derive(Debug, Default)]
pub struct EndingPorts {
    code: AtomicU32,
    /// The letters of the word that have come.
    letters: AtomicU8,
}

impl EndingPorts {
    /// The ports, as nobody has used them yet.
    pub const fn new() -> Self {
        Self { code: AtomicU32::new(0), letters: AtomicU8::new(0) }
    }

    /// The code that the guest has ended with.
    pub fn code(&self) -> u32 {
        self.code.load(Relaxed)
    }

    /// Ends the guest with the low `bytes` bytes of `code`.
    pub fn end(&self, bytes: u8, code: u32) -> Effect {
        self.code.store(code & u32::MAX >> (32 - 8 * u32::from(bytes.clamp(1, 4))), Relaxed);
        Effect::DebugExit
    }

    /// Takes a letter of the word that switches the machine off. Another one begins it anew.
    pub fn spell(&self, letter: u8) -> Effect {
        let at = usize::from(self.letters.load(Relaxed));
        let letters = match SHUTDOWN.get(at) {
            Some(&next) if next == letter => at + 1,
            _ => usize::from(letter == SHUTDOWN[0]),
        };
        if letters == SHUTDOWN.len() {
            return Effect::PowerOff;
        }
        self.letters.store(letters as u8, Relaxed);
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_as_many_bytes_as_were_written() {
        let ports = EndingPorts::new();
        for (bytes, code) in [(1, 0xab), (2, 0x89ab), (4, 0x4567_89ab)] {
            assert_eq!((ports.end(bytes, 0x4567_89ab), ports.code()), (Effect::DebugExit, code));
        }
    }

    #[test]
    fn the_whole_word_switches_the_machine_off() {
        let spell = |text: &str| {
            let ports = EndingPorts::new();
            text.bytes().map(|letter| ports.spell(letter)).filter(|&effect| effect == Effect::PowerOff).count()
        };
        assert_eq!(
            ["Shutdown", "Shutdow", "ShutdXown", "ShuShutdown", "SShutdown", "shutdown"].map(spell),
            [1, 0, 0, 1, 1, 0]
        );
    }
}
