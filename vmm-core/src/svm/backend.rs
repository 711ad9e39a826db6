//! The VMCB as a [`Backend`]: facts are the exit information and the saved state, effects are saved state and controls.

use tollgate_abi::exit_reason::Controls;
use tollgate_abi::profile::Profile;
use tollgate_abi::{ExitReason, svm_exit};

use super::code_page::CodePage;
use super::controls::{HLT, IRET, VINTR};
use super::exit_information as information;
use super::nmi::Nmis;
use super::vmcb::{self as f, Field, Segment};
use super::{Halt, Svm, entry_checks, guest_state, permission_maps};
use crate::exit::{
    Action, Backend, CrAccess, DrAccess, Event, EventKind, GuestRegisters, IoAccess, Operand, PhysicalFault, RawReason,
    State, TableInstruction, UNRESOLVED, VirtualizedApic, vector,
};
use crate::host::registers;
use crate::instruction::decode::{Instruction, MAX_BYTES, decode};
use crate::instruction::prefixes::CodeMode;
use crate::machine::NEVER;
use crate::paging;

pub(super) const RFLAGS_TF: u64 = 1 << 8;
pub(super) const RFLAGS_IF: u64 = 1 << 9;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const CR0_PE: u64 = 1;
const CR4_MCE: u64 = 1 << 6;
pub(super) const DR6_BS: u64 = 1 << 14;
/// DR6 bits that tell the causes of a #DB, which the processor has set in the saved DR6 (APM 2 15.12.2).
const DR6_CAUSES: u64 = 0x600f;
/// CS rights: L; D.
const CS_LONG: u64 = 1 << 13;
const CS_DEFAULT: u64 = 1 << 14;
/// L in the VMCB's attributes of CS.
const ATTRIBUTE_LONG: u64 = 1 << 9;
/// EXITINFO1 of a control-register write, with decode assists: it is a MOV, from the register in bits 3:0.
const IS_MOV: u64 = 1 << 63;

/// Segment registers by the number in instructions, ES first.
const SEGMENTS: [Segment; 6] = [f::ES, f::CS, f::SS, f::DS, f::FS, f::GS];

impl Svm {
    /// Whether interrupts are injected as virtual ones, by V_IRQ (APM 2 15.21.4). QEMU takes one from EVENTINJ a second time if
    /// the processor's turn ends before the next exit: it keeps the vector as that of an exception under way (seen on 7.2).
    #[inline(always)]
    fn injects_virtual_interrupts(&self) -> bool {
        self.capabilities.facts.is_qemu && !self.window
    }

    /// A virtual interrupt that was injected, and not taken because something physical came first.
    #[inline(always)]
    fn waiting_interrupt(&self) -> Option<Event> {
        if !self.injects_virtual_interrupts() {
            return None;
        }
        let interrupt = self.vmcb.get(f::VIRTUAL_INTERRUPT);
        let vector = (interrupt >> f::V_INTR_VECTOR_SHIFT) as u8;
        (interrupt & f::V_IRQ != 0).then(|| Event::interrupt(vector))
    }

    #[inline(always)]
    fn code(&self) -> u32 {
        self.vmcb.get(f::EXITCODE) as u32
    }

    #[cold]
    #[inline(never)]
    fn rare_reason(&self) -> RawReason {
        let code = self.code();
        let reason = svm_exit::reason(code, self.vmcb.get(f::EXITINFO1));
        let failed = if code == svm_exit::INVALID { 1 << 31 } else { 0 };
        RawReason(failed | u32::from(reason.0))
    }

    #[inline(always)]
    fn has_shadow(&self) -> bool {
        self.vmcb.part(f::INTERRUPT_SHADOW) != 0
    }

    #[inline(always)]
    fn steps(&self) -> bool {
        self.vmcb.get(f::RFLAGS) & RFLAGS_TF != 0
    }

