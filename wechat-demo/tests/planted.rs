//! Planted bugs: each is caught by the checker under the name of the promise it breaks, and the same scenario
//! without the bug is green.
//!
//! A scenario is a short replay, with a process that dies in a window of one round where the bug needs it, or some
//! seconds of chaos with one fault. What is planted, and what has to be named for it:
//!
//! | bug | promise | scenario |
//! |---|---|---|
//! | answered before it is written | I1, I21 | dies before the write |
//! | visible before it is committed | I2 | dies before the write |
//! | numbers start over | I5 | dies after a round |
//! | a retry is a new message | I4 | dies before the answer |
//! | client ids are lost on failover | I4 | dies before the answer |
//! | the lease is ignored | I19 | the primary is stopped |
//! | a copy that lags is promoted | I1 | the primary is stopped |
//! | the last notify is lost, and the heartbeat has no key, or an old one | L1 | every third notify is lost |
//! | a page's cursor is off by one | I9 | two pages |
//! | what passes takes a number | I11 | people write |
//! | a tombstone is collected early | I12 | a device comes back |
//! | a stream's mark is committed before its effect | I20 | dies after a round |
//! | old items are passed over | I10 | two pages |
//! | a dead link is believed | I18 | `push/` |
//! | a failed batch is answered | I1 | the disk refuses a batch |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use wechat_demo::planted::{Bug, DIE, PLANTED};

/// A scenario: what is said, where a process dies, what else is asked of the replay.
#[derive(Clone, Copy)]
struct Scenario {
    pairs: usize,
    lines: usize,
    /// Every eighth line answers those before it; none is said before it is applied.
    answers: bool,
    die: Option<&'static str>,
    flags: &'static [&'static str],
    /// What the network does besides.
    fault: Option<Bug>,
}

/// One storage process dies, or the disk fails it, and it is started again.
const fn dying(window: &'static str) -> Scenario {
    Scenario {
        pairs: 4,
        lines: 240,
        answers: true,
        die: Some(window),
        // Heartbeats so frequent that some come while the process stands in its window.
        flags: &[
            "--restart-ended",
            "--heartbeat",
            "200ms",
            "--patience",
            "6s",
        ],
        fault: None,
    }
}

/// Nobody dies; a fresh device needs two pages for what was said.
const PAGES: Scenario = Scenario {
    pairs: 1,
    lines: 260,
    answers: true,
    die: None,
    flags: &[],
    fault: None,
};

/// Every third notify is lost, the last one too, and no later one shows the gap; heartbeats heal that.
const LOSSY: Scenario = Scenario {
    pairs: 2,
    lines: 6,
    answers: true,
    die: None,
    flags: &["--rate", "3", "--heartbeat", "1s", "--patience", "4s"],
    fault: Some(Bug::LoseNotifies),
};

const BEFORE_WRITE: Scenario = dying("before-write@30");
const BEFORE_ANSWER: Scenario = dying("before-answer@30");
const AFTER_ROUND: Scenario = dying("after-round@60");
/// Nobody waits for a line that was lost, so that later ones of its sender come.
const ONE_WAY: Scenario = Scenario {
    answers: false,
    ..dying("after-round@60")
};
const WRITE_FAILS: Scenario = dying("write-fails@120");

impl Scenario {
    /// Exit status and what was printed to standard error.
    fn run(self, bug: Option<Bug>) -> (Option<i32>, String) {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log.tsv");
        std::fs::write(&log, self.log()).unwrap();
        let planted: Vec<_> = [bug, self.fault]
            .iter()
            .flatten()
            .map(|b| b.name())
            .collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_wechat-demo"));
        command
            .arg("replay")
            .arg(&log)
            .args(["--json", "--store", "memory"])
            .args(self.flags)
            .env(PLANTED, planted.join(","))
            .stdin(Stdio::null());
        if let Some(window) = self.die {
            command.env(DIE, format!("{window}:{}", marker(dir.path())));
        }
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), told)
    }

    /// Pairs of people; in each the first speaks, and every eighth line is the other's.
    fn log(self) -> String {
        let mut log = String::new();
        for n in 0..self.lines {
            let (pair, turn) = (n % self.pairs, n / self.pairs);
            let (a, b) = (2 * pair, 2 * pair + 1);
            let (from, to) = if self.answers && turn % 8 == 7 {
                (b, a)
            } else {
                (a, b)
            };
            writeln!(log, "t\tperson{from}\tperson{to}\tline {n}").unwrap();
        }
        log
    }

    #[track_caller]
    fn is_green(self) {
        let (status, told) = self.run(None);
        assert_eq!(status, Some(0), "{told}");
        assert!(told.contains("history: green"), "{told}");
    }

    #[track_caller]
    fn shows(self, bug: Bug, invariant: &str) {
        names(self.run(Some(bug)), bug, invariant);
    }
}

/// A run with a bug has to end with a violation of this.
#[track_caller]
fn names((status, told): (Option<i32>, String), bug: Bug, invariant: &str) {
    assert_eq!(status, Some(1), "{} was not seen: {told}", bug.name());
    let begin = format!("{invariant} ");
    let named = told.lines().any(|line| line.starts_with(&begin));
    assert!(named, "{invariant} is not named for {}: {told}", bug.name());
}

