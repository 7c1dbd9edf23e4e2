//! Idle links: opened by the ten thousand between processes of this machine, and weighed.
//!
//! Knows:       processes, `/proc`, the hidden subcommands that are the two ends.
//! Does not know: what a link is made of.
//!
//! A process may hold only so many descriptors, so there are several pairs of an access process and one that
//! holds its terminals' ends. Weighed is the access side alone: its resident memory with the links, less
//! without, by the number of links. What the kernel takes for both ends is read from its own counts, which
//! other programs of the machine disturb.

pub(super) mod client;
pub(super) mod server;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::svg;

/// Flags of `bench connections`.
#[derive(Args, Debug)]
pub(crate) struct Flags {
    /// Idle links, over all processes
    #[arg(long, value_name = "N", default_value_t = 60_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    links: u32,
    /// Pairs of processes; each holds its share of the links, and a descriptor for each
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pairs: u32,
    /// What to speak
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "plain,websocket,tls"
    )]
    over: Vec<Over>,
    /// Write a plot as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Make the last line of the output one JSON object
    #[arg(long)]
    json: bool,
}

/// What one way of travelling came to, per link.
#[derive(Debug, Serialize)]
struct Outcome {
    links: u64,
    /// Of the access processes.
    access_kib: f64,
    /// Of both ends.
    kernel_kib: f64,
}

/// How packets travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Over {
    /// The long link on TCP
    Plain,
    /// Inside WebSocket
    Websocket,
    /// Over TLS 1.3
    Tls,
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Websocket => "websocket",
            Self::Tls => "tls",
        })
    }
}

/// Steps in which the links are opened and weighed.
const STEPS: u32 = 10;
/// Descriptors of a process beside its links.
const SPARE: u64 = 200;
/// By now every idle link has given its buffers back.
const SETTLE: Duration = Duration::from_millis(2_500);

/// Memory at one step, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Weight {
    links: u64,
    /// Resident in the access processes.
    user: u64,
    /// The kernel's slabs.
    slab: u64,
}

/// Opens the links and prints what they weigh.
pub(super) fn run(flags: &Flags) -> anyhow::Result<()> {
    let share = flags.links.div_ceil(flags.pairs);
    let limit = descriptors()?;
    if u64::from(share) + SPARE > limit {
        bail!(
            "{share} links a process exceed its {limit} open files; raise `ulimit -n`, or pass more --pairs"
        );
    }
    println!(
        "{} idle links over {} pairs of processes; behind each access process a backend that only answers AUTH\n",
        share * flags.pairs,
        flags.pairs
    );
    println!("over        links   access, KiB/link   kernel both ends, KiB/link");
    let (mut series, mut outcomes) = (Vec::new(), BTreeMap::new());
    for over in &flags.over {
        let weights = weigh(*over, flags.pairs, share)?;
        let (first, last) = (weights[0], weights[weights.len() - 1]);
        let per_link =
            |more: u64, less: u64| more.saturating_sub(less) as f64 / 1024.0 / last.links as f64;
        let outcome = Outcome {
            links: last.links,
            access_kib: per_link(last.user, first.user),
            kernel_kib: per_link(last.slab, first.slab),
        };
        println!(
            "{:<10} {:>6} {:>18.2} {:>28.1}",
            over.to_string(),
            outcome.links,
            outcome.access_kib,
            outcome.kernel_kib
        );
        outcomes.insert(over.to_string(), outcome);
        let mib = weights
            .iter()
            .map(|weight| weight.user.saturating_sub(first.user) as f64 / 1048576.0);
        series.push((over.to_string(), mib.collect::<Vec<f64>>()));
    }
    if let Some(path) = &flags.svg {
        let series: Vec<_> = series
            .iter()
            .map(|(name, mib)| (name.as_str(), mib.clone()))
            .collect();
        let last = format!("{} links", share * flags.pairs);
        let plot = svg::lines(
            "Resident memory of the access processes, MiB",
            &last,
            &series,
        );
        fs::write(path, plot).with_context(|| format!("cannot write {}", path.display()))?;
        println!("\nplot: {}", path.display());
    }
    if flags.json {
        println!("{}", serde_json::to_string(&outcomes)?);
    }
    Ok(())
}

/// Opens `share` links in each of `pairs`, step by step; the weight before and after each step.
fn weigh(over: Over, pairs: u32, share: u32) -> anyhow::Result<Vec<Weight>> {
    let dir = tempfile::tempdir().context("a directory for the certificate")?;
    let certificate = dir.path().join("certificate.pem");
    let mut all = (0..pairs)
        .map(|_| Pair::start(over, share, &certificate))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut weights = Vec::new();
    for step in 0..=STEPS {
        let links = u64::from(share) * u64::from(step) / u64::from(STEPS);
        for pair in &mut all {
            pair.open(links)?;
        }
        std::thread::sleep(SETTLE);
        let user = all
            .iter()
            .map(Pair::resident)
            .sum::<anyhow::Result<u64>>()?;
        weights.push(Weight {
            links: links * u64::from(pairs),
            user,
            slab: kib(Path::new("/proc/meminfo"), "Slab:")? * 1024,
        });
    }
    Ok(weights)
}

/// An access process and the one that holds its terminals' ends.
struct Pair {
    server: Child,
    client: Child,
    /// Takes how many links are to be open; answers when they are.
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Pair {
    fn start(over: Over, share: u32, certificate: &Path) -> anyhow::Result<Self> {
        let binary = std::env::current_exe().context("the path of this program")?;
        let over = over.to_string();
        let mut server = Command::new(&binary)
            .args([
                "bench",
                "connections-server",
                "--exit-with-parent",
                "--links",
            ])
            .args([&share.to_string(), "--over", &over, "--certificate"])
            .arg(certificate)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start an access process")?;
        let mut address = String::new();
        let said = server.stdout.take().context("its output is piped")?;
        BufReader::new(said).read_line(&mut address)?;
        let mut client = Command::new(&binary)
            .args(["bench", "connections-client", "--address", address.trim()])
            .args(["--over", &over, "--certificate"])
            .arg(certificate)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the terminals")?;
        let orders = client.stdin.take().context("its input is piped")?;
        let answers = BufReader::new(client.stdout.take().context("its output is piped")?);
        Ok(Self {
            server,
            client,
            orders,
            answers,
        })
    }

    fn open(&mut self, links: u64) -> anyhow::Result<()> {
        writeln!(self.orders, "{links}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        if answer.trim() != links.to_string() {
            bail!("the terminals opened {:?} of {links} links", answer.trim());
        }
        Ok(())
    }

    fn resident(&self) -> anyhow::Result<u64> {
        let status = format!("/proc/{}/status", self.server.id());
        Ok(kib(Path::new(&status), "VmRSS:")? * 1024)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for child in [&mut self.client, &mut self.server] {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The number behind `name` in a file of `/proc`, in KiB.
fn kib(path: &Path, name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    let number = number.and_then(|number| number.parse().ok());
    number.with_context(|| format!("{} has no {name}", path.display()))
}

/// Open files that this process may have.
fn descriptors() -> anyhow::Result<u64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Raises the limit of open files as far as it goes.
fn raise_descriptors() -> anyhow::Result<()> {
    let resource = rustix::process::Resource::Nofile;
    let mut limit = rustix::process::getrlimit(resource);
    limit.current = limit.maximum;
    rustix::process::setrlimit(resource, limit).context("raising the limit of open files")
}
