//! Other people's runtimes inside coroutines: each finds a thread of its own.

use std::time::Duration;

use rpc_core::{spawn, yield_now};

use super::{all_of, let_others_run, on_one_worker};

#[test]
fn a_thousand_tokio_runtimes_with_signals_run_at_once() {
    let answers = on_one_worker(|| {
        all_of(1000, |i| {
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let kind = tokio::signal::unix::SignalKind::from_raw(libc::SIGURG);
                    let mut urgent = tokio::signal::unix::signal(kind).unwrap();
                    let length = Duration::from_millis(1 + u64::from(i % 5));
                    let early = tokio::time::timeout(length, urgent.recv()).await;
                    assert!(early.is_err(), "nobody sends this signal");
                    i
                })
            }
        })
    });
    assert_eq!(answers, (0..1000).collect::<Vec<_>>());
}

#[test]
fn a_signal_reaches_the_tokio_runtimes_that_wait_for_it() {
    on_one_worker(|| {
        let waiters: Vec<_> = (0..10)
            .map(|_| {
                spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    runtime.block_on(async {
                        let kind = tokio::signal::unix::SignalKind::user_defined2();
                        let mut signals = tokio::signal::unix::signal(kind).unwrap();
                        READY.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        signals.recv().await
                    })
                })
            })
            .collect();
        while READY.load(std::sync::atomic::Ordering::SeqCst) < 10 {
            yield_now();
        }
        let_others_run();
        // SAFETY: tokio has a handler for it.
        assert_eq!(unsafe { libc::raise(libc::SIGUSR2) }, 0);
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Some(()));
        }
    });
}

static READY: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
