//! Streams of answers over HTTP, in lines of JSON: how they end, how they wait, who may read them.

use std::io::{BufRead, BufReader, Write};
use std::process::Command;
use std::sync::atomic::AtomicU64;

use rpc_core::Cors;

use super::peer::http;
use super::*;

mod feed {
    rpc_core::include_proto!("feed");
}
use feed::{Feed, FeedServer, Item, Query};

/// Counts what its streams gave, and those that ended.
#[derive(Default)]
struct Tally {
    given: AtomicU64,
    ended: Mutex<usize>,
    changed: Condvar,
}

struct Feeds(Arc<Tally>);

/// One stream; counted when it is dropped.
struct Watch {
    query: Query,
    next: i64,
    tally: Arc<Tally>,
}

impl Iterator for Watch {
    type Item = Result<Item, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next < i64::from(self.query.count) {
            self.next += 1;
            self.tally.given.fetch_add(1, Ordering::Relaxed);
            let text = "x".repeat(self.query.size as usize);
            return Some(Ok(Item {
                number: self.next,
                text,
            }));
        }
        let failure = std::mem::take(&mut self.query.failure);
        (!failure.is_empty()).then(|| Err(Status::not_found(failure)))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        *self.tally.ended.lock() += 1;
        self.tally.changed.notify_all();
    }
}

impl Feed for Feeds {
    fn watch(
        &self,
        request: Request<Query>,
    ) -> Result<Response<impl Iterator<Item = Result<Item, Status>>>, Status> {
        let query = request.into_inner();
        if query.name == "gone" {
            return Err(Status::not_found("no such feed"));
        }
        let tally = Arc::clone(&self.0);
        let watch = Watch {
            query,
            next: 0,
            tally,
        };
        let mut response = Response::new(watch);
        response.metadata_mut().append("x-feed", "1");
        response.trailers_mut().append("x-end", "well");
        Ok(response)
    }
}

fn start(settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (Served, Arc<Tally>) {
    let tally = Arc::new(Tally::default());
    let service = FeedServer::new(Feeds(Arc::clone(&tally)));
    let server = Served::with(|builder| settings(builder.add_service(service)));
    (server, tally)
}

/// A server with this page's service beside the others'.
pub fn feed_server() -> (Served, impl Sized) {
    start(|builder| builder)
}

/// The numbers of a stream with `count` items.
pub fn watch(channel: &Channel, count: i64) -> Vec<i64> {
    let query = Query {
        count: count as i32,
        ..Query::default()
    };
    let stream = feed::FeedClient::new(channel.clone()).watch(query);
    let items = stream.expect("the stream begins").into_inner();
    items.map(|item| item.expect("it goes on").number).collect()
}

fn lines(body: &str) -> Vec<serde_json::Value> {
    let line = |line: &str| serde_json::from_str(line).expect("each line is JSON");
    body.lines().map(line).collect()
}

/// What curl says: its exit status, and what it received.
fn curl(args: &[&str]) -> Option<(i32, String)> {
    match Command::new("curl")
        .args(["-s", "--max-time", "60"])
        .args(args)
        .output()
    {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Some((output.status.code().unwrap_or(-1), text))
        }
        Err(error) => {
            let text =
                format!("NOT RUN: curl is absent ({error}); `cargo xtask test` installs it\n");
            std::io::stderr().write_all(text.as_bytes()).ok()?;
            None
        }
    }
}

const VERSIONS: [&str; 2] = ["--http1.1", "--http2-prior-knowledge"];

