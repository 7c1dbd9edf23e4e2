//! Moments in `chat`: posts by the numbers under which they were listed.
//!
//! Knows:       the words, what stands on the screen.
//! Does not know: how lines come in.

use wechat_demo::proto::terminal::{self as pb, audience::Who, change_request::Change};
use wechat_demo::terminal::new_client_id;

use super::{Chat, PATIENCE, printable, time_of_day};

/// Posts that one `/moments` lists.
const LISTED: usize = 10;

/// A post on the screen, and its comments if they are there too.
pub(super) struct Listed {
    author: u64,
    post_id: u64,
    /// Ids, in the order of their numbers on the screen.
    comments: Vec<u64>,
}

/// A line about moments, as it is meant. Numbers are those on the screen, from 1.
#[derive(Debug, PartialEq)]
pub(super) enum Line<'a> {
    Post(Who, Vec<&'a str>, &'a str),
    List,
    Album(&'a str),
    Look(usize),
    Unpost(usize),
    Like(usize, bool),
    Comment(usize, &'a str),
    Answer(usize, usize, &'a str),
    Uncomment(usize, usize),
}

/// Reads a command's word and the rest; `None` if it is none of these.
pub(super) fn parse<'a>(word: &str, rest: &'a str) -> Option<Line<'a>> {
    let number = |text: &str| text.parse().ok();
    let two = |text: &'a str| text.split_once(' ').map(|(a, b)| (a, b.trim()));
    Some(match (word, rest) {
        ("post", text) if !text.is_empty() => return post(text),
        ("moments", "") => Line::List,
        ("album", name) if !name.is_empty() => Line::Album(name),
        ("look", n) => Line::Look(number(n)?),
        ("unpost", n) => Line::Unpost(number(n)?),
        ("like", n) => Line::Like(number(n)?, true),
        ("unlike", n) => Line::Like(number(n)?, false),
        ("comment", rest) => {
            let (n, text) = two(rest)?;
            Line::Comment(number(n)?, text)
        }
        ("answer", rest) => {
            let (n, rest) = two(rest)?;
            let (m, text) = two(rest)?;
            Line::Answer(number(n)?, number(m)?, text)
        }
        ("uncomment", rest) => {
            let (n, m) = two(rest)?;
            Line::Uncomment(number(n)?, number(m)?)
        }
        _ => return None,
    })
}

fn post(text: &str) -> Option<Line<'_>> {
    if let Some(text) = text.strip_prefix("- ") {
        return Some(Line::Post(Who::Nobody, Vec::new(), text.trim()));
    }
    let (who, rest) = match (text.strip_prefix('@'), text.strip_prefix('!')) {
        (Some(rest), _) => (Who::Only, rest),
        (_, Some(rest)) => (Who::Except, rest),
        _ => return Some(Line::Post(Who::All, Vec::new(), text)),
    };
    let (names, text) = rest.split_once(' ')?;
    Some(Line::Post(who, names.split(',').collect(), text.trim()))
}

impl Chat {
    /// Does what a line about moments says.
    pub(super) fn moments(&mut self, line: Line<'_>) -> anyhow::Result<()> {
        let change = match line {
            Line::List => return self.list_posts(),
            Line::Album(name) => return self.album(name),
            Line::Look(n) => return self.look(n),
            Line::Post(who, names, text) => {
                let ids: anyhow::Result<_> = names.iter().map(|name| self.user(name)).collect();
                Change::NewPost(pb::NewPost {
                    client_id: new_client_id(),
                    text: text.to_owned(),
                    media: Vec::new(),
                    audience: Some(pb::Audience {
                        who: who.into(),
                        user_ids: ids?,
                    }),
                })
            }
            Line::Unpost(n) => {
                let post = self.listed(n)?;
                if post.author != self.me {
                    anyhow::bail!("post {n} is not yours");
                }
                let post_id = post.post_id;
                Change::DeletePost(pb::DeletePost { post_id })
            }
            Line::Like(n, liked) => {
                let &Listed {
                    author, post_id, ..
                } = self.listed(n)?;
                Change::Like(pb::Like {
                    author,
                    post_id,
                    liked,
                })
            }
            Line::Comment(n, text) => self.comment(n, 0, text)?,
            Line::Answer(n, m, text) => self.comment(n, self.listed_comment(n, m)?, text)?,
            Line::Uncomment(n, m) => {
                let comment_id = self.listed_comment(n, m)?;
                let &Listed {
                    author, post_id, ..
                } = self.listed(n)?;
                Change::DeleteComment(pb::DeleteComment {
                    author,
                    post_id,
                    comment_id,
                })
            }
        };
        self.terminal.change(change, PATIENCE)?;
        println!("— done");
        Ok(())
    }

