//! x87, SSE and AVX registers across each kind of exit.
//!
//! One block of assembly loads every register from an image, provokes one exit, and stores every register into another image (SDM
//! 1 13.4 has the layout; FXSAVE's is its first part). The monitor contains no instruction that could touch these registers; this
//! workload shows it.
#![expect(unsafe_code, reason = "loads and stores extended state around single instructions")]

use core::arch::{asm, naked_asm};

use tollgate_abi::apic::IA32_APIC_BASE;
use tollgate_abi::exit_reason::ExitReason;
use tollgate_abi::machine::{PAGE_BYTES, POST_PORT};
use tollgate_abi::x86::control::{FCW_AT_RESET, MXCSR_AT_RESET};
use tollgate_abi::x86::controls::proc;

use super::expect::ensure;
use super::{Outcome, Run};
use crate::books::book::book;
use crate::books::intercepts::{book_if_enabled, facts, wants};
use crate::ops::control_registers::reads_exit;
use crate::ops::msr::SYSENTER_ESP;
use crate::ops::ports::note_post;
use crate::runtime::{fresh, processor};

const FCW: usize = 0;
const FTW: usize = 4;
const MXCSR: usize = 24;
const ST: usize = 32;
const XMM: usize = 160;
const LEGACY_BYTES: usize = 512;
/// XSTATE_BV, the first word of the XSAVE header.
const XSTATE_BV: usize = LEGACY_BYTES;
const YMM_HIGH: usize = 576;
const IMAGE_BYTES: usize = 832;

#[repr(C, align(64))]
struct Image([u8; IMAGE_BYTES]);

/// Provokes one exit; preserves RBX, RBP, R12 to R15 and all vector registers. RDI: a fresh page.
type Provoke = unsafe extern "C" fn();

macro_rules! provocations {
    ($($name:ident $reason:ident: $($line:literal),+ $([$($operands:tt)*])?;)*) => {
        $(
            #[unsafe(naked)]
            unsafe extern "C" fn $name() {
                naked_asm!($($line,)+ "ret" $(, $($operands)*)?)
            }
        )*

        /// The provocation, and the reason that it must have.
        const PROVOCATIONS: &[(ExitReason, Provoke)] = &[$((ExitReason::$reason, $name)),*];
    };
}

/// The POST code that one of the provocations writes.
const POST_CODE: u8 = 0x5e;

provocations! {
    by_cpuid CPUID: "push rbx", "xor eax, eax", "xor ecx, ecx", "cpuid", "pop rbx";
    by_vmcall VMCALL: "xor eax, eax", "vmcall";
    by_out IO_INSTRUCTION: "mov al, {code}", "out {port}, al" [code = const POST_CODE, port = const POST_PORT];
    by_rdmsr RDMSR: "mov ecx, {msr}", "rdmsr" [msr = const IA32_APIC_BASE];
    by_wrmsr WRMSR: "mov ecx, {msr}", "xor eax, eax", "xor edx, edx", "wrmsr" [msr = const SYSENTER_ESP];
    by_cr3 CR_ACCESS: "mov rax, cr3";
    by_dr7 MOV_DR: "mov rax, dr7";
    by_rdtsc RDTSC: "rdtsc";
    by_pause PAUSE: "pause";
    by_invd INVD: "invd";
    by_wbinvd WBINVD: "wbinvd";
    by_invlpg INVLPG: "invlpg [rsp]";
    by_sidt GDTR_IDTR_ACCESS: "sub rsp, 24", "sidt [rsp]", "add rsp, 24";
    by_sldt LDTR_TR_ACCESS: "sldt eax";
    by_fresh_page EPT_VIOLATION: "mov [rdi], rdi";
}

/// VMCALL under SVM.
#[unsafe(naked)]
unsafe extern "C" fn by_vmmcall() {
    naked_asm!("xor eax, eax", "vmmcall", "ret")
}

/// PAUSE on a processor on which the first PAUSE behind an entry makes no exit.
#[unsafe(naked)]
unsafe extern "C" fn by_second_pause() {
    naked_asm!("pause", "pause", "ret")
}

