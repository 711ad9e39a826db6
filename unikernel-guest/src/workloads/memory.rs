//! First touches: each write to a fresh page is one EPT violation.
#![expect(unsafe_code, reason = "touches memory that Rust does not know")]

use core::arch::asm;

use tollgate_abi::exit_reason::ExitReason;
use tollgate_abi::machine::PAGE_BYTES;

use super::expect::ensure;
use super::{Outcome, Run};
use crate::books::book::book_times;
use crate::runtime::fresh;

pub(super) fn memory(run: &Run) -> Outcome {
    let Some(first) = fresh::take(run.iterations) else {
        return Err(alloc::format!("there are no {} fresh pages left", run.iterations));
    };
    touch(first, run.iterations);
    for page in 0..run.iterations {
        let address = first + page * PAGE_BYTES;
        // SAFETY: the page was handed out to nobody else, is mapped to itself, and has just been written.
        let found = unsafe { (address as *const u64).read_volatile() };
        ensure!(found == address, "{address:#x} holds {found:#x} after its own address was written");
    }
    Ok(())
}

/// Writes to each page its own address.
fn touch(first: u64, pages: u64) {
    book_times(ExitReason::EPT_VIOLATION, pages);
    // SAFETY: the pages were handed out to nobody else, and the identity map covers them.
    unsafe {
        asm!(
            "2:",
            "mov [{address}], {address}",
            "add {address}, {page_bytes}",
            "dec {pages}",
            "jnz 2b",
            address = inout(reg) first => _,
            pages = inout(reg) pages => _,
            page_bytes = const PAGE_BYTES,
            options(nostack),
        );
    }
}

/// RET, by which a fetched page returns.
pub(super) const RET: u8 = 0xc3;

pub(super) fn kinds(run: &Run) -> Outcome {
    let Some(first) = fresh::take(3 * run.iterations) else {
        return Err(alloc::format!("there are no {} fresh pages left", 3 * run.iterations));
    };
    let mut sum = 1u64;
    for iteration in 0..run.iterations {
        let fetched = first + 3 * iteration * PAGE_BYTES;
        let (written, read) = (fetched + PAGE_BYTES, fetched + 2 * PAGE_BYTES);
        book_times(ExitReason::EPT_VIOLATION, 3);
        // SAFETY: the pages were handed out to nobody else; each is zero, which is `add [rax], al`, two bytes long. The last two
        // bytes of the first page run into the RET of the next. RAX points at a byte of this function.
        unsafe {
            (written as *mut u8).write_volatile(RET);
            asm!("call {code}", code = in(reg) fetched + PAGE_BYTES - 2, in("rax") &raw mut sum);
            let found = (read as *const u64).read_volatile();
            ensure!(found == 0, "fresh memory at {read:#x} holds {found:#x}");
        }
    }
    Ok(())
}
