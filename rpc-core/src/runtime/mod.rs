//! Floor 2: workers, the scheduler, waiting.
//!
//! Knows: coroutines, queues, timers, readiness.
//! Does not know: sockets, protocols, libc's names.
//!
//! Rules of the scheduler
//! - **P1**  A coroutine that has run once stays on its worker; only closures that have not started
//!   are stolen. The worker itself moves: where one keeps it from its thread for too long while others
//!   wait, a spare thread takes it over with all its queues (`seat.rs`, `watchdog.rs`). Not under shared
//!   identity.
//! - **P2**  Under shared identity no coroutine parks while its thread is panicking ([`current`] says
//!   none), nor in a read or write of the descriptors 0 to 2, whose locks count by thread.
//! - **P3**  Under shared identity nothing borrowed from a `thread_local!` may live across a park (the
//!   program's part); futex waits stay in the kernel and count as *pinned* (`pinned.rs`).
//! - **P4**  `errno` survives a park: it lies in the coroutine's own thread block, or is kept on its stack.
//! - **P5**  A worker ends every coroutine it owns before its thread ends: cancel, drain until the
//!   deadline, then say what is left. A suspended stack is never unwound.
//! - **P6**  Hooks are a default feature; `links` in Cargo.toml makes two versions in one program an
//!   error.
//! - **P7**  The worker's loop, the reactor and mio run with no current coroutine: there every waiting
//!   hook is the plain system call, and wake-ups are eventfd writes by `base::sys`.
//! - **P8**  A test proves that the hooks are linked in.
//! - **P9**  Hooks never panic, allocate or unwind.
//!
//! Read first: `task.rs` (states), then `worker.rs` (the turn), then `reactor.rs`.

mod capture;
mod crew;
pub(crate) mod deadline;
mod depot;
mod directory;
mod dump;
mod future;
mod idle;
mod join;
mod local;
mod metrics;
pub(crate) mod park;
#[cfg_attr(
    not(any(feature = "hooks", test)),
    expect(dead_code, reason = "only hooks wait in the kernel")
)]
mod pinned;
mod pool;
mod queues;
mod quit;
#[cfg_attr(
    not(any(feature = "hooks", test)),
    expect(dead_code, reason = "only hooks wait for descriptors themselves")
)]
pub(crate) mod reactor;
mod scope;
mod seat;
mod shared;
mod sleep;
mod state;
mod task;
mod timer;
mod watchdog;
mod watcher;
pub(crate) mod worker;

use std::fmt;
use std::io;
use std::panic::Location;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::coroutine::Class;
use crate::coroutine::identity::{Facts, IdentityError};

pub use crate::coroutine::Guards;
pub use deadline::Deadline;
pub use depot::{StackClass, Stacks, stacks, trim_stacks};
pub use dump::{Dump, DumpGroup};
pub use future::block_on;
pub use join::{JoinError, JoinHandle};
pub use local::LocalKey;
pub use metrics::Metrics;
pub use pinned::{Pinned, PinnedWait};
pub use queues::Priority;
pub use reactor::Dir;
pub use scope::{Scope, ScopedJoinHandle, scope};
pub use sleep::{Elapsed, sleep, sleep_until, timeout};
pub use task::{Reason, without_hooks};

use join::Packet;
use shared::Shared;
use task::{Job, SpawnOptions};
use watchdog::Watchdog;
use worker::Worker;

/// A set of workers. Ends them when dropped.
pub struct Runtime {
    shared: &'static Shared,
    ended: bool,
}