    /// The instruction at RIP.
    #[cold]
    #[inline(never)]
    pub(super) fn instruction(&self) -> Option<Instruction> {
        let rights = self.get(State::CsRights);
        let mode = match (rights & CS_LONG != 0 && self.long_mode, rights & CS_DEFAULT != 0) {
            (true, _) => CodeMode::Bits64,
            (false, true) => CodeMode::Bits32,
            (false, false) => CodeMode::Bits16,
        };
        let base = if mode == CodeMode::Bits64 { 0 } else { self.vmcb.get(f::CS.base()) };
        let mut bytes = [0; MAX_BYTES];
        let linear = base.wrapping_add(self.vmcb.get(f::RIP));
        let read = paging::fetch(self, &mut self.memory.share(), self.physical_bits, linear, &mut bytes);
        if mode == CodeMode::Bits64 && self.code() == information::CR0_WRITE && self.capabilities.next_rip {
            // For `cr0_write_by_code`.
            let way = paging::path_to(self, &mut self.memory.share(), self.physical_bits, linear);
            let cr3 = self.vmcb.get(f::CR3);
            self.code_page.set(way.and_then(|(gpa, path)| CodePage::new(linear, cr3, gpa, path, &self.memory)));
        }
        decode(&bytes[..read], mode)
    }

    /// The RIP behind the instruction that exited.
    #[inline(always)]
    fn next_rip(&self) -> u64 {
        if self.capabilities.next_rip { self.vmcb.get(f::NRIP) } else { self.computed_next_rip() }
    }

    #[cold]
    #[inline(never)]
    fn computed_next_rip(&self) -> u64 {
        // IOIO tells it on every processor (APM 2 15.10.2).
        if self.exit_reason().basic() == ExitReason::IO_INSTRUCTION {
            return self.vmcb.get(f::EXITINFO2);
        }
        let bytes = self.instruction().map_or(0, |instruction| instruction.length);
        let next = self.vmcb.get(f::RIP).wrapping_add(bytes.into());
        // It wraps where RIP has 32 bits.
        if self.get(State::CsRights) & CS_LONG != 0 { next } else { next & u64::from(u32::MAX) }
    }

    /// The base of a segment in the guest's mode.
    fn segment_base(&self, number: u8) -> u64 {
        let in_64_bit_mode = self.get(State::CsRights) & CS_LONG != 0;
        match number {
            4 => self.get(State::FsBase),
            5 => self.get(State::GsBase),
            0..4 if !in_64_bit_mode => self.vmcb.get(SEGMENTS[usize::from(number)].base()),
            _ => 0,
        }
    }

    fn named_failure(&self) -> Option<&'static str> {
        entry_checks::first_failure(self.vmcb, self.physical_bits)
    }

    pub(super) fn set_intercept_0(&mut self, bit: u32, on: bool) {
        self.vmcb.put(f::INTERCEPTS, u64::from(bit) << 32, on);
    }

    /// The event whose delivery the exit interrupted. For a software exception that was injected, RIP is behind its instruction: it goes
    /// back there, as it is for one of the guest's own, in case something else is to be delivered first.
    #[cold]
    #[inline(never)]
    fn interrupted_event(&self, information: u64) -> Option<Event> {
        let (rip, bytes) = (self.software_rip, self.software_bytes);
        let at = self.vmcb.get(f::RIP);
        let is_here = at == rip || at == rip.wrapping_add(bytes.into());
        if bytes == 0 || !is_here || !information::is_software_exception(information) {
            return information::vectoring_event(information);
        }
        self.vmcb.set(f::RIP, rip);
        let event = Event::exception(information as u8);
        Some(Event { kind: EventKind::SoftwareException, instruction_bytes: bytes, ..event })
    }

    /// Reads what VMSAVE saves.
    #[cold]
    #[inline(never)]
    fn hidden(&self, read: impl FnOnce() -> u64) -> u64 {
        self.operation.save(self.vmcb);
        read()
    }

    /// Writes what VMLOAD loads.
    #[cold]
    #[inline(never)]
    fn set_hidden(&mut self, write: impl FnOnce()) {
        self.operation.save(self.vmcb);
        write();
        self.operation.load(self.vmcb);
    }

    /// The source of LMSW.
    fn lmsw_source(&self, instruction: &Instruction, registers: &mut GuestRegisters) -> u16 {
        let rsp = self.vmcb.get(f::RSP);
        let operand = instruction.operand(registers, rsp, self.next_rip(), |segment| self.segment_base(segment));
        match operand {
            Some(Operand::Register(number)) => registers.by_number(number).map_or(rsp, |register| *register) as u16,
            Some(Operand::Memory(linear)) => {
                let mut bytes = [0; 2];
                paging::fetch(self, &mut self.memory.share(), self.physical_bits, linear, &mut bytes);
                u16::from_le_bytes(bytes)
            }
            None => 0,
        }
    }
}

