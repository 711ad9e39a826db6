//! Numbers of the architecture stand in one place each: those of exits in the table of reasons, those of registers' bits, MSRs,
//! exceptions and controls in `vmm-core/abi/src/x86`. Also, the exit path reaches no device but through its handlers.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The sources of the bare-metal programs, and of the test that decodes them, without tests at a file's end, by their names.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = [
        "vmm-core/src",
        "vmm-core/abi/src",
        "vmm-core/bare-rt/src",
        "vmm-core/monitor/src",
        "vmm-core/monitor-run/src",
        "vmm-core/monitor-uefi/src",
        "unikernel-guest/src",
        "image-builder/tests/instructions",
    ]
    .map(|folder| root().join(folder))
    .into();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
            found.push((path.strip_prefix(root()).unwrap().display().to_string(), text));
        }
    }
    found.sort();
    found
}

/// The lines of code, outside of the files that may have them, that offend.
fn offenders(allowed: &[&str], offends: impl Fn(&str) -> bool) -> Vec<String> {
    let is_code = |line: &str| !line.trim_start().starts_with("//");
    let of_file = |(name, text): (String, String)| {
        let lines = text.lines().enumerate().filter(|(_, line)| is_code(line) && offends(line));
        lines.map(|(at, line)| format!("{name}:{}: {}", at + 1, line.trim())).collect::<Vec<_>>()
    };
    sources()
        .into_iter()
        .filter(|(name, _)| !allowed.iter().any(|allowed| name.starts_with(allowed)))
        .flat_map(of_file)
        .collect()
}

