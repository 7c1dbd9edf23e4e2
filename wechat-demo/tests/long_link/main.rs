//! Access and terminals against each other over real sockets, with a backend made for the test in the
//! place of logic: what the two promise each other, whatever stands behind them.
#![expect(clippy::unwrap_used, reason = "a test that fails here says where")]

mod acknowledge;
mod nearby;
mod passing;
mod port;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rpc_core::ServerTls;
use wechat_demo::access::session::Limits;
use wechat_demo::access::{Access, Answer, Backend, Refusal, Settings};
use wechat_demo::longlink::{CLIENT_VERSION, Decoder, Frame, MAX_PACKET, SEQ_NOOP};
use wechat_demo::proto::access::Target;
use wechat_demo::proto::logic::{Caller, Link, NewestKey};
use wechat_demo::proto::terminal as pb;
use wechat_demo::terminal::store::memory::Memory;
use wechat_demo::terminal::{
    Beats, Config, Connection, Observer, Terminal, TerminalError, new_client_id,
};

/// A user's token is the user id in decimal; timelines hold messages alone.
#[derive(Default)]
struct Fake {
    users: Mutex<HashMap<u64, Timeline>>,
    /// Where to send notifies; set once access exists.
    access: Mutex<Option<Arc<Access>>>,
    /// Notifies are dropped.
    mute: AtomicBool,
    /// The users' home cannot be reached.
    down: AtomicBool,
    /// Answers of Send that are swallowed after the commit, as if a process had died between the two.
    swallow: AtomicUsize,
    registrations: AtomicUsize,
    /// Calls of register_links.
    batches: AtomicUsize,
    calls: AtomicUsize,
    /// Highest key that somebody synced from.
    acknowledged: AtomicU64,
}

#[derive(Default)]
struct Timeline {
    items: Vec<pb::Item>,
    links: Vec<Link>,
    /// Client id to what it was answered with.
    sent: HashMap<Bytes, pb::Sent>,
}

impl Timeline {
    fn newest(&self) -> u64 {
        self.items.last().map_or(0, |item| item.number)
    }
}

impl Fake {
    fn commit(&self, user: u64, message: &pb::Message, count: u64) -> u64 {
        let mut users = self.users.lock().unwrap();
        let timeline = users.entry(user).or_default();
        let prev_key = timeline.newest();
        let number = prev_key + 1;
        let item = pb::Item {
            number,
            kind: pb::Kind::Message as i32,
            id: message.message_id,
            version: 1,
            pos: Some(pb::Pos {
                count,
                sender: message.sender,
            }),
            payload: message.encode_to_vec().into(),
            deleted: false,
        };
        timeline.items.push(item.clone());
        let notify = pb::Notify {
            prev_key,
            key: number,
            items: vec![item],
        };
        let targets = timeline.links.iter().map(|link| Target {
            user_id: user,
            device_id: link.device_id,
            link: link.link,
            notify: Some(notify.clone()),
            signs: Vec::new(),
        });
        let targets: Vec<Target> = targets.collect();
        drop(users);
        if !self.mute.load(Ordering::SeqCst) {
            let access = self.access.lock().unwrap().clone();
            access.expect("access is there").notify(targets);
        }
        number
    }

    fn send(&self, caller: Caller, request: &pb::SendRequest) -> pb::SendReply {
        let mut reply = pb::SendReply::default();
        for outgoing in &request.messages {
            let known = {
                let users = self.users.lock().unwrap();
                users
                    .get(&caller.user_id)
                    .and_then(|t| t.sent.get(&outgoing.client_id).cloned())
            };
            let sent =
                known.unwrap_or_else(|| self.send_one(caller.user_id, request.receiver, outgoing));
            reply.sent.push(sent);
        }
        reply
    }

    fn send_one(&self, sender: u64, receiver: u64, outgoing: &pb::Outgoing) -> pb::Sent {
        let count = self
            .users
            .lock()
            .unwrap()
            .values()
            .map(|t| t.items.len() as u64)
            .sum::<u64>()
            + 1;
        let message = pb::Message {
            message_id: count,
            sender,
            receiver,
            client_id: outgoing.client_id.clone(),
            text: outgoing.text.clone(),
            ..Default::default()
        };
        let number = self.commit(sender, &message, count);
        self.commit(receiver, &message, count);
        let sent = pb::Sent {
            client_id: outgoing.client_id.clone(),
            number,
            pos: Some(pb::Pos { count, sender }),
            message_id: count,
            sent_ms: 0,
            prev_key: number - 1,
        };
        let mut users = self.users.lock().unwrap();
        users
            .entry(sender)
            .or_default()
            .sent
            .insert(outgoing.client_id.clone(), sent.clone());
        sent
    }

