//! The processes of a cluster: started, watched, killed, started again, drained.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rpc_core::base::time::Instant;

use super::layout::{Layout, Plan, PortError, Ports, Role};
use super::probe::{figures, is_healthy};

/// Times that free ports are chosen before a used one is reported.
const ATTEMPTS: usize = 3;
/// Time for a cluster to become healthy.
const START: Duration = Duration::from_secs(60);
/// Time for a role to drain before it is killed.
const DRAIN: Duration = Duration::from_secs(10);
/// Pause between looks at a child.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes at the end of a log among which its last line is looked for.
const TAIL: u64 = 4 << 10;

/// Why a cluster is not up.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A port that cannot be had.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A directory or a log cannot be written.
    #[error("cannot write {path}: {why}; pass --dir with a directory you may write")]
    Directory {
        /// What was to be written.
        path: String,
        /// The system's words.
        why: std::io::Error,
    },
    /// The binary does not start.
    #[error("cannot start {role}: {why}")]
    Start {
        /// Which role.
        role: Role,
        /// The system's words.
        why: std::io::Error,
    },
    /// A role ended by itself.
    #[error("{role} ended ({status}): {last_words} (see {log})")]
    Ended {
        /// Which role.
        role: Role,
        /// How.
        status: ExitStatus,
        /// The last line of its log.
        last_words: String,
        /// Where the rest is.
        log: String,
    },
    /// A role runs but does not become healthy.
    #[error("{role} is not healthy after {START:?}: {last_words} (see {log})")]
    Unhealthy {
        /// Which role.
        role: Role,
        /// The last line of its log.
        last_words: String,
        /// Where the rest is.
        log: String,
    },
}

/// The processes. Dropping it ends them.
#[derive(Debug)]
pub struct Cluster {
    layout: Layout,
    binary: PathBuf,
    /// The running child of each role. Its standard input is the pipe of C-1.
    children: BTreeMap<Role, Child>,
}

impl Cluster {
    /// Starts a whole cluster below `dir` and waits until it is healthy. With `first_port` 0 it takes free
    /// ports, and others when somebody was faster at one of them.
    ///
    /// # Errors
    /// What [`Ports::choose`], [`Cluster::start`] or [`Cluster::wait_healthy`] say.
    pub fn bring_up(
        dir: &Path,
        first_port: u16,
        plan: &Plan,
        binary: &Path,
    ) -> Result<Self, ClusterError> {
        let layouts = || {
            Ok(vec![Layout::new(
                dir,
                Ports::choose(first_port)?,
                plan.clone(),
            )])
        };
        let mut one = Self::bring_all_up(layouts, first_port == 0, binary)?;
        Ok(one.remove(0))
    }

    /// Starts the processes of some layouts and waits until all are healthy. With `anywhere` others are asked for when
    /// somebody was faster at one of their ports.
    pub(super) fn bring_all_up(
        layouts: impl Fn() -> Result<Vec<Layout>, PortError>,
        anywhere: bool,
        binary: &Path,
    ) -> Result<Vec<Self>, ClusterError> {
        let mut attempt = 1;
        loop {
            let layouts = layouts()?;
            // What the others have in common is the last one, and there first.
            let started = layouts.into_iter().rev();
            let started = started.map(|layout| Self::start(layout, binary));
            let mut parts = started.collect::<Result<Vec<_>, _>>()?;
            parts.reverse();
            match parts.iter_mut().try_for_each(Self::wait_healthy) {
                Err(ClusterError::Ended { last_words, .. })
                    if anywhere && attempt < ATTEMPTS && last_words.contains("in use") =>
                {
                    attempt += 1;
                }
                result => return result.map(|()| parts),
            }
        }
    }

    /// Starts every role of a layout, all from `binary`.
    ///
    /// # Errors
    /// [`ClusterError`]; what was started is ended again.
    pub fn start(layout: Layout, binary: &Path) -> Result<Self, ClusterError> {
        let logs = layout.dir.join("logs");
        std::fs::create_dir_all(&logs).map_err(|why| ClusterError::Directory {
            path: logs.display().to_string(),
            why,
        })?;
        let mut cluster = Self {
            layout,
            binary: binary.to_owned(),
            children: BTreeMap::new(),
        };
        for role in cluster.layout.roles() {
            cluster.spawn(role)?;
        }
        Ok(cluster)
    }

