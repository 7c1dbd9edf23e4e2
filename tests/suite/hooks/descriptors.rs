//! Books about descriptors: close, dup, numbers used again, pipes and event descriptors.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rpc_core::spawn;

use super::{let_others_run, on_one_worker, pattern, tcp_pair};

#[test]
fn closing_a_descriptor_wakes_its_waiter_with_ebadf() {
    let errors = on_one_worker(|| {
        let (near, _far) = tcp_pair();
        let fd = near.as_raw_fd();
        let reader = spawn(move || read_errno(fd));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listening = listener.as_raw_fd();
        let acceptor = spawn(move || {
            let none = std::ptr::null_mut();
            // SAFETY: no address is asked for.
            let result = unsafe { libc::accept(listening, none, std::ptr::null_mut()) };
            assert_eq!(result, -1);
            last_errno()
        });
        let_others_run();
        drop(near);
        drop(listener);
        [reader.join().unwrap(), acceptor.join().unwrap()]
    });
    assert_eq!(errors, [libc::EBADF; 2]);
}

#[test]
fn a_waiter_does_not_read_from_the_next_file_of_its_number() {
    on_one_worker(|| {
        let (near, _far) = tcp_pair();
        let (other, mut other_far) = tcp_pair();
        let fd = near.as_raw_fd();
        let reader = spawn(move || read_errno(fd));
        let_others_run();
        // SAFETY: both are open; the old file of `near`'s number ends here.
        assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), fd) }, fd);
        other_far.write_all(b"not yours").unwrap();
        assert_eq!(reader.join().unwrap(), libc::EBADF);
        let mut text = [0; 9];
        (&near).read_exact(&mut text).unwrap();
        assert_eq!(&text, b"not yours");
    });
}

#[test]
fn a_dup_keeps_working_after_the_first_is_closed() {
    on_one_worker(|| {
        let (near, mut far) = tcp_pair();
        let mut twin = near.try_clone().unwrap();
        let reader = spawn(move || {
            let mut text = [0; 4];
            twin.read_exact(&mut text).unwrap();
            text
        });
        let_others_run();
        drop(near);
        far.write_all(b"twin").unwrap();
        assert_eq!(&reader.join().unwrap(), b"twin");
    });
}

#[test]
fn closing_one_of_two_dups_wakes_those_who_wait_on_its_number() {
    on_one_worker(|| {
        let (near, mut far) = tcp_pair();
        let mut twin = near.try_clone().unwrap();
        let fd = near.as_raw_fd();
        let on_near = spawn(move || read_errno(fd));
        let on_twin = spawn(move || {
            let mut text = [0; 4];
            twin.read_exact(&mut text).unwrap();
            text
        });
        let_others_run();
        drop(near);
        assert_eq!(on_near.join().unwrap(), libc::EBADF);
        far.write_all(b"twin").unwrap();
        assert_eq!(&on_twin.join().unwrap(), b"twin");
    });
}

#[test]
fn a_file_lock_is_waited_for_without_holding_the_worker() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    on_one_worker(move || {
        let first = File::create(&path).unwrap();
        let second = File::open(&path).unwrap();
        first.lock().unwrap();
        let waiter = spawn(move || second.lock().unwrap());
        let_others_run();
        assert!(!waiter.is_finished());
        first.unlock().unwrap();
        waiter.join().unwrap();
    });
}

#[test]
fn dups_share_the_wish_not_to_block() {
    on_one_worker(|| {
        let (near, _far) = tcp_pair();
        let mut twin = near.try_clone().unwrap();
        near.set_nonblocking(true).unwrap();
        let kind = twin.read(&mut [0; 4]).unwrap_err().kind();
        assert_eq!(kind, std::io::ErrorKind::WouldBlock);
    });
}

#[test]
fn a_number_closed_behind_our_back_starts_anew() {
    on_one_worker(|| {
        for round in 0..20_u8 {
            let (near, far) = tcp_pair();
            let fd = near.as_raw_fd();
            let reader = spawn(move || {
                let mut byte = [0];
                (&near).read_exact(&mut byte).unwrap();
                (near, byte[0])
            });
            let_others_run();
            (&far).write_all(&[round]).unwrap();
            let (near, byte) = reader.join().unwrap();
            assert_eq!(byte, round);
            std::mem::forget(near);
            raw_close(fd);
            // The lowest free number again, as another kind of file, and used at once.
            let (mut reader, mut writer) = std::io::pipe().unwrap();
            let echo = spawn(move || {
                let mut byte = [0];
                reader.read_exact(&mut byte).unwrap();
                byte[0]
            });
            let_others_run();
            writer.write_all(&[round]).unwrap();
            assert_eq!(echo.join().unwrap(), round);
        }
    });
}

