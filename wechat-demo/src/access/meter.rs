//! What is counted about links.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use super::session::Closing;

/// Counters of one access process. They only grow, but for `links`.
#[derive(Debug, Default)]
pub struct Meter {
    /// Links that are open now, authenticated or not.
    pub links: AtomicU64,
    /// Links accepted.
    pub accepted: AtomicU64,
    /// Commands received.
    pub commands: AtomicU64,
    /// Commands answered with a refusal.
    pub refusals: AtomicU64,
    /// Heartbeats received.
    pub beats: AtomicU64,
    /// Notifies put on links.
    pub notifies: AtomicU64,
    /// Lots of signs put on links.
    pub signs: AtomicU64,
    /// Notifies for links that are no longer here.
    pub gone: AtomicU64,
    /// Notifies by the sweep, for terminals that were behind.
    pub healed: AtomicU64,
    /// Ended links, in the order of [`Closing::REASONS`].
    closed: [AtomicU64; Closing::REASONS.len()],
}

impl Meter {
    /// Adds one.
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of a link under its reason.
    pub fn closed(&self, closing: Closing) {
        let reason = Closing::REASONS
            .iter()
            .position(|reason| *reason == closing.reason());
        Self::add(&self.closed[reason.expect("every closing has its reason in the list")]);
    }

    /// How many links ended for `reason`.
    #[must_use]
    pub fn closed_for(&self, reason: &str) -> u64 {
        let index = Closing::REASONS.iter().position(|known| *known == reason);
        index.map_or(0, |index| self.closed[index].load(Ordering::Relaxed))
    }

    /// All counters in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, kind: &str, counter: &AtomicU64| {
            let value = counter.load(Ordering::Relaxed);
            writeln!(
                text,
                "# TYPE wechat_access_{name} {kind}\nwechat_access_{name} {value}"
            )
            .expect("a String takes everything");
        };
        line("links", "gauge", &self.links);
        line("accepted_total", "counter", &self.accepted);
        line("commands_total", "counter", &self.commands);
        line("refusals_total", "counter", &self.refusals);
        line("beats_total", "counter", &self.beats);
        line("notifies_total", "counter", &self.notifies);
        line("signs_total", "counter", &self.signs);
        line("gone_total", "counter", &self.gone);
        line("healed_total", "counter", &self.healed);
        text.push_str("# TYPE wechat_access_closed_total counter\n");
        for (reason, counter) in Closing::REASONS.iter().zip(&self.closed) {
            let value = counter.load(Ordering::Relaxed);
            writeln!(
                text,
                "wechat_access_closed_total{{reason=\"{reason}\"}} {value}"
            )
            .expect("a String takes everything");
        }
        text
    }
}
