//! Waiting for file descriptors.
//!
//! Knows: descriptors, readiness, who waits.   Does not know: sockets, protocols, why somebody waits.
//!
//! An [`Io`] stands for one open file description. It is registered once, edge-triggered and for both
//! directions, with the worker that first waits. Whoever wants to read or write tries first and waits
//! when told EAGAIN, giving the edge count (`tick`) it saw *before* the attempt: an edge that came in
//! between is not lost.
//!
//! Invariants
//! - R-1  An `Io` is never unmapped; its generation grows when the description closes, and an event
//!   that carries an older one is dropped.
//! - R-2  Only the owning worker calls `wait` on its epoll; any thread may register and wake. After
//!   [`MOVE_AFTER`] waits in a row by another worker's coroutines the registration moves there. Both
//!   happen with the state locked and no edge since the caller looked: the number still is the file's.
//! - R-3  One edge wakes one waiter of its direction; a waiter that succeeded passes it on
//!   ([`Io::wake_next`]), for one edge may stand for many datagrams.
//! - R-4  A [`Node`] lies on its coroutine's stack and is unlinked before the wait returns.
//!
//! Read first: [`Io::wait`], then [`dispatch`].

#![expect(unsafe_code, reason = "waiters are linked through their own stacks")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::task::{Reason, TaskRef, current};
use super::watcher;
use super::worker::Worker;
use crate::base::lock::SpinLock;
use crate::base::sys::{self, syscall};
use crate::base::time::Instant;

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dir {
    /// Data, a connection, or the peer's end.
    Read = 0,
    /// Room to write.
    Write = 1,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Try again: there was an edge.
    Ready,
    /// The given time has come.
    TimedOut,
    /// The coroutine was cancelled.
    Cancelled,
    /// The description was closed meanwhile.
    Closed,
    /// Not a coroutine, or epoll refuses this descriptor (a regular file).
    Unsupported,
}

/// What epoll said of a descriptor with a [`Handler`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer is gone or an error is pending; reading tells which.
    pub(crate) closed: bool,
}

/// Called on the worker's loop when its descriptor has an edge: may read, parse, spawn and unpark;
/// must not wait.
pub(crate) trait Handler: Send + Sync + 'static {
    fn ready(&self, ready: Ready);
}

/// The waiting side of one open file description.
pub(crate) struct Io {
    index: u32,
    generation: AtomicU32,
    /// Edges seen, per direction.
    ticks: [AtomicU32; 2],
    /// RDHUP, HUP, ERR or PRI was seen: the next attempt tells, no further edge may come.
    hung_up: AtomicBool,
    state: SpinLock<State>,
}

struct State {
    /// Where it is registered; `None` = nowhere yet.
    worker: Option<&'static Worker>,
    /// The number it was registered by.
    fd: RawFd,
    /// Waits in a row by coroutines of other workers.
    elsewhere: u32,
    waiters: [Queue; 2],
    handler: Option<Arc<dyn Handler>>,
    /// Next in the free list.
    next_free: Option<&'static Io>,
}

