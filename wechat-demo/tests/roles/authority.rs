//! Authority: whatever can be asked of access and logic, by those it is not for.
//!
//! Each table has a row for every command, change and method that the schema names, and says what becomes of it. Who
//! adds one to the schema adds its row here, or the tests fail and say so.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
};

use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};
use rpc_core::{Code, ServerHandle};
use wechat_demo::{
    access,
    longlink::{Decoder, Frame},
    proto::{
        logic::{self as lp, LOGIC_DESCRIPTOR},
        terminal::{
            self, Command, FILE_DESCRIPTOR_SET, GroupChange, Kind, change_request::Change,
            group_change::What,
        },
    },
};

use super::{Home, caller, change, code, edit, messages, of_group, who};

/// Stands in everything that is not for eve.
const SECRET: &str = "s3cret";

/// What becomes of a request.
#[derive(Clone, Copy)]
enum Outcome {
    /// It is refused, with these words among others.
    Refused(Code, &'static str),
    /// It is answered, and nothing of another's is in the answer.
    Harmless,
}
use Outcome::{Harmless, Refused};

const STRANGER: Outcome = Refused(Code::NotFound, "is not among your contacts");
const NO_MESSAGE: Outcome = Refused(Code::NotFound, "your timeline has no message");
const NO_POST: Outcome = Refused(
    Code::NotFound,
    "there is no such post, or it is not for you",
);
const NO_MEMBER: Outcome = Refused(Code::PermissionDenied, "you are not a member");
const NO_CONTACT: Outcome = Refused(Code::FailedPrecondition, "contact of yours");
const NO_COMMAND: Outcome = Refused(Code::Unimplemented, "is not known here");

/// Ann and bob, their conversation, group and moments; eve, who is nobody's; an access process.
struct World {
    home: Home,
    access: ServerHandle,
    /// HOST:PORT of the long links.
    links: String,
    ann: u64,
    bob: u64,
    eve: u64,
    anns_phone: terminal::LoginReply,
    message_id: u64,
    group: u64,
    post_id: u64,
    comment_id: u64,
}

impl World {
    fn start() -> Self {
        let home = Home::start();
        let [ann, bob, eve] =
            ["ann", "bob", "eve"].map(|name| home.register(name, "secret1").unwrap());
        home.befriend(ann, bob);
        let made = |user, change| {
            let request = Some(terminal::ChangeRequest {
                change: Some(change),
            });
            let caller = caller(user);
            let call = lp::ChangeCall { caller, request };
            home.logic.change(call).unwrap().made
        };
        let group = made(ann, create_group(vec![bob]));
        let post_id = made(ann, new_post());
        let comment_id = made(bob, new_comment(ann, post_id));
        let message_id = home.send(ann, bob, 1, SECRET).unwrap().message_id;
        home.until("bob is in the group", || has(&home, bob, Kind::Group) == 1);
        home.send(bob, group, 2, SECRET).unwrap();
        home.until("all has arrived", || {
            messages(&home, ann).len() == 2
                && messages(&home, bob).len() == 2
                && has(&home, ann, Kind::Comment) == 1
                && has(&home, bob, Kind::Comment) == 1
                && has(&home, bob, Kind::Post) == 1
        });
        let ready = access::start(&access::Options {
            listen: "127.0.0.1:0".to_owned(),
            rpc: "127.0.0.1:0".to_owned(),
            // Nobody listens there: notifies are not what is looked at.
            advertise: Some("127.0.0.1:1".to_owned()),
            logic: vec![home.logic_address.clone()],
            tls_chain: None,
            tls_key: None,
            max_links: 64,
            beats: access::BeatFlags::default(),
            workers: None,
        })
        .unwrap();
        let (links, access) = (ready.links_addr().to_string(), ready.handle());
        rpc_core::spawn(move || ready.serve().unwrap());
        let phone = format!("{SECRET} phone");
        let anns_phone =
            wechat_demo::terminal::login(&links, "ann", "secret1", &phone).expect("ann logs in");
        Self {
            home,
            access,
            links,
            ann,
            bob,
            eve,
            anns_phone,
            message_id,
            group,
            post_id,
            comment_id,
        }
    }

