//! Pages of a made-up server.

use super::*;
use crate::base::metric::Histogram;
use crate::base::time::Instant;
use crate::rpc::protocol::CallId;

fn request(method: &str, path: &str, accept: &str) -> PageRequest {
    let mut headers = MetadataMap::new();
    headers.append("Accept", accept);
    PageRequest {
        id: CallId::new(0, 0),
        method: method.into(),
        path: path.into(),
        query: String::new(),
        headers,
        body: bytes::Bytes::new(),
        arrived: Instant::ZERO,
    }
}

fn view(draining: bool) -> ServerView {
    let latency = Histogram::default();
    latency.record(1_000_000);
    ServerView {
        identity: "127.0.0.1:8000".into(),
        uptime: Duration::from_secs(93_784),
        draining,
        connections: 3,
        in_flight: 2,
        runtime: None,
        methods: vec![MethodView {
            service: "example.EchoService",
            method: "Echo",
            running: 2,
            answered: 10,
            failed: 1,
            refused: 2,
            panicked: 3,
            lost: 4,
            qps: 5.0,
            latency: latency.snapshot(),
        }],
        counters: vec![("pages", "console pages served", 7)],
        closed: vec![("peer_closed", 1)],
        bad_input: vec![("bad_magic", 0), ("body_too_large", 2)],
    }
}

fn shown(path: &str, accept: &str, draining: bool) -> Page {
    let dump = || "1 <coroutine>".to_owned();
    page(&request("GET", path, accept), || view(draining), dump)
}

fn body(page: &Page) -> &str {
    std::str::from_utf8(&page.body).unwrap()
}

#[test]
fn curl_gets_text_and_a_browser_html_of_the_same_numbers() {
    let text = shown("/status", "*/*", false);
    assert!(text.content_type.starts_with("text/plain"));
    assert!(
        body(&text).contains("serving for 1d 02:03:04"),
        "{}",
        body(&text)
    );
    assert!(body(&text).contains("[example.EchoService]"));
    assert!(
        !body(&text).contains("bad_magic"),
        "what never happened is not listed"
    );
    let html = shown("/status", "text/html,*/*", false);
    assert!(html.content_type.starts_with("text/html"));
    assert!(
        body(&html).contains("<td>Echo</td><td>20</td>"),
        "{}",
        body(&html)
    );
}

#[test]
fn health_turns_when_the_server_drains() {
    let healthy = shown("/health", "", false);
    assert_eq!((healthy.status, body(&healthy)), (200, "OK\n"));
    let draining = shown("/health", "", true);
    assert_eq!((draining.status, body(&draining)), (503, "draining\n"));
}

#[test]
fn every_line_of_metrics_is_a_comment_or_a_sample() {
    let metrics = shown("/metrics", "", false);
    for line in body(&metrics).lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("rpc_server_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    let calls = "calls_total{service=\"example.EchoService\",method=\"Echo\",outcome=\"lost\"} 4";
    assert!(body(&metrics).contains(calls));
}

#[test]
fn a_wrong_path_or_verb_says_what_there_is() {
    let nothing = || -> ServerView { unreachable!("needs no numbers") };
    let missing = page(&request("GET", "/nope", ""), nothing, String::new);
    assert_eq!(missing.status, 404);
    assert!(body(&missing).contains("/status"));
    let verb = page(&request("DELETE", "/status", ""), nothing, String::new);
    assert_eq!(verb.status, 405);
    assert_eq!(verb.headers.get("allow"), Some("GET, HEAD"));
}

#[test]
fn coroutines_are_text_for_curl_and_escaped_for_a_browser() {
    assert_eq!(body(&shown("/coroutines", "*/*", false)), "1 <coroutine>");
    let html = shown("/coroutines", "text/html", false);
    assert!(body(&html).contains("<pre>1 &lt;coroutine&gt;</pre>"));
}
