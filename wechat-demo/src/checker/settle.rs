//! Judging at the end: what devices hold against what was acknowledged, shown elsewhere, and each other.
//! Groups, what was taken back and marks are judged in `members.rs`.

use std::collections::HashMap;

use super::Invariant::{self, I1, I2, I9, I10, I12, I16, I20, I21};
use super::state::{COUNT_BITS, Checker, ClientId, Place};
use super::watch::name;
use crate::history::{Device, Seen};
use crate::proto::terminal::Kind;
use crate::proto::terminal::contact::State;

/// A violation on its way.
pub(super) type Found = (Invariant, Vec<Place>, String);

impl Checker {
    pub(super) fn settle(&mut self) {
        let mut found = Vec::new();
        self.lost(&mut found);
        self.holes(&mut found);
        self.skipped(&mut found);
        self.differences(&mut found);
        self.one_sided(&mut found);
        self.streams(&mut found);
        self.groups(&mut found);
        self.bounds(&mut found);
        self.hidden(&mut found);
        self.ahead(&mut found);
        self.late(&mut found);
        self.primaries(&mut found);
        for (invariant, lines, text) in found {
            self.violated(invariant, &lines, text);
        }
    }

    /// Devices of a user that were level in the final drain.
    pub(super) fn level_devices(
        &self,
        user: u64,
    ) -> impl Iterator<Item = (Device, &super::state::Phone, Place)> {
        let all = Device { u: user, d: 0 }..=Device {
            u: user,
            d: u64::MAX,
        };
        self.devices
            .range(all)
            .filter_map(|(device, phone)| Some((*device, phone, phone.level?)))
    }

    /// Every acknowledged message is with both, or its sender was told that it was refused (I1, I21).
    fn lost(&self, found: &mut Vec<Found>) {
        for (id, send) in &self.sends {
            let Some((sent, acked)) = &send.acked else {
                continue;
            };
            for (device, phone, level) in self.level_devices(send.sender) {
                if !phone.messages.contains_key(id) && !phone.is_untold(sent.n) {
                    let text = format!(
                        "device {} of its own sender lacks message {}, acknowledged under {}",
                        name(device),
                        sent.i,
                        sent.n
                    );
                    let lines = vec![send.invoked, *acked, level];
                    found.push((I21, lines.clone(), text.clone()));
                    found.push((I1, lines, text));
                }
            }
            let refused = self
                .level_devices(send.sender)
                .any(|(_, phone, _)| phone.refused.contains(id));
            if refused {
                continue;
            }
            for (device, phone, level) in self.level_devices(send.receiver) {
                if !phone.messages.contains_key(id) && phone.untold.is_empty() {
                    let text = format!("device {} lacks message {}", name(device), sent.i);
                    found.push((I1, vec![send.invoked, *acked, level], text));
                }
            }
        }
    }

    /// Whatever any device was shown at or below a key is with every device at that key (I2); a device that
    /// still has what was deleted has missed the deletion (I12).
    fn holes(&self, found: &mut Vec<Found>) {
        for (device, phone) in &self.devices {
            let Some(user) = self.users.get(&device.u) else {
                continue;
            };
            for (number, (item, at)) in user.items.range(..=phone.key) {
                if phone.has(item) || phone.is_untold(*number) {
                    continue;
                }
                let text = format!(
                    "device {} is at key {} without number {number}",
                    name(*device),
                    phone.key
                );
                let invariant = if item.x { I12 } else { I2 };
                found.push((invariant, vec![*at, phone.at], text));
            }
        }
    }

    /// The first page of an answer begins with the first item above the key (I10).
    fn skipped(&self, found: &mut Vec<Found>) {
        for (device, phone) in &self.devices {
            let Some(user) = self.users.get(&device.u) else {
                continue;
            };
            let mut newest: HashMap<(i32, u64), u64> = HashMap::new();
            for (item, _) in user.items.values() {
                let version = newest.entry((item.k, item.i)).or_default();
                *version = item.v.max(*version);
            }
            for &(from, first, place) in &phone.pages {
                let between = user.items.range(from + 1..first.max(from + 1));
                let skipped = between
                    .map(|(number, (item, at))| (number, item, at))
                    .find(|(_, item, _)| !item.x && newest[&(item.k, item.i)] == item.v);
                if let Some((number, _, at)) = skipped {
                    let text = format!(
                        "device {} asked from {from} and the answer passed over {number}",
                        name(*device)
                    );
                    found.push((I10, vec![*at, place], text));
                }
            }
        }
    }

