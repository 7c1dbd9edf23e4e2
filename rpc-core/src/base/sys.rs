//! The one door to raw system calls.
//!
//! The calls here use the processor's own instruction, so they never reach a symbol that `hook/`
//! replaces. They return what the kernel returns: `-errno` on failure. `errno` itself is only touched
//! by [`set_errno`] and [`errno`].

#![expect(
    unsafe_code,
    reason = "system calls take raw pointers and run inline assembly"
)]

use std::arch::asm;
use std::os::fd::RawFd;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

pub use libc::{c_int, c_long, epoll_event, timespec};

/// One raw system call with up to six arguments; see [`syscall6`].
///
/// Must be used in an `unsafe` block: the promise is the kernel's contract for that call.
#[macro_export]
#[doc(hidden)]
macro_rules! __raw_syscall {
    ($nr:expr $(,)?) => { $crate::base::sys::syscall6($nr, 0, 0, 0, 0, 0, 0) };
    ($nr:expr, $a:expr $(,)?) => { $crate::base::sys::syscall6($nr, $a as usize, 0, 0, 0, 0, 0) };
    ($nr:expr, $a:expr, $b:expr $(,)?) => {
        $crate::base::sys::syscall6($nr, $a as usize, $b as usize, 0, 0, 0, 0)
    };
    ($nr:expr, $a:expr, $b:expr, $c:expr $(,)?) => {
        $crate::base::sys::syscall6($nr, $a as usize, $b as usize, $c as usize, 0, 0, 0)
    };
    ($nr:expr, $a:expr, $b:expr, $c:expr, $d:expr $(,)?) => {
        $crate::base::sys::syscall6($nr, $a as usize, $b as usize, $c as usize, $d as usize, 0, 0)
    };
    ($nr:expr, $a:expr, $b:expr, $c:expr, $d:expr, $e:expr $(,)?) => {
        $crate::base::sys::syscall6(
            $nr, $a as usize, $b as usize, $c as usize, $d as usize, $e as usize, 0,
        )
    };
    ($nr:expr, $a:expr, $b:expr, $c:expr, $d:expr, $e:expr, $f:expr $(,)?) => {
        $crate::base::sys::syscall6(
            $nr, $a as usize, $b as usize, $c as usize, $d as usize, $e as usize, $f as usize,
        )
    };
}
pub use crate::__raw_syscall as syscall;

