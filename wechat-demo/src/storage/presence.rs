//! What passes: who writes to whom just now, and which devices want to know whether somebody is there.
//!
//! Knows: live links, who takes things from whom.   Does not know: numbers, logs: nothing here is kept.
//!
//! A device says whom it wants to know of, and is told at once. From then on a step each second compares
//! what each watching device was told last with what is so, and tells it what has changed. So it is the same
//! whether a link ended in order, expired or moved, somebody who comes and goes within a step is not told of,
//! and a user causes at most one sign a step and watcher.
//!
//! Invariants
//! - P-1  Nobody is told of a user who does not take things from them (accepted, not blocked) at that moment.
//! - P-2  A watch ends with the link of its device; a primary that is new has none, and devices ask again with
//!   their next heartbeat.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use prost::Message;

use super::{
    engine::{Engine, EngineError},
    links::Links,
    moments::takes_from,
    notify::Notifier,
    sequence::Given,
    shard::Moved,
    timeline,
};
use crate::{
    model::{DeviceId, Seq, UserId, clock::Clock, limits::WATCHES},
    planted::{self, Bug},
    proto::terminal::{self, Sign, sign::What},
};

/// Time between two looks at all that is watched.
const STEP: Duration = Duration::from_secs(1);

/// Who watches whom, and the way to them.
pub struct Presence {
    engine: Arc<dyn Engine>,
    links: Arc<Links>,
    clock: Arc<dyn Clock>,
    notifier: Arc<Notifier>,
    watched: Mutex<Watched>,
}

/// A device of a user.
type Device = (UserId, DeviceId);

#[derive(Default)]
struct Watched {
    /// By whom; whom each watches, and what the device was told last.
    devices: HashMap<Device, Vec<(UserId, bool)>>,
    /// Pairs in `devices`; at most [`WATCHES`].
    pairs: usize,
}

/// A change that a device is to be told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Change {
    to: Device,
    of: UserId,
    here: bool,
}

impl Presence {
    /// Nothing is watched yet.
    pub fn new(engine: Arc<dyn Engine>, clock: Arc<dyn Clock>, notifier: Arc<Notifier>) -> Self {
        Self {
            engine,
            links: Arc::clone(notifier.links()),
            clock,
            notifier,
            watched: Mutex::default(),
        }
    }

    /// Looks at what is watched for as long as somebody else has it. Waits: call it on a coroutine of its own.
    pub fn run(presence: &Weak<Self>) {
        loop {
            std::thread::sleep(STEP);
            let Some(presence) = presence.upgrade() else {
                return;
            };
            if let Err(error) = presence.step() {
                // The next step may find the row readable again; nothing rests on it.
                tracing::warn!(%error, "presence cannot be told");
            }
        }
    }

    /// Tells `to` that `from` writes, if `to` takes what `from` sends.
    pub fn typing(&self, from: UserId, to: UserId) -> Result<(), EngineError> {
        if !takes_from(&*self.engine, to, from)? {
            return Ok(());
        }
        match planted::is_on(Bug::TypingTakesNumber) {
            false => self.notifier.sign(to, None, sign(from, What::Typing(true))),
            true => self.notifier.moved(vec![self.as_item(from, to)?]),
        }
        Ok(())
    }

    /// What [`Bug::TypingTakesNumber`] makes of it.
    fn as_item(&self, from: UserId, to: UserId) -> Result<Moved, EngineError> {
        let previous = timeline::newest(&*self.engine, to)?;
        let number = Seq(previous.0 + 1);
        let item = terminal::Item {
            number: number.0,
            id: from.0,
            version: 1,
            ..terminal::Item::default()
        };
        Ok(Moved {
            user: to,
            given: Given { previous, number },
            item: item.encode_to_vec().into(),
            answered: None,
        })
    }

