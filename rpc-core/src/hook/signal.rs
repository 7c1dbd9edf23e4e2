//! Signals: handlers in which nothing parks, masks of coroutines, waits for signals.
//!
//! Knows:         who handles which signal, the running coroutine, the blocking pool.
//! Does not know: what a handler does.
//!
//! A handler that the program installs is called through ours, which makes the interrupted coroutine a
//! plain thread meanwhile: the hooks it calls are plain system calls. Handlers installed past libc's
//! names, by raw system calls, are not seen.
//!
//! A mask set in a coroutine is the coroutine's, and set on the worker's thread while that runs it.
//! `pause`, `sigsuspend`, `sigwait` and its kin wait on the blocking pool.
//!
//! Invariants
//! - G-1  A handler lies in the table before the kernel calls ours for it. Handlers with and without
//!   SA_SIGINFO have tables and callers of their own: none is ever called in the other's way.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{c_void, sighandler_t, siginfo_t, sigset_t, timespec};

use super::pool;
use super::raw::{answer_int, c_int, failure, original};
use super::symbol::{Symbol, behind};
use crate::runtime;

/// `sigaction(2)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigaction(
    signal: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    let index = usize::try_from(signal).unwrap_or(usize::MAX);
    // SAFETY: the program's own promise.
    let wanted = unsafe { new.as_ref() }.copied();
    let (Some(plain), Some(informed)) = (PLAIN.get(index), INFORMED.get(index)) else {
        // SAFETY: as above; the kernel knows no such signal.
        return unsafe { set_action(signal, new, old) };
    };
    let before = [plain, informed].map(|handler| handler.load(Ordering::Relaxed));
    let ours = wanted.map(|mut action| {
        if action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN {
            // G-1.
            let (table, caller) = if action.sa_flags & libc::SA_SIGINFO == 0 {
                (plain, call_plain as *const () as usize)
            } else {
                (informed, call_informed as *const () as usize)
            };
            table.store(action.sa_sigaction, Ordering::Relaxed);
            action.sa_sigaction = caller;
        }
        action
    });
    let place = ours.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: as above.
    let result = unsafe { set_action(signal, place, old) };
    if result != 0 {
        for (handler, value) in [plain, informed].into_iter().zip(before) {
            handler.store(value, Ordering::Relaxed);
        }
        return result;
    }
    // SAFETY: as above; filled just now.
    if let Some(old) = unsafe { old.as_mut() } {
        if old.sa_sigaction == call_plain as *const () as usize {
            old.sa_sigaction = before[0];
        } else if old.sa_sigaction == call_informed as *const () as usize {
            old.sa_sigaction = before[1];
        }
    }
    0
}

/// `signal(2)`, as BSD and glibc mean it: the handler stays, calls are restarted.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the program's own promise.
    unsafe { install(signal, handler, libc::SA_RESTART) }
}

/// `bsd_signal(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bsd_signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the program's own promise.
    unsafe { install(signal, handler, libc::SA_RESTART) }
}

/// `signal(2)` of programs that ask for System V's meaning: once, not blocked, calls end with EINTR.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sysv_signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
    // SAFETY: the program's own promise.
    unsafe { install(signal, handler, libc::SA_RESETHAND | libc::SA_NODEFER) }
}

/// # Safety
/// - As for libc's `signal`.
unsafe fn install(signal: c_int, handler: sighandler_t, flags: c_int) -> sighandler_t {
    // SAFETY: all-zero is a valid action: empty mask.
    let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
    new.sa_sigaction = handler;
    new.sa_flags = flags;
    let mut old = new;
    // SAFETY: the caller's promise; both places are ours.
    match unsafe { sigaction(signal, &raw const new, &raw mut old) } {
        0 => old.sa_sigaction,
        _ => libc::SIG_ERR,
    }
}

/// # Safety
/// - As for libc's `sigaction`.
unsafe fn set_action(
    signal: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        behind!(
            Symbol::new(c"sigaction"),
            signal: c_int,
            new: *const libc::sigaction,
            old: *mut libc::sigaction
        )
    }
}

/// Finds the original in advance: `sigaction` may be called in a signal handler.
pub(super) fn prepare() {
    // SAFETY: asks for an action, changes none.
    unsafe { set_action(libc::SIGUSR1, ptr::null(), ptr::null_mut()) };
}

/// What the kernel calls for handlers with one argument. It may be left by a jump or an exception.
extern "C-unwind" fn call_plain(signal: c_int) {
    let handler = PLAIN[signal as usize].load(Ordering::Relaxed);
    // SAFETY: what the program gave to `sigaction` without SA_SIGINFO (G-1).
    let handler = unsafe { std::mem::transmute::<usize, extern "C-unwind" fn(c_int)>(handler) };
    as_thread(|| handler(signal));
}

/// What the kernel calls for handlers with three arguments.
extern "C-unwind" fn call_informed(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let handler = INFORMED[signal as usize].load(Ordering::Relaxed);
    type Informed = extern "C-unwind" fn(c_int, *mut siginfo_t, *mut c_void);
    // SAFETY: what the program gave to `sigaction` with SA_SIGINFO (G-1).
    let handler = unsafe { std::mem::transmute::<usize, Informed>(handler) };
    as_thread(|| handler(signal, info, context));
}

