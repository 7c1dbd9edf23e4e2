//! Descriptors: what closes, shares, changes, passes and reuses them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use super::super::corners::{receive_descriptor, send_descriptor};
use super::super::tcp_pair;
use super::calls::{self, fcntl, is_nonblocking, recv, send, text, told as called};
use super::{Story, pause, told};

pub(super) fn errors_of_every_call(story: &mut Story) {
    let (near, far) = tcp_pair();
    let folder = std::fs::File::open("/").unwrap();
    let file = std::fs::File::open("/proc/self/status").unwrap();
    let bad = 1_000_000;
    let fds = [folder.as_raw_fd(), file.as_raw_fd(), bad, -1];
    for (name, fd) in ["folder", "file", "bad", "negative"].into_iter().zip(fds) {
        if name != "file" {
            story.tell(name, calls::read(fd, &mut [0]));
        }
        story.tell(name, recv(fd, &mut [0], 0));
        story.tell(name, calls::write(fd, b"x"));
        story.tell(name, send(fd, b"x", 0));
        story.tell(name, calls::accept(fd));
        story.tell(name, calls::shutdown(fd, libc::SHUT_RD));
        story.tell(name, fcntl(fd, libc::F_GETFL, 0).map(drop));
        story.tell(name, calls::epoll_wait(fd, 0).map(drop));
        // SAFETY: takes numbers.
        story.tell(name, called(unsafe { libc::dup2(bad, 3) } as isize));
    }
    let fd = near.as_raw_fd();
    story.tell("accept on a connection", calls::accept(fd));
    story.tell("no urgent data", recv(fd, &mut [0], libc::MSG_OOB));
    story.tell("not an epoll", calls::epoll_wait(fd, -1).map(drop));
    let null = std::ptr::null_mut();
    (&far).write_all(b"xy").unwrap();
    calls::until_readable(fd);
    // SAFETY: the kernel refuses the addresses.
    unsafe {
        story.tell("nowhere", called(libc::read(fd, null, 1)));
        story.tell("from nowhere", called(libc::write(fd, null, 1)));
        story.tell(
            "poll nowhere",
            called(libc::poll(null.cast(), 1, 0) as isize),
        );
    }
    drop(far);
    story.tell("rest", text(8, |out| recv(fd, out, 0)));
    story.tell("end", recv(fd, &mut [0], 0));
    let mut sent = 0;
    let gone = loop {
        match send(fd, b"x", 0) {
            Ok(_) => sent += 1,
            Err(code) => break code,
        }
        assert!(sent < 1_000_000, "the peer is gone, yet nobody says so");
    };
    story.tell("gone", gone);
}

pub(super) fn dups(story: &mut Story) {
    let (near, mut far) = tcp_pair();
    let fd = near.as_raw_fd();
    let copies = [
        // SAFETY: takes numbers.
        calls::owned(unsafe { libc::dup(fd) }),
        calls::owned(fcntl(fd, libc::F_DUPFD, 0).unwrap() as RawFd),
        calls::owned(fcntl(fd, libc::F_DUPFD_CLOEXEC, 0).unwrap() as RawFd),
    ];
    for copy in &copies {
        story.tell("flags", fcntl(copy.as_raw_fd(), libc::F_GETFD, 0));
    }
    near.set_nonblocking(true).unwrap();
    story.tell(
        "shared wish",
        copies.each_ref().map(|c| is_nonblocking(c.as_raw_fd())),
    );
    story.tell("nothing", recv(copies[1].as_raw_fd(), &mut [0; 4], 0));
    near.set_nonblocking(false).unwrap();
    // Onto a number of ours: what was there is gone.
    let (target, _other) = tcp_pair();
    let to = target.as_raw_fd();
    // SAFETY: both are open.
    unsafe {
        story.tell("dup2", libc::dup2(fd, to) == to);
        story.tell("onto itself", libc::dup2(fd, fd) == fd);
        story.tell("dup3 onto itself", called(libc::dup3(fd, fd, 0) as isize));
        story.tell("dup3", libc::dup3(fd, to, libc::O_CLOEXEC) == to);
    }
    let reader = story.spawn(move || text(8, |out| recv(to, out, 0)));
    pause();
    far.write_all(b"through").unwrap();
    story.tell("read", reader());
    drop(near);
    drop(target);
    let [first, second, third] = copies;
    drop((second, third));
    far.write_all(b"last").unwrap();
    story.tell(
        "the others live",
        text(8, |out| recv(first.as_raw_fd(), out, 0)),
    );
    drop(first);
    story.tell("end", told(far.read(&mut [0; 4])));
}

