//! Seeing inside a running program: stalls, dumps, debuggers.
//!
//! What writes to standard error runs in a child: this binary again, told by [`ROLE`] what to do.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rpc_core::{Builder, Runtime, sync, yield_now};

/// Names the child's part; unset in the tests themselves.
const ROLE: &str = "SUITE_INSIDE_ROLE";

/// The command for the test `name` of this binary alone, in a role.
fn child(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a test knows its binary"));
    let name = format!("inside::{name}");
    command
        .args([name.as_str(), "--exact", "--nocapture"])
        .env(ROLE, "child");
    command
}

fn is_child() -> bool {
    std::env::var_os(ROLE).is_some()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[inline(never)]
fn burn_until_told(told: &AtomicBool) {
    while !told.load(Ordering::Acquire) {
        std::hint::spin_loop();
    }
}

#[test]
fn the_watchdog_names_who_keeps_a_worker_and_shows_the_stack() {
    if !is_child() {
        let output = child("the_watchdog_names_who_keeps_a_worker_and_shows_the_stack")
            .output()
            .unwrap();
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        let wanted = [
            "worker 0 has not come back for ",
            "coroutine 'burner' spawned at ",
            "burn_until_told",
        ];
        for part in wanted {
            assert!(said.contains(part), "{part:?} is missing in:\n{said}");
        }
        return;
    }
    let builder = Runtime::builder().workers(1);
    let rt = builder
        .report_stalls_after(Duration::from_millis(20))
        .build()
        .unwrap();
    let told = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&told);
    let burner = rt.block_on(move || {
        Builder::new()
            .name("burner")
            .spawn(move || burn_until_told(&until))
    });
    while rt.metrics().stalls == 0 {
        std::thread::yield_now();
    }
    // Counted once reported.
    told.store(true, Ordering::Release);
    burner.join().unwrap();
}

/// Waits on a channel that nobody sends to.
#[inline(never)]
fn wait_for_nothing(receiver: &sync::Receiver<()>) -> bool {
    let nothing = receiver.recv();
    std::hint::black_box(nothing.is_err())
}

/// A runtime with one worker on which three coroutines named `waiter` wait in [`wait_for_nothing`].
fn waiters(builder: rpc_core::RuntimeBuilder) -> (Runtime, sync::Sender<()>) {
    let rt = builder.workers(1).build().unwrap();
    let (sender, receiver) = sync::channel(1);
    rt.block_on(move || {
        for _ in 0..3 {
            let receiver = receiver.clone();
            let waiter = Builder::new().name("waiter");
            drop(waiter.spawn(move || wait_for_nothing(&receiver)));
        }
        // Started and suspended within two turns.
        (0..10).for_each(|_| yield_now());
    });
    (rt, sender)
}

#[test]
fn a_dump_groups_waiting_coroutines_by_stack_and_shows_running_ones() {
    let (rt, sender) = waiters(Runtime::builder());
    let dump = rt.block_on(|| rpc_core::Handle::try_current().unwrap().dump());
    let text = dump.to_string();
    assert_eq!(dump.coroutines(), 4, "{text}");
    assert_eq!(dump.groups.len(), 2, "{text}");
    let waiting = &dump.groups[0];
    assert_eq!(
        (waiting.count, waiting.state.as_str()),
        (3, "waiting: channel")
    );
    assert!(
        waiting.examples[0].starts_with("'waiter' spawned at "),
        "{text}"
    );
    let at = |name: &str, frames: &[String]| frames.iter().any(|frame| frame.contains(name));
    assert!(at("wait_for_nothing", &waiting.frames), "{text}");
    assert!(
        !at("park.rs", &waiting.frames),
        "the scheduler's own frames are left out: {text}"
    );
    let running = &dump.groups[1];
    assert_eq!((running.count, running.state.as_str()), (1, "running"));
    assert!(at("inside.rs:", &running.frames), "who asks: {text}");
    let stacks = " of 256 KiB with an identity of their own, ";
    assert!(text.contains(stacks), "what they hold: {text}");
    drop(sender);
    while rt.metrics().live > 0 {
        std::thread::yield_now();
    }
    assert_eq!(rt.dump().coroutines(), 0);
}

/// The child that `command` starts, once it has said on its standard error that it is ready.
fn ready_child(mut command: Command) -> (Child, BufReader<std::process::ChildStderr>) {
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "the child has ended");
    }
    (child, said)
}

