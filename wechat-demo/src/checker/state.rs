//! What the checker remembers.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use rpc_core::base::metric::Histogram;

use super::Invariant;
use super::change::Change;
use super::processes::Processes;
use super::verdict::{Verdict, Violation};
use crate::history::{Device, Seen, SentAs};
use crate::model::UserId;

/// Where a line stands: its file, then its number from 1.
pub type Place = (u32, u32);
/// A client id.
pub(super) type ClientId = u128;
/// A place in a conversation: count, then sender.
pub(super) type Pos = (u64, u64);

/// Judges a history. Give it the lines in the order of their times, then [`Checker::finish`] it.
#[derive(Debug, Default)]
pub struct Checker {
    pub(super) sends: HashMap<ClientId, Send>,
    pub(super) users: BTreeMap<u64, User>,
    pub(super) devices: BTreeMap<Device, Phone>,
    /// Attempts under way.
    pub(super) ops: HashMap<(Device, u64), Attempt>,
    /// By message id.
    pub(super) messages: HashMap<u64, Message>,
    /// What was taken back, by kind and id.
    pub(super) hidden: HashMap<(i32, u64), Hidden>,
    /// Hashes of what messages were edited to, by message id.
    pub(super) reworded: HashMap<u64, HashSet<u64>>,
    /// Who blocks whom.
    pub(super) walls: HashMap<(u64, u64), Wall>,
    /// Pairs (the smaller first) of whom one has ever blocked or removed the other.
    pub(super) estranged: HashSet<(u64, u64)>,
    /// By group and version.
    pub(super) rosters: HashMap<u64, BTreeMap<u64, Roster>>,
    /// Which message stands at a place of a conversation, see [`conversation`].
    pub(super) places: HashMap<(u64, u64, Pos), (u64, Place)>,
    pub(super) processes: Processes,
    /// Hash of each content in the media store, and the line that first told of it.
    pub(super) contents: HashMap<String, (String, Place)>,
    pub(super) planned: BTreeSet<String>,
    /// Changes of which one must be acknowledged.
    pub(super) wanted: BTreeSet<String>,
    /// Acknowledged changes by name.
    pub(super) changes: BTreeMap<&'static str, u64>,
    pub(super) least_acks: u64,
    pub(super) faults: BTreeMap<String, u64>,
    pub(super) lines: u64,
    /// Time of the line in hand, ns.
    pub(super) now: u64,
    /// Something was asked at this time and nothing has been answered to anybody since.
    pub(super) waiting: Option<(u64, Place)>,
    /// From a notify to its items on the device, ns.
    pub(super) visible: Histogram,
    /// The longest of these, and the lines of its notify and its items.
    pub(super) slowest: (u64, [Place; 2]),
    pub(super) acks: u64,
    pub(super) applied: u64,
    pub(super) draining: bool,
    pub(super) rested: bool,
    pub(super) ended: bool,
    pub(super) found: BTreeMap<Invariant, (u64, Violation)>,
}

/// An incarnation stands above these bits of a number.
pub(super) const COUNT_BITS: u32 = 48;

/// A message that was said.
#[derive(Debug)]
pub(super) struct Send {
    pub(super) sender: u64,
    pub(super) device: u64,
    pub(super) receiver: u64,
    pub(super) hash: u64,
    pub(super) invoked: Place,
    /// How many lines there were before it.
    pub(super) moment: u64,
    /// The version of the group's roster that the sending device had.
    pub(super) roster: Option<u64>,
    /// To a group: the sender's message that was acknowledged last before it.
    pub(super) after_said: Option<ClientId>,
    /// The highest place of the sender's own acknowledged messages in the conversation before it.
    pub(super) after_own: Option<(Pos, Place)>,
    /// The highest place that the sending device had applied before it.
    pub(super) after_read: Option<(Pos, Place)>,
    pub(super) acked: Option<(SentAs, Place)>,
    /// Refused for good.
    pub(super) failed: bool,
}