#[rpc_core::test]
fn a_stream_is_one_line_of_json_for_each_message() {
    let (server, _) = start(|builder| builder);
    let base = format!("http://{}", server.addr);
    on_a_thread(move || {
        for version in VERSIONS {
            let by_rule = format!("{base}/v1/feeds/f?count=3&size=1");
            let said = curl(&[version, "-w", "%{content_type} %{http_code}", &by_rule]);
            let Some((0, said)) = said else {
                assert!(said.is_none(), "{version}: {said:?}");
                return;
            };
            let expected = "{\"number\":\"1\",\"text\":\"x\"}\n{\"number\":\"2\",\"text\":\"x\"}\n\
                            {\"number\":\"3\",\"text\":\"x\"}\napplication/x-ndjson 200";
            assert_eq!(said, expected, "{version}");
            let by_name = format!("{base}/feed.Feed/Watch");
            let json = "content-type: application/json";
            let body = r#"{"count":2}"#;
            let (code, said) = curl(&[version, "-i", "-H", json, "-d", body, &by_name]).unwrap();
            let said = said.replace('\r', "").to_ascii_lowercase();
            assert_eq!(code, 0, "{version}: {said}");
            for part in [
                "x-feed: 1\n",
                "\n\n{\"number\":\"1\"}\n{\"number\":\"2\"}\n",
                "x-end: well\n",
            ] {
                assert!(said.contains(part), "{version}: {part} in {said}");
            }
            let none = curl(&[version, &format!("{base}/v1/feeds/empty")]).unwrap();
            assert_eq!(none, (0, String::new()), "{version}");
        }
    });
    server.stop();
}

#[rpc_core::test]
fn a_failure_before_the_stream_has_its_status_and_one_within_cuts_it_short() {
    let (server, _) = start(|builder| builder);
    let base = format!("http://{}", server.addr);
    on_a_thread(move || {
        for version in VERSIONS {
            let gone = format!("{base}/v1/feeds/gone");
            let Some((_, said)) = curl(&[version, "-w", " %{http_code}", &gone]) else {
                return;
            };
            assert!(said.ends_with("\"no such feed\"} 404"), "{version}: {said}");
            let fails = format!("{base}/v1/feeds/f?count=2&failure=lost");
            let (code, said) = curl(&[version, &fails]).unwrap();
            // 18: the transfer was cut short; 92: the stream was reset.
            assert!([18, 92].contains(&code), "{version}: {code} {said}");
            let last = serde_json::json!({"error": {"code": "not_found", "message": "lost"}});
            // When its stream is reset curl throws away what it has not yet handed on.
            if version == VERSIONS[0] {
                assert_eq!(lines(&said).get(2), Some(&last), "{said}");
            }
        }
    });
    server.stop();
}

#[rpc_core::test]
fn what_is_pipelined_behind_a_stream_is_answered_after_it() {
    let (server, _) = start(|builder| builder);
    let addr = server.addr;
    let answer = on_a_thread(move || {
        let echo = "POST /probe.Probe/Echo HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{}";
        let watch =
            |close: &str| format!("GET /v1/feeds/f?count=2 HTTP/1.1\r\nHost: t\r\n{close}\r\n");
        let close = "Connection: close\r\n";
        let all = [echo, &watch(""), echo, &watch(""), &watch(close)].concat();
        http(addr, &all)
    });
    let text = format!("{}\r\n\r\n{}", answer.1, answer.2);
    let order: Vec<usize> = text
        .match_indices("HTTP/1.1 200")
        .map(|(at, _)| {
            text[at..]
                .find("x-ndjson")
                .map_or(0, |found| usize::from(found < 60))
        })
        .collect();
    assert_eq!(order, [0, 1, 0, 1, 1], "{text}");
    assert_eq!(
        text.matches("\n0\r\nx-end: well\r\n\r\n").count(),
        3,
        "{text}"
    );
    server.stop();
}

