//! Storage's services: what comes over RPC goes to the primary, where this process is that, or to the copy's
//! one thread.

use std::sync::{
    Arc, OnceLock, PoisonError, RwLock,
    mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
};
use std::time::Duration;

use rpc_core::{Request, Response, Status, rpc::status_map::EREJECT, sync::oneshot};

use super::{
    copies::backup::Backup,
    engine::EngineError,
    ops::{Refusal, RefusalKind, Stop},
    primary::Primary,
    views::Views,
    wire::status,
};
use crate::proto::{logic as lp, storage as pb, terminal};

/// What this process is at the moment.
#[derive(Default)]
pub struct Office {
    /// Set once the process knows its address.
    pub views: OnceLock<Views>,
    primary: RwLock<Option<Arc<Primary>>>,
}

impl Office {
    /// It serves from now on, or no longer does.
    pub fn set(&self, primary: Option<Primary>) {
        let primary = primary.map(Arc::new);
        *self.primary.write().unwrap_or_else(PoisonError::into_inner) = primary;
    }

    fn get(&self) -> Option<Arc<Primary>> {
        let primary = self.primary.read().unwrap_or_else(PoisonError::into_inner);
        primary.clone()
    }

    /// Whether it is primary, has recovered and holds its lease.
    pub fn serves(&self) -> bool {
        self.get().is_some() && self.views.get().is_some_and(Views::serves)
    }

    /// The primary if it serves. Otherwise a status that says that the call never ran, so that the caller
    /// may go elsewhere with it.
    fn serving(&self) -> Result<Arc<Primary>, Status> {
        let primary = self.get().filter(|_| self.serves());
        let text = "this process does not serve the store now; ask another, or again soon";
        primary.ok_or_else(|| Status::from_errno(EREJECT, text))
    }
}

/// `wechat.storage.Storage` of one process.
#[derive(Clone)]
pub struct StorageService {
    /// What the process is.
    pub office: Arc<Office>,
}

impl StorageService {
    /// V-4: nothing is answered without the lease, and it is looked at after the answer was made: then
    /// nobody else can have served in between.
    fn call<In, Out>(
        &self,
        request: Request<In>,
        call: impl FnOnce(&Primary, In) -> Result<Out, Refusal>,
    ) -> Result<Response<Out>, Status> {
        let primary = self.office.serving()?;
        let outcome = call(&primary, request.into_inner());
        if !self.office.serves() {
            let text = "the primary has lost its lease on the way; it may have been done: ask again with \
                        the same ids";
            return Err(status(Refusal::new(RefusalKind::Unavailable, text)));
        }
        outcome.map(Response::new).map_err(status)
    }
}

impl pb::Storage for StorageService {
    fn describe(
        &self,
        _request: Request<pb::DescribeRequest>,
    ) -> Result<Response<pb::DescribeReply>, Status> {
        let (epoch, copies) = self.office.views.get().map_or((0, 0), Views::describe);
        let primary = self.office.get();
        let role = match &primary {
            Some(_) => pb::Role::Primary,
            None => pb::Role::Backup,
        };
        Ok(Response::new(pb::DescribeReply {
            role: role.into(),
            shards: primary.map_or(0, |primary| primary.shards()),
            epoch,
            serving: self.office.serves(),
            copies,
        }))
    }

    fn claim_name(
        &self,
        request: Request<pb::ClaimNameRequest>,
    ) -> Result<Response<pb::ClaimNameReply>, Status> {
        self.call(request, Primary::claim_name)
    }

