//! One suite of exits for both backends. An exit, as VT-x would report it to the scripted backend and as SVM reports it in a
//! VMCB, leads to the same registers, the same events and the same way on.
#![expect(unsafe_code, reason = "an SVM backend whose instructions are not executed")]

use core::cell::Cell;

use tollgate_abi::ExitReason;
use tollgate_abi::apic::{EOI, TPR};
use tollgate_abi::svm_exit::{self, code, exception};
use tollgate_abi::x86::control::{EFER_SVME, RFLAGS_IF, RIGHTS_LONG};

use super::capability::Capabilities;
use super::capability::tests::{qemu, zambezi};
use super::instructions::SvmOperation;
use super::nmi::Nmis;
use super::npt::Npt;
use super::{Svm, exit_information, guest_state, vmcb as f};
use crate::exit::{
    Action, CrAccess, DrAccess, Event, ExitFacts, GuestRegisters, GuestState, Interrupts, IoAccess, Operand,
    PhysicalFault, State, TableInstruction, vector,
};
use crate::host::local_apic::LocalApic;
use crate::host::own_apic::OwnApic;
use crate::ledger::Ledger;
use crate::memory::GuestMemory;
use crate::memory::tests::memory;
use crate::nested::Table;
use crate::script::{Script, machine};
use crate::vcpu::{Flow, Vcpu};

/// The address of the instruction, and the page tables, which map the first 2 MiB to themselves.
pub(crate) const RIP: u64 = 0x4000;
pub(crate) const PML4: u64 = 0x1000;

/// Writes the page tables.
pub(crate) fn write_tables(memory: &mut GuestMemory) {
    for (at, entry) in [(PML4, 0x2003), (0x2000, 0x3003), (0x3000, 0x83)] {
        memory.write_u64(at, entry).unwrap();
    }
}

/// A backend at an exit with this code and information, for an instruction with these bytes.
pub(crate) fn svm(assisted: bool, code: u32, exitinfo1: u64, exitinfo2: u64, bytes: &[u8]) -> Svm {
    let mut memory = memory(64 << 10);
    write_tables(&mut memory);
    memory.write(RIP, bytes).unwrap();
    let vmcb: &'static f::Vmcb = Box::leak(Box::new(f::Vmcb::new()));
    guest_state::write(vmcb, RIP, PML4);
    vmcb.set(f::EXITCODE, code.into());
    vmcb.set(f::EXITINFO1, exitinfo1);
    vmcb.set(f::EXITINFO2, exitinfo2);
    vmcb.set(f::NRIP, RIP + bytes.len() as u64);
    let capabilities = Capabilities::read(if assisted { zambezi } else { qemu }, 0, 0).unwrap();
    let mut npt = Npt::new(vec![Table::EMPTY; 8].leak(), 0x10_0000);
    npt.prepare(8 << 20, 0x8080_0000, 2 << 20).unwrap();
    Svm {
        vmcb,
        // SAFETY: none of the exits here executes an instruction of SVM.
        operation: unsafe { SvmOperation::new() },
        capabilities,
        npt,
        memory,
        msrpm: Box::leak(Box::new([const { Table::EMPTY }; 2])),
        physical_bits: 40,
        code_page: Cell::new(None),
        asid: 1,
        flushes_by_asid: false,
        flushed: false,
        long_mode: true,
        held_back_efer: 0,
        window: false,
        nmis: Nmis::default(),
        software_rip: 0,
        software_bytes: 0,
        machine_check: 0,
        halt: None,
        own_apic: OwnApic::new(LocalApic::scripted(), 0xe0),
        watchdog_ticks: 0,
        watch_tsc: crate::host::registers::NEVER,
        limit_tsc: crate::host::registers::NEVER,
        bound_tsc: crate::host::registers::NEVER,
        guest_deadline_tsc: crate::host::registers::NEVER,
    }
}

/// The exit as VT-x would report it.
fn script(reason: ExitReason) -> Script {
    let mut script = Script { reason: reason.0.into(), ..Script::default() };
    script.set(State::Cr0, crate::vmx::guest_state::CR0);
    script.set(State::Cr4, crate::vmx::guest_state::CR4);
    script.set(State::Efer, crate::vmx::guest_state::EFER);
    script.set(State::CsRights, RIGHTS_LONG);
    script
}

