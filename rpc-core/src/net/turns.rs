//! Which workers have a turn to come that flushes one thing.
//!
//! Knows: workers by number.   Does not know: what is flushed.
//!
//! Invariants
//! - T-1  A bit that is set means that a flush is to come, after the bit was set: what was queued before asking
//!   is sent by it.
//! - T-2  Each worker asks for a turn of its own. What another one has asked for may wait there behind a coroutine
//!   that keeps it; whichever comes first sends everything.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::runtime::worker_number;

/// A bit for each worker; beyond 64 they share bits, and then wait for each other.
#[derive(Debug, Default)]
pub struct Turns(AtomicU64);

impl Turns {
    /// The caller, on a worker, has queued something: true if it is to ask for a turn.
    pub fn are_due(&self) -> bool {
        // A coroutine whose worker went to another thread: a turn is found for it elsewhere, each time.
        let Some(worker) = worker_number() else {
            return true;
        };
        let bit = 1 << (worker % u64::BITS as usize);
        // AcqRel pairs with `begin`: a turn that is still to come sees what was queued.
        self.0.fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    /// A turn has come and will send all that is queued, whoever asked. Those of other workers find nothing then.
    pub fn begin(&self) {
        // AcqRel: see `are_due`.
        self.0.swap(0, Ordering::AcqRel);
    }
}
