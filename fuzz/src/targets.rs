//! What fuzzers run: each function takes any bytes and panics only if a session breaks a promise.
//!
//! Included by path, both by the fuzz targets and by rpc-core's own tests, which run them on generated
//! input. The first bytes of the input choose in what pieces the rest is read.
//!
//! Promises
//! - No input panics, and a session that wants input has room for it.
//! - The pieces do not matter: the answers to whole input and to cut input are the same bytes.
//! - What a PRPC server sends is a sequence of whole PRPC frames; what an HTTP server sends begins with
//!   `HTTP/1.1`; what a gRPC server sends is a sequence of whole HTTP/2 frames.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use rpc_core::base::time::Instant;
use rpc_core::rpc::compression::{self, Compression};
use rpc_core::rpc::metadata::MetadataMap;
use rpc_core::rpc::protocol::call::{fill, no_such_method};
use rpc_core::rpc::protocol::grpc::{Grpc, GrpcClient};
use rpc_core::rpc::protocol::http1::Http1;
use rpc_core::rpc::protocol::prpc::{Prpc, PrpcClient};
use rpc_core::rpc::protocol::{
    BadReason, Body, CallId, ClientEvent, ClientSession, IncomingReply, Kind, Limits, OutgoingCall,
    Page, Protocol, Reply, Route, Routes, ServerConfig, ServerEvent, ServerSession, Success,
    server_session,
};
use rpc_core::rpc::status::Status;

/// A PRPC server reads `data`; how many calls it found.
pub fn prpc_server(data: &[u8]) -> usize {
    let (sizes, data) = pieces(data);
    let (cut, whole) = both(|config| Prpc.session(config), data, sizes);
    assert_eq!(cut, whole, "the pieces do not matter");
    frames(&cut.sent);
    cut.calls
}

/// An HTTP server reads `data`; how many calls and pages it found.
pub fn http1_server(data: &[u8]) -> usize {
    let (sizes, data) = pieces(data);
    let (cut, whole) = both(|config| Http1.session(config), data, sizes);
    assert_eq!(cut, whole, "the pieces do not matter");
    assert!(cut.sent.is_empty() || cut.sent.starts_with(b"HTTP/1.1 "));
    cut.calls + cut.pages
}

/// A gRPC server reads a client's preface and then `data`; how many calls and pages it found.
pub fn grpc_server(data: &[u8]) -> usize {
    let (sizes, data) = pieces(data);
    let data = [PREFACE, data].concat();
    let (cut, whole) = both(|config| Grpc.session(config), &data, sizes);
    assert_eq!(cut, whole, "the pieces do not matter");
    http2_frames(&cut.sent);
    cut.calls + cut.pages
}

/// Decompresses `data`, in every way; how many bytes came out.
pub fn decompress(data: &[u8]) -> usize {
    const MAX: usize = 1 << 16;
    let data = Bytes::copy_from_slice(data);
    let kinds = [
        Compression::Snappy,
        Compression::Gzip,
        Compression::Zlib,
        Compression::Zstd,
    ];
    let plain = kinds.map(|kind| {
        let plain = compression::decompress(kind, &data, MAX).unwrap_or_default();
        assert!(plain.len() <= MAX, "{kind} keeps to its bound");
        if !plain.is_empty() {
            let again = compression::compress(kind, &plain).expect("it is spoken");
            let back = compression::decompress(kind, &again, MAX).expect("ours are read");
            assert_eq!(back, plain, "{kind}");
        }
        plain.len()
    });
    plain.iter().sum()
}

/// A gRPC client with three calls under way, two of them of streams, reads a server's settings and then
/// `data`; how many of the calls ended.
pub fn grpc_client(data: &[u8]) -> usize {
    let (sizes, data) = pieces(data);
    let data = [SETTINGS, data].concat();
    let mut outcomes = Vec::new();
    for sizes in [sizes, [usize::MAX; 2]] {
        let mut client = GrpcClient::new(limits(), "h");
        for (token, kind) in [Kind::Unary, Kind::ServerStream, Kind::Bidi]
            .iter()
            .enumerate()
        {
            let mut call = OutgoingCall::new("s", "m", Body::Bytes(Bytes::from_static(b"x")));
            (call.token, call.kind) = (token as u64, *kind);
            client.call(call).expect("three calls are below the limit");
        }
        outcomes.push(read(&mut client, &data, sizes));
        client.abort(&Status::unavailable("the fuzzer is done"));
        while client.next_event().is_some() {}
        assert_eq!(client.in_flight(), 0, "every call ends");
        let sent: Vec<u8> = client.transmit().drain(..).flatten().collect();
        http2_frames(
            sent.strip_prefix(&PREFACE[..24])
                .expect("a client begins with its preface"),
        );
    }
    assert_eq!(outcomes[0], outcomes[1], "the pieces do not matter");
    outcomes[0].len()
}

/// An empty SETTINGS frame.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
/// HTTP/2's preface and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A port that speaks all reads `data`; how many calls and pages it found.
pub fn one_port(data: &[u8]) -> usize {
    let (sizes, data) = pieces(data);
    let (cut, whole) = both(server_session, data, sizes);
    assert_eq!(cut, whole, "the pieces do not matter");
    cut.calls + cut.pages
}

