//! One OS thread that runs coroutines.
//!
//! A turn: ready coroutines (own, started) and fresh closures (own, then stolen) within a budget, the
//! end-of-turn flushes, the inbox, timers, then epoll: without waiting while there is work, else
//! until the next timer.
//!
//! Invariants
//! - W-1  `local` is touched by the thread that holds the worker alone: on its own stack, or in
//!   [`locally`] on that of the coroutine it runs (`seat.rs`). No borrow of it lives across a resume or a
//!   callback.
//! - W-2  A worker sets its idle bit, then looks at everything others may have left for it, then
//!   sleeps; others leave something, then look at the bit. Both in SeqCst order: one of them sees
//!   the other.
//! - W-3  Workers are never freed: a task's worker pointer stays valid.

#![expect(
    unsafe_code,
    reason = "hands out thread-bound state and resumes stacks"
)]

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, Ordering, fence};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Registry, Token};

use super::metrics::Counts;
use super::pinned::Pins;
use super::queues::{Next, Queues, Theft};
use super::seat::Seat;
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
    theft: Theft,
    /// Woken by others; moved to the ready queue once a turn. `None` once the worker has ended.
    inbox: SpinLock<Option<Vec<TaskRef>>>,
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
    /// Whether started coroutines waited when the running one was resumed; for the watchdog.
    crowded: AtomicBool,
    /// When the next timer is due, in ns; for the watchdog.
    due: AtomicU64,
    pub(super) counts: Counts,
    local: Local,
}

/// W-1.
struct Local {
    queues: Queues,
    timers: RefCell<Timers<TaskRef>>,
    /// Idle tasks with a stack of the default size.
    free: RefCell<Vec<TaskRef>>,
    flushes: RefCell<Vec<Arc<dyn Flush>>>,
    /// The list that was flushed last, empty: its memory serves the next turn.
    flushed: RefCell<Vec<Arc<dyn Flush>>>,
    /// Whether the running coroutines were told that the runtime ends.
    told_to_end: Cell<bool>,
    /// Kept for its descriptor, `epoll`.
    poll: RefCell<Option<Poll>>,
}

// SAFETY: `local` by W-1; everything else is made for sharing.
unsafe impl Sync for Worker {}
// SAFETY: as above.
unsafe impl Send for Worker {}

thread_local! {
    /// The seat of the worker's loop that this OS thread runs; `None` elsewhere, also in coroutines' own
    /// blocks.
    static ON_LOOP: Cell<Option<&'static Seat>> = const { Cell::new(None) };
}

/// Whether the caller is a worker's loop (not a coroutine).
pub(super) fn on_loop() -> bool {
    running().is_none() && ON_LOOP.get().is_some()
}

/// The worker that the caller belongs to, be it a coroutine or a loop callback.
pub(crate) fn here() -> Option<&'static Worker> {
    match running() {
        Some(task) => Some(task.worker()),
        None => ON_LOOP.get()?.worker(),
    }
}

