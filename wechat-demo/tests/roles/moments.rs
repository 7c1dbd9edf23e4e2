//! Moments from outside: who sees what, and that nobody sees more in any way the API offers.

use prost::Message;

use super::*;
use wechat_demo::proto::terminal::audience::Who;

fn post(home: &Home, author: u64, text: &str, who: Who, named: &[u64]) -> u64 {
    let mut client_id = [0; 16];
    client_id.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    let new = terminal::NewPost {
        client_id: client_id.to_vec().into(),
        text: text.to_owned(),
        media: Vec::new(),
        audience: Some(terminal::Audience {
            who: who.into(),
            user_ids: named.to_vec(),
        }),
    };
    let made = || {
        let call = lp::ChangeCall {
            caller: caller(author),
            request: Some(terminal::ChangeRequest {
                change: Some(Change::NewPost(new.clone())),
            }),
        };
        home.logic.change(call).unwrap().into_inner()
    };
    let first = made();
    assert_eq!(made(), first, "asked again, it is the same post");
    assert!(first.number > 0, "the author has it at once");
    first.made
}

fn open_as(
    home: &Home,
    who: lp::Caller,
    author: u64,
    post_id: u64,
) -> Result<terminal::OpenPostReply, Status> {
    let call = lp::OpenPostCall {
        caller: Some(who),
        request: Some(terminal::OpenPostRequest { author, post_id }),
    };
    Ok(home.logic.open_post(call)?.into_inner())
}

fn open(home: &Home, user: u64, author: u64, id: u64) -> Result<terminal::OpenPostReply, Status> {
    open_as(home, who(user, 1), author, id)
}

/// Texts of what `user` finds under a post; `+` for a like.
fn said(home: &Home, user: u64, author: u64, post_id: u64) -> Vec<String> {
    let comments = open(home, user, author, post_id).unwrap().comments;
    let text = |comment: terminal::Comment| match comment.like {
        true => "+".to_owned(),
        false => comment.text,
    };
    comments.into_iter().map(text).collect()
}

fn album(home: &Home, user: u64, author: u64, limit: u32) -> Vec<String> {
    let (mut texts, mut before) = (Vec::new(), 0);
    loop {
        let call = lp::OpenAlbumCall {
            caller: caller(user),
            request: Some(terminal::OpenAlbumRequest {
                author,
                before,
                limit,
            }),
        };
        let page = home.logic.open_album(call).unwrap().into_inner();
        texts.extend(page.posts.into_iter().map(|post| post.text));
        before = page.next;
        if before == 0 {
            return texts;
        }
    }
}

fn items(home: &Home, user: u64, kind: Kind) -> Vec<terminal::Item> {
    let items = home.sync(user, 0, 1000).unwrap().items;
    items
        .into_iter()
        .filter(|item| item.kind() == kind)
        .collect()
}

/// Ids of the posts that stand in a timeline.
fn pointers(home: &Home, user: u64) -> Vec<u64> {
    let items = items(home, user, Kind::Post);
    let live = items.iter().filter(|item| !item.deleted);
    live.map(|item| item.id).collect()
}

/// Texts of the comments that stand in a timeline, in its order.
fn told(home: &Home, user: u64) -> Vec<String> {
    let live = items(home, user, Kind::Comment)
        .into_iter()
        .filter(|item| !item.deleted);
    let comment = |item: terminal::Item| terminal::Comment::decode(item.payload).unwrap();
    live.map(comment)
        .map(|comment| {
            if comment.like {
                "+".to_owned()
            } else {
                comment.text
            }
        })
        .collect()
}

fn comment(home: &Home, by: u64, to: (u64, u64), id: u8, text: &str, reply_to: u64) -> u64 {
    let call = lp::ChangeCall {
        caller: caller(by),
        request: Some(terminal::ChangeRequest {
            change: Some(new_comment(to, id, text, reply_to)),
        }),
    };
    home.logic.change(call).unwrap().made
}

fn new_comment((author, post_id): (u64, u64), id: u8, text: &str, reply_to: u64) -> Change {
    Change::NewComment(terminal::NewComment {
        author,
        post_id,
        client_id: vec![id; 16].into(),
        text: text.to_owned(),
        reply_to,
    })
}

fn like((author, post_id): (u64, u64), liked: bool) -> Change {
    Change::Like(terminal::Like {
        author,
        post_id,
        liked,
    })
}

