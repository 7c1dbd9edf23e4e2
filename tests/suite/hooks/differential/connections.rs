//! Listening, accepting, connecting.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use super::super::sockets::refusing_address;
use super::calls::{self, Told, accept, listen};
use super::{Story, pause, told};

const SOON: Duration = Duration::from_millis(4);

/// `connect` of an IPv4 socket.
pub(super) fn connect_v4(fd: RawFd, to: SocketAddr) -> Told {
    let SocketAddr::V4(to) = to else {
        panic!("these tests listen on 127.0.0.1");
    };
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(to.ip().octets()),
        },
        sin_zero: [0; 8],
    };
    let (place, size) = ((&raw const address).cast(), size_of_val(&address) as u32);
    // SAFETY: the address lives across the call.
    calls::told(unsafe { libc::connect(fd, place, size) } as isize)
}

fn tcp_socket() -> OwnedFd {
    // SAFETY: takes numbers.
    calls::owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) })
}

pub(super) fn come_and_go(story: &mut Story) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = story.spawn(move || {
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
    for i in 0..20 {
        let mut peer = TcpStream::connect(address).unwrap();
        peer.write_all(format!("visitor {i}").as_bytes()).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        peer.read_to_string(&mut text).unwrap();
        story.tell("answer", text);
    }
    story.tell("bytes", server());
}

pub(super) fn accept_storm(story: &mut Story) {
    const CLIENTS: usize = 160;
    const ACCEPTORS: usize = 8;
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    let acceptors: Vec<_> = (0..ACCEPTORS)
        .map(|_| {
            let listener = Arc::clone(&listener);
            story.spawn(move || {
                let mut served = 0;
                while let Ok((mut peer, _)) = listener.accept() {
                    let mut byte = [0];
                    if peer.read(&mut byte).unwrap() == 0 {
                        break;
                    }
                    peer.write_all(&[byte[0] ^ 0xff]).unwrap();
                    served += 1;
                }
                served
            })
        })
        .collect();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|i| {
            story.spawn(move || {
                let mut peer = TcpStream::connect(address).unwrap();
                let byte = i as u8;
                peer.write_all(&[byte]).unwrap();
                let mut back = [0];
                peer.read_exact(&mut back).unwrap();
                back[0] == byte ^ 0xff
            })
        })
        .collect();
    let right = clients
        .into_iter()
        .filter_map(|join| join().then_some(()))
        .count();
    story.tell("right answers", right);
    // One silent visitor sends each acceptor home.
    for _ in 0..ACCEPTORS {
        drop(TcpStream::connect(address).unwrap());
    }
    let served: usize = acceptors.into_iter().map(|join| join()).sum();
    story.tell("served", served);
}

pub(super) fn refused(story: &mut Story) {
    let (_bound, nobody) = refusing_address();
    story.tell("tcp", told(TcpStream::connect(nobody).map(drop)));
    let socket = tcp_socket();
    story.tell("by hand", connect_v4(socket.as_raw_fd(), nobody));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nobody");
    story.tell("no path", told(UnixStream::connect(&path).map(drop)));
    drop(UnixListener::bind(&path).unwrap());
    story.tell("nobody listens", told(UnixStream::connect(&path).map(drop)));
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    story.tell("a file", told(UnixStream::connect(&file).map(drop)));
}

pub(super) fn connect_timeout(story: &mut Story) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // The queue now holds one; the kernel lets the next knock in vain.
    listen(listener.as_raw_fd(), 0).unwrap();
    let address = listener.local_addr().unwrap();
    let _first = TcpStream::connect(address).unwrap();
    let late = TcpStream::connect_timeout(&address, SOON);
    story.tell("std", late.map(drop).map_err(|e| e.kind().to_string()));
    let socket = tcp_socket();
    let fd = socket.as_raw_fd();
    calls::set_timeout(fd, libc::SO_SNDTIMEO, SOON);
    story.tell("by the socket", connect_v4(fd, address));
    story.tell("flag", calls::is_nonblocking(fd));
    story.tell("again", connect_v4(fd, address));
}

