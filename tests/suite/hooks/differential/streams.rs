//! Stream sockets: TCP, and Unix where it differs.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::super::{pattern, tcp_pair};
use super::calls::{self, recv, send, set_option, text};
use super::{Story, pause, told};

const SOON: Duration = Duration::from_millis(4);

pub(super) fn echo(story: &mut Story) {
    let (mut near, mut far) = tcp_pair();
    let echo = story.spawn(move || {
        let mut heard = 0;
        let mut part = [0; 64];
        while let Ok(n @ 1..) = far.read(&mut part) {
            heard += n;
            far.write_all(&part[..n]).unwrap();
        }
        heard
    });
    for size in [1, 63, 64, 65, 1000] {
        let data = pattern(size);
        story.tell("wrote", told(near.write(&data)));
        let mut back = vec![0; size];
        near.read_exact(&mut back).unwrap();
        story.tell("same", back == data);
    }
    story.tell("shutdown", told(near.shutdown(Shutdown::Write)));
    story.tell("end", told(near.read(&mut [0; 8])));
    story.tell("heard", echo());
    story.tell("after shutdown", told(near.write(b"x")));
}

pub(super) fn proxy(story: &mut Story) {
    let kind = story.kind;
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = server.local_addr().unwrap();
    let shouting = story.spawn(move || {
        let (mut peer, _) = server.accept().unwrap();
        let mut heard = String::new();
        peer.read_to_string(&mut heard).unwrap();
        peer.write_all(heard.to_uppercase().as_bytes()).unwrap();
        heard.len()
    });
    let front = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = front.local_addr().unwrap();
    let proxy = story.spawn(move || {
        let (client, _) = front.accept().unwrap();
        let origin = TcpStream::connect(origin).unwrap();
        let (from, to) = (client.try_clone().unwrap(), origin.try_clone().unwrap());
        let up = kind.spawn(move || {
            let copied = std::io::copy(&mut &from, &mut &to).unwrap();
            to.shutdown(Shutdown::Write).unwrap();
            copied
        });
        let down = std::io::copy(&mut &origin, &mut &client).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        (up(), down)
    });
    let mut client = TcpStream::connect(address).unwrap();
    let words = "through two hands ".repeat(10_000);
    client.write_all(words.as_bytes()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut back = String::new();
    client.read_to_string(&mut back).unwrap();
    story.tell("as shouted", back == words.to_uppercase());
    story.tell("carried", proxy());
    story.tell("heard", shouting());
}

pub(super) fn half_close(story: &mut Story) {
    let (mut near, mut far) = tcp_pair();
    let other = story.spawn(move || {
        let mut question = String::new();
        far.read_to_string(&mut question).unwrap();
        for part in ["one ", "two ", "three"] {
            pause();
            far.write_all(part.as_bytes()).unwrap();
        }
        (question, told(far.read(&mut [0; 4])))
    });
    near.write_all(b"how many").unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    story.tell("again", told(near.shutdown(Shutdown::Write)));
    let mut answer = String::new();
    near.read_to_string(&mut answer).unwrap();
    story.tell("answer", answer);
    story.tell("other", other());
    let fd = near.as_raw_fd();
    story.tell("late write", send(fd, b"x", 0));
    story.tell("late read", recv(fd, &mut [0; 4], 0));
}

pub(super) fn partial_writes(story: &mut Story) {
    let (near, far) = tcp_pair();
    set_option(near.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, 8192).unwrap();
    slow_reader(story, near, far);
    let (near, far) = UnixStream::pair().unwrap();
    slow_reader(story, near, far);
}

fn slow_reader<S>(story: &mut Story, near: S, mut far: S)
where
    S: Read + Write + AsRawFd + Send + 'static,
{
    const SIZE: usize = 2 << 20;
    let fd = near.as_raw_fd();
    let writer = story.spawn(move || {
        let result = send(fd, &pattern(SIZE), 0);
        drop(near);
        result
    });
    let mut all = Vec::new();
    for size in [1, 7, 4096, 100_000] {
        pause();
        let mut part = vec![0; size];
        far.read_exact(&mut part).unwrap();
        all.extend_from_slice(&part);
    }
    far.read_to_end(&mut all).unwrap();
    story.tell("one call sent", writer());
    story.tell("whole", all == pattern(SIZE));
}

pub(super) fn write_timeout(story: &mut Story) {
    let (near, mut far) = tcp_pair();
    near.set_write_timeout(Some(SOON)).unwrap();
    let data = vec![7; 64 << 20];
    let first = (&near).write(&data).unwrap();
    story.tell("a part", first > 0 && first < data.len());
    story.tell("then", told((&near).write(&data)));
    drop(near);
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).unwrap();
    story.tell("nothing more than the part came", rest.len() == first);
}

