//! Client and server against each other without a socket, and requests by hand.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};

use super::*;
use crate::base::time::Instant;
use crate::rpc::compression::{Compression, compress};
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::call::{fill, no_such_method};
use crate::rpc::protocol::harness::feed;
use crate::rpc::protocol::http2::hpack::decode::Decoder;
use crate::rpc::protocol::http2::hpack::encode::Encoder;
use crate::rpc::protocol::{
    Body, CallId, ClientEvent, ClientSession, IncomingCall, Kind, OutgoingCall, Page, Reply, Room,
    Route, Routes, ServerEvent, ServerSession, Success, server_session,
};
use crate::rpc::status::{Code, Status};

/// A method of each kind.
struct AllKinds;

impl Routes for AllKinds {
    fn find(&self, service: &str, method: &str) -> Result<Route, Status> {
        let kind = match (service, method) {
            ("t.All", "Unary") => Kind::Unary,
            ("t.All", "Sum") => Kind::ClientStream,
            ("t.All", "Count") => Kind::ServerStream,
            ("t.All", "Talk") => Kind::Bidi,
            _ => return Err(no_such_method(service, method)),
        };
        Ok(Route { method: 0, kind })
    }
}

fn config(limits: Limits) -> Arc<ServerConfig> {
    Arc::new(ServerConfig {
        limits,
        identity: "127.0.0.1:1".into(),
        proxy_header: false,
        routes: Arc::new(AllKinds),
        protocols: vec![Arc::new(Grpc)],
        authenticator: None,
        cors: None,
    })
}

struct Pair {
    client: GrpcClient,
    server: Box<dyn ServerSession>,
    step: usize,
    up: VecDeque<Bytes>,
    down: VecDeque<Bytes>,
    heard: Vec<ClientEvent>,
}

impl Pair {
    fn new(step: usize) -> Self {
        Self::with(step, Limits::default())
    }

    fn with(step: usize, limits: Limits) -> Self {
        Self {
            client: GrpcClient::new(Limits::default(), "localhost:1"),
            server: server_session(&config(limits)),
            step,
            up: VecDeque::new(),
            down: VecDeque::new(),
            heard: Vec::new(),
        }
    }

    /// Moves bytes until none are left; `serve` takes the server's events.
    fn run(&mut self, mut serve: impl FnMut(&mut dyn ServerSession, ServerEvent)) {
        let now = Instant::from_nanos(5);
        loop {
            self.up.extend(self.client.transmit().drain(..));
            self.down.extend(self.server.transmit().drain(..));
            if self.up.is_empty() && self.down.is_empty() {
                return;
            }
            if let Some(n) = pass(&mut self.up, self.step, |b| {
                fill(self.server.recv_space(), b)
            }) {
                self.server.received(n, now).unwrap();
            }
            while let Some(event) = self.server.next_event() {
                serve(&mut *self.server, event);
            }
            if let Some(n) = pass(&mut self.down, self.step, |b| {
                fill(self.client.recv_space(), b)
            }) {
                self.client.received(n, now).unwrap();
            }
            while let Some(event) = self.client.next_event() {
                self.heard.push(event);
            }
        }
    }

    /// The one reply that came.
    fn reply(&mut self) -> Result<(Bytes, MetadataMap, MetadataMap), Status> {
        assert_eq!(self.heard.len(), 1, "{:?}", self.heard);
        match self.heard.pop() {
            Some(ClientEvent::Reply { result, .. }) => result.map(|reply| {
                let body = reply.body.open(&reply.attachment, 64 << 20).unwrap();
                (body, reply.metadata, reply.trailers)
            }),
            other => panic!("no reply: {other:?}"),
        }
    }
}

fn pass(
    queue: &mut VecDeque<Bytes>,
    step: usize,
    take: impl FnOnce(&[u8]) -> usize,
) -> Option<usize> {
    let front = queue.front_mut()?;
    let n = take(&front[..step.min(front.len())]);
    assert!(n > 0, "a session has space");
    front.advance(n);
    if front.is_empty() {
        queue.pop_front();
    }
    Some(n)
}

fn text(value: &str) -> Bytes {
    Bytes::copy_from_slice(value.as_bytes())
}

fn call<'a>(method: &'a str, kind: Kind, body: Bytes) -> OutgoingCall<'a> {
    OutgoingCall {
        kind,
        ..OutgoingCall::new("t.All", method, Body::Bytes(body))
    }
}

