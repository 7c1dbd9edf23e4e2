//! The end of a wait that the program gave as an absolute time on a clock.
//!
//! Knows: the two clocks that pthread waits may name.   Does not know: who waits, for what.

use libc::{clockid_t, timespec};

use super::raw::c_int;
use super::sleep;
use crate::base::time::Instant;

/// Until when to wait.
#[derive(Clone, Copy)]
pub(super) enum Until<'a> {
    Never,
    Monotonic(&'a timespec),
    /// On a clock that can be set.
    Wall(&'a timespec),
}

impl<'a> Until<'a> {
    /// `time` on `clock`; EINVAL for other clocks than the two.
    pub(super) fn on(clock: clockid_t, time: &'a timespec) -> Result<Self, c_int> {
        match clock {
            libc::CLOCK_MONOTONIC => Ok(Self::Monotonic(time)),
            libc::CLOCK_REALTIME => Ok(Self::Wall(time)),
            _ => Err(libc::EINVAL),
        }
    }

    /// Whether one can wait until then: EINVAL for impossible nanoseconds, ETIMEDOUT before the epoch.
    pub(super) fn check(self) -> Result<(), c_int> {
        match self.spec() {
            Some(spec) if !(0..1_000_000_000).contains(&spec.tv_nsec) => Err(libc::EINVAL),
            Some(spec) if spec.tv_sec < 0 => Err(libc::ETIMEDOUT),
            _ => Ok(()),
        }
    }

    /// The time itself, as the kernel takes it; `None` = for ever.
    pub(super) fn spec(self) -> Option<&'a timespec> {
        match self {
            Self::Never => None,
            Self::Monotonic(spec) | Self::Wall(spec) => Some(spec),
        }
    }

    /// As the runtime's timers take it.
    pub(super) fn limit(self) -> Limit {
        match self {
            Self::Never => Limit::At(Instant::NEVER),
            Self::Monotonic(spec) => Limit::At(Instant::ZERO + sleep::duration_of(spec)),
            Self::Wall(spec) => Limit::Wall(*spec),
        }
    }
}

/// When a coroutine's wait ends.
pub(super) enum Limit {
    At(Instant),
    /// On a clock that can be set: read again each second.
    Wall(timespec),
}

impl Limit {
    /// The next instant to wake at for a look, and whether the time is up now.
    pub(super) fn next(&self) -> (Instant, bool) {
        match self {
            Self::At(instant) => (*instant, !instant.is_never() && Instant::now() >= *instant),
            Self::Wall(wanted) => {
                let left = sleep::until_on_clock(libc::CLOCK_REALTIME, wanted);
                (Instant::after(left.min(sleep::RECHECK)), left.is_zero())
            }
        }
    }
}
