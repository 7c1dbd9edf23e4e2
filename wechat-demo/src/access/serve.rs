//! Accepting links and serving each: plain blocking code in a coroutine a link, which reads.
//!
//! It feeds the session and acts on its events. Whoever has something for the terminal writes it, or
//! starts a coroutine that does; an idle link has none. Commands of an authenticated link run in
//! coroutines of their own, a few at a time, so that a send that waits for storage holds up neither syncs
//! nor beats of the same link.

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;
use rpc_core::base::time::{Instant, unix_nanos};

use super::backend::{Answer, Backend, Refusal};
use super::commands;
use super::meter::Meter;
use super::registrar::{Registrar, Sweep};
use super::session::{Closing, Event, Inbound, Limits, Request};
use super::table::{Link, Table};
use crate::proto::access as access_pb;
use crate::proto::terminal as pb;
use crate::task::spawn;

/// Bytes read at once.
const READ: usize = 1 << 10;
/// A terminal that takes nothing for so long does not read.
const WRITE: Duration = Duration::from_secs(30);
/// Pause between steps of the sweep.
const SWEEP: Duration = Duration::from_secs(1);
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    registrar: Registrar,
    meter: Arc<Meter>,
    next_link: AtomicU64,
    draining: Mutex<bool>,
    /// `draining` was set.
    drained: Condvar,
}

impl Access {
    /// A process without links.
    #[must_use]
    pub fn new(settings: Settings, backend: Arc<dyn Backend>) -> Arc<Self> {
        Arc::new(Self {
            registrar: Registrar::new(backend.clone(), settings.rpc_address.clone()),
            settings,
            backend,
            table: Table::default(),
            meter: Arc::default(),
            next_link: AtomicU64::new(unix_nanos()),
            draining: Mutex::new(false),
            drained: Condvar::new(),
        })
    }

