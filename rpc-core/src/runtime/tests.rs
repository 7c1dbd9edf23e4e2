//! The scheduler without hooks: spawning, waiting, ending.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::park::{Waiter, park};
use super::*;
use crate::base::lock::SpinLock;
use crate::base::time::Instant;

fn runtime(workers: usize) -> Runtime {
    Runtime::builder()
        .workers(workers)
        .build()
        .expect("this machine can run coroutines")
}

#[test]
fn a_value_comes_back_through_join() {
    let rt = runtime(1);
    let value = rt.block_on(|| spawn(|| 40).join().unwrap() + spawn(|| 2).join().unwrap());
    assert_eq!(value, 42);
}

#[test]
fn a_panic_ends_one_coroutine_and_its_payload_is_joined() {
    let rt = runtime(1);
    let seven = std::hint::black_box(7);
    let text = rt.block_on(move || match spawn(move || panic!("boom {seven}")).join() {
        Err(JoinError::Panicked(payload)) => *payload.downcast::<String>().unwrap(),
        other => panic!("expected the panic, got {other:?}"),
    });
    assert_eq!(text, "boom 7");
    assert_eq!(rt.block_on(|| 1), 1);
}

#[test]
fn many_coroutines_on_several_workers_all_end() {
    let rt = runtime(3);
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    rt.block_on(move || {
        let handles: Vec<_> = (0..2000)
            .map(|i| {
                let count = Arc::clone(&count);
                spawn(move || {
                    (0..i % 7).for_each(|_| yield_now());
                    count.fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        handles.into_iter().for_each(|h| h.join().unwrap());
    });
    assert_eq!(seen.load(Ordering::Relaxed), 2000);
}

#[test]
fn timers_wake_in_order_of_their_deadlines() {
    let rt = runtime(1);
    let order = rt.block_on(|| {
        let order = Arc::new(SpinLock::new(Vec::new()));
        let handles: Vec<_> = [30_u64, 10, 20]
            .into_iter()
            .map(|ms| {
                let order = Arc::clone(&order);
                spawn(move || {
                    let until = Instant::after(Duration::from_millis(ms));
                    while Instant::now() < until {
                        park(Reason::Sleep, until);
                    }
                    order.lock().push(ms);
                })
            })
            .collect();
        handles.into_iter().for_each(|h| h.join().unwrap());
        order.lock().clone()
    });
    assert_eq!(order, [10, 20, 30]);
}

#[test]
fn a_wake_up_before_the_park_is_not_lost() {
    let rt = runtime(2);
    rt.block_on(|| {
        for _ in 0..1000 {
            let me = Waiter::current();
            let other = spawn(move || me.wake());
            park(Reason::Other("test"), Instant::NEVER);
            other.join().unwrap();
        }
    });
}

#[test]
fn thread_locals_are_fresh_unless_left_to_the_next() {
    thread_local!(static SEEN: Cell<u32> = const { Cell::new(0) });
    let rt = runtime(1);
    let (fresh, reused) = rt.block_on(|| {
        let visit = || SEEN.replace(SEEN.get() + 1);
        let fresh: Vec<u32> = (0..3).map(|_| spawn(visit).join().unwrap()).collect();
        let reused: Vec<u32> = (0..3)
            .map(|_| {
                Builder::new()
                    .reuse_thread_locals(true)
                    .spawn(visit)
                    .join()
                    .unwrap()
            })
            .collect();
        (fresh, reused)
    });
    assert_eq!(fresh, [0, 0, 0]);
    assert_eq!(reused, [0, 1, 2]);
}

#[test]
fn destructors_of_thread_locals_run_at_the_end_of_the_coroutine() {
    struct Count(Arc<AtomicUsize>);
    impl Drop for Count {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    thread_local!(static HELD: std::cell::RefCell<Option<Count>> = const { std::cell::RefCell::new(None) });
    let rt = runtime(1);
    let dropped = rt.block_on(|| {
        let count = Arc::new(AtomicUsize::new(0));
        let held = Arc::clone(&count);
        spawn(move || HELD.set(Some(Count(held)))).join().unwrap();
        // The destructors run after the value is handed over: one turn later they have.
        while Arc::strong_count(&count) > 1 {
            yield_now();
        }
        count.load(Ordering::Relaxed)
    });
    assert_eq!(dropped, 1);
}

#[test]
fn blocking_jobs_are_joined_from_a_coroutine() {
    let rt = runtime(1);
    let on_pool = rt.block_on(|| spawn_blocking(|| current().is_none()).join().unwrap());
    assert!(on_pool);
}

#[test]
fn a_cancelled_closure_that_has_not_started_never_runs() {
    let rt = runtime(1);
    let outcome = rt.block_on(|| {
        let handle = spawn(|| 1);
        handle.cancel();
        handle.join()
    });
    assert!(matches!(outcome, Err(JoinError::Cancelled)));
}

#[test]
fn the_runtime_ends_with_parked_coroutines_and_says_so() {
    let rt = runtime(2);
    rt.block_on(|| {
        drop(Builder::new().name("sleeper").spawn(|| {
            loop {
                park(Reason::Other("for ever"), Instant::NEVER);
            }
        }));
        yield_now();
    });
    rt.shutdown(Duration::from_millis(10));
}

#[test]
fn a_cancelled_coroutine_ends_with_the_runtime() {
    let rt = runtime(1);
    let ended = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&ended);
    rt.block_on(move || {
        drop(spawn(move || {
            while !park::cancelled() {
                park(Reason::Other("cancellation"), Instant::NEVER);
            }
            ended.fetch_add(1, Ordering::Relaxed);
        }));
        yield_now();
    });
    rt.shutdown(Duration::from_secs(10));
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}

#[test]
fn a_closure_for_a_runtime_that_has_ended_is_cancelled_and_not_waited_for() {
    let rt = runtime(1);
    let handle = rt.handle();
    rt.shutdown(Duration::from_secs(10));
    assert!(matches!(
        handle.spawn(|| 1).join(),
        Err(JoinError::Cancelled)
    ));
}

#[test]
fn deadlines_nest_and_are_restored() {
    let rt = runtime(1);
    rt.block_on(|| {
        assert_eq!(Deadline::remaining(), None);
        Deadline::within(Duration::from_secs(5), || {
            Deadline::within(Duration::from_secs(500), || {
                assert!(Deadline::remaining().is_some_and(|left| left <= Duration::from_secs(5)));
            });
            Deadline::shield(|| assert_eq!(Deadline::remaining(), None));
        });
        assert_eq!(Deadline::remaining(), None);
    });
}

#[test]
fn a_pipe_wakes_its_reader_and_a_release_its_waiters() {
    use super::reactor::{Dir, Io, Wait};
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    let rt = runtime(1);
    rt.block_on(|| {
        let (mut reader, mut writer) = io::pipe().unwrap();
        let io = Io::acquire().unwrap();
        let fd = reader.as_raw_fd();
        let waiting = spawn(move || io.wait(fd, Dir::Read, io.tick(Dir::Read), Instant::NEVER));
        yield_now();
        writer.write_all(b"x").unwrap();
        assert_eq!(waiting.join().unwrap(), Wait::Ready);
        reader.read_exact(&mut [0]).unwrap();
        let until = Instant::after(Duration::from_millis(1));
        assert_eq!(
            io.wait(fd, Dir::Read, io.tick(Dir::Read), until),
            Wait::TimedOut
        );
        let started = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&started);
        let waiting = spawn(move || {
            started.store(1, Ordering::Relaxed);
            io.wait(fd, Dir::Read, io.tick(Dir::Read), Instant::NEVER)
        });
        // One worker: once we see it started, it has also parked.
        while seen.load(Ordering::Relaxed) == 0 {
            yield_now();
        }
        io.release();
        assert_eq!(waiting.join().unwrap(), Wait::Closed);
    });
}

/// Spins, never suspending, until `done` holds.
fn spin_until(done: impl Fn() -> bool) {
    while !done() {
        std::hint::spin_loop();
    }
}

#[test]
fn a_coroutine_that_keeps_its_worker_does_not_keep_the_others_from_running() {
    let rt = runtime(1);
    rt.block_on(|| {
        let flag = Arc::new(AtomicUsize::new(0));
        let set = Arc::clone(&flag);
        let other = spawn(move || {
            // Started: it can only run where its worker is.
            yield_now();
            sleep(Duration::from_millis(1));
            set.store(1, Ordering::Release);
        });
        yield_now();
        spin_until(|| flag.load(Ordering::Acquire) == 1);
        // On a thread that has lost the worker: spawning, sleeping and joining work as ever.
        let spawned = spawn(|| 7);
        sleep(Duration::from_millis(1));
        assert_eq!(spawned.join().unwrap(), 7);
        other.join().unwrap();
    });
    assert!(rt.metrics().rescues >= 1);
    // The thread that has lost the worker gives its coroutine back after the answer was there.
    spin_until(|| rt.metrics().live == 0);
}

#[test]
fn rescues_come_one_after_another_and_nothing_is_lost() {
    let rt = Runtime::builder()
        .workers(1)
        .rescue_after(Duration::from_millis(1))
        .build()
        .unwrap();
    let rounds = 20;
    let sum = rt.block_on(move || {
        let turn = Arc::new(AtomicUsize::new(0));
        let handles: Vec<_> = (0..rounds)
            .map(|i| {
                let turn = Arc::clone(&turn);
                spawn(move || {
                    yield_now();
                    // In reverse: each but the last spins until a later one has run.
                    spin_until(|| turn.load(Ordering::Acquire) == rounds - 1 - i);
                    turn.fetch_add(1, Ordering::AcqRel);
                    sleep(Duration::from_micros(10));
                    i
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|h| h.join().unwrap())
            .sum::<usize>()
    });
    assert_eq!(sum, rounds * (rounds - 1) / 2);
    assert!(rt.metrics().rescues as usize >= rounds - 1);
}

#[test]
fn what_comes_from_outside_is_rescued_from_a_worker_that_is_kept() {
    let rt = runtime(1);
    let done = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&done);
    let keeper = rt.spawn(move || spin_until(|| seen.load(Ordering::Acquire) == 1));
    rt.spawn(move || done.store(1, Ordering::Release))
        .join()
        .unwrap();
    keeper.join().unwrap();
}

#[test]
fn a_runtime_ends_while_a_coroutine_never_comes_back() {
    let rt = runtime(1);
    let release = Arc::new(AtomicUsize::new(0));
    let (stuck, started) = (Arc::clone(&release), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&started);
    let handle = rt.spawn(move || {
        started.store(1, Ordering::Release);
        spin_until(|| stuck.load(Ordering::Acquire) == 1);
        5
    });
    spin_until(|| seen.load(Ordering::Acquire) == 1);
    rt.shutdown(Duration::from_millis(1));
    release.store(1, Ordering::Release);
    assert_eq!(handle.join().unwrap(), 5);
}

#[test]
fn who_joins_what_a_runtime_left_behind_is_told_so() {
    let rt = runtime(1);
    let parked = rt.spawn(|| {
        loop {
            park(Reason::Other("for ever"), Instant::NEVER);
        }
    });
    rt.block_on(yield_now);
    let joined = thread::spawn(move || parked.join());
    rt.shutdown(Duration::ZERO);
    assert!(matches!(joined.join().unwrap(), Err(JoinError::Lost)));
}

#[test]
fn thread_locals_are_gone_when_the_join_returns() {
    struct Slow(Arc<AtomicUsize>);
    impl Drop for Slow {
        fn drop(&mut self) {
            (0..10).for_each(|_| yield_now());
            self.0.store(1, Ordering::Release);
        }
    }
    thread_local!(static HELD: std::cell::RefCell<Option<Slow>> = const { std::cell::RefCell::new(None) });
    let rt = runtime(1);
    let dropped = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&dropped);
    rt.spawn(move || HELD.set(Some(Slow(told)))).join().unwrap();
    assert_eq!(dropped.load(Ordering::Acquire), 1);
}

#[test]
fn a_higher_priority_runs_first_and_a_lower_one_in_the_end() {
    let rt = runtime(1);
    let order = rt.block_on(|| {
        let order = Arc::new(SpinLock::new(Vec::new()));
        let spawn_at = |priority, rounds: usize| {
            let order = Arc::clone(&order);
            Builder::new().priority(priority).spawn(move || {
                for _ in 0..rounds {
                    order.lock().push(priority);
                    yield_now();
                }
            })
        };
        let low = spawn_at(Priority::Low, 1);
        let normal = spawn_at(Priority::Normal, 1);
        let high = spawn_at(Priority::High, 200);
        for handle in [low, normal, high] {
            handle.join().unwrap();
        }
        order.lock().clone()
    });
    let first = |priority| order.iter().position(|p| *p == priority).unwrap();
    assert!(
        first(Priority::High) <= 1,
        "one closure may have started before"
    );
    assert!(first(Priority::Normal) <= 13);
    assert!(
        (14..=62).contains(&first(Priority::Low)),
        "{}",
        first(Priority::Low)
    );
}

#[test]
fn a_worker_with_work_is_woken_without_eventfd_writes() {
    // Without the watchdog: a machine so loaded that it took the worker over would make that idle.
    let builder = Runtime::builder().workers(1).rescue_after(Duration::ZERO);
    let rt = builder.build().unwrap();
    let stop = Arc::new(AtomicUsize::new(0));
    let stopped = Arc::clone(&stop);
    let (waiting, ready) = std::sync::mpsc::channel();
    let woken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&woken);
    let turns = Arc::new(AtomicUsize::new(0));
    let turn = Arc::clone(&turns);
    drop(rt.spawn(move || {
        while stopped.load(Ordering::Acquire) == 0 {
            turn.fetch_add(1, Ordering::Release);
            yield_now();
        }
    }));
    // A turn of the other coroutine shows that the sleeper has parked: a wake before that is only
    // a token left for it.
    let parked = || {
        let seen = turns.load(Ordering::Acquire);
        spin_until(|| turns.load(Ordering::Acquire) > seen);
    };
    let sleeper = rt.spawn(move || {
        waiting.send(Waiter::current()).unwrap();
        for _ in 0..100 {
            park(Reason::Other("test"), Instant::NEVER);
            count.fetch_add(1, Ordering::Release);
        }
    });
    let sleeper_waits = ready.recv().unwrap();
    let before = rt.metrics();
    for i in 0..100 {
        parked();
        sleeper_waits.wake();
        spin_until(|| woken.load(Ordering::Acquire) > i);
    }
    let after = rt.metrics();
    sleeper.join().unwrap();
    stop.store(1, Ordering::Release);
    assert_eq!(after.eventfd_writes, before.eventfd_writes);
    assert!(after.wakes_from_elsewhere >= before.wakes_from_elsewhere + 100);
}

#[test]
fn an_idle_worker_is_woken_by_one_eventfd_write() {
    let rt = runtime(1);
    let shared = rt.shared;
    let before = rt.metrics().eventfd_writes;
    for i in 1..=5 {
        spin_until(|| shared.is_idle(0));
        rt.spawn(|| ()).join().unwrap();
        assert_eq!(rt.metrics().eventfd_writes, before + i);
    }
}
