//! A coroutine as the scheduler sees it: its state, its way of waking, its deadline.
//!
//! A `Task` is made for one stack, used for one job after another and never freed; while it idles its
//! coroutine may be ended to give the memory back (`depot.rs`). Waking one that has moved on to another
//! job is a spurious wake-up there, which every waiter has to bear anyway.
//!
//! Invariants
//! - K-1  A task is in at most one queue: only the waker that undoes a park queues it (`state.rs`).
//! - K-2  `PARKED` is set by the worker, after the switch: whoever sees it may queue the task, and it
//!   will be resumed on a stack that has been left for good.
//! - K-3  All `Cell`s belong to the holder of the worker that runs the task, and to the task while it runs.

#![expect(unsafe_code, reason = "tasks live for ever and are entered by address")]

use std::cell::{Cell, UnsafeCell};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::RawFd;
use std::panic::Location;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering, fence};

use super::directory::{self, Listing};
use super::local::Locals;
use super::queues::Priority;
use super::seat::Seat;
use super::shared::Shared;
use super::state::State;
use super::timer::{NOWHERE, Owner};
use super::worker::{Worker, locally};
use crate::base::sys;
use crate::base::time::Instant;
use crate::coroutine::trace::Registers;
use crate::coroutine::{CACHE_LINE, Class, Coroutine, Own, Slot, identity::Facts, prefetch};

/// Something to run once, on a coroutine or on a thread of the blocking pool.
pub(crate) trait Run: Send + Sync {
    /// Does the work. Never unwinds.
    fn run(self: Arc<Self>);
    /// Called instead of `run` when the runtime ends first.
    fn abandon(self: Arc<Self>);
    /// Called instead of `run` when the system gives no stack or thread to run it on.
    fn refuse(self: Arc<Self>, why: io::Error) {
        drop(why);
        self.abandon();
    }
}

/// Who is to be told when a coroutine will never end.
pub(super) trait Lose: Sync {
    /// The runtime has ended and left the coroutine behind. May be called twice.
    fn lose(&self);
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
    pub(crate) priority: Priority,
    pub(crate) spawned_at: &'static Location<'static>,
}

/// Why a coroutine waits; shown by diagnostics, no part of any decision.
// Debuggers read it: see `directory.rs`.
#[repr(u32)]
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
    pub(super) listing: Listing,
    pub(super) state: State,
    /// Asked to end; sticky until the job's end.
    cancelled: AtomicBool,
    /// The worker that runs the current job; null before the first.
    worker: AtomicPtr<Worker>,
    /// The thread that runs it, or last ran it.
    seat: Cell<Option<&'static Seat>>,
    slot: Slot,
    /// `None` before the first job, and after [`TaskRef::retire`].
    coroutine: UnsafeCell<Option<Coroutine>>,
    /// `None` = the thread-locals are the worker's.
    facts: Option<&'static Facts>,
    job: Cell<Option<Arc<dyn Run>>>,
    pub(super) action: Cell<Action>,
    pub(super) reason: Cell<Reason>,
    /// Of the innermost scope; [`Instant::NEVER`] = none.
    deadline: Cell<Instant>,
    timer: Cell<u32>,
    priority: Cell<Priority>,
    /// Usable bytes of the stack.
    pub(super) stack_size: usize,
    /// Whether the current job leaves its thread-locals to the next.
    pub(super) reuse_thread_locals: Cell<bool>,
    /// Whether a job is on this task (running or suspended).
    pub(super) live: AtomicBool,
    /// Grows with each resume: who looks at a waiting task from elsewhere sees whether it ran meanwhile.
    resumes: AtomicU32,
    /// Where it last suspended: its frames while it is suspended.
    pub(super) suspended_at: Cell<Registers>,
    /// Whether the stack was trimmed since the last job.
    pub(super) trimmed: Cell<bool>,
    /// Lies in a frame of the coroutine, see [`TaskRef::watched`].
    on_loss: Cell<Option<NonNull<dyn Lose>>>,
    /// The job's signal mask where that differs from its worker's, and the worker's.
    signal_mask: Cell<Option<(u64, u64)>>,
    /// Whether it must not park now: see [`without_hooks`].
    unhooked: Cell<bool>,
    /// Touched by the running coroutine alone.
    locals: Locals,
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

