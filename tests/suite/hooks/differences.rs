//! The intended differences from an OS thread that no other test here is about; the table on the front page
//! of `hook/` names a test in each row.
//!
//! What ends or bends the process runs in a child: this binary again, told by [`ROLE`] to go on.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rpc_core::{Runtime, spawn};

use super::{end_if_it_hangs, let_others_run, on_one_worker};

/// Set in a child.
const ROLE: &str = "SUITE_DIFFERENCES_ROLE";

/// Runs the test `name` alone in a process of its own; `None` in that process.
fn child(name: &str) -> Option<Output> {
    if std::env::var_os(ROLE).is_some() {
        return None;
    }
    let mut command = Command::new(std::env::current_exe().expect("a test knows its binary"));
    command.args([
        &format!("hooks::differences::{name}"),
        "--exact",
        "--nocapture",
    ]);
    Some(command.env(ROLE, "child").output().unwrap())
}

#[test]
fn a_bad_pointer_to_a_futex_word_is_followed() {
    let Some(output) = child("a_bad_pointer_to_a_futex_word_is_followed") else {
        on_one_worker(|| {
            let (bad, operation) = (64_usize, libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG);
            // SAFETY: none; it is to end the process.
            unsafe { libc::syscall(libc::SYS_futex, bad, operation, 0, 0) }
        });
        return;
    };
    // Not EFAULT: the coroutine itself reads the word.
    let signal = output.status.signal();
    assert!(
        signal == Some(libc::SIGSEGV) || signal == Some(libc::SIGABRT),
        "{output:?}"
    );
}

#[test]
fn a_pthread_cancellation_request_does_not_end_a_parked_call() {
    let Some(output) = child("a_pthread_cancellation_request_does_not_end_a_parked_call") else {
        on_one_worker(|| {
            let (near, far) = super::tcp_pair();
            let reader = spawn(move || {
                // SAFETY: asks for the caller's own end at its next cancellation point.
                unsafe { pthread_cancel(libc::pthread_self()) };
                let mut byte = [0_u8];
                // SAFETY: one byte at `byte`.
                let n = unsafe { libc::recv(far.as_raw_fd(), byte.as_mut_ptr().cast(), 1, 0) };
                println!("went on with {n}");
                // The request stands: nothing else may run here.
                // SAFETY: ends this process.
                unsafe { libc::_exit(7) };
            });
            let_others_run();
            (&near).write_all(b"x").unwrap();
            reader.join().unwrap();
        });
        return;
    };
    assert_eq!(output.status.code(), Some(7), "{output:?}");
}

unsafe extern "C" {
    fn pthread_cancel(thread: libc::pthread_t) -> libc::c_int;
}

#[test]
fn only_a_listener_made_here_is_made_non_blocking_unseen() {
    on_one_worker(|| {
        let ours = TcpListener::bind("127.0.0.1:0").unwrap();
        // As if inherited: no hook saw it made.
        let (kind, stream) = (libc::AF_INET, libc::SOCK_STREAM);
        // SAFETY: takes numbers; the descriptor is new.
        let foreign = unsafe {
            let fd = libc::syscall(libc::SYS_socket, kind, stream, 0) as RawFd;
            assert_eq!(libc::listen(fd, 4), 0);
            TcpListener::from(OwnedFd::from_raw_fd(fd))
        };
        for (listener, hidden) in [(&ours, true), (&foreign, false)] {
            let address = listener.local_addr().unwrap();
            let port = address.port();
            let client = spawn(move || TcpStream::connect(("127.0.0.1", port)).unwrap());
            listener.accept().unwrap();
            client.join().unwrap();
            // SAFETY: asks for flags.
            let seen = unsafe { libc::fcntl(listener.as_raw_fd(), libc::F_GETFL) };
            assert_eq!(seen & libc::O_NONBLOCK, 0);
            assert_eq!(
                kernel_flags(listener.as_raw_fd()) & libc::O_NONBLOCK != 0,
                hidden
            );
        }
    });
}

/// The flags as the kernel has them.
fn kernel_flags(fd: RawFd) -> i32 {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("flags:"));
    i32::from_str_radix(line.unwrap().trim(), 8).unwrap()
}

/// [`on_one_worker`], and no other thread steps in for a worker that is held up.
fn on_one_thread<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let watched = end_if_it_hangs();
    let runtime = Runtime::builder()
        .workers(1)
        .rescue_after(Duration::from_secs(3600))
        .build()
        .expect("this machine can run coroutines");
    let value = runtime.block_on(f);
    drop(watched);
    value
}

