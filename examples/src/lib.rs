//! What the example programs share: one-line errors, a latency table, the memory held.
//!
//! Knows: the command line, the terminal.   Does not know: any one example.

pub mod counting;
pub mod interop;

use std::fmt::Display;
use std::hint::black_box;
use std::process::exit;
use std::time::Instant;

use clap::Parser;
use clap::error::ErrorKind;
use hdrhistogram::Histogram;

/// Parses the command line. `--help` and `--version` print and end the program with status 0;
/// a wrong flag ends it with status 2 and one line on standard error.
pub fn parse_flags<T: Parser>() -> T {
    T::try_parse().unwrap_or_else(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            print!("{error}");
            exit(0);
        }
        _ => {
            let text = error.to_string();
            // clap lists the missing arguments on the lines that follow its first.
            let said: Vec<&str> = text
                .lines()
                .map(str::trim)
                .take_while(|line| !line.starts_with("Usage:"))
                .filter(|line| !line.is_empty())
                .collect();
            eprintln!("{} (--help shows the flags)", said.join(" "));
            exit(2);
        }
    })
}

/// Ends the program with status 1 and one line on standard error.
pub fn fail(what: impl Display) -> ! {
    eprintln!("error: {what}");
    exit(1);
}

/// A histogram of call latencies in nanoseconds, from 100 ns to one minute, three digits.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(100, 60_000_000_000, 3).expect("the bounds are valid")
}

/// The latency table that the clients print: percentile and microseconds, one a line.
pub fn latency_table(latencies: &Histogram<u64>) -> String {
    let rows = [
        ("p50", 0.50),
        ("p90", 0.90),
        ("p99", 0.99),
        ("p99.9", 0.999),
        ("max", 1.0),
    ];
    let mut table = String::new();
    for (name, quantile) in rows {
        let micros = latencies.value_at_quantile(quantile) as f64 / 1e3;
        table.push_str(&format!("{name:>6} {micros:>12.1} us\n"));
    }
    table
}

/// Bytes this process holds: resident pages and page tables (VmRSS + VmPTE).
pub fn memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status
        .lines()
        .filter(|l| l.starts_with("VmRSS:") || l.starts_with("VmPTE:"));
    held.filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum::<u64>()
        * 1024
}

/// The message that asks `bench_echo_server` and `tonic_echo_server` to burn.
pub const BURN: &str = "burn";

/// Microseconds that such a call burns.
pub const BURN_TIME: u64 = 5000;

/// The message that the benchmarks' servers answer with their [`figures`].
pub const FIGURES: &str = "figures";

/// What a server answers to [`FIGURES`]: its allocations so far, and how many calls waited at once at most.
pub fn figures(most_waiting: u64) -> String {
    let allocations = counting::allocations();
    serde_json::json!({ "allocations": allocations, "most_waiting": most_waiting }).to_string()
}

/// Units of [`work`] that take so many microseconds on a processor of one's own: by the fastest of many
/// tries.
pub fn units(micros: u64) -> u64 {
    const TRY: u64 = 1_000_000;
    let tries = (0..50).map(|_| {
        let start = Instant::now();
        work(TRY);
        start.elapsed()
    });
    let fastest = tries.min().unwrap_or_default().as_nanos().max(1);
    (u128::from(micros) * 1000 * u128::from(TRY) / fastest) as u64
}

/// Keeps the processor busy.
pub fn work(units: u64) {
    for unit in 0..units {
        black_box(unit.wrapping_mul(31));
    }
}
