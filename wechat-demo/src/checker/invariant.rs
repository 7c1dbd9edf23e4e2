//! What must hold, each under its own name.

use std::fmt;

/// A promise of the backend that a history can show to be broken. Those of parts that the backend does not
/// have (regions) join as the parts do.
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
    /// What passes takes no number: every number that a device reaches is that of an item that lasts.
    I11,
    /// Versions rise, and what was deleted stays deleted.
    I12,
    /// What was recalled, deleted or blocked is not shown again.
    I13,
    /// A group's messages are shown to its members alone, from joining to leaving.
    I14,
    /// 0 <= read <= received <= newest, and marks never fall.
    I15,
    /// A friendship has two ends.
    I16,
    /// Media come as they were uploaded.
    I17,
    /// Whoever has no live link is woken, or comes back.
    I18,
    /// One process serves a store at a time.
    I19,
    /// Effects from one user to another come in order, once, all of them.
    I20,
    /// What was acknowledged as durable is in its own user's timeline.
    I21,
    /// After healing every linked terminal gets level by itself.
    L1,
    /// Somebody is always served: one part that is down does not stop the others.
    L2,
    /// Nothing stays unanswered.
    L3,
    /// What was announced is soon there.
    L4,
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
            Self::I11 => "something that passes took a number",
            Self::I12 => "something older or deleted came back",
            Self::I13 => "something that was taken back is shown",
            Self::I14 => "a group's message is shown to somebody outside it",
            Self::I15 => "a mark is where nothing was read or received",
            Self::I16 => "a friendship has one end",
            Self::I17 => "a content is not what was uploaded",
            Self::I18 => "a device was neither reached nor woken",
            Self::I19 => "two processes served one store",
            Self::I20 => "a stream lost or reordered an effect",
            Self::I21 => "an acknowledged commit is gone",
            Self::L1 => "a linked terminal stays behind",
            Self::L2 => "nobody was served",
            Self::L3 => "a request was never answered",
            Self::L4 => "what was announced came late",
            Self::L5 => "a device storms the backend with links",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The variants have the promises' names.
        fmt::Debug::fmt(self, f)
    }
}
