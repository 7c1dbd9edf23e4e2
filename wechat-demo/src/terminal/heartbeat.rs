//! When to send a heartbeat, and when a silent link counts as dead.
//!
//! Knows:       the interval, when something was last sent, whether a beat is unanswered, pauses to be filled.
//! Does not know: sockets, the clock (it is told the time), what a beat carries.
//!
//! A dead TCP peer is found by heartbeat, not believed: a link lives as long as its beats are answered
//! within [`ANSWER`], whatever the kernel says.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc_core::base::time::Instant;

use super::adaptive::{Adaptive, Intervals, Outcome};
use super::signalling::Keeper;

/// Time for the answer to a beat before the link is given up.
pub const ANSWER: Duration = Duration::from_secs(8);

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing before this time.
    At(Instant),
    /// A beat is to be sent now.
    Beat,
    /// A packet that keeps the radio's channel is to be sent now.
    Signal,
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
    /// `None`: pauses stay empty.
    keeper: Option<Keeper>,
}

/// How a terminal chooses its intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beats {
    /// After this much silence, always.
    Fixed(Duration),
    /// Learned per network; Mars' intervals divided by `scale`.
    Adaptive {
        /// 1 = Mars' own.
        scale: u32,
    },
}

/// What the links of one terminal, one after the other, learn about beats.
#[derive(Debug)]
pub struct Rhythm {
    beats: Beats,
    adaptive: Mutex<Adaptive>,
    /// Somebody uses the terminal.
    active: AtomicBool,
}

impl Rhythm {
    /// Nothing is known yet; `active`: somebody uses the terminal.
    #[must_use]
    pub fn new(beats: Beats, active: bool, now: Instant) -> Self {
        let scale = match beats {
            Beats::Fixed(_) => 1,
            Beats::Adaptive { scale } => scale,
        };
        Self {
            beats,
            adaptive: Mutex::new(Adaptive::new(Intervals::scaled(scale), now)),
            active: AtomicBool::new(active),
        }
    }

    /// Whether somebody uses the terminal.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// Somebody begins or ceases to use the terminal. Counts from the next beat on.
    pub fn set_active(&self, active: bool) {
        self.active.store(active, Ordering::Release);
    }

    /// A link is up: the silence until its first beat.
    pub fn linked(&self) -> Duration {
        let mut adaptive = self.adaptive();
        adaptive.linked();
        self.next(&mut adaptive)
    }

    /// A beat left.
    pub fn sent(&self) {
        self.adaptive().sent();
    }

    /// What became of the beat: the silence until the next.
    pub fn ended(&self, outcome: Outcome, now: Instant) -> Duration {
        let mut adaptive = self.adaptive();
        if adaptive.ended(outcome, now) {
            tracing::warn!("heartbeats fail one after the other: the network is bad");
        }
        self.next(&mut adaptive)
    }

    fn next(&self, adaptive: &mut Adaptive) -> Duration {
        match self.beats {
            Beats::Fixed(interval) => interval,
            Beats::Adaptive { .. } => adaptive.next(self.is_active()),
        }
    }

    fn adaptive(&self) -> MutexGuard<'_, Adaptive> {
        self.adaptive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heartbeat {
    /// A link that came up at `now`, with a beat every `interval` of silence.
    #[must_use]
    pub fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            sent: now,
            waiting: None,
            keeper: None,
        }
    }

    /// Fills the pauses of bursts.
    #[must_use]
    pub fn keeping_signal(mut self, keep: bool) -> Self {
        self.keeper = keep.then(|| Keeper::new(self.sent));
        self
    }

    /// The silence until the next beat is this from now on.
    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    /// Something other than a beat was sent.
    pub fn sent(&mut self, now: Instant) {
        self.sent = self.sent.max(now);
        self.moved(now);
    }

    /// What was sent is part of an interaction.
    pub fn interacted(&mut self, now: Instant) {
        if let Some(keeper) = &mut self.keeper {
            keeper.keep(now);
        }
    }

    /// Something came, or left.
    pub fn moved(&mut self, now: Instant) {
        if let Some(keeper) = &mut self.keeper {
            keeper.moved(now);
        }
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
            return Due::Beat;
        }
        match self.keeper.as_ref().and_then(Keeper::due) {
            Some(signal) if now >= signal => Due::Signal,
            Some(signal) => Due::At(next.min(signal)),
            None => Due::At(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: Duration = Duration::from_secs(210);

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
    fn a_burst_is_kept_by_signals_and_a_beat_goes_before_them() {
        let at = |s: u64| Instant::from_nanos(s * 1_000_000_000);
        let mut heart = Heartbeat::new(Duration::from_secs(8), at(0)).keeping_signal(true);
        assert_eq!(heart.due(at(0)), Due::At(at(8)));
        heart.sent(at(1));
        heart.interacted(at(1));
        assert_eq!(heart.due(at(2)), Due::At(at(6)));
        assert_eq!(heart.due(at(6)), Due::Signal);
        heart.moved(at(4));
        assert_eq!(heart.due(at(6)), Due::At(at(9)));
        assert_eq!(heart.due(at(9)), Due::Beat);
    }

    #[test]
    fn a_fixed_rhythm_learns_nothing_and_an_adaptive_one_waits_until_nobody_looks() {
        let now = Instant::from_nanos(0);
        let fixed = Rhythm::new(Beats::Fixed(Duration::from_secs(9)), true, now);
        assert_eq!(fixed.linked(), Duration::from_secs(9));
        let rhythm = Rhythm::new(Beats::Adaptive { scale: 10 }, true, now);
        assert_eq!(rhythm.linked(), FLOOR / 10);
        let beat = || {
            rhythm.sent();
            rhythm.ended(Outcome::Answered, now)
        };
        assert!((0..40).all(|_| beat() == FLOOR / 10));
        rhythm.set_active(false);
        assert!((0..40).any(|_| {
            rhythm.sent();
            rhythm.ended(Outcome::Answered, now) > FLOOR / 10
        }));
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
