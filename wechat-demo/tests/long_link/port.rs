//! The port for terminals: limits, endings, and what else than plain long links it speaks.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rpc_core::ServerTls;
use wechat_demo::access::session::Limits;
use wechat_demo::longlink::{Decoder, Frame, SEQ_NOOP};
use wechat_demo::proto::terminal as pb;
use wechat_demo::terminal::new_client_id;

use super::{authenticated, read_frame, read_to_end, rig, rig_with};

#[rpc_core::test]
fn a_link_that_never_authenticates_or_falls_silent_is_closed() {
    let short = Duration::from_millis(500);
    let hasty = rig(Limits {
        opening: short,
        ..Limits::default()
    });
    let mut mute = hasty.raw();
    let mut slow = hasty.raw();
    slow.write_all(&[0, 0]).unwrap();
    assert_eq!(read_to_end(&mut mute), b"", "it never said what it is");
    assert_eq!(read_to_end(&mut slow), b"");
    assert_eq!(hasty.access.meter().closed_for("never_authenticated"), 1);
    let patient = rig(Limits {
        idle: short,
        ..Limits::default()
    });
    let mut link = authenticated(&patient, 3);
    assert_eq!(read_to_end(&mut link), b"");
    assert_eq!(patient.access.meter().closed_for("idle"), 1);
}

#[rpc_core::test]
fn a_device_that_comes_again_takes_over_from_its_older_link() {
    let rig = rig(Limits::default());
    let mut older = authenticated(&rig, 6);
    let mut newer = authenticated(&rig, 6);
    assert_eq!(read_to_end(&mut older), b"");
    assert_eq!(rig.access.meter().closed_for("taken_over"), 1);
    newer.write_all(&noop()).unwrap();
    let beat = read_frame(&mut newer, &mut Decoder::default());
    assert_eq!(beat.seq, SEQ_NOOP);
    let links = rig.fake.users.lock().unwrap()[&6].links.len();
    assert!((1..=2).contains(&links), "the newer one stays registered");
}

#[rpc_core::test]
fn links_above_the_limit_are_turned_away_and_the_others_live() {
    let rig = rig(Limits::default());
    let mut links: Vec<_> = (1..=64).map(|user| authenticated(&rig, user)).collect();
    let mut late = rig.raw();
    late.write_all(&noop()).unwrap();
    assert_eq!(read_to_end(&mut late), b"");
    assert_eq!(rig.access.meter().closed_for("too_many_links"), 1);
    links[0].write_all(&noop()).unwrap();
    assert_eq!(
        read_frame(&mut links[0], &mut Decoder::default()).seq,
        SEQ_NOOP
    );
}

#[rpc_core::test]
fn a_drain_answers_what_is_under_way_and_then_closes() {
    let rig = rig(Limits::default());
    let mut link = authenticated(&rig, 8);
    let sync = Frame::of(4, 7, &pb::SyncRequest::default()).unwrap();
    link.write_all(&[noop(), sync.to_bytes()].concat()).unwrap();
    let mut decoder = Decoder::default();
    let first = read_frame(&mut link, &mut decoder);
    rig.access.drain();
    let second = read_frame(&mut link, &mut decoder);
    let mut seqs = [first.seq, second.seq];
    seqs.sort_unstable();
    assert_eq!(seqs, [7, SEQ_NOOP]);
    assert_eq!(read_to_end(&mut link), b"");
    assert_eq!(rig.access.meter().closed_for("draining"), 1);
}

#[rpc_core::test]
fn a_browser_says_the_same_over_websocket_on_the_same_port() {
    let rig = rig(Limits::default());
    let url = format!("ws://{}/link", rig.address);
    let (mut socket, _) = tungstenite::client(url, rig.raw()).unwrap();
    let auth = pb::AuthRequest {
        token: "5".into(),
        active: true,
    };
    let auth = Frame::of(2, 1, &auth).unwrap().to_bytes();
    // Where a message ends means nothing: here inside a header.
    let (head, tail) = auth.split_at(7);
    socket.send(binary(head)).unwrap();
    socket.send(binary(tail)).unwrap();
    let mut decoder = Decoder::default();
    let reply = read_message(&mut socket, &mut decoder);
    assert_eq!((reply.cmd, reply.seq), (2, 1));
    assert_eq!(pb::Reply::decode(reply.body).unwrap().code, 0);
    // A ping of WebSocket's own is answered beside the packets.
    socket
        .send(tungstenite::Message::Ping("here?".into()))
        .unwrap();
    assert_eq!(
        socket.read().unwrap(),
        tungstenite::Message::Pong("here?".into())
    );
    let (alice, alices) = rig.terminal(1);
    alice
        .send(5, new_client_id(), "to the page".into())
        .unwrap();
    alices.wait("the acknowledgement", |told| told.acked.len() == 1);
    let pushed = read_message(&mut socket, &mut decoder);
    let notify = pb::Notify::decode(pushed.body).unwrap();
    assert_eq!((pushed.cmd, notify.key), (10001, 1));
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    assert_eq!(rig.access.meter().closed_for("bad_websocket"), 0);
    alice.stop();
}

