//! What the workers of one runtime share.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::Duration;

use super::crew::Crew;
use super::idle::Idle;
use super::pinned::Pinned;
use super::queues::Entrance;
use super::seat::Seat;
use super::task::{Job, TaskRef};
use super::watchdog::Watchdog;
use super::worker::Worker;
use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::coroutine::identity::Facts;

pub(crate) struct Shared {
    workers: OnceLock<Vec<&'static Worker>>,
    pub(super) entrance: Entrance,
    pub(super) crew: Crew,
    pub(super) watchdog: Watchdog,
    /// Every seat ever made.
    seats: SpinLock<Vec<&'static Seat>>,
    /// Those that nobody sits on.
    free_seats: SpinLock<Vec<&'static Seat>>,
    /// The workers that sleep or are about to (W-2).
    idle: Idle,
    /// When everything must have ended, in ns; 0 = the runtime goes on.
    end_by: AtomicU64,
    /// Whether to say on stderr what was left when the runtime ended.
    quiet: AtomicBool,
    /// Whether it was said already that a coroutine could not start.
    refused: AtomicBool,
    /// Usable bytes of a default stack.
    pub(super) stack_size: usize,
    /// `None` = coroutines share their worker's thread identity.
    pub(super) facts: Option<&'static Facts>,
}

impl Shared {
    pub(super) fn new(
        stack_size: usize,
        facts: Option<&'static Facts>,
        watchdog: Watchdog,
    ) -> Self {
        Self {
            workers: OnceLock::new(),
            entrance: Entrance::new(),
            crew: Crew::default(),
            watchdog,
            seats: SpinLock::default(),
            free_seats: SpinLock::default(),
            idle: Idle::new(),
            end_by: AtomicU64::new(0),
            quiet: AtomicBool::new(false),
            refused: AtomicBool::new(false),
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
        self.entrance.push(job);
        // Order of W-2 against `end`: either the workers' last look finds the job, or we find the end.
        fence(Ordering::SeqCst);
        if self.ends() {
            return self.abandon_injected();
        }
        self.wake_one();
    }

    /// Drops what came from outside and has not started: its handles learn that it never will.
    pub(super) fn abandon_injected(&self) {
        while let Some(job) = self.entrance.pop() {
            job.run.abandon();
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
        if let Some(index) = self.idle.claim_any() {
            self.workers()[index].wake();
        }
    }

    /// As [`Idle::searched`].
    pub(super) fn searched(&self) -> bool {
        self.idle.searched()
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

    /// Whether closures wait anywhere but in the queues of worker `index`.
    pub(super) fn has_fresh_for(&self, index: usize) -> bool {
        let mut others = self.workers().iter().filter(|other| other.index() != index);
        !self.entrance.is_empty() || others.any(|other| other.has_stealable())
    }

    /// Whether worker `index` sleeps or is about to.
    pub(super) fn is_idle(&self, index: usize) -> bool {
        self.idle.is_set(index)
    }

    /// A seat for a new thread.
    pub(super) fn free_seat(&self) -> &'static Seat {
        if let Some(seat) = self.free_seats.lock().pop() {
            return seat;
        }
        let seat: &'static Seat = Box::leak(Box::default());
        self.seats.lock().push(seat);
        seat
    }

    pub(super) fn put_seat(&self, seat: &'static Seat) {
        self.free_seats.lock().push(seat);
    }

    /// Every seat ever made, empty ones included.
    pub(super) fn seats(&self) -> Vec<&'static Seat> {
        self.seats.lock().clone()
    }

    /// The thread that runs `task` at this moment, if one does.
    pub(super) fn seat_of(&self, task: TaskRef) -> Option<&'static Seat> {
        let seats = self.seats.lock();
        seats
            .iter()
            .find(|seat| seat.running() == Some(task))
            .copied()
    }

    /// Coroutines that run at this moment.
    pub(super) fn running(&self) -> Vec<TaskRef> {
        let seats = self.seats();
        seats.iter().filter_map(|seat| seat.running()).collect()
    }

    /// Adds the waits that held workers of this runtime.
    pub(super) fn add_pinned(&self, sum: &mut Pinned) {
        let workers = self.workers().iter();
        workers.for_each(|worker| worker.pins().add_to(sum));
    }

    /// Tells the workers to end within `grace`.
    pub(super) fn end(&self, grace: Duration, quiet: bool) {
        self.quiet.store(quiet, Ordering::Relaxed);
        self.end_by
            .store(Instant::after(grace).as_nanos().max(1), Ordering::SeqCst);
        for worker in self.workers() {
            worker.wake();
        }
        self.watchdog.rouse();
    }

    pub(super) fn ends(&self) -> bool {
        self.end_by.load(Ordering::SeqCst) != 0
    }

    pub(super) fn end_by(&self) -> Instant {
        Instant::from_nanos(self.end_by.load(Ordering::SeqCst))
    }

    /// Says once that coroutines cannot start; every handle is told anyway.
    pub(super) fn report_refusal(&self, error: &io::Error) {
        if !self.refused.swap(true, Ordering::Relaxed) {
            self.report(&format!(
                "a coroutine could not start, as later ones may not: {error}"
            ));
        }
    }

    /// A line for whoever runs the program. By `base::sys`: stdout's and stderr's locks may be held
    /// by a parked coroutine.
    pub(super) fn report(&self, text: &str) {
        if !self.quiet.load(Ordering::Relaxed) {
            crate::base::sys::write(2, format!("rpc-core: {text}\n").as_bytes());
        }
    }
}
