//! The play: everybody's terminal, and the lines going out when their time has come.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use indicatif::ProgressBar;
use prost::Message;
use rpc_core::JoinHandle;
use rpc_core::base::rng::fill_secret;
use rpc_core::time::Instant;
use wechat_demo::cluster::{Clusters, Process};
use wechat_demo::history::{History, Recorder};
use wechat_demo::proto::terminal as pb;
use wechat_demo::proto::terminal::contact::State;
use wechat_demo::terminal::store::LocalStore;
use wechat_demo::terminal::store::durable::Depot;
use wechat_demo::terminal::store::memory::Memory;
use wechat_demo::terminal::{Beats, Config, Observer, Terminal, TerminalError};

use super::accounts::Person;
use super::kill::{Kills, Target, kill_and_restart};
use super::log::Log;
use super::parallel::parallel;
use super::report::Played;
use super::schedule::Schedule;
use super::{Flags, StoreKind};

/// Introductions made at a time.
const WIDTH: usize = 32;
/// Time for one introduction.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time for phones to get level by themselves, beside a heartbeat and a tenth.
const REST: Duration = Duration::from_secs(5);
/// Pause between looks at the play.
const LOOK: Duration = Duration::from_millis(50);
/// Pause before a line is tried again whose sender's outbox was full.
const FULL: Duration = Duration::from_millis(20);

/// Everything that takes part in the play.
pub(super) struct Stage {
    /// Where terminals connect, in each IDC.
    addresses: Vec<String>,
    history: Arc<History>,
    log: Arc<Log>,
    people: Vec<Person>,
    /// By user id.
    indexes: HashMap<u64, usize>,
    /// Lines of each conversation, by its two people.
    conversations: BTreeMap<(usize, usize), Vec<usize>>,
    /// In the order of `people`; set once, right after the stage was made.
    terminals: OnceLock<Vec<Terminal>>,
    /// First half of this run's client ids; the second is the line's index.
    tag: [u8; 8],
    schedule: Mutex<Schedule>,
    sent: AtomicUsize,
    /// Nanoseconds on the machine's clock, by line; 0 = not yet.
    sent_at: Vec<AtomicU64>,
    applied_at: Vec<AtomicU64>,
    /// The newest number acknowledged to each person.
    newest: Vec<AtomicU64>,
    /// Lines released before their time, or too early for their sender's outbox.
    later: Mutex<BinaryHeap<Reverse<(Instant, usize)>>>,
    /// `later` has a new entry.
    sooner: Condvar,
    /// When the play began, and the time between two lines; unset without `--rate`.
    pace: OnceLock<(Instant, Duration)>,
    /// The first refusal of a line: the play cannot go on.
    refused: Mutex<Option<String>>,
    over: AtomicUsize,
}

/// One person's terminal tells the stage what happened on it.
struct Seat {
    stage: std::sync::Weak<Stage>,
    person: usize,
}

impl Stage {
    /// Starts everybody's terminal.
    pub(super) fn set(
        addresses: &[String],
        log: &Arc<Log>,
        people: Vec<Person>,
        flags: &Flags,
        dir: &Path,
        history: &Arc<History>,
    ) -> anyhow::Result<Arc<Self>> {
        let mut conversations: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (index, line) in log.lines.iter().enumerate() {
            conversations
                .entry(line.conversation())
                .or_default()
                .push(index);
        }
        let mut tag = [0; 8];
        fill_secret(&mut tag);
        let times = || log.lines.iter().map(|_| AtomicU64::new(0)).collect();
        let stage = Arc::new(Self {
            addresses: addresses.to_owned(),
            history: history.clone(),
            newest: people.iter().map(|_| AtomicU64::new(0)).collect(),
            log: log.clone(),
            indexes: people
                .iter()
                .enumerate()
                .map(|(index, person)| (person.user_id, index))
                .collect(),
            people,
            conversations,
            terminals: OnceLock::new(),
            tag,
            schedule: Mutex::new(Schedule::new(log).0),
            sent: AtomicUsize::new(0),
            sent_at: times(),
            applied_at: times(),
            later: Mutex::default(),
            sooner: Condvar::new(),
            pace: OnceLock::new(),
            refused: Mutex::default(),
            over: AtomicUsize::new(0),
        });
        let depot = match flags.store {
            StoreKind::Durable => Some(Depot::open(&dir.join("terminals"))?),
            StoreKind::Memory => None,
        };
        let mut terminals = Vec::with_capacity(stage.people.len());
        for (index, person) in stage.people.iter().enumerate() {
            let store: Arc<dyn LocalStore> = match &depot {
                Some(depot) => Arc::new(depot.account(person.user_id)?),
                None => Arc::new(Memory::new(person.user_id)),
            };
            let mut config = Config::new(stage.address(index), person.token.clone());
            config.heartbeat = Beats::Fixed(flags.heartbeat);
            config.history = Some(history.recorder(person.user_id, person.device));
            let seat = Seat {
                stage: Arc::downgrade(&stage),
                person: index,
            };
            terminals.push(Terminal::start(config, store, Arc::new(seat)));
        }
        let first = stage.terminals.set(terminals);
        assert!(first.is_ok(), "the terminals are set once");
        Ok(stage)
    }

