//! The architecture, held by a test: floors, roles, seams, and the habits of the house.
//!
//! Knows: every source file of the workspace, as text. Does not know: whether it compiles.
//!
//! Each rule is a function from a file to its violations, tried below on a planted sample and then
//! on the tree. A violation says where, what, and what to do. A new rule of the house goes here
//! rather than into a comment on a change. ARCHITECTURE.md tells the same in prose.

mod planted;
mod scan;

use std::fs;
use std::path::{Path as FilePath, PathBuf};

use scan::{Path, Source};

/// Floors of rpc-core, the longest matching module wins. Imports go down, or stay in the module.
const FLOORS: &[(&str, u8)] = &[
    ("base", 0),
    ("coroutine", 1),
    ("runtime", 2),
    ("sync", 3),
    ("net", 3),
    ("hook", 3),
    ("rpc", PURE),
    ("rpc::client", SHELL),
    ("rpc::server", SHELL),
    ("rpc::console", SHELL),
    ("codegen", FACADE),
];
/// RPC without I/O: told the time, handed the bytes.
const PURE: u8 = 4;
/// RPC with sockets.
const SHELL: u8 = 5;
/// `lib.rs` and `codegen.rs`: re-exports alone.
const FACADE: u8 = 6;

/// Roles of wechat-demo: processes that meet over RPC alone.
const ROLES: [&str; 8] = [
    "access", "logic", "storage", "push", "terminal", "wan", "edge", "dispatch",
];
/// What every role may import: the words and the wires they share, and how they start coroutines. These import each other alone.
const SHARED_BY_ROLES: [&str; 8] = [
    "model",
    "proto",
    "longlink",
    "task",
    "coordinator",
    "homes",
    "history",
    "planted",
];

/// The files that may say `unsafe`, and why each must. A trailing `/` means the folder.
const UNSAFE_FILES: &[(&str, &str)] = &[
    (
        "rpc-core/src/base/sys.rs",
        "the one door to raw system calls",
    ),
    (
        "rpc-core/src/base/buf.rs",
        "spare capacity handed to the kernel",
    ),
    (
        "rpc-core/src/base/atomic_ref.rs",
        "the pointer behind a shared reference",
    ),
    ("rpc-core/src/base/list.rs", "intrusive links"),
    ("rpc-core/src/base/slab.rs", "type-stable slots"),
    ("rpc-core/src/base/lock.rs", "the cell behind the spin lock"),
    (
        "rpc-core/src/base/signal.rs",
        "signal handlers are C functions",
    ),
    (
        "rpc-core/src/base/socket.rs",
        "spare capacity handed to the kernel",
    ),
    (
        "rpc-core/src/coroutine/",
        "stacks, thread identity, the switch",
    ),
    ("rpc-core/src/runtime/worker.rs", "resumes coroutines"),
    ("rpc-core/src/runtime/task.rs", "the current task's pointer"),
    (
        "rpc-core/src/runtime/directory.rs",
        "a symbol that keeps its name for debuggers",
    ),
    (
        "rpc-core/src/runtime/capture.rs",
        "copies a stack in a signal handler",
    ),
    (
        "rpc-core/src/runtime/scope.rs",
        "promises that borrows outlive their coroutines",
    ),
    (
        "rpc-core/src/runtime/reactor.rs",
        "type-stable registrations",
    ),
    ("rpc-core/src/sync/mutex.rs", "the cell behind the lock"),
    ("rpc-core/src/sync/rwlock.rs", "the cell behind the lock"),
    ("rpc-core/src/sync/queue.rs", "nodes on the waiters' stacks"),
    (
        "rpc-core/src/sync/select.rs",
        "promises that nodes stay in place",
    ),
    ("rpc-core/src/hook/", "replaces C functions"),
    (
        "tests/suite/hooks/",
        "calls the replaced functions as a C program does",
    ),
    (
        "tests/suite/libraries/blocking.rs",
        "makes calls that the hooks do not see",
    ),
    (
        "tests/suite/libraries/hiredis.rs",
        "loads a C program and calls it",
    ),
    ("tests/models/src/futex.rs", "waiters linked by pointer"),
    (
        "tests/suite/identity.rs",
        "C objects shared by coroutines and threads",
    ),
    (
        "tests/suite/identity/",
        "calls C functions that ask who the thread is",
    ),
    ("tests/suite/stacks.rs", "sets limits of a child process"),
    ("examples/src/counting.rs", "an allocator that counts"),
];

