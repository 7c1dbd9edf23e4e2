//! Writing a history.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rpc_core::base::time::Instant;

use super::{Device, Event, Line};

/// A file that grows by lines. Shared by everybody in the process who has something to say.
#[derive(Debug)]
pub struct History {
    out: Mutex<Out>,
    ops: AtomicU64,
}

#[derive(Debug)]
struct Out {
    file: File,
    /// A write failed: the history is not whole and nothing more is written (H-4).
    broken: bool,
}

/// One device's way to its history; cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    history: Arc<History>,
    device: Device,
}

impl History {
    /// Starts a history. Each life of a process has a file of its own, so that what a kill tears is a last line.
    ///
    /// # Errors
    /// When the file is there already or cannot be made.
    pub fn create(path: &Path) -> std::io::Result<Arc<Self>> {
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(path)?;
        Ok(Arc::new(Self {
            out: Mutex::new(Out {
                file,
                broken: false,
            }),
            // Two lives of a terminal must not name two attempts alike.
            ops: AtomicU64::new(Instant::now().as_nanos()),
        }))
    }

    /// Writes what a tool did.
    pub fn tell(&self, event: Event) {
        self.write(None, event);
    }

    /// The way of a device's terminal.
    #[must_use]
    pub fn recorder(self: &Arc<Self>, user: u64, device: u64) -> Recorder {
        Recorder {
            history: self.clone(),
            device: Device { u: user, d: device },
        }
    }

    /// Writes the last line, unless something before it is missing.
    ///
    /// # Errors
    /// When an earlier write failed, or this one did.
    pub fn end(&self) -> std::io::Result<()> {
        self.write(None, Event::End {});
        if self.out().broken {
            return Err(std::io::Error::other(
                "the history could not be written in full; is the disk full?",
            ));
        }
        Ok(())
    }

    fn write(&self, on: Option<Device>, event: Event) {
        let mut out = self.out();
        if out.broken {
            return;
        }
        let t = Instant::now().as_nanos();
        let line = Line { t, on, event };
        let mut text = serde_json::to_vec(&line).expect("numbers and strings are JSON");
        text.push(b'\n');
        // One write a line (H-1): a short one is an error as well.
        let wrote = out.file.write(&text);
        out.broken = !matches!(wrote, Ok(length) if length == text.len());
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorder {
    /// Writes what the terminal saw or did.
    pub fn tell(&self, event: Event) {
        self.history.write(Some(self.device), event);
    }

    /// A name for the next attempt, unique in the file.
    #[must_use]
    pub fn op(&self) -> u64 {
        self.history.ops.fetch_add(1, Ordering::Relaxed) + 1
    }
}
