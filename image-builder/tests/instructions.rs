//! The monitor's image has no SSE, AVX, MMX or x87 instruction: the guest's registers stay in place across an exit. And on the
//! exit path it has no locked instruction: no vCPU waits for another there.
//!
//! Every executable section is decoded, from symbol to symbol so that one odd byte can't hide the rest. Sections
//! besides `.text` start a machine and switch modes: there a symbol whose name ends in 16, 32 or 64 begins code of that width.

use iced_x86::{CpuidFeature, Decoder, DecoderOptions, EncodingKind, Instruction, Mnemonic, OpKind, Register};
use object::read::elf::{ElfFile64, SectionHeader};
use object::{LittleEndian as LE, Object, ObjectSection, ObjectSymbol, elf};
use tollgate::image::{APPLICATION_ELF, MONITOR_ELF};

/// A stretch of code between two symbols.
struct Stretch {
    name: String,
    bitness: u32,
    address: u64,
    bytes: Vec<u8>,
}

fn stretches(image: &[u8]) -> Vec<Stretch> {
    let file = ElfFile64::<LE>::parse(image).unwrap();
    let mut all = Vec::new();
    for section in
        file.sections().filter(|section| section.elf_section_header().sh_flags(LE) & u64::from(elf::SHF_EXECINSTR) != 0)
    {
        let (start, data) = (section.address(), section.data().unwrap());
        let name = section.name().unwrap().to_owned();
        let end = start + data.len() as u64;
        let in_section = |symbol: &object::read::elf::ElfSymbol64<'_, '_, LE>| (start..end).contains(&symbol.address());
        let mut symbols: Vec<(u64, String)> = file
            .symbols()
            .filter(in_section)
            .filter(|symbol| {
                symbol.section_index() == Some(section.index()) && !symbol.name().unwrap_or("").starts_with("__")
            })
            .map(|symbol| (symbol.address(), symbol.name().unwrap_or("?").to_owned()))
            .collect();
        symbols.push((start, name.clone()));
        symbols.sort();
        symbols.dedup_by_key(|symbol| symbol.0);
        let mut bitness = if name.starts_with(".text") { 64 } else { 16 };
        for (i, (address, symbol)) in symbols.iter().enumerate() {
            if !name.starts_with(".text") {
                bitness =
                    [16, 32, 64].into_iter().find(|width| symbol.ends_with(&width.to_string())).unwrap_or(bitness);
            }
            let to = symbols.get(i + 1).map_or(end, |next| next.0);
            let bytes = data[(address - start) as usize..(to - start) as usize].to_vec();
            all.push(Stretch { name: symbol.clone(), bitness, address: *address, bytes });
        }
    }
    all
}

fn touches_vector_state(instruction: &Instruction) -> bool {
    let vector_register = |register: Register| {
        register.is_vector_register() || register.is_mm() || register.is_st() || register.is_k() || register.is_tmm()
    };
    let operand = |i: u32| instruction.op_kind(i) == OpKind::Register && vector_register(instruction.op_register(i));
    let x87 = |feature: &CpuidFeature| {
        matches!(feature, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387 | CpuidFeature::MMX)
    };
    let of_general_registers =
        matches!(instruction.cpuid_features(), [CpuidFeature::BMI1 | CpuidFeature::BMI2 | CpuidFeature::ADX]);
    let saves_or_loads = matches!(
        instruction.mnemonic(),
        Mnemonic::Fxsave
            | Mnemonic::Fxsave64
            | Mnemonic::Fxrstor
            | Mnemonic::Fxrstor64
            | Mnemonic::Ldmxcsr
            | Mnemonic::Stmxcsr
            | Mnemonic::Xsave
            | Mnemonic::Xsave64
            | Mnemonic::Xsaveopt
            | Mnemonic::Xsavec
            | Mnemonic::Xsaves
            | Mnemonic::Xrstor
            | Mnemonic::Xrstor64
            | Mnemonic::Xrstors
            | Mnemonic::Emms
            | Mnemonic::Wait
    );
    (0..instruction.op_count()).any(operand)
        || instruction.cpuid_features().iter().any(x87)
        || saves_or_loads
        || (instruction.encoding() != EncodingKind::Legacy && !of_general_registers)
}

/// By prefix, or XCHG with memory, which needs none (SDM 3A 9.1.2.1).
fn is_locked(instruction: &Instruction) -> bool {
    let memory = || (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Memory);
    instruction.has_lock_prefix() || instruction.mnemonic() == Mnemonic::Xchg && memory()
}