/// A PRPC client with a call of each kind under way, and one that holds a stream out, reads `data`; how many
/// of them ended.
pub fn prpc_client(data: &[u8]) -> usize {
    let (sizes, data) = pieces(data);
    let mut outcomes = Vec::new();
    for sizes in [sizes, [usize::MAX; 2]] {
        let mut client = PrpcClient::new(limits());
        for (token, kind) in (0..).zip(CALLS) {
            let mut call = OutgoingCall::new("s", "m", Body::Bytes(Bytes::from_static(b"x")));
            call.token = token;
            call.kind = kind;
            call.offers_stream = token == 1;
            let id = client.call(call).expect("five calls are below the limit");
            let _ = client.send(id, Body::Bytes(Bytes::from_static(b"y")), Compression::None);
        }
        outcomes.push(read(&mut client, data, sizes));
        client.abort(&Status::unavailable("the fuzzer is done"));
        while client.next_event().is_some() {}
        assert_eq!(client.in_flight(), 0, "every call ends");
    }
    assert_eq!(outcomes[0], outcomes[1], "the pieces do not matter");
    outcomes[0].len()
}

/// What a server did with its input.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    sent: Vec<u8>,
    calls: usize,
    pages: usize,
    /// Streams that have not ended.
    streams: Vec<(CallId, Kind)>,
}

impl Outcome {
    fn stream(&self, id: CallId) -> Option<(CallId, Kind)> {
        self.streams.iter().copied().find(|(other, _)| *other == id)
    }
}

fn both(
    session: impl Fn(&Arc<ServerConfig>) -> Box<dyn ServerSession>,
    data: &[u8],
    sizes: [usize; 2],
) -> (Outcome, Outcome) {
    let config = Arc::new(ServerConfig {
        limits: limits(),
        identity: "127.0.0.1:1".into(),
        proxy_header: false,
        routes: Arc::new(FourMethods),
        protocols: vec![Arc::new(Prpc), Arc::new(Grpc), Arc::new(Http1)],
        authenticator: None,
        cors: None,
    });
    let run = |sizes| serve(&mut *session(&config), data, sizes);
    (run(sizes), run([usize::MAX; 2]))
}

/// Small ones, so that short input reaches them.
fn limits() -> Limits {
    Limits {
        max_body: 1 << 20,
        max_decompressed: 1 << 16,
        max_meta: 1 << 10,
        max_head: 1 << 10,
        max_in_flight: 6,
        max_streams: 4,
        keepalive: None,
        max_pipelined: 4,
        first_bytes: None,
    }
}

/// `S/m`, and one method of each kind with streams: `S/c`, `S/s`, `S/b`.
struct FourMethods;

impl Routes for FourMethods {
    fn find(&self, service: &str, method: &str) -> Result<Route, Status> {
        let kind = match (service, method) {
            ("S" | "p.S", "m") => Kind::Unary,
            ("S" | "p.S", "c") => Kind::ClientStream,
            ("S" | "p.S", "s") => Kind::ServerStream,
            ("S" | "p.S", "b") => Kind::Bidi,
            _ => return Err(no_such_method(service, method)),
        };
        Ok(Route { method: 0, kind })
    }
}

/// The calls of the client; the second holds a stream out.
const CALLS: [Kind; 5] = [
    Kind::Unary,
    Kind::Unary,
    Kind::ClientStream,
    Kind::ServerStream,
    Kind::Bidi,
];

/// Takes the two sizes of pieces off the input.
fn pieces(data: &[u8]) -> ([usize; 2], &[u8]) {
    match data {
        [a, b, rest @ ..] => ([usize::from(*a) + 1, usize::from(*b) + 1], rest),
        _ => ([1, 1], data),
    }
}

/// Feeds a server in pieces of the two sizes in turn and answers everything at once.
fn serve(session: &mut dyn ServerSession, data: &[u8], sizes: [usize; 2]) -> Outcome {
    let mut outcome = Outcome {
        sent: Vec::new(),
        calls: 0,
        pages: 0,
        streams: Vec::new(),
    };
    let mut rest = data;
    let mut turn = 0;
    let mut open = true;
    while open && !rest.is_empty() && session.wants_input() && !session.is_finished() {
        let size = sizes[turn % 2].min(rest.len());
        turn += 1;
        let taken = fill(session.recv_space(), &rest[..size]);
        assert!(taken > 0, "a session that wants input has room for it");
        rest = &rest[taken..];
        open = session.received(taken, Instant::from_nanos(1)).is_ok();
        handle(session, &mut outcome);
    }
    session.end_of_input();
    handle(session, &mut outcome);
    for (id, _) in std::mem::take(&mut outcome.streams) {
        session.finish(id, Ok(()), &MetadataMap::new());
    }
    handle(session, &mut outcome);
    session.release();
    outcome
}

