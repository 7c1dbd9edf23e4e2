//! What every back end must do, as tests that do not know which one they run on.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rpc_core::base::rng::Rng;

use super::{
    Durability, Engine, EngineError, KEY_BYTES, Span, Table, VALUE_BYTES,
    copy::{Source, Target, check_finished},
};
use crate::storage::changes::Changes;

/// Opens the same store each time, after the engine that was opened before is gone.
pub type Open = Box<dyn Fn() -> Arc<dyn Engine>>;

/// Runs every case on a new, empty store from `make`.
pub fn run(make: &mut dyn FnMut() -> Open) {
    for (promise, case) in CASES {
        eprintln!("case: {promise}");
        case(&make());
    }
    eprintln!("case: a copy is the same store, and no store before it is whole");
    copies(&make(), &make());
}

type Case = fn(&Open);

const CASES: [(&str, Case); 9] = [
    ("synced rows outlive the process", reopen),
    ("the last change of a row in a batch holds", last_change),
    ("a batch that cannot be read changes nothing", malformed),
    ("keys and values have bounds", bounds),
    ("rows come in the order of their bytes", order),
    ("scans stop when told, and empty spans are empty", spans),
    ("a long scan is whole both ways", long_scan),
    ("a snapshot stays as it was", snapshot),
    ("no reader sees half a batch", half_batches),
];

/// Seed of the random rows.
const SEED: u64 = 0x5eed_0f42;

/// A row to write, or to remove.
type Row<'a> = (Table, &'a [u8], Option<&'a [u8]>);

fn changes(rows: &[Row<'_>]) -> Changes {
    let mut changes = Changes::default();
    for (table, key, value) in rows {
        match value {
            Some(value) => changes.put(*table, key, value),
            None => changes.remove(*table, key),
        }
    }
    changes
}

fn write(engine: &dyn Engine, changes: &Changes) {
    engine
        .write(&[changes.as_bytes()], Durability::Synced)
        .unwrap();
}

/// Keys and values of a span.
fn rows(engine: &dyn Engine, table: Table, span: Span<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    engine
        .scan(table, span, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            true
        })
        .unwrap();
    rows
}

fn all(engine: &dyn Engine) -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
    Table::ALL
        .into_iter()
        .map(|table| rows(engine, table, Span::ALL))
        .collect()
}

fn reopen(open: &Open) {
    let engine = open();
    write(
        &*engine,
        &changes(&[
            (Table::Rows, b"a", Some(b"1")),
            (Table::Rows, b"b", Some(b"")),
            (Table::Rows, b"c", Some(b"\0\xff\x27\x22\x5c%_")),
            (Table::Log, b"a", Some(b"other table")),
        ]),
    );
    write(&*engine, &changes(&[(Table::Rows, b"a", None)]));
    let before = all(&*engine);
    drop(engine);
    let engine = open();
    assert_eq!(engine.get(Table::Rows, b"a").unwrap(), None);
    assert_eq!(engine.get(Table::Rows, b"b").unwrap().unwrap(), "");
    assert_eq!(engine.get(Table::Rows, b"B").unwrap(), None);
    assert_eq!(
        engine.get(Table::Rows, b"c").unwrap().unwrap(),
        &b"\0\xff\x27\x22\x5c%_"[..]
    );
    assert_eq!(
        engine.get(Table::Log, b"a").unwrap().unwrap(),
        "other table"
    );
    assert_eq!(all(&*engine), before);
}

fn last_change(open: &Open) {
    let engine = open();
    let first = changes(&[
        (Table::Rows, b"put", None),
        (Table::Rows, b"put", Some(b"old")),
        (Table::Rows, b"gone", Some(b"x")),
        (Table::Rows, b"back", None),
    ]);
    let second = changes(&[
        (Table::Rows, b"put", Some(b"new")),
        (Table::Rows, b"gone", None),
        (Table::Rows, b"back", Some(b"y")),
    ]);
    engine
        .write(
            &[first.as_bytes(), &[], second.as_bytes()],
            Durability::Buffered,
        )
        .unwrap();
    let expected = [("back", "y"), ("put", "new")].map(|(key, value)| (key.into(), value.into()));
    assert_eq!(rows(&*engine, Table::Rows, Span::ALL), expected);
    engine.write(&[], Durability::Synced).unwrap();
}

