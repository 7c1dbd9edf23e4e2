//! What the page shows: each process with what it answered last, and what is made of that for an IDC.
//!
//! Knows:       roles, figures, times.
//! Does not know: HTTP, processes; whoever holds the cluster tells what it does with them.
//!
//! Invariants
//! - P-1  A figure is shown with when it was answered, as soon as that is longer ago than [`STALE`].
//! - P-2  What a process answered before it was started last is not its own any more: it counts as stale.
//!
//! Read first: [`Board`].

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc_core::time::Instant;
use serde_json::{Value, json};
use wechat_demo::cluster::{Figures, Layout, Role};
use wechat_demo::model::clock::{Clock, SystemClock};

use super::figure::{MESSAGES, NOTIFIES, Rate, shown};

/// An answer older than this is called old.
const STALE: Duration = Duration::from_secs(3);
/// Points of a course, one a second.
const COURSE: usize = 60;
/// Time from one point to the next.
const POINT: Duration = Duration::from_secs(1);
/// Lines of what has happened.
const EVENTS: usize = 50;
/// Actions that wait to be done.
const ACTIONS: usize = 64;

/// A process: the place of its IDC in the list, and its role there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Post {
    pub(crate) idc: usize,
    pub(crate) role: Role,
}

/// What somebody at the page wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Kill a process; it is started again.
    Kill(Post),
    /// Kill all of an IDC; nothing of it is started again.
    KillAll(usize),
    /// Start what was killed with its IDC.
    Restore(usize),
}

/// Why an action is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// There is no such process or IDC.
    #[error("there is no such process or IDC; reload the page")]
    Unknown,
    /// Too many wait.
    #[error("{ACTIONS} actions wait already; try again soon")]
    Full,
}

/// What a process does, as far as its launcher knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It runs, since then.
    Runs { pid: u32, since: Instant },
    /// It ended, and is to be started again.
    Ended,
    /// It was killed with its IDC and stays down.
    Held,
}

/// Everything that is shown. Shared by who holds the cluster, who asks the processes, and who answers browsers.
#[derive(Default)]
pub(crate) struct Board {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idcs: Vec<Idc>,
    /// Newest last: when, in ms since the epoch, and what.
    events: VecDeque<(i64, String)>,
    actions: VecDeque<Action>,
}

struct Idc {
    /// `None` where there is only one.
    name: Option<String>,
    /// Terminals connect here. Else it is what the IDCs have in common.
    is_whole: bool,
    processes: Vec<Process>,
    /// Messages and notifies per second, newest last.
    course: VecDeque<[f64; 2]>,
    pointed: Option<Instant>,
}

struct Process {
    role: Role,
    address: SocketAddr,
    life: Life,
    /// When `life` became what it is, in ms since the epoch.
    since_ms: i64,
    starts: u32,
    last: Option<Answer>,
    /// Entries in its log, by the answer before the last.
    before: Option<(Instant, f64)>,
    rates: HashMap<&'static str, Rate>,
}

struct Answer {
    asked: Instant,
    at: Instant,
    at_ms: i64,
    figures: Figures,
}

impl Board {
    /// These are the processes; all of them run.
    pub(crate) fn show(&self, idcs: &[(Option<String>, &Layout)]) {
        let now_ms = SystemClock.unix_ms();
        let idcs = idcs.iter().map(|(name, layout)| Idc {
            name: name.clone(),
            is_whole: layout.roles().contains(&Role::Access),
            processes: layout
                .roles()
                .into_iter()
                .map(|role| Process::new(role, layout.rpc(role), now_ms))
                .collect(),
            course: VecDeque::new(),
            pointed: None,
        });
        self.state().idcs = idcs.collect();
    }

    /// All processes, and where they answer.
    pub(crate) fn posts(&self) -> Vec<(Post, SocketAddr)> {
        let state = self.state();
        let all = state.idcs.iter().enumerate().flat_map(|(idc, place)| {
            let of = place.processes.iter();
            of.map(move |process| {
                let role = process.role;
                (Post { idc, role }, process.address)
            })
        });
        all.collect()
    }

    /// What an IDC is called.
    pub(crate) fn idc(&self, idc: usize) -> String {
        let state = self.state();
        let name = state.idcs.get(idc).and_then(|idc| idc.name.as_deref());
        name.map_or_else(|| "the IDC".to_owned(), |name| format!("IDC {name}"))
    }

    /// What a process is called among those of all IDCs.
    pub(crate) fn name(&self, post: Post) -> String {
        let state = self.state();
        let idc = state.idcs.get(post.idc).and_then(|idc| idc.name.as_deref());
        idc.map_or_else(
            || post.role.to_string(),
            |idc| format!("{idc}/{}", post.role),
        )
    }

