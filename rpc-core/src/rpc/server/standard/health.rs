//! `grpc.health.v1.Health`: whether a server, or one of its services, takes calls.
//!
//! Knows: states by name, who watches them.   Does not know: why a service is in a state.
//!
//! Invariants
//! - HE-1  A watcher is told the state it finds and then every change that it is awake for; states in
//!   between may be passed over, the last one never is.
//! - HE-2  A drain makes everything NOT_SERVING, and ends the watches after that is told.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prost::Message;

use super::method;
use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::net::wait::{GaveUp, Waiter, wait_for};
use crate::rpc::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::rpc::message::{Request, Response};
use crate::rpc::server::{Finished, ServerCall, Service};
use crate::rpc::status::Status;
use crate::runtime::Reason;

/// What a server says of its services. Cheap to clone; clones are one.
///
/// ```
/// use rpc_core::{Health, Server};
///
/// let health = Health::new();
/// let server = Server::builder().health(&health); // every service it has is serving
/// health.set("example.EchoService", false); // until something says otherwise
/// # drop(server);
/// ```
#[derive(Clone, Default)]
pub struct Health {
    shared: Arc<SpinLock<States>>,
}

#[derive(Default)]
struct States {
    /// By the full name of the service; the empty name is the server.
    serving: BTreeMap<Box<str>, bool>,
    /// HE-2.
    over: bool,
    watchers: Vec<Waiter>,
}

/// As on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum State {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(enumeration = "State", tag = "1")]
    status: i32,
}

impl Health {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says whether a service, by its full name, takes calls; the empty name is the server as a whole.
    pub fn set(&self, service: &str, serving: bool) {
        let woken = {
            let mut states = self.shared.lock();
            let serving = serving && !states.over;
            states.serving.insert(service.into(), serving);
            std::mem::take(&mut states.watchers)
        };
        wake(woken);
    }

    /// The server is going away (HE-2).
    pub(in crate::rpc::server) fn end(&self) {
        let woken = {
            let mut states = self.shared.lock();
            states.over = true;
            for serving in states.serving.values_mut() {
                *serving = false;
            }
            std::mem::take(&mut states.watchers)
        };
        wake(woken);
    }

    fn check(&self, request: &CheckRequest) -> Result<Response<CheckResponse>, Status> {
        match self.shared.lock().of(&request.service) {
            State::ServiceUnknown => {
                let text = format!("there is no service {:?} here", request.service);
                Err(Status::not_found(text))
            }
            state => Ok(Response::new(state.into())),
        }
    }
}

impl States {
    fn of(&self, service: &str) -> State {
        match self.serving.get(service) {
            Some(true) => State::Serving,
            Some(false) => State::NotServing,
            None => State::ServiceUnknown,
        }
    }
}

fn wake(waiters: Vec<Waiter>) {
    for waiter in waiters {
        waiter.wake();
    }
}

impl From<State> for CheckResponse {
    fn from(state: State) -> Self {
        Self {
            status: state as i32,
        }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.shared.lock().serving.iter())
            .finish()
    }
}

/// The changes of one service's state.
struct Watch {
    health: Health,
    service: String,
    told: Option<State>,
}

impl Iterator for Watch {
    type Item = Result<CheckResponse, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        let changed = || {
            let mut states = self.health.shared.lock();
            let state = states.of(&self.service);
            if self.told != Some(state) {
                return Some(Ok(state));
            }
            if states.over {
                return Some(Err(Status::unavailable("the server is going away")));
            }
            states.watchers.push(Waiter::current());
            None
        };
        let found = match wait_for(Reason::Other("a change of health"), Instant::NEVER, changed) {
            Ok(found) => found,
            Err(GaveUp::TimedOut) => Err(Status::deadline_exceeded("the watch's time is over")),
            Err(GaveUp::Cancelled) => Err(Status::cancelled("the watch was given up")),
        };
        Some(found.map(|state| {
            self.told = Some(state);
            state.into()
        }))
    }
}

const NAME: &str = "grpc.health.v1.Health";

static METHODS: [MethodDescriptor; 2] = {
    let types = [
        "grpc.health.v1.HealthCheckRequest",
        "grpc.health.v1.HealthCheckResponse",
    ];
    [
        method(NAME, "Check", types, [false, false]),
        method(NAME, "Watch", types, [false, true]),
    ]
};

static DESCRIPTOR: ServiceDescriptor = ServiceDescriptor {
    name: NAME,
    methods: &METHODS,
    file_descriptor_set: include_bytes!("health_v1.bin"),
};

impl Service for Health {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &DESCRIPTOR
    }

    fn call(&self, method: usize, call: ServerCall) -> Finished {
        match method {
            0 => call.unary(|request: Request<CheckRequest>| self.check(&request)),
            _ => call.server_stream(|request: Request<CheckRequest>| {
                Ok(Response::new(Watch {
                    health: self.clone(),
                    service: request.into_inner().service,
                    told: None,
                }))
            }),
        }
    }
}
