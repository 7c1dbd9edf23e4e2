//! The queue of waiters that every primitive here has inside its spin lock, and the wait in it.
//!
//! A waiter's node lies on the waiter's own stack and carries what is handed over: the payload. So
//! waiting allocates nothing, and whoever is served has what it waited for in its hands; nobody can
//! overtake it.
//!
//! Knows: park and wake, the caller's spin lock.   Does not know: what is waited for.
//!
//! Invariants
//! - Q-1  A node is linked, unlinked and served only under its queue's lock. Whoever waits unlinks its
//!   nodes, or finds them unlinked under that lock, before it returns; only a served waiter that stands
//!   in one queue alone returns without a look, for whoever serves is done with the node then.
//! - Q-2  A turn is decided once: WAITING → CLAIMED → DONE by the one who serves it, WAITING → LEFT by
//!   the waiter. Between CLAIMED and DONE the node and its payload are the server's, before and after
//!   they are the waiter's.
//! - Q-3  A server copies the waiter's way of waking before DONE; after DONE it touches neither node
//!   nor turn.

#![expect(
    unsafe_code,
    reason = "nodes on the waiters' stacks are linked by raw pointers"
)]

use std::cell::Cell;
use std::fmt;
use std::ptr;

use crate::base::atomic::{AtomicU32, Ordering, UnsafeCell};
use crate::base::lock::{SpinGuard, SpinLock};
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

/// What may end a wait besides being served.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    until: Instant,
    /// Whether the scope's deadline and cancellation count too.
    by_scope: bool,
}

impl Cut {
    /// Nothing: for primitives that cannot fail.
    pub(super) const NEVER: Self = Self {
        until: Instant::NEVER,
        by_scope: false,
    };

    /// `until` alone.
    pub(super) fn at(until: Instant) -> Self {
        Self {
            until,
            by_scope: false,
        }
    }

    /// `until`, the scope's deadline, cancellation.
    pub(super) fn by_scope(until: Instant) -> Self {
        Self {
            until,
            by_scope: true,
        }
    }
}

/// One who waits, in one queue or in several at once.
pub struct Turn {
    /// WAITING, CLAIMED, LEFT, or DONE + 2 × the place it was served at + 1 if that was closed.
    state: AtomicU32,
    /// In one queue alone: that queue's lock decides, and CLAIMED and LEFT are not needed.
    alone: bool,
    waiter: Waiter,
}

/// A turn that is about to stand in several queues, and the number of the next place.
pub struct Standing<'a> {
    turn: &'a Turn,
    place: u32,
}

impl<'a> Standing<'a> {
    /// # Safety
    /// - `turn`, and the [`Place`] that joins with this, stay where they are until [`Place::leave`].
    pub(super) unsafe fn new(turn: &'a Turn, place: u32) -> Self {
        Self { turn, place }
    }
}

/// How a turn was decided.
#[derive(Clone, Copy)]
pub(super) struct Served {
    /// The place, as numbered by the waiter.
    pub(super) place: u32,
    /// Nothing was handed over and nothing ever will be.
    pub(super) closed: bool,
}

const WAITING: u32 = 0;
const CLAIMED: u32 = 1;
const LEFT: u32 = 2;
const DONE: u32 = 4;

impl Turn {
    /// The caller's, for one queue or for several.
    pub(super) fn new(alone: bool) -> Self {
        Self {
            state: AtomicU32::new(WAITING),
            alone,
            waiter: Waiter::current(),
        }
    }

    /// How it was decided, if it was.
    pub(super) fn served(&self) -> Option<Served> {
        // Acquire pairs with the Release in `finish`: what was handed over is visible.
        let state = self.state.load(Ordering::Acquire);
        (state >= DONE).then(|| Served {
            place: (state - DONE) / 2,
            closed: state % 2 == 1,
        })
    }

    /// Waits to be served.
    pub(super) fn wait(&self, reason: Reason, cut: Cut) -> Result<Served, WaitError> {
        let until = if cut.by_scope {
            limit(cut.until)
        } else {
            cut.until
        };
        loop {
            if let Some(served) = self.served() {
                return Ok(served);
            }
            if cut.by_scope && cancelled() {
                return Err(WaitError::Cancelled);
            }
            if !until.is_never() && Instant::now() >= until {
                return Err(WaitError::TimedOut);
            }
            park(reason, until);
        }
    }

