//! The pages a server shows on its own port: `/`, `/status`, `/health`, `/metrics`, `/coroutines`.
//!
//! Knows: numbers of a server as plain data, plain text, simple HTML, the Prometheus text format.
//! Does not know: how the numbers come about, sockets.
//!
//! curl gets plain text, a browser (it accepts `text/html`) gets HTML of the same.

mod html;
mod prometheus;
mod text;

use std::time::Duration;

use crate::base::metric::Snapshot;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::{Page, PageRequest};
use crate::runtime::Metrics;

/// A server's numbers at one moment.
pub(crate) struct ServerView {
    /// `ip:port`.
    pub identity: String,
    pub uptime: Duration,
    pub draining: bool,
    /// Open connections.
    pub connections: usize,
    /// Calls under way.
    pub in_flight: usize,
    /// Of the runtime that serves; `None` before it does.
    pub runtime: Option<Metrics>,
    pub methods: Vec<MethodView>,
    /// Name, meaning, value of what only grows.
    pub counters: Vec<(&'static str, &'static str, u64)>,
    /// Connections closed, by reason.
    pub closed: Vec<(&'static str, u64)>,
    /// Connections closed for bad input, by what was wrong.
    pub bad_input: Vec<(&'static str, u64)>,
}

/// One method's numbers at one moment.
pub(crate) struct MethodView {
    pub service: &'static str,
    pub method: &'static str,
    /// Calls that run.
    pub running: usize,
    pub answered: u64,
    pub failed: u64,
    pub refused: u64,
    pub panicked: u64,
    pub lost: u64,
    /// Calls ended in the last second.
    pub qps: f64,
    /// Nanoseconds from arrival to answer.
    pub latency: Snapshot,
}

impl MethodView {
    /// Calls that ended in a failure.
    fn errors(&self) -> u64 {
        self.failed + self.refused + self.panicked
    }

    /// Latency at `quantile` in microseconds.
    fn micros(&self, quantile: f64) -> f64 {
        self.latency.quantile(quantile) as f64 / 1e3
    }
}

/// The pages, and what each is for.
const PAGES: [(&str, &str); 5] = [
    ("/", "this list"),
    (
        "/status",
        "methods with rates, latencies, concurrency and errors",
    ),
    ("/health", "200 while serving, 503 while draining"),
    ("/metrics", "the same for Prometheus, and the runtime's"),
    (
        "/coroutines",
        "what each coroutine does or waits for, grouped by equal stack; pinned workers, stacks",
    ),
];

/// Answers a plain HTTP request. `view` and `dump`, the runtime's coroutines as text, are taken only
/// where a page needs them.
pub(crate) fn page(
    request: &PageRequest,
    view: impl FnOnce() -> ServerView,
    dump: impl FnOnce() -> String,
) -> Page {
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        let mut page = Page::text(
            405,
            "this page is for GET; calls go to POST /package.Service/Method\n",
        );
        page.headers.insert("allow", "GET, HEAD");
        return page;
    }
    let browser = wants_html(&request.headers);
    match request.path.as_str() {
        "/" | "/index" if browser => html_page(html::index(&PAGES)),
        "/" | "/index" => Page::text(200, text::index(&PAGES)),
        "/status" if browser => html_page(html::status(&view())),
        "/status" => Page::text(200, text::status(&view())),
        "/coroutines" if browser => html_page(html::coroutines(&dump())),
        "/coroutines" => Page::text(200, dump()),
        "/health" => match view().draining {
            true => Page::text(503, "draining\n"),
            false => Page::text(200, "OK\n"),
        },
        "/metrics" => {
            let mut page = Page::text(200, prometheus::metrics(&view()));
            page.content_type = "text/plain; version=0.0.4; charset=utf-8";
            page
        }
        path => Page::text(404, text::not_found(path, &PAGES)),
    }
}

fn html_page(body: String) -> Page {
    let mut page = Page::text(200, body);
    page.content_type = "text/html; charset=utf-8";
    page
}

fn wants_html(headers: &MetadataMap) -> bool {
    headers
        .get("accept")
        .is_some_and(|accept| accept.contains("text/html"))
}

/// `93784 s` as `1d 02:03:04`.
fn uptime(uptime: Duration) -> String {
    let seconds = uptime.as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let clock = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    if days > 0 {
        format!("{days}d {clock}")
    } else {
        clock
    }
}

#[cfg(test)]
mod tests;
