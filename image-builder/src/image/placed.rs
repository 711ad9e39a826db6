//! A guest that is too large for a ROM: its bytes, which the emulator puts into the machine's memory before it starts, or which a
//! stick has.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tollgate_abi::guest_image::{Entry, PLACED_MARK, Placing};
use tollgate_abi::machine::Kind;

use super::{Guest, Piece};

/// A guest's bytes by guest-physical address. All between them is zero.
#[derive(Clone, Debug)]
pub struct Placed {
    placing: Placing,
    pieces: Vec<(u64, Vec<u8>)>,
}

impl Placed {
    /// The pieces of a guest of this machine that reaches to `end`.
    pub fn new(pieces: Vec<(u64, Vec<u8>)>, end: u64, entry: Entry, machine: Kind, memory_bytes: u64) -> Self {
        let placed_bytes = end.next_multiple_of(8) + PLACED_MARK.len() as u64;
        let placing = Placing { machine, memory_bytes, placed_bytes, entry, tsc_khz_gpa: 0 };
        Self { placing, pieces }
    }

    /// The guest on another machine whose memory an image chooses.
    pub fn on(mut self, machine: Kind) -> Self {
        self.placing.machine = machine;
        self
    }

    /// The guest with the TSC's rate in its text at this address, which a monitor that knows it corrects.
    pub fn told_tsc_khz_at(mut self, gpa: u64) -> Self {
        self.placing.tsc_khz_gpa = gpa;
        self
    }

    /// The guest as an image has it that others place: without its bytes.
    pub fn guest(&self) -> Guest<'static> {
        Guest { placing: self.placing, pieces: Vec::new() }
    }

    /// The guest as an image has it that the monitor loads: with its bytes.
    pub fn loaded(&self) -> Guest<'_> {
        let pieces = self.pieces.iter().filter(|(_, bytes)| !bytes.is_empty());
        let pieces = pieces
            .map(|(gpa, bytes)| Piece { gpa: *gpa, memory_bytes: bytes.len() as u64, bytes: bytes.into() })
            .collect();
        Guest { placing: Placing { placed_bytes: 0, ..self.placing }, pieces }
    }

    /// The guest's bytes by guest-physical address, the two marks among them.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pieces.iter().map(|(gpa, bytes)| (*gpa, &bytes[..]))
    }

    /// The state at the guest's first instruction.
    pub fn entry(&self) -> Entry {
        self.placing.entry
    }

    /// MiB of the guest's memory.
    pub fn memory_mib(&self) -> u16 {
        (self.placing.memory_bytes >> 20) as u16
    }

    /// Writes the bytes to a file, in which the gaps take no room, with a mark before and behind them: the beginning of the first
    /// page is nobody's.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.placing.placed_bytes)?;
        self.pieces.iter().try_for_each(|(gpa, bytes)| file.write_all_at(bytes, *gpa))?;
        let marks = [0, self.placing.placed_bytes - PLACED_MARK.len() as u64];
        marks.into_iter().try_for_each(|gpa| file.write_all_at(&PLACED_MARK, gpa))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_lie_at_their_addresses_between_two_marks() {
        let entry = Entry { rip: 0x3000, ..Entry::default() };
        let placed =
            Placed::new(vec![(0x3000, b"code".to_vec()), (0x2000, b"data".to_vec())], 0x3fff, entry, Kind::Pc, 4 << 20);
        assert_eq!((placed.guest().placing.placed_bytes, placed.memory_mib()), (0x4008, 4));
        let directory = tempfile::tempdir().unwrap();
        placed.write(&directory.path().join("guest")).unwrap();
        let bytes = std::fs::read(directory.path().join("guest")).unwrap();
        assert_eq!((bytes.len(), &bytes[..8], &bytes[0x4000..]), (0x4008, &PLACED_MARK[..], &PLACED_MARK[..]));
        assert_eq!((&bytes[0x2000..0x2005], &bytes[0x3000..0x3005]), (&b"data\0"[..], &b"code\0"[..]));
    }
}
