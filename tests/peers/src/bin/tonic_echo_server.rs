//! The gRPC server of the RPC benchmark: tonic, answering what it was sent.
//!
//! One thread: benchmarks give each side one core, and tokio's current-thread runtime is the faster
//! of the two there.

use std::net::SocketAddr;

use clap::Parser;
use peers::proto::echo_service_server::{EchoService, EchoServiceServer};
use peers::proto::{EchoRequest, EchoResponse};
use tonic::{Request, Response, Status};

/// Serve example.EchoService over gRPC
#[derive(Parser)]
struct Flags {
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT")]
    addr: SocketAddr,
}

struct Echo;

#[tonic::async_trait]
impl EchoService for Echo {
    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let message = request.into_inner().message;
        Ok(Response::new(EchoResponse { message }))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let mut server = tonic::transport::Server::builder().tcp_nodelay(true);
    server
        .add_service(EchoServiceServer::new(Echo))
        .serve(flags.addr)
        .await?;
    Ok(())
}
