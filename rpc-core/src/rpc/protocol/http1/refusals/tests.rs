//! Requests that an HTTP/1.1 session refuses.

use super::super::tests::{CALL, answers, call, page, serve, session, status};
use crate::base::time::Instant;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::harness::{collect, feed};
use crate::rpc::protocol::{BadReason, Body, Reply, ServerEvent, ServerSession, Success};

/// Requests whose head is refused, and with what.
fn bad_heads() -> Vec<(u16, Vec<u8>)> {
    let long = "x".repeat(17_000);
    let many = "a: b\r\n".repeat(120);
    vec![
        (400, b"GET / HTTP/1.1\r\nHost: a\r\n bad: x\r\n\r\n".into()),
        (400, b"GET / HTTP/1.1\r\nHo st: a\r\n\r\n".into()),
        (400, b"GET / HTTP/1.1\r\n\r\n".into()),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into()),
        (400, page("POST", "/x", "Content-Length: +3\r\n")),
        (
            400,
            page("POST", "/x", "Content-Length: 3\r\nContent-Length: 4\r\n"),
        ),
        (
            400,
            page(
                "POST",
                "/x",
                "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            ),
        ),
        (
            400,
            page(
                "POST",
                "/x",
                "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            ),
        ),
        (
            400,
            page(
                "POST",
                "/x",
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            ),
        ),
        (
            400,
            b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        ),
        (414, page("GET", &format!("/{long}"), "")),
        (414, format!("GET /{long}").into()),
        (431, page("GET", "/", &format!("a: {long}\r\n"))),
        (431, format!("GET / HTTP/1.1\r\na: {long}").into()),
        (431, page("GET", "/", &many)),
        (
            501,
            page("POST", "/x", "Transfer-Encoding: gzip, chunked\r\n"),
        ),
        (501, page("BREW", "/pot", "")),
        (505, b"GET / HTTP/2.0\r\nHost: h\r\n\r\n".into()),
    ]
}

/// Requests whose head can be read and that are refused all the same, and with what.
fn bad_calls() -> Vec<(u16, Vec<u8>)> {
    vec![
        (
            404,
            page("POST", "/no.Such/Method", "Content-Length: 0\r\n"),
        ),
        (
            404,
            page("POST", "/example.EchoService/Nope", "Content-Length: 0\r\n"),
        ),
        (405, page("GET", "/example.EchoService/Echo", "")),
        (405, page("DELETE", "/example.EchoService/Echo", "")),
        (411, page("POST", "/example.EchoService/Echo", "")),
        (
            413,
            page("POST", "/x", "Content-Length: 99999999999999999999\r\n"),
        ),
        (413, page("POST", "/x", "Content-Length: 67108865\r\n")),
        (
            413,
            [
                page("POST", "/x", "Transfer-Encoding: chunked\r\n"),
                b"4000001\r\n".into(),
            ]
            .concat(),
        ),
        (415, call("Content-Type: text/plain\r\n", "x")),
        (415, call("Content-Type: application/grpc\r\n", "x")),
        (415, call("Content-Encoding: br\r\n", "x")),
    ]
}

#[test]
fn each_bad_request_gets_its_status_and_a_json_body() {
    for (expected, request) in bad_heads().into_iter().chain(bad_calls()) {
        let shown = String::from_utf8_lossy(&request[..request.len().min(90)]).into_owned();
        for sizes in [&[1][..], &[usize::MAX], &[17]] {
            let mut session = session();
            let (sent, result) = feed(&mut session, &request, sizes, serve);
            let answer = String::from_utf8(sent).unwrap();
            assert_eq!(
                (status(&answer), result),
                (expected, None),
                "{shown}: {answer}"
            );
            let body = answer.split_once("\r\n\r\n").unwrap().1;
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert!(body["code"].is_string() && !body["message"].as_str().unwrap().is_empty());
        }
    }
}

#[test]
fn what_closes_a_connection_is_counted() {
    for (reason, request) in [
        (
            BadReason::HttpMalformed,
            &b"GET / HTTP/1.1\r\n:\r\n\r\n"[..],
        ),
        (BadReason::HttpHeadTooLarge, &[b'A'; 17_000]),
        (BadReason::HttpVersion, b"GET / HTTP/3.0\r\n\r\n"),
        (
            BadReason::HttpAmbiguousLength,
            b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        ),
        (
            BadReason::HttpTransferCoding,
            b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: x\r\n\r\n",
        ),
        (
            BadReason::HttpBadChunk,
            b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ),
        (
            BadReason::BodyTooLarge,
            b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999999\r\n\r\n",
        ),
    ] {
        let before = reason.counted();
        let mut session = session();
        feed(&mut session, request, &[usize::MAX], serve);
        assert!(
            session.is_finished() && !session.wants_input(),
            "{reason:?}"
        );
        assert!(reason.counted() > before, "{reason:?}");
    }
}

#[test]
fn nothing_after_a_refused_request_is_read_as_a_request() {
    let smuggled = [
        page(
            "POST",
            "/x",
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        ),
        page("GET", "/secret", ""),
    ];
    let answer = answers(&smuggled.concat());
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    assert!(answer.contains("\r\nConnection: close\r\n"));
}

#[test]
fn malformed_chunks_are_refused() {
    let long_line = format!("1;{}\r\n", "x".repeat(2000));
    let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(2000));
    for body in [
        "5\r\nhelloX\r\n",
        "-1\r\n",
        "\r\n",
        "fffffffffffffffff\r\n",
        "5\nhello\n0\n\n",
        &long_line,
        &trailers,
    ] {
        let request = [
            page("POST", "/x", "Transfer-Encoding: chunked\r\n"),
            body.into(),
        ]
        .concat();
        for sizes in [&[1][..], &[usize::MAX]] {
            let (sent, _) = feed(&mut session(), &request, sizes, serve);
            let answer = String::from_utf8(sent).unwrap();
            assert!(answer.starts_with("HTTP/1.1 400"), "{body:.20}: {answer}");
        }
    }
}

