//! Scopes, coroutine-locals, futures, `spawn_local`, `without_hooks`.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use super::park::{cancelled, park};
use super::*;
use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::local;

fn runtime(workers: usize) -> Runtime {
    Runtime::builder()
        .workers(workers)
        .build()
        .expect("this machine can run coroutines")
}

#[test]
fn a_scope_lends_and_returns_only_when_its_coroutines_have_ended() {
    runtime(2).block_on(|| {
        let (mut parts, ended) = (vec![1_u64; 40], AtomicUsize::new(0));
        let sum: u64 = scope(|s| {
            let handles: Vec<_> = parts
                .iter_mut()
                .map(|part| {
                    let ended = &ended;
                    s.spawn(move || {
                        yield_now();
                        *part += 1;
                        ended.fetch_add(1, Ordering::Relaxed);
                        *part
                    })
                })
                .collect();
            // Half are joined, the rest is left to the scope.
            handles
                .into_iter()
                .step_by(2)
                .map(|h| h.join().unwrap())
                .sum()
        });
        assert_eq!((sum, ended.load(Ordering::Relaxed)), (40, 40));
        assert_eq!(parts, [2; 40]);
    });
}

#[test]
fn coroutines_of_a_scope_may_spawn_more_there() {
    runtime(2).block_on(|| {
        let count = AtomicUsize::new(0);
        scope(|s| {
            for _ in 0..5 {
                s.spawn(|| {
                    for _ in 0..5 {
                        s.spawn(|| count.fetch_add(1, Ordering::Relaxed));
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 25);
    });
}

#[test]
fn panics_leave_a_scope_after_everybody_has_ended() {
    runtime(1).block_on(|| {
        let text = |caught: Result<(), Box<dyn std::any::Any + Send>>| {
            join::panic_text(caught.unwrap_err().as_ref()).to_owned()
        };
        let ended = AtomicUsize::new(0);
        let slow = || {
            (0..10).for_each(|_| yield_now());
            ended.fetch_add(1, Ordering::Relaxed);
        };
        let own = catch_unwind(AssertUnwindSafe(|| {
            scope(|s| {
                s.spawn(slow);
                panic!("of the body");
            })
        }));
        assert_eq!(
            (text(own), ended.load(Ordering::Relaxed)),
            ("of the body".into(), 1)
        );
        let unjoined = catch_unwind(AssertUnwindSafe(|| {
            scope(|s| {
                s.spawn(|| panic!("of a coroutine"));
                s.spawn(slow);
            })
        }));
        assert_eq!(text(unjoined), "a coroutine of the scope panicked");
        assert_eq!(ended.load(Ordering::Relaxed), 2);
        scope(|s| {
            let joined = s.spawn(|| panic!("joined")).join();
            assert!(matches!(joined, Err(JoinError::Panicked(_))));
        });
    });
}

#[test]
fn a_cancelled_owner_cancels_its_scope_and_still_waits() {
    let rt = runtime(1);
    let ended = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&ended);
    let handle = rt.spawn(move || {
        scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    while !cancelled() {
                        park(Reason::Other("cancellation"), Instant::NEVER);
                    }
                    (0..3).for_each(|_| yield_now());
                    ended.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        ended.load(Ordering::Relaxed)
    });
    while Arc::strong_count(&seen) < 2 {
        thread::yield_now();
    }
    rt.block_on(yield_now);
    handle.cancel();
    match handle.join() {
        Ok(count) => assert_eq!(count, 3),
        // Cancelled before it began: then nothing was lent.
        Err(error) => assert!(matches!(error, JoinError::Cancelled), "{error}"),
    }
}

#[test]
fn coroutines_of_a_scope_keep_its_deadline() {
    runtime(1).block_on(|| {
        Deadline::within(Duration::from_secs(100), || {
            let left = scope(|s| s.spawn(Deadline::remaining).join().unwrap());
            assert!(left.is_some());
        });
        assert_eq!(
            scope(|s| s.spawn(Deadline::remaining).join().unwrap()),
            None
        );
    });
}

local! {
    static OWN: Cell<u32> = Cell::new(1);
    inherited static GIVEN: Cell<u32> = Cell::new(10);
    static TEXT: RefCell<String> = RefCell::new(format!("{} first", OWN.get()))
}

#[test]
fn locals_are_each_coroutines_own_even_where_thread_locals_are_reused() {
    for identity in [Identity::Own, Identity::Shared] {
        let rt = Runtime::builder()
            .workers(1)
            .identity(identity)
            .build()
            .unwrap();
        rt.block_on(|| {
            let visit = || {
                OWN.set(OWN.get() + 1);
                yield_now();
                TEXT.with(|text| text.borrow_mut().push('!'));
                (OWN.get(), TEXT.with(|text| text.borrow().clone()))
            };
            for _ in 0..3 {
                let reused = Builder::new().reuse_thread_locals(true);
                let both = [reused.spawn(visit), spawn(visit)];
                for handle in both {
                    assert_eq!(handle.join().unwrap(), (2, "2 first!".to_owned()));
                }
            }
            assert_eq!(OWN.get(), 1);
        });
    }
    assert_eq!(OWN.get(), 1, "a thread has its own");
}

#[test]
fn inherited_locals_are_the_spawners_at_that_moment() {
    runtime(1).block_on(|| {
        assert_eq!(spawn(|| GIVEN.get()).join().unwrap(), 10);
        GIVEN.set(20);
        let child = spawn(|| {
            let mine = GIVEN.with(|given| given.replace(21));
            (mine, spawn(|| GIVEN.get()).join().unwrap())
        });
        GIVEN.set(30);
        assert_eq!(child.join().unwrap(), (20, 21));
        assert_eq!(spawn_blocking(|| GIVEN.get()).join().unwrap(), 30);
        assert_eq!(scope(|s| s.spawn(|| GIVEN.get()).join().unwrap()), 30);
        assert_eq!(GIVEN.get(), 30);
    });
    assert_eq!(
        spawn_blocking(|| GIVEN.get()).join().unwrap(),
        10,
        "the pool's thread kept nothing"
    );
}

#[test]
fn locals_are_dropped_with_their_coroutine_and_a_panic_there_ends_nothing_else() {
    struct Count(Arc<AtomicUsize>, bool);
    impl Drop for Count {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
            yield_now();
            assert!(!self.1, "a local's destructor panics");
        }
    }
    local!(static HELD: RefCell<Vec<Count>> = RefCell::default());
    runtime(1).block_on(|| {
        let dropped = Arc::new(AtomicUsize::new(0));
        for panics in [false, true, false] {
            let count = Count(Arc::clone(&dropped), panics);
            let held = move || HELD.with(|held| held.borrow_mut().push(count));
            spawn(held).join().unwrap();
        }
        while Arc::strong_count(&dropped) > 1 {
            yield_now();
        }
        assert_eq!(dropped.load(Ordering::Relaxed), 3);
    });
}

#[test]
fn a_future_is_awaited_by_coroutines_and_threads() {
    /// Ready at the third look; woken by a coroutine or by a thread before each.
    fn third(wakers: Arc<SpinLock<Vec<Waker>>>) -> impl Future<Output = u32> {
        let mut looks = 0;
        poll_fn(move |context| {
            looks += 1;
            if looks == 3 {
                return Poll::Ready(looks);
            }
            wakers.lock().push(context.waker().clone());
            Poll::Pending
        })
    }
    let rt = runtime(2);
    let wakers = Arc::new(SpinLock::new(Vec::new()));
    let waiting = [0, 1].map(|_| {
        let wakers = Arc::clone(&wakers);
        rt.spawn(move || block_on(third(wakers)))
    });
    let thread = {
        let wakers = Arc::clone(&wakers);
        thread::spawn(move || block_on(third(wakers)))
    };
    let mut woken = 0;
    while woken < 6 {
        let waker = wakers.lock().pop();
        match waker {
            Some(waker) if woken % 2 == 0 => rt.block_on(move || waker.wake()),
            Some(waker) => waker.wake_by_ref(),
            None => {
                thread::yield_now();
                continue;
            }
        }
        woken += 1;
    }
    for handle in waiting {
        assert_eq!(handle.join().unwrap(), 3);
    }
    assert_eq!(thread.join().unwrap(), 3);
}

#[test]
fn a_local_coroutine_runs_on_its_spawners_worker() {
    let rt = runtime(3);
    rt.block_on(|| {
        let here = || running().map(|task| std::ptr::from_ref(task.worker()).addr());
        let handles: Vec<_> = (0..200).map(|_| spawn_local(here)).collect();
        for handle in handles {
            assert_eq!(handle.join().unwrap(), here());
        }
    });
}

#[test]
fn without_hooks_nothing_parks_and_the_scope_ends_by_a_panic_too() {
    runtime(1).block_on(|| {
        assert!(current().is_some());
        assert!(without_hooks(
            || without_hooks(current).is_none() && current().is_none()
        ));
        let caught = catch_unwind(|| without_hooks(|| panic!("inside")));
        assert!(caught.is_err() && current().is_some());
        let other = spawn(|| ());
        let waited = without_hooks(|| {
            sleep(Duration::from_millis(1));
            yield_now();
            other.is_finished()
        });
        assert!(!waited, "another coroutine of the worker has run meanwhile");
        other.join().unwrap();
    });
    assert_eq!(without_hooks(|| 1), 1);
}