/// The same exit on both backends, on a processor that tells the next RIP and on one that does not.
fn same(script: impl Fn() -> Script, svm_exit: (u32, u64, u64, &[u8]), registers: GuestRegisters, next: Next) {
    let (code, exitinfo1, exitinfo2, bytes) = svm_exit;
    let mut expected = registers;
    let mut of_script = Vcpu::new(script(), machine());
    let flow = of_script.drive(&Ledger::new(), &mut expected, 0);
    // Without the next RIP, CPUID asks the processor for XCR0, which a host program may not.
    for assisted in [true, false].into_iter().filter(|&assisted| assisted || code != code::CPUID) {
        let mut vcpu = Vcpu::new(svm(assisted, code, exitinfo1, exitinfo2, bytes), machine());
        vcpu.backend.vmcb.entered();
        let left = vcpu.backend.vmcb.snapshot();
        let (account, mut registers) = (Ledger::new(), registers);
        assert_eq!(vcpu.drive(&account, &mut registers, 0), flow, "{code:#x}");
        assert_eq!(registers, expected, "{code:#x}");
        assert_eq!(account.count(ExitReason(of_script.backend.reason as u16)), 1, "{code:#x} is counted as its twin");
        let vmcb = vcpu.backend.vmcb;
        assert_eq!(vmcb.wrongly_clean(&left), None, "{code:#x} changes what is said to be clean");
        let (rip, injected) = match next {
            Next::Behind => (RIP + bytes.len() as u64, 0),
            Next::Again => (RIP, 0),
            Next::Raises(event) => (RIP, exit_information::injection(event)),
        };
        assert_eq!((vmcb.get(f::RIP), vmcb.get(f::EVENTINJ)), (rip, injected), "{code:#x}");
        let of_script = of_script.backend.injected.first().map_or(0, |&event| exit_information::injection(event));
        assert_eq!(of_script, injected, "{code:#x}");
        assert_eq!(vcpu.backend.get(State::Cr0), script_cr0(&vcpu, code), "{code:#x}");
    }
    assert_eq!(flow, Flow::Resume);
}

/// CR0 after an exit: as at the entry, unless the exit is a write of it.
fn script_cr0(vcpu: &Vcpu<Svm>, code: u32) -> u64 {
    let at_entry = crate::vmx::guest_state::CR0;
    if code == code::CR0_WRITE { vcpu.backend.vmcb.get(f::CR0) } else { at_entry }
}

/// The guest's next step.
#[derive(Clone, Copy)]
enum Next {
    Behind,
    Again,
    Raises(Event),
}

#[test]
fn the_same_exits_lead_to_the_same() {
    let registers = GuestRegisters { rax: 0x1234, rcx: 0x1b, rdx: 7, rbx: 0x8000_0033, ..Default::default() };
    let call = GuestRegisters { rax: 0, ..registers };
    let script = |reason| move || script(reason);
    same(script(ExitReason::CPUID), (code::CPUID, 0, 0, &[0x0f, 0xa2]), call, Next::Behind);
    same(script(ExitReason::CPUID), (code::CPUID, 0, 0, &[0x48, 0x0f, 0xa2]), call, Next::Behind);
    same(script(ExitReason::VMCALL), (code::VMMCALL, 0, 0, &[0x0f, 0x01, 0xd9]), call, Next::Behind);
    same(script(ExitReason::RDMSR), (code::MSR, 0, 0, &[0x0f, 0x32]), registers, Next::Behind);
    same(script(ExitReason::INVD), (code::INVD, 0, 0, &[0x0f, 0x08]), registers, Next::Behind);
    same(script(ExitReason::PAUSE), (code::PAUSE, 0, 0, &[0xf3, 0x90]), registers, Next::Behind);
    let refused = |event| Next::Raises(event);
    let wild = GuestRegisters { rcx: 0x4711, ..registers };
    same(script(ExitReason::WRMSR), (code::MSR, 1, 0, &[0x0f, 0x30]), wild, refused(Event::GENERAL_PROTECTION));
    same(script(ExitReason::RDPMC), (code::RDPMC, 0, 0, &[0x0f, 0x33]), registers, refused(Event::GENERAL_PROTECTION));
    same(
        script(ExitReason::MONITOR),
        (code::MONITOR, 0, 0, &[0x0f, 0x01, 0xc8]),
        registers,
        refused(Event::UNDEFINED_OPCODE),
    );

    let io = |port, is_in| IoAccess { port, bytes: 1, is_in, is_string: false, is_repeated: false };
    let access = |io| move || Script { io: Some(io), ..self::script(ExitReason::IO_INSTRUCTION) };
    same(
        access(io(0x80, true)),
        (code::IOIO, 0x80 << 16 | 1 << 4 | 1, RIP + 2, &[0xe4, 0x80]),
        registers,
        Next::Behind,
    );
    same(access(io(0x80, false)), (code::IOIO, 0x80 << 16 | 1 << 4, RIP + 2, &[0xe6, 0x80]), registers, Next::Behind);

    let cr = |cr| move || Script { cr: Some(cr), ..self::script(ExitReason::CR_ACCESS) };
    let write = |cr, register| CrAccess::Write { cr, register };
    same(cr(write(0, 3)), (code::CR0_WRITE, 0, 0, &[0x0f, 0x22, 0xc3]), registers, Next::Behind);
    same(
        cr(CrAccess::Read { cr: 8, register: 3 }),
        (code::CR8_READ, 0, 0, &[0x44, 0x0f, 0x20, 0xc3]),
        registers,
        Next::Behind,
    );
    let nw_alone = GuestRegisters { rbx: 0xa000_0033, ..registers };
    same(cr(write(0, 3)), (code::CR0_WRITE, 0, 0, &[0x0f, 0x22, 0xc3]), nw_alone, refused(Event::GENERAL_PROTECTION));
    same(cr(CrAccess::Clts), (code::CR0_WRITE, 0, 0, &[0x0f, 0x06]), registers, Next::Behind);

    let fault = PhysicalFault { gpa: 0x80_1000, read: false, write: true, fetch: false };
    let fresh = move || Script {
        physical_fault: Some(fault),
        fresh: 8 << 20..10 << 20,
        ..self::script(ExitReason::EPT_VIOLATION)
    };
    same(fresh, (code::NPF, 1 << 32 | 2, 0x80_1000, &[0x89, 0x07]), registers, Next::Again);

    let raised = |event| move || Script { exit_event: Some(event), ..self::script(ExitReason::EXCEPTION_OR_NMI) };
    let protection = Event::fault(vector::GP, 0x18);
    same(raised(protection), (exception(vector::GP), 0x18, 0, &[0x90]), registers, refused(protection));
    same(
        raised(Event::UNDEFINED_OPCODE),
        (exception(vector::UD), 0, 0, &[0x0f, 0x0b]),
        registers,
        refused(Event::UNDEFINED_OPCODE),
    );
}

