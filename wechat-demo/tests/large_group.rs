//! A group above 500 members over a whole cluster of processes: terminals in it come to the same words in one order,
//! whoever dies, and its messages are edited, answered and taken back as in any group.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "patience/mod.rs"]
mod patience;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use rpc_core::Channel;
use wechat_demo::cluster::{Cluster, Plan, Role};
use wechat_demo::model::limits::{GROUP_COPIED, GROUP_NAMED};
use wechat_demo::proto::storage::{self as sp, StorageClient};
use wechat_demo::proto::terminal::{
    self as pb, change_request::Change, contact::State, group_change::What,
};
use wechat_demo::terminal::store::Stored;
use wechat_demo::terminal::store::memory::Memory;
use wechat_demo::terminal::{
    Config, Observer, Terminal, TerminalError, login, new_client_id, register,
};

use patience::{PATIENCE, patiently, wait_for};

const PASSWORD: &str = "password";

/// Calls of one crowd that are under way at once.
const AT_ONCE: usize = 64;

struct Nobody;

impl Observer for Nobody {}

/// Users by the hundred: made, and befriended with `owner`, at the store itself.
fn crowd(cluster: &Cluster, owner: &pb::LoginReply, count: usize) -> Vec<u64> {
    let primary = wait_for("somebody serves", || cluster.primary());
    let channel = Channel::builder(&cluster.layout().rpc(primary).to_string())
        .deadline(Duration::from_secs(30))
        .connect()
        .unwrap();
    let (owner, owners_device) = (owner.user_id, owner.device_id);
    let make = move |channel: Channel, n: usize| {
        let storage = StorageClient::new(channel);
        let claim = sp::ClaimNameRequest {
            name: format!("member{n}"),
            nickname: String::new(),
            password_hash: String::new(),
            home: 0,
        };
        let user_id = storage.claim_name(claim).unwrap().user_id;
        let account = sp::CreateAccountRequest {
            user_id,
            account: Some(sp::AccountRow {
                name: format!("member{n}"),
                ..Default::default()
            }),
        };
        storage.create_account(account).unwrap();
        let device = sp::AddDeviceRequest {
            user_id,
            device_id: 1,
            device: Some(sp::DeviceRow::default()),
        };
        storage.add_device(device).unwrap();
        // Who asks somebody that has asked accepts.
        for (user_id, peer, device_id) in [(user_id, owner, 1), (owner, user_id, owners_device)] {
            let ask = sp::AskContactRequest {
                user_id,
                peer,
                device_id,
                ..Default::default()
            };
            storage.ask_contact(ask).unwrap();
        }
        user_id
    };
    let mut users = Vec::with_capacity(count);
    let all: Vec<usize> = (0..count).collect();
    for some in all.chunks(AT_ONCE) {
        let calls = some.iter().map(|&n| {
            let channel = channel.clone();
            std::thread::spawn(move || make(channel, n))
        });
        let calls: Vec<_> = calls.collect();
        users.extend(calls.into_iter().map(|call| call.join().unwrap()));
    }
    users
}

fn terminal(address: &str, name: &str) -> (pb::LoginReply, Terminal) {
    let id = patiently(|| register(address, name, PASSWORD, name));
    let login = patiently(|| login(address, name, PASSWORD, "phone"));
    let store = Arc::new(Memory::new(id));
    let config = Config::new(address, login.token.clone());
    (login, Terminal::start(config, store, Arc::new(Nobody)))
}

fn change(terminal: &Terminal, change: Change) -> u64 {
    patiently(|| terminal.change(change.clone(), PATIENCE)).made
}

fn befriend(one: (&pb::LoginReply, &Terminal), other: (&pb::LoginReply, &Terminal)) {
    for ((_, terminal), (login, _)) in [(one, other), (other, one)] {
        let request = pb::AddContactRequest {
            user_id: login.user_id,
            greeting: String::new(),
        };
        let _: pb::AddContactReply =
            patiently(|| terminal.call(pb::Command::AddContact, &request, PATIENCE));
    }
}

fn friends(terminal: &Terminal) -> usize {
    let contacts = terminal.store().states(pb::Kind::Contact).unwrap();
    let states = contacts
        .into_iter()
        .map(|item| pb::Contact::decode(item.payload).unwrap().state());
    states.filter(|&state| state == State::Friend).count()
}