fn metadata(pairs: &[(&str, &[u8])]) -> MetadataMap {
    let mut map = MetadataMap::new();
    for (name, value) in pairs {
        map.append_bytes(name, value.to_vec());
    }
    map
}

/// Answers unary calls with what they carry.
fn echo(session: &mut dyn ServerSession, event: ServerEvent) {
    let ServerEvent::Call(call) = event else {
        panic!("no call: {event:?}");
    };
    let compression = call.body.compression;
    let mut success = Success::new(Body::Bytes(call.body.data));
    success.compression = compression;
    success.metadata = &call.metadata;
    let trailers = metadata(&[("t-bin", b"\x00\xff")]);
    success.trailers = &trailers;
    session.answer(call.id, Reply::Success(success));
}

#[test]
fn a_call_and_its_answer_cross_however_they_are_cut() {
    for step in [1, 2, 5, 13, 1000, usize::MAX] {
        let mut pair = Pair::new(step);
        for length in [0, 1, 4000, 5000, 30_000, 700_000] {
            if step < 1000 && length > 30_000 {
                continue;
            }
            let body = Bytes::from(vec![7; length]);
            let sent = metadata(&[("x-own", b"1"), ("k-bin", b"\xab\xab\xab")]);
            let mut call = call("Unary", Kind::Unary, body.clone());
            call.metadata = &sent;
            call.timeout = Some(Duration::from_millis(250));
            pair.client.call(call).unwrap();
            pair.run(|session, event| {
                if let ServerEvent::Call(call) = &event {
                    assert_eq!(call.timeout, Some(Duration::from_millis(250)));
                    assert_eq!(call.metadata.get_bytes("k-bin").unwrap()[..], [0xab; 3]);
                }
                echo(session, event);
            });
            let (answer, head, trailers) = pair.reply().unwrap();
            assert!(answer == body, "step {step}, {length} bytes");
            assert_eq!(head.get("x-own"), Some("1"));
            assert_eq!(trailers.get_bytes("t-bin").unwrap()[..], [0, 255]);
        }
        assert_eq!(pair.client.in_flight(), 0);
        assert!(pair.server.is_idle() && pair.client.is_idle());
    }
}

#[test]
fn a_failure_arrives_as_what_it_was() {
    let mut pair = Pair::new(usize::MAX);
    let mut status = Status::new(Code::FailedPrecondition, "not now: ☺ 100 %\n");
    status = status.with_details(text("details"));
    status.metadata_mut().append("why", "because");
    pair.client
        .call(call("Unary", Kind::Unary, Bytes::new()))
        .unwrap();
    pair.run(|session, event| {
        if let ServerEvent::Call(call) = event {
            session.answer(call.id, Reply::Failed(&status));
        }
    });
    let failed = pair.reply().unwrap_err();
    assert_eq!(failed.code(), Code::FailedPrecondition);
    assert_eq!(failed.message(), "not now: ☺ 100 %\n");
    assert_eq!(failed.details()[..], b"details"[..]);
    assert_eq!(failed.metadata().get("why"), Some("because"));
}

#[test]
fn names_that_lead_nowhere_are_unimplemented() {
    for (service, method) in [("t.All", "Nope"), ("t.None", "Unary")] {
        let mut pair = Pair::new(usize::MAX);
        let call = OutgoingCall::new(service, method, Body::Bytes(Bytes::new()));
        pair.client.call(call).unwrap();
        pair.run(|_, event| panic!("nothing to run: {event:?}"));
        assert_eq!(pair.reply().unwrap_err().code(), Code::Unimplemented);
    }
}

#[test]
fn messages_are_compressed_both_ways() {
    for compression in [Compression::Gzip, Compression::Zlib, Compression::Zstd] {
        let mut pair = Pair::new(usize::MAX);
        let plain = vec![b'a'; 100_000];
        let mut call = call("Unary", Kind::Unary, compress(compression, &plain).unwrap());
        call.compression = compression;
        pair.client.call(call).unwrap();
        pair.run(|session, event| {
            if let ServerEvent::Call(call) = &event {
                assert_eq!(call.body.compression, compression);
                assert!(call.body.data.len() < 1000);
            }
            echo(session, event);
        });
        assert!(pair.reply().unwrap().0 == plain);
    }
}

