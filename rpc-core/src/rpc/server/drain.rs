//! Going away without losing a call.
//!
//! Knows: the order of a drain.   Does not know: how protocols tell their peers (sessions do).
//!
//! 1. Nothing is accepted any more (the caller saw to that).
//! 2. Every session refuses new calls; those under way end and their answers are written, up to the
//!    limit.
//! 3. For a moment more, calls that were on their way are refused: a peer in the middle of calling learns
//!    in so many words that they never ran.
//! 4. Each connection ends its stream and waits a moment for the peer's end, so that no reset overtakes
//!    an answer.
//! 5. What is left is closed. A peer that is merely idle costs no time but that moment.

use std::time::Duration;

use super::core::Core;
use super::stats::CloseReason;
use crate::base::time::Instant;
use crate::net::wait::GaveUp;

/// Drains the server; returns when every connection is closed.
pub(super) fn run(core: &Core) {
    let limit = Instant::after(core.options.drain_limit);
    core.each_connection(|connection| connection.drain());
    let quiet = wait_until(core, limit, || {
        core.in_flight() == 0 && {
            let mut quiet = true;
            core.each_connection(|connection| quiet &= connection.is_quiet());
            quiet
        }
    });
    if !quiet {
        tracing::warn!(
            "the drain's limit of {:?} is over with {} calls under way: they are cancelled",
            core.options.drain_limit,
            core.in_flight(),
        );
    }
    wait_until(core, Instant::after(LAST_CALLS).min(limit), || {
        core.connection_count() == 0
    });
    core.each_connection(|connection| connection.finish(CloseReason::Drained));
    wait_until(core, Instant::after(GOODBYE), || {
        core.connection_count() == 0
    });
    core.each_connection(|connection| connection.lose(CloseReason::Drained));
}

/// Waits until `done`, at most until `limit`; whether it came to that.
fn wait_until(core: &Core, limit: Instant, mut done: impl FnMut() -> bool) -> bool {
    loop {
        if done() {
            return true;
        }
        match core.bell.wait("drain", limit) {
            Ok(()) => {}
            Err(GaveUp::TimedOut | GaveUp::Cancelled) => return done(),
        }
    }
}

/// How long calls that were on their way are refused before the streams end.
const LAST_CALLS: Duration = Duration::from_millis(50);
/// How long peers have to end their streams after ours ended.
const GOODBYE: Duration = Duration::from_millis(200);
