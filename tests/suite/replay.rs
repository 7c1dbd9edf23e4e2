//! `wechat-demo replay`: a chat log through real terminals and a cluster of separate processes, checked
//! line by line. What it claims of itself is believed here only as far as the numbers go: its checker has
//! its own tests, with planted faults.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use libraries::processes::Process;
use libraries::zookeeper::Ensemble;
use serde_json::Value;
use tests::{bin, recorded, run};

/// Lines played in a test.
const LINES: usize = 2_000;
/// Seed of the log that is made where the real one is absent.
const SEED: u64 = 20_180_410;

#[test]
fn a_replayed_log_is_delivered_whole_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let figures = replay(&log(dir.path()), &[]);
    assert_faultless(&figures);
}

#[test]
fn killing_primaries_every_storage_process_and_the_coordinator_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let kills = "storage-primary@10%,storage-1@25%,storage-2@40%,storage-3@55%,coordinator@70%,storage-primary@85%";
    let figures = replay(&log(dir.path()), &["--kill", kills]);
    assert_faultless(&figures);
}

#[test]
fn killing_logic_and_access_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let figures = replay(&log(dir.path()), &["--kill", "logic@30%,access@60%"]);
    assert_faultless(&figures);
}

#[test]
fn a_paced_replay_with_terminals_in_memory_is_just_as_whole() {
    let dir = tempfile::tempdir().unwrap();
    let figures = replay(&log(dir.path()), &["--rate", "1000", "--store", "memory"]);
    assert_faultless(&figures);
}

#[test]
fn people_in_three_idcs_lose_nothing_when_processes_of_each_are_killed() {
    let dir = tempfile::tempdir().unwrap();
    let kills = "sh/storage-primary@15%,hk/storage-primary@35%,ca/logic@50%,coordinator@60%,ca/storage-primary@80%";
    let figures = replay(&log(dir.path()), &["--idcs", "3", "--kill", kills]);
    assert_faultless(&figures);
}

#[test]
fn a_store_in_mariadb_loses_nothing_when_processes_are_killed() {
    let server = Process::mariadb().unwrap();
    let url = format!("mysql://root@{}/replay", server.addr());
    let dir = tempfile::tempdir().unwrap();
    let database = ["--engine", "mysql", "--database", &url];
    // The primary twice, and somebody every two seconds of the ten that the pace makes it last.
    let mut kills = vec!["--kill", "storage-primary@30%,storage-primary@60%"];
    kills.extend(["--kill-every", "2s", "--seed", "1", "--rate", "200"]);
    let figures = replay(&log(dir.path()), &[&database[..], &kills].concat());
    assert_faultless(&figures);
    assert!(figures["kills"].as_u64() > Some(2), "{figures}");
    let file = dir.path().join("again.tsv");
    std::fs::write(&file, made(SEED, 1)).unwrap();
    let again = [&["replay", file.to_str().unwrap()][..], &database].concat();
    let (_, line) = refused(&again);
    assert!(line.contains("starts from nothing"), "{line}");
}

#[test]
fn views_in_a_zookeeper_ensemble_lose_nothing_when_primaries_are_killed() {
    let servers = Ensemble::start().unwrap();
    let ensemble = format!("{}/replay", servers.hosts());
    let dir = tempfile::tempdir().unwrap();
    let zookeeper = ["--zookeeper", &ensemble];
    let kills = ["--kill", "storage-primary@30%,storage-primary@60%"];
    let figures = replay(&log(dir.path()), &[&zookeeper[..], &kills].concat());
    assert_faultless(&figures);
    let file = dir.path().join("again.tsv");
    std::fs::write(&file, made(SEED, 1)).unwrap();
    let again = [&["replay", file.to_str().unwrap()][..], &zookeeper].concat();
    let (_, line) = refused(&again);
    assert!(line.contains("starts from nothing"), "{line}");
    let elsewhere = ["--zookeeper", &servers.hosts(), "--kill", "coordinator@5%"];
    let (_, line) = refused(&[&["replay", file.to_str().unwrap()][..], &elsewhere].concat());
    assert!(line.contains("no such process"), "{line}");
}