/// The files that may ask the OS for the time.
const TIME_SEAMS: [&str; 2] = ["rpc-core/src/base/time.rs", "rpc-core/src/base/sys.rs"];
/// The files that may ask the OS for randomness.
const RANDOM_SEAMS: [&str; 3] = [
    "rpc-core/src/base/rng.rs",
    "rpc-core/src/base/sys.rs",
    // ring signs with its own randomness alone.
    "wechat-demo/src/push/apns.rs",
];

/// Longer ones hide a second idea.
const FUNCTION_LINES_MAX: usize = 70;
/// Longer ones hide a second module.
const FILE_LINES_MAX: usize = 800;

#[test]
fn no_import_climbs_a_floor() {
    check("rpc-core/src/", climbing_imports);
}

#[test]
fn pure_rpc_does_no_io() {
    check("rpc-core/src/rpc/", impure_rpc);
}

#[test]
fn roles_meet_only_over_rpc() {
    check("wechat-demo/src/", role_imports);
    check("wechat-demo/src/logic/", sockets_in_logic);
}

#[test]
fn unsafe_stays_in_the_listed_files() {
    check("", unsafe_outside);
}

#[test]
fn only_the_seams_ask_for_time_and_randomness() {
    check("rpc-core/src/", seams_bypassed);
    check("wechat-demo/src/", seams_bypassed);
}

#[test]
fn every_file_opens_with_its_front_page() {
    check("", no_front_page);
}

#[test]
fn functions_and_files_stay_short() {
    check("", too_long);
}

#[test]
fn nothing_unfinished_is_left() {
    check("", unfinished);
}

#[test]
fn no_path_of_one_machine_is_left() {
    let found: Vec<String> = text_files()
        .iter()
        .flat_map(|(path, text)| machine_paths(path, text))
        .collect();
    assert!(found.is_empty(), "{}", report(&found));
}

#[test]
fn host_side_crates_and_peers_do_not_link_rpc_core() {
    for (manifest, sections) in [
        (
            "rpc-codegen/Cargo.toml",
            &["[dependencies]", "[build-dependencies]"][..],
        ),
        (
            "rpc-macros/Cargo.toml",
            &["[dependencies]", "[build-dependencies]"],
        ),
        (
            "tests/xtask/Cargo.toml",
            &["[dependencies]", "[build-dependencies]"],
        ),
        (
            "tests/libraries/Cargo.toml",
            &["[dependencies]", "[build-dependencies]"],
        ),
        (
            "tests/peers/Cargo.toml",
            &[
                "[dependencies]",
                "[build-dependencies]",
                "[dev-dependencies]",
            ],
        ),
    ] {
        let text = fs::read_to_string(root().join(manifest)).expect("the manifest is in the tree");
        let links = links_rpc_core(&text, sections);
        assert!(
            !links,
            "{manifest} depends on rpc-core: its hooks would replace libc's calls in a program that must not have them"
        );
    }
}

