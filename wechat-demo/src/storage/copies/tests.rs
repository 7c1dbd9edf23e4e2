//! The rules between the two copies, one by one; [`super::super::model_tests`] mixes them.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{Copies, Fatal, Peer, PeerError, backup::Backup, fixed::Fixed};
use crate::{
    model::{Placement, ShardId, clock::TestClock},
    proto::storage as pb,
    storage::{
        changes::Changes,
        engine::{
            Engine, Table,
            simulated::{Disk, Fuse},
        },
        log::{Entry, Mark},
        ops::{Refusal, RefusalKind, Stop},
        store::{Identity, Job, Store},
        table,
    },
};

const ID: Bytes = Bytes::from_static(b"one store's id..");
const SHARD: ShardId = ShardId(1);

/// A backup of two shards that has met its primary.
fn backup(disk: &Disk) -> Backup {
    let mut backup = Backup::open(Arc::new(disk.open(Fuse::none()))).unwrap();
    backup.marks(&marks_request()).unwrap();
    backup
}

fn marks_request() -> pb::MarksRequest {
    pb::MarksRequest {
        store_id: ID,
        shards: 2,
        epoch: 100,
        ..pb::MarksRequest::default()
    }
}

/// Entries of one epoch that follow `after`; each writes one row that says its name.
fn entries(mut after: Mark, epoch: u64, names: &[&str]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for name in names {
        let mut changes = Changes::default();
        changes.put(Table::Rows, name.as_bytes(), b"applied");
        let changes = Bytes::from(changes.into_bytes());
        after = after.next(epoch, &changes);
        entries.push(Entry {
            mark: after,
            changes,
        });
    }
    entries
}

fn append(epoch: u64, after: Mark, entries: &[Entry], committed: u64) -> pb::AppendRequest {
    let segment = pb::Segment {
        shard: u32::from(SHARD.0),
        after: Some(after.to_proto(SHARD)),
        entries: entries.iter().map(Entry::to_proto).collect(),
        committed,
    };
    pb::AppendRequest {
        store_id: ID,
        epoch,
        segments: vec![segment],
        ..pb::AppendRequest::default()
    }
}

fn end(backup: &mut Backup) -> (u64, u64) {
    let mark = backup
        .marks(&marks_request())
        .unwrap()
        .marks
        .remove(usize::from(SHARD.0));
    (mark.offset, mark.applied)
}

fn refusal(stop: Stop) -> Refusal {
    match stop {
        Stop::Refused(refusal) => refusal,
        Stop::Fatal(error) => panic!("failed: {error}"),
    }
}

#[test]
fn a_lower_epoch_is_refused_also_after_a_restart() {
    let disk = Disk::default();
    let first = entries(Mark::default(), 5, &["a"]);
    backup(&disk)
        .append(&append(5, Mark::default(), &first, 0))
        .unwrap();
    let mut backup = backup(&disk);
    let old = entries(first[0].mark, 4, &["b"]);
    let reply = backup.append(&append(4, first[0].mark, &old, 0)).unwrap();
    assert_eq!(reply.epoch, 5);
    assert_eq!(end(&mut backup), (1, 0));
}

#[test]
fn a_promise_outlives_the_process() {
    let disk = Disk::default();
    backup(&disk).promise(7).unwrap();
    disk.crash(0);
    let mut backup = Backup::open(Arc::new(disk.open(Fuse::none()))).unwrap();
    let first = entries(Mark::default(), 6, &["a"]);
    let reply = backup
        .append(&append(6, Mark::default(), &first, 0))
        .unwrap();
    assert_eq!((reply.epoch, backup.epoch()), (7, 7));
    assert_eq!(backup.marks(&marks_request()).unwrap().epoch, 7);
}

#[test]
fn an_append_that_comes_twice_is_taken_once() {
    let mut backup = backup(&Disk::default());
    let request = append(
        1,
        Mark::default(),
        &entries(Mark::default(), 1, &["a", "b"]),
        0,
    );
    for _ in 0..2 {
        assert!(backup.append(&request).unwrap().lacking.is_empty());
        assert_eq!(end(&mut backup), (2, 0));
    }
}

