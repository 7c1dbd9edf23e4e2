//! `syscall(2)`: futex waits of coroutines park the coroutine; everything else goes to the kernel.
//!
//! std's Mutex, Condvar, RwLock, Once, `thread::park` and parking_lot all wait through this symbol, so
//! that here they become waits of coroutines. Threads and coroutines may wait on one word: a wake counts
//! both and returns the true sum.
//!
//! Knows:         futex words, the coroutines that wait on them.
//! Does not know: what the word means; deadlines and cancellation (exempt: std cannot bear an error).
//!
//! Emulated are FUTEX_WAIT and FUTEX_WAIT_BITSET with FUTEX_PRIVATE_FLAG in a coroutine. Shared words,
//! PI and WAITV block the worker in the kernel. Requeueing and WAKE_OP wake all coroutines of the words
//! they name, which the contract allows as spurious. Under shared identity every wait holds the worker in
//! the kernel (P3), for the word may belong to a thread-local of std or parking_lot.
//!
//! Invariants
//! - F-1  A node is linked only while its shard is locked, lies on the waiter's stack, and is unlinked
//!   before the waiter returns.
//! - F-2  Who unlinks decides: a waker marks the node woken after its last look at it; a waiter that
//!   finds itself unlinked was woken, even if its time is up.
//! - F-3  A waiter raises `waiters` before it reads the word, and a waker changes the word before it
//!   reads `waiters` (both sequentially consistent): one of them sees the other.

#![expect(
    unsafe_code,
    reason = "nodes are linked by raw pointers, words are the program's"
)]

use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use libc::timespec;

use super::raw::{answer, c_int, c_long, failure, syscall};
use super::{descriptors, is_on, sleep};
use crate::base::lock::SpinLock;
use crate::base::sys;
use crate::base::time::Instant;
use crate::runtime::park::park;
use crate::runtime::{self, Reason, TaskRef};

/// `syscall(2)` with all six argument registers.
///
/// # Safety
/// - As for libc's `syscall`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let call = Call { a, b, c, d, e, f };
    let result = match number {
        // SAFETY: the program's own promise.
        libc::SYS_futex if is_on() => unsafe { call.futex() },
        // Descriptors that end here must end in the table too.
        // SAFETY: as above.
        libc::SYS_close => return c_long::from(unsafe { descriptors::close(a as c_int) }),
        libc::SYS_close_range => {
            // SAFETY: as above.
            let result = unsafe { descriptors::close_range(a as u32, b as u32, c as c_int) };
            return c_long::from(result);
        }
        // SAFETY: as above.
        _ => unsafe { syscall!(number, a, b, c, d, e, f) },
    };
    answer(result) as c_long
}

/// The arguments of one futex call: word, operation, value, timeout or second value, second word,
/// bit set.
struct Call {
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
}

impl Call {
    /// # Safety
    /// - As for the kernel's futex call.
    unsafe fn futex(&self) -> isize {
        let operation = self.b as c_int;
        if operation & libc::FUTEX_PRIVATE_FLAG == 0 {
            // SAFETY: the program's own promise.
            return unsafe { self.kernel() };
        }
        let word = self.a;
        match operation & libc::FUTEX_CMD_MASK {
            libc::FUTEX_WAIT => {
                // SAFETY: as above.
                unsafe { self.wait(u32::MAX, Time::Relative) }
            }
            libc::FUTEX_WAIT_BITSET => {
                let time = if operation & libc::FUTEX_CLOCK_REALTIME != 0 {
                    Time::Wall
                } else {
                    Time::Monotonic
                };
                // SAFETY: as above.
                unsafe { self.wait(self.f as u32, time) }
            }
            libc::FUTEX_WAKE => self.wake(u32::MAX),
            libc::FUTEX_WAKE_BITSET => self.wake(self.f as u32),
            libc::FUTEX_REQUEUE | libc::FUTEX_CMP_REQUEUE | libc::FUTEX_WAKE_OP => {
                // SAFETY: as above.
                let result = unsafe { self.kernel() };
                if result >= 0 {
                    wake_coroutines(word, u32::MAX, u32::MAX);
                    wake_coroutines(self.e, u32::MAX, u32::MAX);
                }
                result
            }
            // SAFETY: as above.
            _ => unsafe { self.kernel() },
        }
    }

    /// # Safety
    /// - As for the kernel's futex call.
    unsafe fn kernel(&self) -> isize {
        // SAFETY: the caller's promise.
        unsafe {
            syscall!(
                libc::SYS_futex,
                self.a,
                self.b,
                self.c,
                self.d,
                self.e,
                self.f
            )
        }
    }

