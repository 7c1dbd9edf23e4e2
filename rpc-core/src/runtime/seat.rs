//! Which OS thread holds a worker, and how the watchdog takes a worker from a thread that is stuck.
//!
//! Knows: one thread's hold.   Does not know: queues, who is rescued or why.
//!
//! While a thread runs a coroutine it needs the worker's local state only now and then (a spawn, a
//! timer). In between the watchdog may claim the worker for another thread: the coroutine runs on
//! undisturbed, learns at its next use of the local state that the worker is gone, and goes home to it.
//!
//! ```text
//!          claim (watchdog)          claim, second half: not inside
//!   HELD ──────────────────▶ CLAIMED ──────────────────────────────▶ LOST
//!     ▲                         │
//!     └─────────────────────────┘  enter (the thread), or the watchdog finds it inside
//! ```
//! Invariants
//! - H-1  The thread raises `inside`, then looks at `hold`; the watchdog sets `hold`, makes every thread
//!   pass a barrier (`membarrier`), then looks at `inside`: one of them sees the other. So the thread
//!   pays plain stores and loads, no locked instruction.
//! - H-2  Whoever wins the exchange on `CLAIMED` decides; the other sees the outcome.
//! - H-3  Everything but `hold` is written by the seat's own thread.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering, compiler_fence};

use super::task::{Task, TaskRef};
use super::worker::Worker;
use crate::base::atomic_ref::AtomicRef;
use crate::base::metric::Counter;
use crate::base::sys;
use crate::coroutine::identity;

/// One OS thread's hold on a worker. Made once, used by one thread after another, never freed.
#[derive(Default)]
pub(super) struct Seat {
    /// The thread is in the worker's loop or in its local state.
    inside: AtomicBool,
    hold: AtomicU32,
    /// The worker held, or lost last; `None` while the thread waits for one.
    worker: AtomicRef<Worker>,
    /// The coroutine that the thread runs; `None` in the loop.
    running: AtomicRef<Task>,
    /// Coroutines resumed.
    pub(super) switches: Counter,
    /// Turns of the loop.
    pub(super) turns: Counter,
    /// The kernel's id of the thread; 0 = nobody sits here.
    tid: AtomicI32,
    /// The thread's own, whichever coroutine it runs.
    thread_pointer: AtomicUsize,
    /// End of the mapped part of the thread's stack that holds the loop's frames.
    stack_top: AtomicUsize,
}

impl Seat {
    /// The calling thread sits down, without a worker.
    pub(super) fn occupy(&self) {
        let here = 0_u8;
        let page_end = ((&raw const here).addr() | (PAGE_SIZE - 1)) + 1;
        self.stack_top.store(page_end, Ordering::Relaxed);
        self.thread_pointer
            .store(identity::thread_pointer(), Ordering::Relaxed);
        self.tid.store(sys::gettid(), Ordering::Release);
    }

    /// The thread pointer of whoever sits here.
    #[cfg(feature = "hooks")]
    pub(super) fn thread_pointer(&self) -> usize {
        self.thread_pointer.load(Ordering::Relaxed)
    }

    /// The calling thread leaves.
    pub(super) fn vacate(&self) {
        self.release();
        self.tid.store(0, Ordering::Release);
    }

    /// The calling thread takes up `worker`, which nobody holds.
    pub(super) fn take(&self, worker: &'static Worker) {
        self.inside.store(true, Ordering::Relaxed);
        self.hold.store(HELD, Ordering::Relaxed);
        self.worker.set(Some(worker));
    }

    /// The calling thread has no worker any more.
    pub(super) fn release(&self) {
        self.worker.set(None);
    }

    /// The calling thread, in the loop, is about to run `task`: the worker may be claimed from here on.
    #[inline]
    pub(super) fn step_out(&self, task: &'static Task) {
        self.switches.bump();
        self.running.set(Some(task));
        // Release pairs with the Acquire in `claim`: the next holder sees what we did to the worker.
        self.inside.store(false, Ordering::Release);
    }

