//! A cluster in one IDC or in several, which differ in their names, ports and directories alone.
//!
//! Knows:       the parts of a cluster.
//! Does not know: what is said from IDC to IDC.

use std::fmt;
use std::path::Path;

use super::layout::{Layout, Plan, Ports, Role};
use super::process::{Cluster, ClusterError};

/// Names of the IDCs of a cluster that has several, in the order of their homes' ids.
pub const IDCS: [&str; 3] = ["sh", "hk", "ca"];

/// A process among those of all IDCs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Whose; `None` where there is but one, and of what several have in common.
    pub idc: Option<String>,
    /// Which.
    pub role: Role,
}

/// The processes of all IDCs, and those that they have in common. Dropping it ends them.
#[derive(Debug)]
pub struct Clusters {
    /// Each IDC's, then, where there are several, what is outside.
    parts: Vec<Cluster>,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.idc {
            Some(idc) => write!(f, "{idc}/{}", self.role),
            None => self.role.fmt(f),
        }
    }
}

impl Clusters {
    /// Starts a whole cluster below `dir`, of the first `idcs` of [`IDCS`] or, if that is 1, without names, and waits until
    /// it is healthy. With `first_port` 0 it takes free ports.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn bring_up(
        dir: &Path,
        first_port: u16,
        plan: &Plan,
        idcs: usize,
        binary: &Path,
    ) -> Result<Self, ClusterError> {
        if idcs <= 1 {
            let whole = Cluster::bring_up(dir, first_port, plan, binary)?;
            return Ok(Self { parts: vec![whole] });
        }
        let names = &IDCS[..idcs.min(IDCS.len())];
        let layouts = || {
            let ports = Ports::choose_all(first_port, names.len() as u16 + 1)?;
            Ok(Layout::several(dir, names, &ports, plan))
        };
        let parts = Cluster::bring_all_up(layouts, first_port == 0, binary)?;
        Ok(Self { parts })
    }

    /// Each IDC's processes, then, where there are several, what they have in common.
    #[must_use]
    pub fn parts(&self) -> &[Cluster] {
        &self.parts
    }

    /// As [`Clusters::parts`].
    pub fn parts_mut(&mut self) -> &mut [Cluster] {
        &mut self.parts
    }

    /// Every process.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let of = |layout: &Layout| {
            let idc = layout.idc().map(str::to_owned);
            let process = |role| Process {
                idc: idc.clone(),
                role,
            };
            layout.roles().into_iter().map(process).collect::<Vec<_>>()
        };
        self.parts
            .iter()
            .flat_map(|part| of(part.layout()))
            .collect()
    }

    /// The part of that name; `None` = what several have in common, or all there is.
    pub fn part_mut(&mut self, idc: Option<&str>) -> Option<&mut Cluster> {
        let mut parts = self.parts.iter_mut();
        parts.find(|part| part.layout().idc() == idc)
    }

    /// The parts to which terminals connect.
    pub fn idcs(&self) -> impl Iterator<Item = &Cluster> {
        let parts = self.parts.iter();
        parts.filter(|part| part.layout().roles().contains(&Role::Access))
    }

    /// HOST:PORT that terminals connect to, of each IDC.
    #[must_use]
    pub fn link_addresses(&self) -> Vec<String> {
        self.idcs()
            .map(|part| part.layout().link_address())
            .collect()
    }

    /// The layout of the part that has what all have in common.
    ///
    /// # Panics
    /// Never: there is a part.
    #[must_use]
    pub fn common(&self) -> &Layout {
        self.parts.last().expect("there is a part").layout()
    }

    /// Ends every role in order; the names of those that had to be killed.
    pub fn drain(self) -> Vec<String> {
        let named = |part: Cluster| {
            let idc = part.layout().idc().map(str::to_owned);
            let late = part.drain().into_iter();
            late.map(move |role| {
                let idc = idc.clone();
                Process { idc, role }.to_string()
            })
        };
        self.parts.into_iter().flat_map(named).collect()
    }
}
