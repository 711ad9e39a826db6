//! Mutable statics of a kernel that runs on one vCPU.
#![expect(unsafe_code, reason = "shares a cell between functions that never run at once")]

use core::cell::{RefCell, RefMut};

/// A `RefCell` in a static: a second borrow panics, like everywhere.
pub(crate) struct OneCpu<T>(RefCell<T>);

// SAFETY: the guest has one vCPU, and what interrupts it (the assembly in `traps`) resumes it without running Rust code,
// or never resumes it. So two pieces of Rust code never run at once.
unsafe impl<T> Sync for OneCpu<T> {}

impl<T> OneCpu<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    pub(crate) fn borrow(&self) -> RefMut<'_, T> {
        self.0.borrow_mut()
    }

    /// For code that must not panic: the path of a panic or an unexpected exception.
    pub(crate) fn try_borrow(&self) -> Option<RefMut<'_, T>> {
        self.0.try_borrow_mut().ok()
    }

    /// Where the value is, for the processor.
    pub(crate) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}