impl Io {
    /// An unregistered one. `None` when a million are in use or memory is out. Does not allocate from
    /// the heap, for hooks call it.
    pub(crate) fn acquire() -> Option<&'static Self> {
        let mut free = FREE.lock();
        if free.is_none() {
            *free = map_chunk();
        }
        let io = (*free)?;
        *free = io.state.lock().next_free.take();
        drop(free);
        io.hung_up.store(false, Ordering::Relaxed);
        Some(io)
    }

    /// The description is closed: waiters leave with [`Wait::Closed`], late events are dropped.
    pub(crate) fn release(&'static self) {
        let mut state = self.state.lock();
        self.generation.fetch_add(1, Ordering::Release);
        if let Some(worker) = state.worker.take() {
            worker.sources_changed(-1);
        }
        state.elsewhere = 0;
        for queue in &mut state.waiters {
            queue.wake_all(Wait::Closed);
        }
        // Whoever read a tick of this life and comes to wait only now must not wait for the next one.
        self.edge(Dir::Read);
        self.edge(Dir::Write);
        let handler = state.handler.take();
        drop(state);
        drop(handler);
        let mut free = FREE.lock();
        self.state.lock().next_free = free.replace(self);
    }

    /// Edges seen so far; read it before the attempt whose EAGAIN leads to [`Io::wait`].
    #[inline]
    pub(crate) fn tick(&self, dir: Dir) -> u32 {
        // Acquire pairs with the Release in `dispatch`: data behind the edge is visible to the attempt.
        self.ticks[dir as usize].load(Ordering::Acquire)
    }

    /// One of several descriptors of the description was closed: all waiters look again.
    pub(crate) fn nudge(&self) {
        let mut state = self.state.lock();
        for dir in [Dir::Read, Dir::Write] {
            self.edge(dir);
            state.waiters[dir as usize].wake_all(Wait::Ready);
        }
    }

    /// Whether the peer's end, an error or urgent data was seen: never skip an attempt then.
    #[inline]
    pub(crate) fn hung_up(&self) -> bool {
        self.hung_up.load(Ordering::Acquire)
    }

    /// Waits for an edge after `seen`. `until` is all that ends it early, besides cancellation.
    pub(crate) fn wait(&'static self, fd: RawFd, dir: Dir, seen: u32, until: Instant) -> Wait {
        self.wait_as(fd, dir, seen, until, false)
    }

    /// [`Io::wait`] for calls that cannot bear to be cancelled.
    pub(crate) fn wait_exempt(
        &'static self,
        fd: RawFd,
        dir: Dir,
        seen: u32,
        until: Instant,
    ) -> Wait {
        self.wait_as(fd, dir, seen, until, true)
    }

    fn wait_as(
        &'static self,
        fd: RawFd,
        dir: Dir,
        seen: u32,
        until: Instant,
        exempt: bool,
    ) -> Wait {
        let Some(task) = current() else {
            return Wait::Unsupported;
        };
        let mut node = Node::new(task);
        node.exempt = exempt;
        // SAFETY: R-4: `node` stays here until `finish` has unlinked it.
        if let Some(answer) = unsafe { self.enlist(&raw mut node, fd, dir, seen) } {
            return answer;
        }
        loop {
            task.park(Reason::Io(fd, dir), until);
            let state = self.state.lock();
            // SAFETY: nodes are read and written under their queue's lock.
            let outcome = unsafe { (&raw const node).read() }.outcome;
            if let Some(answer) = outcome.or_else(|| cut_short(task, until, exempt)) {
                // SAFETY: R-4: the node is ours and its queue is locked.
                unsafe { finish(state, dir, &raw mut node) };
                return answer;
            }
        }
    }

    /// Waits for an edge on any of several: `poll` and `select`. The tuple is the arguments of
    /// [`Io::wait`].
    pub(crate) fn wait_any(sources: &[(&'static Self, RawFd, Dir, u32)], until: Instant) -> Wait {
        let Some(task) = current() else {
            return Wait::Unsupported;
        };
        let mut nodes: Vec<Node> = sources.iter().map(|_| Node::new(task)).collect();
        let mut answer = None;
        for ((io, fd, dir, seen), node) in sources.iter().zip(&mut nodes) {
            // SAFETY: R-4: the vector neither moves nor ends before the loop below.
            answer = unsafe { io.enlist(node, *fd, *dir, *seen) };
            if answer.is_some() {
                break;
            }
        }
        let reason = sources
            .first()
            .map_or(Reason::Sleep, |s| Reason::Io(s.1, s.2));
        while answer.is_none() {
            task.park(reason, until);
            answer = sources.iter().zip(&nodes).find_map(|((io, ..), node)| {
                let _locked = io.state.lock();
                node.outcome
            });
            answer = answer.or_else(|| cut_short(task, until, false));
        }
        for ((io, _, dir, _), node) in sources.iter().zip(&mut nodes) {
            // SAFETY: R-4: as above; a node that was never linked is left alone.
            unsafe { finish(io.state.lock(), *dir, node) };
        }
        answer.unwrap_or(Wait::Ready)
    }

    /// lets the next waiter of the direction try.
    #[inline]
    pub(crate) fn wake_next(&self, dir: Dir) {
        self.state.lock().waiters[dir as usize].wake_one();
    }

    /// Registers if nobody has, and links the node. `Some` = do not wait.
    ///
    /// # Safety
    /// - `node` stays where it is until it is unlinked.
    unsafe fn enlist(
        &'static self,
        node: *mut Node,
        fd: RawFd,
        dir: Dir,
        seen: u32,
    ) -> Option<Wait> {
        // SAFETY: the caller's node, not linked yet.
        let (task, exempt) = unsafe { ((*node).task, (*node).exempt) };
        if !exempt && task.cancelled() {
            return Some(Wait::Cancelled);
        }
        let mut state = self.state.lock();
        // Before registering: if the description was closed meanwhile, `fd` may name another file.
        if self.tick(dir) != seen {
            return Some(Wait::Ready);
        }
        let placed = self.place(&mut state, task.worker(), fd);
        if placed.as_ref().is_err_and(never_waits) {
            return Some(Wait::Unsupported);
        }
        // SAFETY: the caller's promise; the queue is locked.
        unsafe { state.waiters[dir as usize].push(node) };
        drop(state);
        if placed.is_err() && !watcher::watch(fd, self.token(), dir) {
            // SAFETY: R-4: the node is the caller's and its queue is locked.
            unsafe { finish(self.state.lock(), dir, node) };
            return Some(Wait::Unsupported);
        }
        None
    }

    /// Registers with the waiter's worker, if nobody has or others waited there too often.
    fn place(&self, state: &mut State, worker: &'static Worker, fd: RawFd) -> io::Result<()> {
        if let Some(home) = state.worker {
            state.elsewhere = match ptr::eq(home, worker) {
                true => 0,
                false => state.elsewhere.saturating_add(1),
            };
            // By another of the file's numbers it cannot be taken out.
            let moves = state.elsewhere >= MOVE_AFTER && state.fd == fd;
            if !moves || register(worker, fd, self.token()).is_err() {
                return Ok(());
            }
            // An edge before this is seen twice, none is lost.
            let _ = home.with_registry(|registry| registry.deregister(&mut SourceFd(&fd)));
            home.sources_changed(-1);
        } else {
            register(worker, fd, self.token())?;
        }
        worker.sources_changed(1);
        state.worker = Some(worker);
        (state.fd, state.elsewhere) = (fd, 0);
        Ok(())
    }

    fn token(&self) -> u64 {
        let generation = self.generation.load(Ordering::Relaxed);
        (u64::from(generation) << 32) | u64::from(self.index)
    }

    fn edge(&self, dir: Dir) {
        // Release pairs with the Acquire in `tick`.
        self.ticks[dir as usize].fetch_add(1, Ordering::Release);
    }
}

/// A descriptor whose edges go to a [`Handler`]. Dropping it ends that; the descriptor stays open.
pub(crate) struct Attachment {
    io: &'static Io,
    fd: RawFd,
}

/// Sends the edges of `fd` to `handler` on `worker`'s loop. The first comes at once if it is ready.
pub(crate) fn attach(
    fd: RawFd,
    handler: Arc<dyn Handler>,
    worker: &'static Worker,
) -> io::Result<Attachment> {
    let io = Io::acquire()
        .ok_or_else(|| io::Error::other("too many descriptors are waited for (one million)"))?;
    let mut state = io.state.lock();
    state.handler = Some(handler);
    let done = register(worker, fd, io.token());
    if done.is_ok() {
        worker.sources_changed(1);
        state.worker = Some(worker);
        (state.fd, state.elsewhere) = (fd, 0);
    }
    drop(state);
    match done {
        Ok(()) => Ok(Attachment { io, fd }),
        Err(error) => {
            io.release();
            Err(error)
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let worker = self.io.state.lock().worker;
        if let Some(worker) = worker {
            // The descriptor may be closed already, and with it the registration.
            let _ = worker.with_registry(|registry| registry.deregister(&mut SourceFd(&self.fd)));
        }
        self.io.release();
    }
}

/// Tells whoever waits what epoll said. Called by the worker's loop for each event.
pub(super) fn dispatch(token: u64, events: u32) {
    let Some(io) = find(token as u32) else { return };
    let closed = events & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0;
    let readable = closed || events & (libc::EPOLLIN | libc::EPOLLPRI) as u32 != 0;
    let writable = events & (libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0;
    let mut state = io.state.lock();
    if io.generation.load(Ordering::Relaxed) != (token >> 32) as u32 {
        return;
    }
    if let Some(handler) = &state.handler {
        let handler = Arc::clone(handler);
        drop(state);
        return handler.ready(Ready {
            readable,
            writable,
            closed,
        });
    }
    // A read stops short at the mark of urgent data: from then on a short one says nothing.
    if closed || events & libc::EPOLLPRI as u32 != 0 {
        io.hung_up.store(true, Ordering::Release);
    }
    for (dir, fired) in [(Dir::Read, readable), (Dir::Write, writable)] {
        if !fired {
            continue;
        }
        io.edge(dir);
        let queue = &mut state.waiters[dir as usize];
        if closed {
            queue.wake_all(Wait::Ready);
        } else {
            queue.wake_one();
        }
    }
}

/// A coroutine in a queue. On its own stack.
struct Node {
    prev: *mut Node,
    next: *mut Node,
    task: TaskRef,
    /// Set when woken, together with unlinking.
    outcome: Option<Wait>,
    linked: bool,
    /// Cancellation does not end the wait.
    exempt: bool,
}

impl Node {
    fn new(task: TaskRef) -> Self {
        Self {
            prev: ptr::null_mut(),
            next: ptr::null_mut(),
            task,
            outcome: None,
            linked: false,
            exempt: false,
        }
    }
}

/// First come, first served. Doubly linked through the waiters' stacks.
struct Queue {
    head: *mut Node,
    tail: *mut Node,
}

// SAFETY: nodes are touched only under the lock of the `Io` that owns the queue.
unsafe impl Send for Queue {}

impl Queue {
    const fn new() -> Self {
        Self {
            head: ptr::null_mut(),
            tail: ptr::null_mut(),
        }
    }

    /// # Safety
    /// - `node` is not linked and stays where it is until it is unlinked.
    unsafe fn push(&mut self, node: *mut Node) {
        // SAFETY: the caller's node and, if any, the linked tail are valid.
        unsafe {
            (*node).prev = self.tail;
            (*node).next = ptr::null_mut();
            (*node).linked = true;
            match self.tail.as_mut() {
                Some(tail) => tail.next = node,
                None => self.head = node,
            }
        }
        self.tail = node;
    }

    /// # Safety
    /// - `node` is linked here, or not linked at all.
    unsafe fn remove(&mut self, node: *mut Node) {
        // SAFETY: a linked node's neighbours are valid.
        unsafe {
            if !(*node).linked {
                return;
            }
            let (prev, next) = ((*node).prev, (*node).next);
            match prev.as_mut() {
                Some(prev) => prev.next = next,
                None => self.head = next,
            }
            match next.as_mut() {
                Some(next) => next.prev = prev,
                None => self.tail = prev,
            }
            (*node).linked = false;
        }
    }

    fn wake_one(&mut self) {
        self.wake_first(Wait::Ready);
    }

    fn wake_all(&mut self, outcome: Wait) {
        while self.wake_first(outcome) {}
    }

    fn wake_first(&mut self, outcome: Wait) -> bool {
        let node = self.head;
        if node.is_null() {
            return false;
        }
        // SAFETY: a linked node is valid; once unlinked and unlocked it may vanish, so its task
        // is read first and woken while the lock is held.
        unsafe {
            self.remove(node);
            let task = (*node).task;
            (*node).outcome = Some(outcome);
            task.unpark();
        }
        true
    }
}

/// Unlinks a waiter on its way out.
///
/// # Safety
/// - `state` is that of the `Io` whose `dir` queue may hold the node.
unsafe fn finish(mut state: crate::base::lock::SpinGuard<'_, State>, dir: Dir, node: *mut Node) {
    // SAFETY: the caller's promise.
    unsafe { state.waiters[dir as usize].remove(node) };
}

fn cut_short(task: TaskRef, until: Instant, exempt: bool) -> Option<Wait> {
    if !exempt && task.cancelled() {
        return Some(Wait::Cancelled);
    }
    (!until.is_never() && Instant::now() >= until).then_some(Wait::TimedOut)
}

/// Adds `fd` to the worker's epoll: both directions, edge-triggered.
fn register(worker: &Worker, fd: RawFd, token: u64) -> io::Result<()> {
    let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
    let token = Token(token as usize);
    worker.with_registry(|registry: &Registry| {
        match registry.register(&mut SourceFd(&fd), token, interest) {
            // The number was closed behind our back and is registered for an older description.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                registry.reregister(&mut SourceFd(&fd), token, interest)
            }
            other => other,
        }
    })
}

/// Epoll's word for files that are always ready.
fn never_waits(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM)
}

/// Whether `token` names the present life of its `Io`.
pub(super) fn is_alive(token: u64) -> bool {
    find(token as u32)
        .is_some_and(|io| io.generation.load(Ordering::Relaxed) == (token >> 32) as u32)
}

fn find(index: u32) -> Option<&'static Io> {
    let chunk = CHUNKS
        .get(index as usize / CHUNK_LEN)?
        .load(Ordering::Acquire);
    if chunk.is_null() {
        return None;
    }
    // SAFETY: a published chunk has CHUNK_LEN initialised entries and is never unmapped.
    Some(unsafe { &*chunk.add(index as usize % CHUNK_LEN) })
}

