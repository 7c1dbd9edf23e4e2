//! What a line that begins with `/` does.
//!
//! Knows:       the words, which message they mean.
//! Does not know: how lines come in and go out.

use std::time::Duration;

use prost::Message;
use wechat_demo::model::{UserId, limits::MENTIONS};
use wechat_demo::proto::terminal::{
    self as pb, change_request::Change, contact::State, group_change::What, member::Role,
};
use wechat_demo::terminal::store::Stored;
use wechat_demo::terminal::{TerminalError, new_client_id};

use super::{Chat, PATIENCE, printable, time_of_day};

/// Messages in which the one that is meant is looked for, newest first.
const LOOKED_AT: usize = 200;
/// Bytes of a message that a reply quotes.
const QUOTED: usize = 80;
/// Names of users that are remembered.
const NAMES: usize = 10_000;
/// Unread messages that are counted.
const COUNTED: usize = 1_000;

/// What `/help` says.
const HELP: &str = "\
/reply TEXT     answer their last message      /react SIGN    react to it; no sign takes it back
/edit TEXT      change your last message       /recall        take it back
/forward NAME   pass the last message on       /remark TEXT   call them something
/block /unblock take nothing from them         /remove        no longer be contacts
/mute /unmute   leave them out of the badge    /status        unread, badge, how far they have read
/nick NAME      call yourself something        /password OLD NEW  change it; logs other devices out
/avatar URL     where your picture is          /delete-account PASSWORD  for ever
/new NAME FRIEND…  make a group               /join ID        come into an open one
/groups         yours; open one with --to '#NAME'
in a group: /members, /invite NAME…, /kick NAME…, /leave, /rename TEXT, /announce TEXT, /open, /close,
            /owner NAME, /admin NAME, /unadmin NAME; @NAME in a line names a member
/post TEXT      for your friends; '@a,b TEXT' for these alone, '!a,b TEXT' for all but these, '- TEXT' for yourself
/moments        the newest posts, numbered     /album NAME    somebody's
/look N         post N with what was said      /unpost N      take your own down
/like N /unlike N, /comment N TEXT, /answer N M TEXT (to comment M of post N), /uncomment N M
/typing         let them see that you write    /who           which contacts are there
/away /back     whether you look at this
/image PATH, /file PATH, /voice PATH   send one      /save N PATH   keep what was shown with that number;
/small N PATH   its small picture
/pictures PATH,PATH… TEXT   a post with pictures, for your friends
/devices        where you are logged in        /logout ID     log that device out
/quit           end";

