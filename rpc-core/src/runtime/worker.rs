//! One OS thread that runs coroutines.
//!
//! A turn: ready coroutines (own, started) and fresh closures (own, then stolen) within a budget, the
//! end-of-turn flushes, the inbox, timers, then epoll: without waiting while there is work, else
//! until the next timer.
//!
//! Invariants
//! - W-1  `local` is touched by the worker's thread alone, on its own stack or on that of the
//!   coroutine it runs. No borrow of it lives across a resume or a callback.
//! - W-2  A worker sets its idle bit, then looks at everything others may have left for it, then
//!   sleeps; others leave something, then look at the bit. Both in SeqCst order: one of them sees
//!   the other.
//! - W-3  Workers are never freed: a task's worker pointer stays valid.

#![expect(
    unsafe_code,
    reason = "hands out thread-bound state and resumes stacks"
)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

use crossbeam_deque::{Steal, Stealer};
use mio::unix::SourceFd;
use mio::{Interest, Poll, Registry, Token};

use super::pinned::Pins;
use super::shared::Shared;
use super::task::{Action, Job, TaskRef, running};
use super::timer::Timers;
use super::{depot, reactor};
use crate::base::lock::SpinLock;
use crate::base::sys;
use crate::base::time::Instant;

/// Something to do at the end of a worker's turn, on its loop: write what many calls have left.
pub(crate) trait Flush: Send + Sync + 'static {
    fn flush(&self);
}

pub(crate) struct Worker {
    /// Place in [`Shared::workers`] and bit in its idle set.
    index: usize,
    shared: &'static Shared,
    stealer: Stealer<Job>,
    /// Woken by others; moved to `ready` once a turn.
    inbox: SpinLock<Vec<TaskRef>>,
    /// For registrations from any thread; `None` once the worker has ended.
    registry: SpinLock<Option<Registry>>,
    epoll: RawFd,
    /// Written to end a sleep. Edge-triggered and never read: each write is an edge. `None` once the
    /// worker has ended; locked while written, so that a late wake cannot reach the next file of the
    /// number.
    wake_fd: SpinLock<Option<RawFd>>,
    /// Descriptors registered here: the load by which connections are placed.
    sources: AtomicIsize,
    pins: Pins,
    local: Local,
}

/// W-1.
struct Local {
    ready: RefCell<VecDeque<TaskRef>>,
    fresh: crossbeam_deque::Worker<Job>,
    timers: RefCell<Timers<TaskRef>>,
    /// Idle tasks with a stack of the default size.
    free: RefCell<Vec<TaskRef>>,
    flushes: RefCell<Vec<Arc<dyn Flush>>>,
    /// Jobs started and not ended.
    live: Cell<usize>,
    /// Whether the running coroutines were told that the runtime ends.
    told_to_end: Cell<bool>,
}

// SAFETY: `local` by W-1; everything else is made for sharing.
unsafe impl Sync for Worker {}
// SAFETY: as above; `Poll` goes to the worker's thread separately.
unsafe impl Send for Worker {}

thread_local! {
    /// The worker whose loop this OS thread runs; null elsewhere, also in coroutines' own
    /// blocks.
    static ON_LOOP: Cell<*const Worker> = const { Cell::new(ptr::null()) };
}

/// Whether the caller is a worker's loop (not a coroutine).
pub(super) fn on_loop() -> bool {
    running().is_none() && !ON_LOOP.get().is_null()
}

/// The worker that runs the caller, be it a coroutine or a loop callback.
pub(crate) fn here() -> Option<&'static Worker> {
    match running() {
        Some(task) => Some(task.worker()),
        // SAFETY: only workers are stored, and workers live for ever (W-3).
        None => unsafe { ON_LOOP.get().as_ref() },
    }
}

