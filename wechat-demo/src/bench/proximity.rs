//! Connect time and request latency by carrier network, with dispatch and without, before and after an access point dies.
//!
//! Knows:       three IDCs and four networks, real processes, the real relay between them.
//! Does not know: how dispatch chooses, how a terminal races.
//!
//! ```text
//! terminals, each from its network's addresses ═▶ wan ═▶ access in sh, hk, ca ═▶ wan ═▶ logic, storage (in sh)
//!                                                  └══▶ dispatch in sh, hk, ca
//! ```
//! Half of the terminals ask dispatch, the other half have the three addresses as a list, each begun at another place.
//! Both halves run at the same time.
//!
//! Read first: `run`, then `field.rs`.

mod field;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use hdrhistogram::Histogram;
use rpc_core::Runtime;
use rpc_core::time::Instant;
use serde::Serialize;
use wechat_demo::proto::terminal as pb;
use wechat_demo::terminal::TerminalError;
use wechat_demo::terminal::nearby::{Finder, Place};

use self::field::{Field, NETWORKS, Network};
use super::ground::{Flags, Ground, tell};
use crate::replay::accounts::Person;
use crate::replay::parallel::parallel;

/// Connections of each terminal that are not measured: dispatch learns.
const WARM_UP: usize = 5;
/// Time for one connection to come about, over as many races as it takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause after a race that nobody won.
const AGAIN: Duration = Duration::from_millis(100);

/// The load.
#[derive(Args, Clone, Debug)]
pub(super) struct Load {
    /// Terminals of each network, with dispatch and without
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50))]
    terminals: u16,
    /// Connections of each, before and after
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    connects: u16,
    /// Requests over each connection
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    requests: u16,
    #[command(flatten)]
    flags: Flags,
}

/// One line of the table, ms.
#[derive(Debug, Serialize)]
struct Row {
    network: &'static str,
    dispatch: bool,
    before: Cell,
    after: Cell,
}

/// Connecting: from the first question to the answer to AUTH. A request: a sync that brings nothing.
#[derive(Debug, Serialize)]
struct Cell {
    connects: u64,
    connect_p50_ms: f64,
    connect_p99_ms: f64,
    request_p50_ms: f64,
    request_p99_ms: f64,
}

/// One terminal.
struct Phone {
    network: usize,
    dispatch: bool,
    finder: Finder,
    person: Person,
}

/// What one phone measured, µs.
struct Times {
    connects: Histogram<u64>,
    requests: Histogram<u64>,
}

pub(super) fn run(load: &Load) -> anyhow::Result<()> {
    let runtime = Runtime::builder().build()?;
    let phones = usize::from(load.terminals) * NETWORKS.len() * 2;
    let plan = field::Plan::make()?;
    let mut ground =
        Ground::prepare_with(&load.flags, &runtime, phones.div_ceil(2), &plan.extra())?;
    let field = Field::start(plan, &ground)?;
    let people = std::mem::take(&mut ground.people);
    let phones = Arc::new(phones_of(&field, people, load.terminals.into()));
    println!(
        "warming up: {WARM_UP} connections of each of {} terminals",
        phones.len()
    );
    measure(&runtime, &phones, WARM_UP, 1)?;
    println!("before: {} connections of each", load.connects);
    let (connects, requests) = (load.connects.into(), load.requests.into());
    let before = measure(&runtime, &phones, connects, requests)?;
    field.kill_access(&mut ground.cluster);
    println!(
        "the access point of {} is killed: {} connections of each",
        field::KILLED,
        load.connects
    );
    let after = measure(&runtime, &phones, connects, requests)?;
    let rows = rows(&phones, &before, &after);
    tell(&load.flags, &table(&rows), &rows)?;
    drop(field);
    ground.cluster.drain();
    Ok(())
}

fn phones_of(field: &Field, people: Vec<Person>, each: usize) -> Vec<Phone> {
    let mut people = people.into_iter();
    let mut phones = Vec::new();
    for (network, Network { net, .. }) in NETWORKS.iter().enumerate() {
        for n in 0..each {
            for dispatch in [false, true] {
                let mut doors = field.doors();
                let begin = n % doors.len();
                doors.rotate_left(begin);
                let local = [127, *net, 0, n as u8 + 1];
                phones.push(Phone {
                    network,
                    dispatch,
                    finder: Finder::new(Place {
                        address: doors.join(","),
                        dispatch: dispatch.then(|| field.dispatch()),
                        local: Some(local.into()),
                        memory: None,
                    }),
                    person: people.next().expect("there is one for each"),
                });
            }
        }
    }
    phones
}

