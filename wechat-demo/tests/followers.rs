//! A store whose own IDC goes down whole, under phones that go on: the follower in another IDC serves what it has, and
//! what it lacks the phones say again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod patience;
mod phone;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use wechat_demo::cluster::{Cluster, Clusters, Plan, Role, figures};
use wechat_demo::proto::terminal as pb;
use wechat_demo::terminal::{Connection, TerminalError, login};

use patience::{patiently, wait_for};
use phone::{PASSWORD, Phone, befriend, light, sign_up};

/// A storage process in another IDC than the cluster's.
struct Away {
    listen: SocketAddr,
    dir: PathBuf,
    child: Option<Child>,
}

impl Away {
    fn new(dir: &Path, name: &str) -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        Self {
            listen: free.local_addr().unwrap(),
            dir: dir.join(name),
            child: None,
        }
    }

    fn start(&mut self, cluster: &Cluster) {
        let coordinator = cluster.layout().rpc(Role::Coordinator).to_string();
        let child = Command::new(env!("CARGO_BIN_EXE_wechat-demo"))
            .args(["storage", "--follower", "away", "--exit-with-parent"])
            .args(["--listen", &self.listen.to_string()])
            .args(["--coordinator", &coordinator])
            .arg("--dir")
            .arg(&self.dir)
            .stdin(Stdio::piped())
            .spawn();
        self.child = Some(child.unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn figure(&self, name: &str) -> Option<f64> {
        figures(self.listen).sum(name, &[])
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three processes at home, and one that is to follow them from elsewhere.
fn start(dir: &Path) -> (Cluster, Away, String) {
    let mut away = Away::new(dir, "away-1");
    let told = ["--storage".to_owned(), away.listen.to_string()];
    let told = told.map(|flag| (Role::Logic, flag));
    let plan = Plan {
        extra: light().into_iter().chain(told).collect(),
        ..Plan::default()
    };
    let binary = Path::new(env!("CARGO_BIN_EXE_wechat-demo"));
    let cluster = Cluster::bring_up(dir, 0, &plan, binary).unwrap();
    away.start(&cluster);
    let address = cluster.layout().link_address();
    sign_up([&address; 2]);
    until_copies(&cluster, 3.0);
    (cluster, away, address)
}

/// Waits until the view of whoever serves at home has so many members.
fn until_copies(cluster: &Cluster, copies: f64) {
    wait_for("there are copies enough", || {
        let primary = cluster.primary()?;
        let figures = figures(cluster.layout().rpc(primary));
        (figures.sum("wechat_storage_copies", &[]) == Some(copies)).then_some(())
    });
}

/// Says it over a link of its own.
fn say(
    address: &str,
    token: &Bytes,
    to: &Phone,
    geo: bool,
) -> Result<pb::SendReply, TerminalError> {
    let mut connection = Connection::open(address)?;
    let auth = pb::AuthRequest {
        token: token.clone(),
        ..pb::AuthRequest::default()
    };
    connection.call::<pb::AuthReply>(pb::Command::Auth, &auth)?;
    let message = pb::Outgoing {
        client_id: Bytes::from_static(b"the same id"),
        text: "the same words".to_owned(),
        ..pb::Outgoing::default()
    };
    let request = pb::SendRequest {
        receiver: to.user,
        messages: vec![message],
        geo,
        ..pb::SendRequest::default()
    };
    connection.call(pb::Command::Send, &request)
}

fn kill_home(cluster: &mut Cluster) {
    for role in Role::STORAGE {
        cluster.kill(role);
    }
}

/// Both hold the same talk, of so many messages, and what a fresh device gets.
fn agree(ann: &Phone, bob: &Phone, address: &str, count: usize) {
    ann.until("ann has it all", |ann| ann.texts(bob).len() == count);
    bob.until("bob has it all", |bob| bob.texts(ann).len() == count);
    assert_eq!(ann.texts(bob), bob.texts(ann));
    for (phone, name, other) in [(ann, "ann", bob), (bob, "bob", ann)] {
        let fresh = Phone::new(address, name, "fresh");
        fresh.until("a fresh device has it all", |fresh| {
            fresh.texts(other).len() == count
        });
        phone.until("it is level", |_| true);
        phone.is_like(&fresh, other);
        fresh.terminal.stop();
    }
}

fn incarnation(phone: &Phone, other: &Phone) -> u64 {
    let messages = phone.messages(other).into_iter();
    let newest = messages.map(|stored| stored.number >> 48).max();
    newest.unwrap_or(0)
}

#[test]
fn a_follower_serves_when_all_at_home_are_killed_and_phones_say_again_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, mut away, address) = start(dir.path());
    let [ann, bob] = ["ann", "bob"].map(|name| Phone::new(&address, name, "phone"));
    befriend(&ann, &bob);
    ann.say(&bob, "before", 20);
    bob.say(&ann, "before", 20);

    kill_home(&mut cluster);
    ann.say(&bob, "from elsewhere", 5);
    assert_eq!(away.figure("wechat_storage_serving"), Some(1.0));
    agree(&ann, &bob, &address, 45);
    assert_eq!(incarnation(&ann, &bob), 1);

    // It goes on alone after a restart as well, and with those at home once they are back.
    away.kill();
    away.start(&cluster);
    bob.say(&ann, "again", 5);
    for role in Role::STORAGE {
        cluster.spawn(role).unwrap();
    }
    wait_for("one of those at home follows it", || {
        (away.figure("wechat_storage_copies") == Some(2.0)).then_some(())
    });
    ann.say(&bob, "with two", 5);
    // The same the other way round.
    away.kill();
    bob.say(&ann, "back home", 5);
    agree(&ann, &bob, &address, 60);
    assert_eq!(incarnation(&ann, &bob), 2);
    ann.terminal.stop();
    bob.terminal.stop();
}

#[test]
fn a_follower_that_is_killed_or_stopped_delays_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, mut away, address) = start(dir.path());
    let [ann, bob] = ["ann", "bob"].map(|name| Phone::new(&address, name, "phone"));
    befriend(&ann, &bob);
    let primary = wait_for("somebody serves", || cluster.primary());
    away.kill();
    ann.say(&bob, "without it", 10);
    until_copies(&cluster, 2.0);
    ann.say(&bob, "without it still", 10);
    away.start(&cluster);
    until_copies(&cluster, 3.0);
    assert_eq!(cluster.primary(), Some(primary));
    agree(&ann, &bob, &address, 20);
    assert_eq!(incarnation(&ann, &bob), 0, "nothing was lost");
    ann.terminal.stop();
    bob.terminal.stop();
}

