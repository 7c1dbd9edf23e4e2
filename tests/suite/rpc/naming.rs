//! Servers that are found by name: they come, go, are cut off and come back, and their callers lose nothing.
//!
//! One ensemble serves all of it, because it takes seconds to start one.

use libraries::relay::{How, Relay};
use libraries::zookeeper::Ensemble;
use rpc_core::naming::{Names, Place, Registration};

use super::*;

/// A server, registered over a way to the ensemble that can be cut.
struct Named {
    served: Served,
    registration: Option<Registration>,
    relay: Relay,
}

impl Named {
    fn start(servers: &Ensemble) -> Self {
        let relay = Relay::start(servers.addr(2)).unwrap();
        let served = Served::start();
        served.stage.open("gate");
        let place = Place::new(served.addr.to_string());
        let path = format!("zk://{}{PATH}", relay.address());
        Self {
            registration: Some(Registration::begin(&path, place).unwrap()),
            served,
            relay,
        }
    }

    fn answered(&self) -> usize {
        self.served.stage.state.lock().held
    }

    /// Waits until calls come here.
    fn wait_called(&self) {
        let before = self.answered();
        until("calls come to the server", || self.answered() > before);
    }

    /// Waits until nobody is connected.
    fn wait_left(&self) {
        until("everybody has left the server", || {
            self.served.handle.connections() == 0
        });
    }
}

/// Callers that go on until they are told to stop, and to whom nothing may happen.
struct Callers {
    stop: Arc<AtomicUsize>,
    work: Vec<JoinHandle<()>>,
}

impl Callers {
    fn start(client: &ProbeClient) -> Self {
        let stop = Arc::new(AtomicUsize::new(0));
        let work = (0..8).map(|_| {
            let (client, stop) = (client.clone(), stop.clone());
            rpc_core::spawn(move || {
                while stop.load(Ordering::Relaxed) == 0 {
                    client.hold(ask("gate")).unwrap();
                }
            })
        });
        Self {
            work: work.collect(),
            stop,
        }
    }

    fn stop(self) {
        self.stop.store(1, Ordering::Relaxed);
        for caller in self.work {
            caller.join().unwrap();
        }
    }
}

const PATH: &str = "/names/probe";

/// Looks again and again, and lets others work meanwhile.
fn until(what: &str, holds: impl Fn() -> bool) {
    let until = rpc_core::time::Instant::after(PATIENCE);
    while !holds() {
        assert!(
            rpc_core::time::Instant::now() < until,
            "not within {PATIENCE:?}: {what}"
        );
        rpc_core::time::sleep(Duration::from_millis(5));
    }
}

fn client(servers: &Ensemble) -> ProbeClient {
    let channel = Channel::builder(&format!("zk://{}{PATH}", servers.hosts()));
    ProbeClient::new(channel.deadline(PATIENCE).connect().unwrap())
}

#[rpc_core::test(workers = 2)]
fn servers_found_by_name_come_and_go_without_a_call_lost() {
    let mut servers = Ensemble::start().unwrap_or_else(|error| panic!("{error:#}"));
    nobody_registered_is_said_with_the_path(&servers);
    let (one, two) = (Named::start(&servers), Named::start(&servers));
    let client = client_of_two(&servers);
    let callers = Callers::start(&client);
    one.wait_called();
    two.wait_called();
    let two = a_server_that_takes_its_name_back_answers_what_it_has(&client, two, &one);
    let three = Named::start(&servers);
    three.wait_called();
    a_session_that_was_lost_is_made_up_for(&three);
    one.wait_called();
    a_server_that_drains_is_not_called_any_more(one);
    three.wait_called();
    without_a_majority_those_known_before_serve(&mut servers, &three);
    callers.stop();
    three.served.stop();
    two.served.stop();
}

fn nobody_registered_is_said_with_the_path(servers: &Ensemble) {
    let channel = Channel::builder(&format!("zk://{}{PATH}", servers.hosts()));
    let error = channel.connect().unwrap_err().to_string();
    assert!(
        error.contains("no server is registered") && error.contains(PATH),
        "{error}"
    );
}

/// A client that knows both, as somebody else who follows the names does.
fn client_of_two(servers: &Ensemble) -> ProbeClient {
    let names = Names::follow(&format!("zk://{}{PATH}", servers.hosts())).unwrap();
    until("two are registered", || names.places().len() == 2);
    client(servers)
}

fn a_server_that_takes_its_name_back_answers_what_it_has(
    client: &ProbeClient,
    mut going: Named,
    other: &Named,
) -> Named {
    // Enough calls at a gate that some wait at either server.
    let waiting = |server: &Named| server.served.stage.state.lock().waiting;
    let mut held = Vec::new();
    while waiting(&going) == 0 || held.len() < 4 {
        let client = client.clone();
        let before = waiting(&going) + waiting(other);
        held.push(rpc_core::spawn(move || client.hold(ask("last"))));
        until("the call waits", || {
            waiting(&going) + waiting(other) > before
        });
    }
    drop(going.registration.take());
    // Nothing but what waits there is left, and the connection with it.
    until("new calls go elsewhere", || {
        let seen = going.answered();
        other.wait_called();
        seen == going.answered()
    });
    assert!(going.served.handle.connections() > 0);
    going.served.stage.open("last");
    other.served.stage.open("last");
    for call in held {
        assert_eq!(call.join().unwrap().unwrap().text, "last");
    }
    going.wait_left();
    going
}

fn a_session_that_was_lost_is_made_up_for(server: &Named) {
    server.relay.shake(How::Cut);
    // The ensemble ends the session, its node goes, and with it the callers.
    server.wait_left();
    server.relay.shake(How::Open);
    server.wait_called();
}

fn a_server_that_drains_is_not_called_any_more(server: Named) {
    let Named {
        served,
        registration,
        ..
    } = server;
    drop(registration);
    served.stop();
}

fn without_a_majority_those_known_before_serve(servers: &mut Ensemble, known: &Named) {
    servers.kill(0);
    servers.kill(1);
    known.wait_called();
    let late = Named::start(servers);
    known.wait_called();
    servers.restart(0).unwrap();
    servers.restart(1).unwrap();
    late.wait_called();
    known.wait_called();
    drop(late.registration);
    late.served.stop();
}
