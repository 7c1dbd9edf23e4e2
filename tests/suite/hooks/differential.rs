//! The same program on OS threads and on coroutines must tell the same story.
//!
//! A program spawns through [`Kind`] and returns lines. What differs on purpose stands in the table on
//! the front page of `hook/` and is tested by name elsewhere.

use std::fmt::Debug;
use std::io::{IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use super::sockets::refusing_address;
use super::{on_one_worker, pattern, tcp_pair};

/// What a program's threads are.
#[derive(Clone, Copy)]
enum Kind {
    Threads,
    Coroutines,
}

/// Waits for the end of something spawned.
type Join<T> = Box<dyn FnOnce() -> T>;

impl Kind {
    fn spawn<T: Send + 'static>(self, f: impl FnOnce() -> T + Send + 'static) -> Join<T> {
        match self {
            Self::Threads => {
                let handle = std::thread::spawn(f);
                Box::new(move || handle.join().unwrap())
            }
            Self::Coroutines => {
                let handle = rpc_core::spawn(f);
                Box::new(move || handle.join().unwrap())
            }
        }
    }
}

fn same_on_both(program: fn(Kind) -> Vec<String>) {
    let on_threads = program(Kind::Threads);
    let on_coroutines = on_one_worker(move || program(Kind::Coroutines));
    assert_eq!(on_threads, on_coroutines);
    assert!(!on_threads.is_empty());
}

fn line(name: &str, value: impl Debug) -> String {
    format!("{name}: {value:?}")
}

/// Result of a call, errors by number.
fn told(result: std::io::Result<usize>) -> Result<usize, Option<i32>> {
    result.map_err(|error| error.raw_os_error())
}

#[test]
fn tcp_reads_and_writes() {
    same_on_both(|kind| {
        let (mut near, mut far) = tcp_pair();
        let echo = kind.spawn(move || {
            let mut heard = Vec::new();
            let mut part = [0; 64];
            loop {
                match far.read(&mut part) {
                    Ok(0) | Err(_) => return heard,
                    Ok(n) => {
                        heard.extend_from_slice(&part[..n]);
                        far.write_all(&part[..n]).unwrap();
                    }
                }
            }
        });
        let mut lines = Vec::new();
        for size in [1, 63, 64, 65, 1000] {
            let data = pattern(size);
            lines.push(line("wrote", told(near.write(&data))));
            let mut back = vec![0; size];
            near.read_exact(&mut back).unwrap();
            lines.push(line("same", back == data));
        }
        let (fd, nowhere) = (near.as_raw_fd(), std::ptr::null_mut());
        // SAFETY: no byte is asked for. (`recv` of none would wait for data, on threads too.)
        let nothing = c_call(|| unsafe { libc::read(fd, nowhere, 0) });
        lines.push(line("empty read", nothing));
        lines.push(line("empty write", told(near.write(&[]))));
        lines.push(line("shutdown", near.shutdown(Shutdown::Write).is_ok()));
        lines.push(line("end", told(near.read(&mut [0; 8]))));
        lines.push(line("heard", echo().len()));
        lines.push(line("after shutdown", told(near.write(b"x"))));
        lines
    });
}

#[test]
fn errors_of_every_call() {
    same_on_both(|_| {
        let mut lines = Vec::new();
        let (near, far) = tcp_pair();
        let folder = std::fs::File::open("/").unwrap();
        let bad = 1_000_000;
        let mut byte = [0_u8];
        let place = byte.as_mut_ptr().cast();
        // SAFETY: one byte at `place`; the descriptors are open, or meant to be refused.
        unsafe {
            for (name, fd) in [("folder", folder.as_raw_fd()), ("bad", bad)] {
                lines.push(line(name, c_call(|| libc::read(fd, place, 1))));
                lines.push(line(name, c_call(|| libc::recv(fd, place, 1, 0))));
                lines.push(line(name, c_call(|| libc::write(fd, place, 1))));
                lines.push(line(name, c_call(|| libc::send(fd, place, 1, 0))));
                let (none, nowhere) = (std::ptr::null_mut(), std::ptr::null_mut());
                lines.push(line(
                    name,
                    c_call(|| libc::accept(fd, none, nowhere) as isize),
                ));
            }
            let fd = near.as_raw_fd();
            let (none, nowhere) = (std::ptr::null_mut(), std::ptr::null_mut());
            let accepted = c_call(|| libc::accept(fd, none, nowhere) as isize);
            lines.push(line("accept on a connection", accepted));
            let nobody = c_call(|| libc::recv(fd, place, 1, libc::MSG_DONTWAIT));
            lines.push(line("dontwait", nobody));
            lines.push(line(
                "oob",
                c_call(|| libc::recv(fd, place, 1, libc::MSG_OOB)),
            ));
            let vectors = c_call(|| libc::readv(fd, std::ptr::null(), 2000));
            lines.push(line("too many vectors", vectors));
            drop(far);
            lines.push(line("end", c_call(|| libc::read(fd, place, 1))));
            let flags = libc::MSG_NOSIGNAL;
            let _ = libc::send(fd, place, 1, flags);
            let mut gone = 0;
            while libc::send(fd, place, 1, flags) == 1 {
                gone += 1;
                assert!(gone < 1_000_000);
            }
            lines.push(line("pipe", std::io::Error::last_os_error().raw_os_error()));
        }
        lines
    });
}

