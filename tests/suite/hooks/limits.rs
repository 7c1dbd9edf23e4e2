//! Timeouts of sockets, deadlines of scopes, cancellation: who is cut, how, and who is exempt.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rpc_core::{Deadline, spawn, yield_now};

use super::{let_others_run, on_one_worker, tcp_pair};

const SOON: Duration = Duration::from_millis(5);

#[test]
fn a_read_timeout_ends_the_read_as_on_a_thread() {
    let kinds = on_one_worker(|| {
        let (mut near, _far) = tcp_pair();
        near.set_read_timeout(Some(SOON)).unwrap();
        let tcp = near.read(&mut [0; 8]).unwrap_err().kind();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let udp = socket.recv_from(&mut [0; 8]).unwrap_err().kind();
        [tcp, udp]
    });
    assert_eq!(kinds, [ErrorKind::WouldBlock; 2]);
}

#[test]
fn a_write_timeout_returns_the_part_that_was_written() {
    let (first, second) = on_one_worker(|| {
        let (mut near, _far) = tcp_pair();
        near.set_write_timeout(Some(SOON)).unwrap();
        let data = vec![0; 64 << 20];
        let first = near.write(&data).unwrap();
        (first, near.write(&data).unwrap_err().kind())
    });
    assert!(first > 0 && first < 64 << 20, "wrote {first}");
    assert_eq!(second, ErrorKind::WouldBlock);
}

#[test]
fn a_connection_accepted_under_a_timeout_inherits_it() {
    let kind = on_one_worker(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        set_receive_timeout(listener.as_raw_fd(), SOON);
        let none = listener.accept().unwrap_err().kind();
        let _near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        [none, far.read(&mut [0; 8]).unwrap_err().kind()]
    });
    assert_eq!(kind, [ErrorKind::WouldBlock; 2]);
}

fn set_receive_timeout(fd: i32, limit: Duration) {
    let limit = libc::timeval {
        tv_sec: 0,
        tv_usec: limit.subsec_micros().into(),
    };
    let size = size_of::<libc::timeval>() as libc::socklen_t;
    let place = &raw const limit;
    // SAFETY: the option's value lives across the call.
    let done =
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, place.cast(), size) };
    assert_eq!(done, 0);
}

#[test]
fn a_deadline_cuts_a_read_and_shuts_the_stream_down() {
    let (kind, rest, peer_saw_the_end) = on_one_worker(|| {
        let (mut near, mut far) = tcp_pair();
        let kind = Deadline::within(SOON, || near.read(&mut [0; 8]).unwrap_err().kind());
        // The answer that comes too late must not reach the connection's next user.
        let rest = near.read(&mut [0; 8]).unwrap();
        (kind, rest, far.read(&mut [0; 8]).unwrap() == 0)
    });
    assert_eq!(kind, ErrorKind::TimedOut);
    assert_eq!((rest, peer_saw_the_end), (0, true));
}

#[test]
fn a_deadline_reaches_into_an_unmodified_http_client() {
    let (failed, quick) = on_one_worker(|| {
        // Accepts in the kernel's queue, never answers.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let begun = Instant::now();
        let failed = Deadline::within(SOON, || ureq::get(&url).call().is_err());
        // Without the deadline the call would go on until the test is ended.
        (failed, begun.elapsed() >= SOON)
    });
    assert_eq!((failed, quick), (true, true));
}

#[test]
fn a_signal_does_not_interrupt_a_parked_read() {
    extern "C" fn nothing(_: libc::c_int) {}
    let text = on_one_worker(|| {
        // SAFETY: a handler that does nothing, without SA_RESTART, so that plain calls see EINTR.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut());
        }
        let (mut near, mut far) = tcp_pair();
        let reader = spawn(move || {
            let mut text = [0; 4];
            near.read(&mut text).map(|n| text[..n].to_vec())
        });
        // SAFETY: asks for the worker's own number.
        let worker = unsafe { libc::syscall(libc::SYS_gettid) };
        let signaller = std::thread::spawn(move || {
            for _ in 0..10 {
                // SAFETY: a thread of this process, and a signal that is handled.
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), worker, libc::SIGUSR2) };
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        signaller.join().unwrap();
        far.write_all(b"calm").unwrap();
        reader.join().unwrap().unwrap()
    });
    assert_eq!(text, b"calm");
}

