//! Stand-ins for rpc-core's floor 0.

/// As `rpc-core/src/base/atomic.rs`, but loom's.
pub(crate) mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}

/// As `rpc-core/src/base/lock.rs`: a spin lock excludes as a mutex does, and loom knows mutexes.
pub(crate) mod lock {
    use loom::sync::{Mutex, MutexGuard};

    pub(crate) struct SpinLock<T>(Mutex<T>);

    pub(crate) type SpinGuard<'a, T> = MutexGuard<'a, T>;

    impl<T> SpinLock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> SpinGuard<'_, T> {
            self.0
                .lock()
                .expect("no model panics while it holds a lock")
        }
    }
}
