//! What the workers of one runtime share.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::Duration;

use crossbeam_deque::{Injector, Steal};

use super::idle::Idle;
use super::task::Job;
use super::worker::Worker;
use crate::base::time::Instant;
use crate::coroutine::identity::Facts;

pub(crate) struct Shared {
    workers: OnceLock<Vec<&'static Worker>>,
    /// Closures from threads that are no workers of ours.
    pub(super) injector: Injector<Job>,
    /// The workers that sleep or are about to (W-2).
    idle: Idle,
    /// A worker was woken to look for closures and has not looked yet; no need to wake another.
    searching: AtomicBool,
    /// When everything must have ended, in ns; 0 = the runtime goes on.
    end_by: AtomicU64,
    /// Whether to say on stderr what was left when the runtime ended.
    quiet: AtomicBool,
    /// Usable bytes of a default stack.
    pub(super) stack_size: usize,
    /// `None` = coroutines share their worker's thread identity.
    pub(super) facts: Option<&'static Facts>,
}

impl Shared {
    pub(super) fn new(stack_size: usize, facts: Option<&'static Facts>) -> Self {
        Self {
            workers: OnceLock::new(),
            injector: Injector::new(),
            idle: Idle::new(),
            searching: AtomicBool::new(false),
            end_by: AtomicU64::new(0),
            quiet: AtomicBool::new(false),
            stack_size,
            facts,
        }
    }

    /// Set once, before the first worker runs.
    pub(super) fn set_workers(&self, workers: Vec<&'static Worker>) {
        assert!(self.workers.set(workers).is_ok(), "workers are set once");
    }

    pub(super) fn workers(&self) -> &[&'static Worker] {
        self.workers.get().map_or(&[], Vec::as_slice)
    }

    /// The worker with the fewest descriptors.
    pub(super) fn least_loaded(&self) -> &'static Worker {
        let least = self.workers().iter().min_by_key(|worker| worker.sources());
        least.expect("a runtime has a worker")
    }

    /// Queues a closure from outside and sees to it that somebody runs it, or says that nobody will.
    pub(super) fn inject(&self, job: Job) {
        self.injector.push(job);
        // Order of W-2 against `end`: either the workers' last look finds the job, or we find the end.
        fence(Ordering::SeqCst);
        if self.ends() {
            return self.abandon_injected();
        }
        self.wake_one();
    }

    /// Drops what came from outside and has not started: its handles learn that it never will.
    pub(super) fn abandon_injected(&self) {
        loop {
            match self.injector.steal() {
                Steal::Success(job) => job.run.abandon(),
                Steal::Empty => return,
                Steal::Retry => std::hint::spin_loop(),
            }
        }
    }

    /// As [`Shared::wake_one`], for callers that a worker of this runtime runs.
    pub(super) fn wake_another(&self) {
        if self.workers().len() > 1 {
            self.wake_one();
        }
    }

    /// Wakes a sleeping worker to look for closures, unless one is on its way already.
    pub(super) fn wake_one(&self) {
        while let Some(index) = self.idle.any() {
            if self.searching.load(Ordering::Relaxed) {
                return;
            }
            if self.claim_idle(index) {
                self.searching.store(true, Ordering::Relaxed);
                self.workers()[index].wake();
                return;
            }
        }
    }

    pub(super) fn searching_done(&self) {
        if self.searching.load(Ordering::Relaxed) {
            self.searching.store(false, Ordering::Relaxed);
        }
    }

    pub(super) fn set_idle(&self, index: usize) {
        self.idle.set(index);
    }

    pub(super) fn clear_idle(&self, index: usize) {
        self.idle.clear(index);
    }

    /// True if the worker was idle and is now the caller's to wake.
    pub(super) fn claim_idle(&self, index: usize) -> bool {
        self.idle.claim(index)
    }

    /// Whether closures wait anywhere.
    pub(super) fn has_fresh(&self) -> bool {
        !self.injector.is_empty() || self.workers().iter().any(|worker| worker.has_stealable())
    }

    /// Tells the workers to end within `grace`.
    pub(super) fn end(&self, grace: Duration, quiet: bool) {
        self.quiet.store(quiet, Ordering::Relaxed);
        self.end_by
            .store(Instant::after(grace).as_nanos().max(1), Ordering::SeqCst);
        for worker in self.workers() {
            worker.wake();
        }
    }

    pub(super) fn ends(&self) -> bool {
        self.end_by.load(Ordering::SeqCst) != 0
    }

    pub(super) fn end_by(&self) -> Instant {
        Instant::from_nanos(self.end_by.load(Ordering::SeqCst))
    }

    /// A line for whoever runs the program. By `base::sys`: stdout's and stderr's locks may be held
    /// by a parked coroutine.
    pub(super) fn report(&self, text: &str) {
        if !self.quiet.load(Ordering::Relaxed) {
            crate::base::sys::write(2, format!("rpc-core: {text}\n").as_bytes());
        }
    }
}
