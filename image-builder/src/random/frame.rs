//! The frame that snippets run in. It enters one after the other by IRET, catches the exceptions that they raise, and goes on
//! with the next.
//!
//! A fault of a snippet ends that snippet; #DB, NMI, #BP, #OF and interrupts return to it. There is a budget for both, so that a
//! guest comes to its end, unless only the monitor can end it. At the end the first vCPU performs the hypercall that ends the
//! guest; the others halt.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use tollgate_abi::apic;
use tollgate_abi::hypercall::Hypercall;
use tollgate_abi::x86::control::*;
use tollgate_abi::x86::msr::*;

use super::dice::Dice;
use super::layout::{Block, ENTRY, FINISH, INTERRUPT, NEXT, STUB_BYTES, STUBS, TRAP};
use super::tables::{CODE64, DATA, END, LDT, Put, TSS, USER_CODE32};

/// Exceptions after which a vCPU comes to its end.
const MOST_TRAPS: i32 = 1500;
/// Interrupts after which a vCPU comes to its end.
const MOST_INTERRUPTS: i32 = 1500;
/// Rounds that vCPU 0 waits for the others at the end.
const ROUNDS: u32 = 200;
/// Turns of a loop in each round.
const TURNS: u32 = 200;

/// Bytes of a snippet's frame: flags, and the operands of IRET.
pub(super) const FRAME_BYTES: u64 = 48;
/// A flag in a snippet's frame: tables and control registers are made good before it.
pub(super) const REPAIR: u64 = 1;

const RFLAGS_TF: i32 = 1 << 8;
const RFLAGS_RF: i32 = 1 << 16;

/// Writes every routine of the frame. `snippets` is their number.
pub(super) fn write(block: &Block, dice: &mut Dice, snippets: u64, put: &mut Put<'_>) -> Result<(), IcedError> {
    let mut routine = |at: u64, end: u64, mut code: CodeAssembler| {
        let bytes = code.assemble(block.frame(at))?;
        assert!(bytes.len() as u64 <= end - at, "a routine of {} bytes at {at:#x} reaches into the next", bytes.len());
        put(block.frame(at), &bytes);
        Ok::<(), IcedError>(())
    };
    routine(ENTRY, NEXT, entry(block, dice)?)?;
    routine(NEXT, TRAP, next(block, snippets)?)?;
    routine(TRAP, INTERRUPT, trap(block, snippets)?)?;
    routine(INTERRUPT, FINISH, interrupt(block, snippets)?)?;
    routine(FINISH, STUBS, finish(block, snippets)?)?;
    for vector in 0..0x100_u64 {
        let at = STUBS + vector * STUB_BYTES;
        let to_next = vector == u64::from(END) || vector >= 32 && dice.chance(150);
        routine(at, at + STUB_BYTES, stub(block, vector, to_next)?)?;
    }
    Ok(())
}

/// An operand at an address below 2 GiB.
fn at(address: u64) -> AsmMemoryOperand {
    qword_ptr(address)
}

fn write_msr(code: &mut CodeAssembler, msr: u32, value: u64) -> Result<(), IcedError> {
    code.mov(ecx, msr)?;
    code.mov(eax, value as u32)?;
    code.mov(edx, (value >> 32) as u32)?;
    code.wrmsr()
}

