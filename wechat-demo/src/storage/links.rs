//! Where users' terminals are just now: live links, in the primary's memory.
//!
//! Nothing rests on it: a link that is not known here gets no notify, and its next heartbeat finds the
//! newest key. So it is not logged, and after a restart the beats fill it again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::model::{
    DeviceId, UserId,
    limits::{LINK_LIFE_MS, LINKED_USERS, LINKS_PER_USER},
};

/// One long link of one device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Whose.
    pub device: DeviceId,
    /// RPC address of the access process that has it.
    pub access: Arc<str>,
    /// Grows with each link: of two of one device the higher one is live.
    pub number: u64,
    /// Somebody uses the device.
    pub active: bool,
}

/// All live links of a store's users.
#[derive(Default)]
pub struct Links {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    users: HashMap<UserId, Vec<Live>>,
    /// Users at which expired links are looked for again.
    sweep_at: usize,
}

struct Live {
    link: Link,
    expires_ms: i64,
}

/// Fewer users than this are not worth a sweep.
const SWEEP_MIN: usize = 1024;

impl Links {
    /// Notes or renews a link. False if it is not noted: a newer link of the device is known, or there are too
    /// many users.
    pub fn register(&self, user: UserId, link: Link, now_ms: i64) -> bool {
        let mut inner = self.lock();
        inner.sweep(now_ms);
        if inner.users.len() >= LINKED_USERS && !inner.users.contains_key(&user) {
            return false;
        }
        let links = inner.users.entry(user).or_default();
        links.retain(|live| live.expires_ms > now_ms);
        if links
            .iter()
            .any(|live| live.link.device == link.device && live.link.number > link.number)
        {
            return false;
        }
        links.retain(|live| live.link.device != link.device);
        if links.len() >= LINKS_PER_USER {
            let first = (0..links.len()).min_by_key(|&at| links[at].expires_ms);
            links.remove(first.expect("a full list is not empty"));
        }
        links.push(Live {
            link,
            expires_ms: now_ms + LINK_LIFE_MS,
        });
        true
    }

    /// Forgets a link, unless a newer one took its place.
    pub fn drop_link(&self, user: UserId, device: DeviceId, number: u64) {
        self.forget(user, |link| link.device == device && link.number <= number);
    }

    /// Forgets the links of a user's devices that are not to be kept.
    pub fn retain(&self, user: UserId, keep: impl Fn(DeviceId) -> bool) {
        self.forget(user, |link| !keep(link.device));
    }

    /// Forgets a link that its access process no longer has.
    pub fn gone(&self, user: UserId, access: &str, number: u64) {
        self.forget(user, |link| {
            &*link.access == access && link.number == number
        });
    }

    /// The live links of a user.
    pub fn of(&self, user: UserId, now_ms: i64) -> Vec<Link> {
        let inner = self.lock();
        let Some(links) = inner.users.get(&user) else {
            return Vec::new();
        };
        links
            .iter()
            .filter(|live| live.expires_ms > now_ms)
            .map(|live| live.link.clone())
            .collect()
    }

    /// Whether a device of a user has a live link.
    pub fn has(&self, user: UserId, device: DeviceId, now_ms: i64) -> bool {
        let inner = self.lock();
        let links = inner.users.get(&user).into_iter().flatten();
        links
            .into_iter()
            .any(|live| live.link.device == device && live.expires_ms > now_ms)
    }

    /// Whether somebody uses a device of a user's.
    pub fn is_here(&self, user: UserId, now_ms: i64) -> bool {
        let inner = self.lock();
        let mut links = inner.users.get(&user).into_iter().flatten();
        links.any(|live| live.link.active && live.expires_ms > now_ms)
    }

    fn forget(&self, user: UserId, which: impl Fn(&Link) -> bool) {
        let mut inner = self.lock();
        if let Some(links) = inner.users.get_mut(&user) {
            links.retain(|live| !which(&live.link));
            if links.is_empty() {
                inner.users.remove(&user);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock panics half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Lets go of expired links, at a cost that the registrations since the last time have paid for.
    fn sweep(&mut self, now_ms: i64) {
        if self.users.len() < self.sweep_at.max(SWEEP_MIN) {
            return;
        }
        self.users
            .retain(|_, links| links.iter().any(|live| live.expires_ms > now_ms));
        self.sweep_at = 2 * self.users.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: UserId = UserId(9);

    fn link(device: u64, number: u64) -> Link {
        Link {
            device: DeviceId(device),
            access: "127.0.0.1:1".into(),
            number,
            active: false,
        }
    }

    #[test]
    fn a_user_is_here_while_somebody_uses_a_device() {
        let links = Links::default();
        let used = |number| Link {
            active: true,
            ..link(1, number)
        };
        links.register(USER, link(2, 2), 0);
        assert!(!links.is_here(USER, 0));
        links.register(USER, used(1), 0);
        assert!(links.is_here(USER, LINK_LIFE_MS - 1));
        assert!(!links.is_here(USER, LINK_LIFE_MS), "it was not renewed");
        links.register(USER, link(1, 1), 0);
        assert!(!links.is_here(USER, 0), "the same link, not used any more");
    }

    #[test]
    fn the_newest_link_of_a_device_wins() {
        let links = Links::default();
        assert!(links.register(USER, link(1, 5), 0));
        assert!(!links.register(USER, link(1, 4), 0));
        assert!(links.register(USER, link(1, 6), 0));
        links.drop_link(USER, DeviceId(1), 5);
        assert_eq!(links.of(USER, 0), [link(1, 6)]);
        links.drop_link(USER, DeviceId(1), 6);
        assert!(links.of(USER, 0).is_empty());
    }

    #[test]
    fn a_link_that_is_not_renewed_expires() {
        let links = Links::default();
        links.register(USER, link(1, 1), 0);
        links.register(USER, link(2, 2), 0);
        links.register(USER, link(1, 1), 10);
        assert_eq!(links.of(USER, LINK_LIFE_MS), [link(1, 1)]);
        assert!(links.of(USER, LINK_LIFE_MS + 10).is_empty());
    }

    #[test]
    fn a_user_has_a_bounded_number_of_links() {
        let links = Links::default();
        for device in 0..2 * LINKS_PER_USER as u64 {
            assert!(links.register(USER, link(device, device + 1), device as i64));
        }
        let left = links.of(USER, 100);
        assert_eq!(left.len(), LINKS_PER_USER);
        assert!(
            left.iter()
                .all(|link| link.device.0 >= LINKS_PER_USER as u64)
        );
    }

    #[test]
    fn expired_users_are_swept_out() {
        let links = Links::default();
        for user in 0..2 * SWEEP_MIN as u64 {
            links.register(UserId(user), link(1, 1), 0);
        }
        links.register(USER, link(1, 2), LINK_LIFE_MS);
        for user in 0..2 * SWEEP_MIN as u64 {
            links.register(UserId(1 << 40 | user), link(1, 1), 2 * LINK_LIFE_MS);
        }
        assert!(links.lock().users.len() <= 2 * SWEEP_MIN + 1);
    }
}
