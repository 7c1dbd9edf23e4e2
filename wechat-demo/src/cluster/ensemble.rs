//! A ZooKeeper ensemble in the coordinator role's place, as a flag of whoever brings up a cluster.
//!
//! Knows:       that the ensemble must be there, and must not hold another cluster's views.
//! Does not know: what a view says.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::coordinator::{Coordinator, zookeeper::ZooKeeperCoordinator};
use crate::storage::views::STORES;

/// Of the session that looks; it is closed at once.
const SESSION: Duration = Duration::from_secs(4);

/// The flag.
#[derive(Args, Clone, Debug, Default)]
pub struct EnsembleFlags {
    /// A ZooKeeper ensemble (3.6 or later) that keeps the views, in the place of a coordinator process: its
    /// servers, and where in their tree this cluster's nodes are
    #[arg(long, value_name = "HOST:PORT,…[/PATH]")]
    pub zookeeper: Option<String>,
}

impl EnsembleFlags {
    /// Makes sure that the ensemble is there and, for a cluster that starts from nothing, that no other cluster's
    /// views are where its own are to be: nobody would serve. Nothing happens without an ensemble.
    ///
    /// # Errors
    /// An address that is none, an ensemble that cannot be reached, views that are there already.
    pub fn look(&self, from_nothing: bool) -> anyhow::Result<()> {
        let Some(servers) = &self.zookeeper else {
            return Ok(());
        };
        let flag = || format!("--zookeeper {servers}");
        let ensemble = ZooKeeperCoordinator::new(servers).with_context(flag)?;
        let session = ensemble.open(SESSION).with_context(flag)?;
        if from_nothing && !session.children(STORES).with_context(flag)?.is_empty() {
            bail!(
                "{}: a cluster has its views there, and this one starts from nothing; pass another /PATH, or the \
                 --dir of that cluster",
                flag()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ensemble_that_is_none_or_not_there_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = listener.local_addr().unwrap().to_string();
        drop(listener);
        for servers in ["nonsense", &*nobody] {
            let flags = EnsembleFlags {
                zookeeper: Some(servers.to_owned()),
            };
            let error = format!("{:#}", flags.look(true).unwrap_err());
            assert!(error.contains(&format!("--zookeeper {servers}")), "{error}");
        }
        assert!(EnsembleFlags::default().look(true).is_ok());
    }
}
