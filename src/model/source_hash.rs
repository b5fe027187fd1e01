//! The kernel's `sh` and `dh` tables (`ip_vs_sh.c`, `ip_vs_dh.c`, 6.1): the hash, and which server
//! each of 256 buckets belongs to.

use std::net::IpAddr;

use super::service::{RealServer, ServerState};

/// Buckets of either table.
pub const HASH_BUCKETS: usize = 256;

/// An address as the kernel's schedulers hash it: host order, IPv6's 32-bit words xor-ed.
#[inline]
pub fn fold_address(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => u32::from(v4),
        IpAddr::V6(v6) => {
            let bits = u128::from(v6);
            (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
        }
    }
}

/// The bucket of an address and a port (0 without `sh-port`): the kernel's `hash_32` down to
/// 8 bits (golden ratio).
#[inline]
pub fn hash_bucket(address: IpAddr, port: u16) -> usize {
    (fold_address(address).wrapping_add(u32::from(port)).wrapping_mul(0x61c8_8647) >> 24) as usize
}

/// The kernel's walk of its list, last added first, again and again: each server gets as many
/// buckets in turn as `turns` says. A draining server gets none, as if it had left: it must not
/// refuse anybody.
fn deal(servers: &[RealServer], turns: impl Fn(&RealServer) -> u32) -> Vec<u32> {
    let listed: Vec<(u32, u32)> = (0u32..)
        .zip(servers)
        .filter(|(_, server)| server.state == ServerState::Active)
        .map(|(at, server)| (at, turns(server)))
        .collect();
    let walk = listed.iter().rev().cycle();
    walk.flat_map(|(at, turns)| std::iter::repeat_n(*at, *turns as usize))
        .take(HASH_BUCKETS)
        .collect()
}

/// The table of `sh`: position in `servers` (order of adding) for each bucket; empty when no
/// server may take flows. A server of weight 0 still gets one bucket in turn, and refuses its
/// clients.
pub fn source_hash_table(servers: &[RealServer]) -> Vec<u32> {
    deal(servers, |server| server.weight.max(1))
}

/// The table of `dh`, likewise; weights do not count, so one of weight 0 refuses as many clients
/// as others serve.
pub fn destination_hash_table(servers: &[RealServer]) -> Vec<u32> {
    deal(servers, |_| 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::service::test_server as server;

    /// The first picks of schedulers/sh-churn-w123-tcp.json, made by the kernel.
    #[test]
    fn buckets_are_the_kernels() {
        let table = source_hash_table(&[server(0, 1), server(1, 2), server(2, 3)]);
        for (client, expect) in [
            ([172, 16, 166, 110], 0),
            ([203, 0, 113, 222], 2),
            ([100, 64, 222, 123], 1),
            ([198, 51, 100, 38], 1),
            ([172, 16, 206, 46], 2),
            ([100, 64, 147, 252], 2),
            ([203, 0, 113, 212], 1),
            ([198, 51, 100, 158], 1),
            ([100, 64, 98, 247], 1),
            ([198, 51, 100, 225], 0),
            ([10, 0, 201, 51], 1),
        ] {
            assert_eq!(table[hash_bucket(client.into(), 0)], expect, "{client:?}");
        }
    }

    #[test]
    fn weight_0_keeps_a_bucket_and_draining_none() {
        let mut servers = [server(0, 1), server(1, 0)];
        assert!(source_hash_table(&servers).contains(&1));
        servers[1].state = ServerState::Draining;
        assert_eq!(source_hash_table(&servers), vec![0; HASH_BUCKETS]);
        assert!(source_hash_table(&servers[1..]).is_empty());
    }

    #[test]
    fn dh_deals_one_bucket_a_turn_whatever_the_weight() {
        let table = destination_hash_table(&[server(0, 0), server(1, 7), server(2, 1)]);
        assert_eq!(table[..5], [2, 1, 0, 2, 1]);
        assert_eq!(table.len(), HASH_BUCKETS);
    }
}
