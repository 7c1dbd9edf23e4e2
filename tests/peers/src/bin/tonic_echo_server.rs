//! The gRPC server of the RPC benchmark: tonic, answering what it was sent.
//!
//! One thread: benchmarks give each side one core, and tokio's current-thread runtime is the faster
//! of the two there.

use std::net::SocketAddr;

use clap::Parser;
use peers::proto::echo_service_server::{EchoService, EchoServiceServer};
use peers::proto::{EchoRequest, EchoResponse};
use tonic::transport::server::TcpIncoming;
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
    let incoming = TcpIncoming::bind(flags.addr)?.with_nodelay(Some(true));
    println!("listening on {}", incoming.local_addr()?);
    tonic::transport::Server::builder()
        .add_service(EchoServiceServer::new(Echo))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}
