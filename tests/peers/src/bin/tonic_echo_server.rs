//! The gRPC server of the RPC benchmark: tonic, answering what it was sent.
//!
//! One thread unless told otherwise: benchmarks give each side one core, and tokio's current-thread runtime is the
//! faster of the two there.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use peers::counting::Counting;
use peers::proto::echo_service_server::{EchoService, EchoServiceServer};
use peers::proto::{EchoRequest, EchoResponse};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Calls in flight on a connection; hyper's own limit is 200.
const STREAMS_MAX: u32 = 1000;

/// Serve example.EchoService over gRPC
#[derive(Parser)]
struct Flags {
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT")]
    addr: SocketAddr,
    /// Worker threads; without them the one thread does it all
    #[arg(long)]
    workers: Option<usize>,
    /// Take 5 ms of processor time for a message that asks to
    #[arg(long)]
    burn: bool,
    /// Let every call wait before it is answered, in milliseconds
    #[arg(long)]
    wait_ms: Option<u64>,
}

struct Echo {
    /// What 5 ms are, in units of [`peers::work`].
    burn: Option<u64>,
    wait: Option<Duration>,
    /// Calls that wait now, and at most at once.
    waiting: AtomicU64,
    most: AtomicU64,
}

#[tonic::async_trait]
impl EchoService for Echo {
    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let message = request.into_inner().message;
        if message == peers::FIGURES {
            let message = peers::figures(self.most.load(Ordering::Relaxed));
            return Ok(Response::new(EchoResponse { message }));
        }
        if let Some(units) = self.burn
            && message == peers::BURN
        {
            peers::work(units);
        }
        if let Some(time) = self.wait {
            // Relaxed: the counts guard no other memory.
            let now = self.waiting.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(now, Ordering::Relaxed);
            tokio::time::sleep(time).await;
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(Response::new(EchoResponse { message }))
    }
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let runtime = match flags.workers {
        None => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build(),
        Some(workers) => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build(),
    };
    runtime?.block_on(serve(flags))
}

async fn serve(flags: Flags) -> anyhow::Result<()> {
    let echo = Echo {
        burn: flags.burn.then(peers::calibrate),
        wait: flags.wait_ms.map(Duration::from_millis),
        waiting: AtomicU64::new(0),
        most: AtomicU64::new(0),
    };
    let incoming = TcpIncoming::bind(flags.addr)?.with_nodelay(Some(true));
    println!("listening on {}", incoming.local_addr()?);
    tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .add_service(EchoServiceServer::new(echo))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}
