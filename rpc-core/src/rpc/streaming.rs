//! Streams of messages as handlers and callers see them.
//!
//! Knows: messages, their order, what precedes and follows them.
//! Does not know: connections, frames, who waits how; floor 5 does, behind `Pull` and `Duplex`.
//!
//! Invariants
//! - S-1  A stream that failed or ended gives nothing more.
//!
//! Read first: [`Streaming`].

#![forbid(unsafe_code)]

use std::fmt;

use bytes::Bytes;
use prost::Message;

use super::compression::Compression;
use super::message::Request;
use super::metadata::MetadataMap;
use super::status::Status;
use super::status_map::ERESPONSE;

/// Where the messages of a stream come from. Dropping it gives the rest up.
pub(in crate::rpc) trait Pull: Send + Sync {
    /// Waits for the next message, checked and decompressed; `None` after the last one.
    fn next(&mut self) -> Option<Result<Bytes, Status>>;

    /// Waits for what precedes the messages.
    fn metadata(&mut self) -> Result<&MetadataMap, Status>;

    /// What follows the messages; `None` until the last one was given.
    fn trailers(&self) -> Option<&MetadataMap>;

    /// How the message given last was compressed.
    fn compression(&self) -> Compression {
        Compression::None
    }
}

/// Both directions of a stream of bytes.
pub(in crate::rpc) trait Duplex: Pull {
    /// The stream is wanted: the peer will be told so with the answer of its call.
    fn accept(&mut self);

    /// Waits for room, then sends a message.
    fn send(&mut self, message: Bytes) -> Result<(), Status>;

    /// Another end that sends; closing is for the last one.
    fn sender(&self) -> Box<dyn SendBytes>;
}

/// The sending direction of a stream of bytes alone.
pub(in crate::rpc) trait SendBytes: Send {
    /// Waits for room, then sends a message.
    fn send(&self, message: Bytes) -> Result<(), Status>;
}

/// A stream of messages that arrive one by one: requests at a handler, answers at a caller.
///
/// An iterator whose `next` waits, on a coroutine or an OS thread, within the call's deadline. `None` means
/// that the peer has ended its stream; after an error there is nothing more. Dropping it early gives the
/// rest up: at a caller that cancels the call.
///
/// ```
/// use rpc_core::{Status, Streaming};
///
/// fn sum(numbers: Streaming<i64>) -> Result<i64, Status> {
///     let mut sum = 0;
///     for number in numbers {
///         sum += number?;
///     }
///     Ok(sum)
/// }
/// # assert_eq!(sum(Streaming::of([1, 2, 3])).ok(), Some(6));
/// ```
pub struct Streaming<T> {
    source: Source<T>,
    /// S-1.
    ended: bool,
}

enum Source<T> {
    /// Messages of a call.
    Call {
        pull: Box<dyn Pull>,
        decode: fn(Bytes) -> Result<T, Status>,
    },
    /// Messages of this process.
    Own(Box<dyn Iterator<Item = Result<T, Status>> + Send>),
}

static NO_METADATA: MetadataMap = MetadataMap::new();

impl<T> Streaming<T> {
    /// A stream of messages at hand: for tests of handlers, and for mocks of clients.
    pub fn of(messages: impl IntoIterator<Item = T, IntoIter: Send + 'static>) -> Self
    where
        T: 'static,
    {
        Self::of_results(messages.into_iter().map(Ok))
    }

    /// As [`Streaming::of`], where the last one may be a failure.
    pub fn of_results(
        results: impl IntoIterator<Item = Result<T, Status>, IntoIter: Send + 'static>,
    ) -> Self {
        Self {
            source: Source::Own(Box::new(results.into_iter())),
            ended: false,
        }
    }

    /// The messages of a call; `decode` reads one.
    pub(in crate::rpc) fn of_call(
        pull: Box<dyn Pull>,
        decode: fn(Bytes) -> Result<T, Status>,
    ) -> Self {
        Self {
            source: Source::Call { pull, decode },
            ended: false,
        }
    }

    /// Waits for the next message; `None` after the last one.
    ///
    /// # Errors
    /// The peer's failure, or why it could not be waited for.
    pub fn message(&mut self) -> Result<Option<T>, Status> {
        self.next().transpose()
    }

    /// Waits for the metadata that precedes the messages. At a handler it is the request's, and this is
    /// empty.
    ///
    /// # Errors
    /// The call failed before its stream began.
    pub fn metadata(&mut self) -> Result<&MetadataMap, Status> {
        match &mut self.source {
            Source::Call { pull, .. } => pull.metadata(),
            Source::Own(_) => Ok(&NO_METADATA),
        }
    }

    /// The metadata that followed the messages; `None` before the stream has ended well.
    pub fn trailers(&self) -> Option<&MetadataMap> {
        match &self.source {
            Source::Call { pull, .. } => pull.trailers(),
            Source::Own(_) => self.ended.then_some(&NO_METADATA),
        }
    }
}

impl<T> Streaming<T> {
    /// How the message given last was compressed on the wire.
    pub fn compression(&self) -> Compression {
        match &self.source {
            Source::Call { pull, .. } => pull.compression(),
            Source::Own(_) => Compression::None,
        }
    }
}

impl<T> Iterator for Streaming<T> {
    type Item = Result<T, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = match &mut self.source {
            Source::Call { pull, decode } => pull.next().map(|message| message.and_then(*decode)),
            Source::Own(messages) => messages.next(),
        };
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

impl<T> std::iter::FusedIterator for Streaming<T> {}

impl<T> fmt::Debug for Streaming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streaming")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// Reads one message of a stream.
pub(in crate::rpc) fn decode<T: Message + Default>(bytes: Bytes) -> Result<T, Status> {
    T::decode(bytes).map_err(|error| {
        let name = std::any::type_name::<T>();
        Status::from_errno(ERESPONSE, format!("a message is no valid {name}: {error}"))
    })
}

/// brpc's stream: messages of bytes both ways beside a call, going on after the call was answered. Only
/// baidu_std connections have them.
///
/// Reading is the iterator; it ends when the peer closes the stream, which ends both directions. Dropping
/// it closes the stream, unless a [`ByteSender`] goes on sending.
pub struct ByteStream {
    both: Box<dyn Duplex>,
    ended: bool,
}

impl ByteStream {
    pub(in crate::rpc) fn new(both: Box<dyn Duplex>) -> Self {
        Self { both, ended: false }
    }

