//! The storage process: flags, start, serving, end.
//!
//! The port answers as soon as the process runs, with "try again soon" until the primary has met its
//! backup; so whoever waits for the process need not know how long that takes.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use rpc_core::{BoundServer, Runtime, Server, ServerHandle};

use super::{
    committer::{self, Submit},
    copies::{Copies, Fatal, backup::Backup},
    engine::{Engine, embedded::Embedded},
    links::Links,
    meter::Meter,
    notify::Notifier,
    primary::Primary,
    service::{BackupThread, ReplicaService, StorageService},
    store::{Identity, Store},
    wire::{RemoteAccess, RemotePeer},
};
use crate::{
    model::{Placement, clock::SystemClock},
    proto::storage::{ReplicaServer, StorageServer},
};

/// Flags of `wechat-demo storage`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// HOST:PORT to answer RPC, /status, /health and /metrics on
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: String,
    /// Directory of the store; made if it is missing
    #[arg(long = "data-dir", visible_alias = "dir", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Which of the store's two copies this is
    #[arg(long, value_enum)]
    pub role: RoleFlag,
    /// HOST:PORT of the other copy
    #[arg(long, value_name = "HOST:PORT")]
    pub peer: String,
    /// Shards of a new store, a power of two up to 256; fixed from then on [default: 8]
    #[arg(long, value_name = "N")]
    pub shards: Option<u32>,
    /// Threads that run coroutines [default: one per processor]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

/// The two roles of a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum RoleFlag {
    /// Answers everybody.
    Primary,
    /// Keeps the second copy.
    Backup,
}

/// How long the primary waits before it tries to reach its backup again.
const PEER_PAUSE: Duration = Duration::from_millis(50);
/// Of how many failed attempts to reach the backup one is written down: about one in 10 s.
const MISSES_PER_WARNING: u64 = 200;
/// Exit status when the disk or the other copy leaves no way to go on.
const EXIT_FATAL: i32 = 74;

/// A process that is bound to its address and ready to serve.
pub struct Ready {
    server: BoundServer,
    /// The primary's committer.
    committer: Option<Committer>,
}

/// The committer's thread, and how it is told to end.
struct Committer {
    thread: JoinHandle<()>,
    submit: Submit,
    stop: Arc<AtomicBool>,
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

/// Opens the store and binds the address. Call it on a runtime.
pub fn start(options: &Options) -> anyhow::Result<Ready> {
    let ready = match options.role {
        RoleFlag::Primary => start_primary(options)?,
        RoleFlag::Backup => start_backup(options)?,
    };
    tracing::info!(listen = %ready.local_addr(), role = ?options.role, "storage is up");
    Ok(ready)
}

impl Ready {
    /// Where it listens, with the port that was chosen.
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// For draining it while it serves.
    pub fn handle(&self) -> ServerHandle {
        self.server.handle()
    }

    /// Serves until it is drained, then closes the store.
    pub fn serve(self) -> anyhow::Result<()> {
        let served = self.server.serve().context("serving ended");
        if let Some(Committer {
            thread,
            submit,
            stop,
        }) = self.committer
        {
            // Everybody was answered or has given up; what still waits for the backup is not waited for.
            submit.close();
            stop.store(true, Ordering::Relaxed);
            let joined = rpc_core::spawn_blocking(move || thread.join()).join();
            if !matches!(joined, Ok(Ok(()))) {
                bail!("the committer panicked");
            }
        }
        served
    }
}

fn start_backup(options: &Options) -> anyhow::Result<Ready> {
    let engine = open(&options.data_dir)?;
    let backup = Backup::open(engine).with_context(|| at(&options.data_dir))?;
    let backup = BackupThread::start(backup, |error| end(&error))
        .context("the backup's thread cannot start")?;
    let server = Server::builder()
        .add_service(StorageServer::new(StorageService::backup(backup.clone())))
        .add_service(ReplicaServer::new(ReplicaService { backup }))
        .bind(&options.listen)
        .with_context(|| listening(&options.listen))?;
    Ok(Ready {
        server,
        committer: None,
    })
}

fn start_primary(options: &Options) -> anyhow::Result<Ready> {
    let engine = open(&options.data_dir)?;
    let identity = identity(&*engine, options.shards).with_context(|| at(&options.data_dir))?;
    let serving = Arc::new(OnceLock::new());
    let service = StorageService::primary(Arc::clone(&serving));
    let meter = Arc::new(Meter::default());
    let figures = Arc::clone(&meter);
    let server = Server::builder()
        .metrics(move || figures.render())
        .add_service(StorageServer::new(service))
        .bind(&options.listen)
        .with_context(|| listening(&options.listen))?;
    let peer =
        RemotePeer::new(&options.peer).with_context(|| format!("--peer {}", options.peer))?;
    let (submit, stop) = (Submit::new(), Arc::new(AtomicBool::new(false)));
    let store = StoreThread {
        engine,
        identity,
        peer: Arc::new(peer),
        submit: submit.clone(),
        stop: Arc::clone(&stop),
        serving,
        notifier_home: rpc_core::Handle::try_current().context("storage starts on a runtime")?,
        meter,
    };
    let thread = store
        .start()
        .context("the committer's thread cannot start")?;
    Ok(Ready {
        server,
        committer: Some(Committer {
            thread,
            submit,
            stop,
        }),
    })
}

/// What the committer's thread is made of.
struct StoreThread {
    engine: Arc<Embedded>,
    identity: Identity,
    peer: Arc<RemotePeer>,
    submit: Submit,
    stop: Arc<AtomicBool>,
    serving: Arc<OnceLock<Primary>>,
    notifier_home: rpc_core::Handle,
    meter: Arc<Meter>,
}

impl StoreThread {
    fn start(self) -> std::io::Result<JoinHandle<()>> {
        let run = move || {
            let _guard = EndOnPanic;
            match self.run() {
                Ok(()) | Err(Fatal::Stopped) => {}
                Err(fatal) => end(&fatal),
            }
        };
        std::thread::Builder::new()
            .name("committer".to_owned())
            .spawn(run)
    }

