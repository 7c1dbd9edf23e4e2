//! A copy that is damaged: noticed, noted, set aside; then the process begins anew, and is brought level.
//!
//! Knows: what damage is, the note in the directory, the members of the view.
//! Does not know: how a copy is brought level (V-8 in [`super::views`]).
//!
//! A log's end that is torn or rotten is mended where it lies, from the other copy's log. Rows of a table are not:
//! a table is what the whole log made of it. So the copy as a whole is taken from the member that has it, by making
//! this process another member (V-1): its directory is renamed and an empty one takes its place.
//!
//! Invariants
//! - M-1  A copy is set aside only while the view has a primary or a backup other than it, which has all that is
//!   committed (V-2; of a follower that cannot be said), and which has not been claimed to be set aside itself. The only
//!   copy is served as far as it can be read; what cannot be is an error to who asks.
//! - M-2  Nothing is removed: what is set aside is the operator's.
//! - M-3  What another version wrote, or another process uses, is not damage.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use rpc_core::time::Instant;

use super::{
    committer::Submit,
    copies::backup::Backup,
    engine::{Durability, Engine, EngineError, Snapshot, Span, Table},
    location::{Location, Purpose},
    store,
    views::{self, machine::View},
};
use crate::coordinator::{Agreed, Coordinator, Fault, Session, agree};

/// Says in the directory that the copy in it was found damaged.
const NOTE: &str = "DAMAGED";
/// Holds the disk's name and its checksum.
const NAME: &str = "DISK";
/// Copies set aside beside a directory; with more of them somebody has to look at the disk first.
const ASIDE: u32 = 3;
/// Time for the coordinator to say who has the store.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(200);
/// Of the session in which it is asked.
const SESSION: Duration = Duration::from_secs(3);

/// The engine of a serving primary: reads that meet damage are told to the committer, which ends the reign where
/// there is another copy.
pub struct Watched {
    below: Arc<dyn Engine>,
    submit: Submit,
}

impl Watched {
    /// Watches the reads of `below`.
    pub fn new(below: Arc<dyn Engine>, submit: Submit) -> Self {
        Self { below, submit }
    }

    fn look<T>(&self, outcome: Result<T, EngineError>) -> Result<T, EngineError> {
        outcome.inspect_err(|error| {
            if let EngineError::Damaged(what) = error {
                self.submit.damaged(what);
            }
        })
    }
}

impl Engine for Watched {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.look(self.below.get(table, key))
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, EngineError> {
        self.look(self.below.snapshot())
    }

    fn write(&self, parts: &[&[u8]], durability: Durability) -> Result<(), EngineError> {
        self.below.write(parts, durability)
    }

    fn scan(
        &self,
        table: Table,
        span: Span<'_>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        self.look(self.below.scan(table, span, visit))
    }
}

/// Notes damage for the next start, as far as the disk still takes it.
pub fn note(location: &Location, what: &str) {
    let Some(dir) = &location.data_dir else {
        return;
    };
    let written = File::create(dir.join(NOTE)).and_then(|mut file| {
        file.write_all(what.as_bytes())?;
        file.sync_all()
    });
    if let Err(error) = written {
        tracing::warn!(%error, "the damage could not be noted");
    }
}

/// Opens the copy, or begins anew where it is damaged and another member of `store` has everything.
///
/// # Errors
/// What keeps it from being opened; damage that nothing can mend.
pub fn open(
    location: &Location,
    coordinator: &dyn Coordinator,
    store: &str,
) -> anyhow::Result<(Arc<dyn Engine>, Backup)> {
    let opened = open_there(location);
    let Some(dir) = &location.data_dir else {
        return opened;
    };
    if let Ok((engine, _)) = &opened {
        keep_name(dir, &**engine).with_context(|| location.flag())?;
    }
    let noted = fs::read_to_string(dir.join(NOTE)).ok();
    let found = opened.as_ref().err().and_then(damage);
    let Some(what) = noted.or(found) else {
        return opened;
    };
    let may = match name(dir) {
        Some(disk) => claim(coordinator, store, &disk).with_context(|| location.flag())?,
        None => false,
    };
    if !may {
        tracing::error!(
            what,
            "the copy is damaged, and no other member of the view has it"
        );
        return opened
            .with_context(|| format!("{}, of which no other copy is known", location.flag()));
    }
    drop(opened);
    let aside = set_aside(dir)?;
    tracing::error!(what, aside = %aside.display(), "the copy is damaged and set aside; it is taken anew from the other one");
    open_there(location)
}

