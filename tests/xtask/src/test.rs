//! `cargo xtask test`: the one command that runs every test.
//!
//! Packages first, then every binary and test in one build (one set of features, so nothing is
//! compiled twice), then the tests. The last lines are cargo test's.

use anyhow::Result;
use clap::Args;

use crate::{packages, protos, steps};

/// Tells the suite that the binaries it drives have just been built; `tests::FRESH` there.
const FRESH: &str = "SUITE_BINARIES_ARE_FRESH";

/// Everything but the peers, which only benchmarks run.
const ALL: [&str; 3] = ["--workspace", "--exclude", "peers"];

#[derive(Args)]
pub(crate) struct Options {
    /// Passed on to cargo test: names to filter by, or `-- --nocapture`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    cargo_test: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    packages::ensure()?;
    let recorded = steps::root().join("../shared/data");
    if !recorded.exists() {
        println!(
            "==> the recorded data is absent ({}): tests on it will say NOT RUN",
            recorded.display()
        );
    }
    let build = [&["build"], &ALL[..], &["--bins", "--tests"]].concat();
    steps::step(&mut steps::cargo(&build))?;
    protos::sample()?;
    let test = [&["test"], &ALL[..], &["--no-fail-fast"]].concat();
    let mut test = steps::cargo(&test);
    steps::last_step(test.args(&options.cargo_test).env(FRESH, "1"))
}
