//! The long tail over RPC: calls offered by the clock, of which few burn their server's processor; what do the
//! others suffer?
//!
//! An open loop: a call is due whether or not earlier ones were answered, and timed from then. Its last line is one
//! JSON object with percentiles of the calls that do not burn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use rpc_core::{Channel, Wire};

rpc_core::include_proto!("example");

/// Offer calls at a rate, some of which burn, and measure the others
#[derive(Parser)]
struct Flags {
    /// The server
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8100")]
    addr: String,
    /// What is spoken
    #[arg(long, value_enum, default_value_t = Protocol::BaiduStd)]
    protocol: Protocol,
    /// Connections, used in turn
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1000))]
    connections: u64,
    /// Calls offered in a second
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Seconds to offer them
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// One call of so many burns; 0 = none
    #[arg(long, default_value_t = 100)]
    burn_every: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Protocol {
    #[value(name = "baidu_std")]
    BaiduStd,
    Grpc,
}

/// What every call's slot holds before it ends.
const PENDING: u64 = u64::MAX;
/// What a call's slot holds that failed.
const FAILED: u64 = u64::MAX - 1;

#[rpc_core::main]
fn main() {
    let flags: Flags = examples::parse_flags();
    let wire = match flags.protocol {
        Protocol::BaiduStd => Wire::Prpc,
        Protocol::Grpc => Wire::Grpc,
    };
    let connect = |_| {
        let builder = Channel::builder(&flags.addr).protocol(wire);
        let channel = builder.deadline(Duration::from_secs(30)).connect();
        EchoServiceClient::new(channel.unwrap_or_else(|error| examples::fail(error)))
    };
    let clients: Vec<_> = (0..flags.connections).map(connect).collect();
    let count = (flags.rate * flags.seconds) as usize;
    let nanos: Arc<Vec<AtomicU64>> =
        Arc::new((0..count).map(|_| AtomicU64::new(PENDING)).collect());
    let ended = Arc::new(AtomicUsize::new(0));
    let burns = |call: usize| flags.burn_every > 0 && call.is_multiple_of(flags.burn_every);
    let start = Instant::now();
    for call in 0..count {
        let due = start + Duration::from_nanos(call as u64 * 1_000_000_000 / flags.rate);
        rpc_core::time::sleep(due.saturating_duration_since(Instant::now()));
        let client = clients[call % clients.len()].clone();
        let (nanos, ended) = (Arc::clone(&nanos), Arc::clone(&ended));
        let message = if burns(call) { examples::BURN } else { "x" }.to_owned();
        drop(rpc_core::spawn(move || {
            let result = client.echo(EchoRequest { message });
            let took = match result {
                Ok(_) => due.elapsed().as_nanos() as u64,
                Err(_) => FAILED,
            };
            nanos[call].store(took, Ordering::Relaxed);
            // Release: whoever sees them all ended sees what each stored.
            ended.fetch_add(1, Ordering::Release);
        }));
    }
    while ended.load(Ordering::Acquire) < count {
        rpc_core::time::sleep(Duration::from_millis(1));
    }
    let mut latencies = examples::latency_histogram();
    let mut failed = 0;
    for (call, slot) in nanos.iter().enumerate() {
        match slot.load(Ordering::Relaxed) {
            FAILED => failed += 1,
            _ if burns(call) => {}
            took => latencies.saturating_record(took),
        }
    }
    let micros = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
    let line = serde_json::json!({
        "calls": count,
        "failed": failed,
        "p50_us": micros(0.5),
        "p99_us": micros(0.99),
        "p999_us": micros(0.999),
        "max_us": latencies.max() as f64 / 1e3,
    });
    println!("{line}");
}
