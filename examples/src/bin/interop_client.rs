//! The client of gRPC's interoperability tests (grpc's doc/interop-test-descriptions.md).
//!
//! Prints `ok CASE` for each case; the first that fails ends the program with what was wrong.

use std::time::Duration;

use clap::Parser;
use examples::interop::{
    BoolValue, ECHO_INITIAL, ECHO_TRAILING, EchoStatus, Empty, ResponseParameters, SimpleRequest,
    StreamingInputCallRequest, StreamingOutputCallRequest, StreamingOutputCallResponse, TEST_CA,
    TestServiceClient, UnimplementedServiceClient, payload,
};
use rpc_core::sync::{Sender, channel};
use rpc_core::{
    CallOptions, Channel, ClientTls, Code, Compression, IntoStreamingRequest, MetadataMap, Request,
    Status, Streaming, Wire,
};

/// Run gRPC's interoperability cases against a server
#[derive(Parser)]
struct Flags {
    /// The server
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000")]
    addr: String,
    /// Name of a case, or `all`; may be given several times
    #[arg(long, default_value = "all")]
    case: Vec<String>,
    /// Speak TLS, trusting the test authority of examples/tls
    #[arg(long)]
    tls: bool,
}

/// What a case says when it fails.
type Outcome = Result<(), String>;

type Case = fn(&Client) -> Outcome;

const CASES: [(&str, Case); 21] = [
    ("empty_unary", Client::empty_unary),
    ("large_unary", Client::large_unary),
    ("client_streaming", Client::client_streaming),
    ("server_streaming", Client::server_streaming),
    ("ping_pong", Client::ping_pong),
    ("empty_stream", Client::empty_stream),
    ("cancel_after_begin", Client::cancel_after_begin),
    (
        "cancel_after_first_response",
        Client::cancel_after_first_response,
    ),
    (
        "timeout_on_sleeping_server",
        Client::timeout_on_sleeping_server,
    ),
    ("custom_metadata", Client::custom_metadata),
    ("status_code_and_message", Client::status_code_and_message),
    ("special_status_message", Client::special_status_message),
    ("unimplemented_method", Client::unimplemented_method),
    ("unimplemented_service", Client::unimplemented_service),
    ("rpc_soak", Client::rpc_soak),
    ("channel_soak", Client::channel_soak),
    ("long_lived_channel", Client::long_lived_channel),
    ("client_compressed_unary", Client::client_compressed_unary),
    ("server_compressed_unary", Client::server_compressed_unary),
    (
        "client_compressed_streaming",
        Client::client_compressed_streaming,
    ),
    (
        "server_compressed_streaming",
        Client::server_compressed_streaming,
    ),
];

struct Client {
    addr: String,
    tls: bool,
    channel: Channel,
    test: TestServiceClient,
}

/// Longer than any case takes.
const PATIENCE: Duration = Duration::from_secs(60);

impl Client {
    fn connect(addr: &str, tls: bool) -> Result<Self, rpc_core::Error> {
        let mut builder = Channel::builder(addr).protocol(Wire::Grpc);
        if tls {
            builder = builder.tls(ClientTls::from_roots(TEST_CA)?);
        }
        let channel = builder.deadline(PATIENCE).connect()?;
        Ok(Self {
            addr: addr.to_owned(),
            tls,
            test: TestServiceClient::new(channel.clone()),
            channel,
        })
    }

    fn duplex<R>(
        &self,
        requests: R,
        options: CallOptions,
    ) -> Result<Streaming<StreamingOutputCallResponse>, Status>
    where
        R: IntoStreamingRequest<Message = StreamingOutputCallRequest, Messages: Send + 'static>,
    {
        let response = self.test.full_duplex_call_with(requests, options)?;
        Ok(response.into_inner())
    }

    fn empty_unary(&self) -> Outcome {
        self.test.empty_call(Empty {}).map(drop).map_err(told)
    }

    fn large_unary(&self) -> Outcome {
        let response = self.test.unary_call(large()).map_err(told)?;
        expect_size(response.payload.as_ref().map(|it| it.body.len()), 314_159)
    }

