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

/// What it waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// The follower's having it.
    Geo,
    /// That, or that the view has no follower: nobody could become primary without it.
    Stable,
}

struct Pledge {
    round: u64,
    need: Need,
    until: Instant,
    tell: Tell,
}

impl Pledges {
    /// Keeps it until the follower has a round, which is none before the last one's.
    pub fn add(&self, round: u64, need: Need, tell: Tell) {
        let until = Instant::after(PATIENCE);
        self.waiting().push_back(Pledge {
            round,
            need,
            until,
            tell,
        });
    }

    /// The view has no follower.
    pub fn unfollowed(&self, copies: u32) {
        let told: Vec<Pledge> = {
            let mut waiting = self.waiting();
            if waiting.is_empty() {
                return;
            }
            let (told, rest): (VecDeque<_>, VecDeque<_>) = waiting
                .drain(..)
                .partition(|pledge| pledge.need == Need::Stable);
            *waiting = rest;
            told.into()
        };
        for pledge in told {
            (pledge.tell)(Some(copies));
        }
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
        for (round, need) in [
            (3, Need::Geo),
            (3, Need::Geo),
            (4, Need::Stable),
            (5, Need::Geo),
        ] {
            let told = Arc::clone(&told);
            pledges.add(
                round,
                need,
                Box::new(move |copies| told.lock().unwrap().push((round, copies))),
            );
        }
        pledges.expire();
        pledges.keep(2, 3);
        assert_eq!((told.lock().unwrap().len(), pledges.count()), (0, 4));
        pledges.unfollowed(2);
        assert_eq!(told.lock().unwrap().drain(..).as_slice(), [(4, Some(2))]);
        pledges.keep(4, 3);
        assert_eq!(told.lock().unwrap()[..], [(3, Some(3)), (3, Some(3))]);
        pledges.tell(None, |_| true);
        assert_eq!(told.lock().unwrap()[2..], [(5, None)]);
        assert_eq!(pledges.count(), 0);
    }
}