/// An attempt under way.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) ids: Vec<ClientId>,
    pub(super) place: Place,
    pub(super) change: Change,
    /// The change's name.
    pub(super) word: &'static str,
    /// How many lines there were before it, and its time.
    pub(super) moment: u64,
    pub(super) t: u64,
}

/// What was taken back, once that was acknowledged.
#[derive(Debug)]
pub(super) struct Hidden {
    pub(super) by: u64,
    /// How many lines there were before the acknowledgement.
    pub(super) moment: u64,
    pub(super) place: Place,
}

/// One user's block of another.
#[derive(Debug, Default)]
pub(super) struct Wall {
    /// It stands since this acknowledgement: lines before it, and its own.
    pub(super) up: Option<(u64, Place)>,
    /// Lines before it was last asked to be taken down.
    pub(super) down: u64,
    /// Until then, ns, something that was not answered may still take it down.
    pub(super) unsure: u64,
}

/// Who is in a group in one version of it.
#[derive(Debug)]
pub(super) struct Roster {
    /// Each with the position after which it has the messages.
    pub(super) members: Vec<(u64, u64)>,
    pub(super) place: Place,
}

impl Roster {
    /// After which position a user has the messages.
    pub(super) fn joined(&self, user: u64) -> Option<u64> {
        let member = self.members.iter().find(|(member, _)| *member == user);
        member.map(|(_, joined)| *joined)
    }
}

/// Names a conversation: its two users, the smaller first, or the group twice.
pub(super) fn conversation(sender: u64, receiver: u64) -> (u64, u64) {
    if UserId(receiver).is_group() {
        (receiver, receiver)
    } else {
        (sender.min(receiver), sender.max(receiver))
    }
}

#[derive(Debug)]
pub(super) struct Message {
    /// `None`: a group's, and not placed yet.
    pub(super) pos: Option<Pos>,
    pub(super) id: ClientId,
    pub(super) place: Place,
}

#[derive(Debug, Default)]
pub(super) struct User {
    /// Everything any device was shown, by number.
    pub(super) items: BTreeMap<u64, (Seen, Place)>,
    /// The highest number that was acknowledged to the user.
    pub(super) acked: Option<(u64, Place)>,
    /// Per conversation, the highest place acknowledged to the user.
    pub(super) own: HashMap<u64, (Pos, Place)>,
    /// Per group, the message acknowledged last.
    pub(super) said: HashMap<u64, ClientId>,
    /// Acknowledged numbers of sent messages.
    pub(super) numbers: HashMap<u64, (ClientId, Place)>,
}

/// A device as its terminal's lines show it.
#[derive(Debug, Default)]
pub(super) struct Phone {
    pub(super) key: u64,
    /// Line of the key.
    pub(super) at: Place,
    /// Numbers (from, to] that its store has and no line told of.
    pub(super) untold: Vec<(u64, u64)>,
    pub(super) held: HashMap<(i32, u64), Seen>,
    pub(super) messages: HashMap<ClientId, u64>,
    pub(super) refused: HashSet<ClientId>,
    /// Its key before it was last told to go back, until it has taken something since.
    pub(super) back: Option<u64>,
    /// The full sync under way: where it ends, and what it has brought, by kind and id.
    pub(super) filling: Option<(u64, HashSet<(i32, u64)>)>,
    pub(super) linked: bool,
    /// Acknowledged messages to the user that it did not have when all was to be level.
    pub(super) owed: HashSet<ClientId>,
    /// Level in the final drain, at this line.
    pub(super) level: Option<Place>,
    /// What was acknowledged to the user when the sync under way was asked.
    pub(super) asked: Option<Option<(u64, Place)>>,
    /// Lines before the sync under way was asked, and its line.
    pub(super) asking: Option<(u64, Place)>,
    /// The answer in hand: from, to, and what `asking` was.
    pub(super) answer: Option<(u64, u64, (u64, Place))>,
    /// Keys that were announced and are not there yet, and when.
    pub(super) announced: VecDeque<(u64, u64, Place)>,
    /// The next page continues from this key.
    pub(super) more_from: Option<u64>,
    /// First pages: from, first number shown or one above what was said to be all, line.
    pub(super) pages: Vec<(u64, u64, Place)>,
    /// Per conversation, the highest place applied.
    pub(super) read: HashMap<u64, (Pos, Place)>,
    /// Times of its last links, ns.
    pub(super) links: VecDeque<u64>,
}

