//! The page in which a vCPU other than the first starts, in real mode: a small frame like the 64-bit one, snippets, and the way to
//! 64-bit mode.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::dice::Dice;
use super::kinds;
use super::layout::{Block, ENTRY};
use super::snippet::{Mode, Snippet};
use super::tables::{CODE64, END, Put};

const NEXT: u64 = 0x40;
const LONG: u64 = 0xa0;
const RETURNS: u64 = 0x1c0;
const IDT_POINTER: u64 = 0x1e0;
const GDT_POINTER: u64 = 0x1e8;
const INDEX: u64 = 0x1f0;
const TABLE: u64 = 0x200;
const SNIPPETS: u64 = 0x240;
const STACK: u64 = 0xc00;
const VECTORS: u64 = 0xc00;

const MODE: Mode = Mode { bits: 16, is_user: false, is_real: true };
const MOST_SNIPPETS: u64 = 16;

/// Writes the page.
pub(super) fn write(block: &Block, dice: &mut Dice, put: &mut Put<'_>) -> Result<(), IcedError> {
    let page = block.real_page();
    let asked = dice.below(MOST_SNIPPETS + 1);
    let (mut at, mut count) = (SNIPPETS, 0);
    while count < asked {
        let mut snippet = Snippet::new(MODE, block);
        kinds::write(&mut snippet, dice);
        snippet.raw(&[0xcd, END]);
        if at + snippet.bytes.len() as u64 > STACK - 0x80 {
            break;
        }
        put(page + at, &snippet.bytes);
        put(page + TABLE + 2 * count, &(at as u16).to_le_bytes());
        at += snippet.bytes.len() as u64;
        count += 1;
    }
    let mut code = CodeAssembler::new(16)?;
    let mut next = code.create_label();
    code.cli()?;
    code.cld()?;
    code.mov(ax, cs)?;
    code.mov(ds, ax)?;
    code.lidt(fword_ptr(IDT_POINTER))?;
    code.zero_bytes()?;
    code.set_label(&mut next)?;
    code.jmp(NEXT)?;
    put(page, &code.assemble(0)?);

    let mut code = CodeAssembler::new(16)?;
    code.cli()?;
    code.cld()?;
    code.mov(ax, cs)?;
    for register in [ds, es, ss] {
        code.mov(register, ax)?;
    }
    code.mov(esp, STACK as u32)?;
    code.inc(word_ptr(INDEX))?;
    code.mov(bx, word_ptr(INDEX))?;
    code.cmp(bx, count as i32)?;
    code.ja(LONG)?;
    code.shl(bx, 1)?;
    code.jmp(word_ptr(bx + (TABLE - 2) as i32))?;
    put(page + NEXT, &code.assemble(NEXT)?);

    let mut code = CodeAssembler::new(16)?;
    code.dec(word_ptr(INDEX))?;
    code.db(&[0x66])?;
    code.lgdt(fword_ptr(GDT_POINTER))?;
    code.mov(eax, 0x20_u32)?;
    code.mov(cr4, eax)?;
    code.mov(eax, block.page_tables() as u32)?;
    code.mov(cr3, eax)?;
    code.mov(ecx, 0xc000_0080_u32)?;
    code.xor(edx, edx)?;
    code.mov(eax, 0x901_u32)?;
    code.wrmsr()?;
    code.mov(eax, 0x8001_0033_u32)?;
    code.mov(cr0, eax)?;
    // JMP FAR to the 64-bit entry
    code.db(&[0x66, 0xea])?;
    code.dd(&[block.frame(ENTRY) as u32])?;
    code.dw(&[CODE64])?;
    put(page + LONG, &code.assemble(LONG)?);

    put(page + RETURNS, &[0xcf]);
    put(page + IDT_POINTER, &0x3ff_u16.to_le_bytes());
    put(page + IDT_POINTER + 2, &((page + VECTORS) as u32).to_le_bytes());
    put(page + GDT_POINTER, &0xff_u16.to_le_bytes());
    put(page + GDT_POINTER + 2, &(block.tables() as u32).to_le_bytes());
    for vector in 0..0x100_u64 {
        let returns = matches!(vector, 1..=4) || vector >= 32 && vector != u64::from(END);
        put(page + VECTORS + 4 * vector, &(if returns { RETURNS } else { NEXT } as u16).to_le_bytes());
        put(page + VECTORS + 4 * vector + 2, &((page >> 4) as u16).to_le_bytes());
    }
    Ok(())
}