    /// The counters.
    #[must_use]
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// Accepts links until the listener fails for good or the process drains.
    pub fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let access = self.clone();
        spawn("link-sweep", move || access.sweep());
        while !*self.draining() {
            match listener.accept() {
                Ok((stream, _)) => self.open(stream),
                // The runtime ends.
                Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => return,
                // Out of descriptors, or a peer that was gone before it was accepted.
                Err(_) => std::thread::sleep(ACCEPT_PAUSE),
            }
        }
    }

    /// Hands notifies to their links; the links that are not here.
    pub fn notify(&self, targets: Vec<access_pb::Target>) -> Vec<u64> {
        let mut gone = Vec::new();
        for target in targets {
            let link = self.table.get(target.link);
            let link =
                link.filter(|link| link.caller().is_some_and(|c| c.user_id == target.user_id));
            match (link, target.notify) {
                (Some(link), Some(notify)) => {
                    Meter::add(&self.meter.notifies);
                    link.notify(notify);
                }
                (Some(_), None) => {}
                (None, _) => {
                    Meter::add(&self.meter.gone);
                    gone.push(target.link);
                }
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

    /// Ends every link; new ones are turned away.
    pub fn drain(&self) {
        *self.draining() = true;
        self.drained.notify_all();
        self.table.close_all(Closing::Draining);
    }

    fn open(self: &Arc<Self>, stream: TcpStream) {
        if self.meter.links.load(Ordering::Acquire) >= self.settings.max_links {
            Meter::add(&self.meter.turned_away);
            return;
        }
        let set = stream
            .set_nodelay(true)
            .and_then(|()| stream.set_write_timeout(Some(WRITE)));
        if set.is_err() {
            // The peer was gone before it was served.
            return;
        }
        Meter::add(&self.meter.accepted);
        Meter::add(&self.meter.links);
        let number = self.next_link.fetch_add(1, Ordering::Relaxed);
        let link = Arc::new(Link::new(number, stream, self.settings.limits));
        let access = self.clone();
        spawn("link-reader", move || access.serve(&link));
    }

    fn serve(self: &Arc<Self>, link: &Arc<Link>) {
        let reason = self.read_link(link);
        // Counted before the other end can see it.
        self.meter.closed(link.closing().unwrap_or(reason));
        link.close(reason);
        if self.table.remove(link.number) {
            self.registrar.forget(link);
        }
        self.meter.links.fetch_sub(1, Ordering::AcqRel);
    }

    /// Reads until the link is over; why it is.
    fn read_link(self: &Arc<Self>, link: &Arc<Link>) -> Closing {
        let mut session = Inbound::new(self.settings.limits, Instant::now());
        let mut bytes = [0; READ];
        let mut timeout = Duration::ZERO;
        loop {
            loop {
                match session.next_event() {
                    Err(closing) => return closing,
                    Ok(None) => break,
                    Ok(Some(event)) => self.act(link, &mut session, event),
                }
            }
            let now = Instant::now();
            if let Some(closing) = session.expired(now).or_else(|| link.closing()) {
                return closing;
            }
            let left = session
                .deadline()
                .saturating_since(now)
                .max(Duration::from_millis(1));
            // A system call per read is not worth an exact idle limit.
            if timeout > left + left / 8 || timeout < left / 2 {
                if link.stream.set_read_timeout(Some(left)).is_err() {
                    return Closing::Gone;
                }
                timeout = left;
            }
            match (&link.stream).read(&mut bytes) {
                Ok(0) => return Closing::Gone,
                Ok(length) => session.received(&bytes[..length], Instant::now()),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(_) => return Closing::Gone,
            }
        }
    }

    fn act(self: &Arc<Self>, link: &Arc<Link>, session: &mut Inbound, event: Event) {
        match event {
            Event::Noop => {
                Meter::add(&self.meter.beats);
                if session.is_authenticated() {
                    self.beside(link, |access, link| {
                        link.beat(access.registrar.newest(link))
                    });
                } else {
                    link.beat(None);
                }
            }
            Event::Command(request) => {
                Meter::add(&self.meter.commands);
                self.command(link, session, request);
            }
        }
    }

    fn command(self: &Arc<Self>, link: &Arc<Link>, session: &mut Inbound, request: Request) {
        let Request { cmd, seq, body } = request;
        let command = match commands::parse(cmd) {
            Ok(command) => command,
            Err(refusal) => return self.answer(link, cmd, seq, Err(refusal)),
        };
        match (command, link.caller()) {
            (pb::Command::Auth, None) => match self.authenticate(link, seq, body) {
                Ok(()) => session.authenticated(),
                Err(refusal) => {
                    self.answer(link, cmd, seq, Err(refusal));
                    if link.caller().is_some() {
                        // It carries a caller but was not registered: the terminal tries a new one.
                        link.close(Closing::HomeUnreachable);
                    }
                }
            },
            (pb::Command::Auth, Some(_)) => {
                self.answer(link, cmd, seq, Err(Refusal::already_authenticated()));
            }
            (pb::Command::Register | pb::Command::Login, _) => {
                let result = self.backend.open_command(command, body);
                self.answer(link, cmd, seq, result);
            }
            (_, None) => self.answer(link, cmd, seq, Err(Refusal::not_authenticated(command))),
            (_, Some(caller)) => self.beside(link, move |access, link| {
                let result = access.backend.command(caller, command, body);
                access.answer(link, cmd, seq, result);
            }),
        }
    }

    /// registers first, answers then.
    fn authenticate(&self, link: &Arc<Link>, seq: u32, body: bytes::Bytes) -> Result<(), Refusal> {
        let request = pb::AuthRequest::decode(body)
            .map_err(|error| Refusal::undecodable(pb::Command::Auth, &error))?;
        let caller = self.backend.authenticate(request.token)?;
        link.begin_auth(caller);
        self.table.insert(link.clone());
        let newest = self
            .registrar
            .newest(link)
            .ok_or_else(Refusal::unreachable)?;
        let reply = pb::AuthReply {
            user_id: caller.user_id,
            device_id: caller.device_id,
            newest,
        };
        let answer = Answer {
            body: reply.encode_to_vec().into(),
            told: newest,
        };
        link.finish_auth(
            pb::Command::Auth as u32,
            seq,
            &commands::reply(Ok(answer)),
            newest,
        );
        Ok(())
    }

    fn answer(&self, link: &Arc<Link>, cmd: u32, seq: u32, result: Result<Answer, Refusal>) {
        match &result {
            Ok(answer) => {
                link.tell(answer.told);
            }
            Err(_) => Meter::add(&self.meter.refusals),
        }
        link.reply(cmd, seq, &commands::reply(result));
    }

    /// Runs `work` beside the reader, unless too much runs already: then the reader waits, and with it
    /// the terminal's next packets.
    fn beside(
        self: &Arc<Self>,
        link: &Arc<Link>,
        work: impl FnOnce(&Self, &Arc<Link>) + Send + 'static,
    ) {
        if !link.enter() {
            return link.leave();
        }
        let (access, link) = (self.clone(), link.clone());
        spawn("link-command", move || {
            let place = Place(link);
            work(&access, &place.0);
        });
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

    fn draining(&self) -> MutexGuard<'_, bool> {
        self.draining.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among a link's commands under way; given back even by a command that panics.
struct Place(Arc<Link>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.leave();
    }
}