#[test]
fn what_was_acknowledged_as_geo_is_there_though_nobody_says_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, mut away, address) = start(dir.path());
    let ann = Phone::with(&address, "ann", "phone", true);
    let bob = Phone::new(&address, "bob", "phone");
    befriend(&ann, &bob);
    ann.say(&bob, "for certain", 40);
    kill_home(&mut cluster);
    // They say nothing again: what is there, is there.
    ann.terminal.stop();
    bob.terminal.stop();
    wait_for("the follower serves", || {
        (away.figure("wechat_storage_serving") == Some(1.0)).then_some(())
    });
    let [ann, bob] = ["ann", "bob"].map(|name| Phone::new(&address, name, "new phone"));
    agree(&ann, &bob, &address, 40);
    ann.terminal.stop();
    bob.terminal.stop();
    away.kill();
}

#[test]
fn geo_is_refused_where_nobody_follows_and_never_answered_with_less() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, mut away, address) = start(dir.path());
    let bob = Phone::new(&address, "bob", "phone");
    let login = patiently(|| login(&address, "ann", PASSWORD, "phone"));
    let local = patiently(|| say(&address, &login.token, &bob, false));
    assert!(!local.geo);
    away.kill();
    until_copies(&cluster, 2.0);
    let refused = say(&address, &login.token, &bob, true).unwrap_err();
    assert!(
        refused.to_string().contains("no disk in another IDC"),
        "{refused}"
    );
    assert!(refused.is_transient(), "it may be asked for again");
    away.start(&cluster);
    let geo = patiently(|| say(&address, &login.token, &bob, true));
    assert_eq!((geo.geo, geo.copies), (true, 3));
    assert_eq!(
        geo.sent[0].message_id, local.sent[0].message_id,
        "it is the same message"
    );
    bob.terminal.stop();
}

