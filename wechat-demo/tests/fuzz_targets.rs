//! The fuzz targets on generated input: random bytes, and good packets with a few bytes changed.

#[path = "../fuzz/src/targets.rs"]
mod targets;

use proptest::prelude::*;
use prost::Message;
use wechat_demo::longlink::Frame;
use wechat_demo::proto::terminal as pb;

fn item(number: u64) -> pb::Item {
    let message = pb::Message {
        message_id: number,
        sender: 1,
        receiver: 2,
        text: "hello".to_owned(),
        ..Default::default()
    };
    pb::Item {
        number,
        kind: pb::Kind::Message as i32,
        id: number,
        version: 1,
        pos: Some(pb::Pos {
            count: number,
            sender: 1,
        }),
        payload: message.encode_to_vec().into(),
        deleted: false,
    }
}

/// Packets as an access process reads them.
fn asked() -> Vec<Vec<u8>> {
    let frame = |cmd, seq, body: &dyn Fn() -> Vec<u8>| Frame {
        cmd,
        seq,
        body: body().into(),
    };
    let send = pb::SendRequest {
        key: 0,
        geo: true,
        receiver: 2,
        messages: vec![pb::Outgoing {
            client_id: vec![7; 16].into(),
            text: "hi".to_owned(),
            extra: None,
            count: 0,
        }],
    };
    let frames = [
        frame(2, 1, &|| {
            pb::AuthRequest {
                token: vec![1; 32].into(),
                active: true,
            }
            .encode_to_vec()
        }),
        frame(3, 2, &|| send.encode_to_vec()),
        frame(6, u32::MAX, &Vec::new),
        frame(243, 0, &Vec::new),
    ];
    frames
        .iter()
        .map(|frame| frame.to_bytes().to_vec())
        .collect()
}

/// Packets as [`targets::terminal_sync`] takes them: notifies with and without a gap, answers, beats.
fn told() -> Vec<Vec<u8>> {
    let notify = |prev_key: u64, key: u64| pb::Notify {
        prev_key,
        key,
        items: vec![item(key)],
    };
    let reply = |numbers: &[u64], more| pb::SyncReply {
        key: numbers.last().copied().unwrap_or(0),
        items: numbers.iter().copied().map(item).collect(),
        more,
        ..Default::default()
    };
    let frames = [
        Frame::of(3, 0, &notify(0, 1)).expect("it is small"),
        Frame::of(3, 0, &notify(2, 3)).expect("it is small"),
        Frame::of(0, 0, &reply(&[2, 3], false)).expect("it is small"),
        Frame::of(1, 9, &reply(&[], false)).expect("it is small"),
        Frame::of(0, 0, &reply(&[4, 9], true)).expect("it is small"),
    ];
    frames
        .iter()
        .map(|frame| frame.to_bytes().to_vec())
        .collect()
}

/// A size of pieces, then packets with a few bytes changed, cut out or doubled.
fn mutated(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec((any::<u16>(), any::<u8>(), 0..4_u8), 0..8);
    let chosen = proptest::collection::vec(0..seeds.len(), 1..6);
    (any::<u8>(), chosen, edits).prop_map(move |(size, chosen, edits)| {
        let mut bytes: Vec<u8> = chosen
            .iter()
            .flat_map(|seed| seeds[*seed].clone())
            .collect();
        for (at, value, kind) in edits {
            let at = usize::from(at) % bytes.len();
            match kind {
                0 => bytes[at] = value,
                1 => bytes[at] ^= 1 << (value % 8),
                2 => bytes.insert(at, value),
                _ if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => {}
            }
        }
        [&[size][..], &bytes].concat()
    })
}

#[test]
fn good_input_is_taken_for_what_it_is() {
    let link = [&[3][..], &asked().concat()].concat();
    assert_eq!(targets::long_link(&link), 3, "two commands and a beat");
    assert_eq!(
        targets::terminal_sync(&told().concat()),
        5,
        "every item once"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn random_bytes_break_no_promise(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        targets::long_link(&data);
        targets::terminal_sync(&data);
    }

    #[test]
    fn damaged_packets_break_no_promise_of_a_link(data in mutated(asked())) {
        targets::long_link(&data);
    }

    #[test]
    fn damaged_packets_break_no_promise_of_a_terminal(data in mutated(told())) {
        targets::terminal_sync(&data[1..]);
    }
}
