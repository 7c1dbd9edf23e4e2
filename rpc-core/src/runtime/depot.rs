//! Idle tasks that no worker keeps for itself, the list of all tasks ever made, and how the memory of
//! idle ones goes back to the system.
//!
//! Knows: classes of stacks, the two kinds of identity, which tasks have idled for long.
//! Does not know: who runs what.
//!
//! Tasks leave and come at the back of their shelf, so those at the front idle longest. While a shelf
//! holds more than [`KEEP`], a thread looks after the shelves every [`PERIOD`]: of the tasks that nobody
//! needed since it last looked it retires half, and trims the last few that stay.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::Identity;
use super::task::TaskRef;
use crate::base::lock::SpinLock;
use crate::coroutine::identity::Facts;
use crate::coroutine::{CLASSES, Class, Guards, guards};

/// The stacks of all coroutines of this process; see [`stacks`].
#[derive(Clone, Debug)]
pub struct Stacks {
    /// How they are guarded on this kernel.
    pub guards: Guards,
    /// Those that were ever used.
    pub classes: Vec<StackClass>,
}

/// The stacks of one size and kind of identity.
#[derive(Clone, Debug)]
pub struct StackClass {
    /// Usable bytes of each.
    pub size: usize,
    /// [`Identity::Own`] or [`Identity::Shared`].
    pub identity: Identity,
    /// Stacks that coroutines run on or may run on at once; they hold memory.
    pub made: usize,
    /// Those of them that wait in the depot shared by all workers. Each worker keeps up to 64 besides.
    pub idle: usize,
    /// The deepest use seen, in bytes and whole pages, thread-locals of an own identity included (about
    /// 5 KiB). Seen are stacks whose memory went back, and at most 512 of the others, evenly chosen.
    pub deepest: usize,
}

impl fmt::Display for Stacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "stacks of the process, guards: {:?}", self.guards)?;
        for class in &self.classes {
            let StackClass { made, idle, .. } = class;
            let (size, deepest) = (class.size >> 10, class.deepest >> 10);
            let identity = match class.identity {
                Identity::Own => "an identity of their own",
                _ => "their worker's identity",
            };
            writeln!(
                f,
                "  {made} of {size} KiB with {identity}, {idle} of them in the depot, {deepest} KiB deep at most"
            )?;
        }
        Ok(())
    }
}

/// What the stacks of this process hold at this moment.
pub fn stacks() -> Stacks {
    for (class, own, depth) in sample() {
        shelf(class, own).see(depth);
    }
    let kinds = Class::all().flat_map(|class| [(class, true), (class, false)]);
    let classes = kinds.filter_map(|(class, own)| {
        let shelf = shelf(class, own);
        let tasks = shelf.tasks.lock();
        let used = tasks.made > 0 || !tasks.blank.is_empty();
        used.then(|| StackClass {
            size: class.size(),
            identity: if own { Identity::Own } else { Identity::Shared },
            made: tasks.made,
            idle: tasks.idle.len(),
            deepest: shelf.deepest.load(Ordering::Relaxed),
        })
    });
    Stacks {
        guards: guards(),
        classes: classes.collect(),
    }
}

/// Gives the memory of all stacks that idle in the depot back to the system now, not by and by. They are
/// made anew when they are needed.
pub fn trim_stacks() {
    for shelf in SHELVES.iter().flatten() {
        let idle = shelf.tasks.lock().idle.len();
        shelf.retire(idle);
    }
}

/// A task with `size` usable bytes of stack and the identity that `facts` stand for: an idle one, or a
/// new one.
pub(super) fn take(size: usize, facts: Option<&'static Facts>) -> io::Result<TaskRef> {
    let class = Class::of(size);
    let shelf = shelf(class, facts.is_some());
    let wanted = {
        let mut tasks = shelf.tasks.lock();
        if let Some(task) = tasks.idle.pop_back() {
            tasks.least = tasks.least.min(tasks.idle.len());
            return Ok(task);
        }
        tasks.least = 0;
        match facts {
            Some(_) if tasks.made >= BATCH => BATCH,
            _ => 1,
        }
    };
    shelf.make(wanted, class, facts)
}

/// Keeps an idle task for whoever needs one.
pub(super) fn put(task: TaskRef) {
    let shelf = shelf(task.slot().class(), !task.shares_thread());
    let count = {
        let mut tasks = shelf.tasks.lock();
        tasks.idle.push_back(task);
        tasks.idle.len()
    };
    // Not at every task: where no thread can be had, the attempt costs.
    if count.is_multiple_of(2 * KEEP) && !TENDED.swap(true, Ordering::AcqRel) {
        let started = thread::Builder::new()
            .name("rpc-core trim".into())
            .spawn(tend);
        if started.is_err() {
            TENDED.store(false, Ordering::Release);
        }
    }
}

/// Keeps many.
pub(super) fn put_all(tasks: Vec<TaskRef>) {
    tasks.into_iter().for_each(put);
}

/// Every task ever made, idle ones included.
pub(super) fn all() -> Vec<TaskRef> {
    ALL.lock().clone()
}

/// Up to [`SAMPLE`] tasks evenly chosen: class, whether the identity is its own, depth.
fn sample() -> Vec<(Class, bool, usize)> {
    let chosen: Vec<TaskRef> = {
        let all = ALL.lock();
        let step = all.len().div_ceil(SAMPLE).max(1);
        all.iter().step_by(step).copied().collect()
    };
    let seen = chosen.into_iter().map(|task| {
        let slot = task.slot();
        (slot.class(), !task.shares_thread(), slot.depth())
    });
    seen.collect()
}