fn four(home: &Home) -> [u64; 4] {
    let users = ["ann", "bob", "cy", "eve"].map(|name| home.register(name, "secret1").unwrap());
    // Bob and cy are ann's friends, and not each other's; eve is nobody's.
    home.befriend(users[0], users[1]);
    home.befriend(users[0], users[2]);
    users
}

#[rpc_core::test]
fn a_post_is_seen_by_its_audience_alone_in_every_way_there_is() {
    let home = Home::start();
    let [ann, bob, cy, eve] = four(&home);
    let all = post(&home, ann, "for all", Who::All, &[]);
    let only = post(&home, ann, "for bob", Who::Only, &[bob, eve]);
    let but = post(&home, ann, "not for bob", Who::Except, &[bob]);
    let own = post(&home, ann, "for me", Who::Nobody, &[]);
    home.until("bob has his", || pointers(&home, bob) == [all, only]);
    home.until("cy has his", || pointers(&home, cy) == [all, but]);
    assert_eq!(pointers(&home, ann), [all, only, but, own]);
    assert_eq!(
        album(&home, ann, ann, 3),
        ["for me", "not for bob", "for bob", "for all"]
    );
    assert_eq!(album(&home, bob, ann, 1), ["for bob", "for all"]);
    assert_eq!(album(&home, cy, ann, 0), ["not for bob", "for all"]);
    assert!(album(&home, eve, ann, 0).is_empty());
    assert!(
        open(&home, bob, ann, only)
            .unwrap()
            .post
            .unwrap()
            .audience
            .is_none()
    );
    for (user, post_id) in [
        (bob, but),
        (bob, own),
        (cy, only),
        (eve, all),
        (eve, only),
        (bob, 1),
    ] {
        assert_eq!(code(open(&home, user, ann, post_id)), Code::NotFound);
    }
    // A post's id under another's name, and a device that is none of the caller's.
    assert_eq!(code(open(&home, bob, bob, all)), Code::NotFound);
    assert_eq!(
        code(open_as(&home, who(bob, 7), ann, all)),
        Code::Unauthenticated
    );
    assert_eq!(
        code(open_as(&home, who(bob, 7), ann, own)),
        Code::Unauthenticated
    );
    // Who may not see it may not speak to it either: a stranger hears at once, the rest from the post's home.
    for asked in [new_comment((ann, all), 1, "hi", 0), like((ann, all), true)] {
        assert_eq!(code(change(&home, who(eve, 1), asked)), Code::NotFound);
    }
    comment(&home, cy, (ann, only), 2, "let me in", 0);
    change(&home, who(bob, 1), like((ann, own), true)).unwrap();
    for user in [cy, bob] {
        home.until("the refusal comes", || {
            items(&home, user, Kind::Refused).len() == 1
        });
    }
    assert!(said(&home, ann, ann, only).is_empty() && said(&home, ann, ann, own).is_empty());
    // Nobody takes down what is not theirs.
    let down = Change::DeletePost(terminal::DeletePost { post_id: all });
    assert_eq!(code(change(&home, who(bob, 1), down)), Code::NotFound);
    assert!(open(&home, cy, ann, all).is_ok());
    home.stop();
}

