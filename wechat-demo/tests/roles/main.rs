//! Coordinator, storage (both copies) and logic over real RPC on loopback, in one process: the business from
//! outside.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::SocketAddr, path::Path, time::Duration};

use rpc_core::{Channel, Code, ServerHandle, Status, time::sleep};
use wechat_demo::{
    coordinator::{self, names::NameFlags},
    logic,
    proto::{
        logic::{self as lp, LogicClient},
        storage::{self as pb, StorageClient},
        terminal::{self, Kind, change_request::Change, contact::State, group_change::What},
    },
    storage::{acks::Kept, location::Location, role},
};

mod account;
mod authority;
mod changes;
mod moments;
mod presence;

use changes::{edit, recall};

/// One home: a coordinator, two storage processes, a logic process.
struct Home {
    logic: LogicClient,
    /// HOST:PORT of the logic process.
    logic_address: String,
    storage: StorageClient,
    backup: StorageClient,
    handles: Vec<ServerHandle>,
    _dir: tempfile::TempDir,
}

fn storage(dir: &Path, agreeing: SocketAddr) -> (SocketAddr, ServerHandle) {
    let ready = role::start(&role::Options {
        listen: "127.0.0.1:0".to_owned(),
        location: Location::directory(dir),
        coordinator: coordinator::flags::CoordinatorFlags {
            coordinator: Some(agreeing.to_string()),
            zookeeper: None,
        },
        names: NameFlags::default(),
        homes: Default::default(),
        store: None,
        follower: None,
        durability: None,
        min_copies: 2,
        shards: None,
        kept: Kept::default(),
        history: None,
        workers: None,
    })
    .unwrap();
    let (addr, handle) = (ready.local_addr(), ready.handle());
    rpc_core::spawn(move || ready.serve().unwrap());
    (addr, handle)
}

fn channel(addr: SocketAddr) -> Channel {
    Channel::builder(&addr.to_string())
        .deadline(Duration::from_secs(20))
        .connect()
        .unwrap()
}

impl Home {
    fn start() -> Self {
        Self::with_user_rate(logic::role::DEFAULT_USER_RATE)
    }

    fn with_user_rate(user_rate: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let agreeing = coordinator::role::start(&coordinator::role::Options {
            listen: "127.0.0.1:0".to_owned(),
            data_dir: dir.path().join("coordinator"),
        })
        .unwrap();
        let (coordinator, coordinator_handle) = (agreeing.local_addr(), agreeing.handle());
        rpc_core::spawn(move || agreeing.serve().unwrap());
        let (one, one_handle) = storage(&dir.path().join("one"), coordinator);
        let (other, other_handle) = storage(&dir.path().join("other"), coordinator);
        let logic = logic::role::start(&logic::role::Options {
            listen: "127.0.0.1:0".to_owned(),
            storage: vec![one.to_string(), other.to_string()],
            homes: Default::default(),
            names: NameFlags::default(),
            argon2_memory_kib: 64,
            user_rate,
            refuse_words: None,
            workers: None,
        })
        .unwrap();
        let (logic_addr, logic_handle) = (logic.local_addr(), logic.handle());
        rpc_core::spawn(move || logic.serve().unwrap());
        let clients = [one, other].map(|addr| StorageClient::new(channel(addr)));
        let serving = until("a primary serves with two copies", || {
            let describe = |client: &StorageClient| client.describe(pb::DescribeRequest {});
            clients.iter().position(|client| {
                describe(client).is_ok_and(|reply| reply.serving && reply.copies == 2)
            })
        });
        let [one, other] = clients;
        let (storage, backup) = match serving {
            0 => (one, other),
            _ => (other, one),
        };
        Self {
            logic: LogicClient::new(channel(logic_addr)),
            logic_address: logic_addr.to_string(),
            storage,
            backup,
            handles: vec![logic_handle, one_handle, other_handle, coordinator_handle],
            _dir: dir,
        }
    }

    /// Polls a condition that comes true by itself.
    fn until(&self, what: &str, done: impl Fn() -> bool) {
        until(what, || done().then_some(()));
    }

