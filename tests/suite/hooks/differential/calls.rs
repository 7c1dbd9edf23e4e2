//! C functions under their C names: slices for pointers, errors by number.
//!
//! Knows: how each function is called.   Does not know: the programs.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use libc::{c_int, epoll_event, pollfd};

/// What a call returned, or `errno`.
pub(super) type Told = Result<isize, i32>;

pub(super) fn told(result: isize) -> Told {
    if result >= 0 {
        Ok(result)
    } else {
        Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }
}

/// The descriptor that a successful call made.
pub(super) fn owned(result: c_int) -> OwnedFd {
    assert!(result >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: just made, owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(result) }
}

pub(super) fn read(fd: RawFd, out: &mut [u8]) -> Told {
    // SAFETY: pointer and length describe `out`.
    told(unsafe { libc::read(fd, out.as_mut_ptr().cast(), out.len()) })
}

pub(super) fn write(fd: RawFd, data: &[u8]) -> Told {
    // SAFETY: pointer and length describe `data`.
    told(unsafe { libc::write(fd, data.as_ptr().cast(), data.len()) })
}

pub(super) fn recv(fd: RawFd, out: &mut [u8], flags: c_int) -> Told {
    // SAFETY: pointer and length describe `out`.
    told(unsafe { libc::recv(fd, out.as_mut_ptr().cast(), out.len(), flags) })
}

pub(super) fn send(fd: RawFd, data: &[u8], flags: c_int) -> Told {
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: pointer and length describe `data`.
    told(unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), flags) })
}

pub(super) fn accept(fd: RawFd) -> Told {
    let (none, nowhere) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: no address is asked for.
    told(unsafe { libc::accept(fd, none, nowhere) } as isize)
}

/// The bytes a receive gave, as text, or `errno`.
pub(super) fn text(room: usize, receive: impl FnOnce(&mut [u8]) -> Told) -> Result<String, i32> {
    let mut out = vec![0; room];
    let n = receive(&mut out)?;
    out.truncate(n as usize);
    Ok(String::from_utf8_lossy(&out).into_owned())
}

pub(super) fn fcntl(fd: RawFd, command: c_int, argument: c_int) -> Told {
    // SAFETY: commands whose argument is a number.
    told(unsafe { libc::fcntl(fd, command, argument) } as isize)
}

/// Whether the program sees O_NONBLOCK.
pub(super) fn is_nonblocking(fd: RawFd) -> bool {
    fcntl(fd, libc::F_GETFL, 0).unwrap() as c_int & libc::O_NONBLOCK != 0
}

/// `ioctl` with an int in and out.
pub(super) fn ioctl(fd: RawFd, request: libc::Ioctl, value: &mut c_int) -> Told {
    let place = std::ptr::from_mut(value);
    // SAFETY: requests that read or write one int.
    told(unsafe { libc::ioctl(fd, request, place) } as isize)
}

pub(super) fn set_option(fd: RawFd, level: c_int, option: c_int, value: c_int) -> Told {
    let (place, size) = ((&raw const value).cast(), size_of::<c_int>() as u32);
    // SAFETY: the value lives across the call.
    told(unsafe { libc::setsockopt(fd, level, option, place, size) } as isize)
}

pub(super) fn option(fd: RawFd, level: c_int, option: c_int) -> Result<c_int, i32> {
    let (mut value, mut size): (c_int, _) = (0, size_of::<c_int>() as u32);
    let (place, size) = ((&raw mut value).cast(), &raw mut size);
    // SAFETY: both places live across the call.
    told(unsafe { libc::getsockopt(fd, level, option, place, size) } as isize)?;
    Ok(value)
}

/// SO_RCVTIMEO or SO_SNDTIMEO.
pub(super) fn set_timeout(fd: RawFd, option: c_int, limit: Duration) {
    let value = libc::timeval {
        tv_sec: limit.as_secs() as _,
        tv_usec: limit.subsec_micros().into(),
    };
    let (place, size) = ((&raw const value).cast(), size_of_val(&value) as u32);
    // SAFETY: the value lives across the call.
    let done = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, place, size) };
    assert_eq!(done, 0);
}

