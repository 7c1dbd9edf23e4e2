//! Time as an argument.

use std::path::PathBuf;
use std::sync::OnceLock;

/// Names a file that says how many milliseconds a process's wall clock is ahead of the machine's, or with a sign behind
/// it; looked at whenever the time is asked. For `chaos`, whose processes disagree about the time; unset, the clock is
/// the machine's.
pub const CLOCK: &str = "WECHAT_CLOCK";

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
        static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
        let now = (rpc_core::base::time::unix_nanos() / 1_000_000) as i64;
        let file = FILE.get_or_init(|| std::env::var_os(CLOCK).map(PathBuf::from));
        let said = file
            .as_ref()
            .and_then(|file| std::fs::read_to_string(file).ok());
        let ahead = said.and_then(|said| said.trim().parse().ok());
        now.saturating_add(ahead.unwrap_or(0)).max(0)
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
