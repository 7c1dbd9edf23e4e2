//! Taking connections in.
//!
//! Knows: the listener, the table of connections, workers as places.   Does not know: protocols.

use std::net::SocketAddr;
use std::sync::Arc;

use super::connection::Connection;
use super::core::Core;
use super::options::{ACCEPTS_PER_TURN, EXHAUSTED_PAUSE};
use super::stats::CloseReason;
use crate::base::time::Instant;
use crate::net::wait::GaveUp;
use crate::net::{Accepted, Listener, Socket, watch};
use crate::runtime;

/// Accepts until the server drains or the running coroutine is cancelled.
///
/// # Errors
/// The listener is unusable.
pub(super) fn run(core: &Arc<Core>, listener: &Listener) -> std::io::Result<()> {
    let mut complained = false;
    loop {
        let until = match take_in(core, listener)? {
            Took::AllForNow => Instant::NEVER,
            Took::Share => {
                runtime::yield_now();
                continue;
            }
            Took::Exhausted(error) => {
                core.stats.exhausted.add(1);
                if !complained {
                    tracing::warn!(
                        "cannot accept connections on {}: {error}; trying on (raise `ulimit -n`, or \
                         lower max_connections)",
                        listener.name(),
                    );
                }
                complained = true;
                Instant::after(EXHAUSTED_PAUSE)
            }
        };
        complained &= !until.is_never();
        if core.is_draining() {
            return Ok(());
        }
        if core.bell.wait("accept", until) == Err(GaveUp::Cancelled) || core.is_draining() {
            return Ok(());
        }
    }
}

/// What one turn of accepting came to.
pub(super) enum Took {
    /// Nobody waits any more; the next edge tells.
    AllForNow,
    /// As many as one turn may take; more may wait.
    Share,
    /// No descriptors or memory left.
    Exhausted(std::io::Error),
}

/// Takes in the connections that wait, at most [`ACCEPTS_PER_TURN`].
pub(super) fn take_in(core: &Arc<Core>, listener: &Listener) -> std::io::Result<Took> {
    for _ in 0..ACCEPTS_PER_TURN {
        match listener.accept() {
            Accepted::Connection(socket, peer) => enter(core, socket, peer),
            Accepted::WouldBlock => return Ok(Took::AllForNow),
            Accepted::Vanished(error) => {
                tracing::debug!("a connection was gone before it was accepted: {error}");
                core.stats.accept_failed.add(1);
            }
            Accepted::Exhausted(error) => return Ok(Took::Exhausted(error)),
            Accepted::Failed(error) => return Err(error),
        }
    }
    Ok(Took::Share)
}

fn enter(core: &Arc<Core>, socket: Socket, peer: Option<SocketAddr>) {
    core.stats.accepted.add(1);
    let fd = socket.fd();
    let make = |key| Connection::new(Arc::clone(core), socket, peer, key);
    let Some(connection) = core.enter(make) else {
        core.stats.closed(CloseReason::TooManyConnections);
        return;
    };
    match watch(fd, Arc::clone(&connection) as Arc<_>) {
        Ok(attachment) => connection.keep(attachment),
        Err(error) => {
            tracing::warn!("cannot watch a connection from {peer:?}: {error}; closed");
            core.stats.accept_failed.add(1);
            connection.lose(CloseReason::PeerReset);
        }
    }
}
