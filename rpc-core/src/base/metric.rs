//! Counters and histograms.
//!
//! Knows: numbers.   Does not know: what they measure, who shows them.
//!
//! Everything here is `const`-constructible and updated with relaxed atomics: a number orders nothing
//! else, and a reader that is one update late is right about a moment ago.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds one, where one thread at a time does: a load and a store, cheaper than [`Counter::add`].
    #[inline]
    pub fn bump(&self) {
        let next = self.0.load(Ordering::Relaxed).wrapping_add(1);
        self.0.store(next, Ordering::Relaxed);
    }

    /// The sum so far.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How values are spread, to a precision of 1/16 of each: log-linear buckets, as in HdrHistogram.
///
/// Values below 16 have a bucket each; every power of two above is cut into 16 equal ones. Meant for
/// nanoseconds: values from 2^42 (73 minutes) on share the last bucket. 5 KiB; recording is one or two
/// relaxed additions.
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
    max: AtomicU64,
}

/// Buckets per power of two, as a power of two.
const FINE_BITS: u32 = 4;
/// Buckets per power of two.
const FINE: u64 = 1 << FINE_BITS;
/// Values of this many bits or more share the last bucket.
const BITS: u32 = 42;
const BUCKETS: usize = ((BITS - FINE_BITS + 1) * FINE as u32) as usize;

impl Histogram {
    /// Nothing recorded.
    pub const fn new() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }

    /// Records one value.
    #[inline]
    pub fn record(&self, value: u64) {
        self.buckets[bucket_of(value)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
        if value > self.max.load(Ordering::Relaxed) {
            self.max.fetch_max(value, Ordering::Relaxed);
        }
    }

    /// What was recorded so far. Values recorded meanwhile may be in some numbers and not in others.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            buckets: self
                .buckets
                .iter()
                .map(|bucket| bucket.load(Ordering::Relaxed))
                .collect(),
            sum: self.sum.load(Ordering::Relaxed),
            max: self.max.load(Ordering::Relaxed),
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.snapshot().fmt(f)
    }
}

/// What a [`Histogram`] held at one moment.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    buckets: Box<[u64]>,
    sum: u64,
    max: u64,
}

impl Snapshot {
    /// Number of values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Sum of the values; wraps around past 2^64.
    pub const fn sum(&self) -> u64 {
        self.sum
    }

    /// Largest value; 0 without any.
    pub const fn max(&self) -> u64 {
        self.max
    }

    /// Mean of the values; 0 without any.
    pub fn mean(&self) -> f64 {
        self.sum as f64 / (self.count() as f64).max(1.0)
    }

    /// The value below or at which `quantile` (0..=1) of the values lie, at most 1/16 too high and never
    /// above [`Snapshot::max`]; 0 without any.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let count = self.count();
        let rank = (quantile.clamp(0.0, 1.0) * count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, held) in self.buckets.iter().enumerate() {
            seen += held;
            if seen >= rank {
                return last_of(index).min(self.max);
            }
        }
        self.max
    }

    /// Adds what `other` held.
    pub fn merge(&mut self, other: &Self) {
        for (own, others) in self.buckets.iter_mut().zip(&other.buckets) {
            *own += others;
        }
        self.sum = self.sum.wrapping_add(other.sum);
        self.max = self.max.max(other.max);
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("count", &self.count())
            .field("mean", &self.mean())
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .field("max", &self.max)
            .finish()
    }
}

/// The bucket of a value.
#[inline]
fn bucket_of(value: u64) -> usize {
    if value < FINE {
        return value as usize;
    }
    let bits = u64::BITS - value.leading_zeros();
    if bits > BITS {
        return BUCKETS - 1;
    }
    let shift = bits - FINE_BITS - 1;
    let fine = (value >> shift) - FINE; // 0..16
    (u64::from(shift + 1) * FINE + fine) as usize
}

/// The largest value of a bucket.
fn last_of(bucket: usize) -> u64 {
    let (coarse, fine) = (bucket as u64 / FINE, bucket as u64 % FINE);
    if coarse == 0 {
        return fine;
    }
    if bucket == BUCKETS - 1 {
        return u64::MAX;
    }
    ((FINE + fine + 1) << (coarse - 1)) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gap_or_overlap() {
        for bucket in 0..BUCKETS - 1 {
            let last = last_of(bucket);
            assert_eq!(bucket_of(last), bucket, "{last}");
            assert_eq!(bucket_of(last + 1), bucket + 1, "{last}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert!(size_of::<Histogram>() <= 5 << 10);
    }

    #[test]
    fn an_empty_histogram_says_zero() {
        let empty = Histogram::new().snapshot();
        assert_eq!(
            (empty.count(), empty.max(), empty.quantile(0.99)),
            (0, 0, 0)
        );
        assert!(empty.mean() == 0.0);
    }

    #[test]
    fn quantiles_of_a_million_steps_are_where_they_belong() {
        let histogram = Histogram::new();
        for value in 1..=100_000 {
            histogram.record(value * 10);
        }
        let snapshot = histogram.snapshot();
        assert_eq!((snapshot.count(), snapshot.max()), (100_000, 1_000_000));
        assert!((snapshot.mean() - 500_005.0).abs() < 1e-6);
        for (quantile, exact) in [(0.0, 10), (0.5, 500_000), (0.99, 990_000), (1.0, 1_000_000)] {
            let found = snapshot.quantile(quantile);
            assert!(
                found >= exact && found <= exact + exact / 16,
                "{quantile}: {found}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_quantile_is_never_low_and_at_most_a_sixteenth_high(
            mut values in proptest::collection::vec(0..1_u64 << 41, 1..200), quantile in 0.0..=1.0_f64,
        ) {
            let histogram = Histogram::new();
            values.iter().for_each(|value| histogram.record(*value));
            values.sort_unstable();
            let rank = (quantile * values.len() as f64).ceil().max(1.0) as usize;
            let exact = values[rank - 1];
            let found = histogram.snapshot().quantile(quantile);
            prop_assert!(found >= exact && found <= exact + exact / 16, "{found} for {exact}");
        }

        #[test]
        fn merging_is_recording_into_one(
            left in proptest::collection::vec(any::<u64>(), 0..50), right in proptest::collection::vec(any::<u64>(), 0..50),
        ) {
            let histograms = [Histogram::new(), Histogram::new(), Histogram::new()];
            left.iter().for_each(|v| { histograms[0].record(*v); histograms[2].record(*v); });
            right.iter().for_each(|v| { histograms[1].record(*v); histograms[2].record(*v); });
            let mut merged = histograms[0].snapshot();
            merged.merge(&histograms[1].snapshot());
            prop_assert_eq!(merged, histograms[2].snapshot());
        }
    }
}
