//! The primitives from coroutines and threads together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::oneshot::oneshot;
use super::*;
use crate::{Deadline, Runtime, spawn, yield_now};

pub(super) fn runtime(workers: usize) -> Runtime {
    Runtime::builder()
        .workers(workers)
        .build()
        .expect("this machine can run coroutines")
}

#[test]
fn a_mutex_held_across_yields_excludes_everybody_else() {
    let rt = runtime(2);
    let total = Arc::new(Mutex::new(0_u32));
    let add = |total: Arc<Mutex<u32>>| {
        for _ in 0..200 {
            let mut value = total.lock();
            let seen = *value;
            yield_now();
            *value = seen + 1;
        }
    };
    let coroutines: Vec<_> = (0..4)
        .map(|_| {
            let total = Arc::clone(&total);
            rt.spawn(move || add(total))
        })
        .collect();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let total = Arc::clone(&total);
            std::thread::spawn(move || add(total))
        })
        .collect();
    coroutines.into_iter().for_each(|c| c.join().unwrap());
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(*total.lock(), 1200);
}

#[test]
fn a_mutex_is_handed_over_in_order_of_arrival() {
    let rt = runtime(1);
    let order = rt.block_on(|| {
        let mutex = Arc::new(Mutex::new(Vec::new()));
        let held = mutex.lock();
        let handles: Vec<_> = (0..5)
            .map(|i| {
                let mutex = Arc::clone(&mutex);
                let handle = spawn(move || mutex.lock().push(i));
                yield_now();
                yield_now();
                handle
            })
            .collect();
        drop(held);
        handles.into_iter().for_each(|h| h.join().unwrap());
        mutex.lock().clone()
    });
    assert_eq!(order, [0, 1, 2, 3, 4]);
}

#[test]
fn a_failed_try_leaves_a_lock_to_its_holder() {
    let mutex = Mutex::new(());
    let held = mutex.lock();
    assert!(mutex.try_lock().is_none());
    assert!(mutex.try_lock().is_none());
    drop(held);
    assert!(mutex.try_lock().is_some());
    let lock = RwLock::new(());
    let held = lock.write();
    assert!(lock.try_write().is_none() && lock.try_read().is_none());
    assert!(lock.try_write().is_none() && lock.try_read().is_none());
    drop(held);
    assert!(lock.try_read().is_some());
}

#[test]
fn values_pass_a_channel_in_order_and_its_end_is_seen() {
    let rt = runtime(1);
    let got: Vec<u32> = rt.block_on(|| {
        let (sender, receiver) = channel(2);
        drop(spawn(move || {
            (0..100).for_each(|i| sender.send(i).unwrap())
        }));
        receiver.iter().collect()
    });
    assert_eq!(got, (0..100).collect::<Vec<_>>());
}

#[test]
fn many_senders_and_receivers_lose_nothing() {
    let rt = runtime(3);
    let (sender, receiver) = channel(3);
    let senders: Vec<_> = (0..4_u64)
        .map(|s| {
            let sender = sender.clone();
            rt.spawn(move || (0..500).for_each(|i| sender.send(s * 500 + i).unwrap()))
        })
        .collect();
    drop(sender);
    let receivers: Vec<_> = (0..3)
        .map(|_| {
            let receiver = receiver.clone();
            rt.spawn(move || receiver.iter().collect::<Vec<u64>>())
        })
        .collect();
    senders.into_iter().for_each(|s| s.join().unwrap());
    let mut all: Vec<u64> = receivers
        .into_iter()
        .flat_map(|r| r.join().unwrap())
        .collect();
    all.sort_unstable();
    assert_eq!(all, (0..2000).collect::<Vec<_>>());
}

#[test]
fn a_send_without_receivers_returns_the_value() {
    let (sender, receiver) = channel(1);
    drop(receiver);
    let error = sender.send(5).unwrap_err();
    assert_eq!((error.value, error.error), (5, WaitError::Closed));
}

