//! Sockets for the crate's own use: listening, connecting, moving bytes, and waking one who waits.
//!
//! Knows: stream sockets, readiness.   Does not know: RPC, protocols, sessions.
//!
//! Everything here is non-blocking and belongs to a [`crate::runtime::reactor`] handler: an idle
//! connection costs a descriptor and its owner's state, no stack and no buffer.
//!
//! Invariants
//! - N-1  Readiness is edge-triggered: after an event, the owner reads until [`Received::WouldBlock`] or
//!   a drained [`Received::Bytes`], or puts itself in line for another turn.
//! - N-2  The owner of a socket detaches it from the reactor before the socket is closed.
//!
//! The doors to the reactor that floor 5 needs are re-exported here: above this floor nothing names it.
//!
//! Read first: [`socket`], then [`outflow`].

pub mod address;
pub mod bell;
pub mod crowd;
pub mod listener;
pub mod outflow;
pub mod socket;
mod turns;
pub mod wait;

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::runtime::{Handle, at_turn_end, reactor, spawn};

pub(crate) use crate::runtime::Flush;
pub(crate) use crate::runtime::reactor::{Attachment, Handler, Ready};

pub use bell::Bell;
pub use crowd::Crowd;
pub use listener::{Accepted, Listener};
pub use outflow::{Flushed, Outflow, Queued, flush};
pub use socket::{Received, Sent, Socket};
pub use turns::Turns;

/// Whether the caller is a worker: its loop, or a coroutine on it. Elsewhere no turn ends.
pub(crate) fn on_worker() -> bool {
    Handle::try_current().is_some()
}

/// Runs `flush` once, at the end of the turn of the caller's worker. A coroutine that ran for so long that its
/// worker went to another thread has none: then a worker that is free takes it.
pub(crate) fn take_turn<F: Flush + 'static>(flush: Arc<F>) {
    if !at_turn_end(Arc::clone(&flush) as Arc<dyn Flush>) {
        // Detached: nobody waits for it.
        drop(spawn(move || flush.flush()));
    }
}

/// Sends the edges of `fd` to `handler`, on the loop of the least loaded worker of the running runtime.
///
/// # Errors
/// No runtime runs the caller, or the kernel refuses.
pub(crate) fn watch(fd: RawFd, handler: Arc<dyn Handler>) -> io::Result<Attachment> {
    let handle = Handle::try_current()
        .ok_or_else(|| io::Error::other("no runtime runs here: call this from a coroutine"))?;
    reactor::attach(fd, handler, handle.least_loaded())
}
