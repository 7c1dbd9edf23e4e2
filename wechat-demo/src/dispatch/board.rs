//! What dispatch knows and how it chooses. Told the time.
//!
//! A candidate's cost is its distance for the asking network (measured, or a guess by names until then), raised by
//! failures that this network's terminals reported and by how full it is. Weights fall with the fourth power of the
//! cost, and the order is drawn by weight: points that are equally near share the terminals, one three times as far
//! comes first for one in eighty.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use rpc_core::base::rng::Rng;
use rpc_core::base::time::Instant;

use super::table::{Network, NetworkTable};
use crate::proto::dispatch as pb;

/// Candidates in an answer.
pub const CANDIDATES: usize = 5;
/// Access points that may beat.
pub const POINTS: usize = 1_024;
/// Pairs of a network and a point that something is known of; those not measured for longest go first.
pub const LEARNED: usize = 65_536;

/// A point that was silent for so long is taken for dead.
const SILENT: Duration = Duration::from_secs(5);
/// A point that was silent for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// What was measured counts for so long.
const MEMORY: Duration = Duration::from_secs(1_800);
/// Half of what is known of failures is forgotten in such a time.
const FORGIVEN: Duration = Duration::from_secs(30);
/// A drain takes at most so long.
const DRAIN_MAX: Duration = Duration::from_secs(3_600);
/// Longest time that a report may give, ms: that of an attempt.
const SLOWEST_MS: u32 = 10_000;
/// Bytes of a point's address.
const ADDRESS_BYTES: usize = 256;
/// Guesses of a distance, ms: same region and carrier; same region; same carrier; none of it.
const GUESSES: [f64; 4] = [20.0, 40.0, 60.0, 120.0];
/// What one attempt moves the share of failures.
const STEP: f64 = 0.3;
/// What one measurement moves a distance that it falls below, and one that it exceeds. So a distance is what an
/// attempt takes when nothing is in its way: a spell of jitter does not make a near point far.
const STEPS: (f64, f64) = (0.3, 0.03);

/// Everything that one dispatch process knows.
#[derive(Debug)]
pub struct Board {
    table: NetworkTable,
    points: HashMap<String, Point>,
    learned: HashMap<(Network, String), Learned>,
    rng: Rng,
}

#[derive(Debug)]
struct Point {
    beat: pb::BeatRequest,
    last: Instant,
    /// When its terminals are to be gone.
    drained_by: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Learned {
    /// From an attempt's beginning to the answer, when all is well.
    ms: Option<f64>,
    /// Share of the last attempts that failed, as of `last`.
    failed: f64,
    last: Instant,
}

/// Why a beat or a drain is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BoardError {
    /// No address, or one too long.
    #[error("`{0}` is no HOST:PORT that terminals could reach")]
    Address(String),
    /// There is no room.
    #[error("{POINTS} access points beat already; more cannot be known")]
    Full,
    /// Nobody of that address beats.
    #[error("no access point `{0}` beats here")]
    Unknown(String),
}

impl Board {
    /// Without points.
    #[must_use]
    pub fn new(table: NetworkTable, rng: Rng) -> Self {
        Self {
            table,
            points: HashMap::new(),
            learned: HashMap::new(),
            rng,
        }
    }

    /// The network of a client.
    #[must_use]
    pub fn network(&self, client: IpAddr) -> Network {
        self.table.find(client)
    }

    /// A point is there; how many links it should end before its next beat.
    ///
    /// # Errors
    /// An address that cannot be, or no room.
    pub fn beat(&mut self, beat: pb::BeatRequest, now: Instant) -> Result<u64, BoardError> {
        let address = beat.address.clone();
        if address.len() > ADDRESS_BYTES || !address.contains(':') {
            return Err(BoardError::Address(address));
        }
        if beat.leaving {
            self.points.remove(&address);
            return Ok(0);
        }
        self.points
            .retain(|_, point| now.saturating_since(point.last) < FORGOTTEN);
        let before = self.points.get(&address);
        if before.is_none() && self.points.len() >= POINTS {
            return Err(BoardError::Full);
        }
        let drained_by = before.and_then(|point| point.drained_by);
        let interval = before.map_or(SILENT, |point| now.saturating_since(point.last));
        let links = beat.links;
        self.points.insert(
            address,
            Point {
                beat,
                last: now,
                drained_by,
            },
        );
        let moved = |until: Instant| {
            let left = until.saturating_since(now);
            match interval < left {
                true => (links as f64 * interval.as_secs_f64() / left.as_secs_f64()).ceil() as u64,
                false => links,
            }
        };
        Ok(drained_by.map_or(0, moved))
    }

    /// Moves a point's terminals away over a time; `None` takes it in again.
    ///
    /// # Errors
    /// A point that does not beat.
    pub fn drain(
        &mut self,
        address: &str,
        over: Option<Duration>,
        now: Instant,
    ) -> Result<(), BoardError> {
        let unknown = || BoardError::Unknown(address.to_owned());
        let point = self.points.get_mut(address).ok_or_else(unknown)?;
        point.drained_by = over.map(|over| now + over.min(DRAIN_MAX));
        Ok(())
    }