pub(super) fn wait_all(story: &mut Story) {
    let (near, mut far) = tcp_pair();
    let fd = near.as_raw_fd();
    let sender = story.spawn(move || {
        for part in ["abc", "defg", "hij", "klm", "no"] {
            pause();
            far.write_all(part.as_bytes()).unwrap();
        }
        far
    });
    story.tell("ten", text(10, |out| recv(fd, out, libc::MSG_WAITALL)));
    let mut halves = [[0; 2], [0; 2]];
    let [a, b] = &mut halves;
    let n = receive_all_into(fd, &mut [IoSliceMut::new(a), IoSliceMut::new(b)]);
    story.tell("into two", (n, halves));
    let far = sender();
    near.set_read_timeout(Some(SOON)).unwrap();
    let cut = text(10, |out| recv(fd, out, libc::MSG_WAITALL));
    story.tell("cut by the timeout", cut);
    let nothing = recv(fd, &mut [0; 10], libc::MSG_WAITALL);
    story.tell("nothing", nothing);
    near.set_read_timeout(None).unwrap();
    let closer = story.spawn(move || {
        (&far).write_all(b"tail").unwrap();
        pause();
    });
    story.tell(
        "cut by the end",
        text(10, |out| recv(fd, out, libc::MSG_WAITALL)),
    );
    closer();
    story.tell("end", recv(fd, &mut [0; 10], libc::MSG_WAITALL));
}

fn receive_all_into(fd: RawFd, parts: &mut [IoSliceMut<'_>]) -> calls::Told {
    // SAFETY: zero is a valid empty header.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr().cast();
    message.msg_iovlen = parts.len() as _;
    // SAFETY: an IoSliceMut is an iovec; both live across the call.
    calls::told(unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_WAITALL) })
}

pub(super) fn peek(story: &mut Story) {
    let (near, far) = tcp_pair();
    let fd = near.as_raw_fd();
    let sender = story.spawn(move || {
        for part in ["hello", "ab", "cdefgh"] {
            pause();
            (&far).write_all(part.as_bytes()).unwrap();
        }
        far
    });
    let (look, all) = (libc::MSG_PEEK, libc::MSG_PEEK | libc::MSG_WAITALL);
    story.tell("three", text(3, |out| recv(fd, out, look)));
    story.tell("three again", text(3, |out| recv(fd, out, look)));
    story.tell("five", text(5, |out| recv(fd, out, all)));
    story.tell("taken", text(5, |out| recv(fd, out, libc::MSG_WAITALL)));
    story.tell("eight", text(8, |out| recv(fd, out, all)));
    story.tell(
        "eight taken",
        text(8, |out| recv(fd, out, libc::MSG_WAITALL)),
    );
    drop(sender());
    story.tell("end", text(8, |out| recv(fd, out, look)));
    let (near, far) = UnixStream::pair().unwrap();
    far.set_read_timeout(Some(SOON)).unwrap();
    (&near).write_all(b"local").unwrap();
    let fd = far.as_raw_fd();
    story.tell("local", text(8, |out| recv(fd, out, look)));
    story.tell("local taken", text(8, |out| recv(fd, out, 0)));
    story.tell("local nothing", text(8, |out| recv(fd, out, look)));
}

pub(super) fn dont_wait(story: &mut Story) {
    let (near, far) = tcp_pair();
    let (fd, other) = (near.as_raw_fd(), far.as_raw_fd());
    let nobody = recv(fd, &mut [0; 4], libc::MSG_DONTWAIT);
    story.tell("nothing there", nobody);
    let chunk = vec![1; 1 << 20];
    let mut sent = 0;
    let full = loop {
        match send(other, &chunk, libc::MSG_DONTWAIT) {
            Ok(n) => sent += n as usize,
            Err(code) => break code,
        }
        assert!(sent < 1 << 30, "the socket never fills");
    };
    story.tell("full", full);
    let drained = story.spawn(move || {
        let mut left = sent;
        let mut out = vec![0; 1 << 16];
        while left > 0 {
            left -= recv(near.as_raw_fd(), &mut out, 0).unwrap() as usize;
        }
        near
    });
    let near = drained();
    story.tell("room again", send(other, b"more", libc::MSG_DONTWAIT));
    story.tell("waited for", text(8, |out| recv(near.as_raw_fd(), out, 0)));
}

