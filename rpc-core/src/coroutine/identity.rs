//! A thread's identity without a kernel thread: the donor block.
//!
//! glibc makes the block itself. `pthread_create` runs on our stack slot; the new kernel thread notes
//! where it stands and leaves by a raw `exit` system call. The thread control block, its thread-locals
//! and the stack stay, and glibc goes on believing in the thread: fork, `setuid`, `dlopen` of
//! libraries with static TLS, robust mutexes and `pthread_getattr_np` find what they expect.
//!
//! What we change in a block afterwards, and why:
//! - the thread id becomes a number above every real one, so that recursive and error-checking
//!   mutexes tell coroutines apart;
//! - rseq's `cpu_id` becomes −2 ("registration failed"), so that `sched_getcpu` asks the kernel;
//! - malloc's per-thread words (tcache, arena) are lent by the OS thread at every switch: they are
//!   found at start by running malloc on a fresh block and looking at what changed.
//!
//! The idea of switching the thread pointer is Caladan's (Fried et al., OSDI 2020).

use std::ffi::{CStr, c_void};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
#[cfg(feature = "hooks")]
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::robust;
use super::stack::{Class, Slot};
use crate::base::sys::{self, syscall};

/// Why coroutines cannot have thread identities of their own in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityError(String);

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "coroutines cannot have their own thread identity: {}",
            self.0
        )
    }
}

impl std::error::Error for IdentityError {}

/// What the probe found out about this process's libc. One per process, never changes.
pub(crate) struct Facts {
    /// Offset of the kernel's thread id in `struct pthread`.
    tid_offset: usize,
    /// Offset of the rseq area from the thread pointer; `None` before glibc 2.35.
    rseq_offset: Option<isize>,
    /// malloc's per-thread words, as offsets from the thread pointer. The same twice if there is one.
    malloc_words: [isize; 2],
    /// Words of libc's thread-locals that a starting thread sets by hand.
    start_words: Vec<(isize, StartWord)>,
    /// Offset of the list of robust mutexes that a thread holds from the thread pointer; `None` where the
    /// kernel knows none.
    robust_offset: Option<isize>,
    /// libc's table of pthread keys.
    keys: &'static [Key; KEYS_MAX],
    call_tls_dtors: extern "C" fn(),
    allocate_tls: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    deallocate_tls: unsafe extern "C" fn(*mut c_void, bool),
}

#[derive(Clone, Copy)]
enum StartWord {
    /// The same in every thread (locale tables).
    Same(usize),
    /// A pointer into the thread's own control block, as an offset from the thread pointer.
    OwnBlock(isize),
}

