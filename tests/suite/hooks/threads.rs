//! What belongs to a thread belongs to a coroutine: std's primitives, other crates' locks, panics.

use std::io::Write;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, OnceLock, RwLock, mpsc};
use std::time::Duration;

use rpc_core::{JoinHandle, spawn, yield_now};

use super::on_one_worker;

#[test]
fn std_channels_carry_values_between_coroutines_of_one_worker() {
    let sum = on_one_worker(|| {
        let (sender, receiver) = mpsc::channel();
        let (bounded, rendezvous) = mpsc::sync_channel(0);
        let middle = spawn(move || {
            for value in receiver {
                bounded.send(value).unwrap();
            }
        });
        let summer = spawn(move || rendezvous.iter().sum::<u64>());
        for i in 0..1000 {
            sender.send(i).unwrap();
            if i % 10 == 0 {
                yield_now();
            }
        }
        drop(sender);
        middle.join().unwrap();
        summer.join().unwrap()
    });
    assert_eq!(sum, 499_500);
}

#[test]
fn a_std_mutex_held_across_a_yield_excludes_the_others() {
    let count = on_one_worker(|| {
        let value = Arc::new(Mutex::new(0_u32));
        let adders = all_of(50, |_| {
            let value = Arc::clone(&value);
            move || {
                for _ in 0..20 {
                    let mut guard = value.lock().unwrap();
                    let before = *guard;
                    yield_now();
                    *guard = before + 1;
                }
            }
        });
        finish(adders);
        *value.lock().unwrap()
    });
    assert_eq!(count, 1000);
}

#[test]
fn a_condvar_hands_the_turn_around() {
    let order = on_one_worker(|| {
        let state = Arc::new((Mutex::new((0, Vec::new())), Condvar::new()));
        let players = all_of(10, |i| {
            let state = Arc::clone(&state);
            move || {
                let (mutex, changed) = &*state;
                let mut turn = mutex.lock().unwrap();
                while turn.0 != 9 - i {
                    turn = changed.wait(turn).unwrap();
                }
                turn.0 += 1;
                turn.1.push(i);
                changed.notify_all();
            }
        });
        finish(players);
        state.0.lock().unwrap().1.clone()
    });
    assert_eq!(order, (0..10).rev().collect::<Vec<_>>());
}

#[test]
fn a_condvar_wait_ends_at_its_timeout() {
    let (timed_out, early) = on_one_worker(|| {
        let pair = Arc::new((Mutex::new(()), Condvar::new()));
        let guard = pair.0.lock().unwrap();
        let begun = std::time::Instant::now();
        let (_guard, result) = pair
            .1
            .wait_timeout_while(guard, Duration::from_millis(5), |_| true)
            .unwrap();
        (
            result.timed_out(),
            begun.elapsed() < Duration::from_millis(5),
        )
    });
    assert_eq!((timed_out, early), (true, false));
}

#[test]
fn rwlock_once_and_barrier_wait_for_the_coroutine_alone() {
    let (sum, runs, leaders) = on_one_worker(|| {
        let shared = Arc::new(RwLock::new(0_u32));
        let once = Arc::new(OnceLock::new());
        let barrier = Arc::new(Barrier::new(8));
        let runs = Arc::new(AtomicU32::new(0));
        let workers = all_of(8, |i| {
            let (shared, once) = (Arc::clone(&shared), Arc::clone(&once));
            let (barrier, runs) = (Arc::clone(&barrier), Arc::clone(&runs));
            move || {
                once.get_or_init(|| {
                    yield_now();
                    runs.fetch_add(1, Ordering::Relaxed)
                });
                if i % 2 == 0 {
                    let mut guard = shared.write().unwrap();
                    let before = *guard;
                    yield_now();
                    *guard = before + 1;
                } else {
                    let guard = shared.read().unwrap();
                    yield_now();
                    assert!(*guard <= 4);
                }
                barrier.wait().is_leader()
            }
        });
        let leaders = finish(workers).into_iter().filter(|l| *l).count();
        let sum = *shared.read().unwrap();
        (sum, runs.load(Ordering::Relaxed), leaders)
    });
    assert_eq!((sum, runs, leaders), (4, 1, 1));
}

