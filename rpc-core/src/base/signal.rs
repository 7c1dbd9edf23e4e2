//! SIGTERM and SIGINT as readable file descriptors.
//!
//! Knows: signal dispositions, eventfds.   Does not know: what a program does when it is asked to end.
//!
//! Invariants
//! - S-1  The handler only writes eventfds and exits: both are async-signal-safe.
//! - S-2  The second signal while anyone subscribes ends the process at once with status 128 + signal.
//! - S-3  When the last subscriber leaves, the dispositions found by the first are back.
//! - S-4  An eventfd stays open for ever: a handler that runs while its subscriber leaves must not write
//!   to a descriptor that has become something else.

#![expect(
    unsafe_code,
    reason = "installing a signal handler and ending the process from it have no safe form"
)]

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::sys::{self, syscall};

/// Subscribers at a time; a process serves few listeners.
const SUBSCRIBERS_MAX: usize = 64;

/// The signals that ask a program to end.
const SIGNALS: [libc::c_int; 2] = [libc::SIGTERM, libc::SIGINT];

/// The eventfd of each place, -1 where none was needed yet. Never closed (S-4), reused by the next.
static EVENTFDS: [AtomicI32; SUBSCRIBERS_MAX] = [const { AtomicI32::new(-1) }; SUBSCRIBERS_MAX];

/// Which places have a subscriber.
static TAKEN: [AtomicBool; SUBSCRIBERS_MAX] = [const { AtomicBool::new(false) }; SUBSCRIBERS_MAX];

/// Signals seen since the first subscriber came.
static SEEN: AtomicU32 = AtomicU32::new(0);

/// What the signals did before; `None` while nobody subscribes. Also serialises (un)subscribing.
static PREVIOUS: Mutex<Option<[libc::sigaction; 2]>> = Mutex::new(None);

/// While it lives, SIGTERM and SIGINT make [`fd`](Self::fd) readable instead of ending the process.
#[derive(Debug)]
pub struct TerminationSignal {
    place: usize,
    fd: RawFd,
}

impl TerminationSignal {
    /// Starts to receive the signals.
    ///
    /// # Errors
    /// No eventfd could be made, or 64 others subscribe already.
    pub fn subscribe() -> io::Result<Self> {
        let mut previous = PREVIOUS.lock().unwrap_or_else(PoisonError::into_inner);
        // Relaxed, here and below: the lock orders subscribers, and the handler needs no more than
        // the number and the flag.
        let place = TAKEN
            .iter()
            .position(|taken| !taken.load(Ordering::Relaxed))
            .ok_or_else(|| io::Error::other("too many subscribers to termination signals"))?;
        let mut fd = EVENTFDS[place].load(Ordering::Relaxed);
        if fd < 0 {
            fd = sys::eventfd()?;
            EVENTFDS[place].store(fd, Ordering::Relaxed);
        }
        // What a former subscriber of this place left unread is not for this one.
        sys::read(fd, &mut [0; 8]);
        TAKEN[place].store(true, Ordering::Relaxed);
        if previous.is_none() {
            SEEN.store(0, Ordering::Relaxed);
            *previous = Some(SIGNALS.map(|signal| set_action(signal, &handler_action())));
        }
        Ok(Self { place, fd })
    }

    /// Readable once a signal has come. Do not close it (S-4).
    pub fn fd(&self) -> RawFd {
        self.fd
    }
}

impl Drop for TerminationSignal {
    fn drop(&mut self) {
        let mut previous = PREVIOUS.lock().unwrap_or_else(PoisonError::into_inner);
        TAKEN[self.place].store(false, Ordering::Relaxed);
        let is_last = !TAKEN.iter().any(|taken| taken.load(Ordering::Relaxed));
        if is_last && let Some(actions) = previous.take() {
            for (signal, action) in SIGNALS.iter().zip(&actions) {
                set_action(*signal, action);
            }
        }
    }
}

extern "C" fn on_signal(signal: libc::c_int) {
    if SEEN.fetch_add(1, Ordering::Relaxed) > 0 {
        // S-2. SAFETY: ends the process; runs nothing of it.
        unsafe { syscall!(libc::SYS_exit_group, 128 + signal) };
    }
    for (fd, taken) in EVENTFDS.iter().zip(&TAKEN) {
        let fd = fd.load(Ordering::Relaxed);
        if fd >= 0 && taken.load(Ordering::Relaxed) {
            // A full counter means that the reader has been told already.
            sys::write(fd, &1_u64.to_ne_bytes());
        }
    }
}

/// From now on `handler` takes `signal`. It must be async-signal-safe, and not be removed any more.
pub(crate) fn handle(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) {
    set_action(signal, &action_of(handler));
}

fn handler_action() -> libc::sigaction {
    action_of(on_signal)
}

fn action_of(handler: extern "C" fn(libc::c_int)) -> libc::sigaction {
    // SAFETY: all-zero is a valid sigaction: default handler, empty mask, no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_RESTART;
    action
}

fn set_action(signal: libc::c_int, action: &libc::sigaction) -> libc::sigaction {
    // SAFETY: all-zero is a valid sigaction to be overwritten.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: both point to valid actions; the handler is async-signal-safe (S-1).
    unsafe { libc::sigaction(signal, action, &raw mut old) };
    old
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_makes_the_subscribers_descriptor_readable_and_dispositions_come_back() {
        let before = set_action(libc::SIGTERM, &ignore());
        let subscriber = TerminationSignal::subscribe().unwrap();
        // SAFETY: raises a signal that S-1's handler takes.
        unsafe { libc::raise(libc::SIGTERM) };
        let mut count = [0; 8];
        assert_eq!(sys::read(subscriber.fd(), &mut count), 8);
        assert_eq!(u64::from_ne_bytes(count), 1);
        drop(subscriber);
        let after = set_action(libc::SIGTERM, &before);
        assert_eq!(after.sa_sigaction, libc::SIG_IGN);
    }

    fn ignore() -> libc::sigaction {
        libc::sigaction {
            sa_sigaction: libc::SIG_IGN,
            ..handler_action()
        }
    }
}
