//! The C library's waiting calls, replaced for the whole program.
//!
//! Knows:         libc's names, descriptors, futex words, the coroutine that calls.
//! Does not know: scheduling, protocols, who the caller is.
//!
//! `#[unsafe(no_mangle)] extern "C" fn read(…)` in this crate is what std and C libraries call. A hook
//! that waits reads "current" first: on an OS thread, and on a worker's own stack, it is the plain
//! system call, made by the instruction itself. In a coroutine it tries without blocking, and on EAGAIN
//! parks the coroutine until the reactor saw an edge. Hooks that create, share, change, end or wake
//! keep their books on every thread.
//!
//! # Rules
//! - **R-1** A generation guards against numbers that are used again (`table`, `description`).
//! - **R-2** One edge-triggered registration per open file, made when somebody first waits; it moves to
//!   the worker whose coroutines waited eight times in a row. What epoll refuses, a thread polls.
//! - **R-3** A waiter that leaves wakes the next of its direction.
//! - **R-4** A short read on TCP means empty: the next read waits for an edge without asking first,
//!   unless the peer hung up. A short write means full.
//! - **R-5** Try first: one extra system call at most for a call that waits, none for one that need not.
//! - A coroutine whose calls never wait gives way after 128 of them.
//! - **P9** No hook panics, unwinds (what `pthread_once` runs may) or allocates from the heap (getaddrinfo, poll, and what moves to
//!   the blocking pool or is polled by a thread excepted, in coroutines alone).
//! - Nobody sees a flag change: sockets are tried with MSG_DONTWAIT, pipes and event descriptors with
//!   RWF_NOWAIT, the rest with `poll(0)` and the plain call. Two exceptions set O_NONBLOCK in the kernel
//!   and hide it: listeners made here, and `connect` for its duration.
//!
//! # Deadlines and cancellation
//! They reach calls whose contract has an error: read, write, send, receive, accept, connect, poll,
//! select, sendfile, splice, waitpid of one child, getaddrinfo. Past the scope's deadline ETIMEDOUT, when cancelled
//! ECANCELED, where the call would have to wait; the socket's own timeout keeps its EAGAIN. A cut read
//! or write shuts a stream socket down first, for the conversation is out of step ([`keep_when_cut`] opts out). Exempt, because std and C
//! cannot bear an error there: futex, sleeps, epoll_wait, close, pthread_join, file locks, "wait for any
//! child".
//!
//! # Intended differences from an OS thread
//! Everything else is the same: `tests/suite/hooks/differential` runs some 70 programs on both. The tests
//! named here are those of `tests/suite/hooks`, those of `identity` stand beside it.
//!
//! | call in a coroutine | thread | coroutine | test |
//! |---|---|---|---|
//! | `close` or `dup2` of a descriptor others wait on | they go on waiting | they get EBADF | `descriptors::closing_a_descriptor_wakes_its_waiter_with_ebadf` |
//! | any parked call, when a signal arrives | may fail with EINTR | goes on waiting | `limits::a_signal_does_not_interrupt_a_parked_read` |
//! | any waiting call past the scope's deadline, or cancelled | has no scope | ETIMEDOUT, ECANCELED | `cuts::a_deadline_ends_every_call_that_can_say_so` |
//! | a stream whose call was cut | has no scope | is shut down, unless [`keep_when_cut`] | `limits::a_deadline_cuts_a_read_and_shuts_the_stream_down` |
//! | a bad pointer to a futex word | EFAULT | SIGSEGV | `differences::a_bad_pointer_to_a_futex_word_is_followed` |
//! | a pthread cancellation request | may end the thread in the call | no cancellation point | `differences::a_pthread_cancellation_request_does_not_end_a_parked_call` |
//! | `vfork` | shares memory with the parent | is `fork` | `processes::vfork_leaves_the_parent_its_coroutine` |
//! | `accept` on a listener made here | no flag changes | the kernel's O_NONBLOCK is on, unseen by `fcntl` | `differences::only_a_listener_made_here_is_made_non_blocking_unseen` |
//! | `accept` on an inherited listener | never blocks others | may block the worker if another process takes the connection first | the same |
//! | MSG_FASTOPEN, descriptors above 1,048,575 | block the thread | block the worker | `differences::a_fast_open_waits_in_the_kernel` |
//! | a write that a full eventfd would refuse | EINVAL at once | waits for room, then EINVAL | `differences::a_wrong_write_to_a_full_eventfd_waits_for_room_first` |
//! | process-shared, robust and priority-inheriting pthread locks, non-private and PI futexes | block the thread | block the worker | `differences::a_process_shared_lock_holds_the_worker` |
//! | `sigwait` and its kin | take what is blocked in all threads | the same: block before the runtime is built | `identity::signals::waiting_for_a_signal_lets_others_run` |
//! | `pause`, `sigsuspend` | end with a handler run by the thread | with one run by a thread of the pool | `identity::signals::suspending_until_a_handler_has_run_lets_others_run` |
//! | `pthread_kill` of another | goes to that thread | to a coroutine: goes to the process | `identity::ids::handles_of_coroutines_take_signals` |
//! | a mutex that lends priority (PI), held | may wait for anything | must not wait: the worker is its owner | `identity::ids::a_mutex_that_lends_priority_is_waited_for_by_a_thread` |
//!
//! In every thread, not in coroutines alone, the pthread and C11 locks and semaphores are this crate's:
//! waiting for one is no cancellation point.
//!
//! Read first: `exchange`, then `description`, then `futex`.

