//! What two users are to each other: one end's state, and what each request or word from the other end
//! makes of it.
//!
//! Knows: the states and the rounds.   Does not know: rows, items, tasks.
//!
//! ```text
//!   A's end             stream             B's end
//!   none ──ask──▶ ASKED ──Asked──▶ none → ASKED_ME ──accept──▶ FRIEND
//!   ASKED → FRIEND ◀──Accepted──
//!   either ──remove──▶ REMOVED ──Removed──▶ REMOVED
//! ```
//! A *round* begins with each request; the words carry it. A word of an earlier round came too late and
//! changes nothing, and a removal wins over whatever else its own round brings. When both ask in the same
//! round, each finds the other's request and is a friend: both see the same two requests. When one asked in
//! a later round than the other, the end that hears of the later one says so.
//!
//! Invariant
//! - B-1  Once every word has arrived (each direction in order), either both ends are friends in the same
//!   round or neither is.

use crate::proto::terminal::contact::State;

/// One end of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bond {
    pub(super) state: State,
    /// The highest round this end has seen; 0 before the first request.
    pub(super) round: u64,
}

/// What the user does, or what the other end has said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    Ask,
    Accept,
    Remove,
    Heard(Word),
}

/// What one end says to the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Word {
    Asked(u64),
    Accepted(u64),
    Removed(u64),
}

impl Bond {
    /// The state after `event`, and what the other end is told. An event that has no place here changes
    /// nothing and says nothing.
    pub(super) fn after(self, event: Event) -> (Self, Option<Word>) {
        let round = self.round;
        let to = |state, round| Self { state, round };
        match (event, self.state) {
            (Event::Ask, State::Unspecified | State::Removed) => {
                let next = round + 1;
                (to(State::Asked, next), Some(Word::Asked(next)))
            }
            (Event::Ask | Event::Accept, State::AskedMe) => {
                (to(State::Friend, round), Some(Word::Accepted(round)))
            }
            (Event::Remove, State::Asked | State::AskedMe | State::Friend) => {
                (to(State::Removed, round), Some(Word::Removed(round)))
            }
            (Event::Heard(Word::Asked(theirs)), state) if theirs > round => match state {
                State::Asked | State::Friend => {
                    (to(State::Friend, theirs), Some(Word::Accepted(theirs)))
                }
                _ => (to(State::AskedMe, theirs), None),
            },
            (Event::Heard(Word::Asked(theirs) | Word::Accepted(theirs)), State::Asked)
                if theirs == round =>
            {
                (to(State::Friend, round), None)
            }
            (Event::Heard(Word::Removed(theirs)), _) if theirs >= round => {
                (to(State::Removed, theirs), None)
            }
            _ => (self, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const NONE: Bond = Bond {
        state: State::Unspecified,
        round: 0,
    };

    /// Two ends and the words on their way from each.
    struct Pair {
        ends: [Bond; 2],
        under_way: [VecDeque<Word>; 2],
    }

    impl Pair {
        fn does(&mut self, who: usize, event: Event) {
            let (bond, word) = self.ends[who].after(event);
            self.ends[who] = bond;
            self.under_way[who].extend(word);
        }

        fn hears(&mut self, who: usize) -> bool {
            let Some(word) = self.under_way[1 - who].pop_front() else {
                return false;
            };
            self.does(who, Event::Heard(word));
            true
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

        /// B-1, whatever the two do and however late words arrive.
        #[test]
        fn friendship_is_symmetric_at_rest(steps in prop::collection::vec((0..2_usize, 0..5_u8), 0..40)) {
            let mut pair = Pair { ends: [NONE; 2], under_way: Default::default() };
            for (who, what) in steps {
                match what {
                    0 => pair.does(who, Event::Ask),
                    1 => pair.does(who, Event::Accept),
                    2 => pair.does(who, Event::Remove),
                    _ => drop(pair.hears(who)),
                }
            }
            while pair.hears(0) || pair.hears(1) {}
            let [a, b] = pair.ends;
            let friends = [a, b].map(|end| end.state == State::Friend);
            prop_assert_eq!(friends[0], friends[1], "{:?}", pair.ends);
            prop_assert!(!friends[0] || a.round == b.round, "{:?}", pair.ends);
        }
    }

    #[test]
    fn a_removal_wins_over_an_acceptance_that_comes_late() {
        let mut pair = Pair {
            ends: [NONE; 2],
            under_way: Default::default(),
        };
        pair.does(0, Event::Ask);
        pair.hears(1);
        pair.does(1, Event::Accept);
        pair.does(0, Event::Remove);
        while pair.hears(0) || pair.hears(1) {}
        assert_eq!(pair.ends.map(|end| end.state), [State::Removed; 2]);
        pair.does(1, Event::Ask);
        pair.hears(0);
        assert_eq!(pair.ends[0].state, State::AskedMe, "they may ask anew");
    }
}
