//! Time: the only file that asks the operating system what time it is.
//!
//! Everything else receives an [`Instant`] or calls [`Instant::now`] here, so that one place can later
//! be put on simulated time.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the machine's monotonic clock, in nanoseconds. `Copy`, 8 bytes, never goes back.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// Later than every other instant: "no deadline".
    pub const NEVER: Self = Self(u64::MAX);
    /// Earlier than every other instant.
    pub const ZERO: Self = Self(0);

    /// Reads `CLOCK_MONOTONIC` (through the vDSO, about 20 ns).
    pub fn now() -> Self {
        Self(read_clock(libc::CLOCK_MONOTONIC))
    }

    /// The instant with this many nanoseconds on the monotonic clock.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds on the monotonic clock.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// True for [`Instant::NEVER`].
    pub const fn is_never(self) -> bool {
        self.0 == u64::MAX
    }

    /// Time from `earlier` to `self`, zero if `earlier` is later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Time since this instant, zero if it lies ahead.
    pub fn elapsed(self) -> Duration {
        Self::now().saturating_since(self)
    }

    /// `now + duration`, or [`Instant::NEVER`] where that does not fit.
    pub fn after(duration: Duration) -> Self {
        Self::now() + duration
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at [`Instant::NEVER`].
    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// Saturates at zero.
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_since(earlier)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_never() {
            return f.write_str("never");
        }
        write!(f, "{:?}", Duration::from_nanos(self.0))
    }
}

/// Time since the machine was started (`CLOCK_BOOTTIME`): it goes on while the machine sleeps, so what was
/// promised until then is over when it wakes. For leases between machines.
pub fn since_boot() -> Duration {
    Duration::from_nanos(read_clock(libc::CLOCK_BOOTTIME))
}

/// Wall-clock time as nanoseconds since the Unix epoch. For display and for expiry that outlives a
/// process; never for measuring.
pub fn unix_nanos() -> u64 {
    read_clock(libc::CLOCK_REALTIME)
}

fn read_clock(clock: libc::clockid_t) -> u64 {
    let spec = super::sys::clock_gettime(clock);
    let seconds = u64::try_from(spec.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(spec.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_past_the_end_is_never() {
        assert_eq!(Instant::from_nanos(5) + Duration::MAX, Instant::NEVER);
        assert!(Instant::NEVER.is_never());
    }

    #[test]
    fn a_difference_is_never_negative() {
        let (a, b) = (Instant::from_nanos(10), Instant::from_nanos(25));
        assert_eq!(b - a, Duration::from_nanos(15));
        assert_eq!(a - b, Duration::ZERO);
    }
}
