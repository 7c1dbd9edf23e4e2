//! Storage's services: what comes over RPC goes to the primary, or to the backup's one thread.

use std::sync::{
    Arc, OnceLock,
    mpsc::{SyncSender, sync_channel},
};

use rpc_core::{Request, Response, Status, rpc::status_map::EREJECT, sync::oneshot};

use super::{
    copies::backup::Backup,
    engine::EngineError,
    ops::{Refusal, Stop},
    primary::Primary,
    role::EndOnPanic,
    wire::status,
};
use crate::proto::{logic as lp, storage as pb, terminal};

/// `wechat.storage.Storage` of one process.
#[derive(Clone)]
pub struct StorageService {
    role: Role,
}

#[derive(Clone)]
enum Role {
    /// Empty until the primary has met its backup.
    Primary(Arc<OnceLock<Primary>>),
    Backup(BackupThread),
}

impl StorageService {
    /// Answers once `primary` is set.
    pub fn primary(primary: Arc<OnceLock<Primary>>) -> Self {
        Self {
            role: Role::Primary(primary),
        }
    }

    /// Sends everybody to the primary.
    pub fn backup(backup: BackupThread) -> Self {
        Self {
            role: Role::Backup(backup),
        }
    }

    /// The primary if it serves. Otherwise a status that says that the call never ran, so that the caller
    /// may go elsewhere with it.
    fn serving(&self) -> Result<&Primary, Status> {
        match &self.role {
            Role::Primary(primary) => primary.get().ok_or_else(|| {
                Status::from_errno(
                    EREJECT,
                    "the primary has not met its backup yet; try again soon",
                )
            }),
            Role::Backup(_) => Err(Status::from_errno(
                EREJECT,
                "this is the backup; ask the primary",
            )),
        }
    }

    fn call<In, Out>(
        &self,
        request: Request<In>,
        call: impl FnOnce(&Primary, In) -> Result<Out, Refusal>,
    ) -> Result<Response<Out>, Status> {
        let primary = self.serving()?;
        call(primary, request.into_inner())
            .map(Response::new)
            .map_err(status)
    }
}

impl pb::Storage for StorageService {
    fn describe(
        &self,
        _request: Request<pb::DescribeRequest>,
    ) -> Result<Response<pb::DescribeReply>, Status> {
        let reply = match &self.role {
            Role::Primary(primary) => {
                primary
                    .get()
                    .map(Primary::describe)
                    .unwrap_or_else(|| pb::DescribeReply {
                        role: pb::Role::Primary.into(),
                        ..Default::default()
                    })
            }
            Role::Backup(backup) => backup.run(|backup| {
                Ok(pb::DescribeReply {
                    role: pb::Role::Backup.into(),
                    shards: backup.shards() as u32,
                    epoch: backup.epoch(),
                    serving: false,
                })
            })?,
        };
        Ok(Response::new(reply))
    }

    fn claim_name(
        &self,
        request: Request<pb::ClaimNameRequest>,
    ) -> Result<Response<pb::ClaimNameReply>, Status> {
        self.call(request, Primary::claim_name)
    }

    fn find_name(
        &self,
        request: Request<pb::FindNameRequest>,
    ) -> Result<Response<pb::FindNameReply>, Status> {
        self.call(request, |primary, request| primary.find_name(&request))
    }

    fn create_account(
        &self,
        request: Request<pb::CreateAccountRequest>,
    ) -> Result<Response<pb::CreateAccountReply>, Status> {
        self.call(request, Primary::create_account)
    }

    fn get_account(
        &self,
        request: Request<pb::GetAccountRequest>,
    ) -> Result<Response<pb::GetAccountReply>, Status> {
        self.call(request, |primary, request| primary.get_account(&request))
    }

    fn add_device(
        &self,
        request: Request<pb::AddDeviceRequest>,
    ) -> Result<Response<pb::AddDeviceReply>, Status> {
        self.call(request, Primary::add_device)
    }

    fn remove_device(
        &self,
        request: Request<pb::RemoveDeviceRequest>,
    ) -> Result<Response<pb::RemoveDeviceReply>, Status> {
        self.call(request, Primary::remove_device)
    }