fn dr(cluster: &Cluster, way: &str) -> (bool, String) {
    let coordinator = cluster.layout().rpc(Role::Coordinator).to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_wechat-demo"))
        .args(["dr", way, "--coordinator", &coordinator])
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn a_store_is_handed_over_to_its_follower_and_brought_home_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, away, address) = start(dir.path());
    let [ann, bob] = ["ann", "bob"].map(|name| Phone::new(&address, name, "phone"));
    befriend(&ann, &bob);
    ann.say(&bob, "at home", 10);
    let (done, said) = dr(&cluster, "return");
    assert!(!done && said.contains("already"), "{said}");
    let (done, said) = dr(&cluster, "promote");
    assert!(
        done && said.contains("in away") && said.contains("RPO: nothing\n"),
        "{said}"
    );
    assert_eq!(away.figure("wechat_storage_serving"), Some(1.0));
    bob.say(&ann, "away", 10);
    wait_for("one of those at home follows it", || {
        (away.figure("wechat_storage_copies") == Some(2.0)).then_some(())
    });
    let (done, said) = dr(&cluster, "return");
    assert!(done && said.contains("in its own IDC"), "{said}");
    ann.say(&bob, "at home again", 10);
    until_copies(&cluster, 3.0);
    agree(&ann, &bob, &address, 30);
    assert_eq!(incarnation(&ann, &bob), 0, "nothing was lost");
    ann.terminal.stop();
    bob.terminal.stop();
}

fn signal(cluster: &Cluster, role: Role, signal: &str) {
    let pid = cluster.pid(role).unwrap().to_string();
    let sent = Command::new("kill").args([signal, &pid]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn what_a_home_had_applied_and_its_follower_lacks_is_carried_there_again() {
    let plan = Plan {
        extra: light(),
        ..Plan::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_wechat-demo"));
    let mut clusters = Clusters::bring_up(dir.path(), 0, &plan, 2, binary).unwrap();
    let addresses = clusters.link_addresses();
    for home in &clusters.parts()[..2] {
        until_copies(home, 3.0);
    }
    sign_up([&addresses[0], &addresses[1]]);
    let ann = Phone::new(&addresses[0], "ann", "phone");
    let bob = Phone::new(&addresses[1], "bob", "phone");
    befriend(&ann, &bob);
    ann.say(&bob, "followed", 5);
    bob.until("bob has it", |bob| bob.texts(&ann).len() == 5);

    // Bob's home is followed from ann's IDC, but for a moment.
    signal(&clusters.parts()[0], Role::Follower, "-STOP");
    ann.say(&bob, "not followed", 5);
    bob.until("bob has it", |bob| bob.texts(&ann).len() == 10);
    kill_home(&mut clusters.parts_mut()[1]);
    signal(&clusters.parts()[0], Role::Follower, "-CONT");
    let fresh = Phone::new(&addresses[1], "bob", "fresh");
    fresh.until("all is there again", |fresh| fresh.texts(&ann).len() == 10);
    let again = fresh.messages(&ann).into_iter();
    let again = again.filter(|stored| stored.number >> 48 == 1).count();
    assert!(again >= 5, "{again} came again");
    bob.until("bob is level", |bob| bob.texts(&ann) == ann.texts(bob));
    bob.is_like(&fresh, &ann);
    for phone in [&ann, &bob, &fresh] {
        phone.terminal.stop();
    }
}
