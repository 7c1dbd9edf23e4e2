//! Plain requests over HTTP/2, from the client's end: for services of the web that are no RPC.
//!
//! Knows: heads and bodies, which request an answer belongs to.
//! Does not know: sockets, TLS, the clock, what a request is for.
//!
//! Sans-I/O as every session: see the steps in [`super`]. Several requests are under way at once on a
//! connection; each ends in one [`Outcome`].

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{BufMut, Bytes};

use super::http2::frame::ErrorCode;
use super::http2::{Bounds, Event, Fields, Inbox, Role, Session};
use super::{Bad, Body};
use crate::base::time::Instant;

/// The client's end of a connection that carries plain requests.
pub struct Requests {
    session: Session<Answer>,
    /// The block that the session read last.
    block: Block,
    authority: Box<str>,
    max_body: usize,
    ended: VecDeque<(u64, Outcome)>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct PlainRequest<'a> {
    /// `GET`, `POST` …
    pub method: &'a str,
    /// From the slash on; sent as it is.
    pub path: &'a str,
    /// More fields of the head; names are in lower case.
    pub fields: &'a [(&'a str, &'a str)],
    /// The body; empty = none.
    pub body: &'a Bytes,
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PlainResponse {
    /// As sent; 0 = it was no number.
    pub status: u16,
    /// The head's fields, in their order, values read as UTF-8 where they are not.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl PlainResponse {
    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        let found = fields.find(|(known, _)| known == name);
        found.map(|(_, value)| &value[..])
    }
}

/// How a request ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was answered.
    Answered(PlainResponse),
    /// The server did not look at it and never will: it may be sent again, on another connection.
    Unprocessed,
    /// The server broke it off, or its answer is too large: with this error of HTTP/2.
    Broken(u32),
}

#[derive(Default)]
struct Answer {
    token: u64,
    response: PlainResponse,
}

impl Inbox for Answer {
    /// Bodies are small: they come through the session's buffer.
    fn space(&mut self, _most: usize) -> Option<&mut dyn BufMut> {
        None
    }
}

#[derive(Default)]
struct Block(Vec<(String, String)>);

impl Fields for Block {
    fn clear(&mut self) {
        self.0.clear();
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        self.0.push((text(name), text(value)));
    }
}

/// Bytes of an answer's head, by RFC 9113's count.
const MAX_HEAD: usize = 16 << 10;

impl Requests {
    /// Of a connection to `authority` (`HOST` or `HOST:PORT`) on which nothing was sent. An answer has at most
    /// `max_body` bytes. A server that is silent for `keepalive` while something is under way is asked for a
    /// sign of life.
    pub fn new(authority: &str, max_body: usize, keepalive: Duration) -> Self {
        let bounds = Bounds {
            max_streams: 0,
            max_head: MAX_HEAD,
            keepalive: Some(keepalive),
        };
        Self {
            session: Session::new(Role::Client, bounds),
            block: Block::default(),
            authority: authority.into(),
            max_body,
            ended: VecDeque::new(),
        }
    }

    /// Whether the server takes one more request now.
    pub fn can_send(&self) -> bool {
        self.session.can_open()
    }

    /// True once the connection takes no further request ever: the server is going away, or something was
    /// wrong.
    pub fn is_spent(&self) -> bool {
        self.session.is_spent()
    }

    /// Sends a request over TLS (`:scheme` says so); its end comes under `token`. False if it cannot be sent
    /// now.
    pub fn send(&mut self, token: u64, request: PlainRequest<'_>) -> bool {
        let answer = Answer {
            token,
            response: PlainResponse::default(),
        };
        let Some(id) = self.session.open(answer) else {
            return false;
        };
        let (authority, empty) = (&self.authority, request.body.is_empty());
        self.session.block(id, empty, |encoder, out| {
            let head = [
                (":method", request.method),
                (":scheme", "https"),
                (":authority", authority),
            ];
            for (name, value) in head {
                encoder.field(name.as_bytes(), value.as_bytes(), out);
            }
            encoder.once(b":path", request.path.as_bytes(), out);
            for (name, value) in request.fields {
                encoder.field(name.as_bytes(), value.as_bytes(), out);
            }
        });
        if !empty {
            let body = Body::Bytes(request.body.clone());
            self.session.data(id, &[], body, true);
        }
        true
    }

    /// Where the next bytes go.
    pub fn recv_space(&mut self) -> &mut dyn BufMut {
        self.session.recv_space()
    }