/// Runs `f` with the caller's worker, whose local state it may use (W-1). `None`, and `f` is not run, on
/// other threads and in a coroutine whose thread has lost the worker.
pub(super) fn locally<R>(f: impl FnOnce(&'static Worker) -> R) -> Option<R> {
    let Some(task) = running() else {
        return ON_LOOP.get()?.worker().map(f);
    };
    let seat = task.seat()?;
    if !seat.enter() {
        return None;
    }
    let result = seat.worker().map(f);
    seat.exit();
    result
}

impl Worker {
    pub(super) fn new(index: usize, shared: &'static Shared) -> io::Result<Self> {
        let poll = Poll::new()?;
        let wake_fd = sys::eventfd()?;
        poll.registry()
            .register(&mut SourceFd(&wake_fd), Token(WAKE), Interest::READABLE)?;
        let queues = Queues::new();
        Ok(Self {
            index,
            shared,
            theft: queues.theft(),
            inbox: SpinLock::new(Some(Vec::new())),
            registry: SpinLock::new(Some(poll.registry().try_clone()?)),
            epoll: poll.as_raw_fd(),
            wake_fd: SpinLock::new(Some(wake_fd)),
            sources: AtomicIsize::new(0),
            pins: Pins::default(),
            crowded: AtomicBool::new(false),
            due: AtomicU64::new(Instant::NEVER.as_nanos()),
            counts: Counts::default(),
            local: Local {
                queues,
                timers: RefCell::new(Timers::new()),
                free: RefCell::default(),
                flushes: RefCell::default(),
                flushed: RefCell::default(),
                told_to_end: Cell::new(false),
                poll: RefCell::new(Some(poll)),
            },
        })
    }

    /// Turns, on the thread of `seat`, until the runtime ends and nothing is left (P5): true. False when
    /// the worker was taken from the thread.
    pub(super) fn run(&'static self, seat: &'static Seat) -> bool {
        ON_LOOP.set(Some(seat));
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        let ended = loop {
            seat.turns.bump();
            if !self.run_some(seat) {
                break false;
            }
            self.flush();
            self.take_inbox();
            self.local.queues.take_from(&self.shared.entrance);
            self.fire_timers();
            if self.shared.ends() && self.wind_up() {
                self.close();
                break true;
            }
            if self.has_work() || self.find_work() {
                self.poll(&mut events, Some(Duration::ZERO));
            } else {
                self.sleep(&mut events);
                // Whoever woke us to look for closures counts on our looking, even if other work
                // has come meanwhile.
                self.find_work();
            }
        };
        ON_LOOP.set(None);
        ended
    }

    /// Runs coroutines and closures until there are none or the budget is spent. False if the worker was
    /// lost on the way.
    fn run_some(&'static self, seat: &'static Seat) -> bool {
        let mut flushed_at = Instant::ZERO;
        for left in (0..BUDGET).rev() {
            let task = match self.local.queues.pop() {
                Some(Next::Ready(task)) => Some(task),
                Some(Next::Fresh(job)) => self.load(job),
                None => break,
            };
            if let Some(task) = task
                && !self.resume(seat, task)
            {
                return false;
            }
            // Answers of quick calls do not wait for slow ones behind them.
            if left.is_multiple_of(4) && !self.local.flushes.borrow().is_empty() {
                let now = Instant::now();
                if flushed_at == Instant::ZERO {
                    flushed_at = now;
                } else if now - flushed_at > FLUSH_AFTER {
                    self.flush();
                    flushed_at = now;
                }
            }
        }
        true
    }

    /// Puts a closure on a stack, on one that was just in use if there is one.
    fn load(&'static self, job: Job) -> Option<TaskRef> {
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
                job.run.refuse(error);
                return None;
            }
        };
        task.load(job, self);
        self.counts.started.bump();
        Some(task)
    }

    /// Runs a coroutine until it suspends. False if the worker was lost meanwhile.
    // Inlined for the sake of the return: see `Coroutine::suspend`.
    #[inline(always)]
    fn resume(&'static self, seat: &'static Seat, task: TaskRef) -> bool {
        let crowded = self.local.queues.has_ready();
        if crowded != self.crowded.load(Ordering::Relaxed) {
            self.crowded.store(crowded, Ordering::Relaxed);
        }
        // SAFETY: the task is ours (K-1: it was in our queue alone) and this is the loop's stack.
        let action = unsafe { task.resume(seat) };
        if !seat.step_in() {
            self.go_home(task, action);
            return false;
        }
        match action {
            Action::Park => {
                self.counts.parked(task.task().reason.get());
                if !task.settle() {
                    self.local.queues.push_ready(task);
                }
            }
            Action::Yield => self.local.queues.push_ready(task),
            Action::Done => {
                task.clean();
                self.counts.ended.bump();
                let mut free = self.local.free.borrow_mut();
                if task.task().stack_size == self.shared.stack_size && free.len() < FREE_MAX {
                    free.push(task);
                } else {
                    drop(free);
                    depot::put(task);
                }
            }
        }
        true
    }

    /// What a coroutine wants that has suspended on a thread which does not hold this worker any more.
    fn go_home(&'static self, task: TaskRef, action: Action) {
        // No loop of the worker any more, so no local state either (W-1).
        ON_LOOP.set(None);
        match action {
            Action::Park if task.settle() => {
                // Order against `close`: one of us sees the other, or both do.
                fence(Ordering::SeqCst);
                if self.inbox.lock().is_none() {
                    task.lose();
                }
            }
            Action::Park | Action::Yield => self.schedule(task),
            Action::Done => {
                task.clean();
                depot::put(task);
                self.counts.ended_elsewhere.add(1);
                self.wake_if_idle();
            }
        }
    }

    fn flush(&self) {
        if self.local.flushes.borrow().is_empty() {
            return;
        }
        let spare = self.local.flushed.take();
        let mut due = self.local.flushes.replace(spare);
        due.drain(..).for_each(|flush| flush.flush());
        *self.local.flushed.borrow_mut() = due;
    }

    fn take_inbox(&self) {
        if let Some(inbox) = &mut *self.inbox.lock() {
            inbox
                .drain(..)
                .for_each(|task| self.local.queues.push_ready(task));
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
        self.publish_due();
    }

    fn has_work(&self) -> bool {
        !self.local.queues.is_empty() || !self.local.flushes.borrow().is_empty()
    }

    /// Takes closures from outside or from another worker's queue.
    fn find_work(&self) -> bool {
        let queues = &self.local.queues;
        let got = queues.take_from(&self.shared.entrance) || {
            let workers = self.shared.workers();
            let mut others = (1..workers.len()).map(|i| workers[(self.index + i) % workers.len()]);
            let stolen = others.any(|other| queues.steal_from(&other.theft));
            if stolen {
                self.counts.steals.bump();
            }
            stolen
        };
        let expected = self.shared.searched();
        // What came since wakes the next: this worker may be busy with what it got.
        let more = || queues.fresh_len() > 1 || (expected && self.shared.has_fresh_for(self.index));
        if got && more() {
            self.shared.wake_another();
        }
        got
    }

    fn sleep(&self, events: &mut [libc::epoll_event]) {
        self.shared.set_idle(self.index);
        // W-2.
        let left = self.has_mail() || self.shared.has_fresh_for(self.index) || self.shared.ends();
        if !left {
            self.poll(events, self.time_to_sleep());
        }
        self.shared.clear_idle(self.index);
        self.shared.watchdog.rouse();
        if left {
            self.poll(events, Some(Duration::ZERO));
        }
    }

    fn has_mail(&self) -> bool {
        let inbox = self.inbox.lock();
        inbox.as_ref().is_some_and(|inbox| !inbox.is_empty())
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

    /// P5: cancels what runs, drops what has not started. True when the worker may end.
    fn wind_up(&'static self) -> bool {
        while let Some(job) = self.local.queues.pop_fresh() {
            job.run.abandon();
        }
        self.shared.abandon_injected();
        if !self.local.told_to_end.replace(true) {
            self.each_live(TaskRef::cancel);
        }
        let count = self.live();
        if count == 0 {
            return true;
        }
        if Instant::now() < self.shared.end_by() {
            return false;
        }
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

    /// The worker has ended: nothing is queued here any more, and who waits for what is left behind is
    /// told. What still runs, on a thread that has lost this worker, tells for itself.
    fn close(&'static self) {
        *self.inbox.lock() = None;
        fence(Ordering::SeqCst);
        let running = self.shared.running();
        self.each_live(|task| {
            if !running.contains(&task) {
                task.lose();
            }
        });
        depot::put_all(self.local.free.take());
        *self.registry.lock() = None;
        *self.local.poll.borrow_mut() = None;
        if let Some(fd) = self.wake_fd.lock().take() {
            sys::close(fd);
        }
    }

    fn each_live(&'static self, mut visit: impl FnMut(TaskRef)) {
        for task in depot::all() {
            if task.is_on(self) && task.home().is_some() {
                visit(task);
            }
        }
    }

    /// Queues a task that was parked (K-1).
    pub(super) fn schedule(&'static self, task: TaskRef) {
        let queued = locally(|worker| {
            let own = ptr::eq(worker, self);
            if own {
                self.local.queues.push_ready(task);
            }
            own
        });
        if queued == Some(true) {
            return;
        }
        self.counts.from_elsewhere.add(1);
        match &mut *self.inbox.lock() {
            Some(inbox) => inbox.push(task),
            None => return task.lose(),
        }
        self.wake_if_idle();
    }

    /// Queues a closure here. Inside [`locally`].
    pub(super) fn push_fresh(&self, job: Job) {
        self.local.queues.push_fresh(job);
    }

    /// Runs `flush` once at the end of this worker's turn. Inside [`locally`].
    pub(super) fn at_turn_end(&self, flush: Arc<dyn Flush>) {
        self.local.flushes.borrow_mut().push(flush);
    }

    /// Inside [`locally`].
    pub(super) fn arm_timer(&self, at: Instant, task: TaskRef) {
        self.local.timers.borrow_mut().insert(at, task);
        self.publish_due();
    }

    /// Inside [`locally`].
    pub(super) fn disarm_timer(&self, task: TaskRef) {
        self.local.timers.borrow_mut().remove(task);
        self.publish_due();
    }

    fn publish_due(&self) {
        let next = self.local.timers.borrow().next();
        let due = next.unwrap_or(Instant::NEVER).as_nanos();
        self.due.store(due, Ordering::Relaxed);
    }

    /// Whether anything here waits for the running coroutine to come back. From any thread; right about
    /// a moment ago.
    pub(super) fn is_waited_for(&self, now: Instant) -> bool {
        self.crowded.load(Ordering::Relaxed)
            || self.due.load(Ordering::Relaxed) <= now.as_nanos()
            || !self.theft.is_empty()
            || !self.shared.entrance.is_empty()
            || self.has_mail()
            || sys::is_readable(self.epoll)
    }

    /// Ends a sleep, if it sleeps or is about to (W-2).
    pub(super) fn wake_if_idle(&self) {
        if self.shared.claim_idle(self.index) {
            self.wake();
        }
    }

    pub(super) fn wake(&self) {
        if let Some(fd) = *self.wake_fd.lock() {
            self.counts.wakes.add(1);
            sys::write(fd, &1_u64.to_ne_bytes());
        }
    }

    pub(super) fn has_stealable(&self) -> bool {
        !self.theft.is_empty()
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

    pub(super) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Jobs started and not ended. Exact for the holder, right about a moment ago for others.
    pub(super) fn live(&self) -> u64 {
        self.counts.live()
    }

    /// Place in [`Shared::workers`].
    pub(super) fn index(&self) -> usize {
        self.index
    }
}

/// A closure that goes on a stack of this worker at the end of the turn, where nobody can steal it.
pub(super) struct Adoption(SpinLock<Option<Job>>);

impl Adoption {
    pub(super) fn new(job: Job) -> Arc<Self> {
        Arc::new(Self(SpinLock::new(Some(job))))
    }
}

impl Flush for Adoption {
    fn flush(&self) {
        let job = self.0.lock().take();
        if let (Some(job), Some(worker)) = (job, here())
            && let Some(task) = worker.load(job)
        {
            worker.local.queues.push_ready(task);
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
