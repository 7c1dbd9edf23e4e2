//! What came from other edges: a directory of bounded size, the least lately used goes first.
//!
//! Knows: files, who waits for what.   Does not know: HTTP, whose an object is.
//!
//! ```text
//! cache/ID[.small]        the bytes
//! cache/ID[.small].json   what they are, and the hash of the key that they came for: a [`Record`]
//! ```
//! Invariants
//! - C-1  One fetch is under way for a name and key, whoever else wants it waits for that; a wrong key spoils nothing, for
//!   it is another fetch.
//! - C-2  What is given out has the hash that its origin told, and is synced before its record is.
//! - C-3  Files and what is on its way have [`Bounds::bytes`] at most: room is made before the first byte is kept.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rpc_core::sync::{Condvar, Mutex, Semaphore};
use serde::{Deserialize, Serialize};

use super::disk::{create, read_record, remove, sync_dir, write_record};
use super::form::Form;
use super::meter::Meter;
use super::origin::{Away, Origin, Part, Wanted};
use super::piece::{Piece, Sight};
use super::ticket::Id;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes of all.
    pub(super) bytes: u64,
    /// Bytes of one.
    pub(super) object: u64,
}

/// Pieces that are kept.
const PIECES: usize = 1 << 18;
/// Fetches under way; those above wait.
const FETCHES: usize = 16;
/// Bytes asked for at once.
const CHUNK: u64 = 1 << 20;

type Name = (Id, Sight);

/// A cache of other edges' objects.
pub(super) struct Cache {
    dir: PathBuf,
    bounds: Bounds,
    origin: Box<dyn Origin>,
    meter: Arc<Meter>,
    fetches: Semaphore,
    table: Mutex<Table>,
    /// A fetch has ended.
    ended: Condvar,
}

#[derive(Default)]
struct Table {
    kept: HashMap<Name, Entry>,
    /// By when each was last used.
    by_use: BTreeMap<u64, Name>,
    /// Counts uses.
    now: u64,
    /// Of files, and of what is on its way.
    bytes: u64,
    fetching: HashMap<Wanted, Arc<Fetch>>,
}

struct Entry {
    record: Record,
    used: u64,
}

/// A fetch under way.
#[derive(Default)]
struct Fetch {
    outcome: Mutex<Option<Result<(), Away>>>,
    #[cfg(test)]
    joined: std::sync::atomic::AtomicUsize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    /// Of this form.
    version: u32,
    /// BLAKE3 of the bytes, in hexadecimal.
    hash: String,
    size: u64,
    content_type: String,
    /// BLAKE3 of the key's digits, in hexadecimal.
    key: String,
}

/// The one who fetches; whatever happens, those who wait hear of an end.
struct Leader<'a> {
    cache: &'a Cache,
    wanted: Wanted,
    fetch: Arc<Fetch>,
    outcome: Result<(), Away>,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        *self.fetch.outcome.lock() = Some(self.outcome.clone());
        self.cache.table.lock().fetching.remove(&self.wanted);
        self.cache.ended.notify_all();
    }
}

/// Room that was made; it goes back unless a file took it.
struct Room<'a> {
    cache: &'a Cache,
    bytes: u64,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let mut table = self.cache.table.lock();
        table.bytes -= self.bytes;
    }
}

