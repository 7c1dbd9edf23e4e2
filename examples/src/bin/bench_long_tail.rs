//! The long tail: 1 % of calls keep their worker for 5 ms of processor time; what do the others suffer?
//! `cargo xtask bench runtime` runs it with several settings of `RuntimeBuilder::rescue_after`.
//!
//! Calls are offered by the clock (open loop), whether or not earlier ones have ended, and timed from
//! the moment they were due. Each waits once, so that it has started and belongs to a worker, before it
//! works. The last line is one JSON object.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use rpc_core::{Runtime, time};

/// Measure what calls suffer from few that burn the processor; one JSON line
#[derive(Parser)]
struct Flags {
    /// Worker threads
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Calls offered in a second
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Seconds the run lasts
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Microseconds of processor time that every hundredth call burns
    #[arg(long, default_value_t = 5000)]
    burn: u64,
    /// Microseconds after which others are rescued; 0 = never
    #[arg(long, default_value_t = 10_000)]
    rescue: u64,
}

const LONG_EVERY: usize = 100;
/// What every call waits for before it works.
const WAIT: Duration = Duration::from_micros(200);

fn main() -> Result<()> {
    let flags = Flags::parse();
    let burn = if flags.burn == 0 {
        0
    } else {
        examples::units(flags.burn)
    };
    let runtime = Runtime::builder()
        .workers(flags.workers)
        .rescue_after(Duration::from_micros(flags.rescue))
        .report_stalls_after(Duration::ZERO)
        .build()?;
    let latencies = run(&flags, &runtime, burn);
    let at = |quantile: f64| {
        let rank = (latencies.len() as f64 * quantile) as usize;
        latencies[rank.min(latencies.len() - 1)]
    };
    println!(
        "{{\"p50_ms\":{:.4},\"p99_ms\":{:.4},\"p999_ms\":{:.4},\"rescues\":{}}}",
        at(0.5),
        at(0.99),
        at(0.999),
        runtime.metrics().rescues
    );
    Ok(())
}

/// Offers the load; milliseconds of the calls that do not burn, sorted. A long call burns so many units of
/// [`examples::work`].
fn run(flags: &Flags, runtime: &Runtime, burn: u64) -> Vec<f64> {
    let handle = runtime.handle();
    let count = (flags.rate * flags.seconds) as usize;
    let nanos: Arc<Vec<AtomicU64>> = Arc::new((0..count).map(|_| AtomicU64::new(0)).collect());
    let ended = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    for i in 0..count {
        let due = start + Duration::from_nanos(i as u64 * 1_000_000_000 / flags.rate);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let (nanos, ended) = (Arc::clone(&nanos), Arc::clone(&ended));
        drop(handle.spawn(move || {
            time::sleep(WAIT);
            if i % LONG_EVERY == 0 {
                examples::work(burn);
            }
            nanos[i].store(due.elapsed().as_nanos() as u64, Ordering::Relaxed);
            ended.fetch_add(1, Ordering::Release);
        }));
    }
    while ended.load(Ordering::Acquire) < count {
        thread::sleep(Duration::from_millis(1));
    }
    let others = nanos
        .iter()
        .enumerate()
        .filter(|(i, _)| i % LONG_EVERY != 0);
    let mut latencies: Vec<f64> = others
        .map(|(_, nanos)| nanos.load(Ordering::Relaxed) as f64 / 1e6)
        .collect();
    latencies.sort_by(f64::total_cmp);
    latencies
}
