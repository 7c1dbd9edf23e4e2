//! What must hold, each under its own name.

use std::fmt;

/// A promise of the backend that a history can show to be broken. Those of parts that the backend does not
/// have (groups, media, push, regions) join as the parts do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Invariant {
    /// No acknowledged message is lost.
    I1,
    /// No hole under a key.
    I2,
    /// No phantom: what is shown was said.
    I3,
    /// No duplicate.
    I4,
    /// One number of a timeline is one item, for ever.
    I5,
    /// One order per conversation on all devices, and the sender's own order in it.
    I6,
    /// Keys never go back; what was acknowledged is read.
    I7,
    /// An answer stands after what its sender had read.
    I8,
    /// State folded step by step equals the state of a fresh device.
    I9,
    /// What is no longer kept is not skipped in silence.
    I10,
    /// Versions rise, and what was deleted stays deleted.
    I12,
    /// A friendship has two ends.
    I16,
    /// Effects from one user to another come in order, once, all of them.
    I20,
    /// What was acknowledged as durable is in its own user's timeline.
    I21,
    /// After healing every linked terminal gets level by itself.
    L1,
    /// Nothing stays unanswered.
    L3,
    /// No device storms the backend with links.
    L5,
}

impl Invariant {
    /// What is broken, in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::I1 => "an acknowledged message is lost",
            Self::I2 => "there is a hole under a key",
            Self::I3 => "a message that nobody sent is shown",
            Self::I4 => "a message is there twice",
            Self::I5 => "one number stands for two items",
            Self::I6 => "a conversation has two orders",
            Self::I7 => "a key went back, or what was acknowledged was not read",
            Self::I8 => "an answer stands before its question",
            Self::I9 => "a fresh device differs from one that followed",
            Self::I10 => "items were skipped in silence",
            Self::I12 => "something older or deleted came back",
            Self::I16 => "a friendship has one end",
            Self::I20 => "a stream lost or reordered an effect",
            Self::I21 => "an acknowledged commit is gone",
            Self::L1 => "a linked terminal stays behind",
            Self::L3 => "a request was never answered",
            Self::L5 => "a device storms the backend with links",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::I1 => "I1",
            Self::I2 => "I2",
            Self::I3 => "I3",
            Self::I4 => "I4",
            Self::I5 => "I5",
            Self::I6 => "I6",
            Self::I7 => "I7",
            Self::I8 => "I8",
            Self::I9 => "I9",
            Self::I10 => "I10",
            Self::I12 => "I12",
            Self::I16 => "I16",
            Self::I20 => "I20",
            Self::I21 => "I21",
            Self::L1 => "L1",
            Self::L3 => "L3",
            Self::L5 => "L5",
        })
    }
}
