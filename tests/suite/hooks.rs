//! The replaced C library calls, seen from programs that know nothing of coroutines.
//!
//! Every test but those of `stress` runs on one worker: a call that blocked the worker instead of its coroutine would hang,
//! and a hang ends the run with the test's name.
//!
//! Knows: std, libc, other people's crates.   Does not know: the runtime's inside.

#![expect(
    unsafe_code,
    reason = "calls C functions by name, as C libraries would"
)]

mod corners;
mod cuts;
mod descriptors;
mod differences;
mod differential;
mod limits;
mod processes;
mod readiness;
mod sockets;
mod stress;
mod threads;

use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::time::Duration;

use rpc_core::Runtime;

/// Runs `f` as a coroutine of a runtime with one worker. Ends the program if that takes a minute.
pub(super) fn on_one_worker<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    on_workers(1, f)
}

/// [`on_one_worker`] with several.
pub(crate) fn on_workers<T: Send + 'static>(
    count: usize,
    f: impl FnOnce() -> T + Send + 'static,
) -> T {
    let watched = end_if_it_hangs();
    let runtime = Runtime::builder()
        .workers(count)
        .build()
        .expect("this machine can run coroutines");
    let value = runtime.block_on(f);
    drop(runtime);
    drop(watched);
    value
}

/// Ends the program if the guard still lives in a minute.
fn end_if_it_hangs() -> mpsc::Sender<()> {
    let name = std::thread::current()
        .name()
        .unwrap_or("unnamed")
        .to_owned();
    let (done, watch) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if watch.recv_timeout(Duration::from_secs(60)) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{name}: hung for a minute, something waits that nobody wakes");
            std::process::abort();
        }
    });
    done
}

/// Lets every other coroutine of the worker run until it waits.
pub(crate) fn let_others_run() {
    // A fresh coroutine starts within two turns; the rest is for those it wakes.
    (0..20).for_each(|_| rpc_core::yield_now());
}

/// Descriptors that `select` can name, once other tests leave room among the numbers it takes.
fn selectable<T: AsRawFd>(make: impl Fn() -> (T, T)) -> (T, T) {
    loop {
        let pair = make();
        if pair.0.as_raw_fd().max(pair.1.as_raw_fd()) < libc::FD_SETSIZE as i32 {
            return pair;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A connected pair of TCP sockets.
fn tcp_pair() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    (near, far)
}

/// Bytes that differ from place to place, so that lost, doubled or swapped parts show.
fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i.wrapping_mul(31) >> 3) as u8 ^ (i >> 11) as u8)
        .collect()
}