impl Runtime {
    /// Settings of a runtime; see [`RuntimeBuilder`].
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder {
            workers: None,
            stack_size: STACK_SIZE,
            identity: Identity::Own,
            rescue_after: RESCUE_AFTER,
            report_after: REPORT_AFTER,
            dump_on_sigquit: false,
        }
    }

    /// What its coroutines have: [`Identity::Own`] or [`Identity::Shared`].
    pub fn identity(&self) -> Identity {
        match self.shared.facts {
            Some(_) => Identity::Own,
            None => Identity::Shared,
        }
    }

    /// What the runtime has counted so far.
    pub fn metrics(&self) -> Metrics {
        Metrics::of(self.shared)
    }

    /// What its coroutines do and wait for, grouped by equal stack. Stops none of them; costs about a
    /// microsecond for each frame. See [`dump`] for all runtimes of the process.
    pub fn dump(&self) -> Dump {
        Dump::take(Some(self.shared))
    }

    /// Waits in the kernel that held whole workers, since the start.
    pub fn pinned(&self) -> Pinned {
        let mut sum = Pinned::default();
        self.shared.add_pinned(&mut sum);
        sum
    }

    /// Runs `f` as a coroutine and waits for it. A panic in it goes on here.
    pub fn block_on<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        match self.spawn(f).join() {
            Ok(value) => value,
            Err(error) => error.resume(),
        }
    }

    /// Runs `f` as a coroutine.
    #[track_caller]
    pub fn spawn<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.handle().spawn(f)
    }

    /// A way to spawn from anywhere.
    pub fn handle(&self) -> Handle {
        Handle(self.shared)
    }

    /// Cancels what runs, waits up to `grace` for it to end, says on stderr what is left, and ends the
    /// workers. Dropping a runtime does this with one second.
    pub fn shutdown(mut self, grace: Duration) {
        self.end(grace, false);
    }

    fn end(&mut self, grace: Duration, quiet: bool) {
        self.ended = true;
        self.shared.end(grace, quiet);
        self.shared.crew.wait_for_end(|seat| {
            if let Some(task) = seat.running() {
                self.shared.report(&format!(
                    "  left running, with its thread: coroutine {}",
                    task.name_and_place()
                ));
            }
        });
        self.shared.watchdog.end();
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if !self.ended {
            self.end(DROP_GRACE, false);
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("workers", &self.shared.workers().len())
            .field("identity", &self.identity())
            .finish()
    }
}

/// Whose thread-locals a coroutine sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// Its own: to every library it is a thread. 8 to 9 KB for each coroutine.
    #[default]
    Own,
    /// Those of its worker's thread: 4 to 5 KB for each coroutine, and rules the program has to keep.
    ///
    /// - Nothing borrowed from a `thread_local!` may live across a call that waits.
    /// - Locks and channels of std, parking_lot and crossbeam hold the whole worker while they wait. What
    ///   only a coroutine of the same worker can end then never ends; it is reported after a second.
    ///   `rpc_core::sync` parks as ever. See [`Runtime::pinned`].
    /// - While a panic unwinds, waiting calls hold the worker too; so do standard input and output.
    Shared,
    /// [`Identity::Own`] where it can be had, else [`Identity::Shared`], with the reason on stderr.
    Auto,
}

/// Settings of a [`Runtime`].
#[derive(Clone, Debug)]
pub struct RuntimeBuilder {
    workers: Option<usize>,
    stack_size: usize,
    identity: Identity,
    rescue_after: Duration,
    report_after: Duration,
    dump_on_sigquit: bool,
}

