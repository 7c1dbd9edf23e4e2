//! A channel: addresses, the choice among them, one call from its message to its answer.
//!
//! Knows: links, deadlines, encoding.   Does not know: sockets, frames.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::EHOSTDOWN;
use super::ambient;
use super::balance::Balance;
use super::connection::Connection;
use super::naming;
use super::options::CallOptions;
use super::servers::{Pick, Servers};
use super::streams::{Answers, Beside, Sending, StreamCall};
use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::net::wait::{self, GaveUp, Waiter, wait_for};
use crate::rpc::compression::{Compression, CompressionError, CompressionSwitch, compress};
use crate::rpc::descriptor::MethodDescriptor;
use crate::rpc::error::Error;
use crate::rpc::message::{IntoRequest, Request, Response};
use crate::rpc::protocol::{Body, IncomingReply, Kind, OutgoingCall};
use crate::rpc::server::{ServerBuilder, ServerHandle};
use crate::rpc::status::Status;
use crate::rpc::status_map::{ELOGOFF, ERESPONSE};
use crate::rpc::streaming::{ByteStream, IntoStreamingRequest, Streaming, decode};
use crate::rpc::tls::ClientTls;
use crate::runtime::{Handle, Reason, Runtime, yield_now};

/// A way to call the servers of a service. Cheap to clone; connects again by itself; usable from
/// coroutines and from plain OS threads.
#[derive(Clone)]
pub struct Channel {
    shared: Arc<Shared>,
}

/// What a channel connects to, and within which bounds.
#[derive(Clone, Debug)]
pub struct ChannelBuilder {
    target: String,
    /// `None` = what is usual for the target.
    balance: Option<Balance>,
    deadline: Option<Duration>,
    limits: ChannelLimits,
    tls: Option<ClientTls>,
    served: Option<ServerHandle>,
}

/// The wire protocol that a channel speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Wire {
    /// baidu_std (`PRPC`), with streaming_rpc on the same connection: brpc's own, and the faster one here.
    #[default]
    Prpc,
    /// gRPC over HTTP/2 without TLS, by prior knowledge.
    Grpc,
}

/// What a channel's connections are made with: their protocol and their bounds.
#[derive(Clone, Debug)]
pub(super) struct ChannelLimits {
    pub wire: Wire,
    /// For one attempt to connect.
    pub connect_timeout: Duration,
    /// Calls under way on one connection.
    pub max_pending: usize,
    /// Bytes unwritten on one connection beyond which calls fail at once.
    pub max_unwritten: usize,
    /// Bytes of one answer with its attachment.
    pub max_message: usize,
    /// What vouches for us at the servers; empty = nothing.
    pub credential: Bytes,
    /// How long a server may be silent under calls before it is asked for a sign of life (HTTP/2).
    pub keepalive: Option<Duration>,
    /// How servers are spoken to in secret; `None` = plain text.
    pub tls: Option<(ClientTls, Arc<rustls::ClientConfig>)>,
}

/// Owned by the handles: the last one ends the links.
struct Shared {
    board: Arc<Board>,
    servers: Servers,
    deadline: Option<Duration>,
    limits: ChannelLimits,
    /// The runtime that drives the connections.
    handle: Handle,
    /// The server that is there for this channel alone; it ends with it.
    served: Option<ServerHandle>,
}

/// Where those who wait for a connection are woken.
#[derive(Default)]
pub(super) struct Board {
    waiters: SpinLock<Vec<Waiter>>,
}

impl Board {
    /// Something changed: let them look again.
    pub fn wake_all(&self) {
        let waiters = std::mem::take(&mut *self.waiters.lock());
        for waiter in waiters {
            waiter.wake();
        }
    }
}

