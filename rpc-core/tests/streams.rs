//! Streams from a handler to a caller: order, both push-backs, both ways of giving up.
//!
//! The service is written by hand, on messages that prost brings along; what generated code adds is tested
//! with the generator.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use prost::Message;
use rpc_core::codegen::{Finished, MethodDescriptor, ServerCall, Service, ServiceDescriptor};
use rpc_core::{
    ByteStream, CallOptions, Channel, Code, Request, Response, Server, ServerHandle, Status,
    Streaming, Wire,
};

const SERVICE: &str = "test.Numbers";

/// Methods by their place in [`DESCRIPTOR`].
const SUM: usize = 0;
const COUNT: usize = 1;
const ECHO: usize = 2;
const TALK: usize = 3;

const fn method(name: &'static str, client: bool, server: bool) -> MethodDescriptor {
    MethodDescriptor {
        service: SERVICE,
        name,
        input: "google.protobuf.Int64Value",
        output: "google.protobuf.Int64Value",
        client_streaming: client,
        server_streaming: server,
    }
}

static METHODS: [MethodDescriptor; 4] = [
    method("Sum", true, false),
    method("Count", false, true),
    method("Echo", true, true),
    method("Talk", false, false),
];

/// What handlers did, for tests to look at.
#[derive(Default)]
struct Seen {
    /// Messages that `Count` has given.
    given: AtomicUsize,
    /// How handlers ended that were cut off.
    ends: Mutex<Option<mpsc::Sender<Code>>>,
}

impl Seen {
    fn ended(&self, status: &Status) {
        if let Some(ends) = &*self.ends.lock().expect("nobody panics under it") {
            let _ = ends.send(status.code());
        }
    }
}

struct Numbers(Arc<Seen>);

impl Numbers {
    /// Adds numbers up; a negative one fails the call, and the largest one panics.
    fn sum(&self, request: Request<Streaming<i64>>) -> Result<Response<i64>, Status> {
        let word = request.metadata().get("word").unwrap_or("none").to_owned();
        let mut sum = 0;
        for number in request.into_inner() {
            match number.inspect_err(|status| self.0.ended(status))? {
                i64::MAX => panic!("as asked"),
                negative @ ..0 => return Err(Status::invalid_argument(negative.to_string())),
                number => sum += number,
            }
        }
        let mut response = Response::new(sum);
        response.metadata_mut().insert("word", word);
        response.trailers_mut().insert("numbers", "summed");
        Ok(response)
    }

    /// Counts up to a number; a negative one without end, 13 panics there, 17 fails there.
    fn count(
        &self,
        request: Request<i64>,
    ) -> Result<Response<impl Iterator<Item = Result<i64, Status>>>, Status> {
        let to = request.into_inner();
        if to == 0 {
            return Err(Status::out_of_range("nothing to count"));
        }
        let seen = Arc::clone(&self.0);
        let end = if to < 0 { i64::MAX } else { to };
        let numbers = (1..=end).map(move |number| {
            seen.given.fetch_add(1, Ordering::Relaxed);
            match (to, number) {
                (13, 13) => panic!("13"),
                (17, 17) => Err(Status::aborted("at 17")),
                _ => Ok(number),
            }
        });
        let mut response = Response::new(numbers);
        response.metadata_mut().insert("to", to.to_string());
        response.trailers_mut().insert("counted", "all");
        Ok(response)
    }

    /// Gives each number back as it comes.
    fn echo(
        &self,
        request: Request<Streaming<i64>>,
    ) -> Result<Response<impl Iterator<Item = Result<i64, Status>>>, Status> {
        let seen = Arc::clone(&self.0);
        let numbers = request.into_inner();
        Ok(Response::new(numbers.inspect(move |number| {
            if let Err(status) = number {
                seen.ended(status);
            }
        })))
    }

