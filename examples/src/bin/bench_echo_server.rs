//! The server of the RPC benchmark: answers what it was sent; a message that asks for it burns the processor first.

use clap::Parser;
use examples::interop::{SERVER_CHAIN, SERVER_KEY};
use rpc_core::{Request, Response, Runtime, Server, ServerTls, Status};

rpc_core::include_proto!("example");

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
}

struct Echo {
    /// What 5 ms are, in units of [`examples::work`].
    burn: Option<u64>,
}

impl EchoService for Echo {
    fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let message = request.into_inner().message;
        if let Some(units) = self.burn
            && message == examples::BURN
        {
            examples::work(units);
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
    };
    let mut builder = Server::builder().add_service(EchoServiceServer::new(echo));
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
