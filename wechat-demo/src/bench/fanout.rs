//! A group and all who are in it: from when a message was due until the last member's phone has applied it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use clap::Args;
use hdrhistogram::Histogram;
use prost::Message;
use rpc_core::Runtime;
use rpc_core::time::Instant;
use serde::Serialize;
use wechat_demo::proto::terminal::{self as pb, change_request::Change, group_change::What};
use wechat_demo::terminal::{Observer, Terminal, new_client_id};

use super::cost::{Latency, processor_time};
use super::disk;
use super::ground::{Flags, Ground, tell, terminal};
use crate::replay::parallel::parallel;
use crate::replay::play::introduce;

/// Time for one answer, and for the last messages to come through.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between looks.
const LOOK: Duration = Duration::from_millis(20);
/// Members who join at a time.
const WIDTH: usize = 32;

/// The load.
#[derive(Args, Clone, Debug)]
pub(super) struct Load {
    /// Members of the group
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u16).range(2..=500))]
    members: u16,
    /// Messages a second, of different members
    #[arg(long, value_name = "R", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Seconds
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// Bytes of a text
    #[arg(long, value_name = "B", default_value_t = 100, value_parser = clap::value_parser!(u16).range(0..=8_192))]
    bytes: u16,
    #[command(flatten)]
    flags: Flags,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    members: u16,
    offered: u64,
    /// Messages that every other member has.
    everywhere: u64,
    /// Of each member's copy.
    due_to_applied: Latency,
    /// Of each message: the last member's copy.
    due_to_all: Latency,
    servers_cpu_us_per_copy: f64,
    load_cpu_us_per_copy: f64,
    fdatasync: Latency,
}

/// What all members have heard.
struct Meter {
    /// Copies of each message so far; a client id names the message.
    heard: Vec<AtomicU32>,
    /// Copies that make a message heard by all.
    others: u32,
    everywhere: AtomicU64,
    /// µs.
    each: Mutex<Histogram<u64>>,
    last: Mutex<Histogram<u64>>,
}

struct Ear {
    meter: Arc<Meter>,
    user: u64,
}

impl Meter {
    fn new(messages: usize, others: u32) -> Self {
        let histogram =
            || Mutex::new(Histogram::new(3).expect("three digits are a valid precision"));
        Self {
            heard: (0..messages).map(|_| AtomicU32::new(0)).collect(),
            others,
            everywhere: AtomicU64::new(0),
            each: histogram(),
            last: histogram(),
        }
    }

    /// One more member has a message.
    fn note(&self, mut client_id: &[u8]) {
        if client_id.len() != 16 {
            return;
        }
        let (index, due) = (client_id.get_u64(), client_id.get_u64());
        let late = Instant::now().as_nanos().saturating_sub(due) / 1_000;
        let heard = usize::try_from(index)
            .ok()
            .and_then(|at| self.heard.get(at));
        let Some(heard) = heard else { return };
        *lock(&self.each) += late;
        if heard.fetch_add(1, Ordering::AcqRel) + 1 == self.others {
            *lock(&self.last) += late;
            self.everywhere.fetch_add(1, Ordering::AcqRel);
        }
    }
}

fn lock(histogram: &Mutex<Histogram<u64>>) -> std::sync::MutexGuard<'_, Histogram<u64>> {
    histogram.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Observer for Ear {
    fn applied(&self, items: &[pb::Item]) {
        for item in items {
            // The sender's own copy is no delivery.
            if item.kind == pb::Kind::Message as i32
                && let Ok(message) = pb::Message::decode(item.payload.clone())
                && message.sender != self.user
            {
                self.meter.note(&message.client_id);
            }
        }
    }
}

pub(super) fn run(load: &Load) -> anyhow::Result<()> {
    let runtime = Runtime::builder().build()?;
    let ground = Ground::prepare(&load.flags, &runtime, usize::from(load.members).div_ceil(2))?;
    let fdatasync = Latency::of(&disk::baseline(&ground.dir)?);
    let (asked, ground) = (load.clone(), Arc::new(ground));
    let body = Arc::clone(&ground);
    let outcome = runtime.block_on(move || measure(&body, &asked, fdatasync))?;
    if let Some(ground) = Arc::into_inner(ground) {
        ground.cluster.drain();
    }
    tell(&load.flags, &words(&outcome), &outcome)
}

