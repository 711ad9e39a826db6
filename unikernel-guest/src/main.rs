//! Tollgate's built-in guest.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "boots")]
use bare_rt as _;

#[unsafe(no_mangle)]
extern "C" fn _start() -> ! { loop {} }

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! { loop {} }