/// The register that MOV to CR0 reads, if 64-bit code begins with one, without any prefix but REX (APM 3, MOV CRn: mod is ignored).
#[inline(always)]
const fn mov_to_cr0(code: u32) -> Option<u8> {
    const REX: u32 = 0x40;
    const REX_R: u32 = 4;
    const REX_B: u32 = 1;
    const fn is_one(opcode: u32) -> bool {
        opcode & 0x38_ffff == 0x220f
    }
    if is_one(code) {
        return Some((code >> 16) as u8 & 7);
    }
    if code & (0xf0 | REX_R) == REX && is_one(code >> 8) {
        return Some((code >> 24) as u8 & 7 | ((code & REX_B) << 3) as u8);
    }
    None
}

/// Where a segment or descriptor-table register's parts are, for those that #VMEXIT saves.
#[inline(always)]
fn saved(state: State) -> Option<Field> {
    Some(match state {
        State::Rip => f::RIP,
        State::Rsp => f::RSP,
        State::Rflags => f::RFLAGS,
        State::Cr0 => f::CR0,
        State::Cr2 => f::CR2,
        State::Cr3 => f::CR3,
        State::Dr6 => f::DR6,
        State::Dr7 => f::DR7,
        State::GdtrBase => f::GDTR.base(),
        State::IdtrBase => f::IDTR.base(),
        _ => return None,
    })
}

impl Backend for Svm {
    const WATCHDOG_INTERRUPTS: bool = true;
    const MAY_NEED_CODE: bool = true;

    #[inline(always)]
    fn exit_reason(&self) -> RawReason {
        self.whole_reason(self.frequent_reason())
    }

    #[inline(always)]
    fn frequent_reason(&self) -> RawReason {
        let reason = svm_exit::frequent_reason(self.code(), || self.vmcb.get(f::EXITINFO1));
        reason.map_or(UNRESOLVED, |reason| RawReason(reason.0.into()))
    }

    #[inline(always)]
    fn whole_reason(&self, frequent: RawReason) -> RawReason {
        if frequent == UNRESOLVED { self.rare_reason() } else { frequent }
    }

    #[inline(always)]
    fn steps_quickly(&self) -> bool {
        self.capabilities.next_rip
    }

    #[inline(always)]
    fn quick_step_over(&mut self) {
        self.vmcb.set(f::RIP, self.vmcb.get(f::NRIP));
    }

    fn qualification(&self) -> u64 {
        match self.code() {
            information::PF => self.vmcb.get(f::EXITINFO2),
            information::DB => self.vmcb.get(f::DR6) & DR6_CAUSES,
            _ => self.vmcb.get(f::EXITINFO1),
        }
    }

    #[inline(always)]
    fn io_access(&self) -> IoAccess {
        information::io_access(self.vmcb.get(f::EXITINFO1))
    }

    fn string_io_segment_base(&self, _: u64) -> u64 {
        const ES: u8 = 0;
        const DS: u8 = 3;
        if self.io_access().is_in {
            return self.segment_base(ES);
        }
        let segment = self.instruction().and_then(|instruction| instruction.segment_override).unwrap_or(DS);
        self.segment_base(segment)
    }

    fn string_io_address_bytes(&self) -> u8 {
        information::string_io_address_bytes(self.vmcb.get(f::EXITINFO1))
    }

    #[inline(always)]
    fn cr0_write(&self) -> Option<u8> {
        let information = self.vmcb.get(f::EXITINFO1);
        // Without decode assists, bit 63 is reserved.
        let is_mov =
            self.code() == information::CR0_WRITE && self.capabilities.decode_assists && information & IS_MOV != 0;
        is_mov.then_some(information as u8 & 15)
    }

    #[inline(always)]
    fn cr0_write_by_code(&mut self) -> Option<u8> {
        let vmcb = self.vmcb;
        let is_64_bit = vmcb.part(f::CS.attributes()) & ATTRIBUTE_LONG != 0;
        if self.code() != information::CR0_WRITE || self.capabilities.decode_assists || !is_64_bit {
            return None;
        }
        let rip = vmcb.get(f::RIP);
        let page = self.code_page.get_mut().as_ref()?;
        mov_to_cr0(page.peek(rip, vmcb.get(f::CR3), &self.memory)?)
    }

