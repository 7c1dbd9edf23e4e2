//! The heart of every waiting hook on a descriptor: try first, wait on EAGAIN, try again.
//!
//! Knows:         the current coroutine, its limits, one descriptor, one direction.
//! Does not know: what is tried; that is a [`Transfer`] or the caller's own attempt.
//!
//! Rules (see the front page): R-3 a waiter that leaves passes the wake on; R-4 a TCP socket that gave
//! a short read is not asked again before the next edge; R-5 the attempt comes first.
//!
//! Read first: [`Exchange::turn`], then [`Exchange::wait`].

#![expect(unsafe_code, reason = "system calls")]

use std::os::fd::RawFd;
use std::time::Duration;

use super::description::{self, Handle, Kind};
use super::raw::{c_int, failure, original};
use super::{cut, fairness, table};
use crate::base::time::Instant;
use crate::runtime::park::park;
use crate::runtime::reactor::{Dir, Io, Wait};
use crate::runtime::{self, Reason, TaskRef};

/// One call on one descriptor in three forms; each returns the kernel's result.
pub(super) trait Transfer {
    /// With `MSG_DONTWAIT`.
    fn on_socket(&mut self) -> isize;
    /// With `RWF_NOWAIT`.
    fn nowait(&mut self) -> isize;
    /// As the program asked for it; `poll` said that it will not wait for long.
    fn plain(&mut self) -> isize;
}

/// A call in progress by a coroutine that may wait.
pub(super) struct Exchange {
    task: TaskRef,
    handle: Handle,
    dir: Dir,
    /// The slot, once one exists.
    io: Option<&'static Io>,
    /// Edges counted before the last attempt; meaningful with `io`.
    seen: u32,
    /// The end of the socket's own timeout; `None` until the call first waits.
    limit: Option<Instant>,
    /// The call parked at least once, so a wake may have been meant for others too.
    waited: bool,
    /// the tick before an attempt that filled the socket: wait first while no edge came since.
    exhausted: Option<u32>,
    /// The call is a part of a conversation, which a cut leaves out of step.
    conversation: bool,
}

impl Exchange {
    /// Starts a call of the current coroutine. `None` = pass it to the kernel as it is: no coroutine,
    /// a descriptor that never waits, or one that the program wants non-blocking.
    #[inline]
    pub(super) fn open(fd: RawFd, dir: Dir) -> Option<Self> {
        let task = runtime::current()?;
        if fd <= libc::STDERR_FILENO && task.shares_thread() {
            // P2: std's locks around these count by thread.
            return None;
        }
        let handle = Handle::find(fd)?;
        if handle.description.has(description::NONBLOCKING)
            || handle.description.kind() == Kind::Plain
        {
            return None;
        }
        fairness::count_call();
        Some(Self::new(task, handle, dir))
    }

    #[inline]
    pub(super) const fn new(task: TaskRef, handle: Handle, dir: Dir) -> Self {
        Self {
            task,
            handle,
            dir,
            io: None,
            seen: 0,
            limit: None,
            waited: false,
            exhausted: None,
            conversation: true,
        }
    }

    /// Says that the call sends and receives nothing: a cut leaves the socket as it is.
    pub(super) const fn outside_conversation(mut self) -> Self {
        self.conversation = false;
        self
    }

    #[inline]
    pub(super) const fn handle(&self) -> &Handle {
        &self.handle
    }

    #[inline]
    pub(super) fn kind(&self) -> Kind {
        self.handle.description.kind()
    }

    /// Notes where the edges stand; comes before every attempt.
    #[inline]
    pub(super) fn observe(&mut self) {
        if self.io.is_none() {
            self.io = self.handle.io();
        }
        if let Some(io) = self.io {
            self.seen = io.tick(self.dir);
        }
    }

    // Inlined into each hook: a return costs far more than a call after a system call has emptied the
    // processor's return stack.
    /// Attempts until the answer is not EAGAIN or the wait ends; the kernel's result.
    #[inline(always)]
    pub(super) fn turn(&mut self, transfer: &mut impl Transfer) -> isize {
        self.observe();
        if self.may_skip() {
            if let Err(errno) = self.wait() {
                return failure(errno);
            }
            self.observe();
        }
        self.exhausted = None;
        loop {
            let result = self.attempt(transfer);
            if result != failure(libc::EAGAIN) {
                return result;
            }
            if let Err(errno) = self.wait() {
                return failure(errno);
            }
            self.observe();
        }
    }

