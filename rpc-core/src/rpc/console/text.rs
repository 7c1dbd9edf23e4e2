//! The console for curl.

use std::fmt::Write;

use super::{ServerView, uptime};

/// The list of pages.
pub(super) fn index(pages: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (path, what) in pages {
        line(&mut out, format_args!("{path:<10} {what}"));
    }
    line(
        &mut out,
        format_args!(
            "{:<10} {}",
            "POST", "/package.Service/Method with a JSON body"
        ),
    );
    out
}

/// A page that does not exist.
pub(super) fn not_found(path: &str, pages: &[(&str, &str)]) -> String {
    let known: Vec<&str> = pages.iter().map(|page| page.0).collect();
    format!(
        "no page {}; there are {}\n",
        path.escape_debug(),
        known.join(" ")
    )
}

/// The server and its methods.
pub(super) fn status(view: &ServerView) -> String {
    let mut out = String::new();
    let state = if view.draining { "draining" } else { "serving" };
    line(
        &mut out,
        format_args!("{} {state} for {}", view.identity, uptime(view.uptime)),
    );
    line(
        &mut out,
        format_args!(
            "connections: {}  calls under way: {}",
            view.connections, view.in_flight
        ),
    );
    let mut service = "";
    for method in &view.methods {
        if service != method.service {
            service = method.service;
            line(&mut out, format_args!("\n[{service}]"));
            line(
                &mut out,
                format_args!(
                    "{:<24} {:>10} {:>10} {:>8} {:>8} {:>10} {:>10} {:>10} {:>10}",
                    "method",
                    "calls",
                    "qps",
                    "running",
                    "errors",
                    "p50 us",
                    "p99 us",
                    "p99.9 us",
                    "max us"
                ),
            );
        }
        line(
            &mut out,
            format_args!(
                "{:<24} {:>10} {:>10.1} {:>8} {:>8} {:>10.1} {:>10.1} {:>10.1} {:>10.1}",
                method.method,
                method.answered + method.errors() + method.lost,
                method.qps,
                method.running,
                method.errors(),
                method.micros(0.5),
                method.micros(0.99),
                method.micros(0.999),
                method.latency.max() as f64 / 1e3,
            ),
        );
    }
    line(&mut out, format_args!(""));
    for (name, _, value) in &view.counters {
        line(&mut out, format_args!("{name}: {value}"));
    }
    for (kind, list) in [("closed", &view.closed), ("bad input", &view.bad_input)] {
        for (reason, count) in list.iter().filter(|entry| entry.1 > 0) {
            line(&mut out, format_args!("{kind} ({reason}): {count}"));
        }
    }
    out
}

fn line(out: &mut String, args: std::fmt::Arguments<'_>) {
    writeln!(out, "{args}").expect("a string takes everything");
}