    /// What eve asks for of ann's and bob's, command by command.
    fn commands(&self) -> Vec<(Command, Vec<u8>, Outcome)> {
        let mut rows = vec![
            row(Command::Unspecified, &(), NO_COMMAND),
            row(Command::Noop, &(), NO_COMMAND),
            row(
                Command::PushNotify,
                &terminal::Notify::default(),
                NO_COMMAND,
            ),
            row(
                Command::PushEphemeral,
                &terminal::Ephemeral::default(),
                NO_COMMAND,
            ),
            row(Command::Send, &send(self.group, 8), NO_MEMBER),
            // Bob's home refuses it; word of that comes as an item.
            row(Command::Send, &send(self.bob, 9), Harmless),
            row(Command::Sync, &terminal::SyncRequest::default(), Harmless),
        ];
        rows.extend(self.at_the_door());
        rows.extend(self.about_people());
        rows.extend(self.about_moments_and_groups());
        for (change, outcome) in self.changes() {
            let change = Some(change);
            let request = terminal::ChangeRequest { change };
            rows.push(row(Command::Change, &request, outcome));
        }
        rows
    }

    fn at_the_door(&self) -> Vec<(Command, Vec<u8>, Outcome)> {
        let (name, password) = ("ann".to_owned(), "secret9".to_owned());
        let register = terminal::RegisterRequest {
            name: name.clone(),
            password: password.clone(),
            ..Default::default()
        };
        let login = terminal::LoginRequest {
            name,
            password,
            ..Default::default()
        };
        let auth = terminal::AuthRequest {
            token: self.anns_phone.token.clone(),
            active: true,
        };
        let taken = Refused(Code::AlreadyExists, "is taken");
        let wrong = Refused(Code::Unauthenticated, "the name or the password is wrong");
        let second = Refused(Code::FailedPrecondition, "speaks for a user already");
        let devices = terminal::ListDevicesRequest {};
        vec![
            row(Command::Register, &register, taken),
            row(Command::Login, &login, wrong),
            row(Command::Auth, &auth, second),
            row(Command::ListDevices, &devices, Harmless),
        ]
    }

    fn about_people(&self) -> Vec<(Command, Vec<u8>, Outcome)> {
        let Self { ann, bob, eve, .. } = *self;
        // Whose a name is anybody may know.
        let find = terminal::FindUserRequest {
            user_id: ann,
            ..Default::default()
        };
        // Whoever it names as asking, it is the caller who asks.
        let add = terminal::AddContactRequest {
            user_id: eve,
            ..Default::default()
        };
        let oneself = Refused(Code::InvalidArgument, "you cannot be your own contact");
        let accept = terminal::AcceptContactRequest { user_id: ann };
        let unasked = Refused(Code::FailedPrecondition, "has not asked");
        let typing = terminal::TypingRequest { peer: ann };
        let user_ids = vec![ann, bob];
        let presence = terminal::PresenceRequest { user_ids };
        let active = terminal::SetActiveRequest { active: true };
        vec![
            row(Command::FindUser, &find, Harmless),
            row(Command::AddContact, &add, oneself),
            row(Command::AcceptContact, &accept, unasked),
            row(Command::Typing, &typing, NO_CONTACT),
            row(Command::Presence, &presence, Harmless),
            row(Command::SetActive, &active, Harmless),
        ]
    }

