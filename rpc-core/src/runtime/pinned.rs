//! Waits in the kernel that hold a whole worker: counted, and named when they last.
//!
//! Knows: the worker, the coroutine that holds it, for how long.
//! Does not know: what is waited for, or how; callers bring the wait.
//!
//! Under shared identity a futex wait must not park: std's parker, mpsc and parking_lot keep their
//! waiters in thread-locals, which another coroutine of the worker would find (P3). If the wait is to
//! be ended by a coroutine of the same worker, it never ends; the report below is how that shows.

use std::backtrace::Backtrace;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::task::{self, Reason, TaskRef};
use crate::base::lock::SpinLock;
use crate::base::time::Instant;

/// What held the workers of a runtime; see [`super::Runtime::pinned`].
#[derive(Clone, Debug, Default)]
pub struct Pinned {
    /// Waits that held a worker, those under way included.
    pub waits: u64,
    /// How long the ended ones held one, added up.
    pub time: Duration,
    /// At most one for each worker: the one under way, else the last one, among those of 10 ms and more.
    pub seen: Vec<PinnedWait>,
}

impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { waits, time, .. } = self;
        writeln!(
            f,
            "{waits} waits in the kernel held a worker, {time:.3?} in all"
        )?;
        for wait in &self.seen {
            let (worker, who) = (wait.worker, &wait.coroutine);
            write!(
                f,
                "  worker {worker}, by coroutine {who}, for {:?}: ",
                wait.reason
            )?;
            match wait.took {
                Some(took) => writeln!(f, "{took:.3?}")?,
                None => writeln!(f, "until now")?,
            }
            for line in wait.stack.to_string().lines() {
                writeln!(f, "    {line}")?;
            }
        }
        Ok(())
    }
}

/// A wait that held a worker for 10 ms or more.
#[derive(Clone, Debug)]
pub struct PinnedWait {
    /// Number of the worker.
    pub worker: usize,
    /// Name and place of birth of the coroutine.
    pub coroutine: String,
    /// What it waits for.
    pub reason: Reason,
    /// How long the wait took; `None` while it is under way.
    pub took: Option<Duration>,
    /// Where it waits.
    pub stack: Arc<Backtrace>,
}

/// One worker's share of [`Pinned`].
#[derive(Default)]
pub(super) struct Pins {
    waits: AtomicU64,
    /// Nanoseconds of those that ended.
    time: AtomicU64,
    seen: SpinLock<Option<PinnedWait>>,
}

impl Pins {
    pub(super) fn add_to(&self, sum: &mut Pinned) {
        sum.waits += self.waits.load(Ordering::Relaxed);
        sum.time += Duration::from_nanos(self.time.load(Ordering::Relaxed));
        sum.seen.extend(self.seen.lock().clone());
    }
}

/// Waits in the kernel on behalf of the running coroutine, which may not park.
///
/// `wait` blocks until its end or the given instant, and returns `None` in the latter case. It is called
/// again then: after 10 ms the stack is noted, after a second the wait is reported on stderr.
pub(crate) fn pinned<T>(reason: Reason, mut wait: impl FnMut(Instant) -> Option<T>) -> T {
    let Some(task) = task::running() else {
        return without_end(wait);
    };
    let pins = task.worker().pins();
    pins.waits.fetch_add(1, Ordering::Relaxed);
    let begun = Instant::now();
    if let Some(value) = wait(begun + NOTED_AFTER) {
        let nanos = begun.elapsed().as_nanos() as u64;
        pins.time.fetch_add(nanos, Ordering::Relaxed);
        return value;
    }
    *pins.seen.lock() = Some(PinnedWait {
        worker: task.worker().index(),
        coroutine: task.name_and_place(),
        reason,
        took: None,
        stack: Arc::new(Backtrace::force_capture()),
    });
    let value = wait(begun + REPORTED_AFTER).unwrap_or_else(|| {
        report(task, pins);
        without_end(wait)
    });
    let took = begun.elapsed();
    pins.time
        .fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    if let Some(seen) = &mut *pins.seen.lock() {
        seen.took = Some(took);
    }
    value
}

fn without_end<T>(mut wait: impl FnMut(Instant) -> Option<T>) -> T {
    loop {
        if let Some(value) = wait(Instant::NEVER) {
            return value;
        }
    }
}

fn report(task: TaskRef, pins: &Pins) {
    let Some(wait) = pins.seen.lock().clone() else {
        return;
    };
    let others = task.worker().live().saturating_sub(1);
    task.worker().shared().report(&format!(
        "worker {} has been held for {REPORTED_AFTER:?} by coroutine {}, which waits in the kernel for {:?} and may \
         not park: coroutines of this runtime share their worker's thread identity. {others} other coroutines of \
         this worker cannot run; if one of them is to end this wait, it never ends. Use Identity::Own, or \
         rpc_core::sync\n{}",
        wait.worker, wait.coroutine, wait.reason, wait.stack
    ));
}

const NOTED_AFTER: Duration = Duration::from_millis(10);
const REPORTED_AFTER: Duration = Duration::from_secs(1);