    fn register(&self, name: &str, password: &str) -> Result<u64, Status> {
        let (name, password) = (name.to_owned(), password.to_owned());
        let request = terminal::RegisterRequest {
            nickname: name.clone(),
            name,
            password,
        };
        let user_id = self.logic.register(request)?.user_id;
        // The device that `caller` names.
        self.storage.add_device(pb::AddDeviceRequest {
            user_id,
            device_id: 1,
            device: Some(pb::DeviceRow::default()),
        })?;
        Ok(user_id)
    }

    fn login(&self, name: &str, password: &str) -> Result<terminal::LoginReply, Status> {
        let (name, password) = (name.to_owned(), password.to_owned());
        let request = terminal::LoginRequest {
            name,
            password,
            device: "phone".to_owned(),
        };
        Ok(self.logic.login(request)?.into_inner())
    }

    fn authenticate(&self, token: &[u8]) -> Result<lp::AuthenticateReply, Status> {
        let request = lp::AuthenticateRequest {
            token: token.to_vec().into(),
        };
        Ok(self.logic.authenticate(request)?.into_inner())
    }

    fn sync(&self, user_id: u64, key: u64, limit: u32) -> Result<terminal::SyncReply, Status> {
        let request = Some(terminal::SyncRequest {
            key,
            limit,
            ..Default::default()
        });
        Ok(self
            .logic
            .sync(lp::SyncCall {
                caller: caller(user_id),
                request,
            })?
            .into_inner())
    }

    fn send(&self, from: u64, to: u64, id: u8, text: &str) -> Result<terminal::Sent, Status> {
        let message = terminal::Outgoing {
            client_id: vec![id; 16].into(),
            text: text.to_owned(),
            extra: None,
            count: 0,
        };
        let request = Some(terminal::SendRequest {
            receiver: to,
            messages: vec![message],
            key: 0,
            geo: false,
        });
        let mut reply = self.logic.send(lp::SendCall {
            caller: caller(from),
            request,
        })?;
        Ok(reply.sent.remove(0))
    }

    fn befriend(&self, a: u64, b: u64) {
        let request = Some(terminal::AddContactRequest {
            user_id: b,
            greeting: "hi".to_owned(),
        });
        self.logic
            .add_contact(lp::AddContactCall {
                caller: caller(a),
                request,
            })
            .unwrap();
        self.until("the request arrives", || {
            self.contact(b, a) == State::AskedMe
        });
        let request = Some(terminal::AcceptContactRequest { user_id: a });
        self.logic
            .accept_contact(lp::AcceptContactCall {
                caller: caller(b),
                request,
            })
            .unwrap();
        self.until("the answer arrives", || self.contact(a, b) == State::Friend);
    }

    fn contact(&self, user: u64, peer: u64) -> State {
        let items = self.sync(user, 0, 1000).unwrap().items;
        let contact = items
            .iter()
            .find(|item| item.kind() == Kind::Contact && item.id == peer);
        contact.map_or(State::Unspecified, |item| {
            let payload = item.payload.clone();
            <terminal::Contact as prost::Message>::decode(payload)
                .unwrap()
                .state()
        })
    }

    fn stop(self) {
        self.handles.iter().for_each(ServerHandle::drain);
    }
}

/// Polls for something that comes by itself.
fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    for _ in 0..2000 {
        if let Some(found) = look() {
            return found;
        }
        sleep(Duration::from_millis(10));
    }
    panic!("not within 20 s: {what}");
}

fn caller(user_id: u64) -> Option<lp::Caller> {
    Some(who(user_id, 1))
}

fn code<T: std::fmt::Debug>(outcome: Result<T, Status>) -> Code {
    outcome.unwrap_err().code()
}

