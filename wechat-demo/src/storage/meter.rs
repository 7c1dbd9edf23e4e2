//! What a storage process counts, for `/metrics`.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Counters of one process. Those named `…_total` in [`Meter::render`] only grow.
#[derive(Debug, Default)]
pub struct Meter {
    /// Rounds of the committer that did something.
    pub rounds: AtomicU64,
    /// Time the rounds took, in ns.
    pub round_ns: AtomicU64,
    /// Requests answered, refusals included.
    pub requests: AtomicU64,
    /// Requests refused.
    pub refusals: AtomicU64,
    /// Items that became visible.
    pub items: AtomicU64,
    /// Attempts to reach the other copy that failed.
    pub copy_misses: AtomicU64,
    /// Notifies dropped: no room, or access did not answer.
    pub notifies_dropped: AtomicU64,
}

impl Meter {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Notes a round.
    pub fn round(&self, took: Duration, requests: u64, refusals: u64, items: u64) {
        Self::add(&self.rounds, 1);
        Self::add(&self.round_ns, took.as_nanos() as u64);
        Self::add(&self.requests, requests);
        Self::add(&self.refusals, refusals);
        Self::add(&self.items, items);
    }

    /// All of it in Prometheus' text format; beside it whether the process serves, and the epoch and the
    /// members of its view.
    pub fn render(&self, serves: bool, view: Option<(u64, u32)>) -> String {
        let (epoch, copies) = view.unwrap_or_default();
        let mut text = String::new();
        let mut line = |name: &str, kind: &str, value: f64| {
            writeln!(
                text,
                "# TYPE wechat_storage_{name} {kind}\nwechat_storage_{name} {value}"
            )
            .expect("a String takes everything");
        };
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        line("serving", "gauge", f64::from(u8::from(serves)));
        line("epoch", "gauge", epoch as f64);
        line("copies", "gauge", f64::from(copies));
        line("rounds_total", "counter", read(&self.rounds));
        line("round_seconds_total", "counter", read(&self.round_ns) / 1e9);
        line("requests_total", "counter", read(&self.requests));
        line("refusals_total", "counter", read(&self.refusals));
        line("items_total", "counter", read(&self.items));
        line("copy_misses_total", "counter", read(&self.copy_misses));
        line(
            "notifies_dropped_total",
            "counter",
            read(&self.notifies_dropped),
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_type_or_a_sample() {
        let meter = Meter::default();
        meter.round(Duration::from_millis(1500), 3, 1, 2);
        let text = meter.render(true, None);
        assert!(
            text.contains("\nwechat_storage_round_seconds_total 1.5\n"),
            "{text}"
        );
        let good = |line: &str| line.starts_with("# TYPE ") || line.split(' ').count() == 2;
        assert!(text.lines().all(good), "{text}");
    }
}
