//! What the C library tells a coroutine about its thread, and what it does to threads by handle.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{cpu_set_t, pthread_mutex_t, pthread_t};
use rpc_core::{spawn, yield_now};

use super::{Object, all_of, in_millis, let_others_run, on_one_worker, on_workers};

fn own() -> pthread_t {
    // SAFETY: no arguments.
    unsafe { libc::pthread_self() }
}

#[test]
fn a_coroutine_knows_the_bounds_of_its_stack() {
    let inside = on_one_worker(|| {
        all_of(3, |_| {
            || {
                let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
                let (mut low, mut size) = (std::ptr::null_mut(), 0);
                // SAFETY: places for the answers; the attributes are initialised by the first call.
                unsafe {
                    assert_eq!(libc::pthread_getattr_np(own(), attributes.as_mut_ptr()), 0);
                    libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut low, &raw mut size);
                    libc::pthread_attr_destroy(attributes.as_mut_ptr());
                }
                yield_now();
                let here = (&raw const low).addr();
                (low.addr()..low.addr() + size).contains(&here)
            }
        })
    });
    assert_eq!(inside, [true; 3]);
}

#[test]
fn affinity_and_scheduling_are_the_workers() {
    on_one_worker(|| {
        let mut set = MaybeUninit::<cpu_set_t>::zeroed();
        let size = size_of::<cpu_set_t>();
        let (mut policy, mut param) = (-1, libc::sched_param { sched_priority: -1 });
        // SAFETY: places for the answers, here and below.
        unsafe {
            let set = set.as_mut_ptr();
            assert_eq!(libc::pthread_getaffinity_np(own(), size, set), 0);
            assert!(libc::CPU_COUNT(&*set) > 0);
            assert_eq!(libc::pthread_setaffinity_np(own(), size, set), 0);
            let error = libc::pthread_getschedparam(own(), &raw mut policy, &raw mut param);
            assert_eq!((error, policy), (0, libc::SCHED_OTHER));
            assert_eq!(
                libc::pthread_setschedparam(own(), policy, &raw const param),
                0
            );
        }
        let (mut clock, mut time) = (
            0,
            libc::timespec {
                tv_sec: -1,
                tv_nsec: 0,
            },
        );
        // SAFETY: as above.
        unsafe {
            assert_eq!(libc::pthread_getcpuclockid(own(), &raw mut clock), 0);
            assert_eq!(libc::clock_gettime(clock, &raw mut time), 0);
        }
        assert!(time.tv_sec >= 0);
        // SAFETY: no arguments.
        assert!(unsafe { libc::sched_getcpu() } >= 0);
        let mine = own();
        let other = spawn(move || {
            let mut set = MaybeUninit::<cpu_set_t>::zeroed();
            // SAFETY: a place for the answer; that coroutine lives.
            unsafe { libc::pthread_getaffinity_np(mine, size, set.as_mut_ptr()) }
        });
        assert_eq!(other.join().unwrap(), libc::ESRCH, "of another coroutine");
    });
}

#[test]
fn handles_of_coroutines_take_signals() {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    extern "C" fn take(_: i32) {
        TAKEN.fetch_add(1, Ordering::SeqCst);
    }
    on_one_worker(|| {
        let signal = libc::SIGRTMIN() + 1;
        // SAFETY: a handler that touches an atomic alone.
        unsafe { libc::signal(signal, take as *const () as usize) };
        // SAFETY: handles of coroutines that live.
        let kill = |thread, signal| unsafe { libc::pthread_kill(thread, signal) };
        assert_eq!((kill(own(), 0), kill(own(), signal)), (0, 0));
        assert_eq!(
            TAKEN.load(Ordering::SeqCst),
            1,
            "delivered before the call returns"
        );
        let mine = own();
        let other = spawn(move || (kill(mine, 0), kill(mine, signal)));
        assert_eq!(other.join().unwrap(), (0, 0));
        while TAKEN.load(Ordering::SeqCst) < 2 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    });
}

#[test]
fn ids_are_changed_for_the_whole_process_while_coroutines_live() {
    on_one_worker(|| {
        let parked = spawn(|| std::thread::sleep(std::time::Duration::from_millis(5)));
        let_others_run();
        // glibc asks every thread it believes in to change its ids; the ones it has will do.
        // SAFETY: numbers alone.
        let changed = unsafe { (libc::setgid(libc::getgid()), libc::setuid(libc::getuid())) };
        assert_eq!(changed, (0, 0));
        parked.join().unwrap();
        let thread = std::thread::spawn(|| {
            // SAFETY: as above.
            unsafe { libc::setuid(libc::getuid()) }
        });
        assert_eq!(thread.join().unwrap(), 0);
    });
}

