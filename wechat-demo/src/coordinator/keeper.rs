//! The coordinator's one thread: it alone has the tree and the disk, and answers in the order of the
//! questions, each change after its sync.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use rpc_core::base::time::since_boot;
use rpc_core::sync::oneshot::{Sender, oneshot};
use rpc_core::{Code, Request, Response, Status};

use super::disk::{Disk, DiskError};
use super::tree::{Change, Row, Tree};
use super::{Fault, WATCHES};
use crate::proto::coordinator as pb;

/// Questions that wait for the thread; beyond, the caller is told to try again.
const WAITING: usize = 1024;
/// Sessions that wait for a change of what they watch; beyond, they are answered at once.
const WAITERS: usize = 4096;
/// How often silent sessions and long waits are looked for.
const LOOK: Duration = Duration::from_millis(50);
/// A pause of the thread that is not its own doing: the process was stopped, or the machine slept.
const SLEPT: Duration = Duration::from_secs(1);
/// Longest wait of a beat.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The way to the thread; cheap to clone.
#[derive(Clone)]
pub struct Keeper {
    jobs: SyncSender<Job>,
}

type Job = Box<dyn FnOnce(&mut State) -> Result<(), DiskError> + Send>;

/// What the thread has.
struct State {
    tree: Tree,
    disk: Disk,
    waiters: Vec<Waiter>,
}

/// A beat that waits for a change.
struct Waiter {
    session: u64,
    watched: Vec<pb::Watched>,
    until: Duration,
    answer: Sender<pb::BeatReply>,
}

impl Keeper {
    /// Starts the thread over what `disk` held. `failed` is called when the disk fails: the process must
    /// end then, because what the kernel dropped would be taken for synced.
    pub fn start(
        disk: Disk,
        rows: Vec<Row>,
        failed: impl FnOnce(DiskError) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel(WAITING);
        let state = State {
            tree: Tree::load(rows, since_boot()),
            disk,
            waiters: Vec::new(),
        };
        std::thread::Builder::new()
            .name("keeper".to_owned())
            .spawn(move || {
                if let Err(error) = keep(state, &inbox) {
                    failed(error);
                }
            })?;
        Ok(Self { jobs })
    }

    /// Has the thread do something and waits for its answer.
    fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State, Sender<T>) -> Result<(), DiskError> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let busy = || Status::unavailable("the coordinator is busy or has ended; try again soon");
        let (sender, receiver) = oneshot();
        let job: Job = Box::new(move |state| work(state, sender));
        self.jobs.try_send(job).map_err(|_| busy())?;
        receiver.recv().map(Response::new).map_err(|_| busy())
    }
}

fn keep(mut state: State, inbox: &Receiver<Job>) -> Result<(), DiskError> {
    let mut looked = since_boot();
    loop {
        match inbox.recv_timeout(LOOK) {
            Ok(job) => job(&mut state)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        let now = since_boot();
        if now - looked > SLEPT {
            // It was the coordinator that was away, not they.
            state.tree.hear_all(now);
        }
        looked = now;
        let silent = state.tree.expire(now);
        state.write(&silent)?;
        state.wake();
    }
}

impl State {
    fn write(&self, rows: &[Row]) -> Result<(), DiskError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.disk.write(rows)
    }

    /// What of `watched` is not as the caller knows it.
    fn changed(&self, watched: &[pb::Watched]) -> Vec<pb::Watched> {
        let now = watched.iter().map(|known| pb::Watched {
            path: known.path.clone(),
            stamp: self.tree.stamp(&known.path),
        });
        now.zip(watched)
            .filter(|(now, known)| now.stamp != known.stamp)
            .map(|(now, _)| now)
            .collect()
    }

    /// Answers the waiting beats whose time has come.
    fn wake(&mut self) {
        let now = since_boot();
        for waiter in std::mem::take(&mut self.waiters) {
            let alive = self.tree.is_open(waiter.session);
            let changed = self.changed(&waiter.watched);
            if alive && changed.is_empty() && now < waiter.until {
                self.waiters.push(waiter);
                continue;
            }
            let fault = if alive {
                pb::Fault::None
            } else {
                pb::Fault::Expired
            };
            // Whoever asked may have gone.
            let _ = waiter.answer.send(pb::BeatReply {
                fault: fault.into(),
                changed,
            });
        }
    }
}

