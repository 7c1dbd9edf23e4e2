//! Time as an argument.

/// Wall-clock time. Ordering never rests on it; expiries and what people read do.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn unix_ms(&self) -> i64;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn unix_ms(&self) -> i64 {
        (rpc_core::base::time::unix_nanos() / 1_000_000) as i64
    }
}

/// A clock that a test moves.
#[cfg(test)]
#[derive(Debug, Default)]
pub struct TestClock(pub std::sync::atomic::AtomicI64);

#[cfg(test)]
impl Clock for TestClock {
    fn unix_ms(&self) -> i64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}
