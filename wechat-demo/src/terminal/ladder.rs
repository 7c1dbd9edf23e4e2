//! How long to wait before the next attempt to connect.
//!
//! Knows:       how often it failed in a row.
//! Does not know: addresses, sockets, the clock, where randomness comes from.
//!
//! A thousand terminals that lost the same access process must not come back in one instant, so each
//! rung is salted; and a process that restarts in a second should be found again in about that time.

use std::time::Duration;

/// Unsalted waits, the last for ever. The first is Mars' re-check after a drop.
const RUNGS: [Duration; 7] = [
    Duration::from_millis(500),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(15),
];

/// Consecutive failures, turned into waits.
#[derive(Clone, Debug, Default)]
pub struct Ladder {
    /// Index of the next rung; stays at the last.
    rung: usize,
}

impl Ladder {
    /// The wait before the next attempt: the rung times a factor in [0.5, 1.5) chosen by `salt`,
    /// a uniformly random number.
    pub fn next_wait(&mut self, salt: u32) -> Duration {
        let rung = RUNGS[self.rung];
        self.rung = (self.rung + 1).min(RUNGS.len() - 1);
        rung.mul_f64(0.5 + f64::from(salt) / (f64::from(u32::MAX) + 1.0))
    }

    /// A link came up and was authenticated.
    pub fn succeeded(&mut self) {
        self.rung = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_over_after_a_success() {
        let mut ladder = Ladder::default();
        let waits: Vec<Duration> = (0..20).map(|_| ladder.next_wait(1 << 31)).collect();
        assert!(waits.is_sorted());
        assert_eq!(waits[19], Duration::from_secs(15));
        ladder.succeeded();
        assert_eq!(ladder.next_wait(1 << 31), Duration::from_millis(500));
    }

    #[test]
    fn the_salt_spreads_a_crowd_over_the_rung_and_never_beyond() {
        for salt in [0, 1 << 30, u32::MAX] {
            let wait = Ladder::default().next_wait(salt);
            assert!(wait >= Duration::from_millis(250) && wait <= Duration::from_millis(750));
        }
        assert!(Ladder::default().next_wait(0) < Ladder::default().next_wait(u32::MAX));
    }
}
