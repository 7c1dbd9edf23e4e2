//! Which processes a cluster has, and how each is told about the others.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rpc_core::base::rng::Rng;

use crate::push::role::Provider;

/// A process of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Who is primary, who is there; only where no ZooKeeper ensemble says it.
    Coordinator,
    /// A copy of the store, or a spare: which of the three is primary the views say.
    Storage1,
    /// As the first.
    Storage2,
    /// As the first.
    Storage3,
    /// Follows the store of the IDC before; only where there are several, and they keep their stores themselves.
    Follower,
    /// The business.
    Logic,
    /// Long links.
    Access,
    /// Pictures, files and voice messages.
    Edge,
    /// Where to connect; only where terminals ask.
    Dispatch,
    /// Wakes devices; only where there is a provider of pushes.
    Push,
}

impl Role {
    /// Those of a usual cluster, in the order in which they are started: each finds those it calls already there.
    pub const ALL: [Self; 7] = [
        Self::Coordinator,
        Self::Storage1,
        Self::Storage2,
        Self::Storage3,
        Self::Logic,
        Self::Access,
        Self::Edge,
    ];
    /// The storage processes.
    pub const STORAGE: [Self; 3] = [Self::Storage1, Self::Storage2, Self::Storage3];

    /// The name in flags, logs and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Storage1 => "storage-1",
            Self::Storage2 => "storage-2",
            Self::Storage3 => "storage-3",
            Self::Follower => "follower",
            Self::Logic => "logic",
            Self::Access => "access",
            Self::Edge => "edge",
            Self::Dispatch => "dispatch",
            Self::Push => "push",
        }
    }

    /// The role of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let mut all = Self::ALL
            .into_iter()
            .chain([Self::Follower, Self::Dispatch, Self::Push]);
        all.find(|role| role.name() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where everybody listens, on loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Long links of terminals.
    pub link: u16,
    /// RPC and pages of access.
    pub access: u16,
    /// RPC and pages of logic.
    pub logic: u16,
    /// RPC and pages of the coordinator.
    pub coordinator: u16,
    /// RPC and pages of the storage processes.
    pub storage: [u16; 3],
    /// RPC and pages of the process that follows another IDC's store.
    pub follower: u16,
    /// Pages of push.
    pub push: u16,
    /// Media, and pages of the edge.
    pub edge: u16,
    /// RPC and pages of dispatch.
    pub dispatch: u16,
}

/// Ports that a cluster cannot have.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Somebody listens there.
    #[error("port {0} is in use; end what listens there, or pass --port N (0 = any free ports)")]
    InUse(u16),
    /// Too high for all in a row.
    #[error("port {0} leaves no room for {1} in a row; pass one below {limit}", limit = u16::MAX - .1)]
    TooHigh(u16, u16),
    /// The system has none to give.
    #[error("no free port on 127.0.0.1: {0}")]
    None(std::io::Error),
}

/// Ports of a cluster.
const PORTS: u16 = 11;
/// Where free ports are looked for; Linux gives 32768 and above to outgoing connections.
const FREE_PORTS: Range<u16> = 10_000..32_000;
/// Ports tried before there is said to be none.
const ATTEMPTS: usize = 200;

impl Ports {
    /// `first` and the ten after it; 0 = whichever are free.
    ///
    /// # Errors
    /// As [`Ports::choose_all`].
    pub fn choose(first: u16) -> Result<Self, PortError> {
        Self::choose_all(first, 1).map(|mut all| all.remove(0))
    }

    /// The ports of several sets of processes, one set after the other from `first` on; 0 = whichever are free.
    ///
    /// # Errors
    /// [`PortError`]; all are tried, so that a cluster does not come up in part.
    pub fn choose_all(first: u16, sets: u16) -> Result<Vec<Self>, PortError> {
        let count = PORTS * sets;
        if first > u16::MAX - count {
            return Err(PortError::TooHigh(first, count));
        }
        let mut rng = Rng::from_entropy();
        let mut held = Vec::new();
        let mut ports = Vec::new();
        for offset in 0..count {
            // Held until all are known, so that no two are the same.
            let listener = match first {
                0 => any_free(&mut rng)?,
                _ => TcpListener::bind((Ipv4Addr::LOCALHOST, first + offset))
                    .map_err(|_| PortError::InUse(first + offset))?,
            };
            ports.push(listener.local_addr().map_err(PortError::None)?.port());
            held.push(listener);
        }
        let (sets, _) = ports.as_chunks();
        Ok(sets.iter().copied().map(Self::of).collect())
    }

