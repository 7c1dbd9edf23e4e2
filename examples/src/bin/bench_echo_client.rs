//! The load generator of the RPC benchmark: a closed loop of `inflight` callers on each connection.
//!
//! Its last line is one JSON object: calls, seconds, rate, failed, latency percentiles in
//! microseconds, the CPU seconds this process used per million calls, the allocations of both ends per call, and how
//! many calls waited at the server at once at most.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use examples::counting::{Counting, allocations};
use hdrhistogram::Histogram;
use rpc_core::{Channel, Wire};

rpc_core::include_proto!("example");

#[global_allocator]
static COUNTING: Counting = Counting;

/// Load example.EchoService and measure it
#[derive(Parser)]
struct Flags {
    /// The server
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8100")]
    addr: String,
    /// Connections to open
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    connections: u64,
    /// Calls in flight on each connection
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    inflight: u64,
    /// How long to measure
    #[arg(long, default_value_t = 3.0, value_parser = positive_seconds)]
    seconds: f64,
    /// How long to run before measuring
    #[arg(long, default_value_t = 0.5, value_parser = positive_seconds)]
    warmup: f64,
    /// Bytes of text in each message
    #[arg(long, default_value_t = 100)]
    payload: usize,
    /// What is spoken
    #[arg(long, value_enum, default_value_t = Protocol::BaiduStd)]
    protocol: Protocol,
}

#[derive(Clone, Copy, ValueEnum)]
enum Protocol {
    #[value(name = "baidu_std")]
    BaiduStd,
    Grpc,
}

/// Longer than any call takes; those that wait wait some seconds.
const DEADLINE: Duration = Duration::from_secs(60);

/// What the callers look at between two calls.
#[derive(Default)]
struct Phase {
    measuring: AtomicBool,
    over: AtomicBool,
}

/// What the callers of one connection saw while `measuring`. Shared by them: a histogram each would
/// not stay in the processor's cache.
struct Seen {
    latencies: Histogram<u64>,
    failed: u64,
    first_failure: Option<String>,
}

#[rpc_core::main]
fn main() {
    let flags: Flags = examples::parse_flags();
    let phase = Arc::new(Phase::default());
    let (mut callers, mut connections, mut asker) = (Vec::new(), Vec::new(), None);
    let wire = match flags.protocol {
        Protocol::BaiduStd => Wire::Prpc,
        Protocol::Grpc => Wire::Grpc,
    };
    for _ in 0..flags.connections {
        let channel = Channel::builder(&flags.addr)
            .protocol(wire)
            .deadline(DEADLINE)
            .connect()
            .unwrap_or_else(|error| examples::fail(error));
        let seen = Arc::new(Mutex::new(Seen {
            latencies: examples::latency_histogram(),
            failed: 0,
            first_failure: None,
        }));
        for _ in 0..flags.inflight {
            let client = EchoServiceClient::new(channel.clone());
            let (phase, seen, payload) = (phase.clone(), seen.clone(), flags.payload);
            callers.push(rpc_core::spawn(move || {
                run_caller(&client, &phase, &seen, payload)
            }));
        }
        connections.push(seen);
        asker.get_or_insert_with(|| EchoServiceClient::new(channel));
    }
    rpc_core::time::sleep(Duration::from_secs_f64(flags.warmup));
    let asker = asker.expect("the flags ask for a connection at least");
    let before = Look::now(&asker);
    let cpu_before = cpu_seconds();
    let started = Instant::now();
    // Relaxed: the flags guard no other memory; a call more or less at the edges does not matter.
    phase.measuring.store(true, Ordering::Relaxed);
    rpc_core::time::sleep(Duration::from_secs_f64(flags.seconds));
    phase.over.store(true, Ordering::Relaxed);
    let took = started.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu_before;
    for caller in callers {
        if let Err(error) = caller.join() {
            examples::fail(format_args!("a caller ended early: {error}"));
        }
    }
    let after = Look::now(&asker);
    let mut all = examples::latency_histogram();
    let mut failed = 0;
    for seen in &connections {
        let seen = locked(seen);
        all.add(&seen.latencies)
            .expect("all histograms have the same bounds");
        failed += seen.failed;
        if let Some(first) = &seen.first_failure {
            eprintln!("{} calls failed, the first with: {first}", seen.failed);
        }
    }
    let mut line = report(&flags, &all, failed, took, cpu);
    // The calls that were on the way when the time was over are among those counted, and the second look came after them.
    let each = |from: u64, to: u64| (to - from) as f64 / all.len().max(1) as f64;
    line["server_allocations"] = each(before.server, after.server).into();
    line["client_allocations"] = each(before.client, after.client).into();
    line["most_waiting"] = after.most_waiting.into();
    println!("{line}");
}

/// What both ends have counted so far.
struct Look {
    server: u64,
    client: u64,
    most_waiting: u64,
}

impl Look {
    fn now(asker: &EchoServiceClient) -> Self {
        let message = examples::FIGURES.to_owned();
        let answer = asker.echo(EchoRequest { message });
        let answer = answer.unwrap_or_else(|status| examples::fail(status));
        let text = answer.into_inner().message;
        let figures = serde_json::from_str(&text).unwrap_or(serde_json::Value::Null);
        let figure = |name: &str| {
            let value = figures.get(name).and_then(serde_json::Value::as_u64);
            value.unwrap_or_else(|| {
                examples::fail(format_args!("the server knows no `{name}`: {text}"))
            })
        };
        Self {
            server: figure("allocations"),
            client: allocations(),
            most_waiting: figure("most_waiting"),
        }
    }
}

fn run_caller(client: &EchoServiceClient, phase: &Phase, seen: &Mutex<Seen>, payload: usize) {
    let message = "x".repeat(payload);
    let mut started = Instant::now();
    while !phase.over.load(Ordering::Relaxed) {
        let result = client.echo(EchoRequest {
            message: message.clone(),
        });
        // One look at the clock a call: a call begins when the one before it ended.
        let now = Instant::now();
        let nanos = (now - started).as_nanos() as u64;
        started = now;
        if !phase.measuring.load(Ordering::Relaxed) {
            continue;
        }
        let mut seen = locked(seen);
        match result {
            Ok(_) => seen.latencies.saturating_record(nanos),
            Err(status) => {
                seen.failed += 1;
                seen.first_failure.get_or_insert_with(|| status.to_string());
            }
        }
    }
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn report(
    flags: &Flags,
    latencies: &Histogram<u64>,
    failed: u64,
    seconds: f64,
    cpu: f64,
) -> serde_json::Value {
    let calls = latencies.len();
    let micros = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
    serde_json::json!({
        "connections": flags.connections,
        "inflight": flags.inflight,
        "payload": flags.payload,
        "calls": calls,
        "failed": failed,
        "seconds": seconds,
        "rate": (calls as f64 / seconds).round(),
        "p50_us": micros(0.5),
        "p99_us": micros(0.99),
        "p999_us": micros(0.999),
        "max_us": latencies.max() as f64 / 1e3,
        "cpu_s_per_million": cpu * 1e6 / (calls.max(1) as f64),
    })
}

/// User and system time of this process so far, from `/proc/self/stat` (10 ms steps).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field, the name, may hold spaces; it ends at the last parenthesis.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}

fn positive_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds < 1e6 => Ok(seconds),
        _ => Err("expected a number of seconds above 0".into()),
    }
}
