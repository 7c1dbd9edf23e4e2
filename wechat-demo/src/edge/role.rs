//! The edge process: flags, start, serving, end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use rpc_core::{BoundServer, Runtime, Server};

use super::cache::{self, Cache};
use super::gate::RemoteGate;
use super::http::{CHUNK, Media, PREFIX};
use super::meter::Meter;
use super::origin::Edges;
use super::store::{Bounds, Store};
use crate::model::clock::{Clock, SystemClock};

/// Connections at once: each may hold a chunk that is on its way in.
const CONNECTIONS: usize = 1_000;
/// Bytes of a request beside its chunk.
const BESIDE: usize = 4 << 10;
/// Bytes that a reader may leave unread before its connection is read no longer.
const UNREAD: usize = 4 << 20;
/// Time without a byte taken after which a reader is given up.
const STALL: Duration = Duration::from_secs(30);
/// Time between looks for uploads that took too long.
const SWEEP: Duration = Duration::from_secs(600);
/// Bytes of one object at most, whatever the flag says: an answer is in memory as a whole.
const OBJECT_BYTES: u64 = 1 << 30;

/// Flags of `wechat-demo edge`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// HOST:PORT to take media on and give it out, under /media/; and /status, /health and /metrics
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: String,
    /// HOST:PORT of the logic processes, or zk://HOST:PORT,…/PATH at which they register: they say whose a token is
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    pub logic: Vec<String>,
    /// Directory of uploads and objects, of this process alone
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Bytes of one object at most; pictures have 20 MiB and voice messages 4 MiB at most in any case
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    pub max_object: u64,
    /// Bytes of all objects of one user
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 30)]
    pub user_bytes: u64,
    /// Bytes of all objects here
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 30)]
    pub total_bytes: u64,
    /// HOST:PORT of other edges, in the order in which they are asked for what is not here
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub origin: Vec<String>,
    /// Bytes that are kept of what other edges gave
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 30)]
    pub cache_bytes: u64,
    /// Bytes of answers in memory at once; requests for more are told to come again
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20)]
    pub memory: u64,
    /// Threads that run coroutines [default: one per processor]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

/// Runs the process until SIGTERM or SIGINT. Call it from a plain thread: it brings its own runtime.
///
/// # Errors
/// An address or a directory that cannot be had.
pub fn run(options: Options) -> anyhow::Result<()> {
    let mut runtime = Runtime::builder();
    if let Some(workers) = options.workers {
        runtime = runtime.workers(workers);
    }
    let runtime = runtime.build().context("the runtime cannot start")?;
    runtime.block_on(move || start(&options)?.serve().context("serving ended"))
}

/// Opens the directory and binds the address; the rest is [`BoundServer::serve`]. Call it on a runtime.
///
/// # Errors
/// An address or a directory that cannot be had.
pub fn start(options: &Options) -> anyhow::Result<BoundServer> {
    if !(1..=OBJECT_BYTES.min(options.memory)).contains(&options.max_object) {
        bail!(
            "--max-object {}: give 1 to {OBJECT_BYTES} bytes, and no more than --memory",
            options.max_object
        );
    }
    if !options.origin.is_empty() && options.cache_bytes < options.max_object {
        bail!("--cache-bytes has to be --max-object at least: one object has to fit");
    }
    let meter = Arc::<Meter>::default();
    let (asked, counted) = (options.clone(), Arc::clone(&meter));
    // Much may lie there: no worker's affair.
    let opened = rpc_core::spawn_blocking(move || open(&asked, &counted));
    let (store, cache) = match opened.join() {
        Ok(opened) => opened?,
        Err(error) => bail!("opening the directory: {error}"),
    };
    let gate = RemoteGate::new(&options.logic)?;
    let swept = Arc::downgrade(&store);
    let clock = Arc::new(SystemClock);
    let gate = Box::new(gate);
    let media = Media::new(
        store,
        cache,
        gate,
        clock,
        Arc::clone(&meter),
        options.memory,
    );
    let unread = options.max_object as usize + UNREAD;
    let server = Server::builder()
        .max_message_size(CHUNK + BESIDE)
        .max_connections(CONNECTIONS)
        .unwritten(UNREAD, 2 * unread, STALL)
        .metrics(move || meter.render())
        .pages(PREFIX, move |request| media.answer(request))
        .bind(&options.listen)
        .with_context(|| format!("--listen {}", options.listen))?;
    rpc_core::spawn(move || {
        loop {
            rpc_core::time::sleep(SWEEP);
            let Some(store) = swept.upgrade() else { return };
            match store.expire(SystemClock.unix_ms()) {
                Ok(0) => {}
                Ok(gone) => tracing::info!(gone, "uploads that took over a day were given up"),
                Err(error) => tracing::error!("cannot look for old uploads: {error}"),
            }
        }
    });
    tracing::info!(listen = %server.local_addr(), logic = ?options.logic, "edge is up");
    Ok(server)
}

/// Opens what lies in the directory.
fn open(options: &Options, meter: &Arc<Meter>) -> anyhow::Result<(Arc<Store>, Option<Cache>)> {
    let bounds = Bounds {
        object: options.max_object,
        owner: options.user_bytes,
        total: options.total_bytes,
    };
    let store = Store::open(&options.dir, bounds, SystemClock.unix_ms())?;
    if options.origin.is_empty() {
        return Ok((Arc::new(store), None));
    }
    let bounds = cache::Bounds {
        bytes: options.cache_bytes,
        object: options.max_object,
    };
    let edges = Box::new(Edges::new(&options.origin));
    let dir = options.dir.join("cache");
    let cache = Cache::open(&dir, bounds, edges, Arc::clone(meter));
    let cache = cache.with_context(|| format!("--dir {}", options.dir.display()))?;
    Ok((Arc::new(store), Some(cache)))
}
