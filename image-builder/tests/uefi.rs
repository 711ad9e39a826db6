//! The stick under OVMF: whole runs in Bochs, which has VT-x, and in QEMU, which has SVM; and faults of sticks and machines.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use common::sticks::{Booted, FIRST_LOG, in_qemu, replace};
use common::{text, tollgate_in};
use serde_json::Value;
use tempfile::TempDir;
use tollgate::emulator::{Launch, Limits, STICK, Session, bochs, ovmf};
use tollgate::image::disk;
use tollgate::images;
use tollgate_abi::ExitReason;
use tollgate_abi::record::Kind;
use tollgate_abi::stick::{APPLICATION, GUEST, OPTIONS};

/// A run of the tool with a stick in Bochs, audited.
fn balanced_in_bochs(arguments: &[&str]) -> (Value, TempDir) {
    if let Err(missing) = bochs::find() {
        panic!("this test needs Bochs. {missing}");
    }
    let place = tempfile::tempdir().unwrap();
    let fixed = ["run", "--uefi", "--on", "bochs", "--audit", "--json", "--out", ".", "--timeout", "300"];
    let output = tollgate_in(place.path(), &[&fixed, arguments].concat(), &[]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    (serde_json::from_slice(&output.stdout).unwrap(), place)
}

#[test]
fn the_whole_run_balances_and_its_log_comes_back_on_the_stick() {
    let (account, place) = balanced_in_bochs(&[]);
    assert_eq!((&account["verdict"], &account["findings"]), (&"balanced".into(), &Value::Array(vec![])));
    let exits = &account["totals"]["exits"];
    assert!(exits.as_u64() > Some(10_000) && *exits == account["totals"]["audit_count"], "{}", account["totals"]);
    let reported = tollgate_in(place.path(), &["report", "--format", "json", FIRST_LOG], &[]);
    assert_eq!(reported.status.code(), Some(0), "{}", text(&reported.stderr));
    assert!(text(&reported.stdout).contains("\"balanced\""), "{}", text(&reported.stdout));
}

#[test]
fn qemus_own_emulation_runs_the_stick_too() {
    let place = tempfile::tempdir().unwrap();
    let fixed = ["run", "--uefi", "--on", "qemu-tcg", "--audit", "--json", "--out", "."];
    let output =
        tollgate_in(place.path(), &[&fixed[..], &["--cpus", "2", "--workload", "cpuid,threads"]].concat(), &[]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    let account: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(account["totals"]["audit_count"], account["totals"]["exits"]);
    let silicon = &account["silicon"];
    assert!(silicon["microcode"].as_u64() > Some(0) && silicon["threads_per_core"] == 1, "{silicon}");
    let reported = tollgate_in(place.path(), &["report", FIRST_LOG], &[]);
    assert!(text(&reported.stdout).contains("verdict: balanced"), "{}", text(&reported.stdout));
}

#[test]
fn a_run_that_ends_by_its_limit_is_on_the_stick() {
    let place = tempfile::tempdir().unwrap();
    let endless = ["--workload", "endless-loop", "--watchdog", "0", "--limit", "50000000"];
    let output =
        tollgate_in(place.path(), &[&["run", "--uefi", "--on", "qemu-tcg", "--out", "."], &endless[..]].concat(), &[]);
    assert_eq!(output.status.code(), Some(1), "{}{}", text(&output.stdout), text(&output.stderr));
    let reported = tollgate_in(place.path(), &["report", FIRST_LOG], &[]);
    assert!(text(&reported.stdout).contains("the guest ended as limit-reached"), "{}", text(&reported.stdout));
}

#[test]
fn a_vcpu_that_breaks_stops_the_others_and_all_go_back_to_firmware() {
    let place = tempfile::tempdir().unwrap();
    let arguments = ["run", "--uefi", "--on", "bochs", "--out", ".", "--cpus", "4", "--timeout", "300"];
    let hostile = ["--workload", "triple-fault-elsewhere"];
    let output = tollgate_in(place.path(), &[&arguments[..], &hostile].concat(), &[]);
    assert_eq!(output.status.code(), Some(1), "{}{}", text(&output.stdout), text(&output.stderr));
    let said = text(&fs::read(place.path().join("serial.log")).unwrap());
    assert!(said.contains("vCPU 1 ended as triple-fault") && said.contains("The log is on the stick"), "{said}");
    assert!(!said.contains("did not come back"), "{said}");
}

#[test]
fn firmwares_other_processors_run_vcpus_and_go_back() {
    let (account, place) = balanced_in_bochs(&["--cpus", "2", "--workload", "cpuid,memory:64,threads,ipi-halted"]);
    for vcpu in account["per_vcpu"].as_array().unwrap() {
        assert_eq!(vcpu["audit_count"], vcpu["exits"], "{vcpu}");
    }
    // The application's words behind its log go over the serial port, too.
    let serial = text(&fs::read(place.path().join("serial.log")).unwrap());
    assert!(!serial.contains("did not come back") && serial.contains(FIRST_LOG), "{serial}");
}

fn stick() -> Vec<u8> {
    images::build_stick(None, "workloads=cpuid").unwrap().bytes
}

/// MiB of a partition for small files.
const PARTITION_MIB: usize = 40;

/// The same stick with some files changed; those that are `None` are left out.
fn with_files(changed: &[(&str, Option<&[u8]>)]) -> std::io::Result<Vec<u8>> {
    let mut stick = stick();
    let mut files: Vec<(&str, Vec<u8>)> = Vec::new();
    for name in [APPLICATION, GUEST, OPTIONS] {
        if changed.iter().all(|(other, _)| *other != name) {
            files.push((name, disk::read(&mut stick, name).unwrap()));
        }
    }
    files.extend(changed.iter().filter_map(|&(name, bytes)| Some((name, bytes?.to_vec()))));
    disk::build_of(PARTITION_MIB, &files.iter().map(|(name, bytes)| (*name, &**bytes)).collect::<Vec<_>>())
}

#[test]
fn a_machine_without_vtx_is_told_on_port_screen_and_stick_and_logs_are_numbered() {
    let without_svm = |launch: &mut Launch| replace(launch, "max,+svm,-rdrand,-rdseed", "max,svm=off,-rdrand,-rdseed");
    let mut first = Booted::new(&stick(), without_svm);
    assert!(first.verdict().starts_with("refused: ") && first.verdict().contains("VT-x"), "{}", first.verdict());
    assert!(first.said.contains(" Verdict: refused: ") && first.said.contains(FIRST_LOG), "{}", first.said);
    assert_eq!(first.log(FIRST_LOG).unwrap().verdict, first.serial.verdict);
    let mut second = Booted::new(&first.stick, without_svm);
    assert!(second.log(FIRST_LOG).is_some() && second.log("TG000002.LOG").is_some(), "{}", second.said);
}

#[test]
fn a_stick_that_takes_no_log_does_not_keep_the_run_from_its_verdict() {
    let read_only = Booted::new(&stick(), |launch| {
        let drive = |interface: &str| format!("{interface},format=raw,file={STICK}");
        replace(launch, &drive("if=virtio"), &drive("if=none,id=stick,readonly=on"));
        let devices = ["-device", "qemu-xhci", "-device", "usb-storage,drive=stick"];
        launch.invocation.arguments.extend(devices.map(Into::into));
    });
    let told = "every book agrees; the log can't be saved: the stick is write-protected";
    assert!(read_only.verdict().starts_with("balanced: "), "{}", read_only.verdict());
    assert!(read_only.verdict().ends_with(told), "{}", read_only.verdict());

    // As much as fits beside the other files, to the sector.
    let fits = |sectors: usize| with_files(&[("FILL.BIN", Some(&vec![1; sectors * 512]))]).ok();
    let (mut most, mut too_many) = (70_000, 82_000);
    while most + 1 < too_many {
        let middle = (most + too_many) / 2;
        if fits(middle).is_some() { most = middle } else { too_many = middle }
    }
    let mut full = Booted::new(&fits(most).unwrap(), |_| {});
    assert!(full.verdict().ends_with("; the log can't be saved: the stick is full"), "{}", full.verdict());
    assert!(disk::read(&mut full.stick, FIRST_LOG).is_err(), "an empty log stayed");
}

#[test]
fn what_is_wrong_with_the_files_on_a_stick_is_named() {
    let verdict = |changed: &[(&str, Option<&[u8]>)]| {
        let mut refused = Booted::new(&with_files(changed).unwrap(), |_| {});
        assert_eq!(refused.log(FIRST_LOG).unwrap().verdict, refused.serial.verdict);
        refused.verdict()
    };
    let missing = verdict(&[(GUEST, None)]);
    assert!(missing.contains(GUEST) && missing.contains("it is not on the stick"), "{missing}");
    let torn = verdict(&[(GUEST, Some(b"TollGate"))]);
    assert!(torn.contains("holds no guest"), "{torn}");
    let mistaken = verdict(&[(OPTIONS, Some(b"# mine\r\nworkloads=cpuidd\r\n"))]);
    assert!(mistaken.contains("there is no workload `cpuidd`"), "{mistaken}");
    let binary = verdict(&[(OPTIONS, Some(b"cpus=1\n\xff\xfe"))]);
    assert!(binary.contains("line 2 of TOLLGATE\\OPTIONS.TXT"), "{binary}");
}

#[test]
fn above_4_gib_and_without_a_serial_port_it_says_so_and_runs() {
    let place = tempfile::tempdir().unwrap();
    let mut launch = in_qemu(place.path(), &stick());
    replace(&mut launch, "file:serial.log", "none");
    replace(&mut launch, &ovmf::MEMORY_MIB.to_string(), "6G");
    let _ = Session::run(&launch, Limits::within(Duration::from_secs(180)), |_| {}).unwrap();
    let mut stick = fs::read(place.path().join(STICK)).unwrap();
    let log = text(&disk::read(&mut stick, FIRST_LOG).unwrap());
    for told in ["there is no serial port", "above 4 GiB", "result=balanced", "another hypervisor is active"] {
        assert!(log.contains(told), "{told} is missing:\n{log}");
    }
}

/// The key comes over QEMU's monitor, at a socket in the test's own folder.
#[test]
fn esc_ends_a_run_whose_log_is_saved() {
    let endless = images::build_stick(None, "workloads=cpuid:1000000000 watchdog=1000000000").unwrap().bytes;
    let with_keys = |launch: &mut Launch| {
        let keys = ["-chardev", "socket,id=keys,path=keys,server=on,wait=off", "-mon", "chardev=keys,mode=readline"];
        launch.invocation.arguments.extend(keys.map(Into::into));
    };
    let mut monitor = None;
    let mut booted = Booted::watched(&endless, with_keys, |record, folder| {
        if record.kind == Kind::Begin {
            let mut socket = UnixStream::connect(folder.join("keys")).unwrap();
            socket.write_all(b"sendkey esc\n").unwrap();
            monitor = Some(socket);
        }
    });
    let ended = "stopped: the guest ended as escape-pressed";
    assert!(monitor.is_some() && booted.verdict().starts_with(ended), "{}\n{}", booted.verdict(), booted.said);
    assert!(booted.said.contains("Esc ends it earlier"), "{}", booted.said);
    let log = booted.log(FIRST_LOG).expect("the log is on the stick");
    let row = &log.exits[&(0, ExitReason::CPUID.0)];
    assert!(
        row.exits.figures.count > 1000 && log.verdict.is_some_and(|verdict| verdict.detail.contains("escape-pressed"))
    );
}

#[test]
fn firmware_that_is_none_is_named() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("short.fd"), [0; 100]).unwrap();
    for (named, why) in [("absent.fd", "absent.fd"), ("short.fd", "its length is not")] {
        let output = tollgate_in(place.path(), &["run", "--uefi", "--on", "qemu"], &[(ovmf::FIRMWARE_VARIABLE, named)]);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(3) && said.contains(why) && said.contains("TOLLGATE_OVMF"), "{said}");
    }
}

#[test]
fn an_image_that_cannot_be_written_leaves_the_old_file() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("old.img"), b"old").unwrap();
    let output = tollgate_in(place.path(), &["image", "--uefi", "old.img", "--guest", "absent.elf"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fs::read(Path::new(place.path()).join("old.img")).unwrap(), b"old");
}
