//! One shard's log: entries by offset, each tied to all before it by a checksum chain.
//!
//! Knows: epochs, offsets, the chain, where entries lie.   Does not know: what they say, who has copies.
//!
//! ```text
//!   trimmed …│ base+1 … last          offset of the first entry ever: 1
//!            └ base: mark of the last trimmed entry
//! ```
//! Invariants
//! - L-1  chain(n) = crc32c over chain(n-1), epoch, offset and changes of n: two logs with the same mark
//!   (epoch, offset, chain) say the same from their beginnings on.
//! - L-2  Offsets have no gaps; epochs never fall along the log.

use bytes::Bytes;

use super::{
    changes::Changes,
    engine::{Engine, EngineError, Span, Table},
    table,
};
use crate::{model::ShardId, proto::storage as pb};

/// A place in a log: the entry at `offset`, and by its chain everything before it. The default is the
/// beginning of every log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Mark {
    /// Epoch of the primary that made the entry. 0 at the beginning.
    pub epoch: u64,
    /// 1 for the first entry.
    pub offset: u64,
    /// See L-1.
    pub chain: u32,
}

/// An entry as it is handed about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its place.
    pub mark: Mark,
    /// What it does to the tables: [`super::changes`].
    pub changes: Bytes,
}

/// Where a shard's log begins and ends. The entries are the engine's.
#[derive(Clone, Debug)]
pub struct ShardLog {
    shard: ShardId,
    /// The last entry that was trimmed.
    base: Mark,
    /// The last entry.
    last: Mark,
}

/// What opening a log found wrong with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// First entry that cannot be believed.
    pub from: u64,
    /// Last entry that was there, believed or not.
    pub seen: u64,
}

impl Mark {
    /// The place of an entry that follows this one.
    pub fn next(self, epoch: u64, changes: &[u8]) -> Self {
        let offset = self.offset + 1;
        let mut head = [0; 20];
        head[..4].copy_from_slice(&self.chain.to_be_bytes());
        head[4..12].copy_from_slice(&epoch.to_be_bytes());
        head[12..].copy_from_slice(&offset.to_be_bytes());
        let chain = crc32c::crc32c_append(crc32c::crc32c(&head), changes);
        Self {
            epoch,
            offset,
            chain,
        }
    }

    /// As it travels.
    pub fn to_proto(self, shard: ShardId) -> pb::Mark {
        pb::Mark {
            shard: u32::from(shard.0),
            epoch: self.epoch,
            offset: self.offset,
            chain: self.chain,
            ..pb::Mark::default()
        }
    }

    fn encode(self) -> [u8; 20] {
        let mut out = [0; 20];
        out[..8].copy_from_slice(&self.epoch.to_be_bytes());
        out[8..16].copy_from_slice(&self.offset.to_be_bytes());
        out[16..].copy_from_slice(&self.chain.to_be_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 20] = bytes.try_into().ok()?;
        let (epoch, rest) = bytes.split_first_chunk()?;
        let (offset, chain) = rest.split_first_chunk()?;
        Some(Self {
            epoch: u64::from_be_bytes(*epoch),
            offset: u64::from_be_bytes(*offset),
            chain: u32::from_be_bytes(chain.try_into().ok()?),
        })
    }
}

impl From<&pb::Mark> for Mark {
    fn from(mark: &pb::Mark) -> Self {
        Self {
            epoch: mark.epoch,
            offset: mark.offset,
            chain: mark.chain,
        }
    }
}

impl Entry {
    /// As it travels.
    pub fn to_proto(&self) -> pb::Entry {
        pb::Entry {
            epoch: self.mark.epoch,
            offset: self.mark.offset,
            chain: self.mark.chain,
            changes: self.changes.clone(),
        }
    }

    /// Takes an entry that came from elsewhere if it follows `after`: offset, epoch and chain.
    pub fn following(after: Mark, entry: pb::Entry) -> Option<Self> {
        let mark = after.next(entry.epoch, &entry.changes);
        let told = Mark {
            epoch: entry.epoch,
            offset: entry.offset,
            chain: entry.chain,
        };
        (mark == told && mark.epoch >= after.epoch).then_some(Self {
            mark,
            changes: entry.changes,
        })
    }
}

