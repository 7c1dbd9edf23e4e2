//! The same port in HTTP/1.1: the console, and calls in JSON.

use rpc_core::rpc::protocol::Page;

use super::peer::{get, http};
use super::*;

fn post(addr: SocketAddr, path: &str, body: &str) -> (u16, String, String) {
    http(
        addr,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ),
    )
}

#[rpc_core::test]
fn a_call_in_json_is_answered_in_json() {
    let server = Served::start();
    let addr = server.addr;
    let (status, head, body) =
        on_a_thread(move || post(addr, "/probe.Probe/Echo", r#"{"text":"héllo","size":3}"#));
    assert_eq!(status, 200, "{head}");
    assert!(
        head.to_ascii_lowercase()
            .contains("content-type: application/json"),
        "{head}"
    );
    let told: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(told, serde_json::json!({"text": "héllo", "data": "BwcH"}));
    server.stop();
}

#[rpc_core::test]
fn bad_json_an_unknown_method_and_a_failure_have_their_statuses() {
    let server = Served::start();
    let addr = server.addr;
    let calls = [
        ("/probe.Probe/Echo", "{\"text\":", 400),
        ("/probe.Probe/Echo", r#"{"nonsense":1}"#, 400),
        ("/probe.Probe/Nope", "{}", 404),
        ("/probe.Probe/Fail", r#"{"text":"not now"}"#, 400),
        ("/probe.Probe/Panic", "{}", 500),
        ("/probe.Probe/Echo", "", 200),
    ];
    for (path, json, expected) in calls {
        let (status, head, body) = on_a_thread(move || post(addr, path, json));
        assert_eq!(status, expected, "{path} {json}: {head}\n{body}");
    }
    server.stop();
}

#[rpc_core::test]
fn the_console_shows_what_ran() {
    let server = Served::start();
    server.client().echo(ask("counted")).unwrap();
    let addr = server.addr;
    on_a_thread(move || {
        let (status, head, text) = get(addr, "/status");
        assert_eq!(status, 200, "{head}");
        assert!(
            text.contains("[probe.Probe]") && text.contains("Echo"),
            "{text}"
        );
        let sample =
            "rpc_server_calls_total{service=\"probe.Probe\",method=\"Echo\",outcome=\"answered\"}";
        assert_eq!(peer::metric(addr, sample), 1.0);
        assert_eq!(get(addr, "/health").0, 200);
        assert_eq!(get(addr, "/").0, 200);
        assert_eq!(get(addr, "/nope").0, 404);
        let browser =
            "GET /status HTTP/1.1\r\nHost: t\r\nAccept: text/html\r\nConnection: close\r\n\r\n";
        assert!(http(addr, browser).2.starts_with("<!DOCTYPE html>"));
    });
    server.stop();
}

#[rpc_core::test]
fn many_requests_on_one_connection_are_answered_in_their_order() {
    let server = Served::start();
    let addr = server.addr;
    let bodies = on_a_thread(move || {
        let mut all = String::new();
        for i in 0..20 {
            let body = format!("{{\"text\":\"{i}\"}}");
            let close = if i == 19 { "Connection: close\r\n" } else { "" };
            all += &format!(
                "POST /probe.Probe/Echo HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n{close}\r\n{body}",
                body.len()
            );
        }
        http(addr, &all)
    });
    let positions: Vec<_> = (0..20)
        .map(|i| {
            let text = format!("{{\"text\":\"{i}\"}}");
            format!("{}\r\n\r\n{}", bodies.1, bodies.2).find(&text)
        })
        .collect();
    assert!(
        positions.iter().all(Option::is_some) && positions.is_sorted(),
        "{positions:?}"
    );
    server.stop();
}

#[rpc_core::test]
fn a_programs_own_pages_come_before_the_console_and_hear_the_whole_request() {
    let server = Served::with(|builder| {
        builder
            .pages("/own/", |request| {
                let text = format!("{} {} {:?}", request.method, request.query, request.body);
                let mut page = Page::text(207, text);
                page.headers
                    .insert("x-heard", request.headers.get("x-said").unwrap_or_default());
                page
            })
            .pages("/status", |_| Page::text(200, "own"))
            .pages("/panic", |_| panic!("on purpose"))
    });
    let addr = server.addr;
    on_a_thread(move || {
        let asked = "PATCH /own/a/b?c=d HTTP/1.1\r\nHost: t\r\nX-Said: this\r\n\
                     Content-Length: 2\r\nConnection: close\r\n\r\nhi";
        let (status, head, body) = http(addr, asked);
        assert_eq!((status, &*body), (207, "PATCH c=d b\"hi\""));
        assert!(
            head.to_ascii_lowercase().contains("x-heard: this"),
            "{head}"
        );
        assert_eq!(get(addr, "/status").2, "own");
        assert_eq!(get(addr, "/panic").0, 500);
        assert_eq!(get(addr, "/health").0, 200);
        assert_eq!(post(addr, "/probe.Probe/Echo", "{}").0, 200);
    });
    server.stop();
}
