//! The command line as a script sees it: standard output, standard error, exit status.

mod common;

use std::fs;
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{LogText, balanced, text, tollgate, tollgate_in, write_script};

fn check(arguments: &[&str], status: i32, part: &str) {
    let output = tollgate(arguments);
    let all = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {all}");
    assert!(all.contains(part), "{arguments:?} does not say `{part}`: {all}");
}

#[test]
fn wrong_usage_is_named_with_a_remedy() {
    check(&["run", "--workload", "cpiud"], 2, "did you mean `cpuid`?");
    check(&["run", "--workload", "memory:5000"], 2, "`memory` takes 1 to 1536 iterations");
    check(&["run", "--leaf-map", "autum2021"], 2, "did you mean `autumn2021`?");
    check(&["run", "--cpu", "tigerlak"], 2, "did you mean `tigerlake`?");
    check(&["bench", "--on", "bochs", "--filter", "cpuidd"], 2, "did you mean `cpuid`?");
    check(&["bench", "--on", "bochs", "--filter", "vmrun"], 2, "`vmrun` is not an operation of VT-x");
    check(&["bench", "--against", "/no/such/baseline"], 2, "/no/such/baseline can't be compared with");
    check(&["bench", "--cpu", "zambesi"], 2, "did you mean `zambezi`?");
    for cpus in ["0", "17", "two"] {
        check(&["run", "--cpus", cpus], 2, "--cpus <N>");
        check(&["run", "--machine-cpus", cpus], 2, "--machine-cpus <M>");
        check(&["image", "--rom", "absent/rom", "--cpus", cpus], 2, "--cpus <N>");
    }
    check(&["run", "--cpus", "17"], 2, "17 is not in 1..=16");
    check(&["run", "--missing-cpus", "wait"], 2, "possible values: stop, go-on");
    check(&["run", "--workload", "ipi-halted"], 2, "remedy: add --cpus 2");
    check(&["run", "--workload", "triple-fault-elsewhere"], 2, "runs on 2 vCPUs, and 1 is asked for");
    check(&["run", "--on", "qemu", "--cpu", "tigerlake"], 2, "remedy: use --on bochs");
    check(&["run", "--uefi", "--workload", "atlas"], 2, "the atlas takes several runs");
    check(&["run", "--on", "qemu-kvm", "--audit"], 3, "QEMU with KVM keeps none");
    check(&["bench", "--cpu", "turion64_tyler"], 3, "its SVM has no nested paging");
    check(&["run", "--watchdog", "5000000000"], 2, "too long");
    check(&["run", "--guest", "/no/such/file"], 2, "/no/such/file can't be read");
    check(&["run", "--guest", "/"], 2, "not a regular file");
    check(&["report", "/no/such/file"], 2, "/no/such/file: ");
    check(&["report", "src/emulator"], 2, "nothing to report: 0 logs can't be used, and 0 files named .log");
    check(&["report", "--sort", "max", "--format", "csv", "-"], 2, "--sort is for the table and the page");
    check(&["report", "--histogram", "--format", "json", "-"], 2, "--histogram is for the table");
    check(&["report", "--format", "parquet", "-"], 2, "name one that is not there yet: --out DIR");
    check(&["report", "--format", "parquet", "--merge", "-"], 2, "a data set has every run by itself");
    check(&["report", "--format", "parquet", "--out", "src", "-"], 2, "src is there already, and no empty directory");
    check(&["report", "--format", "parquet", "--out", "absent/fleet", "-"], 2, "there is no directory absent");
    check(&["report", "--decimal-comma", "-"], 2, "--csv-delimiter and --decimal-comma are for CSV");
    check(&["report", "--out", "src", "-"], 2, "is a directory; name a file");
    for arguments in [
        &["report", "--out", "absent/file", "-"][..],
        &["run", "--on", "bochs", "--trace", "absent/file.csv"],
        &["run", "--on", "bochs", "--html", "absent/file.html"],
        &["image", "--rom", "absent/file"],
    ] {
        check(arguments, 2, "can't be written: there is no directory absent");
    }
    check(&["reprot"], 2, "report");
    check(&["run", "--on", "vax"], 2, "possible values");
}