#[rpc_core::test]
fn a_user_registers_logs_in_and_is_known_by_the_token_until_it_is_revoked() {
    let home = Home::start();
    let ann = home.register("ann", "secret1").unwrap();
    assert_eq!(
        home.register("ann", "secret1").unwrap(),
        ann,
        "a lost answer may be asked for again"
    );
    assert_eq!(code(home.register("ann", "secret2")), Code::AlreadyExists);
    assert_eq!(
        code(home.register("ann b", "secret1")),
        Code::InvalidArgument
    );
    assert_eq!(code(home.login("ann", "secret2")), Code::Unauthenticated);
    assert_eq!(code(home.login("nobody", "secret2")), Code::Unauthenticated);
    let login = home.login("ann", "secret1").unwrap();
    let known = home.authenticate(&login.token).unwrap();
    assert_eq!((known.user_id, known.device_id), (ann, login.device_id));
    let mut forged = login.token.to_vec();
    forged[40] ^= 1;
    assert_eq!(code(home.authenticate(&forged)), Code::Unauthenticated);
    assert_eq!(code(home.authenticate(b"short")), Code::Unauthenticated);
    let revoke = pb::RemoveDeviceRequest {
        user_id: ann,
        device_id: login.device_id,
    };
    home.storage.remove_device(revoke).unwrap();
    assert_eq!(code(home.authenticate(&login.token)), Code::Unauthenticated);
    home.stop();
}

#[rpc_core::test]
fn two_become_contacts_and_write_to_each_other_in_one_order() {
    let home = Home::start();
    let ann = home.register("ann", "secret1").unwrap();
    let bob = home.register("bob", "secret2").unwrap();
    home.befriend(ann, bob);
    let question = home.send(ann, bob, 1, "how are you?").unwrap();
    home.until("the question arrives", || messages(&home, bob).len() == 1);
    let answer = home.send(bob, ann, 2, "fine").unwrap();
    home.until("the answer arrives", || messages(&home, ann).len() == 2);
    assert!(answer.pos.unwrap().count > question.pos.unwrap().count);
    assert_eq!(messages(&home, ann), messages(&home, bob));
    let again = home.send(ann, bob, 1, "how are you?").unwrap();
    // But for what makes it a notify.
    let question = terminal::Sent {
        sent_ms: 0,
        prev_key: 0,
        ..question
    };
    assert_eq!(again, question, "a retry is answered the same");
    let other = code(home.send(ann, bob, 1, "something else"));
    assert_eq!(other, Code::AlreadyExists);
    assert_eq!(messages(&home, bob).len(), 2);
    home.stop();
}

/// (position, text), by position.
fn messages(home: &Home, user: u64) -> Vec<(u64, String)> {
    let items = home.sync(user, 0, 1000).unwrap().items;
    let mut messages: Vec<_> = items
        .iter()
        .filter(|item| item.kind() == Kind::Message)
        .map(|item| {
            let payload = item.payload.clone();
            let message = <terminal::Message as prost::Message>::decode(payload).unwrap();
            (item.pos.unwrap().count, message.text)
        })
        .collect();
    messages.sort();
    messages
}

#[rpc_core::test]
fn a_caller_reads_only_its_own_timeline_and_a_key_must_be_its_own() {
    let home = Home::start();
    let ann = home.register("ann", "secret1").unwrap();
    let no_caller = lp::SyncCall {
        caller: None,
        request: Some(terminal::SyncRequest::default()),
    };
    assert_eq!(code(home.logic.sync(no_caller)), Code::Unauthenticated);
    let page = home.sync(ann, 0, 0).unwrap();
    assert_eq!((page.items.len(), page.more), (1, false));
    assert!(home.sync(ann, page.key, 0).unwrap().items.is_empty());
    let whole = home.sync(ann, page.key + 1, 0).unwrap();
    assert_eq!((whole.full_to, whole.items), (page.key, page.items));
    home.stop();
}

fn change(home: &Home, who: lp::Caller, change: Change) -> Result<u64, Status> {
    let call = lp::ChangeCall {
        caller: Some(who),
        request: Some(terminal::ChangeRequest {
            change: Some(change),
        }),
    };
    Ok(home.logic.change(call)?.number)
}

fn who(user_id: u64, device_id: u64) -> lp::Caller {
    lp::Caller { user_id, device_id }
}

