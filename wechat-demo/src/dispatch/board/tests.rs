//! How dispatch chooses, on virtual time.

use super::*;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

fn board() -> Board {
    Board::new(NetworkTable::default(), Rng::from_seed(7))
}

fn point(address: &str, idc: &str, links: u64) -> pb::BeatRequest {
    pb::BeatRequest {
        address: address.to_owned(),
        idc: idc.to_owned(),
        links,
        max_links: 100,
        ..Default::default()
    }
}

fn network(carrier: &str) -> Network {
    Network {
        region: String::new(),
        carrier: carrier.to_owned(),
    }
}

fn measure(board: &mut Board, network: &Network, address: &str, ms: Option<u32>, now: Instant) {
    let measured = pb::Measured {
        address: address.to_owned(),
        ms: ms.unwrap_or(0),
        failed: ms.is_none(),
    };
    board.measured(network, &measured, now);
}

/// How often each comes first in 1000 answers.
fn firsts(board: &mut Board, network: &Network, now: Instant) -> HashMap<String, usize> {
    let mut count = HashMap::new();
    for _ in 0..1_000 {
        let first = board.candidates(network, "", now).swap_remove(0);
        *count.entry(first.address).or_default() += 1;
    }
    count
}

#[test]
fn nothing_known_shares_the_terminals_and_measurements_send_them_near() {
    let (mut board, mobile, telecom) = (board(), network("mobile"), network("telecom"));
    for address in ["a:1", "b:1"] {
        board.beat(point(address, "sh", 0), at(0)).unwrap();
    }
    let even = firsts(&mut board, &mobile, at(1));
    assert!(
        even.values().all(|count| (400..600).contains(count)),
        "{even:?}"
    );

    measure(&mut board, &mobile, "a:1", Some(20), at(1));
    measure(&mut board, &mobile, "b:1", Some(100), at(1));
    let near = firsts(&mut board, &mobile, at(2));
    assert!(near["a:1"] > 980, "{near:?}");
    let other = firsts(&mut board, &telecom, at(2));
    assert!(
        other["a:1"] < 600,
        "another network is another distance: {other:?}"
    );
}

#[test]
fn a_spell_of_jitter_does_not_make_a_near_point_far_but_a_lasting_change_does() {
    let (mut board, mobile) = (board(), network("mobile"));
    for (address, ms) in [("a:1", 40), ("b:1", 80)] {
        board.beat(point(address, "sh", 0), at(0)).unwrap();
        measure(&mut board, &mobile, address, Some(ms), at(0));
    }
    let far = |board: &mut Board, times| {
        for _ in 0..times {
            measure(board, &mobile, "a:1", Some(400), at(1));
        }
        let firsts = firsts(board, &mobile, at(2));
        firsts.get("b:1").copied().unwrap_or(0)
    };
    assert!(far(&mut board, 2) < 300);
    assert!(far(&mut board, 60) > 900);
}

#[test]
fn a_point_that_a_network_cannot_reach_comes_last_there_and_is_forgiven() {
    let (mut board, mobile) = (board(), network("mobile"));
    for (address, ms) in [("a:1", 20), ("b:1", 60)] {
        board.beat(point(address, "sh", 0), at(0)).unwrap();
        measure(&mut board, &mobile, address, Some(ms), at(0));
    }
    for _ in 0..5 {
        measure(&mut board, &mobile, "a:1", None, at(1));
    }
    let there = firsts(&mut board, &mobile, at(2));
    assert!(there["b:1"] > 900, "{there:?}");
    let now = at(2) + 8 * FORGIVEN;
    for address in ["a:1", "b:1"] {
        board.beat(point(address, "sh", 0), now).unwrap();
    }
    let later = firsts(&mut board, &mobile, now);
    assert!(later["a:1"] > 900, "{later:?}");
}

