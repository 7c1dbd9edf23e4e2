//! The client of the embedded coordinator: sessions over RPC, each with a thread that keeps it alive and
//! hears what has changed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc_core::time::Instant;
use rpc_core::{CallOptions, Channel, Error, Status};

use super::{Coordinator, Event, Fault, Kind, Node, Session, WATCHES};
use crate::proto::coordinator as pb;

/// A call that takes longer counts as lost.
const DEADLINE: Duration = Duration::from_secs(2);
/// Longest wait of a beat: a new watch joins the next one.
const WAIT: Duration = Duration::from_millis(300);
/// Pause after a beat that did not get through.
const PAUSE: Duration = Duration::from_millis(50);

/// The embedded coordinator at an address.
pub struct RemoteCoordinator {
    client: pb::CoordinatorClient,
}

/// One session.
struct RemoteSession {
    client: pb::CoordinatorClient,
    id: u64,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// `events` has a new one.
    told: Condvar,
}

#[derive(Default)]
struct State {
    /// Watched paths and their stamps as last heard of; at most [`WATCHES`].
    watched: BTreeMap<String, u64>,
    /// At most one `Changed` a path, and what the connection has gone through since the last look.
    events: VecDeque<Event>,
    connected: bool,
    /// No more beats.
    over: bool,
}

impl RemoteCoordinator {
    /// Begins to connect to `HOST:PORT`; nobody need be there yet.
    ///
    /// # Errors
    /// When the address is none.
    pub fn new(address: &str) -> Result<Self, Error> {
        let channel = Channel::builder(address)
            .deadline(DEADLINE)
            .connect_lazy()?;
        Ok(Self {
            client: pb::CoordinatorClient::new(channel),
        })
    }
}

impl Coordinator for RemoteCoordinator {
    fn open(&self, timeout: Duration) -> Result<Arc<dyn Session>, Fault> {
        let request = pb::OpenRequest {
            timeout_ms: timeout.as_millis() as u64,
        };
        let reply = self.client.open(request).map_err(lost)?;
        check(reply.fault())?;
        let shared = Arc::<Shared>::default();
        shared.lock().connected = true;
        let beats = Beats {
            client: self.client.clone(),
            id: reply.session,
            shared: Arc::clone(&shared),
            // Three beats fit into the time-out, so that a lost one ends nothing.
            wait: WAIT.min(timeout / 3),
        };
        std::thread::Builder::new()
            .name("session".to_owned())
            .spawn(move || beats.run())
            .map_err(|error| Fault::Lost(error.to_string()))?;
        Ok(Arc::new(RemoteSession {
            client: self.client.clone(),
            id: reply.session,
            shared,
        }))
    }
}

impl RemoteSession {
    fn read_whole(&self, path: &str) -> Result<pb::ReadReply, Fault> {
        let request = pb::ReadRequest {
            session: self.id,
            path: path.to_owned(),
        };
        let reply = self.client.read(request).map_err(lost)?.into_inner();
        match reply.fault() {
            pb::Fault::NoNode => Ok(reply),
            fault => self.noticing(check(fault)).map(|()| reply),
        }
    }

    fn change(
        &self,
        path: &str,
        change: pb::change_request::Change,
    ) -> Result<pb::ChangeReply, Fault> {
        let request = pb::ChangeRequest {
            session: self.id,
            path: path.to_owned(),
            change: Some(change),
        };
        let reply = self.client.change(request).map_err(lost)?.into_inner();
        self.noticing(check(reply.fault())).map(|()| reply)
    }

    /// The end of the session is told as an event, whoever hears of it first.
    fn noticing(&self, outcome: Result<(), Fault>) -> Result<(), Fault> {
        if outcome == Err(Fault::Expired) {
            self.shared.end();
        }
        outcome
    }
}

impl Session for RemoteSession {
    fn read(&self, path: &str) -> Result<Option<Node>, Fault> {
        let reply = self.read_whole(path)?;
        Ok((reply.fault() == pb::Fault::None).then_some(Node {
            data: reply.data,
            version: reply.version,
        }))
    }

    fn children(&self, path: &str) -> Result<Vec<String>, Fault> {
        Ok(self.read_whole(path)?.children)
    }

    fn create(&self, path: &str, data: &[u8], kind: Kind) -> Result<String, Fault> {
        let create = pb::Create {
            data: data.to_vec().into(),
            ephemeral: matches!(kind, Kind::Ephemeral | Kind::EphemeralSequence),
            sequence: matches!(kind, Kind::Sequence | Kind::EphemeralSequence),
        };
        let reply = self.change(path, pb::change_request::Change::Create(create))?;
        Ok(reply.path)
    }