#[test]
fn thread_park_and_unpark_mean_the_coroutine() {
    let rounds = on_one_worker(|| {
        let (tell, hear) = mpsc::channel();
        let sleeper = spawn(move || {
            tell.send(std::thread::current()).unwrap();
            let mut rounds = 0;
            while rounds < 3 {
                std::thread::park();
                rounds += 1;
                tell.send(std::thread::current()).unwrap();
            }
            rounds
        });
        let mut thread = hear.recv().unwrap();
        for _ in 0..3 {
            thread.unpark();
            thread = hear.recv().unwrap();
        }
        sleeper.join().unwrap()
    });
    assert_eq!(rounds, 3);
}

#[test]
fn crossbeam_channels_without_room_meet_on_one_worker() {
    let sum = on_one_worker(|| {
        let (sender, receiver) = crossbeam_channel::bounded::<u64>(0);
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let summer = spawn(move || {
            let mut sum = 0;
            loop {
                crossbeam_channel::select! {
                    recv(receiver) -> value => sum += value.unwrap(),
                    recv(stopped) -> _ => return sum,
                }
            }
        });
        for i in 0..1000 {
            sender.send(i).unwrap();
        }
        drop(stop);
        summer.join().unwrap()
    });
    assert_eq!(sum, 499_500);
}

#[test]
fn parking_lot_locks_wait_for_the_coroutine_alone() {
    let count = on_one_worker(|| {
        let state = Arc::new((parking_lot::Mutex::new(0_u32), parking_lot::Condvar::new()));
        let adders = all_of(50, |_| {
            let state = Arc::clone(&state);
            move || {
                for _ in 0..20 {
                    let mut guard = state.0.lock();
                    let before = *guard;
                    yield_now();
                    *guard = before + 1;
                    state.1.notify_one();
                }
            }
        });
        let mut guard = state.0.lock();
        while *guard < 1000 {
            state.1.wait_for(&mut guard, Duration::from_millis(50));
        }
        drop(guard);
        finish(adders);
        *state.0.lock()
    });
    assert_eq!(count, 1000);
}

#[test]
fn the_lock_of_stdout_is_held_across_a_yield() {
    on_one_worker(|| {
        let writers = all_of(3, |_| {
            || {
                let mut out = std::io::stdout().lock();
                yield_now();
                // A second holder on the same thread would panic: the buffer is borrowed.
                out.flush().unwrap();
                yield_now();
                out.flush().unwrap();
            }
        });
        finish(writers);
    });
}

#[test]
fn a_panic_waits_in_a_destructor_while_another_coroutine_panics() {
    struct YieldsOnDrop;
    impl Drop for YieldsOnDrop {
        fn drop(&mut self) {
            assert!(std::thread::panicking());
            (0..3).for_each(|_| yield_now());
            assert!(std::thread::panicking());
        }
    }
    let (first, second, outside) = on_one_worker(|| {
        let first = spawn(|| {
            let caught = std::panic::catch_unwind(|| {
                let _waits = YieldsOnDrop;
                panic!("expected by this test: outer");
            });
            caught.is_err()
        });
        let second = spawn(|| {
            let before = std::thread::panicking();
            let caught = std::panic::catch_unwind(|| panic!("expected by this test: inner"));
            !before && caught.is_err() && !std::thread::panicking()
        });
        let outside = std::thread::panicking();
        (first.join().unwrap(), second.join().unwrap(), outside)
    });
    assert_eq!((first, second, outside), (true, true, false));
}