impl Worker {
    /// The parts of a worker; `run` takes the `Poll`.
    pub(super) fn new(index: usize, shared: &'static Shared) -> io::Result<(Self, Poll)> {
        let poll = Poll::new()?;
        let wake_fd = sys::eventfd()?;
        poll.registry()
            .register(&mut SourceFd(&wake_fd), Token(WAKE), Interest::READABLE)?;
        let fresh = crossbeam_deque::Worker::new_fifo();
        let worker = Self {
            index,
            shared,
            stealer: fresh.stealer(),
            inbox: SpinLock::new(Vec::new()),
            registry: SpinLock::new(Some(poll.registry().try_clone()?)),
            epoll: poll.as_raw_fd(),
            wake_fd: SpinLock::new(Some(wake_fd)),
            sources: AtomicIsize::new(0),
            pins: Pins::default(),
            local: Local {
                ready: RefCell::default(),
                fresh,
                timers: RefCell::new(Timers::new()),
                free: RefCell::default(),
                flushes: RefCell::default(),
                live: Cell::new(0),
                told_to_end: Cell::new(false),
            },
        };
        Ok((worker, poll))
    }

    /// The thread's body: turns until the runtime ends and nothing is left (P5).
    pub(super) fn run(&'static self, poll: Poll) {
        ON_LOOP.set(ptr::from_ref(self));
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        loop {
            self.run_some();
            self.flush();
            self.take_inbox();
            self.take_injected();
            self.fire_timers();
            if self.shared.ends() && self.wind_up() {
                break;
            }
            if self.has_work() || self.find_work() {
                self.poll(&mut events, Some(Duration::ZERO));
            } else {
                self.sleep(&mut events);
                // Whoever woke us to look for closures counts on our looking, even if other work
                // has come meanwhile.
                self.find_work();
            }
        }
        depot::put_all(self.local.free.take());
        *self.registry.lock() = None;
        drop(poll);
        if let Some(fd) = self.wake_fd.lock().take() {
            sys::close(fd);
        }
        ON_LOOP.set(ptr::null());
    }

    /// Runs coroutines and closures until there are none or the budget is spent.
    fn run_some(&'static self) {
        let mut budget = BUDGET;
        let mut flushed_at = Instant::ZERO;
        while budget > 0 {
            budget -= 1;
            // Turn about, so that neither kind starves.
            let ready_first = budget.is_multiple_of(2);
            if !((ready_first && self.run_ready()) || self.run_fresh() || self.run_ready()) {
                return;
            }
            // Answers of quick calls do not wait for slow ones behind them.
            if budget.is_multiple_of(4) && !self.local.flushes.borrow().is_empty() {
                let now = Instant::now();
                if flushed_at == Instant::ZERO {
                    flushed_at = now;
                } else if now - flushed_at > FLUSH_AFTER {
                    self.flush();
                    flushed_at = now;
                }
            }
        }
    }

    fn run_ready(&'static self) -> bool {
        let Some(task) = self.local.ready.borrow_mut().pop_front() else {
            return false;
        };
        self.resume(task);
        true
    }

    fn run_fresh(&'static self) -> bool {
        let Some(job) = self.local.fresh.pop() else {
            return false;
        };
        self.start(job);
        true
    }

    /// Runs a closure to its first park, on a stack that was just in use if there is one.
    fn start(&'static self, job: Job) {
        let default = self.shared.stack_size;
        let size = if job.options.stack_size == 0 {
            default
        } else {
            job.options.stack_size
        };
        let own = if size == default {
            self.local.free.borrow_mut().pop()
        } else {
            None
        };
        let task = match own.map_or_else(|| depot::take(size, self.shared.facts), Ok) {
            Ok(task) => task,
            Err(error) => {
                self.shared.report_refusal(&error);
                return job.run.refuse(error);
            }
        };
        task.load(job, self);
        self.local.live.set(self.local.live.get() + 1);
        self.resume(task);
    }

