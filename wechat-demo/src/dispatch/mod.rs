//! Where a terminal should connect: near, up, and not full.
//!
//! Knows:       which network an address belongs to (a table of prefixes), which access points beat, what terminals measured.
//! Does not know: users, sessions, what a link carries.
//!
//! An access point **beats** once a second: where terminals reach it, its IDC, how full it is. A terminal **asks**; its
//! address says in which network (region and carrier) it is, and it gets at most [`board::CANDIDATES`] points. It races
//! them and **reports** how long each took, which counts for its whole network from then on: so distances need not be
//! known beforehand, and a point that a network cannot reach goes to the end for that network alone.
//!
//! Whoever reaches the port may beat and drain as well: terminals of strangers belong behind something that lets
//! `wechat.dispatch.Dispatch` through and nothing else.
//!
//! Invariants
//! - D-1  Nothing is kept on disk. A dispatch that starts again knows every point after one beat, and distances again as
//!   terminals report; meanwhile terminals have what they remember.
//! - D-2  A silent, full or draining point is offered only where there is no other of its kind left: a bad candidate
//!   is better than none.
//! - D-3  What is known is bounded: [`board::POINTS`], [`board::LEARNED`], [`table::ROWS`].
//! - D-4  A drain ends links evenly over its time; terminals come back by their own salted ladder.
//!
//! Read first: [`board`], which is pure.

pub mod board;
pub mod role;
pub mod table;