impl Channel {
    /// A channel to `target`: `list://HOST:PORT,HOST:PORT,…`, a plain `HOST:PORT`, `unix:PATH`, or
    /// `zk://HOST:PORT,…/PATH` for the servers that are registered at that path of a ZooKeeper ensemble (see
    /// [`naming`]), whoever they are at the time. A server that is not registered any more gets no
    /// more calls, and answers those that it has.
    pub fn builder(target: &str) -> ChannelBuilder {
        ChannelBuilder {
            target: target.to_owned(),
            balance: None,
            deadline: None,
            tls: None,
            served: None,
            limits: ChannelLimits {
                wire: Wire::Prpc,
                connect_timeout: Duration::from_secs(1),
                max_pending: 16_384,
                max_unwritten: 16 << 20,
                max_message: 64 << 20,
                credential: Bytes::new(),
                // A server may take pings for an attack: only where one has agreed to them.
                keepalive: None,
                tls: None,
            },
        }
    }

    /// A channel to a server that is there for it alone and ends with it: for tests. Nothing is bound that others
    /// could take or have to know, and calls go the whole way, over the wire's bytes and all limits. It
    /// speaks PRPC.
    ///
    /// For another protocol or more channels, [bind](ServerBuilder::bind) the server to `unix-abstract:` and
    /// connect to its [target](crate::BoundServer::target).
    ///
    /// # Errors
    /// Those of [`ServerBuilder::bind`] and [`ChannelBuilder::connect`].
    pub fn in_process(server: ServerBuilder) -> Result<Self, Error> {
        let server = server.handle_signals(false).bind("unix-abstract:")?;
        let mut builder = Self::builder(&server.target());
        builder.served = Some(server.handle());
        let target = server.target();
        // Detached: the channel's end drains it.
        drop(home()?.spawn(move || {
            if let Err(error) = server.serve() {
                tracing::error!("the server at {target} broke: {error}");
            }
        }));
        builder.connect()
    }

    /// Makes one call and waits for its answer. Generated clients call this.
    ///
    /// A server that refuses the call because it is going away is passed over for the next address; no
    /// call that may have run is ever made again here.
    ///
    /// The call's time is the smallest of the options' (or else the channel's) deadline and what is left
    /// to the surrounding call or scope; it is sent along.
    ///
    /// # Errors
    /// The server's failure, or one of ours: `DeadlineExceeded`, `Cancelled`, `Unavailable` (see
    /// [`Status::never_ran`]), `ResourceExhausted` at a bound of the channel, `Internal` for an answer
    /// that cannot be read.
    pub fn unary<In, Out>(
        &self,
        method: &'static MethodDescriptor,
        request: impl IntoRequest<In>,
        options: CallOptions,
    ) -> Result<Response<Out>, Status>
    where
        In: Message,
        Out: Message + Default,
    {
        let (message, rest) = split(request.into_request());
        let body = body_of(&message, options.compression)?;
        let way = Way::new(method, false);
        let reply = self.exchange(&way, body, rest, options, |connection, call, until| {
            connection.call(call, until)
        })?;
        self.open(method, reply)
    }

    /// Makes a call that is answered by a stream; returns when the stream begins. Generated clients call
    /// this.
    ///
    /// The call's time is that of [`unary`](Self::unary), over the whole stream.
    ///
    /// # Errors
    /// As [`unary`](Self::unary), where the call fails before its stream begins.
    pub fn server_stream<In, Out>(
        &self,
        method: &'static MethodDescriptor,
        request: impl IntoRequest<In>,
        options: CallOptions,
    ) -> Result<Response<Streaming<Out>>, Status>
    where
        In: Message,
        Out: Message + Default,
    {
        let (message, rest) = split(request.into_request());
        let body = body_of(&message, options.compression)?;
        let way = Way::new(method, false);
        let call = self.exchange(&way, body, rest, options, |connection, call, until| {
            let call = StreamCall::start(connection, call, until)?;
            call.head()?;
            Ok(call)
        })?;
        let metadata = call.head()?;
        let answers = Answers::new(Arc::new(call), None, self.shared.limits.max_message);
        let stream = Streaming::of_call(Box::new(answers), decode);
        Ok(Response::from_parts(stream, metadata, Bytes::new()))
    }

