//! `wechat-demo up` and `chat`: what people do first.

use std::collections::HashMap;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{ChildStdin, Command};
use std::time::Duration;

use tests::{PATIENCE, Program, bin};

use crate::replay::refused;

/// A cluster by `up`, and where its long links and the roles' pages are.
pub(crate) struct Up {
    pub(crate) program: Program,
    address: String,
    /// URL of the operations page.
    pub(crate) page: String,
    /// HOST:PORT by role.
    pages: HashMap<String, String>,
    dir: tempfile::TempDir,
}

impl Up {
    pub(crate) fn start() -> Self {
        Self::with(&[], 8)
    }

    /// Terminals connect to the last IDC.
    pub(crate) fn in_three_idcs() -> Self {
        Self::with(&["--idcs", "3"], 23)
    }

    fn with(flags: &[&str], processes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let up = ["up", "--port", "0", "--dir", data.to_str().unwrap()];
        let mut program = Program::start("wechat-demo", &[&up, flags].concat()).unwrap();
        let line = program.line_with("terminals connect to ").unwrap();
        let address = line.rsplit(' ').next().unwrap().to_owned();
        let line = program.line_with("kill some of it: ").unwrap();
        let page = line.rsplit(' ').next().unwrap().to_owned();
        let pages = (0..processes).map(|_| {
            let line = program.line_with("/status").unwrap();
            let (role, url) = line.trim().split_once(' ').unwrap();
            let page = url.trim().strip_prefix("http://").unwrap();
            (role.to_owned(), page.trim_end_matches("/status").to_owned())
        });
        let pages = pages.collect();
        program.line_with("Ctrl-C ends it").unwrap();
        Self {
            program,
            address,
            page,
            pages,
            dir,
        }
    }

    /// A chat whose input is ours to write. Alice is told where to connect, the others ask.
    pub(crate) fn chat(&self, me: &str, arguments: &[&str]) -> Chat {
        let mut command = Command::new(bin("wechat-demo"));
        let dir = self.dir.path().join(me);
        let way = match me {
            "alice" => ["--addr", &self.address],
            _ => ["--dispatch", &self.pages["dispatch"]],
        };
        command
            .args(["chat", "--user", me, "--dir", dir.to_str().unwrap()])
            .args(way)
            .args(arguments);
        let (program, input) = Program::start_with_input("chat", command).unwrap();
        Chat { program, input }
    }

