//! Tells dispatch that this access point is there and how full it is, and moves links away when it says so.
//!
//! Knows:       dispatch over RPC, the links.
//! Does not know: who else is there, why it is to be drained.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use rpc_core::base::rng::Rng;
use rpc_core::base::time::Instant;
use rpc_core::{Channel, Request};

use super::role::Options;
use super::serve::Access;
use crate::proto::dispatch::{BeatRequest, PointsClient};

/// From one beat to the next.
const BEAT: Duration = Duration::from_secs(1);
/// Time for an answer.
const ANSWER: Duration = Duration::from_millis(800);
/// Pause between looks at whether the process ends.
const LOOK: Duration = Duration::from_millis(50);

/// Whom an access process tells of itself, and what.
#[derive(Args, Clone, Debug, Default)]
pub struct BeatFlags {
    /// HOST:PORT of every dispatch process; told once a second that terminals may be sent here
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub dispatch: Vec<String>,
    /// HOST:PORT where terminals reach --listen, if that is not what --listen says
    #[arg(long, value_name = "HOST:PORT", requires = "dispatch")]
    pub reach: Option<String>,
    /// The IDC it is in, for dispatch
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub idc: String,
    /// The region of its address, for dispatch, where that is one of a carrier's network
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub region: String,
    /// The carrier of its address, for dispatch
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub carrier: String,
}

/// Everybody who is told.
pub struct Beats {
    /// All dispatch processes, by address.
    dispatch: Vec<(String, PointsClient)>,
    /// What stays the same.
    like: BeatRequest,
    access: Arc<Access>,
}

impl Beats {
    /// What the flags say of a process that takes links at `links`; `None` where nobody is to be told.
    ///
    /// # Errors
    /// A `--listen` that does not say where terminals reach it, an address of dispatch that cannot be.
    pub fn new(
        options: &Options,
        links: SocketAddr,
        access: &Arc<Access>,
    ) -> anyhow::Result<Option<Self>> {
        let flags = &options.beats;
        if flags.dispatch.is_empty() {
            return Ok(None);
        }
        ensure!(
            flags.reach.is_some() || !links.ip().is_unspecified(),
            "--listen {} does not say where terminals reach it; pass --reach HOST:PORT",
            options.listen
        );
        let reach = flags.reach.clone().unwrap_or_else(|| links.to_string());
        let clients = flags.dispatch.iter().map(|address| {
            let channel = Channel::builder(address)
                .deadline(ANSWER)
                .connect_lazy()
                .with_context(|| format!("--dispatch {address}"))?;
            Ok((address.clone(), PointsClient::new(channel)))
        });
        Ok(Some(Self {
            dispatch: clients.collect::<anyhow::Result<_>>()?,
            like: BeatRequest {
                address: reach,
                idc: flags.idc.clone(),
                region: flags.region.clone(),
                carrier: flags.carrier.clone(),
                max_links: options.max_links,
                ..Default::default()
            },
            access: Arc::clone(access),
        }))
    }

    /// Beats until it is `over`, then says good-bye.
    pub fn run(&self, over: &AtomicBool) {
        let mut rng = Rng::from_entropy();
        let mut silent = vec![false; self.dispatch.len()];
        while !over.load(Ordering::Acquire) {
            let next = Instant::now() + BEAT;
            let moving = self.beat(&mut silent);
            self.move_away(moving, next, over, &mut rng);
            pause(next, over);
        }
        let last = BeatRequest {
            leaving: true,
            ..self.like.clone()
        };
        for (_, client) in &self.dispatch {
            // It is found silent otherwise.
            let _ = client.beat(Request::new(last.clone()));
        }
    }

    /// Tells everybody; how many links the one that wants most wants to end.
    fn beat(&self, silent: &mut [bool]) -> u64 {
        let links = self.access.meter().links.load(Ordering::Relaxed);
        let beat = BeatRequest {
            links,
            ..self.like.clone()
        };
        let mut moving = 0;
        for ((address, client), silent) in self.dispatch.iter().zip(silent) {
            match client.beat(Request::new(beat.clone())) {
                Ok(reply) => {
                    moving = moving.max(reply.into_inner().moving);
                    *silent = false;
                }
                Err(error) => {
                    if !*silent {
                        tracing::warn!(address, %error, "dispatch does not take the beat; it is told again every {BEAT:?}");
                    }
                    *silent = true;
                }
            }
        }
        moving
    }

    /// Ends so many links, any of them, evenly until `next`.
    fn move_away(&self, count: u64, next: Instant, over: &AtomicBool, rng: &mut Rng) {
        if count == 0 {
            return;
        }
        let mut links = self.access.link_numbers();
        let count = links
            .len()
            .min(usize::try_from(count).unwrap_or(usize::MAX));
        for done in 0..count {
            let left = next.saturating_since(Instant::now()) / (count - done) as u32;
            std::thread::sleep(left);
            if over.load(Ordering::Acquire) {
                return;
            }
            let chosen = rng.below(links.len() as u64) as usize;
            self.access.close_link(links.swap_remove(chosen));
        }
    }
}

/// Waits until then, but not through the end.
fn pause(until: Instant, over: &AtomicBool) {
    while !over.load(Ordering::Acquire) {
        match until.saturating_since(Instant::now()) {
            Duration::ZERO => return,
            left => std::thread::sleep(left.min(LOOK)),
        }
    }
}
