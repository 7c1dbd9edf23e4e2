//! A whole cluster of processes and a push service that speaks Apple's API: whoever is without a link is woken,
//! whatever the service says and whoever dies.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod apns;
#[path = "../patience/mod.rs"]
mod patience;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prost::Message;
use wechat_demo::checker::{Invariant, Verdict, read};
use wechat_demo::cluster::{Cluster, Plan, Role, figures};
use wechat_demo::history::{Event, History, Said, SentAs, bytes_of, cmid, hash_of};
use wechat_demo::planted::{Bug, PLANTED};
use wechat_demo::proto::terminal as pb;
use wechat_demo::proto::terminal::change_request::Change;
use wechat_demo::push::role::Provider;
use wechat_demo::terminal::error::code;
use wechat_demo::terminal::{Connection, login, new_client_id, register};

use apns::{Apns, Got, KEY_ID, TEAM_ID, TOPIC};
use patience::{patiently, wait_for};

const PASSWORD: &str = "password";
const BOB: &str = "b0b0b0b0b0b0b0b0";
const CY: &str = "c0c0c0c0c0c0c0c0";
/// Longer than the checker lets a device be neither reached nor woken.
const LONG_ENOUGH: Duration = Duration::from_secs(22);

/// A cluster that can wake, and three friends of whom two have a token and no link.
struct Stage {
    apns: Apns,
    cluster: Cluster,
    ann: pb::LoginReply,
    bob: u64,
    bob_login: pb::LoginReply,
    cy: u64,
    _dir: tempfile::TempDir,
}

impl Stage {
    fn set() -> Self {
        let (apns, dir) = (Apns::start(), tempfile::tempdir().unwrap());
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let provider = Provider {
            apns_key: file("key.p8", &apns.key),
            apns_key_id: KEY_ID.to_owned(),
            apns_team_id: TEAM_ID.to_owned(),
            apns_topic: TOPIC.to_owned(),
            apns_server: Some(apns.address.to_string()),
            apns_roots: Some(file("roots.pem", &apns.roots)),
        };
        let light = ["--argon2-memory-kib", "64"].map(|flag| (Role::Logic, flag.to_owned()));
        let plan = Plan {
            push: Some(provider),
            extra: light.into(),
            ..Plan::default()
        };
        let binary = Path::new(env!("CARGO_BIN_EXE_wechat-demo"));
        let cluster = Cluster::bring_up(dir.path(), 0, &plan, binary).unwrap();
        let address = cluster.layout().link_address();
        let [ann, bob, cy] = ["ann", "bob", "cy"].map(|name| account(&address, name));
        for (other, token) in [(&bob, BOB), (&cy, CY)] {
            befriend(&address, &ann, other);
            let token = token.to_owned();
            let set = pb::ChangeRequest {
                change: Some(Change::PushToken(pb::PushToken { token })),
            };
            let _: pb::ChangeReply = call(&address, other, pb::Command::Change, &set);
        }
        Self {
            apns,
            cluster,
            ann,
            bob: bob.user_id,
            bob_login: bob,
            cy: cy.user_id,
            _dir: dir,
        }
    }

    /// Ann says something, and has it acknowledged.
    fn say(&self, receiver: u64) {
        self.say_as(receiver, new_client_id());
    }

    fn say_as(&self, receiver: u64, client_id: bytes::Bytes) -> pb::Sent {
        let message = pb::Outgoing {
            client_id,
            text: "wake up".to_owned(),
            extra: None,
            ..Default::default()
        };
        let request = pb::SendRequest {
            receiver,
            messages: vec![message],
            ..Default::default()
        };
        let address = self.cluster.layout().link_address();
        let reply: pb::SendReply = call(&address, &self.ann, pb::Command::Send, &request);
        reply.sent.into_iter().next().unwrap()
    }

    /// The next push to a token beyond those before, once the service has taken it.
    fn next(&self, token: &str, before: &[Got]) -> Got {
        let seen = before.iter().map(|push| push.number).max().unwrap_or(0);
        wait_for("a push for something newer", || {
            let mut taken = self.apns.state.taken(token);
            taken.retain(|push| push.number > seen);
            taken.pop()
        })
    }