    /// Gives the newest item of a user this number, as if many had come before it.
    fn lift(&self, user: u64, number: u64) -> u64 {
        let mut users = self.users.lock().unwrap();
        let newest = users.get_mut(&user).and_then(|t| t.items.last_mut());
        newest.unwrap().number = number;
        number
    }

    fn sync(&self, user: u64, request: pb::SyncRequest) -> pb::SyncReply {
        self.acknowledged.fetch_max(request.key, Ordering::SeqCst);
        let users = self.users.lock().unwrap();
        let items = users.get(&user).map_or(&[][..], |timeline| &timeline.items);
        let newer: Vec<_> = items
            .iter()
            .filter(|item| item.number > request.key)
            .cloned()
            .collect();
        let page: Vec<_> = newer.iter().take(3).cloned().collect();
        let key = page.last().map_or(request.key, |item| item.number);
        pb::SyncReply {
            more: page.len() < newer.len(),
            items: page,
            key,
            ..Default::default()
        }
    }
}

impl Backend for Fake {
    fn authenticate(&self, token: Bytes) -> Result<Caller, Refusal> {
        let user = std::str::from_utf8(&token)
            .ok()
            .and_then(|text| text.parse().ok());
        let unknown = Refusal {
            code: 16,
            text: "unknown token; log in".to_owned(),
        };
        user.map(|user_id| Caller {
            user_id,
            device_id: user_id,
        })
        .ok_or(unknown)
    }

    fn open_command(&self, command: pb::Command, body: Bytes) -> Result<Answer, Refusal> {
        let request =
            pb::RegisterRequest::decode(body).map_err(|e| Refusal::undecodable(command, &e))?;
        let reply = pb::RegisterReply {
            user_id: request.name.len() as u64,
        };
        Ok(Answer {
            body: reply.encode_to_vec().into(),
            told: 0,
        })
    }

    fn command(
        &self,
        caller: Caller,
        command: pb::Command,
        body: Bytes,
    ) -> Result<Answer, Refusal> {
        if self.down.load(Ordering::SeqCst) {
            return Err(Refusal::unreachable());
        }
        self.calls.fetch_add(1, Ordering::SeqCst);
        match command {
            pb::Command::Send => {
                let request =
                    pb::SendRequest::decode(body).map_err(|e| Refusal::undecodable(command, &e))?;
                let reply = self.send(caller, &request);
                let swallowed =
                    self.swallow
                        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                            left.checked_sub(1)
                        });
                if swallowed.is_ok() {
                    return Err(Refusal::unreachable());
                }
                Ok(Answer {
                    body: reply.encode_to_vec().into(),
                    told: 0,
                })
            }
            pb::Command::Sync => {
                let request =
                    pb::SyncRequest::decode(body).map_err(|e| Refusal::undecodable(command, &e))?;
                let reply = self.sync(caller.user_id, request);
                Ok(Answer {
                    told: reply.key,
                    body: reply.encode_to_vec().into(),
                })
            }
            other => Err(Refusal::unknown(other as u32)),
        }
    }

    fn register_links(&self, links: Vec<Link>) -> Result<Vec<NewestKey>, Refusal> {
        self.batches.fetch_add(1, Ordering::SeqCst);
        let reached = !self.down.load(Ordering::SeqCst);
        let mut users = self.users.lock().unwrap();
        let newest = links.into_iter().map(|link| {
            let timeline = users.entry(link.user_id).or_default();
            let newest = NewestKey {
                user_id: link.user_id,
                key: timeline.newest(),
                reached,
                epoch: 1,
            };
            let known = timeline
                .links
                .iter_mut()
                .find(|known| known.link == link.link);
            match known {
                Some(known) => known.active = link.active,
                None if reached => {
                    self.registrations.fetch_add(1, Ordering::SeqCst);
                    timeline.links.push(link);
                }
                None => {}
            }
            newest
        });
        Ok(newest.collect())
    }

    fn drop_links(&self, links: Vec<Link>) -> Result<(), Refusal> {
        let mut users = self.users.lock().unwrap();
        for gone in links {
            users
                .entry(gone.user_id)
                .or_default()
                .links
                .retain(|link| link.link != gone.link);
        }
        Ok(())
    }
}

