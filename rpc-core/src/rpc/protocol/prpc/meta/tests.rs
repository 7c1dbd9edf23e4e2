//! The hand-written reader and writer against prost.

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::rpc::protocol::prpc::schema;

#[test]
fn a_varint_has_the_length_it_is_given() {
    for shift in 0..64 {
        for value in [1_u64 << shift, (1 << shift) - 1, u64::MAX >> shift] {
            let mut out = [0; 10];
            let mut to = Writer {
                out: &mut out,
                at: 0,
            };
            to.varint(value);
            assert_eq!(to.at, varint_len(value), "{value:#x}");
        }
    }
}

#[test]
fn every_prefix_of_a_meta_is_read_or_refused() {
    let map = [("a", "b")].into_iter().collect();
    let whole = sample(&map);
    let lengths = whole.measure();
    let mut out = vec![0; lengths.meta];
    whole.write(&lengths, &mut out);
    for end in 0..out.len() {
        let ours = Meta::read(&out[..end]).is_ok();
        assert_eq!(ours, schema::RpcMeta::decode(&out[..end]).is_ok(), "{end}");
    }
}

fn sample(map: &MetadataMap) -> MetaOut<'_> {
    MetaOut {
        request: Some(RequestOut {
            service: "example.EchoService",
            method: "Echo",
            log_id: Some(-1),
            trace: None,
            timeout_ms: Some(250),
        }),
        correlation_id: i64::MIN,
        attachment_size: 300,
        user_fields: Some(map),
        checksum: Checksum::DataAndAttachment,
        sum: 0x0102_0304,
        ..MetaOut::default()
    }
}