/// Everybody at once, `connects` times; what each measured.
fn measure(
    runtime: &Runtime,
    phones: &Arc<Vec<Phone>>,
    connects: usize,
    requests: usize,
) -> anyhow::Result<Vec<Times>> {
    let phones = phones.clone();
    let all = phones.len();
    runtime.block_on(move || {
        parallel(all, all, move |index| {
            let phone = &phones[index];
            let mut times = Times {
                connects: histogram(),
                requests: histogram(),
            };
            for _ in 0..connects {
                let name = NETWORKS[phone.network].name;
                once(phone, requests, &mut times)
                    .with_context(|| format!("a terminal of {name}"))?;
            }
            Ok(times)
        })
    })
}

/// Connects, asks a few times, hangs up.
fn once(phone: &Phone, requests: usize, times: &mut Times) -> anyhow::Result<()> {
    let begun = Instant::now();
    let auth = pb::AuthRequest {
        token: phone.person.token.clone(),
        active: true,
    };
    let mut connection = loop {
        let opened = phone.finder.open().and_then(|mut connection| {
            let _: pb::AuthReply = connection.call(pb::Command::Auth, &auth)?;
            Ok(connection)
        });
        match opened {
            Ok(connection) => break connection,
            Err(error) if error.is_transient() && begun.elapsed() < PATIENCE => {
                std::thread::sleep(AGAIN);
            }
            Err(error) => return Err(error.into()),
        }
    };
    times.connects += micros(begun);
    // Everything there is first, so that the measured ones bring nothing.
    let mut key = 0;
    loop {
        let reply = sync(&mut connection, key)?;
        key = reply.key;
        if !reply.more {
            break;
        }
    }
    for _ in 0..requests {
        let asked = Instant::now();
        sync(&mut connection, key)?;
        times.requests += micros(asked);
    }
    Ok(())
}

fn sync(
    connection: &mut wechat_demo::terminal::Connection,
    key: u64,
) -> Result<pb::SyncReply, TerminalError> {
    let request = pb::SyncRequest {
        key,
        ..Default::default()
    };
    connection.call(pb::Command::Sync, &request)
}

fn rows(phones: &[Phone], before: &[Times], after: &[Times]) -> Vec<Row> {
    let both = NETWORKS.iter().enumerate();
    let rows = both.flat_map(|(network, Network { name, .. })| {
        [false, true].map(|dispatch| {
            let of = |all: &[Times]| {
                let chosen = phones.iter().zip(all);
                cell(
                    chosen
                        .filter(|(phone, _)| phone.network == network && phone.dispatch == dispatch)
                        .map(|(_, times)| times),
                )
            };
            Row {
                network: name,
                dispatch,
                before: of(before),
                after: of(after),
            }
        })
    });
    rows.collect()
}

fn cell<'a>(all: impl Iterator<Item = &'a Times>) -> Cell {
    let (mut connects, mut requests) = (histogram(), histogram());
    for times in all {
        connects += &times.connects;
        requests += &times.requests;
    }
    let ms = |histogram: &Histogram<u64>, quantile| {
        histogram.value_at_quantile(quantile) as f64 / 1_000.0
    };
    Cell {
        connects: connects.len(),
        connect_p50_ms: ms(&connects, 0.5),
        connect_p99_ms: ms(&connects, 0.99),
        request_p50_ms: ms(&requests, 0.5),
        request_p99_ms: ms(&requests, 0.99),
    }
}

/// As Markdown has it.
fn table(rows: &[Row]) -> String {
    let killed = field::KILLED;
    let mut text = format!(
        "\n| network | dispatch | connect p50 / p99, ms | request p50 / p99, ms | {killed} dead: connect | {killed} dead: request |\n\
         |---|---|---|---|---|---|"
    );
    for Row {
        network,
        dispatch,
        before,
        after,
    } in rows
    {
        let asked = if *dispatch { "with" } else { "without" };
        text += &format!("\n| {network} | {asked} |");
        for Cell {
            connect_p50_ms,
            connect_p99_ms,
            request_p50_ms,
            request_p99_ms,
            ..
        } in [before, after]
        {
            text += &format!(
                " {connect_p50_ms:.0} / {connect_p99_ms:.0} | {request_p50_ms:.0} / {request_p99_ms:.0} |"
            );
        }
    }
    text
}

fn micros(since: Instant) -> u64 {
    since.elapsed().as_micros() as u64
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are a valid precision")
}