/// A running access process without its process.
struct Rig {
    fake: Arc<Fake>,
    access: Arc<Access>,
    address: SocketAddr,
}

fn rig(limits: Limits) -> Rig {
    rig_with(limits, None)
}

fn rig_with(limits: Limits, tls: Option<ServerTls>) -> Rig {
    let fake = Arc::new(Fake::default());
    let settings = Settings {
        rpc_address: "127.0.0.1:1".to_owned(),
        max_links: 64,
        limits,
    };
    let access = Access::new(settings, fake.clone());
    *fake.access.lock().unwrap() = Some(access.clone());
    let door = access.bind("127.0.0.1:0", tls).unwrap();
    let address = door.local_addr();
    rpc_core::spawn(move || door.serve().unwrap());
    Rig {
        fake,
        access,
        address,
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.access.drain();
    }
}

impl Rig {
    fn terminal(&self, user: u64) -> (Terminal, Arc<Journal>) {
        let mut config = Config::new(&self.address.to_string(), user.to_string().into());
        config.heartbeat = Beats::Fixed(Duration::from_millis(200));
        let journal = Arc::new(Journal::default());
        (
            Terminal::start(config, Arc::new(Memory::new(user)), journal.clone()),
            journal,
        )
    }

    fn raw(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }
}

/// Notes what an observer is told, and lets a test wait for it.
#[derive(Default)]
struct Journal {
    told: Mutex<Told>,
    changed: Condvar,
}

#[derive(Default)]
struct Told {
    numbers: Vec<u64>,
    texts: Vec<String>,
    acked: Vec<Bytes>,
    links: usize,
    over: Option<String>,
}

impl Journal {
    fn note(&self, note: impl FnOnce(&mut Told)) {
        note(&mut self.told.lock().unwrap());
        self.changed.notify_all();
    }

    /// Waits until the condition holds; the limit only turns a hang into a failure.
    fn wait(&self, what: &str, condition: impl Fn(&Told) -> bool) {
        let told = self.told.lock().unwrap();
        let limit = Duration::from_secs(30);
        let (_told, waited) = self
            .changed
            .wait_timeout_while(told, limit, |told| !condition(told))
            .unwrap();
        assert!(!waited.timed_out(), "never: {what}");
    }
}

impl Observer for Journal {
    fn applied(&self, items: &[pb::Item]) {
        self.note(|told| {
            for item in items {
                told.numbers.push(item.number);
                told.texts
                    .push(pb::Message::decode(item.payload.clone()).unwrap().text);
            }
        });
    }

    fn acked(&self, sent: &pb::Sent) {
        self.note(|told| told.acked.push(sent.client_id.clone()));
    }

    fn linked(&self) {
        self.note(|told| told.links += 1);
    }

    fn unlinked(&self, why: &TerminalError, last: bool) {
        if last {
            self.note(|told| told.over = Some(why.to_string()));
        }
    }
}

#[rpc_core::test]
fn what_one_says_the_other_applies_in_order() {
    let rig = rig(Limits::default());
    let (alice, alices) = rig.terminal(1);
    let (bob, bobs) = rig.terminal(2);
    bobs.wait("bob's link", |told| told.links == 1);
    for n in 0..50 {
        alice.send(2, new_client_id(), format!("line {n}")).unwrap();
    }
    alices.wait("fifty acknowledgements", |told| told.acked.len() == 50);
    bobs.wait("fifty lines", |told| told.texts.len() == 50);
    let shown: Vec<String> = bob
        .store()
        .messages(1, 99)
        .unwrap()
        .into_iter()
        .map(|m| m.message.text)
        .collect();
    assert_eq!(
        shown,
        (0..50).map(|n| format!("line {n}")).collect::<Vec<_>>()
    );
    let numbers = bobs.told.lock().unwrap().numbers.clone();
    assert!(numbers.is_sorted_by(|a, b| a < b));
    alice.stop();
    bob.stop();
}

