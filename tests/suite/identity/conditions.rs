//! pthread condition variables and pthread_once, from coroutines and threads.

use std::sync::atomic::{AtomicU32, Ordering};

use libc::{pthread_cond_t, pthread_mutex_t, timespec};
use rpc_core::{spawn, yield_now};

use super::{Object, all_of, in_millis, let_others_run, on_one_worker};

unsafe extern "C" {
    fn pthread_once(once: *mut i32, run: extern "C" fn()) -> i32;
    fn pthread_cond_clockwait(
        condition: *mut pthread_cond_t,
        mutex: *mut pthread_mutex_t,
        clock: libc::clockid_t,
        time: *const timespec,
    ) -> i32;
}

/// A number under a mutex, and a condition variable for its changes; all zero at first.
#[derive(Clone, Copy)]
struct Turn {
    mutex: Object<pthread_mutex_t>,
    changed: Object<pthread_cond_t>,
    turn: Object<u32>,
}

impl Turn {
    fn new() -> Self {
        Self {
            mutex: Object::zeroed(),
            changed: Object::zeroed(),
            turn: Object::new(0),
        }
    }

    /// Waits until it is `mine`, then makes it `next` and tells everybody.
    fn pass(self, mine: u32, next: u32) {
        // SAFETY: initialised objects; the number is touched under the mutex alone.
        unsafe {
            assert_eq!(libc::pthread_mutex_lock(self.mutex.get()), 0);
            while self.turn.get().read() != mine {
                let woken = libc::pthread_cond_wait(self.changed.get(), self.mutex.get());
                assert_eq!(woken, 0);
            }
            self.turn.get().write(next);
            assert_eq!(libc::pthread_cond_broadcast(self.changed.get()), 0);
            assert_eq!(libc::pthread_mutex_unlock(self.mutex.get()), 0);
        }
    }
}

#[test]
fn a_turn_goes_round_coroutines_and_threads() {
    on_one_worker(|| {
        let turn = Turn::new();
        let rounds = move |me: u32| (0..50).for_each(|_| turn.pass(me, (me + 1) % 8));
        let threads = [6, 7].map(|me| std::thread::spawn(move || rounds(me)));
        all_of(6, |me| move || rounds(me));
        threads.into_iter().for_each(|t| t.join().unwrap());
        // SAFETY: everybody is done.
        assert_eq!(unsafe { turn.turn.get().read() }, 0);
    });
}

#[test]
fn one_signal_wakes_one_of_many_and_a_waiter_holds_the_mutex_again() {
    on_one_worker(|| {
        let turn = Turn::new();
        let inside = Object::new(0_u32);
        let waiters: Vec<_> = (0..5)
            .map(|_| {
                spawn(move || {
                    // SAFETY: initialised objects; the numbers are touched under the mutex alone.
                    unsafe {
                        libc::pthread_mutex_lock(turn.mutex.get());
                        while turn.turn.get().read() == 0 {
                            libc::pthread_cond_wait(turn.changed.get(), turn.mutex.get());
                        }
                        turn.turn.get().write(turn.turn.get().read() - 1);
                        assert_eq!(inside.get().read(), 0, "alone");
                        inside.get().write(1);
                        yield_now();
                        inside.get().write(0);
                        libc::pthread_mutex_unlock(turn.mutex.get());
                    }
                })
            })
            .collect();
        let_others_run();
        for left in (0..5).rev() {
            // SAFETY: as above.
            unsafe {
                libc::pthread_mutex_lock(turn.mutex.get());
                turn.turn.get().write(1);
                libc::pthread_cond_signal(turn.changed.get());
                libc::pthread_mutex_unlock(turn.mutex.get());
            }
            let_others_run();
            assert_eq!(waiters.iter().filter(|w| !w.is_finished()).count(), left);
        }
        waiters.into_iter().for_each(|w| w.join().unwrap());
    });
}

