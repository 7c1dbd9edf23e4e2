//! pthread read-write locks: our own, in the object's memory.
//!
//! Knows:         a state word, how many writers wait, the kind of the lock.
//! Does not know: deadlines and cancellation (exempt: C cannot bear an error here).
//!
//! Readers go first as long as readers hold it, as in glibc: a reader may hold it twice. A lock of kind
//! PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP lets waiting writers go first. After a writer, readers
//! that wait come before writers that wait, after readers a writer. The layout is glibc's where static
//! initialisers fix it; `pthread_rwlock_init` stays its own. Process-shared locks are glibc's whole.
//!
//! Invariants
//! - B-1  Who is to wait sets [`WAITING`] first, then looks again, then waits for the very state it saw.
//!   Who waited takes the lock with the bit set, since others may be waiting still. Who frees a lock
//!   that has the bit clears it and wakes.
//! - B-2  A freed lock is not touched again.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use libc::{clockid_t, pthread_rwlock_t, timespec};

use super::caller;
use super::futex;
use super::raw::{c_int, failure};
use super::symbol::{Symbol, behind};
use super::until::Until;

/// The functions without a time: what ours does, glibc's own for process-shared locks.
macro_rules! plain {
    ($($name:ident, $symbol:literal, $text:literal, $ours:expr, $theirs:path;)+) => {$(
        #[doc = $text]
        ///
        /// # Safety
        /// - As for libc's function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(lock: *mut pthread_rwlock_t) -> c_int {
            // SAFETY: the program's own promise.
            match unsafe { RwLock::ours(lock) } {
                Some(ours) => $ours(ours),
                // SAFETY: as above.
                None => $theirs(|| unsafe {
                    behind!(Symbol::new($symbol), lock: *mut pthread_rwlock_t)
                }),
            }
        }
    )+};
}

plain! {
    pthread_rwlock_rdlock, c"pthread_rwlock_rdlock", "`pthread_rwlock_rdlock(3)`.",
        |lock: &RwLock| lock.read(Until::Never), futex::held;
    pthread_rwlock_tryrdlock, c"pthread_rwlock_tryrdlock", "`pthread_rwlock_tryrdlock(3)`.",
        RwLock::try_read, at_once;
    pthread_rwlock_wrlock, c"pthread_rwlock_wrlock", "`pthread_rwlock_wrlock(3)`.",
        |lock: &RwLock| lock.write(Until::Never), futex::held;
    pthread_rwlock_trywrlock, c"pthread_rwlock_trywrlock", "`pthread_rwlock_trywrlock(3)`.",
        RwLock::try_write, at_once;
    pthread_rwlock_unlock, c"pthread_rwlock_unlock", "`pthread_rwlock_unlock(3)`.", RwLock::unlock, at_once;
}

/// A call of glibc's that does not wait.
fn at_once(call: impl Fn() -> c_int) -> c_int {
    call()
}

/// The functions with a time on the wall clock.
macro_rules! timed {
    ($($name:ident, $symbol:literal, $text:literal, $ours:ident;)+) => {$(
        #[doc = $text]
        ///
        /// # Safety
        /// - As for libc's function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(lock: *mut pthread_rwlock_t, time: *const timespec) -> c_int {
            // SAFETY: the program's own promise.
            match unsafe { (RwLock::ours(lock), time.as_ref()) } {
                (Some(ours), Some(time)) => ours.$ours(Until::Wall(time)),
                // SAFETY: as above.
                _ => futex::held(|| unsafe {
                    behind!(Symbol::new($symbol), lock: *mut pthread_rwlock_t, time: *const timespec)
                }),
            }
        }
    )+};
}

timed! {
    pthread_rwlock_timedrdlock, c"pthread_rwlock_timedrdlock", "`pthread_rwlock_timedrdlock(3)`.", read;
    pthread_rwlock_timedwrlock, c"pthread_rwlock_timedwrlock", "`pthread_rwlock_timedwrlock(3)`.", write;
}

