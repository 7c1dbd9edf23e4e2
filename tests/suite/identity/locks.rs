//! pthread mutexes, read-write locks, semaphores, barriers and once, from coroutines and threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{pthread_mutex_t, pthread_rwlock_t, timespec};
use rpc_core::{spawn, yield_now};

use super::{Object, all_of, in_millis, let_others_run, on_one_worker, on_workers};

type Mutex = Object<pthread_mutex_t>;

unsafe extern "C" {
    fn pthread_mutex_clocklock(
        mutex: *mut pthread_mutex_t,
        clock: libc::clockid_t,
        time: *const timespec,
    ) -> i32;
    fn pthread_rwlock_timedwrlock(lock: *mut pthread_rwlock_t, time: *const timespec) -> i32;
    fn sem_clockwait(semaphore: *mut libc::sem_t, clock: i32, time: *const timespec) -> i32;
    fn pthread_rwlock_clockwrlock(
        lock: *mut pthread_rwlock_t,
        clock: libc::clockid_t,
        time: *const timespec,
    ) -> i32;
}

fn mutex_of(kind: i32) -> Mutex {
    let mutex = Object::zeroed();
    let mut attributes = std::mem::MaybeUninit::uninit();
    // SAFETY: initialises both before use.
    unsafe {
        libc::pthread_mutexattr_init(attributes.as_mut_ptr());
        libc::pthread_mutexattr_settype(attributes.as_mut_ptr(), kind);
        assert_eq!(
            libc::pthread_mutex_init(mutex.get(), attributes.as_ptr()),
            0
        );
    }
    mutex
}

fn lock(mutex: Mutex) -> i32 {
    // SAFETY: an initialised mutex.
    unsafe { libc::pthread_mutex_lock(mutex.get()) }
}

fn try_lock(mutex: Mutex) -> i32 {
    // SAFETY: an initialised mutex.
    unsafe { libc::pthread_mutex_trylock(mutex.get()) }
}

fn unlock(mutex: Mutex) -> i32 {
    // SAFETY: an initialised mutex.
    unsafe { libc::pthread_mutex_unlock(mutex.get()) }
}

/// Adds under the lock, from coroutines that wait in the middle and from two threads.
fn contended(mutex: Mutex) -> u64 {
    let sum = Object::new(0_u64);
    let add = move |yields: bool| {
        for _ in 0..50 {
            assert_eq!(lock(mutex), 0);
            // SAFETY: under the lock.
            let before = unsafe { sum.get().read() };
            if yields {
                yield_now();
            }
            // SAFETY: as above.
            unsafe { sum.get().write(before + 1) };
            assert_eq!(unlock(mutex), 0);
        }
    };
    let threads = [(); 2].map(|()| std::thread::spawn(move || add(false)));
    all_of(20, |_| move || add(true));
    threads.into_iter().for_each(|t| t.join().unwrap());
    // SAFETY: everybody is done.
    unsafe { sum.get().read() }
}

#[test]
fn every_kind_of_mutex_excludes_coroutines_and_threads() {
    const ADAPTIVE: i32 = 3;
    let kinds = [
        libc::PTHREAD_MUTEX_NORMAL,
        libc::PTHREAD_MUTEX_RECURSIVE,
        libc::PTHREAD_MUTEX_ERRORCHECK,
        ADAPTIVE,
    ];
    for kind in kinds {
        let sum = on_one_worker(move || contended(mutex_of(kind)));
        assert_eq!(sum, 22 * 50, "kind {kind}");
    }
    assert_eq!(
        on_workers(2, || contended(Object::zeroed())),
        22 * 50,
        "as a static initialiser leaves it"
    );
}

#[test]
fn a_recursive_mutex_belongs_to_the_coroutine_not_to_its_worker() {
    on_one_worker(|| {
        let mutex = mutex_of(libc::PTHREAD_MUTEX_RECURSIVE);
        assert_eq!((lock(mutex), lock(mutex), try_lock(mutex)), (0, 0, 0));
        let other = spawn(move || {
            let busy = try_lock(mutex);
            let not_mine = unlock(mutex);
            (busy, not_mine, lock(mutex), unlock(mutex))
        });
        let_others_run();
        assert!(!other.is_finished());
        assert_eq!((unlock(mutex), unlock(mutex)), (0, 0));
        let_others_run();
        assert!(!other.is_finished(), "locked three times, unlocked twice");
        assert_eq!(unlock(mutex), 0);
        assert_eq!(other.join().unwrap(), (libc::EBUSY, libc::EPERM, 0, 0));
        assert_eq!(unlock(mutex), libc::EPERM);
    });
}

