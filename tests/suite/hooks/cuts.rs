//! Which calls a deadline or a cancellation ends, how each says so, and which are exempt: as tables.
//!
//! Every call here would wait for ever by itself. `limits` looks at single cases more closely.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rpc_core::{Deadline, keep_when_cut, spawn};

use super::{let_others_run, on_one_worker, selectable, tcp_pair};

const SOON: Duration = Duration::from_millis(4);

/// Descriptors on which nothing happens.
struct Quiet {
    tcp: (TcpStream, TcpStream),
    /// No room to write. (Of a TCP connection the kernel may move bytes later.)
    unix: (UnixStream, UnixStream),
    udp: UdpSocket,
    full_datagrams: (UnixDatagram, UnixDatagram),
    empty_pipe: (std::io::PipeReader, std::io::PipeWriter),
    selected: (UnixStream, UnixStream),
    full_pipe: (std::io::PipeReader, std::io::PipeWriter),
    listener: TcpListener,
    /// Its queue is full.
    deaf: (TcpListener, TcpStream),
    file: File,
    child: libc::pid_t,
    /// A byte ends the child; closing would not, for children of other tests may have copies.
    release: std::io::PipeWriter,
}

impl Quiet {
    fn new() -> Self {
        let (tcp, unix) = (tcp_pair(), UnixStream::pair().unwrap());
        let full_datagrams = UnixDatagram::pair().unwrap();
        let full_pipe = std::io::pipe().unwrap();
        for fd in [
            unix.0.as_raw_fd(),
            full_datagrams.0.as_raw_fd(),
            full_pipe.1.as_raw_fd(),
        ] {
            fill(fd);
        }
        let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
        // SAFETY: a listener; its queue now holds one.
        assert_eq!(unsafe { libc::listen(deaf.as_raw_fd(), 0) }, 0);
        let first = TcpStream::connect(deaf.local_addr().unwrap()).unwrap();
        let (waits, release) = std::io::pipe().unwrap();
        let fd = waits.as_raw_fd();
        // SAFETY: the child calls only what a lone thread may, and leaves by `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe {
                libc::read(fd, [0_u8].as_mut_ptr().cast(), 1);
                libc::_exit(0);
            }
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"some bytes").unwrap();
        Self {
            tcp,
            unix,
            udp: UdpSocket::bind("127.0.0.1:0").unwrap(),
            full_datagrams,
            empty_pipe: std::io::pipe().unwrap(),
            selected: selectable(|| UnixStream::pair().unwrap()),
            full_pipe,
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            deaf: (deaf, first),
            file,
            child,
            release,
        }
    }

    fn end(self) {
        (&self.release).write_all(b"x").unwrap();
        // SAFETY: a child of ours; no status is asked for.
        unsafe { libc::waitpid(self.child, std::ptr::null_mut(), 0) };
    }
}

/// Writes until there is no more room, and leaves the descriptor blocking.
fn fill(fd: RawFd) {
    let block = [0_u8; 4096];
    let set = |on: i32| {
        let place = &raw const on;
        // SAFETY: the int lives across the call.
        assert_eq!(unsafe { libc::ioctl(fd, libc::FIONBIO, place) }, 0);
    };
    set(1);
    for size in [block.len(), 1] {
        // SAFETY: so many bytes at `block`.
        while unsafe { libc::write(fd, block.as_ptr().cast(), size) } > 0 {}
    }
    set(0);
}

type Call = fn(&Quiet) -> isize;

/// A header for one buffer.
fn message(part: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: zero is a valid empty header.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (part, 1);
    message
}

fn batch(part: &mut libc::iovec) -> libc::mmsghdr {
    libc::mmsghdr {
        msg_hdr: message(part),
        msg_len: 0,
    }
}

fn with_part(call: impl FnOnce(&mut libc::iovec) -> isize) -> isize {
    let mut bytes = [0_u8; 64];
    call(&mut libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    })
}

fn read(fd: &impl AsRawFd) -> isize {
    // SAFETY: the part describes a local buffer.
    with_part(|part| unsafe { libc::read(fd.as_raw_fd(), part.iov_base, part.iov_len) })
}

