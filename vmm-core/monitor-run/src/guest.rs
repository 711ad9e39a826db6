//! Lays the guest out in its memory, from a file that holds it, or finds it there.
#![expect(unsafe_code, reason = "takes the guest's region as memory")]

use alloc::boxed::Box;
use alloc::vec;
use core::ops::Range;

use tollgate_abi::guest_image::{Directory, Entry, PLACED_MARK, Placing, Segment, TSC_KHZ_DIGITS};
use tollgate_abi::machine::*;
use tollgate_abi::virtualization::Facts;
use vmm_core::memory::{BadAddress, GuestMemory};

use crate::Refused;

/// A guest in its memory.
pub(crate) struct Guest {
    /// The machine.
    pub(crate) model: &'static Model,
    /// The machine's memory.
    pub(crate) memory: GuestMemory,
    /// The guest's beginning.
    pub(crate) entry: Entry,
    /// It may be in any mode: its machine leaves that open, and so does the processor.
    pub(crate) any_mode: bool,
    /// The address at which the guest is told the TSC's rate, or 0.
    tsc_khz_gpa: u64,
}

impl Guest {
    /// Tells the guest the TSC's rate in kHz, if it has a place for that: by as many digits as there are, and blanks. A rate that
    /// does not fit is not told.
    pub(crate) fn tell_tsc_khz(&mut self, khz: u64) {
        let text = alloc::format!("{khz:<TSC_KHZ_DIGITS$}");
        if self.tsc_khz_gpa > 0 && text.len() == TSC_KHZ_DIGITS {
            let told = self.memory.write(self.tsc_khz_gpa, text.as_bytes());
            told.expect("the directory was checked against the guest's memory");
        }
    }
}

/// The machine that an image asks for. Memory that the image chooses is mapped as `mapping` says.
pub(crate) fn model(placing: &Placing, mapping: Mapping) -> &'static Model {
    let row = placing.machine.row();
    if !row.memory.is_empty() {
        return row;
    }
    let memory = vec![Region { gpa: 0, bytes: placing.memory_bytes, mapping }].leak();
    Box::leak(Box::new(Model { memory, ..*row }))
}

/// Takes the guest's memory. A guest that was placed there is checked. Any other's segments are copied from `file`, or are in their
/// places if there is none.
///
/// # Safety
/// `guest_hpa` is the address that the firmware gave for `model`'s memory, and this is called once.
pub(crate) unsafe fn load(
    directory: &Directory<'_>,
    model: &'static Model,
    file: Option<&[u8]>,
    guest_hpa: u64,
    vcpus: usize,
    facts: Facts,
) -> Result<Guest, Refused> {
    let placing = directory.placing;
    let memory = if placing.placed_bytes > 0 {
        // SAFETY: the firmware gave the memory from there on, as much as the model has, mapped to itself, for this one call: by the
        // caller's contract.
        let memory = unsafe { GuestMemory::new(guest_hpa as *mut u8, model.memory_bytes()) };
        if !is_placed(&memory, placing.placed_bytes) {
            return Err(Refused::new(
                format_args!("the guest's {} bytes are not in the machine's memory", placing.placed_bytes),
                "start the image by `tollgate run`, which has the emulator place them; if it did, this version of the emulator can't",
            ));
        }
        memory
    } else {
        // SAFETY: the same contract, which the caller keeps.
        unsafe { lay_out(directory, model, file, guest_hpa, vcpus, facts) }
            .expect("the directory was checked against the guest's memory")
    };
    let any_mode = placing.machine != Kind::Unikernel;
    Ok(Guest { model, memory, entry: placing.entry, any_mode, tsc_khz_gpa: placing.tsc_khz_gpa })
}

/// Whether a placed guest begins and ends with the marks that the host tool wrote.
fn is_placed(memory: &GuestMemory, bytes: u64) -> bool {
    let has_mark = |gpa: u64| {
        let mut found = [0; PLACED_MARK.len()];
        memory.read(gpa, &mut found).is_ok() && found == PLACED_MARK
    };
    has_mark(0) && has_mark(bytes.wrapping_sub(PLACED_MARK.len() as u64))
}

