//! Coroutines that share their worker's thread identity: what goes on, what holds the worker, and how
//! that shows.
//!
//! What must hang or be refused runs in a child: this binary again, told by [`ROLE`] what to do.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use rpc_core::{Builder, Identity, Reason, Runtime, spawn, sync, yield_now};

/// Names the child's part; unset in the tests themselves.
const ROLE: &str = "SUITE_SHARED_ROLE";

fn runtime(workers: usize) -> Runtime {
    Runtime::builder()
        .workers(workers)
        .identity(Identity::Shared)
        .build()
        .expect("threads and descriptors can be had")
}

/// Starts the test `name` of this binary alone, in a role.
fn child(name: &str, environment: &[(&str, &str)]) -> Child {
    Command::new(std::env::current_exe().expect("a test knows its binary"))
        .args([&format!("shared::{name}"), "--exact", "--nocapture"])
        .env(ROLE, "child")
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this binary can be started again")
}

fn is_child() -> bool {
    std::env::var_os(ROLE).is_some()
}

#[test]
fn thread_locals_are_those_of_the_worker() {
    let rt = runtime(1);
    assert_eq!(rt.identity(), Identity::Shared);
    let ids = rt.block_on(|| {
        let id = || std::thread::current().id();
        let other = spawn(id);
        [id(), other.join().unwrap()]
    });
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn hooked_sockets_wait_for_the_coroutine_alone() {
    let text = runtime(1).block_on(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let echo = spawn(move || {
            let (mut far, _) = listener.accept().unwrap();
            let mut text = [0; 5];
            far.read_exact(&mut text).unwrap();
            far.write_all(&text).unwrap();
        });
        let reader = spawn(move || {
            near.write_all(b"hello").unwrap();
            let mut text = [0; 5];
            near.read_exact(&mut text).unwrap();
            text
        });
        echo.join().unwrap();
        reader.join().unwrap()
    });
    assert_eq!(&text, b"hello");
}

