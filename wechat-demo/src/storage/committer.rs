//! The committer: the one thread that writes, and the queue before it.
//!
//! Requests come from coroutines; the thread takes all that wait into one round, so the longer a sync
//! takes the more requests share the next one. While the backup is away the round waits for it, the queue
//! fills, and what no longer fits is told `Unavailable` at once.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::{
    copies::Fatal,
    ops::{Op, Refusal, RefusalKind},
    shard::Moved,
    store::{Job, Reply, Round, Store},
};
use crate::model::limits::WAITING_REQUESTS;

/// The way to a committer; cheap to clone.
#[derive(Clone, Default)]
pub struct Submit {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Oldest first, at most [`WAITING_REQUESTS`].
    jobs: VecDeque<Job>,
    /// Nothing more is taken; the committer ends when the queue is empty.
    closed: bool,
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
        if queue.jobs.len() >= WAITING_REQUESTS {
            let text =
                format!("{WAITING_REQUESTS} requests wait for the store already; try again soon");
            return Err(Refusal::new(RefusalKind::Unavailable, text));
        }
        queue.jobs.push_back(Job { op, reply });
        let first = queue.jobs.len() == 1;
        drop(queue);
        if first {
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    /// Ends the committer after what waits is done.
    pub fn close(&self) {
        self.queue().closed = true;
        self.shared.wake.notify_all();
    }

    /// Waits for jobs unless `busy`; false when the committer is to end.
    fn take(&self, jobs: &mut VecDeque<Job>, busy: bool) -> bool {
        let mut queue = self.queue();
        while queue.jobs.is_empty() && !busy && jobs.is_empty() && !queue.closed {
            queue = self
                .shared
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if jobs.is_empty() {
            // The emptied buffer goes back: no allocation per round.
            std::mem::swap(jobs, &mut queue.jobs);
        }
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

/// Runs rounds on the calling thread until the way is closed or the store fails. `moved` gets what
/// becomes visible, after the answers; it must not wait.
pub fn run(
    mut store: Store,
    submit: &Submit,
    mut moved: impl FnMut(Vec<Moved>),
) -> Result<(), Fatal> {
    let mut jobs = VecDeque::new();
    while submit.take(&mut jobs, store.has_work()) {
        let Round {
            answers,
            moved: items,
        } = store.round(&mut jobs)?;
        for (reply, answer) in answers {
            reply(answer);
        }
        if !items.is_empty() {
            moved(items);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, path::Path, thread};

    use bytes::Bytes;

    use super::*;
    use crate::{
        model::{Placement, SyncKey, UserId, clock::SystemClock},
        proto::{storage as pb, terminal},
        storage::{
            copies::{Copies, Peer, PeerError, backup::Backup},
            engine::embedded::Embedded,
            links::Links,
            primary::Primary,
            store::Identity,
            timeline,
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
        let copies = Copies::new(peer, identity.id.clone(), Box::new(|| Err(Fatal::Stopped)));
        Store::start(engine, Arc::new(SystemClock), identity, copies).unwrap()
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
        UserId(user_id)
    }

    /// Sends `count` messages one after the other, as a terminal does.
    fn talk(primary: &Primary, sender: UserId, receiver: UserId, count: u64) {
        for n in 0..count {
            let outgoing = terminal::Outgoing {
                client_id: Bytes::from([n.to_be_bytes(), receiver.0.to_be_bytes()].concat()),
                text: format!("message {n} of {} to {}", sender.0, receiver.0),
            };
            let request = Some(terminal::SendRequest {
                receiver: receiver.0,
                messages: vec![outgoing],
            });
            primary
                .send(pb::SendMessages {
                    sender: sender.0,
                    request,
                })
                .unwrap();
        }
    }

    #[test]
    fn a_store_on_disk_serves_many_at_once_and_is_whole_after_a_restart() {
        const PAIRS: usize = 16;
        const EACH: u64 = 40;
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let submit = Submit::new();
        let links = Arc::new(Links::default());
        let primary = Arc::new(Primary::new(
            &store,
            submit.clone(),
            links,
            Arc::new(SystemClock),
        ));
        let shut = submit.clone();
        let committer = thread::spawn(move || run(store, &shut, drop));
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
            let page = timeline::sync(&*store.engine(), user, SyncKey(0), 1000).unwrap();
            let numbers: HashSet<_> = page.items.iter().collect();
            // Account, contact, and the messages of both.
            assert_eq!(
                (page.items.len(), numbers.len()),
                (2 + 2 * EACH as usize, 2 + 2 * EACH as usize)
            );
        }
    }
}
