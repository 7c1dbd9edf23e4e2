//! What the checker remembers.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use super::Invariant;
use super::verdict::{Verdict, Violation};
use crate::history::{Device, Seen, SentAs};

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
    /// Which message stands at a place of a conversation (its two users, the smaller first).
    pub(super) places: HashMap<(u64, u64, Pos), (u64, Place)>,
    pub(super) planned: BTreeSet<String>,
    pub(super) least_acks: u64,
    pub(super) faults: BTreeMap<String, u64>,
    pub(super) lines: u64,
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
}

#[derive(Debug)]
pub(super) struct Message {
    pub(super) pos: Pos,
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
    /// The full sync under way: where it ends, and what it has brought, by kind and id.
    pub(super) filling: Option<(u64, HashSet<(i32, u64)>)>,
    pub(super) linked: bool,
    /// Level in the final drain, at this line.
    pub(super) level: Option<Place>,
    /// What was acknowledged to the user when the sync under way was asked.
    pub(super) asked: Option<Option<(u64, Place)>>,
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
            .flat_map(|send| [send.sender, send.receiver]);
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