#[rpc_core::test]
fn a_send_whose_answer_was_lost_is_repeated_under_its_id_and_counts_once() {
    let rig = rig(Limits::default());
    rig.fake.swallow.store(3, Ordering::SeqCst);
    let (alice, alices) = rig.terminal(1);
    alice.send(2, new_client_id(), "once".to_owned()).unwrap();
    alices.wait("the acknowledgement", |told| told.acked.len() == 1);
    assert_eq!(rig.fake.users.lock().unwrap()[&2].items.len(), 1);
    assert!(rig.fake.calls.load(Ordering::SeqCst) >= 4);
    alice.stop();
}

#[rpc_core::test]
fn lost_notifies_heal_by_the_next_beat() {
    let rig = rig(Limits::default());
    let (bob, bobs) = rig.terminal(2);
    bobs.wait("the link", |told| told.links == 1);
    rig.fake.mute.store(true, Ordering::SeqCst);
    let message = pb::Message {
        message_id: 1,
        sender: 1,
        receiver: 2,
        text: "unheard".into(),
        ..Default::default()
    };
    rig.fake.commit(2, &message, 1);
    bobs.wait("the message", |told| told.texts == ["unheard"]);
    bob.stop();
}

#[rpc_core::test]
fn a_cut_link_is_made_again_and_nothing_is_missing() {
    let rig = rig(Limits::default());
    let (alice, alices) = rig.terminal(1);
    let (bob, bobs) = rig.terminal(2);
    bobs.wait("the link", |told| told.links == 1);
    for n in 0..20 {
        alice.send(2, new_client_id(), format!("{n}")).unwrap();
        if n == 10 {
            rig.access.notify(Vec::new());
            for link in rig.fake.users.lock().unwrap()[&2].links.clone() {
                rig.access.close_link(link.link);
            }
        }
    }
    alices.wait("all acknowledged", |told| told.acked.len() == 20);
    bobs.wait("all applied over a second link", |told| {
        told.texts.len() == 20 && told.links == 2
    });
    assert_eq!(
        bobs.told.lock().unwrap().numbers,
        (1..=20).collect::<Vec<u64>>()
    );
    alice.stop();
    bob.stop();
}

#[rpc_core::test]
fn a_token_that_is_no_longer_good_ends_the_terminal_and_says_so() {
    let rig = rig(Limits::default());
    let config = Config::new(&rig.address.to_string(), "nonsense".into());
    let journal = Arc::new(Journal::default());
    let terminal = Terminal::start(config, Arc::new(Memory::new(1)), journal.clone());
    journal.wait("the end", |told| {
        told.over
            .as_deref()
            .is_some_and(|why| why.contains("log in"))
    });
    let error = terminal.refresh(Duration::from_secs(5)).unwrap_err();
    assert!(error.is_refusal(16), "{error}");
    terminal.stop();
}

#[rpc_core::test]
fn a_beat_says_nothing_rather_than_something_old_when_the_home_is_down() {
    let rig = rig(Limits::default());
    let mut link = authenticated(&rig, 7);
    rig.fake.down.store(true, Ordering::SeqCst);
    let noop = Frame {
        cmd: 6,
        seq: SEQ_NOOP,
        body: Bytes::new(),
    };
    link.write_all(&noop.to_bytes()).unwrap();
    let beat = pb::Beat::decode(read_frame(&mut link, &mut Decoder::default()).body).unwrap();
    assert_eq!(beat.newest, None);
    rig.fake.down.store(false, Ordering::SeqCst);
    link.write_all(&noop.to_bytes()).unwrap();
    let beat = pb::Beat::decode(read_frame(&mut link, &mut Decoder::default()).body).unwrap();
    assert_eq!(beat.newest, Some(0));
}

#[rpc_core::test]
fn a_login_while_the_home_is_down_is_told_to_come_again() {
    let rig = rig(Limits::default());
    rig.fake.down.store(true, Ordering::SeqCst);
    let mut connection = Connection::open(&rig.address.to_string()).unwrap();
    let request = pb::AuthRequest {
        token: "7".into(),
        active: true,
    };
    let error = connection
        .call::<pb::AuthReply>(pb::Command::Auth, &request)
        .unwrap_err();
    assert!(error.is_transient(), "{error}");
}

