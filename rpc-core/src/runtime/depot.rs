//! Idle tasks that no worker keeps for itself, and the list of all tasks ever made.

use std::io;

use super::task::TaskRef;
use crate::base::lock::SpinLock;
use crate::coroutine::identity::Facts;

/// A task with `size` usable bytes of stack and the identity that `facts` stand for: an idle one, or a
/// new one.
pub(super) fn take(size: usize, facts: Option<&'static Facts>) -> io::Result<TaskRef> {
    {
        let mut idle = IDLE.lock();
        if let Some(task) = shelf(&mut idle, (size, facts.is_some())).pop() {
            return Ok(task);
        }
    }
    let task = TaskRef::create(size, facts)?;
    ALL.lock().push(task);
    Ok(task)
}

/// Keeps an idle task for whoever needs one.
pub(super) fn put(task: TaskRef) {
    let kind = (task.task().stack_size, !task.shares_thread());
    shelf(&mut IDLE.lock(), kind).push(task);
}

/// Keeps many.
pub(super) fn put_all(tasks: Vec<TaskRef>) {
    tasks.into_iter().for_each(put);
}

/// Every task ever made, idle ones included.
pub(super) fn all() -> Vec<TaskRef> {
    ALL.lock().clone()
}

/// Usable bytes, and whether the identity is its own.
type Kind = (usize, bool);

/// The idle tasks of one kind.
fn shelf(idle: &mut Vec<(Kind, Vec<TaskRef>)>, kind: Kind) -> &mut Vec<TaskRef> {
    let at = idle.iter().position(|(known, _)| *known == kind);
    let at = at.unwrap_or_else(|| {
        idle.push((kind, Vec::new()));
        idle.len() - 1
    });
    &mut idle[at].1
}

/// By kind: a program uses few, and many tasks of each.
static IDLE: SpinLock<Vec<(Kind, Vec<TaskRef>)>> = SpinLock::new(Vec::new());
static ALL: SpinLock<Vec<TaskRef>> = SpinLock::new(Vec::new());
