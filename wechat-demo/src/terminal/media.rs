//! The way to an edge: content goes there before a message points to it, and comes from there.
//!
//! Knows:       the edge's HTTP (`wechat_demo::edge`), files.
//! Does not know: messages, links.
//!
//! Invariants
//! - M-1  A pointer is returned once the edge has said that it has the content for good.
//! - M-2  What was cut off goes on where it was: an upload at the offset that the edge tells, a download behind what the
//!   file beside the wanted one has. Trouble that may pass is tried again until nothing has moved for [`PATIENCE`].
//! - M-3  A file stands under the wanted name once it has the hash that the pointer says.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rpc_core::base::time::Instant;
use serde::Deserialize;
use ureq::Body;
use ureq::http::Response;

use crate::history::{Event, Recorder, cmid};
use crate::proto::terminal::{self as pb, media::Sort};

/// Bytes that go or come with one request.
const CHUNK: usize = 1 << 20;
/// Time for one request.
const REQUEST: Duration = Duration::from_secs(30);
/// Without any progress for so long, what is tried has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pause before something is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// Bytes of a refusal, or of a pointer, that are read.
const WORDS: u64 = 64 << 10;

/// Why content did not go or come.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// A file here.
    #[error("{path}: {why}")]
    File {
        /// Which.
        path: String,
        /// The system's words.
        why: io::Error,
    },
    /// The edge could not be reached, or was too busy, for [`PATIENCE`].
    #[error("nothing has moved at {address} for {PATIENCE:?}: {why}")]
    Stuck {
        /// The edge.
        address: String,
        /// What was last.
        why: String,
    },
    /// The edge said no.
    #[error("{text} (status {status})")]
    Refused {
        /// Of HTTP.
        status: u16,
        /// The edge's words.
        text: String,
    },
    /// What came is not what the pointer says.
    #[error("what came has another hash than the pointer says; it is thrown away")]
    Damaged,
    /// The edge speaks another language.
    #[error("the edge's answer makes no sense: {0}")]
    Nonsense(String),
}

/// An edge, as one device speaks to it.
#[derive(Clone, Debug)]
pub struct Edge {
    address: String,
    bearer: String,
    agent: ureq::Agent,
    /// Where the terminal writes what it uploaded and fetched; nowhere by default.
    pub history: Option<Recorder>,
}

/// What the edge tells of an object.
#[derive(Deserialize)]
struct Pointer {
    file_id: String,
    key: String,
    hash: String,
    size: u64,
    content_type: String,
    sort: String,
    small: Option<Small>,
}

/// A small picture of an object.
#[derive(Deserialize)]
struct Small {
    hash: String,
    size: u32,
}

/// An edge's refusal.
#[derive(Deserialize)]
struct Words {
    message: String,
}

/// How one request went.
enum Outcome {
    /// It was served.
    Served(Response<Body>),
    /// It may be served later.
    Again(String),
}

