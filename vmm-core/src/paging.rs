//! The guest's own page tables, walked for instructions that the monitor emulates: 4-level paging (SDM 3A 4.5), PAE paging (4.4)
//! and 32-bit paging (4.3).
//!
//! Left out: 5-level paging, protection keys and SMAP, which the guest's CPUID does not show. Page-directory-pointer entries of
//! PAE paging are read from memory, where a processor of Intel's may have older ones in its registers.

use tollgate_abi::workload::Outcome;
use tollgate_abi::x86::control::{ADDRESS, CR0_PG, CR0_WP, CR4_PAE, CR4_PSE, EFER_LMA, EFER_NXE};
use x86_64::structures::paging::PageTableFlags as Flags;

use crate::exit::{Action, Event, GuestState, State, vector};
use crate::machine::Machine;
use crate::memory::GuestMemory;

/// The purpose of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// #PF error-code bits (SDM 3A 4.7).
const PRESENT: u32 = 1;
const WRITE: u32 = 2;
const USER: u32 = 4;
const RESERVED: u32 = 8;

/// Whether bits 63:47 are equal.
pub const fn is_canonical(linear: u64) -> bool {
    (linear as i64) << 16 >> 16 == linear as i64
}

/// The reason that an emulated instruction can't access its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The access raises this event.
    Raise(Event),
    /// The memory, or a page table on the way, is outside the guest's memory: without emulation, an EPT violation.
    OutsideMemory,
}

impl From<Fault> for Action {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Raise(event) => Action::Inject(event),
            Fault::OutsideMemory => Action::Stop(Outcome::OutsideMemory),
        }
    }
}

impl From<Event> for Fault {
    fn from(event: Event) -> Self {
        Fault::Raise(event)
    }
}

/// The kinds of paging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paging {
    /// None: a linear address is a physical one.
    Off,
    /// Two levels of doublewords, with pages of 4 MiB or without.
    Bits32 { large_pages: bool },
    /// Three levels of quadwords, of which the first has four.
    Pae,
    /// Four levels.
    FourLevel,
}

impl Paging {
    /// The kind outside of IA-32e mode, and bits of an entry that are reserved besides the address': PAE paging ignores none (SDM 3A
    /// tables 4-9 to 4-11).
    #[cold]
    #[inline(never)]
    fn of<B: GuestState>(backend: &B, cr0: u64) -> (Self, u64) {
        if cr0 & CR0_PG == 0 {
            return (Paging::Off, 0);
        }
        match backend.get(State::Cr4) {
            cr4 if cr4 & CR4_PAE != 0 => (Paging::Pae, !ADDRESS & !0xfff & !Flags::NO_EXECUTE.bits()),
            cr4 => (Paging::Bits32 { large_pages: cr4 & CR4_PSE != 0 }, 0),
        }
    }
}

/// The control state that a walk depends on.
#[derive(Clone, Copy, Debug)]
struct Mode {
    cr3: u64,
    write_protect: bool,
    user: bool,
    /// Bits that must be 0 in a present entry of any level.
    reserved: u64,
    paging: Paging,
}

impl Mode {
    fn of<B: GuestState>(backend: &B, physical_bits: u32) -> Self {
        let (cr0, efer) = (backend.get(State::Cr0), backend.get(State::Efer));
        let is_four_level = cr0 & CR0_PG != 0 && efer & EFER_LMA != 0;
        let (paging, unused) = if is_four_level { (Paging::FourLevel, 0) } else { Paging::of(backend, cr0) };
        Self {
            cr3: backend.get(State::Cr3),
            write_protect: cr0 & CR0_WP != 0,
            user: backend.privilege_level() == 3,
            reserved: reserved(physical_bits, efer & EFER_NXE != 0) | unused,
            paging,
        }
    }

    /// Bits that must be 0 in a present entry of `level` (SDM 3A tables 4-15 to 4-20).
    fn reserved(self, level: u32, is_page: bool) -> u64 {
        let below_page = if is_page && level > 1 { ((1 << (3 + 9 * level)) - 1) & !0x1fff } else { 0 };
        let size = if level == 4 { Flags::HUGE_PAGE.bits() } else { 0 };
        self.reserved | below_page | size
    }
}

