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
