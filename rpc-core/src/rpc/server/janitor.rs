//! What happens by the clock: rates, stalled peers, slow requests, lingering ends, new certificates.
//!
//! Knows: the table of connections, bounds in time.   Does not know: protocols.

use std::sync::Arc;
use std::time::Duration;

use super::connection::{Connection, Stage};
use super::core::Core;
use super::stats::CloseReason;
use crate::base::time::Instant;
use crate::net::Bell;
use crate::net::wait::GaveUp;

/// Looks after `core` until `stop` is rung or the coroutine is cancelled.
pub(super) fn run(core: &Arc<Core>, stop: &Bell) {
    let mut before = Instant::now();
    loop {
        if stop.wait("janitor", Instant::after(INTERVAL)) != Err(GaveUp::TimedOut) {
            return;
        }
        let now = Instant::now();
        for method in core.registry.methods() {
            method.stats.tick(now - before);
        }
        before = now;
        if let Some((files, tls)) = &core.certificates {
            files.look_again(tls);
        }
        core.each_connection(|connection| look_at(connection, now, core.options.stall_limit));
    }
}

fn look_at(connection: &Connection, now: Instant, stall_limit: Duration) {
    let mut state = connection.state.lock();
    let stalled_since = state.out.stalled_since();
    if !stalled_since.is_never() && now - stalled_since > stall_limit {
        drop(state);
        return connection.lose(CloseReason::Stalled);
    }
    match &mut state.stage {
        Stage::Lingering { until, .. } if now >= *until => {
            drop(state);
            connection.lose(CloseReason::Finished);
        }
        Stage::Open(session) if session.deadline().is_some_and(|deadline| now >= deadline) => {
            if session.timed_out(now).is_err() {
                state.ending = Some(CloseReason::BadInput);
            }
            drop(state);
            connection.ask_for_turn();
        }
        // Idle for a look: it gives its buffers back. A busy one is caught idle now and then as well,
        // which costs it an allocation a second.
        Stage::Open(session) if session.is_idle() => session.release(),
        _ => {}
    }
}

/// How often; bounds in time are kept to within this.
const INTERVAL: Duration = Duration::from_secs(1);
