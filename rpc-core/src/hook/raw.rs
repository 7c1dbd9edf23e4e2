//! The originals: raw system calls, and their results in libc's shape.
//!
//! Knows: how a result becomes a return value and `errno`.
//! Does not know: coroutines, descriptors.
//!
//! Inside `hook/` a result is what the kernel returns (`-errno` on failure) until [`answer`] hands it
//! to the program.

use crate::base::sys;

pub(super) use crate::base::sys::{c_int, c_long, syscall};

/// A hook's own system call with the program's arguments, in the kernel's shape.
macro_rules! original {
    ($number:ident $(, $argument:expr)* $(,)?) => {{
        // SAFETY: the program's own arguments, or copies that outlive the call; the kernel checks
        // every pointer it follows.
        unsafe { $crate::base::sys::syscall!(libc::$number $(, $argument)*) }
    }};
}
pub(super) use original;

/// What libc returns for this result; sets `errno` on failure.
#[inline]
pub(super) fn answer(result: isize) -> isize {
    if (-MAX_ERRNO..0).contains(&result) {
        sys::set_errno(-result as c_int);
        return -1;
    }
    result
}

/// [`answer`] for calls that return an `int`.
#[inline]
pub(super) fn answer_int(result: isize) -> c_int {
    answer(result) as c_int
}

/// An error in the kernel's shape.
#[inline]
pub(super) const fn failure(errno: c_int) -> isize {
    -(errno as isize)
}

/// The largest error number the kernel returns.
const MAX_ERRNO: isize = 4095;
