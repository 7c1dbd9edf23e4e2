//! Serves `grpc.testing.TestService`, the server of gRPC's interoperability tests
//! (grpc's doc/interop-test-descriptions.md), and health and reflection beside it.

use std::time::Duration;

use clap::Parser;
use examples::interop::{
    BoolValue, ECHO_INITIAL, ECHO_TRAILING, EchoStatus, Empty, SERVER_CHAIN, SERVER_KEY,
    SimpleRequest, SimpleResponse, StreamingInputCallRequest, StreamingInputCallResponse,
    StreamingOutputCallRequest, StreamingOutputCallResponse, TestService, TestServiceServer,
    payload,
};
use rpc_core::{
    Code, Compression, CompressionSwitch, Health, MetadataMap, Request, Response, Server,
    ServerTls, Status, Streaming,
};

/// Serve grpc.testing.TestService
#[derive(Parser)]
struct Flags {
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000")]
    addr: String,
    /// Speak TLS too, with the test certificate of examples/tls
    #[arg(long)]
    tls: bool,
}

struct Tester;

type Answer = Result<StreamingOutputCallResponse, Status>;
type Answers = Box<dyn Iterator<Item = Answer>>;

impl TestService for Tester {
    fn empty_call(&self, request: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(echoing(request.metadata(), Empty {}))
    }

    fn unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        demanded(request.response_status.as_ref())?;
        expect_compression(request.expect_compressed.as_ref(), request.compression())?;
        let size = usize::try_from(request.response_size)
            .map_err(|_| Status::invalid_argument("response_size is negative"))?;
        let response = SimpleResponse {
            payload: Some(payload(size)),
            ..SimpleResponse::default()
        };
        let mut response = echoing(request.metadata(), response);
        if is_true(request.response_compressed.as_ref()) {
            response.set_compression(Compression::Gzip);
        }
        Ok(response)
    }

    fn cacheable_unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        self.unary_call(request)
    }

    fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<impl Iterator<Item = Answer>>, Status> {
        let asked = request.metadata().clone();
        let request = Ok(request.into_inner());
        Ok(answering(&asked, |switch| answers(request, switch)))
    }

    fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let mut size = 0;
        let mut requests = request.into_inner();
        while let Some(message) = requests.message()? {
            expect_compression(message.expect_compressed.as_ref(), requests.compression())?;
            size += message.payload.map_or(0, |payload| payload.body.len());
        }
        let aggregated_payload_size = i32::try_from(size)
            .map_err(|_| Status::out_of_range("the payloads have more than 2 GiB together"))?;
        Ok(Response::new(StreamingInputCallResponse {
            aggregated_payload_size,
        }))
    }

    fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<impl Iterator<Item = Answer>>, Status> {
        let asked = request.metadata().clone();
        Ok(answering(&asked, |switch| {
            let requests = request.into_inner();
            requests.flat_map(move |request| answers(request, switch.clone()))
        }))
    }

    fn half_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<impl Iterator<Item = Answer>>, Status> {
        let asked = request.metadata().clone();
        let requests: Vec<_> = request.into_inner().collect();
        Ok(answering(&asked, |switch| {
            let requests = requests.into_iter();
            requests.flat_map(move |request| answers(request, switch.clone()))
        }))
    }

    fn unimplemented_call(&self, _request: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("this method is there to be missing"))
    }
}

/// An answer that carries what the request's metadata asks for.
fn echoing<T>(asked: &MetadataMap, message: T) -> Response<T> {
    let mut response = Response::new(message);
    if let Some(value) = asked.get_bytes(ECHO_INITIAL) {
        let head = response.metadata_mut();
        head.append_bytes(ECHO_INITIAL, value.clone());
    }
    if let Some(value) = asked.get_bytes(ECHO_TRAILING) {
        let trailers = response.trailers_mut();
        trailers.append_bytes(ECHO_TRAILING, value.clone());
    }
    response
}

/// A stream of answers, compressed but where a request asks for a plain one.
fn answering<T>(asked: &MetadataMap, answers: impl FnOnce(CompressionSwitch) -> T) -> Response<T> {
    let mut response = echoing(asked, ());
    response.set_compression(Compression::Gzip);
    let switch = response.compression_switch();
    response.map(|()| answers(switch))
}

/// Refuses a message that came otherwise than its sender says.
fn expect_compression(expected: Option<&BoolValue>, found: Compression) -> Result<(), Status> {
    if is_true(expected) && found == Compression::None {
        let text = "the message expects to be compressed, and was not";
        return Err(Status::invalid_argument(text));
    }
    Ok(())
}

fn is_true(value: Option<&BoolValue>) -> bool {
    value.is_some_and(|it| it.value)
}

/// The failure that a request asks for.
fn demanded(status: Option<&EchoStatus>) -> Result<(), Status> {
    match status {
        Some(status) if status.code != 0 => {
            let code = Code::from_number(status.code);
            Err(Status::new(code, status.message.clone()))
        }
        _ => Ok(()),
    }
}

/// What one request of a stream asks for, each answer after its pause.
fn answers(
    request: Result<StreamingOutputCallRequest, Status>,
    switch: CompressionSwitch,
) -> Answers {
    let request = request.and_then(|request| {
        demanded(request.response_status.as_ref())?;
        Ok(request)
    });
    let request = match request {
        Ok(request) => request,
        Err(status) => return Box::new(std::iter::once(Err(status))),
    };
    let parameters = request.response_parameters.into_iter();
    Box::new(parameters.map(move |parameters| {
        switch.set(is_true(parameters.compressed.as_ref()));
        if let Ok(pause @ 1..) = u64::try_from(parameters.interval_us) {
            rpc_core::time::sleep(Duration::from_micros(pause));
        }
        let size = usize::try_from(parameters.size)
            .map_err(|_| Status::invalid_argument("a size is negative"))?;
        Ok(StreamingOutputCallResponse {
            payload: Some(payload(size)),
        })
    }))
}

#[rpc_core::main]
fn main() {
    let flags: Flags = examples::parse_flags();
    let mut builder = Server::builder()
        .add_service(TestServiceServer::new(Tester))
        .health(&Health::new())
        .reflection();
    if flags.tls {
        let tls = ServerTls::from_pem(SERVER_CHAIN, SERVER_KEY);
        builder = builder.tls(tls.unwrap_or_else(|error| examples::fail(error)));
    }
    let server = builder
        .bind(&flags.addr)
        .unwrap_or_else(|error| examples::fail(error));
    println!("serving grpc.testing on {}", server.local_addr());
    server.serve().unwrap_or_else(|error| examples::fail(error));
}
