//! `chaos`: a cluster under load and under faults, and the checker's judgement over what came of it.
//!
//! Knows:       the order of the work: start, introduce, load and faults, heal, rest, drain, judge.
//! Does not know: what any fault means to the cluster; the history tells the checker.
//!
//! Everything random comes from `--seed`: which faults come when, and who says what to whom. What the machine
//! does in between does not, so a seed names a schedule, not a run.
//!
//! Read first: [`faults`], then [`crowd`].

mod clocks;
mod crowd;
mod deeds;
mod disks;
mod faults;
mod timeline;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use rpc_core::Runtime;
use rpc_core::base::rng::Rng;
use rpc_core::time::Instant;
use wechat_demo::checker::read;
use wechat_demo::cluster::{Cluster, EnsembleFlags, Plan};
use wechat_demo::history::{Event, History};
use wechat_demo::wan::{Matrix, Relay};

use crate::replay;
use crowd::Crowd;
use faults::Faults;
use timeline::Timeline;

/// Share of the messages offered that must be acknowledged: without that the run shows too little.
const LEAST_SHARE: f64 = 0.1;
/// A run of this length has seen changes of all kinds.
const ALL_KINDS: Duration = Duration::from_secs(50);
/// Time for everything unanswered to be answered after the last fault.
const ANSWERS: Duration = Duration::from_secs(60);
/// Pause between samples of the timeline.
const SAMPLE: Duration = Duration::from_millis(500);
/// The two places between which every byte passes: where the terminals are, and where access is.
const TERMINALS: &str = "terminals";
const ACCESS: &str = "access";

/// Flags of `chaos`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Flags {
    /// Seed of faults and load [default: a random one, printed]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// How long load and faults go on
    #[arg(long, value_name = "M", default_value_t = 1.0, value_parser = parse_minutes)]
    minutes: f64,
    /// Terminals
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u16).range(3..=500))]
    terminals: u16,
    /// Messages a second that are offered, whatever the cluster does
    #[arg(long, value_name = "R", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Do these to the system, and nothing else [default: all]
    #[arg(long, value_name = "FAULT", value_enum, value_delimiter = ',')]
    faults: Vec<faults::Kind>,
    /// Keep the cluster's data, the history and the timeline here [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write the timeline of faults against throughput here, as SVG [default: into --dir]
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    coordination: EnsembleFlags,
}

/// Runs it; exit status 1 for a violation, 2 for insufficient evidence.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let seed = flags.seed.unwrap_or_else(|| Rng::from_entropy().next_u64());
    println!("chaos --seed {seed} --minutes {}", flags.minutes);
    let temporary = tempfile::Builder::new().prefix("wechat-chaos-").tempdir();
    let temporary = temporary.context("no temporary directory can be made; pass --dir")?;
    let dir = flags
        .dir
        .clone()
        .unwrap_or_else(|| temporary.path().to_owned());
    flags.coordination.look(true)?;
    let mut plan = Plan {
        zookeeper: flags.coordination.zookeeper.clone(),
        ..replay::witnessed(&dir)
    };
    disks::can_be_slow(&dir, &mut plan);
    clocks::can_jump(&dir, &mut plan);
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let file = dir.join("history.jsonl");
    let history = History::create(&file)
        .with_context(|| format!("the history {} cannot be started", file.display()))?;
    let length = Duration::from_secs_f64(60.0 * flags.minutes);
    let offered = length.as_secs_f64() * f64::from(flags.rate);
    history.tell(Event::Run {
        what: "chaos".to_owned(),
        seed,
        faults: faults::planned(faults::kinds(&flags.faults), length),
        least_acks: (offered * LEAST_SHARE) as u64,
        changes: match length < ALL_KINDS {
            true => Vec::new(),
            false => deeds::KINDS.map(str::to_owned).into(),
        },
    });
    let binary = std::env::current_exe().context("the path of this program")?;
    let cluster = Cluster::bring_up(&dir, 0, &plan, &binary)?;
    let cluster = Arc::new(Mutex::new(cluster));
    let runtime = Runtime::builder()
        .build()
        .context("the runtime cannot start")?;
    let timeline = {
        let (flags, cluster, history) = (flags.clone(), cluster.clone(), history.clone());
        runtime.block_on(move || ordeal(&flags, seed, length, &cluster, &history))?
    };
    history.end().context("the history")?;
    let cluster = Arc::into_inner(cluster).expect("everybody who used the cluster has ended");
    cluster
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .drain();
    plot(flags, &dir, &timeline)?;
    let files = replay::histories(file, &dir)?;
    let verdict = read::check(&files)?;
    println!("{}", timeline.summary());
    println!("{}", read::tell(&verdict, &files)?);
    Ok(verdict.exit())
}