/// A line, as it is meant.
#[derive(Debug, PartialEq)]
pub(super) enum Line<'a> {
    Text(&'a str),
    Help,
    Reply(&'a str),
    Forward(&'a str),
    Edit(&'a str),
    Recall,
    React(&'a str),
    Remark(&'a str),
    Block(bool),
    Remove,
    Mute(bool),
    Status,
    Nick(&'a str),
    Avatar(&'a str),
    DeleteAccount(&'a str),
    Password(&'a str, &'a str),
    Devices,
    LogOut(u64),
    New(&'a str, Vec<&'a str>),
    Join(u64),
    Groups,
    Members,
    Invite(Vec<&'a str>),
    Kick(Vec<&'a str>),
    Leave,
    Rename(&'a str),
    Announce(&'a str),
    Open(bool),
    Owner(&'a str),
    Admin(&'a str, bool),
    Moments(super::moments::Line<'a>),
    Presence(super::presence::Line),
    Media(super::media::Line<'a>),
    Wrong,
}

/// Reads a line. `//…` is the text `/…`.
pub(super) fn parse(line: &str) -> Line<'_> {
    let Some(command) = line.strip_prefix('/') else {
        return Line::Text(line);
    };
    if command.starts_with('/') {
        return Line::Text(command);
    }
    let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
    let rest = rest.trim();
    match (word, rest) {
        ("help", "") => Line::Help,
        ("reply", text) if !text.is_empty() => Line::Reply(text),
        ("forward", name) if !name.is_empty() => Line::Forward(name),
        ("edit", text) if !text.is_empty() => Line::Edit(text),
        ("recall", "") => Line::Recall,
        ("react", sign) => Line::React(sign),
        ("remark", text) => Line::Remark(text),
        ("block", "") => Line::Block(true),
        ("unblock", "") => Line::Block(false),
        ("remove", "") => Line::Remove,
        ("mute", "") => Line::Mute(true),
        ("unmute", "") => Line::Mute(false),
        ("status", "") => Line::Status,
        ("nick", name) if !name.is_empty() => Line::Nick(name),
        ("avatar", place) => Line::Avatar(place),
        ("delete-account", password) if !password.is_empty() => Line::DeleteAccount(password),
        ("password", both) => match both.split_once(' ') {
            Some((old, new)) => Line::Password(old, new.trim()),
            None => Line::Wrong,
        },
        ("new", rest) => match rest.split_once(' ') {
            Some((name, friends)) => Line::New(name, words(friends)),
            None => Line::Wrong,
        },
        ("join", id) => u64::from_str_radix(id, 16).map_or(Line::Wrong, Line::Join),
        ("groups", "") => Line::Groups,
        ("members", "") => Line::Members,
        ("invite", names) if !names.is_empty() => Line::Invite(words(names)),
        ("kick", names) if !names.is_empty() => Line::Kick(words(names)),
        ("leave", "") => Line::Leave,
        ("rename", name) if !name.is_empty() => Line::Rename(name),
        ("announce", text) => Line::Announce(text),
        ("open", "") => Line::Open(true),
        ("close", "") => Line::Open(false),
        ("owner", name) if !name.is_empty() => Line::Owner(name),
        ("admin", name) if !name.is_empty() => Line::Admin(name, true),
        ("unadmin", name) if !name.is_empty() => Line::Admin(name, false),
        ("devices", "") => Line::Devices,
        ("logout", id) => u64::from_str_radix(id, 16).map_or(Line::Wrong, Line::LogOut),
        (word, rest) => super::moments::parse(word, rest)
            .map(Line::Moments)
            .or_else(|| super::presence::parse(word, rest).map(Line::Presence))
            .or_else(|| super::media::parse(word, rest).map(Line::Media))
            .unwrap_or(Line::Wrong),
    }
}

/// Names that stand in a line as `@NAME`, at most as many as a message may mention. What ends a sentence is no part of
/// a name.
fn named(line: &str) -> Vec<&str> {
    let names = line
        .split_whitespace()
        .filter_map(|word| word.strip_prefix('@'));
    let names = names.map(|name| name.trim_end_matches(['.', ',', ':', ';', '!', '?']));
    names
        .filter(|name| !name.is_empty())
        .take(MENTIONS)
        .collect()
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

impl Chat {
    /// Does what a line that is no text says, and tells how it went.
    pub(super) fn command(&mut self, line: Line<'_>) {
        if let Err(error) = self.do_command(line) {
            println!("! {error}");
        }
    }

    fn do_command(&mut self, line: Line<'_>) -> anyhow::Result<()> {
        let (me, peer) = (self.me, self.peer);
        let change = match line {
            Line::Text(_) | Line::Wrong => {
                println!("! no such command; /help lists them, // begins a text with /");
                return Ok(());
            }
            Line::Help => {
                println!("{HELP}");
                return Ok(());
            }
            Line::Reply(text) => return self.reply(text),
            Line::Forward(name) => return self.forward(name),
            Line::Status => return self.status(),
            Line::Devices => return self.devices(),
            Line::Moments(line) => return self.moments(line),
            Line::Presence(line) => return self.presence(&line),
            Line::Media(line) => return self.media(&line),
            Line::Edit(text) => Change::Edit(pb::Edit {
                message_id: self.last_id(|message| message.sender == me)?,
                text: text.to_owned(),
                group_id: self.group_id(),
            }),
            Line::Recall => Change::Recall(pb::Recall {
                message_id: self.last_id(|message| message.sender == me)?,
                group_id: self.group_id(),
            }),
            Line::React(sign) => Change::React(pb::React {
                message_id: self.last_id(|message| message.sender != me)?,
                emoji: sign.to_owned(),
                group_id: self.group_id(),
            }),
            Line::Remark(remark) => Change::Remark(pb::Remark {
                user_id: peer,
                remark: remark.to_owned(),
            }),
            Line::Block(blocked) => Change::Block(pb::Block {
                user_id: peer,
                blocked,
            }),
            Line::Remove => Change::RemoveContact(pb::RemoveContact { user_id: peer }),
            Line::Mute(muted) => Change::Mute(pb::Mute { peer, muted }),
            Line::Nick(nickname) => Change::Profile(pb::Profile {
                nickname: Some(nickname.to_owned()),
                avatar: None,
            }),
            Line::Avatar(avatar) => Change::Profile(pb::Profile {
                nickname: None,
                avatar: Some(avatar.to_owned()),
            }),
            Line::DeleteAccount(password) => Change::DeleteAccount(pb::DeleteAccount {
                password: password.to_owned(),
            }),
            Line::Password(old, new) => Change::NewPassword(pb::NewPassword {
                old: old.to_owned(),
                new: new.to_owned(),
            }),
            Line::LogOut(device_id) => Change::LogOut(pb::LogOut { device_id }),
            other => return self.group_command(other),
        };
        self.terminal.change(change, PATIENCE)?;
        println!("— done");
        Ok(())
    }

    fn group_command(&mut self, line: Line<'_>) -> anyhow::Result<()> {
        let (mut group_id, yes) = (self.peer, true);
        let what = match line {
            Line::New(name, friends) => return self.new_group(name, &friends),
            Line::Groups => return self.groups(),
            Line::Members => return self.members(),
            Line::Join(id) => {
                group_id = id;
                What::Join(yes)
            }
            Line::Invite(names) => What::Invite(self.users(&names)?),
            Line::Kick(names) => What::Kick(self.users(&names)?),
            Line::Leave => What::Leave(yes),
            Line::Rename(name) => What::Name(name.to_owned()),
            Line::Announce(text) => What::Announcement(text.to_owned()),
            Line::Open(open) => What::Open(open),
            Line::Owner(name) => What::Owner(self.user(name)?),
            Line::Admin(name, admin) => What::Admin(pb::AdminChange {
                user_id: self.user(name)?,
                admin,
            }),
            _ => anyhow::bail!("no such command; /help lists them"),
        };
        let what = Some(what);
        self.terminal
            .change(Change::Group(pb::GroupChange { group_id, what }), PATIENCE)?;
        println!("— asked the group");
        Ok(())
    }

    fn new_group(&self, name: &str, friends: &[&str]) -> anyhow::Result<()> {
        let create = pb::CreateGroup {
            client_id: new_client_id(),
            name: name.to_owned(),
            members: self.users(friends)?.user_ids,
        };
        let made = self
            .terminal
            .change(Change::CreateGroup(create), PATIENCE)?;
        println!(
            "— group {:x} is made; open it with --to '#{name}'",
            made.made
        );
        Ok(())
    }

    fn groups(&self) -> anyhow::Result<()> {
        for item in self.terminal.store().states(pb::Kind::Group)? {
            let group = pb::Group::decode(item.payload)?;
            let state = if group.left { ", left" } else { "" };
            println!(
                "— {:x} #{}, {} members{state}",
                group.group_id,
                printable(&group.name),
                size(&group)
            );
        }
        Ok(())
    }

    fn members(&mut self) -> anyhow::Result<()> {
        let Some(item) = self.terminal.store().state(pb::Kind::Group, self.peer)? else {
            anyhow::bail!("this is no group");
        };
        let group = pb::Group::decode(item.payload)?;
        let members = match group.size {
            0 => group.members,
            _ => self.all_members(group.group_id)?,
        };
        for member in members {
            let role = match member.role() {
                Role::Owner => ", owner",
                Role::Admin => ", admin",
                Role::Plain | Role::Unspecified => "",
            };
            println!("— {}{role}", self.name_of(member.user_id));
        }
        Ok(())
    }

    /// Those of a group whose item does not name them.
    fn all_members(&self, group_id: u64) -> anyhow::Result<Vec<pb::Member>> {
        let (mut members, mut after) = (Vec::new(), 0);
        loop {
            let limit = 0;
            let request = pb::ListMembersRequest {
                group_id,
                after,
                limit,
            };
            let command = pb::Command::ListMembers;
            let page: pb::ListMembersReply = self.terminal.call(command, &request, PATIENCE)?;
            members.extend(page.members);
            after = page.next;
            if after == 0 {
                return Ok(members);
            }
        }
    }

    /// The open conversation's, if it is a group's; else 0.
    fn group_id(&self) -> u64 {
        match UserId(self.peer).is_group() {
            true => self.peer,
            false => 0,
        }
    }

    /// Members of the group whom a line names.
    pub(super) fn mentioned(&self, line: &str) -> Vec<u64> {
        let store = self.terminal.store();
        let group = store.state(pb::Kind::Group, self.peer).ok().flatten();
        let group = group.and_then(|item| pb::Group::decode(item.payload).ok());
        let group = group.unwrap_or_default();
        let mut users = Vec::new();
        if size(&group) == 0 {
            return users;
        }
        // A large group does not name its members.
        let may_be_in =
            |user| group.size > 0 || group.members.iter().any(|member| member.user_id == user);
        for name in named(line) {
            match self.find(name, super::MARK_PATIENCE) {
                Ok(user) if may_be_in(user) => users.push(user),
                Ok(_) | Err(TerminalError::Refused { .. }) => {}
                // The line is worth more than what it names.
                Err(_) => break,
            }
        }
        users.sort_unstable();
        users.dedup();
        users
    }

    fn users(&self, names: &[&str]) -> anyhow::Result<pb::Members> {
        let ids: anyhow::Result<_> = names.iter().map(|name| self.user(name)).collect();
        Ok(pb::Members { user_ids: ids? })
    }

    /// Whose a name is.
    pub(super) fn user(&self, name: &str) -> anyhow::Result<u64> {
        Ok(self.find(name, PATIENCE)?)
    }

    fn find(&self, name: &str, patience: Duration) -> Result<u64, TerminalError> {
        let request = pb::FindUserRequest {
            name: name.to_owned(),
            user_id: 0,
        };
        let found: pb::FindUserReply =
            self.terminal
                .call(pb::Command::FindUser, &request, patience)?;
        Ok(found.user_id)
    }

    /// What a user of a group is called.
    pub(super) fn name_of(&mut self, user_id: u64) -> String {
        if user_id == self.me {
            return self.name.clone();
        }
        if let Some(name) = self.names.get(&user_id) {
            return name.clone();
        }
        let request = pb::FindUserRequest {
            name: String::new(),
            user_id,
        };
        let found: Result<pb::FindUserReply, _> =
            self.terminal
                .call(pb::Command::FindUser, &request, super::MARK_PATIENCE);
        let Ok(found) = found else {
            return format!("user {user_id}");
        };
        let name = printable(&found.name);
        if self.names.len() < NAMES {
            self.names.insert(user_id, name.clone());
        }
        name
    }

    fn reply(&self, text: &str) -> anyhow::Result<()> {
        let answered = self.last(|message| message.sender == self.peer)?.message;
        let mut quoted = answered.text;
        quoted.truncate(quoted.floor_char_boundary(QUOTED));
        let extra = pb::Extra {
            reply_to: Some(pb::Quote {
                message_id: answered.message_id,
                text: quoted,
            }),
            ..Default::default()
        };
        self.send_on(self.peer, text.to_owned(), extra)
    }

    /// Passes the last message on, to a contact of that name.
    fn forward(&self, name: &str) -> anyhow::Result<()> {
        let message = self.last(|_| true)?.message;
        let mut to = None;
        for item in self.terminal.store().states(pb::Kind::Contact)? {
            let contact = pb::Contact::decode(item.payload)?;
            if contact.state() == State::Friend && contact.name == name {
                to = Some(contact.user_id);
            }
        }
        let Some(to) = to else {
            anyhow::bail!("you have no contact called {name}");
        };
        let before = message.extra.unwrap_or_default();
        let extra = pb::Extra {
            media: before.media,
            forwarded_from: match before.forwarded_from {
                0 => message.sender,
                first => first,
            },
            ..Default::default()
        };
        self.send_on(to, message.text, extra)
    }

    pub(super) fn send_on(&self, to: u64, text: String, extra: pb::Extra) -> anyhow::Result<()> {
        let message = pb::Outgoing {
            client_id: new_client_id(),
            text,
            extra: Some(extra),
            count: 0,
        };
        Ok(self.terminal.send_message(to, message)?)
    }

    fn status(&self) -> anyhow::Result<()> {
        let store = self.terminal.store();
        let conversation = store.conversation(self.peer)?;
        let unread = store.unread(self.peer, COUNTED)?;
        let badge = store.badge(COUNTED)?;
        let mine = store.messages(self.peer, LOOKED_AT)?;
        let seen = mine
            .iter()
            .rfind(|stored| {
                stored.message.sender == self.me && stored.pos.count <= conversation.peer_read
            })
            .map_or("nothing lately".to_owned(), |stored| {
                format!("up to {:?}", printable(&stored.message.text))
            });
        let muted = if conversation.muted { ", muted" } else { "" };
        println!(
            "— {unread} unread here{muted}, {badge} in all; {} has read {seen}",
            self.peer_name
        );
        Ok(())
    }

    fn devices(&self) -> anyhow::Result<()> {
        let request = pb::ListDevicesRequest {};
        let reply: pb::ListDevicesReply =
            self.terminal
                .call(pb::Command::ListDevices, &request, PATIENCE)?;
        for device in reply.devices {
            let own = if device.own { " (this one)" } else { "" };
            println!(
                "— {:x} {}, logged in at {}{own}",
                device.device_id,
                printable(&device.label),
                time_of_day(device.created_ms)
            );
        }
        Ok(())
    }

    /// The newest message here that is meant and not recalled.
    fn last(&self, meant: impl Fn(&pb::Message) -> bool) -> anyhow::Result<Stored> {
        let messages = self.terminal.store().messages(self.peer, LOOKED_AT)?;
        let found = messages
            .into_iter()
            .rfind(|stored| !stored.message.recalled && meant(&stored.message));
        found.ok_or_else(|| anyhow::anyhow!("there is no such message in the last {LOOKED_AT}"))
    }

    fn last_id(&self, meant: impl Fn(&pb::Message) -> bool) -> anyhow::Result<u64> {
        Ok(self.last(meant)?.message.message_id)
    }

    /// Tells the backend that what stands on the screen was read. Best effort: the next mark says it too.
    pub(super) fn mark_read(&mut self) -> anyhow::Result<()> {
        let messages = self.terminal.store().messages(self.peer, LOOKED_AT)?;
        // What a group has not placed yet has no place to mark.
        let placed = messages.iter().rfind(|stored| stored.pos.count != u64::MAX);
        let Some(newest) = placed.map(|stored| stored.pos.count) else {
            return Ok(());
        };
        if newest <= self.marked {
            return Ok(());
        }
        self.marked = newest;
        let mark = Change::Mark(pb::Mark {
            peer: self.peer,
            received: newest,
            read: newest,
        });
        match self.terminal.change(mark, super::MARK_PATIENCE) {
            Ok(_) | Err(TerminalError::Timeout(_) | TerminalError::Refused { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// How many are in a group.
pub(super) fn size(group: &pb::Group) -> usize {
    group.members.len().max(group.size as usize)
}

/// A message as a line: what it answers, what hangs on it, what became of it.
pub(super) fn line(message: &pb::Message) -> String {
    if message.recalled {
        return "(taken back)".to_owned();
    }
    let mut line = String::new();
    if let Some(extra) = &message.extra {
        if extra.forwarded_from != 0 {
            line.push_str("(forwarded) ");
        }
        if let Some(quote) = &extra.reply_to {
            line.push_str(&format!("(on {:?}) ", printable(&quote.text)));
        }
    }
    line.push_str(&printable(&message.text));
    if message.edits > 0 {
        line.push_str(" (edited)");
    }
    for reaction in &message.reactions {
        line.push_str(&format!(" [{}]", printable(&reaction.emoji)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_text_unless_it_begins_with_one_slash() {
        assert_eq!(parse("hello /edit"), Line::Text("hello /edit"));
        assert_eq!(parse("//etc"), Line::Text("/etc"));
        assert_eq!(parse("/edit  a b "), Line::Edit("a b"));
        assert_eq!(parse("/password old new"), Line::Password("old", "new"));
        assert_eq!(parse("/logout 1f"), Line::LogOut(31));
        assert_eq!(parse("/new club a  b"), Line::New("club", vec!["a", "b"]));
        for wrong in [
            "/edit",
            "/nothing",
            "/recall it",
            "/logout",
            "/password x",
            "/",
        ] {
            assert_eq!(parse(wrong), Line::Wrong, "{wrong}");
        }
    }

    #[test]
    fn names_in_a_line_are_words_that_begin_with_an_at_sign() {
        assert_eq!(named("@ann, have you seen @bob.c?"), ["ann", "bob.c"]);
        assert!(named("a@b.org @ @. nobody").is_empty());
        assert_eq!(named(&"@x ".repeat(99)).len(), MENTIONS);
    }

    #[test]
    fn a_line_shows_what_became_of_a_message() {
        let mut message = pb::Message {
            text: "hi".to_owned(),
            edits: 1,
            reactions: vec![pb::Reaction {
                user_id: 1,
                emoji: "+1".to_owned(),
            }],
            ..Default::default()
        };
        assert_eq!(line(&message), "hi (edited) [+1]");
        message.recalled = true;
        assert_eq!(line(&message), "(taken back)");
    }
}
