//! The thread that speaks with the coordinator: says that this process lives, reads the view, proposes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rpc_core::base::time::since_boot;

use super::machine::{Proposal, Time, View};
use super::{Views, view_of};
use crate::coordinator::{Agreed, Coordinator, Event, Fault, Kind, Session, agree};
use crate::storage::{store, views};

/// A process that the coordinator has not heard of for so long is not live.
const SESSION: Duration = Duration::from_secs(3);
/// How long it listens for events between two looks at what is to be proposed.
const LISTEN: Duration = Duration::from_millis(20);
/// How often it reads the view and the live processes although nothing was told.
const READ: Duration = Duration::from_secs(1);
/// Pause while the coordinator cannot be reached.
const PAUSE: Duration = Duration::from_millis(100);
/// Of how many looks at a store that nobody knows one is written down.
const LOOKS_PER_WARNING: u64 = 100;

/// The node of the coordinator below which each store has one, by its name.
pub const STORES: &str = "/stores";

/// What the thread is made of.
pub struct Council {
    /// This process's part.
    pub views: Views,
    /// Who agrees.
    pub coordinator: Arc<dyn Coordinator>,
    /// The store's name there.
    pub store: String,
    /// Shards of a new store; `None` = this disk has a store already, or stands in another IDC, and never makes one.
    pub create: Option<u32>,
    /// This disk has a store.
    pub has_data: bool,
    /// Writes a promise to the disk; false when that could not be done now.
    pub promise: Box<dyn Fn(u64) -> bool + Send>,
}

/// A session and what is known through it.
struct Seat {
    session: Arc<dyn Session>,
    read: Time,
    /// The coordinator has said that there is no view.
    no_view: bool,
    looks: u64,
}

impl Council {
    /// Runs until [`Views::stop`].
    pub fn run(self) {
        let mut seat: Option<Seat> = None;
        while !self.views.stopped() {
            let outcome = match &mut seat {
                None => self.take_seat().map(|taken| seat = Some(taken)),
                Some(seat) => self.attend(seat),
            };
            match outcome {
                Ok(()) => {}
                Err(Fault::Lost(_)) => std::thread::sleep(PAUSE),
                Err(fault) => {
                    tracing::warn!(%fault, "the session with the coordinator is over");
                    seat = None;
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    fn path(&self, name: &str) -> String {
        views::path(&self.store, name)
    }

    /// Opens a session and says that this process lives, as long as the session does.
    fn take_seat(&self) -> Result<Seat, Fault> {
        let session = self.coordinator.open(SESSION)?;
        let above = [STORES.to_owned(), format!("{STORES}/{}", self.store)];
        for path in above.into_iter().chain([self.path("live")]) {
            match session.create(&path, b"", Kind::Lasting) {
                Ok(_) | Err(Fault::NodeExists) => {}
                Err(fault) => return Err(fault),
            }
        }
        let me = self.views.with(|machine, _| machine.me().to_proto());
        let own = self.path("live/copy-");
        session.create(&own, &me.encode_to_vec(), Kind::EphemeralSequence)?;
        session.watch(&self.path("view"))?;
        session.watch(&self.path("live"))?;
        Ok(Seat {
            session,
            read: Time::ZERO,
            no_view: false,
            looks: 0,
        })
    }

    fn attend(&self, seat: &mut Seat) -> Result<(), Fault> {
        let told = match seat.session.next_event(LISTEN) {
            Some(Event::Expired) => return Err(Fault::Expired),
            Some(Event::Changed(_) | Event::Connected) => true,
            Some(Event::Disconnected) | None => false,
        };
        let due = since_boot() >= seat.read + READ;
        let taking_over = self.views.with(|machine, now| machine.takes_over(now));
        // Before it promises anything it makes sure that the promise can be made use of.
        if told || due || taking_over {
            self.read_view(seat)?;
            seat.read = since_boot();
        }
        if told || due {
            self.read_live(seat)?;
        }
        let id = Bytes::copy_from_slice(&store::new_disk());
        let (proposal, knows) = self
            .views
            .with(|machine, now| (machine.propose(now, &id), machine.view().is_some()));
        match proposal {
            Some(proposal) => self.put_forward(seat, &proposal),
            // Whoever has seen a view never makes another store.
            None if seat.no_view && !knows => self.found(seat, &id),
            None => Ok(()),
        }
    }

    fn read_view(&self, seat: &mut Seat) -> Result<(), Fault> {
        let node = seat.session.read(&self.path("view"))?;
        seat.no_view = node.is_none();
        if let Some(node) = node
            && let Some(view) = view_of(node.data)
        {
            self.learn(node.version, view);
        }
        Ok(())
    }

    fn learn(&self, version: u64, view: View) {
        let before = self.views.with(|machine, _| machine.view().cloned());
        if before.as_ref() != Some(&view) {
            tracing::info!(
                epoch = view.epoch,
                primary = view.primary.address,
                backup = view.backup.as_ref().map(|backup| &*backup.address),
                follower = view.follower.as_ref().map(|follower| &*follower.address),
                incarnation = view.incarnation.0,
                "the view"
            );
        }
        self.views
            .with(|machine, now| machine.learn(version, view, now));
    }

    fn read_live(&self, seat: &Seat) -> Result<(), Fault> {
        let live = views::live_members(&*seat.session, &self.store)?;
        self.views.set_live(live);
        Ok(())
    }

    /// A store that nobody has yet: this process makes it, if its disk is empty.
    fn found(&self, seat: &mut Seat, id: &Bytes) -> Result<(), Fault> {
        let Some(shards) = self.create else {
            if self.has_data && seat.looks.is_multiple_of(LOOKS_PER_WARNING) {
                tracing::warn!(
                    store = self.store,
                    "the coordinator knows no view of this store, whose data are here: give it the directory \
                     it had"
                );
            }
            seat.looks += 1;
            return Ok(());
        };
        let store_id = Bytes::copy_from_slice(&store::new_disk());
        let proposal = self
            .views
            .with(|machine, _| machine.create(store_id, shards, id));
        self.put_forward(seat, &proposal)
    }

    fn put_forward(&self, seat: &mut Seat, proposal: &Proposal) -> Result<(), Fault> {
        if proposal.change.needs_promise() && !(self.promise)(proposal.view.epoch) {
            return Ok(());
        }
        let data = proposal.view.to_proto().encode_to_vec();
        match agree(&*seat.session, &self.path("view"), proposal.version, &data)? {
            Agreed::Ours(version) => {
                tracing::info!(
                    change = ?proposal.change,
                    epoch = proposal.view.epoch,
                    primary = proposal.view.primary.address,
                    backup = proposal.view.backup.as_ref().map(|backup| &*backup.address),
                    follower = proposal.view.follower.as_ref().map(|follower| &*follower.address),
                    incarnation = proposal.view.incarnation.0,
                    "the view has changed"
                );
                seat.no_view = false;
                let view = proposal.view.clone();
                self.views
                    .with(|machine, now| machine.learn(version, view, now));
            }
            Agreed::Theirs(None) => self.views.with(|machine, _| machine.refused()),
            Agreed::Theirs(Some(node)) => {
                tracing::info!(change = ?proposal.change, "another change of the view was faster");
                if let Some(view) = view_of(node.data) {
                    seat.no_view = false;
                    self.learn(node.version, view);
                }
            }
        }
        Ok(())
    }
}