    fn resume(&'static self, task: TaskRef) {
        // SAFETY: the task is ours (K-1: it was in our queue alone) and this is the loop's stack.
        match unsafe { task.resume() } {
            Action::Park if task.settle() => {}
            Action::Park | Action::Yield => self.local.ready.borrow_mut().push_back(task),
            Action::Done => {
                task.clean();
                self.local.live.set(self.local.live.get() - 1);
                let mut free = self.local.free.borrow_mut();
                if task.task().stack_size == self.shared.stack_size && free.len() < FREE_MAX {
                    free.push(task);
                } else {
                    drop(free);
                    depot::put(task);
                }
            }
        }
    }

    fn flush(&self) {
        let due = self.local.flushes.take();
        for flush in due {
            flush.flush();
        }
    }

    fn take_inbox(&self) {
        let mut inbox = self.inbox.lock();
        if !inbox.is_empty() {
            self.local.ready.borrow_mut().extend(inbox.drain(..));
        }
    }

    /// A share of what came from outside, also while there is work of our own.
    fn take_injected(&self) {
        if !self.shared.injector.is_empty() {
            let fresh = &self.local.fresh;
            if let Some(job) = take(|| self.shared.injector.steal_batch_and_pop(fresh)) {
                fresh.push(job);
            }
        }
    }

    fn fire_timers(&self) {
        if self.local.timers.borrow().next().is_none() {
            return;
        }
        let now = Instant::now();
        loop {
            let due = self.local.timers.borrow_mut().pop_due(now);
            match due {
                Some(task) => task.unpark(),
                None => break,
            }
        }
    }

    fn has_work(&self) -> bool {
        !self.local.ready.borrow().is_empty()
            || !self.local.fresh.is_empty()
            || !self.local.flushes.borrow().is_empty()
    }

    /// Takes closures from outside or from another worker's queue.
    fn find_work(&self) -> bool {
        let fresh = &self.local.fresh;
        let got = take(|| self.shared.injector.steal_batch_and_pop(fresh)).or_else(|| {
            let workers = self.shared.workers();
            let others = (1..workers.len()).map(|i| workers[(self.index + i) % workers.len()]);
            others
                .into_iter()
                .find_map(|w| take(|| w.stealer.steal_batch_and_pop(fresh)))
        });
        self.shared.searching_done();
        let Some(job) = got else { return false };
        fresh.push(job);
        if fresh.len() > 1 {
            self.shared.wake_another();
        }
        true
    }

    fn sleep(&self, events: &mut [libc::epoll_event]) {
        self.shared.set_idle(self.index);
        // W-2.
        let left = !self.inbox.lock().is_empty() || self.shared.has_fresh() || self.shared.ends();
        if left {
            self.shared.clear_idle(self.index);
            return self.poll(events, Some(Duration::ZERO));
        }
        self.poll(events, self.time_to_sleep());
        self.shared.clear_idle(self.index);
    }

    fn time_to_sleep(&self) -> Option<Duration> {
        let next = self.local.timers.borrow().next();
        let end = self.shared.ends().then(|| self.shared.end_by());
        let until = next.into_iter().chain(end).min()?;
        Some(until.saturating_since(Instant::now()))
    }

    fn poll(&self, events: &mut [libc::epoll_event], timeout: Option<Duration>) {
        let count = sys::epoll_wait(self.epoll, events, timeout);
        for event in events.iter().take(usize::try_from(count).unwrap_or(0)) {
            if event.u64 != WAKE as u64 {
                reactor::dispatch(event.u64, event.events);
            }
        }
    }

    /// P5: cancels what runs, drops what has not started. True when the thread may end.
    fn wind_up(&'static self) -> bool {
        while let Some(job) = self.local.fresh.pop() {
            job.run.abandon();
        }
        self.shared.abandon_injected();
        if !self.local.told_to_end.replace(true) {
            self.each_live(TaskRef::cancel);
        }
        if self.local.live.get() == 0 {
            return true;
        }
        if Instant::now() < self.shared.end_by() {
            return false;
        }
        let count = self.local.live.get();
        self.shared.report(&format!(
            "the runtime ended with {count} coroutines still waiting"
        ));
        let mut shown = 0;
        self.each_live(|task| {
            shown += 1;
            if shown <= REPORTED_MAX {
                self.shared
                    .report(&format!("  left behind: coroutine {}", task.describe()));
            }
        });
        true
    }

