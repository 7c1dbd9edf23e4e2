//! Stacks from the outside: what they cost, what goes back, and what happens where the system gives none.
//!
//! What changes limits of the process, or measures its memory, runs in a child: this binary again, told
//! by [`ROLE`]. A child says what it found on its last line.

#![expect(
    unsafe_code,
    reason = "sets limits of a process and takes its mappings"
)]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rpc_core::{
    Builder, Guards, Identity, JoinError, JoinHandle, Runtime, StackClass, spawn, sync,
};
use serde_json::Value;

/// Names the child's part; unset in the tests themselves.
const ROLE: &str = "SUITE_STACKS_ROLE";

fn runtime(identity: Identity) -> Runtime {
    Runtime::builder()
        .workers(1)
        .identity(identity)
        .build()
        .expect("this machine can run coroutines")
}

/// In the child: runs `part` and ends. In the test: runs the test `name` of this binary alone, as a child,
/// and returns what it said.
fn in_child(name: &str, part: impl FnOnce() -> String) -> Option<String> {
    if std::env::var_os(ROLE).is_some() {
        println!("\nsaid: {}", part());
        return None;
    }
    let output = Command::new(std::env::current_exe().expect("a test knows its binary"))
        .args([&format!("stacks::{name}"), "--exact", "--nocapture"])
        .env(ROLE, "child")
        .output()
        .expect("this binary can be started again");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}\n{said}\n{errors}",
        output.status
    );
    let line = said.lines().find_map(|line| line.strip_prefix("said: "));
    Some(line.expect("a child says what it found").to_owned())
}

/// Bytes in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    kib.expect("the kernel tells what is resident") << 10
}

fn class_of(size: usize, identity: Identity) -> StackClass {
    let classes = rpc_core::stacks().classes;
    let found = classes
        .into_iter()
        .find(|class| class.size == size && class.identity == identity);
    found.expect("a class that was used is listed")
}

/// Touches `bytes` of the stack.
fn dive(bytes: usize) -> usize {
    const FRAME: usize = 1024;
    let frame = std::hint::black_box([1_u8; FRAME]);
    let below = if bytes > FRAME {
        dive(bytes - FRAME)
    } else {
        0
    };
    below + usize::from(std::hint::black_box(&frame)[FRAME / 2])
}

/// `count` coroutines that all live at once, each after a dive.
fn burst(rt: &Runtime, count: usize, depth: usize) {
    let (sender, receiver) = sync::channel::<()>(1);
    let arrived = Arc::new(AtomicUsize::new(0));
    let all: Vec<_> = (0..count)
        .map(|_| {
            let (receiver, arrived) = (receiver.clone(), arrived.clone());
            rt.spawn(move || {
                assert!(dive(depth) > 0);
                arrived.fetch_add(1, Ordering::Relaxed);
                receiver.recv().is_err()
            })
        })
        .collect();
    while arrived.load(Ordering::Relaxed) < count {
        std::thread::yield_now();
    }
    drop(sender);
    assert!(all.into_iter().all(|handle| handle.join().unwrap()));
}

#[test]
fn the_memory_of_a_burst_goes_back_and_its_stacks_serve_again() {
    const COUNT: usize = 2000;
    const DEPTH: usize = 40 << 10;
    let said = in_child(
        "the_memory_of_a_burst_goes_back_and_its_stacks_serve_again",
        || {
            let mut said = String::new();
            for identity in [Identity::Own, Identity::Shared] {
                let rt = runtime(identity);
                burst(&rt, 1, DEPTH);
                let before = resident();
                burst(&rt, COUNT, DEPTH);
                let during = resident() - before;
                rpc_core::trim_stacks();
                let after = resident().saturating_sub(before);
                let class = class_of(256 << 10, identity);
                assert!(
                    class.deepest >= DEPTH && class.deepest < 2 * DEPTH,
                    "{class:?}"
                );
                // The worker keeps a few, and the last ones may end only now.
                assert!(class.made < COUNT / 4, "{class:?}");
                burst(&rt, COUNT, DEPTH);
                assert!(class_of(256 << 10, identity).made >= COUNT);
                said += &format!("{during} {after} ");
            }
            said
        },
    );
    let Some(said) = said else { return };
    let figures: Vec<usize> = said.split(' ').filter_map(|f| f.parse().ok()).collect();
    for pair in figures.chunks(2) {
        assert!(pair[0] > COUNT * DEPTH, "held {} of {said}", pair[0]);
        assert!(pair[1] < pair[0] / 5, "kept {} of {said}", pair[1]);
    }
}

