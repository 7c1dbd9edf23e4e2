//! `cargo xtask bench`: ours and the peers in the same run, interleaved, each side its own binary.
//!
//! Knows: which programs to compare, on which cores, in which order; how to report.
//! Does not know: how any of them works. Peers never link rpc-core (its hooks would change them),
//! so they are built apart.
//!
//! A benchmark is a number, never a test: nothing fails because something was slow. A run that
//! failed is reported as failed.

mod idle;
mod libraries;
mod long_tail;
mod malloc;
mod memory;
mod messaging;
mod plot;
mod program;
mod report;
mod rpc;
mod rpc_tail;
mod runtime;
mod samples;
mod sockets;
mod targets;

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::steps;

pub(crate) use program::{release_binary, target_dir};
pub(crate) use report::machine;

#[derive(Args)]
pub(crate) struct Options {
    /// What to measure; all when left out
    #[arg(value_enum)]
    what: Option<What>,
    /// Seconds each load runs
    #[arg(long, default_value_t = 3.0, value_parser = load_seconds)]
    seconds: f64,
    /// How often each side runs; the report shows medians, least and greatest
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Also write the report to docs/bench.md, to be committed
    #[arg(long)]
    commit_report: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Switch, spawn and join, parked coroutines, slow calls of libraries; against tokio and threads
    Runtime,
    /// A thousand to a million coroutines that wait at once, in both identities; against tokio
    Memory,
    /// Hooked echo with 1,000 connections and with 4 streaming, a hook's own cost; against tokio
    Sockets,
    /// Calls in flight, connections, large messages, long tails, memory; against tonic, tarpc and a bare loop
    Rpc,
    /// A chat log replayed through a cluster of its own; against the disk's own latency
    Messaging,
}

/// One benchmark's part of the report.
pub(crate) struct Section {
    /// Markdown, from its `##` heading on.
    text: String,
    /// File name and SVG text of the plots the text shows.
    plots: Vec<(String, String)>,
    /// What was aimed at; the report shows those of all sections together.
    targets: Vec<targets::Target>,
}

impl Section {
    /// A part whose measurement as a whole failed: the others are reported all the same.
    fn or_failed(name: &str, section: Result<Self>) -> Self {
        section.unwrap_or_else(|error| Self {
            text: format!("## {name}\n\nNot measured: {error:#}\n"),
            plots: Vec::new(),
            targets: Vec::new(),
        })
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let wanted = |what| options.what.is_none() || options.what == Some(what);
    build(options)?;
    let conditions = report::conditions(options.rounds, options.seconds);
    let started = Instant::now();
    let mut sections = Vec::new();
    if wanted(What::Runtime) {
        sections.push(runtime::run(options.rounds)?);
        sections.push(long_tail::run(options.rounds)?);
        sections.push(malloc::run(options.rounds)?);
        let section = libraries::run(options.rounds);
        sections.push(Section::or_failed("Libraries", section));
    }
    if wanted(What::Memory) {
        sections.push(memory::run(options.rounds)?);
    }
    if wanted(What::Sockets) {
        sections.push(sockets::run(options.rounds, options.seconds)?);
    }
    if wanted(What::Rpc) {
        sections.push(rpc::run(options.rounds, options.seconds));
        sections.push(rpc_tail::run(options.rounds, options.seconds));
        sections.push(idle::run(options.rounds));
    }
    if wanted(What::Messaging) {
        let section = messaging::run(options.rounds);
        sections.push(Section::or_failed("Messaging", section));
    }
    let text = report::whole(&conditions, started.elapsed(), &sections);
    println!("\n{text}");
    write(&target_dir()?.join("bench"), "report.md", &text, &sections)?;
    if options.commit_report {
        write(&steps::root().join("docs"), "bench.md", &text, &sections)?;
    }
    Ok(())
}

/// Release builds of both sides, in two builds so that no feature of one reaches the other.
fn build(options: &Options) -> Result<()> {
    let wanted = |what| options.what.is_none() || options.what == Some(what);
    if options.what != Some(What::Messaging) {
        let ours = [
            "bench_runtime",
            "bench_long_tail",
            "bench_malloc",
            "million",
            "bench_sockets",
            "bench_echo_server",
            "bench_echo_client",
            "bench_tail_client",
            "bench_idle",
        ];
        let mut build = steps::cargo(&["build", "--release", "--package", "examples"]);
        steps::step(build.args(ours.iter().flat_map(|name| ["--bin", name])))?;
        steps::step(&mut steps::cargo(&[
            "build",
            "--release",
            "--package",
            "peers",
        ]))?;
    }
    if wanted(What::Runtime) {
        steps::step(&mut steps::cargo(&[
            "build",
            "--release",
            "--package",
            "tests",
            "--example",
            "bench_libraries",
        ]))?;
    }
    if wanted(What::Messaging) {
        steps::step(&mut steps::cargo(&[
            "build",
            "--release",
            "--package",
            "wechat-demo",
        ]))?;
    }
    Ok(())
}

fn write(folder: &Path, name: &str, text: &str, sections: &[Section]) -> Result<()> {
    let plots = folder.join("plots");
    fs::create_dir_all(&plots).with_context(|| format!("cannot make {}", plots.display()))?;
    let files = sections.iter().flat_map(|s| &s.plots);
    let files = files.map(|(file, svg)| (plots.join(file), svg.as_str()));
    for (path, content) in files.chain([(folder.join(name), text)]) {
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    eprintln!("==> wrote {}", folder.join(name).display());
    Ok(())
}

fn load_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.5..=60.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds between 0.5 and 60".to_owned()),
    }
}
