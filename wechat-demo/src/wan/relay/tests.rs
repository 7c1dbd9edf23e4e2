//! The relay on real sockets: what comes through, what waits, what is told to whom.

use super::*;
use crate::wan::matrix::{Door, Place, Row};

const PATIENCE: Duration = Duration::from_secs(20);

/// A relay `near` → `far` before a listener.
fn before_listener() -> (Arc<Relay>, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    let relay = Relay::start(Matrix::pair("near", "far", target), 1).unwrap();
    (relay, listener)
}

/// The two ends of a stream through it.
fn stream(relay: &Relay, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let near = TcpStream::connect(relay.door(0)).unwrap();
    let (far, _) = listener.accept().unwrap();
    for end in [&near, &far] {
        end.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    (near, far)
}

fn passes(mut from: &TcpStream, mut to: &TcpStream, byte: u8) {
    let mut read = [0];
    from.write_all(&[byte]).unwrap();
    to.read_exact(&mut read).unwrap();
    assert_eq!(read, [byte]);
}

/// Whether the end is told within a short time that it is over, and how.
fn told(mut end: &TcpStream, patience: Duration) -> Option<ErrorKind> {
    end.set_read_timeout(Some(patience)).unwrap();
    match end.read(&mut [0]) {
        Ok(0) => Some(ErrorKind::UnexpectedEof),
        Ok(_) => panic!("a byte came"),
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => None,
            kind => Some(kind),
        },
    }
}

fn set(relay: &Relay, change: Change) {
    relay.set(&[change]).unwrap();
}

#[rpc_core::test]
fn a_stalled_direction_waits_and_goes_on_and_the_other_passes() {
    let (relay, listener) = before_listener();
    let (near, far) = stream(&relay, &listener);
    passes(&near, &far, 1);
    passes(&far, &near, 2);

    let down = Change::one_way("far", "near");
    set(&relay, down.clone().mode(Mode::Stall));
    (&far).write_all(&[3]).unwrap();
    passes(&near, &far, 4);
    assert_eq!(
        told(&near, Duration::from_millis(50)),
        None,
        "nothing comes down"
    );
    set(&relay, down.mode(Mode::Open));
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut byte = [0];
    (&near).read_exact(&mut byte).unwrap();
    assert_eq!(byte, [3]);
    assert_eq!(relay.carried("near", "far").unwrap(), 2);
    assert_eq!(relay.carried("far", "near").unwrap(), 2);
    relay.close();
}

#[rpc_core::test]
fn one_end_may_close_its_half() {
    let (relay, listener) = before_listener();
    let (near, far) = stream(&relay, &listener);
    (&near).write_all(b"question").unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    (&far).read_to_end(&mut all).unwrap();
    assert_eq!(all, b"question");
    passes(&far, &near, 1);
    drop(far);
    assert_eq!(told(&near, PATIENCE), Some(ErrorKind::UnexpectedEof));
    relay.close();
}

#[rpc_core::test]
fn a_reset_is_told_to_both_and_refuses_until_it_is_healed() {
    let (relay, listener) = before_listener();
    let (near, far) = stream(&relay, &listener);
    passes(&near, &far, 1);
    set(&relay, Change::both("*", "far").mode(Mode::Reset));
    assert_eq!(told(&near, PATIENCE), Some(ErrorKind::ConnectionReset));
    assert_eq!(told(&far, PATIENCE), Some(ErrorKind::ConnectionReset));
    let refused = TcpStream::connect(relay.door(0)).and_then(|stream| (&stream).read(&mut [0]));
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(relay.turned_away().0, 1);
    set(&relay, Change::both("near", "far").mode(Mode::Open));
    let (near, far) = stream(&relay, &listener);
    passes(&near, &far, 2);
    relay.close();
    assert_eq!(told(&near, PATIENCE), Some(ErrorKind::ConnectionReset));
}

#[rpc_core::test]
fn a_half_open_stream_is_told_to_one_end_until_the_line_heals() {
    let (relay, listener) = before_listener();
    let (near, far) = stream(&relay, &listener);
    passes(&near, &far, 1);
    let up = Change::one_way("near", "far");
    set(&relay, up.clone().mode(Mode::HalfOpen));
    assert_eq!(told(&far, PATIENCE), Some(ErrorKind::ConnectionReset));
    (&near).write_all(&[2]).unwrap();
    assert_eq!(told(&near, Duration::from_millis(50)), None, "it believes");
    let (other, its_far) = stream(&relay, &listener);
    passes(&other, &its_far, 3);
    set(&relay, up.mode(Mode::Open));
    assert_eq!(told(&near, PATIENCE), Some(ErrorKind::ConnectionReset));
    passes(&other, &its_far, 4);
    relay.close();
}

