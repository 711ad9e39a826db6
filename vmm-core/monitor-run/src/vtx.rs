//! VT-x as the monitor sets it up: puts the processor into VMX operation, or says why it can't.
#![expect(unsafe_code, reason = "writes control registers and MSRs, executes VMXON")]

use alloc::vec;

use tollgate_abi::exit_reason::{Controls, Feature};
use tollgate_abi::leaves::Answer;
use tollgate_abi::profile::{CR4_OFFERED, Profile};
use tollgate_abi::record::records;
use tollgate_abi::virtualization::Facts;
use tollgate_abi::x86::control::CR4_CET;
use tollgate_abi::x86::controls::proc2;
use tollgate_abi::x86::cpuid::{eax_7_1, ecx_7_1, edx_1, edx_7, edx_7_1};
use tollgate_abi::x86::msr::{IA32_FEATURE_CONTROL, IA32_XSS};
use vmm_core::board::Board;
use vmm_core::devices::cpuid_table::CpuidTable;
use vmm_core::devices::guest_apic::Page;
use vmm_core::exit::GuestRegisters;
use vmm_core::nested::{Table, most_tables};
use vmm_core::vmx::capability::{Capabilities, FeatureControl, Refusal, feature_control, miscounts};
use vmm_core::vmx::ept::Ept;
use vmm_core::vmx::instructions::{CurrentVmcs, VmFail, VmxOperation};
use vmm_core::vmx::scenario_frame::{Pages, supervisor_component};
use vmm_core::vmx::{Parts, SharedPages, Vmx};
use x86_64::registers::control::{Cr0, Cr4, Cr4Flags};
use x86_64::registers::model_specific::{Efer, EferFlags, Msr};

use crate::extension::{Extension, Plan};
use crate::processor::{cpuid, has_xsave, is_in_real_time, page, physical};
use crate::processors::Seated;
use crate::{ports, traps};

/// The features of a processor with VT-x.
pub(crate) fn capabilities() -> Result<Capabilities, Refusal> {
    allow_vmx()?;
    let has_arch_capabilities = cpuid(0, 0).eax >= 7 && cpuid(7, 0).edx & edx_7::ARCH_CAPABILITIES != 0;
    // SAFETY: processors with VMX have the capability MSRs that `read` asks for, each under its own condition.
    let mut capabilities = Capabilities::read(|msr| unsafe { Msr::new(msr).read() }, has_arch_capabilities);
    // An emulator has the signatures, and not the errata. Bochs 2.7 needs the timer, whose exit comes when RFLAGS.IF is 0, too.
    capabilities.miscounts = is_in_real_time() && !ports::has_debug_port() && miscounts(cpuid(1, 0).eax);
    capabilities.check().map(|()| capabilities)
}

/// Lets this processor enter VMX operation. Each processor has an MSR of its own that says so.
fn allow_vmx() -> Result<(), Refusal> {
    let mut control = Msr::new(IA32_FEATURE_CONTROL);
    // SAFETY: processors with VMX have the MSR; the value written only sets its lock and VMX bits while it is unlocked.
    unsafe {
        if let FeatureControl::Unlocked(value) = feature_control(control.read())? {
            control.write(value);
        }
    }
    Ok(())
}

/// Executes VMXON, and makes a clear VMCS current.
fn enter_vmx_operation(capabilities: &Capabilities) -> Result<CurrentVmcs, VmFail> {
    let region = || {
        let region = page();
        region.0[0] = capabilities.revision.into();
        physical(region)
    };
    let xsave = if has_xsave() { Cr4Flags::OSXSAVE.bits() } else { 0 };
    let machine_checks = if cpuid(1, 0).edx & edx_1::MCE != 0 { Cr4Flags::MACHINE_CHECK_EXCEPTION.bits() } else { 0 };
    // SAFETY: the fixed bits are what VMXON demands and change nothing that the monitor relies on; NXE and OSXSAVE only allow
    // what they name, and #MC has a handler, by `traps::install`. VMXON's other demands: `capabilities()` has succeeded, and the
    // regions are fresh pages that start with the revision and are given away for good.
    unsafe {
        Cr0::write_raw((Cr0::read_raw() | capabilities.cr0_fixed0) & capabilities.cr0_fixed1);
        Cr4::write_raw((Cr4::read_raw() | capabilities.cr4_fixed0 | xsave | machine_checks) & capabilities.cr4_fixed1);
        Efer::update(|flags| flags.insert(EferFlags::NO_EXECUTE_ENABLE));
        VmxOperation::enter(region())?.load_clear_vmcs(region())
    }
}

impl Extension for Vmx {
    type Capabilities = Capabilities;

    fn facts(_: &Capabilities) -> Facts {
        Facts::default()
    }

    fn allows_rdtscp(capabilities: &Capabilities) -> bool {
        capabilities.proc2.may >> proc2::ENABLE_RDTSCP & 1 != 0
    }

