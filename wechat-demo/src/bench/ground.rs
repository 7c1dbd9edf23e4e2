//! What the benchmarks of a whole cluster stand on: the cluster, people, terminals, a way to tell.
//!
//! Knows:       a fresh cluster below one directory, terminals with their stores in memory.
//! Does not know: what is measured.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use indicatif::ProgressBar;
use rpc_core::Runtime;
use serde::Serialize;
use wechat_demo::cluster::{Cluster, Role};
use wechat_demo::terminal::store::memory::Memory;
use wechat_demo::terminal::{Config, Observer, Terminal};

use crate::replay;
use crate::replay::accounts::{self, Person};
use crate::replay::parallel::parallel;
use crate::replay::play::introduce;

/// Introductions at a time.
const WIDTH: usize = 32;

/// Flags that every benchmark of a cluster has.
#[derive(Args, Clone, Debug)]
pub(super) struct Flags {
    /// Make the last line of the output one JSON object
    #[arg(long)]
    json: bool,
    /// Where the cluster's data goes [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// A cluster of its own, and pairs of friends on it.
pub(super) struct Ground {
    pub(super) cluster: Cluster,
    pub(super) address: String,
    pub(super) people: Vec<Person>,
    pub(super) dir: PathBuf,
    /// Removed at the end, where nobody gave a directory.
    _temporary: Option<tempfile::TempDir>,
}

impl Ground {
    /// Brings a cluster up and registers two people for each pair.
    pub(super) fn prepare(flags: &Flags, runtime: &Runtime, pairs: usize) -> anyhow::Result<Self> {
        Self::prepare_with(flags, runtime, pairs, &[])
    }

    /// As [`Ground::prepare`], with more flags for single roles.
    pub(super) fn prepare_with(
        flags: &Flags,
        runtime: &Runtime,
        pairs: usize,
        extra: &[(Role, String)],
    ) -> anyhow::Result<Self> {
        let temporary = match flags.dir {
            Some(_) => None,
            None => {
                let made = tempfile::Builder::new().prefix("wechat-bench-").tempdir();
                Some(made.context("no temporary directory can be made; pass --dir")?)
            }
        };
        let dir = match (&flags.dir, &temporary) {
            (Some(dir), _) => dir.clone(),
            (None, Some(made)) => made.path().to_owned(),
            (None, None) => unreachable!("one of them is there"),
        };
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let binary = std::env::current_exe().context("the path of this program")?;
        let mut plan = replay::cheap();
        plan.extra.extend_from_slice(extra);
        let cluster = Cluster::bring_up(&dir, 0, &plan, &binary)?;
        let address = cluster.layout().link_address();
        let names: Vec<String> = (0..2 * pairs).map(|n| format!("bench{n}")).collect();
        let asked = address.clone();
        let people = runtime
            .block_on(move || accounts::open(&[asked], Arc::new(names), &ProgressBar::hidden()))?;
        Ok(Self {
            cluster,
            address,
            people,
            dir,
            _temporary: temporary,
        })
    }
}

/// A terminal whose store is in memory.
pub(super) fn terminal(
    address: &str,
    user: u64,
    token: &Bytes,
    observer: Arc<dyn Observer>,
) -> Terminal {
    let config = Config::new(address, token.clone());
    Terminal::start(config, Arc::new(Memory::new(user)), observer)
}

/// Makes the two of every pair friends.
pub(super) fn introduce_pairs(terminals: &[Terminal], people: &[Person]) -> anyhow::Result<()> {
    let (terminals, people) = (terminals.to_vec(), people.to_vec());
    parallel(people.len() / 2, WIDTH, move |pair| {
        let (a, b) = (2 * pair, 2 * pair + 1);
        let ids = (people[a].user_id, people[b].user_id);
        introduce(&terminals[a], &terminals[b], ids)
    })?;
    Ok(())
}

/// Prints a result for people, and as one JSON object where that was asked for.
pub(super) fn tell(flags: &Flags, words: &str, result: &impl Serialize) -> anyhow::Result<()> {
    println!("{words}");
    if flags.json {
        println!("{}", serde_json::to_string(result)?);
    }
    Ok(())
}