    fn about_moments_and_groups(&self) -> Vec<(Command, Vec<u8>, Outcome)> {
        let post = terminal::OpenPostRequest {
            author: self.ann,
            post_id: self.post_id,
        };
        let album = terminal::OpenAlbumRequest {
            author: self.ann,
            ..Default::default()
        };
        let members = |group_id| terminal::ListMembersRequest {
            group_id,
            ..Default::default()
        };
        vec![
            row(Command::ListMembers, &members(self.group), NO_MEMBER),
            // One that there is not is refused in the same words.
            row(Command::ListMembers, &members(self.group + 1), NO_MEMBER),
            row(Command::OpenPost, &post, NO_POST),
            row(Command::OpenAlbum, &album, Harmless),
        ]
    }

    /// What eve would change of ann's and bob's.
    fn changes(&self) -> Vec<(Change, Outcome)> {
        let mut rows = self.changes_of_contacts();
        rows.extend(self.changes_of_messages());
        rows.extend(self.changes_of_accounts());
        rows.extend(self.changes_of_moments());
        let of_group = |(what, outcome)| (of_group(self.group, what), outcome);
        rows.extend(self.group_changes().into_iter().map(of_group));
        rows
    }

    fn changes_of_contacts(&self) -> Vec<(Change, Outcome)> {
        let user_id = self.ann;
        let remark = "eve's".to_owned();
        let blocked = true;
        vec![
            (
                Change::Remark(terminal::Remark { user_id, remark }),
                STRANGER,
            ),
            (
                Change::Block(terminal::Block { user_id, blocked }),
                STRANGER,
            ),
            (
                Change::RemoveContact(terminal::RemoveContact { user_id }),
                STRANGER,
            ),
            (create_group(vec![user_id]), NO_CONTACT),
        ]
    }

    fn changes_of_messages(&self) -> Vec<(Change, Outcome)> {
        let message_id = self.message_id;
        let recall = |group_id| {
            Change::Recall(terminal::Recall {
                message_id,
                group_id,
            })
        };
        let react = |group_id| {
            Change::React(terminal::React {
                message_id,
                emoji: "+".to_owned(),
                group_id,
            })
        };
        let nothing = Refused(Code::InvalidArgument, "marks must be read");
        vec![
            (edit(message_id, "eve's"), NO_MESSAGE),
            (recall(0), NO_MESSAGE),
            (react(0), NO_MESSAGE),
            (recall(self.group), NO_MEMBER),
            (react(self.group), NO_MEMBER),
            (mark(self.ann), nothing),
            (mark(self.group), NO_MEMBER),
            (mute(self.ann), STRANGER),
            (mute(self.group), NO_MEMBER),
        ]
    }

    /// None of these names a user: they are the caller's.
    fn changes_of_accounts(&self) -> Vec<(Change, Outcome)> {
        let profile = terminal::Profile {
            nickname: Some("eve's".to_owned()),
            avatar: Some("eve's".to_owned()),
        };
        // A device of ann's is none of eve's: there is nothing to log out.
        let device_id = self.anns_phone.device_id;
        let (old, new) = ("secret9".to_owned(), "secret8".to_owned());
        let wrong = Refused(Code::PermissionDenied, "password is wrong");
        let password = "secret9".to_owned();
        let delete = terminal::DeleteAccount { password };
        vec![
            (Change::DeleteAccount(delete), wrong),
            (Change::Profile(profile), Harmless),
            (Change::LogOut(terminal::LogOut { device_id }), Harmless),
            (
                Change::NewPassword(terminal::NewPassword { old, new }),
                wrong,
            ),
            (Change::PushToken(terminal::PushToken::default()), Harmless),
        ]
    }

    fn changes_of_moments(&self) -> Vec<(Change, Outcome)> {
        let (author, post_id, comment_id) = (self.ann, self.post_id, self.comment_id);
        let like = terminal::Like {
            author,
            post_id,
            liked: true,
        };
        let delete = terminal::DeleteComment {
            author,
            post_id,
            comment_id,
        };
        vec![
            (new_post(), Harmless),
            (
                Change::DeletePost(terminal::DeletePost { post_id }),
                NO_POST,
            ),
            (new_comment(author, post_id), NO_POST),
            (Change::Like(like), NO_POST),
            // The post's home refuses it; word of that comes as an item.
            (Change::DeleteComment(delete), Harmless),
        ]
    }

