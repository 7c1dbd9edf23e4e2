//! The runtime: ours on one worker, tokio's two runtimes, and threads for the slow GETs.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::Section;
use super::program::{self, CLIENT_CORE, SERVER_CORE, Server};
use super::report::{self, Table};
use super::samples::Samples;

/// One line of the table.
struct Case {
    /// What is measured; lines of the same name are compared with its first peer.
    what: &'static str,
    side: &'static str,
    program: &'static str,
    args: &'static [&'static str],
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
const PARKED: &str = "100,000 parked";
const SLOW: &str = "1,000 GETs to a server that answers after 100 ms";

const fn case(
    what: &'static str,
    side: &'static str,
    program: &'static str,
    args: &'static [&'static str],
    figures: &'static [(&'static str, &'static str, f64)],
) -> Case {
    Case {
        what,
        side,
        program,
        args,
        figures,
        slow_server: false,
    }
}

/// Peers stand first under each name: ratios are to the first.
const CASES: [Case; 15] = [
    case(
        YIELD,
        "tokio current_thread",
        "tokio_runtime",
        &["yield", "--count", "10000000"],
        NS,
    ),
    case(
        YIELD,
        "tokio multi_thread, 1 worker",
        "tokio_runtime",
        &["yield", "--count", "3000000", "--flavor", "multi"],
        NS,
    ),
    case(
        YIELD,
        "rpc-core",
        "bench_runtime",
        &["yield", "--count", "10000000"],
        NS,
    ),
    case(
        YIELD_MANY,
        "tokio current_thread",
        "tokio_runtime",
        &["yield", "--count", "10000000", "--tasks", "1000"],
        NS,
    ),
    case(
        YIELD_MANY,
        "tokio multi_thread, 1 worker",
        "tokio_runtime",
        &[
            "yield", "--count", "3000000", "--tasks", "1000", "--flavor", "multi",
        ],
        NS,
    ),
    case(
        YIELD_MANY,
        "rpc-core",
        "bench_runtime",
        &["yield", "--count", "10000000", "--tasks", "1000"],
        NS,
    ),
    case(
        SPAWN,
        "tokio current_thread",
        "tokio_runtime",
        &["spawn", "--count", "2000000"],
        NS,
    ),
    case(
        SPAWN,
        "tokio multi_thread, 1 worker",
        "tokio_runtime",
        &["spawn", "--count", "1000000", "--flavor", "multi"],
        NS,
    ),
    case(
        SPAWN,
        "rpc-core, thread-locals reused",
        "bench_runtime",
        &["spawn", "--count", "2000000", "--reuse"],
        NS,
    ),
    case(
        SPAWN,
        "rpc-core, thread-locals fresh",
        "bench_runtime",
        &["spawn", "--count", "2000000"],
        NS,
    ),
    case(
        PARKED,
        "tokio current_thread",
        "tokio_runtime",
        &["park", "--count", "100000"],
        PARK,
    ),
    case(
        PARKED,
        "tokio multi_thread, 1 worker",
        "tokio_runtime",
        &["park", "--count", "100000", "--flavor", "multi"],
        PARK,
    ),
    case(
        PARKED,
        "rpc-core",
        "bench_runtime",
        &["park", "--count", "100000"],
        PARK,
    ),
    Case {
        slow_server: true,
        ..case(
            SLOW,
            "ureq on 1,000 threads",
            "thread_gets",
            &["--count", "1000"],
            GETS,
        )
    },
    Case {
        slow_server: true,
        ..case(
            SLOW,
            "ureq on rpc-core, 1 worker",
            "bench_runtime",
            &["gets", "--count", "1000"],
            GETS,
        )
    },
];

/// Samples by case and figure.
type All = BTreeMap<(usize, usize), Samples>;

pub(crate) fn run(rounds: u32) -> Result<Section> {
    let (mut all, mut failures) = (All::new(), Vec::new());
    for round in 1..=rounds {
        for (index, case) in CASES.iter().enumerate() {
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
        text: text(&all, &failures),
        plots: Vec::new(),
    })
}

fn measure(case: &Case, index: usize, all: &mut All) -> Result<()> {
    let mut command = program::release(case.program, CLIENT_CORE)?;
    command.args(case.args);
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

fn text(all: &All, failures: &[String]) -> String {
    let nothing = Samples::default();
    let samples = |index, figure| all.get(&(index, figure)).unwrap_or(&nothing);
    let mut table = Table::new(&[
        "what",
        "side",
        "figure",
        "median (least–greatest)",
        "of the first peer",
    ]);
    for (index, case) in CASES.iter().enumerate() {
        let first = CASES
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
         The GETs go over connections opened before the clock starts. A ratio below 1 is less time or memory than the first peer's.\n\n{}\n{}",
        table.text(),
        report::failures(failures),
    )
}
