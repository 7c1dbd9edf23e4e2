//! PRPC sessions against packets recorded from brpc 1.17.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::super::tests::{frame, packets, read, serve};
use super::super::{HEADER, PrpcClient, PrpcServer};
use crate::rpc::protocol::harness::{collect, config, feed};
use crate::rpc::protocol::{Body, Checksum, ClientEvent, ClientSession, Limits, OutgoingCall};
use crate::rpc::status::Code;

/// A recording, or `None`, said loudly, where the recordings are absent.
pub fn golden(name: &str) -> Option<Vec<u8>> {
    let dir = std::env::var_os("RPC_GOLDEN_DIR").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../shared/data/prpc-golden"
            ))
        },
        PathBuf::from,
    );
    let path = dir.join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            eprintln!(
                "NOT CHECKED: the recorded packet {} is absent ({error}); set RPC_GOLDEN_DIR to where they are",
                path.display()
            );
            None
        }
    }
}

const UNARY: [&str; 7] = [
    "echo_plain",
    "echo_attachment",
    "echo_checksum",
    "echo_timeout_ms",
    "echo_pooled",
    "press_nomethod",
    "press_noservice",
];

#[test]
fn recorded_requests_are_answered_as_brpc_answered_them() {
    for name in UNARY {
        let (Some(sent), Some(answered)) = (
            golden(&format!("{name}.c2s")),
            golden(&format!("{name}.s2c")),
        ) else {
            continue;
        };
        let mut server = PrpcServer::new(config());
        let (ours, result) = feed(&mut server, &sent, &[usize::MAX], serve);
        assert_eq!(result, None, "{name}");
        let (ours, theirs) = (packets(&ours), packets(&answered));
        let both = ours.len().min(theirs.len());
        assert!(
            both >= 5 && both + 1 >= packets(&sent).len(),
            "{name}: {both} answers"
        );
        for (index, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert_eq!(ours.0, theirs.0, "{name}, answer {index}: fields");
            assert_eq!(ours.1, theirs.1, "{name}, answer {index}: bytes");
        }
    }
}

#[test]
fn our_requests_have_the_fields_of_recorded_ones() {
    for name in UNARY {
        let Some(sent) = golden(&format!("{name}.c2s")) else {
            continue;
        };
        for (recorded, bytes) in packets(&sent) {
            let request = recorded.meta.request.clone().unwrap();
            let mut call = OutgoingCall::new(
                &request.service_name,
                &request.method_name,
                Body::Bytes(Bytes::from(recorded.data.clone())),
            );
            call.log_id = request.log_id;
            call.timeout = request
                .timeout_ms
                .map(|ms| Duration::from_millis(ms as u64));
            call.attachment = Bytes::from(recorded.attachment.clone());
            if recorded.meta.checksum_type == Some(1) {
                call.checksum = Checksum::Data;
            }
            let mut client = PrpcClient::new(Limits::default());
            client.call(call).unwrap();
            let mut ours = Vec::new();
            collect(client.transmit(), &mut ours);
            let mut ours = packets(&ours)[0].0.clone();
            ours.meta.correlation_id = recorded.meta.correlation_id;
            assert_eq!(ours, recorded, "{name}");
            assert_eq!(
                ours.meta.encoded_len(),
                bytes.len() - HEADER - ours.data.len() - ours.attachment.len()
            );
        }
    }
}

#[test]
fn recorded_answers_reach_the_caller_as_brpc_meant_them() {
    for name in UNARY {
        let Some(answered) = golden(&format!("{name}.s2c")) else {
            continue;
        };
        for (recorded, _) in packets(&answered) {
            let mut client = PrpcClient::new(Limits::default());
            let call = OutgoingCall::new("example.EchoService", "Echo", Body::Bytes(Bytes::new()));
            let id = client.call(call).unwrap();
            let mut meta = recorded.meta.clone();
            meta.correlation_id = Some(id.key() as i64);
            let bytes = frame(&meta, &recorded.data, &recorded.attachment);
            let ClientEvent::Reply { result, .. } = &read(&mut client, &bytes).unwrap()[0] else {
                panic!("no answer")
            };
            match (result, recorded.meta.response.as_ref().unwrap()) {
                (Ok(reply), response) => {
                    assert_eq!(response.error_code(), 0, "{name}");
                    let body = reply.body.clone().open(&reply.attachment, 1000).unwrap();
                    assert_eq!(body, recorded.data, "{name}");
                    assert_eq!(reply.attachment, recorded.attachment, "{name}");
                }
                (Err(status), response) => {
                    assert_eq!(status.errno(), response.error_code(), "{name}");
                    assert_eq!(status.code(), Code::Unimplemented, "{name}");
                    assert_eq!(status.message(), response.error_text(), "{name}");
                }
            }
        }
    }
}

#[test]
fn recorded_packets_split_at_every_byte_are_answered_alike() {
    let sent: Vec<u8> = UNARY
        .iter()
        .filter_map(|name| golden(&format!("{name}.c2s")))
        .flat_map(whole)
        .collect();
    let (expected, _) = feed(&mut PrpcServer::new(config()), &sent, &[usize::MAX], serve);
    for at in 1..sent.len() {
        let mut server = PrpcServer::new(config());
        let (ours, result) = feed(&mut server, &sent, &[at, usize::MAX], serve);
        assert_eq!((result, &ours), (None, &expected), "split at {at}");
    }
    let (ours, _) = feed(&mut PrpcServer::new(config()), &sent, &[1], serve);
    assert_eq!(ours, expected, "byte by byte");
}

/// A recording without the packet that was cut.
fn whole(recording: Vec<u8>) -> Vec<u8> {
    packets(&recording)
        .iter()
        .flat_map(|(_, bytes)| bytes.to_vec())
        .collect()
}
