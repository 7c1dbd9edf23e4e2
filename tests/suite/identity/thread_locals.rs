//! Thread-locals and pthread keys: fresh for every coroutine, ended with it, kept where that is asked for.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rpc_core::{Builder, spawn, yield_now};

use super::c_library::Library;
use super::{all_of, let_others_run, on_one_worker};

thread_local! {
    static COUNT: Cell<u32> = const { Cell::new(0) };
    static NOTES: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static TELLS: RefCell<Option<Tells>> = const { RefCell::new(None) };
}

/// Counts when dropped, after having waited.
struct Tells(Arc<AtomicUsize>);

impl Drop for Tells {
    fn drop(&mut self) {
        yield_now();
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Leaves something in the thread-locals; what was there before.
fn leave_traces() -> (u32, usize) {
    let count = COUNT.get();
    COUNT.set(count + 1);
    NOTES.with_borrow_mut(|notes| notes.push(count));
    (count, NOTES.with_borrow(Vec::len))
}

#[test]
fn a_coroutine_finds_fresh_thread_locals_and_its_own_are_dropped_with_it() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&dropped);
    let found: Vec<_> = on_one_worker(move || {
        let mut found = Vec::new();
        for _ in 0..20 {
            let told = Arc::clone(&told);
            let one = spawn(move || {
                TELLS.set(Some(Tells(told)));
                leave_traces()
            });
            found.push(one.join().unwrap());
            let_others_run();
        }
        found
    });
    assert_eq!(found, vec![(0, 1); 20]);
    assert_eq!(dropped.load(Ordering::Relaxed), 20);
}

#[test]
fn thread_locals_that_are_reused_are_found_by_the_next() {
    let found: Vec<_> = on_one_worker(|| {
        let one = |_| {
            let builder = Builder::new().reuse_thread_locals(true);
            builder.spawn(leave_traces).join().unwrap()
        };
        (0..5).map(one).collect()
    });
    let expected: Vec<_> = (0..5).map(|i| (i, i as usize + 1)).collect();
    assert_eq!(found, expected);
}

#[test]
fn thread_locals_of_many_at_once_are_apart() {
    let counts = on_one_worker(|| {
        all_of(100, |i| {
            move || {
                COUNT.set(i);
                yield_now();
                NOTES.with_borrow_mut(|notes| notes.extend(0..i));
                yield_now();
                (COUNT.get(), NOTES.with_borrow(Vec::len))
            }
        })
    });
    let expected: Vec<_> = (0..100).map(|i| (i, i as usize)).collect();
    assert_eq!(counts, expected);
}

/// What the destructors of keys were called with.
static ENDED: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Takes value 3 round again twice, as 4 and as 5.
extern "C" fn end(value: *mut c_void) {
    yield_now();
    let value = value.addr();
    ENDED.lock().unwrap().push(value);
    if (3..5).contains(&value) {
        let key = AGAIN.load(Ordering::Relaxed) as libc::pthread_key_t;
        set(key, value + 1);
    }
}

static AGAIN: AtomicUsize = AtomicUsize::new(0);

fn key(destructor: Option<unsafe extern "C" fn(*mut c_void)>) -> libc::pthread_key_t {
    let mut key = 0;
    // SAFETY: a place for the key's number.
    let error = unsafe { libc::pthread_key_create(&raw mut key, destructor) };
    assert_eq!(error, 0);
    key
}

fn set(key: libc::pthread_key_t, value: usize) {
    let value = std::ptr::without_provenance::<c_void>(value);
    // SAFETY: a key that was made; values are numbers here.
    assert_eq!(unsafe { libc::pthread_setspecific(key, value) }, 0);
}

fn get(key: libc::pthread_key_t) -> usize {
    // SAFETY: a key that was made.
    unsafe { libc::pthread_getspecific(key) }.addr()
}