#[test]
fn a_message_above_the_limit_fails_its_own_call_alone() {
    let limits = Limits {
        max_body: 1000,
        ..Limits::default()
    };
    let mut pair = Pair::with(usize::MAX, limits);
    pair.client
        .call(call("Unary", Kind::Unary, vec![0; 1001].into()))
        .unwrap();
    pair.run(echo);
    assert_eq!(pair.reply().unwrap_err().code(), Code::ResourceExhausted);
    pair.client
        .call(call("Unary", Kind::Unary, vec![0; 1000].into()))
        .unwrap();
    pair.run(echo);
    assert!(pair.reply().is_ok());
}

#[test]
fn calls_above_what_the_server_takes_wait_for_their_turn() {
    let limits = Limits {
        max_streams: 2,
        ..Limits::default()
    };
    let mut pair = Pair::with(usize::MAX, limits);
    pair.run(|_, _| {}); // settings
    for i in 0..10_u8 {
        pair.client
            .call(call("Unary", Kind::Unary, vec![i].into()))
            .unwrap();
    }
    assert_eq!(pair.client.in_flight(), 10);
    let mut most = 0;
    let mut held: Vec<IncomingCall> = Vec::new();
    while pair.heard.len() < 10 {
        pair.run(|_, event| match event {
            ServerEvent::Call(call) => held.push(call),
            other => panic!("{other:?}"),
        });
        most = most.max(held.len());
        let call = held.remove(0);
        echo(&mut *pair.server, ServerEvent::Call(call));
        pair.run(|_, event| match event {
            ServerEvent::Call(call) => held.push(call),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(most, 2);
    let bodies: Vec<u8> = pair
        .heard
        .drain(..)
        .map(|event| match event {
            ClientEvent::Reply { result, .. } => result.unwrap().body.data[0],
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(bodies, (0..10).collect::<Vec<u8>>());
}

/// What a client heard of a stream, in words.
fn words(events: Vec<ClientEvent>) -> Vec<String> {
    let mut all = Vec::new();
    for event in events {
        all.push(match event {
            ClientEvent::Head { metadata, .. } => format!("head {metadata:?}"),
            ClientEvent::Message { message, .. } => {
                let data = message.open(&Bytes::new(), 1 << 20).unwrap();
                String::from_utf8_lossy(&data).into_owned()
            }
            ClientEvent::End { result, .. } => match result {
                Ok(trailers) => format!("end {trailers:?}"),
                Err(status) => format!("{status}"),
            },
            ClientEvent::Reply { result, .. } => match result {
                Ok(reply) => String::from_utf8_lossy(&reply.body.data).into_owned(),
                Err(status) => format!("{status}"),
            },
            other => format!("{other:?}"),
        });
    }
    all
}

#[test]
fn a_stream_of_requests_is_passed_on_message_by_message() {
    for step in [1, 7, usize::MAX] {
        let mut pair = Pair::new(step);
        let id = pair
            .client
            .call(call("Sum", Kind::ClientStream, Bytes::new()))
            .unwrap();
        let (mut got, mut of) = (Vec::new(), None);
        for word in ["one", "", "three"] {
            assert_eq!(
                pair.client
                    .send(id, Body::Bytes(text(word)), Compression::None),
                Room::Open
            );
        }
        pair.client.half_close(id);
        pair.run(|session, event| match event {
            ServerEvent::Call(call) => of = Some(call.id),
            ServerEvent::Message { id, message } => {
                assert_eq!(Some(id), of);
                session.consumed(id, message.data.len());
                got.push(message.data);
            }
            ServerEvent::HalfClosed { id } => {
                let whole = got.concat();
                session.answer(id, Reply::Success(Success::new(Body::Bytes(whole.into()))));
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(
            words(std::mem::take(&mut pair.heard)),
            ["onethree"],
            "step {step}"
        );
        assert!(pair.server.is_idle() && pair.client.is_idle());
    }
}

#[test]
fn a_stream_of_answers_has_a_head_messages_and_an_end() {
    for step in [1, 7, usize::MAX] {
        let mut pair = Pair::new(step);
        pair.client
            .call(call("Count", Kind::ServerStream, text("3")))
            .unwrap();
        pair.run(|session, event| {
            let ServerEvent::Call(call) = event else {
                panic!("{event:?}")
            };
            session.begin(call.id, &metadata(&[("x-head", b"h")]), Compression::None);
            for word in ["one", "", "three"] {
                let _ = session.send(call.id, Body::Bytes(text(word)), Compression::None);
            }
            let zip = compress(Compression::Gzip, b"zipped").unwrap();
            let _ = session.send(call.id, Body::Bytes(zip), Compression::Gzip);
            session.finish(call.id, Ok(()), &metadata(&[("x-tail", b"t")]));
        });
        let heard = words(std::mem::take(&mut pair.heard));
        let head = r#"head {"x-head": b"h"}"#;
        let end = r#"end {"x-tail": b"t"}"#;
        assert_eq!(
            heard,
            [head, "one", "", "three", "zipped", end],
            "step {step}"
        );
    }
}

#[test]
fn a_stream_that_fails_says_so_before_or_after_its_messages() {
    for messages in [0, 2] {
        let mut pair = Pair::new(usize::MAX);
        pair.client
            .call(call("Count", Kind::ServerStream, text("x")))
            .unwrap();
        pair.run(|session, event| {
            let ServerEvent::Call(call) = event else {
                panic!("{event:?}")
            };
            for _ in 0..messages {
                let _ = session.send(call.id, Body::Bytes(text("m")), Compression::None);
            }
            let status = Status::aborted("enough");
            session.finish(call.id, Err(&status), &MetadataMap::new());
        });
        let heard = words(std::mem::take(&mut pair.heard));
        assert_eq!(heard.last().unwrap(), "aborted: enough");
        assert_eq!(heard.len(), if messages == 0 { 1 } else { 4 });
    }
}

#[test]
fn a_reader_that_takes_nothing_stops_its_sender_and_nobody_else() {
    let mut pair = Pair::new(usize::MAX);
    let slow = pair
        .client
        .call(call("Talk", Kind::Bidi, Bytes::new()))
        .unwrap();
    let mut id = None;
    pair.run(|_, event| match event {
        ServerEvent::Call(call) => id = Some(call.id),
        other => panic!("{other:?}"),
    });
    let block = Bytes::from(vec![b'x'; 50_000]);
    let mut sent = 0;
    while pair
        .server
        .send(id.unwrap(), Body::Bytes(block.clone()), Compression::None)
        == Room::Open
    {
        sent += 1;
        pair.run(|_, event| panic!("{event:?}"));
    }
    pair.run(|_, event| panic!("{event:?}"));
    assert_eq!(sent, 5, "a window of 256 KiB holds five");
    // Others go on.
    pair.client
        .call(call("Unary", Kind::Unary, text("hi")))
        .unwrap();
    pair.run(echo);
    assert_eq!(words(pair.heard.drain(6..).collect()), ["hi"]);
    // Taking what came lets the sender go on.
    for event in pair.heard.drain(1..) {
        let ClientEvent::Message { message, .. } = event else {
            panic!("{event:?}")
        };
        pair.client.consumed(slow, message.data.len());
    }
    let mut told = 0;
    pair.run(|_, event| match event {
        ServerEvent::Writable { .. } => told += 1,
        other => panic!("{other:?}"),
    });
    assert_eq!((told, pair.heard.len()), (1, 2), "head and the sixth");
}

#[test]
fn a_cancelled_call_is_told_to_the_server_and_hears_nothing() {
    let mut pair = Pair::new(usize::MAX);
    let id = pair
        .client
        .call(call("Talk", Kind::Bidi, Bytes::new()))
        .unwrap();
    let mut running: Vec<CallId> = Vec::new();
    pair.run(|_, event| match event {
        ServerEvent::Call(call) => running.push(call.id),
        other => panic!("{other:?}"),
    });
    assert!(pair.client.cancel(id) && !pair.client.cancel(id));
    let mut told = Vec::new();
    pair.run(|_, event| match event {
        ServerEvent::Cancelled { id } => told.push(id),
        other => panic!("{other:?}"),
    });
    assert_eq!(told, running);
    // The end that its handler still gives is ignored.
    pair.server.finish(told[0], Ok(()), &MetadataMap::new());
    pair.run(|_, event| panic!("{event:?}"));
    assert!(pair.heard.is_empty() && pair.server.is_idle());
}

#[test]
fn an_answer_before_the_requests_have_ended_ends_the_call() {
    let mut pair = Pair::new(usize::MAX);
    let id = pair
        .client
        .call(call("Sum", Kind::ClientStream, Bytes::new()))
        .unwrap();
    pair.run(|session, event| {
        if let ServerEvent::Call(call) = event {
            session.answer(call.id, Reply::Failed(&Status::invalid_argument("no")));
        }
    });
    assert_eq!(pair.reply().unwrap_err().message(), "no");
    assert_eq!(
        pair.client
            .send(id, Body::Bytes(text("late")), Compression::None),
        Room::Open
    );
    pair.run(|_, event| panic!("{event:?}"));
    assert!(pair.client.is_idle() && pair.server.is_idle());
}

#[test]
fn a_drain_ends_with_the_last_answer_and_new_calls_go_elsewhere() {
    let mut pair = Pair::new(usize::MAX);
    pair.client
        .call(call("Unary", Kind::Unary, text("a")))
        .unwrap();
    let mut held = Vec::new();
    pair.run(|_, event| held.push(event));
    pair.server.drain();
    pair.run(|_, event| panic!("{event:?}"));
    assert!(matches!(pair.heard.pop(), Some(ClientEvent::GoingAway)));
    assert!(!pair.server.is_finished());
    let refused = pair
        .client
        .call(call("Unary", Kind::Unary, text("b")))
        .unwrap_err();
    assert!(refused.never_ran_here());
    echo(&mut *pair.server, held.remove(0));
    pair.run(|_, event| panic!("{event:?}"));
    pair.heard
        .retain(|event| matches!(event, ClientEvent::Reply { .. }));
    assert_eq!(pair.reply().unwrap().0[..], b"a"[..]);
    assert!(pair.server.is_finished());
}

impl Status {
    /// As `never_ran` of floor 5, for this test.
    fn never_ran_here(&self) -> bool {
        self.is_errno(crate::rpc::status_map::ELOGOFF)
    }
}

/// A client's whole connection with one request that is not gRPC.
fn plain_request(method: &str, path: &str, body: &str) -> Vec<u8> {
    use frame::{FrameHead, PREFACE, flag, kind};
    let mut block = Vec::new();
    let mut encoder = Encoder::default();
    let fields = [(":method", method), (":scheme", "http"), (":path", path)];
    for (name, value) in fields {
        encoder.once(name.as_bytes(), value.as_bytes(), &mut block);
    }
    let head = FrameHead::new(block.len(), kind::HEADERS, flag::END_HEADERS, 1).bytes();
    let data = FrameHead::new(body.len(), kind::DATA, flag::END_STREAM, 1).bytes();
    let settings = FrameHead::new(0, kind::SETTINGS, 0, 0).bytes();
    let body = body.as_bytes();
    [&PREFACE[..], &settings, &head, &block, &data, body].concat()
}

/// The first field and the body of what a server sent.
fn plain_answer(mut sent: &[u8]) -> (String, String) {
    let (mut fields, mut body) = (Vec::new(), Vec::new());
    let mut decoder = Decoder::default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    while let Some(head) = frame::FrameHead::read(sent) {
        let payload = &sent[9..9 + head.len];
        match head.kind {
            frame::kind::HEADERS => decoder
                .decode(payload, &mut |name, value| {
                    fields.push(format!("{}: {}", text(name), text(value)));
                })
                .unwrap(),
            frame::kind::DATA => body.extend_from_slice(payload),
            _ => {}
        }
        sent = &sent[9 + head.len..];
    }
    (fields.remove(0), text(&body))
}

#[test]
fn pages_and_calls_in_json_are_answered_over_http2_as_over_http1() {
    for (method, path, body, status, answer) in [
        ("POST", "/t.All/Unary", "{}", "200", "{}"),
        ("GET", "/status?x=1", "", "200", "page /status x=1"),
        ("POST", "/t.All/Nope", "{}", "404", "Nope"),
        ("POST", "/t.All/Talk", "{}", "501", "streams"),
    ] {
        let mut server = server_session(&config(Limits::default()));
        let bytes = plain_request(method, path, body);
        let (sent, bad) = feed(&mut *server, &bytes, &[9], |session, event| match event {
            ServerEvent::Page(page) => {
                let text = format!("page {} {}", page.path, page.query);
                session.answer(page.id, Reply::Page(Page::text(200, text)));
            }
            event => echo(session, event),
        });
        assert_eq!(bad, None);
        let (first, body) = plain_answer(&sent);
        assert_eq!(first, format!(":status: {status}"), "{path}");
        assert!(body.contains(answer), "{path}: {body}");
    }
}