impl ShardLog {
    /// Reads a log through and checks it. What comes after damage is not part of the log: the caller
    /// takes it from the other copy or gives up, and cuts it.
    pub fn open(
        engine: &dyn Engine,
        shard: ShardId,
    ) -> Result<(Self, Option<Damage>), EngineError> {
        let base = match engine.get(Table::Meta, &table::log_base(shard))? {
            None => Mark::default(),
            Some(row) => Mark::decode(&row)
                .ok_or_else(|| EngineError::Damaged(format!("the base of the log of {shard}")))?,
        };
        let mut last = base;
        let mut damage: Option<Damage> = None;
        scan(engine, shard, base.offset + 1, &mut |offset, value| {
            if let Some(damage) = &mut damage {
                damage.seen = offset;
                return true;
            }
            match parse(offset, value) {
                Some(entry) if last.next(entry.mark.epoch, &entry.changes) == entry.mark => {
                    last = entry.mark;
                }
                _ => {
                    damage = Some(Damage {
                        from: last.offset + 1,
                        seen: offset,
                    })
                }
            }
            true
        })?;
        Ok((Self { shard, base, last }, damage))
    }

    /// An empty log whose first entry will follow `base`, as [`ShardLog::open`] finds it then.
    pub fn begin_after(shard: ShardId, base: Mark, out: &mut Changes) {
        out.put(Table::Meta, &table::log_base(shard), &base.encode());
    }

    /// The last entry.
    pub fn last(&self) -> Mark {
        self.last
    }

    /// The last entry that was trimmed.
    pub fn base(&self) -> Mark {
        self.base
    }

    /// Makes the next entry.
    pub fn append(&mut self, epoch: u64, changes: Bytes, out: &mut Changes) -> Entry {
        let entry = Entry {
            mark: self.last.next(epoch, &changes),
            changes,
        };
        self.push(&entry, out);
        entry
    }

    /// Takes an entry that follows the last one.
    pub fn push(&mut self, entry: &Entry, out: &mut Changes) {
        assert_eq!(
            entry.mark.offset,
            self.last.offset + 1,
            "log of {} has no gaps",
            self.shard
        );
        let mut value = Vec::with_capacity(12 + entry.changes.len());
        value.extend_from_slice(&entry.mark.epoch.to_be_bytes());
        value.extend_from_slice(&entry.mark.chain.to_be_bytes());
        value.extend_from_slice(&entry.changes);
        out.put(
            Table::Log,
            &table::log(self.shard, entry.mark.offset),
            &value,
        );
        self.last = entry.mark;
    }

    /// Removes what follows `after`, up to `seen` where damage lies beyond the last good entry.
    pub fn cut(&mut self, after: Mark, seen: u64, out: &mut Changes) {
        assert!(
            after.offset >= self.base.offset,
            "what was trimmed is never cut"
        );
        for offset in after.offset + 1..=seen.max(self.last.offset) {
            out.remove(Table::Log, &table::log(self.shard, offset));
        }
        self.last = after;
    }

    /// Forgets entries up to `offset`, which must be applied here and held by the other copy.
    pub fn trim(
        &mut self,
        engine: &dyn Engine,
        offset: u64,
        out: &mut Changes,
    ) -> Result<(), EngineError> {
        if offset <= self.base.offset {
            return Ok(());
        }
        let Some(mark) = self.mark_at(engine, offset)? else {
            return Ok(());
        };
        for gone in self.base.offset + 1..=offset {
            out.remove(Table::Log, &table::log(self.shard, gone));
        }
        out.put(Table::Meta, &table::log_base(self.shard), &mark.encode());
        self.base = mark;
        Ok(())
    }

    /// The mark of the entry at `offset`, if the log still knows it.
    pub fn mark_at(&self, engine: &dyn Engine, offset: u64) -> Result<Option<Mark>, EngineError> {
        if offset == self.base.offset {
            return Ok(Some(self.base));
        }
        if offset < self.base.offset || offset > self.last.offset {
            return Ok(None);
        }
        let value = engine.get(Table::Log, &table::log(self.shard, offset))?;
        let entry = value.as_deref().and_then(|value| parse(offset, value));
        let damaged = || EngineError::Damaged(format!("log of {}, entry {offset}", self.shard));
        Ok(Some(entry.ok_or_else(damaged)?.mark))
    }

    /// Entries from `from` on, about `max_bytes` of them, at least one if there is one.
    pub fn read(
        &self,
        engine: &dyn Engine,
        from: u64,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, EngineError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut expected = from;
        let last = self.last.offset;
        scan(engine, self.shard, from, &mut |offset, value| {
            let Some(entry) = parse(offset, value).filter(|_| offset == expected && offset <= last)
            else {
                return false;
            };
            expected += 1;
            bytes += value.len();
            entries.push(entry);
            bytes < max_bytes
        })?;
        if bytes < max_bytes && expected <= last {
            return Err(EngineError::Damaged(format!(
                "log of {}, entry {expected}",
                self.shard
            )));
        }
        Ok(entries)
    }
}

