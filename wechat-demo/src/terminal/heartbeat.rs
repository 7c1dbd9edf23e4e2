//! When to send a heartbeat, and when a silent link counts as dead.
//!
//! Knows:       the interval, when something was last sent, whether a beat is unanswered.
//! Does not know: sockets, the clock (it is told the time), what a beat carries.
//!
//! A dead TCP peer is found by heartbeat, not believed: a link lives as long as its beats are answered
//! within [`ANSWER`], whatever the kernel says.

use std::time::Duration;

use rpc_core::base::time::Instant;

/// Mars' shortest interval, below the shortest NAT time-out that was measured (5 min).
pub const FLOOR: Duration = Duration::from_secs(210);
/// Time for the answer to a beat before the link is given up.
pub const ANSWER: Duration = Duration::from_secs(8);

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing before this time.
    At(Instant),
    /// A beat is to be sent now.
    Beat,
    /// The last beat was not answered in time: the link is dead.
    Dead,
}

/// The state of one link's heartbeat.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    interval: Duration,
    /// When anything was last sent: any data sent restarts the interval, as in Mars.
    sent: Instant,
    /// When the unanswered beat left.
    waiting: Option<Instant>,
}

impl Heartbeat {
    /// A link that came up at `now`, with a beat every `interval` of silence.
    #[must_use]
    pub fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            sent: now,
            waiting: None,
        }
    }

    /// Something other than a beat was sent.
    pub fn sent(&mut self, now: Instant) {
        self.sent = self.sent.max(now);
    }

    /// A beat was sent.
    pub fn beat_sent(&mut self, now: Instant) {
        self.sent(now);
        self.waiting.get_or_insert(now);
    }

    /// The answer came.
    pub fn answered(&mut self) {
        self.waiting = None;
    }

    /// What is due at `now`.
    #[must_use]
    pub fn due(&self, now: Instant) -> Due {
        if let Some(since) = self.waiting {
            let until = since + ANSWER;
            return if now >= until {
                Due::Dead
            } else {
                Due::At(until)
            };
        }
        let next = self.sent + self.interval;
        if now >= next {
            Due::Beat
        } else {
            Due::At(next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_data_sent_puts_the_beat_off() {
        let start = Instant::from_nanos(0);
        let mut heart = Heartbeat::new(FLOOR, start);
        assert_eq!(heart.due(start), Due::At(start + FLOOR));
        let later = start + Duration::from_secs(100);
        heart.sent(later);
        assert_eq!(heart.due(start + FLOOR), Due::At(later + FLOOR));
        assert_eq!(heart.due(later + FLOOR), Due::Beat);
    }

    #[test]
    fn an_unanswered_beat_ends_the_link_and_an_answered_one_does_not() {
        let start = Instant::from_nanos(0);
        let mut heart = Heartbeat::new(FLOOR, start);
        heart.beat_sent(start + FLOOR);
        let limit = start + FLOOR + ANSWER;
        assert_eq!(heart.due(start + FLOOR + ANSWER / 2), Due::At(limit));
        heart.sent(limit);
        assert_eq!(
            heart.due(limit),
            Due::Dead,
            "traffic of ours proves nothing about the peer"
        );
        heart.answered();
        assert_eq!(heart.due(limit), Due::At(limit + FLOOR));
    }
}
