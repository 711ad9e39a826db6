//! The start of scenarios: a guest's state, which a scenario's row changes, and the pages that the processor reads.

use tollgate_abi::machine::{PAGE_BYTES, PAGE_TABLES_GPA};
use tollgate_abi::profile::Profile;
use tollgate_abi::x86::control::{CR0_AM, CR4_OSXSAVE, RFLAGS_AC};
use tollgate_abi::x86::segment::SELECTOR_RPL;

use super::Vmx;
use super::field::{self as f, *};
use super::guest_state;
use super::scenario_hardware as hardware;
use super::wanted::TERTIARY;
use crate::board::{Board, Signal};
use crate::exit::{GuestRegisters, GuestState, State};
use crate::memory::GuestMemory;
use crate::nested::Table;
use tollgate_abi::profile::{CR8_EXITING, INTERRUPT_DELIVERY, TPR_SHADOW};
use tollgate_abi::x86::controls::{bits, entry, pin, proc, proc2, proc3};

/// Guest-physical pages of the boot area that the unikernel no longer needs: code, data (with the stack at its end),
/// the APIC-access page, a task-state segment.
pub(super) const CODE: u64 = 0x9000;
pub(super) const DATA: u64 = 0xa000;
const STACK_END: u64 = DATA + 0xff0;
const APIC_PAGE: u64 = 0xb000;
const TSS: u64 = 0xc000;

/// Ticks that a scenario may take.
const BOUND_TICKS: u64 = 100_000;

/// Access rights (SDM 3C table 25-2) of 32-bit code, and of 64-bit code and a stack of ring 3.
const CODE_32: u32 = 0xc09b;
const USER_CODE_64: u32 = 0xa0fb;
const USER_STACK: u32 = 0xc0f3;
/// A paging-structure entry: the page is ring 3's, too.
const USER: u8 = 1 << 2;

/// The offset of the writable MSRs in the bitmap of user MSRs.
pub(super) const USER_MSR_WRITES: u64 = 0x800;

/// Pages for the processor, in host-physical memory, which outlast a row.
#[derive(Debug)]
#[expect(missing_docs, reason = "named after the fields that refer to them")]
pub struct Pages {
    pub virtual_apic: &'static mut Table,
    pub msr_load: &'static mut Table,
    pub pml: &'static mut Table,
    pub eptp_list: &'static mut Table,
    pub spp: &'static mut Table,
    pub virtualization_exception: &'static mut Table,
    /// The answer of [`supervisor_component`]; 0 for none.
    pub xss_component: u64,
    /// An MSR's old value, for the clean-up of the row that changed it.
    pub kept_msr: u64,
}

/// CET's user state, in IA32_XSS.
const CET_USER: u64 = 1 << 11;

/// A component for IA32_XSS, which raises #GP for one that the processor does not have (SDM 1 13.3). It is the first that
/// CPUID.(EAX=0DH,ECX=1):ECX offers. Bochs 2.7 offers none and takes any, so that a write has to tell if none is offered.
pub fn supervisor_component(offered: u32, takes: impl FnOnce(u64) -> bool) -> Option<u64> {
    if offered == 0 { takes(CET_USER).then_some(CET_USER) } else { Some(1 << offered.trailing_zeros()) }
}

/// The state that a row works on.
pub(super) struct Frame<'a> {
    pub(super) vmx: &'a mut Vmx,
    pub(super) memory: &'a mut GuestMemory,
    pub(super) pages: &'a mut Pages,
    pub(super) board: &'a Board,
    pub(super) registers: GuestRegisters,
}

/// The physical address of a page for the processor.
pub(super) fn address(page: &Table) -> u64 {
    core::ptr::from_ref(page) as u64
}

