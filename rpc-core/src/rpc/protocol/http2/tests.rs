//! Two sessions against each other without a socket, and peers that misbehave.

use bytes::{Buf, Bytes, BytesMut, buf::Limit};

use super::frame::{FRAME_DEFAULT, PREFACE};
use super::*;
use crate::rpc::protocol::Body;
use crate::rpc::protocol::call::fill;

/// What a test keeps with a stream: the data that came, whole.
#[derive(Debug, Default)]
struct Kept {
    data: Vec<u8>,
    /// Offered for direct reads while a test wants that.
    place: Option<Limit<BytesMut>>,
}

impl Inbox for Kept {
    fn space(&mut self, most: usize) -> Option<&mut dyn BufMut> {
        let place = self.place.as_mut()?;
        place.get_mut().reserve(most.min(FRAME_DEFAULT));
        place.set_limit(most.min(FRAME_DEFAULT));
        Some(place)
    }
}

#[derive(Default)]
struct List(Vec<(String, String)>);

impl Fields for List {
    fn clear(&mut self) {
        self.0.clear();
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.0.push((text(name), text(value)));
    }
}

fn bounds() -> Bounds {
    Bounds {
        max_streams: 100,
        max_head: 4096,
        keepalive: Some(Duration::from_secs(60)),
    }
}

fn server() -> Session<Kept> {
    Session::new(Role::Server, bounds())
}

/// Gives `bytes` to a session in pieces of at most `step`; all events, and all that it sends.
fn feed(session: &mut Session<Kept>, bytes: &[u8], step: usize) -> (Vec<String>, Vec<u8>) {
    let (mut rest, mut events) = (bytes, Vec::new());
    let mut fields = List::default();
    while !rest.is_empty() && session.bad().is_none() {
        let n = fill(session.recv_space(), &rest[..step.min(rest.len())]);
        rest = &rest[n..];
        session.received(n, Instant::from_nanos(1));
        while let Some(event) = session.next(&mut fields) {
            events.push(match event {
                Event::Head { id, end } => format!("head {id} {end} {:?}", fields.0),
                Event::Trailers { id } => format!("trailers {id} {:?}", fields.0),
                Event::Data { id, data, end } => format!("data {id} {} {end}", data.len()),
                Event::Reset { id, code, .. } => format!("reset {id} {}", code.0),
                other => format!("{other:?}"),
            });
        }
    }
    (events, sent(session))
}

fn sent(session: &mut Session<Kept>) -> Vec<u8> {
    session.transmit().drain(..).flatten().collect()
}

/// A frame by hand.
fn raw(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    [
        &FrameHead::new(payload.len(), kind, flags, id).bytes(),
        payload,
    ]
    .concat()
}

/// Preface and settings of a client.
fn hello() -> Vec<u8> {
    [&PREFACE[..], &raw(kind::SETTINGS, 0, 0, &[])].concat()
}

/// A request's block, never indexed.
fn request_block(more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let mut encoder = Encoder::default();
    let request = [(":method", "POST"), (":scheme", "http"), (":path", "/a/b")];
    for (name, value) in request.iter().chain(more) {
        encoder.once(name.as_bytes(), value.as_bytes(), &mut block);
    }
    block
}

fn request(id: u32, flags: u8) -> Vec<u8> {
    raw(
        kind::HEADERS,
        flag::END_HEADERS | flags,
        id,
        &request_block(&[]),
    )
}

/// Kind, flags and stream of a frame.
type Head = (u8, u8, u32);

fn frames(mut bytes: &[u8]) -> Vec<Head> {
    let mut all = Vec::new();
    while let Some(head) = FrameHead::read(bytes) {
        all.push((head.kind, head.flags, head.stream));
        bytes.advance(HEADER + head.len);
    }
    assert!(bytes.is_empty(), "frames are as long as they say");
    all
}

/// A stream that ended at the client: id, data, trailers.
type Ended = (u32, Vec<u8>, Vec<(String, String)>);

/// A server that echoes what it gets, behind `server`, driven until nothing moves.
struct Echo {
    client: Session<Kept>,
    server: Session<Kept>,
    step: usize,
    ended: Vec<Ended>,
}

