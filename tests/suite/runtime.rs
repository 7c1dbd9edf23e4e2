//! The runtime from the outside: identity, stacks, stealing, refusals.
//!
//! What must end the process runs in a child: this binary again, told by [`ROLE`] what to do.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rpc_core::{BuildError, Builder, Runtime, scope, spawn, sync, yield_now};

/// Names the child's part; unset in the tests themselves.
const ROLE: &str = "SUITE_RUNTIME_ROLE";

fn runtime(workers: usize) -> Runtime {
    Runtime::builder()
        .workers(workers)
        .build()
        .expect("this machine can run coroutines")
}

/// Runs the test `name` of this binary alone, in the given role.
fn child(name: &str, role: &str, environment: &[(&str, &str)]) -> Output {
    Command::new(std::env::current_exe().expect("a test knows its binary"))
        .args([&format!("runtime::{name}"), "--exact", "--nocapture"])
        .env(ROLE, role)
        .envs(environment.iter().copied())
        .output()
        .expect("this binary can be started again")
}

fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

#[test]
fn an_overflow_names_the_coroutine_and_ends_the_process() {
    #[expect(unconditional_recursion, reason = "it is to overflow")]
    fn dive(depth: usize) -> usize {
        std::hint::black_box([depth; 64]);
        dive(depth + 1) + 1
    }
    if role().is_some() {
        runtime(1)
            .block_on(|| {
                let deep = Builder::new().name("diver").stack_size(64 << 10);
                deep.spawn(|| dive(0)).join()
            })
            .expect("the process has ended before");
    }
    let output = child(
        "an_overflow_names_the_coroutine_and_ends_the_process",
        "dive",
        &[],
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("coroutine 'diver' has overflowed its stack of 64 KiB; spawned at"),
        "{said}"
    );
}

#[test]
fn every_closure_finds_an_idle_worker_though_its_own_never_comes_back() {
    let rt = Runtime::builder()
        .workers(3)
        .rescue_after(std::time::Duration::ZERO)
        .build()
        .unwrap();
    let spins = || {
        let flag = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&flag);
        drop(spawn(move || set.store(true, Ordering::Release)));
        while !flag.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
    };
    for _ in 0..2000 {
        // Two workers spin; the third has to hear of both closures, however close they come.
        let both = [rt.spawn(spins), rt.spawn(spins)];
        for one in both {
            one.join().unwrap();
        }
    }
}

#[test]
fn a_refusal_to_build_says_why() {
    if role().is_some() {
        match Runtime::builder().build() {
            Err(error) => println!("refused: {error}"),
            Ok(_) => println!("built"),
        }
        return;
    }
    // The loader ignores what it cannot find; the check goes by the name.
    let preload = [("LD_PRELOAD", "vgpreload_memcheck.so")];
    let output = child("a_refusal_to_build_says_why", "valgrind", &preload);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("refused: coroutines cannot have their own thread identity: valgrind"),
        "{said}"
    );
    let none = Runtime::builder().workers(0).build();
    assert!(matches!(none, Err(BuildError::Workers(0))));
    let text = none.map(drop).unwrap_err().to_string();
    assert_eq!(text, "0 workers asked for; a runtime has 1 to 64");
}

#[test]
fn a_spinning_coroutine_does_not_hold_what_it_spawned() {
    let rt = runtime(2);
    rt.block_on(|| {
        let flag = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&flag);
        drop(spawn(move || set.store(true, Ordering::Release)));
        // Never parks: only another worker can run what was spawned.
        while !flag.load(Ordering::Acquire) {
            std::hint::spin_loop();
        }
    });
}