fn malformed(open: &Open) {
    let engine = open();
    let good = changes(&[(Table::Rows, b"a", Some(b"1"))]);
    let cut = &good.as_bytes()[..good.len() - 1];
    let error = engine
        .write(&[good.as_bytes(), cut], Durability::Synced)
        .unwrap_err();
    assert!(matches!(error, EngineError::Changes(_)), "{error}");
    assert_eq!(engine.get(Table::Rows, b"a").unwrap(), None);
    write(&*engine, &good);
    assert_eq!(engine.get(Table::Rows, b"a").unwrap().unwrap(), "1");
}

fn bounds(open: &Open) {
    let engine = open();
    let (key, value) = ([0xff; KEY_BYTES], vec![0xa5; VALUE_BYTES]);
    write(&*engine, &changes(&[(Table::Log, &key, Some(&value))]));
    let (long_key, long_value) = ([1; KEY_BYTES + 1], vec![0; VALUE_BYTES + 1]);
    let wrong: [(&[u8], &[u8]); 3] = [(b"", b"x"), (&long_key, b"x"), (b"k", &long_value)];
    for (key, value) in wrong {
        let batch = changes(&[
            (Table::Log, b"fine", Some(b"")),
            (Table::Log, key, Some(value)),
        ]);
        let error = engine
            .write(&[batch.as_bytes()], Durability::Synced)
            .unwrap_err();
        assert!(matches!(error, EngineError::Bounds { .. }), "{error}");
    }
    drop(engine);
    let found = rows(&*open(), Table::Log, Span::ALL);
    assert_eq!(found.len(), 1);
    assert!(found[0] == (key.to_vec(), value));
}

fn order(open: &Open) {
    let engine = open();
    let mut rng = Rng::from_seed(SEED);
    let mut model = BTreeMap::new();
    for round in 0..20 {
        let mut batch = Changes::default();
        for _ in 0..30 {
            // Few letters, so that many keys begin alike and many are met again.
            let key: Vec<u8> = (0..=rng.below(4))
                .map(|_| [0, 1, b' ', b'a', b'A', 0xff][rng.below(6) as usize])
                .collect();
            if rng.below(4) == 0 {
                batch.remove(Table::Timeline, &key);
                model.remove(&key);
            } else {
                let value = vec![round; rng.below(20) as usize];
                batch.put(Table::Timeline, &key, &value);
                model.insert(key, value);
            }
        }
        write(&*engine, &batch);
        let keys: Vec<_> = model.keys().cloned().collect();
        let mut pick = || match rng.below(5) {
            0 => vec![0xff; 6],
            _ => keys[rng.below(keys.len() as u64) as usize].clone(),
        };
        let (mut from, mut to) = (pick(), pick());
        if from > to {
            std::mem::swap(&mut from, &mut to);
        }
        let mut expected: Vec<_> = model
            .range(from.clone()..to.clone())
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        for backwards in [false, true] {
            let span = Span {
                from: &from,
                to: &to,
                backwards,
            };
            assert_eq!(
                rows(&*engine, Table::Timeline, span),
                expected,
                "seed {SEED}, round {round}"
            );
            expected.reverse();
        }
    }
}

fn spans(open: &Open) {
    let engine = open();
    let mut batch = Changes::default();
    for key in 0..10_u8 {
        batch.put(Table::Tasks, &[key], &[key]);
    }
    write(&*engine, &batch);
    let collect = |from: u8, to: u8, backwards, most| {
        let mut keys = Vec::new();
        let span = Span {
            from: &[from],
            to: &[to],
            backwards,
        };
        engine
            .scan(Table::Tasks, span, &mut |key, _| {
                keys.push(key[0]);
                keys.len() < most
            })
            .unwrap();
        keys
    };
    assert_eq!(collect(3, 7, false, 99), [3, 4, 5, 6]);
    assert_eq!(collect(3, 7, true, 2), [6, 5]);
    assert_eq!(collect(8, 99, false, 99), [8, 9]);
    assert!(collect(4, 4, false, 99).is_empty());
    assert!(collect(7, 3, true, 99).is_empty());
    assert!(rows(&*engine, Table::Rows, Span::ALL).is_empty());
}

