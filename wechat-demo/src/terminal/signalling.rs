//! Keeping the radio's channel while a burst of interaction lasts.
//!
//! Knows:       Mars' two times.   Does not know: sockets, the clock (it is told the time).
//!
//! A phone's radio gives its channel back after a few silent seconds, and setting one up again costs the
//! network dozens of messages and the battery more than the packet. So while somebody is at it, a packet of 20
//! bytes fills each pause of 5 s, until 20 s after the last sign of it (Mars' `signalling_keeper.cc`).

use std::time::Duration;

use rpc_core::base::time::Instant;

/// A pause this long is filled.
pub const PERIOD: Duration = Duration::from_secs(5);
/// So long after the last sign of interaction.
pub const SPAN: Duration = Duration::from_secs(20);

/// The keeper of one link.
#[derive(Clone, Debug)]
pub struct Keeper {
    /// Until when pauses are filled; the past while nothing goes on.
    until: Instant,
    /// When anything last went over the link.
    active: Instant,
}

impl Keeper {
    /// Nothing goes on at `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            until: now,
            active: now,
        }
    }

    /// Somebody interacts: what is sent now is likely to be followed by more.
    pub fn keep(&mut self, now: Instant) {
        self.until = now + SPAN;
        self.moved(now);
    }

    /// Something went over the link, either way.
    pub fn moved(&mut self, now: Instant) {
        self.active = self.active.max(now);
    }

    /// When the next packet is due, if one is.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let next = self.active + PERIOD;
        (next < self.until).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_of_a_burst_are_filled_until_it_is_over() {
        let at = |s: u64| Instant::from_nanos(s * 1_000_000_000);
        let mut keeper = Keeper::new(at(0));
        assert_eq!(keeper.due(), None, "an idle link sends nothing");
        keeper.keep(at(100));
        let mut sent = Vec::new();
        while let Some(due) = keeper.due() {
            sent.push(due);
            keeper.moved(due);
        }
        assert_eq!(sent, [at(105), at(110), at(115)]);
        keeper.keep(at(200));
        keeper.moved(at(203));
        assert_eq!(
            keeper.due(),
            Some(at(208)),
            "traffic of any kind fills a pause"
        );
    }
}