    /// Asks for an action; whoever holds the cluster does it soon.
    pub(crate) fn ask(&self, action: Action) -> Result<(), Refused> {
        let mut state = self.state();
        let known = match action {
            Action::Kill(post) => state.process(post).is_some(),
            Action::KillAll(idc) | Action::Restore(idc) => {
                state.idcs.get(idc).is_some_and(|idc| idc.is_whole)
            }
        };
        if !known {
            return Err(Refused::Unknown);
        }
        if state.actions.len() >= ACTIONS {
            return Err(Refused::Full);
        }
        state.actions.push_back(action);
        Ok(())
    }

    /// The actions that wait, oldest first.
    pub(crate) fn take_actions(&self) -> VecDeque<Action> {
        std::mem::take(&mut self.state().actions)
    }

    /// A process has begun to do this.
    pub(crate) fn lives(&self, post: Post, life: Life) {
        let mut state = self.state();
        if let Some(process) = state.process(post)
            && process.life != life
        {
            process.starts += u32::from(matches!(life, Life::Runs { .. }));
            process.life = life;
            process.since_ms = SystemClock.unix_ms();
        }
    }

    /// Something has happened.
    pub(crate) fn tell(&self, what: String) {
        let mut state = self.state();
        if state.events.len() >= EVENTS {
            state.events.pop_front();
        }
        state.events.push_back((SystemClock.unix_ms(), what));
    }

    /// A process that was asked then has answered now.
    pub(crate) fn answered(&self, post: Post, asked: Instant, figures: Figures) {
        let mut state = self.state();
        let Some(process) = state.process(post) else {
            return;
        };
        // Whoever answered may have been the one before.
        if process.runs_since().is_none_or(|since| since > asked) {
            return;
        }
        process.take(asked, figures);
    }

    /// Time goes on: the courses get their points.
    pub(crate) fn tick(&self) {
        let mut state = self.state();
        let now = Instant::now();
        for idc in &mut state.idcs {
            if idc.pointed.is_none_or(|pointed| now - pointed >= POINT) {
                idc.pointed = Some(now);
                if idc.course.len() >= COURSE {
                    idc.course.pop_front();
                }
                let point = [MESSAGES, NOTIFIES].map(|name| idc.rate(name, now));
                idc.course.push_back(point);
            }
        }
    }

    /// Links and messages per second, for a line in a terminal.
    pub(crate) fn summary(&self) -> String {
        let (state, now) = (self.state(), Instant::now());
        let links = total(state.idcs.iter().map(|idc| idc.links(now)));
        let messages = total(state.idcs.iter().map(|idc| idc.rate(MESSAGES, now)));
        format!("{links:.0} links, {messages:.0} messages/s")
    }

