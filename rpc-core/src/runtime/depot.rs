//! Idle tasks that no worker keeps for itself, and the list of all tasks ever made.

use std::io;

use super::task::TaskRef;
use crate::base::lock::SpinLock;
use crate::coroutine::identity::Facts;

/// A task with `size` usable bytes of stack: an idle one, or a new one.
pub(super) fn take(size: usize, facts: &'static Facts) -> io::Result<TaskRef> {
    {
        let mut idle = IDLE.lock();
        if let Some(task) = shelf(&mut idle, size).pop() {
            return Ok(task);
        }
    }
    let task = TaskRef::create(size, facts)?;
    ALL.lock().push(task);
    Ok(task)
}

/// Keeps an idle task for whoever needs one.
pub(super) fn put(task: TaskRef) {
    shelf(&mut IDLE.lock(), task.task().stack_size).push(task);
}

/// Keeps many.
pub(super) fn put_all(tasks: Vec<TaskRef>) {
    tasks.into_iter().for_each(put);
}

/// Every task ever made, idle ones included.
pub(super) fn all() -> Vec<TaskRef> {
    ALL.lock().clone()
}

/// The idle tasks with `size` usable bytes.
fn shelf(idle: &mut Vec<(usize, Vec<TaskRef>)>, size: usize) -> &mut Vec<TaskRef> {
    let at = idle.iter().position(|(known, _)| *known == size);
    let at = at.unwrap_or_else(|| {
        idle.push((size, Vec::new()));
        idle.len() - 1
    });
    &mut idle[at].1
}

/// By size of stack: a program uses few sizes, and many tasks of each.
static IDLE: SpinLock<Vec<(usize, Vec<TaskRef>)>> = SpinLock::new(Vec::new());
static ALL: SpinLock<Vec<TaskRef>> = SpinLock::new(Vec::new());
