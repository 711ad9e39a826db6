//! The steps of scenarios under VT-x that more than one row takes, and the pages that the processor reads.

use tollgate_abi::profile::{CR8_EXITING, INTERRUPT_DELIVERY, TPR_SHADOW};
use tollgate_abi::x86::control::CR4_OSXSAVE;
use tollgate_abi::x86::controls::{bits, proc, proc2, proc3};

use super::field::*;
use super::scenario_hardware as hardware;
use super::wanted::TERTIARY;
use super::{Vmx, guest_state};
use crate::exit::{GuestState, State};
use crate::nested::Table;
use crate::staging::{DATA, EXTRA, Frame, Staging};

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

/// The physical address of a page for the processor.
pub(super) fn address(page: &Table) -> u64 {
    core::ptr::from_ref(page) as u64
}

impl Vmx {
    #[inline(never)]
    pub(super) fn pin(&mut self, bits: u32) {
        let pin = self.vmcs.read(PIN_CONTROLS);
        self.vmcs.write(PIN_CONTROLS, pin | bits);
    }

    #[inline(never)]
    pub(super) fn proc(&mut self, set: u32, clear: u32) {
        let proc = self.vmcs.read(PROC_CONTROLS);
        self.vmcs.write(PROC_CONTROLS, (proc | set) & !clear);
    }

    #[inline(never)]
    pub(super) fn proc2(&mut self, bits: u32) {
        let proc2 = self.vmcs.read(PROC2_CONTROLS);
        self.vmcs.write(PROC2_CONTROLS, proc2 | bits);
    }

    /// Sets tertiary controls, of which the monitor itself needs none.
    #[inline(never)]
    pub(super) fn proc3(&mut self, bits: u64) {
        self.proc(TERTIARY, 0);
        self.vmcs.write(PROC3_CONTROLS, bits);
    }

    #[inline(never)]
    pub(super) fn cr4(&mut self, bits: u64) {
        let cr4 = self.vmcs.read(GUEST_CR4);
        self.vmcs.write(GUEST_CR4, cr4 | bits);
    }

    #[inline(never)]
    pub(super) fn ept_pointer(&mut self, extra: u64) {
        let pointer = self.ept.pointer() | extra;
        self.vmcs.write(EPT_POINTER, pointer);
        self.vmcs.invalidate_ept(pointer);
    }

    /// The set-up for UMWAIT and TPAUSE, which exit under RDTSC exiting (SDM 3C 26.1.3).
    #[inline(never)]
    pub(super) fn user_wait(&mut self) {
        self.proc2(bits(&[proc2::ENABLE_USER_WAIT]));
        self.proc(bits(&[proc::RDTSC_EXITING]), 0);
    }
}

impl Frame<'_, Vmx> {
    /// TPR shadow instead of CR8 exits, with these doublewords in the virtual-APIC page.
    #[inline(never)]
    pub(super) fn virtual_apic(&mut self, registers: &[(usize, u64)]) {
        self.pages.virtual_apic.0.fill(0);
        for &(offset, value) in registers {
            self.pages.virtual_apic.0[offset / 8] |= value << (8 * (offset % 8));
        }
        self.backend.vmcs.write(VIRTUAL_APIC_ADDRESS, address(self.pages.virtual_apic));
        self.backend.vmcs.write(TPR_THRESHOLD, 0);
        self.backend.proc(TPR_SHADOW, CR8_EXITING);
    }

    /// The APIC-access page with these secondary controls; RDI points at a register in it.
    #[inline(never)]
    pub(super) fn apic_access(&mut self, offset: u64, proc2: u32) {
        self.backend.proc2(proc2);
        self.backend.vmcs.write(APIC_ACCESS_ADDRESS, self.backend.memory_hpa + EXTRA);
        if proc2 & INTERRUPT_DELIVERY != 0 {
            self.backend.vmcs.write(EOI_EXIT_BITMAP_0, 0);
            self.backend.vmcs.write(GUEST_INTERRUPT_STATUS, 0);
        }
        self.registers.rdi = EXTRA + offset;
    }

    /// IA32_XSS and the XSS-exiting bitmap with one component in common, and EDX:EAX asking for it: the exit comes before
    /// anything is saved.
    #[inline(never)]
    pub(super) fn supervisor_state(&mut self) {
        let component = self.pages.xss_component;
        self.backend.proc2(bits(&[proc2::ENABLE_XSAVES]));
        self.backend.vmcs.write(XSS_EXITING_BITMAP, component);
        self.backend.set(State::Cr4, guest_state::CR4 | CR4_OSXSAVE);
        self.pages.kept_msr = hardware::change_xss(component);
        (self.registers.rax, self.registers.rdi) = (component, DATA);
    }

    /// Lists of one MSR, number 0, and its value, which is 0, too; bit 0 of RCX selects them.
    #[inline(never)]
    pub(super) fn msr_list(&mut self) {
        self.backend.proc3(1 << proc3::ENABLE_MSR_LIST);
        (self.registers.rcx, self.registers.rsi, self.registers.rdi) = (1, DATA, DATA + 8);
    }

    /// A bitmap of the MSRs that URDMSR and UWRMSR may access, with the bit of the first MSR at `offset`.
    #[inline(never)]
    pub(super) fn user_msr(&mut self, offset: u64) {
        let _ = self.memory.write(DATA + offset, &[1]);
        hardware::write_user_msr_ctl(DATA | hardware::USER_MSR_ENABLED);
    }

    /// An address for virtualization-exception information, in a state that says that it may be written (SDM 3C 26.5.7.2).
    #[inline(never)]
    pub(super) fn virtualization_exceptions(&mut self) {
        self.pages.virtualization_exception.0.fill(0);
        self.backend.proc2(bits(&[proc2::EPT_VIOLATION_VE]));
        self.backend.vmcs.write(VIRTUALIZATION_EXCEPTION_ADDRESS, address(self.pages.virtualization_exception));
        self.backend.set_fresh_entry(0);
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
