//! The examples of RFC 7541, appendix C, and whatever an encoder writes.

use proptest::prelude::*;

use super::decode::Decoder;
use super::encode::{Encoder, Handle};
use super::*;

type Fields = Vec<(String, String)>;

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, Damaged> {
    let mut fields = Vec::new();
    decoder.decode(block, &mut |name, value| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        fields.push((text(name), text(value)));
    })?;
    Ok(fields)
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .bytes()
        .filter_map(|digit| (digit as char).to_digit(16).map(|value| value as u8))
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// Blocks of one connection in hex, and what they say: `name=value` separated by `;`; then the table.
type Example = (&'static str, &'static str, (usize, usize));

/// C.2.1, C.2.2, C.2.3 stand alone.
const ALONE: [Example; 3] = [
    (
        "400a637573746f6d2d6b65790d637573746f6d2d686561646572",
        "custom-key=custom-header",
        (55, 1),
    ),
    ("040c2f73616d706c652f70617468", ":path=/sample/path", (0, 0)),
    (
        "100870617373776f726406736563726574",
        "password=secret",
        (0, 0),
    ),
];

/// C.3: requests without Huffman code.
const PLAIN: [Example; 3] = [
    (
        "828684410f7777772e6578616d706c652e636f6d",
        ":method=GET;:scheme=http;:path=/;:authority=www.example.com",
        (57, 1),
    ),
    (
        "828684be58086e6f2d6361636865",
        ":method=GET;:scheme=http;:path=/;:authority=www.example.com;cache-control=no-cache",
        (110, 2),
    ),
    (
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ":method=GET;:scheme=https;:path=/index.html;:authority=www.example.com;custom-key=custom-value",
        (164, 3),
    ),
];

/// C.4: the same with it.
const HUFFMAN: [&str; 3] = [
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
];

/// C.6: responses with it, in a table of 256.
const RESPONSES: [Example; 3] = [
    (
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
        ":status=302;cache-control=private;date=Mon, 21 Oct 2013 20:13:21 GMT;location=https://www.example.com",
        (222, 4),
    ),
    (
        "4883640effc1c0bf",
        ":status=307;cache-control=private;date=Mon, 21 Oct 2013 20:13:21 GMT;location=https://www.example.com",
        (222, 4),
    ),
    (
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        ":status=200;cache-control=private;date=Mon, 21 Oct 2013 20:13:22 GMT;location=https://www.example.com;content-encoding=gzip;set-cookie=foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
        (215, 3),
    ),
];

fn expected(text: &str) -> Fields {
    text.split(';')
        .map(|field| {
            let at = field[1..].find('=').unwrap() + 1;
            (field[..at].to_owned(), field[at + 1..].to_owned())
        })
        .collect()
}

#[test]
fn the_examples_of_the_rfc_are_read_as_it_says() {
    for (hex, fields, table) in ALONE {
        let mut decoder = Decoder::default();
        assert_eq!(decoded(&mut decoder, &bytes(hex)), Ok(expected(fields)));
        assert_eq!(decoder.table(), table, "{hex}");
    }
    let (mut plain, mut huffman) = (Decoder::default(), Decoder::default());
    for ((hex, fields, table), same) in PLAIN.into_iter().zip(HUFFMAN) {
        for (decoder, hex) in [(&mut plain, hex), (&mut huffman, same)] {
            assert_eq!(decoded(decoder, &bytes(hex)), Ok(expected(fields)));
            assert_eq!(decoder.table(), table, "{hex}");
        }
    }
}

#[test]
fn the_responses_of_the_rfc_evict_as_it_says() {
    let mut decoder = Decoder::default();
    // Its example's table has 256 bytes: the size update says so.
    assert_eq!(decoded(&mut decoder, &bytes("3fe101")), Ok(vec![]));
    for (index, (hex, fields, table)) in RESPONSES.into_iter().enumerate() {
        let found = decoded(&mut decoder, &bytes(hex)).unwrap();
        let whole: Vec<String> = found.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(whole.join(";"), fields, "response {index}");
        assert_eq!(decoder.table(), table, "response {index}");
    }
}

#[test]
fn integers_are_written_and_read_as_the_rfc_says() {
    for (value, prefix, wire) in [
        (10, 5, &[0x0a][..]),
        (1337, 5, &[0x1f, 0x9a, 0x0a]),
        (42, 8, &[0x2a]),
        (31, 5, &[0x1f, 0]),
    ] {
        let mut out = Vec::new();
        put_integer(value, prefix, 0, &mut out);
        assert_eq!(out, wire);
        assert_eq!(take_integer(&mut &wire[..], prefix), Ok(value));
    }
    assert_eq!(
        take_integer(&mut &[0x1f, 0xff, 0xff, 0xff, 0xff, 1][..], 5),
        Err(Damaged::Integer)
    );
}

#[test]
fn damaged_blocks_are_told_apart() {
    for (hex, why) in [
        ("80", Damaged::Index),
        ("be", Damaged::Index),
        ("ff8001", Damaged::Index),
        ("40", Damaged::Truncated),
        ("400a63", Damaged::Truncated),
        ("3fe21f", Damaged::TableSize),
        ("823fe101", Damaged::TableSize),
        ("0082ffff00", Damaged::Huffman),
        ("7fffffffffff01", Damaged::Integer),
    ] {
        let found = decoded(&mut Decoder::default(), &bytes(hex));
        assert_eq!(found, Err(why), "{hex}");
    }
}

