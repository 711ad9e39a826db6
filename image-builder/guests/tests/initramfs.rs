//! An initramfs has its files as they were given, and the same bytes each time.

use std::io::Read;

use cpio::newc::Reader;
use tollgate_guests::{File, initramfs};

const FILES: [File<'_>; 5] = [
    File::Directory { path: "dev" },
    File::Device { path: "dev/console", permissions: 0o600, number: (5, 1) },
    File::Regular { path: "init", permissions: 0o755, bytes: b"#!/bin/sh\nexec sh\n" },
    File::Regular { path: "empty", permissions: 0o644, bytes: b"" },
    File::Link { path: "sh", target: "busybox" },
];

#[test]
fn files_read_as_they_were_given() {
    let archive = initramfs(&FILES).unwrap();
    assert_eq!((archive.len() % 512, archive == initramfs(&FILES).unwrap()), (0, true));
    let mut rest = &archive[..];
    let mut found = Vec::new();
    loop {
        let mut reader = Reader::new(rest).unwrap();
        let entry = reader.entry().clone();
        assert_eq!((entry.uid(), entry.gid(), entry.mtime()), (0, 0, 0));
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        rest = reader.finish().unwrap();
        if entry.is_trailer() {
            break;
        }
        let text = String::from_utf8(bytes).unwrap();
        found.push(format!(
            "{} {} {:o} {} {},{} {text:?}",
            entry.ino(),
            entry.name(),
            entry.mode(),
            entry.nlink(),
            entry.rdev_major(),
            entry.rdev_minor()
        ));
    }
    let expected = [
        "1 dev 40755 2 0,0 \"\"",
        "2 dev/console 20600 1 5,1 \"\"",
        "3 init 100755 1 0,0 \"#!/bin/sh\\nexec sh\\n\"",
        "4 empty 100644 1 0,0 \"\"",
        "5 sh 120777 1 0,0 \"busybox\"",
    ];
    assert_eq!(found, expected);
    assert!(rest.iter().all(|&byte| byte == 0));
}

/// The form of the first header, byte for byte (Linux' Documentation/driver-api/early-userspace/buffer-format.rst).
#[test]
fn a_header_is_of_the_form_that_linux_reads() {
    let archive = initramfs(&FILES[..1]).unwrap();
    let fields = [1, 0o40755, 0, 0, 2, 0, 0, 0, 0, 0, 0, 4, 0].map(|field| format!("{field:08x}")).concat();
    assert_eq!(archive[..116], *format!("070701{fields}dev\0\0\0").as_bytes());
    assert!(archive[116..].starts_with(b"070701"));
}