/// The functions with a time on a clock of the caller's.
macro_rules! clocked {
    ($($name:ident, $symbol:literal, $text:literal, $ours:ident;)+) => {$(
        #[doc = $text]
        ///
        /// # Safety
        /// - As for libc's function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            lock: *mut pthread_rwlock_t,
            clock: clockid_t,
            time: *const timespec,
        ) -> c_int {
            // SAFETY: the program's own promise.
            match unsafe { (RwLock::ours(lock), time.as_ref()) } {
                (Some(ours), Some(time)) => match Until::on(clock, time) {
                    Ok(until) => ours.$ours(until),
                    Err(error) => error,
                },
                // SAFETY: as above.
                _ => futex::held(|| unsafe {
                    behind!(
                        Symbol::new($symbol),
                        lock: *mut pthread_rwlock_t,
                        clock: clockid_t,
                        time: *const timespec
                    )
                }),
            }
        }
    )+};
}

clocked! {
    pthread_rwlock_clockrdlock, c"pthread_rwlock_clockrdlock", "`pthread_rwlock_clockrdlock(3)`.", read;
    pthread_rwlock_clockwrlock, c"pthread_rwlock_clockwrlock", "`pthread_rwlock_clockwrlock(3)`.", write;
}

/// A `pthread_rwlock_t` that is not process-shared. All zero is a free one.
#[repr(C)]
struct RwLock {
    /// How many readers hold it, or [`WRITER`]; and [`WAITING`].
    state: AtomicU32,
    /// Calls that wait to write.
    writers: AtomicU32,
    /// The writer ([`caller`]); 0 = none.
    writer: AtomicUsize,
    _unused: [u32; 3],
    /// Not 0 for process-shared ones.
    shared: AtomicU32,
    _padding: [u64; 2],
    /// The kind.
    flags: AtomicU32,
}

#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(std::mem::offset_of!(RwLock, shared) == 28);
    assert!(std::mem::offset_of!(RwLock, flags) == 48);
    assert!(size_of::<RwLock>() <= size_of::<pthread_rwlock_t>());
};

impl RwLock {
    /// The lock, unless it is glibc's.
    ///
    /// # Safety
    /// - The pointer is to a lock that lives while it is used.
    unsafe fn ours<'a>(lock: *mut pthread_rwlock_t) -> Option<&'a Self> {
        // SAFETY: the caller's promise; all that is shared in it is atomic.
        let ours = unsafe { &*lock.cast::<Self>() };
        (ours.shared.load(Ordering::Relaxed) == 0).then_some(ours)
    }

    fn try_read(&self) -> c_int {
        loop {
            let state = self.state.load(Ordering::SeqCst);
            if !self.lets_read(state) {
                return libc::EBUSY;
            }
            if let Some(result) = self.enter(state, 0) {
                return result;
            }
        }
    }

    fn read(&self, until: Until<'_>) -> c_int {
        if self.is_written_by_caller() {
            return libc::EDEADLK;
        }
        let mut waited = 0;
        loop {
            let state = self.state.load(Ordering::SeqCst);
            if self.lets_read(state) {
                match self.enter(state, waited) {
                    Some(result) => return result,
                    None => continue,
                }
            }
            if let Err(error) = self.wait(state, READERS_WAIT, until) {
                return error;
            }
            waited = WAITING;
        }
    }

    fn lets_read(&self, state: u32) -> bool {
        let writers_first = self.flags.load(Ordering::Relaxed) == PREFER_WRITER_NONRECURSIVE;
        state & WRITER == 0 && !(writers_first && self.writers.load(Ordering::SeqCst) > 0)
    }

    /// One reader more; `None` if the state has changed.
    fn enter(&self, state: u32, waited: u32) -> Option<c_int> {
        if state & READERS == READERS {
            return Some(libc::EAGAIN);
        }
        self.swap(state, (state + 1) | waited).then_some(0)
    }

    fn try_write(&self) -> c_int {
        if self.take(0) {
            self.written()
        } else {
            libc::EBUSY
        }
    }

