//! What few calls that burn the processor do to the others, by how soon these are rescued.

use anyhow::Result;

use super::Section;
use super::program;
use super::report::{self, Table};
use super::samples::Samples;

/// What is set, and the program's arguments for it.
const SETTINGS: [(&str, [&str; 4]); 7] = [
    ("no long calls", ["--burn", "0", "--rescue", "10000"]),
    ("never", ["--burn", "5000", "--rescue", "0"]),
    ("10 ms (default)", ["--burn", "5000", "--rescue", "10000"]),
    ("4 ms", ["--burn", "5000", "--rescue", "4000"]),
    ("2 ms", ["--burn", "5000", "--rescue", "2000"]),
    ("1 ms", ["--burn", "5000", "--rescue", "1000"]),
    ("0.5 ms", ["--burn", "5000", "--rescue", "500"]),
];
/// Fields of the result line, as columns.
const FIGURES: [(&str, &str); 4] = [
    ("p50_ms", "p50 ms"),
    ("p99_ms", "p99 ms"),
    ("p999_ms", "p99.9 ms"),
    ("rescues", "rescues in a run"),
];

pub(crate) fn run(rounds: u32) -> Result<Section> {
    let mut all: [[Samples; FIGURES.len()]; SETTINGS.len()] = Default::default();
    let mut failures = Vec::new();
    for round in 1..=rounds {
        for ((setting, args), samples) in SETTINGS.iter().zip(&mut all) {
            eprintln!("==> long tail, round {round} of {rounds}: {setting}");
            if let Err(error) = measure(args, samples) {
                failures.push(format!("round {round}, {setting}: {error:#}"));
            }
        }
    }
    let columns = FIGURES.iter().map(|(_, column)| *column);
    let head: Vec<&str> = ["others are rescued after"]
        .into_iter()
        .chain(columns)
        .collect();
    let mut table = Table::new(&head);
    for ((setting, _), samples) in SETTINGS.iter().zip(&all) {
        let cells = samples.iter().map(Samples::spread);
        table.row([(*setting).to_owned()].into_iter().chain(cells).collect());
    }
    let text = format!(
        "## The long tail\n\n4,000 calls a second on two workers, offered by the clock and timed from when they were due; \
         every hundredth burns 5 ms of processor time. Shown are the others. They have started, so they belong to their \
         worker; after the time shown a spare thread takes over the worker of one that keeps it.\n\n{}\n{}",
        table.text(),
        report::failures(&failures),
    );
    Ok(Section {
        text,
        plots: Vec::new(),
        targets: Vec::new(),
    })
}

fn measure(args: &[&str], samples: &mut [Samples]) -> Result<()> {
    // On all cores: its workers are two.
    let mut command = std::process::Command::new(program::release_binary("bench_long_tail")?);
    let result = program::start(command.args(args))?.result()?;
    for ((field, _), samples) in FIGURES.iter().zip(samples) {
        samples.push(program::field(&result, field)?);
    }
    Ok(())
}