#[test]
fn deadlines_and_cancellation_cut_a_receive() {
    let rt = runtime(1);
    rt.block_on(|| {
        let (sender, receiver) = channel::<()>(1);
        let cut = Deadline::within(Duration::from_millis(1), || receiver.recv());
        assert_eq!(cut, Err(WaitError::TimedOut));
        let waiting = spawn(move || receiver.recv());
        yield_now();
        yield_now();
        waiting.cancel();
        assert_eq!(waiting.join().unwrap(), Err(WaitError::Cancelled));
        drop(sender);
    });
}

#[test]
fn a_condition_wakes_one_or_all() {
    let rt = runtime(2);
    rt.block_on(|| {
        let pair = Arc::new((Mutex::new(0), Condvar::new()));
        let handles: Vec<_> = (0..10)
            .map(|_| {
                let pair = Arc::clone(&pair);
                spawn(move || {
                    let mut value = pair.0.lock();
                    while *value == 0 {
                        value = pair.1.wait(value);
                    }
                })
            })
            .collect();
        *pair.0.lock() = 1;
        pair.1.notify_all();
        handles.into_iter().for_each(|h| h.join().unwrap());
        let (_guard, outcome) = pair.1.wait_timeout(pair.0.lock(), Duration::from_millis(1));
        assert_eq!(outcome, Err(WaitError::TimedOut));
    });
}

#[test]
fn a_semaphore_never_exceeds_its_permits() {
    let rt = runtime(2);
    let semaphore = Arc::new(Semaphore::new(3));
    let handles: Vec<_> = (0..50)
        .map(|_| {
            let semaphore = Arc::clone(&semaphore);
            rt.spawn(move || {
                let _permit = semaphore.acquire().unwrap();
                assert!(semaphore.available() <= 2);
                yield_now();
            })
        })
        .collect();
    handles.into_iter().for_each(|h| h.join().unwrap());
    assert_eq!(semaphore.available(), 3);
}

#[test]
fn a_oneshot_delivers_or_says_that_nothing_comes() {
    let rt = runtime(1);
    rt.block_on(|| {
        let (sender, receiver) = oneshot();
        drop(spawn(move || sender.send(7)));
        assert_eq!(receiver.recv(), Ok(7));
        let (sender, receiver) = oneshot::<u8>();
        drop(sender);
        assert_eq!(receiver.recv(), Err(WaitError::Closed));
        let (sender, receiver) = oneshot();
        drop(receiver);
        assert_eq!(sender.send(1), Err(1));
    });
}

/// Runs `body` in `count` coroutines and `count` OS threads at once; what each returned.
pub(super) fn everywhere<T: Send + 'static>(
    rt: &Runtime,
    count: usize,
    body: impl Fn(usize) -> T + Clone + Send + 'static,
) -> Vec<T> {
    let coroutines: Vec<_> = (0..count)
        .map(|i| {
            let body = body.clone();
            rt.spawn(move || body(i))
        })
        .collect();
    let threads: Vec<_> = (0..count)
        .map(|i| {
            let body = body.clone();
            std::thread::spawn(move || body(count + i))
        })
        .collect();
    let mut all: Vec<T> = coroutines.into_iter().map(|c| c.join().unwrap()).collect();
    all.extend(threads.into_iter().map(|t| t.join().unwrap()));
    all
}

#[test]
fn readers_share_and_a_writer_is_alone() {
    let rt = runtime(2);
    let lock = Arc::new(RwLock::new((0_u32, 0_u32)));
    let shared = Arc::clone(&lock);
    everywhere(&rt, 3, move |i| {
        for turn in 0..100 {
            if (turn + i) % 3 == 0 {
                let mut pair = shared.write();
                pair.0 += 1;
                yield_now();
                pair.1 += 1;
            } else {
                let pair = shared.read();
                assert_eq!(pair.0, pair.1, "a reader saw a writer half-way");
                yield_now();
            }
        }
    });
    let pair = *lock.read();
    assert_eq!(pair.0, pair.1);
    assert!(lock.try_write().is_some(), "every guard was given back");
}