#[rpc_core::test]
fn an_edit_and_a_recall_reach_the_other_end() {
    let home = Home::start();
    let ann = home.register("ann", "secret1").unwrap();
    let bob = home.register("bob", "secret2").unwrap();
    home.befriend(ann, bob);
    let sent = home.send(ann, bob, 1, "helo").unwrap();
    let count = sent.pos.unwrap().count;
    home.until("it arrives", || messages(&home, bob).len() == 1);
    change(&home, who(ann, 1), edit(sent.message_id, "hello")).unwrap();
    for user in [ann, bob] {
        home.until("the edit arrives", || {
            messages(&home, user) == [(count, "hello".to_owned())]
        });
    }
    let recall = recall(sent.message_id);
    change(&home, who(ann, 1), recall).unwrap();
    for user in [ann, bob] {
        home.until("the recall arrives", || {
            messages(&home, user) == [(count, String::new())]
        });
    }
    let again = change(&home, who(ann, 1), edit(sent.message_id, "hello"));
    assert_eq!(code(again), Code::FailedPrecondition);
    home.stop();
}

#[rpc_core::test]
fn nobody_reads_or_changes_what_is_anothers() {
    let home = Home::start();
    let ann = home.register("ann", "secret1").unwrap();
    let bob = home.register("bob", "secret2").unwrap();
    let eve = home.register("eve", "secret3").unwrap();
    home.befriend(ann, bob);
    let message_id = home.send(ann, bob, 1, "for bob").unwrap().message_id;
    home.until("it arrives", || messages(&home, bob).len() == 1);
    let react = Change::React(terminal::React {
        message_id,
        emoji: "+".to_owned(),
        group_id: 0,
    });
    let denied = change(&home, who(bob, 1), edit(message_id, "mine"));
    assert_eq!(code(denied), Code::PermissionDenied);
    assert_eq!(
        code(change(&home, who(bob, 1), recall(message_id))),
        Code::PermissionDenied
    );
    for theirs in [edit(message_id, "mine"), recall(message_id), react] {
        let refused = change(&home, who(eve, 1), theirs);
        assert_eq!(code(refused), Code::NotFound);
    }
    for strange in [
        Change::Mute(terminal::Mute {
            peer: ann,
            muted: true,
        }),
        Change::Remark(terminal::Remark {
            user_id: ann,
            remark: "friend".to_owned(),
        }),
        Change::Block(terminal::Block {
            user_id: ann,
            blocked: true,
        }),
    ] {
        assert_eq!(code(change(&home, who(eve, 1), strange)), Code::NotFound);
    }
    let mark = Change::Mark(terminal::Mark {
        peer: ann,
        received: 1,
        read: 1,
    });
    assert_eq!(
        code(change(&home, who(eve, 1), mark)),
        Code::InvalidArgument
    );
    // A device of another user's is none of eve's, and logging it out does nothing.
    let login = home.login("ann", "secret1").unwrap();
    let log_out = Change::LogOut(terminal::LogOut {
        device_id: login.device_id,
    });
    let forged = lp::SyncCall {
        caller: Some(who(eve, login.device_id)),
        request: Some(terminal::SyncRequest::default()),
    };
    assert_eq!(code(home.logic.sync(forged)), Code::Unauthenticated);
    change(&home, who(eve, 1), log_out).unwrap();
    assert!(home.authenticate(&login.token).is_ok());
    assert!(messages(&home, eve).is_empty());
    assert_eq!(messages(&home, bob)[0].1, "for bob");
    home.stop();
}

