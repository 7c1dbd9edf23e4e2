//! Reading who is in a group, at the group's home, which alone decides it.

use super::{
    engine::Engine,
    ops::{Refusal, RefusalKind, Stop},
    table, timeline,
};
use crate::{
    model::{
        UserId,
        limits::{MEMBERS_DEFAULT, MEMBERS_MAX},
    },
    proto::{storage as pb, terminal},
};

/// A page of a group's members above `after`, for `reader` who is one of them. Whether there is such a group nobody else
/// learns.
pub fn page(
    engine: &dyn Engine,
    reader: UserId,
    request: &terminal::ListMembersRequest,
) -> Result<terminal::ListMembersReply, Stop> {
    let limit = match request.limit as usize {
        0 => MEMBERS_DEFAULT,
        limit => limit.min(MEMBERS_MAX),
    };
    let group = UserId(request.group_id);
    let row: Option<pb::GroupRow> = timeline::message(engine, &table::group(group))?;
    let mut members = row.and_then(|row| row.group).unwrap_or_default().members;
    if !members.iter().any(|member| member.user_id == reader.0) {
        let text = "you are not a member of the group";
        return Err(Refusal::new(RefusalKind::PermissionDenied, text).into());
    }
    members.retain(|member| member.user_id > request.after);
    let more = members.len() > limit;
    members.truncate(limit);
    let last = members.last().filter(|_| more);
    Ok(terminal::ListMembersReply {
        next: last.map_or(0, |member| member.user_id),
        members,
    })
}