#[test]
fn a_reader_does_not_overtake_a_waiting_writer() {
    let rt = runtime(1);
    let order = rt.block_on(|| {
        let lock = Arc::new(RwLock::new(Vec::new()));
        let held = lock.read();
        let writer = {
            let lock = Arc::clone(&lock);
            spawn(move || lock.write().push("writer"))
        };
        while lock.try_read().is_some() {
            yield_now();
        }
        let reader = {
            let lock = Arc::clone(&lock);
            spawn(move || lock.read().clone())
        };
        yield_now();
        drop(held);
        writer.join().unwrap();
        reader.join().unwrap()
    });
    assert_eq!(order, ["writer"]);
}

#[test]
fn a_barrier_lets_all_go_on_together_again_and_again() {
    let rt = runtime(2);
    let (barrier, came) = (Arc::new(Barrier::new(6)), Arc::new(AtomicUsize::new(0)));
    let leaders = everywhere(&rt, 3, move |_| {
        let mut led = 0;
        for round in 1..=50 {
            came.fetch_add(1, Ordering::SeqCst);
            led += usize::from(barrier.wait());
            assert!(came.load(Ordering::SeqCst) >= round * 6);
            barrier.wait();
        }
        led
    });
    assert_eq!(leaders.iter().sum::<usize>(), 50, "one leads each round");
}

#[test]
fn a_wait_group_waits_for_every_member() {
    let rt = runtime(2);
    let (group, done) = (WaitGroup::new(), Arc::new(AtomicUsize::new(0)));
    for _ in 0..20 {
        let (member, done) = (group.clone(), Arc::clone(&done));
        drop(rt.spawn(move || {
            yield_now();
            done.fetch_add(1, Ordering::SeqCst);
            drop(member);
        }));
    }
    let other = group.clone();
    assert_eq!(
        other.wait_timeout(Duration::from_millis(1)),
        Err(WaitError::TimedOut),
        "our own clone is a member"
    );
    group.wait().unwrap();
    assert_eq!(done.load(Ordering::SeqCst), 20);
}

#[test]
fn one_notification_is_remembered_and_all_reach_those_who_wait() {
    let rt = runtime(1);
    rt.block_on(|| {
        let notify = Arc::new(Notify::new());
        notify.notify_one();
        notify.notify_one();
        assert_eq!(notify.wait(), Ok(()));
        let late = notify.wait_timeout(Duration::from_millis(1));
        assert_eq!(late, Err(WaitError::TimedOut), "two before a wait are one");
        let here = Arc::new(AtomicUsize::new(0));
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let (notify, here) = (Arc::clone(&notify), Arc::clone(&here));
                spawn(move || {
                    here.fetch_add(1, Ordering::SeqCst);
                    notify.wait()
                })
            })
            .collect();
        // One worker: those that have come have parked.
        while here.load(Ordering::SeqCst) < 3 {
            yield_now();
        }
        notify.notify_all();
        for handle in waiting {
            assert_eq!(handle.join().unwrap(), Ok(()));
        }
        let none = notify.wait_timeout(Duration::from_millis(1));
        assert_eq!(none, Err(WaitError::TimedOut), "all is not remembered");
    });
}

#[test]
fn a_watch_shows_the_latest_value_and_its_end() {
    let (sender, mut receiver) = watch::watch(1);
    let rt = runtime(1);
    rt.block_on(move || {
        assert!(!receiver.has_changed());
        let other = receiver.clone();
        let seen = spawn(move || {
            let (mut receiver, mut seen) = (other, Vec::new());
            while receiver.changed().is_ok() {
                seen.push(*receiver.latest());
            }
            seen
        });
        yield_now();
        sender.send(2);
        sender.send(3);
        assert_eq!(receiver.changed(), Ok(()));
        assert_eq!((*receiver.latest(), receiver.has_changed()), (3, false));
        yield_now();
        sender.send(4);
        drop(sender);
        assert_eq!(
            seen.join().unwrap(),
            [3, 4],
            "what came too fast is skipped"
        );
        assert_eq!(receiver.changed(), Ok(()));
        assert_eq!(receiver.changed(), Err(WaitError::Closed));
    });
}

