//! Processor time and percentiles.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use wechat_demo::cluster::Cluster;

/// Percentiles in ms.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Latency {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
    pub(super) max_ms: f64,
}

impl Latency {
    /// Of values in µs.
    pub(super) fn of(micros: &Histogram<u64>) -> Self {
        let at = |quantile| micros.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: micros.max() as f64 / 1e3,
        }
    }

    pub(super) fn words(&self) -> String {
        format!(
            "p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.1} ms",
            self.p50_ms, self.p99_ms, self.p999_ms, self.max_ms
        )
    }
}

/// Processor time used so far: by the cluster's processes, and by this one.
pub(super) fn processor_time(cluster: &Cluster) -> (Duration, Duration) {
    let roles = cluster.layout().roles().into_iter();
    let roles = roles.filter_map(|role| cluster.pid(role));
    let servers = roles.map(|pid| used(&pid.to_string())).sum();
    (servers, used("self"))
}

/// User and system time of a process from /proc; nothing where it has gone.
fn used(process: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th fields after it.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_time() {
        let mut sum = 0_u64;
        while used("self").is_zero() {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert_eq!(used("no-such-process"), Duration::ZERO);
    }
}
