//! What happens when a deadline or a cancellation ends a call.
//!
//! Knows: how to leave a connection and a worker in good order.   Does not know: who was waiting.

#![expect(unsafe_code, reason = "system calls")]

use std::cell::Cell;
use std::os::fd::RawFd;
use std::time::Duration;

use super::raw::original;
use crate::base::time::Instant;
use crate::runtime::park::park;
use crate::runtime::{self, Reason};

thread_local! {
    /// Calls of this coroutine that were cut, one after the other, since its last finished wait.
    static CUTS: Cell<u32> = const { Cell::new(0) };
}

/// Shuts a stream down whose conversation is out of step: an answer may still come, and whoever used
/// the connection next would take it for his own.
pub(super) fn end_conversation(fd: RawFd) {
    original!(SYS_shutdown, fd, libc::SHUT_RDWR);
}

/// A wait ended as it should: the row of cut calls is broken.
#[inline]
pub(super) fn waited() {
    CUTS.set(0);
}

/// Gives the worker away before a cut call returns: a loop that retries on every error must not keep
/// everybody else from running.
pub(super) fn before_failing() {
    let cuts = CUTS.get().saturating_add(1);
    CUTS.set(cuts);
    if cuts < PATIENCE {
        runtime::yield_now();
        return;
    }
    let until = Instant::after(PENALTY);
    while Instant::now() < until {
        park(Reason::Other("cut short, again and again"), until);
    }
}

/// Cut calls in a row from which each also waits for [`PENALTY`].
const PATIENCE: u32 = 100;
const PENALTY: Duration = Duration::from_millis(1);