    /// Where everything is.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Waits until every role answers that it is healthy.
    ///
    /// # Errors
    /// [`ClusterError::Ended`] as soon as one has ended, [`ClusterError::Unhealthy`] after a minute.
    pub fn wait_healthy(&mut self) -> Result<(), ClusterError> {
        let until = Instant::now() + START;
        for role in self.layout.roles() {
            while !is_healthy(self.layout.rpc(role)) {
                if let Some((role, status)) = self.ended().into_iter().next() {
                    let (last_words, log) = self.last_words(role);
                    return Err(ClusterError::Ended {
                        role,
                        status,
                        last_words,
                        log,
                    });
                }
                if Instant::now() >= until {
                    let (last_words, log) = self.last_words(role);
                    return Err(ClusterError::Unhealthy {
                        role,
                        last_words,
                        log,
                    });
                }
                std::thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    /// Roles whose process has ended since they were started; they are no longer running.
    pub fn ended(&mut self) -> Vec<(Role, ExitStatus)> {
        let mut ended = Vec::new();
        for (role, child) in &mut self.children {
            if let Ok(Some(status)) = child.try_wait() {
                ended.push((*role, status));
            }
        }
        for (role, _) in &ended {
            self.children.remove(role);
        }
        ended
    }

    /// Kills a role with SIGKILL and waits until it is gone. Nothing happens if it does not run.
    pub fn kill(&mut self, role: Role) {
        if let Some(mut child) = self.children.remove(&role) {
            // Both fail only when the child has ended already.
            let _ = child.kill();
            wait(&mut child, Instant::NEVER);
        }
    }

    /// Ends a role in order and waits until it has: it gets time to finish what it does, then it is killed.
    /// `true` if it had to be. Nothing happens if it does not run.
    pub fn end(&mut self, role: Role) -> bool {
        let Some(mut child) = self.children.remove(&role) else {
            return false;
        };
        drop(child.stdin.take());
        if wait(&mut child, Instant::now() + DRAIN) {
            return false;
        }
        // Both fail only when the child has ended already.
        let _ = child.kill();
        wait(&mut child, Instant::NEVER);
        true
    }

    /// Starts a role that does not run, with the flags it had (C-2).
    ///
    /// # Errors
    /// [`ClusterError::Start`] or [`ClusterError::Directory`].
    pub fn spawn(&mut self, role: Role) -> Result<(), ClusterError> {
        assert!(!self.children.contains_key(&role), "{role} runs already");
        let log = self.layout.log(role);
        let unwritable = |why| ClusterError::Directory {
            path: log.display().to_string(),
            why,
        };
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(unwritable)?;
        let err = out.try_clone().map_err(unwritable)?;
        let environment = self.layout.plan.environment.iter();
        let own = environment.filter(|(of, ..)| *of == role);
        let child = Command::new(&self.binary)
            .args(self.layout.arguments(role))
            .envs(own.map(|(_, name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            // A Ctrl-C in the launcher's terminal is the launcher's to hear: it drains its children.
            .process_group(0)
            .spawn()
            .map_err(|why| ClusterError::Start { role, why })?;
        self.children.insert(role, child);
        Ok(())
    }

    /// The storage process that serves; `None` while nobody does.
    #[must_use]
    pub fn primary(&self) -> Option<Role> {
        let serves = |role: &Role| {
            let serving = figures(self.layout.rpc(*role)).sum("wechat_storage_serving", &[]);
            self.children.contains_key(role) && serving == Some(1.0)
        };
        Role::STORAGE.into_iter().find(serves)
    }

    /// Copies that the store's view has, as the process that serves says; `None` while nobody does.
    #[must_use]
    pub fn copies(&self) -> Option<u32> {
        let figures = figures(self.layout.rpc(self.primary()?));
        let copies = figures.sum("wechat_storage_copies", &[])?;
        Some(copies as u32)
    }

    /// The process id of a role that runs.
    #[must_use]
    pub fn pid(&self, role: Role) -> Option<u32> {
        self.children.get(&role).map(Child::id)
    }

    /// The last line a role wrote, and the log it is from.
    #[must_use]
    pub fn last_words(&self, role: Role) -> (String, String) {
        let log = self.layout.log(role);
        let words = last_line(&log).unwrap_or_else(|| "it left no word".to_owned());
        (words, log.display().to_string())
    }

    /// Ends every role in order: those who call before those who are called. Each gets time to finish
    /// what it does; the names of those that had to be killed.
    pub fn drain(mut self) -> Vec<Role> {
        self.end_all()
    }

    fn end_all(&mut self) -> Vec<Role> {
        let roles = self.layout.roles().into_iter().rev();
        roles.filter(|role| self.end(*role)).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end_all();
    }
}

/// Whether the child ended in time. Looks instead of waiting, so that it may be called from a coroutine.
fn wait(child: &mut Child, until: Instant) -> bool {
    loop {
        // An error means that it was waited for already.
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

fn last_line(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(dir: &Path) -> Layout {
        Layout::new(
            dir,
            Ports {
                link: 1,
                access: 1,
                logic: 1,
                coordinator: 1,
                storage: [1; 3],
                follower: 1,
                push: 1,
                edge: 1,
                dispatch: 1,
            },
            Plan::default(),
        )
    }

    /// An executable file with this text. A child writes it: were it open for writing here, a program
    /// that another test starts meanwhile would inherit it, and running it would be "text file busy".
    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("role");
        let write = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
        let mut shell = Command::new("sh");
        shell.args(["-c", write]).arg(&path).arg(text);
        assert!(shell.status().unwrap().success());
        path
    }

    #[test]
    fn a_role_that_ends_at_once_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let role = script(
            dir.path(),
            "#!/bin/sh\necho one; echo 'cannot do it' >&2; exit 3\n",
        );
        let mut cluster = Cluster::start(layout(dir.path()), &role).unwrap();
        let error = cluster.wait_healthy().unwrap_err().to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("cannot do it"),
            "{error}"
        );
    }

    #[test]
    fn draining_closes_the_pipe_and_a_child_that_heeds_it_is_not_killed() {
        let dir = tempfile::tempdir().unwrap();
        let role = script(dir.path(), "#!/bin/sh\ncat > /dev/null\n");
        let mut cluster = Cluster::start(layout(dir.path()), &role).unwrap();
        assert!(cluster.ended().is_empty());
        let first = cluster.pid(Role::Logic);
        cluster.kill(Role::Logic);
        assert_eq!(cluster.pid(Role::Logic), None);
        cluster.spawn(Role::Logic).unwrap();
        assert_ne!(cluster.pid(Role::Logic), first);
        assert_eq!(cluster.drain(), []);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = Cluster::start(layout(&file), Path::new("/bin/true"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("--dir"), "{error}");
    }
}
