//! One call: from its bytes to the handler and back.
//!
//! Knows: decoding, the handler's coroutine, counting.   Does not know: sockets, frames.
//!
//! A call holds no lock while the handler runs. `PendingCall` is the duty to answer: whoever drops it
//! unanswered (a handler that panicked) answers INTERNAL.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::connection::{Connection, Ending};
use super::registry::Method;
use super::stats::Outcome;
use super::streams::{Beside, Line, Requests};
use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::rpc::client::ambient::Ambient;
use crate::rpc::compression::{Compression, CompressionError, CompressionSwitch, compress};
use crate::rpc::descriptor::ServiceDescriptor;
use crate::rpc::http_rule::Rules;
use crate::rpc::message::{Request, Response};
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::{
    Body, BodyFormat, IncomingCall, Page, PageRequest, RawBody, Reply, Success, Work,
};
use crate::rpc::status::Status;
use crate::rpc::status_map::{EREJECT, EREQUEST};
use crate::rpc::streaming::{Offer, Streaming};
use crate::runtime::Run;

/// A service as the server sees it. Generated code implements it for `…Server` types.
pub trait Service: Send + Sync + 'static {
    /// Its names and schema.
    fn descriptor(&self) -> &'static ServiceDescriptor;

    /// Runs one call of the method with this index in [`ServiceDescriptor::methods`], on the call's own
    /// coroutine.
    fn call(&self, method: usize, call: ServerCall) -> Finished;
}

/// Proof that a call was answered.
#[derive(Debug)]
pub struct Finished(());

/// A call that waits for its answer.
pub struct ServerCall {
    /// Nobody else refers to it: it is shared only to be spawned.
    call: Arc<PendingCall>,
}

/// A call from its arrival to its answer, in one place of the heap. It is the duty to answer.
pub(super) struct PendingCall {
    connection: Arc<Connection>,
    /// The body and what is beside it are taken out when the handler runs.
    incoming: IncomingCall,
    /// The place in the connection's table of running calls; `usize::MAX` before it runs.
    place: usize,
    /// Counted as running.
    began: bool,
    /// Its answer is a stream that has begun.
    streaming: bool,
    answered: bool,
}

impl ServerCall {
    /// Decodes the request, runs `handler`, encodes what it returns.
    pub fn unary<In, Out>(
        mut self,
        handler: impl FnOnce(Request<In>) -> Result<Response<Out>, Status>,
    ) -> Finished
    where
        In: Message + Default,
        Out: Message,
    {
        let call = self.own();
        match call.decode() {
            Ok(message) => {
                let request = call.request(message);
                call.answer_one(handler(request))
            }
            Err(status) => call.refuse(&status),
        }
    }

    /// Decodes the request, runs `handler`, sends what its iterator gives, each message as soon as there is
    /// room for it. The first failure ends the stream.
    pub fn server_stream<In, Out, Messages>(
        mut self,
        handler: impl FnOnce(Request<In>) -> Result<Response<Messages>, Status>,
    ) -> Finished
    where
        In: Message + Default,
        Out: Message,
        Messages: IntoIterator<Item = Result<Out, Status>>,
    {
        let call = self.own();
        match call.decode() {
            Ok(message) => {
                let request = call.request(message);
                call.answer_many(handler(request))
            }
            Err(status) => call.refuse(&status),
        }
    }

    /// Runs `handler` with the stream of requests, encodes what it returns.
    pub fn client_stream<In, Out>(
        mut self,
        handler: impl FnOnce(Request<Streaming<In>>) -> Result<Response<Out>, Status>,
    ) -> Finished
    where
        In: Message + Default,
        Out: Message,
    {
        let call = self.own();
        let requests = call.requests();
        call.answer_one(handler(requests))
    }

    /// Runs `handler` with the stream of requests, sends what its iterator gives.
    pub fn bidi<In, Out, Messages>(
        mut self,
        handler: impl FnOnce(Request<Streaming<In>>) -> Result<Response<Messages>, Status>,
    ) -> Finished
    where
        In: Message + Default,
        Out: Message,
        Messages: IntoIterator<Item = Result<Out, Status>>,
    {
        let call = self.own();
        let requests = call.requests();
        call.answer_many(handler(requests))
    }

