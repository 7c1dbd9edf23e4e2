//! HTTP/1.1 sessions against requests recorded from brpc, and against whatever else comes.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::base::time::Instant;
use crate::rpc::compression::{Compression, compress};
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::call::fill;
use crate::rpc::protocol::harness::{collect, config, config_with, echo, feed};
use crate::rpc::protocol::prpc::golden::tests::golden;
use crate::rpc::protocol::{
    BadReason, BodyFormat, CallId, EndOfInput, Limits, Page, PageRequest, Reply, ServerEvent,
    server_session,
};
use crate::rpc::status::Status;

pub fn session() -> Http1Server {
    Http1Server::new(config())
}

/// Echoes calls; a page is answered with its method, path and body.
pub fn serve(session: &mut dyn ServerSession, event: ServerEvent) {
    match event {
        ServerEvent::Call(mut call) => {
            call.metadata = MetadataMap::new();
            echo(session, call);
        }
        ServerEvent::Page(page) => {
            let text = [
                page.method.as_bytes(),
                b" ",
                page.path.as_bytes(),
                b" ",
                &page.body,
            ]
            .concat();
            session.answer(page.id, Reply::Page(Page::text(200, text)));
        }
        other => panic!("HTTP/1 has no streams: {other:?}"),
    }
}

/// What a fresh session answers to `request`.
pub fn answers(request: &[u8]) -> String {
    let mut session = session();
    let (sent, result) = feed(&mut session, request, &[usize::MAX], serve);
    assert_eq!(result, None);
    String::from_utf8(sent).unwrap()
}

pub const CALL: &str = "POST /example.EchoService/Echo HTTP/1.1\r\nHost: h\r\n";

