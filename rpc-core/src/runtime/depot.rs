//! Idle tasks that no worker keeps for itself, and the list of all tasks ever made.

use std::io;

use super::task::TaskRef;
use crate::base::lock::SpinLock;
use crate::coroutine::identity::Facts;

/// A task with `size` usable bytes of stack: an idle one, or a new one.
pub(super) fn take(size: usize, facts: &'static Facts) -> io::Result<TaskRef> {
    {
        let mut idle = IDLE.lock();
        if let Some(at) = idle.iter().rposition(|task| task.task().stack_size == size) {
            return Ok(idle.swap_remove(at));
        }
    }
    let task = TaskRef::create(size, facts)?;
    ALL.lock().push(task);
    Ok(task)
}

/// Keeps an idle task for whoever needs one.
pub(super) fn put(task: TaskRef) {
    IDLE.lock().push(task);
}

/// Keeps many.
pub(super) fn put_all(tasks: Vec<TaskRef>) {
    IDLE.lock().extend(tasks);
}

/// Every task ever made, idle ones included.
pub(super) fn all() -> Vec<TaskRef> {
    ALL.lock().clone()
}

static IDLE: SpinLock<Vec<TaskRef>> = SpinLock::new(Vec::new());
static ALL: SpinLock<Vec<TaskRef>> = SpinLock::new(Vec::new());
