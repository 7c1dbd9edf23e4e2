//! What happens when a deadline or a cancellation ends a call.
//!
//! Knows: how to leave a connection and a worker in good order.   Does not know: who was waiting.

#![expect(unsafe_code, reason = "system calls")]

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use super::description::{Handle, KEPT_WHEN_CUT};
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
pub(super) fn end_conversation(handle: &Handle) {
    if !handle.description.has(KEPT_WHEN_CUT) {
        original!(SYS_shutdown, handle.fd, libc::SHUT_RDWR);
    }
}

/// Leaves the connection of `socket` open when a deadline or a cancellation cuts a call on it. Otherwise
/// it is shut down then, so that a late answer cannot reach whoever uses the connection next; keep it
/// only where the protocol finds its way back, for example because every answer names its question.
///
/// Holds for all duplicates of the descriptor, until the last is closed.
///
/// # Errors
/// `socket` is no stream socket, or a million descriptors are known already.
pub fn keep_when_cut(socket: impl AsFd) -> io::Result<()> {
    let handle = Handle::find(socket.as_fd().as_raw_fd());
    let stream = handle.filter(|handle| handle.description.kind().is_stream_socket());
    let Some(handle) = stream else {
        let why = "only a stream socket is shut down when a call is cut: pass the connection's";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    };
    handle.description.set(KEPT_WHEN_CUT, true);
    Ok(())
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
