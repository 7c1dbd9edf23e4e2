//! Bugs and deaths planted on purpose, so that tests can show that the checker would see the real ones.
//!
//! Knows:       names, an environment variable each for what is planted and for where to die.
//! Does not know: what the code does that asks.
//!
//! Nothing of it exists in a build without debug assertions: [`is_on`] is the constant `false` there, and no
//! environment is read.
//!
//! - `WECHAT_PLANTED=NAME,…` turns bugs on, by [`Bug::name`].
//! - `WECHAT_DIE=WINDOW@N:FILE` ends the process at the Nth passage through a window, unless FILE is there;
//!   FILE is made first, so that the process dies once however often it is started again.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Turns bugs on.
pub const PLANTED: &str = "WECHAT_PLANTED";
/// Says where to die.
pub const DIE: &str = "WECHAT_DIE";
/// How long a process stands in its window before it dies: what it has sent gets out.
const STAND: Duration = Duration::from_secs(1);

/// A bug that somebody could have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Answers before the batch is written anywhere.
    AckBeforeSync,
    /// A round's items can be read before the round is in any log.
    VisibleBeforeCommit,
    /// Numbers start over after a restart.
    NumberNotPersisted,
    /// A retry is taken for a new message.
    NoDedupe,
    /// Only the process that took a message knows its client id.
    DedupeLostOnFailover,
    /// The primary serves on when its lease is over.
    LeaseIgnored,
    /// A backup answers for entries that it does not write until many later ones have come.
    LaggingCopyPromoted,
    /// A heartbeat's answer has no key.
    NoKeyInBeat,
    /// A heartbeat is answered with the key known at AUTH.
    BeatFromCache,
    /// A page ends one row later than its last item.
    PageCursorOffByOne,
    /// That somebody writes is an item in the timeline of whom they write to.
    TypingTakesNumber,
    /// What was deleted is left out of answers, also of those to devices that have it still.
    TombstoneCollectedEarly,
    /// A stream's mark is committed, and the effect only in the round after.
    MarkBeforeEffect,
    /// Old items are passed over without a word.
    SilentSkip,
    /// A device whose link is dead counts as reached.
    DeadLinkBelieved,
    /// A batch that could not be written is answered for all the same.
    CommitAfterFailure,
    /// No bug but what the network may do at any time: every third notify is lost.
    LoseNotifies,
}

/// A place where a process can be made to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The entries of a round with messages are made, and written nowhere.
    BeforeWrite,
    /// A round with messages is committed and nobody was told.
    BeforeAnswer,
    /// A round is done and answered.
    AfterRound,
    /// The disk refuses a round's batch; the process is not killed but told.
    WriteFails,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::AckBeforeSync,
        Self::VisibleBeforeCommit,
        Self::NumberNotPersisted,
        Self::NoDedupe,
        Self::DedupeLostOnFailover,
        Self::LeaseIgnored,
        Self::LaggingCopyPromoted,
        Self::NoKeyInBeat,
        Self::BeatFromCache,
        Self::PageCursorOffByOne,
        Self::TypingTakesNumber,
        Self::TombstoneCollectedEarly,
        Self::MarkBeforeEffect,
        Self::SilentSkip,
        Self::DeadLinkBelieved,
        Self::CommitAfterFailure,
        Self::LoseNotifies,
    ];

    /// Its name in the environment.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AckBeforeSync => "ack-before-sync",
            Self::VisibleBeforeCommit => "visible-before-commit",
            Self::NumberNotPersisted => "number-not-persisted",
            Self::NoDedupe => "no-dedupe",
            Self::DedupeLostOnFailover => "dedupe-lost-on-failover",
            Self::LeaseIgnored => "lease-ignored",
            Self::LaggingCopyPromoted => "lagging-copy-promoted",
            Self::NoKeyInBeat => "no-key-in-beat",
            Self::BeatFromCache => "beat-from-cache",
            Self::PageCursorOffByOne => "page-cursor-off-by-one",
            Self::TypingTakesNumber => "typing-takes-number",
            Self::TombstoneCollectedEarly => "tombstone-collected-early",
            Self::MarkBeforeEffect => "mark-before-effect",
            Self::SilentSkip => "silent-skip",
            Self::DeadLinkBelieved => "dead-link-believed",
            Self::CommitAfterFailure => "commit-after-failure",
            Self::LoseNotifies => "lose-notifies",
        }
    }
}

