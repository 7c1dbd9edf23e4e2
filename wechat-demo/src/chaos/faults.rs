//! Which faults come when, and how they are done.
//!
//! Every kind comes once, in an order that the seed shuffles, before any comes again; so a run that is long
//! enough has seen them all, and the history's first line says which it promises.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use rpc_core::base::rng::Rng;
use rpc_core::time::Instant;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use wechat_demo::cluster::{Cluster, Role};
use wechat_demo::history::{Event, History};
use wechat_demo::wan::{Change, Mode, Relay, Shape};

use super::crowd::Crowd;
use super::timeline::Done;
use super::{ACCESS, TERMINALS};

/// Shortest and longest quiet between two faults, ms.
const QUIET_MS: (u64, u64) = (500, 2_500);
/// Time that a fault and the quiet after it take at most; a run promises the kinds that fit.
const LONGEST: Duration = Duration::from_secs(12);
/// How long a process stays away after a kill, ms.
pub(super) const AWAY_MS: (u64, u64) = (50, 1_500);
/// How long a process is stopped, ms: at the least beyond the backup's lease of 2 s.
const STOPPED_MS: (u64, u64) = (2_500, 5_000);
/// How long the primary is stopped, ms: beyond the backup's grace of 3 s, so that another serves when it goes on.
const DEPOSED_MS: (u64, u64) = (4_000, 6_000);
/// Bytes of a file on a disk that is full: what lies there can be read, and nothing is added.
const FULL: u64 = 4 << 10;
/// Time for a process whose disk is full to meet it.
const MEETS: Duration = Duration::from_secs(5);
/// During a take-over nobody serves for some seconds.
const TAKE_OVER: Duration = Duration::from_secs(10);
/// How long a network trouble lasts, ms.
pub(super) const TROUBLE_MS: (u64, u64) = (1_000, 5_000);
/// Time for a device that looks in to get level.
const LOOK_IN: Duration = Duration::from_secs(5);
/// Pause between looks at a process.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// Delay of each direction in a slow spell, ms.
const DELAY_MS: (u64, u64) = (20, 300);

/// What can be done to the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// SIGKILL and start again.
    Kill,
    /// SIGSTOP, and SIGCONT beyond the lease.
    Pause,
    /// SIGSTOP of the store's primary, until another has taken over
    PausePrimary,
    /// A storage process that does not serve is killed and starts again with an empty disk: a new member
    LostDisk,
    /// The disk of a storage process takes nothing more (RLIMIT_FSIZE): it ends, and starts again once there is room
    FullDisk,
    /// A bit of what a storage process has written is flipped, while it is down or up, and it starts again
    BitFlip,
    /// Each sync of one storage process, or of all, takes longer
    SlowDisk,
    /// The wall clock of a process jumps, ahead or back, and later returns
    ClockJump,
    /// Every role, one after the other, drained and started again.
    Rolling,
    /// All links cut at once.
    Cut,
    /// One direction or both deliver nothing; the connections stay.
    Freeze,
    /// Everything takes longer.
    Delay,
    /// A terminal dies between receiving and storing.
    KillTerminal,
    /// A terminal starts from nothing.
    Reinstall,
    /// A second device that was away looks in, and is away again
    LookIn,
}

impl Kind {
    const ALL: [Self; 15] = [
        Self::Kill,
        Self::Pause,
        Self::PausePrimary,
        Self::LostDisk,
        Self::FullDisk,
        Self::BitFlip,
        Self::SlowDisk,
        Self::ClockJump,
        Self::Rolling,
        Self::Cut,
        Self::Freeze,
        Self::Delay,
        Self::KillTerminal,
        Self::Reinstall,
        Self::LookIn,
    ];

    /// First word of its name in a history.
    fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::PausePrimary => "pause-primary",
            Self::LostDisk => "lost-disk",
            Self::FullDisk => "full-disk",
            Self::BitFlip => "bit-flip",
            Self::SlowDisk => "slow-disk",
            Self::ClockJump => "clock-jump",
            Self::Rolling => "roll",
            Self::Cut => "cut",
            Self::Freeze => "freeze",
            Self::Delay => "delay",
            Self::KillTerminal => "kill-terminal",
            Self::Reinstall => "reinstall",
            Self::LookIn => "look-in",
        }
    }
}

/// The kinds that were asked for; all, if none was.
pub(super) fn kinds(asked: &[Kind]) -> &[Kind] {
    if asked.is_empty() { &Kind::ALL } else { asked }
}

/// The faults that a run of this length promises.
pub(super) fn planned(kinds: &[Kind], length: Duration) -> Vec<String> {
    let fits = length.as_millis() >= LONGEST.as_millis() * kinds.len() as u128 / 2;
    let kinds = if fits { kinds } else { &[] };
    let mut planned: Vec<_> = kinds
        .iter()
        .map(|kind| format!("{} *", kind.word()))
        .collect();
    if planned.is_empty() {
        planned.push("*".to_owned());
    }
    planned
}

