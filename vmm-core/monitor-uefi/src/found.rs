//! The facts that are found before the run, while firmware can be asked, and kept for the monitor, which can't ask.
#![expect(unsafe_code, reason = "keeps a pointer to what was found in an atomic")]

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, Ordering};

use monitor_run::Refused;
use tollgate_abi::command_line::Options;
use tollgate_abi::guest_image::{DIRECTORY_BYTES, Directory, LoadError, Placing};
use tollgate_abi::machine::{Kind, LARGE_PAGE_BYTES, UNIKERNEL};
use tollgate_abi::stick::{GUEST, GUEST_CHECKSUM_BYTES, OPTIONS, options_line};
use twox_hash::XxHash64;
use vmm_core::recording::Slot;

use crate::machine;
use crate::stick::{Stick, Trouble};

/// The alignment of the guest's memory, for large pages.
const GUEST_ALIGNMENT: usize = LARGE_PAGE_BYTES as usize;

/// The most memory that is asked of firmware for a trace.
const MOST_TRACE_BYTES: usize = 1 << 30;
const LEAST_TRACE_BYTES: usize = 4096;

/// The facts that were found.
pub(crate) struct Found {
    pub(crate) memory_bytes: u64,
    /// The guest's file.
    pub(crate) image: &'static [u8],
    pub(crate) directory: Result<Directory<'static>, Refused>,
    /// The guest's memory: an aligned address in the pages that [`machine::pages`] gave.
    pub(crate) guest_memory: Result<u64, Refused>,
    /// The rate of the TSC, if there is a guest that wants to be told and a rate.
    pub(crate) tsc_khz: Option<u64>,
    pub(crate) remarks: Vec<String>,
    /// The sentence about the stick that the verdict says besides its own.
    pub(crate) trouble: Option<String>,
    guest_pages: Option<(*mut u8, usize)>,
    /// Room for a trace, if one is asked for: address and bytes.
    spare: Option<(*mut u8, usize)>,
}

static FOUND: AtomicPtr<Found> = AtomicPtr::new(core::ptr::null_mut());

/// The facts that were found. A call before [`keep`] is a defect.
pub(crate) fn found() -> &'static Found {
    // SAFETY: null, or what `keep` leaked.
    unsafe { FOUND.load(Ordering::Acquire).as_ref() }.expect("the machine was looked at before the run")
}

/// Keeps the facts.
pub(crate) fn keep(found: Found) {
    FOUND.store(Box::leak(Box::new(found)), Ordering::Release);
}

impl Found {
    /// Looks at the machine and at the stick.
    pub(crate) fn look(stick: &mut Result<Stick, Trouble>) -> Self {
        let image = read_guest(stick);
        let options = stick.as_mut().ok().map_or(Ok(None), Stick::options);
        let directory = match &image {
            Ok(image) => directory(image, options),
            Err(refused) => Err(refused.clone()),
        };
        let (memory_bytes, largest) = machine::memory();
        let placing = directory.as_ref().ok().map(|directory| directory.placing);
        let bytes = placing.map_or(UNIKERNEL.memory_bytes(), |placing| placing.memory_bytes) as usize + GUEST_ALIGNMENT;
        let guest_pages = machine::pages(bytes).map(|pages| (pages, bytes));
        let guest_memory = guest_pages.map(|(pages, _)| (pages as u64).next_multiple_of(GUEST_ALIGNMENT as u64));
        let guest_memory = guest_memory.ok_or_else(|| no_memory(bytes, largest, placing));
        let spare = directory.as_ref().ok().and_then(|directory| room_for_trace(directory.options));
        let asks_rate = |placing: &Placing| placing.tsc_khz_gpa > 0 || placing.machine.row().has_isa_bus;
        let rate = placing.filter(asks_rate).and_then(|_| machine::tsc_khz());
        let (tsc_khz, remark) = rate.unzip();
        Self {
            memory_bytes,
            image: image.unwrap_or_default(),
            directory,
            guest_memory,
            tsc_khz,
            remarks: remark.into_iter().collect(),
            trouble: None,
            guest_pages,
            spare,
        }
    }

    /// Bytes of the room for a trace, if there is to be one.
    pub(crate) fn trace_bytes(&self) -> Option<usize> {
        self.spare.map(|(_, bytes)| bytes)
    }

    /// Room for a trace.
    pub(crate) fn spare_memory(&self) -> &'static [Slot] {
        match self.spare {
            // SAFETY: firmware gave the pages for this, and gets them back when the run is over; a slot may have any value.
            Some((pages, bytes)) => unsafe { core::slice::from_raw_parts(pages.cast(), bytes / size_of::<Slot>()) },
            None => &[],
        }
    }

    /// Gives the memory of the guest, of its file and of the trace back to firmware.
    ///
    /// # Safety
    /// The guest is over, and the trace written. Nobody reads the file any more.
    pub(crate) unsafe fn free_guest_memory(&self) {
        let file = Some((self.image.as_ptr().cast_mut(), self.image.len())).filter(|(_, bytes)| *bytes > 0);
        for (pages, bytes) in self.guest_pages.into_iter().chain(self.spare).chain(file) {
            // SAFETY: the caller's contract.
            unsafe { machine::free(pages, bytes) };
        }
    }
}

