//! A good history, and for each invariant one that breaks it.

mod changes;

use super::*;
use crate::history::{Device, Event, Line, Said, Seen, SentAs};
use crate::proto::terminal::Kind;
use crate::proto::terminal::contact::State;

const ANN: Device = Device { u: 1, d: 11 };
const ANN_NEW: Device = Device { u: 1, d: 12 };
const BOB: Device = Device { u: 2, d: 21 };
const BOB_NEW: Device = Device { u: 2, d: 22 };

/// A history under construction; one line a millisecond.
#[derive(Clone, Default)]
struct Tale(Vec<(Option<Device>, Event)>);

fn hex(c: u128) -> String {
    format!("{c:032x}")
}

/// Message `i` from Ann to Bob with client id `i`, as an item.
fn item(n: u64, i: u64, p: u64) -> Seen {
    Seen {
        n,
        k: Kind::Message as i32,
        i,
        v: 1,
        h: i,
        p: Some((p, ANN.u)),
        c: Some(hex(i.into())),
        who: Some((ANN.u, BOB.u)),
        ..Seen::default()
    }
}

fn contact(n: u64, of: u64, v: u64, state: State) -> Seen {
    Seen {
        n,
        k: Kind::Contact as i32,
        i: of,
        v,
        s: Some(state as i32),
        ..Seen::default()
    }
}

impl Tale {
    fn on(mut self, device: Device, event: Event) -> Self {
        self.0.push((Some(device), event));
        self
    }

    fn tool(mut self, event: Event) -> Self {
        self.0.push((None, event));
        self
    }

    /// Two phones that are linked.
    fn begun() -> Self {
        let run = Event::Run {
            what: "test".to_owned(),
            seed: 1,
            faults: Vec::new(),
            least_acks: 1,
            changes: Vec::new(),
        };
        let mut tale = Self::default().tool(run);
        for device in [ANN, BOB] {
            tale = tale
                .on(device, Event::Start { key: 0 })
                .on(device, Event::Linked { newest: 0 });
        }
        tale
    }

    fn invoke(self, i: u64) -> Self {
        let said = vec![Said {
            c: hex(i.into()),
            h: i,
        }];
        self.on(ANN, Event::Invoke { op: i, to: 2, said })
    }

    fn acked(self, i: u64, n: u64, p: u64) -> Self {
        let sent = vec![SentAs {
            c: hex(i.into()),
            i,
            n,
            p: (p, ANN.u),
        }];
        self.on(ANN, Event::Ok { op: i, sent, n: 0 })
    }

    fn apply(self, device: Device, before: u64, after: u64, items: &[Seen]) -> Self {
        let items = items.to_vec();
        self.on(
            device,
            Event::Apply {
                before,
                after,
                items,
            },
        )
    }

    /// Two messages, 1 and 2, said and acknowledged under Ann's numbers 1 and 2.
    fn said() -> Self {
        Self::begun()
            .invoke(1)
            .acked(1, 1, 1)
            .invoke(2)
            .acked(2, 2, 2)
    }

    /// Everybody level, then a fresh device for each with these items.
    fn drained(self, ann: &[Seen], bob: &[Seen]) -> Self {
        let mut tale = self
            .tool(Event::Healed {})
            .tool(Event::Rest {})
            .tool(Event::Drain {});
        for device in [ANN, BOB] {
            tale = tale.on(device, Event::Level { key: 2 });
        }
        for (device, items) in [(ANN_NEW, ann), (BOB_NEW, bob)] {
            let key = items.last().map_or(0, |item| item.n);
            tale = tale
                .on(device, Event::Start { key: 0 })
                .apply(device, 0, key, items)
                .on(device, Event::Level { key });
        }
        tale.tool(Event::End {})
    }

    fn verdict(&self) -> Verdict {
        let mut checker = Checker::default();
        for (number, (on, event)) in (1..).zip(&self.0) {
            let line = Line {
                t: u64::from(number) * 1_000_000,
                on: *on,
                event: event.clone(),
            };
            checker.take((0, number), &line).unwrap();
        }
        checker.finish()
    }