    fn cr_access(&self, registers: &mut GuestRegisters) -> CrAccess {
        let instruction = self.instruction();
        let access =
            instruction.and_then(|instruction| instruction.cr_access(|| self.lmsw_source(&instruction, registers)));
        // The code names the register, whatever became of the instruction's bytes meanwhile.
        access.unwrap_or(match self.code() {
            code @ 0..=0xf => CrAccess::Read { cr: code as u8, register: 0 },
            code => CrAccess::Write { cr: code as u8 & 15, register: 0 },
        })
    }

    fn dr_access(&self) -> DrAccess {
        let code = self.code();
        let access = self.instruction().and_then(|instruction| instruction.dr_access());
        access.unwrap_or(DrAccess { dr: code as u8 & 7, register: 0, is_read: code & 0x10 == 0 })
    }

    fn table_access(&self, registers: &mut GuestRegisters) -> (TableInstruction, Operand) {
        let rsp = self.vmcb.get(f::RSP);
        let access = self.instruction().and_then(|instruction| {
            instruction.table_instruction(registers, rsp, self.next_rip(), |segment| self.segment_base(segment))
        });
        access.unwrap_or((TableInstruction::Sgdt, Operand::Register(0)))
    }

    #[inline(always)]
    fn physical_fault(&self) -> PhysicalFault {
        information::physical_fault(self.vmcb.get(f::EXITINFO1), self.vmcb.get(f::EXITINFO2))
    }

    fn is_rdtscp(&self) -> bool {
        const RDTSC: u32 = 0x0f31;
        self.capabilities.facts.is_qemu && self.instruction().is_some_and(|instruction| instruction.opcode != RDTSC)
    }

    fn invalidated_address(&self, registers: &mut GuestRegisters) -> u64 {
        if self.capabilities.decode_assists {
            return self.vmcb.get(f::EXITINFO1);
        }
        let rsp = self.vmcb.get(f::RSP);
        let operand = self.instruction().and_then(|instruction| {
            instruction.operand(registers, rsp, self.next_rip(), |segment| self.segment_base(segment))
        });
        match operand {
            Some(Operand::Memory(linear)) => linear,
            _ => 0,
        }
    }

    fn exit_event(&self) -> Option<Event> {
        let bytes = || self.instruction().map_or(1, |instruction| instruction.length);
        information::event(self.code(), self.vmcb.get(f::EXITINFO1), bytes)
    }

    #[inline(always)]
    fn take_exit_event(&mut self) -> Option<Event> {
        let bytes = || self.instruction().map_or(1, |instruction| instruction.length);
        Some(information::exception_or_nmi(self.code(), self.vmcb.get(f::EXITINFO1), bytes))
    }

    fn take_interrupt(&mut self) -> u8 {
        if let Some(Halt { rip, .. }) = self.halt {
            // It halts on, unless it is woken.
            self.vmcb.set(f::RIP, rip);
        }
        self.operation.take_interrupt()
    }

    fn take_nmi(&mut self) {
        self.operation.take_nmi();
    }

    fn nmi_handler_ends(&mut self) {
        self.iret();
    }

    #[inline(always)]
    fn takes_own_step(&mut self) -> bool {
        self.ends_own_step()
    }

    #[inline(always)]
    fn was_delivering(&self) -> bool {
        self.waiting_interrupt().is_some() || information::is_valid(self.vmcb.get(f::EXITINTINFO))
    }

    #[inline(always)]
    fn vectoring_event(&self) -> Option<Event> {
        self.waiting_interrupt().or_else(|| {
            let information = self.vmcb.get(f::EXITINTINFO);
            if information::is_valid(information) { self.interrupted_event(information) } else { None }
        })
    }

