//! Who may call: the credential in a connection's first message.

use std::sync::Arc;

use bytes::Bytes;

use super::super::tests::{frame, packets, request_meta, serve};
use super::super::*;
use crate::rpc::auth::Authenticator;
use crate::rpc::protocol::harness::{collect, config, feed};
use crate::rpc::protocol::{BadReason, Body, ClientSession, OutgoingCall};
use crate::rpc::status_map::ERPCAUTH;

/// A server that lets in who says `open`.
fn guarded() -> PrpcServer {
    let verify = |credential: &[u8]| match credential {
        b"open" => Ok(()),
        _ => Err("not you".to_owned()),
    };
    PrpcServer::new(Arc::new(ServerConfig {
        authenticator: Some(Authenticator::new(verify)),
        ..ServerConfig::clone(&config())
    }))
}

#[test]
fn the_first_message_vouches_for_those_after_it() {
    let mut meta = request_meta();
    let second = frame(&meta, b"two", b"");
    meta.authentication_data = Some(b"open".to_vec());
    let data = [frame(&meta, b"one", b""), second].concat();
    let (sent, bad) = feed(&mut guarded(), &data, &[5], serve);
    let answers: Vec<_> = packets(&sent).into_iter().map(|(it, _)| it.data).collect();
    assert_eq!(
        (answers, bad),
        (vec![b"one".to_vec(), b"two".to_vec()], None)
    );
}

#[test]
fn a_peer_that_is_turned_away_is_told_and_left() {
    for credential in [None, Some(b"sesame".to_vec())] {
        let before = BadReason::Unauthenticated.counted();
        let mut meta = request_meta();
        meta.authentication_data = credential;
        let mut server = guarded();
        let data = [frame(&meta, b"one", b""), frame(&meta, b"two", b"")].concat();
        let (sent, _) = feed(&mut server, &data, &[usize::MAX], serve);
        let answers = packets(&sent);
        let response = answers[0].0.meta.response.clone().unwrap();
        assert_eq!((answers.len(), response.error_code()), (1, ERPCAUTH));
        let text = response.error_text();
        assert!(
            text.contains("Fail to authenticate") && text.contains("not you"),
            "{text}"
        );
        assert!(server.is_finished());
        assert!(BadReason::Unauthenticated.counted() > before);
    }
}

#[test]
fn a_client_sends_its_credential_in_its_first_message_alone() {
    let mut client =
        PrpcClient::new(Limits::default()).with_credential(Bytes::from_static(b"open"));
    let mut server = guarded();
    for text in [&b"one"[..], b"two"] {
        let body = Body::Bytes(Bytes::copy_from_slice(text));
        client
            .call(OutgoingCall::new("example.EchoService", "Echo", body))
            .unwrap();
    }
    let mut sent = Vec::new();
    collect(client.transmit(), &mut sent);
    let carried = packets(&sent)
        .into_iter()
        .map(|(it, _)| it.meta.authentication_data);
    assert_eq!(carried.collect::<Vec<_>>(), [Some(b"open".to_vec()), None]);
    let (answers, _) = feed(&mut server, &sent, &[7], serve);
    assert_eq!(packets(&answers).len(), 2);
}
