//! Maglev consistent hashing (Eisenbud et al., NSDI 2016, section 3.4): the look-up table.
//!
//! Every node builds the same table from the same set of servers, whatever order they are listed
//! in, so that any director behind ECMP sends a flow to the same server. Building belongs to
//! control; workers only index.

use std::net::IpAddr;

use siphasher::sip::SipHasher13;
use std::hash::Hasher;

/// Slot to server position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaglevTable {
    slots: Vec<u32>,
}

/// A slot count that makes no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a Maglev table needs a prime number of slots, at least 2 and above the number of servers; \
     {0} is not"
)]
pub struct MaglevTableError(pub usize);

/// A server's walk through the slots.
struct Walk {
    server: u32,
    weight: u64,
    credit: u64,
    at: u64,
    skip: u64,
}

fn hash(seed: u64, address: IpAddr, port: u16) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(seed, !seed);
    match address {
        IpAddr::V4(v4) => hasher.write(&v4.octets()),
        IpAddr::V6(v6) => hasher.write(&v6.octets()),
    }
    hasher.write(&port.to_be_bytes());
    hasher.finish()
}

/// Whether `n` is a prime.
pub(super) fn is_prime(n: usize) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

impl MaglevTable {
    /// A table of `slots` (a prime) over `servers` = (address, port, weight), in any order; a
    /// server fills slots in proportion to its weight, none with weight 0. The table holds
    /// positions in `servers`. Empty when all weights are 0.
    pub fn new(slots: usize, servers: &[(IpAddr, u16, u32)]) -> Result<Self, MaglevTableError> {
        if !is_prime(slots) || slots <= servers.len() {
            return Err(MaglevTableError(slots));
        }
        let mut walks = Self::walks(slots as u64, servers);
        let Some(weight_max) = walks.iter().map(|walk| walk.weight).max() else {
            return Ok(MaglevTable { slots: Vec::new() });
        };
        let mut table = vec![u32::MAX; slots];
        let mut filled = 0;
        loop {
            for walk in &mut walks {
                walk.credit += walk.weight;
                if walk.credit < weight_max {
                    continue;
                }
                walk.credit -= weight_max;
                while table[walk.at as usize] != u32::MAX {
                    walk.at = (walk.at + walk.skip) % slots as u64;
                }
                table[walk.at as usize] = walk.server;
                filled += 1;
                if filled == slots {
                    return Ok(MaglevTable { slots: table });
                }
            }
        }
    }

    fn walks(slots: u64, servers: &[(IpAddr, u16, u32)]) -> Vec<Walk> {
        let mut order: Vec<usize> = (0..servers.len()).filter(|i| servers[*i].2 > 0).collect();
        order.sort_by_key(|i| (servers[*i].0, servers[*i].1));
        order
            .into_iter()
            .map(|i| {
                let (address, port, weight) = servers[i];
                Walk {
                    server: i as u32,
                    weight: u64::from(weight),
                    credit: 0,
                    at: hash(0x6d61_676c_6576_0001, address, port) % slots,
                    skip: hash(0x6d61_676c_6576_0002, address, port) % (slots - 1) + 1,
                }
            })
            .collect()
    }

    /// Position of the server for `hash`, `None` when no server has weight.
    #[inline]
    pub fn look_up(&self, hash: u64) -> Option<usize> {
        let len = self.slots.len() as u128;
        // Multiply-shift instead of a division; even for any well-mixed hash.
        let at = ((u128::from(hash) * len) >> 64) as usize;
        self.slots.get(at).map(|server| *server as usize)
    }

    /// Server position of every slot.
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(count: u8, weight: u32) -> Vec<(IpAddr, u16, u32)> {
        (1..=count).map(|n| (IpAddr::from([10, 2, 0, n]), 80, weight)).collect()
    }

    fn shares(table: &MaglevTable, servers: usize) -> Vec<usize> {
        let mut shares = vec![0; servers];
        table.slots().iter().for_each(|server| shares[*server as usize] += 1);
        shares
    }

    #[test]
    fn order_of_listing_does_not_matter() {
        let forward = servers(20, 3);
        let backward: Vec<_> = forward.iter().rev().copied().collect();
        let a = MaglevTable::new(65_537, &forward).unwrap();
        let b = MaglevTable::new(65_537, &backward).unwrap();
        let same = a
            .slots()
            .iter()
            .zip(b.slots())
            .all(|(x, y)| forward[*x as usize] == backward[*y as usize]);
        assert!(same);
    }

    #[test]
    fn equal_weights_share_evenly_and_zero_gets_none() {
        let mut list = servers(10, 1);
        list[4].2 = 0;
        let shares = shares(&MaglevTable::new(65_537, &list).unwrap(), 10);
        assert_eq!(shares[4], 0);
        let (min, max) = (shares.iter().filter(|n| **n > 0).min(), shares.iter().max());
        assert!(max.unwrap() - min.unwrap() <= 1, "{shares:?}");
    }

    #[test]
    fn slots_follow_weights() {
        let mut list = servers(3, 1);
        list[2].2 = 6;
        let shares = shares(&MaglevTable::new(65_537, &list).unwrap(), 3);
        assert!(shares[2].abs_diff(65_537 * 6 / 8) < 10, "{shares:?}");
    }

    #[test]
    fn one_removal_moves_few_other_slots() {
        let all = servers(50, 1);
        let before = MaglevTable::new(65_537, &all).unwrap();
        let after = MaglevTable::new(65_537, &all[..49]).unwrap();
        let moved =
            before.slots().iter().zip(after.slots()).filter(|(b, a)| **b != 49 && b != a).count();
        assert!(moved < 65_537 / 50, "{moved} slots moved besides the removed server's");
    }

    #[test]
    fn impossible_tables_are_refused() {
        assert_eq!(MaglevTable::new(65_536, &servers(2, 1)), Err(MaglevTableError(65_536)));
        assert_eq!(MaglevTable::new(7, &servers(7, 1)), Err(MaglevTableError(7)));
        assert_eq!(MaglevTable::new(7, &servers(3, 0)).unwrap().look_up(9), None);
    }
}