pub(super) fn vectors(run: &Run) -> Outcome {
    let Some(first) = fresh::take(run.iterations) else {
        return Err(alloc::format!("there are no {} fresh pages left", run.iterations));
    };
    for iteration in 0..run.iterations {
        let page = first + iteration * PAGE_BYTES;
        for (row, &(reason, provoke)) in PROVOCATIONS.iter().enumerate() {
            let before = Image::filled(iteration * PROVOCATIONS.len() as u64 + row as u64);
            let mut after = Image([0; IMAGE_BYTES]);
            book_provocation(reason);
            let provoke = match reason {
                ExitReason::VMCALL if facts().is_svm() => by_vmmcall,
                ExitReason::PAUSE if facts().first_pause_runs => by_second_pause,
                _ => provoke,
            };
            // SAFETY: `before` is a valid image, and the provocations change nothing that matters: the POST code is noted, the
            // MSR is unused, the fresh page was handed out to nobody else.
            unsafe { across(&before, &mut after, provoke, page) };
            before.compare(&after, reason)?;
        }
    }
    Ok(())
}

fn book_provocation(reason: ExitReason) {
    note_post(POST_CODE);
    match reason {
        ExitReason::CR_ACCESS if !wants(proc::CR3_STORE_EXITING) || !reads_exit() => {}
        // In the full profile every port and every MSR exits; the other provocations always do.
        ExitReason::IO_INSTRUCTION | ExitReason::RDMSR | ExitReason::WRMSR | ExitReason::CR_ACCESS => book(reason),
        _ => book_if_enabled(reason, 1),
    }
}

/// Loads `before`, provokes the exit, stores `after`, and gives the compiler back the state that it expects.
///
/// # Safety
/// `before` is an image that XRSTOR or FXRSTOR accepts; what `provoke` does is harmless.
unsafe fn across(before: &Image, after: &mut Image, provoke: Provoke, page: u64) {
    // The values that are needed behind the call are in registers that the provocations preserve.
    macro_rules! across {
        ($load:literal, $store:literal, $clean:literal) => {
            asm!(
                "mov eax, r15d", "xor edx, edx", $load,
                "call r14",
                "mov eax, r15d", "xor edx, edx", $store,
                $clean, "fninit", "push {mxcsr}", "ldmxcsr [rsp]", "pop rax",
                mxcsr = const MXCSR_AT_RESET,
                in("r12") before, in("r13") after, in("r14") provoke, in("r15") processor::xcr0(), in("rdi") page,
                clobber_abi("C"),
            )
        };
    }
    // SAFETY: the images have the size and alignment that the instructions want, the caller vouches for the rest, and every
    // register that changes is listed or restored. `processor` found out which instructions exist.
    unsafe {
        match (processor::xcr0() != 0, processor::has_avx()) {
            (true, true) => across!("xrstor64 [r12]", "xsave64 [r13]", "vzeroupper"),
            (true, false) => across!("xrstor64 [r12]", "xsave64 [r13]", ""),
            (false, _) => across!("fxrstor64 [r12]", "fxsave64 [r13]", ""),
        }
    }
}

impl Image {
    /// Distinct values in every register, other values for each seed.
    fn filled(seed: u64) -> Self {
        let mut image = Self([0; IMAGE_BYTES]);
        let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for region in Self::regions() {
            for byte in &mut image.0[region] {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                *byte = (state >> 56) as u8;
            }
        }
        // All exceptions masked, all eight registers valid; the rounding modes vary, and with MXCSR its sticky flags.
        let variant = (seed % 4) as u8;
        image.put(FCW, &(FCW_AT_RESET | u16::from(variant) << 10).to_le_bytes());
        image.put(FTW, &[0xff]);
        image.put(MXCSR, &(MXCSR_AT_RESET | u32::from(variant) << 13 | seed as u32 & 0x3f).to_le_bytes());
        image.put(XSTATE_BV, &processor::xcr0().to_le_bytes());
        image
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// ST0 to ST7, XMM0 to XMM15, and where they exist the upper halves of YMM0 to YMM15.
    fn regions() -> impl Iterator<Item = core::ops::Range<usize>> {
        let st = (0..8).map(|register| ST + 16 * register..ST + 16 * register + 10);
        let ymm = if processor::has_avx() { YMM_HIGH..IMAGE_BYTES } else { YMM_HIGH..YMM_HIGH };
        st.chain([XMM..XMM + 256, ymm])
    }

    fn compare(&self, after: &Self, reason: ExitReason) -> Outcome {
        let control = [FCW..FCW + 2, FTW..FTW + 1, MXCSR..MXCSR + 4];
        for region in control.into_iter().chain(Self::regions()) {
            for at in region {
                let (before, after) = (self.0[at], after.0[at]);
                ensure!(
                    before == after,
                    "exit {reason:?} changed byte {at} of the extended state from {before:#x} to {after:#x}"
                );
            }
        }
        Ok(())
    }
}