    #[track_caller]
    fn breaks(&self, wanted: &[Invariant]) {
        let verdict = self.verdict();
        let broken: Vec<_> = verdict.broken().collect();
        assert_eq!(broken, wanted, "{}", verdict.tell(|_| None));
        assert!(wanted.iter().all(|i| verdict.example(*i).is_some()));
    }
}

fn both() -> [Seen; 2] {
    [item(1, 1, 1), item(2, 2, 2)]
}

fn good() -> Tale {
    Tale::said()
        .apply(ANN, 0, 2, &both())
        .apply(BOB, 0, 2, &both())
}

#[test]
fn a_good_history_is_green() {
    let verdict = good().drained(&both(), &both()).verdict();
    assert!(verdict.is_green(), "{}", verdict.tell(|_| None));
}

#[test]
fn i1_an_acknowledged_message_must_be_with_its_receiver() {
    let tale = Tale::said()
        .apply(ANN, 0, 2, &both())
        .apply(BOB, 0, 1, &[item(1, 1, 1)])
        .drained(&both(), &[item(1, 1, 1)]);
    tale.breaks(&[Invariant::I1]);
    // The counter-example is what was said, its acknowledgement, and the device that lacks it.
    assert_eq!(
        tale.verdict().example(Invariant::I1).unwrap().lines.len(),
        3
    );
}

#[test]
fn i1_a_refusal_at_the_sender_stands_for_the_message() {
    let refused = Seen {
        n: 3,
        k: Kind::Refused as i32,
        i: 2,
        v: 1,
        c: Some(hex(2)),
        ..Seen::default()
    };
    let mut ann = both().to_vec();
    ann.push(refused);
    let bob = [item(1, 1, 1)];
    let tale = Tale::said().apply(ANN, 0, 3, &ann).apply(BOB, 0, 1, &bob);
    tale.drained(&ann, &bob).breaks(&[]);
}

#[test]
fn i21_an_acknowledged_commit_must_be_with_its_sender() {
    let one = [item(1, 1, 1)];
    Tale::said()
        .apply(ANN, 0, 1, &one)
        .on(ANN, Event::Unlinked {})
        .apply(BOB, 0, 2, &both())
        .drained(&one, &both())
        .breaks(&[Invariant::I1, Invariant::I21]);
}

#[test]
fn i2_a_device_at_a_key_has_what_others_were_shown_below_it() {
    good().drained(&both(), &[item(2, 2, 2)]).breaks(&[
        Invariant::I1,
        Invariant::I2,
        Invariant::I9,
    ]);
}

#[test]
fn i3_what_is_shown_was_said_and_said_so() {
    let tale = Tale::begun().invoke(1).acked(1, 1, 1);
    tale.clone()
        .apply(ANN, 0, 2, &both())
        .apply(BOB, 0, 2, &both())
        .drained(&both(), &both())
        .breaks(&[Invariant::I3]);
    let other = [Seen {
        h: 9,
        ..item(1, 1, 1)
    }];
    tale.apply(ANN, 0, 1, &other)
        .apply(BOB, 0, 1, &other)
        .drained(&other, &other)
        .breaks(&[Invariant::I3]);
}

#[test]
fn i4_a_message_is_there_once() {
    // Under two numbers.
    let twice = [item(1, 1, 1), item(2, 1, 1)];
    Tale::begun()
        .invoke(1)
        .acked(1, 1, 1)
        .apply(ANN, 0, 2, &twice)
        .apply(BOB, 0, 2, &twice)
        .drained(&twice, &twice)
        .breaks(&[Invariant::I4]);
    // Under two message ids, because a retry was not recognised.
    let again = Seen {
        c: Some(hex(1)),
        h: 1,
        ..item(2, 2, 2)
    };
    let twice = [item(1, 1, 1), again];
    Tale::begun()
        .invoke(1)
        .acked(1, 1, 1)
        .apply(ANN, 0, 2, &twice)
        .apply(BOB, 0, 2, &twice)
        .drained(&twice, &twice)
        .breaks(&[Invariant::I4]);
}

#[test]
fn i5_a_number_is_one_item_for_ever() {
    let swapped = [item(1, 2, 2), item(2, 1, 1)];
    let verdict = good().drained(&both(), &swapped).verdict();
    assert!(verdict.broken().any(|broken| broken == Invariant::I5));
    let given_twice = Tale::begun()
        .invoke(1)
        .acked(1, 1, 1)
        .invoke(2)
        .acked(2, 1, 2);
    let broken: Vec<_> = given_twice.verdict().broken().collect();
    assert_eq!(broken, [Invariant::I5]);
}

