//! Files that stand for events, terminals, sleeps, and std's locks.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use super::calls::{self, read, read_number, text, told as called, write, write_number};
use super::{Story, pause};

pub(super) fn eventfd(story: &mut Story) {
    let event = calls::eventfd(0, 0);
    let fd = event.as_raw_fd();
    let reader = story.spawn(move || read_number(fd));
    pause();
    story.tell("wrote", write_number(fd, 5));
    story.tell("read", reader());
    story.tell("too short", read(fd, &mut [0; 4]));
    let semaphore = calls::eventfd(0, libc::EFD_SEMAPHORE);
    let fd = semaphore.as_raw_fd();
    let readers: Vec<_> = (0..6)
        .map(|_| story.spawn(move || read_number(fd)))
        .collect();
    pause();
    write_number(fd, 2).unwrap();
    pause();
    write_number(fd, 4).unwrap();
    for reader in readers {
        story.tell("one of six", reader());
    }
    let quiet = calls::eventfd(0, libc::EFD_NONBLOCK);
    story.tell("nothing", read_number(quiet.as_raw_fd()));
}

pub(super) fn eventfd_full(story: &mut Story) {
    let event = calls::eventfd(0, 0);
    let fd = event.as_raw_fd();
    story.tell("never", write_number(fd, u64::MAX));
    story.tell("fill", write_number(fd, u64::MAX - 1));
    let writers: Vec<_> = (0..2)
        .map(|_| story.spawn(move || write_number(fd, 3)))
        .collect();
    pause();
    story.tell("taken", read_number(fd));
    for writer in writers {
        story.tell("writer", writer());
    }
    story.tell("sum", read_number(fd));
}

pub(super) fn timerfd(story: &mut Story) {
    // SAFETY: takes no pointers.
    let timer = calls::owned(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, 0) });
    let fd = timer.as_raw_fd();
    let set = |nanos: i64, again: i64| {
        // SAFETY: zero is a valid empty time.
        let mut when: libc::itimerspec = unsafe { std::mem::zeroed() };
        when.it_value.tv_nsec = nanos;
        when.it_interval.tv_nsec = again;
        // SAFETY: the setting lives across the call.
        let set = unsafe { libc::timerfd_settime(fd, 0, &raw const when, std::ptr::null_mut()) };
        assert_eq!(set, 0);
    };
    let reader = story.spawn(move || read_number(fd));
    pause();
    set(1_000_000, 0);
    story.tell("once", reader());
    set(1_000_000, 1_000_000);
    story.tell(
        "again and again",
        (0..3).all(|_| read_number(fd).is_ok_and(|n| n > 0)),
    );
    set(0, 0);
    calls::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK).unwrap();
    story.tell("stopped", read_number(fd));
}

pub(super) fn inotify(story: &mut Story) {
    let folder = tempfile::tempdir().unwrap();
    // SAFETY: takes no pointers.
    let watcher = calls::owned(unsafe { libc::inotify_init1(libc::IN_CLOEXEC) });
    let fd = watcher.as_raw_fd();
    let path = calls::c_path(folder.path());
    // SAFETY: a C string.
    let watch = unsafe { libc::inotify_add_watch(fd, path.as_ptr(), libc::IN_CREATE) };
    story.tell("watch", watch);
    let reader = story.spawn(move || {
        [(); 2].map(|()| {
            let mut event = [0; 64];
            // One event with a name of one word: 16 bytes and the name's 16.
            let n = read(fd, &mut event[..32]);
            (n, String::from_utf8_lossy(&event[16..20]).into_owned())
        })
    });
    for name in ["one.", "two."] {
        pause();
        std::fs::write(folder.path().join(name), b"").unwrap();
    }
    story.tell("created", reader());
    let quiet = calls::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK);
    story.tell("nothing more", (quiet, read(fd, &mut [0; 64])));
}

pub(super) fn tty(story: &mut Story) {
    let (mut controller, mut terminal): (RawFd, RawFd) = (-1, -1);
    let none = std::ptr::null_mut();
    let (places, size) = ((&raw mut controller, &raw mut terminal), std::ptr::null());
    // SAFETY: places for two descriptors; name, settings and size are left out.
    let made = unsafe { libc::openpty(places.0, places.1, none, std::ptr::null(), size) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: just made.
    let [controller, terminal] =
        [controller, terminal].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let fd = terminal.as_raw_fd();
    // SAFETY: takes a number.
    story.tell("is a tty", unsafe { libc::isatty(fd) });
    let reader = story.spawn(move || [(); 2].map(|()| text(64, |out| read(fd, out))));
    for part in ["a whole ", "line\n", "another\n"] {
        pause();
        write(controller.as_raw_fd(), part.as_bytes()).unwrap();
    }
    story.tell("lines", reader());
    // Both lines, their ends as the terminal shows them.
    let mut echo = [0; 23];
    File::from(controller.try_clone().unwrap())
        .read_exact(&mut echo)
        .unwrap();
    story.tell("echo", String::from_utf8_lossy(&echo).into_owned());
    let controlled = controller.as_raw_fd();
    let listener = story.spawn(move || text(64, |out| read(controlled, out)));
    pause();
    story.tell("answer", write(fd, b"answer"));
    story.tell("heard", listener());
    drop(terminal);
    story.tell("hung up", read(controlled, &mut [0; 4]));
}

pub(super) fn sleeps(story: &mut Story) {
    let begun = std::time::Instant::now();
    let sleepers: Vec<_> = [3, 1, 2]
        .into_iter()
        .map(|millis| story.spawn(move || std::thread::sleep(Duration::from_millis(millis))))
        .collect();
    sleepers.into_iter().for_each(|join| join());
    story.tell("not before", begun.elapsed() >= Duration::from_millis(3));
    let wrong = libc::timespec {
        tv_sec: 0,
        tv_nsec: 1_000_000_000,
    };
    let past = libc::timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    let mut left = past;
    let absolute = libc::TIMER_ABSTIME;
    // SAFETY: all times live across the calls; none is interrupted.
    unsafe {
        story.tell(
            "wrong",
            called(libc::nanosleep(&raw const wrong, &raw mut left) as isize),
        );
        for clock in [libc::CLOCK_MONOTONIC, libc::CLOCK_REALTIME, 99] {
            let done = libc::clock_nanosleep(clock, absolute, &raw const past, &raw mut left);
            story.tell("past", done);
        }
        story.tell("usleep", libc::usleep(100));
        story.tell("none", libc::sleep(0));
    }
    story.tell("untouched", (left.tv_sec, left.tv_nsec));
}

pub(super) fn locks_and_channels(story: &mut Story) {
    let (sender, receiver) = mpsc::sync_channel(1);
    let state = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
    let players: Vec<_> = (0..6)
        .map(|i| {
            let (state, sender) = (Arc::clone(&state), sender.clone());
            story.spawn(move || {
                let (list, changed) = &*state;
                let mut list = list.lock().unwrap();
                while list.len() != i {
                    list = changed.wait(list).unwrap();
                }
                list.push(i);
                sender.send(i * i).unwrap();
                changed.notify_all();
            })
        })
        .collect();
    drop(sender);
    for square in receiver.iter() {
        story.tell("square", square);
    }
    players.into_iter().for_each(|join| join());
    let (_sender, empty) = mpsc::channel::<()>();
    story.tell("late", empty.recv_timeout(Duration::from_millis(3)));
    let mut file = tempfile::tempfile().unwrap();
    story.tell("file", file.write_all(b"x").is_ok());
}