    /// Takes the stream that is held out and gives each message back, in capitals.
    fn talk(&self, mut request: Request<i64>) -> Result<Response<i64>, Status> {
        if let Some(stream) = request.take_stream() {
            rpc_core::spawn(move || in_capitals(stream));
            return Ok(Response::new(1));
        }
        Ok(Response::new(0))
    }
}

fn in_capitals(mut stream: ByteStream) {
    while let Some(Ok(message)) = stream.next() {
        if stream.send(message.to_ascii_uppercase()).is_err() {
            return;
        }
    }
}

impl Service for Numbers {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        static DESCRIPTOR: std::sync::OnceLock<ServiceDescriptor> = std::sync::OnceLock::new();
        DESCRIPTOR.get_or_init(|| {
            let message = prost_types::DescriptorProto {
                name: Some("Int64Value".into()),
                ..Default::default()
            };
            let file = prost_types::FileDescriptorProto {
                name: Some("wrappers.proto".into()),
                package: Some("google.protobuf".into()),
                message_type: vec![message],
                ..Default::default()
            };
            let set = prost_types::FileDescriptorSet { file: vec![file] };
            ServiceDescriptor {
                name: SERVICE,
                methods: &METHODS,
                file_descriptor_set: set.encode_to_vec().leak(),
            }
        })
    }

    fn call(&self, method: usize, call: ServerCall) -> Finished {
        match method {
            SUM => call.client_stream(|request| self.sum(request)),
            COUNT => call.server_stream(|request| self.count(request)),
            ECHO => call.bidi(|request| self.echo(request)),
            _ => call.unary(|request| self.talk(request)),
        }
    }
}

struct Running {
    channel: Channel,
    seen: Arc<Seen>,
    handle: ServerHandle,
    ends: mpsc::Receiver<Code>,
    addr: SocketAddr,
}

/// A server on a thread of its own, and a channel to it.
fn start(wire: Wire) -> Running {
    let (tell, ends) = mpsc::channel();
    let seen = Arc::new(Seen::default());
    *seen.ends.lock().expect("it is new") = Some(tell);
    let server = Server::builder()
        .add_service(Numbers(Arc::clone(&seen)))
        .handle_signals(false)
        .drain_limit(Duration::from_millis(200))
        .bind("127.0.0.1:0")
        .expect("a free port is there");
    let (handle, addr) = (server.handle(), server.local_addr());
    std::thread::spawn(move || server.serve().expect("the server drains"));
    let channel = Channel::builder(&addr.to_string())
        .protocol(wire)
        .deadline(Duration::from_secs(20))
        .connect()
        .expect("the server listens");
    Running {
        channel,
        seen,
        handle,
        ends,
        addr,
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.drain();
    }
}

impl Running {
    fn sum(
        &self,
        numbers: impl rpc_core::IntoStreamingRequest<Message = i64>,
    ) -> Result<Response<i64>, Status> {
        self.channel
            .client_stream(&METHODS[SUM], numbers, CallOptions::new())
    }

    fn count(&self, to: i64) -> Result<Response<Streaming<i64>>, Status> {
        self.channel
            .server_stream(&METHODS[COUNT], to, CallOptions::new())
    }

    fn echo(
        &self,
        numbers: impl rpc_core::IntoStreamingRequest<Message = i64, Messages: Send + 'static>,
        options: CallOptions,
    ) -> Streaming<i64> {
        let response = self.channel.bidi(&METHODS[ECHO], numbers, options);
        response.expect("the call is sent").into_inner()
    }

    /// Waits until no call is under way at the server.
    fn quiet(&self) {
        while self.handle.in_flight() > 0 {
            rpc_core::yield_now();
        }
    }
}

/// Over each protocol; on an OS thread, then on a coroutine.
fn both(test: fn(&Running)) {
    for wire in [Wire::Prpc, Wire::Grpc] {
        over(wire, test);
    }
}

fn over(wire: Wire, test: fn(&Running)) {
    let running = start(wire);
    test(&running);
    let runtime = rpc_core::Runtime::builder().workers(2).build();
    let runtime = runtime.expect("coroutines run here");
    runtime.block_on(move || test(&running));
}