    fn each_live(&'static self, mut visit: impl FnMut(TaskRef)) {
        for task in depot::all() {
            if task.is_on(self) && task.task().live.get() {
                visit(task);
            }
        }
    }

    /// Queues a task that was parked (K-1).
    pub(super) fn schedule(&'static self, task: TaskRef) {
        if here().is_some_and(|worker| ptr::eq(worker, self)) {
            self.local.ready.borrow_mut().push_back(task);
            return;
        }
        self.inbox.lock().push(task);
        self.wake_if_idle();
    }

    /// Queues a closure here. Only from this worker.
    pub(super) fn push_fresh(&self, job: Job) {
        debug_assert!(here().is_some_and(|worker| ptr::eq(worker, self)), "W-1");
        self.local.fresh.push(job);
    }

    /// Runs `flush` once at the end of this worker's turn. Only from this worker.
    pub(super) fn at_turn_end(&self, flush: Arc<dyn Flush>) {
        self.local.flushes.borrow_mut().push(flush);
    }

    pub(super) fn arm_timer(&self, at: Instant, task: TaskRef) {
        self.local.timers.borrow_mut().insert(at, task);
    }

    pub(super) fn disarm_timer(&self, task: TaskRef) {
        self.local.timers.borrow_mut().remove(task);
    }

    /// Ends a sleep, if it sleeps or is about to (W-2).
    pub(super) fn wake_if_idle(&self) {
        if self.shared.claim_idle(self.index) {
            self.wake();
        }
    }

    pub(super) fn wake(&self) {
        if let Some(fd) = *self.wake_fd.lock() {
            sys::write(fd, &1_u64.to_ne_bytes());
        }
    }

    pub(super) fn has_stealable(&self) -> bool {
        !self.stealer.is_empty()
    }

    pub(super) fn with_registry<T>(
        &self,
        f: impl FnOnce(&Registry) -> io::Result<T>,
    ) -> io::Result<T> {
        match &*self.registry.lock() {
            Some(registry) => f(registry),
            None => Err(io::Error::other("the runtime has ended")),
        }
    }

    pub(super) fn sources_changed(&self, by: isize) {
        self.sources.fetch_add(by, Ordering::Relaxed);
    }

    /// Descriptors registered here.
    pub(super) fn sources(&self) -> isize {
        self.sources.load(Ordering::Relaxed)
    }

    pub(super) fn shared(&self) -> &'static Shared {
        self.shared
    }

    /// Place in [`Shared::workers`].
    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Jobs started and not ended. Only from this worker.
    pub(super) fn live(&self) -> usize {
        self.local.live.get()
    }
}

/// Repeats a steal that lost a race.
fn take(mut steal: impl FnMut() -> Steal<Job>) -> Option<Job> {
    loop {
        match steal() {
            Steal::Success(job) => return Some(job),
            Steal::Empty => return None,
            Steal::Retry => std::hint::spin_loop(),
        }
    }
}

/// Token of the wake-up eventfd; no `Io` has index u32::MAX.
const WAKE: usize = usize::MAX;
/// Resumes between two looks at epoll.
const BUDGET: u32 = 256;
const EVENTS_MAX: usize = 256;
/// Answers wait this long at most while other calls run.
const FLUSH_AFTER: Duration = Duration::from_micros(100);
/// Idle stacks a worker keeps for itself.
const FREE_MAX: usize = 64;
/// Coroutines named when a runtime ends with some left.
const REPORTED_MAX: usize = 20;