fn handle(session: &mut dyn ServerSession, outcome: &mut Outcome) {
    while let Some(event) = session.next_event() {
        match event {
            ServerEvent::Call(call) if !session.carries(call.route.kind) => {
                let status = Status::unimplemented("no streams here");
                session.answer(call.id, Reply::Refused(&status));
            }
            ServerEvent::Call(call) if call.route.kind.gives_stream() => {
                outcome.calls += 1;
                session.begin(call.id, &call.metadata, Compression::None);
                outcome.streams.push((call.id, call.route.kind));
                if !call.route.kind.takes_stream() {
                    end_stream(session, outcome, call.id);
                }
            }
            ServerEvent::Call(call) if call.route.kind.takes_stream() => {
                outcome.calls += 1;
                outcome.streams.push((call.id, call.route.kind));
            }
            ServerEvent::Call(call) => {
                outcome.calls += 1;
                if call.offers_stream {
                    outcome.streams.push((call.id, Kind::Unary));
                }
                match call.body.open(&call.attachment, 1 << 16) {
                    Ok(body) => {
                        let mut success = Success::new(Body::Bytes(body));
                        success.attachment = call.attachment;
                        success.metadata = &call.metadata;
                        success.accepts_stream = call.offers_stream;
                        session.answer(call.id, Reply::Success(success));
                    }
                    Err(status) => {
                        outcome.streams.retain(|(id, _)| *id != call.id);
                        session.answer(call.id, Reply::Refused(&status));
                    }
                }
            }
            ServerEvent::Page(page) => {
                outcome.pages += 1;
                session.answer(page.id, Reply::Page(Page::text(200, page.body)));
            }
            ServerEvent::Work(_) => {
                unreachable!("only protocols beside ours have work of their own")
            }
            ServerEvent::Message { id, message } => {
                let (_, kind) = outcome.stream(id).expect("a message is of an open stream");
                session.consumed(id, message.data.len());
                if kind != Kind::ClientStream {
                    let _ = session.send(id, Body::Bytes(message.data), message.compression);
                }
            }
            ServerEvent::HalfClosed { id } | ServerEvent::Cancelled { id } => {
                end_stream(session, outcome, id);
            }
            ServerEvent::Writable { id } => {
                outcome.stream(id).expect("room is in an open stream");
            }
        }
    }
    for piece in session.transmit().drain(..) {
        outcome.sent.extend_from_slice(&piece);
    }
}

/// Ends a stream that is open, once.
fn end_stream(session: &mut dyn ServerSession, outcome: &mut Outcome, id: CallId) {
    let (_, kind) = outcome.stream(id).expect("a stream ends once");
    outcome.streams.retain(|(other, _)| *other != id);
    if kind == Kind::ClientStream {
        let success = Success::new(Body::Bytes(Bytes::from_static(b"sum")));
        session.answer(id, Reply::Success(success));
    } else {
        session.finish(id, Ok(()), &MetadataMap::new());
    }
}

/// Feeds a client; which calls ended, and how.
fn read(
    client: &mut dyn ClientSession,
    data: &[u8],
    sizes: [usize; 2],
) -> Vec<(u64, Result<usize, i32>)> {
    let mut rest = data;
    let mut turn = 0;
    let mut ended = Vec::new();
    let mut open = true;
    while open && !rest.is_empty() && !client.is_finished() {
        let size = sizes[turn % 2].min(rest.len());
        turn += 1;
        let taken = fill(client.recv_space(), &rest[..size]);
        rest = &rest[taken..];
        open = client.received(taken, Instant::from_nanos(1)).is_ok();
        while let Some(event) = client.next_event() {
            let (token, result) = match event {
                ClientEvent::Reply { token, result, .. } => {
                    let open = |reply: IncomingReply| reply.body.open(&reply.attachment, 1 << 16);
                    (token, result.and_then(open).map(|body| body.len()))
                }
                ClientEvent::End { token, result, .. } => {
                    (token, result.map(|trailers| trailers.len()))
                }
                ClientEvent::Message { id, message, .. } => {
                    client.consumed(id, message.data.len());
                    continue;
                }
                _ => continue,
            };
            ended.push((token, result.map_err(|status| status.errno())));
        }
    }
    ended
}

/// Walks over HTTP/2 frames.
fn http2_frames(mut sent: &[u8]) {
    while !sent.is_empty() {
        assert!(sent.len() >= 9, "a frame has a header");
        let length = sent.get_u32() as usize >> 8;
        assert!(sent.len() >= 5 + length, "a frame is as long as it says");
        sent.advance(5 + length);
    }
}

/// Walks over PRPC frames.
fn frames(mut sent: &[u8]) {
    while !sent.is_empty() {
        assert!(
            (sent.starts_with(b"PRPC") || sent.starts_with(b"STRM")) && sent.len() >= 12,
            "a frame begins as one"
        );
        sent.advance(4);
        let (body, meta) = (sent.get_u32() as usize, sent.get_u32() as usize);
        assert!(
            meta <= body && body <= sent.len(),
            "a frame is as long as it says"
        );
        sent.advance(body);
    }
    assert!(
        BadReason::ALL
            .iter()
            .all(|reason| !reason.name().is_empty())
    );
}