impl Phone {
    /// Its store let go of some items.
    pub(super) fn let_go(&mut self, gone: impl Fn(&Seen) -> bool) {
        for (_, item) in self.held.extract_if(|_, item| gone(item)) {
            if let Some(id) = item
                .c
                .as_deref()
                .and_then(|c| u128::from_str_radix(c, 16).ok())
            {
                self.messages.remove(&id);
                self.refused.remove(&id);
            }
        }
    }

    /// Whether the store may hold a number that no line told of.
    pub(super) fn is_untold(&self, number: u64) -> bool {
        self.untold
            .iter()
            .any(|&(from, to)| from < number && number <= to)
    }

    /// Whether an item, or a newer version of it, is there.
    pub(super) fn has(&self, item: &Seen) -> bool {
        match self.held.get(&(item.k, item.i)) {
            Some(held) => held.v >= item.v,
            // A device that never had it need not hear that it was deleted.
            None => item.x,
        }
    }
}

impl Checker {
    /// Keeps a violation if it is the shortest of its invariant so far.
    pub(super) fn violated(&mut self, invariant: Invariant, lines: &[Place], text: String) {
        let mut lines = lines.to_vec();
        lines.sort_unstable();
        lines.dedup();
        let new = Violation { text, lines };
        let (count, kept) = self
            .found
            .entry(invariant)
            .or_insert_with(|| (0, new.clone()));
        *count += 1;
        if (new.lines.len(), &new.lines) < (kept.lines.len(), &kept.lines) {
            *kept = new;
        }
    }

    /// Holds what is left against the final state, and judges.
    #[must_use]
    pub fn finish(mut self) -> Verdict {
        self.settle();
        let missing = self.missing_evidence();
        Verdict {
            violations: self.found,
            missing,
            lines: self.lines,
            acks: self.acks,
            applied: self.applied,
            devices: self.devices.len(),
            faults: self.faults,
            changes: self.changes,
            visible: self.visible.snapshot(),
        }
    }

    fn missing_evidence(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.ended {
            missing.push("the history has no last line: it was cut off".to_owned());
        }
        if self.acks < self.least_acks {
            missing.push(format!(
                "{} messages were acknowledged, at least {} are needed",
                self.acks, self.least_acks
            ));
        }
        if self.acks == 0 && self.least_acks == 0 {
            missing.push("no message was acknowledged".to_owned());
        }
        for fault in &self.planned {
            let wanted = fault.trim_end_matches('*');
            let open = wanted.len() < fault.len();
            let mut names = self.faults.keys();
            if !names.any(|name| name == fault || open && name.starts_with(wanted)) {
                missing.push(format!("the planned fault {fault} never happened"));
            }
        }
        for change in &self.wanted {
            if !self.changes.contains_key(change.as_str()) {
                missing.push(format!("no change of the kind {change} was acknowledged"));
            }
        }
        let level: BTreeSet<u64> = self
            .devices
            .iter()
            .filter(|(_, phone)| phone.level.is_some())
            .map(|(device, _)| device.u)
            .collect();
        let talked = self
            .sends
            .values()
            .filter(|send| send.acked.is_some())
            .flat_map(|send| [send.sender, send.receiver])
            .filter(|&user| !UserId(user).is_group());
        let unseen: BTreeSet<u64> = talked.filter(|user| !level.contains(user)).collect();
        if let Some(user) = unseen.first() {
            missing.push(format!(
                "{} users have no device that was level in the final drain, user {user} among them",
                unseen.len()
            ));
        }
        missing
    }
}
