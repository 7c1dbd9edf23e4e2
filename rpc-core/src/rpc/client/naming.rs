//! Naming: servers say where they are in a ZooKeeper ensemble, and whoever calls them follows.
//!
//! Knows: the nodes of a path, sessions that end and begin again.   Does not know: links, calls.
//!
//! A path is written `zk://HOST:PORT,HOST:PORT,…/PATH`. Each server has an ephemeral node below it, which holds
//! its [`Place`] as text: the address, a space, the weight.
//!
//! Invariants
//! - NM-1  A server's node goes with its session. When a session ends although the server lives, another is
//!   opened and the node made again, as long as its [`Registration`] lives.
//! - NM-2  What was read last stands until something else is read: while the ensemble is away, and while
//!   nobody at all is registered, the places known before are still there.
//! - NM-3  Bounded: [`PLACES`]; each follower and each registration has one session, and watches one path.
//!
//! Read first: [`Registration`], then [`Names`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::backoff::Backoff;
use super::channel::home;
use super::target::check_address;
use super::zookeeper::{Event, Fault, Kind, Session, ZooKeeper};
use crate::base::lock::SpinLock;
use crate::base::rng::Rng;
use crate::net::wait;
use crate::rpc::error::Error;
use crate::runtime::{JoinHandle, sleep};

/// Servers of one path that are read; more are left out.
pub const PLACES: usize = 1024;
/// A server that the ensemble has not heard of for so long is not there.
const SESSION: Duration = Duration::from_secs(4);
/// How often the path is read although nothing was told.
const READ: Duration = Duration::from_secs(30);
/// Pause before something is tried again that the ensemble could not do.
const AGAIN: Duration = Duration::from_millis(500);

/// Where a server is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// HOST:PORT, or `unix:PATH`.
    pub address: String,
    /// Share of the calls it should get, in comparison with others: at least 1.
    pub weight: u32,
}

/// A server's node in the ensemble: made again when its session is lost, gone soon after this is dropped.
///
/// Give it to [`BoundServer::until_drain`](crate::BoundServer::until_drain), so that nobody is sent to a server that
/// is about to end.
#[derive(Debug)]
pub struct Registration {
    _work: Work,
}

/// The servers of a path, followed in the background.
pub struct Names {
    known: Arc<SpinLock<Arc<[Place]>>>,
    _work: Work,
}

/// What a follower has learned.
pub(super) enum News {
    /// The servers there are, at least one, sorted by address.
    Places(Vec<Place>),
    /// There are none, or none can be read, for this reason.
    Trouble(String),
}

/// A path of an ensemble.
#[derive(Clone)]
pub(super) struct Path {
    text: String,
    ensemble: ZooKeeper,
    path: String,
}

/// A coroutine that ends with this.
struct Work(JoinHandle<()>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("in the background")
    }
}

impl Place {
    /// A server with weight 1.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            weight: 1,
        }
    }

    /// As a node holds it.
    fn parse(data: &[u8]) -> Option<Self> {
        let (address, weight) = std::str::from_utf8(data).ok()?.rsplit_once(' ')?;
        let weight = weight.parse().ok().filter(|weight| *weight > 0)?;
        check_address(address).ok()?;
        Some(Self {
            address: address.to_owned(),
            weight,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.address, self.weight)
    }
}

impl Registration {
    /// Begins to say at `zk://HOST:PORT,…/PATH` that a server is at `place`; the ensemble need not be there yet.
    ///
    /// # Errors
    /// A path or a place that is none, or the background runtime could not be started.
    pub fn begin(path: &str, place: Place) -> Result<Self, Error> {
        let path = Path::parse(path)?;
        check_address(&place.address)?;
        if place.weight == 0 {
            let text = format!("{} has weight 0: give at least 1", place.address);
            return Err(Error::Config(text));
        }
        let work = move || path.attend(|session| stay_registered(&path, session, &place), |_| {});
        Ok(Self {
            _work: Work(home()?.spawn(work)),
        })
    }
}