    /// A comment as a line.
    pub(super) fn said(&mut self, comment: &pb::Comment) -> String {
        let by = self.name_of(comment.by);
        match (comment.like, comment.reply_to) {
            (true, _) => format!("{by} likes it"),
            (false, 0) => format!("{by}: {}", printable(&comment.text)),
            (false, _) => format!("{by} answers: {}", printable(&comment.text)),
        }
    }

    fn comment(&self, n: usize, reply_to: u64, text: &str) -> anyhow::Result<Change> {
        let &Listed {
            author, post_id, ..
        } = self.listed(n)?;
        Ok(Change::NewComment(pb::NewComment {
            author,
            post_id,
            client_id: new_client_id(),
            text: text.to_owned(),
            reply_to,
        }))
    }

    fn listed(&self, n: usize) -> anyhow::Result<&Listed> {
        let found = n.checked_sub(1).and_then(|at| self.listed.get(at));
        found.ok_or_else(|| anyhow::anyhow!("no post {n} was listed; /moments lists the newest"))
    }

    fn listed_comment(&self, n: usize, m: usize) -> anyhow::Result<u64> {
        let comments = &self.listed(n)?.comments;
        let found = m.checked_sub(1).and_then(|at| comments.get(at).copied());
        found.ok_or_else(|| anyhow::anyhow!("no comment {m} was shown; /look {n} shows them"))
    }

    fn list_posts(&mut self) -> anyhow::Result<()> {
        self.listed.clear();
        for pointer in self.terminal.store().posts(LISTED)? {
            // One that is no longer for us is not listed.
            if let Ok(reply) = self.open(pointer.author, pointer.post_id)
                && let Some(post) = reply.post
            {
                self.list(&post);
            }
        }
        if self.listed.is_empty() {
            println!("— no posts");
        }
        Ok(())
    }

    fn album(&mut self, name: &str) -> anyhow::Result<()> {
        let author = self.user(name)?;
        self.listed.clear();
        let request = pb::OpenAlbumRequest {
            author,
            before: 0,
            limit: LISTED as u32,
        };
        let reply: pb::OpenAlbumReply =
            self.terminal
                .call(pb::Command::OpenAlbum, &request, PATIENCE)?;
        for post in &reply.posts {
            self.list(post);
        }
        if reply.posts.is_empty() {
            println!("— {name} has posted nothing for you");
        }
        Ok(())
    }

    fn look(&mut self, n: usize) -> anyhow::Result<()> {
        let &Listed {
            author, post_id, ..
        } = self.listed(n)?;
        let reply = self.open(author, post_id)?;
        println!("— {n} {}", self.post_line(&reply.post.unwrap_or_default()));
        let mut ids = Vec::new();
        for comment in reply.comments {
            ids.push(comment.comment_id);
            println!("—   {} {}", ids.len(), self.said(&comment));
        }
        self.listed[n - 1].comments = ids;
        Ok(())
    }

    fn open(&self, author: u64, post_id: u64) -> anyhow::Result<pb::OpenPostReply> {
        let request = pb::OpenPostRequest { author, post_id };
        Ok(self
            .terminal
            .call(pb::Command::OpenPost, &request, PATIENCE)?)
    }

    fn list(&mut self, post: &pb::Post) {
        self.listed.push(Listed {
            author: post.author,
            post_id: post.post_id,
            comments: Vec::new(),
        });
        println!("— {} {}", self.listed.len(), self.post_line(post));
    }

    fn post_line(&mut self, post: &pb::Post) -> String {
        let pictures = post.media.iter().map(|media| self.media_line(media));
        let pictures: String = pictures.collect();
        format!(
            "[{}] {}: {pictures}{}",
            time_of_day(post.posted_ms),
            self.name_of(post.author),
            printable(&post.text)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_post_says_whom_it_is_for() {
        let to = |who, names: &[&'static str], text| Some(Line::Post(who, names.to_vec(), text));
        assert_eq!(parse("post", "good day"), to(Who::All, &[], "good day"));
        assert_eq!(parse("post", "@a,b hi"), to(Who::Only, &["a", "b"], "hi"));
        assert_eq!(parse("post", "!a hi"), to(Who::Except, &["a"], "hi"));
        assert_eq!(parse("post", "- note"), to(Who::Nobody, &[], "note"));
        assert_eq!(parse("post", "-5 °C"), to(Who::All, &[], "-5 °C"));
        assert_eq!(parse("post", "日本"), to(Who::All, &[], "日本"));
        assert_eq!(parse("post", "@a"), None);
    }

    #[test]
    fn posts_and_comments_are_named_by_number() {
        assert_eq!(
            parse("answer", "2 3 so it is"),
            Some(Line::Answer(2, 3, "so it is"))
        );
        assert_eq!(parse("uncomment", "2 3"), Some(Line::Uncomment(2, 3)));
        assert_eq!(parse("like", "x"), None);
        assert_eq!(parse("comment", "1"), None);
    }
}
