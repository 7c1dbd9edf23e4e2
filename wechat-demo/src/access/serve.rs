//! What an access process does for its links: take up what they ask for, hand them what moved.
//!
//! Commands run in coroutines, a few at a time per link, so that a send that waits for storage holds up
//! neither syncs nor beats of the same link. Those that decide whom the link speaks for run alone.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rpc_core::base::time::unix_nanos;
use rpc_core::rpc::protocol::Work;
use rpc_core::{BoundServer, Error, Server, ServerHandle, ServerTls};

use super::backend::{Answer, Backend, Refusal};
use super::commands;
use super::link::{Links, Plain};
use super::meter::Meter;
use super::registrar::{Registrar, Sweep, beat_key};
use super::session::{Closing, Event, Limits, Request};
use super::table::{Link, Place, Table};
use super::websocket::WebSocket;
use crate::proto::access as access_pb;
use crate::proto::terminal as pb;
use crate::task::spawn;

/// A terminal that takes nothing for so long does not read.
const STALL: Duration = Duration::from_secs(30);
/// Pause between steps of the sweep.
const SWEEP: Duration = Duration::from_secs(1);
/// Connections above the links that a port takes, so that those too many are told from those that never
/// spoke.
const SPARE: usize = 64;

/// What an access process is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// HOST:PORT where primaries reach this process's RPC port.
    pub rpc_address: String,
    /// Links at once; more are turned away.
    pub max_links: u64,
    /// Bounds of each link.
    pub limits: Limits,
}

/// An access process's state: everything but its listeners.
pub struct Access {
    settings: Settings,
    backend: Arc<dyn Backend>,
    table: Table,
    registrar: Arc<Registrar>,
    meter: Arc<Meter>,
    next_link: AtomicU64,
    /// The port for terminals, once it is bound.
    port: OnceLock<ServerHandle>,
    draining: Mutex<bool>,
    /// `draining` was set.
    drained: Condvar,
}

/// The port for terminals: long links, and WebSocket at `/link`; over TLS as well where it is given.
pub struct Door {
    access: Arc<Access>,
    server: BoundServer,
}

impl Door {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Serves until [`Access::drain`].
    ///
    /// # Errors
    /// The listener broke.
    pub fn serve(self) -> Result<(), Error> {
        let access = Arc::clone(&self.access);
        spawn("link-sweep", move || access.sweep());
        let served = self.server.serve();
        self.access.stop_sweep();
        served
    }
}

impl Access {
    /// A process without links.
    #[must_use]
    pub fn new(settings: Settings, backend: Arc<dyn Backend>) -> Arc<Self> {
        let address = settings.rpc_address.clone();
        Arc::new(Self {
            registrar: Arc::new(Registrar::new(Arc::clone(&backend), address)),
            settings,
            backend,
            table: Table::default(),
            meter: Arc::default(),
            next_link: AtomicU64::new(unix_nanos()),
            port: OnceLock::new(),
            draining: Mutex::new(false),
            drained: Condvar::new(),
        })
    }

    /// Listens for terminals on `HOST:PORT`; nothing is accepted before [`Door::serve`].
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn bind(self: &Arc<Self>, address: &str, tls: Option<ServerTls>) -> Result<Door, Error> {
        let limits = self.settings.limits;
        let max_links = usize::try_from(self.settings.max_links).unwrap_or(usize::MAX);
        let mut server = Server::builder()
            .add_protocol(Links::<Plain>::new(Arc::clone(self)))
            .add_protocol(Links::<WebSocket>::new(Arc::clone(self)))
            .console(false)
            .handle_signals(false)
            .first_bytes_within(limits.opening)
            .max_connections(max_links.saturating_add(SPARE))
            .unwritten(limits.bytes / 4, 2 * limits.bytes, STALL);
        if let Some(tls) = tls {
            server = server.tls(tls);
        }
        let server = server.bind(address)?;
        self.port.get_or_init(|| server.handle());
        Ok(Door {
            access: Arc::clone(self),
            server,
        })
    }

