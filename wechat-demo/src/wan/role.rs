//! The wan process: flags, start, what it is told at run time.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use rpc_core::{BoundServer, Request, Response, Runtime, Server, Status};

use super::matrix::{Matrix, Mode, Shape};
use super::relay::{Change, LineState, Relay};
use crate::proto::wan::{self as pb, WanServer};

/// Flags of `wechat-demo wan`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// JSON file with the places, their doors and the lines between them
    #[arg(long, value_name = "FILE")]
    pub matrix: PathBuf,
    /// HOST:PORT to answer RPC, /status, /health and /metrics on; lines are cut and healed there
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: String,
    /// Seed of jitter and stalls
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Threads that run coroutines [default: one per processor]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
}

/// Changes in one call.
const CHANGES: usize = 1_024;

/// A process whose doors are open.
pub struct Ready {
    port: BoundServer,
    relay: Arc<Relay>,
}

/// Runs the process until SIGTERM or SIGINT. Call it from a plain thread: it brings its own runtime.
///
/// # Errors
/// A matrix that cannot be, an address that cannot be had, a runtime that cannot be built.
pub fn run(options: Options) -> anyhow::Result<()> {
    let mut runtime = Runtime::builder();
    if let Some(workers) = options.workers {
        runtime = runtime.workers(workers);
    }
    let runtime = runtime.build().context("the runtime cannot start")?;
    runtime.block_on(move || start(&options)?.serve())
}

/// Opens the doors and binds the address. Call it on a runtime.
///
/// # Errors
/// A matrix that cannot be, an address that cannot be had.
pub fn start(options: &Options) -> anyhow::Result<Ready> {
    let matrix = Matrix::read(&options.matrix)?;
    let relay = Relay::start(matrix, options.seed)?;
    let meter = relay.clone();
    let port = Server::builder()
        .metrics(move || render(&meter))
        .add_service(WanServer::new(Control(relay.clone())))
        .bind(&options.listen)
        .with_context(|| format!("--listen {}", options.listen))?;
    tracing::info!(listen = %port.local_addr(), matrix = %options.matrix.display(), "wan is up");
    Ok(Ready { port, relay })
}

impl Ready {
    /// Where it is told what to change, with the port that was chosen.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.port.local_addr()
    }

    /// Serves until it is drained; then every stream is reset.
    ///
    /// # Errors
    /// What ended it otherwise.
    pub fn serve(self) -> anyhow::Result<()> {
        let served = self.port.serve().context("serving ended");
        self.relay.close();
        served
    }
}

fn render(relay: &Relay) -> String {
    let (refused, strangers) = relay.turned_away();
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| {
        writeln!(text, "{words}").expect("a String takes everything");
    };
    line(format_args!("# TYPE wechat_wan_streams gauge"));
    line(format_args!("wechat_wan_streams {}", relay.streams_now()));
    line(format_args!("# TYPE wechat_wan_turned_away_total counter"));
    for (why, count) in [("refused", refused), ("stranger", strangers)] {
        line(format_args!(
            "wechat_wan_turned_away_total{{why=\"{why}\"}} {count}"
        ));
    }
    line(format_args!("# TYPE wechat_wan_bytes_total counter"));
    for LineState {
        from, to, carried, ..
    } in relay.show()
    {
        line(format_args!(
            "wechat_wan_bytes_total{{from={from:?},to={to:?}}} {carried}"
        ));
    }
    text
}

/// `wechat.wan.Wan` over RPC.
struct Control(Arc<Relay>);

impl pb::Wan for Control {
    fn set(&self, request: Request<pb::SetRequest>) -> Result<Response<pb::Lines>, Status> {
        let changes = request.into_inner().changes;
        if changes.len() > CHANGES {
            let text = format!("{} changes in one call, at most {CHANGES}", changes.len());
            return Err(Status::invalid_argument(text));
        }
        let changes: Result<Vec<_>, _> = changes.into_iter().map(wanted).collect();
        let wrong = |error: super::MatrixError| Status::invalid_argument(error.to_string());
        let changes = changes?;
        self.0.set(&changes).map_err(wrong)?;
        for change in changes {
            tracing::info!(?change, "lines are changed");
        }
        Ok(Response::new(self.lines()))
    }

    fn show(&self, _: Request<pb::ShowRequest>) -> Result<Response<pb::Lines>, Status> {
        Ok(Response::new(self.lines()))
    }
}

