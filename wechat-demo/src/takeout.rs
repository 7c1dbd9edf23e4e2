//! `takeout`: what the backend has of one account, as lines of JSON.
//!
//! Knows:       the long link, the schema of what a terminal is told.
//! Does not know: stores, roles.
//!
//! It is a device like any other, new and for this alone: it syncs from nothing, page by page, reads the own album
//! and the list of devices, and logs itself out. So it can show nothing that is not the user's to see. Values are
//! written as protobuf's JSON has them: 64-bit numbers and bytes are strings.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};
use wechat_demo::proto::terminal as pb;
use wechat_demo::terminal::sync::Cursor;
use wechat_demo::terminal::{Connection, login};

use crate::up::DEFAULT_PORT;

/// Items of a page.
const PAGE: u32 = 200;

/// Flags of `takeout`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Flags {
    /// Whose account
    #[arg(long, value_name = "NAME")]
    user: String,
    /// The account's password
    #[arg(long)]
    password: String,
    /// HOST:PORT of the cluster's long links
    #[arg(long, value_name = "HOST:PORT", default_value_t = format!("127.0.0.1:{DEFAULT_PORT}"))]
    addr: String,
    /// Where to write; it must not be there yet, and is there only once it is whole
    file: PathBuf,
}

/// Writes the file.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    if flags.file.exists() {
        bail!(
            "{} is there already; name another file",
            flags.file.display()
        );
    }
    let folder = match flags.file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let file = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("{} cannot be written to", folder.display()))?;
    let fresh = login(&flags.addr, &flags.user, &flags.password, "takeout")
        .with_context(|| format!("{} cannot log in at {}", flags.user, flags.addr))?;
    let mut device = Device::new(flags, &fresh)?;
    let written = device.write_all(BufWriter::new(file.as_file()));
    let out = device.log_out(fresh.device_id);
    let counts = written?;
    out.context("the device that was made for this is still logged in; log it out in a chat")?;
    file.as_file().sync_all()?;
    file.persist_noclobber(&flags.file)
        .with_context(|| format!("{} cannot be made", flags.file.display()))?;
    for (what, count) in counts {
        println!("{count:8} {what}");
    }
    println!("written to {}", flags.file.display());
    Ok(ExitCode::SUCCESS)
}

/// The device that is made for it.
struct Device {
    connection: Connection,
    schema: DescriptorPool,
    user_id: u64,
}

/// Lines by what they are.
type Counts = BTreeMap<String, u64>;

impl Device {
    fn new(flags: &Flags, login: &pb::LoginReply) -> anyhow::Result<Self> {
        let mut connection = Connection::open(&flags.addr)?;
        let request = pb::AuthRequest {
            token: login.token.clone(),
            active: false,
        };
        connection.call::<pb::AuthReply>(pb::Command::Auth, &request)?;
        Ok(Self {
            connection,
            schema: DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET)?,
            user_id: login.user_id,
        })
    }

    fn write_all(&mut self, mut out: impl Write) -> anyhow::Result<Counts> {
        let mut counts = Counts::new();
        let mut line = |what: &str, value: &Value| -> anyhow::Result<()> {
            *counts.entry(what.to_owned()).or_default() += 1;
            writeln!(out, "{value}").context("the file cannot be written")
        };
        let request = pb::ListDevicesRequest {};
        let reply: pb::ListDevicesReply = self.ask(pb::Command::ListDevices, &request)?;
        for device in reply.devices {
            line(
                "device",
                &json!({ "device": self.json("Device", &device)? }),
            )?;
        }
        self.posts(&mut line)?;
        self.items(&mut line)?;
        out.flush().context("the file cannot be written")?;
        Ok(counts)
    }

    /// The timeline, whole.
    fn items(
        &mut self,
        line: &mut impl FnMut(&str, &Value) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut at = Cursor::default();
        loop {
            let request = pb::SyncRequest {
                key: at.key,
                limit: PAGE,
                full_to: at.full_to,
                anew: false,
                owed: at.owed,
            };
            let reply: pb::SyncReply = self.ask(pb::Command::Sync, &request)?;
            anyhow::ensure!(
                reply.rewind.is_none() && (at.key == 0 || !at.begins(&reply)),
                "some of what was written is not there any more; take it out again"
            );
            at = Cursor::of(&reply);
            for item in reply.items {
                let kind = item.kind();
                let mut value = json!({ "item": self.json("Item", &item)? });
                if let Some(name) = payload(kind).filter(|_| !item.deleted) {
                    // Its fields stand in the place of its bytes.
                    value["item"]["payload"] = self.decoded(name, item.payload)?;
                }
                line(&kind.as_str_name().to_lowercase(), &value)?;
            }
            if !reply.more {
                return Ok(());
            }
        }
    }

    /// The user's posts with all that was said to them, newest first.
    fn posts(
        &mut self,
        line: &mut impl FnMut(&str, &Value) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (author, mut before) = (self.user_id, 0);
        loop {
            let limit = 0;
            let request = pb::OpenAlbumRequest {
                author,
                before,
                limit,
            };
            let album: pb::OpenAlbumReply = self.ask(pb::Command::OpenAlbum, &request)?;
            for post in album.posts {
                let post_id = post.post_id;
                let request = pb::OpenPostRequest { author, post_id };
                let opened: pb::OpenPostReply = self.ask(pb::Command::OpenPost, &request)?;
                let value = json!({ "post": self.json("OpenPostReply", &opened)? });
                line("own post with comments", &value)?;
            }
            if album.next == 0 {
                return Ok(());
            }
            before = album.next;
        }
    }

    fn log_out(&mut self, device_id: u64) -> anyhow::Result<()> {
        let log_out = pb::change_request::Change::LogOut(pb::LogOut { device_id });
        let change = Some(log_out);
        let request = pb::ChangeRequest { change };
        self.ask::<pb::ChangeReply>(pb::Command::Change, &request)?;
        Ok(())
    }

    fn ask<Reply: Message + Default>(
        &mut self,
        command: pb::Command,
        request: &impl Message,
    ) -> anyhow::Result<Reply> {
        let answered = self.connection.call(command, request);
        answered.with_context(|| command.as_str_name().to_owned())
    }

    fn json(&self, name: &str, message: &impl Message) -> anyhow::Result<Value> {
        self.decoded(name, message.encode_to_vec().into())
    }

    fn decoded(&self, name: &str, bytes: bytes::Bytes) -> anyhow::Result<Value> {
        let name = format!("wechat.terminal.{name}");
        let message = self.schema.get_message_by_name(&name);
        let message = message.with_context(|| format!("the schema has no {name}"))?;
        let message = DynamicMessage::decode(message, bytes)
            .with_context(|| format!("a {name} cannot be read"))?;
        Ok(serde_json::to_value(&message)?)
    }
}

/// The message in an item's payload; `None` of what a later version has, or no answer.
fn payload(kind: pb::Kind) -> Option<&'static str> {
    match kind {
        pb::Kind::Unspecified | pb::Kind::Head => None,
        pb::Kind::Account => Some("Account"),
        pb::Kind::Contact => Some("Contact"),
        pb::Kind::Message => Some("Message"),
        pb::Kind::Refused => Some("Refused"),
        pb::Kind::Conversation => Some("Conversation"),
        pb::Kind::Group => Some("Group"),
        pb::Kind::Post => Some("PostPointer"),
        pb::Kind::Comment => Some("Comment"),
    }
}
