//! Moments under random changes and crashes: incremental = full, one order everywhere, no answer before its question,
//! nothing of what was deleted.

use super::{changes::change, *};
use crate::{
    proto::terminal::{Comment, change_request::Change},
    storage::moments,
};

/// What the users know of posts and comments, from answers.
#[derive(Default)]
struct Known {
    /// (author, post).
    posts: Vec<(UserId, u64)>,
    /// (post, comment).
    comments: Vec<(u64, u64)>,
}

fn any_change(dice: &mut Dice, known: &Known, step: u64) -> Change {
    let client_id = Bytes::from([step.to_be_bytes(), [7; 8]].concat());
    let Some(&(author, post_id)) = known
        .posts
        .get(dice.roll(known.posts.len() as u64 + 1) as usize)
    else {
        let text = format!("post {step}");
        return Change::NewPost(terminal::NewPost {
            client_id,
            text,
            ..Default::default()
        });
    };
    let there: Vec<u64> = known
        .comments
        .iter()
        .filter(|comment| comment.0 == post_id)
        .map(|comment| comment.1)
        .collect();
    let comment_id = match there.len() as u64 {
        0 => 0,
        count => there[dice.roll(count) as usize],
    };
    let author = author.0;
    match dice.roll(12) {
        0 => Change::DeletePost(terminal::DeletePost { post_id }),
        1 | 2 => Change::DeleteComment(terminal::DeleteComment {
            author,
            post_id,
            comment_id,
        }),
        3 | 4 => Change::Like(terminal::Like {
            author,
            post_id,
            liked: dice.roll(3) > 0,
        }),
        other => Change::NewComment(terminal::NewComment {
            author,
            post_id,
            client_id,
            text: format!("comment {step}"),
            reply_to: if other < 8 { comment_id } else { 0 },
        }),
    }
}

fn world(seed: u64, steps: u64) -> [usize; 5] {
    let mut dice = Dice(seed);
    let mut pair = Pair::new(seed);
    let users = friends(&mut pair, &["ann", "bob", "cy", "dee"]);
    floor::add_devices(&mut pair, &users);
    let mut devices: Vec<Device> = users.iter().map(|_| Device::default()).collect();
    let mut known = Known::default();
    pair.set_faults(true);
    for step in 0..steps {
        let asked: Vec<(UserId, Change)> = (0..1 + dice.roll(4))
            .map(|n| {
                let user = users[dice.roll(4) as usize];
                (user, any_change(&mut dice, &known, step << 8 | n))
            })
            .collect();
        let ops = asked
            .iter()
            .map(|(user, asked)| change(*user, asked.clone()));
        // Half of it has no place when it comes; a lost answer leaves what it made unknown to the users.
        for ((user, asked), answer) in asked
            .iter()
            .zip(pair.round(ops.collect()).into_iter().flatten())
        {
            match (asked, answer) {
                (Change::NewPost(_), Ok(Answer::Made { id, .. })) => known.posts.push((*user, id)),
                (Change::NewComment(comment), Ok(Answer::Made { id, .. })) => {
                    known.comments.push((comment.post_id, id));
                }
                _ => {}
            }
        }
        let who = dice.roll(4) as usize;
        devices[who].sync(&mut pair, users[who], 1 + dice.roll(9) as usize);
        floor::maybe_collect(&mut pair, &mut dice, &users, &devices);
    }
    pair.set_faults(false);
    pair.drain();
    level_with_fresh(&mut pair, &mut devices, &users);
    let (mut live, mut gone) = (0, 0);
    for &(author, post_id) in &known.posts {
        match check(&mut pair, &users, &devices, author, post_id) {
            Some(comments) => live += comments,
            None => gone += 1,
        }
    }
    let fulls = devices.iter().map(|device| device.fulls as usize).sum();
    let floors = floor::floors(&mut pair, &users);
    [known.posts.len(), live, gone, fulls, floors]
}

/// One post at rest; how much is said to it, `None` if it is gone.
fn check(
    pair: &mut Pair,
    users: &[UserId],
    devices: &[Device],
    author: UserId,
    post_id: u64,
) -> Option<usize> {
    let engine = pair.store().engine();
    let truth = moments::post(&*engine, author, post_id, author).ok();
    let comments = truth.as_ref().map_or(&[][..], |reply| &reply.comments);
    let takes_part = |user: UserId| user == author || comments.iter().any(|said| said.by == user.0);
    for (&user, device) in users.iter().zip(devices) {
        let pointer = device.state.get(&(Kind::Post.into(), post_id));
        assert_eq!(
            pointer.is_none_or(|pointer| pointer.deleted),
            truth.is_none(),
            "pointers go with the post"
        );
        let mut told: Vec<(u64, u64, Comment)> = Vec::new();
        for item in device.state.values() {
            if item.kind() == Kind::Comment && !item.deleted {
                let comment = Comment::decode(item.payload.clone()).expect("a comment");
                if comment.post_id == post_id {
                    told.push((item.number, item.pos.expect("a place").count, comment));
                }
            }
        }
        told.sort_by_key(|(number, ..)| *number);
        assert!(
            told.is_sorted_by_key(|(_, place, _)| *place),
            "in the home's order"
        );
        let told: Vec<&Comment> = told.iter().map(|(.., comment)| comment).collect();
        // Whoever took part late has the end of it; the author has it all.
        let from = comments
            .len()
            .checked_sub(told.len())
            .expect("nothing that the home does not have");
        assert!(
            told.iter().copied().eq(&comments[from..]),
            "as the home has it"
        );
        assert!(from == 0 || user != author, "the author has all of it");
        assert!(!told.is_empty() || !takes_part(user) || comments.is_empty());
        for (at, comment) in told.iter().enumerate() {
            let question = told
                .iter()
                .position(|said| said.comment_id == comment.reply_to);
            assert!(
                question.is_none_or(|question| question < at),
                "no answer before its question"
            );
        }
    }
    truth.is_some().then_some(comments.len())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn moments_come_out_the_same_whoever_dies(seed in any::<u64>()) {
        world(seed, 60);
    }
}

#[test]
fn the_world_has_posts_comments_ends_of_both_floors_and_devices_below_them() {
    let worlds: Vec<[usize; 5]> = (0..6).map(|seed| world(seed, 60)).collect();
    for what in 0..5 {
        let count: usize = worlds.iter().map(|world| world[what]).sum();
        assert!(count > 6, "{worlds:?}");
    }
}
