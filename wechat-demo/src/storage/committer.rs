//! The committer: the one thread that writes, and the queue before it.
//!
//! Requests come from coroutines; the thread takes all that wait into one round, so the longer a sync
//! takes the more requests share the next one. While the backup is away the round waits for it, the queue
//! fills, and what no longer fits is told `Unavailable` at once.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rpc_core::{
    sync::oneshot::{Sender, oneshot},
    time::Instant,
};

use super::{
    copies::Fatal,
    engine::EngineError,
    meter::Meter,
    ops::{Op, Refusal, RefusalKind},
    shard::Moved,
    store::{Job, Reached, Reply, Round, Store},
};
use crate::{
    model::{
        HomeId,
        limits::{WAITING_BYTES, WAITING_REQUESTS},
    },
    proto::storage as pb,
};

/// How often an idle committer looks after its copies.
const IDLE: Duration = Duration::from_millis(100);
/// How often it looks how much room the disk has.
const ROOM: Duration = Duration::from_secs(1);
/// With less room nothing new is taken: what is under way, and the engine's tidying up, must still fit.
const ROOM_BYTES: u64 = 256 << 20;

/// The way to a committer; cheap to clone.
#[derive(Clone, Default)]
pub struct Submit {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// What a reader has found damaged.
    damage: OnceLock<String>,
    /// The disk has less than [`ROOM_BYTES`] left.
    full: AtomicBool,
}

#[derive(Default)]
struct Queue {
    /// Oldest first, at most [`WAITING_REQUESTS`].
    jobs: VecDeque<Job>,
    /// Room that the jobs take, at most [`WAITING_BYTES`] and the last one.
    bytes: usize,
    /// Of carriers: few, a home has one carrier.
    errands: Vec<Errand>,
    /// Nothing more is taken; the committer ends when the queue is empty.
    closed: bool,
}

/// What a carrier wants.
enum Errand {
    /// Tasks for its home, as soon as there are any.
    Collect(Collect),
    /// To say how far a stream is applied there.
    Carried(Reached),
}

struct Collect {
    home: HomeId,
    most: usize,
    reply: Sender<(Vec<pb::Parcel>, u64)>,
}

