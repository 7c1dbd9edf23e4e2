//! Judging while lines come.

use std::collections::HashSet;

use super::Invariant::{I3, I4, I5, I6, I7, I8, I11, I12, I17, L1, L3, L5};
use super::change::{self, Change};
use super::state::{
    Attempt, COUNT_BITS, Checker, ClientId, Message, Phone, Place, Pos, Roster, Send, conversation,
};
use crate::history::{Device, Event, Line, Said, Seen, SentAs};
use crate::model::{UserId, limits::GROUP_COPIED};
use crate::proto::terminal::Kind;

/// Links of one device within [`STORM_NS`] that are a storm: the ladder's first steps make fewer.
const STORM: usize = 40;
/// See [`STORM`].
const STORM_NS: u64 = 10_000_000_000;
/// Announced keys that one device may wait for; beyond, the oldest is no longer timed.
const ANNOUNCED: usize = 1_024;

impl Checker {
    /// Takes the next line.
    ///
    /// # Errors
    /// What makes it no line of a history.
    pub fn take(&mut self, place: Place, line: &Line) -> Result<(), String> {
        self.lines += 1;
        self.now = line.t;
        match line.on {
            Some(device) => self.take_of(device, place, line),
            None => {
                self.take_tool(place, &line.event);
                Ok(())
            }
        }
    }

    fn take_tool(&mut self, place: Place, event: &Event) {
        match event {
            Event::Run {
                faults,
                least_acks,
                changes,
                ..
            } => {
                self.wanted.extend(changes.iter().cloned());
                self.planned.extend(faults.iter().cloned());
                self.least_acks += least_acks;
            }
            Event::Fault { what, target } => {
                *self.faults.entry(format!("{what} {target}")).or_default() += 1;
            }
            Event::Rest {} => self.rest(place),
            Event::Drain {} => {
                self.draining = true;
                self.served(place);
                self.unanswered(place);
            }
            Event::End {} => {
                self.ended = true;
                self.unreached(place);
            }
            process => self.take_process(place, process),
        }
    }

    fn take_of(&mut self, device: Device, place: Place, line: &Line) -> Result<(), String> {
        match &line.event {
            Event::Start { key } => self.start(device, place, *key),
            Event::Linked { .. } => {
                self.linked(device, place, line.t);
                self.reached(device, place);
            }
            Event::Unlinked {} => self.phone(device).linked = false,
            Event::Invoke { op, to, said } => self.invoke(device, place, *op, *to, said)?,
            Event::Sync { .. } => {
                let acked = self.users.entry(device.u).or_default().acked;
                let asking = (self.lines, place);
                let phone = self.phone(device);
                phone.asked = Some(acked);
                phone.asking = Some(asking);
            }
            Event::Pass { command } => {
                if let Some(word) = change::passes(*command) {
                    *self.changes.entry(word).or_default() += 1;
                }
            }
            Event::Notify { key, .. } => self.announced(device, place, *key),
            Event::Synced {
                from,
                to,
                more,
                first,
            } => self.synced(device, place, (*from, *to, *more, *first)),
            Event::Apply {
                before,
                after,
                items,
            } => {
                self.apply(device, place, (*before, *after), items)?;
                self.reached(device, place);
            }
            Event::Upload { file, hash } => self.content(place, file, hash),
            Event::Fetch { file, said, hash } => self.fetched(place, file, said, hash),
            Event::Rewind { before, to } => self.rewind(device, place, *before, *to),
            Event::Full { before, to } => {
                self.left(device, place, *before);
                let phone = self.phone(device);
                (phone.key, phone.at) = (0, place);
                phone.filling = Some((*to, HashSet::new()));
            }
            Event::Level { .. } => {
                let draining = self.draining;
                let phone = self.phone(device);
                phone.level = draining.then_some(place);
            }
            request => self.take_request(device, place, request)?,
        }
        Ok(())
    }

    fn phone(&mut self, device: Device) -> &mut Phone {
        self.devices.entry(device).or_default()
    }