#[rpc_core::test]
fn what_is_said_to_a_post_reaches_author_and_those_who_take_part_and_friends_see_it() {
    let home = Home::start();
    let [ann, bob, cy, dee] = four(&home);
    home.befriend(dee, ann);
    home.befriend(dee, bob);
    let post_id = post(&home, ann, "look", Who::All, &[]);
    let to = (ann, post_id);
    let question = comment(&home, bob, to, 1, "where?", 0);
    assert_eq!(comment(&home, bob, to, 1, "where?", 0), question, "a retry");
    home.until("ann has it", || told(&home, ann) == ["where?"]);
    comment(&home, ann, to, 1, "here", question);
    change(&home, who(dee, 1), like(to, true)).unwrap();
    change(&home, who(dee, 1), like(to, true)).unwrap();
    home.until("all of it is there", || {
        said(&home, ann, ann, post_id).len() == 3
    });
    comment(&home, cy, to, 1, "nice", 0);
    home.until("cy's too", || said(&home, ann, ann, post_id).len() == 4);
    home.until("ann is told", || told(&home, ann).len() == 4);
    // Bob takes part: he is told, but not what cy says, who is no friend of his.
    home.until("bob is told", || {
        told(&home, bob) == ["where?", "here", "+"]
    });
    assert_eq!(told(&home, cy), ["nice"]);
    assert_eq!(said(&home, bob, ann, post_id), ["where?", "here", "+"]);
    assert_eq!(said(&home, cy, ann, post_id), ["here", "nice"]);
    assert_eq!(said(&home, dee, ann, post_id), ["where?", "here", "+"]);
    // Dee takes the like back; of comments everybody takes back the own, the author any.
    change(&home, who(dee, 1), like(to, false)).unwrap();
    let delete = |comment_id| {
        Change::DeleteComment(terminal::DeleteComment {
            author: ann,
            post_id,
            comment_id,
        })
    };
    change(&home, who(cy, 1), delete(question)).unwrap();
    home.until("cy may not", || items(&home, cy, Kind::Refused).len() == 1);
    change(&home, who(ann, 1), delete(question)).unwrap();
    home.until("it is gone", || {
        said(&home, ann, ann, post_id) == ["here", "nice"]
    });
    home.until("bob's goes as well", || told(&home, bob) == ["here"]);
    // The post goes with all that was said to it.
    let down = || Change::DeletePost(terminal::DeletePost { post_id });
    let number = change(&home, who(ann, 1), down()).unwrap();
    assert_eq!(change(&home, who(ann, 1), down()).unwrap(), number);
    for user in [ann, bob, cy, dee] {
        assert_eq!(code(open(&home, user, ann, post_id)), Code::NotFound);
        home.until("nothing is left", || {
            pointers(&home, user).is_empty() && told(&home, user).is_empty()
        });
        let left = items(&home, user, Kind::Comment);
        assert!(left.iter().all(|item| item.payload.is_empty()));
    }
    comment(&home, bob, to, 9, "still?", 0);
    home.until("it takes no more", || {
        items(&home, bob, Kind::Refused).len() == 1
    });
    home.stop();
}

#[rpc_core::test]
fn a_block_and_the_end_of_a_friendship_close_the_album_at_once() {
    let home = Home::start();
    let [ann, bob, cy, _] = four(&home);
    let post_id = post(&home, ann, "look", Who::All, &[]);
    let block = |user_id, blocked| Change::Block(terminal::Block { user_id, blocked });
    for (by, whom) in [(ann, bob), (bob, ann)] {
        assert!(open(&home, bob, ann, post_id).is_ok());
        change(&home, who(by, 1), block(whom, true)).unwrap();
        assert_eq!(code(open(&home, bob, ann, post_id)), Code::NotFound);
        assert!(album(&home, bob, ann, 0).is_empty());
        change(&home, who(by, 1), block(whom, false)).unwrap();
    }
    let remove = Change::RemoveContact(terminal::RemoveContact { user_id: cy });
    change(&home, who(ann, 1), remove).unwrap();
    assert_eq!(code(open(&home, cy, ann, post_id)), Code::NotFound);
    let next = post(&home, ann, "another", Who::All, &[]);
    home.until("bob has it", || pointers(&home, bob).contains(&next));
    assert!(!pointers(&home, cy).contains(&next));
    home.stop();
}

#[rpc_core::test]
fn posts_and_comments_are_bounded() {
    let home = Home::start();
    let ann = home.register("ann", "secret1").unwrap();
    let good = terminal::NewPost {
        client_id: vec![1; 16].into(),
        text: "x".repeat(4096),
        media: Vec::new(),
        audience: None,
    };
    let audience = |who: i32, named: usize| {
        Some(terminal::Audience {
            who,
            user_ids: vec![1; named],
        })
    };
    let with = |spoil: fn(&mut terminal::NewPost)| {
        let mut post = good.clone();
        spoil(&mut post);
        post
    };
    let mut wrong = vec![
        with(|post| post.text.push('x')),
        with(|post| post.text.clear()),
        with(|post| post.client_id = vec![1; 17].into()),
        with(|post| post.media = vec![terminal::Media::default()]),
        with(|post| post.media = vec![terminal::Media::default(); 10]),
    ];
    // An audience of a later version must not be taken for everybody.
    for (who, named) in [(0, 1), (1, 0), (1, 501), (2, 0), (3, 1), (4, 0)] {
        wrong.push(terminal::NewPost {
            audience: audience(who, named),
            ..good.clone()
        });
    }
    for post in wrong {
        let refused = change(&home, who(ann, 1), Change::NewPost(post));
        assert_eq!(code(refused), Code::InvalidArgument);
    }
    change(&home, who(ann, 1), Change::NewPost(good)).unwrap();
    for text in [String::new(), "x".repeat(513)] {
        let refused = change(&home, who(ann, 1), new_comment((ann, 1), 1, &text, 0));
        assert_eq!(code(refused), Code::InvalidArgument);
    }
    home.stop();
}