mod barrier;
mod bell;
mod c11;
mod classify;
mod condition;
mod connection;
mod copy;
mod create;
mod cut;
mod description;
mod descriptors;
mod disk;
mod exchange;
mod fairness;
mod futex;
mod ids;
mod input;
mod mutex;
mod names;
mod once;
mod output;
mod pool;
mod process;
mod raw;
mod readiness;
mod resolve;
mod rwlock;
mod select;
mod semaphore;
mod setup;
mod signal;
mod sleep;
mod symbol;
mod table;
mod thread;
mod until;
mod vector;
mod waiters;

use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use crate::base::sys;
use crate::coroutine::identity::thread_pointer;
use crate::runtime;

pub use cut::keep_when_cut;

/// Whether the books are kept.
static STATE: AtomicU8 = AtomicU8::new(ON);
/// Process that forks, while [`STATE`] is [`FORKING`].
static PARENT: AtomicI32 = AtomicI32::new(0);

/// True where descriptors are tracked and futex waiters may be coroutines; false in a forked child.
#[inline]
fn is_on() -> bool {
    STATE.load(Ordering::Relaxed) == ON || !in_child()
}

/// True in a child after `fork`.
fn in_child() -> bool {
    match STATE.load(Ordering::Relaxed) {
        ON => false,
        // Other libraries' fork handlers may run in the child before ours does.
        FORKING => PARENT.load(Ordering::Relaxed) != sys::getpid(),
        _ => true,
    }
}

/// From here on this process is a child that has no runtime.
fn enter_child() {
    STATE.store(CHILD, Ordering::Relaxed);
}

/// From here to [`forked`] a process that is not this one is a child.
fn begin_fork() {
    PARENT.store(sys::getpid(), Ordering::Relaxed);
    // The fork itself orders this for the child; the parent's other threads need no order.
    STATE.store(FORKING, Ordering::Relaxed);
}

/// The fork is over, in the parent.
fn forked() {
    STATE.store(ON, Ordering::Relaxed);
}

/// Who calls, as an owner of locks: no other thread or coroutine has this number meanwhile. A forked
/// child has that of the thread or coroutine that forked.
#[inline]
fn caller() -> usize {
    match runtime::running() {
        Some(task) if task.shares_thread() => task.address(),
        _ => thread_pointer(),
    }
}

const ON: u8 = 0;
/// Set for good by the fork handler.
const CHILD: u8 = 1;
/// A fork is under way.
const FORKING: u8 = 2;
