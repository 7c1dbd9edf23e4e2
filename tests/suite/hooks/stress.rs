//! Several workers at once, descriptors that come and go under their readers' feet.
//!
//! Each test prints its seed; what may go wrong here is rare, so the rounds are many and small.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use rpc_core::{spawn, yield_now};

use super::{on_workers, pattern};

const WORKERS: usize = 4;

/// A small generator, so that a failing run can be repeated.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn seed() -> u64 {
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    println!("seed {seed}");
    u64::from(seed) | 1
}

#[test]
fn a_reader_never_gets_what_was_meant_for_another_descriptor() {
    let seed = seed();
    let (own, ended) = on_workers(WORKERS, move || {
        let players: Vec<_> = (0..32)
            .map(|i| spawn(move || close_under_readers(seed.wrapping_add(i * 7919), i)))
            .collect();
        players
            .into_iter()
            .map(|p| p.join().unwrap())
            .fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
    });
    println!("{own} read their own, {ended} were told that the descriptor is gone");
    assert!(own > 0 && ended > 0);
}

/// Rounds of: a reader waits; somebody else writes, closes, or both. Counts own reads and ends.
fn close_under_readers(seed: u64, player: u64) -> (u32, u32) {
    let mut dice = Dice(seed | 1);
    let (mut own, mut ended) = (0, 0);
    for round in 0..200_u64 {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mark = (player << 32 | round).to_le_bytes();
        let fd = near.as_raw_fd();
        let reader = spawn(move || {
            let mut data = [0_u8; 8];
            // SAFETY: eight bytes; the number may be closed meanwhile, which is the point.
            let n = unsafe { libc::read(fd, data.as_mut_ptr().cast(), 8) };
            (n, data)
        });
        (0..dice.throw(4)).for_each(|_| yield_now());
        let writes = dice.throw(3) > 0;
        if writes {
            far.write_all(&mark).unwrap();
        }
        // A reader that has not begun would read from whoever gets the number next, on a thread too.
        if writes {
            let (n, data) = reader.join().unwrap();
            assert_eq!((n, data), (8, mark), "seed {seed}, round {round}");
            own += 1;
            drop(near);
            continue;
        }
        (0..40).for_each(|_| yield_now());
        // Ended from the other side, so that a late reader finds an end and no foreign file.
        drop(far);
        let (n, _) = reader.join().unwrap();
        assert!(
            n <= 0,
            "seed {seed}, round {round}: {n} bytes out of nowhere"
        );
        ended += 1;
    }
    (own, ended)
}

#[test]
fn connections_of_many_workers_carry_their_own_bytes() {
    let seed = seed();
    on_workers(WORKERS, move || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        spawn(move || {
            while let Ok((peer, _)) = listener.accept() {
                spawn(move || std::io::copy(&mut &peer, &mut &peer));
            }
        });
        let clients: Vec<_> = (0..60_u64)
            .map(|i| {
                spawn(move || {
                    let mut dice = Dice(seed.wrapping_mul(i + 3) | 1);
                    for _ in 0..10 {
                        let mut peer = std::net::TcpStream::connect(address).unwrap();
                        let data = pattern(1 + dice.throw(20_000) as usize);
                        let mut back = vec![0; data.len()];
                        let mut writer = peer.try_clone().unwrap();
                        let sent = data.clone();
                        let sender = spawn(move || writer.write_all(&sent).unwrap());
                        peer.read_exact(&mut back).unwrap();
                        sender.join().unwrap();
                        assert!(back == data, "seed {seed}");
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|c| c.join().unwrap());
    });
}

#[test]
fn locks_and_channels_of_many_workers_lose_nobody() {
    let total = on_workers(WORKERS, || {
        let state = Arc::new((Mutex::new(0_u64), Condvar::new()));
        let counted = Arc::new(AtomicU64::new(0));
        let (sender, receiver) = mpsc::sync_channel::<u64>(3);
        let players: Vec<_> = (0..64)
            .map(|i| {
                let (state, counted) = (Arc::clone(&state), Arc::clone(&counted));
                let sender = sender.clone();
                spawn(move || {
                    for round in 0..200 {
                        let mut turn = state.0.lock().unwrap();
                        *turn += 1;
                        drop(turn);
                        state.1.notify_one();
                        if round % 7 == i % 7 {
                            let turn = state.0.lock().unwrap();
                            // Timeouts race with wakes here.
                            let _ = state.1.wait_timeout(turn, Duration::from_micros(200));
                        }
                        sender.send(1).unwrap();
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        drop(sender);
        let received: u64 = receiver.iter().sum();
        players.into_iter().for_each(|p| p.join().unwrap());
        assert_eq!(received, counted.load(Ordering::Relaxed));
        *state.0.lock().unwrap()
    });
    assert_eq!(total, 64 * 200);
}