#[test]
fn a_checking_mutex_tells_its_owner_of_mistakes() {
    on_one_worker(|| {
        let mutex = mutex_of(libc::PTHREAD_MUTEX_ERRORCHECK);
        assert_eq!(unlock(mutex), libc::EPERM);
        assert_eq!((lock(mutex), lock(mutex)), (0, libc::EDEADLK));
        assert_eq!(try_lock(mutex), libc::EBUSY);
        let other = spawn(move || (try_lock(mutex), unlock(mutex)));
        assert_eq!(other.join().unwrap(), (libc::EBUSY, libc::EPERM));
        // SAFETY: an initialised mutex.
        let destroy = move || unsafe { libc::pthread_mutex_destroy(mutex.get()) };
        assert_eq!((destroy(), unlock(mutex), destroy()), (libc::EBUSY, 0, 0));
        assert_eq!(lock(mutex), libc::EINVAL, "destroyed");
    });
}

#[test]
fn a_timed_lock_gives_up_and_the_next_unlock_still_wakes_the_others() {
    on_one_worker(|| {
        let mutex = mutex_of(libc::PTHREAD_MUTEX_NORMAL);
        assert_eq!(lock(mutex), 0);
        let timed = move |time: timespec| {
            // SAFETY: an initialised mutex, a time.
            unsafe { libc::pthread_mutex_timedlock(mutex.get(), &raw const time) }
        };
        let clocked = move |clock, time: timespec| {
            // SAFETY: as above.
            unsafe { pthread_mutex_clocklock(mutex.get(), clock, &raw const time) }
        };
        let patient = spawn(move || (lock(mutex), unlock(mutex)));
        let soon = in_millis(libc::CLOCK_REALTIME, 3);
        let hasty = spawn(move || timed(soon));
        let soon = in_millis(libc::CLOCK_MONOTONIC, 3);
        assert_eq!(clocked(libc::CLOCK_MONOTONIC, soon), libc::ETIMEDOUT);
        assert_eq!(hasty.join().unwrap(), libc::ETIMEDOUT);
        let odd = timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000_000,
        };
        assert_eq!(timed(odd), libc::EINVAL);
        assert_eq!(clocked(libc::CLOCK_BOOTTIME, soon), libc::EINVAL);
        let past = timespec {
            tv_sec: -1,
            tv_nsec: 0,
        };
        assert_eq!(timed(past), libc::ETIMEDOUT);
        assert_eq!(unlock(mutex), 0);
        assert_eq!(patient.join().unwrap(), (0, 0));
        assert_eq!(timed(past), 0, "a free one is taken whatever the time");
    });
}

#[test]
fn mutexes_that_are_the_c_librarys_still_work_in_coroutines() {
    on_one_worker(|| {
        for (robust, shared, protocol) in [(true, false, 0), (false, true, 0), (false, false, 1)] {
            let mutex: Mutex = Object::zeroed();
            let mut attributes = std::mem::MaybeUninit::uninit();
            // SAFETY: initialises both before use.
            unsafe {
                libc::pthread_mutexattr_init(attributes.as_mut_ptr());
                let attributes = attributes.as_mut_ptr();
                libc::pthread_mutexattr_settype(attributes, libc::PTHREAD_MUTEX_ERRORCHECK);
                if robust {
                    libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST);
                }
                if shared {
                    libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED);
                }
                libc::pthread_mutexattr_setprotocol(attributes, protocol);
                assert_eq!(libc::pthread_mutex_init(mutex.get(), attributes), 0);
            }
            assert_eq!((lock(mutex), lock(mutex)), (0, libc::EDEADLK));
            let thread = std::thread::spawn(move || (try_lock(mutex), unlock(mutex)));
            assert_eq!(thread.join().unwrap(), (libc::EBUSY, libc::EPERM));
            assert_eq!(unlock(mutex), 0);
            let thread = std::thread::spawn(move || (lock(mutex), unlock(mutex)));
            assert_eq!(thread.join().unwrap(), (0, 0));
        }
    });
}

