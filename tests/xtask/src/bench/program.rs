//! The measured programs as pinned child processes, and what `/proc` says about them.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Servers run on the first core, clients and single programs on the second.
pub(crate) const SERVER_CORE: usize = 0;
/// See [`SERVER_CORE`].
pub(crate) const CLIENT_CORE: usize = 1;

/// Longer than any run; past it a program is called hung, killed, and reported as failed.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where cargo builds: ours is `TARGET/PROFILE/xtask`.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let own = std::env::current_exe().context("where does this program lie?")?;
    let target = own
        .ancestors()
        .nth(2)
        .context("cargo runs xtask from TARGET/PROFILE")?;
    Ok(target.to_owned())
}

/// `taskset` is there and there are two cores to pin to.
pub(crate) fn can_pin() -> bool {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let quiet = Command::new("taskset")
        .arg("-V")
        .stdout(Stdio::null())
        .status();
    cores > CLIENT_CORE && quiet.is_ok_and(|status| status.success())
}

/// Where a release build of ours or of a peer lies.
pub(crate) fn release_binary(name: &str) -> Result<PathBuf> {
    Ok(target_dir()?.join("release").join(name))
}

/// A release build of ours or of a peer, pinned to `core` where that can be had.
pub(crate) fn release(name: &str, core: usize) -> Result<Command> {
    let path = release_binary(name)?;
    if !can_pin() {
        return Ok(Command::new(path));
    }
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(path);
    Ok(command)
}

/// A port that was free a moment ago.
pub(crate) fn free_addr() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A server that accepts connections. Dropping it ends it.
pub(crate) struct Server(Child);

impl Server {
    /// Starts `command` and waits until `addr` takes connections.
    pub(crate) fn start(command: &mut Command, addr: SocketAddr) -> Result<Self> {
        let child = command.stdout(Stdio::null()).stdin(Stdio::null()).spawn();
        let mut server = Self(child.with_context(|| format!("cannot start {command:?}"))?);
        let started = Instant::now();
        while TcpStream::connect(addr).is_err() {
            if let Some(status) = server.0.try_wait()? {
                bail!("{command:?} ended before it listened on {addr}: {status}");
            }
            if started.elapsed() > Duration::from_secs(10) {
                bail!("{command:?} does not listen on {addr} after 10 s");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// CPU seconds it used so far.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.0.id())
    }

    /// System calls it makes within `time`, where `perf` can count them.
    pub(crate) fn system_calls(&self, time: Duration) -> Option<f64> {
        let mut perf = Command::new("perf");
        perf.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p"]);
        perf.args([
            &self.0.id().to_string(),
            "--",
            "sleep",
            &time.as_secs_f64().to_string(),
        ]);
        let output = perf.stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        text.lines()
            .find_map(|line| line.split_once(',')?.0.parse().ok())
    }

    /// Resident bytes at their highest.
    pub(crate) fn peak_bytes(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()));
        let status = status.unwrap_or_default();
        let peak = status.lines().find(|l| l.starts_with("VmHWM:"));
        let kib = peak.and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok());
        kib.unwrap_or(f64::NAN) * 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended and been reaped already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// User and system time, from `/proc/PID/stat`, in steps of 10 ms.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field, the name, may hold spaces; it ends at the last parenthesis.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields = after_name.split_whitespace().skip(11).take(2);
    fields
        .filter_map(|field| field.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

/// A client or single program at work.
pub(crate) struct Running {
    child: Child,
    shown: String,
}

/// Starts a program whose last line on stdout is its result.
pub(crate) fn start(command: &mut Command) -> Result<Running> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let child = child.with_context(|| format!("cannot start {command:?}"))?;
    Ok(Running {
        child,
        shown: format!("{command:?}"),
    })
}

impl Running {
    /// Waits for the end and reads the result line: one JSON object.
    pub(crate) fn result(mut self) -> Result<Value> {
        let mut stdout = self
            .child
            .stdout
            .take()
            .expect("stdout is piped: start() set it");
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = stdout.read_to_string(&mut text).map(|_| text);
            // The receiver is gone only after its patience ended.
            let _ = sender.send(read);
        });
        let Ok(text) = receiver.recv_timeout(PATIENCE) else {
            self.child.kill()?;
            self.child.wait()?;
            bail!("{} does not end", self.shown);
        };
        let (text, status) = (text?, self.child.wait()?);
        if !status.success() {
            bail!("{} failed ({status}): {}", self.shown, text.trim());
        }
        let line = text.lines().last().unwrap_or_default();
        serde_json::from_str(line)
            .with_context(|| format!("{} ended with `{line}`, not a JSON object", self.shown))
    }
}

/// A number of a result line.
pub(crate) fn field(result: &Value, name: &str) -> Result<f64> {
    let value = result.get(name).and_then(Value::as_f64);
    value.with_context(|| format!("the result line lacks `{name}`: {result}"))
}
