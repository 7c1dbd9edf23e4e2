//! Which figures of a role are shown, and how counts become rates.
//!
//! Knows:       the metrics' names.
//! Does not know: who asks for them, how they look.

use std::time::Duration;

use rpc_core::time::Instant;
use wechat_demo::cluster::{Figures, Role};

/// Messages that logic has taken, per second.
pub(super) const MESSAGES: &str = "messages/s";
/// Notifies that access has put on links, per second.
pub(super) const NOTIFIES: &str = "notifies/s";

/// Over how long a rate is taken.
const SPAN: Duration = Duration::from_secs(1);

/// A figure of a role.
pub(super) struct Shown {
    /// As it is called at the page.
    pub(super) name: &'static str,
    metric: &'static str,
    labels: &'static [&'static str],
    /// It is a count that grows, and shown is how fast.
    pub(super) is_rate: bool,
    /// Among storage processes only the primary does what it tells of.
    pub(super) is_of_primary: bool,
}

impl Shown {
    const fn gauge(name: &'static str, metric: &'static str) -> Self {
        Self {
            name,
            metric,
            labels: &[],
            is_rate: false,
            is_of_primary: false,
        }
    }

    const fn rate(
        name: &'static str,
        metric: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            metric,
            labels,
            is_rate: true,
            is_of_primary: false,
        }
    }

    const fn of_primary(self) -> Self {
        Self {
            is_of_primary: true,
            ..self
        }
    }

    /// The count or the gauge, if the role has it.
    pub(super) fn read(&self, figures: &Figures) -> Option<f64> {
        figures.sum(self.metric, self.labels)
    }
}

const CALLS: Shown = Shown::rate("calls/s", "rpc_server_calls_total", &[]);

/// What is shown of a role.
pub(super) fn shown(role: Role) -> impl Iterator<Item = &'static Shown> {
    const ACCESS: &[Shown] = &[
        Shown::gauge("links", "wechat_access_links"),
        Shown::rate(NOTIFIES, "wechat_access_notifies_total", &[]),
    ];
    const SENT: &[&str] = &["method=\"Send\"", "outcome=\"answered\""];
    const LOGIC: &[Shown] = &[Shown::rate(MESSAGES, "rpc_server_calls_total", SENT), CALLS];
    const STORAGE: &[Shown] = &[
        Shown::gauge("log entries", "wechat_storage_log_entries"),
        Shown::rate("commits/s", "wechat_storage_rounds_total", &[]).of_primary(),
        Shown::gauge("requests waiting", "wechat_storage_requests_waiting").of_primary(),
        Shown::gauge("tasks waiting", "wechat_storage_tasks_waiting").of_primary(),
    ];
    const DISPATCH: &[Shown] = &[
        Shown::gauge("access points", "wechat_dispatch_points"),
        CALLS,
    ];
    const EDGE: &[Shown] = &[
        Shown::gauge("stored", "wechat_edge_stored_total"),
        Shown::rate("bytes in/s", "wechat_edge_bytes_in_total", &[]),
        Shown::rate("bytes out/s", "wechat_edge_bytes_out_total", &[]),
    ];
    const PUSH: &[Shown] = &[
        Shown::gauge("delivered", "wechat_push_delivered_total"),
        Shown::gauge("given up", "wechat_push_given_up_total"),
    ];
    const COORDINATOR: &[Shown] = &[CALLS];
    let list = match role {
        Role::Access => ACCESS,
        Role::Logic => LOGIC,
        Role::Storage1 | Role::Storage2 | Role::Storage3 | Role::Follower => STORAGE,
        Role::Dispatch => DISPATCH,
        Role::Edge => EDGE,
        Role::Push => PUSH,
        Role::Coordinator => COORDINATOR,
    };
    list.iter()
}

/// A growing count as a rate over the last second or so.
#[derive(Default)]
pub(super) struct Rate {
    /// The count a while ago, and when that was.
    base: Option<(f64, Instant)>,
    shown: f64,
}

impl Rate {
    /// The count is this now.
    pub(super) fn note(&mut self, count: f64, now: Instant) {
        match self.base {
            Some((before, since)) if now - since >= SPAN => {
                // A process that was started again counts from 0.
                self.shown = (count - before).max(0.0) / (now - since).as_secs_f64();
                self.base = Some((count, now));
            }
            Some(_) => {}
            None => self.base = Some((count, now)),
        }
    }

    /// Per second.
    pub(super) fn shown(&self) -> f64 {
        self.shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_taken_over_a_second_and_survives_a_restart_of_the_counter() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let mut rate = Rate::default();
        let mut of = |count: f64, ms: u64| {
            rate.note(count, at(ms));
            rate.shown()
        };
        assert_eq!(of(100.0, 0), 0.0);
        assert_eq!(of(150.0, 500), 0.0);
        assert_eq!(of(300.0, 2_000), 100.0);
        assert_eq!(of(0.0, 3_000), 0.0);
        assert_eq!(of(50.0, 4_000), 50.0);
    }
}
