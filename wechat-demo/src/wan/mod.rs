//! The network between places, as a thing with distance that can fail: a relay in user space, without root.
//!
//! Knows:       places and their addresses, what each line does to bytes and time, TCP.
//! Does not know: who its neighbours are, what the bytes mean.
//!
//! A **place** is an IDC or a carrier's network: a name, and the addresses that its members connect from. A **door**
//! is where the relay listens for something in a place, and what it connects to there. A **line** is one direction
//! between two places; every ordered pair has one.
//!
//! ```text
//!  terminal, connects from 127.21.0.7          door of sh: listens on 127.11.0.1:7100, target 127.0.0.1:7100
//!       │                                                │
//!       └──── line telecom-east → sh ────▶ relay ────────┴──▶ access, which sees 127.21.0.7 as the peer
//!        ◀─── line sh → telecom-east ────
//! ```
//! The matrix is a JSON file:
//! ```json
//! {"places": [{"name": "sh"}, {"name": "hk"}, {"name": "telecom-east", "addresses": ["127.21.0.0/16"]}],
//!  "doors":  [{"place": "sh", "listen": "127.11.0.1:7100", "target": "127.0.0.1:7100"},
//!             {"place": "hk", "from": "sh", "listen": "127.0.0.1:7301", "target": "127.0.0.1:7203"}],
//!  "lines":  [{"from": "telecom-east", "to": "sh", "both": true, "shape": {"delay_ms": 8, "jitter_ms": 2}},
//!             {"from": "sh", "to": "hk", "both": true, "shape": {"delay_ms": 15, "kib_per_s": 4096}},
//!             {"from": "*", "to": "hk", "shape": {"delay_ms": 60, "stall_every_ms": 5000, "stall_ms": 300}}]}
//! ```
//! Whoever comes in at a door is in the place whose addresses hold the peer's; a door with `from` is for the members
//! of that place alone, whatever they connect from (processes of an IDC, which do not choose their addresses). Lines
//! that no row names are open and add nothing; a later row wins. Shapes are those of `proto/wan.proto`.
//!
//! At run time lines are changed by `wechat.wan.Wan/Set`, over RPC or HTTP/JSON:
//! `curl -d '{"changes":[{"from":"sh","to":"*","both":true,"mode":"STALL"}]}' http://HOST:PORT/wechat.wan.Wan/Set`
//! cuts `sh` off, `OPEN` heals it; one direction alone is a one-way cut. In a process, [`Relay`] is the same.
//!
//! Invariants
//! - N-1  Bytes of one direction of one stream come out in order, each once, until the stream ends or is reset:
//!   nothing is dropped in silence.
//! - N-2  A line with a bandwidth or a delay holds back a stream's end, its reset and its opening as it does bytes.
//!   The kernel accepts a connection before the relay knows of it; so `connect` returns at once, and what is late is
//!   the first answer.
//! - N-3  Everything is bounded: [`STREAMS`], and [`BUFFER`] bytes a direction; then the sender feels TCP's back pressure.
//!
//! Read first: [`matrix`], then `lane.rs` (pure), then `relay.rs`.

mod lane;
pub mod matrix;
mod relay;
pub mod role;

pub use lane::BUFFER;
pub use matrix::{Door, Matrix, MatrixError, Mode, Place, Row, Shape};
pub use relay::{Change, LineState, Relay, RelayError, STREAMS};
