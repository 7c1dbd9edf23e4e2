//! OS threads for what would block a worker: regular files, name look-up, foreign code.
//!
//! One pool per process. A thread is started when a job finds none idle, and ends after ten idle
//! seconds. At most [`THREADS_MAX`] threads and [`QUEUE_MAX`] waiting jobs: past that the caller waits.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::task::Run;

/// Runs `job` on a thread of the pool. Waits while the queue is full.
pub(super) fn submit(job: Arc<dyn Run>) {
    let mut state = lock();
    while state.queue.len() >= QUEUE_MAX {
        state = POOL
            .room
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
    }
    state.queue.push_back(job);
    if state.idle >= state.queue.len() || state.threads >= THREADS_MAX {
        drop(state);
        POOL.work.notify_one();
        return;
    }
    state.threads += 1;
    drop(state);
    let started = std::thread::Builder::new()
        .name("rpc-core pool".into())
        .spawn(serve);
    if let Err(error) = started {
        // Others will come to it; if there are none, the job cannot run at all.
        let mut state = lock();
        state.threads -= 1;
        if state.threads == 0
            && let Some(job) = state.queue.pop_back()
        {
            drop(state);
            job.refuse(error);
        }
    }
}

fn serve() {
    let mut state = lock();
    loop {
        if let Some(job) = state.queue.pop_front() {
            drop(state);
            POOL.room.notify_one();
            job.run();
            state = lock();
            continue;
        }
        state.idle += 1;
        let waited = POOL.work.wait_timeout(state, IDLE_MAX);
        let timed_out;
        (state, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
        if timed_out.timed_out() && state.queue.is_empty() {
            state.threads -= 1;
            return;
        }
    }
}

fn lock() -> MutexGuard<'static, State> {
    // Nothing panics while it is held; a poisoned state is as good as any.
    POOL.state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Pool {
    state: Mutex<State>,
    /// A job was queued.
    work: Condvar,
    /// A job was taken.
    room: Condvar,
}

struct State {
    queue: VecDeque<Arc<dyn Run>>,
    threads: usize,
    idle: usize,
}

static POOL: Pool = Pool {
    state: Mutex::new(State {
        queue: VecDeque::new(),
        threads: 0,
        idle: 0,
    }),
    work: Condvar::new(),
    room: Condvar::new(),
};

/// As many blocking calls run at once.
const THREADS_MAX: usize = 512;
const QUEUE_MAX: usize = 65_536;
const IDLE_MAX: Duration = Duration::from_secs(10);