#[test]
fn a_coroutine_that_does_not_wait_answers_for_its_worker_when_ids_are_changed() {
    let begun = std::sync::Arc::new(AtomicU32::new(0));
    let seen = std::sync::Arc::clone(&begun);
    on_workers(2, move || {
        let spinning = spawn(move || {
            seen.store(1, Ordering::SeqCst);
            // Ends only after the ids are changed.
            while seen.load(Ordering::SeqCst) < 2 {
                std::hint::spin_loop();
            }
        });
        while begun.load(Ordering::SeqCst) == 0 {
            yield_now();
        }
        // SAFETY: numbers alone.
        assert_eq!(unsafe { libc::setgid(libc::getgid()) }, 0);
        begun.store(2, Ordering::SeqCst);
        spinning.join().unwrap();
    });
}

#[test]
fn a_mutex_that_lends_priority_is_waited_for_by_a_thread() {
    on_one_worker(|| {
        let mutex: Object<pthread_mutex_t> = Object::zeroed();
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: initialises both before use.
        unsafe {
            libc::pthread_mutexattr_init(attributes.as_mut_ptr());
            let inherit = libc::PTHREAD_PRIO_INHERIT;
            libc::pthread_mutexattr_setprotocol(attributes.as_mut_ptr(), inherit);
            let error = libc::pthread_mutex_init(mutex.get(), attributes.as_ptr());
            assert_eq!(error, 0);
        }
        // SAFETY: an initialised mutex, here and below.
        assert_eq!(unsafe { libc::pthread_mutex_lock(mutex.get()) }, 0);
        let (tell, hear) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: no arguments.
            tell.send(unsafe { libc::gettid() }).unwrap();
            // SAFETY: as above.
            unsafe {
                let locked = libc::pthread_mutex_lock(mutex.get());
                (locked, libc::pthread_mutex_unlock(mutex.get()))
            }
        });
        let tid = hear.recv().unwrap();
        // Until the kernel says that it waits for a futex.
        let waits = || std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).unwrap();
        while !waits().contains(") S ") {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // SAFETY: as above.
        assert_eq!(unsafe { libc::pthread_mutex_unlock(mutex.get()) }, 0);
        assert_eq!(thread.join().unwrap(), (0, 0));
    });
}

#[test]
fn many_threads_are_joined_at_once_whatever_the_coroutine_that_waits() {
    let sum: u32 = on_one_worker(|| {
        let joiners = all_of(50, |i| {
            move || {
                let thread = std::thread::spawn(move || {
                    std::thread::sleep(std::time::Duration::from_millis(u64::from(i % 7)));
                    i
                });
                thread.join().unwrap()
            }
        });
        let cancelled = spawn(|| {
            let thread = std::thread::spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(5));
                7
            });
            thread.join().unwrap()
        });
        let_others_run();
        cancelled.cancel();
        joiners.into_iter().sum::<u32>() + cancelled.join().unwrap()
    });
    assert_eq!(sum, 49 * 25 + 7);
}

#[test]
fn a_timed_join_gives_up_and_a_later_one_gets_the_value() {
    extern "C" fn body(told: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: lives for ever.
        let told = unsafe { &*told.cast::<AtomicU32>() };
        while told.load(Ordering::Acquire) == 0 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::ptr::without_provenance_mut(7)
    }
    on_one_worker(|| {
        let told: &'static AtomicU32 = Box::leak(Box::default());
        let mut thread: pthread_t = 0;
        let argument = std::ptr::from_ref(told).cast_mut().cast();
        // SAFETY: a place for the handle, a body, its argument.
        let made =
            unsafe { libc::pthread_create(&raw mut thread, std::ptr::null(), body, argument) };
        assert_eq!(made, 0);
        let neighbour = spawn(|| 5);
        let mut value = std::ptr::null_mut();
        let mut join = |clock, millis| {
            let time = in_millis(clock, millis);
            // SAFETY: a thread not joined yet, a place for its value, a time.
            unsafe { pthread_clockjoin_np(thread, &raw mut value, clock, &raw const time) }
        };
        assert_eq!(join(libc::CLOCK_MONOTONIC, 3), libc::ETIMEDOUT);
        assert_eq!(join(libc::CLOCK_REALTIME, 3), libc::ETIMEDOUT);
        assert_eq!(join(libc::CLOCK_MONOTONIC, -3), libc::ETIMEDOUT);
        assert_eq!(join(libc::CLOCK_BOOTTIME, 3), libc::EINVAL);
        assert!(neighbour.is_finished(), "the worker was held");
        told.store(1, Ordering::Release);
        let time = in_millis(libc::CLOCK_REALTIME, 3_600_000);
        // SAFETY: as above.
        let joined = unsafe { pthread_timedjoin_np(thread, &raw mut value, &raw const time) };
        assert_eq!((joined, value.addr()), (0, 7));
    });
}

unsafe extern "C" {
    fn pthread_timedjoin_np(
        thread: pthread_t,
        value: *mut *mut libc::c_void,
        time: *const libc::timespec,
    ) -> i32;
    fn pthread_clockjoin_np(
        thread: pthread_t,
        value: *mut *mut libc::c_void,
        clock: libc::clockid_t,
        time: *const libc::timespec,
    ) -> i32;
}
