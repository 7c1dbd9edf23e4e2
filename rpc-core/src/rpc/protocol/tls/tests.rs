//! Two ends without a socket: what is said inside arrives, however the cipher text is cut.

use rcgen::{CertificateParams, Issuer, KeyPair};

use super::*;
use crate::base::time::Instant;
use crate::rpc::protocol::harness::{self, echo};
use crate::rpc::protocol::http1::Http1;
use crate::rpc::protocol::prpc::{Prpc, PrpcClient};
use crate::rpc::protocol::{Body, ClientEvent, ClientSession, Limits, OutgoingCall, ServerEvent};
use crate::rpc::tls::ClientTls;

/// A certificate, its key, and the root that signed it, in PEM.
struct Signed {
    chain: String,
    key: String,
    root: String,
}

fn signed(name: &str) -> Signed {
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate().unwrap();
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
    Signed {
        chain: leaf.pem(),
        key: key.serialize_pem(),
        root: root_pem,
    }
}

fn server_tls(signed: &Signed) -> ServerTls {
    ServerTls::from_pem(signed.chain.as_bytes(), signed.key.as_bytes()).unwrap()
}

fn server(tls: &ServerTls) -> Box<dyn ServerSession> {
    let plain: Vec<Arc<dyn Protocol>> = vec![Arc::new(Prpc), Arc::new(Http1)];
    let inside: Arc<dyn Protocol> = Arc::new(Tls::new(tls, plain.clone()).unwrap());
    let base = harness::config();
    let config = Arc::new(ServerConfig {
        limits: base.limits.clone(),
        identity: base.identity.clone(),
        proxy_header: false,
        routes: Arc::clone(&base.routes),
        protocols: [vec![inside], plain].concat(),
        authenticator: None,
        cors: None,
    });
    server_session(&config)
}

fn client(tls: &ClientTls, name: &str) -> TlsClient {
    let config = tls.config(&[]).unwrap();
    let tls = rustls::ClientConnection::new(config, tls.name_for(name).unwrap()).unwrap();
    TlsClient::new(tls, Box::new(PrpcClient::new(Limits::default())))
}

/// Moves what one end sends to the other in pieces of `size`. False if nothing was sent.
fn carry(
    from: &mut VecDeque<Bytes>,
    size: usize,
    mut take: impl FnMut(&[u8]) -> Result<(), Bad>,
) -> Result<bool, Bad> {
    let bytes: Vec<u8> = from.drain(..).flatten().collect();
    bytes.chunks(size).try_for_each(&mut take)?;
    Ok(!bytes.is_empty())
}

fn give_client(client: &mut TlsClient, bytes: &[u8]) -> Result<(), Bad> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let taken = fill(client.recv_space(), rest);
        client.received(taken, Instant::ZERO)?;
        rest = &rest[taken..];
    }
    Ok(())
}

fn give_server(server: &mut dyn ServerSession, bytes: &[u8]) -> Result<(), Bad> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let taken = fill(server.recv_space(), rest);
        server.received(taken, Instant::ZERO)?;
        rest = &rest[taken..];
        while let Some(event) = server.next_event() {
            match event {
                ServerEvent::Call(call) => echo(server, call),
                other => panic!("only calls are made here: {other:?}"),
            }
        }
    }
    Ok(())
}

/// Talks until both ends are silent; the answers that came.
fn talk(
    client: &mut TlsClient,
    server: &mut dyn ServerSession,
    size: usize,
) -> Result<Vec<ClientEvent>, Bad> {
    let mut events = Vec::new();
    loop {
        let up = carry(client.transmit(), size, |b| give_server(server, b));
        let down = carry(server.transmit(), size, |b| give_client(client, b));
        events.extend(std::iter::from_fn(|| client.next_event()));
        if !(up? | down?) {
            return Ok(events);
        }
    }
}

fn echo_of(client: &mut TlsClient, server: &mut dyn ServerSession, body: &Bytes, size: usize) {
    let call = OutgoingCall::new("example.EchoService", "Echo", Body::Bytes(body.clone()));
    client.call(call).unwrap();
    let events = talk(client, server, size).unwrap();
    let [ClientEvent::Reply { result, .. }] = &events[..] else {
        panic!("one answer is due: {events:?}");
    };
    assert_eq!(&result.as_ref().unwrap().body.data, body);
}

#[test]
fn calls_pass_however_the_cipher_text_is_cut() {
    let signed = signed("example.test");
    let tls = server_tls(&signed);
    let trust = ClientTls::from_roots(signed.root.as_bytes()).unwrap();
    for size in [1, 2, 7, 100, 5000, usize::MAX] {
        let (mut client, mut server) = (client(&trust, "example.test"), server(&tls));
        for length in [10, 5000, 200_000] {
            let body = Bytes::from(vec![length as u8; length]);
            echo_of(&mut client, &mut *server, &body, size);
        }
        let peer = server.peer().expect("the handshake is done");
        assert_eq!(peer.server_name.as_deref(), Some("example.test"));
        assert!(peer.certificates.is_empty());
        assert!(client.is_idle() && server.is_idle());
    }
}