#[test]
fn a_kernel_is_known_by_its_content_and_goes_where_it_can() {
    let place = tempfile::tempdir().unwrap();
    // The boot header's magic, and nothing else of a kernel.
    let (kernel, script) = (place.path().join("kernel"), place.path().join("script"));
    let mut bytes = vec![0; 0x300];
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    fs::write(&kernel, bytes).unwrap();
    fs::write(&script, b"#!/bin/sh\n").unwrap();
    // An ELF file that says no more than that it is one.
    let own = place.path().join("own");
    fs::write(&own, b"\x7fELF").unwrap();
    let (kernel, script, own) = (kernel.to_str().unwrap(), script.to_str().unwrap(), own.to_str().unwrap());
    let run =
        |more: &[&str], part: &str| check(&[&["run", "--on", "bochs", "--guest", kernel], more].concat(), 2, part);
    run(&[], "kernel can't be the guest: the kernel speaks boot protocol 0.00");
    run(&["--workload", "cpuid"], "a kernel runs no workloads");
    run(&["--uefi"], "kernel can't be the guest: the kernel speaks boot protocol 0.00");
    run(&["--memory", "2047"], "a kernel's machine can't have 2047 MiB of memory");
    run(&["--initrd", "/no/such/file"], "/no/such/file can't be read");
    run(&["--initrd", script, "--exec", "true"], "cannot be used with");
    check(&["image", "--rom", "absent/rom", "--guest", kernel], 2, "a kernel is too large for a ROM");
    let stick = |more: &[&str], part: &str| check(&[&["image", "--uefi", "absent/stick"], more].concat(), 2, part);
    stick(&["--guest", kernel], "kernel can't be the guest: the kernel speaks boot protocol 0.00");
    stick(&["--guest", kernel, "--memory", "2047"], "a kernel's machine can't have 2047 MiB of memory");
    stick(&["--guest", script, "--memory", "64"], "the kernel's file is a script");
    stick(&["--guest", own, "--memory", "64"], "--memory is of a kernel's machine, and the guest is no kernel");
    stick(&["--memory", "64"], "--guest <FILE>");
    check(&["run", "--on", "bochs", "--guest", script], 2, "the kernel's file is a script");
    check(&["run", "--on", "bochs", "--guest", script, "--append", "quiet"], 2, "the kernel's file is a script");
    run(&["--module", "/no/such/file"], "/no/such/file can't be read");
    run(
        &["--module", &format!("{script}=text")],
        "the kernel's file is a bzImage with nothing packed, which is given no modules",
    );
    check(&["run", "--module", script], 2, "--guest <FILE>");
    check(&["run", "--append", "quiet"], 2, "--guest <FILE>");
}

#[test]
fn tables_come_in_every_form() {
    check(&["reasons"], 0, "edition 2025-06");
    check(&["reasons"], 0, "edition 2024-03");
    check(&["reasons", "--format", "csv"], 0, "10,CPUID,72h,VMX,always,CPUID,any VT-x");
    check(&["reasons", "--format", "csv"], 0, "33,VM-entry failure due to invalid guest state,-1,");
    check(
        &["reasons", "--format", "csv"],
        0,
        "108,SHUTDOWN,7Fh,SVM,intercept,an exception while #DF is delivered,\"QEMU, Bochs' AMD models or silicon (Bochs from 3.0 on)\"",
    );
    check(&["reasons", "--format", "markdown"], 0, "| no | name");
    check(&["reasons", "--format", "markdown"], 0, "|  no | SVM code | name");
    check(&["workloads"], 0, "x 1/iteration");
    check(&["workloads", "--format", "csv"], 0, "ipi-halted,minimal,two,100,");
    check(&["workloads", "--format", "csv"], 0, "cpuid,minimal,every,1000,");
    check(&["workloads", "--format", "csv"], 0, "leaves,minimal,first,1,");
    check(&["workloads", "--format", "csv"], 0, "getsec,own,first,4,");
    check(&["workloads", "--format", "json"], 0, "\"workload\": \"compute\"");
    for row in ["bochs,tigerlake,VT-x,", "bochs,ryzen,SVM,", "qemu-kvm,the host's,VT-x,", "qemu-kvm,the host's,SVM,"] {
        check(&["platforms", "--format", "csv"], 0, row);
    }
    for row in ["qemu-tcg,max,SVM,", "qemu-tcg --uefi,max,SVM,", "bochs --uefi,its models,VT-x,", "a USB stick,"] {
        check(&["platforms", "--format", "csv"], 0, row);
    }
    check(&["platforms"], 0, "treatment");
    check(&["platforms", "--versions", "--format", "csv"], 0, "Bochs,from 3.1 on,refuses to be without extfpuirq,");
    let output = tollgate(&["reasons", "--format", "json"]);
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        rows.as_array().unwrap().len(),
        tollgate_abi::exit_reason::TABLE.len() + tollgate_abi::svm_exit::OWN.len()
    );
}

