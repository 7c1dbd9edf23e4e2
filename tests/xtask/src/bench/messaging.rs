//! The messaging backend: a chat log replayed through real terminals against a cluster of separate
//! processes, beside what the disk does by itself in the same minute.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Section;
use super::program;
use super::report::{self, Table};
use super::samples::Samples;
use crate::steps;

/// Lines replayed in a round.
const LINES: usize = 5_000;
/// Appends whose latency is the disk's figure.
const APPENDS: usize = 500;

/// The fields of replay's last line that are reported.
const FIELDS: [&str; 8] = [
    "sent",
    "acked",
    "delivered",
    "lost",
    "duplicated",
    "reordered",
    "p50_ms",
    "p99_ms",
];

pub(crate) fn run(rounds: u32) -> Result<Section> {
    let folder = program::target_dir()?.join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (input, what) = input(&folder)?;
    let (mut failures, mut rates) = (Vec::new(), Samples::default());
    let mut fields = FIELDS.map(|_| Samples::default());
    let (mut disk_p50, mut disk_p99) = (Samples::default(), Samples::default());
    for round in 1..=rounds {
        eprintln!("==> messaging, round {round} of {rounds}");
        let (p50, p99) = disk(&folder)?;
        disk_p50.push(p50);
        disk_p99.push(p99);
        if let Err(error) = measure(&input, &mut fields, &mut rates) {
            failures.push(format!("round {round}: {error:#}"));
        }
    }
    let mut table = Table::new(&["figure", "median (least–greatest)"]);
    for (name, samples) in FIELDS.iter().zip(&fields) {
        table.row(vec![(*name).to_owned(), samples.spread()]);
    }
    table.row(vec![
        "messages/s, the cluster's start and the final checks included".to_owned(),
        rates.spread(),
    ]);
    table.row(vec![
        "disk alone: 4 KiB append + fdatasync, p50 ms".to_owned(),
        disk_p50.spread(),
    ]);
    table.row(vec![
        "disk alone: 4 KiB append + fdatasync, p99 ms".to_owned(),
        disk_p99.spread(),
    ]);
    let targets = targets(&mut failures);
    let text = format!(
        "## Messaging\n\n`wechat-demo replay --limit {LINES} --json` on {what}; the cluster, every terminal and the checks share the machine. \
         A message is acknowledged after two storage processes have synced it.\n\n{}\n{targets}\n{}",
        table.text(),
        report::failures(&failures),
    );
    Ok(Section {
        text,
        plots: Vec::new(),
    })
}

/// Every target beside what was measured: open-loop load, terminals in memory, everything on this machine.
fn targets(failures: &mut Vec<String>) -> String {
    let mut bench = |arguments: &[&str]| {
        eprintln!("==> messaging, bench {}", arguments.join(" "));
        let result = bench(arguments);
        result.unwrap_or_else(|error| {
            failures.push(format!("bench {}: {error:#}", arguments.join(" ")));
            Value::Null
        })
    };
    let full = bench(&["messages", "--rate", "10000"]);
    let low = bench(&["messages", "--rate", "50", "--pairs", "8"]);
    let wire = bench(&["wire"]);
    format!(
        "f is the p99 of an append of 4 KiB and fdatasync before the same run. Latencies count from the time a message was due.\n\n{}",
        beside(&full, &low, &wire).text()
    )
}

/// Targets that this benchmark does not measure.
const ELSEWHERE: [(&str, &str); 3] = [
    (
        "idle long link, user space, TLS off and on; WebSocket",
        "3 KiB, 20 KiB; 6 KiB",
    ),
    (
        "group of 500 at 5 sends/s: all notified",
        "p99 at most 60 ms + 4 f",
    ),
    (
        "numbers: waits for a persist in 10^7; a shard of 10^6 users after a restart",
        "none; 1 s",
    ),
];

