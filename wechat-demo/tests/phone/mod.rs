//! Two accounts, and terminals that keep their stores in memory.

use std::sync::Arc;

use prost::Message;
use wechat_demo::cluster::Role;
use wechat_demo::proto::terminal as pb;
use wechat_demo::terminal::store::memory::Memory;
use wechat_demo::terminal::store::{LocalStore, Stored};
use wechat_demo::terminal::{Config, Observer, Terminal, login, new_client_id, register};

use crate::patience::{PATIENCE, patiently, wait_for};

pub const PASSWORD: &str = "password";

/// Flags that make passwords cheap.
pub fn light() -> Vec<(Role, String)> {
    let flags = ["--argon2-memory-kib", "64"];
    flags.map(|flag| (Role::Logic, flag.to_owned())).into()
}

/// Makes accounts of ann and bob, who each connect to an address.
pub fn sign_up(addresses: [&str; 2]) {
    for (name, address) in ["ann", "bob"].into_iter().zip(addresses) {
        patiently(|| match register(address, name, PASSWORD, name) {
            // An answer was lost.
            Err(error) if error.is_refusal(6) => Ok(0),
            other => other,
        });
    }
}

struct Quiet;

impl Observer for Quiet {}

/// A user's terminal, and its store.
pub struct Phone {
    pub user: u64,
    pub terminal: Terminal,
    store: Arc<Memory>,
}

impl Phone {
    pub fn new(address: &str, name: &str, label: &str) -> Self {
        Self::with(address, name, label, false)
    }

    /// One that asks for two IDCs with whatever it says, or not.
    pub fn with(address: &str, name: &str, label: &str, geo: bool) -> Self {
        let login = patiently(|| login(address, name, PASSWORD, label));
        let store = Arc::new(Memory::new(login.user_id));
        let mut config = Config::new(address, login.token);
        config.geo = geo;
        Self {
            user: login.user_id,
            terminal: Terminal::start(config, store.clone(), Arc::new(Quiet)),
            store,
        }
    }

    pub fn say(&self, to: &Self, words: &str, count: usize) {
        for n in 0..count {
            let text = format!("{} says {words} {n}", self.user);
            self.terminal.send(to.user, new_client_id(), text).unwrap();
        }
        wait_for("all is said", || {
            (self.terminal.unsent() == 0).then_some(())
        });
    }

    pub fn messages(&self, with: &Self) -> Vec<Stored> {
        self.store.messages(with.user, usize::MAX).unwrap()
    }

    pub fn texts(&self, with: &Self) -> Vec<String> {
        let messages = self.messages(with).into_iter();
        messages.map(|stored| stored.message.text).collect()
    }

    pub fn contact(&self, with: &Self) -> pb::Contact {
        let item = self.store.state(pb::Kind::Contact, with.user).unwrap();
        item.map(|item| pb::Contact::decode(item.payload).unwrap())
            .unwrap_or_default()
    }

    /// Syncs until it looks so.
    pub fn until(&self, what: &str, looks: impl Fn(&Self) -> bool) {
        wait_for(what, || {
            self.terminal.refresh(PATIENCE).unwrap();
            looks(self).then_some(())
        });
    }

    /// Holds the same as another device of the user.
    pub fn is_like(&self, other: &Self, with: &Self) {
        assert_eq!(self.messages(with), other.messages(with));
        for kind in [pb::Kind::Account, pb::Kind::Contact, pb::Kind::Conversation] {
            assert_eq!(
                self.store.states(kind).unwrap(),
                other.store.states(kind).unwrap()
            );
        }
        assert_eq!(self.store.cursor(), other.store.cursor());
    }
}

/// Has one ask the other, who accepts.
pub fn befriend(ann: &Phone, bob: &Phone) {
    use pb::contact::State;
    let add = pb::AddContactRequest {
        user_id: bob.user,
        greeting: "hello".to_owned(),
    };
    let call = ann.terminal.call(pb::Command::AddContact, &add, PATIENCE);
    let _: pb::AddContactReply = call.unwrap();
    bob.until("bob is asked", |bob| {
        bob.contact(ann).state() == State::AskedMe
    });
    let accept = pb::AcceptContactRequest { user_id: ann.user };
    let call = bob
        .terminal
        .call(pb::Command::AcceptContact, &accept, PATIENCE);
    let _: pb::AcceptContactReply = call.unwrap();
    ann.until("they are friends", |ann| {
        ann.contact(bob).state() == State::Friend
    });
}