    /// True if the other end or the connection is gone.
    pub(super) fn hung_up(&self) -> bool {
        self.io.is_some_and(Io::hung_up)
    }

    /// true if an attempt is known to say EAGAIN.
    #[inline]
    fn may_skip(&self) -> bool {
        let Some(io) = self.io else {
            return false;
        };
        let empty = self.exhausted == Some(self.seen)
            || (self.dir == Dir::Read
                && self.kind() == Kind::Tcp
                && self.handle.is_drained(self.seen));
        empty && !io.hung_up()
    }

    /// Records how the last attempt went: `done` of `wanted` bytes.
    #[inline]
    pub(super) fn note(&mut self, done: usize, wanted: usize) {
        if done == 0 || done >= wanted || self.kind() != Kind::Tcp || self.io.is_none() {
            return;
        }
        match self.dir {
            Dir::Read => self.handle.mark_drained(self.seen),
            Dir::Write => self.exhausted = Some(self.seen),
        }
    }

    #[inline(always)]
    fn attempt(&mut self, transfer: &mut impl Transfer) -> isize {
        let description = self.handle.description;
        let (refuses_nowait, _) = self.direction_flags();
        match description.kind() {
            Kind::Plain => transfer.plain(),
            Kind::Tcp | Kind::Stream | Kind::Message => {
                if self.dir == Dir::Read
                    && description.has(description::LOW_WATER)
                    && !self.is_ready()
                {
                    return failure(libc::EAGAIN);
                }
                let result = transfer.on_socket();
                if result == failure(libc::ENOTSOCK) {
                    return self.after_reuse(transfer);
                }
                result
            }
            Kind::Nowait if !description.has(refuses_nowait) => {
                let result = transfer.nowait();
                if result != failure(libc::EOPNOTSUPP) && result != failure(libc::ENOSYS) {
                    return result;
                }
                description.set(refuses_nowait, true);
                self.in_turn(|| transfer.plain())
            }
            Kind::Nowait | Kind::Polled => self.in_turn(|| transfer.plain()),
        }
    }

    /// The number names another file than the table says (closed behind our back): ask anew, once.
    #[cold]
    fn after_reuse(&mut self, transfer: &mut impl Transfer) -> isize {
        table::clear(self.handle.fd, self.handle.word);
        match Handle::find(self.handle.fd) {
            Some(handle) if !handle.description.kind().is_socket() => {
                self.handle = handle;
                self.io = None;
                self.observe();
                self.attempt(transfer)
            }
            _ => transfer.plain(),
        }
    }

    /// `poll(0)`, then the plain call, one at a time: two who both saw one byte must not both read.
    #[inline(never)]
    pub(super) fn in_turn(&mut self, call: impl FnOnce() -> isize) -> isize {
        let (_, turn) = self.direction_flags();
        let description = self.handle.description;
        while description.set(turn, true) {
            // Whoever has the turn is inside a system call on another worker and will be back soon.
            runtime::yield_now();
        }
        let result = if self.is_ready() {
            call()
        } else {
            failure(libc::EAGAIN)
        };
        description.set(turn, false);
        result
    }

    fn direction_flags(&self) -> (u32, u32) {
        match self.dir {
            Dir::Read => (description::NO_NOWAIT_READ, description::TURN_READ),
            Dir::Write => (description::NO_NOWAIT_WRITE, description::TURN_WRITE),
        }
    }

    /// Waits until `poll` calls the descriptor ready in this direction; `Err` as for [`Exchange::wait`].
    pub(super) fn until_ready(&mut self) -> Result<(), c_int> {
        self.observe();
        while !self.is_ready() {
            self.wait()?;
            self.observe();
        }
        Ok(())
    }

    /// `poll(0)` for this direction; errors and hang-ups count as ready.
    fn is_ready(&self) -> bool {
        let events = match self.dir {
            Dir::Read => libc::POLLIN,
            Dir::Write => libc::POLLOUT,
        };
        poll_now(self.handle.fd, events)
    }

