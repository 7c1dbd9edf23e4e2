//! Processes that are killed on the way: at given shares of the lines, or a random one every so often.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rpc_core::base::rng::Rng;
use rpc_core::time::Instant;
use wechat_demo::cluster::{Clusters, Process, Role};
use wechat_demo::history::{Event, History};

/// What the storage process that serves is called.
const PRIMARY: &str = "storage-primary";
/// How long a killed process stays away.
const AWAY: Duration = Duration::from_millis(500);
/// What a history calls a kill.
const KILL: &str = "kill";
/// The planned fault of a run that kills whatever it likes.
pub(super) const SOME_KILL: &str = "kill *";
/// The planned fault of a run in which a role ends by itself.
pub(super) const SOME_END: &str = "end *";

/// Which process.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    /// Whose; `None` where there is but one, and of what several have in common.
    idc: Option<String>,
    /// `None` = the storage process that serves when the time has come.
    role: Option<Role>,
}

/// Time for somebody to serve before a kill of the primary is given up.
const TAKE_OVER: Duration = Duration::from_secs(15);
/// Pause between looks for the primary.
const LOOK: Duration = Duration::from_millis(100);

/// A process to kill, and when.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kill {
    target: Target,
    /// Share of the lines delivered, in percent, at which it happens.
    percent: f64,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(idc) = &self.idc {
            write!(f, "{idc}/")?;
        }
        f.write_str(self.role.map_or(PRIMARY, Role::name))
    }
}

impl From<Process> for Target {
    fn from(process: Process) -> Self {
        Self {
            idc: process.idc,
            role: Some(process.role),
        }
    }
}

impl FromStr for Kill {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let roles = format!("{PRIMARY}, {}", Role::ALL.map(Role::name).join(", "));
        let (process, percent) = text.split_once('@').ok_or_else(|| {
            format!("write ROLE@PERCENT or IDC/ROLE@PERCENT, with ROLE one of {roles}")
        })?;
        let (idc, role) = match process.split_once('/') {
            Some((idc, role)) => (Some(idc.to_owned()), role),
            None => (None, process),
        };
        let role = match Role::from_name(role) {
            None if role == PRIMARY => None,
            None => return Err(format!("{role} is none of {roles}")),
            role => role,
        };
        let target = Target { idc, role };
        let number = percent.strip_suffix('%').unwrap_or(percent);
        match number.parse() {
            Ok(percent) if (0.0..100.0).contains(&percent) => Ok(Self { target, percent }),
            _ => Err(format!("{percent} is no percentage from 0% to below 100%")),
        }
    }
}

impl Kill {
    /// Its name in a history.
    pub(super) fn fault(&self) -> String {
        match (&self.target.idc, self.target.role) {
            (_, Some(_)) => format!("{KILL} {}", self.target),
            // Which of them it is shows when the time has come.
            (None, None) => format!("{KILL} storage-*"),
            (Some(idc), None) => format!("{KILL} {idc}/storage-*"),
        }
    }
}

/// The kills of one run.
#[derive(Debug)]
pub(super) struct Kills {
    /// Who can be killed.
    processes: Vec<Process>,
    /// Not yet due, the next one last.
    ahead: Vec<Kill>,
    random: Option<Random>,
    done: usize,
}

/// A random role every so often.
#[derive(Debug)]
struct Random {
    every: Duration,
    /// `None` until somebody asks for the first time: the first period begins then.
    next: Option<Instant>,
    rng: Rng,
}

impl Kills {
    /// These, and a random one every so often, of a cluster that has these processes.
    ///
    /// # Errors
    /// A role that it does not have.
    pub(super) fn new(
        kills: &[Kill],
        every: Option<Duration>,
        seed: u64,
        processes: Vec<Process>,
    ) -> anyhow::Result<Self> {
        let mut ahead = kills.to_vec();
        ahead.sort_by(|a, b| b.percent.total_cmp(&a.percent));
        for Kill { target, .. } in kills {
            let role = target.role.unwrap_or(Role::Storage1);
            let is_it = |process: &Process| process.role == role && process.idc == target.idc;
            anyhow::ensure!(
                processes.iter().any(is_it),
                "--kill {target}: this cluster has no such process; with --idcs write IDC/ROLE"
            );
        }
        let random = every.map(|every| Random {
            every,
            next: None,
            rng: Rng::from_seed(seed),
        });
        Ok(Self {
            processes,
            ahead,
            random,
            done: 0,
        })
    }

