//! RPC: ours (baidu_std, gRPC), tonic (gRPC), tarpc, and the bare `std::net` loop as the limit of all.

mod plots;
mod targets;
mod waiting;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use super::Section;
use super::program::{self, CLIENT_CORE, Running, SERVER_CORE, Server};
use super::report::{self, Table};
use super::samples::Samples;

/// Seconds a client runs before it measures; all of them take the flag.
const WARMUP: f64 = 0.5;
/// Bytes of text in a message.
const PAYLOAD: usize = 100;
/// Bytes of a frame of the bare loop: the payload with headers about it.
const FRAME: usize = 160;
/// Bytes of text in a large message, and of such a frame of the loop.
const LARGE: usize = 1 << 20;

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Ours,
    OursGrpc,
    Tonic,
    Tarpc,
    Loop,
}

const SIDES: [Side; 5] = [
    Side::Ours,
    Side::OursGrpc,
    Side::Tonic,
    Side::Tarpc,
    Side::Loop,
];

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "rpc-core (baidu_std)",
            Self::OursGrpc => "rpc-core (gRPC)",
            Self::Tonic => "tonic (gRPC)",
            Self::Tarpc => "tarpc (bincode)",
            Self::Loop => "bare std::net loop",
        }
    }

    /// Server and client: program, and the arguments before the common ones.
    fn programs(self) -> [(&'static str, &'static [&'static str]); 2] {
        match self {
            Self::Ours => [("bench_echo_server", &[]), ("bench_echo_client", &[])],
            Self::OursGrpc => [
                ("bench_echo_server", &[]),
                ("bench_echo_client", &["--protocol", "grpc"]),
            ],
            Self::Tonic => [("tonic_echo_server", &[]), ("tonic_echo_client", &[])],
            Self::Tarpc => [("tarpc_echo", &["server"]), ("tarpc_echo", &["client"])],
            Self::Loop => [("std_net_loop", &["server"]), ("std_net_loop", &["client"])],
        }
    }
}

/// What is asked of a side.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    connections: usize,
    /// Calls in flight on each connection.
    inflight: usize,
    large: bool,
}

const fn small(connections: usize, inflight: usize) -> Load {
    Load {
        connections,
        inflight,
        large: false,
    }
}

const SMALL: [Load; 5] = [
    small(1, 1),
    small(1, 64),
    small(1, 200),
    small(64, 1),
    small(512, 1),
];
const BULK: Load = Load {
    large: true,
    ..small(1, 4)
};

impl Load {
    fn name(self) -> String {
        let s = if self.connections == 1 { "" } else { "s" };
        let large = if self.large { ", 1 MiB each" } else { "" };
        format!(
            "{} connection{s} × {} in flight{large}",
            self.connections, self.inflight
        )
    }

    /// The client's flags beside the common ones.
    fn flags(self, side: Side) -> [String; 3] {
        let payload = match (self.large, side) {
            (true, _) => LARGE,
            (false, Side::Loop) => FRAME,
            (false, _) => PAYLOAD,
        };
        [
            format!("--connections={}", self.connections),
            format!("--inflight={}", self.inflight),
            format!("--payload={payload}"),
        ]
    }
}

/// Every figure of one side under one load.
#[derive(Default)]
struct Figures {
    rate: Samples,
    /// p50, p99, p99.9, max; microseconds.
    latency: [Samples; 4],
    client_cpu: Samples,
    server_cpu: Samples,
    server_mib: Samples,
    /// The server's, from a run of its own in the first round: counting slows the counted.
    syscalls: Samples,
    /// A call's, of the server and of the client; the loop does not count its own.
    allocations: [Samples; 2],
}

const LATENCIES: [&str; 4] = ["p50_us", "p99_us", "p999_us", "max_us"];
const ALLOCATIONS: [&str; 2] = ["server_allocations", "client_allocations"];

type All = BTreeMap<(Load, Side), Figures>;

pub(crate) fn run(rounds: u32, seconds: f64) -> Section {
    let (mut all, mut failures) = (All::new(), Vec::new());
    for round in 1..=rounds {
        for load in SMALL.into_iter().chain([BULK]) {
            for side in SIDES {
                eprintln!(
                    "==> rpc, round {round} of {rounds}: {}, {}",
                    side.name(),
                    load.name()
                );
                let figures = all.entry((load, side)).or_default();
                let counted = round == 1 && !load.large;
                let done = measure(side, load, seconds, figures).and_then(|()| match counted {
                    true => count_system_calls(side, load, figures),
                    false => Ok(()),
                });
                if let Err(error) = done {
                    let run = format!("round {round}, {}, {}", side.name(), load.name());
                    failures.push(format!("{run}: {error:#}"));
                }
            }
        }
    }
    let waiting = waiting::run(&mut failures);
    section(&all, &waiting, &failures)
}

/// A server on its core, and where it listens.
fn serve(side: Side, flags: &[&str]) -> Result<(Server, String)> {
    let [(server, args), _] = side.programs();
    let addr = program::free_addr()?;
    let addr_arg = addr.to_string();
    let mut server = program::release(server, SERVER_CORE)?;
    server.args(args).args(["--addr", &addr_arg]).args(flags);
    Ok((Server::start(&mut server, addr)?, addr_arg))
}

/// A client on the other core, running for `seconds`.
fn call(side: Side, addr: &str, load: Load, seconds: f64) -> Result<Running> {
    let [_, (client, args)] = side.programs();
    let mut client = program::release(client, CLIENT_CORE)?;
    client.args(args).args(["--addr", addr]);
    client.args(load.flags(side));
    client.args(["--seconds", &seconds.to_string()]);
    program::start(client.args(["--warmup", &WARMUP.to_string()]))
}

