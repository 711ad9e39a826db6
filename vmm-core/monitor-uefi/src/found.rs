//! The facts that are found before the run, while firmware can be asked, and kept for the monitor, which can't ask.
#![expect(unsafe_code, reason = "keeps a pointer to what was found in an atomic")]

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, Ordering};

use monitor_run::Refused;
use tollgate_abi::command_line::Options;
use tollgate_abi::guest_image::{DIRECTORY_BYTES, Directory, LoadError};
use tollgate_abi::machine::{LARGE_PAGE_BYTES, UNIKERNEL};
use tollgate_abi::stick::{GUEST, OPTIONS, options_line};
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
    pub(crate) image: &'static [u8],
    pub(crate) directory: Result<Directory<'static>, Refused>,
    /// The guest's memory: an aligned address in the pages that [`machine::pages`] gave.
    pub(crate) guest_memory: Result<u64, Refused>,
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
        let image = stick
            .as_mut()
            .map_err(|trouble| format!("{trouble}"))
            .and_then(|stick| stick.guest().map(|image| &*image.leak()).map_err(|trouble| format!("{trouble}")));
        let options = stick.as_mut().ok().map_or(Ok(None), Stick::options);
        let directory = match &image {
            Ok(image) => directory(image, options),
            Err(trouble) => Err(refused(format_args!("the guest can't be read from {GUEST}: {trouble}"))),
        };
        let (memory_bytes, largest) = machine::memory();
        let placing = directory.as_ref().ok().map(|directory| directory.placing);
        let bytes = placing.map_or(UNIKERNEL.memory_bytes(), |placing| placing.memory_bytes) as usize + GUEST_ALIGNMENT;
        let guest_pages = machine::pages(bytes).map(|pages| (pages, bytes));
        let guest_memory = guest_pages.map(|(pages, _)| (pages as u64).next_multiple_of(GUEST_ALIGNMENT as u64));
        let guest_memory = guest_memory.ok_or_else(|| {
            let (needs, has) = (bytes >> 20, largest >> 20);
            let detail = format_args!(
                "the firmware has no {needs} MiB of contiguous memory for the guest; its largest free piece has {has} MiB"
            );
            Refused::new(detail, "start from the stick right after power-on, or give the machine more memory")
        });
        let spare = directory.as_ref().ok().and_then(|directory| room_for_trace(directory.options));
        Self {
            memory_bytes,
            image: image.unwrap_or_default(),
            directory,
            guest_memory,
            remarks: Vec::new(),
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

    /// Gives the guest's memory, and the trace's, back to firmware.
    ///
    /// # Safety
    /// The guest is over, and the trace written.
    pub(crate) unsafe fn free_guest_memory(&self) {
        for (pages, bytes) in self.guest_pages.into_iter().chain(self.spare) {
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

fn refused(detail: impl core::fmt::Display) -> Refused {
    Refused::new(detail, "write the stick again with `tollgate image --uefi`")
}

/// The image's directory, with the options that a person has put on the stick.
fn directory(image: &'static [u8], options: Result<Option<Vec<u8>>, Trouble>) -> Result<Directory<'static>, Refused> {
    let page: Option<&[u8; DIRECTORY_BYTES]> = image.first_chunk();
    let mut directory = page
        .ok_or(LoadError::NoDirectory)
        .and_then(|page| Directory::read(page, image.len() as u64))
        .map_err(refused)?;
    let text =
        options.map_err(|trouble| Refused::new(format_args!("{OPTIONS} can't be read: {trouble}"), OPTIONS_REMEDY))?;
    if let Some(text) = text {
        let mut line = String::new();
        options_line(&text, &mut line).map_err(|error| Refused::new(error, OPTIONS_REMEDY))?;
        directory.options = line.leak();
    }
    Ok(directory)
}

const OPTIONS_REMEDY: &str = "correct it, or delete it to run with the options that the stick was made with";

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use tollgate_abi::guest_image::{Placing, Segment, write_directory};
    use tollgate_abi::monitor_image::PackedMonitor;

    fn image(options: &str) -> &'static [u8] {
        let (at, bytes) = (DIRECTORY_BYTES as u64, 1);
        let segment =
            Segment { gpa: 0x10_0000, memory_bytes: bytes, image_offset: at, file_bytes: bytes, packed_bytes: bytes };
        let monitor = PackedMonitor { image_offset: 0, packed_bytes: 0, unpacked_bytes: 0 };
        let mut page = [0; DIRECTORY_BYTES];
        write_directory(&mut page, monitor, &Placing::unikernel(segment.gpa), &[segment], options).unwrap();
        [&page[..], &[0xf4]].concat().leak()
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
        for cut in [0, 1, DIRECTORY_BYTES - 1, DIRECTORY_BYTES] {
            let refused = options_of(&image[..cut], Ok(None)).unwrap_err();
            assert!(refused.contains("tollgate image --uefi"), "{cut}: {refused}");
        }
    }
}
