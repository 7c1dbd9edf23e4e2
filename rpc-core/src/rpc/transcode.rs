//! JSON and text format for services that speak Protocol Buffers: both ways, driven by descriptors.
//!
//! Knows: the canonical JSON mapping (<https://protobuf.dev/programming-guides/json/>), the text format
//! (<https://protobuf.dev/reference/protobuf/textformat-spec/>).
//! Does not know: where the text came from, services.
//!
//! Handlers see nothing of it: a request becomes protobuf bytes before they run, their answer becomes
//! text after. Both happen on the side of whoever runs the call, not in a session.

#![forbid(unsafe_code)]

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};

use super::status::Status;
use super::status_map::{EINTERNAL, EREQUEST};

/// How deep messages in text format may be nested, as Protocol Buffers' own parsers have it.
const MAX_DEPTH: usize = 100;

/// JSON and text format in and out for one method.
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

    /// Texts for a method that takes `input` and returns `output`, both full names.
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

    /// For a method without a schema: it is called with protobuf only.
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

    /// A request in text format as protobuf bytes.
    ///
    /// # Errors
    /// It is no text format, nested too deep, or not of the request's shape: EREQUEST with the reason.
    pub fn request_from_text(&self, text: &[u8]) -> Result<Bytes, Status> {
        let (input, _) = self.types()?;
        let refuse = |error: &dyn std::fmt::Display| {
            let name = input.full_name();
            Status::from_errno(
                EREQUEST,
                format!("the request is no text format of {name}: {error}"),
            )
        };
        let text = std::str::from_utf8(text).map_err(|error| refuse(&error))?;
        if depth(text) > MAX_DEPTH {
            let why = format!("messages are nested more than {MAX_DEPTH} deep");
            return Err(refuse(&why));
        }
        let message = DynamicMessage::parse_text_format(input.clone(), text)
            .map_err(|error| refuse(&error))?;
        Ok(message.encode_to_vec().into())
    }

    /// An answer in protobuf bytes as text format, on one line.
    ///
    /// # Errors
    /// The bytes are no message of the answer's type.
    pub fn response_to_text(&self, message: &[u8]) -> Result<Bytes, Status> {
        let (_, output) = self.types()?;
        let message = DynamicMessage::decode(output.clone(), message).map_err(|error| {
            let name = output.full_name();
            Status::from_errno(EINTERNAL, format!("the answer is no {name}: {error}"))
        })?;
        Ok(message.to_text_format().into())
    }
}

/// How many brackets are open at once in `text`, at most; those in strings and comments do not count. The
/// parser that follows calls itself for each.
fn depth(text: &str) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'<' | b'[' => {
                open += 1;
                most = most.max(open);
            }
            b'}' | b'>' | b']' => open = open.saturating_sub(1),
            b'#' => while bytes.next().is_some_and(|byte| byte != b'\n') {},
            quote @ (b'"' | b'\'') => loop {
                match bytes.next() {
                    Some(b'\\') => drop(bytes.next()),
                    // A string ends with its line: the parser refuses what follows.
                    Some(b'\n') | None => break,
                    Some(byte) if byte == quote => break,
                    Some(_) => {}
                }
            },
            _ => {}
        }
    }
    most
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
    fn text_format_becomes_protobuf_and_comes_back() {
        let text = br##"first_name:"Li",id:-1,inner{raw:"{\"<" # {
            first_name: '#{'}"##;
        let bytes = transcoder().request_from_text(text).unwrap();
        let told = transcoder().response_to_text(&bytes).unwrap();
        let expected = br##"first_name:"Li",id:-1,inner{first_name:"#{",raw:"{\"<"}"##;
        assert_eq!(told, expected[..]);
        assert_eq!(transcoder().request_from_text(&told).unwrap(), bytes);
        assert!(transcoder().request_from_text(b"").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_text_format_is_refused_with_the_reason() {
        let deep = |n| [&b"inner{".repeat(n)[..], &b"}".repeat(n)].concat();
        assert!(transcoder().request_from_text(&deep(MAX_DEPTH)).is_ok());
        for (text, word) in [
            (&b"id: x"[..], "expected"),
            (b"nope: 1", "nope"),
            (b"inner {", "expected"),
            (b"\xff", "utf-8"),
            (&deep(MAX_DEPTH + 1), "deep"),
            (&b"inner<".repeat(100_000), "deep"),
        ] {
            let status = transcoder().request_from_text(text).unwrap_err();
            assert_eq!(status.errno(), EREQUEST);
            let said = status.message();
            assert!(said.contains(word) && said.contains("t.Sample"), "{said}");
        }
        let junk = transcoder().response_to_text(b"\xff").unwrap_err();
        assert_eq!(junk.errno(), EINTERNAL);
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
    fn the_deepest_messages_fit_a_coroutines_stack() {
        let deep = |open: &str, inner: &str| {
            [
                open.repeat(MAX_DEPTH - 1),
                inner.into(),
                "}".repeat(MAX_DEPTH - 1),
            ]
            .concat()
        };
        let runtime = crate::Runtime::builder().workers(1).build().unwrap();
        let call = move || {
            let transcoder = transcoder();
            let bytes = transcoder
                .request_from_text(deep("inner{", "id:1").as_bytes())
                .unwrap();
            let text = transcoder.response_to_text(&bytes).unwrap();
            assert_eq!(transcoder.request_from_text(&text).unwrap(), bytes);
            let json = transcoder.response_to_json(&bytes, true).unwrap();
            assert_eq!(json, deep("{\"inner\":", "{\"id\":1}").as_bytes());
            assert_eq!(transcoder.request_from_json(&json).unwrap(), bytes);
        };
        runtime.spawn(call).join().unwrap();
    }

    #[test]
    fn missing_descriptors_are_named() {
        assert!(Transcoder::pool(b"\xff\xff").is_err());
        let pool = Transcoder::pool(b"").unwrap();
        let text = Transcoder::new(&pool, "t.Gone", "t.Gone").unwrap_err();
        assert!(text.contains("t.Gone"), "{text}");
    }
}