/// An import from a lower floor to a higher one, between neighbours, or through the facade.
fn climbing_imports(source: &Source) -> Vec<String> {
    let module = source.module().join("::");
    let Some((home, floor)) = floor_of(&module) else {
        return vec![format!(
            "{}: module `{module}` has no floor: place it in FLOORS of tests/suite/architecture.rs",
            source.path
        )];
    };
    let mut found = Vec::new();
    for path in source.paths().iter().filter(|p| p.segments[0] == "crate") {
        let target = path.segments[1..].join("::");
        let complaint = match floor_of(&target) {
            _ if floor == FACADE => None,
            Some((there, _)) if there == home => None,
            Some((there, above)) if above > floor => Some(format!(
                "`{home}` (floor {floor}) imports `{there}` (floor {above}): move what is needed down, or take it as an argument"
            )),
            Some((there, same)) if same == floor && floor < SHELL => Some(format!(
                "`{home}` imports its neighbour `{there}`: both stand on floor {floor}, build on the floors below"
            )),
            Some((there, _)) if floor >= PURE && is_scheduler(&target) => Some(format!(
                "`{home}` names `{there}`'s inside `crate::{target}`: above floor 3 go through crate::net or crate::sync"
            )),
            None if !path.root_macro => Some(format!(
                "imports `crate::{target}` through the facade: name the module it lives in"
            )),
            _ => None,
        };
        found.extend(complaint.map(|why| at(source, path.line, &why)));
    }
    found
}

/// The floor-4 part of rpc knows base and itself: no I/O, no clock, no threads.
fn impure_rpc(source: &Source) -> Vec<String> {
    if floor_of(&source.module().join("::")).is_none_or(|(_, floor)| floor != PURE) {
        return Vec::new();
    }
    let forbidden = |path: &Path| {
        let own = path.segments[0] == "crate"
            && !matches!(
                path.segments.get(1).map(String::as_str),
                Some("base" | "rpc")
            );
        // Addresses are values; what opens a socket is not.
        let outside = [
            "std::net::Tcp",
            "std::net::Udp",
            "std::net::ToSocketAddrs",
            "std::os::unix::net",
            "std::fs",
            "std::thread",
            "std::io::std",
            "mio",
            "socket2",
            "libc",
        ];
        let text = path.segments.join("::");
        let clock = text.ends_with("Instant::now") || text.starts_with("crate::base::sys");
        own || clock || outside.iter().any(|o| text.starts_with(o))
    };
    let paths = source.paths();
    let bad = paths.iter().filter(|p| forbidden(p));
    bad.map(|p| {
        let why = format!(
            "pure rpc uses `{}`: sessions are told the time and handed the bytes; do it in client/ or server/",
            p.segments.join("::")
        );
        at(source, p.line, &why)
    })
    .collect()
}

/// A role that imports another role, or shared words that import a role.
fn role_imports(source: &Source) -> Vec<String> {
    let module = source.module();
    let home = module.first().map_or("", String::as_str);
    let allowed = |there: &str| match home {
        _ if SHARED_BY_ROLES.contains(&home) => SHARED_BY_ROLES.contains(&there),
        _ if ROLES.contains(&home) => there == home || SHARED_BY_ROLES.contains(&there),
        _ => true,
    };
    let paths = source.paths();
    let own = paths
        .iter()
        .filter(|p| p.segments[0] == "crate" && p.segments.len() > 1);
    own.filter(|p| !allowed(&p.segments[1]) && !p.root_macro)
        .map(|p| {
            let why = format!(
                "`{home}` imports `{}`: roles know model, proto and longlink alone; ask over RPC, or move the type to model",
                p.segments[1]
            );
            at(source, p.line, &why)
        })
        .collect()
}

/// The business knows stores, sequencers and time as traits, never a socket.
fn sockets_in_logic(source: &Source) -> Vec<String> {
    const SOCKETS: [&str; 8] = [
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "UnixListener",
        "UnixDatagram",
        "socket2",
        "mio",
    ];
    let tokens = source.shipped();
    let named = tokens.iter().filter(|t| SOCKETS.contains(&t.text.as_str()));
    named
        .map(|t| {
            at(
                source,
                t.line,
                &format!(
                    "logic names `{}`: take a store or a client as a trait",
                    t.text
                ),
            )
        })
        .collect()
}

