//! What an acknowledgement promises.
//!
//! Knows: requests.   Does not know: copies.
//!
//! `local` = it is on two disks of the store's own IDC. `geo` = it is, with what follows from it elsewhere, on disks of two
//! IDCs. What asks for `geo` waits for the follower, and fails if that takes too long; it is never told that less will do.

use clap::ValueEnum;

use super::ops::{Op, Refusal, RefusalKind};
use crate::proto::terminal::{change_request::Change, group_change::What};

/// How much has to be lost before what was acknowledged is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Promise {
    /// Both copies in the store's own IDC.
    Local,
    /// The follower in another IDC as well.
    Geo,
}

/// Whether a request is acknowledged only once two IDCs have it. `usual` is the store's default, if it is followed at all.
/// Another home's tasks are *stable* then: that home may forget them, since no failover here undoes what they did. Where
/// nobody follows they are that at once.
pub fn waits_for_follower(op: &Op, usual: Option<Promise>) -> bool {
    match op {
        Op::Deliver(_) => return true,
        Op::Send(send) if send.request.as_ref().is_some_and(|request| request.geo) => return true,
        _ => {}
    }
    match usual {
        None => false,
        Some(Promise::Local) => must_not_come_back(op),
        Some(Promise::Geo) => !matches!(op, Op::SettlePush(_)),
    }
}

/// What is said to who has waited in vain.
pub fn not_followed() -> Refusal {
    let text = "no disk in another IDC had it in time, as was asked for; it may still be done: ask again with the same ids, \
                or without asking for two IDCs";
    Refusal::new(RefusalKind::DeadlineExceeded, text)
}

/// Names, passwords, and all that takes something away from somebody: undone by a failover, it would do harm. A login is none of
/// these: one that is lost is made again.
fn must_not_come_back(op: &Op) -> bool {
    let Op::Change(call) = op else {
        return matches!(op, Op::ClaimName(_) | Op::RemoveDevice(_));
    };
    if call.password.is_some() || call.end.is_some() {
        return true;
    }
    let change = call
        .request
        .as_ref()
        .and_then(|request| request.change.as_ref());
    match change {
        Some(Change::Group(change)) => matches!(change.what, Some(What::Kick(_) | What::Leave(_))),
        change => matches!(
            change,
            Some(
                Change::Block(_)
                    | Change::RemoveContact(_)
                    | Change::Recall(_)
                    | Change::LogOut(_)
                    | Change::DeletePost(_)
                    | Change::DeleteComment(_)
            )
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{storage as pb, terminal};

    fn send(geo: bool) -> Op {
        let request = Some(terminal::SendRequest {
            geo,
            ..terminal::SendRequest::default()
        });
        Op::Send(pb::SendMessages {
            request,
            ..pb::SendMessages::default()
        })
    }

    fn change(change: Change) -> Op {
        let change = Some(change);
        let request = Some(terminal::ChangeRequest { change });
        Op::Change(pb::ChangeUser {
            request,
            ..pb::ChangeUser::default()
        })
    }

    #[test]
    fn a_send_asks_for_itself_and_what_takes_away_always_waits_where_somebody_follows() {
        let recall = || change(Change::Recall(terminal::Recall::default()));
        let remark = || change(Change::Remark(terminal::Remark::default()));
        let claim = || Op::ClaimName(pb::ClaimNameRequest::default());
        let (local, geo) = (Some(Promise::Local), Some(Promise::Geo));
        for (op, usual, waits) in [
            (send(true), None, true),
            (send(true), local, true),
            (send(false), local, false),
            (send(false), geo, true),
            (recall(), None, false),
            (recall(), local, true),
            (claim(), local, true),
            (remark(), local, false),
            (remark(), geo, true),
        ] {
            assert_eq!(
                waits_for_follower(&op, usual),
                waits,
                "{op:?} with {usual:?}"
            );
        }
    }
}