    fn client_compressed_unary(&self) -> Outcome {
        let expecting = |compressed| SimpleRequest {
            expect_compressed: boolean(compressed),
            ..large()
        };
        // A server that cannot tell would take this one.
        expect_code(self.test.unary_call(expecting(true)), Code::InvalidArgument)?;
        for (compressed, compression) in [(true, Compression::Gzip), (false, Compression::None)] {
            let options = CallOptions::new().compression(compression);
            let response = self.test.unary_call_with(expecting(compressed), options);
            let payload = response.map_err(told)?.into_inner().payload;
            expect_size(payload.map(|it| it.body.len()), 314_159)?;
        }
        Ok(())
    }

    fn server_compressed_unary(&self) -> Outcome {
        for compressed in [true, false] {
            let request = SimpleRequest {
                response_compressed: boolean(compressed),
                ..large()
            };
            let response = self.test.unary_call(request).map_err(told)?;
            expect_compressed(response.compression(), compressed)?;
            expect_size(response.payload.as_ref().map(|it| it.body.len()), 314_159)?;
        }
        Ok(())
    }

    fn client_compressed_streaming(&self) -> Outcome {
        let message = |size, compressed| StreamingInputCallRequest {
            payload: Some(payload(size)),
            expect_compressed: boolean(compressed),
        };
        expect_code(
            self.test.streaming_input_call([message(27_182, true)]),
            Code::InvalidArgument,
        )?;
        let mut requests = Request::new(());
        let switch = requests.compression_switch();
        let messages =
            [(27_182, true), (45_904, false)]
                .into_iter()
                .map(move |(size, compressed)| {
                    switch.set(compressed);
                    message(size, compressed)
                });
        let options = CallOptions::new().compression(Compression::Gzip);
        let requests = requests.map(|()| messages);
        let response = self.test.streaming_input_call_with(requests, options);
        let size = response.map_err(told)?.aggregated_payload_size;
        expect_size(usize::try_from(size).ok(), 73_086)
    }

    fn server_compressed_streaming(&self) -> Outcome {
        let mut asked = output(&[31_415, 92_653]);
        asked.response_parameters[0].compressed = boolean(true);
        asked.response_parameters[1].compressed = boolean(false);
        let response = self.test.streaming_output_call(asked).map_err(told)?;
        let mut answers = response.into_inner();
        for (size, compressed) in [(31_415, true), (92_653, false)] {
            expect_size(next_size(&mut answers)?, size)?;
            expect_compressed(answers.compression(), compressed)?;
        }
        expect_end(&mut answers)
    }

    fn client_streaming(&self) -> Outcome {
        let requests = [27_182, 8, 1_828, 45_904].map(|size| StreamingInputCallRequest {
            payload: Some(payload(size)),
            ..StreamingInputCallRequest::default()
        });
        let response = self.test.streaming_input_call(requests).map_err(told)?;
        expect_size(
            usize::try_from(response.aggregated_payload_size).ok(),
            74_922,
        )
    }

    fn server_streaming(&self) -> Outcome {
        let sizes = [31_415, 9, 2_653, 58_979];
        let asked = output(&sizes);
        let response = self.test.streaming_output_call(asked).map_err(told)?;
        let mut answers = response.into_inner();
        for size in sizes {
            expect_size(next_size(&mut answers)?, size)?;
        }
        expect_end(&mut answers)
    }

    fn ping_pong(&self) -> Outcome {
        let (sender, receiver) = pipe();
        let mut answers = self.duplex(receiver, CallOptions::new()).map_err(told)?;
        for (asked, size) in [(27_182, 31_415), (8, 9), (1_828, 2_653), (45_904, 58_979)] {
            let mut request = output(&[size]);
            request.payload = Some(payload(asked));
            sender
                .send(request)
                .map_err(|_| "the requests' end is closed")?;
            expect_size(next_size(&mut answers)?, size)?;
        }
        drop(sender);
        expect_end(&mut answers)
    }

    fn empty_stream(&self) -> Outcome {
        let mut answers = self
            .duplex(std::iter::empty(), CallOptions::new())
            .map_err(told)?;
        expect_end(&mut answers)
    }

