//! How long to wait before connecting again: exponential, with jitter.
//!
//! Knows: nothing but its own numbers.

use std::time::Duration;

use crate::base::rng::Rng;

/// The waits of one address.
pub(super) struct Backoff {
    rng: Rng,
    /// Before jitter.
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub fn new(rng: Rng) -> Self {
        Self::up_to(MAX, rng)
    }

    /// Waits of at most `max`.
    pub fn up_to(max: Duration, rng: Rng) -> Self {
        let next = FIRST.min(max);
        Self { rng, next, max }
    }

    /// The last connection was good: start over.
    pub fn reset(&mut self) {
        self.next = FIRST.min(self.max);
    }

    /// The next wait: a random one between half of the step and the step, so that the clients of a
    /// server that comes back do not come all at once.
    pub fn next(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 8 / 5).min(self.max);
        let half = step / 2;
        half + Duration::from_nanos(self.rng.below(half.as_nanos() as u64 + 1))
    }
}

const FIRST: Duration = Duration::from_millis(20);
const MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_are_jittered_and_start_over() {
        let seed = 7;
        println!("seed={seed}");
        let mut backoff = Backoff::new(Rng::from_seed(seed));
        let waits: Vec<Duration> = (0..30).map(|_| backoff.next()).collect();
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST);
        assert!(waits.iter().all(|wait| *wait <= MAX));
        assert!(waits[29] >= MAX / 2 && waits[28] != waits[29]);
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
