//! How long a silent link may go without a heartbeat, learned per network.
//!
//! Knows:       Mars' state machine: short beats prove a new link, then the interval climbs until beats fail.
//! Does not know: sockets, the clock (it is told the time), who sends the beats.
//!
//! ```text
//!  proving (3 beats at the floor) ─▶ climbing: 5 beats that hold, then +60 s ─▶ settled
//!                                       │ two failures: −80 s ────────────────▶    │ 7 days: +20 s, climbing
//!                                       └◀── two failures: back to the floor ──────┘
//! ```
//! A network's middle boxes forget a silent connection after a time that nobody tells; a beat that comes later
//! is not answered. So an interval is good if beats at it are answered, and what was learned is kept per
//! network. The constants and the rules are Mars' (`smart_heartbeat.cc`), told in our own words.
//!
//! Invariants
//! - H-1  No interval is below the floor or above the cap.
//! - H-2  Whatever failed, a link that is answered climbs again: at the latest after a week.
//! - H-3  While the terminal is in use the interval is the floor: an answer matters more than the battery.

use std::time::Duration;

use rpc_core::base::time::Instant;

/// Beats at the floor that prove a new link.
const PROOFS: u32 = 3;
/// Beats that hold before the interval grows.
const SUCCESSES: u32 = 5;
/// Beats that fail before it shrinks.
const FAILURES: u32 = 2;
/// Beats in a row at the floor that fail before the network counts as bad.
const BAD_NETWORK: u32 = 6;
/// A settled interval is tried a little longer after this time.
const REPROBE: Duration = Duration::from_secs(7 * 24 * 3600);
/// An alarm this late was put off by a sleeping system.
const LATE: Duration = Duration::from_secs(20);
/// Networks remembered; the one longest unchanged goes first.
const NETWORKS: usize = 20;

/// Mars' intervals, or a fraction of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    /// Never more often than this.
    pub floor: Duration,
    /// Never less often than this.
    pub cap: Duration,
    /// The interval grows by this.
    pub step: Duration,
    /// Distance kept from what failed, and the step of a later try.
    pub margin: Duration,
}

impl Intervals {
    /// 210 s to 580 s in steps of 60 s with a margin of 20 s, all divided by `scale` (at least 1).
    #[must_use]
    pub fn scaled(scale: u32) -> Self {
        let seconds = |seconds| Duration::from_secs(seconds) / scale.max(1);
        Self {
            floor: seconds(210),
            cap: seconds(580),
            step: seconds(60),
            margin: seconds(20),
        }
    }
}

/// What became of a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer came.
    Answered,
    /// It did not come in time.
    TimedOut,
    /// The link ended while it was awaited.
    LinkLost,
}

/// What is known of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    network: String,
    interval: Duration,
    /// The interval was found, not just tried.
    settled: bool,
    successes: u32,
    failures: u32,
    /// Failures in a row at the floor.
    floor_failures: u32,
    changed: Instant,
}

/// The state machine of one terminal.
#[derive(Clone, Debug)]
pub struct Adaptive {
    intervals: Intervals,
    /// At most [`NETWORKS`]; never empty.
    records: Vec<Record>,
    /// Index of the network that the terminal is on.
    at: usize,
    /// Beats answered on this link.
    answered: u32,
    /// The interval of the beat before the last.
    before: Duration,
    /// The interval of the beat that is due or awaited.
    last: Duration,
    /// That beat only proves the link.
    proving: bool,
    waiting: bool,
    /// Alarms that came late, and those that did not; each takes one off the other.
    late: u32,
    punctual: u32,
}

impl Adaptive {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(intervals: Intervals, now: Instant) -> Self {
        let mut this = Self {
            intervals,
            records: Vec::new(),
            at: 0,
            answered: 0,
            before: intervals.floor,
            last: intervals.floor,
            proving: true,
            waiting: false,
            late: 0,
            punctual: 0,
        };
        this.on_network("", now);
        this
    }

    /// The terminal is on the network of this name.
    pub fn on_network(&mut self, network: &str, now: Instant) {
        if let Some(at) = self.records.iter().position(|r| r.network == network) {
            self.at = at;
            return;
        }
        if self.records.len() >= NETWORKS {
            let oldest = self
                .records
                .iter()
                .enumerate()
                .min_by_key(|(_, r)| r.changed);
            let (oldest, _) = oldest.expect("the list is full");
            self.records.remove(oldest);
        }
        self.at = self.records.len();
        self.records.push(Record {
            network: network.to_owned(),
            interval: self.intervals.floor,
            settled: false,
            successes: 0,
            failures: 0,
            floor_failures: 0,
            changed: now,
        });
    }

    /// A new link is up.
    pub fn linked(&mut self) {
        self.answered = 0;
        self.before = self.intervals.floor;
        self.last = self.intervals.floor;
        self.waiting = false;
    }