    fn cr4_allowed(capabilities: &Capabilities) -> u64 {
        capabilities.cr4_fixed1 & CR4_OFFERED
    }

    #[inline(never)]
    fn new(plan: &Plan<Self>, seated: &Seated, cpuid: &CpuidTable, apic: &Page) -> (Self, GuestRegisters) {
        let (capabilities, vcpu) = (plan.capabilities, seated.vcpu);
        let _ = allow_vmx().map_err(|refusal| panic!("the processor of vCPU {vcpu} differs from the first: {refusal}"));
        let vmcs = enter_vmx_operation(&capabilities)
            .unwrap_or_else(|error| panic!("VMX operation failed on the processor of vCPU {vcpu}: {error}"));
        let tables = vec![Table::EMPTY; most_tables(plan.guest.model, capabilities.maps_large_pages())].leak();
        let base_hpa = tables.as_ptr() as u64;
        let mut ept = Ept::new(tables, base_hpa);
        ept.map_memory(plan.guest.model, plan.guest.memory.host_base(), capabilities.maps_large_pages())
            .expect("the arena holds the guest's memory");
        let msr_bitmaps = page();
        let pages = SharedPages {
            io_bitmap_a: physical(&plan.all_ports[0]),
            io_bitmap_b: physical(&plan.all_ports[1]),
            msr_bitmaps: physical(msr_bitmaps),
            virtual_apic: core::ptr::from_ref(apic) as u64,
        };
        let parts = Parts {
            vmcs,
            capabilities,
            ept,
            memory_hpa: plan.guest.memory.host_base(),
            msr_bitmaps,
            watchdog_ticks: plan.options.watchdog_ticks,
            limited: plan.limit_ticks > 0,
            has_xsave: cpuid.has_xsave(),
            physical_bits: cpuid.physical_address_bits(),
            local_apic: seated.local_apic,
            vcpu,
            unrestricted: vcpu > 0 || plan.guest.any_mode,
        };
        Vmx::new(parts, pages, &seated.host, &plan.guest.entry)
    }

    fn controls(&self, profile: Profile) -> Controls {
        Vmx::controls(self, profile)
    }

    fn describe(&self, profile: Profile) -> records::Controls<'static> {
        let fields = self.control_fields(profile);
        records::Controls {
            pin: Some(fields.pin.into()),
            proc: Some(fields.proc.into()),
            proc2: Some(fields.proc2.into()),
            exit: Some(fields.exit.into()),
            entry: Some(fields.entry.into()),
            exceptions: Some(fields.exception_bitmap.into()),
            ..records::Controls::of(profile.name())
        }
    }

    fn pages() -> Pages {
        Pages {
            virtual_apic: page(),
            msr_load: page(),
            pml: page(),
            eptp_list: page(),
            spp: page(),
            virtualization_exception: page(),
            xss_component: xss_component().unwrap_or(0),
            kept_msr: 0,
        }
    }

    fn allowed(&self, board: &Board) -> Controls {
        Vmx::allowed(self, |feature| match feature {
            // Bochs 3.0 has SMX if CR4 says so, and no longer shows it in CPUID.
            Feature::Smx => true,
            // If firmware used CET itself, the monitor's own branches would be tracked.
            Feature::Cet => cpuid(7, 0).edx & edx_7::CET_IBT != 0 && Cr4::read_raw() & CR4_CET == 0,
            Feature::Wrmsrns => extended_features().eax & eax_7_1::WRMSRNS != 0,
            Feature::MsrImmediate => extended_features().ecx & ecx_7_1::MSR_IMM != 0,
            Feature::UserMsr => extended_features().edx & edx_7_1::USER_MSR != 0,
            Feature::OtherCpu => board.is_served(),
            Feature::SupervisorState => xss_component().is_some(),
            _ => false,
        })
    }
}

/// CPUID.7.1, if there is such a leaf.
fn extended_features() -> Answer {
    if cpuid(0, 0).eax >= 7 && cpuid(7, 0).eax >= 1 { cpuid(7, 1) } else { Answer::ZERO }
}
/// The CPUID leaf whose ECX has the components that IA32_XSS can enable.
const XSAVE_LEAF: u32 = 0xd;
const XSAVES_SUB_LEAF: u32 = 1;

/// A component for IA32_XSS, if there are both.
fn xss_component() -> Option<u64> {
    let old = traps::try_read_msr(IA32_XSS)?;
    // SAFETY: the monitor uses no supervisor state, and the MSR has its old value again at once.
    let takes = |component| unsafe {
        let taken = traps::try_write_msr(IA32_XSS, component);
        taken && traps::try_write_msr(IA32_XSS, old)
    };
    let offered = if cpuid(0, 0).eax < XSAVE_LEAF { 0 } else { cpuid(XSAVE_LEAF, XSAVES_SUB_LEAF).ecx };
    supervisor_component(offered, takes)
}
