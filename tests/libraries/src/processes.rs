//! Real servers as child processes, each in a folder of its own on a free port.
//!
//! Knows: the command lines of redis-server and MariaDB. Does not know: what is asked of them.
//!
//! Invariants
//! - No server outlives its [`Process`]: dropping it kills and reaps, and the kernel kills it when the
//!   thread that started it ends before that (`setpriv --pdeathsig`).
//! - It holds nothing outside its folder, which goes with it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::calls;

/// A server that answers.
#[derive(Debug)]
pub struct Process {
    addr: SocketAddr,
    /// Ends before its folder goes: fields are dropped in their order.
    _child: Running,
    _folder: TempDir,
}

impl Process {
    /// Starts `redis-server`, without persistence.
    ///
    /// # Errors
    /// It is not installed, or does not come up; with what it printed.
    pub fn redis() -> Result<Self> {
        installed("redis-server", "redis-server")?;
        let arguments = |folder: &Path, port: u16| {
            let mut command = guarded("redis-server");
            command
                .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
                .args(["--save", "", "--appendonly", "no", "--tcp-backlog", "4096"])
                .arg("--dir")
                .arg(folder);
            command
        };
        Self::start(tempfile::tempdir()?, arguments, |addr| {
            let client = redis::Client::open(format!("redis://{addr}/"))?;
            let mut connection = client.get_connection()?;
            let pong: String = redis::cmd("PING").query(&mut connection)?;
            ensure!(pong == "PONG", "PING was answered with {pong}");
            Ok(())
        })
    }

    /// Starts MariaDB with room for 1,200 connections; its user `root` needs no password.
    ///
    /// # Errors
    /// It is not installed, or does not come up; with what it printed.
    pub fn mariadb() -> Result<Self> {
        installed("mariadbd", "mariadb-server-core")?;
        installed("mariadb-install-db", "mariadb-server-core")?;
        installed("my_print_defaults", "mariadb-client-core")?;
        let folder = tempfile::tempdir()?;
        let mut install = Command::new("mariadb-install-db");
        install
            .args(["--no-defaults", "--auth-root-authentication-method=normal"])
            .args(["--skip-test-db", &in_folder("--datadir=", &folder, "data")]);
        let output = install.args(as_root()).stdin(Stdio::null()).output()?;
        ensure!(
            output.status.success(),
            "mariadb-install-db failed ({}): {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let arguments = |folder: &Path, port: u16| {
            let mut command = guarded("mariadbd");
            command
                .args(["--no-defaults", "--bind-address=127.0.0.1"])
                .arg(format!("--port={port}"))
                .args([
                    in_folder("--datadir=", folder, "data"),
                    in_folder("--socket=", folder, "socket"),
                    in_folder("--pid-file=", folder, "pid"),
                ])
                .args(["--skip-name-resolve", "--performance-schema=off"])
                .args(["--max-connections=1200", "--back-log=4096"])
                .arg("--innodb-buffer-pool-size=16M")
                .args(as_root());
            command
        };
        Self::start(folder, arguments, |addr| {
            calls::mysql(addr, "SELECT 1")?().map(drop)
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts it on a free port, on another where somebody took that meanwhile, and waits until `ask`
    /// is answered.
    fn start(
        folder: TempDir,
        command: impl Fn(&Path, u16) -> Command,
        ask: impl Fn(SocketAddr) -> Result<()>,
    ) -> Result<Self> {
        let log = folder.path().join("log");
        let begun = Instant::now();
        loop {
            let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            let mut command = command(folder.path(), addr.port());
            let out = fs::File::create(&log)?;
            command.stdin(Stdio::null()).stderr(out.try_clone()?);
            let child = command.stdout(out).spawn();
            let mut child = Running(child.with_context(|| format!("cannot start {command:?}"))?);
            let refused = loop {
                match ask(addr) {
                    Ok(()) => {
                        return Ok(Self {
                            addr,
                            _child: child,
                            _folder: folder,
                        });
                    }
                    Err(error) if child.0.try_wait()?.is_some() => break error,
                    Err(error) if begun.elapsed() > PATIENCE => break error,
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            };
            let said = fs::read_to_string(&log).unwrap_or_default();
            if begun.elapsed() > PATIENCE || !said.contains("in use") {
                bail!("{command:?} does not come up: {refused:#}\n{said}");
            }
        }
    }
}

/// A child that does not outlive this.
#[derive(Debug)]
pub(crate) struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended and been reaped already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `program`, killed by the kernel if the thread that starts it ends first.
pub(crate) fn guarded(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

/// MariaDB runs as root only where it is told to.
fn as_root() -> Option<&'static str> {
    let owner = fs::metadata("/proc/self").map(|own| own.uid());
    (owner.ok() == Some(0)).then_some("--user=root")
}

fn in_folder(option: &str, folder: impl AsRef<Path>, name: &str) -> String {
    format!("{option}{}", folder.as_ref().join(name).display())
}

/// Says which package is missing.
pub(crate) fn installed(program: &str, package: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|folder| folder.join(program).exists());
    ensure!(
        there,
        "{program} is not installed: `cargo xtask test` installs it, or `apt-get install {package}`"
    );
    Ok(())
}

/// How long a server may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);
