//! The `hermit-abi` symbols that can't be honoured here, each with the error that it returns.
//!
//! There are no files, no sockets, and no source of randomness: a run of this guest repeats.
#![expect(unsafe_code, reason = "defines hermit-abi symbols by name")]

use core::ffi::{c_char, c_void};

use hermit_abi::{
    EAFNOSUPPORT, EAI_FAIL, EBADF, EINVAL, EMFILE, ENOENT, ENOSYS, ENOTSOCK, ENOTTY, EROFS, addrinfo, dirent64, nfds_t,
    pollfd, sockaddr, socklen_t,
};

use super::errno::refused;

macro_rules! refused {
    ($($name:ident($($argument:ty),*) -> $result:ty = $errno:ident;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($(_: $argument),*) -> $result {
            refused($errno) as $result
        }
    )*};
}

refused! {
    sys_read_entropy(*mut u8, usize, u32) -> isize = ENOSYS;

    sys_munmap(*mut u8, usize) -> i32 = EINVAL;
    sys_mprotect(*mut u8, usize, u32) -> i32 = ENOSYS;

    sys_open(*const c_char, i32, i32) -> i32 = ENOENT;
    sys_opendir(*const c_char) -> i32 = ENOENT;
    sys_stat(*const c_char, *mut hermit_abi::stat) -> i32 = ENOENT;
    sys_lstat(*const c_char, *mut hermit_abi::stat) -> i32 = ENOENT;
    sys_unlink(*const c_char) -> i32 = ENOENT;
    sys_rmdir(*const c_char) -> i32 = ENOENT;
    sys_mkdir(*const i8, u32) -> i32 = EROFS;
    sys_getdents64(i32, *mut dirent64, usize) -> i64 = EBADF;
    sys_dup(i32) -> i32 = EMFILE;
    sys_ioctl(i32, i32, *mut c_void) -> i32 = ENOTTY;
    sys_fcntl(i32, i32, i32) -> i32 = ENOSYS;
    sys_eventfd(u64, i16) -> i32 = ENOSYS;
    sys_poll(*mut pollfd, nfds_t, i32) -> i32 = ENOSYS;

    sys_notify(usize, i32) -> i32 = ENOSYS;
    sys_add_queue(usize, i64) -> i32 = ENOSYS;
    sys_wait(usize) -> i32 = ENOSYS;
    sys_init_queue(usize) -> i32 = ENOSYS;
    sys_destroy_queue(usize) -> i32 = ENOSYS;

    sys_network_init() -> i32 = ENOSYS;
    sys_socket(i32, i32, i32) -> i32 = EAFNOSUPPORT;
    sys_accept(i32, *mut sockaddr, *mut socklen_t) -> i32 = ENOTSOCK;
    sys_bind(i32, *const sockaddr, socklen_t) -> i32 = ENOTSOCK;
    sys_listen(i32, i32) -> i32 = ENOTSOCK;
    sys_connect(i32, *const sockaddr, socklen_t) -> i32 = ENOTSOCK;
    sys_recv(i32, *mut u8, usize, i32) -> isize = ENOTSOCK;
    sys_recvfrom(i32, *mut u8, usize, i32, *mut sockaddr, *mut socklen_t) -> isize = ENOTSOCK;
    sys_send(i32, *const c_void, usize, i32) -> isize = ENOTSOCK;
    sys_sendto(i32, *const c_void, usize, i32, *const sockaddr, socklen_t) -> isize = ENOTSOCK;
    sys_shutdown(i32, i32) -> i32 = ENOTSOCK;
    sys_shutdown_socket(i32, i32) -> i32 = ENOTSOCK;
    sys_getpeername(i32, *mut sockaddr, *mut socklen_t) -> i32 = ENOTSOCK;
    sys_getsockname(i32, *mut sockaddr, *mut socklen_t) -> i32 = ENOTSOCK;
    sys_getsockopt(i32, i32, i32, *mut c_void, *mut socklen_t) -> i32 = ENOTSOCK;
    sys_setsockopt(i32, i32, i32, *const c_void, socklen_t) -> i32 = ENOTSOCK;
    sys_getaddrbyname(*const c_char, *mut u8, usize) -> i32 = ENOSYS;
}

/// The one call with errors that are `EAI_` numbers. The list of results is left as it is.
#[unsafe(no_mangle)]
extern "C" fn sys_getaddrinfo(
    _node: *const c_char,
    _service: *const c_char,
    _hints: *const addrinfo,
    _result: *mut *mut addrinfo,
) -> i32 {
    EAI_FAIL
}

/// [`sys_getaddrinfo`] never gives a list, so there is none to be freed.
#[unsafe(no_mangle)]
extern "C" fn sys_freeaddrinfo(_list: *mut addrinfo) {}
