//! Which worker owns a flow: Toeplitz over the tuple and a redirection table.
//!
//! On ports whose RSS is programmed with the same key and table a frame on the right queue costs
//! nothing; elsewhere the same function is computed in software.

use std::net::IpAddr;

use super::family::Family;
use super::id::WorkerId;

/// What of a client's packet decides the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Client and virtual address and both ports: DR, TUN, FULLNAT. What RSS hashes.
    ClientTuple,
    /// Client address and port alone: where a server may use NAT, whose replies carry the
    /// server's address instead of the VIP.
    ClientAddressPort,
    /// Client address alone: where a connection announces another one (FTP), so that both are one
    /// worker's.
    ClientAddress,
}

/// A 52-byte Toeplitz key (the size that all common NICs take), random once, the same ever since,
/// so that side-by-side directors steer alike.
pub const TOEPLITZ_KEY_DEFAULT: [u8; 52] = [
    0x9c, 0x4b, 0x1e, 0xd3, 0x70, 0xa8, 0x25, 0xf6, 0x5b, 0x0d, 0xc1, 0x97, 0x3e, 0xe2, 0x84, 0x69,
    0xb7, 0x12, 0x5f, 0xca, 0x08, 0x93, 0xd6, 0x4d, 0xe1, 0x3a, 0x7c, 0xf0, 0x26, 0x8b, 0x59, 0xc4,
    0x1d, 0xa2, 0x6e, 0xf7, 0x41, 0x98, 0x03, 0xbc, 0xd5, 0x2f, 0x66, 0xe9, 0x14, 0x7b, 0xc8, 0x30,
    0x9d, 0x52, 0xaf, 0xe6,
];

/// Longest hashed input: two IPv6 addresses and two ports.
const INPUT_BYTES_MAX: usize = 36;

/// The owner function. Built by control, shared by all snapshots until ports or workers change.
#[derive(Clone, Debug)]
pub struct Steering {
    key: Vec<u8>,
    /// Worker by hash; the length is a power of two.
    redirection: Vec<u8>,
    /// Contribution of each byte value at each input position: the hash is linear.
    tables: Box<[[u32; 256]; INPUT_BYTES_MAX]>,
    workers: u8,
}

/// The 32 key bits that start at bit `at`.
fn key_window(key: &[u8], at: usize) -> u32 {
    let byte = |i: usize| u64::from(key.get(i).copied().unwrap_or(0));
    let first = at / 8;
    let five = (0..5).fold(0, |sum, i| sum << 8 | byte(first + i));
    (five >> (8 - at % 8)) as u32
}

impl Steering {
    /// `key` as programmed into RSS (40 or 52 bytes), `redirection` the worker of each bucket.
    ///
    /// The table's length is cut to a power of two, since hardware masks the hash; an empty table
    /// means one worker.
    pub fn new(key: &[u8], redirection: &[u8]) -> Self {
        let mut tables = Box::new([[0; 256]; INPUT_BYTES_MAX]);
        for (position, table) in tables.iter_mut().enumerate() {
            let windows: [u32; 8] =
                std::array::from_fn(|bit| key_window(key, position * 8 + 7 - bit));
            // The lowest bit's window beside what the others have already.
            for value in 1..table.len() {
                let lowest = value.trailing_zeros() as usize;
                table[value] = table[value & (value - 1)] ^ windows[lowest];
            }
        }
        let mut redirection = redirection.to_vec();
        if redirection.is_empty() {
            redirection.push(0);
        }
        redirection.truncate(1 << redirection.len().ilog2());
        let workers = redirection.iter().max().map_or(1, |max| max + 1);
        Steering { key: key.to_vec(), redirection, tables, workers }
    }

    /// The default key and 128 buckets dealt to `workers` in turn.
    pub fn for_workers(workers: u8) -> Self {
        let workers = workers.max(1);
        let redirection: Vec<u8> = (0..128u32).map(|i| (i % u32::from(workers)) as u8).collect();
        Steering::new(&TOEPLITZ_KEY_DEFAULT, &redirection)
    }

    /// The key in force.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Worker of each bucket.
    pub fn redirection(&self) -> &[u8] {
        &self.redirection
    }

    /// Workers that own flows.
    pub fn workers(&self) -> u8 {
        self.workers
    }

