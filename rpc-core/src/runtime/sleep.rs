//! Waiting for a point in time.

use std::fmt;
use std::time::Duration;

use super::deadline::Deadline;
use super::park::park;
use super::task::Reason;
use crate::base::time::Instant;

/// Waits for `duration`. Not cut by deadlines or cancellation, like `std::thread::sleep`.
pub fn sleep(duration: Duration) {
    sleep_until(Instant::after(duration));
}

/// Waits until `until`.
pub fn sleep_until(until: Instant) {
    while Instant::now() < until {
        park(Reason::Sleep, until);
    }
}

/// Runs `f` with at most `duration` to wait in: its waiting calls fail with "timed out" past that.
///
/// `Err(Elapsed)` if the time was up when `f` returned; what it returned is then dropped.
pub fn timeout<T>(duration: Duration, f: impl FnOnce() -> T) -> Result<T, Elapsed> {
    let until = Instant::after(duration);
    let value = Deadline::within(duration, f);
    if Instant::now() < until {
        Ok(value)
    } else {
        Err(Elapsed(()))
    }
}

/// The time given to [`timeout`] was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed(());

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time given is up")
    }
}

impl std::error::Error for Elapsed {}