    /// Where a terminal of this network should connect, in the order to try; empty = no point has beaten.
    pub fn candidates(
        &mut self,
        network: &Network,
        home: &str,
        now: Instant,
    ) -> Vec<pb::Candidate> {
        let kinds = self
            .points
            .values()
            .map(|point| (point.worth(now), point))
            .filter(|(_, point)| now.saturating_since(point.last) < FORGOTTEN);
        let best = kinds.clone().map(|(worth, _)| worth).max();
        let mut costs: Vec<(f64, &Point)> = kinds
            .filter(|(worth, _)| Some(*worth) == best)
            .map(|(_, point)| (self.cost(network, point, home, now), point))
            .collect();
        costs.sort_by(|(a, one), (b, other)| {
            a.total_cmp(b)
                .then_with(|| one.beat.address.cmp(&other.beat.address))
        });
        costs.truncate(CANDIDATES);
        let Some((least, _)) = costs.first().copied() else {
            return Vec::new();
        };
        let candidates = costs.into_iter().map(|(cost, point)| pb::Candidate {
            address: point.beat.address.clone(),
            weight: ((least / cost).powi(4) * 1_000.0).round().max(1.0) as u32,
            idc: point.beat.idc.clone(),
        });
        let candidates = candidates.collect();
        drawn(candidates, &mut self.rng)
    }

    /// What a terminal measured.
    pub fn measured(&mut self, network: &Network, measured: &pb::Measured, now: Instant) {
        if !self.points.contains_key(&measured.address) {
            return;
        }
        let key = (network.clone(), measured.address.clone());
        if !self.learned.contains_key(&key) && self.learned.len() >= LEARNED {
            self.forget(now);
        }
        let known = self.learned.entry(key).or_insert(Learned {
            ms: None,
            failed: 0.0,
            last: now,
        });
        let failed = f64::from(u8::from(measured.failed));
        known.failed = known.failed_at(now) * (1.0 - STEP) + failed * STEP;
        if !measured.failed {
            let ms = f64::from(measured.ms.min(SLOWEST_MS));
            let before = known.fresh_ms(now).unwrap_or(ms);
            let step = if ms < before { STEPS.0 } else { STEPS.1 };
            known.ms = Some(before + (ms - before) * step);
        }
        known.last = now;
    }

    /// Every point, by address.
    #[must_use]
    pub fn show(&self, now: Instant) -> Vec<pb::Point> {
        let mut points: Vec<pb::Point> = self
            .points
            .values()
            .map(|point| pb::Point {
                beat: Some(point.beat.clone()),
                silent_ms: now.saturating_since(point.last).as_millis() as u64,
                draining: point.drained_by.is_some(),
            })
            .collect();
        points.sort_by(|a, b| address(a).cmp(address(b)));
        points
    }

    /// Points, and pairs of network and point with something known.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.points.len(), self.learned.len())
    }

    /// Makes room: what is old goes, or if nothing is the oldest.
    fn forget(&mut self, now: Instant) {
        self.learned
            .retain(|_, known| now.saturating_since(known.last) < MEMORY);
        if self.learned.len() >= LEARNED {
            let oldest = self.learned.iter().min_by_key(|(_, known)| known.last);
            let oldest = oldest.map(|(key, _)| key.clone());
            oldest.map(|key| self.learned.remove(&key));
        }
    }

    fn cost(&self, network: &Network, point: &Point, home: &str, now: Instant) -> f64 {
        let key = (network.clone(), point.beat.address.clone());
        let known = self.learned.get(&key);
        let measured = known.and_then(|known| known.fresh_ms(now));
        let distance = measured.unwrap_or_else(|| guess(network, &point.beat));
        let failed = known.map_or(0.0, |known| known.failed_at(now));
        let full = point.full();
        // Where all else is equal, calls that need not cross the backbone are better.
        let home = if !home.is_empty() && point.beat.idc == home {
            0.95
        } else {
            1.0
        };
        distance.max(1.0) * (1.0 + 8.0 * failed) * (1.0 + 2.0 * full.powi(4)) * home
    }
}

impl Point {
    /// The kinds of D-2: the greater the better.
    fn worth(&self, now: Instant) -> u8 {
        let alive = now.saturating_since(self.last) < SILENT;
        match (alive, self.drained_by.is_some(), self.full() < 1.0) {
            (true, false, true) => 3,
            (true, false, false) => 2,
            (true, true, _) => 1,
            (false, ..) => 0,
        }
    }

    /// Share of the links that it may have; 0 where it does not say.
    fn full(&self) -> f64 {
        match self.beat.max_links {
            0 => 0.0,
            most => self.beat.links as f64 / most as f64,
        }
    }
}

impl Learned {
    fn fresh_ms(&self, now: Instant) -> Option<f64> {
        self.ms.filter(|_| now.saturating_since(self.last) < MEMORY)
    }

    fn failed_at(&self, now: Instant) -> f64 {
        let ago = now.saturating_since(self.last).as_secs_f64();
        self.failed * 0.5_f64.powf(ago / FORGIVEN.as_secs_f64())
    }
}

fn guess(network: &Network, beat: &pb::BeatRequest) -> f64 {
    let same = |one: &str, other: &str| !one.is_empty() && one == other;
    let region = same(&network.region, &beat.region);
    let carrier = same(&network.carrier, &beat.carrier);
    match (region, carrier) {
        (true, true) => GUESSES[0],
        (true, false) => GUESSES[1],
        (false, true) => GUESSES[2],
        (false, false) => GUESSES[3],
    }
}

/// A random order in which each comes before the rest as often as its weight's share of theirs (Efraimidis and
/// Spirakis, 2006).
fn drawn(candidates: Vec<pb::Candidate>, rng: &mut Rng) -> Vec<pb::Candidate> {
    let mut keyed: Vec<(f64, pb::Candidate)> = candidates
        .into_iter()
        .map(|candidate| {
            // In (0, 1]; the greatest key comes first.
            let uniform = ((rng.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
            (uniform.ln() / f64::from(candidate.weight), candidate)
        })
        .collect();
    keyed.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    keyed.into_iter().map(|(_, candidate)| candidate).collect()
}

fn address(point: &pb::Point) -> &str {
    point.beat.as_ref().map_or("", |beat| &beat.address)
}

#[cfg(test)]
mod tests;