#[rpc_core::test]
fn a_device_without_a_link_is_to_be_woken_at_the_token_it_gave() {
    let home = Home::start();
    let ann = home.register("ann", "secret1").unwrap();
    let bob = home.register("bob", "secret2").unwrap();
    home.befriend(ann, bob);
    let push_token = |token: &str| {
        Change::PushToken(terminal::PushToken {
            token: token.to_owned(),
        })
    };
    for bad in ["0123", "no hexadecimal digits", &"0".repeat(202)] {
        let refused = change(&home, who(bob, 1), push_token(bad));
        assert_eq!(code(refused), Code::InvalidArgument, "{bad}");
    }
    let forged = change(&home, who(bob, 7), push_token("00ff00ff00ff00ff"));
    assert_eq!(code(forged), Code::Unauthenticated);
    change(&home, who(bob, 1), push_token("00FF00ff00ff00ff")).unwrap();
    let number = home.sync(bob, 0, 0).unwrap().key;
    home.send(ann, bob, 1, "wake up").unwrap();
    let take = |limit| {
        let request = pb::TakePushesRequest { limit };
        Ok::<_, Status>(home.storage.take_pushes(request)?.into_inner().pushes)
    };
    let push = until("it is due", || take(8).unwrap().pop());
    assert_eq!((push.user_id, push.device_id), (bob, 1));
    assert_eq!(push.token, "00ff00ff00ff00ff");
    assert!(push.number > number);
    assert_eq!(code(take(0)), Code::InvalidArgument);
    assert_eq!(code(take(100_000)), Code::InvalidArgument);
    let settled = pb::SettledPush {
        user_id: bob,
        device_id: 1,
        number: push.number,
        outcome: Some(pb::settled_push::Outcome::Over(pb::Over {})),
    };
    let settle = |settled| {
        home.storage
            .settle_pushes(pb::SettlePushesRequest { settled })
    };
    settle(vec![settled]).unwrap();
    assert_eq!(code(settle(Vec::new())), Code::InvalidArgument);
    assert_eq!(take(8).unwrap(), []);
    home.stop();
}

fn of_group(group_id: u64, what: What) -> Change {
    Change::Group(terminal::GroupChange {
        group_id,
        what: Some(what),
    })
}

/// What only members of a group may do.
fn for_members(group: u64, member: u64, stranger: u64) -> [Change; 7] {
    let kick = What::Kick(terminal::Members {
        user_ids: vec![member],
    });
    [
        of_group(group, What::Name("mine".to_owned())),
        of_group(group, What::Announcement("mine".to_owned())),
        of_group(group, What::Owner(stranger)),
        of_group(group, kick),
        of_group(group, What::Open(true)),
        Change::Mark(terminal::Mark {
            peer: group,
            received: 1,
            read: 1,
        }),
        Change::Mute(terminal::Mute {
            peer: group,
            muted: true,
        }),
    ]
}

#[rpc_core::test]
fn a_group_is_closed_to_who_is_not_in_it() {
    let home = Home::start();
    let ann = home.register("ann", "secret1").unwrap();
    let bob = home.register("bob", "secret2").unwrap();
    let eve = home.register("eve", "secret3").unwrap();
    home.befriend(ann, bob);
    let create = |members: Vec<u64>| {
        let create = terminal::CreateGroup {
            client_id: vec![9; 16].into(),
            name: "club".to_owned(),
            members,
        };
        let call = lp::ChangeCall {
            caller: caller(ann),
            request: Some(terminal::ChangeRequest {
                change: Some(Change::CreateGroup(create)),
            }),
        };
        home.logic.change(call).map(|reply| reply.made)
    };
    assert_eq!(code(create(vec![])), Code::InvalidArgument);
    assert_eq!(code(create(vec![2; 500])), Code::InvalidArgument);
    assert_eq!(code(create(vec![eve])), Code::FailedPrecondition);
    let group = create(vec![bob]).unwrap();
    let has = |user: u64, kind: Kind| {
        let items = home.sync(user, 0, 1000).unwrap().items;
        items.iter().any(|item| item.kind() == kind)
    };
    home.until("bob is in it", || has(bob, Kind::Group));
    home.send(bob, group, 1, "among us").unwrap();
    home.until("ann has it", || messages(&home, ann).len() == 1);
    let asked = |what| of_group(group, what);
    assert_eq!(code(home.send(eve, group, 2, "hi")), Code::PermissionDenied);
    for theirs in for_members(group, bob, eve) {
        let refused = change(&home, who(eve, 1), theirs);
        assert_eq!(code(refused), Code::PermissionDenied);
    }
    let by_bob = change(&home, who(bob, 1), asked(What::Name("bob's".to_owned())));
    assert_eq!(code(by_bob), Code::PermissionDenied);
    // Only the group's home knows whether one may join; its word comes as an item.
    change(&home, who(eve, 1), asked(What::Join(true))).unwrap();
    home.until("the refusal comes", || has(eve, Kind::Refused));
    assert!(!has(eve, Kind::Group) && messages(&home, eve).is_empty());
    change(&home, who(ann, 1), asked(What::Open(true))).unwrap();
    home.until("eve may join", || {
        change(&home, who(eve, 1), asked(What::Join(true))).unwrap();
        has(eve, Kind::Group)
    });
    assert!(
        messages(&home, eve).is_empty(),
        "what was said before is not hers"
    );
    home.stop();
}