    fn deliver(
        &self,
        request: Request<pb::DeliverRequest>,
    ) -> Result<Response<pb::DeliverReply>, Status> {
        self.call(request, Primary::deliver)
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

    fn change(
        &self,
        request: Request<pb::ChangeUser>,
    ) -> Result<Response<terminal::ChangeReply>, Status> {
        self.call(request, Primary::change)
    }

    fn open_post(
        &self,
        request: Request<pb::ReadPost>,
    ) -> Result<Response<terminal::OpenPostReply>, Status> {
        self.call(request, |primary, request| primary.open_post(&request))
    }

    fn open_album(
        &self,
        request: Request<pb::ReadAlbum>,
    ) -> Result<Response<terminal::OpenAlbumReply>, Status> {
        self.call(request, |primary, request| primary.open_album(&request))
    }

    fn list_members(
        &self,
        request: Request<pb::ReadMembers>,
    ) -> Result<Response<terminal::ListMembersReply>, Status> {
        self.call(request, |primary, request| primary.list_members(&request))
    }

    fn pick_friends(
        &self,
        request: Request<pb::PickFriendsRequest>,
    ) -> Result<Response<pb::PickFriendsReply>, Status> {
        self.call(request, |primary, request| primary.pick_friends(&request))
    }

    fn check_device(
        &self,
        request: Request<pb::DeviceOf>,
    ) -> Result<Response<pb::CheckDeviceReply>, Status> {
        self.call(request, |primary, request| {
            primary.check_device(request.user_id, request.device_id)?;
            Ok(pb::CheckDeviceReply {})
        })
    }

    fn list_devices(
        &self,
        request: Request<pb::DeviceOf>,
    ) -> Result<Response<terminal::ListDevicesReply>, Status> {
        self.call(request, |primary, request| primary.list_devices(&request))
    }

    fn typing(
        &self,
        request: Request<pb::TypingTo>,
    ) -> Result<Response<terminal::TypingReply>, Status> {
        self.call(request, Primary::typing)
    }

    fn watch(
        &self,
        request: Request<pb::WatchRequest>,
    ) -> Result<Response<terminal::PresenceReply>, Status> {
        self.call(request, |primary, request| primary.watch(&request))
    }

    fn take_pushes(
        &self,
        request: Request<pb::TakePushesRequest>,
    ) -> Result<Response<pb::TakePushesReply>, Status> {
        self.call(request, |primary, request| primary.take_pushes(&request))
    }

    fn settle_pushes(
        &self,
        request: Request<pb::SettlePushesRequest>,
    ) -> Result<Response<pb::SettlePushesReply>, Status> {
        self.call(request, Primary::settle_pushes)
    }
}

/// The way to the thread that has the copy: files block whoever touches them, so nobody else does.
/// Cheap to clone.
#[derive(Clone)]
pub struct CopyThread {
    jobs: SyncSender<CopyJob>,
}

/// The thread's end of it.
pub struct CopyJobs(Receiver<CopyJob>);

type CopyJob = Box<dyn FnOnce(&mut Backup) -> Result<(), EngineError> + Send>;

/// Calls that wait for the copy's thread. Its primary makes one at a time.
const WAITING_CALLS: usize = 64;

impl CopyThread {
    /// Both ends.
    pub fn new() -> (Self, CopyJobs) {
        let (jobs, inbox) = sync_channel(WAITING_CALLS);
        (Self { jobs }, CopyJobs(inbox))
    }

    /// Does something with the copy, on its thread.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Backup) -> Result<T, Stop> + Send + 'static,
    ) -> Result<T, Status> {
        let (sender, receiver) = oneshot::oneshot();
        let job: CopyJob = Box::new(move |copy| {
            let outcome = match work(copy) {
                Ok(reply) => Ok(reply),
                Err(Stop::Refused(refusal)) => Err(status(refusal)),
                Err(Stop::Fatal(error)) => return Err(error),
            };
            // The caller may have given up; the primary asks again then.
            drop(sender.send(outcome));
            Ok(())
        });
        let busy = || Status::unavailable("the copy is busy or has ended; try again soon");
        self.jobs.try_send(job).map_err(|_| busy())?;
        receiver.recv().map_err(|_| busy())?
    }
}