    /// Takes note of `n` bytes written into [`Requests::recv_space`] at `now`.
    ///
    /// # Errors
    /// The connection cannot go on. What is under way has no end any more.
    pub fn received(&mut self, n: usize, now: Instant) -> Result<(), Bad> {
        self.session.received(n, now);
        while let Some(event) = self.session.next(&mut self.block) {
            self.take(event);
        }
        self.session.bad().map_or(Ok(()), Err)
    }

    /// What has ended next.
    pub fn next_ended(&mut self) -> Option<(u64, Outcome)> {
        self.ended.pop_front()
    }

    /// The bytes to write, in order.
    pub fn transmit(&mut self) -> &mut VecDeque<Bytes> {
        self.session.transmit()
    }

    /// When [`Requests::timed_out`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.session.deadline()
    }

    /// [`Requests::deadline`] has come.
    ///
    /// # Errors
    /// The server gave no sign of life.
    pub fn timed_out(&mut self, now: Instant) -> Result<(), Bad> {
        self.session.timed_out(now);
        self.session.bad().map_or(Ok(()), Err)
    }

    fn take(&mut self, event: Event<Answer>) {
        match event {
            Event::Head { id, end } => {
                let fields = std::mem::take(&mut self.block.0);
                if let Some(answer) = self.session.inbox(id) {
                    let response = &mut answer.response;
                    for (name, value) in fields {
                        match &name[..] {
                            ":status" => response.status = value.parse().unwrap_or(0),
                            _ => response.fields.push((name, value)),
                        }
                    }
                }
                self.end_if(id, end);
            }
            Event::Data { id, data, end } => {
                let room = match self.session.inbox(id) {
                    None => return,
                    Some(answer) => {
                        let body = &mut answer.response.body;
                        let room = body.len() + data.len() <= self.max_body;
                        if room {
                            body.extend_from_slice(&data);
                        }
                        room
                    }
                };
                if room {
                    self.session.credit(id, data.len());
                    self.end_if(id, end);
                } else if let Some(answer) = self.session.reset(id, ErrorCode::CANCEL) {
                    let outcome = Outcome::Broken(ErrorCode::CANCEL.0);
                    self.ended.push_back((answer.token, outcome));
                }
            }
            Event::Placed { id, end } => self.end_if(id, end),
            Event::Trailers { id } => self.end_if(id, true),
            Event::Reset { code, inbox, .. } => {
                let outcome = match code {
                    ErrorCode::REFUSED_STREAM => Outcome::Unprocessed,
                    other => Outcome::Broken(other.0),
                };
                self.ended.push_back((inbox.token, outcome));
            }
            Event::Unprocessed { inbox } => {
                self.ended.push_back((inbox.token, Outcome::Unprocessed));
            }
            Event::HeadTooLarge { .. } | Event::Writable { .. } | Event::GoingAway => {}
        }
    }

    fn end_if(&mut self, id: u32, end: bool) {
        if end && let Some(answer) = self.session.end_from_peer(id) {
            let outcome = Outcome::Answered(answer.response);
            self.ended.push_back((answer.token, outcome));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::protocol::call::fill;

    /// A server that a test has answer as it likes.
    struct Peer {
        session: Session<Answer>,
        heads: Vec<(u32, Vec<(String, String)>)>,
        bodies: Vec<u8>,
    }

    impl Peer {
        fn new(max_streams: usize) -> Self {
            let bounds = Bounds {
                max_streams,
                max_head: MAX_HEAD,
                keepalive: None,
            };
            Self {
                session: Session::new(Role::Server, bounds),
                heads: Vec::new(),
                bodies: Vec::new(),
            }
        }

        fn answer(&mut self, id: u32, status: &str, body: &'static [u8]) {
            self.session.block(id, body.is_empty(), |encoder, out| {
                encoder.field(b":status", status.as_bytes(), out);
                encoder.field(b"x-id", id.to_string().as_bytes(), out);
            });
            if !body.is_empty() {
                self.session
                    .data(id, &[], Body::Bytes(Bytes::from_static(body)), true);
            }
        }
    }

    /// Carries bytes both ways until nothing moves.
    fn settle(client: &mut Requests, peer: &mut Peer) {
        let now = Instant::from_nanos(1);
        loop {
            let up: Vec<u8> = client.transmit().drain(..).flatten().collect();
            let mut rest = &up[..];
            while !rest.is_empty() {
                let n = fill(peer.session.recv_space(), rest);
                rest = &rest[n..];
                peer.session.received(n, now);
                let mut block = Block::default();
                while let Some(event) = peer.session.next(&mut block) {
                    match event {
                        Event::Head { id, .. } => peer.heads.push((id, block.0.clone())),
                        Event::Data { data, .. } => peer.bodies.extend_from_slice(&data),
                        _ => {}
                    }
                }
            }
            let down: Vec<u8> = peer.session.transmit().drain(..).flatten().collect();
            if up.is_empty() && down.is_empty() {
                return;
            }
            let mut rest = &down[..];
            while !rest.is_empty() {
                let n = fill(client.recv_space(), rest);
                rest = &rest[n..];
                client.received(n, now).unwrap();
            }
        }
    }

    fn request<'a>(path: &'a str, body: &'a Bytes) -> PlainRequest<'a> {
        PlainRequest {
            method: "POST",
            path,
            fields: &[("x-kind", "test")],
            body,
        }
    }

    fn client() -> Requests {
        Requests::new("example.com", 16, Duration::from_secs(60))
    }

    #[test]
    fn requests_are_answered_in_any_order_each_under_its_token() {
        let (mut client, mut peer) = (client(), Peer::new(10));
        let body = Bytes::from_static(b"{}");
        assert!(client.send(7, request("/a", &body)));
        assert!(client.send(8, request("/b", &Bytes::new())));
        settle(&mut client, &mut peer);
        let (first, second) = (peer.heads[0].0, peer.heads[1].0);
        let has = |at: usize, name: &str, value: &str| {
            let field = (name.to_owned(), value.to_owned());
            assert!(peer.heads[at].1.contains(&field), "{:?}", peer.heads[at]);
        };
        has(0, ":path", "/a");
        has(1, ":path", "/b");
        has(0, ":scheme", "https");
        has(0, ":authority", "example.com");
        has(1, "x-kind", "test");
        assert_eq!(peer.bodies, b"{}");
        peer.answer(second, "200", b"");
        peer.answer(first, "410", b"gone");
        settle(&mut client, &mut peer);
        let Some((8, Outcome::Answered(answer))) = client.next_ended() else {
            panic!("the second was answered first")
        };
        assert_eq!((answer.status, answer.body.len()), (200, 0));
        let Some((7, Outcome::Answered(answer))) = client.next_ended() else {
            panic!("then the first")
        };
        assert_eq!((answer.status, &answer.body[..]), (410, &b"gone"[..]));
        assert_eq!(answer.field("x-id"), Some(&first.to_string()[..]));
        assert_eq!(client.next_ended(), None);
    }

    #[test]
    fn no_more_requests_are_sent_than_the_server_takes() {
        let (mut client, mut peer) = (client(), Peer::new(1));
        settle(&mut client, &mut peer);
        assert!(client.send(1, request("/a", &Bytes::new())));
        assert!(!client.can_send() && !client.send(2, request("/b", &Bytes::new())));
        assert!(!client.is_spent());
        settle(&mut client, &mut peer);
        peer.answer(peer.heads[0].0, "200", b"");
        settle(&mut client, &mut peer);
        assert!(client.send(2, request("/b", &Bytes::new())));
    }

    #[test]
    fn a_server_that_goes_away_says_what_it_did_not_look_at() {
        let (mut client, mut peer) = (client(), Peer::new(10));
        client.send(1, request("/a", &Bytes::new()));
        settle(&mut client, &mut peer);
        let id = peer.heads[0].0;
        let pushed = peer.session.reset(id, ErrorCode::REFUSED_STREAM);
        assert!(pushed.is_some());
        peer.session.drain();
        settle(&mut client, &mut peer);
        assert_eq!(client.next_ended(), Some((1, Outcome::Unprocessed)));
        assert!(client.is_spent() && !client.send(2, request("/b", &Bytes::new())));
    }

    #[test]
    fn an_answer_that_is_too_large_ends_its_request_alone() {
        let (mut client, mut peer) = (client(), Peer::new(10));
        client.send(1, request("/a", &Bytes::new()));
        client.send(2, request("/b", &Bytes::new()));
        settle(&mut client, &mut peer);
        peer.answer(peer.heads[0].0, "200", b"more than sixteen bytes");
        peer.answer(peer.heads[1].0, "200", b"few");
        settle(&mut client, &mut peer);
        assert_eq!(client.next_ended(), Some((1, Outcome::Broken(8))));
        assert!(matches!(
            client.next_ended(),
            Some((2, Outcome::Answered(_)))
        ));
    }
}