/// The table: target, measured.
fn beside(full: &Value, low: &Value, wire: &Value) -> Table {
    let number = |result: &Value, pointer: &str| {
        let value = result.pointer(pointer).and_then(Value::as_f64);
        value.map_or_else(|| "failed".to_owned(), |value| format!("{value:.1}"))
    };
    let mut table = Table::new(&["what", "target", "measured"]);
    let mut row = |what: &str, target: String, measured: String| {
        table.row(vec![what.to_owned(), target, measured])
    };
    let disk = |result: &Value, base: f64, times: f64| {
        let f = result.pointer("/fdatasync/p99_ms").and_then(Value::as_f64);
        f.map_or_else(String::new, |f| format!("{:.1} ms", base + times * f))
    };
    row(
        "durable 1:1 messages, two synced copies",
        format!(
            "10,000/s, p99 at most 20 ms + 8 f = {}",
            disk(full, 20.0, 8.0)
        ),
        format!(
            "offered {}/s, acknowledged {}/s, p99 {} ms; f = {} ms; processor time a message: servers {} µs, load {} µs",
            number(full, "/offered_per_s"),
            number(full, "/acked_per_s"),
            number(full, "/due_to_acked/p99_ms"),
            number(full, "/fdatasync/p99_ms"),
            number(full, "/servers_cpu_us_per_message"),
            number(full, "/load_cpu_us_per_message"),
        ),
    );
    row(
        "send, notified, applied at the other phone, 50/s",
        format!("p99 at most 5 ms + 4 f = {}", disk(low, 5.0, 4.0)),
        format!("p99 {} ms", number(low, "/due_to_applied/p99_ms")),
    );
    row(
        "\"anything new?\" – nothing",
        "at most 64 bytes of TCP payload each way".to_owned(),
        format!(
            "{} up, {} down",
            number(wire, "/nothing_up"),
            number(wire, "/nothing_down")
        ),
    );
    row(
        "delivered 20-byte text, both ends, TLS off",
        "at most 200 bytes of TCP payload".to_owned(),
        format!("{} bytes", number(wire, "/message")),
    );
    row(
        "a fresh device syncs",
        "–".to_owned(),
        format!("{} messages/s", number(full, "/sync_items_per_s")),
    );
    for (what, target) in ELSEWHERE {
        row(what, target.to_owned(), "not measured here".to_owned());
    }
    table
}

fn bench(arguments: &[&str]) -> Result<Value> {
    let program = program::target_dir()?.join("release/wechat-demo");
    let mut command = std::process::Command::new(program);
    command.arg("bench").args(arguments).arg("--json");
    program::start(&mut command)?.result()
}

fn measure(input: &Path, fields: &mut [Samples; 8], rates: &mut Samples) -> Result<()> {
    let replay = program::target_dir()?.join("release/wechat-demo");
    let mut command = std::process::Command::new(replay);
    command
        .arg("replay")
        .arg(input)
        .args(["--limit", &LINES.to_string(), "--json"]);
    let started = Instant::now();
    let result = program::start(&mut command)?.result()?;
    rates.push(program::field(&result, "delivered")? / started.elapsed().as_secs_f64());
    for (samples, name) in fields.iter_mut().zip(FIELDS) {
        samples.push(program::field(&result, name)?);
    }
    Ok(())
}

/// The recorded chat beside the checkout, or one made up by arithmetic.
fn input(folder: &Path) -> Result<(PathBuf, &'static str)> {
    let recorded = steps::root().join("../shared/data/chat/chitchat.tsv.gz");
    if recorded.exists() {
        return Ok((recorded, "recorded messages between real people"));
    }
    let path = folder.join("made-up.tsv");
    let mut text = String::new();
    for line in 0..LINES {
        // Two primes walk through a hundred people without a pattern shorter than the file.
        let (from, to) = (line * 7919 % 100, (line * 104_729 + 1) % 100);
        let to = if to == from { (to + 1) % 100 } else { to };
        writeln!(text, "{line}\tp{from}\tp{to}\tmessage {line}").expect("a String takes any text");
    }
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok((
        path,
        "made-up messages between 100 people (the recorded chat is absent)",
    ))
}

/// p50 and p99 in milliseconds of an append of 4 KiB and its fdatasync, here and now.
fn disk(folder: &Path) -> Result<(f64, f64)> {
    let path = folder.join("disk-probe");
    let mut file =
        File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut took = Vec::with_capacity(APPENDS);
    for _ in 0..APPENDS {
        let started = Instant::now();
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        took.push(started.elapsed().as_secs_f64() * 1e3);
    }
    fs::remove_file(&path)?;
    took.sort_by(f64::total_cmp);
    Ok((took[APPENDS / 2], took[APPENDS * 99 / 100]))
}