    #[inline(always)]
    fn get(&self, state: State) -> u64 {
        let vmcb = self.vmcb;
        match state {
            State::Rip => vmcb.get(f::RIP),
            State::Rflags => vmcb.get(f::RFLAGS),
            State::Cr0 => vmcb.get(f::CR0),
            State::InstructionBytes => self.next_rip().wrapping_sub(vmcb.get(f::RIP)),
            State::Cr4 => vmcb.get(f::CR4) & !CR4_MCE,
            State::Efer => vmcb.get(f::EFER) & !f::EFER_SVME | self.held_back_efer,
            State::CsBase => vmcb.get(f::CS.base()),
            State::CsRights => guest_state::rights(vmcb.part(f::CS.attributes())),
            // The privilege level has a field of its own.
            State::SsRights => guest_state::rights(vmcb.part(f::SS.attributes())) & !(3 << 5) | vmcb.part(f::CPL) << 5,
            State::GdtrLimit => vmcb.part(f::GDTR.limit()),
            State::IdtrLimit => vmcb.part(f::IDTR.limit()),
            State::LdtrSelector => self.hidden(|| vmcb.part(f::LDTR.selector())),
            State::LdtrBase => self.hidden(|| vmcb.get(f::LDTR.base())),
            State::LdtrLimit => self.hidden(|| vmcb.part(f::LDTR.limit())),
            State::LdtrRights => self.hidden(|| guest_state::rights(vmcb.part(f::LDTR.attributes()))),
            State::TrSelector => self.hidden(|| vmcb.part(f::TR.selector())),
            State::TrBase => self.hidden(|| vmcb.get(f::TR.base())),
            State::TrLimit => self.hidden(|| vmcb.part(f::TR.limit())),
            State::TrRights => self.hidden(|| guest_state::rights(vmcb.part(f::TR.attributes()))),
            State::TscOffset => vmcb.get(f::TSC_OFFSET),
            state => match saved(state) {
                Some(field) => vmcb.get(field),
                None => registers::read(state),
            },
        }
    }

    #[inline(always)]
    fn set(&mut self, state: State, value: u64) {
        let vmcb = self.vmcb;
        match state {
            State::Cr0 => vmcb.set(f::CR0, value),
            State::Efer => {
                self.held_back_efer = if self.long_mode { 0 } else { value & EFER_LME };
                vmcb.set(f::EFER, value & !self.held_back_efer | f::EFER_SVME);
            }
            State::Cr2 => {
                vmcb.set(f::CR2, value);
                // VMRUN loads it from the block, but for that of Bochs 2.7, which leaves what is in the register.
                registers::write(state, value);
            }
            State::TscOffset => vmcb.set(f::TSC_OFFSET, value),
            State::Cr3 => vmcb.set(f::CR3, value),
            State::Dr6 => vmcb.set(f::DR6, value),
            State::Dr7 => vmcb.set(f::DR7, value),
            State::GdtrBase => vmcb.set(f::GDTR.base(), value),
            State::IdtrBase => vmcb.set(f::IDTR.base(), value),
            State::Cr4 => vmcb.set(f::CR4, value | self.machine_check),
            State::GdtrLimit => vmcb.set_part(f::GDTR.limit(), value),
            State::IdtrLimit => vmcb.set_part(f::IDTR.limit(), value),
            State::LdtrSelector => self.set_hidden(|| vmcb.set_part(f::LDTR.selector(), value)),
            State::LdtrBase => self.set_hidden(|| vmcb.set(f::LDTR.base(), value)),
            State::LdtrLimit => self.set_hidden(|| vmcb.set_part(f::LDTR.limit(), value)),
            State::LdtrRights => {
                self.set_hidden(|| vmcb.set_part(f::LDTR.attributes(), guest_state::attributes(value)));
            }
            State::TrSelector => self.set_hidden(|| vmcb.set_part(f::TR.selector(), value)),
            State::TrBase => self.set_hidden(|| vmcb.set(f::TR.base(), value)),
            State::TrLimit => self.set_hidden(|| vmcb.set_part(f::TR.limit(), value)),
            State::TrRights => self.set_hidden(|| vmcb.set_part(f::TR.attributes(), guest_state::attributes(value))),
            State::CsBase | State::CsRights | State::SsRights | State::InstructionBytes => {
                unreachable!("no instruction that a handler emulates writes {state:?}")
            }
            state => match saved(state) {
                Some(field) => vmcb.set_any(field, value),
                None => registers::write(state, value),
            },
        }
    }

    #[inline(always)]
    fn step_over(&mut self) {
        self.vmcb.set(f::RIP, self.next_rip());
    }

    #[inline(always)]
    fn ends_plainly(&self) -> bool {
        !self.has_shadow() && !self.steps()
    }

