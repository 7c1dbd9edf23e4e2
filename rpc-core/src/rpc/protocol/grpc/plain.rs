//! Requests over HTTP/2 that are not gRPC: calls in JSON, and pages, as over HTTP/1.
//!
//! Knows: how `http1` reads a request's purpose and words an answer.   Does not know: either's bytes.

use bytes::{Bytes, BytesMut};

use super::message::Assembler;
use super::server::{Call, GrpcServer, Purpose};
use super::trailers::put_metadata;
use crate::rpc::cors::Grant;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::http1::{
    self, Head, Kind, Length, Response, Target, call_of, of_http, response_of,
};
use crate::rpc::protocol::http2::frame::ErrorCode;
use crate::rpc::protocol::http2::hpack::encode::Encoder;
use crate::rpc::protocol::{Body, CallId, Checksum, PageRequest, RawBody, Reply, ServerEvent};
use crate::rpc::status::Status;

impl GrpcServer {
    pub(super) fn on_plain_head(&mut self, id: u32, end: bool) {
        let head = self.plain_head(end);
        let head_only = head.method == "HEAD";
        let target = Target::of(&head, &self.config);
        if let Some(call) = self.session.inbox(id) {
            call.grant = target.grant(&head, &self.config).map(Box::new);
        }
        let (kind, waiting, page) = match target {
            Target::Refused(response) => return self.refuse_plainly(id, response, head_only, end),
            Target::Call { route, .. } if route.kind.takes_stream() => {
                let text = "a method that takes streams is called with gRPC: send application/grpc";
                let response = http1::of_status(&Status::unimplemented(text));
                return self.refuse_plainly(id, response, head_only, end);
            }
            Target::Call {
                route,
                kind,
                compression,
                bound,
            } => {
                let body = RawBody {
                    data: Bytes::new(),
                    compression,
                    checksum: Checksum::None,
                    sum: 0,
                };
                let call_id = CallId::new(id.into(), 0);
                let now = self.session.now();
                let mut call = call_of(call_id, &head, route, kind, body, now);
                call.bound = bound;
                (Some(kind), Some(Box::new(call)), None)
            }
            Target::Page => (None, None, Some(Box::new(self.page_of(id, &head)))),
        };
        let continues = head.expects_continue && !end;
        if let Some(call) = self.session.inbox(id) {
            call.purpose = Purpose::Plain { kind, head_only };
            call.assembler = Assembler::Plain(BytesMut::new());
            (call.waiting, call.page) = (waiting, page);
        }
        if end {
            return self.on_plain_end(id);
        }
        if continues {
            self.session.block(id, false, |encoder, out| {
                encoder.field(b":status", b"100", out);
            });
        }
    }

    /// Answers a request that leads nowhere, once its body has come.
    fn refuse_plainly(&mut self, id: u32, response: Response, head_only: bool, end: bool) {
        let Some(call) = self.session.inbox(id).filter(|_| !end) else {
            return self.answer_plainly(id, response, head_only);
        };
        call.purpose = Purpose::Plain {
            kind: None,
            head_only,
        };
        call.assembler = Assembler::Plain(BytesMut::new());
        call.refusal = Some(Box::new(response));
    }

    fn plain_head(&mut self, end: bool) -> Head {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let head = &mut self.head;
        let mut headers = std::mem::take(&mut head.https_own);
        for (name, value) in head.metadata.iter() {
            headers.append_bytes(name, value.clone());
        }
        if !head.content_type.is_empty() {
            headers.append("content-type", text(&head.content_type));
        }
        if let Some(log_id) = head.log_id {
            headers.append("log-id", log_id.to_string());
        }
        if let Some(request_id) = head.request_id.take() {
            headers.append("x-request-id", request_id);
        }
        // That a body has no length is nothing special here: its end is in its frames.
        let length = if end {
            Length::Exact(0)
        } else {
            Length::Chunked
        };
        let (method, target) = (text(&head.method), text(&head.path));
        Head::of_http2(method, &target, headers, length)
    }

    fn page_of(&self, id: u32, head: &Head) -> PageRequest {
        PageRequest {
            id: CallId::new(id.into(), 0),
            method: head.method.clone(),
            path: head.path.clone(),
            query: head.query.clone(),
            headers: head.headers.clone(),
            body: Bytes::new(),
            arrived: self.session.now(),
        }
    }