#[rpc_core::test]
fn each_broken_stream_ends_alone_and_is_counted_under_its_reason() {
    let rig = rig(Limits::default());
    let (alice, alices) = rig.terminal(1);
    let word = |value: u32| value.to_be_bytes();
    let good = [20, CLIENT_VERSION, 1, 1, 0].map(word).concat();
    let cases: [(&str, Vec<u8>); 5] = [
        (
            "oversized_packet",
            [MAX_PACKET as u32 + 1, CLIENT_VERSION, 1, 1, 0]
                .map(word)
                .concat(),
        ),
        (
            "bad_head_length",
            [19, CLIENT_VERSION, 1, 1, 0].map(word).concat(),
        ),
        ("bad_version", [20, 7, 1, 1, 0].map(word).concat()),
        (
            "oversized_packet",
            [20, CLIENT_VERSION, 1, 1, MAX_PACKET as u32]
                .map(word)
                .concat(),
        ),
        (
            "reserved_seq",
            [20, CLIENT_VERSION, 1, 0, 0].map(word).concat(),
        ),
    ];
    let mut expected: HashMap<&str, u64> = HashMap::new();
    for (reason, bytes) in cases {
        let mut stream = rig.raw();
        stream.write_all(&bytes).unwrap();
        assert_eq!(
            read_to_end(&mut stream),
            b"",
            "{reason}: closed without a word"
        );
        *expected.entry(reason).or_default() += 1;
    }
    // Half a packet, then the end.
    let mut stream = rig.raw();
    stream.write_all(&good[..11]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut stream), b"");
    for (reason, count) in expected {
        assert_eq!(rig.access.meter().closed_for(reason), count, "{reason}");
    }
    alice
        .send(2, new_client_id(), "unharmed".to_owned())
        .unwrap();
    alices.wait("the acknowledgement", |told| told.acked.len() == 1);
    assert_eq!(
        alices.told.lock().unwrap().links,
        1,
        "the others' links are untouched"
    );
    alice.stop();
}

#[rpc_core::test]
fn before_auth_only_the_door_is_open() {
    let rig = rig(Limits::default());
    let mut connection = Connection::open(&rig.address.to_string()).unwrap();
    let request = pb::RegisterRequest {
        name: "four".into(),
        ..Default::default()
    };
    let reply: pb::RegisterReply = connection.call(pb::Command::Register, &request).unwrap();
    assert_eq!(reply.user_id, 4);
    for command in [pb::Command::Send, pb::Command::Sync, pb::Command::FindUser] {
        let error = connection
            .call::<pb::SyncReply>(command, &pb::SyncRequest::default())
            .unwrap_err();
        assert!(error.is_refusal(16), "{error}");
    }
    let error = connection
        .call::<pb::SyncReply>(pb::Command::PushNotify, &pb::Notify::default())
        .unwrap_err();
    assert!(error.is_refusal(12), "{error}");
    let auth = pb::AuthRequest {
        token: "4".into(),
        active: true,
    };
    let reply: pb::AuthReply = connection.call(pb::Command::Auth, &auth).unwrap();
    assert_eq!(reply.user_id, 4);
    let error = connection
        .call::<pb::AuthReply>(pb::Command::Auth, &auth)
        .unwrap_err();
    assert!(error.is_refusal(9), "one link, one user: {error}");
    let error = connection
        .call::<pb::SyncReply>(pb::Command::Sync, &raw_bytes())
        .unwrap_err();
    assert!(
        error.is_refusal(3),
        "a body that does not decode is refused, the link stays: {error}"
    );
    let reply: pb::SyncReply = connection
        .call(pb::Command::Sync, &pb::SyncRequest::default())
        .unwrap();
    assert_eq!(reply.key, 0);
}