#[test]
fn a_stream_of_requests_has_one_answer_with_all_that_is_beside_it() {
    both(|server| {
        let mut request = Request::new(1..=1000);
        request.metadata_mut().insert("word", "hello");
        let response = server.sum(request).unwrap();
        assert_eq!(*response, 500_500);
        assert_eq!(response.metadata().get("word"), Some("hello"));
        assert_eq!(response.trailers().get("numbers"), Some("summed"));
        assert_eq!(*server.sum([]).unwrap(), 0, "no request at all");
    });
}

#[test]
fn an_early_answer_ends_the_stream_of_requests() {
    both(|server| {
        // Endless: only the answer stops it.
        let status = server.sum(std::iter::repeat(-3)).unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, "-3")
        );
        let status = server.sum(std::iter::once(i64::MAX).chain(std::iter::repeat(1)));
        assert_eq!(status.unwrap_err().code(), Code::Internal, "a panic");
        server.quiet();
    });
}

#[test]
fn a_stream_of_answers_comes_in_order_with_its_head_and_trailers() {
    both(|server| {
        let response = server.count(2000).unwrap();
        assert_eq!(response.metadata().get("to"), Some("2000"));
        let mut stream = response.into_inner();
        assert_eq!(stream.metadata().unwrap().get("to"), Some("2000"));
        for expected in 1..=2000 {
            assert!(stream.trailers().is_none());
            assert_eq!(stream.message().unwrap(), Some(expected));
        }
        assert!(stream.next().is_none());
        assert_eq!(stream.trailers().unwrap().get("counted"), Some("all"));
    });
}

#[test]
fn failures_before_and_within_a_stream_reach_the_caller() {
    both(|server| {
        let status = server.count(0).unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange);
        for (to, code) in [(17, Code::Aborted), (13, Code::Internal)] {
            let results: Vec<_> = server.count(to).unwrap().into_inner().collect();
            assert_eq!(results.len() as i64, to);
            let (last, before) = results.split_last().unwrap();
            assert!(before.iter().all(Result::is_ok));
            assert_eq!(last.as_ref().unwrap_err().code(), code);
        }
        server.quiet();
    });
}

#[test]
fn both_directions_go_in_lock_step_over_a_channel() {
    both(|server| {
        let (tell, numbers) = mpsc::sync_channel(1);
        let mut echo = server.echo(numbers, CallOptions::new());
        for number in 0..500 {
            tell.send(number).unwrap();
            assert_eq!(echo.message().unwrap(), Some(number));
        }
        drop(tell);
        assert_eq!(echo.message().unwrap(), None);
    });
}

#[test]
fn requests_and_answers_run_at_their_own_pace() {
    both(|server| {
        let echo = server.echo(0..5000, CallOptions::new());
        let numbers: Result<Vec<i64>, Status> = echo.collect();
        assert_eq!(numbers.unwrap(), (0..5000).collect::<Vec<_>>());
    });
}

#[test]
fn a_reader_that_stops_stops_the_handler_at_the_window() {
    both(|server| {
        let before = server.seen.given.load(Ordering::Relaxed);
        let mut stream = server.count(-1).unwrap().into_inner();
        assert_eq!(stream.message().unwrap(), Some(1));
        // Other calls on the same connection go on while it stands.
        for _ in 0..100 {
            assert_eq!(*server.sum([1, 2]).unwrap(), 3);
        }
        // 2 MiB of messages of at least 2 bytes, and what is read meanwhile.
        let given = server.seen.given.load(Ordering::Relaxed) - before;
        assert!(given <= (2 << 20) / 2 + 2, "{given} messages");
        drop(stream);
        server.quiet();
    });
}

#[test]
fn dropping_the_stream_of_answers_cancels_the_handler() {
    both(|server| {
        let (tell, numbers) = mpsc::channel();
        tell.send(1).unwrap();
        let mut echo = server.echo(numbers, CallOptions::new());
        assert_eq!(echo.message().unwrap(), Some(1));
        drop(echo);
        assert_eq!(server.ends.recv().unwrap(), Code::Cancelled);
        server.quiet();
    });
}