fn robust_mutex() -> Mutex {
    let mutex = Object::zeroed();
    let mut attributes = std::mem::MaybeUninit::uninit();
    // SAFETY: initialises both before use.
    unsafe {
        libc::pthread_mutexattr_init(attributes.as_mut_ptr());
        let attributes = attributes.as_mut_ptr();
        libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST);
        assert_eq!(libc::pthread_mutex_init(mutex.get(), attributes), 0);
    }
    mutex
}

#[test]
fn whoever_locks_a_robust_mutex_next_is_told_that_its_owner_died() {
    on_one_worker(|| {
        let (first, second) = (robust_mutex(), robust_mutex());
        // SAFETY: a mutex whose owner died, held by the caller.
        let mend = |mutex: Mutex| unsafe { libc::pthread_mutex_consistent(mutex.get()) };
        let dies = move || (lock(first), lock(second));
        for _ in 0..3 {
            assert_eq!(spawn(dies).join().unwrap(), (0, 0), "a coroutine ends");
            for mutex in [first, second] {
                assert_eq!((lock(mutex), mend(mutex)), (libc::EOWNERDEAD, 0));
                assert_eq!((unlock(mutex), lock(mutex), unlock(mutex)), (0, 0, 0));
            }
            let thread = std::thread::spawn(dies);
            assert_eq!(thread.join().unwrap(), (0, 0), "a thread ends");
            for mutex in [second, first] {
                assert_eq!((lock(mutex), mend(mutex)), (libc::EOWNERDEAD, 0));
                assert_eq!((unlock(mutex), lock(mutex), unlock(mutex)), (0, 0, 0));
            }
        }
        // One who waits already.
        let (tell, hear) = std::sync::mpsc::channel();
        let owner = spawn(move || {
            assert_eq!(lock(first), 0);
            hear.recv().unwrap();
        });
        let_others_run();
        let waiter = std::thread::spawn(move || lock(first));
        tell.send(()).unwrap();
        owner.join().unwrap();
        assert_eq!(waiter.join().unwrap(), libc::EOWNERDEAD);
    });
}

#[test]
fn readers_share_a_lock_and_writers_exclude_everybody() {
    on_one_worker(|| {
        let lock: Object<pthread_rwlock_t> = Object::zeroed();
        // SAFETY: an initialised lock, here and below.
        let read = move || unsafe { libc::pthread_rwlock_rdlock(lock.get()) };
        // SAFETY: as above.
        let write = move || unsafe { libc::pthread_rwlock_wrlock(lock.get()) };
        // SAFETY: as above.
        let try_read = move || unsafe { libc::pthread_rwlock_tryrdlock(lock.get()) };
        // SAFETY: as above.
        let try_write = move || unsafe { libc::pthread_rwlock_trywrlock(lock.get()) };
        // SAFETY: as above.
        let unlock = move || unsafe { libc::pthread_rwlock_unlock(lock.get()) };
        assert_eq!((read(), try_write()), (0, libc::EBUSY));
        let writer = spawn(move || {
            let results = (write(), read(), write(), try_read());
            yield_now();
            (results, unlock())
        });
        let_others_run();
        assert_eq!(
            (try_read(), read()),
            (0, 0),
            "readers go first while readers hold it"
        );
        assert_eq!((unlock(), unlock(), unlock()), (0, 0, 0));
        let readers = [(); 3].map(|()| spawn(move || (read(), unlock())));
        let second = spawn(move || (write(), unlock()));
        let outcome = (0, libc::EDEADLK, libc::EDEADLK, libc::EBUSY);
        assert_eq!(writer.join().unwrap(), (outcome, 0));
        for reader in readers {
            assert_eq!(reader.join().unwrap(), (0, 0));
        }
        assert_eq!(second.join().unwrap(), (0, 0));
        assert_eq!((write(), unlock()), (0, 0));
        let soon = in_millis(libc::CLOCK_MONOTONIC, 3);
        assert_eq!(read(), 0);
        // SAFETY: an initialised lock, a time.
        let late = unsafe {
            pthread_rwlock_clockwrlock(lock.get(), libc::CLOCK_MONOTONIC, &raw const soon)
        };
        assert_eq!(late, libc::ETIMEDOUT);
        assert_eq!((try_read(), unlock(), unlock()), (0, 0, 0));
    });
}

