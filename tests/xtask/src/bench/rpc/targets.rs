//! What was aimed at for calls, beside the long tail and idle connections, which have parts of their own.

use super::waiting::Row;
use super::{All, BULK, Load, Side, small};
use crate::bench::targets::Bar::{AtLeast, AtMost};
use crate::bench::targets::Target;

/// brpc 1.17, on two noisy cores of another day: the greatest figures seen, calls a second. One connection
/// with 64 to 200 calls in flight; 64 pooled connections, a call on each.
const BRPC_ONE: f64 = 149_000.0;
const BRPC_POOLED: f64 = 86_000.0;
const BRPC: &str = "brpc (elsewhere)";

pub(super) fn all(all: &All, waiting: &[Row]) -> Vec<Target> {
    let targets = rates(all).into_iter().chain(cpu(all));
    targets.chain(others(all, waiting)).collect()
}

/// Between 64 and 200 calls in flight; the worse of both counts.
const BUSY: [Load; 2] = [small(1, 64), small(1, 200)];

fn rates(all: &All) -> [Target; 3] {
    let rate = |load, side| all[&(load, side)].rate.median();
    let least = rate(BUSY[0], Side::Ours)
        .zip(rate(BUSY[1], Side::Ours))
        .map(|(few, many)| few.min(many));
    [
        Target::new(
            "PRPC, one connection, 64 or 200 calls in flight, the lower rate",
            least,
            "calls/s",
            AtLeast(5.0),
            "With few calls in flight a batch holds few, and the two ends wait for each other between batches. \
             brpc's figure is of another day and machine.",
        )
        .times(BRPC, Some(BRPC_ONE)),
        Target::new(
            "PRPC, 64 connections, one call in flight on each",
            rate(small(64, 1), Side::Ours),
            "calls/s",
            AtLeast(1.5),
            "Each call is a read and a write of its own at both ends, and these bound it as they bound the bare loop. \
             brpc's figure is of another day and machine.",
        )
        .times(BRPC, Some(BRPC_POOLED)),
        Target::new(
            "gRPC, one connection, 64 calls in flight",
            rate(BUSY[0], Side::OursGrpc),
            "calls/s",
            AtLeast(2.0),
            "What HTTP/2 adds to a call, frames and header lists, is in the columns of CPU.",
        )
        .times(Side::Tonic.name(), rate(BUSY[0], Side::Tonic)),
    ]
}

fn cpu(all: &All) -> [Target; 2] {
    let figures = BUSY.map(|load| &all[&(load, Side::Ours)]);
    let greater = |left: Option<f64>, right: Option<f64>| Some(left?.max(right?));
    let word = "The greater is with 64 calls in flight: batches are smaller there, and each pays its system calls and \
                wake-ups.";
    [
        Target::new(
            "PRPC, the same: CPU per call at the server",
            greater(
                figures[0].server_cpu.median(),
                figures[1].server_cpu.median(),
            ),
            "µs",
            AtMost(1.0),
            word,
        ),
        Target::new(
            "PRPC, the same: CPU per call at the client",
            greater(
                figures[0].client_cpu.median(),
                figures[1].client_cpu.median(),
            ),
            "µs",
            AtMost(1.0),
            word,
        ),
    ]
}

fn others(all: &All, waiting: &[Row]) -> [Target; 4] {
    let p50 = |side| all[&(small(1, 1), side)].latency[0].median();
    let bulk = |side| all[&(BULK, side)].rate.median();
    let held = waiting.iter().find(|row| row.side == Side::Ours);
    [
        Target::new(
            "PRPC, one call in flight, p50",
            p50(Side::Ours),
            "µs",
            AtMost(1.5),
            "Beyond the loop's read and write each end asks the kernel who is ready, and switches stacks.",
        )
        .times(Side::Loop.name(), p50(Side::Loop)),
        Target::new(
            "1 MiB echo over PRPC",
            bulk(Side::Ours),
            "echoes/s",
            AtLeast(0.7),
            "Beyond the loop's read and write each end copies a message between frame and text, and checks that \
             it is UTF-8.",
        )
        .times(Side::Loop.name(), bulk(Side::Loop)),
        Target::new(
            "PRPC, 100,000 calls in flight whose handlers wait, each",
            held.map(|row| row.bytes),
            "bytes",
            AtMost(16_384.0),
            "A call holds a stack of its own with a thread's identity, its message and its place in two tables.",
        ),
        Target::absent(
            "goodput at 2× and 10× of capacity with DAGOR, two dependent calls a task",
            "≥ 90 % of saturated capacity",
            "not built",
            "there is no DAGOR limiter, and no other that sheds by priority; rpc-core sheds by a constant limit of \
             calls in flight.",
        ),
    ]
}
