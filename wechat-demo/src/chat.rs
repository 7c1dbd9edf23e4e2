//! `chat`: one account in a terminal, line by line.
//!
//! Knows:       the terminal library, standard input and output.
//! Does not know: the wire, syncing.
//!
//! Everything that happens goes through one channel to one loop: typed lines, what the terminal applied,
//! links coming and going. So lines come out whole and in order, in tmux as through a pipe.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use prost::Message;
use rpc_core::Runtime;
use rpc_core::time::Instant;
use wechat_demo::model::{UserId, limits};
use wechat_demo::proto::terminal as pb;
use wechat_demo::proto::terminal::change_request::Change;
use wechat_demo::proto::terminal::contact::State;
use wechat_demo::terminal::error::code;
use wechat_demo::terminal::media::Edge;
use wechat_demo::terminal::nearby::{Finder, Place};
use wechat_demo::terminal::store::durable::Depot;
use wechat_demo::terminal::{
    Beats, Config, Observer, Terminal, TerminalError, login, new_client_id, register,
};

use crate::up::{DEFAULT_PORT, DEMO_PASSWORD, EDGE_PORT};

mod commands;
mod media;
mod moments;
mod presence;

use commands::Line;

/// Time for the first sync, and for a question to the backend.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time for the last lines to be acknowledged after the end of the input.
const LAST_WORDS: Duration = Duration::from_secs(60);
/// Time for a read mark; the next one says it too.
const MARK_PATIENCE: Duration = Duration::from_secs(2);
/// What may wait for the loop; whoever brings more waits.
const EVENTS: usize = 1_024;
/// Contacts named in a message.
const NAMED: usize = 10;
/// Lines that may wait for a contact to accept.
const HELD: usize = 1_000;

/// Flags of `chat`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Flags {
    /// Who you are
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Your password; needed once, the device then stays logged in
    #[arg(long, default_value = DEMO_PASSWORD, hide_default_value = true)]
    password: String,
    /// Whom to chat with, or #NAME of a group; may be left out where you have one contact
    #[arg(long, value_name = "NAME")]
    to: Option<String>,
    /// HOST:PORT of the cluster's long links
    #[arg(long, value_name = "HOST:PORT", default_value_t = format!("127.0.0.1:{DEFAULT_PORT}"))]
    addr: String,
    /// HOST:PORT of dispatch processes: where to connect is asked there, --addr serves where none answers
    #[arg(long, value_name = "HOST:PORT,…")]
    dispatch: Option<String>,
    /// HOST:PORT of the edge, where pictures, files and voice messages go and come from
    #[arg(long, value_name = "HOST:PORT", default_value_t = format!("127.0.0.1:{EDGE_PORT}"))]
    edge: String,
    /// Create the account if there is none
    #[arg(long)]
    register: bool,
    /// Directory for this device's copy of the conversations [default: wechat-data/devices/NAME]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Lines of history to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    history: usize,
    /// Seconds of silence between heartbeats, always [default: learned, 210 to 580]
    #[arg(long, value_name = "S")]
    heartbeat: Option<u64>,
    /// Divides the times of the learned heartbeat
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    time_scale: u32,
    /// Nobody looks: heartbeats become as rare as the network allows
    #[arg(long)]
    background: bool,
    /// Keep a phone's radio channel during a burst: small packets in its pauses
    #[arg(long)]
    keep_signal: bool,
    /// Where a push service reaches this device while it has no link, in hexadecimal digits; "" = nowhere any more
    #[arg(long, value_name = "HEX")]
    push_token: Option<String>,
}

impl Flags {
    fn directory(&self) -> PathBuf {
        let usual = || PathBuf::from("wechat-data/devices").join(&self.user);
        self.dir.clone().unwrap_or_else(usual)
    }

    /// How the backend is found.
    fn place(&self) -> Place {
        Place {
            address: self.addr.clone(),
            dispatch: self.dispatch.clone(),
            local: None,
            memory: Some(self.directory().join("networks.json")),
        }
    }

