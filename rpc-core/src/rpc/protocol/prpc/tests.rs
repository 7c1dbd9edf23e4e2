//! PRPC sessions against each other and against damage.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::schema;
use super::*;
use crate::base::time::Instant;
use crate::rpc::compression::{Compression, compress};
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::call::{fill, masked_crc};
use crate::rpc::protocol::harness::{Pair, collect, config, config_with, echo, feed};
use crate::rpc::protocol::{
    Bad, BadReason, Body, BodyFormat, Checksum, ClientEvent, ClientSession, IncomingCall,
    OutgoingCall, RawBody, Reply, ServerEvent, Success, Trace, counters,
};
use crate::rpc::status::{Code, Status};
use crate::rpc::status_map::{ELIMIT, ELOGOFF, ENOMETHOD, EREQUEST, ERESPONSE};

/// What the wire says, taken apart by prost.
#[derive(Debug, PartialEq, Clone)]
pub struct Packet {
    pub meta: schema::RpcMeta,
    pub data: Vec<u8>,
    pub attachment: Vec<u8>,
}

/// Whole packets at the start of `bytes` (a recording may be cut), each with its own bytes.
pub fn packets(mut bytes: &[u8]) -> Vec<(Packet, &[u8])> {
    let mut found = Vec::new();
    while bytes.len() >= HEADER {
        assert_eq!(&bytes[..4], MAGIC);
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let (end, meta_end) = (HEADER + word(4), HEADER + word(8));
        let Some(whole) = bytes.get(..end) else {
            break;
        };
        let meta = schema::RpcMeta::decode(&whole[HEADER..meta_end]).unwrap();
        let data_end = end - meta.attachment_size() as usize;
        let packet = Packet {
            meta,
            data: whole[meta_end..data_end].to_vec(),
            attachment: whole[data_end..].to_vec(),
        };
        found.push((packet, whole));
        bytes = &bytes[end..];
    }
    found
}

pub fn serve(session: &mut dyn ServerSession, event: ServerEvent) {
    match event {
        ServerEvent::Call(call) => echo(session, call),
        other => panic!("no call: {other:?}"),
    }
}

pub fn frame(meta: &schema::RpcMeta, data: &[u8], attachment: &[u8]) -> Vec<u8> {
    let meta = meta.encode_to_vec();
    let body = meta.len() + data.len() + attachment.len();
    let mut out = MAGIC.to_vec();
    out.extend((body as u32).to_be_bytes());
    out.extend((meta.len() as u32).to_be_bytes());
    [&out[..], &meta, data, attachment].concat()
}

pub fn read(client: &mut PrpcClient, bytes: &[u8]) -> Result<Vec<ClientEvent>, Bad> {
    let mut rest = bytes;
    let mut events = Vec::new();
    while !rest.is_empty() {
        let n = fill(client.recv_space(), rest);
        rest = &rest[n..];
        client.received(n, Instant::ZERO)?;
        while let Some(event) = client.next_event() {
            events.push(event);
        }
    }
    Ok(events)
}

pub fn request_meta() -> schema::RpcMeta {
    schema::RpcMeta {
        request: Some(schema::RpcRequestMeta {
            service_name: "example.EchoService".into(),
            method_name: "Echo".into(),
            ..Default::default()
        }),
        correlation_id: Some(5),
        ..Default::default()
    }
}

/// What a server answers to one request: its error number and text, or the data.
fn answer_to(
    meta: &schema::RpcMeta,
    data: &[u8],
    attachment: &[u8],
) -> Result<Vec<u8>, (i32, String)> {
    let mut server = PrpcServer::new(config());
    let (sent, result) = feed(
        &mut server,
        &frame(meta, data, attachment),
        &[usize::MAX],
        serve,
    );
    assert_eq!(result, None);
    assert!(server.is_idle());
    let (packet, _) = packets(&sent).remove(0);
    assert_eq!(packet.meta.correlation_id, meta.correlation_id);
    let response = packet.meta.response.clone().unwrap();
    if response.error_code() == 0 {
        return Ok(packet.data);
    }
    assert!(
        packet.data.is_empty() && packet.attachment.is_empty(),
        "a failure has no body"
    );
    Err((response.error_code(), response.error_text().to_string()))
}