#[test]
fn i6_a_conversation_has_one_order_and_its_senders_order() {
    let moved = [item(1, 1, 1), item(2, 2, 7)];
    let verdict = good().drained(&both(), &moved).verdict();
    assert!(verdict.broken().any(|broken| broken == Invariant::I6));
    Tale::begun()
        .invoke(1)
        .acked(1, 1, 5)
        .invoke(2)
        .acked(2, 2, 4)
        .tool(Event::End {})
        .breaks(&[Invariant::I6]);
}

#[test]
fn i6_what_was_said_at_once_may_stand_either_way() {
    let tale = Tale::begun()
        .invoke(1)
        .invoke(2)
        .acked(1, 1, 2)
        .acked(2, 2, 1);
    let both = [item(1, 1, 2), item(2, 2, 1)];
    tale.apply(ANN, 0, 2, &both)
        .apply(BOB, 0, 2, &both)
        .drained(&both, &both)
        .breaks(&[]);
}

#[test]
fn i7_a_key_follows_the_one_before_it() {
    good()
        .apply(BOB, 1, 2, &[item(2, 2, 2)])
        .drained(&both(), &both())
        .breaks(&[Invariant::I7]);
}

#[test]
fn i7_a_restarted_terminal_goes_on_at_its_key() {
    good()
        .on(BOB, Event::Start { key: 2 })
        .drained(&both(), &both())
        .breaks(&[]);
    let broken = good().on(BOB, Event::Start { key: 1 });
    let broken: Vec<_> = broken.verdict().broken().collect();
    assert_eq!(broken, [Invariant::I7]);
    // Killed between storing and telling: its store is ahead of the history.
    Tale::said()
        .apply(ANN, 0, 2, &both())
        .apply(BOB, 0, 1, &[item(1, 1, 1)])
        .on(BOB, Event::Start { key: 2 })
        .drained(&both(), &both())
        .breaks(&[]);
}

/// Message 2 is lost, and said again at its place under another id.
fn lost(rewinds: bool) -> Tale {
    let mut again = item(1 << 48 | 1, 3, 2);
    (again.h, again.c) = (2, Some(hex(2)));
    let sent = vec![SentAs {
        c: hex(2),
        i: again.i,
        n: again.n,
        p: (2, ANN.u),
    }];
    let mut tale = good();
    for device in [ANN, BOB] {
        if rewinds {
            tale = tale.on(device, Event::Rewind { before: 2, to: 1 });
        }
        if device == ANN {
            let sent = sent.clone();
            tale = tale.invoke(2).on(ANN, Event::Ok { op: 2, sent, n: 0 });
        }
        let before = if rewinds { 1 } else { 2 };
        tale = tale.apply(device, before, again.n, std::slice::from_ref(&again));
    }
    let fresh = [item(1, 1, 1), again];
    tale.drained(&fresh, &fresh)
}

#[test]
fn what_was_lost_may_come_again_where_the_device_was_told() {
    lost(true).breaks(&[]);
    let verdict = lost(false).verdict();
    assert!(verdict.broken().any(|broken| broken == Invariant::I4));
}

#[test]
fn a_terminal_may_die_between_being_told_to_go_back_and_doing_so() {
    let full = Event::Full { before: 2, to: 2 };
    let rewind = Event::Rewind { before: 2, to: 1 };
    for (back, rest) in [(full, &both()[..]), (rewind, &both()[1..])] {
        let before = 2 - rest.len() as u64;
        let stays = good()
            .on(BOB, back.clone())
            .on(BOB, Event::Start { key: 2 });
        // It finds itself where it was, and is told again.
        stays
            .clone()
            .on(BOB, back.clone())
            .apply(BOB, before, 2, rest)
            .drained(&both(), &both())
            .breaks(&[]);
        // It had gone back.
        let went = good().on(BOB, back).on(BOB, Event::Start { key: before });
        went.apply(BOB, before, 2, rest)
            .drained(&both(), &both())
            .breaks(&[]);
    }
    // What it keeps is held against others as before.
    let lacks = good()
        .on(BOB, Event::Full { before: 2, to: 2 })
        .on(BOB, Event::Start { key: 2 })
        .apply(BOB, 2, 4, &[item(4, 4, 4)])
        .on(BOB_NEW, Event::Start { key: 0 })
        .apply(BOB_NEW, 0, 3, &[item(3, 3, 3)]);
    assert!(lacks.verdict().broken().any(|b| b == Invariant::I2));
}

