//! Datagrams: UDP and Unix.

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::super::pattern;
use super::calls::{self, recv, send};
use super::{Story, pause, told};

const SOON: Duration = Duration::from_millis(4);

/// A socket and one connected to it.
fn udp_pair() -> (UdpSocket, UdpSocket) {
    let inbox = UdpSocket::bind("127.0.0.1:0").unwrap();
    let outbox = UdpSocket::bind("127.0.0.1:0").unwrap();
    outbox.connect(inbox.local_addr().unwrap()).unwrap();
    (inbox, outbox)
}

pub(super) fn bounds(story: &mut Story) {
    let (inbox, outbox) = udp_pair();
    let sender = story.spawn(move || {
        for size in [0, 1, 7, 8, 20] {
            pause();
            outbox.send(&pattern(size)).unwrap();
        }
        outbox
    });
    for _ in 0..5 {
        story.tell("got", told(inbox.recv(&mut [0; 8])));
    }
    let (near, far) = UnixDatagram::pair().unwrap();
    for size in [3, 5, 0, 9] {
        near.send(&pattern(size)).unwrap();
    }
    for _ in 0..4 {
        story.tell("local", told(far.recv(&mut [0; 6])));
    }
    let from = sender().local_addr().unwrap();
    (0..2).for_each(|_| drop(inbox.send_to(b"back", from)));
    story.tell("too long", send(inbox.as_raw_fd(), &[0; 4], 0));
}

pub(super) fn bursts(story: &mut Story) {
    let (inbox, outbox) = udp_pair();
    inbox.connect(outbox.local_addr().unwrap()).unwrap();
    let receivers: Vec<_> = (0..4)
        .map(|_| {
            let inbox = inbox.try_clone().unwrap();
            story.spawn(move || {
                let mut sum = 0_u64;
                let mut number = [0; 8];
                // An empty one is the sign to go home.
                while inbox.recv(&mut number).unwrap() == 8 {
                    sum += u64::from_le_bytes(number);
                    inbox.send(b"+").unwrap();
                }
                sum
            })
        })
        .collect();
    for burst in 0..30_u64 {
        for i in 0..20 {
            outbox.send(&(burst * 20 + i).to_le_bytes()).unwrap();
        }
        // One edge for many datagrams: all must be taken before the next burst.
        for _ in 0..20 {
            outbox.recv(&mut [0; 1]).unwrap();
        }
    }
    receivers.iter().for_each(|_| drop(outbox.send(&[])));
    let sum: u64 = receivers.into_iter().map(|join| join()).sum();
    story.tell("sum of all", sum);
}

pub(super) fn unix_queue(story: &mut Story) {
    let (near, far) = UnixDatagram::pair().unwrap();
    let sender = story
        .spawn(move || (0..200_u32).all(|i| near.send(&i.to_le_bytes()).unwrap_or_default() == 4));
    let mut in_order = 0;
    for i in 0..200_u32 {
        if i.is_multiple_of(50) {
            pause();
        }
        let mut number = [0; 4];
        far.recv(&mut number).unwrap();
        in_order += usize::from(u32::from_le_bytes(number) == i);
    }
    story.tell("in order", in_order);
    story.tell("all sent", sender());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inbox");
    let inbox = UnixDatagram::bind(&path).unwrap();
    let sender = story.spawn(move || {
        let outbox = UnixDatagram::unbound().unwrap();
        (0..60).all(|_| outbox.send_to(b"unconnected", &path).is_ok())
    });
    pause();
    let lengths: usize = (0..60).map(|_| inbox.recv(&mut [0; 32]).unwrap()).sum();
    story.tell("unconnected", (lengths, sender()));
    inbox.set_nonblocking(true).unwrap();
    story.tell("empty", told(inbox.recv(&mut [0; 4])));
}

pub(super) fn refused_later(story: &mut Story) {
    let (inbox, outbox) = udp_pair();
    drop(inbox);
    story.tell("sent", told(outbox.send(b"anybody?")));
    story.tell("answer", told(outbox.recv(&mut [0; 8])));
    outbox.set_read_timeout(Some(SOON)).unwrap();
    story.tell("then", told(outbox.recv(&mut [0; 8])));
    let folder = tempfile::tempdir().unwrap();
    let outbox = UnixDatagram::unbound().unwrap();
    let nobody = outbox.send_to(b"x", folder.path().join("nobody"));
    story.tell("local", told(nobody));
    story.tell("not connected", told(outbox.send(b"x")));
}

