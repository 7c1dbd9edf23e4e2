//! The C library's own functions behind ours, for the few calls that are more than a system call.
//!
//! Knows: the dynamic linker.   Does not know: what the functions do.

#![expect(unsafe_code, reason = "asks the dynamic linker")]

use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::c_void;

/// A function of the C library, looked up once.
pub(super) struct Symbol {
    name: &'static CStr,
    /// Null until looked up.
    address: AtomicPtr<c_void>,
}

impl Symbol {
    pub(super) const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            address: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// Where it is. `None` in a program without a dynamic C library.
    pub(super) fn find(&self) -> Option<NonNull<c_void>> {
        let known = self.address.load(Ordering::Acquire);
        if let Some(address) = NonNull::new(known) {
            return Some(address);
        }
        // SAFETY: the name is a C string; RTLD_NEXT looks behind this program's own symbols.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.address.store(found, Ordering::Release);
        NonNull::new(found)
    }
}