fn unsafe_outside(source: &Source) -> Vec<String> {
    let listed = |entry: &str| {
        source.path == entry || (entry.ends_with('/') && source.path.starts_with(entry))
    };
    if UNSAFE_FILES.iter().any(|(entry, _)| listed(entry)) {
        return Vec::new();
    }
    let tokens = source.tokens();
    let hits = tokens.iter().filter(|t| t.text == "unsafe");
    hits.map(|t| {
        at(source, t.line, "`unsafe` outside the listed files: use base::sys or sync, or list the file in UNSAFE_FILES with its reason")
    })
    .collect()
}

/// Time and randomness are arguments; only the seams ask the OS.
fn seams_bypassed(source: &Source) -> Vec<String> {
    const CLOCKS: [&str; 6] = [
        "clock_gettime",
        "SYS_clock_gettime",
        "gettimeofday",
        "SYS_gettimeofday",
        "SystemTime",
        "UNIX_EPOCH",
    ];
    const DICE: [&str; 7] = [
        "getrandom",
        "SYS_getrandom",
        "rand",
        "fastrand",
        "thread_rng",
        "OsRng",
        "RandomState",
    ];
    let path = source.path.as_str();
    let mut found = Vec::new();
    let tokens = source.shipped();
    for (index, token) in tokens.iter().enumerate() {
        let text = token.text.as_str();
        // `sys::clock_gettime` is a seam itself.
        let through_sys = index > 2 && tokens[index - 3].text == "sys";
        if CLOCKS.contains(&text) && !TIME_SEAMS.contains(&path) && !through_sys {
            let why = format!(
                "`{text}` asks the OS for the time: use rpc-core's base::time, or take the time as an argument"
            );
            found.push(at(source, token.line, &why));
        }
        if DICE.contains(&text) && !RANDOM_SEAMS.contains(&path) {
            let why = format!(
                "`{text}` asks for randomness: use rpc-core's base::rng, or take a seeded generator as an argument"
            );
            found.push(at(source, token.line, &why));
        }
    }
    let std_instant = |p: &&Path| {
        p.segments
            .starts_with(&["std", "time", "Instant"].map(str::to_owned))
    };
    if !TIME_SEAMS.contains(&path) {
        let why = "`std::time::Instant` outside base::time: use base::time::Instant, which a simulated clock can drive";
        found.extend(
            source
                .paths()
                .iter()
                .filter(std_instant)
                .map(|p| at(source, p.line, why)),
        );
    }
    found
}

fn no_front_page(source: &Source) -> Vec<String> {
    let opens = source.text.starts_with("//!");
    let why =
        "the file does not open with `//!`: say what it knows, does not know, and its invariants";
    if opens {
        Vec::new()
    } else {
        vec![at(source, 1, why)]
    }
}

fn too_long(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX {
        let why =
            format!("{lines} lines, at most {FILE_LINES_MAX}: split it by what its parts may know");
        found.push(at(source, 1, &why));
    }
    for function in source
        .functions()
        .iter()
        .filter(|f| f.lines > FUNCTION_LINES_MAX)
    {
        let why = format!(
            "`{}` has {} lines, at most {FUNCTION_LINES_MAX}: keep the decisions, move the pure parts out",
            function.name, function.lines
        );
        found.push(at(source, function.line, &why));
    }
    found
}

fn unfinished(source: &Source) -> Vec<String> {
    let mark = ["FIX", "ME"].concat();
    let mut found = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        if line.contains(&mark) {
            found.push(at(
                source,
                index + 1,
                &format!("`{mark}` is left: mend it or file it"),
            ));
        }
    }
    for pair in source.tokens().windows(2) {
        let name = pair[0].text.as_str();
        if matches!(name, "todo" | "unimplemented" | "dbg") && pair[1].text == "!" {
            found.push(at(
                source,
                pair[0].line,
                &format!("`{name}!` is left: finish it"),
            ));
        }
    }
    found
}

