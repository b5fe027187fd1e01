//! The kernel's `mh` (`ip_vs_mh.c`, 6.1): Maglev hashing as Linux does it, so that a kernel
//! director beside this one picks the same server. `maglev` is the other one, after the paper.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use super::family::Family;
use super::service::{RealServer, ServerState};
use super::source_hash::fold_address;

/// Slots of the table: a prime, the kernel's unless built otherwise (`IP_VS_MH_TAB_INDEX` 12).
pub const KERNEL_MAGLEV_SLOTS: usize = 4093;
/// Bits of weight that count, half of `IP_VS_MH_TAB_INDEX`: heavier ones are shifted down to them.
const WEIGHT_BITS: u32 = 6;
/// Both words of the key that finds slots.
const SLOT_KEY: u64 = 2_654_435_761;
/// Both words of the key that finds a server's step.
const STEP_KEY: u64 = 2_654_446_892;

/// Slot to server position; empty without weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelMaglevTable {
    slots: Vec<u32>,
}

/// A server's walk through the slots.
struct Walk {
    server: u32,
    /// Slots it takes before the next server's turn.
    turns: u32,
    at: usize,
    step: usize,
}

/// The kernel's `hsiphash` on a 64-bit machine: SipHash-1-3 of four bytes, the low half of it.
fn hash(key: u64, address: u32, port: u16, offset: u32) -> usize {
    let value = address.wrapping_add(u32::from(port)).wrapping_add(offset);
    let mut hasher = SipHasher13::new_with_keys(key, key);
    hasher.write(&value.to_le_bytes());
    hasher.finish() as u32 as usize
}

