//! What a call passes on to the calls made under it.
//!
//! Knows: deadlines, trace ids, fields that travel on.   Does not know: where the current one is kept.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::metadata::MetadataMap;
use super::protocol::{IncomingCall, Trace};
use crate::base::time::Instant;

/// Prefix of the metadata keys that travel on to nested calls.
pub const PROPAGATED: &str = "x-ctx-";

/// What a call passes on to the calls made under it.
#[derive(Clone, Debug)]
pub struct Context {
    /// When the time of the whole tree of calls is over; [`Instant::NEVER`] = no limit.
    pub deadline: Instant,
    /// The number under which the caller logs; nested calls carry it on.
    pub log_id: Option<i64>,
    /// Trace ids; nested calls carry the trace and the request id on.
    pub trace: Option<Box<Trace>>,
    /// Metadata whose key begins with [`PROPAGATED`].
    pub fields: MetadataMap,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            deadline: Instant::NEVER,
            log_id: None,
            trace: None,
            fields: MetadataMap::new(),
        }
    }
}

impl Context {
    /// The context of a call that arrived.
    pub fn of_call(call: &IncomingCall) -> Self {
        let mut fields = MetadataMap::new();
        for (key, value) in call.metadata.iter() {
            if key.len() > PROPAGATED.len()
                && key.as_bytes()[..PROPAGATED.len()].eq_ignore_ascii_case(PROPAGATED.as_bytes())
            {
                fields.append_bytes(key, value.clone());
            }
        }
        Self {
            deadline: call.deadline(),
            log_id: call.log_id,
            trace: call.trace.clone(),
            fields,
        }
    }

    /// Time for a nested call at `now`: the smaller of its own limit and what is left here; `None` if
    /// neither sets one, zero if the time is over.
    pub fn nested_timeout(&self, now: Instant, own: Option<Duration>) -> Option<Duration> {
        let left = (!self.deadline.is_never()).then(|| self.deadline.saturating_since(now));
        match (left, own) {
            (Some(left), Some(own)) => Some(left.min(own)),
            (left, own) => left.or(own),
        }
    }
}
