//! `replay`: plays a chat log through real terminals against a fresh cluster, and checks every line.
//!
//! Knows:       the order of the work: read, start, register, play, drain, compare.
//! Does not know: how a line becomes durable.
//!
//! Everything that is compared was read back from terminals' stores: one per person as it stood after the
//! play, and one fresh device per person that synced from nothing.
//!
//! Read first: [`schedule`], then [`check`], then `play.rs`.

pub(crate) mod accounts;
mod check;
mod kill;
mod log;
pub(crate) mod parallel;
pub(crate) mod play;
mod report;
mod schedule;
mod views;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use rpc_core::Runtime;
use rpc_core::base::rng::Rng;
use wechat_demo::checker::{self, read};
use wechat_demo::cluster::{Clusters, EnsembleFlags, Plan, Role};
use wechat_demo::history::{Event, History};
use wechat_demo::model::clock::parse_time;
use wechat_demo::storage::engine::mysql::Mysql;
use wechat_demo::storage::location::EngineFlags;
use wechat_demo::storage::store::Identity;

use check::Verdict;
use kill::{Kill, Kills};
use report::Report;

/// Memory of a password hash in the replay's cluster: 650 people are registered before the first line,
/// and their passwords protect nothing.
const LIGHT_HASH: [&str; 2] = ["--argon2-memory-kib", "64"];
/// Below the run's directory: what storage processes wrote down.
const WITNESSES: &str = "witnesses";
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
    /// storage-primary@30%,storage-2@60%; storage-primary is the storage process that serves then. With --idcs 3
    /// sh/storage-primary@30%
    #[arg(long, value_name = "ROLE@P%", value_delimiter = ',')]
    kill: Vec<Kill>,
    /// Kill (SIGKILL) and restart a random process so often, for example 5s
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    kill_every: Option<Duration>,
    /// Seed of --kill-every's choices [default: a random one, printed]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Start a role again that ends by itself; at least one must
    #[arg(long)]
    restart_ended: bool,
    /// Silence of a terminal before a heartbeat
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "5s")]
    heartbeat: Duration,
    /// Give the play up when nothing has moved for so long
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "90s")]
    patience: Duration,
    /// Write the history that the checker judges here [default: into --dir]
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Where the terminals keep their conversations
    #[arg(long, value_enum, default_value_t = StoreKind::Durable)]
    store: StoreKind,
    /// Keep the cluster's data and logs here [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// IDCs of the cluster; with 3 people live in sh, hk and ca by turns
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_idcs)]
    idcs: u8,
    #[command(flatten)]
    engine: EngineFlags,
    #[command(flatten)]
    coordination: EnsembleFlags,
}

/// Back ends of the terminals' stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoreKind {
    /// On disk, one fsync for all terminals that wait.
    Durable,
    /// In memory; the fresh devices always are.
    Memory,
}

/// Runs the replay; exit status 1 when anything was lost, duplicated or reordered, or when its history shows
/// another promise broken.
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
    if database.is_some() && flags.idcs > 1 {
        anyhow::bail!(
            "--idcs {}: one database keeps the store of one IDC; leave --database out",
            flags.idcs
        );
    }
    if let Some(url) = database {
        let engine = Mysql::open(url).context("--database")?;
        if Identity::load(&engine)?.is_some() {
            anyhow::bail!("the database holds a store; a replay starts from nothing");
        }
    }
    flags.coordination.look(true)?;
    let plan = Plan {
        database: database.map(str::to_owned),
        zookeeper: flags.coordination.zookeeper.clone(),
        ..witnessed(&dir)
    };
    let seed = flags.seed.unwrap_or_else(|| Rng::from_entropy().next_u64());
    if flags.kill_every.is_some() {
        eprintln!("--seed {seed}");
    }
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let file = flags
        .history
        .clone()
        .unwrap_or_else(|| dir.join("history.jsonl"));
    let history = History::create(&file)
        .with_context(|| format!("the history {} cannot be started", file.display()))?;
    history.tell(opening(&flags, &log, seed));
    let binary = std::env::current_exe().context("the path of this program")?;
    let cluster = Clusters::bring_up(&dir, 0, &plan, usize::from(flags.idcs), &binary)?;
    let kills = Kills::new(&flags.kill, flags.kill_every, seed, cluster.processes())?;
    let kept = dir.clone();

    let cluster = Arc::new(Mutex::new(cluster));
    let runtime = Runtime::builder()
        .build()
        .context("the runtime cannot start")?;
    let report = {
        let (flags, cluster, history) = (flags.clone(), cluster.clone(), history.clone());
        runtime.block_on(move || play_and_check(&flags, &log, &dir, &cluster, &history, kills))?
    };
    history.end().context("the history")?;
    let cluster = Arc::into_inner(cluster).expect("everybody who used the cluster has ended");
    cluster
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .drain();
    let files = histories(file, &kept)?;
    let verdict = read::check(&files)?;
    eprintln!("{}", read::tell(&verdict, &files)?);
    Ok(conclude(&flags, &report, &verdict))
}