    /// Makes a call whose requests are a stream; they are taken from the iterator here, each as soon as
    /// there is room for it, until the server answers. Generated clients call this.
    ///
    /// # Errors
    /// As [`unary`](Self::unary).
    pub fn client_stream<In, Out>(
        &self,
        method: &'static MethodDescriptor,
        requests: impl IntoStreamingRequest<Message = In>,
        options: CallOptions,
    ) -> Result<Response<Out>, Status>
    where
        In: Message,
        Out: Message + Default,
    {
        let compression = options.compression;
        let (requests, switch, call) = self.start_stream(method, requests, options)?;
        send_all(&call, requests, compression, switch)?;
        self.open(method, call.reply()?)
    }

    /// Makes a call with streams both ways; returns as soon as the call is sent. Generated clients call
    /// this.
    ///
    /// The requests are taken from the iterator on a coroutine of its own: give the receiver of a channel
    /// to send them one by one, or whatever can be iterated over. What the server says before its first
    /// message is not in the response but in [`Streaming::metadata`], which waits for it. Dropping the
    /// stream of answers gives the call up.
    ///
    /// # Errors
    /// As [`unary`](Self::unary), where the call cannot be sent.
    pub fn bidi<In, Out>(
        &self,
        method: &'static MethodDescriptor,
        requests: impl IntoStreamingRequest<Message = In, Messages: Send + 'static>,
        options: CallOptions,
    ) -> Result<Response<Streaming<Out>>, Status>
    where
        In: Message,
        Out: Message + Default,
    {
        let compression = options.compression;
        let (requests, switch, call) = self.start_stream(method, requests, options)?;
        let call = Arc::new(call);
        let mut sending = Sending::new(Arc::clone(&call));
        let sending = self.shared.handle.spawn(move || {
            let sent = send_all(sending.call(), requests, compression, switch);
            sending.ended(sent);
        });
        let answers = Answers::new(call, Some(sending), self.shared.limits.max_message);
        Ok(Response::new(Streaming::of_call(Box::new(answers), decode)))
    }

    /// Makes a unary call and holds a stream of bytes out beside it, as brpc's `StreamCreate` does. The
    /// server may take it: then it goes on after the answer, without a deadline.
    ///
    /// # Errors
    /// As [`unary`](Self::unary).
    pub fn unary_with_stream<In, Out>(
        &self,
        method: &'static MethodDescriptor,
        request: impl IntoRequest<In>,
        options: CallOptions,
    ) -> Result<(Response<Out>, Option<ByteStream>), Status>
    where
        In: Message,
        Out: Message + Default,
    {
        let (message, rest) = split(request.into_request());
        let body = body_of(&message, options.compression)?;
        let way = Way::new(method, true);
        let (call, reply) =
            self.exchange(&way, body, rest, options, |connection, call, until| {
                let call = StreamCall::start(connection, call, until)?;
                let reply = call.reply()?;
                Ok((call, reply))
            })?;
        let stream = reply
            .stream_accepted
            .then(|| ByteStream::new(Box::new(Beside::new(call.outlive_deadline()))));
        Ok((self.open(method, reply)?, stream))
    }

    fn start_stream<R: IntoStreamingRequest>(
        &self,
        method: &'static MethodDescriptor,
        requests: R,
        options: CallOptions,
    ) -> Result<(R::Messages, Option<CompressionSwitch>, StreamCall), Status> {
        let mut requests = requests.into_streaming_request();
        let switch = requests.take_switch();
        let (requests, rest) = split(requests);
        let none = Body::Bytes(Bytes::new());
        let way = Way::new(method, false);
        let call = self.exchange(&way, none, rest, options, |connection, call, until| {
            StreamCall::start(connection, call, until)
        })?;
        Ok((requests, switch, call))
    }

