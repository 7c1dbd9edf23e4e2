//! Floor 3: waiting for each other. Works from coroutines and from OS threads alike.
//!
//! Knows: park and wake.   Does not know: the scheduler, the reactor.
//!
//! Everything here is fair: whoever came first is served first. `std::sync` works in coroutines too;
//! these add hand-off in order, deadlines and cancellation.
//!
//! Invariants
//! - Y-1  A waiter is in its queue until it is served or leaves; one that is served and leaves at the
//!   same time passes the service on.
//! - Y-2  The spin lock around a primitive's state is never held across a park.

mod channel;
mod condvar;
mod mutex;
pub mod oneshot;
mod queue;
mod semaphore;

pub use channel::{Receiver, SendError, Sender, TryRecvError, channel};
pub use condvar::Condvar;
pub use mutex::{Mutex, MutexGuard};
pub use queue::WaitError;
pub use semaphore::{Permit, Semaphore};

#[cfg(test)]
mod tests;
