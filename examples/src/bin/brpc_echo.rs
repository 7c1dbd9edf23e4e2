//! Serves the services of brpc's examples, so that a real brpc client can be put at the other end:
//! `example.EchoService` for baidu_std and HTTP, `helloworld.Greeter` for gRPC.
//!
//! Message and attachment come back as they were; a request with a checksum is answered with one, as
//! the server of brpc's own example does.

use clap::Parser;
use rpc_core::{Request, Response, Server, Status};

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
    fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
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