    fn of(ports: [u16; PORTS as usize]) -> Self {
        let [
            link,
            access,
            logic,
            coordinator,
            first,
            second,
            third,
            follower,
            push,
            edge,
            dispatch,
        ] = ports;
        Self {
            link,
            access,
            logic,
            coordinator,
            storage: [first, second, third],
            follower,
            push,
            edge,
            dispatch,
        }
    }
}

/// A free port below those the kernel gives to outgoing connections: else some connection may sit on it
/// by the time a role is started there, or started again.
fn any_free(rng: &mut Rng) -> Result<TcpListener, PortError> {
    let mut refused = None;
    for _ in 0..ATTEMPTS {
        let span = u64::from(FREE_PORTS.end - FREE_PORTS.start);
        let port = FREE_PORTS.start + rng.below(span) as u16;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => return Ok(listener),
            Err(error) => refused = Some(error),
        }
    }
    Err(PortError::None(refused.expect("there was an attempt")))
}

/// What a cluster has beside what every cluster has, and what others do for it.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// URL of the database that keeps the store; `None` = the storage processes do, below the cluster's directory.
    pub database: Option<String>,
    /// The ZooKeeper ensemble that keeps the views, as `HOST:PORT,…[/PATH]`; `None` = the coordinator role does.
    pub zookeeper: Option<String>,
    /// As whom devices are woken; `None` = they are not.
    pub push: Option<Provider>,
    /// Terminals may ask where to connect.
    pub dispatch: bool,
    /// Flags of this run for single roles, after the usual ones.
    pub extra: Vec<(Role, String)>,
    /// Variables of this run in the environment of single roles: name and value.
    pub environment: Vec<(Role, String, String)>,
}

/// Which part of a cluster a set of processes is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// All there is.
    Whole,
    /// What the IDCs have in common: who agrees on the views, and where to connect.
    Outside,
    /// An IDC's.
    Idc(Idc),
}

/// An IDC's place among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Idc {
    /// Its name, and its home's.
    name: String,
    /// The home whose store it follows.
    follows: String,
    /// What everybody is told of all homes, in the order of their ids: NAME=HOST:PORT,…
    homes: Vec<String>,
    /// The ports of what is outside.
    outside: Ports,
    /// HOST:PORT of the other IDCs' edges.
    edges: Vec<String>,
}

/// A cluster's processes: their flags and their places.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Everything the cluster writes is below it.
    pub dir: PathBuf,
    /// Where everybody listens.
    pub ports: Ports,
    /// What there is.
    pub plan: Plan,
    part: Part,
}

impl Layout {
    /// A cluster below `dir`.
    #[must_use]
    pub fn new(dir: &Path, ports: Ports, plan: Plan) -> Self {
        Self {
            dir: dir.to_owned(),
            ports,
            plan,
            part: Part::Whole,
        }
    }

    /// A cluster of several IDCs below `dir`, at these ports, a set for each IDC and one more: the layout of each IDC, and
    /// last that of what they have in common.
    ///
    /// # Panics
    /// Where there is not one set of ports more than there are names.
    #[must_use]
    pub fn several(dir: &Path, names: &[&str], ports: &[Ports], plan: &Plan) -> Vec<Self> {
        let [idcs @ .., outside] = ports else {
            unreachable!("there is a set of ports for what is outside")
        };
        assert_eq!(idcs.len(), names.len(), "each IDC has its ports");
        let part = |dir: PathBuf, ports: Ports, part: Part| Self {
            dir,
            ports,
            plan: plan.clone(),
            part,
        };
        // Each store is followed from the next IDC, the last one's from the first.
        let next = idcs.iter().cycle().skip(1);
        let homes: Vec<String> = names
            .iter()
            .zip(idcs.iter().zip(next))
            .map(|(name, (ports, next))| home(plan, name, ports, next))
            .collect();
        let before = names.iter().cycle().skip(names.len().saturating_sub(1));
        let edges = idcs.iter().map(|ports| address(ports.edge));
        let edges: Vec<String> = edges.collect();
        let layouts = names
            .iter()
            .zip(idcs)
            .zip(before)
            .map(|((&name, ports), &before)| {
                let own = address(ports.edge);
                let idc = Idc {
                    name: name.to_owned(),
                    follows: before.to_owned(),
                    homes: homes.clone(),
                    outside: *outside,
                    edges: edges.iter().filter(|edge| **edge != own).cloned().collect(),
                };
                part(dir.join(name), *ports, Part::Idc(idc))
            });
        let outside = part(dir.to_owned(), *outside, Part::Outside);
        layouts.chain([outside]).collect()
    }