fn scan(
    engine: &dyn Engine,
    shard: ShardId,
    from: u64,
    visit: &mut dyn FnMut(u64, &[u8]) -> bool,
) -> Result<(), EngineError> {
    let (from, to) = (table::log(shard, from), table::log(shard, u64::MAX));
    let span = Span {
        from: &from,
        to: &to,
        backwards: false,
    };
    engine.scan(Table::Log, span, &mut |key, value| {
        let offset = key.get(1..).and_then(table::number).unwrap_or(0);
        visit(offset, value)
    })
}

fn parse(offset: u64, value: &[u8]) -> Option<Entry> {
    let (epoch, rest) = value.split_first_chunk()?;
    let (chain, changes) = rest.split_first_chunk()?;
    let mark = Mark {
        epoch: u64::from_be_bytes(*epoch),
        offset,
        chain: u32::from_be_bytes(*chain),
    };
    Some(Entry {
        mark,
        changes: Bytes::copy_from_slice(changes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::engine::{
        Durability,
        simulated::{Disk, Fuse},
    };

    const SHARD: ShardId = ShardId(3);

    fn filled(disk: &Disk, entries: u64) -> ShardLog {
        let engine = disk.open(Fuse::none());
        let (mut log, damage) = ShardLog::open(&engine, SHARD).unwrap();
        assert_eq!(damage, None);
        let mut out = Changes::default();
        for n in 0..entries {
            log.append(1, Bytes::from(format!("entry {n}")), &mut out);
        }
        engine.write(&[out.as_bytes()], Durability::Synced).unwrap();
        log
    }

    #[test]
    fn a_log_is_found_again_as_it_was() {
        let disk = Disk::default();
        let log = filled(&disk, 5);
        let engine = disk.open(Fuse::none());
        let (again, damage) = ShardLog::open(&engine, SHARD).unwrap();
        assert_eq!((again.last(), damage), (log.last(), None));
        let entries = again.read(&engine, 2, 1 << 20).unwrap();
        assert_eq!(entries.len(), 4);
        assert_eq!(again.mark_at(&engine, 3).unwrap(), Some(entries[1].mark));
        assert_eq!(again.read(&engine, 1, 1).unwrap().len(), 1);
    }

    #[test]
    fn a_flipped_bit_ends_the_log_before_it() {
        for byte in [0, 8, 12, 14] {
            let disk = Disk::default();
            filled(&disk, 5);
            disk.rot(|rows| {
                let key = (Table::Log, table::log(SHARD, 3).to_vec());
                rows.get_mut(&key).unwrap()[byte] ^= 0x40;
            });
            let (log, damage) = ShardLog::open(&disk.open(Fuse::none()), SHARD).unwrap();
            assert_eq!(
                (log.last().offset, damage),
                (2, Some(Damage { from: 3, seen: 5 }))
            );
        }
    }

    #[test]
    fn a_missing_entry_ends_the_log_before_it() {
        let disk = Disk::default();
        filled(&disk, 5);
        disk.rot(|rows| drop(rows.remove(&(Table::Log, table::log(SHARD, 4).to_vec()))));
        let (log, damage) = ShardLog::open(&disk.open(Fuse::none()), SHARD).unwrap();
        assert_eq!(
            (log.last().offset, damage),
            (3, Some(Damage { from: 4, seen: 5 }))
        );
    }

    #[test]
    fn a_trimmed_log_goes_on_from_its_base() {
        let disk = Disk::default();
        let mut log = filled(&disk, 9);
        let engine = disk.open(Fuse::none());
        let mut out = Changes::default();
        log.trim(&engine, 6, &mut out).unwrap();
        engine.write(&[out.as_bytes()], Durability::Synced).unwrap();
        let (again, damage) = ShardLog::open(&engine, SHARD).unwrap();
        assert_eq!(
            (again.last(), again.base().offset, damage),
            (log.last(), 6, None)
        );
        assert_eq!(again.read(&engine, 7, 1 << 20).unwrap().len(), 3);
        assert_eq!(again.mark_at(&engine, 5).unwrap(), None);
    }

    #[test]
    fn an_entry_that_does_not_follow_is_not_taken() {
        let log = filled(&Disk::default(), 2);
        let good = Entry {
            mark: log.last().next(4, b"x"),
            changes: Bytes::from_static(b"x"),
        };
        assert!(Entry::following(log.last(), good.to_proto()).is_some());
        let wrong = [
            pb::Entry {
                offset: 4,
                ..good.to_proto()
            },
            pb::Entry {
                epoch: 5,
                ..good.to_proto()
            },
            pb::Entry {
                chain: good.mark.chain ^ 1,
                ..good.to_proto()
            },
            pb::Entry {
                changes: Bytes::from_static(b"y"),
                ..good.to_proto()
            },
        ];
        assert!(
            wrong
                .into_iter()
                .all(|entry| Entry::following(log.last(), entry).is_none())
        );
    }
}