#[test]
fn a_full_channel_and_a_closed_one_are_told_apart() {
    let (sender, receiver) = channel(1);
    assert_eq!(sender.try_send(1), Ok(()));
    assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
    let late = sender
        .send_timeout(3, Duration::from_millis(1))
        .unwrap_err();
    assert_eq!((late.value, late.error), (3, WaitError::TimedOut));
    assert_eq!(receiver.try_recv(), Ok(1));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    drop(receiver);
    assert_eq!(sender.try_send(4), Err(TrySendError::Closed(4)));
}

#[test]
fn a_waiting_sender_gets_its_value_back_when_the_last_receiver_goes() {
    let rt = runtime(1);
    rt.block_on(|| {
        let (sender, receiver) = channel(1);
        sender.send("kept").unwrap();
        let waiting = spawn(move || sender.send("given back"));
        yield_now();
        yield_now();
        drop(receiver);
        let error = waiting.join().unwrap().unwrap_err();
        assert_eq!(
            (error.value, error.error),
            ("given back", WaitError::Closed)
        );
    });
}

#[test]
fn without_a_bound_no_send_waits_and_order_is_kept() {
    let (sender, receiver) = unbounded();
    (0..10_000).for_each(|i| sender.try_send(i).unwrap());
    drop(sender);
    assert!(receiver.iter().eq(0..10_000));
}

#[test]
fn with_a_bound_of_zero_a_sender_meets_its_receiver() {
    let rt = runtime(1);
    rt.block_on(|| {
        let (sender, receiver) = channel(0);
        assert_eq!(sender.try_send(0), Err(TrySendError::Full(0)));
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let sending = spawn(move || {
            for i in 1..=3 {
                sender.send(i).unwrap();
                count.store(i, Ordering::SeqCst);
            }
        });
        for i in 1..=3 {
            yield_now();
            assert_eq!(sent.load(Ordering::SeqCst), i - 1);
            assert_eq!(receiver.recv(), Ok(i));
            yield_now();
        }
        sending.join().unwrap();
    });
}

#[test]
fn threads_and_coroutines_pass_each_other_every_value_once() {
    let rt = runtime(2);
    for bound in [0, 1, 7] {
        let (sender, receiver) = channel(bound);
        let receivers: Vec<_> = (0..2)
            .map(|_| {
                let receiver = receiver.clone();
                rt.spawn(move || receiver.iter().collect::<Vec<usize>>())
            })
            .collect();
        let thread = {
            let receiver = receiver.clone();
            std::thread::spawn(move || receiver.iter().collect::<Vec<usize>>())
        };
        drop(receiver);
        everywhere(&rt, 2, move |who| {
            (0..300).for_each(|i| sender.send(who * 300 + i).unwrap());
        });
        let mut all = thread.join().unwrap();
        for receiver in receivers {
            all.extend(receiver.join().unwrap());
        }
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1200), "bound {bound}");
    }
}

#[test]
fn deadlines_cut_what_can_fail_and_nothing_else() {
    let rt = runtime(1);
    rt.block_on(|| {
        let (full, _kept) = channel(0);
        let (_sender, mut watched) = watch::watch(());
        let (semaphore, notify) = (Semaphore::new(0), Notify::new());
        let (group, mutex) = (WaitGroup::new(), Arc::new(Mutex::new(())));
        let member = group.clone();
        Deadline::within(Duration::from_millis(1), || {
            let late = WaitError::TimedOut;
            assert_eq!(full.send(1).unwrap_err().error, late);
            assert_eq!(watched.changed(), Err(late));
            assert_eq!(semaphore.acquire().map(drop), Err(late));
            assert_eq!(notify.wait(), Err(late));
            assert_eq!(group.wait(), Err(late));
            let held = mutex.lock();
            let other = {
                let mutex = Arc::clone(&mutex);
                spawn(move || drop(mutex.lock()))
            };
            yield_now();
            drop(held);
            drop(mutex.lock());
            other.join().unwrap();
        });
        drop(member);
    });
}
