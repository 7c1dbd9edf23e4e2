//! What waits to run on one worker: started coroutines and closures, by priority.
//!
//! Knows: the order of running.   Does not know: how anything is run.
//!
//! Invariants
//! - Q-1  Higher levels first, but every [`NORMAL_EVERY`]th pick looks at the middle one first and every
//!   [`LOW_EVERY`]th at the lowest: what is first in its queue waits for so many picks at most.
//! - Q-2  Within a level, started coroutines and closures take turns.
//! - Q-3  Only the worker's holder touches this; others steal through [`Theft`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use crossbeam_deque::{Injector, Steal, Stealer, Worker as Deque};

use super::task::{Job, TaskRef};

/// Which coroutines a worker runs first. Bounded: a lower one waits for 61 others at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// Before all others: heartbeats, elections.
    High = 0,
    /// As every coroutine by default.
    #[default]
    Normal = 1,
    /// What may wait: clean-up, statistics.
    Low = 2,
}

const LEVELS: usize = 3;

/// What is to run next.
pub(super) enum Next {
    Ready(TaskRef),
    Fresh(Job),
}

/// See the page above.
pub(super) struct Queues {
    ready: RefCell<[VecDeque<TaskRef>; LEVELS]>,
    fresh: [Deque<Job>; LEVELS],
    /// The levels whose `ready` is not empty, a bit each.
    ready_levels: Cell<u8>,
    /// As far as known here, those of `fresh`: others steal unnoticed.
    fresh_levels: Cell<u8>,
    picks: Cell<u32>,
}

impl Queues {
    pub(super) fn new() -> Self {
        Self {
            ready: RefCell::default(),
            fresh: std::array::from_fn(|_| Deque::new_fifo()),
            ready_levels: Cell::new(0),
            fresh_levels: Cell::new(0),
            picks: Cell::new(0),
        }
    }

    pub(super) fn theft(&self) -> Theft {
        Theft(self.fresh.each_ref().map(Deque::stealer))
    }

    #[inline]
    pub(super) fn push_ready(&self, task: TaskRef) {
        let level = task.priority() as usize;
        self.ready.borrow_mut()[level].push_back(task);
        self.ready_levels.set(self.ready_levels.get() | 1 << level);
    }

    pub(super) fn push_fresh(&self, job: Job) {
        let level = job.options.priority as usize;
        self.fresh[level].push(job);
        self.fresh_levels.set(self.fresh_levels.get() | 1 << level);
    }

    /// The next by.
    #[inline]
    pub(super) fn pop(&self) -> Option<Next> {
        let pick = self.picks.get().wrapping_add(1);
        self.picks.set(pick);
        let ready_first = pick.is_multiple_of(2);
        loop {
            let (ready, fresh) = (self.ready_levels.get(), self.fresh_levels.get());
            let level = choose(ready | fresh, pick)?;
            let bit = 1 << level;
            if ready & bit != 0 && (ready_first || fresh & bit == 0) {
                return self.pop_ready(level).map(Next::Ready);
            }
            match self.fresh[level].pop() {
                Some(job) => return Some(Next::Fresh(job)),
                None => self.fresh_levels.set(fresh & !bit),
            }
        }
    }

    #[inline]
    fn pop_ready(&self, level: usize) -> Option<TaskRef> {
        let queue = &mut self.ready.borrow_mut()[level];
        let task = queue.pop_front();
        if queue.is_empty() {
            self.ready_levels
                .set(self.ready_levels.get() & !(1 << level));
        } else {
            prefetch(queue);
        }
        task
    }

    /// A closure that has not started, whatever its level.
    pub(super) fn pop_fresh(&self) -> Option<Job> {
        self.fresh.iter().find_map(Deque::pop)
    }

    /// Closures that have not started.
    pub(super) fn fresh_len(&self) -> usize {
        self.fresh.iter().map(Deque::len).sum()
    }

    pub(super) fn has_ready(&self) -> bool {
        self.ready_levels.get() != 0
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.has_ready() && self.fresh.iter().all(Deque::is_empty)
    }

    /// Takes a share of what came from outside. False if there was nothing.
    pub(super) fn take_from(&self, entrance: &Entrance) -> bool {
        let levels = self.fresh.iter().zip(&entrance.0);
        let mut got = false;
        for (own, injector) in levels.filter(|(_, injector)| !injector.is_empty()) {
            if let Some(job) = repeat(|| injector.steal_batch_and_pop(own)) {
                self.push_fresh(job);
                got = true;
            }
        }
        got
    }

    /// Takes a share of what another worker has not started. False if there was nothing.
    pub(super) fn steal_from(&self, other: &Theft) -> bool {
        let levels = self.fresh.iter().zip(&other.0);
        let mut full = levels.filter(|(_, stealer)| !stealer.is_empty());
        full.any(|(own, stealer)| {
            let job = repeat(|| stealer.steal_batch_and_pop(own));
            job.map(|job| self.push_fresh(job)).is_some()
        })
    }
}

/// The level of pick number `pick` among the `levels` that hold something.
#[inline]
fn choose(levels: u8, pick: u32) -> Option<usize> {
    if levels == 0 {
        return None;
    }
    let favoured = if levels.is_power_of_two() {
        levels
    } else if pick.is_multiple_of(LOW_EVERY) {
        levels & 1 << Priority::Low as u8
    } else if pick.is_multiple_of(NORMAL_EVERY) {
        levels & 1 << Priority::Normal as u8
    } else {
        0
    };
    let among = if favoured == 0 { levels } else { favoured };
    Some(among.trailing_zeros() as usize)
}

/// Asks for what the next picks of `queue` will touch, far enough ahead for memory to answer.
#[inline]
fn prefetch(queue: &VecDeque<TaskRef>) {
    if let Some(next) = queue.get(1) {
        next.prefetch();
    }
    if let Some(later) = queue.get(3) {
        later.prefetch_itself();
    }
}

/// Other workers' way to a worker's closures.
pub(super) struct Theft([Stealer<Job>; LEVELS]);

impl Theft {
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(Stealer::is_empty)
    }
}

/// Closures from threads that are no workers of the runtime.
pub(super) struct Entrance([Injector<Job>; LEVELS]);

impl Entrance {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| Injector::new()))
    }

    pub(super) fn push(&self, job: Job) {
        self.0[job.options.priority as usize].push(job);
    }

    pub(super) fn pop(&self) -> Option<Job> {
        self.0
            .iter()
            .find_map(|injector| repeat(|| injector.steal()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(Injector::is_empty)
    }
}

/// Repeats a steal that lost a race.
fn repeat(mut steal: impl FnMut() -> Steal<Job>) -> Option<Job> {
    loop {
        match steal() {
            Steal::Success(job) => return Some(job),
            Steal::Empty => return None,
            Steal::Retry => std::hint::spin_loop(),
        }
    }
}

/// Odd, so that both turns of Q-2 meet them.
const NORMAL_EVERY: u32 = 13;
const LOW_EVERY: u32 = 61;