#[test]
fn a_lock_that_prefers_writers_lets_no_reader_pass_a_waiting_one() {
    on_one_worker(|| {
        const PREFER_WRITER_NONRECURSIVE: i32 = 2;
        let lock: Object<pthread_rwlock_t> = Object::zeroed();
        // The static initialiser's only other word.
        // SAFETY: the structure has 56 bytes.
        unsafe {
            lock.get()
                .cast::<i32>()
                .add(12)
                .write(PREFER_WRITER_NONRECURSIVE);
        }
        let order = Arc::new(AtomicU32::new(0));
        // SAFETY: an initialised lock, here and below.
        assert_eq!(unsafe { libc::pthread_rwlock_rdlock(lock.get()) }, 0);
        let pass = |write: bool| {
            let order = Arc::clone(&order);
            spawn(move || {
                let enter = if write {
                    libc::pthread_rwlock_wrlock
                } else {
                    libc::pthread_rwlock_rdlock
                };
                // SAFETY: as above.
                assert_eq!(unsafe { enter(lock.get()) }, 0);
                let place = order.fetch_add(1, Ordering::Relaxed);
                // SAFETY: as above.
                assert_eq!(unsafe { libc::pthread_rwlock_unlock(lock.get()) }, 0);
                place
            })
        };
        let writer = pass(true);
        let_others_run();
        let reader = pass(false);
        let_others_run();
        // SAFETY: as above.
        let late = unsafe { libc::pthread_rwlock_tryrdlock(lock.get()) };
        assert_eq!(late, libc::EBUSY);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pthread_rwlock_unlock(lock.get()) }, 0);
        assert_eq!((writer.join().unwrap(), reader.join().unwrap()), (0, 1));
    });
}

#[test]
fn a_semaphore_counts_posts_of_threads_and_coroutines() {
    on_one_worker(|| {
        let semaphore: Object<libc::sem_t> = Object::zeroed();
        // SAFETY: initialised first, here and below.
        assert_eq!(unsafe { libc::sem_init(semaphore.get(), 0, 0) }, 0);
        // SAFETY: as above.
        let post = move || unsafe { libc::sem_post(semaphore.get()) };
        let errno = || std::io::Error::last_os_error().raw_os_error();
        // SAFETY: as above.
        assert_eq!(unsafe { libc::sem_trywait(semaphore.get()) }, -1);
        assert_eq!(errno(), Some(libc::EAGAIN));
        let soon = in_millis(libc::CLOCK_REALTIME, 3);
        // SAFETY: as above.
        let late = unsafe { libc::sem_timedwait(semaphore.get(), &raw const soon) };
        assert_eq!((late, errno()), (-1, Some(libc::ETIMEDOUT)));
        let soon = in_millis(libc::CLOCK_MONOTONIC, 3);
        // SAFETY: as above.
        let late =
            unsafe { sem_clockwait(semaphore.get(), libc::CLOCK_MONOTONIC, &raw const soon) };
        assert_eq!((late, errno()), (-1, Some(libc::ETIMEDOUT)));
        let poster = std::thread::spawn(move || (0..300).for_each(|_| assert_eq!(post(), 0)));
        let helper = spawn(move || {
            for _ in 0..300 {
                assert_eq!(post(), 0);
                yield_now();
            }
        });
        let taker = std::thread::spawn(move || {
            // SAFETY: as above.
            (0..100).for_each(|_| assert_eq!(unsafe { libc::sem_wait(semaphore.get()) }, 0));
        });
        all_of(50, |_| {
            move || {
                // SAFETY: as above.
                (0..10).for_each(|_| assert_eq!(unsafe { libc::sem_wait(semaphore.get()) }, 0));
            }
        });
        poster.join().unwrap();
        taker.join().unwrap();
        helper.join().unwrap();
        let mut left = -1;
        // SAFETY: as above.
        unsafe { libc::sem_getvalue(semaphore.get(), &raw mut left) };
        assert_eq!(left, 0);
        // SAFETY: as above.
        let full = unsafe { libc::sem_init(semaphore.get(), 0, i32::MAX as u32) };
        assert_eq!(full, 0);
        assert_eq!((post(), errno()), (-1, Some(libc::EOVERFLOW)));
    });
}

