//! Floor 2: workers, the scheduler, waiting.
//!
//! Knows: coroutines, queues, timers, readiness.
//! Does not know: sockets, protocols, libc's names.
//!
//! Rules of the scheduler
//! - **P1**  A coroutine that has run once stays on its worker; only closures that have not started
//!   are stolen.
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

pub(crate) mod deadline;
mod depot;
mod idle;
mod join;
pub(crate) mod park;
mod pinned;
mod pool;
pub(crate) mod reactor;
mod shared;
mod sleep;
mod state;
mod task;
mod timer;
pub(crate) mod worker;

use std::fmt;
use std::io;
use std::panic::Location;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::coroutine::identity::{Facts, IdentityError};

pub use deadline::Deadline;
pub use join::{JoinError, JoinHandle};
pub use pinned::{Pinned, PinnedWait};
pub use reactor::Dir;
pub use sleep::{Elapsed, sleep, sleep_until, timeout};
pub use task::Reason;

use join::Packet;
use shared::Shared;
use task::{Job, SpawnOptions};
use worker::Worker;

/// A set of workers. Ends them when dropped.
pub struct Runtime {
    shared: &'static Shared,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Runtime {
    /// Settings of a runtime; see [`RuntimeBuilder`].
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder {
            workers: None,
            stack_size: STACK_SIZE,
            identity: Identity::Own,
        }
    }

    /// What its coroutines have: [`Identity::Own`] or [`Identity::Shared`].
    pub fn identity(&self) -> Identity {
        match self.shared.facts {
            Some(_) => Identity::Own,
            None => Identity::Shared,
        }
    }

    /// Waits in the kernel that held whole workers, since the start.
    pub fn pinned(&self) -> Pinned {
        let mut sum = Pinned::default();
        for worker in self.shared.workers() {
            worker.pins().add_to(&mut sum);
        }
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
        self.shared.end(grace, quiet);
        for thread in self.threads.drain(..) {
            // A worker's loop has no way to panic that would not be reported by the panic itself.
            let _ = thread.join();
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.end(DROP_GRACE, false);
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("workers", &self.threads.len())
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
}

impl RuntimeBuilder {
    /// Number of worker threads, 1..=64. Default: the processors this process may use.
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = Some(count);
        self
    }

    /// Usable bytes of a coroutine's stack; committed as they are touched. Default 256 KiB.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes;
        self
    }

    /// Whose thread-locals coroutines see. Default [`Identity::Own`].
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
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
        let shared: &'static Shared =
            Box::leak(Box::new(Shared::new(stack_len(self.stack_size), facts)));
        let mut workers: Vec<&'static Worker> = Vec::with_capacity(count);
        let mut polls = Vec::with_capacity(count);
        for index in 0..count {
            let (worker, poll) = Worker::new(index, shared).map_err(BuildError::System)?;
            workers.push(Box::leak(Box::new(worker)));
            polls.push(poll);
        }
        shared.set_workers(workers.clone());
        let mut runtime = Runtime {
            shared,
            threads: Vec::with_capacity(count),
        };
        for (worker, poll) in workers.into_iter().zip(polls) {
            let name = format!("rpc-core {}", runtime.threads.len());
            let thread = thread::Builder::new()
                .name(name)
                .spawn(move || worker.run(poll))
                .map_err(BuildError::System)?;
            runtime.threads.push(thread);
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
                spawned_at: Location::caller(),
            },
        }
    }

    /// Shown by diagnostics.
    pub fn name(mut self, name: &'static str) -> Self {
        self.options.name = name;
        self
    }

    /// Usable bytes of the stack; 0 = the runtime's default.
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

    /// Runs `f` as a coroutine of the caller's runtime.
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

    fn spawn_on<T: Send + 'static>(
        self,
        handle: Handle,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let (run, join) = Packet::split(f);
        let job = Job {
            run,
            options: self.options,
        };
        match worker::here() {
            Some(worker) if std::ptr::eq(worker.shared(), handle.0) => {
                worker.push_fresh(job);
                handle.0.wake_another();
            }
            _ => handle.0.inject(job),
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

/// Runs `f` on an OS thread of a pool (at most 512 at once), for what would block a worker: regular
/// files, foreign code. From anywhere.
pub fn spawn_blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let (run, join) = Packet::split(f);
    pool::submit(run);
    join
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
        spawned_at: Location::caller(),
    };
    let job = Job { run, options };
    match worker::here() {
        Some(worker) if std::ptr::eq(worker.shared(), handle.0) => worker.push_fresh(job),
        _ => handle.0.inject(job),
    }
}

/// Wakes a sleeping worker to take some of what [`spawn_detached`] has queued here.
pub(crate) fn nudge() {
    if let Some(worker) = worker::here() {
        worker.shared().wake_another();
    }
}

/// Runs `flush` once on this worker's loop at the end of this turn. False on other threads, where the
/// caller flushes itself.
pub(crate) fn at_turn_end(flush: Arc<dyn Flush>) -> bool {
    let worker = worker::here();
    if let Some(worker) = worker {
        worker.at_turn_end(flush);
    }
    worker.is_some()
}

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
    bytes.max(STACK_MIN).next_multiple_of(4096)
}

/// Committed on touch; a panic with a backtrace takes 22 KiB, TLS handshakes more.
const STACK_SIZE: usize = 256 << 10;
const STACK_MIN: usize = 32 << 10;
/// Bits of the idle set.
const WORKERS_MAX: usize = 64;
const DROP_GRACE: Duration = Duration::from_secs(1);
const MAIN_GRACE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests;
