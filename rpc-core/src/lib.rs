//! Services written as plain blocking code, run as stackful coroutines.

pub mod base;
pub mod rpc;