    /// Waits until the peer takes more (at most 2 MiB may be under way), then sends a message.
    ///
    /// # Errors
    /// The stream is closed, its connection is lost, or the deadline of the running scope passed.
    pub fn send(&mut self, message: impl Into<Bytes>) -> Result<(), Status> {
        self.both.send(message.into())
    }

    /// Another end that sends, for another coroutine than the one that reads.
    pub fn sender(&self) -> ByteSender {
        ByteSender(self.both.sender())
    }
}

impl Iterator for ByteStream {
    type Item = Result<Bytes, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.both.next();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteStream")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// The sending direction of a [`ByteStream`].
pub struct ByteSender(Box<dyn SendBytes>);

impl ByteSender {
    /// As [`ByteStream::send`].
    ///
    /// # Errors
    /// As [`ByteStream::send`].
    pub fn send(&self, message: impl Into<Bytes>) -> Result<(), Status> {
        self.0.send(message.into())
    }
}

impl fmt::Debug for ByteSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteSender").finish_non_exhaustive()
    }
}

/// A stream that a caller holds out to a handler; taken or dropped.
pub(in crate::rpc) struct Offer(pub Box<dyn Duplex>);

impl Offer {
    /// Takes the stream.
    pub fn take(mut self) -> ByteStream {
        self.0.accept();
        ByteStream::new(self.0)
    }
}

/// What a call accepts whose requests are a stream: anything that can be iterated over, or a [`Request`]
/// around it that carries metadata.
pub trait IntoStreamingRequest {
    /// One request message.
    type Message;
    /// The requests.
    type Messages: Iterator<Item = Self::Message>;

    /// The request to send.
    fn into_streaming_request(self) -> Request<Self::Messages>;
}

impl<I: IntoIterator> IntoStreamingRequest for I {
    type Message = I::Item;
    type Messages = I::IntoIter;

    fn into_streaming_request(self) -> Request<I::IntoIter> {
        Request::new(self.into_iter())
    }
}

impl<I: IntoIterator> IntoStreamingRequest for Request<I> {
    type Message = I::Item;
    type Messages = I::IntoIter;

    fn into_streaming_request(self) -> Request<I::IntoIter> {
        self.map(IntoIterator::into_iter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_there_is_nothing_more() {
        let results = [Ok(1), Err(Status::aborted("no")), Ok(2)];
        let mut stream = Streaming::of_results(results);
        assert_eq!(stream.message().unwrap(), Some(1));
        assert_eq!(stream.message().unwrap_err().message(), "no");
        assert!(stream.next().is_none() && stream.message().unwrap().is_none());
    }

    #[test]
    fn requests_are_whatever_can_be_iterated_over() {
        fn sum(requests: impl IntoStreamingRequest<Message = i32>) -> (i32, usize) {
            let request = requests.into_streaming_request();
            let fields = request.metadata().len();
            (request.into_inner().sum(), fields)
        }
        assert_eq!(sum([1, 2]), (3, 0));
        let mut request = Request::new(vec![3, 4]);
        request.metadata_mut().insert("k", "v");
        assert_eq!(sum(request), (7, 1));
    }
}
