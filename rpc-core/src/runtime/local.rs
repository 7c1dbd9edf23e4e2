//! Values that belong to a coroutine, and may go along to those it spawns.
//!
//! Knows: the running coroutine, spawning.   Does not know: what the values are.
//!
//! A coroutine with an identity of its own has `thread_local!`s of its own already. These end with the
//! coroutine whatever becomes of its thread-locals (kept for the next, or shared with the worker), and
//! can be inherited.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use super::task::{self, Run};

/// The values of one coroutine or OS thread: few, so that a look through all is a short one.
#[derive(Default)]
pub(super) struct Locals(RefCell<Vec<Entry>>);

struct Entry {
    /// Address of the [`LocalKey`].
    key: usize,
    value: Rc<dyn Any>,
    copy: Option<CopyFn>,
}

/// Makes an heir's value from one's own.
type CopyFn = fn(&dyn Any) -> Box<dyn Any + Send>;

thread_local! {
    /// Of an OS thread.
    static OF_THREAD: Locals = Locals::default();
}

/// A name declared by [`local!`](crate::local!).
pub struct LocalKey<T: 'static> {
    first: fn() -> T,
    copy: Option<CopyFn>,
}

impl<T: 'static> LocalKey<T> {
    #[doc(hidden)]
    pub const fn __new(first: fn() -> T) -> Self {
        Self { first, copy: None }
    }

    /// Lends the running coroutine's value to `f`; the first time it is made by the declaration's
    /// expression. On an OS thread: the thread's value.
    pub fn with<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        let value = match here(|locals| locals.find(self.key())) {
            Some(value) => value,
            None => {
                // Outside of any borrow: this may use other names, or spawn, or wait.
                let value: Rc<dyn Any> = Rc::new((self.first)());
                here(|locals| locals.keep(self.key(), value, self.copy))
            }
        };
        let value = value.downcast_ref::<T>();
        f(value.expect("a key's values are of the key's type"))
    }

    fn key(&'static self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl<T: Clone + Send + 'static> LocalKey<T> {
    #[doc(hidden)]
    pub const fn __inherited(first: fn() -> T) -> Self {
        let copy: CopyFn = |value| {
            let value = value.downcast_ref::<T>();
            Box::new(value.expect("a key's values are of the key's type").clone())
        };
        Self {
            first,
            copy: Some(copy),
        }
    }
}

impl<T: 'static> LocalKey<Cell<T>> {
    /// Sets the value.
    pub fn set(&'static self, value: T) {
        self.with(|cell| cell.set(value));
    }

    /// A copy of the value.
    pub fn get(&'static self) -> T
    where
        T: Copy,
    {
        self.with(Cell::get)
    }
}

impl<T> fmt::Debug for LocalKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalKey")
    }
}

impl Locals {
    pub(super) fn new() -> Self {
        Self::default()
    }

    fn find(&self, key: usize) -> Option<Rc<dyn Any>> {
        let entries = self.0.borrow();
        let entry = entries.iter().find(|entry| entry.key == key)?;
        Some(Rc::clone(&entry.value))
    }

    /// Keeps a new value, unless making it has made one already.
    fn keep(&self, key: usize, value: Rc<dyn Any>, copy: Option<CopyFn>) -> Rc<dyn Any> {
        if let Some(known) = self.find(key) {
            return known;
        }
        self.0.borrow_mut().push(Entry {
            key,
            value: Rc::clone(&value),
            copy,
        });
        value
    }

    /// Drops the values at the end of a coroutine, on its own stack; also those that dropping makes.
    pub(super) fn end(&self) {
        for _ in 0..ROUNDS_MAX {
            let entries = self.0.take();
            if entries.is_empty() {
                return;
            }
            // The panic's message has been printed; the coroutine has ended all the same.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(entries)));
        }
    }
}

/// `run`, with the caller's inherited values, if it has any.
pub(super) fn inherit(run: Arc<dyn Run>) -> Arc<dyn Run> {
    let legacy: Vec<_> = here(|locals| {
        let entries = locals.0.borrow();
        let heirs = entries
            .iter()
            .filter_map(|entry| Some((entry, entry.copy?)));
        let values = heirs.map(|(entry, copy)| (entry.key, Rc::clone(&entry.value), copy));
        values.collect()
    });
    if legacy.is_empty() {
        return run;
    }
    // Outside of the borrow: a clone may do anything.
    let legacy = legacy.iter().map(|(key, value, copy)| Legacy {
        key: *key,
        value: copy(value.as_ref()),
        copy: *copy,
    });
    Arc::new(Heir {
        run,
        legacy: crate::base::lock::SpinLock::new(legacy.collect()),
    })
}

/// A value for one who has not started.
struct Legacy {
    key: usize,
    value: Box<dyn Any + Send>,
    copy: CopyFn,
}

struct Heir {
    run: Arc<dyn Run>,
    legacy: crate::base::lock::SpinLock<Vec<Legacy>>,
}

impl Run for Heir {
    fn run(self: Arc<Self>) {
        let legacy = mem::take(&mut *self.legacy.lock());
        let entries = legacy.into_iter().map(|legacy| Entry {
            key: legacy.key,
            value: Rc::from(legacy.value as Box<dyn Any>),
            copy: Some(legacy.copy),
        });
        let entries = entries.collect();
        // A thread of the blocking pool has values of its own, which it gets back.
        let own = here(|locals| locals.0.replace(entries));
        Arc::clone(&self.run).run();
        here(|locals| {
            locals.end();
            locals.0.replace(own)
        });
    }

    fn abandon(self: Arc<Self>) {
        Arc::clone(&self.run).abandon();
    }

    fn refuse(self: Arc<Self>, why: io::Error) {
        Arc::clone(&self.run).refuse(why);
    }
}

/// Runs `f` on the values of whoever calls.
fn here<R>(f: impl FnOnce(&Locals) -> R) -> R {
    match task::running() {
        Some(task) => f(task.locals()),
        None => OF_THREAD.with(f),
    }
}

/// As often is dropping values followed by dropping what that made; then the rest is left, as libc
/// leaves the values of pthread keys.
const ROUNDS_MAX: usize = 4;
