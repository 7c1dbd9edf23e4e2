//! Numbers that never repeat and never fall: seqsvr's scheme, inside the shard's own log.
//!
//! The users of a section share one `max_seq`. Each user counts on alone below it; when 80 % of a step is
//! used, `max_seq` is raised by a step in the very entry that crosses the line, so nobody waits for it.
//! After a restart every user of the section goes on at `max_seq`: numbers jump, but one that was ever
//! visible is not given again (S-4). Nothing per user has to be loaded but the newest item's number, and
//! that when the user is next written to.
//!
//! Source: WeChat's account of its sequence generator (2016): step 10,000, sections of 100,000 users.

use std::collections::HashMap;

use super::{
    engine::EngineError,
    shard::{Draft, damaged},
    table::{self, Key},
    timeline,
};
use crate::model::{Incarnation, Placement, SectionId, Seq, UserId, limits::SEQ_STEP};
use crate::planted::{self, Bug};

/// One count whose limit is kept ahead of it.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    /// Last count given out since the start; at first the limit found on disk.
    last: u64,
    /// No count above it is given out before it is raised, in the log.
    max: u64,
}

/// The numbers of all users of a shard.
#[derive(Debug, Default)]
pub struct Sequence {
    sections: HashMap<SectionId, Section>,
    /// Users written to since the start; emptied whole when it is full.
    users: HashMap<UserId, User>,
}

#[derive(Clone, Copy, Debug)]
struct Section {
    /// `max_seq` as it was found; users not written to since go on from here.
    base: u64,
    max: u64,
}

#[derive(Clone, Copy, Debug)]
struct User {
    /// Number of the newest item.
    newest: Seq,
    /// Count of the last number given.
    last: u64,
}

/// A number for a new item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Given {
    /// The user's newest number until now.
    pub previous: Seq,
    /// The new one.
    pub number: Seq,
}

/// Users of one shard whose numbers are kept in memory.
const USERS_IN_MEMORY: usize = 1 << 17;

impl Ahead {
    /// Counts of one incarnation, as a power of two. What is counted here has room for all incarnations.
    const COUNT_BITS: u32 = 35;

    /// Goes on from the limit found on disk, 0 if there is none. A limit that an earlier incarnation raised may
    /// be lost, so each has counts of its own.
    pub fn resume(max: u64, incarnation: Incarnation) -> Self {
        let max = max.max(u64::from(incarnation.0) << Self::COUNT_BITS);
        Self { last: max, max }
    }

    /// The next count; and the new limit if it has to be written with what uses the count.
    pub fn give(&mut self) -> (u64, Option<u64>) {
        self.last += 1;
        let raised = raised(self.last, self.max);
        self.max = raised.unwrap_or(self.max);
        (self.last, raised)
    }
}

impl Sequence {
    /// Gives `user` its next number and notes in `draft` what must be kept for it.
    pub fn give(
        &mut self,
        draft: &mut Draft<'_>,
        place: Placement,
        incarnation: Incarnation,
        user: UserId,
    ) -> Result<Given, EngineError> {
        let section_id = place.section(user);
        let mut section = match self.sections.get(&section_id) {
            Some(section) => *section,
            None => {
                let max = count_row(draft, &table::section(section_id))?;
                Section { base: max, max }
            }
        };
        let mut state = match self.users.get(&user) {
            Some(state) => *state,
            None => {
                let newest = timeline::newest(draft.engine(), user)?;
                let known = if newest.incarnation() == incarnation {
                    newest.count()
                } else {
                    0
                };
                User {
                    newest,
                    last: match planted::is_on(Bug::NumberNotPersisted) {
                        false => known.max(section.base),
                        true => section.base,
                    },
                }
            }
        };
        state.last += 1;
        if let Some(max) = raised(state.last, section.max) {
            section.max = max;
            if !planted::is_on(Bug::NumberNotPersisted) {
                draft.put_row(&table::section(section_id), &max.to_be_bytes());
            }
        }
        let given = Given {
            previous: state.newest,
            number: Seq::new(incarnation, state.last),
        };
        assert!(
            given.number > given.previous || planted::is_on(Bug::NumberNotPersisted),
            "numbers of {user} rise"
        );
        if given.previous.incarnation() != incarnation {
            let key = table::survived(user, incarnation);
            draft.put_row(&key, &given.previous.0.to_be_bytes());
        }
        state.newest = given.number;
        self.sections.insert(section_id, section);
        self.users.insert(user, state);
        Ok(given)
    }

    /// Between rounds: lets go of users when there are too many. Everything given is in the tables then,
    /// so nothing is forgotten.
    pub fn shrink(&mut self) {
        if self.users.len() > USERS_IN_MEMORY {
            self.users.clear();
        }
    }
}

/// Reads a persisted limit, 0 if there is none.
pub fn count_row(draft: &Draft<'_>, key: &Key) -> Result<u64, EngineError> {
    match draft.row(key)? {
        None => Ok(0),
        Some(row) => table::number(&row).ok_or_else(|| damaged("a persisted count")),
    }
}

/// The limit after `last` was given, if it has to rise: when less than a fifth of a step is left.
fn raised(last: u64, max: u64) -> Option<u64> {
    let left_over = SEQ_STEP / 5;
    (last + left_over > max).then(|| last.max(max) + SEQ_STEP)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::storage::engine::{
        Durability, Engine,
        simulated::{Disk, Fuse},
    };

    #[test]
    fn a_limit_is_raised_once_in_most_of_a_step() {
        let mut ahead = Ahead::resume(0, Incarnation(0));
        let raises = (0..100_000).filter(|_| ahead.give().1.is_some()).count();
        assert_eq!(raises, 11); // the first at once, then one in 10,000
    }

    #[test]
    fn a_count_never_passes_the_limit_that_was_written() {
        let mut ahead = Ahead::resume(0, Incarnation(0));
        let mut written = 0;
        for _ in 0..30_000 {
            let (count, raised) = ahead.give();
            written = raised.unwrap_or(written);
            assert!(count <= written);
        }
    }

    proptest! {
        /// Restarts lose what was drafted but not committed; what was committed stays.
        #[test]
        fn numbers_never_repeat_or_fall_across_restarts(
            lives in prop::collection::vec((prop::collection::vec(0..6_u64, 0..60), any::<bool>()), 1..6))
        {
            let place = Placement::new(8).unwrap();
            let incarnation = Incarnation(0);
            let disk = Disk::default();
            let mut seen = HashSet::new();
            let mut newest = [Seq::ZERO; 6];
            for (writes, committed_last) in lives {
                let engine = disk.open(Fuse::none());
                let mut sequence = Sequence::default();
                let total = writes.len();
                for (index, user) in writes.into_iter().enumerate() {
                    let mut draft = Draft::new(&engine);
                    let id = UserId::from_count(user + 1, 0, crate::model::HomeId(0));
                    let given = sequence.give(&mut draft, place, incarnation, id).unwrap();
                    if index + 1 == total && !committed_last {
                        break; // the process dies with it
                    }
                    prop_assert_eq!(given.previous, newest[user as usize]);
                    prop_assert!(given.number > newest[user as usize]);
                    prop_assert!(seen.insert((user, given.number)));
                    newest[user as usize] = given.number;
                    draft.add_item(id, given, b"item".to_vec().into());
                    engine.write(&[draft.changes().as_bytes()], Durability::Synced).unwrap();
                }
            }
        }
    }
}
