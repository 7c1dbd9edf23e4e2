//! Uploads and objects in a directory.
//!
//! Knows: files, who owns how much.   Does not know: HTTP, tokens.
//!
//! ```text
//! secret              32 bytes, made once: names and keys rest on it (`ticket.rs`)
//! uploads/ID          the bytes so far; their number is the offset
//! uploads/ID.json     what it is to be: a [`Record`]
//! objects/ID          the bytes
//! objects/ID.small    of a picture: a small one
//! objects/ID.json     what it is; with it the object is there
//! ```
//! Invariants
//! - D-1  A record is written beside its place, synced, and renamed: what stands there is whole.
//! - D-2  An object's bytes are synced and linked to their name before its record is; its upload goes last. So a crash
//!   in between leaves an upload that is complete and finishes again, or remains that the next start removes.
//! - D-3  What an upload has said that it will be is counted from its beginning, so that two together cannot exceed
//!   what one of them may.
//! - D-4  One request at a time writes to an upload; another is told to come again.
//!
//! Every call may wait for the disk: [`Store::finish`] and what opens the store read much, and belong on a thread of the pool.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rpc_core::sync::Mutex;
use serde::{Deserialize, Serialize};

use super::disk::{create, read_record, remove, sync_dir, write_record, write_whole};
use super::form::{BEGINNING, Form};
use super::picture::{self, Unfit};
use super::piece::{Piece, Sight};
use super::ticket::{Content, Id, Key, Secret};

/// How much is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes of one object.
    pub(super) object: u64,
    /// Bytes of one owner, uploads included.
    pub(super) owner: u64,
    /// Bytes of all.
    pub(super) total: u64,
}

/// Objects and uploads of an edge.
const OBJECTS: usize = 1 << 20;
/// Uploads an owner may have begun.
const UPLOADS: u32 = 16;
/// An upload that has not become an object by then is given up.
const UPLOAD_LIFE_MS: i64 = 24 * 3600 * 1000;
/// Bytes hashed at once.
const PIECE: usize = 64 << 10;

/// A directory with uploads and objects, of this process alone.
pub(super) struct Store {
    uploads: PathBuf,
    objects: PathBuf,
    secret: Secret,
    bounds: Bounds,
    table: Mutex<Table>,
    /// Held while the store is open.
    _lock: File,
}

/// What is known without looking at the disk.
#[derive(Default)]
struct Table {
    owners: HashMap<u64, Usage>,
    /// Bytes of all owners.
    bytes: u64,
    /// Objects and uploads of all.
    count: usize,
    /// Uploads that a request writes to.
    busy: HashSet<Id>,
}

#[derive(Clone, Copy, Default)]
struct Usage {
    bytes: u64,
    uploads: u32,
}

/// What a file of bytes is, or is to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    /// Of this form.
    version: u32,
    owner: u64,
    /// BLAKE3, in hexadecimal.
    hash: String,
    size: u64,
    content_type: String,
    /// Of a picture: the small one.
    small: Option<Small>,
    /// Unix time.
    created_ms: i64,
}

/// A small picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Small {
    /// BLAKE3, in hexadecimal.
    hash: String,
    size: u64,
}

/// An object that is there.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) id: Id,
    pub(super) content: Content,
    /// Hash and bytes of the small picture.
    pub(super) small: Option<(blake3::Hash, u64)>,
}

/// How far an upload got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Progress {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// What came of a wish to upload.
pub(super) enum Begun {
    /// It goes on from here.
    Upload(Id, Progress),
    /// It is here already.
    There(Object),
}

