//! What is to be sent, per conversation, in the order in which it was said.
//!
//! Knows:       queues of messages with their client ids, which conversation has a request in flight.
//! Does not know: links, retries, time.
//!
//! Invariants
//! - O-1  A conversation has one request in flight at most, so its messages reach the server in order.
//! - O-2  A message keeps its client id until the server answered for it, whatever happens to links.
//! - O-3  At most [`MAX_WAITING`] messages wait in all; more are refused, not dropped.

use std::collections::{HashMap, VecDeque};

use prost::Message;

use crate::proto::terminal as pb;

/// Messages that may wait, over all conversations of a terminal.
pub const MAX_WAITING: usize = 4_096;
/// Messages in one request, as the contract says.
pub const MAX_BATCH: usize = 32;
/// Bytes of messages in one request, encoded; 32 of the largest are more than that, 32 usual ones never.
pub const MAX_BATCH_BYTES: usize = 256 << 10;

/// The messages of one terminal that the server has not answered for.
#[derive(Debug, Default)]
pub struct Outbox {
    conversations: HashMap<u64, Conversation>,
    /// Messages over all conversations.
    waiting: usize,
}

#[derive(Debug, Default)]
struct Conversation {
    queue: VecDeque<pb::Outgoing>,
    /// How many at the head of `queue` are in the request that is under way.
    in_flight: usize,
}

/// The outbox is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_WAITING} messages wait already; wait until some were sent")]
pub struct Full;

impl Outbox {
    /// Queues a message. `true`: nobody is sending for this conversation, so the caller must see to
    /// it that somebody does ([`Outbox::batch`] until it is `None`).
    ///
    /// # Errors
    /// [`Full`] at the bound.
    pub fn push(&mut self, receiver: u64, message: pb::Outgoing) -> Result<bool, Full> {
        if self.waiting >= MAX_WAITING {
            return Err(Full);
        }
        self.waiting += 1;
        let conversation = self.conversations.entry(receiver).or_default();
        conversation.queue.push_back(message);
        Ok(conversation.queue.len() == 1)
    }

    /// The next request of a conversation: the oldest messages, up to the bounds of a request. `None`
    /// when there is nothing to send; then the next [`Outbox::push`] says `true` again.
    ///
    /// # Panics
    /// When the conversation's last request was not yet [`Outbox::done`] (O-1).
    pub fn batch(&mut self, receiver: u64) -> Option<pb::SendRequest> {
        let conversation = self.conversations.get_mut(&receiver)?;
        assert_eq!(
            conversation.in_flight, 0,
            "one request in flight per conversation (O-1)"
        );
        let mut bytes = 0;
        let messages: Vec<_> = conversation
            .queue
            .iter()
            .take(MAX_BATCH)
            .take_while(|message| {
                let size = message.encoded_len();
                bytes += size;
                bytes <= MAX_BATCH_BYTES || bytes == size
            })
            .cloned()
            .collect();
        conversation.in_flight = messages.len();
        Some(pb::SendRequest {
            receiver,
            messages,
            key: 0,
            geo: false,
        })
    }

    /// The server answered for the request in flight, for better or worse. `false`: that was all, and
    /// the conversation's sender is dismissed.
    pub fn done(&mut self, receiver: u64) -> bool {
        let Some(conversation) = self.conversations.get_mut(&receiver) else {
            return false;
        };
        let answered = std::mem::take(&mut conversation.in_flight);
        conversation.queue.drain(..answered);
        self.waiting -= answered;
        let more = !conversation.queue.is_empty();
        if !more {
            self.conversations.remove(&receiver);
        }
        more
    }

    /// Messages that the server has not answered for.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(n: u8, text: &str) -> pb::Outgoing {
        pb::Outgoing {
            client_id: vec![n; 16].into(),
            text: text.to_owned(),
            extra: None,
            count: 0,
        }
    }

    fn ids(request: &pb::SendRequest) -> Vec<u8> {
        request.messages.iter().map(|m| m.client_id[0]).collect()
    }

    #[test]
    fn messages_said_while_one_is_in_flight_share_the_next_request_in_order() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(7, message(1, "a")), Ok(true));
        let first = outbox.batch(7).unwrap();
        assert_eq!(
            outbox.push(7, message(2, "b")),
            Ok(false),
            "somebody sends already"
        );
        assert_eq!(outbox.push(7, message(3, "c")), Ok(false));
        assert_eq!(ids(&first), [1]);
        assert!(outbox.done(7));
        assert_eq!(ids(&outbox.batch(7).unwrap()), [2, 3]);
        assert!(!outbox.done(7));
        assert_eq!((outbox.batch(7), outbox.waiting()), (None, 0));
        assert_eq!(
            outbox.push(7, message(4, "d")),
            Ok(true),
            "a new sender is called for"
        );
    }

    #[test]
    fn conversations_do_not_wait_for_each_other() {
        let mut outbox = Outbox::default();
        outbox.push(7, message(1, "a")).unwrap();
        outbox.push(8, message(2, "b")).unwrap();
        assert_eq!(ids(&outbox.batch(7).unwrap()), [1]);
        assert_eq!(ids(&outbox.batch(8).unwrap()), [2]);
    }

    #[test]
    fn a_request_stays_within_its_bounds() {
        let mut outbox = Outbox::default();
        for n in 0..100 {
            outbox.push(7, message(n, "x")).unwrap();
        }
        assert_eq!(outbox.batch(7).unwrap().messages.len(), MAX_BATCH);
        for n in 0..100 {
            outbox.push(8, message(n, &"x".repeat(100 << 10))).unwrap();
        }
        assert_eq!(outbox.batch(8).unwrap().messages.len(), 2);
        outbox
            .push(9, message(1, &"x".repeat(MAX_BATCH_BYTES + 1)))
            .unwrap();
        assert_eq!(
            outbox.batch(9).unwrap().messages.len(),
            1,
            "the server says what is too long"
        );
    }

    #[test]
    fn a_full_outbox_refuses_and_keeps_what_it_has() {
        let mut outbox = Outbox::default();
        for n in 0..MAX_WAITING {
            outbox.push(n as u64 % 5, message(0, "")).unwrap();
        }
        assert_eq!(outbox.push(1, message(1, "")), Err(Full));
        assert_eq!(outbox.waiting(), MAX_WAITING);
    }
}
