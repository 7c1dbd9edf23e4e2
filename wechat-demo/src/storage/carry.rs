//! Carrying tasks to other homes.
//!
//! Knows: batches, retries, how far a home has got.   Does not know: sockets, what a task means.
//!
//! One carrier per other home, while this process is primary. It holds nothing: what it carries is committed here
//! and stays until the other home has committed the effects; the streams' marks there keep order and once-only,
//! whoever carries, and however often.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rpc_core::{Handle, Status};

use super::{committer::Submit, copies::Fatal, store::Reached};
use crate::{
    homes::{HomeClient, Homes},
    model::{HomeId, Incarnation, ShardId, Site},
    proto::storage as pb,
};

/// The way to another home.
pub trait Way: Send + Sync {
    /// Hands tasks over; the answer says what is committed there.
    fn deliver(&self, request: pb::DeliverRequest) -> Result<pb::DeliverReply, Status>;
}

impl Way for HomeClient {
    fn deliver(&self, request: pb::DeliverRequest) -> Result<pb::DeliverReply, Status> {
        self.call(|client| client.deliver(request.clone()))
    }
}

/// Counters of the way to one home.
#[derive(Debug, Default)]
pub struct Figures {
    /// Tasks applied there since this process is primary.
    carried: AtomicU64,
    /// Deliveries that failed and were tried again.
    retries: AtomicU64,
    /// Tasks not known to be applied there, when last looked at.
    waiting: AtomicU64,
}

/// Carries what is for one home.
pub struct Carrier {
    /// Which.
    pub to: HomeId,
    /// Where tasks come from.
    pub submit: Submit,
    /// How they get there.
    pub way: Arc<dyn Way>,
    /// What is counted.
    pub figures: Arc<Figures>,
}

/// Bytes of tasks that are carried at once.
const BATCH_BYTES: usize = 512 << 10;
/// Pause after a delivery that failed, and the longest after many.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

impl Carrier {
    /// Carries until the committer has ended. Runs in a coroutine.
    pub fn run(self) {
        let mut pause = PAUSE.0;
        while let Some((parcels, waiting)) = self.submit.collect(self.to, BATCH_BYTES) {
            self.figures.waiting.store(waiting, Ordering::Relaxed);
            let request = pb::DeliverRequest {
                parcels: parcels.clone(),
            };
            let moved = match self.way.deliver(request) {
                Ok(reply) => self.took(&parcels, &reply),
                Err(status) => {
                    tracing::debug!(home = self.to.0, %status, "tasks are not delivered; again soon");
                    false
                }
            };
            if moved {
                pause = PAUSE.0;
                continue;
            }
            self.figures.retries.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Notes how far each stream has got; false if none has moved.
    fn took(&self, parcels: &[pb::Parcel], reply: &pb::DeliverReply) -> bool {
        let mut moved = false;
        for (parcel, &reached) in parcels.iter().zip(&reply.reached) {
            let before = parcel.first - 1;
            if reached < before {
                tracing::error!(
                    home = self.to.0,
                    shard = parcel.to_shard,
                    reached,
                    before,
                    "that home lacks tasks that it had applied; its stream waits"
                );
                continue;
            }
            moved |= reached > before;
            // What another process had carried before may be more than was sent now.
            let last = before + parcel.tasks.len() as u64;
            let carried = reached.min(last) - before;
            self.figures.carried.fetch_add(carried, Ordering::Relaxed);
            self.figures.waiting.fetch_sub(carried, Ordering::Relaxed);
            self.submit.carried(Reached {
                from: ShardId(parcel.from_shard as u8),
                incarnation: Incarnation(parcel.incarnation as u16),
                to: Site {
                    home: self.to,
                    shard: ShardId(parcel.to_shard as u8),
                },
                n: reached,
            });
        }
        moved
    }
}

/// The ways to all other homes.
pub struct Ways {
    homes: Vec<(HomeId, String, Vec<String>, Arc<Figures>)>,
}

impl Ways {
    /// To all homes but the own.
    pub fn new(homes: &Homes) -> Self {
        let others = homes.iter().filter(|(id, ..)| *id != homes.own);
        let others = others.map(|(id, name, addresses)| {
            let figures = Arc::<Figures>::default();
            (id, name.to_owned(), addresses.to_vec(), figures)
        });
        Self {
            homes: others.collect(),
        }
    }

    /// Starts a carrier for each, for one reign.
    pub fn carry(&self, submit: &Submit, runtime: Handle) -> Result<(), Fatal> {
        for (id, name, addresses, figures) in &self.homes {
            let way = HomeClient::new(&format!("--homes {name}"), addresses);
            let carrier = Carrier {
                to: *id,
                submit: submit.clone(),
                way: Arc::new(way.map_err(|error| Fatal::Copies(format!("{error:#}")))?),
                figures: Arc::clone(figures),
            };
            drop(runtime.spawn(move || carrier.run()));
        }
        Ok(())
    }

    /// All counters in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if self.homes.is_empty() {
            return text;
        }
        for (what, kind, read) in FIGURES {
            writeln!(text, "# TYPE wechat_storage_{what} {kind}")
                .expect("a String takes everything");
            for (_, name, _, figures) in &self.homes {
                let value = read(figures).load(Ordering::Relaxed);
                writeln!(text, "wechat_storage_{what}{{home=\"{name}\"}} {value}")
                    .expect("a String takes everything");
            }
        }
        text
    }
}

/// Name, sort and place of a figure.
type Figure = (&'static str, &'static str, fn(&Figures) -> &AtomicU64);

const FIGURES: [Figure; 3] = [
    ("carried_total", "counter", |figures| &figures.carried),
    ("carry_retries_total", "counter", |figures| &figures.retries),
    ("carry_waiting", "gauge", |figures| &figures.waiting),
];
