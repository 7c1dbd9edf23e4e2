//! The server of the RPC benchmark: answers what it was sent.

use clap::Parser;
use rpc_core::{Request, Response, Server, Status};

rpc_core::include_proto!("example");

/// Serve example.EchoService for the benchmark
#[derive(Parser)]
struct Flags {
    /// Where to listen; port 0 takes a free one and prints it
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8100")]
    addr: String,
}

struct Echo;

impl EchoService for Echo {
    fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let message = request.into_inner().message;
        Ok(Response::new(EchoResponse { message }))
    }
}

#[rpc_core::main]
fn main() {
    let flags: Flags = examples::parse_flags();
    let server = Server::builder()
        .add_service(EchoServiceServer::new(Echo))
        .bind(&flags.addr)
        .unwrap_or_else(|error| examples::fail(error));
    println!("listening on {}", server.local_addr());
    server.serve().unwrap_or_else(|error| examples::fail(error));
}
