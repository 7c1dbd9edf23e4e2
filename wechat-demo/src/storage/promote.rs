//! What an operator does when a store must go on from a disk that may lack what was acknowledged: one of an earlier
//! day, or one that had left the view.
//!
//! Knows: one disk, and the nodes of its store at the coordinator.   Does not know: leases, other disks.
//!
//! No process outside the view becomes primary by itself (V-6). This makes a disk the store by name: under a higher
//! incarnation, so that no number is given twice and devices learn from their next sync what is lost; as another disk
//! than it was, so that no older view means it; with logs that begin anew, so that whoever joins takes a snapshot.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use prost::Message;
use rpc_core::Runtime;

use super::{
    engine::Engine,
    location::{Location, Purpose},
    role,
    store::{self, Identity},
    views::{
        self,
        machine::{Member, View},
    },
};
use crate::{
    coordinator::{Agreed, Session, agree, flags::CoordinatorFlags},
    model::Incarnation,
};

/// Flags of `wechat-demo promote`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// What is to be the store from now on; its storage process must not run
    #[command(flatten)]
    pub location: Location,
    /// HOST:PORT on which its storage process will listen
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: SocketAddr,
    /// Who agrees on the view
    #[command(flatten)]
    pub coordinator: CoordinatorFlags,
    /// Name of the store at the coordinator
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub store: String,
}

/// The coordinator's patience with this session.
const SESSION: Duration = Duration::from_secs(10);

/// Promotes, and says so. Call it from a plain thread: it brings its own runtime.
pub fn run(options: Options) -> anyhow::Result<()> {
    let runtime = Runtime::builder().workers(1).build();
    let runtime = runtime.context("the runtime cannot start")?;
    let view = runtime.block_on(move || promote(&options))?;
    println!(
        "this disk is the store now: epoch {}, incarnation {}; start its storage process on {}, then the others",
        view.epoch, view.incarnation.0, view.primary.address
    );
    Ok(())
}

fn promote(options: &Options) -> anyhow::Result<View> {
    let location = &options.location;
    let engine = location.open(Purpose::Write)?;
    engine.take_over()?;
    let identity = Identity::load(&*engine)?.filter(|identity| !identity.partial);
    let Some(identity) = identity else {
        bail!("{}: no whole store is there", location.flag());
    };
    let coordinator = options.coordinator.reach()?;
    let session = coordinator.open(SESSION).context("the coordinator")?;
    let node = session.read(&views::path(&options.store, "view"));
    let node = node.context("the view cannot be read")?;
    let before = match node.clone() {
        Some(node) => Some(views::view_of(node.data).context("the view cannot be read")?),
        None => None,
    };
    if let Some(view) = &before {
        check_store(&identity, view)?;
        check_nobody_serves(&*session, &options.store, view)?;
    }
    let address = options.listen.to_string();
    let view = begin(&*engine, location.is_shared(), identity, before, address)?;
    let data = view.to_proto().encode_to_vec();
    let path = views::path(&options.store, "view");
    match agree(&*session, &path, node.map(|node| node.version), &data) {
        Ok(Agreed::Ours(_)) => Ok(view),
        Ok(Agreed::Theirs(_)) => {
            bail!("the view has changed meanwhile; look who serves, and run this again")
        }
        Err(fault) => {
            Err(fault).context("it is not known whether the view was changed; run this again")
        }
    }
}

fn check_store(identity: &Identity, view: &View) -> anyhow::Result<()> {
    if identity.id == view.store_id && identity.place.shards() as u32 == view.shards {
        return Ok(());
    }
    bail!("the coordinator's view is of another store than the one on this disk; check --store")
}

/// Whoever is in the view has more than a disk that is not, and goes on by itself.
fn check_nobody_serves(session: &dyn Session, store: &str, view: &View) -> anyhow::Result<()> {
    let live = views::live_members(session, store).context("the live processes cannot be read")?;
    for member in view.members() {
        if live.iter().any(|live| live.disk == member.disk) {
            bail!(
                "the storage process on {} lives and is a member of the view; leave the store to it, or stop it first",
                member.address
            );
        }
    }
    Ok(())
}

/// Makes the disk another one, whose store begins a new incarnation; the view that says so.
fn begin(
    engine: &dyn Engine,
    shared: bool,
    mut identity: Identity,
    before: Option<View>,
    address: String,
) -> anyhow::Result<View> {
    let (epoch, incarnation) =
        before.map_or((0, Incarnation(0)), |view| (view.epoch, view.incarnation));
    identity.epoch = identity.epoch.max(epoch) + 1;
    let incarnation = identity.incarnation.max(incarnation).0.checked_add(1);
    let incarnation = incarnation
        .context("all incarnations are used up; export this store and import it as a new one")?;
    identity.incarnation = Incarnation(incarnation);
    let disk = store::begin_anew(engine, &identity)?;
    let disk = if shared {
        role::disk_of(&address)
    } else {
        disk
    };
    Ok(View {
        epoch: identity.epoch,
        primary: Member {
            address,
            disk,
            idc: String::new(),
        },
        backup: None,
        follower: None,
        sole: false,
        incarnation: identity.incarnation,
        proposal: Bytes::copy_from_slice(&store::new_disk()),
        store_id: identity.id,
        shards: identity.place.shards() as u32,
    })
}
