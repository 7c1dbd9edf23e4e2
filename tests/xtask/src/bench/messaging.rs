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
use super::samples::{Samples, number};
use super::targets::{Bar, Target};
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
    let benches = Benches::run(&mut failures);
    let text = format!(
        "## Messaging\n\n`wechat-demo replay --limit {LINES} --json` on {what}; the cluster, every terminal and the checks share the machine. \
         A message is acknowledged after two storage processes have synced it.\n\n{}\n\
         `wechat-demo bench messages` offers a fixed rate to terminals that keep their store in memory; latencies count from when a message was due.\n\n{}\n\
         `bench fanout`, `bench numbers` and `bench connections`; the kernel's share is its slabs' growth.\n\n{}\n{}",
        table.text(),
        benches.table().text(),
        benches.others().text(),
        report::failures(&failures),
    );
    Ok(Section {
        text,
        plots: Vec::new(),
        targets: [benches.targets(), benches.other_targets()]
            .into_iter()
            .flatten()
            .collect(),
    })
}

/// What `wechat-demo bench` says: open-loop load, terminals in memory, everything on this machine.
struct Benches {
    /// The rate that is aimed at.
    full: Value,
    /// So little that nothing queues.
    low: Value,
    /// Bytes of TCP payload.
    wire: Value,
    /// A group of 500.
    fanout: Value,
    /// Numbers, and a shard of a million people.
    numbers: Value,
    /// Idle links, by how they travel.
    links: Value,
}

/// Messages a second that are offered: a little above what is aimed at, since the tail of the last counts as time.
const RATE: &str = "10100";

impl Benches {
    fn run(failures: &mut Vec<String>) -> Self {
        let mut bench = |arguments: &[&str]| {
            eprintln!("==> messaging, bench {}", arguments.join(" "));
            bench(arguments).unwrap_or_else(|error| {
                failures.push(format!("bench {}: {error:#}", arguments.join(" ")));
                Value::Null
            })
        };
        Self {
            full: bench(&["messages", "--rate", RATE]),
            low: bench(&["messages", "--rate", "50", "--pairs", "8"]),
            wire: bench(&["wire"]),
            fanout: bench(&["fanout"]),
            numbers: bench(&["numbers"]),
            links: bench(&["connections"]),
        }
    }

    /// Figures beside those that are aimed at.
    fn table(&self) -> Table {
        let mut table = Table::new(&["figure", "10,100/s offered", "50/s offered"]);
        for (what, pointer) in [
            ("offered/s", "/offered_per_s"),
            ("acknowledged/s", "/acked_per_s"),
            ("due to acknowledged, p99 ms", "/due_to_acked/p99_ms"),
            (
                "due to applied by the receiver, p99 ms",
                "/due_to_applied/p99_ms",
            ),
            (
                "processor µs a message, servers",
                "/servers_cpu_us_per_message",
            ),
            ("processor µs a message, load", "/load_cpu_us_per_message"),
            ("messages/s that a fresh device syncs", "/sync_items_per_s"),
            ("disk alone before the run, p99 ms (f)", "/fdatasync/p99_ms"),
        ] {
            let shown = |result| figure(result, pointer).map_or_else(|| "–".to_owned(), number);
            table.row(vec![what.to_owned(), shown(&self.full), shown(&self.low)]);
        }
        table
    }

    /// The same for what has figures of one run alone.
    fn others(&self) -> Table {
        let mut table = Table::new(&["figure", ""]);
        let mut row = |what: &str, result, pointer| {
            let shown = figure(result, pointer).map_or_else(|| "–".to_owned(), number);
            table.row(vec![what.to_owned(), shown]);
        };
        for (what, pointer) in [
            (
                "5/s to a group of 500: due to applied by each, p99 ms",
                "/due_to_applied/p99_ms",
            ),
            ("due to applied by the last, p50 ms", "/due_to_all/p50_ms"),
            ("due to applied by the last, p99 ms", "/due_to_all/p99_ms"),
            ("processor µs a copy, servers", "/servers_cpu_us_per_copy"),
            ("processor µs a copy, load", "/load_cpu_us_per_copy"),
        ] {
            row(what, &self.fanout, pointer);
        }
        for (what, pointer) in [
            ("numbers given a second, one thread", "/numbers_per_s"),
            ("the slowest of 10^7, µs", "/each_max_us"),
            ("limits raised on the disk meanwhile", "/persisted"),
            (
                "a shard of 10^6 people started again: a number after ms",
                "/restart_ms",
            ),
        ] {
            row(what, &self.numbers, pointer);
        }
        for (what, pointer) in [
            ("idle links, plain", "/plain/links"),
            ("KiB each, access", "/plain/access_kib"),
            ("KiB each, the kernel for both ends", "/plain/kernel_kib"),
            ("idle links, WebSocket", "/websocket/links"),
            ("KiB each, access", "/websocket/access_kib"),
            (
                "KiB each, the kernel for both ends",
                "/websocket/kernel_kib",
            ),
            ("idle links, TLS", "/tls/links"),
            ("KiB each, access", "/tls/access_kib"),
            ("KiB each, the kernel for both ends", "/tls/kernel_kib"),
        ] {
            row(what, &self.links, pointer);
        }
        table
    }