impl CopyJobs {
    /// Does what is asked for within `wait`; false when nobody is left to ask.
    pub fn work(&self, copy: &mut Backup, wait: Duration) -> Result<bool, EngineError> {
        match self.0.recv_timeout(wait) {
            Ok(job) => job(copy).map(|()| true),
            Err(RecvTimeoutError::Timeout) => Ok(true),
            Err(RecvTimeoutError::Disconnected) => Ok(false),
        }
    }

    /// Lets go of what was asked of a copy that is one no longer: the callers are told to try again.
    pub fn dismiss(&self) {
        while self.0.try_recv().is_ok() {}
    }
}

/// `wechat.storage.Replica` of every storage process.
pub struct ReplicaService {
    /// What the process is.
    pub office: Arc<Office>,
    /// The thread that has the copy.
    pub copy: CopyThread,
}

impl ReplicaService {
    /// Somebody is primary in `epoch`. Where that is not news and this process is primary itself, nothing
    /// can be asked of it as of a copy.
    fn views(&self, epoch: u64, disk: &[u8]) -> Result<&Views, Status> {
        let views = self.office.views.get();
        let views = views.ok_or_else(|| Status::unavailable("the process is starting"))?;
        let (reigns, mine) = views.with(|machine, _| {
            machine.over(epoch);
            (machine.reigns(), machine.me().disk == disk)
        });
        if !mine {
            // V-1: a member is a disk, wherever its process listens.
            return Err(Status::unavailable("this process has another disk"));
        }
        if reigns || self.office.get().is_some() {
            return Err(Status::unavailable(
                "this process is primary, or was a moment ago",
            ));
        }
        Ok(views)
    }
}

impl pb::Replica for ReplicaService {
    fn marks(
        &self,
        request: Request<pb::MarksRequest>,
    ) -> Result<Response<pb::MarksReply>, Status> {
        let request = request.into_inner();
        self.views(request.epoch, &request.disk)?;
        self.copy
            .run(move |copy| copy.marks(&request))
            .map(Response::new)
    }

    fn read_log(
        &self,
        request: Request<pb::ReadLogRequest>,
    ) -> Result<Response<pb::ReadLogReply>, Status> {
        let request = request.into_inner();
        self.views(0, &request.disk)?;
        self.copy
            .run(move |copy| copy.read_log(&request))
            .map(Response::new)
    }

    fn append(
        &self,
        request: Request<pb::AppendRequest>,
    ) -> Result<Response<pb::AppendReply>, Status> {
        let request = request.into_inner();
        self.views(request.epoch, &request.disk)?;
        self.copy
            .run(move |copy| copy.append(&request))
            .map(Response::new)
    }

    fn load(&self, request: Request<pb::LoadRequest>) -> Result<Response<pb::LoadReply>, Status> {
        let request = request.into_inner();
        let epoch = request.epoch;
        let views = self.views(epoch, &request.disk)?;
        if views.with(|machine, _| machine.is_member(epoch)) {
            let text = "this process is a member of the view; what it has is not replaced";
            return Err(status(Refusal::new(RefusalKind::FailedPrecondition, text)));
        }
        self.copy
            .run(move |copy| copy.load(&request))
            .map(Response::new)
    }

    fn hand_over(
        &self,
        _request: Request<pb::HandOverRequest>,
    ) -> Result<Response<pb::HandOverReply>, Status> {
        let views = self.office.views.get();
        let views = views.ok_or_else(|| Status::unavailable("the process is starting"))?;
        let asked = views.with(|machine, now| machine.hand_over(now));
        let refused = |text| status(Refusal::new(RefusalKind::FailedPrecondition, text));
        asked.map_err(refused)?;
        Ok(Response::new(pb::HandOverReply {}))
    }

    fn beacon(
        &self,
        request: Request<pb::BeaconRequest>,
    ) -> Result<Response<pb::BeaconReply>, Status> {
        let views = self.office.views.get();
        let views = views.ok_or_else(|| Status::unavailable("the process is starting"))?;
        Ok(Response::new(views.beacon(request.epoch)))
    }
}
