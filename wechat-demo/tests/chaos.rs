//! A minute of chaos that must end green, with evidence. Longer runs: `wechat-demo chaos --minutes 10`.

use std::process::{Command, Stdio};

/// The seed of the schedule of faults and of the load.
const SEED: &str = "1";

#[test]
fn a_minute_of_faults_breaks_no_promise() {
    let dir = tempfile::tempdir().unwrap();
    let plot = dir.path().join("timeline.svg");
    let output = Command::new(env!("CARGO_BIN_EXE_wechat-demo"))
        .args(["chaos", "--seed", SEED, "--minutes", "1", "--plot"])
        .arg(&plot)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "seed {SEED}\n{out}\n{err}");
    assert!(out.contains(&format!("chaos --seed {SEED}")), "{out}");
    assert!(out.contains("history: green"), "{out}");
    let svg = std::fs::read_to_string(plot).unwrap();
    assert!(svg.contains("reinstall terminal-"), "{svg}");
}
