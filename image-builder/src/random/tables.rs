//! The tables of a random guest: descriptors, gates, task-state segment and page tables. The entries that the frame needs are
//! valid, except seldom; the rest are random.

use tollgate_abi::machine::{LARGE_PAGE_BYTES, PAGE_BYTES, UNIKERNEL};

use super::dice::Dice;
use super::layout::{Block, NEXT, OUTSIDE, OUTSIDE_GPA, USER_ALIAS, WINDOW};

/// Selectors.
pub(super) const CODE64: u16 = 0x08;
pub(super) const DATA: u16 = 0x10;
pub(super) const USER_CODE32: u16 = 0x1b;
pub(super) const USER_DATA: u16 = 0x23;
pub(super) const USER_CODE64: u16 = 0x2b;
pub(super) const CODE32: u16 = 0x30;
pub(super) const CODE16: u16 = 0x38;
pub(super) const USER_CODE16: u16 = 0x43;
pub(super) const TSS: u16 = 0x48;
pub(super) const LDT: u16 = 0x58;
const CALL_GATE: u16 = 0x68;
const RANDOM: u16 = 0x78;

pub(super) const GDT_BYTES: usize = 0x100;
pub(super) const TSS_LIMIT: u64 = 0x88;

/// The vector by which a snippet ends.
pub(super) const END: u8 = 0x80;

/// A value at an address of a block.
pub(super) type Put<'a> = dyn FnMut(u64, &[u8]) + 'a;

/// A code or data segment of 4 GiB, or 64 KiB for 16 bits, from `base` on.
fn segment(access: u8, flags: u64, base: u64) -> u64 {
    let limit: u64 = if flags & 8 == 0 { 0xffff } else { 0xf_ffff };
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | u64::from(access) << 40
        | (limit >> 16) << 48
        | flags << 52
        | (base >> 24 & 0xff) << 56
}

/// The low half of a system descriptor.
fn system(access: u8, base: u64, limit: u64) -> u64 {
    limit & 0xffff | (base & 0xff_ffff) << 16 | u64::from(access) << 40 | (base >> 24 & 0xff) << 56
}

/// A gate's two halves.
fn gate(kind: u8, selector: u16, target: u64, stack: u64) -> [u64; 2] {
    let low = target & 0xffff
        | u64::from(selector) << 16
        | stack << 32
        | u64::from(kind) << 40
        | (target >> 16 & 0xffff) << 48;
    [low, target >> 32]
}

fn put_word(put: &mut Put<'_>, at: u64, word: u64) {
    put(at, &word.to_le_bytes());
}

/// Writes all tables.
pub(super) fn write(block: &Block, dice: &mut Dice, put: &mut Put<'_>) {
    descriptors(block, dice, put);
    gates(block, dice, put);
    task_state(block, dice, put);
    paging(block, dice, put);
    for (pointer, base, bytes) in
        [(block.gdt_pointer(), block.tables(), GDT_BYTES as u16), (block.idt_pointer(), block.idt(), 0x1000)]
    {
        put(pointer, &(bytes - 1).to_le_bytes());
        put_word(put, pointer + 2, base);
    }
    // Random words don't pack: the more vCPUs, the fewer for each.
    for at in (0..0xf00 / block.vcpus).step_by(8) {
        let word = dice.value(block);
        put_word(put, block.data() + at, word);
    }
}

fn descriptors(block: &Block, dice: &mut Dice, put: &mut Put<'_>) {
    // Flags: G, D, L, in bits 3, 2, 1.
    let of_16_bits = block.code() & !0xf;
    let call = gate(0xec, CODE64, block.frame(NEXT), 0);
    let rows = [
        (CODE64, segment(0x9b, 0xa, 0)),
        (DATA, segment(0x93, 0xc, 0)),
        (USER_CODE32, segment(0xfb, 0xc, 0)),
        (USER_DATA, segment(0xf3, 0xc, 0)),
        (USER_CODE64, segment(0xfb, 0xa, 0)),
        (CODE32, segment(0x9b, 0xc, 0)),
        (CODE16, segment(0x9b, 0, of_16_bits)),
        (USER_CODE16, segment(0xfb, 0, of_16_bits + USER_ALIAS)),
        (TSS, system(0x89, block.tss(), TSS_LIMIT)),
        (TSS + 8, 0),
        (LDT, system(0x82, block.ldt(), 0x7f)),
        (LDT + 8, 0),
        (CALL_GATE, call[0]),
        (CALL_GATE + 8, call[1]),
    ];
    for (selector, descriptor) in rows {
        put_word(put, block.tables() + u64::from(selector & !7), descriptor);
    }
    for at in (u64::from(RANDOM)..GDT_BYTES as u64).step_by(8) {
        let descriptor = random_descriptor(block, dice);
        put_word(put, block.tables() + at, descriptor);
    }
    for at in (0..0x80).step_by(8) {
        let descriptor = random_descriptor(block, dice);
        put_word(put, block.ldt() + at, descriptor);
    }
}