impl Facts {
    /// Probes the process once; later calls return the same answer.
    pub(crate) fn get() -> Result<&'static Self, IdentityError> {
        FACTS.get_or_init(probe).as_ref().map_err(Clone::clone)
    }

    /// Copies malloc's words from one block to another.
    ///
    /// # Safety
    /// - Both are thread pointers of live blocks; the words of `from` are not used until lent back.
    #[inline(always)]
    pub(super) unsafe fn lend_malloc(&self, from: usize, to: usize) {
        for offset in self.malloc_words {
            let source = from.wrapping_add_signed(offset) as *const usize;
            let target = to.wrapping_add_signed(offset) as *mut usize;
            // SAFETY: the probe found both words inside libc's thread-locals.
            unsafe { target.write(source.read()) };
        }
    }

    /// Where the first of malloc's words lies in a block.
    #[inline(always)]
    pub(super) fn malloc_word(&self, thread_pointer: usize) -> usize {
        thread_pointer.wrapping_add_signed(self.malloc_words[0])
    }

    /// What [`Facts::get`] has found, if it was called.
    #[cfg(feature = "hooks")]
    pub(crate) fn known() -> Option<&'static Self> {
        FACTS.get()?.as_ref().ok()
    }

    /// Ends what belongs to the calling coroutine as a thread: its thread-locals, the values of its pthread
    /// keys, its hold on robust mutexes.
    pub(crate) fn end_thread(&self) {
        (self.call_tls_dtors)();
        self.end_key_values();
        if let Some(offset) = self.robust_offset {
            // SAFETY: no arguments.
            let own = self.tid(unsafe { libc::pthread_self() } as usize);
            let head = thread_pointer().wrapping_add_signed(offset);
            // SAFETY: the probe found the list there, and it is the calling coroutine's.
            unsafe { robust::abandon(head, own.load(Ordering::Relaxed) as u32) };
        }
    }

    /// Destructors may set values again: glibc's number of rounds, then what is left is forgotten.
    fn end_key_values(&self) {
        for round in 0..=KEY_ROUNDS {
            let mut left = false;
            // Keys are handed out from the lowest on: after one that never was in use there is none.
            let used = self.keys.iter().take_while(|k| k.uses() > 0);
            for (key, slot) in used.enumerate() {
                let key = key as libc::pthread_key_t;
                // SAFETY: glibc answers null for keys that are not in use.
                let value = unsafe { libc::pthread_getspecific(key) };
                if value.is_null() {
                    continue;
                }
                // SAFETY: as above.
                unsafe { libc::pthread_setspecific(key, std::ptr::null()) };
                if let (Some(destroy), true) = (slot.destructor(), round < KEY_ROUNDS) {
                    // SAFETY: what the program gave `pthread_key_create` for such values.
                    unsafe { destroy(value) };
                    left = true;
                }
            }
            if !left {
                return;
            }
        }
    }

    /// The id that a thread's control block holds; 0 once the thread has ended.
    #[cfg(feature = "hooks")]
    pub(crate) fn tid_of(&self, pthread: usize) -> i32 {
        self.tid(pthread).load(Ordering::Relaxed)
    }

    /// Whether a live control block is one of ours.
    #[cfg(feature = "hooks")]
    pub(crate) fn is_block(&self, pthread: usize) -> bool {
        self.tid_of(pthread) >= FIRST_TID
    }

    /// Runs `f` while a control block holds another id.
    ///
    /// # Safety
    /// - The block is the caller's own, and `f` takes no lock that knows its owner by this id.
    #[cfg(feature = "hooks")]
    pub(crate) unsafe fn with_tid<T>(&self, pthread: usize, tid: i32, f: impl FnOnce() -> T) -> T {
        let place = self.tid(pthread);
        let own = place.swap(tid, Ordering::Relaxed);
        let value = f();
        place.store(own, Ordering::Relaxed);
        value
    }

    fn tid(&self, pthread: usize) -> &AtomicI32 {
        // SAFETY: a handle of a thread that has not been joined: its control block is there.
        unsafe { &*((pthread + self.tid_offset) as *const AtomicI32) }
    }
}

/// One of glibc's pthread keys.
#[repr(C)]
struct Key {
    /// Odd while in use; 0 = never was.
    uses: AtomicUsize,
    /// 0 = none.
    destructor: AtomicUsize,
}

impl Key {
    fn uses(&self) -> usize {
        self.uses.load(Ordering::Acquire)
    }

    fn destructor(&self) -> Option<Destructor> {
        let address = self.destructor.load(Ordering::Relaxed);
        // SAFETY: null or a function that was given to `pthread_key_create`.
        unsafe { std::mem::transmute::<usize, Option<Destructor>>(address) }
    }
}

type Destructor = unsafe extern "C" fn(*mut c_void);

static FACTS: OnceLock<Result<Facts, IdentityError>> = OnceLock::new();

/// One thread control block with its thread-locals, at the high end of a stack slot.
pub(crate) struct Block {
    thread_pointer: usize,
    /// glibc's handle of the thread: the address of its control block.
    pthread: usize,
    /// Where the donor's frames began: everything below is free.
    stack_base: usize,
}

impl Block {
    /// Lets glibc make a block on each of the `stacks`, given by lowest address and length. All donors
    /// run at once: 20 µs each, alone 27 µs of processor time and twice that of waiting.
    ///
    /// As many as could be made, of the first stacks, and the error of `pthread_create` that ended it.
    pub(super) fn make(facts: &Facts, stacks: &[(usize, usize)]) -> (Vec<Self>, Option<io::Error>) {
        let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut notes: Vec<Note> = stacks.iter().map(|_| Note::default()).collect();
        let (threads, error) = create_threads(stacks, &mut notes);
        let blocks = threads.iter().zip(&notes).map(|(pthread, note)| {
            await_end(*pthread + facts.tid_offset);
            // SAFETY: the donor wrote it and is gone.
            let note = unsafe { std::ptr::read_volatile(note) };
            Self::adopt(facts, *pthread, &note)
        });
        (blocks.collect(), error)
    }

