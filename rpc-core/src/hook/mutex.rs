//! pthread mutexes: our own, in the object's memory.
//!
//! glibc waits for a mutex by a futex call inside itself that no symbol of ours sees, and would wake no
//! coroutine. So these functions replace its own for all threads. The layout is glibc's, which static
//! initialisers fix: `pthread_mutex_init` and the attribute functions stay its own.
//!
//! Knows:         the word of a mutex, its kind, its owner.
//! Does not know: deadlines and cancellation (exempt: C cannot bear an error here).
//!
//! Process-shared, robust, priority-inheriting and priority-protecting mutexes are handed to glibc
//! whole: other processes or the kernel know their layout. Waiting for one blocks the worker.
//!
//! Invariants
//! - X-1  `lock` is 0 when free, 1 when held, 2 when held and somebody may wait: who waited takes it as
//!   2, since others may be waiting still, and who unlocks a 2 wakes one.
//! - X-2  An unlocked mutex is not touched again: its memory may be gone.
//! - X-3  `owner` and `again` belong to the holder; `owner` names nobody but the holder.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};

use libc::{clockid_t, pthread_mutex_t, timespec};

use super::caller;
use super::raw::{c_int, failure};
use super::symbol::{Symbol, behind};
use super::until::Until;
use super::{futex, thread};

/// `pthread_mutex_lock(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_lock(mutex: *mut pthread_mutex_t) -> c_int {
    // SAFETY: the program's own promise.
    match unsafe { Mutex::ours(mutex) } {
        Some((ours, kind)) => ours.lock(kind, Until::Never),
        // SAFETY: as above.
        None => unsafe {
            theirs(
                mutex,
                || behind!(Symbol::new(c"pthread_mutex_lock"), mutex: *mut pthread_mutex_t),
            )
        },
    }
}

/// `pthread_mutex_trylock(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_trylock(mutex: *mut pthread_mutex_t) -> c_int {
    // SAFETY: the program's own promise.
    match unsafe { Mutex::ours(mutex) } {
        Some((ours, kind)) => ours.try_lock(kind),
        // SAFETY: as above.
        None => unsafe {
            known(
                mutex,
                || behind!(Symbol::new(c"pthread_mutex_trylock"), mutex: *mut pthread_mutex_t),
            )
        },
    }
}

/// `pthread_mutex_timedlock(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_timedlock(
    mutex: *mut pthread_mutex_t,
    time: *const timespec,
) -> c_int {
    // SAFETY: the program's own promise.
    match unsafe { (Mutex::ours(mutex), time.as_ref()) } {
        (Some((ours, kind)), Some(time)) => ours.lock(kind, Until::Wall(time)),
        // SAFETY: as above.
        _ => unsafe {
            theirs(mutex, || {
                behind!(
                    Symbol::new(c"pthread_mutex_timedlock"),
                    mutex: *mut pthread_mutex_t,
                    time: *const timespec
                )
            })
        },
    }
}

/// `pthread_mutex_clocklock(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_clocklock(
    mutex: *mut pthread_mutex_t,
    clock: clockid_t,
    time: *const timespec,
) -> c_int {
    // SAFETY: the program's own promise.
    match unsafe { (Mutex::ours(mutex), time.as_ref()) } {
        (Some((ours, kind)), Some(time)) => match Until::on(clock, time) {
            Ok(until) => ours.lock(kind, until),
            Err(error) => error,
        },
        // SAFETY: as above.
        _ => unsafe {
            theirs(mutex, || {
                behind!(
                    Symbol::new(c"pthread_mutex_clocklock"),
                    mutex: *mut pthread_mutex_t,
                    clock: clockid_t,
                    time: *const timespec
                )
            })
        },
    }
}