    /// Answers that the method is not implemented here.
    pub fn unimplemented(mut self) -> Finished {
        let call = self.own();
        let names = call.method().descriptor;
        let status = Status::unimplemented(format!(
            "{}/{} is not implemented here",
            names.service, names.name
        ));
        call.refuse(&status)
    }

    fn own(&mut self) -> &mut PendingCall {
        Arc::get_mut(&mut self.call).expect("a call that runs has one owner")
    }
}

impl PendingCall {
    pub fn new(connection: Arc<Connection>, incoming: IncomingCall) -> Arc<Self> {
        Arc::new(Self {
            connection,
            incoming,
            place: usize::MAX,
            began: false,
            streaming: false,
            answered: false,
        })
    }

    fn method(&self) -> &Method {
        self.connection.core().registry.method(self.incoming.route)
    }

    fn rules(&self) -> &Rules {
        &self.connection.core().registry.rules
    }

    fn decode<In: Message + Default>(&mut self) -> Result<In, Status> {
        self.body().and_then(|bytes| {
            In::decode(bytes).map_err(|error| self.undecodable(&error.to_string()))
        })
    }

    /// Takes the request's bytes out, checked, decompressed, and as protobuf.
    fn body(&mut self) -> Result<Bytes, Status> {
        let plain = RawBody {
            // What a request tells its handler.
            compression: self.incoming.body.compression,
            ..RawBody::plain(Bytes::new())
        };
        let body = std::mem::replace(&mut self.incoming.body, plain);
        let max = self.connection.core().config.limits.max_decompressed;
        let bytes = body.open(&self.incoming.attachment, max)?;
        match (self.incoming.format, &self.incoming.bound) {
            (BodyFormat::Protobuf, _) => Ok(bytes),
            (BodyFormat::Text, _) => self.method().texts.request_from_text(&bytes),
            (BodyFormat::Json | BodyFormat::PlainJson, None) => {
                self.method().texts.request_from_json(&bytes)
            }
            (BodyFormat::Json | BodyFormat::PlainJson, Some(bound)) => {
                self.rules().binding(bound).request(bound, &bytes)
            }
        }
    }

    fn undecodable(&self, why: &str) -> Status {
        let names = self.method().descriptor;
        let text = format!("the request is no valid {}: {why}", names.input);
        Status::from_errno(EREQUEST, text)
    }

    /// The request around its message, with what came beside it.
    fn request<In>(&mut self, message: In) -> Request<In> {
        let incoming = &mut self.incoming;
        let deadline = incoming.deadline();
        let mut request = Request::from_parts(
            message,
            std::mem::take(&mut incoming.metadata),
            std::mem::take(&mut incoming.attachment),
            incoming.log_id,
        );
        request.set_compression(incoming.body.compression);
        request.set_origin(
            self.connection.peer(),
            self.connection.told().cloned(),
            deadline,
        );
        if incoming.offers_stream {
            let beside = Beside::new(Arc::clone(&self.connection), incoming.id);
            request.offer_stream(Offer(Box::new(beside)));
        }
        request
    }

    /// The request around the stream of its messages.
    fn requests<In: Message + Default>(&mut self) -> Request<Streaming<In>> {
        let requests = Requests::new(self.line());
        let decode = |bytes| {
            In::decode(bytes).map_err(|error| {
                let text = format!("a message of the request stream cannot be read: {error}");
                Status::from_errno(EREQUEST, text)
            })
        };
        self.request(Streaming::of_call(Box::new(requests), decode))
    }

    fn line(&self) -> Line {
        let connection = Arc::clone(&self.connection);
        Line::new(connection, self.incoming.id, self.incoming.deadline())
    }

    fn answer_one<Out: Message>(&mut self, result: Result<Response<Out>, Status>) -> Finished {
        let mut response = match result {
            Ok(response) => response,
            Err(status) => return self.answer(Reply::Failed(&status), Outcome::Failed),
        };
        let trailers = std::mem::take(response.trailers_mut());
        let asked = self.chosen(response.compression(), response.get_ref());
        let compression = self.spoken(asked);
        let (message, metadata, attachment) = response.into_parts();
        let body = match self.body_of(&message, compression) {
            Ok(body) => body,
            Err(status) => return self.refuse(&status),
        };
        let success = Success {
            body,
            attachment,
            compression,
            metadata: &metadata,
            trailers: &trailers,
            ..Success::new(Body::Bytes(Bytes::new()))
        };
        self.answer(Reply::Success(success), Outcome::Answered)
    }

