//! poll, select and epoll by hand.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use super::super::{selectable, tcp_pair};
use super::calls::{self, entry, epoll_create, epoll_ctl, epoll_wait, told as called};
use super::{Story, pause};

const IN: i16 = libc::POLLIN;
const OUT: i16 = libc::POLLOUT;
const LONG: i32 = 20_000;

pub(super) fn poll(story: &mut Story) {
    let (near, far) = tcp_pair();
    let (other, _kept) = tcp_pair();
    let fds = [near.as_raw_fd(), other.as_raw_fd()];
    let both = move |millis| calls::poll(fds.map(|fd| entry(fd, IN)), millis);
    story.tell("at once", both(0));
    story.tell("in time", both(3));
    let poller = story.spawn(move || both(-1));
    pause();
    (&far).write_all(b"x").unwrap();
    story.tell("data", poller());
    story.tell("both ways", calls::poll([entry(fds[0], IN | OUT)], -1));
    (&near).read_exact(&mut [0; 1]).unwrap();
    let poller = story.spawn(move || calls::poll([entry(fds[0], IN | libc::POLLRDHUP)], LONG));
    pause();
    far.shutdown(Shutdown::Write).unwrap();
    story.tell("half closed", poller());
    story.tell(
        "not open",
        calls::poll([entry(1_000_000, IN), entry(-1, IN)], LONG),
    );
    story.tell("only ignored", calls::poll([entry(-1, IN)], 2));
    story.tell("none", calls::poll([], 2));
    let (reader, writer) = std::io::pipe().unwrap();
    let fd = reader.as_raw_fd();
    let poller = story.spawn(move || calls::poll([entry(fd, 0)], LONG));
    pause();
    drop(writer);
    story.tell("hung up, unasked", poller());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let fd = listener.as_raw_fd();
    let poller = story.spawn(move || calls::poll([entry(fd, IN)], LONG));
    pause();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    story.tell("a visitor", poller());
    let file = tempfile::tempfile().unwrap();
    story.tell(
        "a file",
        calls::poll([entry(file.as_raw_fd(), IN | OUT)], LONG),
    );
}

pub(super) fn select(story: &mut Story) {
    let pair = || selectable(|| UnixStream::pair().unwrap());
    let ((near, far), (other, kept)) = (pair(), pair());
    let fds = [near.as_raw_fd(), other.as_raw_fd()];
    story.tell("in time", select_read(fds, Some(3_000)));
    story.tell("at once", select_read(fds, Some(0)));
    let waiter = story.spawn(move || select_read(fds, None));
    pause();
    (&far).write_all(b"x").unwrap();
    story.tell("data", waiter());
    let waiter = story.spawn(move || select_read([fds[1]; 2], Some(20_000_000)));
    pause();
    drop(kept);
    story.tell("end", waiter());
    let wrong = libc::timespec {
        tv_sec: 0,
        tv_nsec: -1,
    };
    let null = std::ptr::null_mut();
    // SAFETY: no sets; the time lives across the call.
    let refused = unsafe { libc::pselect(0, null, null, null, &raw const wrong, std::ptr::null()) };
    story.tell("wrong time", called(refused as isize));
    let mut short = libc::timeval {
        tv_sec: 0,
        tv_usec: 2_000,
    };
    // SAFETY: as above.
    let slept = unsafe { libc::select(0, null, null, null, &raw mut short) };
    story.tell("a sleep", (slept, short.tv_sec, short.tv_usec));
}

/// Result, and which of the two are readable.
fn select_read(fds: [RawFd; 2], micros: Option<i64>) -> (calls::Told, [bool; 2]) {
    // SAFETY: an all-zero set is empty; `select` takes numbers below FD_SETSIZE alone.
    unsafe {
        let mut set: libc::fd_set = std::mem::zeroed();
        fds.iter().for_each(|fd| libc::FD_SET(*fd, &raw mut set));
        let mut time = libc::timeval {
            tv_sec: micros.unwrap_or(0) / 1_000_000,
            tv_usec: micros.unwrap_or(0) % 1_000_000,
        };
        let time = if micros.is_some() {
            &raw mut time
        } else {
            std::ptr::null_mut()
        };
        let (none, count) = (std::ptr::null_mut(), fds[0].max(fds[1]) + 1);
        let n = libc::select(count, &raw mut set, none, none, time);
        let result = called(n as isize);
        (
            result,
            fds.map(|fd| n >= 0 && libc::FD_ISSET(fd, &raw const set)),
        )
    }
}

