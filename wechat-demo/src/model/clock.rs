//! Time as an argument.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

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

/// Reads a span of time as flags have it: `500ms`, `5s`, `2m`, `12h`, `7d`.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: write for example 500ms, 5s, 2m, 12h or 7d");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count: u32 = digits.parse().map_err(|_| wrong())?;
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    match u64::from(count) * unit {
        0 => Err(wrong()),
        millis => Ok(Duration::from_millis(millis)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        for (text, millis) in [("250ms", 250), ("5s", 5_000), ("7d", 7 * 24 * 3_600_000)] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(millis)));
        }
        for wrong in ["5", "s", "0s", "-1s", "5w", "", "99999999999999999999s"] {
            assert!(parse_time(wrong).unwrap_err().contains("5s"), "{wrong}");
        }
    }
}
