//! Metadata and statuses as fields.
//!
//! Knows: which names a caller may not use.   Does not know: when they are sent.

use bytes::Bytes;

use super::percent;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::base64;
use crate::rpc::protocol::http1::is_https_own;
use crate::rpc::protocol::http2::hpack::encode::Encoder;
use crate::rpc::status::Status;

/// How a call ended, ready to be written at any time.
#[derive(Debug)]
pub struct Tail {
    code: i32,
    text: String,
    details: Bytes,
    /// The failure's own.
    own: MetadataMap,
    trailers: MetadataMap,
}

impl Tail {
    pub fn new(result: Result<(), &Status>, trailers: &MetadataMap) -> Self {
        let status = result.err();
        Self {
            code: status.map_or(0, |status| status.code().number()),
            text: status.map_or_else(String::new, |status| status.message().to_owned()),
            details: status.map_or_else(Bytes::new, |status| status.details().clone()),
            own: status.map_or_else(MetadataMap::new, |status| status.metadata().clone()),
            trailers: trailers.clone(),
        }
    }

    pub fn write(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        let code = self.code.to_string();
        encoder.field(b"grpc-status", code.as_bytes(), out);
        if !self.text.is_empty() {
            let text = &self.text[..self.text.floor_char_boundary(TEXT_MAX)];
            encoder.field(b"grpc-message", &percent::encode(text), out);
        }
        if !self.details.is_empty() {
            let name = "grpc-status-details-bin";
            let value = base64::encode_if_binary(name, &self.details);
            encoder.once(name.as_bytes(), &value, out);
        }
        put_metadata(&self.own, encoder, out);
        put_metadata(&self.trailers, encoder, out);
    }
}

/// Longer texts are cut: peers bound the fields they take, many at 8 KiB, and escapes triple a byte.
const TEXT_MAX: usize = 2 << 10;

/// Appends metadata; what would not be a valid field, or has a meaning of its own, is left out.
pub fn put_metadata(metadata: &MetadataMap, encoder: &mut Encoder, out: &mut Vec<u8>) {
    for (name, value) in metadata.iter() {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) || is_reserved(name) {
            continue;
        }
        let value = base64::encode_if_binary(name, value);
        let clean = value.iter().all(|byte| matches!(byte, b' '..=b'~'));
        if !clean {
            continue;
        }
        let lower;
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = name.to_ascii_lowercase();
            &lower
        } else {
            name
        };
        encoder.field(name.as_bytes(), &value, out);
    }
}

/// Bytes that metadata takes in a list of fields, by RFC 9113's count and at most.
pub fn size(metadata: &MetadataMap) -> usize {
    metadata
        .iter()
        .map(|(name, value)| name.len() + value.len() * 4 / 3 + 40)
        .sum()
}

/// Names that gRPC or HTTP gives a meaning to.
fn is_reserved(name: &str) -> bool {
    let grpcs = name
        .get(..5)
        .is_some_and(|start| start.eq_ignore_ascii_case("grpc-"));
    grpcs || is_https_own(name)
}