fn write(fd: &impl AsRawFd) -> isize {
    // SAFETY: the part describes a local buffer.
    with_part(|part| unsafe { libc::write(fd.as_raw_fd(), part.iov_base, part.iov_len) })
}

/// Whose contract has an error: a scope that ends, ends them.
const CUT: &[(&str, Call)] = &[
    ("read tcp", |q| read(&q.tcp.0)),
    ("read unix", |q| read(&q.unix.0)),
    ("read pipe", |q| read(&q.empty_pipe.0)),
    ("readv", |q| {
        // SAFETY: one entry that describes a local buffer.
        with_part(|part| unsafe { libc::readv(q.tcp.0.as_raw_fd(), part, 1) })
    }),
    ("preadv2", |q| {
        let fd = q.empty_pipe.0.as_raw_fd();
        // SAFETY: as above.
        with_part(|part| unsafe { libc::preadv2(fd, part, 1, -1, 0) })
    }),
    ("recv", |q| {
        let fd = q.udp.as_raw_fd();
        // SAFETY: the part describes a local buffer.
        with_part(|part| unsafe { libc::recv(fd, part.iov_base, part.iov_len, 0) })
    }),
    ("recv all", |q| {
        let (fd, flags) = (q.tcp.0.as_raw_fd(), libc::MSG_WAITALL);
        // SAFETY: the part describes a local buffer.
        with_part(|part| unsafe { libc::recv(fd, part.iov_base, part.iov_len, flags) })
    }),
    ("recvfrom", |q| {
        q.udp.recv_from(&mut [0; 8]).map_or(-1, |(n, _)| n as isize)
    }),
    ("recvmsg", |q| {
        // SAFETY: the header describes a local buffer.
        with_part(|part| unsafe { libc::recvmsg(q.unix.0.as_raw_fd(), &mut message(part), 0) })
    }),
    ("recvmmsg", |q| {
        let (fd, none) = (q.udp.as_raw_fd(), std::ptr::null_mut());
        // SAFETY: one header that describes a local buffer.
        with_part(|part| unsafe { libc::recvmmsg(fd, &mut batch(part), 1, 0, none) as isize })
    }),
    ("write", |q| write(&q.unix.0)),
    ("write pipe", |q| write(&q.full_pipe.1)),
    ("writev", |q| {
        // SAFETY: one entry that describes a local buffer.
        with_part(|part| unsafe { libc::writev(q.unix.0.as_raw_fd(), part, 1) })
    }),
    ("send", |q| {
        let fd = q.unix.0.as_raw_fd();
        // SAFETY: the part describes a local buffer.
        with_part(|part| unsafe { libc::send(fd, part.iov_base, 8, libc::MSG_NOSIGNAL) })
    }),
    ("send a datagram", |q| {
        q.full_datagrams.0.send(b"x").map_or(-1, |n| n as isize)
    }),
    ("sendmsg", |q| {
        let fd = q.unix.0.as_raw_fd();
        // SAFETY: the header describes a local buffer.
        with_part(|part| unsafe { libc::sendmsg(fd, &message(part), libc::MSG_NOSIGNAL) })
    }),
    ("sendmmsg", |q| {
        let fd = q.full_datagrams.0.as_raw_fd();
        // SAFETY: one header that describes a local buffer.
        with_part(|part| unsafe { libc::sendmmsg(fd, &mut batch(part), 1, 0) as isize })
    }),
    ("sendfile", |q| {
        let mut start = 0;
        let (out, file) = (q.unix.0.as_raw_fd(), q.file.as_raw_fd());
        // SAFETY: a place for the offset.
        unsafe { libc::sendfile(out, file, &raw mut start, 10) }
    }),
    ("splice", |q| {
        let (from, to) = (q.empty_pipe.0.as_raw_fd(), q.unix.0.as_raw_fd());
        let none = std::ptr::null_mut();
        // SAFETY: no offsets are given.
        unsafe { libc::splice(from, none, to, none, 10, 0) }
    }),
    ("accept", |q| q.listener.accept().map_or(-1, |_| 0)),
    ("connect", |q| {
        TcpStream::connect(q.deaf.0.local_addr().unwrap()).map_or(-1, |_| 0)
    }),
    ("poll", |q| {
        let mut entry = libc::pollfd {
            fd: q.empty_pipe.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry.
        unsafe { libc::poll(&raw mut entry, 1, -1) as isize }
    }),
    ("select", |q| {
        let (fd, none) = (q.selected.0.as_raw_fd(), std::ptr::null_mut());
        // SAFETY: an all-zero set is empty; the number is below FD_SETSIZE.
        unsafe {
            let mut set: libc::fd_set = std::mem::zeroed();
            libc::FD_SET(fd, &raw mut set);
            libc::select(fd + 1, &raw mut set, none, none, std::ptr::null_mut()) as isize
        }
    }),
    ("waitpid", |q| {
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(q.child, std::ptr::null_mut(), 0) as isize }
    }),
    ("waitid", |q| {
        // SAFETY: zero is a valid empty value, and a place for the answer.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, q.child as u32, &raw mut info, libc::WEXITED) as isize
        }
    }),
    ("getaddrinfo", |_| {
        let mut list = std::ptr::null_mut();
        let none = std::ptr::null();
        // SAFETY: C strings and a place for the list.
        let code = unsafe {
            libc::getaddrinfo(c"localhost".as_ptr(), c"80".as_ptr(), none, &raw mut list)
        };
        if code == libc::EAI_SYSTEM { -1 } else { 0 }
    }),
];

