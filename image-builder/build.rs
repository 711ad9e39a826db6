//! Builds the bare-metal programs, which the host tool carries in itself.
//!
//! They need compiler flags that no host program may have, so a nested cargo builds them. The monitor, for the ROM and for UEFI,
//! is built without SSE, so that the guest's vector registers survive an exit untouched. All are built without a red zone, which
//! an interrupt would overwrite.
//!
//! The monitor and the built-in guest are packed here, too, for the ROM: with all effort, once ([`tollgate_abi::packed`]).
//!
//! The UEFI firmware for QEMU is carried, too. It is the one in the crate `ovmf-prebuilt`, whose later versions fetch it from a
//! network.

use std::env;
use std::fmt::Write;
use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use tollgate_abi::packed::translate_calls;
use tollgate_abi::rom::BOOT_BLOCK_ADDRESS;

/// Rounds of the packer: more of them save less than 40 bytes of the ROM.
const ROUNDS: NonZeroU64 = NonZeroU64::new(5).expect("not zero");

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "bare";

struct Program {
    package: &'static str,
    /// The compiler's flags for the program and all that it is made of.
    flags: &'static [&'static str],
    /// Its flags for the last crate, where link-time optimisation makes machine code of all the others.
    own: &'static [&'static str],
    may_be_missing: bool,
}

/// The flags that both monitors' crates are compiled with, once. They leave open how addresses are formed. Without
/// `-Crelro-level=off` a crate that leaves it open would call the functions of others through a table.
const OF_MONITORS: &[&str] = &[
    "--cfg=bare",
    "-Ctarget-feature=-sse,-sse2",
    "-Cno-redzone=yes",
    "-Cforce-frame-pointers=no",
    "-Crelro-level=off",
];

const MONITORS: [Program; 2] = [
    Program { package: "monitor", flags: OF_MONITORS, own: &["-Crelocation-model=static"], may_be_missing: false },
    Program { package: "monitor-uefi", flags: OF_MONITORS, own: &["-Crelocation-model=pie"], may_be_missing: false },
];

const OTHERS: [Program; 2] = [
    Program {
        package: "unikernel-guest",
        flags: &["--cfg=bare", "-Cno-redzone=yes", "-Crelocation-model=static", "-Cforce-frame-pointers=no"],
        own: &[],
        may_be_missing: false,
    },
    // The client of /dev/kvm, which runs in a user space without a C library.
    Program {
        package: "tollgate-peer",
        flags: &["-Ctarget-feature=+crt-static", "-Cstrip=symbols"],
        own: &[],
        may_be_missing: true,
    },
];

const SOURCES: [&str; 5] = ["vmm-core", "unikernel-guest", "image-builder/peer", "Cargo.toml", "Cargo.lock"];

fn main() {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let root = manifest.parent().expect("the package lies in the workspace").to_path_buf();
    let out = PathBuf::from(variable("OUT_DIR"));
    println!("cargo:rerun-if-changed=build.rs");
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    copy(&ovmf_prebuilt::ovmf_pure_efi(), &out.join("OVMF.fd"));
    let elf = |program: &Program| out.join(program.package).with_extension("elf");
    let build_in = |folder, programs: &[Program]| {
        let target = target_directory(&out, folder);
        for program in programs {
            match build(program, &root, &target) {
                Ok(built) => copy(&built, &elf(program)),
                // A system may lack the C library's static form. The tool says so where it needs the client.
                Err(cause) if program.may_be_missing => {
                    let why = cause.lines().last().unwrap_or_default();
                    println!("cargo:warning=`{}` is left out: {why}", program.package);
                    fs::write(elf(program), []).expect("cargo's directory can be written");
                }
                Err(cause) => panic!("{cause}"),
            }
        }
    };
    // At once: the link-time optimisation of one is on one core, and leaves the others to the rest.
    thread::scope(|scope| {
        scope.spawn(|| build_in("monitors", &MONITORS));
        scope.spawn(|| build_in("others", &OTHERS));
    });
    let ready =
        [("MONITOR_ELF", "monitor"), ("GUEST_ELF", "unikernel-guest")].map(|(name, file)| pack(name, file, &out));
    let ready = format!("static READY: &[Ready] = &[{}];", ready.concat());
    fs::write(out.join("packed.rs"), ready).expect("cargo's directory can be written");
}