    /// The silence until the next beat; `active` while somebody uses the terminal.
    pub fn next(&mut self, active: bool) -> Duration {
        self.proving = active || self.answered < PROOFS;
        self.before = self.last;
        self.last = match self.proving {
            true => self.intervals.floor,
            false => self.record().interval,
        };
        self.last
    }

    /// The beat left.
    pub fn sent(&mut self) {
        self.waiting = true;
    }

    /// An alarm for a beat rang `late` by so much, on a mobile network with nobody using the terminal: a
    /// system that sleeps rings when it pleases, and steps of a minute mean nothing there.
    pub fn rang(&mut self, late: Duration) {
        if late >= LATE {
            self.late += 1;
            self.punctual = self.punctual.saturating_sub(1);
        } else {
            self.punctual += 1;
            self.late = self.late.saturating_sub(1);
        }
    }

    /// What became of the beat that was sent; true if the network looks bad. Without one it means nothing.
    pub fn ended(&mut self, outcome: Outcome, now: Instant) -> bool {
        if !std::mem::take(&mut self.waiting) {
            return false;
        }
        let ok = outcome == Outcome::Answered;
        self.answered += u32::from(ok);
        if self.proving {
            let record = &mut self.records[self.at];
            record.floor_failures = if ok { 0 } else { record.floor_failures + 1 };
            if record.floor_failures >= BAD_NETWORK {
                record.floor_failures = 0;
                return true;
            }
            return false;
        }
        let (same, dozing, intervals) = (self.last == self.before, self.dozes(), self.intervals);
        let record = &mut self.records[self.at];
        if ok {
            record.held(same, dozing, intervals, now);
        } else {
            record.failed(dozing, intervals, now);
        }
        false
    }

    /// The interval that was found for this network, if it was.
    #[must_use]
    pub fn settled(&self) -> Option<Duration> {
        let record = self.record();
        record.settled.then_some(record.interval)
    }

    fn dozes(&self) -> bool {
        self.late >= 2 && self.late > 2 * self.punctual
    }

    fn record(&self) -> &Record {
        &self.records[self.at]
    }
}

impl Record {
    /// A beat at the interval was answered; `same` if the one before it had the same interval.
    fn held(&mut self, same: bool, dozing: bool, intervals: Intervals, now: Instant) {
        self.failures = 0;
        if self.settled {
            if self.interval < intervals.cap && now.saturating_since(self.changed) >= REPROBE {
                self.change(self.interval + intervals.margin, false, intervals, now);
            }
            return;
        }
        self.successes += u32::from(same);
        if self.successes < SUCCESSES {
            return;
        }
        if self.interval >= intervals.cap {
            self.change(intervals.cap, true, intervals, now);
        } else {
            let next = match dozing {
                true => intervals.cap,
                false => self.interval + intervals.step,
            };
            self.change(next, false, intervals, now);
        }
    }

    fn failed(&mut self, dozing: bool, intervals: Intervals, now: Instant) {
        self.successes = 0;
        self.failures += 1;
        if self.interval == intervals.floor || self.failures < FAILURES {
            return;
        }
        let back = intervals.step + intervals.margin;
        match self.settled {
            // It held once and no longer does: everything anew.
            true => self.change(intervals.floor, false, intervals, now),
            false if dozing => self.change(intervals.floor, true, intervals, now),
            false => self.change(self.interval.saturating_sub(back), true, intervals, now),
        }
    }

