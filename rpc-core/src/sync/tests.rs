//! The primitives from coroutines and threads together.

use std::sync::Arc;
use std::time::Duration;

use super::oneshot::oneshot;
use super::*;
use crate::{Deadline, Runtime, spawn, yield_now};

fn runtime(workers: usize) -> Runtime {
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