impl Cache {
    /// Opens the cache in `dir`, or makes it; what is there in full is kept.
    pub(super) fn open(
        dir: &Path,
        bounds: Bounds,
        origin: Box<dyn Origin>,
        meter: Arc<Meter>,
    ) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let cache = Self {
            dir: dir.to_owned(),
            bounds,
            origin,
            meter,
            fetches: Semaphore::new(FETCHES),
            table: Mutex::new(Table::default()),
            ended: Condvar::new(),
        };
        cache.look_around()?;
        Ok(cache)
    }

    /// What is wanted: kept already, or fetched now, by this caller or by one before it.
    pub(super) fn find(&self, wanted: &Wanted) -> Result<Piece, Away> {
        loop {
            if let Some(piece) = self.kept(wanted)? {
                return Ok(piece);
            }
            let (fetch, leads) = self.join(wanted);
            if leads {
                self.lead(wanted, fetch)?;
            } else {
                Meter::add(&self.meter.joined, 1);
                self.follow(&fetch)?;
            }
        }
    }

    /// The kept piece. The key that it came for is the one that reads it.
    fn kept(&self, wanted: &Wanted) -> Result<Option<Piece>, Away> {
        let mut table = self.table.lock();
        let name = (wanted.id, wanted.sight);
        let Some(entry) = table.kept.get(&name) else {
            return Ok(None);
        };
        let key = blake3::Hash::from_hex(&entry.record.key);
        if !key.is_ok_and(|key| key == wanted.key_hash()) {
            return Err(Away::Unknown);
        }
        let piece = File::open(self.path(name))
            .ok()
            .and_then(|file| entry.record.piece(file));
        match &piece {
            Some(_) => table.touch(name),
            // Somebody cleared the directory.
            None => table.forget(name),
        }
        Ok(piece)
    }

    /// The fetch of what is wanted, and whether the caller is to do it.
    fn join(&self, wanted: &Wanted) -> (Arc<Fetch>, bool) {
        let mut table = self.table.lock();
        if let Some(fetch) = table.fetching.get(wanted) {
            #[cfg(test)]
            fetch
                .joined
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            return (Arc::clone(fetch), false);
        }
        let fetch = Arc::<Fetch>::default();
        table.fetching.insert(*wanted, Arc::clone(&fetch));
        (fetch, true)
    }

    fn lead(&self, wanted: &Wanted, fetch: Arc<Fetch>) -> Result<(), Away> {
        let mut leader = Leader {
            cache: self,
            wanted: *wanted,
            fetch,
            outcome: Err(Away::Silent("the fetch came to no end".to_owned())),
        };
        let permit = self.fetches.acquire();
        leader.outcome = match permit {
            Ok(_permit) => self.fetch(wanted),
            Err(error) => Err(Away::Silent(error.to_string())),
        };
        let counter: &AtomicU64 = match &leader.outcome {
            Ok(()) => &self.meter.fetched,
            Err(_) => &self.meter.fetch_failed,
        };
        Meter::add(counter, 1);
        leader.outcome.clone()
    }

    fn follow(&self, fetch: &Fetch) -> Result<(), Away> {
        let mut table = self.table.lock();
        loop {
            if let Some(outcome) = &*fetch.outcome.lock() {
                return outcome.clone();
            }
            table = self.ended.wait(table);
        }
    }

    /// Fetches what is wanted and keeps it.
    fn fetch(&self, wanted: &Wanted) -> Result<(), Away> {
        let first = self.origin.get(wanted, 0, CHUNK)?;
        let (hash, size) = (first.hash, first.size);
        if !(1..=self.bounds.object).contains(&size) {
            let most = self.bounds.object;
            let text = format!("it has {size} bytes, and this edge passes on {most} at most");
            return Err(Away::Silent(text));
        }
        let name = (wanted.id, wanted.sight);
        let record = Record {
            version: Record::VERSION,
            hash: hash.to_string(),
            size,
            content_type: first.form.content_type().to_owned(),
            key: wanted.key_hash().to_string(),
        };
        let mut room = self.make_room(size)?;
        // By its key: a fetch for a wrong one, whose origin lies, is no affair of this one.
        let suffix = wanted.sight.suffix();
        let beside = self.dir.join(format!("{}{suffix}.new", wanted.key_hash()));
        let kept = self.receive(wanted, first, &beside).and_then(|()| {
            let mut table = self.table.lock();
            let settled = fs::rename(&beside, self.path(name))
                .and_then(|()| sync_dir(&self.dir))
                .and_then(|()| write_record(&self.record_path(name), &record));
            settled.map_err(|error| disk(&error))?;
            room.bytes = 0;
            table.keep(name, record);
            Ok(())
        });
        if kept.is_err() {
            // The next start removes what cannot be removed now.
            let _ = remove(&beside);
        }
        kept
    }

    /// Puts all of it into the file `beside`, and holds it against its hash.
    fn receive(&self, wanted: &Wanted, first: Part, beside: &Path) -> Result<(), Away> {
        let mut file = create(beside).map_err(|error| disk(&error))?;
        let mut hasher = blake3::Hasher::new();
        let (hash, size) = (first.hash, first.size);
        let (mut part, mut have) = (first, 0);
        loop {
            if (part.hash, part.size) != (hash, size) {
                return Err(Away::Silent("it changed while it came".to_owned()));
            }
            file.write_all(&part.bytes).map_err(|error| disk(&error))?;
            hasher.update(&part.bytes);
            have += part.bytes.len() as u64;
            if have >= size {
                break;
            }
            part = self.origin.get(wanted, have, CHUNK)?;
        }
        if have != size || hasher.finalize() != hash {
            return Err(Away::Silent(
                "what came has another hash than was told".to_owned(),
            ));
        }
        file.sync_all().map_err(|error| disk(&error))
    }

    /// Counts `bytes` that are on their way, and lets go what was least lately used for them (C-3).
    fn make_room(&self, bytes: u64) -> Result<Room<'_>, Away> {
        self.table.lock().bytes += bytes;
        let room = Room { cache: self, bytes };
        loop {
            // The lock is over before the room goes back, where it does.
            let oldest = {
                let mut table = self.table.lock();
                if table.bytes <= self.bounds.bytes && table.kept.len() < PIECES {
                    break;
                }
                let oldest = table.by_use.first_key_value().map(|(_, name)| *name);
                // Its files go under the lock: nobody puts it back meanwhile.
                oldest.map(|name| {
                    table.forget(name);
                    // Without its record it is nothing, whatever becomes of the bytes.
                    remove(&self.record_path(name)).and_then(|()| remove(&self.path(name)))
                })
            };
            let Some(gone) = oldest else {
                return Err(Away::Silent(
                    "the cache is full of what is on its way".to_owned(),
                ));
            };
            gone.map_err(|error| disk(&error))?;
            Meter::add(&self.meter.evicted, 1);
        }
        Ok(room)
    }

    /// At the start: counts what is whole, and removes the rest.
    fn look_around(&self) -> io::Result<()> {
        let mut found = HashMap::new();
        for entry in fs::read_dir(&self.dir)? {
            let file_name = entry?.file_name();
            let name = file_name.to_str().and_then(name_of);
            let record = name.and_then(|name| {
                let record = read_record::<Record>(&self.record_path(name)).ok()??;
                let there = fs::metadata(self.path(name)).is_ok_and(|it| it.len() == record.size);
                (there && record.version == Record::VERSION).then_some((name, record))
            });
            match record {
                Some((name, record)) => drop(found.insert(name, record)),
                None => remove(&self.dir.join(file_name))?,
            }
        }
        for (name, record) in found {
            // Makes room for itself, where the bound has become less.
            let room = self.make_room(record.size);
            if let Ok(mut room) = room {
                room.bytes = 0;
                self.table.lock().keep(name, record);
            } else {
                remove(&self.record_path(name))?;
                remove(&self.path(name))?;
            }
        }
        Ok(())
    }

    fn path(&self, (id, sight): Name) -> PathBuf {
        self.dir.join(format!("{id}{}", sight.suffix()))
    }

    fn record_path(&self, (id, sight): Name) -> PathBuf {
        self.dir.join(format!("{id}{}.json", sight.suffix()))
    }
}

