//! The logic process: flags, start, serving, end.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, anyhow};
use clap::Args;
use rpc_core::{BoundServer, Runtime, Server};

use super::{
    business::Business,
    moderate::WordList,
    password::{Cost, Passwords},
    rate::Rates,
    remote::RemoteStores,
    service::LogicService,
};
use crate::{
    coordinator::names::NameFlags,
    homes::HomesFlags,
    model::{clock::SystemClock, limits::FRAME_BYTES},
    proto::logic::LogicServer,
};

/// More than a person does, and than a replay of a chat log needs; less than harms others.
pub const DEFAULT_USER_RATE: u32 = 500;

/// Flags of `wechat-demo logic`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// HOST:PORT to answer RPC, /status, /health and /metrics on
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: String,
    /// HOST:PORT of the storage processes, in any order, or zk://HOST:PORT,…/PATH at which they register; the one that
    /// serves is found
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        required_unless_present = "homes",
        conflicts_with = "homes"
    )]
    pub storage: Vec<String>,
    /// In the place of --storage, if there are several homes
    #[command(flatten)]
    pub homes: HomesFlags,
    /// Where it says that it is there
    #[command(flatten)]
    pub names: NameFlags,
    /// Memory of one password hash; less than the default is for tests and replays only
    #[arg(long, value_name = "KIB", default_value_t = Cost::default().memory_kib)]
    pub argon2_memory_kib: u32,
    /// Messages and changes a second that one user may make in the long run, four seconds' worth at once; 0 = no limit
    #[arg(long, value_name = "N", default_value_t = DEFAULT_USER_RATE)]
    pub user_rate: u32,
    /// A file with a word a line: texts that contain one are refused
    #[arg(long, value_name = "FILE")]
    pub refuse_words: Option<PathBuf>,
    /// Threads that run coroutines [default: one per processor]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

/// Runs the process until SIGTERM or SIGINT. Call it from a plain thread: it brings its own runtime.
pub fn run(options: Options) -> anyhow::Result<()> {
    let mut runtime = Runtime::builder();
    if let Some(workers) = options.workers {
        runtime = runtime.workers(workers);
    }
    let runtime = runtime.build().context("the runtime cannot start")?;
    runtime.block_on(move || start(&options)?.serve().context("serving ended"))
}

/// Binds the address; the rest is [`BoundServer::serve`]. Call it on a runtime.
pub fn start(options: &Options) -> anyhow::Result<BoundServer> {
    let usual = Cost::default();
    // A small hash is only small if it also takes few passes.
    let cheap = options.argon2_memory_kib < usual.memory_kib;
    let passes = if cheap { 1 } else { usual.passes };
    let cost = Cost {
        memory_kib: options.argon2_memory_kib,
        passes,
    };
    if cheap {
        tracing::warn!(
            ?cost,
            "passwords are hashed cheaply: for tests and replays only"
        );
    }
    let passwords =
        Passwords::new(cost).map_err(|error| anyhow!("--argon2-memory-kib: {error}"))?;
    let homes = options.homes.read()?;
    let stores = Arc::new(match homes.name() {
        Some(_) => RemoteStores::of(&homes)?,
        None => RemoteStores::of_one(&options.storage)?,
    });
    let moderator = match &options.refuse_words {
        Some(file) => WordList::read(file).context("--refuse-words")?,
        None => WordList::default(),
    };
    let rates = Rates::new(options.user_rate);
    let clock = Arc::new(SystemClock);
    let business = Business::new(
        stores,
        passwords,
        clock,
        rates,
        Box::new(moderator),
        homes.own,
    );
    let server = Server::builder()
        .max_message_size(FRAME_BYTES)
        .add_service(LogicServer::new(LogicService { business }))
        .bind(&options.listen)
        .with_context(|| format!("--listen {}", options.listen))?;
    let server = options.names.announce(server)?;
    tracing::info!(listen = %server.local_addr(), storage = ?options.storage, "logic is up");
    Ok(server)
}
