//! The VMX instructions (SDM 3C chapter 31), each with its flags captured in the same block.
//!
//! The precondition of an instruction is in a type: VMX instructions other than VMXON need [`VmxOperation`], which VMXON gives;
//! VMREAD and VMWRITE are methods of [`CurrentVmcs`], which VMPTRLD gives.
#![expect(unsafe_code, reason = "executes VMX instructions")]

use core::arch::asm;
use core::fmt;
use core::marker::PhantomData;

use x86_64::registers::control::{Cr4, Cr4Flags};

use super::field::{Field, ReadWrite, Value, is_everywhere};
#[cfg(test)]
use super::scripted::access;

/// VMfail: the reason that a VMX instruction did not succeed (SDM 3C 31.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmFail {
    /// VMfailInvalid: there is no current VMCS, or its pointer is bad.
    Invalid,
    /// VMfailValid, with the VM-instruction error field.
    Valid(u32),
}

impl fmt::Display for VmFail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VmFail::Invalid => write!(f, "VMfailInvalid (no current VMCS, or a bad pointer)"),
            VmFail::Valid(error) => write!(f, "VM-instruction error {error}: {}", instruction_error(*error)),
        }
    }
}

/// The text of a VM-instruction error number (SDM 3C 31.4, table 31-1).
pub const fn instruction_error(number: u32) -> &'static str {
    match number {
        1 => "VMCALL executed in VMX root operation",
        2 => "VMCLEAR with invalid physical address",
        3 => "VMCLEAR with VMXON pointer",
        4 => "VMLAUNCH with non-clear VMCS",
        5 => "VMRESUME with non-launched VMCS",
        6 => "VMRESUME after VMXOFF",
        7 => "VM entry with invalid control field(s)",
        8 => "VM entry with invalid host-state field(s)",
        9 => "VMPTRLD with invalid physical address",
        10 => "VMPTRLD with VMXON pointer",
        11 => "VMPTRLD with incorrect VMCS revision identifier",
        12 => "VMREAD/VMWRITE from/to unsupported VMCS component",
        13 => "VMWRITE to read-only VMCS component",
        15 => "VMXON executed in VMX root operation",
        16 => "VM entry with invalid executive-VMCS pointer",
        17 => "VM entry with non-launched executive VMCS",
        18 => "VM entry with executive-VMCS pointer not VMXON pointer",
        19 => "VMCALL with non-clear VMCS",
        20 => "VMCALL with invalid VM-exit control fields",
        22 => "VMCALL with incorrect MSEG revision identifier",
        23 => "VMXOFF under dual-monitor treatment of SMIs and SMM",
        24 => "VMCALL with invalid SMM-monitor features",
        25 => "VM entry with invalid VM-execution control fields in executive VMCS",
        26 => "VM entry with events blocked by MOV SS",
        28 => "invalid operand to INVEPT/INVVPID",
        _ => "undefined",
    }
}

/// Proof that this processor is in VMX root operation.
#[derive(Debug)]
pub struct VmxOperation {
    _not_send: PhantomData<*mut ()>,
}

impl VmxOperation {
    /// VMXON.
    ///
    /// # Safety
    /// CR4.VMXE is set, CR0 and CR4 satisfy the fixed bits, IA32_FEATURE_CONTROL allows VMX, and `region` is the
    /// physical address of a page that starts with the VMCS revision and that nobody else uses from now on.
    ///
    /// # Errors
    /// VMfail, when the region is bad.
    pub unsafe fn enter(region: u64) -> Result<Self, VmFail> {
        let failed: u8;
        // SAFETY: the caller's contract; the memory operand is a local.
        unsafe { asm!("vmxon [{}]", "setbe {}", in(reg) &region, out(reg_byte) failed, options(nostack)) };
        if failed != 0 {
            // SAFETY: the processor is not in VMX operation. A clear bit tells that to the code that gives the processor back.
            unsafe { Cr4::update(|flags| flags.remove(Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS)) };
            return Err(VmFail::Invalid);
        }
        Ok(Self { _not_send: PhantomData })
    }

