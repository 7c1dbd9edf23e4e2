//! Waiting for something that another coroutine, thread or the worker's loop will do.
//!
//! Knows: park, cancellation, the clock.   Does not know: what is waited for.

use crate::base::time::Instant;
use crate::runtime::Reason;
use crate::runtime::park::{cancelled, limit, park};

pub(crate) use crate::runtime::park::Waiter;

/// Why a wait ended without what was waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GaveUp {
    /// The time passed.
    TimedOut,
    /// The waiting coroutine was cancelled.
    Cancelled,
}

/// Parks until `done` gives a value. Whoever makes it do so wakes the [`Waiter`] that was taken before.
///
/// # Errors
/// `until` passed, or this coroutine was cancelled; `done` was asked after that for the last time.
pub fn wait_for<T>(
    reason: Reason,
    until: Instant,
    mut done: impl FnMut() -> Option<T>,
) -> Result<T, GaveUp> {
    match done() {
        Some(value) => Ok(value),
        None => wait_for_wake(reason, until, done),
    }
}

/// As [`wait_for`], but asks `done` only after a wake-up: for what needs one, such as an answer.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_for_wake<T>(
    reason: Reason,
    until: Instant,
    mut done: impl FnMut() -> Option<T>,
) -> Result<T, GaveUp> {
    loop {
        if cancelled() {
            return done().ok_or(GaveUp::Cancelled);
        }
        park(reason, until);
        if let Some(value) = done() {
            return Ok(value);
        }
        if !until.is_never() && Instant::now() >= until {
            return done().ok_or(GaveUp::TimedOut);
        }
    }
}

/// Whether the coroutine that asks was cancelled.
pub fn is_cancelled() -> bool {
    cancelled()
}

/// When the scope that the caller runs in ends; [`Instant::NEVER`] without a deadline.
pub fn scope_deadline() -> Instant {
    limit(Instant::NEVER)
}