/// Why something is not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// No such upload of this owner, or object of that key.
    #[error(
        "there is no such {0} of yours here; it may have been given up after a day: begin again"
    )]
    Unknown(&'static str),
    /// A chunk for another place than the next.
    #[error("the upload has {0} bytes: send what follows, with this as Upload-Offset")]
    Offset(u64),
    /// More bytes than it said.
    #[error("the upload said that it has {0} bytes, and this would be more")]
    TooLong(u64),
    /// Larger than its type may be.
    #[error("{what} has 1 to {most} bytes, this one {size}")]
    Size {
        /// The type.
        what: &'static str,
        /// Bytes at most.
        most: u64,
        /// Bytes it would have.
        size: u64,
    },
    /// Another request writes to it.
    #[error("another request writes to this upload; ask for its offset and go on from there")]
    Busy,
    /// What came is not what was said.
    #[error(
        "what came does not have the hash that the upload gave; it is thrown away: begin again"
    )]
    Hash,
    /// What came is of another type.
    #[error(
        "what came is no {0}; it is thrown away: begin again with its true type, or application/octet-stream"
    )]
    Type(&'static str),
    /// A picture that is not opened here.
    #[error(transparent)]
    Picture(#[from] Unfit),
    /// The owner has as much as one may have.
    #[error("you would have {would} bytes here and may have {may}; remove something first")]
    Quota {
        /// With this one.
        would: u64,
        /// The bound.
        may: u64,
    },
    /// The owner has begun as much as one may.
    #[error("you have begun {UPLOADS} uploads; finish or give up one of them first")]
    Uploads,
    /// The edge is full.
    #[error("this edge is full; use another, or come again later")]
    Full,
    /// The disk failed.
    #[error("the edge's disk failed: {0}")]
    Disk(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Disk(error),
        }
    }
}

/// The one request that writes to an upload (D-4).
struct Turn<'a> {
    store: &'a Store,
    id: Id,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.store.table.lock().busy.remove(&self.id);
    }
}

impl Store {
    /// Opens the store in `dir`, or makes it, and clears away what a crash left.
    pub(super) fn open(dir: &Path, bounds: Bounds, now_ms: i64) -> anyhow::Result<Self> {
        let at = || format!("--dir {}", dir.display());
        let (uploads, objects) = (dir.join("uploads"), dir.join("objects"));
        for dir in [&uploads, &objects] {
            fs::create_dir_all(dir).with_context(at)?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("lock"))
            .with_context(at)?;
        if lock.try_lock().is_err() {
            anyhow::bail!(
                "{}: another process uses it; stop that one, or give another",
                at()
            );
        }
        let store = Self {
            secret: secret(dir).with_context(at)?,
            uploads,
            objects,
            bounds,
            table: Mutex::new(Table::default()),
            _lock: lock,
        };
        store.count_objects().with_context(at)?;
        store.count_uploads(now_ms).with_context(at)?;
        Ok(store)
    }

    /// Begins an upload, finds the one that was begun, or the object.
    pub(super) fn begin(&self, content: &Content, now_ms: i64) -> Result<Begun, Fault> {
        let id = self.secret.id(content);
        // Before the look: else it might become an object right after.
        let _turn = self.turn(id)?;
        if let Some(object) = self.object(id)? {
            return Ok(Begun::There(object));
        }
        let most = content.form.most(self.bounds.object);
        if !(1..=most).contains(&content.size) {
            return Err(Fault::Size {
                what: content.form.content_type(),
                most,
                size: content.size,
            });
        }
        let record = Record::of(content, now_ms);
        if record_of(&self.uploads, id)?.is_none() {
            self.reserve(content)?;
            let begun = self.make(id, &record);
            if begun.is_err() {
                self.release(&record, true);
            }
            begun?;
        }
        let offset = self.length(id)?;
        Ok(Begun::Upload(
            id,
            Progress {
                offset,
                size: content.size,
            },
        ))
    }

    /// How far an upload got.
    pub(super) fn progress(&self, owner: u64, id: Id) -> Result<Progress, Fault> {
        let record = self.upload(owner, id)?;
        Ok(Progress {
            offset: self.length(id)?,
            size: record.size,
        })
    }

