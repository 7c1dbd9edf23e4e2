//! Bytes of TCP payload: every byte between a terminal and access passes a relay that counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use rpc_core::Runtime;
use rpc_core::time::Instant;
use serde::Serialize;
use wechat_demo::proto::terminal as pb;
use wechat_demo::terminal::{Observer, Terminal, new_client_id};
use wechat_demo::wan::{Matrix, Relay};

use super::ground::{Flags, Ground, introduce_pairs, tell, terminal};

/// Time for one answer or delivery.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between looks.
const LOOK: Duration = Duration::from_millis(1);
/// Time without a byte after which nothing more is on its way.
const QUIET: Duration = Duration::from_millis(200);

/// The two places between which every byte passes.
const TERMINAL: &str = "terminal";
const ACCESS: &str = "access";

/// The load.
#[derive(Args, Clone, Debug)]
pub(super) struct Load {
    /// Questions, and messages; the result is the mean
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    count: u16,
    /// Bytes of a text
    #[arg(long, value_name = "B", default_value_t = 20, value_parser = clap::value_parser!(u16).range(0..=8_192))]
    bytes: u16,
    #[command(flatten)]
    flags: Flags,
}

/// Bytes of TCP payload, TLS off.
#[derive(Debug, Serialize)]
struct Outcome {
    /// "Anything new?": the question.
    nothing_up: f64,
    /// "Nothing."
    nothing_down: f64,
    /// A message at its sender's link.
    sender_up: f64,
    sender_down: f64,
    /// And at its receiver's.
    receiver_up: f64,
    receiver_down: f64,
    /// All four.
    message: f64,
}

#[derive(Default)]
struct Ear {
    acked: AtomicU64,
    applied: AtomicU64,
}

impl Observer for Ear {
    fn applied(&self, items: &[pb::Item]) {
        let messages = items
            .iter()
            .filter(|item| item.kind == pb::Kind::Message as i32);
        self.applied
            .fetch_add(messages.count() as u64, Ordering::AcqRel);
    }

    fn acked(&self, _sent: &pb::Sent) {
        self.acked.fetch_add(1, Ordering::AcqRel);
    }
}

pub(super) fn run(load: &Load) -> anyhow::Result<()> {
    let runtime = Runtime::builder().build()?;
    let ground = Ground::prepare(&load.flags, &runtime, 1)?;
    let (address, people) = (ground.address.clone(), ground.people.clone());
    let flags = load.flags.clone();
    let load = load.clone();
    let outcome = runtime.block_on(move || {
        let target = address.parse()?;
        let relay = || Relay::start(Matrix::pair(TERMINAL, ACCESS, target), 0);
        let relays = [relay()?, relay()?];
        let ears = [Arc::<Ear>::default(), Arc::default()];
        let terminals: Vec<Terminal> = (0..2)
            .map(|n| {
                let (relay, person) = (&relays[n], &people[n]);
                terminal(
                    &relay.door(0).to_string(),
                    person.user_id,
                    &person.token,
                    ears[n].clone(),
                )
            })
            .collect();
        introduce_pairs(&terminals, &people)?;
        let outcome = measure(&relays, &ears, &terminals, people[1].user_id, &load);
        terminals.iter().for_each(Terminal::stop);
        relays.iter().for_each(|relay| relay.close());
        outcome
    })?;
    ground.cluster.drain();
    let words = format!(
        "anything new? nothing: {:.0} bytes up, {:.0} down\n\
         a message at both ends: {:.0} bytes (sender {:.0} up, {:.0} down; receiver {:.0} up, {:.0} down)",
        outcome.nothing_up,
        outcome.nothing_down,
        outcome.message,
        outcome.sender_up,
        outcome.sender_down,
        outcome.receiver_up,
        outcome.receiver_down
    );
    tell(&flags, &words, &outcome)
}

fn measure(
    relays: &[Arc<Relay>; 2],
    ears: &[Arc<Ear>; 2],
    terminals: &[Terminal],
    receiver: u64,
    load: &Load,
) -> anyhow::Result<Outcome> {
    let count = u64::from(load.count);
    for terminal in terminals {
        terminal.refresh(PATIENCE)?;
    }
    let before = settled(relays);
    for _ in 0..count {
        terminals[0].refresh(PATIENCE)?;
    }
    let asked = settled(relays);
    for sent in 1..=count {
        let text = "x".repeat(load.bytes.into());
        terminals[0].send(receiver, new_client_id(), text)?;
        let until = Instant::now() + PATIENCE;
        // Applied by both: the sender has its own copy as well.
        while ears[0].acked.load(Ordering::Acquire) < sent
            || ears
                .iter()
                .any(|ear| ear.applied.load(Ordering::Acquire) < sent)
        {
            anyhow::ensure!(
                Instant::now() < until,
                "message {sent} did not come through"
            );
            std::thread::sleep(LOOK);
        }
    }
    let said = settled(relays);
    let mean = |from: u64, to: u64| (to - from) as f64 / count as f64;
    let [sender, receiver] =
        [0, 1].map(|n| (mean(asked[n].0, said[n].0), mean(asked[n].1, said[n].1)));
    Ok(Outcome {
        nothing_up: mean(before[0].0, asked[0].0),
        nothing_down: mean(before[0].1, asked[0].1),
        sender_up: sender.0,
        sender_down: sender.1,
        receiver_up: receiver.0,
        receiver_down: receiver.1,
        message: sender.0 + sender.1 + receiver.0 + receiver.1,
    })
}

/// Bytes carried up and down by each relay, once nothing more is on its way.
fn settled(relays: &[Arc<Relay>; 2]) -> [(u64, u64); 2] {
    let carried = |relay: &Arc<Relay>| {
        let line = |from, to| relay.carried(from, to).expect("both places are there");
        (line(TERMINAL, ACCESS), line(ACCESS, TERMINAL))
    };
    let mut last = relays.each_ref().map(carried);
    loop {
        std::thread::sleep(QUIET);
        let now = relays.each_ref().map(carried);
        if now == last {
            return now;
        }
        last = now;
    }
}
