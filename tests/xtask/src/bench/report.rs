//! The report as Markdown: under which conditions, tables, what failed.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Duration;

use super::Section;
use super::program;
use super::targets;
use crate::steps;

/// A Markdown table, columns padded so that it also reads as text.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self {
            rows: vec![columns.iter().map(|&c| c.to_owned()).collect()],
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(
            cells.len(),
            self.rows[0].len(),
            "a row has a cell for every column"
        );
        self.rows.push(cells);
    }

    pub(crate) fn text(&self) -> String {
        let width = |column: usize| self.rows.iter().map(|r| r[column].chars().count()).max();
        let widths: Vec<usize> = (0..self.rows[0].len())
            .map(|c| width(c).unwrap_or(0))
            .collect();
        let mut out = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            let padded = row
                .iter()
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:width$}"));
            let line = padded.collect::<Vec<_>>().join(" | ");
            writeln!(out, "| {line} |").expect("a String takes any text");
            if index == 0 {
                let rule = widths
                    .iter()
                    .map(|&w| "-".repeat(w))
                    .collect::<Vec<_>>()
                    .join(" | ");
                writeln!(out, "| {rule} |").expect("a String takes any text");
            }
        }
        out
    }
}

/// When and on what; taken before the first run.
pub(crate) fn machine() -> String {
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program)
            .args(args)
            .current_dir(steps::root())
            .output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
        text.ok()
            .filter(|t| !t.is_empty())
            .unwrap_or_else(|| "unknown".to_owned())
    };
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("unknown");
    format!(
        "- date: {} · commit: {}\n- machine: {}, {cores} cores, Linux {} · {}\n- load average before the first run: {load}\n",
        said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        said("git", &["describe", "--always", "--dirty"]),
        model.unwrap_or("processor unknown"),
        said("uname", &["-r"]),
        said("rustc", &["--version"]),
    )
}

/// When, on what, how often; taken before the first run.
pub(crate) fn conditions(rounds: u32, seconds: f64) -> String {
    let pinned = if program::can_pin() {
        "servers on core 0, clients and single programs on core 1"
    } else {
        "NOT PINNED: taskset or a second core is missing; ratios between rows mean little"
    };
    let machine = machine();
    format!(
        "{machine}- pinning: {pinned}\n- {rounds} rounds, sides interleaved within each; loads of {seconds} s; release builds\n"
    )
}

/// What failed, or that nothing did.
pub(crate) fn failures(failures: &[String]) -> String {
    if failures.is_empty() {
        return "Failed runs: none.\n".to_owned();
    }
    let lines = failures
        .iter()
        .map(|f| format!("- {}\n", f.replace('\n', " ")));
    format!(
        "Failed runs ({}), left out of the figures:\n{}",
        failures.len(),
        lines.collect::<String>()
    )
}

pub(crate) fn whole(conditions: &str, took: Duration, sections: &[Section]) -> String {
    let parts = sections
        .iter()
        .map(|s| format!("\n{}", s.text))
        .collect::<String>();
    let targets = targets::text(sections.iter().flat_map(|s| &s.targets));
    let minutes = took.as_secs().div_ceil(60);
    format!(
        "# Benchmark report\n\nWritten by `cargo xtask bench`.\n\n{conditions}- took {minutes} min\n{targets}{parts}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_a_rule_and_even_columns() {
        let mut table = Table::new(&["a", "long name"]);
        table.row(vec!["wide × cell".to_owned(), "1".to_owned()]);
        let expected = "| a           | long name |\n| ----------- | --------- |\n| wide × cell | 1         |\n";
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn failed_runs_are_listed() {
        assert!(failures(&["round 1: no\nanswer".to_owned()]).contains("(1)"));
        assert_eq!(failures(&[]), "Failed runs: none.\n");
    }
}