#[rpc_core::test]
fn a_terminal_that_does_not_read_loses_its_link_and_nobody_else_does() {
    let rig = rig(Limits {
        frames: 64,
        ..Limits::default()
    });
    let (alice, alices) = rig.terminal(1);
    alices.wait("the link", |told| told.links == 1);
    let mut deaf = authenticated(&rig, 9);
    let text = "x".repeat(60_000);
    let message = pb::Message {
        message_id: 1,
        sender: 1,
        receiver: 9,
        text,
        ..Default::default()
    };
    while rig.access.meter().closed_for("slow_reader") == 0 {
        rig.fake.commit(9, &message, 1);
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = read_to_end(&mut deaf);
    alice
        .send(2, new_client_id(), "unharmed".to_owned())
        .unwrap();
    alices.wait("the acknowledgement", |told| told.acked.len() == 1);
    assert_eq!(alices.told.lock().unwrap().links, 1);
    alice.stop();
}

#[rpc_core::test]
fn beats_that_come_together_share_a_call_and_each_gets_its_own_users_key() {
    let rig = rig(Limits::default());
    let mut links: Vec<_> = (1..=40).map(|user| authenticated(&rig, user)).collect();
    for user in 1..=40 {
        let message = pb::Message {
            message_id: user,
            sender: 99,
            receiver: user,
            ..Default::default()
        };
        for _ in 0..user {
            rig.fake.commit(user, &message, 1);
        }
    }
    let before = rig.fake.batches.load(Ordering::SeqCst);
    let noop = Frame {
        cmd: 6,
        seq: SEQ_NOOP,
        body: Bytes::new(),
    }
    .to_bytes();
    for link in &mut links {
        link.write_all(&noop).unwrap();
    }
    for (user, link) in (1..=40).zip(&mut links) {
        let mut decoder = Decoder::default();
        let beat = std::iter::from_fn(|| Some(read_frame(link, &mut decoder)))
            .find(|frame| frame.seq == SEQ_NOOP);
        let beat = pb::Beat::decode(beat.unwrap().body).unwrap();
        assert_eq!(beat.newest, Some(user));
    }
    let calls = rig.fake.batches.load(Ordering::SeqCst) - before;
    assert!(calls < 40, "{calls} calls for 40 beats");
}

#[rpc_core::test]
fn links_of_a_home_that_forgot_them_are_registered_again() {
    let rig = rig(Limits::default());
    let mut config = Config::new(&rig.address.to_string(), "5".into());
    config.heartbeat = Beats::Fixed(Duration::from_secs(3_600));
    let journal = Arc::new(Journal::default());
    let terminal = Terminal::start(config, Arc::new(Memory::new(5)), journal.clone());
    journal.wait("the link", |told| told.links == 1);
    // A primary that restarts: its registrations are gone, and a message came meanwhile.
    rig.fake
        .users
        .lock()
        .unwrap()
        .get_mut(&5)
        .unwrap()
        .links
        .clear();
    let message = pb::Message {
        message_id: 1,
        sender: 1,
        receiver: 5,
        text: "missed".into(),
        ..Default::default()
    };
    rig.fake.commit(5, &message, 1);
    journal.wait("the message, without a beat", |told| {
        told.texts == ["missed"]
    });
    assert_eq!(rig.fake.registrations.load(Ordering::SeqCst), 2);
    terminal.stop();
}

/// A link that speaks for `user`, by hand.
fn authenticated(rig: &Rig, user: u64) -> TcpStream {
    let mut stream = rig.raw();
    let request = pb::AuthRequest {
        token: user.to_string().into(),
        active: true,
    };
    stream
        .write_all(&Frame::of(2, 1, &request).unwrap().to_bytes())
        .unwrap();
    let frame = read_frame(&mut stream, &mut Decoder::default());
    assert_eq!(pb::Reply::decode(frame.body).unwrap().code, 0);
    stream
}

fn read_frame(stream: &mut impl Read, decoder: &mut Decoder) -> Frame {
    let mut bytes = [0; 512];
    loop {
        if let Some(frame) = decoder.next_frame().unwrap() {
            return frame;
        }
        let length = stream.read(&mut bytes).unwrap();
        assert!(length > 0, "closed instead of answered");
        decoder.feed(&bytes[..length]);
    }
}

/// What comes until the other end closes; a reset counts as closing.
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

/// A message that is no message of the protocol's.
fn raw_bytes() -> impl Message {
    // Field 1 as a length-delimited field, where SyncRequest has a number.
    pb::RegisterRequest {
        name: "not a key".to_owned(),
        ..Default::default()
    }
}