    /// Appends `bytes`, which belong at `at`. What was written before the disk failed stays, and is counted by the offset.
    pub(super) fn append(
        &self,
        owner: u64,
        id: Id,
        at: u64,
        bytes: &[u8],
    ) -> Result<Progress, Fault> {
        let _turn = self.turn(id)?;
        let record = self.upload(owner, id)?;
        let offset = self.length(id)?;
        if at != offset {
            return Err(Fault::Offset(offset));
        }
        let end = offset + bytes.len() as u64;
        if end > record.size {
            return Err(Fault::TooLong(record.size));
        }
        let mut file = OpenOptions::new()
            .append(true)
            .open(self.uploads.join(id.to_string()))?;
        file.write_all(bytes)?;
        Ok(Progress {
            offset: end,
            size: record.size,
        })
    }

    /// Makes an object of an upload that is complete (E-1, E-2).
    pub(super) fn finish(&self, owner: u64, id: Id) -> Result<Object, Fault> {
        let _turn = self.turn(id)?;
        let mut record = self.upload(owner, id)?;
        let content = record.content().ok_or(Fault::Unknown("upload"))?;
        let from = self.uploads.join(id.to_string());
        let mut file = File::open(&from)?;
        if file.metadata()?.len() != record.size {
            return Err(Fault::Offset(self.length(id)?));
        }
        file.sync_all()?;
        let (hash, head) = hash_of(&mut file)?;
        let small = if hash != content.hash {
            Err(Fault::Hash)
        } else if !content.form.begins(&head) {
            Err(Fault::Type(content.form.content_type()))
        } else {
            picture::small(&from, content.form).map_err(Fault::Picture)
        };
        let small = match small {
            Err(fault) => {
                self.discard(id, &record)?;
                return Err(fault);
            }
            Ok(small) => small.unwrap_or_default(),
        };
        match fs::hard_link(&from, self.objects.join(id.to_string())) {
            // A crash came after this step.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            linked => linked?,
        }
        if !small.is_empty() {
            record.small = Some(Small {
                hash: blake3::hash(&small).to_string(),
                size: small.len() as u64,
            });
            write_whole(&self.objects.join(format!("{id}.small")), &small)?;
        }
        sync_dir(&self.objects)?;
        write_record(&record_path(&self.objects, id), &record)?;
        remove_all(&self.uploads, id)?;
        if let Some(usage) = self.table.lock().owners.get_mut(&owner) {
            usage.uploads = usage.uploads.saturating_sub(1);
        }
        Ok(Object {
            id,
            content,
            small: record.small_picture(),
        })
    }

    /// Gives an upload up.
    pub(super) fn cancel(&self, owner: u64, id: Id) -> Result<(), Fault> {
        let _turn = self.turn(id)?;
        let record = self.upload(owner, id)?;
        self.discard(id, &record)
    }

    /// The object of that name.
    pub(super) fn object(&self, id: Id) -> Result<Option<Object>, Fault> {
        let Some(record) = record_of(&self.objects, id)? else {
            return Ok(None);
        };
        let (content, small) = (record.content(), record.small_picture());
        Ok(content.map(|content| Object { id, content, small }))
    }