#[test]
fn the_watchdog_is_due_from_its_deadline_on() {
    let mut svm = svm(true, code::INTR, 0, 0, &[0x90]);
    assert!(!svm.is_past_watchdog(u64::MAX - 1), "it is off");
    svm.watch_tsc = 500;
    assert_eq!((svm.is_past_watchdog(499), svm.is_past_watchdog(500)), (false, true));
}

#[test]
fn long_mode_that_is_enabled_and_not_active_is_the_guests_to_see_and_not_the_processors() {
    const LME: u64 = 1 << 8;
    const LMA: u64 = 1 << 10;
    const NXE: u64 = 1 << 11;
    let mut svm = svm(true, code::MSR, 0, 0, &[0x0f, 0x30]);
    svm.set(State::Efer, LME | LMA | NXE);
    assert_eq!(svm.vmcb.get(f::EFER), LME | LMA | NXE | EFER_SVME, "in long mode it is active");
    svm.long_mode = false;
    svm.set(State::Cr0, 0x11);
    svm.set(State::Efer, LME | NXE);
    assert_eq!((svm.get(State::Efer), svm.vmcb.get(f::EFER)), (LME | NXE, NXE | EFER_SVME));
    svm.set(State::Efer, NXE);
    assert_eq!((svm.get(State::Efer), svm.vmcb.get(f::EFER)), (NXE, NXE | EFER_SVME), "it can be cleared again");
    svm.set(State::Efer, LME);
    svm.enter_long_mode();
    assert_eq!((svm.get(State::Efer), svm.vmcb.get(f::EFER)), (LME | LMA, LME | LMA | EFER_SVME));
}

#[test]
fn real_mode_gets_no_error_code() {
    let mut svm = svm(true, code::MSR, 0, 0, &[0x0f, 0x32]);
    svm.long_mode = false;
    for (cr0, event) in [(0x10, Event::exception(vector::GP)), (0x11, Event::GENERAL_PROTECTION)] {
        svm.vmcb.set(f::CR0, cr0);
        svm.inject(Event::GENERAL_PROTECTION);
        assert_eq!(svm.vmcb.get(f::EVENTINJ), exit_information::injection(event), "CR0 {cr0:#x}");
    }
}

#[test]
fn what_no_assist_tells_is_in_the_bytes() {
    let mut registers = GuestRegisters { rdi: 0x5000, ..Default::default() };
    let sgdt = svm(false, code::GDTR_READ, 0, 0, &[0x0f, 0x01, 0x47, 0x10]);
    assert_eq!(sgdt.table_access(&mut registers), (TableInstruction::Sgdt, Operand::Memory(0x5010)));
    let invlpg = svm(false, code::INVLPG, 0, 0, &[0x0f, 0x01, 0x3f]);
    assert_eq!(invlpg.invalidated_address(&mut registers), 0x5000);
    let dr = svm(false, code::DR7_WRITE, 0, 0, &[0x0f, 0x23, 0xfe]).dr_access();
    assert_eq!((dr.dr, dr.register, dr.is_read), (7, 6, false));
    assert_eq!(svm(false, code::RDPMC, 0, 0, &[0x0f, 0x33]).get(State::InstructionBytes), 2);
    // The instruction is gone: the exit code still names the register.
    let lost = svm(false, code::CR3_WRITE, 0, 0, &[0x90]);
    assert_eq!(lost.cr_access(&mut registers), CrAccess::Write { cr: 3, register: 0 });
}

