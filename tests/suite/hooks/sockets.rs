//! TCP, UDP and Unix sockets through plain `std::net` and an unmodified HTTP client.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use rpc_core::spawn;

use super::{let_others_run, on_one_worker, pattern, tcp_pair};

#[test]
fn two_coroutines_of_one_worker_talk_over_tcp() {
    let (heard, answered) = on_one_worker(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut question = [0; 5];
            peer.read_exact(&mut question).unwrap();
            peer.write_all(b"world").unwrap();
            String::from_utf8(question.to_vec()).unwrap()
        });
        let client = spawn(move || {
            let mut peer = TcpStream::connect(address).unwrap();
            peer.write_all(b"hello").unwrap();
            let mut answer = String::new();
            peer.read_to_string(&mut answer).unwrap();
            answer
        });
        (server.join().unwrap(), client.join().unwrap())
    });
    assert_eq!((heard.as_str(), answered.as_str()), ("hello", "world"));
}

#[test]
fn two_coroutines_of_one_worker_talk_over_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let heard = on_one_worker(move || {
        let listener = UnixListener::bind(&path).unwrap();
        let server = spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut text = String::new();
            peer.read_to_string(&mut text).unwrap();
            text
        });
        let mut peer = UnixStream::connect(&path).unwrap();
        peer.write_all(b"over a path").unwrap();
        drop(peer);
        server.join().unwrap()
    });
    assert_eq!(heard, "over a path");
}

#[test]
fn a_thousand_unmodified_http_clients_wait_at_once_on_one_worker() {
    const CALLS: usize = 1000;
    let most = on_one_worker(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        // Nobody is answered before all have asked: without overlap nobody would ever be.
        let all_asked = Arc::new(Barrier::new(CALLS));
        let counts = Arc::clone(&open);
        spawn(move || {
            // Ends when the runtime does: `accept` then says that it was cancelled.
            while let Ok((peer, _)) = listener.accept() {
                let (counts, all_asked) = (Arc::clone(&counts), Arc::clone(&all_asked));
                spawn(move || answer_http(peer, &counts, &all_asked));
            }
        });
        let clients: Vec<_> = (0..CALLS)
            .map(|i| {
                spawn(move || {
                    let url = format!("http://{address}/{i}");
                    let mut answer = ureq::get(&url).call().unwrap();
                    answer.body_mut().read_to_string().unwrap()
                })
            })
            .collect();
        for client in clients {
            assert_eq!(client.join().unwrap(), "late");
        }
        open.1.load(Ordering::Relaxed)
    });
    assert_eq!(most, CALLS);
}

/// Reads one request, waits for the others and 100 ms, answers.
fn answer_http(mut peer: TcpStream, counts: &(AtomicUsize, AtomicUsize), all_asked: &Barrier) {
    let (now, most) = counts;
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        let n = peer.read(&mut part).unwrap();
        assert_ne!(n, 0, "the client hung up before its request was complete");
        request.extend_from_slice(&part[..n]);
    }
    most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
    all_asked.wait();
    std::thread::sleep(std::time::Duration::from_millis(100));
    now.fetch_sub(1, Ordering::Relaxed);
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nlate";
    peer.write_all(answer.as_bytes()).unwrap();
}

#[test]
fn eight_megabytes_arrive_whole_though_every_write_is_partial() {
    let sent = pattern(8 << 20);
    let expected = sent.clone();
    for unix in [false, true] {
        let sent = sent.clone();
        let received = on_one_worker(move || {
            if unix {
                let (near, far) = UnixStream::pair().unwrap();
                ship(near, far, sent)
            } else {
                let (near, far) = tcp_pair();
                ship(near, far, sent)
            }
        });
        assert!(received == expected, "unix: {unix}");
    }
}

/// Writes all of `data` in one coroutine and reads to the end in another.
fn ship<S: Read + Write + Send + 'static>(mut near: S, mut far: S, data: Vec<u8>) -> Vec<u8> {
    let writer = spawn(move || near.write_all(&data).unwrap());
    let reader = spawn(move || {
        let mut all = Vec::new();
        far.read_to_end(&mut all).unwrap();
        all
    });
    writer.join().unwrap();
    reader.join().unwrap()
}