#[test]
fn a_call_with_streams_ends_at_its_deadline_on_both_sides() {
    both(|server| {
        let (tell, numbers) = mpsc::channel();
        tell.send(1).unwrap();
        let options = CallOptions::new().deadline(Duration::from_secs(1));
        let mut echo = server.echo(numbers, options);
        assert_eq!(echo.message().unwrap(), Some(1));
        let status = echo.message().unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let code = server.ends.recv().unwrap();
        assert!(
            matches!(code, Code::DeadlineExceeded | Code::Cancelled),
            "{code}"
        );
        server.quiet();
    });
}

#[test]
fn an_iterator_of_requests_that_panics_ends_the_call() {
    both(|server| {
        let (tell, numbers) = mpsc::channel();
        tell.send(1).unwrap();
        let numbers = numbers
            .into_iter()
            .inspect(|number| assert!(*number < 3, "as asked"));
        let mut echo = server.echo(numbers, CallOptions::new());
        assert_eq!(echo.message().unwrap(), Some(1));
        tell.send(3).unwrap();
        let status = echo.message().unwrap_err();
        assert!(status.message().contains("panicked"), "{status}");
        assert_eq!(server.ends.recv().unwrap(), Code::Cancelled);
    });
}

#[test]
fn a_lost_connection_ends_the_streams_on_both_sides() {
    both(|server| {
        let channel = Channel::builder(&server.addr.to_string())
            .connect()
            .unwrap();
        let (tell, numbers) = mpsc::channel();
        tell.send(1_i64).unwrap();
        let options = CallOptions::new();
        let mut echo: Streaming<i64> = channel
            .bidi(&METHODS[ECHO], numbers, options)
            .unwrap()
            .into_inner();
        assert_eq!(echo.message().unwrap(), Some(1));
        drop(channel);
        let status = echo.message().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert_eq!(server.ends.recv().unwrap(), Code::Cancelled);
    });
}

#[test]
fn a_drain_lets_streams_end_and_cuts_those_that_do_not() {
    let server = start(Wire::Prpc);
    let (tell, numbers) = mpsc::channel();
    tell.send(1).unwrap();
    let mut ends = server.echo(numbers, CallOptions::new());
    let (_stays, numbers) = mpsc::channel();
    let mut stays = server.echo(numbers, CallOptions::new());
    assert_eq!(ends.message().unwrap(), Some(1));
    server.handle.drain();
    tell.send(2).unwrap();
    drop(tell);
    assert_eq!(ends.message().unwrap(), Some(2));
    assert_eq!(ends.message().unwrap(), None);
    assert!(stays.message().is_err(), "cut at the drain's limit");
    assert_eq!(server.ends.recv().unwrap(), Code::Cancelled);
}

#[test]
fn a_stream_beside_a_unary_call_goes_on_after_the_answer() {
    over(Wire::Prpc, |server| {
        let options = CallOptions::new().deadline(Duration::from_secs(5));
        let (response, stream): (Response<i64>, _) = server
            .channel
            .unary_with_stream(&METHODS[TALK], 0_i64, options)
            .unwrap();
        let mut stream = stream.expect("the handler takes it");
        assert_eq!(*response, 1);
        let sender = stream.sender();
        for word in ["one", "", "three"] {
            sender.send(word).unwrap();
            let answer = stream.next().unwrap().unwrap();
            assert_eq!(answer, word.to_uppercase());
        }
        assert_eq!(server.handle.in_flight(), 1, "it counts as under way");
        drop(stream);
        assert_eq!(server.handle.in_flight(), 1, "its sender is still there");
        drop(sender);
        server.quiet();
        let declined: Result<Response<i64>, _> =
            server
                .channel
                .unary(&METHODS[TALK], 0_i64, CallOptions::new());
        assert_eq!(*declined.unwrap(), 0);
    });
}