    /// The IDC's name, where there are several.
    #[must_use]
    pub fn idc(&self) -> Option<&str> {
        self.place().map(|idc| idc.name.as_str())
    }

    fn place(&self) -> Option<&Idc> {
        match &self.part {
            Part::Idc(idc) => Some(idc),
            Part::Whole | Part::Outside => None,
        }
    }

    /// The ports of what several IDCs have in common; the own ones where there is but one.
    fn common(&self) -> &Ports {
        self.place().map_or(&self.ports, |idc| &idc.outside)
    }

    /// The roles there are, in the order in which they are started.
    #[must_use]
    pub fn roles(&self) -> Vec<Role> {
        let plan = &self.plan;
        let all = Role::ALL.into_iter();
        all.chain([Role::Follower, Role::Dispatch, Role::Push])
            .filter(|role| match role {
                Role::Follower => self.is_followed(),
                Role::Coordinator => plan.zookeeper.is_none() && self.part_has(true),
                Role::Dispatch => plan.dispatch && self.part_has(true),
                Role::Push => plan.push.is_some() && self.part_has(false),
                _ => self.part_has(false),
            })
            .collect()
    }

    /// Whether roles that several IDCs have in common, or those that each has, are here.
    fn part_has(&self, common: bool) -> bool {
        match self.part {
            Part::Whole => true,
            Part::Outside => common,
            Part::Idc(_) => !common,
        }
    }

    /// Whether stores are followed from other IDCs: a database that keeps one is not.
    fn is_followed(&self) -> bool {
        let several = |idc: &Idc| idc.follows != idc.name;
        self.plan.database.is_none() && self.place().is_some_and(several)
    }

    /// HOST:PORT that terminals connect to.
    #[must_use]
    pub fn link_address(&self) -> String {
        address(self.ports.link)
    }

