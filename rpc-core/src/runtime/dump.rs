//! All coroutines of the process, what they wait for and where, grouped by equal stack.
//!
//! Knows: tasks, seats, traces.   Does not know: who asks.
//!
//! Nothing is stopped. A waiting coroutine's stack is read where it lies, and what was read is dropped
//! if the coroutine ran meanwhile; a running one is interrupted for a copy (`capture.rs`).

use std::collections::HashMap;
use std::fmt;

use super::capture;
use super::depot::{self, Stacks};
use super::metrics::Cause;
use super::pinned::Pinned;
use super::shared::Shared;
use super::task::{Standing, TaskRef};
use crate::coroutine::trace::Trace;

/// What every coroutine does at one moment; its [`Display`](fmt::Display) is for people.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Dump {
    /// Largest first.
    pub groups: Vec<DumpGroup>,
    /// Coroutines that changed while they were looked at, and stand in no group.
    pub moved_on: usize,
    /// Waits in the kernel that held whole workers, of the same runtimes as far as they have coroutines.
    pub pinned: Pinned,
    /// What the stacks of the process hold.
    pub stacks: Stacks,
}

/// Coroutines that stand at the same place in the same way.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DumpGroup {
    /// How many.
    pub count: usize,
    /// `running`, `ready`, or `waiting: ` and the kind of the reason, as in the metrics.
    pub state: String,
    /// Up to five of them: name, place of birth, reason to wait.
    pub examples: Vec<String>,
    /// Call stack, innermost first, inlined calls included. Empty where it could not be had.
    pub frames: Vec<String>,
}

impl Dump {
    /// Coroutines of `runtime`, or of all runtimes.
    pub(super) fn take(runtime: Option<&Shared>) -> Self {
        let mut taker = Taker {
            trace: Trace::default(),
            groups: HashMap::new(),
            moved_on: 0,
        };
        let mut homes: Vec<&Shared> = runtime.into_iter().collect();
        for task in depot::all() {
            let Some(home) = task.home() else { continue };
            let known = homes.iter().any(|known| std::ptr::eq(*known, home));
            if !known && runtime.is_none() {
                homes.push(home);
            }
            if known || runtime.is_none() {
                taker.look_at(task);
            }
        }
        let mut pinned = Pinned::default();
        homes.iter().for_each(|home| home.add_pinned(&mut pinned));
        taker.finish(pinned)
    }

    /// Coroutines in all groups.
    pub fn coroutines(&self) -> usize {
        self.groups.iter().map(|group| group.count).sum()
    }
}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} coroutines", self.coroutines())?;
        if self.moved_on > 0 {
            writeln!(f, "({} more were on their way)", self.moved_on)?;
        }
        for group in &self.groups {
            writeln!(f, "\n{} {}", group.count, group.state)?;
            for example in &group.examples {
                writeln!(f, "  {example}")?;
            }
            if group.count > group.examples.len() {
                writeln!(f, "  …")?;
            }
            for frame in &group.frames {
                writeln!(f, "    {frame}")?;
            }
        }
        if self.pinned.waits > 0 {
            write!(f, "\n{}", self.pinned)?;
        }
        write!(f, "\n{}", self.stacks)
    }
}

struct Taker {
    trace: Trace,
    groups: HashMap<Key, Found>,
    moved_on: usize,
}

/// What makes coroutines equal.
type Key = (State, Vec<usize>);

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum State {
    Running,
    Ready,
    Waiting(Cause),
}

#[derive(Default)]
struct Found {
    count: usize,
    examples: Vec<String>,
}

impl Taker {
    fn look_at(&mut self, task: TaskRef) {
        // Twice, for one that was just resumed.
        let seen = (0..2).find_map(|_| self.try_to_look_at(task));
        let Some((state, frames, who)) = seen else {
            // One whose job has ended is no coroutine any more.
            self.moved_on += usize::from(task.home().is_some());
            return;
        };
        let found = self.groups.entry((state, frames)).or_default();
        found.count += 1;
        if found.examples.len() < EXAMPLES_MAX {
            found.examples.push(who);
        }
    }

    fn try_to_look_at(&mut self, task: TaskRef) -> Option<(State, Vec<usize>, String)> {
        if let Some(seat) = task.home()?.seat_of(task) {
            let stack = capture::capture(seat);
            let frames = stack.map(|stack| self.trace.walk(stack.at, |at| stack.read(at)));
            return Some((
                State::Running,
                frames.unwrap_or_default(),
                task.name_and_place(),
            ));
        }
        task.glance(|glance| {
            let frames = self.trace.walk(glance.at, |at| glance.read(at));
            let state = match glance.standing {
                Standing::Ready => State::Ready,
                Standing::Waiting => State::Waiting(Cause::of(glance.reason)),
            };
            let who = match state {
                State::Waiting(_) => format!("{}, waiting for {:?}", glance.who(), glance.reason),
                _ => glance.who(),
            };
            (state, frames, who)
        })
    }

    fn finish(mut self, pinned: Pinned) -> Dump {
        let mut groups: Vec<(Key, Found)> = self.groups.into_iter().collect();
        groups.sort_by(|(a, x), (b, y)| (y.count, a).cmp(&(x.count, b)));
        let groups = groups
            .into_iter()
            .map(|((state, frames), found)| DumpGroup {
                count: found.count,
                state: match state {
                    State::Running => "running".to_owned(),
                    State::Ready => "ready".to_owned(),
                    State::Waiting(cause) => format!("waiting: {}", cause.name()),
                },
                examples: found.examples,
                frames: self.trace.describe(&frames),
            });
        Dump {
            groups: groups.collect(),
            moved_on: self.moved_on,
            pinned,
            stacks: depot::stacks(),
        }
    }
}

const EXAMPLES_MAX: usize = 5;
