//! Features that CPUID shows (SDM 2A CPUID; APM 3 appendix E): the bits of each register by leaf.

macro_rules! features {
    ($($register:ident $about:literal { $($name:ident $bit:literal)* })*) => {$(
        #[doc = $about]
        pub mod $register {
            $(#[doc = concat!("`", stringify!($name), "`")] pub const $name: u32 = 1 << $bit;)*
        }
    )*};
}

features! {
    ecx_1 "Leaf 1, ECX." {
        SSE3 0 PCLMULQDQ 1 MONITOR 3 VMX 5 SSSE3 9 FMA 12 CMPXCHG16B 13 SSE4_1 19 SSE4_2 20 X2APIC 21 MOVBE 22 POPCNT 23
        TSC_DEADLINE 24 AES 25 XSAVE 26 OSXSAVE 27 AVX 28 F16C 29 RDRAND 30 HYPERVISOR 31
    }
    edx_1 "Leaf 1, EDX." {
        FPU 0 VME 1 DE 2 PSE 3 TSC 4 MSR 5 PAE 6 MCE 7 CX8 8 APIC 9 SEP 11 MTRR 12 PGE 13 MCA 14 CMOV 15 PAT 16 PSE_36 17 PSN 18
        CLFSH 19 MMX 23 FXSR 24 SSE 25 SSE2 26 SS 27 HTT 28
    }
    eax_6 "Leaf 6, EAX. ARAT: the APIC timer always runs, whatever state the processor is in." { ARAT 2 }
    ebx_7 "Leaf 7, EBX. `FDP_EXCEPTIONS_ONLY`: the x87 data pointer is of exceptions alone. `NO_FCS_FDS`: x87 CS and DS are 0." {
        FSGSBASE 0 TSC_ADJUST 1 BMI1 3 AVX2 5 FDP_EXCEPTIONS_ONLY 6 SMEP 7 BMI2 8 ERMS 9 INVPCID 10 NO_FCS_FDS 13 AVX512F 16
        AVX512DQ 17 RDSEED 18 ADX 19 SMAP 20 AVX512_IFMA 21 CLFLUSHOPT 23 CLWB 24 AVX512CD 28 SHA 29 AVX512BW 30 AVX512VL 31
    }
    ecx_7 "Leaf 7, ECX." {
        AVX512_VBMI 1 UMIP 2 AVX512_VBMI2 6 CET_SS 7 GFNI 8 VAES 9 VPCLMULQDQ 10 AVX512_VNNI 11 AVX512_BITALG 12
        AVX512_VPOPCNTDQ 14 LA57 16 RDPID 22
    }
    edx_7 "Leaf 7, EDX." { FAST_SHORT_REP_MOV 4 AVX512_VP2INTERSECT 8 CET_IBT 20 IBRS 26 STIBP 27 ARCH_CAPABILITIES 29 SSBD 31 }
    eax_7_1 "Leaf 7, sub-leaf 1, EAX." { WRMSRNS 19 }
    ecx_7_1 "Leaf 7, sub-leaf 1, ECX." { MSR_IMM 5 }
    edx_7_1 "Leaf 7, sub-leaf 1, EDX." { USER_MSR 15 }
    eax_d_1 "Leaf DH, sub-leaf 1, EAX. `XGETBV_1`: XGETBV with ECX = 1." { XSAVEOPT 0 XGETBV_1 2 XSAVES 3 }
    ecx_8000_0001 "Leaf 8000_0001H, ECX." {
        LAHF 0 SVM 2 LZCNT 5 SSE4A 6 MISALIGNED_SSE 7 PREFETCHW 8 XOP 11 FMA4 16 TBM 21 TOPOEXT 22
    }
    edx_8000_0001 "Leaf 8000_0001H, EDX." { SYSCALL 11 NX 20 PAGE_1_GIB 26 RDTSCP 27 LONG_MODE 29 }
    edx_8000_000a "Leaf 8000_000AH, EDX: features of SVM. `NP`: nested paging. `NRIPS`: the next RIP is saved." {
        NP 0 NRIPS 3 VMCB_CLEAN 5 FLUSH_BY_ASID 6 DECODE_ASSISTS 7 PAUSE_FILTER_THRESHOLD 12
    }
    ebx_8000_0008 "Leaf 8000_0008H, EBX." { RDPRU 4 IBRS 14 STIBP 15 SSBD 24 }
}