#[test]
fn tables_fit_a_terminal() {
    for table in [&["reasons"][..], &["workloads"], &["platforms"]] {
        let out = text(&tollgate(table).stdout);
        let widest = out.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 120, "{table:?} is {widest} columns wide");
    }
}

#[test]
fn an_image_is_written_whole_and_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let output = tollgate_in(directory.path(), &["image", "--rom", "tollgate.rom"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let rom = fs::read(directory.path().join("tollgate.rom")).unwrap();
    assert_eq!(rom.len(), 256 << 10);
    assert_eq!(&rom[rom.len() - 8192..][..8], b"TollGate");

    fs::write(directory.path().join("guest.elf"), b"\x7fELF").unwrap();
    let output = tollgate_in(directory.path(), &["image", "--rom", "tollgate.rom", "--guest", "guest.elf"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("guest.elf can't be the guest: it is truncated"), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("remedy: "));
    assert_eq!(fs::read(directory.path().join("tollgate.rom")).unwrap(), rom, "the image was lost");

    let output = tollgate_in(directory.path(), &["image", "--rom", "absent/tollgate.rom"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("can't be written"));
}

#[test]
fn shells_and_man_are_told_of_every_command() {
    let place = tempfile::tempdir().unwrap();
    let output = tollgate_in(place.path(), &["man", "--out", "man1"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let page = |name: &str| fs::read_to_string(place.path().join("man1").join(name)).unwrap();
    let tool = page("tollgate.1");
    assert!(tool.contains(".SH \"EXIT STATUS\"") && !tool.contains("EXTRA"), "{tool}");
    for command in ["run", "image", "report", "bench", "reasons", "workloads", "platforms", "completions", "man"] {
        assert!(tool.contains(&format!("tollgate\\-{command}(1)")), "{command}");
        let page = page(&format!("tollgate-{command}.1"));
        assert!(page.contains(&format!(".TH tollgate-{command} 1")) && page.contains(".SH EXAMPLES"), "{page}");
    }
    check(&["man", "--out", "/dev/null/man1"], 2, "can't be written");
    for shell in ["bash", "zsh", "fish"] {
        check(&["completions", shell], 0, "audit");
    }
    check(&["completions", "csh"], 2, "possible values");
    let script = format!("source <({} completions bash) && complete -p tollgate", env!("CARGO_BIN_EXE_tollgate"));
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(text(&output.stdout).contains("_tollgate"), "{}", text(&output.stderr));
}

/// A Bochs that answers questions about itself, and does nothing else.
fn bochs(version: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let program = place.path().join("bochs");
    write_script(&program, &format!("#!/bin/sh\necho 'Bochs x86 Emulator {version}'\n"));
    place
}

#[test]
fn help_and_completions_name_the_models_of_the_bochs_that_is_here() {
    for (version, named, unnamed) in [("2.7", "bx_generic", "arrow_lake"), ("3.1", "arrow_lake", "bx_generic")] {
        let bochs = bochs(version);
        let program = bochs.path().join("bochs");
        let variables = [("TOLLGATE_BOCHS", program.to_str().unwrap())];
        for arguments in [&["run", "--help"][..], &["bench", "--help"], &["fuzz", "-h"], &["completions", "bash"]] {
            let shown = text(&tollgate_in(bochs.path(), arguments, &variables).stdout);
            assert!(shown.contains(named) && !shown.contains(unnamed), "{arguments:?} with {version}: {shown}");
        }
    }
}

/// The tool's output on a terminal of 40 columns.
fn on_a_terminal(place: &Path, arguments: &str) -> String {
    let command = format!("stty cols 40; {} {arguments}", env!("CARGO_BIN_EXE_tollgate"));
    let mut script = Command::new("script");
    script.args(["--quiet", "--command", &command, "transcript"]).current_dir(place).stdin(Stdio::null());
    let output = script.output().expect("`script` is one of Debian's bsdutils");
    text(&output.stdout)
}

#[test]
fn messages_fit_the_terminal() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("empty.log"), "").unwrap();
    fs::write(place.path().join("whole.log"), balanced().0).unwrap();
    for (arguments, part) in [
        ("report empty.log whole.log", "can't be used"),
        ("trace whole.log --out trace.csv", "the run kept no"),
        ("image --rom tollgate.rom", "of which the"),
        ("bench --log whole.log", "microbenchmark in it"),
    ] {
        let shown = on_a_terminal(place.path(), arguments);
        assert!(shown.contains(part), "{arguments}: {shown}");
        let too_wide = |line: &&str| line.trim_end().chars().count() > 40;
        assert_eq!(shown.lines().find(too_wide), None, "{arguments}");
    }
}

fn report(log: &[u8], arguments: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .arg("report")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The tool refuses the log early and closes its end of the pipe, so that this write may fail.
    let _ = child.stdin.take().unwrap().write_all(log);
    child.wait_with_output().unwrap()
}

#[test]
fn a_log_from_standard_input_is_reported_with_its_status() {
    let output = report(balanced().0.as_bytes(), &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("verdict: balanced"));

    let output = report(balanced().0.as_bytes(), &["--format", "json", "-"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["schema"], "tollgate.account/1");

    let whole = balanced().0;
    let torn = &whole.as_bytes()[..whole.len() - 10];
    let output = report(torn, &[]);
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stdout).contains("verdict: unfinished"));

    let mut refused = LogText::default();
    refused.header("");
    refused.verdict("refused", "no VT-x");
    assert_eq!(report(refused.0.as_bytes(), &[]).status.code(), Some(3));

    let output = report(whole.repeat(2).as_bytes(), &[]);
    let shown = text(&output.stdout);
    assert_eq!((output.status.code(), shown.matches("verdict: balanced").count()), (Some(0), 2));
    assert!(shown.starts_with("-\n") && shown.contains("\n-#2\n"), "{shown}");

    for bytes in [&b""[..], b"hello\n", &[0xff; 5000]] {
        let output = report(bytes, &[]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
        assert!(output.stdout.is_empty());
        assert!(text(&output.stderr).starts_with("tollgate: -: "), "{}", text(&output.stderr));
    }
}

#[test]
fn the_worst_of_several_logs_is_the_status_and_the_readable_ones_are_shown() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("good.log"), balanced().0).unwrap();
    fs::write(directory.path().join("bad.log"), "not a log\n").unwrap();
    let output = tollgate_in(directory.path(), &["report", "good.log", "bad.log"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stdout).contains("verdict: balanced"));
    assert!(text(&output.stderr).contains("bad.log: this is not a log of Tollgate"));
}

/// The inputs of captures, of which `books/tests` has the whole truth.
fn captures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("books/tests/captures")
}

