//! Pipes, fifos, socket pairs, and copies that the kernel makes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::super::{pattern, tcp_pair};
use super::calls::{self, read, text, write};
use super::{Story, pause, told};

pub(super) fn pairs(story: &mut Story) {
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors.
        let made = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) };
        assert_eq!(made, 0);
        // SAFETY: just made.
        let [near, far] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        let fd = far.as_raw_fd();
        let reader =
            story.spawn(move || [(); 2].map(|()| text(3, |out| read(fd, out)).map(|s| s.len())));
        pause();
        story.tell("wrote", write(near.as_raw_fd(), b"abcdef"));
        story.tell("wrote", write(near.as_raw_fd(), b"gh"));
        let parts = reader();
        // A stream may give two parts of three; bounds are kept elsewhere.
        story.tell("read", parts);
        drop(near);
        let after = if kind == libc::SOCK_DGRAM {
            calls::recv(fd, &mut [0; 64], libc::MSG_DONTWAIT)
        } else {
            read(fd, &mut [0; 64])
        };
        story.tell("after", after);
    }
}

pub(super) fn pipe(story: &mut Story) {
    let (reader, writer) = std::io::pipe().unwrap();
    let (fd, into) = (reader.as_raw_fd(), writer.as_raw_fd());
    let sender = story.spawn(move || {
        let sent = write(writer.as_raw_fd(), &pattern(1 << 20));
        drop(writer);
        sent
    });
    let mut all = Vec::new();
    (&reader).read_to_end(&mut all).unwrap();
    story.tell("whole", all == pattern(1 << 20));
    story.tell("one call", sender());
    story.tell("end", read(fd, &mut [0; 4]));
    story.tell(
        "closed",
        calls::fcntl(into, libc::F_GETFL, 0).is_ok_and(|f| f < 0),
    );
    let (reader, writer) = std::io::pipe().unwrap();
    let into = writer.as_raw_fd();
    let blocked = story.spawn(move || {
        let first = write(into, &[0; 1 << 20]);
        (first.is_ok_and(|n| n < 1 << 20), write(into, b"x"))
    });
    pause();
    drop(reader);
    let (part, then) = blocked();
    // The reader left before or while the pipe was filled.
    story.tell("then", then);
    drop(writer);
    let _ = part;
    let (reader, writer) = std::io::pipe().unwrap();
    let mut on = 1;
    calls::ioctl(reader.as_raw_fd(), libc::FIONBIO as _, &mut on).unwrap();
    story.tell("nothing", read(reader.as_raw_fd(), &mut [0; 4]));
    calls::ioctl(writer.as_raw_fd(), libc::FIONBIO as _, &mut on).unwrap();
    let mut sent = 0;
    let full = loop {
        match write(writer.as_raw_fd(), &[0; 4096]) {
            Ok(n) => sent += n,
            Err(code) => break code,
        }
    };
    story.tell("full", (full, sent));
}

fn make_fifo(path: &Path) {
    let name = calls::c_path(path);
    // SAFETY: a C string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
}

pub(super) fn fifo(story: &mut Story) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    make_fifo(&path);
    let theirs = path.clone();
    // Each open waits for the other side's.
    let writer = story.spawn(move || {
        let file = File::options().write(true).open(theirs).unwrap();
        told((&file).write_all(&pattern(300_000)))
    });
    pause();
    let mut all = Vec::new();
    File::open(&path).unwrap().read_to_end(&mut all).unwrap();
    story.tell("whole", all == pattern(300_000));
    story.tell("writer", writer());
    let theirs = path.clone();
    let reader = story.spawn(move || {
        let mut text = String::new();
        File::open(theirs)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    });
    pause();
    let file = File::options().write(true).open(&path).unwrap();
    (&file).write_all(b"the other way round").unwrap();
    drop(file);
    story.tell("heard", reader());
    let both = File::options().read(true).write(true).open(&path);
    story.tell("both at once", told(both.map(drop)));
}

pub(super) fn fifo_opening_nonblocking(story: &mut Story) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    make_fifo(&path);
    let nonblocking = libc::O_NONBLOCK;
    let alone = File::options()
        .write(true)
        .custom_flags(nonblocking)
        .open(&path);
    story.tell("no reader", told(alone.map(drop)));
    let reader = File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(&path)
        .unwrap();
    story.tell("no writer", read(reader.as_raw_fd(), &mut [0; 4]));
    let writer = File::options().write(true).open(&path).unwrap();
    story.tell("nothing", read(reader.as_raw_fd(), &mut [0; 4]));
    (&writer).write_all(b"data").unwrap();
    story.tell("data", text(8, |out| read(reader.as_raw_fd(), out)));
    story.tell(
        "missing",
        told(File::open(folder.path().join("none")).map(drop)),
    );
}

