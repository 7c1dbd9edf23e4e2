//! What a handler receives and returns: a message and what travels beside it.
//!
//! Knows: messages, metadata, attachments, deadlines as data.
//! Does not know: encodings, connections, the clock.

#![forbid(unsafe_code)]

use core::fmt;
use core::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::compression::{Compression, CompressionSwitch};
use super::metadata::MetadataMap;
use super::streaming::{ByteStream, Offer};
use super::tls::Peer;
use crate::base::time::Instant;

/// A message on its way to a service, and what travels beside it.
#[derive(Clone, Debug)]
pub struct Request<T> {
    message: T,
    metadata: MetadataMap,
    /// Raw bytes after the message, never compressed; empty = none.
    attachment: Bytes,
    /// The caller's number for its logs; brpc's `log_id`.
    log_id: Option<i64>,
    /// Where the call came from; `None` on the calling side and in-process.
    peer: Option<SocketAddr>,
    /// What the peer's protocol told of it.
    told: Option<Arc<Peer>>,
    /// When the call's time is over; `NEVER` = no limit.
    deadline: Instant,
    offer: Held,
    /// How it arrived; `None` on the calling side.
    compression: Compression,
    switch: Option<CompressionSwitch>,
}

/// A stream that the caller holds out; a clone of the request does not have it.
#[derive(Default)]
struct Held(Option<Box<Offer>>);

impl Clone for Held {
    fn clone(&self) -> Self {
        Self(None)
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "held out" } else { "none" })
    }
}

impl<T> Request<T> {
    /// A request with nothing beside the message.
    pub const fn new(message: T) -> Self {
        Self {
            message,
            metadata: MetadataMap::new(),
            attachment: Bytes::new(),
            log_id: None,
            peer: None,
            told: None,
            deadline: Instant::NEVER,
            offer: Held(None),
            compression: Compression::None,
            switch: None,
        }
    }

    /// The message alone.
    pub fn into_inner(self) -> T {
        self.message
    }

    /// The message.
    pub const fn get_ref(&self) -> &T {
        &self.message
    }

    /// The message, to change.
    pub const fn get_mut(&mut self) -> &mut T {
        &mut self.message
    }

    /// The same request around another message.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Request<U> {
        Request {
            message: change(self.message),
            metadata: self.metadata,
            attachment: self.attachment,
            log_id: self.log_id,
            peer: self.peer,
            told: self.told,
            deadline: self.deadline,
            offer: self.offer,
            compression: self.compression,
            switch: self.switch,
        }
    }

    /// Key-value pairs beside the message.
    pub const fn metadata(&self) -> &MetadataMap {
        &self.metadata
    }

    /// Key-value pairs beside the message, to change.
    pub const fn metadata_mut(&mut self) -> &mut MetadataMap {
        &mut self.metadata
    }

    /// Raw bytes beside the message; empty if there are none. Only PRPC carries them.
    pub const fn attachment(&self) -> &Bytes {
        &self.attachment
    }

    /// Sends these raw bytes after the message, without copying them.
    pub fn set_attachment(&mut self, attachment: impl Into<Bytes>) {
        self.attachment = attachment.into();
    }

    /// The caller's number for its logs (brpc `log_id`, HTTP `log-id`).
    pub const fn log_id(&self) -> Option<i64> {
        self.log_id
    }

    /// Sets the number under which both ends log this call.
    pub const fn set_log_id(&mut self, log_id: i64) {
        self.log_id = Some(log_id);
    }

    /// The address the call came from; `None` on the calling side and for calls inside a process.
    pub const fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The certificates that the caller showed over TLS and that were verified, in DER, its own first;
    /// empty = none.
    pub fn peer_certificates(&self) -> &[Vec<u8>] {
        self.told.as_ref().map_or(&[], |told| &told.certificates)
    }

    /// The name that the caller asked the server for over TLS (SNI).
    pub fn server_name(&self) -> Option<&str> {
        self.told.as_ref()?.server_name.as_deref()
    }

    /// Time left at `now`; `None` if the call has no deadline, zero if it has passed.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        (!self.deadline.is_never()).then(|| self.deadline.saturating_since(now))
    }

    /// When the call's time is over; [`Instant::NEVER`] without a deadline.
    pub const fn deadline_at(&self) -> Instant {
        self.deadline
    }

    /// Tells the request where it came from and when its time is over; the server does.
    pub fn set_origin(
        &mut self,
        peer: Option<SocketAddr>,
        told: Option<Arc<Peer>>,
        deadline: Instant,
    ) {
        self.peer = peer;
        self.told = told;
        self.deadline = deadline;
    }

    /// How the message was compressed on the wire, at a handler. A caller says it with
    /// [`CallOptions::compression`](crate::CallOptions::compression); of streamed requests see
    /// [`Streaming::compression`](super::streaming::Streaming::compression).
    pub const fn compression(&self) -> Compression {
        self.compression
    }

    /// Tells the request how it arrived; the server does.
    pub(in crate::rpc) const fn set_compression(&mut self, compression: Compression) {
        self.compression = compression;
    }

    /// A handle for what yields the requests of a stream: single ones can be sent without the compression
    /// of the call.
    pub fn compression_switch(&mut self) -> CompressionSwitch {
        self.switch
            .get_or_insert_with(CompressionSwitch::new)
            .clone()
    }

    pub(in crate::rpc) const fn take_switch(&mut self) -> Option<CompressionSwitch> {
        self.switch.take()
    }

    /// Takes the stream that a brpc client opens with the call (its `StreamCreate`), if it does. The answer
    /// then tells it that the stream is accepted, and only then do reading and sending begin: do both on another
    /// coroutine. Without this call the stream is declined.
    pub fn take_stream(&mut self) -> Option<ByteStream> {
        self.offer.0.take().map(|offer| offer.take())
    }

    /// Holds a stream out to the handler; the server does.
    pub(in crate::rpc) fn offer_stream(&mut self, offer: Offer) {
        self.offer = Held(Some(Box::new(offer)));
    }

    /// The message and what travels beside it.
    pub fn into_parts(self) -> (T, MetadataMap, Bytes, Option<i64>) {
        (self.message, self.metadata, self.attachment, self.log_id)
    }

    /// A request from a message and what travels beside it.
    pub const fn from_parts(
        message: T,
        metadata: MetadataMap,
        attachment: Bytes,
        log_id: Option<i64>,
    ) -> Self {
        Self {
            message,
            metadata,
            attachment,
            log_id,
            peer: None,
            told: None,
            deadline: Instant::NEVER,
            offer: Held(None),
            compression: Compression::None,
            switch: None,
        }
    }
}

