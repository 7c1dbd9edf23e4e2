//! How a coroutine parks and is woken: `state.rs` and `idle.rs` under a worker's steps.
//! Also stand-ins for what the other models need of floor 2.

#[expect(dead_code, reason = "what only the watchdog asks")]
#[path = "../../../rpc-core/src/runtime/idle.rs"]
mod idle;
#[expect(dead_code, reason = "what only a dump asks")]
#[path = "../../../rpc-core/src/runtime/state.rs"]
mod state;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Notify};
use loom::thread;

use crate::base::lock::SpinLock;
use crate::check;
use idle::Idle;
use state::State;

/// As in `rpc-core/src/runtime/task.rs`.
#[derive(Clone, Copy)]
pub(crate) enum Reason {
    Channel,
}

/// As `rpc-core/src/runtime/park.rs`, for loom's threads, outside every scope.
pub(crate) mod park {
    use loom::sync::{Arc, Notify};

    use super::Reason;
    use crate::base::time::Instant;

    loom::thread_local! {
        /// loom's own unpark orders memory even for one who does not park; this does not.
        static TOKEN: Arc<Notify> = Arc::new(Notify::new());
    }

    #[derive(Clone)]
    pub(crate) struct Waiter(Arc<Notify>);

    impl Waiter {
        pub(crate) fn current() -> Self {
            Self(TOKEN.with(Arc::clone))
        }

        pub(crate) fn wake(&self) {
            self.0.notify();
        }
    }

    pub(crate) fn park(_reason: Reason, until: Instant) {
        assert!(until.is_never(), "a wait whose time is up does not park");
        TOKEN.with(|token| token.wait());
    }

    pub(crate) fn limit(own: Instant) -> Instant {
        own
    }

    pub(crate) fn cancelled() -> bool {
        false
    }
}

/// One coroutine and its worker, as far as waking it goes.
struct Worker {
    state: State,
    /// How often the coroutine is queued.
    inbox: SpinLock<u32>,
    idle: Idle,
    /// The eventfd.
    bell: Notify,
}

impl Worker {
    fn new() -> Self {
        let state = State::new();
        state.reset();
        Self {
            state,
            inbox: SpinLock::new(0),
            idle: Idle::new(),
            bell: Notify::new(),
        }
    }

    /// `TaskRef::park`, then the worker's turns until it resumes the coroutine.
    fn park(&self) {
        if self.state.take() {
            return;
        }
        if self.state.settle() {
            while !self.take_inbox() {
                self.sleep();
            }
        }
        self.state.begin();
    }

    fn take_inbox(&self) -> bool {
        let queued = std::mem::take(&mut *self.inbox.lock());
        assert!(queued <= 1, "K-1: a coroutine is in one queue at most");
        queued == 1
    }

    /// `Worker::sleep` (W-2).
    fn sleep(&self) {
        self.idle.set(0);
        let left = *self.inbox.lock() > 0;
        if !left {
            self.bell.wait();
        }
        self.idle.clear(0);
    }

    /// `TaskRef::unpark` and `Worker::schedule`, from another thread.
    fn unpark(&self) {
        if self.state.notify() {
            *self.inbox.lock() += 1;
            if self.idle.claim(0) {
                self.bell.notify();
            }
        }
    }
}

#[test]
fn a_wake_up_is_not_lost_and_shows_what_came_before_it() {
    check(|| {
        let worker = Arc::new(Worker::new());
        let told = Arc::new(UnsafeCell::new(0));
        let waker = {
            let (worker, told) = (worker.clone(), told.clone());
            thread::spawn(move || {
                told.with_mut(|_| ());
                worker.unpark();
            })
        };
        worker.park();
        told.with(|_| ());
        waker.join().unwrap();
    });
}

#[test]
fn two_wakers_queue_a_coroutine_once_and_both_are_heard() {
    check(|| {
        let worker = Arc::new(Worker::new());
        let flags = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let wakers = flags.clone().map(|flag| {
            let worker = worker.clone();
            thread::spawn(move || {
                flag.store(true, Ordering::Release);
                worker.unpark();
            })
        });
        while !flags.iter().all(|flag| flag.load(Ordering::Acquire)) {
            worker.park();
        }
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
    });
}

#[test]
fn a_token_left_while_running_ends_the_next_park() {
    check(|| {
        let worker = Arc::new(Worker::new());
        let waker = {
            let worker = worker.clone();
            thread::spawn(move || {
                worker.unpark();
                worker.unpark();
            })
        };
        worker.park();
        waker.join().unwrap();
        // At most one token is left over; taking it leaves none.
        worker.state.take();
        assert!(!worker.state.take());
    });
}

/// Closures without a worker, and workers that look for them; each closure is but counted.
struct Pool {
    closures: SpinLock<u32>,
    idle: Idle,
    bells: [Notify; 2],
}

impl Pool {
    fn new() -> Self {
        Self {
            closures: SpinLock::new(0),
            idle: Idle::new(),
            bells: [Notify::new(), Notify::new()],
        }
    }

    /// `Shared::inject`.
    fn spawn(&self) {
        *self.closures.lock() += 1;
        self.wake_one();
    }

    /// `Shared::wake_one`.
    fn wake_one(&self) {
        if let Some(index) = self.idle.claim_any() {
            self.bells[index].notify();
        }
    }

    /// The turns of worker `index` until it has one closure, which keeps it for good.
    fn take_one(&self, index: usize) {
        while !self.find_work() {
            self.idle.set(index);
            let left = *self.closures.lock() > 0;
            if !left {
                self.bells[index].wait();
            }
            self.idle.clear(index);
        }
    }

    /// `Worker::find_work`.
    fn find_work(&self) -> bool {
        let found = {
            let mut closures = self.closures.lock();
            let found = *closures > 0;
            *closures -= u32::from(found);
            found
        };
        let expected = self.idle.searched();
        if found && expected && *self.closures.lock() > 0 {
            self.wake_one();
        }
        found
    }
}

#[test]
fn each_closure_finds_a_worker_though_the_first_keeps_its_own() {
    check(|| {
        let pool = Arc::new(Pool::new());
        let workers = [0, 1].map(|index| {
            let pool = pool.clone();
            thread::spawn(move || pool.take_one(index))
        });
        pool.spawn();
        pool.spawn();
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
    });
}