pub(super) fn urgent(story: &mut Story) {
    let (near, far) = tcp_pair();
    let (fd, other) = (near.as_raw_fd(), far.as_raw_fd());
    let out_of_band = |story: &mut Story, what| {
        let mut byte = [0];
        story.tell(what, (recv(fd, &mut byte, libc::MSG_OOB), byte));
    };
    out_of_band(story, "none yet");
    send(other, b"abc", 0).unwrap();
    send(other, b"!", libc::MSG_OOB).unwrap();
    send(other, b"ef", 0).unwrap();
    let seen = calls::poll([calls::entry(fd, libc::POLLPRI)], 10_000);
    story.tell("poll", seen);
    story.tell("up to the mark", text(64, |out| recv(fd, out, 0)));
    let mut at_mark = 0;
    calls::ioctl(fd, SIOCATMARK, &mut at_mark).unwrap();
    story.tell("at the mark", at_mark);
    out_of_band(story, "the byte");
    out_of_band(story, "once");
    story.tell("past it", text(64, |out| recv(fd, out, 0)));
    set_option(fd, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1).unwrap();
    send(other, b"x", libc::MSG_OOB).unwrap();
    story.tell("in line", text(64, |out| recv(fd, out, 0)));
}

pub(super) fn zero_length(story: &mut Story) {
    let (near, far) = tcp_pair();
    let fd = near.as_raw_fd();
    story.tell("read", calls::read(fd, &mut []));
    story.tell("write", calls::write(fd, &[]));
    story.tell("send", send(fd, &[], 0));
    let vectors = (&near).write_vectored(&[IoSlice::new(b""), IoSlice::new(b"")]);
    story.tell("writev", told(vectors));
    let mut nothing = [];
    let vectors = (&near).read_vectored(&mut [IoSliceMut::new(&mut nothing)]);
    story.tell("readv", told(vectors));
    (&far).write_all(b"x").unwrap();
    calls::until_readable(fd);
    story.tell("recv with data", recv(fd, &mut [], 0));
    story.tell("data still there", text(4, |out| recv(fd, out, 0)));
    let (reader, writer) = std::io::pipe().unwrap();
    story.tell("pipe read", calls::read(reader.as_raw_fd(), &mut []));
    story.tell("pipe write", calls::write(writer.as_raw_fd(), &[]));
}

pub(super) fn user_nonblocking(story: &mut Story) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    story.tell("nobody", told(listener.accept().map(drop)));
    let domain = libc::AF_INET;
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
    // SAFETY: takes numbers.
    let near = TcpStream::from(calls::owned(unsafe { libc::socket(domain, kind, 0) }));
    let fd = near.as_raw_fd();
    story.tell("as made", calls::is_nonblocking(fd));
    let begun = super::connections::connect_v4(fd, listener.local_addr().unwrap());
    story.tell("begun", begun);
    let connected = calls::poll([calls::entry(fd, libc::POLLOUT)], 10_000);
    story.tell("connected", connected);
    story.tell("error", calls::option(fd, libc::SOL_SOCKET, libc::SO_ERROR));
    calls::until_readable(listener.as_raw_fd());
    let (far, _) = listener.accept().unwrap();
    story.tell("accepted blocks", !calls::is_nonblocking(far.as_raw_fd()));
    story.tell("nothing", told((&near).read(&mut [0; 4])));
    (&far).write_all(b"data").unwrap();
    calls::until_readable(fd);
    story.tell("data", text(8, |out| calls::read(fd, out)));
    near.set_nonblocking(false).unwrap();
    story.tell("changed", calls::is_nonblocking(fd));
    let late = story.spawn(move || {
        pause();
        (&far).write_all(b"late").unwrap();
    });
    story.tell("waited", text(8, |out| calls::read(fd, out)));
    late();
}

pub(super) fn timeouts_on_a_clone(story: &mut Story) {
    let (near, far) = tcp_pair();
    let twin = near.try_clone().unwrap();
    twin.set_read_timeout(Some(SOON)).unwrap();
    story.tell("seen by both", told(near.read_timeout()));
    story.tell("cut", told((&near).read(&mut [0; 4])));
    drop(twin);
    story.tell("outlives the clone", told((&near).read(&mut [0; 4])));
    near.set_read_timeout(None).unwrap();
    let sender = story.spawn(move || {
        std::thread::sleep(2 * SOON);
        (&far).write_all(b"late").unwrap();
        far
    });
    story.tell("waited", text(4, |out| recv(near.as_raw_fd(), out, 0)));
    drop(sender());
    let zero = near.set_read_timeout(Some(Duration::ZERO));
    story.tell(
        "zero",
        zero.map_err(|e| e.kind() == ErrorKind::InvalidInput),
    );
}