impl Table {
    /// Keeps what room was made for.
    fn keep(&mut self, name: Name, record: Record) {
        // Of a name that was kept the file was replaced.
        self.forget(name);
        self.now += 1;
        let used = self.now;
        self.by_use.insert(used, name);
        self.kept.insert(name, Entry { record, used });
    }

    fn touch(&mut self, name: Name) {
        self.now += 1;
        if let Some(entry) = self.kept.get_mut(&name) {
            self.by_use.remove(&entry.used);
            entry.used = self.now;
            self.by_use.insert(self.now, name);
        }
    }

    fn forget(&mut self, name: Name) {
        if let Some(entry) = self.kept.remove(&name) {
            self.by_use.remove(&entry.used);
            self.bytes -= entry.record.size;
        }
    }
}

impl Record {
    const VERSION: u32 = 1;

    fn piece(&self, file: File) -> Option<Piece> {
        Some(Piece {
            file,
            hash: blake3::Hash::from_hex(&self.hash).ok()?,
            size: self.size,
            form: Form::named(&self.content_type)?,
        })
    }
}

impl Wanted {
    /// What is kept of a key.
    fn key_hash(&self) -> blake3::Hash {
        blake3::hash(self.key.to_string().as_bytes())
    }
}

/// Whose file this is; `None` for what is no piece and no record.
fn name_of(file: &str) -> Option<Name> {
    let stem = file.strip_suffix(".json").unwrap_or(file);
    match stem.strip_suffix(Sight::Small.suffix()) {
        Some(id) => Some((Id::parse(id)?, Sight::Small)),
        None => Some((Id::parse(stem)?, Sight::Whole)),
    }
}

fn disk(error: &io::Error) -> Away {
    tracing::error!("the cache's disk failed: {error}");
    Away::Silent(format!("this edge's disk failed: {error}"))
}

#[cfg(test)]
mod tests;
