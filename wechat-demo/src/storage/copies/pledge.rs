//! What waits until the follower has it: acknowledgements of what asks for two IDCs.
//!
//! Knows: rounds.   Does not know: what is acknowledged.
//!
//! Invariants
//! - G-1  Nobody is told "done" before the follower, as a member of the view, has synced the round. What waits is told
//!   so or that its time is over; never that less will do.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rpc_core::time::Instant;

/// Gets the number of copies there are, or `None` when the time is over.
pub type Tell = Box<dyn FnOnce(Option<u32>) + Send>;

/// As long as a caller waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// In the order of rounds.
#[derive(Default)]
pub(super) struct Pledges(Mutex<VecDeque<Pledge>>);

struct Pledge {
    round: u64,
    until: Instant,
    tell: Tell,
}

impl Pledges {
    /// Keeps it until the follower has a round, which is none before the last one's.
    pub fn add(&self, round: u64, tell: Tell) {
        let until = Instant::after(PATIENCE);
        self.waiting().push_back(Pledge { round, until, tell });
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.waiting().len()
    }

    /// The follower, which is a member, has everything up to a round.
    pub fn keep(&self, round: u64, copies: u32) {
        self.tell(Some(copies), |pledge| pledge.round <= round);
    }

    /// Those whose time is over need not wait any more.
    pub fn expire(&self) {
        let now = Instant::now();
        self.tell(None, |pledge| pledge.until <= now);
    }

    /// Tells the first ones, without the lock.
    fn tell(&self, word: Option<u32>, those: impl Fn(&Pledge) -> bool) {
        let told: Vec<Pledge> = {
            let mut waiting = self.waiting();
            let rest = waiting.iter().position(|pledge| !those(pledge));
            let count = rest.unwrap_or(waiting.len());
            waiting.drain(..count).collect()
        };
        for pledge in told {
            (pledge.tell)(word);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Pledge>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn who_waits_is_told_in_order_and_not_before_the_round_is_there() {
        let (pledges, told) = (Pledges::default(), Arc::new(Mutex::new(Vec::new())));
        for round in [3, 3, 5] {
            let told = Arc::clone(&told);
            pledges.add(
                round,
                Box::new(move |copies| told.lock().unwrap().push((round, copies))),
            );
        }
        pledges.expire();
        pledges.keep(2, 3);
        assert_eq!((told.lock().unwrap().len(), pledges.count()), (0, 3));
        pledges.keep(4, 3);
        assert_eq!(told.lock().unwrap()[..], [(3, Some(3)), (3, Some(3))]);
        pledges.tell(None, |_| true);
        assert_eq!(told.lock().unwrap()[2..], [(5, None)]);
        assert_eq!(pledges.count(), 0);
    }
}
