//! A store in a directory of its own, closed and opened again as after a crash.

use std::ops::Range;

use super::*;

const BOUNDS: Bounds = Bounds {
    object: 1 << 20,
    owner: 3 << 20,
    total: 4 << 20,
};
const NOW: i64 = 1_700_000_000_000;

fn open(dir: &Path) -> Store {
    Store::open(dir, BOUNDS, NOW).unwrap()
}

fn content(owner: u64, bytes: &[u8]) -> Content {
    Content {
        owner,
        hash: blake3::hash(bytes),
        size: bytes.len() as u64,
        form: Form::File,
    }
}

fn begin(store: &Store, content: &Content) -> (Id, u64) {
    match store.begin(content, NOW).unwrap() {
        Begun::Upload(id, progress) => (id, progress.offset),
        Begun::There(object) => panic!("{object:?} is there already"),
    }
}

/// Bytes and number of all that is counted.
fn counted(store: &Store) -> (u64, usize) {
    let table = store.table.lock();
    (table.bytes, table.count)
}

fn put(store: &Store, owner: u64, bytes: &[u8]) -> Object {
    let (id, offset) = begin(store, &content(owner, bytes));
    store
        .append(owner, id, offset, &bytes[offset as usize..])
        .unwrap();
    store.finish(owner, id).unwrap()
}

fn read(store: &Store, id: Id, range: Range<u64>) -> Vec<u8> {
    let piece = store.piece(id, Sight::Whole).unwrap().unwrap();
    piece.read(range).unwrap()
}

#[test]
fn an_upload_goes_on_where_it_was_after_the_store_was_closed() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = vec![7; 200_000];
    let what = content(1, &bytes);
    let store = open(dir.path());
    let (id, offset) = begin(&store, &what);
    assert_eq!(offset, 0);
    store.append(1, id, 0, &bytes[..150_000]).unwrap();
    let error = store.append(1, id, 149_999, &bytes[149_999..]);
    assert!(matches!(error, Err(Fault::Offset(150_000))));
    assert!(matches!(store.finish(1, id), Err(Fault::Offset(150_000))));
    drop(store);

    let store = open(dir.path());
    assert_eq!(begin(&store, &what), (id, 150_000), "the same upload");
    let rest = store.append(1, id, 150_000, &bytes[150_000..]).unwrap();
    assert_eq!(rest.offset, rest.size);
    let more = store.append(1, id, 200_000, b"x");
    assert!(matches!(more, Err(Fault::TooLong(200_000))));
    let object = store.finish(1, id).unwrap();
    assert_eq!(read(&store, object.id, 0..200_000), bytes);
    assert_eq!(read(&store, object.id, 5..7), [7; 2]);
    drop(store);

    let store = open(dir.path());
    assert!(matches!(store.begin(&what, NOW), Ok(Begun::There(found)) if found.id == id));
    assert!(matches!(store.progress(1, id), Err(Fault::Unknown(_))));
}

#[test]
fn what_another_owner_has_is_no_news() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let object = put(&store, 1, b"secret");
    let (id, offset) = begin(&store, &content(2, b"secret"));
    assert_ne!(id, object.id);
    assert_eq!(offset, 0, "another uploads it all");
    assert!(matches!(store.progress(1, id), Err(Fault::Unknown(_))));
    assert!(matches!(
        store.append(1, id, 0, b"s"),
        Err(Fault::Unknown(_))
    ));
    assert!(matches!(store.cancel(1, id), Err(Fault::Unknown(_))));
    assert!(matches!(store.remove(2, object.id), Err(Fault::Unknown(_))));
    assert!(store.object(object.id).unwrap().is_some());
}

