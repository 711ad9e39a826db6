//! The guest's own page tables, walked for instructions that the monitor emulates (SDM 3A 4.5, 4-level paging).
//!
//! Left out: 5-level paging, protection keys and SMAP, none of which the guest's CPUID shows or supervisor data
//! accesses of 64-bit guests need.

use x86_64::structures::paging::PageTableFlags as Flags;

use crate::exit::{Backend, Event, State, vector};
use crate::memory::GuestMemory;

/// What an access wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A data read.
    Read,
    /// A data write.
    Write,
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const CR0_WP: u64 = 1 << 16;

/// #PF error-code bits (SDM 3A 4.7).
const PRESENT: u32 = 1;
const WRITE: u32 = 2;
const USER: u32 = 4;

/// Whether bits 63:47 are equal.
pub const fn is_canonical(linear: u64) -> bool {
    (linear as i64) << 16 >> 16 == linear as i64
}

/// A walk that did not arrive: the error code of the #PF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WalkFault(u32);

/// Translates a linear address, setting accessed and dirty flags as the processor would.
fn walk(
    memory: &mut GuestMemory,
    cr3: u64,
    write_protect: bool,
    user: bool,
    linear: u64,
    access: Access,
) -> Result<u64, WalkFault> {
    let kind = if access == Access::Write { WRITE } else { 0 } | if user { USER } else { 0 };
    let (mut table, mut writable, mut user_page) = (cr3 & ADDRESS, true, true);
    for level in (1..=4u32).rev() {
        let entry_gpa = table + (linear >> (9 * level) & 0xff8);
        let bits = memory.read_u64(entry_gpa).map_err(|_| WalkFault(kind))?;
        let entry = Flags::from_bits_retain(bits);
        if !entry.contains(Flags::PRESENT) {
            return Err(WalkFault(kind));
        }
        writable &= entry.contains(Flags::WRITABLE);
        user_page &= entry.contains(Flags::USER_ACCESSIBLE);
        let is_page = level == 1 || level < 4 && entry.contains(Flags::HUGE_PAGE);
        if is_page {
            let refused = user && !user_page || access == Access::Write && !writable && (user || write_protect);
            if refused {
                return Err(WalkFault(PRESENT | kind));
            }
        }
        let mark = if is_page && access == Access::Write { Flags::ACCESSED | Flags::DIRTY } else { Flags::ACCESSED };
        if !entry.contains(mark) {
            memory.write_u64(entry_gpa, bits | mark.bits()).map_err(|_| WalkFault(kind))?;
        }
        if is_page {
            let offset_mask = (1u64 << (3 + 9 * level)) - 1;
            return Ok(bits & ADDRESS & !offset_mask | linear & offset_mask);
        }
        table = bits & ADDRESS;
    }
    unreachable!("level 1 maps a page")
}

/// Where a linear range lies in guest-physical memory, as pieces that do not cross a page.
///
/// # Errors
/// The event that the instruction raises: #GP for a non-canonical address, #PF (with CR2 set) otherwise.
fn piece<B: Backend>(
    backend: &mut B,
    memory: &mut GuestMemory,
    linear: u64,
    bytes: usize,
    access: Access,
) -> Result<(u64, usize), Event> {
    if !is_canonical(linear) {
        return Err(Event::GENERAL_PROTECTION);
    }
    let user = backend.get(State::SsRights) >> 5 & 3 == 3;
    let write_protect = backend.get(State::Cr0) & CR0_WP != 0;
    match walk(memory, backend.get(State::Cr3), write_protect, user, linear, access) {
        Ok(gpa) => Ok((gpa, bytes.min(4096 - (linear as usize & 4095)))),
        Err(WalkFault(error_code)) => {
            backend.set(State::Cr2, linear);
            Err(Event::fault(vector::PF, error_code))
        }
    }
}

/// Reads guest-virtual memory.
///
/// # Errors
/// The event that the access raises. Memory that the guest does not have reads as an unmapped page.
pub fn read<B: Backend>(
    backend: &mut B,
    memory: &mut GuestMemory,
    mut linear: u64,
    mut into: &mut [u8],
) -> Result<(), Event> {
    while !into.is_empty() {
        let (gpa, bytes) = piece(backend, memory, linear, into.len(), Access::Read)?;
        let (now, later) = into.split_at_mut(bytes);
        memory.read(gpa, now).map_err(|_| Event::fault(vector::PF, 0))?;
        (into, linear) = (later, linear.wrapping_add(bytes as u64));
    }
    Ok(())
}

/// Writes guest-virtual memory. Nothing is written unless all of it can be.
///
/// # Errors
/// As [`read`].
pub fn write<B: Backend>(backend: &mut B, memory: &mut GuestMemory, linear: u64, from: &[u8]) -> Result<(), Event> {
    for commit in [false, true] {
        let (mut at, mut rest) = (linear, from);
        while !rest.is_empty() {
            let (gpa, bytes) = piece(backend, memory, at, rest.len(), Access::Write)?;
            let (now, later) = rest.split_at(bytes);
            let done = if commit { memory.write(gpa, now) } else { memory.read(gpa, &mut [0; 1]) };
            done.map_err(|_| Event::fault(vector::PF, WRITE))?;
            (rest, at) = (later, at.wrapping_add(bytes as u64));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::memory;

    const TABLES: u64 = 0x1000;

    /// PML4 at 0x1000, PDPT 0x2000, PD 0x3000, PT 0x4000; linear 2 MiB is a large page at 0, linear 0x5000 a small one.
    fn tables() -> GuestMemory {
        let mut memory = memory(0x8000);
        for (at, entry) in [
            (0x1000, 0x2007),
            (0x2000, 0x3007),
            (0x3000, 0x4007),
            (0x3008, 0x0000_0083),
            (0x4028, 0x6005),
            (0x4030, 0x7003),
        ] {
            memory.write_u64(at, entry).unwrap();
        }
        memory
    }

    #[test]
    fn pages_of_both_sizes_are_found_and_marked() {
        let mut memory = tables();
        assert_eq!(walk(&mut memory, TABLES, true, false, 0x5123, Access::Read), Ok(0x6123));
        assert_eq!(memory.read_u64(0x4028), Ok(0x6025));
        assert_eq!(walk(&mut memory, TABLES, true, false, 0x20_0456, Access::Write), Ok(0x456));
        assert_eq!(memory.read_u64(0x3008), Ok(0x0000_00e3));
    }

    #[test]
    fn faults_have_their_error_codes() {
        let mut memory = tables();
        let mut check = |protect, user, linear, access, error| {
            assert_eq!(walk(&mut memory, TABLES, protect, user, linear, access), Err(WalkFault(error)));
        };
        check(true, false, 0x7000, Access::Read, 0);
        check(true, false, 0x7000, Access::Write, WRITE);
        check(true, false, 0x5000, Access::Write, PRESENT | WRITE);
        check(true, true, 0x6000, Access::Read, PRESENT | USER);
        check(false, true, 0x5000, Access::Write, PRESENT | WRITE | USER);
        check(true, false, 1 << 39, Access::Read, 0);
        assert_eq!(walk(&mut memory, TABLES, false, false, 0x5000, Access::Write), Ok(0x6000));
        assert_eq!(walk(&mut memory, 0xffff_f000, true, false, 0, Access::Read), Err(WalkFault(0)));
    }

    #[test]
    fn canonical_addresses() {
        assert!(is_canonical(0) && is_canonical(0x7fff_ffff_ffff) && is_canonical(0xffff_8000_0000_0000));
        assert!(!is_canonical(0x8000_0000_0000) && !is_canonical(1 << 63));
    }
}