pub(super) fn many_writers(story: &mut Story) {
    const LINE: usize = 512;
    let (reader, writer) = std::io::pipe().unwrap();
    let writers: Vec<_> = (0..8_u8)
        .map(|i| {
            let writer = writer.try_clone().unwrap();
            story.spawn(move || {
                (0..100).all(|_| write(writer.as_raw_fd(), &[i; LINE]) == Ok(LINE as isize))
            })
        })
        .collect();
    drop(writer);
    let mut all = Vec::new();
    (&reader).read_to_end(&mut all).unwrap();
    // Writes up to PIPE_BUF are never torn.
    let torn = all
        .chunks(LINE)
        .any(|line| line.iter().any(|b| *b != line[0]));
    story.tell("came", all.len());
    story.tell("torn", torn);
    for writer in writers {
        story.tell("writer", writer());
    }
}

/// sendfile, splice and tee by hand.
pub(super) fn copies_in_the_kernel(story: &mut Story) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    std::fs::write(&path, pattern(700_000)).unwrap();
    let file = File::open(&path).unwrap();
    let (near, mut far) = tcp_pair();
    let reader = story.spawn(move || {
        let mut all = Vec::new();
        far.read_to_end(&mut all).unwrap();
        all
    });
    let (out, from) = (near.as_raw_fd(), file.as_raw_fd());
    let mut at: libc::off_t = 100_000;
    story.tell(
        "from an offset",
        send_file(out, from, Some(&mut at), 300_000),
    );
    story.tell("offset", at);
    story.tell("from the position", send_file(out, from, None, 1 << 20));
    story.tell("at the end", send_file(out, from, None, 10));
    story.tell("from a socket", send_file(out, out, None, 10));
    drop(near);
    let all = reader();
    let expected = [&pattern(700_000)[100_000..400_000], &pattern(700_000)].concat();
    story.tell("as expected", all == expected);
    let (near, mut far) = tcp_pair();
    let (pipe, into) = std::io::pipe().unwrap();
    let (fd, out) = (near.as_raw_fd(), pipe.as_raw_fd());
    let mover = story.spawn(move || {
        let mut moved = 0;
        loop {
            let n = splice(fd, into.as_raw_fd(), 1 << 16).unwrap();
            if n == 0 {
                return moved;
            }
            moved += n;
        }
    });
    let writer = story.spawn(move || told(far.write_all(&pattern(500_000))));
    let mut all = Vec::new();
    (&pipe).read_to_end(&mut all).unwrap();
    story.tell("moved", mover());
    story.tell("written", writer());
    story.tell("whole", all == pattern(500_000));
    story.tell("end", splice(fd, out, 10));
    drop(near);
}

fn send_file(out: RawFd, from: RawFd, at: Option<&mut libc::off_t>, count: usize) -> calls::Told {
    let place = at.map_or(std::ptr::null_mut(), std::ptr::from_mut);
    let mut sent = 0;
    loop {
        // SAFETY: null or a place for the offset.
        let n = calls::told(unsafe { libc::sendfile(out, from, place, count - sent) })?;
        sent += n as usize;
        // How much one call moves is the kernel's affair.
        if n == 0 || sent == count {
            return Ok(sent as isize);
        }
    }
}

fn splice(from: RawFd, to: RawFd, count: usize) -> calls::Told {
    let (none, nowhere) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: no offsets are given.
    calls::told(unsafe { libc::splice(from, none, to, nowhere, count, 0) })
}

/// std picks sendfile, splice or copy_file_range where it can.
pub(super) fn io_copy(story: &mut Story) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    std::fs::write(&path, pattern(400_000)).unwrap();
    let (mut near, mut far) = tcp_pair();
    let source = path.clone();
    let sender = story.spawn(move || {
        let mut file = File::open(source).unwrap();
        told(std::io::copy(&mut file, &mut near))
    });
    let copy = folder.path().join("copy");
    let mut file = File::create(&copy).unwrap();
    story.tell("to a file", told(std::io::copy(&mut far, &mut file)));
    story.tell("sent", sender());
    story.tell("same", std::fs::read(&copy).unwrap() == pattern(400_000));
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let sender = story.spawn(move || {
        let mut file = File::open(path).unwrap();
        told(std::io::copy(&mut file, &mut writer))
    });
    let (mut near, mut far) = tcp_pair();
    let mover = story.spawn(move || told(std::io::copy(&mut reader, &mut near)));
    let mut all = Vec::new();
    far.read_to_end(&mut all).unwrap();
    story.tell("through a pipe", (sender(), mover()));
    story.tell("same", all == pattern(400_000));
}