#[test]
fn what_is_not_what_it_said_is_thrown_away_and_counted_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let lie = Content {
        hash: blake3::hash(b"something else"),
        ..content(1, b"some bytes")
    };
    let (id, _) = begin(&store, &lie);
    store.append(1, id, 0, b"some bytes").unwrap();
    assert!(matches!(store.finish(1, id), Err(Fault::Hash)));
    assert!(matches!(store.progress(1, id), Err(Fault::Unknown(_))));
    let picture = Content {
        form: Form::Png,
        ..content(1, b"some bytes")
    };
    let (id, _) = begin(&store, &picture);
    store.append(1, id, 0, b"some bytes").unwrap();
    assert!(matches!(store.finish(1, id), Err(Fault::Type("image/png"))));
    assert!(store.table.lock().owners.is_empty());
    assert!(ids(&store.uploads).unwrap().is_empty());
}

#[test]
fn bounds_hold_for_what_is_declared_and_open_again_with_what_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let said = |owner, size, what: &[u8]| Content {
        size,
        ..content(owner, what)
    };
    let begin = |content: Content| store.begin(&content, NOW);
    assert!(matches!(begin(said(1, 0, b"0")), Err(Fault::Size { .. })));
    assert!(matches!(
        begin(said(1, (1 << 20) + 1, b"0")),
        Err(Fault::Size { .. })
    ));
    for what in [b"a", b"b", b"c"] {
        assert!(begin(said(1, 1 << 20, what)).is_ok());
    }
    assert!(begin(said(1, 1 << 20, b"c")).is_ok(), "the same once more");
    assert!(matches!(begin(said(1, 1, b"d")), Err(Fault::Quota { .. })));
    assert!(begin(said(2, 1 << 20, b"d")).is_ok());
    assert!(matches!(begin(said(3, 1, b"d")), Err(Fault::Full)));
    let id = store.secret.id(&said(1, 1 << 20, b"a"));
    store.cancel(1, id).unwrap();
    for n in 0..14_u8 {
        assert!(begin(said(1, 1, &[n])).is_ok());
    }
    assert!(matches!(begin(said(1, 1, &[99])), Err(Fault::Uploads)));

    assert_eq!(store.expire(NOW + UPLOAD_LIFE_MS - 1).unwrap(), 0);
    assert_eq!(store.expire(NOW + UPLOAD_LIFE_MS).unwrap(), 17);
    let object = put(&store, 3, b"abc");
    assert_eq!(store.table.lock().bytes, 3);
    store.remove(3, object.id).unwrap();
    assert_eq!(counted(&store), (0, 0));
    assert!(store.object(object.id).unwrap().is_none());
}

#[test]
fn a_crash_between_the_steps_of_a_commit_loses_nothing_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (id, _) = begin(&store, &content(1, b"whole"));
    store.append(1, id, 0, b"whole").unwrap();
    let at = |dir: &Path| dir.join(id.to_string());
    // The bytes were linked, the record was not written.
    fs::hard_link(at(&store.uploads), at(&store.objects)).unwrap();
    let (uploads, objects) = (store.uploads.clone(), store.objects.clone());
    assert!(store.object(id).unwrap().is_none(), "not there yet");
    drop(store);
    let store = open(dir.path());
    assert!(!at(&objects).exists());
    assert_eq!(store.progress(1, id).unwrap().offset, 5);
    store.finish(1, id).unwrap();
    // The record was written, the upload not removed.
    fs::hard_link(at(&objects), at(&uploads)).unwrap();
    fs::copy(record_path(&objects, id), record_path(&uploads, id)).unwrap();
    fs::write(uploads.join(format!("{id}.json.new")), "{").unwrap();
    drop(store);
    let store = open(dir.path());
    assert!(ids(&uploads).unwrap().is_empty());
    assert_eq!(counted(&store), (5, 1));
    assert_eq!(read(&store, id, 0..5), b"whole");
}

#[test]
fn a_directory_is_used_by_one_process_and_a_damaged_record_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let object = put(&store, 1, b"abc");
    let second = Store::open(dir.path(), BOUNDS, NOW).err().unwrap();
    assert!(second.to_string().contains("another process"), "{second}");
    let path = record_path(&store.objects, object.id);
    fs::write(&path, "{").unwrap();
    assert!(matches!(store.object(object.id), Err(Fault::Disk(_))));
    drop(store);
    let store = open(dir.path());
    assert!(path.exists() && store.table.lock().count == 0);
}