#[test]
fn a_blocking_write_returns_only_when_all_is_written() {
    let (wrote, read) = on_one_worker(|| {
        let (mut near, mut far) = tcp_pair();
        let data = pattern(4 << 20);
        let writer = spawn(move || near.write(&data).unwrap());
        let reader = spawn(move || std::io::copy(&mut far, &mut std::io::sink()).unwrap());
        (writer.join().unwrap(), reader.join().unwrap())
    });
    assert_eq!((wrote, read), (4 << 20, 4 << 20));
}

#[test]
fn vectored_writes_and_reads_keep_their_order() {
    let (sent, received) = on_one_worker(|| {
        let (mut near, mut far) = tcp_pair();
        let parts: Vec<Vec<u8>> = (0..7).map(|i| pattern(400_000 + 13 * i)).collect();
        let whole = parts.concat();
        let writer = spawn(move || {
            let slices: Vec<_> = parts.iter().map(|p| std::io::IoSlice::new(p)).collect();
            near.write_vectored(&slices).unwrap()
        });
        let reader = spawn(move || {
            let mut all = Vec::new();
            loop {
                let (mut a, mut b) = (vec![0; 1000], vec![0; 70_000]);
                let mut slices = [
                    std::io::IoSliceMut::new(&mut a),
                    std::io::IoSliceMut::new(&mut b),
                ];
                let n = far.read_vectored(&mut slices).unwrap();
                if n == 0 {
                    return all;
                }
                all.extend_from_slice(&[a, b].concat()[..n]);
            }
        });
        assert_eq!(writer.join().unwrap(), whole.len());
        (whole, reader.join().unwrap())
    });
    assert!(sent == received);
}

#[test]
fn a_file_is_copied_into_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    std::fs::write(&path, pattern(3 << 20)).unwrap();
    let received = on_one_worker(move || {
        let (mut near, mut far) = tcp_pair();
        let copier = spawn(move || {
            let mut file = std::fs::File::open(path).unwrap();
            std::io::copy(&mut file, &mut near).unwrap()
        });
        let mut all = Vec::new();
        far.read_to_end(&mut all).unwrap();
        assert_eq!(copier.join().unwrap(), 3 << 20);
        all
    });
    assert!(received == pattern(3 << 20));
}

#[test]
fn a_half_closed_connection_still_carries_the_answer() {
    let answer = on_one_worker(|| {
        let (mut near, mut far) = tcp_pair();
        let server = spawn(move || {
            let mut question = String::new();
            far.read_to_string(&mut question).unwrap();
            far.write_all(question.to_uppercase().as_bytes()).unwrap();
        });
        near.write_all(b"said before the end").unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        near.read_to_string(&mut answer).unwrap();
        server.join().unwrap();
        answer
    });
    assert_eq!(answer, "SAID BEFORE THE END");
}

#[test]
fn a_refused_connection_says_so() {
    let kind = on_one_worker(|| {
        let (_bound, address) = refusing_address();
        TcpStream::connect(address).unwrap_err().kind()
    });
    assert_eq!(kind, ErrorKind::ConnectionRefused);
}

/// An address that refuses connections for as long as the descriptor lives: bound, never listening.
/// (A port that was merely closed may be the next test's.)
pub(super) fn refusing_address() -> (OwnedFd, SocketAddr) {
    // SAFETY: takes numbers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0);
    // SAFETY: just made, owned by nobody else.
    let socket = TcpListener::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let mut name = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from(std::net::Ipv4Addr::LOCALHOST).to_be(),
        },
        sin_zero: [0; 8],
    };
    let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: a name of that size.
    let bound = unsafe { libc::bind(fd, (&raw mut name).cast(), size) };
    assert_eq!(bound, 0);
    let address = socket.local_addr().unwrap();
    (socket.into(), address)
}

#[test]
fn connect_leaves_the_socket_blocking_and_so_does_accept() {
    on_one_worker(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = spawn(move || TcpStream::connect(address).unwrap());
        let (mut far, _) = listener.accept().unwrap();
        let near = client.join().unwrap();
        let reader = spawn(move || {
            let _ = far.read(&mut [0; 8]);
            far
        });
        let_others_run();
        for fd in [listener.as_raw_fd(), near.as_raw_fd()] {
            assert_eq!(flags_of(fd) & libc::O_NONBLOCK, 0, "descriptor {fd}");
        }
        drop(near);
        let far = reader.join().unwrap();
        assert_eq!(flags_of(far.as_raw_fd()) & libc::O_NONBLOCK, 0);
    });
}