#[test]
fn qemu_gets_interrupts_as_virtual_ones_and_none_is_lost_to_what_comes_first() {
    let interrupt = Event::interrupt(0x31);
    let mut on_amd = svm(true, code::INTR, 0, 0, &[0x90]);
    on_amd.inject(interrupt);
    assert_eq!(
        (on_amd.vmcb.get(f::EVENTINJ), on_amd.vectoring_event()),
        (exit_information::injection(interrupt), None)
    );

    let mut on_qemu = svm(false, code::INTR, 0, 0, &[0x90]);
    on_qemu.inject(interrupt);
    assert_eq!((on_qemu.vmcb.get(f::EVENTINJ), on_qemu.vectoring_event()), (0, Some(interrupt)));
    let vmcb = on_qemu.vmcb;
    vmcb.set(f::VIRTUAL_INTERRUPT, vmcb.get(f::VIRTUAL_INTERRUPT) & !f::V_IRQ);
    assert_eq!(on_qemu.vectoring_event(), None, "it was taken");
    // An interrupt window is a virtual interrupt, too: others are then injected as usual.
    on_qemu.ask_for_window(true);
    assert_eq!(on_qemu.vectoring_event(), None);
    on_qemu.inject(interrupt);
    assert_eq!(vmcb.get(f::EVENTINJ), exit_information::injection(interrupt));

    // The timer's interrupt had not been taken when another vCPU's came.
    let mut vcpu = Vcpu::new(svm(false, code::NMI, 0, 0, &[0x90]), machine());
    vcpu.backend.inject(interrupt);
    vcpu.machine.devices.apic.request(0x80);
    assert_eq!(crate::handlers::delivery::resume(&mut vcpu.backend, &mut vcpu.machine), Action::Inject(interrupt));
}

/// A guest changes its page tables between two instructions at one address: the tables stay where they are, and CR3 gets the same
/// value again, which flushes the processor's translations without an exit.
#[test]
fn code_that_was_mapped_elsewhere_meanwhile_is_not_taken_for_what_was_there() {
    const CS_LONG: u64 = 1 << 9;
    let mov_from = |register: u8| [0x0f, 0x22, 0xc0 | register];
    let mut svm = svm(true, code::CR0_WRITE, 0, 0, &mov_from(3));
    assert_eq!(svm.cr0_write_by_code(), None, "no instruction has been looked at yet");
    assert_eq!(svm.instruction().map(|instruction| instruction.length), Some(3));
    assert_eq!(svm.cr0_write_by_code(), Some(3));
    svm.memory.write(RIP, &mov_from(2)).unwrap();
    assert_eq!(svm.cr0_write_by_code(), Some(2), "other code in the same page");

    // 4 KiB pages in place of the large one, and the code in another page.
    svm.memory.write(0x9000, &mov_from(1)).unwrap();
    svm.memory.write_u64(0x3000, 0x6003).unwrap();
    svm.memory.write_u64(0x6000 + (RIP >> 9), 0x9003).unwrap();
    assert_ne!(svm.cr0_write_by_code(), Some(2), "the page is another's now");
    assert!(svm.instruction().is_some());
    assert_eq!(svm.cr0_write_by_code(), Some(1));

    // A quick decision by code is the same as the thorough one.
    let registers = GuestRegisters { rcx: 0x8001_0033, ..GuestRegisters::default() };
    let (mut vcpu, account) = (Vcpu::new(svm, machine()), Ledger::new());
    let mut found = registers;
    assert_eq!(vcpu.drive_quickly(&account, &mut found), None);
    assert_eq!((account.count(ExitReason::CR_ACCESS), account.histogram(ExitReason::CR_ACCESS).iter().sum()), (1, 1));
    let mut svm = vcpu.backend;
    assert_eq!((found, svm.vmcb.get(f::CR0), svm.vmcb.get(f::RIP)), (registers, 0x8001_0033, RIP + 3));
    svm.vmcb.set(f::RIP, RIP);

    // Outside of 64-bit code RIP is no linear address.
    let attributes = f::CS.attributes();
    svm.vmcb.set_part(attributes, svm.vmcb.part(attributes) & !CS_LONG);
    assert_eq!(svm.cr0_write_by_code(), None);
}

