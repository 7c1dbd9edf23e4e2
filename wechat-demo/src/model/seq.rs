//! The one number: what a timeline counts by, and what a terminal hands back.

use std::fmt;

/// Raised whenever a committed tail may have been lost, so that no number is ever given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Incarnation(pub u16);

/// The number of one change in one user's timeline: 16 bits incarnation, 48 bits count, strictly
/// increasing over all kinds. [`Seq::ZERO`] is before every item. As a terminal's sync key, opaque to it, it says:
/// I have everything up to this.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Seq(pub u64);

/// Where a message stands in its conversation: a Lamport clock (Lamport 1978), ties broken by the
/// sender's id. `count` starts at 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pos {
    /// 1 + the highest count that the sender's home had seen in this conversation.
    pub count: u64,
    /// The sender's user id.
    pub sender: u64,
}

impl Seq {
    /// Before every item.
    pub const ZERO: Self = Self(0);
    /// Bits of the count.
    pub const COUNT_BITS: u32 = 48;

    /// Puts a number together; `count` must fit its 48 bits.
    pub fn new(incarnation: Incarnation, count: u64) -> Self {
        assert!(count < 1 << Self::COUNT_BITS, "count {count} out of range");
        Self(u64::from(incarnation.0) << Self::COUNT_BITS | count)
    }

    /// The incarnation it was given in.
    pub fn incarnation(self) -> Incarnation {
        Incarnation((self.0 >> Self::COUNT_BITS) as u16)
    }

    /// The count within the incarnation.
    pub fn count(self) -> u64 {
        self.0 & ((1 << Self::COUNT_BITS) - 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.incarnation().0, self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_incarnation_is_above_every_number_of_an_earlier_one() {
        let last = Seq::new(Incarnation(0), (1 << 48) - 1);
        assert!(last < Seq::new(Incarnation(1), 0));
        assert_eq!(last.count(), (1 << 48) - 1);
        assert_eq!(Seq::new(Incarnation(7), 5).incarnation(), Incarnation(7));
    }
}
