//! `replay`: plays a chat log through real terminals against a fresh cluster, and checks every line.
//!
//! Knows:       the order of the work: read, start, register, play, drain, compare.
//! Does not know: how a line becomes durable.
//!
//! Everything that is compared was read back from terminals' stores: one per person as it stood after the
//! play, and one fresh device per person that synced from nothing.
//!
//! Read first: [`schedule`], then [`check`], then `play.rs`.

mod accounts;
mod check;
mod kill;
mod log;
mod parallel;
mod play;
mod report;
mod schedule;
mod views;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use rpc_core::Runtime;
use wechat_demo::cluster::{Cluster, Role};
use wechat_demo::storage::engine::mysql::Mysql;
use wechat_demo::storage::location::EngineFlags;
use wechat_demo::storage::store::Identity;

use check::Verdict;
use kill::Kill;
use report::Report;

/// Memory of a password hash in the replay's cluster: 650 people are registered before the first line,
/// and their passwords protect nothing.
const LIGHT_HASH: [&str; 2] = ["--argon2-memory-kib", "64"];
/// Exit status when a fault that was asked for did not happen: the run shows less than it claims.
const INSUFFICIENT: u8 = 2;

/// Flags of `replay`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Flags {
    /// The log: time, sender, receiver and text a line, separated by tabs; packed with gzip or not
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Play the first N lines only
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Lines a second, as far as the order allows [default: as fast as the order allows]
    #[arg(long, value_name = "R", value_parser = parse_rate)]
    rate: Option<f64>,
    /// Make the last line of the output one JSON object
    #[arg(long)]
    json: bool,
    /// Kill (SIGKILL) and restart processes on the way: ROLE@PERCENT of the lines delivered, for example
    /// storage-primary@30%,storage-2@60%; storage-primary is the storage process that serves then
    #[arg(long, value_name = "ROLE@P%", value_delimiter = ',')]
    kill: Vec<Kill>,
    /// Where the terminals keep their conversations
    #[arg(long, value_enum, default_value_t = StoreKind::Durable)]
    store: StoreKind,
    /// Keep the cluster's data and logs here [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineFlags,
}

/// Back ends of the terminals' stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoreKind {
    /// On disk, one fsync for all terminals that wait.
    Durable,
    /// In memory; the fresh devices always are.
    Memory,
}

/// Runs the replay; exit status 1 when anything was lost, duplicated or reordered.
pub(crate) fn run(flags: Flags) -> anyhow::Result<ExitCode> {
    let log = Arc::new(log::read(&flags.file, flags.limit.unwrap_or(usize::MAX))?);
    let temporary = tempfile::Builder::new().prefix("wechat-replay-").tempdir();
    let temporary = temporary.context("no temporary directory can be made; pass --dir")?;
    let dir = flags
        .dir
        .clone()
        .unwrap_or_else(|| temporary.path().to_owned());
    if std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) {
        anyhow::bail!(
            "{} is not empty; a replay starts from nothing",
            dir.display()
        );
    }
    let database = flags.engine.database()?;
    if let Some(url) = database {
        let engine = Mysql::open(url).context("--database")?;
        if Identity::load(&engine)?.is_some() {
            anyhow::bail!("the database holds a store; a replay starts from nothing");
        }
    }
    let light = LIGHT_HASH.map(|flag| (Role::Logic, flag.to_owned()));
    let binary = std::env::current_exe().context("the path of this program")?;
    let cluster = Cluster::bring_up(&dir, 0, database, None, &light, &binary)?;

    let cluster = Arc::new(Mutex::new(cluster));
    let runtime = Runtime::builder()
        .build()
        .context("the runtime cannot start")?;
    let report = {
        let (flags, cluster) = (flags.clone(), cluster.clone());
        runtime.block_on(move || play_and_check(&flags, &log, &dir, &cluster))?
    };
    let cluster = Arc::into_inner(cluster).expect("everybody who used the cluster has ended");
    cluster
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .drain();
    Ok(conclude(&flags, &report))
}

/// The body of the replay, as a coroutine.
fn play_and_check(
    flags: &Flags,
    log: &Arc<log::Log>,
    dir: &std::path::Path,
    cluster: &Arc<Mutex<Cluster>>,
) -> anyhow::Result<Report> {
    let address = {
        let cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
        cluster.layout().link_address()
    };
    let people = accounts::open(&address, log, &bar("registering", log.people.len()))?;
    let stage = play::Stage::set(&address, log, people, flags, dir)?;
    stage.introduce(&bar("introducing", 0))?;
    let played = stage.play(flags, cluster, &bar("playing", log.lines.len()))?;

    let mut verdict = Verdict::new(log);
    views::look_at_all(
        &stage,
        &mut verdict,
        &bar("comparing", 2 * log.people.len()),
    )?;
    stage.close();
    Ok(Report::new(played, &verdict))
}

fn conclude(flags: &Flags, report: &Report) -> ExitCode {
    report.tell(flags.json);
    if !report.is_faultless() {
        ExitCode::FAILURE
    } else if report.missed_kills() > 0 {
        ExitCode::from(INSUFFICIENT)
    } else {
        ExitCode::SUCCESS
    }
}

/// A progress bar on a terminal, nothing elsewhere.
fn bar(what: &'static str, length: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length as u64);
    let style = ProgressStyle::with_template("{prefix:<12} {wide_bar} {pos}/{len} {msg} {elapsed}");
    bar.set_style(style.expect("the template is well-formed"));
    bar.set_prefix(what);
    bar
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if f64::is_finite(rate) && rate > 0.0 => Ok(rate),
        _ => Err("give a number of lines a second above 0".to_owned()),
    }
}