/// A cluster whose many passwords protect nothing.
pub(crate) fn cheap() -> Plan {
    Plan {
        extra: LIGHT_HASH.map(|flag| (Role::Logic, flag.to_owned())).into(),
        ..Plan::default()
    }
}

/// As [`cheap`], of one below `dir` whose storage processes write down what they may.
pub(crate) fn witnessed(dir: &Path) -> Plan {
    let mut plan = cheap();
    for role in Role::STORAGE {
        let told = dir.join(WITNESSES).display().to_string();
        plan.extra
            .extend([(role, "--history".to_owned()), (role, told)]);
    }
    plan
}

/// The histories of a run below `dir`: its own, and those of every life of a storage process.
pub(crate) fn histories(own: PathBuf, dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let told = dir.join(WITNESSES);
    let files = std::fs::read_dir(&told).with_context(|| told.display().to_string())?;
    let files = files.map(|file| Ok(file?.path()));
    let mut files = files.collect::<std::io::Result<Vec<_>>>()?;
    files.sort();
    files.insert(0, own);
    Ok(files)
}

/// The first line of the history: which faults are planned, how much must be acknowledged.
fn opening(flags: &Flags, log: &log::Log, seed: u64) -> Event {
    let planned = flags.kill.iter().map(Kill::fault);
    let every = flags.kill_every.map(|_| kill::SOME_KILL.to_owned());
    let ended = flags.restart_ended.then(|| kill::SOME_END.to_owned());
    Event::Run {
        what: "replay".to_owned(),
        seed,
        faults: planned.chain(every).chain(ended).collect(),
        least_acks: log.lines.len() as u64,
        changes: Vec::new(),
    }
}

/// The body of the replay, as a coroutine.
fn play_and_check(
    flags: &Flags,
    log: &Arc<log::Log>,
    dir: &Path,
    cluster: &Arc<Mutex<Clusters>>,
    history: &Arc<History>,
    kills: Kills,
) -> anyhow::Result<Report> {
    let addresses = {
        let cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
        cluster.link_addresses()
    };
    let names = Arc::new(log.people.clone());
    let people = accounts::open(&addresses, names, &bar("registering", log.people.len()))?;
    let stage = play::Stage::set(&addresses, log, people, flags, dir, history)?;
    stage.introduce(&bar("introducing", 0))?;
    let played = stage.play(flags, kills, cluster, &bar("playing", log.lines.len()))?;
    history.tell(Event::Healed {});
    stage.rest(flags.heartbeat);
    history.tell(Event::Rest {});
    history.tell(Event::Drain {});

    let mut verdict = Verdict::new(log);
    views::look_at_all(
        &stage,
        &mut verdict,
        &bar("comparing", 2 * log.people.len()),
    )?;
    stage.close();
    Ok(Report::new(played, &verdict))
}

fn conclude(flags: &Flags, report: &Report, verdict: &checker::Verdict) -> ExitCode {
    report.tell(flags.json);
    if !report.is_faultless() {
        ExitCode::FAILURE
    } else if !verdict.is_green() {
        verdict.exit()
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

/// `1` or `3`.
pub(crate) fn parse_idcs(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(count @ (1 | 3)) => Ok(count),
        _ => Err("give 1 or 3".to_owned()),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if f64::is_finite(rate) && rate > 0.0 => Ok(rate),
        _ => Err("give a number of lines a second above 0".to_owned()),
    }
}
