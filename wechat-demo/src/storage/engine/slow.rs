//! A disk whose syncs take longer for a while: what `chaos` does to a store.
//!
//! Knows: the file that says how much longer.   Does not know: whose disk it is, or who writes the file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{Durability, Engine, EngineError, Snapshot, Span, Table};

/// No sync is made longer by more: a disk that takes longer than members wait for each other is one that is gone.
const MOST: Duration = Duration::from_secs(5);

/// An engine whose synced writes wait first, while a file says for how long.
pub struct Slow {
    below: Arc<dyn Engine>,
    file: PathBuf,
}

impl Slow {
    /// As `below`; each [`Durability::Synced`] write waits as many milliseconds as `file` says, while it is there.
    pub fn new(below: Arc<dyn Engine>, file: &Path) -> Self {
        Self {
            below,
            file: file.to_owned(),
        }
    }

    /// How much longer a write takes now. A file that says no number says nothing.
    fn longer(&self, durability: Durability) -> Duration {
        if durability == Durability::Buffered {
            return Duration::ZERO;
        }
        let said = std::fs::read_to_string(&self.file).unwrap_or_default();
        said.trim()
            .parse()
            .map_or(Duration::ZERO, Duration::from_millis)
            .min(MOST)
    }
}

impl Engine for Slow {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.below.get(table, key)
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, EngineError> {
        self.below.snapshot()
    }

    fn take_over(&self) -> Result<(), EngineError> {
        self.below.take_over()
    }

    fn write(&self, parts: &[&[u8]], durability: Durability) -> Result<(), EngineError> {
        let longer = self.longer(durability);
        if !longer.is_zero() {
            std::thread::sleep(longer);
        }
        self.below.write(parts, durability)
    }

    fn scan(
        &self,
        table: Table,
        span: Span<'_>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        self.below.scan(table, span, visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::engine::{conformance, embedded::Embedded};

    #[test]
    fn a_slow_disk_keeps_every_promise_of_an_engine() {
        let mut dirs = Vec::new();
        conformance::run(&mut || {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().to_owned();
            std::fs::write(path.join("slow"), "1\n").unwrap();
            dirs.push(dir);
            Box::new(move || {
                let below = Embedded::open(&path.join("store")).unwrap();
                Arc::new(Slow::new(Arc::new(below), &path.join("slow")))
            })
        });
    }

    #[test]
    fn syncs_alone_take_longer_and_only_while_the_file_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("slow");
        let below = Embedded::open(&dir.path().join("store")).unwrap();
        let slow = Slow::new(Arc::new(below), &file);
        assert_eq!(slow.longer(Durability::Synced), Duration::ZERO);
        for (said, longer) in [
            ("250\n", Duration::from_millis(250)),
            ("", Duration::ZERO),
            ("soon", Duration::ZERO),
            ("18446744073709551615", MOST),
        ] {
            std::fs::write(&file, said).unwrap();
            assert_eq!(slow.longer(Durability::Synced), longer, "{said}");
            assert_eq!(slow.longer(Durability::Buffered), Duration::ZERO);
        }
    }
}
