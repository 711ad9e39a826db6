//! Tollgate's bare-metal image.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "boots the machine")]
use bare_rt as _;

#[unsafe(no_mangle)]
extern "C" fn reset_vector() -> ! { loop {} }

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! { loop {} }
