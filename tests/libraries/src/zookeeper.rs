//! An ensemble of three ZooKeeper servers as child processes, whose members can be killed and started again.
//!
//! Knows: the server's configuration and command line, its four-letter words.
//! Does not know: what is kept in it.
//!
//! Invariants
//! - No server outlives its [`Ensemble`]; see `processes`.
//! - A member keeps its ports and its data over kills: it comes back as itself.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::processes::{Running, guarded, installed};

/// Members of an ensemble: one may be lost.
pub const SERVERS: usize = 3;

/// Three servers that serve together.
#[derive(Debug)]
pub struct Ensemble {
    members: Vec<Member>,
    folder: TempDir,
}

#[derive(Debug)]
struct Member {
    /// `None` while it is killed.
    running: Option<Running>,
    addr: SocketAddr,
}

impl Ensemble {
    /// Starts it and waits until it has a leader and every member serves.
    ///
    /// # Errors
    /// ZooKeeper or Java is not installed, or it does not come up; with what it printed.
    pub fn start() -> Result<Self> {
        installed("java", "default-jre-headless")?;
        for jar in [ZOOKEEPER, LOGGER] {
            ensure!(
                Path::new(jar).exists(),
                "ZooKeeper is not installed ({jar} is missing): `cargo xtask test` installs it, or \
                 `apt-get install libzookeeper-java`"
            );
        }
        let begun = Instant::now();
        loop {
            let mut ensemble = Self::configure()?;
            for member in 0..SERVERS {
                ensemble.restart(member)?;
            }
            match ensemble.wait_serving() {
                // Somebody else was faster at one of its ports.
                Err(error)
                    if error.to_string().contains("in use") && begun.elapsed() < PATIENCE => {}
                outcome => return outcome.map(|()| ensemble),
            }
        }
    }

    fn configure() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let ports = free_ports()?;
        let (clients, rest) = ports.split_at(SERVERS);
        let (followers, elections) = rest.split_at(SERVERS);
        let mut members = Vec::new();
        for (member, client) in clients.iter().copied().enumerate() {
            let home = folder.path().join(member.to_string());
            fs::create_dir_all(home.join("data"))?;
            fs::write(home.join("data/myid"), (member + 1).to_string())?;
            let mut config = format!(
                "dataDir={}\nclientPort={client}\nclientPortAddress=127.0.0.1\n{SETTINGS}",
                home.join("data").display()
            );
            for (other, (follower, election)) in followers.iter().zip(elections).enumerate() {
                let id = other + 1;
                config += &format!("server.{id}=127.0.0.1:{follower}:{election}\n");
            }
            fs::write(home.join("zoo.cfg"), config)?;
            members.push(Member {
                running: None,
                addr: SocketAddr::from((Ipv4Addr::LOCALHOST, client)),
            });
        }
        Ok(Self { members, folder })
    }

    /// Where a member listens for clients.
    pub fn addr(&self, member: usize) -> SocketAddr {
        self.members[member].addr
    }

    /// `HOST:PORT,HOST:PORT,HOST:PORT`.
    pub fn hosts(&self) -> String {
        let hosts: Vec<String> = self.members.iter().map(|m| m.addr.to_string()).collect();
        hosts.join(",")
    }

    /// Kills a member as a crash would. Nothing happens if it is not there.
    pub fn kill(&mut self, member: usize) {
        self.members[member].running = None;
    }

    /// Starts a member that is not there; returns at once.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn restart(&mut self, member: usize) -> Result<()> {
        let home = self.home(member);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(home.join("log"))?;
        let mut command = guarded("java");
        command
            .args(["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-Dzookeeper.jmx.log4j.disable=true"])
            .args(["-Dzookeeper.preAllocSize=1024"])
            .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"])
            .arg(format!("{}:{ZOOKEEPER}:{LOGGER}", home.display()))
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(home.join("zoo.cfg"))
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("cannot start java")?;
        self.members[member].running = Some(Running(child));
        Ok(())
    }

    /// Waits until every member that is there says that it leads or follows.
    ///
    /// # Errors
    /// One has ended, or does not say it in time; with the end of its log.
    pub fn wait_serving(&mut self) -> Result<()> {
        let begun = Instant::now();
        for member in 0..SERVERS {
            while let Some(running) = &mut self.members[member].running {
                let ended = running.0.try_wait()?;
                if ended.is_none() && mode(self.members[member].addr).is_some() {
                    break;
                }
                if ended.is_some() || begun.elapsed() > PATIENCE {
                    let said = fs::read_to_string(self.home(member).join("log"));
                    let said = said.unwrap_or_default();
                    let lines: Vec<&str> = said.lines().collect();
                    let last = lines[lines.len().saturating_sub(40)..].join("\n");
                    bail!(
                        "ZooKeeper server {} does not serve ({ended:?}):\n{last}",
                        member + 1
                    );
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// Who leads, if anybody does.
    pub fn leader(&self) -> Option<usize> {
        let leads = |member: &usize| mode(self.members[*member].addr).as_deref() == Some("leader");
        (0..SERVERS).find(leads)
    }

    fn home(&self, member: usize) -> PathBuf {
        self.folder.path().join(member.to_string())
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        // Before the folder goes.
        self.members.clear();
    }
}

/// What a server says it is; `None` = it does not serve.
fn mode(addr: SocketAddr) -> Option<String> {
    let answer = four_letters(addr, "srvr")?;
    let mode = answer
        .lines()
        .find_map(|line| line.strip_prefix("Mode: "))?;
    Some(mode.to_owned())
}

fn four_letters(addr: SocketAddr, word: &str) -> Option<String> {
    let limit = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&addr, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    stream.write_all(word.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Ports for clients, followers and elections, below those that the kernel gives to outgoing connections: a
/// member that is killed finds its own free again.
fn free_ports() -> Result<Vec<u16>> {
    let mut held = Vec::new();
    // Tests side by side begin at different places.
    let begin = std::process::id() * 9 % 20_000;
    for offset in 0..20_000 {
        let port = 11_000 + ((begin + offset) % 20_000) as u16;
        held.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
        if held.len() == 3 * SERVERS {
            let ports = held
                .iter()
                .map(|listener| Ok(listener.local_addr()?.port()));
            return ports.collect();
        }
    }
    bail!("no free ports on 127.0.0.1 for ZooKeeper")
}

const ZOOKEEPER: &str = "/usr/share/java/zookeeper.jar";
const LOGGER: &str = "/usr/share/java/slf4j-simple.jar";
/// Short ticks: what is lost is noticed in two seconds.
const SETTINGS: &str = "tickTime=500
initLimit=20
syncLimit=4
minSessionTimeout=1000
maxSessionTimeout=30000
maxClientCnxns=0
admin.enableServer=false
4lw.commands.whitelist=srvr,ruok
";
/// How long the ensemble may take to come up, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(90);