    /// All of it, as the page gets it.
    pub(crate) fn json(&self) -> Value {
        let (state, now) = (self.state(), Instant::now());
        let idcs = state.idcs.iter().map(|idc| idc.json(now));
        let events = state.events.iter().rev();
        let events = events.map(|(at_ms, text)| json!({ "at_ms": at_ms, "text": text }));
        json!({
            "now_ms": SystemClock.unix_ms(),
            "idcs": idcs.collect::<Vec<_>>(),
            "events": events.collect::<Vec<_>>(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn process(&mut self, post: Post) -> Option<&mut Process> {
        let mut processes = self.idcs.get_mut(post.idc)?.processes.iter_mut();
        processes.find(|process| process.role == post.role)
    }
}

impl Idc {
    fn links(&self, now: Instant) -> f64 {
        let fresh = self.processes.iter().filter(|process| !process.is_old(now));
        let links = fresh.filter_map(|process| process.sum("wechat_access_links"));
        total(links)
    }

    /// A rate of all its processes.
    fn rate(&self, name: &str, now: Instant) -> f64 {
        let fresh = self.processes.iter().filter(|process| !process.is_old(now));
        let rates = fresh.filter_map(|process| process.rates.get(name));
        total(rates.map(Rate::shown))
    }

    /// How many entries the copy that is furthest behind still lacks of the primary's log; `None` where that is not known.
    fn lag(&self, now: Instant) -> Option<f64> {
        let behind = self
            .processes
            .iter()
            .filter_map(|process| self.behind(process, now));
        behind.reduce(f64::max)
    }

    /// How many entries of the primary's log a member of its view lacks.
    fn behind(&self, process: &Process, now: Instant) -> Option<f64> {
        let standing = process.standing(now)?;
        // The store that a follower has a copy of is another IDC's.
        let is_of_store = |process: &&Process| process.role != Role::Follower;
        if !is_of_store(&process) || standing == "primary" || standing == "spare" {
            return None;
        }
        let mut all = self.processes.iter().filter(is_of_store);
        let primary = all.find(|process| process.standing(now) == Some("primary"))?;
        let own = process.last.as_ref()?;
        // What the primary had before the copy was asked, the copy could have: a later figure would show a
        // lag where there is none.
        let had = match &primary.last {
            Some(last) if last.at <= own.asked => primary.sum(ENTRIES),
            _ => primary.before.map(|(_, entries)| entries),
        };
        Some((had? - process.sum(ENTRIES)?).max(0.0))
    }

    fn waiting(&self, metric: &str, now: Instant) -> Option<f64> {
        let fresh = self.processes.iter().filter(|process| !process.is_old(now));
        let of = fresh.filter_map(|process| process.sum(metric));
        of.reduce(|a, b| a + b)
    }

    fn json(&self, now: Instant) -> Value {
        let processes = self.processes.iter();
        let processes = processes.map(|process| process.json(now, self.behind(process, now)));
        json!({
            "name": self.name,
            "whole": self.is_whole,
            "held": self.processes.iter().any(|process| process.life == Life::Held),
            "processes": processes.collect::<Vec<_>>(),
            "links": self.links(now),
            "messages_per_s": self.rate(MESSAGES, now),
            "notifies_per_s": self.rate(NOTIFIES, now),
            "lag_entries": self.lag(now),
            "requests_waiting": self.waiting("wechat_storage_requests_waiting", now),
            "tasks_waiting": self.waiting("wechat_storage_tasks_waiting", now),
            "course": self.course,
        })
    }
}

/// Their sum; of none it is 0, where the standard library has -0.
fn total(figures: impl Iterator<Item = f64>) -> f64 {
    figures.fold(0.0, |sum, figure| sum + figure)
}

/// Entries in a copy's logs.
const ENTRIES: &str = "wechat_storage_log_entries";

impl Process {
    fn new(role: Role, address: SocketAddr, now_ms: i64) -> Self {
        Self {
            role,
            address,
            life: Life::Ended,
            since_ms: now_ms,
            starts: 0,
            last: None,
            before: None,
            rates: HashMap::new(),
        }
    }

    fn runs_since(&self) -> Option<Instant> {
        match self.life {
            Life::Runs { since, .. } => Some(since),
            Life::Ended | Life::Held => None,
        }
    }

    fn take(&mut self, asked: Instant, figures: Figures) {
        let at = Instant::now();
        for shown in shown(self.role).filter(|shown| shown.is_rate) {
            if let Some(count) = shown.read(&figures) {
                self.rates.entry(shown.name).or_default().note(count, at);
            }
        }
        if let Some(last) = &self.last {
            let entries = last.figures.sum(ENTRIES, &[]);
            self.before = entries.map(|entries| (last.at, entries));
        }
        self.last = Some(Answer {
            asked,
            at,
            at_ms: SystemClock.unix_ms(),
            figures,
        });
    }

    fn sum(&self, metric: &str) -> Option<f64> {
        self.last.as_ref()?.figures.sum(metric, &[])
    }

    /// The last answer, unless the process was started since.
    fn own_answer(&self) -> Option<&Answer> {
        let since = self.runs_since()?;
        self.last.as_ref().filter(|last| since <= last.asked)
    }

    /// Whether what is known of it is old, or nothing.
    fn is_old(&self, now: Instant) -> bool {
        self.own_answer().is_none_or(|last| now - last.at > STALE)
    }

    /// What it is in its store's view.
    fn standing(&self, now: Instant) -> Option<&str> {
        let last = self.own_answer().filter(|_| !self.is_old(now))?;
        last.figures.label("wechat_storage_standing", "as")
    }

    /// In a word.
    fn state(&self, now: Instant) -> &'static str {
        match self.life {
            Life::Held => "down",
            Life::Ended => "restarting",
            Life::Runs { .. } if !self.is_old(now) => "up",
            Life::Runs { since, .. } if self.own_answer().is_none() && now - since <= PATIENCE => {
                "starting"
            }
            Life::Runs { .. } => "silent",
        }
    }

    fn json(&self, now: Instant, behind: Option<f64>) -> Value {
        let old = self.is_old(now);
        let standing = self.standing(now);
        let is_copy = standing.is_some_and(|standing| standing != "primary");
        let figures = shown(self.role).filter(|shown| !(is_copy && shown.is_of_primary));
        let figures = figures.map(|shown| {
            let value = if shown.is_rate {
                self.rates.get(shown.name).map(Rate::shown)
            } else {
                self.last
                    .as_ref()
                    .and_then(|last| shown.read(&last.figures))
            };
            json!({ "name": shown.name, "value": value })
        });
        let mut figures: Vec<Value> = figures.collect();
        if let Some(behind) = behind {
            figures.push(json!({ "name": "entries behind", "value": behind }));
        }
        let pid = match self.life {
            Life::Runs { pid, .. } => Some(pid),
            Life::Ended | Life::Held => None,
        };
        let stale = self.last.as_ref().filter(|_| old).map(|last| last.at_ms);
        json!({
            "role": self.role.name(),
            "address": self.address.to_string(),
            "state": self.state(now),
            "standing": standing,
            "serves": self.sum("wechat_storage_serving").filter(|_| !old).map(|serves| serves == 1.0),
            "pid": pid,
            "since_ms": self.since_ms,
            "starts": self.starts,
            "stale_since_ms": stale,
            "figures": figures,
        })
    }
}

/// How long a process that was just started may take to answer first.
const PATIENCE: Duration = Duration::from_secs(30);
