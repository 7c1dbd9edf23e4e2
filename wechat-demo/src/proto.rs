//! Generated from `proto/*.proto`: the contracts between the roles and with the terminal.
//!
//! Module names follow the packages (`wechat.terminal` is [`terminal`]); the comments of the `.proto`
//! files are the documentation.

/// What a terminal and the access layer say over the long link.
pub mod terminal {
    rpc_core::include_proto!("wechat.terminal");
}

/// The logic layer, called by access.
pub mod logic {
    rpc_core::include_proto!("wechat.logic");
}

/// The access layer, called by storage primaries.
pub mod access {
    rpc_core::include_proto!("wechat.access");
}

/// The storage layer, called by logic, and between its two copies.
pub mod storage {
    rpc_core::include_proto!("wechat.storage");
}

/// The embedded coordinator, called by storage and logic.
pub mod coordinator {
    rpc_core::include_proto!("wechat.coordinator");
}

/// The relay between places, told by whoever wants to hurt the network.
pub mod wan {
    rpc_core::include_proto!("wechat.wan");
}

/// Where to connect: asked by terminals, told by access points.
pub mod dispatch {
    rpc_core::include_proto!("wechat.dispatch");
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