    fn change(&mut self, interval: Duration, settled: bool, intervals: Intervals, now: Instant) {
        self.interval = interval.clamp(intervals.floor, intervals.cap);
        self.settled = settled;
        self.successes = 0;
        self.failures = 0;
        self.changed = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network whose middle boxes forget a connection that was silent for `nat`, on virtual time.
    struct Network {
        adaptive: Adaptive,
        now: Instant,
        nat: Duration,
        linked: bool,
    }

    impl Network {
        fn new(nat_s: u64) -> Self {
            let now = Instant::from_nanos(0);
            Self {
                adaptive: Adaptive::new(Intervals::scaled(1), now),
                now,
                nat: Duration::from_secs(nat_s),
                linked: false,
            }
        }

        /// One beat on a link that is made first where there is none; the interval.
        fn beat(&mut self) -> Duration {
            if !std::mem::replace(&mut self.linked, true) {
                self.adaptive.linked();
            }
            let interval = self.adaptive.next(false);
            self.now = self.now + interval;
            self.adaptive.sent();
            let outcome = if interval < self.nat {
                Outcome::Answered
            } else {
                self.linked = false;
                Outcome::TimedOut
            };
            self.adaptive.ended(outcome, self.now);
            interval
        }

        fn settle(&mut self) -> Duration {
            for _ in 0..200 {
                self.beat();
                if let Some(found) = self.adaptive.settled() {
                    return found;
                }
            }
            panic!("it never settled for {:?}", self.nat);
        }
    }

    #[test]
    fn it_settles_below_what_the_network_forgets() {
        for (nat, found) in [
            (300, 250),
            (400, 370),
            (480, 430),
            (540, 490),
            (600, 580),
            (9_000, 580),
        ] {
            assert_eq!(
                Network::new(nat).settle(),
                Duration::from_secs(found),
                "NAT {nat} s"
            );
        }
    }

    #[test]
    fn it_never_beats_faster_than_its_floor_nor_slower_than_its_cap() {
        let intervals = Intervals::scaled(1);
        for nat in [30, 209, 211, 280, 333, 580, 581, 700] {
            let mut network = Network::new(nat);
            for _ in 0..2_000 {
                let interval = network.beat();
                assert!(
                    (intervals.floor..=intervals.cap).contains(&interval),
                    "NAT {nat} s"
                );
            }
        }
    }

    #[test]
    fn a_network_that_forgets_sooner_than_it_did_is_learned_anew() {
        let mut network = Network::new(600);
        network.settle();
        network.nat = Duration::from_secs(300);
        while network.adaptive.settled().is_some() {
            network.beat();
        }
        assert_eq!(network.settle(), Duration::from_secs(250));
    }

    #[test]
    fn a_settled_interval_is_tried_a_little_longer_every_week() {
        let mut network = Network::new(400);
        assert_eq!(network.settle(), Duration::from_secs(370));
        network.nat = Duration::from_secs(900);
        let start = network.now;
        while network.adaptive.settled() != Some(Duration::from_secs(580)) {
            network.beat();
            assert!(
                network.now - start < 30 * REPROBE,
                "it comes back in the end"
            );
        }
        assert!(network.now - start >= REPROBE);
    }

    #[test]
    fn what_was_learned_on_one_network_is_not_used_on_another_and_comes_back() {
        let mut network = Network::new(600);
        let found = network.settle();
        let now = network.now;
        network.adaptive.on_network("elsewhere", now);
        assert_eq!(network.adaptive.settled(), None);
        for other in 0..NETWORKS {
            network
                .adaptive
                .on_network(&other.to_string(), now + Duration::from_secs(1));
        }
        assert!(network.adaptive.records.len() <= NETWORKS);
        network.adaptive.on_network("3", now);
        assert_eq!(network.adaptive.settled(), None);
        let mut back = Network::new(600);
        back.settle();
        back.adaptive.on_network("elsewhere", now);
        back.adaptive.on_network("", now);
        assert_eq!(back.adaptive.settled(), Some(found));
    }

    #[test]
    fn in_use_the_floor_holds_and_nothing_is_learned() {
        let mut network = Network::new(300);
        network.beat();
        for _ in 0..50 {
            assert_eq!(network.adaptive.next(true), Intervals::scaled(1).floor);
            network.adaptive.sent();
            network.adaptive.ended(Outcome::Answered, network.now);
        }
        assert_eq!(
            network.adaptive.record().interval,
            Intervals::scaled(1).floor
        );
    }

    #[test]
    fn six_failures_in_a_row_at_the_floor_mean_a_bad_network() {
        let mut network = Network::new(30);
        let mut told = Vec::new();
        for _ in 0..12 {
            network.adaptive.linked();
            network.adaptive.next(false);
            network.adaptive.sent();
            told.push(network.adaptive.ended(Outcome::LinkLost, network.now));
        }
        assert_eq!(told.iter().filter(|bad| **bad).count(), 2);
        assert!(told[5] && told[11]);
    }

    #[test]
    fn a_dozing_system_jumps_to_an_end_instead_of_climbing() {
        let mut network = Network::new(700);
        for _ in 0..3 {
            network.adaptive.rang(Duration::from_secs(40));
        }
        let mut seen: Vec<Duration> = (0..20).map(|_| network.beat()).collect();
        seen.dedup();
        assert_eq!(seen, [210, 580].map(Duration::from_secs));
        let mut network = Network::new(300);
        for _ in 0..3 {
            network.adaptive.rang(Duration::from_secs(40));
        }
        assert_eq!(network.settle(), Duration::from_secs(210));
    }

    #[test]
    fn a_result_without_a_beat_means_nothing() {
        let mut network = Network::new(600);
        let found = network.settle();
        for _ in 0..10 {
            network.adaptive.ended(Outcome::LinkLost, network.now);
        }
        assert_eq!(network.adaptive.settled(), Some(found));
    }

    #[test]
    fn the_scale_divides_every_interval() {
        let intervals = Intervals::scaled(100);
        assert_eq!(intervals.floor, Duration::from_millis(2_100));
        assert_eq!(intervals.margin, Duration::from_millis(200));
    }
}
