//! Floor 3: waiting for each other. Works from coroutines and from OS threads alike.
//!
//! Knows: park and wake.   Does not know: the scheduler, the reactor.
//!
//! Everything here is fair: whoever came first is served first, and what it is served cannot be taken
//! by somebody else before it runs. `std::sync` works in coroutines too; these add hand-off in order,
//! deadlines and cancellation. A wait that returns a `Result` is cut by the scope's deadline and by
//! cancellation; one that does not (locks, barriers) is not. Nothing here is poisoned by a panic.
//!
//! Invariants
//! - Y-1  A waiter is in its queue until it is served or leaves; one that is served and cut at the same
//!   time counts as served.
//! - Y-2  The spin lock around a primitive's state is never held across a park, nor while a waiter is
//!   woken or a value is dropped.
//!
//! Read first: `queue.rs`, then `channel.rs`.

mod barrier;
mod channel;
mod condvar;
mod mutex;
mod notify;
pub mod oneshot;
mod queue;
mod rwlock;
#[doc(hidden)]
pub mod select;
mod semaphore;
mod wait_group;
pub mod watch;

pub use barrier::Barrier;
pub use channel::{Receiver, SendError, Sender, TryRecvError, TrySendError, channel, unbounded};
pub use condvar::Condvar;
pub use mutex::{Mutex, MutexGuard};
pub use notify::Notify;
pub use queue::WaitError;
pub use rwlock::{ReadGuard, RwLock, WriteGuard};
pub use semaphore::{Permit, Semaphore};
pub use wait_group::WaitGroup;

#[cfg(test)]
mod select_tests;
#[cfg(test)]
mod tests;