/// The running coroutine if it may park; `None` on OS threads and on the worker's own stack, in
/// [`without_hooks`], and (P2) while a thread that coroutines share is panicking: its panic count must
/// not meet another coroutine.
#[inline]
pub(crate) fn current() -> Option<TaskRef> {
    running().filter(|task| {
        !(task.0.unhooked.get() || (task.shares_thread() && std::thread::panicking()))
    })
}

/// Runs `f` with every waiting call in it going to the kernel directly, as on an OS thread: the worker
/// waits with it, and what another coroutine of this worker is to bring never comes.
///
/// For a library whose calls must not be replaced, and for calls known to be short. This crate's own
/// primitives wait in the kernel too while it lasts.
pub fn without_hooks<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(Option<(TaskRef, bool)>);
    impl Drop for Restore {
        fn drop(&mut self) {
            if let Some((task, before)) = self.0 {
                task.0.unhooked.set(before);
            }
        }
    }
    let task = running();
    let _restore = Restore(task.map(|task| (task, task.0.unhooked.replace(true))));
    f()
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

/// Runs `f` as a plain thread: nothing in it parks. For signal handlers, whatever they interrupt; one
/// may leave `f` by a jump, and the coroutine stays a plain thread then.
#[cfg(feature = "hooks")]
pub(crate) fn without_current(f: impl FnOnce()) {
    let interrupted = CURRENT.replace(ptr::null());
    f();
    CURRENT.set(interrupted);
}

/// The thread pointer of the thread that runs the calling coroutine, where that is another's.
#[cfg(feature = "hooks")]
pub(crate) fn thread_below() -> Option<usize> {
    let task = running().filter(|task| !task.shares_thread())?;
    Some(task.seat()?.thread_pointer())
}

