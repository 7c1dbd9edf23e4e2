//! From a command to its reply.

use super::backend::{Answer, Refusal};
use crate::proto::terminal as pb;

/// The command a number stands for.
///
/// # Errors
/// [`Refusal::unknown`] for what a terminal cannot ask for.
pub(super) fn parse(cmd: u32) -> Result<pb::Command, Refusal> {
    let command = i32::try_from(cmd)
        .ok()
        .and_then(|cmd| pb::Command::try_from(cmd).ok());
    match command {
        None
        | Some(
            pb::Command::Unspecified
            | pb::Command::Noop
            | pb::Command::SignalKeep
            | pb::Command::PushNotify
            | pb::Command::PushEphemeral,
        ) => Err(Refusal::unknown(cmd)),
        Some(command) => Ok(command),
    }
}

/// The reply to a command.
pub(super) fn reply(result: Result<Answer, Refusal>) -> pb::Reply {
    match result {
        Ok(answer) => pb::Reply {
            code: 0,
            error: String::new(),
            body: answer.body,
        },
        Err(refusal) => pb::Reply {
            code: refusal.code,
            error: refusal.text,
            body: bytes::Bytes::new(),
        },
    }
}