#[test]
fn thread_locals_left_to_the_next_are_dropped_with_their_stack() {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            // As a plain thread would: a lock of std, and a look at who runs.
            assert!(rpc_core::Handle::try_current().is_none());
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    thread_local!(static LEFT: std::cell::RefCell<Option<Counted>> = const { std::cell::RefCell::new(None) });
    const COUNT: usize = 500;
    let said = in_child(
        "thread_locals_left_to_the_next_are_dropped_with_their_stack",
        || {
            let rt = runtime(Identity::Own);
            let dropped = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&dropped);
            rt.block_on(move || {
                let (sender, receiver) = sync::channel::<()>(1);
                let arrived = Arc::new(AtomicUsize::new(0));
                let all: Vec<_> = (0..COUNT)
                    .map(|_| {
                        let (receiver, count) = (receiver.clone(), Arc::clone(&count));
                        let arrived = Arc::clone(&arrived);
                        let leaves = Builder::new().reuse_thread_locals(true);
                        leaves.spawn(move || {
                            LEFT.set(Some(Counted(count)));
                            arrived.fetch_add(1, Ordering::Relaxed);
                            receiver.recv().is_err()
                        })
                    })
                    .collect();
                while arrived.load(Ordering::Relaxed) < COUNT {
                    rpc_core::yield_now();
                }
                drop(sender);
                assert!(all.into_iter().all(|handle| handle.join().unwrap()));
            });
            let before = dropped.load(Ordering::Relaxed);
            rpc_core::trim_stacks();
            format!("{before} {}", dropped.load(Ordering::Relaxed))
        },
    );
    let Some(said) = said else { return };
    let (before, after) = said.split_once(' ').unwrap();
    assert_eq!(before, "0");
    assert!(
        after.parse::<usize>().unwrap() >= COUNT / 2,
        "dropped: {said}"
    );
}

#[test]
fn the_kind_of_guards_is_told() {
    runtime(Identity::Own).block_on(|| assert!(dive(1000) > 0));
    assert_ne!(rpc_core::stacks().guards, Guards::Unknown);
}

#[test]
fn without_address_space_a_coroutine_is_refused_and_the_rest_go_on() {
    let said = in_child(
        "without_address_space_a_coroutine_is_refused_and_the_rest_go_on",
        || {
            let mut said = String::new();
            for identity in [Identity::Own, Identity::Shared] {
                let rt = runtime(identity);
                said += &rt.block_on(|| {
                    let kept = limit(libc::RLIMIT_AS, address_space() + (200 << 20));
                    let refusal = spawn_until_refused();
                    limit(libc::RLIMIT_AS, kept);
                    refusal
                });
                assert_eq!(rt.block_on(|| spawn(|| 7).join().unwrap()), 7);
            }
            said
        },
    );
    let Some(said) = said else { return };
    assert_eq!(
        said.matches("stacks of 256 KiB cannot be mapped").count(),
        2,
        "{said}"
    );
}

#[test]
fn without_mappings_a_coroutine_is_refused_and_the_rest_go_on() {
    let said = in_child(
        "without_mappings_a_coroutine_is_refused_and_the_rest_go_on",
        || {
            let rt = runtime(Identity::Shared);
            let (refusal, seven) = rt.block_on(|| {
                let taken = take_all_mappings();
                let refusal = spawn_until_refused();
                // SAFETY: the mapping is ours, nobody looks into it.
                unsafe { libc::munmap(taken.0, taken.1) };
                (refusal, spawn(|| 7).join().unwrap())
            });
            format!("{refusal} {seven}")
        },
    );
    let Some(said) = said else { return };
    assert!(said.contains("cannot be") && said.ends_with(" 7"), "{said}");
}

#[test]
fn without_threads_an_own_identity_is_refused_and_the_rest_go_on() {
    let said = in_child(
        "without_threads_an_own_identity_is_refused_and_the_rest_go_on",
        || {
            let rt = runtime(Identity::Own);
            let refusal = rt.block_on(|| {
                // Limits on threads spare the superuser: this worker stops to be one.
                // SAFETY: plain system call, for this thread alone.
                unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, -1) };
                let kept = limit(libc::RLIMIT_NPROC, 0);
                let refusal = spawn_until_refused();
                limit(libc::RLIMIT_NPROC, kept);
                refusal
            });
            assert_eq!(rt.block_on(|| spawn(|| 7).join().unwrap()), 7);
            refusal
        },
    );
    let Some(said) = said else { return };
    assert!(said.contains("thread block cannot be made"), "{said}");
}

