//! `cargo xtask prove`: the long runs that show that nothing is lost, and their report, docs/proof.md.
//!
//! Knows: which runs, how each tells its judgement, where the recorded log lies.
//! Does not know: what is judged; the programs judge themselves and say so by their exit status.
//!
//! A run that shows too little (exit status 2) is reported as that, never as passed.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{bench, packages, steps};

#[derive(Args)]
pub(crate) struct Options {
    /// Short runs of each kind, to try the command itself; the report goes to target/ alone
    #[arg(long)]
    quick: bool,
    /// Also the soak of the runtime
    #[arg(long)]
    soak: bool,
    /// Seed of the faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The chat log that is replayed [default: the recorded one beside the checkout]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// The recorded log.
const LOG: &str = "../shared/data/chat/chitchat.tsv.gz";
/// Lines of a part, and of anything quick.
const PART: &str = "20000";
const QUICK: &str = "500";
/// Lines a second of anything quick.
const QUICK_RATE: &str = "100";
/// Where the report is committed, and the picture of the faults.
const REPORT: &str = "docs/proof.md";
const PLOT: &str = "docs/plots/chaos.svg";
/// Lines of a run's own last words that the report quotes.
const QUOTED: usize = 14;
/// Longest quoted line, characters.
const WIDTH: usize = 400;

/// One run.
struct Run {
    what: &'static str,
    command: Command,
    /// As a person would type it.
    shown: String,
}

/// What came of it.
struct Outcome {
    what: &'static str,
    shown: String,
    took: Duration,
    verdict: String,
    passed: bool,
    last: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    packages::ensure()?;
    let log = match &options.log {
        Some(log) => log.clone(),
        None => steps::root().join(LOG),
    };
    if !log.exists() {
        bail!(
            "{} is absent: pass --log FILE with a chat log (time, sender, receiver, text a line)",
            log.display()
        );
    }
    let conditions = bench::machine();
    let mut build = vec![
        "build",
        "--release",
        "--package",
        "wechat-demo",
        "--bin",
        "wechat-demo",
    ];
    build.extend(["--package", "libraries", "--bin", "with-mariadb"]);
    if options.soak {
        build.extend(["--package", "examples", "--bin", "soak"]);
    }
    steps::step(&mut steps::cargo(&build))?;
    let out = bench::target_dir()?.join("prove");
    fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let (report, plot) = if options.quick {
        (out.join("proof.md"), out.join("chaos.svg"))
    } else {
        (steps::root().join(REPORT), steps::root().join(PLOT))
    };
    let mut outcomes = Vec::new();
    for run in runs(options, &log, &plot)? {
        let number = outcomes.len() + 1;
        outcomes.push(run.go(&out.join(format!("{number}.txt")))?);
        // After each, so that a run that is cut short leaves what it has shown.
        fs::write(&report, text(&conditions, options, &outcomes))
            .with_context(|| report.display().to_string())?;
    }
    println!("==> {}", report.display());
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    if failed > 0 {
        bail!(
            "{failed} of {} runs did not pass; see {}",
            outcomes.len(),
            report.display()
        );
    }
    Ok(())
}

fn runs(options: &Options, log: &Path, plot: &Path) -> Result<Vec<Run>> {
    let demo = bench::release_binary("wechat-demo")?;
    let demo = demo
        .to_str()
        .context("the target directory's name is no text")?;
    let log = log.to_str().context("the log's name is no text")?;
    let plot = plot.to_str().context("the plot's name is no text")?;
    let (seed, quick) = (options.seed.to_string(), options.quick);
    let kill_every = if quick { "2s" } else { "5s" };
    let replay = |more: &[&str]| -> Vec<String> {
        let head = [
            "replay",
            log,
            "--json",
            "--kill-every",
            kill_every,
            "--seed",
            &seed,
        ];
        head.iter()
            .chain(more)
            .map(|&flag| flag.to_owned())
            .collect()
    };
    // So few lines would be over before anybody is killed.
    let slowly = ["--limit", QUICK, "--rate", QUICK_RATE];
    let (whole, part) = match quick {
        true => (&slowly[..], &slowly[..]),
        false => (&[][..], &["--limit", PART][..]),
    };
    let mysql = ["--engine", "mysql", "--database", "mysql://root@{}/prove"];
    let database = [part, &mysql[..]].concat();
    let minutes = if quick { "0.2" } else { "10" };
    let chaos = [
        "chaos",
        "--seed",
        &seed,
        "--minutes",
        minutes,
        "--plot",
        plot,
    ];
    let mut runs = vec![
        Run::new("replay with kills", demo, &replay(whole)),
        Run::new(
            "replay with kills, store in MariaDB",
            demo,
            &replay(&database),
        )
        .with_mariadb()?,
        Run::new("chaos", demo, &chaos.map(str::to_owned)),
    ];
    if options.soak {
        let soak = bench::release_binary("soak")?;
        let minutes = if quick { "0.2" } else { "30" };
        let flags = ["--minutes", minutes, "--seed", &seed].map(str::to_owned);
        let mut run = Run::new("soak", &soak.display().to_string(), &flags);
        run.command.env("MALLOC_MMAP_THRESHOLD_", "65536");
        runs.push(run);
    }
    Ok(runs)
}

impl Run {
    fn new(what: &'static str, program: &str, flags: &[String]) -> Self {
        let mut command = Command::new(program);
        command.args(flags);
        let name = Path::new(program).file_name().unwrap_or_default();
        let shown = [name.to_string_lossy().into_owned(), flags.join(" ")].join(" ");
        // Where the checkout lies is nobody's business.
        let root = steps::root().display().to_string() + "/";
        Self {
            what,
            command,
            shown: shown.replace(&root, ""),
        }
    }