#[test]
fn our_own_primitives_park_the_coroutine_alone() {
    let rt = runtime(2);
    let sum = rt.block_on(|| {
        let (sender, receiver) = sync::channel::<usize>(2);
        let lock = Arc::new(sync::Mutex::new(0));
        let senders: Vec<_> = (0..50)
            .map(|i| {
                let (sender, lock) = (sender.clone(), Arc::clone(&lock));
                spawn(move || {
                    let mut held = lock.lock();
                    yield_now();
                    *held += i;
                    drop(held);
                    assert!(sender.send(i).is_ok());
                })
            })
            .collect();
        drop(sender);
        let received: usize = receiver.iter().sum();
        senders.into_iter().for_each(|s| s.join().unwrap());
        received + *lock.lock()
    });
    assert_eq!(sum, 2 * (0..50).sum::<usize>());
    assert_eq!(rt.pinned().waits, 0);
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
fn nobody_runs_on_a_thread_that_is_panicking() {
    /// Tries to give way, and waits for a thread, while it is dropped by a panic.
    struct Waits {
        others_ran: Arc<AtomicBool>,
        seen: Arc<AtomicUsize>,
    }
    impl Drop for Waits {
        fn drop(&mut self) {
            (0..3).for_each(|_| yield_now());
            let (sender, receiver) = sync::channel::<()>(1);
            let thread = std::thread::spawn(move || sender.send(()).is_ok());
            assert!(receiver.recv().is_ok());
            thread.join().unwrap();
            let ran = self.others_ran.load(Ordering::Relaxed);
            self.seen.store(1 + usize::from(ran), Ordering::Relaxed);
        }
    }
    let seen = Arc::new(AtomicUsize::new(0));
    let noted = Arc::clone(&seen);
    let outcome = runtime(1).block_on(move || {
        let others_ran = Arc::new(AtomicBool::new(false));
        let ran = Arc::clone(&others_ran);
        let panics = spawn(move || {
            let _waits = Waits { others_ran, seen };
            panic!("planned");
        });
        let other = spawn(move || ran.store(true, Ordering::Relaxed));
        let outcome = panics.join();
        other.join().unwrap();
        outcome.is_err() && !std::thread::panicking()
    });
    assert!(outcome);
    assert_eq!(noted.load(Ordering::Relaxed), 1, "the destructor ran alone");
}

#[test]
fn a_lock_of_standard_output_is_never_held_across_a_park() {
    const LINE: usize = 1 << 20;
    if is_child() {
        // More than a pipe holds: without the rule the second printer finds the first one's borrow.
        let print = |text: &'static str| move || println!("{}", text.repeat(LINE));
        return runtime(1).block_on(move || {
            let printers = [spawn(print("a")), spawn(print("b"))];
            printers.into_iter().for_each(|p| p.join().unwrap());
        });
    }
    let output = child("a_lock_of_standard_output_is_never_held_across_a_park", &[])
        .wait_with_output()
        .unwrap();
    let count = |byte| output.stdout.iter().filter(|b| **b == byte).count();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(count(b'a') >= LINE && count(b'b') >= LINE);
}

#[test]
fn a_wait_of_std_holds_the_worker_and_leaves_its_stack() {
    let rt = runtime(1);
    let (sender, receiver) = mpsc::channel();
    let waits = rt.handle();
    let waiting = Builder::new().name("receiver");
    let waiting = rt.block_on(move || waiting.spawn(move || receiver.recv().unwrap()));
    let noted = loop {
        if let Some(wait) = rt.pinned().seen.pop() {
            break wait;
        }
        std::thread::yield_now();
    };
    assert!(noted.coroutine.contains("'receiver'"), "{noted:?}");
    assert!(matches!(noted.reason, Reason::Futex(_)));
    assert!(noted.took.is_none());
    let stack = noted.stack.to_string();
    assert!(stack.contains("recv"), "{stack}");
    let dump = rt.dump().to_string();
    assert!(
        dump.contains(" waits in the kernel held a worker, "),
        "{dump}"
    );
    let who = "  worker 0, by coroutine 'receiver' spawned at ";
    assert!(dump.contains(who), "{dump}");
    sender.send(7).unwrap();
    assert_eq!(waiting.join().unwrap(), 7);
    // Runs after the wait was counted: the worker is free again.
    waits.spawn(|| ()).join().unwrap();
    let pinned = rt.pinned();
    assert!(pinned.waits >= 1 && pinned.time.as_millis() >= 10);
    assert!(pinned.seen[0].took.is_some());
}

#[test]
fn a_lock_that_only_the_same_worker_could_release_is_named() {
    if is_child() {
        return runtime(1).block_on(|| {
            let lock = Arc::new(Mutex::new(()));
            let held = lock.lock().unwrap();
            let other = Arc::clone(&lock);
            let waiter = Builder::new().name("waiter");
            let started = Arc::new(AtomicBool::new(false));
            let starts = Arc::clone(&started);
            let waiter = waiter.spawn(move || {
                starts.store(true, Ordering::Relaxed);
                drop(other.lock());
            });
            while !started.load(Ordering::Relaxed) {
                yield_now();
            }
            drop(held);
            waiter.join().unwrap();
        });
    }
    let mut child = child(
        "a_lock_that_only_the_same_worker_could_release_is_named",
        &[],
    );
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let said = stderr
        .lines()
        .map_while(Result::ok)
        .find(|line| line.contains("worker 0 has been held"));
    child.kill().unwrap();
    child.wait().unwrap();
    let said = said.expect("the report comes before the end");
    assert!(said.contains("coroutine 'waiter'"), "{said}");
    assert!(said.contains("1 other coroutines"), "{said}");
}

#[test]
fn auto_takes_an_own_identity_where_it_can_and_says_where_it_cannot() {
    let auto = || {
        Runtime::builder()
            .workers(1)
            .identity(Identity::Auto)
            .build()
    };
    if is_child() {
        let rt = auto().unwrap();
        println!("runs on {:?}: {}", rt.identity(), rt.block_on(|| 40 + 2));
        return;
    }
    assert_eq!(auto().unwrap().identity(), Identity::Own);
    // The loader ignores what it cannot find; the check goes by the name.
    let preload = [("LD_PRELOAD", "vgpreload_memcheck.so")];
    let name = "auto_takes_an_own_identity_where_it_can_and_says_where_it_cannot";
    let output = child(name, &preload).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("runs on Shared: 42"), "{said}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("valgrind") && said.contains("share"),
        "{said}"
    );
}
