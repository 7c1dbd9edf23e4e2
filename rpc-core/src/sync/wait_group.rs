//! Waiting until everybody is done.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::queue::{Cut, Queue, WaitError, wait, wake_all};
use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::runtime::Reason;

/// A group of workers, each with a clone that it drops when it is done.
///
/// ```
/// # let runtime = rpc_core::Runtime::builder().workers(1).build().unwrap();
/// # runtime.block_on(|| {
/// use rpc_core::sync::WaitGroup;
///
/// let group = WaitGroup::new();
/// for part in 0..3 {
///     let member = group.clone();
///     drop(rpc_core::spawn(move || {
///         println!("part {part} is done");
///         drop(member);
///     }));
/// }
/// group.wait().unwrap();
/// # });
/// ```
pub struct WaitGroup {
    shared: Arc<SpinLock<State>>,
}

struct State {
    members: usize,
    waiters: Queue<()>,
}

impl WaitGroup {
    /// A group whose only member is the caller.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(SpinLock::new(State {
                members: 1,
                waiters: Queue::new(),
            })),
        }
    }

    /// Leaves the group and waits until everybody has. Fails at the scope's deadline and on
    /// cancellation.
    pub fn wait(self) -> Result<(), WaitError> {
        self.wait_until(Instant::NEVER)
    }

    /// As [`WaitGroup::wait`], for at most `duration`.
    pub fn wait_timeout(self, duration: Duration) -> Result<(), WaitError> {
        self.wait_until(Instant::after(duration))
    }

    fn wait_until(self, until: Instant) -> Result<(), WaitError> {
        let shared = Arc::clone(&self.shared);
        drop(self);
        let state = shared.lock();
        if state.members == 0 {
            return Ok(());
        }
        let how = (Reason::Lock, Cut::by_scope(until));
        wait(state, |s| &mut s.waiters, (), how).0
    }
}

impl Clone for WaitGroup {
    /// One more member.
    fn clone(&self) -> Self {
        self.shared.lock().members += 1;
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Drop for WaitGroup {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.members -= 1;
        if state.members == 0 {
            let served = state.waiters.serve_all(false);
            drop(state);
            wake_all(served);
        }
    }
}

impl Default for WaitGroup {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for WaitGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.shared.lock().members;
        f.debug_struct("WaitGroup")
            .field("members", &members)
            .finish()
    }
}
