//! A whole cluster of processes whose storage processes are killed and stopped under a phone that goes on
//! sending: somebody serves again within seconds, and nothing that was acknowledged is lost or numbered twice.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod patience;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use libraries::zookeeper::Ensemble;
use prost::Message;
use rpc_core::Channel;
use rpc_core::time::Instant;
use wechat_demo::cluster::{Cluster, Plan, Role, figures};
use wechat_demo::coordinator::Coordinator;
use wechat_demo::coordinator::zookeeper::ZooKeeperCoordinator;
use wechat_demo::proto::storage as sp;
use wechat_demo::proto::terminal as pb;
use wechat_demo::terminal::{Connection, TerminalError, login, register};

use patience::{PATIENCE, patiently, wait_for};

const PASSWORD: &str = "password";

/// A cluster, and one phone that sends.
struct Stage {
    cluster: Cluster,
    token: Bytes,
    connection: Option<Connection>,
    /// Acknowledged: text and number, in order.
    sent: Vec<(String, u64)>,
    dir: tempfile::TempDir,
}

impl Stage {
    fn set() -> Self {
        Self::with(None)
    }

    /// A ZooKeeper ensemble keeps the views, if one is given.
    fn with(zookeeper: Option<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let light = ["--argon2-memory-kib", "64"].map(|flag| (Role::Logic, flag.to_owned()));
        let plan = Plan {
            zookeeper,
            extra: light.into(),
            ..Plan::default()
        };
        let binary = Path::new(env!("CARGO_BIN_EXE_wechat-demo"));
        let cluster = Cluster::bring_up(dir.path(), 0, &plan, binary).unwrap();
        let address = cluster.layout().link_address();
        for name in ["ann", "bob"] {
            patiently(|| match register(&address, name, PASSWORD, name) {
                // An answer was lost.
                Err(error) if error.is_refusal(6) => Ok(0),
                other => other,
            });
        }
        let login = patiently(|| login(&address, "ann", PASSWORD, "phone"));
        let mut stage = Self {
            cluster,
            token: login.token,
            connection: None,
            sent: Vec::new(),
            dir,
        };
        stage.until_copies(2);
        stage
    }

