//! A bounded number of permits.

use std::fmt;

use super::queue::{Queue, WaitError};
use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::runtime::Reason;

/// Hands out at most as many [`Permit`]s at a time as it was made with. Fair.
pub struct Semaphore {
    state: SpinLock<State>,
}

struct State {
    /// Permits nobody holds. 0 while anybody waits.
    free: usize,
    waiters: Queue,
}

impl Semaphore {
    /// A semaphore with `permits` to give.
    pub const fn new(permits: usize) -> Self {
        Self {
            state: SpinLock::new(State {
                free: permits,
                waiters: Queue::new(),
            }),
        }
    }

    /// Waits for a permit. Fails at the scope's deadline and on cancellation.
    pub fn acquire(&self) -> Result<Permit<'_>, WaitError> {
        let node = {
            let mut state = self.state.lock();
            if state.free > 0 {
                state.free -= 1;
                return Ok(Permit { semaphore: self });
            }
            state.waiters.join()
        };
        let outcome = node.wait_until(Reason::Lock, Instant::NEVER);
        if let Err(error) = outcome
            && self.state.lock().waiters.leave(&node)
        {
            return Err(error);
        }
        // Served, perhaps at the last moment: `release` kept the permit for us.
        Ok(Permit { semaphore: self })
    }

    /// A permit, if one is free now.
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        let mut state = self.state.lock();
        if state.free == 0 {
            return None;
        }
        state.free -= 1;
        Some(Permit { semaphore: self })
    }

    /// Permits that nobody holds.
    pub fn available(&self) -> usize {
        self.state.lock().free
    }

    fn release(&self) {
        let mut state = self.state.lock();
        if !state.waiters.serve_one() {
            state.free += 1;
        }
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let available = self.available();
        f.debug_struct("Semaphore")
            .field("available", &available)
            .finish()
    }
}

/// One permit of a [`Semaphore`]; dropping it gives it back.
#[derive(Debug)]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.semaphore.release();
    }
}
