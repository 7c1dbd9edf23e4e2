//! Children, names, signals.

use std::io::{Read, Write};
use std::net::ToSocketAddrs;
use std::os::fd::{AsRawFd, RawFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};

use super::calls::{self, told as called, waitpid};
use super::{Story, pause, told};

pub(super) fn children(story: &mut Story) {
    let runs: Vec<_> = (0..3)
        .map(|i| {
            story.spawn(move || {
                let script = format!("cat; echo out{i}; echo err{i} >&2; exit {i}");
                let mut child = Command::new("sh")
                    .args(["-c", &script])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap();
                child.stdin.take().unwrap().write_all(b"in\n").unwrap();
                let output = child.wait_with_output().unwrap();
                let texts = [output.stdout, output.stderr];
                let texts = texts.map(|text| String::from_utf8(text).unwrap());
                (texts, output.status.code())
            })
        })
        .collect();
    for run in runs {
        story.tell("run", run());
    }
    let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    story.tell("still there", told(sleeper.try_wait()).map(|s| s.is_none()));
    sleeper.kill().unwrap();
    story.tell("killed", told(sleeper.wait()).map(|s| s.to_string()));
    let missing = Command::new("no-such-program-anywhere").spawn();
    story.tell("missing", told(missing.map(drop)));
}

pub(super) fn waits(story: &mut Story) {
    let (waits, release) = std::io::pipe().unwrap();
    let told_fd = waits.as_raw_fd();
    let child = |code: i32| {
        calls::fork(|| {
            let _ = calls::read(told_fd, &mut [0; 1]);
            code
        })
    };
    let (first, second, third) = (child(7), child(8), child(9));
    for pid in [second, third] {
        // SAFETY: takes numbers. A group of their own: other tests have children too.
        assert_eq!(unsafe { libc::setpgid(pid, second) }, 0);
    }
    story.tell("not yet", waitpid(first, libc::WNOHANG));
    let one = story.spawn(move || {
        let (result, status) = waitpid(first, 0);
        (result == Ok(first as isize), status)
    });
    let group = story.spawn(move || {
        let mut found = [(); 2].map(|()| {
            // SAFETY: zero is a valid empty value.
            let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
            let place = &raw mut info;
            // SAFETY: a place for the answer, filled on success.
            unsafe {
                let done = libc::waitid(libc::P_PGID, second as u32, place, libc::WEXITED);
                (called(done as isize), info.si_status())
            }
        });
        found.sort_unstable();
        found
    });
    pause();
    // A byte for each: children of other tests may have copies of an end that is closed.
    (&release).write_all(b"123").unwrap();
    story.tell("one", one());
    story.tell("group", group());
    story.tell("no such child", waitpid(first, 0).0);
    let wrong = waitpid(first, 0x4000).0;
    story.tell("wrong", wrong);
    let mut status = 0;
    // SAFETY: places for status and usage.
    let none = unsafe { libc::wait4(first, &raw mut status, 0, std::ptr::null_mut()) };
    story.tell("none", called(none as isize));
}

pub(super) fn pidfds(story: &mut Story) {
    let (waits, release) = std::io::pipe().unwrap();
    let told_fd = waits.as_raw_fd();
    let child = calls::fork(|| {
        let _ = calls::read(told_fd, &mut [0; 1]);
        5
    });
    // SAFETY: takes numbers.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, child, 0) };
    let pidfd = calls::owned(pidfd as RawFd);
    let fd = pidfd.as_raw_fd();
    story.tell("alive", calls::poll([calls::entry(fd, libc::POLLIN)], 0));
    let waiter = story.spawn(move || calls::poll([calls::entry(fd, libc::POLLIN)], 20_000));
    pause();
    (&release).write_all(b"1").unwrap();
    story.tell("ended", waiter());
    // SAFETY: zero is a valid empty value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: a place for the answer.
    let done = unsafe { libc::waitid(libc::P_PIDFD, fd as u32, &raw mut info, libc::WEXITED) };
    // SAFETY: filled by the call.
    story.tell(
        "waited",
        (called(done as isize), unsafe { info.si_status() }),
    );
}

/// Names that need no name server.
pub(super) fn names(story: &mut Story) {
    for name in ["localhost:80", "127.0.0.1:443", "[::1]:7"] {
        let lookups: Vec<_> = (0..3)
            .map(|_| {
                story.spawn(move || told(name.to_socket_addrs().map(|a| a.collect::<Vec<_>>())))
            })
            .collect();
        for lookup in lookups {
            story.tell(name, lookup());
        }
    }
    for (node, service, flags) in [
        (c"not a number", c"80", libc::AI_NUMERICHOST),
        (c"127.0.0.1", c"no-such-service", 0),
        (c"127.0.0.1", c"80", 0xffff),
    ] {
        // SAFETY: zero is a valid empty hint.
        let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
        hints.ai_flags = flags;
        hints.ai_socktype = libc::SOCK_STREAM;
        let (mut list, hints) = (std::ptr::null_mut(), &raw const hints);
        // SAFETY: C strings, hints and a place for the list, alive across the call.
        let code =
            unsafe { libc::getaddrinfo(node.as_ptr(), service.as_ptr(), hints, &raw mut list) };
        story.tell("code", code);
    }
}

/// The write end of the pipe that the handler writes to.
static TOLD: AtomicI32 = AtomicI32::new(-1);

extern "C" fn tell_by_pipe(_: libc::c_int) {
    let _ = calls::write(TOLD.load(Ordering::Relaxed), b"!");
}

/// The self-pipe trick, with a signal that is ignored where nobody handles it.
pub(super) fn signals(story: &mut Story) {
    let (reader, writer) = std::io::pipe().unwrap();
    TOLD.store(writer.as_raw_fd(), Ordering::Relaxed);
    // SAFETY: zero is a valid action; the handler only writes to a pipe.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = tell_by_pipe as extern "C" fn(libc::c_int) as usize;
    action.sa_flags = libc::SA_RESTART;
    let null = std::ptr::null_mut();
    // SAFETY: the action lives across the call.
    let set = unsafe { libc::sigaction(libc::SIGWINCH, &raw const action, null) };
    story.tell("set", set);
    let waiter = story.spawn(move || {
        let mut byte = [0];
        told((&reader).read(&mut byte)).map(|n| (n, byte))
    });
    pause();
    // SAFETY: a signal of this process that is handled.
    story.tell("sent", unsafe {
        libc::kill(libc::getpid(), libc::SIGWINCH)
    });
    story.tell("told", waiter());
    action.sa_sigaction = libc::SIG_DFL;
    // SAFETY: as above.
    story.tell("reset", unsafe {
        libc::sigaction(libc::SIGWINCH, &raw const action, null)
    });
    drop(writer);
    // A pipe without a reader: SIGPIPE is ignored in a Rust program.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    story.tell("nobody reads", calls::write(writer.as_raw_fd(), b"x"));
}
