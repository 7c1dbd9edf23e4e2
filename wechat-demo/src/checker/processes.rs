//! Judging what processes tell: who served a store when, and who was woken.

use std::collections::BTreeMap;

use super::Invariant::{I18, I19};
use super::settle::Found;
use super::state::{Checker, Place};
use super::watch::name;
use crate::history::{Device, Event};

/// Whoever has a push token and takes nothing is woken within this: ten seconds to sync of its own accord, and as
/// long for the push.
const WAKE_NS: u64 = 20_000_000_000;

/// What storage processes and the push service have told.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// By store.
    stores: BTreeMap<String, Store>,
    /// Push tokens that were acknowledged.
    tokens: BTreeMap<Device, String>,
    /// Devices with a token for which something was acknowledged, since when.
    owed: BTreeMap<Device, (u64, Place)>,
}

/// What the processes of one store have told.
#[derive(Debug, Default)]
struct Store {
    /// Leases in the order of their lines: member, from, until, line.
    leases: Vec<(String, u64, u64, Place)>,
    /// By epoch: who served in it, and the first and the last time that it is known to have.
    served: BTreeMap<u64, Served>,
}

#[derive(Debug)]
struct Served {
    member: String,
    first: (u64, Place),
    last: (u64, Place),
}

impl Checker {
    pub(super) fn take_process(&mut self, place: Place, event: &Event) {
        match event {
            Event::Lease {
                store,
                member,
                until,
                ..
            } => {
                let store = self.processes.stores.entry(store.clone()).or_default();
                // What a process says later stands: the lease before ends here.
                let mut own = store.leases.iter_mut().rev();
                if let Some((_, _, before, _)) = own.find(|(of, ..)| of == member) {
                    *before = self.now.min(*before);
                }
                let lease = (member.clone(), self.now, *until, place);
                store.leases.push(lease);
            }
            Event::Serves {
                store,
                member,
                epoch,
                at,
            } => {
                let here = (*at, place);
                let store = self.processes.stores.entry(store.clone()).or_default();
                let served = store.served.entry(*epoch);
                let served = served.or_insert_with(|| Served {
                    member: member.clone(),
                    first: here,
                    last: here,
                });
                if served.member != *member {
                    let lines = [served.first.1, place];
                    let text = format!(
                        "both {} and {member} served in epoch {epoch}",
                        served.member
                    );
                    self.violated(I19, &lines, text);
                    return;
                }
                served.first = served.first.min(here);
                served.last = served.last.max(here);
            }
            Event::Woken { token, .. } => {
                let tokens = self.processes.tokens.iter();
                let woken = tokens.filter(|(_, of)| *of == token);
                let woken: Vec<Device> = woken.map(|(device, _)| *device).collect();
                for device in woken {
                    self.reached(device, place);
                }
            }
            _ => {}
        }
    }

    /// A device has a push token from now on; without digits it has none.
    pub(super) fn has_token(&mut self, device: Device, token: &str) {
        let processes = &mut self.processes;
        if token.is_empty() {
            processes.tokens.remove(&device);
            processes.owed.remove(&device);
        } else {
            processes.tokens.insert(device, token.to_owned());
        }
    }

    /// Something is there for a user.
    pub(super) fn owes(&mut self, user: u64, place: Place) {
        let all = Device { u: user, d: 0 }..=Device {
            u: user,
            d: u64::MAX,
        };
        for (device, _) in self.processes.tokens.range(all) {
            let since = (self.now, place);
            self.processes.owed.entry(*device).or_insert(since);
        }
    }

    /// A device has taken something, has a new link, or was woken (I18).
    pub(super) fn reached(&mut self, device: Device, place: Place) {
        let Some((since, at)) = self.processes.owed.remove(&device) else {
            return;
        };
        if self.now.saturating_sub(since) > WAKE_NS {
            let seconds = self.now.saturating_sub(since) / 1_000_000_000;
            let text = format!(
                "something was there for device {}, which took nothing for {seconds} s and was not woken",
                name(device)
            );
            self.violated(I18, &[at, place], text);
        }
    }

    /// The history is over: whoever is still owed something is looked at as well.
    pub(super) fn unreached(&mut self, place: Place) {
        let owed: Vec<Device> = self.processes.owed.keys().copied().collect();
        for device in owed {
            self.reached(device, place);
        }
    }

    /// No two processes of a store hold leases at one time, and none serves in an epoch once another has in a later
    /// one (I19).
    pub(super) fn primaries(&self, found: &mut Vec<Found>) {
        for store in self.processes.stores.values() {
            store.primaries(found);
        }
    }
}

impl Store {
    fn primaries(&self, found: &mut Vec<Found>) {
        let mut ends: BTreeMap<&str, (u64, Place)> = BTreeMap::new();
        for (member, from, until, place) in &self.leases {
            for (other, (end, at)) in &ends {
                if other != member && end > from && until > from {
                    let text = format!("{member} got a lease while {other} had one");
                    found.push((I19, vec![*at, *place], text));
                }
            }
            if until > from {
                ends.insert(member, (*until, *place));
            }
        }
        let mut later: Option<(u64, &Served)> = None;
        for (epoch, served) in self.served.iter().rev() {
            if let Some((newer, first)) = later
                && first.member != served.member
                && served.last.0 >= first.first.0
            {
                let text = format!(
                    "{} served in epoch {epoch} after {} had begun to in epoch {newer}",
                    served.member, first.member
                );
                found.push((I19, vec![first.first.1, served.last.1], text));
            }
            if later.is_none_or(|(_, first)| served.first < first.first) {
                later = Some((*epoch, served));
            }
        }
    }
}
