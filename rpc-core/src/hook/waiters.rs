//! Who waits for which word: the queues behind `futex.rs`.
//!
//! Knows:         addresses, queues in order of arrival, a token for each waiter.
//! Does not know: coroutines, time, what a word means. The package `models` runs this file through
//! loom.
//!
//! Invariants
//! - F-1  A node is linked only while its shard is locked, lies on the waiter's stack, and is unlinked
//!   before the waiter returns.
//! - F-2  Who unlinks decides: a waker marks the node woken after its last look at it; a waiter that
//!   finds itself unlinked was woken, even if its time is up.
//! - F-3  A waiter raises `waiters` before it reads the word, and a waker changes the word before it
//!   reads `waiters` (a sequentially consistent fence in between): one of them sees the other.

#![expect(unsafe_code, reason = "nodes are linked by raw pointers")]

use std::ptr;

use crate::base::atomic::{AtomicU32, Ordering, fence};
use crate::base::lock::SpinLock;

/// A waiter; lies on its stack (F-1).
pub(super) struct Node<T> {
    /// Address of the word.
    word: usize,
    /// Wakes must share a bit with this.
    bits: u32,
    /// Shard-wide number in order of arrival.
    arrival: u64,
    /// How to wake the waiter.
    token: T,
    /// 0 while linked; 1 once a waker is done with the node.
    woken: AtomicU32,
    next: *mut Self,
    previous: *mut Self,
}

impl<T> Node<T> {
    pub(super) fn new(word: usize, bits: u32, token: T) -> Self {
        Self {
            word,
            bits,
            arrival: 0,
            token,
            woken: AtomicU32::new(0),
            next: ptr::null_mut(),
            previous: ptr::null_mut(),
        }
    }

    /// Whether a waker has unlinked it and is done with it.
    ///
    /// # Safety
    /// - `node` is alive.
    pub(super) unsafe fn is_woken(node: *const Self) -> bool {
        // Acquire pairs with the Release in `take`. SAFETY: the caller's promise; wakers touch `woken`
        // atomically.
        unsafe { &(*node).woken }.load(Ordering::Acquire) == 1
    }
}

/// Waiters of all words that share a hash, oldest first.
pub(super) struct Queue<T> {
    first: *mut Node<T>,
    last: *mut Node<T>,
    /// Number of the next arrival.
    arrivals: u64,
}

// SAFETY: the pointers are followed only under the shard's lock (F-1).
unsafe impl<T: Send> Send for Queue<T> {}

impl<T> Queue<T> {
    pub(super) const EMPTY: Self = Self {
        first: ptr::null_mut(),
        last: ptr::null_mut(),
        arrivals: 0,
    };
}

/// One part of the table.
#[repr(align(64))]
pub(super) struct Shard<T> {
    /// Nodes linked or about to be (F-3).
    pub(super) waiters: AtomicU32,
    pub(super) queue: SpinLock<Queue<T>>,
}

impl<T: Copy> Shard<T> {
    /// Whether nobody waits here, seen after whatever the caller changed before (F-3).
    pub(super) fn is_empty(&self) -> bool {
        // Pairs with the fence in `enter`.
        fence(Ordering::SeqCst);
        self.waiters.load(Ordering::Relaxed) == 0
    }

