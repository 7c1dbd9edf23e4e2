//! Where to connect from the network that this device is in: dispatch is asked, what it said is remembered.
//!
//! Knows:       dispatch over HTTP, which network this device is in (by its own address), what worked there.
//! Does not know: how an attempt is made, links.
//!
//! Dispatch is asked before the first connection in a network. Later ones go by what it said last there, and ask again
//! meanwhile, for the next time: what was near may be full, draining or gone, but then that costs one attempt, and
//! asking first costs one every time. Where it does not answer, what it said before serves, and without that the
//! addresses that the terminal was given. The point that was used last stays first while dispatch finds it about as
//! good as the best. What an attempt took is reported, by the way.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc_core::base::time::Instant;
use serde::{Deserialize, Serialize};

use super::connection::{Attempt, Connection, Way, connect, resolve};
use super::error::TerminalError;
use super::race::History;
use crate::model::Prefix;
use crate::task::spawn;

/// Time for dispatch to be connected to, and to answer.
const ASK: Duration = Duration::from_secs(3);
/// What dispatch said is gone by unasked for so long after it was asked last.
const FRESH: Duration = Duration::from_secs(600);
/// Dispatch processes that are asked.
const DISPATCHES: usize = 8;
/// Bytes of an answer.
const ANSWER_BYTES: usize = 64 << 10;
/// Networks remembered; the one unused for longest goes first.
const NETWORKS: usize = 16;
/// Candidates taken from an answer.
const CANDIDATES: usize = super::race::ADDRESSES;
/// Addresses of one network share so many bits (IPv4; of IPv6 twice as many).
const NETWORK_BITS: u8 = 24;

/// How a terminal finds the backend.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// HOST:PORT of access processes' long links, with commas between: where dispatch is not asked or never answered.
    pub address: String,
    /// HOST:PORT of dispatch processes, with commas between; the first answer counts.
    pub dispatch: Option<String>,
    /// The address of this device to connect from; `None` = as the system chooses.
    pub local: Option<IpAddr>,
    /// Where what is remembered outlives the process; `None` = it does not.
    pub memory: Option<PathBuf>,
}

/// Finds addresses and connects to them. One for each terminal.
#[derive(Debug)]
pub struct Finder {
    place: Place,
    memory: Arc<Mutex<Memory>>,
    history: Mutex<History>,
    /// The network that dispatch was asked in last, and when. What another process was told is not gone by unasked.
    asked: Mutex<Option<(Prefix, Instant)>>,
}

/// What dispatch said, network by network; the newest first.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
struct Memory {
    networks: Vec<Known>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Known {
    network: Prefix,
    candidates: Vec<Candidate>,
    /// The one that was used last.
    last: Option<SocketAddr>,
}

/// As dispatch writes it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Candidate {
    address: String,
    #[serde(default)]
    weight: u32,
}

#[derive(Debug, Deserialize)]
struct Located {
    #[serde(default)]
    candidates: Vec<Candidate>,
}

#[derive(Debug, Serialize)]
struct Report {
    measured: Vec<Measured>,
}

#[derive(Debug, Serialize)]
struct Measured {
    address: String,
    ms: u32,
    failed: bool,
}

impl Finder {
    /// Reads what is remembered; a file that is not there or makes no sense is as an empty one.
    #[must_use]
    pub fn new(place: Place) -> Self {
        let read = |file: &PathBuf| serde_json::from_slice(&std::fs::read(file).ok()?).ok();
        let memory = place.memory.as_ref().and_then(read);
        Self {
            memory: Arc::new(Mutex::new(memory.unwrap_or_default())),
            history: Mutex::default(),
            asked: Mutex::default(),
            place,
        }
    }

