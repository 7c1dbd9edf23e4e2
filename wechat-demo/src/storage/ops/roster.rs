//! Who is in a group as what, and who may change what: one group's state and what a change makes of it.
//!
//! Knows: roles and their rights.   Does not know: rows, items, positions of messages.
//!
//! The caller's home asks it before the change goes out, on its copy; the group's home asks it again, on the
//! truth.
//!
//! Invariants
//! - R-1  A group with members has one owner among them; one without has ended and takes nobody.
//! - R-2  `members` stands in the order of user ids, each once, at most [`GROUP_MEMBERS`].

use crate::{
    model::limits::GROUP_MEMBERS,
    proto::terminal::{Group, GroupChange, Member, group_change::What, member::Role},
};

/// Why a change is not made; for whoever asked.
pub(super) type Why = &'static str;

/// A new group of `owner` and others.
pub(super) fn new(group_id: u64, owner: u64, name: &str, others: &[u64]) -> Group {
    let mut group = Group {
        group_id,
        name: name.to_owned(),
        ..Group::default()
    };
    add(&mut group, &[owner], 0);
    set_role(&mut group, owner, Role::Owner);
    add(&mut group, others, 0);
    group
}

/// What a user is in a group; `None` if they are not in it.
pub(super) fn role(group: &Group, user: u64) -> Option<Role> {
    member(group, user).map(Member::role)
}

/// A user in a group.
pub(super) fn member(group: &Group, user: u64) -> Option<&Member> {
    let at = find(group, user).ok()?;
    Some(&group.members[at])
}

/// Makes a change of `by`'s; `at` is the position at which who comes now begins to read. False if it is so
/// already.
pub(super) fn apply(
    group: &mut Group,
    by: u64,
    change: &GroupChange,
    at: u64,
) -> Result<bool, Why> {
    let own = role(group, by);
    let what = change.what.as_ref().ok_or("the change says nothing")?;
    if let What::Join(_) = what {
        return match own {
            Some(_) => Ok(false),
            None if group.members.is_empty() => Err("the group has ended: nobody is in it"),
            None if !group.open => Err("the group takes nobody who was not invited"),
            None => join(group, &[by], at),
        };
    }
    let own = own.ok_or("you are not a member of the group")?;
    let leads = matches!(own, Role::Owner | Role::Admin);
    let before = group.clone();
    match what {
        What::Name(_) | What::Announcement(_) | What::Open(_) if !leads => {
            return Err("only the owner and admins do that");
        }
        What::Owner(_) | What::Admin(_) if own != Role::Owner => {
            return Err("only the owner does that");
        }
        What::Name(name) => group.name.clone_from(name),
        What::Announcement(text) => group.announcement.clone_from(text),
        What::Open(open) => group.open = *open,
        What::Invite(members) => return join(group, &members.user_ids, at),
        What::Kick(members) => {
            for &user in &members.user_ids {
                match role(group, user) {
                    Some(Role::Owner) => return Err("the owner cannot be sent away"),
                    Some(Role::Admin) if own != Role::Owner => {
                        return Err("only the owner sends an admin away");
                    }
                    Some(_) if !leads => return Err("only the owner and admins do that"),
                    Some(_) | None => {}
                }
            }
            for &user in &members.user_ids {
                remove(group, user);
            }
        }
        What::Leave(_) => remove(group, by),
        What::Owner(user) => {
            role(group, *user).ok_or("the new owner must be a member")?;
            set_role(group, by, Role::Plain);
            set_role(group, *user, Role::Owner);
        }
        What::Admin(admin) => {
            if admin.user_id == by {
                return Err("the owner is no admin");
            }
            role(group, admin.user_id).ok_or("an admin must be a member")?;
            let role = if admin.admin {
                Role::Admin
            } else {
                Role::Plain
            };
            set_role(group, admin.user_id, role);
        }
        What::Join(_) => {}
    }
    Ok(*group != before)
}

fn join(group: &mut Group, users: &[u64], at: u64) -> Result<bool, Why> {
    let mut new: Vec<u64> = users
        .iter()
        .copied()
        .filter(|&user| find(group, user).is_err())
        .collect();
    new.sort_unstable();
    new.dedup();
    if group.members.len() + new.len() > GROUP_MEMBERS {
        return Err("the group is full");
    }
    add(group, &new, at);
    Ok(!new.is_empty())
}

fn add(group: &mut Group, users: &[u64], joined: u64) {
    for &user_id in users {
        if let Err(at) = find(group, user_id) {
            let member = Member {
                user_id,
                role: Role::Plain.into(),
                joined,
            };
            group.members.insert(at, member);
        }
    }
}

/// Takes a member out. The owner's place goes to an admin, else to a member: whoever came first.
fn remove(group: &mut Group, user: u64) {
    let Ok(at) = find(group, user) else { return };
    let gone = group.members.remove(at);
    if gone.role() != Role::Owner {
        return;
    }
    let next = group
        .members
        .iter()
        .min_by_key(|member| (member.role() != Role::Admin, member.joined, member.user_id))
        .map(|member| member.user_id);
    if let Some(next) = next {
        set_role(group, next, Role::Owner);
    }
}

