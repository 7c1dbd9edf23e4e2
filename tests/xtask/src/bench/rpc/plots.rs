//! The figures of the RPC benchmark as pictures.

use super::{All, SIDES, SMALL, Side, small};
use crate::bench::plot::{self, Series};
use crate::bench::samples::Samples;

/// File names and SVG.
pub(super) fn all(all: &All) -> Vec<(String, String)> {
    vec![throughput(all), latency(all), memory(all)]
}

fn throughput(all: &All) -> (String, String) {
    let series = SIDES.map(|side| Series {
        name: side.name(),
        values: SMALL.map(|load| all[&(load, side)].rate.median()).to_vec(),
    });
    let x = SMALL.map(|load| format!("{} × {}", load.connections, load.inflight));
    let title = "Calls per second by connections × calls in flight on each";
    let svg = plot::lines(title, "log scale", &x, &series);
    ("rpc-throughput.svg".to_owned(), svg)
}

fn latency(all: &All) -> (String, String) {
    let at = small(1, 64);
    let values = |side: Side| all[&(at, side)].latency.iter().map(Samples::median);
    let series = SIDES.map(|side| Series {
        name: side.name(),
        values: values(side).collect(),
    });
    let x = ["p50", "p99", "p99.9", "max"].map(str::to_owned);
    let title = format!("Latency, {}", at.name());
    (
        "rpc-latency.svg".to_owned(),
        plot::lines(&title, "µs (log scale)", &x, &series),
    )
}

fn memory(all: &All) -> (String, String) {
    let loads = SMALL.into_iter().filter(|load| load.inflight == 1);
    let loads: Vec<_> = loads.collect();
    let values = |side: Side| {
        loads
            .iter()
            .map(move |&load| all[&(load, side)].server_mib.median())
    };
    let series = SIDES.map(|side| Series {
        name: side.name(),
        values: values(side).collect(),
    });
    let x = loads.iter().map(|load| load.connections.to_string());
    let x: Vec<String> = x.collect();
    let title = "Server memory against connections, one call in flight on each";
    let svg = plot::lines(title, "peak MiB (log scale)", &x, &series);
    ("rpc-memory.svg".to_owned(), svg)
}