impl Echo {
    fn new(step: usize) -> Self {
        Self {
            client: Session::new(Role::Client, bounds()),
            server: server(),
            step,
            ended: Vec::new(),
        }
    }

    fn ask(&mut self, body: &[u8]) -> u32 {
        let id = self.client.open(Kept::default()).expect("few are open");
        self.client.block(id, false, |encoder, out| {
            for (name, value) in [(":method", "POST"), (":scheme", "http"), (":path", "/a/b")] {
                encoder.field(name.as_bytes(), value.as_bytes(), out);
            }
        });
        self.client
            .data(id, b"pre", Body::Bytes(Bytes::copy_from_slice(body)), true);
        id
    }

    fn run(&mut self) {
        let (mut up, mut down) = (VecDeque::new(), VecDeque::new());
        loop {
            up.extend(self.client.transmit().drain(..));
            down.extend(self.server.transmit().drain(..));
            if up.is_empty() && down.is_empty() {
                return;
            }
            pass(&mut up, &mut self.server, self.step);
            let mut fields = List::default();
            while let Some(event) = self.server.next(&mut fields) {
                self.serve(event);
            }
            pass(&mut down, &mut self.client, self.step);
            while let Some(event) = self.client.next(&mut fields) {
                self.hear(event, &mut fields);
            }
            assert_eq!((self.client.bad(), self.server.bad()), (None, None));
        }
    }

    fn serve(&mut self, event: Event<Kept>) {
        match event {
            Event::Head { id, end: false } => {
                let inbox = self.server.inbox(id).unwrap();
                inbox.place = Some(BytesMut::new().limit(0));
            }
            Event::Data { id, data, end } => {
                let inbox = self.server.inbox(id).unwrap();
                let place = inbox.place.as_mut().unwrap().get_mut();
                place.extend_from_slice(&data);
                self.server.credit(id, usize::MAX);
                self.answer(id, end);
            }
            Event::Placed { id, end } => {
                self.server.credit(id, usize::MAX);
                self.answer(id, end);
            }
            Event::Writable { .. } => {}
            other => panic!("no request: {other:?}"),
        }
    }

    fn answer(&mut self, id: u32, end: bool) {
        if !end {
            return;
        }
        let body = self
            .server
            .inbox(id)
            .unwrap()
            .place
            .take()
            .unwrap()
            .into_inner();
        self.server
            .block(id, false, |_, out| Encoder::fixed(8, out));
        self.server.data(id, b"", Body::Bytes(body.freeze()), false);
        let trailers =
            |encoder: &mut Encoder, out: &mut Vec<u8>| encoder.field(b"x-end", b"yes", out);
        if self.server.is_clear(id) {
            self.server.block(id, true, trailers);
        } else {
            self.server.end_later(id, Box::new(trailers));
        }
    }

    fn hear(&mut self, event: Event<Kept>, fields: &mut List) {
        match event {
            Event::Head { .. } | Event::Writable { .. } => {}
            Event::Data { id, data, end } => {
                assert!(!end, "trailers follow");
                self.client.inbox(id).unwrap().data.extend_from_slice(&data);
                self.client.credit(id, usize::MAX);
            }
            Event::Trailers { id } => {
                let kept = self.client.end_from_peer(id).unwrap();
                self.ended
                    .push((id, kept.data, std::mem::take(&mut fields.0)));
            }
            other => panic!("no answer: {other:?}"),
        }
    }
}

fn pass(from: &mut VecDeque<Bytes>, to: &mut Session<Kept>, step: usize) {
    if let Some(front) = from.front_mut() {
        let n = fill(to.recv_space(), &front[..step.min(front.len())]);
        assert!(n > 0, "a session has space");
        front.advance(n);
        if front.is_empty() {
            from.pop_front();
        }
        to.received(n, Instant::from_nanos(7));
    }
}