impl Control {
    fn lines(&self) -> pb::Lines {
        let lines = self.0.show().into_iter().map(|line| pb::Line {
            from: line.from,
            to: line.to,
            mode: told(line.mode).into(),
            shape: Some(pb::Shape {
                delay_ms: line.shape.delay_ms,
                jitter_ms: line.shape.jitter_ms,
                kib_per_s: line.shape.kib_per_s,
                stall_every_ms: line.shape.stall_every_ms,
                stall_ms: line.shape.stall_ms,
            }),
            carried_bytes: line.carried,
        });
        pb::Lines {
            lines: lines.collect(),
        }
    }
}

fn wanted(change: pb::Change) -> Result<Change, Status> {
    let mode = match pb::Mode::try_from(change.mode) {
        Ok(pb::Mode::Keep) => None,
        Ok(pb::Mode::Open) => Some(Mode::Open),
        Ok(pb::Mode::Stall) => Some(Mode::Stall),
        Ok(pb::Mode::Reset) => Some(Mode::Reset),
        Ok(pb::Mode::HalfOpen) => Some(Mode::HalfOpen),
        Err(_) => {
            let text = format!("{} is no mode", change.mode);
            return Err(Status::invalid_argument(text));
        }
    };
    let shape = change.shape.map(|shape| Shape {
        delay_ms: shape.delay_ms,
        jitter_ms: shape.jitter_ms,
        kib_per_s: shape.kib_per_s,
        stall_every_ms: shape.stall_every_ms,
        stall_ms: shape.stall_ms,
    });
    Ok(Change {
        from: change.from,
        to: change.to,
        both: change.both,
        mode,
        shape,
    })
}

fn told(mode: Mode) -> pb::Mode {
    match mode {
        Mode::Open => pb::Mode::Open,
        Mode::Stall => pb::Mode::Stall,
        Mode::Reset => pb::Mode::Reset,
        Mode::HalfOpen => pb::Mode::HalfOpen,
    }
}

#[cfg(test)]
mod tests {
    use rpc_core::{Channel, Code};

    use super::*;
    use crate::proto::wan::WanClient;

    #[rpc_core::test]
    fn lines_are_changed_at_run_time_all_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("matrix.json");
        let matrix = r#"{"places": [{"name": "sh"}, {"name": "hk"}, {"name": "ca"}], "doors": [],
            "lines": [{"from": "sh", "to": "hk", "both": true, "shape": {"delay_ms": 15}}]}"#;
        std::fs::write(&file, matrix).unwrap();
        let ready = start(&Options {
            matrix: file,
            listen: "127.0.0.1:0".to_owned(),
            seed: 1,
            workers: None,
        })
        .unwrap();
        let (address, handle) = (ready.local_addr().to_string(), ready.port.handle());
        rpc_core::spawn(move || ready.serve().unwrap());
        let wan = WanClient::new(Channel::builder(&address).connect().unwrap());
        let cut = |to: &str, mode: i32| {
            let change = pb::Change {
                from: "sh".to_owned(),
                to: to.to_owned(),
                both: true,
                mode,
                shape: None,
            };
            pb::SetRequest {
                changes: vec![change],
            }
        };
        let request = cut("*", pb::Mode::Stall.into());
        let lines = wan.set(Request::new(request)).unwrap().into_inner().lines;
        let stalled = lines.iter().filter(|line| line.mode() == pb::Mode::Stall);
        assert_eq!(
            stalled.count(),
            5,
            "sh to and from three places, itself once"
        );
        let kept = lines
            .iter()
            .find(|line| line.from == "sh" && line.to == "hk")
            .unwrap();
        assert_eq!(kept.shape.unwrap().delay_ms, 15);

        let mut both = cut("hk", pb::Mode::Open.into());
        both.changes
            .extend(cut("mars", pb::Mode::Open.into()).changes);
        let wrong = wan.set(Request::new(both)).unwrap_err();
        assert_eq!(wrong.code(), Code::InvalidArgument);
        assert!(wrong.message().contains("`mars`"), "{wrong}");
        let wrong = wan.set(Request::new(cut("hk", 77))).unwrap_err();
        assert!(wrong.message().contains("77 is no mode"), "{wrong}");
        let shown = wan
            .show(Request::new(pb::ShowRequest {}))
            .unwrap()
            .into_inner();
        assert_eq!(shown.lines, lines, "all or none");
        handle.drain();
    }
}
