//! A whole cluster of processes with its edge: media come in and go out, whoever dies.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod patience;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use prost::Message;
use wechat_demo::checker::{Invariant, read};
use wechat_demo::cluster::{Cluster, Plan, Ports, Role, figures};
use wechat_demo::history::History;
use wechat_demo::proto::terminal::{self as pb, change_request::Change, media::Sort};
use wechat_demo::terminal::error::code;
use wechat_demo::terminal::media::{Edge, FILE_TYPE, MediaError};
use wechat_demo::terminal::{Connection, login, new_client_id, register};

use patience::{patiently, wait_for};

/// A picture of one point.
const DOT: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0:~\x9bU\
    \0\0\0\nIDATx\xdac`\0\0\0\x02\0\x01\xe5'\xde\xfc\0\0\0\0IEND\xaeB`\x82";

struct Stage {
    cluster: Cluster,
    dir: tempfile::TempDir,
}

impl Stage {
    fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let light = ["--argon2-memory-kib", "64"].map(|flag| (Role::Logic, flag.to_owned()));
        let plan = Plan {
            extra: light.into(),
            ..Plan::default()
        };
        let binary = Path::new(env!("CARGO_BIN_EXE_wechat-demo"));
        let cluster = Cluster::bring_up(dir.path(), 0, &plan, binary).unwrap();
        Self { cluster, dir }
    }

    /// A new user's device.
    fn device_of(&self, name: &str) -> pb::LoginReply {
        let address = self.cluster.layout().link_address();
        patiently(|| match register(&address, name, "password", name) {
            // An answer was lost.
            Err(error) if error.is_refusal(code::ALREADY_EXISTS) => Ok(0),
            other => other,
        });
        patiently(|| login(&address, name, "password", "phone"))
    }

    /// The edge, as a device speaks to it.
    fn edge(&self, device: &pb::LoginReply) -> Edge {
        let address = self.cluster.layout().rpc(Role::Edge).to_string();
        Edge::new(&address, &device.token)
    }

    /// The edge, as a new user's device speaks to it.
    fn edge_of(&self, name: &str) -> Edge {
        self.edge(&self.device_of(name))
    }

    /// A link that speaks for a device.
    fn link(&self, device: &pb::LoginReply) -> Connection {
        let address = self.cluster.layout().link_address();
        patiently(|| {
            let mut link = Connection::open(&address)?;
            let token = device.token.clone();
            let auth = pb::AuthRequest {
                token,
                active: false,
            };
            link.call::<pb::AuthReply>(pb::Command::Auth, &auth)?;
            Ok(link)
        })
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn counted(&self, name: &str) -> f64 {
        counted(self.cluster.layout().rpc(Role::Edge), name)
    }
}

fn counted(edge: SocketAddr, name: &str) -> f64 {
    let name = format!("wechat_edge_{name}_total");
    figures(edge).sum(&name, &[]).unwrap_or(0.0)
}

/// An edge that asks the cluster's for what it does not have.
struct Near {
    child: Child,
    address: SocketAddr,
}