    /// Back in the loop. False if the worker is lost.
    #[inline]
    pub(super) fn step_in(&self) -> bool {
        self.running.set(None);
        self.enter()
    }

    /// A coroutine on the calling thread wants the local state. False if the worker is lost; else
    /// [`Seat::exit`] ends it.
    #[inline]
    pub(super) fn enter(&self) -> bool {
        self.inside.store(true, Ordering::Relaxed);
        // H-1: the processor's half of this barrier is the watchdog's.
        compiler_fence(Ordering::SeqCst);
        self.hold.load(Ordering::Acquire) == HELD || self.keep()
    }

    #[inline]
    pub(super) fn exit(&self) {
        // Release as in `step_out`.
        self.inside.store(false, Ordering::Release);
    }

    #[cold]
    fn keep(&self) -> bool {
        // H-2. Acquire either way: what the watchdog wrote before its decision is seen.
        let kept = self
            .hold
            .compare_exchange(CLAIMED, HELD, Ordering::AcqRel, Ordering::Acquire);
        let kept = kept.is_ok() || kept == Err(HELD);
        if !kept {
            self.inside.store(false, Ordering::Release);
        }
        kept
    }

    /// Takes the worker from the seat's thread, if that runs a coroutine and is not in the worker's local
    /// state. From the watchdog alone.
    pub(super) fn claim(&self) -> bool {
        let claimed =
            self.hold
                .compare_exchange(HELD, CLAIMED, Ordering::AcqRel, Ordering::Relaxed);
        if claimed.is_err() {
            return false;
        }
        sys::membarrier();
        // Acquire pairs with the Releases of `step_out` and `exit`.
        let outcome = if self.inside.load(Ordering::Acquire) {
            HELD
        } else {
            LOST
        };
        let decided =
            self.hold
                .compare_exchange(CLAIMED, outcome, Ordering::AcqRel, Ordering::Relaxed);
        decided.is_ok() && outcome == LOST
    }

    /// Whether the worker was taken from the thread.
    pub(super) fn is_lost(&self) -> bool {
        self.hold.load(Ordering::Acquire) == LOST
    }

    pub(super) fn worker(&self) -> Option<&'static Worker> {
        self.worker.get()
    }

    pub(super) fn running(&self) -> Option<TaskRef> {
        self.running.get().map(TaskRef::new)
    }

    pub(super) fn tid(&self) -> i32 {
        self.tid.load(Ordering::Acquire)
    }

    pub(super) fn stack_top(&self) -> usize {
        self.stack_top.load(Ordering::Relaxed)
    }
}

const HELD: u32 = 0;
const CLAIMED: u32 = 1;
const LOST: u32 = 2;
const PAGE_SIZE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_claimed_only_while_its_thread_is_outside() {
        if !sys::membarrier_register() {
            return;
        }
        let seat = Seat::default();
        assert!(seat.enter());
        assert!(!seat.claim(), "inside");
        seat.exit();
        assert!(seat.claim());
        assert!(!seat.enter(), "lost");
        assert!(!seat.claim(), "lost once");
    }

    #[test]
    fn a_worker_has_one_holder_however_claims_and_entries_race() {
        if !sys::membarrier_register() {
            return;
        }
        for _ in 0..2000 {
            let seat = Seat::default();
            let (kept, claimed) = std::thread::scope(|scope| {
                let thread = scope.spawn(|| {
                    let mut kept = true;
                    for _ in 0..50 {
                        kept = seat.enter();
                        if !kept {
                            break;
                        }
                        seat.exit();
                    }
                    // Stays inside for good.
                    kept && seat.enter()
                });
                let claimed = (0..20).any(|_| seat.claim());
                (thread.join().unwrap(), claimed)
            });
            assert_ne!(kept, claimed, "one of the two holds the worker");
        }
    }
}