    /// Where a role answers RPC, `/health`, `/status` and `/metrics`.
    #[must_use]
    pub fn rpc(&self, role: Role) -> SocketAddr {
        let port = match role {
            Role::Coordinator => self.ports.coordinator,
            Role::Storage1 => self.ports.storage[0],
            Role::Storage2 => self.ports.storage[1],
            Role::Storage3 => self.ports.storage[2],
            Role::Follower => self.ports.follower,
            Role::Logic => self.ports.logic,
            Role::Access => self.ports.access,
            Role::Edge => self.ports.edge,
            Role::Push => self.ports.push,
            Role::Dispatch => self.ports.dispatch,
        };
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// Where a role's words go.
    #[must_use]
    pub fn log(&self, role: Role) -> PathBuf {
        self.dir.join("logs").join(format!("{role}.log"))
    }

    /// The command line of a role, after the binary.
    #[must_use]
    pub fn arguments(&self, role: Role) -> Vec<String> {
        let own = address(self.rpc(role).port());
        let path = |name: &str| self.dir.join(name).display().to_string();
        let flags: Vec<String> = match role {
            Role::Coordinator => {
                let dir = path("coordinator");
                ["coordinator", "--listen", &own, "--dir", &dir]
                    .map(str::to_owned)
                    .into()
            }
            Role::Storage1 | Role::Storage2 | Role::Storage3 | Role::Follower => {
                self.store_flags(role, &own)
            }
            Role::Logic => ["logic", "--listen", &own]
                .map(str::to_owned)
                .into_iter()
                .chain(self.stores())
                .chain(self.register(LOGIC))
                .collect(),
            Role::Access => {
                let link = self.link_address();
                let logic = self.logic();
                let dispatch = address(self.common().dispatch);
                let told = self.plan.dispatch.then_some(["--dispatch", &dispatch]);
                let idc = self.idc().map(|idc| ["--idc", idc]);
                [
                    "access", "--listen", &link, "--rpc", &own, "--logic", &logic,
                ]
                .into_iter()
                .chain(told.into_iter().flatten())
                .chain(idc.into_iter().flatten())
                .map(str::to_owned)
                .collect()
            }
            Role::Edge => {
                let (logic, dir) = (self.logic(), path(role.name()));
                let others = self.place().into_iter().flat_map(|idc| &idc.edges);
                let others = others.flat_map(|edge| ["--origin", edge]);
                ["edge", "--listen", &own, "--logic", &logic, "--dir", &dir]
                    .into_iter()
                    .chain(others)
                    .map(str::to_owned)
                    .collect()
            }
            Role::Dispatch => ["dispatch", "--listen", &own].map(str::to_owned).into(),
            Role::Push => ["push", "--listen", &own, "--storage", &self.storage()]
                .map(str::to_owned)
                .into_iter()
                .chain(self.plan.push.iter().flat_map(Provider::flags))
                .collect(),
        };
        let extra = self
            .plan
            .extra
            .iter()
            .filter(|(of, _)| *of == role)
            .map(|(_, flag)| flag.clone());
        flags
            .into_iter()
            .chain(["--exit-with-parent".to_owned()])
            .chain(extra)
            .collect()
    }

    fn store_flags(&self, role: Role, own: &str) -> Vec<String> {
        let (flag, agreeing) = match &self.plan.zookeeper {
            None => ("--coordinator", address(self.common().coordinator)),
            Some(ensemble) => ("--zookeeper", ensemble.clone()),
        };
        let dir = self.dir.join(role.name()).display().to_string();
        let keeper = match &self.plan.database {
            None => vec!["--dir".to_owned(), dir],
            Some(url) => ["--engine", "mysql", "--database", url]
                .map(str::to_owned)
                .into(),
        };
        let idc = self.place();
        let follows = idc.filter(|_| role == Role::Follower);
        let home = follows.map_or(self.idc(), |idc| Some(&idc.follows));
        let follower = follows.map(|idc| ["--follower", &idc.name]);
        let promise = self.is_followed().then_some(["--durability", "local"]);
        ["storage", "--listen", own, flag, &agreeing]
            .into_iter()
            .chain(follower.into_iter().flatten())
            .chain(promise.into_iter().flatten())
            .map(str::to_owned)
            .chain(keeper)
            .chain(self.homes(home))
            .chain(register(&self.plan, home, STORAGE))
            .collect()
    }

    /// Which homes there are, where there are several, and whose this is.
    fn homes(&self, own: Option<&str>) -> Vec<String> {
        let (Some(idc), Some(own)) = (self.place(), own) else {
            return Vec::new();
        };
        let own = ["--home".to_owned(), own.to_owned()];
        let all = idc.homes.iter();
        let all = all.flat_map(|home| ["--homes".to_owned(), home.clone()]);
        own.into_iter().chain(all).collect()
    }

    /// How logic finds the stores.
    fn stores(&self) -> Vec<String> {
        match self.part {
            Part::Idc(_) => self.homes(self.idc()),
            Part::Whole | Part::Outside => vec!["--storage".to_owned(), self.storage()],
        }
    }

    /// How others find the storage processes.
    fn storage(&self) -> String {
        storage(&self.plan, self.idc(), &self.ports)
    }

    /// How others find logic.
    fn logic(&self) -> String {
        let listed = || address(self.ports.logic);
        name(&self.plan, self.idc(), LOGIC).unwrap_or_else(listed)
    }

    fn register(&self, kind: &str) -> Vec<String> {
        register(&self.plan, self.idc(), kind)
    }
}

/// Flags of a process that says that it is there.
fn register(plan: &Plan, idc: Option<&str>, kind: &str) -> Vec<String> {
    let path = name(plan, idc, kind).into_iter();
    path.flat_map(|path| ["--register".to_owned(), path])
        .collect()
}

/// What everybody is told of a home: its storage processes, and the one in the next IDC that follows them.
fn home(plan: &Plan, idc: &str, ports: &Ports, next: &Ports) -> String {
    let own = storage(plan, Some(idc), ports);
    match plan.zookeeper.is_none() && plan.database.is_none() && ports != next {
        true => format!("{idc}={own},{}", address(next.follower)),
        false => format!("{idc}={own}"),
    }
}

/// Kinds of processes that are looked for.
const STORAGE: &str = "storage";
const LOGIC: &str = "logic";

/// How others find the storage processes of an IDC, or of the cluster if there is but one.
fn storage(plan: &Plan, idc: Option<&str>, ports: &Ports) -> String {
    let listed = || ports.storage.map(address).join(",");
    name(plan, idc, STORAGE).unwrap_or_else(listed)
}

/// The path at which processes of a kind register, where there is an ensemble.
fn name(plan: &Plan, idc: Option<&str>, kind: &str) -> Option<String> {
    let ensemble = plan.zookeeper.as_ref()?.trim_end_matches('/');
    let idc = idc.map(|idc| format!("{idc}/")).unwrap_or_default();
    Some(format!("zk://{ensemble}/names/{idc}{kind}"))
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_port_is_named_before_anything_starts() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let error = Ports::choose(port).unwrap_err().to_string();
        assert!(
            error.contains(&port.to_string()) && error.contains("--port"),
            "{error}"
        );
        assert!(matches!(
            Ports::choose(u16::MAX),
            Err(PortError::TooHigh(_, PORTS))
        ));
    }