#[test]
fn a_hundred_thousand_parked_coroutines_fit_and_all_wake() {
    if role().is_none() {
        // Alone in a process: the threads of other tests have mappings, too.
        let name = "a_hundred_thousand_parked_coroutines_fit_and_all_wake";
        let output = child(name, "park", &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        return assert!(output.status.success(), "{said}");
    }
    let rt = runtime(1);
    let (woken, mappings) = rt.block_on(|| {
        let (sender, receiver) = sync::channel::<()>(1);
        let parked = Arc::new(AtomicUsize::new(0));
        let handles: Vec<_> = (0..100_000)
            .map(|_| {
                let (receiver, parked) = (receiver.clone(), Arc::clone(&parked));
                let small = Builder::new()
                    .stack_size(32 << 10)
                    .reuse_thread_locals(true);
                small.spawn(move || {
                    parked.fetch_add(1, Ordering::Relaxed);
                    receiver.recv().is_err()
                })
            })
            .collect();
        while parked.load(Ordering::Relaxed) < 100_000 {
            yield_now();
        }
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        drop(sender);
        let woken = handles
            .into_iter()
            .filter(|_| true)
            .map(|h| h.join().unwrap());
        (woken.filter(|woken| *woken).count(), maps.lines().count())
    });
    assert_eq!(woken, 100_000);
    assert!(mappings <= 400, "{mappings} mappings");
}

#[test]
fn a_borrow_of_a_thread_local_lives_across_a_yield() {
    thread_local!(static LOCAL: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) });
    let rt = runtime(1);
    let handles: Vec<_> = (0..20)
        .map(|id| {
            rt.spawn(move || {
                LOCAL.with_borrow_mut(|mine| {
                    for step in 0..5 {
                        yield_now();
                        mine.push(id * 10 + step);
                    }
                    mine.clone()
                })
            })
        })
        .collect();
    for (id, handle) in handles.into_iter().enumerate() {
        let expected: Vec<usize> = (0..5).map(|step| id * 10 + step).collect();
        assert_eq!(handle.join().unwrap(), expected);
    }
}

#[test]
fn errno_survives_a_yield() {
    let rt = runtime(1);
    let handles: Vec<_> = (0..20)
        .map(|i| {
            rt.spawn(move || {
                let (path, code) = if i % 2 == 0 {
                    ("/proc/self/no such file", libc::ENOENT)
                } else {
                    ("/proc/version/below a file", libc::ENOTDIR)
                };
                assert!(std::fs::metadata(path).is_err());
                yield_now();
                std::io::Error::last_os_error().raw_os_error() == Some(code)
            })
        })
        .collect();
    assert!(handles.into_iter().all(|h| h.join().unwrap()));
}

#[test]
fn a_coroutine_may_yield_while_it_unwinds_and_another_may_panic_meanwhile() {
    struct YieldsWhenDropped;
    impl Drop for YieldsWhenDropped {
        fn drop(&mut self) {
            (0..3).for_each(|_| yield_now());
            assert!(std::thread::panicking());
        }
    }
    let rt = runtime(1);
    let handles: Vec<_> = (0..10)
        .map(|i| {
            rt.spawn(move || {
                let _guard = YieldsWhenDropped;
                panic!("planned, number {i}");
            })
        })
        .collect();
    assert!(handles.into_iter().all(|h| h.join().is_err()));
    assert!(!rt.block_on(std::thread::panicking));
}

#[test]
fn every_coroutine_is_a_thread_with_an_id_of_its_own() {
    let rt = runtime(1);
    let handles: Vec<_> = (0..50)
        .map(|_| {
            rt.spawn(|| {
                let before = std::thread::current().id();
                yield_now();
                (before, std::thread::current().id())
            })
        })
        .collect();
    let mut seen = HashMap::new();
    for handle in handles {
        let (before, after) = handle.join().unwrap();
        assert_eq!(before, after);
        *seen.entry(before).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 50);
}

#[test]
fn what_malloc_gave_on_one_coroutine_is_freed_on_another() {
    thread_local!(static KEPT: Cell<usize> = const { Cell::new(0) });
    let rt = runtime(3);
    let (sender, receiver) = sync::channel::<Vec<u8>>(8);
    let freeing: Vec<_> = (0..4)
        .map(|_| {
            let receiver = receiver.clone();
            rt.spawn(move || {
                receiver
                    .iter()
                    .map(|block| block.iter().map(|b| usize::from(*b)).sum::<usize>())
                    .sum::<usize>()
            })
        })
        .collect();
    drop(receiver);
    let making: Vec<_> = (0..8_u8)
        .map(|i| {
            let sender = sender.clone();
            rt.spawn(move || {
                for size in 1..400_usize {
                    KEPT.set(KEPT.get() + size);
                    assert!(sender.send(vec![i; size * 7 % 3000]).is_ok());
                }
                KEPT.get()
            })
        })
        .collect();
    drop(sender);
    assert!(
        making
            .into_iter()
            .all(|h| h.join().unwrap() == 399 * 400 / 2)
    );
    let per_unit: usize = (1..400).map(|size| size * 7 % 3000).sum();
    let total: usize = freeing.into_iter().map(|h| h.join().unwrap()).sum();
    assert_eq!(total, per_unit * (0..8).sum::<usize>());
}

