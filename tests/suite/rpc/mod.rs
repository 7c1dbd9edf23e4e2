//! Remote calls over real sockets: what client and server promise each other and their users.
//!
//! Knows: the public API, the wire where a test plays a peer of its own.
//! Does not know: how sessions or workers do it.
//!
//! The service is `proto/probe.proto`: each of its methods is one behaviour. A test that has to wait
//! waits for an event (a gate, a count), never for time to pass.

mod calls;
mod drain;
mod failures;
mod golden;
mod grpc;
mod hostile;
mod http;
mod interop;
mod lines;
mod listeners;
mod naming;
mod peer;
mod streams;
mod threads;
mod tls;
mod traits;
mod transcoding;

use std::collections::HashMap;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::sync::{Condvar, Mutex};
use rpc_core::{
    BoundServer, Channel, Error, JoinHandle, Request, Response, Server, ServerBuilder,
    ServerHandle, Status,
};

rpc_core::include_proto!("probe");

/// What a test and the handlers of its server share.
#[derive(Default)]
struct Stage {
    state: Mutex<Scene>,
    changed: Condvar,
    panics: AtomicUsize,
}

/// Gates and counts, under one lock.
#[derive(Default)]
struct Scene {
    /// Gates that are open.
    open: HashMap<String, bool>,
    /// Calls that wait at a gate.
    waiting: usize,
    /// Calls of Hold that ended, with or without an answer.
    held: usize,
    /// How reads of ReadForever ended.
    reads: Vec<String>,
    /// Reads that began.
    reading: usize,
}

impl Stage {
    fn open(&self, gate: &str) {
        self.state.lock().open.insert(gate.to_owned(), true);
        self.changed.notify_all();
    }

    /// Waits until `enough` says so.
    fn until(&self, enough: impl Fn(&Scene) -> bool) {
        let mut state = self.state.lock();
        while !enough(&state) {
            state = self.changed.wait(state);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Scene)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }
}

/// The service.
struct Actor(Arc<Stage>);

impl Probe for Actor {
    fn echo(&self, request: Request<Ask>) -> Result<Response<Told>, Status> {
        let attachment = request.attachment().clone();
        let metadata = request.metadata().clone();
        let log_id = request.log_id();
        let certificates = request.peer_certificates().len() as u32;
        let peer = request.peer().filter(|_| request.tell_peer);
        let ask = request.into_inner();
        let told = Told {
            text: ask.text,
            data: vec![7; ask.size as usize],
            remaining_ms: log_id.unwrap_or_default() as u64,
            certificates,
            peer: peer.map_or_else(String::new, |peer| peer.to_string()),
        };
        Ok(Response::from_parts(told, metadata, attachment))
    }

    fn hold(&self, request: Request<Ask>) -> Result<Response<Told>, Status> {
        let gate = &request.text;
        self.0.change(|state| state.waiting += 1);
        self.0.until(|state| state.open.contains_key(gate));
        self.0.change(|state| {
            state.waiting -= 1;
            state.held += 1;
        });
        Ok(Response::new(Told {
            text: gate.clone(),
            ..Told::default()
        }))
    }

    fn remaining(&self, request: Request<Ask>) -> Result<Response<Told>, Status> {
        let left = request.remaining(rpc_core::time::Instant::now());
        let remaining_ms = left.map_or(0, |left| left.as_millis() as u64);
        Ok(Response::new(Told {
            remaining_ms,
            ..Told::default()
        }))
    }

    fn nested(&self, request: Request<Ask>) -> Result<Response<Told>, Status> {
        let channel = Channel::builder(&request.target)
            .deadline(Duration::from_secs(3600))
            .connect()
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let client = ProbeClient::new(channel);
        if request.text == "context" {
            return client.echo(Ask::default());
        }
        client.remaining(Ask::default())
    }

    fn read_forever(&self, request: Request<Ask>) -> Result<Response<Told>, Status> {
        let mut stream = TcpStream::connect(&request.target)?;
        self.0.change(|state| state.reading += 1);
        let ended = match stream.read(&mut [0; 16]) {
            Ok(count) => format!("{count} bytes"),
            Err(error) => format!("{:?}", error.raw_os_error()),
        };
        self.0.change(|state| state.reads.push(ended.clone()));
        Ok(Response::new(Told {
            text: ended,
            ..Told::default()
        }))
    }

    fn panic(&self, _request: Request<Ask>) -> Result<Response<Told>, Status> {
        self.0.panics.fetch_add(1, Ordering::Relaxed);
        panic!("this handler always panics");
    }

    fn fail(&self, request: Request<Ask>) -> Result<Response<Told>, Status> {
        let mut status = Status::failed_precondition(request.text.clone());
        status.metadata_mut().append("why", "because");
        Err(status)
    }
}

/// A server that runs beside the test.
struct Served {
    addr: SocketAddr,
    stage: Arc<Stage>,
    handle: ServerHandle,
    serving: JoinHandle<Result<(), Error>>,
}

impl Served {
    fn start() -> Self {
        Self::with(|builder| builder)
    }

    fn with(settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        Self::at("127.0.0.1:0", settings)
    }

    fn at(addr: &str, settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let stage = Arc::new(Stage::default());
        let builder = Server::builder()
            .add_service(ProbeServer::new(Actor(stage.clone())))
            .handle_signals(false);
        let bound: BoundServer = settings(builder).bind(addr).expect("a port is free");
        let (addr, handle) = (bound.local_addr(), bound.handle());
        let serving = rpc_core::spawn(move || bound.serve());
        Self {
            addr,
            stage,
            handle,
            serving,
        }
    }

    fn channel(&self) -> Channel {
        let builder = Channel::builder(&self.addr.to_string()).deadline(PATIENCE);
        builder.connect().expect("the server listens")
    }

    fn client(&self) -> ProbeClient {
        ProbeClient::new(self.channel())
    }

    /// Drains and waits for the end.
    fn stop(self) {
        self.handle.drain();
        self.serving
            .join()
            .expect("serving does not panic")
            .expect("serving does not fail");
    }
}

fn ask(text: &str) -> Ask {
    Ask {
        text: text.into(),
        ..Ask::default()
    }
}

/// Runs what blocks the whole thread (a peer of plain sockets) beside the workers.
fn on_a_thread<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    rpc_core::spawn_blocking(f)
        .join()
        .expect("the thread does not panic")
}

/// No call of these tests takes this long; one that does is a failure, not a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn attachment(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}