fn random_descriptor(block: &Block, dice: &mut Dice) -> u64 {
    let access = if dice.chance(700) { 0x80 | dice.byte() } else { dice.byte() };
    match dice.below(4) {
        0 => dice.word(),
        1 => system(access & !0x10, dice.address(block), dice.below(0x200)),
        _ => segment(access | 0x10, dice.below(16), if dice.chance(500) { 0 } else { dice.address(block) }),
    }
}

fn gates(block: &Block, dice: &mut Dice, put: &mut Put<'_>) {
    // Once in a while one of the gates that the frame needs is odd.
    let is_odd = dice.chance(40);
    for vector in 0..0x100 {
        let is_needed = matches!(vector, 6 | 8 | 13 | 14) || vector == u64::from(END);
        let anyone_may = matches!(vector, 1 | 3 | 4) || vector == u64::from(END) || dice.chance(100);
        let kind = 0x8e | u8::from(dice.chance(100)) | if anyone_may { 0x60 } else { 0 };
        let stack = match vector {
            8 => 1,
            2 if dice.chance(500) => 2,
            _ if dice.chance(40) => dice.between(1, 3),
            _ => 0,
        };
        let mut halves = gate(kind, CODE64, block.stub(vector), stack);
        if dice.chance(15) && (!is_needed || is_odd && dice.chance(300)) {
            match dice.below(4) {
                0 => halves[0] &= !(1 << 47),
                1 => halves[0] ^= dice.below(0x100) << 16,
                2 => halves[1] |= dice.word() & !0xffff,
                _ => halves[0] ^= 1 << (40 + dice.below(5)),
            }
        }
        put_word(put, block.idt() + vector * 16, halves[0]);
        put_word(put, block.idt() + vector * 16 + 8, halves[1]);
    }
}

fn task_state(block: &Block, dice: &mut Dice, put: &mut Put<'_>) {
    put_word(put, block.tss() + 4, block.stack());
    for stack in 1..8 {
        put_word(
            put,
            block.tss() + 0x1c + stack * 8,
            if stack < 4 { block.other_stack(stack) } else { dice.value(block) },
        );
    }
    // The I/O map's base; a few ports may be open to ring 3.
    put(block.tss() + 0x66, &[0x68, 0]);
    for at in 0x68..TSS_LIMIT {
        let byte = if dice.chance(400) { 0 } else { dice.byte() };
        put(block.tss() + at, &[byte]);
    }
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const LARGE: u64 = 1 << 7;

fn paging(block: &Block, dice: &mut Dice, put: &mut Put<'_>) {
    let table = |number: u64| block.page_tables() + number * PAGE_BYTES;
    let all = PRESENT | WRITABLE | USER;
    let (pml4, pdpt, kernel, user, window, entries) = (table(0), table(1), table(2), table(3), table(4), table(5));
    put_word(put, pml4, pdpt | all);
    put_word(put, pml4 + 511 * 8, pdpt | all);
    for (at, directory) in [kernel, user, window].into_iter().enumerate() {
        put_word(put, pdpt + at as u64 * 8, directory | all);
    }
    for large in 0..2 * UNIKERNEL.ram_bytes() / LARGE_PAGE_BYTES {
        let gpa = large * LARGE_PAGE_BYTES;
        put_word(put, kernel + large * 8, gpa | LARGE | PRESENT | WRITABLE);
        put_word(put, user + large * 8, gpa | LARGE | all);
    }
    put_word(put, kernel + OUTSIDE / LARGE_PAGE_BYTES * 8, OUTSIDE_GPA | LARGE | PRESENT | WRITABLE);
    put_word(put, window, entries | all);
    const { assert!(USER_ALIAS == 1 << 30 && WINDOW == 2 << 30) };
    for at in 0..32 {
        let entry = random_entry(dice, block);
        put_word(put, entries + at * 8, entry);
    }
}

/// A page-table entry, mostly one that maps a page.
pub(super) fn random_entry(dice: &mut Dice, block: &Block) -> u64 {
    let gpa = match dice.below(10) {
        0..4 => block.data(),
        4..7 => UNIKERNEL.fresh().gpa + dice.below(1024) * PAGE_BYTES,
        7 => block.code(),
        8 if dice.chance(60) => OUTSIDE_GPA + dice.below(1 << 20) * PAGE_BYTES,
        _ => block.page_tables() + dice.below(6) * PAGE_BYTES,
    };
    let odd = if dice.chance(25) { 1 << dice.between(12, 63) } else { 0 };
    let no_execute = if dice.chance(200) { 1 << 63 } else { 0 };
    gpa | u64::from(dice.chance(850)) | dice.below(0x80) << 1 & !LARGE | odd | no_execute
}
