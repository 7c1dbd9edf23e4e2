//! What coroutines cost that all wait at once: a thousand, a hundred thousand, a million, in both
//! identities; tokio's tasks beside them.

use std::collections::BTreeMap;

use anyhow::Result;

use super::Section;
use super::plot::{self, Series};
use super::program::{self, CLIENT_CORE};
use super::report::{self, Table};
use super::samples::Samples;
use super::targets::{Bar, Target};

const COUNTS: [(&str, &str); 3] = [
    ("1,000", "1000"),
    ("100,000", "100000"),
    ("1,000,000", "1000000"),
];
/// Column of the plot, program, arguments besides the count.
const SIDES: [(&str, &str, &[&str]); 3] = [
    ("tokio task", "tokio_runtime", &["park"]),
    (
        "coroutine, shared identity",
        "million",
        &["--json", "--identity", "shared"],
    ),
    (
        "coroutine, own identity",
        "million",
        &["--json", "--identity", "own"],
    ),
];
/// Field of the result line, unit, factor; what only some sides tell stands last.
const FIGURES: [(&str, &str, f64); 5] = [
    ("bytes_each", "bytes each", 1.0),
    ("park_seconds", "ms until all wait", 1e3),
    ("wake_seconds", "ms to wake and join all", 1e3),
    ("mappings", "mappings of the process", 1.0),
    (
        "bytes_left_each",
        "bytes each left when stacks were given back",
        1.0,
    ),
];

/// Samples by side, count and figure.
type All = BTreeMap<(usize, usize, usize), Samples>;

pub(crate) fn run(rounds: u32) -> Result<Section> {
    let (mut all, mut failures) = (All::new(), Vec::new());
    for round in 1..=rounds {
        for (count, (shown, _)) in COUNTS.iter().enumerate() {
            for (side, (name, ..)) in SIDES.iter().enumerate() {
                eprintln!("==> memory, round {round} of {rounds}: {shown}, {name}");
                if let Err(error) = measure(side, count, &mut all) {
                    failures.push(format!("round {round}, {shown}, {name}: {error:#}"));
                }
            }
        }
    }
    let x: Vec<String> = COUNTS
        .iter()
        .map(|(shown, _)| (*shown).to_owned())
        .collect();
    let series: Vec<Series> = SIDES
        .iter()
        .enumerate()
        .map(|(side, (name, ..))| Series {
            name,
            values: (0..COUNTS.len())
                .map(|count| all.get(&(side, count, 0)).and_then(Samples::median))
                .collect(),
        })
        .collect();
    let svg = plot::lines("Memory of each while all wait", "bytes", &x, &series);
    Ok(Section {
        text: text(&all, &failures),
        targets: targets(&all),
        plots: vec![("memory.svg".to_owned(), svg)],
    })
}

fn measure(side: usize, count: usize, all: &mut All) -> Result<()> {
    let (_, name, args) = SIDES[side];
    let mut command = program::release(name, CLIENT_CORE)?;
    command.args(args).args(["--count", COUNTS[count].1]);
    let result = program::start(&mut command)?.result()?;
    for (figure, (field, _, factor)) in FIGURES.iter().enumerate() {
        if result.get(field).is_some() {
            let value = program::field(&result, field)? * factor;
            all.entry((side, count, figure)).or_default().push(value);
        }
    }
    Ok(())
}

fn targets(all: &All) -> Vec<Target> {
    // The greatest count of each identity; mappings are the fourth figure.
    let million = COUNTS.len() - 1;
    let figure = |side, figure| all.get(&(side, million, figure)).and_then(Samples::median);
    let bytes = |what, side, most| {
        let word =
            "A page or two of stack, the page tables over it and the coroutine's record are in it.";
        Target::new(what, figure(side, 0), "bytes", Bar::AtMost(most), word)
    };
    let mappings = |what, side| {
        let word = "Where the kernel has no MADV_GUARD_INSTALL each guard splits a mapping.";
        Target::new(what, figure(side, 3), "mappings", Bar::AtMost(400.0), word)
    };
    vec![
        bytes("1,000,000 parked, shared identity, each", 1, 5.0 * 1024.0),
        bytes(
            "1,000,000 parked, own identity, each (200,000 were aimed at)",
            2,
            10.0 * 1024.0,
        ),
        mappings("1,000,000 parked, shared identity, in all", 1),
        mappings("1,000,000 parked, own identity, in all", 2),
    ]
}

fn text(all: &All, failures: &[String]) -> String {
    let mut table = Table::new(&["at once", "what", "figure", "median (least–greatest)"]);
    for (count, (shown, _)) in COUNTS.iter().enumerate() {
        for (side, (name, ..)) in SIDES.iter().enumerate() {
            for (figure, (_, unit, _)) in FIGURES.iter().enumerate() {
                let Some(samples) = all.get(&(side, count, figure)) else {
                    continue;
                };
                let cells = [*shown, *name, *unit].map(str::to_owned);
                let mut row = cells.to_vec();
                row.push(samples.spread());
                table.row(row);
            }
        }
    }
    format!(
        "## Memory of what waits\n\nOne worker on one core. Memory is VmRSS + VmPTE, the difference before and after, \
         for each coroutine or task; a coroutine has a stack of 64 KiB of address space with a guard of as much. What is left is what \
         the process still holds for each after its stacks were given back.\n\n![Memory of each](plots/memory.svg)\n\n{}\n{}",
        table.text(),
        report::failures(failures),
    )
}