    /// A request's body is whole.
    pub(super) fn on_plain_end(&mut self, id: u32) {
        let Some(call) = self.session.inbox(id) else {
            return;
        };
        if let Some(response) = call.refusal.take() {
            let head_only = is_head(call.purpose);
            return self.answer_plainly(id, *response, head_only);
        }
        let body = call.assembler.take_plain();
        let (waiting, page) = (call.waiting.take(), call.page.take());
        let held = std::mem::take(&mut call.held);
        self.held -= held;
        let event = match (waiting, page) {
            (Some(mut call), _) => {
                call.body.data = body;
                ServerEvent::Call(*call)
            }
            (None, Some(mut page)) => {
                page.body = body;
                ServerEvent::Page(*page)
            }
            (None, None) => return,
        };
        if self.in_flight >= self.config.limits.max_in_flight {
            let text = "too many calls are under way on this connection";
            let response = http1::of_status(&Status::resource_exhausted(text));
            return self.answer_plainly(id, response, false);
        }
        self.give(id, event);
    }

    /// A request's body is above the limit.
    pub(super) fn refuse_plain_body(&mut self, id: u32) {
        if self
            .session
            .inbox(id)
            .is_some_and(|call| call.refusal.is_some())
        {
            return self.on_plain_end(id);
        }
        let max = self.config.limits.max_body;
        let text = format!("the request's body is above the limit of {max} bytes");
        self.answer_plainly(id, of_http(413, &text, None), false);
    }

    pub(super) fn answer_plain(&mut self, id: u32, kind: Option<Kind>, reply: Reply<'_>) {
        let call = self.session.inbox(id);
        let head_only = call.is_some_and(|call| is_head(call.purpose));
        self.answer_plainly(id, response_of(kind, reply), head_only);
    }

    /// Sends a response and ends the stream.
    pub(super) fn answer_plainly(&mut self, id: u32, mut response: Response, head_only: bool) {
        let call = self.session.inbox(id).map(std::mem::take);
        let call = call.unwrap_or_default();
        self.held -= call.held;
        let body = if head_only {
            Bytes::new()
        } else {
            response.body.clone()
        };
        self.put_plain_head(id, &mut response, call.grant, body.is_empty());
        if !body.is_empty() {
            self.session.data(id, &[], Body::Bytes(body), true);
        }
    }
}

impl GrpcServer {
    fn put_plain_head(
        &mut self,
        id: u32,
        response: &mut Response,
        grant: Option<Box<Grant>>,
        end: bool,
    ) {
        if let Some(grant) = grant {
            grant.write(response);
        }
        let status = response.status.to_string();
        self.session.block(id, end, |encoder, out| {
            encoder.field(b":status", status.as_bytes(), out);
            for (name, value) in response.headers() {
                encoder.field(&name.to_ascii_lowercase(), value, out);
            }
        });
    }

    /// Begins an answer in lines of JSON.
    pub(super) fn begin_plain_stream(&mut self, id: u32, metadata: &MetadataMap) {
        let Some(call) = self.session.inbox(id) else {
            return;
        };
        call.begun = true;
        let grant = call.grant.take();
        self.put_plain_head(id, &mut http1::of_stream(metadata), grant, false);
    }

    /// Sends a line; true if there is room for another.
    pub(super) fn put_line(&mut self, id: u32, line: Body<'_>) -> bool {
        let line = http1::bytes_of(line);
        let whole = [&line[..], b"\n"].concat();
        self.session.data(id, &[], Body::Bytes(whole.into()), false)
    }

    /// Ends an answer in lines of JSON. One that failed says so in a line, and its stream is broken off, so
    /// that nobody takes what came for the whole.
    pub(super) fn end_plain_stream(
        &mut self,
        id: u32,
        result: Result<(), &Status>,
        trailers: &MetadataMap,
    ) {
        let Some(call) = self.session.inbox(id) else {
            return;
        };
        let head_only = is_head(call.purpose);
        self.held -= call.held;
        *call = Call::default();
        match result {
            Err(status) => {
                if !head_only {
                    self.put_line(id, Body::Bytes(http1::error_line(status)));
                }
                self.session.break_later(id, ErrorCode::INTERNAL_ERROR);
            }
            Ok(()) if trailers.is_empty() => self.session.end(id),
            Ok(()) => {
                let trailers = trailers.clone();
                let write = move |encoder: &mut Encoder, out: &mut Vec<u8>| {
                    put_metadata(&trailers, encoder, out);
                };
                self.session.end_later(id, Box::new(write));
            }
        }
    }
}

fn is_head(purpose: Purpose) -> bool {
    matches!(
        purpose,
        Purpose::Plain {
            head_only: true,
            ..
        }
    )
}
