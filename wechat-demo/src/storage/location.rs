//! Where a store is: flags that name an engine and its database.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use super::engine::{Engine, embedded::Embedded, mysql::Mysql, slow::Slow};

/// The back ends of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum EngineKind {
    /// A database of the process's own, in --data-dir.
    Embedded,
    /// A database that speaks MySQL's protocol, at --database; it keeps the copies.
    Mysql,
}

/// Flags that name a store's database.
#[derive(Args, Clone, Debug)]
pub struct Location {
    /// What keeps the store
    #[arg(long, value_enum, default_value_t = EngineKind::Embedded)]
    pub engine: EngineKind,
    /// Directory of an embedded store
    #[arg(long = "data-dir", visible_alias = "dir", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Database of a store with --engine mysql: mysql://USER:PASSWORD@HOST:PORT/NAME. The connection is not
    /// encrypted: keep it on this machine or in a network of your own
    #[arg(long, value_name = "URL")]
    pub database: Option<String>,
    /// While this file is there each sync takes as many milliseconds longer as it says: for chaos
    #[arg(long, value_name = "FILE")]
    pub slow_syncs: Option<PathBuf>,
}

/// Flags that choose what keeps a cluster's store.
#[derive(Args, Clone, Debug)]
pub struct EngineFlags {
    /// What keeps the store
    #[arg(long, value_enum, default_value_t = EngineKind::Embedded)]
    pub engine: EngineKind,
    /// Database of --engine mysql, made if it is missing: mysql://USER:PASSWORD@HOST:PORT/NAME
    #[arg(long, value_name = "URL")]
    pub database: Option<String>,
}

impl EngineFlags {
    /// The database's URL; `None` = the storage processes keep the store themselves.
    ///
    /// # Errors
    /// One flag without the other.
    pub fn database(&self) -> anyhow::Result<Option<&str>> {
        match (self.engine, &self.database) {
            (EngineKind::Embedded, None) => Ok(None),
            (EngineKind::Mysql, Some(url)) => Ok(Some(url)),
            (EngineKind::Embedded, Some(_)) => bail!("--database goes with --engine mysql"),
            (EngineKind::Mysql, None) => bail!("--engine mysql needs --database URL"),
        }
    }
}

/// What a store is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To read one that is there.
    Read,
    /// To write, after [`Engine::take_over`]; one that is missing is made.
    Write,
}

impl Location {
    /// An embedded store in a directory.
    #[must_use]
    pub fn directory(dir: &Path) -> Self {
        Self {
            engine: EngineKind::Embedded,
            data_dir: Some(dir.to_owned()),
            database: None,
            slow_syncs: None,
        }
    }

    /// Whether one database serves several storage processes, and keeps the copies itself.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.engine == EngineKind::Mysql
    }

    /// Bytes that the disk of an embedded store has left; `None` = the system does not say, or a database knows.
    #[must_use]
    pub fn free(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(self.data_dir.as_ref()?).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// The flag that says where, for messages; never with a password.
    #[must_use]
    pub fn flag(&self) -> String {
        match &self.data_dir {
            Some(dir) => format!("--data-dir {}", dir.display()),
            None => "--database".to_owned(),
        }
    }

    /// Opens the database.
    ///
    /// # Errors
    /// A flag that is missing or one too many; a database that cannot be opened, or holds something else.
    pub fn open(&self, purpose: Purpose) -> anyhow::Result<Arc<dyn Engine>> {
        let engine = self.open_there(purpose)?;
        Ok(match &self.slow_syncs {
            None => engine,
            Some(file) => Arc::new(Slow::new(engine, file)),
        })
    }

    fn open_there(&self, purpose: Purpose) -> anyhow::Result<Arc<dyn Engine>> {
        match (self.engine, &self.data_dir, &self.database) {
            (EngineKind::Embedded, Some(dir), None) => {
                let at = || format!("--data-dir {}", dir.display());
                if purpose == Purpose::Write {
                    std::fs::create_dir_all(dir).with_context(|| {
                        format!("{} cannot be made; give a directory that can", at())
                    })?;
                }
                let mut files = std::fs::read_dir(dir).with_context(at)?;
                match (purpose, Embedded::is_there(dir), files.next()) {
                    (_, true, _) | (Purpose::Write, _, None) => {}
                    (Purpose::Read, ..) => bail!("{} holds no store", at()),
                    _ => bail!(
                        "{} holds other files; give an empty directory or a store's",
                        at()
                    ),
                }
                Ok(Arc::new(Embedded::open(dir).with_context(at)?))
            }
            (EngineKind::Mysql, None, Some(url)) => {
                // The URL is not repeated: it may hold a password.
                Ok(Arc::new(Mysql::open(url).context("--database")?))
            }
            (EngineKind::Embedded, ..) => {
                bail!("--engine embedded needs --data-dir DIR and no --database")
            }
            (EngineKind::Mysql, ..) => {
                bail!("--engine mysql needs --database URL and no --data-dir")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(engine: EngineKind, data_dir: Option<PathBuf>, database: Option<&str>) -> Location {
        let database = database.map(str::to_owned);
        Location {
            engine,
            data_dir,
            database,
            slow_syncs: None,
        }
    }

    fn error(location: &Location, purpose: Purpose) -> String {
        format!("{:#}", location.open(purpose).err().unwrap())
    }

    #[test]
    fn each_engine_asks_for_its_own_flag() {
        let url = Some("mysql://root@127.0.0.1:1/x");
        for (engine, dir, url, part) in [
            (EngineKind::Embedded, None, None, "--data-dir DIR"),
            (EngineKind::Embedded, Some("d".into()), url, "no --database"),
            (EngineKind::Mysql, None, None, "--database URL"),
            (EngineKind::Mysql, Some("d".into()), url, "no --data-dir"),
        ] {
            let text = error(&location(engine, dir, url), Purpose::Write);
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_directory_of_other_files_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let location = location(EngineKind::Embedded, Some(dir.path().to_owned()), None);
        let text = error(&location, Purpose::Read);
        assert!(text.contains("holds no store"), "{text}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        std::fs::write(dir.path().join("diary.txt"), "dear diary").unwrap();
        let text = error(&location, Purpose::Write);
        assert!(text.contains("holds other files"), "{text}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_password_is_not_repeated() {
        let url = "mysql://root:secret@127.0.0.1:1/x";
        let text = error(&location(EngineKind::Mysql, None, Some(url)), Purpose::Read);
        assert!(!text.contains("secret"), "{text}");
    }
}
