//! Serving: services behind one port.
//!
//! Knows: services, connections, limits, the order of starting and draining.
//! Does not know: frames (sessions do), how coroutines are scheduled.
//!
//! A turn of a connection, on its worker's loop: drain the socket into the session, stamp the arrival,
//! spawn each call as a fresh coroutine. A call runs, encodes its answer under the connection's spin
//! lock, and puts the connection into the worker's list for the end of the turn, once; there one system
//! call sends the answers of many calls. An idle connection is state only: no stack, no buffer.
//!
//! Invariants
//! - SV-1  Every call that a session gave out is answered exactly once, or its connection is lost.
//! - SV-2  A call is cancelled under its connection's lock and taken out under the same lock at its end:
//!   nobody else's coroutine is ever cancelled.
//! - SV-3  Everything a peer can pile up has a bound: calls under way (per connection by the session, per
//!   server here), bytes unwritten, time without progress, connections.
//!
//! Read first: `connection.rs`, then `call.rs`.

mod accept;
pub mod call;
mod certificates;
mod connection;
mod core;
mod drain;
mod janitor;
mod options;
mod reading;
mod registry;
mod serve;
pub mod standard;
mod stats;
mod streams;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::certificates::CertificateFiles;
use self::options::Options;
use super::auth::Authenticator;
use super::cors::Cors;
use super::error::Error;
use super::protocol::{Limits, Page, PageRequest, Protocol};
use super::tls::ServerTls;

pub use call::{Finished, ServerCall, Service};
pub use serve::{BoundServer, ServerHandle};
pub use standard::health::Health;

/// A server of RPC services; see [`Server::builder`].
#[derive(Debug)]
pub struct Server(());

/// What a server serves and within which bounds.
pub struct ServerBuilder {
    services: Vec<Arc<dyn Service>>,
    limits: Limits,
    options: Options,
    health: Option<Health>,
    reflection: bool,
    /// Beside ours.
    protocols: Vec<Arc<dyn Protocol>>,
    tls: Option<ServerTls>,
    certificate_files: Option<CertificateFiles>,
    authenticator: Option<Authenticator>,
    cors: Option<Cors>,
    /// The program's own numbers for `/metrics`.
    own_metrics: Option<OwnMetrics>,
    /// The program's own answers to plain HTTP requests, each with how the paths begin that it is for.
    pages: Vec<(String, Pages)>,
}

/// Renders a program's own numbers in Prometheus' text format.
type OwnMetrics = Box<dyn Fn() -> String + Send + Sync>;

/// Answers plain HTTP requests.
type Pages = Box<dyn Fn(&PageRequest) -> Page + Send + Sync>;

impl Server {
    /// A server without services and with default bounds.
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            services: Vec::new(),
            limits: Limits::default(),
            options: Options::default(),
            health: None,
            reflection: false,
            protocols: Vec::new(),
            tls: None,
            certificate_files: None,
            authenticator: None,
            cors: None,
            own_metrics: None,
            pages: Vec::new(),
        }
    }
}

impl ServerBuilder {
    /// Adds a service. Two of one name are an error of [`bind`](Self::bind).
    #[must_use]
    pub fn add_service(mut self, service: impl Service) -> Self {
        self.services.push(Arc::new(service));
        self
    }

    /// Adds `grpc.health.v1.Health`, answered from `health`: with every service of this server serving, and
    /// the server itself (the empty name), until it drains or `health` is told otherwise.
    #[must_use]
    pub fn health(mut self, health: &Health) -> Self {
        self.health = Some(health.clone());
        self
    }

    /// Adds `grpc.reflection.v1.ServerReflection` and its `v1alpha`: tools such as grpcurl then learn the
    /// schemas of this server's services from it.
    #[must_use]
    pub fn reflection(mut self) -> Self {
        self.reflection = true;
        self
    }

    /// Speaks TLS on the same port as plain text, which [`ServerTls::required`] turns off.
    #[must_use]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Takes the certificate for clients of any name from these PEM files, and again within a second
    /// whenever they change; connections that are open stay. Needs [`tls`](Self::tls).
    #[must_use]
    pub fn certificate_files(mut self, chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.certificate_files = Some(CertificateFiles::new(chain.into(), key.into()));
        self
    }

    /// Asks `verify` whether a peer may call, with the credential that it sent (empty = none): in its first message
    /// over baidu_std, as `authorization` of each request over gRPC and HTTP, the console's pages included. The text of a
    /// refusal is what the peer is told. It runs on a worker's loop, so it must be short and never wait. Protocols of
    /// [`add_protocol`](Self::add_protocol) see to this themselves.
    #[must_use]
    pub fn authenticator(
        mut self,
        verify: impl Fn(&[u8]) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.authenticator = Some(Authenticator::new(verify));
        self
    }

    /// Lets web pages of other origins call over HTTP. Default: none.
    #[must_use]
    pub fn cors(mut self, cors: Cors) -> Self {
        self.cors = Some(cors);
        self
    }

