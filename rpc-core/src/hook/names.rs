//! The resolver's older functions, on the blocking pool while the coroutine waits.
//!
//! As `getaddrinfo` (`resolve.rs`) they wait inside glibc; unlike there no deadline cuts them: they fill
//! memory of the caller's, or of the whole process. `h_errno` is set in the caller's thread-locals.
//!
//! Knows: the pool.   Does not know: what a name is.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use libc::{c_char, c_void, hostent, size_t, sockaddr, socklen_t};

use super::pool;
use super::raw::c_int;
use super::symbol::{Symbol, behind};
use crate::base::sys;

macro_rules! resolvers {
    ($($name:ident, $symbol:literal, $text:literal,
        ($($argument:ident: $kind:ty),+) -> $result:ty = $none:expr;)+) => {$(
        #[doc = $text]
        ///
        /// # Safety
        /// - As for libc's function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $kind),+) -> $result {
            let arguments = Lent(($($argument,)+));
            waited_for(move || {
                // The whole, not its pointers one by one.
                let arguments = arguments;
                let Lent(($($argument,)+)) = arguments;
                // SAFETY: the program's own promise.
                unsafe {
                    behind!(Symbol::new($symbol) => $result = $none, $($argument: $kind),+)
                }
            })
        }
    )+};
}

resolvers! {
    gethostbyname, c"gethostbyname", "`gethostbyname(3)`.",
        (name: *const c_char) -> *mut hostent = std::ptr::null_mut();
    gethostbyname2, c"gethostbyname2", "`gethostbyname2(3)`.",
        (name: *const c_char, family: c_int) -> *mut hostent = std::ptr::null_mut();
    gethostbyaddr, c"gethostbyaddr", "`gethostbyaddr(3)`.",
        (address: *const c_void, len: socklen_t, family: c_int) -> *mut hostent = std::ptr::null_mut();
    gethostbyname_r, c"gethostbyname_r", "`gethostbyname_r(3)`.",
        (name: *const c_char, entry: *mut hostent, buffer: *mut c_char, len: size_t,
            result: *mut *mut hostent, h_errno: *mut c_int) -> c_int = libc::ENOSYS;
    gethostbyname2_r, c"gethostbyname2_r", "`gethostbyname2_r(3)`.",
        (name: *const c_char, family: c_int, entry: *mut hostent, buffer: *mut c_char, len: size_t,
            result: *mut *mut hostent, h_errno: *mut c_int) -> c_int = libc::ENOSYS;
    gethostbyaddr_r, c"gethostbyaddr_r", "`gethostbyaddr_r(3)`.",
        (address: *const c_void, len: socklen_t, family: c_int, entry: *mut hostent, buffer: *mut c_char,
            size: size_t, result: *mut *mut hostent, h_errno: *mut c_int) -> c_int = libc::ENOSYS;
    getnameinfo, c"getnameinfo", "`getnameinfo(3)`.",
        (address: *const sockaddr, len: socklen_t, host: *mut c_char, host_len: socklen_t,
            service: *mut c_char, service_len: socklen_t, flags: c_int) -> c_int = libc::EAI_FAIL;
}

/// Pointers on their way to the pool or back.
#[derive(Clone, Copy)]
struct Lent<T>(T);

// SAFETY: the coroutine waits, uncut, until the pool is done with what they point to.
unsafe impl<T> Send for Lent<T> {}

/// The answer of `call`, and the two error numbers that it left.
fn waited_for<T: 'static>(call: impl Fn() -> T + Copy + Send + 'static) -> T {
    let answer = pool::run(move || {
        let value = call();
        // SAFETY: glibc's place for the calling thread.
        (Lent(value), sys::errno(), unsafe { *__h_errno_location() })
    });
    let Some((Lent(value), errno, h_errno)) = answer else {
        return call();
    };
    sys::set_errno(errno);
    // SAFETY: as above.
    unsafe { *__h_errno_location() = h_errno };
    value
}

unsafe extern "C" {
    fn __h_errno_location() -> *mut c_int;
}
