//! What the embedded engine makes of files that are cut, changed, or cannot grow: an error or a beginning of
//! what was written, never anything else.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rpc_core::base::rng::Rng;

use super::{Durability, Engine, EngineError, Span, Table, embedded::Embedded};
use crate::storage::changes::Changes;

/// Rows of a batch.
const ROWS: u32 = 10;
/// Seed of where damage falls.
const SEED: u64 = 0xda_3a6e;

fn key(batch: u32, row: u32) -> [u8; 8] {
    (u64::from(batch) << 32 | u64::from(row)).to_be_bytes()
}

/// What a row has to say, so that any other value is seen.
fn value(batch: u32, row: u32) -> Vec<u8> {
    Rng::from_seed(u64::from(batch) << 32 | u64::from(row))
        .next_u64()
        .to_be_bytes()
        .repeat(32)
}

fn write(engine: &dyn Engine, batch: u32) -> Result<(), EngineError> {
    let mut changes = Changes::default();
    for row in 0..ROWS {
        changes.put(Table::Timeline, &key(batch, row), &value(batch, row));
    }
    engine.write(&[changes.as_bytes()], Durability::Synced)
}

/// Number of batches, all of which are whole and right and the first ones; or what reading says.
fn batches(engine: &dyn Engine) -> Result<u32, EngineError> {
    let mut rows = 0;
    engine.scan(Table::Timeline, Span::ALL, &mut |found, there| {
        let (batch, row) = (rows / ROWS, rows % ROWS);
        assert_eq!(found, key(batch, row), "no batch is missing between others");
        assert_eq!(there, value(batch, row));
        rows += 1;
        true
    })?;
    assert_eq!(rows % ROWS, 0, "no batch is there in part");
    Ok(rows / ROWS)
}

/// Files below `dir` whose name ends so, the longest first.
fn files(dir: &Path, end: impl Fn(&Path) -> bool + Copy) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, end));
        } else if end(&path) {
            found.push(path);
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    found
}

fn is_journal(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "jnl")
}

fn is_table(path: &Path) -> bool {
    path.parent()
        .is_some_and(|folder| folder.ends_with("tables"))
}

/// A store of `count` batches, closed; its folder.
fn filled(count: u32, flushed: bool) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let engine = Embedded::open(dir.path()).unwrap();
    for batch in 0..count {
        write(&engine, batch).unwrap();
    }
    if flushed {
        engine.flush();
    }
    drop(engine);
    dir
}

