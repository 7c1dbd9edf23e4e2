//! One call: from its bytes to the handler and back.
//!
//! Knows: decoding, the handler's coroutine, counting.   Does not know: sockets, frames.
//!
//! A call holds no lock while the handler runs. `Exchange` is the duty to answer: whoever drops it
//! unanswered (a handler that panicked) answers INTERNAL.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::connection::Connection;
use super::registry::Method;
use super::stats::Outcome;
use crate::base::time::Instant;
use crate::rpc::compression::Compression;
use crate::rpc::descriptor::ServiceDescriptor;
use crate::rpc::message::{Request, Response};
use crate::rpc::protocol::{
    Body, BodyFormat, CallId, IncomingCall, Page, PageRequest, Reply, Route, Success,
};
use crate::rpc::status::Status;
use crate::rpc::status_map::EREQUEST;
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
    incoming: IncomingCall,
    exchange: Exchange,
}

/// The duty to answer one call.
struct Exchange {
    connection: Arc<Connection>,
    id: CallId,
    route: Route,
    arrived: Instant,
    /// The place in the connection's table of running calls.
    place: usize,
    answered: bool,
}

impl ServerCall {
    /// Decodes the request, runs `handler`, encodes what it returns.
    pub fn unary<In, Out>(
        self,
        handler: impl FnOnce(Request<In>) -> Result<Response<Out>, Status>,
    ) -> Finished
    where
        In: Message + Default,
        Out: Message,
    {
        let Self { incoming, exchange } = self;
        let (format, deadline) = (incoming.format, incoming.deadline());
        let message = match exchange.decode::<In>(incoming.body, &incoming.attachment, format) {
            Ok(message) => message,
            Err(status) => return exchange.refuse(&status),
        };
        let mut request = Request::from_parts(
            message,
            incoming.metadata,
            incoming.attachment,
            incoming.log_id,
        );
        request.set_origin(Some(exchange.connection.peer()), deadline);
        match handler(request) {
            Ok(response) => exchange.succeed(response, format),
            Err(status) => exchange.answer(Reply::Failed(&status), Outcome::Failed),
        }
    }

    /// Answers that the method is not implemented here.
    pub fn unimplemented(self) -> Finished {
        let names = self.exchange.method().descriptor;
        let status = Status::unimplemented(format!(
            "{}/{} is not implemented here",
            names.service, names.name
        ));
        self.exchange.refuse(&status)
    }
}

impl Exchange {
    fn method(&self) -> &Method {
        self.connection.core().registry.method(self.route)
    }

    fn decode<In: Message + Default>(
        &self,
        body: crate::rpc::protocol::RawBody,
        attachment: &Bytes,
        format: BodyFormat,
    ) -> Result<In, Status> {
        let max = self.connection.core().config.limits.max_decompressed;
        let bytes = body.open(attachment, max)?;
        let bytes = match format {
            BodyFormat::Protobuf => bytes,
            BodyFormat::Json => self.method().json.request_from_json(&bytes)?,
        };
        In::decode(bytes).map_err(|error| {
            let names = self.method().descriptor;
            let text = format!("the request is no valid {}: {error}", names.input);
            Status::from_errno(EREQUEST, text)
        })
    }

    fn succeed<Out: Message>(self, response: Response<Out>, format: BodyFormat) -> Finished {
        let (message, metadata, attachment) = response.into_parts();
        let body = match format {
            // A small message is encoded under the connection's lock, straight into what is sent; a
            // large one before, into bytes that are sent without another copy.
            BodyFormat::Protobuf if message.encoded_len() < ENCODE_IN_PLACE_MAX => {
                Body::Message(&message)
            }
            BodyFormat::Protobuf => Body::Bytes(message.encode_to_vec().into()),
            BodyFormat::Json => {
                match self
                    .method()
                    .json
                    .response_to_json(&message.encode_to_vec())
                {
                    Ok(json) => Body::Bytes(json),
                    Err(status) => return self.refuse(&status),
                }
            }
        };
        let success = Success {
            body,
            compression: Compression::None,
            attachment,
            metadata: &metadata,
        };
        self.answer(Reply::Success(success), Outcome::Answered)
    }

    fn refuse(self, status: &Status) -> Finished {
        self.answer(Reply::Refused(status), Outcome::Refused)
    }

    fn answer(mut self, reply: Reply<'_>, outcome: Outcome) -> Finished {
        self.end(Some(reply), outcome);
        Finished(())
    }

    fn end(&mut self, reply: Option<Reply<'_>>, outcome: Outcome) {
        self.answered = true;
        let alive = self.connection.end_call(self.place, self.id, reply);
        let outcome = if alive { outcome } else { Outcome::Lost };
        let latency = Instant::now().saturating_since(self.arrived);
        self.method().stats.ended(outcome, latency);
    }
}

impl Drop for Exchange {
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
        self.end(Some(Reply::Refused(&Status::internal(text))), outcome);
    }
}

/// A call on its way to a coroutine.
pub(super) struct PendingCall {
    connection: Arc<Connection>,
    incoming: IncomingCall,
}

impl PendingCall {
    pub fn new(connection: Arc<Connection>, incoming: IncomingCall) -> Arc<Self> {
        Arc::new(Self {
            connection,
            incoming,
        })
    }

    fn run(self) {
        let Self {
            connection,
            incoming,
        } = self;
        let core = Arc::clone(connection.core());
        let method = core.registry.method(incoming.route);
        method.stats.began();
        let deadline = incoming.deadline();
        let place = connection.begin_call(deadline);
        let mut exchange = Exchange {
            id: incoming.id,
            route: incoming.route,
            arrived: incoming.arrived,
            place: place.unwrap_or(usize::MAX),
            answered: false,
            connection,
        };
        if place.is_none() {
            return exchange.end(None, Outcome::Lost);
        }
        if !deadline.is_never() && Instant::now() >= deadline {
            core.stats.expired.add(1);
            let text = "the call's time was over before it could run";
            exchange.refuse(&Status::deadline_exceeded(text));
            return;
        }
        let call = ServerCall { incoming, exchange };
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
}

impl Run for PendingCall {
    fn run(self: Arc<Self>) {
        let call = Arc::into_inner(self).expect("a call that waits has one owner");
        // Beyond the handler nothing panics by design; if it does, the call answers INTERNAL on its way.
        let _ = catch_unwind(AssertUnwindSafe(|| call.run()));
    }

    fn abandon(self: Arc<Self>) {
        let status = Status::unavailable("the server has no room to run the call; it did not run");
        let reply = Reply::Refused(&status);
        self.connection
            .end_call(usize::MAX, self.incoming.id, Some(reply));
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

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

/// Encoded bytes up to which an answer is encoded under the connection's lock.
const ENCODE_IN_PLACE_MAX: usize = 4096;
