//! Which address to connect to, and when to try the next one beside it.
//!
//! Knows:       Mars' times of the race, how often an address failed.
//! Does not know: sockets, names, the clock (it is told the time).
//!
//! A connection that will come up does so within a second or two, one that will not may take a minute to say
//! so. So the next address is tried beside the ones before it, and the first that answers wins (Mars'
//! `complexconnect.cc`). An address that keeps failing is left out for a while (`simple_ipport_sort.cc`).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use rpc_core::base::time::Instant;

/// Time for one attempt.
pub const ATTEMPT: Duration = Duration::from_secs(10);
/// The next address is tried so long after the last.
pub const NEXT: Duration = Duration::from_millis(2_500);
/// Attempts under way at once.
pub const IN_FLIGHT: usize = 3;
/// Addresses that are tried for one connection.
pub const ADDRESSES: usize = 5;

/// Failures among the last eight attempts that ban an address.
const BANNED_AT: u32 = 3;
/// How long, and how much longer for each failure in a row beyond those; and at most.
const BAN: Duration = Duration::from_secs(6 * 60);
const BAN_MAX: Duration = Duration::from_secs(30 * 60);
/// What is known of an address counts for so long.
const MEMORY: Duration = Duration::from_secs(24 * 3600);
/// Addresses remembered; the one unused for longest goes first.
const REMEMBERED: usize = 64;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Try this one.
    Start(SocketAddr),
    /// Wait for an attempt to end, but not beyond this time.
    Wait(Instant),
    /// Every address failed.
    Over,
}

/// One connection's attempts.
#[derive(Debug)]
pub struct Race {
    left: VecDeque<SocketAddr>,
    /// With the time of its end.
    running: Vec<(SocketAddr, Instant)>,
    /// When the next may start.
    next: Instant,
}

impl Race {
    /// Over `addresses` in this order, at most [`ADDRESSES`] of them.
    #[must_use]
    pub fn new(addresses: &[SocketAddr], now: Instant) -> Self {
        Self {
            left: addresses.iter().take(ADDRESSES).copied().collect(),
            running: Vec::new(),
            next: now,
        }
    }

    /// What is due at `now`. Attempts that had their time are given up.
    pub fn step(&mut self, now: Instant) -> Step {
        self.running.retain(|(_, end)| *end > now);
        let free = self.running.len() < IN_FLIGHT;
        if free
            && (self.running.is_empty() || now >= self.next)
            && let Some(address) = self.left.pop_front()
        {
            self.running.push((address, now + ATTEMPT));
            self.next = now + NEXT;
            return Step::Start(address);
        }
        let Some(end) = self.running.iter().map(|(_, end)| *end).min() else {
            return Step::Over;
        };
        match free && !self.left.is_empty() {
            true => Step::Wait(end.min(self.next)),
            false => Step::Wait(end),
        }
    }

    /// An attempt failed.
    pub fn failed(&mut self, address: SocketAddr) {
        self.running.retain(|(running, _)| *running != address);
    }
}

/// What is remembered of addresses.
#[derive(Debug, Default)]
pub struct History {
    known: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    address: SocketAddr,
    /// The last eight attempts, the newest in the lowest bit; 1 = failed.
    attempts: u8,
    last: Instant,
    last_failure: Option<Instant>,
}

impl Known {
    fn banned(&self, now: Instant) -> bool {
        let Some(failure) = self.last_failure else {
            return false;
        };
        let beyond = self.attempts.trailing_ones().saturating_sub(BANNED_AT);
        let ban = (BAN + BAN * beyond).min(BAN_MAX);
        self.attempts.count_ones() >= BANNED_AT && now.saturating_since(failure) < ban
    }
}