/// The register is told by the code of a page that has been looked at, and by the exit code.
#[test]
fn accesses_are_told_by_code_whose_place_is_known() {
    let mut read = svm(true, code::CR3_READ, 0, 0, &[0x0f, 0x20, 0xd9]);
    assert_eq!(read.told_cr_access(), None, "no instruction has been looked at yet");
    let access = CrAccess::Read { cr: 3, register: 1 };
    assert_eq!((read.cr_access(&mut GuestRegisters::default()), read.told_cr_access()), (access, Some(access)));
    for other in [code::CR0_READ, code::CR3_WRITE] {
        read.vmcb.set(f::EXITCODE, other.into());
        assert_eq!(read.told_cr_access(), None, "exit code {other:#x} is not that of the code");
    }
    let mut write = svm(true, code::DR7_WRITE, 0, 0, &[0x41, 0x0f, 0x23, 0xf8]);
    let access = DrAccess { dr: 7, register: 8, is_read: false };
    assert_eq!((write.told_dr_access(), write.dr_access(), write.told_dr_access()), (None, access, Some(access)));
    write.vmcb.set(f::EXITCODE, code::DR7_READ.into());
    assert_eq!(write.told_dr_access(), None, "the code writes");
    assert_eq!(write.told_cr_access(), None, "it is no control register");
}

/// The number of the VMCB's fields that `drive` writes besides RAX, and of the groups of these that an entry reloads then.
pub(crate) fn writes(vcpu: &mut Vcpu<Svm>, drive: impl FnOnce(&mut Vcpu<Svm>)) -> (usize, usize) {
    vcpu.backend.vmcb.entered();
    f::tests::WRITTEN.take();
    drive(vcpu);
    let written = f::tests::WRITTEN.take();
    let clean = vcpu.backend.vmcb.get(f::CLEAN) as u32;
    (written.into_iter().filter(|&field| field != f::RAX).count(), (f::ALL_CLEAN & !clean).count_ones() as usize)
}

/// Fields that one exit writes, for the sake of those that the processor has to reload behind it: a clean bit is cleared if a
/// field's group has one. RAX comes on top where the exit is not handled quickly.
#[test]
fn an_exit_writes_no_more_than_it_needs() {
    let registers = GuestRegisters { rcx: 0x1b, rbx: 0x8000_0033, ..Default::default() };
    let check =
        |what: &str, (code, exitinfo1, exitinfo2, bytes): (u32, u64, u64, &[u8]), fields: &[&str], reloaded: u32| {
            let mut vcpu = Vcpu::new(svm(true, code, exitinfo1, exitinfo2, bytes), machine());
            vcpu.backend.vmcb.set_part(f::TLB_CONTROL, 1);
            vcpu.backend.vmcb.entered();
            f::tests::WRITTEN.take();
            let _ = vcpu.drive(&Ledger::new(), &mut registers.clone(), 0);
            let written: Vec<&str> = f::tests::WRITTEN.take().into_iter().map(f::Field::name).collect();
            let clean = vcpu.backend.vmcb.get(f::CLEAN) as u32;
            assert_eq!((written, f::ALL_CLEAN & !clean), (fields.to_vec(), reloaded), "{what}");
            assert_eq!(vcpu.backend.vmcb.part(f::TLB_CONTROL), 0, "{what} flushes nothing");
        };
    const CONTROL_REGISTERS: u32 = 1 << 5;
    const MOV_TO_CR0: &[&str] = &["CR0", "RIP", "interrupt shadow"];
    check("CPUID", (code::CPUID, 0, 0, &[0x0f, 0xa2]), &["RAX", "RIP"], 0);
    check("VMMCALL", (code::VMMCALL, 0, 0, &[0x0f, 0x01, 0xd9]), &["RIP"], 0);
    check("RDMSR", (code::MSR, 0, 0, &[0x0f, 0x32]), &["RAX", "RIP"], 0);
    check("IN", (code::IOIO, 0x80 << 16 | 1 << 4 | 1, RIP + 2, &[0xe4, 0x80]), &["RAX", "RIP"], 0);
    check("PAUSE", (code::PAUSE, 0, 0, &[0xf3, 0x90]), &["RIP"], 0);
    check("MOV to CR0", (code::CR0_WRITE, 0, 0, &[0x0f, 0x22, 0xc3]), MOV_TO_CR0, CONTROL_REGISTERS);
    check("a fresh page", (code::NPF, 1 << 32 | 2, 0x80_1000, &[0x89, 0x07]), &[], 0);
    check("#GP handed back", (exception(vector::GP), 0x18, 0, &[0x90]), &["EVENTINJ"], 0);
    check("RDPMC", (code::RDPMC, 0, 0, &[0x0f, 0x33]), &["EVENTINJ"], 0);
}