/// The code at which a vCPU starts in 64-bit mode.
fn entry(block: &Block, dice: &mut Dice) -> Result<CodeAssembler, IcedError> {
    let mut code = CodeAssembler::new(64)?;
    code.cli()?;
    code.mov(rsp, block.stack())?;
    code.lgdt(at(block.gdt_pointer()))?;
    code.lidt(at(block.idt_pointer()))?;
    code.mov(rax, block.page_tables())?;
    code.mov(cr3, rax)?;
    code.mov(eax, u32::from(DATA))?;
    for register in [ds, es, ss, fs, gs] {
        code.mov(register, eax)?;
    }
    let mut reloaded = code.create_label();
    code.push(i32::from(CODE64))?;
    code.lea(rax, qword_ptr(reloaded))?;
    code.push(rax)?;
    code.retf()?;
    code.set_label(&mut reloaded)?;
    // A vCPU that is started again after INIT finds its segment busy.
    code.and(dword_ptr(block.tables() + u64::from(TSS) + 4), !0x200_i32)?;
    code.mov(ax, u32::from(TSS))?;
    code.ltr(ax)?;
    code.mov(ax, u32::from(LDT))?;
    code.lldt(ax)?;
    // OSFXSR, OSXMMEXCPT, which every processor has
    code.mov(rax, cr4)?;
    code.or(eax, (CR4_OSFXSR | CR4_OSXMMEXCPT) as i32)?;
    code.mov(cr4, rax)?;
    let next = block.frame(NEXT);
    write_msr(&mut code, IA32_STAR, u64::from(CODE64) << 32 | u64::from(USER_CODE32) << 48)?;
    write_msr(&mut code, IA32_LSTAR, next)?;
    write_msr(&mut code, IA32_CSTAR, next)?;
    write_msr(&mut code, IA32_FMASK, dice.word() & 0x4_7fff)?;
    write_msr(&mut code, IA32_SYSENTER_CS, CODE64.into())?;
    write_msr(&mut code, IA32_SYSENTER_ESP, block.stack())?;
    write_msr(&mut code, IA32_SYSENTER_EIP, next)?;
    write_msr(&mut code, IA32_EFER, EFER_NXE | EFER_LME | EFER_SCE)?;
    write_msr(&mut code, apic::SVR, 0x1ff)?;
    // TSD, DE, UMIP, FSGSBASE, OSXSAVE by chance; if the processor lacks one of them, the write sets none
    let random = dice.word() & dice.word() & (CR4_TSD | CR4_DE | CR4_UMIP | CR4_FSGSBASE | CR4_OSXSAVE);
    code.mov(rax, cr4)?;
    code.or(eax, random as i32)?;
    code.mov(cr4, rax)?;
    code.jmp(next)?;
    Ok(code)
}

/// Enters the next snippet.
fn next(block: &Block, snippets: u64) -> Result<CodeAssembler, IcedError> {
    let mut code = CodeAssembler::new(64)?;
    code.cli()?;
    code.cld()?;
    code.mov(rsp, block.stack())?;
    code.mov(eax, u32::from(DATA))?;
    code.mov(ds, eax)?;
    code.mov(es, eax)?;
    code.inc(at(block.index()))?;
    code.mov(rax, at(block.index()))?;
    code.cmp(rax, snippets as i32)?;
    code.ja(block.frame(FINISH))?;
    code.imul_3(rax, rax, FRAME_BYTES as i32)?;
    code.lea(rsp, rax + (block.code() - FRAME_BYTES) as i32)?;
    code.pop(rax)?;
    let mut enter = code.create_label();
    code.test(al, REPAIR as i32)?;
    code.jz(enter)?;
    code.lgdt(at(block.gdt_pointer()))?;
    code.lidt(at(block.idt_pointer()))?;
    code.mov(eax, block.page_tables() as u32)?;
    code.mov(cr3, rax)?;
    code.xor(eax, eax)?;
    code.mov(dr7, rax)?;
    code.mov(eax, 0x8001_0033_u32)?;
    code.mov(cr0, rax)?;
    // An interrupt in service must not hold back the next ones.
    write_msr(&mut code, apic::EOI, 0)?;
    write_msr(&mut code, apic::TPR, 0)?;
    code.set_label(&mut enter)?;
    code.iretq()?;
    Ok(code)
}

/// The handler of exceptions; on the stack are the vector, an error code, RIP and the rest.
fn trap(block: &Block, snippets: u64) -> Result<CodeAssembler, IcedError> {
    let mut code = CodeAssembler::new(64)?;
    let [mut returns, mut debug, mut goes_on, mut quiet] = [(); 4].map(|()| code.create_label());
    code.push(rax)?;
    code.inc(at(block.traps()))?;
    code.mov(rax, at(block.traps()))?;
    code.cmp(rax, MOST_TRAPS)?;
    code.jb(goes_on)?;
    code.mov(rax, snippets)?;
    code.mov(at(block.index()), rax)?;
    code.set_label(&mut goes_on)?;
    code.cmp(qword_ptr(rsp + 8), 1)?;
    code.je(debug)?;
    code.cmp(qword_ptr(rsp + 8), 4)?;
    code.ja(block.frame(NEXT))?;
    code.cmp(qword_ptr(rsp + 8), 0)?;
    code.je(block.frame(NEXT))?;
    code.set_label(&mut returns)?;
    code.pop(rax)?;
    code.add(rsp, 16)?;
    code.iretq()?;
    code.set_label(&mut debug)?;
    code.or(dword_ptr(rsp + 40), RFLAGS_RF)?;
    code.test(byte_ptr(block.traps()), 0x1f)?;
    code.jnz(quiet)?;
    code.and(dword_ptr(rsp + 40), !RFLAGS_TF)?;
    code.xor(eax, eax)?;
    code.mov(dr7, rax)?;
    code.set_label(&mut quiet)?;
    code.cmp(qword_ptr(block.traps()), MOST_TRAPS)?;
    code.jb(returns)?;
    code.jmp(block.frame(NEXT))?;
    Ok(code)
}