fn c_call(call: impl FnOnce() -> isize) -> Result<isize, Option<i32>> {
    let result = call();
    if result >= 0 {
        return Ok(result);
    }
    Err(std::io::Error::last_os_error().raw_os_error())
}

#[test]
fn datagrams() {
    same_on_both(|kind| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let receiver = kind.spawn(move || {
            let mut lines = Vec::new();
            for _ in 0..5 {
                let mut data = [0; 8];
                lines.push(line("got", socket.recv(&mut data).map_err(|e| e.kind())));
            }
            socket
                .set_read_timeout(Some(Duration::from_millis(3)))
                .unwrap();
            lines.push(line("none", told(socket.recv(&mut [0; 8]))));
            lines
        });
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(address).unwrap();
        for size in [0, 1, 7, 8, 20] {
            sender.send(&pattern(size)).unwrap();
        }
        receiver()
    });
}

#[test]
fn unix_pairs_keep_bounds_or_do_not() {
    same_on_both(|kind| {
        let (near, far) = UnixDatagram::pair().unwrap();
        let (mut stream, mut other) = UnixStream::pair().unwrap();
        let sender = kind.spawn(move || {
            for size in [3, 5, 0, 9] {
                near.send(&pattern(size)).unwrap();
            }
            let parts = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cde")];
            stream.write_vectored(&parts).unwrap()
        });
        let mut lines: Vec<_> = (0..4)
            .map(|_| line("message", told(far.recv(&mut [0; 6]))))
            .collect();
        lines.push(line("wrote", sender()));
        let mut text = String::new();
        other.read_to_string(&mut text).unwrap();
        lines.push(text);
        lines
    });
}

#[test]
fn locks_and_channels() {
    same_on_both(|kind| {
        let (sender, receiver) = mpsc::sync_channel(1);
        let state = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let players: Vec<_> = (0..6)
            .map(|i| {
                let (state, sender) = (Arc::clone(&state), sender.clone());
                kind.spawn(move || {
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
        let mut lines: Vec<_> = receiver.iter().map(|v| line("square", v)).collect();
        players.into_iter().for_each(|join| join());
        let (_sender, empty) = mpsc::channel::<()>();
        let late = empty.recv_timeout(Duration::from_millis(3));
        lines.push(line("late", late));
        lines
    });
}

#[test]
fn connections_come_and_go() {
    same_on_both(|kind| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = kind.spawn(move || {
            (0..20)
                .map(|_| {
                    let (mut peer, _) = listener.accept().unwrap();
                    let mut text = String::new();
                    peer.read_to_string(&mut text).unwrap();
                    peer.write_all(text.to_uppercase().as_bytes()).unwrap();
                    text.len()
                })
                .sum::<usize>()
        });
        let mut lines = Vec::new();
        for i in 0..20 {
            let mut peer = TcpStream::connect(address).unwrap();
            peer.write_all(format!("visitor {i}").as_bytes()).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            let mut text = String::new();
            peer.read_to_string(&mut text).unwrap();
            lines.push(text);
        }
        lines.push(line("bytes", server()));
        let (_bound, nobody) = refusing_address();
        let refused = TcpStream::connect(nobody).map_err(|e| e.kind());
        lines.push(line("refused", refused.map(drop)));
        lines
    });
}