/// Maps the next chunk and returns its entries as a free list. Called with `FREE` locked.
fn map_chunk() -> Option<&'static Io> {
    let number = CHUNKS
        .iter()
        .position(|chunk| chunk.load(Ordering::Relaxed).is_null())?;
    let len = CHUNK_LEN * size_of::<Io>();
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping touches nothing that exists.
    let mapped = unsafe { syscall!(libc::SYS_mmap, 0, len, prot, flags, -1_isize, 0) };
    let chunk = sys::cvt(mapped).ok()? as *mut MaybeUninit<Io>;
    let mut free: Option<&'static Io> = None;
    for i in (0..CHUNK_LEN).rev() {
        let io = Io {
            index: (number * CHUNK_LEN + i) as u32,
            generation: AtomicU32::new(0),
            ticks: [const { AtomicU32::new(0) }; 2],
            hung_up: AtomicBool::new(false),
            state: SpinLock::new(State {
                worker: None,
                fd: -1,
                elsewhere: 0,
                waiters: [const { Queue::new() }; 2],
                handler: None,
                next_free: free,
            }),
        };
        // SAFETY: the mapping has room for CHUNK_LEN entries, suitably aligned, never unmapped.
        free = Some(unsafe { (*chunk.add(i)).write(io) });
    }
    // Release pairs with the Acquire in `find`.
    CHUNKS[number].store(chunk.cast(), Ordering::Release);
    free
}

