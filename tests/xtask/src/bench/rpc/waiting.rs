//! What a server holds for a call whose handler waits, a hundred thousand at once.

use anyhow::{Result, bail};

use super::{Load, Side, call, rate_of, serve, small};
use crate::bench::program;
use crate::bench::report::Table;
use crate::bench::samples::number;

/// As many calls as a server of ours takes by default.
pub(super) const LOAD: Load = small(100, 1000);
/// Longer than it takes to start them all; how many waited at once, the server counts.
const WAIT_MS: &str = "15000";

pub(super) struct Row {
    pub(super) side: Side,
    /// Calls that waited at once at most, and the bytes of each.
    count: f64,
    pub(super) bytes: f64,
}

/// Measures each side once; what fails is added to `failures`.
pub(super) fn run(failures: &mut Vec<String>) -> Vec<Row> {
    let mut rows = Vec::new();
    for side in [Side::Ours, Side::OursGrpc, Side::Tonic] {
        eprintln!("==> rpc: {}, calls that wait", side.name());
        match measure(side) {
            Ok(row) => rows.push(row),
            Err(error) => failures.push(format!("calls that wait, {}: {error:#}", side.name())),
        }
    }
    rows
}

fn measure(side: Side) -> Result<Row> {
    let (server, addr) = serve(side, &["--wait-ms", WAIT_MS])?;
    let before = server.peak_bytes();
    // Every caller ends its first call after the time is over, and makes no other.
    let (_, result) = rate_of(call(side, &addr, LOAD, 1.0)?)?;
    let count = program::field(&result, "most_waiting")?;
    if count < 1.0 {
        bail!("no call waited");
    }
    let bytes = (server.peak_bytes() - before) / count;
    Ok(Row { side, count, bytes })
}

pub(super) fn table(rows: &[Row]) -> String {
    let mut table = Table::new(&["side", "calls that waited at once", "bytes each"]);
    for row in rows {
        let side = row.side.name().to_owned();
        table.row(vec![side, number(row.count), number(row.bytes)]);
    }
    table.text()
}
