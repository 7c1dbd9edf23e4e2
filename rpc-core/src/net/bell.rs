//! Waking the one coroutine or thread that looks after something.
//!
//! Knows: park and wake.   Does not know: why it is rung.
//!
//! A bell rung before anyone waits is heard by the next wait; many rings before it are heard as one.

use std::sync::atomic::{AtomicBool, Ordering};

use super::wait::{GaveUp, Waiter, wait_for};
use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::runtime::Reason;

/// A bell with one listener at a time.
#[derive(Default)]
pub struct Bell {
    /// Rung and not yet heard.
    rung: AtomicBool,
    /// Who listens; `None` while nobody waits.
    listener: SpinLock<Option<Waiter>>,
}

impl Bell {
    /// A bell that was not rung yet.
    pub const fn new() -> Self {
        Self {
            rung: AtomicBool::new(false),
            listener: SpinLock::new(None),
        }
    }

    /// Wakes the listener, now or at its next wait. May be called from anywhere, also on a worker's loop.
    pub fn ring(&self) {
        // Release pairs with the Acquire in `heard`: the listener sees what was done before the ring.
        self.rung.store(true, Ordering::Release);
        let listener = self.listener.lock().clone();
        if let Some(listener) = listener {
            listener.wake();
        }
    }

    /// Waits until the bell is rung.
    ///
    /// # Errors
    /// `until` passed, or this coroutine was cancelled.
    pub fn wait(&self, reason: &'static str, until: Instant) -> Result<(), GaveUp> {
        *self.listener.lock() = Some(Waiter::current());
        let heard = || self.rung.swap(false, Ordering::AcqRel).then_some(());
        let result = wait_for(Reason::Other(reason), until, heard);
        *self.listener.lock() = None;
        result
    }
}