#[test]
fn requests_and_answers_cross_however_they_are_cut() {
    let large: Vec<u8> = (0..1_000_000_u32).map(|i| (i / 7) as u8).collect();
    for step in [1, 2, 3, 8, 9, 10, 100, 4096, 20_000, usize::MAX] {
        let mut echo = Echo::new(step);
        // Byte by byte is slow: windows are crossed in larger pieces.
        let long = if step < 100 { 20_000 } else { large.len() };
        let mut bodies = vec![&large[..0], &large[..10], &large[..long], &large[..5000]];
        if step >= 100 {
            bodies.push(&large);
        }
        let asked: Vec<_> = bodies.iter().map(|body| (echo.ask(body), *body)).collect();
        echo.run();
        assert_eq!(echo.ended.len(), asked.len(), "step {step}");
        for (id, data, trailers) in &echo.ended {
            let body = asked.iter().find(|(asked, _)| asked == id).unwrap().1;
            assert!(
                data[..] == [b"pre", body].concat(),
                "step {step}, stream {id}"
            );
            assert_eq!(trailers, &[("x-end".to_owned(), "yes".to_owned())]);
        }
        assert!(echo.client.streams.is_empty() && echo.server.streams.is_empty());
        assert!(echo.client.blocked.is_empty() || echo.client.streams.is_empty());
    }
}

#[test]
fn every_cut_of_a_connection_in_two_is_read_alike() {
    let all = [
        hello(),
        request(1, flag::END_STREAM),
        raw(kind::HEADERS, flag::PADDED | flag::PRIORITY, 3, &{
            let block = request_block(&[("x", "y")]);
            [&[3, 0, 0, 0, 1, 9], &block[..4], &[0; 3]].concat()
        }),
        raw(
            kind::CONTINUATION,
            0,
            3,
            &request_block(&[("x", "y")])[4..9],
        ),
        raw(
            kind::CONTINUATION,
            flag::END_HEADERS,
            3,
            &request_block(&[("x", "y")])[9..],
        ),
        raw(kind::DATA, flag::PADDED, 3, &[2, b'a', b'b', b'c', 0, 0]),
        raw(kind::PING, 0, 0, b"12345678"),
        raw(0x77, 1, 5, b"unknown"),
        raw(kind::DATA, flag::END_STREAM, 3, b"rest"),
        raw(kind::PRIORITY, 0, 7, &[0; 5]),
    ]
    .concat();
    let whole = feed(&mut server(), &all, usize::MAX);
    assert_eq!(
        whole.0,
        [
            r#"head 1 true [(":method", "POST"), (":scheme", "http"), (":path", "/a/b")]"#,
            r#"head 3 false [(":method", "POST"), (":scheme", "http"), (":path", "/a/b"), ("x", "y")]"#,
            "data 3 3 false",
            "data 3 4 true",
        ]
    );
    for cut in 1..all.len() {
        let mut session = server();
        let mut both = feed(&mut session, &all[..cut], usize::MAX);
        let second = feed(&mut session, &all[cut..], usize::MAX);
        both.0.extend(second.0);
        both.1.extend(second.1);
        assert_eq!(both, whole, "cut at {cut}");
    }
    assert_eq!(feed(&mut server(), &all, 1), whole);
}

/// What a server says to `bytes` after a client's hello, and why it closes.
fn after_hello(bytes: &[u8]) -> (Vec<String>, Vec<Head>, Option<BadReason>) {
    let mut session = server();
    let (events, sent) = feed(
        &mut session,
        &[hello(), bytes.to_vec()].concat(),
        usize::MAX,
    );
    (events, frames(&sent), session.bad().map(|bad| bad.reason))
}

