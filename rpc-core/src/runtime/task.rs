//! A coroutine as the scheduler sees it: its state, its way of waking, its deadline.
//!
//! A `Task` is made with its stack, used for one job after another and never freed. Waking one that
//! has moved on to another job is a spurious wake-up there, which every waiter has to bear anyway.
//!
//! Invariants
//! - K-1  A task is in at most one queue: only the waker that undoes a park queues it (`state.rs`).
//! - K-2  `PARKED` is set by the worker, after the switch: whoever sees it may queue the task, and it
//!   will be resumed on a stack that has been left for good.
//! - K-3  All `Cell`s belong to the worker that runs the task, and to the task while it runs.

#![expect(unsafe_code, reason = "tasks live for ever and are entered by address")]

use std::cell::{Cell, UnsafeCell};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use super::state::State;
use super::timer::{NOWHERE, Owner};
use super::worker::Worker;
use crate::base::sys;
use crate::base::time::Instant;
use crate::coroutine::{Coroutine, identity::Facts};

/// Something to run once, on a coroutine or on a thread of the blocking pool.
pub(crate) trait Run: Send + Sync {
    /// Does the work. Never unwinds.
    fn run(self: Arc<Self>);
    /// Called instead of `run` when the runtime ends first or no stack can be had.
    fn abandon(self: Arc<Self>);
}

/// A closure that has not started, and how it wants to run.
pub(crate) struct Job {
    pub(crate) run: Arc<dyn Run>,
    pub(crate) options: SpawnOptions,
}

/// How a coroutine is made; see [`super::Builder`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpawnOptions {
    /// Empty = unnamed.
    pub(crate) name: &'static str,
    /// Usable bytes; 0 = the runtime's default.
    pub(crate) stack_size: usize,
    pub(crate) reuse_thread_locals: bool,
    pub(crate) spawned_at: &'static std::panic::Location<'static>,
}

/// Why a coroutine waits; shown by diagnostics, no part of any decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A descriptor is to become ready.
    Io(RawFd, super::reactor::Dir),
    /// A futex word at this address is to change.
    Futex(usize),
    /// A point in time.
    Sleep,
    /// A mutex, condition variable or semaphore of ours.
    Lock,
    /// A channel of ours.
    Channel,
    /// Another coroutine's end.
    Join,
    /// The answer to a remote call.
    Call,
    /// Anything else.
    Other(&'static str),
}

/// What a coroutine wants of its worker when it suspends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Park,
    Yield,
    Done,
}

pub(crate) struct Task {
    state: State,
    /// Asked to end; sticky until the job's end.
    cancelled: AtomicBool,
    /// The worker that runs the current job; null before the first.
    worker: AtomicPtr<Worker>,
    coroutine: UnsafeCell<Option<Coroutine>>,
    /// `None` = the thread-locals are the worker's.
    facts: Option<&'static Facts>,
    job: Cell<Option<Job>>,
    pub(super) action: Cell<Action>,
    pub(super) reason: Cell<Reason>,
    /// Of the innermost scope; [`Instant::NEVER`] = none.
    deadline: Cell<Instant>,
    timer: Cell<u32>,
    /// Usable bytes of the stack.
    pub(super) stack_size: usize,
    /// Whether the current job leaves its thread-locals to the next.
    pub(super) reuse_thread_locals: Cell<bool>,
    /// Whether a job is on this task (running or suspended).
    pub(super) live: Cell<bool>,
}

// SAFETY: `Cell`s and the coroutine are touched only by the thread that K-3 names.
unsafe impl Sync for Task {}
// SAFETY: as above; a task is never owned by value.
unsafe impl Send for Task {}

thread_local! {
    /// The coroutine whose thread block this is; null on OS threads (P7). Under shared identity the
    /// worker's thread sets it for as long as it runs the coroutine. Needs no set-up and no destructor:
    /// hooks read it before `main` and after thread-locals are gone.
    static CURRENT: Cell<*const Task> = const { Cell::new(ptr::null()) };
}

/// The running coroutine if it may park; `None` on OS threads and on the worker's own stack, and (P2)
/// while a thread that coroutines share is panicking: its panic count must not meet another coroutine.
#[inline]
pub(crate) fn current() -> Option<TaskRef> {
    running().filter(|task| !(task.shares_thread() && std::thread::panicking()))
}