    fn advance(&mut self) {
        if let Some(halt) = &mut self.halt
            && !halt.stays
        {
            halt.stays = true;
            return;
        }
        self.step_over();
        self.vmcb.set_part(f::INTERRUPT_SHADOW, 0);
        if self.steps() {
            // There is no pending debug exception to be left to the processor.
            self.vmcb.set(f::DR6, self.vmcb.get(f::DR6) | DR6_BS);
            self.inject(Event::exception(vector::DB));
        }
    }

    fn keep_single_step(&mut self) {}

    #[inline(always)]
    fn inject(&mut self, event: Event) {
        if event.instruction_bytes != 0 {
            let rip = self.vmcb.get(f::RIP);
            (self.software_rip, self.software_bytes) = (rip, event.instruction_bytes);
            // What is pushed is the RIP behind the instruction.
            let rip = rip.wrapping_add(event.instruction_bytes.into());
            self.vmcb.set(f::RIP, rip);
            self.vmcb.set(f::NRIP, rip);
        }
        if event.kind == EventKind::Nmi {
            self.nmis.begin();
            self.set_intercept_0(IRET, true);
        }
        if event.kind == EventKind::ExternalInterrupt && self.injects_virtual_interrupts() {
            let others = self.vmcb.get(f::VIRTUAL_INTERRUPT) & !f::V_INTR_VECTOR;
            let vector = u64::from(event.vector) << f::V_INTR_VECTOR_SHIFT;
            self.vmcb.set(f::VIRTUAL_INTERRUPT, others | vector | f::V_IRQ);
        } else {
            // In real mode nothing delivers an error code (APM 2 8.2).
            let is_real_mode = || !self.long_mode && self.vmcb.get(f::CR0) & CR0_PE == 0;
            let error_code = event.error_code.filter(|_| !is_real_mode());
            self.vmcb.set(f::EVENTINJ, information::injection(Event { error_code, ..event }));
        }
    }

    fn flush_translations(&mut self, linear: Option<u64>) {
        match linear {
            None => self.new_asid(),
            Some(linear) => {
                self.operation.invalidate_address(linear, self.asid);
            }
        }
    }

    #[inline(always)]
    fn map_fresh_page(&mut self, gpa: u64) -> bool {
        let hpa = self.memory.host_base() + gpa;
        self.npt.map_fresh(gpa, hpa)
    }

    fn set_limit(&mut self, limit_tsc: u64, _: u64) {
        self.limit_tsc = limit_tsc;
        self.watch_tsc = limit_tsc;
        self.program_timer();
    }

    fn virtualized_apic(&self) -> VirtualizedApic {
        VirtualizedApic::default()
    }

    fn set_interrupt_status(&mut self, _: u8, _: u8) {}

    fn set_priority_threshold(&mut self, _: u8) {}

    fn takes_interrupts(&self, ends: bool) -> bool {
        self.vmcb.get(f::RFLAGS) & RFLAGS_IF != 0 && if ends { !self.steps() } else { !self.has_shadow() }
    }

    fn takes_nmis(&self, ends: bool) -> bool {
        !self.nmis.in_handler && !self.is_before_iret() && if ends { !self.steps() } else { !self.has_shadow() }
    }

    fn ask_for_nmi_window(&mut self, wanted: bool) {
        if wanted {
            self.await_nmi_window();
        }
    }

    fn ask_for_window(&mut self, wanted: bool) {
        if wanted != self.window {
            self.vmcb.put(f::VIRTUAL_INTERRUPT, f::V_IRQ, wanted);
            self.set_intercept_0(VINTR, wanted);
            self.window = wanted;
        }
    }

    #[inline(always)]
    fn set_task_priority(&mut self, class: u8) {
        self.vmcb.set_part(f::V_TPR, class.into());
    }

    fn halt(&mut self) {
        // It is behind STI no more, though it is executed again; else an interrupt that comes before that, as on QEMU 10,
        // could not be delivered and would wake nobody.
        self.vmcb.set_part(f::INTERRUPT_SHADOW, 0);
        // The pause that follows leaves the watchdog off.
        self.set_intercept_0(HLT, false);
        let rip = self.vmcb.get(f::RIP);
        self.halt = Some(Halt { rip, bytes: self.next_rip().wrapping_sub(rip), stays: false });
    }

