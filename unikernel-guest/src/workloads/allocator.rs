//! Rust's heap, from `hermit-abi`'s.
#![expect(unsafe_code, reason = "implements GlobalAlloc by the hermit-abi calls")]

use core::alloc::{GlobalAlloc, Layout};

struct HermitAllocator;

#[cfg_attr(bare, global_allocator)]
static ALLOCATOR: HermitAllocator = HermitAllocator;

// SAFETY: `hermit_abi::alloc` and its kin have the contract of `GlobalAlloc`, with a layout in two numbers.
unsafe impl GlobalAlloc for HermitAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: any size and alignment may be asked for.
        unsafe { hermit_abi::alloc(layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: any size and alignment may be asked for.
        unsafe { hermit_abi::alloc_zeroed(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller says that `alloc` gave the block for this layout.
        unsafe { hermit_abi::dealloc(block, layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        // SAFETY: the caller says that `alloc` gave the block for this layout.
        unsafe { hermit_abi::realloc(block, layout.size(), layout.align(), new_bytes) }
    }
}
