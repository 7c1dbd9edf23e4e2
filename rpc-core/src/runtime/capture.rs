//! The stack of a running coroutine: a signal to its thread copies registers and stack.
//!
//! Knows: threads, stack bounds.   Does not know: frames; see [`crate::coroutine::trace`].
//!
//! The handler only copies words into a fixed place: unwinding and names, which lock and allocate, come
//! later on the asker's thread. SIGURG is used, as nobody but out-of-band readers by signal uses it; it is
//! passed on to a handler found before, and restarts interrupted calls.

#![expect(unsafe_code, reason = "a signal handler copies a foreign stack")]

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use super::seat::Seat;
use crate::base::sys;
use crate::base::time::Instant;
use crate::coroutine::trace::{Registers, Stack};

/// The stack of the seat's thread as it is now: that of the coroutine it runs, or the loop's. `None`
/// where the thread does not answer, or has just moved on.
pub(super) fn capture(seat: &Seat) -> Option<Stack> {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    INSTALL.call_once(install);
    let running = seat.running();
    let bounds = running.map_or(0..seat.stack_top(), |task| task.stack());
    if !ask(seat.tid(), &bounds) {
        return None;
    }
    // What ran then may not be what the bounds were of.
    if seat.running() != running {
        return None;
    }
    let len = CAPTURED.len.load(Ordering::Relaxed);
    let words = CAPTURED.words[..len].iter();
    Some(Stack {
        at: Registers {
            pc: CAPTURED.pc.load(Ordering::Relaxed),
            sp: CAPTURED.sp.load(Ordering::Relaxed),
            fp: CAPTURED.fp.load(Ordering::Relaxed),
        },
        words: words.map(|word| word.load(Ordering::Relaxed)).collect(),
    })
}

/// Has the thread's handler fill [`CAPTURED`]. Under [`ONE_AT_A_TIME`].
fn ask(tid: i32, bounds: &Range<usize>) -> bool {
    CAPTURED.tid.store(tid, Ordering::Relaxed);
    CAPTURED.low.store(bounds.start, Ordering::Relaxed);
    CAPTURED.high.store(bounds.end, Ordering::Relaxed);
    // Release pairs with the Acquire in the handler.
    CAPTURED.state.store(ASKED, Ordering::Release);
    let until = Instant::after(PATIENCE);
    if tid != 0 && sys::signal_thread(tid, libc::SIGURG) {
        while CAPTURED.state.load(Ordering::Acquire) != DONE && Instant::now() < until {
            let left = until.saturating_since(Instant::now());
            let state = CAPTURED.state.load(Ordering::Acquire);
            if state != DONE {
                sys::futex_wait(&CAPTURED.state, state, Some(left));
            }
        }
    }
    // An answer that is being written is waited for: it takes microseconds.
    while CAPTURED
        .state
        .compare_exchange(ASKED, NOTHING, Ordering::AcqRel, Ordering::Acquire)
        == Err(WRITING)
    {
        std::hint::spin_loop();
    }
    CAPTURED.state.swap(NOTHING, Ordering::AcqRel) == DONE
}

fn install() {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all-zero is a valid sigaction to start from.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = on_signal as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: both structures are valid, the handler is async-signal-safe.
    let previous = unsafe {
        libc::sigaction(libc::SIGURG, action, previous.as_mut_ptr());
        previous.assume_init()
    };
    if previous.sa_sigaction != libc::SIG_DFL && previous.sa_sigaction != libc::SIG_IGN {
        PREVIOUS.store(previous.sa_sigaction, Ordering::Release);
    }
}

/// Copies registers and stack, if this thread was asked. Touches no thread-local.
extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let mine = CAPTURED.tid.load(Ordering::Relaxed) == sys::gettid()
        && CAPTURED
            .state
            .compare_exchange(ASKED, WRITING, Ordering::Acquire, Ordering::Relaxed)
            .is_ok();
    if !mine {
        let previous = PREVIOUS.load(Ordering::Acquire);
        if previous != 0 {
            type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: a sa_sigaction that is neither default nor ignore is a function; extra arguments
            // are harmless to one without SA_SIGINFO.
            let previous = unsafe { std::mem::transmute::<usize, Handler>(previous) };
            previous(signal, info, context);
        }
        return;
    }
    // SAFETY: the kernel passes a ucontext with SA_SIGINFO.
    let (pc, sp, fp) = registers(unsafe { &*context.cast::<libc::ucontext_t>() });
    CAPTURED.pc.store(pc, Ordering::Relaxed);
    CAPTURED.sp.store(sp, Ordering::Relaxed);
    CAPTURED.fp.store(fp, Ordering::Relaxed);
    let (low, high) = (
        CAPTURED.low.load(Ordering::Relaxed),
        CAPTURED.high.load(Ordering::Relaxed),
    );
    let mut len = 0;
    if sp >= low && sp < high && sp.is_multiple_of(8) {
        len = ((high - sp) / 8).min(WORDS);
        for (i, word) in CAPTURED.words[..len].iter().enumerate() {
            // SAFETY: between the stack pointer and the stack's end all is mapped.
            let value =
                unsafe { std::ptr::with_exposed_provenance::<usize>(sp + i * 8).read_volatile() };
            word.store(value, Ordering::Relaxed);
        }
    }
    CAPTURED.len.store(len, Ordering::Relaxed);
    // Release pairs with the Acquire in `ask`.
    CAPTURED.state.store(DONE, Ordering::Release);
    sys::futex_wake(&CAPTURED.state, 1);
}

#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> (usize, usize, usize) {
    let of = |register: i32| context.uc_mcontext.gregs[register as usize] as usize;
    (of(libc::REG_RIP), of(libc::REG_RSP), of(libc::REG_RBP))
}

#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> (usize, usize, usize) {
    let machine = &context.uc_mcontext;
    (
        machine.pc as usize,
        machine.sp as usize,
        machine.regs[29] as usize,
    )
}

/// What the handler is asked for and answers.
struct Captured {
    state: AtomicU32,
    tid: AtomicI32,
    /// Where the stack may be read.
    low: AtomicUsize,
    high: AtomicUsize,
    pc: AtomicUsize,
    sp: AtomicUsize,
    fp: AtomicUsize,
    len: AtomicUsize,
    words: [AtomicUsize; WORDS],
}

static CAPTURED: Captured = Captured {
    state: AtomicU32::new(NOTHING),
    tid: AtomicI32::new(0),
    low: AtomicUsize::new(0),
    high: AtomicUsize::new(0),
    pc: AtomicUsize::new(0),
    sp: AtomicUsize::new(0),
    fp: AtomicUsize::new(0),
    len: AtomicUsize::new(0),
    words: [const { AtomicUsize::new(0) }; WORDS],
};
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static INSTALL: Once = Once::new();
/// The handler found at installation; 0 = none.
static PREVIOUS: AtomicUsize = AtomicUsize::new(0);

const NOTHING: u32 = 0;
const ASKED: u32 = 1;
const WRITING: u32 = 2;
const DONE: u32 = 3;
/// 64 KiB of stack are copied at most.
const WORDS: usize = 8192;
/// A thread that does not answer for so long has its signals blocked.
const PATIENCE: Duration = Duration::from_millis(100);