    /// HOST:PORT of access processes, with commas between.
    fn addresses(&self) -> anyhow::Result<String> {
        if self.dispatch.is_none() {
            return Ok(self.addr.clone());
        }
        let found = Finder::new(self.place()).addresses();
        let found = found.map_err(|error| unreachable(self, &error))?;
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        Ok(texts.join(","))
    }
}

/// Runs until the input ends or says `/quit`.
pub(crate) fn run(flags: Flags) -> anyhow::Result<ExitCode> {
    let runtime = Runtime::builder()
        .workers(1)
        .build()
        .context("the runtime cannot start")?;
    runtime
        .block_on(move || chat(&flags))
        .map(|()| ExitCode::SUCCESS)
}

fn chat(flags: &Flags) -> anyhow::Result<()> {
    let dir = flags.directory();
    std::fs::create_dir_all(&dir).with_context(|| {
        format!(
            "{} cannot be made; pass --dir with a directory you may write",
            dir.display()
        )
    })?;
    let depot = Depot::open(&dir)?;
    let (events, happened) = sync_channel(EVENTS);
    let ears = Arc::new(Ears {
        events: events.clone(),
        open: AtomicBool::new(false),
    });
    let (terminal, me) = log_in(flags, &depot, &ears)?;
    if let Some(token) = &flags.push_token {
        set_push_token(&terminal, token)?;
    }
    // From here on every item is told; Chat::new takes the key after that, so none falls between.
    ears.open.store(true, Ordering::Release);
    let token = depot.login(&flags.user)?.unwrap_or_default().token;
    let edge = Edge::new(&flags.edge, &token);
    let result = Chat::new(flags, terminal.clone(), edge, me)
        .and_then(|mut chat| chat.run(events, &happened));
    terminal.stop();
    result
}

/// A terminal whose first sync is done, and its user's id.
fn log_in(flags: &Flags, depot: &Depot, ears: &Arc<Ears>) -> anyhow::Result<(Terminal, u64)> {
    if let Some(known) = depot.login(&flags.user)? {
        let terminal = start(flags, depot, &known, ears)?;
        match terminal.refresh(PATIENCE) {
            Ok(_) => return Ok((terminal, known.user_id)),
            Err(error) => {
                terminal.stop();
                if !error.is_refusal(code::UNAUTHENTICATED) {
                    return Err(unreachable(flags, &error));
                }
                println!("— this device was logged out; logging in again");
            }
        }
    }
    let addresses = flags.addresses()?;
    if flags.register {
        match register(&addresses, &flags.user, &flags.password, &flags.user) {
            Ok(_) => println!("— registered {}", flags.user),
            Err(error) if error.is_refusal(code::ALREADY_EXISTS) => {}
            Err(error) => return Err(unreachable(flags, &error)),
        }
    }
    let fresh =
        login(&addresses, &flags.user, &flags.password, "chat").map_err(|error| match error {
            TerminalError::Refused { text, .. } => {
                anyhow::anyhow!(
                    "{} cannot log in: {text}; check --user and --password, or pass --register",
                    flags.user
                )
            }
            other => unreachable(flags, &other),
        })?;
    depot.new_login(&flags.user, &fresh)?;
    let terminal = start(flags, depot, &fresh, ears)?;
    terminal
        .refresh(PATIENCE)
        .map_err(|error| unreachable(flags, &error))?;
    Ok((terminal, fresh.user_id))
}

fn start(
    flags: &Flags,
    depot: &Depot,
    login: &pb::LoginReply,
    ears: &Arc<Ears>,
) -> anyhow::Result<Terminal> {
    let mut config = Config::new(&flags.addr, login.token.clone());
    config.place = flags.place();
    config.heartbeat = match flags.heartbeat {
        Some(seconds) => Beats::Fixed(Duration::from_secs(seconds.max(1))),
        None => Beats::Adaptive {
            scale: flags.time_scale,
        },
    };
    config.keep_signal = flags.keep_signal;
    config.acknowledges = flags
        .push_token
        .as_ref()
        .is_some_and(|token| !token.is_empty());
    let store = Arc::new(depot.account(login.user_id)?);
    config.active = !flags.background;
    Ok(Terminal::start(config, store, ears.clone()))
}