pub(super) fn flags(story: &mut Story) {
    let (near, far) = tcp_pair();
    let (reader, writer) = std::io::pipe().unwrap();
    let event = calls::eventfd(1, 0);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = story.spawn(move || {
        pause();
        TcpStream::connect(address).unwrap()
    });
    let (accepted, _) = listener.accept().unwrap();
    let client = client();
    (&far).write_all(b"xyz").unwrap();
    recv(near.as_raw_fd(), &mut [0; 1], 0).unwrap();
    (&writer).write_all(b"xy").unwrap();
    calls::read(reader.as_raw_fd(), &mut [0; 1]).unwrap();
    calls::read_number(event.as_raw_fd()).unwrap();
    let fds = [
        near.as_raw_fd(),
        reader.as_raw_fd(),
        writer.as_raw_fd(),
        event.as_raw_fd(),
        listener.as_raw_fd(),
        accepted.as_raw_fd(),
        client.as_raw_fd(),
    ];
    for fd in fds {
        let mut on = 1;
        story.tell("before", is_nonblocking(fd));
        story.tell("FIONBIO", calls::ioctl(fd, libc::FIONBIO as _, &mut on));
        story.tell("seen", is_nonblocking(fd));
        let now = fcntl(fd, libc::F_GETFL, 0).unwrap() as i32;
        story.tell("F_SETFL", fcntl(fd, libc::F_SETFL, now & !libc::O_NONBLOCK));
        story.tell("seen", is_nonblocking(fd));
    }
    for fd in [near.as_raw_fd(), reader.as_raw_fd()] {
        let mut left = 0;
        let asked = calls::ioctl(fd, libc::FIONREAD as _, &mut left);
        story.tell("left", (asked, left));
    }
    let fd = near.as_raw_fd();
    story.tell("close-on-exec", fcntl(fd, libc::F_GETFD, 0));
    story.tell("cleared", fcntl(fd, libc::F_SETFD, 0));
    story.tell("close-on-exec", fcntl(fd, libc::F_GETFD, 0));
    story.tell("no such command", fcntl(fd, 9999, 0));
}

pub(super) fn reused_numbers(story: &mut Story) {
    for round in 0..20_u8 {
        let (near, far) = tcp_pair();
        let fd = near.as_raw_fd();
        let reader = story.spawn(move || {
            let mut byte = [0];
            (&near).read_exact(&mut byte).unwrap();
            (OwnedFd::from(near), byte[0])
        });
        (&far).write_all(&[round]).unwrap();
        let (near, byte) = reader();
        std::mem::forget(near);
        // By number, as a library's own system calls would.
        // SAFETY: the descriptor is ours and was just forgotten.
        story.tell(
            "closed",
            called(unsafe { libc::syscall(libc::SYS_close, fd) } as isize),
        );
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let echo = story.spawn(move || {
            let mut byte = [0];
            reader.read_exact(&mut byte).unwrap();
            byte[0]
        });
        pause();
        writer.write_all(&[round]).unwrap();
        story.tell("bytes", (byte, echo()));
    }
}

