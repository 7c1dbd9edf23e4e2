//! The heap under many identities: coroutines, each a thread to the C library, and threads.

use anyhow::Result;

use super::Section;
use super::program::{self, CLIENT_CORE};
use super::report::{self, Table};
use super::samples::Samples;

/// What runs, and the program and its arguments.
const SIDES: [(&str, &str, &[&str]); 4] = [
    (
        "one thread",
        "malloc_threads",
        &["--count", "1", "--rounds", "20000"],
    ),
    ("1,000 threads", "malloc_threads", &["--count", "1000"]),
    (
        "rpc-core, 1,000 coroutines",
        "bench_malloc",
        &["--count", "1000"],
    ),
    (
        "rpc-core, 20,000 coroutines",
        "bench_malloc",
        &["--count", "20000"],
    ),
];

pub(crate) fn run(rounds: u32) -> Result<Section> {
    let mut times: [Samples; SIDES.len()] = Default::default();
    let mut bytes: [Samples; SIDES.len()] = Default::default();
    let mut failures = Vec::new();
    for round in 1..=rounds {
        for (index, (side, name, args)) in SIDES.iter().enumerate() {
            eprintln!("==> malloc, round {round} of {rounds}: {side}");
            match measure(name, args) {
                Ok((ns, held)) => {
                    times[index].push(ns);
                    bytes[index].push(held);
                }
                Err(error) => failures.push(format!("round {round}, {side}: {error:#}")),
            }
        }
    }
    let mut table = Table::new(&[
        "side",
        "ns for malloc and free",
        "bytes held each",
        "of one thread's time",
    ]);
    for (index, (side, ..)) in SIDES.iter().enumerate() {
        let ratio = times[index].ratio(&times[0]);
        table.row(vec![
            (*side).into(),
            times[index].spread(),
            bytes[index].spread(),
            ratio,
        ]);
    }
    let text = format!(
        "## Malloc under many identities\n\nEach allocates seven chunks of sixteen sizes up to 1,000 bytes at once and frees them, \
         then gives way to the others, 20 times; on one core. Bytes held are what all of them, done and still there, hold above as \
         many that allocated nothing. Turns are part of the time.\n\n{}\n{}",
        table.text(),
        report::failures(&failures),
    );
    Ok(Section {
        text,
        plots: Vec::new(),
        targets: Vec::new(),
    })
}

fn measure(name: &str, args: &[&str]) -> Result<(f64, f64)> {
    let mut command = program::release(name, CLIENT_CORE)?;
    let result = program::start(command.args(args))?.result()?;
    let field = |name| program::field(&result, name);
    Ok((field("ns_each")?, field("bytes_each")?))
}