    /// What eve would change of ann's and bob's group.
    fn group_changes(&self) -> Vec<(What, Outcome)> {
        let members = |user| terminal::Members {
            user_ids: vec![user],
        };
        let admin = terminal::AdminChange {
            user_id: self.eve,
            admin: true,
        };
        vec![
            (What::Name("eve's".to_owned()), NO_MEMBER),
            (What::Announcement("eve's".to_owned()), NO_MEMBER),
            (What::Open(true), NO_MEMBER),
            (What::Invite(members(self.ann)), NO_CONTACT),
            (What::Kick(members(self.bob)), NO_MEMBER),
            (What::Leave(true), NO_MEMBER),
            // The group's home refuses it; word of that comes as an item.
            (What::Join(true), Harmless),
            (What::Owner(self.eve), NO_MEMBER),
            (What::Admin(admin), NO_MEMBER),
        ]
    }

    /// A new link of this token's, or of nobody's.
    fn link(&self, token: Option<&[u8]>) -> Link {
        let mut link = Link {
            stream: TcpStream::connect(&self.links).unwrap(),
            decoder: Decoder::default(),
            seq: 0,
        };
        if let Some(token) = token {
            let reply = link.authenticate(token);
            assert_eq!(reply.code, 0, "{}", reply.error);
        }
        link
    }

    fn end(self) {
        self.access.drain();
        self.home.stop();
    }
}

/// A long link by hand: answers as they came.
struct Link {
    stream: TcpStream,
    decoder: Decoder,
    seq: u32,
}

impl Link {
    fn ask(&mut self, command: Command, body: Vec<u8>) -> terminal::Reply {
        self.seq += 1;
        let frame = Frame {
            cmd: command as u32,
            seq: self.seq,
            body: body.into(),
        };
        self.stream.write_all(&frame.to_bytes()).unwrap();
        let mut bytes = [0; 4096];
        loop {
            while let Some(frame) = self.decoder.next_frame().unwrap() {
                if frame.seq == self.seq {
                    return terminal::Reply::decode(frame.body).unwrap();
                }
            }
            let length = self.stream.read(&mut bytes).unwrap();
            assert!(length > 0, "{command:?} closed the link");
            self.decoder.feed(&bytes[..length]);
        }
    }