    /// Makes the two people of every conversation contacts.
    pub(super) fn introduce(self: &Arc<Self>, bar: &ProgressBar) -> anyhow::Result<()> {
        let pairs: Vec<(usize, usize)> = self.conversations.keys().copied().collect();
        bar.set_length(pairs.len() as u64);
        let (stage, counted) = (self.clone(), bar.clone());
        parallel(pairs.len(), WIDTH, move |index| {
            let (one, other) = pairs[index];
            let ids = (stage.people[one].user_id, stage.people[other].user_id);
            let introduced = introduce(stage.terminal(one), stage.terminal(other), ids);
            counted.inc(1);
            introduced.map_err(|error| {
                anyhow::anyhow!(
                    "cannot introduce {} to {}: {error:#}",
                    stage.name(one),
                    stage.name(other)
                )
            })
        })?;
        bar.finish_and_clear();
        Ok(())
    }

    /// Plays every line. Kills what is to be killed on the way.
    pub(super) fn play(
        self: &Arc<Self>,
        flags: &Flags,
        mut kills: Kills,
        cluster: &Arc<Mutex<Clusters>>,
        bar: &ProgressBar,
    ) -> anyhow::Result<Played> {
        let started = Instant::now();
        if let Some(rate) = flags.rate {
            let paced = self
                .pace
                .set((started, Duration::from_secs_f64(1.0 / rate)));
            assert!(paced.is_ok(), "a stage plays once");
        }
        let pacer = {
            let stage = self.clone();
            rpc_core::spawn(move || stage.send_later())
        };
        let (_, first) = Schedule::new(&self.log);
        for line in first {
            self.release(line);
        }
        let mut killing = Vec::new();
        let trouble = self.watch(flags, cluster, &mut kills, &mut killing, bar);
        bar.finish_and_clear();
        self.over.store(1, Ordering::Release);
        self.sooner.notify_all();
        pacer.join().map_err(|error| anyhow::anyhow!("{error}"))?;
        // Whoever was killed last is back before the comparison begins.
        for kill in killing {
            kill.join().map_err(|error| anyhow::anyhow!("{error}"))?;
        }
        let schedule = self.schedule();
        Ok(Played {
            lines: self.log.lines.len(),
            sent: self.sent.load(Ordering::Acquire),
            acked: schedule.acked_lines(),
            delivered: schedule.delivered_lines(),
            latencies: self.latencies(),
            took: started.elapsed(),
            kills: kills.done(),
            missed_kills: kills.missed(),
            trouble,
        })
    }