fn flags_of(fd: i32) -> i32 {
    // SAFETY: asks for the flags of an open descriptor.
    unsafe { libc::fcntl(fd, libc::F_GETFL) }
}

#[test]
fn threads_accept_on_a_listener_that_a_coroutine_waits_on() {
    let names = on_one_worker(|| {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let theirs = Arc::clone(&listener);
        let acceptor = spawn(move || theirs.accept().unwrap().1);
        let_others_run();
        // From now on the kernel's flag is ours; the thread must not see WouldBlock.
        let thread = std::thread::spawn(move || listener.accept().map(|(_, peer)| peer));
        let (one, two) = (
            TcpStream::connect(address).unwrap(),
            TcpStream::connect(address).unwrap(),
        );
        let in_coroutine = acceptor.join().unwrap();
        let in_thread = thread.join().unwrap().unwrap();
        let mut found = [in_coroutine, in_thread];
        found.sort();
        let mut made = [one.local_addr().unwrap(), two.local_addr().unwrap()];
        made.sort();
        (found, made)
    });
    assert_eq!(names.0, names.1);
}

#[test]
fn a_socket_the_program_made_non_blocking_says_would_block() {
    on_one_worker(|| {
        let (near, mut far) = tcp_pair();
        near.set_nonblocking(true).unwrap();
        let kind = (&near).read(&mut [0; 8]).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::WouldBlock);
        assert_ne!(flags_of(near.as_raw_fd()) & libc::O_NONBLOCK, 0);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        near.set_nonblocking(false).unwrap();
        let reader = spawn(move || {
            let mut byte = [0];
            (&near).read_exact(&mut byte).unwrap();
            byte[0]
        });
        let_others_run();
        far.write_all(b"x").unwrap();
        assert_eq!(reader.join().unwrap(), b'x');
    });
}

#[test]
fn datagrams_wake_every_reader_one_each() {
    let mut got = on_one_worker(|| {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let address = socket.local_addr().unwrap();
        let readers: Vec<_> = (0..10)
            .map(|_| {
                let socket = Arc::clone(&socket);
                spawn(move || {
                    let mut data = [0; 16];
                    let (n, _) = socket.recv_from(&mut data).unwrap();
                    assert_eq!(n, 1);
                    data[0]
                })
            })
            .collect();
        let_others_run();
        // All in one go: the reactor may see a single edge for the lot.
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for i in 0..10 {
            sender.send_to(&[i], address).unwrap();
        }
        readers
            .into_iter()
            .map(|r| r.join().unwrap())
            .collect::<Vec<u8>>()
    });
    got.sort_unstable();
    assert_eq!(got, (0..10).collect::<Vec<u8>>());
}

#[test]
fn a_full_unix_datagram_queue_holds_the_sender_back() {
    let (sent, received) = on_one_worker(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inbox");
        let inbox = UnixDatagram::bind(&path).unwrap();
        let sender = spawn(move || {
            let outbox = UnixDatagram::unbound().unwrap();
            for i in 0..200_u32 {
                outbox.send_to(&i.to_le_bytes(), &path).unwrap();
            }
            (0..200_u32).collect::<Vec<_>>()
        });
        let received = (0..200)
            .map(|_| {
                let mut data = [0; 4];
                inbox.recv(&mut data).unwrap();
                u32::from_le_bytes(data)
            })
            .collect::<Vec<_>>();
        (sender.join().unwrap(), received)
    });
    assert_eq!(sent, received);
}

