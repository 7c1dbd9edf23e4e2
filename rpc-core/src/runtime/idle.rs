//! Which workers sleep, as bits of one word.
//!
//! Knows: the word.   Does not know: workers, what they sleep on.
//!
//! W-2: a worker calls `set`, then looks at everything others may have left for it, then sleeps;
//! others leave something, then call `claim` or `any`. Both sides put a full fence in between, so one
//! of them sees the other. `models` checks this file together with `state.rs`.

use crate::base::atomic::{AtomicU64, Ordering, fence};

pub(super) struct Idle(AtomicU64);

impl Idle {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Worker `index` is about to sleep; what others have left is to be looked at after this.
    pub(super) fn set(&self, index: usize) {
        self.0.fetch_or(1 << index, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Worker `index` is awake.
    pub(super) fn clear(&self, index: usize) {
        self.0.fetch_and(!(1 << index), Ordering::SeqCst);
    }

    /// True if the worker was idle and is now the caller's to wake. What it is to find was left before.
    pub(super) fn claim(&self, index: usize) -> bool {
        fence(Ordering::SeqCst);
        let bit = 1 << index;
        self.0.load(Ordering::SeqCst) & bit != 0
            && self.0.fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    /// An idle worker, if there is one. What it is to find was left before.
    pub(super) fn any(&self) -> Option<usize> {
        fence(Ordering::SeqCst);
        let idle = self.0.load(Ordering::SeqCst);
        (idle != 0).then(|| idle.trailing_zeros() as usize)
    }
}
