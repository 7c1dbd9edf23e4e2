//! Histories with changes: what was taken back, who is in a group, marks, and whether anybody was served.

use prost::Message;

use super::*;
use crate::history::cmid;
use crate::proto::terminal as pb;
use pb::change_request::Change;

const GROUP: u64 = 1 << 63 | 7;

impl Tale {
    fn asks(self, device: Device, op: u64, change: Change) -> Self {
        let request = pb::ChangeRequest {
            change: Some(change),
        };
        self.on(
            device,
            Event::Mutate {
                op,
                command: pb::Command::Change as u32,
                request: cmid(&request.encode_to_vec()),
            },
        )
    }

    fn done(self, device: Device, op: u64, n: u64) -> Self {
        let sent = Vec::new();
        self.on(device, Event::Ok { op, sent, n })
    }

    /// A sync from 0 and its one page, applied.
    fn synced(self, device: Device, to: u64, items: &[Seen]) -> Self {
        let first = items.first().map_or(0, |item| item.n);
        self.on(device, Event::Sync { from: 0 })
            .on(
                device,
                Event::Synced {
                    from: 0,
                    to,
                    more: false,
                    first,
                },
            )
            .apply(device, 0, to, items)
    }

    #[track_caller]
    fn names(&self, wanted: Invariant, lines: usize) {
        let verdict = self.verdict();
        let example = verdict.example(wanted);
        let example = example.unwrap_or_else(|| panic!("{}", verdict.tell(|_| None)));
        assert_eq!(example.lines.len(), lines, "{}", verdict.tell(|_| None));
    }

    #[track_caller]
    fn spares(&self, spared: Invariant) {
        let verdict = self.verdict();
        let broken = verdict.broken().any(|broken| broken == spared);
        assert!(!broken, "{}", verdict.tell(|_| None));
    }
}

fn recalled(n: u64, i: u64, p: u64) -> Seen {
    Seen {
        v: 2,
        h: crate::history::hash_of(b""),
        g: true,
        ..item(n, i, p)
    }
}

fn recall() -> Change {
    Change::Recall(pb::Recall {
        message_id: 1,
        ..pb::Recall::default()
    })
}

fn block(blocked: bool) -> Change {
    Change::Block(pb::Block {
        user_id: ANN.u,
        blocked,
    })
}

#[test]
fn i13_a_sync_after_a_recall_does_not_show_what_was_recalled() {
    let begun = Tale::begun()
        .invoke(1)
        .acked(1, 1, 1)
        .asks(ANN, 9, recall());
    let fresh = |tale: Tale, items: &[Seen]| tale.synced(ANN_NEW, 2, items);
    let done = begun.clone().done(ANN, 9, 2);
    fresh(done.clone(), &[item(1, 1, 1)]).names(Invariant::I13, 3);
    fresh(done, &[recalled(2, 1, 1)]).breaks(&[]);
    // Who asks before the answer may see either.
    fresh(begun.clone(), &[item(1, 1, 1)])
        .done(ANN, 9, 2)
        .spares(Invariant::I13);
}

#[test]
fn i13_what_was_recalled_is_gone_at_the_other_end_too() {
    let tale = |bob: &[Seen], key| {
        let ann = [recalled(2, 1, 1)];
        let tale = Tale::begun()
            .invoke(1)
            .acked(1, 1, 1)
            .asks(ANN, 9, recall())
            .done(ANN, 9, 2)
            .apply(ANN, 0, 2, &ann)
            .apply(BOB, 0, key, bob)
            .tool(Event::Drain {});
        tale.on(ANN, Event::Level { key: 2 })
            .on(BOB, Event::Level { key })
            .tool(Event::End {})
    };
    tale(&[item(1, 1, 1)], 1).names(Invariant::I13, 2);
    tale(&[item(1, 1, 1), recalled(2, 1, 1)], 2).breaks(&[]);
}

#[test]
fn i13_nothing_is_taken_from_who_was_blocked_when_it_was_said() {
    let blocked = Tale::begun().asks(BOB, 9, block(true)).done(BOB, 9, 1);
    let shown = |tale: Tale| {
        tale.invoke(1)
            .acked(1, 1, 1)
            .apply(BOB, 0, 2, &[item(2, 1, 1)])
    };
    shown(blocked.clone()).names(Invariant::I13, 3);
    shown(blocked.clone().asks(BOB, 10, block(false))).spares(Invariant::I13);
    // What takes the block down may be done long after it was given up.
    let unsure = Tale::begun()
        .asks(BOB, 8, block(false))
        .on(BOB, Event::Info { op: 8 })
        .asks(BOB, 9, block(true))
        .done(BOB, 9, 1);
    shown(unsure).spares(Invariant::I13);
    let early = Tale::begun()
        .invoke(1)
        .asks(BOB, 9, block(true))
        .done(BOB, 9, 1)
        .acked(1, 1, 1)
        .apply(BOB, 0, 2, &[item(2, 1, 1)]);
    early.spares(Invariant::I13);
}

