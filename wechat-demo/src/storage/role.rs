//! The storage process: flags, start, serving, end.
//!
//! Every storage process is a copy of its store, or ready to become one; which of them is primary the views
//! say ([`super::views`]). The port answers as soon as the process runs, with "try again soon" until it
//! serves; so whoever waits for the process need not know how long that takes.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use rpc_core::{BoundServer, Handle, Runtime, Server, ServerHandle};

use super::{
    acks::{Acks, Kept},
    carry::Ways,
    committer::{self, Submit},
    copies::{Copies, Fatal, backup::Backup},
    durability::Promise,
    engine::{Engine, EngineError},
    links::Links,
    location::Location,
    mend,
    meter::{Meter, Now},
    notify::Notifier,
    presence::Presence,
    primary::Primary,
    service::{CopyJobs, CopyThread, Office, ReplicaService, StorageService},
    store::{self, Identity, Store},
    views::{
        Council, Throne, Views,
        machine::{Member, View},
        send_beacons,
    },
    wire::RemoteAccess,
    witness::Witness,
};
use crate::{
    coordinator::{flags::CoordinatorFlags, names::NameFlags},
    homes::HomesFlags,
    model::{HomeId, Placement, clock::SystemClock},
    proto::storage::{ReplicaServer, StorageServer},
};

/// Flags of `wechat-demo storage`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// HOST:PORT to answer RPC, /status, /health and /metrics on; other storage processes reach it there
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: String,
    /// Where the copy is
    #[command(flatten)]
    pub location: Location,
    /// Who agrees on the view
    #[command(flatten)]
    pub coordinator: CoordinatorFlags,
    /// Where it says that it is there
    #[command(flatten)]
    pub names: NameFlags,
    /// Which homes there are, if there are several
    #[command(flatten)]
    pub homes: HomesFlags,
    /// Name of the store at the coordinator [default: its home's, "main" where there is one]
    #[arg(long, value_name = "NAME")]
    pub store: Option<String>,
    /// Follow the store from this IDC, which is not its own: have its data a little later, and serve it when its own IDC
    /// is gone. What another IDC's processes may not do is make the store
    #[arg(long, value_name = "IDC", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub follower: Option<String>,
    /// Copies that must have what is acknowledged: 1 or 2. With 1 a store whose other copy is away takes writes
    /// that only one disk has
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub min_copies: u8,
    /// What acknowledgements promise, where another IDC's process follows the store: two disks here, or also that disk
    /// there. Names, passwords and what takes something away from somebody always wait for that disk then. Without
    /// this flag only a send that asks for it does
    #[arg(long, value_enum)]
    pub durability: Option<Promise>,
    /// Shards of a new store, a power of two up to 256; fixed from then on [default: 8]
    #[arg(long, value_name = "N")]
    pub shards: Option<u32>,
    /// How long deletions are kept
    #[command(flatten)]
    pub kept: Kept,
    /// Write down here when this process may serve and does: histories that `check` judges, a file a life
    #[arg(long, value_name = "DIR")]
    pub history: Option<PathBuf>,
    /// Threads that run coroutines [default: one per processor]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

/// How often a copy looks whether it has become primary.
const LOOK: Duration = Duration::from_millis(20);
/// Exit status when the disk or the other copy leaves no way to go on.
const EXIT_FATAL: i32 = 74;

/// A process that is bound to its address and ready to serve.
pub struct Ready {
    server: BoundServer,
    views: Views,
    holder: Holder,
}