/// The handler of interrupts; on the stack are the vector twice, RIP and the rest.
fn interrupt(block: &Block, snippets: u64) -> Result<CodeAssembler, IcedError> {
    let mut code = CodeAssembler::new(64)?;
    let mut few = code.create_label();
    for register in [rax, rcx, rdx] {
        code.push(register)?;
    }
    write_msr(&mut code, apic::EOI, 0)?;
    code.inc(at(block.interrupts()))?;
    code.cmp(qword_ptr(block.interrupts()), MOST_INTERRUPTS)?;
    code.jb(few)?;
    write_msr(&mut code, apic::LVT_TIMER, u64::from(apic::LVT_MASKED))?;
    code.mov(rax, snippets)?;
    code.mov(at(block.index()), rax)?;
    code.set_label(&mut few)?;
    for register in [rdx, rcx, rax] {
        code.pop(register)?;
    }
    code.add(rsp, 16)?;
    code.iretq()?;
    Ok(code)
}

/// The end of a vCPU. If VMCALL is no hypercall it raises #UD, which leads here again, and then VMMCALL is tried.
fn finish(block: &Block, snippets: u64) -> Result<CodeAssembler, IcedError> {
    let mut code = CodeAssembler::new(64)?;
    let [mut halt, mut wait, mut spin, mut other, mut ends] = [(); 5].map(|()| code.create_label());
    code.mov(rax, snippets)?;
    code.mov(at(block.index()), rax)?;
    code.inc(at(block.ends()))?;
    if block.vcpu == 0 {
        if block.vcpus > 1 {
            code.mov(ecx, ROUNDS)?;
            code.set_label(&mut wait)?;
            for other in 1..block.vcpus {
                code.cmp(at(Block::new(other, block.vcpus).ends()), 0)?;
                if other == 1 {
                    code.setne(al)?;
                } else {
                    code.setne(dl)?;
                    code.and(al, dl)?;
                }
            }
            code.test(al, al)?;
            code.jnz(ends)?;
            // Gives other processors their turn on an emulator.
            code.pause()?;
            code.mov(edx, TURNS)?;
            code.set_label(&mut spin)?;
            code.dec(edx)?;
            code.jnz(spin)?;
            code.dec(ecx)?;
            code.jnz(wait)?;
        }
        code.set_label(&mut ends)?;
        code.mov(eax, Hypercall::Exit as u32)?;
        code.xor(edi, edi)?;
        code.xor(esi, esi)?;
        code.test(byte_ptr(block.ends()), 1)?;
        code.jz(other)?;
        code.vmcall()?;
        code.jmp(block.frame(FINISH))?;
        code.set_label(&mut other)?;
        code.vmmcall()?;
        code.jmp(block.frame(FINISH))?;
    } else {
        code.set_label(&mut halt)?;
        code.cli()?;
        code.hlt()?;
        code.jmp(halt)?;
    }
    Ok(code)
}

/// The code that a vector's gate leads to.
fn stub(block: &Block, vector: u64, to_next: bool) -> Result<CodeAssembler, IcedError> {
    let mut code = CodeAssembler::new(64)?;
    // Vectors with an error code (SDM 3A table 7-1).
    let has_code = matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30);
    if to_next {
        code.jmp(block.frame(NEXT))?;
        return Ok(code);
    }
    if !has_code {
        code.push(0)?;
    }
    code.push(vector as i32)?;
    code.jmp(block.frame(if vector < 32 { TRAP } else { INTERRUPT }))?;
    Ok(code)
}
