//! RPC: ours (baidu_std, gRPC), tonic (gRPC), and the bare `std::net` loop as the floor under both.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use super::Section;
use super::plot::{self, Series};
use super::program::{self, CLIENT_CORE, Running, SERVER_CORE, Server};
use super::report::{self, Table};
use super::samples::Samples;

/// Seconds a client runs before it measures; all of them take the flag.
const WARMUP: f64 = 0.5;
/// Bytes of text in a message.
const PAYLOAD: usize = 100;
/// Bytes of a frame of the bare loop: the payload with headers about it.
const FRAME: usize = 160;

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Ours,
    OursGrpc,
    Tonic,
    Loop,
}

const SIDES: [Side; 4] = [Side::Ours, Side::OursGrpc, Side::Tonic, Side::Loop];

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "rpc-core (baidu_std)",
            Self::OursGrpc => "rpc-core (gRPC)",
            Self::Tonic => "tonic (gRPC)",
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
            Self::Loop => [("std_net_loop", &["server"]), ("std_net_loop", &["client"])],
        }
    }
}

/// Connections, and calls in flight on each.
type Load = (usize, usize);

const LOADS: [Load; 5] = [(1, 1), (1, 64), (1, 200), (64, 1), (512, 1)];

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
}

const LATENCIES: [&str; 4] = ["p50_us", "p99_us", "p999_us", "max_us"];

type All = BTreeMap<(Load, Side), Figures>;

pub(crate) fn run(rounds: u32, seconds: f64) -> Result<Section> {
    let (mut all, mut failures) = (All::new(), Vec::new());
    for round in 1..=rounds {
        for load in LOADS {
            for side in SIDES {
                eprintln!(
                    "==> rpc, round {round} of {rounds}: {}, {}",
                    side.name(),
                    load_name(load)
                );
                let figures = all.entry((load, side)).or_default();
                let done = measure(side, load, seconds, figures).and_then(|()| match round {
                    1 => count_system_calls(side, load, figures),
                    _ => Ok(()),
                });
                if let Err(error) = done {
                    let run = format!("round {round}, {}, {}", side.name(), load_name(load));
                    failures.push(format!("{run}: {error:#}"));
                }
            }
        }
    }
    Ok(section(&all, &failures))
}

fn load_name((connections, inflight): Load) -> String {
    let s = if connections == 1 { "" } else { "s" };
    format!("{connections} connection{s} × {inflight} in flight")
}

/// A server on its core and a client on the other, the client running for `seconds`.
fn start(side: Side, load: Load, seconds: f64) -> Result<(Server, Running)> {
    let [(server, server_args), (client, client_args)] = side.programs();
    let addr = program::free_addr()?;
    let addr_arg = addr.to_string();
    let mut server = program::release(server, SERVER_CORE)?;
    let server = Server::start(server.args(server_args).args(["--addr", &addr_arg]), addr)?;
    let mut client = program::release(client, CLIENT_CORE)?;
    client.args(client_args).args(["--addr", &addr_arg]);
    let payload = if side == Side::Loop { FRAME } else { PAYLOAD };
    for (flag, value) in [
        ("--connections", load.0.to_string()),
        ("--inflight", load.1.to_string()),
        ("--payload", payload.to_string()),
        ("--seconds", seconds.to_string()),
        ("--warmup", WARMUP.to_string()),
    ] {
        client.args([flag, &value]);
    }
    Ok((server, program::start(&mut client)?))
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
    let (server, client) = start(side, load, 2.0)?;
    std::thread::sleep(Duration::from_secs_f64(WARMUP + 0.3));
    let counted = server.system_calls(Duration::from_secs(1));
    let (rate, _) = rate_of(client)?;
    if let Some(count) = counted {
        into.syscalls.push(count / rate);
    }
    Ok(())
}

fn measure(side: Side, load: Load, seconds: f64, into: &mut Figures) -> Result<()> {
    let (server, client) = start(side, load, seconds)?;
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
    Ok(())
}

fn section(all: &All, failures: &[String]) -> Section {
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
    ]);
    for load in LOADS {
        for side in SIDES {
            let own = &all[&(load, side)];
            let mut row = vec![load_name(load), side.name().to_owned(), own.rate.spread()];
            row.push(own.rate.ratio(&all[&(load, Side::Tonic)].rate));
            row.push(own.rate.ratio(&all[&(load, Side::Loop)].rate));
            row.extend(own.latency.iter().map(Samples::middle));
            row.extend(
                [
                    &own.client_cpu,
                    &own.server_cpu,
                    &own.server_mib,
                    &own.syscalls,
                ]
                .map(Samples::middle),
            );
            table.row(row);
        }
    }
    let text = format!(
        "## RPC\n\nUnary echo of {PAYLOAD} bytes of text; the bare loop moves frames of {FRAME} bytes. Closed loop: each caller sends \
         its next call when the last was answered, so the rate offered is the rate achieved. \
         Latency, CPU seconds per million calls and the server's peak resident memory are medians over the rounds; system calls are counted by perf in a run of their own.\n\n\
         {}\n![calls per second](plots/rpc-throughput.svg)\n\n![latency](plots/rpc-latency.svg)\n\n![server memory](plots/rpc-memory.svg)\n\n{}",
        table.text(),
        report::failures(failures),
    );
    Section {
        text,
        plots: vec![throughput_plot(all), latency_plot(all), memory_plot(all)],
    }
}

fn throughput_plot(all: &All) -> (String, String) {
    let series = SIDES.map(|side| Series {
        name: side.name(),
        values: LOADS.map(|load| all[&(load, side)].rate.median()).to_vec(),
    });
    let x = LOADS.map(|(connections, inflight)| format!("{connections} × {inflight}"));
    let title = "Calls per second by connections × calls in flight on each";
    let svg = plot::lines(title, "log scale", &x, &series);
    ("rpc-throughput.svg".to_owned(), svg)
}

fn latency_plot(all: &All) -> (String, String) {
    let at: Load = (1, 64);
    let series = SIDES.map(|side| Series {
        name: side.name(),
        values: all[&(at, side)]
            .latency
            .iter()
            .map(Samples::median)
            .collect(),
    });
    let x = ["p50", "p99", "p99.9", "max"].map(str::to_owned);
    let title = format!("Latency, {}", load_name(at));
    (
        "rpc-latency.svg".to_owned(),
        plot::lines(&title, "µs (log scale)", &x, &series),
    )
}

fn memory_plot(all: &All) -> (String, String) {
    let loads: Vec<Load> = LOADS
        .into_iter()
        .filter(|(_, inflight)| *inflight == 1)
        .collect();
    let series = SIDES.map(|side| Series {
        name: side.name(),
        values: loads
            .iter()
            .map(|&load| all[&(load, side)].server_mib.median())
            .collect(),
    });
    let x: Vec<String> = loads
        .iter()
        .map(|(connections, _)| connections.to_string())
        .collect();
    let title = "Server memory against connections, one call in flight on each";
    let svg = plot::lines(title, "peak MiB (log scale)", &x, &series);
    ("rpc-memory.svg".to_owned(), svg)
}
