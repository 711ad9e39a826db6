//! Puts the processor into VMX operation, or says why it can't.
#![expect(unsafe_code, reason = "writes control registers and MSRs, executes VMXON")]

use alloc::boxed::Box;

use tollgate_abi::leaves::Answer;
use vmm_core::vmx::capability::{Capabilities, FeatureControl, IA32_FEATURE_CONTROL, Refusal, feature_control};
use vmm_core::vmx::ept::Table;
use vmm_core::vmx::instructions::{CurrentVmcs, VmFail, VmxOperation};
use x86_64::registers::control::{Cr0, Cr4, Cr4Flags};
use x86_64::registers::model_specific::{Efer, EferFlags, Msr};

const CPUID_1_ECX_VMX: u32 = 1 << 5;
const CPUID_1_ECX_XSAVE: u32 = 1 << 26;

/// CPUID, natively.
pub(crate) fn cpuid(leaf: u32, sub_leaf: u32) -> Answer {
    let result = core::arch::x86_64::__cpuid_count(leaf, sub_leaf);
    Answer { eax: result.eax, ebx: result.ebx, ecx: result.ecx, edx: result.edx }
}

/// What the processor offers.
pub(crate) fn capabilities() -> Result<Capabilities, Refusal> {
    if cpuid(1, 0).ecx & CPUID_1_ECX_VMX == 0 {
        return Err(Refusal::NoVmx);
    }
    allow_vmx()?;
    // SAFETY: processors with VMX have the capability MSRs that `read` asks for, each under its own condition.
    let capabilities = Capabilities::read(|msr| unsafe { Msr::new(msr).read() });
    capabilities.check().map(|()| capabilities)
}

/// Lets this processor enter VMX operation. Each has the MSR that says so for itself.
pub(crate) fn allow_vmx() -> Result<(), Refusal> {
    let mut control = Msr::new(IA32_FEATURE_CONTROL);
    // SAFETY: processors with VMX have the MSR; the value written only sets its lock and VMX bits while it is unlocked.
    unsafe {
        if let FeatureControl::Unlocked(value) = feature_control(control.read())? {
            control.write(value);
        }
    }
    Ok(())
}

/// Whether the guest sees XSAVE.
pub(crate) fn has_xsave() -> bool {
    cpuid(1, 0).ecx & CPUID_1_ECX_XSAVE != 0
}

/// A page of the monitor's heap for the processor: virtual and physical addresses are the same.
pub(crate) fn page() -> &'static mut Table {
    Box::leak(Box::new(Table::EMPTY))
}

/// Its physical address.
pub(crate) fn physical(page: &Table) -> u64 {
    core::ptr::from_ref(page) as u64
}

/// VMXON, and a clear VMCS made current.
pub(crate) fn enter_vmx_operation(capabilities: &Capabilities) -> Result<CurrentVmcs, VmFail> {
    let region = || {
        let region = page();
        region.0[0] = capabilities.revision.into();
        physical(region)
    };
    let xsave = if has_xsave() { Cr4Flags::OSXSAVE.bits() } else { 0 };
    // SAFETY: the fixed bits are what VMXON demands and change nothing that the monitor relies on; NXE and SCE only allow
    // what they name. VMXON's other demands: `capabilities()` has succeeded, and the regions are fresh pages that start
    // with the revision and are given away for good.
    unsafe {
        Cr0::write_raw((Cr0::read_raw() | capabilities.cr0_fixed0) & capabilities.cr0_fixed1);
        Cr4::write_raw((Cr4::read_raw() | capabilities.cr4_fixed0 | xsave) & capabilities.cr4_fixed1);
        Efer::update(|flags| flags.insert(EferFlags::NO_EXECUTE_ENABLE));
        VmxOperation::enter(region())?.load_clear_vmcs(region())
    }
}