    /// Calls over the phone's link, which it opens again where it has to.
    fn call<Reply: Message + Default>(
        &mut self,
        command: pb::Command,
        request: &impl Message,
    ) -> Result<Reply, TerminalError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let address = self.cluster.layout().link_address();
                let mut connection = Connection::open(&address)?;
                let auth = pb::AuthRequest {
                    token: self.token.clone(),
                    ..Default::default()
                };
                connection.call::<pb::AuthReply>(pb::Command::Auth, &auth)?;
                connection
            }
        };
        let reply = connection.call(command, request)?;
        self.connection = Some(connection);
        Ok(reply)
    }

    /// Sends so many messages, each until it is acknowledged, under the same client id.
    fn send(&mut self, count: usize) {
        for _ in 0..count {
            let n = self.sent.len() as u64;
            let text = format!("message {n}");
            let request = pb::SendRequest {
                key: 0,
                geo: false,
                receiver: 1,
                messages: vec![pb::Outgoing {
                    client_id: Bytes::from([n.to_be_bytes(), [7; 8]].concat()),
                    text: text.clone(),
                    ..pb::Outgoing::default()
                }],
            };
            let reply: pb::SendReply = patiently(|| self.call(pb::Command::Send, &request));
            self.sent.push((text, reply.sent[0].number));
        }
    }

    /// What a fresh device would see is what was acknowledged, in order, once.
    fn check(&mut self) {
        let numbers: Vec<u64> = self.sent.iter().map(|(_, number)| *number).collect();
        assert!(
            numbers.is_sorted_by(|a, b| a < b),
            "numbers rise: {numbers:?}"
        );
        let (mut key, mut seen) = (0, Vec::new());
        loop {
            let request = pb::SyncRequest {
                key,
                ..Default::default()
            };
            let page: pb::SyncReply = patiently(|| self.call(pb::Command::Sync, &request));
            for item in page.items {
                if item.kind() == pb::Kind::Message {
                    let message = pb::Message::decode(item.payload).unwrap();
                    seen.push((message.text, item.number));
                }
            }
            key = page.key;
            if !page.more {
                break;
            }
        }
        assert_eq!(seen, self.sent);
    }

    fn primary(&self) -> Role {
        wait_for("somebody serves", || self.cluster.primary())
    }

    /// Waits until the view of whoever serves has so many members.
    fn until_copies(&mut self, copies: u32) {
        wait_for("there are copies enough", || {
            let primary = self.cluster.primary()?;
            let figures = figures(self.cluster.layout().rpc(primary));
            (figures.sum("wechat_storage_copies", &[]) == Some(f64::from(copies))).then_some(())
        });
    }

    /// Sends for longer than every lease.
    fn send_past_leases(&mut self) {
        let until = Instant::after(Duration::from_secs(5));
        while Instant::now() < until {
            self.send(5);
        }
    }

    fn signal(&self, role: Role, signal: &str) {
        let pid = self.cluster.pid(role).unwrap().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

#[test]
fn primaries_that_are_killed_one_after_the_other_are_each_replaced() {
    let mut stage = Stage::set();
    stage.send(20);
    let first = stage.primary();
    stage.cluster.kill(first);
    // The backup takes over, and writes go on when the spare has become the new backup.
    stage.send(20);
    stage.until_copies(2);
    let second = stage.primary();
    assert_ne!(second, first);
    stage.cluster.spawn(first).unwrap();
    stage.cluster.kill(second);
    stage.send(20);
    stage.until_copies(2);
    let third = stage.primary();
    assert_ne!(third, second);
    // The one that was away from the beginning has everything: it is the only other copy, or will be.
    stage.cluster.kill(third);
    stage.cluster.spawn(second).unwrap();
    stage.send(20);
    stage.check();
}

#[test]
fn a_backup_that_is_killed_is_replaced_by_the_spare() {
    let mut stage = Stage::set();
    stage.send(10);
    let primary = stage.primary();
    for role in Role::STORAGE {
        if role != primary {
            // The backup, or the spare that was to take its place.
            stage.cluster.kill(role);
            stage.send(5);
            stage.cluster.spawn(role).unwrap();
            stage.until_copies(2);
        }
    }
    assert_eq!(stage.primary(), primary);
    stage.check();
}

#[test]
fn a_primary_that_is_stopped_past_its_lease_serves_nothing_when_it_wakes() {
    let mut stage = Stage::set();
    stage.send(20);
    let stopped = stage.primary();
    stage.signal(stopped, "-STOP");
    // Asked while it sleeps; it finds the question when it wakes.
    let address = stage.cluster.layout().rpc(stopped).to_string();
    let asking = std::thread::spawn(move || {
        let channel = Channel::builder(&address).deadline(PATIENCE);
        let client = sp::StorageClient::new(channel.connect().unwrap());
        let claim = sp::ClaimNameRequest {
            name: "asked in its sleep".to_owned(),
            ..Default::default()
        };
        let find = sp::FindNameRequest {
            name: "ann".to_owned(),
        };
        (
            client.claim_name(claim).is_err(),
            client.find_name(find).is_err(),
        )
    });
    stage.send(20);
    let serving = wait_for("another serves", || {
        stage.cluster.primary().filter(|role| *role != stopped)
    });
    stage.signal(stopped, "-CONT");
    assert_eq!(asking.join().unwrap(), (true, true));
    stage.send(20);
    assert_eq!(stage.primary(), serving);
    stage.check();
}

/// Changes a letter of a message in a store's journal.
fn spoil_journal(store: &Path, text: &str) {
    let mut spoilt = 0;
    for entry in std::fs::read_dir(store).unwrap() {
        let journal = entry.unwrap().path();
        if journal.extension().is_none_or(|end| end != "jnl") {
            continue;
        }
        let mut bytes = std::fs::read(&journal).unwrap();
        if let Some(at) = bytes
            .windows(text.len())
            .position(|part| part == text.as_bytes())
        {
            bytes[at] ^= 1;
            std::fs::write(&journal, bytes).unwrap();
            spoilt += 1;
        }
    }
    assert!(spoilt > 0, "{text} is in no journal of {}", store.display());
}

#[test]
fn a_copy_with_a_flipped_bit_is_set_aside_and_taken_anew_from_the_other() {
    let mut stage = Stage::set();
    stage.send(20);
    let first = stage.primary();
    let copy = stage.dir.path().join(first.name());
    stage.cluster.kill(first);
    spoil_journal(&copy, "message 7");
    stage.cluster.spawn(first).unwrap();
    stage.send(20);
    stage.until_copies(2);
    let aside = copy.with_extension("damaged-1");
    wait_for("the copy is set aside", || aside.exists().then_some(()));
    // With the others gone, what was taken anew is all there is.
    let second = stage.primary();
    assert_ne!(second, first, "a damaged copy serves nothing");
    let others = Role::STORAGE
        .into_iter()
        .filter(|role| ![first, second].contains(role));
    others.for_each(|role| stage.cluster.kill(role));
    // Acknowledged by two, one of which is the new one.
    stage.send(20);
    stage.cluster.kill(second);
    wait_for("the mended copy serves", || {
        stage.cluster.primary().filter(|role| *role == first)
    });
    stage.cluster.spawn(second).unwrap();
    stage.send(20);
    stage.check();
}

#[test]
fn an_emptied_disk_is_another_member_though_its_process_listens_where_the_old_one_did() {
    let mut stage = Stage::set();
    stage.send(10);
    stage.until_copies(2);
    let primary = stage.primary();
    let others = Role::STORAGE.into_iter().filter(|role| *role != primary);
    let others: Vec<Role> = others.collect();
    for role in &others {
        let address = stage.cluster.layout().rpc(*role).to_string();
        let channel = Channel::builder(&address).connect_lazy().unwrap();
        let request = sp::ReadLogRequest {
            from: 1,
            disk: Bytes::from_static(b"of somebody else"),
            ..sp::ReadLogRequest::default()
        };
        let refused = sp::ReplicaClient::new(channel).read_log(request);
        let refused = refused.map(drop).unwrap_err().to_string();
        assert!(refused.contains("another disk"), "{refused}");
    }
    // The primary comes back and finds neither of them as it knew them.
    for role in Role::STORAGE {
        stage.cluster.kill(role);
    }
    for role in &others {
        let dir = stage.cluster.layout().dir.join(role.name());
        std::fs::remove_dir_all(dir).unwrap();
    }
    for role in Role::STORAGE {
        stage.cluster.spawn(role).unwrap();
    }
    stage.send(10);
    assert_eq!(stage.primary(), primary);
    stage.until_copies(2);
    stage.check();
}

#[test]
fn data_are_served_while_the_coordinator_is_away() {
    let mut stage = Stage::set();
    stage.send(10);
    let primary = stage.primary();
    stage.cluster.kill(Role::Coordinator);
    stage.send_past_leases();
    assert_eq!(stage.primary(), primary);
    // A second failure waits for it; then the backup takes over.
    stage.cluster.kill(primary);
    stage.cluster.spawn(Role::Coordinator).unwrap();
    stage.send(10);
    assert_ne!(stage.primary(), primary);
    stage.check();
}

#[test]
fn views_are_zookeepers_with_or_without_a_majority() {
    let mut servers = Ensemble::start().unwrap_or_else(|error| panic!("{error:#}"));
    let place = format!("{}/one/cluster", servers.hosts());
    let mut stage = Stage::with(Some(place.clone()));
    assert_eq!(stage.cluster.pid(Role::Coordinator), None);
    stage.send(10);
    let first = stage.primary();
    stage.cluster.kill(first);
    stage.send(10);
    stage.until_copies(2);
    let second = stage.primary();
    assert_ne!(second, first);
    stage.cluster.spawn(first).unwrap();
    // Without a majority nobody can agree on anything, and nobody has to.
    servers.kill(0);
    servers.kill(1);
    stage.send_past_leases();
    assert_eq!(stage.primary(), second);
    // A second failure waits for it; then the backup takes over.
    stage.cluster.kill(second);
    servers.restart(0).unwrap();
    servers.restart(1).unwrap();
    stage.send(10);
    assert_ne!(stage.primary(), second);
    stage.cluster.spawn(second).unwrap();
    processes_are_found_by_name(&mut stage, &place);
    stage.check();
}

/// Nobody is told where another is but by the ensemble, from which whoever is away too long is gone.
fn processes_are_found_by_name(stage: &mut Stage, place: &str) {
    let ensemble = ZooKeeperCoordinator::new(place).unwrap();
    let session = ensemble.open(Duration::from_secs(30)).unwrap();
    let wait_registered = |kind: &str, count: usize| {
        wait_for("the names are as many as the processes", || {
            let names = session.children(&format!("/names/{kind}")).ok()?;
            (names.len() == count).then_some(())
        });
    };
    wait_registered("storage", 3);
    // It loses its session while it is stopped, and finds that out when it wakes.
    stage.signal(Role::Logic, "-STOP");
    wait_registered("logic", 0);
    stage.signal(Role::Logic, "-CONT");
    wait_registered("logic", 1);
    stage.send(5);
    stage.cluster.kill(Role::Logic);
    wait_registered("logic", 0);
    stage.cluster.spawn(Role::Logic).unwrap();
    wait_registered("logic", 1);
    stage.send(5);
}
