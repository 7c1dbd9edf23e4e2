//! The primary's beacons: one coroutine a call, so that a member that hangs delays no other's.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rpc_core::base::time::since_boot;
use rpc_core::{Channel, Handle};

use super::Views;
use super::machine::{Member, Time, Times};
use crate::proto::storage as pb;

/// How often it looks whether a beacon is due. Without a lease one is due at each look.
const LOOK: Duration = Duration::from_millis(50);

/// A member as beacons reach it.
struct Way {
    client: pb::ReplicaClient,
    sent: Time,
    /// One at a time is under way.
    busy: Arc<AtomicBool>,
}

/// Sends beacons while this process is primary. Runs until [`Views::stop`]; calls are made on `home`.
pub fn send_beacons(views: &Views, home: &Handle) {
    let times = Times::default();
    let mut ways: HashMap<String, Way> = HashMap::new();
    while !views.stopped() {
        let (epoch, members) = views.with(|machine, _| machine.beacons());
        ways.retain(|address, _| members.iter().any(|member| member.address == *address));
        let pause = if views.may_serve() {
            times.beacon
        } else {
            LOOK
        };
        for member in members {
            let now = since_boot();
            let Some(way) = way(&mut ways, &member, times) else {
                continue;
            };
            if now < way.sent + pause || way.busy.swap(true, Ordering::AcqRel) {
                continue;
            }
            way.sent = now;
            let (views, client, busy) = (views.clone(), way.client.clone(), Arc::clone(&way.busy));
            drop(home.spawn(move || {
                beacon(&views, &client, epoch);
                busy.store(false, Ordering::Release);
            }));
        }
        std::thread::sleep(LOOK);
    }
}

fn way<'w>(
    ways: &'w mut HashMap<String, Way>,
    member: &Member,
    times: Times,
) -> Option<&'w mut Way> {
    if !ways.contains_key(&member.address) {
        // An answer that took longer than a lease is of no use.
        let channel = Channel::builder(&member.address)
            .deadline(times.backup.lease / 2)
            .connect_lazy();
        let way = Way {
            client: pb::ReplicaClient::new(channel.ok()?),
            sent: Time::ZERO,
            busy: Arc::default(),
        };
        ways.insert(member.address.clone(), way);
    }
    ways.get_mut(&member.address)
}

fn beacon(views: &Views, client: &pb::ReplicaClient, epoch: u64) {
    // The lease counts from before it left.
    let sent = since_boot();
    let from = views.with(|machine, _| machine.me().to_proto());
    let request = pb::BeaconRequest {
        epoch,
        from: Some(from),
    };
    let Ok(reply) = client.beacon(request) else {
        return;
    };
    views.with(|machine, now| {
        if reply.epoch > epoch {
            machine.over(reply.epoch);
        } else {
            machine.answered(&reply.disk, epoch, sent, now);
        }
    });
}
