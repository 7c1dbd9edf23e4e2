//! The same program on OS threads and on coroutines must tell the same story.
//!
//! A program spawns through its [`Story`] and tells lines; it runs on threads, on coroutines of one
//! worker, and on coroutines of three. What differs on purpose stands in the table on the front page
//! of `hook/` and is tested by name elsewhere.
//!
//! Knows:         the table of programs.   Does not know: what they do; a family is a file.
//! Invariant      what a program tells does not depend on who runs first.

mod calls;
mod connections;
mod datagrams;
mod descriptors;
mod events;
mod files;
mod pipes;
mod processes;
mod streams;
mod waiting;

use std::fmt::Debug;
use std::time::Duration;

use super::{end_if_it_hangs, on_workers};

/// The table: a test and a line in [`PROGRAMS`] for each.
macro_rules! programs {
    ($($family:ident { $($program:ident)* })*) => {
        /// Every program.
        const PROGRAMS: &[(&str, Program)] =
            &[$($((stringify!($program), $family::$program)),*),*];

        /// On threads and on coroutines, a test for each program.
        mod on_both {
            $(mod $family {
                $(#[test]
                fn $program() {
                    super::super::same_on_both(super::super::$family::$program);
                })*
            })*
        }
    };
}

programs! {
    streams {
        echo proxy half_close partial_writes write_timeout wait_all peek dont_wait urgent zero_length
        user_nonblocking timeouts_on_a_clone low_water shutdown_while_waiting many_waiters vectored
        reset messages both_directions error_queue
    }
    connections {
        come_and_go accept_storm refused connect_timeout full_unix_backlog listener_states
        accept_by_threads_too sequenced_packets
    }
    datagrams { bounds bursts unix_queue refused_later truncation batches timeouts }
    descriptors { errors_of_every_call dups flags reused_numbers ranges passed shared_with_threads }
    pipes { pairs pipe fifo fifo_opening_nonblocking many_writers copies_in_the_kernel io_copy }
    events { eventfd eventfd_full timerfd inotify tty sleeps locks_and_channels }
    waiting { poll select epoll nested_epolls poll_many poll_and_writers }
    files { regular flock open_file_locks lockf }
    processes { children waits pidfds names signals }
}

#[test]
fn the_table_names_at_least_forty_programs_once_each() {
    let mut names: Vec<_> = PROGRAMS.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    assert!(names.len() >= 40, "{} programs", names.len());
}

type Program = fn(&mut Story);

fn same_on_both(program: Program) {
    let watched = end_if_it_hangs();
    let on_threads = Story::of(program, Kind::Threads);
    drop(watched);
    assert!(!on_threads.is_empty());
    for workers in [1, 3] {
        let on_coroutines = on_workers(workers, move || Story::of(program, Kind::Coroutines));
        assert_eq!(
            on_threads, on_coroutines,
            "threads and {workers} workers tell different stories"
        );
    }
}

/// What a program's threads are.
#[derive(Clone, Copy)]
enum Kind {
    Threads,
    Coroutines,
}

/// Waits for the end of something spawned.
type Join<T> = Box<dyn FnOnce() -> T>;

impl Kind {
    fn spawn<T: Send + 'static>(self, f: impl FnOnce() -> T + Send + 'static) -> Join<T> {
        match self {
            Self::Threads => {
                let handle = std::thread::spawn(f);
                Box::new(move || handle.join().unwrap())
            }
            Self::Coroutines => {
                let handle = rpc_core::spawn(f);
                Box::new(move || handle.join().unwrap())
            }
        }
    }
}

/// What a program has told so far, and how it spawns.
struct Story {
    kind: Kind,
    lines: Vec<String>,
}

impl Story {
    fn of(program: Program, kind: Kind) -> Vec<String> {
        let mut story = Self {
            kind,
            lines: Vec::new(),
        };
        program(&mut story);
        story.lines
    }

    fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> Join<T> {
        self.kind.spawn(f)
    }

    fn tell(&mut self, what: &str, value: impl Debug) {
        self.lines.push(format!("{what}: {value:?}"));
    }
}

/// Gives the others time to begin their wait, where that is the interesting case. What is told must be
/// the same if they have not.
fn pause() {
    std::thread::sleep(Duration::from_millis(2));
}

/// A result with its error by number.
fn told<T>(result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|error| {
        error
            .raw_os_error()
            .map_or_else(|| error.kind().to_string(), |code| code.to_string())
    })
}
