//! The access process: flags, start, serving, end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use clap::Args;
use rpc_core::{BoundServer, Request, Response, Runtime, Server, ServerHandle, ServerTls, Status};

use super::beats::{BeatFlags, Beats};
use super::remote::RemoteLogic;
use super::serve::{Access, Door, Settings};
use super::session::Limits;
use crate::model::limits::LINKS_PER_CALL;
use crate::proto::access::{self as pb, AccessServer};

/// Flags of `wechat-demo access`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// HOST:PORT to take long links of terminals on, and WebSocket at /link
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: String,
    /// HOST:PORT to answer RPC, /status, /health and /metrics on; primaries send notifies there
    #[arg(long, value_name = "HOST:PORT")]
    pub rpc: String,
    /// HOST:PORT where primaries reach --rpc, if that is not what --rpc says
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// HOST:PORT of the logic processes, or zk://HOST:PORT,…/PATH at which they register
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    pub logic: Vec<String>,
    /// PEM file with the certificate for TLS on --listen, beside plain text; needs --tls-key
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_chain: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, value_name = "FILE", requires = "tls_chain")]
    pub tls_key: Option<PathBuf>,
    /// Long links at once; more are turned away
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub max_links: u64,
    /// Who is told that terminals may be sent here
    #[command(flatten)]
    pub beats: BeatFlags,
    /// Threads that run coroutines [default: one per processor]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

/// Runs the process until SIGTERM or SIGINT. Call it from a plain thread: it brings its own runtime.
///
/// # Errors
/// An address that cannot be had, or a runtime that cannot be built.
pub fn run(options: Options) -> anyhow::Result<()> {
    let mut runtime = Runtime::builder();
    if let Some(workers) = options.workers {
        runtime = runtime.workers(workers);
    }
    let runtime = runtime.build().context("the runtime cannot start")?;
    runtime.block_on(move || start(&options)?.serve())
}

/// A process that is bound to its addresses and ready to serve.
pub struct Ready {
    access: Arc<Access>,
    door: Door,
    server: BoundServer,
    /// Where somebody is to be told of it.
    beats: Option<Beats>,
}

/// Binds the addresses; the rest is [`Ready::serve`]. Call it on a runtime.
///
/// # Errors
/// An address that cannot be had.
pub fn start(options: &Options) -> anyhow::Result<Ready> {
    let logic = Arc::new(RemoteLogic::new(&options.logic)?);
    let settings = Settings {
        rpc_address: reachable(options)?,
        max_links: options.max_links,
        limits: Limits::default(),
    };
    let access = Access::new(settings, logic);
    let door = access
        .bind(&options.listen, tls(options)?)
        .with_context(|| format!("--listen {}", options.listen))?;
    let meter = access.meter().clone();
    let server = Server::builder()
        .metrics(move || meter.render())
        .add_service(AccessServer::new(AccessService(access.clone())))
        .bind(&options.rpc)
        .with_context(|| format!("--rpc {}", options.rpc))?;
    let beats = Beats::new(options, door.local_addr(), &access)?;
    tracing::info!(links = options.listen, rpc = %server.local_addr(), logic = ?options.logic, "access is up");
    Ok(Ready {
        access,
        door,
        server,
        beats,
    })
}

impl Ready {
    /// Where terminals connect, with the port that was chosen.
    #[must_use]
    pub fn links_addr(&self) -> SocketAddr {
        self.door.local_addr()
    }

    /// For draining it while it serves.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.server.handle()
    }

    /// Serves until it is drained or gets a signal.
    ///
    /// # Errors
    /// A listener broke.
    pub fn serve(self) -> anyhow::Result<()> {
        let door = self.door;
        let links = rpc_core::spawn(move || door.serve());
        let over = Arc::<AtomicBool>::default();
        let told = Arc::clone(&over);
        let beats = self.beats;
        let beats = beats.map(|beats| rpc_core::spawn(move || beats.run(&told)));
        let served = self.server.serve().context("serving ended");
        over.store(true, Ordering::Release);
        if let Some(Err(error)) = beats.map(rpc_core::JoinHandle::join) {
            tracing::error!(%error, "what tells dispatch panicked");
        }
        self.access.drain();
        match links.join() {
            Ok(links) => links.context("the port for terminals")?,
            Err(error) => bail!("the port for terminals: {error}"),
        }
        served
    }
}

/// TLS for terminals, where it is asked for.
fn tls(options: &Options) -> anyhow::Result<Option<ServerTls>> {
    let (Some(chain), Some(key)) = (&options.tls_chain, &options.tls_key) else {
        return Ok(None);
    };
    let read = |flag: &str, path: &Path| {
        std::fs::read(path).with_context(|| format!("{flag} {}", path.display()))
    };
    let tls = ServerTls::from_pem(&read("--tls-chain", chain)?, &read("--tls-key", key)?);
    tls.map(Some).context("--tls-chain and --tls-key")
}

/// The address that is registered with each link.
fn reachable(options: &Options) -> anyhow::Result<String> {
    if let Some(address) = &options.advertise {
        return Ok(address.clone());
    }
    let vague = options
        .rpc
        .parse()
        .is_ok_and(|address: SocketAddr| address.ip().is_unspecified() || address.port() == 0);
    if vague {
        bail!(
            "--rpc {} does not say where primaries can reach it; pass --advertise HOST:PORT",
            options.rpc
        );
    }
    Ok(options.rpc.clone())
}

/// `wechat.access.Access` over RPC.
struct AccessService(Arc<Access>);

impl pb::Access for AccessService {
    fn notify(
        &self,
        request: Request<pb::NotifyRequest>,
    ) -> Result<Response<pb::NotifyReply>, Status> {
        let targets = request.into_inner().targets;
        if targets.len() > LINKS_PER_CALL {
            return Err(Status::invalid_argument(format!(
                "a notify call has at most {LINKS_PER_CALL} targets, this one {}",
                targets.len()
            )));
        }
        let gone_links = self.0.notify(targets);
        Ok(Response::new(pb::NotifyReply { gone_links }))
    }
}
