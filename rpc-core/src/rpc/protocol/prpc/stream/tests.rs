//! Streams between our own sessions, against recorded frames, and against peers that keep to nothing.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use prost::Message;

use super::super::golden::tests::golden;
use super::super::{Prpc, PrpcClient, PrpcServer, schema};
use super::*;
use crate::base::time::Instant;
use crate::rpc::protocol::call::{fill, no_such_method};
use crate::rpc::protocol::harness::collect;
use crate::rpc::protocol::{
    ClientEvent, ClientSession, IncomingCall, Kind, Limits, OutgoingCall, Reply, Route, Routes,
    ServerConfig, ServerEvent, ServerSession, Success,
};

/// `example.EchoService`: `Echo` is unary, the others are of the kind that they are called.
struct Kinds;

impl Routes for Kinds {
    fn find(&self, service: &str, method: &str) -> Result<Route, Status> {
        let kind = match method {
            "Echo" => Kind::Unary,
            "Client" => Kind::ClientStream,
            "Server" => Kind::ServerStream,
            "Bidi" => Kind::Bidi,
            _ => return Err(no_such_method(service, method)),
        };
        Ok(Route {
            method: kind as u32,
            kind,
        })
    }
}

fn server() -> PrpcServer {
    PrpcServer::new(Arc::new(ServerConfig {
        limits: Limits::default(),
        identity: "127.0.0.1:1".into(),
        proxy_header: false,
        routes: Arc::new(Kinds),
        protocols: vec![Arc::new(Prpc)],
        authenticator: None,
        cors: None,
    }))
}

/// Moves `bytes` into a server in pieces of `step`; its events.
fn into_server(server: &mut PrpcServer, bytes: &[u8], step: usize) -> Vec<ServerEvent> {
    let mut events = Vec::new();
    for piece in bytes.chunks(step) {
        let mut rest = piece;
        while !rest.is_empty() {
            let taken = fill(server.recv_space(), rest);
            rest = &rest[taken..];
            server.received(taken, Instant::from_nanos(1)).unwrap();
            events.extend(std::iter::from_fn(|| server.next_event()));
        }
    }
    events
}

fn into_client(client: &mut PrpcClient, bytes: &[u8], step: usize) -> Vec<ClientEvent> {
    let mut events = Vec::new();
    for piece in bytes.chunks(step) {
        let mut rest = piece;
        while !rest.is_empty() {
            let taken = fill(client.recv_space(), rest);
            rest = &rest[taken..];
            client.received(taken, Instant::from_nanos(1)).unwrap();
            events.extend(std::iter::from_fn(|| client.next_event()));
        }
    }
    events
}

fn sent(queue: &mut VecDeque<Bytes>) -> Vec<u8> {
    let mut bytes = Vec::new();
    collect(queue, &mut bytes);
    bytes
}

fn one_call(events: Vec<ServerEvent>) -> IncomingCall {
    let [ServerEvent::Call(call)] = <[ServerEvent; 1]>::try_from(events).unwrap() else {
        panic!("no call");
    };
    call
}

