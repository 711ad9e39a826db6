//! The console: file descriptors 1 and 2 write to the monitor's log, 0 is always at its end.
#![expect(unsafe_code, reason = "defines hermit-abi symbols by name and reads what callers point to")]

use hermit_abi::{EBADF, EFAULT, EINVAL, ESPIPE, IOV_MAX, STDERR_FILENO, STDIN_FILENO, STDOUT_FILENO, iovec};
use tollgate_abi::hypercall::CONSOLE_BYTES;

use super::errno::refused;
use crate::ops::hypercall;

fn is_console(descriptor: i32) -> bool {
    matches!(descriptor, STDOUT_FILENO | STDERR_FILENO)
}

fn is_open(descriptor: i32) -> bool {
    matches!(descriptor, STDIN_FILENO..=STDERR_FILENO)
}

/// Writes the whole text in as few parts as possible; a refusal ends it early. Returns the bytes written, or the refusal's number if
/// there are none.
fn in_parts<N: Into<u64>>(text: &[u8], mut write: impl FnMut(&[u8]) -> Result<N, i32>) -> Result<isize, i32> {
    let mut written = 0;
    for part in text.chunks(CONSOLE_BYTES as usize) {
        match write(part) {
            Ok(bytes) => written += bytes.into() as isize,
            Err(errno) if written == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(written)
}

/// # Safety
/// `bytes` bytes at `text` can be read.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_write(descriptor: i32, text: *const u8, bytes: usize) -> isize {
    if !is_console(descriptor) {
        return refused(EBADF) as isize;
    }
    if bytes == 0 {
        return 0;
    }
    if text.is_null() {
        return refused(EFAULT) as isize;
    }
    // SAFETY: by the caller, `text` can be read for so many bytes.
    let text = unsafe { core::slice::from_raw_parts(text, bytes) };
    in_parts(text, hypercall::console).unwrap_or_else(|errno| refused(errno) as isize)
}

/// # Safety
/// `count` vectors at `vectors` can be read, and so can what each points to.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_writev(descriptor: i32, vectors: *const iovec, count: usize) -> isize {
    if count > IOV_MAX {
        return refused(EINVAL) as isize;
    }
    let mut written = 0;
    for i in 0..count {
        // SAFETY: the caller says that there are `count` vectors.
        let vector = unsafe { *vectors.add(i) };
        // SAFETY: the caller says that each of them can be read.
        match unsafe { sys_write(descriptor, vector.iov_base.cast(), vector.iov_len) } {
            refusal if refusal < 0 => return if written == 0 { refusal } else { written },
            bytes => written += bytes,
        }
    }
    written
}

/// Nobody types: end of file.
#[unsafe(no_mangle)]
extern "C" fn sys_read(descriptor: i32, _buffer: *mut u8, _bytes: usize) -> isize {
    if descriptor == STDIN_FILENO { 0 } else { refused(EBADF) as isize }
}

#[unsafe(no_mangle)]
extern "C" fn sys_readv(descriptor: i32, _vectors: *const iovec, _count: usize) -> isize {
    sys_read(descriptor, core::ptr::null_mut(), 0)
}

#[unsafe(no_mangle)]
extern "C" fn sys_lseek(descriptor: i32, _offset: isize, _whence: i32) -> isize {
    refused(if is_open(descriptor) { ESPIPE } else { EBADF }) as isize
}

/// Nothing is buffered, so nothing has to be written out; a console can't be synchronized.
#[unsafe(no_mangle)]
extern "C" fn sys_fsync(descriptor: i32) -> i32 {
    refused(if is_open(descriptor) { EINVAL } else { EBADF })
}

/// The three descriptors stay open whatever is closed: nothing could take their numbers.
#[unsafe(no_mangle)]
extern "C" fn sys_close(descriptor: i32) -> i32 {
    if is_open(descriptor) { 0 } else { refused(EBADF) }
}

/// # Safety
/// `stat` can be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn sys_fstat(descriptor: i32, stat: *mut hermit_abi::stat) -> i32 {
    if !is_open(descriptor) {
        return refused(EBADF);
    }
    if stat.is_null() {
        return refused(EFAULT);
    }
    let character_device = hermit_abi::stat { st_nlink: 1, st_mode: hermit_abi::S_IFCHR | 0o600, ..Default::default() };
    // SAFETY: by the caller, `stat` can be written.
    unsafe { stat.write(character_device) };
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn a_text_is_written_in_parts_until_one_is_refused() {
        const PART: usize = CONSOLE_BYTES as usize;
        let text: Vec<u8> = (0..2 * PART + 1).map(|at| (at / 100) as u8).collect();
        let written = |refused_from: usize| {
            let mut parts = Vec::new();
            let result = in_parts(&text, |part| {
                let is_refused = parts.len() >= refused_from;
                parts.push(part.to_vec());
                if is_refused { Err(EBADF) } else { Ok(part.len() as u64) }
            });
            (result, parts)
        };
        let (result, parts) = written(9);
        assert_eq!((result, parts.concat()), (Ok(text.len() as isize), text.clone()));
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), vec![PART, PART, 1]);
        assert_eq!(written(0).0, Err(EBADF));
        assert_eq!((written(1).0, written(1).1.len()), (Ok(PART as isize), 2), "nothing comes behind a gap");
    }
}