fn errno_of(call: Call, quiet: &Quiet) -> Result<isize, i32> {
    match call(quiet) {
        -1 => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        result => Ok(result),
    }
}

#[test]
fn a_deadline_ends_every_call_that_can_say_so() {
    let told = on_one_worker(|| {
        CUT.iter()
            .map(|(name, call)| {
                let quiet = Quiet::new();
                let scope = match *name {
                    // Resolves within any time that is not over yet.
                    "getaddrinfo" => Duration::ZERO,
                    _ => SOON,
                };
                let result = Deadline::within(scope, || errno_of(*call, &quiet));
                quiet.end();
                (*name, result)
            })
            .collect::<Vec<_>>()
    });
    for (name, result) in told {
        assert_eq!(result, Err(libc::ETIMEDOUT), "{name}");
    }
}

#[test]
fn a_cancellation_ends_every_call_that_can_say_so() {
    let told = on_one_worker(|| {
        CUT.iter()
            .map(|(name, call)| {
                let quiet = Quiet::new();
                // Resolving ends by itself: it begins only once the caller is cancelled.
                let go = Arc::new(AtomicBool::new(*name != "getaddrinfo"));
                let going = Arc::clone(&go);
                let caller = spawn(move || {
                    while !going.load(Ordering::Acquire) {
                        rpc_core::yield_now();
                    }
                    (errno_of(*call, &quiet), quiet)
                });
                let_others_run();
                caller.cancel();
                go.store(true, Ordering::Release);
                let (result, quiet) = caller.join().unwrap();
                quiet.end();
                (*name, result)
            })
            .collect::<Vec<_>>()
    });
    for (name, result) in told {
        assert_eq!(result, Err(libc::ECANCELED), "{name}");
    }
}

#[test]
fn the_sockets_own_timeout_keeps_its_name_under_a_later_deadline() {
    let told = on_one_worker(|| {
        let own: &[&str] = &[
            "read tcp",
            "readv",
            "recv",
            "recv all",
            "recvfrom",
            "recvmsg",
            "write",
            "send",
            "sendmsg",
            "send a datagram",
            "accept",
        ];
        CUT.iter()
            .filter(|(name, _)| own.contains(name))
            .map(|(name, call)| {
                let quiet = Quiet::new();
                for fd in [
                    quiet.tcp.0.as_raw_fd(),
                    quiet.unix.0.as_raw_fd(),
                    quiet.udp.as_raw_fd(),
                    quiet.full_datagrams.0.as_raw_fd(),
                    quiet.listener.as_raw_fd(),
                ] {
                    limit_both(fd, SOON);
                }
                let later = Duration::from_secs(600);
                let result = Deadline::within(later, || errno_of(*call, &quiet));
                quiet.end();
                (*name, result)
            })
            .collect::<Vec<_>>()
    });
    assert_eq!(told.len(), 11);
    for (name, result) in told {
        assert_eq!(result, Err(libc::EAGAIN), "{name}");
    }
}