/// `wechat.coordinator.Coordinator`.
impl pb::Coordinator for Keeper {
    fn open(&self, request: Request<pb::OpenRequest>) -> Result<Response<pb::OpenReply>, Status> {
        let timeout = Duration::from_millis(request.timeout_ms);
        self.ask(move |state, answer| {
            let mut bytes = [0; 8];
            rpc_core::base::rng::fill_secret(&mut bytes);
            // 0 means nobody.
            let session = u64::from_be_bytes(bytes) | 1;
            let fault = match state.tree.open(session, timeout, since_boot()) {
                Ok(rows) => state.write(&rows).map(|()| pb::Fault::None)?,
                Err(fault) => wire(&fault),
            };
            let _ = answer.send(pb::OpenReply {
                session,
                fault: fault.into(),
            });
            Ok(())
        })
    }

    fn beat(&self, request: Request<pb::BeatRequest>) -> Result<Response<pb::BeatReply>, Status> {
        let request = request.into_inner();
        self.ask(move |state, answer| {
            let now = since_boot();
            let fault = match state.tree.hear(request.session, now) {
                Ok(()) if request.watched.len() > WATCHES => pb::Fault::Invalid,
                Ok(()) => pb::Fault::None,
                Err(fault) => wire(&fault),
            };
            if fault != pb::Fault::None {
                let _ = answer.send(pb::BeatReply {
                    fault: fault.into(),
                    ..Default::default()
                });
                return Ok(());
            }
            let room = state.waiters.len() < WAITERS;
            let wait = Duration::from_millis(request.wait_ms).min(LONGEST_WAIT);
            state.waiters.push(Waiter {
                session: request.session,
                watched: request.watched,
                until: if room { now + wait } else { now },
                answer,
            });
            Ok(())
        })
    }

    fn close(
        &self,
        request: Request<pb::CloseRequest>,
    ) -> Result<Response<pb::CloseReply>, Status> {
        let session = request.session;
        self.ask(move |state, answer| {
            let rows = state.tree.close(session);
            state.write(&rows)?;
            let _ = answer.send(pb::CloseReply {});
            Ok(())
        })
    }

    fn read(&self, request: Request<pb::ReadRequest>) -> Result<Response<pb::ReadReply>, Status> {
        let request = request.into_inner();
        self.ask(move |state, answer| {
            let reply = match state.tree.hear(request.session, since_boot()) {
                Err(fault) => pb::ReadReply {
                    fault: wire(&fault).into(),
                    ..Default::default()
                },
                Ok(()) => match state.tree.node(&request.path) {
                    None => pb::ReadReply {
                        fault: pb::Fault::NoNode.into(),
                        ..Default::default()
                    },
                    Some(node) => pb::ReadReply {
                        fault: pb::Fault::None.into(),
                        data: node.data.clone(),
                        version: node.version,
                        stamp: node.stamp,
                        children: state.tree.children(&request.path),
                    },
                },
            };
            let _ = answer.send(reply);
            Ok(())
        })
    }

    fn change(
        &self,
        request: Request<pb::ChangeRequest>,
    ) -> Result<Response<pb::ChangeReply>, Status> {
        let request = request.into_inner();
        let change = match request.change {
            Some(pb::change_request::Change::Create(create)) => Change::Create {
                data: create.data,
                ephemeral: create.ephemeral,
                sequence: create.sequence,
            },
            Some(pb::change_request::Change::Set(set)) => Change::Set {
                data: set.data,
                version: set.version,
            },
            Some(pb::change_request::Change::Remove(remove)) => Change::Remove {
                version: remove.version,
            },
            None => {
                return Err(Status::new(
                    Code::InvalidArgument,
                    "the request changes nothing",
                ));
            }
        };
        let (session, path) = (request.session, request.path);
        self.ask(move |state, answer| {
            let reply = match state.tree.change(session, &path, change, since_boot()) {
                Ok(((path, version), rows)) => {
                    state.write(&rows)?;
                    pb::ChangeReply {
                        fault: pb::Fault::None.into(),
                        path,
                        version,
                    }
                }
                Err(fault) => pb::ChangeReply {
                    fault: wire(&fault).into(),
                    ..Default::default()
                },
            };
            let _ = answer.send(reply);
            Ok(())
        })
    }
}

fn wire(fault: &Fault) -> pb::Fault {
    match fault {
        Fault::NoNode => pb::Fault::NoNode,
        Fault::NodeExists => pb::Fault::NodeExists,
        Fault::BadVersion => pb::Fault::BadVersion,
        Fault::NotEmpty => pb::Fault::NotEmpty,
        Fault::Expired => pb::Fault::Expired,
        Fault::Invalid | Fault::Refused(_) | Fault::Lost(_) => pb::Fault::Invalid,
        Fault::Full => pb::Fault::Full,
    }
}