impl History {
    /// Notes how an attempt ended.
    pub fn note(&mut self, address: SocketAddr, ok: bool, now: Instant) {
        self.known
            .retain(|known| now.saturating_since(known.last) < MEMORY);
        let at = self.known.iter().position(|known| known.address == address);
        let at = at.unwrap_or_else(|| {
            if self.known.len() >= REMEMBERED {
                let oldest = self
                    .known
                    .iter()
                    .enumerate()
                    .min_by_key(|(_, known)| known.last);
                let (oldest, _) = oldest.expect("the list is full");
                self.known.remove(oldest);
            }
            self.known.push(Known {
                address,
                attempts: 0,
                last: now,
                last_failure: None,
            });
            self.known.len() - 1
        });
        let known = &mut self.known[at];
        known.attempts = known.attempts << 1 | u8::from(!ok);
        known.last = now;
        if !ok {
            known.last_failure = Some(now);
        }
    }

    /// The addresses in the order in which to try them: fewer failures first, then as they came. Banned ones
    /// are left out, unless that leaves none.
    #[must_use]
    pub fn order(&self, addresses: &[SocketAddr], now: Instant) -> Vec<SocketAddr> {
        let find = |address: &SocketAddr| self.known.iter().find(|known| known.address == *address);
        let mut order: Vec<SocketAddr> = addresses
            .iter()
            .filter(|address| find(address).is_none_or(|known| !known.banned(now)))
            .copied()
            .collect();
        if order.is_empty() {
            order = addresses.to_vec();
        }
        order.sort_by_key(|address| find(address).map_or(0, |known| known.attempts.count_ones()));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, n], 1))
    }

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// Runs the race until it is over, where every attempt hangs; when each began.
    fn hang(addresses: &[SocketAddr]) -> Vec<(Instant, SocketAddr)> {
        let (mut now, mut begun) = (at(0), Vec::new());
        let mut race = Race::new(addresses, now);
        loop {
            match race.step(now) {
                Step::Start(address) => begun.push((now, address)),
                Step::Wait(until) => {
                    assert!(until > now);
                    assert!(race.running.len() <= IN_FLIGHT);
                    now = until;
                }
                Step::Over => return begun,
            }
        }
    }

    #[test]
    fn hanging_addresses_are_tried_beside_each_other_three_at_a_time() {
        let all: Vec<SocketAddr> = (1..=9).map(address).collect();
        let begun = hang(&all);
        let times: Vec<Instant> = begun.iter().map(|(when, _)| *when).collect();
        assert_eq!(times, [0, 2_500, 5_000, 10_000, 12_500].map(at));
        assert_eq!(begun.len(), ADDRESSES);
    }

    #[test]
    fn a_refusal_starts_the_next_at_once() {
        let mut race = Race::new(&[address(1), address(2)], at(0));
        assert_eq!(race.step(at(0)), Step::Start(address(1)));
        race.failed(address(1));
        assert_eq!(race.step(at(1)), Step::Start(address(2)));
        race.failed(address(2));
        assert_eq!(race.step(at(2)), Step::Over);
    }

    #[test]
    fn an_address_that_keeps_failing_is_left_out_for_a_while() {
        let (bad, good) = (address(1), address(2));
        let mut history = History::default();
        for second in 0..2 {
            history.note(bad, false, at(second * 1_000));
        }
        assert_eq!(
            history.order(&[bad, good], at(3_000)),
            [good, bad],
            "it comes last first"
        );
        history.note(bad, false, at(3_000));
        assert_eq!(history.order(&[bad, good], at(4_000)), [good]);
        assert_eq!(history.order(&[bad], at(4_000)), [bad], "better than none");
        let later = at(3_000) + BAN;
        assert_eq!(history.order(&[bad, good], later), [good, bad]);
        for _ in 0..20 {
            history.note(bad, false, at(3_000));
        }
        assert!(
            !history.order(&[bad, good], later).contains(&bad),
            "longer for more"
        );
        assert!(
            history
                .order(&[bad, good], at(3_000) + BAN_MAX)
                .contains(&bad),
            "never for good"
        );
    }

    #[test]
    fn memory_of_addresses_is_bounded_in_number_and_time() {
        let mut history = History::default();
        for n in 0..=255 {
            history.note(address(n), false, at(u64::from(n)));
        }
        assert_eq!(history.known.len(), REMEMBERED);
        history.note(address(1), true, at(0) + 2 * MEMORY);
        assert_eq!(history.known.len(), 1);
    }
}
