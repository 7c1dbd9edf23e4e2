//! What every coordinator promises, tried on the embedded one over real RPC and on an ensemble of ZooKeeper
//! servers; and what an ensemble promises when some of its servers are lost.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use libraries::relay::{How, Relay};
use libraries::zookeeper::{Ensemble, SERVERS};
use rpc_core::time::Instant;
use wechat_demo::coordinator::remote::RemoteCoordinator;
use wechat_demo::coordinator::zookeeper::ZooKeeperCoordinator;
use wechat_demo::coordinator::{Agreed, Coordinator, Event, Fault, Kind, Session, agree};

/// A coordinator and the way to it, both of which can fail.
trait Stage {
    /// A client of its own, over the good way or the other one.
    fn client(&self, way: Way) -> Arc<dyn Coordinator>;
    /// Kills it as a crash would and starts it again.
    fn crash(&mut self);
    /// What happens on the shaky way from now on.
    fn shake(&self, how: How);
}

/// Two ways to the coordinator.
#[derive(Clone, Copy)]
enum Way {
    Good,
    Shaky,
}

/// Longer than anything here takes; a test that hangs ends with words.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the sessions that are to live.
const LONG: Duration = Duration::from_secs(30);
/// Of the sessions that are to die; ZooKeeper makes a second of it.
const SHORT: Duration = Duration::from_millis(300);

/// The embedded one as a process, behind a relay.
struct Embedded {
    dir: tempfile::TempDir,
    address: SocketAddr,
    relay: Relay,
    child: Child,
}

impl Embedded {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let child = spawn(dir.path(), address);
        let relay = Relay::start(address).unwrap();
        Self {
            dir,
            address,
            relay,
            child,
        }
    }
}