/// A task, to be woken from anywhere. Stays valid for ever (see the page above).
#[derive(Clone, Copy)]
pub(crate) struct TaskRef(&'static Task);

impl TaskRef {
    /// A task with a new slot. It needs to be furnished, always by the same `facts`, before it is loaded.
    pub(super) fn create(class: Class, facts: Option<&'static Facts>) -> io::Result<Self> {
        let slot = Slot::take(class)?;
        let stack_size = slot.len();
        let task: &'static Task = Box::leak(Box::new(Task {
            listing: Listing::of(&slot),
            state: State::new(),
            cancelled: AtomicBool::new(false),
            worker: AtomicPtr::new(ptr::null_mut()),
            slot,
            seat: Cell::new(None),
            coroutine: UnsafeCell::new(None),
            facts,
            job: Cell::new(None),
            action: Cell::new(Action::Done),
            reason: Cell::new(Reason::Other("new")),
            deadline: Cell::new(Instant::NEVER),
            timer: Cell::new(NOWHERE),
            priority: Cell::new(Priority::Normal),
            stack_size,
            reuse_thread_locals: Cell::new(false),
            live: AtomicBool::new(false),
            resumes: AtomicU32::new(0),
            suspended_at: Cell::default(),
            trimmed: Cell::new(true),
            on_loss: Cell::new(None),
            signal_mask: Cell::new(None),
            unhooked: Cell::new(false),
            locals: Locals::new(),
        }));
        directory::list(task);
        Ok(Self(task))
    }

    /// Makes the coroutines of `tasks`, which have none and are the caller's alone; each gets an identity
    /// of its own if there are `facts` to make them by. How many of the first ones got theirs, and why
    /// the others did not.
    pub(super) fn furnish(
        tasks: &[Self],
        facts: Option<&'static Facts>,
    ) -> (usize, Option<io::Error>) {
        let Some(facts) = facts else {
            tasks.iter().for_each(|task| task.install(None));
            return (tasks.len(), None);
        };
        let slots: Vec<&Slot> = tasks.iter().map(|task| &task.0.slot).collect();
        let (owns, error) = Own::make(facts, &slots);
        let count = owns.len();
        for (task, own) in tasks.iter().zip(owns) {
            task.install(Some(own));
        }
        (count, error)
    }

    fn install(self, own: Option<Own>) {
        let address = ptr::from_ref(self.0) as usize;
        let coroutine = Coroutine::new(&self.0.slot, own, main_loop, address, publish);
        // SAFETY: nobody else enters or looks into a task that is not loaded.
        unsafe { *self.0.coroutine.get() = Some(coroutine) };
    }

    /// Gives back what only deep use has touched of an idle task's stack. The task is the caller's alone.
    pub(super) fn trim(self) {
        debug_assert!(
            !self.0.live.load(Ordering::Relaxed),
            "only an idle task is trimmed"
        );
        // SAFETY: idle tasks are suspended in `main_loop`, or have not begun.
        unsafe { self.coroutine().trim(&self.0.slot) };
        self.0.trimmed.set(true);
    }

    /// Ends the coroutine of an idle task, which is the caller's alone, and gives its memory back. Not on
    /// a worker: destructors of thread-locals that were left to the next job run here, as on the calling
    /// thread.
    pub(super) fn retire(self) {
        debug_assert!(
            !self.0.live.load(Ordering::Relaxed),
            "only an idle task is retired"
        );
        // SAFETY: the task is idle and the caller's.
        let coroutine = unsafe { &mut *self.0.coroutine.get() };
        if let Some(left) = coroutine
            && !self.shares_thread()
            && self.0.reuse_thread_locals.replace(false)
        {
            // SAFETY: suspended in `main_loop`, which finds no job.
            unsafe { left.resume() };
        }
        if let Some(ended) = coroutine.take() {
            // SAFETY: `main_loop` holds nothing between two jobs; the destructors have run.
            unsafe { ended.end(&self.0.slot) };
        }
    }

    /// Puts a job on an idle task.
    pub(super) fn load(self, job: Job, worker: &'static Worker) {
        let label = self.0.slot.label();
        label.name.set(job.options.name);
        label.spawned_at.set(Some(job.options.spawned_at));
        self.0
            .reuse_thread_locals
            .set(job.options.reuse_thread_locals);
        self.0.priority.set(job.options.priority);
        self.0.job.set(Some(job.run));
        self.0.deadline.set(Instant::NEVER);
        self.0.trimmed.set(false);
        self.0.signal_mask.set(None);
        self.0.cancelled.store(false, Ordering::Relaxed);
        self.0.state.reset();
        self.0
            .worker
            .store(ptr::from_ref(worker).cast_mut(), Ordering::Release);
        // Release pairs with the Acquire in `home`: who sees the job sees what was set above.
        self.0.live.store(true, Ordering::Release);
    }

    /// Runs the task until it suspends; says what it wants. The thread may have lost the worker then.
    ///
    /// # Safety
    /// - Called in the loop of the task's worker, on the thread of `seat`, with the task not running.
    #[inline]
    pub(super) unsafe fn resume(self, seat: &'static Seat) -> Action {
        self.0.state.begin();
        let resumes = self.0.resumes.load(Ordering::Relaxed);
        self.0
            .resumes
            .store(resumes.wrapping_add(1), Ordering::Relaxed);
        // Pairs with the fence in `glance`: who sees what we are about to change sees the new number.
        fence(Ordering::Release);
        // SAFETY: a loaded task is furnished; the caller is the only one who runs it.
        let coroutine = unsafe { (*self.0.coroutine.get()).as_mut().unwrap_unchecked() };
        self.0.seat.set(Some(seat));
        let shared = self.shares_thread();
        if shared {
            CURRENT.set(self.0);
        }
        seat.step_out(self.0);
        if let Some((own, _)) = self.0.signal_mask.get() {
            sys::set_signal_mask(own);
        }
        // SAFETY: the caller's promise.
        unsafe { coroutine.resume() };
        if let Some((_, workers)) = self.0.signal_mask.get() {
            sys::set_signal_mask(workers);
        }
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
        self.0.live.store(false, Ordering::Release);
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
        if timed && locally(|worker| worker.arm_timer(until, self)).is_none() {
            // On a thread that has lost the worker. On the way home a wake-up may have been consumed:
            // the caller has to look again before it waits.
            return self.yield_now();
        }
        self.leave(Action::Park);
        if timed {
            while locally(|worker| worker.disarm_timer(self)).is_none() {
                self.yield_now();
            }
        }
    }

    /// Runs `f`, the job itself; `lost` is told if the coroutine is left behind in it.
    pub(super) fn watched<R>(self, lost: &dyn Lose, f: impl FnOnce() -> R) -> R {
        struct Clear(&'static Task);
        impl Drop for Clear {
            fn drop(&mut self) {
                self.0.on_loss.set(None);
            }
        }
        let lost: NonNull<dyn Lose + '_> = NonNull::from(lost);
        // SAFETY: only the lifetime changes. `lose` is called on a suspended coroutine that never runs
        // again, so this frame, and what `lost` borrows, is still there; `Clear` ends it otherwise.
        let lost =
            unsafe { std::mem::transmute::<NonNull<dyn Lose + '_>, NonNull<dyn Lose>>(lost) };
        self.0.on_loss.set(Some(lost));
        let _clear = Clear(self.0);
        f()
    }

    /// The coroutine is suspended and will never run again: who waits for its end is told.
    pub(super) fn lose(self) {
        if let Some(lost) = self.0.on_loss.get() {
            // SAFETY: see `watched`.
            unsafe { lost.as_ref() }.lose();
        }
    }

    /// Drops the coroutine-locals, and ends what the coroutine has as a thread if the job does not leave that
    /// to the next.
    pub(super) fn end_locals(self) {
        self.0.locals.end();
        match self.0.facts {
            Some(facts) if !self.0.reuse_thread_locals.get() => {
                facts.end_thread();
            }
            _ => {}
        }
    }

    /// Goes to the end of the worker's ready queue.
    pub(super) fn yield_now(self) {
        self.leave(Action::Yield);
    }

    // Inlined for the sake of `suspend`.
    #[inline(always)]
    fn leave(self, action: Action) {
        self.0.action.set(action);
        // P4: an own block has an errno of its own.
        let errno = self.shares_thread().then(sys::errno);
        self.0.suspended_at.set(Registers::here());
        // Not the last thing here: the frame of these registers has to stay.
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

    /// The running coroutine has set its thread's signal mask to `now`; it was `before`.
    #[cfg(feature = "hooks")]
    pub(crate) fn changed_signal_mask(self, before: u64, now: u64) {
        let workers = self.0.signal_mask.get().map_or(before, |(_, w)| w);
        let differs = now != workers;
        self.0.signal_mask.set(differs.then_some((now, workers)));
    }

    /// Where it lies: a number that no other task has.
    #[cfg(feature = "hooks")]
    pub(crate) fn address(self) -> usize {
        ptr::from_ref(self.0).addr()
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

    pub(super) fn priority(self) -> Priority {
        self.0.priority.get()
    }

    /// The thread that runs the task. Only for the running coroutine.
    pub(super) fn seat(self) -> Option<&'static Seat> {
        self.0.seat.get()
    }

    pub(super) fn worker(self) -> &'static Worker {
        // SAFETY: set by `load` before the task could run or park; workers live for ever.
        unsafe { &*self.0.worker.load(Ordering::Acquire) }
    }

    /// Its coroutine-locals. Only for the running coroutine.
    pub(super) fn locals(self) -> &'static Locals {
        &self.0.locals
    }

    /// Whether the task's current (or last) job runs on `worker`.
    pub(super) fn is_on(self, worker: &Worker) -> bool {
        ptr::eq(self.0.worker.load(Ordering::Acquire), worker)
    }

    pub(super) fn task(self) -> &'static Task {
        self.0
    }

    pub(super) fn new(task: &'static Task) -> Self {
        Self(task)
    }

    /// Name, place of birth and reason to wait of the current job. Only from the task's worker.
    pub(super) fn describe(self) -> String {
        let reason = self.0.reason.get();
        format!("{}, waiting for {reason:?}", self.name_and_place())
    }

    /// The runtime of the current job; `None` if there is none. From anywhere.
    pub(super) fn home(self) -> Option<&'static Shared> {
        let live = self.0.live.load(Ordering::Acquire);
        live.then(|| self.worker().shared())
    }

    /// Shows a suspended task to `look`, from any thread. `None` if it runs, has no job, or ran while
    /// `look` did: what that made of it is dropped then.
    pub(super) fn glance<R>(self, look: impl FnOnce(&Glance) -> R) -> Option<R> {
        self.home()?;
        let before = self.0.resumes.load(Ordering::Acquire);
        let label = self.0.slot.label();
        let seen = (
            peek(&self.0.reason),
            peek(&label.name),
            peek(&label.spawned_at),
            peek(&self.0.suspended_at),
        );
        // The copies above, and what `look` will read, come before the second look at the number.
        let unchanged = || {
            fence(Ordering::Acquire);
            self.0.resumes.load(Ordering::Relaxed) == before && self.home().is_some()
        };
        let running = self.home()?.seat_of(self).is_some();
        if running || !unchanged() {
            return None;
        }
        // SAFETY: nothing has resumed the task since the first look, and before it all was set by `load`
        // or by the coroutine itself: these are whole values.
        let glance = unsafe {
            Glance {
                standing: if self.0.state.is_parked() {
                    Standing::Waiting
                } else {
                    Standing::Ready
                },
                reason: seen.0.assume_init(),
                name: seen.1.assume_init(),
                spawned_at: seen.2.assume_init(),
                at: seen.3.assume_init(),
                stack: self.stack(),
            }
        };
        let result = look(&glance);
        unchanged().then_some(result)
    }

    /// The addresses of its stack.
    pub(super) fn stack(self) -> Range<usize> {
        self.0.slot.limit()..self.0.slot.limit() + self.0.slot.len()
    }

    /// Name and place of birth of the current job. Where the task may end meanwhile, only as good as
    /// that.
    pub(super) fn name_and_place(self) -> String {
        let label = self.0.slot.label();
        name_and_place(label.name.get(), label.spawned_at.get())
    }

    /// The task will be resumed before long: see [`Coroutine::prefetch`]. Only from the task's worker.
    #[inline]
    pub(super) fn prefetch(self) {
        self.coroutine().prefetch(self.0.suspended_at.get().sp);
    }

    /// The task will be asked to prefetch before long.
    #[inline]
    pub(super) fn prefetch_itself(self) {
        let address = ptr::from_ref(self.0).addr();
        let lines = size_of::<Task>().div_ceil(CACHE_LINE);
        (0..lines).for_each(|line| prefetch(address + line * CACHE_LINE));
    }

    pub(super) fn slot(self) -> &'static Slot {
        &self.0.slot
    }

    fn coroutine(self) -> &'static Coroutine {
        // SAFETY: callers hold a furnished task; shared access only, as `resume`'s exclusive one has
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