impl Window {
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "before-write" => Some(Self::BeforeWrite),
            "before-answer" => Some(Self::BeforeAnswer),
            "after-round" => Some(Self::AfterRound),
            "write-fails" => Some(Self::WriteFails),
            _ => None,
        }
    }
}

/// Whether a bug is planted.
#[must_use]
pub fn is_on(bug: Bug) -> bool {
    static PLANTED_HERE: OnceLock<Vec<Bug>> = OnceLock::new();
    if !cfg!(debug_assertions) {
        return false;
    }
    let planted = PLANTED_HERE.get_or_init(|| {
        let names = std::env::var(PLANTED).unwrap_or_default();
        let known = names.split(',').filter(|name| !name.is_empty());
        known
            .map(|name| {
                let bug = Bug::ALL.into_iter().find(|bug| bug.name() == name);
                bug.unwrap_or_else(|| panic!("{PLANTED} names no bug: {name}"))
            })
            .collect()
    });
    planted.contains(&bug)
}

/// Whether this passage through a window is the one that was asked for.
#[must_use]
pub fn is_time(window: Window) -> bool {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    if !cfg!(debug_assertions) {
        return false;
    }
    let plan = PLAN.get_or_init(|| {
        let plan = std::env::var(DIE).ok()?;
        Some(plan.parse().unwrap_or_else(|why| panic!("{DIE}: {why}")))
    });
    plan.as_ref().is_some_and(|plan| plan.is_time(window))
}

/// Dies here, as of SIGKILL, if this is the window and the time.
pub fn die_in(window: Window) {
    if is_time(window) {
        std::thread::sleep(STAND);
        let own = rustix::process::getpid();
        let killed = rustix::process::kill_process(own, rustix::process::Signal::KILL);
        unreachable!("nobody outlives SIGKILL: {killed:?}");
    }
}

/// Where and when to die.
#[derive(Debug)]
struct Plan {
    window: Window,
    passage: u64,
    /// It has happened when this is there.
    marker: PathBuf,
    passed: AtomicU64,
}

impl Plan {
    fn is_time(&self, window: Window) -> bool {
        window == self.window
            && self.passed.fetch_add(1, Ordering::Relaxed) + 1 == self.passage
            && std::fs::File::create_new(&self.marker).is_ok()
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not WINDOW@N:FILE");
        let (window, rest) = text.split_once('@').ok_or_else(wrong)?;
        let (passage, marker) = rest.split_once(':').ok_or_else(wrong)?;
        Ok(Self {
            window: Window::from_name(window).ok_or_else(wrong)?,
            passage: passage.parse().map_err(|_| wrong())?,
            marker: PathBuf::from(marker),
            passed: AtomicU64::new(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_planted_by_default() {
        assert!(Bug::ALL.into_iter().all(|bug| !is_on(bug)));
        die_in(Window::BeforeWrite);
    }

    #[test]
    fn a_window_is_hit_at_its_passage_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let plan = || -> Plan {
            let file = dir.path().join("died");
            format!("before-answer@3:{}", file.display())
                .parse()
                .unwrap()
        };
        let first = plan();
        assert!(!first.is_time(Window::BeforeWrite));
        let hits: Vec<_> = (0..5)
            .map(|_| first.is_time(Window::BeforeAnswer))
            .collect();
        assert_eq!(hits, [false, false, true, false, false]);
        let again = plan();
        assert!((0..5).all(|_| !again.is_time(Window::BeforeAnswer)));
        assert!("before-answer@x:f".parse::<Plan>().is_err());
        assert!("moon@1:f".parse::<Plan>().is_err());
    }
}
