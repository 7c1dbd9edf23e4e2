//! The fields of a head or of trailers, sorted into what gRPC gives a meaning to and the caller's own.
//!
//! Knows: names.   Does not know: what a call is answered.

use std::time::Duration;

use bytes::Bytes;

use super::codings::{self, Accepted};
use super::percent;
use crate::rpc::compression::Compression;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::http1::is_https_own;
use crate::rpc::protocol::http2::Fields;
use crate::rpc::protocol::{BodyFormat, Trace, base64, timeout};
use crate::rpc::status::{Code, Status};

/// A block of fields, read. One is used for all blocks of a session.
#[derive(Debug, Default)]
pub struct Head {
    /// `:method`; empty = none.
    pub method: Vec<u8>,
    /// `:path`, with its query.
    pub path: Vec<u8>,
    /// `:status`; 0 = none.
    pub status: u16,
    pub content_type: Vec<u8>,
    pub encoding: Encoding,
    pub accepted: Accepted,
    pub timeout: Timeout,
    pub log_id: Option<i64>,
    pub request_id: Option<String>,
    /// `grpc-status` as a number.
    pub grpc_status: Option<i32>,
    pub grpc_message: String,
    /// `grpc-status-details-bin`, decoded.
    pub details: Bytes,
    /// The caller's own; values under `-bin` are bytes.
    pub metadata: MetadataMap,
    /// HTTP's own, for requests that are not gRPC.
    pub https_own: MetadataMap,
}

/// What `grpc-encoding` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Absent,
    Known(Compression),
    /// Not spoken here.
    Foreign(String),
}

/// What `grpc-timeout` says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Timeout {
    #[default]
    None,
    After(Duration),
    Unreadable,
}

/// How a gRPC body is written, as its content type says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Subtype {
    #[default]
    Plain,
    Proto,
    Json,
}

impl Subtype {
    /// All, by number.
    pub const NAMES: [&str; 3] = [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc+json",
    ];

    /// Of a content type; `None` if it is not gRPC's or not spoken here.
    pub fn of(content_type: &[u8]) -> Option<Self> {
        let name = content_type
            .split(|byte| *byte == b';')
            .next()?
            .trim_ascii();
        let is = |known: &&str| known.as_bytes().eq_ignore_ascii_case(name);
        match Self::NAMES.iter().position(is)? {
            0 => Some(Self::Plain),
            1 => Some(Self::Proto),
            _ => Some(Self::Json),
        }
    }

    pub const fn format(self) -> BodyFormat {
        match self {
            Self::Plain | Self::Proto => BodyFormat::Protobuf,
            Self::Json => BodyFormat::Json,
        }
    }
}

impl Head {
    /// Service and method of a path like `/example.EchoService/Echo`.
    pub fn names(&self) -> Option<(&str, &str)> {
        let path = std::str::from_utf8(&self.path).ok()?;
        let (service, method) = path.strip_prefix('/')?.rsplit_once('/')?;
        (!service.is_empty() && !method.is_empty()).then_some((service, method))
    }

    /// Trace ids, if the caller sent any.
    pub fn trace(&mut self) -> Option<Box<Trace>> {
        let request_id = self.request_id.take()?;
        Some(Box::new(Trace {
            request_id,
            ..Trace::default()
        }))
    }

    /// What the trailers say: the failure with the metadata that came along, or that metadata.
    /// `None` without a status.
    pub fn outcome(&mut self) -> Option<Result<MetadataMap, Status>> {
        let code = self.grpc_status?;
        let metadata = std::mem::take(&mut self.metadata);
        if code == 0 {
            return Some(Ok(metadata));
        }
        let text = std::mem::take(&mut self.grpc_message);
        let mut status = Status::new(Code::from_number(code), text);
        status = status.with_details(std::mem::take(&mut self.details));
        *status.metadata_mut() = metadata;
        Some(Err(status))
    }

    /// Keeps a field of the caller.
    fn keep(&mut self, name: &str, value: &[u8]) {
        if !MetadataMap::is_binary_key(name) {
            return self
                .metadata
                .append_bytes(name, Bytes::copy_from_slice(value));
        }
        // Several values may be joined by commas (PROTOCOL-HTTP2.md, "Custom-Metadata").
        for value in value.split(|byte| *byte == b',') {
            if let Some(bytes) = base64::decode_if_binary(name, value.trim_ascii()) {
                self.metadata.append_bytes(name, bytes);
            }
        }
    }

