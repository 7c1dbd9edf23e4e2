//! Durable messages at a fixed rate: from due to acknowledged, and from due to applied at the other phone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use clap::Args;
use hdrhistogram::Histogram;
use prost::Message;
use rpc_core::Runtime;
use rpc_core::time::Instant;
use serde::Serialize;
use wechat_demo::proto::terminal as pb;
use wechat_demo::terminal::{Observer, Terminal};

use super::cost::{Latency, processor_time};
use super::disk;
use super::ground::{Flags, Ground, introduce_pairs, tell, terminal};

/// Before anything is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// Pause of the sender when nothing is due: the schedule's grain.
const GRAIN: Duration = Duration::from_millis(1);
/// Time for the last messages to come through after the last was due.
const TAIL: Duration = Duration::from_secs(20);
/// Pause between looks at them.
const LOOK: Duration = Duration::from_millis(20);
/// Time for a fresh device to sync.
const SYNC: Duration = Duration::from_secs(120);

/// The load.
#[derive(Args, Clone, Debug)]
pub(super) struct Load {
    /// Messages a second
    #[arg(long, value_name = "R", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Seconds measured, after one of warming up
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// Pairs who talk, all in one direction
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=2_000))]
    pairs: u16,
    /// Bytes of a text
    #[arg(long, value_name = "B", default_value_t = 100, value_parser = clap::value_parser!(u16).range(0..=8_192))]
    bytes: u16,
    #[command(flatten)]
    flags: Flags,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    offered_per_s: f64,
    acked_per_s: f64,
    offered: u64,
    acked: u64,
    applied: u64,
    /// Not even queued: the phone's outbox was full.
    not_taken: u64,
    due_to_acked: Latency,
    due_to_applied: Latency,
    servers_cpu_us_per_message: f64,
    load_cpu_us_per_message: f64,
    /// A fresh device, from nothing.
    sync_items: u64,
    sync_items_per_s: f64,
    fdatasync: Latency,
}

/// What terminals report. A client id says when its message was due.
struct Meter {
    acked: Tally,
    applied: Tally,
    /// Due before it: warming up, not measured. Nanoseconds.
    measured_from: AtomicU64,
}

#[derive(Default)]
struct Tally {
    all: AtomicU64,
    /// µs; behind one lock for each observer.
    latencies: Mutex<Option<Histogram<u64>>>,
}

struct Ear {
    meter: Arc<Meter>,
    user: u64,
    acked: Mutex<Histogram<u64>>,
    applied: Mutex<Histogram<u64>>,
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are a valid precision")
}

impl Tally {
    /// One more, due then, if it is to be measured.
    fn note(&self, own: &Mutex<Histogram<u64>>, client_id: &[u8], measured_from: u64) {
        let Some(mut due) = client_id.get(8..16) else {
            return;
        };
        let due = due.get_u64();
        if due < measured_from {
            return;
        }
        self.all.fetch_add(1, Ordering::Relaxed);
        let late = Instant::now().as_nanos().saturating_sub(due) / 1_000;
        *own.lock().unwrap_or_else(PoisonError::into_inner) += late;
    }

    fn gather(&self, own: &Mutex<Histogram<u64>>) {
        let own = own.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = self
            .latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let all = all.get_or_insert_with(histogram);
        all.add(&*own).expect("histograms that grow take any value");
    }

    fn latency(&self) -> Latency {
        let all = self
            .latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.as_ref().map(Latency::of).unwrap_or_default()
    }

    fn count(&self) -> u64 {
        self.all.load(Ordering::Relaxed)
    }
}

impl Observer for Ear {
    fn applied(&self, items: &[pb::Item]) {
        let from = self.meter.measured_from.load(Ordering::Relaxed);
        let messages = items
            .iter()
            .filter(|item| item.kind == pb::Kind::Message as i32);
        for item in messages {
            // The sender's own copy is no delivery.
            if let Ok(message) = pb::Message::decode(item.payload.clone())
                && message.receiver == self.user
            {
                self.meter
                    .applied
                    .note(&self.applied, &message.client_id, from);
            }
        }
    }

    fn acked(&self, sent: &pb::Sent) {
        let from = self.meter.measured_from.load(Ordering::Relaxed);
        self.meter.acked.note(&self.acked, &sent.client_id, from);
    }
}

/// Listens to nothing.
struct Deaf;

impl Observer for Deaf {}

pub(super) fn run(load: &Load) -> anyhow::Result<()> {
    let runtime = Runtime::builder().build()?;
    let ground = Ground::prepare(&load.flags, &runtime, load.pairs.into())?;
    let fdatasync = Latency::of(&disk::baseline(&ground.dir)?);
    let outcome = {
        let load = load.clone();
        let ground = Arc::new(ground);
        let body = ground.clone();
        let outcome = runtime.block_on(move || measure(&body, &load, fdatasync))?;
        if let Some(ground) = Arc::into_inner(ground) {
            ground.cluster.drain();
        }
        outcome
    };
    tell(&load.flags, &words(&outcome), &outcome)
}

