//! From a bound address to the end of the drain.
//!
//! Knows: the order of starting and ending.   Does not know: how one connection works.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::ServerBuilder;
use super::Service;
use super::accept;
use super::core::Core;
use super::drain;
use super::janitor;
use super::registry::Registry;
use super::standard::health::Health;
use super::standard::reflection::Reflection;
use crate::base::signal::TerminationSignal;
use crate::net::{Bell, Handler, Listener, Ready, watch};
use crate::rpc::error::Error;
use crate::rpc::protocol::grpc::Grpc;
use crate::rpc::protocol::http1::Http1;
use crate::rpc::protocol::prpc::Prpc;
use crate::rpc::protocol::tls::Tls;
use crate::rpc::protocol::{Protocol, Routes, ServerConfig};
use crate::rpc::tls::ServerTls;
use crate::runtime::{self, Handle, Runtime};

/// A server that listens and does not accept yet.
pub struct BoundServer {
    core: Arc<Core>,
    listener: Listener,
    health: Option<Health>,
    /// Dropped when the drain begins.
    kept: Vec<Box<dyn Send>>,
}

/// Drains a server from elsewhere. Cheap to clone.
#[derive(Clone)]
pub struct ServerHandle {
    core: Arc<Core>,
}

/// What the port speaks, in the order in which the first bytes are tried.
fn protocols(
    added: Vec<Arc<dyn Protocol>>,
    tls: Option<&ServerTls>,
) -> Result<Vec<Arc<dyn Protocol>>, Error> {
    let ours: [Arc<dyn Protocol>; 3] = [Arc::new(Prpc), Arc::new(Grpc), Arc::new(Http1)];
    let plain = [added, ours.to_vec()].concat();
    let Some(tls) = tls else {
        return Ok(plain);
    };
    let inside: Arc<dyn Protocol> = Arc::new(Tls::new(tls, plain.clone())?);
    Ok(match tls.is_required() {
        true => vec![inside],
        false => [vec![inside], plain].concat(),
    })
}

impl BoundServer {
    pub(super) fn bind(builder: ServerBuilder, addr: &str) -> Result<Self, Error> {
        let mut services = builder.services;
        if let Some(health) = &builder.health {
            health.set("", true);
            for service in &services {
                health.set(service.descriptor().name, true);
            }
            services.push(Arc::new(health.clone()));
        }
        if builder.reflection {
            let both = Reflection::of(&services).map_err(Error::Config)?;
            services.extend(both.map(|one| Arc::new(one) as Arc<dyn Service>));
        }
        let registry = Arc::new(Registry::new(services)?);
        let listener = Listener::bind(addr)?;
        let protocols = protocols(builder.protocols, builder.tls.as_ref())?;
        let certificates = match (builder.certificate_files, builder.tls) {
            (None, _) => None,
            (Some(files), Some(tls)) => {
                files.read(&tls)?;
                Some((files, tls))
            }
            (Some(_), None) => {
                let text = "certificate_files needs tls: it says which clients are let in";
                return Err(Error::Config(text.into()));
            }
        };
        let config = ServerConfig {
            limits: builder.limits,
            identity: listener.name(),
            proxy_header: builder.options.proxy_header,
            routes: Arc::clone(&registry) as Arc<dyn Routes>,
            protocols,
            authenticator: builder.authenticator,
            cors: builder.cors,
        };
        let core = Core::new(
            Arc::new(config),
            registry,
            builder.options,
            builder.own_metrics,
            builder.pages,
            certificates,
        );
        Ok(Self {
            core: Arc::new(core),
            listener,
            health: builder.health,
            kept: Vec::new(),
        })
    }

    /// Where it listens, as the target of a channel: `HOST:PORT` with the port that was chosen, or `unix:PATH`.
    pub fn target(&self) -> String {
        self.listener.name()
    }

    /// Where it listens, with the port that was chosen; `0.0.0.0:0` at a Unix socket, which
    /// [`target`](Self::target) names.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// For draining it while it serves.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle {
            core: Arc::clone(&self.core),
        }
    }

    /// Keeps something until the server begins to drain, and drops it then: what tells others that it is there, as a
    /// [`Registration`](crate::naming::Registration) does.
    #[must_use]
    pub fn until_drain(mut self, kept: impl Send + 'static) -> Self {
        self.kept.push(Box::new(kept));
        self
    }

    /// Serves until it is drained: by [`ServerHandle::drain`], by SIGTERM or SIGINT, or by the end of the
    /// runtime. Then the calls under way end, within the drain's limit.
    ///
    /// On an OS thread without a runtime it brings one of its own.
    ///
    /// # Errors
    /// The listener broke, or the reactor refused it.
    pub fn serve(self) -> Result<(), Error> {
        if let Some(handle) = Handle::try_current() {
            self.core.set_home(handle);
            return self.run();
        }
        let runtime = Runtime::builder()
            .build()
            .map_err(|error| Error::Runtime(error.to_string()))?;
        self.core.set_home(runtime.handle());
        runtime.block_on(move || self.run())
    }

    fn run(self) -> Result<(), Error> {
        let Self {
            core,
            listener,
            health,
            kept,
        } = self;
        let signal = core
            .options
            .handle_signals
            .then(TerminationSignal::subscribe)
            .transpose()?;
        let on_signal = Arc::new(OnSignal(Arc::clone(&core)));
        let watching = signal
            .as_ref()
            .map(|signal| watch(signal.fd(), on_signal))
            .transpose()?;
        let knocking = watch(listener.fd(), Arc::new(OnKnock(Arc::clone(&core))))?;
        let stop = Arc::new(Bell::new());
        let janitor = {
            let (core, stop) = (Arc::clone(&core), Arc::clone(&stop));
            runtime::spawn(move || janitor::run(&core, &stop))
        };
        let result = accept::run(&core, &listener);
        core.start_drain();
        drop(kept);
        if let Some(health) = health {
            health.end();
        }
        // What the kernel accepted for us before we close the door is served like the rest.
        while let Ok(accept::Took::Share) = accept::take_in(&core, &listener) {}
        drop(knocking);
        drop(listener);
        drain::run(&core);
        stop.ring();
        // The janitor returns; had it panicked, its panic has been reported.
        let _ = janitor.join();
        drop(watching);
        drop(signal);
        Ok(result?)
    }
}

impl ServerHandle {
    /// Begins the drain: nothing is accepted any more, new calls are refused, those under way end.
    /// Returns at once; [`BoundServer::serve`] returns when it is done.
    pub fn drain(&self) {
        self.core.start_drain();
    }

    /// Calls under way.
    pub fn in_flight(&self) -> usize {
        self.core.in_flight()
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.core.connection_count()
    }
}

impl fmt::Debug for BoundServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundServer")
            .field("target", &self.target())
            .finish()
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle")
            .field("in_flight", &self.in_flight())
            .field("connections", &self.connections())
            .finish()
    }
}

/// A connection waits at the listener: wakes the accepting coroutine.
struct OnKnock(Arc<Core>);

impl Handler for OnKnock {
    fn ready(&self, _event: Ready) {
        self.0.bell.ring();
    }
}

/// The process was asked to end.
struct OnSignal(Arc<Core>);

impl Handler for OnSignal {
    fn ready(&self, event: Ready) {
        // Room to write is an edge too, and means nothing here.
        if event.readable {
            self.0.start_drain();
        }
    }
}
