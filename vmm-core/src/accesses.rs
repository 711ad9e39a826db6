//! The accesses to the VMCS or VMCB that each kind of exit makes, counted: `ACCESSES.md` is what exits do when host tests drive
//! them. `TOLLGATE_BLESS=1 cargo test -p vmm-core accesses` writes it anew.

use std::fmt::Write;
use std::path::Path;

use tollgate_abi::ExitReason;
use tollgate_abi::apic::{EOI, SELF_IPI, TPR};
use tollgate_abi::svm_exit::{code, exception};
use tollgate_abi::x86::control::{CR4_PAE, DR7_FIXED, RFLAGS_IF};
use tollgate_abi::x86::msr::{IA32_KERNEL_GS_BASE, IA32_TSC_ADJUST};

use crate::exit::{Backend, GuestRegisters, State, vector};
use crate::host::registers::scripted as processor;
use crate::ledger::Ledger;
use crate::machine::Machine;
use crate::script;
use crate::svm::twins::{self as svm, PML4, RIP};
use crate::vcpu::{Flow, Vcpu};
use crate::vmx::scripted::{self as vmx, Reported};

/// The GDT, and in it the selector of a TSS.
const GDT: u64 = 0x6000;
const TSS_SELECTOR: u64 = 0x10;
const TSS: u64 = 0x0000_8900_0000_0067;
/// A place for operands.
const OPERAND: u64 = 0x5000;

/// One kind of exit, and the code and information with which SVM reports it.
struct Row {
    name: &'static str,
    registers: GuestRegisters,
    vmx: Reported,
    svm: (u32, u64, u64),
    bytes: &'static [u8],
}

