//! The coordinator process: flags, start, serving.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use rpc_core::{BoundServer, Runtime, Server};

use super::{
    disk::{Disk, DiskError},
    keeper::Keeper,
};
use crate::proto::coordinator::CoordinatorServer;

/// Flags of `wechat-demo coordinator`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// HOST:PORT to answer RPC, /status, /health and /metrics on
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: String,
    /// Directory of what is agreed on; made if it is missing
    #[arg(long = "data-dir", visible_alias = "dir", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// Exit status when the disk leaves no way to go on.
const EXIT_FATAL: i32 = 74;

/// Runs the process until SIGTERM or SIGINT. Call it from a plain thread: it brings its own runtime.
pub fn run(options: &Options) -> anyhow::Result<()> {
    // It answers a few questions a second: one worker.
    let runtime = Runtime::builder().workers(1).build();
    let runtime = runtime.context("the runtime cannot start")?;
    let options = options.clone();
    runtime.block_on(move || start(&options)?.serve().context("serving ended"))
}

/// Reads what is agreed on and binds the address. Call it on a runtime.
pub fn start(options: &Options) -> anyhow::Result<BoundServer> {
    let dir = &options.data_dir;
    let at = || format!("--data-dir {}", dir.display());
    std::fs::create_dir_all(dir).with_context(at)?;
    let (disk, rows) = Disk::open(dir).with_context(at)?;
    let keeper = Keeper::start(disk, rows, |error| end(&error)).context("no thread to keep it")?;
    let server = Server::builder()
        .add_service(CoordinatorServer::new(keeper))
        .bind(&options.listen)
        .with_context(|| format!("--listen {}", options.listen))?;
    tracing::info!(listen = %server.local_addr(), "the coordinator is up");
    Ok(server)
}

/// Ends the process: what it answers must be on the disk, and a sync is not tried twice.
fn end(error: &DiskError) {
    tracing::error!(%error, "the coordinator ends");
    eprintln!("coordinator: {error}");
    std::process::exit(EXIT_FATAL);
}