#[test]
fn without_descriptors_calls_fail_and_the_rest_go_on() {
    let said = in_child("without_descriptors_calls_fail_and_the_rest_go_on", || {
        let rt = runtime(Identity::Own);
        let (made, error) = rt.block_on(|| {
            limit(libc::RLIMIT_NOFILE, 64);
            let mut sockets = Vec::new();
            loop {
                match std::net::UdpSocket::bind("127.0.0.1:0") {
                    Ok(socket) => sockets.push(socket),
                    Err(error) => break (sockets.len(), error),
                }
            }
        });
        assert!(made > 0);
        let other = rt.block_on(|| {
            let _all: Vec<_> = std::iter::repeat_with(|| std::fs::File::open("/dev/null"))
                .take_while(Result::is_ok)
                .collect();
            let refused = Runtime::builder().workers(1).build().map(drop).unwrap_err();
            // Waiting takes no descriptor.
            let (sender, receiver) = sync::channel(1);
            let seven = spawn(move || receiver.recv().unwrap());
            assert!(sender.send(7).is_ok());
            format!("{refused}; {}", seven.join().unwrap())
        });
        format!("{error}; {other}")
    });
    let Some(said) = said else { return };
    assert_eq!(said.matches("Too many open files").count(), 2, "{said}");
    assert!(said.ends_with("; 7"), "{said}");
}

#[test]
fn a_million_wait_at_once_under_the_default_limits() {
    let few_free = || {
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let line = memory
            .lines()
            .find(|line| line.starts_with("MemAvailable:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        kib.is_none_or(|kib| kib < 8 << 20)
    };
    if few_free() {
        // Not eprintln!: the test harness keeps what passing tests print to itself.
        let said = b"NOT RUN: a million coroutines want 5 GB, and 8 GB are not free\n";
        std::io::Write::write_all(&mut std::io::stderr(), said).unwrap();
        return;
    }
    for (identity, count, bytes_most) in
        [("shared", "1000000", 5 << 10), ("own", "200000", 10 << 10)]
    {
        let mut million = Command::new(tests::bin("million"));
        million.args(["--identity", identity, "--count", count, "--json"]);
        let (status, out, err) = tests::run(&mut million).unwrap();
        assert!(status.success(), "{identity}: {err}");
        let figures: Value = serde_json::from_str(out.trim()).unwrap();
        let figure = |name: &str| figures[name].as_u64().unwrap();
        assert!(figure("bytes_each") <= bytes_most, "{identity}: {out}");
        assert!(figure("mappings") <= 400, "{identity}: {out}");
        assert!(
            figure("bytes_left_each") < figure("bytes_each") / 4,
            "{identity}: {out}"
        );
    }
}

/// Spawns coroutines that wait until one is refused; what the refusal says. All the others end well.
fn spawn_until_refused() -> String {
    let (sender, receiver) = sync::channel::<()>(1);
    let mut waiting: Vec<JoinHandle<bool>> = Vec::new();
    let refusal = loop {
        let receiver = receiver.clone();
        let handle = spawn(move || receiver.recv().is_err());
        (0..4).for_each(|_| rpc_core::yield_now());
        if handle.is_finished() {
            break handle.join();
        }
        waiting.push(handle);
        assert!(waiting.len() < 1_000_000, "nothing was ever refused");
    };
    drop(sender);
    assert!(waiting.into_iter().all(|handle| handle.join().unwrap()));
    match refusal {
        Err(JoinError::Refused(error)) => error.to_string(),
        other => format!("{other:?}"),
    }
}

/// Sets a soft limit; the one before.
fn limit(which: libc::__rlimit_resource_t, soft: u64) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: reads and writes a local structure.
    unsafe {
        assert_eq!(libc::getrlimit(which, &raw mut limit), 0);
        let before = std::mem::replace(&mut limit.rlim_cur, soft.min(limit.rlim_max));
        assert_eq!(libc::setrlimit(which, &raw const limit), 0);
        before
    }
}

/// Bytes of address space in use.
fn address_space() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = pages
        .split(' ')
        .next()
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("statm begins with the size in pages") * 4096
}

/// Splits one mapping until the process may have no more.
fn take_all_mappings() -> (*mut libc::c_void, usize) {
    const PAGE: usize = 4096;
    let len = 300_000 * PAGE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping; nobody looks into it.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
    assert_ne!(base, libc::MAP_FAILED);
    for page in (1..len / PAGE).step_by(2) {
        let at = base.wrapping_byte_add(page * PAGE);
        // SAFETY: within the mapping.
        if unsafe { libc::mprotect(at, PAGE, libc::PROT_READ) } != 0 {
            return (base, len);
        }
    }
    panic!("this kernel lets a process have 300,000 mappings");
}