    fn cancel_after_begin(&self) -> Outcome {
        let (sender, receiver) = pipe::<StreamingInputCallRequest>();
        let test = self.test.clone();
        let call = rpc_core::spawn(move || test.streaming_input_call(receiver));
        rpc_core::time::sleep(Duration::from_millis(5));
        call.cancel();
        drop(sender);
        let result = call.join().map_err(|error| error.to_string())?;
        expect_code(result, Code::Cancelled)
    }

    fn cancel_after_first_response(&self) -> Outcome {
        let (sender, receiver) = pipe();
        let mut request = output(&[31_415]);
        request.payload = Some(payload(27_182));
        sender
            .send(request)
            .map_err(|_| "the requests' end is closed")?;
        let mut answers = self.duplex(receiver, CallOptions::new()).map_err(told)?;
        expect_size(next_size(&mut answers)?, 31_415)?;
        let reading = rpc_core::spawn(move || answers.next());
        rpc_core::time::sleep(Duration::from_millis(5));
        reading.cancel();
        let last = reading.join().map_err(|error| error.to_string())?;
        drop(sender);
        match last {
            Some(result) => expect_code(result, Code::Cancelled),
            None => Err("the stream ended well".to_owned()),
        }
    }

    fn timeout_on_sleeping_server(&self) -> Outcome {
        let (sender, receiver) = pipe();
        let mut request = output(&[]);
        request.payload = Some(payload(27_182));
        sender
            .send(request)
            .map_err(|_| "the requests' end is closed")?;
        let options = CallOptions::new().deadline(Duration::from_millis(1));
        let result = self
            .duplex(receiver, options)
            .and_then(|mut answers| answers.next().transpose());
        drop(sender);
        expect_code(result, Code::DeadlineExceeded)
    }

    fn custom_metadata(&self) -> Outcome {
        let mut unary = Request::new(large());
        mark(unary.metadata_mut());
        let response = self.test.unary_call(unary).map_err(told)?;
        expect_marks(response.metadata(), response.trailers())?;
        let mut request = output(&[314_159]);
        request.payload = Some(payload(271_828));
        let mut requests = Request::new(vec![request]);
        mark(requests.metadata_mut());
        let mut answers = self.duplex(requests, CallOptions::new()).map_err(told)?;
        expect_size(next_size(&mut answers)?, 314_159)?;
        expect_end(&mut answers)?;
        let initial = answers.metadata().map_err(told)?.clone();
        let trailers = answers.trailers().ok_or("the stream has no trailers")?;
        expect_marks(&initial, trailers)
    }

    fn failing(&self, message: &str) -> Outcome {
        let status = Some(EchoStatus {
            code: Code::Unknown.number(),
            message: message.to_owned(),
        });
        let request = SimpleRequest {
            response_status: status.clone(),
            ..SimpleRequest::default()
        };
        expect_failure(self.test.unary_call(request), message)?;
        let request = StreamingOutputCallRequest {
            response_status: status,
            ..StreamingOutputCallRequest::default()
        };
        let result = self
            .duplex([request], CallOptions::new())
            .and_then(|mut answers| answers.next().transpose());
        expect_failure(result, message)
    }

    fn status_code_and_message(&self) -> Outcome {
        self.failing("test status message")
    }

    fn special_status_message(&self) -> Outcome {
        self.failing("\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n")
    }

    fn unimplemented_method(&self) -> Outcome {
        expect_code(self.test.unimplemented_call(Empty {}), Code::Unimplemented)
    }

    fn unimplemented_service(&self) -> Outcome {
        let other = UnimplementedServiceClient::new(self.channel.clone());
        expect_code(other.unimplemented_call(Empty {}), Code::Unimplemented)
    }

    fn rpc_soak(&self) -> Outcome {
        (0..50).try_for_each(|_| self.large_unary())
    }

    fn channel_soak(&self) -> Outcome {
        (0..20).try_for_each(|_| {
            let fresh = Self::connect(&self.addr, self.tls).map_err(|error| error.to_string())?;
            fresh.large_unary()
        })
    }

    fn long_lived_channel(&self) -> Outcome {
        self.large_unary()?;
        rpc_core::time::sleep(Duration::from_millis(200));
        self.large_unary()
    }
}

