//! Three IDCs and four networks on one machine: which processes, which distances.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rpc_core::time::Instant;
use serde_json::{Value, json};
use wechat_demo::cluster::{Cluster, Figures, Role, figures};

use super::super::ground::Ground;

/// Time for a process to answer, and for dispatch to know every access point.
const START: Duration = Duration::from_secs(60);
/// Pause between looks.
const LOOK: Duration = Duration::from_millis(50);
/// The IDC whose access point dies; the store and the business are there as well, and live.
pub(super) const KILLED: &str = "sh";

/// A carrier's network: its terminals connect from 127.`net`.0.0/16.
pub(super) struct Network {
    pub(super) name: &'static str,
    pub(super) net: u8,
    region: &'static str,
    carrier: &'static str,
    /// To each of [`IDCS`], one way.
    delay_ms: [u32; 3],
    jitter_ms: u32,
    /// How often it stalls for [`STALL_MS`]; 0 = never.
    stall_every_ms: u32,
}

const STALL_MS: u32 = 300;
/// The IDCs, and the second number of their addresses.
const IDCS: [(&str, u8); 3] = [("sh", 11), ("hk", 12), ("ca", 13)];
/// From `hk` and from `ca` to `sh`, one way.
const BACKBONE_MS: [u32; 3] = [0, 15, 65];

/// Distances of the order that public measurements of such ways show.
pub(super) const NETWORKS: [Network; 4] = [
    Network {
        name: "telecom-east",
        net: 21,
        region: "east",
        carrier: "telecom",
        delay_ms: [8, 25, 75],
        jitter_ms: 2,
        stall_every_ms: 0,
    },
    Network {
        name: "unicom-north",
        net: 22,
        region: "north",
        carrier: "unicom",
        delay_ms: [20, 35, 80],
        jitter_ms: 5,
        stall_every_ms: 0,
    },
    Network {
        name: "mobile",
        net: 23,
        region: "-",
        carrier: "mobile",
        delay_ms: [30, 40, 90],
        jitter_ms: 15,
        stall_every_ms: 10_000,
    },
    Network {
        name: "overseas",
        net: 24,
        region: "overseas",
        carrier: "-",
        delay_ms: [95, 70, 12],
        jitter_ms: 5,
        stall_every_ms: 0,
    },
];

/// Where everything will be.
pub(super) struct Plan {
    sites: Vec<Site>,
    wan: u16,
}

struct Site {
    name: &'static str,
    net: u8,
    /// Long links of access, where it is not the cluster's own; also of the door before it.
    link: u16,
    rpc: u16,
    dispatch: u16,
    /// The door to logic.
    logic: u16,
}

/// Everything that runs beside the cluster. Dropping it ends it.
pub(super) struct Field {
    plan: Plan,
    _children: Vec<Running>,
}

/// A process that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Plan {
    /// Takes free ports.
    pub(super) fn make() -> anyhow::Result<Self> {
        // Held until all are known, so that no two are the same.
        let mut held = Vec::new();
        let mut free = || -> anyhow::Result<u16> {
            let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            Ok(port)
        };
        let mut sites = Vec::new();
        for (name, net) in IDCS {
            sites.push(Site {
                name,
                net,
                link: free()?,
                rpc: free()?,
                dispatch: free()?,
                logic: free()?,
            });
        }
        let wan = free()?;
        Ok(Self { sites, wan })
    }

    /// What the cluster's own access has to know to be the one of the first IDC.
    pub(super) fn extra(&self) -> Vec<(Role, String)> {
        let flags = self.flags(&self.sites[0]);
        flags.into_iter().map(|flag| (Role::Access, flag)).collect()
    }

    fn flags(&self, site: &Site) -> Vec<String> {
        let dispatch: Vec<String> = self
            .sites
            .iter()
            .map(|site| loopback(site.dispatch))
            .collect();
        [
            "--dispatch",
            &dispatch.join(","),
            "--reach",
            &site.door(site.link),
            "--idc",
            site.name,
        ]
        .map(str::to_owned)
        .into()
    }

    /// The relay's matrix.
    fn matrix(&self, cluster: &Cluster) -> Value {
        let place =
            |name: &str, addresses: Vec<String>| json!({"name": name, "addresses": addresses});
        let idcs = self.sites.iter().map(|site| place(site.name, Vec::new()));
        let networks = NETWORKS
            .iter()
            .map(|network| place(network.name, vec![format!("127.{}.0.0/16", network.net)]));
        let layout = cluster.layout();
        let mut doors = Vec::new();
        for (index, site) in self.sites.iter().enumerate() {
            let link = if index == 0 {
                layout.link_address()
            } else {
                loopback(site.link)
            };
            doors.push(json!({"place": site.name, "listen": site.door(site.link), "target": link}));
            let dispatch = loopback(site.dispatch);
            doors.push(
                json!({"place": site.name, "listen": site.door(site.dispatch), "target": dispatch}),
            );
            if index > 0 {
                let (listen, target) = (loopback(site.logic), layout.rpc(Role::Logic));
                doors.push(json!({"place": IDCS[0].0, "from": site.name, "listen": listen, "target": target}));
            }
        }
        let mut lines = Vec::new();
        for (index, site) in self.sites.iter().enumerate() {
            for network in &NETWORKS {
                let shape = json!({
                    "delay_ms": network.delay_ms[index],
                    "jitter_ms": network.jitter_ms,
                    "stall_every_ms": network.stall_every_ms,
                    "stall_ms": STALL_MS,
                });
                lines.push(
                    json!({"from": network.name, "to": site.name, "both": true, "shape": shape}),
                );
            }
            let shape = json!({"delay_ms": BACKBONE_MS[index]});
            lines.push(json!({"from": site.name, "to": IDCS[0].0, "both": true, "shape": shape}));
        }
        json!({"places": idcs.chain(networks).collect::<Vec<_>>(), "doors": doors, "lines": lines})
    }
}

