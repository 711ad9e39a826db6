//! The heap: all memory above the image, and the `hermit-abi` symbols that hand it out.
#![expect(unsafe_code, reason = "defines hermit-abi symbols by name and hands out raw memory")]

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use linked_list_allocator::Heap;
use tollgate_abi::machine::PAGE_BYTES;

use super::errno::refused;
use super::lock::Lock;

static HEAP: Lock<Heap> = Lock::new(Heap::empty());

unsafe extern "C" {
    /// The end of the image, from the linker script.
    #[link_name = "__guest_end"]
    static GUEST_END: [u8; 0];
}

/// Takes the memory between the image and `ram_bytes`.
pub(crate) fn set_up(ram_bytes: u64) {
    let bottom = (&raw const GUEST_END).addr().next_multiple_of(PAGE_BYTES as usize);
    let bytes = (ram_bytes as usize).checked_sub(bottom);
    let bytes = bytes.expect("the image does not fit the memory");
    // SAFETY: the monitor gave `ram_bytes` of memory, mapped to itself; above the image nothing else is in it.
    HEAP.with(|heap| unsafe { heap.init(ptr::with_exposed_provenance_mut(bottom), bytes) });
}

fn layout(size: usize, align: usize) -> Option<Layout> {
    Layout::from_size_align(size.max(1), align).ok()
}

#[unsafe(no_mangle)]
extern "C" fn sys_alloc(size: usize, align: usize) -> *mut u8 {
    let block = layout(size, align).and_then(|layout| HEAP.with(|heap| heap.allocate_first_fit(layout)).ok());
    block.map_or_else(ptr::null_mut, NonNull::as_ptr)
}

/// # Safety
/// `block` came from these functions with the same `size` and `align`, and is not used any more.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_dealloc(block: *mut u8, size: usize, align: usize) {
    if let (Some(block), Some(layout)) = (NonNull::new(block), layout(size, align)) {
        // SAFETY: the caller says that `sys_alloc` gave this block for this layout.
        HEAP.with(|heap| unsafe { heap.deallocate(block, layout) });
    }
}

#[unsafe(no_mangle)]
extern "C" fn sys_alloc_zeroed(size: usize, align: usize) -> *mut u8 {
    let block = sys_alloc(size, align);
    if !block.is_null() {
        // SAFETY: the block was just allocated with that many bytes.
        unsafe { block.write_bytes(0, size) };
    }
    block
}

/// # Safety
/// As for [`sys_dealloc`]; where the result is null, the old block stays as it was.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_realloc(block: *mut u8, size: usize, align: usize, new_size: usize) -> *mut u8 {
    let new_block = sys_alloc(new_size, align);
    if !new_block.is_null() && !block.is_null() {
        // SAFETY: both blocks are allocated, so they are disjoint, and each has at least the smaller size.
        unsafe { new_block.copy_from_nonoverlapping(block, size.min(new_size)) };
        // SAFETY: the caller gave the block and its layout, and gets the new block in its place.
        unsafe { sys_dealloc(block, size, align) };
    }
    new_block
}

#[unsafe(no_mangle)]
extern "C" fn sys_malloc(size: usize, align: usize) -> *mut u8 {
    sys_alloc(size, align)
}

/// # Safety
/// As for [`sys_dealloc`].
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_free(block: *mut u8, size: usize, align: usize) {
    // SAFETY: the same contract.
    unsafe { sys_dealloc(block, size, align) };
}

#[unsafe(no_mangle)]
extern "C" fn sys_getpagesize() -> i32 {
    PAGE_BYTES as i32
}

/// Memory comes from the heap alone: there are no mappings to be made. `result` is left as it is.
#[unsafe(no_mangle)]
extern "C" fn sys_mmap(_size: usize, _protection: u32, _result: *mut *mut u8) -> i32 {
    refused(hermit_abi::ENOMEM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    const BYTES: usize = 64 << 10;

    /// The one test of the heap, which is a static.
    #[test]
    fn blocks_are_apart_aligned_kept_and_given_back() {
        let memory = vec![0xa5u8; BYTES].leak();
        // SAFETY: leaked, so that it is the heap's alone.
        HEAP.with(|heap| unsafe { heap.init(memory.as_mut_ptr(), BYTES) });
        let free = || HEAP.with(|heap| heap.free());
        let before = free();
        for align in [1, 8, 64, 4096] {
            let block = sys_alloc(100, align);
            assert!(!block.is_null() && block.addr().is_multiple_of(align), "{align}");
            // SAFETY: from `sys_alloc`, with the same layout.
            unsafe { sys_dealloc(block, 100, align) };
        }
        assert!(!sys_malloc(0, 1).is_null(), "a block of no bytes is one");
        assert!(sys_alloc(BYTES, 1).is_null() && sys_alloc(1, 3).is_null() && sys_alloc(usize::MAX, 1).is_null());
        let zeroed = sys_alloc_zeroed(256, 16);
        // SAFETY: it has that many bytes, which are initialized.
        let bytes = unsafe { core::slice::from_raw_parts_mut(zeroed, 256) };
        assert!(bytes.iter().all(|&byte| byte == 0), "the memory was not");
        bytes.copy_from_slice(&core::array::from_fn::<u8, 256, _>(|at| at as u8));
        // SAFETY: from `sys_alloc_zeroed`, with the same layout; the first of these fails, and leaves it as it is.
        let (none, moved) = unsafe { (sys_realloc(zeroed, 256, 16, BYTES), sys_realloc(zeroed, 256, 16, 1000)) };
        assert!(none.is_null() && !moved.is_null());
        // SAFETY: it has more bytes than that, and these were copied.
        let bytes = unsafe { core::slice::from_raw_parts(moved, 256) };
        assert!(bytes.iter().enumerate().all(|(at, &byte)| byte == at as u8));
        // SAFETY: from `sys_realloc`, with the new size; it is null where there was no block.
        unsafe {
            let smaller = sys_realloc(moved, 1000, 16, 10);
            assert_eq!(core::slice::from_raw_parts(smaller, 10), &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
            sys_free(smaller, 10, 16);
            let fresh = sys_realloc(ptr::null_mut(), 0, 8, 24);
            assert!(!fresh.is_null());
            sys_free(fresh, 24, 8);
            sys_free(ptr::null_mut(), 24, 8);
        }
        let block_of_none = before - free();
        assert!(block_of_none > 0 && block_of_none <= 32, "{block_of_none} bytes are lost besides");
    }
}