/// Requests that are sent one by one.
fn pipe<T: Send + 'static>() -> (Sender<T>, impl Iterator<Item = T> + Send + 'static) {
    let (sender, receiver) = channel(1);
    (sender, std::iter::from_fn(move || receiver.recv().ok()))
}

fn boolean(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

fn large() -> SimpleRequest {
    SimpleRequest {
        response_size: 314_159,
        payload: Some(payload(271_828)),
        ..SimpleRequest::default()
    }
}

fn output(sizes: &[usize]) -> StreamingOutputCallRequest {
    let parameters = sizes.iter().map(|size| ResponseParameters {
        size: *size as i32,
        ..ResponseParameters::default()
    });
    StreamingOutputCallRequest {
        response_parameters: parameters.collect(),
        ..StreamingOutputCallRequest::default()
    }
}

fn told(status: Status) -> String {
    status.to_string()
}

fn next_size(
    answers: &mut Streaming<StreamingOutputCallResponse>,
) -> Result<Option<usize>, String> {
    let answer = answers
        .message()
        .map_err(told)?
        .ok_or("the answers ended early")?;
    Ok(answer.payload.map(|payload| payload.body.len()))
}

fn expect_end(answers: &mut Streaming<StreamingOutputCallResponse>) -> Outcome {
    match answers.message().map_err(told)? {
        None => Ok(()),
        Some(_) => Err("there are more answers than asked for".to_owned()),
    }
}

fn expect_size(found: Option<usize>, expected: usize) -> Outcome {
    if found == Some(expected) {
        return Ok(());
    }
    Err(format!("the answer has {found:?} bytes, not {expected}"))
}

fn expect_compressed(found: Compression, expected: bool) -> Outcome {
    if (found != Compression::None) == expected {
        return Ok(());
    }
    let wanted = if expected { "compressed" } else { "plain" };
    Err(format!(
        "the answer is to be {wanted}; its compression: {found}"
    ))
}

fn expect_code<T>(result: Result<T, Status>, code: Code) -> Outcome {
    match result {
        Err(status) if status.code() == code => Ok(()),
        Err(status) => Err(format!("the call failed with {status}, not with {code}")),
        Ok(_) => Err(format!("the call succeeded instead of failing with {code}")),
    }
}

fn expect_failure<T>(result: Result<T, Status>, message: &str) -> Outcome {
    match result {
        Err(status) if status.message() == message => expect_code::<T>(Err(status), Code::Unknown),
        Err(status) => Err(format!("the failure says {:?}", status.message())),
        Ok(_) => Err("the call succeeded".to_owned()),
    }
}

fn mark(metadata: &mut MetadataMap) {
    metadata.append(ECHO_INITIAL, "test_initial_metadata_value");
    metadata.append_bytes(ECHO_TRAILING, vec![0xab, 0xab, 0xab]);
}

fn expect_marks(initial: &MetadataMap, trailing: &MetadataMap) -> Outcome {
    if initial.get(ECHO_INITIAL) != Some("test_initial_metadata_value") {
        return Err(format!("the initial metadata is {initial:?}"));
    }
    match trailing.get_bytes(ECHO_TRAILING) {
        Some(value) if value[..] == [0xab, 0xab, 0xab] => Ok(()),
        _ => Err(format!("the trailing metadata is {trailing:?}")),
    }
}

#[rpc_core::main]
fn main() {
    let flags: Flags = examples::parse_flags();
    let names = CASES.map(|(name, _)| name);
    for wanted in &flags.case {
        if wanted != "all" && !names.contains(&wanted.as_str()) {
            let names = names.join(", ");
            examples::fail(format_args!("no case {wanted:?}; there are: {names}"));
        }
    }
    let chosen = |name: &str| flags.case.iter().any(|it| it == "all" || it == name);
    let client =
        Client::connect(&flags.addr, flags.tls).unwrap_or_else(|error| examples::fail(error));
    for (name, case) in CASES.into_iter().filter(|(name, _)| chosen(name)) {
        if let Err(why) = case(&client) {
            examples::fail(format_args!("{name}: {why}"));
        }
        println!("ok {name}");
    }
}
