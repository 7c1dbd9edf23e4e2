//! Waiting until so many have come.

use std::fmt;

use super::queue::{Cut, Queue, wait, wake_all};
use crate::base::lock::SpinLock;
use crate::runtime::Reason;

/// Lets `count` coroutines and threads go on together, again and again.
pub struct Barrier {
    /// At least 1.
    count: usize,
    state: SpinLock<State>,
}

struct State {
    /// Below `count`.
    arrived: usize,
    waiters: Queue<()>,
}

impl Barrier {
    /// A barrier for `count`; 0 is taken as 1.
    pub const fn new(count: usize) -> Self {
        let state = State {
            arrived: 0,
            waiters: Queue::new(),
        };
        Self {
            count: if count == 0 { 1 } else { count },
            state: SpinLock::new(state),
        }
    }

    /// Waits until `count` have come. True for one of them, the last. Deadlines and cancellation do not
    /// cut it: the others count on everybody.
    pub fn wait(&self) -> bool {
        let mut state = self.state.lock();
        state.arrived += 1;
        if state.arrived < self.count {
            let how = (Reason::Lock, Cut::NEVER);
            let _ = wait(state, |s| &mut s.waiters, (), how);
            return false;
        }
        state.arrived = 0;
        let served = state.waiters.serve_all(false);
        drop(state);
        wake_all(served);
        true
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrived = self.state.lock().arrived;
        f.debug_struct("Barrier")
            .field("arrived", &arrived)
            .field("count", &self.count)
            .finish()
    }
}
