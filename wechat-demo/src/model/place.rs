//! Who lives where: user id → section → shard; name → shard.

use std::fmt;

use crate::model::UserId;

/// Slots of the user-id hash space. A section of a full home has about 100,000 users, so this many are
/// good for 10^8.
pub const SECTIONS: u32 = 1024;

/// A slot of the user-id hash space; its users share one `max_seq`. Below [`SECTIONS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SectionId(pub u32);

/// Whole sections under one log. Below the home's number of shards, which is at most 256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardId(pub u8);

/// A data centre's store: everything of the users who are at home there. Part of their ids; 0 where there is one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct HomeId(pub u8);

/// A shard, wherever it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Site {
    /// Whose.
    pub home: HomeId,
    /// Which of that home's.
    pub shard: ShardId,
}

/// The map of one home; fixed when its store is created, because a user's log cannot move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    shards: u16,
}

/// A number of shards that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} shards asked for; give a power of two between 1 and 256")]
pub struct PlacementError(pub u32);

impl HomeId {
    /// Homes have ids from 0 to this.
    pub const MAX: Self = Self(15);
}

impl Placement {
    /// Shards of a home unless it was created with another number.
    pub const DEFAULT_SHARDS: u32 = 8;

    /// A home of `shards` shards: a power of two up to 256.
    pub fn new(shards: u32) -> Result<Self, PlacementError> {
        match shards {
            1..=256 if shards.is_power_of_two() => Ok(Self {
                shards: shards as u16,
            }),
            _ => Err(PlacementError(shards)),
        }
    }

    /// How many shards there are.
    pub fn shards(self) -> usize {
        usize::from(self.shards)
    }

    /// All shards.
    pub fn all(self) -> impl Iterator<Item = ShardId> {
        (0..self.shards).map(|shard| ShardId(shard as u8))
    }

    /// The section of a user.
    pub fn section(self, user: UserId) -> SectionId {
        SectionId((mix(user.0) >> 32) as u32 % SECTIONS)
    }

    /// The shard of a section: neighbouring sections share one.
    pub fn shard_of_section(self, section: SectionId) -> ShardId {
        ShardId((section.0 * u32::from(self.shards) / SECTIONS) as u8)
    }

    /// The home shard of a user.
    pub fn shard(self, user: UserId) -> ShardId {
        self.shard_of_section(self.section(user))
    }

    /// The shard of a user, at the user's own home. All homes have the same number of shards.
    pub fn site(self, user: UserId) -> Site {
        Site {
            home: user.home(),
            shard: self.shard(user),
        }
    }

    /// The shard that decides whose a name is.
    pub fn shard_of_name(self, name: &str) -> ShardId {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        ShardId((mix(hash) % u64::from(self.shards)) as u8)
    }
}

impl fmt::Display for HomeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "home {}", self.0)
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.shard, self.home)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {}", self.0)
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014). Part of the disk format: users would change
/// their homes with it.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_never_changes() {
        let place = Placement::new(8).unwrap();
        let homes: Vec<u8> = (1..=8)
            .map(|n| place.shard(UserId::from_count(n, 3, HomeId(0))).0)
            .collect();
        let names = ["alice", "bob", "王小明"].map(|name| place.shard_of_name(name).0);
        // Written down once; a difference means that stores on disk no longer find their users.
        assert_eq!((homes, names), (vec![0, 0, 0, 5, 0, 5, 1, 4], [5, 4, 6]));
    }

    #[test]
    fn users_spread_over_all_shards() {
        let place = Placement::new(8).unwrap();
        let mut count = [0_u32; 8];
        for n in 1..=8000 {
            count[usize::from(
                place
                    .shard(UserId::from_count(n, (n % 8) as u16, HomeId(0)))
                    .0,
            )] += 1;
        }
        assert!(
            count.iter().all(|&users| (800..1200).contains(&users)),
            "{count:?}"
        );
    }

    #[test]
    fn odd_numbers_of_shards_are_refused() {
        for shards in [0, 3, 12, 257, 512] {
            assert_eq!(Placement::new(shards), Err(PlacementError(shards)));
        }
    }
}
