//! Signals: what a handler may count on, masks of coroutines, waiting for a signal.
//!
//! A test whose signals must be blocked in every thread runs in a child: this binary again, with the mask
//! set before it starts.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use libc::{c_int, siginfo_t, sigset_t};
use rpc_core::{spawn, yield_now};

use super::{Object, in_millis, let_others_run, on_one_worker};

fn signal(number: c_int) -> c_int {
    // Numbers of their own for the tests that run at once.
    libc::SIGRTMIN() + number
}

fn set_of(signals: &[c_int]) -> sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: emptied before use.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

fn raise(signal: c_int) {
    // SAFETY: the caller has a handler for it.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

fn install(number: c_int, handler: usize, flags: c_int) -> libc::sigaction {
    // SAFETY: all-zero is a valid action, overwritten or filled in.
    let (mut new, mut old): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    new.sa_sigaction = handler;
    new.sa_flags = flags;
    // SAFETY: both live; the handlers of these tests call what handlers may call.
    let result = unsafe { libc::sigaction(number, &raw const new, &raw mut old) };
    assert_eq!(result, 0);
    old
}

#[test]
fn nothing_parks_in_a_handler() {
    static OTHERS: AtomicUsize = AtomicUsize::new(0);
    static DURING: AtomicUsize = AtomicUsize::new(usize::MAX);
    extern "C" fn handler(_: c_int) {
        let before = OTHERS.load(Ordering::SeqCst);
        // SAFETY: both may be called by handlers.
        unsafe {
            libc::usleep(2_000);
            libc::poll(std::ptr::null_mut(), 0, 1);
        }
        DURING.store(OTHERS.load(Ordering::SeqCst) - before, Ordering::SeqCst);
    }
    on_one_worker(|| {
        install(signal(2), handler as *const () as usize, 0);
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let busy = spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                OTHERS.fetch_add(1, Ordering::SeqCst);
                yield_now();
            }
        });
        let_others_run();
        raise(signal(2));
        let before = OTHERS.load(Ordering::SeqCst);
        // SAFETY: a number.
        unsafe { libc::usleep(2_000) };
        assert!(
            OTHERS.load(Ordering::SeqCst) > before,
            "outside the handler a sleep parks again"
        );
        stop.store(true, Ordering::Relaxed);
        busy.join().unwrap();
    });
    assert_eq!(DURING.load(Ordering::SeqCst), 0);
}

#[test]
fn the_program_sees_its_own_handlers() {
    static INFORMED: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn plain(_: c_int) {}
    extern "C" fn informed(number: c_int, info: *mut siginfo_t, _: *mut libc::c_void) {
        // SAFETY: filled by the kernel for handlers with SA_SIGINFO.
        let same = unsafe { (*info).si_signo } == number;
        INFORMED.fetch_add(usize::from(same), Ordering::SeqCst);
    }
    let [plain, informed] = [plain as *const () as usize, informed as *const () as usize];
    let number = signal(3);
    assert_eq!(install(number, plain, 0).sa_sigaction, libc::SIG_DFL);
    let old = install(number, informed, libc::SA_SIGINFO);
    assert_eq!(
        (old.sa_sigaction, old.sa_flags & libc::SA_SIGINFO),
        (plain, 0)
    );
    raise(number);
    assert_eq!(INFORMED.load(Ordering::SeqCst), 1);
    let old = install(number, libc::SIG_IGN, 0);
    assert_eq!(old.sa_sigaction, informed);
    assert_ne!(old.sa_flags & libc::SA_SIGINFO, 0);
    // SAFETY: a handler that does nothing, here and below.
    assert_eq!(unsafe { libc::signal(number, plain) }, libc::SIG_IGN);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::signal(number, libc::SIG_DFL) }, plain);
    // SAFETY: as above; there is no such signal.
    assert_eq!(unsafe { libc::signal(4096, plain) }, libc::SIG_ERR);
    assert_eq!(
        std::io::Error::last_os_error().raw_os_error(),
        Some(libc::EINVAL)
    );
}

#[test]
fn a_semaphore_posted_by_a_handler_wakes_a_coroutine() {
    static SEMAPHORE: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn post(_: c_int) {
        let semaphore = SEMAPHORE.load(Ordering::SeqCst);
        // SAFETY: initialised before the handler was installed.
        unsafe { libc::sem_post(std::ptr::with_exposed_provenance_mut(semaphore)) };
    }
    on_one_worker(|| {
        let semaphore: Object<libc::sem_t> = Object::zeroed();
        // SAFETY: initialised first, here and below.
        assert_eq!(unsafe { libc::sem_init(semaphore.get(), 0, 0) }, 0);
        SEMAPHORE.store(semaphore.get().expose_provenance(), Ordering::SeqCst);
        install(signal(4), post as *const () as usize, 0);
        let waiters: Vec<_> = (0..5)
            .map(|_| {
                spawn(move || {
                    // SAFETY: as above.
                    (0..20).for_each(|_| assert_eq!(unsafe { libc::sem_wait(semaphore.get()) }, 0));
                })
            })
            .collect();
        for i in 0..100 {
            raise(signal(4));
            if i % 3 == 0 {
                yield_now();
            }
        }
        waiters.into_iter().for_each(|w| w.join().unwrap());
    });
}

