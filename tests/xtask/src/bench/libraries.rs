//! Calls through other people's libraries: a thousand at once to servers that answer after 100 ms, from
//! coroutines of one worker and from as many threads.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Section;
use super::program::{self, CLIENT_CORE, SERVER_CORE};
use super::report::{self, Table};
use super::samples::Samples;
use super::targets::{Bar, Target};
use crate::packages;

/// One kind of call.
struct Case {
    what: &'static str,
    /// The name of the load, and which server it asks.
    load: &'static str,
    server: &'static str,
    /// What it is called among the targets, where it is one.
    target: Option<&'static str>,
}

const CASES: [Case; 6] = [
    Case {
        what: "redis",
        load: "redis",
        server: "redis",
        target: Some("1,000 redis calls to servers that take 100 ms, one worker"),
    },
    Case {
        what: "mysql, logged in",
        load: "mysql",
        server: "mysql",
        target: Some("1,000 mysql calls to servers that take 100 ms, one worker"),
    },
    Case {
        what: "ureq",
        load: "ureq",
        server: "http",
        target: Some("1,000 ureq calls to servers that take 100 ms, one worker"),
    },
    Case {
        what: "ureq in rustls",
        load: "ureq-tls",
        server: "https",
        target: None,
    },
    Case {
        what: "libcurl",
        load: "curl",
        server: "http",
        target: Some("1,000 libcurl calls to servers that take 100 ms, one worker"),
    },
    Case {
        what: "redis on tokio, a runtime each",
        load: "tokio",
        server: "redis",
        target: Some("1,000 tokio-based calls to servers that take 100 ms, one worker"),
    },
];

/// Name in the report, and program. Ratios are to the first.
const SIDES: [(&str, &str); 2] = [
    ("1,000 threads", "thread_libraries"),
    ("rpc-core, 1 worker", "examples/bench_libraries"),
];

const FIGURES: [&str; 2] = ["seconds", "open_seconds"];

/// Samples by case, side and figure.
type All = BTreeMap<(usize, usize, usize), Samples>;

pub(crate) fn run(rounds: u32) -> Result<Section> {
    let (mut all, mut failures) = (All::new(), Vec::new());
    packages::ensure()?;
    let servers = Servers::start()?;
    for round in 1..=rounds {
        for (index, case) in CASES.iter().enumerate() {
            for (side, (name, program)) in SIDES.iter().enumerate() {
                eprintln!(
                    "==> libraries, round {round} of {rounds}: {}, {name}",
                    case.what
                );
                match servers.measure(case, program) {
                    Ok(values) => {
                        for (figure, value) in values.into_iter().enumerate() {
                            all.entry((index, side, figure)).or_default().push(value);
                        }
                    }
                    Err(error) => {
                        failures.push(format!("round {round}, {}, {name}: {error:#}", case.what));
                    }
                }
            }
        }
    }
    Ok(Section {
        text: text(&all, &failures),
        plots: Vec::new(),
        targets: targets(&all),
    })
}

/// The running servers. Dropping this ends them.
struct Servers {
    child: Child,
    listening: Value,
}

impl Servers {
    fn start() -> Result<Self> {
        let mut command = program::release("library_servers", SERVER_CORE)?;
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut servers = Self {
            child: child.with_context(|| format!("cannot start {command:?}"))?,
            listening: Value::Null,
        };
        let stdout = servers.child.stdout.take();
        let stdout = stdout.expect("stdout is piped: set above");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        servers.listening = serde_json::from_str(&line)
            .with_context(|| format!("{command:?} did not come up: its message is above"))?;
        Ok(servers)
    }

    fn listening(&self, name: &str) -> Result<&str> {
        let value = self.listening.get(name).and_then(Value::as_str);
        value.with_context(|| format!("library_servers did not name `{name}`"))
    }

    /// Milliseconds for the calls, and for opening the connections.
    fn measure(&self, case: &Case, side: &str) -> Result<[f64; 2]> {
        let mut command = program::release(side, CLIENT_CORE)?;
        command.args([case.load, "--addr", self.listening(case.server)?]);
        command.args(["--certificate", self.listening("certificate")?]);
        let result = program::start(&mut command)?.result()?;
        let failed = program::field(&result, "failed")?;
        if failed > 0.0 {
            bail!("{failed} failed");
        }
        let [calls, open] = FIGURES.map(|name| program::field(&result, name));
        Ok([calls? * 1e3, open? * 1e3])
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // The end of its input ends it, and it its servers; waiting fails only where it is reaped.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The calls themselves; opening connections, with log-in or TLS, is reported and has no target.
fn targets(all: &All) -> Vec<Target> {
    let mut targets = Vec::new();
    for (index, case) in CASES.iter().enumerate() {
        let Some(what) = case.target else { continue };
        let ours = all.get(&(index, 1, 0)).and_then(Samples::median);
        let word = "One core made all of the calls, and another all of the answers.";
        targets.push(Target::new(what, ours, "ms", Bar::AtMost(300.0), word));
    }
    targets
}

fn text(all: &All, failures: &[String]) -> String {
    let nothing = Samples::default();
    let mut table = Table::new(&[
        "library",
        "side",
        "ms for the calls (least–greatest)",
        "of threads",
        "ms to open the connections",
        "of threads",
    ]);
    for (index, case) in CASES.iter().enumerate() {
        for (side, (name, _)) in SIDES.iter().enumerate() {
            let mut cells = vec![case.what.into(), (*name).into()];
            for figure in 0..FIGURES.len() {
                let own = all.get(&(index, side, figure)).unwrap_or(&nothing);
                let threads = all.get(&(index, 0, figure)).unwrap_or(&nothing);
                cells.extend([own.spread(), own.ratio(threads)]);
            }
            table.row(cells);
        }
    }
    format!(
        "## Libraries\n\n1,000 calls at once through unmodified libraries, to servers that answer after 100 ms: real redis-server and \
         MariaDB, HTTP with a thread for each connection. The connections are opened before the clock of the calls starts; opening them, \
         log-in and TLS handshakes included, is timed apart. Servers on one core, callers on the other.\n\n{}\n{}",
        table.text(),
        report::failures(failures),
    )
}