impl Site {
    /// An address of the IDC's own.
    fn door(&self, port: u16) -> String {
        format!("127.{}.0.1:{port}", self.net)
    }
}

impl Field {
    /// Starts dispatch and access in every IDC and the relay, and waits until all know each other.
    pub(super) fn start(plan: Plan, ground: &Ground) -> anyhow::Result<Self> {
        let dir = &ground.dir;
        let (matrix, prefixes) = (dir.join("matrix.json"), dir.join("prefixes.txt"));
        let rows = NETWORKS.iter().map(|network| {
            let Network {
                net,
                region,
                carrier,
                ..
            } = network;
            format!("127.{net}.0.0/16 {region} {carrier}\n")
        });
        write(&prefixes, &rows.collect::<String>())?;
        write(&matrix, &plan.matrix(&ground.cluster).to_string())?;
        let path = |path: &Path| path.display().to_string();
        let mut children = Vec::new();
        let wan = loopback(plan.wan);
        let arguments = ["wan", "--matrix", &path(&matrix), "--listen", &wan].map(str::to_owned);
        children.push(spawn(dir, "wan", &arguments, &wan)?);
        for site in &plan.sites {
            let listen = loopback(site.dispatch);
            let arguments = [
                "dispatch",
                "--listen",
                &listen,
                "--prefixes",
                &path(&prefixes),
            ];
            let name = format!("dispatch-{}", site.name);
            children.push(spawn(dir, &name, &arguments.map(str::to_owned), &listen)?);
        }
        for site in &plan.sites[1..] {
            let (link, rpc, logic) = (
                loopback(site.link),
                loopback(site.rpc),
                loopback(site.logic),
            );
            let own = [
                "access", "--listen", &link, "--rpc", &rpc, "--logic", &logic,
            ];
            let arguments = [own.map(str::to_owned).to_vec(), plan.flags(site)].concat();
            let name = format!("access-{}", site.name);
            children.push(spawn(dir, &name, &arguments, &rpc)?);
        }
        let field = Self {
            plan,
            _children: children,
        };
        field.wait_known()?;
        Ok(field)
    }

    /// Addresses of access, one for each IDC.
    pub(super) fn doors(&self) -> Vec<String> {
        self.plan
            .sites
            .iter()
            .map(|site| site.door(site.link))
            .collect()
    }

    /// Addresses of dispatch, with commas between.
    pub(super) fn dispatch(&self) -> String {
        let doors: Vec<String> = self
            .plan
            .sites
            .iter()
            .map(|site| site.door(site.dispatch))
            .collect();
        doors.join(",")
    }

    /// `kill -9` of the access process of [`KILLED`], the cluster's own.
    pub(super) fn kill_access(&self, cluster: &mut Cluster) {
        assert_eq!(
            self.plan.sites[0].name, KILLED,
            "the first IDC has the cluster's access"
        );
        cluster.kill(Role::Access);
    }

    /// Waits until every dispatch knows every access point.
    fn wait_known(&self) -> anyhow::Result<()> {
        let until = Instant::now() + START;
        let all = self.plan.sites.len() as f64;
        for site in &self.plan.sites {
            let dispatch = SocketAddr::from(([127, 0, 0, 1], site.dispatch));
            while figures(dispatch).sum("wechat_dispatch_points", &[]) != Some(all) {
                if Instant::now() >= until {
                    bail!(
                        "dispatch of {} does not know every access point; see the logs of access",
                        site.name
                    );
                }
                std::thread::sleep(LOOK);
            }
        }
        Ok(())
    }
}

/// Starts one role and waits until it answers on `page`.
fn spawn(dir: &Path, name: &str, arguments: &[String], page: &str) -> anyhow::Result<Running> {
    let log = dir.join("logs").join(format!("{name}.log"));
    let file = File::create(&log).with_context(|| log.display().to_string())?;
    let binary = std::env::current_exe().context("the path of this program")?;
    let child = Command::new(binary)
        .args(arguments)
        .arg("--exit-with-parent")
        .stdin(Stdio::piped())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn();
    let mut running = Running(child.with_context(|| format!("cannot start {name}"))?);
    let (page, until) = (
        page.parse().context("an address of ours")?,
        Instant::now() + START,
    );
    while figures(page) == Figures::default() {
        let ended = running.0.try_wait()?;
        if let Some(status) = ended {
            bail!("{name} ended ({status}); see {}", log.display());
        }
        if Instant::now() >= until {
            bail!("{name} does not answer; see {}", log.display());
        }
        std::thread::sleep(LOOK);
    }
    Ok(running)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}
