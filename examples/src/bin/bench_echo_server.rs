//! The server of the RPC benchmark: answers what it was sent; a message that asks for it burns the processor first,
//! another is answered with the server's figures.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use examples::counting::Counting;
use examples::interop::{SERVER_CHAIN, SERVER_KEY};
use rpc_core::{Request, Response, Runtime, Server, ServerTls, Status};

rpc_core::include_proto!("example");

#[global_allocator]
static COUNTING: Counting = Counting;

/// Serve example.EchoService for the benchmark
#[derive(Parser)]
struct Flags {
    /// Where to listen; port 0 takes a free one and prints it
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8100")]
    addr: String,
    /// Worker threads; one for each processor when left out
    #[arg(long)]
    workers: Option<usize>,
    /// Speak TLS too, with the certificate of the interoperability tests
    #[arg(long)]
    tls: bool,
    /// Take 5 ms of processor time for a message that asks to
    #[arg(long)]
    burn: bool,
    /// Let every call wait before it is answered, in milliseconds
    #[arg(long)]
    wait_ms: Option<u64>,
}

/// Calls in flight where they wait: the hundred thousand that a server takes by itself are meant to wait all, and one
/// more asks for the figures.
const WAITING_MAX: usize = 200_000;

struct Echo {
    /// What 5 ms are, in units of [`examples::work`].
    burn: Option<u64>,
    wait: Option<Duration>,
    /// Calls that wait now, and at most at once.
    waiting: AtomicU64,
    most: AtomicU64,
}

impl Echo {
    fn wait(&self, time: Duration) {
        // Relaxed: the counts guard no other memory.
        let now = self.waiting.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        std::thread::sleep(time);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl EchoService for Echo {
    fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let message = request.into_inner().message;
        if message == examples::FIGURES {
            let message = examples::figures(self.most.load(Ordering::Relaxed));
            return Ok(Response::new(EchoResponse { message }));
        }
        if let Some(units) = self.burn
            && message == examples::BURN
        {
            examples::work(units);
        }
        if let Some(time) = self.wait {
            self.wait(time);
        }
        Ok(Response::new(EchoResponse { message }))
    }
}

fn main() {
    let flags: Flags = examples::parse_flags();
    let mut runtime = Runtime::builder();
    if let Some(workers) = flags.workers {
        runtime = runtime.workers(workers);
    }
    let runtime = runtime
        .build()
        .unwrap_or_else(|error| examples::fail(error));
    runtime.block_on(move || serve(&flags));
}

fn serve(flags: &Flags) {
    let echo = Echo {
        burn: flags.burn.then(|| examples::units(examples::BURN_TIME)),
        wait: flags.wait_ms.map(Duration::from_millis),
        waiting: AtomicU64::new(0),
        most: AtomicU64::new(0),
    };
    let mut builder = Server::builder().add_service(EchoServiceServer::new(echo));
    if flags.wait_ms.is_some() {
        builder = builder.max_concurrency(WAITING_MAX);
    }
    if flags.tls {
        let tls = ServerTls::from_pem(SERVER_CHAIN, SERVER_KEY);
        builder = builder.tls(tls.unwrap_or_else(|error| examples::fail(error)));
    }
    let server = builder
        .bind(&flags.addr)
        .unwrap_or_else(|error| examples::fail(error));
    println!("listening on {}", server.local_addr());
    server.serve().unwrap_or_else(|error| examples::fail(error));
}
