//! Which of several servers gets the next call: the better of two that chance names.
//!
//! Knows: calls under way and how long calls took, told by the caller.   Does not know: links, the clock.
//!
//! Two servers are enough to avoid the worst, and not all clients come to one at the same time (Mitzenmacher,
//! "The power of two choices in randomized load balancing", 2001). How long a call would take is estimated by
//! the peak that was seen of late, as Twitter's Finagle does: a server that becomes slow is avoided at once,
//! and tried again when the peak is forgotten.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::base::time::Instant;

/// How a channel chooses among several servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Balance {
    /// One after the other.
    InTurn,
    /// The better of two random ones, by calls under way, the time that calls took, and weight.
    P2c,
}

/// What a server has to do for us, as far as can be seen from here.
///
/// All is relaxed: these are estimates, and nothing else rests on them.
#[derive(Debug)]
pub(super) struct Load {
    /// Share of the calls it should get, in comparison with others; at least 1.
    weight: AtomicU32,
    under_way: AtomicU32,
    /// Nanoseconds that a call took, the most of late, and when that was.
    peak: AtomicU64,
    seen: AtomicU64,
}

/// A call under way.
pub(super) struct Begun<'a>(&'a Load);

impl Load {
    pub fn new(weight: u32) -> Self {
        Self {
            weight: AtomicU32::new(weight),
            under_way: AtomicU32::new(0),
            peak: AtomicU64::new(0),
            seen: AtomicU64::new(0),
        }
    }

    pub fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Ordering::Relaxed);
    }

    /// A call begins, and ends with what is returned.
    pub fn begin(&self) -> Begun<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Begun(self)
    }

    /// A call took so long.
    pub fn took(&self, took: Duration, now: Instant) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let remembered = self.remembered(now) as u64;
        // Down slowly, up at once.
        let peak = nanos.max(remembered - remembered.saturating_sub(nanos) / 8);
        self.peak.store(peak, Ordering::Relaxed);
        self.seen.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// How little it would like one more call; comparable among servers at one time.
    pub fn cost(&self, now: Instant) -> f64 {
        let calls = f64::from(self.under_way.load(Ordering::Relaxed)) + 1.0;
        let weight = f64::from(self.weight.load(Ordering::Relaxed).max(1));
        // A server that has not been tried yet is tried, but not by everybody at once.
        calls * self.remembered(now).max(LEAST_NANOS) / weight
    }

    /// The peak, half of it forgotten every [`HALF`].
    fn remembered(&self, now: Instant) -> f64 {
        let seen = Instant::from_nanos(self.seen.load(Ordering::Relaxed));
        let age = now.saturating_since(seen).as_secs_f64() / HALF.as_secs_f64();
        self.peak.load(Ordering::Relaxed) as f64 * (-age).exp2()
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Two different ones of `count`, at least 2, by chance; `turn` is another number for each call.
pub(super) fn two_of(count: usize, turn: usize) -> (usize, usize) {
    let chance = mix(turn as u64);
    let count = count as u64;
    let first = (chance >> 32) % count;
    let step = 1 + (chance & 0xffff_ffff) % (count - 1);
    (first as usize, ((first + step) % count) as usize)
}

/// The output function of SplitMix64 (Steele, Lea and Flood, 2014): neighbours become far apart.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Half of what was seen is forgotten after so long without a call.
const HALF: Duration = Duration::from_millis(500);
/// Differences below this are noise.
const LEAST_NANOS: f64 = 50_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn calls_under_way_slowness_and_little_weight_make_a_server_costly() {
        let (one, other) = (Load::new(1), Load::new(1));
        assert_eq!(one.cost(at(0)), other.cost(at(0)));
        let begun = one.begin();
        assert!(one.cost(at(0)) > other.cost(at(0)));
        drop(begun);
        assert_eq!(one.cost(at(0)), other.cost(at(0)));
        one.took(Duration::from_millis(5), at(0));
        other.took(Duration::from_millis(1), at(0));
        assert!(one.cost(at(0)) > 4.0 * other.cost(at(0)));
        one.set_weight(10);
        assert!(one.cost(at(0)) < other.cost(at(0)));
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_in_time() {
        let load = Load::new(1);
        load.took(Duration::from_millis(1), at(0));
        load.took(Duration::from_secs(1), at(10));
        let peak = load.cost(at(10));
        load.took(Duration::from_millis(1), at(11));
        let after = load.cost(at(11));
        assert!(after < peak && after > peak / 2.0, "{after} of {peak}");
        assert!(load.cost(at(60_000)) <= LEAST_NANOS);
    }

    #[test]
    fn two_are_always_different_and_every_pair_comes() {
        for count in 2..6 {
            let pairs: std::collections::BTreeSet<_> =
                (0..1_000).map(|turn| two_of(count, turn)).collect();
            assert!(
                pairs
                    .iter()
                    .all(|(a, b)| a != b && *a < count && *b < count)
            );
            assert_eq!(pairs.len(), count * (count - 1));
        }
    }
}