    /// # Safety
    /// - As for the kernel's futex call.
    unsafe fn wait(&self, bits: u32, time: Time) -> isize {
        let timeout = ptr::with_exposed_provenance::<timespec>(self.d);
        // SAFETY: the program passes null or a valid time.
        let timeout = unsafe { timeout.as_ref() };
        let odd = bits == 0 || self.a == 0 || !self.a.is_multiple_of(align_of::<u32>());
        let Some(task) = runtime::running().filter(|_| !odd) else {
            // SAFETY: the caller's promise.
            return unsafe { self.kernel() };
        };
        if timeout.is_some_and(|t| !sleep::is_valid(t)) {
            return failure(libc::EINVAL);
        }
        if task.shares_thread() {
            // SAFETY: as above.
            return unsafe { self.wait_pinned(bits, &time.limit(timeout)) };
        }
        // SAFETY: the program waits on a word that it keeps alive; the kernel would read it too.
        let word = unsafe { AtomicU32::from_ptr(ptr::with_exposed_provenance_mut(self.a)) };
        wait(word, self.c as u32, bits, task, time.limit(timeout))
    }

    /// Waits in the kernel, and holds the worker meanwhile.
    ///
    /// # Safety
    /// - As for the kernel's futex call.
    unsafe fn wait_pinned(&self, bits: u32, limit: &Limit) -> isize {
        let operation = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG;
        runtime::pinned(Reason::Futex(self.a), |pause| {
            let until = limit.next().0.min(pause);
            let spec = sys::to_timespec(until.saturating_since(Instant::ZERO));
            let place = if until.is_never() {
                ptr::null()
            } else {
                &raw const spec
            };
            // SAFETY: the caller's promise; `spec` lives across the call.
            let result =
                unsafe { syscall!(libc::SYS_futex, self.a, operation, self.c, place, 0, bits) };
            let paused = result == failure(libc::ETIMEDOUT) && !limit.next().1;
            (!paused).then_some(result)
        })
    }

    /// Wakes up to `self.c` waiters, coroutines and threads; how many there were.
    fn wake(&self, bits: u32) -> isize {
        // The kernel takes the count as an int; zero and less wake one.
        let wanted = u32::try_from(self.c as c_int).unwrap_or(1).max(1);
        // SAFETY: the kernel looks the address up and checks it.
        let kernel =
            |count: u32| unsafe { syscall!(libc::SYS_futex, self.a, self.b, count, 0, 0, self.f) };
        // F-3: the caller's change of the word comes before the look at `waiters`.
        fence(Ordering::SeqCst);
        let shard = shard_of(self.a);
        if shard.waiters.load(Ordering::Relaxed) == 0 {
            return kernel(wanted);
        }
        if wanted == 1 && shard.is_threads_turn() {
            let woken = kernel(1);
            if woken != 0 {
                return woken;
            }
        }
        let woken = wake_coroutines(self.a, wanted, bits);
        if woken == wanted {
            return woken as isize;
        }
        let threads = kernel(wanted - woken);
        if threads < 0 && woken == 0 {
            return threads;
        }
        woken as isize + threads.max(0)
    }
}

/// How a wait's timeout is meant.
#[derive(Clone, Copy)]
enum Time {
    Relative,
    Monotonic,
    Wall,
}

impl Time {
    fn limit(self, timeout: Option<&timespec>) -> Limit {
        match (timeout, self) {
            (None, _) => Limit::At(Instant::NEVER),
            (Some(t), Self::Relative) => Limit::At(Instant::after(sleep::duration_of(t))),
            (Some(t), Self::Monotonic) => Limit::At(Instant::ZERO + sleep::duration_of(t)),
            (Some(t), Self::Wall) => Limit::Wall(*t),
        }
    }
}

/// When a wait ends.
enum Limit {
    At(Instant),
    /// On a clock that can be set: read again each second.
    Wall(timespec),
}

impl Limit {
    /// The next instant to wake at for a look, and whether the time is up now.
    fn next(&self) -> (Instant, bool) {
        match self {
            Self::At(instant) => (*instant, !instant.is_never() && Instant::now() >= *instant),
            Self::Wall(wanted) => {
                let left = sleep::until_on_clock(libc::CLOCK_REALTIME, wanted);
                (Instant::after(left.min(sleep::RECHECK)), left.is_zero())
            }
        }
    }
}

/// A coroutine that waits; lies on its stack (F-1).
struct Node {
    /// Address of the word.
    word: usize,
    /// Wakes must share a bit with this.
    bits: u32,
    /// Shard-wide number in order of arrival.
    arrival: u64,
    task: TaskRef,
    /// 0 while linked; 1 once a waker is done with the node.
    woken: AtomicU32,
    next: *mut Self,
    previous: *mut Self,
}

/// Waiters of all words that share a hash, oldest first.
struct Queue {
    first: *mut Node,
    last: *mut Node,
    /// Number of the next arrival.
    arrivals: u64,
}

// SAFETY: the pointers are followed only under the shard's lock (F-1).
unsafe impl Send for Queue {}

#[repr(align(64))]
struct Shard {
    /// Nodes linked or about to be (F-3).
    waiters: AtomicU32,
    /// Single wakes seen, for fairness between coroutines and threads.
    wakes: AtomicU32,
    queue: SpinLock<Queue>,
}

