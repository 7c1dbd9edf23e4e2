//! The OS threads of a runtime: those that hold its workers, and spares.
//!
//! Knows: threads, seats, workers that have no thread.   Does not know: what a worker does.
//!
//! A worker has a thread from the start. Where the watchdog takes it from one that is stuck it becomes
//! an order here, and a spare thread takes it up; the stuck one is a spare once it comes back. A spare
//! that has waited [`IDLE_MAX`] ends.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::seat::Seat;
use super::shared::Shared;
use super::worker::Worker;

/// See the page above.
#[derive(Default)]
pub(super) struct Crew {
    state: Mutex<State>,
    /// Something in the state changed.
    change: Condvar,
}

#[derive(Default)]
struct State {
    /// Workers that nobody holds. At most as many as there are workers.
    orders: VecDeque<&'static Worker>,
    /// Threads without a worker. At most [`THREADS_MAX`].
    free: usize,
    members: Vec<Member>,
    /// Workers that have not ended.
    working: usize,
    /// All workers have ended: free threads end too.
    over: bool,
}

struct Member {
    thread: JoinHandle<()>,
    seat: &'static Seat,
}

impl Crew {
    /// Starts a thread for each worker.
    pub(super) fn start(
        &self,
        shared: &'static Shared,
        workers: &[&'static Worker],
    ) -> io::Result<()> {
        let mut state = self.lock();
        for worker in workers {
            hire(shared, &mut state)?;
            state.orders.push_back(worker);
            state.working += 1;
        }
        Ok(())
    }

    /// Sees to it that a thread is free to take up a worker. False where none can be had.
    pub(super) fn have_spare(&self, shared: &'static Shared) -> bool {
        let mut state = self.lock();
        state.free > state.orders.len() || hire(shared, &mut state).is_ok()
    }

    /// A worker has lost its thread.
    pub(super) fn order(&self, shared: &'static Shared, worker: &'static Worker) {
        let mut state = self.lock();
        state.orders.push_back(worker);
        // The spare of `have_spare` may have ended meanwhile. If no other can be started, the stuck
        // thread takes the order when it comes back.
        if state.free < state.orders.len() {
            let _ = hire(shared, &mut state);
        }
        drop(state);
        self.change.notify_all();
    }

    /// Waits for a worker that needs a thread. `None` = end.
    fn next(&self) -> Option<&'static Worker> {
        let mut state = self.lock();
        loop {
            if let Some(worker) = state.orders.pop_front() {
                state.free -= 1;
                return Some(worker);
            }
            if state.over {
                return None;
            }
            let waited = self.change.wait_timeout(state, IDLE_MAX);
            let timeout;
            (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() && state.orders.is_empty() {
                state.free -= 1;
                return None;
            }
        }
    }

    /// A worker's loop has ended for good.
    fn worker_ended(&self) {
        self.lock().working -= 1;
        self.change.notify_all();
    }

    /// Waits until all workers have ended and, but for those stuck in a coroutine, their threads. What is
    /// stuck is told to `left`.
    pub(super) fn wait_for_end(&self, mut left: impl FnMut(&'static Seat)) {
        let mut state = self.lock();
        while state.working > 0 {
            state = self
                .change
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.over = true;
        let members = std::mem::take(&mut state.members);
        drop(state);
        self.change.notify_all();
        for member in members {
            if member.seat.is_lost() && member.seat.running().is_some() {
                left(member.seat);
                continue;
            }
            // A loop has no way to panic that would not be reported by the panic itself.
            let _ = member.thread.join();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; a poisoned state is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts one more free thread.
fn hire(shared: &'static Shared, state: &mut State) -> io::Result<()> {
    state.members.retain(|member| !member.thread.is_finished());
    if state.members.len() >= THREADS_MAX {
        return Err(io::Error::other(
            "the runtime has all the threads it may have",
        ));
    }
    let seat = shared.free_seat();
    let thread = thread::Builder::new()
        .name(format!("rpc-core {}", state.members.len()))
        .spawn(move || serve(shared, seat));
    match thread {
        Ok(thread) => state.members.push(Member { thread, seat }),
        Err(error) => {
            shared.put_seat(seat);
            return Err(error);
        }
    }
    state.free += 1;
    Ok(())
}

/// A thread's life: one worker after another.
fn serve(shared: &'static Shared, seat: &'static Seat) {
    seat.occupy();
    while let Some(worker) = shared.crew.next() {
        seat.take(worker);
        // Order of G-1: the watchdog may have seen nobody hold the worker.
        fence(Ordering::SeqCst);
        shared.watchdog.rouse();
        let ended = worker.run(seat);
        seat.release();
        shared.crew.lock().free += 1;
        if ended {
            shared.crew.worker_ended();
        }
    }
    seat.vacate();
    shared.put_seat(seat);
}

/// Stuck threads and others, of one runtime.
const THREADS_MAX: usize = 64 + 128;
const IDLE_MAX: Duration = Duration::from_secs(10);
