//! The push process: flags, start, serving, end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use rpc_core::base::rng::Rng;
use rpc_core::{BoundServer, JoinHandle, Runtime, Server as Port, ServerHandle};

use super::{apns::Signer, connection::Server, meter::Meter, sender::Sender};
use crate::coordinator::names::Clients;
use crate::proto::storage::StorageClient;

/// Flags of `wechat-demo push`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// HOST:PORT to answer /status, /health and /metrics on
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: String,
    /// HOST:PORT of the storage processes, in any order, or zk://HOST:PORT,…/PATH at which they register; the one that
    /// serves is found
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    pub storage: Vec<String>,
    /// Which push service, and as whom
    #[command(flatten)]
    pub provider: Provider,
    /// Attempts that are made for one push
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub tries: u32,
    /// Threads that run coroutines [default: one per processor]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

/// A provider of pushes at Apple's service (APNs).
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// The provider's key as Apple gives it (AuthKey_….p8): wakes devices that registered a push token and have no
    /// link, through Apple's push service
    // Required as a whole: `up` may do without all of it.
    #[arg(long, value_name = "FILE", required = false, requires_all = ["apns_key_id", "apns_team_id", "apns_topic"])]
    pub apns_key: PathBuf,
    /// The key's id
    #[arg(long, value_name = "ID", required = false, requires = "apns_key")]
    pub apns_key_id: String,
    /// The id of the team that has the key
    #[arg(long, value_name = "ID", required = false, requires = "apns_key")]
    pub apns_team_id: String,
    /// The app's bundle id
    #[arg(long, value_name = "ID", required = false, requires = "apns_key")]
    pub apns_topic: String,
    /// HOST:PORT of the service [default: api.push.apple.com:443]
    #[arg(long, value_name = "HOST:PORT", requires = "apns_key")]
    pub apns_server: Option<String>,
    /// Certificates (PEM) that the service's has to be signed by one of [default: the system's]
    #[arg(long, value_name = "FILE", requires = "apns_key")]
    pub apns_roots: Option<PathBuf>,
}

/// Apple's service for apps that were not built for development.
const SERVICE: &str = "api.push.apple.com:443";
/// Where Debian keeps the certificates that a system trusts.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Longer than a primary waits for a commit.
const DEADLINE: Duration = Duration::from_secs(12);

impl Provider {
    /// The same as flags.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        let mut flag = |name: &str, value: String| flags.extend([name.to_owned(), value]);
        flag("--apns-key", self.apns_key.display().to_string());
        flag("--apns-key-id", self.apns_key_id.clone());
        flag("--apns-team-id", self.apns_team_id.clone());
        flag("--apns-topic", self.apns_topic.clone());
        if let Some(server) = &self.apns_server {
            flag("--apns-server", server.clone());
        }
        if let Some(roots) = &self.apns_roots {
            flag("--apns-roots", roots.display().to_string());
        }
        flags
    }

    fn signer(&self) -> anyhow::Result<Signer> {
        let file = &self.apns_key;
        let read = || {
            let key = std::fs::read(file)?;
            Signer::new(&key, &self.apns_key_id, &self.apns_team_id)
        };
        read().with_context(|| format!("--apns-key {}", file.display()))
    }

    fn server(&self) -> anyhow::Result<Server> {
        let address = self.apns_server.as_deref().unwrap_or(SERVICE);
        let usual = PathBuf::from(SYSTEM_ROOTS);
        let file = self.apns_roots.as_ref().unwrap_or(&usual);
        let roots =
            std::fs::read(file).with_context(|| format!("--apns-roots {}", file.display()))?;
        Server::new(address, &roots).with_context(|| format!("--apns-server {address}"))
    }
}

/// A process that is bound to its address and works.
pub struct Ready {
    port: BoundServer,
    stop: Arc<AtomicBool>,
    sender: JoinHandle<()>,
}

/// Runs the process until SIGTERM or SIGINT. Call it from a plain thread: it brings its own runtime.
pub fn run(options: Options) -> anyhow::Result<()> {
    let mut runtime = Runtime::builder();
    if let Some(workers) = options.workers {
        runtime = runtime.workers(workers);
    }
    let runtime = runtime.build().context("the runtime cannot start")?;
    runtime.block_on(move || start(&options)?.serve())
}

/// Binds the address and begins to work. Call it on a runtime.
pub fn start(options: &Options) -> anyhow::Result<Ready> {
    let (signer, server) = (options.provider.signer()?, options.provider.server()?);
    let meter = Arc::new(Meter::default());
    let sender = Sender {
        stores: Clients::new("--storage", &options.storage, DEADLINE, StorageClient::new)?,
        serving: 0,
        server,
        signer,
        topic: options.provider.apns_topic.clone(),
        tries: options.tries,
        meter: Arc::clone(&meter),
        rng: Rng::from_entropy(),
    };
    let port = Port::builder()
        .metrics(move || meter.render())
        .bind(&options.listen)
        .with_context(|| format!("--listen {}", options.listen))?;
    let stop = Arc::<AtomicBool>::default();
    let told = Arc::clone(&stop);
    let sender = rpc_core::spawn(move || sender.run(&told));
    tracing::info!(listen = %port.local_addr(), storage = ?options.storage, "push is up");
    Ok(Ready { port, stop, sender })
}

impl Ready {
    /// Where it listens, with the port that was chosen.
    pub fn local_addr(&self) -> SocketAddr {
        self.port.local_addr()
    }

    /// For draining it while it serves.
    pub fn handle(&self) -> ServerHandle {
        self.port.handle()
    }

    /// Serves until it is drained, and finishes the batch that is under way.
    pub fn serve(self) -> anyhow::Result<()> {
        let served = self.port.serve().context("serving ended");
        self.stop.store(true, Ordering::Relaxed);
        if self.sender.join().is_err() {
            anyhow::bail!("the coroutine that sends pushes panicked");
        }
        served
    }
}
