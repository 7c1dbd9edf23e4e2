//! Promises of the apply machine: single cases, then a random server and a random network.

use proptest::prelude::*;

use super::*;

fn at(key: u64) -> Cursor {
    Cursor {
        key,
        ..Cursor::default()
    }
}

fn item(number: u64) -> pb::Item {
    pb::Item {
        number,
        id: number,
        ..Default::default()
    }
}

fn data(prev_key: u64, numbers: &[u64]) -> pb::Notify {
    let items: Vec<_> = numbers.iter().copied().map(item).collect();
    pb::Notify {
        prev_key,
        key: items.last().unwrap().number,
        items,
    }
}

fn plain(prev_key: u64, key: u64) -> pb::Notify {
    pb::Notify {
        prev_key,
        key,
        items: Vec::new(),
    }
}

fn answer(numbers: &[u64], key: u64, more: bool) -> pb::SyncReply {
    pb::SyncReply {
        items: numbers.iter().copied().map(item).collect(),
        key,
        more,
        ..Default::default()
    }
}

/// Expects an apply of exactly `numbers` and confirms it.
fn expect_apply(sync: &mut Sync, now: Instant, numbers: &[u64], to: u64) {
    let before = sync.key();
    let items = numbers.iter().copied().map(item).collect();
    assert_eq!(
        sync.step(now),
        Step::Apply {
            before,
            page: Page::Newer,
            items,
            after: at(to)
        }
    );
    sync.applied();
    assert_eq!(sync.key(), to);
}

fn expect_apply_from(
    sync: &mut Sync,
    now: Instant,
    before: Cursor,
    page: Page,
    numbers: &[u64],
    after: Cursor,
) {
    let apply = Step::Apply {
        before: before.key,
        page,
        items: numbers.iter().copied().map(item).collect(),
        after,
    };
    assert_eq!(sync.step(now), apply);
    sync.applied();
}

#[test]
fn a_notify_in_step_is_applied_without_asking() {
    let (mut sync, now) = (Sync::new(at(5)), Instant::from_nanos(0));
    sync.notified(data(5, &[6, 7]), now);
    expect_apply(&mut sync, now, &[6, 7], 7);
    assert_eq!(sync.step(now), Step::Wait(None));
    assert!(sync.is_level());
}

#[test]
fn a_notify_seen_before_changes_nothing() {
    let (mut sync, now) = (Sync::new(at(7)), Instant::from_nanos(0));
    sync.notified(data(5, &[6, 7]), now);
    sync.notified(plain(6, 7), now);
    assert_eq!(sync.step(now), Step::Wait(None));
}

#[test]
fn a_notify_that_overlaps_the_key_brings_only_what_is_new() {
    let (mut sync, now) = (Sync::new(at(6)), Instant::from_nanos(0));
    sync.notified(data(5, &[6, 7, 9]), now);
    expect_apply(&mut sync, now, &[7, 9], 9);
}

#[test]
fn a_gap_waits_for_the_missing_notify_and_asks_only_when_it_does_not_come() {
    let (mut sync, now) = (Sync::new(at(5)), Instant::from_nanos(0));
    sync.notified(data(7, &[8]), now);
    assert_eq!(sync.step(now), Step::Wait(Some(now + GAP_WAIT)));
    sync.notified(data(5, &[7]), now);
    expect_apply(&mut sync, now, &[7], 7);
    expect_apply(&mut sync, now, &[8], 8);
    assert_eq!(
        sync.step(now),
        Step::Wait(None),
        "the gap's clock has stopped"
    );

    sync.notified(data(9, &[10]), now);
    let late = now + GAP_WAIT;
    assert_eq!(sync.step(late), Step::Ask(at(8)));
    sync.answered(answer(&[9, 10], 10, false), late).unwrap();
    expect_apply(&mut sync, late, &[9, 10], 10);
    assert_eq!(
        sync.step(late),
        Step::Wait(None),
        "the held notify is overtaken"
    );
}

#[test]
fn a_second_gap_gets_its_own_wait() {
    let (mut sync, now) = (Sync::new(at(1)), Instant::from_nanos(0));
    sync.notified(data(2, &[3]), now);
    sync.notified(data(5, &[6]), now);
    sync.notified(data(1, &[2]), now);
    expect_apply(&mut sync, now, &[2], 2);
    expect_apply(&mut sync, now, &[3], 3);
    assert_eq!(sync.step(now), Step::Wait(Some(now + GAP_WAIT)));
}

