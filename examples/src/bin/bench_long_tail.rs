//! The long tail: 1 % of calls keep their worker for 5 ms of processor time; what do the others suffer?
//!
//! Calls are offered by the clock (open loop), whether or not earlier ones have ended, and timed from
//! the moment they were due. Each waits once, so that it has started and belongs to a worker, before it
//! works. Prints one row for each setting of `RuntimeBuilder::rescue_after`; the settings take turns.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use rpc_core::{Runtime, time};

/// Measure what calls suffer from few that burn the processor
#[derive(Parser)]
struct Flags {
    /// Worker threads
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Calls offered in a second
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Seconds each run lasts
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Runs of each setting
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Microseconds after which others are rescued, one setting each; 0 = never
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "0,10000,5000,2000,1000,500"
    )]
    rescue: Vec<u64>,
}

/// What every hundredth call burns.
const BURN: Duration = Duration::from_millis(5);
const LONG_EVERY: usize = 100;
/// What every call waits for before it works.
const WAIT: Duration = Duration::from_micros(200);

/// What one run showed of the calls that do not burn.
struct Outcome {
    /// Milliseconds, sorted.
    latencies: Vec<f64>,
    rescues: u64,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let unit = calibrate();
    let mut settings: Vec<(String, u64, bool)> = vec![("no long calls".into(), 10_000, false)];
    settings.extend(flags.rescue.iter().map(|micros| {
        let name = match micros {
            0 => "never".to_owned(),
            micros => format!("{} ms", *micros as f64 / 1000.0),
        };
        (name, *micros, true)
    }));
    let mut outcomes: Vec<Vec<Outcome>> = settings.iter().map(|_| Vec::new()).collect();
    for _ in 0..flags.rounds {
        for ((_, micros, long), into) in settings.iter().zip(&mut outcomes) {
            let burn = if *long { unit } else { 0 };
            into.push(run(&flags, Duration::from_micros(*micros), burn)?);
        }
    }
    println!("| others are rescued after | p50 ms | p99 ms | p99.9 ms | rescues |");
    println!("|---|---|---|---|---|");
    for ((name, ..), outcomes) in settings.iter().zip(&outcomes) {
        let at = |quantile: f64| {
            let mut of_runs: Vec<f64> = outcomes.iter().map(|o| o.quantile(quantile)).collect();
            of_runs.sort_by(f64::total_cmp);
            let last = of_runs.len() - 1;
            format!(
                "{:.2} ({:.2} to {:.2})",
                of_runs[last / 2],
                of_runs[0],
                of_runs[last]
            )
        };
        let rescues: u64 = outcomes.iter().map(|o| o.rescues).sum();
        let per_run = rescues / outcomes.len() as u64;
        println!(
            "| {name} | {} | {} | {} | {per_run} |",
            at(0.5),
            at(0.99),
            at(0.999)
        );
    }
    Ok(())
}

impl Outcome {
    fn quantile(&self, quantile: f64) -> f64 {
        let rank = (self.latencies.len() as f64 * quantile) as usize;
        self.latencies[rank.min(self.latencies.len() - 1)]
    }
}

/// Offers the load once; `burn` is the work of a long call, in units of [`work`].
fn run(flags: &Flags, rescue_after: Duration, burn: u64) -> Result<Outcome> {
    let runtime = Runtime::builder()
        .workers(flags.workers)
        .rescue_after(rescue_after)
        .report_stalls_after(Duration::ZERO)
        .build()?;
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
                work(burn);
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
    Ok(Outcome {
        latencies,
        rescues: runtime.metrics().rescues,
    })
}

/// Units of [`work`] that take [`BURN`] on a processor of one's own: the fastest of many tries.
fn calibrate() -> u64 {
    const TRY: u64 = 1_000_000;
    let tries = (0..50).map(|_| {
        let start = Instant::now();
        work(TRY);
        start.elapsed()
    });
    let fastest = tries.min().unwrap_or(BURN);
    (BURN.as_nanos() * u128::from(TRY) / fastest.as_nanos().max(1)) as u64
}

fn work(units: u64) {
    for unit in 0..units {
        black_box(unit.wrapping_mul(31));
    }
}
