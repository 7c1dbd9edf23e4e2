//! The words of the domain as distinct types, and their limits.
//!
//! Knows: how an id, a number and a position are made up, who lives where, how large things may be.
//! Does not know: tables, sockets, roles.
//!
//! Read first: [`Seq`], then [`Placement`].

pub mod brief;
pub mod clock;
mod ids;
pub mod limits;
mod place;
mod prefix;
mod seq;

pub use ids::{ClientMsgId, DeviceId, MessageId, UserId};
pub use place::{HomeId, Placement, PlacementError, SECTIONS, SectionId, ShardId, Site};
pub use prefix::{Prefix, PrefixError, PrefixTable};
pub use seq::{Incarnation, Pos, Seq};
