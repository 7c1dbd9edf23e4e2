//! Disks that lie, and disks that are slow.
//!
//! A bit is flipped only while the store has two copies that are level: of one that is the only one nothing could be
//! mended. For the same reason nothing else is done before there are two again.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rpc_core::time::Instant;
use wechat_demo::cluster::{Plan, Role};

use super::faults::{AWAY_MS, Faults, Kind, LOOK, TROUBLE_MS};

/// How much longer each sync of a slow disk takes, ms: at the most well within the 2 s that copies wait for each other.
const LONGER_MS: (u64, u64) = (50, 800);
/// Longer than a primary keeps a member that does not answer: the view then says who is there.
const SETTLED: Duration = Duration::from_secs(2);
/// Time for a store to have two copies again.
const LEVEL: Duration = Duration::from_secs(30);
/// Copies of a store that are level, when nothing is wrong.
const COPIES: u32 = 2;

/// Lets the storage processes of a plan be slowed down.
pub(super) fn can_be_slow(dir: &Path, plan: &mut Plan) {
    for role in Role::STORAGE {
        let file = slow_file(dir, role).display().to_string();
        plan.extra
            .extend([(role, "--slow-syncs".to_owned()), (role, file)]);
    }
}

/// Says how much longer a role's syncs take.
fn slow_file(dir: &Path, role: Role) -> PathBuf {
    dir.join(format!("{role}.slow"))
}

impl Faults {
    /// Syncs of one storage process, or of all, take longer.
    pub(super) fn slow_disk(&self) -> anyhow::Result<String> {
        let which = self.below(Role::STORAGE.len() + 1);
        let slow = Role::STORAGE.get(which..=which).unwrap_or(&Role::STORAGE);
        let name = match slow {
            [one] => one.name(),
            _ => "all",
        };
        let longer = self.between(LONGER_MS);
        let dir = self.cluster().layout().dir.clone();
        self.tell(Kind::SlowDisk, name);
        for role in slow {
            let file = slow_file(&dir, *role);
            std::fs::write(&file, longer.as_millis().to_string())
                .with_context(|| file.display().to_string())?;
        }
        std::thread::sleep(self.between(TROUBLE_MS));
        for role in slow {
            let file = slow_file(&dir, *role);
            std::fs::remove_file(&file).with_context(|| file.display().to_string())?;
        }
        Ok(format!("{name} by {longer:?}"))
    }

    /// A bit of what a storage process has written is another one when it reads it again. What the process sets aside
    /// for its operator is removed.
    pub(super) fn flip_bit(&self) -> anyhow::Result<String> {
        self.wait_level()?;
        let role = Role::STORAGE[self.below(Role::STORAGE.len())];
        let disk = self.cluster().layout().dir.join(role.name());
        let down = self.below(2) == 0;
        if down {
            self.cluster().kill(role);
        }
        let looked = disk.clone();
        // A journal is tens of megabytes, of which most were set aside for later.
        let files = rpc_core::spawn_blocking(move || written(&looked)).join();
        let files = files.map_err(|error| anyhow::anyhow!("{error}"))?;
        let files = files.with_context(|| disk.display().to_string())?;
        anyhow::ensure!(!files.is_empty(), "{} holds nothing", disk.display());
        let (file, bytes) = &files[self.below(files.len())];
        let (at, bit) = (self.below(*bytes as usize) as u64, self.below(8));
        flip(file, at, bit).with_context(|| file.display().to_string())?;
        self.tell(Kind::BitFlip, role.name());
        if !down {
            std::thread::sleep(self.between(AWAY_MS));
            self.cluster().kill(role);
        }
        self.start_all()?;
        self.wait_level()?;
        let is_table = file.extension().is_none();
        let found = match remove_aside(&disk)? {
            true => "set aside",
            false if is_table => {
                // Nobody has read it yet, and by the time somebody does the other copy may have to be mended from it.
                // Tables are never written a second time.
                drop(flip(file, at, bit));
                "not read, put right"
            }
            false => "cut off",
        };
        let kind = if is_table { "table" } else { "journal" };
        let when = if down { "down" } else { "up" };
        Ok(format!("{role} ({kind}, while it was {when}): {found}"))
    }

    /// Starts what does not run.
    fn start_all(&self) -> anyhow::Result<()> {
        let mut cluster = self.cluster();
        // Whatever has ended is no longer running only once it was looked at.
        cluster.ended();
        for role in cluster.layout().roles() {
            if cluster.pid(role).is_none() {
                cluster.spawn(role)?;
            }
        }
        Ok(())
    }

    /// Waits until the store has its copies. A process that ends on the way, because it has met damage, is started
    /// again.
    fn wait_level(&self) -> anyhow::Result<()> {
        let until = Instant::now() + LEVEL;
        std::thread::sleep(SETTLED);
        loop {
            self.start_all()?;
            if self.cluster().copies() == Some(COPIES) {
                return Ok(());
            }
            anyhow::ensure!(
                Instant::now() < until,
                "the store has not {COPIES} copies after {LEVEL:?}"
            );
            std::thread::sleep(LOOK);
        }
    }
}

/// The journals and tables below a directory, each with its bytes that say something: what follows in a journal was
/// set aside for later.
fn written(dir: &Path) -> std::io::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(written(&path)?);
            continue;
        }
        let bytes = if path.extension().is_some_and(|end| end == "jnl") {
            let bytes = std::fs::read(&path)?;
            bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |at| at + 1) as u64
        } else if dir.ends_with("tables") {
            path.metadata()?.len()
        } else {
            0
        };
        if bytes > 0 {
            found.push((path, bytes));
        }
    }
    found.sort();
    Ok(found)
}

fn flip(file: &Path, at: u64, bit: usize) -> std::io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(file)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, at)
}

/// Removes what a storage process has set aside beside its directory; whether there was something.
fn remove_aside(disk: &Path) -> anyhow::Result<bool> {
    let mut noticed = false;
    for n in 1.. {
        let aside = disk.with_extension(format!("damaged-{n}"));
        if !aside.exists() {
            break;
        }
        std::fs::remove_dir_all(&aside).with_context(|| aside.display().to_string())?;
        noticed = true;
    }
    Ok(noticed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_of_what_was_written_is_flipped() {
        let dir = tempfile::tempdir().unwrap();
        let tables = dir.path().join("keyspaces/1/tables");
        std::fs::create_dir_all(&tables).unwrap();
        let (journal, table) = (dir.path().join("0.jnl"), tables.join("7"));
        std::fs::write(&journal, [1, 2, 3, 0, 0, 0]).unwrap();
        std::fs::write(&table, [0, 0]).unwrap();
        std::fs::write(dir.path().join("1.jnl"), [0; 8]).unwrap();
        std::fs::write(dir.path().join("version"), [3]).unwrap();
        let files = written(dir.path()).unwrap();
        assert_eq!(files, [(journal.clone(), 3), (table, 2)]);
        flip(&journal, 2, 4).unwrap();
        assert_eq!(std::fs::read(&journal).unwrap(), [1, 2, 19, 0, 0, 0]);
    }

    #[test]
    fn what_was_set_aside_is_removed_and_seen() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("storage-1");
        std::fs::create_dir(&disk).unwrap();
        assert!(!remove_aside(&disk).unwrap());
        for n in 1..=2 {
            std::fs::create_dir(dir.path().join(format!("storage-1.damaged-{n}"))).unwrap();
        }
        assert!(remove_aside(&disk).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
