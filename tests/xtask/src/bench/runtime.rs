//! The runtime: ours on one worker, tokio's two runtimes, may, and threads for the slow GETs.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::Section;
use super::program::{self, CLIENT_CORE, SERVER_CORE, Server};
use super::report::{self, Table};
use super::samples::Samples;
use super::targets::{Bar, Target};

/// One line of the table.
struct Case {
    /// What is measured; lines of the same name are compared with its first peer.
    what: &'static str,
    side: &'static str,
    program: &'static str,
    args: Vec<&'static str>,
    /// The field of the result line, its unit, and what to multiply it with.
    figures: &'static [(&'static str, &'static str, f64)],
    /// It wants the slow HTTP server.
    slow_server: bool,
}

const NS: &[(&str, &str, f64)] = &[("ns_each", "ns each", 1.0)];
const PARK: &[(&str, &str, f64)] = &[
    ("bytes_each", "bytes each", 1.0),
    ("park_seconds", "ms to park all", 1e3),
    ("wake_seconds", "ms to wake and join all", 1e3),
];
const GETS: &[(&str, &str, f64)] = &[("seconds", "ms in all", 1e3)];

const YIELD: &str = "yield and back, alone";
const YIELD_MANY: &str = "yield and back, 1,000 taking turns";
const SPAWN: &str = "spawn + join, empty";
const PING: &str = "a value to another coroutine and back, two channels";
const MUTEX: &str = "lock, yield, hand over to one of 3 that wait";
const TIMERS: &str = "receive with a timeout: 1,000,000 timers set and cancelled, 1,000 at a time";
const PARKED: &str = "100,000 parked";
const SLOW: &str = "1,000 GETs to a server that answers after 100 ms";

/// Every side of one thing that takes so many ns; peers first, for ratios are to the first. Each runs
/// `count` times, the slower ones fewer.
fn sides(what: &'static str, step: &'static str, tasks: Option<&'static str>) -> Vec<Case> {
    let count = if what == TIMERS {
        ["1000000"; 4]
    } else if step == "yield" {
        ["10000000", "3000000", "10000000", "10000000"]
    } else {
        ["2000000", "1000000", "1000000", "2000000"]
    };
    let case = |side, program, count, extra: &[&'static str]| Case {
        what,
        side,
        program,
        args: [&[step, "--count", count], extra].concat(),
        figures: NS,
        slow_server: false,
    };
    // Pairs of coroutines are counted in a flag of their own on our side.
    let ours = if what == TIMERS { "--pairs" } else { "--tasks" };
    let flag = |name| tasks.map_or(Vec::new(), |tasks| vec![name, tasks]);
    let (peer, own) = (flag("--tasks"), flag(ours));
    let multi = [&peer[..], &["--flavor", "multi"]].concat();
    let tokio = "tokio_runtime";
    let mut all = vec![
        case("tokio current_thread", tokio, count[0], &peer),
        case("tokio multi_thread, 1 worker", tokio, count[1], &multi),
        case("may, 1 worker", "may_runtime", count[2], &peer),
    ];
    if what == SPAWN {
        let sides = [
            ("rpc-core, thread-locals reused", &["--reuse"][..]),
            ("rpc-core, thread-locals fresh", &[]),
        ];
        all.extend(sides.map(|(side, extra)| case(side, "bench_runtime", count[3], extra)));
    } else {
        all.push(case("rpc-core", "bench_runtime", count[3], &own));
    }
    if step == "yield" {
        let shared = [&own[..], &["--identity", "shared"]].concat();
        all.push(case(
            "rpc-core, shared identity",
            "bench_runtime",
            count[3],
            &shared,
        ));
    }
    all
}

/// Peers stand first under each name: ratios are to the first.
fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(sides(YIELD, "yield", None));
    all.extend(sides(YIELD_MANY, "yield", Some("1000")));
    all.extend(sides(SPAWN, "spawn", None));
    all.extend(sides(PING, "ping-pong", None));
    all.extend(sides(MUTEX, "mutex", Some("4")));
    all.extend(sides(TIMERS, "timers", Some("1000")));
    let parked = |side, program, extra: &[&'static str]| Case {
        what: PARKED,
        side,
        program,
        args: [&["park", "--count", "100000"], extra].concat(),
        figures: PARK,
        slow_server: false,
    };
    let multi = ["--flavor", "multi"];
    all.push(parked("tokio current_thread", "tokio_runtime", &[]));
    all.push(parked(
        "tokio multi_thread, 1 worker",
        "tokio_runtime",
        &multi,
    ));
    all.push(parked("rpc-core", "bench_runtime", &[]));
    let gets = |side, program, args: &[&'static str]| Case {
        what: SLOW,
        side,
        program,
        args: args.to_vec(),
        figures: GETS,
        slow_server: true,
    };
    let count = ["--count", "1000"];
    all.push(gets("ureq on 1,000 threads", "thread_gets", &count));
    let ours = ["gets", "--count", "1000"];
    all.push(gets("ureq on rpc-core, 1 worker", "bench_runtime", &ours));
    all
}