    /// Process ids of the roles.
    fn children(&self) -> Vec<u32> {
        let id = self.program.id();
        let tasks = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
        let lists = tasks
            .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).ok());
        lists
            .flat_map(|list| {
                list.split_whitespace()
                    .map(|id| id.parse().unwrap())
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}

/// A chat process and its keyboard.
pub(crate) struct Chat {
    program: Program,
    input: ChildStdin,
}

impl Chat {
    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    pub(crate) fn hears(&mut self, part: &str) {
        self.program.line_with(part).unwrap();
    }

    /// Ends the input; the chat must end by itself, and well.
    pub(crate) fn end(self) {
        drop(self.input);
        let (status, lines) = self.program.finish().unwrap();
        assert!(status.success(), "{status}: {lines:?}");
    }
}

#[test]
fn two_people_chat_side_by_side_and_find_their_history_again() {
    let up = Up::start();
    let mut alice = up.chat("alice", &["--to", "bob"]);
    alice.hears("type a line");
    let mut bob = up.chat("bob", &["--to", "alice"]);
    bob.hears("type a line");
    let page = format!("http://{}/metrics", up.pages["access"]);
    let metrics = ureq::get(page)
        .call()
        .unwrap()
        .body_mut()
        .read_to_string()
        .unwrap();
    assert!(metrics.contains("\nwechat_access_links 2\n"), "{metrics}");
    alice.say("hello bob");
    bob.hears("alice: hello bob");
    bob.say("hello alice");
    alice.hears("bob: hello alice");
    for n in 0..20 {
        alice.say(&format!("line {n}"));
    }
    for n in 0..20 {
        bob.hears(&format!("alice: line {n}"));
    }
    bob.end();
    alice.say("are you there?");
    alice.end();
    // He has one contact, so he need not say whom he means.
    let mut bob = up.chat("bob", &[]);
    bob.hears("alice: line 19");
    bob.hears("alice: are you there?");
    bob.end();
}

#[test]
fn strangers_become_contacts_before_anything_is_said() {
    let up = Up::start();
    let mut carol = up.chat("carol", &["--to", "alice", "--register"]);
    carol.hears("registered carol");
    carol.hears("asked alice to be a contact");
    carol.hears("type a line");
    carol.say("do you hear me?");
    carol.hears("waits until alice has accepted");
    let mut alice = up.chat("alice", &["--to", "carol"]);
    alice.hears("carol asked to be a contact; accepted");
    alice.hears("carol: do you hear me?");
    carol.hears("alice is a contact now");
    alice.end();
    carol.end();
}

#[test]
fn contacts_see_who_is_there_and_who_is_typing() {
    let up = Up::start();
    let mut alice = up.chat("alice", &["--to", "bob"]);
    alice.hears("type a line");
    let mut bob = up.chat("bob", &["--to", "alice"]);
    bob.hears("alice is here");
    alice.hears("bob is here");
    bob.say("/typing");
    alice.hears("bob is typing");
    bob.say("/away");
    alice.hears("bob has gone");
    bob.say("/back");
    alice.hears("bob is here");
    bob.end();
    alice.hears("bob has gone");
    alice.say("/who");
    alice.hears("bob: not here");
    alice.end();
}

#[test]
fn a_user_takes_everything_out_as_lines_of_json() {
    let up = Up::start();
    let mut alice = up.chat("alice", &["--to", "bob"]);
    alice.hears("type a line");
    alice.say("to be kept");
    alice.say("/avatar https://example.org/alice.png");
    alice.hears("done");
    alice.say("/post seen by friends");
    alice.hears("done");
    alice.end();
    let file = up.dir.path().join("alice.jsonl");
    let arguments = [
        "takeout",
        "--user",
        "alice",
        "--password",
        "wechat-demo",
        "--addr",
        &up.address,
        file.to_str().unwrap(),
    ];
    let status = Command::new(bin("wechat-demo")).args(arguments).status();
    assert!(status.unwrap().success());
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let has = |pointer: &str, value: &str| {
        lines.iter().any(|line| {
            line.pointer(pointer)
                .is_some_and(|found| found.as_str() == Some(value))
        })
    };
    assert!(has("/item/payload/text", "to be kept"), "{text}");
    assert!(
        has("/item/payload/avatar", "https://example.org/alice.png"),
        "{text}"
    );
    assert!(has("/post/post/text", "seen by friends"), "{text}");
    assert!(has("/device/label", "takeout"), "{text}");
    let (status, line) = refused(&arguments);
    assert_eq!(status, Some(1), "{line}");
    assert!(line.contains("is there already"), "{line}");
}

#[test]
fn a_role_that_dies_is_started_again_and_chats_go_on() {
    let mut up = Up::start();
    let mut alice = up.chat("alice", &["--to", "bob"]);
    alice.hears("type a line");
    let mut bob = up.chat("bob", &["--to", "alice"]);
    bob.hears("type a line");
    for (n, child) in up.children().into_iter().enumerate() {
        kill("-KILL", child);
        up.program.line_with("starting it again").unwrap();
        alice.say(&format!("after death {n}"));
        bob.hears(&format!("alice: after death {n}"));
    }
    alice.end();
    bob.end();
}

#[test]
fn a_cluster_ends_whole_when_it_is_asked_to_and_when_its_launcher_is_killed() {
    for killed in [false, true] {
        let up = Up::start();
        let (children, address) = (up.children(), up.address.clone());
        assert_eq!(children.len(), 8);
        if killed {
            up.program.kill().unwrap();
        } else {
            up.program.terminate().unwrap();
            let (status, lines) = up.program.finish().unwrap();
            assert!(status.success(), "{status}: {lines:?}");
        }
        wait_until("every role is gone", || {
            children
                .iter()
                .all(|id| !Path::new(&format!("/proc/{id}")).exists())
        });
        assert!(TcpStream::connect(address).is_err());
    }
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (file, empty) = (file.to_str().unwrap(), dir.path().to_str().unwrap());
    let used = format!("127.0.0.1:{port}");
    for (command, code, part) in [
        (
            format!("up --port {port} --page-port 0 --dir {empty}"),
            1,
            &*port,
        ),
        (
            format!("up --port 0 --page-port {port} --dir {empty}"),
            1,
            "--page-port",
        ),
        (format!("up --port 0 --dir {file}"), 1, "--dir"),
        ("up --nonsense".to_owned(), 2, "--nonsense"),
        ("nonsense".to_owned(), 2, "nonsense"),
        (String::new(), 2, "--help"),
        ("chat --to bob".to_owned(), 2, "--user"),
        (
            format!("chat --user a --to b --addr 127.0.0.1:1 --dir {empty}"),
            1,
            "wechat-demo up",
        ),
        (format!("chat --user a --to b --dir {file}"), 1, "--dir"),
        (
            "access --listen nowhere --rpc 127.0.0.1:0 --advertise 127.0.0.1:1 --logic 127.0.0.1:1"
                .to_owned(),
            1,
            "nowhere",
        ),
        (
            format!(
                "access --listen {used} --rpc 127.0.0.1:0 --advertise 127.0.0.1:1 --logic 127.0.0.1:1"
            ),
            1,
            &*port,
        ),
        (
            format!("logic --listen {used} --storage 127.0.0.1:1"),
            1,
            &*port,
        ),
        (
            "storage --min-copies 3 --listen x --coordinator y --dir z".to_owned(),
            2,
            "min-copies",
        ),
    ] {
        let arguments: Vec<&str> = command.split_whitespace().collect();
        let (status, line) = refused(&arguments);
        assert_eq!(status, Some(code), "{command}: {line}");
        assert!(line.contains(part), "{command}: {line}");
    }
}

pub(crate) fn kill(signal: &str, id: u32) {
    let status = Command::new("kill")
        .args([signal, &id.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Looks again and again; the limit only turns a hang into a failure.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
