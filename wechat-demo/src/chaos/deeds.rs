//! What people do besides talking: take back, edit, block, mark as read, come into groups and leave them, post,
//! write, and look who is there.
//!
//! Each hand has people of its own and does one thing at a time, so that what one person asked for happens in
//! that order. Whatever the backend refuses is as good: the history tells it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rpc_core::base::rng::Rng;
use wechat_demo::proto::terminal as pb;
use wechat_demo::proto::terminal::change_request::Change;
use wechat_demo::proto::terminal::group_change::What;
use wechat_demo::terminal::new_client_id;

use super::crowd::Crowd;

/// Hands at work.
pub(super) const HANDS: usize = 4;
/// Shortest and longest pause of a hand, ms.
const PAUSE_MS: (u64, u64) = (50, 450);
/// A change is given up after this: what becomes of it is then unknown.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of so many things one passes and is kept nowhere.
const PASSING: u64 = 6;
/// Own posts that a hand remembers.
const POSTS: usize = 64;

/// The kinds that a run of some length must have seen, by the checker's names.
pub(super) const KINDS: [&str; 14] = [
    "block",
    "delete-post",
    "edit",
    "invite",
    "join",
    "kick",
    "leave",
    "mark",
    "post",
    "presence",
    "recall",
    "typing",
    "unblock",
    "create-group",
];

/// Whom a hand's people block, and what they have posted.
#[derive(Default)]
struct Memory {
    blocked: HashMap<usize, u64>,
    posts: VecDeque<(usize, u64)>,
}

/// One hand's work, until it is over.
pub(super) fn work(crowd: &Crowd, hand: usize, mut rng: Rng, over: &AtomicBool) {
    let mut memory = Memory::default();
    while !over.load(Ordering::Acquire) {
        let pause = PAUSE_MS.0 + rng.below(PAUSE_MS.1 - PAUSE_MS.0);
        std::thread::sleep(Duration::from_millis(pause));
        let own = crowd.len().div_ceil(HANDS) as u64;
        let person = (hand + HANDS * rng.below(own) as usize) % crowd.len();
        if person % HANDS != hand {
            // The last round of hands is not full.
            continue;
        }
        if rng.below(PASSING) == 0 {
            crowd.pass(person, &mut rng);
            continue;
        }
        let Some((whose, change)) = choose(crowd, person, &mut rng, &mut memory) else {
            continue;
        };
        let made = crowd.change(whose, change.clone(), PATIENCE);
        if let (Change::NewPost(_), Some(post)) = (&change, made) {
            memory.posts.truncate(POSTS - 1);
            memory.posts.push_front((whose, post));
        }
    }
}

/// Who does what next. A group's owner acts for a group whose people are the hand's.
fn choose(
    crowd: &Crowd,
    person: usize,
    rng: &mut Rng,
    memory: &mut Memory,
) -> Option<(usize, Change)> {
    let change = match rng.below(12) {
        0 | 1 => Change::Recall(pb::Recall {
            message_id: crowd.said(person, rng.below(8) as usize)?,
            ..pb::Recall::default()
        }),
        2 => Change::Edit(pb::Edit {
            message_id: crowd.said(person, rng.below(8) as usize)?,
            text: format!("edited {}", rng.below(1_000)),
            ..pb::Edit::default()
        }),
        3 | 4 => {
            let peer = crowd.some_conversation(person, rng);
            let newest = crowd.newest_in(person, peer)?;
            // Sometimes of more than there is: that must be refused.
            let received = newest + if rng.below(8) == 0 { 1_000_000 } else { 0 };
            let read = received.saturating_sub(rng.below(3));
            Change::Mark(pb::Mark {
                peer,
                received,
                read,
            })
        }
        5 | 6 => {
            let before = memory.blocked.remove(&person);
            let user_id = before.unwrap_or_else(|| crowd.some_friend(person, rng));
            if before.is_none() {
                memory.blocked.insert(person, user_id);
            }
            let blocked = before.is_none();
            Change::Block(pb::Block { user_id, blocked })
        }
        7 => {
            let client_id = new_client_id();
            Change::NewPost(pb::NewPost {
                client_id,
                text: "a post".to_owned(),
                ..pb::NewPost::default()
            })
        }
        8 => {
            let (author, post_id) = memory.posts.pop_back()?;
            return Some((author, Change::DeletePost(pb::DeletePost { post_id })));
        }
        _ => Change::Group(crowd.group_change(person, rng)?),
    };
    Some((person, change))
}

impl Crowd {
    /// The person is seen to write to a friend, or looks who of them is there. What is lost is lost.
    fn pass(&self, person: usize, rng: &mut Rng) {
        let friend = self.some_friend(person, rng);
        let terminal = self.terminal(person);
        if rng.below(2) == 0 {
            drop(terminal.typing(friend));
        } else {
            drop(terminal.watch(vec![friend]));
        }
    }

    /// Something about one of the person's groups: an owner sends away or invites, a member leaves or joins.
    fn group_change(&self, person: usize, rng: &mut Rng) -> Option<pb::GroupChange> {
        let groups = self.groups_of(person);
        let group = groups.get(rng.below(groups.len().max(1) as u64) as usize)?;
        let owns = group.people.first() == Some(&person);
        let some = 1 + rng.below(group.people.len() as u64 - 1) as usize;
        let user_ids = vec![self.user(group.people[some])];
        let what = match (owns, rng.below(2)) {
            (true, 0) => What::Kick(pb::Members { user_ids }),
            (true, _) => What::Invite(pb::Members { user_ids }),
            (false, 0) => What::Leave(true),
            (false, _) => What::Join(true),
        };
        Some(pb::GroupChange {
            group_id: group.id,
            what: Some(what),
        })
    }
}