    fn write(&self, until: Until<'_>) -> c_int {
        if self.take(0) {
            return self.written();
        }
        if self.is_written_by_caller() {
            return libc::EDEADLK;
        }
        self.writers.fetch_add(1, Ordering::SeqCst);
        let result = self.wait_to_write(until);
        self.writers.fetch_sub(1, Ordering::SeqCst);
        match result {
            Ok(()) => self.written(),
            Err(error) => {
                // Readers may have waited for this writer alone.
                futex::wake(self.state.as_ptr().addr(), u32::MAX, READERS_WAIT);
                error
            }
        }
    }

    fn wait_to_write(&self, until: Until<'_>) -> Result<(), c_int> {
        let mut waited = 0;
        while !self.take(waited) {
            let state = self.state.load(Ordering::SeqCst);
            if state & (READERS | WRITER) != 0 {
                self.wait(state, WRITERS_WAIT, until)?;
                waited = WAITING;
            }
        }
        Ok(())
    }

    /// Takes a free lock to write.
    fn take(&self, waited: u32) -> bool {
        let mut state = self.state.load(Ordering::SeqCst);
        while state & (READERS | WRITER) == 0 {
            if self.swap(state, state | WRITER | waited) {
                return true;
            }
            state = self.state.load(Ordering::SeqCst);
        }
        false
    }

    /// B-1, one look: an error where the time is up.
    fn wait(&self, state: u32, bits: u32, until: Until<'_>) -> Result<(), c_int> {
        if state & WAITING == 0 {
            until.check()?;
            self.swap(state, state | WAITING);
            return Ok(());
        }
        let address = self.state.as_ptr().addr();
        let unchanged = || self.state.load(Ordering::SeqCst) == state;
        let result = futex::wait(address, state, bits, until, unchanged);
        if result == failure(libc::ETIMEDOUT) {
            return Err(libc::ETIMEDOUT);
        }
        Ok(())
    }

    fn unlock(&self) -> c_int {
        let address = self.state.as_ptr().addr();
        if self.state.load(Ordering::Relaxed) & WRITER != 0 {
            self.writer.store(0, Ordering::Relaxed);
            let writers_first = self.flags.load(Ordering::Relaxed) == PREFER_WRITER_NONRECURSIVE;
            if self.state.swap(0, Ordering::SeqCst) & WAITING != 0 {
                wake_one_kind_or_other(address, writers_first);
            }
            return 0;
        }
        loop {
            let state = self.state.load(Ordering::SeqCst);
            let is_last = state & READERS == 1;
            if state & READERS == 0 {
                return libc::EPERM;
            }
            if self.swap(state, if is_last { 0 } else { state - 1 }) {
                if is_last && state & WAITING != 0 {
                    wake_one_kind_or_other(address, true);
                }
                return 0;
            }
        }
    }

    fn swap(&self, from: u32, to: u32) -> bool {
        // Taking pairs with freeing: both are this or a swap, sequentially consistent.
        self.state
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    fn written(&self) -> c_int {
        self.writer.store(caller(), Ordering::Relaxed);
        0
    }

    fn is_written_by_caller(&self) -> bool {
        self.writer.load(Ordering::Relaxed) == caller()
    }
}

/// Wakes one writer or all readers, and the other kind if there is none of the first (B-2).
fn wake_one_kind_or_other(address: usize, writer_first: bool) {
    let writer = || futex::wake(address, 1, WRITERS_WAIT);
    let readers = || futex::wake(address, u32::MAX, READERS_WAIT);
    if writer_first {
        if writer() <= 0 {
            readers();
        }
    } else if readers() <= 0 {
        writer();
    }
}

/// Bits of `state` that count readers.
const READERS: u32 = (1 << 30) - 1;
const WRITER: u32 = 1 << 30;
/// Somebody waits or is about to (B-1).
const WAITING: u32 = 1 << 31;
/// Bits by which readers and writers are woken apart.
const READERS_WAIT: u32 = 1;
const WRITERS_WAIT: u32 = 2;
/// `PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP`.
const PREFER_WRITER_NONRECURSIVE: u32 = 2;