    /// Bytes of an object, to read; `None` where there are none.
    pub(super) fn piece(&self, id: Id, sight: Sight) -> Result<Option<Piece>, Fault> {
        let Some(record) = record_of(&self.objects, id)? else {
            return Ok(None);
        };
        let told = match sight {
            Sight::Whole => record.content().map(|it| (it.hash, it.size, it.form)),
            Sight::Small => record
                .small_picture()
                .map(|(hash, size)| (hash, size, Form::Jpeg)),
        };
        let Some((hash, size, form)) = told else {
            return Ok(None);
        };
        match File::open(self.objects.join(format!("{id}{}", sight.suffix()))) {
            // Its owner was faster.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            file => Ok(Some(Piece {
                file: file?,
                hash,
                size,
                form,
            })),
        }
    }

    /// Takes an object away, for its owner.
    pub(super) fn remove(&self, owner: u64, id: Id) -> Result<(), Fault> {
        let _turn = self.turn(id)?;
        let record = record_of(&self.objects, id)?.filter(|record| record.owner == owner);
        let record = record.ok_or(Fault::Unknown("object"))?;
        remove_all(&self.objects, id)?;
        self.release(&record, false);
        Ok(())
    }

    /// How much is taken.
    pub(super) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// What it takes to read the object of that name.
    pub(super) fn key(&self, id: Id) -> Key {
        self.secret.key(id)
    }

    /// Gives up the uploads that took too long; how many.
    pub(super) fn expire(&self, now_ms: i64) -> io::Result<usize> {
        let mut gone = 0;
        for id in ids(&self.uploads)? {
            // One that is written to now is looked at next time.
            let Ok(_turn) = self.turn(id) else { continue };
            let Ok(Some(record)) = record_of(&self.uploads, id) else {
                continue;
            };
            if now_ms - record.created_ms >= UPLOAD_LIFE_MS && self.discard(id, &record).is_ok() {
                gone += 1;
            }
        }
        Ok(gone)
    }

    fn turn(&self, id: Id) -> Result<Turn<'_>, Fault> {
        match self.table.lock().busy.insert(id) {
            true => Ok(Turn { store: self, id }),
            false => Err(Fault::Busy),
        }
    }

    fn upload(&self, owner: u64, id: Id) -> Result<Record, Fault> {
        let record = record_of(&self.uploads, id)?;
        let own = record.filter(|record| record.owner == owner);
        own.ok_or(Fault::Unknown("upload"))
    }

    /// Bytes that an upload has.
    fn length(&self, id: Id) -> Result<u64, Fault> {
        Ok(fs::metadata(self.uploads.join(id.to_string()))?.len())
    }

    fn make(&self, id: Id, record: &Record) -> Result<(), Fault> {
        create(&self.uploads.join(id.to_string()))?;
        Ok(write_record(&record_path(&self.uploads, id), record)?)
    }

    fn discard(&self, id: Id, record: &Record) -> Result<(), Fault> {
        remove_all(&self.uploads, id)?;
        self.release(record, true);
        Ok(())
    }

    /// Counts what an upload will be (D-3).
    fn reserve(&self, content: &Content) -> Result<(), Fault> {
        let mut table = self.table.lock();
        let usage = table
            .owners
            .get(&content.owner)
            .copied()
            .unwrap_or_default();
        let would = usage.bytes.saturating_add(content.size);
        if usage.uploads >= UPLOADS {
            return Err(Fault::Uploads);
        }
        if would > self.bounds.owner {
            let may = self.bounds.owner;
            return Err(Fault::Quota { would, may });
        }
        if table.bytes.saturating_add(content.size) > self.bounds.total || table.count >= OBJECTS {
            return Err(Fault::Full);
        }
        table.count(content.owner, content.size, true);
        Ok(())
    }

    /// Counts no longer what was counted.
    fn release(&self, record: &Record, upload: bool) {
        let mut table = self.table.lock();
        table.bytes = table.bytes.saturating_sub(record.size);
        table.count = table.count.saturating_sub(1);
        if let Some(usage) = table.owners.get_mut(&record.owner) {
            usage.bytes = usage.bytes.saturating_sub(record.size);
            usage.uploads = usage.uploads.saturating_sub(u32::from(upload));
            if usage.bytes == 0 {
                table.owners.remove(&record.owner);
            }
        }
    }

    /// At the start: counts the objects, and removes bytes that no record came for.
    fn count_objects(&self) -> io::Result<()> {
        for id in ids(&self.objects)? {
            match record_of(&self.objects, id) {
                Ok(Some(record)) => self.table.lock().count(record.owner, record.size, false),
                Ok(None) => remove_all(&self.objects, id)?,
                // Not served, and not thrown away either: somebody may want to look.
                Err(error) => tracing::error!(%id, "an object's record is damaged: {error}"),
            }
        }
        Ok(())
    }

    /// At the start: counts the uploads that may go on.
    fn count_uploads(&self, now_ms: i64) -> io::Result<()> {
        for id in ids(&self.uploads)? {
            let record = record_of(&self.uploads, id).ok().flatten();
            let there = matches!(record_of(&self.objects, id), Ok(Some(_)));
            let begun = fs::exists(self.uploads.join(id.to_string()))?;
            match record.filter(|it| now_ms - it.created_ms < UPLOAD_LIFE_MS) {
                Some(record) if begun && !there => {
                    self.table.lock().count(record.owner, record.size, true);
                }
                _ => remove_all(&self.uploads, id)?,
            }
        }
        Ok(())
    }
}