/// Address bits beyond the width, and execute-disable if that is off.
const fn reserved(physical_bits: u32, execute_disable: bool) -> u64 {
    ADDRESS & !((1 << physical_bits) - 1) | if execute_disable { 0 } else { Flags::NO_EXECUTE.bits() }
}

/// A walk that did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WalkFault {
    /// #PF with this error code.
    Page(u32),
    OutsideMemory,
}

/// Translates a linear address, setting accessed and dirty flags as the processor would.
fn walk(memory: &mut GuestMemory, mode: Mode, linear: u64, access: Access) -> Result<u64, WalkFault> {
    if mode.paging == Paging::FourLevel {
        return walk_by(memory, mode, linear, access, |_| ());
    }
    walk_otherwise(memory, mode, linear, access)
}

/// [`walk`] outside of IA-32e mode.
#[cold]
#[inline(never)]
fn walk_otherwise(memory: &mut GuestMemory, mode: Mode, linear: u64, access: Access) -> Result<u64, WalkFault> {
    match mode.paging {
        // None: the caller has walked 4-level paging.
        Paging::Off | Paging::FourLevel => Ok(linear),
        Paging::Pae => walk_pae(memory, mode, linear, access),
        Paging::Bits32 { large_pages } => walk_32_bit(memory, mode, large_pages, linear, access),
    }
}

/// Bits of a page-directory-pointer entry of PAE paging that are reserved, besides those of the address (SDM 3A table 4-8).
const POINTER_RESERVED: u64 = !ADDRESS & !(Flags::PRESENT.bits() | 0b11 << 3 | 0b111 << 9);
/// The bits of CR3 that are the address of the page-directory-pointer table (SDM 3A table 4-7).
const POINTERS: u64 = 0xffff_ffe0;

/// The four page-directory-pointer entries of PAE paging, as a MOV to CR3 loads them; `None` if it raises #GP, for a bit that is
/// reserved. What lies outside of the guest's memory is not present.
pub fn page_directory_pointers(cr3: u64, memory: &GuestMemory, physical_bits: u32) -> Option<[u64; 4]> {
    let mut entries = [0; 4];
    for (entry, gpa) in entries.iter_mut().zip((cr3 & POINTERS..).step_by(8)) {
        *entry = memory.read_u64(gpa).unwrap_or(0);
        let is_present = *entry & Flags::PRESENT.bits() != 0;
        if is_present && *entry & (POINTER_RESERVED | reserved(physical_bits, false)) != 0 {
            return None;
        }
    }
    Some(entries)
}

/// [`walk`] with PAE paging. The first level has neither rights nor an accessed flag.
#[cold]
#[inline(never)]
fn walk_pae(memory: &mut GuestMemory, mode: Mode, linear: u64, access: Access) -> Result<u64, WalkFault> {
    let pointer_gpa = mode.cr3 & POINTERS | linear >> 27 & 0x18;
    let pointer = memory.read_u64(pointer_gpa).map_err(|_| WalkFault::OutsideMemory)?;
    let mut way = Way { memory, mode, linear, access, table: pointer, rights: Flags::all() };
    if pointer & Flags::PRESENT.bits() == 0 {
        return Err(WalkFault::Page(way.kind()));
    }
    if let Some(gpa) = way.level(2)? {
        return Ok(gpa);
    }
    Ok(way.level(1)?.unwrap_or_else(|| unreachable!("level 1 maps a page")))
}