    fn answer_many<Out, Messages>(&mut self, result: Result<Response<Messages>, Status>) -> Finished
    where
        Out: Message,
        Messages: IntoIterator<Item = Result<Out, Status>>,
    {
        let mut response = match result {
            Ok(response) => response,
            Err(status) => return self.answer(Reply::Failed(&status), Outcome::Failed),
        };
        let line = self.line();
        self.streaming = true;
        let compression = self.spoken(response.compression());
        line.begin(response.metadata(), compression);
        let trailers = std::mem::take(response.trailers_mut());
        let switch = response.take_switch();
        let failed = response.into_inner().into_iter().find_map(|message| {
            let compression = CompressionSwitch::choose(switch.as_ref(), compression);
            let sent = message
                .and_then(|message| line.send(self.body_of(&message, compression)?, compression));
            sent.err()
        });
        let (result, outcome) = match &failed {
            None => (Ok(()), Outcome::Answered),
            Some(status) => (Err(status), Outcome::Failed),
        };
        self.end(Ending::Stream(result, &trailers), outcome);
        Finished(())
    }

    /// How the one answer of a call is to be compressed: as its handler asks, or as its request was.
    fn chosen(&self, asked: Compression, message: &impl Message) -> Compression {
        let mirror = self.connection.core().options.mirror_compression;
        match mirror {
            Some(least) if asked == Compression::None && message.encoded_len() >= least => {
                self.incoming.body.compression
            }
            _ => asked,
        }
    }

    /// What becomes of the compression a handler asks for.
    fn spoken(&self, asked: Compression) -> Compression {
        match self.incoming.format {
            BodyFormat::Protobuf => asked,
            BodyFormat::Json | BodyFormat::PlainJson | BodyFormat::Text => Compression::None,
        }
    }

    /// A small message is encoded under the connection's lock, straight into what is sent; a large one
    /// before, into bytes that are sent without another copy.
    fn body_of<'a, Out: Message>(
        &self,
        message: &'a Out,
        compression: Compression,
    ) -> Result<Body<'a>, Status> {
        if compression != Compression::None {
            let compressed = compress(compression, &message.encode_to_vec());
            let refuse = |error: CompressionError| Status::internal(error.to_string());
            return Ok(Body::Bytes(compressed.map_err(refuse)?));
        }
        match self.incoming.format {
            BodyFormat::Protobuf if message.encoded_len() < ENCODE_IN_PLACE_MAX => {
                Ok(Body::Message(message))
            }
            format => self
                .encoded(message.encode_to_vec(), format)
                .map(Body::Bytes),
        }
    }

    fn encoded(&self, message: Vec<u8>, format: BodyFormat) -> Result<Bytes, Status> {
        match format {
            BodyFormat::Protobuf => Ok(message.into()),
            BodyFormat::Text => self.method().texts.response_to_text(&message),
            BodyFormat::Json | BodyFormat::PlainJson => {
                let plain = format == BodyFormat::PlainJson;
                let json = self.method().texts.response_to_json(&message, plain)?;
                Ok(match &self.incoming.bound {
                    Some(bound) => self.rules().binding(bound).answer(json),
                    None => json,
                })
            }
        }
    }

    fn refuse(&mut self, status: &Status) -> Finished {
        self.answer(Reply::Refused(status), Outcome::Refused)
    }

    fn answer(&mut self, reply: Reply<'_>, outcome: Outcome) -> Finished {
        self.end(Ending::Reply(reply), outcome);
        Finished(())
    }

    fn end(&mut self, ending: Ending<'_>, outcome: Outcome) {
        self.answered = true;
        let alive = self
            .connection
            .end_call(self.place, self.incoming.id, ending);
        let outcome = if alive { outcome } else { Outcome::Lost };
        let now = Instant::now();
        self.connection.core().call_ended(now);
        let latency = now.saturating_since(self.incoming.arrived);
        self.method().stats.ended(outcome, latency, self.began);
    }

    /// Enters the call into its connection's table, or ends it. True if the handler is to run.
    fn begin(&mut self) -> bool {
        self.method().stats.began();
        self.began = true;
        let deadline = self.incoming.deadline();
        match self.connection.begin_call(self.incoming.id, deadline) {
            Some(place) => self.place = place,
            None => {
                let status = Status::cancelled("given up before it ran");
                self.answer(Reply::Refused(&status), Outcome::Lost);
                return false;
            }
        }
        let core = self.connection.core();
        if core.is_surely_before(deadline) || Instant::now() < deadline {
            return true;
        }
        core.stats.expired.add(1);
        let text = "the call's time was over before it could run";
        self.refuse(&Status::deadline_exceeded(text));
        false
    }
}

