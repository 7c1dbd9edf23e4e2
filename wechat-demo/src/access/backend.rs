//! What access asks of the logic layer, as a trait: served over RPC in a cluster, by a fake in tests.

use bytes::Bytes;

use crate::proto::logic::{Caller, Link, NewestKey};
use crate::proto::terminal as pb;

/// The logic layer as access sees it. Calls block the coroutine they are made from.
pub trait Backend: Send + Sync + 'static {
    /// Whom a token speaks for.
    ///
    /// # Errors
    /// UNAUTHENTICATED when it is unknown, expired or revoked.
    fn authenticate(&self, token: Bytes) -> Result<Caller, Refusal>;

    /// A command that needs no AUTH: REGISTER or LOGIN.
    ///
    /// # Errors
    /// Logic's refusal, or INVALID_ARGUMENT for a body that does not decode.
    fn open_command(&self, command: pb::Command, body: Bytes) -> Result<Answer, Refusal>;

    /// A command on behalf of an authenticated caller.
    ///
    /// # Errors
    /// As for [`Backend::open_command`]; UNIMPLEMENTED for what is no such command.
    fn command(&self, caller: Caller, command: pb::Command, body: Bytes)
    -> Result<Answer, Refusal>;

    /// Tells the users' primaries where their links are; their newest keys, in the same order.
    ///
    /// # Errors
    /// When logic cannot be reached; a primary that cannot is `reached = false` in its entry.
    fn register_links(&self, links: Vec<Link>) -> Result<Vec<NewestKey>, Refusal>;

    /// Tells the users' primaries that links are gone.
    ///
    /// # Errors
    /// When logic cannot be reached; the registrations then expire.
    fn drop_links(&self, links: Vec<Link>) -> Result<(), Refusal>;
}

/// A command's answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The encoded reply message.
    pub body: Bytes,
    /// The key up to which the terminal knows its timeline once it has this answer; 0 = it says nothing
    /// about that.
    pub told: u64,
}

/// A call that was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text} (code {code})")]
pub struct Refusal {
    /// gRPC's status code, never 0.
    pub code: u32,
    /// Says what to do, for people.
    pub text: String,
}

impl Refusal {
    /// INVALID_ARGUMENT: a body that does not decode.
    #[must_use]
    pub fn undecodable(command: pb::Command, error: &prost::DecodeError) -> Self {
        Self {
            code: 3,
            text: format!(
                "the body of {} does not decode: {error}",
                command.as_str_name()
            ),
        }
    }

    /// UNIMPLEMENTED: a command that is not one, or of a later version.
    #[must_use]
    pub fn unknown(cmd: u32) -> Self {
        Self {
            code: 12,
            text: format!("command {cmd} is not known here"),
        }
    }

    /// UNAUTHENTICATED: AUTH has to come first.
    #[must_use]
    pub fn not_authenticated(command: pb::Command) -> Self {
        Self {
            code: 16,
            text: format!("{} needs AUTH first", command.as_str_name()),
        }
    }

    /// FAILED_PRECONDITION: a link speaks for one user.
    #[must_use]
    pub fn already_authenticated() -> Self {
        Self {
            code: 9,
            text: "the link speaks for a user already; open another".to_owned(),
        }
    }

    /// UNAVAILABLE: the user's primary could not be asked.
    #[must_use]
    pub fn unreachable() -> Self {
        Self {
            code: 14,
            text: "the user's home cannot be reached; try again".to_owned(),
        }
    }
}