#[test]
fn asids_are_new_until_there_are_no_more_and_a_flush_is_not_forgotten() {
    let mut old = svm(false, code::CPUID, 0, 0, &[0x0f, 0xa2]);
    let control = |svm: &Svm| (svm.vmcb.part(f::GUEST_ASID), svm.vmcb.part(f::TLB_CONTROL));
    old.vmcb.set_part(f::TLB_CONTROL, 1);
    old.new_asid();
    assert_eq!(control(&old), (2, 1), "nothing has been entered that could have flushed");
    old.capabilities.asids = 4;
    old.about_to_enter();
    assert_eq!(control(&old), (2, 1));
    old.about_to_enter();
    old.new_asid();
    assert_eq!(control(&old), (3, 0), "an entry has");
    old.new_asid();
    assert_eq!(control(&old), (1, 1), "all of them are used: all are flushed");
    old.about_to_enter();
    old.about_to_enter();
    old.new_asid();
    assert_eq!(control(&old), (2, 0));
    let mut new = svm(true, code::CPUID, 0, 0, &[0x0f, 0xa2]);
    new.flushes_by_asid = true;
    for _ in 0..2 {
        new.new_asid();
        assert_eq!(control(&new), (1, 3));
        new.vmcb.entered();
        assert_eq!(control(&new), (1, 0));
    }
}

#[test]
fn an_injected_breakpoint_whose_delivery_faults_is_not_lost() {
    const BREAKPOINT: u32 = exception(vector::BP);
    let mut vcpu = Vcpu::new(svm(true, BREAKPOINT, 0, 0, &[0xcc]), machine());
    let (account, mut registers) = (Ledger::new(), GuestRegisters::default());
    let vmcb = vcpu.backend.vmcb;
    let own = (0x8000_0303, RIP);
    let injected = (0x8000_0303, RIP + 1);
    let after = |vcpu: &mut Vcpu<Svm>, code: u32, (exitintinfo, rip): (u64, u64), registers: &mut GuestRegisters| {
        vmcb.set(f::EXITCODE, code.into());
        vmcb.set(f::EXITINFO1, 2);
        vmcb.set(f::EXITINFO2, 0x80_1000);
        vmcb.set(f::EXITINTINFO, exitintinfo);
        vmcb.set(f::RIP, rip);
        vmcb.set(f::EVENTINJ, 0);
        assert_eq!(vcpu.drive(&account, registers, 0), Flow::Resume);
        (vmcb.get(f::EVENTINJ), vmcb.get(f::RIP))
    };
    assert_eq!(after(&mut vcpu, code::NPF, own, &mut registers), (0, RIP), "the guest's own is executed again");
    assert_eq!(after(&mut vcpu, BREAKPOINT, (0, RIP), &mut registers), injected);
    assert_eq!(after(&mut vcpu, code::NPF, injected, &mut registers), injected, "the stack was on a fresh page");
    // A fault of the guest's own comes first, and its handler returns to the instruction.
    let fault = exit_information::injection(Event::fault(vector::NP, 2));
    assert_eq!(after(&mut vcpu, exception(vector::NP), injected, &mut registers), (fault, RIP));
}

#[test]
fn a_machine_check_makes_an_exit_where_the_monitor_lets_it() {
    const MCE: u64 = 1 << 6;
    let mut svm = svm(true, code::CR4_WRITE, 0, 0, &[0x0f, 0x22, 0xe0]);
    svm.machine_check = MCE;
    svm.set(State::Cr4, 0x20);
    assert_eq!((svm.vmcb.get(f::CR4), svm.get(State::Cr4)), (0x20 | MCE, 0x20));
}