/// How a suspended coroutine stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Waits for its turn.
    Ready,
    /// Waits for its reason.
    Waiting,
}

/// What can be seen of a suspended coroutine from elsewhere.
pub(super) struct Glance {
    pub(super) standing: Standing,
    pub(super) reason: Reason,
    name: &'static str,
    spawned_at: Option<&'static Location<'static>>,
    pub(super) at: Registers,
    stack: Range<usize>,
}

impl Glance {
    pub(super) fn who(&self) -> String {
        name_and_place(self.name, self.spawned_at)
    }

    /// The word at an address of the stack.
    pub(super) fn read(&self, address: usize) -> Option<usize> {
        let word = address..address.checked_add(size_of::<usize>())?;
        let inside = word.start >= self.stack.start && word.end <= self.stack.end;
        // SAFETY: stacks are never unmapped. What another thread writes there at the same time makes a
        // wrong word, and `glance` drops what is made of it.
        inside.then(|| unsafe { ptr::with_exposed_provenance::<usize>(address).read_unaligned() })
    }
}

fn name_and_place(name: &str, spawned_at: Option<&Location<'_>>) -> String {
    let name = if name.is_empty() { "unnamed" } else { name };
    let place = spawned_at.map_or_else(String::new, |place| format!(" spawned at {place}"));
    format!("'{name}'{place}")
}