    fn authenticate(&mut self, token: &[u8]) -> terminal::Reply {
        let request = terminal::AuthRequest {
            token: token.to_vec().into(),
            active: true,
        };
        self.ask(Command::Auth, request.encode_to_vec())
    }
}

fn row(command: Command, request: &impl Message, outcome: Outcome) -> (Command, Vec<u8>, Outcome) {
    (command, request.encode_to_vec(), outcome)
}

fn send(receiver: u64, id: u8) -> terminal::SendRequest {
    terminal::SendRequest {
        receiver,
        messages: vec![terminal::Outgoing {
            client_id: vec![id; 16].into(),
            text: "from eve".to_owned(),
            ..terminal::Outgoing::default()
        }],
        key: 0,
        geo: false,
    }
}

fn create_group(members: Vec<u64>) -> Change {
    Change::CreateGroup(terminal::CreateGroup {
        client_id: vec![3; 16].into(),
        name: SECRET.to_owned(),
        members,
    })
}

fn new_post() -> Change {
    Change::NewPost(terminal::NewPost {
        client_id: vec![4; 16].into(),
        text: SECRET.to_owned(),
        ..Default::default()
    })
}

fn new_comment(author: u64, post_id: u64) -> Change {
    Change::NewComment(terminal::NewComment {
        author,
        post_id,
        client_id: vec![5; 16].into(),
        text: SECRET.to_owned(),
        reply_to: 0,
    })
}

fn mark(peer: u64) -> Change {
    Change::Mark(terminal::Mark {
        peer,
        received: 1,
        read: 1,
    })
}

fn mute(peer: u64) -> Change {
    Change::Mute(terminal::Mute { peer, muted: true })
}

/// Items of a kind in a user's timeline.
fn has(home: &Home, user: u64, kind: Kind) -> usize {
    let items = home.sync(user, 0, 1000).unwrap().items;
    items.iter().filter(|item| item.kind() == kind).count()
}

fn check(what: &str, reply: &terminal::Reply, outcome: Outcome) {
    let text = format!("{what}: code {}, {:?}", reply.code, reply.error);
    match outcome {
        Refused(code, words) => {
            assert_eq!(reply.code, code.number().unsigned_abs(), "{text}");
            assert!(reply.error.contains(words), "{text}; expected {words:?}");
        }
        Harmless => assert_eq!(reply.code, 0, "{text}"),
    }
    for part in [&reply.body[..], reply.error.as_bytes()] {
        let told = part.windows(SECRET.len()).any(|at| at == SECRET.as_bytes());
        assert!(!told, "{text}: it tells what is not eve's");
    }
}

/// The message's fields, those of its oneof if it has one.
fn fields(name: &str) -> BTreeSet<String> {
    let message = schema(name);
    let choices = message.oneof_decl.len();
    let fields = message.field.into_iter();
    let fields = fields.filter(|field| choices == 0 || field.oneof_index.is_some());
    fields.map(|field| field.name.unwrap()).collect()
}

fn schema(name: &str) -> DescriptorProto {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut messages = set.file.into_iter().flat_map(|file| file.message_type);
    messages
        .find(|message| message.name() == name)
        .expect("the schema has the message")
}

/// The names of the commands in the schema.
fn all_commands() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut enums = set.file.into_iter().flat_map(|file| file.enum_type);
    let commands = enums.find(|one| one.name() == "Command").unwrap();
    let names = commands.value.into_iter().map(|value| value.name.unwrap());
    names.collect()
}

/// The one field that is set, by its number in the encoding.
fn field_of(name: &str, encoded: &[u8]) -> String {
    let mut encoded = encoded;
    let tag = prost::encoding::decode_key(&mut encoded).unwrap().0;
    let fields = schema(name).field.into_iter();
    let mut field = fields.filter(|field| field.number() == i32::try_from(tag).unwrap());
    field.next().unwrap().name.unwrap()
}

#[rpc_core::test]
fn the_tables_have_a_row_for_whatever_the_schema_names() {
    let world = World::start();
    let mut commands: BTreeSet<String> = world
        .commands()
        .iter()
        .map(|(command, _, _)| command.as_str_name().to_owned())
        .collect();
    // It is never answered.
    commands.insert(Command::SignalKeep.as_str_name().to_owned());
    assert_eq!(commands, all_commands(), "commands");
    let changes = world.changes().into_iter().map(|(change, _)| {
        let change = Some(change);
        let request = terminal::ChangeRequest { change };
        field_of("ChangeRequest", &request.encode_to_vec())
    });
    assert_eq!(
        changes.collect::<BTreeSet<_>>(),
        fields("ChangeRequest"),
        "changes"
    );
    let changes = world.group_changes().into_iter().map(|(what, _)| {
        let what = Some(what);
        let change = GroupChange { group_id: 0, what };
        field_of("GroupChange", &change.encode_to_vec())
    });
    assert_eq!(
        changes.collect::<BTreeSet<_>>(),
        fields("GroupChange"),
        "changes of a group"
    );
    let methods: BTreeSet<&str> = LOGIC_DESCRIPTOR
        .methods
        .iter()
        .map(|method| method.name)
        .collect();
    let rows = METHODS.iter().map(|(name, _)| *name);
    let rows: BTreeSet<&str> = rows.chain(FOR_ALL).chain(FROM_ACCESS).collect();
    assert_eq!(rows, methods, "methods of logic");
    world.end();
}

