//! The kernel's `sh` table (`ip_vs_sh.c`, 6.1): which server each of 256 buckets belongs to.

use super::service::{RealServer, ServerState};

/// Buckets of the table.
pub const SOURCE_HASH_BUCKETS: usize = 256;

/// Position in `servers` (order of adding) for each bucket; empty when no server may take flows.
///
/// Walks the kernel's list, last added first, giving each server `weight` buckets in turn; one of
/// weight 0 still gets one, and refuses its clients. A draining server gets none, as if it had
/// left: it must not refuse anybody.
pub fn source_hash_table(servers: &[RealServer]) -> Vec<u32> {
    let mut turns: Vec<(u32, u32)> = servers
        .iter()
        .enumerate()
        .filter(|(_, server)| server.state == ServerState::Active)
        .map(|(at, server)| (at as u32, server.weight.max(1)))
        .collect();
    turns.reverse();
    turns
        .iter()
        .cycle()
        .flat_map(|(at, weight)| std::iter::repeat_n(*at, *weight as usize))
        .take(SOURCE_HASH_BUCKETS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ForwardMode, NextHopId, ServerId, Tunnel};

    fn server(id: u32, weight: u32) -> RealServer {
        RealServer {
            id: ServerId(id),
            address: [10, 2, 0, 11 + id as u8].into(),
            port: 80,
            weight,
            mode: ForwardMode::DirectRoute,
            tunnel: Tunnel::default(),
            hop: NextHopId::NONE,
            state: ServerState::Active,
        }
    }

    fn hash(address: [u8; 4]) -> usize {
        (u32::from_be_bytes(address).wrapping_mul(0x61C8_8647) >> 24) as usize
    }

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
            assert_eq!(table[hash(client)], expect, "{client:?}");
        }
    }

    #[test]
    fn weight_0_keeps_a_bucket_and_draining_none() {
        let mut servers = [server(0, 1), server(1, 0)];
        assert!(source_hash_table(&servers).contains(&1));
        servers[1].state = ServerState::Draining;
        assert_eq!(source_hash_table(&servers), vec![0; SOURCE_HASH_BUCKETS]);
        assert!(source_hash_table(&servers[1..]).is_empty());
    }
}