impl RuntimeBuilder {
    /// Number of worker threads, 1..=64. Default: the processors this process may use.
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = Some(count);
        self
    }

    /// Usable bytes of a coroutine's stack, rounded up to a power of two from 32 KiB to 1 GiB; committed
    /// as they are touched. Default 256 KiB.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes;
        self
    }

    /// Whose thread-locals coroutines see. Default [`Identity::Own`].
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// How long a coroutine may keep its worker while others wait there; then a spare thread takes these
    /// over. Zero = never. Default 10 ms. Exact to half of it. Needs Linux 4.14 (`membarrier`) and
    /// [`Identity::Own`].
    pub fn rescue_after(mut self, time: Duration) -> Self {
        self.rescue_after = time;
        self
    }

    /// How long a worker may stay away before the coroutine that keeps it is named on stderr, with its
    /// stack; once a second at most. Zero = never. Default 100 ms.
    pub fn report_stalls_after(mut self, time: Duration) -> Self {
        self.report_after = time;
        self
    }

    /// Whether SIGQUIT (Ctrl-\\ at a terminal) prints [`dump`] on stderr, instead of ending the process.
    /// Holds for the whole process from then on. Default: no.
    pub fn dump_on_sigquit(mut self, dump: bool) -> Self {
        self.dump_on_sigquit = dump;
        self
    }

    /// Starts the workers.
    ///
    /// Fails with the reason where coroutines cannot have a thread's identity of their own (no
    /// FSGSBASE, another libc than glibc, sanitizers, valgrind) and [`Identity::Own`] is asked for, and
    /// where the kernel refuses threads or descriptors.
    pub fn build(self) -> Result<Runtime, BuildError> {
        let count = self.workers.unwrap_or_else(|| {
            thread::available_parallelism()
                .map_or(1, usize::from)
                .min(WORKERS_MAX)
        });
        if count == 0 || count > WORKERS_MAX {
            return Err(BuildError::Workers(count));
        }
        let facts = match self.identity {
            Identity::Shared => None,
            Identity::Own => Some(Facts::get().map_err(BuildError::Identity)?),
            Identity::Auto => Facts::get()
                .inspect_err(|error| {
                    let text = format!("rpc-core: {error}; they share their worker's\n");
                    crate::base::sys::write(2, text.as_bytes());
                })
                .ok(),
        };
        crate::coroutine::install_overflow_report();
        let watchdog = Watchdog::new(self.rescue_after, self.report_after);
        let shared = Shared::new(stack_len(self.stack_size), facts, watchdog);
        let shared: &'static Shared = Box::leak(Box::new(shared));
        let mut workers: Vec<&'static Worker> = Vec::with_capacity(count);
        for index in 0..count {
            let worker = Worker::new(index, shared).map_err(BuildError::System)?;
            workers.push(Box::leak(Box::new(worker)));
        }
        shared.set_workers(workers.clone());
        // Dropped on failure, it ends the threads that were started.
        let runtime = Runtime {
            shared,
            ended: false,
        };
        let started = shared.crew.start(shared, &workers);
        started.map_err(BuildError::System)?;
        shared.watchdog.start(shared).map_err(BuildError::System)?;
        if self.dump_on_sigquit {
            quit::listen().map_err(BuildError::System)?;
        }
        Ok(runtime)
    }
}

/// Why a runtime could not be built.
#[derive(Debug)]
pub enum BuildError {
    /// Coroutines cannot be threads of their own here.
    Identity(IdentityError),
    /// A number of workers outside 1..=64.
    Workers(usize),
    /// The kernel refused threads, memory or descriptors.
    System(io::Error),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(error) => error.fmt(f),
            Self::Workers(count) => {
                write!(
                    f,
                    "{count} workers asked for; a runtime has 1 to {WORKERS_MAX}"
                )
            }
            Self::System(error) => write!(f, "the workers could not be started: {error}"),
        }
    }
}

impl std::error::Error for BuildError {}

/// A way to spawn on a runtime from anywhere. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Handle(&'static Shared);

impl Handle {
    /// The runtime that runs the caller, if any does.
    pub fn try_current() -> Option<Self> {
        worker::here().map(|worker| Self(worker.shared()))
    }

    /// Runs `f` as a coroutine.
    #[track_caller]
    pub fn spawn<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        Builder::new().spawn_on(*self, f)
    }

    /// What the runtime has counted so far.
    pub fn metrics(&self) -> Metrics {
        Metrics::of(self.0)
    }

    /// What the runtime's coroutines do and wait for; see [`Runtime::dump`].
    pub fn dump(&self) -> Dump {
        Dump::take(Some(self.0))
    }

    /// The worker with the fewest registered descriptors, to place a connection on.
    pub(crate) fn least_loaded(&self) -> &'static Worker {
        self.0.least_loaded()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("workers", &self.0.workers().len())
            .finish()
    }
}

/// How a coroutine is to run.
#[derive(Clone, Copy, Debug)]
pub struct Builder {
    options: SpawnOptions,
}

