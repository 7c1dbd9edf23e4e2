//! A thread that polls what epoll refuses: an epoll whose descriptor as many others watch as the kernel
//! nests, or anything once the user's share of epoll watches is spent.
//!
//! Knows: descriptors, tokens of `Io`s.   Does not know: who waits, or for what.
//!
//! One thread for the process, started when first needed. A watch is for one event, which goes to
//! [`reactor::dispatch`]; whoever waits again asks again, and `poll` tells at once what is ready by then.
//! A watch whose `Io` was released meanwhile goes with the next event of any.

use std::os::fd::RawFd;

use super::reactor::{self, Dir};
use crate::base::lock::SpinLock;
use crate::base::sys;

/// One event to wait for.
#[derive(Clone, Copy)]
struct Watch {
    fd: RawFd,
    /// Of the `Io` that is told.
    token: u64,
    dir: Dir,
}

struct State {
    /// Not seen by the thread yet.
    incoming: Vec<Watch>,
    /// All there are.
    count: usize,
    /// Ends the thread's `poll`; `None` until it was started.
    wake_fd: Option<RawFd>,
}

static STATE: SpinLock<State> = SpinLock::new(State {
    incoming: Vec::new(),
    count: 0,
    wake_fd: None,
});

/// Tells the `Io` of `token` once `fd` is ready. False where the thread cannot take it.
pub(super) fn watch(fd: RawFd, token: u64, dir: Dir) -> bool {
    let known = STATE.lock().wake_fd;
    let Some(wake_fd) = known.or_else(start) else {
        return false;
    };
    {
        let mut state = STATE.lock();
        if state.count >= WATCHES_MAX {
            return false;
        }
        state.count += 1;
        state.incoming.push(Watch { fd, token, dir });
    }
    sys::write(wake_fd, &1_u64.to_ne_bytes());
    true
}

/// The thread's eventfd, after starting the thread.
#[cold]
fn start() -> Option<RawFd> {
    let fd = sys::eventfd().ok()?;
    let first = *STATE.lock().wake_fd.get_or_insert(fd);
    if first != fd {
        sys::close(fd);
        return Some(first);
    }
    let started = std::thread::Builder::new()
        .name("rpc-core watcher".into())
        .spawn(move || run(fd));
    if started.is_err() {
        // What came meanwhile is found by the thread of the next one.
        STATE.lock().wake_fd = None;
        sys::close(fd);
        return None;
    }
    Some(fd)
}

fn run(wake_fd: RawFd) {
    let mut watches = Vec::new();
    let mut entries = Vec::new();
    loop {
        watches.append(&mut STATE.lock().incoming);
        entries.clear();
        entries.push(entry(wake_fd, libc::POLLIN));
        entries.extend(watches.iter().map(|watch: &Watch| match watch.dir {
            Dir::Read => entry(watch.fd, libc::POLLIN | libc::POLLPRI | libc::POLLRDHUP),
            Dir::Write => entry(watch.fd, libc::POLLOUT),
        }));
        sys::poll(&mut entries);
        sys::read(wake_fd, &mut [0; 8]);
        let before = watches.len();
        // Those that come first are the descriptors' own: bits of poll and epoll are the same.
        let mut happened = entries.iter().skip(1).map(|entry| entry.revents as u32);
        watches.retain(|watch| {
            let events = happened.next().unwrap_or(0);
            if events != 0 {
                reactor::dispatch(watch.token, events);
            }
            events == 0 && reactor::is_alive(watch.token)
        });
        STATE.lock().count -= before - watches.len();
    }
}

const fn entry(fd: RawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd {
        fd,
        events,
        revents: 0,
    }
}

/// Watches at a time; whoever comes later is told that the descriptor cannot be waited for.
const WATCHES_MAX: usize = 65_536;
