//! What can go wrong between a terminal and the backend, sorted by what the terminal then does.

use std::time::Duration;

use super::store::StoreError;
use crate::longlink::{BadFrame, TooLarge};

/// gRPC's status codes, as far as a terminal acts on them.
pub mod code {
    /// The caller gave up.
    pub const CANCELLED: u32 = 1;
    /// The backend ran out of the time it was given.
    pub const DEADLINE_EXCEEDED: u32 = 4;
    /// Nobody has that name or id.
    pub const NOT_FOUND: u32 = 5;
    /// The name is taken, or a client id was used for another text.
    pub const ALREADY_EXISTS: u32 = 6;
    /// A limit was hit; less, or later.
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    /// Lost a race; again.
    pub const ABORTED: u32 = 10;
    /// Some part of the backend is down.
    pub const UNAVAILABLE: u32 = 14;
    /// The token is unknown, expired or revoked.
    pub const UNAUTHENTICATED: u32 = 16;
}

/// Why a terminal did not get what it asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TerminalError {
    /// No connection could be made.
    #[error("cannot reach {address}: {why}")]
    Unreachable {
        /// As given.
        address: String,
        /// The system's words.
        why: String,
    },
    /// The link ended while the answer was awaited: it is not known what the backend did.
    #[error("the link was lost: {0}")]
    Lost(String),
    /// No answer in time, or no link for so long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The backend said no.
    #[error("{text} (code {code})")]
    Refused {
        /// A status code, see [`code`].
        code: u32,
        /// The backend's words.
        text: String,
    },
    /// The backend speaks another language.
    #[error("the answer makes no sense: {0}")]
    Nonsense(String),
    /// What was to be sent does not fit a packet.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The local store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The terminal was stopped.
    #[error("the terminal was stopped")]
    Stopped,
}

impl TerminalError {
    /// Whether the same request, with the same client ids, may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost(_) | Self::Timeout(_) => true,
            Self::Refused { code, .. } => matches!(
                *code,
                code::CANCELLED
                    | code::DEADLINE_EXCEEDED
                    | code::RESOURCE_EXHAUSTED
                    | code::ABORTED
                    | code::UNAVAILABLE
            ),
            Self::Nonsense(_) | Self::TooLarge(_) | Self::Store(_) | Self::Stopped => false,
        }
    }

    /// Whether the backend refused with this code.
    #[must_use]
    pub fn is_refusal(&self, wanted: u32) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }
}

impl From<BadFrame> for TerminalError {
    fn from(bad: BadFrame) -> Self {
        Self::Lost(format!("the other end is not an access process: {bad}"))
    }
}