#[test]
fn timed_waits_end_on_the_clock_they_name_with_the_mutex_held() {
    on_one_worker(|| {
        let turn = Turn::new();
        let monotonic: Object<pthread_cond_t> = Object::zeroed();
        let mut attributes = std::mem::MaybeUninit::uninit();
        // SAFETY: initialises both before use.
        unsafe {
            libc::pthread_condattr_init(attributes.as_mut_ptr());
            libc::pthread_condattr_setclock(attributes.as_mut_ptr(), libc::CLOCK_MONOTONIC);
            assert_eq!(
                libc::pthread_cond_init(monotonic.get(), attributes.as_ptr()),
                0
            );
        }
        let mutex = turn.mutex.get();
        // SAFETY: initialised objects, here and below.
        assert_eq!(unsafe { libc::pthread_mutex_lock(mutex) }, 0);
        let wait = |condition: Object<pthread_cond_t>, time: timespec| {
            // SAFETY: as above.
            unsafe { libc::pthread_cond_timedwait(condition.get(), mutex, &raw const time) }
        };
        let wall = in_millis(libc::CLOCK_REALTIME, 3);
        assert_eq!(wait(turn.changed, wall), libc::ETIMEDOUT);
        let machine = in_millis(libc::CLOCK_MONOTONIC, 3);
        assert_eq!(wait(monotonic, machine), libc::ETIMEDOUT);
        let later = in_millis(libc::CLOCK_MONOTONIC, 3);
        // SAFETY: as above.
        let clocked = unsafe {
            pthread_cond_clockwait(
                turn.changed.get(),
                mutex,
                libc::CLOCK_MONOTONIC,
                &raw const later,
            )
        };
        assert_eq!(clocked, libc::ETIMEDOUT);
        let passed = in_millis(libc::CLOCK_MONOTONIC, 0);
        assert!(
            (passed.tv_sec, passed.tv_nsec) >= (later.tv_sec, later.tv_nsec),
            "not before its time"
        );
        let odd = timespec {
            tv_sec: 0,
            tv_nsec: -1,
        };
        assert_eq!(wait(turn.changed, odd), libc::EINVAL);
        let mutex = turn.mutex;
        // SAFETY: as above.
        let try_lock = move || unsafe { libc::pthread_mutex_trylock(mutex.get()) };
        let busy = spawn(try_lock);
        assert_eq!(busy.join().unwrap(), libc::EBUSY);
    });
}

#[test]
fn a_condition_may_be_destroyed_as_soon_as_its_waiters_are_woken() {
    on_one_worker(|| {
        for _ in 0..20 {
            let turn = Turn::new();
            let waiters: Vec<_> = (0..4).map(|_| spawn(move || turn.pass(1, 1))).collect();
            let thread = std::thread::spawn(move || turn.pass(1, 1));
            let_others_run();
            // SAFETY: initialised objects; the number is touched under the mutex alone.
            unsafe {
                libc::pthread_mutex_lock(turn.mutex.get());
                turn.turn.get().write(1);
                libc::pthread_cond_broadcast(turn.changed.get());
                libc::pthread_mutex_unlock(turn.mutex.get());
            }
            waiters.into_iter().for_each(|w| w.join().unwrap());
            thread.join().unwrap();
            // SAFETY: nobody waits any more; what they leave behind must not be looked at.
            unsafe {
                assert_eq!(libc::pthread_cond_destroy(turn.changed.get()), 0);
                turn.changed.get().write_bytes(0xa5, 1);
            }
        }
    });
}

#[test]
fn once_runs_once_while_the_others_wait_for_its_end() {
    static ONCE: AtomicU32 = AtomicU32::new(0);
    static RUNS: AtomicU32 = AtomicU32::new(0);
    extern "C" fn run() {
        let_others_run();
        RUNS.fetch_add(1, Ordering::Relaxed);
    }
    on_one_worker(|| {
        let seen = all_of(8, |_| {
            || {
                // SAFETY: a flag that starts as PTHREAD_ONCE_INIT.
                assert_eq!(unsafe { pthread_once(ONCE.as_ptr().cast(), run) }, 0);
                RUNS.load(Ordering::Relaxed)
            }
        });
        assert_eq!(seen, [1; 8]);
    });
}