fn none(rule: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

/// Whether a line calls one of these, as a pattern or a value, with a literal number.
fn is_of_a_number(line: &str, names: &[&str]) -> bool {
    names.iter().any(|name| {
        line.match_indices(&format!("{name}(")).any(|(at, found)| {
            let is_name = !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            is_name && line[at + found.len()..].starts_with(|c: char| c.is_ascii_digit())
        })
    })
}

/// Whether a line declares a constant of such a name by a number of its own.
fn declares(line: &str, prefixes: &[&str]) -> bool {
    let Some((_, declaration)) = line.split_once("const ") else { return false };
    let Some((name, rest)) = declaration.split_once(':') else { return false };
    let value = rest.split_once('=').map_or("", |(_, value)| value.trim_start());
    prefixes.iter().any(|prefix| name.starts_with(prefix)) && value.starts_with(|c: char| c.is_ascii_digit())
}

/// The words, numbers and operators of a line, without its comment; a string is one token, a quotation mark.
fn tokens(line: &str) -> Vec<&str> {
    const PAIRS: [&str; 14] = ["::", "<<", ">>", "&&", "||", "==", "!=", "=>", "->", "..", "&=", "|=", "^=", "//"];
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (mut found, mut rest) = (Vec::new(), line.trim_start());
    while let Some(first) = rest.chars().next() {
        let end = if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if PAIRS.iter().any(|pair| rest.starts_with(pair)) {
            2
        } else {
            first.len_utf8()
        };
        let (token, behind) = rest.split_at(end);
        match token {
            "//" => break,
            "\"" => rest = behind.split_once('"').map_or("", |(_, behind)| behind),
            _ => rest = behind,
        }
        rest = rest.trim_start();
        found.push(token);
    }
    found
}

fn is_number(token: Option<&&str>) -> bool {
    token.is_some_and(|token| token.starts_with(|c: char| c.is_ascii_digit()))
}

/// Whether a register's bit or field is taken, set or compared by its number. The halves of a register and its lowest bytes are
/// no bits of the manual's, and of what CPUID answers, only single bits have names.
fn has_a_bit_by_number(line: &str) -> bool {
    const REGISTERS: [&str; 22] = [
        "cr0",
        "cr4",
        "efer",
        "rflags",
        "dr6",
        "dr7",
        "xcr0",
        "mxcsr",
        "rights",
        "controls",
        "interruptibility",
        "activity",
        "eventinj",
        "exitintinfo",
        "ept_vpid",
        "vm_cr",
        "cs",
        "ss",
        "tr",
        "ldtr",
        "selector",
        "pending_debug",
    ];
    const ANSWERS: [&str; 4] = ["eax", "ebx", "ecx", "edx"];
    const WIDTHS: [&str; 3] = ["0xff", "0xffff", "0xffff_ffff"];
    let tokens = tokens(line);
    tokens.iter().enumerate().any(|(at, token)| {
        let name = token.to_lowercase();
        // `cr0`, `GUEST_CR0`, `State::CsRights`.
        let is_register = REGISTERS.iter().any(|register| {
            name.strip_suffix(register).is_some_and(|before| before.is_empty() || before.ends_with('_'))
        }) || ["CsRights", "SsRights", "TrRights", "LdtrRights"].contains(token);
        let is_answer = ANSWERS.contains(token) || ANSWERS.iter().any(|answer| name.starts_with(&format!("{answer}_")));
        if !is_register && !is_answer {
            return false;
        }
        let mut behind = tokens[at + 1..].iter().skip_while(|token| ["(", ")"].contains(*token)).peekable();
        let operator = behind.next().copied().unwrap_or_default();
        let mut behind = behind.skip_while(|token| ["(", "!"].contains(*token)).peekable();
        if !is_number(behind.peek().copied()) {
            return false;
        }
        let number = behind.next().copied().unwrap_or_default();
        let next = [behind.next().copied().unwrap_or_default(), behind.next().copied().unwrap_or_default()];
        // A shift by a name is the name's.
        let shifts_by_number = next[0] == "<<" && is_number(Some(&next[1]));
        match operator {
            ">>" if next == ["&", "1"] => true,
            ">>" => is_register && number != "32",
            "&" | "|" | "^" | "&=" | "|=" | "^=" if next[0] == "<<" => shifts_by_number,
            "&" | "|" | "^" | "&=" | "|=" | "^=" => is_register && !WIDTHS.contains(&number),
            "," => is_register && shifts_by_number,
            _ => false,
        }
    })
}

/// Whether an MSR is read or written by its number.
fn reaches_an_msr_by_number(line: &str) -> bool {
    const CALLS: [&str; 14] = [
        "rdmsr",
        "wrmsr",
        "rdmsr_times",
        "wrmsr_times",
        "try_rdmsr",
        "try_wrmsr",
        "read_msr",
        "write_msr",
        "try_read_msr",
        "try_write_msr",
        "msr",
        "msr_exits",
        "Msr::new",
        "Msr",
    ];
    let tokens = tokens(line);
    tokens.iter().enumerate().any(|(at, token)| {
        let is_new = *token == "new" && at > 1 && tokens[at - 2] == "Msr";
        // The MSR is the first argument that is none of the parts of a machine.
        let mut arguments = tokens[at + 1..].iter();
        (is_new || CALLS.contains(token))
            && arguments.next() == Some(&"(")
            && is_number(arguments.find(|token| !["&", "mut", "backend", "machine", "here", ","].contains(*token)))
            // In assembly RDMSR and WRMSR have it in ECX, where a count is decimal.
            || tokens[at..].starts_with(&["mov", "ecx", ","]) && tokens.get(at + 3).is_some_and(|to| to.starts_with("0x"))
    })
}

/// Whether an exit of SVM's is told, asked or compared by its code.
fn has_an_exit_code_by_number(line: &str) -> bool {
    const CALLS: [&str; 7] = ["reason", "intercept", "of_code", "bit_0", "bit_1", "bit_2", "Code"];
    const CODES: [&str; 4] = ["code", "exit_code", "exitcode", "EXITCODE"];
    let tokens = tokens(line);
    let speaks_of_codes = tokens.windows(2).any(|pair| pair == ["svm_exit", "::"]);
    tokens.iter().enumerate().any(|(at, token)| {
        let next = tokens.get(at + 1).copied().unwrap_or_default();
        let behind = is_number(tokens.get(at + 2));
        CALLS.contains(token) && next == "(" && behind
            || *token == "EXITCODE" && next == "," && behind
            || CODES.contains(token) && ["==", "!="].contains(&next) && behind
            || speaks_of_codes && token.starts_with("0x")
    })
}

/// The lines of an enumeration that is named after numbers of the architecture, and gives them by itself.
fn enumerated_by_number(text: &str) -> Vec<&str> {
    const NAMES: [&str; 9] = ["Control", "Bit", "Flag", "Feature", "Exception", "Vector", "Msr", "Reason", "ExitCode"];
    let mut found = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        let tokens = tokens(line);
        if let Some(at) = tokens.iter().position(|token| *token == "enum") {
            is_inside = tokens.get(at + 1).is_some_and(|name| NAMES.iter().any(|part| name.contains(part)));
        } else if line.starts_with('}') {
            is_inside = false;
        } else if is_inside && tokens.get(1) == Some(&"=") && is_number(tokens.get(2)) {
            found.push(line);
        }
    }
    found
}

