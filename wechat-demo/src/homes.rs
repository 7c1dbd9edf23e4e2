//! Homes: which there are, where their storage processes are, and the way to the one that serves.
//!
//! Knows:       names and addresses of homes, who serves in the highest epoch.
//! Does not know: what is asked of them, what lives there.
//!
//! Every storage process says in which epoch it knows its store and whether it serves. The one that serves
//! in the highest epoch gets the calls. A scout asks all of them all the time, so that nobody has to wait
//! for one that has stopped to learn that another serves.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use rpc_core::{CallOptions, Code, Response, Status, sync::Mutex};

use crate::{
    coordinator::names::{Clients, Known},
    model::HomeId,
    proto::storage as pb,
};

/// Flags that say which homes there are.
#[derive(Args, Clone, Debug, Default)]
pub struct HomesFlags {
    /// The home this process belongs to, one of --homes
    #[arg(long, value_name = "NAME", requires = "homes")]
    pub home: Option<String>,
    /// A home and its storage processes (HOST:PORT,… or zk://HOST:PORT,…/PATH), once for each home, everywhere and
    /// always in the same order: ids have it
    #[arg(long, value_name = "NAME=HOST:PORT,…", requires = "home")]
    pub homes: Vec<String>,
}

/// All homes, as one process sees them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Homes {
    /// Its own.
    pub own: HomeId,
    /// Names and addresses, by id; none where there is but one home.
    all: Vec<(String, Vec<String>)>,
}

impl HomesFlags {
    /// What they say.
    pub fn read(&self) -> anyhow::Result<Homes> {
        let Some(own) = &self.home else {
            return Ok(Homes::default());
        };
        let most = usize::from(HomeId::MAX.0) + 1;
        ensure!(self.homes.len() <= most, "--homes: at most {most} of them");
        let mut all: Vec<(String, Vec<String>)> = Vec::with_capacity(self.homes.len());
        for home in &self.homes {
            let Some((name, addresses)) = home.split_once('=') else {
                bail!("--homes {home}: give NAME=HOST:PORT,…");
            };
            let twice = all.iter().any(|(known, _)| known == name);
            ensure!(
                !name.is_empty() && !twice,
                "--homes {home}: the name is empty or there twice"
            );
            all.push((
                name.to_owned(),
                addresses.split(',').map(str::to_owned).collect(),
            ));
        }
        let at = all.iter().position(|(name, _)| name == own);
        let at = at.with_context(|| format!("--home {own}: none of --homes has this name"))?;
        let own = HomeId(at as u8);
        Ok(Homes { own, all })
    }
}

impl Homes {
    /// The own one's name; none where there is but one.
    pub fn name(&self) -> Option<&str> {
        let own = self.all.get(usize::from(self.own.0));
        own.map(|(name, _)| name.as_str())
    }

    /// Ids, names and addresses of all of them.
    pub fn iter(&self) -> impl Iterator<Item = (HomeId, &str, &[String])> {
        let ids = (0..).map(HomeId);
        ids.zip(&self.all)
            .map(|(id, (name, addresses))| (id, name.as_str(), addresses.as_slice()))
    }
}

/// The storage processes of one home.
pub struct HomeClient {
    known: Arc<Mutex<Processes>>,
}

/// What is known of them.
struct Processes {
    clients: Known<pb::StorageClient>,
    /// The one that serves, as far as is known; the next call begins there.
    current: usize,
}

/// Longer than a primary waits for a commit, so that its own words arrive.
const DEADLINE: Duration = Duration::from_secs(12);
/// A process that takes longer to say who it is does not serve.
const DESCRIBE: Duration = Duration::from_millis(300);
/// Pause between two looks at all of them.
const SCOUT: Duration = Duration::from_millis(200);

