//! The number of the last error of a `hermit-abi` call, which each vCPU has for itself.
#![expect(unsafe_code, reason = "defines hermit-abi symbols by name")]

use core::sync::atomic::Ordering::Relaxed;

use crate::books::cpu;

/// Sets `errno` and returns its negative, as the calls of hermit-abi do.
pub(crate) fn refused(errno: i32) -> i32 {
    cpu::this().errno.store(errno, Relaxed);
    -errno
}

#[unsafe(no_mangle)]
extern "C" fn sys_get_errno() -> i32 {
    cpu::this().errno.load(Relaxed)
}

#[unsafe(no_mangle)]
extern "C" fn sys_errno() -> i32 {
    cpu::this().errno.load(Relaxed)
}
