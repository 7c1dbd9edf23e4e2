//! Waiting for the first of several things: [`select!`](crate::select!).
//!
//! Knows: turns in several queues, as arms.   Does not know: which primitives they belong to.
//!
//! All arms are tried, then the turn stands in the queues of all, then it waits. Being served in one
//! decides it (Q-2), so nothing is taken from two. The arm tried first changes from one `select!` to the
//! next: an arm that is always ready cannot starve the others.

#![expect(
    unsafe_code,
    reason = "promises that arms stay in place while they wait"
)]

use std::cell::Cell;
use std::time::Duration;

use super::queue::{Cut, Standing, Turn, WaitError};
use crate::base::time::Instant;
use crate::runtime::Reason;

/// One of the things that a `select!` waits for.
#[doc(hidden)]
pub trait Arm {
    /// Gets what it is for, if that needs no wait.
    fn attempt(&mut self) -> bool;
    /// Takes its place; false if there is nothing to wait for any more.
    fn join(&mut self, standing: &Standing<'_>) -> bool;
    /// Leaves its place.
    fn leave(&mut self);
    /// It was served at its place, which it has left.
    fn served(&mut self, closed: bool);
    /// The scope cut the wait; for arms that [fail](Arm::fails).
    fn cut(&mut self, _error: WaitError) {}
    /// Whether it has a way to say that the scope cut the wait.
    fn fails(&self) -> bool {
        false
    }
    /// When it is chosen for the time alone.
    fn until(&self) -> Instant {
        Instant::NEVER
    }
}

/// The arm that is chosen, after a wait if need be.
#[doc(hidden)]
pub fn __wait(arms: &mut [&mut dyn Arm]) -> usize {
    wait_from(next_first(), arms)
}

/// The arm that needs no wait, if there is one.
#[doc(hidden)]
pub fn __try(arms: &mut [&mut dyn Arm]) -> Option<usize> {
    try_from(next_first(), arms)
}

pub(super) fn wait_from(first: usize, arms: &mut [&mut dyn Arm]) -> usize {
    loop {
        if let Some(chosen) = try_from(first, arms) {
            return chosen;
        }
        let turn = Turn::new(false);
        let joined = (0_u32..).zip(arms.iter_mut()).all(|(place, arm)| {
            // SAFETY: `turn` is below in this frame, `arms` is borrowed until after `leave`, and what it
            // borrows cannot move meanwhile.
            arm.join(&unsafe { Standing::new(&turn, place) })
        });
        let first = arms.iter().map(|arm| arm.until()).min();
        let until = first.unwrap_or(Instant::NEVER);
        let cut = if arms.iter().any(|arm| arm.fails()) {
            Cut::by_scope(until)
        } else {
            Cut::at(until)
        };
        let outcome = joined.then(|| turn.wait(Reason::Channel, cut));
        turn.leave();
        arms.iter_mut().for_each(|arm| arm.leave());
        if let Some(served) = turn.served() {
            let chosen = served.place as usize;
            arms[chosen].served(served.closed);
            return chosen;
        }
        // Where an arm's own time is up, the next attempt finds it.
        if let Some(Err(error)) = outcome
            && Instant::now() < until
            && let Some(chosen) = arms.iter().position(|arm| arm.fails())
        {
            arms[chosen].cut(error);
            return chosen;
        }
    }
}

/// Attempts all, from the one numbered `first` on.
fn try_from(first: usize, arms: &mut [&mut dyn Arm]) -> Option<usize> {
    let count = arms.len();
    (0..count)
        .map(|i| first.wrapping_add(i) % count)
        .find(|i| arms[*i].attempt())
}

fn next_first() -> usize {
    FIRST.replace(FIRST.get().wrapping_add(1))
}

thread_local! {
    /// Counts `select!`s: where the next one starts.
    static FIRST: Cell<usize> = const { Cell::new(0) };
}

/// `after(duration)` in a `select!`.
#[doc(hidden)]
pub struct __After(Instant);

impl __After {
    #[doc(hidden)]
    pub fn new(duration: Duration) -> Self {
        Self(Instant::after(duration))
    }

    #[doc(hidden)]
    pub fn __take(self) {}
}

impl Arm for __After {
    fn attempt(&mut self) -> bool {
        Instant::now() >= self.0
    }

    fn join(&mut self, _standing: &Standing<'_>) -> bool {
        true
    }

    fn leave(&mut self) {}

    fn served(&mut self, _closed: bool) {}