#[test]
fn threads_and_coroutines_share_a_mutex_and_a_channel() {
    let (count, received) = on_one_worker(|| {
        let value = Arc::new(Mutex::new(0_u32));
        let (sender, receiver) = mpsc::channel();
        let add = |value: Arc<Mutex<u32>>, sender: mpsc::Sender<u32>, who: u32| {
            move || {
                for _ in 0..500 {
                    *value.lock().unwrap() += 1;
                    sender.send(who).unwrap();
                }
            }
        };
        let threads: Vec<_> = (0..2)
            .map(|i| std::thread::spawn(add(Arc::clone(&value), sender.clone(), i)))
            .collect();
        let coroutines = all_of(2, |i| add(Arc::clone(&value), sender.clone(), 2 + i));
        drop(sender);
        let received = receiver.iter().count();
        finish(coroutines);
        threads.into_iter().for_each(|t| t.join().unwrap());
        let count = *value.lock().unwrap();
        (count, received)
    });
    assert_eq!((count, received), (2000, 2000));
}

#[test]
fn a_wake_counts_threads_and_coroutines_alike() {
    static WORD: AtomicU32 = AtomicU32::new(0);
    fn futex(operation: i32, value: u32) -> i64 {
        let operation = operation | libc::FUTEX_PRIVATE_FLAG;
        let none = std::ptr::null::<libc::timespec>();
        // SAFETY: a word that lives for ever, and no timeout.
        unsafe { libc::syscall(libc::SYS_futex, WORD.as_ptr(), operation, value, none) }
    }
    let woken = on_one_worker(|| {
        let coroutines = all_of(3, |_| || futex(libc::FUTEX_WAIT, 0));
        let threads: Vec<_> = (0..2)
            .map(|_| std::thread::spawn(|| futex(libc::FUTEX_WAIT, 0)))
            .collect();
        let mut woken = 0;
        while woken < 5 {
            // Two at a time, so that one wake has to take from both kinds.
            woken += futex(libc::FUTEX_WAKE, 2);
            yield_now();
        }
        let results: Vec<_> = finish(coroutines)
            .into_iter()
            .chain(threads.into_iter().map(|t| t.join().unwrap()))
            .collect();
        assert_eq!(results, [0; 5]);
        assert_eq!(futex(libc::FUTEX_WAKE, 9), 0, "nobody is left");
        woken
    });
    assert_eq!(woken, 5);
}

#[test]
fn a_thread_that_needs_another_coroutine_can_be_joined() {
    let sum = on_one_worker(|| {
        let (ask, asked) = mpsc::channel::<u32>();
        let (answer, answered) = mpsc::channel::<u32>();
        let helper = spawn(move || answer.send(asked.recv().unwrap() * 2).unwrap());
        let thread = std::thread::spawn(move || {
            ask.send(21).unwrap();
            answered.recv().unwrap()
        });
        let sum = thread.join().unwrap();
        helper.join().unwrap();
        sum
    });
    assert_eq!(sum, 42);
}

#[test]
fn scoped_threads_end_while_a_coroutine_waits_for_them() {
    let total = on_one_worker(|| {
        let ticker = spawn(|| (0..100).for_each(|_| yield_now()));
        let mut parts = [0_u32; 4];
        std::thread::scope(|scope| {
            for (i, part) in parts.iter_mut().enumerate() {
                scope.spawn(move || *part = i as u32 + 1);
            }
        });
        ticker.join().unwrap();
        parts.iter().sum::<u32>()
    });
    assert_eq!(total, 10);
}

#[test]
fn a_hundred_sleeps_overlap() {
    let rounds = on_one_worker(|| {
        let asleep = Arc::new(AtomicUsize::new(0));
        let sleepers = all_of(100, |_| {
            let asleep = Arc::clone(&asleep);
            move || {
                asleep.fetch_add(1, Ordering::Relaxed);
                let mut rounds = 0_u32;
                // A sleep that held the worker would keep the others from ever being counted.
                while asleep.load(Ordering::Relaxed) < 100 || rounds == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                    rounds += 1;
                }
                rounds
            }
        });
        finish(sleepers)
    });
    assert!(rounds.len() == 100 && rounds.iter().all(|r| *r > 0));
}

fn all_of<T, F>(count: u32, make: impl Fn(u32) -> F) -> Vec<JoinHandle<T>>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    (0..count).map(|i| spawn(make(i))).collect()
}

fn finish<T>(handles: Vec<JoinHandle<T>>) -> Vec<T> {
    handles.into_iter().map(|h| h.join().unwrap()).collect()
}