    /// The counters.
    #[must_use]
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Hands notifies to their links; the links that are not here.
    pub fn notify(&self, targets: Vec<access_pb::Target>) -> Vec<u64> {
        let mut gone = Vec::new();
        for target in targets {
            let link = self.table.get(target.link);
            let link =
                link.filter(|link| link.caller().is_some_and(|c| c.user_id == target.user_id));
            let Some(link) = link else {
                Meter::add(&self.meter.gone);
                gone.push(target.link);
                continue;
            };
            if let Some(notify) = target.notify {
                Meter::add(&self.meter.notifies);
                link.notify(notify);
            }
            if !target.signs.is_empty() {
                Meter::add(&self.meter.signs);
                link.sign(target.signs);
            }
        }
        gone
    }

    /// Ends one link; its terminal comes back by itself. `false`: it is not here.
    pub fn close_link(&self, number: u64) -> bool {
        let link = self.table.get(number);
        if let Some(link) = &link {
            link.close(Closing::Draining);
        }
        link.is_some()
    }

    /// The links that speak for somebody.
    pub(super) fn link_numbers(&self) -> Vec<u64> {
        let links = self.table.after(0, usize::MAX);
        links.iter().map(|link| link.number).collect()
    }

    /// Ends every link once its commands are answered; new ones are turned away.
    pub fn drain(&self) {
        self.stop_sweep();
        if let Some(port) = self.port.get() {
            port.drain();
        }
    }

    /// The bounds of each link.
    pub(super) fn limits(&self) -> Limits {
        self.settings.limits
    }

    /// A link begins.
    pub(super) fn open(&self) -> Arc<Link> {
        let number = self.next_link.fetch_add(1, Ordering::Relaxed);
        let link = Link::new(number, self.settings.limits, Arc::clone(&self.meter));
        Meter::add(&self.meter.accepted);
        let before = self.meter.links.fetch_add(1, Ordering::AcqRel);
        if before >= self.settings.max_links {
            link.close_quietly(Closing::TooManyLinks);
        }
        Arc::new(link)
    }

    /// A link has ended. Never waits.
    pub(super) fn left(&self, link: &Link) {
        if self.table.remove(link) {
            self.registrar.forget(link);
        }
        self.meter.links.fetch_sub(1, Ordering::AcqRel);
    }

    /// Does what a terminal asks for, or says what is to be done in a coroutine. On the driver's turn:
    /// answers quietly.
    pub(super) fn take_up(self: &Arc<Self>, link: &Arc<Link>, event: Event) -> Option<Work> {
        match event {
            Event::Noop => {
                Meter::add(&self.meter.beats);
                if !link.is_authenticated() {
                    link.beat_quietly(None);
                    return None;
                }
                Some(self.beside(link, false, |access, place| {
                    let link = Arc::clone(&place.link);
                    access.registrar.renew(&link, move |newest| {
                        place.link.beat(beat_key(&place.link, newest));
                    });
                }))
            }
            Event::Command(request) => {
                Meter::add(&self.meter.commands);
                self.command(link, request)
            }
        }
    }

    fn command(self: &Arc<Self>, link: &Arc<Link>, request: Request) -> Option<Work> {
        let Request { cmd, seq, body } = request;
        let refuse = |refusal: Refusal| {
            Meter::add(&self.meter.refusals);
            link.reply_quietly(cmd, seq, &commands::reply(Err(refusal)));
            None
        };
        let command = match commands::parse(cmd) {
            Ok(command) => command,
            Err(refusal) => return refuse(refusal),
        };
        match (command, link.caller()) {
            (pb::Command::Auth, None) => Some(self.beside(link, true, move |access, place| {
                access.authenticate(&place.link, seq, body);
            })),
            (pb::Command::Auth, Some(_)) => refuse(Refusal::already_authenticated()),
            (pb::Command::Register | pb::Command::Login, _) => {
                Some(self.beside(link, true, move |access, place| {
                    let result = access.backend.open_command(command, body);
                    access.answer(&place.link, cmd, seq, result);
                }))
            }
            (_, None) => refuse(Refusal::not_authenticated(command)),
            (pb::Command::SetActive, Some(_)) => {
                Some(self.beside(link, false, move |access, place| {
                    access.set_active(&place.link, seq, body);
                }))
            }
            (_, Some(caller)) => Some(self.beside(link, false, move |access, place| {
                let result = access.backend.command(caller, command, body);
                access.answer(&place.link, cmd, seq, result);
            })),
        }
    }

