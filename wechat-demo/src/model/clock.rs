//! Time as an argument: the one place of this crate's servers that asks the machine for it.

use std::time::{SystemTime, UNIX_EPOCH};

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
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        // A clock before 1970 reads as 1970: expiries then come late, nothing else happens.
        since.map_or(0, |since| since.as_millis() as i64)
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
