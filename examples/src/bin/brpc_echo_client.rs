//! Calls brpc's `example.EchoService`, served by `brpc_echo` or by a real brpc server.
//!
//! With `--count` above 1 it keeps `--inflight` calls going on one connection and prints the rate and
//! a latency table.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use hdrhistogram::Histogram;
use rpc_core::{CallOptions, Channel, Request, Response, Status};

rpc_core::include_proto!("example");

/// Call brpc's example.EchoService
#[derive(Parser, Clone)]
struct Flags {
    /// The server
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000")]
    addr: String,
    /// What to send
    #[arg(long, default_value = "hello world")]
    message: String,
    /// Bytes that travel beside the message
    #[arg(long, default_value = "")]
    attachment: String,
    /// Send a CRC-32C of the message
    #[arg(long)]
    checksum: bool,
    /// How long one call may take
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    timeout_ms: u64,
    /// How many calls to make in all
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// How many calls to have in flight at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    inflight: u64,
}

#[rpc_core::main]
fn main() {
    let flags: Flags = examples::parse_flags();
    let channel = Channel::builder(&flags.addr)
        .deadline(Duration::from_millis(flags.timeout_ms))
        .connect()
        .unwrap_or_else(|error| examples::fail(error));
    let client = EchoServiceClient::new(channel);
    if flags.count == 1 {
        once(&client, &flags);
    } else {
        many(&client, &flags);
    }
}

/// One call, its answer in full.
fn once(client: &EchoServiceClient, flags: &Flags) {
    let started = Instant::now();
    let response = match call(client, flags, 0) {
        Ok(response) => response,
        Err(status) => examples::fail(status),
    };
    println!("message: {}", response.message);
    if !response.attachment().is_empty() {
        println!("attachment: {}", response.attachment().escape_ascii());
    }
    println!("took {:?}", started.elapsed());
}

/// What the callers saw.
struct Seen {
    latencies: Histogram<u64>,
    failed: u64,
    first_failure: Option<Status>,
}

/// `count` calls by `inflight` coroutines that take turns at a common counter.
fn many(client: &EchoServiceClient, flags: &Flags) {
    let next = Arc::new(AtomicU64::new(0));
    let seen = Arc::new(Mutex::new(Seen {
        latencies: examples::latency_histogram(),
        failed: 0,
        first_failure: None,
    }));
    let started = Instant::now();
    let callers: Vec<_> = (0..flags.inflight.min(flags.count))
        .map(|_| {
            let (client, flags) = (client.clone(), flags.clone());
            let (next, seen) = (next.clone(), seen.clone());
            rpc_core::spawn(move || run_caller(&client, &flags, &next, &seen))
        })
        .collect();
    for caller in callers {
        if let Err(error) = caller.join() {
            examples::fail(format_args!("a caller ended early: {error}"));
        }
    }
    let took = started.elapsed();
    let seen = locked(&seen);
    let rate = flags.count as f64 / took.as_secs_f64();
    println!(
        "{} calls in {took:.3?}: {rate:.0} calls/s, {} failed",
        flags.count, seen.failed
    );
    print!("{}", examples::latency_table(&seen.latencies));
    if let Some(first) = &seen.first_failure {
        examples::fail(format_args!(
            "{} calls failed, the first with: {first}",
            seen.failed
        ));
    }
}

fn run_caller(client: &EchoServiceClient, flags: &Flags, next: &AtomicU64, seen: &Mutex<Seen>) {
    loop {
        // Relaxed: the counter only hands out numbers, it guards no other memory.
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= flags.count {
            return;
        }
        let started = Instant::now();
        let result = call(client, flags, number);
        let nanos = started.elapsed().as_nanos() as u64;
        let mut seen = locked(seen);
        match result {
            Ok(_) => seen.latencies.saturating_record(nanos),
            Err(status) => {
                seen.failed += 1;
                seen.first_failure.get_or_insert(status);
            }
        }
    }
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn call(
    client: &EchoServiceClient,
    flags: &Flags,
    number: u64,
) -> Result<Response<EchoResponse>, Status> {
    let mut request = Request::new(EchoRequest {
        message: flags.message.clone(),
    });
    request.set_attachment(Bytes::copy_from_slice(flags.attachment.as_bytes()));
    request.set_log_id(number as i64);
    client.echo_with(request, CallOptions::new().checksum(flags.checksum))
}