    fn run(self) -> Result<(), Fatal> {
        let clock = Arc::new(SystemClock);
        let stop = self.stop;
        let meter = Arc::clone(&self.meter);
        let mut misses = 0_u64;
        let pause = Box::new(move || {
            Meter::add(&meter.copy_misses, 1);
            misses += 1;
            if misses % MISSES_PER_WARNING == 1 {
                tracing::warn!(misses, "the backup cannot be reached; writes wait for it");
            }
            if stop.load(Ordering::Relaxed) {
                return Err(Fatal::Stopped);
            }
            std::thread::sleep(PEER_PAUSE);
            Ok(())
        });
        let copies = Copies::new(self.peer, self.identity.id.clone(), pause);
        let store = Store::start(self.engine, clock.clone(), self.identity, copies)?;
        tracing::info!(
            epoch = store.identity().epoch,
            "both copies are level; serving"
        );
        let links = Arc::new(Links::default());
        let primary = Primary::new(
            &store,
            self.submit.clone(),
            Arc::clone(&links),
            clock.clone(),
        );
        let notifier = Notifier::new(
            links,
            clock,
            Arc::new(RemoteAccess::default()),
            Box::new(move |job| drop(self.notifier_home.spawn(job))),
            Arc::clone(&self.meter),
        );
        let meter = self.meter;
        meter.serving.store(1, Ordering::Relaxed);
        meter.epoch.store(store.identity().epoch, Ordering::Relaxed);
        if self.serving.set(primary).is_err() {
            unreachable!("one thread sets it, once");
        }
        committer::run(store, &self.submit, &meter, |moved| notifier.moved(moved))
    }
}

fn open(dir: &Path) -> anyhow::Result<Arc<Embedded>> {
    std::fs::create_dir_all(dir).with_context(|| {
        let text = "cannot be made; give a directory that can";
        format!("--data-dir {} {text}", dir.display())
    })?;
    let empty = std::fs::read_dir(dir)
        .with_context(|| at(dir))?
        .next()
        .is_none();
    if !empty && !Embedded::is_there(dir) {
        bail!(
            "--data-dir {} holds other files; give an empty directory or a store's",
            dir.display()
        );
    }
    Ok(Arc::new(Embedded::open(dir).with_context(|| at(dir))?))
}

/// What the store is; makes a new one where there is none.
fn identity(engine: &dyn Engine, shards: Option<u32>) -> anyhow::Result<Identity> {
    if let Some(identity) = Identity::load(engine)? {
        let there = identity.place.shards();
        match shards {
            Some(asked) if asked as usize != there => {
                bail!("the store has {there} shards for ever; leave --shards {asked} out")
            }
            _ => return Ok(identity),
        }
    }
    let place = Placement::new(shards.unwrap_or(Placement::DEFAULT_SHARDS)).context("--shards")?;
    let mut id = [0; 16];
    rpc_core::base::rng::fill_secret(&mut id);
    let identity = Identity::of_copy(Bytes::copy_from_slice(&id), place);
    identity.store(engine)?;
    Ok(identity)
}

/// Ends the process: it cannot keep what it promised, and a sync is not tried twice (S-3).
fn end(error: &dyn std::error::Error) {
    tracing::error!(%error, "storage ends");
    eprintln!("storage: {error}");
    std::process::exit(EXIT_FATAL);
}

/// Held by a thread without which the process only seems to live: its panic ends the process.
pub(super) struct EndOnPanic;

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The panic's own text has been printed.
            eprintln!("storage: a thread that it cannot do without has panicked; start it again");
            std::process::exit(EXIT_FATAL);
        }
    }
}

fn at(dir: &Path) -> String {
    format!("--data-dir {}", dir.display())
}

fn listening(address: &str) -> String {
    format!("--listen {address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_other_files_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("diary.txt"), "dear diary").unwrap();
        let error = open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("holds other files"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_store_is_opened_again_and_its_shards_stay() {
        let dir = tempfile::tempdir().unwrap();
        let first = identity(&*open(&dir.path().join("store")).unwrap(), Some(4)).unwrap();
        let engine = open(&dir.path().join("store")).unwrap();
        assert_eq!(identity(&*engine, None).unwrap(), first);
        assert_eq!(identity(&*engine, Some(4)).unwrap(), first);
        let error = identity(&*engine, Some(8)).unwrap_err().to_string();
        assert!(error.contains("4 shards for ever"), "{error}");
    }
}