fn limit_both(fd: RawFd, limit: Duration) {
    let value = libc::timeval {
        tv_sec: 0,
        tv_usec: limit.subsec_micros().into(),
    };
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        let (place, size) = ((&raw const value).cast(), size_of_val(&value) as u32);
        // SAFETY: the value lives across the call.
        let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, place, size) };
        assert_eq!(set, 0);
    }
}

/// What std and C cannot bear to fail: each returns only once its `release` was called.
#[test]
fn calls_that_cannot_say_so_outlast_deadline_and_cancellation() {
    type Exempt = (&'static str, fn(&Arc<Gate>));
    const EXEMPT: &[Exempt] = &[
        ("condition variable", |gate| gate.wait()),
        ("epoll_wait", |gate| {
            // SAFETY: takes no pointers; the events live across the calls.
            unsafe {
                let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
                let mut event = libc::epoll_event {
                    events: libc::EPOLLIN as u32,
                    u64: 1,
                };
                let fd = gate.pipe.0.as_raw_fd();
                assert_eq!(
                    libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event),
                    0
                );
                assert_eq!(libc::epoll_wait(epoll, &raw mut event, 1, -1), 1);
                libc::close(epoll);
            }
        }),
        ("pthread_join", |gate| {
            let gate = Arc::clone(gate);
            std::thread::spawn(move || gate.wait()).join().unwrap();
        }),
        ("join", |gate| {
            let gate = Arc::clone(gate);
            spawn(move || gate.wait()).join().unwrap();
        }),
        ("file lock", |gate| {
            let second = File::open(gate.path()).unwrap();
            second.lock().unwrap();
        }),
        ("sleep", |gate| {
            while !gate.is_open() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }),
    ];
    for (name, call) in EXEMPT {
        let (too_early, after) = on_one_worker(move || {
            let gate = Arc::new(Gate::new());
            let inside = Arc::clone(&gate);
            let caller = spawn(move || {
                Deadline::within(SOON, || call(&inside));
                inside.is_open()
            });
            let begun = Instant::now();
            while begun.elapsed() < 2 * SOON {
                std::thread::sleep(SOON);
            }
            caller.cancel();
            let_others_run();
            let too_early = caller.is_finished();
            gate.open();
            (too_early, caller.join().unwrap())
        });
        assert!(!too_early && after, "{name}");
    }
}

/// Something to wait for in many ways.
struct Gate {
    state: Mutex<bool>,
    changed: Condvar,
    open: AtomicBool,
    pipe: (std::io::PipeReader, std::io::PipeWriter),
    locked: tempfile::NamedTempFile,
}

impl Gate {
    fn new() -> Self {
        let locked = tempfile::NamedTempFile::new().unwrap();
        locked.as_file().lock().unwrap();
        Self {
            state: Mutex::new(false),
            changed: Condvar::new(),
            open: AtomicBool::new(false),
            pipe: std::io::pipe().unwrap(),
            locked,
        }
    }

    fn path(&self) -> &std::path::Path {
        self.locked.path()
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    fn wait(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |open| !*open).unwrap());
    }

    fn open(&self) {
        self.open.store(true, Ordering::Release);
        *self.state.lock().unwrap() = true;
        self.changed.notify_all();
        (&self.pipe.1).write_all(b"x").unwrap();
        self.locked.as_file().unlock().unwrap();
    }
}

#[test]
fn a_connection_kept_when_cut_goes_on() {
    let (first, late) = on_one_worker(|| {
        let (mut near, mut far) = tcp_pair();
        keep_when_cut(&near).unwrap();
        let first = Deadline::within(SOON, || near.read(&mut [0; 8]).unwrap_err().kind());
        far.write_all(b"late").unwrap();
        let mut late = [0; 4];
        near.read_exact(&mut late).unwrap();
        (first, late)
    });
    assert_eq!((first, &late), (std::io::ErrorKind::TimedOut, b"late"));
    let refused = keep_when_cut(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
}