impl Builder {
    /// A coroutine without a name, with the runtime's stack size and fresh thread-locals.
    #[track_caller]
    pub fn new() -> Self {
        Self {
            options: SpawnOptions {
                name: "",
                stack_size: 0,
                reuse_thread_locals: false,
                priority: Priority::Normal,
                spawned_at: Location::caller(),
            },
        }
    }

    /// Shown by diagnostics.
    pub fn name(mut self, name: &'static str) -> Self {
        self.options.name = name;
        self
    }

    /// Usable bytes of the stack, rounded up to a power of two from 32 KiB to 1 GiB; 0 = the runtime's
    /// default.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.options.stack_size = if bytes == 0 { 0 } else { stack_len(bytes) };
        self
    }

    /// Lets the coroutine find the thread-locals that an earlier one left, as a job of a thread pool
    /// does, instead of fresh ones. Saves their set-up (a `HashMap`'s random seed costs 400 ns). Without
    /// effect under [`Identity::Shared`].
    pub fn reuse_thread_locals(mut self, reuse: bool) -> Self {
        self.options.reuse_thread_locals = reuse;
        self
    }

    /// Whether it runs before or after the others that wait on its worker.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.options.priority = priority;
        self
    }

    /// Runs `f` as a coroutine of the caller's runtime, in a `tracing` span `coroutine` (level debug) of its
    /// own, which stays current across its waits. Where no stack can be had for it, its handle's
    /// `join` says [`JoinError::Refused`].
    ///
    /// # Panics
    /// Outside a runtime: use [`Handle::spawn`] there.
    pub fn spawn<T: Send + 'static>(self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let Some(handle) = Handle::try_current() else {
            panic!(
                "spawn was called outside a runtime; call it in Runtime::block_on or \
                 #[rpc_core::main], or use Handle::spawn"
            );
        };
        self.spawn_on(handle, f)
    }

    /// The coroutine's span, a child of the caller's current one, if a subscriber wants it. Which span is
    /// current is a matter of thread-locals: where these are shared there is none to keep.
    fn span(&self, handle: Handle) -> Option<tracing::Span> {
        handle.0.facts?;
        let span = tracing::debug_span!(
            "coroutine",
            name = self.options.name,
            spawned_at = %self.options.spawned_at,
        );
        (!span.is_disabled()).then_some(span)
    }

    fn spawn_on<T: Send + 'static>(
        self,
        handle: Handle,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let (run, join) = match self.span(handle) {
            Some(span) => Packet::split(move || span.in_scope(f)),
            None => Packet::split(f),
        };
        let job = Job {
            run: local::inherit(run),
            options: self.options,
        };
        if place(job, handle) {
            handle.0.wake_another();
        }
        join
    }
}

impl Default for Builder {
    #[track_caller]
    fn default() -> Self {
        Self::new()
    }
}

/// Runs `f` as a coroutine of the caller's runtime, with fresh thread-locals.
///
/// # Panics
/// Outside a runtime.
#[track_caller]
pub fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    Builder::new().spawn(f)
}

/// As [`spawn`], but on the caller's own worker: no other worker takes it, so that what goes to and fro
/// between the two needs no wake-up of another thread. It is still `Send`: the worker itself may change
/// its thread.
///
/// # Panics
/// Outside a runtime.
#[track_caller]
pub fn spawn_local<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let (run, join) = Packet::split(f);
    let job = Job {
        run: local::inherit(run),
        options: Builder::new().options,
    };
    assert!(
        at_turn_end(worker::Adoption::new(job)),
        "spawn_local was called outside a runtime; call it in Runtime::block_on or #[rpc_core::main]"
    );
    join
}

/// Runs `f` on an OS thread of a pool (at most 512 at once), for what would block a worker: regular
/// files, foreign code. From anywhere.
pub fn spawn_blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let (run, join) = Packet::split(f);
    pool::submit(local::inherit(run));
    join
}

/// What all coroutines of the process do and wait for; see [`Runtime::dump`].
pub fn dump() -> Dump {
    Dump::take(None)
}