impl Edge {
    /// The edge at `address` (HOST:PORT); `token` is the device's.
    #[must_use]
    pub fn new(address: &str, token: &[u8]) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(REQUEST))
            .http_status_as_error(false);
        Self {
            address: address.to_owned(),
            bearer: format!("Bearer {}", URL_SAFE_NO_PAD.encode(token)),
            agent: ureq::Agent::new_with_config(config.build()),
            history: None,
        }
    }

    /// Uploads a file; the pointer to it, under the file's name. What the edge has already is not sent.
    ///
    /// # Errors
    /// [`MediaError`].
    pub fn upload(&self, path: &Path, content_type: &str) -> Result<pb::Media, MediaError> {
        let here = |why| file_error(path, why);
        let mut file = File::open(path).map_err(here)?;
        let size = file.metadata().map_err(here)?.len();
        let hash = hash_of(&mut file).map_err(here)?;
        let described = format!(
            "hash {},type {}",
            STANDARD.encode(hash.to_string()),
            STANDARD.encode(content_type)
        );
        let begin = || {
            let request = self.agent.post(self.url("/media/uploads"));
            let request = request
                .header("authorization", &self.bearer)
                .header("upload-length", size.to_string())
                .header("upload-metadata", &described);
            self.outcome(request.send_empty())
        };
        let mut patience = Patience::new();
        let mut place: Option<(String, u64)> = None;
        loop {
            let outcome = match &place {
                None => begin()?,
                Some((url, offset)) => self.put(url, &mut file, path, *offset)?,
            };
            let mut response = match outcome {
                Outcome::Served(response) => response,
                Outcome::Again(why) => {
                    self.pause(&patience, why)?;
                    // What became of the upload, its beginning tells.
                    place = None;
                    continue;
                }
            };
            if response.status() == 200 {
                let mut media = pointer(&mut response)?;
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                media.name = shortened(&name);
                if let Some(history) = &self.history {
                    history.tell(Event::Upload {
                        file: media.file_id.clone(),
                        hash: hash.to_string(),
                    });
                }
                return Ok(media);
            }
            let offset = header(&response, "upload-offset").and_then(|text| text.parse().ok());
            let offset = offset.ok_or_else(|| nonsense("it tells no offset"))?;
            let url = match (header(&response, "location"), place) {
                (Some(path), _) => self.url(&path),
                (None, Some((url, _))) => url,
                (None, None) => return Err(nonsense("it tells no place")),
            };
            patience.moved(offset);
            place = Some((url, offset));
        }
    }

    /// Downloads what `media` points to, and puts it at `to`.
    ///
    /// # Errors
    /// [`MediaError`].
    pub fn fetch(&self, media: &pb::Media, to: &Path) -> Result<(), MediaError> {
        self.fetch_as(media, "", (&media.hash, media.size), to)
    }

    /// Downloads the small picture of what `media` points to, and puts it at `to`.
    ///
    /// # Errors
    /// [`MediaError`]; the edge has none where `media` names none.
    pub fn fetch_small(&self, media: &pb::Media, to: &Path) -> Result<(), MediaError> {
        let size = u64::from(media.small_size);
        self.fetch_as(media, "/small", (&media.small_hash, size), to)
    }

    fn fetch_as(
        &self,
        media: &pb::Media,
        sight: &str,
        (said, size): (&[u8], u64),
        to: &Path,
    ) -> Result<(), MediaError> {
        let part = beside(to);
        let here = |why| file_error(&part, why);
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        let mut file = options.open(&part).map_err(here)?;
        let mut have = file.metadata().map_err(here)?.len();
        let (name, key) = (&media.file_id, cmid(&media.key));
        let url = self.url(&format!("/media/objects/{name}{sight}?key={key}"));
        let mut patience = Patience::new();
        while have < size {
            let end = size.min(have + CHUNK as u64);
            let request = self.agent.get(&url);
            let request = request.header("range", format!("bytes={have}-{}", end - 1));
            let mut response = match self.outcome(request.call())? {
                Outcome::Served(response) if response.status() == 206 => response,
                Outcome::Served(_) => return Err(nonsense("it gives more than was asked for")),
                Outcome::Again(why) => {
                    self.pause(&patience, why)?;
                    continue;
                }
            };
            let body = response.body_mut().with_config().limit(end - have);
            match body.read_to_vec() {
                Ok(bytes) => {
                    file.write_all(&bytes).map_err(here)?;
                    have += bytes.len() as u64;
                    patience.moved(have);
                }
                Err(error) => self.pause(&patience, error.to_string())?,
            }
        }
        let hash = hash_of(&mut file).map_err(here)?;
        if let Some(history) = &self.history {
            history.tell(Event::Fetch {
                file: format!("{name}{sight}"),
                said: cmid(said),
                hash: hash.to_string(),
            });
        }
        if have != size || *said != hash.as_bytes()[..] {
            fs::remove_file(&part).map_err(here)?;
            return Err(MediaError::Damaged);
        }
        file.sync_all().map_err(here)?;
        fs::rename(&part, to).map_err(|why| file_error(to, why))
    }

    /// Sends the chunk at `offset`.
    fn put(
        &self,
        url: &str,
        file: &mut File,
        path: &Path,
        offset: u64,
    ) -> Result<Outcome, MediaError> {
        let mut chunk = Vec::new();
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| {
                Read::by_ref(file)
                    .take(CHUNK as u64)
                    .read_to_end(&mut chunk)
            })
            .map_err(|why| file_error(path, why))?;
        let request = self
            .agent
            .patch(url)
            .header("authorization", &self.bearer)
            .header("upload-offset", offset.to_string())
            .content_type("application/offset+octet-stream");
        self.outcome(request.send(&chunk[..]))
    }

    /// A response, unless it is a refusal or something that may pass.
    fn outcome(
        &self,
        response: Result<Response<Body>, ureq::Error>,
    ) -> Result<Outcome, MediaError> {
        let mut response = match response {
            Ok(response) => response,
            Err(error) => return Ok(Outcome::Again(error.to_string())),
        };
        let status = response.status().as_u16();
        if status < 300 {
            return Ok(Outcome::Served(response));
        }
        let body = response.body_mut().with_config().limit(WORDS).read_to_vec();
        let words = body
            .ok()
            .and_then(|body| serde_json::from_slice(&body).ok());
        let text = words.map_or_else(|| "it gives no reason".to_owned(), |it: Words| it.message);
        match status {
            // Two at once, an offset that has moved, too much for now: the beginning tells how it goes on.
            409 | 423 | 429 | 500.. => Ok(Outcome::Again(text)),
            _ => Err(MediaError::Refused { status, text }),
        }
    }

    fn pause(&self, patience: &Patience, why: String) -> Result<(), MediaError> {
        if patience.is_over() {
            let address = self.address.clone();
            return Err(MediaError::Stuck { address, why });
        }
        std::thread::sleep(PAUSE);
        Ok(())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// How long nothing has moved.
struct Patience {
    since: Instant,
    furthest: u64,
}

impl Patience {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            furthest: 0,
        }
    }

    /// It got to `offset`; only what is further than ever counts.
    fn moved(&mut self, offset: u64) {
        if offset > self.furthest {
            self.furthest = offset;
            self.since = Instant::now();
        }
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() > PATIENCE
    }
}

