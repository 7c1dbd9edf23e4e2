//! The Prometheus text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::{Display, Write};

use super::{MethodView, ServerView};
use crate::runtime::{self, Metrics, StackClass};

/// Every number of the server.
pub(super) fn metrics(view: &ServerView) -> String {
    let mut out = String::new();
    single(
        &mut out,
        "uptime_seconds",
        "gauge",
        "time since the start",
        view.uptime.as_secs_f64(),
    );
    single(
        &mut out,
        "draining",
        "gauge",
        "1 while draining",
        u8::from(view.draining),
    );
    single(
        &mut out,
        "connections",
        "gauge",
        "open connections",
        view.connections,
    );
    single(
        &mut out,
        "calls_in_flight",
        "gauge",
        "calls under way",
        view.in_flight,
    );
    for (name, help, value) in &view.counters {
        single(&mut out, &format!("{name}_total"), "counter", help, value);
    }
    head(
        &mut out,
        "connections_closed_total",
        "counter",
        "connections closed, by reason",
    );
    for (reason, count) in &view.closed {
        sample(
            &mut out,
            "connections_closed_total",
            &[("reason", reason)],
            count,
        );
    }
    head(
        &mut out,
        "bad_input_total",
        "counter",
        "connections closed for what the peer sent",
    );
    for (reason, count) in &view.bad_input {
        sample(&mut out, "bad_input_total", &[("reason", reason)], count);
    }
    methods(&mut out, &view.methods);
    if let Some(metrics) = &view.runtime {
        runtime(&mut out, metrics);
    }
    out
}

/// The runtime that serves, and the stacks of the process.
fn runtime(out: &mut String, metrics: &Metrics) {
    for (name, help, value) in totals(metrics) {
        single(
            out,
            &format!("runtime_{name}_total"),
            "counter",
            help,
            value,
        );
    }
    let gauges = [
        ("coroutines", "coroutines that run or wait", metrics.live),
        (
            "threads",
            "threads that run workers or are stuck",
            metrics.threads,
        ),
    ];
    for (name, help, value) in gauges {
        single(out, &format!("runtime_{name}"), "gauge", help, value);
    }
    let name = "runtime_parks_total";
    head(out, name, "counter", "waits, by reason");
    for (reason, count) in &metrics.parks {
        sample(out, name, &[("reason", reason)], count);
    }
    let stacks = runtime::stacks();
    for (name, help, value) in STACKS {
        head(out, name, "gauge", help);
        for class in &stacks.classes {
            let (size, identity) = (class.size.to_string(), format!("{:?}", class.identity));
            let labels = [("bytes", size.as_str()), ("identity", &identity)];
            sample(out, name, &labels, value(class));
        }
    }
}

/// Name, meaning and value of what only grows.
fn totals(metrics: &Metrics) -> [(&'static str, &'static str, u64); 10] {
    [
        ("switches", "coroutines resumed", metrics.switches),
        ("started", "coroutines started", metrics.started),
        (
            "steals",
            "times that a worker took from another's queue",
            metrics.steals,
        ),
        (
            "remote_wakes",
            "wake-ups from other threads",
            metrics.wakes_from_elsewhere,
        ),
        (
            "eventfd_writes",
            "writes that ended a worker's sleep",
            metrics.eventfd_writes,
        ),
        (
            "rescues",
            "stuck workers taken over by a spare thread",
            metrics.rescues,
        ),
        (
            "stalls",
            "workers that had not come back in time",
            metrics.stalls,
        ),
        (
            "stalled_nanoseconds",
            "how long stalled workers stayed away",
            metrics.stalled.sum(),
        ),
        (
            "pinned_waits",
            "waits in the kernel that held a worker",
            metrics.pinned_waits,
        ),
        (
            "pinned_nanoseconds",
            "how long those that ended held one",
            metrics.pinned_nanos,
        ),
    ]
}

/// Name, meaning and value of what is shown of a class of stacks.
type OfStacks = (&'static str, &'static str, fn(&StackClass) -> usize);

const STACKS: [OfStacks; 3] = [
    (
        "runtime_stacks",
        "stacks that hold memory, by size",
        |class| class.made,
    ),
    (
        "runtime_stacks_idle",
        "those of them that nobody uses",
        |class| class.idle,
    ),
    (
        "runtime_stacks_deepest_bytes",
        "the deepest use seen",
        |class| class.deepest,
    ),
];

fn methods(out: &mut String, methods: &[MethodView]) {
    head(out, "calls_running", "gauge", "calls that run");
    for method in methods {
        sample(out, "calls_running", &labels(method), method.running);
    }
    head(
        out,
        "calls_total",
        "counter",
        "calls that ended, by outcome",
    );
    for method in methods {
        let outcomes = [
            ("answered", method.answered),
            ("failed", method.failed),
            ("refused", method.refused),
            ("panicked", method.panicked),
            ("lost", method.lost),
        ];
        for (outcome, count) in outcomes {
            let [service, name] = labels(method);
            sample(
                out,
                "calls_total",
                &[service, name, ("outcome", outcome)],
                count,
            );
        }
    }
    let name = "call_seconds";
    head(out, name, "summary", "time from arrival to answer");
    for method in methods {
        let [service, method_name] = labels(method);
        for quantile in ["0.5", "0.9", "0.99", "0.999"] {
            let at: f64 = quantile.parse().expect("the quantiles are numbers");
            let labels = [service, method_name, ("quantile", quantile)];
            sample(out, name, &labels, method.micros(at) / 1e6);
        }
        let sum = method.latency.sum() as f64 / 1e9;
        sample(out, "call_seconds_sum", &labels(method), sum);
        sample(
            out,
            "call_seconds_count",
            &labels(method),
            method.latency.count(),
        );
    }
}

fn labels(method: &MethodView) -> [(&'static str, &'static str); 2] {
    [("service", method.service), ("method", method.method)]
}

fn single(out: &mut String, name: &str, kind: &str, help: &str, value: impl Display) {
    head(out, name, kind, help);
    sample(out, name, &[], value);
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    writeln!(
        out,
        "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}"
    )
    .expect("a string takes everything");
}

/// Label values are names of services, methods and reasons: nothing in them needs escaping.
fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl Display) {
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
    let labels = if labels.is_empty() {
        String::new()
    } else {
        format!("{{{}}}", labels.join(","))
    };
    writeln!(out, "{PREFIX}{name}{labels} {value}").expect("a string takes everything");
}

const PREFIX: &str = "rpc_server_";