    /// VMCLEAR of the current VMCS, if there is one, and VMXOFF, on a processor that is given back to firmware.
    ///
    /// # Safety
    /// The processor is in VMX root operation, and nothing on it uses [`VmxOperation`] or [`CurrentVmcs`] any more.
    ///
    /// # Errors
    /// VMfail, when the processor has to stay (SDM 3C 31.4, error 23).
    pub unsafe fn leave() -> Result<(), VmFail> {
        /// The value that VMPTRST stores where no VMCS is current.
        const NONE: u64 = u64::MAX;
        let mut current = NONE;
        let failed: u8;
        // SAFETY: in VMX operation, by the caller's contract; the memory operands are a local. VMCLEAR of the current VMCS writes
        // the processor's part of it back, to the page that it was given for good.
        unsafe {
            asm!("vmptrst [{}]", in(reg) &mut current, options(nostack));
            if current != NONE {
                asm!("vmclear [{}]", in(reg) &current, options(nostack));
            }
            asm!("vmxoff", "setbe {}", out(reg_byte) failed, options(nostack));
        }
        if failed != 0 { Err(VmFail::Valid(23)) } else { Ok(()) }
    }

    /// VMCLEAR then VMPTRLD: makes a clear VMCS current, the only one on this processor from now on.
    ///
    /// # Safety
    /// `region` is the physical address of a page that starts with the VMCS revision and that nobody else uses.
    ///
    /// # Errors
    /// VMfail, when the region or its revision is bad.
    pub unsafe fn load_clear_vmcs(self, region: u64) -> Result<CurrentVmcs, VmFail> {
        let (mut failed, mut invalid): (u8, u8);
        // SAFETY: in VMX operation by `self`; the region by the caller's contract.
        unsafe {
            asm!("vmclear [{}]", "setbe {}", "setc {}", in(reg) &region, out(reg_byte) failed, out(reg_byte) invalid, options(nostack));
        }
        if failed != 0 {
            return Err(if invalid != 0 { VmFail::Invalid } else { VmFail::Valid(2) });
        }
        // SAFETY: as for VMCLEAR.
        unsafe {
            asm!("vmptrld [{}]", "setbe {}", "setc {}", in(reg) &region, out(reg_byte) failed, out(reg_byte) invalid, options(nostack));
        }
        match (failed, invalid) {
            (0, _) => Ok(CurrentVmcs { _not_send: PhantomData }),
            (_, 0) => Err(VmFail::Valid(11)),
            _ => Err(VmFail::Invalid),
        }
    }
}

/// The VMCS that is current on this processor.
#[derive(Debug)]
pub struct CurrentVmcs {
    _not_send: PhantomData<*mut ()>,
}

impl CurrentVmcs {
    /// The VMCS of a test's thread.
    #[cfg(test)]
    pub(super) fn scripted() -> Self {
        Self { _not_send: PhantomData }
    }

    /// VMREAD. A failure is a defect of the monitor (the field exists by the capabilities that chose it) and panics. It is not
    /// looked for where every processor has the field.
    #[inline(always)]
    pub fn read<T: Value, A>(&self, field: Field<T, A>) -> T {
        // SAFETY: a VMCS is current by `self`.
        T::from_u64(unsafe { access::read(field.encoding()) })
    }

    /// VMWRITE. A failure is a defect of the monitor and panics. It is not looked for where every processor has the field.
    #[inline(always)]
    pub fn write<T: Value>(&mut self, field: Field<T, ReadWrite>, value: T) {
        // SAFETY: a VMCS is current by `self`.
        unsafe { access::write(field.encoding(), value.to_u64()) }
    }

    /// Adds to a natural-width field that every processor has.
    #[inline(always)]
    pub fn add(&mut self, field: Field<u64, ReadWrite>, amount: u64) {
        debug_assert!(is_everywhere(field.encoding()));
        // SAFETY: a VMCS is current by `self`.
        unsafe { access::add(field.encoding(), amount) }
    }

    /// VMREAD of a 32-bit field as the 64 bits that it delivers, the upper half being zero.
    #[inline(always)]
    pub fn read_extended<A>(&self, field: Field<u32, A>) -> u64 {
        self.read(field.extended())
    }

    /// VMREAD by encoding, of a field that is known to exist: for reports.
    pub fn read_encoding(&self, encoding: u32) -> u64 {
        self.read(Field::<u64>::of(encoding))
    }

    /// INVVPID, single-context (type 1): all translations of one VPID.
    pub fn invalidate_vpid(&mut self, vpid: u16) {
        self.invvpid(1, vpid, 0);
    }

    /// INVVPID, individual-address (type 0): the translations of one address under one VPID.
    pub fn invalidate_address(&mut self, vpid: u16, linear: u64) {
        self.invvpid(0, vpid, linear);
    }