/// Takes the guest's memory, with the guest's segments from `file`, in which the directory's offsets count; without one they are there.
/// Everything else in it is zeroed. A guest that is built for Tollgate gets page tables and boot information, which others bring along.
///
/// # Safety
/// As for [`load`].
unsafe fn lay_out(
    directory: &Directory<'_>,
    model: &Model,
    file: Option<&[u8]>,
    guest_hpa: u64,
    vcpus: usize,
    facts: Facts,
) -> Result<GuestMemory, BadAddress> {
    let bytes = model.memory_bytes();
    // SAFETY: the caller's contract: the bytes of the machine's memory from there are memory, mapped to itself, and nobody else's. This
    // is the only reference to it, and gone before the guest's memory is made of it.
    let region = unsafe { core::slice::from_raw_parts_mut(guest_hpa as *mut u8, bytes as usize) };
    zero_between(region, directory.segments())?;
    for segment in directory.segments() {
        let Some(file) = file else { break };
        let stored = part(segment.image_offset, segment.file_bytes).and_then(|range| file.get(range));
        let place = part(segment.gpa, segment.file_bytes).and_then(|range| region.get_mut(range));
        place.zip(stored).ok_or(BadAddress(segment.gpa)).map(|(place, stored)| place.copy_from_slice(stored))?;
    }
    // SAFETY: the caller's contract, as above.
    let mut memory = unsafe { GuestMemory::new(guest_hpa as *mut u8, bytes) };
    if directory.placing.machine == Kind::Unikernel {
        page_tables(&mut memory)?;
        boot_info(&mut memory, model, directory.options, vcpus, facts)?;
    }
    Ok(memory)
}

/// Zeroes memory, but for the bytes of these segments, which share none.
fn zero_between(region: &mut [u8], segments: impl Iterator<Item = Segment> + Clone) -> Result<(), BadAddress> {
    let mut at = 0;
    loop {
        let behind = segments.clone().filter(|segment| segment.gpa >= at && segment.file_bytes > 0);
        let next = behind.min_by_key(|segment| segment.gpa);
        let to = next.map_or(region.len() as u64, |segment| segment.gpa);
        part(at, to - at).and_then(|range| region.get_mut(range)).ok_or(BadAddress(at))?.fill(0);
        let Some(next) = next else { return Ok(()) };
        at = to + next.file_bytes;
    }
}

/// The part of memory or a file from there on with so many bytes, if there can be one.
fn part(start: u64, bytes: u64) -> Option<Range<usize>> {
    Some(start as usize..start.checked_add(bytes)? as usize)
}

/// Page tables that map 4 GiB to itself by 2 MiB pages.
fn page_tables(memory: &mut GuestMemory) -> Result<(), BadAddress> {
    const TABLE: u64 = 0b11;
    const LARGE_PAGE: u64 = 0b1000_0011;
    let (pml4, pdpt, directories) = (PAGE_TABLES_GPA, PAGE_TABLES_GPA + PAGE_BYTES, PAGE_TABLES_GPA + 2 * PAGE_BYTES);
    memory.write_u64(pml4, pdpt | TABLE)?;
    for gib in 0..4 {
        memory.write_u64(pdpt + 8 * gib, (directories + gib * PAGE_BYTES) | TABLE)?;
    }
    (0..4 * 512).try_for_each(|page| memory.write_u64(directories + 8 * page, page << 21 | LARGE_PAGE))
}

