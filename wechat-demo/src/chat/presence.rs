//! What passes, on the screen: who writes just now, who is there.
//!
//! Knows:       contacts, signs.   Does not know: items; nothing here is kept.

use prost::Message;
use wechat_demo::model::limits::WATCHED_USERS;
use wechat_demo::proto::terminal::{self as pb, contact::State, sign::What};

use super::{Chat, printable};

/// What a line is about.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    Typing,
    Who,
    /// Whether the user looks.
    Active(bool),
}

/// Reads a line's command; `None` if it is not one of these.
pub(super) fn parse(word: &str, rest: &str) -> Option<Line> {
    match (word, rest) {
        ("typing", "") => Some(Line::Typing),
        ("who", "") => Some(Line::Who),
        ("away", "") => Some(Line::Active(false)),
        ("back", "") => Some(Line::Active(true)),
        _ => None,
    }
}

impl Chat {
    pub(super) fn presence(&mut self, line: &Line) -> anyhow::Result<()> {
        match line {
            Line::Typing => self.terminal.typing(self.peer)?,
            Line::Who => return self.who(),
            Line::Active(active) => self.terminal.set_active(*active),
        }
        println!("— done");
        Ok(())
    }

    /// Asks which contacts are there, and to be told: of the peer in any case, of others as many as may be. What
    /// fails here is asked again with the next heartbeat.
    pub(super) fn watch(&mut self) -> anyhow::Result<()> {
        let mut users: Vec<u64> = self.friends()?.into_iter().map(|friend| friend.0).collect();
        users.sort_by_key(|&user| user != self.peer);
        users.truncate(WATCHED_USERS);
        self.here.retain(|user, _| users.contains(user));
        for presence in self.terminal.watch(users).unwrap_or_default() {
            self.is_here(presence.user_id, presence.here);
        }
        Ok(())
    }

    /// Shows what passed.
    pub(super) fn show_signs(&mut self, signs: &[pb::Sign]) {
        for sign in signs {
            match sign.what {
                Some(What::Typing(true)) => println!("— {} is typing", self.called(sign.from)),
                Some(What::Here(here)) => self.is_here(sign.from, here),
                Some(What::Typing(false)) | None => {}
            }
        }
    }

    /// Says that somebody has come or gone, if that is news.
    fn is_here(&mut self, user: u64, here: bool) {
        let before = self.here.insert(user, here).unwrap_or(false);
        if before != here {
            let what = if here { "is here" } else { "has gone" };
            println!("— {} {what}", self.called(user));
        }
    }

    fn who(&mut self) -> anyhow::Result<()> {
        self.watch()?;
        for (user, name) in self.friends()? {
            let here = self.here.get(&user).is_some_and(|here| *here);
            println!("— {name}: {}", if here { "here" } else { "not here" });
        }
        Ok(())
    }

    fn called(&mut self, user: u64) -> String {
        match user == self.peer {
            true => self.peer_name.clone(),
            false => self.name_of(user),
        }
    }

    /// Ids and names of the contacts.
    fn friends(&self) -> anyhow::Result<Vec<(u64, String)>> {
        let mut friends = Vec::new();
        for item in self.terminal.store().states(pb::Kind::Contact)? {
            let contact = pb::Contact::decode(item.payload)?;
            if contact.state() == State::Friend {
                friends.push((contact.user_id, printable(&contact.name)));
            }
        }
        Ok(friends)
    }
}
