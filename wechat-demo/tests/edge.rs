//! A whole cluster of processes with its edge: media come in and go out, whoever dies.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod patience;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use wechat_demo::cluster::{Cluster, Plan, Role, figures};
use wechat_demo::proto::terminal::{self as pb, media::Sort};
use wechat_demo::terminal::media::{Edge, FILE_TYPE, MediaError};
use wechat_demo::terminal::{login, register};

use patience::{patiently, wait_for};

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

    /// The edge, as a new user's device speaks to it.
    fn edge_of(&self, name: &str) -> Edge {
        let address = self.cluster.layout().link_address();
        patiently(|| register(&address, name, "password", name));
        let login = patiently(|| login(&address, name, "password", "phone"));
        Edge::new(
            &self.cluster.layout().rpc(Role::Edge).to_string(),
            &login.token,
        )
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn counted(&self, name: &str) -> f64 {
        let figures = figures(self.cluster.layout().rpc(Role::Edge));
        let name = format!("wechat_edge_{name}_total");
        figures.sum(&name, &[]).unwrap_or(0.0)
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