pub(super) fn low_water(story: &mut Story) {
    let (near, far) = tcp_pair();
    let fd = near.as_raw_fd();
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 6).unwrap();
    let sender = story.spawn(move || {
        for part in ["ab", "cd", "ef", "gh"] {
            (&far).write_all(part.as_bytes()).unwrap();
            pause();
        }
        far.shutdown(Shutdown::Write).unwrap();
        far
    });
    let first = text(64, |out| recv(fd, out, 0)).unwrap();
    story.tell("six at least", first.len() >= 6);
    let mut rest = first;
    while let Ok(more) = text(64, |out| recv(fd, out, 0)) {
        if more.is_empty() {
            break;
        }
        rest.push_str(&more);
    }
    story.tell("all", rest);
    drop(sender());
}

pub(super) fn shutdown_while_waiting(story: &mut Story) {
    let (near, _far) = tcp_pair();
    let twin = near.try_clone().unwrap();
    let reader = story.spawn(move || recv(twin.as_raw_fd(), &mut [0; 4], 0));
    pause();
    near.shutdown(Shutdown::Read).unwrap();
    story.tell("reader", reader());
    let twin = near.try_clone().unwrap();
    let writer = story.spawn(move || {
        let data = vec![0; 64 << 20];
        let first = send(twin.as_raw_fd(), &data, 0);
        // Shut down before, within, or after the first part.
        let whole = first == Ok(data.len() as isize);
        (whole, send(twin.as_raw_fd(), &data, 0))
    });
    pause();
    near.shutdown(Shutdown::Write).unwrap();
    story.tell("writer", writer());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let twin = listener.try_clone().unwrap();
    let acceptor = story.spawn(move || calls::accept(twin.as_raw_fd()));
    pause();
    let fd = listener.as_raw_fd();
    story.tell("shutdown", calls::shutdown(fd, libc::SHUT_RDWR));
    story.tell("acceptor", acceptor());
}

pub(super) fn many_waiters(story: &mut Story) {
    let (near, far) = tcp_pair();
    let fd = far.as_raw_fd();
    let readers: Vec<_> = (0..12)
        .map(|_| {
            story.spawn(move || {
                let mut byte = [0];
                recv(fd, &mut byte, 0).map(|n| (n, byte))
            })
        })
        .collect();
    pause();
    (&near).write_all(b"0123456789").unwrap();
    pause();
    near.shutdown(Shutdown::Write).unwrap();
    let mut got: Vec<_> = readers.into_iter().map(|join| join()).collect();
    got.sort_unstable();
    story.tell("each byte once, then the end", got);
    let fd = near.as_raw_fd();
    let (near, far) = UnixStream::pair().unwrap();
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let near = near.try_clone().unwrap();
            story.spawn(move || told((&near).write_all(&[1; 300_000])))
        })
        .collect();
    drop(near);
    let mut all = Vec::new();
    (&far).read_to_end(&mut all).unwrap();
    let written: Vec<_> = writers.into_iter().map(|join| join()).collect();
    story.tell("writers", (written, all.len()));
    story.tell("still open", calls::fcntl(fd, libc::F_GETFD, 0).is_ok());
}

pub(super) fn vectored(story: &mut Story) {
    let (near, mut far) = tcp_pair();
    let parts = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cde")];
    story.tell("writev", told((&near).write_vectored(&parts)));
    let (mut one, mut none, mut three) = ([0; 1], [0; 0], [0; 3]);
    far.read_exact(&mut [0; 1]).unwrap();
    let n = far.read_vectored(&mut [
        IoSliceMut::new(&mut one),
        IoSliceMut::new(&mut none),
        IoSliceMut::new(&mut three),
    ]);
    story.tell("readv", (told(n), one, three));
    let big = vec![3; 3_000_000];
    let writer = story.spawn(move || {
        let parts: Vec<_> = big.chunks(70_000).map(IoSlice::new).collect();
        told((&near).write_vectored(&parts))
    });
    let mut all = Vec::new();
    far.read_to_end(&mut all).unwrap();
    story.tell("one call", writer());
    story.tell("came", (all.len(), all.iter().all(|b| *b == 3)));
    let (fd, place) = (far.as_raw_fd(), std::ptr::null());
    // SAFETY: refused before the entries are looked at.
    let refused = unsafe { [libc::readv(fd, place, 2000), libc::readv(fd, place, -1)] };
    story.tell("too many", refused);
    let mut byte = [0_u8];
    let place = byte.as_mut_ptr().cast();
    // SAFETY: one byte at `place`; a socket has no positions.
    story.tell(
        "at a position",
        calls::told(unsafe { libc::pread(fd, place, 1, 0) }),
    );
}