/// `pthread_mutex_unlock(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_unlock(mutex: *mut pthread_mutex_t) -> c_int {
    // SAFETY: the program's own promise.
    match unsafe { Mutex::ours(mutex) } {
        Some((ours, kind)) => ours.unlock(kind),
        // SAFETY: as above.
        None => unsafe {
            known(
                mutex,
                || behind!(Symbol::new(c"pthread_mutex_unlock"), mutex: *mut pthread_mutex_t),
            )
        },
    }
}

/// `pthread_mutex_destroy(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_mutex_destroy(mutex: *mut pthread_mutex_t) -> c_int {
    // SAFETY: the program's own promise.
    match unsafe { Mutex::ours(mutex) } {
        Some((ours, _)) => ours.destroy(),
        // SAFETY: as above.
        None => unsafe {
            behind!(Symbol::new(c"pthread_mutex_destroy"), mutex: *mut pthread_mutex_t)
        },
    }
}

/// Locks a mutex that is glibc's: counted as holding the worker only where it has to wait.
///
/// # Safety
/// - As for libc's functions.
unsafe fn theirs(mutex: *mut pthread_mutex_t, lock: impl Fn() -> c_int) -> c_int {
    // SAFETY: the caller's promise.
    match unsafe { pthread_mutex_trylock(mutex) } {
        // SAFETY: as above.
        libc::EBUSY => futex::held(|| unsafe { known(mutex, &lock) }),
        other => other,
    }
}

/// Runs `call` under an id that the kernel knows where the kernel looks at owners: a coroutine stands in
/// for its worker then, and must not wait for anything while it holds the mutex.
///
/// # Safety
/// - The mutex lives.
unsafe fn known(mutex: *mut pthread_mutex_t, call: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: the caller's promise.
    let kind = unsafe { &(*mutex.cast::<Mutex>()).kind }.load(Ordering::Relaxed);
    if kind & PRIO_INHERIT == 0 {
        return call();
    }
    // SAFETY: no arguments.
    thread::with_real_id(unsafe { libc::pthread_self() }, call)
}

/// A `pthread_mutex_t` of a kind that is ours.
#[repr(C)]
pub(super) struct Mutex {
    ///
    lock: AtomicU32,
    /// How often the owner of a recursive mutex locked it beyond the first time.
    again: AtomicU32,
    /// glibc's owner and users, for its own mutexes.
    _theirs: [u32; 2],
    /// What the initialiser or `pthread_mutex_init` wrote.
    kind: AtomicI32,
    _spins: u32,
    /// Whoever holds a recursive or checking mutex ([`caller`]); 0 = nobody. Robust mutexes, which
    /// are not ours, have their list here.
    owner: AtomicUsize,
}

const _: () = assert!(size_of::<Mutex>() <= size_of::<pthread_mutex_t>());

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Does not know its owner.
    Normal,
    Recursive,
    /// Tells its owner of mistakes.
    Checking,
}

impl Mutex {
    /// A free mutex of the normal kind, for locks of our own.
    pub(super) const fn new() -> Self {
        Self {
            lock: AtomicU32::new(0),
            again: AtomicU32::new(0),
            _theirs: [0; 2],
            kind: AtomicI32::new(0),
            _spins: 0,
            owner: AtomicUsize::new(0),
        }
    }