    /// The same with a fresh MariaDB, whose address stands for `{}`.
    fn with_mariadb(self) -> Result<Self> {
        let mut command = Command::new(bench::release_binary("with-mariadb")?);
        command.arg(self.command.get_program());
        command.args(self.command.get_args());
        Ok(Self { command, ..self })
    }

    /// Runs it; what it says goes to `file`, and its last lines into the report.
    fn go(mut self, file: &Path) -> Result<Outcome> {
        println!("==> {}", self.shown);
        let out = fs::File::create(file).with_context(|| file.display().to_string())?;
        let started = Instant::now();
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start `{}`", self.shown))?;
        let status = child.wait()?;
        let took = started.elapsed();
        let said = String::from_utf8_lossy(&fs::read(file)?).into_owned();
        let lines: Vec<&str> = said
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let last = lines[lines.len().saturating_sub(QUOTED)..].iter();
        let last = last
            .map(|line| line.chars().take(WIDTH).collect())
            .collect();
        let verdict = verdict(status);
        println!("==> {verdict} after {} s", took.as_secs());
        std::io::stdout().flush()?;
        Ok(Outcome {
            what: self.what,
            shown: self.shown,
            took,
            passed: status.success(),
            verdict,
            last,
        })
    }
}

/// An exit status in words.
fn verdict(status: ExitStatus) -> String {
    match status.code() {
        Some(0) => "passed".to_owned(),
        Some(2) => "insufficient evidence".to_owned(),
        _ => format!("FAILED ({status})"),
    }
}

fn text(conditions: &str, options: &Options, outcomes: &[Outcome]) -> String {
    let form = if options.quick {
        "the quick form: it shows that the command works, no more"
    } else {
        "the long form"
    };
    let mut text = format!(
        "# Proof\n\nWritten by `cargo xtask prove`: real processes on loopback, real files, real SIGKILL; every history is \
         judged by the checker (`wechat-demo check`).\n\n{conditions}- {form}; release builds; seed {}\n\n\
         | run | took | verdict |\n| --- | --- | --- |\n",
        options.seed
    );
    let mut put =
        |words: std::fmt::Arguments<'_>| text.write_fmt(words).expect("a String takes everything");
    for outcome in outcomes {
        let seconds = outcome.took.as_secs();
        put(format_args!(
            "| {} | {} min {:02} s | {} |\n",
            outcome.what,
            seconds / 60,
            seconds % 60,
            outcome.verdict
        ));
    }
    for outcome in outcomes {
        put(format_args!(
            "\n## {}\n\n`{}`\n\n```text\n{}\n```\n",
            outcome.what,
            outcome.shown,
            outcome.last.join("\n")
        ));
    }
    if !options.quick && outcomes.iter().any(|outcome| outcome.what == "chaos") {
        put(format_args!(
            "\n![faults against throughput](plots/chaos.svg)\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_passed_and_what_did_not() {
        let outcome = |what, passed| Outcome {
            what,
            shown: format!("wechat-demo {what}"),
            took: Duration::from_secs(61),
            verdict: if passed {
                "passed"
            } else {
                "insufficient evidence"
            }
            .to_owned(),
            passed,
            last: vec!["history: green".to_owned()],
        };
        let options = Options {
            quick: true,
            soak: false,
            seed: 7,
            log: None,
        };
        let outcomes = [outcome("replay", true), outcome("chaos", false)];
        let text = text("- commit: x\n", &options, &outcomes);
        assert!(text.contains("| replay | 1 min 01 s | passed |"), "{text}");
        assert!(
            text.contains("| chaos | 1 min 01 s | insufficient evidence |"),
            "{text}"
        );
        assert!(
            text.contains("seed 7") && text.contains("quick form"),
            "{text}"
        );
    }
}
