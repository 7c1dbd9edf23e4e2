//! The long tail: 1 % of calls burn 5 ms of the server's processor; what the others suffer, beside tonic's.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::Section;
use super::program::{self, CLIENT_CORE, SERVER_CORE, Server};
use super::report::{self, Table};
use super::samples::Samples;
use super::targets::{Bar, Target};

/// Calls offered in a second: with one in a hundred burning 5 ms that is half of the server's core.
const RATE: u64 = 10_000;
/// Threads of each server, on its one core.
const WORKERS: &str = "2";

/// Name, server, what our client speaks to it.
const SIDES: [(&str, &str, &str); 3] = [
    ("rpc-core (baidu_std)", "bench_echo_server", "baidu_std"),
    ("rpc-core (gRPC)", "bench_echo_server", "grpc"),
    ("tonic (gRPC)", "tonic_echo_server", "grpc"),
];
/// Shown, `--burn-every`.
const LOADS: [(&str, &str); 2] = [("none burns", "0"), ("1 % burn 5 ms", "100")];
const FIGURES: [&str; 3] = ["p50_us", "p99_us", "p999_us"];

/// Samples by load, side and figure.
type All = BTreeMap<(usize, usize, usize), Samples>;

pub(crate) fn run(rounds: u32, seconds: f64) -> Section {
    let (mut all, mut failures) = (All::new(), Vec::new());
    for round in 1..=rounds {
        for (load, (shown, _)) in LOADS.iter().enumerate() {
            for (side, (name, ..)) in SIDES.iter().enumerate() {
                eprintln!("==> long tail, round {round} of {rounds}: {name}, {shown}");
                if let Err(error) = measure(load, side, seconds, &mut all) {
                    failures.push(format!("round {round}, {name}, {shown}: {error:#}"));
                }
            }
        }
    }
    section(&all, &failures)
}

fn measure(load: usize, side: usize, seconds: f64, all: &mut All) -> Result<()> {
    let (_, server, protocol) = SIDES[side];
    let addr = program::free_addr()?;
    let addr_arg = addr.to_string();
    let mut command = program::release(server, SERVER_CORE)?;
    command.args(["--addr", &addr_arg, "--workers", WORKERS, "--burn"]);
    let _server = Server::start(&mut command, addr)?;
    let mut client = program::release("bench_tail_client", CLIENT_CORE)?;
    client.args(["--addr", &addr_arg, "--protocol", protocol]);
    client.args(["--rate", &RATE.to_string(), "--burn-every", LOADS[load].1]);
    client.args(["--seconds", &(seconds.ceil().max(1.0) as u64).to_string()]);
    let result = program::start(&mut client)?.result()?;
    let failed = program::field(&result, "failed")?;
    if failed > 0.0 {
        bail!("{failed} calls failed");
    }
    for (figure, field) in FIGURES.iter().enumerate() {
        let value = program::field(&result, field)?;
        all.entry((load, side, figure)).or_default().push(value);
    }
    Ok(())
}

fn section(all: &All, failures: &[String]) -> Section {
    let mut table = Table::new(&["load", "server", "p50 µs", "p99 µs", "p99.9 µs"]);
    for (load, (shown, _)) in LOADS.iter().enumerate() {
        for (side, (name, ..)) in SIDES.iter().enumerate() {
            let mut row = vec![(*shown).to_owned(), (*name).to_owned()];
            row.extend((0..FIGURES.len()).map(|figure| {
                let samples = all.get(&(load, side, figure));
                samples.map_or_else(|| "failed".to_owned(), Samples::spread)
            }));
            table.row(row);
        }
    }
    let text = format!(
        "## The long tail over RPC\n\nAn open loop: {RATE} calls a second over 4 connections are due by the clock and timed from then; one client, ours, \
         calls every server. Each server has {WORKERS} threads on its one core. Latencies are of the calls that do not burn: median \
         (least–greatest) over the rounds.\n\n{}\n{}",
        table.text(),
        report::failures(failures),
    );
    Section {
        text,
        plots: Vec::new(),
        targets: vec![target(all)],
    }
}

/// The growth of p99 from where none burns to where some do.
fn target(all: &All) -> Target {
    let growth = |side| {
        let p99 = |load| all.get(&(load, side, 1)).and_then(Samples::median);
        Some(p99(1)? / p99(0)?)
    };
    Target::new(
        "PRPC, 1 % of calls burn 5 ms: p99 of the others",
        growth(0),
        "× of where none burns",
        Bar::AtMost(1.0),
        "Both servers' two threads share a core, so whose turn it is while one burns the kernel says; and the less \
         the others took before, the more times that they grow. brpc, which was meant, is not on this machine.",
    )
    .times(SIDES[2].0, growth(2))
}
