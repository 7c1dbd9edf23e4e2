//! The context of the call that the running coroutine serves: what nested calls carry on.
//!
//! Knows: one context per coroutine.   Does not know: how calls are served or made.
//!
//! A thread-local is the coroutine's own, so that a context stays with its call across every wait. The
//! deadline is not kept here: the scheduler has it, for hooks need it too.

use std::cell::RefCell;

use crate::rpc::message::Request;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::{IncomingCall, Trace};

/// Begins the metadata keys that travel on to nested calls.
const CARRIED_ON: &str = "x-ctx-";

/// What a call passes on to the calls made under it.
struct Context {
    /// The number under which the caller logs.
    log_id: Option<i64>,
    trace: Option<Box<Trace>>,
    /// Metadata whose key begins with [`CARRIED_ON`].
    fields: MetadataMap,
}

thread_local! {
    /// `None` outside calls, and in calls that came with nothing to carry on.
    static CURRENT: RefCell<Option<Box<Context>>> = const { RefCell::new(None) };
}

/// While it lives, nested calls of this coroutine carry the call's context on.
pub(in crate::rpc) struct Ambient(());

impl Ambient {
    /// The scope of serving `call`; `None` if it came with nothing to carry on.
    pub fn of(call: &IncomingCall) -> Option<Self> {
        if call.log_id.is_none() && call.trace.is_none() && call.metadata.is_empty() {
            return None;
        }
        let mut fields = MetadataMap::new();
        for (key, value) in call.metadata.iter().filter(|entry| is_carried_on(entry.0)) {
            fields.append_bytes(key, value.clone());
        }
        CURRENT.set(Some(Box::new(Context {
            log_id: call.log_id,
            trace: call.trace.clone(),
            fields,
        })));
        Some(Self(()))
    }
}

impl Drop for Ambient {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

/// Adds what the surrounding call carries on to a request, as far as the request does not say it itself.
/// Returns the trace ids to send.
pub(super) fn add_to<T>(request: &mut Request<T>) -> Option<Box<Trace>> {
    CURRENT.with_borrow(|current| {
        let context = current.as_ref()?;
        if let (None, Some(log_id)) = (request.log_id(), context.log_id) {
            request.set_log_id(log_id);
        }
        for (key, value) in context.fields.iter() {
            if !request.metadata().contains_key(key) {
                request.metadata_mut().append_bytes(key, value.clone());
            }
        }
        context.trace.clone()
    })
}

fn is_carried_on(key: &str) -> bool {
    key.as_bytes()
        .get(..CARRIED_ON.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(CARRIED_ON.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Instant;
    use crate::rpc::protocol::{CallId, Kind, RawBody, Route};

    fn call(log_id: Option<i64>, fields: &[(&str, &str)]) -> IncomingCall {
        let route = Route {
            method: 0,
            kind: Kind::Unary,
        };
        let body = RawBody::plain(bytes::Bytes::new());
        IncomingCall {
            metadata: fields.iter().copied().collect::<MetadataMap>(),
            log_id,
            ..IncomingCall::new(CallId::new(0, 0), route, body, Instant::ZERO)
        }
    }

    #[test]
    fn marked_fields_and_the_log_id_go_on_unless_the_request_says_otherwise() {
        let incoming = call(
            Some(7),
            &[("x-ctx-tenant", "a"), ("x-ctx-own", "b"), ("private", "c")],
        );
        let scope = Ambient::of(&incoming);
        let mut request = Request::new(());
        request.metadata_mut().append("x-ctx-own", "mine");
        add_to(&mut request);
        assert_eq!(request.log_id(), Some(7));
        assert_eq!(request.metadata().get("x-ctx-tenant"), Some("a"));
        assert_eq!(request.metadata().get("x-ctx-own"), Some("mine"));
        assert_eq!(request.metadata().get("private"), None);
        drop(scope);
        let mut after = Request::new(());
        add_to(&mut after);
        assert!(after.log_id().is_none() && after.metadata().is_empty());
    }

    #[test]
    fn a_call_that_came_with_nothing_costs_nothing() {
        assert!(Ambient::of(&call(None, &[])).is_none());
    }
}
