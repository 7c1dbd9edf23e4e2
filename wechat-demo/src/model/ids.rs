//! Who and what: identities that are compared and copied, never computed with.

use std::{fmt, ops::RangeInclusive};

use crate::model::{HomeId, Site};

/// A person. Given out by the shard of the person's name: 1 bit for groups, 4 bits home, 47 bits count, 12 bits shard
/// of the name; 0 is nobody.
///
/// Which of the home's shards is its own follows from its hash alone ([`crate::model::Placement`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UserId(pub u64);

/// One login of one user: a phone, a desktop. Random, unique among the user's devices; 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceId(pub u64);

/// A message, the same in every timeline that holds it:
/// 16 bits incarnation, 4 bits home and 8 bits shard of the sender, 36 bits count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MessageId(pub u64);

/// What the sending device calls a message before it has an id: 8 to 16 random bytes, filled up with zeros. With
/// the sender's id it names the message for ever, which makes a retry harmless.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientMsgId(pub [u8; 16]);

impl UserId {
    /// Bits of a user id that name the shard which gave it out.
    pub const SHARD_BITS: u32 = 12;

    /// Where the bits of the home begin.
    const HOME_SHIFT: u32 = 59;

    /// The id number `count` of the names of `shard`, of somebody at home in `home`. `count` starts at 1.
    pub fn from_count(count: u64, shard: u16, home: HomeId) -> Self {
        assert!(
            count > 0 && count < 1 << (Self::HOME_SHIFT - Self::SHARD_BITS),
            "user count {count} out of range"
        );
        assert!(shard < 1 << Self::SHARD_BITS, "shard {shard} out of range");
        let home = u64::from(home.0) << Self::HOME_SHIFT;
        Self(home | count << Self::SHARD_BITS | u64::from(shard))
    }

    /// Where everything of it is written.
    pub fn home(self) -> HomeId {
        HomeId((self.0 >> Self::HOME_SHIFT) as u8 & HomeId::MAX.0)
    }
}

impl UserId {
    /// Set in the ids of groups.
    const GROUP: u64 = 1 << 63;

    /// The id number `count` of the groups made at `shard` of `home`; where a user's id may stand, a group's may.
    pub fn group_from_count(count: u64, shard: u16, home: HomeId) -> Self {
        Self(Self::from_count(count, shard, home).0 | Self::GROUP)
    }

    /// Whether it is a group's.
    pub fn is_group(self) -> bool {
        self.0 & Self::GROUP != 0
    }
}

impl MessageId {
    /// Bits of the count.
    pub const COUNT_BITS: u32 = 36;

    /// The id number `count` of a shard in `incarnation`.
    pub fn from_count(incarnation: u16, from: Site, count: u64) -> Self {
        assert!(
            count < 1 << Self::COUNT_BITS,
            "message count {count} out of range"
        );
        let site = u64::from(from.home.0) << 8 | u64::from(from.shard.0);
        Self(u64::from(incarnation) << 48 | site << Self::COUNT_BITS | count)
    }
}

impl ClientMsgId {
    /// Bytes of a client id on the wire.
    pub const BYTES: RangeInclusive<usize> = 8..=16;

    /// Takes 8 to 16 bytes; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if !Self::BYTES.contains(&bytes.len()) {
            return None;
        }
        let mut id = [0; 16];
        id[..bytes.len()].copy_from_slice(bytes);
        Some(Self(id))
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_group() {
            true => write!(f, "group {:x}", self.0),
            false => write!(f, "user {}", self.0),
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {:x}", self.0)
    }
}

impl fmt::Display for ClientMsgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClientMsgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientMsgId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ShardId;

    #[test]
    fn ids_of_different_shards_never_meet() {
        let mut seen = std::collections::HashSet::new();
        for (shard, home) in (0..8).flat_map(|shard| [0, 7, 15].map(|home| (shard, HomeId(home)))) {
            for count in 1..100 {
                let user = UserId::from_count(count, shard, home);
                let group = UserId::group_from_count(count, shard, home);
                assert_eq!((user.home(), group.home()), (home, home));
                assert!(seen.insert(user) && seen.insert(group));
                let from = Site {
                    home,
                    shard: ShardId(shard as u8),
                };
                assert!(seen.insert(UserId(!MessageId::from_count(1, from, count).0)));
            }
        }
    }

    #[test]
    fn a_client_id_has_eight_to_sixteen_bytes() {
        assert!(ClientMsgId::from_bytes(&[7; 7]).is_none());
        assert!(ClientMsgId::from_bytes(&[7; 17]).is_none());
        assert_eq!(
            ClientMsgId::from_bytes(&[7; 16]),
            Some(ClientMsgId([7; 16]))
        );
        assert_eq!(
            ClientMsgId::from_bytes(&[7; 8]),
            ClientMsgId::from_bytes(&[7, 7, 7, 7, 7, 7, 7, 7, 0])
        );
    }
}
