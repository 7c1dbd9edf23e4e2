//! Which workers sleep, as bits of one word, and whether one was woken to look for closures.
//!
//! Knows: the two words.   Does not know: workers, what they sleep on.
//!
//! W-2: a worker calls `set`, then looks at everything others may have left for it, then sleeps;
//! others leave something, then call `claim` or `claim_any`. Both sides put a full fence in between, so one
//! of them sees the other. `models` checks this file together with `state.rs`.
//!
//! One search at a time: who leaves a closure while a woken worker is on its way wakes no other. That
//! worker looks, then calls `searched`, and looks once more for what was left in between.

use crate::base::atomic::{AtomicU32, AtomicU64, Ordering, fence};

pub(super) struct Idle {
    bits: AtomicU64,
    /// 1 while a worker was woken to look for closures and has not looked yet.
    searching: AtomicU32,
}

impl Idle {
    pub(super) fn new() -> Self {
        Self {
            bits: AtomicU64::new(0),
            searching: AtomicU32::new(0),
        }
    }

    /// Worker `index` is about to sleep; what others have left is to be looked at after this.
    pub(super) fn set(&self, index: usize) {
        self.bits.fetch_or(1 << index, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Worker `index` is awake.
    pub(super) fn clear(&self, index: usize) {
        self.bits.fetch_and(!(1 << index), Ordering::SeqCst);
    }

    /// Whether worker `index` sleeps or is about to.
    pub(super) fn is_set(&self, index: usize) -> bool {
        self.bits.load(Ordering::SeqCst) & (1 << index) != 0
    }

    /// True if the worker was idle and is now the caller's to wake. What it is to find was left before.
    pub(super) fn claim(&self, index: usize) -> bool {
        fence(Ordering::SeqCst);
        let bit = 1 << index;
        self.bits.load(Ordering::SeqCst) & bit != 0
            && self.bits.fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    /// An idle worker that is now the caller's to wake, to look for a closure that was left before. `None`
    /// if there is none, or one is on its way.
    pub(super) fn claim_any(&self) -> Option<usize> {
        fence(Ordering::SeqCst);
        while self.bits.load(Ordering::SeqCst) != 0 {
            // Looked at before it is written: mostly one is on its way.
            if self.searching.load(Ordering::SeqCst) != 0
                || self.searching.swap(1, Ordering::SeqCst) != 0
            {
                return None;
            }
            loop {
                let idle = self.bits.load(Ordering::SeqCst);
                if idle == 0 {
                    break;
                }
                let index = idle.trailing_zeros() as usize;
                if self.claim(index) {
                    return Some(index);
                }
            }
            // Others may have relied on this search: for them it looks again.
            self.searching.store(0, Ordering::SeqCst);
            fence(Ordering::SeqCst);
        }
        None
    }

    /// The caller, a worker, has looked for closures. True if a search ends by that: what was left since its
    /// look may have woken nobody, and is the caller's to look for.
    pub(super) fn searched(&self) -> bool {
        let ended = self.searching.load(Ordering::Relaxed) != 0
            && self.searching.swap(0, Ordering::SeqCst) != 0;
        if ended {
            fence(Ordering::SeqCst);
        }
        ended
    }
}