/// In the child: says that it is ready, and waits for the parent to close its standard input.
fn wait_for_parent() {
    std::io::stderr().write_all(b"ready\n").unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn sigquit_is_answered_with_a_dump_and_the_program_goes_on() {
    let name = "sigquit_is_answered_with_a_dump_and_the_program_goes_on";
    if is_child() {
        let (_rt, _sender) = waiters(Runtime::builder().dump_on_sigquit(true));
        return wait_for_parent();
    }
    let (mut child, mut said) = ready_child(child(name));
    for _ in 0..2 {
        kill(&child, "QUIT");
        let mut text = String::new();
        while !text.contains("wait_for_nothing") {
            assert_ne!(said.read_line(&mut text).unwrap(), 0, "{text}");
        }
        assert!(text.contains("3 waiting: channel"), "{text}");
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

fn kill(child: &Child, signal: &str) {
    let sent = Command::new("kill")
        .args(["-s", signal, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// What gdb prints for the command `coroutines`, of a program and its core file or of a process.
fn gdb(program: &[&str], core: &[&str]) -> String {
    let script = tests::root().join("rpc-core/gdb/rpc_core.py");
    let output = Command::new("gdb")
        .args(["-nx", "-batch", "-iex", "set debuginfod enabled off", "-x"])
        .arg(script)
        .args(["-ex", "coroutines"])
        .args(program)
        .args(core)
        .output()
        .expect("gdb is missing: apt-get install gdb, or cargo xtask test");
    let errors = String::from_utf8_lossy(&output.stderr);
    format!("{}\n{errors}", String::from_utf8_lossy(&output.stdout))
}

/// Whether gdb's list shows the three waiting coroutines of [`waiters`] with their stack.
fn assert_lists_waiters(text: &str) {
    let wanted = [
        "3 coroutines",
        "3 waiting",
        "'waiter' spawned at ",
        "waiting for channel",
        "wait_for_nothing",
    ];
    for part in wanted {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

#[test]
fn gdb_lists_coroutines_with_their_stacks_in_a_live_process() {
    let name = "gdb_lists_coroutines_with_their_stacks_in_a_live_process";
    if is_child() {
        let (_rt, _sender) = waiters(Runtime::builder());
        return wait_for_parent();
    }
    let (mut child, _said) = ready_child(child(name));
    let text = gdb(&["-p", &child.id().to_string()], &[]);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success(), "it goes on afterwards");
    assert_lists_waiters(&text);
}

#[test]
fn gdb_lists_coroutines_with_their_stacks_in_a_core_file() {
    let name = "gdb_lists_coroutines_with_their_stacks_in_a_core_file";
    if is_child() {
        let (_rt, _sender) = waiters(Runtime::builder());
        return wait_for_parent();
    }
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.contains(['|', '/', '%']) {
        let said = format!("NOT RUN: core files do not go to the working folder: {pattern}");
        std::io::stderr().write_all(said.as_bytes()).unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap().display().to_string();
    // The kernel's own core file: gcore leaves out what lies beside a guard.
    let mut unlimited = Command::new("sh");
    unlimited
        .args(["-c", "ulimit -c unlimited; exec \"$@\"", "sh", &program])
        .args([&format!("inside::{name}"), "--exact", "--nocapture"])
        .env(ROLE, "child")
        .current_dir(&folder);
    let (mut child, _said) = ready_child(unlimited);
    kill(&child, "ABRT");
    assert!(!child.wait().unwrap().success());
    let cores = std::fs::read_dir(&folder).unwrap();
    let core = cores.map(|entry| entry.unwrap().path()).next();
    let core = core.expect("the kernel has written a core file");
    assert_lists_waiters(&gdb(&[&program], &[&core.display().to_string()]));
}

#[test]
fn a_coroutine_has_its_span_across_its_waits() {
    if !is_child() {
        // A subscriber is the whole process's.
        let output = child("a_coroutine_has_its_span_across_its_waits").output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", said(&output));
        return;
    }
    let registry = tracing_subscriber::registry();
    tracing::subscriber::set_global_default(registry).unwrap();
    let current = || tracing::Span::current().metadata().map(|span| span.name());
    let rt = Runtime::builder().workers(1).build().unwrap();
    let handles: Vec<_> = (0..10)
        .map(|i| {
            rt.spawn(move || {
                assert_eq!(current(), Some("coroutine"));
                let own = tracing::Span::current();
                let inner = tracing::info_span!("inner", i);
                inner.in_scope(|| {
                    (0..5).for_each(|_| yield_now());
                    assert_eq!(tracing::Span::current(), inner);
                });
                (0..5).for_each(|_| yield_now());
                assert_eq!(tracing::Span::current(), own);
                own.id().map(|id| id.into_u64())
            })
        })
        .collect();
    let mut ids: Vec<_> = handles.into_iter().map(|h| h.join().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 10, "each has its own");
}
