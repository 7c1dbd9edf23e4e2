//! Certificates that are renewed on disk while a server runs.
//!
//! Knows: two files, when they last changed.   Does not know: connections.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::{fs, io};

use crate::base::lock::SpinLock;
use crate::rpc::error::Error;
use crate::rpc::tls::ServerTls;

/// The files of a server's certificate, read again when they change.
pub(super) struct CertificateFiles {
    chain: PathBuf,
    key: PathBuf,
    /// What both looked like when they were last read.
    seen: SpinLock<Option<[Look; 2]>>,
}

/// What changes when a file is written or replaced: device, inode, time of change in seconds and
/// nanoseconds.
type Look = (u64, u64, i64, i64);

impl CertificateFiles {
    pub fn new(chain: PathBuf, key: PathBuf) -> Self {
        Self {
            chain,
            key,
            seen: SpinLock::new(None),
        }
    }

    /// Gives `tls` what the files hold.
    ///
    /// # Errors
    /// A file cannot be read, or the two are no certificate and its key: `tls` stays as it is.
    pub fn read(&self, tls: &ServerTls) -> Result<(), Error> {
        *self.seen.lock() = self.look().ok();
        let open = |path: &PathBuf| {
            fs::read(path)
                .map_err(|error| Error::Config(format!("cannot read {}: {error}", path.display())))
        };
        tls.replace(&open(&self.chain)?, &open(&self.key)?)
            .map_err(|error| {
                let (chain, key) = (self.chain.display(), self.key.display());
                Error::Config(format!("{chain} and {key}: {error}"))
            })
    }

    /// Reads the files again if they are others than last time. A pair that does not fit, perhaps because
    /// only one of the two is written yet, is logged and leaves the old certificate in force.
    pub fn look_again(&self, tls: &ServerTls) {
        let look = self.look().ok();
        if look.is_none() || look == *self.seen.lock() {
            return;
        }
        match self.read(tls) {
            Ok(()) => tracing::info!("the certificate in {} is new", self.chain.display()),
            Err(error) => tracing::warn!("{error}; the old certificate stays in force"),
        }
    }

    fn look(&self) -> io::Result<[Look; 2]> {
        let look = |path: &PathBuf| -> io::Result<Look> {
            let meta = fs::metadata(path)?;
            Ok((meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()))
        };
        Ok([look(&self.chain)?, look(&self.key)?])
    }
}