/// A copy of what another thread may be changing: whole only if it did not.
fn peek<T: Copy>(cell: &Cell<T>) -> MaybeUninit<T> {
    // SAFETY: the place is valid; any bytes make a `MaybeUninit`.
    unsafe { cell.as_ptr().cast::<MaybeUninit<T>>().read_volatile() }
}

/// First thing on a new stack: the way back is known before the job runs.
fn publish(address: usize, yielder: *const corosensei::Yielder<(), ()>) {
    task_at(address).coroutine().set_yielder(yielder);
}

/// What every coroutine runs: one job after another.
fn main_loop(address: usize) -> Infallible {
    let task = task_at(address);
    loop {
        let job = task.0.job.take();
        if !task.shares_thread() {
            // Without a job this is the farewell of `retire`: a plain thread, which never parks.
            CURRENT.set(job.as_ref().map_or(ptr::null(), |_| ptr::from_ref(task.0)));
        }
        if let Some(job) = job {
            job.run();
        }
        // The job has done so before its end was told; this is for what was dropped since.
        task.end_locals();
        task.leave(Action::Done);
    }
}

fn task_at(address: usize) -> TaskRef {
    // SAFETY: the address of a leaked task, passed through `Coroutine::new`.
    TaskRef(unsafe { &*(address as *const Task) })
}
