//! Wake-ups out of signal handlers.
//!
//! A handler may have interrupted whoever holds the lock that a wake-up takes. So it only leaves a mark
//! and wakes a thread of ours, by an atomic and a system call, and that thread wakes the coroutines.
//!
//! Knows: places of the futex table.   Does not know: what is waited for; all who wait at a place are
//! woken, some for no reason.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::futex::{self, PLACES};
use crate::base::sys;

/// Marks the place of `address` and has its coroutines woken. Async-signal-safe.
pub(super) fn ring(address: usize) {
    let place = futex::place_of(address);
    // Release pairs with the Acquire in `serve`: what the handler wrote comes along.
    MARKS[place / 64].fetch_or(1 << (place % 64), Ordering::Release);
    RINGS.fetch_add(1, Ordering::SeqCst);
    sys::futex_wake(&RINGS, 1);
}

/// Makes sure that somebody listens; called by coroutines that are about to wait for what a handler may
/// post. False where no thread can be had.
pub(super) fn listen() -> bool {
    LISTENS.load(Ordering::Acquire) || start()
}

#[cold]
fn start() -> bool {
    let exchanged = LISTENS.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire);
    if exchanged.is_err() {
        return true;
    }
    let thread = std::thread::Builder::new()
        .name("rpc-core bell".into())
        .spawn(serve);
    if thread.is_err() {
        LISTENS.store(false, Ordering::Release);
    }
    thread.is_ok()
}

fn serve() {
    // No handler runs here: it could interrupt what it waits for.
    sys::set_signal_mask(u64::MAX);
    let mut seen = 0;
    loop {
        for (index, marks) in MARKS.iter().enumerate() {
            let mut marked = marks.swap(0, Ordering::Acquire);
            while marked != 0 {
                futex::wake_place(index * 64 + marked.trailing_zeros() as usize);
                marked &= marked - 1;
            }
        }
        let rings = RINGS.load(Ordering::SeqCst);
        if rings == seen {
            sys::futex_wait(&RINGS, rings, None);
        }
        seen = rings;
    }
}

static MARKS: [AtomicU64; PLACES / 64] = [const { AtomicU64::new(0) }; PLACES / 64];
static RINGS: AtomicU32 = AtomicU32::new(0);
static LISTENS: AtomicBool = AtomicBool::new(false);
