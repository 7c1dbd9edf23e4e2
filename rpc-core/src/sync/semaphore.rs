//! A bounded number of permits.

use std::fmt;
use std::time::Duration;

use super::queue::{Cut, Queue, WaitError, wait};
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
    waiters: Queue<()>,
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
        self.acquire_until(Instant::NEVER)
    }

    /// As [`Semaphore::acquire`], for at most `duration`.
    pub fn acquire_timeout(&self, duration: Duration) -> Result<Permit<'_>, WaitError> {
        self.acquire_until(Instant::after(duration))
    }

    /// A permit, if one is free now.
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        let mut state = self.state.lock();
        state.free = state.free.checked_sub(1)?;
        Some(Permit { semaphore: self })
    }

    /// Permits that nobody holds.
    pub fn available(&self) -> usize {
        self.state.lock().free
    }

    fn acquire_until(&self, until: Instant) -> Result<Permit<'_>, WaitError> {
        let mut state = self.state.lock();
        if state.free > 0 {
            state.free -= 1;
        } else {
            // Served by `release`, which passes its permit on to us.
            let how = (Reason::Lock, Cut::by_scope(until));
            wait(state, |s| &mut s.waiters, (), how).0?;
        }
        Ok(Permit { semaphore: self })
    }

    fn release(&self) {
        let mut state = self.state.lock();
        match state.waiters.serve(|()| ()) {
            Some(next) => {
                drop(state);
                next.wake();
            }
            None => state.free += 1,
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
