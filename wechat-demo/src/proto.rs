//! Generated from `proto/*.proto`: the contracts between the roles and with the terminal.
//!
//! Module names follow the packages (`wechat.terminal` is [`terminal`]); the comments of the `.proto`
//! files are the documentation.
#![expect(missing_docs, reason = "generated; the .proto files document it")]

/// What a terminal and the access layer say over the long link.
pub mod terminal {
    include!(concat!(env!("OUT_DIR"), "/wechat.terminal.rs"));
}

/// The logic layer, called by access.
pub mod logic {
    include!(concat!(env!("OUT_DIR"), "/wechat.logic.rs"));
}

/// The access layer, called by storage primaries.
pub mod access {
    include!(concat!(env!("OUT_DIR"), "/wechat.access.rs"));
}

/// The storage layer, called by logic, and between its two copies.
pub mod storage {
    include!(concat!(env!("OUT_DIR"), "/wechat.storage.rs"));
}

impl From<crate::model::Pos> for terminal::Pos {
    fn from(pos: crate::model::Pos) -> Self {
        Self {
            count: pos.count,
            sender: pos.sender,
        }
    }
}

impl From<terminal::Pos> for crate::model::Pos {
    fn from(pos: terminal::Pos) -> Self {
        Self {
            count: pos.count,
            sender: pos.sender,
        }
    }
}