#[test]
fn notifies_during_a_sync_wait_for_its_answer() {
    let (mut sync, now) = (Sync::new(at(0)), Instant::from_nanos(0));
    sync.linked(4);
    assert_eq!(sync.step(now), Step::Ask(at(0)));
    sync.notified(data(4, &[5]), now);
    assert_eq!(
        sync.step(now),
        Step::Wait(None),
        "one ask at a time, and no apply beside it"
    );
    sync.answered(answer(&[1, 4], 4, false), now).unwrap();
    expect_apply(&mut sync, now, &[1, 4], 4);
    expect_apply(&mut sync, now, &[5], 5);
    assert_eq!(sync.step(now), Step::Wait(None));
}

#[test]
fn pages_are_asked_for_until_there_are_no_more() {
    let (mut sync, now) = (Sync::new(at(0)), Instant::from_nanos(0));
    sync.linked(2);
    assert_eq!(sync.step(now), Step::Ask(at(0)));
    sync.answered(answer(&[1, 2], 2, true), now).unwrap();
    expect_apply(&mut sync, now, &[1, 2], 2);
    assert_eq!(sync.step(now), Step::Ask(at(2)));
    sync.answered(answer(&[3], 3, false), now).unwrap();
    expect_apply(&mut sync, now, &[3], 3);
    assert_eq!(sync.step(now), Step::Wait(None));
}

#[test]
fn a_plain_notify_and_a_beat_call_for_a_sync() {
    let (mut sync, now) = (Sync::new(at(3)), Instant::from_nanos(0));
    sync.notified(plain(3, 4), now);
    assert_eq!(sync.step(now), Step::Ask(at(3)));
    sync.answered(answer(&[4], 4, false), now).unwrap();
    expect_apply(&mut sync, now, &[4], 4);
    sync.heard(4);
    assert_eq!(sync.step(now), Step::Wait(None));
    sync.heard(5);
    assert_eq!(sync.step(now), Step::Ask(at(4)));
}

#[test]
fn a_failed_ask_is_repeated_after_a_pause_or_on_the_next_link() {
    let (mut sync, now) = (Sync::new(at(3)), Instant::from_nanos(0));
    sync.heard(9);
    assert_eq!(sync.step(now), Step::Ask(at(3)));
    sync.ask_failed(now);
    let Step::Wait(Some(late)) = sync.step(now) else {
        panic!("no pause")
    };
    assert_eq!(sync.step(late), Step::Ask(at(3)));
    sync.ask_failed(late);
    sync.linked(9);
    assert_eq!(sync.step(late), Step::Ask(at(3)));
}