    /// What is due now that `delivered` of `all` lines are.
    pub(super) fn due(&mut self, delivered: usize, all: usize, now: Instant) -> Option<Target> {
        let share = 100.0 * delivered as f64 / all as f64;
        let next = match self.ahead.pop_if(|kill| kill.percent <= share) {
            Some(kill) => kill.target,
            None => self.random.as_mut()?.due(now, &self.processes)?.into(),
        };
        self.done += 1;
        Some(next)
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

impl Random {
    fn due(&mut self, now: Instant, processes: &[Process]) -> Option<Process> {
        if now < *self.next.get_or_insert(now + self.every) {
            return None;
        }
        self.next = Some(now + self.every);
        let at = self.rng.below(processes.len() as u64) as usize;
        Some(processes[at].clone())
    }
}

/// Kills a process, unless it has ended by itself, and starts it again a little later. Waits for that: call it
/// beside other work.
pub(super) fn kill_and_restart(
    clusters: &Arc<Mutex<Clusters>>,
    target: &Target,
    history: &History,
) {
    let mut clusters = clusters.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = clusters
        .part_mut(target.idc.as_deref())
        .expect("targets are of this cluster");
    let role = match target.role {
        Some(role) => role,
        None => {
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
    let what = match cluster.pid(role) {
        Some(_) => KILL,
        None => "end",
    };
    cluster.kill(role);
    history.tell(Event::Fault {
        what: what.to_owned(),
        target: Target {
            role: Some(role),
            ..target.clone()
        }
        .to_string(),
    });
    // The cluster stays locked, so that nobody takes the absence for a death.
    std::thread::sleep(AWAY);
    if let Err(error) = cluster.spawn(role) {
        eprintln!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Process> {
        let process = |role| Process { idc: None, role };
        Role::ALL.map(process).into()
    }

    fn target(role: Option<Role>) -> Target {
        Target { idc: None, role }
    }

    #[test]
    fn kills_come_in_the_order_of_their_time_and_once() {
        let kills = ["storage-2@60%", "storage-primary@30"].map(|text| text.parse().unwrap());
        let mut kills = Kills::new(&kills, None, 0, all()).unwrap();
        let now = Instant::now();
        assert_eq!(kills.due(29, 100, now), None);
        assert_eq!(kills.due(30, 100, now), Some(target(None)));
        assert_eq!(kills.due(31, 100, now), None);
        assert_eq!((kills.done(), kills.missed()), (1, 1));
        let second = target(Some(Role::Storage2));
        assert_eq!(kills.due(100, 100, now), Some(second));
        assert_eq!((kills.done(), kills.missed()), (2, 0));
    }

    #[test]
    fn a_random_kill_comes_once_a_period_and_is_told_by_the_seed() {
        let period = Duration::from_secs(5);
        let choices = |seed| {
            let mut kills = Kills::new(&[], Some(period), seed, all()).unwrap();
            let began = Instant::now();
            assert_eq!(kills.due(0, 1, began), None);
            let later = (1..40).map(|n| kills.due(0, 1, began + period * n + period / 2));
            let choices: Vec<_> = later.collect::<Option<_>>().expect("one a period");
            assert_eq!(kills.due(0, 1, began + period * 40), None);
            choices
        };
        assert_eq!(choices(1), choices(1));
        assert_ne!(choices(1), choices(2));
        let roles = Role::ALL.map(|role| target(Some(role)));
        assert!(roles.iter().all(|role| choices(1).contains(role)));
    }

    #[test]
    fn what_the_cluster_does_not_have_is_not_killed() {
        for text in ["sh/logic@5%", "hk/storage-primary@5%"] {
            let kill = text.parse::<Kill>().unwrap();
            let error = Kills::new(&[kill], None, 0, all()).unwrap_err();
            let name = text.trim_end_matches("@5%");
            assert!(error.to_string().contains(name), "{error}");
        }
        let kill: Kill = "hk/storage-primary@5%".parse().unwrap();
        assert_eq!(kill.fault(), "kill hk/storage-*");
        let process = |role| Process {
            idc: Some("hk".to_owned()),
            role,
        };
        let several = Role::STORAGE.map(process).into();
        assert!(Kills::new(&[kill], None, 0, several).is_ok());
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