    fn announced(&mut self, device: Device, place: Place, key: u64) {
        let now = self.now;
        let phone = self.phone(device);
        if key > phone.key {
            if phone.announced.len() >= ANNOUNCED {
                phone.announced.pop_front();
            }
            phone.announced.push_back((key, now, place));
        }
    }

    fn start(&mut self, device: Device, place: Place, key: u64) {
        let new = !self.devices.contains_key(&device);
        let phone = self.phone(device);
        let (had, at) = (phone.key, phone.at);
        phone.linked = false;
        phone.announced.clear();
        phone.answer = None;
        if key == 0 || new {
            *phone = Phone::default();
        }
        // What the terminal had not heard of by then, nobody asks for any more.
        for send in self.sends.values_mut() {
            if (send.sender, send.device) == (device.u, device.d) && send.acked.is_none() {
                send.failed = true;
            }
        }
        self.ops.retain(|(of, _), _| *of != device);
        let phone = self.phone(device);
        // Killed before its store had begun the full sync: it will be told to again.
        if phone.back.take() == Some(key) && phone.filling.take().is_some() {
            phone.key = key;
        }
        // Stored, and killed before it could be told.
        if key > phone.key {
            let from = phone.key;
            phone.untold.push((from, key));
        }
        (phone.key, phone.at) = (key, place);
        if key != 0 && key < had {
            let text = format!(
                "device {} had key {had} and starts with {key}",
                name(device)
            );
            self.violated(I7, &[at, place], text);
        }
    }

    fn linked(&mut self, device: Device, place: Place, t: u64) {
        let phone = self.phone(device);
        phone.linked = true;
        phone.links.push_back(t);
        while phone
            .links
            .front()
            .is_some_and(|first| t.saturating_sub(*first) > STORM_NS)
        {
            phone.links.pop_front();
        }
        let links = phone.links.len();
        if links > STORM {
            let text = format!("device {} made {links} links in 10 s", name(device));
            self.violated(L5, &[place], text);
        }
    }

    fn invoke(
        &mut self,
        device: Device,
        place: Place,
        op: u64,
        to: u64,
        said: &[Said],
    ) -> Result<(), String> {
        let moment = self.lines;
        let user = self.users.entry(device.u).or_default();
        let after_own = user.own.get(&to).copied();
        let after_said = user.said.get(&to).copied();
        let phone = self.phone(device);
        let after_read = phone.read.get(&to).copied();
        let roster = phone.held.get(&(Kind::Group as i32, to));
        let roster = roster.filter(|group| !group.g).map(|group| group.v);
        let mut ids = Vec::with_capacity(said.len());
        for said in said {
            let id = client_id(&said.c)?;
            ids.push(id);
            self.sends.entry(id).or_insert(Send {
                sender: device.u,
                device: device.d,
                receiver: to,
                hash: said.h,
                invoked: place,
                moment,
                roster,
                after_said,
                after_own,
                after_read,
                acked: None,
                failed: false,
            });
        }
        self.attempt(device, op, place, ids, (Change::Other, "send"));
        Ok(())
    }

