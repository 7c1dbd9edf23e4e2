//! Serves `grpc.testing.TestService`, the server of gRPC's interoperability tests
//! (grpc's doc/interop-test-descriptions.md), and health and reflection beside it.

use std::time::Duration;

use clap::Parser;
use examples::interop::{
    ECHO_INITIAL, ECHO_TRAILING, EchoStatus, Empty, SimpleRequest, SimpleResponse,
    StreamingInputCallRequest, StreamingInputCallResponse, StreamingOutputCallRequest,
    StreamingOutputCallResponse, TestService, TestServiceServer, payload,
};
use rpc_core::{Code, Health, MetadataMap, Request, Response, Server, Status, Streaming};

/// Serve grpc.testing.TestService
#[derive(Parser)]
struct Flags {
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000")]
    addr: String,
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
        let size = usize::try_from(request.response_size)
            .map_err(|_| Status::invalid_argument("response_size is negative"))?;
        let response = SimpleResponse {
            payload: Some(payload(size)),
            ..SimpleResponse::default()
        };
        Ok(echoing(request.metadata(), response))
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
        Ok(echoing(&asked, answers(Ok(request.into_inner()))))
    }

    fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let mut size = 0;
        for message in request.into_inner() {
            size += message?.payload.map_or(0, |payload| payload.body.len());
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
        Ok(echoing(&asked, request.into_inner().flat_map(answers)))
    }

    fn half_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<impl Iterator<Item = Answer>>, Status> {
        let asked = request.metadata().clone();
        let requests: Vec<_> = request.into_inner().collect();
        Ok(echoing(&asked, requests.into_iter().flat_map(answers)))
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
fn answers(request: Result<StreamingOutputCallRequest, Status>) -> Answers {
    let request = request.and_then(|request| {
        demanded(request.response_status.as_ref())?;
        Ok(request)
    });
    let request = match request {
        Ok(request) => request,
        Err(status) => return Box::new(std::iter::once(Err(status))),
    };
    Box::new(request.response_parameters.into_iter().map(|parameters| {
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
    let server = Server::builder()
        .add_service(TestServiceServer::new(Tester))
        .health(&Health::new())
        .reflection()
        .bind(&flags.addr)
        .unwrap_or_else(|error| examples::fail(error));
    println!("serving grpc.testing on {}", server.local_addr());
    server.serve().unwrap_or_else(|error| examples::fail(error));
}