    /// Devices at one key hold one state (I9).
    fn differences(&self, found: &mut Vec<Found>) {
        for &user in self.users.keys() {
            let mut devices = self
                .level_devices(user)
                .filter(|(_, phone, _)| phone.untold.is_empty());
            let Some((first, one, level)) = devices.next() else {
                continue;
            };
            for (second, other, other_level) in devices {
                if one.key != other.key {
                    continue;
                }
                let lacks = |a: &super::state::Phone, b: &super::state::Phone| {
                    a.held
                        .values()
                        .filter(|item| !item.x)
                        .filter(|item| b.held.get(&(item.k, item.i)).is_none_or(|o| o != *item))
                        .map(|item| item.n)
                        .min()
                };
                if let Some(number) = lacks(one, other).or_else(|| lacks(other, one)) {
                    let text = format!(
                        "devices {} and {} are both at key {} and differ in number {number}",
                        name(first),
                        name(second),
                        one.key
                    );
                    found.push((I9, vec![level, other_level], text));
                }
            }
        }
    }

    /// Whoever is a friend has a friend, unless the other has removed them (I16); a block is a mark beside.
    fn one_sided(&self, found: &mut Vec<Found>) {
        let mut states: HashMap<(u64, u64), (i32, Place)> = HashMap::new();
        for &user in self.users.keys() {
            for (_, phone, level) in self.level_devices(user) {
                for item in phone.held.values().filter(|item| is_contact(item)) {
                    states.insert((user, item.i), (item.s.unwrap_or(0), level));
                }
            }
        }
        let friend = State::Friend as i32;
        let ends = [friend, State::Removed as i32];
        for (&(user, peer), &(state, at)) in &states {
            let Some(&(back, other_at)) = states.get(&(peer, user)) else {
                continue;
            };
            if state == friend && !ends.contains(&back) {
                let text = format!("{peer} is a friend of {user}, who is {back} at {peer}");
                found.push((I16, vec![at, other_at], text));
            }
        }
    }

    /// From one sender to one receiver effects come in the order of their causes, none missing before one that
    /// is there (I20).
    fn streams(&self, found: &mut Vec<Found>) {
        for &receiver in self.users.keys() {
            let Some((_, phone, level)) = self
                .level_devices(receiver)
                .find(|(_, phone, _)| phone.untold.is_empty())
            else {
                continue;
            };
            // By sender and incarnation: number of the cause, number of the effect (if there), line.
            type Effect = (u64, Option<u64>, Place);
            let mut streams: HashMap<(u64, u64), Vec<Effect>> = HashMap::new();
            for (id, send) in &self.sends {
                let Some((sent, acked)) = &send.acked else {
                    continue;
                };
                if send.receiver != receiver || self.is_refused(send.sender, *id) {
                    continue;
                }
                let effect = phone.messages.get(id).and_then(|message| {
                    let held = phone.held.get(&(Kind::Message as i32, *message))?;
                    (held.v == 1).then_some(held.n)
                });
                if effect.is_none() && phone.messages.contains_key(id) {
                    // Changed since: its first number is no longer known here.
                    continue;
                }
                streams
                    .entry((send.sender, sent.n >> COUNT_BITS))
                    .or_default()
                    .push((sent.n, effect, *acked));
            }
            for ((sender, _), mut effects) in streams {
                effects.sort_unstable();
                let there = effects.iter().rposition(|(_, effect, _)| effect.is_some());
                let mut before = (0, level);
                for &(cause, effect, acked) in &effects[..there.map_or(0, |last| last + 1)] {
                    let lines = vec![before.1, acked, level];
                    match effect {
                        None => {
                            let text = format!(
                                "number {cause} of {sender} had no effect at {receiver}, a later one had"
                            );
                            found.push((I20, lines, text));
                        }
                        Some(number) if number < before.0 => {
                            let text = format!(
                                "number {cause} of {sender} has its effect at {receiver} before an earlier one's"
                            );
                            found.push((I20, lines, text));
                        }
                        Some(number) => before = (number, acked),
                    }
                }
            }
        }
    }

    pub(super) fn is_refused(&self, user: u64, id: ClientId) -> bool {
        self.level_devices(user)
            .any(|(_, phone, _)| phone.refused.contains(&id))
    }
}

fn is_contact(item: &Seen) -> bool {
    item.k == Kind::Contact as i32
}