#[test]
fn a_server_that_is_not_trusted_is_named_and_costs_its_connection() {
    let (ours, others) = (signed("example.test"), signed("example.test"));
    let trust = ClientTls::from_roots(others.root.as_bytes()).unwrap();
    let (mut client, mut server) = (client(&trust, "example.test"), server(&server_tls(&ours)));
    let before = BadReason::Tls.counted();
    assert!(talk(&mut client, &mut *server, usize::MAX).is_err());
    let why = client.failure().unwrap();
    assert!(why.contains("invalid peer certificate"), "{why}");
    assert!(BadReason::Tls.counted() > before);
}

#[test]
fn the_name_decides_which_certificate_is_shown() {
    let (any, named) = (signed("any.test"), signed("a.example.test"));
    let tls = server_tls(&any)
        .add_name(
            "*.example.test",
            named.chain.as_bytes(),
            named.key.as_bytes(),
        )
        .unwrap();
    for (signed, name) in [(&any, "any.test"), (&named, "a.example.test")] {
        let trust = ClientTls::from_roots(signed.root.as_bytes()).unwrap();
        let (mut client, mut server) = (client(&trust, name), server(&tls));
        echo_of(&mut client, &mut *server, &Bytes::from_static(b"x"), 50);
    }
}

#[test]
fn a_client_shows_its_certificate_where_one_is_asked_for() {
    let (ours, theirs) = (signed("example.test"), signed("client.test"));
    let tls = server_tls(&ours)
        .client_roots(theirs.root.as_bytes(), true)
        .unwrap();
    let trust = ClientTls::from_roots(ours.root.as_bytes()).unwrap();
    let known = trust
        .clone()
        .identity(theirs.chain.as_bytes(), theirs.key.as_bytes())
        .unwrap();
    let (mut with, mut server_a) = (client(&known, "example.test"), server(&tls));
    echo_of(&mut with, &mut *server_a, &Bytes::from_static(b"x"), 50);
    let peer = server_a.peer().unwrap();
    assert_eq!(peer.certificates.len(), 1);
    let (mut without, mut server_b) = (client(&trust, "example.test"), server(&tls));
    assert!(talk(&mut without, &mut *server_b, usize::MAX).is_err());
}

#[test]
fn tls_inside_tls_is_no_protocol() {
    let signed = signed("example.test");
    let trust = ClientTls::from_roots(signed.root.as_bytes()).unwrap();
    let config = trust.config(&[]).unwrap();
    let name = || trust.name_for("example.test").unwrap();
    let mut outer = Cipher::new(Connection::Client(
        rustls::ClientConnection::new(Arc::clone(&config), name()).unwrap(),
    ));
    let inner = rustls::ClientConnection::new(config, name()).unwrap();
    let mut inner = Cipher::new(Connection::Client(inner));
    let mut server = server(&server_tls(&signed));
    let before = BadReason::UnknownProtocol.counted();
    for _ in 0..4 {
        outer.seal(inner.transmit());
        for piece in std::mem::take(outer.transmit()) {
            let _ = give_server(&mut *server, &piece);
        }
        for piece in std::mem::take(server.transmit()) {
            fill(outer.recv_space(), &piece);
            outer.received().unwrap();
        }
    }
    assert!(server.is_finished());
    assert!(BadReason::UnknownProtocol.counted() > before);
}

#[test]
fn damage_and_a_handshake_that_never_ends_close_the_connection() {
    let signed = signed("example.test");
    let tls = server_tls(&signed);
    let mut damaged = server(&tls);
    let hello = [b"\x16\x03\x01\x00\x05".as_slice(), b"\x01\x00\x00\x01\xff"].concat();
    assert!(give_server(&mut *damaged, &hello).is_err());

    let mut slow = server(&tls);
    give_server(&mut *slow, &hello[..7]).unwrap();
    let deadline = slow.deadline().expect("a handshake has its time");
    assert!(slow.timed_out(deadline).is_err());
}

#[test]
fn what_is_no_certificate_is_said() {
    let (one, other) = (signed("a.test"), signed("a.test"));
    let no = |result: Result<ServerTls, Error>| result.unwrap_err().to_string();
    let text = no(ServerTls::from_pem(b"", one.key.as_bytes()));
    assert!(text.contains("BEGIN CERTIFICATE"), "{text}");
    let text = no(ServerTls::from_pem(one.chain.as_bytes(), b"x"));
    assert!(text.contains("BEGIN PRIVATE KEY"), "{text}");
    let text = no(ServerTls::from_pem(
        one.chain.as_bytes(),
        other.key.as_bytes(),
    ));
    assert!(text.contains("TLS"), "{text}");
    let tls = server_tls(&one);
    assert!(
        tls.replace(one.chain.as_bytes(), other.key.as_bytes())
            .is_err()
    );
    let trust = ClientTls::from_roots(one.root.as_bytes()).unwrap();
    let (mut client, mut server) = (client(&trust, "a.test"), server(&tls));
    echo_of(&mut client, &mut *server, &Bytes::from_static(b"still"), 50);
}
