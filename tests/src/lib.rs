//! The harness of the whole-system tests: the workspace's programs as child processes.
//!
//! Knows: where cargo puts binaries, how to start one, read its lines, end it.
//! Does not know: what any of them does.
//!
//! Invariants
//! - H-1  A test never runs a stale binary: it is built before its first use in a process, unless
//!   `cargo xtask test` has just built all of them and says so through [`FRESH`].
//! - H-2  No child outlives its [`Program`]: dropping it kills and reaps.
//! - H-3  Waiting for a child has a limit ([`PATIENCE`]); past it the error carries what it printed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Set by `cargo xtask test` after it has built every binary of the workspace.
pub const FRESH: &str = "SUITE_BINARIES_ARE_FRESH";

/// How long a test waits for a child's next line or its end before it calls the child hung.
/// Not a bound on speed: a loaded machine may take what it needs below it.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The workspace's root.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("tests/ is inside the workspace")
        .to_owned()
}

/// A file of the recorded data that lies beside the checkout (`../shared/data/NAME`).
/// Says so on stderr when it is not there; a test then states what it did not see, and ends.
pub fn recorded(name: &str) -> Option<PathBuf> {
    let path = root().parent()?.join("shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    // Not eprintln!: the test harness keeps what passing tests print to itself.
    let said = format!(
        "NOT RUN: the recorded data {name} is absent (looked for {})\n",
        path.display()
    );
    io::stderr().write_all(said.as_bytes()).ok()?;
    None
}

/// The Python with gRPC's packages that `cargo xtask test` makes (`target/python`). Says so on stderr when it
/// is not there; a test then ends.
pub fn python() -> Option<PathBuf> {
    let path = root().join("target/python/bin/python");
    if path.exists() {
        return Some(path);
    }
    let said = "NOT RUN: no Python with grpcio in target/python; `cargo xtask test` makes it\n";
    io::stderr().write_all(said.as_bytes()).ok()?;
    None
}

/// The path of a binary of this workspace, built if need be: `wechat-demo`, `xtask`, one of `examples`, or
/// one of tonic's among the peers.
///
/// # Panics
/// When cargo cannot build it; cargo's own message is above.
pub fn bin(name: &str) -> PathBuf {
    static BUILT: OnceLock<Mutex<HashMap<String, PathBuf>>> = OnceLock::new();
    let built = BUILT.get_or_init(Mutex::default);
    let mut built = built.lock().unwrap_or_else(PoisonError::into_inner);
    built
        .entry(name.to_owned())
        .or_insert_with(|| build(name))
        .clone()
}

fn build(name: &str) -> PathBuf {
    let test_binary = std::env::current_exe().expect("a running test has a path");
    // target/PROFILE/deps/suite-HASH
    let profile_dir = test_binary
        .ancestors()
        .nth(2)
        .expect("cargo runs tests from target/PROFILE/deps");
    let path = profile_dir.join(name);
    let profile = match profile_dir.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let package = match name {
        "wechat-demo" | "xtask" => name,
        _ if name.starts_with("tonic_") => "peers",
        _ => "examples",
    };
    // What was built before the tests does not hold the peers.
    if std::env::var_os(FRESH).is_some() && package != "peers" && path.exists() {
        return path;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target_dir = profile_dir
        .parent()
        .expect("a profile's folder lies in the target folder");
    let status = Command::new(cargo)
        .current_dir(root())
        .args([
            "build",
            "--quiet",
            "--package",
            package,
            "--bin",
            name,
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(target_dir)
        .status()
        .expect("cargo runs: it started this test");
    assert!(
        status.success(),
        "cargo cannot build {name} of package {package}: see its message above"
    );
    path
}

/// A running program of the workspace. Its standard error goes to ours, its standard output is read
/// line by line.
pub struct Program {
    name: String,
    child: Child,
    lines: Receiver<String>,
    /// Everything read so far, for error messages. Grows with the child's output.
    printed: Vec<String>,
}

impl Program {
    /// Starts the binary `name` ([`bin`]) with `args`.
    ///
    /// # Errors
    /// What the operating system says about starting it.
    pub fn start<A: AsRef<OsStr>>(name: &str, args: &[A]) -> io::Result<Self> {
        let mut command = Command::new(bin(name));
        command.args(args);
        Self::start_command(name, command)
    }

    /// Starts `command`; `name` is for messages.
    ///
    /// # Errors
    /// What the operating system says about starting it.
    pub fn start_command(name: &str, mut command: Command) -> io::Result<Self> {
        command.stdin(Stdio::null());
        Self::spawn(name, command)
    }

    /// As [`Program::start_command`], with a standard input that is the caller's to write and to end.
    ///
    /// # Errors
    /// What the operating system says about starting it.
    pub fn start_with_input(name: &str, mut command: Command) -> io::Result<(Self, ChildStdin)> {
        command.stdin(Stdio::piped());
        let mut program = Self::spawn(name, command)?;
        let input = program.child.stdin.take();
        Ok((program, input.expect("stdin is piped: set above")))
    }

    fn spawn(name: &str, mut command: Command) -> io::Result<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().expect("stdout is piped: set above");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            name: name.to_owned(),
            child,
            lines,
            printed: Vec::new(),
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// It has not ended.
    ///
    /// # Errors
    /// What the operating system says about asking.
    pub fn is_running(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Reads on until a line contains `part`, and returns that line.
    ///
    /// # Errors
    /// The program ended, or is silent for [`PATIENCE`]; the text carries what it printed.
    pub fn line_with(&mut self, part: &str) -> io::Result<String> {
        loop {
            let line = self
                .lines
                .recv_timeout(PATIENCE)
                .map_err(|e| self.silent(part, e))?;
            self.printed.push(line.clone());
            if line.contains(part) {
                return Ok(line);
            }
        }
    }

    /// Waits for the end; returns how it ended and every line it printed.
    ///
    /// # Errors
    /// It neither prints nor ends for [`PATIENCE`].
    pub fn finish(mut self) -> io::Result<(ExitStatus, Vec<String>)> {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.printed.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(e) => return Err(self.silent("its end", e)),
            }
        }
        let status = self.child.wait()?;
        Ok((status, std::mem::take(&mut self.printed)))
    }

    /// Kills it (SIGKILL) and reaps it.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Asks it to end (SIGTERM), as an operator would.
    ///
    /// # Errors
    /// What `kill` says.
    pub fn terminate(&self) -> io::Result<()> {
        let status = Command::new("kill")
            .args(["-TERM", &self.id().to_string()])
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("kill: {status}")))
        }
    }

    fn silent(&self, wanted: &str, error: RecvTimeoutError) -> io::Error {
        let how = match error {
            RecvTimeoutError::Timeout => "printed nothing more",
            RecvTimeoutError::Disconnected => "closed its output",
        };
        let printed = self.printed.join("\n");
        io::Error::other(format!(
            "{} {how} while a test waited for {wanted:?}; printed:\n{printed}",
            self.name
        ))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only when it has ended and been reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end with a limit of [`PATIENCE`]; returns status, stdout and stderr.
///
/// # Errors
/// It cannot be started, or does not end in time.
pub fn run(command: &mut Command) -> io::Result<(ExitStatus, String, String)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let out = read_all(child.stdout.take().expect("stdout is piped: set above"));
    let err = read_all(child.stderr.take().expect("stderr is piped: set above"));
    let started = Instant::now();
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("{command:?} does not end"));
    let texts = out.recv_timeout(PATIENCE).and_then(|out| {
        let left = PATIENCE.saturating_sub(started.elapsed());
        Ok((out, err.recv_timeout(left)?))
    });
    let texts = texts.map_err(late);
    if texts.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    let (out, err) = texts?;
    Ok((status, out, err))
}

fn read_all(mut pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // An error here is the pipe's end as far as a test is concerned.
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}
