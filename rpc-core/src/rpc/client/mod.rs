//! Calling: a channel to a service's servers.
//!
//! Knows: addresses, connections, deadlines, who waits for which answer.
//! Does not know: frames (sessions do), messages (generated code does).
//!
//! A [`Channel`] keeps one multiplexed connection to each address; which addresses there are its target says, or the
//! servers themselves do ([`naming`]). A coroutine per address connects,
//! waits for the loss, and connects again; calls wait for their answers where they were made, on a
//! coroutine or on an OS thread. Calls made in one turn of a worker leave in one system call.
//!
//! Invariants
//! - CL-1  A call ends once: by its answer, its deadline, its cancellation, or its connection's loss.
//!   After that its answer is dropped by the session and counted.
//! - CL-2  A call that certainly never ran fails with a status for which [`Status::never_ran`] is true.
//! - CL-3  Calls under way and bytes unwritten are bounded per connection; past that a call fails at once.
//!
//! Read first: [`channel`], then `connection.rs`.

pub(in crate::rpc) mod ambient;
mod backoff;
mod balance;
pub mod channel;
mod connection;
mod link;
pub mod naming;
mod options;
mod roll;
mod servers;
mod streams;
mod target;
pub mod zookeeper;

pub use balance::Balance;
pub use channel::{Channel, ChannelBuilder, Wire};
pub use options::CallOptions;

use super::status::Status;
use super::status_map::{ELIMIT, ELOGOFF, ENOMETHOD, ENOSERVICE, EOVERCROWDED, EREJECT, ERPCAUTH};

/// The system's "host is down": no connection, the call was not sent.
const EHOSTDOWN: i32 = 112;

impl Status {
    /// True if the call certainly never ran: it was not sent, or refused before a handler saw it. Then
    /// calling again is safe whatever the call does; otherwise only if it may run twice.
    pub fn never_ran(&self) -> bool {
        // Only what was said by number: over gRPC a handler's own `Unavailable` comes without one.
        [
            EHOSTDOWN,
            ELIMIT,
            ELOGOFF,
            ENOMETHOD,
            ENOSERVICE,
            EOVERCROWDED,
            EREJECT,
            ERPCAUTH,
        ]
        .iter()
        .any(|errno| self.is_errno(*errno))
    }
}
