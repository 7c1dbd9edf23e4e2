//! An `Option<&'static T>` that threads share.
//!
//! Knows: one pointer.   Does not know: what it points to.
//!
//! Invariant: only what [`AtomicRef::set`] was given is stored, so a non-null pointer is valid for ever.

#![expect(unsafe_code, reason = "turns the stored pointer back into a reference")]

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A reference to something that is never freed, or none. Set and read from any thread.
#[derive(Debug)]
pub struct AtomicRef<T: 'static>(AtomicPtr<T>);

impl<T: Sync> AtomicRef<T> {
    /// None.
    pub const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Stores with Release: whoever gets the reference sees what was written before.
    #[inline]
    pub fn set(&self, to: Option<&'static T>) {
        let pointer = to.map_or(ptr::null(), ptr::from_ref);
        self.0.store(pointer.cast_mut(), Ordering::Release);
    }

    /// Loads with Acquire, the partner of [`AtomicRef::set`].
    #[inline]
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: null, or a `&'static T` given to `set`.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }
}

impl<T: Sync> Default for AtomicRef<T> {
    fn default() -> Self {
        Self::new()
    }
}
