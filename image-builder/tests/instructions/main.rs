//! The monitor's image has no SSE, AVX, MMX or x87 instruction: the guest's registers stay in place across an exit. On the exit
//! path it has no locked instruction: no vCPU waits for another there. Each quick exit takes no more instructions than its budget
//! allows, and no more than are written down here.
//!
//! Every executable section is decoded, from symbol to symbol so that one odd byte can't hide the rest. Sections
//! besides `.text` start a machine and switch modes: there a symbol whose name ends in 16, 32 or 64 begins code of that width.

mod arms;

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{CpuidFeature, Decoder, DecoderOptions, EncodingKind, Instruction, Mnemonic, OpKind, Register};
use object::read::elf::{ElfFile64, SectionHeader};
use object::{LittleEndian as LE, Object, ObjectSection, ObjectSegment, ObjectSymbol, elf};
use tollgate::image::{APPLICATION_ELF, MONITOR_ELF};
use tollgate_abi::ExitReason;
use tollgate_abi::quick::{LEDGER_BUDGET_TICKS, QUICK};
use tollgate_abi::svm_exit;

use self::arms::{Exit, Image, Lengths, lengths};

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

/// Whether an instruction is locked: by prefix, or as an XCHG with memory, which needs none (SDM 3A 9.1.2.1).
fn is_locked(instruction: &Instruction) -> bool {
    let memory = || (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Memory);
    instruction.has_lock_prefix() || instruction.mnemonic() == Mnemonic::Xchg && memory()
}

/// The offending instructions, and the number of instructions that were decoded.
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

/// Under UEFI the vector state is firmware's before and after the run: one file saves it and puts it back.
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

/// Whether an instruction enters a guest.
fn enters(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Vmresume | Mnemonic::Vmrun)
}

fn decoded(stretch: &Stretch) -> impl Iterator<Item = Instruction> {
    Decoder::with_ip(stretch.bitness, &stretch.bytes, stretch.address, DecoderOptions::NONE).into_iter()
}

/// The entry stubs: the functions of the monitor's core that enter a guest again behind each exit.
fn stubs(all: &[Stretch]) -> Vec<&Stretch> {
    all.iter().filter(|stretch| stretch.name.contains("8vmm_core") && decoded(stretch).any(|i| enters(&i))).collect()
}

/// All functions that the stubs reach by calls and jumps. Left out are the board, which only exits about another vCPU ask, and
/// panics.
fn exit_path(all: &[Stretch]) -> Vec<&Stretch> {
    let by_address: BTreeMap<u64, &Stretch> = all.iter().map(|stretch| (stretch.address, stretch)).collect();
    let is_left_out = |stretch: &Stretch| {
        ["8vmm_core5board", "9panicking", "begin_unwind"].iter().any(|part| stretch.name.contains(part))
    };
    let (mut reached, mut ahead) = (BTreeSet::new(), stubs(all));
    while let Some(stretch) = ahead.pop() {
        if is_left_out(stretch) || !reached.insert(stretch.address) {
            continue;
        }
        let targets =
            decoded(stretch).map(|instruction| instruction.near_branch_target()).filter(|&target| target != 0);
        ahead.extend(targets.filter_map(|target| by_address.range(..=target).next_back().map(|(_, &stretch)| stretch)));
    }
    reached.iter().map(|address| by_address[address]).collect()
}

#[test]
fn the_exit_path_has_no_locked_instruction() {
    let all = stretches(MONITOR_ELF);
    let path = exit_path(&all);
    let (found, decoded) = scan(path.iter().copied(), is_locked);
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(decoded > 5000, "only {decoded} instructions of the exit path were decoded");
    for kind in ["Keyed", "Recorded"] {
        let has_own = path.iter().any(|stretch| stretch.name.contains(kind) && stretch.name.contains("close"));
        assert!(has_own, "what {kind} does out of line when an exit is closed was not reached");
    }
    let board = all.iter().filter(|stretch| stretch.name.contains("8vmm_core5board"));
    assert!(!scan(board, is_locked).0.is_empty(), "the scan sees none where there are some");
}