/// Does them.
pub(super) struct Faults {
    kinds: Vec<Kind>,
    rng: Mutex<Rng>,
    cluster: Arc<Mutex<Cluster>>,
    crowd: Arc<Crowd>,
    relay: Arc<Relay>,
    history: Arc<History>,
}

impl Faults {
    pub(super) fn new(
        (kinds, seed): (&[Kind], u64),
        cluster: Arc<Mutex<Cluster>>,
        crowd: Arc<Crowd>,
        relay: Arc<Relay>,
        history: Arc<History>,
    ) -> Self {
        Self {
            kinds: kinds.to_vec(),
            rng: Mutex::new(Rng::from_seed(seed)),
            cluster,
            crowd,
            relay,
            history,
        }
    }

    /// Fault after fault until the time has come; what was done.
    pub(super) fn go_on_until(&self, begun: Instant, end: Instant) -> anyhow::Result<Vec<Done>> {
        let mut done = Vec::new();
        let mut ahead: Vec<Kind> = Vec::new();
        loop {
            let quiet = self.between(QUIET_MS);
            if Instant::now() + quiet >= end {
                std::thread::sleep(end.saturating_since(Instant::now()));
                return Ok(done);
            }
            std::thread::sleep(quiet);
            self.start_ended(begun, &mut done)?;
            if ahead.is_empty() {
                ahead = self.shuffled();
            }
            let Some(kind) = ahead.pop() else { continue };
            let from = begun.elapsed();
            let target = self.fault(kind)?;
            done.push(Done {
                from,
                to: begun.elapsed(),
                what: format!("{} {target}", kind.word()),
            });
        }
    }

    /// Starts roles again that ended by themselves, as whoever looks after processes would, and tells.
    fn start_ended(&self, begun: Instant, done: &mut Vec<Done>) -> anyhow::Result<()> {
        let mut cluster = self.cluster();
        for (role, status) in cluster.ended() {
            self.history.tell(Event::Fault {
                what: "end".to_owned(),
                target: role.to_string(),
            });
            let (last_words, _) = cluster.last_words(role);
            eprintln!("{role} ended ({status}): {last_words}");
            cluster.spawn(role)?;
            done.push(Done {
                from: begun.elapsed(),
                to: begun.elapsed(),
                what: format!("end {role}"),
            });
        }
        Ok(())
    }

    /// Everything runs, nothing is in the way.
    pub(super) fn heal(&self) -> anyhow::Result<()> {
        self.network(links().mode(Mode::Open).shape(Shape::default()))?;
        let mut cluster = self.cluster();
        for (role, _) in cluster.ended() {
            cluster.spawn(role)?;
        }
        Ok(cluster.wait_healthy()?)
    }

    /// Does one and undoes it; to whom it was done.
    fn fault(&self, kind: Kind) -> anyhow::Result<String> {
        match kind {
            Kind::Kill => {
                let (role, away) = (self.role(), self.between(AWAY_MS));
                self.tell(kind, role.name());
                let mut cluster = self.cluster();
                cluster.kill(role);
                std::thread::sleep(away);
                cluster.spawn(role)?;
                Ok(role.to_string())
            }
            Kind::Pause => self.pause(kind, self.role(), self.between(STOPPED_MS)),
            Kind::PausePrimary => self.pause(kind, self.primary()?, self.between(DEPOSED_MS)),
            Kind::LostDisk => self.lose_disk(),
            Kind::FullDisk => self.fill_disk(),
            Kind::BitFlip => self.flip_bit(),
            Kind::SlowDisk => self.slow_disk(),
            Kind::ClockJump => self.jump_clock(),
            Kind::Rolling => {
                self.tell(kind, "all");
                for role in self.roles() {
                    let mut cluster = self.cluster();
                    cluster.end(role);
                    cluster.spawn(role)?;
                    cluster.wait_healthy()?;
                }
                Ok("all".to_owned())
            }
            Kind::Cut => {
                self.tell(kind, "links");
                self.network(links().mode(Mode::Reset))?;
                self.network(links().mode(Mode::Open))?;
                Ok("links".to_owned())
            }
            Kind::Freeze => self.freeze(),
            Kind::Delay => {
                let (delay, length) = (self.between(DELAY_MS), self.between(TROUBLE_MS));
                self.tell(kind, "links");
                let slow = Shape::delay(delay.as_millis() as u32);
                self.network(links().shape(slow))?;
                std::thread::sleep(length);
                self.network(links().shape(Shape::default()))?;
                Ok(format!("links by {delay:?}"))
            }
            Kind::LookIn => {
                let person = self.below(self.crowd.len());
                let name = format!("terminal-{person}");
                self.tell(kind, &name);
                // What keeps it from getting level, no later look keeps.
                drop(self.crowd.look_in(person, LOOK_IN));
                Ok(name)
            }
            Kind::KillTerminal | Kind::Reinstall => {
                let person = self.below(self.crowd.len());
                let name = format!("terminal-{person}");
                self.tell(kind, &name);
                match kind {
                    Kind::Reinstall => self.crowd.reinstall(person),
                    _ => self.crowd.kill_terminal(person),
                }
                Ok(name)
            }
        }
    }