    /// Parks until the next edge. `Err` is the errno that ends the call.
    #[inline(never)]
    pub(super) fn wait(&mut self) -> Result<(), c_int> {
        let Some(io) = self.io else {
            let acquired = self.handle.io_or_acquire(self.dir).ok_or(libc::ENOMEM)?;
            self.io = Some(acquired.io);
            self.seen = acquired.seen;
            if !acquired.fresh {
                // Edges between our attempt and now were counted unseen by us: one more attempt.
                return Ok(());
            }
            return self.wait_on(acquired.io);
        };
        self.wait_on(io)
    }

    fn wait_on(&mut self, io: &'static Io) -> Result<(), c_int> {
        let own = self.own_limit();
        let mut until = own.min(self.task.deadline());
        if self.dir == Dir::Write && self.kind() == Kind::Message {
            // An unconnected Unix datagram socket is always "writable": no edge tells that the
            // receiver's queue has room again.
            until = until.min(Instant::after(MESSAGE_RETRY));
        }
        // Only now is it sure that slot and tick belong to this descriptor (D-2).
        if !self.handle.is_current() {
            return Err(libc::EBADF);
        }
        if self.task.cancelled() {
            return Err(self.cut(libc::ECANCELED));
        }
        let outcome = io.wait(self.handle.fd, self.dir, self.seen, until);
        self.waited = true;
        match outcome {
            Wait::Ready if self.handle.is_current() => {
                cut::waited();
                fairness::waited();
                Ok(())
            }
            Wait::Ready | Wait::Closed => Err(libc::EBADF),
            Wait::Cancelled => Err(self.cut(libc::ECANCELED)),
            Wait::TimedOut => self.after_time(own),
            Wait::Unsupported => {
                // Epoll takes everything that can make a caller wait: the next call will not.
                self.handle.description.set_kind(Kind::Plain);
                Ok(())
            }
        }
    }

    /// Waits for time to pass where no event tells of the change; `Err` as for [`Exchange::wait`].
    pub(super) fn pause(&mut self, length: Duration) -> Result<(), c_int> {
        let own = self.own_limit();
        if self.task.cancelled() {
            return Err(self.cut(libc::ECANCELED));
        }
        let until = own.min(self.task.deadline()).min(Instant::after(length));
        let reason = Reason::Io(self.handle.fd, self.dir);
        park(reason, until);
        self.after_time(own)
    }

    fn after_time(&mut self, own: Instant) -> Result<(), c_int> {
        let (now, scope) = (Instant::now(), self.task.deadline());
        if own <= now && own <= scope {
            return Err(libc::EAGAIN);
        }
        if scope <= now {
            return Err(self.cut(libc::ETIMEDOUT));
        }
        Ok(())
    }

    fn own_limit(&mut self) -> Instant {
        if let Some(limit) = self.limit {
            return limit;
        }
        let timeout = self.handle.description.timeout(self.dir);
        let limit = timeout.map_or(Instant::NEVER, Instant::after);
        self.limit = Some(limit);
        limit
    }

    /// The scope's end or cancellation cuts this call short.
    #[cold]
    fn cut(&mut self, errno: c_int) -> c_int {
        let in_step = !self.conversation || !self.kind().is_stream_socket();
        if !in_step && self.handle.is_current() {
            cut::end_conversation(&self.handle);
        }
        cut::before_failing();
        errno
    }
}

impl Drop for Exchange {
    /// one edge may stand for many datagrams or connections; whoever was woken wakes the next.
    #[inline]
    fn drop(&mut self) {
        if self.waited
            && let Some(io) = self.io
        {
            io.wake_next(self.dir);
        }
    }
}

/// How long a full datagram queue is left alone.
const MESSAGE_RETRY: Duration = Duration::from_millis(2);

/// `poll(0)` on one descriptor; errors and hang-ups count as ready.
pub(super) fn poll_now(fd: RawFd, events: libc::c_short) -> bool {
    let mut entry = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    let at_once = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let (place, time) = (&raw mut entry, &raw const at_once);
    original!(SYS_ppoll, place, 1, time, 0, 0) != 0
}