#[test]
fn names_are_resolved_without_blocking_the_worker() {
    let found = on_one_worker(|| {
        let lookups: Vec<_> = (0..4)
            .map(|_| spawn(|| ("localhost", 80).to_socket_addrs().unwrap().count()))
            .collect();
        lookups
            .into_iter()
            .map(|l| l.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert!(found.iter().all(|n| *n > 0), "{found:?}");
}

/// Repeats `call` until the caller has waited for the pool in it: at times the pool is done at once.
fn until_it_waits(mut call: impl FnMut()) {
    let waits = || {
        let metrics = rpc_core::Handle::try_current().unwrap().metrics();
        let mut parks = metrics.parks.into_iter();
        parks.find(|(reason, _)| *reason == "other").unwrap().1
    };
    let before = waits();
    while waits() == before {
        call();
    }
}

#[test]
fn older_resolvers_run_on_the_pool_and_leave_their_error_with_the_coroutine() {
    on_one_worker(|| {
        until_it_waits(|| {
            // SAFETY: a C string; the entry stays until the next call.
            let family = unsafe { (*gethostbyname(c"localhost".as_ptr())).h_addrtype };
            assert_eq!(family, libc::AF_INET);
        });
        until_it_waits(|| {
            // SAFETY: as above, and the calling thread's error.
            let (entry, error) = unsafe {
                let entry = gethostbyname(c"no such name".as_ptr());
                (entry, *__h_errno_location())
            };
            assert!(entry.is_null() && error != 0, "h_errno is {error}");
        });
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: 80_u16.to_be(),
            sin_addr: libc::in_addr {
                s_addr: u32::from(std::net::Ipv4Addr::LOCALHOST).to_be(),
            },
            sin_zero: [0; 8],
        };
        until_it_waits(|| {
            let mut host = [0_u8; 64];
            // SAFETY: an address of that length, and a buffer of that length.
            let code = unsafe {
                libc::getnameinfo(
                    (&raw const address).cast(),
                    size_of_val(&address) as libc::socklen_t,
                    host.as_mut_ptr().cast(),
                    host.len() as libc::socklen_t,
                    std::ptr::null_mut(),
                    0,
                    libc::NI_NUMERICHOST,
                )
            };
            assert_eq!(code, 0);
            assert!(host.starts_with(b"127.0.0.1\0"), "{host:?}");
        });
    });
}

unsafe extern "C" {
    fn __h_errno_location() -> *mut i32;
    fn gethostbyname(name: *const libc::c_char) -> *mut libc::hostent;
}

#[test]
fn a_file_is_synced_on_the_pool() {
    on_one_worker(|| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"to be kept").unwrap();
        until_it_waits(|| file.sync_all().unwrap());
        until_it_waits(|| file.sync_data().unwrap());
        // SAFETY: takes a number.
        let bad = unsafe { libc::fsync(-1) };
        let errno = std::io::Error::last_os_error().raw_os_error();
        assert_eq!((bad, errno), (-1, Some(libc::EBADF)));
    });
}

#[test]
fn waitall_fills_the_buffer_and_peek_leaves_it_there() {
    on_one_worker(|| {
        let (mut near, far) = tcp_pair();
        let fd = far.as_raw_fd();
        let reader = spawn(move || {
            let peeked = receive(fd, 6, libc::MSG_PEEK | libc::MSG_WAITALL);
            let taken = receive(fd, 6, libc::MSG_WAITALL);
            drop(far);
            (peeked, taken)
        });
        for part in [b"ab", b"cd", b"ef"] {
            near.write_all(part).unwrap();
            let_others_run();
        }
        let (peeked, taken) = reader.join().unwrap();
        assert_eq!(peeked, b"abcdef");
        assert_eq!(taken, b"abcdef");
    });
}

fn receive(fd: i32, room: usize, flags: i32) -> Vec<u8> {
    let mut data = vec![0; room];
    // SAFETY: pointer and length describe `data`.
    let n = unsafe { libc::recv(fd, data.as_mut_ptr().cast(), room, flags) };
    data.truncate(usize::try_from(n).expect("the receive succeeds"));
    data
}

#[test]
fn a_thousand_connections_play_ping_pong_on_one_worker() {
    const PAIRS: usize = 500;
    const ROUNDS: usize = 20;
    let total = on_one_worker(|| {
        let players: Vec<_> = (0..PAIRS)
            .flat_map(|_| {
                let (near, far) = tcp_pair();
                [
                    spawn(move || bounce(near, true)),
                    spawn(move || bounce(far, false)),
                ]
            })
            .collect();
        players
            .into_iter()
            .map(|p| p.join().unwrap())
            .sum::<usize>()
    });
    assert_eq!(total, 2 * PAIRS * ROUNDS);

    fn bounce(mut socket: TcpStream, first: bool) -> usize {
        let mut ball = [7; 32];
        for _ in 0..ROUNDS {
            if first {
                socket.write_all(&ball).unwrap();
            }
            socket.read_exact(&mut ball).unwrap();
            if !first {
                socket.write_all(&ball).unwrap();
            }
        }
        ROUNDS
    }
}
