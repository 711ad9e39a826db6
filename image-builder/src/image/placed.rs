//! A guest that is too large for a ROM: its bytes, which the emulator puts into the machine's memory before it starts.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tollgate_abi::guest_image::{Entry, PLACED_MARK, Placing};
use tollgate_abi::machine::Kind;

use super::Guest;

/// A guest's bytes by guest-physical address.
#[derive(Clone, Debug)]
pub struct Placed {
    placing: Placing,
    pieces: Vec<(u64, Vec<u8>)>,
}

impl Placed {
    /// The pieces of a guest that reaches to `end`, with a mark before and behind it: the beginning of the first page is nobody's.
    /// All between the pieces is zero.
    pub fn new(mut pieces: Vec<(u64, Vec<u8>)>, end: u64, entry: Entry, memory_bytes: u64) -> Self {
        let end = end.next_multiple_of(8);
        pieces.extend([0, end].map(|gpa| (gpa, PLACED_MARK.to_vec())));
        let placed_bytes = end + PLACED_MARK.len() as u64;
        Self { placing: Placing { machine: Kind::Pc, memory_bytes, placed_bytes, entry }, pieces }
    }

    /// The guest as an image has it: without its bytes.
    pub fn guest(&self) -> Guest<'static> {
        Guest { placing: self.placing, pieces: Vec::new() }
    }

    /// MiB of the guest's memory.
    pub fn memory_mib(&self) -> u16 {
        (self.placing.memory_bytes >> 20) as u16
    }

    /// Writes the bytes to a file, in which the gaps take no room.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.placing.placed_bytes)?;
        self.pieces.iter().try_for_each(|(gpa, bytes)| file.write_all_at(bytes, *gpa))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_lie_at_their_addresses_between_two_marks() {
        let entry = Entry { rip: 0x3000, ..Entry::default() };
        let placed = Placed::new(vec![(0x3000, b"code".to_vec()), (0x2000, b"data".to_vec())], 0x3fff, entry, 4 << 20);
        assert_eq!((placed.guest().placing.placed_bytes, placed.memory_mib()), (0x4008, 4));
        let directory = tempfile::tempdir().unwrap();
        placed.write(&directory.path().join("guest")).unwrap();
        let bytes = std::fs::read(directory.path().join("guest")).unwrap();
        assert_eq!((bytes.len(), &bytes[..8], &bytes[0x4000..]), (0x4008, &PLACED_MARK[..], &PLACED_MARK[..]));
        assert_eq!((&bytes[0x2000..0x2005], &bytes[0x3000..0x3005]), (&b"data\0"[..], &b"code\0"[..]));
    }
}