#[test]
fn i11_what_passes_takes_no_number() {
    let typing = Event::Pass {
        command: crate::proto::terminal::Command::Typing as u32,
    };
    let passed = || good().on(ANN, typing.clone());
    let verdict = passed().drained(&both(), &both()).verdict();
    assert!(verdict.is_green(), "{}", verdict.tell(|_| None));
    assert!(verdict.tell(|_| None).contains("1 typing"));
    // It was kept as if it were an item.
    let kept = Seen {
        n: 3,
        i: ANN.u,
        v: 1,
        ..Seen::default()
    };
    passed()
        .apply(BOB, 2, 3, &[kept])
        .tool(Event::End {})
        .breaks(&[Invariant::I11]);
    // It took a number that nothing has; between two pages that may look so.
    passed()
        .apply(BOB, 2, 3, &[])
        .tool(Event::End {})
        .breaks(&[Invariant::I11]);
    let page = Event::Synced {
        from: 2,
        to: 3,
        more: true,
        first: 0,
    };
    passed()
        .on(BOB, Event::Sync { from: 2 })
        .on(BOB, page)
        .apply(BOB, 2, 3, &[])
        .tool(Event::End {})
        .breaks(&[]);
}

#[test]
fn a_full_sync_takes_out_what_it_does_not_bring() {
    let full = |brought: &[Seen]| {
        good()
            .on(BOB, Event::Full { before: 2, to: 2 })
            .apply(BOB, 0, 2, brought)
            .drained(&both(), &both())
    };
    full(&both()).breaks(&[]);
    let verdict = full(&[item(1, 1, 1)]).verdict();
    assert!(verdict.broken().any(|broken| broken == Invariant::I2));
}

#[test]
fn i7_a_sync_shows_what_was_acknowledged_before_it() {
    let answer = |to| Event::Synced {
        from: 0,
        to,
        more: false,
        first: 1,
    };
    for (to, wanted) in [(2, &[][..]), (1, &[Invariant::I7][..])] {
        good()
            .on(ANN, Event::Sync { from: 0 })
            .on(ANN, answer(to))
            .drained(&both(), &both())
            .breaks(wanted);
    }
    // An acknowledgement that came after the question asks nothing of its answer.
    Tale::begun()
        .invoke(1)
        .acked(1, 1, 1)
        .invoke(2)
        .on(ANN, Event::Sync { from: 0 })
        .acked(2, 2, 2)
        .on(ANN, answer(1))
        .apply(ANN, 0, 2, &both())
        .apply(BOB, 0, 2, &both())
        .drained(&both(), &both())
        .breaks(&[]);
}

#[test]
fn i8_an_answer_stands_after_what_was_read() {
    let read = Seen {
        p: Some((9, BOB.u)),
        who: Some((BOB.u, ANN.u)),
        ..item(1, 7, 9)
    };
    let said = vec![Said { c: hex(7), h: 7 }];
    let tale = Tale::begun()
        .on(BOB, Event::Invoke { op: 7, to: 1, said })
        .apply(ANN, 0, 1, &[read])
        .invoke(2)
        .acked(2, 2, 3);
    let broken: Vec<_> = tale.verdict().broken().collect();
    assert!(broken.contains(&Invariant::I8), "{broken:?}");
}

#[test]
fn i9_a_fresh_device_shows_what_one_that_followed_shows() {
    let old = contact(1, 2, 1, State::Asked);
    let new = contact(2, 2, 2, State::Friend);
    let tale =
        Tale::begun()
            .invoke(5)
            .acked(5, 1 << 60, 1)
            .apply(ANN, 0, 2, &[old.clone(), new.clone()]);
    let state = |fresh: &[Seen]| {
        let tale = tale.clone().tool(Event::Drain {});
        let tale = tale
            .on(ANN, Event::Level { key: 2 })
            .on(ANN_NEW, Event::Start { key: 0 })
            .apply(ANN_NEW, 0, 2, fresh)
            .on(ANN_NEW, Event::Level { key: 2 });
        let broken: Vec<_> = tale.verdict().broken().collect();
        broken.contains(&Invariant::I9)
    };
    assert!(!state(&[new]), "only the newest version comes");
    assert!(state(&[old]));
}

