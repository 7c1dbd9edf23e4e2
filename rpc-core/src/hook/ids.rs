//! User and group ids: setuid and its kin.
//!
//! glibc has every thread change its ids by a signal, and asks again until each has answered in its control
//! block. A worker that runs a coroutine would answer in the coroutine's, and be asked for ever: so glibc's
//! handler is called with the worker's own thread pointer. The callers wait on the blocking pool. And a
//! coroutine's block is made by a kernel thread that leaves at once: one that left unasked would be
//! waited for, so none is made meanwhile.
//!
//! Knows: the functions' names.   Does not know: which ids there are.

#![expect(unsafe_code, reason = "replaces libc functions")]

use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{c_char, c_ulong, c_void, gid_t, siginfo_t, size_t, uid_t};

use super::pool;
use super::raw::{answer_int, c_int, failure, original};
use super::symbol::{Symbol, behind};
use crate::base::sys;
use crate::coroutine::identity;
use crate::runtime;

macro_rules! by_number {
    ($($name:ident($($argument:ident: $kind:ty),+), $symbol:literal, $text:literal;)+) => {$(
        #[doc = $text]
        ///
        /// # Safety
        /// - As for libc's function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $kind),+) -> c_int {
            // SAFETY: the program's own promise.
            change(move || unsafe { behind!(Symbol::new($symbol), $($argument: $kind),+) })
        }
    )+};
}

by_number! {
    setuid(uid: uid_t), c"setuid", "`setuid(2)`.";
    setgid(gid: gid_t), c"setgid", "`setgid(2)`.";
    seteuid(uid: uid_t), c"seteuid", "`seteuid(2)`.";
    setegid(gid: gid_t), c"setegid", "`setegid(2)`.";
    setreuid(real: uid_t, effective: uid_t), c"setreuid", "`setreuid(2)`.";
    setregid(real: gid_t, effective: gid_t), c"setregid", "`setregid(2)`.";
    setresuid(real: uid_t, effective: uid_t, saved: uid_t), c"setresuid", "`setresuid(2)`.";
    setresgid(real: gid_t, effective: gid_t, saved: gid_t), c"setresgid", "`setresgid(2)`.";
}

/// `setgroups(2)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn setgroups(count: size_t, groups: *const gid_t) -> c_int {
    let groups = groups.expose_provenance();
    change(move || {
        let groups = std::ptr::with_exposed_provenance(groups);
        // SAFETY: the program's own promise: the caller waits, so what it points to stays.
        unsafe { behind!(Symbol::new(c"setgroups"), count: size_t, groups: *const gid_t) }
    })
}

/// `initgroups(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn initgroups(user: *const c_char, group: gid_t) -> c_int {
    let user = user.expose_provenance();
    change(move || {
        let user = std::ptr::with_exposed_provenance(user);
        // SAFETY: as above.
        unsafe { behind!(Symbol::new(c"initgroups"), user: *const c_char, group: gid_t) }
    })
}

fn change(call: impl Fn() -> c_int + Clone + Send + 'static) -> c_int {
    if super::in_child() {
        // Nobody makes blocks here, and who did in the parent may have held the lock.
        return call();
    }
    answer_int(pool::run_or_here(move || {
        let _none_in_the_making = identity::stop_making();
        answer_as_thread();
        match call() {
            -1 => failure(sys::errno()),
            done => done as isize,
        }
    }))
}

/// Puts [`on_question`] before glibc's handler, once. Only while blocks cannot be made: one at a time.
fn answer_as_thread() {
    let mut action = Action::default();
    original!(SYS_rt_sigaction, QUESTION, 0, &raw mut action, SET_SIZE);
    let ours = on_question as *const () as usize;
    // Without a thread beside the first there is no handler, and nobody to ask.
    if action.handler > libc::SIG_IGN && action.handler != ours {
        // Release pairs with the Acquire in `on_question`.
        HANDLER.store(action.handler, Ordering::Release);
        action.handler = ours;
        original!(SYS_rt_sigaction, QUESTION, &raw const action, 0, SET_SIZE);
    }
}

extern "C" fn on_question(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
    // SAFETY: glibc's own handler, installed with SA_SIGINFO.
    let handler = unsafe { std::mem::transmute::<usize, Handler>(HANDLER.load(Ordering::Acquire)) };
    let answer = move || handler(signal, info, context);
    match runtime::thread_below() {
        // SAFETY: the thread that runs us; the handler makes system calls and sets marks.
        Some(thread) => unsafe { identity::as_thread(thread, answer) },
        None => answer(),
    }
}

/// The kernel's `struct sigaction`.
#[derive(Default)]
#[repr(C)]
struct Action {
    handler: usize,
    flags: c_ulong,
    restorer: usize,
    mask: u64,
}

/// glibc's handler.
static HANDLER: AtomicUsize = AtomicUsize::new(0);
/// The signal by which glibc asks, `SIGSETXID`.
const QUESTION: c_int = 33;
/// Bytes of the kernel's signal set.
const SET_SIZE: usize = 8;
