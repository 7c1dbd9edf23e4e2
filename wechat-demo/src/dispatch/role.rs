//! The dispatch process: flags, start, what it answers.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use rpc_core::base::rng::Rng;
use rpc_core::base::time::Instant;
use rpc_core::{BoundServer, Request, Response, Runtime, Server, Status};

use super::board::{Board, BoardError};
use super::table::NetworkTable;
use crate::proto::dispatch::{self as pb, DispatchServer, PointsServer};

/// Flags of `wechat-demo dispatch`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// HOST:PORT to answer terminals and access points on, and /status, /health and /metrics
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: String,
    /// Table of prefixes, PREFIX REGION CARRIER a line [default: every address is unknown]
    #[arg(long, value_name = "FILE")]
    pub prefixes: Option<PathBuf>,
}

/// Measurements in one report.
const MEASURED: usize = 16;

/// Runs the process until SIGTERM or SIGINT. Call it from a plain thread: it brings its own runtime.
///
/// # Errors
/// A table that cannot be read, an address that cannot be had, a runtime that cannot be built.
pub fn run(options: &Options) -> anyhow::Result<()> {
    // What it answers is short, and behind one lock.
    let runtime = Runtime::builder().workers(1).build();
    let runtime = runtime.context("the runtime cannot start")?;
    let options = options.clone();
    runtime.block_on(move || start(&options)?.serve().context("serving ended"))
}

/// Reads the table and binds the address. Call it on a runtime.
///
/// # Errors
/// A table that cannot be read, an address that cannot be had.
pub fn start(options: &Options) -> anyhow::Result<BoundServer> {
    let file = options.prefixes.as_deref();
    let table = file.map_or_else(|| Ok(NetworkTable::default()), NetworkTable::read)?;
    let prefixes = table.len();
    let office = Office(Arc::new(Shared {
        board: Mutex::new(Board::new(table, Rng::from_entropy())),
        counters: Counters::default(),
    }));
    let meter = office.clone();
    let server = Server::builder()
        .metrics(move || meter.render())
        .add_service(DispatchServer::new(office.clone()))
        .add_service(PointsServer::new(office))
        .bind(&options.listen)
        .with_context(|| format!("--listen {}", options.listen))?;
    tracing::info!(listen = %server.local_addr(), prefixes, "dispatch is up");
    Ok(server)
}

/// Both services.
#[derive(Clone)]
struct Office(Arc<Shared>);

struct Shared {
    board: Mutex<Board>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    asked: AtomicU64,
    /// Asked from an address of no known network.
    unknown: AtomicU64,
    /// Asked while no point had beaten.
    nowhere: AtomicU64,
    measured: AtomicU64,
    failed: AtomicU64,
}

impl Office {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn render(&self) -> String {
        let (points, learned) = self.board().sizes();
        let counters = &self.0.counters;
        let mut text = String::new();
        for (name, value) in [("points", points), ("learned", learned)] {
            let name = format!("wechat_dispatch_{name}");
            writeln!(text, "# TYPE {name} gauge\n{name} {value}")
                .expect("a String takes everything");
        }
        for (name, counter) in [
            ("asked", &counters.asked),
            ("unknown_network", &counters.unknown),
            ("nowhere", &counters.nowhere),
            ("measured", &counters.measured),
            ("failed", &counters.failed),
        ] {
            let (name, value) = (
                format!("wechat_dispatch_{name}_total"),
                counter.load(Ordering::Relaxed),
            );
            writeln!(text, "# TYPE {name} counter\n{name} {value}")
                .expect("a String takes everything");
        }
        text
    }
}

impl pb::Dispatch for Office {
    fn locate(
        &self,
        request: Request<pb::LocateRequest>,
    ) -> Result<Response<pb::LocateReply>, Status> {
        let peer = request.peer().map(|peer| peer.ip());
        let pb::LocateRequest { home, address } = request.into_inner();
        let client = match address.as_str() {
            "" => peer,
            text => Some(text.parse::<IpAddr>().map_err(|_| {
                Status::invalid_argument(format!(
                    "`{text}` is no IP address; leave it out to be found by your own"
                ))
            })?),
        };
        let counters = &self.0.counters;
        add(&counters.asked);
        let mut board = self.board();
        let network = client
            .map(|client| board.network(client))
            .unwrap_or_default();
        if network == Default::default() {
            add(&counters.unknown);
        }
        let candidates = board.candidates(&network, &home, Instant::now());
        if candidates.is_empty() {
            add(&counters.nowhere);
            return Err(Status::unavailable(
                "no access point beats here; start access with --dispatch HOST:PORT of this process",
            ));
        }
        Ok(Response::new(pb::LocateReply {
            candidates,
            region: network.region,
            carrier: network.carrier,
        }))
    }

