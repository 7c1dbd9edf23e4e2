//! What a storage process writes down for the checker: until when it may serve, and that it does.
//!
//! Knows: histories.   Does not know: views; it is told.
//!
//! Invariants
//! - A lease is written down whenever it changes, under the lock under which it does.
//! - Serving is written down at most every 20 ms and once an epoch, with a time from before it was looked
//!   whether that may be: whoever is stopped in between has served no later than that.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rpc_core::base::time::{Instant, since_boot};

use crate::history::{Event, History, cmid};

/// Between two lines that say the same.
const APART: Duration = Duration::from_millis(20);

/// Writes it down.
pub struct Witness {
    history: Arc<History>,
    store: String,
    member: String,
    /// Epoch and end of the lease that was written last.
    lease: Mutex<(u64, Duration)>,
    epoch: AtomicU64,
    /// Epoch and time of the last line that it serves; 0 = none.
    told: (AtomicU64, AtomicU64),
}

impl Witness {
    /// Of the process that has this disk of a store, which has a name where there are several; this life's file is made in
    /// `dir`.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn new(dir: &Path, store: &str, disk: &[u8]) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let member = cmid(disk);
        let life = Instant::now().as_nanos();
        let history = History::create(&dir.join(format!("storage-{member}-{life}.jsonl")))?;
        let witness = Self {
            history,
            store: store.to_owned(),
            member,
            lease: Mutex::default(),
            epoch: AtomicU64::new(0),
            told: (AtomicU64::new(0), AtomicU64::new(0)),
        };
        // The life before, if there was one, has no lease any more.
        witness.tell(0, Duration::ZERO);
        Ok(witness)
    }

    /// The time of [`Witness::serves`].
    #[must_use]
    pub fn now(&self) -> u64 {
        Instant::now().as_nanos()
    }

    /// The process may serve in an epoch until then, since the machine's start; zero = not.
    pub fn lease(&self, epoch: u64, until: Duration) {
        let mut last = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != (epoch, until) {
            *last = (epoch, until);
            self.epoch.store(epoch, Ordering::Release);
            self.tell(epoch, until);
        }
    }

    /// It has answered, and might at `at`.
    pub fn serves(&self, at: u64) {
        let epoch = self.epoch.load(Ordering::Acquire);
        let new = self.told.0.swap(epoch, Ordering::AcqRel) != epoch;
        let last = self.told.1.load(Ordering::Acquire);
        if new || at.saturating_sub(last) >= APART.as_nanos() as u64 {
            self.told.1.store(at, Ordering::Release);
            self.history.tell(Event::Serves {
                store: self.store.clone(),
                member: self.member.clone(),
                epoch,
                at,
            });
        }
    }

    fn tell(&self, epoch: u64, until: Duration) {
        let (now, booted) = (self.now(), since_boot());
        let until = match until {
            Duration::MAX => u64::MAX,
            until => now.saturating_add(until.saturating_sub(booted).as_nanos() as u64),
        };
        self.history.tell(Event::Lease {
            store: self.store.clone(),
            member: self.member.clone(),
            epoch,
            until,
        });
    }
}