impl Table {
    fn count(&mut self, owner: u64, bytes: u64, upload: bool) {
        self.bytes += bytes;
        self.count += 1;
        let usage = self.owners.entry(owner).or_default();
        usage.bytes += bytes;
        usage.uploads += u32::from(upload);
    }
}

impl Record {
    const VERSION: u32 = 1;

    fn of(content: &Content, created_ms: i64) -> Self {
        Self {
            version: Self::VERSION,
            owner: content.owner,
            hash: content.hash.to_string(),
            size: content.size,
            content_type: content.form.content_type().to_owned(),
            small: None,
            created_ms,
        }
    }

    fn small_picture(&self) -> Option<(blake3::Hash, u64)> {
        let small = self.small.as_ref()?;
        Some((blake3::Hash::from_hex(&small.hash).ok()?, small.size))
    }

    /// `None` where another version of the program wrote it.
    fn content(&self) -> Option<Content> {
        (self.version == Self::VERSION).then_some(())?;
        Some(Content {
            owner: self.owner,
            hash: blake3::Hash::from_hex(&self.hash).ok()?,
            size: self.size,
            form: Form::named(&self.content_type)?,
        })
    }
}

/// The secret in `dir`, made where there is none.
fn secret(dir: &Path) -> io::Result<Secret> {
    let path = dir.join("secret");
    match fs::read(&path) {
        Ok(bytes) => {
            let secret = bytes.try_into().map(Secret);
            return secret.map_err(|_| io::Error::other("`secret` is not the 32 bytes it was"));
        }
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    let mut secret = [0; 32];
    rpc_core::base::rng::fill_secret(&mut secret);
    write_whole(&path, &secret)?;
    Ok(Secret(secret))
}

fn record_path(dir: &Path, id: Id) -> PathBuf {
    dir.join(format!("{id}.json"))
}

/// The record of that name; `None` = there is none.
fn record_of(dir: &Path, id: Id) -> io::Result<Option<Record>> {
    read_record(&record_path(dir, id))
}

/// Removes a record and all that is with it, the record first: bytes without one are nothing.
fn remove_all(dir: &Path, id: Id) -> io::Result<()> {
    for end in [".json", ".json.new", ".small", ".small.new", ""] {
        remove(&dir.join(format!("{id}{end}")))?;
    }
    sync_dir(dir)
}

/// Every id in a directory that has a file of any kind, once.
fn ids(dir: &Path) -> io::Result<HashSet<Id>> {
    let mut found = HashSet::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let stem = name.to_str().and_then(|name| name.split('.').next());
        found.extend(stem.and_then(Id::parse));
    }
    Ok(found)
}

/// The hash of all that a file has, and how it begins.
fn hash_of(file: &mut File) -> io::Result<(blake3::Hash, Vec<u8>)> {
    let mut hasher = blake3::Hasher::new();
    let (mut piece, mut head) = (vec![0; PIECE], Vec::new());
    loop {
        let length = file.read(&mut piece)?;
        if length == 0 {
            return Ok((hasher.finalize(), head));
        }
        let missing = BEGINNING.saturating_sub(head.len()).min(length);
        head.extend_from_slice(&piece[..missing]);
        hasher.update(&piece[..length]);
    }
}

#[cfg(test)]
mod tests;
