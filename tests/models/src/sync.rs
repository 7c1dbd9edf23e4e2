//! How waiters are served and leave: `queue.rs` under `channel.rs` and `select.rs`.

#[path = "../../../rpc-core/src/sync/channel.rs"]
#[expect(dead_code, reason = "a part of the channel is modelled")]
mod channel;
#[path = "../../../rpc-core/src/sync/queue.rs"]
#[expect(dead_code, reason = "a part of the queue's users is modelled")]
mod queue;
#[path = "../../../rpc-core/src/sync/select.rs"]
mod select;

use std::time::Duration;

use loom::thread;

use crate::check;
use channel::{TryRecvError, channel};
use queue::WaitError;
use select::{__After, __try, Arm, wait_from};

#[test]
fn values_arrive_once_and_in_order_through_every_bound() {
    for bound in 0..2 {
        check(move || {
            let (sender, receiver) = channel(bound);
            let sending = thread::spawn(move || (1..=2).for_each(|i| sender.send(i).unwrap()));
            assert_eq!([receiver.recv(), receiver.recv()], [Ok(1), Ok(2)]);
            sending.join().unwrap();
            assert_eq!(receiver.recv(), Err(WaitError::Closed));
        });
    }
}

#[test]
fn one_of_two_receivers_gets_the_value_and_the_other_the_end() {
    check(|| {
        let (sender, receiver) = channel(1);
        let other = receiver.clone();
        let receiving = thread::spawn(move || other.recv());
        let sending = thread::spawn(move || sender.send(1).unwrap());
        let mut both = [receiver.recv(), receiving.join().unwrap()];
        both.sort_by_key(Result::is_err);
        assert_eq!(both, [Ok(1), Err(WaitError::Closed)]);
        sending.join().unwrap();
    });
}

#[test]
fn a_wait_cut_as_it_is_served_has_its_value_or_leaves_it() {
    check(|| {
        let (sender, receiver) = channel(1);
        let sending = thread::spawn(move || sender.send(1).unwrap());
        let cut = receiver.recv_timeout(Duration::ZERO);
        sending.join().unwrap();
        match cut {
            Ok(1) => assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed)),
            Err(WaitError::TimedOut) => assert_eq!(receiver.try_recv(), Ok(1)),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_send_cut_as_it_is_served_has_sent_or_has_its_value() {
    check(|| {
        let (sender, receiver) = channel(0);
        let sending = thread::spawn(move || sender.send_timeout(1, Duration::ZERO));
        let got = receiver.recv();
        match sending.join().unwrap() {
            Ok(()) => assert_eq!(got, Ok(1)),
            Err(error) => assert_eq!((got, error.value), (Err(WaitError::Closed), 1)),
        }
    });
}

#[test]
fn a_select_takes_from_one_and_leaves_the_other() {
    check(|| {
        let (left_in, left) = channel(0);
        let (right_in, right) = channel(1);
        let sendings = [
            thread::spawn(move || left_in.send(1).unwrap()),
            thread::spawn(move || right_in.send(2).unwrap()),
        ];
        let (mut a, mut b) = (left.__recv_arm(), right.__recv_arm());
        let rest = match wait_from(0, &mut [&mut a, &mut b]) {
            0 => {
                assert_eq!(a.__take(), Ok(1));
                right.recv()
            }
            _ => {
                assert_eq!(b.__take(), Ok(2));
                left.recv()
            }
        };
        assert!(matches!(rest, Ok(1 | 2)), "{rest:?}");
        sendings.into_iter().for_each(|s| s.join().unwrap());
        let mut end = left.__recv_arm();
        assert_eq!(__try(&mut [&mut end]), Some(0), "the end needs no wait");
    });
}

#[test]
fn a_select_whose_time_is_up_keeps_what_it_had_to_send() {
    check(|| {
        let (sender, receiver) = channel(0);
        let receiving = thread::spawn(move || receiver.recv());
        let mut value = Some(1);
        let mut send = sender.__send_arm(&mut value);
        let mut time = __After::new(Duration::ZERO);
        let chosen = wait_from(0, &mut [&mut send, &mut time as &mut dyn Arm]);
        drop(sender);
        let got = receiving.join().unwrap();
        if chosen == 0 {
            assert_eq!((got, value), (Ok(1), None));
        } else {
            assert_eq!((got, value), (Err(WaitError::Closed), Some(1)));
        }
    });
}

#[test]
fn two_selects_that_both_send_and_receive_meet() {
    check(|| {
        let (sender, receiver) = channel(0);
        let meet = |mine: u32| {
            let (sender, receiver) = (sender.clone(), receiver.clone());
            move || {
                let mut mine = Some(mine);
                let (mut send, mut recv) = (sender.__send_arm(&mut mine), receiver.__recv_arm());
                match wait_from(0, &mut [&mut send, &mut recv]) {
                    0 => None,
                    _ => recv.__take().ok(),
                }
            }
        };
        let other = thread::spawn(meet(2));
        let both = [meet(1)(), other.join().unwrap()];
        assert!(
            matches!(both, [None, Some(1)] | [Some(2), None]),
            "{both:?}"
        );
    });
}