/// Closes by the bare instruction, as io_uring or a library's own assembly would.
fn raw_close(fd: RawFd) {
    // SAFETY: the number is open and owned by nobody any more; rcx and r11 are clobbered.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") libc::SYS_close => _, in("rdi") fd as isize,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    // SAFETY: as above.
    #[cfg(not(target_arch = "x86_64"))]
    unsafe {
        libc::syscall(libc::SYS_close, fd);
    }
}

#[test]
fn pipes_carry_more_than_they_hold() {
    let ok = on_one_worker(|| {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let data = pattern(1 << 20);
        let expected = data.clone();
        let sender = spawn(move || writer.write_all(&data).unwrap());
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        sender.join().unwrap();
        all == expected
    });
    assert!(ok);
}

#[test]
fn a_fifo_of_the_file_system_waits_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    let ok = on_one_worker(move || {
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: a C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        // Opened for both at first, so that neither open waits for the other.
        let both = File::options().read(true).write(true).open(&path).unwrap();
        let mut reader = File::open(&path).unwrap();
        let mut writer = File::options().write(true).open(&path).unwrap();
        drop(both);
        let data = pattern(300_000);
        let expected = data.clone();
        let sender = spawn(move || writer.write_all(&data).unwrap());
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        sender.join().unwrap();
        all == expected
    });
    assert!(ok);
}

#[test]
fn a_reader_that_never_waits_lets_others_run() {
    let rounds = on_one_worker(|| {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let greedy = spawn(move || {
            let mut zeros = File::open("/dev/zero").unwrap();
            let mut rounds = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                zeros.read_exact(&mut [0; 8]).unwrap();
                rounds += 1;
            }
            rounds
        });
        let_others_run();
        stop.store(true, Ordering::Relaxed);
        greedy.join().unwrap()
    });
    assert!(rounds > 0);
}

#[test]
fn eventfd_and_timerfd_wait_for_the_coroutine_alone() {
    let (count, ticks) = on_one_worker(|| {
        // SAFETY: takes no pointers.
        let event = owned(unsafe { libc::eventfd(0, 0) });
        let fd = event.as_raw_fd();
        let waiter = spawn(move || read_u64(fd));
        let_others_run();
        let mut file = File::from(event.try_clone().unwrap());
        file.write_all(&5_u64.to_ne_bytes()).unwrap();
        let count = waiter.join().unwrap();
        // SAFETY: takes no pointers.
        let timer = owned(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, 0) });
        // SAFETY: zero is a valid empty time.
        let mut when: libc::itimerspec = unsafe { std::mem::zeroed() };
        when.it_value.tv_nsec = 2_000_000;
        let (fd, none) = (timer.as_raw_fd(), std::ptr::null_mut());
        // SAFETY: the setting lives across the call.
        let set = unsafe { libc::timerfd_settime(fd, 0, &raw const when, none) };
        assert_eq!(set, 0);
        (count, read_u64(fd))
    });
    assert_eq!((count, ticks), (5, 1));
}

fn owned(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0);
    // SAFETY: just made, owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn read_u64(fd: RawFd) -> u64 {
    let mut value = 0_u64;
    let place = &raw mut value;
    // SAFETY: eight bytes at `value`.
    assert_eq!(unsafe { libc::read(fd, place.cast(), 8) }, 8);
    value
}

fn read_errno(fd: RawFd) -> i32 {
    let mut byte = 0_u8;
    let place = &raw mut byte;
    // SAFETY: one byte at `byte`.
    let n = unsafe { libc::read(fd, place.cast(), 1) };
    assert_eq!(n, -1, "the read should have failed");
    last_errno()
}

fn last_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

#[test]
fn descriptors_made_before_the_runtime_are_found_out_about() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let (byte, text) = on_one_worker(move || {
        let server = spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut text = String::new();
            peer.read_to_string(&mut text).unwrap();
            text
        });
        let piped = spawn(move || {
            let mut byte = [0];
            reader.read_exact(&mut byte).unwrap();
            byte[0]
        });
        let_others_run();
        TcpStream::connect(address)
            .unwrap()
            .write_all(b"found")
            .unwrap();
        writer.write_all(b"!").unwrap();
        (piped.join().unwrap(), server.join().unwrap())
    });
    assert_eq!((byte, text.as_str()), (b'!', "found"));
}