#[test]
fn a_barrier_lets_each_round_through_together_and_may_be_destroyed_at_once() {
    on_one_worker(|| {
        let barrier: Object<libc::pthread_barrier_t> = Object::zeroed();
        // SAFETY: initialised first, here and below.
        let error = unsafe { libc::pthread_barrier_init(barrier.get(), std::ptr::null(), 9) };
        assert_eq!(error, 0);
        let come = Arc::new(AtomicU32::new(0));
        let rounds = move |come: Arc<AtomicU32>| {
            let mut serial = 0;
            for round in 1..=20 {
                come.fetch_add(1, Ordering::Relaxed);
                // SAFETY: as above.
                let result = unsafe { libc::pthread_barrier_wait(barrier.get()) };
                serial += u32::from(result == libc::PTHREAD_BARRIER_SERIAL_THREAD);
                assert!(come.load(Ordering::Relaxed) >= 9 * round);
            }
            serial
        };
        let shared = Arc::clone(&come);
        let thread = std::thread::spawn(move || rounds(shared));
        let serial: u32 = all_of(8, |_| {
            let come = Arc::clone(&come);
            move || rounds(come)
        })
        .into_iter()
        .sum();
        // SAFETY: everybody has been let through, though the thread may still be leaving.
        assert_eq!(unsafe { libc::pthread_barrier_destroy(barrier.get()) }, 0);
        assert_eq!(serial + thread.join().unwrap(), 20);
    });
}

#[test]
fn locks_of_many_workers_and_threads_lose_no_wake_up() {
    let seed = 0x5eed_u64;
    println!("seed {seed:#x}");
    let total = on_workers(2, move || {
        let mutex = mutex_of(libc::PTHREAD_MUTEX_NORMAL);
        let lock: Object<pthread_rwlock_t> = Object::zeroed();
        let sum = Object::new(0_u64);
        let work = move |who: u64| {
            let mut dice = seed ^ who.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut added = 0;
            for _ in 0..400 {
                dice = dice
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let soon = in_millis(libc::CLOCK_REALTIME, 1);
                // SAFETY: initialised locks; what they guard is touched under them alone.
                unsafe {
                    let held = match dice >> 62 {
                        0 => libc::pthread_mutex_timedlock(mutex.get(), &raw const soon),
                        1 => libc::pthread_mutex_trylock(mutex.get()),
                        _ => libc::pthread_mutex_lock(mutex.get()),
                    };
                    if held != 0 {
                        continue;
                    }
                    let writes = match dice >> 60 & 3 {
                        0 => pthread_rwlock_timedwrlock(lock.get(), &raw const soon),
                        1 => libc::pthread_rwlock_wrlock(lock.get()),
                        _ => libc::pthread_rwlock_rdlock(lock.get()),
                    };
                    if dice >> 58 & 3 == 0 {
                        yield_now();
                    }
                    sum.get().write(sum.get().read() + 1);
                    added += 1;
                    if writes == 0 {
                        libc::pthread_rwlock_unlock(lock.get());
                    }
                    libc::pthread_mutex_unlock(mutex.get());
                    if dice >> 56 & 3 == 0 && libc::pthread_rwlock_rdlock(lock.get()) == 0 {
                        libc::pthread_rwlock_unlock(lock.get());
                    }
                }
            }
            added
        };
        let threads = [100, 101].map(|who| std::thread::spawn(move || work(who)));
        let coroutines: u64 = all_of(16, |who| move || work(u64::from(who)))
            .into_iter()
            .sum();
        let by_threads: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
        // SAFETY: everybody is done.
        assert_eq!(unsafe { sum.get().read() }, coroutines + by_threads);
        coroutines + by_threads
    });
    assert!(total > 0);
}
