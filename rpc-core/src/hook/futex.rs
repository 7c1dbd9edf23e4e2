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
//! The pthread locks of this folder wait here as well, by [`wait`] and [`wake`].
//!
//! Read first: `waiters.rs`, whose F-1 to F-3 hold here.

#![expect(
    unsafe_code,
    reason = "waiters lie on their stacks, words are the program's"
)]

use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::timespec;

use super::raw::{answer, c_int, c_long, failure, original, syscall};
use super::until::{Limit, Until};
use super::waiters::{EVERY_WORD, Node, Queue, Shard};
use super::{descriptors, is_on, sleep};
use crate::base::lock::SpinLock;
use crate::base::sys;
use crate::base::time::Instant;
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
        if task.shares_thread() || runtime::current().is_none() {
            // SAFETY: as above.
            return unsafe { self.wait_pinned(bits, &time.limit(timeout)) };
        }
        // SAFETY: the program waits on a word that it keeps alive; the kernel would read it too.
        let word = unsafe { AtomicU32::from_ptr(ptr::with_exposed_provenance_mut(self.a)) };
        let unchanged = || word.load(Ordering::SeqCst) == self.c as u32;
        park(task, self.a, bits, &time.limit(timeout), unchanged)
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
        wake(self.a, wanted, bits)
    }
}

/// Waits for a wake on the private word at `address`, in a coroutine or in a thread: 0 when woken or
/// without reason, else what the kernel says, EINTR in threads alone.
///
/// `unchanged` says whether the word still has its value; the kernel compares it with `expected`. The
/// word may be gone once a waker has changed it.
pub(super) fn wait(
    address: usize,
    expected: u32,
    bits: u32,
    until: Until<'_>,
    unchanged: impl FnOnce() -> bool,
) -> isize {
    match runtime::current().filter(|_| is_on()) {
        Some(task) => park(task, address, bits, &until.limit(), unchanged),
        None => kernel_wait(address, expected, bits, until, libc::FUTEX_PRIVATE_FLAG),
    }
}

/// Waits in the kernel, also for a word that other processes see; holds the worker meanwhile.
pub(super) fn wait_in_kernel(
    address: usize,
    expected: u32,
    until: Until<'_>,
    shared: bool,
) -> isize {
    let private = if shared { 0 } else { libc::FUTEX_PRIVATE_FLAG };
    held(|| kernel_wait(address, expected, u32::MAX, until, private))
}

/// Runs a call that waits in the kernel whoever calls: counted where it holds a worker.
pub(super) fn held<T>(call: impl Fn() -> T) -> T {
    runtime::pinned(Reason::Lock, |_| Some(call()))
}

/// The kernel's own wait; `private` is FUTEX_PRIVATE_FLAG, or 0 for a word that other processes see.
fn kernel_wait(
    address: usize,
    expected: u32,
    bits: u32,
    until: Until<'_>,
    private: c_int,
) -> isize {
    let clock = match until {
        Until::Wall(_) => libc::FUTEX_CLOCK_REALTIME,
        Until::Never | Until::Monotonic(_) => 0,
    };
    let operation = libc::FUTEX_WAIT_BITSET | private | clock;
    let spec = until.spec().map_or(ptr::null(), ptr::from_ref);
    original!(SYS_futex, address, operation, expected, spec, 0, bits)
}

/// Wakes up to `wanted` coroutines and threads that wait on the private word at `address`; how many.
/// The word itself is not looked at, and may be gone.
pub(super) fn wake(address: usize, wanted: u32, bits: u32) -> isize {
    let wanted = wanted.min(c_int::MAX as u32);
    let kernel = |count: u32| {
        let operation = libc::FUTEX_WAKE_BITSET | libc::FUTEX_PRIVATE_FLAG;
        original!(SYS_futex, address, operation, count, 0, 0, bits)
    };
    // A child after `fork` has no coroutines, and the parent's may have left a shard locked.
    let shard = shard_of(address);
    if !is_on() || shard.waiters.is_empty() {
        return kernel(wanted);
    }
    if wanted == 1 && shard.is_threads_turn() {
        let woken = kernel(1);
        if woken != 0 {
            return woken;
        }
    }
    let woken = wake_coroutines(address, wanted, bits);
    if woken == wanted {
        return woken as isize;
    }
    let threads = kernel(wanted - woken);
    if threads < 0 && woken == 0 {
        return threads;
    }
    woken as isize + threads.max(0)
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

/// The waiters of the words that share a hash.
struct Place {
    waiters: Shard<TaskRef>,
    /// Single wakes seen, for fairness between coroutines and threads.
    wakes: AtomicU32,
}

impl Place {
    const fn new() -> Self {
        Self {
            waiters: Shard {
                waiters: AtomicU32::new(0),
                queue: SpinLock::new(Queue::EMPTY),
            },
            wakes: AtomicU32::new(0),
        }
    }

    /// True for every eighth single wake: threads first, so that coroutines do not starve them.
    fn is_threads_turn(&self) -> bool {
        self.wakes.fetch_add(1, Ordering::Relaxed) % THREADS_TURN == THREADS_TURN - 1
    }
}

static SHARDS: [Place; PLACES] = [const { Place::new() }; PLACES];

/// Which of the [`PLACES`] those who wait on `word` wait at.
pub(super) fn place_of(word: usize) -> usize {
    // Fibonacci hashing: neighbours in one structure land far apart.
    let hash = (word >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash >> (usize::BITS - SHARD_BITS)
}

fn shard_of(word: usize) -> &'static Place {
    &SHARDS[place_of(word)]
}

/// Wakes every coroutine that waits at a place, whatever for: futex waits may end for no reason.
pub(super) fn wake_place(place: usize) {
    let waiters = &SHARDS[place].waiters;
    waiters.wake(EVERY_WORD, u32::MAX, u32::MAX, TaskRef::unpark);
}

/// Parks the coroutine until a wake on `word` or its time: 0, EAGAIN or ETIMEDOUT.
fn park(
    task: TaskRef,
    word: usize,
    bits: u32,
    limit: &Limit,
    unchanged: impl FnOnce() -> bool,
) -> isize {
    let waiters = &shard_of(word).waiters;
    let mut node = Node::new(word, bits, task);
    // From here on the node is reached through this pointer alone: wakers write to it too.
    let node = &raw mut node;
    // SAFETY: the node outlives its link: this function returns only after it is unlinked.
    if !unsafe { waiters.enter(node, unchanged) } {
        return failure(libc::EAGAIN);
    }
    loop {
        let (until, _) = limit.next();
        runtime::park::park(Reason::Futex(word), until);
        // SAFETY: the node lies on this very stack.
        if unsafe { Node::is_woken(node) } {
            return 0;
        }
        if limit.next().1 {
            // SAFETY: as above, and it entered above.
            let left = unsafe { waiters.give_up(node) };
            return if left { failure(libc::ETIMEDOUT) } else { 0 };
        }
    }
}

/// Wakes up to `wanted` coroutines that wait on `word` since before this call; how many.
fn wake_coroutines(word: usize, wanted: u32, bits: u32) -> u32 {
    let waiters = &shard_of(word).waiters;
    waiters.wake(word, wanted, bits, TaskRef::unpark)
}

const SHARD_BITS: u32 = 8;
/// Parts of the table.
pub(super) const PLACES: usize = 1 << SHARD_BITS;
const THREADS_TURN: u32 = 8;