#[test]
fn an_announced_key_that_is_not_shown_does_not_make_a_storm_of_asks() {
    let (mut sync, mut now) = (Sync::new(at(3)), Instant::from_nanos(0));
    sync.heard(9);
    let (start, mut asks) = (now, 0);
    while now < start + Duration::from_secs(60) {
        match sync.step(now) {
            Step::Ask(Cursor { key, .. }) => {
                asks += 1;
                sync.answered(answer(&[], key, false), now).unwrap();
            }
            Step::Wait(Some(at)) => now = at,
            // Whoever answers is believed in the end.
            Step::Wait(None) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(asks < 20, "{asks} asks in a minute");
    assert!(
        now > start + Duration::from_secs(20),
        "not believed at once"
    );
    assert!(sync.is_level());
}

#[test]
fn what_the_backend_lost_is_taken_out_before_anything_is_asked() {
    let (mut sync, now) = (Sync::new(at(9)), Instant::from_nanos(0));
    sync.linked(4);
    assert_eq!(sync.step(now), Step::Ask(at(9)));
    let rewind = |to| pb::SyncReply {
        rewind: Some(to),
        ..Default::default()
    };
    assert!(
        sync.answered(rewind(9), now).is_err(),
        "nothing is above it"
    );
    sync.linked(4);
    assert_eq!(sync.step(now), Step::Ask(at(9)));
    sync.answered(rewind(4), now).unwrap();
    assert_eq!(sync.step(now), Step::Rewind { before: 9, to: 4 });
    // The numbers go on elsewhere: this one reaches over the key.
    sync.notified(data(3, &[20]), now);
    assert_eq!(sync.step(now), Step::Wait(None));
    sync.rewound(at(4));
    assert_eq!(sync.step(now), Step::Ask(at(4)));
    sync.answered(answer(&[20], 20, false), now).unwrap();
    expect_apply_from(&mut sync, now, at(4), Page::Newer, &[20], at(20));
    assert!(sync.is_level());
}

#[test]
fn a_full_sync_goes_on_after_a_restart_and_ends_where_it_began_to() {
    let (mut sync, now) = (Sync::new(at(9)), Instant::from_nanos(0));
    sync.heard(12);
    assert_eq!(sync.step(now), Step::Ask(at(9)));
    let page = |numbers: &[u64], key| pb::SyncReply {
        full_to: 7,
        owed: 12,
        ..answer(numbers, key, true)
    };
    sync.answered(page(&[2, 3], 3), now).unwrap();
    let first = Cursor {
        full_to: 7,
        owed: 12,
        ..at(3)
    };
    expect_apply_from(&mut sync, now, at(9), Page::FullBegins, &[2, 3], first);
    let mut sync = Sync::new(first);
    assert_eq!(sync.step(now), Step::Ask(first));
    sync.answered(page(&[6], 7), now).unwrap();
    let last = Cursor { owed: 12, ..at(7) };
    expect_apply_from(&mut sync, now, first, Page::Full, &[6], last);
    assert_eq!(sync.step(now), Step::Ask(last));
    sync.answered(answer(&[12], 12, false), now).unwrap();
    expect_apply_from(&mut sync, now, last, Page::Newer, &[12], at(12));
    assert!(sync.is_level());
}

#[test]
fn nonsense_answers_are_refused_and_move_nothing() {
    for (reply, what) in [
        (answer(&[], 2, false), "older"),
        (answer(&[], 3, true), "moves nothing"),
        (answer(&[5, 4], 9, false), "order"),
        (answer(&[3], 4, false), "at or below"),
        (answer(&[5], 4, false), "above its own"),
    ] {
        let (mut sync, now) = (Sync::new(at(3)), Instant::from_nanos(0));
        sync.heard(9);
        assert_eq!(sync.step(now), Step::Ask(at(3)));
        let error = sync.answered(reply, now).unwrap_err();
        assert!(error.what.contains(what), "{error}");
        assert_eq!(sync.key(), 3);
    }
}

#[test]
fn what_is_held_is_bounded() {
    let (mut sync, now) = (Sync::new(at(0)), Instant::from_nanos(0));
    for n in 0..10_000 {
        sync.notified(data(10 + 2 * n, &[11 + 2 * n]), now);
        assert!(sync.held.len() <= MAX_HELD && sync.held_items <= MAX_HELD_ITEMS);
    }
    assert_eq!(sync.step(now), Step::Ask(at(0)));
}

/// A timeline with holes in its numbers, as a server that jumps on a restart gives them.
#[derive(Default)]
struct Server {
    numbers: Vec<u64>,
}

impl Server {
    fn commit(&mut self, jump: u64) -> (u64, u64) {
        let prev = self.newest();
        self.numbers.push(prev + jump);
        (prev, prev + jump)
    }

    fn newest(&self) -> u64 {
        self.numbers.last().copied().unwrap_or(0)
    }

    fn page(&self, key: u64, limit: usize) -> pb::SyncReply {
        let newer: Vec<u64> = self.numbers.iter().copied().filter(|n| *n > key).collect();
        let page = &newer[..limit.min(newer.len())];
        answer(
            page,
            page.last().copied().unwrap_or(key),
            page.len() < newer.len(),
        )
    }
}

#[derive(Clone, Debug)]
enum Happening {
    /// A commit; its notify is delivered (with items or plain), delayed, or lost.
    Commit {
        jump: u64,
        with_items: bool,
        fate: u8,
    },
    /// The oldest delayed notify arrives after all, perhaps twice.
    Late {
        twice: bool,
    },
    Steps {
        count: usize,
        limit: usize,
        fail: bool,
    },
    Relink,
    Beat,
    Sleep(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1_u64..4, any::<bool>(), 0_u8..4)
            .prop_map(|(jump, with_items, fate)| Happening::Commit { jump, with_items, fate }),
        1 => any::<bool>().prop_map(|twice| Happening::Late { twice }),
        3 => (1_usize..4, 1_usize..4, prop::bool::weighted(0.2))
            .prop_map(|(count, limit, fail)| Happening::Steps { count, limit, fail }),
        1 => Just(Happening::Relink),
        1 => Just(Happening::Beat),
        1 => (1_u64..700).prop_map(Happening::Sleep),
    ]
}

/// The driver: does what the machine says and checks K-1..K-3 at each apply.
struct Rig {
    server: Server,
    sync: Sync,
    store: Vec<u64>,
    key: u64,
    asking: Option<u64>,
    now: Instant,
}

impl Rig {
    /// One step; the time to wait for when there is nothing to do.
    fn step(&mut self, limit: usize, fail: bool) -> Option<Option<Instant>> {
        if let Some(key) = self.asking.take() {
            if fail {
                self.sync.ask_failed(self.now);
            } else {
                self.sync
                    .answered(self.server.page(key, limit), self.now)
                    .unwrap();
            }
            return None;
        }
        match self.sync.step(self.now) {
            Step::Ask(Cursor { key, .. }) => {
                assert_eq!(key, self.key);
                self.asking = Some(key);
                None
            }
            Step::Apply {
                before,
                items,
                after,
                page: Page::Newer,
            } => {
                assert_eq!(before, self.key);
                let after = after.key;
                assert!(after > before);
                assert!(items.iter().all(|i| i.number > before && i.number <= after));
                self.store.extend(items.iter().map(|i| i.number));
                self.key = after;
                self.sync.applied();
                // K-3: the store is a prefix of the timeline, always.
                let prefix: Vec<u64> = self
                    .server
                    .numbers
                    .iter()
                    .copied()
                    .filter(|n| *n <= after)
                    .collect();
                assert_eq!(self.store, prefix);
                None
            }
            Step::Wait(until) => Some(until),
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn whatever_the_network_does_the_store_is_a_prefix_and_a_beat_completes_it(
        story in prop::collection::vec(happening(), 1..120),
    ) {
        let mut rig = Rig {
            server: Server::default(),
            sync: Sync::new(at(0)),
            store: Vec::new(),
            key: 0,
            asking: None,
            now: Instant::from_nanos(0),
        };
        let mut delayed = Vec::new();
        for happening in story {
            match happening {
                Happening::Commit { jump, with_items, fate } => {
                    let (prev, key) = rig.server.commit(jump);
                    let notify = if with_items { data(prev, &[key]) } else { plain(prev, key) };
                    match fate {
                        0 => {}
                        1 => delayed.push(notify),
                        _ => rig.sync.notified(notify, rig.now),
                    }
                }
                Happening::Late { twice } => {
                    if !delayed.is_empty() {
                        let notify = delayed.remove(0);
                        if twice {
                            rig.sync.notified(notify.clone(), rig.now);
                        }
                        rig.sync.notified(notify, rig.now);
                    }
                }
                Happening::Steps { count, limit, fail } => {
                    for _ in 0..count {
                        rig.step(limit, fail);
                    }
                }
                Happening::Relink => {
                    if rig.asking.take().is_some() {
                        rig.sync.ask_failed(rig.now);
                    }
                    rig.sync.linked(rig.server.newest());
                }
                Happening::Beat => rig.sync.heard(rig.server.newest()),
                Happening::Sleep(ms) => rig.now = rig.now + Duration::from_millis(ms),
            }
        }
        rig.sync.heard(rig.server.newest());
        let mut steps = 0;
        loop {
            match rig.step(3, false) {
                None => {}
                Some(Some(until)) => rig.now = rig.now.max(until),
                Some(None) => break,
            }
            steps += 1;
            prop_assert!(steps < 10_000, "the machine does not come to rest");
        }
        prop_assert_eq!(&rig.store, &rig.server.numbers);
        prop_assert!(rig.sync.is_level());
    }
}
