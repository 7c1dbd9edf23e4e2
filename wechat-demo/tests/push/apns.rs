//! A push service on loopback that speaks Apple's API: HTTP/2 (the h2 crate's) inside TLS, a provider's token
//! whose signature is verified, device tokens, topics, and trouble when a test asks for it.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub const TOPIC: &str = "org.example.chat";
pub const KEY_ID: &str = "KEY1";
pub const TEAM_ID: &str = "TEAM1";
/// Between two looks at a connection.
const LOOK: Duration = Duration::from_millis(1);

/// The service.
pub struct Apns {
    pub address: SocketAddr,
    /// The certificate to trust, PEM.
    pub roots: String,
    /// The provider's key, PEM.
    pub key: String,
    pub state: Arc<State>,
}

/// What a test sees and says.
#[derive(Default)]
pub struct State {
    /// Answers to the next requests that are in order, before all are taken: status, reason, more fields.
    pub script: Mutex<VecDeque<(u16, &'static str)>>,
    /// Every request that was in order, and what it was answered.
    got: Mutex<Vec<Got>>,
    /// What was not in order, in words.
    wrong: Mutex<Vec<String>>,
    pub connections: AtomicUsize,
    /// Requests are read and not answered.
    pub hold: AtomicBool,
    /// Says GOAWAY on the connections there are, once.
    pub go_away: AtomicBool,
    public: Vec<u8>,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Got {
    pub token: String,
    pub id: String,
    pub collapse_id: String,
    pub bearer: String,
    pub number: u64,
    /// 0 = not answered.
    pub status: u16,
}

impl Apns {
    pub fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let config = Arc::new(config);
        let pair = rcgen::KeyPair::generate().unwrap();
        let state = Arc::new(State {
            public: rcgen::PublicKeyData::der_bytes(&pair).to_vec(),
            ..State::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::clone(&state);
        // It ends with the process of the test.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, state) = (Arc::clone(&config), Arc::clone(&shared));
                state.connections.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || serve(stream, config, &state));
            }
        });
        Self {
            address,
            roots: made.cert.pem(),
            key: pair.serialize_pem(),
            state,
        }
    }
}

impl State {
    /// The next requests are answered so.
    pub fn say(&self, answers: &[(u16, &'static str)]) {
        self.script.lock().unwrap().extend(answers);
    }

    /// All requests in order so far. What was out of order fails the test.
    pub fn got(&self) -> Vec<Got> {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "requests were wrong: {wrong:?}");
        self.got.lock().unwrap().clone()
    }

    /// Those of a device that were taken.
    pub fn taken(&self, token: &str) -> Vec<Got> {
        let mut got = self.got();
        got.retain(|push| push.token == token && push.status == 200);
        got
    }

    /// What a request says, or why it is refused.
    fn read(&self, head: &http::request::Parts, body: &[u8]) -> Result<Got, (u16, String)> {
        let field = |name: &str| {
            let value = head.headers.get(name).and_then(|value| value.to_str().ok());
            value
                .map(str::to_owned)
                .ok_or((400, format!("no field {name}")))
        };
        let refuse = |reason: &str| Err((400, reason.to_owned()));
        if head.method != http::Method::POST {
            return Err((405, "MethodNotAllowed".to_owned()));
        }
        let token = head.uri.path().strip_prefix("/3/device/");
        let token = token.ok_or((404, "BadPath".to_owned()))?.to_owned();
        let bearer = field("authorization")?;
        self.verify(&bearer)?;
        if field("apns-topic")? != TOPIC {
            return refuse("TopicDisallowed");
        }
        if field("apns-push-type")? != "alert" || field("apns-priority")? != "10" {
            return refuse("InvalidPushType");
        }
        let id = field("apns-id")?;
        if id.len() != 36 || !id.chars().all(|c| c.is_ascii_hexdigit() || c == '-') {
            return refuse("BadMessageId");
        }
        let collapse_id = field("apns-collapse-id")?;
        if collapse_id.len() > 64 {
            return refuse("BadCollapseId");
        }
        if field("apns-expiration")?.parse::<u64>().is_err() {
            return refuse("BadExpirationDate");
        }
        let payload: serde_json::Value =
            serde_json::from_slice(body).map_err(|error| (400, error.to_string()))?;
        let number = payload["key"].as_u64();
        match number {
            Some(number) if payload["aps"]["alert"].is_object() => Ok(Got {
                token,
                id,
                collapse_id,
                bearer,
                number,
                status: 0,
            }),
            _ => refuse("PayloadEmpty"),
        }
    }

    fn verify(&self, bearer: &str) -> Result<(), (u16, String)> {
        let refuse = || (403, "InvalidProviderToken".to_owned());
        let token = bearer.strip_prefix("bearer ").ok_or_else(refuse)?;
        let (signed, signature) = token.rsplit_once('.').ok_or_else(refuse)?;
        let signature = BASE64.decode(signature).map_err(|_| refuse())?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.public)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| refuse())?;
        let (head, claims) = signed.split_once('.').ok_or_else(refuse)?;
        let read = |part: &str| -> serde_json::Value {
            let json = BASE64.decode(part).unwrap_or_default();
            serde_json::from_slice(&json).unwrap_or_default()
        };
        let (head, claims) = (read(head), read(claims));
        let made_s = claims["iat"].as_u64().unwrap_or(0);
        let now_s = rpc_core::base::time::unix_nanos() / 1_000_000_000;
        if now_s.abs_diff(made_s) > 3600 {
            return Err((403, "ExpiredProviderToken".to_owned()));
        }
        let known = head["alg"] == "ES256" && head["kid"] == KEY_ID && claims["iss"] == TEAM_ID;
        known.then_some(()).ok_or_else(refuse)
    }
}