    fn pause(&self, kind: Kind, role: Role, length: Duration) -> anyhow::Result<String> {
        let pid = self.pid(role)?;
        self.tell(kind, role.name());
        kill_process(pid, Signal::STOP).with_context(|| format!("stopping {role}"))?;
        std::thread::sleep(length);
        kill_process(pid, Signal::CONT).with_context(|| format!("continuing {role}"))?;
        Ok(role.to_string())
    }

    fn lose_disk(&self) -> anyhow::Result<String> {
        let (primary, first) = (self.primary()?, self.below(Role::STORAGE.len()));
        let others = Role::STORAGE.into_iter().cycle().skip(first);
        let role = others
            .take(Role::STORAGE.len())
            .find(|role| *role != primary);
        let role = role.expect("two of three do not serve");
        let mut cluster = self.cluster();
        cluster.kill(role);
        let disk = cluster.layout().dir.join(role.name());
        std::fs::remove_dir_all(&disk).with_context(|| disk.display().to_string())?;
        self.tell(Kind::LostDisk, role.name());
        cluster.spawn(role)?;
        Ok(role.to_string())
    }

    fn fill_disk(&self) -> anyhow::Result<String> {
        let role = Role::STORAGE[self.below(Role::STORAGE.len())];
        let pid = self.pid(role)?;
        self.tell(Kind::FullDisk, role.name());
        let full = Rlimit {
            current: Some(FULL),
            maximum: Some(FULL),
        };
        prlimit(Some(pid), Resource::Fsize, full).with_context(|| format!("limiting {role}"))?;
        let until = Instant::now() + MEETS;
        let mut cluster = self.cluster();
        // A spare writes little: it may not have met its limit by then.
        while cluster.ended().iter().all(|(ended, _)| *ended != role) {
            if Instant::now() >= until {
                cluster.kill(role);
                break;
            }
            std::thread::sleep(LOOK);
        }
        for role in cluster.layout().roles() {
            if cluster.pid(role).is_none() {
                cluster.spawn(role)?;
            }
        }
        Ok(role.to_string())
    }

    /// The storage process that serves.
    fn primary(&self) -> anyhow::Result<Role> {
        let until = Instant::now() + TAKE_OVER;
        loop {
            if let Some(primary) = self.cluster().primary() {
                return Ok(primary);
            }
            anyhow::ensure!(Instant::now() < until, "nobody serves for {TAKE_OVER:?}");
            std::thread::sleep(LOOK);
        }
    }

    fn pid(&self, role: Role) -> anyhow::Result<Pid> {
        let pid = self.cluster().pid(role);
        let pid = pid.and_then(|pid| Pid::from_raw(pid as i32));
        pid.with_context(|| format!("{role} does not run"))
    }

    fn freeze(&self) -> anyhow::Result<String> {
        let (change, name) = match self.below(3) {
            0 => (Change::one_way(TERMINALS, ACCESS), "up"),
            1 => (Change::one_way(ACCESS, TERMINALS), "down"),
            _ => (links(), "both"),
        };
        self.tell(Kind::Freeze, name);
        self.network(change.clone().mode(Mode::Stall))?;
        std::thread::sleep(self.between(TROUBLE_MS));
        self.network(change.mode(Mode::Open))?;
        Ok(name.to_owned())
    }

    fn network(&self, change: Change) -> anyhow::Result<()> {
        Ok(self.relay.set(&[change])?)
    }

    pub(super) fn tell(&self, kind: Kind, target: &str) {
        self.history.tell(Event::Fault {
            what: kind.word().to_owned(),
            target: target.to_owned(),
        });
    }

    pub(super) fn role(&self) -> Role {
        let roles = self.roles();
        roles[self.below(roles.len())]
    }

    fn roles(&self) -> Vec<Role> {
        self.cluster().layout().roles()
    }

    /// The kinds in a random order (Fisher and Yates).
    fn shuffled(&self) -> Vec<Kind> {
        let mut kinds = self.kinds.clone();
        for last in (1..kinds.len()).rev() {
            kinds.swap(last, self.below(last + 1));
        }
        kinds
    }

    pub(super) fn between(&self, (least, most): (u64, u64)) -> Duration {
        let span = most - least + 1;
        Duration::from_millis(least + self.rng().below(span))
    }

    pub(super) fn below(&self, bound: usize) -> usize {
        self.rng().below(bound as u64) as usize
    }

    fn rng(&self) -> MutexGuard<'_, Rng> {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both ways between the terminals and access.
fn links() -> Change {
    Change::both(TERMINALS, ACCESS)
}
