//! The storage layer: log, tables, numbers, streams, copies.