    /// Gives the wait up, unless somebody serves it; for turns in several queues. After this and
    /// leaving each of them, [`Turn::served`] is final.
    pub(super) fn leave(&self) {
        // Relaxed: the locks of the queues, which the waiter takes next, order the rest.
        let _ = self
            .state
            .compare_exchange(WAITING, LEFT, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Makes the turn the caller's to serve. Under the lock of a queue that it stands in.
    fn claim(&self) -> bool {
        // Relaxed: the payload was written under that lock.
        self.alone
            || self
                .state
                .compare_exchange(WAITING, CLAIMED, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

/// A place in a queue.
pub(super) struct Node<P> {
    /// Set while linked.
    turn: Cell<*const Turn>,
    /// This place's number among those of the turn.
    place: Cell<u32>,
    payload: UnsafeCell<P>,
    linked: Cell<bool>,
    next: Cell<*const Self>,
    previous: Cell<*const Self>,
}

impl<P> Node<P> {
    fn new(payload: P) -> Self {
        Self {
            turn: Cell::new(ptr::null()),
            place: Cell::new(0),
            payload: UnsafeCell::new(payload),
            linked: Cell::new(false),
            next: Cell::new(ptr::null()),
            previous: Cell::new(ptr::null()),
        }
    }
}

/// First come, first served. Bounded by the number of coroutines and threads.
pub(super) struct Queue<P> {
    first: *const Node<P>,
    last: *const Node<P>,
}

// SAFETY: the pointers are followed only under the lock around the queue, and payloads pass
// between threads under it.
unsafe impl<P: Send> Send for Queue<P> {}

impl<P> Queue<P> {
    pub(super) const fn new() -> Self {
        Self {
            first: ptr::null(),
            last: ptr::null(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Whether anybody but `standing` stands here.
    pub(super) fn has_other(&self, standing: &Standing<'_>) -> bool {
        let mut at = self.first;
        // SAFETY: linked, hence alive.
        while let Some(node) = unsafe { at.as_ref() } {
            if !ptr::eq(node.turn.get(), standing.turn) {
                return true;
            }
            at = node.next.get();
        }
        false
    }

    /// The payload of the first place.
    pub(super) fn first(&mut self) -> Option<&mut P> {
        // SAFETY: linked, hence alive.
        let node = unsafe { self.first.as_ref() }?;
        debug_assert!(
            // SAFETY: a linked node's turn is alive.
            unsafe { &*node.turn.get() }.alone,
            "a turn in several queues may be decided elsewhere: its place is no news"
        );
        // SAFETY: the turn stands here alone and is undecided, and this borrow holds the queue.
        Some(node.payload.with_mut(|payload| unsafe { &mut *payload }))
    }

    /// Serves the first who still waits: `give` hands over or takes. The waiter is the caller's to
    /// wake, best once the lock is released.
    #[must_use = "the served must be woken"]
    pub(super) fn serve(&mut self, give: impl FnOnce(&mut P)) -> Option<Waiter> {
        let node = self.claim()?;
        // SAFETY: claimed, hence alive and ours until `finish`.
        unsafe { &*node }
            .payload
            // SAFETY: as above.
            .with_mut(|payload| give(unsafe { &mut *payload }));
        // SAFETY: as above; not touched after this.
        Some(unsafe { finish(node, false) })
    }

    /// Serves everybody, with nothing: `closed` says that nothing will come. To be woken by the caller.
    #[must_use = "the served must be woken"]
    pub(super) fn serve_all(&mut self, closed: bool) -> Vec<Waiter> {
        let mut served = Vec::new();
        while let Some(node) = self.claim() {
            // SAFETY: claimed, hence alive and ours; not touched after this.
            served.push(unsafe { finish(node, closed) });
        }
        served
    }

    /// Unlinks places up to the first whose turn is undecided, and claims that turn.
    fn claim(&mut self) -> Option<*const Node<P>> {
        while !self.first.is_null() {
            let node = self.first;
            // SAFETY: linked here.
            unsafe { self.unlink(node) };
            // SAFETY: its waiter cannot leave without the lock that we hold.
            if unsafe { &*(*node).turn.get() }.claim() {
                return Some(node);
            }
        }
        None
    }

    /// # Safety
    /// - `node` and `turn` stay where they are until the node is unlinked; it is not linked yet.
    unsafe fn push(&mut self, node: &Node<P>, turn: &Turn, place: u32) {
        node.turn.set(turn);
        node.place.set(place);
        node.linked.set(true);
        node.next.set(ptr::null());
        node.previous.set(self.last);
        // SAFETY: linked, hence alive.
        match unsafe { self.last.as_ref() } {
            Some(last) => last.next.set(node),
            None => self.first = node,
        }
        self.last = node;
    }

    /// # Safety
    /// - `node` is linked in this queue.
    unsafe fn unlink(&mut self, node: *const Node<P>) {
        // SAFETY: the caller's promise.
        let node = unsafe { &*node };
        let (next, previous) = (node.next.get(), node.previous.get());
        // SAFETY: neighbours of a linked node are linked, hence alive.
        match unsafe { previous.as_ref() } {
            Some(previous) => previous.next.set(next),
            None => self.first = next,
        }
        // SAFETY: as above.
        match unsafe { next.as_ref() } {
            Some(next) => next.previous.set(previous),
            None => self.last = previous,
        }
        node.linked.set(false);
    }
}

impl<P> Default for Queue<P> {
    fn default() -> Self {
        Self::new()
    }
}

/// Ends the service of a claimed node: from here on it is its waiter's again.
///
/// # Safety
/// - `node` is claimed by the caller, who holds the queue's lock.
unsafe fn finish<P>(node: *const Node<P>, closed: bool) -> Waiter {
    // SAFETY: the caller's promise.
    let node = unsafe { &*node };
    let place = node.place.get();
    // SAFETY: the turn waits for the store below.
    let turn = unsafe { &*node.turn.get() };
    let waiter = turn.waiter.clone();
    // Release pairs with the Acquire in `served`.
    turn.state
        .store(DONE + 2 * place + u32::from(closed), Ordering::Release);
    waiter
}

/// Stands in the queue that `queue` finds in the locked state until served or cut, with the lock
/// released meanwhile; `then` runs between the release and the wait. Gives back the payload.
///
/// One who is served at the moment it is cut counts as served.
pub(super) fn wait_then<S, P>(
    mut guard: SpinGuard<'_, S>,
    queue: fn(&mut S) -> &mut Queue<P>,
    payload: P,
    (reason, cut): (Reason, Cut),
    then: impl FnOnce(),
) -> (Result<(), WaitError>, P) {
    let turn = Turn::new(true);
    let node = Node::new(payload);
    // SAFETY: both lie in this frame, which ends only after the node is unlinked: served, or below.
    unsafe { queue(&mut guard).push(&node, &turn, 0) };
    let lock = SpinGuard::unlock(guard);
    then();
    let mut served = turn.wait(reason, cut);
    if served.is_err() {
        let mut state = lock.lock();
        if node.linked.get() {
            // SAFETY: linked here, by us.
            unsafe { queue(&mut state).unlink(&node) };
        } else if let Some(late) = turn.served() {
            served = Ok(late);
        }
    }
    let outcome = match served {
        Ok(served) if served.closed => Err(WaitError::Closed),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    (outcome, node.payload.into_inner())
}

/// [`wait_then`] with nothing in between.
#[inline]
pub(super) fn wait<S, P>(
    guard: SpinGuard<'_, S>,
    queue: fn(&mut S) -> &mut Queue<P>,
    payload: P,
    how: (Reason, Cut),
) -> (Result<(), WaitError>, P) {
    wait_then(guard, queue, payload, how, || ())
}

/// A place that a turn in several queues may take in one of them.
pub(super) struct Place<'a, S, P> {
    lock: &'a SpinLock<S>,
    queue: fn(&mut S) -> &mut Queue<P>,
    node: Node<P>,
}

impl<'a, S, P> Place<'a, S, P> {
    pub(super) fn new(
        lock: &'a SpinLock<S>,
        queue: fn(&mut S) -> &mut Queue<P>,
        payload: P,
    ) -> Self {
        Self {
            lock,
            queue,
            node: Node::new(payload),
        }
    }

    /// Takes the place, unless `ready` finds under the lock that there is nothing to wait for.
    pub(super) fn join(&self, standing: &Standing<'_>, ready: impl FnOnce(&mut S) -> bool) -> bool {
        let mut state = self.lock.lock();
        if ready(&mut state) {
            return false;
        }
        let Standing { turn, place } = *standing;
        // SAFETY: `Standing`'s promise.
        unsafe { (self.queue)(&mut state).push(&self.node, turn, place) };
        true
    }

    /// Leaves the place if it is still taken. After this no server looks at it.
    pub(super) fn leave(&self) {
        let mut state = self.lock.lock();
        if self.node.linked.get() {
            // SAFETY: linked here, by `join`.
            unsafe { (self.queue)(&mut state).unlink(&self.node) };
        }
    }

    /// What was put in, or what was handed over.
    pub(super) fn payload(&mut self) -> &mut P {
        // SAFETY: whoever made the `Standing` uses the place only after leaving it; then, and before it
        // is taken, this borrow is the only access.
        self.node
            .payload
            .with_mut(|payload| unsafe { &mut *payload })
    }

    pub(super) fn lock(&self) -> &'a SpinLock<S> {
        self.lock
    }
}

/// Wakes those who were served.
pub(super) fn wake_all(served: Vec<Waiter>) {
    served.iter().for_each(Waiter::wake);
}
