//! Hooked sockets: a `std::net` echo server on one worker against tokio's `current_thread`, both under the
//! same load; and what a hook costs on a call that need not wait.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Section;
use super::program::{self, CLIENT_CORE, Running, SERVER_CORE, Server};
use super::report::{self, Table};
use super::samples::Samples;
use super::targets::{Bar, Target};

/// Seconds a load runs before it counts.
const WARMUP: f64 = 0.5;
/// Bytes of a message.
const PAYLOAD: usize = 512;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Tokio,
    Ours,
}

/// The peer first: ratios are to it.
const SIDES: [Side; 2] = [Side::Tokio, Side::Ours];

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Tokio => "tokio current_thread",
            Self::Ours => "std::net on rpc-core, 1 worker",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Tokio => "tokio_sockets",
            Self::Ours => "bench_sockets",
        }
    }
}

/// Connections, messages in flight on each, and what that is called.
type Load = (usize, usize, &'static str);

const LOADS: [Load; 2] = [
    (1000, 1, "1,000 connections, ping-pong"),
    (4, 64, "4 connections, streaming"),
];

#[derive(Default)]
struct Figures {
    /// Messages a second.
    rate: Samples,
    /// Messages for each CPU second of the server.
    per_cpu: Samples,
    /// The server's system calls for each message, from a run of its own in the first round.
    syscalls: Samples,
}

type All = BTreeMap<(Load, Side), Figures>;

/// Nanoseconds of one call: hooked in a coroutine, bare on a thread, and the difference.
type Call = [Samples; 3];

const CALL: [&str; 3] = ["hooked_ns", "bare_ns", "bookkeeping_ns"];

pub(crate) fn run(rounds: u32, seconds: f64) -> Result<Section> {
    let (mut all, mut call, mut failures) = (All::new(), Call::default(), Vec::new());
    for round in 1..=rounds {
        for load in LOADS {
            for side in SIDES {
                let run = format!("round {round} of {rounds}, {}, {}", load.2, side.name());
                eprintln!("==> sockets, {run}");
                let figures = all.entry((load, side)).or_default();
                let done = measure(side, load, seconds, figures).and_then(|()| match round {
                    1 => count_system_calls(side, load, figures),
                    _ => Ok(()),
                });
                if let Err(error) = done {
                    failures.push(format!("{run}: {error:#}"));
                }
            }
        }
        if let Err(error) = measure_call(&mut call) {
            failures.push(format!("round {round}, one call: {error:#}"));
        }
    }
    Ok(section(&all, &call, &failures))
}

fn measure_call(into: &mut Call) -> Result<()> {
    let mut program = program::release("bench_sockets", CLIENT_CORE)?;
    let result = program::start(program.arg("call"))?.result()?;
    for (samples, name) in into.iter_mut().zip(CALL) {
        samples.push(program::field(&result, name)?);
    }
    Ok(())
}

fn start(side: Side, load: Load, seconds: f64) -> Result<(Server, Running)> {
    let addr = program::free_addr()?;
    let mut server = program::release(side.program(), SERVER_CORE)?;
    let server = Server::start(server.args(["server", "--addr", &addr.to_string()]), addr)?;
    let mut client = program::release("tokio_sockets", CLIENT_CORE)?;
    client.arg("load");
    for (flag, value) in [
        ("--addr", addr.to_string()),
        ("--connections", load.0.to_string()),
        ("--inflight", load.1.to_string()),
        ("--payload", PAYLOAD.to_string()),
        ("--seconds", seconds.to_string()),
        ("--warmup", WARMUP.to_string()),
    ] {
        client.args([flag, &value]);
    }
    Ok((server, program::start(&mut client)?))
}

fn rate_of(client: Running) -> Result<f64> {
    program::field(&client.result()?, "rate")
}

fn measure(side: Side, load: Load, seconds: f64, into: &mut Figures) -> Result<()> {
    let (server, client) = start(side, load, seconds)?;
    // The server's CPU is sampled inside the measured time, so that neither end counts.
    std::thread::sleep(Duration::from_secs_f64(WARMUP + 0.1 * seconds));
    let (began, cpu) = (Instant::now(), server.cpu_seconds());
    std::thread::sleep(Duration::from_secs_f64(0.8 * seconds));
    let share = (server.cpu_seconds() - cpu) / began.elapsed().as_secs_f64();
    let rate = rate_of(client)?;
    into.rate.push(rate);
    into.per_cpu.push(rate / share);
    Ok(())
}

fn count_system_calls(side: Side, load: Load, into: &mut Figures) -> Result<()> {
    let (server, client) = start(side, load, 2.0)?;
    std::thread::sleep(Duration::from_secs_f64(WARMUP + 0.3));
    let counted = server.system_calls(Duration::from_secs(1));
    let rate = rate_of(client)?;
    if let Some(count) = counted {
        into.syscalls.push(count / rate);
    }
    Ok(())
}

fn targets(all: &All, call: &Call) -> Vec<Target> {
    let echo = |what, load| {
        let rate = |side| all[&(load, side)].rate.median();
        let word = "The one load thread answers in the order in which the server's batches come; by messages for each CPU second \
                    of the server, in the table of this part, see what the server itself costs.";
        Target::new(
            what,
            rate(Side::Ours),
            "messages/s",
            Bar::AtLeast(1.0),
            word,
        )
        .times(Side::Tokio.name(), rate(Side::Tokio))
    };
    let word = "The hook looks up the descriptor, and the coroutine that calls.";
    vec![
        echo("std::net echo, 1,000 connections ping-pong", LOADS[0]),
        echo("std::net echo, 4 connections streaming", LOADS[1]),
        Target::new(
            "a hook's own part in a write and a read that need not wait",
            call[2].median(),
            "ns",
            Bar::AtMost(20.0),
            word,
        ),
    ]
}

fn section(all: &All, call: &Call, failures: &[String]) -> Section {
    let mut table = Table::new(&[
        "load",
        "side",
        "messages/s: median (least–greatest)",
        "× tokio",
        "messages per server CPU s",
        "× tokio",
        "server syscalls/message",
    ]);
    for load in LOADS {
        for side in SIDES {
            let (own, peer) = (&all[&(load, side)], &all[&(load, Side::Tokio)]);
            table.row(vec![
                load.2.to_owned(),
                side.name().to_owned(),
                own.rate.spread(),
                own.rate.ratio(&peer.rate),
                own.per_cpu.spread(),
                own.per_cpu.ratio(&peer.per_cpu),
                own.syscalls.middle(),
            ]);
        }
    }
    let [hooked, bare, bookkeeping] = call;
    let text = format!(
        "## Hooked sockets\n\nAn echo server of messages of {PAYLOAD} bytes on one core; the load, one thread on the other core, sends back whatever \
         comes. System calls are counted by perf in a run of their own, and in streaming a call moves many messages.\n\n{}\n\
         A write and a read of one byte on a Unix stream that need not wait, ns a call: {} in a coroutine, {} on an OS thread, \
         so that the hook's own part is {}.\n\n{}",
        table.text(),
        hooked.spread(),
        bare.spread(),
        bookkeeping.spread(),
        report::failures(failures),
    );
    Section {
        text,
        plots: Vec::new(),
        targets: targets(all, call),
    }
}
