//! A cache before an origin that counts, waits and lies as it is told.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::edge::ticket::{Content, Key, Secret};

/// What the origin has; its key is the secret's.
#[derive(Default)]
struct World {
    asked: AtomicUsize,
    /// Nobody answers.
    gone: AtomicBool,
    /// Bytes come that are others.
    lies: AtomicBool,
    /// An answer waits until this many wait for the fetch besides its leader.
    company: AtomicUsize,
    cache: Mutex<Option<Arc<Cache>>>,
}

struct Far(Arc<World>);

const SECRET: Secret = Secret([3; 32]);

fn bytes_of(n: u64, size: u64) -> Vec<u8> {
    (0..size).map(|at| (at * 7 + n) as u8).collect()
}

/// Object `n`, of `size` bytes.
fn wanted(n: u64, size: u64) -> Wanted {
    let id = SECRET.id(&Content {
        owner: n,
        hash: blake3::hash(b""),
        size,
        form: Form::File,
    });
    let key = SECRET.key(id);
    let sight = Sight::Whole;
    Wanted { id, sight, key }
}

impl Origin for Far {
    fn get(&self, wanted: &Wanted, from: u64, most: u64) -> Result<Part, Away> {
        let world = &self.0;
        world.asked.fetch_add(1, Ordering::Relaxed);
        let joined = || {
            let cache = world.cache.lock().clone().unwrap();
            let table = cache.table.lock();
            let fetch = table.fetching.get(wanted);
            fetch.map_or(0, |fetch| fetch.joined.load(Ordering::Relaxed))
        };
        while joined() < world.company.load(Ordering::Relaxed) {
            rpc_core::yield_now();
        }
        if world.gone.load(Ordering::Relaxed) {
            return Err(Away::Silent("nobody listens".to_owned()));
        }
        let all = (1..=9).flat_map(|n| SIZES.map(|size| (n, size)));
        let mut found = all.filter(|(n, size)| self::wanted(*n, *size) == *wanted);
        let (n, size) = found.next().ok_or(Away::Unknown)?;
        let whole = bytes_of(n, size);
        let hash = blake3::hash(&whole);
        let mut bytes = whole[from as usize..(from + most).min(size) as usize].to_vec();
        if world.lies.load(Ordering::Relaxed) {
            bytes[0] ^= 1;
        }
        Ok(Part {
            bytes,
            hash,
            size,
            form: Form::File,
        })
    }
}

const SMALL: u64 = 1_000;
const LARGE: u64 = CHUNK + 500;
const HUGE: u64 = 2 * CHUNK;
const SIZES: [u64; 3] = [SMALL, LARGE, HUGE];

fn open(dir: &tempfile::TempDir, world: &Arc<World>) -> Arc<Cache> {
    let bounds = Bounds {
        bytes: 2 * LARGE,
        object: LARGE,
    };
    let origin = Box::new(Far(Arc::clone(world)));
    let cache = Cache::open(dir.path(), bounds, origin, Arc::default()).unwrap();
    let cache = Arc::new(cache);
    *world.cache.lock() = Some(Arc::clone(&cache));
    cache
}

fn read(cache: &Cache, n: u64, size: u64) -> Result<Vec<u8>, Away> {
    let piece = cache.find(&wanted(n, size))?;
    assert_eq!(piece.size, size);
    Ok(piece.read(0..size).unwrap())
}

#[rpc_core::test]
fn one_fetch_serves_all_who_want_it_meanwhile() {
    const READERS: usize = 20;
    let (dir, world) = (tempfile::tempdir().unwrap(), Arc::<World>::default());
    let cache = open(&dir, &world);
    world.company.store(READERS - 1, Ordering::Relaxed);
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let cache = Arc::clone(&cache);
            rpc_core::spawn(move || read(&cache, 1, SMALL))
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.join().unwrap(), Ok(bytes_of(1, SMALL)));
    }
    assert_eq!(world.asked.load(Ordering::Relaxed), 1);
    world.company.store(0, Ordering::Relaxed);
    // What fails, fails for all who wait, and is tried again by who comes later.
    world.gone.store(true, Ordering::Relaxed);
    assert!(matches!(read(&cache, 2, SMALL), Err(Away::Silent(_))));
    assert_eq!(read(&cache, 1, SMALL), Ok(bytes_of(1, SMALL)), "it is kept");
    world.gone.store(false, Ordering::Relaxed);
    assert_eq!(read(&cache, 2, SMALL), Ok(bytes_of(2, SMALL)));
}

#[rpc_core::test]
fn the_least_lately_used_goes_first_and_the_rest_is_there_after_a_restart() {
    let (dir, world) = (tempfile::tempdir().unwrap(), Arc::<World>::default());
    let cache = open(&dir, &world);
    let asked = || world.asked.load(Ordering::Relaxed);
    for n in [1, 2, 1, 3] {
        assert_eq!(
            read(&cache, n, LARGE),
            Ok(bytes_of(n, LARGE)),
            "in two chunks"
        );
    }
    assert_eq!(asked(), 6, "the third time it was kept");
    assert_eq!(cache.table.lock().bytes, 2 * LARGE);
    read(&cache, 1, LARGE).unwrap();
    assert_eq!(asked(), 6);
    *world.cache.lock() = None;
    drop(cache);
    // A crash tore one that was on its way, and one lost its record.
    let (torn, lost) = (
        dir.path().join("x.new"),
        dir.path().join(wanted(9, 1).id.to_string()),
    );
    fs::write(&torn, "x").unwrap();
    fs::write(&lost, "x").unwrap();
    let cache = open(&dir, &world);
    assert!(!torn.exists() && !lost.exists());
    world.gone.store(true, Ordering::Relaxed);
    for n in [1, 3] {
        assert_eq!(read(&cache, n, LARGE), Ok(bytes_of(n, LARGE)));
    }
    assert!(read(&cache, 2, LARGE).is_err(), "it had made room");
    assert_eq!(cache.table.lock().bytes, 2 * LARGE);
}

#[rpc_core::test]
fn what_is_wrong_is_neither_kept_nor_given_out() {
    let (dir, world) = (tempfile::tempdir().unwrap(), Arc::<World>::default());
    let cache = open(&dir, &world);
    world.lies.store(true, Ordering::Relaxed);
    assert!(matches!(read(&cache, 1, SMALL), Err(Away::Silent(why)) if why.contains("hash")));
    world.lies.store(false, Ordering::Relaxed);
    assert!(matches!(read(&cache, 1, HUGE), Err(Away::Silent(why)) if why.contains("at most")));
    read(&cache, 1, SMALL).unwrap();
    let stolen = Wanted {
        key: Key::parse(&"0".repeat(64)).unwrap(),
        ..wanted(1, SMALL)
    };
    assert_eq!(
        cache.find(&stolen).err(),
        Some(Away::Unknown),
        "kept for another key"
    );
    let stolen = Wanted {
        key: stolen.key,
        ..wanted(2, SMALL)
    };
    assert_eq!(
        cache.find(&stolen).err(),
        Some(Away::Unknown),
        "the origin says so"
    );
    assert_eq!(
        read(&cache, 2, SMALL),
        Ok(bytes_of(2, SMALL)),
        "and nothing is spoiled"
    );
    assert_eq!(cache.table.lock().bytes, 2 * SMALL);
    let kept = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(kept, 4, "two pieces with their records, and no remains");
}