    /// The block of a kernel thread that has come and gone.
    fn adopt(facts: &Facts, pthread: usize, note: &Note) -> Self {
        let tid = (pthread + facts.tid_offset) as *mut i32;
        // SAFETY: the kernel thread is gone, and nobody else knows this block yet.
        unsafe { tid.write(next_tid()) };
        if let Some(offset) = facts.rseq_offset {
            let cpu_id = note.thread_pointer.wrapping_add_signed(offset) + RSEQ_CPU_ID;
            // SAFETY: glibc reserves the rseq area in every block.
            unsafe { (cpu_id as *mut i32).write(RSEQ_REGISTRATION_FAILED) };
        }
        Self {
            thread_pointer: note.thread_pointer,
            pthread,
            // 256 bytes below the donor's frame: its red zone and whatever glibc keeps beside it.
            stack_base: (note.stack_pointer - 256) & !15,
        }
    }

    /// Ends the thread for glibc as well, which frees what it holds elsewhere for the block; the memory
    /// of the block itself is the caller's again (0.2 µs).
    ///
    /// # Safety
    /// - The block is not current anywhere, its destructors have run, and it is not used again.
    pub(super) unsafe fn end(self, facts: &Facts) {
        let tid = (self.pthread + facts.tid_offset) as *mut i32;
        // SAFETY: the caller's promise. Zero is what the kernel leaves of a thread that has ended.
        unsafe { tid.write(0) };
        // SAFETY: made by pthread_create, joined once. Returns at once: the thread has ended.
        unsafe { libc::pthread_join(self.pthread as libc::pthread_t, std::ptr::null_mut()) };
    }

    pub(super) fn thread_pointer(&self) -> usize {
        self.thread_pointer
    }

    pub(super) fn stack_base(&self) -> usize {
        self.stack_base
    }

    /// Thread-locals as in a new thread.
    ///
    /// # Safety
    /// - The block is not current anywhere and its destructors have run.
    pub(super) unsafe fn renew(&self, facts: &Facts) {
        let block = self.thread_pointer as *mut c_void;
        // SAFETY: glibc's own pair for reusing a cached stack; `false` keeps the memory.
        unsafe { (facts.deallocate_tls)(block, false) };
        // SAFETY: as above.
        unsafe { (facts.allocate_tls)(block) };
        for (offset, word) in &facts.start_words {
            let value = match word {
                StartWord::Same(value) => *value,
                StartWord::OwnBlock(offset) => self.thread_pointer.wrapping_add_signed(*offset),
            };
            let place = self.thread_pointer.wrapping_add_signed(*offset) as *mut usize;
            // SAFETY: the offset lies in libc's thread-locals, which the block has.
            unsafe { place.write(value) };
        }
    }
}

/// Held while a donor lives. Taken on a worker's own stack, or where no coroutine waits while it holds it.
static MAKING: Mutex<()> = Mutex::new(());

/// Keeps blocks from being made, for what must not meet a donor.
#[cfg(feature = "hooks")]
pub(crate) fn stop_making() -> MutexGuard<'static, ()> {
    MAKING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `f` on the caller's stack as the thread whose thread pointer `thread` is.
///
/// # Safety
/// - It is that of the thread that runs the caller, and `f` neither parks nor unwinds.
#[cfg(feature = "hooks")]
#[inline(never)]
pub(crate) unsafe fn as_thread(thread: usize, f: impl FnOnce()) {
    let own = thread_pointer();
    // SAFETY: the caller's promise; C-3: nothing in between knows thread-locals but `f`.
    unsafe { set_thread_pointer(thread) };
    f();
    // SAFETY: as it was.
    unsafe { set_thread_pointer(own) };
}