    /// INVVPID. It is not inlined: the descriptor would be on the stack of an exit's arm, which could then not jump on.
    #[inline(never)]
    fn invvpid(&mut self, kind: u64, vpid: u16, linear: u64) {
        let descriptor = [u64::from(vpid), linear];
        // SAFETY: in VMX operation, since a VMCS is current.
        let failed = unsafe { access::invvpid(kind, &descriptor) };
        assert!(!failed, "INVVPID type {kind} failed for {descriptor:x?}");
    }

    /// INVEPT, single-context (type 1): all translations of one EPT pointer.
    pub fn invalidate_ept(&mut self, ept_pointer: u64) {
        let (failed, descriptor): (u8, _) = (0, [ept_pointer, 0]);
        let mut failed = failed;
        // SAFETY: as for INVVPID.
        unsafe {
            asm!("invept {}, [{}]", "setbe {}", in(reg) 1u64, in(reg) &descriptor, inout(reg_byte) failed, options(nostack))
        };
        assert!(failed == 0, "INVEPT of EPT pointer {ept_pointer:#x} failed");
    }
}

/// The instructions of an exit that need a current VMCS. Host tests have another module in their place, [`scripted`](super::scripted).
#[cfg(not(test))]
mod access {
    use core::arch::asm;

    use super::is_everywhere;

    /// VMREAD.
    ///
    /// # Safety
    /// A VMCS is current.
    #[inline(always)]
    pub(super) unsafe fn read(number: u32) -> u64 {
        let encoding = u64::from(number);
        let value: u64;
        // SAFETY: a VMCS is current, by the caller's contract; VMREAD of an ordinary field has no side effect. On VMfail the block
        // diverges into a function that never returns.
        unsafe {
            if is_everywhere(number) {
                asm!("vmread {value}, {field}", value = out(reg) value, field = in(reg) encoding, options(nomem, nostack));
            } else {
                asm!("vmread {value}, {field}", "jbe {failed}", value = out(reg) value, field = in(reg) encoding,
                    failed = sym vmread_failed, options(nomem, nostack));
            }
        }
        value
    }

    /// VMWRITE.
    ///
    /// # Safety
    /// A VMCS is current.
    #[inline(always)]
    pub(super) unsafe fn write(number: u32, value: u64) {
        let encoding = u64::from(number);
        // SAFETY: a VMCS is current, by the caller's contract; VM entry checks the effect of the value on the guest. On VMfail the
        // block diverges into a function that never returns.
        unsafe {
            if is_everywhere(number) {
                asm!("vmwrite {field}, {value}", value = in(reg) value, field = in(reg) encoding, options(nomem, nostack));
            } else {
                asm!("vmwrite {field}, {value}", "jbe {failed}", value = in(reg) value, field = in(reg) encoding,
                    failed = sym vmwrite_failed, options(nomem, nostack));
            }
        }
    }

    /// VMREAD and VMWRITE of a field that every processor has.
    ///
    /// # Safety
    /// A VMCS is current.
    #[inline(always)]
    pub(super) unsafe fn add(number: u32, amount: u64) {
        // SAFETY: as for `read` and `write`.
        unsafe {
            asm!("vmread {value}, {field}", "add {value}, {amount}", "vmwrite {field}, {value}",
                value = out(reg) _, field = in(reg) u64::from(number), amount = in(reg) amount, options(nomem, nostack));
        }
    }

    /// INVVPID. True if it failed.
    ///
    /// # Safety
    /// A VMCS is current.
    #[inline(always)]
    pub(super) unsafe fn invvpid(kind: u64, descriptor: &[u64; 2]) -> bool {
        let failed: u8;
        // SAFETY: in VMX operation, since a VMCS is current; the instruction only drops cached translations of the guest.
        unsafe {
            asm!("invvpid {}, [{}]", "setbe {}", in(reg) kind, in(reg) descriptor, out(reg_byte) failed, options(nostack))
        };
        failed != 0
    }

    /// The end of a VMREAD that failed although it can't.
    #[cold]
    extern "C" fn vmread_failed() -> ! {
        panic!("VMREAD failed: the monitor read a VMCS field that this processor does not have");
    }

    /// The end of a VMWRITE that failed although it can't.
    #[cold]
    extern "C" fn vmwrite_failed() -> ! {
        panic!("VMWRITE failed: the monitor wrote a VMCS field that this processor does not have");
    }
}
