//! Linux' KVM as a peer: Debian's kernel in Bochs, with the modules of its KVM and a small client of /dev/kvm, which boots the same
//! guest as Tollgate does.
//!
//! ```text
//! Bochs ─ Debian's kernel, KVM ─ client ─ the guest: kernel, initramfs
//! Bochs ─ Tollgate ────────────────────── the guest: kernel, initramfs
//! ```

use std::io;

use tollgate_books::failure::Failure;
use tollgate_guests::{File, Request, initramfs, lower};

use crate::debian::Debian;
use crate::image::Placed;
use crate::kernel::placed;
use crate::user_space::UserSpace;

/// The client, as this tool was built with it; empty where it could not be linked.
const CLIENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tollgate-peer.elf"));

/// Memory of the machine around the guest, in MiB: for a guest of 256 MiB, its pieces, and a kernel.
const MEMORY_MIB: u64 = 768;

/// The command line of the kernel with KVM. It says little, does not move itself, so that runs repeat, and leaves out its defences
/// against speculation, which an emulated processor has no need of. Bochs' XSAVE has a form that Linux does not accept.
const COMMAND_LINE: &str = "console=ttyS0,115200 quiet reboot=t panic=-1 nokaslr cryptomgr.notests tsc=reliable mitigations=off \
                            printk.devkmsg=on noxsaves clearcpuid=xsavec";

/// Words that a kernel on bare Bochs needs besides, for the same reason.
pub const BARE_WORDS: &str = "noxsaves clearcpuid=xsavec";

/// The line that says that all is done.
pub const OVER: &str = "peer: over";

/// The machine with KVM, whose client boots `guest`.
///
/// # Errors
/// This tool has no client, or the guest does not fit.
pub fn outer(debian: &Debian, modules: &[(&str, Vec<u8>)], guest: &Placed) -> Result<Placed, Failure> {
    if CLIENT.is_empty() {
        return Err(Failure::platform("this tollgate was built without its client of KVM, which is linked statically")
            .remedy("install the C library's static form (Debian: libc6-dev), and build again"));
    }
    let unfit = |error: io::Error| Failure::usage(format_args!("no initramfs can be made: {error}"));
    let initrd = user_space(&debian.user_space, modules, guest).map_err(unfit)?;
    let memory_bytes = MEMORY_MIB << 20;
    let request = Request {
        kernel: &debian.kernel,
        initrd: Some(&initrd),
        modules: &[],
        command_line: COMMAND_LINE,
        memory_bytes,
        vcpus: 1,
    };
    let lowered = lower(&request).map_err(|error| {
        Failure::usage(format_args!("Debian's kernel can't be the host of KVM: {error}")).remedy(error.remedy())
    })?;
    Ok(placed(lowered, memory_bytes))
}

/// The initramfs: a shell, the modules in the order in which they are loaded, the client, and the guest's pieces.
fn user_space(programs: &UserSpace, modules: &[(&str, Vec<u8>)], guest: &Placed) -> io::Result<Vec<u8>> {
    let init = init(modules.iter().map(|module| module.0), guest);
    let directory = |path| File::Directory { path };
    let program = |path, bytes| File::Regular { path, permissions: 0o755, bytes };
    let names: Vec<String> = modules.iter().map(|(name, _)| format!("modules/{name}")).collect();
    let pieces: Vec<(String, &[u8])> = guest.pieces().map(|(gpa, bytes)| (format!("guest/{gpa:x}"), bytes)).collect();
    let mut files = vec![
        directory("bin"),
        directory("dev"),
        directory("proc"),
        directory("sys"),
        directory("modules"),
        directory("guest"),
        File::Device { path: "dev/console", permissions: 0o600, number: (5, 1) },
        program("bin/busybox", &programs.busybox),
        File::Link { path: "bin/sh", target: "busybox" },
        program("bin/tollgate-peer", CLIENT),
        program("init", init.as_bytes()),
    ];
    files.extend(names.iter().zip(modules).map(|(path, (_, bytes))| program(path, bytes)));
    files.extend(pieces.iter().map(|(path, bytes)| File::Regular { path, permissions: 0o644, bytes }));
    initramfs(&files)
}

/// The script of the first process. The kernel's log is on the console at once; a terminal would wait for timers.
fn init<'a>(modules: impl Iterator<Item = &'a str>, guest: &Placed) -> String {
    let loads: String = modules.map(|name| format!("insmod /modules/{name}\n")).collect();
    let tollgate_abi::guest_image::Entry { rip, rsp, rsi, cr3, .. } = guest.entry();
    let memory_mib = guest.memory_mib();
    format!(
        "#!/bin/sh\n/bin/busybox mount -t proc proc /proc\nmount -t sysfs sysfs /sys\nmount -t devtmpfs dev /dev\n\
         exec </dev/console >/dev/console 2>&1\n{loads}\
         tollgate-peer /guest memory-mib={memory_mib} rip={rip:#x} rsp={rsp:#x} rsi={rsi:#x} cr3={cr3:#x}\n\
         echo '<1>{OVER}' >/dev/kmsg\nsleep 1000\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_abi::guest_image::Entry;
    use tollgate_abi::machine::Kind;

    #[test]
    fn the_client_is_told_the_guests_state_and_finds_its_pieces_by_address() {
        let entry = Entry { rip: 0x100_0000, rsp: 0x1_1000, rsi: 0x1_1000, cr3: 0x1_3000, ..Entry::default() };
        let guest = Placed::new(vec![(0x100_0000, b"the kernel".to_vec())], 0x100_000a, entry, Kind::Pc, 256 << 20);
        let modules = [("kvm.ko", b"module".to_vec())];
        let part = |text: &str| text.as_bytes().to_vec();
        let programs = UserSpace { busybox: part("box"), cpuid: part(""), loader: part(""), libc: part("") };
        let archive = user_space(&programs, &modules, &guest).unwrap();
        let has = |text: &str| archive.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(has("\ntollgate-peer /guest memory-mib=256 rip=0x1000000 rsp=0x11000 rsi=0x11000 cr3=0x13000\n"));
        assert!(has("guest/1000000") && has("the kernel") && has("insmod /modules/kvm.ko\n") && has("modules/kvm.ko"));
    }
}