/// The running coroutine, whether or not it may park.
#[inline]
pub(crate) fn running() -> Option<TaskRef> {
    // SAFETY: only tasks are stored, and tasks live for ever.
    unsafe { CURRENT.get().as_ref() }.map(TaskRef)
}

/// After `fork` the child has one thread and no workers: the forking coroutine becomes a plain thread.
#[cfg_attr(
    not(feature = "hooks"),
    expect(dead_code, reason = "only fork's hook calls it")
)]
pub(crate) fn forget_current() {
    CURRENT.set(ptr::null());
}

/// A task, to be woken from anywhere. Stays valid for ever (see the page above).
#[derive(Clone, Copy)]
pub(crate) struct TaskRef(&'static Task);

impl TaskRef {
    /// A task with a new stack of `stack_size` usable bytes, and an identity of its own if there are
    /// `facts` to make one by.
    pub(super) fn create(stack_size: usize, facts: Option<&'static Facts>) -> io::Result<Self> {
        let task: &'static Task = Box::leak(Box::new(Task {
            state: State::new(),
            cancelled: AtomicBool::new(false),
            worker: AtomicPtr::new(ptr::null_mut()),
            coroutine: UnsafeCell::new(None),
            facts,
            job: Cell::new(None),
            action: Cell::new(Action::Done),
            reason: Cell::new(Reason::Other("new")),
            deadline: Cell::new(Instant::NEVER),
            timer: Cell::new(NOWHERE),
            stack_size,
            reuse_thread_locals: Cell::new(false),
            live: Cell::new(false),
        }));
        let address = ptr::from_ref(task) as usize;
        let coroutine = Coroutine::new(stack_size, facts, main_loop, address, publish)?;
        // SAFETY: nobody else knows the task yet.
        unsafe { *task.coroutine.get() = Some(coroutine) };
        Ok(Self(task))
    }

    /// Puts a job on an idle task.
    pub(super) fn load(self, job: Job, worker: &'static Worker) {
        let label = self.coroutine().label();
        label.name.set(job.options.name);
        label.spawned_at.set(Some(job.options.spawned_at));
        self.0
            .reuse_thread_locals
            .set(job.options.reuse_thread_locals);
        self.0.job.set(Some(job));
        self.0.deadline.set(Instant::NEVER);
        self.0.live.set(true);
        self.0.cancelled.store(false, Ordering::Relaxed);
        self.0.state.reset();
        self.0
            .worker
            .store(ptr::from_ref(worker).cast_mut(), Ordering::Release);
    }

    /// Runs the task until it suspends; says what it wants.
    ///
    /// # Safety
    /// - Called by the task's worker, on the worker's own stack, with the task not running.
    #[inline]
    pub(super) unsafe fn resume(self) -> Action {
        self.0.state.begin();
        // SAFETY: set in `create`; the caller is the only one who runs it.
        let coroutine = unsafe { (*self.0.coroutine.get()).as_mut().unwrap_unchecked() };
        let shared = self.shares_thread();
        if shared {
            CURRENT.set(self.0);
        }
        // SAFETY: the caller's promise.
        unsafe { coroutine.resume() };
        if shared {
            CURRENT.set(ptr::null());
        }
        self.0.action.get()
    }

    /// K-2: after the switch. False if a wake-up came meanwhile: queue it.
    #[inline]
    pub(super) fn settle(self) -> bool {
        self.0.state.settle()
    }

    /// After the job: thread-locals as for a new thread, unless the job left them to the next.
    pub(super) fn clean(self) {
        self.0.live.set(false);
        if !self.0.reuse_thread_locals.get() {
            // SAFETY: the job has returned, its destructors have run, the task is suspended.
            unsafe { self.coroutine().renew_thread_locals() };
        }
    }

    /// Lets the coroutine go on (or its next `park` return at once). From any thread.
    pub(crate) fn unpark(self) {
        if self.0.state.notify() {
            self.worker().schedule(self);
        }
    }

    /// Suspends the running coroutine until `unpark` or `until`. May return for no reason.
    pub(super) fn park(self, reason: Reason, until: Instant) {
        let task = self.0;
        if task.state.take() {
            return;
        }
        task.reason.set(reason);
        let timed = !until.is_never();
        if timed {
            self.worker().arm_timer(until, self);
        }
        self.leave(Action::Park);
        if timed {
            self.worker().disarm_timer(self);
        }
    }

    /// Goes to the end of the worker's ready queue.
    pub(super) fn yield_now(self) {
        self.leave(Action::Yield);
    }

    fn leave(self, action: Action) {
        self.0.action.set(action);
        // P4: an own block has an errno of its own.
        let errno = self.shares_thread().then(sys::errno);
        // SAFETY: only the running coroutine calls this, on its own stack.
        unsafe { self.coroutine().suspend() };
        if let Some(errno) = errno {
            sys::set_errno(errno);
        }
    }

    /// Whether its thread-locals are those of its worker's thread.
    #[inline]
    pub(crate) fn shares_thread(self) -> bool {
        self.0.facts.is_none()
    }

    /// Asks the job to end: its hooked calls and our primitives fail with "cancelled". Sticky.
    pub(crate) fn cancel(self) {
        self.0.cancelled.store(true, Ordering::Release);
        self.unpark();
    }

    /// Whether [`TaskRef::cancel`] was called for the current job.
    pub(crate) fn cancelled(self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// The innermost scope's deadline; [`Instant::NEVER`] if none. Only for the running coroutine.
    pub(crate) fn deadline(self) -> Instant {
        self.0.deadline.get()
    }

    /// Replaces the deadline, returns the old one. Only for the running coroutine.
    pub(crate) fn set_deadline(self, deadline: Instant) -> Instant {
        self.0.deadline.replace(deadline)
    }

    pub(super) fn worker(self) -> &'static Worker {
        // SAFETY: set by `load` before the task could run or park; workers live for ever.
        unsafe { &*self.0.worker.load(Ordering::Acquire) }
    }

    /// Whether the task's current (or last) job runs on `worker`.
    pub(super) fn is_on(self, worker: &Worker) -> bool {
        ptr::eq(self.0.worker.load(Ordering::Acquire), worker)
    }

    pub(super) fn task(self) -> &'static Task {
        self.0
    }

    /// Name, place of birth and reason to wait of the current job. Only from the task's worker.
    pub(super) fn describe(self) -> String {
        let reason = self.0.reason.get();
        format!("{}, waiting for {reason:?}", self.name_and_place())
    }

    /// Name and place of birth of the current job. Only from the task's worker.
    pub(super) fn name_and_place(self) -> String {
        let label = self.coroutine().label();
        let name = if label.name.get().is_empty() {
            "unnamed"
        } else {
            label.name.get()
        };
        let place = label
            .spawned_at
            .get()
            .map_or_else(String::new, |p| format!(" spawned at {p}"));
        format!("'{name}'{place}")
    }

    fn coroutine(self) -> &'static Coroutine {
        // SAFETY: set in `create`, never removed; shared access only, as `resume`'s exclusive one has
        // ended or belongs to our own frame below.
        unsafe { (*self.0.coroutine.get()).as_ref().unwrap_unchecked() }
    }
}

impl Owner for TaskRef {
    fn position(self) -> u32 {
        self.0.timer.get()
    }

    fn set_position(self, position: u32) {
        self.0.timer.set(position);
    }
}

impl PartialEq for TaskRef {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.0, other.0)
    }
}

impl fmt::Debug for TaskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "coroutine at {:p}", self.0)
    }
}

/// First thing on a new stack: the way back is known before the job runs.
fn publish(address: usize, yielder: *const corosensei::Yielder<(), ()>) {
    task_at(address).coroutine().set_yielder(yielder);
}

/// What every coroutine runs: one job after another.
fn main_loop(address: usize) -> Infallible {
    let task = task_at(address);
    loop {
        if !task.shares_thread() {
            CURRENT.set(task.0);
        }
        if let Some(job) = task.0.job.take() {
            job.run.run();
        }
        match task.0.facts {
            Some(facts) if !task.0.reuse_thread_locals.get() => {
                facts.run_thread_local_destructors()
            }
            _ => {}
        }
        task.leave(Action::Done);
    }
}

fn task_at(address: usize) -> TaskRef {
    // SAFETY: the address of a leaked task, passed through `Coroutine::new`.
    TaskRef(unsafe { &*(address as *const Task) })
}
