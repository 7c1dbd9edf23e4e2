//! Which keys devices have acknowledged and nobody has noted yet.
//!
//! Knows: how late a key may be noted, and how long deletions are kept.   Does not know: what rests on a key; one that is
//! lost here only keeps the floor low.
//!
//! A key waits in memory, so that a device that syncs often costs one commit, and none where nothing may be collected.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use clap::Args;

use super::{
    committer::Submit,
    engine::{Engine, EngineError},
    ops::{
        Op,
        floor::{self, Acknowledged},
    },
};
use crate::model::{
    DeviceId, Seq, UserId,
    clock::{Clock, parse_time},
};

/// A key waits so long at most.
const NOTED_AFTER: Duration = Duration::from_secs(60);
/// How often it is looked which have waited enough.
const STEP: Duration = Duration::from_secs(1);
/// Devices whose keys wait at a time; those of others are let go.
const WAITING: usize = 1 << 16;
/// Keys noted in one step, so that they leave the committer's queue to others.
const AT_ONCE: usize = 1 << 11;
/// When a device was last seen is noted when that is so many times younger than it would have to be.
const SEEN_STEPS: u32 = 30;

/// How long deletions are kept, and for whom.
#[derive(Args, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Keep what says that something was deleted for so long at least, as 90s, 12h or 7d; it is collected after that,
    /// once every device has heard of it
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "7d")]
    pub collect_after: Duration,
    /// Wait so long for a device that does not come to hear of it; if it comes later, it gets everything anew
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "30d")]
    pub await_devices: Duration,
}

/// Keys that wait to be noted.
pub struct Acks {
    engine: Arc<dyn Engine>,
    submit: Submit,
    clock: Arc<dyn Clock>,
    kept: Kept,
    waiting: Mutex<Waiting>,
}

type Whose = (UserId, DeviceId);

#[derive(Default)]
struct Waiting {
    /// The newest key of each device that waits; at most [`WAITING`].
    keys: HashMap<Whose, Seq>,
    /// Who waits, and since when (Unix time, ms), oldest first.
    turns: VecDeque<(i64, Whose)>,
}

impl Default for Kept {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self {
            collect_after: 7 * day,
            await_devices: 30 * day,
        }
    }
}

impl Kept {
    /// How long keys wait: no longer than what rests on them.
    fn noted_after(&self) -> Duration {
        NOTED_AFTER.min(self.collect_after).min(self.await_devices)
    }

    fn step(&self) -> Duration {
        STEP.min(self.noted_after() / 4)
    }

    /// What it means that a device has everything up to `key` now.
    pub fn acknowledged(&self, (user, device): Whose, key: Seq, now_ms: i64) -> Acknowledged {
        let before = |span: Duration| now_ms.saturating_sub(span.as_millis() as i64);
        let seen_step = self.await_devices / SEEN_STEPS;
        Acknowledged {
            user,
            device,
            key,
            collect_before_ms: before(self.collect_after),
            await_since_ms: before(self.await_devices + seen_step),
            seen_before_ms: before(seen_step),
        }
    }
}

impl Acks {
    /// Of a primary whose committer takes what comes through `submit`.
    pub fn new(engine: Arc<dyn Engine>, submit: Submit, clock: Arc<dyn Clock>, kept: Kept) -> Self {
        Self {
            engine,
            submit,
            clock,
            kept,
            waiting: Mutex::default(),
        }
    }

    /// A device is there, and has everything up to `key`.
    pub fn heard(&self, user: UserId, device: DeviceId, key: Seq) {
        let now_ms = self.clock.unix_ms();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.heard((user, device), key, now_ms);
    }

    /// Notes keys for as long as somebody else has it. Waits: call it on a coroutine of its own.
    pub fn run(acks: &Weak<Self>) {
        while let Some(acks) = acks.upgrade() {
            if let Err(error) = acks.note_due() {
                // Nothing but the floor rests on it.
                tracing::warn!(%error, "what devices have acknowledged cannot be noted");
            }
            let step = acks.kept.step();
            drop(acks);
            std::thread::sleep(step);
        }
    }

    fn note_due(&self) -> Result<(), EngineError> {
        let now_ms = self.clock.unix_ms();
        let since_ms = now_ms - self.kept.noted_after().as_millis() as i64;
        let due = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.due(since_ms)
        };
        for (whose, key) in due {
            let noted = self.kept.acknowledged(whose, key, now_ms);
            if floor::matters(&*self.engine, &noted)? {
                // A full queue costs a key that comes again.
                let _ = self.submit.submit(Op::Acknowledge(noted), Box::new(drop));
            }
        }
        Ok(())
    }
}

impl Waiting {
    fn heard(&mut self, whose: Whose, key: Seq, now_ms: i64) {
        if let Some(before) = self.keys.get_mut(&whose) {
            *before = key.max(*before);
        } else if self.keys.len() < WAITING {
            self.keys.insert(whose, key);
            self.turns.push_back((now_ms, whose));
        }
    }

    /// Those that wait since then.
    fn due(&mut self, since_ms: i64) -> Vec<(Whose, Seq)> {
        let mut due = Vec::new();
        while due.len() < AT_ONCE
            && let Some((_, whose)) = self.turns.pop_front_if(|(at, _)| *at <= since_ms)
        {
            due.extend(self.keys.remove(&whose).map(|key| (whose, key)));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn device(n: u64) -> Whose {
        (UserId(n), DeviceId(n))
    }

    #[test]
    fn the_newest_key_of_a_device_is_noted_once_when_it_has_waited() {
        let mut waiting = Waiting::default();
        for (key, now_ms) in [(5, 0), (9, 30), (7, 40)] {
            waiting.heard(device(1), Seq(key), now_ms);
        }
        waiting.heard(device(2), Seq(3), 10);
        assert!(waiting.due(-1).is_empty());
        assert_eq!(waiting.due(0), [(device(1), Seq(9))]);
        waiting.heard(device(1), Seq(8), 50);
        assert_eq!(waiting.due(40), [(device(2), Seq(3))]);
        assert_eq!(waiting.due(50), [(device(1), Seq(8))]);
    }

    #[test]
    fn keys_that_wait_are_bounded() {
        let mut waiting = Waiting::default();
        for n in 1..=2 * WAITING as u64 {
            waiting.heard(device(n), Seq(1), 0);
        }
        assert_eq!(
            (waiting.keys.len(), waiting.turns.len()),
            (WAITING, WAITING)
        );
        assert_eq!(waiting.due(0).len(), AT_ONCE);
    }

    #[test]
    fn the_flags_keep_what_is_kept_by_default() {
        #[derive(Parser)]
        struct Flags {
            #[command(flatten)]
            kept: Kept,
        }
        assert_eq!(Flags::parse_from(["storage"]).kept, Kept::default());
        let short = Flags::parse_from(["storage", "--collect-after", "2s"]).kept;
        assert_eq!(short.noted_after(), Duration::from_secs(2));
        assert_eq!(Kept::default().noted_after(), NOTED_AFTER);
    }
}
