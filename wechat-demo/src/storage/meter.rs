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
    /// Gauge: entries in this copy's logs since the store began, all shards together.
    pub log_entries: AtomicU64,
    /// Gauge: tasks on streams whose effects are still to be committed.
    pub tasks_waiting: AtomicU64,
}

/// What a process knows of itself at the moment, beside what it counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// It is primary and holds its lease.
    pub serves: bool,
    /// The epoch and the members of its view.
    pub view: Option<(u64, u32)>,
    /// What it is in its view: `primary`, `backup`, `follower`, `spare`; empty while it knows none.
    pub standing: &'static str,
    /// Requests that wait for the committer.
    pub requests_waiting: usize,
}

impl Meter {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets a gauge.
    pub fn set(gauge: &AtomicU64, n: u64) {
        gauge.store(n, Ordering::Relaxed);
    }

    /// Notes a round.
    pub fn round(&self, took: Duration, requests: u64, refusals: u64, items: u64) {
        Self::add(&self.rounds, 1);
        Self::add(&self.round_ns, took.as_nanos() as u64);
        Self::add(&self.requests, requests);
        Self::add(&self.refusals, refusals);
        Self::add(&self.items, items);
    }

    /// All of it in Prometheus' text format, beside what is so `now`.
    pub fn render(&self, now: Now) -> String {
        let (epoch, copies) = now.view.unwrap_or_default();
        let mut text = String::new();
        let mut line = |name: &str, kind: &str, value: f64| {
            writeln!(
                text,
                "# TYPE wechat_storage_{name} {kind}\nwechat_storage_{name} {value}"
            )
            .expect("a String takes everything");
        };
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        line("serving", "gauge", f64::from(u8::from(now.serves)));
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
        line("log_entries", "gauge", read(&self.log_entries));
        line("tasks_waiting", "gauge", read(&self.tasks_waiting));
        line("requests_waiting", "gauge", now.requests_waiting as f64);
        if !now.standing.is_empty() {
            writeln!(
                text,
                "# TYPE wechat_storage_standing gauge\nwechat_storage_standing{{as=\"{}\"}} 1",
                now.standing
            )
            .expect("a String takes everything");
        }
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
        let text = meter.render(Now {
            standing: "backup",
            ..Now::default()
        });
        assert!(
            text.ends_with("\nwechat_storage_standing{as=\"backup\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("\nwechat_storage_round_seconds_total 1.5\n"),
            "{text}"
        );
        let good = |line: &str| line.starts_with("# TYPE ") || line.split(' ').count() == 2;
        assert!(text.lines().all(good), "{text}");
    }
}