/// Where a donor thread stood.
#[derive(Default)]
#[repr(C)]
struct Note {
    thread_pointer: usize,
    stack_pointer: usize,
}

/// Waits until the kernel has cleared the thread id at `tid`: the thread has left.
fn await_end(tid: usize) {
    let tid = tid as *const i32;
    loop {
        // SAFETY: the word is in a control block that stays mapped.
        let left = unsafe { tid.read_volatile() };
        if left == 0 {
            return;
        }
        // Not PRIVATE: the kernel's wake at exit is a shared one.
        // SAFETY: as above.
        unsafe { syscall!(libc::SYS_futex, tid, libc::FUTEX_WAIT, left, 0) };
    }
}

/// Starts a donor on each stack with all signals blocked: no handler of the program may run on them.
/// The handles of those that could be started, and why there are no more.
fn create_threads(
    stacks: &[(usize, usize)],
    notes: &mut [Note],
) -> (Vec<usize>, Option<io::Error>) {
    let mut threads = Vec::with_capacity(stacks.len());
    let mut attr = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut old = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: plain libc calls on local structures.
    unsafe {
        libc::pthread_attr_init(attr.as_mut_ptr());
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr());
    }
    let mut error = 0;
    for ((low, len), note) in stacks.iter().zip(notes) {
        let mut thread: libc::pthread_t = 0;
        // SAFETY: the stack is a fresh slot; the note stays until the thread has left.
        error = unsafe {
            match libc::pthread_attr_setstack(attr.as_mut_ptr(), *low as *mut c_void, *len) {
                0 => {
                    let argument = std::ptr::from_mut(note).cast();
                    libc::pthread_create(&raw mut thread, attr.as_ptr(), donor, argument)
                }
                error => error,
            }
        };
        if error != 0 {
            break;
        }
        threads.push(thread as usize);
    }
    // SAFETY: as above.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut());
        libc::pthread_attr_destroy(attr.as_mut_ptr());
    }
    let error = (error != 0).then(|| {
        let cause = io::Error::from_raw_os_error(error);
        let text = format!("a coroutine's thread block cannot be made: {cause}");
        io::Error::new(cause.kind(), text)
    });
    (threads, error)
}

/// Notes where it stands and leaves without glibc's knowledge.
extern "C" fn donor(argument: *mut c_void) -> *mut c_void {
    let note = argument.cast::<Note>();
    let here = Note {
        thread_pointer: thread_pointer(),
        stack_pointer: stack_pointer(),
    };
    // SAFETY: the maker waits for this thread's end and keeps the note until then.
    unsafe { note.write(here) };
    // SAFETY: ends this kernel thread alone; its stack and block are the maker's from now on.
    unsafe { syscall!(libc::SYS_exit, 0) };
    std::ptr::null_mut()
}

fn probe() -> Result<Facts, IdentityError> {
    check_platform()?;
    let tid = symbol::<[u32; 3]>(c"_thread_db_pthread_tid")?;
    // SAFETY: libc's descriptor for debuggers: size in bits, count, offset.
    let tid_offset = unsafe { (*tid)[2] } as usize;
    // SAFETY: reads the word that the descriptor names, in our own control block.
    let noted = unsafe { ((libc::pthread_self() as usize + tid_offset) as *const i32).read() };
    if noted != sys::gettid() {
        return fail("libc keeps the thread id where its own descriptor does not say");
    }
    let rseq_offset = symbol::<isize>(c"__rseq_offset").ok();
    // SAFETY: an exported constant of glibc 2.35 and later.
    let rseq_offset = rseq_offset.map(|offset| unsafe { *offset });
    let keys = symbol::<[Key; KEYS_MAX]>(c"__pthread_keys")?;
    // SAFETY: libc's own table, there for debuggers.
    let keys = unsafe { &*keys };
    check_keys(keys)?;
    let call_tls_dtors = symbol::<c_void>(c"__call_tls_dtors")?;
    let allocate_tls = symbol::<c_void>(c"_dl_allocate_tls")?;
    let deallocate_tls = symbol::<c_void>(c"_dl_deallocate_tls")?;
    // SAFETY: glibc 2.34 and later export these functions with these signatures.
    let mut facts = unsafe {
        Facts {
            tid_offset,
            rseq_offset,
            malloc_words: [0; 2],
            start_words: Vec::new(),
            robust_offset: robust::offset().filter(|o| o.unsigned_abs() < CONTROL_BLOCK_REACH),
            keys,
            call_tls_dtors: std::mem::transmute::<*const c_void, extern "C" fn()>(call_tls_dtors),
            allocate_tls: std::mem::transmute::<
                *const c_void,
                unsafe extern "C" fn(*mut c_void) -> *mut c_void,
            >(allocate_tls),
            deallocate_tls: std::mem::transmute::<
                *const c_void,
                unsafe extern "C" fn(*mut c_void, bool),
            >(deallocate_tls),
        }
    };
    probe_block(&mut facts)?;
    Ok(facts)
}