static FREE: SpinLock<Option<&'static Io>> = SpinLock::new(None);
static CHUNKS: [AtomicPtr<Io>; CHUNKS_MAX] =
    [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS_MAX];
/// Waits in a row on another worker after which a registration follows.
const MOVE_AFTER: u32 = 8;
const CHUNK_LEN: usize = 1024;
const CHUNKS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::Runtime;

    #[test]
    fn a_registration_follows_its_waiters_after_eight_waits_elsewhere() {
        let runtimes = [(); 2].map(|()| Runtime::builder().workers(1).build().expect("a runtime"));
        let (near, far) = UnixStream::pair().expect("a pair");
        let io = Io::acquire().expect("room");
        let (fd, far) = (near.as_raw_fd(), Arc::new(far));
        // Waits once; whether the registration is with the waiter's own worker then.
        let at_home = |runtime: &Runtime| {
            let far = Arc::clone(&far);
            runtime.block_on(move || {
                let seen = io.tick(Dir::Read);
                // Runs once this one waits.
                crate::spawn(move || (&*far).write_all(b"x").expect("room for a byte"));
                assert_eq!(io.wait(fd, Dir::Read, seen, Instant::NEVER), Wait::Ready);
                let own = current().map(TaskRef::worker);
                let home = io.state.lock().worker;
                home.zip(own).is_some_and(|(home, own)| ptr::eq(home, own))
            })
        };
        let [first, second] = &runtimes;
        assert!(at_home(first), "the first to wait registers");
        let moved = (1..=20).position(|_| at_home(second)).map(|at| at + 1);
        assert_eq!(moved, Some(MOVE_AFTER as usize));
        assert!(at_home(second) && !at_home(first));
        io.release();
    }
}