/// A server's address as the kernel hashes it, by the service's family: of an IPv6 server behind
/// an IPv4 service (TUN) only the first 32 bits count.
fn server_word(address: IpAddr, of_service: Family) -> u32 {
    match address {
        IpAddr::V6(v6) if of_service == Family::V4 => (u128::from(v6) >> 96) as u32,
        _ => fold_address(address),
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Slots a server takes in a row: its share of the weights' common divisor, at most six bits.
fn turns(weight: u32, gcd: u32, shift: u32) -> u32 {
    let turns = (weight / gcd) >> shift;
    if turns == 0 { u32::from(weight > 0) } else { turns }
}

impl KernelMaglevTable {
    /// The table of a service of a family over `servers` (order of adding; the kernel's list is the
    /// reverse), with positions in it. A server keeps the slots of its last weight above 0 when it
    /// goes to 0, and refuses their clients; one that drains has none, as if it had left.
    pub fn new(servers: &[RealServer], family: Family) -> Self {
        let mut walks = walks(servers, family);
        if walks.is_empty() {
            return KernelMaglevTable::default();
        }
        let mut slots = vec![u32::MAX; KERNEL_MAGLEV_SLOTS];
        let mut filled = 0;
        loop {
            for walk in &mut walks {
                for _ in 0..walk.turns {
                    while slots[walk.at] != u32::MAX {
                        walk.at = (walk.at + walk.step) % KERNEL_MAGLEV_SLOTS;
                    }
                    slots[walk.at] = walk.server;
                    filled += 1;
                    if filled == KERNEL_MAGLEV_SLOTS {
                        return KernelMaglevTable { slots };
                    }
                }
            }
        }
    }

    /// Position of the server of a client; `offset` 0 at first, and with `mh-fallback` what
    /// `fallback_offset` says for each further try.
    #[inline]
    pub fn look_up(&self, client: IpAddr, port: u16, offset: u32) -> Option<usize> {
        let slot = hash(SLOT_KEY, fold_address(client), port, offset) % KERNEL_MAGLEV_SLOTS;
        self.slots.get(slot).map(|server| *server as usize)
    }

    /// What to add to a client's key at the `attempt`th try to find it another server.
    pub fn fallback_offset(client: IpAddr, port: u16, attempt: u32) -> u32 {
        let first = hash(SLOT_KEY, fold_address(client), port, 0) % KERNEL_MAGLEV_SLOTS;
        (first as u32 + attempt) % KERNEL_MAGLEV_SLOTS as u32
    }

    /// Server position of every slot.
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }
}

/// Walks of the servers that take part, in the kernel's list order.
fn walks(servers: &[RealServer], family: Family) -> Vec<Walk> {
    let listed: Vec<(u32, &RealServer)> = (0u32..)
        .zip(servers)
        .filter(|(_, server)| server.state == ServerState::Active && server.last_weight > 0)
        .collect();
    let weights = || listed.iter().map(|(_, server)| server.last_weight);
    let divisor = weights().fold(0, gcd).max(1);
    let heaviest = weights().max().unwrap_or(0) / divisor;
    let shift = (u32::BITS - heaviest.leading_zeros()).saturating_sub(WEIGHT_BITS);
    let walk = |(at, server): &(u32, &RealServer)| {
        let (address, port) = (server_word(server.address, family), server.port);
        Walk {
            server: *at,
            turns: turns(server.last_weight, divisor, shift),
            at: hash(SLOT_KEY, address, port, 0) % KERNEL_MAGLEV_SLOTS,
            step: hash(STEP_KEY, address, port, 0) % (KERNEL_MAGLEV_SLOTS - 1) + 1,
        }
    };
    listed.iter().rev().map(walk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::service::test_server as server;

    fn shares(servers: &[RealServer]) -> Vec<usize> {
        let table = KernelMaglevTable::new(servers, Family::V4);
        (0..servers.len() as u32)
            .map(|at| table.slots().iter().filter(|slot| **slot == at).count())
            .collect()
    }

    #[test]
    fn slots_follow_weights() {
        let servers = [server(0, 1), server(1, 2), server(2, 5)];
        let shares = shares(&servers);
        assert_eq!(shares.iter().sum::<usize>(), KERNEL_MAGLEV_SLOTS);
        for (share, weight) in shares.iter().zip([1, 2, 5]) {
            assert!(share.abs_diff(KERNEL_MAGLEV_SLOTS * weight / 8) <= 5, "{shares:?}");
        }
    }

    /// 65535 and 1 have no common divisor: 16 bits go down to 6, 63 turns against the one that
    /// nobody falls below. 64 and 1 are 7 bits: 32 turns against one.
    #[test]
    fn heavy_weights_are_shifted_to_six_bits_and_none_vanishes() {
        for (weights, turns) in [([65_535, 1], 63), ([64, 1], 32), ([63, 1], 63), ([130, 2], 32)] {
            let shares = shares(&[server(0, weights[0]), server(1, weights[1])]);
            let rounds = KERNEL_MAGLEV_SLOTS / (turns + 1);
            assert_eq!(shares.iter().sum::<usize>(), KERNEL_MAGLEV_SLOTS);
            assert!(shares[1].abs_diff(rounds) <= 1, "{weights:?}: {shares:?}");
        }
    }

    /// `ip_vs_mh_permutate` hashes by the service's family.
    #[test]
    fn behind_an_ipv4_service_the_first_word_of_an_ipv6_server_counts() {
        let with = |addresses: [&str; 2]| {
            let mut servers = [server(0, 1), server(1, 1)];
            for (server, address) in servers.iter_mut().zip(addresses) {
                server.address = address.parse().unwrap();
            }
            servers
        };
        let far = with(["2001:db8::1", "fd00:2::2"]);
        let near = with(["2001:db8:9::77", "fd00:2:5::8"]);
        let as_ipv4 = with(["32.1.13.184", "253.0.0.2"]);
        let [v4, v6] = [Family::V4, Family::V6];
        let table = |servers: &[RealServer], family| KernelMaglevTable::new(servers, family);
        assert_eq!(table(&far, v4), table(&near, v4));
        assert_eq!(table(&far, v4), table(&as_ipv4, v4));
        assert_ne!(table(&far, v6), table(&near, v6));
        assert_eq!(table(&as_ipv4, v6), table(&as_ipv4, v4));
    }

    #[test]
    fn a_weight_of_0_keeps_slots_only_if_there_was_another_before() {
        let mut servers = [server(0, 1), server(1, 0)];
        assert_eq!(shares(&servers), [KERNEL_MAGLEV_SLOTS, 0]);
        servers[1].last_weight = 1;
        assert!(shares(&servers)[1] > 2000);
        servers[1].state = ServerState::Draining;
        assert_eq!(shares(&servers), [KERNEL_MAGLEV_SLOTS, 0]);
        assert!(KernelMaglevTable::new(&servers[1..], Family::V4).slots().is_empty());
    }
}
