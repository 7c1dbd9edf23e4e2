//! `select!`: one arm, nothing lost, nobody starved.

use std::sync::Arc;
use std::time::Duration;

use super::tests::{everywhere, runtime};
use crate::sync::oneshot::oneshot;
use crate::sync::{Notify, WaitError, channel, unbounded, watch};
use crate::{Deadline, select, spawn, yield_now};

#[test]
fn the_arm_that_is_ready_is_chosen_and_the_others_are_untouched() {
    let (sender, receiver) = channel(1);
    let (_quiet, silent) = channel::<u8>(1);
    let mut value = Some(7);
    let sent = select! {
        recv(silent) -> _ => false,
        send(sender, value) -> outcome => outcome.is_ok(),
    };
    assert!(sent && value.is_none());
    value = Some(8);
    let got = select! {
        send(sender, value) -> _ => None,
        recv(receiver) -> got => got.ok(),
    };
    assert_eq!((got, value), (Some(7), Some(8)));
}

#[test]
fn default_is_chosen_where_nothing_is_ready_and_nothing_waits() {
    let (_sender, receiver) = channel::<u8>(1);
    let notify = Notify::new();
    let chosen = select! {
        recv(receiver) -> _ => "value",
        notified(notify) => "notified",
        default => "default",
    };
    assert_eq!(chosen, "default");
    notify.notify_one();
    let chosen = select! {
        recv(receiver) -> _ => { "value" }
        notified(notify) => { "notified" }
        default => "default"
    };
    assert_eq!(chosen, "notified");
}

#[test]
fn an_arm_without_a_value_to_send_is_not_chosen() {
    let (sender, _receiver) = channel::<u8>(1);
    let mut nothing = None;
    let chosen = select! {
        send(sender, nothing) -> _ => "sent",
        after(Duration::from_millis(1)) => "time",
    };
    assert_eq!((chosen, nothing), ("time", None));
}

#[test]
fn whichever_comes_first_ends_the_wait() {
    let rt = runtime(1);
    rt.block_on(|| {
        for which in 0..5 {
            let (value_in, value) = channel(1);
            let (once_in, once) = oneshot();
            let (state, mut watched) = watch::watch(0);
            let notify = Arc::new(Notify::new());
            let bell = Arc::clone(&notify);
            let other = spawn(move || {
                match which {
                    0 => value_in.send(0).unwrap(),
                    1 => once_in.send(1).unwrap(),
                    2 => state.send(2),
                    3 => bell.notify_one(),
                    _ => drop(state),
                }
                yield_now();
            });
            let chosen = select! {
                recv(value) -> got => if got.is_ok() { 0 } else { 10 },
                recv(once) -> got => if got.is_ok() { 1 } else { 11 },
                changed(watched) -> got => if got.is_ok() { 2 } else { 4 },
                notified(notify) => 3,
                after(Duration::from_secs(100)) => 12,
            };
            assert!(
                chosen == which || (which != 2 && chosen > 3),
                "{which}: {chosen}"
            );
            other.join().unwrap();
        }
    });
}

#[test]
fn every_ready_arm_gets_its_turn() {
    let channels: Vec<_> = (0..3).map(|_| unbounded()).collect();
    for (sender, _) in &channels {
        (0..300).for_each(|i| sender.send(i).unwrap());
    }
    let [a, b, c] = [0, 1, 2].map(|i: usize| &channels[i].1);
    let mut counts = [0; 3];
    for _ in 0..300 {
        select! {
            recv(a) -> _ => counts[0] += 1,
            recv(b) -> _ => counts[1] += 1,
            recv(c) -> _ => counts[2] += 1,
        }
    }
    assert_eq!(counts, [100; 3]);
}

#[test]
fn many_selects_lose_nothing_and_take_nothing_twice() {
    const EACH: usize = 400;
    let rt = runtime(2);
    for bound in [0, 2] {
        let (left_in, left) = channel(bound);
        let (right_in, right) = channel(bound);
        let senders = {
            let body = move |who: usize| {
                for i in 0..EACH / 2 {
                    let first = who * EACH + 2 * i;
                    let (mut even, mut odd) = (Some(first), Some(first + 1));
                    while even.is_some() || odd.is_some() {
                        select! {
                            send(left_in, even) -> outcome => outcome.unwrap(),
                            send(right_in, odd) -> outcome => outcome.unwrap(),
                        }
                    }
                }
            };
            let handle = rt.handle();
            std::thread::spawn(move || {
                let body = Arc::new(body);
                let coroutine = Arc::clone(&body);
                let coroutine = handle.spawn(move || coroutine(0));
                body(1);
                coroutine.join().unwrap();
            })
        };
        let got = everywhere(&rt, 2, move |_| {
            let (mut got, mut open) = (Vec::new(), [true, true]);
            while open[0] && open[1] {
                select! {
                    recv(left) -> value => match value {
                        Ok(value) => got.push(value),
                        Err(error) => open[0] = error != WaitError::Closed,
                    },
                    recv(right) -> value => match value {
                        Ok(value) => got.push(value),
                        Err(error) => open[1] = error != WaitError::Closed,
                    },
                    after(Duration::from_micros(200)) => {}
                }
            }
            got.extend(left.iter());
            got.extend(right.iter());
            got
        });
        senders.join().unwrap();
        let mut all: Vec<usize> = got.into_iter().flatten().collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..2 * EACH), "bound {bound}");
    }
}

#[test]
fn two_selects_that_both_send_and_receive_meet() {
    let rt = runtime(1);
    rt.block_on(|| {
        let (sender, receiver) = channel(0);
        let meet = |mine: u32| {
            let (sender, receiver) = (sender.clone(), receiver.clone());
            spawn(move || {
                let mut mine = Some(mine);
                select! {
                    send(sender, mine) -> outcome => outcome.map(|()| None).unwrap(),
                    recv(receiver) -> other => Some(other.unwrap()),
                }
            })
        };
        let both = [meet(1), meet(2)].map(|handle| handle.join().unwrap());
        assert!(
            matches!(both, [None, Some(1)] | [Some(2), None]),
            "{both:?}"
        );
    });
}

#[test]
fn the_scope_is_reported_by_the_first_arm_that_can() {
    let rt = runtime(1);
    rt.block_on(|| {
        let (_sender, receiver) = channel::<u8>(1);
        let notify = Notify::new();
        let cut = Deadline::within(Duration::from_millis(1), || {
            select! {
                notified(notify) => None,
                recv(receiver) -> got => got.err(),
                after(Duration::from_secs(100)) => None,
            }
        });
        assert_eq!(cut, Some(WaitError::TimedOut));
        let waiting = spawn(move || {
            select! {
                recv(receiver) -> got => got.err(),
                notified(notify) => None,
            }
        });
        yield_now();
        yield_now();
        waiting.cancel();
        assert_eq!(waiting.join().unwrap(), Some(WaitError::Cancelled));
        let (notify, mut timed) = (Notify::new(), false);
        Deadline::within(Duration::ZERO, || {
            select! {
                notified(notify) => {}
                after(Duration::from_millis(2)) => timed = true,
            }
        });
        assert!(timed, "no arm can bear an error: nothing is cut");
    });
}