pub(super) fn truncation(story: &mut Story) {
    let (inbox, outbox) = udp_pair();
    let fd = inbox.as_raw_fd();
    outbox.send(&pattern(20)).unwrap();
    let look = libc::MSG_PEEK;
    story.tell("peek", recv(fd, &mut [0; 4], look));
    story.tell("true length", recv(fd, &mut [0; 4], look | libc::MSG_TRUNC));
    story.tell("all", recv(fd, &mut [0; 64], libc::MSG_WAITALL));
    outbox.send(&pattern(20)).unwrap();
    let mut byte = [0_u8; 8];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 8,
    };
    // SAFETY: zero is a valid empty header.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    // SAFETY: header and buffer live across the call.
    let got = calls::told(unsafe { libc::recvmsg(fd, &raw mut message, 0) });
    let cut = message.msg_flags & libc::MSG_TRUNC != 0;
    story.tell("cut", (got, cut));
    outbox.send(b"seen").unwrap();
    let (length, from) = inbox.recv_from(&mut [0; 8]).unwrap();
    let known = from == outbox.local_addr().unwrap();
    story.tell("from", (length, known));
}

pub(super) fn batches(story: &mut Story) {
    let (inbox, outbox) = udp_pair();
    let fd = outbox.as_raw_fd();
    let sender = story.spawn(move || {
        let sent: Vec<_> = [2, 4]
            .into_iter()
            .map(|count| {
                pause();
                batch(fd, count, |fd, messages, count| {
                    // SAFETY: `count` messages that describe local buffers.
                    unsafe { libc::sendmmsg(fd, messages, count, 0) }
                })
            })
            .collect();
        (sent, outbox)
    });
    let fd = inbox.as_raw_fd();
    let all = batch(fd, 6, |fd, messages, count| {
        // SAFETY: as above.
        unsafe { libc::recvmmsg(fd, messages, count, 0, std::ptr::null_mut()) }
    });
    story.tell("received", all);
    let (sent, outbox) = sender();
    story.tell("sent", sent);
    outbox.send(b"one").unwrap();
    let one = batch(fd, 4, |fd, messages, count| {
        let flags = libc::MSG_WAITFORONE;
        // SAFETY: as above.
        unsafe { libc::recvmmsg(fd, messages, count, flags, std::ptr::null_mut()) }
    });
    story.tell("one is enough", one);
    calls::set_timeout(fd, libc::SO_RCVTIMEO, SOON);
    outbox.send(b"two").unwrap();
    let cut = batch(fd, 4, |fd, messages, count| {
        // SAFETY: as above.
        unsafe { libc::recvmmsg(fd, messages, count, 0, std::ptr::null_mut()) }
    });
    story.tell("cut by the socket's timeout", cut);
}

/// Calls with `count` messages of three bytes each; the lengths of those that went through.
fn batch(
    fd: RawFd,
    count: usize,
    call: impl FnOnce(RawFd, *mut libc::mmsghdr, u32) -> i32,
) -> Result<Vec<u32>, i32> {
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
    let done = calls::told(call(fd, messages.as_mut_ptr(), count as u32) as isize)?;
    messages.truncate(done as usize);
    Ok(messages.iter().map(|m| m.msg_len).collect())
}

pub(super) fn timeouts(story: &mut Story) {
    let (inbox, outbox) = udp_pair();
    inbox.set_read_timeout(Some(SOON)).unwrap();
    story.tell("nothing", told(inbox.recv(&mut [0; 8])));
    story.tell("nobody", told(inbox.recv_from(&mut [0; 8]).map(|(n, _)| n)));
    outbox.send(b"there").unwrap();
    story.tell("there", told(inbox.recv(&mut [0; 8])));
    inbox.set_read_timeout(None).unwrap();
    let twin = inbox.try_clone().unwrap();
    let late = story.spawn(move || {
        std::thread::sleep(2 * SOON);
        outbox.send(b"late").unwrap();
    });
    story.tell("late", told(twin.recv(&mut [0; 8])));
    late();
}
