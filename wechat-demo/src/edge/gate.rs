//! Whose a token is: logic says.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rpc_core::Status;

use crate::coordinator::names;
use crate::proto::logic::{AuthenticateRequest, LogicClient};

/// Time for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Letters of a token at most: twice what logic gives.
const TOKEN_LETTERS: usize = 128;

/// Tells the user that a token speaks for.
pub(super) trait Gate: Send + Sync + 'static {
    /// The user's id.
    ///
    /// # Errors
    /// It speaks for nobody, or nobody can be asked.
    fn user(&self, token: Vec<u8>) -> Result<u64, Status>;
}

/// Logic processes, all alike.
pub(super) struct RemoteGate(LogicClient);

impl RemoteGate {
    /// Begins to connect; nobody need be there yet.
    pub(super) fn new(addresses: &[String]) -> anyhow::Result<Self> {
        let channel = names::channel("--logic", addresses, ANSWER)?;
        Ok(Self(LogicClient::new(channel)))
    }
}

impl Gate for RemoteGate {
    fn user(&self, token: Vec<u8>) -> Result<u64, Status> {
        let request = AuthenticateRequest {
            token: token.into(),
        };
        Ok(self.0.authenticate(request)?.user_id)
    }
}

/// The token in an `Authorization` header.
pub(super) fn token(header: Option<&str>) -> Result<Vec<u8>, Status> {
    let text = header.and_then(|text| text.trim().strip_prefix("Bearer "));
    let letters = text.map(str::trim).filter(|it| it.len() <= TOKEN_LETTERS);
    letters
        .and_then(|letters| URL_SAFE_NO_PAD.decode(letters).ok())
        .ok_or_else(|| {
            Status::unauthenticated(
                "send the device's token: `Authorization: Bearer TOKEN`, in base64url without padding",
            )
        })
}