#[test]
fn a_damaged_body_fails_its_own_call_with_erequest() {
    let mut meta = request_meta();
    meta.checksum_type = Some(1);
    for value in [vec![1, 2, 3, 4], vec![1, 2], vec![0; 5], vec![]] {
        meta.checksum_value = Some(value);
        let (errno, text) = answer_to(&meta, b"data", b"").unwrap_err();
        assert_eq!(errno, EREQUEST);
        assert!(text.starts_with("[127.0.0.1:9801][E1003]"), "{text}");
    }
    let sum = masked_crc(Checksum::DataAndAttachment, &[b"data"], b"tail");
    meta.checksum_value = Some(sum.to_be_bytes().to_vec());
    meta.checksum_with_attachment = Some(true);
    meta.attachment_size = Some(4);
    assert_eq!(answer_to(&meta, b"data", b"tail"), Ok(b"data".to_vec()));
    meta.checksum_type = Some(9);
    assert_eq!(answer_to(&meta, b"data", b"tail").unwrap_err().0, EREQUEST);
}

#[test]
fn an_attachment_longer_than_the_message_is_erequest() {
    for size in [5, i32::MAX, -1] {
        let mut meta = request_meta();
        meta.attachment_size = Some(size);
        let (errno, text) = answer_to(&meta, b"data", b"").unwrap_err();
        assert_eq!(errno, EREQUEST);
        assert!(text.contains(&format!("attachment_size={size}")), "{text}");
    }
    let mut meta = request_meta();
    meta.attachment_size = Some(4);
    assert_eq!(
        answer_to(&meta, b"", b"data"),
        Ok(vec![]),
        "all of it is attachment"
    );
}

#[test]
fn compressions_are_restored_or_named() {
    for kind in [Compression::Snappy, Compression::Gzip, Compression::Zlib] {
        let mut meta = request_meta();
        meta.compress_type = Some(kind.number());
        let data = compress(kind, b"hello hello hello").unwrap();
        assert_eq!(answer_to(&meta, &data, b""), Ok(data.to_vec()));
        let (errno, text) = answer_to(&meta, b"junk", b"").unwrap_err();
        assert_eq!(errno, EREQUEST);
        assert!(text.contains(&kind.to_string()), "{text}");
    }
    let mut meta = request_meta();
    meta.compress_type = Some(4);
    let (errno, text) = answer_to(&meta, b"junk", b"").unwrap_err();
    assert!(errno == EREQUEST && text.contains("lz4"), "{text}");
}

#[test]
fn content_types_other_than_brpcs_own_are_refused() {
    let mut meta = request_meta();
    for (kind, accepted) in [
        (0, true),
        (1, true),
        (2, true),
        (3, true),
        (4, false),
        (-1, false),
    ] {
        meta.content_type = Some(kind);
        assert_eq!(answer_to(&meta, b"x", b"").is_ok(), accepted, "{kind}");
    }
    let formats = [
        BodyFormat::Protobuf,
        BodyFormat::PlainJson,
        BodyFormat::Json,
        BodyFormat::Text,
    ];
    for (kind, format) in (0..).zip(formats) {
        let mut server = PrpcServer::new(config());
        meta.content_type = Some(kind);
        meta.checksum_type = Some(1);
        meta.checksum_value = Some(
            masked_crc(Checksum::Data, &[b"{}"], b"")
                .to_be_bytes()
                .into(),
        );
        let request = frame(&meta, b"{}", b"");
        let (sent, _) = feed(&mut server, &request, &[3], |session, event| {
            let ServerEvent::Call(call) = event else {
                panic!()
            };
            assert_eq!(call.format, format);
            echo(session, call);
        });
        let answer = &packets(&sent)[0].0.meta;
        assert_eq!(
            answer.content_type(),
            kind,
            "an answer is written as its request"
        );
        assert_eq!(answer.checksum_type(), 1, "and guarded as it");
    }
}

