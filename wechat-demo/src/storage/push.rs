//! Giving push intents out to whoever sends pushes.
//!
//! Knows: which intents are due, who has a live link, what was given out a moment ago.
//! Does not know: push services; intents change in the log alone (`ops/push.rs`).
//!
//! Invariants
//! - I-1  An intent is due once its device has no live link, or has not synced for [`PUSH_HOLD_MS`]. A primary
//!   that is younger than that has not heard of all links yet, and counts every device as linked.
//! - I-2  What was given out is not given again for [`LEASE_MS`] or until it is settled. That is memory alone:
//!   a push whose sender or primary died is given out again, and its collapse id makes two of them one.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use prost::Message;

use super::{
    engine::{Engine, EngineError, Span, Table},
    links::Links,
    ops::{Refusal, RefusalKind, Stop},
    shard::damaged,
    table::{self, Key},
};
use crate::{
    model::{
        DeviceId, UserId,
        limits::{PUSH_HOLD_MS, PUSHES_PER_CALL},
    },
    planted::{self, Bug},
    proto::storage as pb,
};

/// Whoever takes a push has this long to say what became of it.
pub const LEASE_MS: i64 = 20_000;
/// Pushes given out at a time.
const TAKEN: usize = 16_384;
/// Rows looked at for one call.
const LOOKED_AT: usize = 4096;

type Whose = (UserId, DeviceId);

/// Where intents are given out.
pub struct Desk {
    /// When the primary began to serve, Unix time.
    began_ms: i64,
    state: Mutex<State>,
}

struct State {
    /// Until when what was given out is not given again; at most [`TAKEN`].
    taken: HashMap<Whose, i64>,
    /// Where the next look begins, so that all have their turn.
    from: Key,
}

impl Desk {
    /// Of a primary that begins to serve.
    pub fn new(now_ms: i64) -> Self {
        let state = State {
            taken: HashMap::new(),
            from: first(),
        };
        Self {
            began_ms: now_ms,
            state: Mutex::new(state),
        }
    }

    /// At most `limit` intents that are due.
    pub fn take(
        &self,
        engine: &dyn Engine,
        links: &Links,
        now_ms: i64,
        limit: usize,
    ) -> Result<Vec<pb::Push>, Stop> {
        let mut state = self.lock();
        state.taken.retain(|_, until| *until > now_ms);
        let limit = limit.min(TAKEN.saturating_sub(state.taken.len()));
        let mut pushes = Vec::new();
        for row in state.look(engine)? {
            let whose @ (user, device) = (UserId(row.user_id), DeviceId(row.device_id));
            if pushes.len() >= limit {
                state.from = table::push(user, device);
                break;
            }
            if state.taken.contains_key(&whose) || !self.is_due(&row, links, now_ms) {
                continue;
            }
            let Some(token) = token(engine, user, device)? else {
                continue;
            };
            state.taken.insert(whose, now_ms + LEASE_MS);
            pushes.push(pb::Push {
                user_id: row.user_id,
                device_id: row.device_id,
                number: row.number,
                token,
                tries: row.tries,
            });
        }
        Ok(pushes)
    }

    /// What became of a push is committed.
    pub fn settled(&self, whose: Whose) {
        self.lock().taken.remove(&whose);
    }

    fn is_due(&self, row: &pb::PushRow, links: &Links, now_ms: i64) -> bool {
        if now_ms < row.not_before_ms {
            return false;
        }
        let (user, device) = (UserId(row.user_id), DeviceId(row.device_id));
        let linked = links.has(user, device, now_ms);
        if linked && planted::is_on(Bug::DeadLinkBelieved) {
            return false;
        }
        let knows_links = now_ms - self.began_ms >= PUSH_HOLD_MS;
        now_ms - row.since_ms >= PUSH_HOLD_MS || knows_links && !linked
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whatever a panic left half done is a matter of turns and leases.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The next rows, and moves on behind them.
    fn look(&mut self, engine: &dyn Engine) -> Result<Vec<pb::PushRow>, EngineError> {
        let from = std::mem::replace(&mut self.from, first());
        let to = table::push(UserId(u64::MAX), DeviceId(u64::MAX));
        let span = Span {
            from: &from,
            to: &to,
            backwards: false,
        };
        let mut rows = Vec::new();
        let mut failed = None;
        engine.scan(Table::Rows, span, &mut |key, row| {
            if rows.len() == LOOKED_AT {
                self.from = Key::new(&[key]);
                return false;
            }
            match pb::PushRow::decode(row) {
                Ok(row) => rows.push(row),
                Err(error) => failed = Some(error),
            }
            failed.is_none()
        })?;
        match failed {
            None => Ok(rows),
            Some(error) => Err(damaged(&format!("a push intent: {error}"))),
        }
    }
}

/// What is pending for a device.
pub fn pending(
    engine: &dyn Engine,
    user: UserId,
    device: DeviceId,
) -> Result<Option<pb::PushRow>, Stop> {
    let row = engine.get(Table::Rows, &table::push(user, device))?;
    let decode = |row| {
        pb::PushRow::decode(row).map_err(|error| damaged(&format!("a push intent: {error}")).into())
    };
    row.map(decode).transpose()
}

/// Whether so many pushes may be in one call.
pub fn few(pushes: usize) -> Result<(), Refusal> {
    if (1..=PUSHES_PER_CALL).contains(&pushes) {
        return Ok(());
    }
    let text = format!("a call is about 1 to {PUSHES_PER_CALL} pushes, this one about {pushes}");
    Err(Refusal::new(RefusalKind::InvalidArgument, text))
}

fn first() -> Key {
    table::push(UserId(0), DeviceId(0))
}

fn token(
    engine: &dyn Engine,
    user: UserId,
    device: DeviceId,
) -> Result<Option<String>, EngineError> {
    let Some(row) = engine.get(Table::Rows, &table::push_devices(user))? else {
        return Ok(None);
    };
    let row = pb::PushDevices::decode(row)
        .map_err(|error| damaged(&format!("push tokens of {user}: {error}")))?;
    let mut devices = row.devices.into_iter();
    let found = devices.find(|known| known.device_id == device.0);
    Ok(found.map(|known| known.token))
}
