//! Judging at the end: groups, what was taken back, and marks.

use std::collections::HashMap;

use super::Invariant::{I1, I6, I8, I13, I14, I15, L4};
use super::settle::Found;
use super::state::{Checker, ClientId, Pos, Roster, conversation};
use super::watch::name;
use crate::model::UserId;
use crate::proto::terminal::Kind;

/// Below so many notifies a quantile says little.
const TIMED: u64 = 100;
/// What was announced is there within this, of a hundred notifies all but one: generous, for faults fall in between.
const VISIBLE_NS: u64 = 10_000_000_000;

impl Checker {
    /// Where each message stands, by client id.
    fn placed(&self) -> HashMap<ClientId, Pos> {
        let placed = self.messages.values();
        placed
            .filter_map(|message| Some((message.id, message.pos?)))
            .collect()
    }

    /// Every acknowledged message to a group is placed, and with everybody who has been a member since before it
    /// (I1); one sender's stand in the order in which they were said (I6), answers after what was read (I8).
    pub(super) fn groups(&self, found: &mut Vec<Found>) {
        let placed = self.placed();
        for (id, send) in &self.sends {
            let (Some((sent, acked)), true) = (&send.acked, UserId(send.receiver).is_group())
            else {
                continue;
            };
            if self.is_refused(send.sender, *id) {
                continue;
            }
            let Some(&pos) = placed.get(id) else {
                if let Some((device, _, level)) = self.level_devices(send.sender).next() {
                    let text = format!(
                        "message {} to a group has no place at device {}",
                        sent.i,
                        name(device)
                    );
                    found.push((I1, vec![send.invoked, *acked, level], text));
                }
                continue;
            };
            let before = send.after_said.and_then(|said| placed.get(&said));
            if before.is_some_and(|before| *before >= pos) {
                let text = format!("message {} to a group stands before an earlier one", sent.i);
                found.push((I6, vec![send.invoked, *acked], text));
            }
            if let Some((read, at)) = send.after_read.filter(|(read, _)| *read >= pos) {
                let text = format!("sent to a group after {read:?} was read, placed at {pos:?}");
                found.push((I8, vec![at, send.invoked], text));
            }
            for (user, joined) in self.members(send.receiver) {
                if joined >= pos.0 {
                    continue;
                }
                for (device, phone, level) in self.level_devices(user) {
                    if !phone.messages.contains_key(id) && phone.untold.is_empty() {
                        let text = format!(
                            "device {} lacks message {} to its group",
                            name(device),
                            sent.i
                        );
                        found.push((I1, vec![send.invoked, *acked, level], text));
                    }
                }
            }
        }
    }

    /// A group's last members.
    fn members(&self, group: u64) -> Vec<(u64, u64)> {
        let versions = self.rosters.get(&group);
        let last = versions.and_then(|versions| versions.last_key_value());
        last.map_or_else(Vec::new, |(_, roster)| roster.members.clone())
    }

    /// A device shows a group's messages only from after its user joined, and none that was said when its sender
    /// already knew that the user had left (I14).
    pub(super) fn bounds(&self, found: &mut Vec<Found>) {
        let none = std::collections::BTreeMap::new();
        for (device, phone) in &self.devices {
            for (id, message) in &phone.messages {
                let Some(item) = phone.held.get(&(Kind::Message as i32, *message)) else {
                    continue;
                };
                let (Some((_, group)), Some(pos)) = (item.who, item.p) else {
                    continue;
                };
                if !UserId(group).is_group() || pos.0 == 0 {
                    continue;
                }
                let shown = self.users.get(&device.u);
                let shown = shown.and_then(|user| user.items.get(&item.n));
                let at = shown.map_or(phone.at, |(_, at)| *at);
                let versions = self.rosters.get(&group).unwrap_or(&none);
                let began =
                    |roster: &Roster| roster.joined(device.u).is_some_and(|joined| joined < pos.0);
                if !versions.values().any(began) {
                    let text = format!(
                        "device {} shows message {message} at {pos:?} of a group that its user joined later",
                        name(*device)
                    );
                    found.push((I14, vec![at], text));
                    continue;
                }
                let Some(send) = self.sends.get(id) else {
                    continue;
                };
                let known = send
                    .roster
                    .and_then(|version| Some((version, versions.get(&version)?)));
                let Some((version, roster)) =
                    known.filter(|(_, roster)| roster.joined(device.u).is_none())
                else {
                    continue;
                };
                if !versions.range(version..).any(|(_, roster)| began(roster)) {
                    let text = format!(
                        "device {} shows message {message} of a group that its user had left",
                        name(*device)
                    );
                    found.push((I14, vec![roster.place, send.invoked, at], text));
                }
            }
        }
    }