fn spawn(dir: &std::path::Path, address: SocketAddr) -> Child {
    Command::new(env!("CARGO_BIN_EXE_wechat-demo"))
        .args(["coordinator", "--listen", &address.to_string()])
        .arg("--data-dir")
        .arg(dir)
        .arg("--exit-with-parent")
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Stage for Embedded {
    fn client(&self, way: Way) -> Arc<dyn Coordinator> {
        let address = match way {
            Way::Good => self.address,
            Way::Shaky => self.relay.address(),
        };
        Arc::new(RemoteCoordinator::new(&address.to_string()).unwrap())
    }

    fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.dir.path(), self.address);
    }

    fn shake(&self, how: How) {
        self.relay.shake(how);
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// ZooKeeper's three servers; the shaky way leads to the first of them.
struct Servers {
    ensemble: Ensemble,
    relay: Relay,
}

impl Servers {
    fn start() -> Self {
        let ensemble = Ensemble::start().unwrap_or_else(|error| panic!("{error:#}"));
        let relay = Relay::start(ensemble.addr(0)).unwrap();
        Self { ensemble, relay }
    }
}

impl Stage for Servers {
    fn client(&self, way: Way) -> Arc<dyn Coordinator> {
        let servers = match way {
            Way::Good => self.ensemble.hosts(),
            Way::Shaky => self.relay.address().to_string(),
        };
        Arc::new(ZooKeeperCoordinator::new(&format!("{servers}/some/where")).unwrap())
    }

    fn crash(&mut self) {
        (0..SERVERS).for_each(|server| self.ensemble.kill(server));
        (0..SERVERS).for_each(|server| self.ensemble.restart(server).unwrap());
    }

    fn shake(&self, how: How) {
        self.relay.shake(how);
    }
}

/// The session of a client that finds the coordinator, which may be starting.
fn open(client: &Arc<dyn Coordinator>, timeout: Duration) -> Arc<dyn Session> {
    sure(|| client.open(timeout))
}

/// Asks until there is an answer.
fn sure<T>(ask: impl Fn() -> Result<T, Fault>) -> T {
    let until = Instant::after(PATIENCE);
    loop {
        match ask() {
            Err(Fault::Lost(_)) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            answer => return answer.unwrap(),
        }
    }
}

/// Reads events until the one that is waited for.
fn wait_for(session: &dyn Session, wanted: &Event) {
    let until = Instant::after(PATIENCE);
    while Instant::now() < until {
        if session.next_event(Duration::from_secs(1)).as_ref() == Some(wanted) {
            return;
        }
    }
    panic!("no {wanted:?} within {PATIENCE:?}");
}

/// Polls for something that comes by itself.
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::after(PATIENCE);
    while !holds() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until a watcher is told that a node is gone. Reads may be behind: it may be told of the making first.
fn wait_gone(watcher: &dyn Session, path: &str) {
    loop {
        wait_for(watcher, &changed(path));
        if watcher.read(path).unwrap().is_none() {
            return;
        }
    }
}

fn changed(path: &str) -> Event {
    Event::Changed(path.to_owned())
}

/// Every promise, one after the other.
fn conformance(stage: &mut impl Stage) {
    nodes_change_by_compare_and_set_alone(stage);
    sequence_nodes_get_rising_numbers(stage);
    of_many_who_propose_one_wins(stage);
    a_watch_tells_of_making_changing_and_removing(stage);
    ephemeral_nodes_go_with_their_session(stage);
    a_proposal_whose_answer_was_lost_is_recognised(stage);
    nothing_answered_is_lost_in_a_crash_and_sessions_and_watches_go_on(stage);
}

#[rpc_core::test]
fn the_embedded_coordinator_keeps_every_promise() {
    conformance(&mut Embedded::start());
}

#[rpc_core::test]
fn zookeeper_keeps_every_promise_and_stands_the_loss_of_servers() {
    let mut servers = Servers::start();
    conformance(&mut servers);
    servers.ensemble.wait_serving().unwrap();
    // The rest on the same ensemble: it takes seconds to start one.
    a_lost_server_changes_nothing(&mut servers);
    without_a_majority_calls_fail_with_words_and_sessions_and_watches_come_back(&mut servers);
    a_caller_that_is_cancelled_costs_the_session_nothing(&servers);
}

fn a_lost_server_changes_nothing(servers: &mut Servers) {
    let (session, actor) = (
        open(&servers.client(Way::Good), LONG),
        open(&servers.client(Way::Good), LONG),
    );
    session.create("/stays", b"", Kind::Ephemeral).unwrap();
    session.watch("/stays").unwrap();
    let leader = servers.ensemble.leader().unwrap();
    servers.ensemble.kill(leader);
    // Its sessions go on at another.
    assert_eq!(
        sure(|| agree(&*actor, "/stays", Some(1), b"changed")),
        Agreed::Ours(2)
    );
    wait_for(&*session, &changed("/stays"));
    let seen = || sure(|| session.read("/stays")).map(|node| node.version);
    wait_until("the change is seen", || seen() == Some(2));
    servers.ensemble.restart(leader).unwrap();
    servers.ensemble.wait_serving().unwrap();
}

fn without_a_majority_calls_fail_with_words_and_sessions_and_watches_come_back(
    servers: &mut Servers,
) {
    let (session, actor) = (
        open(&servers.client(Way::Good), LONG),
        open(&servers.client(Way::Good), LONG),
    );
    session.create("/frozen", b"", Kind::Ephemeral).unwrap();
    session.watch("/frozen").unwrap();
    servers.ensemble.kill(0);
    servers.ensemble.kill(1);
    wait_for(&*session, &Event::Disconnected);
    let fault = session.set("/frozen", b"x", 1).unwrap_err();
    let words = fault.to_string();
    assert!(matches!(fault, Fault::Lost(_)), "{fault:?}");
    assert!(words.contains("no answer from the coordinator"), "{words}");
    let fault = servers.client(Way::Good).open(LONG).err().unwrap();
    assert!(fault.to_string().contains("127.0.0.1:"), "{fault}");
    servers.ensemble.restart(0).unwrap();
    servers.ensemble.restart(1).unwrap();
    wait_for(&*session, &Event::Connected);
    assert_eq!(sure(|| session.read("/frozen")).unwrap().version, 1);
    while session.next_event(Duration::from_millis(500)).is_some() {}
    assert_eq!(
        sure(|| agree(&*actor, "/frozen", Some(1), b"later")),
        Agreed::Ours(2)
    );
    wait_for(&*session, &changed("/frozen"));
}

fn a_caller_that_is_cancelled_costs_the_session_nothing(servers: &Servers) {
    let session = open(&servers.client(Way::Good), LONG);
    session.create("/shared", b"", Kind::Lasting).unwrap();
    session.watch("/shared").unwrap();
    let (begun, cancelled) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let caller = {
        let (session, begun, cancelled) = (session.clone(), begun.clone(), cancelled.clone());
        rpc_core::spawn(move || {
            begun.store(true, Ordering::SeqCst);
            wait_until("it is cancelled", || cancelled.load(Ordering::SeqCst));
            // Cancelled: it sends its request all the same, whole, and waits for no answer.
            session.set("/shared", b"sent", 1)
        })
    };
    wait_until("the caller runs", || begun.load(Ordering::SeqCst));
    caller.cancel();
    cancelled.store(true, Ordering::SeqCst);
    let outcome = caller.join().unwrap();
    assert!(
        matches!(outcome, Ok(2) | Err(Fault::Lost(_))),
        "{outcome:?}"
    );
    let seen = || sure(|| session.read("/shared")).map(|node| node.version);
    wait_until("the request arrived", || seen() == Some(2));
    while let Some(event) = session.next_event(Duration::ZERO) {
        assert_eq!(event, changed("/shared"));
    }
}

fn nodes_change_by_compare_and_set_alone(stage: &impl Stage) {
    let session = open(&stage.client(Way::Good), LONG);
    assert_eq!(session.read("/cas").unwrap(), None);
    assert_eq!(
        session.create("/cas", b"one", Kind::Lasting).unwrap(),
        "/cas"
    );
    assert_eq!(
        session.create("/cas", b"two", Kind::Lasting),
        Err(Fault::NodeExists)
    );
    assert_eq!(session.set("/cas", b"two", 1).unwrap(), 2);
    assert_eq!(session.set("/cas", b"three", 1), Err(Fault::BadVersion));
    let node = session.read("/cas").unwrap().unwrap();
    assert_eq!((&node.data[..], node.version), (&b"two"[..], 2));
    session.create("/cas/child", b"", Kind::Lasting).unwrap();
    assert_eq!(session.remove("/cas", 2), Err(Fault::NotEmpty));
    session.remove("/cas/child", 1).unwrap();
    assert_eq!(session.remove("/cas", 1), Err(Fault::BadVersion));
    session.remove("/cas", 2).unwrap();
    assert_eq!(session.set("/cas", b"x", 2), Err(Fault::NoNode));
    assert_eq!(
        session.create("/none/child", b"", Kind::Lasting),
        Err(Fault::NoNode)
    );
    for bad in ["", "none", "/a/", "//"] {
        assert_eq!(session.create(bad, b"", Kind::Lasting), Err(Fault::Invalid));
    }
    let large = vec![0; (64 << 10) + 1];
    assert_eq!(
        session.create("/large", &large, Kind::Lasting),
        Err(Fault::Invalid)
    );
}

fn sequence_nodes_get_rising_numbers(stage: &impl Stage) {
    let session = open(&stage.client(Way::Good), LONG);
    session.create("/queue", b"", Kind::Lasting).unwrap();
    let first = session.create("/queue/n-", b"", Kind::Sequence).unwrap();
    let second = session
        .create("/queue/n-", b"", Kind::EphemeralSequence)
        .unwrap();
    session.remove(&second, 1).unwrap();
    let third = session.create("/queue/n-", b"", Kind::Sequence).unwrap();
    assert!(first < second && second < third, "{first} {second} {third}");
    assert_eq!(session.children("/queue").unwrap().len(), 2);
}

fn of_many_who_propose_one_wins(stage: &impl Stage) {
    let won = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..8)
        .map(|n| {
            let (client, won) = (stage.client(Way::Good), won.clone());
            std::thread::spawn(move || {
                let session = open(&client, LONG);
                let proposal = format!("mine is {n}");
                match sure(|| agree(&*session, "/race", None, proposal.as_bytes())) {
                    Agreed::Ours(1) => drop(won.fetch_add(1, Ordering::SeqCst)),
                    Agreed::Ours(version) => panic!("version {version} of a new node"),
                    Agreed::Theirs(node) => assert_ne!(node.unwrap().data, proposal),
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    assert_eq!(won.load(Ordering::SeqCst), 1);
}

fn a_watch_tells_of_making_changing_and_removing(stage: &impl Stage) {
    let (watcher, actor) = (
        open(&stage.client(Way::Good), LONG),
        open(&stage.client(Way::Good), LONG),
    );
    watcher.watch("/seen").unwrap();
    actor.create("/seen", b"", Kind::Lasting).unwrap();
    wait_for(&*watcher, &changed("/seen"));
    actor.set("/seen", b"more", 1).unwrap();
    wait_for(&*watcher, &changed("/seen"));
    actor.create("/seen/child", b"", Kind::Lasting).unwrap();
    wait_for(&*watcher, &changed("/seen"));
    actor.remove("/seen/child", 1).unwrap();
    wait_for(&*watcher, &changed("/seen"));
    actor.remove("/seen", 2).unwrap();
    wait_for(&*watcher, &changed("/seen"));
    assert_eq!(watcher.read("/seen").unwrap(), None);
}

fn ephemeral_nodes_go_with_their_session(stage: &impl Stage) {
    let (watcher, closing) = (
        open(&stage.client(Way::Good), LONG),
        open(&stage.client(Way::Good), LONG),
    );
    closing.create("/closing", b"", Kind::Ephemeral).unwrap();
    assert_eq!(
        closing.create("/closing/child", b"", Kind::Lasting),
        Err(Fault::Invalid)
    );
    watcher.watch("/closing").unwrap();
    drop(closing);
    wait_gone(&*watcher, "/closing");

    let dying = open(&stage.client(Way::Shaky), SHORT);
    dying.create("/dying", b"", Kind::Ephemeral).unwrap();
    watcher.watch("/dying").unwrap();
    stage.shake(How::Cut);
    wait_gone(&*watcher, "/dying");
    stage.shake(How::Open);
    wait_for(&*dying, &Event::Expired);
    assert_eq!(dying.read("/cas"), Err(Fault::Expired));
}

fn a_proposal_whose_answer_was_lost_is_recognised(stage: &impl Stage) {
    let session = open(&stage.client(Way::Shaky), LONG);
    session.create("/lost", b"before", Kind::Lasting).unwrap();
    stage.shake(How::NoAnswers);
    let outcome = agree(&*session, "/lost", Some(1), b"proposal 17");
    assert!(matches!(outcome, Err(Fault::Lost(_))), "{outcome:?}");
    stage.shake(How::Open);
    // It arrived; asking again neither fails nor does it twice.
    let again = sure(|| agree(&*session, "/lost", Some(1), b"proposal 17"));
    assert_eq!(again, Agreed::Ours(2));
    let other = sure(|| agree(&*session, "/lost", Some(1), b"proposal 18"));
    let Agreed::Theirs(Some(node)) = other else {
        panic!("{other:?}")
    };
    assert_eq!((&node.data[..], node.version), (&b"proposal 17"[..], 2));
}

fn nothing_answered_is_lost_in_a_crash_and_sessions_and_watches_go_on(stage: &mut impl Stage) {
    let (session, actor) = (
        open(&stage.client(Way::Good), LONG),
        open(&stage.client(Way::Good), LONG),
    );
    session.create("/kept", b"kept", Kind::Lasting).unwrap();
    session.create("/mine", b"", Kind::Ephemeral).unwrap();
    session.create("/kept/n-", b"", Kind::Sequence).unwrap();
    session.watch("/kept").unwrap();
    stage.crash();
    wait_for(&*session, &Event::Disconnected);
    wait_for(&*session, &Event::Connected);
    assert_eq!(sure(|| session.read("/kept")).unwrap().data, "kept");
    assert!(sure(|| session.read("/mine")).is_some());
    let next = sure(|| session.create("/kept/n-", b"", Kind::Sequence));
    assert!(next.ends_with('1'), "{next}");
    while session.next_event(Duration::from_millis(500)).is_some() {}
    assert_eq!(sure(|| actor.set("/kept", b"later", 1)), 2);
    wait_for(&*session, &changed("/kept"));
}