fn messages(terminal: &Terminal, group: u64) -> Vec<Stored> {
    terminal.store().messages(group, 1000).unwrap()
}

fn group(terminal: &Terminal, id: u64) -> Option<pb::Group> {
    let item = terminal.store().state(pb::Kind::Group, id).unwrap()?;
    Some(pb::Group::decode(item.payload).unwrap())
}

/// What has its place, by it.
fn words(terminal: &Terminal, group: u64) -> BTreeMap<u64, String> {
    let placed = messages(terminal, group).into_iter();
    let placed = placed.filter(|stored| stored.pos.count != u64::MAX);
    placed
        .map(|stored| (stored.pos.count, stored.message.text))
        .collect()
}

/// A cluster, and a large group of which three members have terminals: the owner ann, bob, and cy, with whom it became
/// too large to be copied.
struct Stage {
    cluster: Cluster,
    address: String,
    id: u64,
    ann: Terminal,
    bob: Terminal,
    cy: Terminal,
    cy_id: u64,
    _dir: tempfile::TempDir,
}

impl Stage {
    fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let light = ["--argon2-memory-kib", "64"].map(|flag| (Role::Logic, flag.to_owned()));
        let plan = Plan {
            extra: light.into(),
            ..Plan::default()
        };
        let binary = Path::new(env!("CARGO_BIN_EXE_wechat-demo"));
        let cluster = Cluster::bring_up(dir.path(), 0, &plan, binary).unwrap();
        let address = cluster.layout().link_address();
        let names = ["ann", "bob", "cy"];
        let [(ann_is, ann), (bob_is, bob), (cy_is, cy)] =
            names.map(|name| terminal(&address, name));
        for other in [(&bob_is, &bob), (&cy_is, &cy)] {
            befriend((&ann_is, &ann), other);
        }
        let all = crowd(&cluster, &ann_is, GROUP_COPIED);
        wait_for("ann has all as friends", || {
            (friends(&ann) == GROUP_COPIED + 2).then_some(())
        });
        let (first, rest) = all.split_at(GROUP_NAMED - 1);
        let mut members = first.to_vec();
        members.push(bob_is.user_id);
        let create = pb::CreateGroup {
            client_id: new_client_id(),
            name: "everybody".to_owned(),
            members,
        };
        let id = change(&ann, Change::CreateGroup(create));
        wait_for("bob is in it", || group(&bob, id));
        let others = rest.iter().copied().chain([cy_is.user_id]);
        let invite = What::Invite(pb::Members {
            user_ids: others.collect(),
        });
        change(&ann, of_group(id, invite));
        let size = wait_for("cy is in it", || group(&cy, id)).size;
        assert_eq!(size as usize, GROUP_COPIED + 3);
        Self {
            cluster,
            address,
            id,
            ann,
            bob,
            cy,
            cy_id: cy_is.user_id,
            _dir: dir,
        }
    }

    /// Waits until all have the same so many words in the same order, and returns them.
    fn level(&self, count: usize) -> BTreeMap<u64, String> {
        wait_for("all have all of it", || {
            let all = [&self.ann, &self.bob, &self.cy].map(|terminal| words(terminal, self.id));
            let same = all[0] == all[1] && all[1] == all[2];
            (same && all[0].len() == count).then(|| all[0].clone())
        })
    }

    fn find(&self, terminal: &Terminal, text: &str) -> Option<pb::Message> {
        let mut all = messages(terminal, self.id).into_iter();
        let found = all.find(|stored| stored.message.text == text);
        found.map(|stored| stored.message)
    }

    /// All talk while the store's primary dies: each word is there once, in one order.
    fn talk(&mut self, count: usize) {
        for n in 0..count {
            if n == count / 2 {
                let primary = wait_for("somebody serves", || self.cluster.primary());
                self.cluster.kill(primary);
                self.cluster.spawn(primary).unwrap();
            }
            let speaker = [&self.ann, &self.bob, &self.cy][n % 3];
            let text = format!("word {n}");
            speaker.send(self.id, new_client_id(), text).unwrap();
        }
        let said = self.level(count);
        let mut texts: Vec<&String> = said.values().collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), count, "each once");
    }

    /// An answer that names somebody, an edit, a reaction, a recall.
    fn answer_and_take_back(&self) {
        let asked = messages(&self.cy, self.id).remove(0).message;
        let answer = pb::Outgoing {
            client_id: new_client_id(),
            text: "to that".to_owned(),
            extra: Some(pb::Extra {
                reply_to: Some(pb::Quote {
                    message_id: asked.message_id,
                    text: asked.text.clone(),
                }),
                mentions: vec![asked.sender],
                ..Default::default()
            }),
            ..Default::default()
        };
        self.bob.send_message(self.id, answer).unwrap();
        let answer = wait_for("ann has the answer", || self.find(&self.ann, "to that"));
        let extra = answer.extra.unwrap();
        assert_eq!(extra.mentions, [asked.sender]);
        assert_eq!(extra.reply_to.unwrap().message_id, asked.message_id);
        wait_for("bob has it in its place", || {
            let mut placed = words(&self.bob, self.id).into_values();
            placed.find(|text| text == "to that")
        });
        let (group_id, message_id) = (self.id, answer.message_id);
        let edit = pb::Edit {
            message_id,
            text: "to this".to_owned(),
            group_id,
        };
        change(&self.bob, Change::Edit(edit));
        let react = pb::React {
            message_id,
            emoji: "+".to_owned(),
            group_id,
        };
        change(&self.ann, Change::React(react));
        wait_for("cy sees both", || {
            let message = self.find(&self.cy, "to this");
            message.filter(|message| message.reactions.len() == 1)
        });
        let recall = pb::Recall {
            message_id,
            group_id,
        };
        change(&self.bob, Change::Recall(recall));
        for terminal in [&self.ann, &self.bob, &self.cy] {
            wait_for("it is taken back", || {
                let mut all = messages(terminal, self.id).into_iter();
                all.find(|stored| stored.message.recalled)
            });
        }
    }

    /// One page of the members, as somebody sees it.
    fn page(&self, by: &Terminal, after: u64) -> Result<pb::ListMembersReply, TerminalError> {
        let limit = 200;
        let request = pb::ListMembersRequest {
            group_id: self.id,
            after,
            limit,
        };
        by.call(pb::Command::ListMembers, &request, PATIENCE)
    }

    /// A member can see who all the others are, page by page.
    fn list(&self) {
        let (mut members, mut after) = (Vec::new(), 0);
        loop {
            let page = self.page(&self.bob, after).unwrap();
            assert!(page.members.len() <= 200);
            members.extend(page.members.into_iter().map(|member| member.user_id));
            after = page.next;
            if after == 0 {
                break;
            }
        }
        assert!(members.is_sorted() && members.contains(&self.cy_id));
        assert_eq!(members.len(), GROUP_COPIED + 3);
    }

    /// Who leaves hears no more; a fresh device of theirs has what they heard.
    fn leave(&self) {
        let left = |terminal| group(terminal, self.id).filter(|group| group.left);
        change(&self.cy, of_group(self.id, What::Leave(true)));
        wait_for("cy has left", || left(&self.cy));
        let refused = self.page(&self.cy, 0).unwrap_err();
        assert!(refused.is_refusal(7), "{refused}");
        let text = "without cy".to_owned();
        self.ann.send(self.id, new_client_id(), text).unwrap();
        wait_for("bob has it", || self.find(&self.bob, "without cy"));
        let login = patiently(|| login(&self.address, "cy", PASSWORD, "tablet"));
        let config = Config::new(&self.address, login.token);
        let store = Arc::new(Memory::new(self.cy_id));
        let tablet = Terminal::start(config, store, Arc::new(Nobody));
        wait_for("the tablet knows that cy has left", || left(&tablet));
        assert_eq!(words(&tablet, self.id), words(&self.cy, self.id));
        assert!(self.find(&tablet, "without cy").is_none());
        tablet.stop();
    }
}

fn of_group(group_id: u64, what: What) -> Change {
    let what = Some(what);
    Change::Group(pb::GroupChange { group_id, what })
}

#[test]
fn a_group_of_five_hundred_and_more_talks_over_processes_that_die() {
    let mut stage = Stage::set();
    stage.talk(30);
    stage.answer_and_take_back();
    stage.list();
    stage.leave();
    for terminal in [&stage.ann, &stage.bob, &stage.cy] {
        terminal.stop();
    }
}