/// Memory for the trace that these options ask for, or for as much of it as firmware has memory for.
fn room_for_trace(options: &str) -> Option<(*mut u8, usize)> {
    let options = Options::parse(options).ok().filter(|options| options.trace_exits > 0)?;
    let exits = options.trace_exits.saturating_mul(options.cpus.into());
    half_by_half(usize::try_from(exits).ok()?.saturating_mul(size_of::<Slot>()), machine::pages)
}

/// Memory of so many bytes, but at least of [`LEAST_TRACE_BYTES`]; or of half as many, until there is that much.
fn half_by_half<T>(bytes: usize, memory: impl Fn(usize) -> Option<T>) -> Option<(T, usize)> {
    let bytes = bytes.clamp(LEAST_TRACE_BYTES, MOST_TRACE_BYTES);
    let sizes = core::iter::successors(Some(bytes), |bytes| Some(bytes / 2));
    let mut sizes = sizes.take_while(|&bytes| bytes >= LEAST_TRACE_BYTES);
    sizes.find_map(|bytes| Some((memory(bytes)?, bytes)))
}

/// Reads the guest's file into memory from firmware.
fn read_guest(stick: &mut Result<Stick, Trouble>) -> Result<&'static [u8], Refused> {
    let unreadable = |trouble: &Trouble| refused(format_args!("the guest can't be read from {GUEST}: {trouble}"));
    let contents =
        stick.as_mut().map_err(|trouble| unreadable(trouble))?.guest().map_err(|trouble| unreadable(&trouble))?;
    let bytes = contents.bytes;
    let room = machine::room(bytes).ok_or_else(|| no_memory(bytes, machine::memory().1, None))?;
    let pages = room.as_mut_ptr();
    contents.read(room).map_err(|trouble| {
        // SAFETY: nothing of it was handed on.
        unsafe { machine::free(pages, bytes) };
        unreadable(&trouble)
    })
}

/// The refusal of a firmware that has not as many bytes in one piece, for the guest or its file; its largest free piece has `largest`.
fn no_memory(bytes: usize, largest: u64, placing: Option<Placing>) -> Refused {
    let (needs, has) = (bytes.div_ceil(1 << 20), largest >> 20);
    let detail = format_args!(
        "the firmware has no {needs} MiB of contiguous memory for the guest; its largest free piece has {has} MiB"
    );
    let remedy = if placing.is_some_and(|placing| placing.machine != Kind::Unikernel) {
        "start from the stick right after power-on, or make it again with a smaller --memory"
    } else {
        "start from the stick right after power-on, or give the machine more memory"
    };
    Refused::new(detail, remedy)
}

fn refused(detail: impl core::fmt::Display) -> Refused {
    Refused::new(detail, "write the stick again with `tollgate image --uefi`")
}

/// The image's directory, with the options that a person has put on the stick. The page is kept by itself, as it is needed longer
/// than the image.
fn directory(image: &[u8], options: Result<Option<Vec<u8>>, Trouble>) -> Result<Directory<'static>, Refused> {
    let page: &[u8; DIRECTORY_BYTES] = image.first_chunk().ok_or(LoadError::NoDirectory).map_err(refused)?;
    let read = Directory::read(Box::leak(Box::new(*page)), image.len() as u64);
    // Another version's may have its checksum elsewhere.
    if !matches!(read, Err(LoadError::NoDirectory | LoadError::Version(_))) && !is_whole(image) {
        return Err(refused(format_args!("{GUEST} is damaged: its bytes and its checksum differ")));
    }
    let mut directory = read.map_err(refused)?;
    let text =
        options.map_err(|trouble| Refused::new(format_args!("{OPTIONS} can't be read: {trouble}"), OPTIONS_REMEDY))?;
    if let Some(text) = text {
        let mut line = String::new();
        options_line(&text, &mut line).map_err(|error| Refused::new(error, OPTIONS_REMEDY))?;
        directory.options = line.leak();
    }
    Ok(directory)
}

/// Whether the bytes of a guest's file are those that were written.
fn is_whole(image: &[u8]) -> bool {
    let parts = image.split_last_chunk::<GUEST_CHECKSUM_BYTES>();
    parts.is_some_and(|(bytes, checksum)| XxHash64::oneshot(0, bytes) == u64::from_le_bytes(*checksum))
}