fn set_role(group: &mut Group, user: u64, role: Role) {
    if let Ok(at) = find(group, user) {
        group.members[at].role = role.into();
    }
}

fn find(group: &Group, user: u64) -> Result<usize, usize> {
    group
        .members
        .binary_search_by_key(&user, |member| member.user_id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::terminal::{AdminChange, Members};

    fn change(what: What) -> GroupChange {
        GroupChange {
            group_id: 9,
            what: Some(what),
        }
    }

    fn members(user_ids: Vec<u64>) -> Members {
        Members { user_ids }
    }

    fn any_change() -> impl Strategy<Value = What> {
        let user = 1..8_u64;
        prop_oneof![
            "[a-c]".prop_map(What::Name),
            any::<bool>().prop_map(What::Open),
            prop::collection::vec(user.clone(), 1..3).prop_map(|ids| What::Invite(members(ids))),
            prop::collection::vec(user.clone(), 1..3).prop_map(|ids| What::Kick(members(ids))),
            Just(What::Leave(true)),
            Just(What::Join(true)),
            user.clone().prop_map(What::Owner),
            (user, any::<bool>())
                .prop_map(|(user_id, admin)| What::Admin(AdminChange { user_id, admin })),
        ]
    }

    proptest! {
        #[test]
        fn a_group_has_one_owner_whatever_its_members_do(
            steps in prop::collection::vec((1..8_u64, any_change()), 0..60))
        {
            let mut group = new(9, 1, "a", &[2, 3]);
            for (at, (by, what)) in steps.into_iter().enumerate() {
                let before = group.clone();
                let outcome = apply(&mut group, by, &change(what), at as u64);
                prop_assert_eq!(outcome == Ok(true), before != group, "what is refused changes nothing");
                let owners = group.members.iter().filter(|member| member.role() == Role::Owner).count();
                prop_assert_eq!(owners, usize::from(!group.members.is_empty()));
                prop_assert!(group.members.is_sorted_by(|a, b| a.user_id < b.user_id));
            }
        }
    }

    #[test]
    fn rights_are_as_the_roles_say() {
        let fresh = || {
            let mut group = new(9, 1, "a", &[2, 3, 4]);
            let admin = AdminChange {
                user_id: 2,
                admin: true,
            };
            apply(&mut group, 1, &change(What::Admin(admin)), 0).unwrap();
            group
        };
        let may = |by, what| apply(&mut fresh(), by, &change(what), 1).is_ok();
        let kick = |user| What::Kick(members(vec![user]));
        assert!(may(1, kick(2)) && may(2, kick(3)) && !may(3, kick(4)));
        assert!(!may(2, kick(1)), "nobody sends the owner away");
        assert!(may(2, What::Name("b".into())) && !may(3, What::Name("b".into())));
        assert!(may(1, What::Owner(3)) && !may(2, What::Owner(2)));
        assert!(!may(1, What::Owner(7)), "an owner is a member");
        assert!(may(3, What::Invite(members(vec![7]))));
        assert!(!may(7, What::Invite(members(vec![7]))) && !may(7, What::Leave(true)));
        assert!(!may(7, What::Join(true)), "the group is not open");
        let mut open = fresh();
        apply(&mut open, 2, &change(What::Open(true)), 1).unwrap();
        assert_eq!(apply(&mut open, 7, &change(What::Join(true)), 5), Ok(true));
        assert_eq!(open.members.last().unwrap().joined, 5);
    }

    #[test]
    fn an_owner_who_leaves_is_followed_by_an_admin() {
        let mut group = new(9, 1, "a", &[2, 3]);
        let admin = AdminChange {
            user_id: 3,
            admin: true,
        };
        apply(&mut group, 1, &change(What::Admin(admin)), 0).unwrap();
        apply(&mut group, 1, &change(What::Leave(true)), 0).unwrap();
        assert_eq!(role(&group, 3), Some(Role::Owner));
    }

    #[test]
    fn a_group_that_all_have_left_has_ended() {
        let mut group = new(9, 1, "a", &[]);
        apply(&mut group, 1, &change(What::Open(true)), 0).unwrap();
        apply(&mut group, 1, &change(What::Leave(true)), 0).unwrap();
        let why = "the group has ended: nobody is in it";
        assert_eq!(apply(&mut group, 2, &change(What::Join(true)), 1), Err(why));
    }

    #[test]
    fn a_full_group_takes_nobody() {
        let all: Vec<u64> = (2..=GROUP_MEMBERS as u64).collect();
        let mut group = new(9, 1, "a", &all);
        let one_more = change(What::Invite(members(vec![GROUP_MEMBERS as u64 + 1])));
        assert_eq!(apply(&mut group, 1, &one_more, 1), Err("the group is full"));
    }
}