impl Names {
    /// Begins to follow the servers at `zk://HOST:PORT,…/PATH`; the ensemble need not be there yet.
    ///
    /// # Errors
    /// A path that is none, or the background runtime could not be started.
    pub fn follow(path: &str) -> Result<Self, Error> {
        let path = Path::parse(path)?;
        let known = Arc::new(SpinLock::new(Arc::default()));
        let told = Arc::clone(&known);
        let follower = Follower::start(path, move |news| {
            if let News::Places(places) = news {
                // The old list is dropped outside the lock.
                let _old = std::mem::replace(&mut *told.lock(), places.into());
            }
        });
        Ok(Self {
            known,
            _work: follower?.0,
        })
    }

    /// The servers, sorted by address; none before the first time that one was found.
    pub fn places(&self) -> Arc<[Place]> {
        Arc::clone(&self.known.lock())
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.places().iter()).finish()
    }
}

/// Tells what is registered at a path, as long as it lives.
pub(super) struct Follower(Work);

impl Follower {
    pub fn start(path: Path, tell: impl Fn(News) + Send + 'static) -> Result<Self, Error> {
        let work = move || {
            let trouble = |fault: Fault| {
                let text = format!("the servers at {} cannot be read: {fault}", path.text);
                tell(News::Trouble(text));
            };
            path.attend(|session| follow(&path, session, &tell), trouble);
        };
        Ok(Self(Work(home()?.spawn(work))))
    }
}

impl Path {
    /// `zk://HOST:PORT,…/PATH`.
    ///
    /// # Errors
    /// Text that is no such path.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || {
            let expected = "expected zk://HOST:PORT,HOST:PORT,…/PATH";
            Error::Config(format!("{text:?} names no servers: {expected}"))
        };
        let rest = text.strip_prefix(SCHEME).ok_or_else(wrong)?;
        let (ensemble, path) = ZooKeeper::with_path(rest)?;
        if path.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            text: text.to_owned(),
            ensemble,
            path,
        })
    }

    /// Does `work` with a session, and again with another one when that is over; until the coroutine is cancelled.
    fn attend(&self, work: impl Fn(&Session) -> Result<(), Fault>, trouble: impl Fn(Fault)) {
        let mut backoff = Backoff::new(Rng::from_entropy());
        while !wait::is_cancelled() {
            let session = self.ensemble.open(SESSION);
            let outcome = session.and_then(|session| {
                backoff.reset();
                work(&session)
            });
            if let Err(fault) = outcome
                && !wait::is_cancelled()
            {
                tracing::warn!(path = self.text, %fault, "naming begins again");
                trouble(fault);
                sleep(backoff.next());
            }
        }
    }
}

/// Has a node, until the session or this coroutine ends.
fn stay_registered(path: &Path, session: &Session, place: &Place) -> Result<(), Fault> {
    let name = format!("{}/server-", path.path);
    let data = place.to_string();
    loop {
        let made = session
            .create_all(&path.path)
            .and_then(|()| session.create(&name, data.as_bytes(), Kind::EphemeralSequence));
        match made {
            Ok(node) => {
                tracing::info!(node, place = data, "registered");
                break;
            }
            // A node that was made although nobody heard of it does no harm: both go with the session.
            Err(fault) if is_passing(&fault) => pause(session, AGAIN)?,
            Err(fault) => return Err(fault),
        }
        if wait::is_cancelled() {
            return Ok(());
        }
    }
    while !wait::is_cancelled() {
        pause(session, READ)?;
    }
    Ok(())
}

/// Tells what is there, again and again, until the session or this coroutine ends.
fn follow(path: &Path, session: &Session, tell: &impl Fn(News)) -> Result<(), Fault> {
    session.watch(&path.path)?;
    // By node: what it holds never changes.
    let mut known: BTreeMap<String, Option<Place>> = BTreeMap::new();
    while !wait::is_cancelled() {
        let wait = match read(path, session, &mut known) {
            Ok(()) => {
                tell(news(path, known.values().flatten()));
                READ
            }
            Err(fault) if is_passing(&fault) => AGAIN,
            Err(fault) => return Err(fault),
        };
        pause(session, wait)?;
    }
    Ok(())
}