#[test]
fn a_draining_server_refuses_before_it_looks_anything_up() {
    let mut server = PrpcServer::new(config());
    let mut held = Vec::new();
    let bytes = frame(&request_meta(), b"first", b"");
    feed(&mut server, &bytes, &[9], |_, event| held.push(event));
    server.drain();
    let mut meta = request_meta();
    meta.request.as_mut().unwrap().method_name = "Nope".into();
    let (sent, _) = feed(&mut server, &frame(&meta, b"second", b""), &[9], serve);
    let response = packets(&sent)[0].0.meta.response.clone().unwrap();
    assert_eq!(response.error_code(), ELOGOFF);
    assert!(!server.is_idle(), "the call under way is still owed");
    let mut sent = Vec::new();
    serve(&mut server, held.remove(0));
    collect(server.transmit(), &mut sent);
    assert_eq!(packets(&sent)[0].0.data, b"first");
    assert!(server.is_idle());
}

#[test]
fn calls_above_the_limit_are_refused_and_room_comes_back() {
    let limits = Limits {
        max_in_flight: 2,
        ..Limits::default()
    };
    let mut server = PrpcServer::new(config_with(limits));
    let bytes = frame(&request_meta(), b"x", b"").repeat(3);
    let mut held = Vec::new();
    let (sent, _) = feed(&mut server, &bytes, &[usize::MAX], |_, event| {
        held.push(event)
    });
    assert_eq!(held.len(), 2);
    assert_eq!(
        packets(&sent)[0]
            .0
            .meta
            .response
            .clone()
            .unwrap()
            .error_code(),
        ELIMIT
    );
    serve(&mut server, held.remove(0));
    feed(
        &mut server,
        &bytes[..bytes.len() / 3],
        &[usize::MAX],
        |_, event| held.push(event),
    );
    assert_eq!(held.len(), 2);
}

#[test]
fn damage_to_a_frame_closes_the_connection_with_a_counted_reason() {
    let good = frame(&request_meta(), b"good", b"");
    let header =
        |body: u32, meta: u32| [&MAGIC[..], &body.to_be_bytes(), &meta.to_be_bytes()].concat();
    let response = schema::RpcMeta {
        response: Some(Default::default()),
        ..Default::default()
    };
    let cases = [
        (BadReason::BadMagic, b"PRPX".to_vec()),
        (BadReason::BadMagic, b"GET / HTTP/1.1".to_vec()),
        (BadReason::BodyTooLarge, header(u32::MAX, 3)),
        (BadReason::BodyTooLarge, header((64 << 20) + 1, 3)),
        (BadReason::MetaBeyondBody, header(10, 11)),
        (BadReason::MetaTooLarge, header(1 << 20, (64 << 10) + 1)),
        (
            BadReason::MetaUnparsable,
            [header(3, 3), vec![0x0a, 0x7f, 1]].concat(),
        ),
        (
            BadReason::MetaUnparsable,
            [header(2, 2), vec![0x0a, 0]].concat(),
        ),
        (BadReason::WrongDirection, frame(&response, b"", b"")),
        (BadReason::WrongDirection, header(0, 0)),
    ];
    for (reason, damage) in cases {
        for sizes in [&[1][..], &[5, 11], &[usize::MAX]] {
            let before = reason.counted();
            let mut server = PrpcServer::new(config());
            let bytes = [&good[..], &damage].concat();
            let (sent, result) = feed(&mut server, &bytes, sizes, serve);
            assert_eq!(
                packets(&sent)[0].0.data,
                b"good",
                "{reason:?}: the call before it is answered"
            );
            assert!(result.is_some() || server.is_finished(), "{reason:?}");
            assert!(
                result.is_none_or(|found| found == reason),
                "{result:?} for {reason:?}"
            );
            assert!(reason.counted() > before, "{reason:?} is counted");
            assert!(server.next_event().is_none());
        }
    }
}