/// Makes a key and looks whether the table says so.
fn check_keys(keys: &[Key; KEYS_MAX]) -> Result<(), IdentityError> {
    extern "C" fn destroy(_: *mut c_void) {}
    let mut key = 0;
    // SAFETY: a place for the key's number, and a destructor.
    if unsafe { libc::pthread_key_create(&raw mut key, Some(destroy)) } != 0 {
        return fail("libc has no pthread key left");
    }
    let slot = &keys[key as usize];
    let found = slot.uses() % 2 == 1
        && slot.destructor().map(|d| d as usize) == Some(destroy as *const () as usize);
    // SAFETY: made just now, used by nobody.
    unsafe { libc::pthread_key_delete(key) };
    if !found || slot.uses() % 2 == 1 {
        return fail("libc keeps pthread keys where its own table does not say");
    }
    Ok(())
}

/// Makes one block and watches what starting, malloc and renewal do to libc's thread-locals.
fn probe_block(facts: &mut Facts) -> Result<(), IdentityError> {
    let area = libc_area()?;
    let refused = |e: io::Error| IdentityError(e.to_string());
    let slot = Slot::take(Class::of(PROBE_STACK)).map_err(refused)?;
    let block = match Block::make(facts, &[(slot.limit(), slot.len())]) {
        (mut blocks, None) => blocks.remove(0),
        (_, Some(error)) => return Err(refused(error)),
    };
    let tp = block.thread_pointer;
    if cfg!(target_arch = "x86_64") {
        // SAFETY: the header word of x86-64's control block that says "more than one thread".
        let multiple = unsafe { ((tp + MULTIPLE_THREADS) as *const i32).read() };
        if multiple != 1 {
            return fail("libc does not mark new threads as one of several; malloc would not lock");
        }
    }
    let started = area.words(tp);
    facts.robust_offset = facts.robust_offset.filter(|offset| {
        // SAFETY: within the control block.
        unsafe { robust::is_empty(tp.wrapping_add_signed(*offset)) }
    });
    let own = thread_pointer();
    // SAFETY: the block is complete; malloc and free are all that runs on it, on our stack.
    unsafe { malloc_under(tp, own) };
    let used = area.words(tp);
    let changed: Vec<isize> = area
        .changes(&started, &used)
        .map(|(offset, ..)| offset)
        .collect();
    facts.malloc_words = match changed[..] {
        [only] => [only, only],
        [first, second] => [first, second],
        _ => return fail("malloc's per-thread words were not found in libc's thread-locals"),
    };
    // The words are now this thread's spare cache and arena; leave them to the probe block for good.
    // SAFETY: the block is not current.
    unsafe { block.renew(facts) };
    let renewed = area.words(tp);
    facts.start_words = area
        .changes(&renewed, &started)
        .map(|(offset, _, value)| (offset, start_word(value, tp)))
        .collect();
    Ok(())
}

/// Whether a word that a starting thread sets points into its own block.
fn start_word(value: usize, tp: usize) -> StartWord {
    let offset = value.wrapping_sub(tp) as isize;
    if offset.unsigned_abs() < CONTROL_BLOCK_REACH {
        StartWord::OwnBlock(offset)
    } else {
        StartWord::Same(value)
    }
}