/// [`walk`] with 32-bit paging. Its flags have the places of 4-level paging's.
#[cold]
#[inline(never)]
fn walk_32_bit(
    memory: &mut GuestMemory,
    mode: Mode,
    large_pages: bool,
    linear: u64,
    access: Access,
) -> Result<u64, WalkFault> {
    let entry_of = |memory: &GuestMemory, table: u64, index: u64| {
        let gpa = table & 0xffff_f000 | (4 * (index & 0x3ff));
        memory.read_u32(gpa).map(|entry| (gpa, entry)).ok_or(WalkFault::OutsideMemory)
    };
    let (directory_gpa, directory) = entry_of(memory, mode.cr3, linear >> 22)?;
    let mut way = Way { memory, mode, linear, access, table: 0, rights: Flags::from_bits_retain(directory.into()) };
    if !way.rights.contains(Flags::PRESENT) {
        return Err(WalkFault::Page(way.kind()));
    }
    let is_large = large_pages && way.rights.contains(Flags::HUGE_PAGE);
    let (gpa, entry) =
        if is_large { (directory_gpa, directory) } else { entry_of(way.memory, directory.into(), linear >> 12)? };
    way.rights &= Flags::from_bits_retain(entry.into());
    if !way.rights.contains(Flags::PRESENT) {
        return Err(WalkFault::Page(way.kind()));
    }
    // Bit 21 of a large page is reserved; the eight above bit 12 are bits 39:32 of its address (SDM 3A table 4-4).
    if is_large && entry & 1 << 21 != 0 {
        return Err(WalkFault::Page(RESERVED | PRESENT | way.kind()));
    }
    way.check_rights()?;
    if !is_large {
        way.mark_32_bit(directory_gpa, directory, Flags::ACCESSED)?;
    }
    way.mark_32_bit(gpa, entry, way.page_flags())?;
    let entry = u64::from(entry);
    Ok(if is_large {
        entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32 | linear & 0x3f_ffff
    } else {
        entry & 0xffff_f000 | linear & 0xfff
    })
}

/// Walks the tables of 4-level paging as [`walk`] does, and tells the address of each entry on the way.
#[inline(always)]
fn walk_by(
    memory: &mut GuestMemory,
    mode: Mode,
    linear: u64,
    access: Access,
    mut by: impl FnMut(u64),
) -> Result<u64, WalkFault> {
    let mut way = Way { memory, mode, linear, access, table: mode.cr3, rights: Flags::all() };
    // There is no loop, so that a level costs nothing for checks that only other levels have.
    by(way.entry_gpa(4));
    if let Some(gpa) = way.level(4)? {
        return Ok(gpa);
    }
    by(way.entry_gpa(3));
    if let Some(gpa) = way.level(3)? {
        return Ok(gpa);
    }
    by(way.entry_gpa(2));
    if let Some(gpa) = way.level(2)? {
        return Ok(gpa);
    }
    by(way.entry_gpa(1));
    Ok(way.level(1)?.unwrap_or_else(|| unreachable!("level 1 maps a page")))
}

/// A walk that is under way.
struct Way<'a> {
    memory: &'a mut GuestMemory,
    mode: Mode,
    linear: u64,
    access: Access,
    /// CR3, or the entry that refers to the next table; only the address in it counts.
    table: u64,
    /// The bits that every entry so far has set.
    rights: Flags,
}

