//! The work of a vCPU other than 0, as the vCPU that gives the work and the one that does it see it. `runtime::threads` starts
//! and ends it.

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize};

/// The work of one vCPU.
pub(crate) struct Thread {
    pub(crate) state: AtomicU32,
    pub(crate) entry: AtomicPtr<()>,
    pub(crate) argument: AtomicUsize,
    pub(crate) profile: AtomicU8,
    /// True if the last thread of this vCPU left control registers changed.
    pub(crate) left_changed: AtomicBool,
    /// The thread's number, from `sys_spawn` until the thread is joined; else 0.
    pub(crate) id: AtomicU32,
    /// 1 from `sys_block_current_task` on until the thread is woken.
    pub(crate) is_blocked: AtomicU32,
}

impl Thread {
    /// No thread.
    pub(crate) const fn none() -> Self {
        Self {
            state: AtomicU32::new(IDLE),
            entry: AtomicPtr::new(ptr::null_mut()),
            argument: AtomicUsize::new(0),
            profile: AtomicU8::new(0),
            left_changed: AtomicBool::new(false),
            id: AtomicU32::new(0),
            is_blocked: AtomicU32::new(0),
        }
    }
}

/// States of a thread: none, being made, to be run, finished.
pub(crate) const IDLE: u32 = 0;
pub(crate) const CLAIMED: u32 = 1;
pub(crate) const READY: u32 = 2;
pub(crate) const DONE: u32 = 3;