fn set_push_token(terminal: &Terminal, token: &str) -> anyhow::Result<()> {
    let token = token.to_owned();
    let set = Change::PushToken(pb::PushToken { token });
    let answered = terminal.change(set, PATIENCE);
    answered.map(drop).context("--push-token")
}

fn unreachable(flags: &Flags, error: &TerminalError) -> anyhow::Error {
    let advice = match error {
        TerminalError::Unreachable { .. } | TerminalError::Timeout(_) | TerminalError::Lost(_) => {
            "; is the cluster up? start one with `wechat-demo up`"
        }
        _ => "",
    };
    anyhow::anyhow!("{}: {error}{advice}", flags.addr)
}

/// What the loop is told.
enum Event {
    Typed(String),
    /// The input has ended.
    End,
    Applied(Vec<pb::Item>),
    Passed(Vec<pb::Sign>),
    Acked,
    NotSent(String),
    Rewound,
    Linked,
    Unlinked(String),
}

/// Tells the loop. It waits when the loop is behind: a person reads no faster.
struct Ears {
    events: SyncSender<Event>,
    /// Set when the first sync is done: what was applied before is history, which the store shows.
    open: AtomicBool,
}

impl Ears {
    fn tell(&self, event: Event) {
        // An error says that the loop is gone: the program ends.
        if self.open.load(Ordering::Acquire) {
            let _ = self.events.send(event);
        }
    }
}

impl Observer for Ears {
    fn applied(&self, items: &[pb::Item]) {
        self.tell(Event::Applied(items.to_vec()));
    }

    fn acked(&self, _sent: &pb::Sent) {
        self.tell(Event::Acked);
    }

    fn refused(&self, _client_id: &[u8], why: &TerminalError) {
        self.tell(Event::NotSent(why.to_string()));
    }

    fn signs(&self, signs: &[pb::Sign]) {
        // They are worth no wait, least of all the link's.
        if self.open.load(Ordering::Acquire) {
            let _ = self.events.try_send(Event::Passed(signs.to_vec()));
        }
    }

    fn rewound(&self, _to: u64) {
        self.tell(Event::Rewound);
    }

    fn linked(&self) {
        self.tell(Event::Linked);
    }

    fn unlinked(&self, why: &TerminalError, _last: bool) {
        self.tell(Event::Unlinked(why.to_string()));
    }
}

/// The loop's state.
struct Chat {
    terminal: Terminal,
    me: u64,
    peer: u64,
    name: String,
    peer_name: String,
    /// Lines that wait until the peer has accepted.
    held: VecDeque<String>,
    friends: bool,
    /// Key of the history on the screen: items up to it were shown.
    shown: u64,
    /// The posts that were listed last, in the order of their numbers on the screen.
    listed: Vec<moments::Listed>,
    /// Where media go and come from.
    edge: Edge,
    /// Media by their numbers on the screen.
    shown_media: media::Shown,
    /// Names of users met in groups, by id.
    names: HashMap<u64, String>,
    /// Which of the contacts that are watched were there, as far as was told.
    here: HashMap<u64, bool>,
    /// The read mark that was told.
    marked: u64,
    /// The link is down and the user was told.
    told_down: bool,
    ended: bool,
}

impl Chat {
    fn new(flags: &Flags, terminal: Terminal, edge: Edge, me: u64) -> anyhow::Result<Self> {
        let peer = find_peer(flags, &terminal)?;
        let mut chat = Self {
            me,
            peer: peer.user_id,
            name: flags.user.clone(),
            peer_name: peer.name,
            held: VecDeque::new(),
            friends: false,
            shown: terminal.store().key(),
            listed: Vec::new(),
            edge,
            shown_media: media::Shown::default(),
            names: HashMap::new(),
            here: HashMap::new(),
            marked: 0,
            told_down: false,
            ended: false,
            terminal,
        };
        for stored in chat.terminal.store().messages(chat.peer, flags.history)? {
            chat.show(&stored.message);
        }
        chat.befriend()?;
        chat.mark_read()?;
        chat.watch()?;
        println!(
            "— {} and {}; type a line to send it, /help for more, /quit to end",
            chat.name, chat.peer_name
        );
        Ok(chat)
    }

