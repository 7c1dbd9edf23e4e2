//! What the hooks cannot see holds the worker: calls that do not go through libc's names.
//!
//! The kernel tells: a worker that is held sleeps in the call; one whose coroutine is parked runs another.

#![expect(unsafe_code, reason = "calls the kernel and C's stdio by hand")]

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::{fs, io, thread};

use rpc_core::spawn;

use super::on_one_worker;

/// Who waits while a coroutine waits for a byte of a pipe.
#[derive(Debug, PartialEq)]
enum Waits {
    CoroutineAlone,
    WholeWorker,
}

/// Lets a coroutine read one byte of a pipe by `read`, with another ready to run.
fn who_waits(read: impl FnOnce(RawFd) -> u8 + Send + 'static) -> Waits {
    let (from, mut to) = io::pipe().unwrap();
    let fd = from.as_raw_fd();
    let worker = Arc::new(AtomicI64::new(0));
    let ran = Arc::new(AtomicBool::new(false));
    let watch = {
        let (worker, ran) = (Arc::clone(&worker), Arc::clone(&ran));
        thread::spawn(move || {
            let waits = loop {
                let other_ran = ran.load(Ordering::Acquire);
                if sleeps_in_read(worker.load(Ordering::Acquire), fd) {
                    break Waits::WholeWorker;
                }
                if other_ran {
                    break Waits::CoroutineAlone;
                }
            };
            to.write_all(b"!").unwrap();
            waits
        })
    };
    let byte = on_one_worker(move || {
        let reader = spawn(move || {
            // SAFETY: asks for a number. The symbol is not hooked to give another.
            worker.store(
                unsafe { libc::syscall(libc::SYS_gettid) },
                Ordering::Release,
            );
            read(fd)
        });
        let other = spawn(move || ran.store(true, Ordering::Release));
        other.join().unwrap();
        let byte = reader.join().unwrap();
        drop(from);
        byte
    });
    assert_eq!(byte, b'!');
    watch.join().unwrap()
}

/// Whether the kernel has `thread` waiting in read(`fd`).
fn sleeps_in_read(thread: i64, fd: RawFd) -> bool {
    if thread == 0 {
        return false;
    }
    let path = format!("/proc/self/task/{thread}/syscall");
    let said = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    said.starts_with(&format!("{} {fd:#x} ", libc::SYS_read))
}

#[test]
fn a_read_of_std_waits_alone() {
    let waits = who_waits(|fd| {
        // SAFETY: the pipe outlives the read; the file is not to close it.
        let mut pipe = std::mem::ManuallyDrop::new(unsafe { from_raw(fd) });
        let mut byte = [0];
        pipe.read_exact(&mut byte).unwrap();
        byte[0]
    });
    assert_eq!(waits, Waits::CoroutineAlone);
}

/// # Safety
/// - `fd` is open, and stays so.
unsafe fn from_raw(fd: RawFd) -> fs::File {
    // SAFETY: the caller's promise.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }
}

#[test]
fn stdio_of_c_holds_the_worker() {
    let waits = who_waits(|fd| {
        // SAFETY: an open descriptor; the stream is left open with it.
        let byte = unsafe { libc::fgetc(libc::fdopen(fd, c"r".as_ptr())) };
        u8::try_from(byte).unwrap()
    });
    assert_eq!(waits, Waits::WholeWorker);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn an_inline_system_call_holds_the_worker() {
    let waits = who_waits(|fd| {
        let mut byte = 0_u8;
        let mut result = libc::SYS_read;
        // SAFETY: read(fd, &byte, 1), as a library that avoids libc makes it.
        unsafe {
            std::arch::asm!("syscall", inlateout("rax") result, in("rdi") fd, in("rsi") &raw mut byte,
                in("rdx") 1, out("rcx") _, out("r11") _);
        }
        assert_eq!(result, 1);
        byte
    });
    assert_eq!(waits, Waits::WholeWorker);
}
