//! Other edges, asked for what is not here.
//!
//! Knows: the HTTP of an edge, from the other end.   Does not know: what is kept here.

use std::time::Duration;

use rpc_core::MetadataMap;
use ureq::Body;
use ureq::http::Response;

use super::form::Form;
use super::http::PREFIX;
use super::piece::Sight;
use super::ticket::{Id, Key};

/// Of a request from edge to edge: whoever gets it answers from what it has, or no edge would ever say no.
const HOP: &str = "x-edge-hop";
/// Time for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Time for a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// What is wanted, and what it takes to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    pub(super) id: Id,
    pub(super) sight: Sight,
    pub(super) key: Key,
}

/// A part of what is wanted.
pub(super) struct Part {
    pub(super) bytes: Vec<u8>,
    /// Of the whole.
    pub(super) hash: blake3::Hash,
    /// Of the whole.
    pub(super) size: u64,
    pub(super) form: Form,
}

/// Why it does not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Away {
    /// Nobody has it, or not under that key.
    Unknown,
    /// Somebody may have it and does not give it.
    Silent(String),
}

/// Whoever may have what is not here.
pub(super) trait Origin: Send + Sync + 'static {
    /// At most `most` bytes from `from` on; fewer only at the end.
    ///
    /// # Errors
    /// [`Away`].
    fn get(&self, wanted: &Wanted, from: u64, most: u64) -> Result<Part, Away>;
}

/// Edges, asked one after the other.
pub(super) struct Edges {
    addresses: Vec<String>,
    agent: ureq::Agent,
}

impl Edges {
    /// At these addresses (HOST:PORT).
    pub(super) fn new(addresses: &[String]) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER))
            .timeout_connect(Some(CONNECT))
            .http_status_as_error(false);
        Self {
            addresses: addresses.to_vec(),
            agent: ureq::Agent::new_with_config(config.build()),
        }
    }

    fn ask(&self, address: &str, wanted: &Wanted, from: u64, most: u64) -> Result<Part, Away> {
        let Wanted { id, sight, key } = wanted;
        let what = match sight {
            Sight::Whole => "",
            Sight::Small => "/small",
        };
        let url = format!("http://{address}{PREFIX}objects/{id}{what}?key={key}");
        let silent = |why: &str| Away::Silent(format!("{address}: {why}"));
        let asked = self.agent.get(url).header(HOP, "1");
        let asked = asked.header("range", format!("bytes={from}-{}", from + most - 1));
        let mut response = asked.call().map_err(|error| silent(&error.to_string()))?;
        match response.status().as_u16() {
            206 => {}
            403 | 404 => return Err(Away::Unknown),
            status => return Err(silent(&format!("status {status}"))),
        }
        let told = read_head(&response).ok_or_else(|| silent("it answers as no edge does"))?;
        let (hash, size, form) = told;
        let body = response.body_mut().with_config().limit(most);
        let bytes = body
            .read_to_vec()
            .map_err(|error| silent(&error.to_string()))?;
        if bytes.len() as u64 != most.min(size.saturating_sub(from)) {
            return Err(silent("it gives another range than was asked for"));
        }
        Ok(Part {
            bytes,
            hash,
            size,
            form,
        })
    }
}

impl Origin for Edges {
    fn get(&self, wanted: &Wanted, from: u64, most: u64) -> Result<Part, Away> {
        let mut away = Away::Unknown;
        for address in &self.addresses {
            match self.ask(address, wanted, from, most) {
                Err(Away::Unknown) => {}
                Err(silent) => away = silent,
                part => return part,
            }
        }
        Err(away)
    }
}

/// Whether a request comes from another edge.
pub(super) fn is_from_edge(headers: &MetadataMap) -> bool {
    headers.contains_key(HOP)
}

/// Hash, size and type of the whole, as an edge tells them.
fn read_head(response: &Response<Body>) -> Option<(blake3::Hash, u64, Form)> {
    let header = |name: &str| response.headers().get(name)?.to_str().ok();
    let hash = header("etag")?.trim_matches('"');
    let (_, size) = header("content-range")?.rsplit_once('/')?;
    Some((
        blake3::Hash::from_hex(hash).ok()?,
        size.parse().ok()?,
        Form::named(header("content-type")?)?,
    ))
}