#[test]
fn a_flood_of_each_kind_ends_the_connection_with_its_reason() {
    let repeat = |frame: Vec<u8>, n: usize| frame.repeat(n);
    let open = |id| request(id, 0);
    let each = |n: u32, frame: &dyn Fn(u32) -> Vec<u8>| -> Vec<u8> {
        (0..n)
            .flat_map(|i| [open(2 * i + 1), frame(2 * i + 1)].concat())
            .collect()
    };
    let cancel = |id| raw(kind::RST_STREAM, 0, id, &8_u32.to_be_bytes());
    let no_window = |id| raw(kind::WINDOW_UPDATE, 0, id, &[0; 4]);
    let first = raw(kind::HEADERS, 0, 1, &request_block(&[]));
    let floods = [
        (
            repeat(raw(kind::PING, 0, 0, &[0; 8]), 1100),
            BadReason::Http2Ping,
        ),
        (
            repeat(raw(kind::SETTINGS, 0, 0, &[]), 110),
            BadReason::Http2Settings,
        ),
        (
            [open(1), repeat(raw(kind::DATA, 0, 1, &[]), 110)].concat(),
            BadReason::Http2Empty,
        ),
        (
            repeat(raw(kind::PRIORITY, 0, 1, &[0; 5]), 10_100),
            BadReason::Http2Idle,
        ),
        (
            repeat(raw(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), 10_100),
            BadReason::Http2Idle,
        ),
        (repeat(raw(0x42, 0, 0, &[]), 10_100), BadReason::Http2Idle),
        (each(1100, &cancel), BadReason::Http2RapidReset),
        (each(1100, &no_window), BadReason::Http2RapidReset),
        (
            [
                first.clone(),
                repeat(raw(kind::CONTINUATION, 0, 1, &[]), 40),
            ]
            .concat(),
            BadReason::Http2Continuation,
        ),
        (
            [
                first.clone(),
                repeat(raw(kind::CONTINUATION, 0, 1, &[0; 16_000]), 5),
            ]
            .concat(),
            BadReason::Http2Continuation,
        ),
    ];
    for (flood, reason) in floods {
        let before = reason.counted();
        let (_, frames, bad) = after_hello(&flood);
        assert_eq!(bad, Some(reason));
        assert!(reason.counted() > before, "{reason:?} is counted");
        assert_eq!(frames.last().unwrap().0, kind::GOAWAY, "{reason:?}");
    }
}

#[test]
fn what_breaks_the_connection_ends_it_with_its_reason() {
    use BadReason::*;
    let settings = |entry: [u8; 6]| raw(kind::SETTINGS, 0, 0, &entry);
    let broken: Vec<(Vec<u8>, BadReason)> = vec![
        (raw(kind::DATA, 0, 0, b"x"), Http2Protocol),
        (raw(kind::DATA, 0, 1, b"x"), Http2Protocol), // never opened
        (
            raw(kind::HEADERS, flag::END_HEADERS, 2, &request_block(&[])),
            Http2Protocol,
        ),
        (
            raw(
                kind::HEADERS,
                flag::END_HEADERS | flag::PADDED,
                1,
                &[200, 1],
            ),
            Http2Protocol,
        ),
        (raw(kind::RST_STREAM, 0, 1, &[0; 4]), Http2Protocol),
        (raw(kind::RST_STREAM, 0, 1, &[0; 3]), Http2FrameSize),
        (raw(kind::PING, 0, 0, &[0; 7]), Http2FrameSize),
        (raw(kind::PING, 0, 1, &[0; 8]), Http2Protocol),
        (raw(kind::SETTINGS, 0, 0, &[0; 5]), Http2FrameSize),
        (raw(kind::SETTINGS, flag::ACK, 0, &[0; 6]), Http2FrameSize),
        (raw(kind::SETTINGS, 0, 1, &[]), Http2Protocol),
        (settings([0, 4, 0x80, 0, 0, 0]), Http2Protocol),
        (raw(kind::WINDOW_UPDATE, 0, 0, &[0; 4]), Http2Protocol),
        (
            raw(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            Http2Flow,
        ),
        (raw(kind::WINDOW_UPDATE, 0, 9, &[0, 0, 0, 1]), Http2Protocol),
        (raw(kind::PUSH_PROMISE, 0, 1, &[0; 4]), Http2Protocol),
        (raw(kind::CONTINUATION, 0, 1, &[]), Http2Protocol),
        (
            [
                raw(kind::HEADERS, 0, 1, &[]),
                raw(kind::PING, 0, 0, &[0; 8]),
            ]
            .concat(),
            Http2Protocol,
        ),
        (
            raw(kind::HEADERS, flag::END_HEADERS, 1, &[0xff; 8]),
            Http2Compression,
        ),
        (raw(kind::GOAWAY, 0, 0, &[0; 4]), Http2FrameSize),
        (
            FrameHead::new(1 << 20, kind::DATA, 0, 1).bytes().to_vec(),
            Http2FrameSize,
        ),
        (
            FrameHead::new(1 << 17, kind::HEADERS, 0, 1)
                .bytes()
                .to_vec(),
            Http2FrameSize,
        ),
    ];
    for (bytes, reason) in broken {
        assert_eq!(after_hello(&bytes).2, Some(reason), "{bytes:?}");
    }
}

#[test]
fn a_connection_begins_with_its_preface_and_settings() {
    use BadReason::Http2Protocol;
    let mut session = server();
    feed(&mut session, b"PRI * HTTP/2.0\r\n\r\nSX", usize::MAX);
    assert_eq!(session.bad().map(|bad| bad.reason), Some(Http2Protocol));
    let mut session = server();
    feed(
        &mut session,
        &[&PREFACE[..], &raw(kind::PING, 0, 0, &[0; 8])].concat(),
        usize::MAX,
    );
    assert_eq!(
        session.bad().map(|bad| bad.reason),
        Some(Http2Protocol),
        "settings come first"
    );
}

#[test]
fn what_is_wrong_with_a_stream_ends_that_stream_alone() {
    let malformed = raw(
        kind::HEADERS,
        flag::END_HEADERS,
        1,
        &request_block(&[("connection", "close")]),
    );
    let short = [
        raw(
            kind::HEADERS,
            flag::END_HEADERS,
            1,
            &request_block(&[("content-length", "5")]),
        ),
        raw(kind::DATA, flag::END_STREAM, 1, b"1234"),
    ];
    let long = [
        raw(
            kind::HEADERS,
            flag::END_HEADERS,
            1,
            &request_block(&[("content-length", "5")]),
        ),
        raw(kind::DATA, 0, 1, b"123456"),
    ];
    let after_end = [request(1, flag::END_STREAM), raw(kind::DATA, 0, 1, b"x")];
    let window = [
        request(1, 0),
        raw(kind::WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]),
    ];
    for bytes in [
        malformed,
        short.concat(),
        long.concat(),
        after_end.concat(),
        window.concat(),
    ] {
        let (events, frames, bad) =
            after_hello(&[bytes.clone(), request(3, flag::END_STREAM)].concat());
        assert_eq!(bad, None, "{bytes:?}");
        assert!(frames.contains(&(kind::RST_STREAM, 0, 1)), "{frames:?}");
        assert!(
            events.last().unwrap().starts_with("head 3 true"),
            "{events:?}"
        );
    }
}