impl HomeClient {
    /// Begins to connect to `HOST:PORT,…`, or to whoever is registered at `zk://HOST:PORT,…/PATH`; nobody need be
    /// there yet. `flag` is what named them.
    ///
    /// # Errors
    /// Addresses or a path that are none.
    pub fn new(flag: &str, addresses: &[String]) -> anyhow::Result<Self> {
        let client = pb::StorageClient::new;
        let mut clients = Clients::new(flag, addresses, DEADLINE, client)?;
        let known = Arc::new(Mutex::new(Processes {
            clients: Arc::clone(clients.now()),
            current: 0,
        }));
        let told = Arc::downgrade(&known);
        std::thread::Builder::new()
            .name("scout".to_owned())
            .spawn(move || scout(clients, &told))
            .context("a thread cannot start")?;
        Ok(Self { known })
    }

    /// Calls one process after the other, as long as the call certainly did not run.
    ///
    /// # Errors
    /// What the last one that was asked answered.
    pub fn call<Out>(
        &self,
        call: impl Fn(&pb::StorageClient) -> Result<Response<Out>, Status>,
    ) -> Result<Out, Status> {
        let (clients, first) = {
            let known = self.known.lock();
            (Arc::clone(&known.clients), known.current)
        };
        let mut outcome = Err(Status::unavailable("no storage process is known yet"));
        for step in 0..clients.len() {
            let at = (first + step) % clients.len();
            outcome = call(&clients[at].1);
            if !outcome.as_ref().is_err_and(elsewhere) {
                if step > 0 {
                    self.known.lock().serves(&clients, at);
                }
                break;
            }
        }
        outcome.map(Response::into_inner)
    }
}

impl Processes {
    /// Takes in who is there now.
    fn renew(&mut self, clients: &Known<pb::StorageClient>) {
        if !Arc::ptr_eq(&self.clients, clients) {
            let before = self.clients.get(self.current).map(|known| &known.0);
            let same = clients.iter().position(|known| Some(&known.0) == before);
            self.current = same.unwrap_or(0);
            self.clients = Arc::clone(clients);
        }
    }

    /// One of `clients` serves; it is of no use where others are known meanwhile.
    fn serves(&mut self, clients: &Known<pb::StorageClient>, at: usize) {
        if Arc::ptr_eq(&self.clients, clients) {
            self.current = at;
        }
    }
}

/// Asks all processes, again and again, which of them serves; as long as somebody wants to know.
fn scout(mut clients: Clients<pb::StorageClient>, known: &Weak<Mutex<Processes>>) {
    while let Some(told) = known.upgrade() {
        let clients = clients.now();
        told.lock().renew(clients);
        let serving = clients.iter().enumerate().filter_map(|(at, (_, client))| {
            let options = CallOptions::new().deadline(DESCRIBE);
            let reply = client.describe_with(pb::DescribeRequest {}, options).ok()?;
            reply.serving.then_some((reply.epoch, at))
        });
        if let Some((_, at)) = serving.max() {
            told.lock().serves(clients, at);
        }
        drop(told);
        std::thread::sleep(SCOUT);
    }
}

/// Whether another process may do what this one certainly did not.
fn elsewhere(status: &Status) -> bool {
    status.never_ran() && status.code() == Code::Unavailable
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(home: &str, homes: &[&str]) -> HomesFlags {
        HomesFlags {
            home: Some(home.to_owned()),
            homes: homes.iter().map(|&home| home.to_owned()).collect(),
        }
    }

    #[test]
    fn homes_have_their_ids_by_their_order() {
        let homes = flags("hk", &["sh=a:1,b:2", "hk=c:3"]).read().unwrap();
        assert_eq!((homes.own, homes.name()), (HomeId(1), Some("hk")));
        let all: Vec<_> = homes
            .iter()
            .map(|(id, name, at)| (id.0, name, at.len()))
            .collect();
        assert_eq!(all, [(0, "sh", 2), (1, "hk", 1)]);
        assert_eq!(HomesFlags::default().read().unwrap(), Homes::default());
    }

    #[test]
    fn what_cannot_be_is_said() {
        for (home, homes, word) in [
            ("ca", vec!["sh=a:1"], "--home ca"),
            ("sh", vec!["sh"], "NAME=HOST:PORT"),
            ("sh", vec!["sh=a:1", "sh=b:1"], "twice"),
        ] {
            let error = flags(home, &homes).read().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
