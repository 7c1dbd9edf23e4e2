//! Regular files and their locks.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;

use super::super::pattern;
use super::calls::{self, Told, told as called};
use super::{Story, pause, told};

pub(super) fn regular(story: &mut Story) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    story.tell("write", told(file.write_all(&pattern(100_000))));
    story.tell("seek", told(file.seek(SeekFrom::Start(99_990))));
    story.tell("read", told(file.read(&mut [0; 64])));
    story.tell("end", told(file.read(&mut [0; 64])));
    let mut part = [0; 5];
    story.tell(
        "at",
        (told(file.read_at(&mut part, 7)), part == pattern(12)[7..]),
    );
    story.tell("write at", told(file.write_at(b"x", 200_000)));
    story.tell("length", told(file.metadata()).map(|m| m.len()));
    story.tell("sync", told(file.sync_all()));
    story.tell("sync data", told(file.sync_data()));
    let workers: Vec<_> = (0..4_u8)
        .map(|i| {
            let file = File::options().append(true).open(&path).unwrap();
            story.spawn(move || (0..50).all(|_| (&file).write(&[i; 100]).is_ok_and(|n| n == 100)))
        })
        .collect();
    for worker in workers {
        story.tell("appended", worker());
    }
    story.tell("length", told(std::fs::metadata(&path)).map(|m| m.len()));
    story.tell(
        "copied",
        told(std::fs::copy(&path, folder.path().join("copy"))),
    );
}

pub(super) fn flock(story: &mut Story) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    let files = [(); 3].map(|()| {
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap()
    });
    let [first, second, third] = &files;
    story.tell("mine", told(first.lock()));
    story.tell("not at once", second.try_lock().is_err());
    let waiters: Vec<_> = [second, third]
        .into_iter()
        .map(|file| {
            let file = file.try_clone().unwrap();
            story.spawn(move || (told(file.lock()), told(file.unlock())))
        })
        .collect();
    pause();
    story.tell("given back", told(first.unlock()));
    for waiter in waiters {
        story.tell("waiter", waiter());
    }
    story.tell(
        "shared",
        [first, second].map(|file| told(file.lock_shared())),
    );
    story.tell("not alone", third.try_lock().is_err());
}

pub(super) fn open_file_locks(story: &mut Story) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    let files = [(); 2].map(|()| {
        File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap()
    });
    let [first, second] = files;
    story.tell(
        "mine",
        lock(first.as_raw_fd(), libc::F_OFD_SETLK, libc::F_WRLCK),
    );
    let fd = second.as_raw_fd();
    story.tell("not at once", lock(fd, libc::F_OFD_SETLK, libc::F_RDLCK));
    let waiter = story.spawn(move || lock(fd, libc::F_OFD_SETLKW, libc::F_RDLCK));
    pause();
    story.tell(
        "given back",
        lock(first.as_raw_fd(), libc::F_OFD_SETLK, libc::F_UNLCK),
    );
    story.tell("waiter", waiter());
    story.tell("wrong", lock(fd, libc::F_OFD_SETLKW, 99));
}

fn lock(fd: RawFd, command: i32, kind: i32) -> Told {
    // SAFETY: zero is a valid empty lock: the whole file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as _;
    // SAFETY: the lock lives across the call.
    called(unsafe { libc::fcntl(fd, command, &raw mut lock) } as isize)
}

/// Record locks belong to the process: a child holds the lock.
pub(super) fn lockf(story: &mut Story) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    let file = File::create(&path).unwrap();
    let fd = file.as_raw_fd();
    let (held, mut says) = std::io::pipe().unwrap();
    let (waits, release) = std::io::pipe().unwrap();
    let told_fd = waits.as_raw_fd();
    let child = calls::fork(|| {
        // SAFETY: takes numbers.
        let locked = unsafe { libc::lockf(fd, libc::F_LOCK, 0) };
        let said = says.write(b"+").is_ok();
        let _ = calls::read(told_fd, &mut [0; 1]);
        i32::from(locked != 0 || !said)
    });
    (&held).read_exact(&mut [0; 1]).unwrap();
    // SAFETY: takes numbers.
    let ask = move |command| called(unsafe { libc::lockf(fd, command, 0) } as isize);
    story.tell("not at once", ask(libc::F_TLOCK));
    story.tell("another's", ask(libc::F_TEST));
    let waiter = story.spawn(move || ask(libc::F_LOCK));
    pause();
    (&release).write_all(b"1").unwrap();
    story.tell("waiter", waiter());
    story.tell("child", calls::waitpid(child, 0).1);
    story.tell("given back", ask(libc::F_ULOCK));
    story.tell("wrong", ask(77));
    // SAFETY: takes numbers.
    story.tell(
        "not open",
        called(unsafe { libc::lockf(1_000_000, libc::F_LOCK, 0) } as isize),
    );
    drop(file);
}