/// The thread that has the copy, and how it is told to end.
struct Holder {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    submit: Arc<Mutex<Submit>>,
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

/// Opens the copy and binds the address. Call it on a runtime.
pub fn start(options: &Options) -> anyhow::Result<Ready> {
    let shards = Placement::new(options.shards.unwrap_or(Placement::DEFAULT_SHARDS));
    let shards = shards.context("--shards")?.shards() as u32;
    let location = &options.location;
    check_follower(options)?;
    let coordinator = options.coordinator.reach()?;
    let homes = options.homes.read()?;
    let store = options.store.clone();
    let store = store.unwrap_or_else(|| homes.name().unwrap_or("main").to_owned());
    let (engine, copy) = mend::open(location, &*coordinator, &store)?;
    check_shards(&copy, options.shards)?;
    let office = Arc::<Office>::default();
    let (way, jobs) = CopyThread::new();
    let meter = Arc::new(Meter::default());
    let submit = Arc::<Mutex<Submit>>::default();
    let ways = Arc::new(Ways::new(&homes));
    let (told, carried) = (Arc::clone(&meter), Arc::clone(&ways));
    let server = bind(options, &office, way.clone(), told, carried, &submit)?;
    let me = member(&server, &*engine, options)?;
    let witness = options.history.as_ref();
    let witness = witness
        .map(|dir| Witness::new(dir, homes.name().unwrap_or_default(), &me.disk))
        .transpose();
    let views = Views::new(me, copy.epoch(), witness.context("--history")?);
    let council = Council {
        views: views.clone(),
        coordinator,
        store,
        create: (copy.identity().is_none() && options.follower.is_none()).then_some(shards),
        has_data: copy.identity().is_some(),
        promise: Box::new(move |epoch| way.run(move |copy| Ok(copy.promise(epoch)?)).is_ok()),
    };
    let home = Handle::try_current().context("storage starts on a runtime")?;
    spawn("council", move || council.run())?;
    let (beacons, calls) = (views.clone(), home);
    spawn("beacons", move || send_beacons(&beacons, &calls))?;
    if office.views.set(views.clone()).is_err() {
        unreachable!("it is set once");
    }
    let holder = CopyHolder {
        engine,
        office,
        views: views.clone(),
        jobs,
        location: location.clone(),
        // A database that is shared keeps the copies.
        min_copies: if location.is_shared() {
            1
        } else {
            usize::from(options.min_copies)
        },
        durability: options.durability,
        own: homes.own,
        ways,
        kept: options.kept,
        home,
        meter,
        stop: Arc::default(),
        submit,
    };
    let holder = holder.start(copy)?;
    tracing::info!(listen = %server.local_addr(), "storage is up");
    Ok(Ready {
        server,
        views,
        holder,
    })
}

/// The server of everything that this process answers.
fn bind(
    options: &Options,
    office: &Arc<Office>,
    copy: CopyThread,
    meter: Arc<Meter>,
    ways: Arc<Ways>,
    submit: &Arc<Mutex<Submit>>,
) -> anyhow::Result<BoundServer> {
    let (office, told) = (Arc::clone(office), Arc::clone(office));
    let submit = Arc::clone(submit);
    let server = Server::builder()
        .metrics(move || {
            let now = Now {
                serves: told.serves(),
                view: told.views.get().map(Views::describe),
                standing: told.views.get().map_or("", Views::standing),
                requests_waiting: lock(&submit).waiting(),
            };
            meter.render(now) + &ways.render()
        })
        .add_service(StorageServer::new(StorageService {
            office: Arc::clone(&office),
        }))
        .add_service(ReplicaServer::new(ReplicaService { office, copy }))
        .bind(&options.listen)
        .with_context(|| listening(&options.listen))?;
    options.names.announce(server)
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
        // Everybody was answered or has given up; what still waits for another copy is not waited for.
        self.holder.stop.store(true, Ordering::Relaxed);
        self.views.stop();
        lock(&self.holder.submit).close();
        let thread = self.holder.thread;
        let joined = rpc_core::spawn_blocking(move || thread.join()).join();
        if !matches!(joined, Ok(Ok(()))) {
            bail!("the thread that has the copy panicked");
        }
        served
    }
}

/// What the thread that has the copy is made of.
struct CopyHolder {
    engine: Arc<dyn Engine>,
    location: Location,
    office: Arc<Office>,
    views: Views,
    jobs: CopyJobs,
    min_copies: usize,
    durability: Option<Promise>,
    /// Whose store it is.
    own: HomeId,
    /// The ways to the other homes.
    ways: Arc<Ways>,
    kept: Kept,
    /// Where notifies are sent from.
    home: Handle,
    meter: Arc<Meter>,
    stop: Arc<AtomicBool>,
    /// The way to the committer of the present reign.
    submit: Arc<Mutex<Submit>>,
}

impl CopyHolder {
    fn start(self, copy: Backup) -> anyhow::Result<Holder> {
        let (stop, submit) = (Arc::clone(&self.stop), Arc::clone(&self.submit));
        let location = self.location.clone();
        let run = move || {
            let _guard = EndOnPanic;
            match self.run(copy) {
                Ok(()) | Err(Fatal::Stopped) => {}
                Err(fatal) => {
                    if let Fatal::Engine(EngineError::Damaged(what)) = &fatal {
                        mend::note(&location, what);
                    }
                    end(&fatal);
                }
            }
        };
        let thread = spawn("copy", run)?;
        Ok(Holder {
            thread,
            stop,
            submit,
        })
    }

    /// Copy, primary, copy again: as the views say.
    fn run(self, mut copy: Backup) -> Result<(), Fatal> {
        loop {
            let Some(view) = self.be_copy(&mut copy)? else {
                return Ok(());
            };
            drop(copy);
            match self.reign(&view) {
                Err(Fatal::Deposed | Fatal::Engine(EngineError::Fenced(_))) => {
                    tracing::info!(epoch = view.epoch, "this process is not primary any more");
                }
                outcome => return outcome,
            }
            self.office.set(None);
            self.jobs.dismiss();
            Meter::set(&self.meter.tasks_waiting, 0);
            copy = self::copy(&self.engine, self.location.is_shared())?;
        }
    }

    /// Until this process is primary; `None` = until it ends.
    fn be_copy(&self, copy: &mut Backup) -> Result<Option<View>, Fatal> {
        while !self.stop.load(Ordering::Relaxed) && self.jobs.work(copy, LOOK)? {
            Meter::set(&self.meter.log_entries, copy.log_entries());
            if let Some(view) = self.views.reign() {
                return Ok(Some(view));
            }
        }
        Ok(None)
    }