#[test]
fn bits_of_registers_have_names() {
    // Bits that are reserved have no name: the guest tries to set them, and a test sees that CPUID shows none.
    const RESERVED: [&str; 3] = ["cr0 | 1 << 32", "cr4 | 1 << 63", "features.edx & (1 << 10 | 1 << 30)"];
    let is_reserved = |line: &str| RESERVED.iter().any(|bit| line.contains(bit));
    let found = offenders(&["vmm-core/abi/src/x86/"], |line| has_a_bit_by_number(line) && !is_reserved(line));
    none("bits by number", &found);
}

#[test]
fn msrs_that_are_reached_have_names() {
    none("MSRs by number", &offenders(&[], reaches_an_msr_by_number));
}

#[test]
fn exits_of_svm_have_names() {
    none("exit codes by number", &offenders(&["vmm-core/abi/src/svm_exit.rs"], has_an_exit_code_by_number));
}

#[test]
fn no_enumeration_numbers_what_has_a_name() {
    let found: Vec<String> = sources()
        .iter()
        .flat_map(|(name, text)| {
            enumerated_by_number(text).into_iter().map(move |line| format!("{name}: {}", line.trim()))
        })
        .collect();
    none("enumerations with numbers", &found);
}

#[test]
fn no_exits_number_stands_outside_the_table() {
    let found =
        offenders(&["vmm-core/abi/src/exit_reason.rs"], |line| is_of_a_number(line, &["ExitReason", "RawReason"]));
    none("exits by number", &found);
}

#[test]
fn controls_have_names() {
    let found = offenders(&[], |line| is_of_a_number(line, &["Pin", "Proc", "Proc2", "Proc3", "proc", "proc2"]));
    none("controls by number", &found);
}

#[test]
fn what_the_manuals_name_is_declared_once() {
    const PREFIXES: [&str; 10] =
        ["CPUID_", "CR0_", "CR4_", "EFER_", "RFLAGS_", "DR6_", "DR7_", "XCR0_", "IA32_", "CS_LONG"];
    let allowed = ["vmm-core/abi/src/x86/", "vmm-core/src/svm/twins.rs"];
    let found = offenders(&allowed, |line| declares(line, &PREFIXES));
    none("numbers that vmm-core/abi/src/x86 has by the manual's name", &found);
}

#[test]
fn msrs_have_names() {
    // The bitmaps of each extension deal with the ranges of MSRs that exist; the guest asks for some that no processor has.
    const ALLOWED: [&str; 4] = [
        "vmm-core/abi/src/x86/msr.rs",
        "vmm-core/src/svm/permission_maps.rs",
        "vmm-core/src/vmx/bitmaps.rs",
        "unikernel-guest/src/workloads/msrs.rs",
    ];
    none("MSRs by number", &offenders(&ALLOWED, |line| line.contains("0xc000_0") || line.contains("0xc001_0")));
}

#[test]
fn the_spine_reaches_no_device_and_devices_no_extension() {
    let all = sources();
    let of = |prefix: &'static str| all.iter().filter(move |(name, _)| name.starts_with(prefix));
    let spine: Vec<_> = of("vmm-core/src/vcpu").collect();
    assert!(!spine.is_empty(), "the spine is elsewhere");
    for (name, text) in spine {
        assert!(!text.contains("devices"), "{name} reaches a device: a quick form is its handler's");
    }
    let devices: Vec<_> = of("vmm-core/src/devices/").collect();
    assert!(devices.len() > 4, "the devices are elsewhere");
    for (name, text) in devices {
        for word in ["unsafe", "Backend", "crate::svm", "crate::vmx", "crate::exit", "crate::handlers", "crate::host"] {
            assert!(
                !text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(word)),
                "{name}: {word}"
            );
        }
    }
}

/// The files that opt into `unsafe` are those that the crate's documentation lists.
#[test]
fn the_list_of_unsafe_files_is_the_one_there_is() {
    let lib = fs::read_to_string(root().join("vmm-core/src/lib.rs")).unwrap();
    let listed = lib.split("//! Unsafe: ").nth(1).expect("lib.rs lists the files with `unsafe`");
    let listed = listed.split("#![").next().unwrap_or_default();
    let mut listed: Vec<&str> = listed.split('`').skip(1).step_by(2).collect();
    listed.sort_unstable();
    let opted = sources().into_iter().filter(|(_, text)| text.contains("expect(unsafe_code"));
    let mut found: Vec<String> = opted
        .filter_map(|(name, _)| Some(name.strip_prefix("vmm-core/src/")?.strip_suffix(".rs")?.replace('/', "::")))
        .map(|module| module.strip_suffix("::mod").map_or(module.clone(), str::to_owned))
        .collect();
    found.sort_unstable();
    assert_eq!(found, listed, "modules with `expect(unsafe_code)`, and those that lib.rs lists");
}