/// Absolute paths under somebody's home, or of this very checkout.
fn machine_paths(path: &str, text: &str) -> Vec<String> {
    let here = root().display().to_string();
    let homes = ["home", "root", "Users", "work", "workspace"].map(|dir| format!("/{dir}/"));
    let starts_path = |line: &str, at: usize| {
        line[..at]
            .chars()
            .next_back()
            .is_none_or(|c| !(c.is_alphanumeric() || "._-/*{}".contains(c)))
    };
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let home = homes
            .iter()
            .any(|h| line.match_indices(h).any(|(at, _)| starts_path(line, at)));
        if home || (here.len() > 8 && line.contains(&here)) {
            found.push(format!(
                "{path}:{}: a path of one machine: `{}`",
                index + 1,
                line.trim()
            ));
        }
    }
    found
}

fn links_rpc_core(manifest: &str, sections: &[&str]) -> bool {
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = sections.contains(&line);
        } else if inside && line.starts_with("rpc-core") {
            return true;
        }
    }
    false
}

/// The longest entry of FLOORS that `module` (or a path into it) starts with; the facade for `""`.
fn floor_of(module: &str) -> Option<(&'static str, u8)> {
    if module.is_empty() {
        return Some(("lib", FACADE));
    }
    let inside = |entry: &str| module == entry || module.starts_with(&format!("{entry}::"));
    let matching = FLOORS.iter().copied().filter(|(entry, _)| inside(entry));
    matching.max_by_key(|(entry, _)| entry.len())
}

fn is_scheduler(target: &str) -> bool {
    ["runtime::worker", "runtime::reactor", "runtime::park"]
        .iter()
        .any(|s| target.starts_with(s))
}

fn at(source: &Source, line: usize, why: &str) -> String {
    format!("{}:{line}: {why}", source.path)
}

/// Runs a rule over every Rust file under `prefix`.
fn check(prefix: &str, rule: impl Fn(&Source) -> Vec<String>) {
    let files = text_files();
    let sources = files
        .iter()
        .filter(|(path, _)| path.ends_with(".rs") && path.starts_with(prefix));
    let sources: Vec<Source> = sources
        .map(|(path, text)| Source::new(path, text))
        .collect();
    let expected = root().join(prefix).is_dir();
    assert!(
        !expected || !sources.is_empty(),
        "no source under {prefix:?}: the rule would pass on nothing"
    );
    let found: Vec<String> = sources.iter().flat_map(rule).collect();
    assert!(found.is_empty(), "{}", report(&found));
}

fn report(found: &[String]) -> String {
    format!("{} violation(s)\n{}\n", found.len(), found.join("\n"))
}

fn root() -> PathBuf {
    FilePath::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is inside the workspace")
        .to_owned()
}

/// Every text file of the project, sorted: path from the root with `/`, and content.
/// Left out: build output, hidden folders other than .ci and .cargo, and generated golden files.
fn text_files() -> Vec<(String, String)> {
    const KINDS: [&str; 9] = [
        "rs", "toml", "md", "proto", "sh", "html", "js", "css", "yml",
    ];
    let mut files = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the tree can be listed") {
            let path = entry.expect("a folder of the tree can be listed").path();
            let name = path
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default();
            let hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
            if hidden || ["target", "golden", "fixtures", "corpus"].contains(&name.as_str()) {
                continue;
            }
            let kind = path
                .extension()
                .map(|e| e.to_string_lossy().into_owned())
                .unwrap_or_default();
            if path.is_dir() {
                folders.push(path);
            } else if KINDS.contains(&kind.as_str()) || folder.ends_with(".ci") {
                let text = fs::read_to_string(&path).expect("a source file is UTF-8");
                let relative = path.strip_prefix(root()).expect("we walk below the root");
                files.push((relative.display().to_string(), text));
            }
        }
    }
    files.sort();
    files
}