impl Frame<'_> {
    /// The state that every row starts from.
    #[inline(never)]
    pub(super) fn reset(&mut self) {
        self.vmx.watch_no_more();
        let _ = self.vmx.set_profile(Profile::Minimal);
        guest_state::write(&mut self.vmx.vmcs, CODE, PAGE_TABLES_GPA);
        self.vmx.set(State::Cr0, guest_state::CR0);
        self.vmx.set(State::Cr4, guest_state::CR4);
        self.vmx.vmcs.write(GUEST_RSP, STACK_END);
        self.vmx.vmcs.write(ENTRY_INTERRUPTION_INFORMATION, 0);
        self.bound(BOUND_TICKS);
        let _ = self.memory.zero(DATA, TSS + 0x1000 - DATA);
        self.registers.rdi = self.fresh_gpa();
        self.vmx.flush_translations(None);
    }

    /// Ends the scenario after `ticks` of the TSC, if the processor has the timer for it.
    fn bound(&mut self, ticks: u64) {
        if self.vmx.capabilities.pin.may >> pin::PREEMPTION_TIMER & 1 != 0 {
            self.pin(bits(&[pin::PREEMPTION_TIMER]));
            let count = ticks >> self.vmx.capabilities.preemption_timer_shift();
            self.vmx.vmcs.write(PREEMPTION_TIMER, u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    /// Asks another processor for a signal, which has as much time to come as a processor may be away.
    pub(super) fn ask(&mut self, signal: Signal) {
        self.bound(self.board.patience(BOUND_TICKS));
        self.board.ask(signal);
    }

    #[inline(never)]
    pub(super) fn pin(&mut self, bits: u32) {
        let pin = self.vmx.vmcs.read(PIN_CONTROLS);
        self.vmx.vmcs.write(PIN_CONTROLS, pin | bits);
    }

    #[inline(never)]
    pub(super) fn proc(&mut self, set: u32, clear: u32) {
        let proc = self.vmx.vmcs.read(PROC_CONTROLS);
        self.vmx.vmcs.write(PROC_CONTROLS, (proc | set) & !clear);
    }

    #[inline(never)]
    pub(super) fn proc2(&mut self, bits: u32) {
        let proc2 = self.vmx.vmcs.read(PROC2_CONTROLS);
        self.vmx.vmcs.write(PROC2_CONTROLS, proc2 | bits);
    }

    /// Sets tertiary controls, of which the monitor itself needs none.
    #[inline(never)]
    pub(super) fn proc3(&mut self, bits: u64) {
        self.proc(TERTIARY, 0);
        self.vmx.vmcs.write(PROC3_CONTROLS, bits);
    }

    #[inline(never)]
    pub(super) fn cr4(&mut self, bits: u64) {
        let cr4 = self.vmx.vmcs.read(GUEST_CR4);
        self.vmx.vmcs.write(GUEST_CR4, cr4 | bits);
    }

    /// TPR shadow instead of CR8 exits, with these doublewords in the virtual-APIC page.
    #[inline(never)]
    pub(super) fn virtual_apic(&mut self, registers: &[(usize, u64)]) {
        self.pages.virtual_apic.0.fill(0);
        for &(offset, value) in registers {
            self.pages.virtual_apic.0[offset / 8] |= value << (8 * (offset % 8));
        }
        self.vmx.vmcs.write(VIRTUAL_APIC_ADDRESS, address(self.pages.virtual_apic));
        self.vmx.vmcs.write(TPR_THRESHOLD, 0);
        self.proc(TPR_SHADOW, CR8_EXITING);
    }

    /// The APIC-access page with these secondary controls; RDI points at a register in it.
    #[inline(never)]
    pub(super) fn apic_access(&mut self, offset: u64, proc2: u32) {
        self.proc2(proc2);
        self.vmx.vmcs.write(APIC_ACCESS_ADDRESS, self.vmx.memory_hpa + APIC_PAGE);
        if proc2 & INTERRUPT_DELIVERY != 0 {
            self.vmx.vmcs.write(EOI_EXIT_BITMAP_0, 0);
            self.vmx.vmcs.write(GUEST_INTERRUPT_STATUS, 0);
        }
        self.registers.rdi = APIC_PAGE + offset;
    }

    /// The page whose EPT entry a scenario may change: the first that the machine has on first touch.
    pub(super) fn fresh_gpa(&self) -> u64 {
        self.vmx.ept.fresh_gpa()
    }

    #[inline(never)]
    pub(super) fn fresh_entry(&mut self, entry: u64) {
        self.vmx.ept.set_fresh_entry(self.fresh_gpa(), entry);
        self.ept_pointer(0);
    }

    #[inline(never)]
    pub(super) fn ept_pointer(&mut self, extra: u64) {
        let pointer = self.vmx.ept.pointer() | extra;
        self.vmx.vmcs.write(EPT_POINTER, pointer);
        self.vmx.vmcs.invalidate_ept(pointer);
    }

    /// IA32_XSS and the XSS-exiting bitmap with one component in common, and EDX:EAX asking for it: the exit comes before
    /// anything is saved.
    #[inline(never)]
    pub(super) fn supervisor_state(&mut self) {
        let component = self.pages.xss_component;
        self.proc2(bits(&[proc2::ENABLE_XSAVES]));
        self.vmx.vmcs.write(XSS_EXITING_BITMAP, component);
        self.vmx.set(State::Cr4, guest_state::CR4 | CR4_OSXSAVE);
        self.pages.kept_msr = hardware::change_xss(component);
        (self.registers.rax, self.registers.rdi) = (component, DATA);
    }

    /// The set-up for UMWAIT and TPAUSE, which exit under RDTSC exiting (SDM 3C 26.1.3).
    #[inline(never)]
    pub(super) fn user_wait(&mut self) {
        self.proc2(bits(&[proc2::ENABLE_USER_WAIT]));
        self.proc(bits(&[proc::RDTSC_EXITING]), 0);
    }

    /// Lists of one MSR, number 0, and its value, which is 0, too; bit 0 of RCX selects them.
    #[inline(never)]
    pub(super) fn msr_list(&mut self) {
        self.proc3(1 << proc3::ENABLE_MSR_LIST);
        (self.registers.rcx, self.registers.rsi, self.registers.rdi) = (1, DATA, DATA + 8);
    }

    /// A bitmap of the MSRs that URDMSR and UWRMSR may access, with the bit of the first MSR at `offset`.
    #[inline(never)]
    pub(super) fn user_msr(&mut self, offset: u64) {
        let _ = self.memory.write(DATA + offset, &[1]);
        hardware::write_user_msr_ctl(DATA | hardware::USER_MSR_ENABLED);
    }

    /// Has one more exception exit.
    #[inline(never)]
    pub(super) fn exception(&mut self, vector: u8) {
        let bitmap = self.vmx.vmcs.read(EXCEPTION_BITMAP);
        self.vmx.vmcs.write(EXCEPTION_BITMAP, bitmap | 1 << vector);
    }

    /// 32-bit code in IA-32e mode.
    #[inline(never)]
    pub(super) fn compatibility_mode(&mut self) {
        self.vmx.vmcs.write(GUEST_CS_RIGHTS, CODE_32);
    }

    /// Ring 3 of 64-bit mode, which has to align its accesses (SDM 3A 6.15, interrupt 17).
    #[inline(never)]
    pub(super) fn aligned_ring_3(&mut self) {
        self.user_pages(USER);
        self.vmx.set(State::Cr0, guest_state::CR0 | CR0_AM);
        let vmcs = &mut self.vmx.vmcs;
        for (selector, rights, value) in
            [(GUEST_CS_SELECTOR, GUEST_CS_RIGHTS, USER_CODE_64), (GUEST_SS_SELECTOR, GUEST_SS_RIGHTS, USER_STACK)]
        {
            vmcs.write(selector, vmcs.read(selector) | SELECTOR_RPL);
            vmcs.write(rights, value);
        }
        let rflags = vmcs.read(GUEST_RFLAGS);
        vmcs.write(GUEST_RFLAGS, rflags | RFLAGS_AC);
    }

    /// Lets ring 3 use the first 2 MiB ([`USER`]), or not: writes the lowest byte of the entry at each level of the page tables.
    #[inline(never)]
    pub(super) fn user_pages(&mut self, user: u8) {
        for (level, byte) in (0..).zip([0x03, 0x03, 0x83]) {
            let _ = self.memory.write(PAGE_TABLES_GPA + level * PAGE_BYTES, &[byte | user]);
        }
    }

    /// An address for virtualization-exception information, in a state that says that it may be written (SDM 3C 26.5.7.2).
    #[inline(never)]
    pub(super) fn virtualization_exceptions(&mut self) {
        self.pages.virtualization_exception.0.fill(0);
        self.proc2(bits(&[proc2::EPT_VIOLATION_VE]));
        self.vmx.vmcs.write(VIRTUALIZATION_EXCEPTION_ADDRESS, address(self.pages.virtualization_exception));
        self.fresh_entry(0);
    }

    /// 32-bit protected mode without paging, with a task-state segment at selector 0x28 and one in the task register.
    #[inline(never)]
    pub(super) fn protected_mode(&mut self) {
        let _ = self.memory.write_u64(DATA + 0x28, 0x0000_8900_0000_0067 | TSS << 16);
        let vmcs = &mut self.vmx.vmcs;
        vmcs.write(GUEST_GDTR_BASE, DATA);
        vmcs.write(GUEST_GDTR_LIMIT, 0x2f);
        vmcs.write(GUEST_CR0, 0x21);
        vmcs.write(f::GUEST_CR3, 0);
        vmcs.write(GUEST_CR4, self.vmx.cr4_forced);
        vmcs.write(GUEST_IA32_EFER, 0);
        vmcs.write(GUEST_CS_RIGHTS, CODE_32);
        vmcs.write(GUEST_TR_BASE, TSS);
        let entry = vmcs.read(ENTRY_CONTROLS);
        vmcs.write(ENTRY_CONTROLS, entry & !bits(&[entry::IA_32E_MODE_GUEST]));
        self.proc2(bits(&[proc2::UNRESTRICTED_GUEST]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_is_one_that_the_processor_takes() {
        // Skylake: processor trace; Tiger Lake: CET, too.
        for (offered, component) in [(0x100, 0x100), (0x1900, 0x100), (0x1800, 0x800)] {
            let takes = |_| panic!("what is offered need not be tried");
            assert_eq!(supervisor_component(offered, takes), Some(component), "{offered:#x}");
        }
        // Bochs 2.7, and Bochs 3.0 as Ice Lake.
        assert_eq!(supervisor_component(0, |_| true), Some(CET_USER));
        assert_eq!(supervisor_component(0, |_| false), None);
    }
}