fn open_there(location: &Location) -> anyhow::Result<(Arc<dyn Engine>, Backup)> {
    let engine = location.open(Purpose::Write)?;
    let copy = match location.is_shared() {
        true => Backup::stand_in(Arc::clone(&engine)),
        false => Backup::open(Arc::clone(&engine)),
    };
    Ok((engine, copy.with_context(|| location.flag())?))
}

/// The damage that an error tells of (M-3).
fn damage(error: &anyhow::Error) -> Option<String> {
    match error
        .chain()
        .find_map(|cause| cause.downcast_ref::<EngineError>())
    {
        Some(EngineError::Damaged(what)) => Some(what.clone()),
        _ => None,
    }
}

/// Keeps the disk's name where it can be read although the store cannot.
fn keep_name(dir: &Path, engine: &dyn Engine) -> anyhow::Result<()> {
    let disk = store::disk(engine)?;
    if name(dir).as_ref() != Some(&disk) {
        let mut file = File::create(dir.join(NAME))?;
        file.write_all(&disk)?;
        file.write_all(&crc32c::crc32c(&disk).to_be_bytes())?;
        file.sync_all()?;
    }
    Ok(())
}

/// The disk's name; `None` where that is damaged as well.
fn name(dir: &Path) -> Option<Bytes> {
    let bytes = fs::read(dir.join(NAME)).ok()?;
    let (disk, sum) = bytes.split_last_chunk()?;
    (crc32c::crc32c(disk) == u32::from_be_bytes(*sum)).then(|| Bytes::copy_from_slice(disk))
}

