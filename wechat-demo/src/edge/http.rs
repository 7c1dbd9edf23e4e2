//! Requests and their answers.
//!
//! Knows: paths, headers, statuses, whom a fault is told how.
//! Does not know: files, sockets; requests are whole when they come here.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rpc_core::rpc::protocol::{Page, PageRequest};
use rpc_core::sync::Semaphore;
use rpc_core::{Code, MetadataMap, Status};
use serde_json::json;

use super::cache::Cache;
use super::form::Form;
use super::gate::{self, Gate};
use super::meter::Meter;
use super::origin::{Away, Wanted, is_from_edge};
use super::piece::{Piece, Sight};
use super::range::Part;
use super::store::{Begun, Fault, Object, Progress, Store};
use super::ticket::{Content, Id, Key};
use crate::model::clock::Clock;
use crate::proto::terminal::media::Sort;

/// How the paths begin that are answered here.
pub(super) const PREFIX: &str = "/media/";
/// Bytes of a chunk at most.
pub(super) const CHUNK: usize = 1 << 20;
/// Requests under way.
const REQUESTS: usize = 256;
/// Of tus, the protocol of uploads.
const TUS: &str = "1.0.0";
/// The type of a chunk, by tus.
const CHUNK_TYPE: &str = "application/offset+octet-stream";
/// An object never changes under its name.
const FOR_EVER: &str = "private, max-age=31536000, immutable";
/// Not of RFC 9110: tus' status for a hash that is wrong.
const CHECKSUM_MISMATCH: u16 = 460;

/// Answers what comes under [`PREFIX`].
pub(super) struct Media {
    pub(super) store: Arc<Store>,
    /// What other edges have; `None` = none is asked.
    pub(super) cache: Option<Cache>,
    pub(super) gate: Box<dyn Gate>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) meter: Arc<Meter>,
    pub(super) memory: Arc<Memory>,
    requests: Semaphore,
}

/// Bytes of answers that wait for their sockets.
pub(super) struct Memory {
    bound: u64,
    used: AtomicU64,
}

/// A part of it.
struct Held {
    bytes: Vec<u8>,
    memory: Arc<Memory>,
    length: u64,
}

/// A request that is not served.
struct Refusal {
    status: u16,
    text: String,
    headers: Vec<(&'static str, String)>,
}

type Answer = Result<Page, Refusal>;

impl Memory {
    /// `bound` bytes.
    pub(super) fn new(bound: u64) -> Arc<Self> {
        Arc::new(Self {
            bound,
            used: AtomicU64::new(0),
        })
    }

    /// Room for `length` bytes, if there is; it comes back with the guard.
    fn take(self: &Arc<Self>, length: u64) -> Option<Held> {
        let held = Held {
            bytes: Vec::new(),
            memory: Arc::clone(self),
            length,
        };
        // A count alone: nothing else is read by it.
        let before = self.used.fetch_add(length, Ordering::Relaxed);
        (before + length <= self.bound).then_some(held)
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.length, Ordering::Relaxed);
    }
}

impl Media {
    /// Over a store.
    pub(super) fn new(
        store: Arc<Store>,
        cache: Option<Cache>,
        gate: Box<dyn Gate>,
        clock: Arc<dyn Clock>,
        meter: Arc<Meter>,
        memory: u64,
    ) -> Self {
        Self {
            store,
            cache,
            gate,
            clock,
            meter,
            memory: Memory::new(memory),
            requests: Semaphore::new(REQUESTS),
        }
    }

    /// The answer to a request. It may wait for the disk and for logic.
    pub(super) fn answer(&self, request: &PageRequest) -> Page {
        let Some(_permit) = self.requests.try_acquire() else {
            return self.busy("too many requests are under way").page();
        };
        let mut page = match self.route(request) {
            Ok(page) => page,
            Err(refusal) => refusal.page(),
        };
        page.headers.insert("tus-resumable", TUS);
        page.headers.insert("x-content-type-options", "nosniff");
        page
    }