#[test]
fn entries_after_a_gap_are_not_taken_and_the_primary_learns_from_where() {
    let mut backup = backup(&Disk::default());
    let all = entries(Mark::default(), 1, &["a", "b", "c"]);
    backup
        .append(&append(1, Mark::default(), &all[..1], 0))
        .unwrap();
    let reply = backup
        .append(&append(1, all[1].mark, &all[2..], 0))
        .unwrap();
    assert_eq!(
        reply
            .lacking
            .iter()
            .map(|mark| mark.offset)
            .collect::<Vec<_>>(),
        [1]
    );
    assert_eq!(end(&mut backup), (1, 0));
}

#[test]
fn what_does_not_follow_the_primarys_log_is_cut() {
    let disk = Disk::default();
    let mut backup = backup(&disk);
    let old = entries(Mark::default(), 1, &["a", "old b", "old c"]);
    backup.append(&append(1, Mark::default(), &old, 1)).unwrap();
    let new = entries(old[0].mark, 2, &["new b"]);
    let reply = backup.append(&append(2, old[0].mark, &new, 2)).unwrap();
    assert!(reply.lacking.is_empty());
    assert_eq!(end(&mut backup), (2, 2));
    let engine = disk.open(Fuse::none());
    assert_eq!(
        engine.get(Table::Rows, b"new b").unwrap().unwrap(),
        "applied"
    );
    assert_eq!(engine.get(Table::Rows, b"old b").unwrap(), None);
    assert_eq!(engine.get(Table::Log, &table::log(SHARD, 3)).unwrap(), None);
}

#[test]
fn what_is_applied_is_never_cut() {
    let mut backup = backup(&Disk::default());
    let old = entries(Mark::default(), 1, &["a", "b"]);
    backup.append(&append(1, Mark::default(), &old, 2)).unwrap();
    let other = entries(old[0].mark, 2, &["other"]);
    let refusal = refusal(
        backup
            .append(&append(2, old[0].mark, &other, 2))
            .unwrap_err(),
    );
    assert!(refusal.text.contains("grown apart"), "{refusal}");
    assert_eq!(end(&mut backup), (2, 2));
}

#[test]
fn only_what_is_committed_is_applied() {
    let disk = Disk::default();
    let mut backup = backup(&disk);
    let all = entries(Mark::default(), 1, &["a", "b", "c"]);
    backup.append(&append(1, Mark::default(), &all, 1)).unwrap();
    assert_eq!(end(&mut backup), (3, 1));
    let engine = disk.open(Fuse::none());
    assert!(engine.get(Table::Rows, b"a").unwrap().is_some());
    assert!(engine.get(Table::Rows, b"b").unwrap().is_none());
}

#[test]
fn an_entry_damaged_on_its_way_changes_nothing() {
    let mut backup = backup(&Disk::default());
    let all = entries(Mark::default(), 1, &["a", "b"]);
    let mut request = append(1, Mark::default(), &all, 0);
    request.segments[0].entries[1].changes = Bytes::from_static(b"noise");
    let refusal = refusal(backup.append(&request).unwrap_err());
    assert_eq!(
        (refusal.kind, end(&mut backup)),
        (RefusalKind::Unavailable, (0, 0))
    );
}

#[test]
fn a_backup_of_another_store_is_left_alone() {
    let mut backup = backup(&Disk::default());
    let request = pb::MarksRequest {
        store_id: Bytes::from_static(b"another"),
        ..marks_request()
    };
    assert!(
        refusal(backup.marks(&request).unwrap_err())
            .text
            .contains("another store")
    );
}

/// A backup that always answers.
struct Near(Mutex<Backup>);

impl Near {
    fn call<T>(&self, call: impl FnOnce(&mut Backup) -> Result<T, Stop>) -> Result<T, PeerError> {
        call(&mut self.0.lock().unwrap()).map_err(|stop| PeerError::Refused(refusal(stop).text))
    }
}