/// Packs each loaded segment of a program, and returns the rows for `src/image/packing.rs`. The monitor's boot block is left out: it is
/// executed where it is.
fn pack(name: &str, file: &str, out: &Path) -> String {
    let data = fs::read(out.join(file).with_extension("elf")).expect("it was copied there");
    let segments = FileHeader64::<LE>::parse(&*data).and_then(|header| header.program_headers(LE, &*data));
    let segments = segments.unwrap_or_else(|error| panic!("`{file}`: {error}"));
    let mut rows = String::new();
    for segment in segments.iter().filter(|segment| segment.p_type(LE) == elf::PT_LOAD) {
        let (offset, bytes) = segment.file_range(LE);
        if bytes == 0 || segment.p_paddr(LE) == BOOT_BLOCK_ADDRESS {
            continue;
        }
        let mut part = data[offset as usize..][..bytes as usize].to_vec();
        translate_calls(&mut part);
        let options = zopfli::Options { iteration_count: ROUNDS, ..zopfli::Options::default() };
        let mut stream = Vec::new();
        zopfli::compress(options, zopfli::Format::Deflate, &*part, &mut stream).expect("a vector takes all");
        let path = out.join(format!("{file}.{offset:x}.deflate"));
        fs::write(&path, stream).expect("cargo's directory can be written");
        let row = format_args!("elf: {name}, offset: {offset}, bytes: {bytes}, stream: include_bytes!({path:?})");
        write!(rows, "Ready {{ {row} }},").expect("a string takes all");
    }
    rows
}

fn copy(from: &Path, to: &Path) {
    if let Err(error) = fs::copy(from, to) {
        panic!("copying {} to {}: {error}", from.display(), to.display());
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

/// A directory for every profile of the host tool: below the outer target directory, which cargo marks with a tag.
fn target_directory(out: &Path, folder: &str) -> PathBuf {
    let outer = out.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file()).unwrap_or(out);
    outer.join(PROFILE).join(folder)
}

/// Builds a program, and returns its file, or the compiler's words.
fn build(program: &Program, root: &Path, target: &Path) -> Result<PathBuf, String> {
    let mut cargo = Command::new(variable("CARGO"));
    cargo.current_dir(root).args(["rustc", "--profile", PROFILE, "--target", TARGET, "--package", program.package]);
    cargo.arg("--target-dir").arg(target).arg("--").args(program.own);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_of_the_outer_build) {
            cargo.env_remove(&name);
        }
    }
    let places = without_places(root);
    let flags: Vec<&str> = program.flags.iter().copied().chain(places.iter().map(String::as_str)).collect();
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let output = cargo.output().unwrap_or_else(|error| panic!("starting cargo for `{}`: {error}", program.package));
    if !output.status.success() {
        // Shown on failure only: rustc warns about `-sse2` at every crate, and the image needs that flag.
        return Err(format!("building `{}` failed:\n{}", program.package, String::from_utf8_lossy(&output.stderr)));
    }
    Ok(target.join(TARGET).join(PROFILE).join(program.package))
}

/// The flags that keep the places of the sources out of an image, where panics name them: the same sources then make the same
/// image in any folder, on any machine, from any registry.
fn without_places(root: &Path) -> Vec<String> {
    let home = env::home_dir().unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    // A folder for each registry. There is one by now: this program depends on a crate from there.
    let registries = fs::read_dir(cargo_home.join("registry/src")).into_iter().flatten().flatten();
    let crates = registries.map(|registry| (registry.path(), "crates"));
    let remapped = |(from, to): (PathBuf, &str)| format!("--remap-path-prefix={}={to}", from.display());
    crates.chain([(root.to_path_buf(), "tollgate")]).map(remapped).collect()
}

/// Settings of the outer build that must not reach the inner one. `CARGO_MAKEFLAGS` does reach it: by that the builds share out the
/// cores among them.
fn is_of_the_outer_build(name: &str) -> bool {
    const PREFIXES: [&str; 6] =
        ["CARGO_FEATURE", "CARGO_CFG", "CARGO_PROFILE", "CARGO_BUILD", "CARGO_TARGET", "CARGO_ENCODED"];
    const NAMES: [&str; 5] = ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "MAKEFLAGS", "CLIPPY_ARGS"];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || NAMES.contains(&name)
}