/// The offending instructions, and how many were decoded.
fn scan<'s>(
    stretches: impl IntoIterator<Item = &'s Stretch>,
    offends: impl Fn(&Instruction) -> bool,
) -> (Vec<String>, usize) {
    let (mut found, mut decoded) = (Vec::new(), 0);
    for stretch in stretches {
        let mut decoder = Decoder::with_ip(stretch.bitness, &stretch.bytes, stretch.address, DecoderOptions::NONE);
        for instruction in decoder.iter().filter(|instruction| !instruction.is_invalid()) {
            decoded += 1;
            if offends(&instruction) {
                found.push(format!("{:#x} in {}: {instruction}", instruction.ip(), stretch.name));
            }
        }
    }
    (found, decoded)
}

#[test]
fn the_monitor_has_no_vector_instruction() {
    let (found, decoded) = scan(&stretches(MONITOR_ELF), touches_vector_state);
    assert!(found.is_empty(), "{} of {decoded} instructions:\n{}", found.len(), found.join("\n"));
    assert!(decoded > 1000, "only {decoded} instructions were decoded: is this the monitor?");
}

/// Under UEFI that state is firmware's before and after the run: one file saves it and puts it back.
#[test]
fn the_application_has_vector_instructions_where_it_keeps_firmwares_state_only() {
    let (state, rest): (Vec<_>, Vec<_>) =
        stretches(APPLICATION_ELF).into_iter().partition(|stretch| stretch.name.contains("monitor_uefi5state"));
    let (found, decoded) = scan(&rest, touches_vector_state);
    assert!(found.is_empty(), "{} of {decoded} instructions:\n{}", found.len(), found.join("\n"));
    assert!(decoded > 1000, "only {decoded} instructions were decoded: is this the application?");
    let (found, _) = scan(&state, touches_vector_state);
    assert_eq!(found.len(), 2, "saved once and put back once:\n{}", found.join("\n"));
}

/// Of the crate's modules those that handle exits, as symbols have them. The board, which those ask that are about another
/// vCPU, is none of them.
const EXIT_PATH: [&str; 8] = ["5entry", "5stack", "3svm", "4vcpu", "8handlers", "6ledger", "4keys", "keys..Keyed"];

#[test]
fn the_exit_path_has_no_locked_instruction() {
    let all = stretches(MONITOR_ELF);
    let of_path = |part: &str| {
        let is_of_part = move |name: &str| name.contains("vmm_core") && name.contains(part);
        all.iter().filter(move |stretch| is_of_part(&stretch.name)).collect::<Vec<_>>()
    };
    for part in EXIT_PATH {
        let (found, decoded) = scan(of_path(part), is_locked);
        assert!(found.is_empty(), "{}", found.join("\n"));
        assert!(decoded > 5, "{decoded} instructions of {part} were decoded: is it called otherwise?");
    }
    assert!(!scan(of_path("5board"), is_locked).0.is_empty(), "the scan sees none where there are some");
}

#[test]
fn the_scan_sees_what_it_looks_for_and_nothing_else() {
    let stretch =
        |bytes: &[u8]| vec![Stretch { name: "test".to_owned(), bitness: 64, address: 0x1000, bytes: bytes.to_vec() }];
    let vector: [&[u8]; 9] = [
        &[0x0f, 0x28, 0xc1],                   // movaps xmm0, xmm1
        &[0x0f, 0x11, 0x07],                   // movups [rdi], xmm0
        &[0xc5, 0xfc, 0x28, 0xc1],             // vmovaps ymm0, ymm1
        &[0x62, 0xf1, 0x7c, 0x48, 0x28, 0xc1], // vmovaps zmm0, zmm1
        &[0xd9, 0x07],                         // fld dword [rdi]
        &[0x0f, 0x6f, 0xc1],                   // movq mm0, mm1
        &[0x0f, 0xae, 0x07],                   // fxsave [rdi]
        &[0x0f, 0xae, 0x17],                   // ldmxcsr [rdi]
        &[0x9b],                               // wait
    ];
    for bytes in vector {
        let mut code = vec![0x90];
        code.extend(bytes);
        code.push(0xc3);
        assert_eq!(scan(&stretch(&code), touches_vector_state).0.len(), 1, "{bytes:02x?}");
    }
    let plain: [&[u8]; 6] = [
        &[0xf3, 0xa4],                   // rep movsb
        &[0x0f, 0x01, 0xc3],             // vmresume
        &[0x0f, 0x01, 0xd1],             // xsetbv
        &[0x0f, 0xae, 0xf0],             // mfence
        &[0xf3, 0x90],                   // pause
        &[0xf3, 0x48, 0x0f, 0xb8, 0xc1], // popcnt rax, rcx
    ];
    for bytes in plain {
        assert_eq!(scan(&stretch(bytes), touches_vector_state), (vec![], 1), "{bytes:02x?}");
    }
}