const OPTIONS_REMEDY: &str = "correct it, or delete it to run with the options that the stick was made with";

#[cfg(test)]
mod tests {
    use super::*;
    use std::{format, vec};
    use tollgate_abi::guest_image::{Segment, write_directory};
    use tollgate_abi::packed::PackedMonitor;

    fn image(options: &str) -> &'static [u8] {
        let (at, bytes) = (DIRECTORY_BYTES as u64, 1);
        let segment =
            Segment { gpa: 0x10_0000, memory_bytes: bytes, image_offset: at, file_bytes: bytes, packed_bytes: bytes };
        let monitor = PackedMonitor { image_offset: 0, packed_bytes: 0, unpacked_bytes: 0 };
        let mut page = [0; DIRECTORY_BYTES];
        write_directory(&mut page, monitor, &Placing::unikernel(segment.gpa), &[segment], options).unwrap();
        with_checksum(&[&page[..], &[0xf4]].concat())
    }

    fn with_checksum(bytes: &[u8]) -> &'static [u8] {
        [bytes, &XxHash64::oneshot(0, bytes).to_le_bytes()].concat().leak()
    }

    fn options_of(image: &'static [u8], on_stick: Result<Option<Vec<u8>>, Trouble>) -> Result<&'static str, String> {
        directory(image, on_stick).map(|directory| directory.options).map_err(|refused| format!("{refused:?}"))
    }

    #[test]
    fn options_on_the_stick_take_the_place_of_those_in_the_image() {
        let image = image("workloads=cpuid:5");
        assert_eq!(options_of(image, Ok(None)), Ok("workloads=cpuid:5"));
        let edited = b"# two vCPUs\r\ncpus=2\r\nworkloads=all\r\n".to_vec();
        assert_eq!(options_of(image, Ok(Some(edited))), Ok("cpus=2 workloads=all"));
        let refused = options_of(image, Ok(Some(vec![0xff, 0xfe, 0]))).unwrap_err();
        assert!(refused.contains("delete it to run with the options"), "{refused}");
    }

    #[test]
    fn a_trace_has_as_much_memory_as_there_is() {
        let there_are = |most: usize| move |bytes: usize| (bytes <= most).then_some("memory");
        assert_eq!(half_by_half(1 << 20, there_are(1 << 30)), Some(("memory", 1 << 20)));
        assert_eq!(half_by_half(3 << 20, there_are(1 << 20)), Some(("memory", 3 << 18)));
        assert_eq!(half_by_half(usize::MAX, there_are(usize::MAX)), Some(("memory", MOST_TRACE_BYTES)));
        assert_eq!(half_by_half(1 << 20, there_are(LEAST_TRACE_BYTES)), Some(("memory", LEAST_TRACE_BYTES)));
        assert_eq!(half_by_half(1 << 20, there_are(LEAST_TRACE_BYTES - 1)), None);
        assert_eq!(half_by_half(100 * size_of::<Slot>(), there_are(1 << 30)), Some(("memory", LEAST_TRACE_BYTES)));
    }

    #[test]
    fn an_image_that_is_cut_short_is_refused_with_a_remedy() {
        let image = image("");
        for cut in [0, 1, DIRECTORY_BYTES - 1, DIRECTORY_BYTES, image.len() - 1] {
            let refused = options_of(&image[..cut], Ok(None)).unwrap_err();
            assert!(refused.contains("tollgate image --uefi"), "{cut}: {refused}");
        }
    }

    #[test]
    fn a_bit_that_changed_is_named_as_damage_and_another_version_as_that() {
        let image = image("");
        assert_eq!(options_of(image, Ok(None)), Ok(""));
        for at in (16..image.len()).step_by(509).chain([DIRECTORY_BYTES, image.len() - 1]) {
            let mut damaged = image.to_vec();
            damaged[at] ^= 4;
            let refused = options_of(damaged.leak(), Ok(None)).unwrap_err();
            assert!(refused.contains("GUEST.BIN is damaged"), "{at}: {refused}");
        }
        let mut newer = image[..DIRECTORY_BYTES + 1].to_vec();
        newer[8] += 1;
        let refused = options_of(with_checksum(&newer), Ok(None)).unwrap_err();
        assert!(refused.contains("has version"), "{refused}");
    }

    #[test]
    fn memory_that_firmware_lacks_is_told_in_mib() {
        let of = |placing| format!("{:?}", no_memory((256 << 20) + 1, 99 << 20, placing));
        let kernel = Placing { machine: Kind::Pc, ..Placing::unikernel(0) };
        assert!(of(None).contains("no 257 MiB of contiguous") && of(None).contains("piece has 99 MiB"), "{}", of(None));
        assert!(of(None).contains("give the machine more memory") && of(Some(kernel)).contains("smaller --memory"));
    }
}