#[test]
fn i10_an_answer_begins_right_above_the_key() {
    let page = |first| Event::Synced {
        from: 0,
        to: 2,
        more: false,
        first,
    };
    for (first, wanted) in [(1, &[][..]), (2, &[Invariant::I10][..])] {
        good()
            .on(BOB, Event::Sync { from: 0 })
            .on(BOB, page(first))
            .drained(&both(), &both())
            .breaks(wanted);
    }
}

#[test]
fn i12_versions_rise_and_the_deleted_stays_deleted() {
    let new = contact(1, 2, 2, State::Friend);
    let old = contact(2, 2, 1, State::Asked);
    let tale = Tale::begun().apply(ANN, 0, 2, &[new.clone(), old]);
    assert!(tale.verdict().broken().any(|b| b == Invariant::I12));

    // A device that was away while a contact was deleted, and never heard of it.
    let gone = Seen {
        x: true,
        ..contact(2, 2, 3, State::Removed)
    };
    let tale = Tale::begun()
        .apply(ANN, 0, 2, &[new.clone(), gone])
        .on(ANN_NEW, Event::Start { key: 0 })
        .apply(ANN_NEW, 0, 1, &[new])
        .apply(ANN_NEW, 1, 2, &[]);
    assert!(tale.verdict().broken().any(|b| b == Invariant::I12));
}

#[test]
fn i16_a_friendship_has_two_ends() {
    let ends = |ann: State, bob: State| {
        let tale = Tale::begun()
            .tool(Event::Drain {})
            .apply(ANN, 0, 1, &[contact(1, 2, 1, ann)])
            .apply(BOB, 0, 1, &[contact(1, 1, 1, bob)])
            .on(ANN, Event::Level { key: 1 })
            .on(BOB, Event::Level { key: 1 });
        tale.verdict().broken().any(|b| b == Invariant::I16)
    };
    assert!(!ends(State::Friend, State::Friend));
    assert!(!ends(State::Friend, State::Removed));
    assert!(!ends(State::AskedMe, State::Asked));
    assert!(ends(State::Friend, State::Asked));
}

#[test]
fn i17_a_content_comes_as_it_was_uploaded() {
    let told = |file: &str, hash: &str| (file.to_owned(), hash.to_owned());
    let uploaded = |tale: Tale, hash| {
        let (file, hash) = told("file", hash);
        tale.on(ANN, Event::Upload { file, hash })
    };
    let fetched = |tale: Tale, said: &str, hash| {
        let (said, (file, hash)) = (said.to_owned(), told("file", hash));
        tale.on(BOB, Event::Fetch { file, said, hash })
    };
    fetched(uploaded(uploaded(good(), "aa"), "aa"), "aa", "aa").breaks(&[]);
    for tale in [
        fetched(good(), "aa", "bb"),
        fetched(uploaded(good(), "aa"), "bb", "bb"),
        uploaded(uploaded(good(), "aa"), "bb"),
    ] {
        tale.breaks(&[Invariant::I17]);
    }
}

#[test]
fn i20_effects_come_in_the_order_of_their_causes() {
    let crossed = [item(1, 2, 2), item(2, 1, 1)];
    Tale::said()
        .apply(ANN, 0, 2, &both())
        .apply(BOB, 0, 2, &crossed)
        .drained(&both(), &crossed)
        .breaks(&[Invariant::I20]);
}