fn measure(ground: &Ground, load: &Load, fdatasync: Latency) -> anyhow::Result<Outcome> {
    let members = usize::from(load.members);
    let total = u64::from(load.rate) * u64::from(load.seconds);
    let others = u32::from(load.members) - 1;
    let meter = Arc::new(Meter::new(total as usize, others));
    let people = &ground.people[..members];
    let terminals: Vec<Terminal> = people
        .iter()
        .map(|person| {
            let ear = Ear {
                meter: Arc::clone(&meter),
                user: person.user_id,
            };
            terminal(
                &ground.address,
                person.user_id,
                &person.token,
                Arc::new(ear),
            )
        })
        .collect();
    introduce(
        &terminals[0],
        &terminals[1],
        (people[0].user_id, people[1].user_id),
    )?;
    let group = gather(&terminals, people[1].user_id)?;
    let before = processor_time(&ground.cluster);
    offer(&terminals, group, load, total)?;
    let until = Instant::now() + PATIENCE;
    while meter.everywhere.load(Ordering::Acquire) < total && Instant::now() < until {
        std::thread::sleep(LOOK);
    }
    let after = processor_time(&ground.cluster);
    terminals.iter().for_each(Terminal::stop);
    let copies = (total * u64::from(others)) as f64;
    let each = |before: Duration, after: Duration| (after - before).as_secs_f64() * 1e6 / copies;
    Ok(Outcome {
        members: load.members,
        offered: total,
        everywhere: meter.everywhere.load(Ordering::Acquire),
        due_to_applied: Latency::of(&lock(&meter.each)),
        due_to_all: Latency::of(&lock(&meter.last)),
        servers_cpu_us_per_copy: each(before.0, after.0),
        load_cpu_us_per_copy: each(before.1, after.1),
        fdatasync,
    })
}

/// An open group of the first, which everybody joins; its id, once its owner sees all of them.
fn gather(terminals: &[Terminal], friend: u64) -> anyhow::Result<u64> {
    let create = pb::CreateGroup {
        client_id: new_client_id(),
        name: "everybody".to_owned(),
        members: vec![friend],
    };
    let made = terminals[0].change(Change::CreateGroup(create), PATIENCE)?;
    let group = made.made;
    let change = move |what| {
        Change::Group(pb::GroupChange {
            group_id: group,
            what: Some(what),
        })
    };
    terminals[0].change(change(What::Open(true)), PATIENCE)?;
    await_group(&terminals[0], group, |group| group.open)?;
    let joining = terminals[2..].to_vec();
    parallel(joining.len(), WIDTH, move |index| {
        joining[index].change(change(What::Join(true)), PATIENCE)?;
        Ok(())
    })?;
    for terminal in terminals {
        await_group(terminal, group, |group| {
            group.members.len() == terminals.len()
        })?;
    }
    Ok(group)
}

fn await_group(
    terminal: &Terminal,
    group: u64,
    is_so: impl Fn(&pb::Group) -> bool,
) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        terminal.refresh(PATIENCE)?;
        let item = terminal.store().state(pb::Kind::Group, group)?;
        let state = item
            .map(|item| pb::Group::decode(item.payload))
            .transpose()?;
        if state.as_ref().is_some_and(&is_so) {
            return Ok(());
        }
        let there = state.map_or(0, |group| group.members.len());
        anyhow::ensure!(
            Instant::now() < until,
            "a phone sees {there} members of the group"
        );
        std::thread::sleep(LOOK);
    }
}

/// Sends every message when it is due.
fn offer(terminals: &[Terminal], group: u64, load: &Load, total: u64) -> anyhow::Result<()> {
    let gap = Duration::from_secs(1) / load.rate;
    let text = "x".repeat(load.bytes.into());
    let began = Instant::now();
    for index in 0..total {
        let due = began + gap * u32::try_from(index).context("too many messages")?;
        std::thread::sleep(due.saturating_since(Instant::now()));
        let mut id = BytesMut::with_capacity(16);
        id.put_u64(index);
        id.put_u64(due.as_nanos());
        let sender = &terminals[index as usize % terminals.len()];
        sender.send(group, Bytes::from(id), text.clone())?;
    }
    Ok(())
}

fn words(outcome: &Outcome) -> String {
    format!(
        "{} messages to a group of {}: {} reached everybody\n\
         due to applied by each: {}\n\
         due to applied by the last: {}\n\
         processor time a copy: servers {:.0} µs, load {:.0} µs\n\
         append of 4 KiB and fdatasync: {}",
        outcome.offered,
        outcome.members,
        outcome.everywhere,
        outcome.due_to_applied.words(),
        outcome.due_to_all.words(),
        outcome.servers_cpu_us_per_copy,
        outcome.load_cpu_us_per_copy,
        outcome.fdatasync.words(),
    )
}