    fn until(&self) -> Instant {
        self.0
    }
}

/// Waits for the first of several things and runs the body of that arm alone; its value is the body's.
///
/// | arm | chosen when | the pattern gets |
/// |---|---|---|
/// | `recv(receiver) -> value => …` | a value or the end of a channel or oneshot is there | `Result<T, WaitError>` |
/// | `send(sender, value) -> outcome => …` | there is room, or nobody receives any more | `Result<(), WaitError>` |
/// | `changed(receiver) -> outcome => …` | a watch has a new value, or its sender is gone | `Result<(), WaitError>` |
/// | `notified(notify) => …` | a notification came | |
/// | `after(duration) => …` | so much time has passed | |
/// | `default => …`, last | nothing else is ready now: then nothing waits | |
///
/// - Nothing is lost: only the chosen arm takes or sends. `value` in `send` is an `Option<T>` in a
///   variable of that arm: it is emptied when the value is sent and left as it is otherwise; while it is
///   `None`, the arm is not chosen.
/// - Fair: of several arms that are ready, each is chosen in its turn.
/// - The scope's deadline and cancellation are reported by the first arm that yields a `Result`. Where
///   there is none, they do not cut the wait.
/// - From coroutines and OS threads alike. Bodies may `break`, `return` and use `?`.
///
/// ```
/// # let runtime = rpc_core::Runtime::builder().workers(1).build().unwrap();
/// # runtime.block_on(|| {
/// use rpc_core::sync::{Notify, channel};
/// use std::time::Duration;
///
/// let (jobs, queue) = channel(8);
/// let stop = Notify::new();
/// jobs.send("a job").unwrap();
/// let mut done = Vec::new();
/// loop {
///     rpc_core::select! {
///         recv(queue) -> job => match job {
///             Ok(job) => done.push(job),
///             Err(_) => break,
///         },
///         notified(stop) => break,
///         after(Duration::from_millis(1)) => stop.notify_one(),
///     }
/// }
/// assert_eq!(done, ["a job"]);
/// # });
/// ```
#[macro_export]
macro_rules! select {
    ($($arms:tt)*) => {
        $crate::__select!(@arms [] $($arms)*)
    };
}

/// Reads arms into `{how it is made} {pattern} {body}`, binds each to a variable, then waits.
#[doc(hidden)]
#[macro_export]
macro_rules! __select {
    (@arms $read:tt recv($receiver:expr) -> $pattern:pat => $($rest:tt)*) => {
        $crate::__select!(@body $read {($receiver).__recv_arm()} {$pattern} $($rest)*)
    };
    (@arms $read:tt send($sender:expr, $value:expr) -> $pattern:pat => $($rest:tt)*) => {
        $crate::__select!(@body $read {($sender).__send_arm(&mut $value)} {$pattern} $($rest)*)
    };
    (@arms $read:tt changed($receiver:expr) -> $pattern:pat => $($rest:tt)*) => {
        $crate::__select!(@body $read {($receiver).__changed_arm()} {$pattern} $($rest)*)
    };
    (@arms $read:tt notified($notify:expr) => $($rest:tt)*) => {
        $crate::__select!(@body $read {($notify).__arm()} {()} $($rest)*)
    };
    (@arms $read:tt after($duration:expr) => $($rest:tt)*) => {
        $crate::__select!(@body $read {$crate::sync::select::__After::new($duration)} {()} $($rest)*)
    };
    (@arms [] $($other:tt)*) => {
        compile_error!(
            "select! starts with an arm: recv(receiver) -> value => …, send(sender, value) -> outcome => …, \
             changed(receiver) -> outcome => …, notified(notify) => … or after(duration) => …"
        )
    };
    (@arms $read:tt default => $body:expr $(,)?) => {
        $crate::__select!(@bind (0_usize) [] $read {$body})
    };
    (@arms $read:tt) => {
        $crate::__select!(@bind (0_usize) [] $read {})
    };
    (@arms $read:tt $($other:tt)*) => {
        compile_error!(
            "an arm of select! is recv(receiver) -> value => …, send(sender, value) -> outcome => …, \
             changed(receiver) -> outcome => …, notified(notify) => …, after(duration) => … or, last, default => …"
        )
    };
    (@body [$($read:tt)*] $make:tt $pattern:tt $body:block, $($rest:tt)*) => {
        $crate::__select!(@arms [$($read)* $make $pattern {$body}] $($rest)*)
    };
    (@body [$($read:tt)*] $make:tt $pattern:tt $body:block $($rest:tt)*) => {
        $crate::__select!(@arms [$($read)* $make $pattern {$body}] $($rest)*)
    };
    (@body [$($read:tt)*] $make:tt $pattern:tt $body:expr, $($rest:tt)*) => {
        $crate::__select!(@arms [$($read)* $make $pattern {$body}] $($rest)*)
    };
    (@body [$($read:tt)*] $make:tt $pattern:tt $body:expr) => {
        $crate::__select!(@arms [$($read)* $make $pattern {$body}])
    };
    (@bind ($index:expr) [$($bound:tt)*] [{$make:expr} $pattern:tt $body:tt $($more:tt)*] $default:tt) => {
        // A match keeps what the expressions borrow alive; hygiene keeps the variables apart.
        match $make {
            mut arm => $crate::__select!(
                @bind ($index + 1) [$($bound)* {arm ($index) $pattern $body}] [$($more)*] $default
            ),
        }
    };
    (@bind $count:tt [$({$arm:ident ($index:expr) {$pattern:pat} {$body:expr}})+] [] {}) => {{
        let chosen = $crate::sync::select::__wait(&mut [$(&mut $arm),+]);
        $(if chosen == $index {
            let $pattern = $arm.__take();
            $body
        } else)+ {
            unreachable!("one of the arms is chosen")
        }
    }};
    (@bind $count:tt [$({$arm:ident ($index:expr) {$pattern:pat} {$body:expr}})+] [] {$default:expr}) => {{
        let chosen = $crate::sync::select::__try(&mut [$(&mut $arm),+]).unwrap_or(usize::MAX);
        $(if chosen == $index {
            let $pattern = $arm.__take();
            $body
        } else)+ {
            $default
        }
    }};
}