#[test]
fn l1_a_linked_terminal_gets_level_by_itself() {
    let late = Tale::said()
        .apply(ANN, 0, 2, &both())
        .apply(BOB, 0, 1, &[item(1, 1, 1)])
        .on(BOB_NEW, Event::Start { key: 0 })
        .apply(BOB_NEW, 0, 2, &both());
    let quiet = late.clone().tool(Event::Rest {});
    assert!(quiet.verdict().broken().any(|b| b == Invariant::L1));
    // Without a link it cannot know.
    let away = late.on(BOB, Event::Unlinked {}).tool(Event::Rest {});
    assert!(!away.verdict().broken().any(|b| b == Invariant::L1));
    // What it gets only once it is told to ask has not come by itself.
    let told = |tale: Tale| tale.verdict().broken().any(|b| b == Invariant::L1);
    let begun = || Tale::said().apply(ANN, 0, 2, &both());
    let late = begun().tool(Event::Rest {}).tool(Event::Drain {});
    assert!(told(late.apply(BOB, 0, 2, &both())));
    assert!(!told(
        begun().apply(BOB, 0, 2, &both()).tool(Event::Rest {})
    ));
}

#[test]
fn l3_everything_is_answered() {
    let open = Tale::begun().invoke(1).on(ANN, Event::Info { op: 1 });
    let drained = open.clone().tool(Event::Drain {});
    assert!(drained.verdict().broken().any(|b| b == Invariant::L3));
    let retried = open.invoke(1).acked(1, 1, 1).tool(Event::Drain {});
    assert!(!retried.verdict().broken().any(|b| b == Invariant::L3));
}

#[test]
fn l5_a_device_does_not_storm() {
    let mut tale = Tale::begun();
    for _ in 0..100 {
        tale = tale.on(ANN, Event::Linked { newest: 0 });
    }
    assert!(tale.verdict().broken().any(|b| b == Invariant::L5));
}

#[test]
fn too_little_is_no_pass() {
    let cut = good();
    let missing = cut.verdict().missing().join("; ");
    assert!(
        missing.contains("cut off") && missing.contains("final drain"),
        "{missing}"
    );

    let mut planned = good().drained(&both(), &both());
    let plan = |faults: &[&str], least_acks| Event::Run {
        what: "test".to_owned(),
        seed: 1,
        faults: faults.iter().map(|&f| f.to_owned()).collect(),
        least_acks,
        changes: Vec::new(),
    };
    planned.0.insert(0, (None, plan(&["kill logic"], 3)));
    let missing = planned.verdict().missing().join("; ");
    assert!(
        missing.contains("kill logic") && missing.contains("at least 4"),
        "{missing}"
    );

    let mut some = good().drained(&both(), &both());
    some.0.insert(0, (None, plan(&["kill *"], 1)));
    assert!(!some.verdict().is_green());
    let fault = Event::Fault {
        what: "kill".to_owned(),
        target: "access".to_owned(),
    };
    some.0.insert(1, (None, fault));
    assert!(some.verdict().is_green());
}

#[test]
fn files_are_merged_by_time_and_a_torn_last_line_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| dir.path().join(name));
    let mut texts = [String::new(), String::new()];
    for (number, (on, event)) in (1..).zip(good().drained(&both(), &both()).0) {
        let t = number;
        let line = serde_json::to_string(&Line { t, on, event }).unwrap() + "\n";
        texts[usize::from(on.is_none_or(|device| device.u == 2))].push_str(&line);
    }
    texts[0].push_str("{\"t\":99,\"on\":{\"u\"");
    for (path, text) in paths.iter().zip(&texts) {
        std::fs::write(path, text).unwrap();
    }
    let verdict = read::check(&paths).unwrap();
    assert!(
        verdict.is_green(),
        "{}",
        read::tell(&verdict, &paths).unwrap()
    );

    std::fs::write(&paths[0], format!("nonsense\n{}", texts[0])).unwrap();
    let error = read::check(&paths).unwrap_err().to_string();
    assert!(error.contains("a:1: not a line of a history"), "{error}");
}

#[test]
fn the_shortest_counter_example_is_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let path = [dir.path().join("h")];
    let tale = good().apply(BOB, 1, 2, &[]).drained(&both(), &both());
    let text: String = (1..)
        .zip(tale.0)
        .map(|(t, (on, event))| serde_json::to_string(&Line { t, on, event }).unwrap() + "\n")
        .collect();
    std::fs::write(&path[0], text).unwrap();
    let told = read::tell(&read::check(&path).unwrap(), &path).unwrap();
    assert!(
        told.contains("I7 ") && told.contains("\"before\":1,\"after\":2"),
        "{told}"
    );
    assert!(told.contains("history: violated"), "{told}");
}