#[test]
fn a_fast_open_waits_in_the_kernel() {
    let (errno, others_ran) = on_one_thread(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // SAFETY: a listener; its queue now holds one, and the kernel lets the next knock in vain.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let address = listener.local_addr().unwrap();
        let _first = TcpStream::connect(address).unwrap();
        // SAFETY: takes numbers; the descriptor is new.
        let socket = unsafe {
            TcpStream::from(OwnedFd::from_raw_fd(libc::socket(
                libc::AF_INET,
                libc::SOCK_STREAM,
                0,
            )))
        };
        socket
            .set_write_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let ran = Arc::new(AtomicBool::new(false));
        let other = Arc::clone(&ran);
        let other = spawn(move || other.store(true, Ordering::Relaxed));
        let to = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr {
                s_addr: u32::from_ne_bytes([127, 0, 0, 1]),
            },
            sin_zero: [0; 8],
        };
        let (place, size) = ((&raw const to).cast(), size_of_val(&to) as u32);
        let (fd, data) = (socket.as_raw_fd(), b"x".as_ptr().cast());
        // SAFETY: one byte, and an address that lives across the call.
        let sent = unsafe { libc::sendto(fd, data, 1, libc::MSG_FASTOPEN, place, size) };
        assert_eq!(sent, -1);
        let errno = std::io::Error::last_os_error().raw_os_error();
        let ran = ran.load(Ordering::Relaxed);
        other.join().unwrap();
        (errno, ran)
    });
    assert_eq!((errno, others_ran), (Some(libc::EINPROGRESS), false));
}

#[test]
fn a_wrong_write_to_a_full_eventfd_waits_for_room_first() {
    let errno = on_one_worker(|| {
        // SAFETY: takes no pointers; the descriptor is new.
        let event = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, 0)) };
        let fd = event.as_raw_fd();
        let write = move |value: u64| {
            // SAFETY: eight bytes.
            match unsafe { libc::write(fd, value.to_ne_bytes().as_ptr().cast(), 8) } {
                -1 => std::io::Error::last_os_error().raw_os_error(),
                _ => None,
            }
        };
        assert_eq!(write(u64::MAX - 1), None);
        let wrong = spawn(move || write(u64::MAX));
        let_others_run();
        assert!(!wrong.is_finished());
        let mut value = [0_u8; 8];
        // SAFETY: room for eight bytes.
        assert_eq!(unsafe { libc::read(fd, value.as_mut_ptr().cast(), 8) }, 8);
        wrong.join().unwrap()
    });
    assert_eq!(errno, Some(libc::EINVAL));
}

#[test]
fn a_process_shared_lock_holds_the_worker() {
    // SAFETY: zero is a valid mutex and a valid place for settings.
    let mutex: &'static mut libc::pthread_mutex_t =
        Box::leak(Box::new(unsafe { std::mem::zeroed() }));
    let address = std::ptr::from_mut(mutex).expose_provenance();
    let mutex = move || std::ptr::with_exposed_provenance_mut::<libc::pthread_mutex_t>(address);
    // SAFETY: as above; the mutex is never freed.
    unsafe {
        let mut settings: libc::pthread_mutexattr_t = std::mem::zeroed();
        libc::pthread_mutexattr_init(&raw mut settings);
        libc::pthread_mutexattr_setpshared(&raw mut settings, libc::PTHREAD_PROCESS_SHARED);
        assert_eq!(libc::pthread_mutex_init(mutex(), &raw const settings), 0);
    }
    let (locked, is_locked) = std::sync::mpsc::channel();
    let holder = std::thread::spawn(move || {
        // SAFETY: a mutex that lives for ever.
        unsafe {
            assert_eq!(libc::pthread_mutex_lock(mutex()), 0);
            locked.send(()).unwrap();
            // Long enough for another coroutine to run, were the worker free.
            libc::usleep(3_000);
            assert_eq!(libc::pthread_mutex_unlock(mutex()), 0);
        }
    });
    is_locked.recv().unwrap();
    let others_ran = on_one_thread(move || {
        let ran = Arc::new(AtomicBool::new(false));
        let other = Arc::clone(&ran);
        let other = spawn(move || other.store(true, Ordering::Relaxed));
        // SAFETY: as above.
        unsafe { assert_eq!(libc::pthread_mutex_lock(mutex()), 0) };
        let ran = ran.load(Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { assert_eq!(libc::pthread_mutex_unlock(mutex()), 0) };
        other.join().unwrap();
        ran
    });
    holder.join().unwrap();
    assert!(!others_ran);
}
