//! pthread_join: on the blocking pool while the coroutine waits.
//!
//! glibc waits for the thread by a futex inside itself that no symbol of ours can catch. A thread that
//! has ended is joined at once. Deadlines do not cut it: std cannot bear an error there.

#![expect(
    unsafe_code,
    reason = "replaces a libc function that takes raw pointers"
)]

use libc::{c_void, pthread_t};

use super::pool;
use super::raw::c_int;
use super::symbol::Symbol;
use crate::runtime;

/// `pthread_join(3)`.
///
/// # Safety
/// - As for libc's `pthread_join`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_join(thread: pthread_t, value: *mut *mut c_void) -> c_int {
    let Some(original) = original() else {
        return libc::ENOSYS;
    };
    if runtime::current().is_none() {
        // SAFETY: the program's own promise.
        return unsafe { original(thread, value) };
    }
    // SAFETY: as above; EBUSY means that nothing was done.
    let ended = unsafe { pthread_tryjoin_np(thread, value) };
    if ended != libc::EBUSY {
        return ended;
    }
    let joined = pool::run(move || {
        let mut value = std::ptr::null_mut();
        // SAFETY: the program's own promise: nobody else joins this thread.
        let code = unsafe { original(thread, &raw mut value) };
        (code, value.expose_provenance())
    });
    let Some((code, found)) = joined else {
        return libc::EAGAIN;
    };
    if code == 0 && !value.is_null() {
        // SAFETY: the program's place for the thread's value.
        unsafe { value.write(std::ptr::with_exposed_provenance_mut(found)) };
    }
    code
}

/// Finds the original in advance.
pub(super) fn prepare() {
    let _ = original();
}

type Join = unsafe extern "C" fn(pthread_t, *mut *mut c_void) -> c_int;

static ORIGINAL: Symbol = Symbol::new(c"pthread_join");

fn original() -> Option<Join> {
    let address = ORIGINAL.find()?;
    // SAFETY: the symbol of that name in the C library has this type.
    Some(unsafe { std::mem::transmute::<*mut c_void, Join>(address.as_ptr()) })
}

unsafe extern "C" {
    fn pthread_tryjoin_np(thread: pthread_t, value: *mut *mut c_void) -> c_int;
}