impl Peer for Near {
    fn marks(&self, request: pb::MarksRequest) -> Result<pb::MarksReply, PeerError> {
        self.call(|backup| backup.marks(&request))
    }
    fn read_log(&self, request: pb::ReadLogRequest) -> Result<pb::ReadLogReply, PeerError> {
        self.call(|backup| backup.read_log(&request))
    }
    fn append(&self, request: pb::AppendRequest) -> Result<pb::AppendReply, PeerError> {
        self.call(|backup| backup.append(&request))
    }
    fn load(&self, request: pb::LoadRequest) -> Result<pb::LoadReply, PeerError> {
        self.call(|backup| backup.load(&request))
    }
}

fn start(ours: &Disk, theirs: &Disk) -> Result<Store, Fatal> {
    start_with(ours, theirs, false)
}

/// With the other copy as the backup, or as a spare.
fn start_with(ours: &Disk, theirs: &Disk, spare: bool) -> Result<Store, Fatal> {
    let engine: Arc<dyn Engine> = Arc::new(ours.open(Fuse::none()));
    let identity = match Identity::load(&*engine)? {
        Some(identity) => identity,
        None => Identity::of_copy(ID, Placement::new(2).unwrap()),
    };
    let backup = Backup::open(Arc::new(theirs.open(Fuse::none())))?;
    let peer: Option<Arc<dyn Peer>> = Some(Arc::new(Near(Mutex::new(backup))));
    let (peer, spare) = if spare { (None, peer) } else { (peer, None) };
    let fixed = Fixed {
        epoch: identity.epoch + 1,
        peer,
        spare,
        pause: Box::new(|| Err(Fatal::Stopped)),
    };
    let copies = Copies::new(Box::new(fixed), identity.same(), 2);
    Store::start(engine, Arc::new(TestClock::default()), identity, copies)
}

fn claim(store: &mut Store, names: &[&str]) {
    for name in names {
        let request = pb::ClaimNameRequest {
            name: (*name).to_owned(),
            ..Default::default()
        };
        let op = crate::storage::ops::Op::ClaimName(request);
        store
            .round(
                &mut [Job {
                    op,
                    reply: Box::new(drop),
                }]
                .into(),
            )
            .unwrap();
    }
    while store.has_work() {
        store.round(&mut Default::default()).unwrap();
    }
}