    pub(super) fn attempt(
        &mut self,
        device: Device,
        op: u64,
        place: Place,
        ids: Vec<ClientId>,
        (change, word): (Change, &'static str),
    ) {
        self.waiting.get_or_insert((self.now, place));
        let attempt = Attempt {
            ids,
            place,
            change,
            word,
            moment: self.lines,
            t: self.now,
        };
        self.ops.insert((device, op), attempt);
    }

    pub(super) fn acked(
        &mut self,
        device: Device,
        place: Place,
        sent: &SentAs,
    ) -> Result<(), String> {
        let id = client_id(&sent.c)?;
        let Some(send) = self.sends.get_mut(&id) else {
            return Err(format!("an answer for {}, which was never sent", sent.c));
        };
        let receiver = send.receiver;
        if let Some((before, at)) = &send.acked {
            if before != sent {
                let lines = [*at, place];
                let text = format!("message {} was acknowledged as two", sent.c);
                self.violated(I4, &lines, text);
            }
            return Ok(());
        }
        send.acked = Some((sent.clone(), place));
        self.acks += 1;
        let (after_own, after_read, invoked) = (send.after_own, send.after_read, send.invoked);
        if let Some((pos, at)) = after_own.filter(|(pos, _)| *pos >= sent.p) {
            let text = format!(
                "sent after {pos:?} was acknowledged, and placed at {:?}",
                sent.p
            );
            self.violated(I6, &[at, invoked, place], text);
        }
        let after_read = after_read.filter(|_| !UserId(receiver).is_group());
        if let Some((pos, at)) = after_read.filter(|(pos, _)| *pos >= sent.p) {
            let text = format!("sent after {pos:?} was read, and placed at {:?}", sent.p);
            self.violated(I8, &[at, invoked, place], text);
        }
        let conversation = conversation(device.u, receiver);
        self.owes(receiver, place);
        self.place_message(sent.i, conversation, sent.p, id, place);
        let user = self.users.entry(device.u).or_default();
        if user.acked.is_none_or(|(number, _)| number < sent.n) {
            user.acked = Some((sent.n, place));
        }
        if UserId(receiver).is_group() {
            user.said.insert(receiver, id);
        } else {
            let own = user.own.entry(receiver).or_insert((sent.p, place));
            if own.0 < sent.p {
                *own = (sent.p, place);
            }
        }
        if let Some((other, at)) = user.numbers.insert(sent.n, (id, place))
            && other != id
        {
            let text = format!("number {} of user {} was given twice", sent.n, device.u);
            self.violated(I5, &[at, place], text);
        }
        Ok(())
    }

    /// Holds a message against what is known of it and of its place.
    fn place_message(
        &mut self,
        message: u64,
        conversation: (u64, u64),
        pos: Pos,
        id: ClientId,
        place: Place,
    ) {
        // A group's message has no place until the group's home has given it one.
        let placed = (pos.0 > 0).then_some(pos);
        let known = self.messages.entry(message).or_insert(Message {
            pos: placed,
            id,
            place,
        });
        let (known_id, at) = (known.id, known.place);
        let known_pos = *known.pos.get_or_insert(pos);
        if placed.is_none() {
            known.pos = known.pos.filter(|pos| pos.0 > 0);
        } else if known_pos != pos {
            let text = format!("message {message} stands at {known_pos:?} and at {pos:?}");
            self.violated(I6, &[at, place], text);
        }
        if known_id != id {
            let text = format!("message id {message} is two messages");
            self.violated(I4, &[at, place], text);
        }
        let Some(pos) = placed else { return };
        let at_pos = (conversation.0, conversation.1, pos);
        let (there, at) = *self.places.entry(at_pos).or_insert((message, place));
        if there != message {
            // The same words under two ids are a duplicate; two different messages are a broken order.
            let same = self.messages.get(&there).is_some_and(|m| m.id == id);
            let text = format!("messages {there} and {message} both stand at {pos:?}");
            self.violated(if same { I4 } else { I6 }, &[at, place], text);
        }
    }

    fn synced(
        &mut self,
        device: Device,
        place: Place,
        (from, to, more, first): (u64, u64, bool, u64),
    ) {
        let phone = self.phone(device);
        let begins = phone.more_from.take() != Some(from);
        phone.more_from = more.then_some(to);
        let asked = phone.asked.take().flatten();
        phone.answer = phone.asking.take().map(|asking| (from, to, asking));
        if begins {
            let shown = if first == 0 {
                to.saturating_add(1)
            } else {
                first
            };
            phone.pages.push((from, shown, place));
        }
        if let Some((number, at)) = asked.filter(|(number, _)| !more && to < *number) {
            let text = format!(
                "{number} was acknowledged to user {} before device {} asked, and the answer ends at {to}",
                device.u,
                name(device)
            );
            self.violated(I7, &[at, place], text);
        }
    }

    fn apply(
        &mut self,
        device: Device,
        place: Place,
        (before, after): (u64, u64),
        items: &[Seen],
    ) -> Result<(), String> {
        let phone = self.phone(device);
        let (key, at) = (phone.key, phone.at);
        (phone.key, phone.at) = (after, place);
        phone.back = None;
        let answer = phone.answer.take();
        let asked = answer.filter(|(from, to, _)| (*from, *to) == (before, after));
        let mut there = Vec::new();
        while let Some((_, since, told)) = phone.announced.pop_front_if(|(key, ..)| *key <= after) {
            there.push((since, told));
        }
        for (since, told) in there {
            let waited = self.now.saturating_sub(since);
            self.visible.record(waited);
            if waited >= self.slowest.0 {
                self.slowest = (waited, [told, place]);
            }
        }
        if before != key || after < before {
            let text = format!(
                "device {} was at key {key}, and moved from {before} to {after}",
                name(device)
            );
            self.violated(I7, &[at, place], text);
        }
        self.lasts(device, place, (before, after), items);
        for item in items {
            self.applied += 1;
            if let Some((_, _, asked)) = asked {
                self.taken_back(device, place, asked, item);
            }
            self.show(device, place, item)?;
            if let Some((_, brought)) = &mut self.phone(device).filling {
                brought.insert((item.k, item.i));
            }
        }
        let phone = self.phone(device);
        if let Some((_, brought)) = phone.filling.take_if(|(to, _)| *to <= after) {
            phone.let_go(|item| !brought.contains(&(item.k, item.i)));
        }
        Ok(())
    }

    /// Every item is of a kind that is kept, and where a device is level it is at the number of one (I11). Not so in
    /// a large group: what was said in it after a member has gone may end an answer and is not shown.
    fn lasts(&mut self, device: Device, place: Place, (before, after): (u64, u64), items: &[Seen]) {
        let kept = |item: &&Seen| {
            Kind::try_from(item.k).is_ok_and(|kind| !matches!(kind, Kind::Unspecified | Kind::Head))
        };
        if let Some(item) = items.iter().find(|item| !kept(item)) {
            let text = format!(
                "number {} of user {} is taken by something of the kind {}, which is not kept",
                item.n, device.u, item.k
            );
            self.violated(I11, &[place], text);
        }
        let phone = self.phone(device);
        let level = phone.filling.is_none() && phone.more_from != Some(after);
        let last = items.last().map_or(before, |item| item.n);
        let large = |held: &Seen| held.k == Kind::Group as i32 && held.m.len() > GROUP_COPIED;
        if level && last < after && !phone.held.values().any(large) {
            let text = format!(
                "device {} was brought to key {after}, and no item has that number",
                name(device)
            );
            self.violated(I11, &[place], text);
        }
    }

    /// A device says where it was before it goes back.
    fn left(&mut self, device: Device, place: Place, before: u64) {
        let phone = self.phone(device);
        let (key, at) = (phone.key, phone.at);
        phone.back = Some(before);
        if before != key {
            let text = format!(
                "device {} was at key {key}, and went back from {before}",
                name(device)
            );
            self.violated(I7, &[at, place], text);
        }
    }

    /// What the user was given above `to`, in the incarnation of `before` and earlier ones, is lost: it was neither
    /// shown nor acknowledged, and may come again under new numbers and ids.
    fn rewind(&mut self, device: Device, place: Place, before: u64, to: u64) {
        self.left(device, place, before);
        let lost = to + 1..((before >> COUNT_BITS) + 1) << COUNT_BITS;
        let phone = self.phone(device);
        (phone.key, phone.at) = (before.min(to), place);
        phone.filling = None;
        phone.more_from = None;
        phone.let_go(|item| item.n > to);
        for (from, end) in &mut phone.untold {
            *end = (*end).min(to).max(*from);
        }
        let mut messages = Vec::new();
        let user = self.users.entry(device.u).or_default();
        user.acked.take_if(|(number, _)| lost.contains(number));
        user.numbers.retain(|number, _| !lost.contains(number));
        let items = user.items.extract_if(lost.clone(), |_, _| true);
        messages.extend(
            items
                .filter(|(_, (item, _))| item.p.is_some())
                .map(|(_, (item, _))| item.i),
        );
        for send in self
            .sends
            .values_mut()
            .filter(|send| send.sender == device.u)
        {
            if let Some((sent, _)) = send.acked.take_if(|(sent, _)| lost.contains(&sent.n)) {
                messages.push(sent.i);
            }
        }
        let messages: HashSet<u64> = messages.into_iter().collect();
        self.messages.retain(|id, _| !messages.contains(id));
        self.places.retain(|_, (id, _)| !messages.contains(id));
    }

    /// A device holds an item now.
    fn show(&mut self, device: Device, place: Place, item: &Seen) -> Result<(), String> {
        let user = self.users.entry(device.u).or_default();
        let (known, known_at) = user
            .items
            .entry(item.n)
            .or_insert_with(|| (item.clone(), place));
        if known != item {
            let lines = [*known_at, place];
            let text = format!("number {} of user {} is two items", item.n, device.u);
            self.violated(I5, &lines, text);
        }
        let phone = self.devices.entry(device).or_default();
        let filling = phone.filling.is_some();
        let before = phone.held.insert((item.k, item.i), item.clone());
        if item.k == Kind::Conversation as i32 {
            self.marks(device, place, before.as_ref(), item);
        }
        if item.k == Kind::Group as i32 && !item.g {
            let versions = self.rosters.entry(item.i).or_default();
            versions.entry(item.v).or_insert_with(|| Roster {
                members: item.m.clone(),
                place,
            });
        }
        if let Some(before) = before {
            let at = self.users[&device.u]
                .items
                .get(&before.n)
                .map_or(place, |(_, at)| *at);
            if before.v == item.v && before.n != item.n && !filling {
                let text = format!(
                    "device {} has ({}, {}) under the numbers {} and {}",
                    name(device),
                    item.k,
                    item.i,
                    before.n,
                    item.n
                );
                self.violated(I4, &[at, place], text);
            } else if before.v > item.v && !filling {
                let text = format!(
                    "device {} had version {} of ({}, {}) and was given {}",
                    name(device),
                    before.v,
                    item.k,
                    item.i,
                    item.v
                );
                self.violated(I12, &[at, place], text);
            }
        }
        match Kind::try_from(item.k) {
            Ok(Kind::Message) if !item.x => self.show_message(device, place, item),
            Ok(Kind::Refused) => {
                if let Some(c) = &item.c {
                    let id = client_id(c)?;
                    self.phone(device).refused.insert(id);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn show_message(&mut self, device: Device, place: Place, item: &Seen) -> Result<(), String> {
        let (Some(c), Some((sender, receiver)), Some(pos)) = (&item.c, item.who, item.p) else {
            let text = format!("message {} of user {} cannot be read", item.i, device.u);
            self.violated(I3, &[place], text);
            return Ok(());
        };
        let id = client_id(c)?;
        self.comes_late(device, place, id);
        self.place_message(item.i, conversation(sender, receiver), pos, id, place);
        let to_peer = sender == device.u || UserId(receiver).is_group();
        let peer = if to_peer { receiver } else { sender };
        let phone = self.phone(device);
        if pos.0 > 0 {
            let read = phone.read.entry(peer).or_insert((pos, place));
            if read.0 < pos {
                *read = (pos, place);
            }
        }
        let twin = phone.messages.insert(id, item.i).filter(|i| *i != item.i);
        if let Some(twin) = twin {
            let at = self.messages.get(&twin).map_or(place, |m| m.place);
            let text = format!(
                "device {} shows {c} as message {twin} and as message {}",
                name(device),
                item.i
            );
            self.violated(I4, &[at, place], text);
        }
        let said = self.sends.get(&id).map(|s| {
            let reworded = self.reworded.get(&item.i);
            let reads = s.hash == item.h
                || item.v > 1 && reworded.is_some_and(|texts| texts.contains(&item.h));
            let same = (s.sender, s.receiver) == (sender, receiver) && reads;
            (same, s.invoked, s.moment)
        });
        self.walled(
            device,
            place,
            item,
            said.map(|(_, at, moment)| (at, moment)),
        );
        match said {
            Some((true, ..)) => {}
            Some((false, at, _)) => {
                let text = format!("device {} shows {c} otherwise than sent", name(device));
                self.violated(I3, &[at, place], text);
            }
            // Who sends without a history may have said it.
            None if !self.devices.keys().any(|d| d.u == sender) => {}
            None => {
                let text = format!("device {} shows {c}, which nobody sent", name(device));
                self.violated(I3, &[place], text);
            }
        }
        Ok(())
    }

    /// A content came, and should be what its pointer says.
    fn fetched(&mut self, place: Place, file: &str, said: &str, hash: &str) {
        if said != hash {
            let text = format!("{file} came with hash {hash}, its pointer says {said}");
            self.violated(I17, &[place], text);
        }
        self.content(place, file, hash);
    }

    /// A content of the media store has one hash, for ever.
    fn content(&mut self, place: Place, file: &str, hash: &str) {
        let first = || (hash.to_owned(), place);
        let (known, at) = self
            .contents
            .entry(file.to_owned())
            .or_insert_with(first)
            .clone();
        if known != hash {
            let text = format!("{file} had hash {known} and has {hash}");
            self.violated(I17, &[at, place], text);
        }
    }

    /// Everybody linked must be level without having been told to ask.
    fn rest(&mut self, place: Place) {
        self.rested = true;
        let mut behind = Vec::new();
        for (device, phone) in self.devices.iter().filter(|(_, phone)| phone.linked) {
            let Some(user) = self.users.get(&device.u) else {
                continue;
            };
            let shown = user.items.last_key_value().map(|(n, (_, at))| (*n, *at));
            let newest = shown.max(user.acked);
            if let Some((newest, at)) = newest.filter(|(newest, _)| *newest > phone.key) {
                let text = format!(
                    "device {} is at key {} and user {} has {newest}",
                    name(*device),
                    phone.key,
                    device.u
                );
                behind.push(([at, phone.at, place], text));
            }
        }
        for (lines, text) in behind {
            self.violated(L1, &lines, text);
        }
        for (device, phone) in &mut self.devices {
            let to_it = self.sends.iter().filter(|(id, send)| {
                send.receiver == device.u
                    && send.acked.is_some()
                    && !phone.messages.contains_key(*id)
            });
            if phone.linked {
                phone.owed = to_it.map(|(id, _)| *id).collect();
            }
        }
    }

    /// What is shown only when a device was told to ask should have come by itself.
    fn comes_late(&mut self, device: Device, place: Place, id: ClientId) {
        if !self.phone(device).owed.remove(&id) {
            return;
        }
        let acked = self.sends.get(&id).and_then(|send| send.acked.as_ref());
        let at = acked.map_or(place, |(_, at)| *at);
        let text = format!(
            "device {} got a message only when it was told to ask",
            name(device)
        );
        self.violated(L1, &[at, place], text);
    }

    /// Everything was answered, sooner or later.
    fn unanswered(&mut self, place: Place) {
        let open: Vec<_> = self
            .sends
            .iter()
            .filter(|(_, send)| send.acked.is_none() && !send.failed)
            .map(|(id, send)| (*id, send.invoked))
            .collect();
        for (id, invoked) in open {
            let text = format!("message {id:032x} was neither acknowledged nor refused");
            self.violated(L3, &[invoked, place], text);
        }
        let open: Vec<_> = self
            .ops
            .values()
            .filter(|attempt| attempt.ids.is_empty())
            .map(|attempt| attempt.place)
            .collect();
        for asked in open {
            let text = "a change was neither acknowledged nor refused".to_owned();
            self.violated(L3, &[asked, place], text);
        }
    }
}

pub(super) fn name(device: Device) -> String {
    format!("{}/{}", device.u, device.d)
}

fn client_id(text: &str) -> Result<ClientId, String> {
    u128::from_str_radix(text, 16).map_err(|_| format!("{text:?} is no client id"))
}