pub(super) fn epoll(story: &mut Story) {
    let (near, far) = tcp_pair();
    let (other, other_far) = tcp_pair();
    let (set, add) = (epoll_create(), libc::EPOLL_CTL_ADD);
    let (epoll, fd) = (set.as_raw_fd(), near.as_raw_fd());
    story.tell("add", epoll_ctl(epoll, add, fd, libc::EPOLLIN, 1));
    story.tell("twice", epoll_ctl(epoll, add, fd, libc::EPOLLIN, 1));
    story.tell("itself", epoll_ctl(epoll, add, epoll, libc::EPOLLIN, 1));
    story.tell("in time", epoll_wait(epoll, 3));
    let waiter = story.spawn(move || epoll_wait(epoll, -1));
    pause();
    (&far).write_all(b"x").unwrap();
    story.tell("level", waiter());
    story.tell("level again", epoll_wait(epoll, LONG));
    let change = libc::EPOLL_CTL_MOD;
    let edge = libc::EPOLLIN | libc::EPOLLET;
    story.tell("change", epoll_ctl(epoll, change, fd, edge, 2));
    story.tell("edge", epoll_wait(epoll, LONG));
    story.tell("no edge", epoll_wait(epoll, 3));
    let waiter = story.spawn(move || epoll_wait(epoll, LONG));
    pause();
    // Added while another waits.
    let once = libc::EPOLLIN | libc::EPOLLONESHOT;
    epoll_ctl(epoll, add, other.as_raw_fd(), once, 3).unwrap();
    (&other_far).write_all(b"y").unwrap();
    story.tell("added meanwhile", waiter());
    story.tell("once", epoll_wait(epoll, 3));
    let gone = epoll_ctl(epoll, libc::EPOLL_CTL_DEL, other.as_raw_fd(), 0, 0);
    story.tell("removed", gone);
    let closing = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET;
    epoll_ctl(epoll, change, fd, closing, 4).unwrap();
    epoll_wait(epoll, LONG).unwrap();
    let waiter = story.spawn(move || epoll_wait(epoll, LONG));
    pause();
    drop(far);
    story.tell("hung up", waiter());
    let file = tempfile::tempfile().unwrap();
    story.tell(
        "a file",
        epoll_ctl(epoll, add, file.as_raw_fd(), libc::EPOLLIN, 5),
    );
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: refused: no room for an event.
    let no_room = unsafe { libc::epoll_wait(epoll, &raw mut event, 0, 0) };
    story.tell("no room", called(no_room as isize));
}

pub(super) fn nested_epolls(story: &mut Story) {
    let event = calls::eventfd(0, 0);
    let add = libc::EPOLL_CTL_ADD;
    let mut sets = vec![epoll_create()];
    epoll_ctl(
        sets[0].as_raw_fd(),
        add,
        event.as_raw_fd(),
        libc::EPOLLIN,
        0,
    )
    .unwrap();
    // The kernel nests five deep.
    for depth in 1..4 {
        let set = epoll_create();
        let inner = sets[depth - 1].as_raw_fd();
        let added = epoll_ctl(set.as_raw_fd(), add, inner, libc::EPOLLIN, depth as u64);
        story.tell("nested", added);
        sets.push(set);
    }
    let outer = sets[3].as_raw_fd();
    let waiter = story.spawn(move || epoll_wait(outer, LONG));
    pause();
    calls::write_number(event.as_raw_fd(), 1).unwrap();
    story.tell("outermost", waiter());
    for (depth, set) in sets.iter().enumerate().rev() {
        story.tell("level", (depth, epoll_wait(set.as_raw_fd(), LONG)));
    }
    story.tell("read", calls::read_number(event.as_raw_fd()));
    story.tell("quiet", epoll_wait(outer, 2));
    let poller = story.spawn(move || calls::poll([entry(outer, IN)], LONG));
    pause();
    calls::write_number(event.as_raw_fd(), 1).unwrap();
    story.tell("an epoll polled", poller());
}

pub(super) fn poll_many(story: &mut Story) {
    let pairs: Vec<_> = (0..50).map(|_| UnixStream::pair().unwrap()).collect();
    let fds: Vec<_> = pairs.iter().map(|(near, _)| near.as_raw_fd()).collect();
    let pollers: Vec<_> = (0..4_usize)
        .map(|i| {
            let fds = fds.clone();
            story.spawn(move || {
                let mine: [_; 10] = std::array::from_fn(|k| entry(fds[(i * 10 + k) % 50], IN));
                calls::poll(mine, LONG)
            })
        })
        .collect();
    pause();
    for i in [3, 14, 25, 36] {
        (&pairs[i].1).write_all(b"x").unwrap();
    }
    for poller in pollers {
        story.tell("poller", poller());
    }
}

pub(super) fn poll_and_writers(story: &mut Story) {
    let (near, mut far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while let Ok(n) = (&near).write(&[1; 4096]) {
        sent += n;
    }
    let fd = near.as_raw_fd();
    story.tell("full", calls::poll([entry(fd, OUT)], 2));
    let poller = story.spawn(move || calls::poll([entry(fd, OUT)], LONG));
    pause();
    let mut all = vec![0; sent];
    far.read_exact(&mut all).unwrap();
    story.tell("room", poller());
}