    fn report(
        &self,
        request: Request<pb::ReportRequest>,
    ) -> Result<Response<pb::ReportReply>, Status> {
        let peer = request.peer().map(|peer| peer.ip());
        let measured = request.into_inner().measured;
        if measured.len() > MEASURED {
            let text = format!(
                "{} measurements in one report, at most {MEASURED}",
                measured.len()
            );
            return Err(Status::invalid_argument(text));
        }
        let (mut board, now) = (self.board(), Instant::now());
        let network = peer.map(|peer| board.network(peer)).unwrap_or_default();
        for one in &measured {
            add(&self.0.counters.measured);
            if one.failed {
                add(&self.0.counters.failed);
            }
            board.measured(&network, one, now);
        }
        Ok(Response::new(pb::ReportReply {}))
    }
}

impl pb::Points for Office {
    fn beat(&self, request: Request<pb::BeatRequest>) -> Result<Response<pb::BeatReply>, Status> {
        let moved = self.board().beat(request.into_inner(), Instant::now());
        let moved = moved.map_err(refused)?;
        Ok(Response::new(pb::BeatReply { moving: moved }))
    }

    fn drain(
        &self,
        request: Request<pb::DrainRequest>,
    ) -> Result<Response<pb::DrainReply>, Status> {
        let pb::DrainRequest {
            address,
            over_ms,
            undo,
        } = request.into_inner();
        let over = (!undo).then(|| Duration::from_millis(over_ms));
        let done = self.board().drain(&address, over, Instant::now());
        done.map_err(refused)?;
        tracing::info!(
            address,
            ?over,
            "an access point is drained, or taken in again"
        );
        Ok(Response::new(pb::DrainReply {}))
    }

    fn show(&self, _: Request<pb::ShowRequest>) -> Result<Response<pb::ShowReply>, Status> {
        let points = self.board().show(Instant::now());
        Ok(Response::new(pb::ShowReply { points }))
    }
}

fn refused(error: BoardError) -> Status {
    match error {
        BoardError::Address(_) => Status::invalid_argument(error.to_string()),
        BoardError::Full => Status::resource_exhausted(error.to_string()),
        BoardError::Unknown(_) => Status::not_found(error.to_string()),
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use rpc_core::{Channel, Code};

    use super::*;
    use crate::proto::dispatch::{DispatchClient, PointsClient};

    /// A process with a table, and clients of both services.
    fn office() -> (rpc_core::ServerHandle, DispatchClient, PointsClient) {
        let dir = tempfile::tempdir().unwrap();
        let table = dir.path().join("prefixes");
        std::fs::write(&table, "127.21.0.0/16 east telecom\n").unwrap();
        let server = start(&Options {
            listen: "127.0.0.1:0".to_owned(),
            prefixes: Some(table),
        })
        .unwrap();
        let (address, handle) = (server.local_addr().to_string(), server.handle());
        rpc_core::spawn(move || server.serve().unwrap());
        let channel = || Channel::builder(&address).connect().unwrap();
        (
            handle,
            DispatchClient::new(channel()),
            PointsClient::new(channel()),
        )
    }

    fn locate(dispatch: &DispatchClient, address: &str) -> Result<pb::LocateReply, Status> {
        let request = pb::LocateRequest {
            address: address.to_owned(),
            ..Default::default()
        };
        dispatch
            .locate(Request::new(request))
            .map(Response::into_inner)
    }

    #[rpc_core::test]
    fn a_terminal_is_told_the_points_that_beat_and_its_network() {
        let (handle, dispatch, points) = office();
        let nobody = locate(&dispatch, "").unwrap_err();
        assert_eq!(nobody.code(), Code::Unavailable);
        assert!(nobody.message().contains("--dispatch"), "{nobody}");
        let beat = pb::BeatRequest {
            address: "127.11.0.1:7100".to_owned(),
            idc: "sh".to_owned(),
            ..Default::default()
        };
        let moving = points
            .beat(Request::new(beat.clone()))
            .unwrap()
            .into_inner()
            .moving;
        assert_eq!(moving, 0);
        let told = locate(&dispatch, "127.21.0.7").unwrap();
        assert_eq!(
            (told.region.as_str(), told.carrier.as_str()),
            ("east", "telecom")
        );
        assert_eq!(told.candidates[0].address, beat.address);
        assert_eq!(told.candidates[0].weight, 1_000);
        let stranger = locate(&dispatch, "").unwrap();
        assert_eq!(
            (stranger.region.as_str(), stranger.candidates.len()),
            ("", 1)
        );
        assert_eq!(
            locate(&dispatch, "mars").unwrap_err().code(),
            Code::InvalidArgument
        );
        handle.drain();
    }

    #[rpc_core::test]
    fn what_cannot_be_is_refused_in_words() {
        let (handle, dispatch, points) = office();
        let drain = pb::DrainRequest {
            address: "a:1".to_owned(),
            ..Default::default()
        };
        let unknown = points.drain(Request::new(drain)).unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
        let nowhere = points
            .beat(Request::new(pb::BeatRequest::default()))
            .unwrap_err();
        assert_eq!(nowhere.code(), Code::InvalidArgument);
        let measured = vec![pb::Measured::default(); MEASURED + 1];
        let many = dispatch
            .report(Request::new(pb::ReportRequest { measured }))
            .unwrap_err();
        assert!(many.message().contains("at most 16"), "{many}");
        handle.drain();
    }
}