    /// The addresses to try now, in this order.
    ///
    /// # Errors
    /// [`TerminalError::Unreachable`] when neither dispatch nor memory nor the addresses given know any.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, TerminalError> {
        let Some(dispatch) = &self.place.dispatch else {
            return resolve(&self.place.address);
        };
        let network = self.network(dispatch);
        let before = {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.replace((network, Instant::now()))
        };
        let fresh = before.is_some_and(|(then, when)| then == network && when.elapsed() < FRESH);
        let asking = Asking {
            dispatch: dispatch.clone(),
            place: self.place.clone(),
            memory: Arc::clone(&self.memory),
        };
        if fresh {
            let known = self.memory().order(network);
            if !known.is_empty() {
                spawn("terminal-locate", move || {
                    if let Err(why) = asking.ask(network) {
                        tracing::debug!(why, "dispatch does not say where to connect");
                    }
                });
                return Ok(known);
            }
        }
        let why = asking
            .ask(network)
            .err()
            .unwrap_or_else(|| "it names no address".to_owned());
        let known = self.memory().order(network);
        if !known.is_empty() {
            return Ok(known);
        }
        tracing::debug!(dispatch, why, "dispatch does not say where to connect");
        resolve(&self.place.address).map_err(|error| TerminalError::Unreachable {
            address: dispatch.clone(),
            why: format!("{why}; and without it: {error}"),
        })
    }

    /// A connection to the first of [`Finder::addresses`] that answers.
    ///
    /// # Errors
    /// [`TerminalError::Unreachable`], with the last address's fault.
    pub fn open(&self) -> Result<Connection, TerminalError> {
        let addresses = self.addresses()?;
        let mut attempts = Vec::new();
        let way = Way {
            local: self.place.local,
            asks: addresses.len() > 1 || self.place.dispatch.is_some(),
        };
        let opened = Connection::race(&addresses, way, &self.history, &mut attempts);
        let Some(dispatch) = &self.place.dispatch else {
            return opened;
        };
        let won = attempts.iter().find(|attempt| attempt.ok);
        if let Some(won) = won.map(|won| won.address) {
            let network = self.network(dispatch);
            remember(&self.memory, &self.place, |memory| {
                memory.used(network, won)
            });
        }
        report(dispatch.clone(), self.place.local, attempts);
        opened
    }

    /// The network that this device is in, as far as its own address says.
    fn network(&self, dispatch: &str) -> Prefix {
        let unknown = IpAddr::from([0, 0, 0, 0]);
        let local = self.place.local.or_else(|| local_towards(dispatch));
        let local = local.unwrap_or(unknown);
        let bits = if local.is_ipv4() {
            NETWORK_BITS
        } else {
            2 * NETWORK_BITS
        };
        Prefix::around(local, bits)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What it takes to ask where to connect.
struct Asking {
    dispatch: String,
    place: Place,
    memory: Arc<Mutex<Memory>>,
}

impl Asking {
    /// Asks, and remembers the answer.
    fn ask(&self, network: Prefix) -> Result<(), String> {
        let nothing = serde_json::json!({});
        let answer = ask(
            &self.dispatch,
            self.place.local,
            "Dispatch/Locate",
            &nothing,
        )?;
        let located: Located = serde_json::from_slice(&answer)
            .map_err(|error| format!("its answer makes no sense: {error}"))?;
        remember(&self.memory, &self.place, |memory| {
            memory.learn(network, located.candidates);
        });
        Ok(())
    }
}

/// Changes what is remembered, in the file as well.
fn remember(memory: &Mutex<Memory>, place: &Place, change: impl FnOnce(&mut Memory)) {
    let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    let before = memory.clone();
    change(&mut memory);
    if let Some(file) = &place.memory
        && before != *memory
        && let Err(error) = write(file, &memory)
    {
        tracing::warn!(file = %file.display(), %error, "what is known of networks cannot be kept");
    }
}

impl Memory {
    /// What dispatch says now. An answer without candidates changes nothing.
    fn learn(&mut self, network: Prefix, mut candidates: Vec<Candidate>) {
        candidates.retain(|candidate| candidate.address.parse::<SocketAddr>().is_ok());
        candidates.truncate(CANDIDATES);
        if candidates.is_empty() {
            return;
        }
        let last = self.known(network).and_then(|known| known.last);
        self.networks.retain(|known| known.network != network);
        self.networks.insert(
            0,
            Known {
                network,
                candidates,
                last,
            },
        );
        self.networks.truncate(NETWORKS);
    }

    fn used(&mut self, network: Prefix, address: SocketAddr) {
        let known = self
            .networks
            .iter_mut()
            .find(|known| known.network == network);
        if let Some(known) = known {
            known.last = Some(address);
        }
    }

    /// What was said last, but first what was used last, if it is no more than half as good as the best.
    fn order(&self, network: Prefix) -> Vec<SocketAddr> {
        let Some(known) = self.known(network) else {
            return Vec::new();
        };
        let best = known
            .candidates
            .iter()
            .map(|candidate| candidate.weight)
            .max();
        let mut order: Vec<(bool, SocketAddr)> = known
            .candidates
            .iter()
            .filter_map(|candidate| {
                let address = candidate.address.parse().ok()?;
                let good = candidate.weight >= best.unwrap_or(0) / 2;
                Some((good && known.last == Some(address), address))
            })
            .collect();
        order.sort_by_key(|(sticky, _)| !sticky);
        order.into_iter().map(|(_, address)| address).collect()
    }

    fn known(&self, network: Prefix) -> Option<&Known> {
        self.networks.iter().find(|known| known.network == network)
    }
}

/// Tells dispatch what attempts took, beside what the caller does next. What is lost is lost.
fn report(dispatch: String, local: Option<IpAddr>, attempts: Vec<Attempt>) {
    let measured = attempts.into_iter().map(|attempt| Measured {
        address: attempt.address.to_string(),
        ms: attempt.took.as_millis().try_into().unwrap_or(u32::MAX),
        failed: !attempt.ok,
    });
    let measured: Vec<_> = measured.collect();
    if measured.is_empty() {
        return;
    }
    spawn("terminal-report", move || {
        if let Err(why) = ask(&dispatch, local, "Dispatch/Report", &Report { measured }) {
            tracing::debug!(dispatch, why, "dispatch does not take a report");
        }
    });
}

/// The address that the system would connect from. Nothing is sent.
fn local_towards(dispatch: &str) -> Option<IpAddr> {
    let first = resolve(dispatch).ok()?.into_iter().next()?;
    let any: IpAddr = match first {
        SocketAddr::V4(_) => [0, 0, 0, 0].into(),
        SocketAddr::V6(_) => [0_u16; 8].into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(first).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The answer of whichever dispatch process is first: all are asked at once, since which is near is what nobody knows
/// yet.
fn ask(
    dispatch: &str,
    local: Option<IpAddr>,
    method: &'static str,
    question: &impl Serialize,
) -> Result<Vec<u8>, String> {
    let body = serde_json::to_vec(question).map_err(|error| error.to_string())?;
    let addresses = resolve(dispatch).map_err(|error| error.to_string())?;
    let (answered, answers) = sync_channel(DISPATCHES);
    for address in addresses.into_iter().take(DISPATCHES) {
        let (answered, body) = (answered.clone(), body.clone());
        spawn("terminal-ask", move || {
            let answer = post(address, local, method, &body);
            // Nobody listens once another has answered.
            let _ = answered.try_send(answer.map_err(|error| format!("{address}: {error}")));
        });
    }
    drop(answered);
    let mut why = "no address of dispatch is given".to_owned();
    for answer in answers {
        match answer {
            Ok(answer) => return Ok(answer),
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// One call over HTTP/JSON: a thin client needs no more of HTTP than this.
fn post(
    address: SocketAddr,
    local: Option<IpAddr>,
    method: &str,
    body: &[u8],
) -> std::io::Result<Vec<u8>> {
    let until = Instant::now() + ASK;
    let mut stream = connect(address, local, ASK)?;
    let head = format!(
        "POST /wechat.dispatch.{method} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.set_write_timeout(Some(ASK))?;
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut answer = Vec::new();
    loop {
        if let Some(body) = whole(&answer)? {
            return Ok(body);
        }
        if answer.len() >= ANSWER_BYTES {
            return Err(std::io::Error::other("the answer is too long"));
        }
        read_some(&mut stream, &mut answer, until)?;
    }
}

fn read_some(stream: &mut TcpStream, answer: &mut Vec<u8>, until: Instant) -> std::io::Result<()> {
    let left = until.saturating_since(Instant::now());
    if left.is_zero() {
        return Err(std::io::ErrorKind::TimedOut.into());
    }
    stream.set_read_timeout(Some(left))?;
    let mut bytes = [0; 4 << 10];
    match stream.read(&mut bytes)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        length => {
            answer.extend_from_slice(&bytes[..length]);
            Ok(())
        }
    }
}

/// The body of an answer that is there as a whole.
fn whole(answer: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(answer).map_err(std::io::Error::other)?;
    let httparse::Status::Complete(start) = parsed else {
        return Ok(None);
    };
    let length = head
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| {
            str::from_utf8(header.value)
                .ok()?
                .trim()
                .parse::<usize>()
                .ok()
        })
        .ok_or_else(|| std::io::Error::other("the answer does not say how long it is"))?;
    let Some(body) = answer.get(start..).and_then(|rest| rest.get(..length)) else {
        return Ok(None);
    };
    if head.code != Some(200) {
        let text = String::from_utf8_lossy(body).into_owned();
        return Err(std::io::Error::other(text));
    }
    Ok(Some(body.to_vec()))
}

/// In one step: a process that dies meanwhile leaves the old or the new.
fn write(file: &Path, memory: &Memory) -> std::io::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(memory)?)?;
    std::fs::rename(&new, file)
}

#[cfg(test)]
mod tests;