#[rpc_core::test]
fn a_target_that_is_gone_is_a_reset_and_its_end_is_passed_on() {
    let (relay, listener) = before_listener();
    let (near, far) = stream(&relay, &listener);
    SockRef::from(&far)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(far);
    assert_eq!(told(&near, PATIENCE), Some(ErrorKind::ConnectionReset));
    drop(listener);
    // It may come before `connect` has returned.
    let how = match TcpStream::connect(relay.door(0)) {
        Ok(near) => told(&near, PATIENCE),
        Err(error) => Some(error.kind()),
    };
    assert_eq!(how, Some(ErrorKind::ConnectionReset));
    relay.close();
}

#[rpc_core::test]
fn places_are_told_by_the_address_and_the_target_sees_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = |name: &str, addresses: &[&str]| Place {
        name: name.to_owned(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
    };
    let matrix = Matrix {
        places: vec![
            place("east", &["127.21.0.0/16"]),
            place("north", &["127.22.0.0/16"]),
            place("sh", &[]),
        ],
        doors: vec![Door {
            place: "sh".to_owned(),
            listen: "127.11.0.1:0".parse().unwrap(),
            target: listener.local_addr().unwrap(),
            from: None,
        }],
        lines: vec![Row {
            from: "north".to_owned(),
            to: "sh".to_owned(),
            both: true,
            shape: Shape::delay(1),
        }],
    };
    let relay = Relay::start(matrix, 1).unwrap();
    let door = relay.door(0);
    let from = |address: &str| connect(door, address.parse().unwrap());
    for (address, line) in [
        ("127.22.0.9", ("north", "sh")),
        ("127.21.3.4", ("east", "sh")),
    ] {
        let near = from(address).unwrap();
        let (far, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip().to_string(), address);
        passes(&near, &far, 7);
        assert_eq!(relay.carried(line.0, line.1).unwrap(), 1);
    }
    let stranger = from("127.0.0.1").map(|stranger| told(&stranger, PATIENCE));
    let reset = Some(ErrorKind::ConnectionReset);
    assert_eq!(stranger.unwrap_or_else(|error| Some(error.kind())), reset);
    assert_eq!(relay.turned_away(), (0, 1));
    let error = relay
        .set(&[
            Change::both("sh", "*").mode(Mode::Stall),
            Change::both("sh", "mars"),
        ])
        .unwrap_err();
    assert!(
        error.to_string().contains("`mars`; the places are east"),
        "{error}"
    );
    assert!(
        relay.show().iter().all(|line| line.mode == Mode::Open),
        "all or none"
    );
    relay.close();
}

/// N-1 over sockets: what one end writes the other reads, whatever the lines do meanwhile.
#[rpc_core::test]
fn bytes_survive_cuts_and_back_pressure() {
    const LENGTH: usize = 3 << 20;
    let seed = Rng::from_entropy().next_u64();
    println!("seed {seed}");
    let mut rng = Rng::from_seed(seed);
    let (relay, listener) = before_listener();
    let (near, far) = stream(&relay, &listener);
    let sent: Vec<u8> = (0..LENGTH).map(|_| rng.next_u64() as u8).collect();
    let there = sent.clone();
    let writer = rpc_core::spawn(move || {
        (&near).write_all(&there).unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        near
    });
    let mut received = vec![0; LENGTH];
    let mut at = 0;
    while at < LENGTH {
        let mode = [Mode::Stall, Mode::Open][rng.below(2) as usize];
        let shape = Shape {
            delay_ms: rng.below(3) as u32,
            jitter_ms: rng.below(3) as u32,
            kib_per_s: rng.below(2) as u32 * 65_536,
            ..Shape::default()
        };
        set(&relay, Change::both("near", "far").mode(mode).shape(shape));
        set(&relay, Change::both("near", "far").mode(Mode::Open));
        let end = LENGTH.min(at + 1 + rng.below(200_000) as usize);
        (&far).read_exact(&mut received[at..end]).unwrap();
        at = end;
    }
    assert!(received == sent);
    assert_eq!(told(&far, PATIENCE), Some(ErrorKind::UnexpectedEof));
    drop(writer.join());
    relay.close();
}