/// Drives one connection by looking at it again and again: simple, and quick enough here.
fn serve(socket: TcpStream, config: Arc<ServerConfig>, state: &Arc<State>) {
    socket.set_nonblocking(true).unwrap();
    let tls = ServerConnection::new(config).unwrap();
    let stream = Looked(StreamOwned::new(tls, socket));
    let mut context = Context::from_waker(Waker::noop());
    let mut handshake = Box::pin(h2::server::handshake(stream));
    let mut connection: Connection<_, Bytes> = loop {
        match handshake.as_mut().poll(&mut context) {
            Poll::Ready(Ok(connection)) => break connection,
            Poll::Ready(Err(_)) => return,
            Poll::Pending => thread::sleep(LOOK),
        }
    };
    let mut handlers: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    loop {
        if state.go_away.swap(false, Ordering::SeqCst) {
            connection.graceful_shutdown();
        }
        match connection.poll_accept(&mut context) {
            Poll::Ready(Some(Ok((request, respond)))) => {
                handlers.push(Box::pin(handle(request, respond, Arc::clone(state))));
                continue;
            }
            Poll::Ready(_) => return,
            Poll::Pending => {}
        }
        handlers.retain_mut(|handler| handler.as_mut().poll(&mut context).is_pending());
        thread::sleep(LOOK);
    }
}

async fn handle(
    request: http::Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    state: Arc<State>,
) {
    let (head, mut body) = request.into_parts();
    let mut bytes = Vec::new();
    while let Some(Ok(part)) = body.data().await {
        bytes.extend_from_slice(&part);
        let _ = body.flow_control().release_capacity(part.len());
    }
    let (status, reason) = match state.read(&head, &bytes) {
        Err((status, reason)) => {
            state.wrong.lock().unwrap().push(reason.clone());
            (status, reason)
        }
        Ok(got) => {
            let at = {
                let mut all = state.got.lock().unwrap();
                all.push(got);
                all.len() - 1
            };
            while state.hold.load(Ordering::SeqCst) {
                pause().await;
            }
            let next = state.script.lock().unwrap().pop_front();
            let (status, reason) = next.unwrap_or((200, ""));
            state.got.lock().unwrap()[at].status = status;
            (status, reason.to_owned())
        }
    };
    let mut response = http::Response::builder().status(status);
    if status == 503 {
        response = response.header("retry-after", "1");
    }
    let response = response.body(()).unwrap();
    let json = serde_json::json!({ "reason": reason, "timestamp": i64::MAX }).to_string();
    let body = if status == 200 { String::new() } else { json };
    // The peer may be gone.
    if let Ok(mut stream) = respond.send_response(response, body.is_empty())
        && !body.is_empty()
    {
        let _ = stream.send_data(body.into(), true);
    }
}

/// Until the next look.
async fn pause() {
    let mut looked = false;
    std::future::poll_fn(|_| match std::mem::replace(&mut looked, true) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

/// A stream that never blocks, for somebody who looks again anyway.
struct Looked(StreamOwned<ServerConnection, TcpStream>);

fn looked<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

impl AsyncRead for Looked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = self.0.read(buffer.initialize_unfilled());
        looked(result.map(|n| buffer.advance(n)))
    }
}

impl AsyncWrite for Looked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        looked(self.0.write(bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        looked(self.0.flush())
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}
