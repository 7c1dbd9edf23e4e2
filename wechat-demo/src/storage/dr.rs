//! What an operator does before, or after, an IDC goes down: has the follower of a store serve it, or brings it home.
//!
//! Knows: the store's view at the coordinator, and how to ask its primary.   Does not know: leases, disks.
//!
//! A primary that lives hands over, which loses nothing and takes as long as a few calls. One that does not needs nobody
//! to ask: its follower takes over by itself when its grace is over, and this waits and tells what it came to.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use rpc_core::{Channel, Runtime, time::Instant};

use super::views::{
    self,
    machine::{Member, View},
};
use crate::{
    coordinator::{Session, flags::CoordinatorFlags},
    proto::storage as pb,
};

/// Flags of `wechat-demo dr`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Where to
    #[command(subcommand)]
    pub way: Way,
}

/// Where a store is to be served.
#[derive(Subcommand, Clone, Debug)]
pub enum Way {
    /// By its follower, away from its own IDC
    Promote(Store),
    /// In its own IDC again
    Return(Store),
}

/// Which store.
#[derive(Args, Clone, Debug)]
pub struct Store {
    /// Who agrees on the view
    #[command(flatten)]
    pub coordinator: CoordinatorFlags,
    /// Name of the store at the coordinator
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub store: String,
}

/// The coordinator's patience with this session.
const SESSION: Duration = Duration::from_secs(10);
/// A call that takes longer is of no use.
const CALL: Duration = Duration::from_secs(2);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// By then it has come about, or will not.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does it, and says what it cost. Call it from a plain thread: it brings its own runtime.
pub fn run(options: Options) -> anyhow::Result<()> {
    let runtime = Runtime::builder().workers(1).build();
    let runtime = runtime.context("the runtime cannot start")?;
    let told = runtime.block_on(move || match options.way {
        Way::Promote(store) => move_to(&store, true),
        Way::Return(store) => move_to(&store, false),
    })?;
    println!("{told}");
    Ok(())
}

fn move_to(options: &Store, away: bool) -> anyhow::Result<String> {
    let coordinator = options.coordinator.reach()?;
    let session = coordinator.open(SESSION).context("the coordinator")?;
    let before = view(&*session, &options.store)?;
    let (here, there) = (is_away(&before.primary), place(&before.primary));
    if here == away {
        bail!(
            "the store is served {there} already, by {}",
            before.primary.address
        );
    }
    let Some(follower) = &before.follower else {
        bail!(
            "no follower is in the view of this store: wait until one is level (wechat_storage_copies), or make the disk that \
             is to serve it the store with `promote`"
        );
    };
    let began = Instant::now();
    let live = views::live_members(&*session, &options.store)?;
    let lives = live.iter().any(|member| member.disk == before.primary.disk);
    if lives && let Err(error) = ask(&before.primary) {
        eprintln!(
            "{}: {error:#}; its follower takes over when it has been silent for long enough",
            before.primary.address
        );
    }
    loop {
        let now = view(&*session, &options.store)?;
        if now.primary.disk == follower.disk && serves(&now.primary) {
            return Ok(told(&before, &now, began.elapsed()));
        }
        if began.elapsed() > PATIENCE {
            bail!(
                "{} does not serve the store after {} s; the primary is {}: ask again when its follower is level",
                follower.address,
                PATIENCE.as_secs(),
                now.primary.address
            );
        }
        std::thread::sleep(LOOK);
    }
}

/// What it came to: recovery time, and what may be lost.
fn told(before: &View, now: &View, took: Duration) -> String {
    let lost = match now.incarnation == before.incarnation {
        true => "nothing",
        false => {
            "nothing of what was acknowledged as geo; of the rest what the follower did not have yet, which devices say again"
        }
    };
    format!(
        "{} serves the store {}: epoch {}, incarnation {}; RTO {:.1} s; RPO: {lost}",
        now.primary.address,
        place(&now.primary),
        now.epoch,
        now.incarnation.0,
        took.as_secs_f64()
    )
}

fn is_away(member: &Member) -> bool {
    !member.idc.is_empty()
}

fn place(member: &Member) -> String {
    match is_away(member) {
        true => format!("in {}", member.idc),
        false => "in its own IDC".to_owned(),
    }
}

fn view(session: &dyn Session, store: &str) -> anyhow::Result<View> {
    let node = session.read(&views::path(store, "view"));
    let Some(node) = node.context("the view cannot be read")? else {
        bail!("the coordinator knows no store `{store}`; check --store");
    };
    views::view_of(node.data).context("the view cannot be read")
}

fn ask(primary: &Member) -> anyhow::Result<()> {
    let channel = Channel::builder(&primary.address)
        .deadline(CALL)
        .connect_lazy()?;
    pb::ReplicaClient::new(channel).hand_over(pb::HandOverRequest {})?;
    Ok(())
}

fn serves(member: &Member) -> bool {
    let channel = Channel::builder(&member.address)
        .deadline(CALL)
        .connect_lazy();
    let reply =
        channel.map(|channel| pb::StorageClient::new(channel).describe(pb::DescribeRequest {}));
    reply.is_ok_and(|reply| reply.is_ok_and(|reply| reply.serving))
}