impl Way<'_> {
    #[inline(always)]
    fn entry_gpa(&self, level: u32) -> u64 {
        self.table & ADDRESS | self.linear >> (9 * level) & 0xff8
    }

    /// Goes through the table of a level. If its entry maps a page, returns the address in it.
    #[inline(always)]
    fn level(&mut self, level: u32) -> Result<Option<u64>, WalkFault> {
        let gpa = self.entry_gpa(level);
        let bits = self.memory.read_u64(gpa).map_err(|_| WalkFault::OutsideMemory)?;
        let entry = Flags::from_bits_retain(bits);
        if !entry.contains(Flags::PRESENT) {
            return Err(WalkFault::Page(self.kind()));
        }
        let is_page = level == 1 || level < 4 && entry.contains(Flags::HUGE_PAGE);
        if bits & self.mode.reserved(level, is_page) != 0 {
            return Err(WalkFault::Page(RESERVED | PRESENT | self.kind()));
        }
        self.rights &= entry;
        if !is_page {
            if !entry.contains(Flags::ACCESSED) {
                self.mark(gpa, entry | Flags::ACCESSED)?;
            }
            self.table = bits;
            return Ok(None);
        }
        self.check_rights()?;
        let mark = self.page_flags();
        if !entry.contains(mark) {
            self.mark(gpa, entry | mark)?;
        }
        let offset_mask = (1u64 << (3 + 9 * level)) - 1;
        Ok(Some(bits & ADDRESS & !offset_mask | self.linear & offset_mask))
    }

    /// Whether the entries on the way allow the access.
    #[inline(always)]
    fn check_rights(&self) -> Result<(), WalkFault> {
        let is_write = self.access == Access::Write;
        let is_refused =
            is_write && !self.rights.contains(Flags::WRITABLE) && (self.mode.user || self.mode.write_protect);
        if is_refused || self.mode.user && !self.rights.contains(Flags::USER_ACCESSIBLE) {
            return Err(WalkFault::Page(PRESENT | self.kind()));
        }
        Ok(())
    }

    /// The flags that the access sets in the entry of a page.
    #[inline(always)]
    fn page_flags(&self) -> Flags {
        if self.access == Access::Write { Flags::ACCESSED | Flags::DIRTY } else { Flags::ACCESSED }
    }

    /// Sets flags in an entry of 32-bit paging.
    fn mark_32_bit(&mut self, gpa: u64, entry: u32, flags: Flags) -> Result<(), WalkFault> {
        let marked = entry | flags.bits() as u32;
        if marked == entry {
            return Ok(());
        }
        self.memory.write(gpa, &marked.to_le_bytes()).map_err(|_| WalkFault::OutsideMemory)
    }

    fn mark(&mut self, gpa: u64, entry: Flags) -> Result<(), WalkFault> {
        self.memory.write_u64(gpa, entry.bits()).map_err(|_| WalkFault::OutsideMemory)
    }

    /// The error code's bits about the access.
    #[cold]
    fn kind(&self) -> u32 {
        let write = if self.access == Access::Write { WRITE } else { 0 };
        write | if self.mode.user { USER } else { 0 }
    }
}

/// The guest-physical address of the first bytes of a linear range, and the number of these bytes before the page ends.
fn piece<B: GuestState>(
    backend: &mut B,
    machine: &mut Machine,
    linear: u64,
    bytes: usize,
    access: Access,
) -> Result<(u64, usize), Fault> {
    if !is_canonical(linear) {
        return Err(Event::GENERAL_PROTECTION.into());
    }
    let bytes = bytes.min(4096 - (linear as usize & 4095));
    let mode = Mode::of(backend, machine.devices.cpuid.physical_address_bits());
    match walk(&mut machine.memory, mode, linear, access) {
        Ok(gpa) if gpa.checked_add(bytes as u64).is_some_and(|end| end <= machine.memory.bytes()) => Ok((gpa, bytes)),
        Ok(_) | Err(WalkFault::OutsideMemory) => Err(Fault::OutsideMemory),
        Err(WalkFault::Page(error_code)) => {
            backend.set(State::Cr2, linear);
            Err(Event::fault(vector::PF, error_code).into())
        }
    }
}

/// Reads guest-virtual memory.
///
/// # Errors
/// The access raises an exception, or the guest does not have that memory.
pub fn read<B: GuestState>(
    backend: &mut B,
    machine: &mut Machine,
    mut linear: u64,
    mut into: &mut [u8],
) -> Result<(), Fault> {
    while !into.is_empty() {
        let (gpa, bytes) = piece(backend, machine, linear, into.len(), Access::Read)?;
        let (now, later) = into.split_at_mut(bytes);
        machine.memory.read(gpa, now).map_err(|_| Fault::OutsideMemory)?;
        (into, linear) = (later, linear.wrapping_add(bytes as u64));
    }
    Ok(())
}

/// Reads as much of guest-virtual memory as there is, with paging or without, for a look at an instruction that has been fetched
/// already. Returns the number of bytes. Raises nothing.
pub fn fetch<B: GuestState>(
    backend: &B,
    memory: &mut GuestMemory,
    physical_bits: u32,
    linear: u64,
    into: &mut [u8],
) -> usize {
    let mode = Mode::of(backend, physical_bits);
    let mut read = 0;
    while read < into.len() {
        let at = linear.wrapping_add(read as u64);
        let gpa = walk(memory, mode, at, Access::Read).ok();
        let bytes = (into.len() - read).min(4096 - (at as usize & 4095));
        match gpa.map(|gpa| memory.read(gpa, &mut into[read..read + bytes])) {
            Some(Ok(())) => read += bytes,
            _ => break,
        }
    }
    read
}