    /// Which of `users` are here, of those who take what the device's user sends; the device is told from now
    /// on, of these instead of those before.
    pub fn watch(
        &self,
        device: Device,
        users: &[u64],
    ) -> Result<Vec<terminal::Presence>, EngineError> {
        let now_ms = self.clock.unix_ms();
        let mut presences = Vec::with_capacity(users.len());
        for &user in users {
            if takes_from(&*self.engine, UserId(user), device.0)? {
                let here = self.links.is_here(UserId(user), now_ms);
                presences.push(terminal::Presence {
                    user_id: user,
                    here,
                });
            }
        }
        let told = presences.iter().map(|one| (UserId(one.user_id), one.here));
        self.watched().put(device, told.collect());
        Ok(presences)
    }

    /// Tells every watching device what has changed since it was told last.
    fn step(&self) -> Result<(), EngineError> {
        let now_ms = self.clock.unix_ms();
        let changes = self.watched().changes(
            |(user, device)| self.links.has(user, device, now_ms),
            |user| self.links.is_here(user, now_ms),
        );
        for Change { to, of, here } in changes {
            if takes_from(&*self.engine, of, to.0)? {
                let sign = sign(of, What::Here(here));
                self.notifier.sign(to.0, Some(to.1), sign);
            }
        }
        Ok(())
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        // Nothing under the lock panics half-way.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// Notes whom a device watches, in the place of those before; what there is no room for is not noted.
    fn put(&mut self, device: Device, mut told: Vec<(UserId, bool)>) {
        self.pairs -= self.devices.remove(&device).map_or(0, |old| old.len());
        told.truncate(WATCHES - self.pairs);
        if !told.is_empty() {
            self.pairs += told.len();
            self.devices.insert(device, told);
        }
    }

    /// What has changed for devices that still have a link; the others are let go of (P-2).
    fn changes(
        &mut self,
        linked: impl Fn(Device) -> bool,
        is_here: impl Fn(UserId) -> bool,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let pairs = &mut self.pairs;
        self.devices.retain(|&to, told| {
            if !linked(to) {
                *pairs -= told.len();
                return false;
            }
            for (of, before) in told {
                let here = is_here(*of);
                if std::mem::replace(before, here) != here {
                    changes.push(Change { to, of: *of, here });
                }
            }
            true
        });
        changes
    }
}

fn sign(from: UserId, what: What) -> Sign {
    Sign {
        from: from.0,
        what: Some(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: UserId = UserId(1);
    const BOB: UserId = UserId(2);

    fn device(user: u64) -> Device {
        (UserId(user), DeviceId(7))
    }

    #[test]
    fn a_device_is_told_of_what_has_changed_since_it_was_told() {
        let mut watched = Watched::default();
        watched.put(device(9), vec![(ANN, false), (BOB, true)]);
        let linked = |_| true;
        assert_eq!(watched.changes(linked, |user| user == BOB), []);
        let [change] = watched.changes(linked, |_| true)[..] else {
            panic!("one change")
        };
        assert_eq!(
            change,
            Change {
                to: device(9),
                of: ANN,
                here: true
            }
        );
        assert_eq!(watched.changes(linked, |_| true), [], "told once");
        assert_eq!(watched.changes(linked, |_| false).len(), 2);
    }

    #[test]
    fn a_watch_ends_with_its_devices_link_and_makes_room() {
        let mut watched = Watched::default();
        let many: Vec<_> = (0..WATCHES as u64)
            .map(|user| (UserId(user), false))
            .collect();
        watched.put(device(9), many);
        watched.put(device(8), vec![(ANN, false)]);
        assert_eq!((watched.devices.len(), watched.pairs), (1, WATCHES), "full");
        assert_eq!(watched.changes(|_| false, |_| true), []);
        assert_eq!((watched.devices.len(), watched.pairs), (0, 0));
        watched.put(device(8), vec![(ANN, false)]);
        watched.put(device(8), vec![(BOB, false)]);
        let changes = watched.changes(|_| true, |_| true);
        assert_eq!((changes.len(), changes[0].of, watched.pairs), (1, BOB, 1));
    }
}
