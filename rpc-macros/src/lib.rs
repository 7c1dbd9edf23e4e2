//! Attribute macros of rpc-core.