/// Lets the other ready coroutines of this worker run. On an OS thread: `sched_yield`.
pub fn yield_now() {
    match current() {
        Some(task) => task.yield_now(),
        None => crate::base::sys::sched_yield(),
    }
}

#[cfg(feature = "hooks")]
pub(crate) use pinned::pinned;
#[cfg(feature = "hooks")]
pub(crate) use task::running;
pub(crate) use task::{Run, TaskRef, current};
pub(crate) use worker::Flush;

/// Spawns work whose end nobody joins, with thread-locals left from earlier calls: remote calls.
/// Wakes no other worker; see [`nudge`]. Without a worker here, any worker of `handle` takes it.
pub(crate) fn spawn_detached(run: Arc<dyn Run>, name: &'static str, handle: Handle) {
    let options = SpawnOptions {
        name,
        stack_size: 0,
        reuse_thread_locals: true,
        priority: Priority::Normal,
        spawned_at: Location::caller(),
    };
    let job = Job { run, options };
    place(job, handle);
}

/// Queues a closure on the caller's worker if that is of the runtime `handle` (true), else at the
/// entrance of that.
fn place(job: Job, handle: Handle) -> bool {
    let mut job = Some(job);
    worker::locally(|worker| {
        if std::ptr::eq(worker.shared(), handle.0)
            && let Some(job) = job.take()
        {
            worker.push_fresh(job);
        }
    });
    match job {
        Some(job) => {
            handle.0.inject(job);
            false
        }
        None => true,
    }
}

/// Wakes a sleeping worker to take some of what [`spawn_detached`] has queued here.
pub(crate) fn nudge() {
    if let Some(worker) = worker::here() {
        worker.shared().wake_another();
    }
}

/// The number of the worker that runs the caller; `None` on other threads, and once the worker went to another.
pub(crate) fn worker_number() -> Option<usize> {
    worker::locally(Worker::index)
}

/// Runs `flush` once on this worker's loop at the end of this turn. False on other threads, where the
/// caller flushes itself.
pub(crate) fn at_turn_end(flush: Arc<dyn Flush>) -> bool {
    worker::locally(|worker| worker.at_turn_end(flush)).is_some()
}

#[cfg(feature = "hooks")]
pub(crate) use task::{thread_below, without_current};

/// In a forked child: the caller is a plain thread from now on.
#[cfg(feature = "hooks")]
pub(crate) fn forget_current() {
    task::forget_current();
}

/// What `#[rpc_core::main]` expands to.
#[doc(hidden)]
pub fn run_main<T: Send + 'static>(
    workers: Option<usize>,
    f: impl FnOnce() -> T + Send + 'static,
) -> T {
    let mut runtime = build_or_exit(workers);
    let value = runtime.block_on(f);
    // As with threads: what is detached ends with main. A moment for clean-up that is under way.
    runtime.end(MAIN_GRACE, true);
    value
}

/// What `#[rpc_core::test]` expands to.
#[doc(hidden)]
pub fn run_test<T: Send + 'static>(
    workers: Option<usize>,
    f: impl FnOnce() -> T + Send + 'static,
) -> T {
    build_or_exit(Some(workers.unwrap_or(1))).block_on(f)
}

fn build_or_exit(workers: Option<usize>) -> Runtime {
    let mut builder = Runtime::builder();
    builder.workers = workers;
    match builder.build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("{error}"),
    }
}

fn stack_len(bytes: usize) -> usize {
    Class::of(bytes).size()
}

/// Committed on touch; a panic with a backtrace takes 22 KiB, TLS handshakes more.
const STACK_SIZE: usize = 256 << 10;
const RESCUE_AFTER: Duration = Duration::from_millis(10);
const REPORT_AFTER: Duration = Duration::from_millis(100);
/// Bits of the idle set.
const WORKERS_MAX: usize = 64;
const DROP_GRACE: Duration = Duration::from_secs(1);
const MAIN_GRACE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod api_tests;
#[cfg(test)]
mod tests;