#[test]
fn the_exit_status_tells_a_damaged_log_from_one_that_cannot_be_read_and_from_books_that_differ() {
    let place = tempfile::tempdir().unwrap();
    let packed = place.path().join("a.log.bz2");
    fs::write(&packed, b"BZh91AY&SY").unwrap();
    let of = |name: &str| captures().join(name).to_str().unwrap().to_owned();
    check(&["report", &of("ts.log")], 0, "verdict: balanced");
    check(&["report", &of("one-byte-damaged.log")], 4, "verdict: can't be judged: 1 record is damaged (line 6, exit)");
    check(&["report", &of("first-record-damaged.log")], 4, "can't be judged: 1 record is damaged (line 1, tollgate)");
    check(&["report", &of("reset-then-run.log")], 4, "reset-then-run.log#2\n");
    check(&["report", &of("reset-then-run.log#2")], 0, "verdict: balanced");
    check(&["report", packed.to_str().unwrap()], 2, "it is packed as bzip2, or more than once: unpack it first");
    check(&["report", place.path().to_str().unwrap(), &of("plain.log")], 2, "1 of 2 logs can't be used");
    let table = text(&tollgate(&["report", &of("one-byte-damaged.log")]).stdout);
    let row = table.lines().find(|line| line.contains("VMCALL")).unwrap();
    let cells: Vec<_> = row.split_whitespace().collect();
    assert_eq!(cells, ["18", "VMCALL", "-", "-", "-", "-", "-", "-", "6", "-"], "{table}");
    let csv = text(&tollgate(&["report", "--format", "csv", &of("one-byte-damaged.log")]).stdout);
    assert!(csv.contains(",all,18,VMCALL,,,,,,,6,\n"), "{csv}");
    for form in ["openmetrics", "prometheus"] {
        let metrics = text(&tollgate(&["report", "--format", form, &of("one-byte-damaged.log")]).stdout);
        let about = |name: &str| metrics.lines().any(|line| line.starts_with(name) && line.contains("VMCALL"));
        assert!(about("tollgate_guest_exits") && !about("tollgate_exits"), "{metrics}");
        assert!(!metrics.lines().any(|line| line.starts_with("tollgate_balanced{")), "{metrics}");
    }
}