    fn targets(&self) -> Vec<Target> {
        let both_ways = [
            figure(&self.wire, "/nothing_up"),
            figure(&self.wire, "/nothing_down"),
        ];
        let [up, down] = both_ways;
        vec![
            Target::new(
                "durable 1:1 messages, two synced copies",
                figure(&self.full, "/acked_per_s"),
                "messages/s",
                Bar::AtLeast(10_000.0),
                "Servers and load share two cores, and each message costs them the processor time shown with the figures.",
            ),
            Target::new(
                "their p99 (20 ms + 8 f)",
                figure(&self.full, "/due_to_acked/p99_ms"),
                "ms",
                disk_and(&self.full, 20.0, 8.0),
                "More is offered than two cores carry, so that messages queue; latencies count from when they were due.",
            ),
            Target::new(
                "send → notify → synced, 50/s, p99 (5 ms + 4 f)",
                figure(&self.low, "/due_to_applied/p99_ms"),
                "ms",
                disk_and(&self.low, 5.0, 4.0),
                "A message waits for four syncs in a row: sender's and receiver's home, each in two copies.",
            ),
            Target::new(
                "\"anything new?\" – nothing, the longer way",
                up.zip(down).map(|(up, down)| up.max(down)),
                "bytes",
                Bar::AtMost(64.0),
                "Header, key and the answer's own key.",
            ),
            Target::new(
                "delivered 20-byte text, both ends, TLS off",
                figure(&self.wire, "/message"),
                "bytes",
                Bar::AtMost(200.0),
                "Three headers of 20 bytes, a client id and the text at both ends are most of it.",
            ),
        ]
    }

    /// Of what was measured by itself.
    fn other_targets(&self) -> Vec<Target> {
        let idle = |what, pointer, most| {
            let word = "What a session, its link and its place in the tables take, and the allocator's share.";
            Target::new(
                what,
                figure(&self.links, pointer),
                "KiB",
                Bar::AtMost(most),
                word,
            )
        };
        vec![
            idle("idle link, in user space, plain", "/plain/access_kib", 3.0),
            idle(
                "idle link, in user space, WebSocket",
                "/websocket/access_kib",
                6.0,
            ),
            idle("idle link, in user space, TLS", "/tls/access_kib", 20.0),
            Target::new(
                "a group of 500 at 5 sends/s: all notified, p99 (60 ms + 4 f)",
                figure(&self.fanout, "/due_to_all/p99_ms"),
                "ms",
                disk_and(&self.fanout, 60.0, 4.0),
                "Each message is 500 items in 8 shards, and as many pushes and phones on this machine.",
            ),
            Target::new(
                "numbers: of 10^7 given, waited for a persist",
                figure(&self.numbers, "/waited"),
                "numbers",
                Bar::AtMost(0.0),
                "A limit was raised too late.",
            ),
            Target::new(
                "a shard of 10^6 users serves after a restart",
                figure(&self.numbers, "/restart_ms"),
                "ms",
                Bar::AtMost(1_000.0),
                "The engine reads its journal, and each shard the entries of its log that are kept.",
            ),
        ]
    }
}

/// So many milliseconds, and so many times what the disk took in the same run.
fn disk_and(result: &Value, base: f64, times: f64) -> Bar {
    let f = figure(result, "/fdatasync/p99_ms");
    Bar::AtMost(f.map_or(f64::NAN, |f| base + times * f))
}

fn figure(result: &Value, pointer: &str) -> Option<f64> {
    result.pointer(pointer).and_then(Value::as_f64)
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