impl Submit {
    /// A way to a committer that is yet to [`run`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Hands a request over. `reply` is called once it is committed or refused, on the committer's thread;
    /// it is dropped uncalled if the store ends before.
    pub fn submit(&self, op: Op, reply: Reply) -> Result<(), Refusal> {
        let mut queue = self.queue();
        if queue.closed {
            return Err(Refusal::new(
                RefusalKind::Unavailable,
                "the store is closing; try again soon",
            ));
        }
        if self.shared.full.load(Ordering::Relaxed) {
            let text = format!(
                "the store's disk has less than {} MiB left and takes nothing new; its operator must make room, then \
                 it goes on by itself",
                ROOM_BYTES >> 20
            );
            return Err(Refusal::new(RefusalKind::Unavailable, text));
        }
        if queue.jobs.len() >= WAITING_REQUESTS || queue.bytes >= WAITING_BYTES {
            let waiting = queue.jobs.len();
            let text = format!("{waiting} requests wait for the store already; try again soon");
            return Err(Refusal::new(RefusalKind::Unavailable, text));
        }
        queue.bytes += op.bytes();
        queue.jobs.push_back(Job { op, reply });
        let first = queue.jobs.len() == 1;
        drop(queue);
        if first {
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    /// A reader has met damage: the store ends where another copy can take over.
    pub fn damaged(&self, what: &str) {
        self.shared.damage.get_or_init(|| what.to_owned());
    }

    /// The disk has so many bytes left; `None` = nobody knows.
    pub fn has_room(&self, free: Option<u64>) {
        let full = free.is_some_and(|free| free < ROOM_BYTES);
        if full != self.shared.full.swap(full, Ordering::Relaxed) {
            let free = free.unwrap_or(u64::MAX);
            match full {
                true => tracing::error!(
                    free,
                    "the disk is full: nothing new is taken until there is room"
                ),
                false => tracing::info!(free, "the disk has room again"),
            }
        }
    }

    /// Waits for tasks for `home` and takes about `most` bytes of them, beside how many wait in all; `None` once
    /// the committer has ended.
    pub fn collect(&self, home: HomeId, most: usize) -> Option<(Vec<pb::Parcel>, u64)> {
        let (reply, receiver) = oneshot();
        self.run(Errand::Collect(Collect { home, most, reply }));
        receiver.recv().ok()
    }

    /// Says how far a stream is applied elsewhere.
    pub fn carried(&self, reached: Reached) {
        self.run(Errand::Carried(reached));
    }

    fn run(&self, errand: Errand) {
        let mut queue = self.queue();
        if !queue.closed {
            queue.errands.push(errand);
            self.shared.wake.notify_one();
        }
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.queue().jobs.len()
    }

    /// Ends the committer after what waits is done.
    pub fn close(&self) {
        self.queue().closed = true;
        self.shared.wake.notify_all();
    }

    /// The committer has ended: whoever waits is told, and nothing more is taken.
    pub fn end(&self) {
        let mut queue = self.queue();
        queue.closed = true;
        queue.jobs.clear();
        queue.errands.clear();
    }

    /// Waits for jobs for a while unless `busy`; false when the committer is to end.
    fn take(&self, jobs: &mut VecDeque<Job>, errands: &mut Vec<Errand>, busy: bool) -> bool {
        let mut queue = self.queue();
        let idle = queue.jobs.is_empty() && queue.errands.is_empty();
        if idle && !busy && jobs.is_empty() && !queue.closed {
            let waited = self.shared.wake.wait_timeout(queue, IDLE);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if jobs.is_empty() {
            // The emptied buffer goes back: no allocation per round.
            std::mem::swap(jobs, &mut queue.jobs);
            queue.bytes = 0;
        }
        errands.append(&mut queue.errands);
        !(queue.closed && jobs.is_empty() && !busy)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A holder of the lock only moves jobs; the queue is whole even after a panic.
        self.shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs rounds on the calling thread until the way is closed, the store fails, or another is primary. `free` tells the
/// room on the disk. `moved` gets what becomes visible, after the answers; it must not wait.
pub fn run(
    mut store: Store,
    submit: &Submit,
    meter: &Meter,
    free: impl Fn() -> Option<u64>,
    mut moved: impl FnMut(Vec<Moved>),
) -> Result<(), Fatal> {
    let mut jobs = VecDeque::new();
    let mut errands = Vec::new();
    let mut collectors = Vec::new();
    let mut looked = Instant::ZERO;
    while submit.take(&mut jobs, &mut errands, store.has_work()) {
        Meter::set(&meter.log_entries, store.log_entries());
        Meter::set(&meter.tasks_waiting, store.tasks_waiting());
        if looked.elapsed() >= ROOM {
            looked = Instant::now();
            submit.has_room(free());
        }
        for errand in errands.drain(..) {
            match errand {
                Errand::Carried(reached) => store.carried(&reached)?,
                Errand::Collect(collect) => collectors.push(collect),
            }
        }
        hand_out(&store, &mut collectors);
        if !store.tend()? {
            // Too few copies: what waits is told by its own time-out.
            if submit.queue().closed {
                return Ok(());
            }
            std::thread::sleep(IDLE);
            continue;
        }
        if let Some(what) = submit.shared.damage.get()
            && store.has_backup()
        {
            return Err(EngineError::Damaged(what.clone()).into());
        }
        if jobs.is_empty() && !store.has_work() {
            continue;
        }
        let began = Instant::now();
        let Round {
            answers,
            moved: items,
        } = store.round(&mut jobs)?;
        let refusals = answers.iter().filter(|(_, answer)| answer.is_err()).count();
        meter.round(
            began.elapsed(),
            answers.len() as u64,
            refusals as u64,
            items.len() as u64,
        );
        for (reply, answer) in answers {
            reply(answer);
        }
        if !items.is_empty() {
            moved(items);
        }
        hand_out(&store, &mut collectors);
        store.die_between_rounds();
    }
    Ok(())
}

/// Gives carriers what there is for them.
fn hand_out(store: &Store, collectors: &mut Vec<Collect>) {
    for at in (0..collectors.len()).rev() {
        let Collect { home, most, .. } = collectors[at];
        let parcels = store.parcels(home, most);
        if !parcels.is_empty() {
            // A carrier that has gone wants nothing.
            drop(
                collectors
                    .swap_remove(at)
                    .reply
                    .send((parcels, store.unapplied(home))),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, path::Path, thread};

    use bytes::Bytes;

    use super::*;
    use crate::{
        model::{DeviceId, Incarnation, Placement, UserId, clock::SystemClock},
        proto::{storage as pb, terminal},
        storage::{
            acks::Kept,
            copies::{Copies, Peer, PeerError, backup::Backup, fixed::Fixed},
            engine::{
                embedded::Embedded,
                simulated::{Disk, Fuse},
            },
            notify::Notifier,
            primary::Primary,
            push,
            store::Identity,
            timeline,
            wire::RemoteAccess,
        },
    };

    /// A backup on its own disk, in this process.
    struct Near(Mutex<Backup>);

    impl Peer for Near {
        fn marks(&self, request: pb::MarksRequest) -> Result<pb::MarksReply, PeerError> {
            Ok(self.0.lock().unwrap().marks(&request).unwrap())
        }
        fn read_log(&self, request: pb::ReadLogRequest) -> Result<pb::ReadLogReply, PeerError> {
            Ok(self.0.lock().unwrap().read_log(&request).unwrap())
        }
        fn append(&self, request: pb::AppendRequest) -> Result<pb::AppendReply, PeerError> {
            Ok(self.0.lock().unwrap().append(&request).unwrap())
        }
        fn load(&self, request: pb::LoadRequest) -> Result<pb::LoadReply, PeerError> {
            Ok(self.0.lock().unwrap().load(&request).unwrap())
        }
    }

    fn open(dir: &Path) -> Store {
        let engine = Arc::new(Embedded::open(&dir.join("primary")).unwrap());
        let identity = Identity::load(&*engine).unwrap().unwrap_or_else(|| {
            Identity::of_copy(
                Bytes::from_static(b"one store's id.."),
                Placement::new(8).unwrap(),
            )
        });
        let backup = Backup::open(Arc::new(Embedded::open(&dir.join("backup")).unwrap())).unwrap();
        let peer = Arc::new(Near(Mutex::new(backup)));
        let fixed = Fixed {
            epoch: identity.epoch + 1,
            peer: Some(peer),
            spare: None,
            pause: Box::new(|| Err(Fatal::Stopped)),
        };
        let copies = Copies::new(Box::new(fixed), identity.same(), 2);
        Store::start(engine, Arc::new(SystemClock), identity, copies).unwrap()
    }

    /// Nobody has a link.
    fn nobody() -> Arc<Notifier> {
        let (links, calls) = (Arc::default(), Arc::new(RemoteAccess::default()));
        let never = Box::new(drop);
        let notifier = Notifier::new(links, Arc::new(SystemClock), calls, never, Arc::default());
        Arc::new(notifier)
    }

    fn register(primary: &Primary, name: &str) -> UserId {
        let claim = pb::ClaimNameRequest {
            name: name.to_owned(),
            ..Default::default()
        };
        let user_id = primary.claim_name(claim).unwrap().user_id;
        let account = Some(pb::AccountRow {
            name: name.to_owned(),
            ..Default::default()
        });
        primary
            .create_account(pb::CreateAccountRequest { user_id, account })
            .unwrap();
        primary
            .add_device(pb::AddDeviceRequest {
                user_id,
                device_id: 1,
                device: Some(pb::DeviceRow::default()),
            })
            .unwrap();
        UserId(user_id)
    }

    /// Sends `count` messages one after the other, as a terminal does.
    fn talk(primary: &Primary, sender: UserId, receiver: UserId, count: u64) {
        for n in 0..count {
            let outgoing = terminal::Outgoing {
                client_id: Bytes::from([n.to_be_bytes(), receiver.0.to_be_bytes()].concat()),
                text: format!("message {n} of {} to {}", sender.0, receiver.0),
                extra: None,
                count: 0,
            };
            let request = Some(terminal::SendRequest {
                key: 0,
                receiver: receiver.0,
                messages: vec![outgoing],
                geo: false,
            });
            primary
                .send(pb::SendMessages {
                    sender: sender.0,
                    request,
                    device_id: 1,
                })
                .unwrap();
        }
    }

    #[test]
    fn a_full_disk_takes_nothing_new_and_goes_on_by_itself() {
        let submit = Submit::new();
        let ask = || {
            let op = Op::ClaimName(pb::ClaimNameRequest::default());
            submit.submit(op, Box::new(drop))
        };
        assert!(ask().is_ok());
        submit.has_room(Some(ROOM_BYTES - 1));
        let refusal = ask().unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Unavailable);
        assert!(refusal.text.contains("make room"), "{refusal:?}");
        submit.has_room(Some(ROOM_BYTES));
        assert!(ask().is_ok());
    }

    #[test]
    fn a_store_on_disk_serves_many_at_once_and_is_whole_after_a_restart() {
        const PAIRS: usize = 16;
        const EACH: u64 = 40;
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let submit = Submit::new();
        let primary = Arc::new(Primary::new(
            &store,
            submit.clone(),
            nobody(),
            Arc::new(SystemClock),
            Kept::default(),
        ));
        let shut = submit.clone();
        let committer = thread::spawn(move || run(store, &shut, &Meter::default(), || None, drop));
        let mut users = Vec::new();
        let threads: Vec<_> = (0..PAIRS)
            .map(|pair| {
                let (a, b) = (
                    register(&primary, &format!("a{pair}")),
                    register(&primary, &format!("b{pair}")),
                );
                let ask = pb::AskContactRequest {
                    user_id: a.0,
                    peer: b.0,
                    device_id: 1,
                    ..Default::default()
                };
                primary.ask_contact(ask.clone()).unwrap();
                // Asked the other way round as well: friends without waiting for the stream.
                let back = pb::AskContactRequest {
                    user_id: b.0,
                    peer: a.0,
                    ..ask
                };
                primary.ask_contact(back).unwrap();
                users.extend([a, b]);
                let primary = Arc::clone(&primary);
                thread::spawn(move || {
                    talk(&primary, a, b, EACH);
                    talk(&primary, b, a, EACH);
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        submit.close();
        committer.join().unwrap().unwrap();
        drop(primary);
        let mut store = open(dir.path());
        while store.has_work() {
            store.round(&mut VecDeque::new()).unwrap();
        }
        for user in users {
            let all = terminal::SyncRequest {
                limit: 1000,
                ..Default::default()
            };
            let page = timeline::sync(&*store.engine(), Incarnation(0), user, &all).unwrap();
            let numbers: HashSet<_> = page.items.iter().collect();
            // Account, contact, and the messages of both.
            assert_eq!(
                (page.items.len(), numbers.len()),
                (2 + 2 * EACH as usize, 2 + 2 * EACH as usize)
            );
        }
    }

    #[test]
    fn a_device_that_has_synced_is_not_woken() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let engine = store.engine();
        let submit = Submit::new();
        let clock = Arc::new(SystemClock);
        let primary = Primary::new(&store, submit.clone(), nobody(), clock, Kept::default());
        let shut = submit.clone();
        let committer = thread::spawn(move || run(store, &shut, &Meter::default(), || None, drop));
        let (ann, bob) = (register(&primary, "ann"), register(&primary, "bob"));
        let token = "00ff00ff00ff00ff".to_owned();
        let set = terminal::change_request::Change::PushToken(terminal::PushToken { token });
        let request = Some(terminal::ChangeRequest { change: Some(set) });
        primary
            .change(pb::ChangeUser {
                user_id: bob.0,
                device_id: 1,
                request,
                password: None,
                end: None,
            })
            .unwrap();
        let pending = || push::pending(&*engine, bob, DeviceId(1)).unwrap();
        let ask = pb::AskContactRequest {
            user_id: ann.0,
            peer: bob.0,
            device_id: 1,
            ..Default::default()
        };
        primary.ask_contact(ask).unwrap();
        let sync = |key| {
            let request = pb::SyncPageRequest {
                user_id: bob.0,
                device_id: 1,
                request: Some(terminal::SyncRequest {
                    key,
                    ..Default::default()
                }),
            };
            primary.sync(&request).unwrap().key
        };
        // It is on its way from shard to shard; rows of one batch are not seen all at once.
        while pending().is_none() || sync(0) < 2 {
            thread::yield_now();
        }
        let key = sync(0);
        assert!(pending().is_some(), "an answer may be lost");
        assert_eq!(sync(key), key);
        while pending().is_some() {
            thread::yield_now();
        }
        submit.close();
        committer.join().unwrap().unwrap();
    }

    /// A backup that can be away.
    struct Fickle {
        near: Near,
        away: AtomicBool,
    }

    impl Fickle {
        fn reach<T>(
            &self,
            call: impl FnOnce(&Near) -> Result<T, PeerError>,
        ) -> Result<T, PeerError> {
            if self.away.load(Ordering::SeqCst) {
                return Err(PeerError::Unreachable("it is away".to_owned()));
            }
            call(&self.near)
        }
    }

    impl Peer for Fickle {
        fn marks(&self, request: pb::MarksRequest) -> Result<pb::MarksReply, PeerError> {
            self.reach(|near| near.marks(request))
        }
        fn read_log(&self, request: pb::ReadLogRequest) -> Result<pb::ReadLogReply, PeerError> {
            self.reach(|near| near.read_log(request))
        }
        fn append(&self, request: pb::AppendRequest) -> Result<pb::AppendReply, PeerError> {
            self.reach(|near| near.append(request))
        }
        fn load(&self, request: pb::LoadRequest) -> Result<pb::LoadReply, PeerError> {
            self.reach(|near| near.load(request))
        }
    }

    #[test]
    fn while_the_backup_is_away_writes_wait_and_reads_go_on() {
        let (ours, theirs) = (Disk::default(), Disk::default());
        let near = Near(Mutex::new(
            Backup::open(Arc::new(theirs.open(Fuse::none()))).unwrap(),
        ));
        let peer = Arc::new(Fickle {
            near,
            away: AtomicBool::new(false),
        });
        let id = Bytes::from_static(b"one store's id..");
        let identity = Identity::of_copy(id, Placement::new(2).unwrap());
        // The primary's attempts go one by one through here, so the test knows when it waits.
        let (tries, tried) = std::sync::mpsc::sync_channel(0);
        let pause = Box::new(move || tries.send(()).map_err(|_| Fatal::Stopped));
        let fixed = Fixed {
            epoch: 1,
            peer: Some(peer.clone()),
            spare: None,
            pause,
        };
        let copies = Copies::new(Box::new(fixed), identity.same(), 2);
        let engine = Arc::new(ours.open(Fuse::none()));
        let store = Store::start(engine, Arc::new(SystemClock), identity, copies).unwrap();
        let submit = Submit::new();
        let primary = Arc::new(Primary::new(
            &store,
            submit.clone(),
            nobody(),
            Arc::new(SystemClock),
            Kept::default(),
        ));
        let shut = submit.clone();
        let committer = thread::spawn(move || run(store, &shut, &Meter::default(), || None, drop));
        let ann = register(&primary, "ann");
        peer.away.store(true, Ordering::SeqCst);
        let writing = {
            let primary = Arc::clone(&primary);
            thread::spawn(move || register(&primary, "bob"))
        };
        tried.recv().unwrap();
        let find = |name: &str| {
            primary.find_name(&pb::FindNameRequest {
                name: name.to_owned(),
            })
        };
        assert_eq!(find("ann").unwrap().user_id, ann.0);
        assert_eq!(find("bob").unwrap_err().kind, RefusalKind::NotFound);
        tried.recv().unwrap();
        assert!(!writing.is_finished());
        peer.away.store(false, Ordering::SeqCst);
        while !writing.is_finished() {
            // Lets an attempt that is under way go on.
            let _ = tried.try_recv();
            thread::yield_now();
        }
        let bob = writing.join().unwrap();
        assert_eq!(find("bob").unwrap().user_id, bob.0);
        submit.close();
        committer.join().unwrap().unwrap();
    }

    #[test]
    fn large_requests_fill_the_queue_sooner() {
        let submit = Submit::new();
        let large = || {
            Op::ClaimName(pb::ClaimNameRequest {
                nickname: "x".repeat(1 << 20),
                ..Default::default()
            })
        };
        let taken = (0..WAITING_REQUESTS)
            .take_while(|_| submit.submit(large(), Box::new(drop)).is_ok())
            .count();
        assert_eq!(taken, WAITING_BYTES >> 20);
    }

    #[test]
    fn a_full_queue_refuses_at_once() {
        let submit = Submit::new();
        let claim = || Op::ClaimName(pb::ClaimNameRequest::default());
        for _ in 0..WAITING_REQUESTS {
            submit.submit(claim(), Box::new(drop)).unwrap();
        }
        let refusal = submit.submit(claim(), Box::new(drop)).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Unavailable);
        submit.close();
        assert!(
            submit
                .submit(claim(), Box::new(drop))
                .unwrap_err()
                .text
                .contains("closing")
        );
    }
}