    /// Has bob woken: ann says something, and a push for it is taken.
    fn wake_bob(&self) -> Got {
        let before = self.apns.state.taken(BOB);
        self.say(self.bob);
        self.next(BOB, &before)
    }

    fn counted(&self, name: &str) -> f64 {
        let figures = figures(self.cluster.layout().rpc(Role::Push));
        let name = format!("wechat_push_{name}_total");
        figures.sum(&name, &[]).unwrap_or(0.0)
    }

    fn until_held(&self, before: usize) -> Got {
        wait_for("the service has it and does not answer", || {
            self.apns.state.got().get(before).cloned()
        })
    }
}

fn account(address: &str, name: &str) -> pb::LoginReply {
    patiently(|| match register(address, name, PASSWORD, name) {
        // An answer was lost.
        Err(error) if error.is_refusal(code::ALREADY_EXISTS) => Ok(0),
        other => other,
    });
    patiently(|| login(address, name, PASSWORD, "phone"))
}

/// A command over a link that is closed again.
fn call<Reply: Message + Default>(
    address: &str,
    login: &pb::LoginReply,
    command: pb::Command,
    request: &impl Message,
) -> Reply {
    patiently(|| {
        let mut connection = Connection::open(address)?;
        let auth = pb::AuthRequest {
            token: login.token.clone(),
            active: false,
        };
        connection.call::<pb::AuthReply>(pb::Command::Auth, &auth)?;
        connection.call(command, request)
    })
}

fn befriend(address: &str, first: &pb::LoginReply, second: &pb::LoginReply) {
    for (one, other) in [(first, second), (second, first)] {
        // Who asks somebody that has asked accepts.
        let request = pb::AddContactRequest {
            user_id: other.user_id,
            greeting: String::new(),
        };
        let _: pb::AddContactReply = call(address, one, pb::Command::AddContact, &request);
    }
}

#[test]
fn a_device_without_a_link_is_woken_whatever_the_service_says() {
    let stage = Stage::set();
    let state = &stage.apns.state;
    let first = stage.wake_bob();
    assert_eq!(first.collapse_id, format!("{:016x}", stage.bob));
    let second = stage.wake_bob();
    assert_eq!(second.collapse_id, first.collapse_id, "a device shows one");
    assert_ne!(second.id, first.id, "it is another push");
    assert_eq!(second.bearer, first.bearer, "one signature serves for long");

    // Trouble at the service is waited out: the same push comes again.
    let before = state.got().len();
    state.say(&[
        (429, "TooManyRequests"),
        (500, "InternalServerError"),
        (503, "ServiceUnavailable"),
    ]);
    let push = stage.wake_bob();
    let tried = state.got().split_off(before);
    let outcomes: Vec<u16> = tried.iter().map(|push| push.status).collect();
    assert_eq!(outcomes, [429, 500, 503, 200]);
    assert!(tried.iter().all(|tried| tried.id == push.id));

    // The service finds the provider's token too old.
    state.say(&[(403, "ExpiredProviderToken")]);
    let push = stage.wake_bob();
    assert_ne!(push.bearer, first.bearer, "it was signed anew");

    // The service asks to go elsewhere.
    let connections = state.connections.load(Ordering::SeqCst);
    state.go_away.store(true, Ordering::SeqCst);
    wait_for("the service has said so", || {
        (!state.go_away.load(Ordering::SeqCst)).then_some(())
    });
    stage.wake_bob();
    assert!(state.connections.load(Ordering::SeqCst) > connections);

    // The app was removed from the device.
    state.say(&[(410, "Unregistered")]);
    stage.say(stage.bob);
    wait_for("the token is dropped", || {
        (stage.counted("tokens_gone") == 1.0).then_some(())
    });
    let of_bob = state.taken(BOB).len();
    stage.say(stage.bob);
    stage.say(stage.cy);
    stage.next(CY, &[]);
    assert_eq!(
        state.taken(BOB).len(),
        of_bob,
        "nobody is there to be woken"
    );
    assert_eq!(stage.counted("given_up") + stage.counted("refused"), 0.0);
}

