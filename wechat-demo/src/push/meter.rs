//! What a push process counts, for `/metrics`.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

/// Counters of one process; they only grow.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Pushes that the service took.
    pub(super) delivered: AtomicU64,
    /// Attempts that are made again later.
    pub(super) again: AtomicU64,
    /// Pushes given up after too many attempts.
    pub(super) given_up: AtomicU64,
    /// Pushes that the service will never take.
    pub(super) refused: AtomicU64,
    /// Tokens that were good no longer.
    pub(super) gone: AtomicU64,
    /// Connections opened.
    pub(super) connections: AtomicU64,
    /// Connections that could not be opened, or broke.
    pub(super) broken: AtomicU64,
    /// Batches whose outcome the store could not be told; they are sent again.
    pub(super) unsettled: AtomicU64,
}

impl Meter {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// All of it in Prometheus' text format.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        for (name, counter) in [
            ("delivered", &self.delivered),
            ("again", &self.again),
            ("given_up", &self.given_up),
            ("refused", &self.refused),
            ("tokens_gone", &self.gone),
            ("connections", &self.connections),
            ("connections_broken", &self.broken),
            ("batches_unsettled", &self.unsettled),
        ] {
            let value = counter.load(Ordering::Relaxed);
            writeln!(
                text,
                "# TYPE wechat_push_{name}_total counter\nwechat_push_{name}_total {value}"
            )
            .expect("a String takes everything");
        }
        text
    }
}