pub fn call(headers: &str, body: &str) -> Vec<u8> {
    format!(
        "{CALL}Content-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
    .into()
}

pub fn page(method: &str, path: &str, headers: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: h\r\n{headers}\r\n").into()
}

/// Status line's number of the first answer.
pub fn status(answer: &str) -> u16 {
    answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn recorded_requests_are_answered_byte_for_byte_however_they_are_split() {
    let (Some(sent), Some(answered)) = (golden("press_http.c2s"), golden("press_http.s2c")) else {
        return;
    };
    for at in 1..sent.len() {
        let (ours, result) = feed(&mut session(), &sent, &[at, usize::MAX], serve);
        assert!(result.is_none() && ours == answered, "split at {at}");
    }
    let (ours, _) = feed(&mut *server_session(&config()), &sent, &[1], serve);
    assert!(ours == answered, "byte by byte, protocol detected");
}

#[test]
fn a_call_arrives_with_what_its_headers_say() {
    let headers = "Content-Type: application/json; charset=utf-8\r\nlog-id: -3\r\nx-request-id: r1\r\n\
                   grpc-timeout: 250m\r\nUser: x\r\nraw-bin: AAE\r\nAccept: */*\r\n";
    let mut seen = 0;
    feed(
        &mut session(),
        &call(headers, "{}"),
        &[3],
        |session, event| {
            let ServerEvent::Call(call) = event else {
                panic!()
            };
            assert_eq!((call.format, call.log_id), (BodyFormat::Json, Some(-3)));
            assert_eq!(call.trace.as_deref().unwrap().request_id, "r1");
            assert_eq!(call.timeout, Some(Duration::from_millis(250)));
            assert_eq!(call.metadata.get("user"), Some("x"));
            assert_eq!(call.metadata.get_bytes("raw-bin").unwrap()[..], [0, 1]);
            assert_eq!(call.metadata.len(), 2, "HTTP's own headers are no metadata");
            assert_eq!(&call.body.data[..], b"{}");
            seen += 1;
            echo(session, call);
        },
    );
    assert_eq!(seen, 1);
}

#[test]
fn protobuf_bodies_keep_their_content_type() {
    for name in [
        "application/proto",
        "application/protobuf",
        "application/x-protobuf",
    ] {
        let request = call(&format!("Content-Type: {name}\r\n"), "\u{a}\u{1}x");
        let mut session = session();
        let (sent, _) = feed(&mut session, &request, &[usize::MAX], |session, event| {
            let ServerEvent::Call(call) = event else {
                panic!()
            };
            assert_eq!(call.format, BodyFormat::Protobuf);
            echo(session, call);
        });
        let sent = String::from_utf8(sent).unwrap();
        assert!(
            sent.contains(&format!("Content-Type: {name}\r\n")),
            "{sent}"
        );
        assert!(sent.ends_with("\r\n\r\n\u{a}\u{1}x"), "{sent}");
    }
}

#[test]
fn chunked_bodies_arrive_whole_however_they_are_split() {
    let request = [
        page("POST", "/x", "Transfer-Encoding: Chunked\r\n"),
        b"5;ext=1\r\nhello\r\n0a\r\n, wide wor\r\n2\r\nld\r\n0\r\nTrailer: t\r\n\r\n".into(),
        page("GET", "/next", ""),
    ]
    .concat();
    let expected = answers(&request);
    assert!(
        expected.contains("POST /x hello, wide world") && expected.ends_with("GET /next "),
        "{expected}"
    );
    for at in 1..request.len() {
        let (sent, _) = feed(&mut session(), &request, &[at, usize::MAX], serve);
        assert_eq!(String::from_utf8(sent).unwrap(), expected, "split at {at}");
    }
}

#[test]
fn connections_stay_open_as_both_ends_say() {
    for (request, stays) in [
        (page("GET", "/", ""), true),
        (page("GET", "/", "Connection: close\r\n"), false),
        (page("GET", "/", "Connection: te, CLOSE\r\n"), false),
        (b"GET / HTTP/1.0\r\n\r\n".to_vec(), false),
        (
            b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n".to_vec(),
            true,
        ),
    ] {
        let mut session = session();
        let (sent, _) = feed(&mut session, &request, &[usize::MAX], serve);
        let answer = String::from_utf8(sent).unwrap();
        assert_eq!(session.wants_input(), stays, "{answer}");
        assert_eq!(session.is_finished(), !stays, "{answer}");
        assert_eq!(answer.contains("Connection: close"), !stays, "{answer}");
        assert_eq!(
            answer.contains("keep-alive"),
            stays && request.ends_with(b"Alive\r\n\r\n")
        );
    }
}

#[test]
fn answers_leave_in_the_order_of_the_requests() {
    let mut session = session();
    let requests: Vec<u8> = (0..5)
        .flat_map(|i| page("GET", &format!("/{i}"), ""))
        .collect();
    let mut pages = Vec::new();
    feed(&mut session, &requests, &[usize::MAX], |_, event| {
        pages.push(event)
    });
    let mut sent = Vec::new();
    while let Some(event) = pages.pop() {
        assert!(sent.is_empty(), "the first is still owed");
        serve(&mut session, event);
        collect(session.transmit(), &mut sent);
    }
    let text = String::from_utf8(sent).unwrap();
    let order: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("GET /"))
        .collect();
    assert_eq!(order.len(), 5);
    let found: Vec<usize> = (0..5)
        .map(|i| text.find(&format!("GET /{i}")).unwrap())
        .collect();
    assert!(found.is_sorted());
    assert!(session.is_idle());
}

#[test]
fn requests_read_ahead_wait_for_room() {
    let limits = Limits {
        max_pipelined: 2,
        ..Limits::default()
    };
    let mut session = Http1Server::new(config_with(limits));
    let requests: Vec<u8> = (0..5)
        .flat_map(|i| page("GET", &format!("/{i}"), ""))
        .collect();
    let taken = fill(session.recv_space(), &requests);
    assert_eq!(taken, requests.len());
    session.received(taken, Instant::ZERO).unwrap();
    let (mut answered, mut open) = (0, std::collections::VecDeque::new());
    while answered < 5 {
        while let Some(event) = session.next_event() {
            open.push_back(event);
        }
        assert!(open.len() <= 2);
        assert_eq!(session.wants_input(), open.len() < 2);
        serve(&mut session, open.pop_front().unwrap());
        answered += 1;
    }
    assert!(session.wants_input());
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on_in_its_turn() {
    let expect = "Expect: 100-continue\r\n";
    let head = format!("{CALL}Content-Length: 2\r\n{expect}\r\n");
    let mut session = session();
    let (sent, _) = feed(&mut session, head.as_bytes(), &[5], serve);
    assert_eq!(sent, b"HTTP/1.1 100 Continue\r\n\r\n");
    let (sent, _) = feed(&mut session, b"{}", &[1], serve);
    assert!(sent.starts_with(b"HTTP/1.1 200 OK"));
    // Behind an answer that is still owed it waits for that answer.
    let mut held = Vec::new();
    let both = [&page("GET", "/first", "")[..], head.as_bytes()].concat();
    let (sent, _) = feed(&mut session, &both, &[usize::MAX], |_, event| {
        held.push(event)
    });
    assert!(sent.is_empty());
    serve(&mut session, held.remove(0));
    let mut sent = Vec::new();
    collect(session.transmit(), &mut sent);
    let text = String::from_utf8(sent).unwrap();
    assert!(
        text.contains("GET /first ") && text.ends_with("HTTP/1.1 100 Continue\r\n\r\n"),
        "{text}"
    );
    // What will not be taken is refused at once.
    for (request, expected) in [
        (
            format!("{CALL}Content-Type: x/y\r\nContent-Length: 9\r\n{expect}\r\n"),
            415,
        ),
        (
            format!("{CALL}Content-Length: 999999999\r\n{expect}\r\n"),
            413,
        ),
    ] {
        let answer = answers(request.as_bytes());
        assert_eq!(status(&answer), expected);
        assert!(answer.contains("Connection: close"), "{answer}");
    }
    let whole = format!("{head}{{}}");
    assert!(
        !answers(whole.as_bytes()).contains("100 Continue"),
        "the body is here already"
    );
}

#[test]
fn a_refused_request_with_a_small_body_keeps_its_connection() {
    let requests = [
        call("Content-Type: text/plain\r\n", "hello"),
        page("GET", "/next", ""),
    ]
    .concat();
    let answer = answers(&requests);
    assert_eq!(status(&answer), 415);
    assert!(answer.ends_with("GET /next "), "{answer}");
}

#[test]
fn head_gets_the_length_without_the_body() {
    let answer = answers(&[page("HEAD", "/x", ""), page("GET", "/y", "")].concat());
    let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("Content-Length: 8"),
        "HEAD /x and a space: {head}"
    );
    assert!(rest.starts_with("HTTP/1.1 200 OK"), "{rest}");
}

#[test]
fn a_page_is_given_its_path_query_and_body() {
    let mut seen = Vec::new();
    let requests = [
        page("GET", "/status?a=b?c", ""),
        page("GET", "http://host:1/vars", ""),
        page("GET", "http://host", ""),
        page("OPTIONS", "*", ""),
        page("GET", "/example.EchoService/", ""),
        page("GET", "/hotspots/cpu", ""),
        page("POST", "/flags/x", "Content-Length: 1\r\n"),
        b"1".into(),
    ];
    feed(
        &mut session(),
        &requests.concat(),
        &[10],
        |session, event| {
            let ServerEvent::Page(PageRequest {
                id,
                path,
                query,
                body,
                ..
            }) = event
            else {
                panic!("{event:?}")
            };
            session.answer(id, Reply::Page(Page::text(200, "")));
            seen.push((path, query, body.len()));
        },
    );
    let expected = [
        ("/status", "a=b?c", 0),
        ("/vars", "", 0),
        ("/", "", 0),
        ("*", "", 0),
        ("/example.EchoService/", "", 0),
        ("/hotspots/cpu", "", 0),
        ("/flags/x", "", 1),
    ];
    assert_eq!(
        seen,
        expected.map(|(path, query, body)| (path.into(), query.into(), body))
    );
}

#[test]
fn failures_carry_code_text_and_brpcs_number() {
    let mut session = session();
    let (sent, _) = feed(
        &mut session,
        &call("", "{}"),
        &[usize::MAX],
        |session, event| {
            let ServerEvent::Call(call) = event else {
                panic!()
            };
            let mut status = Status::not_found("no \"such\" user");
            status.metadata_mut().append("retry", "no");
            session.answer(call.id, Reply::Failed(&status));
        },
    );
    let text = String::from_utf8(sent).unwrap();
    assert_eq!(status(&text), 404);
    assert!(
        text.contains("x-bd-error-code: 2\r\n") && text.contains("retry: no\r\n"),
        "{text}"
    );
    assert!(
        text.ends_with(r#"{"code":"not_found","message":"no \"such\" user"}"#),
        "{text}"
    );
    assert!(session.is_idle());
}

#[test]
fn a_compressed_request_is_labelled_and_an_answer_leaves_plain() {
    let body = compress(Compression::Gzip, b"{}").unwrap();
    let mut request = format!(
        "{CALL}Content-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(&body);
    let (sent, _) = feed(&mut session(), &request, &[usize::MAX], serve);
    let head = String::from_utf8_lossy(&sent);
    assert!(!head.contains("Content-Encoding"), "{head}");
    assert!(head.ends_with("\r\n\r\n{}"), "{head}");
}

#[test]
fn an_answer_that_http_cannot_carry_becomes_a_failure() {
    let (sent, _) = feed(
        &mut session(),
        &call("", "{}"),
        &[usize::MAX],
        |session, event| {
            let ServerEvent::Call(mut call) = event else {
                panic!()
            };
            call.attachment = Bytes::from_static(b"tail");
            echo(session, call);
        },
    );
    assert_eq!(status(&String::from_utf8(sent).unwrap()), 501);
}

#[test]
fn drain_answers_what_was_read_and_closes() {
    let mut idle = session();
    idle.drain();
    assert!(idle.is_finished());
    let mut session = session();
    let mut held = Vec::new();
    feed(
        &mut session,
        &page("GET", "/x", "").repeat(2),
        &[usize::MAX],
        |_, event| held.push(event),
    );
    session.drain();
    assert!(!session.is_finished());
    let mut sent = Vec::new();
    for event in held {
        serve(&mut session, event);
    }
    collect(session.transmit(), &mut sent);
    let text = String::from_utf8(sent).unwrap();
    assert_eq!(
        (
            text.matches("200 OK").count(),
            text.matches("Connection: close").count()
        ),
        (2, 1)
    );
    assert!(session.is_finished());
}

#[test]
fn a_peer_that_stops_sending_still_gets_its_answers() {
    let mut session = session();
    let mut held = Vec::new();
    feed(
        &mut session,
        &page("GET", "/x", ""),
        &[usize::MAX],
        |_, event| held.push(event),
    );
    assert_eq!(session.end_of_input(), EndOfInput::Finish);
    assert!(session.next_event().is_none() && !session.wants_input() && !session.is_finished());
    serve(&mut session, held.remove(0));
    assert!(session.is_finished() && !session.transmit().is_empty());

    let mut idle = self::session();
    assert_eq!(idle.end_of_input(), EndOfInput::Abandon);

    let before = BadReason::Truncated.counted();
    let mut cut = self::session();
    feed(&mut cut, b"GET / HT", &[usize::MAX], serve);
    cut.end_of_input();
    assert!(cut.next_event().is_none() && cut.is_finished());
    assert!(BadReason::Truncated.counted() > before);
}

#[test]
fn large_bodies_reach_the_handler_where_they_were_read() {
    let body = vec![b'x'; 300_000];
    let head = format!("{CALL}Content-Length: {}\r\n\r\n", body.len());
    let mut session = session();
    feed(&mut session, head.as_bytes(), &[usize::MAX], serve);
    let space = session.recv_space();
    assert_eq!(
        space.remaining_mut(),
        body.len(),
        "the body's own allocation, and no more"
    );
    let start = space.chunk_mut().as_mut_ptr().cast_const();
    let (_, result) = feed(&mut session, &body, &[usize::MAX], |session, event| {
        let ServerEvent::Call(call) = event else {
            panic!()
        };
        assert_eq!(call.body.data.as_ptr(), start);
        echo(session, call);
        let sent: Vec<Bytes> = session.transmit().drain(..).collect();
        assert_eq!(sent[1].as_ptr(), start, "and goes back from there");
    });
    assert_eq!(result, None);
}

#[test]
fn an_idle_session_holds_no_buffer_and_little_else() {
    let mut session = session();
    feed(&mut session, &page("GET", "/", ""), &[usize::MAX], serve);
    session.release();
    assert!(session.is_idle());
    assert!(
        size_of::<Http1Server>() <= 512,
        "{}",
        size_of::<Http1Server>()
    );
}

#[test]
fn timeouts_are_read_in_grpcs_and_connects_form() {
    for (header, expected) in [
        ("grpc-timeout: 1H", Some(Duration::from_secs(3600))),
        ("grpc-timeout: 2M", Some(Duration::from_secs(120))),
        ("grpc-timeout: 3S", Some(Duration::from_secs(3))),
        ("grpc-timeout: 4u", Some(Duration::from_micros(4))),
        ("grpc-timeout: 5n", Some(Duration::from_nanos(5))),
        ("grpc-timeout: 5", None),
        ("grpc-timeout: xS", None),
        ("grpc-timeout: 1\u{e9}", None),
        ("connect-timeout-ms: 70", Some(Duration::from_millis(70))),
    ] {
        feed(
            &mut session(),
            &call(&format!("{header}\r\n"), "{}"),
            &[usize::MAX],
            |session, event| {
                let ServerEvent::Call(call) = event else {
                    panic!()
                };
                assert_eq!(call.timeout, expected, "{header}");
                echo(session, call);
            },
        );
    }
}

#[test]
fn methods_are_told_from_other_protocols_by_their_first_bytes() {
    for (prefix, expected) in [
        (&b"G"[..], Probe::NeedMore),
        (b"GET ", Probe::Yes),
        (b"POST /x", Probe::Yes),
        (b"PRI ", Probe::No),
        (b"PRPC\0", Probe::No),
        (b" GET", Probe::No),
        (b"get ", Probe::No),
        (b"UPDATEREDIRECTREF ", Probe::Yes),
        (b"AAAAAAAAAAAAAAAAAAA", Probe::No),
    ] {
        assert_eq!(Http1.probe(prefix), expected, "{prefix:?}");
    }
}

proptest! {
    #[test]
    fn any_pieces_make_the_same_answers(
        bodies in proptest::collection::vec((0..9000_usize, any::<bool>()), 1..8),
        sizes in proptest::collection::vec(1..5000_usize, 1..9),
    ) {
        let mut requests = Vec::new();
        for (size, chunked) in &bodies {
            let body = vec![b'x'; *size];
            if *chunked {
                requests.extend(page("PUT", "/x", "Transfer-Encoding: chunked\r\n"));
                for chunk in body.chunks(1000) {
                    requests.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                    requests.extend(chunk);
                    requests.extend(b"\r\n");
                }
                requests.extend(b"0\r\n\r\n");
            } else {
                requests.extend(page("PUT", "/x", &format!("Content-Length: {size}\r\n")));
                requests.extend(body);
            }
        }
        let (expected, _) = feed(&mut session(), &requests, &[usize::MAX], serve);
        let mut session = session();
        let (sent, _) = feed(&mut session, &requests, &sizes, serve);
        prop_assert!(sent == expected, "same answers");
        prop_assert_eq!(String::from_utf8(sent).unwrap().matches("200 OK").count(), bodies.len());
        prop_assert!(session.is_idle());
    }

    #[test]
    fn damage_anywhere_ends_in_answers(
        flips in proptest::collection::vec((0..1000_usize, any::<u8>()), 0..6),
        sizes in proptest::collection::vec(1..200_usize, 1..4),
    ) {
        let chunked = [page("POST", "/x", "Transfer-Encoding: chunked\r\n"), b"3\r\nabc\r\n0\r\n\r\n".into()].concat();
        let mut bytes = [call("Content-Type: application/json\r\n", "{}"), chunked, page("GET", "/y", "")].concat();
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] ^= value;
        }
        let mut session = session();
        let (sent, _) = feed(&mut session, &bytes, &sizes, serve);
        session.end_of_input();
        while session.next_event().is_some() {}
        prop_assert!(sent.is_empty() || sent.starts_with(b"HTTP/1.1 "));
    }
}

/// A driver's mistake must not become a peer's: ids nobody has are ignored in release builds.
#[test]
#[should_panic(expected = "answered once")]
fn an_answer_to_nobody_is_a_bug_of_the_driver() {
    session().answer(CallId::new(3, 0), Reply::Page(Page::text(200, "")));
}
