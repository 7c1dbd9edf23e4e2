//! The operations page of a cluster that `up` runs: what its processes do, live, and buttons that kill them.
//!
//! ```text
//!   browser ── GET /state, POST /act ──▶ [door] ──▶ [board] ◀── answers ── a thread per process: its /metrics
//!                                                      ▲
//!                                        [keeper] ─────┘  kills and starts, on the thread that has the cluster
//! ```
//! Knows:       the files of `web/`, the server, what `up` runs.
//! Does not know: what the roles do.
//!
//! Invariants
//! - O-1  It listens on loopback alone, and answers only who calls it by its own name (`door`).
//! - O-2  Nothing but a POST with the page's own token changes anything.
//! - O-3  Nobody who looks makes work for the cluster: the processes are asked at one pace, however many look.
//!
//! Read first: [`board`], then `web/page.js`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use rpc_core::Server;
use rpc_core::time::Instant;
use wechat_demo::cluster::{Cluster, ask};

use board::{Board, Post};
use door::Door;
use keeper::Keeper;

mod board;
mod door;
mod figure;
mod keeper;

/// Pause between two questions to a process.
const PACE: Duration = Duration::from_millis(500);
/// Bytes of a request.
const REQUEST_BYTES: usize = 16 << 10;
/// Connections of browsers.
const CONNECTIONS: usize = 64;

/// The page, served until the process is asked to end.
pub(crate) struct Page {
    board: Arc<Board>,
    address: SocketAddr,
    ending: Arc<AtomicBool>,
}

impl Page {
    /// Serves the page on a port of loopback; 0 = any free one. Ctrl-C and SIGTERM are its to hear.
    pub(crate) fn open(port: u16) -> anyhow::Result<Self> {
        let board = Arc::<Board>::default();
        let door = Arc::new(Door::new(Arc::clone(&board)));
        let answers = Arc::clone(&door);
        let server = Server::builder()
            .max_message_size(REQUEST_BYTES)
            .max_connections(CONNECTIONS)
            .pages("/", move |request| answers.answer(request))
            .bind(&format!("127.0.0.1:{port}"))
            .context("the operations page has no port; pass --page-port N (0 = any free one)")?;
        let address = server.local_addr();
        door.is_at(address);
        let ending = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ending);
        let serve = move || {
            if let Err(error) = server.serve() {
                eprintln!("wechat-demo: the operations page: {error}");
            }
            flag.store(true, Ordering::Release);
        };
        start("page", serve)?;
        Ok(Self {
            board,
            address,
            ending,
        })
    }

    /// Where browsers go.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Whether the process is to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Shows these clusters, one for each IDC; whoever has them lets the keeper tend them.
    pub(crate) fn show(&self, idcs: &[Cluster]) -> anyhow::Result<Keeper> {
        let layouts: Vec<_> = idcs
            .iter()
            .map(Cluster::layout)
            .map(|layout| (layout.idc().map(str::to_owned), layout))
            .collect();
        self.board.show(&layouts);
        let keeper = Keeper::begin(idcs, &self.board);
        for (post, address) in self.board.posts() {
            let (board, ending) = (Arc::clone(&self.board), Arc::clone(&self.ending));
            start("figures", move || look(&board, post, address, &ending))?;
        }
        Ok(keeper)
    }

    /// What everybody at the page sees.
    pub(crate) fn board(&self) -> &Board {
        &self.board
    }
}

/// Asks a process for its figures, again and again.
fn look(board: &Board, post: Post, address: SocketAddr, ending: &AtomicBool) {
    while !ending.load(Ordering::Acquire) {
        let asked = Instant::now();
        if let Some(figures) = ask(address) {
            board.answered(post, asked, figures);
        }
        std::thread::sleep(PACE);
    }
}

/// A thread of this program; it ends with it.
fn start(name: &str, run: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(run).context("a thread cannot start")?;
    Ok(())
}