    /// Links `node` if `unchanged` says so of its word. False: nothing was done.
    ///
    /// # Safety
    /// - `node` stays where it is, reached through this pointer alone, until [`Node::is_woken`] or
    ///   [`Shard::give_up`] has said true.
    pub(super) unsafe fn enter(
        &self,
        node: *mut Node<T>,
        unchanged: impl FnOnce() -> bool,
    ) -> bool {
        // F-3: the fence pairs with the one in `is_empty`.
        self.waiters.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let mut queue = self.queue.lock();
        if !unchanged() {
            drop(queue);
            self.waiters.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        // SAFETY: the caller's promise.
        unsafe { queue.push(node) };
        true
    }

    /// Unlinks the node, unless a waker was faster (F-2): false, and it has been woken.
    ///
    /// # Safety
    /// - `node` entered this shard and lies on the caller's stack.
    pub(super) unsafe fn give_up(&self, node: *mut Node<T>) -> bool {
        let mut queue = self.queue.lock();
        // SAFETY: the caller's promise.
        if unsafe { Node::is_woken(node) } {
            return false;
        }
        // SAFETY: wakers mark nodes under this lock, so this one is still linked.
        unsafe { queue.unlink(node) };
        drop(queue);
        self.waiters.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// Unlinks up to `wanted` nodes of `word` ([`EVERY_WORD`]: of all) that share a bit with `bits` and entered before this
    /// call, and hands their tokens to `wake`; how many.
    pub(super) fn wake(&self, word: usize, wanted: u32, bits: u32, mut wake: impl FnMut(T)) -> u32 {
        let mut woken = 0;
        let mut newest = None;
        while woken < wanted {
            let mut batch = [None; BATCH];
            let room = BATCH.min((wanted - woken) as usize);
            let count = {
                let mut queue = self.queue.lock();
                let before = *newest.get_or_insert(queue.arrivals);
                queue.take(word, bits, before, &mut batch[..room])
            };
            self.waiters.fetch_sub(count as u32, Ordering::Relaxed);
            batch.into_iter().take(count).flatten().for_each(&mut wake);
            woken += count as u32;
            if count < room {
                break;
            }
        }
        woken
    }
}

impl<T: Copy> Queue<T> {
    /// # Safety
    /// - `node` is not linked and stays where it is until it is unlinked.
    unsafe fn push(&mut self, node: *mut Node<T>) {
        // SAFETY: the caller's promise; only lock holders follow these pointers.
        let entry = unsafe { &mut *node };
        entry.arrival = self.arrivals;
        self.arrivals += 1;
        entry.previous = self.last;
        entry.next = ptr::null_mut();
        if self.last.is_null() {
            self.first = node;
        } else {
            // SAFETY: `last` is linked, hence alive (F-1).
            unsafe { (*self.last).next = node };
        }
        self.last = node;
    }

    /// # Safety
    /// - `node` is linked in this queue.
    unsafe fn unlink(&mut self, node: *mut Node<T>) {
        // SAFETY: the caller's promise.
        let (previous, next) = unsafe { ((*node).previous, (*node).next) };
        if previous.is_null() {
            self.first = next;
        } else {
            // SAFETY: neighbours of a linked node are linked, hence alive.
            unsafe { (*previous).next = next };
        }
        if next.is_null() {
            self.last = previous;
        } else {
            // SAFETY: as above.
            unsafe { (*next).previous = previous };
        }
    }

    /// Unlinks waiters of `word` that arrived before number `before`, oldest first, marks them woken
    /// and writes their tokens to `out`; how many.
    fn take(&mut self, word: usize, bits: u32, before: u64, out: &mut [Option<T>]) -> usize {
        let mut count = 0;
        let mut at = self.first;
        while !at.is_null() && count < out.len() {
            // SAFETY: linked, hence alive, and only lock holders write to it.
            let entry = unsafe { &*at };
            let next = entry.next;
            if entry.arrival >= before {
                break;
            }
            let same = entry.word == word || word == EVERY_WORD;
            if same && entry.bits & bits != 0 {
                out[count] = Some(entry.token);
                count += 1;
                // SAFETY: linked in this queue.
                unsafe { self.unlink(at) };
                // F-2: the last look at the node; its owner may return at once.
                // SAFETY: the owner is still waiting for this very store.
                unsafe { &(*at).woken }.store(1, Ordering::Release);
            }
            at = next;
        }
        count
    }
}

/// Stands for all words of a shard; nobody waits at address 0.
pub(super) const EVERY_WORD: usize = 0;
/// Waiters woken between two holds of the shard's lock.
const BATCH: usize = 32;
