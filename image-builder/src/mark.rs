//! The first program of a marked user space. It writes to a port that no machine has, which makes an exit that is in an emulator's
//! log whatever the hypervisor; then it becomes the program of the usual first process.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use tollgate_abi::peer::MARK_PORT;

/// The path of the first process behind the mark, in a marked user space.
pub const MARKED_INIT: &str = "/marked-init";

/// The program's only segment, and the bytes of the two headers at its beginning (System V gABI, ELF header and program header).
const ADDRESS: u64 = 0x40_0000;
const HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;
const CODE: u64 = ADDRESS + HEADER_BYTES + PROGRAM_HEADER_BYTES;

// System calls (Linux' arch/x86/entry/syscalls/syscall_64.tbl).
const IOPERM: u64 = 173;
const EXECVE: u64 = 59;
const EXIT: u64 = 60;

/// The program, which becomes [`MARKED_INIT`].
pub fn mark() -> Vec<u8> {
    program(MARKED_INIT)
}

/// An ELF file of the program, which becomes `next`, a path without a NUL in it.
fn program(next: &str) -> Vec<u8> {
    // Only an instruction that there is none of can't be encoded, and a test encodes these.
    let code = code(next).unwrap_or_default();
    let bytes = CODE - ADDRESS + code.len() as u64;
    let mut file = Vec::new();
    file.extend(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // An executable for x86-64, version 1.
    file.extend([2_u16, 62].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(1_u32.to_le_bytes());
    file.extend([CODE, HEADER_BYTES, 0].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(0_u32.to_le_bytes());
    let sizes = [HEADER_BYTES as u16, PROGRAM_HEADER_BYTES as u16, 1, 64, 0, 0];
    file.extend(sizes.iter().flat_map(|word| word.to_le_bytes()));
    // PT_LOAD, readable and executable.
    file.extend([1_u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    file.extend([0, ADDRESS, ADDRESS, bytes, bytes, 0x1000].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(code);
    file
}

/// The port is opened, written, and closed again. Arguments and environment, which lie on the stack, are handed on.
fn code(next: &str) -> Result<Vec<u8>, IcedError> {
    let mut code = CodeAssembler::new(64)?;
    let mut path = code.create_label();
    for (open, write) in [(1_u32, true), (0, false)] {
        code.mov(edi, u32::from(MARK_PORT))?;
        code.mov(esi, 1)?;
        code.mov(edx, open)?;
        code.mov(eax, IOPERM as u32)?;
        code.syscall()?;
        if write {
            code.mov(edx, u32::from(MARK_PORT))?;
            code.out(dx, al)?;
        }
    }
    code.mov(rax, qword_ptr(rsp))?;
    code.lea(rdi, ptr(path))?;
    code.lea(rsi, ptr(rsp + 8))?;
    code.lea(rdx, ptr(rsp + rax * 8 + 16))?;
    code.mov(eax, EXECVE as u32)?;
    code.syscall()?;
    code.mov(edi, 1)?;
    code.mov(eax, EXIT as u32)?;
    code.syscall()?;
    code.set_label(&mut path)?;
    let text: Vec<u8> = next.bytes().chain([0]).collect();
    code.db(&text)?;
    code.assemble(CODE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::read::elf::{ElfFile64, ProgramHeader};
    use object::{Endianness, Object};

    /// It is not run here, where it might get its port.
    #[test]
    fn it_is_a_program_that_opens_its_port_writes_and_becomes_the_next() {
        let bytes = program("/bin/true");
        let file = ElfFile64::<Endianness>::parse(&*bytes).unwrap();
        let header = file.elf_program_headers()[0];
        assert_eq!((file.entry(), header.p_memsz(Endianness::Little)), (CODE, bytes.len() as u64));
        let has = |part: &[u8]| bytes.windows(part.len()).any(|found| found == part);
        let [low, high] = MARK_PORT.to_le_bytes();
        assert!(has(&[0x0f, 0x05, 0xba, low, high, 0, 0, 0xee]), "SYSCALL, MOV EDX, OUT DX, AL");
        assert!(bytes.ends_with(b"/bin/true\0"));
    }
}
