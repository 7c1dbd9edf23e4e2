//! Seeing inside a running program: stalls, dumps, debuggers.
//!
//! What writes to standard error runs in a child: this binary again, told by [`ROLE`] what to do.

use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rpc_core::{Builder, Runtime};

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