    /// What was taken back is shown nowhere in the end (I13), but where the word of it need not arrive: at those
    /// who have parted, or have not been in one group all the time.
    pub(super) fn hidden(&self, found: &mut Vec<Found>) {
        for user in self.users.keys() {
            for (device, phone, level) in self.level_devices(*user) {
                for (what, hidden) in &self.hidden {
                    let Some(item) = phone.held.get(what).filter(|item| !item.x && !item.g) else {
                        continue;
                    };
                    if !phone.untold.is_empty() || !self.hears(*user, hidden.by, item.who, item.p) {
                        continue;
                    }
                    let text = format!(
                        "({}, {}) was taken back, and device {} shows it in the end",
                        what.0,
                        what.1,
                        name(device)
                    );
                    found.push((I13, vec![hidden.place, level], text));
                }
            }
        }
    }

    /// Whether word of what `by` did to something must have come to `user`.
    fn hears(&self, user: u64, by: u64, who: Option<(u64, u64)>, pos: Option<Pos>) -> bool {
        let group = who.map(|(_, receiver)| receiver);
        match group.filter(|group| UserId(*group).is_group()) {
            _ if user == by => true,
            None => !self.estranged.contains(&conversation(user, by)),
            Some(group) => {
                let members = self.members(group);
                let since = |who| members.iter().find(|(member, _)| *member == who);
                [user, by].into_iter().all(|who| {
                    let since = since(who);
                    since.is_some_and(|(_, joined)| pos.is_some_and(|pos| *joined < pos.0))
                })
            }
        }
    }

    /// Nobody has received more of a conversation than there is (I15).
    pub(super) fn ahead(&self, found: &mut Vec<Found>) {
        let mut newest: HashMap<(u64, u64), u64> = HashMap::new();
        for (one, other, pos) in self.places.keys() {
            let newest = newest.entry((*one, *other)).or_default();
            *newest = pos.0.max(*newest);
        }
        for (user, known) in &self.users {
            let marks = known.items.values();
            let marks = marks.filter_map(|(item, at)| Some((item, item.r?, *at)));
            for (item, [received, _, peer_received, _], at) in marks {
                let there = newest
                    .get(&conversation(*user, item.i))
                    .copied()
                    .unwrap_or(0);
                // Each change of a group takes a position of its own.
                let changes = self
                    .rosters
                    .get(&item.i)
                    .and_then(|all| all.last_key_value());
                let there = there + changes.map_or(0, |(version, _)| *version);
                if received.max(peer_received) > there {
                    let text = format!(
                        "user {user} has received up to {received} and {} up to {peer_received} of a conversation that ends at {there}",
                        item.i
                    );
                    found.push((I15, vec![at], text));
                }
            }
        }
    }

    /// What was announced was soon there (L4).
    pub(super) fn late(&self, found: &mut Vec<Found>) {
        let visible = self.visible.snapshot();
        let p99 = visible.quantile(0.99);
        if visible.count() >= TIMED && p99 > VISIBLE_NS {
            let text = format!(
                "one notify of a hundred took {:.1} s or more to be followed by its items; {} s are allowed",
                p99 as f64 / 1e9,
                VISIBLE_NS / 1_000_000_000
            );
            let (_, lines) = self.slowest;
            found.push((L4, lines.to_vec(), text));
        }
    }
}