/// The exits of a guest at the IRET of an NMI's handler, while a second NMI waits for that IRET.
#[test]
fn an_nmi_waits_until_the_iret_has_been_executed() {
    const DB: u32 = exception(vector::DB);
    const GP: u32 = exception(vector::GP);
    const IRETQ: &[u8] = &[0x48, 0xcf];
    let (flags, tf, interrupts, bs) = (2, 1 << 8, 1 << 9, 1 << 14);
    let nmi = exit_information::injection(Event::NMI);
    let at_iret = |pending| {
        let mut vcpu = Vcpu::new(svm(true, code::IRET, 0, 0, IRETQ), machine());
        vcpu.backend.inject(Event::NMI);
        vcpu.backend.vmcb.set(f::EVENTINJ, 0);
        vcpu.backend.vmcb.set(f::RFLAGS, flags | interrupts);
        vcpu.machine.activity.beside_apic.set_nmi(pending);
        vcpu.machine.devices.apic.request(0x80);
        assert_eq!(vcpu.drive(&Ledger::new(), &mut GuestRegisters::default(), 0), Flow::Resume);
        vcpu
    };
    let exits = |vcpu: &Vcpu<Svm>| {
        (vcpu.backend.vmcb.part(f::INTERCEPT_0) >> 20 & 1, vcpu.backend.vmcb.part(f::INTERCEPT_EXCEPTION))
    };
    let next = |vcpu: &mut Vcpu<Svm>, code: u32, rip, rflags| {
        let vmcb = vcpu.backend.vmcb;
        vmcb.set(f::EXITCODE, code.into());
        vmcb.set(f::RIP, rip);
        vmcb.set(f::RFLAGS, rflags);
        assert_eq!(vcpu.drive(&Ledger::new(), &mut GuestRegisters::default(), 0), Flow::Resume);
        (vmcb.get(f::EVENTINJ), vmcb.get(f::RFLAGS))
    };
    let dr6 = |vcpu: &Vcpu<Svm>| vcpu.backend.vmcb.get(f::DR6);
    let before = svm(true, code::IRET, 0, 0, IRETQ).vmcb.part(f::INTERCEPT_EXCEPTION);

    // After the step nothing was injected before the code::IRET, and the NMI is injected behind it.
    let mut vcpu = at_iret(true);
    let vmcb = vcpu.backend.vmcb;
    assert_eq!((vmcb.get(f::EVENTINJ), vmcb.get(f::RFLAGS)), (0, flags | tf), "no interrupt comes either");
    assert_eq!(exits(&vcpu), (0, u64::from(super::controls::ALL_EXCEPTIONS)));
    let dr6_before = dr6(&vcpu);
    vmcb.set(f::DR6, dr6_before | bs);
    assert_eq!(next(&mut vcpu, DB, 0x5000, flags | interrupts), (nmi, flags | interrupts));
    assert_eq!(
        (dr6(&vcpu), vcpu.machine.activity.beside_apic.has_nmi(), exits(&vcpu)),
        (dr6_before, false, (1, before))
    );

    // On Bochs DR6 does not tell the end of the step.
    let mut vcpu = at_iret(true);
    assert_eq!(next(&mut vcpu, DB, 0x5000, flags | tf), (nmi, flags | tf), "what the IRET has loaded");

    // The NMI comes between the exit and the IRET.
    let mut vcpu = at_iret(false);
    let vmcb = vcpu.backend.vmcb;
    vmcb.set(f::EVENTINJ, 0);
    vcpu.machine.activity.beside_apic.set_nmi(true);
    assert_eq!(crate::handlers::delivery::resume(&mut vcpu.backend, &mut vcpu.machine), Action::Resume);
    assert_eq!(vmcb.get(f::RFLAGS), flags | tf);
    // The IRET faults: its handler sees no single step, and the NMI comes at the end of that handler at the latest.
    let fault = exit_information::injection(Event::GENERAL_PROTECTION);
    assert_eq!(next(&mut vcpu, GP, RIP, flags | tf), (fault, flags | interrupts));
    assert_eq!((vcpu.machine.activity.beside_apic.has_nmi(), exits(&vcpu)), (true, (1, before)));
    vmcb.set(f::EVENTINJ, 0);
    assert_eq!(next(&mut vcpu, code::IRET, 0x6000, flags), (nmi, flags));

    // A data breakpoint at the stack that the IRET reads is the guest's.
    let mut vcpu = at_iret(true);
    let vmcb = vcpu.backend.vmcb;
    vmcb.set(f::DR6, dr6_before | bs | 1);
    let debug = exit_information::injection(Event::exception(vector::DB));
    assert_eq!(next(&mut vcpu, DB, 0x5000, flags), (debug, flags));
    assert_eq!(
        (dr6(&vcpu) & (bs | 0xf), vcpu.machine.activity.beside_apic.has_nmi(), exits(&vcpu)),
        (1, true, (1, before))
    );
}

#[test]
fn a_single_step_is_not_swallowed_by_an_interrupt_that_comes_with_its_instruction() {
    const SELF_IPI: u64 = 0x83f;
    let (flags, tf, interrupts, bs) = (2, 1 << 8, 1 << 9, 1 << 14);
    let mut vcpu = Vcpu::new(svm(true, code::MSR, 1, 0, &[0x0f, 0x30]), machine());
    let vmcb = vcpu.backend.vmcb;
    vmcb.set(f::RFLAGS, flags | tf | interrupts);
    let mut registers = GuestRegisters { rcx: SELF_IPI, rax: 0x80, ..GuestRegisters::default() };
    assert_eq!(vcpu.drive(&Ledger::new(), &mut registers, 0), Flow::Resume);
    let step = exit_information::injection(Event::exception(vector::DB));
    assert_eq!((vmcb.get(f::EVENTINJ), vmcb.get(f::RIP), vmcb.get(f::DR6) & bs), (step, RIP + 2, bs));
    assert!(vcpu.backend.window, "the interrupt comes behind the #DB");
    // The interrupt comes in the handler of the #DB, once that sets RFLAGS.IF.
    vmcb.set(f::EVENTINJ, 0);
    vmcb.set(f::EXITCODE, code::VINTR.into());
    vmcb.set(f::RFLAGS, flags | interrupts);
    assert_eq!(vcpu.drive(&Ledger::new(), &mut registers, 0), Flow::Resume);
    assert_eq!(vmcb.get(f::EVENTINJ), exit_information::injection(Event::interrupt(0x80)));
}