/// SMIs and NMIs come through as soon as a guest has been left, before a pause that may last (APM 2 15.17). After a scenario they
/// do not, since an INIT that has ended one is still pending.
#[test]
fn the_global_interrupt_flag_is_set_where_a_guest_is_left_but_for_scenarios() {
    let all = stretches(MONITOR_ELF);
    let entry = all.iter().find(|stretch| stretch.name.contains("3svm5entry5enter17h")).expect("the way to the stubs");
    let calls = |instruction: &Instruction| {
        matches!(instruction.mnemonic(), Mnemonic::Call | Mnemonic::Jmp)
            && instruction.near_branch_target() == entry.address
    };
    let callers: Vec<_> = all.iter().filter(|stretch| decoded(stretch).any(|i| calls(&i))).collect();
    assert!(!callers.is_empty(), "nobody enters a guest");
    for caller in callers {
        let behind = decoded(caller).skip_while(|instruction| !calls(instruction)).skip(1);
        let way: Vec<_> = behind.take_while(|instruction| instruction.mnemonic() != Mnemonic::Ret).collect();
        let sets = |instruction: &Instruction| instruction.mnemonic() == Mnemonic::Stgi;
        let at = way.iter().position(sets).unwrap_or_else(|| panic!("{} leaves the flag clear", caller.name));
        let skips = |instruction: &Instruction| {
            instruction.is_jcc_short_or_near() && instruction.near_branch_target() == way[at].next_ip()
        };
        assert!(way[..at].iter().any(skips), "{} sets it behind scenarios, too", caller.name);
    }
    let begin: Vec<_> = decoded(entry).map(|instruction| instruction.mnemonic()).collect();
    assert!(begin.contains(&Mnemonic::Clgi), "the next entry does not clear it");
}

/// Parts of the names of the functions that a quick exit goes through besides the one that a stub calls.
const QUICK_PARTS: &[&str] = &["4arms17Arms$LT$E$C$B$GT$2of3arm", "5stack10return_rbx"];

/// Parts of the names of the functions that a brief form is compiled into.
const BRIEF_PARTS: &[&str] = &["4arms17Arms$LT$E$C$B$GT$5brief"];

/// Parts of the names of the functions that stubs call.
const CALLED_BY_STUBS: &[&str] = &["5stack7on_exit", "5stack27on_exit"];

/// Parts of the names of the functions that take the guest's registers from the processor.
const REGISTER_TAKERS: &[&str] =
    &["5entry4rare17h", "5entry10opened_for17h", "5entry9registers17h", "5entry11decided_for17h"];

fn is_named(stretch: &Stretch, parts: &[&str]) -> bool {
    parts.iter().any(|part| stretch.name.contains(part))
}

/// The functions between a stub and those that take the guest's registers may use the registers that they have to keep as long as
/// they put them back first. They do before a jump to another function, and would not before a call. Nor would the frame be where
/// those find it.
#[test]
fn the_guests_registers_are_taken_and_given_back_by_jumps() {
    let all = stretches(MONITOR_ELF);
    let takers: BTreeSet<u64> = all
        .iter()
        .filter(|stretch| is_named(stretch, REGISTER_TAKERS) || stretch.name.contains("5stack10return_rbx"))
        .map(|stretch| stretch.address)
        .collect();
    let (all, takers) = (&all, &takers);
    let goes = |by: fn(&Instruction) -> bool| {
        let all = all.iter().flat_map(decoded);
        all.filter(move |i| by(i) && takers.contains(&i.near_branch_target())).map(|i| format!("{:#x}: {i}", i.ip()))
    };
    let calls: Vec<String> = goes(Instruction::is_call_near).collect();
    assert!(calls.is_empty(), "{}", calls.join("\n"));
    let jumped_to =
        |stretch: &&Stretch| [QUICK_PARTS, BRIEF_PARTS, CALLED_BY_STUBS].iter().any(|parts| is_named(stretch, parts));
    let before = all.iter().filter(jumped_to);
    let (calls, decoded) = scan(before, Instruction::is_call_near_indirect);
    assert!(decoded > 1000, "only {decoded} instructions of stubs and arms were decoded");
    assert!(calls.is_empty(), "an arm is called, by a table:\n{}", calls.join("\n"));
    let jumps = goes(|i| i.is_jmp_short_or_near() || i.is_jcc_short_or_near()).count();
    assert!(takers.len() > 20 && jumps >= takers.len(), "only {jumps} jumps to {} functions were found", takers.len());
}

/// The instructions of the guest's loop beside the exit on each turn: its operand, which IN and OUT lack, the instruction itself,
/// and two that count.
fn turn(reason: ExitReason) -> usize {
    if reason == ExitReason::IO_INSTRUCTION { 3 } else { 4 }
}

/// Instructions of the shortest and the longest way through an arm, and the ledger's share of them.
type Counted = (usize, usize, usize);