/// The mask the kernel has for the calling thread, asked past the C library.
fn kernel_mask() -> u64 {
    let mut mask = 0_u64;
    let none = std::ptr::null::<u64>();
    // SAFETY: asks alone; eight bytes for the answer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            none,
            &raw mut mask,
            8,
        )
    };
    assert_eq!(result, 0);
    mask
}

#[test]
fn a_signal_mask_is_the_coroutines_own() {
    let (workers, after) = on_one_worker(|| {
        let workers = kernel_mask();
        let change = |how, number| {
            let set = set_of(&[number]);
            // SAFETY: a set; nothing is asked back.
            let error = unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) };
            assert_eq!(error, 0);
        };
        let blocks = |number: c_int| {
            spawn(move || {
                change(libc::SIG_BLOCK, signal(number));
                let own = kernel_mask();
                for _ in 0..10 {
                    yield_now();
                    assert_eq!(kernel_mask(), own);
                }
                own
            })
        };
        let blocking = [5, 6].map(blocks);
        for _ in 0..10 {
            yield_now();
            assert_eq!(kernel_mask(), workers, "of a coroutine that set none");
        }
        let bit = |number: c_int| 1_u64 << (signal(number) - 1);
        let masks = blocking.map(|b| b.join().unwrap());
        assert_eq!(masks, [5, 6].map(|number| workers | bit(number)));
        // Set and set back: again the worker's.
        change(libc::SIG_BLOCK, signal(5));
        change(libc::SIG_UNBLOCK, signal(5));
        yield_now();
        (workers, [kernel_mask(), spawn(kernel_mask).join().unwrap()])
    });
    assert_eq!(after, [workers; 2]);
}

/// Starts the test `name` of this binary alone, with `signals` blocked in all its threads.
fn in_child(name: &str, signals: &'static [c_int]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            &format!("identity::signals::{name}"),
            "--exact",
            "--nocapture",
        ])
        .env(ROLE, "child");
    let block = move || {
        let set = set_of(signals);
        // SAFETY: a set; nothing is asked back.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        Ok(())
    };
    // SAFETY: a system call alone.
    unsafe { command.pre_exec(block) };
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{:?}", output);
}

const ROLE: &str = "SUITE_SIGNALS_ROLE";

#[test]
fn waiting_for_a_signal_lets_others_run() {
    if std::env::var_os(ROLE).is_none() {
        return in_child(
            "waiting_for_a_signal_lets_others_run",
            &[libc::SIGUSR1, libc::SIGUSR2],
        );
    }
    on_one_worker(|| {
        let waiter = spawn(|| {
            let (set, mut found) = (set_of(&[libc::SIGUSR1]), 0);
            // SAFETY: a set and a place for the answer, here and below.
            let error = unsafe { libc::sigwait(&raw const set, &raw mut found) };
            (error, found)
        });
        let informed = spawn(|| {
            let set = set_of(&[libc::SIGUSR2]);
            // SAFETY: as above.
            let mut info: siginfo_t = unsafe { std::mem::zeroed() };
            // SAFETY: as above.
            let found = unsafe { libc::sigwaitinfo(&raw const set, &raw mut info) };
            (found, info.si_signo, info.si_code)
        });
        let_others_run();
        assert!(!waiter.is_finished() && !informed.is_finished());
        // SAFETY: numbers alone.
        unsafe {
            libc::kill(libc::getpid(), libc::SIGUSR1);
            libc::kill(libc::getpid(), libc::SIGUSR2);
        }
        assert_eq!(waiter.join().unwrap(), (0, libc::SIGUSR1));
        let user = (libc::SIGUSR2, libc::SIGUSR2, libc::SI_USER);
        assert_eq!(informed.join().unwrap(), user);
        let (set, soon) = (
            set_of(&[libc::SIGUSR1]),
            in_millis(libc::CLOCK_MONOTONIC, 0),
        );
        let short = libc::timespec {
            tv_sec: 0,
            tv_nsec: 3_000_000,
        };
        // SAFETY: as above.
        let late =
            unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const short) };
        let error = std::io::Error::last_os_error().raw_os_error();
        assert_eq!((late, error), (-1, Some(libc::EAGAIN)));
        let now = in_millis(libc::CLOCK_MONOTONIC, -3);
        assert!((now.tv_sec, now.tv_nsec) >= (soon.tv_sec, soon.tv_nsec));
    });
}

#[test]
fn suspending_until_a_handler_has_run_lets_others_run() {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    extern "C" fn handler(_: c_int) {
        RUNS.fetch_add(1, Ordering::SeqCst);
    }
    if std::env::var_os(ROLE).is_none() {
        return in_child(
            "suspending_until_a_handler_has_run_lets_others_run",
            &[libc::SIGUSR1],
        );
    }
    on_one_worker(|| {
        install(libc::SIGUSR1, handler as *const () as usize, 0);
        let suspended = spawn(|| {
            let none = set_of(&[]);
            // SAFETY: a set.
            let result = unsafe { libc::sigsuspend(&raw const none) };
            (result, std::io::Error::last_os_error().raw_os_error())
        });
        let_others_run();
        assert!(!suspended.is_finished());
        // Blocked everywhere but in the wait: it goes there, or waits for it.
        // SAFETY: numbers alone.
        unsafe { libc::kill(libc::getpid(), libc::SIGUSR1) };
        assert_eq!(suspended.join().unwrap(), (-1, Some(libc::EINTR)));
        assert_eq!(RUNS.load(Ordering::SeqCst), 1);
    });
}