impl Shard {
    const fn new() -> Self {
        Self {
            waiters: AtomicU32::new(0),
            wakes: AtomicU32::new(0),
            queue: SpinLock::new(Queue {
                first: ptr::null_mut(),
                last: ptr::null_mut(),
                arrivals: 0,
            }),
        }
    }

    /// True for every eighth single wake: threads first, so that coroutines do not starve them.
    fn is_threads_turn(&self) -> bool {
        self.wakes.fetch_add(1, Ordering::Relaxed) % THREADS_TURN == THREADS_TURN - 1
    }
}

static SHARDS: [Shard; SHARD_COUNT] = [const { Shard::new() }; SHARD_COUNT];

fn shard_of(word: usize) -> &'static Shard {
    // Fibonacci hashing: neighbours in one structure land far apart.
    let hash = (word >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    &SHARDS[hash >> (usize::BITS - SHARD_BITS)]
}

fn wait(word: &AtomicU32, expected: u32, bits: u32, task: TaskRef, limit: Limit) -> isize {
    let address = word.as_ptr().addr();
    let shard = shard_of(address);
    let mut node = Node {
        word: address,
        bits,
        arrival: 0,
        task,
        woken: AtomicU32::new(0),
        next: ptr::null_mut(),
        previous: ptr::null_mut(),
    };
    // From here on the node is reached through this pointer alone: wakers write to it too.
    let node = &raw mut node;
    shard.waiters.fetch_add(1, Ordering::SeqCst);
    {
        let mut queue = shard.queue.lock();
        if word.load(Ordering::SeqCst) != expected {
            drop(queue);
            shard.waiters.fetch_sub(1, Ordering::Relaxed);
            return failure(libc::EAGAIN);
        }
        // SAFETY: the node outlives its link: this function returns only after it is unlinked.
        unsafe { queue.push(node) };
    }
    loop {
        let (until, _) = limit.next();
        park(Reason::Futex(address), until);
        // SAFETY: the node lies on this very stack; wakers touch `woken` atomically.
        if unsafe { &(*node).woken }.load(Ordering::Acquire) == 1 {
            return 0;
        }
        if limit.next().1 {
            // SAFETY: as above.
            return unsafe { give_up(shard, node) };
        }
    }
}

/// Time is up: unlinks the node, unless a waker was faster (F-2).
///
/// # Safety
/// - `node` was linked into `shard` by the caller and lies on its stack.
unsafe fn give_up(shard: &Shard, node: *mut Node) -> isize {
    let mut queue = shard.queue.lock();
    // SAFETY: the caller's promise.
    if unsafe { &(*node).woken }.load(Ordering::Acquire) == 1 {
        return 0;
    }
    // SAFETY: wakers mark nodes under this lock, so this one is still linked.
    unsafe { queue.unlink(node) };
    drop(queue);
    shard.waiters.fetch_sub(1, Ordering::Relaxed);
    failure(libc::ETIMEDOUT)
}

/// Wakes up to `wanted` coroutines that wait on `word` since before this call; how many.
fn wake_coroutines(word: usize, wanted: u32, bits: u32) -> u32 {
    let shard = shard_of(word);
    let mut woken = 0;
    let mut newest = None;
    while woken < wanted {
        let mut batch = [None; BATCH];
        let room = BATCH.min((wanted - woken) as usize);
        let count = {
            let mut queue = shard.queue.lock();
            let before = *newest.get_or_insert(queue.arrivals);
            queue.take(word, bits, before, &mut batch[..room])
        };
        shard.waiters.fetch_sub(count as u32, Ordering::Relaxed);
        for task in batch.iter().take(count).flatten() {
            task.unpark();
        }
        woken += count as u32;
        if count < room {
            break;
        }
    }
    woken
}

impl Queue {
    /// # Safety
    /// - `node` is not linked and stays where it is until it is unlinked.
    unsafe fn push(&mut self, node: *mut Node) {
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
    unsafe fn unlink(&mut self, node: *mut Node) {
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
    /// and writes their coroutines to `out`; how many.
    fn take(&mut self, word: usize, bits: u32, before: u64, out: &mut [Option<TaskRef>]) -> usize {
        let mut count = 0;
        let mut at = self.first;
        while !at.is_null() && count < out.len() {
            // SAFETY: linked, hence alive, and only lock holders write to it.
            let entry = unsafe { &*at };
            let next = entry.next;
            if entry.arrival >= before {
                break;
            }
            if entry.word == word && entry.bits & bits != 0 {
                out[count] = Some(entry.task);
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

const SHARD_BITS: u32 = 8;
const SHARD_COUNT: usize = 1 << SHARD_BITS;
/// Waiters woken between two holds of the shard's lock.
const BATCH: usize = 32;
const THREADS_TURN: u32 = 8;