#[test]
fn what_every_call_carries_is_one_byte_from_the_second_time_on() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    let mut handle = Handle::default();
    for round in 0..50 {
        let mut block = Vec::new();
        encoder.begin(&mut block);
        encoder.repeated(
            &mut handle,
            b"content-type",
            b"application/grpc",
            &mut block,
        );
        encoder.field(b"x-tenant", b"blue", &mut block);
        encoder.once(b"grpc-timeout", format!("{round}m").as_bytes(), &mut block);
        encoder.field(b"authorization", b"Bearer x", &mut block);
        let fields = decoded(&mut decoder, &block).unwrap();
        assert_eq!(fields[0].1, "application/grpc");
        assert_eq!(fields[1], ("x-tenant".into(), "blue".into()));
        assert_eq!(fields[2].1, format!("{round}m"));
        assert_eq!(fields[3].1, "Bearer x");
        if round > 1 {
            assert_eq!((block[0], block[1]), (0xbf, 0xbe), "both are indexed");
        }
    }
    assert_eq!(decoder.table().1, 2, "numbers and secrets are not kept");
}

#[test]
fn a_peer_that_allows_no_table_gets_literals() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    let mut handle = Handle::default();
    for (max, table) in [(4096, 1), (0, 0), (100, 1), (0, 0)] {
        encoder.set_max(0);
        encoder.set_max(max);
        for _ in 0..3 {
            let mut block = Vec::new();
            encoder.begin(&mut block);
            encoder.repeated(&mut handle, b"grpc-status", b"0", &mut block);
            let fields = decoded(&mut decoder, &block).unwrap();
            assert_eq!(fields, [("grpc-status".into(), "0".into())]);
            assert_eq!(decoder.table().1, table);
        }
    }
}

/// Few different fields, so that they come back.
fn some_fields() -> impl Strategy<Value = Vec<(u8, u8, u16)>> {
    proptest::collection::vec((0..6_u8, 0..12_u8, 0..300_u16), 0..20)
}

proptest! {
    #[test]
    fn another_implementation_reads_what_we_write_and_we_what_it_writes(
        blocks in proptest::collection::vec(some_fields(), 1..20),
    ) {
        let (mut ours, mut theirs) = (Encoder::default(), hpack::Encoder::new());
        let (mut reader, mut oracle) = (Decoder::default(), hpack::Decoder::new());
        for fields in blocks {
            let fields: Fields = fields.into_iter()
                .map(|(name, value, length)| {
                    let value = (b' ' + value * 7) as char;
                    (format!("name-{name}"), String::from(value).repeat(length.into()))
                })
                .collect();
            let bytes = |fields: &Fields| -> Vec<(Vec<u8>, Vec<u8>)> {
                fields.iter().map(|(n, v)| (n.clone().into(), v.clone().into())).collect()
            };
            let mut block = Vec::new();
            for (name, value) in &fields {
                ours.field(name.as_bytes(), value.as_bytes(), &mut block);
            }
            prop_assert_eq!(oracle.decode(&block).unwrap(), bytes(&fields));
            let pairs = bytes(&fields);
            let block = theirs.encode(pairs.iter().map(|(n, v)| (&n[..], &v[..])));
            prop_assert_eq!(decoded(&mut reader, &block), Ok(fields));
        }
    }

    #[test]
    fn decoder_and_encoder_stay_in_step(
        blocks in proptest::collection::vec((some_fields(), 0..5_usize), 1..30),
    ) {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let mut handles = [Handle::default(); 6];
        for (fields, max) in blocks {
            encoder.set_max([4096, 200, 0, 1000, 9000][max]);
            let mut block = Vec::new();
            encoder.begin(&mut block);
            let mut sent = Vec::new();
            for (name, value, length) in fields {
                let (text, value) = (format!("name-{name}"), format!("{value}").repeat(length.into()));
                match value.len() % 3 {
                    0 => encoder.once(text.as_bytes(), value.as_bytes(), &mut block),
                    1 => encoder.field(text.as_bytes(), value.as_bytes(), &mut block),
                    _ => {
                        // A handle stands for one field.
                        let (text, value) = (format!("fixed-{name}"), format!("value-{name}"));
                        let handle = &mut handles[usize::from(name)];
                        encoder.repeated(handle, text.as_bytes(), value.as_bytes(), &mut block);
                        sent.push((text, value));
                        continue;
                    }
                }
                sent.push((text, value));
            }
            prop_assert_eq!(decoded(&mut decoder, &block), Ok(sent));
        }
    }

    #[test]
    fn no_block_breaks_the_decoder(blocks in proptest::collection::vec(
        proptest::collection::vec(any::<u8>(), 0..80), 0..10)) {
        let mut decoder = Decoder::default();
        for block in blocks {
            if decoded(&mut decoder, &block).is_err() {
                break;
            }
            prop_assert!(decoder.table().0 <= TABLE_SIZE);
        }
    }
}