    fn route(&self, request: &PageRequest) -> Answer {
        let path = request.path.strip_prefix(PREFIX).unwrap_or_default();
        let (place, name) = path.split_once('/').unwrap_or((path, ""));
        match (place, name, request.method.as_str()) {
            ("uploads", "", "POST") => self.begin(request),
            ("uploads", "", "OPTIONS") => Ok(self.options()),
            ("uploads", "", _) => Err(Refusal::method("OPTIONS, POST")),
            ("uploads", id, "HEAD") => self.progress(request, id_of(id)?),
            ("uploads", id, "PATCH") => self.append(request, id_of(id)?),
            ("uploads", id, "DELETE") => {
                let owner = self.owner(request)?;
                self.store
                    .cancel(owner, id_of(id)?)
                    .map_err(|fault| self.refusal(fault))?;
                Ok(empty(204))
            }
            ("uploads", ..) => Err(Refusal::method("DELETE, HEAD, PATCH")),
            ("objects", name, "GET" | "HEAD") => match name.strip_suffix("/small") {
                Some(id) => self.give(request, id_of(id)?, Sight::Small),
                None => self.give(request, id_of(name)?, Sight::Whole),
            },
            ("objects", id, "DELETE") => {
                let owner = self.owner(request)?;
                self.store
                    .remove(owner, id_of(id)?)
                    .map_err(|fault| self.refusal(fault))?;
                Ok(empty(204))
            }
            ("objects", ..) => Err(Refusal::method("DELETE, GET, HEAD")),
            _ => Err(Refusal::new(
                404,
                "here are /media/uploads and /media/objects/ID alone",
            )),
        }
    }

    /// What is spoken, for clients of tus.
    fn options(&self) -> Page {
        let mut page = empty(204);
        page.headers.insert("tus-version", TUS);
        page.headers.insert("tus-extension", "creation,termination");
        let most = self.store.bounds().object;
        page.headers.insert("tus-max-size", most.to_string());
        page
    }

    fn begin(&self, request: &PageRequest) -> Answer {
        let owner = self.owner(request)?;
        let content = content(owner, &request.headers)?;
        if !request.body.is_empty() {
            return Err(Refusal::new(
                400,
                "begin without a body; the bytes follow with PATCH",
            ));
        }
        let begun = self.store.begin(&content, self.clock.unix_ms());
        match begun.map_err(|fault| self.refusal(fault))? {
            Begun::There(object) => {
                Meter::add(&self.meter.instant, 1);
                Ok(self.pointer(&object))
            }
            Begun::Upload(id, progress) => {
                let mut page = at(progress, 201);
                page.headers
                    .insert("location", format!("{PREFIX}uploads/{id}"));
                Ok(page)
            }
        }
    }

    fn progress(&self, request: &PageRequest, id: Id) -> Answer {
        let owner = self.owner(request)?;
        let progress = self.store.progress(owner, id);
        let mut page = at(progress.map_err(|fault| self.refusal(fault))?, 200);
        page.headers.insert("cache-control", "no-store");
        Ok(page)
    }

    fn append(&self, request: &PageRequest, id: Id) -> Answer {
        let owner = self.owner(request)?;
        if request.headers.get("content-type") != Some(CHUNK_TYPE) {
            let text = format!("send a chunk as Content-Type: {CHUNK_TYPE}");
            return Err(Refusal::new(415, text));
        }
        let offset = number(&request.headers, "upload-offset")?;
        if request.body.len() > CHUNK {
            let text = format!(
                "send at most {CHUNK} bytes at once, not {}",
                request.body.len()
            );
            return Err(Refusal::new(413, text));
        }
        let appended = self.store.append(owner, id, offset, &request.body);
        let progress = appended.map_err(|fault| self.refusal(fault))?;
        Meter::add(&self.meter.bytes_in, request.body.len() as u64);
        if progress.offset < progress.size {
            return Ok(at(progress, 204));
        }
        let store = Arc::clone(&self.store);
        // All of it is read: no worker's affair.
        let finished = rpc_core::spawn_blocking(move || store.finish(owner, id)).join();
        let Ok(finished) = finished else {
            return Err(Refusal::new(
                500,
                "the upload could not be finished; see the edge's log",
            ));
        };
        if matches!(
            finished,
            Err(Fault::Hash | Fault::Type(_) | Fault::Picture(_))
        ) {
            Meter::add(&self.meter.refused, 1);
        }
        let object = finished.map_err(|fault| self.refusal(fault))?;
        Meter::add(&self.meter.stored, 1);
        let mut page = self.pointer(&object);
        page.headers
            .insert("upload-offset", progress.offset.to_string());
        Ok(page)
    }