    fn wake(&mut self) {
        if let Some(Halt { rip, bytes, .. }) = self.halt.take() {
            self.vmcb.set(f::RIP, rip.wrapping_add(bytes));
            self.set_intercept_0(HLT, true);
            self.set_watchdog(true);
        }
    }

    fn kick(&mut self, apic_id: u32) {
        self.local_apic.interrupt(apic_id, self.kick_vector);
    }

    fn end_of_interrupt(&mut self) {
        self.local_apic.end_of_interrupt();
    }

    fn arm_timer(&mut self, deadline_tsc: Option<u64>) {
        self.guest_deadline_tsc = deadline_tsc.unwrap_or(NEVER);
        self.program_timer();
    }

    fn start_up(&mut self, vector: u8) {
        self.long_mode = false;
        self.halt = None;
        self.held_back_efer = 0;
        self.nmis = Nmis::default();
        self.set_task_priority(0);
        guest_state::write_real_mode(self.vmcb, vector);
        self.vmcb.set(f::CR4, self.machine_check);
        self.operation.load(self.vmcb);
        self.new_asid();
    }

    fn enter_long_mode(&mut self) {
        self.held_back_efer = 0;
        self.vmcb.set(f::EFER, self.vmcb.get(f::EFER) | EFER_LME | EFER_LMA);
        self.long_mode = true;
        self.new_asid();
    }

    fn set_profile(&mut self, profile: Profile) -> Controls {
        let intercepts = self.intercepts(profile);
        // From now on others may be the guest's own.
        self.software_bytes = 0;
        intercepts.write(self.vmcb);
        self.set_intercept_0(VINTR, self.window);
        self.set_intercept_0(IRET, self.nmis.intercepts_iret());
        self.set_intercept_0(HLT, self.halt.is_none());
        permission_maps::fill_msrpm(self.msrpm, profile);
        self.vmcb.mark_group(f::PERMISSION_MAPS);
        intercepts.in_force()
    }

    fn restart_watchdog(&mut self) {
        self.set_watchdog(self.halt.is_none());
    }

    fn watchdog_is_due(&mut self) -> bool {
        let due = self.is_past_watchdog(self.tsc());
        if !due {
            self.program_timer();
        }
        due
    }

    /// QEMU makes VMEXIT_INVALID of a MOV to CR3 that is not intercepted, in 64-bit mode with a value beyond the physical-address width,
    /// where the processor raises #GP(0) (APM 3, MOV CRn). State and RIP are then those of the guest at that instruction.
    #[cold]
    #[inline(never)]
    fn after_failed_entry(&mut self, registers: &mut GuestRegisters) -> Option<Action> {
        let in_64_bit_mode = self.long_mode && self.get(State::CsRights) & CS_LONG != 0;
        if !self.capabilities.facts.is_qemu || !in_64_bit_mode || self.named_failure().is_some() {
            return None;
        }
        let Some(CrAccess::Write { cr: 3, register }) = self.instruction()?.cr_access(|| 0) else { return None };
        let value = registers.by_number(register).map_or(self.vmcb.get(f::RSP), |value| *value);
        (value >> self.physical_bits != 0).then_some(Action::Inject(Event::GENERAL_PROTECTION))
    }

    fn entry_failure(&self) -> &'static str {
        self.named_failure().unwrap_or("the state is invalid for VMRUN")
    }

    #[inline(always)]
    fn tsc(&self) -> u64 {
        registers::tsc()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mov_to_cr0_is_known_by_its_bytes() {
        let check = |bytes: [u8; 4], expected| {
            assert_eq!(mov_to_cr0(u32::from_le_bytes(bytes)), expected, "{bytes:x?}");
        };
        check([0x0f, 0x22, 0xc3, 0x90], Some(3));
        check([0x0f, 0x22, 0x03, 0x90], Some(3));
        check([0x41, 0x0f, 0x22, 0xc6], Some(14));
        check([0x48, 0x0f, 0x22, 0xc0], Some(0));
        // CR8, CR4, a read, another prefix.
        check([0x44, 0x0f, 0x22, 0xc0], None);
        check([0x0f, 0x22, 0xe0, 0x90], None);
        check([0x0f, 0x20, 0xc0, 0x90], None);
        check([0xf0, 0x0f, 0x22, 0xc0], None);
    }
}