/// Bytes of a journal that say something: what follows was set aside for later.
fn written(journal: &[u8]) -> usize {
    journal.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

#[test]
fn a_torn_journal_is_a_beginning_of_what_was_written() {
    const BATCHES: u32 = 20;
    let mut rng = Rng::from_seed(SEED);
    let mut found = Vec::new();
    for _ in 0..12 {
        let dir = filled(BATCHES, false);
        let journal = files(dir.path(), is_journal).remove(0);
        let bytes = fs::read(&journal).unwrap();
        let cut = rng.below(written(&bytes) as u64) as usize;
        fs::write(&journal, &bytes[..cut]).unwrap();
        let engine = Embedded::open(dir.path()).unwrap();
        let left = batches(&engine).unwrap();
        assert!(left < BATCHES, "seed {SEED}: something was cut");
        // It goes on from there.
        write(&engine, left).unwrap();
        drop(engine);
        let engine = Embedded::open(dir.path()).unwrap();
        assert_eq!(batches(&engine).unwrap(), left + 1);
        found.push(left);
    }
    assert!(found.iter().any(|left| *left > 0), "{found:?}");
}

#[test]
fn a_flipped_bit_in_the_journal_is_never_read() {
    const BATCHES: u32 = 20;
    let mut rng = Rng::from_seed(SEED);
    let mut refused = 0;
    for _ in 0..12 {
        let dir = filled(BATCHES, false);
        let journal = files(dir.path(), is_journal).remove(0);
        let mut bytes = fs::read(&journal).unwrap();
        let at = rng.below(written(&bytes) as u64) as usize;
        bytes[at] ^= 1 << rng.below(8);
        fs::write(&journal, &bytes).unwrap();
        match Embedded::open(dir.path()) {
            Ok(engine) => assert!(batches(&engine).unwrap() <= BATCHES),
            Err(error) => {
                assert!(matches!(error, EngineError::Damaged(_)), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "seed {SEED}: a checksum has to differ once");
}

#[test]
fn a_flipped_bit_in_the_head_of_a_batch_is_damage_or_an_end() {
    let dir = filled(3, false);
    let journal = files(dir.path(), is_journal).remove(0);
    let good = fs::read(&journal).unwrap();
    let good = &good[..written(&good)];
    for at in 0..48 {
        let mut bad = good.to_vec();
        bad[at] ^= 0x80;
        fs::write(&journal, &bad).unwrap();
        match Embedded::open(dir.path()) {
            Ok(engine) => assert!(batches(&engine).unwrap() <= 3),
            Err(error) => assert!(matches!(error, EngineError::Damaged(_)), "{at}: {error}"),
        }
    }
}

#[test]
fn a_flipped_bit_in_a_table_is_reported_and_never_read() {
    let dir = filled(200, true);
    let table = files(dir.path(), is_table).remove(0);
    let good = fs::read(&table).unwrap();
    let mut rng = Rng::from_seed(SEED);
    let mut refused = 0;
    for _ in 0..24 {
        let mut bad = good.clone();
        let at = rng.below(bad.len() as u64) as usize;
        bad[at] ^= 1 << rng.below(8);
        fs::write(&table, &bad).unwrap();
        // Whatever is read is right (`batches` looks), or is an error.
        match Embedded::open(dir.path()).and_then(|engine| batches(&engine)) {
            Ok(_) => {}
            Err(error) => {
                assert!(matches!(error, EngineError::Damaged(_)), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 12, "seed {SEED}: {refused} of 24 were noticed");
    fs::write(&table, &good).unwrap();
    let engine = Embedded::open(dir.path()).unwrap();
    assert_eq!(batches(&engine).unwrap(), 200);
}

/// Where [`on_a_small_disk`] works, in the processes that the next test starts.
const SMALL_DISK: &str = "ENGINE_SMALL_DISK";

#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    // A disk of 8 MiB in a mount namespace of its own; later there is room again.
    let script = r#"mount -t tmpfs -o size=8m tmpfs "$1" || exit 77
"$0" --exact --nocapture storage::engine::damage_tests::on_a_small_disk || exit 1
mount -o remount,size=256m "$1"
"$0" --exact --nocapture storage::engine::damage_tests::on_a_small_disk"#;
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(dir.path())
        .env(SMALL_DISK, dir.path())
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.status.code() == Some(77) || said.contains("unshare failed") {
        eprintln!("NOT RUN: a small disk needs the right to mount one: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    assert!(said.contains("the disk is full after"), "{said}");
    assert!(said.contains("there is room again"), "{said}");
}

/// First until the disk is full, then once more: a part of the test above, nothing by itself.
#[test]
fn on_a_small_disk() {
    let Some(dir) = std::env::var_os(SMALL_DISK).map(PathBuf::from) else {
        return;
    };
    let acknowledged = dir.join("acknowledged");
    let engine = Embedded::open(&dir.join("store")).unwrap();
    if !acknowledged.exists() {
        // Room for the number is taken while there is some.
        fs::write(&acknowledged, 0_u32.to_be_bytes()).unwrap();
        let mut batch = 0;
        let error = loop {
            match write(&engine, batch) {
                Ok(()) => batch += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, EngineError::Disk(_)), "{error}");
        fs::write(&acknowledged, batch.to_be_bytes()).unwrap();
        println!("the disk is full after {batch} batches: {error}");
        return;
    }
    let promised = u32::from_be_bytes(fs::read(&acknowledged).unwrap().try_into().unwrap());
    let there = batches(&engine).unwrap();
    assert!(promised > 100 && there >= promised, "{there} of {promised}");
    write(&engine, there).unwrap();
    assert_eq!(batches(&engine).unwrap(), there + 1);
    println!("there is room again, and {there} batches");
}