#[test]
fn logs_and_traces_come_through_pipes() {
    let place = tempfile::tempdir().unwrap();
    let traced = fs::read_to_string(captures().join("traced.log")).unwrap();
    fs::write(place.path().join("traced.log"), &traced).unwrap();
    let tool = env!("CARGO_BIN_EXE_tollgate");
    let run = |script: &str| {
        let output = Command::new("bash").args(["-c", script]).current_dir(place.path()).output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    for source in ["report <(gzip -c traced.log)", "report - < traced.log", "report /dev/stdin < traced.log"] {
        let (status, said) = run(&format!("{tool} {source}"));
        assert!(status == Some(0) && said.contains("verdict: balanced"), "{source}: {said}");
    }
    let (status, said) = run(&format!("{tool} trace traced.log --out whole.csv"));
    assert_eq!(status, Some(0), "{said}");
    let whole = fs::read_to_string(place.path().join("whole.csv")).unwrap();
    assert!(whole.lines().count() > 20, "{whole}");
    for source in ["<(cat traced.log)", "<(gzip -c traced.log)", "- < traced.log", "/dev/stdin < traced.log"] {
        let (status, said) = run(&format!("{tool} trace --out piped.csv {source}"));
        assert_eq!(status, Some(0), "{source}: {said}");
        assert_eq!(fs::read_to_string(place.path().join("piped.csv")).unwrap(), whole, "{source}");
    }
    let (status, said) = run(&format!("cat traced.log traced.log | {tool} trace --out piped.csv -"));
    assert!(status == Some(2) && said.contains("-: it has several runs: name one of them"), "{said}");
    let (status, _) = run(&format!("cat traced.log traced.log > two.log; {tool} trace --out piped.csv two.log#2"));
    assert_eq!(status, Some(0));
    let (status, said) = run(&format!("{tool} trace --out other.csv {}", captures().join("plain.log").display()));
    assert!(status == Some(2) && said.contains("the run kept no trace") && !said.contains("another guest"), "{said}");
}

#[test]
fn a_log_is_followed_to_its_verdict_in_a_pipe_in_a_file_and_on_a_terminal() {
    let whole = balanced().0;
    let middle = whole.find("exit ").unwrap();
    let progress = "1 workloads done, 5 exits, 10204.1 in a million ticks: CPUID 5";

    let output = report(whole.as_bytes(), &["--follow"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).ends_with("verdict: balanced\n"), "{}", text(&output.stdout));
    assert!(text(&output.stderr).lines().count() == 1, "{}", text(&output.stderr));
    let torn = report(&whole.as_bytes()[..middle], &["--follow", "-"]);
    assert_eq!((torn.status.code(), text(&torn.stderr)), (Some(4), format!("{progress}\n")));

    let place = tempfile::tempdir().unwrap();
    let log = place.path().join("serial.log");
    fs::write(&log, &whole[..middle]).unwrap();
    let mut tool = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    tool.arg("report").arg("--follow").arg(&log).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tool = tool.spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(tool.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, format!("{progress}\n"));
    assert!(tool.try_wait().unwrap().is_none(), "it waits for more");
    fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(&whole.as_bytes()[middle..]).unwrap();
    let output = tool.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).ends_with("verdict: balanced\n"), "{}", text(&output.stdout));

    let shown = on_a_terminal(place.path(), "report --follow serial.log");
    assert!(shown.contains("verdict: balanced"), "{shown}");
    check(&["report", "--follow", "a.log", "b.log"], 2, "one log can be followed at a time");
    check(&["report", "--follow", "/no/such/file"], 2, "/no/such/file: ");
    check(&["report", "--follow", "--merge", "a.log"], 2, "cannot be used with");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let script = format!("{} reasons | head -n 1", env!("CARGO_BIN_EXE_tollgate"));
    let output = Command::new("bash").args(["-c", "set -o pipefail; eval \"$1\"", "bash", &script]).output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}