#[test]
fn names_are_a_guess_and_the_home_settles_what_is_equal() {
    let mut board = board();
    let mut near = point("a:1", "sh", 0);
    near.carrier = "mobile".to_owned();
    board.beat(near, at(0)).unwrap();
    board.beat(point("b:1", "hk", 0), at(0)).unwrap();
    let weights = |board: &mut Board, network: &Network, home: &str| {
        let candidates = board.candidates(network, home, at(1));
        let weight = |of: &str| candidates.iter().find(|c| c.address == of).unwrap().weight;
        (weight("a:1"), weight("b:1"))
    };
    let (a, b) = weights(&mut board, &network("mobile"), "");
    assert!(a == 1_000 && b < 100, "{a} {b}");
    let (a, b) = weights(&mut board, &Network::default(), "");
    assert_eq!((a, b), (1_000, 1_000), "nothing is known of the caller");
    let (a, b) = weights(&mut board, &Network::default(), "hk");
    assert!(a < 1_000 && b == 1_000, "{a} {b}");
}

#[test]
fn silent_full_and_draining_points_are_offered_only_where_no_other_is_left() {
    let (mut board, now) = (board(), at(10_000));
    let offered = |board: &mut Board, now| {
        let mut all: Vec<_> = board
            .candidates(&network("x"), "", now)
            .into_iter()
            .map(|candidate| candidate.address)
            .collect();
        all.sort();
        all
    };
    assert!(offered(&mut board, now).is_empty(), "nobody has beaten");
    board.beat(point("silent:1", "sh", 0), at(0)).unwrap();
    assert_eq!(offered(&mut board, now), ["silent:1"]);
    board.beat(point("draining:1", "sh", 0), now).unwrap();
    board
        .drain("draining:1", Some(Duration::from_secs(1)), now)
        .unwrap();
    assert_eq!(offered(&mut board, now), ["draining:1"]);
    board.beat(point("full:1", "sh", 100), now).unwrap();
    assert_eq!(offered(&mut board, now), ["full:1"]);
    board.beat(point("good:1", "sh", 99), now).unwrap();
    assert_eq!(offered(&mut board, now), ["good:1"]);
    board.drain("draining:1", None, now).unwrap();
    assert_eq!(offered(&mut board, now), ["draining:1", "good:1"]);
    let mut leaving = point("good:1", "sh", 0);
    leaving.leaving = true;
    board.beat(leaving, now).unwrap();
    assert_eq!(offered(&mut board, now), ["draining:1"]);
    assert!(offered(&mut board, now + FORGOTTEN).is_empty());
    let unknown = board.drain("mars:1", None, now).unwrap_err();
    assert!(unknown.to_string().contains("mars:1"));
}

#[test]
fn a_drain_moves_links_evenly_until_its_end() {
    let (mut board, mut links) = (board(), 1_000);
    board.beat(point("a:1", "sh", links), at(0)).unwrap();
    board
        .drain("a:1", Some(Duration::from_secs(10)), at(0))
        .unwrap();
    let mut moved = Vec::new();
    for second in 1..=11 {
        let now = board
            .beat(point("a:1", "sh", links), at(second * 1_000))
            .unwrap();
        links -= now;
        moved.push(now);
    }
    assert_eq!(links, 0, "{moved:?}");
    assert!(moved.iter().all(|now| *now <= 120), "no storm: {moved:?}");
}

#[test]
fn what_is_known_is_bounded_and_strangers_add_nothing() {
    let mut board = board();
    for n in 0..POINTS {
        board
            .beat(point(&format!("p:{n}"), "sh", 0), at(0))
            .unwrap();
    }
    assert_eq!(
        board.beat(point("p:x", "sh", 0), at(0)),
        Err(BoardError::Full)
    );
    assert!(matches!(
        board.beat(point("nowhere", "sh", 0), at(0)),
        Err(BoardError::Address(_))
    ));
    assert_eq!(board.candidates(&network("x"), "", at(0)).len(), CANDIDATES);
    measure(&mut board, &network("x"), "never-beaten:1", Some(1), at(0));
    assert_eq!(board.sizes(), (POINTS, 0));
    for n in 0..LEARNED + 10 {
        let carrier = network(&format!("c{}", n / POINTS));
        let address = format!("p:{}", n % POINTS);
        measure(&mut board, &carrier, &address, Some(1), at(n as u64));
    }
    assert_eq!(board.sizes(), (POINTS, LEARNED));
}