impl Near {
    fn start(stage: &Stage, cache_bytes: u64) -> Self {
        let port = Ports::choose(0).unwrap().edge;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let layout = stage.cluster.layout();
        let child = Command::new(env!("CARGO_BIN_EXE_wechat-demo"))
            .args([
                "edge",
                "--exit-with-parent",
                "--listen",
                &address.to_string(),
            ])
            .args(["--logic", &layout.rpc(Role::Logic).to_string()])
            .args(["--origin", &layout.rpc(Role::Edge).to_string()])
            .args([
                "--max-object",
                "4000000",
                "--cache-bytes",
                &cache_bytes.to_string(),
            ])
            .arg("--dir")
            .arg(stage.dir.path().join("near"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let near = Self { child, address };
        wait_for("the second edge answers", || {
            figures(address).sum("wechat_edge_stored_total", &[])
        });
        near
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn refused(result: Result<impl std::fmt::Debug, MediaError>, wanted: u16) -> String {
    match result {
        Err(MediaError::Refused { status, text }) if status == wanted => text,
        other => panic!("{other:?} instead of status {wanted}"),
    }
}

#[test]
fn what_was_uploaded_comes_back_and_only_to_those_with_its_key() {
    let stage = Stage::set();
    let (ann, bob) = (stage.edge_of("ann"), stage.edge_of("bob"));
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 239) as u8).collect();
    let path = stage.file("notes.bin", &bytes);
    let media = ann.upload(&path, FILE_TYPE).unwrap();
    assert_eq!((media.sort(), media.size), (Sort::File, 3_000_000));
    assert_eq!(media.hash[..], blake3::hash(&bytes).as_bytes()[..]);
    assert_eq!((&*media.name, media.key.len()), ("notes.bin", 32));

    let saved = stage.dir.path().join("saved.bin");
    bob.fetch(&media, &saved).unwrap();
    assert_eq!(std::fs::read(&saved).unwrap(), bytes);
    let stranger = pb::Media {
        key: vec![0; 32].into(),
        ..media.clone()
    };
    refused(bob.fetch(&stranger, &stage.dir.path().join("no.bin")), 404);

    // Once more is free for its owner, and no less work for another.
    let before = stage.counted("bytes_in");
    assert_eq!(ann.upload(&path, FILE_TYPE).unwrap(), media);
    assert_eq!(
        (stage.counted("bytes_in"), stage.counted("instant")),
        (before, 1.0)
    );
    let others = bob.upload(&path, FILE_TYPE).unwrap();
    assert_ne!((others.file_id, others.key), (media.file_id, media.key));
    assert_eq!(stage.counted("bytes_in"), before + 3_000_000.0);

    let text = refused(ann.upload(&path, "image/png"), 415);
    assert!(text.contains("image/png"), "{text}");
    refused(ann.upload(&stage.file("empty", b""), FILE_TYPE), 413);
    let nobody = Edge::new(&stage.cluster.layout().rpc(Role::Edge).to_string(), b"x");
    refused(nobody.upload(&path, FILE_TYPE), 401);
}

#[test]
fn an_edge_that_is_killed_in_the_middle_loses_nothing() {
    let mut stage = Stage::set();
    let edge = stage.edge_of("ann");
    let bytes: Vec<u8> = (0..12_000_000_u32)
        .map(|n| (n.wrapping_mul(n) >> 7) as u8)
        .collect();
    let path = stage.file("film.bin", &bytes);
    let done = AtomicBool::new(false);
    let media = std::thread::scope(|scope| {
        let uploading = scope.spawn(|| {
            let media = edge.upload(&path, FILE_TYPE);
            done.store(true, Ordering::Relaxed);
            media
        });
        let mut kills = 0;
        // Each life of the edge takes in a little and is killed.
        while kills < 3 && !done.load(Ordering::Relaxed) {
            wait_for("some of it has arrived", || {
                (stage.counted("bytes_in") > 0.0 || done.load(Ordering::Relaxed)).then_some(())
            });
            stage.cluster.kill(Role::Edge);
            kills += 1;
            stage.cluster.spawn(Role::Edge).unwrap();
        }
        assert!(kills > 0, "the upload was over before anybody was killed");
        uploading.join().unwrap().unwrap()
    });
    let saved = stage.dir.path().join("saved.bin");
    stage.cluster.kill(Role::Edge);
    stage.cluster.spawn(Role::Edge).unwrap();
    edge.fetch(&media, &saved).unwrap();
    assert!(std::fs::read(&saved).unwrap() == bytes);
    assert_eq!(edge.upload(&path, FILE_TYPE).unwrap(), media);
    assert_eq!(stage.counted("bytes_in"), 0.0, "it was there already");
}

/// Asks to be a contact, or accepts who has asked.
fn ask(link: &mut Connection, other: &pb::LoginReply) {
    let request = pb::AddContactRequest {
        user_id: other.user_id,
        greeting: String::new(),
    };
    let _: pb::AddContactReply = link.call(pb::Command::AddContact, &request).unwrap();
}

fn message_with(media: pb::Media, receiver: u64) -> pb::SendRequest {
    let message = pb::Outgoing {
        client_id: new_client_id(),
        text: String::new(),
        extra: Some(pb::Extra {
            media: Some(media),
            ..pb::Extra::default()
        }),
        ..pb::Outgoing::default()
    };
    pb::SendRequest {
        receiver,
        messages: vec![message],
        ..pb::SendRequest::default()
    }
}

/// What a friend is shown of a post with `media`.
fn seen_in_a_post(
    (author, author_id): (&mut Connection, u64),
    friend: &mut Connection,
    media: &pb::Media,
) -> Vec<pb::Media> {
    let post = pb::NewPost {
        client_id: new_client_id(),
        text: String::new(),
        media: vec![media.clone()],
        audience: None,
    };
    let change = pb::ChangeRequest {
        change: Some(Change::NewPost(post)),
    };
    let made: pb::ChangeReply = author.call(pb::Command::Change, &change).unwrap();
    let open = pb::OpenPostRequest {
        author: author_id,
        post_id: made.made,
    };
    wait_for("the friend may see the post", || {
        let reply: pb::OpenPostReply = friend.call(pb::Command::OpenPost, &open).ok()?;
        Some(reply.post.unwrap().media)
    })
}

#[test]
fn a_picture_reaches_who_gets_the_message_and_who_may_see_the_post() {
    let stage = Stage::set();
    let (ann, bob) = (stage.device_of("ann"), stage.device_of("bob"));
    let (mut anns, mut bobs) = (stage.link(&ann), stage.link(&bob));
    for (link, other) in [(&mut anns, &bob), (&mut bobs, &ann)] {
        ask(link, other);
    }
    let histories = ["ann", "bob"].map(|name| stage.dir.path().join(format!("{name}.jsonl")));
    let [tell_ann, tell_bob] = histories
        .each_ref()
        .map(|path| History::create(path).unwrap());
    let (mut from, mut to) = (stage.edge(&ann), stage.edge(&bob));
    from.history = Some(tell_ann.recorder(ann.user_id, ann.device_id));
    to.history = Some(tell_bob.recorder(bob.user_id, bob.device_id));

    let media = from
        .upload(&stage.file("dot.png", DOT), "image/png")
        .unwrap();
    let message = |media| message_with(media, bob.user_id);
    // A friendship takes a moment to reach both ends.
    wait_for("ann's message is taken", || {
        anns.call::<pb::SendReply>(pb::Command::Send, &message(media.clone()))
            .ok()
    });
    let keyless = pb::Media {
        key: bytes::Bytes::new(),
        ..media.clone()
    };
    let refusal = anns.call::<pb::SendReply>(pb::Command::Send, &message(keyless));
    assert!(
        refusal
            .unwrap_err()
            .to_string()
            .contains("a media key has 32 bytes")
    );
    let got = wait_for("bob has the message", || {
        let request = pb::SyncRequest::default();
        let reply: pb::SyncReply = bobs.call(pb::Command::Sync, &request).unwrap();
        let mut messages = reply
            .items
            .into_iter()
            .filter(|item| item.kind() == pb::Kind::Message);
        let message = pb::Message::decode(messages.next()?.payload).unwrap();
        message.extra.unwrap().media
    });
    assert_eq!(got, media);
    let saved = stage.dir.path().join("saved.png");
    to.fetch(&got, &saved).unwrap();
    assert_eq!(std::fs::read(&saved).unwrap(), DOT);

    assert_eq!(
        seen_in_a_post((&mut anns, ann.user_id), &mut bobs, &media),
        [media]
    );

    for history in [tell_ann, tell_bob] {
        history.end().unwrap();
    }
    let told: String = histories
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    assert!(
        told.contains("\"upload\"") && told.contains("\"fetch\""),
        "{told}"
    );
    let verdict = read::check(&histories).unwrap();
    assert!(verdict.broken().all(|broken| broken != Invariant::I17));
}

#[test]
fn an_edge_gives_out_what_another_has_and_keeps_it_though_that_one_is_gone() {
    const READERS: usize = 12;
    let mut stage = Stage::set();
    let ann = stage.device_of("ann");
    let home = stage.edge(&ann);
    let contents: Vec<(pb::Media, Vec<u8>)> = (0..3_u8)
        .map(|n| {
            let bytes = vec![n; 2_500_000];
            let path = stage.file("content", &bytes);
            (home.upload(&path, FILE_TYPE).unwrap(), bytes)
        })
        .collect();
    let (first, bytes) = &contents[0];
    let near = Near::start(&stage, 6_000_000);
    let edge = Edge::new(&near.address.to_string(), &ann.token);
    let to = |name: &str| stage.dir.path().join(name);
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let (edge, path) = (&edge, to(&format!("saved-{reader}")));
            scope.spawn(move || {
                edge.fetch(first, &path).unwrap();
                assert!(&std::fs::read(&path).unwrap() == bytes);
            });
        }
    });
    let size = bytes.len() as f64;
    assert_eq!(
        stage.counted("bytes_out"),
        size,
        "it came once for {READERS}"
    );
    assert_eq!(counted(near.address, "bytes_out"), READERS as f64 * size);
    let stranger = pb::Media {
        key: vec![0; 32].into(),
        ..first.clone()
    };
    refused(edge.fetch(&stranger, &to("no")), 404);

    // A third does not fit beside two: the first is the least lately used.
    edge.fetch(&contents[1].0, &to("second")).unwrap();
    edge.fetch(&contents[2].0, &to("third")).unwrap();
    assert_eq!(counted(near.address, "evicted"), 1.0);

    stage.cluster.kill(Role::Edge);
    near.kill();
    let near = Near::start(&stage, 6_000_000);
    let url = |media: &pb::Media| {
        let key = wechat_demo::history::cmid(&media.key);
        let (address, name) = (near.address, &media.file_id);
        format!("http://{address}/media/objects/{name}?key={key}")
    };
    let ask = |media: &pb::Media, range: &str| {
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let agent = ureq::Agent::new_with_config(config.build());
        let mut response = agent.get(url(media)).header("range", range).call().unwrap();
        let body = response.body_mut().read_to_vec().unwrap();
        (response.status().as_u16(), body)
    };
    let (status, part) = ask(&contents[2].0, "bytes=5-8");
    assert_eq!((status, part), (206, vec![2; 4]), "kept over a restart");
    let (status, words) = ask(first, "bytes=5-8");
    let words = String::from_utf8(words).unwrap();
    assert_eq!(status, 504, "{words}");
    assert!(words.contains("come again"), "{words}");
    stage.cluster.spawn(Role::Edge).unwrap();
    stage.cluster.wait_healthy().unwrap();
    assert_eq!(ask(first, "bytes=5-8"), (206, vec![0; 4]));
    near.kill();
}

#[test]
fn a_picture_has_a_small_one_and_a_bomb_is_none() {
    let stage = Stage::set();
    let edge = stage.edge_of("ann");
    let media = edge
        .upload(&stage.file("dot.png", DOT), "image/png")
        .unwrap();
    assert!(media.small_size > 0);
    let to = stage.dir.path().join("small.jpg");
    edge.fetch_small(&media, &to).unwrap();
    assert!(std::fs::read(&to).unwrap().starts_with(b"\xff\xd8\xff"));
    // Says that it has 60,000 points a side, in a few bytes.
    let mut bomb = DOT.to_vec();
    bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let mut sum = flate2::Crc::new();
    sum.update(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&sum.sum().to_be_bytes());
    let text = refused(
        edge.upload(&stage.file("bomb.png", &bomb), "image/png"),
        415,
    );
    assert!(text.contains("60000 by 60000 points"), "{text}");
    let file = edge
        .upload(&stage.file("bomb.png", &bomb), FILE_TYPE)
        .unwrap();
    assert_eq!(file.small_size, 0);
}
