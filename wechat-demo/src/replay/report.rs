//! What a replay has shown.

use std::time::Duration;

use serde::Serialize;

use super::check::Verdict;

/// What the play itself counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Played {
    /// Lines of the log.
    pub(super) lines: usize,
    pub(super) sent: usize,
    pub(super) acked: usize,
    pub(super) delivered: usize,
    /// From send to applied at the receiver, of every line delivered.
    pub(super) latencies: Vec<Duration>,
    pub(super) took: Duration,
    pub(super) kills: usize,
    pub(super) missed_kills: usize,
    /// Why the play ended before its end.
    pub(super) trouble: Option<String>,
}

/// The result of a replay.
#[derive(Debug)]
pub(super) struct Report {
    played: Played,
    figures: Figures,
    complaints: Vec<String>,
}

/// The last line of `--json`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Figures {
    sent: usize,
    acked: usize,
    delivered: usize,
    lost: usize,
    duplicated: usize,
    reordered: usize,
    kills: usize,
    p50_ms: f64,
    p99_ms: f64,
}

impl Report {
    pub(super) fn new(mut played: Played, verdict: &Verdict<'_>) -> Self {
        played.latencies.sort_unstable();
        let figures = Figures {
            sent: played.sent,
            acked: played.acked,
            delivered: played.delivered,
            lost: verdict.lost(),
            duplicated: verdict.duplicated(),
            reordered: verdict.reordered(),
            kills: played.kills,
            p50_ms: millis(quantile(&played.latencies, 0.50)),
            p99_ms: millis(quantile(&played.latencies, 0.99)),
        };
        Self {
            played,
            figures,
            complaints: verdict.complaints().to_vec(),
        }
    }

    /// Nothing lost, duplicated or reordered, and everything played.
    pub(super) fn is_faultless(&self) -> bool {
        let Figures {
            acked,
            delivered,
            lost,
            duplicated,
            reordered,
            ..
        } = self.figures;
        lost == 0
            && duplicated == 0
            && reordered == 0
            && acked == self.played.lines
            && delivered == self.played.lines
    }

    /// Kills that were asked for and did not happen.
    pub(super) fn missed_kills(&self) -> usize {
        self.played.missed_kills
    }

    /// Prints complaints to standard error and the result to standard output.
    pub(super) fn tell(&self, json: bool) {
        for complaint in &self.complaints {
            eprintln!("{complaint}");
        }
        if let Some(trouble) = &self.played.trouble {
            eprintln!("the play ended early: {trouble}");
        }
        if self.played.missed_kills > 0 {
            eprintln!(
                "{} kills did not happen: the log was over before; this run shows less than it was to show",
                self.played.missed_kills
            );
        }
        if json {
            println!(
                "{}",
                serde_json::to_string(&self.figures).expect("numbers are JSON")
            );
            return;
        }
        let Figures {
            sent,
            acked,
            delivered,
            lost,
            duplicated,
            reordered,
            p50_ms,
            p99_ms,
            kills,
        } = self.figures;
        let seconds = self.played.took.as_secs_f64();
        println!(
            "{sent} lines sent, {acked} acknowledged, {delivered} delivered in {seconds:.1} s ({kills} kills)"
        );
        println!("lost {lost}, duplicated {duplicated}, reordered {reordered}");
        println!("send to applied at the receiver: p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms");
    }
}

/// The value below which a share of sorted values lies; zero when there are none.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

/// Milliseconds with three places.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::super::log::{Line, Log};
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(quantile(&values, 0.50), Duration::from_millis(100));
        assert_eq!(quantile(&values, 0.99), Duration::from_millis(198));
        assert_eq!(quantile(&values[..1], 0.99), Duration::from_millis(1));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn the_json_line_has_exactly_the_promised_fields() {
        let log = Log {
            people: vec![],
            lines: vec![],
        };
        let report = Report::new(Played::default(), &Verdict::new(&log));
        assert_eq!(
            serde_json::to_string(&report.figures).unwrap(),
            r#"{"sent":0,"acked":0,"delivered":0,"lost":0,"duplicated":0,"reordered":0,"kills":0,"p50_ms":0.0,"p99_ms":0.0}"#
        );
        assert!(report.is_faultless());
    }

    #[test]
    fn a_line_that_never_got_through_is_a_fault() {
        let line = Line {
            sender: 0,
            receiver: 1,
            text: String::new(),
        };
        let log = Log {
            people: vec!["a".into(), "b".into()],
            lines: vec![line],
        };
        let played = Played {
            lines: 1,
            sent: 1,
            acked: 1,
            ..Played::default()
        };
        assert!(!Report::new(played, &Verdict::new(&log)).is_faultless());
    }
}