pub(super) fn full_unix_backlog(story: &mut Story) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small");
    let listener = UnixListener::bind(&path).unwrap();
    listen(listener.as_raw_fd(), 0).unwrap();
    let clients: Vec<_> = (0..5)
        .map(|_| {
            let path = path.clone();
            story.spawn(move || told(UnixStream::connect(path).map(drop)))
        })
        .collect();
    pause();
    for _ in 0..5 {
        story.tell("accepted", told(listener.accept().map(drop)));
    }
    for client in clients {
        story.tell("client", client());
    }
    let _waits = UnixStream::connect(&path).unwrap();
    // SAFETY: takes numbers.
    let socket = calls::owned(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) });
    calls::set_timeout(socket.as_raw_fd(), libc::SO_SNDTIMEO, SOON);
    story.tell("cut", connect_unix(socket.as_raw_fd(), &path));
}

fn connect_unix(fd: RawFd, path: &std::path::Path) -> Told {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: zero is a valid empty address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (place, byte) in address.sun_path.iter_mut().zip(path.as_os_str().as_bytes()) {
        *place = *byte as libc::c_char;
    }
    let (place, size) = ((&raw const address).cast(), size_of_val(&address) as u32);
    // SAFETY: the address lives across the call.
    calls::told(unsafe { libc::connect(fd, place, size) } as isize)
}

pub(super) fn listener_states(story: &mut Story) {
    let socket = tcp_socket();
    let fd = socket.as_raw_fd();
    story.tell("not listening", accept(fd));
    story.tell("not connected", calls::send(fd, b"x", 0));
    story.tell("not connected", calls::recv(fd, &mut [0; 4], 0));
    story.tell("listen", listen(fd, 4));
    calls::set_timeout(fd, libc::SO_RCVTIMEO, SOON);
    story.tell("nobody in time", accept(fd));
    story.tell("flag", calls::is_nonblocking(fd));
    story.tell("read", calls::recv(fd, &mut [0; 4], 0));
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let peer = TcpStream::connect(address).unwrap();
    story.tell("connected twice", connect_v4(peer.as_raw_fd(), address));
    let (far, _) = listener.accept().unwrap();
    story.tell("inherited", told(far.read_timeout()));
    story.tell("cut", told((&far).read(&mut [0; 4])));
    story.tell("accept on a connection", accept(peer.as_raw_fd()));
    // SAFETY: takes numbers.
    let dgram = calls::owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0) });
    story.tell("accept on datagrams", accept(dgram.as_raw_fd()));
    story.tell("accepted blocks", !calls::is_nonblocking(far.as_raw_fd()));
}

pub(super) fn accept_by_threads_too(story: &mut Story) {
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    let take = |listener: &TcpListener| told(listener.accept().map(drop)).is_ok();
    let ours: Vec<_> = (0..4)
        .map(|_| {
            let listener = Arc::clone(&listener);
            story.spawn(move || take(&listener))
        })
        .collect();
    pause();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let listener = Arc::clone(&listener);
            std::thread::spawn(move || take(&listener))
        })
        .collect();
    pause();
    let clients: Vec<_> = (0..8)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    for join in ours {
        story.tell("ours", join());
    }
    for thread in threads {
        story.tell("thread", thread.join().unwrap());
    }
    story.tell("clients", clients.len());
}

pub(super) fn sequenced_packets(story: &mut Story) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("packets");
    // SAFETY: takes numbers.
    let make = || calls::owned(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0) });
    let listener = make();
    bind_unix(listener.as_raw_fd(), &path);
    listen(listener.as_raw_fd(), 2).unwrap();
    let client = story.spawn(move || {
        let socket = make();
        let fd = socket.as_raw_fd();
        let connected = connect_unix(fd, &path);
        for size in [3, 700, 1] {
            pause();
            calls::send(fd, &super::super::pattern(size), 0).unwrap();
        }
        connected
    });
    let peer = calls::owned(accept(listener.as_raw_fd()).unwrap() as RawFd);
    for _ in 0..4 {
        let packet = calls::recv(peer.as_raw_fd(), &mut [0; 64], 0);
        story.tell("packet", packet);
    }
    story.tell("client", client());
}

fn bind_unix(fd: RawFd, path: &std::path::Path) {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: zero is a valid empty address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (place, byte) in address.sun_path.iter_mut().zip(path.as_os_str().as_bytes()) {
        *place = *byte as libc::c_char;
    }
    let (place, size) = ((&raw const address).cast(), size_of_val(&address) as u32);
    // SAFETY: the address lives across the call.
    assert_eq!(unsafe { libc::bind(fd, place, size) }, 0);
}