fn marker(dir: &Path) -> String {
    dir.join("died").display().to_string()
}

#[test]
fn a_death_before_the_write_is_harmless() {
    BEFORE_WRITE.is_green();
}

#[test]
fn a_death_before_the_answer_is_harmless() {
    BEFORE_ANSWER.is_green();
}

#[test]
fn a_death_after_a_round_is_harmless() {
    AFTER_ROUND.is_green();
}

#[test]
fn a_death_while_nobody_answers_is_harmless() {
    ONE_WAY.is_green();
}

#[test]
fn a_disk_that_refuses_a_batch_is_harmless() {
    WRITE_FAILS.is_green();
}

#[test]
fn a_timeline_of_two_pages_is_whole() {
    PAGES.is_green();
}

#[test]
fn lost_notifies_are_harmless() {
    LOSSY.is_green();
}

#[test]
fn answering_before_the_write_is_seen_as_i1_and_i21() {
    BEFORE_WRITE.shows(Bug::AckBeforeSync, "I21");
}

#[test]
fn showing_what_is_not_committed_is_seen_as_i2() {
    BEFORE_WRITE.shows(Bug::VisibleBeforeCommit, "I2");
}

#[test]
fn numbers_that_start_over_are_seen_as_i5() {
    AFTER_ROUND.shows(Bug::NumberNotPersisted, "I5");
}

#[test]
fn a_retry_taken_for_a_new_message_is_seen_as_i4() {
    BEFORE_ANSWER.shows(Bug::NoDedupe, "I4");
}

#[test]
fn client_ids_that_a_failover_loses_are_seen_as_i4() {
    BEFORE_ANSWER.shows(Bug::DedupeLostOnFailover, "I4");
}

#[test]
fn a_page_cursor_off_by_one_is_seen_as_i9() {
    PAGES.shows(Bug::PageCursorOffByOne, "I9");
}

#[test]
fn a_mark_committed_before_its_effect_is_seen_as_i20() {
    ONE_WAY.shows(Bug::MarkBeforeEffect, "I20");
}

#[test]
fn skipping_in_silence_is_seen_as_i10() {
    PAGES.shows(Bug::SilentSkip, "I10");
}

#[test]
fn a_beat_without_a_key_is_seen_as_l1() {
    LOSSY.shows(Bug::NoKeyInBeat, "L1");
}

#[test]
fn a_beat_answered_from_a_cache_is_seen_as_l1() {
    LOSSY.shows(Bug::BeatFromCache, "L1");
}

#[test]
fn going_on_after_a_failed_batch_is_seen_as_i1() {
    WRITE_FAILS.shows(Bug::CommitAfterFailure, "I1");
}

/// Some seconds in which people talk, write and change things, and one fault comes again and again.
struct Ordeal {
    fault: &'static str,
    minutes: &'static str,
}

/// The primary is stopped beyond its lease, until another has taken over.
const PRIMARY_STOPPED: Ordeal = Ordeal {
    fault: "pause-primary",
    minutes: "0.15",
};

/// Hardly anything happens but that people talk and write.
const LINKS_CUT: Ordeal = Ordeal {
    fault: "cut",
    minutes: "0.1",
};

/// Second devices that were away look in.
const DEVICES_LOOK_IN: Ordeal = Ordeal {
    fault: "look-in",
    minutes: "0.15",
};

impl Ordeal {
    fn run(&self, bug: Option<Bug>) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_wechat-demo"))
            .args(["chaos", "--seed", "1", "--minutes", self.minutes])
            .args(["--faults", self.fault, "--terminals", "8"])
            .env(PLANTED, bug.map_or("", Bug::name))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let told = [output.stdout, output.stderr];
        let told = told.map(|out| String::from_utf8_lossy(&out).into_owned());
        (output.status.code(), told.concat())
    }

    #[track_caller]
    fn is_green(&self) {
        let (status, told) = self.run(None);
        assert_eq!(status, Some(0), "{told}");
        assert!(told.contains(&format!("{} ", self.fault)), "{told}");
    }

    #[track_caller]
    fn shows(&self, bug: Bug, invariant: &str) {
        names(self.run(Some(bug)), bug, invariant);
    }
}

#[test]
fn a_primary_that_was_stopped_beyond_its_lease_is_harmless() {
    PRIMARY_STOPPED.is_green();
}

#[test]
fn a_primary_that_ignores_its_lease_is_seen_as_i19() {
    PRIMARY_STOPPED.shows(Bug::LeaseIgnored, "I19");
}

#[test]
fn a_copy_that_lags_and_is_promoted_is_seen_as_i1() {
    PRIMARY_STOPPED.shows(Bug::LaggingCopyPromoted, "I1");
}

#[test]
fn devices_that_come_back_are_harmless() {
    DEVICES_LOOK_IN.is_green();
}

#[test]
fn a_tombstone_that_is_collected_early_is_seen_as_i12() {
    DEVICES_LOOK_IN.shows(Bug::TombstoneCollectedEarly, "I12");
}

#[test]
fn links_that_are_cut_are_harmless() {
    LINKS_CUT.is_green();
}

#[test]
fn what_passes_and_takes_a_number_is_seen_as_i11() {
    LINKS_CUT.shows(Bug::TypingTakesNumber, "I11");
}