    fn give(&self, request: &PageRequest, id: Id, sight: Sight) -> Answer {
        let Some(text) = parameter(&request.query, "key") else {
            return Err(Refusal::new(
                403,
                "give the object's key, which the pointer has: ?key=KEY",
            ));
        };
        let key = Key::parse(text).ok_or_else(unknown)?;
        let piece = self.find(request, &Wanted { id, sight, key })?;
        let tag = format!("\"{}\"", piece.hash);
        if lists(request.headers.get("if-none-match"), &tag) {
            return Ok(cacheable(empty(304), &tag));
        }
        let size = piece.size;
        // RFC 9110 §13.1.5: what is only good with another content is not good for a part of this one.
        let same = request
            .headers
            .get("if-range")
            .is_none_or(|it| it.trim() == tag);
        let asked = request
            .headers
            .get("range")
            .filter(|_| same && request.method == "GET");
        match Part::parse(asked, size) {
            Part::Whole => Ok(cacheable(self.bytes(&piece, 0..size, 200)?, &tag)),
            Part::Bytes(range) => {
                let line = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                let mut page = self.bytes(&piece, range, 206)?;
                page.headers.insert("content-range", line);
                Ok(cacheable(page, &tag))
            }
            Part::Beyond => Err(Refusal {
                headers: vec![("content-range", format!("bytes */{size}"))],
                ..Refusal::new(416, format!("the object has {size} bytes"))
            }),
        }
    }

    /// What is wanted, from here or from other edges.
    fn find(&self, request: &PageRequest, wanted: &Wanted) -> Result<Piece, Refusal> {
        if wanted.key == self.store.key(wanted.id) {
            let piece = self.store.piece(wanted.id, wanted.sight);
            return piece
                .map_err(|fault| self.refusal(fault))?
                .ok_or_else(unknown);
        }
        let others = self.cache.as_ref();
        let Some(cache) = others.filter(|_| !is_from_edge(&request.headers)) else {
            return Err(unknown());
        };
        cache.find(wanted).map_err(|away| match away {
            Away::Unknown => unknown(),
            Away::Silent(why) => Refusal::new(
                504,
                format!("the object is not here, and cannot be had from its edge now ({why}); come again"),
            ),
        })
    }

    fn bytes(&self, piece: &Piece, range: Range<u64>, status: u16) -> Answer {
        let length = range.end - range.start;
        let Some(mut held) = self.memory.take(length) else {
            return Err(self.busy("too much is on its way already; ask for less, or later"));
        };
        let read = piece.read(range).map_err(Fault::Disk);
        held.bytes = read.map_err(|fault| self.refusal(fault))?;
        Meter::add(&self.meter.bytes_out, length);
        let mut headers = MetadataMap::new();
        headers.insert("accept-ranges", "bytes");
        if piece.form.sort() == Sort::File {
            headers.insert("content-disposition", "attachment");
        }
        Ok(Page {
            status,
            content_type: piece.form.content_type(),
            headers,
            body: Bytes::from_owner(held),
        })
    }

    /// What a message says to point to an object.
    fn pointer(&self, object: &Object) -> Page {
        let content = &object.content;
        let sort = match content.form.sort() {
            Sort::Image => "image",
            Sort::Voice => "voice",
            _ => "file",
        };
        json_page(
            200,
            &json!({
                "file_id": object.id.to_string(),
                "key": self.store.key(object.id).to_string(),
                "hash": content.hash.to_string(),
                "size": content.size,
                "content_type": content.form.content_type(),
                "sort": sort,
                "small": object.small.map(|(hash, size)| json!({ "hash": hash.to_string(), "size": size })),
            }),
        )
    }

    /// Whose token the request carries.
    fn owner(&self, request: &PageRequest) -> Result<u64, Refusal> {
        let version = request.headers.get("tus-resumable");
        if version.is_some_and(|version| version != TUS) {
            return Err(Refusal {
                headers: vec![("tus-version", TUS.to_owned())],
                ..Refusal::new(412, format!("version {TUS} of tus is spoken here"))
            });
        }
        let told = gate::token(request.headers.get("authorization"));
        told.and_then(|token| self.gate.user(token))
            .map_err(|status| Refusal::of_gate(&status))
    }

    fn busy(&self, text: &str) -> Refusal {
        Meter::add(&self.meter.busy, 1);
        Refusal {
            headers: vec![("retry-after", "1".to_owned())],
            ..Refusal::new(503, text)
        }
    }