#[rpc_core::test]
fn a_blocked_contact_is_refused_and_taken_again_when_unblocked() {
    let home = Home::start();
    let ann = home.register("ann", "secret1").unwrap();
    let bob = home.register("bob", "secret2").unwrap();
    home.befriend(ann, bob);
    let block = |blocked| {
        Change::Block(terminal::Block {
            user_id: ann,
            blocked,
        })
    };
    change(&home, who(bob, 1), block(true)).unwrap();
    home.send(ann, bob, 1, "hello?").unwrap();
    home.until("word of the refusal comes back", || {
        let items = home.sync(ann, 0, 1000).unwrap().items;
        items.iter().any(|item| item.kind() == Kind::Refused)
    });
    change(&home, who(bob, 1), block(false)).unwrap();
    home.send(ann, bob, 2, "and now?").unwrap();
    home.until("it is taken", || {
        let texts = messages(&home, bob).into_iter().map(|message| message.1);
        texts.collect::<Vec<_>>() == ["and now?"]
    });
    home.stop();
}

#[rpc_core::test]
fn a_new_password_logs_every_other_device_out_at_once() {
    let home = Home::start();
    let ann = home.register("ann", "secret1").unwrap();
    let phone = home.login("ann", "secret1").unwrap();
    let desktop = home.login("ann", "secret1").unwrap();
    let list = |device| {
        let call = lp::ListDevicesCall {
            caller: Some(who(ann, device)),
            request: Some(terminal::ListDevicesRequest {}),
        };
        home.logic
            .list_devices(call)
            .map(|reply| reply.into_inner().devices)
    };
    assert_eq!(list(phone.device_id).unwrap().len(), 3);
    let new_password = |old: &str| {
        Change::NewPassword(terminal::NewPassword {
            old: old.to_owned(),
            new: "secret9".to_owned(),
        })
    };
    let wrong = change(&home, who(ann, phone.device_id), new_password("secret2"));
    assert_eq!(code(wrong), Code::PermissionDenied);
    change(&home, who(ann, phone.device_id), new_password("secret1")).unwrap();
    let left = list(phone.device_id).unwrap();
    assert_eq!((left.len(), left[0].own), (1, true));
    assert!(home.authenticate(&phone.token).is_ok());
    assert_eq!(
        code(home.authenticate(&desktop.token)),
        Code::Unauthenticated
    );
    let sync = lp::SyncCall {
        caller: Some(who(ann, desktop.device_id)),
        request: Some(terminal::SyncRequest::default()),
    };
    assert_eq!(code(home.logic.sync(sync)), Code::Unauthenticated);
    assert_eq!(code(list(desktop.device_id)), Code::Unauthenticated);
    assert_eq!(code(home.login("ann", "secret1")), Code::Unauthenticated);
    assert!(home.login("ann", "secret9").is_ok());
    home.stop();
}