fn serves(member: &str, epoch: u64, at: u64) -> Event {
    let member = member.to_owned();
    let store = String::new();
    Event::Serves {
        store,
        member,
        epoch,
        at,
    }
}

fn lease(member: &str, epoch: u64, until: u64) -> Event {
    let member = member.to_owned();
    Event::Lease {
        store: String::new(),
        member,
        epoch,
        until,
    }
}

#[test]
fn i18_who_has_a_push_token_is_reached_or_woken() {
    let token = "b0b0".to_owned();
    let set = Change::PushToken(pb::PushToken { token });
    let said = Tale::begun().asks(BOB, 9, set).done(BOB, 9, 0);
    let said = said.invoke(1).acked(1, 1, 1);
    let later = |mut tale: Tale, seconds: usize| {
        let beats = vec![(Some(ANN), Event::Beat { newest: None }); 1_000 * seconds];
        tale.0.extend(beats);
        tale
    };
    let woken = || Event::Woken {
        token: "b0b0".to_owned(),
        number: 1,
    };
    later(said.clone(), 21)
        .tool(Event::End {})
        .names(Invariant::I18, 2);
    later(said.clone(), 21)
        .tool(woken())
        .names(Invariant::I18, 2);
    later(said.clone(), 19)
        .tool(Event::End {})
        .spares(Invariant::I18);
    later(later(said.clone(), 12).tool(woken()), 12)
        .tool(Event::End {})
        .spares(Invariant::I18);
    let back = later(said, 12).on(BOB, Event::Linked { newest: 1 });
    later(back, 12).tool(Event::End {}).spares(Invariant::I18);
}

#[test]
fn i19_nobody_serves_once_another_has_in_a_later_epoch() {
    let tale = |old: u64, new: u64| {
        good()
            .tool(serves("a", 1, 5))
            .tool(serves("b", 2, new))
            .tool(serves("b", 3, new + 1))
            .tool(serves("a", 1, old))
    };
    tale(6, 7).breaks(&[]);
    tale(8, 7).names(Invariant::I19, 2);
    let both = good().tool(serves("a", 1, 5)).tool(serves("b", 1, 6));
    both.names(Invariant::I19, 2);
}

#[test]
fn i19_leases_of_two_never_overlap() {
    // A line is a millisecond.
    let ms = 1_000_000;
    let begun = Tale::begun().tool(lease("a", 1, 20 * ms));
    let waited = |mut tale: Tale| {
        tale.0
            .extend(vec![(Some(ANN), Event::Beat { newest: None }); 20]);
        tale
    };
    begun
        .clone()
        .tool(lease("b", 2, 90 * ms))
        .names(Invariant::I19, 2);
    waited(begun.clone())
        .tool(lease("b", 2, 90 * ms))
        .breaks(&[]);
    // It was renewed in between, or given up.
    waited(begun.clone().tool(lease("a", 1, u64::MAX)))
        .tool(lease("b", 2, 90 * ms))
        .names(Invariant::I19, 2);
    begun
        .tool(lease("a", 2, 0))
        .tool(lease("b", 2, 90 * ms))
        .breaks(&[]);
}

/// The group at a version, with the members and where they begin to read.
fn group(n: u64, v: u64, members: &[(u64, u64)]) -> Seen {
    Seen {
        n,
        k: Kind::Group as i32,
        i: GROUP,
        v,
        m: members.to_vec(),
        g: members.is_empty(),
        ..Seen::default()
    }
}

fn to_group(n: u64, i: u64, p: u64) -> Seen {
    Seen {
        who: Some((ANN.u, GROUP)),
        ..item(n, i, p)
    }
}

/// Ann says message 1 to the group; it is not placed yet.
fn said_to_group(tale: Tale) -> Tale {
    let said = vec![Said { c: hex(1), h: 1 }];
    let to = GROUP;
    tale.on(ANN, Event::Invoke { op: 1, to, said })
        .acked(1, 10, 0)
}

#[test]
fn i14_a_member_has_a_groups_messages_from_joining_on() {
    let shown = |joined| {
        let roster = group(1, 1, &[(ANN.u, 0), (BOB.u, joined)]);
        let tale = Tale::begun()
            .apply(ANN, 0, 1, std::slice::from_ref(&roster))
            .apply(BOB, 0, 1, &[roster]);
        said_to_group(tale).apply(BOB, 1, 2, &[to_group(2, 1, 5)])
    };
    shown(4).breaks(&[]);
    shown(5).names(Invariant::I14, 1);
}

