//! A ROM that enters a placed kernel: from the reset vector to the state of [`Entry`] (SDM 3A 10.1.4, 10.8.5). The kernel's own page
//! tables, which map the first 4 GiB to themselves, are in its image.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use tollgate_abi::guest_image::Entry;
use tollgate_abi::x86::control::{
    CR0_CD, CR0_NE, CR0_NW, CR0_PE, CR0_PG, CR0_WP, CR4_PAE, EFER_LME, EFER_NXE, EFER_SCE,
};
use tollgate_abi::x86::msr::IA32_EFER;

use super::HOLE;

/// The last 64 KiB below 4 GiB, where the processor starts.
const BYTES: usize = 64 << 10;
const BASE: u64 = 0xffff_0000;

// The parts of the ROM, by offset.
const RESET: u64 = 0xfff0;
const CODE_16: u64 = 0xf000;
const CODE_32: u64 = 0xf100;
const CODE_64: u64 = 0xf200;
const GDT: u64 = 0xf300;
const GDT_POINTER: u64 = 0xf340;

/// The descriptors: none, 32-bit code, data, 64-bit code.
const DESCRIPTORS: [u64; 4] = [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00af_9b00_0000_ffff];
const CODE_32_SELECTOR: u16 = 0x08;
const DATA_SELECTOR: u16 = 0x10;
const CODE_64_SELECTOR: u16 = 0x18;

/// Bytes of the smallest block in which Bochs gives memory, or less.
const BLOCK_BYTES: u32 = 32 << 10;

/// The ROM for a kernel in a machine with so much memory.
pub(super) fn rom(entry: &Entry, memory_bytes: u64) -> Vec<u8> {
    let mut rom = vec![0xf4; BYTES];
    let mut put = |at: u64, bytes: &[u8]| rom[at as usize..][..bytes.len()].copy_from_slice(bytes);
    // JMP rel16 stays in the last 64 KiB.
    let way = (CODE_16.wrapping_sub(RESET + 3) as u16).to_le_bytes();
    put(RESET, &[0xe9, way[0], way[1]]);
    let parts = [(CODE_16, real_mode()), (CODE_32, protected_mode(entry, memory_bytes)), (CODE_64, long_mode(entry))];
    for (at, code) in parts {
        // Only an instruction that there is none of can't be encoded, and a test encodes these.
        put(at, &code.unwrap_or_default());
    }
    put(GDT, &DESCRIPTORS.map(u64::to_le_bytes).concat());
    put(GDT_POINTER, &(DESCRIPTORS.len() as u16 * 8 - 1).to_le_bytes());
    put(GDT_POINTER + 2, &((BASE + GDT) as u32).to_le_bytes());
    rom
}

/// A far jump with an offset of 32 bits, which takes a prefix in 16-bit code.
fn jump_far(code: &mut CodeAssembler, selector: u16, offset: u64) -> Result<(), IcedError> {
    let prefix: &[u8] = if code.bitness() == 16 { &[0x66] } else { &[] };
    let bytes = [prefix, &[0xea], &((BASE + offset) as u32).to_le_bytes(), &selector.to_le_bytes()].concat();
    code.db(&bytes)
}

fn real_mode() -> Result<Vec<u8>, IcedError> {
    let mut code = CodeAssembler::new(16)?;
    code.cli()?;
    // LGDT CS:[GDT_POINTER], with a base of 32 bits.
    let pointer = (GDT_POINTER as u16).to_le_bytes();
    code.db(&[0x2e, 0x66, 0x0f, 0x01, 0x16, pointer[0], pointer[1]])?;
    code.mov(eax, cr0)?;
    code.and(eax, !((CR0_CD | CR0_NW) as u32) as i32)?;
    code.or(eax, CR0_PE as i32)?;
    code.mov(cr0, eax)?;
    jump_far(&mut code, CODE_32_SELECTOR, CODE_32)?;
    code.assemble(CODE_16)
}

/// Bochs 2.7 gives its blocks of memory, in which the image lies one behind the other, to addresses in the order in which these are
/// touched first.
fn protected_mode(entry: &Entry, memory_bytes: u64) -> Result<Vec<u8>, IcedError> {
    let mut code = CodeAssembler::new(32)?;
    code.mov(eax, u32::from(DATA_SELECTOR))?;
    code.mov(ds, eax)?;
    code.mov(es, eax)?;
    code.mov(ss, eax)?;
    code.xor(edi, edi)?;
    for end in [HOLE.start, memory_bytes] {
        let mut next = code.create_label();
        code.set_label(&mut next)?;
        code.or(byte_ptr(edi), 0)?;
        code.add(edi, BLOCK_BYTES as i32)?;
        code.cmp(edi, end as i32)?;
        code.jb(next)?;
        code.mov(edi, HOLE.end as u32)?;
    }
    code.mov(eax, CR4_PAE as u32)?;
    code.mov(cr4, eax)?;
    code.mov(eax, entry.cr3 as u32)?;
    code.mov(cr3, eax)?;
    code.mov(ecx, IA32_EFER)?;
    code.xor(edx, edx)?;
    code.mov(eax, (EFER_LME | EFER_NXE | EFER_SCE) as u32)?;
    code.wrmsr()?;
    code.mov(eax, cr0)?;
    code.or(eax, (CR0_PG | CR0_WP | CR0_NE) as u32 as i32)?;
    code.mov(cr0, eax)?;
    jump_far(&mut code, CODE_64_SELECTOR, CODE_64)?;
    code.assemble(BASE + CODE_32)
}

fn long_mode(entry: &Entry) -> Result<Vec<u8>, IcedError> {
    let mut code = CodeAssembler::new(64)?;
    code.mov(eax, u32::from(DATA_SELECTOR))?;
    code.mov(fs, eax)?;
    code.mov(gs, eax)?;
    for register in [rbx, rcx, rdx, rbp, r8, r9, r10, r11, r12, r13, r14, r15] {
        code.xor(register, register)?;
    }
    code.mov(rsp, entry.rsp)?;
    code.mov(rdi, entry.rdi)?;
    code.mov(rsi, entry.rsi)?;
    code.mov(rax, entry.rip)?;
    code.jmp(rax)?;
    code.assemble(BASE + CODE_64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_encoded_and_has_room() {
        let entry = Entry { rip: 0x100_0000, rsp: 0x1_1000, rsi: 0x1_1000, cr3: 0x1_3000, ..Entry::default() };
        let rooms = [(real_mode(), CODE_32 - CODE_16), (protected_mode(&entry, 1 << 30), CODE_64 - CODE_32)];
        for (code, room) in rooms.into_iter().chain([(long_mode(&entry), GDT - CODE_64)]) {
            let bytes = code.unwrap().len() as u64;
            assert!(bytes > 0 && bytes <= room, "{bytes} of {room}");
        }
        let rom = rom(&entry, 1 << 30);
        assert_eq!((rom.len(), &rom[RESET as usize..][..3]), (BYTES, &[0xe9, 0x0d, 0xf0][..]));
        assert_eq!(rom[GDT_POINTER as usize..][..6], [31, 0, 0x00, 0xf3, 0xff, 0xff]);
        let has = |bytes: &[u8]| rom.windows(bytes.len()).any(|part| part == bytes);
        assert!(has(&0x100_0000_u32.to_le_bytes()) && has(&0x4000_0000_u32.to_le_bytes()));
    }
}