    /// Reads the one answer of a call.
    fn open<Out: Message + Default>(
        &self,
        method: &MethodDescriptor,
        reply: IncomingReply,
    ) -> Result<Response<Out>, Status> {
        let bad = |text: String| Status::from_errno(ERESPONSE, text);
        let compression = reply.body.compression;
        let bytes = reply
            .body
            .open(&reply.attachment, self.shared.limits.max_message)
            .map_err(|status| bad(status.message().to_owned()))?;
        let message = Out::decode(bytes)
            .map_err(|error| bad(format!("the answer is no valid {}: {error}", method.output)))?;
        let mut response = Response::from_parts(message, reply.metadata, reply.attachment);
        response.set_compression(compression);
        *response.trailers_mut() = reply.trailers;
        Ok(response)
    }

    /// Makes the call that `attempt` makes on a connection.
    fn exchange<R>(
        &self,
        way: &Way,
        body: Body<'_>,
        beside: Request<()>,
        options: CallOptions,
        attempt: impl FnMut(&Arc<Connection>, OutgoingCall<'_>, Instant) -> Result<R, Status>,
    ) -> Result<R, Status> {
        self.try_each(way, body, beside, options, attempt)
            .inspect_err(|_| {
                // A call that fails without having waited must not let a loop around it starve the worker.
                yield_now();
            })
    }

    fn try_each<R>(
        &self,
        way: &Way,
        body: Body<'_>,
        mut beside: Request<()>,
        options: CallOptions,
        mut attempt: impl FnMut(&Arc<Connection>, OutgoingCall<'_>, Instant) -> Result<R, Status>,
    ) -> Result<R, Status> {
        let mut now = Instant::now();
        let own = options
            .deadline
            .or(self.shared.deadline)
            .map_or(Instant::NEVER, |limit| now + limit);
        let until = own.min(wait::scope_deadline());
        if until <= now {
            return Err(never_sent(GaveUp::TimedOut));
        }
        if wait::is_cancelled() {
            return Err(never_sent(GaveUp::Cancelled));
        }
        for (key, value) in options.metadata.iter() {
            beside.metadata_mut().append_bytes(key, value.clone());
        }
        if let Some(log_id) = options.log_id {
            beside.set_log_id(log_id);
        }
        let trace = ambient::add_to(&mut beside);
        let mut elsewhere = self.shared.servers.others();
        loop {
            let connection = match self.shared.servers.pick(options.wait_for_ready, now) {
                Pick::Ready(connection) => connection,
                _ => {
                    let connection = self.pick(until, options.wait_for_ready)?;
                    now = Instant::now();
                    connection
                }
            };
            let call = OutgoingCall {
                service: way.method.service,
                method: way.method.name,
                kind: way.kind,
                offers_stream: way.offers_stream,
                body: body.clone(),
                compression: options.compression,
                checksum: options.checksum,
                attachment: beside.attachment().clone(),
                metadata: beside.metadata(),
                log_id: beside.log_id(),
                trace: trace.as_deref(),
                timeout: (!until.is_never()).then(|| until - now),
                token: 0,
            };
            let servers = &self.shared.servers;
            match servers.weigh(&connection, now, || attempt(&connection, call, until)) {
                // That server is going or gone and did not run the call: each other address may.
                Err(status) if elsewhere > 0 && takes_no_calls(&status) => {
                    elsewhere -= 1;
                    now = Instant::now();
                    if until <= now {
                        return Err(status);
                    }
                }
                result => return result,
            }
        }
    }

    #[cold]
    fn pick(&self, until: Instant, wait_for_ready: bool) -> Result<Arc<Connection>, Status> {
        let look = || {
            self.shared.board.waiters.lock().push(Waiter::current());
            match self.shared.servers.pick(wait_for_ready, Instant::now()) {
                Pick::Ready(connection) => Some(Ok(connection)),
                Pick::Failed(why) => Some(Err(Status::from_errno(
                    EHOSTDOWN,
                    format!("{why}; the call was not sent"),
                ))),
                Pick::Undecided => None,
            }
        };
        match wait_for(Reason::Other("a connection"), until, look) {
            Ok(result) => result,
            Err(gave_up) => Err(never_sent(gave_up)),
        }
    }
}

/// Which method is called, and how.
struct Way {
    method: &'static MethodDescriptor,
    kind: Kind,
    offers_stream: bool,
}

impl Way {
    const fn new(method: &'static MethodDescriptor, offers_stream: bool) -> Self {
        Self {
            method,
            kind: Kind::new(method.client_streaming, method.server_streaming),
            offers_stream,
        }
    }
}

impl ChannelBuilder {
    /// Time for each call that sets none of its own. Default: none.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// How a server is chosen for each call, where there are several. Default: [`Balance::P2c`] for `zk://`, else
    /// [`Balance::InTurn`].
    #[must_use]
    pub fn balance(mut self, balance: Balance) -> Self {
        self.balance = Some(balance);
        self
    }

    /// The protocol to speak. Default [`Wire::Prpc`].
    #[must_use]
    pub fn protocol(mut self, wire: Wire) -> Self {
        self.limits.wire = wire;
        self
    }

    /// Time for one attempt to connect. Default 1 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.limits.connect_timeout = timeout;
        self
    }

    /// Calls under way on one connection; one more fails at once (`ResourceExhausted`). Default 16,384.
    #[must_use]
    pub fn max_pending(mut self, calls: usize) -> Self {
        self.limits.max_pending = calls.max(1);
        self
    }

    /// Bytes of one answer with its attachment; a larger one ends the connection (gRPC: fails its call).
    /// Default 64 MiB.
    #[must_use]
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.limits.max_message = bytes;
        self
    }