proptest! {
    #[test]
    fn what_prost_writes_is_read_alike(meta in any_meta()) {
        let bytes = meta.encode_to_vec();
        let read = Meta::read(&bytes).unwrap();
        assert_same(&read, &meta);
    }

    #[test]
    fn what_is_written_prost_reads_alike(
        service in "[a-zA-Z.]{0,200}", method in "\\PC{0,20}", log_id: Option<i64>, timeout_ms: Option<i32>,
        ids: [i64; 3], request_id in "[a-z0-9-]{0,40}", correlation_id: i64, attachment in 0..i32::MAX as usize,
        fields in proptest::collection::vec(("[a-z-]{0,9}", "\\PC{0,9}"), 0..4), guard in 0..3usize, sum: u32,
        response: bool, error_code: i32, error_text in "\\PC{0,40}", stream: Option<(i64, bool, bool)>,
        credential in proptest::collection::vec(any::<u8>(), 0..40), content_type in 0..4i32,
    ) {
        let [trace_id, span_id, parent_span_id] = ids;
        let trace = Trace { trace_id, span_id, parent_span_id, request_id };
        let user_fields = fields.into_iter().collect();
        let request = RequestOut { service: &service, method: &method, log_id, trace: Some(&trace), timeout_ms };
        let out = MetaOut {
            request: (!response).then_some(request),
            response: response.then_some(ResponseOut { error_code, error_text: &error_text }),
            compress_type: 2,
            correlation_id,
            attachment_size: attachment,
            authentication: &credential,
            stream: stream.map(|(stream_id, need_feedback, writable)| StreamSettings { stream_id, need_feedback, writable }),
            user_fields: Some(&user_fields),
            content_type,
            checksum: [Checksum::None, Checksum::Data, Checksum::DataAndAttachment][guard],
            sum,
        };
        let lengths = out.measure();
        let mut bytes = vec![0; lengths.meta];
        prop_assert_eq!(out.write(&lengths, &mut bytes), bytes.len());
        let theirs = schema::RpcMeta::decode(&bytes[..]).unwrap();
        let ours = Meta::read(&bytes).unwrap();
        assert_same(&ours, &theirs);
        prop_assert_eq!(ours.checksum(), Some((out.checksum, if guard == 0 { 0 } else { sum })));
        if user_fields.iter().all(|(key, _)| !MetadataMap::is_binary_key(key)) {
            prop_assert_eq!(ours.metadata(), user_fields);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_as_prost_does(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        // prost also checks UTF-8, which proto2 does not; so only one direction is an oracle.
        if let Ok(theirs) = schema::RpcMeta::decode(&bytes[..])
            && let Ok(ours) = Meta::read(&bytes) {
            assert_same(&ours, &theirs);
        }
    }
}

fn any_meta() -> impl Strategy<Value = schema::RpcMeta> {
    let request = (
        any::<[Option<i64>; 4]>(),
        "\\PC{0,30}",
        "\\PC{0,30}",
        any::<Option<i32>>(),
    )
        .prop_map(
            |([log_id, trace_id, span_id, parent_span_id], service, method, timeout_ms)| {
                schema::RpcRequestMeta {
                    service_name: service,
                    method_name: method,
                    log_id,
                    trace_id,
                    span_id,
                    parent_span_id,
                    request_id: timeout_ms.map(|ms| ms.to_string()),
                    timeout_ms,
                }
            },
        );
    let response = (any::<Option<i32>>(), proptest::option::of("\\PC{0,30}")).prop_map(
        |(error_code, error_text)| schema::RpcResponseMeta {
            error_code,
            error_text,
        },
    );
    let tail = (
        any::<[Option<i32>; 3]>(),
        any::<Option<i64>>(),
        any::<Option<bool>>(),
        any::<Option<Vec<u8>>>(),
    );
    (
        proptest::option::of(request),
        proptest::option::of(response),
        tail,
    )
        .prop_map(
            |(request, response, ([a, b, c], correlation_id, flag, bytes))| schema::RpcMeta {
                request,
                response,
                compress_type: a,
                correlation_id,
                attachment_size: b,
                chunk_info: flag.map(|_| schema::ChunkInfo {
                    stream_id: 1,
                    chunk_id: 2,
                }),
                authentication_data: bytes.clone(),
                stream_settings: c.map(|id| schema::StreamSettings {
                    stream_id: id.into(),
                    need_feedback: flag,
                    writable: Some(true),
                    extra_stream_ids: vec![1, 2],
                }),
                user_fields: [("k".to_string(), "v".to_string())].into(),
                content_type: c,
                checksum_type: a,
                checksum_value: bytes,
                checksum_with_attachment: flag,
            },
        )
}

fn assert_same(ours: &Meta<'_>, theirs: &schema::RpcMeta) {
    assert_eq!(ours.request.is_some(), theirs.request.is_some());
    if let (Some(ours), Some(theirs)) = (&ours.request, &theirs.request) {
        assert_eq!(
            ours.service.unwrap_or_default(),
            theirs.service_name.as_bytes()
        );
        assert_eq!(
            ours.method.unwrap_or_default(),
            theirs.method_name.as_bytes()
        );
        assert_eq!(ours.log_id, theirs.log_id);
        assert_eq!(ours.trace_id, theirs.trace_id());
        assert_eq!(ours.span_id, theirs.span_id());
        assert_eq!(ours.parent_span_id, theirs.parent_span_id());
        assert_eq!(ours.request_id, theirs.request_id().as_bytes());
        assert_eq!(ours.timeout_ms, theirs.timeout_ms);
    }
    assert_eq!(ours.response.is_some(), theirs.response.is_some());
    if let (Some(ours), Some(theirs)) = (&ours.response, &theirs.response) {
        assert_eq!(ours.error_code, theirs.error_code());
        assert_eq!(ours.error_text, theirs.error_text().as_bytes());
    }
    assert_eq!(ours.compress_type, theirs.compress_type());
    assert_eq!(ours.correlation_id, theirs.correlation_id());
    assert_eq!(ours.attachment_size, theirs.attachment_size());
    assert_eq!(ours.authentication, theirs.authentication_data());
    let stream = theirs
        .stream_settings
        .as_ref()
        .map(|stream| StreamSettings {
            stream_id: stream.stream_id,
            need_feedback: stream.need_feedback(),
            writable: stream.writable(),
        });
    assert_eq!(ours.stream, stream);
    assert_eq!(ours.content_type, theirs.content_type());
    assert_eq!(ours.checksum_type, theirs.checksum_type());
    assert_eq!(ours.checksum_value, theirs.checksum_value());
    assert_eq!(
        ours.checksum_with_attachment,
        theirs.checksum_with_attachment()
    );
    let fields = ours.user_fields.iter().map(|(key, value)| {
        (
            String::from_utf8_lossy(key).into_owned(),
            String::from_utf8_lossy(value).into_owned(),
        )
    });
    assert_eq!(
        fields.collect::<std::collections::BTreeMap<_, _>>(),
        theirs.user_fields
    );
}
