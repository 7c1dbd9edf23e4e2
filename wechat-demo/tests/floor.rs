//! Deletions that a phone has slept through and that are collected meanwhile, with the times for that made short: it is
//! told everything anew, and shows what a fresh one shows.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod patience;
mod phone;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use wechat_demo::cluster::{Cluster, Plan, Role};
use wechat_demo::proto::terminal::{self as pb, Kind, change_request::Change};
use wechat_demo::terminal::store::LocalStore;
use wechat_demo::terminal::store::memory::Memory;
use wechat_demo::terminal::{Config, Observer, Terminal, login, new_client_id};

use patience::{PATIENCE, patiently, wait_for};
use phone::{PASSWORD, Phone, befriend, light, sign_up};

/// A phone that is switched off and on, with its store.
struct Sleeper {
    address: String,
    token: Bytes,
    store: Arc<Memory>,
}

struct Quiet;

impl Observer for Quiet {}

impl Sleeper {
    fn new(address: &str, name: &str) -> Self {
        let login = patiently(|| login(address, name, PASSWORD, "sleeper"));
        Self {
            address: address.to_owned(),
            token: login.token,
            store: Arc::new(Memory::new(login.user_id)),
        }
    }

    /// On until its store looks so.
    fn wakes_until(&self, what: &str, looks: impl Fn(&Memory) -> bool) {
        let config = Config::new(&self.address, self.token.clone());
        let terminal = Terminal::start(config, self.store.clone(), Arc::new(Quiet));
        wait_for(what, || {
            terminal.refresh(PATIENCE).unwrap();
            looks(&self.store).then_some(())
        });
        terminal.stop();
    }
}

fn start(dir: &Path) -> (Cluster, String) {
    let soon = ["--collect-after", "1s", "--await-devices", "2s"];
    let soon = Role::STORAGE
        .into_iter()
        .flat_map(|role| soon.map(|flag| (role, flag.to_owned())));
    let plan = Plan {
        extra: light().into_iter().chain(soon).collect(),
        ..Plan::default()
    };
    let binary = Path::new(env!("CARGO_BIN_EXE_wechat-demo"));
    let cluster = Cluster::bring_up(dir, 0, &plan, binary).unwrap();
    let address = cluster.layout().link_address();
    sign_up([&address; 2]);
    (cluster, address)
}

fn post(by: &Phone, text: &str) -> u64 {
    let post = pb::NewPost {
        client_id: new_client_id(),
        text: text.to_owned(),
        ..pb::NewPost::default()
    };
    let made = by.terminal.change(Change::NewPost(post), PATIENCE).unwrap();
    made.made
}

fn posts(store: &Memory) -> Vec<u64> {
    let posts = store.states(Kind::Post).unwrap().into_iter();
    posts.map(|item| item.id).collect()
}

/// What a device of the phone's user with this key is answered.
fn answer(phone: &Phone, key: u64) -> pb::SyncReply {
    let request = pb::SyncRequest {
        key,
        ..pb::SyncRequest::default()
    };
    let sync = pb::Command::Sync;
    phone.terminal.call(sync, &request, PATIENCE).unwrap()
}

#[test]
fn a_phone_that_slept_through_collected_deletions_is_told_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (_cluster, address) = start(dir.path());
    let [ann, near] = ["ann", "bob"].map(|name| Phone::new(&address, name, "phone"));
    befriend(&ann, &near);
    let (gone, stays) = (post(&ann, "soon gone"), post(&ann, "stays"));
    let sleeper = Sleeper::new(&address, "bob");
    sleeper.wakes_until("both posts are there", |store| {
        posts(store) == [gone, stays]
    });
    let slept_at = sleeper.store.cursor().key;

    let delete = Change::DeletePost(pb::DeletePost { post_id: gone });
    ann.terminal.change(delete, PATIENCE).unwrap();
    ann.say(&near, "meanwhile", 3);
    let deleted = |phone: &Phone| {
        let items = answer(phone, slept_at).items;
        items.iter().any(|item| item.deleted && item.id == gone)
    };
    wait_for("the deletion arrives", || deleted(&near).then_some(()));
    // Who comes in time would hear of it; nobody does, and the other phone acknowledges it by going on.
    let full = wait_for("the deletion is collected", || {
        near.terminal.refresh(PATIENCE).unwrap();
        Some(answer(&near, slept_at)).filter(|reply| reply.full_to > 0)
    });
    assert!(full.items.iter().all(|item| !item.deleted));

    let all = |store: &Memory| {
        let said = store.messages(ann.user, usize::MAX).unwrap();
        said.len() == 3 && posts(store) == [stays]
    };
    sleeper.wakes_until("the sleeper has it all", all);
    let fresh = Phone::new(&address, "bob", "fresh");
    for phone in [&near, &fresh] {
        phone.until("the others have it all", |phone| {
            phone.texts(&ann).len() == 3
        });
    }
    near.is_like(&fresh, &ann);
    for kind in [Kind::Account, Kind::Contact, Kind::Post] {
        let of = |store: &dyn LocalStore| store.states(kind).unwrap();
        assert_eq!(of(&*sleeper.store), of(fresh.terminal.store()));
    }
    fresh.terminal.stop();
    ann.terminal.stop();
    near.terminal.stop();
}
