//! JSON for services that speak Protocol Buffers: both ways, driven by descriptors.
//!
//! Knows: the canonical JSON mapping (<https://protobuf.dev/programming-guides/json/>).
//! Does not know: where the text came from, services.
//!
//! Handlers see nothing of it: a request becomes protobuf bytes before they run, their answer becomes
//! JSON after. Both happen on the side of whoever runs the call, not in a session.

#![forbid(unsafe_code)]

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};

use super::status::Status;
use super::status_map::{EINTERNAL, EREQUEST};

/// JSON in and out for one method.
#[derive(Clone, Debug)]
pub struct Transcoder {
    /// Request and answer; `None` = their schema is not known.
    types: Option<(MessageDescriptor, MessageDescriptor)>,
}

impl Transcoder {
    /// The types in a serialized `google.protobuf.FileDescriptorSet`, for [`Transcoder::new`].
    ///
    /// # Errors
    /// The set does not parse, or refers to what it does not hold: the text says which.
    pub fn pool(file_descriptor_set: &[u8]) -> Result<DescriptorPool, String> {
        DescriptorPool::decode(file_descriptor_set)
            .map_err(|error| format!("the descriptor set cannot be used: {error}"))
    }

    /// JSON for a method that takes `input` and returns `output`, both full names.
    ///
    /// # Errors
    /// The pool lacks one of them: the text says which.
    pub fn new(pool: &DescriptorPool, input: &str, output: &str) -> Result<Self, String> {
        let find = |name: &str| {
            pool.get_message_by_name(name).ok_or_else(|| {
                format!("the descriptor set lacks the message {name}: generate it with its imports")
            })
        };
        Ok(Self {
            types: Some((find(input)?, find(output)?)),
        })
    }

    /// For a method without a schema: it is not called with JSON.
    pub fn none() -> Self {
        Self { types: None }
    }

    fn types(&self) -> Result<&(MessageDescriptor, MessageDescriptor), Status> {
        let text =
            "the service has no schema (it was made of a trait): call it over baidu_std or gRPC";
        self.types
            .as_ref()
            .ok_or_else(|| Status::unimplemented(text))
    }

    /// A request in JSON as protobuf bytes. No bytes at all are an empty message.
    ///
    /// # Errors
    /// It is no JSON, or not of the request's shape: EREQUEST with line and column.
    pub fn request_from_json(&self, json: &[u8]) -> Result<Bytes, Status> {
        let (input, _) = self.types()?;
        if json.iter().all(u8::is_ascii_whitespace) {
            return Ok(Bytes::new());
        }
        let refuse = |error: serde_json::Error| {
            let name = input.full_name();
            Status::from_errno(
                EREQUEST,
                format!("the request is no JSON of {name}: {error}"),
            )
        };
        let mut parser = serde_json::Deserializer::from_slice(json);
        let message = DynamicMessage::deserialize(input.clone(), &mut parser).map_err(refuse)?;
        parser.end().map_err(refuse)?;
        Ok(message.encode_to_vec().into())
    }

    /// An answer in protobuf bytes as JSON, on one line; fields with their default are left out. `plain`: with the
    /// schema's names and 64-bit numbers as numbers, as brpc writes them.
    ///
    /// # Errors
    /// The bytes are no message of the answer's type, or JSON has no form for it.
    pub fn response_to_json(&self, message: &[u8], plain: bool) -> Result<Bytes, Status> {
        let (_, output) = self.types()?;
        let refuse = |error: &dyn std::fmt::Display| {
            let name = output.full_name();
            Status::from_errno(
                EINTERNAL,
                format!("the answer is no {name} that JSON can carry: {error}"),
            )
        };
        let message =
            DynamicMessage::decode(output.clone(), message).map_err(|error| refuse(&error))?;
        let mut out = serde_json::Serializer::new(Vec::with_capacity(128));
        message
            .serialize_with_options(
                &mut out,
                &SerializeOptions::new()
                    .use_proto_field_name(plain)
                    .stringify_64_bit_integers(!plain),
            )
            .map_err(|error| refuse(&error))?;
        Ok(out.into_inner().into())
    }
}