    /// What vouches for us at servers that ask: baidu_std sends it in the first message of each connection
    /// (`authentication_data`), gRPC as `authorization` of each call that has none of its own. In plain text anybody on the
    /// way reads it: use [`tls`](Self::tls).
    #[must_use]
    pub fn credential(mut self, credential: impl Into<Bytes>) -> Self {
        self.limits.credential = credential.into();
        self
    }

    /// gRPC: asks a server that was silent for so long, with calls under way, for a sign of life (PING), and
    /// gives the connection up without one within 20 s; its calls fail and the channel connects again. Servers
    /// take frequent pings for an attack: agree with them, or stay above five minutes. Default: never.
    ///
    /// Beside it, and with any protocol, TCP's own probes find a machine that vanished within 25 s.
    #[must_use]
    pub fn keepalive(mut self, silence: Duration) -> Self {
        self.limits.keepalive = Some(silence.max(KEEPALIVE_MIN));
        self
    }

    /// Speaks TLS with the servers.
    #[must_use]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Connects; returns with the first connection that stands.
    ///
    /// # Errors
    /// The target cannot be read, or none of its addresses could be reached: why one could not.
    pub fn connect(self) -> Result<Channel, Error> {
        let named = self.target.starts_with(naming::SCHEME);
        let asking = if named { ASKING } else { Duration::ZERO };
        let until = Instant::after(asking + self.limits.connect_timeout + SETTLE);
        let channel = self.connect_lazy()?;
        channel
            .pick(until.min(wait::scope_deadline()), false)
            .map_err(|status| {
                let text = status.message();
                let text = text.strip_suffix("; the call was not sent").unwrap_or(text);
                Error::Io(std::io::Error::new(
                    std::io::ErrorKind::NotConnected,
                    text.to_owned(),
                ))
            })?;
        Ok(channel)
    }