fn measure(ground: &Ground, load: &Load, fdatasync: Latency) -> anyhow::Result<Outcome> {
    let meter = Arc::new(Meter {
        acked: Tally::default(),
        applied: Tally::default(),
        measured_from: AtomicU64::new(u64::MAX),
    });
    let ears: Vec<_> = ground
        .people
        .iter()
        .map(|person| {
            Arc::new(Ear {
                meter: meter.clone(),
                user: person.user_id,
                acked: Mutex::new(histogram()),
                applied: Mutex::new(histogram()),
            })
        })
        .collect();
    let terminals: Vec<Terminal> = ground
        .people
        .iter()
        .zip(&ears)
        .map(|(person, ear)| terminal(&ground.address, person.user_id, &person.token, ear.clone()))
        .collect();
    introduce_pairs(&terminals, &ground.people)?;

    let began = Instant::now();
    let from = began + WARM_UP;
    meter
        .measured_from
        .store(from.as_nanos(), Ordering::Relaxed);
    let total = u64::from(load.rate) * (u64::from(load.seconds) + 1);
    let (offered, not_taken, used) = offer(ground, &terminals, load, began, total);
    let until = Instant::now() + TAIL;
    let all = offered - not_taken;
    while (meter.acked.count() < all || meter.applied.count() < all) && Instant::now() < until {
        std::thread::sleep(LOOK);
    }
    let now = processor_time(&ground.cluster);
    // The tail counts: a backend that cannot keep up is still at it when the last message is due.
    let took = from.elapsed().as_secs_f64();
    for ear in &ears {
        meter.acked.gather(&ear.acked);
        meter.applied.gather(&ear.applied);
    }
    let (sync_items, sync_took) = sync(ground, &terminals[1])?;
    terminals.iter().for_each(Terminal::stop);
    let acked = meter.acked.count();
    let each = |used: Duration, before: Duration| {
        used.saturating_sub(before).as_secs_f64() * 1e6 / acked.max(1) as f64
    };
    Ok(Outcome {
        offered_per_s: f64::from(load.rate),
        acked_per_s: acked as f64 / took,
        offered,
        acked,
        applied: meter.applied.count(),
        not_taken,
        due_to_acked: meter.acked.latency(),
        due_to_applied: meter.applied.latency(),
        servers_cpu_us_per_message: each(now.0, used.0),
        load_cpu_us_per_message: each(now.1, used.1),
        sync_items,
        sync_items_per_s: sync_items as f64 / sync_took.as_secs_f64(),
        fdatasync,
    })
}

/// Sends every message when it is due. Measured ones offered, those not taken, and the processor time used
/// before the first.
fn offer(
    ground: &Ground,
    terminals: &[Terminal],
    load: &Load,
    began: Instant,
    total: u64,
) -> (u64, u64, (Duration, Duration)) {
    let gap = Duration::from_secs(1).as_nanos() as u64 / u64::from(load.rate);
    let text = "x".repeat(load.bytes.into());
    let (mut offered, mut not_taken) = (0, 0);
    let mut used = None;
    for index in 0..total {
        let due = began + Duration::from_nanos(gap * index);
        while due > Instant::now() {
            std::thread::sleep(GRAIN);
        }
        // As the observers tell it, who see nothing but when it was due.
        let measured = due >= began + WARM_UP;
        if measured && used.is_none() {
            used = Some(processor_time(&ground.cluster));
        }
        let mut id = BytesMut::with_capacity(16);
        id.put_u64(index);
        id.put_u64(due.as_nanos());
        let pair = (index % u64::from(load.pairs)) as usize;
        let receiver = ground.people[2 * pair + 1].user_id;
        let taken = terminals[2 * pair].send(receiver, Bytes::from(id), text.clone());
        offered += u64::from(measured);
        not_taken += u64::from(measured && taken.is_err());
    }
    (offered, not_taken, used.unwrap_or_default())
}

/// Syncs a fresh device of the first receiver: its items, and the time until it had as many.
fn sync(ground: &Ground, level: &Terminal) -> anyhow::Result<(u64, Duration)> {
    let person = &ground.people[1];
    level.refresh(SYNC)?;
    let other = ground.people[0].user_id;
    let began = Instant::now();
    let fresh = terminal(
        &ground.address,
        person.user_id,
        &person.fresh_token,
        Arc::new(Deaf),
    );
    let synced = fresh.refresh(SYNC);
    let took = began.elapsed();
    synced?;
    let items = fresh.store().messages(other, usize::MAX)?.len() as u64;
    fresh.stop();
    Ok((items, took))
}

fn words(outcome: &Outcome) -> String {
    format!(
        "offered {:.0}/s, acknowledged {:.0}/s ({} of {}, {} not taken), applied {}\n\
         due to acknowledged: {}\n\
         due to applied at the other phone: {}\n\
         processor time a message: servers {:.0} µs, load {:.0} µs\n\
         fresh device: {} messages at {:.0}/s\n\
         append of 4 KiB and fdatasync: {}",
        outcome.offered_per_s,
        outcome.acked_per_s,
        outcome.acked,
        outcome.offered,
        outcome.not_taken,
        outcome.applied,
        outcome.due_to_acked.words(),
        outcome.due_to_applied.words(),
        outcome.servers_cpu_us_per_message,
        outcome.load_cpu_us_per_message,
        outcome.sync_items,
        outcome.sync_items_per_s,
        outcome.fdatasync.words(),
    )
}
