//! poll, select and epoll in a coroutine, and a tokio runtime that lives on them.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rpc_core::spawn;

use super::{let_others_run, on_one_worker, tcp_pair};

#[test]
fn poll_waits_for_the_first_of_many() {
    let ready = on_one_worker(|| {
        let pairs: Vec<_> = (0..100).map(|_| tcp_pair()).collect();
        let fds: Vec<_> = pairs.iter().map(|(near, _)| near.as_raw_fd()).collect();
        let waiter = spawn(move || {
            let mut entries: Vec<_> = fds
                .iter()
                .map(|fd| libc::pollfd {
                    fd: *fd,
                    events: libc::POLLIN,
                    revents: 0,
                })
                .collect();
            // SAFETY: the entries live across the call.
            let n = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as u64, -1) };
            let ready = entries.iter().position(|e| e.revents & libc::POLLIN != 0);
            (n, ready)
        });
        let_others_run();
        (&pairs[42].1).write_all(b"x").unwrap();
        waiter.join().unwrap()
    });
    assert_eq!(ready, (1, Some(42)));
}

#[test]
fn poll_ends_at_its_timeout_and_without_descriptors_sleeps() {
    let counts = on_one_worker(|| {
        let (near, _far) = tcp_pair();
        let mut entry = libc::pollfd {
            fd: near.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry, then none.
        unsafe {
            [
                libc::poll(&raw mut entry, 1, 5),
                libc::poll(std::ptr::null_mut(), 0, 5),
            ]
        }
    });
    assert_eq!(counts, [0, 0]);
}

#[test]
fn connect_with_a_timeout_polls_as_a_coroutine() {
    on_one_worker(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client =
            spawn(move || TcpStream::connect_timeout(&address, Duration::from_secs(30)).unwrap());
        listener.accept().unwrap();
        client.join().unwrap();
    });
}

#[test]
fn select_says_which_and_clears_the_rest() {
    let found = on_one_worker(|| {
        let (near, far) = tcp_pair();
        let (other, _other_far) = tcp_pair();
        let fds = [near.as_raw_fd(), other.as_raw_fd()];
        let waiter = spawn(move || {
            // SAFETY: an all-zero set is empty, and both numbers are below FD_SETSIZE.
            unsafe {
                let mut set: libc::fd_set = std::mem::zeroed();
                fds.iter().for_each(|fd| libc::FD_SET(*fd, &raw mut set));
                let none = std::ptr::null_mut();
                let count = fds[0].max(fds[1]) + 1;
                let n = libc::select(count, &raw mut set, none, none, std::ptr::null_mut());
                (n, fds.map(|fd| libc::FD_ISSET(fd, &raw const set)))
            }
        });
        let_others_run();
        (&far).write_all(b"x").unwrap();
        waiter.join().unwrap()
    });
    assert_eq!(found, (1, [true, false]));
}

#[test]
fn epoll_wait_waits_for_the_coroutine_alone() {
    let tokens = on_one_worker(|| {
        let (near, far) = tcp_pair();
        // SAFETY: takes no pointers; the descriptor is new.
        let epoll = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(0)) };
        let mut wanted = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: 77,
        };
        let place = &raw mut wanted;
        // SAFETY: the event lives across the call.
        let added = unsafe {
            libc::epoll_ctl(
                epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                near.as_raw_fd(),
                place,
            )
        };
        assert_eq!(added, 0);
        let fd = epoll.as_raw_fd();
        let wait = move |millis: i32| {
            let mut found = [libc::epoll_event { events: 0, u64: 0 }; 4];
            // SAFETY: room for four events.
            let n = unsafe { libc::epoll_wait(fd, found.as_mut_ptr(), 4, millis) };
            (n, found[0].u64)
        };
        assert_eq!(wait(5).0, 0, "nothing is there yet");
        let waiter = spawn(move || wait(-1));
        let_others_run();
        (&far).write_all(b"x").unwrap();
        waiter.join().unwrap()
    });
    assert_eq!(tokens, (1, 77));
}

#[test]
fn more_epolls_on_one_file_than_the_kernel_nests_are_all_waited_for() {
    // The kernel lets 500 epolls be watched by another epoll, ours, if they share a file.
    const EPOLLS: usize = 700;
    let woken = on_one_worker(|| {
        // SAFETY: takes no pointers; the descriptor is new.
        let shared = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, 0)) };
        let file = shared.as_raw_fd();
        let waiters: Vec<_> = (0..EPOLLS)
            .map(|_| spawn(move || wait_on_an_epoll_of_its_own(file)))
            .collect();
        let_others_run();
        // SAFETY: eight bytes.
        let wrote = unsafe { libc::write(file, 1_u64.to_ne_bytes().as_ptr().cast(), 8) };
        assert_eq!(wrote, 8);
        let joined = waiters.into_iter().map(|waiter| waiter.join().unwrap());
        joined.filter(|woken| *woken).count()
    });
    assert_eq!(woken, EPOLLS);
}

fn wait_on_an_epoll_of_its_own(file: RawFd) -> bool {
    // SAFETY: takes no pointers; the descriptor is new.
    let epoll = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) };
    let mut event = libc::epoll_event {
        events: libc::EPOLLIN as u32,
        u64: 5,
    };
    let place = &raw mut event;
    // SAFETY: the event lives across both calls.
    unsafe {
        let added = libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, file, place);
        assert_eq!(added, 0, "{}", std::io::Error::last_os_error());
        libc::epoll_wait(epoll.as_raw_fd(), place, 1, -1) == 1
    }
}

#[test]
fn a_tokio_runtime_lives_in_a_coroutine() {
    for threads in [0, 2] {
        let answers = on_one_worker(move || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            spawn(move || {
                // Ends when the runtime does: `accept` then says that it was cancelled.
                while let Ok((peer, _)) = listener.accept() {
                    spawn(move || std::io::copy(&mut &peer, &mut &peer));
                }
            });
            let clients: Vec<_> = (0..5)
                .map(|_| spawn(move || tokio_echo(threads, address)))
                .collect();
            clients
                .into_iter()
                .map(|c| c.join().unwrap())
                .collect::<Vec<_>>()
        });
        assert_eq!(answers, vec![*b"hello"; 5], "{threads} threads");
    }
}

fn tokio_echo(threads: usize, address: std::net::SocketAddr) -> [u8; 5] {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut builder = if threads == 0 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads);
        builder
    };
    let runtime = builder.enable_all().build().unwrap();
    let answer = runtime.block_on(async move {
        let mut peer = tokio::net::TcpStream::connect(address).await.unwrap();
        peer.write_all(b"hello").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let mut answer = [0; 5];
        peer.read_exact(&mut answer).await.unwrap();
        answer
    });
    // Joining tokio's own threads would hold the worker; they end by themselves.
    runtime.shutdown_background();
    answer
}
