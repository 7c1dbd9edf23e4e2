//! The one number: given by the million, and a shard with a million people started again.
//!
//! Both run in this process, on the embedded engine, without copies: what is measured is the numbers' own part.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use rpc_core::time::Instant;
use serde::Serialize;
use wechat_demo::model::{HomeId, Incarnation, Placement, UserId, clock::SystemClock};
use wechat_demo::proto::storage as pb;
use wechat_demo::storage::copies::{Copies, Fatal, Peer, Reign};
use wechat_demo::storage::engine::embedded::Embedded;
use wechat_demo::storage::engine::{Durability, Engine, EngineError, Snapshot, Table};
use wechat_demo::storage::ops::Op;
use wechat_demo::storage::sequence::Sequence;
use wechat_demo::storage::shard::Draft;
use wechat_demo::storage::store::{Identity, Job, Store};
use wechat_demo::storage::views::machine::{Crew, Member, Post, Standing};

use super::disk;
use super::{cost::Latency, ground::Flags, ground::tell};

/// Numbers given between two commits.
const ROUND: u64 = 1_000;
/// Accounts made between two commits.
const ACCOUNTS: u64 = 256;

/// The load.
#[derive(Args, Clone, Debug)]
pub(super) struct Load {
    /// Numbers to give
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    numbers: u64,
    /// Users who take them in turn
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    users: u64,
    /// People of the shard that is started again
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    people: u64,
    #[command(flatten)]
    flags: Flags,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    numbers: u64,
    /// Limits raised on the disk meanwhile.
    persisted: u64,
    /// Numbers during whose giving anything was written to the disk.
    waited: u64,
    numbers_per_s: f64,
    each_p99_ns: u64,
    each_max_us: f64,
    people: u64,
    /// Until a new number was given and synced, from opening the files.
    restart_ms: f64,
    /// Of that: until the files were open.
    restart_open_ms: f64,
    fdatasync: Latency,
}

/// An engine that counts what is written.
struct Counting {
    below: Embedded,
    writes: AtomicU64,
}

impl Engine for Counting {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.below.get(table, key)
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, EngineError> {
        self.below.snapshot()
    }

    fn write(&self, parts: &[&[u8]], durability: Durability) -> Result<(), EngineError> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.below.write(parts, durability)
    }
}

/// A primary without copies.
struct Alone;

impl Reign for Alone {
    fn standing(&mut self) -> Standing {
        Standing::With(Crew {
            epoch: 1,
            backup: None,
            follower: None,
            sole: true,
        })
    }

    fn peer(&mut self, _: &Member) -> Arc<dyn Peer> {
        unreachable!("a view of one has no other member")
    }

    fn pause(&mut self) -> Result<(), Fatal> {
        Ok(())
    }

    fn candidates(&mut self, _: Post) -> Vec<Member> {
        Vec::new()
    }

    fn learning(&mut self, _: Post, _: Option<Member>) {}

    fn join(&mut self, _: Post) {}

    fn lags(&mut self, _: &Member) {}

    fn hands_over(&mut self) -> bool {
        false
    }

    fn handed(&mut self) {}

    fn over(&mut self, _: u64) {}
}

pub(super) fn run(load: &Load) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("wechat-bench-").tempdir();
    let dir = dir.context("no temporary directory can be made")?;
    let fdatasync = Latency::of(&disk::baseline(dir.path())?);
    let given = give(load, &dir.path().join("numbers"))?;
    let (restart, open) = restart(load.people, &dir.path().join("people"))?;
    let outcome = Outcome {
        numbers: load.numbers,
        persisted: given.persisted,
        waited: given.waited,
        numbers_per_s: load.numbers as f64 / given.took.as_secs_f64(),
        each_p99_ns: given.each.value_at_quantile(0.99),
        each_max_us: given.each.max() as f64 / 1e3,
        people: load.people,
        restart_ms: restart.as_secs_f64() * 1e3,
        restart_open_ms: open.as_secs_f64() * 1e3,
        fdatasync,
    };
    tell(&load.flags, &words(&outcome), &outcome)
}

/// What giving numbers came to.
struct Given {
    persisted: u64,
    waited: u64,
    took: Duration,
    /// ns.
    each: Histogram<u64>,
}