    /// Begins to connect and returns at once. Calls wait for the first attempt, then fail until one
    /// succeeds.
    ///
    /// # Errors
    /// The target cannot be read, TLS cannot be set up, or the background runtime could not be started.
    pub fn connect_lazy(mut self) -> Result<Channel, Error> {
        if let Some(tls) = self.tls.take() {
            let alpn: &[&str] = match self.limits.wire {
                Wire::Prpc => &[],
                Wire::Grpc => &["h2"],
            };
            let config = tls.config(alpn)?;
            self.limits.tls = Some((tls, config));
        }
        let handle = home()?;
        let board = Arc::new(Board::default());
        let servers = Servers::start(&self.target, self.balance, &self.limits, &board, handle)?;
        let shared = Shared {
            board,
            servers,
            deadline: self.deadline,
            limits: self.limits,
            handle,
            served: self.served,
        };
        Ok(Channel {
            shared: Arc::new(shared),
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.servers.end();
        if let Some(server) = &self.served {
            server.drain();
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("targets", &self.shared.servers.targets())
            .finish()
    }
}

/// True if the server said, or its absence, that it took no call.
fn takes_no_calls(status: &Status) -> bool {
    // A handler's own `Unavailable` has no such number: it may have run.
    status.is_errno(ELOGOFF) || status.is_errno(EHOSTDOWN)
}

/// Separates the message from what travels beside it.
fn split<T>(request: Request<T>) -> (T, Request<()>) {
    let (message, metadata, attachment, log_id) = request.into_parts();
    (
        message,
        Request::from_parts((), metadata, attachment, log_id),
    )
}

/// As on the server: small messages are encoded under the connection's lock, straight into what is sent;
/// large ones before.
#[inline]
fn body_of<M: Message>(message: &M, compression: Compression) -> Result<Body<'_>, Status> {
    if compression != Compression::None {
        let compressed = compress(compression, &message.encode_to_vec());
        let refuse = |error: CompressionError| Status::invalid_argument(error.to_string());
        return Ok(Body::Bytes(compressed.map_err(refuse)?));
    }
    Ok(if message.encoded_len() < ENCODE_IN_PLACE_MAX {
        Body::Message(message)
    } else {
        Body::Bytes(message.encode_to_vec().into())
    })
}

/// Sends the requests of a call until there are no more, or the call has ended.
fn send_all<M: Message>(
    call: &StreamCall,
    requests: impl Iterator<Item = M>,
    compression: Compression,
    switch: Option<CompressionSwitch>,
) -> Result<(), Status> {
    for message in requests {
        let compression = CompressionSwitch::choose(switch.as_ref(), compression);
        if !call.send(body_of(&message, compression)?, compression)? {
            return Ok(());
        }
    }
    call.half_close();
    Ok(())
}

/// The runtime that drives a new channel.
pub(super) fn home() -> Result<Handle, Error> {
    Handle::try_current().map_or_else(background, Ok)
}

/// The runtime that drives the channels of programs without one. One worker: it only moves bytes.
fn background() -> Result<Handle, Error> {
    static BACKGROUND: std::sync::OnceLock<Result<Runtime, String>> = std::sync::OnceLock::new();
    let made = BACKGROUND.get_or_init(|| {
        let built = Runtime::builder().workers(1).build();
        built.map_err(|error| error.to_string())
    });
    match made {
        Ok(runtime) => Ok(runtime.handle()),
        Err(text) => Err(Error::Runtime(text.clone())),
    }
}

fn never_sent(gave_up: GaveUp) -> Status {
    match gave_up {
        GaveUp::TimedOut => {
            Status::deadline_exceeded("the call's time was over before it was sent")
        }
        GaveUp::Cancelled => Status::cancelled("cancelled before the call was sent"),
    }
}

/// Encoded bytes up to which a request is encoded under the connection's lock.
const ENCODE_IN_PLACE_MAX: usize = 4096;
/// Below this a keepalive would be a load.
const KEEPALIVE_MIN: Duration = Duration::from_millis(100);
/// Beyond the connect timeout: time for the failure to be told.
const SETTLE: Duration = Duration::from_millis(200);
/// Time for naming to say which servers there are.
const ASKING: Duration = Duration::from_secs(6);