fn as_thread(handler: impl FnOnce()) {
    DEPTH.set(DEPTH.get() + 1);
    runtime::without_current(handler);
    DEPTH.set(DEPTH.get() - 1);
}

/// Whether the caller is a signal handler: whatever was interrupted may hold any lock.
pub(super) fn in_handler() -> bool {
    DEPTH.get() != 0
}

thread_local! {
    /// Handlers that run on this thread or coroutine, one in the other. One that is left by a jump stays
    /// counted, which costs a wake-up through `bell` later.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Handlers with one argument and with three, by signal; 0 = never one.
static PLAIN: [AtomicUsize; SIGNALS] = [const { AtomicUsize::new(0) }; SIGNALS];
static INFORMED: [AtomicUsize; SIGNALS] = [const { AtomicUsize::new(0) }; SIGNALS];

/// `pthread_sigmask(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_sigmask(
    how: c_int,
    new: *const sigset_t,
    old: *mut sigset_t,
) -> c_int {
    // SAFETY: the program's own promise.
    -unsafe { change_mask(how, new, old) } as c_int
}

/// `sigprocmask(2)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigprocmask(
    how: c_int,
    new: *const sigset_t,
    old: *mut sigset_t,
) -> c_int {
    // SAFETY: the program's own promise.
    answer_int(unsafe { change_mask(how, new, old) })
}

/// # Safety
/// - As for libc's `sigprocmask`.
unsafe fn change_mask(how: c_int, new: *const sigset_t, old: *mut sigset_t) -> isize {
    // SAFETY: the caller's promise: the kernel's set is the first word of libc's.
    let wanted = unsafe { new.cast::<u64>().as_ref() }.map(|set| set & !THE_C_LIBRARYS);
    let place = wanted.as_ref().map_or(ptr::null(), ptr::from_ref);
    let mut before = 0_u64;
    let result = original!(SYS_rt_sigprocmask, how, place, &raw mut before, SET_SIZE);
    if result < 0 {
        return result;
    }
    if wanted.is_some()
        && let Some(task) = runtime::running()
    {
        task.changed_signal_mask(before, mask());
    }
    // SAFETY: as above.
    if let Some(old) = unsafe { old.cast::<u64>().as_mut() } {
        *old = before;
    }
    0
}

/// The calling thread's mask.
fn mask() -> u64 {
    let mut mask = 0_u64;
    original!(
        SYS_rt_sigprocmask,
        libc::SIG_SETMASK,
        0,
        &raw mut mask,
        SET_SIZE
    );
    mask
}

/// `sigwait(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigwait(set: *const sigset_t, found: *mut c_int) -> c_int {
    loop {
        // SAFETY: the program's own promise.
        let result = unsafe { take_signal(set, ptr::null_mut(), ptr::null()) };
        if result > 0 {
            // SAFETY: as above.
            unsafe { found.write(result as c_int) };
            return 0;
        }
        if result != failure(libc::EINTR) {
            return -result as c_int;
        }
    }
}

/// `sigwaitinfo(2)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigwaitinfo(set: *const sigset_t, info: *mut siginfo_t) -> c_int {
    // SAFETY: the program's own promise.
    answer_int(unsafe { take_signal(set, info, ptr::null()) })
}

/// `sigtimedwait(2)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigtimedwait(
    set: *const sigset_t,
    info: *mut siginfo_t,
    length: *const timespec,
) -> c_int {
    // SAFETY: the program's own promise.
    answer_int(unsafe { take_signal(set, info, length) })
}

/// # Safety
/// - As for libc's `sigtimedwait`.
unsafe fn take_signal(
    set: *const sigset_t,
    info: *mut siginfo_t,
    length: *const timespec,
) -> isize {
    let arguments = [set.addr(), info.addr(), length.addr()];
    let result = pool::run_or_here(move || {
        let [set, info, length] = arguments;
        original!(SYS_rt_sigtimedwait, set, info, length, SET_SIZE)
    });
    // SAFETY: the caller's promise.
    let info = unsafe { info.as_mut() };
    if result > 0
        && let Some(info) = info
        && info.si_code == libc::SI_TKILL
    {
        // As glibc has it: who sent it matters, not by which call.
        info.si_code = libc::SI_USER;
    }
    result
}

/// `pause(2)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pause() -> c_int {
    let mask = mask();
    answer_int(suspended(mask))
}

/// `sigsuspend(2)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigsuspend(set: *const sigset_t) -> c_int {
    // SAFETY: the program's own promise: the kernel's set is the first word of libc's.
    let mask = unsafe { set.cast::<u64>().read() };
    answer_int(suspended(mask))
}

fn suspended(mask: u64) -> isize {
    pool::run_or_here(move || original!(SYS_rt_sigsuspend, &raw const mask, SET_SIZE))
}

/// One more than the last signal.
const SIGNALS: usize = 65;
/// Bytes of the kernel's signal set.
const SET_SIZE: usize = 8;
/// Signals 32 and 33, by which glibc cancels threads and changes user ids: nobody may block them.
const THE_C_LIBRARYS: u64 = 0b11 << 31;
