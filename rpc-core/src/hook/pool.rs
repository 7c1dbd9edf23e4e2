//! A call moved to the blocking pool, waited for without being cut.
//!
//! Knows: the pool, parking.   Does not know: what the call does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::runtime::park::park;
use crate::runtime::{self, Reason, TaskRef};

/// Runs `call` on the pool and waits for its answer, whatever happens; `None` outside a coroutine or
/// when the pool could not run it.
pub(super) fn run<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let task = runtime::current()?;
    let slot = Arc::new(Slot {
        done: AtomicU32::new(0),
        value: SpinLock::new(None),
    });
    let end = End {
        slot: Arc::clone(&slot),
        task,
    };
    drop(runtime::spawn_blocking(move || {
        let value = call();
        *end.slot.value.lock() = Some(value);
        drop(end);
    }));
    while slot.done.load(Ordering::Acquire) == 0 {
        park(Reason::Other("blocking pool"), Instant::NEVER);
    }
    slot.value.lock().take()
}

/// On the pool where a coroutine calls, else here. What the call points to stays, for the coroutine
/// waits uncut.
pub(super) fn run_or_here(call: impl FnOnce() -> isize + Clone + Send + 'static) -> isize {
    run(call.clone()).unwrap_or_else(call)
}

/// Where the answer is left.
struct Slot<T> {
    /// 1 once the pool is done with the call.
    done: AtomicU32,
    value: SpinLock<Option<T>>,
}

/// Tells the waiter when dropped, also where the pool drops a job it cannot run.
struct End<T> {
    slot: Arc<Slot<T>>,
    task: TaskRef,
}

impl<T> Drop for End<T> {
    fn drop(&mut self) {
        self.slot.done.store(1, Ordering::Release);
        self.task.unpark();
    }
}
