//! Rare calls and rare states: urgent data, low-water marks, full queues, passed descriptors, batches.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rpc_core::{Deadline, spawn};

use super::{let_others_run, on_one_worker, tcp_pair};

#[test]
fn a_read_that_stops_at_urgent_data_is_not_taken_for_the_last() {
    let text = on_one_worker(|| {
        let (near, mut far) = tcp_pair();
        let reader = spawn(move || {
            let mut text = Vec::new();
            while text.len() < 5 {
                let mut part = [0; 64];
                let n = far.read(&mut part).unwrap();
                text.extend_from_slice(&part[..n]);
            }
            text
        });
        let_others_run();
        (&near).write_all(b"abc").unwrap();
        // SAFETY: one byte.
        let sent = unsafe { libc::send(near.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) };
        assert_eq!(sent, 1);
        (&near).write_all(b"ef").unwrap();
        reader.join().unwrap()
    });
    assert_eq!(text, b"abcef");
}

#[test]
fn a_read_waits_for_the_low_water_mark() {
    let first = on_one_worker(|| {
        let (mut near, mut far) = tcp_pair();
        set_option(far.as_raw_fd(), libc::SO_RCVLOWAT, 6);
        let reader = spawn(move || {
            let mut part = [0; 64];
            far.read(&mut part).unwrap()
        });
        for part in [&b"ab"[..], b"cd", b"ef"] {
            let_others_run();
            assert!(!reader.is_finished());
            near.write_all(part).unwrap();
        }
        reader.join().unwrap()
    });
    assert_eq!(first, 6);
}

fn set_option(fd: RawFd, option: i32, value: i32) {
    let size = size_of::<i32>() as libc::socklen_t;
    let place = &raw const value;
    // SAFETY: the option's value lives across the call.
    let done = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, place.cast(), size) };
    assert_eq!(done, 0);
}

#[test]
fn a_full_unix_listener_holds_the_next_client_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small");
    on_one_worker(move || {
        let listener = UnixListener::bind(&path).unwrap();
        // SAFETY: a listener; its queue now holds one.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let path = path.clone();
                spawn(move || UnixStream::connect(path).map(drop))
            })
            .collect();
        let_others_run();
        for _ in 0..4 {
            listener.accept().unwrap();
        }
        clients.into_iter().for_each(|c| c.join().unwrap().unwrap());
    });
}

#[test]
fn a_deadline_cuts_a_connect_that_nobody_answers() {
    let kind = on_one_worker(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // SAFETY: a listener; its queue now holds one, and the kernel lets the next knock in vain.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let address = listener.local_addr().unwrap();
        let _first = TcpStream::connect(address).unwrap();
        Deadline::within(Duration::from_millis(5), || {
            TcpStream::connect(address).unwrap_err().kind()
        })
    });
    assert_eq!(kind, std::io::ErrorKind::TimedOut);
}

#[test]
fn a_descriptor_passed_along_is_asked_about_anew() {
    let text = on_one_worker(|| {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut writer, reader) = UnixStream::pair().unwrap();
        let receiver = spawn(move || receive_descriptor(far.as_raw_fd()));
        let_others_run();
        send_descriptor(near.as_raw_fd(), reader.as_raw_fd());
        let mut passed = UnixStream::from(receiver.join().unwrap());
        drop(reader);
        let heard = spawn(move || {
            let mut text = String::new();
            passed.read_to_string(&mut text).unwrap();
            text
        });
        let_others_run();
        writer.write_all(b"through the copy").unwrap();
        drop(writer);
        heard.join().unwrap()
    });
    assert_eq!(text, "through the copy");
}

/// Room for one descriptor, aligned as control data wants it.
#[repr(align(8))]
struct Control([u8; 64]);

/// One byte of data with room for control data.
fn message(part: &mut libc::iovec, control: &mut Control, room: usize) -> libc::msghdr {
    // SAFETY: zero is a valid empty header.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = room;
    message
}

pub(super) fn send_descriptor(through: RawFd, passed: RawFd) {
    let mut byte = [7_u8];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = Control([0; 64]);
    // SAFETY: arithmetic on sizes.
    let room = unsafe { libc::CMSG_SPACE(4) } as usize;
    let message = message(&mut part, &mut control, room);
    // SAFETY: the control buffer has room for one descriptor.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write(passed);
        libc::sendmsg(through, &raw const message, 0)
    };
    assert_eq!(sent, 1);
}

pub(super) fn receive_descriptor(through: RawFd) -> OwnedFd {
    let mut byte = [0_u8];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = Control([0; 64]);
    let mut message = message(&mut part, &mut control, 64);
    // SAFETY: the header describes local buffers; on success it holds one descriptor.
    unsafe {
        assert_eq!(libc::recvmsg(through, &raw mut message, 0), 1);
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read())
    }
}

#[test]
fn batches_of_messages_are_filled_to_the_last() {
    let lengths = on_one_worker(|| {
        let inbox = UdpSocket::bind("127.0.0.1:0").unwrap();
        let outbox = UdpSocket::bind("127.0.0.1:0").unwrap();
        outbox.connect(inbox.local_addr().unwrap()).unwrap();
        let fd = inbox.as_raw_fd();
        let receiver = spawn(move || {
            batch(fd, 6, |fd, messages, count| {
                // SAFETY: `count` messages that describe local buffers.
                unsafe { libc::recvmmsg(fd, messages, count, 0, std::ptr::null_mut()) }
            })
        });
        let_others_run();
        let fd = outbox.as_raw_fd();
        for count in [2, 4] {
            let sent = batch(fd, count, |fd, messages, count| {
                // SAFETY: as above.
                unsafe { libc::sendmmsg(fd, messages, count, 0) }
            });
            assert_eq!(sent.len(), count);
            let_others_run();
        }
        receiver.join().unwrap()
    });
    assert_eq!(lengths, [3; 6]);
}

/// Calls with `count` messages of three bytes each; the lengths of those that went through.
fn batch(
    fd: RawFd,
    count: usize,
    call: impl FnOnce(RawFd, *mut libc::mmsghdr, u32) -> i32,
) -> Vec<u32> {
    let mut buffers = vec![[1_u8; 3]; count];
    let mut parts: Vec<_> = buffers
        .iter_mut()
        .map(|b| libc::iovec {
            iov_base: b.as_mut_ptr().cast(),
            iov_len: 3,
        })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: zero is a valid empty header.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let done = call(fd, messages.as_mut_ptr(), count as u32);
    messages.truncate(usize::try_from(done).expect("the call succeeds"));
    messages.iter().map(|m| m.msg_len).collect()
}
