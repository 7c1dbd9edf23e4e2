//! Apple's push service as a protocol: what a request looks like, what an answer means.
//!
//! Knows: fields, reasons, the provider's token.   Does not know: connections, the clock (it is told the time).
//!
//! After Apple's "Sending notification requests to APNs", "Handling notification responses from APNs" and
//! "Establishing a token-based connection to APNs".

use std::time::Duration;

use anyhow::anyhow;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use bytes::Bytes;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use rpc_core::rpc::protocol::requests::{PlainRequest, PlainResponse};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde::Deserialize;

use crate::proto::storage as pb;

/// A provider's token is good for an hour, and is not to be renewed more often than every 20 minutes.
const TOKEN_LIFE_S: u64 = 50 * 60;
/// The service keeps a push for a device that is away for so long.
const KEEP_S: u64 = 7 * 24 * 3600;

/// Signs in as a provider.
pub(super) struct Signer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
    team_id: String,
    /// `bearer …`, and when it was made, Unix time; empty = never.
    current: String,
    made_s: u64,
}

impl Signer {
    /// `key` is what Apple gives as `AuthKey_….p8`: PKCS#8 in PEM, a key of P-256.
    pub(super) fn new(key: &[u8], key_id: &str, team_id: &str) -> anyhow::Result<Self> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(key)
            .map_err(|error| anyhow!("expected PEM with BEGIN PRIVATE KEY ({error})"))?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            key.secret_pkcs8_der(),
            &random,
        )
        .map_err(|error| anyhow!("the key is not one of P-256 ({error})"))?;
        Ok(Self {
            pair,
            random,
            key_id: key_id.to_owned(),
            team_id: team_id.to_owned(),
            current: String::new(),
            made_s: 0,
        })
    }

    /// The `authorization` field.
    pub(super) fn bearer(&mut self, now_s: u64) -> anyhow::Result<&str> {
        if self.current.is_empty() || now_s.abs_diff(self.made_s) >= TOKEN_LIFE_S {
            let head = serde_json::json!({ "alg": "ES256", "kid": self.key_id }).to_string();
            let claims = serde_json::json!({ "iss": self.team_id, "iat": now_s }).to_string();
            let signed = format!("{}.{}", BASE64.encode(head), BASE64.encode(claims));
            let signature = self
                .pair
                .sign(&self.random, signed.as_bytes())
                .map_err(|error| anyhow!("cannot sign: {error}"))?;
            self.current = format!("bearer {signed}.{}", BASE64.encode(signature));
            self.made_s = now_s;
        }
        Ok(&self.current)
    }

    /// The service says that the present token is too old.
    pub(super) fn expire(&mut self) {
        self.current.clear();
    }
}

/// A push, ready to be sent.
pub(super) struct Form {
    path: String,
    id: String,
    collapse_id: String,
    body: Bytes,
}

impl Form {
    /// The wake-up says up to where there is something, and nothing of what that is: the app syncs.
    pub(super) fn of(push: &pb::Push) -> Self {
        let body = serde_json::json!({
            "aps": {
                "alert": { "loc-key": "NEW_MESSAGE" },
                "sound": "default",
                "mutable-content": 1,
            },
            "key": push.number,
        });
        Self {
            path: format!("/3/device/{}", push.token),
            id: id(push),
            collapse_id: format!("{:016x}", push.user_id),
            body: body.to_string().into(),
        }
    }