/// One malloc and free with the thread pointer at `tp`, then back to `own`.
///
/// # Safety
/// - `tp` is a complete block that nobody runs on; `own` is the calling thread's.
#[inline(never)]
unsafe fn malloc_under(tp: usize, own: usize) {
    // SAFETY: C-3: nothing between the two switches but malloc and free touches a thread-local.
    unsafe {
        set_thread_pointer(tp);
        let memory = std::hint::black_box(libc::malloc(std::hint::black_box(64)));
        libc::free(std::hint::black_box(memory));
        set_thread_pointer(own);
    }
}

/// libc's thread-locals: where they lie from the thread pointer, and how long they are.
#[derive(Clone, Copy)]
struct Area {
    offset: isize,
    words: usize,
}

impl Area {
    fn words(self, tp: usize) -> Vec<usize> {
        let first = tp.wrapping_add_signed(self.offset) as *const usize;
        // SAFETY: every block holds libc's thread-locals at this offset.
        (0..self.words)
            .map(|i| unsafe { first.add(i).read_volatile() })
            .collect()
    }

    /// (offset from the thread pointer, before, after) of each word that differs.
    fn changes<'a>(
        self,
        before: &'a [usize],
        after: &'a [usize],
    ) -> impl Iterator<Item = (isize, usize, usize)> + 'a {
        let place = move |i: usize| self.offset + (i * size_of::<usize>()) as isize;
        let pairs = before.iter().zip(after).enumerate();
        pairs
            .filter(|(_, (b, a))| b != a)
            .map(move |(i, (b, a))| (place(i), *b, *a))
    }
}

fn libc_area() -> Result<Area, IdentityError> {
    extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, out: *mut c_void) -> i32 {
        // SAFETY: the loader passes a valid description and our own `out`.
        let (info, out) = unsafe { (&*info, &mut *out.cast::<Option<Area>>()) };
        // SAFETY: the name is a C string while the loader iterates.
        let name = unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes();
        let is_libc = name.windows(8).any(|w| w == b"/libc.so");
        if !is_libc || info.dlpi_tls_data.is_null() {
            return 0;
        }
        // SAFETY: the loader's own table of program headers.
        let headers =
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        if let Some(tls) = headers.iter().find(|h| h.p_type == libc::PT_TLS) {
            let offset = (info.dlpi_tls_data as usize).wrapping_sub(thread_pointer()) as isize;
            let words = tls.p_memsz as usize / size_of::<usize>();
            *out = Some(Area { offset, words });
        }
        0
    }
    let mut area: Option<Area> = None;
    // SAFETY: `visit` gets back the pointer given here, valid during the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut area).cast()) };
    area.ok_or_else(|| IdentityError("libc is linked statically or has no thread-locals".into()))
}

fn check_platform() -> Result<(), IdentityError> {
    if !cfg!(target_env = "gnu") {
        return fail("it needs glibc; this program is built for another libc");
    }
    if cfg!(target_arch = "x86_64") {
        // SAFETY: reads a word the kernel passed at start.
        let features = unsafe { libc::getauxval(libc::AT_HWCAP2) };
        if features & HWCAP2_FSGSBASE == 0 {
            return fail(
                "the processor or kernel lacks FSGSBASE (Linux 5.9 on Ivy Bridge or later)",
            );
        }
    }
    let preload = std::env::var("LD_PRELOAD").unwrap_or_default();
    if preload.contains("vgpreload") {
        return fail("valgrind does not follow a thread pointer that the program sets itself");
    }
    for runtime in [c"__asan_init", c"__tsan_init", c"__msan_init"] {
        if symbol::<c_void>(runtime).is_ok() {
            return fail(
                "sanitizers keep per-thread state that does not follow the thread pointer",
            );
        }
    }
    Ok(())
}

fn symbol<T>(name: &CStr) -> Result<*const T, IdentityError> {
    // SAFETY: looks a name up in the libraries already loaded.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if found.is_null() {
        let name = name.to_string_lossy();
        return fail(&format!(
            "libc does not export {name} (glibc 2.34 or later is needed)"
        ));
    }
    Ok(found as *const T)
}