    fn special(&mut self, name: &[u8], value: &[u8]) -> bool {
        let number = || std::str::from_utf8(value).ok()?.trim().parse().ok();
        match name {
            b":method" => set(&mut self.method, value),
            b":path" => set(&mut self.path, value),
            b":scheme" | b":authority" | b"te" => {}
            b":status" => self.status = number().and_then(|n| u16::try_from(n).ok()).unwrap_or(0),
            b"content-type" => set(&mut self.content_type, value),
            b"grpc-timeout" => {
                self.timeout = timeout::parse(value).map_or(Timeout::Unreadable, Timeout::After);
            }
            b"grpc-encoding" => {
                self.encoding = codings::of_name(value).map_or_else(
                    || Encoding::Foreign(String::from_utf8_lossy(value).into_owned()),
                    Encoding::Known,
                );
            }
            b"grpc-accept-encoding" => self.accepted.add(value),
            b"grpc-status" => {
                self.grpc_status = Some(
                    number()
                        .and_then(|n| i32::try_from(n).ok())
                        .unwrap_or(Code::Unknown.number()),
                );
            }
            b"grpc-message" => self.grpc_message = percent::decode(value),
            b"grpc-status-details-bin" => {
                let bytes = base64::decode_if_binary("grpc-status-details-bin", value);
                self.details = bytes.unwrap_or_default().into();
            }
            b"log-id" => self.log_id = number(),
            b"x-request-id" => {
                self.request_id = Some(String::from_utf8_lossy(value).into_owned());
            }
            _ => return false,
        }
        true
    }
}

impl Fields for Head {
    fn clear(&mut self) {
        self.method.clear();
        self.path.clear();
        self.content_type.clear();
        *self = Self {
            method: std::mem::take(&mut self.method),
            path: std::mem::take(&mut self.path),
            content_type: std::mem::take(&mut self.content_type),
            ..Self::default()
        };
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        if self.special(name, value) {
            return;
        }
        let Ok(name) = std::str::from_utf8(name) else {
            return; // names are ASCII: the session saw to that
        };
        if is_https_own(name) {
            self.https_own
                .append_bytes(name, Bytes::copy_from_slice(value));
        } else {
            self.keep(name, value);
        }
    }
}

fn set(to: &mut Vec<u8>, value: &[u8]) {
    to.clear();
    to.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&str, &str)]) -> Head {
        let mut head = Head::default();
        for (name, value) in fields {
            head.field(name.as_bytes(), value.as_bytes());
        }
        head
    }

    #[test]
    fn what_belongs_to_the_call_is_told_from_what_belongs_to_grpc() {
        let mut head = read(&[
            (":method", "POST"),
            (":path", "/a.b.C/D"),
            ("content-type", "application/grpc+proto"),
            ("te", "trailers"),
            ("grpc-timeout", "3S"),
            ("x-own", "1"),
            ("key-bin", "q6ur,AQ=="),
            ("key-bin", "!"),
            ("log-id", "7"),
        ]);
        assert_eq!(head.names(), Some(("a.b.C", "D")));
        assert_eq!(Subtype::of(&head.content_type), Some(Subtype::Proto));
        assert_eq!(head.timeout, Timeout::After(Duration::from_secs(3)));
        assert_eq!(head.log_id, Some(7));
        assert_eq!(head.metadata.get("x-own"), Some("1"));
        let values: Vec<_> = head.metadata.get_all("key-bin").map(|v| &v[..]).collect();
        assert_eq!(values, [&b"\xab\xab\xab"[..], b"\x01"]);
        assert_eq!((head.metadata.len(), head.https_own.len()), (3, 0));
        assert!(head.outcome().is_none(), "no status");
        head.clear();
        assert!(head.metadata.is_empty() && head.names().is_none());
    }

    #[test]
    fn trailers_become_a_status() {
        let mut head = read(&[
            ("grpc-status", "2"),
            ("grpc-message", "a%0Ab"),
            ("grpc-status-details-bin", "AQI"),
            ("why", "because"),
        ]);
        let status = head.outcome().unwrap().unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unknown, "a\nb"));
        assert_eq!(&status.details()[..], [1, 2]);
        assert_eq!(status.metadata().get("why"), Some("because"));
        let mut unreadable = read(&[("grpc-status", "what")]);
        assert!(unreadable.outcome().unwrap().is_err());
    }

    #[test]
    fn only_grpcs_own_content_types_are_grpc() {
        assert_eq!(Subtype::of(b"application/grpc"), Some(Subtype::Plain));
        assert_eq!(Subtype::of(b"Application/GRPC; x=y"), Some(Subtype::Plain));
        assert_eq!(Subtype::of(b"application/grpc+json"), Some(Subtype::Json));
        for other in [
            "application/grpc-web",
            "application/grpc+thrift",
            "application/json",
            "",
        ] {
            assert_eq!(Subtype::of(other.as_bytes()), None, "{other}");
        }
    }
}
