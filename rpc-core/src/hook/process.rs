//! Processes: fork, vfork, the wait family, and what a forked child must forget.
//!
//! Knows:         pidfds, the blocking pool as a last resort.
//! Does not know: how a process is started; `posix_spawn` stays libc's.
//!
//! One `fork` at a time: glibc holds a lock of its own while fork handlers run, and these may park. A
//! second coroutine of the worker waits for its turn here rather than in the kernel for glibc.
//!
//! A child of one known number is waited for through a pidfd. "Any child", groups, and stopped or
//! continued children are waited for on the blocking pool, where no deadline cuts the wait: an exit
//! status taken by a thread that nobody listens to would be lost.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use std::os::fd::RawFd;

use libc::{id_t, idtype_t, pid_t, rusage, siginfo_t};

use super::cut;
use super::description::Handle;
use super::mutex::{self, Mutex};
use super::raw::{answer_int, c_int, failure, original};
use super::symbol::Symbol;
use super::until::Until;
use crate::base::time::Instant;
use crate::runtime::reactor::{Dir, Io, Wait};
use crate::runtime::{self, TaskRef};

/// `fork(2)`.
///
/// # Safety
/// - As for libc's `fork`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fork() -> pid_t {
    let Some(original) = FORK.find() else {
        return answer_int(failure(libc::ENOSYS));
    };
    // SAFETY: the symbol of that name in the C library has this type.
    let original = unsafe {
        std::mem::transmute::<*mut libc::c_void, unsafe extern "C" fn() -> pid_t>(original.as_ptr())
    };
    if super::in_child() {
        // SAFETY: the program's own promise.
        return unsafe { original() };
    }
    TURN.lock(mutex::Kind::Normal, Until::Never);
    super::begin_fork();
    // SAFETY: as above.
    let pid = unsafe { original() };
    // The child has been through `child_after_fork`.
    if pid != 0 {
        super::forked();
        TURN.unlock(mutex::Kind::Normal);
    }
    pid
}

/// Finds the original in advance: `fork` may be called in a signal handler.
pub(super) fn prepare() {
    FORK.find();
}

static FORK: Symbol = Symbol::new(c"fork");

/// Held by whoever forks.
static TURN: Mutex = Mutex::new();

/// `vfork(2)`, as `fork`: a child that shares our memory would clear the parent's state.
///
/// # Safety
/// - As for libc's `fork`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfork() -> pid_t {
    // SAFETY: the program's own promise.
    unsafe { fork() }
}

/// `wait(2)`.
///
/// # Safety
/// - As for libc's `wait`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wait(status: *mut c_int) -> pid_t {
    // SAFETY: the program's own promise.
    unsafe { wait4(-1, status, 0, std::ptr::null_mut()) }
}

/// `waitpid(2)`; in a coroutine it waits for the coroutine alone.
///
/// # Safety
/// - As for libc's `waitpid`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn waitpid(pid: pid_t, status: *mut c_int, options: c_int) -> pid_t {
    // SAFETY: the program's own promise.
    unsafe { wait4(pid, status, options, std::ptr::null_mut()) }
}

/// `wait3(2)`.
///
/// # Safety
/// - As for libc's `wait3`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wait3(status: *mut c_int, options: c_int, usage: *mut rusage) -> pid_t {
    // SAFETY: the program's own promise.
    unsafe { wait4(-1, status, options, usage) }
}

/// `wait4(2)`.
///
/// # Safety
/// - As for libc's `wait4`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wait4(
    pid: pid_t,
    status: *mut c_int,
    options: c_int,
    usage: *mut rusage,
) -> pid_t {
    let ask = |extra: c_int| original!(SYS_wait4, pid, status, options | extra, usage);
    let (Some(task), 0) = (runtime::current(), options & libc::WNOHANG) else {
        return answer_int(ask(0));
    };
    let result = ask(libc::WNOHANG);
    if result != 0 {
        return answer_int(result);
    }
    let only_exits = options & (libc::WUNTRACED | libc::WCONTINUED) == 0;
    if pid > 0 && only_exits {
        let result = until_exit(task, pid, || ask(libc::WNOHANG));
        if result != failure(libc::ENOSYS) {
            return answer_int(result);
        }
    }
    let (status, usage) = (Place(status), Place(usage));
    answer_int(on_pool(move || {
        let (status, usage) = (status, usage);
        original!(SYS_wait4, pid, status.0, options, usage.0)
    }))
}