impl<T> Deref for Request<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.message
    }
}

impl<T> DerefMut for Request<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.message
    }
}

/// A service's answer, and what travels beside it.
#[derive(Clone, Debug)]
pub struct Response<T> {
    message: T,
    metadata: MetadataMap,
    /// What follows the message.
    trailers: MetadataMap,
    /// Raw bytes after the message, never compressed; empty = none.
    attachment: Bytes,
    /// How it is to be sent, or arrived.
    compression: Compression,
    switch: Option<CompressionSwitch>,
}

impl<T> Response<T> {
    /// An answer with nothing beside the message.
    pub const fn new(message: T) -> Self {
        Self {
            message,
            metadata: MetadataMap::new(),
            trailers: MetadataMap::new(),
            attachment: Bytes::new(),
            compression: Compression::None,
            switch: None,
        }
    }

    /// The message alone.
    pub fn into_inner(self) -> T {
        self.message
    }

    /// The message.
    pub const fn get_ref(&self) -> &T {
        &self.message
    }

    /// The message, to change.
    pub const fn get_mut(&mut self) -> &mut T {
        &mut self.message
    }

    /// The same answer around another message.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Response<U> {
        Response {
            message: change(self.message),
            metadata: self.metadata,
            trailers: self.trailers,
            attachment: self.attachment,
            compression: self.compression,
            switch: self.switch,
        }
    }

    /// Key-value pairs after the message; after the last one, where it is a stream that a handler gives (a
    /// caller's stream has them itself). Protocols that cannot tell them apart send them with
    /// [`metadata`](Self::metadata).
    pub const fn trailers(&self) -> &MetadataMap {
        &self.trailers
    }

    /// Key-value pairs after the message, to change.
    pub const fn trailers_mut(&mut self) -> &mut MetadataMap {
        &mut self.trailers
    }

    /// Key-value pairs beside the message.
    pub const fn metadata(&self) -> &MetadataMap {
        &self.metadata
    }

    /// Key-value pairs beside the message, to change.
    pub const fn metadata_mut(&mut self) -> &mut MetadataMap {
        &mut self.metadata
    }

    /// Raw bytes beside the message; empty if there are none. Only PRPC carries them.
    pub const fn attachment(&self) -> &Bytes {
        &self.attachment
    }

    /// Sends these raw bytes after the message, without copying them.
    pub fn set_attachment(&mut self, attachment: impl Into<Bytes>) {
        self.attachment = attachment.into();
    }

    /// How the message is to be compressed, at a handler; how it was on the wire, at a caller. Of streamed
    /// answers a caller sees it with [`Streaming::compression`](super::streaming::Streaming::compression).
    pub const fn compression(&self) -> Compression {
        self.compression
    }

    /// Sends the message compressed, or each message of a stream; to a caller that does not take it so, and
    /// as JSON, it is sent plain. Attachments never are compressed.
    pub const fn set_compression(&mut self, compression: Compression) {
        self.compression = compression;
    }

    /// A handle for what yields the answers of a stream: single ones can be sent without the compression of
    /// the call.
    pub fn compression_switch(&mut self) -> CompressionSwitch {
        self.switch
            .get_or_insert_with(CompressionSwitch::new)
            .clone()
    }

    pub(in crate::rpc) const fn take_switch(&mut self) -> Option<CompressionSwitch> {
        self.switch.take()
    }

    /// The message and what travels beside it.
    pub fn into_parts(self) -> (T, MetadataMap, Bytes) {
        (self.message, self.metadata, self.attachment)
    }

    /// An answer from a message and what travels beside it.
    pub const fn from_parts(message: T, metadata: MetadataMap, attachment: Bytes) -> Self {
        Self {
            message,
            metadata,
            trailers: MetadataMap::new(),
            attachment,
            compression: Compression::None,
            switch: None,
        }
    }
}

impl<T> Deref for Response<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.message
    }
}

impl<T> DerefMut for Response<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.message
    }
}

impl<T> From<T> for Response<T> {
    fn from(message: T) -> Self {
        Self::new(message)
    }
}

/// What a call accepts: a bare message, or a [`Request`] that carries more.
pub trait IntoRequest<T> {
    /// The request to send.
    fn into_request(self) -> Request<T>;
}

impl<T> IntoRequest<T> for T {
    fn into_request(self) -> Request<T> {
        Request::new(self)
    }
}

impl<T> IntoRequest<T> for Request<T> {
    fn into_request(self) -> Self {
        self
    }
}