/// Calls a second, of a client whose calls all succeeded; and its result line.
fn rate_of(client: Running) -> Result<(f64, Value)> {
    let result = client.result()?;
    let failed = program::field(&result, "failed")?;
    if failed > 0.0 {
        bail!("{failed} calls failed");
    }
    let rate = program::field(&result, "calls")? / program::field(&result, "seconds")?;
    Ok((rate, result))
}

fn count_system_calls(side: Side, load: Load, into: &mut Figures) -> Result<()> {
    let (server, addr) = serve(side, &[])?;
    let client = call(side, &addr, load, 2.0)?;
    std::thread::sleep(Duration::from_secs_f64(WARMUP + 0.3));
    let counted = server.system_calls(Duration::from_secs(1));
    let (rate, _) = rate_of(client)?;
    if let Some(count) = counted {
        into.syscalls.push(count / rate);
    }
    Ok(())
}

fn measure(side: Side, load: Load, seconds: f64, into: &mut Figures) -> Result<()> {
    let (server, addr) = serve(side, &[])?;
    let client = call(side, &addr, load, seconds)?;
    // The server's CPU is sampled inside the measured time, so that neither end counts.
    std::thread::sleep(Duration::from_secs_f64(WARMUP + 0.1 * seconds));
    let (began, cpu) = (Instant::now(), server.cpu_seconds());
    std::thread::sleep(Duration::from_secs_f64(0.8 * seconds));
    let share = (server.cpu_seconds() - cpu) / began.elapsed().as_secs_f64();
    let (rate, result) = rate_of(client)?;
    into.rate.push(rate);
    for (samples, name) in into.latency.iter_mut().zip(LATENCIES) {
        samples.push(program::field(&result, name)?);
    }
    into.client_cpu
        .push(program::field(&result, "cpu_s_per_million")?);
    into.server_cpu.push(share / rate * 1e6);
    into.server_mib
        .push(server.peak_bytes() / f64::from(1 << 20));
    if side != Side::Loop {
        for (samples, name) in into.allocations.iter_mut().zip(ALLOCATIONS) {
            samples.push(program::field(&result, name)?);
        }
    }
    Ok(())
}

fn section(all: &All, waiting: &[waiting::Row], failures: &[String]) -> Section {
    let text = format!(
        "## RPC\n\nUnary echo of {PAYLOAD} bytes of text; the bare loop moves frames of {FRAME} bytes. Closed loop: each caller sends \
         its next call when the last was answered, so the rate offered is the rate achieved. \
         Latency, CPU seconds per million calls and the server's peak resident memory are medians over the rounds; system calls are counted \
         by perf in a run of their own, allocations (with reallocations) by each program itself. brpc is not on this machine: the targets \
         take its figures from another run on two noisy cores. volo-grpc is not among the peers: building it with its code \
         generator took four minutes of processor time, too much for a peer that nobody else compiles.\n\n\
         {}\n![calls per second](plots/rpc-throughput.svg)\n\n![latency](plots/rpc-latency.svg)\n\n![server memory](plots/rpc-memory.svg)\n\n\
         Echoes of 1 MiB, {} in flight on one connection; the loop moves frames of as much:\n\n{}\n\
         Calls that wait: {} of them at once, {} on each of {} connections, their handlers decode and sleep. The server's peak resident memory, less \
         what it held before, for each of those that waited at once at most; once a report:\n\n{}\n{}",
        small_table(all),
        BULK.inflight,
        bulk_table(all),
        super::samples::number((waiting::LOAD.connections * waiting::LOAD.inflight) as f64),
        waiting::LOAD.inflight,
        waiting::LOAD.connections,
        waiting::table(waiting),
        report::failures(failures),
    );
    Section {
        text,
        plots: plots::all(all),
        targets: targets::all(all, waiting),
    }
}

fn small_table(all: &All) -> String {
    let mut table = Table::new(&[
        "load",
        "side",
        "calls/s: median (least–greatest)",
        "× tonic",
        "× loop",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "max µs",
        "client CPU s/M",
        "server CPU s/M",
        "server MiB",
        "server syscalls/call",
        "server allocations/call",
        "client allocations/call",
    ]);
    for load in SMALL {
        for side in SIDES {
            let own = &all[&(load, side)];
            let mut row = vec![load.name(), side.name().to_owned(), own.rate.spread()];
            row.push(own.rate.ratio(&all[&(load, Side::Tonic)].rate));
            row.push(own.rate.ratio(&all[&(load, Side::Loop)].rate));
            row.extend(own.latency.iter().map(Samples::middle));
            row.extend(
                [
                    &own.client_cpu,
                    &own.server_cpu,
                    &own.server_mib,
                    &own.syscalls,
                    &own.allocations[0],
                    &own.allocations[1],
                ]
                .map(Samples::middle),
            );
            table.row(row);
        }
    }
    table.text()
}

fn bulk_table(all: &All) -> String {
    let mut table = Table::new(&[
        "side",
        "echoes/s: median (least–greatest)",
        "× loop",
        "p50 µs",
        "p99 µs",
        "client CPU s/M",
        "server CPU s/M",
    ]);
    for side in SIDES {
        let own = &all[&(BULK, side)];
        let mut row = vec![side.name().to_owned(), own.rate.spread()];
        row.push(own.rate.ratio(&all[&(BULK, Side::Loop)].rate));
        row.extend(own.latency[..2].iter().map(Samples::middle));
        row.extend([&own.client_cpu, &own.server_cpu].map(Samples::middle));
        table.row(row);
    }
    table.text()
}