/// `waitid(2)`.
///
/// # Safety
/// - As for libc's `waitid`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn waitid(
    kind: idtype_t,
    id: id_t,
    info: *mut siginfo_t,
    options: c_int,
) -> c_int {
    let (Some(task), 0) = (runtime::current(), options & libc::WNOHANG) else {
        return answer_int(original!(SYS_waitid, kind, id, info, options, 0));
    };
    // SAFETY: zero is a valid empty value.
    let mut found: siginfo_t = unsafe { std::mem::zeroed() };
    let place = &raw mut found;
    // WNOHANG says "nobody yet" by success with no process named; here 0 stands for that, 1 for done.
    let mut ask = || {
        // SAFETY: as above.
        unsafe { place.write(std::mem::zeroed()) };
        let options = options | libc::WNOHANG;
        let result = original!(SYS_waitid, kind, id, place, options, 0);
        // SAFETY: the kernel filled it, or it is zero.
        let nobody = unsafe { (*place).si_pid() } == 0;
        match (result, nobody) {
            (0, true) => 0,
            (0, false) => 1,
            _ => result,
        }
    };
    let mut result = ask();
    if result == 0 {
        let only_exits = options & (libc::WSTOPPED | libc::WCONTINUED) == 0;
        result = match kind {
            libc::P_PID if only_exits => until_exit(task, id as pid_t, &mut ask),
            libc::P_PIDFD if only_exits => until_pidfd(task, id as RawFd, &mut ask),
            _ => failure(libc::ENOSYS),
        };
    }
    if result == failure(libc::ENOSYS) {
        let info = Place(info);
        return answer_int(on_pool(move || {
            let info = info;
            original!(SYS_waitid, kind, id, info.0, options, 0)
        }));
    }
    if result < 0 {
        return answer_int(result);
    }
    if !info.is_null() {
        // SAFETY: the program's place for the answer.
        unsafe { info.write(found) };
    }
    0
}

/// Waits through a pidfd until `ask` does not say 0; ENOSYS where there is no pidfd to be had.
fn until_exit(task: TaskRef, pid: pid_t, ask: impl FnMut() -> isize) -> isize {
    let pidfd = original!(SYS_pidfd_open, pid, 0);
    if pidfd < 0 {
        return failure(libc::ENOSYS);
    }
    let pidfd = pidfd as RawFd;
    super::create::renewed(pidfd as isize);
    let result = match Io::acquire() {
        Some(io) => {
            let result = until_readable(task, io, pidfd, ask);
            io.release();
            result
        }
        None => failure(libc::ENOSYS),
    };
    original!(SYS_close, pidfd);
    result
}

/// The same on a pidfd of the program's own.
fn until_pidfd(task: TaskRef, pidfd: RawFd, ask: impl FnMut() -> isize) -> isize {
    let acquired = Handle::find(pidfd).and_then(|h| h.io_or_acquire(Dir::Read));
    match acquired {
        Some(acquired) => until_readable(task, acquired.io, pidfd, ask),
        None => failure(libc::ENOSYS),
    }
}

fn until_readable(
    task: TaskRef,
    io: &'static Io,
    pidfd: RawFd,
    mut ask: impl FnMut() -> isize,
) -> isize {
    loop {
        let seen = io.tick(Dir::Read);
        let result = ask();
        if result != 0 {
            return result;
        }
        let limit = task.deadline();
        match io.wait(pidfd, Dir::Read, seen, limit) {
            Wait::Ready => {}
            Wait::TimedOut if Instant::now() < limit => {}
            Wait::TimedOut => {
                cut::before_failing();
                return failure(libc::ETIMEDOUT);
            }
            Wait::Cancelled => {
                cut::before_failing();
                return failure(libc::ECANCELED);
            }
            Wait::Closed => return failure(libc::EBADF),
            Wait::Unsupported => return failure(libc::ENOSYS),
        }
    }
}

/// A place of the program's that the pool fills while the coroutine's frame stays.
#[derive(Clone, Copy)]
struct Place<T>(*mut T);

// SAFETY: the coroutine waits, uncut, until the pool is done with the place.
unsafe impl<T> Send for Place<T> {}

/// Runs a blocking call on the pool; the coroutine waits for its end whatever happens.
fn on_pool(call: impl FnOnce() -> isize + Send + 'static) -> isize {
    super::pool::run(call).unwrap_or(failure(libc::EAGAIN))
}

/// After `fork`: one thread, no workers, an epoll that is the parent's.
pub(super) extern "C" fn child_after_fork() {
    super::enter_child();
    super::once::forked();
    runtime::forget_current();
}