    fn check_token(
        &self,
        request: Request<pb::CheckTokenRequest>,
    ) -> Result<Response<pb::CheckTokenReply>, Status> {
        self.call(request, |primary, request| primary.check_token(&request))
    }

    fn send(
        &self,
        request: Request<pb::SendMessages>,
    ) -> Result<Response<terminal::SendReply>, Status> {
        self.call(request, Primary::send)
    }

    fn ask_contact(
        &self,
        request: Request<pb::AskContactRequest>,
    ) -> Result<Response<pb::ContactReply>, Status> {
        self.call(request, Primary::ask_contact)
    }

    fn accept_contact(
        &self,
        request: Request<pb::AcceptContactRequest>,
    ) -> Result<Response<pb::ContactReply>, Status> {
        self.call(request, Primary::accept_contact)
    }

    fn sync(
        &self,
        request: Request<pb::SyncPageRequest>,
    ) -> Result<Response<pb::SyncPage>, Status> {
        self.call(request, |primary, request| primary.sync(&request))
    }

    fn register_links(
        &self,
        request: Request<lp::RegisterLinksRequest>,
    ) -> Result<Response<lp::RegisterLinksReply>, Status> {
        self.call(request, Primary::register_links)
    }

    fn drop_links(
        &self,
        request: Request<lp::DropLinksRequest>,
    ) -> Result<Response<lp::DropLinksReply>, Status> {
        self.call(request, |primary, request| primary.drop_links(&request))
    }
}

/// The backup's one thread: files block whoever touches them, so nobody else does. Cheap to clone.
#[derive(Clone)]
pub struct BackupThread {
    jobs: SyncSender<BackupJob>,
}

type BackupJob = Box<dyn FnOnce(&mut Backup) -> Result<(), EngineError> + Send>;

/// Calls that wait for the backup's thread. Its primary makes one at a time.
const WAITING_CALLS: usize = 64;

impl BackupThread {
    /// Starts the thread. `failed` is called when the disk fails: the process must end then (S-3).
    pub fn start(
        mut backup: Backup,
        failed: impl FnOnce(EngineError) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, inbox) = sync_channel::<BackupJob>(WAITING_CALLS);
        let work = move || {
            let _guard = EndOnPanic;
            while let Ok(job) = inbox.recv() {
                if let Err(error) = job(&mut backup) {
                    return failed(error);
                }
            }
        };
        std::thread::Builder::new()
            .name("backup".to_owned())
            .spawn(work)?;
        Ok(Self { jobs })
    }

    /// Does something with the backup, on its thread.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Backup) -> Result<T, Stop> + Send + 'static,
    ) -> Result<T, Status> {
        let (sender, receiver) = oneshot::oneshot();
        let job: BackupJob = Box::new(move |backup| {
            let outcome = match work(backup) {
                Ok(reply) => Ok(reply),
                Err(Stop::Refused(refusal)) => Err(status(refusal)),
                Err(Stop::Fatal(error)) => return Err(error),
            };
            // The caller may have given up; the primary asks again then.
            drop(sender.send(outcome));
            Ok(())
        });
        let busy = || Status::unavailable("the backup is busy or has ended; try again soon");
        self.jobs.try_send(job).map_err(|_| busy())?;
        receiver.recv().map_err(|_| busy())?
    }
}

/// `wechat.storage.Replica` of a backup.
pub struct ReplicaService {
    /// The thread that has the logs.
    pub backup: BackupThread,
}

impl pb::Replica for ReplicaService {
    fn marks(
        &self,
        request: Request<pb::MarksRequest>,
    ) -> Result<Response<pb::MarksReply>, Status> {
        let request = request.into_inner();
        self.backup
            .run(move |backup| backup.marks(&request))
            .map(Response::new)
    }

    fn read_log(
        &self,
        request: Request<pb::ReadLogRequest>,
    ) -> Result<Response<pb::ReadLogReply>, Status> {
        let request = request.into_inner();
        self.backup
            .run(move |backup| backup.read_log(&request))
            .map(Response::new)
    }

    fn append(
        &self,
        request: Request<pb::AppendRequest>,
    ) -> Result<Response<pb::AppendReply>, Status> {
        let request = request.into_inner();
        self.backup
            .run(move |backup| backup.append(&request))
            .map(Response::new)
    }
}
