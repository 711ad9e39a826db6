//! A boot header in a kernel's file, as both versions of multiboot have it: its place, its demands, and addresses in it, by which a
//! file of any format is loaded.

use crate::error::Error;
use crate::lowered::Segment;

/// A header, by the protocol's name and the offset in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) name: &'static str,
    pub(crate) at: usize,
}

/// The addresses in a header, by the names that specifications give them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) header_addr: u32,
    pub(crate) load_addr: u32,
    pub(crate) load_end_addr: u32,
    pub(crate) bss_end_addr: u32,
}

/// Words of a file from an offset on.
pub(crate) fn words<const N: usize>(file: &[u8], at: usize) -> Option<[u32; N]> {
    let bytes = file.get(at..at.checked_add(N * size_of::<u32>())?)?;
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Some(std::array::from_fn(|number| word(number * size_of::<u32>())))
}

impl Header {
    /// The error that the header contradicts itself or its file.
    pub(crate) fn lies(self, cause: impl Into<String>) -> Error {
        Error::Header { header: self.name, at: self.at, cause: cause.into() }
    }

    /// The error that the machine does not have a thing.
    pub(crate) fn demands(self, demand: impl Into<String>) -> Error {
        Error::Demand { header: self.name, at: self.at, demand: demand.into() }
    }

    /// The kernel as the header's own addresses place it.
    pub(crate) fn load(self, file: &[u8], addresses: Addresses) -> Result<Segment, Error> {
        let Addresses { header_addr: header, load_addr: load, load_end_addr: load_end, bss_end_addr: bss_end } =
            addresses;
        let before = header.checked_sub(load).map(|bytes| bytes as usize).filter(|&bytes| bytes <= self.at);
        let before = before.ok_or_else(|| {
            self.lies(format!(
                "says that it lies at {header:#x} in memory that is loaded from {load:#x} on, for which the file has too few \
                 bytes in front of it"
            ))
        })?;
        let from = self.at - before;
        let loaded = match load_end {
            0 => &file[from..],
            _ => {
                let bytes = load_end
                    .checked_sub(load)
                    .ok_or_else(|| self.lies(format!("has load_end_addr {load_end:#x} below load_addr {load:#x}")))?;
                let end = from + bytes as usize;
                file.get(from..end).ok_or_else(|| Error::truncated("kernel", end, file))?
            }
        };
        let (gpa, loaded_end) = (u64::from(load), u64::from(load) + loaded.len() as u64);
        let end = if bss_end == 0 { loaded_end } else { bss_end.into() };
        if end < loaded_end {
            let cause = format!("has bss_end_addr {end:#x} below the end of what is loaded, {loaded_end:#x}");
            return Err(self.lies(cause));
        }
        Ok(Segment { gpa, bytes: loaded.to_vec(), memory_bytes: end - gpa, what: "kernel" })
    }

    /// The entry point in the header, which has to lie in the kernel.
    pub(crate) fn entry_gpa(self, entry: u32, kernel: &[Segment]) -> Result<u64, Error> {
        let gpa = u64::from(entry);
        let holds = |segment: &Segment| (segment.gpa..segment.end()).contains(&gpa);
        if kernel.iter().any(holds) {
            Ok(gpa)
        } else {
            Err(self.lies(format!("has the entry point {gpa:#x}, where nothing of the kernel is loaded")))
        }
    }
}
