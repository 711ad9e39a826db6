//! Kernels for tests, made byte by byte: an ELF file with two segments, and bzImages of it in each packing.
#![allow(dead_code, reason = "each test binary uses a part of this module")]

use std::io::Write;

use lzma_rust2::filter::FilterType;
use lzma_rust2::{LzmaOptions, LzmaWriter, XzOptions, XzWriter};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use tollgate_guests::{File, Request, initramfs};

/// The address of the first segment, and the entry point in it.
pub(crate) const TEXT_GPA: u64 = 0x100_0000;
pub(crate) const ENTRY_GPA: u64 = TEXT_GPA + 0x43;
/// The second segment, of which a part is not in the file.
pub(crate) const DATA_GPA: u64 = 0x120_0000;
pub(crate) const DATA_MEMORY_BYTES: u64 = 0x5000;
pub(crate) const DATA: &[u8] = b"Linux version 6.1.0-test (builder@host) #1";
/// Bytes that the bzImages' header asks for from the first segment on.
pub(crate) const INIT_BYTES: u32 = 0x40_0000;
/// The most bytes of a command line that they take.
pub(crate) const COMMAND_LINE_BYTES: usize = 60;
/// The size of the setup part.
pub(crate) const SETUP_BYTES: usize = 3 * 512;
const PAYLOAD_OFFSET: u32 = 0x20;
const SETUP_SECTORS: u8 = 2;

pub(crate) fn text() -> Vec<u8> {
    (0..0x3000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

pub(crate) fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

/// An ELF file of x86-64.
pub(crate) fn elf() -> Vec<u8> {
    let text = text();
    let (text_offset, data_offset) = (0x200, 0x200 + text.len());
    let mut file = vec![0; data_offset + DATA.len()];
    put(&mut file, 0, b"\x7fELF\x02\x01\x01");
    put(&mut file, 16, &[2, 0, 62, 0, 1]);
    put(&mut file, 24, &ENTRY_GPA.to_le_bytes());
    put(&mut file, 32, &64u64.to_le_bytes());
    put(&mut file, 52, &[64, 0, 56, 0, 2, 0, 64, 0]);
    let segments = [
        (data_offset, DATA_GPA, DATA.len() as u64, DATA_MEMORY_BYTES),
        (text_offset, TEXT_GPA, text.len() as u64, text.len() as u64),
    ];
    for (number, (offset, gpa, file_bytes, memory_bytes)) in segments.into_iter().enumerate() {
        let at = 64 + 56 * number;
        put(&mut file, at, &[1, 0, 0, 0, 7]);
        let virtual_address = gpa | 0xffff_ffff_8000_0000;
        for (place, word) in [offset as u64, virtual_address, gpa, file_bytes, memory_bytes].into_iter().enumerate() {
            put(&mut file, at + 8 + 8 * place, &word.to_le_bytes());
        }
    }
    put(&mut file, text_offset, &text);
    put(&mut file, data_offset, DATA);
    file
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn sized(mut stream: Vec<u8>, bytes: &[u8]) -> Vec<u8> {
    stream.extend((bytes.len() as u32).to_le_bytes());
    stream
}

pub(crate) fn lz4(bytes: &[u8]) -> Vec<u8> {
    let block = lz4_flex::block::compress(bytes);
    [&[2, 0x21, 0x4c, 0x18][..], &(block.len() as u32).to_le_bytes(), &block].concat()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

/// XZ as Linux has it, with the filter for jumps.
pub(crate) fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut options = XzOptions::with_preset(1);
    options.prepend_pre_filter(FilterType::BcjX86, 0);
    let mut writer = XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

pub(crate) fn lzma(bytes: &[u8]) -> Vec<u8> {
    let mut writer = LzmaWriter::new_use_header(Vec::new(), &LzmaOptions::with_preset(1), None).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// The payloads of the ELF file, by their packing's name.
pub(crate) fn payloads() -> [(&'static str, Vec<u8>); 5] {
    let elf = elf();
    [
        // gzip's last four bytes are the size already.
        ("gzip", gzip(&elf)),
        ("LZ4", sized(lz4(&elf), &elf)),
        ("ZSTD", sized(zstd(&elf), &elf)),
        ("XZ", sized(xz(&elf), &elf)),
        ("LZMA", sized(lzma(&elf), &elf)),
    ]
}

/// A bzImage of this payload.
pub(crate) fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; SETUP_BYTES + PAYLOAD_OFFSET as usize];
    file[0x1f1] = SETUP_SECTORS;
    put(&mut file, 0x200, &[0xeb, 0x6a]);
    put(&mut file, 0x202, b"HdrS");
    put(&mut file, 0x206, &[15, 2]);
    put(&mut file, 0x20e, &0x100u16.to_le_bytes());
    put(&mut file, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut file, 0x236, &[0x7f, 0]);
    put(&mut file, 0x238, &(COMMAND_LINE_BYTES as u32).to_le_bytes());
    put(&mut file, 0x248, &PAYLOAD_OFFSET.to_le_bytes());
    put(&mut file, 0x24c, &(payload.len() as u32).to_le_bytes());
    put(&mut file, 0x260, &INIT_BYTES.to_le_bytes());
    put(&mut file, 0x300, b"6.1.0-header (builder@host) #1");
    file.extend(payload);
    file
}

pub(crate) fn lz4_bzimage() -> Vec<u8> {
    let elf = elf();
    bzimage(&sized(lz4(&elf), &elf))
}

/// A request that succeeds.
pub(crate) fn request(kernel: &[u8]) -> Request<'_> {
    Request { kernel, initrd: None, modules: &[], command_line: "console=ttyS0", memory_bytes: 64 << 20, vcpus: 1 }
}

/// A small initramfs.
pub(crate) fn archive() -> Vec<u8> {
    initramfs(&[File::Regular { path: "init", permissions: 0o755, bytes: b"#!/bin/sh\n" }]).unwrap()
}

/// Bytes in each packing.
pub(crate) fn packings(bytes: &[u8]) -> [Vec<u8>; 5] {
    [gzip, lz4, zstd, xz, lzma].map(|pack| pack(bytes))
}