    fn run(&mut self, events: SyncSender<Event>, happened: &Receiver<Event>) -> anyhow::Result<()> {
        listen(events)?;
        let mut until = Instant::NEVER;
        loop {
            if self.ended && self.held.is_empty() && self.terminal.unsent() == 0 {
                return Ok(());
            }
            let event = if self.ended {
                happened.recv_timeout(until.saturating_since(Instant::now()))
            } else {
                happened.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match event {
                Ok(Event::End) => {
                    self.ended = true;
                    until = Instant::now() + LAST_WORDS;
                }
                Ok(event) => self.act(event)?,
                Err(RecvTimeoutError::Timeout) => {
                    let left = self.held.len() + self.terminal.unsent();
                    bail!(
                        "{left} lines were not acknowledged within {LAST_WORDS:?}; the cluster may be down"
                    );
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if let Some(error) = self.terminal.failed() {
                bail!("{error}; log in again");
            }
        }
    }

    fn act(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Typed(line) => self.say(line)?,
            Event::Applied(items) => {
                let shown = self.shown;
                for item in items.iter().filter(|item| item.number > shown) {
                    self.take(item)?;
                }
                self.mark_read()?;
            }
            Event::Passed(signs) => self.show_signs(&signs),
            Event::NotSent(why) => println!("! not sent: {why}"),
            Event::Rewound => {
                println!("— the backend lost what came last; what you said of it is said again")
            }
            Event::Linked => {
                if std::mem::take(&mut self.told_down) {
                    println!("— the link is up again");
                }
            }
            Event::Unlinked(why) => {
                if !std::mem::replace(&mut self.told_down, true) {
                    println!(
                        "— the link is down ({why}); what you type is sent when it is up again"
                    );
                }
            }
            Event::Acked | Event::End => {}
        }
        Ok(())
    }

    fn say(&mut self, line: String) -> anyhow::Result<()> {
        if line.trim().is_empty() {
            return Ok(());
        }
        let line = match commands::parse(&line) {
            Line::Text(text) => text.to_owned(),
            command => {
                self.command(command);
                return Ok(());
            }
        };
        if line.len() > limits::TEXT_BYTES {
            println!(
                "! not sent: {} bytes in a line, at most {}",
                line.len(),
                limits::TEXT_BYTES
            );
            return Ok(());
        }
        if self.friends {
            self.send(line);
        } else if self.held.len() < HELD {
            self.held.push_back(line);
            println!("— waits until {} has accepted", self.peer_name);
        } else {
            println!(
                "! not sent: {HELD} lines wait for {} already",
                self.peer_name
            );
        }
        Ok(())
    }

    fn send(&self, line: String) {
        let mentions = self.mentioned(&line);
        let extra = (!mentions.is_empty()).then(|| pb::Extra {
            mentions,
            ..Default::default()
        });
        let message = pb::Outgoing {
            client_id: new_client_id(),
            text: line,
            extra,
            count: 0,
        };
        if let Err(full) = self.terminal.send_message(self.peer, message) {
            println!("! not sent: {full}");
        }
    }

    /// Shows a new item, and answers what it asks for.
    fn take(&mut self, item: &pb::Item) -> anyhow::Result<()> {
        self.shown = item.number;
        match pb::Kind::try_from(item.kind) {
            Ok(pb::Kind::Message) => {
                let message = pb::Message::decode(item.payload.clone())?;
                // On a screen the own line stands there already, as it was typed.
                if message.sender != self.me || item.version > 1 || !std::io::stdin().is_terminal()
                {
                    self.show(&message);
                }
            }
            Ok(pb::Kind::Refused) => {
                let refused = pb::Refused::decode(item.payload.clone())?;
                println!(
                    "! {} did not take it: {}",
                    self.peer_name,
                    printable(&refused.reason)
                );
            }
            Ok(pb::Kind::Contact) => {
                let contact = pb::Contact::decode(item.payload.clone())?;
                match contact.state() {
                    State::AskedMe => self.accept(&contact)?,
                    State::Friend if contact.user_id == self.peer && self.friends => {
                        let (nickname, avatar) =
                            (printable(&contact.nickname), printable(&contact.avatar));
                        println!("— {}: {nickname:?} {avatar}", self.peer_name);
                    }
                    State::Friend if contact.user_id == self.peer => self.now_friends()?,
                    State::Removed if contact.user_id == self.peer => {
                        self.friends = false;
                        match contact.gone {
                            true => println!("— {} has deleted the account", self.peer_name),
                            false => {
                                println!("— {} and you are no longer contacts", self.peer_name);
                            }
                        }
                    }
                    _ => {}
                }
            }
            Ok(pb::Kind::Group) => {
                let group = pb::Group::decode(item.payload.clone())?;
                let name = printable(&group.name);
                match group.left {
                    true => println!("— you are no longer in #{name}"),
                    false => println!("— #{name} has {} members", commands::size(&group)),
                }
            }
            Ok(pb::Kind::Post) if !item.deleted => {
                let post = pb::PostPointer::decode(item.payload.clone())?;
                if post.author != self.me {
                    println!("— {} has posted; /moments", self.name_of(post.author));
                }
            }
            Ok(pb::Kind::Comment) if !item.deleted => {
                let comment = pb::Comment::decode(item.payload.clone())?;
                if comment.by != self.me {
                    let said = self.said(&comment);
                    let whose = self.name_of(comment.author);
                    println!("— to a post of {whose}: {said}");
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn show(&mut self, message: &pb::Message) {
        let extra = message.extra.as_ref();
        let media = extra.and_then(|extra| extra.media.as_ref());
        let media = media.map_or_else(String::new, |media| self.media_line(media));
        let time = time_of_day(message.sent_ms);
        let mut text = media + &commands::line(message);
        if extra.is_some_and(|extra| extra.mentions.contains(&self.me)) {
            text.push_str(" (names you)");
        }
        if message.sender == self.me && message.receiver == self.peer {
            println!("[{time}] {}: {text}", self.name);
        } else if message.receiver == self.peer {
            println!("[{time}] {}: {text}", self.name_of(message.sender));
        } else if message.sender == self.peer && message.receiver == self.me {
            println!("[{time}] {}: {text}", self.peer_name);
        } else if message.sender != self.me {
            println!("— [{time}] a message from user {}: {text}", message.sender);
        }
    }

    /// Makes the peer a contact, as far as it takes us to do it.
    fn befriend(&mut self) -> anyhow::Result<()> {
        if UserId(self.peer).is_group() {
            self.friends = true; // whoever is in a group may write to it
            return Ok(());
        }
        let stored = self.terminal.store().state(pb::Kind::Contact, self.peer)?;
        let contact = stored
            .map(|item| pb::Contact::decode(item.payload))
            .transpose()?;
        match contact.as_ref().map(pb::Contact::state) {
            Some(State::Friend) => self.friends = true,
            Some(State::AskedMe) => self.accept(contact.as_ref().expect("it has a state"))?,
            Some(State::Asked) => println!("— {} has not accepted you yet", self.peer_name),
            _ => {
                let greeting = format!("I am {}", self.name);
                let request = pb::AddContactRequest {
                    user_id: self.peer,
                    greeting,
                };
                self.terminal.call::<pb::AddContactReply>(
                    pb::Command::AddContact,
                    &request,
                    PATIENCE,
                )?;
                println!("— asked {} to be a contact", self.peer_name);
            }
        }
        Ok(())
    }

    fn accept(&mut self, contact: &pb::Contact) -> anyhow::Result<()> {
        let request = pb::AcceptContactRequest {
            user_id: contact.user_id,
        };
        let accepted = self.terminal.call::<pb::AcceptContactReply>(
            pb::Command::AcceptContact,
            &request,
            PATIENCE,
        );
        match accepted {
            Ok(_) => println!(
                "— {} asked to be a contact; accepted",
                printable(&contact.name)
            ),
            // Another device was faster.
            Err(TerminalError::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if contact.user_id == self.peer {
            self.now_friends()?;
        }
        Ok(())
    }

    fn now_friends(&mut self) -> anyhow::Result<()> {
        if !std::mem::replace(&mut self.friends, true) {
            println!("— {} is a contact now", self.peer_name);
        }
        while let Some(line) = self.held.pop_front() {
            self.send(line);
        }
        self.watch()
    }
}

/// Reads standard input on a thread of its own: it may be a terminal, a pipe or a file.
fn listen(events: SyncSender<Event>) -> anyhow::Result<()> {
    let read = move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if line.trim() == "/quit" || events.send(Event::Typed(line)).is_err() {
                break;
            }
        }
        let _ = events.send(Event::End);
    };
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(read)?;
    Ok(())
}

/// Whom `--to` names, or the only contact.
fn find_peer(flags: &Flags, terminal: &Terminal) -> anyhow::Result<pb::FindUserReply> {
    let Some(name) = &flags.to else {
        return only_contact(terminal);
    };
    if *name == flags.user {
        bail!("--to names yourself; name somebody else");
    }
    if let Some(group) = name.strip_prefix('#') {
        return find_group(terminal, group);
    }
    let request = pb::FindUserRequest {
        name: name.clone(),
        user_id: 0,
    };
    terminal
        .call(pb::Command::FindUser, &request, PATIENCE)
        .map_err(|error| match error {
            refused if refused.is_refusal(code::NOT_FOUND) => {
                anyhow::anyhow!(
                    "there is no {name}; they may come in with `chat --user {name} --register`"
                )
            }
            other => unreachable(flags, &other),
        })
}

/// A group of that name that the user is in.
fn find_group(terminal: &Terminal, name: &str) -> anyhow::Result<pb::FindUserReply> {
    for item in terminal.store().states(pb::Kind::Group)? {
        let group = pb::Group::decode(item.payload)?;
        if group.name == name && !group.left {
            return Ok(pb::FindUserReply {
                user_id: group.group_id,
                name: format!("#{}", group.name),
                ..Default::default()
            });
        }
    }
    bail!("you are in no group called {name}; /groups lists those you are in, /new makes one")
}

fn only_contact(terminal: &Terminal) -> anyhow::Result<pb::FindUserReply> {
    let mut friends = Vec::new();
    for item in terminal.store().states(pb::Kind::Contact)? {
        let contact = pb::Contact::decode(item.payload)?;
        if contact.state() == State::Friend {
            friends.push(contact);
        }
    }
    if friends.len() != 1 {
        let names: Vec<String> = friends
            .iter()
            .take(NAMED)
            .map(|friend| printable(&friend.name))
            .collect();
        bail!(
            "say whom to chat with: --to NAME; you have {} contacts: {}",
            friends.len(),
            names.join(", ")
        );
    }
    let friend = friends.remove(0);
    Ok(pb::FindUserReply {
        user_id: friend.user_id,
        name: friend.name,
        nickname: friend.nickname,
        avatar: friend.avatar,
    })
}

/// `HH:MM:SS` of the day in UTC.
fn time_of_day(unix_ms: i64) -> String {
    let seconds = unix_ms.div_euclid(1_000).rem_euclid(86_400);
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// What others say must not steer this terminal: control characters are shown as such.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day_is_utc_and_survives_odd_clocks() {
        assert_eq!(time_of_day(0), "00:00:00");
        assert_eq!(time_of_day(1_523_384_629_500), "18:23:49");
        assert_eq!(time_of_day(-1), "23:59:59");
    }

    #[test]
    fn others_cannot_steer_this_terminal() {
        assert_eq!(printable("a\tb\nc"), "a b c");
        assert_eq!(printable("\u{1b}[2Jgone"), "\u{fffd}[2Jgone");
    }
}
