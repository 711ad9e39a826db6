//! The user space of a kernel without one: an initramfs of a shell, `cpuid`, and the commands that are to be run there.

use std::io;

use tollgate_abi::exit_reason::UNKNOWN_ROW;
use tollgate_abi::leaves::{Leaf, LeafMap};
use tollgate_guests::{File, initramfs};

use crate::mark::{MARKED_INIT, mark};

/// The programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSpace {
    /// The shell, with its commands; linked statically.
    pub busybox: Vec<u8>,
    /// The program that shows CPUID leaves.
    pub cpuid: Vec<u8>,
    /// Its dynamic linker.
    pub loader: Vec<u8>,
    /// Its C library.
    pub libc: Vec<u8>,
}

/// The first process. The shell finds its commands in itself once /proc is there. The commands that are asked for are a script of
/// their own, so that their end, whatever it is, is not that of this one. A change of the terminal's settings waits until all is
/// sent, which takes a port without interrupts a while: 16 characters in each tick of the kernel's clock. The terminal adds no carriage
/// returns: with these, a kernel writes a line in two pieces, the text and its end, each by an interrupt of its own.
const INIT: &str = r#"#!/bin/sh
/bin/busybox mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
stty -onlcr
echo "init: Linux $(uname -r) is up with $(nproc) CPU"
sh /commands
echo "init: the commands ended with status $?"
stty sane
poweroff -f
"#;

/// The text that the first process writes before it runs the commands. The kernel writes `init:` into other lines.
pub const BEFORE_COMMANDS: &str = "init: Linux ";

impl UserSpace {
    /// The initramfs that runs these commands, and then switches the machine off; a program that leaves a mark in the emulator's
    /// log comes first if it `is_marked`. The same files make the same bytes.
    ///
    /// # Errors
    /// A file is too large.
    pub fn initramfs(&self, commands: &str, is_marked: bool) -> io::Result<Vec<u8>> {
        let mark = mark();
        let init: &[(&str, &[u8])] = if is_marked {
            &[("init", &mark), (MARKED_INIT.trim_start_matches('/'), INIT.as_bytes())]
        } else {
            &[("init", INIT.as_bytes())]
        };
        let directory = |path| File::Directory { path };
        let program = |path, bytes| File::Regular { path, permissions: 0o755, bytes };
        let commands = format!("{commands}\n");
        let mut files = vec![
            directory("bin"),
            directory("dev"),
            directory("proc"),
            directory("sys"),
            directory("lib"),
            directory("lib64"),
            directory("lib/x86_64-linux-gnu"),
            File::Device { path: "dev/console", permissions: 0o600, number: (5, 1) },
            File::Device { path: "dev/null", permissions: 0o666, number: (1, 3) },
            program("bin/busybox", &self.busybox),
            File::Link { path: "bin/sh", target: "busybox" },
            program("bin/cpuid", &self.cpuid),
            program("lib64/ld-linux-x86-64.so.2", &self.loader),
            program("lib/x86_64-linux-gnu/libc.so.6", &self.libc),
        ];
        files.extend(init.iter().map(|(path, bytes)| program(path, bytes)));
        files.push(program("commands", commands.as_bytes()));
        initramfs(&files)
    }
}

/// The commands that read the whole account by the course's leaves: the totals, count and cycles of each reason, and the totals again.
pub fn usual_commands(map: LeafMap) -> String {
    let commands = |leaves: &[Leaf], rest: &str| {
        let numbers = leaves.iter().filter_map(|&leaf| map.encode(leaf));
        numbers.map(|number| format!("cpuid -1 -l {number:#x}{rest}\n")).collect::<String>()
    };
    let totals = commands(&[Leaf::TotalCount, Leaf::TotalCycles, Leaf::Totals], "");
    let reason = commands(&[Leaf::ReasonCount, Leaf::ReasonCycles], " -s $reason");
    let newest = UNKNOWN_ROW - 1;
    format!("{totals}for reason in $(seq 0 {newest}); do\n{reason}done\n{totals}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_commands_ask_by_the_terms_leaves() {
        let expected = "cpuid -1 -l 0x4fffffff\ncpuid -1 -l 0x4ffffffe\nfor reason in $(seq 0 85); do\n\
                        cpuid -1 -l 0x4ffffffd -s $reason\ncpuid -1 -l 0x4ffffffc -s $reason\ndone\n\
                        cpuid -1 -l 0x4fffffff\ncpuid -1 -l 0x4ffffffe\n";
        assert_eq!(usual_commands(LeafMap::Autumn2021), expected);
        let spring = usual_commands(LeafMap::Spring2021);
        assert!(spring.starts_with("cpuid -1 -l 0x4fffffff\nfor") && spring.contains("-l 0x4ffffffe -s $reason\ndone"));
        assert!(usual_commands(LeafMap::Autumn2022).contains("-l 0x4ffffffe -s $reason\ncpuid -1 -l 0x4fffffff -s"));
    }

    #[test]
    fn an_initramfs_repeats_and_has_the_commands() {
        let part = |text: &str| text.as_bytes().to_vec();
        let user_space =
            UserSpace { busybox: part("box"), cpuid: part("asks"), loader: part("loads"), libc: part("library") };
        let [archive, marked] =
            [false, true].map(|is_marked| user_space.initramfs("echo it works", is_marked).unwrap());
        assert_eq!(archive, user_space.initramfs("echo it works", false).unwrap());
        for archive in [&archive, &marked] {
            let has = |text: &str| archive.windows(text.len()).any(|part| part == text.as_bytes());
            assert!(has("echo it works\n") && has(INIT) && has("library"));
        }
        let mark = mark();
        let [is_in, is_not_in] =
            [&marked, &archive].map(|archive| archive.windows(mark.len()).any(|part| part == mark));
        assert!(is_in && !is_not_in);
        assert!(INIT.split("\nsh /commands\n").next().unwrap().contains(BEFORE_COMMANDS));
    }
}
