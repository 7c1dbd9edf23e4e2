//! How much one user may do in a while: a token bucket a user, in this process's memory.
//!
//! Knows: users, costs, the clock it is told.   Does not know: what is done.
//!
//! A user's calls reach any logic process, so with n processes a user may do n times as much at most.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use rpc_core::Status;

use crate::model::UserId;

/// Users remembered; beyond, those whose buckets are full again are forgotten, which changes nothing for them.
const USERS: usize = 1 << 16;
/// A bucket holds what comes in this many seconds.
const BURST_SECONDS: u32 = 4;

/// The buckets of all users.
pub(super) struct Rates {
    /// Calls a second; 0 = no limit.
    per_second: u32,
    buckets: Mutex<HashMap<UserId, Bucket>>,
}

struct Bucket {
    /// Thousandths of a call.
    left: u64,
    at_ms: i64,
}

impl Rates {
    /// `per_second` calls a second in the long run; 0 = no limit.
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            per_second,
            buckets: Mutex::default(),
        }
    }

    /// Takes `cost` calls from the user's bucket.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if they are not there; then nothing is taken.
    pub(super) fn take(&self, user: UserId, cost: usize, now_ms: i64) -> Result<(), Status> {
        if self.per_second == 0 {
            return Ok(());
        }
        let full = u64::from(self.per_second) * u64::from(BURST_SECONDS) * 1000;
        let refill = |bucket: &Bucket| {
            let waited = now_ms.saturating_sub(bucket.at_ms).max(0) as u64;
            let gained = waited.saturating_mul(u64::from(self.per_second));
            bucket.left.saturating_add(gained).min(full)
        };
        // Nothing under the lock panics half-way.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= USERS && !buckets.contains_key(&user) {
            buckets.retain(|_, bucket| refill(bucket) < full);
            if buckets.len() >= USERS {
                return Err(Status::resource_exhausted(
                    "too many users are at it; try again soon",
                ));
            }
        }
        let bucket = buckets.entry(user).or_insert(Bucket {
            left: full,
            at_ms: now_ms,
        });
        let left = refill(bucket);
        let cost = (cost as u64).saturating_mul(1000).min(full);
        bucket.at_ms = now_ms;
        bucket.left = left.saturating_sub(if cost <= left { cost } else { 0 });
        if cost <= left {
            return Ok(());
        }
        let text = format!(
            "you may do {} things a second; wait a moment",
            self.per_second
        );
        Err(Status::resource_exhausted(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_limited_and_others_are_not() {
        let rates = Rates::new(10);
        let taken = (0..1000)
            .filter(|n| rates.take(UserId(1), 1, *n).is_ok())
            .count();
        assert_eq!(taken, 40 + 9, "a full bucket, and what came in a second");
        assert!(rates.take(UserId(2), 40, 999).is_ok());
        assert!(rates.take(UserId(1), 1, 2000).is_ok(), "it comes back");
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let rates = Rates::new(1);
        assert!(rates.take(UserId(1), 4, 10_000).is_ok());
        assert!(rates.take(UserId(1), 1, 0).is_err());
        assert!(rates.take(UserId(1), 1, 500).is_err());
    }

    #[test]
    fn buckets_that_are_full_again_make_room() {
        let rates = Rates::new(1);
        for user in 0..USERS as u64 {
            rates.take(UserId(user), 1, 0).unwrap();
        }
        assert!(rates.take(UserId(1 << 40), 1, 0).is_err());
        assert!(rates.take(UserId(1 << 40), 1, 1000).is_ok());
    }

    #[test]
    fn no_limit_means_none() {
        let rates = Rates::new(0);
        assert!((0..100_000).all(|_| rates.take(UserId(1), 32, 0).is_ok()));
    }
}
