//! What the history is told of a terminal's requests and of its store.

use prost::Message;

use super::{Cursor, Inner, Link, Page, TerminalError, Told, pb};
use crate::history::{Recorder, Said, Seen, SentAs, cmid, hash_of};

impl Inner {
    pub(in crate::terminal) fn tell(&self, event: impl FnOnce() -> Told) {
        if let Some(history) = &self.config.history {
            history.tell(event());
        }
    }

    /// Tells that the store is about to begin a full sync, if this is its first page.
    pub(super) fn tell_full(&self, before: u64, page: Page, after: Cursor) {
        if page == Page::FullBegins {
            let to = after.key.max(after.full_to);
            self.tell(|| Told::Full { before, to });
        }
    }

    /// Tells what the store holds now.
    pub(super) fn tell_applied(&self, before: u64, page: Page, items: &[pb::Item], after: Cursor) {
        self.tell(|| Told::Apply {
            before: if page == Page::FullBegins { 0 } else { before },
            after: after.key,
            items: items.iter().map(Seen::of).collect(),
        });
    }

    /// Tells that a request to send is about to leave; the name of the attempt, 0 without a history.
    pub(super) fn invoke(&self, request: &pb::SendRequest) -> u64 {
        let Some(history) = &self.config.history else {
            return 0;
        };
        let op = history.op();
        let said = request.messages.iter().map(|message| Said {
            c: cmid(&message.client_id),
            h: hash_of(message.text.as_bytes()),
        });
        history.tell(Told::Invoke {
            op,
            to: request.receiver,
            said: said.collect(),
        });
        op
    }

    /// Tells what came of an attempt. Without an answer it may have been done.
    pub(super) fn answered<T>(
        &self,
        op: u64,
        result: &Result<T, TerminalError>,
        done: impl FnOnce(&T) -> (Vec<SentAs>, u64),
    ) {
        self.tell(|| match result {
            Ok(reply) => {
                let (sent, n) = done(reply);
                Told::Ok { op, sent, n }
            }
            Err(error @ TerminalError::Refused { code, .. }) if !error.is_transient() => {
                Told::Fail { op, code: *code }
            }
            Err(_) => Told::Info { op },
        });
    }

    /// One attempt at a change that is no message.
    pub(super) fn mutate<Reply: Message + Default>(
        &self,
        link: &Link,
        command: pb::Command,
        request: &impl Message,
    ) -> Result<Reply, TerminalError> {
        let op = self.config.history.as_ref().map_or(0, Recorder::op);
        self.tell(|| Told::Mutate {
            op,
            command: command as u32,
            request: cmid(&request.encode_to_vec()),
        });
        let result = link.request(command, request);
        self.answered(op, &result, |reply| (Vec::new(), shown_as(command, reply)));
        result
    }
}

/// Number of the item that shows a change; 0 = none does.
fn shown_as(command: pb::Command, reply: &impl Message) -> u64 {
    use pb::Command::{AcceptContact, AddContact, Change};
    // The three replies have it in the same field.
    let reply = matches!(command, AcceptContact | AddContact | Change)
        .then(|| pb::ChangeReply::decode(&*reply.encode_to_vec()).ok());
    reply.flatten().map_or(0, |reply| reply.number)
}

pub(super) fn sent_as(sent: &pb::Sent) -> SentAs {
    let pos = sent.pos.unwrap_or_default();
    SentAs {
        c: cmid(&sent.client_id),
        i: sent.message_id,
        n: sent.number,
        p: (pos.count, pos.sender),
    }
}