#[test]
fn process_shared_locks_are_shared_with_a_forked_child() {
    #[repr(C)]
    struct Shared {
        mutex: pthread_mutex_t,
        changed: pthread_cond_t,
        posted: libc::sem_t,
        value: u32,
    }
    let (value, code) = on_one_worker(|| {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let none = std::ptr::null_mut();
        // SAFETY: a fresh mapping; objects are initialised before use and touched under the mutex; the
        // child calls only what a lone thread may, and leaves by `_exit`.
        unsafe {
            let shared = libc::mmap(none, size_of::<Shared>(), protection, flags, -1, 0);
            let shared = shared.cast::<Shared>();
            let mut of_mutex = std::mem::MaybeUninit::uninit();
            let mut of_condition = std::mem::MaybeUninit::uninit();
            libc::pthread_mutexattr_init(of_mutex.as_mut_ptr());
            libc::pthread_condattr_init(of_condition.as_mut_ptr());
            let process_shared = libc::PTHREAD_PROCESS_SHARED;
            libc::pthread_mutexattr_setpshared(of_mutex.as_mut_ptr(), process_shared);
            libc::pthread_condattr_setpshared(of_condition.as_mut_ptr(), process_shared);
            let (mutex, changed) = (&raw mut (*shared).mutex, &raw mut (*shared).changed);
            let posted = &raw mut (*shared).posted;
            assert_eq!(libc::pthread_mutex_init(mutex, of_mutex.as_ptr()), 0);
            assert_eq!(libc::pthread_cond_init(changed, of_condition.as_ptr()), 0);
            assert_eq!(libc::sem_init(posted, 1, 0), 0);
            let pid = libc::fork();
            if pid == 0 {
                let done = libc::sem_wait(posted) == 0
                    && libc::pthread_mutex_lock(mutex) == 0
                    && {
                        (*shared).value = 7;
                        true
                    }
                    && libc::pthread_cond_signal(changed) == 0
                    && libc::pthread_mutex_unlock(mutex) == 0;
                libc::_exit(i32::from(!done));
            }
            assert_eq!(libc::pthread_mutex_lock(mutex), 0);
            assert_eq!(libc::sem_post(posted), 0);
            let value = &raw const (*shared).value;
            while value.read_volatile() == 0 {
                assert_eq!(libc::pthread_cond_wait(changed, mutex), 0);
            }
            let value = value.read();
            libc::pthread_mutex_unlock(mutex);
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
            (value, libc::WEXITSTATUS(status))
        }
    });
    assert_eq!((value, code), (7, 0));
}

#[test]
fn fork_handlers_that_lock_find_the_lock_whole_in_parent_and_child() {
    static LOCK: StaticMutex =
        StaticMutex(std::cell::UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));
    struct StaticMutex(std::cell::UnsafeCell<pthread_mutex_t>);
    // SAFETY: given to functions that are made for sharing.
    unsafe impl Sync for StaticMutex {}
    extern "C" fn before() {
        // SAFETY: a static mutex, here and below.
        unsafe { libc::pthread_mutex_lock(LOCK.0.get()) };
    }
    extern "C" fn after() {
        // SAFETY: as above.
        unsafe { libc::pthread_mutex_unlock(LOCK.0.get()) };
    }
    on_one_worker(|| {
        // SAFETY: handlers that stay.
        let error = unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after)) };
        assert_eq!(error, 0);
        let forks = |hold: u32| {
            move || {
                for _ in 0..hold {
                    before();
                    yield_now();
                    after();
                }
                // SAFETY: the child calls only what a lone thread may, and leaves by `_exit`.
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    before();
                    after();
                    // SAFETY: ends this process alone.
                    unsafe { libc::_exit(3) };
                }
                let mut status = 0;
                // SAFETY: a place for the status.
                assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
                libc::WEXITSTATUS(status)
            }
        };
        // Some hold the lock across a yield while others fork: the handlers wait for it in turn.
        assert_eq!(all_of(6, forks), [3; 6]);
    });
}