#[rpc_core::test]
fn who_has_no_token_gets_to_the_door_alone() {
    let world = World::start();
    let mut link = world.link(None);
    let mut forged = world.anns_phone.token.to_vec();
    forged[40] ^= 1;
    let mut borrowed = world.anns_phone.token.to_vec();
    borrowed[8] ^= 1;
    for (token, words) in [
        (&forged[..], "unknown, expired or revoked"),
        (&borrowed, "unknown, expired or revoked"),
        (&forged[1..], "this is no token"),
        (b"", "this is no token"),
    ] {
        let reply = link.authenticate(token);
        check("AUTH", &reply, Refused(Code::Unauthenticated, words));
    }
    let revoke = Change::LogOut(terminal::LogOut {
        device_id: world.anns_phone.device_id,
    });
    change(&world.home, who(world.ann, 1), revoke).unwrap();
    let reply = link.authenticate(&world.anns_phone.token);
    let revoked = Refused(Code::Unauthenticated, "unknown, expired or revoked");
    check("AUTH", &reply, revoked);
    for (command, body, outcome) in world.commands() {
        let outcome = match (command, outcome) {
            (Command::Auth, _) => continue,
            (Command::Register | Command::Login, outcome) => outcome,
            (_, Refused(Code::Unimplemented, _)) => outcome,
            _ => Refused(Code::Unauthenticated, "needs AUTH first"),
        };
        check(command.as_str_name(), &link.ask(command, body), outcome);
    }
    world.end();
}

#[rpc_core::test]
fn nobody_reads_or_changes_anothers_whatever_they_ask() {
    let world = World::start();
    let (ann, bob) = (world.ann, world.bob);
    let token = world.home.login("eve", "secret1").unwrap().token;
    let mut link = world.link(Some(&token));
    let state = |user| world.home.sync(user, 0, 1000).unwrap();
    let before = [ann, bob].map(state);
    for (command, body, outcome) in world.commands() {
        let reply = link.ask(command, body);
        check(command.as_str_name(), &reply, outcome);
    }
    // The message, the comment that was not hers, the group: three that others' homes refuse.
    world.home.until("word comes from all homes", || {
        has(&world.home, world.eve, Kind::Refused) == 3
    });
    assert_eq!([ann, bob].map(state), before, "nothing of theirs has moved");
    assert!(world.home.authenticate(&world.anns_phone.token).is_ok());
    assert!(world.home.login("ann", "secret1").is_ok());
    world.end();
}

#[rpc_core::test]
fn a_link_whose_device_is_logged_out_gets_nothing_more() {
    let world = World::start();
    let login = world.home.login("eve", "secret1").unwrap();
    let mut link = world.link(Some(&login.token));
    let log_out = Change::LogOut(terminal::LogOut {
        device_id: login.device_id,
    });
    change(&world.home, who(world.eve, 1), log_out).unwrap();
    for (command, body, outcome) in world.commands() {
        let outcome = match (command, outcome) {
            // Of nobody's, or answered by access itself, which tells the home: that does not know the device.
            (Command::Auth | Command::Register | Command::Login | Command::SetActive, outcome) => {
                outcome
            }
            (_, Refused(Code::Unimplemented, _)) => outcome,
            _ => Refused(Code::Unauthenticated, "logged out"),
        };
        check(command.as_str_name(), &link.ask(command, body), outcome);
    }
    world.end();
}

/// Methods of logic that need no caller.
const FOR_ALL: [&str; 3] = ["Register", "Login", "Authenticate"];
/// Methods that access calls for links whose callers it knows.
const FROM_ACCESS: [&str; 2] = ["RegisterLinks", "DropLinks"];

type Method = fn(&World, Option<lp::Caller>) -> Code;

macro_rules! method {
    ($name:ident($call:ident)) => {
        |world, caller| {
            let request = Some(Default::default());
            code(world.home.logic.$name(lp::$call { caller, request }))
        }
    };
}

