//! The atomics and cells of what the models check.
//!
//! Knows: std's.   Does not know: who uses them.
//!
//! The package `models` compiles files that name this module against loom's counterparts instead and
//! runs them through every interleaving. So this has loom's names and shapes, and no more of them
//! than those files need.

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A cell whose access is somebody's promise; loom checks that promise.
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// Lends the value's address to `f`, which may write there while nobody else looks.
    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner()
    }
}