pub(super) fn ranges(story: &mut Story) {
    // High numbers, so that no other test has any of them.
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a place for the limit.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(known, 0);
    let base = limit.rlim_cur as RawFd - 20;
    let (near, mut far) = tcp_pair();
    for i in 0..5 {
        let to = base + i;
        // SAFETY: takes numbers.
        assert_eq!(unsafe { libc::dup2(near.as_raw_fd(), to) }, to);
    }
    drop(near);
    let range = |first: RawFd, last: RawFd, flags: libc::c_uint| {
        let (first, last) = ((base + first) as u32, (base + last) as u32);
        // SAFETY: takes numbers; nobody else uses these descriptors.
        called(unsafe { libc::close_range(first, last, flags as _) } as isize)
    };
    story.tell("marked", range(3, 4, libc::CLOSE_RANGE_CLOEXEC));
    story.tell("mark", fcntl(base + 3, libc::F_GETFD, 0));
    story.tell("closed", range(0, 2, 0));
    story.tell("gone", recv(base + 1, &mut [0; 4], 0));
    far.write_all(b"still").unwrap();
    story.tell("still", text(8, |out| recv(base + 3, out, 0)));
    story.tell("backwards", range(4, 3, 0));
    story.tell("closed", range(3, 10, 0));
    story.tell("end", told(far.read(&mut [0; 4])));
}

pub(super) fn passed(story: &mut Story) {
    let (near, far) = UnixStream::pair().unwrap();
    let (mut writer, reader) = UnixStream::pair().unwrap();
    let (pipe, mut into_pipe) = std::io::pipe().unwrap();
    let receiver = story.spawn(move || {
        let passed = [(); 2].map(|()| receive_descriptor(far.as_raw_fd()));
        (passed, told((&far).read(&mut [0; 4])))
    });
    pause();
    send_descriptor(near.as_raw_fd(), reader.as_raw_fd());
    send_descriptor(near.as_raw_fd(), pipe.as_raw_fd());
    drop((near, reader, pipe));
    let (passed, end) = receiver();
    story.tell("end", end);
    let readers = passed.map(|fd| {
        story.spawn(move || {
            let mut text = String::new();
            std::fs::File::from(fd).read_to_string(&mut text).unwrap();
            text
        })
    });
    pause();
    writer.write_all(b"through the copy").unwrap();
    into_pipe.write_all(b"through the pipe").unwrap();
    drop((writer, into_pipe));
    for reader in readers {
        story.tell("heard", reader());
    }
}

pub(super) fn shared_with_threads(story: &mut Story) {
    let (near, far) = UnixStream::pair().unwrap();
    let fd = far.as_raw_fd();
    let take = move || {
        let mut byte = [0];
        recv(fd, &mut byte, libc::MSG_WAITALL).map(|n| (n, byte[0]))
    };
    let ours: Vec<_> = (0..4).map(|_| story.spawn(take)).collect();
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(take)).collect();
    pause();
    (&near).write_all(&[1, 2, 3, 4, 5, 6]).unwrap();
    pause();
    near.shutdown(std::net::Shutdown::Write).unwrap();
    let mut got: Vec<_> = ours.into_iter().map(|join| join()).collect();
    got.extend(threads.into_iter().map(|t| t.join().unwrap()));
    got.sort_unstable();
    story.tell("each byte once", got);
    let writers: Vec<_> = (0..2)
        .map(|_| story.spawn(move || send(fd, &[2; 200_000], 0)))
        .collect();
    let threads: Vec<_> = (0..2)
        .map(|_| std::thread::spawn(move || send(fd, &[1; 200_000], 0)))
        .collect();
    let mut all = vec![0; 800_000];
    (&near).read_exact(&mut all).unwrap();
    let ones = all.iter().filter(|b| **b == 1).count();
    story.tell("ones", ones);
    story.tell(
        "ours",
        writers.into_iter().map(|join| join()).collect::<Vec<_>>(),
    );
    for thread in threads {
        story.tell("thread", thread.join().unwrap());
    }
    // SAFETY: a number that nobody owns any more after the test's end.
    let again = unsafe { OwnedFd::from_raw_fd(libc::dup(fd)) };
    story.tell("flag", is_nonblocking(again.as_raw_fd()));
}
