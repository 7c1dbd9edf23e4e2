//! The queue of waiters that every primitive here has inside its spin lock.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::time::Instant;
use crate::runtime::Reason;
use crate::runtime::park::{Waiter, cancelled, limit, park};

/// Why a wait of ours ended without what it waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitError {
    /// The other side is gone: nothing will ever come.
    Closed,
    /// The given time, or the scope's deadline, has passed.
    TimedOut,
    /// The coroutine was cancelled.
    Cancelled,
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the other side is closed",
            Self::TimedOut => "the deadline has passed",
            Self::Cancelled => "the coroutine was cancelled",
        })
    }
}

impl std::error::Error for WaitError {}

/// One who waits.
pub(super) struct Node {
    waiter: Waiter,
    /// Set once, when what it waits for is its own.
    served: AtomicBool,
}

impl Node {
    /// Waits to be served, whatever comes: for primitives that cannot fail.
    pub(super) fn wait(&self, reason: Reason) {
        while !self.is_served() {
            park(reason, Instant::NEVER);
        }
    }

    /// Waits to be served, until `until`, the scope's deadline or cancellation.
    pub(super) fn wait_until(&self, reason: Reason, until: Instant) -> Result<(), WaitError> {
        let until = limit(until);
        loop {
            if self.is_served() {
                return Ok(());
            }
            if cancelled() {
                return Err(WaitError::Cancelled);
            }
            if !until.is_never() && Instant::now() >= until {
                return Err(WaitError::TimedOut);
            }
            park(reason, until);
        }
    }

    fn is_served(&self) -> bool {
        // Acquire pairs with the Release in `serve`: what was handed over is visible.
        self.served.load(Ordering::Acquire)
    }

    fn serve(&self) {
        self.served.store(true, Ordering::Release);
        self.waiter.wake();
    }
}

/// First come, first served. Bounded by the number of coroutines and threads.
#[derive(Default)]
pub(super) struct Queue {
    nodes: VecDeque<Arc<Node>>,
}

impl Queue {
    pub(super) const fn new() -> Self {
        Self {
            nodes: VecDeque::new(),
        }
    }

    /// Adds the caller at the end.
    pub(super) fn join(&mut self) -> Arc<Node> {
        let node = Arc::new(Node {
            waiter: Waiter::current(),
            served: AtomicBool::new(false),
        });
        self.nodes.push_back(Arc::clone(&node));
        node
    }

    /// Serves the first. False if nobody waits.
    pub(super) fn serve_one(&mut self) -> bool {
        let first = self.nodes.pop_front();
        if let Some(node) = &first {
            node.serve();
        }
        first.is_some()
    }

    /// Serves everybody.
    pub(super) fn serve_all(&mut self) {
        while self.serve_one() {}
    }

    /// Takes a waiter out that no longer waits. False if it was served already (Y-1).
    pub(super) fn leave(&mut self, node: &Arc<Node>) -> bool {
        let at = self.nodes.iter().position(|n| Arc::ptr_eq(n, node));
        at.and_then(|at| self.nodes.remove(at)).is_some()
    }
}