/// Each arm as it is today: under VT-x, and on an SVM processor with decode assists and without clean bits. The toolchain is
/// pinned, so that these numbers change only with the code. An arm that has become shorter is to be written down here.
const TODAY: [(ExitReason, [Counted; 2]); 6] = [
    (ExitReason::CPUID, [(62, 62, 17), (59, 59, 17)]),
    (ExitReason::VMCALL, [(56, 56, 17), (50, 50, 17)]),
    (ExitReason::CR_ACCESS, [(75, 75, 17), (70, 113, 17)]),
    (ExitReason::IO_INSTRUCTION, [(68, 77, 17), (59, 69, 17)]),
    (ExitReason::RDMSR, [(62, 67, 17), (58, 63, 17)]),
    (ExitReason::EPT_VIOLATION, [(57, 57, 17), (58, 62, 17)]),
];

/// The ways through a stub for a reason, under SVM by any exit code that stands for it.
fn arm(image: &Image, stub: &Stretch, reason: ExitReason) -> Option<Lengths> {
    // Under SVM the guest exits behind VMRUN, in the midst of the stub.
    let exit = decoded(stub).find(|instruction| instruction.mnemonic() == Mnemonic::Vmrun);
    let Some(exit) = exit else { return lengths(image, stub.address, Exit::Reason(reason.0.into())) };
    let codes =
        (0..svm_exit::INTERCEPTS_END).chain([svm_exit::code::NPF]).filter(|&code| svm_exit::reason(code, 0) == reason);
    let exits = codes.map(|code| Exit::Code(code.into(), (code == svm_exit::code::MSR).then_some(0)));
    let found = exits.filter_map(|way| lengths(image, exit.next_ip(), way));
    found.reduce(|a, b| Lengths { shortest: a.shortest.min(b.shortest), longest: a.longest.max(b.longest) })
}

#[test]
fn each_quick_exit_keeps_its_budget_and_takes_no_instruction_more_than_it_did() {
    let all = stretches(MONITOR_ELF);
    let file = ElfFile64::<LE>::parse(MONITOR_ELF).unwrap();
    let text = file.section_by_name(".text").unwrap();
    let image = Image {
        code: (text.address(), text.data().unwrap()),
        data: file.segments().map(|segment| (segment.address(), segment.data().unwrap())).collect(),
        starts: all.iter().map(|stretch| stretch.address).collect::<BTreeSet<_>>().into_iter().collect(),
        quick: all.iter().filter(|stretch| is_named(stretch, QUICK_PARTS)).map(|stretch| stretch.address).collect(),
    };
    // A stub that takes no time stamp keeps no account.
    let is_accounted = |stub: &Stretch| decoded(stub).any(|instruction| instruction.mnemonic() == Mnemonic::Rdtsc);
    let ways = |reason: ExitReason, entry: Mnemonic| {
        // Several stubs differ in their work around the entry; the shortest is the one without extra work. Stubs that keep keys
        // or a trace close their exits out of line, and are not counted.
        let shortest = |accounted| {
            let stubs = stubs(&all).into_iter().filter(|stub| decoded(stub).any(|i| i.mnemonic() == entry));
            let arms =
                stubs.filter(|stub| is_accounted(stub) == accounted).filter_map(|stub| arm(&image, stub, reason));
            arms.min_by_key(|arm| arm.shortest).unwrap_or_else(|| panic!("{reason:?} is not quick: {entry:?}"))
        };
        let (with, without) = (shortest(true), shortest(false));
        (with.shortest, with.longest, with.shortest - without.shortest)
    };
    let found = QUICK
        .iter()
        .map(|row| (row.reason, [Mnemonic::Vmresume, Mnemonic::Vmrun].map(|entry| ways(row.reason, entry))));
    let found: Vec<_> = found.collect();
    for (row, (_, extensions)) in QUICK.iter().zip(&found) {
        for (extension, &(shortest, longest, ledger)) in extensions.iter().enumerate() {
            // The longest way of a MOV to CR0 under SVM reads the guest's code, where no decode assist tells the register.
            let reads_code = extension == 1 && row.reason == ExitReason::CR_ACCESS;
            let longest = if reads_code { shortest } else { longest };
            let is_within = [shortest, longest].iter().all(|&way| (way + turn(row.reason)) as u64 <= row.budget_ticks);
            assert!(is_within, "over its budget: {row:?}, {extensions:?}");
            assert!(ledger as u64 <= LEDGER_BUDGET_TICKS, "the ledger is over its budget: {row:?}, {extensions:?}");
        }
    }
    assert_eq!(found, TODAY, "arms whose length has changed");
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