    /// Looks on until all is done; why it ended otherwise. `killing` gets the kills under way.
    fn watch(
        &self,
        flags: &Flags,
        cluster: &Arc<Mutex<Clusters>>,
        kills: &mut Kills,
        killing: &mut Vec<JoinHandle<()>>,
        bar: &ProgressBar,
    ) -> Option<String> {
        let lines = self.log.lines.len();
        let mut moved = (0, Instant::now());
        loop {
            let (acked, delivered, done) = {
                let schedule = self.schedule();
                (
                    schedule.acked_lines(),
                    schedule.delivered_lines(),
                    schedule.is_done(),
                )
            };
            bar.set_position(delivered as u64);
            if done {
                return None;
            }
            if let Some(refused) = self
                .refused
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
            {
                return Some(refused);
            }
            if moved.0 != acked + delivered {
                moved = (acked + delivered, Instant::now());
            } else if moved.1.elapsed() > flags.patience {
                return Some(format!(
                    "nothing has moved for {:?}: {acked} acknowledged, {delivered} delivered",
                    flags.patience
                ));
            }
            let ended = match cluster.try_lock() {
                Ok(mut cluster) => first_ended(&mut cluster),
                // Somebody is being killed and started.
                Err(_) => None,
            };
            if let Some((process, told)) = ended {
                if !flags.restart_ended {
                    return Some(told);
                }
                killing.push(self.restart(cluster, process.into()));
            }
            if let Some(target) = kills.due(delivered, lines, Instant::now()) {
                bar.suspend(|| {
                    eprintln!("killing {target} with {delivered} of {lines} lines delivered")
                });
                killing.push(self.restart(cluster, target));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Kills a role and starts it again, beside the play.
    fn restart(&self, cluster: &Arc<Mutex<Clusters>>, target: Target) -> JoinHandle<()> {
        let (cluster, history) = (cluster.clone(), self.history.clone());
        rpc_core::spawn_blocking(move || kill_and_restart(&cluster, &target, &history))
    }

    /// A line may go: now, or when its time has come.
    fn release(&self, line: usize) {
        match self.pace.get() {
            Some((began, gap)) => {
                let due = *began + gap.mul_f64(line as f64);
                if due > Instant::now() {
                    self.put_off(line, due);
                } else {
                    self.send(line);
                }
            }
            None => self.send(line),
        }
    }

    fn send(&self, line: usize) {
        let entry = &self.log.lines[line];
        let receiver = self.people[entry.receiver].user_id;
        self.sent_at[line].store(Instant::now().as_nanos(), Ordering::Release);
        match self
            .terminal(entry.sender)
            .send(receiver, self.client_id(line), entry.text.clone())
        {
            Ok(()) => {
                self.sent.fetch_add(1, Ordering::AcqRel);
            }
            Err(_full) => self.put_off(line, Instant::now() + FULL),
        }
    }

    fn put_off(&self, line: usize, until: Instant) {
        self.later
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Reverse((until, line)));
        self.sooner.notify_all();
    }

    /// The pacer: sends what was put off when its time has come.
    fn send_later(&self) {
        let mut later = self.later.lock().unwrap_or_else(PoisonError::into_inner);
        while self.over.load(Ordering::Acquire) == 0 {
            let now = Instant::now();
            let next = later.peek().map(|Reverse((until, _))| *until);
            if next.is_some_and(|until| until <= now) {
                let Some(Reverse((_, line))) = later.pop() else {
                    continue;
                };
                drop(later);
                self.send(line);
                later = self.later.lock().unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let wait = next.map_or(LOOK, |until| (until - now).min(LOOK));
            later = self
                .sooner
                .wait_timeout(later, wait)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn acked(&self, person: usize, sent: &pb::Sent) {
        self.newest[person].fetch_max(sent.number, Ordering::AcqRel);
        let Some(line) = self.line_of(&sent.client_id) else {
            return;
        };
        let next = self.schedule().acked(line);
        if let Some(next) = next {
            self.release(next);
        }
    }

    fn applied(&self, person: usize, items: &[pb::Item]) {
        let now = Instant::now().as_nanos();
        for item in items
            .iter()
            .filter(|item| item.kind == pb::Kind::Message as i32)
        {
            let Ok(message) = pb::Message::decode(item.payload.clone()) else {
                continue;
            };
            let Some(line) = self.line_of(&message.client_id) else {
                continue;
            };
            if self.log.lines[line].receiver == person {
                // Only the first time counts; a second would be a duplicate, which the checker sees.
                let _ = self.applied_at[line].compare_exchange(
                    0,
                    now,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                );
            }
            let next = self.schedule().applied(line, person);
            if let Some(next) = next {
                self.release(next);
            }
        }
        for item in items
            .iter()
            .filter(|item| item.kind == pb::Kind::Refused as i32)
        {
            let Ok(refused) = pb::Refused::decode(item.payload.clone()) else {
                continue;
            };
            self.refuse(&refused.client_id, &refused.reason);
        }
    }

    fn refuse(&self, client_id: &[u8], why: &str) {
        let line = self
            .line_of(client_id)
            .map_or_else(|| "a line".to_owned(), |line| format!("line {}", line + 1));
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get_or_insert_with(|| format!("{line} was refused: {why}"));
    }

    fn latencies(&self) -> Vec<Duration> {
        let both = self.sent_at.iter().zip(&self.applied_at);
        both.map(|(sent, applied)| {
            (
                sent.load(Ordering::Acquire),
                applied.load(Ordering::Acquire),
            )
        })
        .filter(|(_, applied)| *applied > 0)
        .map(|(sent, applied)| Duration::from_nanos(applied.saturating_sub(sent)))
        .collect()
    }

    /// Waits until every phone has what was acknowledged to its owner, without being told to ask, as long as
    /// that may take after the last fault.
    pub(super) fn rest(&self, heartbeat: Duration) {
        let until = Instant::now() + heartbeat.mul_f64(1.1) + REST;
        let is_level = |person: usize| {
            let newest = self.newest[person].load(Ordering::Acquire);
            self.terminal(person).store().key() >= newest
        };
        while !(0..self.people.len()).all(is_level) && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
    }

    /// Where a person's devices write what they see.
    pub(super) fn recorder(&self, person: usize, device: u64) -> Recorder {
        self.history.recorder(self.people[person].user_id, device)
    }

    /// Ends everybody's terminal.
    pub(super) fn close(&self) {
        self.terminals
            .get()
            .into_iter()
            .flatten()
            .for_each(Terminal::stop);
    }

    /// Where a person's phone connects: in the IDC of their home.
    fn address(&self, person: usize) -> &str {
        &self.addresses[person % self.addresses.len()]
    }

    /// Where a person's fresh device connects: in another IDC than the phone, if there are several.
    pub(super) fn elsewhere(&self, person: usize) -> &str {
        self.address(person + 1)
    }

    pub(super) fn people(&self) -> &[Person] {
        &self.people
    }

    pub(super) fn name(&self, person: usize) -> &str {
        &self.log.people[person]
    }

    pub(super) fn person_of(&self, user_id: u64) -> Option<usize> {
        self.indexes.get(&user_id).copied()
    }

    pub(super) fn terminal(&self, person: usize) -> &Terminal {
        &self
            .terminals
            .get()
            .expect("the terminals are set before anything is played")[person]
    }

    /// Everybody a person talks with, and the lines of each conversation.
    pub(super) fn conversations_of(
        &self,
        person: usize,
    ) -> impl Iterator<Item = (usize, &[usize])> {
        self.conversations
            .iter()
            .filter_map(move |(&(one, other), lines)| match person {
                p if p == one => Some((other, &lines[..])),
                p if p == other => Some((one, &lines[..])),
                _ => None,
            })
    }

    /// The line whose message carries this client id; `None` for an id that is not of this run.
    pub(super) fn line_of(&self, client_id: &[u8]) -> Option<usize> {
        let index = client_id.strip_prefix(&self.tag)?.try_into().ok()?;
        let line = usize::try_from(u64::from_be_bytes(index)).ok()?;
        (line < self.log.lines.len()).then_some(line)
    }

    fn client_id(&self, line: usize) -> Bytes {
        let mut id = BytesMut::with_capacity(16);
        id.put_slice(&self.tag);
        id.put_u64(line as u64);
        id.freeze()
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process that has ended by itself, if there is one, and its last words.
fn first_ended(clusters: &mut Clusters) -> Option<(Process, String)> {
    clusters.parts_mut().iter_mut().find_map(|part| {
        let (role, status) = part.ended().into_iter().next()?;
        let idc = part.layout().idc().map(str::to_owned);
        let process = Process { idc, role };
        let (last_words, _) = part.last_words(role);
        let told = format!("{process} ended ({status}): {last_words}");
        Some((process, told))
    })
}

impl Observer for Seat {
    fn applied(&self, items: &[pb::Item]) {
        if let Some(stage) = self.stage.upgrade() {
            stage.applied(self.person, items);
        }
    }

    fn acked(&self, sent: &pb::Sent) {
        if let Some(stage) = self.stage.upgrade() {
            stage.acked(self.person, sent);
        }
    }

    fn refused(&self, client_id: &[u8], why: &TerminalError) {
        if let Some(stage) = self.stage.upgrade() {
            stage.refuse(client_id, &why.to_string());
        }
    }
}

/// Makes two users contacts, the first asking.
pub(crate) fn introduce(
    asker: &Terminal,
    asked: &Terminal,
    (asker_id, asked_id): (u64, u64),
) -> anyhow::Result<()> {
    let request = pb::AddContactRequest {
        user_id: asked_id,
        greeting: "hello".to_owned(),
    };
    asker.call::<pb::AddContactReply>(pb::Command::AddContact, &request, PATIENCE)?;
    wait_for(asked, asker_id, State::AskedMe)?;
    let request = pb::AcceptContactRequest { user_id: asker_id };
    asked.call::<pb::AcceptContactReply>(pb::Command::AcceptContact, &request, PATIENCE)?;
    wait_for(asked, asker_id, State::Friend)?;
    wait_for(asker, asked_id, State::Friend)
}

/// Waits until a terminal's store shows the other in a state.
fn wait_for(terminal: &Terminal, other: u64, wanted: State) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let stored = terminal.store().state(pb::Kind::Contact, other)?;
        let contact = stored
            .map(|item| pb::Contact::decode(item.payload))
            .transpose()?;
        let state = contact.map(|contact| contact.state());
        if state == Some(wanted) || (state == Some(State::Friend) && wanted == State::AskedMe) {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < until,
            "no {wanted:?} within {PATIENCE:?}, but {state:?}"
        );
        terminal.refresh(PATIENCE)?;
        std::thread::sleep(LOOK / 10);
    }
}