pub(super) fn listen(fd: RawFd, backlog: c_int) -> Told {
    // SAFETY: takes numbers.
    told(unsafe { libc::listen(fd, backlog) } as isize)
}

pub(super) fn shutdown(fd: RawFd, how: c_int) -> Told {
    // SAFETY: takes numbers.
    told(unsafe { libc::shutdown(fd, how) } as isize)
}

pub(super) fn entry(fd: RawFd, events: i16) -> pollfd {
    pollfd {
        fd,
        events,
        revents: 0,
    }
}

/// `poll`; the result, and what happened on each.
pub(super) fn poll<const N: usize>(
    mut entries: [pollfd; N],
    millis: c_int,
) -> (Result<isize, i32>, [i16; N]) {
    // SAFETY: pointer and length describe `entries`.
    let result = unsafe { libc::poll(entries.as_mut_ptr(), N as libc::nfds_t, millis) };
    (told(result as isize), entries.map(|e| e.revents))
}

/// Returns once there is something to read; what a program does next does not wait for it.
pub(super) fn until_readable(fd: RawFd) {
    assert_eq!(poll([entry(fd, libc::POLLIN)], 20_000).0, Ok(1));
}

pub(super) fn epoll_create() -> OwnedFd {
    // SAFETY: takes no pointers.
    owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
}

pub(super) fn epoll_ctl(epoll: RawFd, operation: c_int, fd: RawFd, events: i32, mark: u64) -> Told {
    let mut event = epoll_event {
        events: events as u32,
        u64: mark,
    };
    // SAFETY: the event lives across the call.
    told(unsafe { libc::epoll_ctl(epoll, operation, fd, &raw mut event) } as isize)
}

/// `epoll_wait` with room for eight; marks and events, sorted.
pub(super) fn epoll_wait(epoll: RawFd, millis: c_int) -> Result<Vec<(u64, u32)>, i32> {
    let mut events = [epoll_event { events: 0, u64: 0 }; 8];
    // SAFETY: room for eight events.
    let result = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), 8, millis) };
    let n = told(result as isize)? as usize;
    let mut found: Vec<_> = events[..n].iter().map(|e| (e.u64, e.events)).collect();
    found.sort_unstable();
    Ok(found)
}

pub(super) fn eventfd(initial: u32, flags: c_int) -> OwnedFd {
    // SAFETY: takes no pointers.
    owned(unsafe { libc::eventfd(initial, flags) })
}

/// The eight bytes of an eventfd or timerfd.
pub(super) fn read_number(fd: RawFd) -> Result<u64, i32> {
    let mut value = [0; 8];
    read(fd, &mut value)?;
    Ok(u64::from_ne_bytes(value))
}

pub(super) fn write_number(fd: RawFd, value: u64) -> Told {
    write(fd, &value.to_ne_bytes())
}

/// A local path as C takes it.
pub(super) fn c_path(path: &std::path::Path) -> std::ffi::CString {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// A child that does `work`, which may call only what a forked process may. Its process number.
pub(super) fn fork(work: impl FnOnce() -> c_int) -> libc::pid_t {
    // SAFETY: the child runs `work` and leaves by `_exit`.
    match unsafe { libc::fork() } {
        0 => {
            let code = work();
            // SAFETY: ends the child alone.
            unsafe { libc::_exit(code) }
        }
        pid => {
            assert!(pid > 0, "{}", std::io::Error::last_os_error());
            pid
        }
    }
}

/// `waitpid`; result and raw status.
pub(super) fn waitpid(pid: libc::pid_t, options: c_int) -> (Told, c_int) {
    let mut status = 0;
    // SAFETY: a place for the status.
    let result = unsafe { libc::waitpid(pid, &raw mut status, options) };
    (told(result as isize), status)
}