    /// Answers, then tells the home: that somebody is there, or no longer.
    fn set_active(&self, link: &Arc<Link>, seq: u32, body: Bytes) {
        let command = pb::Command::SetActive;
        match pb::SetActiveRequest::decode(body) {
            Ok(request) => {
                self.answer(link, command as u32, seq, Ok(Answer::default()));
                link.set_active(request.active);
                self.registrar.renew(link, drop);
            }
            Err(error) => {
                let refusal = Refusal::undecodable(command, &error);
                self.answer(link, command as u32, seq, Err(refusal));
            }
        }
    }

    fn authenticate(&self, link: &Arc<Link>, seq: u32, body: Bytes) {
        let cmd = pb::Command::Auth as u32;
        match self.register(link, body) {
            Ok(reply) => {
                let answer = Answer {
                    body: reply.encode_to_vec().into(),
                    told: reply.newest,
                };
                link.finish_auth(cmd, seq, &commands::reply(Ok(answer)), reply.newest);
            }
            Err(refusal) => {
                self.answer(link, cmd, seq, Err(refusal));
                if link.caller().is_some() {
                    // It carries a caller but was not registered: the terminal tries a new one.
                    link.close(Closing::HomeUnreachable);
                }
            }
        }
    }

    /// registers first, answers then.
    fn register(&self, link: &Arc<Link>, body: Bytes) -> Result<pb::AuthReply, Refusal> {
        let request = pb::AuthRequest::decode(body)
            .map_err(|error| Refusal::undecodable(pb::Command::Auth, &error))?;
        let caller = self.backend.authenticate(request.token)?;
        link.begin_auth(caller, request.active);
        if let Some(older) = self.table.insert(Arc::clone(link)) {
            older.close(Closing::TakenOver);
        }
        let newest = self.registrar.newest(link);
        Ok(pb::AuthReply {
            user_id: caller.user_id,
            device_id: caller.device_id,
            newest: newest.ok_or_else(Refusal::unreachable)?,
        })
    }

    fn answer(&self, link: &Link, cmd: u32, seq: u32, result: Result<Answer, Refusal>) {
        match &result {
            Ok(answer) => {
                link.tell(answer.told);
            }
            Err(_) => Meter::add(&self.meter.refusals),
        }
        link.reply(cmd, seq, &commands::reply(result));
    }

    /// Work beside the link's other commands, or `alone`: then the next ones wait for it.
    fn beside(
        self: &Arc<Self>,
        link: &Arc<Link>,
        alone: bool,
        work: impl FnOnce(&Self, Place) + Send + 'static,
    ) -> Work {
        let (access, place) = (Arc::clone(self), link.enter(alone));
        Work::new(move || work(&access, place))
    }

    fn sweep(&self) {
        let mut sweep = Sweep::default();
        loop {
            let waited = self
                .drained
                .wait_timeout_while(self.draining(), SWEEP, |draining| !*draining);
            let (draining, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if *draining {
                return;
            }
            drop(draining);
            sweep.step(&self.table, &self.registrar, &self.meter);
        }
    }

    fn stop_sweep(&self) {
        *self.draining() = true;
        self.drained.notify_all();
    }

    fn draining(&self) -> MutexGuard<'_, bool> {
        self.draining.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
