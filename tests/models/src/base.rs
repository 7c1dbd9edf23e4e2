//! Stand-ins for rpc-core's floor 0.

/// As `rpc-core/src/base/atomic.rs`, but loom's.
pub(crate) mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    pub(crate) struct UnsafeCell<T>(loom::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::cell::UnsafeCell::new(value))
        }

        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            self.0.with_mut(f)
        }

        /// An access like any other, which loom's own is not.
        pub(crate) fn into_inner(self) -> T {
            self.0.with_mut(|_| ());
            self.0.into_inner()
        }
    }
}

/// As `rpc-core/src/base/lock.rs`: a spin lock excludes as a mutex does, and loom knows mutexes.
pub(crate) mod lock {
    use std::ops::{Deref, DerefMut};

    use loom::sync::{Mutex, MutexGuard};

    pub(crate) struct SpinLock<T>(Mutex<T>);

    pub(crate) struct SpinGuard<'a, T> {
        lock: &'a SpinLock<T>,
        inner: MutexGuard<'a, T>,
    }

    impl<T> SpinLock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> SpinGuard<'_, T> {
            let inner = self.0.lock();
            SpinGuard {
                lock: self,
                inner: inner.expect("no model panics while it holds a lock"),
            }
        }
    }

    impl<'a, T> SpinGuard<'a, T> {
        pub(crate) fn unlock(guard: Self) -> &'a SpinLock<T> {
            guard.lock
        }
    }

    impl<T> Deref for SpinGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.inner
        }
    }

    impl<T> DerefMut for SpinGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.inner
        }
    }
}

/// As `rpc-core/src/base/time.rs`, where no time passes: a wait is without a limit, or its time is up
/// as soon as it looks.
pub(crate) mod time {
    use std::time::Duration;

    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) enum Instant {
        Now,
        Never,
    }

    impl Instant {
        pub(crate) const NEVER: Self = Self::Never;

        pub(crate) fn now() -> Self {
            Self::Now
        }

        pub(crate) fn after(duration: Duration) -> Self {
            if duration.is_zero() {
                Self::Now
            } else {
                Self::Never
            }
        }

        pub(crate) fn is_never(self) -> bool {
            self == Self::Never
        }
    }
}