/// Whether this disk may be set aside; then nobody else who relies on it may (M-1).
fn claim(coordinator: &dyn Coordinator, store: &str, disk: &Bytes) -> anyhow::Result<bool> {
    let until = Instant::after(PATIENCE);
    loop {
        let session = coordinator.open(SESSION);
        match session.and_then(|session| try_claim(&*session, store, disk)) {
            Ok(Some(may)) => return Ok(may),
            Err(fault @ Fault::Refused(_)) => return Err(fault.into()),
            Err(fault) if Instant::now() >= until => {
                return Err(fault).context("the copy is damaged, and nobody says who else has one");
            }
            Ok(None) | Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// One attempt; `None`: something changed meanwhile. What is read may be old, so each is held against the
/// coordinator's word by writing it; after that no member but another one changes the view.
fn try_claim(session: &dyn Session, store: &str, disk: &Bytes) -> Result<Option<bool>, Fault> {
    let path = |name: &str| format!("/stores/{store}/{name}");
    let Some(node) = session.read(&path("view"))? else {
        return Ok(Some(false));
    };
    match session.set(&path("view"), &node.data, node.version) {
        Err(Fault::BadVersion) => return Ok(None),
        written => written?,
    };
    let Some(view) = views::view_of(node.data) else {
        return Ok(Some(false));
    };
    let claim = session.read(&path("mending"))?;
    if !another_has_it(&view, disk, claim.as_ref().map(|claim| &claim.data)) {
        return Ok(Some(false));
    }
    let version = claim.map(|claim| claim.version);
    match agree(session, &path("mending"), version, disk)? {
        Agreed::Ours(_) => Ok(Some(true)),
        Agreed::Theirs(_) => Ok(None),
    }
}

/// Whether the view has a member other than this disk, and other than the one that was claimed to be set aside.
fn another_has_it(view: &View, disk: &Bytes, claimed: Option<&Bytes>) -> bool {
    let mut members = [&view.primary].into_iter().chain(&view.backup);
    members.any(|member| member.disk != *disk && Some(&member.disk) != claimed)
}

/// Renames a directory and makes an empty one in its place; the new name (M-2).
fn set_aside(dir: &Path) -> anyhow::Result<PathBuf> {
    let named = |n: u32| {
        let mut name = dir.to_path_buf().into_os_string();
        name.push(format!(".damaged-{n}"));
        PathBuf::from(name)
    };
    let Some(aside) = (1..=ASIDE).map(named).find(|name| !name.exists()) else {
        bail!(
            "{ASIDE} damaged copies lie beside {} already; look after the disk and remove them",
            dir.display()
        );
    };
    let failed = || format!("{} cannot be set aside; move it away", dir.display());
    fs::rename(dir, &aside).with_context(failed)?;
    fs::create_dir(dir).with_context(failed)?;
    if let Some(above) = aside.parent().filter(|above| !above.as_os_str().is_empty()) {
        File::open(above)?.sync_all()?;
    }
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Incarnation, storage::views::machine::Member};

    fn member(n: u8) -> Member {
        Member {
            address: format!("127.0.0.1:{n}"),
            disk: Bytes::copy_from_slice(&[n; 16]),
            idc: String::new(),
        }
    }

    fn view(primary: u8, backup: Option<u8>) -> View {
        View {
            epoch: 4,
            primary: member(primary),
            backup: backup.map(member),
            follower: Some(member(9)),
            sole: false,
            incarnation: Incarnation(0),
            proposal: Bytes::new(),
            store_id: Bytes::new(),
            shards: 8,
        }
    }

    #[test]
    fn the_only_copy_is_never_set_aside() {
        let disk = member(1).disk;
        for (view, claimed, other) in [
            (view(1, None), None, false),
            (view(1, Some(2)), None, true),
            (view(2, Some(1)), None, true),
            (view(2, None), None, true),
            // Claimed by this one in an earlier life, and by one that has left.
            (view(1, Some(2)), Some(1), true),
            (view(1, Some(2)), Some(3), true),
            // The other one is about to be set aside.
            (view(1, Some(2)), Some(2), false),
            (view(2, Some(1)), Some(2), false),
        ] {
            let claimed = claimed.map(|n| member(n).disk);
            assert_eq!(
                another_has_it(&view, &disk, claimed.as_ref()),
                other,
                "{view:?} with {claimed:?}"
            );
        }
    }

    #[test]
    fn a_disk_has_its_name_although_the_store_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let location = Location::directory(&dir.path().join("store"));
        let dir = location.data_dir.clone().unwrap();
        let engine = location.open(Purpose::Write).unwrap();
        keep_name(&dir, &*engine).unwrap();
        assert_eq!(name(&dir), Some(store::disk(&*engine).unwrap()));
        let mut bytes = fs::read(dir.join(NAME)).unwrap();
        bytes[3] ^= 1;
        fs::write(dir.join(NAME), bytes).unwrap();
        assert_eq!(name(&dir), None);
        keep_name(&dir, &*engine).unwrap();
        assert!(name(&dir).is_some());
    }

    #[test]
    fn what_is_set_aside_is_kept_and_there_is_an_end_to_it() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("store");
        for n in 1..=ASIDE {
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("row"), [n as u8]).unwrap();
            let aside = set_aside(&dir).unwrap();
            assert_eq!(fs::read(aside.join("row")).unwrap(), [n as u8]);
            assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        }
        let error = set_aside(&dir).unwrap_err().to_string();
        assert!(error.contains("look after the disk"), "{error}");
    }

    #[test]
    fn another_version_or_another_process_is_no_damage() {
        let error = |error: EngineError| anyhow::Error::new(error).context("--data-dir x");
        assert!(damage(&error(EngineError::Damaged("a block".into()))).is_some());
        for other in [
            EngineError::Format("2".into()),
            EngineError::InUse("x".into()),
            EngineError::Disk("full".into()),
        ] {
            assert_eq!(damage(&error(other)), None);
        }
    }
}