    #[test]
    fn free_ports_are_all_different() {
        let Ports {
            link,
            access,
            logic,
            coordinator,
            storage: [first, second, third],
            follower,
            push,
            edge,
            dispatch,
        } = Ports::choose(0).unwrap();
        let storage = [first, second, third];
        let others = [
            link,
            access,
            logic,
            coordinator,
            follower,
            push,
            edge,
            dispatch,
        ];
        let ports: Vec<u16> = storage.into_iter().chain(others).collect();
        let all = std::collections::HashSet::<u16>::from_iter(ports);
        assert_eq!(all.len(), PORTS as usize);
        assert!(!all.contains(&0));
    }

    fn layout() -> Layout {
        let ports = Ports {
            link: 1,
            access: 2,
            logic: 3,
            coordinator: 4,
            storage: [5, 6, 7],
            follower: 11,
            push: 8,
            edge: 9,
            dispatch: 10,
        };
        Layout::new(Path::new("d"), ports, Plan::default())
    }

    #[test]
    fn everybody_is_found_by_name_where_an_ensemble_keeps_the_views() {
        let mut layout = layout();
        layout.plan.zookeeper = Some("z:1,z:2/here".to_owned());
        let storage = layout.arguments(Role::Storage2).join(" ");
        assert!(
            storage.contains("--zookeeper z:1,z:2/here") && !storage.contains("--coordinator"),
            "{storage}"
        );
        assert!(!layout.roles().contains(&Role::Coordinator));
        for (role, flags) in [
            (Role::Storage2, "--register zk://z:1,z:2/here/names/storage"),
            (Role::Logic, "--storage zk://z:1,z:2/here/names/storage"),
            (Role::Logic, "--register zk://z:1,z:2/here/names/logic"),
            (Role::Access, "--logic zk://z:1,z:2/here/names/logic"),
            (Role::Edge, "--logic zk://z:1,z:2/here/names/logic"),
        ] {
            let line = layout.arguments(role).join(" ");
            assert!(line.contains(flags), "{line}");
        }
    }

