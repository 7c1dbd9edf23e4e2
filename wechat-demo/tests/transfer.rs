//! `export` and `import` by the command, over real directories and a real MariaDB.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use bytes::Bytes;
use libraries::processes::Process;
use rpc_core::base::rng::Rng;
use wechat_demo::{
    model::Placement,
    storage::{
        changes::Changes,
        engine::{Durability, Engine, Table, copy::Target, embedded::Embedded},
        store::Identity,
    },
};

/// Seed of the rows.
const SEED: u64 = 41;

/// A store with rows of all tables.
fn fill(dir: &Path) {
    let engine = Embedded::open(dir).unwrap();
    let place = Placement::new(8).unwrap();
    Identity::of_copy(Bytes::from_static(b"one store's id.."), place)
        .store(&engine)
        .unwrap();
    let mut rng = Rng::from_seed(SEED);
    let mut rows = Changes::default();
    for table in [Table::Log, Table::Timeline, Table::Rows, Table::Tasks] {
        for n in 0..1_000_u64 {
            let mut key = n.to_be_bytes().to_vec();
            key.truncate(8 - rng.below(2) as usize * 3);
            let value: Vec<u8> = (0..rng.below(600)).map(|_| rng.below(256) as u8).collect();
            rows.put(table, &key, &value);
        }
    }
    rows.put(Table::Log, b"large", &vec![7; 5 << 20]);
    engine
        .write(&[rows.as_bytes()], Durability::Synced)
        .unwrap();
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wechat-demo"))
        .args(arguments)
        .output()
        .unwrap()
}

fn done(arguments: &[&str]) {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("ported") && told.contains("rows"), "{told}");
}

/// The one line of what was refused.
fn refused(arguments: &[&str]) -> String {
    let output = run(arguments);
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?} was not refused");
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

#[test]
fn a_store_is_the_same_after_a_way_through_another_engine() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fill(Path::new(&path("first")));
    let server = Process::mariadb().unwrap();
    let url = format!("mysql://root@{}/store", server.addr());
    let database = ["--engine", "mysql", "--database", &url];
    let (a, b, c) = (path("a"), path("b"), path("c"));
    done(&["export", &a, "--data-dir", &path("first")]);
    done(&[&["import", &*a][..], &database].concat());
    done(&[&["export", &*b][..], &database].concat());
    done(&["import", &b, "--data-dir", &path("second")]);
    done(&["export", &c, "--data-dir", &path("second")]);
    let exported = fs::read(&a).unwrap();
    assert!(exported.len() > 5 << 20);
    assert!(exported == fs::read(&b).unwrap() && exported == fs::read(&c).unwrap());
    // What is there is left as it is.
    for target in [&database[..], &["--data-dir", &path("second")]] {
        let line = refused(&[&["import", &*a], target].concat());
        assert!(line.contains("there is a store already"), "{line}");
    }
    let line = refused(&[&["export", &*a][..], &database].concat());
    assert!(line.contains("is there already"), "{line}");
}

#[test]
fn a_damaged_or_foreign_file_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fill(Path::new(&path("store")));
    let file = path("file");
    done(&["export", &file, "--data-dir", &path("store")]);
    let good = fs::read(&file).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 4;
    for (bytes, part) in [
        (&flipped[..], "damaged in piece"),
        (&good[..good.len() / 2], "ends in the middle"),
        (b"a diary", "no export"),
    ] {
        fs::write(&file, bytes).unwrap();
        let line = refused(&["import", &file, "--data-dir", &path("target")]);
        assert!(line.contains(part), "{line}");
        assert!(!Path::new(&path("target")).exists());
    }
    let line = refused(&[
        "export",
        &path("other"),
        "--data-dir",
        folder.path().to_str().unwrap(),
    ]);
    assert!(line.contains("holds no store"), "{line}");
    assert!(!Path::new(&path("other.part")).exists());
}

#[test]
fn an_import_that_was_interrupted_is_no_store_and_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fill(Path::new(&path("store")));
    let (a, b) = (path("a"), path("b"));
    done(&["export", &a, "--data-dir", &path("store")]);
    {
        let engine = Embedded::open(Path::new(&path("target"))).unwrap();
        let mut half = Target::begin(&engine).unwrap().unwrap();
        let mut rows = Changes::default();
        rows.put(Table::Rows, b"left over", b"");
        half.put(rows.as_bytes()).unwrap();
    }
    let line = refused(&["export", &b, "--data-dir", &path("target")]);
    assert!(line.contains("not finished"), "{line}");
    done(&["import", &a, "--data-dir", &path("target")]);
    done(&["export", &b, "--data-dir", &path("target")]);
    assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap());
}
