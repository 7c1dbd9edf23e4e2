//! What an edge process counts, for `/metrics`.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

/// Counters of one process; they only grow.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Uploads that became objects.
    pub(super) stored: AtomicU64,
    /// Uploads of what was here already.
    pub(super) instant: AtomicU64,
    /// Uploads that were not what they had said.
    pub(super) refused: AtomicU64,
    /// Bytes that came in.
    pub(super) bytes_in: AtomicU64,
    /// Bytes given out.
    pub(super) bytes_out: AtomicU64,
    /// Requests turned away because too much was under way.
    pub(super) busy: AtomicU64,
    /// Pieces that came from another edge.
    pub(super) fetched: AtomicU64,
    /// Pieces that did not come.
    pub(super) fetch_failed: AtomicU64,
    /// Requests that waited for a fetch that was under way.
    pub(super) joined: AtomicU64,
    /// Pieces that made room for others.
    pub(super) evicted: AtomicU64,
    /// Failures of the disk.
    pub(super) disk_failed: AtomicU64,
}

impl Meter {
    pub(super) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    /// All of it in Prometheus' text format.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        for (name, counter) in [
            ("stored", &self.stored),
            ("instant", &self.instant),
            ("refused", &self.refused),
            ("bytes_in", &self.bytes_in),
            ("bytes_out", &self.bytes_out),
            ("busy", &self.busy),
            ("fetched", &self.fetched),
            ("fetch_failed", &self.fetch_failed),
            ("joined", &self.joined),
            ("evicted", &self.evicted),
            ("disk_failed", &self.disk_failed),
        ] {
            let value = counter.load(Ordering::Relaxed);
            writeln!(
                text,
                "# TYPE wechat_edge_{name}_total counter\nwechat_edge_{name}_total {value}"
            )
            .expect("a String takes everything");
        }
        text
    }
}