#[test]
fn headers_of_an_answer_cannot_break_out() {
    let mut metadata = MetadataMap::new();
    for (name, value) in [
        ("good", "yes"),
        ("bad", "a\r\nInjected: 1"),
        ("bad name", "x"),
        ("Content-Length", "7"),
        ("", "x"),
    ] {
        metadata.append(name, value);
    }
    metadata.append_bytes("raw-bin", vec![0, 1]);
    let (sent, _) = feed(
        &mut session(),
        &call("", "{}"),
        &[usize::MAX],
        |session, event| {
            let ServerEvent::Call(call) = event else {
                panic!()
            };
            let mut success = Success::new(Body::Bytes(call.body.data));
            success.metadata = &metadata;
            session.answer(call.id, Reply::Success(success));
        },
    );
    let text = String::from_utf8(sent).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "{}");
    assert!(
        head.contains("\r\ngood: yes") && head.contains("\r\nraw-bin: AAE"),
        "{head}"
    );
    assert_eq!(head.lines().count(), 5, "{head}");
}

#[test]
fn a_slow_request_is_given_up() {
    for start in [
        &b"GET / HT"[..],
        &call("", "{}")[..CALL.len() + 22],
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab",
    ] {
        let mut session = session();
        assert_eq!(session.deadline(), None, "idle connections may wait");
        feed(&mut session, start, &[usize::MAX], serve);
        let deadline = session.deadline().unwrap();
        session
            .timed_out(Instant::from_nanos(deadline.as_nanos() - 1))
            .unwrap();
        assert!(session.wants_input());
        let before = BadReason::HttpSlow.counted();
        session.timed_out(deadline).unwrap();
        assert!(session.is_finished() && BadReason::HttpSlow.counted() > before);
        let mut sent = Vec::new();
        collect(session.transmit(), &mut sent);
        assert_eq!(status(&String::from_utf8(sent).unwrap()), 408);
    }
}