/// The guest-physical address of code that has been fetched in 64-bit mode, and the addresses of the entries on the walk. If a
/// large page ends the walk, its entry stands for those of the levels below, too.
pub fn path_to<B: GuestState>(
    backend: &B,
    memory: &mut GuestMemory,
    physical_bits: u32,
    linear: u64,
) -> Option<(u64, [u64; 4])> {
    let (mut path, mut entries) = ([0; 4], 0);
    let by = |gpa| {
        path[entries..].fill(gpa);
        entries += 1;
    };
    let gpa = walk_by(memory, Mode::of(backend, physical_bits), linear, Access::Read, by).ok()?;
    Some((gpa, path))
}

/// Finds out whether guest-virtual memory can be written.
///
/// # Errors
/// As [`write`].
pub fn probe_write<B: GuestState>(
    backend: &mut B,
    machine: &mut Machine,
    mut linear: u64,
    mut bytes: usize,
) -> Result<(), Fault> {
    while bytes > 0 {
        let (_, now) = piece(backend, machine, linear, bytes, Access::Write)?;
        (bytes, linear) = (bytes - now, linear.wrapping_add(now as u64));
    }
    Ok(())
}

/// Writes guest-virtual memory. Nothing is written unless all of it can be.
///
/// # Errors
/// As [`read`].
pub fn write<B: GuestState>(
    backend: &mut B,
    machine: &mut Machine,
    mut linear: u64,
    mut from: &[u8],
) -> Result<(), Fault> {
    let is_in_a_page = linear as usize % 4096 + from.len() <= 4096;
    if !is_in_a_page {
        probe_write(backend, machine, linear, from.len())?;
    }
    while !from.is_empty() {
        let (gpa, bytes) = piece(backend, machine, linear, from.len(), Access::Write)?;
        let (now, later) = from.split_at(bytes);
        machine.memory.write(gpa, now).map_err(|_| Fault::OutsideMemory)?;
        (from, linear) = (later, linear.wrapping_add(bytes as u64));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::memory;
    use crate::script::{Script, machine};

    const MODE: Mode = Mode {
        cr3: 0x1000,
        write_protect: true,
        user: false,
        reserved: reserved(39, false),
        paging: Paging::FourLevel,
    };

    /// PML4 at 0x1000, PDPT 0x2000, PD 0x3000, PT 0x4000; linear 2 MiB is a large page at 0, linear 0x5000 a small one.
    fn tables() -> GuestMemory {
        let mut memory = memory(0x8000);
        for (at, entry) in [
            (0x1000, 0x2007),
            (0x1008, 0x2087),
            (0x2000, 0x3007),
            (0x3000, 0x4007),
            (0x3008, 0x0000_0083),
            (0x3010, 0x0000_2083),
            (0x4028, 0x6005),
            (0x4030, 0x7003),
            (0x4040, 1 << 63 | 0x6003),
            (0x4048, 1 << 45 | 0x6003),
            (0x4050, 0x10_0003),
        ] {
            memory.write_u64(at, entry).unwrap();
        }
        memory
    }

    #[test]
    fn pages_of_both_sizes_are_found_and_marked() {
        let mut memory = tables();
        assert_eq!(walk(&mut memory, MODE, 0x5123, Access::Read), Ok(0x6123));
        assert_eq!(memory.read_u64(0x4028), Ok(0x6025));
        assert_eq!(walk(&mut memory, MODE, 0x20_0456, Access::Write), Ok(0x456));
        assert_eq!(memory.read_u64(0x3008), Ok(0x0000_00e3));
        assert_eq!(walk(&mut memory, Mode { write_protect: false, ..MODE }, 0x5000, Access::Write), Ok(0x6000));
        assert_eq!(walk(&mut memory, Mode { reserved: reserved(39, true), ..MODE }, 0x8000, Access::Read), Ok(0x6000));
    }

    #[test]
    fn faults_have_their_error_codes() {
        let mut memory = tables();
        let user = Mode { user: true, ..MODE };
        let mut check = |mode, linear, access, error| {
            assert_eq!(walk(&mut memory, mode, linear, access), Err(WalkFault::Page(error)), "{linear:#x}");
        };
        check(MODE, 0x7000, Access::Read, 0);
        check(MODE, 0x7000, Access::Write, WRITE);
        check(MODE, 0x5000, Access::Write, PRESENT | WRITE);
        check(user, 0x6000, Access::Read, PRESENT | USER);
        check(Mode { write_protect: false, ..user }, 0x5000, Access::Write, PRESENT | WRITE | USER);
        check(MODE, 2 << 39, Access::Read, 0);
        check(MODE, 1 << 39, Access::Read, RESERVED | PRESENT);
        check(MODE, 0x8000, Access::Read, RESERVED | PRESENT);
        check(MODE, 0x9000, Access::Read, RESERVED | PRESENT);
        check(MODE, 0x40_0000, Access::Write, RESERVED | PRESENT | WRITE);
        let elsewhere = Mode { cr3: 0xffff_f000, ..MODE };
        assert_eq!(walk(&mut memory, elsewhere, 0, Access::Read), Err(WalkFault::OutsideMemory));
    }

    #[test]
    fn memory_that_the_guest_lacks_is_no_page_fault() {
        let (mut backend, mut machine) = (Script::default(), machine());
        machine.memory = tables();
        backend.set(State::Cr3, 0x1000);
        backend.set(State::Cr0, CR0_PG | 1);
        backend.set(State::Efer, EFER_LMA);
        assert_eq!(read(&mut backend, &mut machine, 0xa000, &mut [0; 4]), Err(Fault::OutsideMemory));
        assert_eq!(read(&mut backend, &mut machine, 1 << 63, &mut [0; 4]), Err(Event::GENERAL_PROTECTION.into()));
        assert_eq!(write(&mut backend, &mut machine, 0x7000, &[0; 4]), Err(Event::fault(vector::PF, WRITE).into()));
        assert_eq!(backend.get(State::Cr2), 0x7000);
    }

    #[test]
    fn without_paging_addresses_are_physical() {
        let (mut backend, mut machine) = (Script::default(), machine());
        machine.memory = tables();
        write(&mut backend, &mut machine, 0x6ffe, &[1, 2, 3, 4]).unwrap();
        let mut back = [0; 2];
        read(&mut backend, &mut machine, 0x7000, &mut back).unwrap();
        assert_eq!(back, [3, 4]);
        assert_eq!(read(&mut backend, &mut machine, 0x8000, &mut back), Err(Fault::OutsideMemory));
        // Real mode has kept a segment of ring 3, which does not make the access a user's.
        backend.set(State::SsRights, 3 << 5);
        assert!(!Mode::of(&backend, 39).user);
        backend.set(State::Cr0, 1);
        assert!(Mode::of(&backend, 39).user);
    }

    #[test]
    fn pae_paging_has_four_pointers_and_two_levels() {
        let mut memory = tables();
        // The pointer for linear addresses from 1 GiB on lies in the middle of a page, and leads to the directory at 0x3000.
        for (at, entry) in [(0x5040, 0), (0x5048, 0x3001)] {
            memory.write_u64(at, entry).unwrap();
        }
        let mode = Mode { cr3: 0x5040, paging: Paging::Pae, ..MODE };
        let mut check = |linear, access, gpa| assert_eq!(walk(&mut memory, mode, linear, access), gpa, "{linear:#x}");
        check(0x4000_6123, Access::Write, Ok(0x7123));
        check(0x4020_0456, Access::Write, Ok(0x456));
        check(0x4000_5000, Access::Write, Err(WalkFault::Page(PRESENT | WRITE)));
        check(0x4000_8000, Access::Read, Err(WalkFault::Page(RESERVED | PRESENT)));
        check(0x6123, Access::Read, Err(WalkFault::Page(0)));
        let lacking = Mode { cr3: 0xffff_ffe0, ..mode };
        assert_eq!(walk(&mut memory, lacking, 0, Access::Read), Err(WalkFault::OutsideMemory));
    }

    #[test]
    fn pointers_with_reserved_bits_are_not_loaded() {
        let mut memory = tables();
        memory.write_u64(0x5048, 0x3001).unwrap();
        assert_eq!(page_directory_pointers(0x505f, &memory, 39), Some([0, 0x3001, 0, 0]));
        assert_eq!(page_directory_pointers(0xffff_f000, &memory, 39), Some([0; 4]));
        for (entry, is_loaded) in
            [(0x3e19, true), (0x3003, false), (0x3101, false), (1 << 39 | 1, false), (1 << 63 | 1, false), (2, true)]
        {
            memory.write_u64(0x5050, entry).unwrap();
            assert_eq!(page_directory_pointers(0x5040, &memory, 39).is_some(), is_loaded, "{entry:#x}");
        }
    }

    #[test]
    fn paging_of_32_bits_has_two_levels_of_doublewords() {
        let mut memory = memory(0x8000);
        // A directory at 0x1000: a table at 0x2000, and a page of 4 MiB at 4 GiB, then one that only the supervisor reads.
        for (at, entry) in [
            (0x1000, 0x2007u32),
            (0x1004, 0x2083),
            (0x1008, 0x81),
            (0x100c, 0x20_0083),
            (0x2014, 0x6005),
            (0x2018, 0x7003),
        ] {
            memory.write(at, &entry.to_le_bytes()).unwrap();
        }
        let mode = Mode { paging: Paging::Bits32 { large_pages: true }, ..MODE };
        let user = Mode { user: true, ..mode };
        let mut check = |mode, linear, access, gpa| {
            assert_eq!(walk(&mut memory, mode, linear, access), gpa, "{linear:#x}");
        };
        check(mode, 0x5123, Access::Read, Ok(0x6123));
        check(mode, 0x6123, Access::Write, Ok(0x7123));
        check(mode, 0x40_0123, Access::Write, Ok(1 << 32 | 0x123));
        check(mode, 0x5123, Access::Write, Err(WalkFault::Page(PRESENT | WRITE)));
        check(user, 0x6123, Access::Read, Err(WalkFault::Page(PRESENT | USER)));
        check(user, 0x5123, Access::Read, Ok(0x6123));
        check(mode, 0x7000, Access::Read, Err(WalkFault::Page(0)));
        check(mode, 0x80_0000, Access::Write, Err(WalkFault::Page(PRESENT | WRITE)));
        check(Mode { write_protect: false, ..mode }, 0x80_0000, Access::Write, Ok(0));
        check(mode, 0xc0_0000, Access::Read, Err(WalkFault::Page(RESERVED | PRESENT)));
        check(mode, 0x1000_0000, Access::Read, Err(WalkFault::Page(0)));
        let small = Mode { paging: Paging::Bits32 { large_pages: false }, ..mode };
        // Without large pages the entry is one of a table.
        check(small, 0x40_6123, Access::Read, Ok(0x7123));
        let entries = [0x1000, 0x1004, 0x1008, 0x2014, 0x2018].map(|at| memory.read_u32(at).unwrap());
        assert_eq!(entries, [0x2027, 0x20e3, 0xe1, 0x6025, 0x7063]);
    }

    #[test]
    fn the_kind_of_paging_follows_the_control_registers() {
        let mut backend = Script::default();
        for (cr0, cr4, efer, paging) in [
            (0, CR4_PAE, 0, Paging::Off),
            (CR0_PG, CR4_PSE, 0, Paging::Bits32 { large_pages: true }),
            (CR0_PG, 0, 0, Paging::Bits32 { large_pages: false }),
            (CR0_PG, CR4_PAE, 0, Paging::Pae),
            (CR0_PG, CR4_PAE, EFER_LMA, Paging::FourLevel),
        ] {
            for (state, value) in [(State::Cr0, cr0 | 1), (State::Cr4, cr4), (State::Efer, efer)] {
                backend.set(state, value);
            }
            assert_eq!(Mode::of(&backend, 39).paging, paging);
        }
    }

    #[test]
    fn canonical_addresses() {
        assert!(is_canonical(0) && is_canonical(0x7fff_ffff_ffff) && is_canonical(0xffff_8000_0000_0000));
        assert!(!is_canonical(0x8000_0000_0000) && !is_canonical(1 << 63));
    }
}