    /// Toeplitz hash of a tuple in the order RSS uses: source, destination, source port,
    /// destination port. Mixed families hash to 0.
    pub fn hash(&self, src: IpAddr, dst: IpAddr, src_port: u16, dst_port: u16) -> u32 {
        let address = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                self.bytes(0, &src.octets()) ^ self.bytes(4, &dst.octets())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                self.bytes(0, &src.octets()) ^ self.bytes(16, &dst.octets())
            }
            _ => return 0,
        };
        let at = if src.is_ipv4() { 8 } else { 32 };
        address
            ^ self.bytes(at, &src_port.to_be_bytes())
            ^ self.bytes(at + 2, &dst_port.to_be_bytes())
    }

    /// What the destination port alone contributes to the hash of a tuple of that family.
    pub fn dst_port_contribution(&self, family: Family, dst_port: u16) -> u32 {
        let at = match family {
            Family::V4 => 10,
            Family::V6 => 34,
        };
        self.bytes(at, &dst_port.to_be_bytes())
    }

    /// The worker whose queue a hash selects.
    pub fn worker_of_hash(&self, hash: u32) -> WorkerId {
        WorkerId(self.redirection[hash as usize & (self.redirection.len() - 1)])
    }

    /// The owner of a client's packet.
    pub fn owner(&self, kind: KeyKind, client: (IpAddr, u16), service: (IpAddr, u16)) -> WorkerId {
        if self.workers == 1 {
            return WorkerId(0);
        }
        let address = match client.0 {
            IpAddr::V4(address) => self.bytes(0, &address.octets()),
            IpAddr::V6(address) => self.bytes(0, &address.octets()),
        };
        let port_at = if client.0.is_ipv4() { 8 } else { 32 };
        let hash = match kind {
            KeyKind::ClientTuple => self.hash(client.0, service.0, client.1, service.1),
            KeyKind::ClientAddressPort => address ^ self.bytes(port_at, &client.1.to_be_bytes()),
            KeyKind::ClientAddress => address,
        };
        self.worker_of_hash(hash)
    }

    /// The worker that decides for a client network, whatever port its frames come to.
    pub fn owner_of_network(&self, network: IpAddr, salt: u16) -> WorkerId {
        let address = match network {
            IpAddr::V4(address) => self.bytes(0, &address.octets()),
            IpAddr::V6(address) => self.bytes(0, &address.octets()),
        };
        // Toeplitz leaves networks that differ in few bits near each other: their low bits, which
        // are zero, decide nothing. A multiplication spreads what is left.
        let spread = (address ^ u32::from(salt)).wrapping_mul(0x9e37_79b9);
        self.worker_of_hash(spread >> 16)
    }

    fn bytes(&self, position: usize, bytes: &[u8]) -> u32 {
        bytes
            .iter()
            .zip(&self.tables[position..])
            .fold(0, |hash, (byte, table)| hash ^ table[usize::from(*byte)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verification suite that Microsoft publishes for RSS, with its 40-byte key.
    #[test]
    fn hash_matches_the_published_rss_vectors() {
        let key = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
            0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
            0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ];
        let steering = Steering::new(&key, &[0]);
        let hash = |src: &str, dst: &str, src_port, dst_port| {
            steering.hash(src.parse().unwrap(), dst.parse().unwrap(), src_port, dst_port)
        };
        assert_eq!(hash("66.9.149.187", "161.142.100.80", 2794, 1766), 0x51cc_c178);
        assert_eq!(hash("199.92.111.2", "65.69.140.83", 14230, 4739), 0xc626_b0ea);
        assert_eq!(hash("3ffe:2501:200:1fff::7", "3ffe:2501:200:3::1", 2794, 1766), 0x4020_7d3d);
    }

    #[test]
    fn owners_spread_over_all_workers_and_repeat() {
        let steering = Steering::for_workers(3);
        let mut seen = [0u32; 3];
        for port in 0..3000u16 {
            let owner = steering.owner(
                KeyKind::ClientTuple,
                ("198.51.100.7".parse().unwrap(), port),
                ("192.0.2.80".parse().unwrap(), 80),
            );
            seen[owner.index()] += 1;
        }
        assert!(seen.iter().all(|n| *n > 700), "{seen:?}");
    }

    #[test]
    fn port_contribution_is_the_linear_part_of_the_hash() {
        let steering = Steering::for_workers(2);
        let (src, dst) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let whole = steering.hash(src, dst, 80, 4242);
        let rest = steering.hash(src, dst, 80, 0);
        assert_eq!(whole, rest ^ steering.dst_port_contribution(Family::V4, 4242));
    }
}