/// Samples by case and figure.
type All = BTreeMap<(usize, usize), Samples>;

pub(crate) fn run(rounds: u32) -> Result<Section> {
    let (mut all, mut failures) = (All::new(), Vec::new());
    let cases = cases();
    for round in 1..=rounds {
        for (index, case) in cases.iter().enumerate() {
            eprintln!(
                "==> runtime, round {round} of {rounds}: {}, {}",
                case.what, case.side
            );
            if let Err(error) = measure(case, index, &mut all) {
                failures.push(format!(
                    "round {round}, {}, {}: {error:#}",
                    case.what, case.side
                ));
            }
        }
    }
    Ok(Section {
        text: text(&cases, &all, &failures),
        plots: Vec::new(),
        targets: targets(&cases, &all),
    })
}

fn measure(case: &Case, index: usize, all: &mut All) -> Result<()> {
    let mut command = program::release(case.program, CLIENT_CORE)?;
    command.args(&case.args);
    let mut server = None;
    if case.slow_server {
        let addr = program::free_addr()?;
        let mut slow = program::release("slow_http", SERVER_CORE)?;
        server = Some(Server::start(
            slow.args(["--addr", &addr.to_string()]),
            addr,
        )?);
        command.args(["--addr", &addr.to_string()]);
    }
    let result = program::start(&mut command)?.result()?;
    drop(server);
    match result.get("failed").and_then(serde_json::Value::as_f64) {
        Some(failed) if failed > 0.0 => bail!("{failed} failed"),
        _ => {}
    }
    for (figure, (name, _, factor)) in case.figures.iter().enumerate() {
        let value = program::field(&result, name)? * factor;
        all.entry((index, figure)).or_default().push(value);
    }
    Ok(())
}

fn targets(cases: &[Case], all: &All) -> Vec<Target> {
    let figure = |what, side| {
        let case = cases
            .iter()
            .position(|c| c.what == what && c.side == side)?;
        all.get(&(case, 0))?.median()
    };
    let yields = |what, side, most| {
        let word = "Beside the switch a turn puts the coroutine into the ready queue, takes the next and counts its budget.";
        Target::new(what, figure(YIELD, side), "ns", Bar::AtMost(most), word)
    };
    let spawns = |what, side, most| {
        let word = "A coroutine is listed for dump(), has a place for its result and a join that wakes; each is memory touched.";
        Target::new(what, figure(SPAWN, side), "ns", Bar::AtMost(most), word)
    };
    vec![
        yields(
            "yield and back, shared identity",
            "rpc-core, shared identity",
            25.0,
        ),
        yields("yield and back, own identity", "rpc-core", 60.0),
        spawns(
            "spawn + join, thread-locals reused",
            "rpc-core, thread-locals reused",
            150.0,
        ),
        spawns(
            "spawn + join, thread-locals fresh",
            "rpc-core, thread-locals fresh",
            250.0,
        ),
    ]
}

fn text(cases: &[Case], all: &All, failures: &[String]) -> String {
    let nothing = Samples::default();
    let samples = |index, figure| all.get(&(index, figure)).unwrap_or(&nothing);
    let mut table = Table::new(&[
        "what",
        "side",
        "figure",
        "median (least–greatest)",
        "of the first peer",
    ]);
    for (index, case) in cases.iter().enumerate() {
        let first = cases
            .iter()
            .position(|c| c.what == case.what)
            .unwrap_or(index);
        for (figure, (_, unit, _)) in case.figures.iter().enumerate() {
            let own = samples(index, figure);
            let ratio = own.ratio(samples(first, figure));
            table.row(vec![
                case.what.into(),
                case.side.into(),
                (*unit).into(),
                own.spread(),
                ratio,
            ]);
        }
    }
    format!(
        "## Runtime\n\nEvery program runs on one core. Memory is VmRSS + VmPTE, the difference before and after, per coroutine or task. \
         The channels of tokio and rpc-core keep one value, may's have no bound. The GETs go over connections opened before the clock starts. A ratio below 1 is less time or memory than the first peer's.\n\n{}\n{}",
        table.text(),
        report::failures(failures),
    )
}
