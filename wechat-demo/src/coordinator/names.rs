//! Where processes of a role are: listed one by one, or registered in a ZooKeeper ensemble.
//!
//! Knows: the two ways to write it as a flag, channels.   Does not know: what is called, which process serves.
//!
//! `HOST:PORT,HOST:PORT,…` lists them. `zk://HOST:PORT,…/PATH` is a path at which they register themselves
//! ([`NameFlags`]); who comes and goes there is followed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use rpc_core::naming::{Names, Place, Registration};
use rpc_core::{Balance, BoundServer, Channel};

/// Where a process says that it is there.
#[derive(Args, Clone, Debug, Default)]
pub struct NameFlags {
    /// Path of a ZooKeeper ensemble (3.6 or later) at which to register where this process listens, for those who
    /// look there
    #[arg(long, value_name = "zk://HOST:PORT,…/PATH")]
    pub register: Option<String>,
}

impl NameFlags {
    /// Has the server registered, if that was asked for, until it drains.
    ///
    /// # Errors
    /// A path that is none, an address at which nobody could reach the server.
    pub fn announce(&self, server: BoundServer) -> anyhow::Result<BoundServer> {
        let Some(path) = &self.register else {
            return Ok(server);
        };
        let address = server.local_addr();
        if address.ip().is_unspecified() {
            bail!("--register: --listen {address} does not say where others reach this process");
        }
        let registration = Registration::begin(path, Place::new(address.to_string()));
        Ok(server.until_drain(registration.context("--register")?))
    }
}

/// A channel to the processes that `flag` names, each of which may answer any call: whoever has less to do gets it.
/// Nobody need be there yet.
///
/// # Errors
/// Addresses or a path that are none.
pub fn channel(flag: &str, addresses: &[String], deadline: Duration) -> anyhow::Result<Channel> {
    let all = addresses.join(",");
    let target = match all.starts_with(SCHEME) {
        true => all.clone(),
        false => format!("list://{all}"),
    };
    let channel = Channel::builder(&target).balance(Balance::P2c);
    let channel = channel.deadline(deadline).connect_lazy();
    channel.with_context(|| format!("{flag} {all}"))
}

/// A client for each process of a role, for those who choose among them.
pub struct Clients<C> {
    names: Option<Names>,
    connect: Box<Connect<C>>,
    known: Known<C>,
}

type Connect<C> = dyn Fn(&str) -> Result<C, rpc_core::Error> + Send;

/// Address and client of each process.
pub type Known<C> = Arc<[(String, C)]>;

impl<C: Clone> Clients<C> {
    /// Clients of the processes that `flag` names, made of channels whose calls take so long at most; nobody need be
    /// there yet.
    ///
    /// # Errors
    /// Addresses or a path that are none.
    pub fn new(
        flag: &str,
        addresses: &[String],
        deadline: Duration,
        make: impl Fn(Channel) -> C + Send + 'static,
    ) -> anyhow::Result<Self> {
        let connect = move |address: &str| {
            let channel = Channel::builder(address).deadline(deadline);
            Ok(make(channel.connect_lazy()?))
        };
        let all = addresses.join(",");
        let context = || format!("{flag} {all}");
        let (names, known) = if all.starts_with(SCHEME) {
            (
                Some(Names::follow(&all).with_context(context)?),
                Arc::default(),
            )
        } else {
            ensure!(!all.is_empty(), "{flag} needs at least one HOST:PORT");
            let client = |address: &String| Ok((address.clone(), connect(address)?));
            let known: anyhow::Result<_> = addresses.iter().map(client).collect();
            (None, known.with_context(context)?)
        };
        Ok(Self {
            names,
            connect: Box::new(connect),
            known,
        })
    }

    /// Those there are now; the same allocation as before if nothing has changed. None at first, where they are
    /// looked for.
    pub fn now(&mut self) -> &Known<C> {
        let Some(names) = &self.names else {
            return &self.known;
        };
        let places = names.places();
        let addresses = places.iter().map(|place| &place.address);
        if !addresses.eq(self.known.iter().map(|(address, _)| address)) {
            let known = places.iter().filter_map(|place| {
                let same = self.known.iter().find(|known| known.0 == place.address);
                // Whoever registers has checked the address.
                let client = || Some((place.address.clone(), (self.connect)(&place.address).ok()?));
                same.cloned().or_else(client)
            });
            self.known = known.collect();
        }
        &self.known
    }
}

const SCHEME: &str = "zk://";

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(addresses: &[&str]) -> anyhow::Result<Clients<Channel>> {
        let addresses: Vec<String> = addresses.iter().map(|&text| text.to_owned()).collect();
        let one = Duration::from_secs(1);
        Clients::new("--storage", &addresses, one, |channel| channel)
    }

    #[test]
    fn a_list_has_a_client_for_each_and_a_path_none_yet() {
        let mut listed = clients(&["127.0.0.1:1", "127.0.0.1:2"]).unwrap();
        let known = Arc::clone(listed.now());
        assert_eq!(known.len(), 2);
        assert!(Arc::ptr_eq(listed.now(), &known));
        // As the command line takes it apart.
        assert!(
            clients(&["zk://127.0.0.1:1", "127.0.0.1:2/x"])
                .unwrap()
                .now()
                .is_empty()
        );
    }

    #[test]
    fn what_is_no_address_is_named_with_its_flag() {
        for wrong in [&["nonsense"][..], &["zk://127.0.0.1:1"], &[]] {
            let error = format!("{:#}", clients(wrong).err().unwrap());
            assert!(error.contains("--storage"), "{error}");
        }
        let lists = [vec!["a:1", "b:2"], vec!["zk://a:1", "b:2/x"], vec!["a"]];
        let fine = lists.map(|list| {
            let addresses: Vec<String> = list.into_iter().map(str::to_owned).collect();
            channel("--logic", &addresses, Duration::from_secs(1)).is_ok()
        });
        assert_eq!(fine, [true, true, false]);
    }
}
