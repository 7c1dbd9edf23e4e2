//! How much of what costs us more than the peer is taken.
//!
//! Knows: budgets that fill up again with time and with useful work.
//! Does not know: frames.
//!
//! Each budget answers one known attack: resets by the peer (CVE-2023-44487) and resets it provokes
//! (CVE-2025-8671), PING, SETTINGS and empty DATA (CVE-2019-9512, -9515, -9518), other frames that carry
//! nothing (CVE-2019-9513, -9511).

use crate::base::time::Instant;

/// A budget: spent by one kind of frame.
#[derive(Debug)]
pub struct Budget {
    left: u32,
    /// When time last added to it.
    filled: Instant,
    most: u32,
    per_second: u32,
}

impl Budget {
    const fn new(most: u32, per_second: u32) -> Self {
        Self {
            left: most,
            filled: Instant::ZERO,
            most,
            per_second,
        }
    }

    /// Takes `cost`; false if so much is not left.
    #[must_use]
    pub fn spend(&mut self, cost: u32, now: Instant) -> bool {
        if self.left < cost {
            let passed = now.saturating_since(self.filled).as_millis();
            let gained = passed.saturating_mul(u128::from(self.per_second)) / 1000;
            if gained > 0 {
                let gained = u32::try_from(gained).unwrap_or(u32::MAX);
                self.left = self.left.saturating_add(gained).min(self.most);
                self.filled = now;
            }
        }
        let enough = self.left >= cost;
        self.left = self.left.saturating_sub(cost);
        enough
    }

    /// Useful work was done: one more is allowed.
    pub fn earn(&mut self) {
        self.left = (self.left + 1).min(self.most);
    }
}

/// The budgets of a connection.
#[derive(Debug)]
pub struct Budgets {
    /// Streams reset before their end: by the peer, or by us for what it sent. Calls that end well earn.
    pub resets: Budget,
    /// PING frames to answer. Data in either direction earns: peers measure the path with pings.
    pub pings: Budget,
    /// SETTINGS frames to answer.
    pub settings: Budget,
    /// DATA frames that carry nothing and end nothing.
    pub empty: Budget,
    /// Whatever else is without use: PRIORITY, unknown frames, frames of streams that ended, window updates.
    /// Data in either direction earns.
    pub idle: Budget,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            resets: Budget::new(1000, 200),
            pings: Budget::new(1000, 100),
            settings: Budget::new(100, 10),
            empty: Budget::new(100, 10),
            idle: Budget::new(10_000, 1000),
        }
    }
}

impl Budgets {
    /// Data moved.
    pub fn moved(&mut self) {
        self.pings.earn();
        self.idle.earn();
        self.idle.earn();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_ends_fills_with_time_and_never_above_its_most() {
        let mut budget = Budget::new(3, 10);
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        assert_eq!(
            [1, 1, 1, 1].map(|cost| budget.spend(cost, at(0))),
            [true, true, true, false]
        );
        assert!(budget.spend(1, at(100)), "one in a tenth of a second");
        assert!(!budget.spend(1, at(150)));
        budget.earn();
        assert!(budget.spend(1, at(150)));
        assert!(budget.spend(3, at(10_000)) && !budget.spend(1, at(10_000)));
    }
}