/// Every other method, called with nothing but a caller.
const METHODS: [(&str, Method); 12] = [
    ("Send", |world, caller| {
        let request = Some(send(world.bob, 7));
        code(world.home.logic.send(lp::SendCall { caller, request }))
    }),
    ("Sync", method!(sync(SyncCall))),
    ("FindUser", method!(find_user(FindUserCall))),
    ("AddContact", method!(add_contact(AddContactCall))),
    ("AcceptContact", method!(accept_contact(AcceptContactCall))),
    ("Change", |world, caller| {
        let change = Some(mute(world.bob));
        let request = Some(terminal::ChangeRequest { change });
        code(world.home.logic.change(lp::ChangeCall { caller, request }))
    }),
    ("ListDevices", method!(list_devices(ListDevicesCall))),
    ("OpenPost", method!(open_post(OpenPostCall))),
    ("OpenAlbum", method!(open_album(OpenAlbumCall))),
    ("ListMembers", method!(list_members(ListMembersCall))),
    ("Typing", method!(typing(TypingCall))),
    ("Presence", method!(presence(PresenceCall))),
];

#[rpc_core::test]
fn logic_takes_no_call_without_a_caller_whose_device_is_logged_in() {
    let world = World::start();
    let callers = [
        None,
        Some(who(0, 1)),
        Some(who(world.ann, 77)),
        Some(who(world.eve, world.anns_phone.device_id)),
        Some(who(world.eve + (1 << 12), 1)),
    ];
    for (name, call) in METHODS {
        for caller in callers {
            let code = call(&world, caller);
            assert_eq!(code, Code::Unauthenticated, "{name} as {caller:?}");
        }
    }
    let link = lp::Link {
        user_id: world.eve,
        device_id: world.anns_phone.device_id,
        link: 1,
        access: "127.0.0.1:1".to_owned(),
        active: true,
    };
    let request = lp::RegisterLinksRequest { links: vec![link] };
    let reply = world.home.logic.register_links(request).unwrap();
    assert!(
        !reply.newest[0].reached,
        "a device that is none gets no key"
    );
    assert_eq!(reply.newest[0].key, 0);
    world.end();
}

#[rpc_core::test]
fn a_flood_is_refused_to_who_makes_it_and_to_nobody_else() {
    // One thing a second, four at once.
    let home = Home::with_user_rate(1);
    let [ann, bob, eve] = ["ann", "bob", "eve"].map(|name| home.register(name, "secret1").unwrap());
    home.befriend(ann, bob);
    home.befriend(eve, bob);
    let mut flood = (0..=u8::MAX).map(|id| (id, home.send(eve, bob, id, "flood")));
    let (sent, refused) = flood.find(|(_, outcome)| outcome.is_err()).unwrap();
    assert_eq!(code(refused), Code::ResourceExhausted);
    home.send(ann, bob, 1, "calm").unwrap();
    home.until("what was taken arrives, and the calm word", || {
        let texts = messages(&home, bob);
        let calm = texts.iter().filter(|(_, text)| text == "calm").count();
        (calm, texts.len()) == (1, usize::from(sent) + 1)
    });
    home.stop();
}

#[rpc_core::test]
fn passwords_are_not_guessed_at_any_rate() {
    let home = Home::start();
    let [ann, _bob] = ["ann", "bob"].map(|name| home.register(name, "secret1").unwrap());
    let guess = |n: u32| home.login("ann", &format!("guess {n}")).unwrap_err();
    let mut refused = (0..1000).map(|n| guess(n).code());
    assert!(refused.any(|code| code == Code::ResourceExhausted));
    let device_id = 1;
    let guess = |n: u32| {
        let password = format!("guess {n}");
        let delete = Change::DeleteAccount(terminal::DeleteAccount { password });
        code(change(&home, who(ann, device_id), delete))
    };
    assert!(
        (0..1000)
            .map(guess)
            .any(|code| code == Code::ResourceExhausted)
    );
    home.login("bob", "secret1").unwrap();
    home.stop();
}
