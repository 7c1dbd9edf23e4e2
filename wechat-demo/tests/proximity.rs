//! The table of networks, made small: real processes behind the real relay, and an access point that dies.

use std::process::{Command, Stdio};

use serde_json::Value;

#[test]
fn terminals_of_every_network_come_back_after_an_access_point_dies() {
    let output = Command::new(env!("CARGO_BIN_EXE_wechat-demo"))
        .args([
            "bench",
            "proximity",
            "--terminals",
            "1",
            "--connects",
            "2",
            "--requests",
            "2",
            "--json",
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{out}\n{err}");
    let rows: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    let rows = rows.as_array().unwrap();
    assert_eq!(
        rows.len(),
        8,
        "four networks, with dispatch and without\n{out}"
    );
    for row in rows {
        for when in ["before", "after"] {
            assert_eq!(row[when]["connects"], 2, "{row}");
        }
    }
    // Distances are the relay's doing, so they hold on any machine: nothing is faster than its line.
    let overseas = rows
        .iter()
        .find(|row| row["network"] == "overseas")
        .unwrap();
    let least = overseas["before"]["request_p50_ms"].as_f64().unwrap();
    assert!(
        least >= 2.0 * (12.0 + 65.0),
        "by ca and the backbone at best: {least} ms"
    );
}
