//! Serves the services of brpc's examples, so that a real brpc client can be put at the other end:
//! `example.EchoService` for baidu_std and HTTP, `helloworld.Greeter` for gRPC.
//!
//! Message and attachment come back as they were; a request with a checksum is answered with one, as
//! the server of brpc's own example does. A stream that a client opens with its call is accepted and read to
//! its end, as brpc's streaming example does.

use clap::Parser;
use rpc_core::{ByteStream, Request, Response, Server, Status};

rpc_core::include_proto!("example");

/// The schema of brpc's gRPC example.
mod helloworld {
    rpc_core::include_proto!("helloworld");
}

use helloworld::{Greeter, GreeterServer, HelloReply, HelloRequest};

/// Serve the services of brpc's examples
#[derive(Parser)]
struct Flags {
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000")]
    addr: String,
}

struct Echo;

impl EchoService for Echo {
    fn echo(&self, mut request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        if let Some(stream) = request.take_stream() {
            rpc_core::spawn(move || read(stream));
            let message = "Accepted stream".to_owned();
            return Ok(Response::new(EchoResponse { message }));
        }
        let attachment = request.attachment().clone();
        let mut response = Response::new(EchoResponse {
            message: request.into_inner().message,
        });
        response.set_attachment(attachment);
        Ok(response)
    }
}

struct Hello;

impl Greeter for Hello {
    fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let message = format!("Hello {}", request.name);
        Ok(Response::new(HelloReply { message }))
    }
}

/// Reads the messages of a stream until its client closes it.
fn read(stream: ByteStream) {
    let (mut messages, mut bytes) = (0_u64, 0);
    for message in stream {
        match message {
            Ok(message) => {
                messages += 1;
                bytes += message.len();
            }
            Err(status) => return eprintln!("a stream ended early: {status}"),
        }
    }
    println!("a stream ended: {messages} messages, {bytes} bytes");
}

#[rpc_core::main]
fn main() {
    let flags: Flags = examples::parse_flags();
    let server = Server::builder()
        .add_service(EchoServiceServer::new(Echo))
        .add_service(GreeterServer::new(Hello))
        .bind(&flags.addr)
        .unwrap_or_else(|error| examples::fail(error));
    println!("serving example.EchoService on {}", server.local_addr());
    server.serve().unwrap_or_else(|error| examples::fail(error));
}