/// Reads what is new, and forgets what has gone.
fn read(
    path: &Path,
    session: &Session,
    known: &mut BTreeMap<String, Option<Place>>,
) -> Result<(), Fault> {
    let mut nodes = session.children(&path.path)?.unwrap_or_default();
    if nodes.len() > PLACES {
        tracing::warn!(
            path = path.text,
            servers = nodes.len(),
            "only {PLACES} servers are used"
        );
        nodes.truncate(PLACES);
    }
    known.retain(|node, _| nodes.binary_search(node).is_ok());
    for node in nodes {
        if known.contains_key(&node) {
            continue;
        }
        let at = format!("{}/{node}", path.path);
        // Gone meanwhile: the next event says so.
        if let Some(found) = session.read(&at)? {
            let place = Place::parse(&found.data);
            if place.is_none() {
                tracing::warn!(
                    node = at,
                    "the node holds no ADDRESS WEIGHT and is left out"
                );
            }
            known.insert(node, place);
        }
    }
    Ok(())
}

fn news<'a>(path: &Path, places: impl Iterator<Item = &'a Place>) -> News {
    // A server that was started again has two nodes for a while.
    let places: BTreeMap<&str, &Place> = places.map(|place| (&*place.address, place)).collect();
    if places.is_empty() {
        return News::Trouble(format!("no server is registered at {}", path.text));
    }
    News::Places(places.into_values().cloned().collect())
}

/// Waits for the next event, at most so long.
fn pause(session: &Session, wait: Duration) -> Result<(), Fault> {
    match session.next_event(wait) {
        Some(Event::Expired) => Err(Fault::Expired),
        _ => Ok(()),
    }
}

/// Whether the same session may yet do it.
fn is_passing(fault: &Fault) -> bool {
    matches!(fault, Fault::Unreachable(_) | Fault::Lost(_) | Fault::Full)
}

/// What a target begins with that names servers by a path.
pub(super) const SCHEME: &str = "zk://";

#[cfg(test)]
mod tests {
    use super::*;

    fn place(address: &str, weight: u32) -> Place {
        Place {
            address: address.to_owned(),
            weight,
        }
    }

    #[test]
    fn a_place_reads_as_it_was_written_and_nonsense_is_none() {
        for place in [place("a:1", 1), place("[::1]:80", 7), place("unix:/a b", 2)] {
            assert_eq!(Place::parse(place.to_string().as_bytes()), Some(place));
        }
        for wrong in ["", "a:1", "a:1 ", "a:1 0", "a:1 -1", "a:0 1", "a 1", " 1"] {
            assert_eq!(Place::parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(Place::parse(b"\xff 1"), None);
    }

    #[test]
    fn a_path_that_is_none_says_what_was_expected() {
        for wrong in [
            "zk://",
            "zk://a:1",
            "zk://a:1/",
            "zk:/a:1/x",
            "zk://a/x",
            "zk://a:1//x",
        ] {
            let text = Path::parse(wrong).err().unwrap().to_string();
            assert!(text.contains("expected"), "{wrong}: {text}");
        }
        assert!(Path::parse("zk://a:1,b:2/x/y").is_ok());
        assert!(Registration::begin("zk://a:1/x", place("a:1", 0)).is_err());
    }

    #[test]
    fn two_nodes_of_one_server_are_one_and_none_is_said_with_the_path() {
        let path = Path::parse("zk://a:1/x").ok().unwrap();
        let nodes = [place("b:1", 1), place("a:1", 1), place("b:1", 3)];
        let News::Places(places) = news(&path, nodes.iter()) else {
            panic!("there are two")
        };
        assert_eq!(places, [place("a:1", 1), place("b:1", 3)]);
        let News::Trouble(why) = news(&path, [].iter()) else {
            panic!("there is none")
        };
        assert!(why.contains("zk://a:1/x"), "{why}");
    }
}