#[rpc_core::test]
fn what_is_no_websocket_is_answered_and_costs_nobody_else() {
    let rig = rig(Limits::default());
    let mut plain = rig.raw();
    plain
        .write_all(b"GET /link HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    let answer = read_to_end(&mut plain);
    assert!(answer.starts_with(b"HTTP/1.1 426 "), "{answer:?}");
    let url = format!("ws://{}/link", rig.address);
    let (mut socket, _) = tungstenite::client(&url, rig.raw()).unwrap();
    socket
        .send(tungstenite::Message::Text("hello".into()))
        .unwrap();
    while socket.read().is_ok() {}
    let (mut socket, _) = tungstenite::client(&url, rig.raw()).unwrap();
    socket.send(binary(&[0; 100_000])).unwrap();
    while socket.read().is_ok() {}
    assert_eq!(rig.access.meter().closed_for("bad_websocket"), 3);
}

#[rpc_core::test]
fn a_link_over_tls_on_the_same_port_is_a_link() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let tls = ServerTls::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    let rig = rig_with(Limits::default(), Some(tls));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut link = rustls::StreamOwned::new(client, rig.raw());
    let auth = pb::AuthRequest {
        token: "5".into(),
        active: true,
    };
    link.write_all(&Frame::of(2, 1, &auth).unwrap().to_bytes())
        .unwrap();
    let mut decoder = Decoder::default();
    let reply = read_frame(&mut link, &mut decoder);
    assert_eq!(pb::Reply::decode(reply.body).unwrap().code, 0);
    // A push that nobody asked for finds its way through TLS.
    let message = pb::Message {
        message_id: 1,
        sender: 1,
        receiver: 5,
        ..Default::default()
    };
    rig.fake.commit(5, &message, 1);
    assert_eq!(read_frame(&mut link, &mut decoder).cmd, 10001);
    drop(authenticated(&rig, 6));
}

/// Payload of TCP alone, header of the packet included, with ids and keys as long as they get.
#[rpc_core::test]
fn asking_what_is_new_when_nothing_is_costs_64_bytes_each_way_at_most() {
    let rig = rig(Limits::default());
    let user = u64::MAX;
    let mut link = authenticated(&rig, user);
    let message = pb::Message::default();
    rig.fake.commit(user, &message, 1);
    let key = rig.fake.lift(user, u64::MAX >> 1);
    let sync = pb::SyncRequest {
        key,
        ..Default::default()
    };
    let sync = Frame::of(4, 3, &sync).unwrap().to_bytes();
    link.write_all(&sync).unwrap();
    let mut decoder = Decoder::default();
    let answer = std::iter::from_fn(|| Some(read_frame(&mut link, &mut decoder)))
        .find(|frame| frame.seq == 3)
        .unwrap()
        .to_bytes();
    assert!(
        sync.len() <= 64 && answer.len() <= 64,
        "{} and {}",
        sync.len(),
        answer.len()
    );
    link.write_all(&noop()).unwrap();
    let beat = read_frame(&mut link, &mut decoder).to_bytes();
    assert!(
        noop().len() <= 64 && beat.len() <= 64,
        "a beat asks the same: {}",
        beat.len()
    );
}

fn noop() -> Bytes {
    Frame {
        cmd: 6,
        seq: SEQ_NOOP,
        body: Bytes::new(),
    }
    .to_bytes()
}

fn binary(bytes: &[u8]) -> tungstenite::Message {
    tungstenite::Message::Binary(Bytes::copy_from_slice(bytes))
}

fn read_message(socket: &mut tungstenite::WebSocket<TcpStream>, decoder: &mut Decoder) -> Frame {
    loop {
        if let Some(frame) = decoder.next_frame().unwrap() {
            return frame;
        }
        match socket.read().unwrap() {
            tungstenite::Message::Binary(packets) => decoder.feed(&packets),
            other => panic!("no packets: {other:?}"),
        }
    }
}