#[test]
fn a_stream_that_ignores_its_window_is_reset() {
    let full = raw(kind::DATA, 0, 1, &[0; 200 << 10]);
    let (events, _, bad) = after_hello(&[request(1, 0), full.clone(), full].concat());
    assert_eq!(bad, None);
    assert_eq!(events.last().unwrap(), "reset 1 3");
}

#[test]
fn streams_above_the_limit_are_refused() {
    let many: Vec<u8> = (0..101).flat_map(|i| request(2 * i + 1, 0)).collect();
    let (events, frames, bad) = after_hello(&many);
    assert_eq!((events.len(), bad), (100, None));
    assert_eq!(frames.last(), Some(&(kind::RST_STREAM, 0, 201)));
}

#[test]
fn a_list_of_fields_above_the_limit_is_told_and_the_connection_goes_on() {
    let value = "v".repeat(3000);
    let block = request_block(&[("x-a", &value), ("x-b", &value)]);
    let large = raw(kind::HEADERS, flag::END_HEADERS, 1, &block);
    let (events, _, bad) = after_hello(&[large, request(3, 0)].concat());
    assert_eq!(bad, None);
    assert_eq!(events[0], "HeadTooLarge { id: 1 }");
    assert!(events[1].starts_with("head 3"));
}

#[test]
fn going_away_is_said_twice_and_loses_no_stream() {
    let mut session = server();
    feed(
        &mut session,
        &[hello(), request(1, flag::END_STREAM)].concat(),
        usize::MAX,
    );
    session.drain();
    let all = frames(&sent(&mut session));
    assert_eq!(all, [(kind::GOAWAY, 0, 0), (kind::PING, 0, 0)]);
    // One that was on its way is served; after the answer to the ping none is.
    let (events, _) = feed(&mut session, &request(3, flag::END_STREAM), usize::MAX);
    assert_eq!(events.len(), 1);
    let pong = raw(kind::PING, flag::ACK, 0, &DRAIN_PING);
    let (_, said) = feed(&mut session, &pong, usize::MAX);
    assert_eq!(
        said,
        [raw(kind::GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0])].concat()
    );
    assert!(
        feed(&mut session, &request(5, flag::END_STREAM), usize::MAX)
            .0
            .is_empty()
    );
    for id in [1, 3] {
        assert!(!session.has_left());
        session.block(id, true, |_, out| Encoder::fixed(8, out));
    }
    assert!(session.has_left());
}