/// Gives numbers to users in turn; what is to be kept for them is synced between rounds, as the committer does.
fn give(load: &Load, dir: &Path) -> anyhow::Result<Given> {
    let engine = Counting {
        below: Embedded::open(dir)?,
        writes: AtomicU64::new(0),
    };
    let place = Placement::new(1)?;
    let mut sequence = Sequence::default();
    let mut each = Histogram::new(2).context("two digits are a valid precision")?;
    let (mut persisted, mut waited) = (0, 0);
    let began = Instant::now();
    let mut index = 0;
    while index < load.numbers {
        let mut draft = Draft::new(&engine);
        for _ in 0..ROUND.min(load.numbers - index) {
            let user = UserId::from_count(1 + index % load.users, 0, HomeId(0));
            let (before, start) = (engine.writes.load(Ordering::Relaxed), Instant::now());
            sequence.give(&mut draft, place, Incarnation::default(), user)?;
            each += Instant::now().saturating_since(start).as_nanos() as u64;
            waited += u64::from(engine.writes.load(Ordering::Relaxed) != before);
            index += 1;
        }
        let (changes, ..) = draft.finish();
        if !changes.is_empty() {
            persisted += 1;
            engine.write(&[changes.as_bytes()], Durability::Synced)?;
        }
    }
    Ok(Given {
        persisted,
        waited,
        took: began.elapsed(),
        each,
    })
}

/// Fills one shard with people and starts it again: the time until it has given a number, and until its files
/// were open.
fn restart(people: u64, dir: &Path) -> anyhow::Result<(Duration, Duration)> {
    let mut store = start(Embedded::open(dir)?)?;
    let mut next = 1;
    while next <= people {
        let until = people.min(next + ACCOUNTS - 1);
        create(&mut store, next..=until)?;
        next = until + 1;
    }
    drop(store);
    let began = Instant::now();
    let engine = Embedded::open(dir)?;
    let open = began.elapsed();
    let mut store = start(engine)?;
    create(&mut store, next..=next)?;
    Ok((began.elapsed(), open))
}

fn start(engine: Embedded) -> anyhow::Result<Store> {
    let identity = match Identity::load(&engine)? {
        Some(identity) => identity,
        None => Identity::of_copy(Bytes::from_static(&[7; 16]), Placement::new(1)?),
    };
    let copies = Copies::new(Box::new(Alone), identity.same(), 1);
    let store = Store::start(Arc::new(engine), Arc::new(SystemClock), identity, copies)?;
    Ok(store)
}

/// Makes accounts, in one commit as far as it holds them.
fn create(store: &mut Store, counts: std::ops::RangeInclusive<u64>) -> anyhow::Result<()> {
    let job = |count| {
        let name = format!("person {count}");
        let account = pb::AccountRow {
            nickname: name.clone(),
            name,
            ..pb::AccountRow::default()
        };
        let request = pb::CreateAccountRequest {
            user_id: UserId::from_count(count, 0, HomeId(0)).0,
            account: Some(account),
        };
        Job {
            op: Op::CreateAccount(request),
            reply: Box::new(drop),
        }
    };
    let mut jobs: VecDeque<Job> = counts.map(job).collect();
    while !jobs.is_empty() {
        for (_, answer) in store.round(&mut jobs)?.answers {
            answer.map_err(|refusal| anyhow::anyhow!("an account was refused: {refusal:?}"))?;
        }
    }
    Ok(())
}

fn words(outcome: &Outcome) -> String {
    format!(
        "{} numbers at {:.0}/s, {} limits raised on the disk; {} waited for the disk\n\
         each: p99 {} ns, max {:.0} µs\n\
         a shard of {} people, started again: a number after {:.0} ms ({:.0} ms to open the files)\n\
         append of 4 KiB and fdatasync: {}",
        outcome.numbers,
        outcome.numbers_per_s,
        outcome.persisted,
        outcome.waited,
        outcome.each_p99_ns,
        outcome.each_max_us,
        outcome.people,
        outcome.restart_ms,
        outcome.restart_open_ms,
        outcome.fdatasync.words(),
    )
}