fn fail<T>(reason: &str) -> Result<T, IdentityError> {
    Err(IdentityError(reason.to_owned()))
}

/// A thread id that no kernel thread can have. Wraps after half a billion blocks.
fn next_tid() -> i32 {
    static NEXT: AtomicI32 = AtomicI32::new(FIRST_TID);
    let tid = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(tid < LAST_TID, "more coroutine stacks than thread ids");
    tid
}

/// The calling thread's (or coroutine's) thread pointer.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: the control block's first word is its own address (x86-64 psABI, TLS variant II).
    unsafe { std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, preserves_flags)) };
    pointer
}

/// # Safety
/// - `pointer` is a complete block, and the caller touches no thread-local that it must not have.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn set_thread_pointer(pointer: usize) {
    // SAFETY: the caller's promise. Not `nomem`: thread-locals must not be cached across it.
    unsafe { std::arch::asm!("wrfsbase {}", in(reg) pointer, options(nostack, preserves_flags)) };
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn stack_pointer() -> usize {
    let pointer: usize;
    // SAFETY: reads a register.
    unsafe { std::arch::asm!("mov {}, rsp", out(reg) pointer, options(nostack, preserves_flags)) };
    pointer
}

/// The calling thread's (or coroutine's) thread pointer.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: reads a register.
    unsafe { std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack)) };
    pointer
}

/// # Safety
/// - `pointer` is a complete block, and the caller touches no thread-local that it must not have.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(super) unsafe fn set_thread_pointer(pointer: usize) {
    // SAFETY: the caller's promise. Not `nomem`: thread-locals must not be cached across it.
    unsafe { std::arch::asm!("msr tpidr_el0, {}", in(reg) pointer, options(nostack)) };
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn stack_pointer() -> usize {
    let pointer: usize;
    // SAFETY: reads a register.
    unsafe { std::arch::asm!("mov {}, sp", out(reg) pointer, options(nostack)) };
    pointer
}

/// Above PID_MAX_LIMIT (2^22), below FUTEX_TID_MASK (2^30).
const FIRST_TID: i32 = (1 << 22) + 1;
const LAST_TID: i32 = 1 << 30;
/// `struct rseq.cpu_id` and the value that means "never registered" (linux/rseq.h).
const RSEQ_CPU_ID: usize = 4;
const RSEQ_REGISTRATION_FAILED: i32 = -2;
/// `tcbhead_t.multiple_threads` of x86-64.
const MULTIPLE_THREADS: usize = 0x18;
/// AT_HWCAP2 bit 1 (arch/x86/include/uapi/asm/hwcap2.h).
const HWCAP2_FSGSBASE: libc::c_ulong = 1 << 1;
/// Larger than `struct pthread` in any glibc.
const CONTROL_BLOCK_REACH: usize = 16 << 10;
/// `PTHREAD_KEYS_MAX` and `PTHREAD_DESTRUCTOR_ITERATIONS` of glibc.
const KEYS_MAX: usize = 1024;
const KEY_ROUNDS: usize = 4;
const PROBE_STACK: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_finds_two_malloc_words_here() {
        let facts = Facts::get().unwrap();
        assert_ne!(facts.malloc_words[0], facts.malloc_words[1]);
        assert!(
            !facts.start_words.is_empty(),
            "ctype tables are set at thread start"
        );
    }

    #[test]
    fn a_donor_leaves_no_kernel_thread_behind() {
        let facts = Facts::get().unwrap();
        let slots: Vec<Slot> = (0..5)
            .map(|_| Slot::take(Class::of(64 << 10)).unwrap())
            .collect();
        let stacks: Vec<_> = slots.iter().map(|s| (s.limit(), s.len())).collect();
        let (blocks, error) = Block::make(facts, &stacks);
        assert!(error.is_none() && blocks.len() == stacks.len());
        for (slot, block) in slots.iter().zip(blocks) {
            let within = slot.limit()..slot.end();
            assert!(within.contains(&block.stack_base()));
            assert!(within.contains(&block.thread_pointer()));
            // SAFETY: nothing ever ran on it.
            unsafe { block.end(facts) };
        }
    }
}