fn long_scan(open: &Open) {
    const ROWS: u32 = 3_000;
    let engine = open();
    let mut batch = Changes::default();
    for n in 0..ROWS {
        batch.put(Table::Timeline, &n.to_be_bytes(), &[n as u8; 100]);
    }
    write(&*engine, &batch);
    for backwards in [false, true] {
        let found = rows(
            &*engine,
            Table::Timeline,
            Span {
                backwards,
                ..Span::ALL
            },
        );
        let mut keys: Vec<_> = found.into_iter().map(|(key, _)| key).collect();
        if backwards {
            keys.reverse();
        }
        let expected: Vec<_> = (0..ROWS).map(|n| n.to_be_bytes().to_vec()).collect();
        assert!(keys == expected, "backwards: {backwards}");
    }
}

fn snapshot(open: &Open) {
    let engine = open();
    let fill = |value: &[u8]| {
        let mut batch = Changes::default();
        for table in [Table::Rows, Table::Timeline] {
            for n in 0..200_u8 {
                batch.put(table, &[n], value);
            }
        }
        write(&*engine, &batch);
    };
    fill(b"before");
    let mut moment = engine.snapshot().unwrap();
    fill(b"after");
    write(&*engine, &changes(&[(Table::Timeline, &[7], None)]));
    for table in [Table::Rows, Table::Timeline] {
        let mut seen = 0;
        moment
            .scan(table, Span::ALL, &mut |_, value| {
                assert_eq!(value, b"before");
                seen += 1;
                true
            })
            .unwrap();
        assert_eq!(seen, 200);
    }
    drop(moment);
    assert_eq!(engine.get(Table::Rows, &[0]).unwrap().unwrap(), "after");
    assert_eq!(engine.get(Table::Timeline, &[7]).unwrap(), None);
}

fn half_batches(open: &Open) {
    const BATCHES: u32 = 60;
    let engine = open();
    let put = |n: u32| {
        let mut batch = Changes::default();
        for row in 0..50_u8 {
            batch.put(Table::Rows, &[row], &n.to_be_bytes());
        }
        engine
            .write(&[batch.as_bytes()], Durability::Buffered)
            .unwrap();
        // Read your writes.
        assert_eq!(
            engine.get(Table::Rows, &[49]).unwrap().unwrap(),
            &n.to_be_bytes()[..]
        );
    };
    put(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut newest = Vec::new();
                    while !done.load(Ordering::Relaxed) {
                        let found = rows(&*engine, Table::Rows, Span::ALL);
                        assert_eq!(found.len(), 50);
                        assert!(found.iter().all(|(_, value)| *value == found[0].1));
                        assert!(found[0].1 >= newest, "what was seen stays");
                        newest.clone_from(&found[0].1);
                    }
                })
            })
            .collect();
        (1..=BATCHES).for_each(put);
        done.store(true, Ordering::Relaxed);
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
    });
}

fn copies(open: &Open, open_target: &Open) {
    let engine = open();
    let mut rng = Rng::from_seed(SEED);
    let mut batch = Changes::default();
    for table in Table::ALL {
        for n in 0..rng.below(300) {
            let value = vec![n as u8; rng.below(900) as usize];
            batch.put(table, &n.to_be_bytes(), &value);
        }
    }
    write(&*engine, &batch);
    let target = open_target();
    // A first attempt that does not get far, from another state of the source.
    let mut first = Target::begin(&*target).unwrap().unwrap();
    first.put(&[&[3, 1, 9, 2][..], b"x"].concat()).unwrap();
    assert!(matches!(
        check_finished(&*target),
        Err(EngineError::Unfinished)
    ));
    let mut second = Target::begin(&*target).unwrap().unwrap();
    let mut source = Source::new(&*engine).unwrap();
    write(&*engine, &changes(&[(Table::Rows, b"later", Some(b""))]));
    let mut pieces = 0;
    while let Some(piece) = source.piece(16 << 10).unwrap() {
        assert!(piece.len() < 18 << 10);
        second.put(&piece).unwrap();
        pieces += 1;
    }
    assert!(pieces > 1);
    second.finish().unwrap();
    check_finished(&*target).unwrap();
    assert!(Target::begin(&*target).unwrap().is_none(), "it is a store");
    drop(target);
    write(&*engine, &changes(&[(Table::Rows, b"later", None)]));
    let copied = all(&*open_target());
    assert_eq!(
        source.rows(),
        copied.iter().map(Vec::len).sum::<usize>() as u64
    );
    assert!(copied == all(&*engine));
}
