//! The console for browsers: the same numbers, no scripts.

use super::{ServerView, uptime};

/// The list of pages.
pub(super) fn index(pages: &[(&str, &str)]) -> String {
    let rows: String = pages
        .iter()
        .map(|(path, what)| {
            format!(
                "<tr><td><a href=\"{path}\">{path}</a></td><td>{}</td></tr>",
                escape(what)
            )
        })
        .collect();
    frame("index", &format!("<table>{rows}</table>"))
}

/// The server and its methods.
pub(super) fn status(view: &ServerView) -> String {
    let state = if view.draining { "draining" } else { "serving" };
    let mut body = format!(
        "<p>{state} for {} &middot; {} connections &middot; {} calls under way</p>",
        uptime(view.uptime),
        view.connections,
        view.in_flight
    );
    let mut service = "";
    for method in &view.methods {
        if service != method.service {
            if !service.is_empty() {
                body.push_str("</table>");
            }
            service = method.service;
            body.push_str(&format!("<h2>{}</h2><table><tr>", escape(service)));
            for head in [
                "method",
                "calls",
                "qps",
                "running",
                "errors",
                "p50 µs",
                "p99 µs",
                "p99.9 µs",
                "max µs",
            ] {
                body.push_str(&format!("<th>{head}</th>"));
            }
            body.push_str("</tr>");
        }
        body.push_str(&format!(
            "<tr><td>{}</td><td>{}</td><td>{:.1}</td><td>{}</td><td>{}</td><td>{:.1}</td>\
             <td>{:.1}</td><td>{:.1}</td><td>{:.1}</td></tr>",
            escape(method.method),
            method.answered + method.errors() + method.lost,
            method.qps,
            method.running,
            method.errors(),
            method.micros(0.5),
            method.micros(0.99),
            method.micros(0.999),
            method.latency.max() as f64 / 1e3,
        ));
    }
    if !service.is_empty() {
        body.push_str("</table>");
    }
    body.push_str("<h2>connections and refusals</h2><table>");
    for (_, help, value) in &view.counters {
        body.push_str(&format!(
            "<tr><td>{}</td><td>{value}</td></tr>",
            escape(help)
        ));
    }
    for (kind, list) in [("closed", &view.closed), ("bad input", &view.bad_input)] {
        for (reason, count) in list.iter().filter(|entry| entry.1 > 0) {
            body.push_str(&format!(
                "<tr><td>{kind}: {}</td><td>{count}</td></tr>",
                escape(reason)
            ));
        }
    }
    body.push_str("</table>");
    frame(&view.identity, &body)
}

/// Coroutines, as the text for curl.
pub(super) fn coroutines(dump: &str) -> String {
    frame("coroutines", &format!("<pre>{}</pre>", escape(dump)))
}

fn frame(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html><html><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style>\
         </head><body><h1>{title}</h1>{body}</body></html>\n",
        title = escape(title),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2em}table{border-collapse:collapse}\
    td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}\
    td:first-child,th:first-child{text-align:left}h1{font-size:1.3em}h2{font-size:1.1em}";