#[rpc_core::test]
fn a_reader_that_pauses_stops_the_handler_and_gets_every_line() {
    const COUNT: i64 = 2000;
    const SIZE: i64 = 64 << 10;
    let limit = Duration::from_secs(600);
    let (server, tally) = start(|builder| builder.unwritten(256 << 10, 64 << 20, limit));
    let addr = server.addr;
    let client = server.client();
    let (given, counted) = on_a_thread(move || {
        let mut stream = TcpStream::connect(addr).expect("the server listens");
        let request = format!("GET /v1/feeds/f?count={COUNT}&size={SIZE} HTTP/1.0\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .expect("the server reads");
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while head.trim_end() != "" || head.is_empty() {
            head.clear();
            reader.read_line(&mut head).expect("the stream begins");
        }
        // Others are served meanwhile, and time passes for a handler that would run on.
        for _ in 0..300 {
            client.echo(ask("meanwhile")).expect("other calls go on");
        }
        let given = tally.given.load(Ordering::Relaxed);
        let line = |line: std::io::Result<String>| {
            let line = line.expect("every line comes");
            let item: serde_json::Value = serde_json::from_str(&line).expect("it is JSON");
            item["number"]
                .as_str()
                .expect("a number")
                .parse()
                .expect("one")
        };
        let counted: Vec<i64> = reader.lines().map(line).collect();
        (given, counted)
    });
    assert!(counted.into_iter().eq(1..=COUNT));
    assert!(
        given < 1000,
        "{given} of {COUNT} messages were made for a reader that took none"
    );
    server.stop();
}

#[rpc_core::test]
fn a_reader_that_leaves_ends_the_handler() {
    let (server, tally) = start(|builder| builder);
    let addr = server.addr;
    on_a_thread(move || {
        let mut stream = TcpStream::connect(addr).expect("the server listens");
        let ask = "GET /v1/feeds/f?count=2000000000 HTTP/1.1\r\nHost: t\r\n\r\n";
        stream.write_all(ask.as_bytes()).expect("the server reads");
        stream
            .read_exact(&mut [0; 1024])
            .expect("the stream begins");
    });
    let mut ended = tally.ended.lock();
    while *ended == 0 {
        ended = tally.changed.wait(ended);
    }
    drop(ended);
    server.stop();
}

/// Status and head of an exchange, in lower case.
fn exchange(addr: SocketAddr, line: &str, headers: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let text = format!(
        "{line} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    let (status, head, _) = on_a_thread(move || http(addr, &text));
    (status, head.to_ascii_lowercase())
}

#[rpc_core::test]
fn pages_of_other_origins_may_call_only_where_the_server_says_so() {
    let origin = "Origin: https://app.example\r\n";
    let asks = format!(
        "{origin}Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type,x-a\r\n"
    );
    let (closed, _) = start(|builder| builder);
    let (status, head) = exchange(closed.addr, "OPTIONS /feed.Feed/Watch", &asks, "");
    assert!(status == 405 && !head.contains("access-control"), "{head}");
    let (status, head) = exchange(closed.addr, "POST /probe.Probe/Echo", origin, "{}");
    assert!(status == 200 && !head.contains("access-control"), "{head}");
    closed.stop();

    let cors = Cors::origins(["https://app.example"]).credentials();
    let (server, _) = start(|builder| builder.cors(cors));
    let allowed = "access-control-allow-origin: https://app.example";
    let (status, head) = exchange(server.addr, "OPTIONS /feed.Feed/Watch", &asks, "");
    assert_eq!(status, 204, "{head}");
    for part in [
        allowed,
        "access-control-allow-methods: post",
        "access-control-allow-headers: content-type,x-a",
        "access-control-allow-credentials: true",
        "access-control-max-age: 600",
        "vary: origin",
    ] {
        assert!(head.contains(part), "{part} in {head}");
    }
    let (status, head) = exchange(server.addr, "POST /probe.Probe/Echo", origin, "{}");
    assert!(status == 200 && head.contains(allowed), "{head}");
    let (status, head) = exchange(server.addr, "GET /v1/feeds/f?count=1", origin, "");
    assert!(
        status == 200 && head.contains(allowed) && head.contains("x-feed"),
        "{head}"
    );
    let (status, head) = exchange(server.addr, "POST /probe.Probe/Fail", origin, "{}");
    assert!(status == 400 && head.contains(allowed), "{head}");
    let foreign = "Origin: https://app.example.evil\r\n";
    for (line, headers) in [
        ("POST /probe.Probe/Echo", foreign),
        ("GET /status", origin),
        ("POST /probe.Probe/Echo", ""),
    ] {
        let (status, head) = exchange(server.addr, line, headers, "");
        assert!(
            status == 200 && !head.contains("access-control"),
            "{line} {headers}: {head}"
        );
    }
    let base = format!("http://{}", server.addr);
    on_a_thread(move || {
        let call = format!("{base}/v1/feeds/f?count=1");
        let said = curl(&[
            "--http2-prior-knowledge",
            "-i",
            "-H",
            "origin: https://app.example",
            &call,
        ]);
        let Some((code, said)) = said else { return };
        assert!(code == 0 && said.contains(allowed), "{said}");
    });
    server.stop();
}
