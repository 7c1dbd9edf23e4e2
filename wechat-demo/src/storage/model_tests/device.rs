//! A device as the models have it: it holds whatever it is shown against what a timeline promises.

use super::*;

/// A device: what it has, and the key up to which it has it.
#[derive(Default)]
pub(super) struct Device {
    pub(super) key: u64,
    full_to: u64,
    anew: bool,
    owed: u64,
    /// By (kind, id): the newest version. Messages are kept for ever, so their key is unique too.
    pub(super) state: BTreeMap<(i32, u64), Item>,
    /// What the full sync under way has brought.
    refilled: BTreeSet<(i32, u64)>,
    /// Every (number, item) ever shown.
    pub(super) seen: HashMap<u64, Item>,
    /// Own messages that were lost.
    again: Vec<Item>,
    pub(super) rewinds: u32,
    pub(super) fulls: u32,
}

impl Device {
    pub(super) fn sync(&mut self, pair: &mut Pair, user: UserId, limit: usize) -> bool {
        let request = terminal::SyncRequest {
            key: self.key,
            limit: limit as u32,
            full_to: self.full_to,
            anew: self.anew,
            owed: self.owed,
        };
        let page = pair.answer(user, request);
        if let Some(to) = page.rewind {
            assert!(
                to < self.key.max(self.full_to).max(self.owed),
                "there is something to remove"
            );
            self.rewind(user, to);
            return true;
        }
        let begins = page.full_to != 0 && (self.anew || page.full_to != self.full_to);
        if begins {
            self.fulls += 1;
            self.refilled.clear();
        }
        let mut last = if begins { 0 } else { self.key };
        assert!(page.key >= last);
        for item in &page.items {
            let item = Item::decode(item.clone()).expect("an item is an item");
            assert!(
                item.number > last,
                "items come in number order, above the key"
            );
            last = item.number;
            self.take(item, page.full_to != 0);
        }
        assert!(page.key >= last && (page.full_to == 0 || page.key <= page.full_to));
        let over = page.key == page.full_to;
        if over {
            let refilled = std::mem::take(&mut self.refilled);
            self.state.retain(|name, _| refilled.contains(name));
        }
        self.key = page.key;
        self.full_to = if over { 0 } else { page.full_to };
        (self.anew, self.owed) = (false, page.owed);
        page.more || self.full_to != 0
    }

    fn take(&mut self, item: Item, full: bool) {
        if let Some(before) = self.seen.insert(item.number, item.clone()) {
            assert_eq!(before, item, "one number, one item, for ever");
        }
        let name = (item.kind, item.id);
        let version = item.version;
        let before = self.state.insert(name, item);
        if full {
            self.refilled.insert(name);
        } else if let Some(before) = before {
            assert!(before.version < version, "a message once, versions rise");
        }
    }

    /// What came above `to` is lost; what it had taken the place of only a full sync brings back.
    fn rewind(&mut self, user: UserId, to: u64) {
        self.rewinds += 1;
        self.anew |= self.full_to != 0 || self.owed != 0;
        let lost: Vec<Item> = self
            .state
            .extract_if(.., |_, item| item.number > to)
            .map(|(_, item)| item)
            .collect();
        for item in lost {
            self.anew |= item.version > 1;
            if item.kind() == Kind::Message {
                let message = terminal::Message::decode(item.payload.clone()).expect("a message");
                if message.sender == user.0 && !message.recalled {
                    self.again.push(item);
                }
            }
        }
        self.again.sort_by_key(|item| item.number);
        (self.key, self.full_to, self.owed) = (self.key.min(to), 0, 0);
    }

    /// The lost messages, to be sent at their old places.
    pub(super) fn say_again(&mut self) -> Vec<Op> {
        let lost = std::mem::take(&mut self.again);
        lost.into_iter()
            .map(|item| {
                let message = terminal::Message::decode(item.payload).expect("a message");
                let outgoing = terminal::Outgoing {
                    client_id: message.client_id,
                    text: message.text,
                    extra: message.extra,
                    count: item.pos.map_or(0, |pos| pos.count),
                };
                let request = Some(terminal::SendRequest {
                    receiver: message.receiver,
                    messages: vec![outgoing],
                    key: 0,
                    geo: false,
                });
                Op::Send(pb::SendMessages {
                    sender: message.sender,
                    request,
                    device_id: 1,
                })
            })
            .collect()
    }

    /// What it shows: what was deleted may be collected, and a fresh device does not hear of it.
    pub(super) fn shown(&self) -> BTreeMap<(i32, u64), &Item> {
        let shown = self.state.iter().filter(|(_, item)| !item.deleted);
        shown.map(|(name, item)| (*name, item)).collect()
    }

    /// Highest position in the conversation with `peer`, from either side.
    pub(super) fn newest_with(&self, peer: UserId) -> u64 {
        let items = self
            .state
            .values()
            .filter(|item| item.kind() == Kind::Message);
        items
            .filter(|item| {
                let message = terminal::Message::decode(item.payload.clone()).expect("a message");
                message.sender == peer.0 || message.receiver == peer.0
            })
            .filter_map(|item| item.pos.map(|pos| pos.count))
            .max()
            .unwrap_or(0)
    }

    pub(super) fn messages_from(&self, sender: UserId) -> Vec<(u64, u64, String)> {
        let mut messages: Vec<_> = self
            .state
            .values()
            .filter(|item| item.kind() == Kind::Message)
            .map(|item| {
                (
                    item,
                    terminal::Message::decode(item.payload.clone()).expect("a message"),
                )
            })
            .filter(|(_, message)| message.sender == sender.0)
            .map(|(item, message)| {
                (
                    item.pos.expect("messages have positions").count,
                    item.number,
                    message.text,
                )
            })
            .collect();
        messages.sort();
        messages
    }
}