/// The exits, with RAX and RCX of the guest.
fn rows() -> Vec<Row> {
    let row = |name, (rax, rcx), reason, qualification, (code, exitinfo1), bytes: &'static [u8]| Row {
        name,
        registers: GuestRegisters { rax, rcx, rbx: 0x8000_0033, ..GuestRegisters::default() },
        vmx: Reported { qualification, instruction_bytes: bytes.len() as u32, ..Reported::of(reason) },
        svm: (code, exitinfo1, RIP + bytes.len() as u64),
        bytes,
    };
    let cr = |name, rax, qualification, code, bytes| {
        row(name, (rax, 0), ExitReason::CR_ACCESS, qualification, (code, 0), bytes)
    };
    let wrmsr =
        |name, msr: u32, value| row(name, (value, msr.into()), ExitReason::WRMSR, 0, (code::MSR, 1), &[0x0f, 0x30]);
    let rdmsr = |name, msr: u32| row(name, (0, msr.into()), ExitReason::RDMSR, 0, (code::MSR, 0), &[0x0f, 0x32]);
    let none = (0, 0);
    let raised = |name, vector: u8, kind: u32, error: u64| {
        let row = row(name, none, ExitReason::EXCEPTION_OR_NMI, error, (exception(vector), error), &[0xcc]);
        let delivers = if vector::has_error_code(vector) { 1 << 11 } else { 0 };
        Row { vmx: Reported { interruption: 1 << 31 | kind << 8 | delivers | u32::from(vector), ..row.vmx }, ..row }
    };
    let table = |name, rax, reason, number: u32, code, bytes| {
        let row = row(name, (rax, 0), reason, 0, (code, 0), bytes);
        // The operand is RAX, or in memory where it points: 64-bit addresses, DS, no index (SDM 3C tables 28-11, 28-12).
        let operand = if reason == ExitReason::LDTR_TR_ACCESS { 1 << 10 } else { 2 << 7 | 3 << 15 | 1 << 22 };
        Row { vmx: Reported { instruction: operand | number << 28, ..row.vmx }, ..row }
    };
    const GDTR_IDTR: ExitReason = ExitReason::GDTR_IDTR_ACCESS;
    const LDTR_TR: ExitReason = ExitReason::LDTR_TR_ACCESS;
    let string = |name, direction: u64, bytes| {
        let (qualification, exitinfo1) = (0x80 << 16 | 1 << 4 | direction << 3, 0x80 << 16 | 1 << 9 | 1 << 4 | 1 << 2);
        let row =
            row(name, none, ExitReason::IO_INSTRUCTION, qualification, (code::IOIO, exitinfo1 | direction), bytes);
        Row { vmx: Reported { instruction: 2 << 7, ..row.vmx }, ..row }
    };
    let fresh =
        row("a page's first touch", none, ExitReason::EPT_VIOLATION, 2, (code::NPF, 1 << 32 | 2), &[0x89, 0x07]);
    let fresh =
        Row { vmx: Reported { gpa: 0x80_1000, ..fresh.vmx }, svm: (code::NPF, 1 << 32 | 2, 0x80_1000), ..fresh };
    vec![
        row("CPUID", none, ExitReason::CPUID, 0, (code::CPUID, 0), &[0x0f, 0xa2]),
        row("VMCALL, VMMCALL", none, ExitReason::VMCALL, 0, (code::VMMCALL, 0), &[0x0f, 0x01, 0xc1]),
        rdmsr("RDMSR of a constant", 0x1b),
        rdmsr("RDMSR of IA32_KERNEL_GS_BASE", IA32_KERNEL_GS_BASE),
        rdmsr("RDMSR of IA32_TSC_ADJUST", IA32_TSC_ADJUST),
        wrmsr("WRMSR of IA32_KERNEL_GS_BASE", IA32_KERNEL_GS_BASE, 1),
        wrmsr("WRMSR of IA32_TSC_ADJUST", IA32_TSC_ADJUST, 1),
        wrmsr("WRMSR of TPR", TPR, 1),
        wrmsr("WRMSR of EOI", EOI, 0),
        wrmsr("self-IPI", SELF_IPI, 0x40),
        row("IN", none, ExitReason::IO_INSTRUCTION, 0x80_0008, (code::IOIO, 0x80 << 16 | 1 << 4 | 1), &[0xe4, 0x80]),
        row("OUT", none, ExitReason::IO_INSTRUCTION, 0x80_0000, (code::IOIO, 0x80 << 16 | 1 << 4), &[0xe6, 0x80]),
        string("INS", 1, &[0x6c]),
        string("OUTS", 0, &[0x6e]),
        cr("MOV to CR0", 0, 0x300, code::CR0_WRITE, &[0x0f, 0x22, 0xc3]),
        cr("CLTS", 0, 0x20, code::CR0_WRITE, &[0x0f, 0x06]),
        cr("LMSW", 1, 0x1_0030, code::CR0_WRITE, &[0x0f, 0x01, 0xf0]),
        cr("MOV from CR3", 0, 0x13, code::CR3_READ, &[0x0f, 0x20, 0xd8]),
        cr("MOV to CR3", PML4, 0x3, code::CR3_WRITE, &[0x0f, 0x22, 0xd8]),
        cr("MOV to CR4", CR4_PAE, 0x4, code::CR4_WRITE, &[0x0f, 0x22, 0xe0]),
        cr("MOV from CR8", 0, 0x18, code::CR8_READ, &[0x44, 0x0f, 0x20, 0xc0]),
        cr("MOV to CR8", 1, 0x8, code::CR8_WRITE, &[0x44, 0x0f, 0x22, 0xc0]),
        row("MOV from DR7", none, ExitReason::MOV_DR, 0x17, (code::DR7_READ, 0), &[0x0f, 0x21, 0xf8]),
        row("MOV to DR7", (DR7_FIXED, 0), ExitReason::MOV_DR, 0x7, (code::DR7_WRITE, 0), &[0x0f, 0x23, 0xf8]),
        row("MOV to DR0", none, ExitReason::MOV_DR, 0, (code::DR0_WRITE, 0), &[0x0f, 0x23, 0xc0]),
        row("WBINVD", none, ExitReason::WBINVD, 0, (code::WBINVD, 0), &[0x0f, 0x09]),
        row("PAUSE", none, ExitReason::PAUSE, 0, (code::PAUSE, 0), &[0xf3, 0x90]),
        row("HLT", none, ExitReason::HLT, 0, (code::HLT, 0), &[0xf4]),
        row("RDTSC", none, ExitReason::RDTSC, 0, (code::RDTSC, 0), &[0x0f, 0x31]),
        row("RDTSCP", none, ExitReason::RDTSCP, 0, (code::RDTSCP, 0), &[0x0f, 0x01, 0xf9]),
        row("XSETBV", (1, 0), ExitReason::XSETBV, 0, (code::XSETBV, 0), &[0x0f, 0x01, 0xd1]),
        row("INVLPG", (OPERAND, 0), ExitReason::INVLPG, OPERAND, (code::INVLPG, OPERAND), &[0x0f, 0x01, 0x38]),
        row("RDPMC, refused", none, ExitReason::RDPMC, 0, (code::RDPMC, 0), &[0x0f, 0x33]),
        row("MONITOR, refused", none, ExitReason::MONITOR, 0, (code::MONITOR, 0), &[0x0f, 0x01, 0xc8]),
        raised("#DE, handed back", vector::DE, 3, 0),
        raised("#DB, handed back", vector::DB, 3, 0x4000),
        raised("#BP, handed back", vector::BP, 6, 0),
        raised("#GP, handed back", vector::GP, 3, 0x18),
        raised("#PF, handed back", vector::PF, 3, 2),
        fresh,
        table("SGDT", OPERAND, GDTR_IDTR, 0, code::GDTR_READ, &[0x0f, 0x01, 0x00]),
        table("SIDT", OPERAND, GDTR_IDTR, 1, code::IDTR_READ, &[0x0f, 0x01, 0x08]),
        table("LGDT", OPERAND, GDTR_IDTR, 2, code::GDTR_WRITE, &[0x0f, 0x01, 0x10]),
        table("LIDT", OPERAND, GDTR_IDTR, 3, code::IDTR_WRITE, &[0x0f, 0x01, 0x18]),
        table("SLDT", 0, LDTR_TR, 0, code::LDTR_READ, &[0x0f, 0x00, 0xc0]),
        table("STR", 0, LDTR_TR, 1, code::TR_READ, &[0x0f, 0x00, 0xc8]),
        table("LLDT", 0, LDTR_TR, 2, code::LDTR_WRITE, &[0x0f, 0x00, 0xd0]),
        table("LTR", TSS_SELECTOR, LDTR_TR, 3, code::TR_WRITE, &[0x0f, 0x00, 0xd8]),
    ]
}

