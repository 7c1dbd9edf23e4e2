//! Shared libraries in C, built by the test: what they call is ours, under whichever version they ask for.

use std::ffi::CString;
use std::path::Path;
use std::process::Command;

use rpc_core::yield_now;

use super::{all_of, on_one_worker};

/// A loaded library; stays loaded.
#[derive(Clone, Copy)]
pub(super) struct Library(*mut libc::c_void);

// SAFETY: a handle of the loader's, which any thread may use.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// Compiles `source`, a file of this folder, with the system's C compiler, and loads the result.
    pub(super) fn build(source: &str) -> Self {
        Self::build_with(source, &[])
    }

    /// [`Library::build`] with more arguments for the compiler.
    pub(super) fn build_with(source: &str, arguments: &[String]) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("suite/identity");
        let built = tempfile::tempdir().unwrap();
        let path = built.path().join("library.so");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let mut command = Command::new(&compiler);
        command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror"]);
        command.args(arguments).arg("-o");
        let status = command.arg(&path).arg(folder.join(source)).status();
        let status = status.unwrap_or_else(|error| {
            panic!("no C compiler: {compiler} cannot be run ({error}); install one or set CC")
        });
        assert!(status.success(), "{compiler} cannot build {source}");
        let name = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: a library of ours without constructors.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null(), "{source} cannot be loaded");
        Self(handle)
    }

    /// The address of a function.
    ///
    /// # Safety
    /// - `F` is the function's type, a function pointer.
    pub(super) unsafe fn function<F: Copy>(self, name: &str) -> F {
        assert_eq!(size_of::<F>(), size_of::<usize>());
        let symbol = CString::new(name).unwrap();
        // SAFETY: a handle that stays open.
        let address = unsafe { libc::dlsym(self.0, symbol.as_ptr()) };
        assert!(!address.is_null(), "{name} is not in the library");
        // SAFETY: the caller's promise.
        unsafe { std::mem::transmute_copy(&address) }
    }
}

extern "C" fn pause() {
    yield_now();
}

#[test]
fn a_library_locked_by_static_initialisers_waits_for_the_coroutine_alone() {
    let library = Library::build("library.c");
    // SAFETY: as in library.c, here and below.
    let add = unsafe { library.function::<extern "C" fn(extern "C" fn()) -> i32>("add_under_all") };
    // SAFETY: as above.
    let sum = unsafe { library.function::<extern "C" fn() -> i64>("sum_so_far") };
    // SAFETY: as above.
    let table =
        unsafe { library.function::<extern "C" fn(i32, extern "C" fn()) -> i32>("read_or_write") };
    on_one_worker(move || {
        let failed = all_of(10, |_| move || (0..10).map(|_| add(pause)).sum::<i32>());
        assert_eq!((failed, sum()), (vec![0; 10], 300));
        let failed = all_of(12, |me| {
            move || {
                (0..10)
                    .map(|_| table(i32::from(me % 4 == 0), pause))
                    .sum::<i32>()
            }
        });
        assert_eq!(failed, [0; 12]);
    });
}

#[test]
fn c11_threads_and_pthread_conditions_of_a_library_take_turns() {
    for function in ["take_turns", "take_turns_c11"] {
        let library = Library::build("library.c");
        // SAFETY: as in library.c.
        let turns = unsafe { library.function::<extern "C" fn(i32, i32, i32) -> i32>(function) };
        on_one_worker(move || {
            let thread = std::thread::spawn(move || turns(8, 9, 20));
            let failed = all_of(8, |me| move || turns(me as i32, 9, 20));
            assert_eq!((failed, thread.join().unwrap()), (vec![0; 8], 0));
        });
    }
}
