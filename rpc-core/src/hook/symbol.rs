//! The C library's own functions behind ours, for the few calls that are more than a system call.
//!
//! Knows: the dynamic linker.   Does not know: what the functions do.

#![expect(unsafe_code, reason = "asks the dynamic linker")]

use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{c_char, c_void};

/// A function of the C library, looked up once.
pub(super) struct Symbol {
    name: &'static CStr,
    /// Empty = the one that new programs get.
    version: &'static CStr,
    /// Null until looked up.
    address: AtomicPtr<c_void>,
}

impl Symbol {
    pub(super) const fn new(name: &'static CStr) -> Self {
        Self::versioned(name, c"")
    }

    /// One of several functions of that name, where the C library has kept old ones.
    pub(super) const fn versioned(name: &'static CStr, version: &'static CStr) -> Self {
        Self {
            name,
            version,
            address: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// Where it is. `None` in a program without a dynamic C library.
    pub(super) fn find(&self) -> Option<NonNull<c_void>> {
        let known = self.address.load(Ordering::Acquire);
        if let Some(address) = NonNull::new(known) {
            return Some(address);
        }
        let name = self.name.as_ptr();
        // RTLD_NEXT looks behind this program's own symbols.
        let found = if self.version.is_empty() {
            // SAFETY: the name is a C string.
            unsafe { libc::dlsym(libc::RTLD_NEXT, name) }
        } else {
            // SAFETY: both are C strings.
            unsafe { dlvsym(libc::RTLD_NEXT, name, self.version.as_ptr()) }
        };
        self.address.store(found, Ordering::Release);
        NonNull::new(found)
    }
}

/// Calls the C library's own function of that name with the program's arguments; ENOSYS, or what is named
/// with the type of the result, where there is none. For what is not ours to do: process-shared, robust and
/// priority-inheriting locks, resolvers.
///
/// Must be used in an `unsafe` block: the promise is the program's own.
macro_rules! behind {
    ($symbol:expr, $($argument:ident: $kind:ty),+) => {
        $crate::hook::symbol::behind!($symbol => libc::c_int = libc::ENOSYS, $($argument: $kind),+)
    };
    ($symbol:expr => $result:ty = $none:expr, $($argument:ident: $kind:ty),+) => {{
        static SYMBOL: $crate::hook::symbol::Symbol = $symbol;
        match SYMBOL.find() {
            Some(address) => {
                let function = std::mem::transmute::<
                    *mut libc::c_void,
                    unsafe extern "C" fn($($kind),+) -> $result,
                >(address.as_ptr());
                function($($argument),+)
            }
            None => $none,
        }
    }};
}
pub(super) use behind;

unsafe extern "C" {
    fn dlvsym(handle: *mut c_void, name: *const c_char, version: *const c_char) -> *mut c_void;
}