#[test]
fn a_client_learns_which_calls_its_server_never_looked_at() {
    let mut client: Session<Kept> = Session::new(Role::Client, bounds());
    for _ in 0..3 {
        client.open(Kept::default()).unwrap();
    }
    let goaway = raw(kind::GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0]);
    let (events, _) = feed(
        &mut client,
        &[raw(kind::SETTINGS, 0, 0, &[]), goaway].concat(),
        usize::MAX,
    );
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events[0] == "GoingAway" && events[1].starts_with("Unprocessed"));
    assert!(client.open(Kept::default()).is_none() && client.is_spent());
}

#[test]
fn a_client_opens_no_more_streams_than_its_server_takes() {
    let mut client: Session<Kept> = Session::new(Role::Client, bounds());
    let one = raw(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]);
    feed(&mut client, &one, usize::MAX);
    let first = client.open(Kept::default()).unwrap();
    assert!(client.open(Kept::default()).is_none() && !client.is_spent());
    client.reset(first, ErrorCode::CANCEL);
    assert!(client.can_open());
}

#[test]
fn a_silent_peer_is_asked_for_a_sign_of_life_and_then_given_up() {
    let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000 + 1);
    let mut session = server();
    feed(&mut session, &hello(), usize::MAX);
    assert_eq!(session.deadline(), None, "an idle connection may be silent");
    feed(&mut session, &request(1, 0), usize::MAX);
    sent(&mut session);
    session.timed_out(at(60));
    assert_eq!(frames(&sent(&mut session)), [(kind::PING, 0, 0)]);
    feed(
        &mut session,
        &raw(kind::PING, flag::ACK, 0, &ALIVE_PING),
        usize::MAX,
    );
    session.timed_out(at(80));
    assert_eq!(
        (session.bad(), frames(&sent(&mut session)).len()),
        (None, 1)
    );
    session.timed_out(at(100));
    assert_eq!(
        session.bad().map(|bad| bad.reason),
        Some(BadReason::Http2Silent)
    );
}

#[test]
fn half_a_head_has_a_deadline_from_its_first_byte_on() {
    let mut session = server();
    feed(
        &mut session,
        &[hello(), request(1, 0)[..5].to_vec()].concat(),
        usize::MAX,
    );
    let first = session.deadline().unwrap();
    session.received(0, Instant::from_nanos(9_000_000_000));
    assert!(session.next(&mut List::default()).is_none());
    assert_eq!(session.deadline(), Some(first), "more bytes buy no time");
    session.timed_out(first);
    assert_eq!(
        session.bad().map(|bad| bad.reason),
        Some(BadReason::HttpSlow)
    );
}

#[test]
fn an_idle_session_holds_little() {
    let mut session = server();
    let mut encoder = Encoder::default();
    let mut bytes = hello();
    for i in 0..40_u32 {
        let mut block = request_block(&[]);
        for _ in 0..2 {
            let value = format!("{i}").repeat(50);
            encoder.field(b"x-some-name", value.as_bytes(), &mut block);
        }
        bytes.extend(raw(
            kind::HEADERS,
            flag::END_HEADERS | flag::END_STREAM,
            2 * i + 1,
            &block,
        ));
    }
    feed(&mut session, &bytes, usize::MAX);
    for id in (1..80).step_by(2) {
        session.block(id, true, |encoder, out| {
            Encoder::fixed(8, out);
            encoder.field(b"x-answer", &[b'a'; 200], out);
        });
    }
    assert!(!session.is_idle());
    sent(&mut session);
    assert!(session.is_idle());
    session.release();
    let held = session.footprint() + size_of::<Session<Kept>>();
    assert!(held <= 8 << 10, "{held} bytes");
}