fn boot_info(
    memory: &mut GuestMemory,
    model: &Model,
    options: &str,
    vcpus: usize,
    facts: Facts,
) -> Result<(), BadAddress> {
    let (ram_bytes, fresh, options_bytes) = (model.ram_bytes(), model.fresh(), options.len() as u64);
    let words = [BOOT_INFO_MAGIC, ram_bytes, fresh.gpa, fresh.bytes, vcpus as u64, facts.to_word(), options_bytes];
    for (gpa, word) in (BOOT_INFO_GPA..).step_by(8).zip(words) {
        memory.write_u64(gpa, word)?;
    }
    memory.write(BOOT_INFO_GPA + 8 * words.len() as u64, options.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;
    use tollgate_abi::guest_image::{DIRECTORY_BYTES, write_directory};
    use tollgate_abi::packed::PackedMonitor;

    const MODEL: &Model = &UNIKERNEL;
    const CODE_GPA: u64 = 0x10_0000;
    const DATA_GPA: u64 = CODE_GPA + 0x3000;

    const PC_OF_4_MIB: Placing = Placing {
        machine: Kind::Pc,
        memory_bytes: 4 << 20,
        placed_bytes: 0,
        entry: Placing::unikernel(CODE_GPA).entry,
        tsc_khz_gpa: CODE_GPA + 4,
    };

    const PLAIN: &[u8] = b"plain bytes";

    /// A file of a directory and two segments behind it, the first with `code`, loaded into memory that was not zero; or the same in an
    /// image that has left them in their places, if it is not a file.
    fn loaded(code: &[u8], is_file: bool, options: &str) -> Result<(GuestMemory, Vec<u8>), BadAddress> {
        let place = |gpa, image_offset, bytes: &[u8]| Segment {
            gpa,
            memory_bytes: 0x1000,
            image_offset,
            file_bytes: bytes.len() as u64,
            packed_bytes: bytes.len() as u64,
        };
        let start = DIRECTORY_BYTES as u64;
        // In the order of the file, which need not be that of memory. The last has nothing in the file.
        let segments = [
            place(DATA_GPA, start + code.len() as u64, PLAIN),
            place(CODE_GPA, start, code),
            place(DATA_GPA + 0x1000, 0, &[]),
        ];
        let mut page = [0; DIRECTORY_BYTES];
        let monitor = PackedMonitor { image_offset: 0, packed_bytes: 0, unpacked_bytes: 0 };
        write_directory(&mut page, monitor, &Placing::unikernel(CODE_GPA), &segments, options).unwrap();
        let file = [&page[..], code, PLAIN].concat();
        let directory = Directory::read(&page, file.len() as u64).unwrap();
        let mut region = vec![0xa5; MODEL.memory_bytes() as usize];
        if !is_file {
            region[CODE_GPA as usize..][..code.len()].copy_from_slice(code);
            region[DATA_GPA as usize..][..PLAIN.len()].copy_from_slice(PLAIN);
        }
        let file = is_file.then_some(&file[..]);
        // SAFETY: the vector is this memory alone's, and the returned pair keeps it as long as the memory.
        unsafe { lay_out(&directory, MODEL, file, region.as_mut_ptr() as u64, 3, Facts::from_word(5)) }
            .map(|memory| (memory, region))
    }

    #[test]
    fn segments_lie_where_the_directory_says_and_the_rest_is_zero() {
        let code: Vec<u8> = (0..2000_u32).map(|at| (at / 100) as u8 | 1).collect();
        for is_file in [true, false] {
            let (memory, region) = loaded(&code, is_file, "").unwrap();
            let mut found = vec![0; code.len()];
            memory.read(CODE_GPA, &mut found).unwrap();
            assert_eq!(found, code);
            let mut found = [0; PLAIN.len()];
            memory.read(DATA_GPA, &mut found).unwrap();
            assert_eq!(found, PLAIN);
            let area = BOOT_AREA_BYTES as usize;
            assert_eq!(region[area..].iter().filter(|&&byte| byte > 0).count(), code.len() + PLAIN.len());
        }
    }

    #[test]
    fn a_guest_of_others_is_its_segments_alone_and_is_told_the_rate_of_the_tsc() {
        let code = b"khz=1000000 x";
        let (at, bytes) = (DIRECTORY_BYTES as u64, code.len() as u64);
        let segment =
            Segment { gpa: CODE_GPA, memory_bytes: bytes, image_offset: at, file_bytes: bytes, packed_bytes: bytes };
        let mut page = [0; DIRECTORY_BYTES];
        let monitor = PackedMonitor { image_offset: 0, packed_bytes: 0, unpacked_bytes: 0 };
        write_directory(&mut page, monitor, &PC_OF_4_MIB, &[segment], "").unwrap();
        let image = [&page[..], code].concat();
        let directory = Directory::read(&page, image.len() as u64).unwrap();
        let model = model(&directory.placing, Mapping::Always);
        let mut region = vec![0xa5; model.memory_bytes() as usize];
        let hpa = region.as_mut_ptr() as u64;
        // SAFETY: the vector is this memory alone's, and lives as long.
        let mut guest = unsafe { load(&directory, model, Some(&image), hpa, 1, Facts::default()) }.unwrap();
        let text = |guest: &Guest| {
            let mut found = [0; 13];
            guest.memory.read(CODE_GPA, &mut found).unwrap();
            std::string::String::from_utf8_lossy(&found).into_owned()
        };
        assert_eq!(text(&guest), "khz=1000000 x", "unless it is told another");
        for (khz, expected) in [(3_609_600, "khz=3609600 x"), (900_000, "khz=900000  x"), (10_000_000, "khz=900000  x")]
        {
            guest.tell_tsc_khz(khz);
            assert_eq!(text(&guest), expected);
        }
        let rest = (0..model.memory_bytes()).step_by(8).filter(|&gpa| guest.memory.read_u64(gpa) != Ok(0)).count();
        assert_eq!(rest, 2, "no boot information, no page tables");
    }

    #[test]
    fn a_placed_guest_has_its_mark_at_either_end() {
        const BYTES: u64 = 0x5000;
        let placing = Placing { placed_bytes: BYTES, ..PC_OF_4_MIB };
        let touched = model(&placing, Mapping::OnFirstTouch);
        let model = model(&placing, Mapping::Always);
        assert_eq!((model.memory_bytes(), model.devices), (4 << 20, PC.devices));
        assert_eq!((model.fresh().bytes, touched.fresh().bytes, touched.memory_bytes()), (0, 4 << 20, 4 << 20));
        let mut region = vec![0; 4 << 20];
        // SAFETY: the vector is this memory alone's.
        let mut memory = unsafe { GuestMemory::new(region.as_mut_ptr(), 4 << 20) };
        assert!(!is_placed(&memory, BYTES));
        memory.write(0, &PLACED_MARK).unwrap();
        assert!(!is_placed(&memory, BYTES));
        memory.write(BYTES - 8, &PLACED_MARK).unwrap();
        assert!(is_placed(&memory, BYTES) && !is_placed(&memory, BYTES - 1) && !is_placed(&memory, 4));
    }

    #[test]
    fn the_page_tables_map_four_gib_to_themselves() {
        const PRESENT_AND_WRITABLE: u64 = 0b11;
        const PAGE_SIZE: u64 = 1 << 7;
        let (memory, _region) = loaded(&[7], true, "").unwrap();
        // As the processor walks (SDM 3A 5.5.4).
        let below = |table: u64, index: u64| memory.read_u64((table & !0xfff) + 8 * index).unwrap();
        for linear in [0, CODE_GPA, 0x1f_ffff, 0x20_0000, 0x4000_0000, 0xfee0_0030, 0xffff_ffff_u64] {
            let pdpt = below(PAGE_TABLES_GPA, linear >> 39 & 511);
            let directory = below(pdpt, linear >> 30 & 511);
            let page = below(directory, linear >> 21 & 511);
            for entry in [pdpt, directory, page] {
                assert_eq!(entry & PRESENT_AND_WRITABLE, PRESENT_AND_WRITABLE, "{linear:#x}");
            }
            assert_eq!((pdpt & PAGE_SIZE, directory & PAGE_SIZE, page & PAGE_SIZE), (0, 0, PAGE_SIZE));
            assert_eq!((page & !0x1f_ffff) | (linear & 0x1f_ffff), linear);
        }
        assert_eq!(below(below(PAGE_TABLES_GPA, 0), 4), 0, "nothing is mapped above");
    }

    #[test]
    fn the_guest_reads_the_boot_information_that_was_written() {
        let (memory, region) = loaded(&[7], false, "workloads=cpuid:5 cpus=3").unwrap();
        // SAFETY: any bytes are a `BootInfo`, and these are as many, aligned, as the structure has.
        let info = unsafe { region[BOOT_INFO_GPA as usize..].as_ptr().cast::<BootInfo>().read_unaligned() };
        assert_eq!((info.magic, info.vcpus, info.facts), (BOOT_INFO_MAGIC, 3, 5));
        let fresh = MODEL.fresh();
        assert_eq!((info.ram_bytes, info.fresh_gpa, info.fresh_bytes), (MODEL.ram_bytes(), fresh.gpa, fresh.bytes));
        let mut options = vec![0; info.options_bytes as usize];
        memory.read(BOOT_INFO_GPA + size_of::<[u64; 7]>() as u64, &mut options).unwrap();
        assert_eq!(options, b"workloads=cpuid:5 cpus=3");
    }
}