/// One of two machines, so that another may end a halt. Its memory has the page tables, and a GDT with a TSS.
fn machine() -> Machine {
    let [mut machine, _] = script::machines();
    svm::write_tables(&mut machine.memory);
    machine.memory.write_u64(GDT + TSS_SELECTOR, TSS).expect("it is in memory");
    machine
}

/// One exit of the row on this vCPU. It does not end the guest; a HLT pauses it.
fn drive<B: Backend>(vcpu: &mut Vcpu<B>, row: &Row) {
    let (account, reason) = (Ledger::new(), row.vmx.reason);
    let expected = if reason == ExitReason::HLT { Flow::Leave } else { Flow::Resume };
    assert_eq!(vcpu.drive(&account, &mut row.registers.clone(), 0), expected, "{}", row.name);
    assert_eq!(account.count(reason), 1, "{}", row.name);
}

/// The guest goes on behind the instruction, if the exit is about one that the guest may execute. So nothing else was raised.
fn check_end<B: Backend>(vcpu: &Vcpu<B>, row: &Row) {
    const STAY: [ExitReason; 5] = [
        ExitReason::EXCEPTION_OR_NMI,
        ExitReason::EPT_VIOLATION,
        ExitReason::HLT,
        ExitReason::MONITOR,
        ExitReason::RDPMC,
    ];
    if !STAY.contains(&row.vmx.reason) {
        assert_eq!(vcpu.backend.get(State::Rip), RIP + row.bytes.len() as u64, "{} raises something", row.name);
    }
}

/// The guest has a GDT and takes interrupts.
fn settle<B: Backend>(backend: &mut B) {
    backend.set(State::GdtrBase, GDT);
    backend.set(State::GdtrLimit, 0xff);
    backend.set(State::Rflags, backend.get(State::Rflags) | RFLAGS_IF);
}

/// Accesses of one exit under VT-x: VMREADs, VMWRITEs, and others.
fn under_vmx(row: &Row) -> [usize; 3] {
    let mut vcpu = Vcpu::new(vmx::vmx(row.vmx, RIP, PML4), machine());
    settle(&mut vcpu.backend);
    processor::begin();
    vmx::take_accesses();
    drive(&mut vcpu, row);
    let (vmx::Accesses { reads, writes }, others) = (vmx::take_accesses(), processor::take_accesses());
    check_end(&vcpu, row);
    [reads, writes, others]
}

/// Accesses of one exit under SVM: fields written, groups reloaded, and others.
fn under_svm(row: &Row) -> [usize; 3] {
    let (code, exitinfo1, exitinfo2) = row.svm;
    let mut vcpu = Vcpu::new(svm::svm(true, code, exitinfo1, exitinfo2, row.bytes), machine());
    settle(&mut vcpu.backend);
    processor::begin();
    let (writes, reloads) = svm::writes(&mut vcpu, |vcpu| drive(vcpu, row));
    let others = processor::take_accesses();
    check_end(&vcpu, row);
    [writes, reloads, others]
}

const HEADING: &str = "# The accesses of exits

On silicon most of an exit's time in the monitor goes to VMREAD, VMWRITE and instructions of their kind, and to the state that the
next entry reloads. This page counts them for one exit of each kind, in 64-bit mode with figures alone kept. The test suite drives
the exits on the host, where each such instruction is counted in place of being executed, and compares this page with what it sees.

- `VMREAD`, `VMWRITE`: executions under VT-x
- `fields`: writes to fields of the VMCB besides RAX
- `reloads`: groups of fields that a processor with clean bits reloads because one of them was written
- `others`: reads and writes of debug registers, CR2, XCR0 and MSRs, among which are those of the processor's own APIC; INVVPID under
  VT-x; VMSAVE, VMLOAD and INVLPGA under SVM. Most of these serialise.

Exits that take an interrupt are left out. The SVM processor has next-RIP saving and no decode assists.

| exit | VMREAD | VMWRITE | others | fields | reloads | others (SVM) |
|---|---:|---:|---:|---:|---:|---:|
";

#[test]
fn no_exit_makes_more_accesses_than_the_document_says() {
    let mut written = HEADING.to_owned();
    for row in rows() {
        let ([reads, writes, others], [fields, reloads, others_of_svm]) = (under_vmx(&row), under_svm(&row));
        writeln!(written, "| {} | {reads} | {writes} | {others} | {fields} | {reloads} | {others_of_svm} |", row.name)
            .expect("a string takes all");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ACCESSES.md");
    if std::env::var_os("TOLLGATE_BLESS").is_some() {
        std::fs::write(&path, &written).expect("the document can be written");
    }
    let agreed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(agreed == written, "ACCESSES.md is out of date; TOLLGATE_BLESS=1 writes it anew:\n{written}");
}