#[cfg(test)]
mod tests {
    use prost_types::field_descriptor_proto::{Label, Type};
    use prost_types::{
        DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    };

    use super::*;

    /// `message Sample { string first_name = 1; int64 id = 2; bytes raw = 3; Sample inner = 4; }`
    fn transcoder() -> Transcoder {
        let field = |name: &str, number, kind: Type| FieldDescriptorProto {
            name: Some(name.into()),
            number: Some(number),
            label: Some(Label::Optional.into()),
            r#type: Some(kind.into()),
            type_name: (kind == Type::Message).then(|| ".t.Sample".into()),
            ..Default::default()
        };
        let message = DescriptorProto {
            name: Some("Sample".into()),
            field: vec![
                field("first_name", 1, Type::String),
                field("id", 2, Type::Int64),
                field("raw", 3, Type::Bytes),
                field("inner", 4, Type::Message),
            ],
            ..Default::default()
        };
        let file = FileDescriptorProto {
            name: Some("t.proto".into()),
            package: Some("t".into()),
            message_type: vec![message],
            syntax: Some("proto3".into()),
            ..Default::default()
        };
        let set = FileDescriptorSet { file: vec![file] };
        let pool = Transcoder::pool(&set.encode_to_vec()).unwrap();
        Transcoder::new(&pool, "t.Sample", "t.Sample").unwrap()
    }

    #[test]
    fn json_becomes_protobuf_and_comes_back() {
        let text =
            br#"{"firstName":"Li","id":"9007199254740993","raw":"AAE=","inner":{"id":"-1"}}"#;
        let bytes = transcoder().request_from_json(text).unwrap();
        let expected = b"\x0a\x02Li\x10\x81\x80\x80\x80\x80\x80\x80\x10\x1a\x02\0\x01\x22\x0b\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(&bytes[..], expected);
        assert_eq!(
            &transcoder().response_to_json(&bytes, false).unwrap()[..],
            text
        );
        let plain = transcoder().response_to_json(&bytes, true).unwrap();
        let expected =
            br#"{"first_name":"Li","id":9007199254740993,"raw":"AAE=","inner":{"id":-1}}"#;
        assert_eq!(&plain[..], expected);
        assert_eq!(transcoder().request_from_json(&plain).unwrap(), bytes);
        let proto_names = transcoder()
            .request_from_json(br#" {"first_name":"Li"} "#)
            .unwrap();
        assert_eq!(&proto_names[..], b"\x0a\x02Li");
    }

    #[test]
    fn nothing_is_an_empty_message() {
        for text in [&b""[..], b" \n", b"{}"] {
            assert!(transcoder().request_from_json(text).unwrap().is_empty());
        }
        assert_eq!(
            &transcoder().response_to_json(b"", false).unwrap()[..],
            b"{}"
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, word) in [
            (&br#"{"id":"x"}"#[..], "column"),
            (br#"{"nope":1}"#, "nope"),
            (b"{", "line 1"),
            (b"{}{}", "trailing"),
            (b"[]", "t.Sample"),
            (b"\xff", "t.Sample"),
        ] {
            let status = transcoder().request_from_json(text).unwrap_err();
            assert_eq!(status.errno(), EREQUEST);
            assert!(status.message().contains(word), "{}", status.message());
        }
        let deep = [&br#"{"inner":"#.repeat(200)[..], b"{}", &b"}".repeat(200)].concat();
        assert!(
            transcoder().request_from_json(&deep).is_err(),
            "depth is bounded"
        );
        assert_eq!(
            transcoder()
                .response_to_json(b"\xff", false)
                .unwrap_err()
                .errno(),
            EINTERNAL
        );
    }

    #[test]
    fn missing_descriptors_are_named() {
        assert!(Transcoder::pool(b"\xff\xff").is_err());
        let pool = Transcoder::pool(b"").unwrap();
        let text = Transcoder::new(&pool, "t.Gone", "t.Gone").unwrap_err();
        assert!(text.contains("t.Gone"), "{text}");
    }
}
