//! Which coordinator a process goes to, as flags.

use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;

use super::Coordinator;
use super::remote::RemoteCoordinator;
use super::zookeeper::ZooKeeperCoordinator;

/// One of two.
#[derive(Args, Clone, Debug, Default)]
#[group(id = "coordination", required = true, multiple = false)]
pub struct CoordinatorFlags {
    /// HOST:PORT of the coordinator
    #[arg(long, value_name = "HOST:PORT")]
    pub coordinator: Option<String>,
    /// A ZooKeeper ensemble (3.6 or later) in the coordinator's place: its servers, and where in their tree
    /// this cluster's nodes are
    #[arg(long, value_name = "HOST:PORT,…[/PATH]")]
    pub zookeeper: Option<String>,
}

impl CoordinatorFlags {
    /// The coordinator, which need not be there yet.
    ///
    /// # Errors
    /// An address that is none.
    pub fn reach(&self) -> anyhow::Result<Arc<dyn Coordinator>> {
        match (&self.coordinator, &self.zookeeper) {
            (Some(address), None) => {
                let flag = || format!("--coordinator {address}");
                Ok(Arc::new(
                    RemoteCoordinator::new(address).with_context(flag)?,
                ))
            }
            (None, Some(servers)) => Ok(Arc::new(
                ZooKeeperCoordinator::new(servers).context("--zookeeper")?,
            )),
            _ => bail!("pass one of --coordinator HOST:PORT and --zookeeper HOST:PORT,…"),
        }
    }
}