    /// The mutex and its kind, if that is ours to handle.
    ///
    /// # Safety
    /// - The pointer is to a mutex that lives while it is used.
    unsafe fn ours<'a>(mutex: *mut pthread_mutex_t) -> Option<(&'a Self, Kind)> {
        // SAFETY: the caller's promise; all that is shared in it is atomic.
        let ours = unsafe { &*mutex.cast::<Self>() };
        let kind = match ours.kind.load(Ordering::Relaxed) & !ELISION {
            PTHREAD_MUTEX_TIMED_NP | PTHREAD_MUTEX_ADAPTIVE_NP => Kind::Normal,
            PTHREAD_MUTEX_RECURSIVE_NP => Kind::Recursive,
            PTHREAD_MUTEX_ERRORCHECK_NP => Kind::Checking,
            _ => return None,
        };
        Some((ours, kind))
    }

    pub(super) fn lock(&self, kind: Kind, until: Until<'_>) -> c_int {
        if kind != Kind::Normal && self.owner.load(Ordering::Relaxed) == caller() {
            return match kind {
                Kind::Recursive => self.once_more(),
                Kind::Normal | Kind::Checking => libc::EDEADLK,
            };
        }
        if !self.take()
            && let Err(error) = until.check().and_then(|()| self.wait(until))
        {
            return error;
        }
        self.taken(kind)
    }

    fn try_lock(&self, kind: Kind) -> c_int {
        if kind == Kind::Recursive && self.owner.load(Ordering::Relaxed) == caller() {
            return self.once_more();
        }
        if !self.take() {
            return libc::EBUSY;
        }
        self.taken(kind)
    }

    pub(super) fn unlock(&self, kind: Kind) -> c_int {
        if kind != Kind::Normal {
            if self.owner.load(Ordering::Relaxed) != caller() {
                return libc::EPERM;
            }
            let again = self.again.load(Ordering::Relaxed);
            if again > 0 {
                self.again.store(again - 1, Ordering::Relaxed);
                return 0;
            }
            self.owner.store(0, Ordering::Relaxed);
        }
        let address = self.lock.as_ptr().addr();
        // Release pairs with the Acquire in `take` and `wait`. X-2: after this only the address is used.
        if self.lock.swap(0, Ordering::Release) == CONTENDED {
            futex::wake(address, 1, ALL);
        }
        0
    }

    fn destroy(&self) -> c_int {
        if self.lock.load(Ordering::Relaxed) != 0 {
            return libc::EBUSY;
        }
        self.kind.store(DESTROYED, Ordering::Relaxed);
        0
    }

    fn take(&self) -> bool {
        // Acquire pairs with the Release in `unlock`.
        let free = self
            .lock
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
        free.is_ok()
    }

    fn taken(&self, kind: Kind) -> c_int {
        if kind != Kind::Normal {
            self.owner.store(caller(), Ordering::Relaxed);
        }
        0
    }

    fn once_more(&self) -> c_int {
        match self.again.load(Ordering::Relaxed).checked_add(1) {
            Some(again) => {
                self.again.store(again, Ordering::Relaxed);
                0
            }
            None => libc::EAGAIN,
        }
    }

    /// A wait that was woken tries again before it looks at the time: the wake was for it alone.
    #[cold]
    fn wait(&self, until: Until<'_>) -> Result<(), c_int> {
        let address = self.lock.as_ptr().addr();
        // Acquire pairs with the Release in `unlock`.
        while self.lock.swap(CONTENDED, Ordering::Acquire) != 0 {
            let unchanged = || self.lock.load(Ordering::SeqCst) == CONTENDED;
            let result = futex::wait(address, CONTENDED, ALL, until, unchanged);
            if result == failure(libc::ETIMEDOUT) {
                return Err(libc::ETIMEDOUT);
            }
        }
        Ok(())
    }
}

/// Held, and somebody may wait.
const CONTENDED: u32 = 2;
/// Wakes whoever waits for whatever.
pub(super) const ALL: u32 = u32::MAX;

// glibc's bits/pthreadtypes and pthreadP.h, fixed by the static initialisers.
const PTHREAD_MUTEX_TIMED_NP: c_int = 0;
const PTHREAD_MUTEX_RECURSIVE_NP: c_int = 1;
const PTHREAD_MUTEX_ERRORCHECK_NP: c_int = 2;
const PTHREAD_MUTEX_ADAPTIVE_NP: c_int = 3;
/// Whether to elide locks by transactions or not to, noted by glibc beside the kind.
const ELISION: c_int = 256 | 512;
/// The kernel lends the owner's priority.
const PRIO_INHERIT: c_int = 32;
/// What glibc leaves in a destroyed mutex: of no kind.
const DESTROYED: c_int = -1;