fn whole(engine: &dyn Engine, names: &[&str]) -> bool {
    names.iter().all(|name| {
        crate::storage::timeline::find_name(engine, name)
            .is_ok_and(|user| crate::storage::timeline::account(engine, user).is_ok())
    })
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// The last log entry of each shard.
fn log_ends(disk: &Disk) -> Vec<Vec<u8>> {
    let mut ends = Vec::new();
    disk.rot(|rows| {
        for shard in 0..2_u8 {
            let keys = rows
                .keys()
                .filter(|(table, key)| *table == Table::Log && key[0] == shard);
            ends.extend(keys.max().map(|(_, key)| key.clone()));
        }
    });
    ends
}

#[test]
fn a_torn_or_rotten_tail_is_mended_from_the_other_copy() {
    for rotten in [false, true] {
        let (ours, theirs) = (Disk::default(), Disk::default());
        claim(&mut start(&ours, &theirs).unwrap(), &NAMES);
        ours.crash(usize::MAX);
        let ends = log_ends(&ours);
        assert_eq!(ends.len(), 2);
        ours.rot(|rows| {
            for key in ends {
                let key = (Table::Log, key);
                if rotten {
                    rows.get_mut(&key).unwrap()[15] ^= 1;
                } else {
                    rows.remove(&key);
                }
            }
        });
        let mut store = start(&ours, &theirs).unwrap();
        claim(&mut store, &["g"]);
        assert!(whole(&*store.engine(), &[&NAMES[..], &["g"]].concat()));
    }
}

#[test]
fn damage_that_the_other_copy_cannot_mend_is_said_and_not_served() {
    let (ours, theirs) = (Disk::default(), Disk::default());
    claim(&mut start(&ours, &theirs).unwrap(), &NAMES);
    for disk in [&ours, &theirs] {
        disk.crash(usize::MAX);
        for key in log_ends(disk) {
            disk.rot(|rows| rows.get_mut(&(Table::Log, key)).unwrap()[15] ^= 1);
        }
    }
    let error = start(&ours, &theirs)
        .err()
        .expect("it does not start")
        .to_string();
    assert!(error.contains("damaged"), "{error}");
}

#[test]
fn each_start_takes_a_higher_epoch() {
    let (ours, theirs) = (Disk::default(), Disk::default());
    for epoch in 1..4 {
        let mut store = start(&ours, &theirs).unwrap();
        assert_eq!(store.identity().epoch, epoch);
        claim(&mut store, &["x"]);
    }
}

#[test]
fn logs_stay_short_and_what_they_said_stays() {
    let (ours, theirs) = (Disk::default(), Disk::default());
    let mut store = start(&ours, &theirs).unwrap();
    let names: Vec<String> = (0..12_000).map(|n| format!("user{n}")).collect();
    for name in &names {
        let request = pb::ClaimNameRequest {
            name: name.clone(),
            ..Default::default()
        };
        let op = crate::storage::ops::Op::ClaimName(request);
        store
            .round(
                &mut [Job {
                    op,
                    reply: Box::new(drop),
                }]
                .into(),
            )
            .unwrap();
    }
    drop(store);
    for disk in [&ours, &theirs] {
        let mut kept = 0;
        disk.rot(|rows| {
            kept = rows
                .keys()
                .filter(|(table, _)| *table == Table::Log)
                .count()
        });
        assert!(kept < 2 * 6000, "{kept} entries are kept");
    }
    ours.crash(0);
    let store = start(&ours, &theirs).unwrap();
    assert!(whole(&*store.engine(), &["user0", "user11000"]));
    // A copy that lost its disk cannot be brought level from a trimmed log: a member ends the primary, …
    drop(store);
    let empty = Disk::default();
    let error = start(&ours, &empty)
        .err()
        .expect("it does not start")
        .to_string();
    assert!(error.contains("ours begins after"), "{error}");
    // … a learner is sent a snapshot, and becomes a whole copy, which can be primary.
    let empty = Disk::default();
    let mut store = start_with(&ours, &empty, true).unwrap();
    assert!(store.tend().unwrap());
    claim(&mut store, &["later"]);
    drop(store);
    empty.crash(0);
    let store = start_with(&empty, &ours, true).unwrap();
    assert!(whole(&*store.engine(), &["user0", "user11000", "later"]));
}

#[test]
fn half_a_snapshot_is_nothing_and_the_next_one_removes_it() {
    let disk = Disk::default();
    let piece = |n, last, name: &[u8]| {
        let mut changes = Changes::default();
        changes.put(Table::Rows, name, b"of a snapshot");
        let bases = [0, 1].map(|shard| Mark::default().to_proto(ShardId(shard)));
        pb::LoadRequest {
            store_id: ID,
            epoch: 3,
            shards: 2,
            n,
            changes: changes.into_bytes().into(),
            last,
            bases: bases.into(),
            ..pb::LoadRequest::default()
        }
    };
    let open = || Backup::open(Arc::new(disk.open(Fuse::none()))).unwrap();
    let mut copy = open();
    copy.load(&piece(0, false, b"one")).unwrap();
    assert!(copy.load(&piece(2, false, b"three")).is_err());
    disk.crash(usize::MAX);
    let mut copy = open();
    assert!(copy.identity().is_none());
    assert!(copy.load(&piece(1, true, b"two")).is_err());
    copy.load(&piece(0, false, b"other")).unwrap();
    copy.load(&piece(1, true, b"last")).unwrap();
    assert!(open().identity().is_some());
    let row = |name: &[u8]| disk.open(Fuse::none()).get(Table::Rows, name).unwrap();
    assert_eq!((row(b"one"), row(b"two")), (None, None));
    assert!(row(b"other").is_some() && row(b"last").is_some());
}