    #[test]
    fn idcs_have_everything_but_what_they_have_in_common() {
        let ports = Ports::choose_all(0, 3).unwrap();
        let plan = Plan {
            dispatch: true,
            ..Plan::default()
        };
        let layouts = Layout::several(Path::new("d"), &["sh", "hk"], &ports, &plan);
        let [sh, hk, outside] = &layouts[..] else {
            panic!("two IDCs and what is outside")
        };
        assert_eq!(outside.roles(), [Role::Coordinator, Role::Dispatch]);
        assert_eq!(hk.roles(), [&Role::ALL[1..], &[Role::Follower]].concat());
        assert_eq!((sh.idc(), outside.idc()), (Some("sh"), None));
        let homes = format!(
            "--homes sh={},{} --homes hk={},{}",
            sh.storage(),
            address(ports[1].follower),
            hk.storage(),
            address(ports[0].follower)
        );
        let own = format!("--home hk {homes}");
        let other = format!("--home sh {homes}");
        let agreeing = format!("--coordinator {}", address(ports[2].coordinator));
        for (role, part) in [
            (Role::Logic, &own),
            (Role::Storage2, &own),
            (Role::Follower, &other),
            (
                Role::Follower,
                &"--follower hk --durability local --dir d/hk/follower".to_owned(),
            ),
            (Role::Storage2, &agreeing),
            (
                Role::Access,
                &format!("--dispatch {} --idc hk", address(ports[2].dispatch)),
            ),
            (Role::Edge, &format!("--origin {}", address(ports[0].edge))),
            (Role::Edge, &"--dir d/hk/edge".to_owned()),
        ] {
            let line = hk.arguments(role).join(" ");
            assert!(line.contains(part), "{line}: {part}");
        }
        let named = Plan {
            zookeeper: Some("z:1".to_owned()),
            ..Plan::default()
        };
        let layouts = Layout::several(Path::new("d"), &["sh", "hk"], &ports, &named);
        let storage = layouts[1].arguments(Role::Storage1).join(" ");
        for part in [
            "--homes sh=zk://z:1/names/sh/storage",
            "--register zk://z:1/names/hk/storage",
        ] {
            assert!(storage.contains(part), "{storage}");
        }
        assert_eq!(layouts[2].roles(), []);
    }

    #[test]
    fn everybody_is_told_where_the_others_are() {
        let mut layout = layout();
        layout.plan.extra.push((Role::Logic, "--fast".to_owned()));
        let logic = layout.arguments(Role::Logic).join(" ");
        assert!(
            logic.contains("--listen 127.0.0.1:3 --storage 127.0.0.1:5,127.0.0.1:6,127.0.0.1:7"),
            "{logic}"
        );
        assert!(logic.ends_with("--exit-with-parent --fast"), "{logic}");
        let access = layout.arguments(Role::Access).join(" ");
        assert!(
            access.contains("--listen 127.0.0.1:1 --rpc 127.0.0.1:2 --logic 127.0.0.1:3"),
            "{access}"
        );
        assert!(!access.contains("--fast") && !access.contains("--dispatch"));
        let storage = layout.arguments(Role::Storage2).join(" ");
        assert!(
            storage.contains("--listen 127.0.0.1:6 --coordinator 127.0.0.1:4"),
            "{storage}"
        );
        layout.plan.database = Some("mysql://x".to_owned());
        let storage = layout.arguments(Role::Storage2).join(" ");
        assert!(
            storage.contains("--engine mysql --database mysql://x") && !storage.contains("--dir"),
            "{storage}"
        );
        assert_eq!(layout.roles(), Role::ALL, "nobody to wake");
        layout.plan.dispatch = true;
        let access = layout.arguments(Role::Access).join(" ");
        assert!(
            access.contains("--dispatch 127.0.0.1:10 --exit"),
            "{access}"
        );
        let dispatch = layout.arguments(Role::Dispatch).join(" ");
        assert!(
            dispatch.starts_with("dispatch --listen 127.0.0.1:10 "),
            "{dispatch}"
        );
        layout.plan.push = Some(Provider {
            apns_key: "key.p8".into(),
            apns_key_id: "KEY1".to_owned(),
            apns_team_id: "TEAM1".to_owned(),
            apns_topic: "org.example.chat".to_owned(),
            apns_server: Some("127.0.0.1:9".to_owned()),
            apns_roots: None,
        });
        assert_eq!(layout.roles().last(), Some(&Role::Push));
        let push = layout.arguments(Role::Push).join(" ");
        assert!(
            push.contains("push --listen 127.0.0.1:8 --storage 127.0.0.1:5,")
                && push.contains("--apns-key key.p8 --apns-key-id KEY1 --apns-team-id TEAM1")
                && push.contains("--apns-topic org.example.chat --apns-server 127.0.0.1:9"),
            "{push}"
        );
        assert!(
            Role::ALL
                .into_iter()
                .all(|role| Role::from_name(role.name()) == Some(role))
        );
    }
}