    /// Speaks one more protocol on the port. It is asked about a connection's first bytes before ours: to
    /// HTTP/1.1 every word in capitals is a method.
    #[must_use]
    pub fn add_protocol(mut self, protocol: impl Protocol) -> Self {
        self.protocols.push(Arc::new(protocol));
        self
    }

    /// Calls under way at a time, over all connections; those above are refused (`ResourceExhausted`,
    /// brpc's ELIMIT). Default 100,000.
    #[must_use]
    pub fn max_concurrency(mut self, calls: usize) -> Self {
        self.options.max_concurrency = calls.max(1);
        self
    }

    /// Calls under way at a time on one connection. Default 16,384.
    #[must_use]
    pub fn max_concurrency_per_connection(mut self, calls: usize) -> Self {
        self.limits.max_in_flight = calls.max(1);
        self
    }

    /// Bytes of one request with its attachment, on the wire and decompressed. A larger one closes its
    /// connection. Default 64 MiB.
    #[must_use]
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.limits.max_body = bytes;
        self.limits.max_decompressed = bytes;
        self
    }

    /// Open connections; those above are closed at once and counted. Default 100,000.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.options.max_connections = connections.max(1);
        self
    }

    /// What a peer that does not read its answers may pile up: beyond `pause` bytes unwritten its
    /// connection is no longer read, beyond `close` bytes, or after `stall` without a byte leaving, it
    /// is closed. Default 4 MiB, 64 MiB, 30 s.
    #[must_use]
    pub fn unwritten(mut self, pause: usize, close: usize, stall: Duration) -> Self {
        self.options.unwritten_pause = pause;
        self.options.unwritten_close = close.max(pause);
        self.options.stall_limit = stall;
        self
    }

    /// Closes connections that say nothing for so long after they were accepted. Default: never.
    #[must_use]
    pub fn first_bytes_within(mut self, limit: Duration) -> Self {
        self.limits.first_bytes = Some(limit);
        self
    }

    /// How long a drain waits for the calls under way. Default 10 s.
    #[must_use]
    pub fn drain_limit(mut self, limit: Duration) -> Self {
        self.options.drain_limit = limit;
        self
    }

    /// Compresses an answer of `least` bytes or more as its request was, where its handler has not said how
    /// ([`Response::set_compression`](crate::Response::set_compression)). Default: what the handler says. Streams of answers
    /// are always the handler's affair.
    #[must_use]
    pub fn mirror_compression(mut self, least: usize) -> Self {
        self.options.mirror_compression = Some(least);
        self
    }

    /// Whether SIGTERM and SIGINT start the drain (a second one ends the process at once). Default yes.
    #[must_use]
    pub fn handle_signals(mut self, handle: bool) -> Self {
        self.options.handle_signals = handle;
        self
    }

    /// Expects a header of the PROXY protocol, version 2, at the beginning of every connection, and takes the
    /// caller's address from it: for servers behind a balancer that writes it (HAProxy's `send-proxy-v2`).
    /// A connection without one, or with a malformed one, is closed and counted. Default no: whoever can
    /// connect could claim any address.
    #[must_use]
    pub fn proxy_protocol(mut self, expected: bool) -> Self {
        self.options.proxy_header = expected;
        self
    }

    /// Whether `/`, `/status`, `/health` and `/metrics` are answered on the port. Default yes.
    #[must_use]
    pub fn console(mut self, console: bool) -> Self {
        self.options.console = console;
        self
    }

    /// Adds the program's own numbers to `/metrics`: `render` gives them in Prometheus' text format, each
    /// time somebody looks. It runs on a worker's loop, so it must be short and never wait.
    #[must_use]
    pub fn metrics(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.own_metrics = Some(Box::new(render));
        self
    }

    /// Answers plain HTTP requests, over HTTP/1.1 and HTTP/2, whose path begins with `prefix` and is neither a method's nor
    /// one that a schema chose: `answer` runs in a coroutine of its own and may wait. The body is whole by then and at
    /// most [`max_message_size`](Self::max_message_size) long. Of several prefixes that
    /// fit, the first that was given counts; before the console's pages, all do.
    #[must_use]
    pub fn pages(
        mut self,
        prefix: impl Into<String>,
        answer: impl Fn(&PageRequest) -> Page + Send + Sync + 'static,
    ) -> Self {
        self.pages.push((prefix.into(), Box::new(answer)));
        self
    }

    /// Binds `HOST:PORT` (port 0 takes a free one) or `unix:PATH` and listens. A file that a dead server left
    /// at the path is replaced; ours goes with the drain. Nothing is accepted before
    /// [`BoundServer::serve`], but the kernel holds connections from now on.
    ///
    /// # Errors
    /// The address is in use or not ours; two services have one name; a descriptor set does not parse.
    pub fn bind(self, addr: &str) -> Result<BoundServer, Error> {
        BoundServer::bind(self, addr)
    }

    /// Binds `HOST:PORT` or `unix:PATH` and serves until SIGTERM, SIGINT or the end of the runtime.
    ///
    /// # Errors
    /// Those of [`bind`](Self::bind) and of [`BoundServer::serve`].
    pub fn serve(self, addr: &str) -> Result<(), Error> {
        self.bind(addr)?.serve()
    }
}