#[test]
fn a_push_outlives_the_process_that_has_it() {
    let mut stage = Stage::set();
    stage.wake_bob();
    for victim in ["push", "the store's primary"] {
        let before = stage.apns.state.got().len();
        let taken = stage.apns.state.taken(BOB);
        stage.apns.state.hold.store(true, Ordering::SeqCst);
        stage.say(stage.bob);
        let held = stage.until_held(before);
        let role = match victim {
            "push" => Role::Push,
            _ => wait_for("somebody serves", || stage.cluster.primary()),
        };
        stage.cluster.kill(role);
        stage.cluster.spawn(role).unwrap();
        stage.apns.state.hold.store(false, Ordering::SeqCst);
        let push = stage.next(BOB, &taken);
        assert_eq!(push.number, held.number, "{victim}");
        let mut all = stage.apns.state.got().split_off(before);
        all.retain(|push| push.number == held.number);
        let same = |push: &Got| push.id == held.id && push.collapse_id == held.collapse_id;
        assert!(all.iter().all(same), "{victim}: {all:?}");
    }
    // What came before the deaths does not come again, and what comes after them does.
    stage.wake_bob();
}

/// What the history says of a device whose link is dead, and of what came for it: bob's terminal is linked and
/// reads no more, ann says something, and nobody asks him. With a bug planted in this process's environment the
/// cluster has it too.
fn dead_link() -> Verdict {
    let stage = Stage::set();
    let address = stage.cluster.layout().link_address();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("history");
    let history = History::create(&file).unwrap();
    let device = |login: &pb::LoginReply| history.recorder(login.user_id, login.device_id);
    let (ann, bob) = (device(&stage.ann), device(&stage.bob_login));
    let token = BOB.to_owned();
    let set = pb::ChangeRequest {
        change: Some(Change::PushToken(pb::PushToken { token })),
    };
    bob.tell(Event::Start { key: 0 });
    bob.tell(Event::Mutate {
        op: 1,
        command: pb::Command::Change as u32,
        request: cmid(&set.encode_to_vec()),
    });
    let (sent, n) = (Vec::new(), 0);
    bob.tell(Event::Ok { op: 1, sent, n });
    // It stays open, and nothing is read from it.
    let _dead: Connection = patiently(|| {
        let mut connection = Connection::open(&address)?;
        let auth = pb::AuthRequest {
            token: stage.bob_login.token.clone(),
            active: true,
        };
        connection.call::<pb::AuthReply>(pb::Command::Auth, &auth)?;
        Ok(connection)
    });
    bob.tell(Event::Linked { newest: 0 });
    let before = stage.apns.state.taken(BOB);
    let (c, to, h) = ("0f".repeat(16), stage.bob, hash_of(b"wake up"));
    ann.tell(Event::Start { key: 0 });
    let said = vec![Said { c: c.clone(), h }];
    ann.tell(Event::Invoke { op: 2, to, said });
    let sent = stage.say_as(stage.bob, bytes_of(&c).unwrap().into());
    let pos = sent.pos.unwrap();
    let sent = vec![SentAs {
        c,
        i: sent.message_id,
        n: sent.number,
        p: (pos.count, pos.sender),
    }];
    ann.tell(Event::Ok { op: 2, sent, n: 0 });
    let until = Instant::now() + LONG_ENOUGH;
    while Instant::now() < until {
        let mut taken = stage.apns.state.taken(BOB);
        if let Some(push) = taken.split_off(before.len()).pop() {
            let (token, number) = (BOB.to_owned(), push.number);
            history.tell(Event::Woken { token, number });
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    history.end().unwrap();
    read::check(&[file]).unwrap()
}

/// Names the scenario in the environment of a process that has a bug.
const SCENARIO: &str = "WECHAT_TEST_DEAD_LINK";

#[test]
fn a_device_whose_link_is_dead_is_woken() {
    let verdict = dead_link();
    let broken: Vec<_> = verdict.broken().collect();
    if std::env::var_os(SCENARIO).is_some() {
        println!("broken: {broken:?}");
    } else {
        assert_eq!(broken, [] as [Invariant; 0], "{}", verdict.tell(|_| None));
    }
}

#[test]
fn believing_in_a_dead_link_is_seen_as_i18() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_device_whose_link_is_dead_is_woken",
            "--nocapture",
        ])
        .env(SCENARIO, "1")
        .env(PLANTED, Bug::DeadLinkBelieved.name())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("broken: [I18]"), "{told}");
}