/// The content type that a file of that name is uploaded as, where it is a picture.
#[must_use]
pub fn image_type(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "jpg" | "jpeg" => Some("image/jpeg"),
        "png" => Some("image/png"),
        "webp" => Some("image/webp"),
        _ => None,
    }
}

/// The content type that a file of that name is uploaded as, where it is a voice message.
#[must_use]
pub fn voice_type(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "ogg" | "opus" => Some("audio/ogg"),
        "amr" => Some("audio/amr"),
        "mp3" => Some("audio/mpeg"),
        "wav" => Some("audio/wav"),
        _ => None,
    }
}

/// The content type of anything.
pub const FILE_TYPE: &str = "application/octet-stream";

/// The pointer in an answer; as a pointer in a message.
fn pointer(response: &mut Response<Body>) -> Result<pb::Media, MediaError> {
    let body = response.body_mut().with_config().limit(WORDS).read_to_vec();
    let body = body.map_err(|error| nonsense(&error.to_string()))?;
    let told: Pointer =
        serde_json::from_slice(&body).map_err(|error| nonsense(&error.to_string()))?;
    let bytes = |text: &str| {
        let hash = blake3::Hash::from_hex(text).map_err(|error| nonsense(&error.to_string()))?;
        Ok::<_, MediaError>(hash.as_bytes().to_vec().into())
    };
    let sort = match told.sort.as_str() {
        "image" => Sort::Image,
        "voice" => Sort::Voice,
        "file" => Sort::File,
        other => return Err(nonsense(&format!("it calls the content {other}"))),
    };
    let small = told.small.as_ref();
    Ok(pb::Media {
        small_hash: small.map_or(Ok(bytes::Bytes::new()), |small| bytes(&small.hash))?,
        small_size: small.map_or(0, |small| small.size),
        sort: sort.into(),
        hash: bytes(&told.hash)?,
        key: bytes(&told.key)?,
        file_id: told.file_id,
        size: told.size,
        content_type: told.content_type,
        ..pb::Media::default()
    })
}

fn header(response: &Response<Body>, name: &str) -> Option<String> {
    let value = response.headers().get(name)?;
    value.to_str().ok().map(str::to_owned)
}

/// The hash of all that a file has.
fn hash_of(file: &mut File) -> io::Result<blake3::Hash> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = blake3::Hasher::new();
    io::copy(file, &mut hasher)?;
    Ok(hasher.finalize())
}

/// Where a download is until it is whole.
fn beside(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// A name for display, no longer than a pointer takes.
fn shortened(name: &str) -> String {
    let end = name.floor_char_boundary(crate::model::limits::FILE_NAME_BYTES);
    name[..end].to_owned()
}

fn file_error(path: &Path, why: io::Error) -> MediaError {
    MediaError::File {
        path: path.display().to_string(),
        why,
    }
}

fn nonsense(why: &str) -> MediaError {
    MediaError::Nonsense(why.to_owned())
}
