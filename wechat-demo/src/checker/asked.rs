//! Judging while lines come: what was asked for and what came of it.

use super::Invariant::{I13, I15, L2};
use super::change::{self, Change};
use super::state::{Attempt, Checker, Hidden, Place, conversation};
use super::watch::name;
use crate::history::{Device, Event, Seen, hash_of};
use crate::proto::terminal::Kind;

/// Nobody is answered for so long while somebody asks: then a part that was down has stopped all others. A take-over
/// takes 3 s of grace, a rolling restart some seconds a role.
const STALL_NS: u64 = 30_000_000_000;
/// A request that was not answered may be done so long after it was given up: longer than storage waits for a commit.
const LATE_NS: u64 = 15_000_000_000;

impl Checker {
    pub(super) fn take_request(
        &mut self,
        device: Device,
        place: Place,
        event: &Event,
    ) -> Result<(), String> {
        match event {
            Event::Mutate {
                op,
                command,
                request,
            } => {
                let change = change::read(*command, request);
                self.asked_for(device.u, &change.0);
                self.attempt(device, *op, place, Vec::new(), change);
            }
            Event::Ok { op, sent, n } => {
                if let Some(attempt) = self.ops.remove(&(device, *op)) {
                    self.served(place);
                    self.changed(device.u, place, &attempt, *n);
                    if let Change::Token(token) = &attempt.change {
                        self.has_token(device, token);
                    }
                }
                for sent in sent {
                    self.acked(device, place, sent)?;
                }
            }
            Event::Fail { op, .. } => {
                let attempt = self.ops.remove(&(device, *op));
                self.served(place);
                if let Some(Change::Unblock(peer)) = attempt.as_ref().map(|one| &one.change) {
                    self.walls.entry((device.u, *peer)).or_default().unsure = 0;
                }
                for id in attempt.into_iter().flat_map(|attempt| attempt.ids) {
                    if let Some(send) = self.sends.get_mut(&id) {
                        send.failed = true;
                    }
                }
            }
            Event::Info { op } => {
                let attempt = self.ops.remove(&(device, *op));
                if let Some(Change::Unblock(peer)) = attempt.map(|attempt| attempt.change) {
                    let unsure = self.now.saturating_add(LATE_NS);
                    self.walls.entry((device.u, peer)).or_default().unsure = unsure;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Somebody was answered, or nobody asks any more.
    pub(super) fn served(&mut self, place: Place) {
        let waiting = self.waiting.take();
        if let Some((_, asked)) =
            waiting.filter(|(since, _)| self.now.saturating_sub(*since) > STALL_NS)
        {
            let text = format!("nobody was answered for {} s", STALL_NS / 1_000_000_000);
            self.violated(L2, &[asked, place], text);
        }
    }

    /// What a change allows from the moment it is asked for, whatever comes of it.
    pub(super) fn asked_for(&mut self, user: u64, change: &Change) {
        let message = Kind::Message as i32;
        match *change {
            Change::Hide(kind, id) if kind == message => {
                self.reworded.entry(id).or_default().insert(hash_of(b""));
            }
            Change::Reword(id, hash) => drop(self.reworded.entry(id).or_default().insert(hash)),
            Change::Block(peer) | Change::Part(peer) => {
                self.estranged.insert(conversation(user, peer));
            }
            Change::Unblock(peer) => {
                let down = self.lines;
                let wall = self.walls.entry((user, peer)).or_default();
                (wall.up, wall.down, wall.unsure) = (None, down, u64::MAX);
            }
            _ => {}
        }
    }

    /// What a change promises once it is acknowledged.
    pub(super) fn changed(&mut self, user: u64, place: Place, attempt: &Attempt, number: u64) {
        let moment = self.lines;
        if attempt.ids.is_empty() {
            *self.changes.entry(attempt.word).or_default() += 1;
        }
        match attempt.change {
            Change::Hide(kind, id) => {
                self.hidden.entry((kind, id)).or_insert(Hidden {
                    by: user,
                    moment,
                    place,
                });
            }
            Change::Block(peer) => {
                let wall = self.walls.entry((user, peer)).or_default();
                if attempt.moment > wall.down && attempt.t >= wall.unsure && wall.up.is_none() {
                    wall.up = Some((moment, place));
                }
            }
            Change::Unblock(peer) => self.walls.entry((user, peer)).or_default().unsure = 0,
            _ => {}
        }
        let known = self.users.entry(user).or_default();
        if number > 0 && known.acked.is_none_or(|(acked, _)| acked < number) {
            known.acked = Some((number, place));
        }
    }

    /// What was asked for after it was taken back does not show it (I13).
    pub(super) fn taken_back(
        &mut self,
        device: Device,
        place: Place,
        (asked, asked_at): (u64, Place),
        item: &Seen,
    ) {
        let hidden = self.hidden.get(&(item.k, item.i));
        let hidden = hidden.filter(|hidden| hidden.by == device.u && hidden.moment < asked);
        if let Some(hidden) = hidden.filter(|_| !item.x && !item.g) {
            let lines = [hidden.place, asked_at, place];
            let text = format!(
                "({}, {}) was taken back, and a sync of device {} shows it",
                item.k,
                item.i,
                name(device)
            );
            self.violated(I13, &lines, text);
        }
    }

    /// What was said after its receiver had blocked the sender is not taken (I13).
    pub(super) fn walled(
        &mut self,
        device: Device,
        place: Place,
        item: &Seen,
        said: Option<(Place, u64)>,
    ) {
        let (Some((sender, receiver)), Some((invoked, moment))) = (item.who, said) else {
            return;
        };
        let wall = self.walls.get(&(device.u, sender));
        let up = wall.and_then(|wall| wall.up);
        let up = up.filter(|(since, _)| receiver == device.u && moment > *since);
        if let Some((_, blocked)) = up {
            let text = format!(
                "device {} shows message {} of {sender}, who was blocked when it was sent",
                name(device),
                item.i
            );
            self.violated(I13, &[blocked, invoked, place], text);
        }
    }

    /// Marks follow what is there, and never fall (I15); that they are not ahead of it is seen at the end.
    pub(super) fn marks(
        &mut self,
        device: Device,
        place: Place,
        before: Option<&Seen>,
        item: &Seen,
    ) {
        let Some([received, read, peer_received, peer_read]) = item.r else {
            return;
        };
        let text = format!(
            "device {} was given received {received} and read {read}, {peer_received} and {peer_read} of {}",
            name(device),
            item.i
        );
        if read > received || peer_read > peer_received {
            self.violated(I15, &[place], text.clone());
        }
        let fell = |(old, new): (&u64, &u64)| old > new;
        let known = before.and_then(|before| Some((before.n, before.r?)));
        if let (Some((n, old)), Some(new)) = (known, &item.r)
            && old.iter().zip(new).any(fell)
            && before.is_some_and(|before| before.v <= item.v)
        {
            let items = &self.users.entry(device.u).or_default().items;
            let at = items.get(&n).map_or(place, |(_, at)| *at);
            self.violated(I15, &[at, place], text);
        }
    }
}
