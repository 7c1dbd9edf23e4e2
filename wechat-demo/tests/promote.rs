//! A store that is put back to an older copy of its disk, by the operator's hand, under phones that go on: they learn
//! what is lost, say their own part of it again, and come to what a fresh device gets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod patience;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use prost::Message;
use wechat_demo::cluster::{Cluster, Plan, Role};
use wechat_demo::proto::terminal as pb;
use wechat_demo::terminal::store::memory::Memory;
use wechat_demo::terminal::store::{LocalStore, Stored};
use wechat_demo::terminal::{Config, Observer, Terminal, login, new_client_id, register};

use patience::{PATIENCE, patiently, wait_for};

const PASSWORD: &str = "password";

struct Quiet;

impl Observer for Quiet {}

/// A user's terminal, and its store.
struct Phone {
    user: u64,
    terminal: Terminal,
    store: Arc<Memory>,
}

impl Phone {
    fn new(address: &str, name: &str, label: &str) -> Self {
        let login = patiently(|| login(address, name, PASSWORD, label));
        let store = Arc::new(Memory::new(login.user_id));
        let config = Config::new(address, login.token);
        Self {
            user: login.user_id,
            terminal: Terminal::start(config, store.clone(), Arc::new(Quiet)),
            store,
        }
    }

    fn say(&self, to: &Self, words: &str, count: usize) {
        for n in 0..count {
            let text = format!("{} says {words} {n}", self.user);
            self.terminal.send(to.user, new_client_id(), text).unwrap();
        }
        wait_for("all is said", || {
            (self.terminal.unsent() == 0).then_some(())
        });
    }

    fn messages(&self, with: &Self) -> Vec<Stored> {
        self.store.messages(with.user, usize::MAX).unwrap()
    }

    fn texts(&self, with: &Self) -> Vec<String> {
        let messages = self.messages(with).into_iter();
        messages.map(|stored| stored.message.text).collect()
    }

    fn contact(&self, with: &Self) -> pb::Contact {
        let item = self.store.state(pb::Kind::Contact, with.user).unwrap();
        item.map(|item| pb::Contact::decode(item.payload).unwrap())
            .unwrap_or_default()
    }

    /// Syncs until it looks so.
    fn until(&self, what: &str, looks: impl Fn(&Self) -> bool) {
        wait_for(what, || {
            self.terminal.refresh(PATIENCE).unwrap();
            looks(self).then_some(())
        });
    }

    /// Holds the same as another device of the user.
    fn is_like(&self, other: &Self, with: &Self) {
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

fn befriend(ann: &Phone, bob: &Phone) {
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

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

fn promote(cluster: &Cluster, role: Role) -> (bool, String) {
    let layout = cluster.layout();
    let output = Command::new(env!("CARGO_BIN_EXE_wechat-demo"))
        .args(["promote", "--dir"])
        .arg(layout.dir.join(role.name()))
        .args(["--listen", &layout.rpc(role).to_string()])
        .args(["--coordinator", &layout.rpc(Role::Coordinator).to_string()])
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// A cluster with cheap passwords, and accounts of two.
fn start(dir: &Path) -> (Cluster, String) {
    let light = ["--argon2-memory-kib", "64"].map(|flag| (Role::Logic, flag.to_owned()));
    let plan = Plan {
        extra: light.into(),
        ..Plan::default()
    };
    let binary = Path::new(env!("CARGO_BIN_EXE_wechat-demo"));
    let cluster = Cluster::bring_up(dir, 0, &plan, binary).unwrap();
    let address = cluster.layout().link_address();
    for name in ["ann", "bob"] {
        patiently(|| match register(&address, name, PASSWORD, name) {
            // An answer was lost.
            Err(error) if error.is_refusal(6) => Ok(0),
            other => other,
        });
    }
    (cluster, address)
}

fn kill_storage(cluster: &mut Cluster) {
    for role in Role::STORAGE {
        cluster.kill(role);
    }
}

fn spawn_storage(cluster: &mut Cluster) {
    for role in Role::STORAGE {
        cluster.spawn(role).unwrap();
    }
}

/// Puts an old disk of `primary` in the place of all there is, and makes it the store.
fn restore(cluster: &mut Cluster, primary: Role, saved: &Path) {
    let dir = cluster.layout().dir.clone();
    wait_for("somebody lives to see that it is not needed", || {
        cluster.primary()
    });
    cluster.kill(primary);
    let (done, said) = promote(cluster, primary);
    assert!(!done && said.contains("lives and lacks nothing"), "{said}");
    kill_storage(cluster);
    for role in Role::STORAGE {
        fs::remove_dir_all(dir.join(role.name())).unwrap();
    }
    copy(saved, &dir.join(primary.name()));
    // The coordinator forgets the dead by and by.
    let said = wait_for("the old disk is promoted", || {
        let (done, said) = promote(cluster, primary);
        assert!(done || said.contains("lives and lacks nothing"), "{said}");
        done.then_some(said)
    });
    assert!(said.contains("incarnation 1"), "{said}");
    spawn_storage(cluster);
}

/// Holds the same as a fresh device, most of it given anew.
fn ends_as_a_fresh_one(phone: &Phone, address: &str, name: &str, other: &Phone) {
    let fresh = Phone::new(address, name, "fresh");
    fresh.until("a fresh device has it all", |fresh| {
        fresh.texts(other).len() == 21
    });
    phone.is_like(&fresh, other);
    let again = phone.messages(other).into_iter();
    let again = again.filter(|stored| stored.number >> 48 == 1).count();
    // Whatever the killed process had not handed to the disk is lost as well.
    assert!(again >= 11, "only {again} came again");
    fresh.terminal.stop();
}

#[test]
fn phones_say_again_what_a_restored_store_has_lost_and_end_as_fresh_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, address) = start(dir.path());
    let [ann, bob] = ["ann", "bob"].map(|name| Phone::new(&address, name, "phone"));
    befriend(&ann, &bob);
    ann.say(&bob, "what is kept", 5);
    bob.say(&ann, "what is kept", 5);

    let primary = wait_for("somebody serves", || cluster.primary());
    let saved = dir.path().join("saved");
    kill_storage(&mut cluster);
    copy(&dir.path().join(primary.name()), &saved);
    spawn_storage(&mut cluster);
    ann.say(&bob, "what is lost", 5);
    bob.say(&ann, "what is lost", 5);
    // A version that takes the place of another: with it, that other is missing.
    let remark = pb::change_request::Change::Remark(pb::Remark {
        user_id: bob.user,
        remark: "lost as well".to_owned(),
    });
    ann.terminal.change(remark, PATIENCE).unwrap();
    ann.until("ann has it all", |ann| ann.texts(&bob).len() == 20);
    bob.until("bob has it all", |bob| bob.texts(&ann).len() == 20);
    let talk = ann.texts(&bob);
    assert_eq!(talk, bob.texts(&ann));

    restore(&mut cluster, primary, &saved);
    ann.until("ann has it all again", |ann| ann.texts(&bob) == talk);
    bob.until("bob has it all again", |bob| bob.texts(&ann) == talk);
    assert_eq!(ann.contact(&bob).remark, "");
    ann.say(&bob, "something new", 1);
    bob.until("bob hears it", |bob| bob.texts(&ann).len() == 21);
    ann.until("ann is level", |_| true);
    ends_as_a_fresh_one(&ann, &address, "ann", &bob);
    ends_as_a_fresh_one(&bob, &address, "bob", &ann);
    ann.terminal.stop();
    bob.terminal.stop();
}
