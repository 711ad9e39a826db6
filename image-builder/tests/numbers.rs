//! Numbers of the architecture stand in one place each: those of exits in the table of reasons, those of registers' bits, MSRs,
//! exceptions and controls in `vmm-core/abi/src/x86`. Also, the exit path reaches no device but through its handlers.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The sources of the bare-metal programs, without tests at a file's end, by their names.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = [
        "vmm-core/src",
        "vmm-core/abi/src",
        "vmm-core/monitor-run/src",
        "vmm-core/monitor-uefi/src",
        "unikernel-guest/src",
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
}
