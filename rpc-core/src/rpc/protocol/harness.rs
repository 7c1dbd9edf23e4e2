//! Test harness: two sessions back to back without a socket.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::call::{fill, no_such_method};
use super::grpc::Grpc;
use super::http1::Http1;
use super::prpc::{Prpc, PrpcClient};
use super::{
    Bad, BadReason, Body, ClientEvent, ClientSession, IncomingCall, Kind, Limits, Reply, Route,
    Routes, ServerConfig, ServerEvent, ServerSession, Success,
};
use crate::base::time::Instant;
use crate::rpc::status::Status;

/// The services of the recorded packets: `example.EchoService/Echo` is route 0.
pub struct EchoRoutes;

impl Routes for EchoRoutes {
    fn find(&self, service: &str, method: &str) -> Result<Route, Status> {
        match (service, method) {
            ("example.EchoService" | "EchoService", "Echo") => Ok(Route {
                method: 0,
                kind: Kind::Unary,
            }),
            _ => Err(no_such_method(service, method)),
        }
    }
}

/// The configuration of the recorded server.
pub fn config() -> Arc<ServerConfig> {
    config_with(Limits::default())
}

/// The same with other limits.
pub fn config_with(limits: Limits) -> Arc<ServerConfig> {
    Arc::new(ServerConfig {
        limits,
        identity: "127.0.0.1:9801".into(),
        proxy_header: false,
        routes: Arc::new(EchoRoutes),
        protocols: vec![Arc::new(Prpc), Arc::new(Grpc), Arc::new(Http1)],
        authenticator: None,
        cors: None,
    })
}

/// Answers a call with what it carried.
pub fn echo(session: &mut dyn ServerSession, call: IncomingCall) {
    let compression = call.body.compression;
    match call.body.clone().open(&call.attachment, 64 << 20) {
        Ok(_) => {
            let mut success = Success::new(Body::Bytes(call.body.data));
            success.attachment = call.attachment;
            success.compression = compression;
            success.metadata = &call.metadata;
            session.answer(call.id, Reply::Success(success));
        }
        Err(status) => session.answer(call.id, Reply::Refused(&status)),
    }
}

/// Reads `data` into `session` in pieces of at most the given sizes, in turn, and lets `serve` take every
/// event; all that was sent back.
pub fn feed(
    session: &mut dyn ServerSession,
    data: &[u8],
    sizes: &[usize],
    mut serve: impl FnMut(&mut dyn ServerSession, ServerEvent),
) -> (Vec<u8>, Option<BadReason>) {
    let mut rest = data;
    let mut sent = Vec::new();
    let mut sizes = sizes.iter().cycle();
    let mut result = Ok(());
    while !rest.is_empty() && result.is_ok() && session.wants_input() && !session.is_finished() {
        let size = sizes
            .next()
            .map_or(rest.len(), |size| (*size).clamp(1, rest.len()));
        let taken = fill(session.recv_space(), &rest[..size]);
        assert!(taken > 0, "a session that wants input has space for it");
        rest = &rest[taken..];
        result = session.received(taken, Instant::from_nanos(1));
        while let Some(event) = session.next_event() {
            serve(session, event);
        }
        collect(session.transmit(), &mut sent);
    }
    (sent, result.err().map(|bad| bad.reason))
}

/// Takes everything out of a transmit queue.
pub fn collect(queue: &mut VecDeque<Bytes>, into: &mut Vec<u8>) {
    for piece in queue.drain(..) {
        into.extend_from_slice(&piece);
    }
}

/// A client and a server whose transmits are each other's input.
pub struct Pair {
    pub client: PrpcClient,
    pub server: Box<dyn ServerSession>,
    /// At most this many bytes move at once.
    pub step: usize,
    to_server: VecDeque<Bytes>,
    to_client: VecDeque<Bytes>,
}

impl Pair {
    pub fn new(step: usize) -> Self {
        Self::with(step, Box::new(super::prpc::PrpcServer::new(config())))
    }

    pub fn with(step: usize, server: Box<dyn ServerSession>) -> Self {
        Self {
            client: PrpcClient::new(Limits::default()),
            server,
            step,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
        }
    }

    /// Moves bytes until none are left; what the client learned.
    pub fn run(
        &mut self,
        mut serve: impl FnMut(&mut dyn ServerSession, IncomingCall),
    ) -> Result<Vec<ClientEvent>, Bad> {
        let mut events = Vec::new();
        loop {
            self.to_server.extend(self.client.transmit().drain(..));
            self.to_client.extend(self.server.transmit().drain(..));
            if self.to_server.is_empty() && self.to_client.is_empty() {
                return Ok(events);
            }
            let now = Instant::from_nanos(7);
            if let Some(n) = move_some(&mut self.to_server, self.step, |bytes| {
                fill(self.server.recv_space(), bytes)
            }) {
                self.server.received(n, now)?;
            }
            while let Some(event) = self.server.next_event() {
                match event {
                    ServerEvent::Call(call) => serve(&mut *self.server, call),
                    other => panic!("no call: {other:?}"),
                }
            }
            if let Some(n) = move_some(&mut self.to_client, self.step, |bytes| {
                fill(self.client.recv_space(), bytes)
            }) {
                self.client.received(n, now)?;
            }
            while let Some(event) = self.client.next_event() {
                events.push(event);
            }
        }
    }
}

fn move_some(
    queue: &mut VecDeque<Bytes>,
    step: usize,
    take: impl FnOnce(&[u8]) -> usize,
) -> Option<usize> {
    let front = queue.front_mut()?;
    let n = take(&front[..step.min(front.len())]);
    assert!(n > 0, "a session has space");
    front.advance(n);
    if front.is_empty() {
        queue.pop_front();
    }
    Some(n)
}