#[test]
fn a_line_that_is_no_line_is_named_before_anything_is_started() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broken.tsv");
    std::fs::write(&file, "t\ta\tb\tfine\nt\ta\tb\n").unwrap();
    let (code, line) = refused(&["replay", file.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(
        line.contains("broken.tsv:2:") && line.contains("3 fields"),
        "{line}"
    );

    let (code, line) = refused(&["replay", "no-such-file.tsv"]);
    assert_eq!(code, Some(1));
    assert!(line.contains("no-such-file.tsv"), "{line}");

    let (code, line) = refused(&["replay", file.to_str().unwrap(), "--kill", "moon@5%"]);
    assert_eq!(code, Some(2));
    assert!(line.contains("moon"), "{line}");
}

fn replay(log: &Path, more: &[&str]) -> Value {
    let mut command = Command::new(bin("wechat-demo"));
    command
        .arg("replay")
        .arg(log)
        .args(["--json", "--limit", &LINES.to_string()])
        .args(more);
    let (status, out, err) = run(&mut command).unwrap();
    let last = out.lines().last().unwrap_or_default();
    assert!(status.success(), "{status}\n{out}\n{err}");
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {last}\n{err}"))
}

fn assert_faultless(figures: &Value) {
    for (name, wanted) in [
        ("sent", LINES),
        ("acked", LINES),
        ("delivered", LINES),
        ("lost", 0),
        ("duplicated", 0),
        ("reordered", 0),
    ] {
        assert_eq!(figures[name], wanted, "{name} in {figures}");
    }
    assert!(
        figures["p50_ms"].as_f64() > Some(0.0)
            && figures["p99_ms"].as_f64() >= figures["p50_ms"].as_f64()
    );
}

/// Runs what must be refused: its exit status, and its one line.
pub(crate) fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let (status, out, err) = run(Command::new(bin("wechat-demo")).args(arguments)).unwrap();
    assert!(!status.success(), "{arguments:?} was not refused: {out}");
    assert_eq!(err.lines().count(), 1, "one line: {err}");
    assert_eq!(out, "");
    (status.code(), err)
}

/// The real log, or one made like it.
fn log(dir: &Path) -> PathBuf {
    recorded("chat/chitchat.tsv.gz").unwrap_or_else(|| {
        eprintln!(
            "the real chat log is absent: playing {LINES} lines made from seed {SEED} instead"
        );
        let file = dir.join("made.tsv");
        std::fs::write(&file, made(SEED, LINES)).unwrap();
        file
    })
}

/// Lines between forty people who mostly talk in pairs, with everything that has to be escaped.
fn made(seed: u64, lines: usize) -> String {
    let mut state = seed;
    let mut below = |bound: u64| {
        // SplitMix64 (Steele, Lea, Flood 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    };
    let words = [
        "hello",
        "你好",
        "\u{1f600}",
        "tab\\there",
        "line\\nbreak",
        "back\\\\slash",
        "",
        "ok?",
    ];
    let mut text = String::new();
    for _ in 0..lines {
        let pair = below(20) * 2;
        let (sender, receiver) = match below(10) {
            0 => (pair, (pair + 3) % 40),
            n => (pair + n % 2, pair + 1 - n % 2),
        };
        let said: Vec<&str> = (0..below(6))
            .map(|_| words[below(words.len() as u64) as usize])
            .collect();
        writeln!(
            text,
            "2018-04-10T18:23:49Z\tp{sender:02}\tp{receiver:02}\t{}",
            said.join(" ")
        )
        .unwrap();
    }
    text
}

#[test]
fn the_made_log_plays_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("made.tsv");
    std::fs::write(&file, made(SEED, LINES)).unwrap();
    assert_faultless(&replay(&file, &[]));
}