#[test]
fn values_of_pthread_keys_end_with_the_coroutine_and_the_next_finds_none() {
    let (found, ended) = on_one_worker(|| {
        let (silent, first, second) = (key(None), key(Some(end)), key(Some(end)));
        AGAIN.store(second as usize, Ordering::Relaxed);
        // Keys past the first block of 32 lie in memory of their own.
        let many: Vec<_> = (0..40).map(|_| key(None)).collect();
        let mut found = Vec::new();
        for _ in 0..3 {
            let many = many.clone();
            let one = spawn(move || {
                let keys = || [silent, first, second].into_iter().chain(many.clone());
                let before: usize = keys().map(get).sum();
                set(silent, 9);
                set(first, 1);
                set(second, 3);
                many.iter().for_each(|key| set(*key, 7));
                let after: usize = keys().map(get).sum();
                (before, after)
            });
            found.push(one.join().unwrap());
            let_others_run();
        }
        for key in [silent, first, second].into_iter().chain(many) {
            // SAFETY: made above, used by nobody any more.
            assert_eq!(unsafe { libc::pthread_key_delete(key) }, 0);
        }
        (found, std::mem::take(&mut *ENDED.lock().unwrap()))
    });
    assert_eq!(found, [(0, 13 + 40 * 7); 3]);
    assert_eq!(ended, [1, 3, 4, 5].repeat(3));
}

#[test]
fn c11_keys_end_with_the_coroutine_as_well() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn count(value: *mut c_void) {
        CALLS.fetch_add(value.addr(), Ordering::Relaxed);
    }
    unsafe extern "C" {
        fn tss_create(key: *mut u32, destructor: extern "C" fn(*mut c_void)) -> i32;
        fn tss_set(key: u32, value: *mut c_void) -> i32;
    }
    on_one_worker(|| {
        let mut key = 0;
        // SAFETY: a place for the key's number.
        assert_eq!(unsafe { tss_create(&raw mut key, count) }, 0);
        let use_it = move || {
            // SAFETY: a key that was made; values are numbers here.
            unsafe { tss_set(key, std::ptr::without_provenance_mut(5)) }
        };
        assert_eq!(all_of(4, |_| use_it), [0; 4]);
        let_others_run();
    });
    assert_eq!(CALLS.load(Ordering::Relaxed), 20);
}

#[test]
fn a_library_loaded_later_finds_its_thread_locals_in_every_coroutine() {
    type Get = extern "C" fn() -> i32;
    type Set = extern "C" fn(i32);
    on_one_worker(|| {
        let functions: Arc<Mutex<Vec<(Get, Set)>>> = Arc::default();
        // Parked before the library is there, and a thread that exists already.
        let visit = |functions: Arc<Mutex<Vec<(Get, Set)>>>, mark: i32| {
            move || {
                while functions.lock().unwrap().len() < 2 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                let functions = functions.lock().unwrap().clone();
                let before: Vec<_> = functions.iter().map(|(get, _)| get()).collect();
                functions.iter().for_each(|(_, set)| set(mark));
                yield_now();
                let after: Vec<_> = functions.iter().map(|(get, _)| get()).collect();
                (before, after)
            }
        };
        let thread = std::thread::spawn(visit(Arc::clone(&functions), -1));
        let parked: Vec<_> = (0..10)
            .map(|i| spawn(visit(Arc::clone(&functions), i)))
            .collect();
        let_others_run();
        let loader = Arc::clone(&functions);
        let loaded = spawn(move || {
            for model in ["initial-exec", "global-dynamic"] {
                let flag = format!("-DMODEL=\"{model}\"");
                let library = Library::build_with("thread_local.c", &[flag]);
                // SAFETY: as in thread_local.c.
                let pair = unsafe { (library.function("get"), library.function("set")) };
                loader.lock().unwrap().push(pair);
            }
        });
        loaded.join().unwrap();
        let expect = |mark: i32| (vec![42; 2], vec![mark; 2]);
        for (i, parked) in parked.into_iter().enumerate() {
            assert_eq!(parked.join().unwrap(), expect(i as i32));
        }
        assert_eq!(thread.join().unwrap(), expect(-1));
        let later = spawn(visit(Arc::clone(&functions), 77));
        assert_eq!(later.join().unwrap(), expect(77));
    });
}