#[test]
fn a_socket_timeout_before_the_deadline_leaves_the_stream_alone() {
    let (kind, text) = on_one_worker(|| {
        let (mut near, mut far) = tcp_pair();
        near.set_read_timeout(Some(SOON)).unwrap();
        let kind = Deadline::within(Duration::from_secs(30), || {
            near.read(&mut [0; 8]).unwrap_err().kind()
        });
        far.write_all(b"still").unwrap();
        let mut text = [0; 5];
        near.read_exact(&mut text).unwrap();
        (kind, text)
    });
    assert_eq!(kind, ErrorKind::WouldBlock);
    assert_eq!(&text, b"still");
}

#[test]
fn a_deadline_cuts_accept_and_the_listener_lives_on() {
    let kind = on_one_worker(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let kind = Deadline::within(SOON, || listener.accept().unwrap_err().kind());
        let address = listener.local_addr().unwrap();
        let client = spawn(move || std::net::TcpStream::connect(address).unwrap());
        listener.accept().unwrap();
        client.join().unwrap();
        kind
    });
    assert_eq!(kind, ErrorKind::TimedOut);
}

#[test]
fn data_that_is_there_is_read_past_the_deadline() {
    let text = on_one_worker(|| {
        let (mut near, mut far) = tcp_pair();
        far.write_all(b"there").unwrap();
        let mut text = [0; 5];
        Deadline::within(Duration::ZERO, || near.read_exact(&mut text)).unwrap();
        text
    });
    assert_eq!(&text, b"there");
}

#[test]
fn sleeps_and_locks_outlast_the_deadline() {
    on_one_worker(|| {
        let begun = Instant::now();
        Deadline::within(SOON, || std::thread::sleep(4 * SOON));
        assert!(begun.elapsed() >= 4 * SOON, "the sleep was cut");
        let (sender, receiver) = std::sync::mpsc::channel();
        let late = spawn(move || {
            std::thread::sleep(4 * SOON);
            sender.send(7).unwrap();
        });
        assert_eq!(Deadline::within(SOON, || receiver.recv()), Ok(7));
        late.join().unwrap();
    });
}

#[test]
fn cancellation_ends_a_read_and_every_later_one() {
    let errors = on_one_worker(|| {
        let (mut near, _far) = tcp_pair();
        let reader = spawn(move || {
            [(); 3].map(|()| match near.read(&mut [0; 8]) {
                Ok(n) => -(n as i32),
                Err(error) => error.raw_os_error().unwrap_or(0),
            })
        });
        let_others_run();
        reader.cancel();
        reader.join().unwrap()
    });
    // The first cut shuts the stream down, after which reads see its end.
    assert_eq!(errors, [libc::ECANCELED, 0, 0]);
}

#[test]
fn a_loop_over_cut_calls_leaves_room_for_others() {
    let calls = on_one_worker(|| {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let stubborn = spawn(move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut calls = 0_u32;
            Deadline::within(Duration::ZERO, || {
                loop {
                    assert!(socket.recv(&mut [0; 8]).is_err());
                    calls += 1;
                    if stopped.load(Ordering::Relaxed) {
                        return calls;
                    }
                }
            })
        });
        let other = spawn(move || {
            (0..200).for_each(|_| yield_now());
            stop.store(true, Ordering::Relaxed);
        });
        other.join().unwrap();
        stubborn.join().unwrap()
    });
    assert!(calls > 0);
}

#[test]
fn a_deadline_cuts_poll_and_what_it_watched() {
    let (errno, peer_saw_the_end) = on_one_worker(|| {
        let (near, mut far) = tcp_pair();
        let errno = Deadline::within(SOON, || {
            let mut entry = libc::pollfd {
                fd: near.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one entry, alive across the call.
            let n = unsafe { libc::poll(&raw mut entry, 1, -1) };
            assert_eq!(n, -1);
            std::io::Error::last_os_error().raw_os_error()
        });
        (errno, far.read(&mut [0; 8]).unwrap() == 0)
    });
    assert_eq!((errno, peer_saw_the_end), (Some(libc::ETIMEDOUT), true));
}