#[test]
fn the_rules_see_what_they_look_for() {
    assert!(is_of_a_number("    (Proc(12), x)", &["Proc"]) && !is_of_a_number("MyProc(12)", &["Proc"]));
    assert!(!is_of_a_number("Proc(RDTSC_EXITING)", &["Proc"]));
    assert!(
        declares("pub const CR0_PE: u64 = 1 << 0;", &["CR0_"]) && !declares("const CR0_X: u64 = CR0_PE;", &["CR0_"])
    );
    assert_eq!(
        tokens("a.b(x, \"c d\") >>= 0x1_f; // e"),
        ["a", ".", "b", "(", "x", ",", "\"", ")", ">>", "=", "0x1_f", ";"]
    );
    assert_eq!(
        enumerated_by_number("enum VectorOf {\n    Debug = 1,\n    Other,\n}\nenum Turn {\n    First = 1,\n}"),
        ["    Debug = 1,"]
    );
    let check = |rule: fn(&str) -> bool, flagged: &[&str], passed: &[&str]| {
        flagged.iter().for_each(|line| assert!(rule(line), "not seen: {line}"));
        passed.iter().for_each(|line| assert!(!rule(line), "wrongly seen: {line}"));
    };
    check(
        has_a_bit_by_number,
        &[
            "let pages = cr0 >> 31 & 1 == 1;",
            "(efer & !0xd01 == 0, \"a reserved bit\"),",
            "self.get(GUEST_RFLAGS) >> 9 & 1 == 1",
            "self.get(State::Rflags) & 1 << 8 == 0",
            "backend.set(State::Cr0, 1 << 31 | 1);",
            "vmcb.get(EVENTINJ) >> 8 & 7",
            "dr7 |= 0x400;",
            "write_dr6(read_dr6() & !(1 << 14))",
            "timed!(\"mov cr0, {x}\", x = in(reg) read_cr0() ^ 2)",
            "rdtscp: extended.edx >> 27 & 1 != 0,",
            "assert_ne!(answer.ecx & 1 << 27, 0);",
            "matches!(cs & 15, 3 | 9)",
            "self.get(GUEST_TR_SELECTOR) >> 2 & 1 == 0",
        ],
        &[
            "(cr0 >> 32 == 0, \"bits above 31\"),",
            "cr0 & CR0_PG != 0 && 1 < 2",
            "self.get(ENTRY_CONTROLS) & 1 << IA_32E_MODE_GUEST != 0",
            "features.ebx >> 16 & 0xff",
            "answer.ecx & ecx_1::AVX != 0",
            "rflags & 0xffff_ffff",
            "/// cr0 >> 31 & 1",
            "print(\"cr0 & 1 << 3\");",
            "across & 1 << 3",
        ],
    );
    check(
        reaches_an_msr_by_number,
        &[
            "Msr::new(0x2ff).write(6)",
            "let value = rdmsr(27);",
            "wrmsr(&mut backend, 0x80b, 1)",
            "traps::try_read_msr(0xc001_0114)",
            "    mov ecx, 0x1B  # IA32_APIC_BASE",
        ],
        &[
            "wrmsr(&mut backend, EOI, 0)",
            "try_wrmsr(msr, 0xdead)",
            "frame.user_msr(0)",
            "mov ecx, 1024",
            "rdmsr_times(ICR, 1)",
        ],
    );
    check(
        has_an_exit_code_by_number,
        &[
            "svm_exit::reason(code, 0) == svm_exit::reason(0x72, 0)",
            "let codes = (0..0xa7).filter(|&code| svm_exit::reason(code, 0) == reason);",
            "if code == 0x7c {",
            "vmcb.set(f::EXITCODE, 0x72);",
            "Exit::Code(0x81, None)",
        ],
        &[
            "svm_exit::reason(code, 0)",
            "each(reason, 0)",
            "opcode == 0x0f20",
            "reason(code::MSR, 1)",
            "error_code == 0",
        ],
    );
}