    fn set(&self, path: &str, data: &[u8], version: u64) -> Result<u64, Fault> {
        let set = pb::Set {
            data: data.to_vec().into(),
            version,
        };
        let reply = self.change(path, pb::change_request::Change::Set(set))?;
        Ok(reply.version)
    }

    fn remove(&self, path: &str, version: u64) -> Result<(), Fault> {
        let remove = pb::change_request::Change::Remove(pb::Remove { version });
        self.change(path, remove).map(drop)
    }

    fn watch(&self, path: &str) -> Result<(), Fault> {
        let stamp = self.read_whole(path)?.stamp;
        let mut state = self.shared.lock();
        if state.watched.len() >= WATCHES && !state.watched.contains_key(path) {
            return Err(Fault::Full);
        }
        state.watched.entry(path.to_owned()).or_insert(stamp);
        Ok(())
    }

    fn next_event(&self, wait: Duration) -> Option<Event> {
        let until = Instant::after(wait);
        let mut state = self.shared.lock();
        loop {
            if let Some(event) = state.events.pop_front() {
                return Some(event);
            }
            let left = until - Instant::now();
            if left.is_zero() {
                return None;
            }
            let waited = self.shared.told.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for RemoteSession {
    fn drop(&mut self) {
        self.shared.lock().over = true;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The coordinator has ended the session.
    fn end(&self) {
        let mut state = self.lock();
        if !state.over {
            state.over = true;
            self.tell(&mut state, Event::Expired);
        }
    }

    fn tell(&self, state: &mut State, event: Event) {
        if state.events.contains(&event) && matches!(event, Event::Changed(_)) {
            return;
        }
        if matches!(event, Event::Connected | Event::Disconnected) {
            // Only the last state of the connection is of use to anybody.
            let old = |event: &Event| matches!(event, Event::Connected | Event::Disconnected);
            state.events.retain(|event| !old(event));
        }
        state.events.push_back(event);
        self.told.notify_all();
    }

    fn connected(&self, now: bool) {
        let mut state = self.lock();
        if state.connected != now {
            state.connected = now;
            let event = if now {
                Event::Connected
            } else {
                Event::Disconnected
            };
            self.tell(&mut state, event);
        }
    }
}

/// What keeps a session alive.
struct Beats {
    client: pb::CoordinatorClient,
    id: u64,
    shared: Arc<Shared>,
    wait: Duration,
}

impl Beats {
    fn run(self) {
        loop {
            let watched = {
                let state = self.shared.lock();
                if state.over {
                    break;
                }
                let known = |(path, &stamp): (&String, &u64)| pb::Watched {
                    path: path.clone(),
                    stamp,
                };
                state.watched.iter().map(known).collect()
            };
            let request = pb::BeatRequest {
                session: self.id,
                watched,
                wait_ms: self.wait.as_millis() as u64,
            };
            let options = CallOptions::new().deadline(self.wait + DEADLINE / 2);
            match self.client.beat_with(request, options) {
                Ok(reply) if reply.fault() == pb::Fault::None => self.heard(reply.into_inner()),
                Ok(_) => {
                    self.shared.end();
                    return;
                }
                Err(_) => {
                    self.shared.connected(false);
                    std::thread::sleep(PAUSE);
                }
            }
        }
        // Best effort: a session that is not closed expires.
        let _ = self.client.close(pb::CloseRequest { session: self.id });
    }

    fn heard(&self, reply: pb::BeatReply) {
        self.shared.connected(true);
        let mut state = self.shared.lock();
        for changed in reply.changed {
            if let Some(stamp) = state.watched.get_mut(&changed.path) {
                *stamp = changed.stamp;
                self.shared.tell(&mut state, Event::Changed(changed.path));
            }
        }
    }
}

fn check(fault: pb::Fault) -> Result<(), Fault> {
    Err(match fault {
        pb::Fault::None => return Ok(()),
        pb::Fault::NoNode => Fault::NoNode,
        pb::Fault::NodeExists => Fault::NodeExists,
        pb::Fault::BadVersion => Fault::BadVersion,
        pb::Fault::NotEmpty => Fault::NotEmpty,
        pb::Fault::Expired => Fault::Expired,
        pb::Fault::Invalid => Fault::Invalid,
        pb::Fault::Full => Fault::Full,
    })
}

fn lost(status: Status) -> Fault {
    Fault::Lost(status.to_string())
}
