//! The agreements of a comparison with another hypervisor: the lines by which its client tells the host tool about the guest, and the
//! mark that user space leaves in the emulator's log.

/// The line in front of the guest's first instruction.
pub const BEGINS: &str = "peer: the guest begins";
/// The beginning of each of the last lines of the guest's text, behind its end.
pub const SAID: &str = "peer: said: ";
/// The beginning of the line behind those, which says how the guest ended.
pub const ENDED: &str = "peer: ended: ";
/// The end of a guest that switched its machine off.
pub const POWERED_OFF: &str = "the guest powered off";

/// The port to which the first program of user space writes. It has no device in any machine; the access is in the emulator's log.
pub const MARK_PORT: u16 = 0x608;