#[test]
fn a_connection_that_ends_inside_a_frame_is_counted() {
    let bytes = frame(&request_meta(), b"half", b"");
    for end in 0..=bytes.len() {
        let mut server = PrpcServer::new(config());
        let before = BadReason::Truncated.counted();
        feed(&mut server, &bytes[..end], &[usize::MAX], serve);
        server.end_of_input();
        assert!(server.is_finished());
        let inside = end > 0 && end < bytes.len();
        assert!(!inside || BadReason::Truncated.counted() > before, "{end}");
    }
}

#[test]
fn a_frame_whose_rest_does_not_come_is_given_up() {
    let mut server = PrpcServer::new(config());
    assert_eq!(server.deadline(), None, "idle connections may wait");
    let bytes = frame(&request_meta(), b"x", b"");
    feed(&mut server, &bytes[..20], &[usize::MAX], serve);
    let deadline = server.deadline().unwrap();
    let before = BadReason::Slow.counted();
    let early = Instant::from_nanos(deadline.as_nanos() - 1);
    assert!(server.timed_out(early).is_ok() && !server.is_finished());
    feed(&mut server, &bytes[20..], &[usize::MAX], serve);
    assert_eq!(server.deadline(), None, "the frame is complete");
    feed(&mut server, &bytes[..1], &[usize::MAX], serve);
    assert!(server.timed_out(deadline).is_err() && server.is_finished());
    assert!(BadReason::Slow.counted() > before);
}