    /// Hands the request to `send`.
    pub(super) fn with<T>(
        &self,
        bearer: &str,
        topic: &str,
        now_s: u64,
        send: impl FnOnce(PlainRequest<'_>) -> T,
    ) -> T {
        let expiration = (now_s + KEEP_S).to_string();
        send(PlainRequest {
            method: "POST",
            path: &self.path,
            fields: &[
                ("authorization", bearer),
                ("apns-topic", topic),
                ("apns-id", &self.id),
                ("apns-collapse-id", &self.collapse_id),
                ("apns-push-type", "alert"),
                ("apns-priority", "10"),
                ("apns-expiration", &expiration),
            ],
            body: &self.body,
        })
    }
}

/// A name of the push that is the same whenever it is sent: a UUID (version 8).
fn id(push: &pb::Push) -> String {
    let name = [push.user_id, push.device_id, push.number].map(u64::to_be_bytes);
    let hash = blake3::hash(name.as_flattened());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

/// What an answer means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The service has it.
    Delivered,
    /// The token is good no longer, since that Unix time in ms; 0 = never was.
    Gone {
        /// See above.
        at_ms: i64,
    },
    /// Again, not sooner than this.
    Later(Duration),
    /// Again at once, with a fresh provider's token.
    SignAgain,
    /// Never: the push is wrong, or the provider is set up wrongly.
    Refused(String),
    /// The provider is set up wrongly: the next push will fare no better.
    NotAdmitted(String),
}

#[derive(Deserialize, Default)]
struct Trouble {
    #[serde(default)]
    reason: String,
    /// Unix time in ms, of 410 alone.
    #[serde(default)]
    timestamp: i64,
}

/// What an answer means.
pub(super) fn judge(response: &PlainResponse) -> Verdict {
    // A body that is none says as little as none at all.
    let trouble: Trouble = serde_json::from_slice(&response.body).unwrap_or_default();
    let retry_after = response
        .field("retry-after")
        .and_then(|text| text.parse().ok());
    match (response.status, &trouble.reason[..]) {
        (200, _) => Verdict::Delivered,
        (410, _) => Verdict::Gone {
            at_ms: trouble.timestamp,
        },
        (400, "BadDeviceToken" | "DeviceTokenNotForTopic") => Verdict::Gone { at_ms: 0 },
        (403, "ExpiredProviderToken") => Verdict::SignAgain,
        (403, reason) => Verdict::NotAdmitted(reason.to_owned()),
        (429 | 500..=599, _) => Verdict::Later(Duration::from_secs(retry_after.unwrap_or(0))),
        (status, reason) => Verdict::Refused(format!("{status} {reason}")),
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, KeyPair, UnparsedPublicKey};

    use super::*;

    fn signer() -> Signer {
        let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        Signer::new(key.as_bytes(), "KEY1", "TEAM1").expect("the key is one of P-256")
    }

    #[test]
    fn the_providers_token_is_signed_and_lives_for_a_while() {
        let mut signer = signer();
        let first = signer.bearer(1_000_000).unwrap().to_owned();
        let token = first.strip_prefix("bearer ").unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = BASE64.decode(signature).unwrap();
        let public = signer.pair.public_key().as_ref().to_vec();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public);
        public.verify(signed.as_bytes(), &signature).unwrap();
        let (head, claims) = signed.split_once('.').unwrap();
        let read = |part| -> serde_json::Value {
            serde_json::from_slice(&BASE64.decode(part).unwrap()).unwrap()
        };
        assert_eq!(
            read(head),
            serde_json::json!({ "alg": "ES256", "kid": "KEY1" })
        );
        assert_eq!(read(claims)["iss"], "TEAM1");
        assert_eq!(read(claims)["iat"], 1_000_000);
        assert_eq!(signer.bearer(1_000_000 + TOKEN_LIFE_S - 1).unwrap(), first);
        assert_ne!(signer.bearer(1_000_000 + TOKEN_LIFE_S).unwrap(), first);
        let second = signer.bearer(1_003_001).unwrap().to_owned();
        signer.expire();
        assert_ne!(signer.bearer(1_003_002).unwrap(), second);
    }

    #[test]
    fn a_key_that_is_none_is_refused_in_words() {
        let error = Signer::new(b"nonsense", "K", "T").err().expect("refused");
        assert!(error.to_string().contains("BEGIN PRIVATE KEY"), "{error}");
    }

    #[test]
    fn a_push_has_the_same_name_whenever_it_is_sent() {
        let push = |number| pb::Push {
            user_id: 1,
            device_id: 2,
            number,
            ..pb::Push::default()
        };
        let name = id(&push(3));
        assert_eq!(name, id(&push(3)));
        assert_ne!(name, id(&push(4)));
        let lengths: Vec<usize> = name.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
    }

    #[test]
    fn every_answer_has_a_meaning() {
        let answer = |status, body: &str, fields: &[(&str, &str)]| {
            let fields = fields.iter();
            judge(&PlainResponse {
                status,
                fields: fields
                    .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
                body: body.as_bytes().to_vec(),
            })
        };
        let reason = |reason: &str| format!("{{\"reason\":\"{reason}\"}}");
        assert_eq!(answer(200, "", &[]), Verdict::Delivered);
        let gone = r#"{"reason":"Unregistered","timestamp":1454402113000}"#;
        let at_ms = 1_454_402_113_000;
        assert_eq!(answer(410, gone, &[]), Verdict::Gone { at_ms });
        let at_ms = 0;
        assert_eq!(
            answer(400, &reason("BadDeviceToken"), &[]),
            Verdict::Gone { at_ms }
        );
        assert_eq!(
            answer(403, &reason("ExpiredProviderToken"), &[]),
            Verdict::SignAgain
        );
        let wrong = "InvalidProviderToken".to_owned();
        assert_eq!(
            answer(403, &reason(&wrong), &[]),
            Verdict::NotAdmitted(wrong)
        );
        assert_eq!(
            answer(429, &reason("TooManyRequests"), &[]),
            Verdict::Later(Duration::ZERO)
        );
        assert_eq!(
            answer(503, "nonsense", &[("retry-after", "7")]),
            Verdict::Later(Duration::from_secs(7))
        );
        assert_eq!(
            answer(413, &reason("PayloadTooLarge"), &[]),
            Verdict::Refused("413 PayloadTooLarge".to_owned())
        );
    }
}
