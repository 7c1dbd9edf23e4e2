//! Streams of answers, in lines of JSON.

use std::sync::Arc;

use bytes::Bytes;

use super::super::tests::{CALL, call};
use super::super::*;
use crate::rpc::compression::Compression;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::harness::{EchoRoutes, config, feed};
use crate::rpc::protocol::{
    Body, CallId, EndOfInput, Kind as Streams, Reply, Route, Routes, ServerEvent, Success,
};
use crate::rpc::status::Status;

/// `example.EchoService/Watch` gives a stream.
struct Watched;

impl Routes for Watched {
    fn find(&self, service: &str, method: &str) -> Result<Route, Status> {
        match method {
            "Watch" => Ok(Route {
                method: 1,
                kind: Streams::ServerStream,
            }),
            _ => EchoRoutes.find(service, method),
        }
    }
}

fn session() -> Http1Server {
    let routes = Arc::new(Watched);
    Http1Server::new(Arc::new(ServerConfig {
        routes,
        ..ServerConfig::clone(&config())
    }))
}

fn watch(headers: &str) -> Vec<u8> {
    let text = String::from_utf8(call(headers, "{}")).unwrap();
    text.replace("/Echo", "/Watch").into()
}

fn line(session: &mut dyn ServerSession, id: CallId, text: &'static str) {
    let body = Body::Bytes(Bytes::from_static(text.as_bytes()));
    let _ = session.send(id, body, Compression::None);
}

/// Answers calls with what they carry, streams with two lines.
fn serve(session: &mut dyn ServerSession, event: ServerEvent) {
    let ServerEvent::Call(call) = event else {
        panic!("no page was asked for");
    };
    if call.route.kind == Streams::Unary {
        let success = Success::new(Body::Bytes(call.body.data));
        return session.answer(call.id, Reply::Success(success));
    }
    session.begin(call.id, &MetadataMap::new(), Compression::None);
    line(session, call.id, "1");
    line(session, call.id, "22");
    session.finish(call.id, Ok(()), &MetadataMap::new());
}

const LINES: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\
                     Transfer-Encoding: chunked\r\n\r\n2\r\n1\n\r\n3\r\n22\n\r\n0\r\n\r\n";

#[test]
fn streams_and_answers_share_a_connection_however_it_is_split() {
    let data = [call("", "\"a\""), watch(""), call("", "\"b\""), watch("")].concat();
    let whole = feed(&mut session(), &data, &[usize::MAX], serve);
    assert_eq!(whole.1, None);
    let text = String::from_utf8(whole.0.clone()).unwrap();
    assert_eq!(text.matches(LINES).count(), 2, "{text}");
    for split in 1..data.len() {
        let pieces = feed(&mut session(), &data, &[split, usize::MAX], serve);
        assert_eq!(pieces, whole, "split after {split}");
    }
}

/// The id of the stream that a request begins.
fn begun(session: &mut Http1Server, request: &[u8]) -> CallId {
    let mut id = None;
    feed(session, request, &[usize::MAX], |_, event| match event {
        ServerEvent::Call(call) => id = Some(call.id),
        event => panic!("{event:?}"),
    });
    id.expect("the call is given out")
}

fn sent(session: &mut Http1Server) -> String {
    let pieces: Vec<Bytes> = session.transmit().drain(..).collect();
    String::from_utf8(pieces.concat()).unwrap()
}

#[test]
fn a_stream_waits_for_the_answers_before_it() {
    let mut session = session();
    let first = begun(&mut session, &call("", "\"a\""));
    feed(&mut session, &watch(""), &[usize::MAX], |_, event| {
        panic!("given out too early: {event:?}")
    });
    assert!(!session.wants_input());
    let success = Success::new(Body::Bytes(Bytes::from_static(b"\"a\"")));
    session.answer(first, Reply::Success(success));
    let event = session.next_event().expect("it is first now");
    serve(&mut session, event);
    assert!(sent(&mut session).ends_with(LINES));
    assert!(session.is_idle() && session.wants_input());
}

#[test]
fn a_stream_that_fails_lacks_its_end() {
    let mut session = session();
    let id = begun(&mut session, &watch(""));
    line(&mut session, id, "1");
    session.finish(id, Err(&Status::aborted("no")), &MetadataMap::new());
    let text = sent(&mut session);
    let error = "{\"error\":{\"code\":\"aborted\",\"message\":\"no\"}}\n\r\n";
    assert!(text.ends_with(error), "{text}");
    assert!(session.is_finished());
}

#[test]
fn a_call_that_fails_before_its_stream_is_answered_like_any_other() {
    let mut session = session();
    let id = begun(&mut session, &watch(""));
    session.answer(id, Reply::Failed(&Status::not_found("none")));
    assert!(sent(&mut session).starts_with("HTTP/1.1 404"));
    assert!(!session.is_finished() && session.wants_input());
}

#[test]
fn without_chunks_the_end_is_the_connections() {
    let mut session = session();
    let request = String::from_utf8(watch("Connection: keep-alive\r\n")).unwrap();
    let id = begun(
        &mut session,
        request.replace("HTTP/1.1", "HTTP/1.0").as_bytes(),
    );
    line(&mut session, id, "1");
    session.finish(id, Ok(()), &MetadataMap::new());
    let text = sent(&mut session);
    assert!(text.ends_with("Connection: close\r\n\r\n1\n"), "{text}");
    assert!(!text.contains("Transfer-Encoding") && session.is_finished());
}

#[test]
fn a_peer_that_ends_its_side_gives_the_stream_up() {
    let mut session = session();
    begun(&mut session, &watch("Connection: close\r\n"));
    assert!(session.wants_input(), "or nobody would learn of its end");
    assert_eq!(session.end_of_input(), EndOfInput::Abandon);
}

#[test]
fn a_stream_is_not_given_in_protobuf() {
    let request = format!("{CALL}Content-Type: application/proto\r\nContent-Length: 0\r\n\r\n");
    let request = request.replace("/Echo", "/Watch");
    let (answer, _) = feed(&mut session(), request.as_bytes(), &[usize::MAX], serve);
    assert!(answer.starts_with(b"HTTP/1.1 415"));
}