/// The system call instruction with all six argument registers. Returns `-errno` on failure.
///
/// # Safety
/// - `nr` and the arguments must meet the kernel's contract for that call.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub unsafe fn syscall6(
    nr: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> isize {
    let result: isize;
    // SAFETY: the caller answers for the call; rcx and r11 are what the instruction clobbers.
    unsafe {
        asm!("syscall", inlateout("rax") nr as isize => result, in("rdi") a, in("rsi") b,
             in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// The system call instruction with all six argument registers. Returns `-errno` on failure.
///
/// # Safety
/// - `nr` and the arguments must meet the kernel's contract for that call.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub unsafe fn syscall6(
    nr: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> isize {
    let result: isize;
    // SAFETY: the caller answers for the call; svc clobbers nothing but x0.
    unsafe {
        asm!("svc 0", in("x8") nr, inlateout("x0") a as isize => result, in("x1") b, in("x2") c,
             in("x3") d, in("x4") e, in("x5") f, options(nostack));
    }
    result
}

/// The calling thread's `errno`.
#[inline]
pub fn errno() -> c_int {
    // SAFETY: libc returns the address of this thread's errno, always valid.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's `errno`.
#[inline]
pub fn set_errno(value: c_int) {
    // SAFETY: as in `errno`.
    unsafe { *libc::__errno_location() = value }
}

/// The kernel's result as an `io::Result`.
pub fn cvt(result: isize) -> std::io::Result<usize> {
    usize::try_from(result).map_err(|_| std::io::Error::from_raw_os_error(-result as i32))
}

/// Reads a clock through libc's vDSO path (no system call).
#[inline]
pub fn clock_gettime(clock: libc::clockid_t) -> timespec {
    let mut spec = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `spec` is a valid place to write to; the clocks used in this crate always exist.
    unsafe { libc::clock_gettime(clock, &raw mut spec) };
    spec
}

/// Nanoseconds of processor time that a thread of this process has used; `None` if it has ended.
pub fn thread_cpu_nanos(tid: i32) -> Option<u64> {
    // How the kernel names the clock of a thread (include/linux/posix-timers.h).
    let clock = (!tid << 3) | 4 | 2;
    let mut spec = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `spec` is a valid place to write to.
    let result = unsafe { syscall!(libc::SYS_clock_gettime, clock, &raw mut spec) };
    (result == 0).then(|| spec.tv_sec as u64 * 1_000_000_000 + spec.tv_nsec as u64)
}

/// A relative time for the kernel.
pub fn to_timespec(duration: Duration) -> timespec {
    timespec {
        tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: c_long::from(duration.subsec_nanos() as i32),
    }
}

/// Fills `out`, possibly in part; bytes written or `-errno`.
pub fn getrandom(out: &mut [u8]) -> isize {
    // SAFETY: pointer and length describe `out`.
    unsafe { syscall!(libc::SYS_getrandom, out.as_mut_ptr(), out.len(), 0) }
}

/// Lets another thread run.
pub fn sched_yield() {
    // SAFETY: takes no arguments.
    unsafe { syscall!(libc::SYS_sched_yield) };
}

/// The kernel's id of the calling thread.
pub fn gettid() -> i32 {
    // SAFETY: takes no arguments.
    unsafe { syscall!(libc::SYS_gettid) as i32 }
}

/// The process's id.
pub fn getpid() -> i32 {
    // SAFETY: takes no arguments.
    unsafe { syscall!(libc::SYS_getpid) as i32 }
}

/// Prepares the process for [`membarrier`]. False where the kernel has none (Linux before 4.14) or
/// forbids it.
pub fn membarrier_register() -> bool {
    // SAFETY: takes no pointers.
    unsafe {
        syscall!(
            libc::SYS_membarrier,
            MEMBARRIER_REGISTER_PRIVATE_EXPEDITED,
            0,
            0
        ) == 0
    }
}

/// Makes every thread of the process pass a full memory barrier. After [`membarrier_register`].
pub fn membarrier() {
    // SAFETY: takes no pointers.
    unsafe { syscall!(libc::SYS_membarrier, MEMBARRIER_PRIVATE_EXPEDITED, 0, 0) };
}

/// Sends a signal to one thread of this process.
pub fn signal_thread(tid: i32, signal: c_int) -> bool {
    // SAFETY: takes no pointers; the caller answers for what the signal does.
    unsafe { syscall!(libc::SYS_tgkill, getpid(), tid, signal) == 0 }
}

/// `read(2)`.
pub fn read(fd: RawFd, out: &mut [u8]) -> isize {
    // SAFETY: pointer and length describe `out`.
    unsafe { syscall!(libc::SYS_read, fd, out.as_mut_ptr(), out.len()) }
}

/// `write(2)`.
pub fn write(fd: RawFd, data: &[u8]) -> isize {
    // SAFETY: pointer and length describe `data`.
    unsafe { syscall!(libc::SYS_write, fd, data.as_ptr(), data.len()) }
}

/// `close(2)`.
pub fn close(fd: RawFd) -> isize {
    // SAFETY: closing a number touches no memory; whose it is, the caller knows.
    unsafe { syscall!(libc::SYS_close, fd) }
}

/// A non-blocking, close-on-exec eventfd.
pub fn eventfd() -> std::io::Result<RawFd> {
    let flags = libc::EFD_NONBLOCK | libc::EFD_CLOEXEC;
    // SAFETY: takes no pointers.
    let fd = cvt(unsafe { syscall!(libc::SYS_eventfd2, 0, flags) })?;
    Ok(fd as RawFd)
}

/// Waits for events of `epoll` until `timeout` (`None` = for ever). Number of events or `-errno`.
/// Nanosecond timeouts by `epoll_pwait2` (Linux 5.11); older kernels get milliseconds rounded up.
pub fn epoll_wait(epoll: RawFd, events: &mut [epoll_event], timeout: Option<Duration>) -> isize {
    let spec = timeout.map(to_timespec);
    let spec_ptr = spec
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref::<timespec>);
    let (out, room) = (events.as_mut_ptr(), events.len());
    // SAFETY: `events` and `spec` live across the call; a null signal mask is allowed.
    let n = unsafe { syscall!(libc::SYS_epoll_pwait2, epoll, out, room, spec_ptr, 0, 8) };
    if n != -(libc::ENOSYS as isize) {
        return n;
    }
    let millis = timeout.map_or(-1, |t| {
        i32::try_from(t.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
    });
    // SAFETY: as above.
    unsafe { syscall!(libc::SYS_epoll_pwait, epoll, out, room, millis, 0, 8) }
}

/// Whether a read of `fd` would not wait.
pub fn is_readable(fd: RawFd) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let now = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: both structures live across the call; a null signal mask is allowed.
    let ready = unsafe { syscall!(libc::SYS_ppoll, &raw mut poll, 1, &raw const now, 0, 8) };
    ready > 0
}

/// Waits until something happened on one of `entries`; how many, or `-errno`.
pub fn poll(entries: &mut [libc::pollfd]) -> isize {
    let (place, count) = (entries.as_mut_ptr(), entries.len());
    // SAFETY: pointer and length describe `entries`; no time and no signal mask are given.
    unsafe { syscall!(libc::SYS_ppoll, place, count, 0, 0, 0) }
}

/// Sets the calling thread's signal mask, a bit for each signal from 1 on.
pub fn set_signal_mask(mask: u64) {
    let place = &raw const mask;
    // SAFETY: eight bytes, as the kernel's set has.
    unsafe { syscall!(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, place, 0, 8) };
}

/// Sleeps in the kernel while `*word == expected`, at most `timeout`; may return early.
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    let spec = timeout.map(to_timespec);
    let spec_ptr = spec
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref::<timespec>);
    let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: `word` and `spec` live across the call.
    unsafe { syscall!(libc::SYS_futex, word.as_ptr(), op, expected, spec_ptr) };
}

/// Wakes up to `count` kernel waiters of `word`.
pub fn futex_wake(word: &AtomicU32, count: i32) {
    let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the kernel only looks the address up; it need not even be mapped.
    unsafe { syscall!(libc::SYS_futex, word.as_ptr(), op, count) };
}

/// include/uapi/linux/membarrier.h
const MEMBARRIER_PRIVATE_EXPEDITED: c_int = 1 << 3;
const MEMBARRIER_REGISTER_PRIVATE_EXPEDITED: c_int = 1 << 4;
