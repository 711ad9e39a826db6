//! SVM as the monitor sets it up: switches it on at a processor, or says why it can't. The VT-x counterpart is [`crate::vtx`].
#![expect(unsafe_code, reason = "writes control registers and MSRs")]

use alloc::boxed::Box;
use alloc::vec;

use tollgate_abi::exit_reason::{Controls, Feature};
use tollgate_abi::profile::{CR4_OFFERED, Profile};
use tollgate_abi::record::records;
use tollgate_abi::virtualization::Facts;
use tollgate_abi::x86::control::EFER_SVME;
use tollgate_abi::x86::msr::{IA32_MTRR_DEF_TYPE, MTRR_ENABLED, VM_CR, VM_HSAVE_PA, WRITE_BACK};
use vmm_core::board::Board;
use vmm_core::devices::cpuid_table::CpuidTable;
use vmm_core::devices::guest_apic::Page;
use vmm_core::exit::GuestRegisters;
use vmm_core::nested::{Table, most_tables};
use vmm_core::svm::capability::{Capabilities, Refusal};
use vmm_core::svm::instructions::SvmOperation;
use vmm_core::svm::npt::Npt;
use vmm_core::svm::probe;
use vmm_core::svm::vmcb::Vmcb;
use vmm_core::svm::{Parts, Svm};
use x86_64::registers::control::{Cr3, Cr4, Cr4Flags};
use x86_64::registers::model_specific::{Efer, EferFlags, Msr};

use crate::extension::{Extension, Plan};
use crate::firmware::firmware;
use crate::processor::{cpuid, has_xsave, page, physical};
use crate::processors::Seated;
use crate::traps;

/// The features of a processor with SVM.
pub(crate) fn capabilities() -> Result<Capabilities, Refusal> {
    // Bochs leaves the MSR out; nothing is switched off there.
    let mut capabilities = Capabilities::read(cpuid, traps::try_read_msr(VM_CR).unwrap_or(0), Cr4::read_raw())?;
    if probe::are_wanted(&capabilities) {
        let vmcb = Box::leak(Box::new(Vmcb::new()));
        switch_on().find_out(&mut capabilities, vmcb, Cr3::read_raw().0.start_address().as_u64());
    }
    Ok(capabilities)
}

/// Makes memory cacheable where no firmware has set memory types, whose default is uncacheable: nested paging has no memory
/// types of its own, and MONITOR makes no exit for memory that is not write-back.
fn set_memory_type() {
    if traps::try_read_msr(IA32_MTRR_DEF_TYPE).is_some_and(|mtrrs| mtrrs & MTRR_ENABLED == 0) {
        // SAFETY: the MSR exists, as it could be read. That device memory is write-back, too, matters to no emulator, and a
        // real machine has firmware.
        unsafe { Msr::new(IA32_MTRR_DEF_TYPE).write(MTRR_ENABLED | WRITE_BACK) };
    }
}

/// Sets EFER.SVME, and gives away a page for the host's state.
fn switch_on() -> SvmOperation {
    let xsave = if has_xsave() { Cr4Flags::OSXSAVE.bits() } else { 0 };
    // SAFETY: CPUID has shown SVM, and VM_CR does not disable it; NXE and OSXSAVE only allow what they name. The save area is a
    // fresh page that is given away for good. The gates are as `SvmOperation` wants them, by `traps::install` for processors
    // with SVM.
    unsafe {
        Cr4::write_raw(Cr4::read_raw() | xsave);
        Efer::write_raw(Efer::read_raw() | EferFlags::NO_EXECUTE_ENABLE.bits() | EFER_SVME);
        Msr::new(VM_HSAVE_PA).write(physical(page()));
        SvmOperation::new()
    }
}

impl Extension for Svm {
    type Capabilities = Capabilities;

    fn facts(capabilities: &Capabilities) -> Facts {
        capabilities.facts
    }

    fn allows_rdtscp(_: &Capabilities) -> bool {
        true
    }

    /// CR4.MCE is the monitor's; but the guest reads it where reads make no exit, and writes back what it has read.
    fn cr4_allowed(capabilities: &Capabilities) -> u64 {
        capabilities.cr4_allowed & CR4_OFFERED | Cr4::read_raw() & Cr4Flags::MACHINE_CHECK_EXCEPTION.bits()
    }

    #[inline(never)]
    fn new(plan: &Plan<Self>, seated: &Seated, cpuid: &CpuidTable, _: &Page) -> (Self, GuestRegisters) {
        let tables = vec![Table::EMPTY; most_tables(plan.guest.model, true)].leak();
        let base_hpa = tables.as_ptr() as u64;
        let mut npt = Npt::new(tables, base_hpa);
        npt.map_memory(plan.guest.model, plan.guest.memory.host_base(), true)
            .expect("the arena holds the guest's memory");
        let parts = Parts {
            vmcb: Box::leak(Box::new(Vmcb::new())),
            operation: {
                set_memory_type();
                switch_on()
            },
            capabilities: plan.capabilities,
            npt,
            memory: plan.guest.memory.share(),
            msrpm: Box::leak(Box::new([const { Table::EMPTY }; _])),
            iopm: plan.all_ports,
            physical_bits: cpuid.physical_address_bits(),
            // The watchdog asks the account whether there were exits.
            watchdog_ticks: if plan.options.accounting { plan.options.watchdog_ticks } else { 0 },
            local_apic: seated.local_apic,
            machine_check: Cr4::read_raw() & Cr4Flags::MACHINE_CHECK_EXCEPTION.bits(),
            vcpu: seated.vcpu,
        };
        Svm::new(parts, &plan.guest.entry)
    }

    fn controls(&self, profile: Profile) -> Controls {
        Svm::controls(self, profile)
    }

    fn describe(&self, profile: Profile) -> records::Controls<'static> {
        let intercepts = self.intercepts(profile);
        let pair = |read: u16, write: u16| u64::from(write) << 16 | u64::from(read);
        let [others0, others1, others2] = intercepts.others.map(|word| Some(word.into()));
        records::Controls {
            cr: Some(pair(intercepts.cr_read, intercepts.cr_write)),
            dr: Some(pair(intercepts.dr_read, intercepts.dr_write)),
            exceptions: Some(intercepts.exceptions.into()),
            others0,
            others1,
            others2,
            ..records::Controls::of(profile.name())
        }
    }

    fn pages() {}

    fn allowed(&self, board: &Board) -> Controls {
        Svm::allowed(self, |feature| match feature {
            Feature::OtherCpu => board.is_served(),
            Feature::InitForgotten => !firmware().takes_back,
            Feature::InitRedirection => traps::try_read_msr(VM_CR).is_some(),
            _ => false,
        })
    }
}