pub(super) fn reset(story: &mut Story) {
    let (near, far) = tcp_pair();
    let fd = near.as_raw_fd();
    let reader = story.spawn(move || recv(fd, &mut [0; 4], 0));
    pause();
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let (place, size) = ((&raw const linger).cast(), size_of_val(&linger) as u32);
    let socket = libc::SOL_SOCKET;
    // SAFETY: the value lives across the call.
    let set = unsafe { libc::setsockopt(far.as_raw_fd(), socket, libc::SO_LINGER, place, size) };
    assert_eq!(set, 0);
    drop(far);
    story.tell("reader", reader());
    story.tell("then", recv(fd, &mut [0; 4], 0));
    story.tell("write", send(fd, b"x", 0));
    let (near, far) = UnixStream::pair().unwrap();
    (&far).write_all(b"unread").unwrap();
    (&near).write_all(b"unread too").unwrap();
    drop(far);
    let fd = near.as_raw_fd();
    story.tell("local", text(16, |out| recv(fd, out, 0)));
    story.tell("local then", recv(fd, &mut [0; 4], 0));
    story.tell("local write", send(fd, b"x", 0));
}

pub(super) fn messages(story: &mut Story) {
    let (near, far) = tcp_pair();
    let (fd, other) = (near.as_raw_fd(), far.as_raw_fd());
    let data = pattern(1_500_000);
    let expected = data.clone();
    let sender = story.spawn(move || {
        let mut parts: Vec<_> = data.chunks(50_000).map(IoSlice::new).collect();
        // SAFETY: zero is a valid empty header.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = parts.as_mut_ptr().cast();
        message.msg_iovlen = parts.len() as _;
        // SAFETY: an IoSlice is an iovec; all live across the call.
        let sent = calls::told(unsafe { libc::sendmsg(other, &raw const message, 0) });
        (sent, calls::shutdown(other, libc::SHUT_WR))
    });
    let mut all = vec![0; 1_500_000];
    let parts = &mut all
        .chunks_mut(400_000)
        .map(IoSliceMut::new)
        .collect::<Vec<_>>()[..];
    story.tell("received", receive_all_into(fd, parts));
    story.tell("whole", all == expected);
    story.tell("sent", sender());
    story.tell(
        "end",
        receive_all_into(fd, &mut [IoSliceMut::new(&mut [0; 4])]),
    );
    let null = std::ptr::null_mut();
    // SAFETY: the kernel refuses the null header.
    story.tell(
        "no header",
        calls::told(unsafe { libc::recvmsg(fd, null, 0) }),
    );
}

pub(super) fn both_directions(story: &mut Story) {
    let (near, far) = tcp_pair();
    let ends: Vec<_> = [near, far]
        .into_iter()
        .flat_map(|end| {
            let (reader, writer) = (end.try_clone().unwrap(), end);
            let send = story.spawn(move || {
                let done = told((&writer).write_all(&pattern(1 << 20)));
                writer.shutdown(Shutdown::Write).unwrap();
                (done, 0)
            });
            let receive = story.spawn(move || {
                let mut all = Vec::new();
                let done = told((&reader).read_to_end(&mut all)).map(drop);
                (done, usize::from(all == pattern(1 << 20)))
            });
            [send, receive]
        })
        .collect();
    for end in ends {
        story.tell("end", end());
    }
}

pub(super) fn error_queue(story: &mut Story) {
    let (near, _far) = tcp_pair();
    let fd = near.as_raw_fd();
    story.tell("empty", recv(fd, &mut [0; 4], libc::MSG_ERRQUEUE));
    story.tell("no error", told(near.take_error()).map(|e| e.is_none()));
}

/// "At the mark of urgent data?"; a Linux number that the binding lacks.
const SIOCATMARK: libc::Ioctl = 0x8905;
