//! A wire protocol of one's own in one file, on the port that speaks all the others:
//! `cargo run -p examples --bin line_protocol`, then
//! `printf 'CALL 1 greeter.Greeter/SayHello {"name":"you"}\n' | nc -N 127.0.0.1 8000`.
//!
//! A call is a line, `CALL number service/method json`, and so is its answer: `number OK json` or
//! `number CODE text`. The caller chooses the number; answers come as they are ready.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use rpc_core::rpc::protocol::{
    Bad, BadReason, Body, BodyFormat, CallId, EndOfInput, IncomingCall, Probe, Protocol, RawBody,
    Reply, ServerConfig, ServerEvent, ServerSession,
};
use rpc_core::time::Instant;
use rpc_core::{Request, Response, Server, Status};

rpc_core::include_proto!("greeter");

/// What a server's port learns with `add_protocol`.
struct Lines;

impl Protocol for Lines {
    fn name(&self) -> &'static str {
        "lines"
    }

    fn probe(&self, prefix: &[u8]) -> Probe {
        Probe::magic(prefix, b"CALL ")
    }

    fn session(&self, config: &Arc<ServerConfig>) -> Box<dyn ServerSession> {
        Box::new(LineSession {
            config: Arc::clone(config),
            input: BytesMut::new(),
            now: Instant::ZERO,
            open_calls: 0,
            out: VecDeque::new(),
            draining: false,
            ended: false,
        })
    }
}

/// One connection.
struct LineSession {
    config: Arc<ServerConfig>,
    /// What was read and is no whole line yet.
    input: BytesMut,
    /// When it was read.
    now: Instant,
    open_calls: usize,
    out: VecDeque<Bytes>,
    draining: bool,
    /// Nothing more is read.
    ended: bool,
}

impl LineSession {
    /// What a line asks for, or what is wrong with it.
    fn parse(&self, line: &str) -> Result<IncomingCall, (u64, Status)> {
        let mut words = line.trim_end().splitn(4, ' ');
        let (call, number) = (words.next(), words.next());
        let number = number.and_then(|number| number.parse::<u64>().ok());
        let (Some("CALL"), Some(number)) = (call, number) else {
            let text = "a line begins with CALL and a number";
            return Err((0, Status::invalid_argument(text)));
        };
        let refuse = |status| (number, status);
        if self.draining {
            return Err(refuse(Status::unavailable("the server is going away")));
        }
        if self.open_calls >= self.config.limits.max_in_flight {
            return Err(refuse(Status::resource_exhausted("too many calls at once")));
        }
        let names = words.next().unwrap_or_default();
        let Some((service, method)) = names.split_once('/') else {
            let text = "after the number comes package.Service/Method";
            return Err(refuse(Status::invalid_argument(text)));
        };
        let found = self.config.routes.find(service, method);
        let route = found.map_err(refuse)?;
        let json = words.next().unwrap_or_default().to_owned();
        let id = CallId::new(number, 0);
        let mut call = IncomingCall::new(id, route, RawBody::plain(json.into()), self.now);
        call.format = BodyFormat::Json;
        Ok(call)
    }

    fn say(&mut self, number: u64, word: &str, rest: &[u8]) {
        let mut line = format!("{number} {word} ").into_bytes();
        // A text of several lines stays one line.
        line.extend(rest.iter().map(|byte| match byte {
            b'\n' | b'\r' => b' ',
            byte => *byte,
        }));
        line.push(b'\n');
        self.out.push_back(line.into());
    }

    fn fail(&mut self, number: u64, status: &Status) {
        let word = format!("{:?}", status.code());
        self.say(number, &word, status.message().as_bytes());
    }
}

impl ServerSession for LineSession {
    fn recv_space(&mut self) -> &mut dyn BufMut {
        self.input.reserve(4096);
        &mut self.input
    }

    fn received(&mut self, _n: usize, now: Instant) -> Result<(), Bad> {
        self.now = now;
        let max = self.config.limits.max_body;
        if self.input.len() > max && !self.input[..max].contains(&b'\n') {
            return Err(Bad::counted(BadReason::BodyTooLarge));
        }
        Ok(())
    }

    fn next_event(&mut self) -> Option<ServerEvent> {
        loop {
            let end = self.input.iter().position(|byte| *byte == b'\n')?;
            let line = self.input.split_to(end + 1);
            match self.parse(&String::from_utf8_lossy(&line)) {
                Ok(call) => {
                    self.open_calls += 1;
                    return Some(ServerEvent::Call(call));
                }
                Err((number, status)) => self.fail(number, &status),
            }
        }
    }

    fn answer(&mut self, id: CallId, reply: Reply<'_>) {
        self.open_calls -= 1;
        match reply {
            Reply::Success(success) => match success.body {
                Body::Bytes(json) => self.say(id.key(), "OK", &json),
                // A call in JSON is answered with bytes: the framework has made them JSON.
                Body::Message(_) => self.fail(id.key(), &Status::internal("no JSON")),
            },
            Reply::Failed(status) | Reply::Refused(status) => self.fail(id.key(), status),
            Reply::Page(_) => {}
        }
    }

    fn transmit(&mut self) -> &mut VecDeque<Bytes> {
        &mut self.out
    }

    fn end_of_input(&mut self) -> EndOfInput {
        self.ended = true;
        EndOfInput::Finish
    }

    fn drain(&mut self) {
        self.draining = true;
    }

    fn is_idle(&self) -> bool {
        self.open_calls == 0 && self.input.is_empty() && self.out.is_empty()
    }

    fn is_finished(&self) -> bool {
        (self.ended || self.draining) && self.open_calls == 0
    }

    fn release(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        self.out.shrink_to_fit();
    }
}

struct Polite;

impl Greeter for Polite {
    fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let message = format!("Hello, {}!", request.name);
        Ok(Response::new(HelloReply { message }))
    }
}

#[rpc_core::main]
fn main() -> Result<(), rpc_core::Error> {
    let addr = std::env::args().nth(1);
    let addr = addr.as_deref().unwrap_or("127.0.0.1:8000");
    Server::builder()
        .add_service(GreeterServer::new(Polite))
        .add_protocol(Lines)
        .serve(addr)
}
