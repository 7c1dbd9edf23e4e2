//! SIGQUIT as a question: the process answers on stderr with all its coroutines, and goes on.
//!
//! Knows: the signal, a thread that answers.   Does not know: what is in a dump.

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::dump::Dump;
use crate::base::{signal, sys};

/// From now on SIGQUIT prints a dump. Once per process; the second call does nothing.
pub(super) fn listen() -> io::Result<()> {
    let mut result = Ok(());
    ONCE.call_once(|| {
        result = thread::Builder::new()
            .name("rpc-core sigquit".into())
            .spawn(answer)
            .map(drop);
        if result.is_ok() {
            signal::handle(libc::SIGQUIT, on_signal);
        }
    });
    result
}

fn answer() {
    let mut answered = 0;
    loop {
        let asked = ASKED.load(Ordering::Acquire);
        if asked == answered {
            sys::futex_wait(&ASKED, asked, None);
            continue;
        }
        answered = asked;
        let mut text = Dump::take(None).to_string().into_bytes();
        // A pipe takes no more than it has room for.
        while let Ok(written @ 1..) = usize::try_from(sys::write(2, &text)) {
            text.drain(..written);
        }
    }
}

/// Only atomics and a system call: async-signal-safe.
extern "C" fn on_signal(_: libc::c_int) {
    ASKED.fetch_add(1, Ordering::Release);
    sys::futex_wake(&ASKED, 1);
}

static ONCE: Once = Once::new();
/// Signals that have come.
static ASKED: AtomicU32 = AtomicU32::new(0);