    /// Until another process is primary.
    fn reign(&self, view: &View) -> Result<(), Fatal> {
        self.engine.take_over()?;
        let found = Identity::load(&*self.engine)?.filter(|identity| !identity.partial);
        let place =
            Placement::new(view.shards).map_err(|error| Fatal::Copies(error.to_string()))?;
        let mut identity = found.unwrap_or_else(|| Identity::of_copy(view.store_id.clone(), place));
        if identity.id != view.store_id || identity.place != place {
            let text = "the view is of another store than the one on this disk";
            return Err(Fatal::Copies(text.to_owned()));
        }
        identity.incarnation = view.incarnation;
        identity.home = self.own;
        let throne = Box::new(Throne::new(
            self.views.clone(),
            Arc::clone(&self.meter),
            !self.location.is_shared(),
        ));
        let copies = Copies::new(throne, identity.same(), self.min_copies);
        let clock = Arc::new(SystemClock);
        let mut store = Store::start(self.engine.clone(), clock.clone(), identity, copies)?;
        store.promise(self.durability);
        let epoch = store.identity().epoch;
        tracing::info!(epoch, "this process is primary");
        let submit = Submit::new();
        *lock(&self.submit) = submit.clone();
        if self.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let home = self.home;
        let notifier = Arc::new(Notifier::new(
            Arc::<Links>::default(),
            clock.clone(),
            Arc::new(RemoteAccess::default()),
            Box::new(move |job| drop(home.spawn(job))),
            Arc::clone(&self.meter),
        ));
        let primary = Primary::new(
            &store,
            submit.clone(),
            Arc::clone(&notifier),
            clock,
            self.kept,
        );
        let presence = Arc::downgrade(primary.presence());
        drop(home.spawn(move || Presence::run(&presence)));
        self.ways.carry(&submit, home)?;
        let acks = Arc::downgrade(primary.acks());
        drop(home.spawn(move || Acks::run(&acks)));
        self.office.set(Some(primary));
        let outcome = committer::run(
            store,
            &submit,
            &self.meter,
            || self.location.free(),
            |moved| notifier.moved(moved),
        );
        // Nobody waits for a committer that has ended.
        submit.end();
        outcome
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).context("a thread cannot start")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_follower(options: &Options) -> anyhow::Result<()> {
    if options.follower.is_some() && options.location.is_shared() {
        bail!("--follower needs --data-dir: what follows a store has data of its own");
    }
    Ok(())
}

/// A store's shards are what they were when it was made.
fn check_shards(copy: &Backup, asked: Option<u32>) -> anyhow::Result<()> {
    let there = copy
        .identity()
        .map(|identity| identity.place.shards() as u32);
    match (there, asked) {
        (Some(there), Some(asked)) if there != asked => {
            bail!("the store has {there} shards for ever; leave --shards {asked} out")
        }
        _ => Ok(()),
    }
}

/// Who this process is in the views.
fn member(server: &BoundServer, engine: &dyn Engine, options: &Options) -> anyhow::Result<Member> {
    let (address, location) = (server.local_addr().to_string(), &options.location);
    let disk = if location.is_shared() {
        disk_of(&address)
    } else {
        store::disk(engine).with_context(|| location.flag())?
    };
    Ok(Member {
        address,
        disk,
        idc: options.follower.clone().unwrap_or_default(),
    })
}

/// The disk of a member over a shared database: members differ by where they are, the disk is all the same.
pub fn disk_of(address: &str) -> Bytes {
    Bytes::copy_from_slice(&blake3::hash(address.as_bytes()).as_bytes()[..16])
}

fn copy(engine: &Arc<dyn Engine>, shared: bool) -> Result<Backup, EngineError> {
    if shared {
        Backup::stand_in(Arc::clone(engine))
    } else {
        Backup::open(Arc::clone(engine))
    }
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

fn listening(address: &str) -> String {
    format!("--listen {address}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::location::Purpose;

    #[test]
    fn a_store_keeps_its_shards() {
        let dir = tempfile::tempdir().unwrap();
        let location = Location::directory(&dir.path().join("store"));
        let engine = location.open(Purpose::Write).unwrap();
        let disk = store::disk(&*engine).unwrap();
        let place = Placement::new(4).unwrap();
        let id = Bytes::from_static(b"one store's id..");
        Identity::of_copy(id, place).store(&*engine).unwrap();
        let copy = Backup::open(engine.clone()).unwrap();
        assert!(check_shards(&copy, None).is_ok() && check_shards(&copy, Some(4)).is_ok());
        let error = check_shards(&copy, Some(8)).unwrap_err().to_string();
        assert!(error.contains("4 shards for ever"), "{error}");
        assert_eq!(store::disk(&*engine).unwrap(), disk);
    }
}