#[test]
fn a_panic_in_a_destructor_ends_one_coroutine_and_its_payload_is_joined() {
    struct PanicsWhenDropped;
    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            yield_now();
            panic!("planned, in a destructor");
        }
    }
    let rt = runtime(1);
    let outcome = rt.block_on(|| {
        let other = spawn(|| (0..3).for_each(|_| yield_now()));
        let outcome = spawn(|| drop(PanicsWhenDropped)).join();
        other.join().unwrap();
        outcome
    });
    let text = outcome.unwrap_err().to_string();
    assert_eq!(text, "panicked: planned, in a destructor");
    assert_eq!(rt.block_on(|| 1), 1);
}

#[test]
fn what_a_coroutine_left_parked_holds_is_never_dropped_and_its_handle_says_so() {
    let rt = runtime(1);
    let held = Arc::new(());
    let (sender, receiver) = sync::channel::<()>(1);
    let (guard, parked) = (Arc::clone(&held), Arc::new(AtomicBool::new(false)));
    let parks = Arc::clone(&parked);
    let handle = rt.spawn(move || {
        let _guard = guard;
        parks.store(true, Ordering::Relaxed);
        // std's locks and channels cannot bear an error: no cancellation cuts them.
        let (_kept, never) = std::sync::mpsc::channel::<()>();
        let _ = never.recv();
        drop(sender);
    });
    while !parked.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
    rt.shutdown(std::time::Duration::from_millis(10));
    let text = handle.join().unwrap_err().to_string();
    assert_eq!(text, "left behind when its runtime ended");
    assert_eq!(Arc::strong_count(&held), 2, "its stack is never unwound");
    drop(receiver);
}

#[test]
fn a_scope_whose_coroutine_is_left_behind_is_left_behind_with_it() {
    let rt = runtime(1);
    let parked = Arc::new(AtomicBool::new(false));
    let parks = Arc::clone(&parked);
    let handle = rt.spawn(move || {
        let borrowed = 1;
        scope(|s| {
            s.spawn(|| {
                parks.store(true, Ordering::Relaxed);
                let (_kept, never) = std::sync::mpsc::channel::<()>();
                let _ = never.recv();
                borrowed
            });
        });
        unreachable!("what is borrowed here would be gone before who borrows it");
    });
    while !parked.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
    rt.shutdown(std::time::Duration::from_millis(10));
    let text = handle.join().unwrap_err().to_string();
    assert_eq!(text, "left behind when its runtime ended");
}

#[test]
fn a_runtime_that_ends_under_load_ends_every_coroutine_and_tells_every_handle() {
    use std::io::{Read, Write};
    let rt = runtime(2);
    let counts = Arc::new([const { AtomicUsize::new(0) }; 2]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = rt.spawn(move || {
        while let Ok((mut connection, _)) = listener.accept() {
            drop(spawn(move || {
                let mut room = [0; 64];
                while let Ok(count @ 1..) = connection.read(&mut room) {
                    if connection.write_all(&room[..count]).is_err() {
                        return;
                    }
                }
            }));
        }
    });
    let clients: Vec<_> = (0..200)
        .map(|_| {
            let counts = Arc::clone(&counts);
            rt.spawn(move || {
                counts[0].fetch_add(1, Ordering::Relaxed);
                let talk = || {
                    let mut connection = std::net::TcpStream::connect(address)?;
                    loop {
                        connection.write_all(b"ping")?;
                        connection.read_exact(&mut [0; 4])?;
                        spawn(yield_now).join().ok();
                        counts[1].fetch_add(1, Ordering::Relaxed);
                    }
                };
                let ended: std::io::Result<()> = talk();
                ended.is_err()
            })
        })
        .collect();
    // In full swing: some have begun, and some have talked.
    while counts[1].load(Ordering::Relaxed) < 100 {
        std::thread::yield_now();
    }
    rt.shutdown(std::time::Duration::from_secs(60));
    assert!(server.join().is_ok());
    let mut ran = 0;
    for client in clients {
        match client.join() {
            Ok(cut) => {
                assert!(cut);
                ran += 1;
            }
            Err(error) => assert_eq!(error.to_string(), "cancelled before it ran"),
        }
    }
    assert_eq!(ran, counts[0].load(Ordering::Relaxed));
}
