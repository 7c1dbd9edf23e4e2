//! Histories: what terminals and tools saw and did, one JSON line each, for the checker to judge.
//!
//! Knows:       lines, the file they go to, the machine's monotonic clock.
//! Does not know: what is right; nothing here compares anything.
//!
//! Invariants
//! - H-1  A line is one `write` of its own to a file opened for appending: a killed process tears its last
//!   line at most.
//! - H-2  Times are nanoseconds of CLOCK_MONOTONIC, taken under the lock of the file: within a file they
//!   never fall, and files of one machine can be merged by them.
//! - H-3  `invoke` is written before the request leaves, `apply` after the store holds the items, `rewind` and `full`
//!   before the store goes back: a terminal that is killed on the way is then ahead of its history, never behind.
//! - H-4  A history that could not be written in full has no `end` line.
//!
//! Read first: [`Event`].

mod record;
pub mod seen;

use serde::{Deserialize, Serialize};

pub use record::{History, Recorder};
pub use seen::{Said, Seen, bytes_of, cmid, hash_of};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// CLOCK_MONOTONIC, ns.
    pub t: u64,
    /// Whose terminal; absent on lines of tools.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub on: Option<Device>,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// A device of a user, by the backend's ids: the same through every restart of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Device {
    /// User id.
    pub u: u64,
    /// Device id, unique for the user.
    pub d: u64,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "e", rename_all = "snake_case")]
pub enum Event {
    // ---- Of a terminal. ----
    /// The terminal starts; its store holds everything up to `key`. With 0 it is a fresh device.
    Start {
        /// The store's key.
        key: u64,
    },
    /// A link speaks for the user; the newest key at its AUTH.
    Linked {
        /// As the backend said.
        newest: u64,
    },
    /// The link is gone.
    Unlinked {},
    /// A request to send is about to leave, the first time or again.
    Invoke {
        /// Names the attempt in its file.
        op: u64,
        /// Receiver.
        to: u64,
        /// The messages, in order.
        said: Vec<Said>,
    },
    /// A request to change something else is about to leave.
    Mutate {
        /// Names the attempt in its file.
        op: u64,
        /// The command's number.
        command: u32,
        /// The encoded request, in hexadecimal.
        request: String,
    },
    /// The backend did it.
    Ok {
        /// The attempt.
        op: u64,
        /// Where each message went; empty for other changes.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        sent: Vec<SentAs>,
        /// Number of the item that shows another change in the user's timeline; 0 = none does yet.
        #[serde(skip_serializing_if = "is_zero", default)]
        n: u64,
    },
    /// The backend refused it for good.
    Fail {
        /// The attempt.
        op: u64,
        /// Status code.
        code: u32,
    },
    /// No answer: it may have been done or not.
    Info {
        /// The attempt.
        op: u64,
    },
    /// The backend took something that passes: typing, a question for presence.
    Pass {
        /// The command's number.
        command: u32,
    },
    /// Asks for what is newer.
    Sync {
        /// The terminal's key.
        from: u64,
    },
    /// The answer.
    Synced {
        /// The key that was sent.
        from: u64,
        /// The key that came back.
        to: u64,
        /// Whether there is more.
        more: bool,
        /// Number of the first item; 0 = none.
        first: u64,
    },
    /// "Your timeline has moved."
    Notify {
        /// From this key
        prev: u64,
        /// to this one.
        key: u64,
        /// Items that came with it.
        items: u32,
    },
    /// A heartbeat's answer.
    Beat {
        /// The newest key, if the backend could tell.
        newest: Option<u64>,
    },
    /// The store holds these items now.
    Apply {
        /// The key before
        before: u64,
        /// and after.
        after: u64,
        /// In number order.
        items: Vec<Seen>,
    },
    /// The backend has lost what this user's numbers above `to` named; the store is about to let go of it.
    Rewind {
        /// The key before.
        before: u64,
        /// What survived.
        to: u64,
    },
    /// A full sync is about to begin: what the store has goes when its key is `to`, unless it is applied until then.
    /// The key counts from 0 again.
    Full {
        /// The key before.
        before: u64,
        /// Where it ends.
        to: u64,
    },
    /// The terminal asked on purpose until there was nothing newer.
    Level {
        /// Its key then.
        key: u64,
    },
    /// The media store said that it has a content for good.
    Upload {
        /// What the store calls it.
        file: String,
        /// Hash of the content, in hexadecimal.
        hash: String,
    },
    /// A content came from the media store, whole.
    Fetch {
        /// What the store calls it.
        file: String,
        /// Hash that the pointer says.
        said: String,
        /// Hash of what came.
        hash: String,
    },
    // ---- Of a tool. ----
    /// The run begins.
    Run {
        /// The tool.
        what: String,
        /// Of its random choices.
        seed: u64,
        /// Faults that are planned, at the least, by their names; each must happen.
        faults: Vec<String>,
        /// Acknowledged messages without which the run shows too little.
        least_acks: u64,
        /// Changes, by the checker's names; of each one at the least must be acknowledged.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        changes: Vec<String>,
    },
    /// Something was done to a part of the system.
    Fault {
        /// What.
        what: String,
        /// To whom.
        target: String,
    },
    /// A push service took a push.
    Woken {
        /// The device's token.
        token: String,
        /// Of the item that the device is to come for.
        number: u64,
    },
    /// A storage process may serve a store until then, or no longer.
    Lease {
        /// Which store, by its name; empty where there is but one.
        #[serde(skip_serializing_if = "String::is_empty", default)]
        store: String,
        /// The process's disk, in hexadecimal.
        member: String,
        /// Of its view.
        epoch: u64,
        /// CLOCK_MONOTONIC, ns; the greatest number = until it says otherwise.
        until: u64,
    },
    /// A storage process has answered as the primary.
    Serves {
        /// Which store, by its name; empty where there is but one.
        #[serde(skip_serializing_if = "String::is_empty", default)]
        store: String,
        /// The process's disk, in hexadecimal.
        member: String,
        /// Of its view.
        epoch: u64,
        /// When it saw that it might, after the answer was made: CLOCK_MONOTONIC, ns.
        at: u64,
    },
    /// No fault is in force any more, and nothing is sent from here on.
    Healed {},
    /// So much time has passed since that every linked terminal must be level by itself.
    Rest {},
    /// The final drain begins: what is level from here on shows the final state.
    Drain {},
    /// The history is whole.
    End {},
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Where the backend put a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentAs {
    /// Client id, in hexadecimal.
    pub c: String,
    /// Message id.
    pub i: u64,
    /// Number in the sender's timeline.
    pub n: u64,
    /// Place in the conversation: count, then sender.
    pub p: (u64, u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_as_it_was_written() {
        let line = Line {
            t: 7,
            on: Some(Device { u: u64::MAX, d: 2 }),
            event: Event::Ok {
                op: 3,
                sent: vec![SentAs {
                    c: "00ff".to_owned(),
                    i: u64::MAX,
                    n: 1 << 60,
                    p: (1, u64::MAX),
                }],
                n: 0,
            },
        };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
        let text = r#"{"t":1,"e":"rest"}"#;
        assert_eq!(
            serde_json::from_str::<Line>(text).unwrap().event,
            Event::Rest {}
        );
    }
}
