//! Running, notified or parked: the one word by which a coroutine's worker and its wakers agree.
//!
//! ```text
//!            notify                      settle, after the switch
//!  RUNNING ─────────▶ NOTIFIED     RUNNING ─────────▶ PARKED ──notify──▶ NOTIFIED + queued
//!     ▲                  │ take or begin consumes it                          │
//!     └──────────────────┴────────────────────────────────────────────────────┘
//! ```
//! Knows: the word.   Does not know: coroutines, queues, workers.
//!
//! Invariant: of all the `notify` calls between two `begin`s, one at most is told to queue the
//! coroutine, and only after a `settle` that said it is parked. `models` checks this file.

use crate::base::atomic::{AtomicU32, Ordering};

pub(super) struct State(AtomicU32);

const RUNNING: u32 = 0;
const NOTIFIED: u32 = 1;
const PARKED: u32 = 2;

impl State {
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(RUNNING))
    }

    /// For a new job, before anybody can know it.
    pub(super) fn reset(&self) {
        self.0.store(RUNNING, Ordering::Relaxed);
    }

    /// Just before the coroutine is resumed: a token is for what it has waited for until now.
    #[inline]
    pub(super) fn begin(&self) {
        // Consuming a token takes a swap, for a plain store could overwrite one that comes just now.
        // Acquire pairs with the Release in `notify`: the coroutine sees what its waker wrote.
        if self.0.load(Ordering::Relaxed) != RUNNING {
            self.0.swap(RUNNING, Ordering::Acquire);
        }
    }

    /// Consumes a token if there is one. From the coroutine, instead of suspending.
    #[inline]
    pub(super) fn take(&self) -> bool {
        // The look without a lock is enough: a token that comes later is found by `settle`.
        let notified = self.0.load(Ordering::Relaxed) == NOTIFIED;
        if notified {
            // Acquire pairs with the Release in `notify`.
            self.0.swap(RUNNING, Ordering::Acquire);
        }
        notified
    }

    /// After the switch away from a coroutine that waits. False if a token came meanwhile: queue it.
    #[inline]
    pub(super) fn settle(&self) -> bool {
        // Release pairs with the swap in `notify`: whoever queues the coroutine sees it suspended.
        self.0
            .compare_exchange(RUNNING, PARKED, Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }

    /// Whether it waits. From anywhere; right about a moment ago.
    pub(super) fn is_parked(&self) -> bool {
        self.0.load(Ordering::Relaxed) == PARKED
    }

    /// Leaves a token, from anywhere. True if the coroutine is parked and now the caller's to queue.
    #[inline]
    pub(super) fn notify(&self) -> bool {
        // AcqRel: Release hands our writes to the woken; Acquire sees the park that we undo.
        self.0.swap(NOTIFIED, Ordering::AcqRel) == PARKED
    }
}