/// The body of the thread that looks after the shelves.
fn tend() {
    loop {
        thread::sleep(PERIOD);
        let mut quiet = true;
        for shelf in SHELVES.iter().flatten() {
            quiet &= shelf.tend();
        }
        if quiet {
            TENDED.store(false, Ordering::Release);
            return;
        }
    }
}

/// The tasks of one kind that no worker has.
struct Shelf {
    tasks: SpinLock<Tasks>,
    /// Bytes; the deepest use seen.
    deepest: AtomicUsize,
}

struct Tasks {
    /// Furnished; the one that idles longest in front.
    idle: VecDeque<TaskRef>,
    /// Those without a coroutine.
    blank: Vec<TaskRef>,
    /// The fewest idle ones since `tend` last looked: so many were not needed.
    least: usize,
    /// All that are furnished, wherever they are.
    made: usize,
}

impl Shelf {
    const fn new() -> Self {
        Self {
            tasks: SpinLock::new(Tasks {
                idle: VecDeque::new(),
                blank: Vec::new(),
                least: 0,
                made: 0,
            }),
            deepest: AtomicUsize::new(0),
        }
    }

    /// Furnishes up to `wanted` tasks at once; returns one and keeps the others.
    fn make(
        &self,
        wanted: usize,
        class: Class,
        facts: Option<&'static Facts>,
    ) -> io::Result<TaskRef> {
        let mut tasks = {
            let blank = &mut self.tasks.lock().blank;
            let from = blank.len() - wanted.min(blank.len());
            blank.split_off(from)
        };
        let mut error = None;
        while tasks.len() < wanted {
            match create(class, facts) {
                Ok(task) => tasks.push(task),
                Err(refused) => {
                    error = Some(refused);
                    break;
                }
            }
        }
        let (count, refused) = TaskRef::furnish(&tasks, facts);
        let mut shelf = self.tasks.lock();
        shelf.made += count;
        shelf.blank.extend(tasks.drain(count..));
        let first = tasks.pop();
        shelf.idle.extend(tasks);
        drop(shelf);
        first.ok_or_else(|| {
            let why = refused.or(error);
            why.unwrap_or_else(|| io::Error::other("no stack was made, for no reason given"))
        })
    }

    /// One look of the thread: retires half of what nobody needed since the last, and trims what is
    /// kept. True if nothing is left to do here.
    fn tend(&self) -> bool {
        let (unneeded, idle) = {
            let mut tasks = self.tasks.lock();
            let idle = tasks.idle.len();
            (std::mem::replace(&mut tasks.least, idle).min(idle), idle)
        };
        let surplus = unneeded.saturating_sub(KEEP);
        self.retire(surplus.div_ceil(2));
        if surplus == 0 {
            self.trim(unneeded);
        }
        idle <= KEEP && unneeded == idle
    }

    /// Retires the `count` that idle longest.
    fn retire(&self, mut count: usize) {
        while count > 0 {
            let some = self.take_front(count.min(STEP));
            if some.is_empty() {
                return;
            }
            count -= some.len().min(count);
            for task in &some {
                self.see(task.slot().depth());
                task.retire();
            }
            let mut tasks = self.tasks.lock();
            tasks.made -= some.len();
            tasks.least = tasks.least.min(tasks.idle.len());
            tasks.blank.extend(some);
        }
    }

    /// Trims the `count` that idle longest, as far as they are not.
    fn trim(&self, count: usize) {
        let some = self.take_front(count);
        for task in some.iter().filter(|task| !task.task().trimmed.get()) {
            self.see(task.slot().depth());
            task.trim();
        }
        let mut tasks = self.tasks.lock();
        some.into_iter()
            .rev()
            .for_each(|task| tasks.idle.push_front(task));
    }

    fn take_front(&self, count: usize) -> Vec<TaskRef> {
        let mut tasks = self.tasks.lock();
        let count = count.min(tasks.idle.len());
        tasks.idle.drain(..count).collect()
    }

    fn see(&self, depth: usize) {
        self.deepest.fetch_max(depth, Ordering::Relaxed);
    }
}

fn create(class: Class, facts: Option<&'static Facts>) -> io::Result<TaskRef> {
    let task = TaskRef::create(class, facts)?;
    let mut all = ALL.lock();
    all.try_reserve(1).map_err(io::Error::other)?;
    all.push(task);
    Ok(task)
}

fn shelf(class: Class, own: bool) -> &'static Shelf {
    &SHELVES[class.index()][usize::from(own)]
}

/// By class, then shared and own.
static SHELVES: [[Shelf; 2]; CLASSES] = [const { [const { Shelf::new() }; 2] }; CLASSES];
static ALL: SpinLock<Vec<TaskRef>> = SpinLock::new(Vec::new());
/// Whether the thread runs that looks after the shelves.
static TENDED: AtomicBool = AtomicBool::new(false);

/// So many idle tasks of a kind stay as they are.
const KEEP: usize = 64;
const PERIOD: Duration = Duration::from_secs(5);
/// Tasks taken from a shelf at once while it is looked after: nobody else finds them meanwhile.
const STEP: usize = 16;
/// Own identities made at once, after the first few of a kind.
const BATCH: usize = 8;
/// Stacks looked at by [`stacks`].
const SAMPLE: usize = 512;
