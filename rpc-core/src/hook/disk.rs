//! Waiting for a disk: `fsync` and its kin, on the blocking pool while the coroutine waits.
//!
//! No deadline cuts them: whoever was told of an error would not know what the disk has. Reading and writing
//! regular files is not moved: mostly the page cache answers, sooner than a thread of the pool would.
//!
//! Knows: the pool.   Does not know: files.

#![expect(unsafe_code, reason = "replaces libc functions")]

use super::pool::run_or_here;
use super::raw::{answer_int, c_int, original};

/// `fsync(2)`.
///
/// # Safety
/// - As for libc's `fsync`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    answer_int(run_or_here(move || original!(SYS_fsync, fd)))
}

/// `fdatasync(2)`.
///
/// # Safety
/// - As for libc's `fdatasync`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    answer_int(run_or_here(move || original!(SYS_fdatasync, fd)))
}

/// `syncfs(2)`.
///
/// # Safety
/// - As for libc's `syncfs`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syncfs(fd: c_int) -> c_int {
    answer_int(run_or_here(move || original!(SYS_syncfs, fd)))
}

/// `sync(2)`.
///
/// # Safety
/// - As for libc's `sync`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sync() {
    run_or_here(|| original!(SYS_sync));
}
