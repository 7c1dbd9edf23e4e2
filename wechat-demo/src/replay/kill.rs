//! Processes that are killed on the way.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rpc_core::time::Instant;
use wechat_demo::cluster::{Cluster, Role};

/// What the storage process that serves is called.
const PRIMARY: &str = "storage-primary";
/// How long a killed process stays away.
const AWAY: Duration = Duration::from_millis(500);

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// This one.
    Role(Role),
    /// The storage process that serves when the time has come.
    Primary,
}

/// Time for somebody to serve before a kill of the primary is given up.
const TAKE_OVER: Duration = Duration::from_secs(15);
/// Pause between looks for the primary.
const LOOK: Duration = Duration::from_millis(100);

/// A process to kill, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Kill {
    target: Target,
    /// Share of the lines delivered, in percent, at which it happens.
    percent: f64,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(role) => role.fmt(f),
            Self::Primary => f.pad(PRIMARY),
        }
    }
}

impl FromStr for Kill {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let roles = format!("{PRIMARY}, {}", Role::ALL.map(Role::name).join(", "));
        let (role, percent) = text
            .split_once('@')
            .ok_or_else(|| format!("write ROLE@PERCENT, with ROLE one of {roles}"))?;
        let target = match Role::from_name(role) {
            Some(role) => Target::Role(role),
            None if role == PRIMARY => Target::Primary,
            None => return Err(format!("{role} is none of {roles}")),
        };
        let number = percent.strip_suffix('%').unwrap_or(percent);
        match number.parse() {
            Ok(percent) if (0.0..100.0).contains(&percent) => Ok(Self { target, percent }),
            _ => Err(format!("{percent} is no percentage from 0% to below 100%")),
        }
    }
}

/// The kills of one run.
#[derive(Debug)]
pub(super) struct Kills {
    /// Not yet due, the next one last.
    ahead: Vec<Kill>,
    done: usize,
}

impl Kills {
    pub(super) fn new(kills: &[Kill]) -> Self {
        let mut ahead = kills.to_vec();
        ahead.sort_by(|a, b| b.percent.total_cmp(&a.percent));
        Self { ahead, done: 0 }
    }

    /// What is due now that `delivered` of `all` lines are.
    pub(super) fn due(&mut self, delivered: usize, all: usize) -> Option<Target> {
        let share = 100.0 * delivered as f64 / all as f64;
        let next = self.ahead.pop_if(|kill| kill.percent <= share)?;
        self.done += 1;
        Some(next.target)
    }

    /// Kills that have happened.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// Kills that have not.
    pub(super) fn missed(&self) -> usize {
        self.ahead.len()
    }
}

/// Kills a process and starts it again a little later. Waits for that: call it beside other work.
pub(super) fn kill_and_restart(cluster: &Arc<Mutex<Cluster>>, target: Target) {
    let mut cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
    let role = match target {
        Target::Role(role) => role,
        Target::Primary => {
            // During a take-over there is none for a few seconds.
            let until = Instant::after(TAKE_OVER);
            loop {
                match cluster.primary() {
                    Some(role) => break role,
                    None if Instant::now() < until => std::thread::sleep(LOOK),
                    None => return eprintln!("nobody serves the store: nobody is killed"),
                }
            }
        }
    };
    cluster.kill(role);
    // The cluster stays locked, so that nobody takes the absence for a death.
    std::thread::sleep(AWAY);
    if let Err(error) = cluster.spawn(role) {
        eprintln!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_come_in_the_order_of_their_time_and_once() {
        let kills = ["storage-2@60%", "storage-primary@30"].map(|text| text.parse().unwrap());
        let mut kills = Kills::new(&kills);
        assert_eq!(kills.due(29, 100), None);
        assert_eq!(kills.due(30, 100), Some(Target::Primary));
        assert_eq!(kills.due(31, 100), None);
        assert_eq!((kills.done(), kills.missed()), (1, 1));
        assert_eq!(kills.due(100, 100), Some(Target::Role(Role::Storage2)));
        assert_eq!((kills.done(), kills.missed()), (2, 0));
    }

    #[test]
    fn what_cannot_be_killed_is_refused_with_what_can() {
        for (text, part) in [
            ("storage-primary", "ROLE@PERCENT"),
            ("moon@5%", "none of"),
            ("logic@100%", "no percentage"),
            ("logic@-1%", "no percentage"),
            ("logic@x", "no percentage"),
        ] {
            let error = text.parse::<Kill>().unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
