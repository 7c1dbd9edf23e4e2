//! The fuzz targets on generated input: random bytes, and good messages with a few bytes changed.

#[path = "../../fuzz/src/targets.rs"]
mod targets;

use proptest::prelude::*;

/// Whole messages of all protocols to begin from: calls, calls with streams, frames of those (as if each were
/// the first of its connection), an answer, HTTP requests.
const SEEDS: [&[u8]; 25] = [
    b"PRPC\0\0\0\x12\0\0\0\x10\x0a\x06\x0a\x01S\x12\x01m\x20\x05\x28\x01\x50\0\x58\0hi",
    b"PRPC\0\0\0\x16\0\0\0\x12\x0a\x06\x0a\x01S\x12\x01m\x20\x06\x58\x01\x62\x04\xde\xad\xbe\xefdata",
    b"PRPC\0\0\0\x13\0\0\0\x10\x0a\x06\x0a\x01S\x12\x01m\x4a\x06\x0a\x01k\x12\x01vmsg",
    b"PRPC\0\0\0\x0b\0\0\0\x08\x12\x02\x08\0\x20\x80\x80\x04out",
    b"STRM\0\0\0\x0a\0\0\0\x08\x08\0\x10\0\x18\x03\x20\0ab",
    b"POST /p.S/m HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /p.S/m HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"GET /status?x=y HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n",
    b"\0\0\x1c\x01\x04\0\0\0\x01\x83\x86\x44\x06/p.S/m\x5f\x10application/grpc\0\0\x07\0\x01\0\0\0\x01\0\0\0\0\x02hi",
    b"\0\0\x1c\x01\x04\0\0\0\x03\x83\x86\x44\x06/p.S/m\x5f\x10application/json\0\0\x02\0\x01\0\0\0\x03{}",
    b"\0\0\x08\x06\0\0\0\0\0pingpong\0\0\x04\x08\0\0\0\0\0\0\0\x10\0\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\x10",
    b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08\0\0\x05\x02\0\0\0\0\x01\0\0\0\0\x10",
    b"\0\0\x13\x01\x04\0\0\0\x01\x88\x5f\x10application/grpc\0\0\x07\0\0\0\0\0\x01\0\0\0\0\x02hi\0\0\x0f\x01\x05\0\0\0\x01\x40\x0bgrpc-status\x010",
    b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x03\0\0\0\0",
    b"PRPC\0\0\0\x12\0\0\0\x12\x0a\x06\x0a\x01S\x12\x01b\x20\x07\x42\x06\x08\x05\x10\x01\x18\x01",
    b"STRM\0\0\0\x0b\0\0\0\x08\x08\0\x10\x05\x18\x03\x20\0\0hi",
    b"STRM\0\0\0\x09\0\0\0\x08\x08\0\x10\x05\x18\x03\x20\0\x80",
    b"STRM\0\0\0\x0a\0\0\0\x0a\x08\0\x10\x05\x18\x04\x2a\x02\x08\x03",
    b"STRM\0\0\0\x06\0\0\0\x06\x08\0\x10\x05\x18\x02",
    b"PRPC\0\0\0\x14\0\0\0\x12\x0a\x06\x0a\x01S\x12\x01m\x20\x08\x42\x06\x08\x05\x10\x01\x18\0hi",
    b"PRPC\0\0\0\x14\0\0\0\x12\x0a\x06\x0a\x01S\x12\x01s\x20\x09\x42\x06\x08\x05\x10\x01\x18\x01hi",
    b"PRPC\0\0\0\x12\0\0\0\x12\x0a\x06\x0a\x01S\x12\x01c\x20\x0a\x42\x06\x08\x05\x10\0\x18\x01",
    b"STRM\0\0\0\x26\0\0\0\x0a\x08\x84\x80\x14\x10\0\x18\x03\x20\0\
      PRPC\0\0\0\x10\0\0\0\x10\x12\x02\x08\0\x20\x84\x80\x14\x42\x06\x08\0\x10\x01\x18\x01",
    b"STRM\0\0\0\x0e\0\0\0\x0a\x08\x84\x80\x14\x10\0\x18\x03\x20\0\0out",
    b"STRM\0\0\0\x0b\0\0\0\x0a\x08\x84\x80\x14\x10\0\x18\x03\x20\0\x80",
];

/// Pieces' sizes, then messages with a few bytes changed, cut out or doubled.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec((any::<u16>(), any::<u8>(), 0..4_u8), 0..8);
    let seeds = proptest::collection::vec(0..SEEDS.len(), 1..5);
    (any::<[u8; 2]>(), seeds, edits).prop_map(|(sizes, seeds, edits)| {
        let mut bytes: Vec<u8> = seeds
            .iter()
            .flat_map(|seed| SEEDS[*seed])
            .copied()
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
        [&sizes[..], &bytes].concat()
    })
}

fn run_all(data: &[u8]) {
    targets::prpc_server(data);
    targets::prpc_client(data);
    targets::http1_server(data);
    targets::grpc_server(data);
    targets::grpc_client(data);
    targets::one_port(data);
    targets::decompress(data);
}

#[test]
fn good_input_is_taken_for_what_it_is() {
    let all = |range: std::ops::Range<usize>| [&[3, 5][..], &SEEDS[range].concat()].concat();
    assert_eq!(targets::prpc_server(&all(0..3)), 3, "calls");
    assert_eq!(targets::prpc_client(&all(3..5)), 1, "answers");
    assert_eq!(targets::prpc_server(&all(14..22)), 4, "calls with streams");
    assert_eq!(targets::prpc_client(&all(22..25)), 1, "streams that end");
    assert_eq!(targets::http1_server(&all(5..8)), 3, "calls and pages");
    assert_eq!(targets::one_port(&all(5..8)), 3, "calls and pages");
    assert_eq!(targets::grpc_server(&all(8..12)), 2, "calls");
    assert_eq!(
        targets::grpc_client(&all(12..14)),
        2,
        "one answered, one unseen"
    );
}

#[test]
fn the_seeds_themselves_are_good_input() {
    for first in SEEDS {
        for second in SEEDS {
            run_all(&[&[3, 5], first, second].concat());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn changed_messages_break_no_promise(data in mutated()) {
        run_all(&data);
    }

    #[test]
    fn random_bytes_break_no_promise(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        run_all(&data);
    }
}