    fn refusal(&self, fault: Fault) -> Refusal {
        let text = fault.to_string();
        let status = match &fault {
            Fault::Unknown(_) => 404,
            Fault::Offset(_) => 409,
            Fault::TooLong(_) | Fault::Size { .. } => 413,
            Fault::Busy => 423,
            Fault::Hash => CHECKSUM_MISMATCH,
            Fault::Type(_) | Fault::Picture(_) => 415,
            Fault::Uploads => 429,
            Fault::Quota { .. } | Fault::Full => 507,
            Fault::Disk(_) => {
                Meter::add(&self.meter.disk_failed, 1);
                tracing::error!("{text}");
                500
            }
        };
        let mut refusal = Refusal::new(status, text);
        if let Fault::Offset(offset) = fault {
            refusal.headers.push(("upload-offset", offset.to_string()));
        }
        refusal
    }
}

impl Refusal {
    fn new(status: u16, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            headers: Vec::new(),
        }
    }

    fn method(allow: &str) -> Self {
        Self {
            headers: vec![("allow", allow.to_owned())],
            ..Self::new(405, format!("this path is for {allow}"))
        }
    }

    /// Nobody knows whose request it is.
    fn of_gate(status: &Status) -> Self {
        let http = match status.code() {
            Code::Unauthenticated | Code::NotFound => 401,
            Code::PermissionDenied => 403,
            _ => 503,
        };
        Self::new(http, status.message())
    }

    fn page(self) -> Page {
        let mut page = json_page(self.status, &json!({ "message": self.text }));
        for (name, value) in self.headers {
            page.headers.insert(name, value);
        }
        page
    }
}

fn json_page(status: u16, body: &serde_json::Value) -> Page {
    Page {
        content_type: "application/json",
        ..Page::text(status, body.to_string())
    }
}

fn empty(status: u16) -> Page {
    Page::text(status, "")
}

fn at(progress: Progress, status: u16) -> Page {
    let mut page = empty(status);
    let Progress { offset, size } = progress;
    page.headers.insert("upload-offset", offset.to_string());
    page.headers.insert("upload-length", size.to_string());
    page
}

fn cacheable(mut page: Page, tag: &str) -> Page {
    page.headers.insert("etag", tag);
    page.headers.insert("cache-control", FOR_EVER);
    page
}

/// The same words whether there is no such object or the key is another's.
fn unknown() -> Refusal {
    Refusal::new(404, "no object of that name has that key")
}

fn id_of(text: &str) -> Result<Id, Refusal> {
    Id::parse(text).ok_or_else(|| Refusal::new(404, "a name here is 32 hexadecimal digits"))
}

/// What an upload says that it will be.
fn content(owner: u64, headers: &MetadataMap) -> Result<Content, Refusal> {
    let size = number(headers, "upload-length")?;
    let described = |name: &str| {
        let all = headers.get("upload-metadata").unwrap_or_default();
        let mut pairs = all.split(',').map(|pair| pair.trim().split_once(' '));
        let value = pairs.find_map(|pair| pair.filter(|(key, _)| *key == name));
        let bytes = STANDARD.decode(value?.1.trim()).ok()?;
        String::from_utf8(bytes).ok()
    };
    let hash = described("hash").and_then(|hash| blake3::Hash::from_hex(hash).ok());
    let Some(hash) = hash else {
        let text = "say in Upload-Metadata what the BLAKE3 hash is: `hash` and base64 of its 64 hexadecimal digits";
        return Err(Refusal::new(400, text));
    };
    let Some(form) = described("type").and_then(|name| Form::named(&name)) else {
        let all = Form::ALL.map(Form::content_type).join(", ");
        let text = format!("say in Upload-Metadata what it is: `type` and base64 of one of {all}");
        return Err(Refusal::new(415, text));
    };
    Ok(Content {
        owner,
        hash,
        size,
        form,
    })
}

fn number(headers: &MetadataMap, name: &str) -> Result<u64, Refusal> {
    let text = headers.get(name).unwrap_or_default().trim();
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let value = text.parse().ok().filter(|_| digits);
    value.ok_or_else(|| Refusal::new(400, format!("send {name}: a number of bytes")))
}

/// The value of a parameter, which needs no escapes.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(key, value)| (key == name).then_some(value))
}

/// Whether a list of tags has `tag`, or all (RFC 9110 §13.1.2, weak comparison).
fn lists(header: Option<&str>, tag: &str) -> bool {
    let mut tags = header.into_iter().flat_map(|all| all.split(','));
    tags.any(|it| matches!(it.trim(), "*") || it.trim().trim_start_matches("W/") == tag)
}

#[cfg(test)]
mod tests;