#[test]
fn i14_who_has_left_is_shown_nothing_that_was_said_later() {
    let before = group(1, 1, &[(ANN.u, 0), (BOB.u, 0)]);
    let after = group(2, 2, &[(ANN.u, 0)]);
    let again = group(3, 3, &[(ANN.u, 0), (BOB.u, 3)]);
    let begun = Tale::begun()
        .apply(ANN, 0, 1, std::slice::from_ref(&before))
        .apply(BOB, 0, 1, &[before]);
    let left = begun.clone().apply(ANN, 1, 2, &[after]);
    let shown = |tale| said_to_group(tale).apply(BOB, 1, 2, &[to_group(2, 1, 4)]);
    shown(left.clone()).names(Invariant::I14, 3);
    // She did not know yet; and he may have come back.
    shown(begun).breaks(&[]);
    shown(left)
        .apply(BOB, 2, 3, &[again])
        .spares(Invariant::I14);
}

#[test]
fn i1_a_message_to_a_group_is_with_all_its_members() {
    let roster = group(1, 1, &[(ANN.u, 0), (BOB.u, 0)]);
    let tale = |bob: &[Seen], placed: u64| {
        let tale = Tale::begun()
            .apply(ANN, 0, 1, std::slice::from_ref(&roster))
            .apply(BOB, 0, 1, std::slice::from_ref(&roster));
        let own = Seen {
            v: 2,
            ..to_group(11, 1, placed)
        };
        let tale = said_to_group(tale)
            .apply(ANN, 1, 11, &[own])
            .apply(BOB, 1, 2, bob)
            .tool(Event::Drain {});
        tale.on(ANN, Event::Level { key: 11 })
            .on(BOB, Event::Level { key: 2 })
            .tool(Event::End {})
    };
    tale(&[to_group(2, 1, 4)], 4).breaks(&[]);
    tale(&[], 4).names(Invariant::I1, 3);
    tale(&[], 0).names(Invariant::I1, 3);
}

fn marks(n: u64, v: u64, marks: [u64; 4]) -> Seen {
    Seen {
        n,
        k: Kind::Conversation as i32,
        i: ANN.u,
        v,
        r: Some(marks),
        ..Seen::default()
    }
}

#[test]
fn i15_marks_follow_what_is_there_and_never_fall() {
    let tale = |items: &[Seen]| good().apply(BOB, 2, 3, items);
    tale(&[marks(3, 1, [2, 1, 0, 0])]).breaks(&[]);
    tale(&[marks(3, 1, [1, 2, 0, 0])]).names(Invariant::I15, 1);
    tale(&[marks(3, 1, [3, 1, 0, 0])]).names(Invariant::I15, 1);
    let fell = [marks(4, 2, [2, 1, 1, 0])];
    tale(&[marks(3, 1, [2, 1, 1, 1])])
        .apply(BOB, 3, 4, &fell)
        .names(Invariant::I15, 2);
}

#[test]
fn l2_somebody_is_always_served() {
    let mut tale = Tale::begun().invoke(1);
    // A line is a millisecond: beats pass the time.
    let beats = vec![(Some(BOB), Event::Beat { newest: None }); 30_001];
    tale.0.extend(beats.iter().take(29_000).cloned());
    tale.clone().acked(1, 1, 1).spares(Invariant::L2);
    tale.0.extend(beats);
    tale.acked(1, 1, 1).names(Invariant::L2, 2);
}

#[test]
fn l4_what_was_announced_is_soon_there() {
    let told = |wait: usize| {
        let mut tale = Tale::begun().on(BOB, Event::Start { key: 0 });
        for key in 1..=100 {
            let (prev, items) = (key - 1, 0);
            tale = tale.on(BOB, Event::Notify { prev, key, items });
        }
        let beats = vec![(Some(BOB), Event::Beat { newest: None }); wait];
        tale.0.extend(beats);
        tale.apply(BOB, 0, 100, &[])
    };
    told(5_000).spares(Invariant::L4);
    told(12_000).names(Invariant::L4, 2);
}

#[test]
fn a_kind_of_change_that_never_came_is_missed() {
    let mut tale = good().drained(&both(), &both());
    let run = Event::Run {
        what: "test".to_owned(),
        seed: 1,
        faults: Vec::new(),
        least_acks: 1,
        changes: vec!["recall".to_owned()],
    };
    tale.0.insert(0, (None, run));
    let missing = tale.verdict().missing().join("; ");
    assert!(missing.contains("recall"), "{missing}");
    let done = Tale::default().asks(ANN, 9, recall()).done(ANN, 9, 2);
    tale.0.splice(6..6, done.0);
    assert!(tale.verdict().missing().is_empty());
}