#[test]
fn everything_beside_the_message_arrives() {
    let mut pair = Pair::new(1000);
    let metadata: MetadataMap = [("user", "ünï"), ("k", "")].into_iter().collect();
    let trace = Trace {
        trace_id: 1,
        span_id: -2,
        parent_span_id: 3,
        request_id: "r-1".into(),
    };
    let mut call = OutgoingCall::new(
        "example.EchoService",
        "Echo",
        Body::Bytes(Bytes::from_static(b"m")),
    );
    call.metadata = &metadata;
    call.trace = Some(&trace);
    call.log_id = Some(0);
    call.attachment = Bytes::from_static(b"tail");
    call.timeout = Some(Duration::from_micros(1500));
    call.checksum = Checksum::DataAndAttachment;
    call.token = 77;
    pair.client.call(call).unwrap();
    let events = pair
        .run(|server, call| {
            assert_eq!(call.metadata, metadata);
            assert_eq!(call.trace.as_deref(), Some(&trace));
            assert_eq!(call.log_id, Some(0));
            assert_eq!(call.timeout, Some(Duration::from_millis(2)), "rounded up");
            assert_eq!(call.deadline(), Instant::from_nanos(2_000_007));
            echo(server, call);
        })
        .unwrap();
    let [
        ClientEvent::Reply {
            token: 77,
            result: Ok(reply),
            ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(
        (&reply.attachment[..], &reply.metadata),
        (&b"tail"[..], &metadata)
    );
    assert_eq!(
        reply.body.checksum,
        Checksum::DataAndAttachment,
        "guarded as the request was"
    );
    assert_eq!(
        &reply.body.clone().open(&reply.attachment, 10).unwrap()[..],
        b"m"
    );
    assert!(pair.client.is_idle() && pair.server.is_idle());
}

#[test]
fn a_handlers_failure_arrives_word_for_word() {
    for (status, code) in [
        (Status::not_found("no such user: 7"), Code::NotFound),
        (Status::from_errno(4711, "ours"), Code::Unknown),
        (Status::unknown(""), Code::Unknown),
    ] {
        let mut pair = Pair::new(usize::MAX);
        call(&mut pair.client, b"x");
        let events = pair
            .run(|server, call| server.answer(call.id, Reply::Failed(&status)))
            .unwrap();
        let ClientEvent::Reply { result, .. } = &events[0] else {
            panic!("no answer")
        };
        let got = result.as_ref().unwrap_err();
        assert_eq!(
            (got.code(), got.errno(), got.message()),
            (code, status.errno(), status.message())
        );
    }
}

fn call(client: &mut PrpcClient, data: &[u8]) -> crate::rpc::protocol::CallId {
    let body = Body::Bytes(Bytes::copy_from_slice(data));
    client
        .call(OutgoingCall::new("example.EchoService", "Echo", body))
        .unwrap()
}

#[test]
fn answers_in_any_order_find_their_callers() {
    let mut pair = Pair::new(64);
    let ids: Vec<_> = (0..50_u8)
        .map(|i| (call(&mut pair.client, &[i]), i))
        .collect();
    let mut held = Vec::new();
    assert!(pair.run(|_, call| held.push(call)).unwrap().is_empty());
    while let Some(call) = held.pop() {
        echo(&mut *pair.server, call);
    }
    let events = pair.run(echo).unwrap();
    assert_eq!(events.len(), ids.len());
    for event in events {
        let ClientEvent::Reply { id, result, .. } = event else {
            panic!("no answer")
        };
        let expected = ids.iter().find(|(own, _)| *own == id).unwrap().1;
        assert_eq!(&result.unwrap().body.data[..], [expected]);
    }
}

#[test]
fn late_reply_is_dropped_and_counted() {
    let mut pair = Pair::new(usize::MAX);
    let first = call(&mut pair.client, b"1");
    assert!(pair.client.cancel(first) && !pair.client.cancel(first));
    let second = call(&mut pair.client, b"2");
    assert_ne!(first, second, "a slot used again has another id");
    let before = counters::LATE_REPLIES.get();
    let events = pair.run(echo).unwrap();
    assert!(counters::LATE_REPLIES.get() > before);
    let [
        ClientEvent::Reply {
            id,
            result: Ok(reply),
            ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((*id, &reply.body.data[..]), (second, &b"2"[..]));
}

#[test]
fn a_lost_connection_ends_every_call() {
    let mut client = PrpcClient::new(Limits::default());
    let ids: Vec<_> = (0..3).map(|_| call(&mut client, b"x")).collect();
    client.abort(&Status::unavailable("connection reset by 127.0.0.1:9"));
    let mut lost = Vec::new();
    while let Some(ClientEvent::Reply { id, result, .. }) = client.next_event() {
        assert_eq!(result.unwrap_err().code(), Code::Unavailable);
        lost.push(id);
    }
    assert_eq!(lost, ids);
    assert_eq!(client.in_flight(), 0);
}

#[test]
fn an_answer_that_contradicts_itself_fails_its_call_alone() {
    let mut client = PrpcClient::new(Limits::default());
    let (first, second) = (call(&mut client, b"1"), call(&mut client, b"2"));
    let meta = |key: u64, size| schema::RpcMeta {
        response: Some(Default::default()),
        correlation_id: Some(key as i64),
        attachment_size: Some(size),
        ..Default::default()
    };
    let bytes = [
        frame(&meta(first.key(), 9), b"x", b""),
        frame(&meta(second.key(), 0), b"y", b""),
    ]
    .concat();
    let events = read(&mut client, &bytes).unwrap();
    let [
        ClientEvent::Reply {
            result: Err(status),
            ..
        },
        ClientEvent::Reply { result: Ok(_), .. },
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(status.errno(), ERESPONSE);
    let request = frame(&request_meta(), b"", b"");
    assert!(read(&mut client, &request).is_err() || client.is_finished());
}

#[test]
fn what_cannot_be_sent_is_refused_before_a_byte_of_it() {
    let limits = Limits {
        max_body: 100,
        max_in_flight: 1,
        ..Limits::default()
    };
    let mut client = PrpcClient::new(limits);
    let body = Body::Bytes(Bytes::from(vec![0; 101]));
    let error = client.call(OutgoingCall::new("s", "m", body)).unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    let long = "x".repeat(40_000);
    let error = client
        .call(OutgoingCall::new(&long, "m", Body::Bytes(Bytes::new())))
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(client.transmit().is_empty() && client.is_idle());
    call(&mut client, b"x");
    let error = client
        .call(OutgoingCall::new("s", "m", Body::Bytes(Bytes::new())))
        .unwrap_err();
    assert_eq!(error.errno(), ELIMIT);
}

#[test]
fn an_answer_above_the_limit_becomes_a_status() {
    let limits = Limits {
        max_body: 1000,
        ..Limits::default()
    };
    let mut pair = Pair::with(usize::MAX, Box::new(PrpcServer::new(config_with(limits))));
    call(&mut pair.client, b"x");
    let events = pair
        .run(|server, call| {
            let success = Success::new(Body::Bytes(Bytes::from(vec![0; 1001])));
            server.answer(call.id, Reply::Success(success));
        })
        .unwrap();
    let ClientEvent::Reply { result, .. } = &events[0] else {
        panic!("no answer")
    };
    assert_eq!(result.as_ref().unwrap_err().code(), Code::ResourceExhausted);
}

/// The kernel writes into `recv_space`; from there to the handler, and from the handler to `transmit`, the
/// bytes of large bodies stay where they are.
#[test]
fn large_bodies_are_not_copied_either_way() {
    for size in [4096, 60_000, 65_536, 1 << 20, 3 << 20] {
        let mut server = PrpcServer::new(config());
        let mut client = PrpcClient::new(Limits::default());
        for round in 0..4 {
            let body = Bytes::from(vec![round; size]);
            let call = OutgoingCall::new("example.EchoService", "Echo", Body::Bytes(body.clone()));
            client.call(call).unwrap();
            let sent: Vec<Bytes> = client.transmit().drain(..).collect();
            assert_eq!(sent[1].as_ptr(), body.as_ptr(), "sent from where it was");
            let mut echoed = Vec::new();
            let (answer, result) =
                feed(&mut server, &sent.concat(), &[1 << 18], |session, event| {
                    let ServerEvent::Call(call) = event else {
                        panic!()
                    };
                    let data = call.body.data.clone();
                    echo(session, call);
                    let answer: Vec<Bytes> = session.transmit().drain(..).collect();
                    assert_eq!(
                        answer[1].as_ptr(),
                        data.as_ptr(),
                        "answered from where it was received"
                    );
                    echoed = answer.concat();
                });
            assert!(answer.is_empty() && result.is_none());
            let events = read(&mut client, &echoed).unwrap();
            let ClientEvent::Reply {
                result: Ok(reply), ..
            } = &events[0]
            else {
                panic!("{events:?}")
            };
            assert_eq!(reply.body.data, body);
        }
        assert_eq!(server.copied_bodies(), 0, "{size}");
        assert_eq!(client.copied_bodies(), 0, "{size}");
    }
}

#[test]
fn a_body_that_straddles_buffers_is_moved_once_and_counted() {
    let mut server = PrpcServer::new(config());
    let small = frame(&request_meta(), b"x", b"");
    let large = frame(&request_meta(), &[7; 100_000], b"");
    let before = counters::COPIED_BODIES.get();
    let bytes = [&small[..], &small, &large].concat();
    let mut lengths = Vec::new();
    feed(&mut server, &bytes, &[usize::MAX], |session, event| {
        let ServerEvent::Call(call) = event else {
            panic!()
        };
        lengths.push(call.body.data.len());
        echo(session, call);
    });
    assert_eq!(lengths, [1, 1, 100_000]);
    assert_eq!(server.copied_bodies(), 1);
    assert!(counters::COPIED_BODIES.get() > before);
}

#[test]
fn an_idle_session_holds_no_buffer() {
    let mut pair = Pair::new(100);
    call(&mut pair.client, b"x");
    pair.run(echo).unwrap();
    pair.server.release();
    pair.client.release();
    assert!(pair.server.is_idle() && pair.client.is_idle());
    assert!(
        size_of::<PrpcServer>() <= 512,
        "{}",
        size_of::<PrpcServer>()
    );
}

#[test]
fn old_peers_may_use_short_names() {
    let mut meta = request_meta();
    meta.request.as_mut().unwrap().service_name = "EchoService".into();
    assert!(answer_to(&meta, b"x", b"").is_ok());
    meta.request.as_mut().unwrap().service_name = "\u{1}".into();
    assert_eq!(answer_to(&meta, b"x", b"").unwrap_err().0, ENOMETHOD);
}

#[test]
fn names_that_are_no_text_are_unknown_not_fatal() {
    let meta = [&[0x0a, 6, 0x0a, 1, 0xff, 0x12, 1, 0xfe][..], &[0x20, 9]].concat();
    let mut bytes = [&MAGIC[..], &[0, 0, 0, 10], &[0, 0, 0, 10]].concat();
    bytes.extend(meta);
    let (sent, result) = feed(&mut PrpcServer::new(config()), &bytes, &[usize::MAX], serve);
    assert_eq!(result, None);
    assert_eq!(
        packets(&sent)[0]
            .0
            .meta
            .response
            .clone()
            .unwrap()
            .error_code(),
        ENOMETHOD
    );
}

#[test]
fn opening_a_body_checks_the_sum_before_it_inflates() {
    let body = RawBody {
        data: Bytes::from_static(b"x"),
        compression: Compression::Lz4,
        checksum: Checksum::Data,
        sum: 1,
    };
    let text = body
        .open(&Bytes::new(), 10)
        .unwrap_err()
        .message()
        .to_string();
    assert!(text.contains("checksum"), "{text}");
}

proptest! {
    #[test]
    fn any_pieces_make_the_same_calls(
        bodies in proptest::collection::vec((0..9000_usize, 0..40_usize), 1..12),
        sizes in proptest::collection::vec(1..5000_usize, 1..9),
    ) {
        let mut expected = Vec::new();
        let mut bytes = Vec::new();
        for (index, (data, attachment)) in bodies.iter().enumerate() {
            let mut meta = request_meta();
            meta.attachment_size = Some(*attachment as i32);
            let (data, attachment) = (vec![index as u8; *data], vec![!index as u8; *attachment]);
            bytes.extend(frame(&meta, &data, &attachment));
            expected.push((data, attachment));
        }
        let mut server = PrpcServer::new(config());
        let mut found = Vec::new();
        let (_, result) = feed(&mut server, &bytes, &sizes, |session, event| {
            let ServerEvent::Call(call) = event else { panic!() };
            found.push((call.body.data.to_vec(), call.attachment.to_vec()));
            echo(session, call);
        });
        prop_assert_eq!(result, None);
        prop_assert_eq!(found, expected);
        prop_assert!(server.is_idle());
    }

    #[test]
    fn damage_anywhere_ends_in_answers_or_a_reason(
        flips in proptest::collection::vec((0..1000_usize, any::<u8>()), 0..6),
        sizes in proptest::collection::vec(1..200_usize, 1..4),
    ) {
        let mut meta = request_meta();
        meta.attachment_size = Some(3);
        let mut bytes = frame(&meta, b"some data", b"end").repeat(3);
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] ^= value;
        }
        let mut server = PrpcServer::new(config());
        feed(&mut server, &bytes, &sizes, serve);
        let mut client = PrpcClient::new(Limits::default());
        call(&mut client, b"x");
        let _ = read(&mut client, &bytes);
    }
}

/// Calls that carry more than a handful of bytes in every optional field.
#[test]
fn a_call_is_what_it_was_after_any_number_of_steps() {
    for step in [1, 2, 3, 7, 12, 13, 64, 1 << 20] {
        let mut pair = Pair::new(step);
        for size in [0, 1, 4095, 4096, 5000] {
            call(&mut pair.client, &vec![9; size]);
        }
        let mut seen = Vec::new();
        let mut serve = |server: &mut dyn ServerSession, call: IncomingCall| {
            seen.push(call.body.data.len());
            echo(server, call);
        };
        assert_eq!(pair.run(&mut serve).unwrap().len(), 5, "step {step}");
        assert_eq!(seen, [0, 1, 4095, 4096, 5000]);
    }
}