impl Run for PendingCall {
    fn run(mut self: Arc<Self>) {
        let call = Arc::get_mut(&mut self).expect("a call that was spawned has one owner");
        if !call.begin() {
            return;
        }
        let _ambient = Ambient::of(&call.incoming);
        let core = Arc::clone(call.connection.core());
        let method = core.registry.method(call.incoming.route);
        let call = ServerCall { call: self };
        // The call is consumed; the service is shared by calls that never saw this one's state.
        let result = catch_unwind(AssertUnwindSafe(|| method.service.call(method.index, call)));
        if let Err(payload) = result {
            let names = method.descriptor;
            let said = panic_text(payload.as_ref());
            tracing::error!(
                "handler of {}/{} panicked: {said}",
                names.service,
                names.name
            );
        }
    }

    fn abandon(mut self: Arc<Self>) {
        let call = Arc::get_mut(&mut self).expect("a call that waits has one owner");
        let text = "the server had no room to run the call; it did not run";
        call.refuse(&Status::from_errno(EREJECT, text));
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let (text, outcome) = if std::thread::panicking() {
            (
                "the handler panicked; the server's log has the details",
                Outcome::Panicked,
            )
        } else {
            (
                "the handler gave the call up without an answer",
                Outcome::Failed,
            )
        };
        let status = Status::internal(text);
        let ending = if self.streaming {
            Ending::Stream(Err(&status), &NO_TRAILERS)
        } else {
            Ending::Reply(Reply::Refused(&status))
        };
        self.end(ending, outcome);
    }
}

/// A page of the console on its way to a coroutine.
pub(super) struct PendingPage {
    connection: Arc<Connection>,
    request: PageRequest,
}

impl PendingPage {
    pub fn new(connection: Arc<Connection>, request: PageRequest) -> Arc<Self> {
        Arc::new(Self {
            connection,
            request,
        })
    }
}

impl Run for PendingPage {
    fn run(self: Arc<Self>) {
        let core = self.connection.core();
        core.stats.pages.add(1);
        let page = catch_unwind(AssertUnwindSafe(|| core.page(&self.request)))
            .unwrap_or_else(|_| Page::text(500, "the page could not be made\n"));
        self.connection.end_page(self.request.id, page);
    }

    fn abandon(self: Arc<Self>) {
        let page = Page::text(503, "the server is ending\n");
        self.connection.end_page(self.request.id, page);
    }
}

/// A session's own work that waits for its coroutine.
pub(super) struct PendingWork {
    connection: Arc<Connection>,
    /// Taken by whoever ends it.
    work: SpinLock<Option<Work>>,
}

impl PendingWork {
    pub fn new(connection: Arc<Connection>, work: Work) -> Arc<Self> {
        Arc::new(Self {
            connection,
            work: SpinLock::new(Some(work)),
        })
    }
}

impl Run for PendingWork {
    fn run(self: Arc<Self>) {
        let work = self.work.lock().take().expect("a coroutine runs once");
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work.run())) {
            tracing::error!("work of a session panicked: {}", panic_text(&*payload));
        }
        self.connection.end_work();
    }

    fn abandon(self: Arc<Self>) {
        let work = self.work.lock().take();
        drop(work);
        self.connection.end_work();
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

static NO_TRAILERS: MetadataMap = MetadataMap::new();

/// Encoded bytes up to which an answer is encoded under the connection's lock.
const ENCODE_IN_PLACE_MAX: usize = 4096;