/// Load and faults, then the way back to rest, as a coroutine.
fn ordeal(
    flags: &Flags,
    seed: u64,
    length: Duration,
    cluster: &Arc<Mutex<Cluster>>,
    history: &Arc<History>,
) -> anyhow::Result<Timeline> {
    let address = {
        let cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
        cluster.layout().link_address()
    };
    let target = address.parse().context("the address of access")?;
    let relay = Relay::start(Matrix::pair(TERMINALS, ACCESS, target), seed)?;
    let door = relay.door(0).to_string();
    let crowd = Crowd::gather(&address, &door, flags.terminals.into(), history)?;
    let over = Arc::new(AtomicBool::new(false));
    let talk = {
        let (crowd, over, rate) = (crowd.clone(), over.clone(), flags.rate);
        let rng = Rng::from_seed(seed ^ 1);
        rpc_core::spawn(move || crowd.talk(rate, rng, &over))
    };
    let hands = (0..deeds::HANDS).map(|hand| {
        let (crowd, over) = (crowd.clone(), over.clone());
        let rng = Rng::from_seed(seed ^ (2 + hand as u64));
        rpc_core::spawn(move || deeds::work(&crowd, hand, rng, &over))
    });
    let hands: Vec<_> = hands.collect();
    let begun = Instant::now();
    let sampler = {
        let (crowd, over) = (crowd.clone(), over.clone());
        rpc_core::spawn(move || timeline::sample(begun, SAMPLE, &over, || crowd.figures()))
    };
    let faults = Faults::new(
        (faults::kinds(&flags.faults), seed),
        cluster.clone(),
        crowd.clone(),
        relay.clone(),
        history.clone(),
    );
    let done = faults.go_on_until(begun, begun + length);
    // The schedule's last fault is over when it returns, by error as well.
    let done = done.and_then(|done| faults.heal().map(|()| done));
    over.store(true, Ordering::Release);
    for one in hands.into_iter().chain([talk]) {
        one.join().map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    let samples = sampler.join().map_err(|error| anyhow::anyhow!("{error}"))?;
    let done = done?;
    history.tell(Event::Healed {});
    crowd.wait_answered(ANSWERS);
    crowd.rest();
    history.tell(Event::Rest {});
    history.tell(Event::Drain {});
    let drained = crowd.drain();
    crowd.close();
    relay.close();
    drained?;
    Ok(Timeline::new(length, samples, done))
}

fn plot(flags: &Flags, dir: &Path, timeline: &Timeline) -> anyhow::Result<()> {
    let path = flags
        .plot
        .clone()
        .unwrap_or_else(|| dir.join("timeline.svg"));
    std::fs::write(&path, timeline.svg())
        .with_context(|| format!("cannot write {}", path.display()))?;
    if flags.plot.is_some() || flags.dir.is_some() {
        println!("timeline: {}", path.display());
    }
    Ok(())
}

fn parse_minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if (0.1..=1_440.0).contains(&minutes) => Ok(minutes),
        _ => Err("give a number of minutes from 0.1 to 1440".to_owned()),
    }
}