#[rpc_core::test]
fn a_logged_out_device_finds_asks_and_accepts_nobody() {
    let home = Home::start();
    let ann = home.register("ann", "secret1").unwrap();
    let bob = home.register("bob", "secret2").unwrap();
    let device_id = home.login("ann", "secret1").unwrap().device_id;
    let find = |name: &str, user_id: u64| {
        let name = name.to_owned();
        let call = lp::FindUserCall {
            caller: Some(who(ann, device_id)),
            request: Some(terminal::FindUserRequest { name, user_id }),
        };
        home.logic.find_user(call).map(|reply| reply.user_id)
    };
    assert_eq!(find("bob", 0).unwrap(), bob);
    change(
        &home,
        who(ann, 1),
        Change::LogOut(terminal::LogOut { device_id }),
    )
    .unwrap();
    assert_eq!(code(find("bob", 0)), Code::Unauthenticated);
    assert_eq!(code(find("", bob)), Code::Unauthenticated);
    let add = |user_id: u64| {
        let greeting = String::new();
        home.logic.add_contact(lp::AddContactCall {
            caller: Some(who(ann, device_id)),
            request: Some(terminal::AddContactRequest { user_id, greeting }),
        })
    };
    assert_eq!(code(add(bob)), Code::Unauthenticated);
    assert_eq!(
        code(add(bob + 1)),
        Code::Unauthenticated,
        "not even whether there is such a user"
    );
    let accept = home.logic.accept_contact(lp::AcceptContactCall {
        caller: Some(who(ann, device_id)),
        request: Some(terminal::AcceptContactRequest { user_id: bob }),
    });
    assert_eq!(code(accept), Code::Unauthenticated);
    // What the business asks of storage is refused there as well.
    let ask = home.storage.ask_contact(pb::AskContactRequest {
        user_id: ann,
        peer: bob,
        device_id,
        ..Default::default()
    });
    assert_eq!(code(ask), Code::Unauthenticated);
    let accept = home.storage.accept_contact(pb::AcceptContactRequest {
        user_id: ann,
        peer: bob,
        device_id,
    });
    assert_eq!(code(accept), Code::Unauthenticated);
    assert_eq!(home.contact(bob, ann), State::Unspecified);
    home.stop();
}

#[rpc_core::test]
fn what_is_too_large_is_refused_with_its_name() {
    let home = Home::start();
    let ann = home.register("ann", "secret1").unwrap();
    for (large, named) in [
        (edit(1, &"x".repeat(8193)), "a text"),
        (
            Change::React(terminal::React {
                message_id: 1,
                emoji: "x".repeat(33),
                group_id: 0,
            }),
            "a reaction",
        ),
        (
            Change::Profile(terminal::Profile {
                nickname: Some("x".repeat(129)),
                avatar: None,
            }),
            "a nickname",
        ),
    ] {
        let refused = change(&home, who(ann, 1), large).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(
            refused.message().starts_with(named),
            "{}",
            refused.message()
        );
    }
    home.stop();
}

#[rpc_core::test]
fn registering_a_link_answers_with_the_newest_key() {
    let home = Home::start();
    let ann = home.register("ann", "secret1").unwrap();
    let key = home.sync(ann, 0, 0).unwrap().key;
    let link = lp::Link {
        user_id: ann,
        device_id: 1,
        link: 1,
        access: "127.0.0.1:1".to_owned(),
        active: true,
    };
    let request = lp::RegisterLinksRequest {
        links: vec![link.clone()],
    };
    let newest = home
        .logic
        .register_links(request)
        .unwrap()
        .into_inner()
        .newest;
    let [newest] = newest[..] else {
        panic!("one link, one answer: {newest:?}")
    };
    assert_eq!(
        (newest.user_id, newest.key, newest.reached),
        (ann, key, true)
    );
    assert!(newest.epoch > 0, "a primary says in which epoch it serves");
    let many = lp::RegisterLinksRequest {
        links: vec![link; 513],
    };
    assert_eq!(code(home.logic.register_links(many)), Code::InvalidArgument);
    home.stop();
}

#[rpc_core::test]
fn a_backup_says_who_it_is_and_sends_callers_to_the_primary() {
    let home = Home::start();
    let reply = home.backup.describe(pb::DescribeRequest {}).unwrap();
    assert_eq!((reply.role(), reply.serving), (pb::Role::Backup, false));
    let status = home
        .backup
        .find_name(pb::FindNameRequest {
            name: "ann".to_owned(),
        })
        .unwrap_err();
    assert!(status.never_ran(), "{status}");
    home.stop();
}
