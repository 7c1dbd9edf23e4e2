//! Says which coroutine overflowed its stack, then ends the process.
//!
//! The handler runs on the thread's alternate signal stack and uses nothing but `write(2)`.

use std::mem::MaybeUninit;
use std::sync::Once;

use super::stack::{self, Hit};
use crate::base::sys;

/// Installs the SIGSEGV handler, once per process. Faults elsewhere go to the handler found before.
pub(crate) fn install() {
    INSTALL.call_once(|| {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: all-zero is a valid sigaction to start from.
        let action = unsafe { action.assume_init_mut() };
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        // SAFETY: both structures are valid; `PREVIOUS` is written before any fault can read it.
        unsafe { libc::sigaction(libc::SIGSEGV, action, PREVIOUS.0.get().cast()) };
    });
}

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo for SIGSEGV.
    let address = unsafe { (*info).si_addr() } as usize;
    if let Some(hit) = stack::find_guard(address) {
        report(&hit);
        // SAFETY: ends the process; async-signal-safe.
        unsafe { libc::abort() };
    }
    // SAFETY: written in `install` before this handler could run.
    let previous = unsafe { &*PREVIOUS.0.get().cast::<libc::sigaction>() };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // Returning runs the faulting instruction again, now with the default action.
            // SAFETY: restores the disposition found at install.
            unsafe { libc::sigaction(signal, previous, std::ptr::null_mut()) };
        }
        handler => {
            type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
            // SAFETY: a non-default sa_sigaction is a function; extra arguments are harmless to one
            // without SA_SIGINFO.
            let handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
            handler(signal, info, context);
        }
    }
}

/// Writes the report piece by piece; no formatting machinery, no allocation.
fn report(hit: &Hit) {
    let name = hit.label.name.get();
    put("coroutine '");
    put(if name.is_empty() { "unnamed" } else { name });
    put("' has overflowed its stack of ");
    put_number(hit.len / 1024);
    put(" KiB");
    if let Some(place) = hit.label.spawned_at.get() {
        put("; spawned at ");
        put(place.file());
        put(":");
        put_number(place.line() as usize);
    }
    put(
        "\ngive it a larger one with Builder::stack_size, or Runtime::builder().stack_size for all\n",
    );
}

fn put(text: &str) {
    sys::write(2, text.as_bytes());
}

fn put_number(mut number: usize) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    sys::write(2, &digits[at..]);
}

struct Previous(std::cell::UnsafeCell<MaybeUninit<libc::sigaction>>);
// SAFETY: written once inside `INSTALL`, read only afterwards.
unsafe impl Sync for Previous {}

static PREVIOUS: Previous = Previous(std::cell::UnsafeCell::new(MaybeUninit::zeroed()));
static INSTALL: Once = Once::new();