fn text(bytes: &'static str) -> Body<'static> {
    Body::Bytes(Bytes::from_static(bytes.as_bytes()))
}

fn call(method: &'static str, kind: Kind) -> OutgoingCall<'static> {
    let mut call = OutgoingCall::new("example.EchoService", method, text("request"));
    call.kind = kind;
    call.token = 7;
    call
}

fn metadata(key: &str) -> MetadataMap {
    [(key, "value")].into_iter().collect()
}

/// A whole frame, taken apart by prost.
type Frame = (schema::StreamFrameMeta, Vec<u8>);

/// Everything in `bytes` that is a stream's.
fn stream_frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while bytes.len() >= HEADER {
        let stream = bytes.starts_with(STREAM_MAGIC);
        bytes.advance(4);
        let (body, meta) = (bytes.get_u32() as usize, bytes.get_u32() as usize);
        if stream {
            let decoded = schema::StreamFrameMeta::decode(&bytes[..meta]).unwrap();
            frames.push((decoded, bytes[meta..body].to_vec()));
        }
        bytes.advance(body);
    }
    assert!(bytes.is_empty(), "frames are whole");
    frames
}

#[test]
fn all_kinds_of_calls_pass_between_our_sessions_in_pieces_of_any_size() {
    for step in [1, 7, 1 << 20] {
        let (mut client, mut server) = (PrpcClient::new(Limits::default()), server());
        client_stream(&mut client, &mut server, step);
        server_stream(&mut client, &mut server, step);
        bidi(&mut client, &mut server, step);
        assert!(client.is_idle() && server.is_idle(), "step {step}");
        assert_eq!(client.in_flight(), 0);
    }
}

fn client_stream(client: &mut PrpcClient, server: &mut PrpcServer, step: usize) {
    let id = client.call(call("Client", Kind::ClientStream)).unwrap();
    let _ = client.send(id, text("one"), Compression::None);
    let incoming = one_call(into_server(server, &sent(client.transmit()), step));
    assert!(incoming.body.data.is_empty() && !incoming.offers_stream);
    assert!(into_client(client, &sent(server.transmit()), step).is_empty());
    let _ = client.send(id, text("two"), Compression::Gzip);
    client.half_close(id);
    let events = into_server(server, &sent(client.transmit()), step);
    let [
        ServerEvent::Message { message: one, .. },
        ServerEvent::Message { message: two, .. },
        ServerEvent::HalfClosed { id: half },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!((&one.data[..], &two.data[..]), (&b"one"[..], &b"two"[..]));
    assert_eq!(two.compression, Compression::Gzip, "travels along");
    assert_eq!(*half, incoming.id);
    let (head, trailers) = (metadata("head"), metadata("trailer"));
    let mut success = Success::new(text("answer"));
    success.metadata = &head;
    success.trailers = &trailers;
    server.answer(incoming.id, Reply::Success(success));
    let events = into_client(client, &sent(server.transmit()), step);
    let [
        ClientEvent::Reply {
            token: 7,
            result: Ok(reply),
            ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(&reply.body.data[..], b"answer");
    assert_eq!((&reply.metadata, &reply.trailers), (&head, &trailers));
}

fn server_stream(client: &mut PrpcClient, server: &mut PrpcServer, step: usize) {
    client.call(call("Server", Kind::ServerStream)).unwrap();
    let incoming = one_call(into_server(server, &sent(client.transmit()), step));
    assert_eq!(&incoming.body.data[..], b"request");
    server.begin(incoming.id, &metadata("head"), Compression::None);
    for message in ["one", "", "three"] {
        let _ = server.send(incoming.id, text(message), Compression::None);
    }
    let mut failure = Status::not_found("gone");
    failure.metadata_mut().insert("why", "moved");
    server.finish(incoming.id, Err(&failure), &metadata("trailer"));
    let events = into_client(client, &sent(server.transmit()), step);
    let [
        ClientEvent::Head { metadata: head, .. },
        ClientEvent::Message { .. },
        ClientEvent::Message { message: empty, .. },
        ClientEvent::Message { message: three, .. },
        ClientEvent::End {
            result: Err(status),
            token: 7,
            ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(*head, metadata("head"));
    assert!(empty.data.is_empty() && &three.data[..] == b"three");
    assert_eq!((status.code(), status.message()), (failure.code(), "gone"));
    assert_eq!(status.metadata().get("why"), Some("moved"));
    assert_eq!(status.metadata().get("trailer"), Some("value"));
}

fn bidi(client: &mut PrpcClient, server: &mut PrpcServer, step: usize) {
    let id = client.call(call("Bidi", Kind::Bidi)).unwrap();
    let incoming = one_call(into_server(server, &sent(client.transmit()), step));
    into_client(client, &sent(server.transmit()), step);
    for round in ["a", "b"] {
        let _ = client.send(id, text(round), Compression::None);
        let events = into_server(server, &sent(client.transmit()), step);
        let [ServerEvent::Message { id: at, message }] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!((*at, &message.data[..]), (incoming.id, round.as_bytes()));
        server.consumed(*at, message.data.len());
        let _ = server.send(*at, text(round), Compression::None);
        let events = into_client(client, &sent(server.transmit()), step);
        let answers = |event: &&ClientEvent| matches!(event, ClientEvent::Message { .. });
        assert_eq!(events.iter().filter(answers).count(), 1, "{events:?}");
    }
    client.half_close(id);
    let events = into_server(server, &sent(client.transmit()), step);
    assert!(matches!(events[..], [ServerEvent::HalfClosed { .. }]));
    server.finish(incoming.id, Ok(()), &metadata("trailer"));
    let events = into_client(client, &sent(server.transmit()), step);
    let [
        ClientEvent::End {
            result: Ok(end), ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(*end, metadata("trailer"));
}

/// Serves the recorded call as brpc's example does: takes the stream and each message.
fn echo_stream(server: &mut PrpcServer, event: ServerEvent) {
    match event {
        ServerEvent::Call(call) => {
            assert!(call.offers_stream);
            let mut success = Success::new(text("\n\u{f}Accepted stream"));
            success.accepts_stream = true;
            server.answer(call.id, Reply::Success(success));
        }
        ServerEvent::Message { id, message } => server.consumed(id, message.data.len()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_recorded_stream_split_at_every_byte_is_answered_as_brpc_did() {
    let (Some(asked), Some(answered)) = (golden("stream_echo.c2s"), golden("stream_echo.s2c"))
    else {
        return;
    };
    for at in 0..asked.len() {
        let mut server = server();
        for piece in [&asked[..at], &asked[at..]] {
            for event in into_server(&mut server, piece, piece.len().max(1)) {
                echo_stream(&mut server, event);
            }
        }
        let ours = sent(server.transmit());
        assert_eq!(
            ours.escape_ascii().to_string(),
            answered.escape_ascii().to_string()
        );
    }
}

#[test]
fn a_recorded_answer_opens_the_stream_that_was_held_out() {
    let Some(answered) = golden("stream_echo.s2c") else {
        return;
    };
    let mut client = PrpcClient::new(Limits::default());
    let mut outgoing = call("Echo", Kind::Unary);
    outgoing.offers_stream = true;
    let id = client.call(outgoing).unwrap();
    client.transmit().clear();
    // The recording is of another id: 0, and its call another correlation id.
    let mut frames = stream_frames(&answered);
    let inner = &mut frames[0].1;
    let meta = u32::from_be_bytes(inner[8..12].try_into().unwrap()) as usize;
    let mut answer = schema::RpcMeta::decode(&inner[HEADER..HEADER + meta]).unwrap();
    answer.correlation_id = Some(id.key() as i64);
    let answer = super::super::tests::frame(&answer, &inner[HEADER + meta..], b"");
    *inner = answer;
    let mut bytes = Vec::new();
    for (mut meta, data) in frames {
        meta.stream_id = id.key() as i64;
        bytes.extend_from_slice(&frame(&meta, &data));
    }
    let events = into_client(&mut client, &bytes, 5);
    let [
        ClientEvent::Reply {
            result: Ok(reply), ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert!(reply.stream_accepted && reply.body.data.ends_with(b"Accepted stream"));
    let _ = client.send(id, text("abc"), Compression::None);
    let frames = stream_frames(&sent(client.transmit()));
    assert_eq!((frames[0].0.stream_id, &frames[0].1[..]), (0, &b"abc"[..]));
    // The server ends it: the call is over.
    let close = schema::StreamFrameMeta {
        stream_id: id.key() as i64,
        frame_type: Some(2),
        ..schema::StreamFrameMeta::default()
    };
    let events = into_client(&mut client, &frame(&close, b""), 100);
    assert!(matches!(
        events[..],
        [ClientEvent::End { result: Ok(_), .. }]
    ));
    assert_eq!(client.in_flight(), 0);
}

fn frame(meta: &schema::StreamFrameMeta, data: &[u8]) -> Vec<u8> {
    let meta = meta.encode_to_vec();
    let mut bytes = STREAM_MAGIC.to_vec();
    bytes.extend_from_slice(&((meta.len() + data.len()) as u32).to_be_bytes());
    bytes.extend_from_slice(&(meta.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&meta);
    bytes.extend_from_slice(data);
    bytes
}

fn data_frame(stream: i64, source: Option<i64>, payload: &[u8]) -> Vec<u8> {
    let meta = schema::StreamFrameMeta {
        stream_id: stream,
        source_stream_id: source,
        frame_type: Some(3),
        ..schema::StreamFrameMeta::default()
    };
    frame(&meta, payload)
}

#[test]
fn a_sender_stops_at_the_window_and_goes_on_when_messages_are_taken() {
    let (mut client, mut server) = (PrpcClient::new(Limits::default()), server());
    client.call(call("Server", Kind::ServerStream)).unwrap();
    let id = one_call(into_server(&mut server, &sent(client.transmit()), 1 << 20)).id;
    let piece = Bytes::from(vec![1; 64 << 10]);
    let mut count = 0;
    loop {
        count += 1;
        if server.send(id, Body::Bytes(piece.clone()), Compression::None) == Room::Full {
            break;
        }
    }
    assert_eq!(
        count,
        WINDOW as usize / piece.len(),
        "the flag bytes are in the way of one more"
    );
    let mut events = into_client(&mut client, &sent(server.transmit()), 1 << 20);
    let messages = |event: &ClientEvent| matches!(event, ClientEvent::Message { .. });
    events.retain(messages);
    assert_eq!(events.len(), count);
    let ClientEvent::Message {
        id: at, message, ..
    } = &events[0]
    else {
        panic!();
    };
    client.consumed(*at, message.data.len());
    let events = into_server(&mut server, &sent(client.transmit()), 1 << 20);
    assert!(matches!(&events[..], [ServerEvent::Writable { id: now }] if *now == id));
    client.consumed(*at, message.data.len());
    let events = into_server(&mut server, &sent(client.transmit()), 1 << 20);
    assert!(events.is_empty(), "told once");
}

#[test]
fn a_peer_that_sends_beyond_all_credit_loses_the_stream_and_nothing_else() {
    let (mut client, mut server) = (PrpcClient::new(Limits::default()), server());
    client.call(call("Bidi", Kind::Bidi)).unwrap();
    client.call(call("Echo", Kind::Unary)).unwrap();
    let events = into_server(&mut server, &sent(client.transmit()), 1 << 20);
    let [ServerEvent::Call(bidi), ServerEvent::Call(echo)] = &events[..] else {
        panic!("{events:?}");
    };
    let flood = data_frame(bidi.id.key() as i64, Some(9), &vec![0; 1 << 20]);
    let mut messages = 0;
    let cancelled = loop {
        let events = into_server(&mut server, &flood, flood.len());
        match &events[..] {
            [ServerEvent::Message { .. }] => messages += 1,
            [ServerEvent::Cancelled { id }] => break *id,
            other => panic!("{other:?}"),
        }
        assert!(messages <= UNREAD_MAX >> 20, "bounded");
    };
    assert_eq!(cancelled, bidi.id);
    let frames = stream_frames(&sent(server.transmit()));
    assert_eq!(frames.last().unwrap().0.frame_type, Some(1), "RST");
    // Whatever the driver still does with it is ignored; the other call is answered.
    let _ = server.send(bidi.id, text("late"), Compression::None);
    server.finish(bidi.id, Ok(()), &MetadataMap::new());
    server.answer(echo.id, Reply::Success(Success::new(text("hi"))));
    let bytes = sent(server.transmit());
    assert!(bytes.starts_with(b"PRPC") && bytes.ends_with(b"hi"));
    assert!(server.is_idle());
}

#[test]
fn messages_of_unknown_streams_are_answered_by_rst_and_nothing_else_is() {
    let mut server = server();
    let kind = |number| schema::StreamFrameMeta {
        stream_id: 77,
        source_stream_id: Some(5),
        frame_type: Some(number),
        ..schema::StreamFrameMeta::default()
    };
    for number in [0, 1, 2, 4, 9] {
        assert!(into_server(&mut server, &frame(&kind(number), b""), 100).is_empty());
        assert!(sent(server.transmit()).is_empty(), "frame type {number}");
    }
    into_server(&mut server, &frame(&kind(3), b"lost"), 100);
    let frames = stream_frames(&sent(server.transmit()));
    assert_eq!(
        (frames[0].0.stream_id, frames[0].0.frame_type),
        (5, Some(1))
    );
}

#[test]
fn giving_a_call_up_reaches_the_other_side() {
    let (mut client, mut server) = (PrpcClient::new(Limits::default()), server());
    let id = client.call(call("Bidi", Kind::Bidi)).unwrap();
    let incoming = one_call(into_server(&mut server, &sent(client.transmit()), 100));
    into_client(&mut client, &sent(server.transmit()), 100);
    assert!(client.cancel(id));
    let events = into_server(&mut server, &sent(client.transmit()), 100);
    assert!(matches!(&events[..], [ServerEvent::Cancelled { id }] if *id == incoming.id));
    server.finish(incoming.id, Ok(()), &MetadataMap::new());
    assert!(sent(server.transmit()).is_empty() && server.is_idle());

    // Given up before the server could take the stream: it learns by an RST.
    let id = client.call(call("Bidi", Kind::Bidi)).unwrap();
    assert!(client.cancel(id));
    let incoming = one_call(into_server(&mut server, &sent(client.transmit()), 100));
    assert!(into_client(&mut client, &sent(server.transmit()), 100).is_empty());
    let events = into_server(&mut server, &sent(client.transmit()), 100);
    assert!(matches!(&events[..], [ServerEvent::Cancelled { id }] if *id == incoming.id));
}

#[test]
fn a_stream_that_is_not_taken_is_declined_by_a_plain_answer() {
    let (mut client, mut server) = (PrpcClient::new(Limits::default()), server());
    let mut outgoing = call("Echo", Kind::Unary);
    outgoing.offers_stream = true;
    client.call(outgoing).unwrap();
    let incoming = one_call(into_server(&mut server, &sent(client.transmit()), 100));
    server.answer(incoming.id, Reply::Success(Success::new(text("hi"))));
    let events = into_client(&mut client, &sent(server.transmit()), 100);
    let [
        ClientEvent::Reply {
            result: Ok(reply), ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert!(!reply.stream_accepted && &reply.body.data[..] == b"hi");
    assert!(client.is_idle() && server.is_idle());
}

#[test]
fn a_method_with_streams_that_is_called_without_one_says_what_to_do() {
    let (mut client, mut server) = (PrpcClient::new(Limits::default()), server());
    client.call(call("Bidi", Kind::Unary)).unwrap();
    assert!(into_server(&mut server, &sent(client.transmit()), 100).is_empty());
    let events = into_client(&mut client, &sent(server.transmit()), 100);
    let [
        ClientEvent::Reply {
            result: Err(status),
            ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert!(status.message().contains("stream_settings"), "{status}");
}

#[test]
fn messages_cut_into_frames_are_put_together() {
    let mut flow = Flow::new(0, false);
    assert!(
        flow.data(Bytes::from_static(b"ab"), true, 5)
            .unwrap()
            .is_none()
    );
    let whole = flow.data(Bytes::from_static(b"cde"), false, 5).unwrap();
    assert_eq!(whole.unwrap(), &b"abcde"[..]);
    assert!(
        flow.data(Bytes::from_static(b"abc"), true, 5)
            .unwrap()
            .is_none()
    );
    assert!(
        flow.data(Bytes::from_static(b"def"), true, 5).is_err(),
        "above the limit"
    );
}

#[test]
fn a_lost_connection_ends_each_call_in_its_own_way() {
    let mut client = PrpcClient::new(Limits::default());
    for kind in [
        Kind::Unary,
        Kind::ClientStream,
        Kind::ServerStream,
        Kind::Bidi,
    ] {
        client.call(call("Echo", kind)).unwrap();
    }
    client.abort(&Status::unavailable("lost"));
    let events: Vec<ClientEvent> = std::iter::from_fn(|| client.next_event()).collect();
    let ends = |event: &ClientEvent| matches!(event, ClientEvent::End { result: Err(_), .. });
    let replies = |event: &ClientEvent| matches!(event, ClientEvent::Reply { result: Err(_), .. });
    assert_eq!(events.iter().filter(|event| ends(event)).count(), 2);
    assert_eq!(events.iter().filter(|event| replies(event)).count(), 2);
}