#[test]
fn who_halts_right_behind_sti_is_woken_by_an_interrupt_that_comes_before_hlt_is_executed_again() {
    let mut svm = svm(true, code::HLT, 0, 0, &[0xf4]);
    svm.vmcb.set(f::RFLAGS, RFLAGS_IF);
    svm.vmcb.set_part(f::INTERRUPT_SHADOW, 1);
    assert!(!svm.takes_interrupts(false), "right behind STI");
    svm.halt();
    svm.advance();
    assert_eq!((svm.vmcb.get(f::RIP), svm.takes_interrupts(false)), (RIP, true));
    svm.wake();
    assert_eq!((svm.vmcb.get(f::RIP), svm.vmcb.part(f::INTERRUPT_SHADOW)), (RIP + 1, 0));
}

#[test]
fn qemus_invalid_state_of_a_mov_to_cr3_is_the_exception_that_is_due() {
    let after = |is_on_qemu: bool, bytes: &[u8], registers: GuestRegisters, change: fn(&mut Svm)| {
        let mut vcpu = Vcpu::new(svm(!is_on_qemu, svm_exit::INVALID, 0, 0, bytes), machine());
        for part in [f::INTERCEPT_1, f::GUEST_ASID] {
            vcpu.backend.vmcb.set_part(part, 1);
        }
        change(&mut vcpu.backend);
        let flow = vcpu.drive(&Ledger::new(), &mut registers.clone(), 0);
        (flow, vcpu.backend.vmcb.get(f::EVENTINJ), vcpu.backend.vmcb.get(f::RIP))
    };
    let (refused, failed) =
        ((Flow::Resume, exit_information::injection(Event::GENERAL_PROTECTION), RIP), (Flow::Leave, 0, RIP));
    let (wide, fits) = (
        GuestRegisters { rbx: 1 << 40, ..Default::default() },
        GuestRegisters { rbx: 0xff_ffff_f000, ..Default::default() },
    );
    let (of_rbx, of_rsp) = (&[0x0f, 0x22, 0xdb], &[0x0f, 0x22, 0xdc]);
    assert_eq!(after(true, of_rbx, wide, |_| ()), refused);
    assert_eq!(after(true, of_rsp, fits, |svm| svm.vmcb.set(f::RSP, 1 << 62)), refused);
    assert_eq!(after(true, of_rsp, wide, |_| ()), failed, "RSP fits");
    assert_eq!(after(true, of_rbx, fits, |_| ()), failed, "the value fits");
    assert_eq!(after(true, &[0x0f, 0x22, 0xe3], wide, |_| ()), failed, "it is CR4");
    assert_eq!(after(false, of_rbx, wide, |_| ()), failed, "it is not QEMU");
    assert_eq!(after(true, of_rbx, wide, |svm| svm.vmcb.set_part(f::GUEST_ASID, 0)), failed, "VMRUN refuses the state");
    let in_compatibility_mode = |svm: &mut Svm| svm.vmcb.set_part(f::CS.attributes(), 0xc9b);
    assert_eq!(after(true, of_rbx, wide, in_compatibility_mode), failed, "the operand has 32 bits");
}

#[test]
fn the_guests_task_priority_is_in_the_block_too() {
    let v_tpr = |code, exitinfo1, bytes: &[u8], registers: GuestRegisters| {
        let mut vcpu = Vcpu::new(svm(true, code, exitinfo1, 0, bytes), machine());
        let (vmcb, mut registers) = (vcpu.backend.vmcb, registers);
        vmcb.set(f::VIRTUAL_INTERRUPT, f::V_INTR_MASKING | 3);
        vmcb.entered();
        let left = vmcb.snapshot();
        assert_eq!(vcpu.drive(&Ledger::new(), &mut registers, 0), Flow::Resume);
        assert_eq!(vmcb.wrongly_clean(&left), None);
        assert_eq!(vmcb.get(f::VIRTUAL_INTERRUPT) & f::V_INTR_MASKING, f::V_INTR_MASKING);
        vmcb.part(f::V_TPR)
    };
    let mov = GuestRegisters { rax: 9, ..Default::default() };
    assert_eq!(v_tpr(code::CR8_WRITE, 0, &[0x44, 0x0f, 0x22, 0xc0], mov), 9);
    let wrmsr = |msr: u32, rax| GuestRegisters { rax, rcx: msr.into(), ..Default::default() };
    assert_eq!(v_tpr(code::MSR, 1, &[0x0f, 0x30], wrmsr(TPR, 0x5a)), 5, "the class alone");
    assert_eq!(v_tpr(code::MSR, 1, &[0x0f, 0x30], wrmsr(EOI, 0)), 3);
    assert_eq!(
        v_tpr(code::CR8_WRITE, 0, &[0x44, 0x0f, 0x22, 0xc0], GuestRegisters { rax: 16, ..mov }),
        3,
        "it is refused"
    );
}
