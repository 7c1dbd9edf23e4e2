//! What passes: that the user writes, that somebody uses the terminal, who is there.
//!
//! Knows:       the link that is up.
//! Does not know: keys, the store: none of this is part of either. The history is told that something passed.
//!
//! Everything here is asked once, on the link that is up: what is lost is said again by whatever comes next, an
//! AUTH, a heartbeat, a further keystroke.

use std::sync::Arc;

use prost::Message;

use super::client::{Inner, Terminal};
use super::error::TerminalError;
use super::link::Link;
use crate::history::Event as Told;
use crate::proto::terminal as pb;
use crate::task::spawn;

impl Terminal {
    /// Somebody begins or ceases to use the terminal: only while nobody does, heartbeats become rarer than every
    /// 210 s, as far as the network allows, and signs wait. Contacts see it.
    pub fn set_active(&self, active: bool) {
        self.inner.rhythm.set_active(active);
        let link = self.inner.shared().link.clone();
        if let Some(link) = link {
            self.inner.tell_active(link);
        }
    }

    /// Tells a contact that the user writes to them just now. Asked once, on the link that is up.
    ///
    /// # Errors
    /// A refusal, or the trouble with the link.
    pub fn typing(&self, peer: u64) -> Result<(), TerminalError> {
        let request = pb::TypingRequest { peer };
        self.inner
            .pass::<pb::TypingReply>(pb::Command::Typing, &request)
            .map(drop)
    }

    /// Which of these contacts are there; the observer is told of changes, of these instead of those before. Of
    /// who is no contact nothing is said. At most [`WATCHED_USERS`](crate::model::limits::WATCHED_USERS).
    ///
    /// # Errors
    /// A refusal, or the trouble with the link; they are then asked for again with the next link or heartbeat.
    pub fn watch(&self, user_ids: Vec<u64>) -> Result<Vec<pb::Presence>, TerminalError> {
        self.inner.shared().watched.clone_from(&user_ids);
        let request = pb::PresenceRequest { user_ids };
        let reply: pb::PresenceReply = self.inner.pass(pb::Command::Presence, &request)?;
        Ok(reply.presences)
    }
}

impl Inner {
    fn pass<Reply: Message + Default>(
        &self,
        command: pb::Command,
        request: &impl Message,
    ) -> Result<Reply, TerminalError> {
        let link = self.shared().link.clone();
        let link = link.ok_or_else(|| TerminalError::Lost("there is no link".to_owned()))?;
        let reply = link.request(command, request)?;
        self.tell(|| Told::Pass {
            command: command as u32,
        });
        Ok(reply)
    }

    /// Tells the other end whether somebody uses the terminal. The next AUTH says it too.
    pub(super) fn tell_active(self: &Arc<Self>, link: Arc<Link>) {
        let inner = Arc::clone(self);
        spawn("terminal-active", move || {
            let active = inner.rhythm.is_active();
            let request = pb::SetActiveRequest { active };
            let _ = link.request::<pb::SetActiveReply>(pb::Command::SetActive, &request);
        });
    }

    /// Asks for those who are watched, and tells the observer. What fails comes with the next heartbeat.
    pub(super) fn watch_again(self: &Arc<Self>) {
        let user_ids = self.shared().watched.clone();
        if user_ids.is_empty() {
            return;
        }
        let inner = Arc::clone(self);
        spawn("terminal-watch", move || {
            let request = pb::PresenceRequest { user_ids };
            let reply = inner.pass::<pb::PresenceReply>(pb::Command::Presence, &request);
            let presences = reply.map_or_else(|_| Vec::new(), |reply| reply.presences);
            let signs: Vec<pb::Sign> = presences
                .into_iter()
                .map(|presence| pb::Sign {
                    from: presence.user_id,
                    what: Some(pb::sign::What::Here(presence.here)),
                })
                .collect();
            inner.observer.signs(&signs);
        });
    }
}
